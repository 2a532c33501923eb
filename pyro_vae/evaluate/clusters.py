"""Which component of a mixture, or value of a discrete latent, a datum comes from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.checks import Count, Seed, checked, found
from pyro_vae.data import DataError
from pyro_vae.distributions import Discrete, Reshaped
from pyro_vae.evaluate.door import Data, as_split, check
from pyro_vae.evaluate.likelihood import over_batches
from pyro_vae.evaluate.shown import table
from pyro_vae.objectives.importance import traces
from pyro_vae.program import Batch, Program, sites
from pyro_vae.seen import observing

ROWS = 1000
"""Data at a time."""


@dataclass(frozen=True)
class Clusters:
    """Which of K clusters each of N data belongs to, and how well they are the classes of some labels.

    Attributes:
        site: of the latent whose components or values the clusters are.
        responsibilities: how probable each cluster is of each datum, ``[N, K]``; rows sum to 1.
        accuracy: share of the data with a label whose cluster is matched with it; None without labels.
        nmi: mutual information of clusters and labels, over the mean of their entropies; likewise.
        matching: the label that each cluster is matched with, NaN of one that has none, ``[K]``; likewise.
        num_labels: data with a label.
    """

    site: str
    responsibilities: Tensor = field(repr=False)
    accuracy: float | None = None
    nmi: float | None = None
    matching: Tensor | None = field(default=None, repr=False)
    num_labels: int = 0

    @property
    def assignments(self) -> Tensor:
        """The most probable cluster of each datum, ``[N]``."""
        return self.responsibilities.argmax(1)

    @property
    def sizes(self) -> Tensor:
        """The share of the data in each cluster, by their responsibilities, ``[K]``."""
        return self.responsibilities.mean(0)

    @property
    def in_use(self) -> float:
        """How many clusters of equal size have the entropy of the sizes: K if they are alike, 1 of one."""
        return math.exp(torch.special.entr(self.sizes.double()).sum().item())

    def __str__(self) -> str:
        text = f"{len(self.sizes)} clusters of {self.site}, about {self.in_use:.1f} of them in use"
        if self.accuracy is None or self.nmi is None:
            return text
        return f"{text}; accuracy {self.accuracy:.3f}, NMI {self.nmi:.3f} ({self.num_labels} labels)"

    def _repr_html_(self) -> str:
        rows = {"in use": self.in_use, "accuracy": self.accuracy, "NMI": self.nmi}
        told = {name: value for name, value in rows.items() if value is not None}
        return table(f"{len(self.sizes)} clusters of {self.site}", told, {})


@checked
def clusters(
    program: Program,
    data: Data,
    labels: Any = None,
    *,
    site: str | None = None,
    num_samples: Count = 100,
    seed: Seed = 0,
) -> Clusters:
    r"""How probable each component of a latent's mixture prior is of each datum, averaged over q(z|x).

    .. math:: r_k(x) = E_{q(z|x)}[p(k \mid z)], \qquad
        p(k \mid z) = \frac{\pi_k\, p_k(z)}{\sum_j \pi_j\, p_j(z)}

    which is p(k|x) where q is the posterior. Of a latent that is one choice among K it is q(k|x) itself,
    averaged over the latents that it hangs on. With labels, clusters and classes are matched one to one such
    that most data agree (the Hungarian method): data of a cluster that is left over are wrong.

    Args:
        program: the model.
        data: a split such as ``data.test``, a batch, or a tensor ``[N, *event_shape]``.
        labels: classes ``[N]``, NaN where not known; by default those of the split, if it has any. A model
            of labels does not see them.
        site: of the latent, where several have clusters.
        num_samples: draws of z per datum.
        seed: of the draws.

    Raises:
        ValueError: no latent of the program is a mixture or one choice, or several are; or there is none at
            that site.
        DataError: the labels are no numbers, or not as many as the data.

    Reference: Jiang, Zheng, Tan, Tang and Zhou, 2017, "Variational deep embedding"; Kuhn, 1955, "The
    Hungarian method for the assignment problem".
    """
    split = as_split(data, program)
    check(program, split)
    labels = split.labels if labels is None else labels
    known = None if labels is None else _read(labels, len(split))
    chosen: list[str] = []

    def responsibilities(batch: Batch) -> Tensor:
        if "y" in (c.site for c in program.conditionals()) and "y" in batch:
            batch = batch | {"y": torch.full_like(batch["y"], math.nan, dtype=program.dtype)}
        with observing(split.gaps | {"y"}):
            model, guide = traces(program, batch, num_samples)
        inferred = {name: drawn["fn"] for name, drawn in sites(guide)}
        latents = {name: drawn for name, drawn in sites(model) if name in inferred}
        each = {name: of_latent(d["fn"], inferred[name], d["value"]) for name, d in latents.items()}
        chosen[:] = [_choose(program, [name for name, r in each.items() if r is not None], site)]
        found = cast(Tensor, each[chosen[0]])
        every = found.expand(num_samples, *found.shape[-2:]) if found.dim() < 3 else found.flatten(0, -3)
        return every.mean(0).expand(program.num_data(batch), -1).mT

    r = over_batches(program, split, responsibilities, ROWS, seed, "clusters").mT
    if known is None or known.isnan().all():
        return Clusters(chosen[0], r)
    return Clusters(chosen[0], r, *match(r.argmax(1), known, r.shape[1]))


def of_latent(prior: Any, guide: Any, value: Tensor) -> Tensor | None:
    """How probable each cluster is of draws of one latent, ``[..., B, K]``; None if it has none.

    Args:
        prior: p(z), of which the components are the clusters.
        guide: q(z|x), of which the probabilities are, of a latent that is one choice.
        value: draws of q(z|x).
    """
    q = _inner(guide)
    if isinstance(q, Discrete) and q.num_classes == q.event_shape[-1]:
        return q.mean
    if isinstance(q, torch.distributions.Categorical):
        return q.probs
    p = _inner(prior)
    if isinstance(p, Reshaped):
        value, p = value.flatten(value.dim() - len(p.event_shape)), p.base
    if not isinstance(p, torch.distributions.MixtureSameFamily):
        return None
    each = p.component_distribution.log_prob(value.unsqueeze(-1 - len(p.event_shape)))
    return (each + p.mixture_distribution.logits).softmax(-1)


def middles(prior: Any) -> Tensor:
    """The mean of each component of a latent with clusters, or each of its values, ``[K, *event_shape]``."""
    p = _inner(prior)
    if isinstance(p, Discrete):
        return torch.eye(p.event_shape[-1]).to(p.logits)
    if isinstance(p, torch.distributions.Categorical):
        return torch.arange(p.logits.shape[-1]).to(p.logits)
    inner = p.base if isinstance(p, Reshaped) else p
    means = inner.component_distribution.mean
    one: Tensor = means[(0,) * (means.dim() - 1 - len(inner.event_shape))]  # they are the same of all data
    return one.reshape(-1, *prior.event_shape)


def match(assignments: Tensor, labels: Tensor, number: int) -> tuple[float, float, Tensor, int]:
    """Accuracy, NMI, the label that each cluster is matched with, ``[K]``, and the number of labels.

    Args:
        assignments: the cluster of each datum, ``[N]``.
        labels: ``[N]``, NaN where not known; one at least is.
        number: K.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import normalized_mutual_info_score

    known = ~labels.isnan()
    classes, numbers = labels[known].unique(return_inverse=True)
    counts = torch.zeros(number, len(classes), dtype=torch.int64)
    counts.index_put_((assignments[known], numbers), torch.ones((), dtype=torch.int64), accumulate=True)
    rows, columns = linear_sum_assignment(counts.numpy(), maximize=True)
    matching = torch.full((number,), math.nan, dtype=labels.dtype)
    matching[rows] = classes[columns]
    right = int(counts[rows, columns].sum())
    nmi = float(normalized_mutual_info_score(numbers.numpy(), assignments[known].numpy()))
    return right / len(numbers), nmi, matching, len(numbers)


def _inner(distribution: Any) -> Any:
    """A distribution without what says which of its values count; one of several numbers stays whole."""
    while isinstance(distribution, dist.MaskedDistribution) or (
        isinstance(distribution, torch.distributions.Independent)
        and not distribution.reinterpreted_batch_ndims
    ):
        distribution = distribution.base_dist
    return distribution


def _choose(program: Program, names: list[str], site: str | None) -> str:
    """The site whose clusters are asked for.

    Raises:
        ValueError: there is none, or more than one and none is named.
    """
    kind = type(program).__name__
    if not names:
        raise ValueError(
            f"no latent of this {kind} is a mixture, or one choice of several; take one that is: "
            "pv.VAE(..., prior=pv.priors.MixtureOfNormals(10))"
        )
    if (site is None and len(names) > 1) or (site is not None and site not in names):
        raise ValueError(
            f"site={site!r} must be one of the latents with clusters, {names}: site={names[0]!r}"
        )
    return names[0] if site is None else site


def _read(labels: Any, number: int) -> Tensor:
    """Labels of so many data, NaN where not known.

    Raises:
        DataError: they are no numbers, or not as many.
    """
    try:
        read = labels if isinstance(labels, Tensor) else torch.as_tensor(np.asarray(labels, dtype=np.float64))
    except (TypeError, ValueError):
        read = torch.empty(0)
    if read.shape != (number,):
        raise DataError(
            f"labels={found(labels)} must be a number for each of the {number} data, NaN where not known"
        )
    return read.detach().double().cpu()
