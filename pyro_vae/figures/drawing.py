"""How data and curves are drawn, whatever program they are of."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import matplotlib.figure
import numpy as np
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyro_vae.checks import checked, found

NOT_OBSERVED = (0.72, 0.84, 0.95)
"""The colour of what is not observed, which is on no grey scale."""


class Figure(matplotlib.figure.Figure):
    """A figure that a notebook shows where it is the value of a cell, whatever matplotlib's backend."""

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.savefig(png, format="png")
        return png.getvalue()


@checked
def grid(
    rows: Sequence[Tensor], title: str, labels: Sequence[str] = (), *, columns: Sequence[str] = ()
) -> Figure:
    """Rows of data in one picture, on one grey scale: images, or curves.

    Vectors ``(T,)`` are curves over their index; and so are series ``(T, D)`` of D numbers at T times, a
    colour for each number, which are told from images by T being 4 D or more.

    Args:
        rows: each ``[columns, *event_shape]``; they may differ in length. NaN is not observed.
        title: above them.
        labels: one beside each row.
        columns: one above each column.
    """
    if not rows or min(row.dim() for row in rows) < 1 or len({row.shape[1:] for row in rows}) > 1:
        shapes = [list(row.shape) for row in rows]
        raise ValueError(f"rows of shapes {shapes} must be one or more, each [columns, *event_shape]")
    number = max(len(row) for row in rows)
    arrays = [row.detach().float().cpu().numpy() for row in rows]
    arrays = [array[:, None] if array.ndim == 1 else array for array in arrays]
    event_shape = arrays[0].shape[1:]
    known = np.concatenate([array[np.isfinite(array)] for array in arrays])
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    scale = (high - low) or 1.0
    size = max(0.35, min(0.75, 9 / number))
    beside = 0.12 * max(map(len, labels), default=0)
    longest = max(map(len, columns), default=0)
    above = 0.4 + (0.1 * longest + 0.2 if longest > 4 else 0.2 * bool(columns))
    curves = len(event_shape) == 1 or (len(event_shape) == 2 and event_shape[0] >= 4 * event_shape[1])
    height, width = (1, max(1, event_shape[0] - 1)) if curves else event_shape[-2:]
    gap = (0.2, 0.1 * width) if curves else (max(1, height // 14), max(1, width // 14))
    step = height + gap[0], width + gap[1]
    size = size * max(1, min(4, 6 / number / size)) if curves else size  # a curve is wider than an image
    wide = max(4, 0.09 * len(title), size * number) + beside
    tall = 0.9 if curves else size * height / width
    figure = Figure(figsize=(wide, tall * len(rows) + above + 0.3 * curves), layout="constrained")
    axes = figure.add_subplot()
    if curves:
        for i, array in enumerate(arrays):
            for j, series in enumerate(array):
                for d, curve in enumerate(series.reshape(len(series), -1).T):
                    x = j * step[1] + np.arange(len(curve))
                    # A value between two that are missing has no line to be seen by.
                    style = ".-" if len(curve) < 3 or np.isnan(curve).any() else "-"
                    y = i * step[0] + 1 - (curve - low) / scale
                    axes.plot(x, y, style, color=f"C{d}", linewidth=0.8, markersize=3)
        _axis_of_time(axes, event_shape[0], step, number, len(rows), low, high)
    else:
        colour = len(event_shape) == 3 and event_shape[0] == 3
        blank = (len(rows) * step[0] - gap[0], number * step[1] - gap[1], 3)
        mosaic = np.ones(blank, np.float32)
        for i, array in enumerate(arrays):
            for j, image in enumerate(array):
                channels = image.reshape(-1, height, width)[: 3 if colour else 1].transpose(1, 2, 0)
                seen = np.where(
                    np.isnan(channels).any(-1, keepdims=True), NOT_OBSERVED, (channels - low) / scale
                )
                top, left = i * step[0], j * step[1]
                mosaic[top : top + height, left : left + width] = seen
        axes.imshow(mosaic, interpolation="nearest")
    axes.set_title(title)
    axes.xaxis.tick_top()
    at = [j * step[1] + width / 2 for j in range(len(columns))]
    axes.set_xticks(at, columns, rotation=90 if longest > 4 else 0)
    axes.set_yticks([i * step[0] + height / 2 for i in range(len(labels))], labels)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def _axis_of_time(
    axes: Any, length: int, step: tuple[float, float], number: int, rows: int, low: float, high: float
) -> None:
    """Below, the index at which each column begins and the last one ends; beside, values of the last row."""
    axes.set_ylim((rows - 1) * step[0] + 1.05, -0.05)
    below = axes.secondary_xaxis("bottom")
    starts = [j * step[1] for j in range(number)]
    below.set_xticks([*starts, starts[-1] + length - 1], ["0"] * number + [str(length - 1)], fontsize=6)
    below.set_xlabel("index, or time", fontsize=8)
    beside = axes.secondary_yaxis("right")
    beside.set_yticks(
        [(rows - 1) * step[0] + 1, (rows - 1) * step[0]], [f"{low:.3g}", f"{high:.3g}"], fontsize=7
    )
    for axis in (below, beside):
        for spine in axis.spines.values():
            spine.set_visible(False)
        axis.tick_params(length=2)


@checked
def training_curves(history: Sequence[dict[str, float]]) -> Figure:
    """ELBO, reconstruction and KL by epoch, from a run's history; by site where there are several."""
    if not history or not {"epoch", "elbo", "reconstruction", "kl"} <= history[0].keys():
        raise ValueError(f"history={found(history)} must be the rows of a run: run.history")
    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, key, title in zip(
        figure.subplots(1, 3),
        ("elbo", "reconstruction", "kl"),
        ("ELBO", "Reconstruction, -E[log p(x|z)]", "KL(q(z|x) || p(z))"),
        strict=True,
    ):
        sites = [name.removeprefix(f"{key}_") for name in history[0] if name.startswith(f"{key}_")]
        if sites:
            title = {"reconstruction": "Reconstruction", "kl": "KL"}[
                key
            ] + f" of {', '.join(sites)}, and in all"
        shown: list[float] = []
        for i, name in enumerate([key, *(f"{key}_{site}" for site in sites)]):
            of = f"{sites[i - 1]}, " if i else ""
            for prefix, label, style in (("", "training", "--"), ("validation_", "validation", "-")):
                if prefix + name not in history[0]:
                    continue
                values = [row[prefix + name] for row in history]
                look: dict[str, Any] = {"color": f"C{i}", "linestyle": style} if sites else {}
                axes.plot(epochs, values, label=of + label, **look)
                # The first epochs of an untrained model would flatten all that follows.
                shown += values[len(values) // 20 :]
        margin = 0.1 * (max(shown) - min(shown)) or 1.0
        axes.set_ylim(min(shown) - margin, max(shown) + margin)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(title=title, xlabel="epoch", ylabel="nats per datum")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small" if sites else None)
    return figure


def colours(number: int) -> list[Any]:
    """So many colours that can be told apart, as far as there are."""
    name = "tab10" if number <= 10 else "tab20" if number <= 20 else "turbo"
    palette = matplotlib.colormaps[name]
    return [palette(i if number <= 20 else i / (number - 1)) for i in range(number)]
