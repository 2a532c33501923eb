"""Holes of a file, filled by what a program infers from the rest of each row, in a file of the same kind."""

from __future__ import annotations

import ast
import contextlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pyro_vae import checkpoint, evaluate
from pyro_vae.checks import ConfigError
from pyro_vae.data import Binarize, DataError, Split, files, tables
from pyro_vae.data.columns import Columns, few
from pyro_vae.evaluate import Predictions
from pyro_vae.program import Program


def fill(
    program: Program,
    path: Path,
    output: Path,
    num_samples: int,
    *,
    labels: str | None = None,
    binarize: Binarize = "none",
    levels: bool = False,
    draws: bool = False,
    **options: Any,
) -> None:
    """Writes a table, or arrays, without holes; what is there stays as it is written.

    Args:
        program: whose x the file holds.
        path: a ``.csv`` or ``.parquet`` file with columns of the program's table, or a ``.npy`` file of its
            x, or a ``.npz`` file of its sites, of which labels that it lacks are not known.
        output: file to write, of the same kind, and not there yet.
        num_samples: draws of each row.
        labels: the column of a table that is the program's y.
        binarize: of arrays, as the program's data were; what was drawn anew is drawn once.
        levels: likewise.
        draws: write all of them, one after the other, instead of their means, medians or modes.
        options: of ``evaluate.predict``.

    Raises:
        ConfigError: the output exists or is of another kind, or the program is none of a table.
        DataError: the file has no column of the program's, or other values.
    """
    if output.suffix != path.suffix:
        raise ConfigError(f"output={output} is no {path.suffix} file, as the data are")
    if output.exists():
        raise ConfigError(f"output={output} is there already; remove it, or name another")
    if path.suffix not in tables.SUFFIXES:
        content = io.BytesIO()
        made = _arrays(program, path, num_samples, binarize, levels, draws, options)
        if path.suffix == ".npz":
            np.savez(content, **cast(Any, made))
        else:
            np.save(content, made["x"])
        checkpoint.write(output, content.getvalue())
        return
    frame, columns = tables.read(path), program.columns
    if columns is None:
        raise ConfigError(f"this {type(program).__name__} is no model of a table; give a .npy file of its x")
    by_name = {str(name): frame[name] for name in frame if str(name) in columns}
    labels = labels if "y" in program.classes else None
    _tell_of_others(path, frame, columns, labels or "")
    if labels is not None:
        by_name["y"] = _numbers(frame, labels, _names(program))
    found = evaluate.predict(program, by_name, num_samples, **options)
    rows = torch.stack([found[n] for n in columns], -1).flatten(0, 1) if draws else _typical(found, columns)
    inferred = columns.decode(rows)
    if labels is not None and "y" in found:
        numbers = found["y"].flatten() if draws else _likeliest(program, by_name, found)
        inferred[labels] = _written(frame, labels, [_names(program)[int(number)] for number in numbers])
    whole = tables.filled(path, frame, inferred)
    if draws:
        number = divmod(np.arange(len(whole)), len(frame))
        for place, (name, values) in enumerate(zip(("draw", "row"), number, strict=True)):
            whole.insert(place, tables.free(name, whole.columns), values)
    checkpoint.write(output, tables.as_bytes(whole, output.suffix))


def _arrays(
    program: Program,
    path: Path,
    num_samples: int,
    binarize: Binarize,
    levels: bool,
    draws: bool,
    options: dict[str, Any],
) -> dict[str, np.ndarray]:
    """The arrays of a file by site, with those of the program's that it lacks, and without holes."""
    held = files.read(path, stream=False)
    given: dict[str, Any] = {n: v for n, v in held.values.items() if n in program.event_shapes or n == "x"}
    once: Binarize = "static" if binarize == "dynamic" else binarize
    split = Split({"x": given["x"]}, divisor=1.0 if levels else held.divisor, binarize=once)
    names = held.class_names
    if names is not None and "y" in given:  # numbered in the order of those that are there
        given["y"] = program.class_numbers([names[int(k)] if k == k else None for k in given["y"].tolist()])
    given["x"] = split[:]
    found = evaluate.predict(program, given, num_samples, **options)
    made = {site: np.asarray(values) for site, values in held.values.items()}
    for site in found.keys() & {"x", *program.event_shapes}:
        own = found.mean(site) if site != "y" else _likeliest(program, given, found)
        own = (found[site] if draws else own).cpu()
        if site == "y" and (names or (program.class_names and site not in given)):
            made[site] = np.array(_names(program))[own.long().numpy()]
        elif site in given:
            there = np.asarray(held.values[site])
            made[site] = np.where(np.isnan(there), own.numpy(), there)
        else:
            made[site] = own.numpy()
    return made


def _likeliest(program: Program, given: Any, found: Predictions) -> Tensor:
    """Each datum's class, ``[B]``: by the classifier, which labels taught, or else the most frequent draw."""
    classify = getattr(program, "classify", None)
    return found["y"].mode(0).values if classify is None else classify(given).argmax(-1)


def _names(program: Program) -> list[str]:
    """The names of classes, or their numbers."""
    names = [*(program.class_names or ())]
    return [*names, *map(str, range(len(names), program.classes["y"]))]


def _typical(found: Predictions, columns: Columns) -> Tensor:
    """Of each row the mean of real numbers, the median of others, the mode of categories."""
    typical = [
        found.quantile(0.5, name) if column.whole and not column.levels else found.mean(name)
        for name, column in columns.of.items()
    ]
    return torch.stack(typical, -1)


def _numbers(frame: Any, column: str, names: Sequence[str]) -> Tensor:
    """The labels of a table as numbers, ``[N]``, NaN where they are not known.

    Raises:
        DataError: one is none of the program's classes.
    """
    found = torch.full((len(frame),), torch.nan)
    if column in frame:
        known = frame[column].notna().to_numpy(copy=True)
        told = [_name(value) for value in frame[column][known].tolist()]
        if others := {*told} - {*names}:
            raise DataError(f"{column} has {few(sorted(others))}, and the model knows {few(names)}")
        found[torch.from_numpy(known)] = torch.tensor([float(names.index(value)) for value in told])
    return found


def _name(label: Any) -> str:
    """What a label is called; whole numbers beside holes are read as 1.0."""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def _written(frame: Any, column: str, names: Sequence[str]) -> Any:
    """Names of classes as values of a column, if it is there."""
    if column not in frame:
        return [*names]
    there = frame[column]
    of = {_name(value): value for value in there.dropna().unique().tolist()}
    if there.dtype.kind in "biuf":
        with contextlib.suppress(ValueError, SyntaxError):  # of names, where all are holes
            of = {name: ast.literal_eval(name) for name in names} | of
    values = [of.get(name, name) for name in names]
    if there.dtype == "category":
        dtype = there.cat.add_categories([*{*values} - {*there.cat.categories}]).dtype
        return type(there)(values, dtype=dtype)
    return values


def _tell_of_others(path: Path, frame: Any, columns: Columns, labels: str) -> None:
    """Says which columns of a file the model does not have, and which of its own are not there.

    Raises:
        DataError: the file has none of the model's.
    """
    names = list(map(str, frame.columns))
    others = [name for name in names if name not in columns and name != labels]
    absent = [name for name in columns if name not in names]
    if len(absent) == len(columns):
        columns.number(names[0])
    told = [f"{few(others)}: no column of the model, left as it is"] if others else []
    told += [f"{few(absent)}: not there, and filled in each row"] if absent else []
    if told:
        print(f"pyro-vae: {path}: {'; '.join(told)}", file=sys.stderr)
