"""Draws of a table's rows, as what was given is: by the names of columns, or one DataFrame."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data import DataError
from pyro_vae.data.columns import Column, Columns
from pyro_vae.data.tables import as_pandas, free
from pyro_vae.program import Batch, Program


def check_given(program: Program, batch: Batch) -> None:
    """Refuses rows that lack a column which the model is given.

    Raises:
        DataError: naming the first such row and column.
    """
    for name in program.given_columns:
        missing = batch["x"][:, cast(Columns, program.columns).number(name)].isnan()
        if missing.any():
            raise DataError(
                f"row {int(missing.nonzero()[0])} lacks {name}, which the {type(program).__name__} is given "
                "and cannot infer; give it, or model it, too: pv.VAE(table.event_shapes, likelihood='auto')"
            )


def by_column(columns: Columns, draws: Batch) -> Batch:
    """Draws by site as draws by column, ``[S, B]`` each, beside those of latents of other names."""
    rows = dict(zip(columns, draws["x"].unbind(-1), strict=True))
    return rows | {name: values for name, values in draws.items() if name != "x" and name not in rows}


def as_frame(columns: Columns, given: Any, draws: Tensor, effective_sample_size: Tensor) -> Any:
    """Draws of rows ``[S, B, D]`` as one DataFrame, indexed by the draw and as the given table is.

    What was given is as it was, in double precision, and not as it was rounded on its way. The levels of the
    index are ``draw`` and ``row``, unless a column has that name: then ``draw_`` and ``row_``.
    """
    import pandas as pd

    frame = as_pandas(given)
    rows = columns.encode(frame)
    whole = torch.where(rows.isnan(), draws.cpu().double(), rows)
    number, size, _ = whole.shape
    index, again = frame.index, np.tile(np.arange(size), number)
    levels = [index.get_level_values(level)[again] for level in range(index.nlevels)]
    names = [free("row", columns) if name is None else name for name in index.names]
    levels.insert(0, np.repeat(np.arange(number), size))
    names.insert(0, free("draw", {*columns, *names}))
    made = columns.decode(whole.flatten(0, 1), pd.MultiIndex.from_arrays(levels, names=names))
    made.attrs["effective_sample_size"] = effective_sample_size.tolist()
    return made


def columns_of(columns: Columns | None, site: str) -> list[Column]:
    """The column that a site's values are of, or those of its rows; of other sites none."""
    if columns is None or site not in {"x", *columns}:
        return []
    return [columns.of[site]] if site in columns else list(columns.of.values())
