"""Tables: DataFrames, ``.csv`` and ``.parquet`` files, as rows of numbers whose columns are known."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

from pyro_vae.data.arrays import Sites
from pyro_vae.data.columns import Columns
from pyro_vae.data.kinds import Found
from pyro_vae.data.source import DataError, memory, reason, shown

SUFFIXES = (".csv", ".parquet")
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
            if not fits(path):
                raise DataError(
                    f"{path} would take more than half of the memory; read it as it is needed, stream=True, "
                    "or give some of it: pd.read_parquet(path, columns=names)"
                )
            frame = pandas.read_parquet(path)
    except DataError:
        raise
    except Exception as error:  # whatever the readers of damaged files raise
        foreign = isinstance(error, UnicodeDecodeError)  # as Excel saves, in Chinese or with umlauts
        mend = "encoding='gb18030')), or 'latin-1'; or save it in UTF-8" if foreign else "sep=';'))"
        raise DataError(
            f"{path} cannot be read as a table ({reason(error)}); read it as it needs to be, and give the "
            f"DataFrame: pv.data.load(pd.read_csv(path, {mend}"
        ) from error
    name = str(frame.columns[0]) if path.suffix == ".csv" and len(frame.columns) == 1 else ""
    if found := re.search("[;\t|]", name):
        raise DataError(
            f"{path} has one column, {shown(name)}: its values seem to be separated by {found[0]!r}; "
            f"pv.data.load(pd.read_csv(path, sep={found[0]!r})), with decimal=',' where numbers are 0,5"
        )
    if path.suffix == ".csv" and len(frame.columns) and all(map(_is_number, frame.columns)):
        raise DataError(
            f"the first row of {path} holds numbers, {shown(list(frame.columns))}, and no names; if "
            "it is data: pv.data.load(pd.read_csv(path, header=None))"
        )
    return frame


def fits(path: Path) -> bool:
    """Whether a table fits into memory, as far as it is known before it is read: of a ``.parquet`` file.

    A small page of it may stand for many equal rows.
    """
    with contextlib.suppress(Exception):  # which are told of by what reads it
        if path.suffix == ".parquet":
            told = importlib.import_module("pyarrow.parquet").read_metadata(path)
            return bool(8 * told.num_rows * told.num_columns <= memory())
    return True


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
    frame = named(as_pandas(data))
    columns, *labelled = described([frame], labels)
    if isinstance(labels, str):
        frame = frame.drop(columns=labels)
    x = columns.encode(frame)
    _tell_of_copies(x, columns)
    return Sites({"x": x}, *labelled), columns


def _tell_of_copies(x: Any, columns: Columns) -> None:
    """Warns of columns with densities that are equal: given one, the density of the other has no bound."""
    seen: dict[bytes, str] = {}
    for values, (name, column) in zip(x.numpy().T, columns.of.items(), strict=True):
        known = values[~np.isnan(values)]
        if column.whole or len(known) < 2 or (known == known[0]).all():
            continue
        first = seen.setdefault(values.tobytes(), name)
        if first != name:
            warnings.warn(
                f"columns {shown(first)} and {shown(name)} hold the same values, so that the density of one "
                f"given the other has no bound; leave one out: frame.drop(columns={shown(name)})",
                stacklevel=3,
            )


def named(frame: Any) -> Any:
    """The same DataFrame, the names of whose columns are texts.

    Raises:
        DataError: it is empty, or names are equal, or too long.
    """
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
    return frame.set_axis(names, axis=1)


def units_of(data: Any) -> dict[str, str]:
    """The units of a DataFrame's columns, which ``frame.attrs["units"]`` may tell by name."""
    units = getattr(data, "attrs", {}).get("units", {})
    return {str(name): str(unit) for name, unit in units.items()} if isinstance(units, Mapping) else {}


def described(frames: Iterable[Any], labels: Any) -> tuple[Columns, Any, Sequence[str] | None]:
    """What the columns of a table are, the labels of its rows and their names: one pass over parts of it.

    Args:
        frames: parts of the table, one after the other.
        labels: name of the column that holds them, which is no column then; or what they are.

    Raises:
        DataError: a column cannot be modelled.
    """
    found: dict[str, Found] = {}
    refused: dict[str, DataError] = {}
    of_rows: list[Any] = []
    units: dict[str, str] = {}
    for frame in frames:
        units |= units_of(frame)
        if isinstance(labels, str):
            if labels not in frame:
                raise DataError(
                    f"labels={shown(labels)} is no column of the table; it has "
                    f"{', '.join(frame.columns[:20])}"
                )
            of_rows.append(frame[labels])
            frame = frame.drop(columns=labels)
        for name in frame.columns:
            try:
                if name not in refused:
                    found.setdefault(name, Found(name)).add(frame[name])
            except DataError as error:
                refused[name] = error
    columns = {}
    for name in found.keys() - refused.keys():
        try:
            columns[name] = replace(found[name].column(), unit=units.get(name, ""))
        except DataError as error:
            refused[name] = error
    if refused:
        first, *others = (name for name in found if name in refused)
        more = f" (nor can these be modelled: {shown(others)})" if others else ""
        raise DataError(f"{refused[first]}{more}") from refused[first]
    names: Sequence[str] | None = None
    if of_rows:
        labels, names = _from_zero(of_rows[0] if len(of_rows) == 1 else _pandas().concat(of_rows))
    return Columns({name: columns[name] for name in found}), labels, names


def _from_zero(labels: Any) -> tuple[Any, Sequence[str] | None]:
    """A column of labels; whole numbers that are not 0, 1, ..., K - 1 as these, with themselves for names."""
    known = labels.dropna().tolist()
    whole = all(
        isinstance(c, int | float) and not isinstance(c, bool) and float(c).is_integer() for c in known
    )
    numbers = sorted({int(c) for c in known}) if whole else []
    if numbers == [*range(len(numbers))]:
        return labels, None
    found = labels.astype(object).map({number: i for i, number in enumerate(numbers)}, na_action="ignore")
    return found, [*map(str, numbers)]


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
        if name not in names or missing.all():
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
