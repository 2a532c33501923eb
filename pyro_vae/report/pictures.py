"""What is not in figures: sites of single numbers, what reconstructions keep, data with a number each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae import figures
from pyro_vae.data import Split
from pyro_vae.evaluate.simulated import drawn_sites, simulated
from pyro_vae.figures import Figure
from pyro_vae.figures.drawing import on
from pyro_vae.figures.stories import inferred, shown, told
from pyro_vae.figures.tables import cut
from pyro_vae.program import Program
from pyro_vae.seen import observing

BARS = 20
"""Values that are bars beside each other, and not the bins of a histogram."""


def numbers(program: Program, data: Split, site: str, seed: int) -> Figure:
    """Of a site of one number for each datum, how often values are in the data, and in as many draws."""
    with program.evaluating(seed), observing(data.gaps):
        rows = program.place(data.batch(slice(0, len(data)), program.dtype))
        own = rows[site]
        drawn = simulated(program, rows)[1][site]
    both = [values[~values.isnan()].double().cpu().numpy() for values in (own, drawn)]
    figure, axes = on(None, 5, 3)
    every = np.unique(np.concatenate(both))
    if (every == every.round()).all() and every[-1] - every[0] < BARS:
        edges: np.ndarray = np.arange(every[0] - 0.5, every[-1] + 1)
    else:
        low, high = np.quantile(np.concatenate(both), [0.005, 0.995])
        edges = np.linspace(low, high if high > low else low + 1, 31)
    for values, colour, label in zip(both, ("0.75", "C0"), ("data", "draws"), strict=True):
        share = np.histogram(values, edges)[0] / max(1, len(values))
        named = f"{label} ({len(values)} known)" if len(values) < len(data) else label
        axes.stairs(share, edges, color=colour, fill=label == "data", linewidth=1.5, label=named)
    if site == "y" and program.class_names:
        shown_at = [k for k in range(len(program.class_names)) if edges[0] < k < edges[-1]]
        axes.set_xticks(shown_at, [cut(program.class_names[k], 12) for k in shown_at])
    axes.set(xlabel=site, ylabel="share", title=f"{site}: data and draws of the model")
    axes.legend(fontsize="small")
    return figure


def variance_kept(program: Program, data: Split) -> dict[str, float]:
    r"""Share of the variance of each site that reconstructions have, or of each of a table's columns.

    .. math:: 1 - \frac{\sum_n |x_n - \hat x_n|^2}{\sum_n |x_n - \bar x|^2}

    with :math:`\hat x` what figures show, at the centres of the guide's latents; of categories, which have no
    distances, there is none.
    """
    found: dict[str, float] = {}
    with program.evaluating():
        batch = program.place(data.batch(slice(0, len(data)), program.dtype))
        values = inferred(program, batch)[1]
        for site in drawn_sites(program, batch):
            trace = told(program, batch, values, site)
            y = shown(trace, site)[0]
            x, fn = batch[site], trace.nodes[site]["fn"]
            while isinstance(fn, torch.distributions.Independent):
                fn = fn.base_dist
            if site == "x" and program.columns is not None:
                for name, column in program.columns.of.items():
                    j = program.columns.number(name)
                    if not column.levels and name not in program.given_columns:
                        found[name] = _share(x[:, j], y[:, j])
            elif not isinstance(fn, torch.distributions.Categorical | torch.distributions.OneHotCategorical):
                found[site] = _share(x, y.reshape(x.shape))
    return found


def _share(x: Tensor, y: Tensor) -> float:
    known = ~x.isnan()
    mean = x.nanmean(0)
    left, whole = ((x - other)[known].double().square().sum() for other in (y, mean))
    return (1 - left / whole).item() if whole > 0 else math.nan


def data(
    program: Program, split: Split, at: Tensor, title: str, beside: Mapping[str, Sequence[str]]
) -> Iterator[Any]:
    """Some of the data, each with what is said of it: images and curves as pictures, all else as a table."""
    batch = split.batch(at)
    told = {name: list(values) for name, values in beside.items() if values}
    first = next(iter(told.values()))
    if program.columns is not None:
        frame = program.columns.decode(batch["x"])
        for place, (name, values) in enumerate(told.items()):
            frame.insert(place, name, values)
        frame.index = at.tolist()
        frame.columns.name = "place"
        yield title
        yield frame
        return
    with program.evaluating():
        sites = drawn_sites(program, program.place(batch))
    for site in sites:
        x = batch[site]
        columns = [f"{i}: {t}" for i, t in zip(at.tolist(), first, strict=True)]
        if x.dim() == 1:
            columns = [f"{label} ({value:.3g})" for label, value in zip(columns, x.tolist(), strict=True)]
            yield f"{title}; {site} in brackets: {', '.join(columns)}"
        else:
            yield figures.grid([x], f"{title}" + f", {site}" * (len(sites) > 1), columns=columns)
