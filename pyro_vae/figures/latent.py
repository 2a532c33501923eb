"""Latents: between data, one at a time, as a map, as a scatter, level by level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.patheffects import withStroke
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae import checks
from pyro_vae.checks import Count, Seed, checked
from pyro_vae.data import Split
from pyro_vae.evaluate.probes import continuous
from pyro_vae.figures.drawing import Figure, Pictures, colours, on
from pyro_vae.figures.heat import pictures, planes
from pyro_vae.figures.stories import (
    Data,
    Datum,
    batch_of,
    class_of,
    density,
    inferred,
    labels_given,
    latent_sites,
    one,
    repeated,
    shown,
    some,
    told,
    typical,
)
from pyro_vae.figures.tables import cut, refuse_axes
from pyro_vae.program import Program, sites

MOST, APART = 5000, 0.1
"""Data whose latents are drawn; and names among them, of the width and height of all."""


@checked
def interpolation(
    program: Program, start: Datum, end: Datum, num_steps: Count = 12, *, ax: Axes | None = None
) -> Figure:
    """One datum turning into another, along the line between the means of their q(z|x).

    The first and last picture are the data. Covariates go along the line, too; labels change in the middle.

    Args:
        program: the model.
        start: x of the one, ``event_shape``, or a batch of it alone, such as ``split.batch([0])``; of a split
            that is its first.
        end: the other.
        num_steps: pictures between them.
        ax: axes of a figure of one's own to draw on.
    """
    with program.evaluating():
        a, b = one(program, start), one(program, end)
        from_z, to_z = inferred(program, a)[1], inferred(program, b)[1]
        t = torch.linspace(0, 1, num_steps).to(program.device, program.dtype)
        values = {name: _between(from_z[name], to_z[name], t, False) for name in from_z}
        batch = {name: _between(a[name], b[name], t, name in program.classes) for name in a}
        x, centre = shown(told(program, batch, values), "x")
    title = f"From one datum to another: the {centre} of {density('x', *from_z)} along a line of latents"
    ends = ["datum", *[""] * num_steps, "datum"]
    return pictures(program, Pictures([torch.cat([a["x"], x, b["x"]])], title, columns=ends), ax)


def _between(a: Tensor, b: Tensor, t: Tensor, is_label: bool) -> Tensor:
    t = t.reshape(-1, *[1] * (a.dim() - 1))
    if is_label or not a.is_floating_point():
        return torch.where(t < 0.5, a, b)
    return (1 - t) * a + t * b


@checked
def traversals(
    program: Program,
    datum: Datum,
    num_steps: Count = 11,
    *,
    max_rows: Count = 10,
    site: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Each latent of one datum in turn varied over the prior's quantiles, the others and its labels kept.

    The datum comes first in each row, and beside the row its own value of that latent.

    Args:
        program: the model.
        datum: its x, ``event_shape``, or a batch of it alone, such as ``split.batch([0])``; of a split that
            is its first.
        num_steps: quantiles from 0.05 to 0.95, of p(site | those above).
        max_rows: latents drawn, those with the sharpest q(z|x) first.
        site: whose latents are varied; by default those next to the data, ``"z1"`` of a HierarchicalVAE, of
            which a datum says most. Sites above it are kept, and those below follow, at their means.
        ax: axes of a figure of one's own to draw on.
    """
    return pictures(program, traversed(program, datum, num_steps, max_rows, site), ax)


def traversed(
    program: Program, datum: Datum, num_steps: int, max_rows: int, site: str | None = None
) -> Pictures:
    """What ``traversals`` draws."""
    with program.evaluating():
        batch = one(program, datum)
        guide, values = inferred(program, batch)
        trace = told(program, batch, values)
        names, site = _choose(program, trace, site)
        model = dict(sites(trace))
        p, z = model[site]["fn"], model[site]["value"]
        q = dict(sites(guide)).get(site, model[site])["fn"]
        quantiles = _quantiles(p, num_steps)  # which refuses discrete latents
        sharpest = q.sample((1000,)).reshape(1000, -1).std(0).argsort()[:max_rows].tolist()
        varied = z.reshape(-1).repeat(len(sharpest), num_steps, 1)
        for row, d in zip(varied, sharpest, strict=True):
            row[:, d] = quantiles[:, d]
        number = len(sharpest) * num_steps
        above = {name: model[name]["value"] for name in names[: names.index(site)]}
        values = repeated(above, number) | {site: varied.reshape(number, *z.shape[1:])}
        x, _ = shown(told(program, repeated(batch, number), values), "x")
    own = z.reshape(-1).tolist()
    which = f"the {len(sharpest)} of {len(own)} with the" if len(sharpest) < len(own) else "the"
    same = (quantiles == quantiles[:, :1]).all()
    steps = [*map(_short, quantiles[:, 0].tolist())] if same else [f"{q:.0%}" for q in _levels(num_steps)]
    names = [", ".join(map(str, np.unravel_index(d, z.shape[1:]))) for d in sharpest]
    return Pictures(
        [torch.cat([batch["x"].to(row), row]) for row in x.reshape(-1, num_steps, *x.shape[1:])],
        f"One latent at a time over quantiles 0.05 to 0.95 of {density(site, *above)}, {which} sharpest "
        f"q({site}|x) first",
        [f"{site}[{name}] = {_short(own[d])}" for name, d in zip(names, sharpest, strict=True)],
        ["datum", *steps],
    )


@checked
def manifold(
    program: Program,
    num_steps: Count = 15,
    *,
    given: Mapping[str, Any] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Map of a 2-D latent plane: the mean of p(x|z) on a square grid of the prior's quantiles.

    Of a table, a map of each column.

    Args:
        program: a model of one site of two latents.
        num_steps: quantiles from 0.05 to 0.95.
        given: what the model is given, such as ``{"y": 3}``.
        ax: axes of a figure of one's own to draw on.

    Raises:
        ValueError: the latent space is not 2-D, or a label is not given.
    """
    found = mapped(program, num_steps, given)
    if program.columns is None:
        return pictures(program, found, ax)
    refuse_axes(ax)
    return planes(program.columns, found)


def mapped(
    program: Program, num_steps: int, given: Mapping[str, Any] | None = None, down: int = 0
) -> Pictures:
    """What ``manifold`` draws; of as many rows as columns unless ``down`` says how many."""
    with program.evaluating():
        trace = program.simulate(1, given)
        model = dict(sites(trace))
        sizes = {name: model[name]["value"][0].numel() for name in latent_sites(trace)}
        if [*sizes.values()] != [2]:
            has = " and ".join(f"{name} has {size}" for name, size in sizes.items())
            mends = "train with latent_dim=2, or look at figures.traversals"
            raise ValueError(
                f"a map needs a latent plane, but {has}; "
                + (mends if len(sizes) == 1 else "look at figures.levels or figures.traversals")
            )
        if missing := labels_given(program, trace).keys() - (given or {}).keys():
            raise ValueError(
                f"a map is of one {min(missing)}: figures.manifold(..., given={{{min(missing)!r}: 0}})"
            )
        (site,) = sizes
        first = _quantiles(model[site]["fn"], num_steps)[:, 0]
        second = _quantiles(model[site]["fn"], down or num_steps)[:, 1].flip(0)
        z = torch.stack(torch.meshgrid(first, second, indexing="xy"), -1).reshape(-1, 2)
        x, _ = shown(told(program, repeated(batch_of(trace), len(z)), {site: z}), "x")
    title = f"Map of the latent plane, over quantiles 0.05 to 0.95 of {density(site)}"
    return Pictures(
        [*x.reshape(-1, num_steps, *x.shape[1:])],
        title + "".join(f", {s} = {class_of(program, s, v)}" for s, v in (given or {}).items()),
        [*map(_short, second.tolist())],
        [*map(_short, first.tolist())],
        f"{site}[0]",
        f"{site}[1]",
    )


def lined(program: Program, across: int, down: int, given: Mapping[str, Any] | None = None) -> Pictures:
    """The map of one latent, over quantiles as text is read: line by line.

    Raises:
        ValueError: there are several latents, or a label is not given.
    """
    with program.evaluating():
        trace = program.simulate(1, given)
        model = dict(sites(trace))
        names = latent_sites(trace)
        if [model[name]["value"][0].numel() for name in names] != [1]:
            raise ValueError("a line of latents is of one; look at figures.traversals")
        z = _quantiles(model[names[0]]["fn"], across * down).reshape(-1, *model[names[0]]["value"].shape[1:])
        x, _ = shown(told(program, repeated(batch_of(trace), len(z)), {names[0]: z}), "x")
    first = z.reshape(down, across)[:, 0].tolist()
    return Pictures(
        [*x.reshape(down, across, *x.shape[1:])],
        f"Map of the latent, line by line, over quantiles 0.05 to 0.95 of {density(names[0])}"
        + "".join(f", {s} = {class_of(program, s, v)}" for s, v in (given or {}).items()),
        [f"{names[0]} = {_short(value)}" for value in first],
    )


def _short(value: float) -> str:
    """A number of two digits, as -1.6 and 0.042 are."""
    text = f"{value:.1f}" if abs(value) >= 1 or abs(value) < 1e-3 else f"{value:.2g}"
    return text.removeprefix("-") if float(text) == 0 else text


@checked
def latents(
    program: Program,
    data: Data,
    labels: Tensor | np.ndarray | Sequence[float] | None = None,
    *,
    site: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Scatter of the means of q(z|x), coloured by class or number: the latent plane, or its main plane.

    With more than two latents, the projection on their first two principal components.

    Args:
        program: the model.
        data: x, ``[N, *event_shape]``; or a batch; or a split, of which the first 5000 are drawn.
        labels: class of each datum ``[N]``, or a number, of which some are not whole; by default the data's
            own, site ``"y"``.
        site: of the latents; by default those next to the data, ``"z1"`` of a HierarchicalVAE.
        ax: axes of a figure of one's own to draw on.
    """
    figure, axes = on(ax, 6.4, 5.6)
    scattered(axes, program, data, labels, site)
    return figure


def scattered(
    axes: Axes, program: Program, data: Data, labels: Any = None, site: str | None = None, beside: bool = True
) -> None:
    """``latents``; with the names of classes among their points unless a legend may stand ``beside``."""
    z, site, kind, labels = _codes(program, data, labels, site, MOST)
    dim = z.shape[1]
    names = [f"{site}[0]", f"{site}[1]"]
    if dim == 1:
        jitter = torch.rand(len(z), 1, generator=torch.Generator().manual_seed(0)) - 0.5
        z, names = torch.cat([z, jitter], 1), [names[0], "(jitter)"]
    elif dim > 2:
        spread = z - z.mean(0)
        _, s, directions = torch.linalg.svd(spread, full_matrices=False)
        shares = (s.square() / s.square().sum()).tolist()
        z = spread @ directions[:2].T
        names = [f"principal component {i + 1} ({shares[i]:.0%} of the variance)" for i in (0, 1)]
    _scatter(axes, z, labels, data, beside)
    title = f"The {kind} of each q({site}|x), {len(z)} data"
    axes.set(title=title, xlabel=names[0], ylabel=names[1])
    if dim == 1:
        axes.set_yticks([])


@checked
def tsne(
    program: Program,
    data: Data,
    labels: Tensor | np.ndarray | Sequence[float] | None = None,
    *,
    site: str | None = None,
    seed: Seed = 0,
    ax: Axes | None = None,
) -> Figure:
    """Neighbours among the means of q(z|x), laid out in a plane by t-SNE, coloured by class or number.

    Data that are near each other lie together; how far apart groups are, and how large, says little.

    Args:
        program: the model.
        data: as in ``latents``; of a split, the first 2000 are drawn.
        labels: likewise.
        site: likewise.
        seed: of the layout.
        ax: axes of a figure of one's own to draw on.

    Reference: van der Maaten and Hinton, 2008, "Visualizing data using t-SNE".
    """
    from sklearn.manifold import TSNE

    z, site, kind, labels = _codes(program, data, labels, site, 2000)
    if len(z) < 4:
        raise ValueError(
            f"t-SNE needs 4 data or more, and there are {len(z)}; give split.batch(slice(0, 2000))"
        )
    # Its default start, along principal components, needs two of them.
    start = "pca" if z.shape[1] > 1 else "random"
    layout = TSNE(perplexity=min(30.0, (len(z) - 1) / 3), init=start, random_state=seed).fit_transform(
        z.numpy()
    )
    figure, axes = on(ax, 6.4, 5.6)
    _scatter(axes, torch.as_tensor(layout), labels, data)
    axes.set(title=f"t-SNE of the {kind} of each q({site}|x), {len(z)} data", xticks=[], yticks=[])
    return figure


def _codes(
    program: Program, data: Data, labels: Any, site: str | None, most: int
) -> tuple[Tensor, str, str, Tensor | None]:
    """The centres of q(z|x), ``[N, D]``; of which site, and what they are; and labels ``[N]``.

    Raises:
        ValueError: there are not as many labels, or no such site.
    """
    with program.evaluating():
        batch = some(program, data, most)
        guide, values = inferred(program, batch)
        head = {name: value[:1] for name, value in batch.items()}
        model = told(program, head, {name: value[:1] for name, value in values.items()})
    site = _choose(program, model, site)[1]
    z = values[site].reshape(len(values[site]), -1).float().cpu()
    if labels is not None and len(labels) != len(z):
        raise ValueError(f"labels={checks.found(labels)} must be one for each of the {len(z)} data")
    labels = batch.get("y") if labels is None else torch.as_tensor(labels)
    kind = "mode" if dict(sites(guide))[site]["fn"].support.is_discrete else "mean"
    return z, site, kind, None if labels is None or labels.dim() != 1 else labels.cpu()


def _scatter(axes: Axes, z: Tensor, labels: Tensor | None, data: Data, beside: bool = True) -> None:
    """Points ``[N, 2]``, coloured by class or number, with a legend, or a bar where there are many.

    The names of classes stand at the medians of their points where there is no room ``beside``.
    """
    size = min(18.0, max(4.0, 5000 / max(1, len(z))))
    look: dict[str, Any] = {"s": size if beside else size / 2, "alpha": 0.7, "linewidths": 0}
    if labels is None:
        axes.scatter(z[:, 0], z[:, 1], **look)
        return
    known = ~labels.double().isnan()
    if not known.all():
        axes.scatter(z[~known, 0], z[~known, 1], color="lightgrey", **look)
    z, labels = z[known], labels[known]
    if continuous(labels):
        points = axes.scatter(z[:, 0], z[:, 1], c=labels, cmap="viridis", **look)
        axes.figure.colorbar(points, ax=axes, label="label")
        return
    classes, codes = labels.unique(return_inverse=True)
    called = data.class_names if isinstance(data, Split) else None
    names = [str(called[int(k)]) if called else f"{k:g}" for k in classes.tolist()]
    palette = colours(len(classes))
    # In the order of the data, so that no class covers another.
    axes.scatter(z[:, 0], z[:, 1], color=[palette[code] for code in codes.tolist()], **look)
    if len(classes) > (20 if beside else 12):
        ends = BoundaryNorm([code - 0.5 for code in range(len(classes) + 1)], len(classes))
        bar = axes.figure.colorbar(ScalarMappable(ends, ListedColormap(palette)), ax=axes, label="class")
        shown = [*range(0, len(classes), -(-len(classes) // 12))]
        bar.set_ticks(shown, labels=[names[code] for code in shown])
        bar.minorticks_off()
        return
    if not beside:
        if not len(classes):
            return
        edge = [withStroke(linewidth=2.5, foreground="white")]
        names = [cut(name.split(" - ")[0], 10) for name in names]  # of torchvision's "7 - seven"
        middles = torch.stack([z[codes == code].median(0).values for code in range(len(classes))])
        middles = _apart(z, middles, max(map(len, names)))
        for middle, name, colour in zip(middles.tolist(), names, palette, strict=True):
            look = {"fontsize": 9, "fontweight": "bold", "ha": "center", "va": "center", "clip_on": True}
            look |= {"color": [0.7 * part for part in colour[:3]], "path_effects": edge}
            axes.text(middle[0], middle[1], name, **look)
        return
    unknown = [] if known.all() else [("not known", "lightgrey")]
    for name, colour in [*zip(names, palette, strict=True), *unknown]:
        axes.scatter([], [], s=24, color=colour, label=name)
    axes.legend(title="class", loc="center left", bbox_to_anchor=(1, 0.5))


def _apart(z: Tensor, middles: Tensor, letters: int = 1) -> Tensor:
    """Places near ``middles`` among the points, of which no two are too near for names to be read."""
    low, scale = z.amin(0), (z.amax(0) - z.amin(0)).clamp(min=1e-12)
    wide = scale.new_tensor([max(1.0, 0.6 * letters), 1.0])
    scale = scale * wide
    at = (middles - low) / scale
    for _ in range(100):
        between = at[:, None] - at
        distance = between.norm(dim=-1).clamp(min=1e-6)
        push = (APART - distance).clamp(min=0).fill_diagonal_(0.0)
        at = at + (push / distance)[..., None].mul(between).sum(1) / 4
        at = at.clamp(torch.full_like(wide, APART / 2), 1 / wide - APART / 2)
    return low + scale * at


@checked
def levels(
    program: Program,
    num_samples: Count = 8,
    *,
    given: Mapping[str, Any] | None = None,
    site: str = "x",
    seed: int = 0,
    ax: Axes | None = None,
) -> Figure:
    """What each level of latents decides: each row keeps what is above a level, and draws anew from it down.

    The first column is the draw that is kept.

    Args:
        program: a model of several latent sites, such as a HierarchicalVAE.
        num_samples: columns.
        given: what the model is given, such as ``{"y": 3}``.
        site: that is drawn.
        seed: of the draws.
        ax: axes of a figure of one's own to draw on.

    Raises:
        ValueError: there is one level only.
    """
    with program.evaluating(seed):
        first = program.simulate(1, given)
        names = latent_sites(first)
        if len(names) < 2:
            raise ValueError(
                f"the {type(program).__name__} has one level of latents, {', '.join(names)}; take "
                "pv.HierarchicalVAE(data.event_shape, latent_dims=(40, 20)), or look at figures.samples"
            )
        root, centre = shown(first, site)
        rows: list[Tensor] = []
        batch = repeated(batch_of(first), max(1, num_samples - 1))
        for level in range(len(names)):
            kept = {name: dict(sites(first))[name]["value"] for name in names[:level]}
            anew = told(program, batch, repeated(kept, max(1, num_samples - 1)), site, draw=True)
            rows.append(torch.cat([root, shown(anew, site)[0]]))
    labels = [f"{', '.join(names[level:])} anew" for level in range(len(names))]
    title = f"From one level down drawn anew, those above kept: {centre} of {density(site, *names)}"
    return pictures(program, Pictures(rows, title, labels), ax)


def _choose(program: Program, model: Trace, site: str | None) -> tuple[list[str], str]:
    """The latent sites, and that which is meant: by default the one next to the data.

    Raises:
        ValueError: there is no such site, or it is discrete.
    """
    names = latent_sites(model)
    site = names[-1] if site is None else site
    if site not in names:
        raise ValueError(
            f"site={site!r} is none of the {type(program).__name__}'s latents, {', '.join(names)}"
        )
    return names, site


def _quantiles(distribution: Any, num_steps: Count) -> Tensor:
    """Quantiles 0.05 to 0.95 of each element of one value, ``[num_steps, D]``.

    Raises:
        ValueError: the distribution is discrete.
    """
    if distribution.support.is_discrete:
        raise ValueError("discrete latents have no quantiles to go along; look at figures.samples")
    like = typical(distribution).reshape(-1)
    levels = torch.tensor(_levels(num_steps)).to(like)
    try:
        base = distribution.base_dist if distribution.event_shape else distribution
        at = levels.reshape(-1, *[1] * (len(base.batch_shape)))
        quantiles: Tensor = base.icdf(at).reshape(num_steps, -1).expand(num_steps, len(like))
    except (AttributeError, NotImplementedError):
        draws: Tensor = distribution.sample((100_000,)).reshape(100_000, -1).sort(0).values
        quantiles = draws[(levels * (len(draws) - 1)).round().long()]
    return quantiles


def _levels(num_steps: int) -> list[float]:
    found: list[float] = torch.linspace(0.05, 0.95, num_steps).tolist()
    return found
