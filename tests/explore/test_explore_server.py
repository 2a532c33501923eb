"""The server answers its own page and nobody else, whatever is sent to it, and ends when it should."""

import http.client
import json
import socket
import threading
import time

import pytest

from pyro_vae.checks import ConfigError
from pyro_vae.data import DataError
from pyro_vae.explore import server as module
from pyro_vae.explore.server import Server


def refuses(values):
    raise DataError("x is none,\nand more that is not told")


def breaks(values):
    raise KeyError("a mistake")


@pytest.fixture
def served():
    """A server whose questions are answered by a thread of the test's."""
    seen = []

    def echo(values):
        seen.append((values.get("number"), threading.get_ident()))
        time.sleep(values.get("seconds", 0))
        return {"echo": values}

    server = Server(
        lambda token, nonce: f"<html>{token} {nonce}</html>",
        {"echo": echo, "refuses": refuses, "breaks": breaks},
    )
    thread = threading.Thread(target=server.serve)
    thread.start()
    server.seen, server.thread = seen, thread
    yield server
    server.ends_at = 0.0
    thread.join(10)
    assert not thread.is_alive()


def send(server, method="POST", path="/echo", body=None, token=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    try:
        if isinstance(body, dict):
            body = json.dumps({"token": server.token if token is None else token} | body)
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in ({"Content-Length": str(len(body or ""))} | headers).items():
            if value is not None:
                connection.putheader(name.replace("_", "-"), value)
        connection.endheaders((body or "").encode() or None)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), dict(answer.getheaders())
    finally:
        connection.close()


def test_the_page_and_a_question(served):
    status, text, headers = send(served, "GET", f"/?token={served.token}")
    assert status == 200
    assert served.token in text
    assert served.nonce in headers["Content-Security-Policy"]
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert served.address == f"http://127.0.0.1:{served.server_port}/?token={served.token}"
    assert json.loads(send(served, body={"number": 3})[1]) == {"echo": {"number": 3}}
    assert served.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    "host", ["example.org", "127.0.0.1", "localhost:1", "127.0.0.1.example.org:{port}", "", "[::1]:{port}"]
)
def test_other_hosts_are_refused(served, host):
    host = host.format(port=served.server_port)
    for method, path in (("GET", f"/?token={served.token}"), ("POST", "/echo")):
        status, text, _ = send(served, method, path, body={}, Host=host)
        assert status == 403
        assert served.token not in text
    assert send(served, body={}, Host=f"localhost:{served.server_port}")[0] == 200


@pytest.mark.parametrize(
    "origin",
    [
        "http://example.org",
        "null",
        "https://127.0.0.1:{port}",
        "http://127.0.0.1:1",
        "http://localhost:{port}",
    ],
)
def test_other_origins_are_refused(served, origin):
    assert send(served, body={}, Origin=origin.format(port=served.server_port))[0] == 403
    assert send(served, body={}, Origin=f"http://127.0.0.1:{served.server_port}")[0] == 200


@pytest.mark.parametrize("token", ["", "x", "é", "\ud800", None, 3, ["a"], {"a": 1}, "t" * 10_000])
def test_other_tokens_are_refused(served, token):
    body = json.dumps({"token": token})
    assert send(served, body=body)[0] == 403
    assert send(served, "GET", "/")[0] == 403
    assert send(served, "GET", "/?token=x")[0] == 403
    assert not served.seen


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "//etc/passwd",
        "/%2e%2e/etc/passwd",
        "/page.js",
        "/echo/",
        "/echo?x=1",
        "/Echo",
        "/__class__",
        "/ech%6f",
        "*",
        "/" + "a" * 5000,
    ],
)
def test_there_are_no_other_paths(served, path):
    for method in ("GET", "POST"):
        status, text, _ = send(served, method, path, body={})
        assert status in (400, 404)
        assert "root:" not in text
    assert send(served, body={})[0] == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "HEAD", "TRACE", "CONNECT", "FOO"])
def test_there_are_no_other_methods(served, method):
    assert send(served, method, "/echo", body={})[0] == 501


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ("{}", {"Content-Length": str(module.LARGEST + 1)}, 413),
        ("{}", {"Content-Length": str(10**30)}, 413),
        ("{}", {"Content-Length": "9" * 5000}, 413),
        ("{}", {"Content-Length": "-1"}, 411),
        ("{}", {"Content-Length": "2, 2"}, 411),
        ("{}", {"Content-Length": None}, 411),
        ("2\r\n{}\r\n0\r\n\r\n", {"Transfer_Encoding": "chunked"}, 411),
        ("[1]", {}, 400),
        ("", {}, 400),
        ('{"token": NaN}', {}, 400),
        ('{"token": 1e', {}, 400),
        ("[" * 100_000, {}, 400),
        ('{"token":' * 50_000, {}, 400),
    ],
)
def test_what_is_no_question_is_refused(served, body, headers, status):
    assert send(served, body=body, **headers)[0] == status
    assert send(served, body={})[0] == 200


def test_a_mistake_is_told_and_the_rest_goes_on(served, capsys):
    status, text, _ = send(served, path="/refuses", body={})
    assert (status, json.loads(text)) == (400, {"error": "x is none,"})
    status, text, _ = send(served, path="/breaks", body={})
    assert (status, json.loads(text)) == (500, {"error": "a mistake in the package itself: KeyError"})
    assert "KeyError: 'a mistake'" in capsys.readouterr().err
    assert send(served, body={})[0] == 200


def test_answers_come_one_at_a_time_from_one_thread(served):
    threads = [
        threading.Thread(target=send, args=(served,), kwargs={"body": {"number": i, "seconds": 0.02}})
        for i in range(12)
    ]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began > 12 * 0.02
    assert {who for _, who in served.seen} == {served.thread.ident}
    assert sorted(number for number, _ in served.seen) == list(range(12))


def test_an_answer_does_not_wait_until_its_headers_are_acknowledged(served, monkeypatch):
    """For which a system takes 40 ms: more than all the rest."""
    own, at_once = module._Handler._send, []

    def send_and_look(handler, *given):
        at_once.append(handler.connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        own(handler, *given)

    monkeypatch.setattr(module._Handler, "_send", send_and_look)
    assert send(served, body={})[0] == 200
    assert at_once
    assert all(at_once)


def test_two_stand_side_by_side(served):
    """Each knows its own page alone, and ends by itself."""
    other = Server(lambda token, nonce: "", {"echo": lambda values: {"other": True}})
    thread = threading.Thread(target=other.serve)
    thread.start()
    try:
        assert json.loads(send(other, body={})[1]) == {"other": True}
        assert json.loads(send(served, body={})[1]) == {"echo": {}}
        assert send(other, body={}, token=served.token)[0] == 403
        assert send(other, body={}, Origin=f"http://127.0.0.1:{served.server_port}")[0] == 403
    finally:
        other.ends_at = 0.0
        thread.join(10)
    assert not thread.is_alive()
    assert send(served, body={})[0] == 200


def test_hundreds_of_connections_leave_it_up(served):
    idle = [socket.create_connection(("127.0.0.1", served.server_port)) for _ in range(300)]
    try:
        deadline = time.monotonic() + 20
        closed = 0
        while closed < 300 - module.CONNECTIONS and time.monotonic() < deadline:
            closed = 0
            for one in idle:
                one.settimeout(0)
                try:
                    closed += one.recv(1) == b""
                except BlockingIOError:
                    pass
                except ConnectionError:
                    closed += 1
        assert closed == 300 - module.CONNECTIONS
        assert threading.active_count() < module.CONNECTIONS + 20
    finally:
        for one in idle:
            one.close()
    deadline = time.monotonic() + 5
    while True:  # until the places are free again
        try:
            assert send(served, body={})[0] == 200
            break
        except (ConnectionError, http.client.HTTPException):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_who_says_nothing_is_left(served, monkeypatch):
    monkeypatch.setattr(module._Handler, "timeout", 0.2)
    for said in (
        b"",
        b"POST /echo HTTP/1.1\r\n",
        f"POST /echo HTTP/1.1\r\nHost: 127.0.0.1:{served.server_port}\r\n".encode(),
        f"POST /echo HTTP/1.1\r\nHost: 127.0.0.1:{served.server_port}\r\nContent-Length: 9\r\n\r\n".encode(),
    ):
        with socket.create_connection(("127.0.0.1", served.server_port), timeout=5) as one:
            one.sendall(said)
            while one.recv(1000):
                pass
    assert send(served, body={})[0] == 200


def test_who_speaks_byte_by_byte_is_left(served, monkeypatch):
    """Though each byte comes in time; and an answer that takes long is waited for."""
    monkeypatch.setattr(module._Handler, "timeout", 0.6)
    head = f"POST /echo HTTP/1.1\r\nHost: 127.0.0.1:{served.server_port}\r\nContent-Length: 9000\r\n\r\n"
    for said in (head[:20], head):
        with socket.create_connection(("127.0.0.1", served.server_port), timeout=5) as one:
            one.sendall(said.encode())
            one.settimeout(0.1)
            began = time.monotonic()
            while time.monotonic() - began < 8:
                try:
                    one.sendall(b"x")
                    if not one.recv(1000):
                        break
                except TimeoutError:
                    continue
                except ConnectionError:
                    break
            assert 0.4 < time.monotonic() - began < 4
    assert send(served, body={"seconds": 1.2})[0] == 200
    time.sleep(1.0)
    assert not served.listening


def test_it_ends_after_the_page_was_closed(served, monkeypatch):
    monkeypatch.setattr(module, "LEAVING", 0.5)
    assert send(served, path="/leave", body={})[0] == 200
    assert send(served, path="/here", body={})[0] == 200  # it was loaded anew
    served.thread.join(1.0)
    assert served.thread.is_alive()
    assert send(served, path="/leave", body={}, token="x")[0] == 403
    served.thread.join(1.0)
    assert served.thread.is_alive()
    send(served, path="/leave", body={})
    served.thread.join(5)
    assert not served.thread.is_alive()
    with pytest.raises(ConnectionError):
        send(served, body={})


def test_a_page_that_is_loaded_anew_is_waited_for(served, monkeypatch):
    """Which is sent before the old one tells that it is closed."""
    monkeypatch.setattr(module, "LEAVING", 0.1)
    send(served, "GET", f"/?token={served.token}")
    send(served, path="/leave", body={})
    served.thread.join(1.0)
    assert served.thread.is_alive()


def test_it_ends_when_nobody_asks(monkeypatch):
    monkeypatch.setattr(module, "IDLE", 0.3)
    server = Server(lambda token, nonce: "", {})
    began = time.monotonic()
    server.serve()
    assert 0.2 < time.monotonic() - began < 5


def test_a_port_that_is_taken_is_told(served):
    with pytest.raises(ConfigError, match=rf"port={served.server_port} cannot be listened at"):
        Server(lambda token, nonce: "", {}, port=served.server_port)
    with pytest.raises(ConfigError, match="port=99999 cannot"):
        Server(lambda token, nonce: "", {}, port=99999)
