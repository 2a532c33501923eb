"""What the columns of a table are: kinds, categories and dtypes, and rows as numbers and back."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.source import DataError, called, shown

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["real", "positive", "amount", "share", "count", "integer", "boolean", "category", "ordinal"]
"""Real numbers; those above 0; those above 0 or, often, 0; those between 0 and 1; whole numbers that reach
down to 0 or nearly so and vary more than a Poisson; other whole numbers; True and False; categories without
and with an order."""

KINDS: tuple[str, ...] = get_args(Kind)
Level = str | int | float | bool


@dataclass(frozen=True)
class Column:
    """What one column is.

    Attributes:
        kind: of its values.
        dtype: of the frame that it came from, by pandas' name.
        levels: of a category, in the order of their numbers.
        levels_dtype: of the categories of a frame, where their own values do not tell it: of intervals, say,
            which are levels by their texts.
        unit: of its numbers, such as ``"mm"``.
    """

    kind: Kind
    dtype: str = "float64"
    levels: tuple[Level, ...] = ()
    levels_dtype: str = field(default="", compare=False)
    unit: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind={shown(self.kind)} is none of {', '.join(KINDS)}")
        if (self.kind in ("category", "ordinal")) != bool(self.levels):
            raise ValueError(f"a column of kind {self.kind} has levels={shown(self.levels)}")

    @property
    def text(self) -> str:
        """In words: ``"count"``, ``"3 categories"``."""
        number = len(self.levels)
        return {"category": f"{number} categories", "ordinal": f"{number} ordered categories"}.get(
            self.kind, self.kind
        )

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers, or categories' numbers."""
        return self.kind not in ("real", "positive", "amount", "share")


_FIELDS = {one.name for one in fields(Column)}


class Columns(Mapping[str, tuple[()]]):
    """The columns of a table by name, each a site of shape ``()``: what a model of the table is built for.

    Args:
        columns: by name a ``Column``, or the plain values that ``plain`` gives.

    Raises:
        ValueError: they are none.
    """

    def __init__(self, columns: Mapping[str, Any]):
        self.of: dict[str, Column] = {}
        for name, what in columns.items():
            if isinstance(what, str):
                what = Column(what)  # type: ignore[arg-type]
            elif isinstance(what, Mapping) and what.keys() <= _FIELDS and "kind" in what:
                what = Column(**{**what, "levels": tuple(what.get("levels", ()))})
            elif what == () or what == []:
                raise ValueError(
                    f"of column {shown(name)} only the shape is given, and not what its values are; take "
                    'event_shapes of pv.data.load(frame), or a kind for each column: {"age": "count"}'
                )
            if not (isinstance(what, Column) and isinstance(name, str)):
                raise ValueError(
                    f"{shown(name)}: {shown(what)} is no column; the kinds are {', '.join(KINDS)}"
                )
            self.of[name] = what
        if not self.of:
            raise ValueError("a table needs at least one column")

    def __getitem__(self, name: str) -> tuple[()]:
        self.of[name]
        return ()

    def __iter__(self) -> Iterator[str]:
        return iter(self.of)

    def __len__(self) -> int:
        return len(self.of)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Columns) and list(self.of.items()) == list(other.of.items())

    def __hash__(self) -> int:
        return hash(tuple(self.of.items()))

    def __repr__(self) -> str:
        return f"Columns({few([f'{name}: {column.text}' for name, column in self.of.items()])})"

    def _repr_html_(self) -> str:
        import html

        cells = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{column.text}</td><td>"
            f"{html.escape(', '.join(map(str, column.levels[:10])))}</td></tr>"
            for name, column in self.of.items()
        )
        return f"<table><tr><th>column</th><th>kind</th><th>levels</th></tr>{cells}</table>"

    @property
    def plain(self) -> dict[str, Any]:
        """As plain values, for a configuration."""
        every = {name: asdict(column) | {"levels": list(column.levels)} for name, column in self.of.items()}
        return {name: {key: value for key, value in own.items() if value} for name, own in every.items()}

    @property
    def units(self) -> dict[str, str]:
        """Of the columns that have one, by name."""
        return {name: column.unit for name, column in self.of.items() if column.unit}

    def number(self, name: Any) -> int:
        """Which column has this name.

        Raises:
            DataError: none has.
        """
        if name not in self.of:
            near = difflib.get_close_matches(str(name), list(self.of), n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise DataError(
                f"there is no column {shown(name)}; {hint}leave it out, frame.drop(columns={shown(name)}); "
                f"the columns are {few(list(self.of))}"
            )
        return list(self.of).index(name)

    def encode(self, given: Any, size: int | None = None) -> Tensor:
        """Rows as numbers ``[N, D]``, float64: categories as their numbers, NaN where nothing is known.

        Args:
            given: a DataFrame, or a mapping from names of columns to a value or to N values; columns may
                stand in any order, and those that are absent are not known. Tensors hold the numbers of
                categories, and anything else the categories themselves.
            size: N; by default that of the longest column.

        Raises:
            DataError: a column is unknown, has an unseen category, or other values or another number of them.
        """
        if hasattr(given, "columns"):
            size = len(given) if size is None else size
            pairs = [(name, given.iloc[:, j]) for j, name in enumerate(given.columns)]
        else:
            pairs = list(given.items())
        by_name = {str(name): values for name, values in pairs}
        if len(by_name) < len(pairs):
            raise DataError(
                f"two columns have one name, among {few([name for name, _ in pairs])}; rename one"
            )
        for name in by_name:
            self.number(name)
        encoded = {name: _numbers(name, self.of[name], values) for name, values in by_name.items()}
        sizes = {len(values) for values in encoded.values() if values.ndim}
        size = max(sizes, default=1) if size is None else size
        if sizes - {size, 1}:
            told = ", ".join(f"{name}: {len(values)}" for name, values in encoded.items() if values.ndim)
            raise DataError(f"columns differ in their number of values ({told}); give one value per row")
        rows = np.full((size, len(self)), np.nan)
        for j, name in enumerate(self.of):
            if name in encoded:
                rows[:, j] = encoded[name]
        return torch.from_numpy(rows)

    def decode(self, rows: Tensor, index: Any = None) -> pd.DataFrame:
        """Numbers ``[N, D]`` as a DataFrame of the dtypes, categories and units that the table had.

        So are the rows that a model of the table generates: ``vae.columns.decode(vae.generate(100)["x"])``.
        """
        import pandas as pd

        values = rows.detach().cpu().double().numpy()
        made = {name: _column(column, values[:, j]) for j, (name, column) in enumerate(self.of.items())}
        frame = pd.DataFrame(made, index=pd.RangeIndex(len(values)))
        if self.units:
            frame.attrs["units"] = self.units
        return frame if index is None else frame.set_axis(index, axis=0)


def few(names: Sequence[Any]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(map(str, names[:20])) + more


_RANGES = {
    "count": (0, np.inf),
    "positive": (0, np.inf),
    "amount": (0, np.inf),
    "share": (0, 1),
    "boolean": (0, 1),
}
"""Of some kinds, where its numbers lie."""


def _numbers(name: str, column: Column, values: Any) -> np.ndarray:
    """One column's values as numbers, ``[N]`` or ``[]``."""
    if isinstance(values, Tensor):
        found = values.detach().cpu().double().numpy()
    elif column.levels:
        found = _codes(name, column, values)
    else:
        found = as_floats(name, values)
    if found.ndim > 1:
        raise DataError(f"{called(name)} has values of shape {found.shape}; give one value per row")
    low, high = _RANGES.get(column.kind, (-np.inf, np.inf))
    if column.levels:
        low, high = 0, len(column.levels) - 1
    wrong = np.isinf(found) | (found < low) | (found > high) | (column.kind == "positive") & (found == 0)
    if column.whole:
        wrong |= ~np.isnan(found) & (found != np.round(found))
    if wrong.any():
        first = found[wrong].flat[0]
        raise DataError(
            f"{called(name)} is of kind {column.kind}, and holds {first:g}; give NaN if it is not known"
        )
    return found


def as_floats(name: str, values: Any) -> np.ndarray:
    """Numbers, and NaN for None and pd.NA.

    Raises:
        DataError: they are no numbers.
    """
    if hasattr(values, "to_numpy") and getattr(values.dtype, "kind", "O") in "biuf":
        return cast(np.ndarray, values.to_numpy(dtype=np.float64, na_value=np.nan))
    array = (
        values.to_numpy(dtype=object, na_value=None) if hasattr(values, "to_numpy") else np.asarray(values)
    )
    if array.dtype == object:
        array = np.where(_missing(array), np.nan, array)
    try:
        if any(isinstance(v, str | bytes) for v in (array.flat if array.dtype.kind in "OUS" else ())):
            raise ValueError
        return np.asarray(array, np.float64)
    except (TypeError, ValueError) as error:
        wrong = next((v for v in array.flat if not isinstance(v, int | float | np.number | np.bool_)), array)
        wrong = wrong.item() if isinstance(wrong, np.generic) else wrong
        raise DataError(
            f"{called(name)} holds {shown(wrong)} among its values, which is no number; {_mend(name, wrong)}"
        ) from error


def _mend(name: str, wrong: Any) -> str:
    """What makes a column one of numbers, that holds something else."""
    for text, mend in (
        (str(wrong), f"frame[{name!r}] = frame[{name!r}].astype(float)"),
        (str(wrong).replace(",", "."), 'where a comma stands for the point: pd.read_csv(path, decimal=",")'),
    ):
        with contextlib.suppress(ValueError):
            float(text)
            return mend
    return f'where that means "not known": frame[{name!r}] = pd.to_numeric(frame[{name!r}], errors="coerce")'


def _missing(array: np.ndarray) -> np.ndarray:
    known = [not (v is None or v != v) for v in _scalars(array)]
    return ~np.array(known, bool).reshape(array.shape)


def _scalars(array: np.ndarray) -> Iterator[Any]:
    for value in array.flat:
        yield None if type(value).__name__ in ("NAType", "NaTType") else value


def _codes(name: str, column: Column, values: Any) -> np.ndarray:
    """Numbers of categories, by what they are called, of a long column of texts or categories once each."""
    if not hasattr(values, "to_numpy"):
        return _codes_each(name, column, values)
    import pandas as pd

    if isinstance(values.dtype, pd.CategoricalDtype):
        held = pd.Categorical(values).remove_unused_categories()
        places, there = held.codes, held.categories
    elif pd.api.types.infer_dtype(values, skipna=True) == "string":
        places, there = pd.factorize(values)
    else:  # of which True and 1 are one to pandas
        return _codes_each(name, column, values)
    return np.append(_codes_each(name, column, there), np.nan)[places]


def _codes_each(name: str, column: Column, values: Any) -> np.ndarray:
    array = np.asarray(values, object)
    code: dict[Any, float] = {level: float(i) for i, level in enumerate(column.levels)}
    missing = _missing(array)
    found = np.full(array.shape, np.nan)
    for place in zip(*np.nonzero(~missing), strict=True) if array.ndim else [()] * (not missing):
        level = array[place]
        level = level.item() if isinstance(level, np.generic) else level
        try:
            number = code.get(level, code.get(str(level)))
        except TypeError:
            number = None
        if number is None:
            raise DataError(
                f"{called(name)} has no category {shown(level)}: there are {few(column.levels)}; give NaN "
                "where it is another"
            )
        found[place] = number
    return found


def categories(column: Column) -> pd.Index:
    """The levels of a column as the categories of a frame, of the dtype that they had."""
    import pandas as pd

    dtype: Any = pd.api.types.pandas_dtype(column.levels_dtype) if column.levels_dtype else None
    if isinstance(dtype, pd.IntervalDtype):
        ends = zip(*(str(level)[1:-1].split(", ") for level in column.levels), strict=True)
        left, right = (pd.Index(end).astype(cast(Any, dtype.subtype)) for end in ends)
        return pd.IntervalIndex.from_arrays(left, right, closed=cast(Any, dtype.closed), dtype=dtype)
    found = pd.Index(list(column.levels))
    return found if dtype is None else found.astype(dtype)


def _column(column: Column, values: np.ndarray) -> Any:
    """A column of a DataFrame, of the dtype that it had, or of one that has missing values where some are."""
    import pandas as pd

    missing = np.isnan(values)
    if column.levels:
        codes = np.where(missing, -1, values).astype(int)
        ordered = column.kind == "ordinal"
        made = pd.Categorical.from_codes(codes, categories=categories(column), ordered=ordered)
        text = column.dtype == "float64" and isinstance(column.levels[0], str)  # where no dtype was told
        return (
            made
            if column.dtype == "category" or text
            else pd.Series(made).astype(object).astype(column.dtype)
        )
    whole = bool((missing | (values == np.round(values))).all())
    if column.kind == "boolean" and column.dtype[:1] in "bo":
        nullable = pd.array(np.where(missing, 0, values).astype(int), dtype="Int64")
        nullable[missing] = pd.NA
        exact = nullable.astype("boolean")
        return exact if missing.any() and column.dtype == "bool" else exact.astype(column.dtype)
    if column.dtype[:1] in "iuIU":
        info = np.iinfo(column.dtype.lower())
        inside = bool(((values >= info.min) & (values <= info.max) | missing).all())
        if not whole:  # of a family over the reals, which its user chose
            return pd.array(
                np.where(missing, np.nan, values), dtype="Float64" if column.dtype[0] in "IU" else "float64"
            )
        nullable = pd.array(np.where(missing, 0, values).astype("int64"), dtype="Int64")
        nullable[missing] = pd.NA
        plain = inside and not (missing.any() and column.dtype[0] in "iu")
        return nullable.astype(column.dtype) if plain else nullable
    return pd.array(values, dtype="float64").astype(column.dtype) if column.dtype != "float64" else values
