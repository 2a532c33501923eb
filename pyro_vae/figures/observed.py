"""Data: drawn, reconstructed, and in every class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from pyro_vae.checks import Count, Seed, checked, found
from pyro_vae.data import Split
from pyro_vae.evaluate.predict import Steps, predict
from pyro_vae.figures.drawing import Figure, Pictures, draw, grid
from pyro_vae.figures.heat import pictures
from pyro_vae.figures.stories import (
    Data,
    class_of,
    density,
    inferred,
    labels_given,
    latent_sites,
    repeated,
    shown,
    some,
    told,
)
from pyro_vae.figures.tables import by_column, reconstructed, refuse_axes
from pyro_vae.program import Program


@checked
def samples(
    program: Program,
    num_samples: Count = 64,
    *,
    given: Mapping[str, Any] | None = None,
    site: str = "x",
    seed: int = 0,
    ax: Axes | None = None,
) -> Figure:
    """Data generated from the model: the mean of p(x|z) at draws z ~ p(z), in a square grid.

    Of a table, the marginals of draws: ``marginals(program)``.

    Args:
        program: the model.
        num_samples: how many.
        given: values by site, such as ``{"y": 3}``. Labels that the model is given, and that are not said,
            take each class in turn: a column each.
        site: that is drawn.
        seed: of the draws.
        ax: axes of a figure of one's own to draw on.
    """
    if program.columns is not None and site == "x":
        refuse_axes(ax)
        return by_column({"draws": program}, None, None, seed, "raws of the model", given)
    with program.evaluating(seed):
        trace = program.simulate(num_samples, given)
        x, centre = shown(trace, site)
    known, names = dict(given or {}), latent_sites(trace)
    labels = {name: number for name, number in labels_given(program, trace).items() if name not in known}
    drawn, beside = ", ".join(names), [*known, *labels]
    title = (
        f"Generated data: {centre} of {density(site, *names, *beside)}, {drawn} ~ {density(drawn, *beside)}"
    )
    said = {
        name: value
        for name, value in known.items()
        if isinstance(value, str | int | float) or (isinstance(value, Tensor) and value.numel() == 1)
    }
    title += "".join(f", {name} = {class_of(program, name, value)}" for name, value in said.items())
    side, columns = max(1, int(num_samples**0.5)), range(0)
    for label, number in [*labels.items()][:1]:
        if number <= 20:
            side, columns, title = (
                number,
                range(min(number, num_samples)),
                f"{title}, a column for each {label}",
            )
    rows = [x[i : i + side] for i in range(0, num_samples, side)]
    return grid(rows, title, columns=[class_of(program, next(iter(labels)), k) for k in columns], ax=ax)


@checked
def reconstructions(program: Program, data: Data, *, site: str = "x", ax: Axes | None = None) -> Figure:
    """Data (above) and the mean of p(x|z) at the mean of q(z|x) (below), where also what was missing is seen.

    Values of images beyond the range of the data, which a Normal may have, are drawn as its ends. Of a
    table, each column by itself: the reconstruction of a number against it, of 50 rows with the central 90 %
    of ``p(x'|x)``, and how often categories come out right.

    Args:
        program: the model.
        data: x, ``[N, *event_shape]``; or a batch; or a split, of which the first 12 are drawn; of a table
            the first 5000 rows.
        site: that is drawn.
        ax: axes of a figure of one's own to draw on.
    """
    if program.columns is not None and site == "x":
        refuse_axes(ax)
        return reconstructed(program, data)
    with program.evaluating():
        batch = some(program, data, 12, site)
        z = inferred(program, batch)[1]
        trace = told(program, batch, z, site)
        y, centre = shown(trace, site)
    x = batch[site]
    known = x[~x.isnan()] if not x.isnan().all() else y
    of = density(site, *latent_sites(trace), *labels_given(program, trace))
    title = f"Data (above) and reconstructions, the {centre} of {of} (below)"
    return draw(Pictures([x, y], title, limits=_ends(known)), ax)


@checked
def inpainting(
    program: Program,
    data: Data,
    known: Tensor | np.ndarray,
    num_samples: Count = 5,
    *,
    num_particles: Count = 1000,
    hmc: Steps = 0,
    seed: Seed = 0,
    ax: Axes | None = None,
) -> Figure:
    """What is given of some data, and the rest of them: as the encoder guesses, as drawn, and as it was.

    The guess decodes the mean of q(z|given), of a guide that was made for whole data, say; draws are those of
    ``pv.predict``, from p(rest|given).

    Args:
        program: the model.
        data: x, ``[N, *event_shape]``, whole; or a batch; or a split, of which the first 8 are drawn.
        known: booleans ``event_shape``, or ``[N, *event_shape]``: which elements are given.
        num_samples: rows of draws.
        num_particles: of ``pv.predict``, and so is hmc.
        hmc: steps that move draws on.
        seed: of the draws.
        ax: axes of a figure of one's own to draw on.

    Raises:
        ValueError: ``known`` has another shape, or is not of booleans.
    """
    batch = some(program, data, 8, "x")
    x, mask = batch["x"], torch.as_tensor(known).to(program.device)
    if mask.dtype != torch.bool or tuple(mask.shape) not in (tuple(x.shape), tuple(x.shape[1:])):
        raise ValueError(
            f"known={found(known)} must be booleans, {list(x.shape[1:])} or {list(x.shape)}, True where a "
            "value is given: known = torch.ones(data.event_shape, dtype=bool); known[..., 14:, :] = False"
        )
    sites = {name: value for name, value in batch.items() if name in (program.event_shapes or batch)}
    given = sites | {"x": torch.where(mask, x, torch.nan)}
    with program.evaluating():
        guessed, centre = shown(told(program, given, inferred(program, given)[1]), "x")
    drawn = predict(program, given, num_samples, num_particles=num_particles, hmc=hmc, seed=seed)["x"]
    rows = [given["x"], torch.where(mask, x, guessed), *drawn, x]
    labels = ["given", "guess", *["drawn"] * len(drawn), "truth"]
    title = f"What is not given: a guess, the {centre} of p(x|z), and draws"
    return pictures(program, Pictures(rows, title, labels, limits=_ends(x[~x.isnan()])), ax)


def _ends(known: Tensor) -> tuple[float, float] | None:
    """The range of data, beyond which the draws of a Normal would make them grey."""
    return (known.min().item(), known.max().item()) if known.numel() else None


@checked
def comparison(
    programs: Mapping[str, Program],
    data: Data,
    *,
    site: str = "x",
    seed: int = 0,
    ax: Axes | None = None,
) -> Figure:
    """Data, and for each of several programs their reconstructions and as many draws, of the same labels.

    Of a table, the marginals of the data and of draws of each.

    Args:
        programs: by name.
        data: as in ``reconstructions``.
        site: that is drawn.
        seed: of the draws.
        ax: axes of a figure of one's own to draw on.
    """
    if not programs:
        raise ValueError("programs={} are none to compare; give one or more by name")
    if site == "x" and all(program.columns is not None for program in programs.values()):
        refuse_axes(ax)
        return by_column(programs, data, None, seed, "raws of each model")
    rows: list[Tensor] = []
    labels = ["data"]
    for name, program in programs.items():
        with program.evaluating(seed):
            batch = some(program, data, 12, site)
            rows = rows or [batch[site].cpu()]
            z = inferred(program, batch)[1]
            for kind, values in (("reconstructed", z), ("drawn", {})):
                rows.append(shown(told(program, batch, values, site, draw=not values), site)[0].cpu())
                labels.append(f"{name}: {kind}")
    title = "Data, reconstructions and draws of each model"
    return draw(Pictures(rows, title, labels, limits=_ends(rows[0][~rows[0].isnan()])), ax)


@checked
def styles(
    program: Program,
    data: Data,
    num_data: Count = 8,
    *,
    site: str = "y",
    class_names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """The same style in all classes: each row a datum, and its latents decoded under each class in turn.

    Args:
        program: a model that is given labels, such as a ConditionalVAE.
        data: a split, or a batch with labels.
        num_data: rows.
        site: of the labels.
        class_names: above the columns; by default those of the split.
        ax: axes of a figure of one's own to draw on.

    Raises:
        ValueError: there are no labels of that name.
    """
    if site not in program.classes:
        raise ValueError(
            f"site={site!r} must be labels that the model is given, and the {type(program).__name__} has no "
            f"labels of that name; take pv.ConditionalVAE(data.event_shape, given={{{site!r}: 10}}), or look "
            "at figures.traversals"
        )
    number = program.classes[site]
    names = class_names or (isinstance(data, Split) and data.class_names) or [*map(str, range(number))]
    if class_names and len(class_names) != number:
        raise ValueError(f"class_names={class_names!r} must be {number} names, one for each class of {site}")
    with program.evaluating():
        batch = {name: value[:num_data] for name, value in some(program, data, num_data).items()}
        values = repeated(inferred(program, batch)[1], number)
        every = repeated(batch, number)
        every[site] = torch.arange(number, device=program.device).repeat(len(batch[site])).to(batch[site])
        latents = [name for name in values if name != site]
        values[site] = every[site]  # where the model draws labels, or infers them
        x, centre = shown(told(program, every, values), "x")
    rows = [*torch.cat([batch["x"][:, None], x.reshape(-1, number, *x.shape[1:])], 1)]
    title = f"The style of each datum in every class: {centre} of {density('x', *latents, site)}"
    return pictures(program, Pictures(rows, title, columns=["data", *names]), ax)
