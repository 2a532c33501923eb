"""One picture of a run: what its latents do, data and reconstructions, its training, the numbers in words."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from pyro_vae import evaluate
from pyro_vae.checks import checked
from pyro_vae.data import Data, Split
from pyro_vae.evaluate import ELBO, LogLikelihood
from pyro_vae.figures.drawing import Cells, Figure, Pictures, curve, wrapped
from pyro_vae.figures.latent import mapped, traversed
from pyro_vae.figures.stories import (
    by_datum,
    density,
    inferred,
    labels_given,
    latent_sites,
    predictive,
    shown,
    some,
    told,
)
from pyro_vae.figures.tables import by_column, reconstructed
from pyro_vae.program import Program, sites

NUM_DATA, NUM_SAMPLES = 1000, 100
"""Held-out data that are measured where no measurements are given, and importance samples for each."""
MAIN = 1.4
"""Width by height of the place of the map."""
CELLS = 140
"""Of a map, about."""


@runtime_checkable
class Run(Protocol):
    """What ``pv.fit`` returns."""

    program: Program
    data: Data
    history: list[dict[str, float]]


@checked
def summary(run: Run, bound: ELBO | None = None, estimate: LogLikelihood | None = None) -> Figure:
    r"""One picture of a run, to be shown around.

    There are the map of a latent plane, or else the latents of which a datum says most, one at a time; data
    and their reconstructions, with the standard deviation that these have over z ~ q(z|x), or of curves the
    central 90 % of ``x' ~ p(x'|z)``; new draws; curves of the training; and the numbers in words. Of a table
    there are its columns. What a program does not have is left out. Images of fewer than 16 pixels along a
    side are drawn smooth, and that is said.

    Args:
        run: of ``pv.fit``, or reopened by ``pv.training.reopen``.
        bound: of ``pv.evaluate.elbo``; by default that of the first 1000 held-out data.
        estimate: of ``pv.evaluate.log_likelihood``; likewise, with 100 importance samples.
    """
    program = run.program
    name, part = run.data.held_out
    measured = Split(part.batch(slice(0, NUM_DATA)), class_names=part.class_names, columns=part.columns)
    bound = bound or evaluate.elbo(program, measured, num_samples=NUM_SAMPLES)
    estimate = estimate or evaluate.log_likelihood(program, measured, num_samples=NUM_SAMPLES)
    figure = Figure(figsize=(13, 6.6), layout="constrained")
    figure.suptitle(f"{type(program).__name__} of {run.data.name}", fontsize=15, fontweight="bold")
    left, right = cast(Any, figure.subfigures(1, 2, width_ratios=(1, 1.1)))
    main, words = left.subfigures(2, 1, height_ratios=(3, 1))
    above, below = right.subfigures(2, 1, height_ratios=(1, 1.05))
    if program.columns is not None:
        by_column({"draws": program}, part, None, 0, "raws of the model", host=main, most=9)
        reconstructed(program, part, host=above, most=6)
    else:
        labels = dict.fromkeys(program.classes, 0)
        wide = _ratio(run.data.event_shapes.get("x", ()))
        across = _between(4, (CELLS * MAIN / wide) ** 0.5, 24)
        down = _between(4, CELLS / across, 24)
        # Each refuses, in words, a program that it is not for.
        _first(
            lambda: _draw(main, mapped(program, across, labels, down)),
            lambda: _draw(main, _traversed(program, part, wide)),
        )
        _first(lambda: _reconstructed(above, program, part, wide))
    if run.history:
        for axes, key in zip(below.subplots(1, 2), ("elbo", "kl"), strict=True):
            curve(axes, run.history, key)
            axes.title.set_size(10)
            axes.tick_params(labelsize=8)
    told = [wrapped(line, 5.9, 10) for line in _words(run, measured, name, bound, estimate)]
    words.text(0.02, 0.95, "\n".join(told), va="top", fontsize=10, linespacing=1.5)
    return figure


def _first(*makers: Callable[[], Any]) -> Any:
    """What the first of them makes that does not refuse; None if all do."""
    for make in makers:
        with contextlib.suppress(ValueError):
            return make()
    return None


def _ratio(shape: Sequence[int]) -> float:
    """Width by height of an image; 1 of all else."""
    pictures = Cells(Pictures([torch.zeros(1, *(shape or (1,)))], ""))
    return 1.0 if pictures.curves else pictures.step[1] / pictures.step[0]


def _between(least: int, value: float, most: int) -> int:
    return max(least, min(most, round(value)))


def _traversed(program: Program, part: Split, wide: float) -> Pictures:
    """The traversals of all levels of latents in one, of several data where there are few.

    Args:
        program, part: as everywhere.
        wide: width by height of an image, on which the numbers of rows and columns hang.
    """
    with program.evaluating():
        batch = program.place(part.batch(slice(0, 1)))
        names = latent_sites(told(program, batch, inferred(program, batch)[1]))
    steps = _between(4, 9 / wide**0.5, 21)
    rows = _between(6, (steps + 1) * wide / MAIN, 12)
    each = max(2, max(7, rows) // len(names))

    def of(i: int) -> list[Pictures]:
        datum = part.batch(slice(i, i + 1))
        found = [_first(partial(traversed, program, datum, steps, each, site)) for site in names]
        return [pictures for pictures in found if pictures]

    if not (found := of(0)):
        raise ValueError("there is no latent that can be varied over quantiles")
    for i in range(1, min(len(part), rows // sum(len(pictures.rows) for pictures in found))):
        found += of(i)
    same = len({tuple(pictures.columns) for pictures in found}) == 1
    levels = [f"{q:.0%}" for q in torch.linspace(0.05, 0.95, steps).tolist()]
    return Pictures(
        [row for pictures in found for row in pictures.rows],
        found[0].title if len(names) == 1 else "One latent of a datum at a time, over quantiles of its prior",
        [label for pictures in found for label in pictures.labels],
        found[0].columns if same else ["datum", *levels],
    )


def _draw(host: Any, pictures: Pictures) -> None:
    cells = Cells(pictures)
    axes = host.subplots()
    cells.draw(axes, smooth=True)
    axes.tick_params(labelsize=8)
    note = f" ({cells.height} x {cells.width} pixels, drawn smooth)" if cells.tiny else ""
    axes.set_title(wrapped(pictures.title + note, 5.8, 10), fontsize=10)
    axes.set_anchor("N")


def _reconstructed(host: Any, program: Program, part: Split, wide: float) -> None:
    """Data, reconstructions, what these leave open, and new draws: images in rows, curves with bands."""
    with program.evaluating():
        batch = some(program, part, _between(3, 10 / wide, 24), "x")
        trace = told(program, batch, inferred(program, batch)[1])
        centre, kind = shown(trace, "x")
        of = density("x", *latent_sites(trace), *labels_given(program, trace))
        again = predictive(program, batch)
        new = shown(told(program, batch, {}, draw=True), "x")[0]
    x = batch["x"]
    if Cells(Pictures([x], "")).curves:
        _bands(host, x[:8], centre[:8], by_datum(dict(sites(again))["x"]["value"])[:, :8])
        return
    low, high = x[~x.isnan()].min(), x[~x.isnan()].max()
    spread = by_datum(shown(again, "x")[0]).std(0)
    rows = [
        x,
        centre.clamp(low, high),
        low + (high - low) * spread / (spread.max() or 1),
        new.clamp(low, high),
    ]
    labels = ["data", "reconstructed", f"± (white: {spread.max():.2g})", "drawn anew"]
    title = f"The {kind} of {of} for data, its standard deviation over q, and new ones"
    _draw(host, Pictures(rows, title, labels))


def _bands(host: Any, x: Tensor, centre: Tensor, draws: Tensor) -> None:
    low, high = draws.quantile(0.05, 0), draws.quantile(0.95, 0)
    panels = host.subplots(2, 4, sharex=True, sharey=True, squeeze=False)
    series = torch.stack([x, centre, low, high]).reshape(4, *x.shape[:2], -1).cpu().numpy()
    for axes, datum in zip(panels.flat, series.transpose(1, 3, 0, 2), strict=False):
        for d, (values, mean, below, above) in enumerate(datum):
            at = range(len(mean))
            axes.fill_between(at, below, above, color=f"C{d}", alpha=0.2, linewidth=0)
            axes.plot(at, mean, color=f"C{d}", linewidth=1)
            axes.plot(at, values, ".", color=f"C{d}", markersize=3)
        axes.tick_params(labelsize=7)
    host.suptitle("Data (dots), reconstructions and the central 90 % of p(x'|x)", fontsize=10)
    host.supxlabel("index, or time", fontsize=8)


def _words(run: Run, measured: Split, name: str, bound: ELBO, estimate: LogLikelihood) -> list[str]:
    """What the model is, what it learnt from, and how good it is."""
    data, shape = run.data, run.data.event_shapes.get("x", ())
    story = re.findall(r" ~ (.* = .*?)\(", run.program.explain())
    more = f" and {len(story) - 4} more" if len(story) > 4 else ""
    gap = estimate.log_likelihood - bound.elbo
    bits = "" if estimate.bits_per_dim is None else f", {estimate.bits_per_dim:.3f} bits per element"
    active = _first(lambda: evaluate.active_units(run.program, measured)) or {}
    return [
        "; ".join(story[:4]) + more,
        f"{len(data.train)} training, {len(data.validation)} validation, {len(data.test)} test data"
        f"{' of ' if shape else ''}{' x '.join(map(str, shape))}; {len(run.history)} epochs",
        f"Of {len(estimate.per_datum)} {name} data, in nats for each, the more the better:",
        f"    log p(x) {estimate.log_likelihood:.2f} ± {estimate.standard_error:.2f}{bits}"
        f", by {estimate.num_samples} importance samples",
        f"    ELBO {bound.elbo:.2f} ± {bound.standard_error:.2f}, {gap:.2f} below: "
        f"reconstruction {bound.reconstruction:.2f}, KL {bound.kl:.2f}",
        "Latents that vary with the data: " + ", ".join(f"{n} of {site}" for site, n in active.items()),
    ]
