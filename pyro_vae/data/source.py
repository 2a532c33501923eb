"""Numbers of one site, by index: in memory, or memory-mapped where they are larger than it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray | Tensor
Index = slice | Tensor
Statistics = tuple[Tensor, Tensor, float, float, float]
"""Mean and standard deviation of each element, range, and share of missing values."""
Written = tuple[int, int]
"""A file's number, and when it was last written to."""


class DataError(ValueError):
    """The data cannot be used as they are; the message says what was found and how to mend it."""


def shown(value: Any) -> str:
    """A value as it stands in a message: its repr on one line, cut short, whatever its repr raises."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # of a number of 5,000 digits, say
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 80 else f"{text[:77]}..."


def called(name: str) -> str:
    """A column in a message, by its name, on one line."""
    return f"column {name if name.isprintable() else shown(name)}"


def reason(error: BaseException) -> str:
    """What an error says, as a part of a sentence: its first line, cut short."""
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__


def memory() -> float:
    """Bytes that data may take: half of the machine's memory, where the system tells it."""
    if not hasattr(os, "sysconf"):  # Windows
        return math.inf
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2


class Memory:
    """A tensor ``[N, *event_shape]``, divided by a number as it is taken."""

    order: Tensor | None = None

    def __init__(self, values: Tensor, divisor: float = 1.0):
        self.values = values
        self.divisor = divisor
        self.event_shape = tuple(values.shape[1:])
        self.floating = values.is_floating_point()

    def __len__(self) -> int:
        return len(self.values)

    def take(self, index: Index, dtype: torch.dtype) -> Tensor:
        """``[B, *event_shape]``, where the values are."""
        if isinstance(index, Tensor):
            return _scaled(self.values.index_select(0, index.to(self.values.device)), dtype, self.divisor)
        return _scaled(self.values[index], dtype, self.divisor)

    def to(self, device: torch.device) -> None:
        """Moves its tensors."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))


class File:
    """Rows of a memory-mapped array (None for all), divided and passed through ``binary`` as they are read.

    Each ``take`` looks first whether the file is as it was. A file that is cut short while rows are being
    read cannot be caught: the system then ends the process (SIGBUS).

    Attributes:
        binary: of grey values and the rows that they are of, if any.
        order: indices ``[N]`` in the file's own order, in which it is read fastest.
    """

    binary: Callable[[Tensor, np.ndarray], Tensor] | None = None

    def __init__(self, values: np.memmap, divisor: float = 1.0, rows: np.ndarray | None = None):
        self.values = values
        self.opened = written(values)
        self.divisor = divisor
        self.rows = np.arange(len(values)) if rows is None else rows
        self.event_shape = tuple(values.shape[1:])
        self.floating = values.dtype.kind == "f"
        self.order = torch.from_numpy(np.argsort(self.rows))
        self.device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: Index, dtype: torch.dtype) -> Tensor:
        """``[B, *event_shape]`` on its device; drawn on the processor, where draws are the same for all.

        Raises:
            DataError: the file was written to since it was opened.
        """
        if written(self.values, self.opened) != self.opened:
            raise DataError(
                f"{self.values.filename} was written to after it had been opened; load the data again, and "
                "leave the file alone while they are in use"
            )
        rows = self.rows[index if isinstance(index, slice) else index.cpu().numpy()]
        by_place = np.argsort(rows)
        x = np.empty((len(rows), *self.event_shape), self.values.dtype)
        x[by_place] = self.values[rows[by_place]]
        grey = _scaled(torch.from_numpy(x), dtype, self.divisor)
        return (grey if self.binary is None else self.binary(grey, rows).to(dtype)).to(self.device)

    def to(self, device: torch.device) -> None:
        """Where to take to."""
        self.device = device


Source = Memory | File


def written(values: np.memmap, opened: Written | None = None) -> Written | None:
    """Which file is mapped, and when it was last written to (ns), if it is not mapped to be written to.

    Where the file is gone, or another has its name, that is ``opened``: the map keeps what it was made of.

    Raises:
        DataError: it is shorter than its map, of which no row may be read: that ends the process (SIGBUS).
    """
    base = values
    while isinstance(base.base, np.memmap):  # of a view
        base = base.base
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


def _scaled(x: Tensor, dtype: torch.dtype, divisor: float) -> Tensor:
    x = x.to(dtype)
    return x if divisor == 1.0 else x / divisor


def statistics(chunks: Iterator[Tensor], event_shape: tuple[int, ...]) -> Statistics:
    """One pass; an element that is never observed has moments 0, and no values have a range of NaN."""
    shift = first = second = number = torch.zeros(event_shape, dtype=torch.float64)
    total, low, high = 0, math.inf, -math.inf
    for x in chunks:
        x = x.double()
        if not total:  # without the shift the squares of values far from 0 would lose the variance
            shift = x.nanmean(0).nan_to_num()
        total += len(x)
        missing = x.isnan()
        low = min(low, x.masked_fill(missing, math.inf).min().item())
        high = max(high, x.masked_fill(missing, -math.inf).max().item())
        x = (x - shift).masked_fill_(missing, 0)
        number = (~missing).sum(0) + number.to(x)
        first = x.sum(0) + first.to(x)
        second = x.square_().sum(0) + second.to(x)
    observed, size = number.sum().item(), total * math.prod(event_shape)
    mean = first / number.clamp(min=1)
    std = (second / number.clamp(min=1) - mean.square()).clamp(min=0).sqrt()
    ends = (low, high) if observed else (math.nan, math.nan)
    return mean + shift, std, *ends, (size - observed) / max(1, size)
