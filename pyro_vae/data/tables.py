"""Tables: DataFrames, ``.csv`` and ``.parquet`` files, as rows of numbers whose columns are known."""

from __future__ import annotations

import contextlib
import importlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

from pyro_vae.data.arrays import Sites
from pyro_vae.data.columns import Column, Columns, as_floats, categories
from pyro_vae.data.source import DataError, called, memory, reason, shown

SUFFIXES = (".csv", ".parquet")
MOST_LEVELS = 1000
"""Categories of a column; with more of them nothing is learnt of most."""
OFTEN = 0.02
"""Share of zeros from which on they are no chance of a density."""
LONGEST_NAME = 500
"""Characters of the name of a column, which stands in messages and figures."""


@runtime_checkable
class DataFrame(Protocol):
    """A table of pandas, polars or Arrow, as an argument."""

    @property
    def columns(self) -> Any:
        """Of it."""


def is_frame(data: Any) -> bool:
    """Whether it is a table: of pandas, or of what gives its tables to others (polars, Arrow)."""
    return (hasattr(data, "columns") and hasattr(data, "dtypes")) or _is_foreign(data)


def _is_foreign(data: Any) -> bool:
    is_series = hasattr(data, "to_frame") and not hasattr(data, "columns")  # a stream of Arrow, too
    return not is_series and any(hasattr(data, name) for name in ("__dataframe__", "__arrow_c_stream__"))


def as_pandas(data: Any) -> Any:
    """A table as a DataFrame of pandas.

    Raises:
        DataError: it cannot be one.
    """
    pandas = _pandas()
    if isinstance(data, pandas.DataFrame):
        return data
    try:
        if hasattr(data, "to_pandas"):
            return data.to_pandas()
        if hasattr(data, "__arrow_c_stream__"):
            return importlib.import_module("pyarrow").table(data).to_pandas()
        return pandas.api.interchange.from_dataframe(data)
    except Exception as error:  # whatever another library raises
        raise DataError(
            f"the {type(data).__name__} cannot be read as a table ({reason(error)}); give one of pandas; "
            "pip install 'pyro_vae[tables]' brings pyarrow, by which others are read"
        ) from error


def _pandas() -> Any:
    try:
        return importlib.import_module("pandas")
    except ImportError as error:
        raise DataError("tables need pandas: pip install 'pyro_vae[tables]'") from error


def read(path: Path) -> Any:
    """The DataFrame of a ``.csv`` or ``.parquet`` file.

    Raises:
        DataError: it cannot be read.
    """
    pandas = _pandas()
    if not path.is_file():
        raise DataError(f"{path} is no regular file; save the table in one: frame.to_csv(path, index=False)")
    try:
        if path.suffix == ".csv":
            # Numbers to the last bit: unasked from pandas 3.1 on, which warns where it is asked.
            before = tuple(map(int, pandas.__version__.split(".")[:2])) < (3, 1)
            frame = pandas.read_csv(path, **({"float_precision": "round_trip"} if before else {}))
        else:
            _may_be_held(path)
            frame = pandas.read_parquet(path)
    except DataError:
        raise
    except Exception as error:  # whatever the readers of damaged files raise
        raise DataError(
            f"{path} cannot be read as a table ({reason(error)}); read it as it needs to be, and give the "
            "DataFrame: pv.data.load(pd.read_csv(path, sep=';'))"
        ) from error
    if path.suffix == ".csv" and len(frame.columns) and all(map(_is_number, frame.columns)):
        raise DataError(
            f"the first row of {path} holds numbers, {shown(list(frame.columns))}, and no names; if "
            "it is data: pv.data.load(pd.read_csv(path, header=None))"
        )
    return frame


def _may_be_held(path: Path) -> None:
    """Whether a ``.parquet`` file, in which a small page may stand for many equal rows, is not too large."""
    with contextlib.suppress(ImportError):  # pandas names what reads them otherwise
        told = importlib.import_module("pyarrow.parquet").read_metadata(path)
        size = 8 * told.num_rows * told.num_columns
        if size > memory():
            raise DataError(
                f"{path} holds {told.num_rows} rows of {told.num_columns} columns, which would take "
                f"{size / 2**30:.3g} GiB; give some of them: pd.read_parquet(path, columns=names)"
            )


def _is_number(name: Any) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def table(data: Any, labels: Any = None) -> tuple[Sites, Columns]:
    """A table's rows as the site ``x`` ``[N, D]``, with what its columns are.

    Args:
        data: the table.
        labels: name of the column that is the class of each row, or classes ``[N]``; site ``y``.

    Raises:
        DataError: a column cannot be modelled; the message says which, why, and what to do.
    """
    frame = as_pandas(data)
    names = [str(name) for name in frame.columns]
    if not names or not len(frame):
        raise DataError(
            f"the table has {len(frame)} rows and {len(names)} columns; give one of each at least"
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(
            f"two columns are called {shown(twice)}; rename one, or leave it out: "
            "frame.loc[:, ~frame.columns.duplicated()]"
        )
    if (most := max(map(len, names))) > LONGEST_NAME:
        raise DataError(
            f"a column has a name of {most} characters, {shown(max(names, key=len))}; rename it with at most "
            f"{LONGEST_NAME}; if it holds data, the first row has no names: pd.read_csv(path, header=None)"
        )
    frame = frame.set_axis(names, axis=1)
    if isinstance(labels, str):
        if labels not in names:
            raise DataError(
                f"labels={shown(labels)} is no column of the table; it has {', '.join(names[:20])}"
            )
        labels, frame = frame[labels], frame.drop(columns=labels)
    columns = Columns({name: _column(name, frame[name]) for name in frame.columns})
    sites = Sites({"x": columns.encode(frame)}, labels)
    return sites, columns


def _column(name: str, series: Any) -> Column:
    """What a column is, from its dtype and its values."""
    dtype, known = str(series.dtype), series.dropna()
    kind = series.dtype.kind if hasattr(series.dtype, "kind") else "O"
    if kind in "mM" or dtype.startswith("period"):
        raise DataError(
            f"{called(name)} holds dates or times ({dtype}); give a number, such as the days since the "
            f"first: frame[{name!r}] = (frame[{name!r}] - frame[{name!r}].min()) / pd.Timedelta(days=1)"
        )
    if kind == "c":
        raise DataError(f"{called(name)} holds complex numbers; give real and imaginary part as two columns")
    if not len(known):
        raise DataError(
            f"{called(name)} has no value at all; leave it out: frame.drop(columns={shown(name)})"
        )
    if dtype.startswith("dictionary"):  # Arrow's
        series, dtype = series.astype("category"), "category"
    if dtype == "category":
        levels = [_plain(level) for level in series.cat.categories]
        kind = "ordinal" if series.cat.ordered else "category"
        column = _categories(name, kind, dtype, levels, len(known))
        return _with_levels_dtype(column, series.cat.categories)
    if kind not in "biuf":
        kinds = {_family(value) for value in known}
        if kinds == {"bool"}:
            return Column("boolean", dtype)
        if kinds == {"text"}:
            return _categories(name, "category", dtype, sorted(set(map(str, known))), len(known))
        if not kinds <= {"number", "bool"}:
            raise DataError(
                f"{called(name)} holds {' and '.join(sorted(kinds))}, such as {shown(known.iloc[0])}; "
                f'where numbers are meant: pd.to_numeric(frame[{name!r}], errors="coerce"); as categories: '
                f"frame[{name!r}].astype(str)"
            )
    values = as_floats(name, known)
    if np.isinf(values).any():
        row = int(np.isinf(values).argmax())
        raise DataError(
            f"{called(name)} holds infinite values, first in row {shown(known.index[row])}; where they mean "
            '"not known": frame.replace([np.inf, -np.inf], np.nan)'
        )
    if kind == "b":
        return Column("boolean", dtype)
    return Column(_numeric(values), "float64" if kind == "O" else dtype)  # type: ignore[arg-type]


def _numeric(values: np.ndarray) -> str:
    """The kind of a column of numbers."""
    low, high = values.min(), values.max()
    if np.array_equal(values, values.round()):
        if (low, high) == (0, 1):  # and not one of them alone, which may be of any kind
            return "boolean"
        near_none = 0 <= low <= 0.1 * values.mean()
        return "count" if near_none and values.var() > values.mean() else "integer"
    if low > 0:
        return "share" if low < 0.5 < high < 1 else "positive"
    return "amount" if low == 0 and (values == 0).mean() > OFTEN else "real"


def _categories(name: str, kind: Any, dtype: str, levels: list[Any], size: int) -> Column:
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


def filled(path: Path, frame: Any, whole: Any) -> Any:
    """The table of a file, again and again, with values of whole rows in its holes; as texts, of a ``.csv``.

    Args:
        path: of the file.
        frame: its N rows, as ``read`` has them.
        whole: N rows for each time, one table after the other; columns that only they have come last.
    """
    names, holes, is_text = list(map(str, frame.columns)), frame.isna().to_numpy(), path.suffix == ".csv"
    if is_text:
        frame = _pandas().read_csv(path, dtype=str, keep_default_na=False)  # each as it stands there
    again = np.tile(np.arange(len(frame)), len(whole) // len(frame))
    made = frame.set_axis(names, axis=1).iloc[again].set_axis(whole.index, axis=0)
    for name, values in whole.items():
        missing = holes[again, names.index(name)] if name in names else np.ones(len(made), bool)
        found = _texts(values[missing]) if is_text else values[missing]
        if name not in names:
            made[name] = found
        elif missing.any():
            if values.dtype == "category" and not is_text:
                made[name] = made[name].astype(values.dtype)
            made.loc[missing, name] = found.to_numpy()
    return made


def _texts(values: Any) -> Any:
    """Numbers by the fewest digits that are the same in their precision, whole ones as 7 and not as 7.0."""
    values = values.convert_dtypes()
    if values.dtype.kind != "f":
        return values.astype(str)
    exact = values.to_numpy(np.float64)
    with np.errstate(over="ignore"):
        single = exact.astype(np.float32)
    texts = np.where(single == exact, single.astype(str), exact.astype(str))
    return _pandas().Series(texts, values.index, dtype=object)


def free(name: str, taken: Any) -> str:
    """A name that is not taken: itself, or with ``_`` behind it."""
    while name in taken:
        name += "_"
    return name


def as_bytes(frame: Any, suffix: str) -> bytes:
    """A table as the content of a ``.csv`` or ``.parquet`` file."""
    if suffix == ".csv":
        return cast(str, frame.to_csv(index=False)).encode()
    content = io.BytesIO()
    frame.to_parquet(content, index=False)
    return content.getvalue()
