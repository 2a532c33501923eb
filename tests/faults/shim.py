"""Faults at the n-th time that a process writes below a folder: it is killed there, or the disk fails."""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
from pathlib import Path

KINDS = ("kill", "torn", "power", "full", "broken", "short")
"""Killed before the call; in the middle of it; with loss of what was not synced; from there on no space is
left; one input/output error; one write that takes half of what it is given, as a system may."""


class Shim:
    """Counts the calls that write below ``root``, and lets the ``at``-th fail as ``kind`` says (0, none)."""

    def __init__(self, root: Path, kind: str = "", at: int = 0):
        self.root, self.kind, self.at = os.path.abspath(root), kind, at
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
            self.dirty.add(self.open[descriptor])
        return self.real["write"](descriptor, data)

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
        return self._file.write(data)

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
