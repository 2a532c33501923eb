"""One picture of a run: what its latents do, data and reconstructions, its training, the numbers in words."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from matplotlib.figure import FigureBase
from torch import Tensor

from pyro_vae import evaluate
from pyro_vae.checks import checked
from pyro_vae.data import Data, Split
from pyro_vae.data.binarize import grey
from pyro_vae.evaluate import ELBO, LogLikelihood
from pyro_vae.figures.drawing import Cells, Figure, Pictures, curve, index_of, whole, within, wrapped
from pyro_vae.figures.latent import MOST, lined, mapped, scattered, traversed
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
from pyro_vae.models import SequentialVAE
from pyro_vae.program import Program, sites

NUM_DATA, NUM_SAMPLES = 1000, 100
"""Held-out data that are measured where no measurements are given, and importance samples for each."""
MAIN = 1.4
"""Width by height of the place of the map."""
CELLS = 140
"""Of a map, about."""
WIDE = 5.2
"""Inches of its columns, about."""
ROWS, LOOKED_AT = 7, 100
"""Latents of a datum that are varied, about; and data of which the most typical is that datum."""


@runtime_checkable
class Run(Protocol):
    """What ``pv.fit`` returns."""

    program: Program
    data: Data
    history: list[dict[str, float]]


@checked
def summary(
    run: Run,
    bound: ELBO | None = None,
    estimate: LogLikelihood | None = None,
    *,
    figure: FigureBase | None = None,
) -> Figure:
    r"""One picture of a run, to be shown around.

    There are the map of a latent plane, or line, or else the latents of which a datum says most, one at a
    time, or new data where latents are discrete, or a path; data and their reconstructions, with the standard
    deviation that these have over z ~ q(z|x), or of curves the central 90 % of ``x' ~ p(x'|z)``; new draws;
    where the data lie among the latents; curves of the training; and the numbers in words. The datum whose
    latents are varied is, of the first 100 held-out ones, that at the median distance from the mean of their
    latents. Of a table there are its columns. What a program does not have is left out. Images of fewer than
    16 pixels along a side are drawn smooth, and that is said.

    Args:
        run: of ``pv.fit``, or reopened by ``pv.training.reopen``.
        bound: of ``pv.evaluate.elbo``; by default that of the first 1000 held-out data.
        estimate: of ``pv.evaluate.log_likelihood``; likewise, with 100 importance samples.
        figure: a part of a figure of one's own, or all of it, to draw on.
    """
    program = run.program
    name, part = run.data.held_out
    measured = Split(part.batch(slice(0, NUM_DATA)), class_names=part.class_names, columns=part.columns)
    bound = bound or evaluate.elbo(program, measured, num_samples=NUM_SAMPLES)
    estimate = estimate or evaluate.log_likelihood(program, measured, num_samples=NUM_SAMPLES)
    host = within(figure, 13, 6.6)
    host.suptitle(f"{type(program).__name__} of {run.data.name}", fontsize=15, fontweight="bold")
    left, right = host.subfigures(1, 2, width_ratios=(1, 1.1))
    main, words = left.subfigures(2, 1, height_ratios=(3, 1))
    wide = _ratio(run.data.event_shapes.get("x", ()))
    high = 3.5 if program.columns is not None else _height(part, wide)
    above, below = right.subfigures(2, 1, height_ratios=(high, 6.2 - high))
    if program.columns is not None:
        by_column({"draws": program}, part, None, 0, "raws of the model", host=main, most=9)
        reconstructed(program, part, host=above, most=6)
    else:
        labels = dict.fromkeys(program.classes, 0)
        across = _between(4, (CELLS * MAIN / wide) ** 0.5, 24)
        down = _between(4, CELLS / across, 24)
        # Each refuses, in words, a program that it is not for.
        _first(
            lambda: _draw(main, mapped(program, across, labels, down)),
            lambda: _draw(main, lined(program, max(4, across // 2), max(3, down // 2), labels)),
            lambda: _draw(main, _traversed(program, part, wide)),
            lambda: _draw(main, _generated(program, max(4, across // 2), max(3, down // 2))),
        )
        _first(lambda: _reconstructed(above, program, part, wide))
    _below(below, run, name, part)
    told = [wrapped(line, 5.9, 10) for line in _words(run, measured, name, bound, estimate)]
    words.text(0.02, 0.95, "\n".join(told), va="top", fontsize=10, linespacing=1.5)
    return whole(host)


def _below(host: Any, run: Run, name: str, part: Split) -> None:
    """Where the data lie among the latents, and curves of the training, where there are such."""
    curves = ("elbo", "kl") if run.history else ()
    panels: list[Any] = [*host.subplots(1, 1 + len(curves), squeeze=False)[0]]
    try:
        scattered(panels[0], run.program, part, beside=False)
        panels[0].set_title(f"Where {min(len(part), MOST)} {name} data lie")
    except ValueError:  # of a program without such latents
        panels.pop(0).remove()
    for axes, key in zip(panels[len(panels) - len(curves) :], curves, strict=True):
        curve(axes, run.history, key, legend=key == "elbo")
    for axes in panels:
        axes.title.set_size(10)
        axes.tick_params(labelsize=8)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set(fontsize=9, text=label.get_text().replace(" of the variance", ""))


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
        if isinstance(program, SequentialVAE):
            raise ValueError("one step of a path alone says little")
        order = _typical(program, part)

    def of(i: int, steps: int) -> list[Pictures]:
        datum = part.batch(slice(i, i + 1))
        each = max(2, ROWS // len(names))
        found = [_first(partial(traversed, program, datum, steps, each, site)) for site in names]
        return [pictures for pictures in found if pictures]

    if not (number := sum(len(pictures.rows) for pictures in of(order[0], 2))):
        raise ValueError("there is no latent that can be varied over quantiles")
    order = order[: max(1, round(max(ROWS - 1, 5 * wide / MAIN) / number))]
    steps = _between(4, number * len(order) * MAIN / wide - 1, 21)
    found = [pictures for i in order for pictures in of(i, steps)]
    same = len({tuple(pictures.columns) for pictures in found}) == 1
    levels = [f"{q:.0%}" for q in torch.linspace(0.05, 0.95, steps).tolist()]
    return Pictures(
        [row for pictures in found for row in pictures.rows],
        found[0].title if len(names) == 1 else "One latent at a time over quantiles of its prior",
        [label for pictures in found for label in pictures.labels],
        found[0].columns if same else ["datum", *levels],
    )


def _generated(program: Program, across: int, down: int) -> Pictures:
    """What ``samples`` draws."""
    with program.evaluating(0):
        trace = program.simulate(across * down)
        x, centre = shown(trace, "x")
    z = ", ".join(latent_sites(trace))
    of = density("x", *latent_sites(trace), *labels_given(program, trace))
    return Pictures(
        [*x.reshape(down, across, *x.shape[1:])], f"Generated data: {centre} of {of}, {z} ~ p({z})"
    )


def _typical(program: Program, part: Split) -> list[int]:
    """Indices of the first data, those first that are as far from the mean of all latents as most are."""
    values = inferred(program, program.place(part.batch(slice(0, LOOKED_AT))))[1]
    z = torch.cat([value.reshape(len(value), -1).double() for value in values.values()], 1)
    distance = ((z - z.mean(0)) / z.std(0, correction=0).clamp(min=1e-6)).square().sum(1)
    found: list[int] = (distance - distance.median()).abs().argsort(stable=True).tolist()
    return found


def _draw(host: Any, pictures: Pictures) -> None:
    cells = Cells(pictures)
    axes = host.subplots()
    cells.draw(axes, smooth=True)
    axes.tick_params(labelsize=8)
    longest = max(map(len, pictures.columns), default=0)  # names that would run into each other are smaller
    axes.tick_params(axis="x", labelsize=min(8.0, WIDE * 72 / cells.number / (0.6 * (longest + 1))))
    note = f" ({cells.height} x {cells.width} pixels, drawn smooth)" if cells.tiny else ""
    axes.set_title(wrapped(pictures.title + note, 5.8, 10), fontsize=10)
    axes.set_anchor("N")


def _reconstructed(host: Any, program: Program, part: Split, wide: float) -> None:
    """Data, reconstructions, what these leave open, and new draws: images in rows, curves with bands."""
    with program.evaluating():
        before = grey(part.sources.get("x"), _columns(part, wide))
        batch = some(program, part, _columns(part, wide), "x")
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
    if before is not None:
        rows, labels = [before.to(x), *rows], [labels[0], "binarised", *labels[1:]]
    title = f"The {kind} of {of} for data, its standard deviation over q, and new ones"
    _draw(host, Pictures(rows, title, labels))


def _columns(part: Split, wide: float) -> int:
    """How many data are drawn, so that their rows fill their place."""
    return min(len(part), _between(3, 2.2 * _rows(part) / wide, 24))


def _rows(part: Split) -> int:
    return 4 if grey(part.sources.get("x"), 0) is None else 5


def _height(part: Split, wide: float) -> float:
    """Inches that these rows take, with their title: they are 5.7 wide, without what stands beside them."""
    return min(3.4, max(2.4, 0.6 + 5.7 * _rows(part) / (_columns(part, wide) * wide)))


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
    host.supxlabel(index_of(x.shape[1:]), fontsize=8)


def _words(run: Run, measured: Split, name: str, bound: ELBO, estimate: LogLikelihood) -> list[str]:
    """What the model is, what it learnt from, and how good it is."""
    data, shape = run.data, run.data.event_shapes.get("x", ())
    story = re.findall(r" ~ (.* = .*?)\(", run.program.explain())
    more = f" and {len(story) - 4} more" if len(story) > 4 else ""
    gap = estimate.log_likelihood - bound.elbo
    bits = "" if estimate.bits_per_dim is None else f", {estimate.bits_per_dim:.3f} bits per element"
    anatomy = _first(lambda: evaluate.anatomy(run.program, measured, [0] * len(measured), num_aggregate=2))
    latents = anatomy.sites if anatomy else {}
    kept = [f"{s.num_latents - s.collapsed} of {s.num_latents} of {name}" for name, s in latents.items()]
    return [
        "; ".join(story[:4]) + more,
        f"{len(data.train)} training, {len(data.validation)} validation, {len(data.test)} test data"
        f"{' of ' if shape else ''}{' x '.join(map(str, shape))}; {len(run.history)} epochs",
        f"Of {len(estimate.per_datum)} {name} data, in nats for each, the more the better:",
        f"    log p(x) {estimate.log_likelihood:.2f} ± {estimate.standard_error:.2f}{bits}"
        f", by {estimate.num_samples} importance samples",
        f"    ELBO {bound.elbo:.2f} ± {bound.standard_error:.2f} = "
        f"-(reconstruction {bound.reconstruction:.2f} + KL {bound.kl:.2f}), {gap:.2f} below",
        *["The training's ELBO and KL have those of the weights in them."] * bool(run.program.bayesian),
        *[f"Latents that have not collapsed: {', '.join(kept)}"] * bool(kept),
    ]
