"""Mutations of bytes, some of which know how a format is made, so that they get past its checksums."""

from __future__ import annotations

import io
import random
import re
import struct
import zipfile
import zlib

_WORDS = [0, 1, 2, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1]
_NUMBERS = [
    b"-1",
    b"0",
    b"1",
    b"3",
    b"255",
    b"65536",
    b"4294967296",
    b"9" * 30,
    b"9" * 5000,
    b"1e999",
    b"nan",
]
_TOKENS = [
    *(b"'<f8'", b"'>i2'", b"'|u1'", b"'<f2'", b"'<c16'", b"'|O'", b"'<M8[s]'", b"'|b1'", b"'<U5'", b"'|V8'"),
    *(
        b"True",
        b"False",
        b"None",
        b"(",
        b")",
        b"[",
        b"]",
        b"{",
        b"}",
        b",",
        b":",
        b"=",
        b"-",
        b"*",
        b"**",
        b"'",
    ),
    *(
        b"\n",
        b"\0",
        b"  ",
        b".",
        b"lambda: 0",
        b"__import__('canary')",
        b"canary.fire()",
        b"os.system",
        b"eval",
    ),
    *(b"!!python/name:canary.fire", b"&a [*a]", b"<<: *a", b"inf", b".inf", b"0x" + b"f" * 5000, b"1" * 70),
    *(
        "\uff2eormal".encode(),
        "\u202e".encode(),
        b"\xff\xfe",
        b"(" * 400,
        b"[" * 3000,
        b"a." * 2000,
        b"Normal",
    ),
]


def mutate(data: bytes, others: list[bytes], random: random.Random) -> bytes:
    """One input changed at one to four places, within its format's packaging as often as without."""
    if random.random() < 0.6:
        for start, change in ((b"PK", _in_zip), (b"\x89PNG", _in_png), (b"\x93NUMPY", _in_npy)):
            if data.startswith(start):
                return change(data, others, random)
    for _ in range(random.choice([1, 1, 2, 4])):
        data = random.choice(_CHANGES)(data, others, random)
    return data[:300_000]


def _at(data: bytes, random: random.Random) -> int:
    """A place, near the start as often as anywhere, as headers lie there."""
    return random.randrange(1 + (min(len(data), 128) if random.random() < 0.5 else len(data)))


def _flip(data: bytes, others: list[bytes], random: random.Random) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(random.choice([1, 1, 1, 8])):
        changed[min(_at(data, random), len(changed) - 1)] ^= 1 << random.randrange(8)
    return bytes(changed)


def _truncate(data: bytes, others: list[bytes], random: random.Random) -> bytes:
    return data[: _at(data, random)]


def _insert(data: bytes, others: list[bytes], random: random.Random) -> bytes:
    at = _at(data, random)
    new = random.choice(
        [random.randbytes(random.randrange(1, 40)), bytes(random.randrange(1, 200)), b"\xff" * 8]
    )
    return data[:at] + new + data[at:]


def _token(data: bytes, others: list[bytes], random: random.Random) -> bytes:
    at = _at(data, random)
    return data[:at] + random.choice(_TOKENS) + data[at + random.choice([0, 0, 1, 5]) :]


def _delete(data: bytes, others: list[bytes], random: random.Random) -> bytes:
    at = _at(data, random)
    return data[:at] + data[at + random.choice([1, 2, 8, 100]) :]


def _repeat(data: bytes, others: list[bytes], random: random.Random) -> bytes:
    at, size = _at(data, random), random.randrange(1, 60)
    return data[:at] + data[at : at + size] * random.choice([2, 3, 500]) + data[at + size :]


def _splice(data: bytes, others: list[bytes], random: random.Random) -> bytes:
    other = random.choice(others)
    return data[: _at(data, random)] + other[_at(other, random) :]


def _word(data: bytes, others: list[bytes], random: random.Random) -> bytes:
    at, code = _at(data, random), random.choice(["<B", "<H", ">H", "<I", ">I", "<Q", ">Q"])
    size = struct.calcsize(code)
    return data[:at] + struct.pack(code, random.choice(_WORDS) % 256**size) + data[at + size :]


def _number(data: bytes, others: list[bytes], random: random.Random) -> bytes:
    found = list(re.finditer(rb"[0-9]+", data[:2000]))
    if not found:
        return data
    one = random.choice(found)
    return data[: one.start()] + random.choice(_NUMBERS) + data[one.end() :]


_CHANGES = [_flip, _truncate, _insert, _token, _delete, _repeat, _splice, _word, _number]


def _in_npy(data: bytes, others: list[bytes], random: random.Random) -> bytes:
    """Edits the text of the header, whose length is put right again."""
    size = int.from_bytes(data[8:10], "little")
    header, values = data[10 : 10 + size], data[10 + size :]
    header = random.choice([_number, _number, _token, _delete, _repeat])(header, others, random)[:60_000]
    return data[:8] + len(header).to_bytes(2, "little") + header + values


def _in_zip(data: bytes, others: list[bytes], random: random.Random) -> bytes:
    """Changes a member, drops it, or adds it twice; the checksums are right again."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if any(item.file_size > 2**20 for item in archive.infolist()):
            return _word(data, others, random)
        members = [(item.filename, archive.read(item)) for item in archive.infolist()]
    which = random.randrange(len(members))
    name, content = members[which]
    way = random.random()
    if way < 0.1:
        del members[which]
    elif way < 0.2:
        members.append((random.choice([name + "2", "y.npy", "labels.npy", "../x.npy"]), content))
    else:
        members[which] = name, mutate(content, [content], random)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", random.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return packed.getvalue()


def _in_png(data: bytes, others: list[bytes], random: random.Random) -> bytes:
    """Changes one chunk, pixels before they are packed as often as after; the checksums are right again."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    which = random.randrange(len(chunks))
    kind, content = chunks[which]
    if kind == b"IDAT" and random.random() < 0.5:
        content = zlib.compress(_flip(zlib.decompress(content), others, random))
    else:
        content = random.choice([_flip, _word, _insert, _truncate, _repeat])(content, others, random)
    chunks[which] = kind, content
    return data[:8] + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
