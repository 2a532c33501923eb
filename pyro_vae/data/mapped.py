"""Memory-mapped arrays: rows of a ``.npy`` file, or of a user's own map."""

from __future__ import annotations

import mmap
import os
from typing import Any

import numpy as np

from pyro_vae.data.source import DataError, OnDisk

_AROUND = 2**16
"""Bytes that the system maps around each row that is read by itself."""
_MAPPED = 2**27
"""Mapped bytes from which on they are given back: they would add up to the whole of the file."""
_FURTHER = 2**22
"""Bytes that are asked for beyond rows that lie side by side, since the next ones follow them."""

Written = tuple[int, int]
"""A file's number, and when it was last written to."""


class Mapped(OnDisk):
    """A memory-mapped array.

    Each ``read`` looks first whether the file is as it was. A file that is cut short while rows are being
    read cannot be caught: the system then ends the process (SIGBUS).

    Pages stay in the system's cache as long as there is room for them, and in the process's own memory for a
    few batches.

    Raises:
        DataError: the values of a row lie all over the file, so that each read would take much of it.
    """

    def __init__(self, values: np.memmap):
        self.values = values
        self.shape, self.path = tuple(values.shape), str(values.filename)
        self.dtype = values.dtype.newbyteorder("=")
        steps = zip(values.shape[1:], values.strides[1:], strict=True)
        whole = abs(values.strides[0]) * len(values)
        if len(values) > 1 and sum((size - 1) * abs(step) for size, step in steps) >= whole:
            raise DataError(
                f"{self.path} is in Fortran order, in which the values of a row lie all over the file; write "
                "it row by row: x = np.load(path, mmap_mode='r'); y = np.lib.format.open_memmap('rows.npy', "
                "'w+', x.dtype, x.shape); for i in range(len(x)): y[i] = x[i]"
            )
        self.opened = written(values)
        self._held = 0
        self._advise("MADV_RANDOM")  # or the system would read 128 KiB for each row

    def read(self, rows: np.ndarray) -> np.ndarray:
        """``[B, *event_shape]``, read in the order of the file.

        Raises:
            DataError: the file was written to since it was opened.
        """
        if written(self.values, self.opened) != self.opened:
            raise DataError(
                f"{self.path} was written to after it had been opened; load the data again, and leave the "
                "file alone while they are in use"
            )
        by_place, stride = np.argsort(rows), self.values.strides[0]
        ordered = rows[by_place]
        size = stride * int(ordered[-1] - ordered[0] + 1) if len(rows) else 0
        if 0 < size <= 2 * stride * len(rows):
            self._advise("MADV_WILLNEED", stride * int(ordered[0]), size + _FURTHER)
        x = np.empty((len(rows), *self.shape[1:]), self.dtype)
        x[by_place] = np.take(self.values, ordered, 0)
        self._held += max(x.nbytes, _AROUND * len(rows))
        if self._held > _MAPPED and _whole(self.values).mode != "c":  # whose changes are kept nowhere else
            self._held = 0
            self._advise("MADV_DONTNEED")
        return x

    def _advise(self, advice: str, start: int | None = None, size: int = 0) -> None:
        """Tells the system, where it can be told, how this many bytes from a place on are read, or all."""
        if not hasattr(mmap, advice):  # Windows
            return
        base = _whole(self.values)
        whole: Any = base.base
        if start is None:
            whole.madvise(getattr(mmap, advice))
            return
        begin = self.values.ctypes.data - base.ctypes.data + base.offset % mmap.ALLOCATIONGRANULARITY + start
        begin -= begin % mmap.PAGESIZE
        whole.madvise(getattr(mmap, advice), begin, min(size, len(whole) - begin))


def mapped(values: Any) -> Any:
    """A memory-mapped array as one on disk, and anything else as it is."""
    return Mapped(values) if isinstance(values, np.memmap) else values


def written(values: np.memmap, opened: Written | None = None) -> Written | None:
    """Which file is mapped, and when it was last written to (ns), if it is not mapped to be written to.

    Where the file is gone, or another has its name, that is ``opened``: the map keeps what it was made of.

    Raises:
        DataError: it is shorter than its map, of which no row may be read: that ends the process (SIGBUS).
    """
    base = _whole(values)
    try:
        found = os.stat(base.filename or "")
    except OSError:
        return opened
    if opened is not None and found.st_ino != opened[0]:
        return opened
    if found.st_size < base.offset + base.nbytes:
        raise DataError(
            f"{base.filename} was cut short while it was in use, to {found.st_size} of "
            f"{base.offset + base.nbytes} bytes; restore it, and load the data again"
        )
    return found.st_ino, found.st_mtime_ns if base.mode == "r" else 0


def _whole(values: np.memmap) -> np.memmap:
    """The map that a view is of."""
    while isinstance(values.base, np.memmap):
        values = values.base
    return values
