"""Numbers of one site, by index: in memory, or read as they are needed where they are larger than it."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

LOOKED_AT = 2**25
"""Bytes of the data that are looked at at a time, in float64, where a thousand data would be more."""

Array = np.ndarray | Tensor
Index = slice | Tensor
Statistics = tuple[Tensor, Tensor, float, float, float]
"""Mean and standard deviation of each element, range, and share of missing values."""


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


def check_regular(path: Path) -> None:
    """Refuses what may have no end."""
    if not path.is_file():
        raise DataError(f"{path} is a pipe, a device or the like; save the data in a regular file")


def check_growth(path: Path, held: int, found: int, small: int) -> None:
    """Refuses what is far larger in memory than on disk, as a file is that was made to exhaust a machine.

    Raises:
        DataError: it takes more than half of the memory; or more than is small and than 100 times what is on
            disk, where data seldom take ten times that.
    """
    if found > min(memory(), max(small, 100 * held)):
        raise DataError(
            f"{path} would take {found / 2**30:.3g} GiB in memory, {found / max(1, held):.3g} times what it "
            "takes on disk; if that is meant, save its array as a .npy file, which is read batch by batch"
        )


def at_once(event_shape: tuple[int, ...]) -> int:
    """How many data of this shape are looked at at a time."""
    return max(1, min(1000, LOOKED_AT // (8 * max(1, math.prod(event_shape)))))


class Memory:
    """A tensor ``[N, *event_shape]``, divided by a number as it is taken."""

    order: Tensor | None = None
    """All are as fast."""

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
            return scaled(self.values.index_select(0, index.to(self.values.device)), dtype, self.divisor)
        return scaled(self.values[index], dtype, self.divisor)

    def shuffled(self, seed: int) -> Tensor:
        """Indices ``[N]`` in any order, drawn by ``seed``.

        They are where the values are: each batch's share would be waited for.
        """
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return sent(order, self.values.device)

    def to(self, device: torch.device) -> None:
        """Moves its tensors."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))


class OnDisk(ABC):
    """An array ``[N, *event_shape]`` whose rows are read as they are needed, by several threads at a time.

    Attributes:
        shape: of the whole.
        dtype: of its values.
        path: of its file or folder.
        blocks: first rows of the blocks in which rows are read; None where each is read by itself.
        window: number of blocks that are held at a time.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    path: str
    blocks: np.ndarray | None = None
    window = 1

    @abstractmethod
    def read(self, rows: np.ndarray) -> np.ndarray:
        """``[B, *event_shape]`` of these rows, in any order, in memory of its own.

        Raises:
            DataError: they cannot be read, or are no longer what they were.
        """

    @property
    def ndim(self) -> int:
        """Of the whole."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def sample(self, rows: np.ndarray) -> Iterator[bytes]:
        """What tells these rows from others without all of them being read: of 1000 of them the values."""
        some, number = rows[:: max(1, len(rows) // 1000)], at_once(self.shape[1:])
        for start in range(0, len(some), number):
            yield plain_bytes(self.read(some[start : start + number]))


class Streamed:
    """Rows of what is on disk (None for all), divided and passed through ``binary`` as they are read.

    Attributes:
        binary: of grey values and the rows that they are of, if any.
    """

    binary: Callable[[Tensor, np.ndarray], Tensor] | None = None

    def __init__(self, values: OnDisk, divisor: float = 1.0, rows: np.ndarray | None = None):
        self.values = values
        self.divisor = divisor
        rows = np.arange(len(values)) if rows is None else rows
        # Half of the memory, of which there is a number for each datum.
        self.rows = rows.astype(np.int32) if len(values) < 2**31 else rows
        self.event_shape = tuple(values.shape[1:])
        self.floating = values.dtype.kind == "f"
        self.device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def order(self) -> Tensor:
        """Indices ``[N]`` in the order of the rows on disk, in which they are read fastest."""
        return torch.from_numpy(np.argsort(self.rows))

    def shuffled(self, seed: int) -> Tensor:
        """Indices ``[N]`` in an order drawn by ``seed``: any, or one in which few blocks are read at a time.

        The G blocks lie on a ring in random order, block b at place k_b, and each of its rows at
        (k_b + W u) mod G, u ~ Uniform(0, 1): wherever one is on the way around, the rows that come next are
        drawn evenly from the W blocks before. With W = G that is any order.
        """
        blocks, generator = self.values.blocks, torch.Generator().manual_seed(seed)
        if blocks is None:
            return torch.randperm(len(self), generator=generator)
        place = torch.randperm(len(blocks), generator=generator)
        of_row = torch.from_numpy(np.searchsorted(blocks, self.rows, "right") - 1)
        u = torch.rand(len(self), dtype=torch.float64, generator=generator)
        return u.mul_(self.values.window).add_(place[of_row]).remainder_(len(blocks)).argsort()

    def read(self, index: Index, dtype: torch.dtype) -> Tensor:
        """``[B, *event_shape]`` in the memory of the processor, where draws are the same for all devices."""
        rows = self.rows[index if isinstance(index, slice) else index.cpu().numpy()]
        grey = torch.from_numpy(self.values.read(rows)).to(dtype)
        if self.divisor != 1:
            grey /= self.divisor
        return grey if self.binary is None else self.binary(grey, rows).to(dtype)

    def take(self, index: Index, dtype: torch.dtype) -> Tensor:
        """``[B, *event_shape]`` on its device."""
        return self.read(index, dtype).to(self.device)

    def to(self, device: torch.device) -> None:
        """Where to take to."""
        self.device = device


Source = Memory | Streamed


def plain_bytes(values: Any) -> bytes:
    """Of numbers, whatever they are kept in; one of the many NaN."""
    x = np.asarray(values, np.float64)
    return np.where(np.isnan(x), np.nan, x).tobytes()


def sent(value: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; from the host to a GPU while that computes, and nobody waits for it."""
    pins = device.type == "cuda" and value.device.type == "cpu"
    return (value.pin_memory() if pins else value).to(device, non_blocking=pins)


def scaled(x: Tensor, dtype: torch.dtype, divisor: float) -> Tensor:
    """Divided, as numbers of this type."""
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
        missing, least, most = None, *(end.item() for end in x.aminmax())
        if math.isnan(least):  # where nothing is missing, as mostly, it takes a third of the time
            missing = x.isnan()
            least = x.masked_fill(missing, math.inf).min().item()
            most = x.masked_fill(missing, -math.inf).max().item()
        low, high = min(low, least), max(high, most)
        x = x - shift
        if missing is not None:
            x.masked_fill_(missing, 0)
        number = (len(x) if missing is None else (~missing).sum(0)) + number.to(x)
        first = x.sum(0) + first.to(x)
        second = x.square_().sum(0) + second.to(x)
    observed, size = number.sum().item(), total * math.prod(event_shape)
    mean = first / number.clamp(min=1)
    std = (second / number.clamp(min=1) - mean.square()).clamp(min=0).sqrt()
    ends = (low, high) if observed else (math.nan, math.nan)
    return mean + shift, std, *ends, (size - observed) / max(1, size)
