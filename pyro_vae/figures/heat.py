"""Rows of a table as colours; and what draws those where data of other kinds are pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap

from pyro_vae.data.columns import Columns
from pyro_vae.figures.drawing import NOT_OBSERVED, Figure, Pictures, colours, draw, wrapped
from pyro_vae.figures.tables import MOST, column_levels, cut, entitle, panels, refuse_axes
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


def heat(names: Sequence[str], drawn: Pictures) -> Figure:
    """A panel for each of several rows, in which a table's rows are columns, and its columns rows.

    Each of a table's columns has the colours of its own range. Of more than 30 those are there that vary most
    for their size.

    Args:
        names: of the table's columns.
        drawn: rows, each ``[n, D]``; NaN is not observed.
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
    figure = Figure(figsize=(wide, 0.18 * len(shown) + 1.5), layout="constrained")
    beside = figure.subplots(1, len(arrays), sharey=True, squeeze=False)[0]
    for i, (axes, array) in enumerate(zip(beside, arrays, strict=True)):
        cells = np.where(spread > 0, (array - low) / scale, np.where(np.isnan(array), np.nan, 0.5))
        axes.set_facecolor(NOT_OBSERVED)
        image = axes.imshow(cells[:, shown].T, aspect="auto", vmin=0, vmax=1, interpolation="nearest")
        axes.set_xticks(range(len(drawn.columns)), drawn.columns, rotation=90, fontsize=7)
        label = drawn.labels[i] if i < len(drawn.labels) else ""
        axes.set_title(f"{drawn.down} = {label}" if drawn.down else label, fontsize=8)
        axes.set_xlabel(drawn.across, fontsize=8)
        axes.tick_params(length=0)
    beside[0].set_yticks(range(len(shown)), [cut(names[j], 24) for j in shown], fontsize=7)
    bar = figure.colorbar(image, ax=list(beside), pad=0.01)
    bar.set_ticks([0, 1], labels=["lowest", "highest"], fontsize=8)
    bar.set_label("of each column", fontsize=8)
    more = f", the {len(shown)} of {len(names)} columns that vary most" if len(shown) < len(names) else ""
    figure.suptitle(wrapped(drawn.title + more, wide, 10), fontsize=10)
    return figure


def planes(columns: Columns, drawn: Pictures) -> Figure:
    """A panel for each of a table's columns: its values over a plane of latents, with a bar in its units.

    Of more than 20 columns those are there that vary most for their size.

    Args:
        columns: of the table.
        drawn: rows of the plane, each ``[n, D]``, with the values of the latents beside and above them.
    """
    plane = torch.stack([*drawn.rows]).double().cpu().numpy()
    low, high = plane.min((0, 1)), plane.max((0, 1))
    relative = (high - low) / np.maximum(np.maximum(abs(low), abs(high)), 1e-12)
    names = [[*columns][j] for j in np.sort(np.argsort(-relative, kind="stable")[:MOST])]

    def draw(axes: Axes, name: str) -> None:
        column, values = columns.of[name], plane[:, :, [*columns].index(name)]
        if column.levels or column.kind == "boolean":
            names = column_levels(column)
            ends = BoundaryNorm(np.arange(len(names) + 1) - 0.5, len(names))
            image = axes.imshow(values, norm=ends, cmap=ListedColormap(colours(len(names))), aspect="auto")
            bar = axes.figure.colorbar(image, ax=axes)
            shown = [*range(0, len(names), -(-len(names) // 8))]
            bar.set_ticks(shown, labels=[cut(names[code], 12) for code in shown])
            bar.minorticks_off()
        else:
            bar = axes.figure.colorbar(axes.imshow(values, aspect="auto"), ax=axes)
        bar.ax.tick_params(labelsize=7)
        for axis, labels in ((axes.xaxis, drawn.columns), (axes.yaxis, drawn.labels)):
            at = sorted({0, len(labels) // 2, len(labels) - 1})
            axis.set_ticks(at, [labels[i] for i in at])
        axes.set_xlabel(drawn.across, fontsize=7)
        axes.set_ylabel(drawn.down, fontsize=7)
        entitle(axes, name, columns.units.get(name))

    more = f", the {len(names)} of {len(columns)} columns that vary most" if len(names) < len(columns) else ""
    return panels(names, draw, drawn.title + more, [])


_ENDS: tuple[tuple[Any, float], ...] = ((np.min, np.inf), (np.max, -np.inf))
