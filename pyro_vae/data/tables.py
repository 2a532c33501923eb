"""Tables: DataFrames, ``.csv`` and ``.parquet`` files, as rows of numbers whose columns are known."""

from __future__ import annotations

import contextlib
import importlib
import io
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

from pyro_vae.data.arrays import Sites
from pyro_vae.data.columns import Column, Columns, as_floats
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
        return _categories(name, "ordinal" if series.cat.ordered else "category", dtype, levels, len(known))
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
        if low >= 0 and high <= 1:
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


def as_text(path: Path) -> Any:
    """The table of a ``.csv`` file as it is written, and of another as it is."""
    return _pandas().read_csv(path, dtype=str) if path.suffix == ".csv" else read(path)


def filled(frame: Any, whole: Any) -> Any:
    """A table with the values of a whole one where it has holes; as texts, where it holds texts alone."""
    frame = frame.copy()
    for name in frame.columns:
        holes = frame[name].isna().to_numpy()
        values = whole[str(name)]
        if frame[name].dtype == object or str(frame[name].dtype) in ("str", "string"):
            values = values.convert_dtypes().astype(str)  # whole numbers as 7, and not as 7.0
        frame.loc[holes, name] = values.to_numpy()[holes]
    return frame


def as_bytes(frame: Any, suffix: str) -> bytes:
    """A table as the content of a ``.csv`` or ``.parquet`` file."""
    if suffix == ".csv":
        return cast(str, frame.to_csv(index=False)).encode()
    content = io.BytesIO()
    frame.to_parquet(content, index=False)
    return content.getvalue()
