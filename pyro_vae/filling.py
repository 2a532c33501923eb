"""Holes of a file, filled by what a program infers from the rest of each row, in a file of the same kind."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae import checkpoint, evaluate
from pyro_vae.checks import ConfigError
from pyro_vae.data import DataError, files, tables
from pyro_vae.data.columns import Columns, few
from pyro_vae.evaluate import Predictions
from pyro_vae.program import Program


def fill(
    program: Program,
    path: Path,
    output: Path,
    num_samples: int,
    *,
    labels: tuple[str, Sequence[str]] | None = None,
    draws: bool = False,
    **options: Any,
) -> None:
    """Writes a table, or an array, without its holes; what is there stays as it is written.

    Args:
        program: whose x the file holds.
        path: a ``.csv`` or ``.parquet`` file with columns of the program's table, or a ``.npy`` file.
        output: file to write, of the same kind, and not there yet.
        num_samples: draws of each row.
        labels: the column of a table that is the program's y, and the names of its classes.
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
        x = files.read(path, stream=False).values["x"]
        drawn = evaluate.predict(program, x, num_samples, **options)["x"].cpu().numpy()
        content = io.BytesIO()
        np.save(content, drawn if draws else drawn.mean(0))
        checkpoint.write(output, content.getvalue())
        return
    frame, columns = tables.read(path), program.columns
    if columns is None:
        raise ConfigError(f"this {type(program).__name__} is no model of a table; give a .npy file of its x")
    by_name = {str(name): frame[name] for name in frame if str(name) in columns}
    _tell_of_others(path, frame, columns, "" if labels is None else labels[0])
    if labels is not None:
        by_name["y"] = _numbers(frame, *labels)
    found = evaluate.predict(program, by_name, num_samples, **options)
    rows = torch.stack([found[n] for n in columns], -1).flatten(0, 1) if draws else _typical(found, columns)
    inferred = columns.decode(rows)
    if labels is not None:
        numbers = found["y"].flatten() if draws else found["y"].mode(0).values
        inferred[labels[0]] = [labels[1][int(number)] for number in numbers]
    whole = tables.filled(path, frame, inferred)
    if draws:
        number = divmod(np.arange(len(whole)), len(frame))
        for place, (name, values) in enumerate(zip(("draw", "row"), number, strict=True)):
            whole.insert(place, tables.free(name, whole.columns), values)
    checkpoint.write(output, tables.as_bytes(whole, output.suffix))


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
        told = [str(value) for value in frame[column][known]]
        if others := {*told} - {*names}:
            raise DataError(f"{column} has {few(sorted(others))}, and the model knows {', '.join(names)}")
        found[torch.from_numpy(known)] = torch.tensor([float(names.index(value)) for value in told])
    return found


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
