"""A ``.parquet`` file larger than the memory: rows read by row groups, of which a few are held."""

from __future__ import annotations

import importlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.data.arrays import Sites
from pyro_vae.data.columns import Columns
from pyro_vae.data.source import DataError, OnDisk, memory, plain_bytes, reason
from pyro_vae.data.tables import described, named

_HELD = 2**30
"""Bytes of the row groups that are held, at most; and no more than a quarter of the memory."""

_PIECE = 4096
"""Bytes of each of the pieces by which a file is known."""


def table(path: Path, labels: Any = None) -> tuple[Sites, Columns]:
    """A file's rows as the site ``x`` ``[N, D]`` on disk, with what its columns are, in one pass over it.

    Args:
        path: of the file.
        labels: name of the column that is the class of each row, which is held in memory; or classes ``[N]``.

    Raises:
        DataError: the file cannot be read, a column cannot be modelled, or row groups are too large.
    """
    file = _File(path)
    if not file.sizes.sum() or not file.metadata.num_columns:
        held = f"{file.sizes.sum()} rows and {file.metadata.num_columns} columns"
        raise DataError(f"{path} has {held}; give a table of one of each at least")
    columns, *labelled = described(file.frames(), labels)
    return Sites({"x": RowGroups(file, columns)}, *labelled), columns


class _File:
    """A ``.parquet`` file, its row groups read one by one; it must stay what it was."""

    def __init__(self, path: Path):
        self.path = path
        self.opened = self._state()
        self.parquet: Any = importlib.import_module("pyarrow.parquet")
        try:
            self.metadata = self.parquet.read_metadata(path)
        except Exception as error:
            raise self._unreadable(error) from error
        groups = range(self.metadata.num_row_groups)
        self.sizes = np.array([self.metadata.row_group(g).num_rows for g in groups], int)

    def frames(self) -> Iterator[Any]:
        """The row groups that have rows, one after the other, their rows numbered through."""
        first = 0
        for group in np.flatnonzero(self.sizes):
            frame = named(self.frame(int(group)))
            yield frame.set_axis(range(first, first + len(frame)), axis=0)
            first += len(frame)

    def frame(self, group: int, **options: Any) -> Any:
        """A row group as a DataFrame.

        Raises:
            DataError: it cannot be read, or the file is another.
        """
        if self._state() != self.opened:
            raise DataError(
                f"{self.path} was written to after it had been opened; load the data again, and leave the "
                "file alone while they are in use"
            )
        try:
            file = self.parquet.ParquetFile(self.path, metadata=self.metadata, **options)
            return file.read_row_group(group).to_pandas()
        except Exception as error:
            raise self._unreadable(error) from error

    def sample(self) -> Iterator[bytes]:
        """Its footer, with sizes and extremes of the columns of each row group; and a thousand pieces."""
        size = self.path.stat().st_size
        with open(self.path, "rb") as file:
            file.seek(size - 8)
            file.seek(size - 8 - int.from_bytes(file.read(4), "little"))
            yield file.read()
            for start in range(0, size, max(_PIECE, size // 1000)):
                file.seek(start)
                yield file.read(_PIECE)

    def _state(self) -> tuple[int, int, int]:
        try:
            found = os.stat(self.path)
        except OSError as error:
            raise DataError(
                f"{self.path} cannot be opened ({reason(error)}); leave it where it is while it is in use"
            ) from error
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _unreadable(self, error: Exception) -> DataError:
        return DataError(
            f"{self.path} cannot be read as a table ({reason(error)}); write it anew: frame.to_parquet(path)"
        )


class RowGroups(OnDisk):
    """Rows of a ``.parquet`` file as numbers ``[N, D]``, as ``Columns.encode`` gives them."""

    def __init__(self, file: _File, columns: Columns):
        sizes = file.sizes
        self.file, self.columns, self.path = file, columns, str(file.path)
        self.shape, self.dtype = (int(sizes.sum()), len(columns)), np.dtype(np.float64)
        self.blocks = self.firsts = np.append(0, sizes.cumsum())[:-1]
        self.texts = [
            name for name, column in columns.of.items() if column.levels and column.dtype != "category"
        ]
        largest = 8 * int(sizes.max()) * len(columns)
        most = int(min(_HELD, memory() / 4))
        self.window = min(len(sizes), most // largest - 1)
        if self.window < 1:
            rows = most // (80 * len(columns))
            raise DataError(
                f"{self.path} has a row group of {sizes.max()} rows, of which two would take "
                f"{2 * largest / 2**30:.3g} GiB; write it with smaller ones: frame.to_parquet(path, "
                f"row_group_size={rows})"
            )
        self._held: OrderedDict[int, np.ndarray] = OrderedDict()
        self._reading = threading.Lock()

    def read(self, rows: np.ndarray) -> np.ndarray:
        """``[B, D]``; of the groups that these are in, those that are held are not read again."""
        x = np.empty((len(rows), self.shape[1]))
        groups = np.searchsorted(self.firsts, rows, "right") - 1
        for group in sorted(set(groups.tolist()), key=lambda group: group not in self._held):
            inside = groups == group
            x[inside] = self._group(group)[rows[inside] - self.firsts[group]]
        return x

    def _group(self, group: int) -> np.ndarray:
        with self._reading:
            if group not in self._held:
                if len(self._held) > self.window:
                    self._held.popitem(last=False)
                frame = self.file.frame(group, read_dictionary=self.texts)
                names = {str(name): name for name in frame.columns}
                self._held[group] = self.columns.encode(frame[[names[name] for name in self.columns]]).numpy()
            self._held.move_to_end(group)
            return self._held[group]

    def sample(self, rows: np.ndarray) -> Iterator[bytes]:
        """The file's own account of its content and pieces of it, and which rows these are."""
        yield from self.file.sample()
        yield plain_bytes(rows[:: max(1, len(rows) // 1000)])
