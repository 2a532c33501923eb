"""Rows of a table as colours; and what draws those where data of other kinds are pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from pyro_vae.figures.drawing import NOT_OBSERVED, Figure, Pictures, draw, wrapped
from pyro_vae.figures.tables import cut, refuse_axes
from pyro_vae.program import Program


def pictures(program: Program, drawn: Pictures, ax: Axes | None = None) -> Figure:
    """``grid`` of a program's x, and ``heat`` of one that is of a table.

    Raises:
        ValueError: axes are given for a table, which has several panels.
    """
    if program.columns is None:
        return draw(drawn, ax)
    refuse_axes(ax)
    return heat(list(program.columns), drawn)


def heat(names: Sequence[str], drawn: Pictures, host: Any = None) -> Figure:
    """A panel for each of several rows, in which a table's rows are columns, and its columns rows.

    Each of a table's columns has the colours of its own range. Of more than 30 those are there that vary most
    for their size.

    Args:
        names: of the table's columns.
        drawn: rows, each ``[n, D]``; NaN is not observed.
        host: a part of a figure; by default a new one.
    """
    arrays = [row.detach().double().cpu().numpy() for row in drawn.rows]
    every = np.concatenate(arrays)
    low, high = (end(every, axis=0, initial=initial, where=~np.isnan(every)) for end, initial in _ENDS)
    spread = np.where(high > low, high - low, 0.0)
    relative = spread / np.maximum(np.maximum(abs(low), abs(high)), 1e-12)
    shown = np.sort(np.argsort(-relative, kind="stable")[:30])
    scale = np.where(spread > 0, spread, 1.0)
    width = max(0.9, 0.16 * max(map(len, arrays)))
    wide = max(5.0, width * len(arrays) + 2.6)
    figure = host or Figure(figsize=(wide, 0.18 * len(shown) + 1.5), layout="constrained")
    panels = figure.subplots(1, len(arrays), sharey=True, squeeze=False)[0]
    for i, (axes, array) in enumerate(zip(panels, arrays, strict=True)):
        cells = np.where(spread > 0, (array - low) / scale, np.where(np.isnan(array), np.nan, 0.5))
        axes.set_facecolor(NOT_OBSERVED)
        image = axes.imshow(cells[:, shown].T, aspect="auto", vmin=0, vmax=1, interpolation="nearest")
        axes.set_xticks(range(len(drawn.columns)), drawn.columns, rotation=90, fontsize=7)
        label = drawn.labels[i] if i < len(drawn.labels) else ""
        axes.set_title(f"{drawn.down} = {label}" if drawn.down else label, fontsize=8)
        axes.set_xlabel(drawn.across, fontsize=8)
        axes.tick_params(length=0)
    panels[0].set_yticks(range(len(shown)), [cut(names[j], 24) for j in shown], fontsize=7)
    bar = figure.colorbar(image, ax=list(panels), pad=0.01)
    bar.set_ticks([0, 1], labels=["lowest", "highest"], fontsize=8)
    bar.set_label("of each column", fontsize=8)
    more = f", the {len(shown)} of {len(names)} columns that vary most" if len(shown) < len(names) else ""
    figure.suptitle(wrapped(drawn.title + more, wide, 10), fontsize=10)
    return figure


_ENDS: tuple[tuple[Any, float], ...] = ((np.min, np.inf), (np.max, -np.inf))
