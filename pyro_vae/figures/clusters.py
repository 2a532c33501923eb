"""Clusters: what each stands for, and the data that are most surely of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from pyro import poutine
from torch import Tensor

from pyro_vae import evaluate
from pyro_vae.checks import Count, Seed, checked
from pyro_vae.checks import found as found_in
from pyro_vae.data import Split
from pyro_vae.evaluate.clusters import middles
from pyro_vae.evaluate.door import as_split
from pyro_vae.evaluate.probes import continuous
from pyro_vae.figures.drawing import Figure, Pictures
from pyro_vae.figures.heat import pictures
from pyro_vae.figures.stories import Data, shown, told
from pyro_vae.program import Program

MOST = 20
"""Clusters that are drawn: the largest."""


@checked
def clusters(
    program: Program,
    data: Data,
    num_data: Count = 5,
    *,
    labels: Tensor | np.ndarray | Sequence[float] | None = None,
    site: str | None = None,
    seed: Seed = 0,
    ax: Axes | None = None,
) -> Figure:
    """Each cluster's middle, decoded, and below it the data that most probably are of it; a column each.

    The middle of a mixture's component is its mean. Columns are in the order of the clusters' sizes, the 20
    largest; above each stand its number k, as ``evaluate.clusters`` has it, its share of the data and, where
    there are labels, the commonest class of the data that are most probably of it, with that one's share of
    them. Data that are no cluster's most probable ones leave a gap.

    Args:
        program: the model: see ``evaluate.clusters``.
        data: a split such as ``data.test``, a batch, or a tensor ``[N, *event_shape]``.
        num_data: rows of data.
        labels: classes ``[N]``, NaN where not known; by default those of the split, if it has any.
        site: of the latent, where several have clusters.
        seed: of the draws.
        ax: axes of a figure of one's own to draw on.

    Raises:
        ValueError: the program has no clusters, or several latents have.
    """
    split = as_split(data, program)
    found = evaluate.clusters(program, split, site=site, seed=seed)
    order = found.sizes.argsort(descending=True)[:MOST]
    with program.evaluating(seed):
        batch = program.example(len(found.sizes))
        model = poutine.uncondition(program.model)
        trace = poutine.trace(model).get_trace(batch)
        values = {found.site: middles(trace.nodes[found.site]["fn"])}
        for name in batch.keys() & trace.nodes.keys() - {"x"}:  # such as labels, which the cluster tells
            batch[name] = torch.full_like(batch[name], math.nan, dtype=program.dtype)
        decoded, centre = shown(told(program, batch, values), "x")
    rows = [decoded[order].cpu()]
    own = found.responsibilities.where(
        torch.nn.functional.one_hot(found.assignments, len(found.sizes)).bool(), -1.0
    )
    best, which = own.topk(min(num_data, len(split)), 0)
    for r, i in zip(best[:, order], which[:, order], strict=True):
        x = split.batch(i)["x"].to(rows[0])
        there = (r >= 0).view(-1, *[1] * (x.dim() - 1))
        rows.append(torch.where(there, x, torch.nan))
    title = f"Clusters of {found.site}: the {centre} of each (above), and the data most probably of it"
    classes = _classes(split, labels)
    above = [f"k = {k}\n{found.sizes[k]:.0%}" for k in order.tolist()]
    if classes is not None:
        most = [_commonest(classes[found.assignments == k], split.class_names) for k in order.tolist()]
        above = [f"{text}\n{line}" for text, line in zip(above, most, strict=True)]
        title += "; the commonest class of all that are"
    return pictures(program, Pictures(rows, title, ["middle"], columns=above), ax)


def _classes(split: Split, labels: Any) -> Tensor | None:
    """Labels ``[N]`` that are classes, NaN where not known; None without such.

    Raises:
        ValueError: they are not as many as the data.
    """
    labels = split.labels if labels is None else torch.as_tensor(labels)
    if labels is None or labels.dim() != 1 or continuous(labels):
        return None
    if len(labels) != len(split):
        raise ValueError(f"labels={found_in(labels)} must be one for each of the {len(split)} data")
    return labels.double().cpu()


def _commonest(classes: Tensor, names: Sequence[str] | None) -> str:
    """The commonest class of some data, and its share of those whose class is known."""
    known = classes[~classes.isnan()]
    if not len(known):
        return "?"
    values, counts = known.unique(return_counts=True)
    best = int(values[counts.argmax()])
    return f"{names[best] if names else best}: {counts.max() / len(known):.0%}"
