"""Faults at the n-th time that a process writes below a folder: it is killed there, or the disk fails."""

from __future__ import annotations

import builtins
import datetime
import errno
import io
import os
import signal
import sys
import time
from pathlib import Path

from pyro_vae.training import report

KINDS = ("kill", "torn", "power", "full", "readonly", "broken", "short")
"""Killed before the call; in the middle of it; with loss of what was not synced; from there on no space is
left; from there on the disk is only read; one input/output error; one write that takes half of what it is
given, as a system may."""


class Shim:
    """Counts the calls that write below ``root``, and lets the ``at``-th fail as ``kind`` says (0, none).

    Of the kind ``"filled"``, ``at`` is how many bytes there is space for.
    """

    def __init__(self, root: Path, kind: str = "", at: int = 0):
        self.root, self.kind, self.at = os.path.abspath(root), kind, at
        self.space = at if kind == "filled" else sys.maxsize
        self.count, self.open, self.dirty = 0, {}, set()
        self.real = {name: getattr(os, name) for name in _CALLS}
        self.real_open = io.open

    def install(self) -> None:
        """From here on; for a process that ends with it."""
        os.open = self._os_open
        os.write = self._os_write
        os.fsync = self._os_fsync
        os.close = self._os_close
        for name in ("replace", "rename", "link", "unlink", "remove", "mkdir", "rmdir"):
            setattr(os, name, self._naming(name))
        builtins.open = io.open = self._open

    def below(self, path) -> bool:
        return isinstance(path, str | Path) and os.path.abspath(path).startswith(self.root)

    def event(self, *path, half=lambda: None, allocates: bool = True) -> bool:
        """Before a call, of which a path is told where it takes one; whether it is to be done by half."""
        self.count += 1
        if self.kind == "full" and 0 < self.at <= self.count and allocates:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *path)
        if self.kind == "readonly" and 0 < self.at <= self.count:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), *path)
        if self.kind == "filled":
            return False
        if self.count != self.at:
            return False
        if self.kind == "broken":
            raise OSError(errno.EIO, os.strerror(errno.EIO), *path)
        if self.kind == "torn":
            half()
        if self.kind == "power":
            for path in self.dirty:
                if os.path.exists(path):
                    os.truncate(path, 0)
        if self.kind in ("kill", "torn", "power"):
            os.kill(os.getpid(), signal.SIGKILL)
        return self.kind == "short"

    def _os_open(self, path, flags, *args, **keywords):
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR)) and self.below(path)
        if writes:
            self.event(path)
        descriptor = self.real["open"](path, flags, *args, **keywords)
        if writes:
            self.open[descriptor] = os.path.abspath(path)
        return descriptor

    def _os_close(self, descriptor):
        self.open.pop(descriptor, None)
        return self.real["close"](descriptor)

    def _os_write(self, descriptor, data):
        if descriptor in self.open:
            half = bytes(data)[: len(data) // 2 or len(data)]
            if self.event(half=lambda: self.real["write"](descriptor, half)):
                data = half
            data = self._fitting(data)
            self.dirty.add(self.open[descriptor])
        return self.real["write"](descriptor, data)

    def _fitting(self, data):
        """What there is space for of what is written, in bytes or in a text."""
        taken = data[: self.space]
        self.space -= len(taken)
        if len(data) and not len(taken):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return taken

    def _os_fsync(self, descriptor):
        if descriptor in self.open:
            self.event()
            self.dirty.discard(self.open[descriptor])
        return self.real["fsync"](descriptor)

    def _naming(self, name):
        def call(path, *others, **keywords):
            if self.below(path):
                self.event(path, allocates=name in ("mkdir", "link"))
                if name in ("replace", "rename") and (source := os.path.abspath(path)) in self.dirty:
                    self.dirty.add(os.path.abspath(others[0]))
                    self.dirty.discard(source)
            return self.real[name](path, *others, **keywords)

        return call

    def _open(self, path, mode="r", *args, **keywords):
        if not (set(mode) & set("wax+") and self.below(path)):
            return self.real_open(path, mode, *args, **keywords)
        self.event(path)
        return _File(self, os.path.abspath(path), self.real_open(path, mode, *args, **keywords))


_CALLS = (
    "open",
    "write",
    "fsync",
    "close",
    "replace",
    "rename",
    "link",
    "unlink",
    "remove",
    "mkdir",
    "rmdir",
)


class _File:
    """A file whose writes count."""

    def __init__(self, shim: Shim, path: str, file):
        self._shim, self._path, self._file = shim, path, file
        shim.open[file.fileno()] = path

    def write(self, data):
        def half():
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        self._shim.event(half=half)  # a buffered file writes on where the system takes half
        self._shim.dirty.add(self._path)
        return self._file.write(self._shim._fitting(data))

    def flush(self):
        self._shim.event()
        self._file.flush()

    def close(self):
        if not self._file.closed:
            self._shim.open.pop(self._file.fileno(), None)
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def __iter__(self):
        return iter(self._file)


class Clocks:
    """The time of day and the steady clock, which may jump by so many hours, forward or back."""

    def __init__(self) -> None:
        self.hours = {"day": 0.0, "steady": 0.0}

    def install(self) -> None:
        """From here on; for a process that ends with it."""
        day, day_ns, steady = time.time, time.time_ns, time.monotonic
        clocks = self

        class Now(datetime.datetime):
            @classmethod
            def now(cls, tz=None):
                return super().now(tz) + datetime.timedelta(hours=clocks.hours["day"])

        time.time = lambda: day() + 3600 * clocks.hours["day"]
        time.time_ns = lambda: day_ns() + int(3.6e12 * clocks.hours["day"])
        time.monotonic = lambda: steady() + 3600 * clocks.hours["steady"]
        report.datetime = Now
