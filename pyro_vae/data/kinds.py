"""What a column of a table is, from its dtype and its values, which may come in parts."""

from __future__ import annotations

import contextlib
import re
import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from pyro_vae.data.columns import Column, as_floats, categories
from pyro_vae.data.source import DataError, called, shown

MOST_LEVELS = 1000
"""Categories of a column; with more of them nothing is learnt of most."""
OFTEN = 0.02
"""Share of zeros from which on they are no chance of a density."""
NOT_KNOWN = (-99, -999, -9999, -99999)
"""Numbers that stand for missing values in many files."""
DATE = re.compile(r"\s*\d{1,4}(-|/|\.|年)\d{1,2}(-|/|\.|月)\d{1,4}日?([T\s].*)?")
"""A day as a text, in any order of year, month and day."""


class Found:
    """What was found in the parts of a column that were added."""

    def __init__(self, name: str):
        self.name = name
        self.size = 0
        self.dtypes: list[Any] = []
        self.families: dict[str, Any] = {}
        self.texts: set[str] = set()
        self.levels: Any = None
        self.ordered = False
        self.low, self.high = np.inf, -np.inf
        self.zeros, self.mean, self.squares, self.whole = 0, 0.0, 0.0, True
        self.not_known: dict[int, int] = {}
        self.low_known = np.inf

    def add(self, series: Any) -> None:
        """Adds a part.

        Raises:
            DataError: it holds what cannot be modelled.
        """
        name, dtype, known = self.name, str(series.dtype), series.dropna()
        kind = series.dtype.kind if hasattr(series.dtype, "kind") else "O"
        if kind in "mM" or dtype.startswith("period"):
            raise DataError(
                f"{called(name)} holds dates or times ({dtype}); give a number, such as the days since the "
                f"first: frame[{name!r}] = (frame[{name!r}] - frame[{name!r}].min()) / pd.Timedelta(days=1)"
            )
        if kind == "c":
            raise DataError(
                f"{called(name)} holds complex numbers; give real and imaginary part as two columns"
            )
        if dtype.startswith("dictionary"):  # Arrow's
            series = series.astype("category")
        self.dtypes.append(series.dtype)
        before, self.size = self.size, self.size + len(known)
        if str(series.dtype) == "category":
            held, self.ordered = series.cat.categories, series.cat.ordered
            more = held if self.levels is None else held.difference(self.levels, sort=False)
            self.levels = more if self.levels is None else self.levels.append(more)
            return
        if not len(known):
            return
        for value in known if kind == "O" and not _all_texts(known) else known.iloc[:1]:
            self.families.setdefault(_family(value), value)
        if "text" in self.families:
            self.texts |= set(map(str, known.unique()))
            if len(self.texts) > 100 * MOST_LEVELS:
                self.column()
        if self.families.keys() <= {"number", "bool"}:
            self._add_numbers(known, as_floats(name, known), before)

    def _add_numbers(self, known: Any, values: np.ndarray, before: int) -> None:
        if np.isinf(values).any():
            row = shown(_plain(known.index[int(np.isinf(values).argmax())]))
            raise DataError(
                f"{called(self.name)} holds infinite values, first in row {row}; where they mean "
                '"not known": frame.replace([np.inf, -np.inf], np.nan)'
            )
        self.low, self.high = min(self.low, values.min()), max(self.high, values.max())
        self.whole = self.whole and np.array_equal(values, values.round())
        self.zeros += int((values == 0).sum())
        is_code = np.isin(values, NOT_KNOWN)
        self.low_known = values[~is_code].min(initial=self.low_known)
        for code, times in zip(*np.unique(values[is_code], return_counts=True), strict=True):
            self.not_known[int(code)] = self.not_known.get(int(code), 0) + int(times)
        far, share = values.mean() - self.mean, len(values) / self.size
        self.squares += values.var() * len(values) + far * far * before * share
        self.mean += far * share

    def column(self) -> Column:
        """What the column is.

        Raises:
            DataError: it cannot be modelled.
        """
        name, families = self.name, self.families.keys()
        if not self.size:
            raise DataError(
                f"{called(name)} has no value at all; leave it out: frame.drop(columns={shown(name)})"
            )
        if self.levels is not None:
            kind = "ordinal" if self.ordered else "category"
            column = self._categories(kind, "category", [_plain(level) for level in self.levels])
            return _with_levels_dtype(column, self.levels)
        dtype = _common(self.dtypes)
        kind = getattr(dtype, "kind", "O")
        if kind not in "biuf":
            if families == {"bool"}:
                return Column("boolean", str(dtype))
            if families == {"text"}:
                return self._categories("category", str(dtype), sorted(self.texts))
            if not families <= {"number", "bool"}:
                raise DataError(
                    f"{called(name)} holds {' and '.join(sorted(families))}, such as "
                    f"{shown(next(iter(self.families.values())))}; where numbers are meant: "
                    f'pd.to_numeric(frame[{name!r}], errors="coerce"); as categories: '
                    f"frame[{name!r}].astype(str)"
                )
        if kind == "b":
            return Column("boolean", str(dtype))
        return Column(self._numeric(), "float64" if kind == "O" else str(dtype))

    def _numeric(self) -> Any:
        """The kind of a column of numbers; a number that may mean "not known" is told of."""
        code = min(self.not_known, default=0)
        if code / 2 < self.low_known < np.inf and code == self.low:
            name = self.name
            warnings.warn(
                f"{called(name)} holds {code}, {self.not_known[code]} times of {self.size}, and else nothing "
                f'below {self.low_known:g}; where it means "not known": frame[{name!r}] = '
                f"frame[{name!r}].replace({code}, np.nan), or pd.read_csv(path, na_values=[{code}])",
                stacklevel=2,
            )
        if self.whole:
            if (self.low, self.high) == (0, 1):  # and not one of them alone, which may be of any kind
                return "boolean"
            near_none = 0 <= self.low <= 0.1 * self.mean
            return "count" if near_none and self.squares / self.size > self.mean else "integer"
        if self.low > 0:
            return "share" if self.low < 0.5 < self.high < 1 else "positive"
        return "amount" if self.low == 0 and self.zeros / self.size > OFTEN else "real"

    def _categories(self, kind: Any, dtype: str, levels: list[Any]) -> Column:
        name, size = self.name, self.size
        if self.levels is None and len(levels) > 20 and all(DATE.fullmatch(level) for level in levels):
            raise DataError(
                f"{called(name)} holds dates as texts, such as {shown(levels[0])}; give days since the "
                f"first: date = pd.to_datetime(frame[{name!r}]); "
                f"frame[{name!r}] = (date - date.min()) / pd.Timedelta(days=1)"
            )
        if len(levels) > min(MOST_LEVELS, max(20, size / 2)):
            raise DataError(
                f"{called(name)} has {len(levels)} categories in {size} rows, too many to learn of each; "
                f"leave it out, frame.drop(columns={shown(name)}), or put rare ones together"
            )
        if len(levels) < 2:
            raise DataError(
                f"{called(name)} has one category, {shown(levels[0])}; leave it out: "
                f"frame.drop(columns={shown(name)})"
            )
        if len(set(levels)) < len(levels):
            raise DataError(f"categories of {called(name)} have one name; rename them: {shown(levels)}")
        return Column(kind, dtype, tuple(levels))


def _common(dtypes: list[Any]) -> Any:
    """The dtype of a column whose parts may have several, as integers with and without missing values do."""
    if len(set(dtypes)) == 1:
        return dtypes[0]
    plain = all(isinstance(dtype, np.dtype) and dtype.kind in "iuf" for dtype in dtypes)
    return np.result_type(*dtypes) if plain else np.dtype(object)


def _all_texts(known: Any) -> bool:
    import pandas as pd

    return pd.api.types.infer_dtype(known, skipna=False) == "string"


def _with_levels_dtype(column: Column, held: Any) -> Column:
    """The same column, of whose categories the dtype is known, where their texts tell what they are."""
    for dtype in ("", str(held.dtype)):
        with contextlib.suppress(Exception):  # whatever pandas raises at a text that it cannot read
            typed = replace(column, levels_dtype=dtype)
            found = categories(typed)
            if found.dtype == held.dtype and found.equals(held):
                return typed
    return column


def _plain(level: Any) -> Any:
    """A category as a value that a configuration holds."""
    with contextlib.suppress(AttributeError, ValueError):
        level = level.item()
    return level if isinstance(level, str | int | float | bool) else str(level)


def _family(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "bool"
    if isinstance(value, str):
        return "text"
    if isinstance(value, int | float | np.number) and not isinstance(value, complex | np.complexfloating):
        return "number"
    return f"values of type {type(value).__name__}"
