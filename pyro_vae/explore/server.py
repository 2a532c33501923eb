"""A page served by this machine to itself, and what it asks for, one question at a time.

Python's own ``http.server``: a page, and questions in JSON from one reader, are all that it has to serve, so
that nothing of a larger server would be used, and nothing more has to be installed or kept up.

Handlers' threads read and wait; whoever called ``serve`` answers, so that all is computed by one thread, in
the order in which it was asked.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import queue
import secrets
import socket
import socketserver
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pyro_vae.checks import ConfigError
from pyro_vae.data import DataError

HOST = "127.0.0.1"
LARGEST = 4_000_000
"""Bytes of a question."""
CONNECTIONS, WAITING = 24, 32
"""At once; and questions that wait for an answer."""
PATIENCE = 10.0
"""Seconds after which a connection that says nothing, or has not yet said all of a question, is closed."""
LEAVING, LOADING, IDLE = 4.0, 20.0, 1800.0
"""Seconds without a question, after which the server ends: since a page was closed; since a page was sent,
though another be closed meanwhile, as when it is loaded anew; and in any case (an open page asks each
minute)."""

Answer = Callable[[Mapping[str, Any]], Any]


class Server(ThreadingHTTPServer):
    """Serves one page and its questions, to this machine alone, until the page is closed.

    Args:
        page: makes the page, of the token that its questions are to have, and the nonce of its scripts.
        answers: by name of a question, a function of its JSON to JSON.
        port: to listen at; 0 for any that is free.

    Raises:
        ConfigError: the port is taken.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, page: Callable[[str, str], str], answers: Mapping[str, Answer], port: int = 0):
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"port={port} cannot be listened at ({error}); port=0 takes a free one"
            ) from error
        self.token = secrets.token_urlsafe(24)
        self.nonce = secrets.token_urlsafe(16)
        self.page, self.answers = page(self.token, self.nonce).encode(), answers
        self.hosts = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}
        self.questions: queue.Queue[tuple[str, Any, Future[Any]]] = queue.Queue(WAITING)
        self.ends_at, self.sent_at = time.monotonic() + IDLE, -LOADING
        self._places = threading.BoundedSemaphore(CONNECTIONS)
        self.listening: dict[socket.socket, float] = {}

    def server_bind(self) -> None:
        """Without looking up the machine's name, which may take long where there is no network."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/?token={self.token}"

    def serve(self) -> None:
        """Answers questions until the page was closed, or nobody has asked for half an hour."""
        threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True).start()
        try:
            while time.monotonic() < self.ends_at:
                try:
                    self._answer(*self.questions.get(timeout=0.2))
                except queue.Empty:
                    continue
        finally:
            self.shutdown()
            self.server_close()
            while not self.questions.empty():  # nobody will answer them
                self.questions.get()[2].cancel()

    def ask(self, name: str, values: Any) -> Any:
        """Of a handler: waits for the answer.

        Raises:
            queue.Full: too many are waiting.
        """
        answered: Future[Any] = Future()
        self.questions.put_nowait((name, values, answered))
        return answered.result(timeout=300)

    def _answer(self, name: str, values: Any, answered: Future[Any]) -> None:
        try:
            answered.set_result(self.answers[name](values))
        except Exception as error:  # which the page tells, and goes on
            answered.set_exception(error)

    def heard(self, leaving: bool = False) -> None:
        """Puts off the end, or brings it near."""
        now = time.monotonic()
        self.ends_at = max(now + LEAVING, self.sent_at + LOADING) if leaving else now + IDLE

    def service_actions(self) -> None:
        """Closes connections that send a question byte by byte, each in time."""
        for connection, since in list(self.listening.items()):
            if time.monotonic() - since > _Handler.timeout:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Closes a connection at once, where there are too many."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: a reader that went away is no fault."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "pyro_vae", ""
    timeout = PATIENCE
    disable_nagle_algorithm = True  # else an answer waits 40 ms, until its headers are acknowledged

    def handle_one_request(self) -> None:
        self.server.listening[self.connection] = time.monotonic()
        try:
            super().handle_one_request()
        finally:
            self.server.listening.pop(self.connection, None)

    def do_GET(self) -> None:
        self.server.listening.pop(self.connection, None)
        if not self._is_ours():
            return
        where = urlsplit(self.path)
        if where.path != "/":
            self._refuse(404, "there is one page here, at /")
        elif not self._knows(parse_qs(where.query).get("token", [""])[0]):
            self._refuse(403, "open the address that was printed, with its token")
        else:
            self.server.heard()
            self.server.sent_at = time.monotonic()
            self._send(200, self.server.page, "text/html; charset=utf-8")

    def do_POST(self) -> None:
        if not self._is_ours():
            return
        code, answer = self._answer(self.path.removeprefix("/"))
        if code != 200:
            self._refuse(code, answer)
            return
        content = json.dumps(answer, allow_nan=False, separators=(",", ":")).encode()
        self._send(200, content, "application/json")

    def _answer(self, name: str) -> tuple[int, Any]:
        """The answer to a question, or why there is none, and the code that says which."""
        if name not in self.server.answers and name not in ("here", "leave"):
            return 404, "no such question"
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or "Transfer-Encoding" in self.headers:
            return 411, "a question tells its length"
        if len(length) > 9 or int(length) > LARGEST:
            return 413, f"a question has up to {LARGEST} bytes"
        try:
            text = self.rfile.read(int(length))
            self.server.listening.pop(self.connection, None)
            values = json.loads(text, parse_constant=_no_number)
            if not isinstance(values, dict):
                raise ValueError
        except (ValueError, RecursionError):
            return 400, "a question is a JSON object"
        if not self._knows(values.pop("token", "")):
            return 403, "the token is that of another page; open the address that was printed"
        self.server.heard(leaving=name == "leave")
        if name in ("here", "leave"):
            return 200, {}
        try:
            return 200, self.server.ask(name, values)
        except queue.Full:
            return 503, "too many questions wait for an answer"
        except (ConfigError, DataError, ValueError, RuntimeError) as error:
            return 400, str(error).split("\n")[0][:500]
        except Exception as error:
            traceback.print_exception(error)
            return 500, f"a mistake in the package itself: {type(error).__name__}"

    def _is_ours(self) -> bool:
        """Refuses what another page in this browser, or a name that leads here, may have sent."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if host in self.server.hosts and origin in (None, f"http://{host}"):
            return True
        self._refuse(403, "this page is for this machine alone")
        return False

    def _knows(self, token: Any) -> bool:
        return hmac.compare_digest(str(token).encode(errors="replace"), self.server.token.encode())

    def _refuse(self, code: int, message: str) -> None:
        self.close_connection = True
        self._send(code, json.dumps({"error": message}).encode(), "application/json")

    def _send(self, code: int, content: bytes, kind: str) -> None:
        self.send_response(code)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Content-Security-Policy": (
                f"default-src 'none'; script-src 'nonce-{self.server.nonce}'; "
                f"style-src 'nonce-{self.server.nonce}'; img-src data:; connect-src 'self'; "
                "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            ),
        }.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


def _no_number(text: str) -> float:
    raise ValueError(text)
