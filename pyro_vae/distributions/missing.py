"""Distributions of some elements of a value, where the others were not observed."""

from __future__ import annotations

import math
from typing import Any, cast

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.distributions.arrays import Reshaped


def marginal(distribution: Distribution, observed: Tensor) -> Distribution:
    r"""The distribution of the observed elements alone: :math:`p(x_o) = \int p(x_o, x_m)\,\mathrm d x_m`.

    Its log-density takes whole values, in which the other elements may be any number within the support; its
    draws are those of the whole distribution. Where elements are independent the others are masked; Normals
    with covariance are marginalised; mixtures are mixtures of such.

    Args:
        distribution: batch shape ``[...]``, event shape ``event_shape``.
        observed: booleans ``[..., *event_shape]``.

    Raises:
        ValueError: the distribution's elements depend on each other in another way.
    """
    p: Any = distribution
    if isinstance(p, dist.ExpandedDistribution):
        return marginal(p.base_dist.expand(p.batch_shape), observed)
    if isinstance(p, torch.distributions.Independent) and not p.base_dist.event_shape:
        masked = dist.MaskedDistribution(p.base_dist, observed)
        return cast(Distribution, masked.to_event(p.reinterpreted_batch_ndims))
    if not p.event_shape:
        return dist.MaskedDistribution(p, observed)
    if hasattr(p, "marginal"):
        return cast(Distribution, p.marginal(observed))
    if isinstance(p, Reshaped):
        return Reshaped(marginal(p.base, observed.flatten(-len(p.event_shape))), tuple(p.event_shape))
    if isinstance(p, torch.distributions.MixtureSameFamily):
        beside = observed.unsqueeze(-1 - len(p.event_shape))
        component = marginal(p.component_distribution, beside)
        return dist.MixtureSameFamily(p.mixture_distribution, component, validate_args=False)
    if isinstance(p, torch.distributions.MultivariateNormal | torch.distributions.LowRankMultivariateNormal):
        return _MarginalNormal(p, observed)
    raise ValueError(
        f"{type(p).__name__} has no density for data of which elements are not observed (NaN): its elements "
        "depend on each other. Families that are independent over elements have (pv.likelihoods.Normal, "
        "StudentT, Bernoulli, Categorical, ...), and LowRankNormal, FullRankNormal, MixtureOfNormals and "
        "DiscretizedLogisticMixture; or drop such data"
    )


class _MarginalNormal(TorchDistribution):
    """A Normal with covariance, over its observed elements.

    The others are replaced by standard Normals of their own, whose log-density at their mean is then taken
    off: the shapes stay, and so does a covariance of low rank.
    """

    arg_constraints = {}  # noqa: RUF012
    support = constraints.real_vector

    def __init__(self, whole: Any, observed: Tensor):
        self.whole, self.observed = whole, observed
        if isinstance(whole, torch.distributions.LowRankMultivariateNormal):
            factor = whole.cov_factor * observed[..., None]
            diagonal = torch.where(observed, whole.cov_diag, 1.0)
            self.base: Any = dist.LowRankMultivariateNormal(whole.loc, factor, diagonal, validate_args=False)
        else:
            rows = torch.where(observed[..., None], whole.scale_tril, 0.0)
            covariance = rows @ rows.mT + (~observed).to(rows).diag_embed()
            self.base = dist.MultivariateNormal(whole.loc, covariance, validate_args=False)
        super().__init__(self.base.batch_shape, self.base.event_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        value = torch.where(self.observed, value, self.whole.loc)
        missing = (~self.observed).sum(-1)
        log_prob: Tensor = self.base.log_prob(value)
        return log_prob + 0.5 * math.log(2 * math.pi) * missing

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return cast(Tensor, self.whole.expand(self.batch_shape).sample(sample_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> _MarginalNormal:
        return _MarginalNormal(self.whole.expand(batch_shape), self.observed)

    @property
    def mean(self) -> Tensor:
        return cast(Tensor, self.whole.mean)
