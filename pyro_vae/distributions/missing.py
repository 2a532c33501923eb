"""Distributions of some elements of a value, where the others were not observed, or given these.

Reference: Rubin, 1976, "Inference and missing data".
"""

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
    if isinstance(p, torch.distributions.Independent):  # of vectors, such as the steps of a sequence
        each: Any = marginal(p.base_dist, observed)
        return cast(Distribution, each.to_event(p.reinterpreted_batch_ndims))
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


def conditional(distribution: Distribution, value: Tensor, observed: Tensor) -> Distribution:
    r"""The distribution of whole values, given the observed elements: :math:`p(x_m \mid x_o)`, beside x_o.

    Its draws and its mean have the observed elements as they are. Where elements are independent the others
    are as they would be without them; of Normals with covariance

    .. math:: x_m \mid x_o \sim \mathcal N\bigl(\mu_m + S_{mo} S_{oo}^{-1} (x_o - \mu_o),
        \; S_{mm} - S_{mo} S_{oo}^{-1} S_{om}\bigr);

    of mixtures, the components are weighed anew by what each says of the observed elements.

    Args:
        distribution: batch shape ``[...]``, event shape ``event_shape``.
        value: ``[..., *event_shape]``, in which what is not observed may be any number within the support.
        observed: booleans ``[..., *event_shape]``.

    Raises:
        ValueError: the distribution's elements depend on each other in another way.

    Reference: Bishop, 2006, "Pattern recognition and machine learning", section 2.3.1.
    """
    p: Any = distribution
    if isinstance(p, dist.ExpandedDistribution):
        return conditional(p.base_dist.expand(p.batch_shape), value, observed)
    independent = isinstance(p, torch.distributions.Independent) and not p.base_dist.event_shape
    if independent or not p.event_shape:
        return Completed(p, value, observed)
    if isinstance(p, torch.distributions.Independent):
        each: Any = conditional(p.base_dist, value, observed)
        return cast(Distribution, each.to_event(p.reinterpreted_batch_ndims))
    if hasattr(p, "conditional"):
        return cast(Distribution, p.conditional(value, observed))
    if isinstance(p, Reshaped):
        flat = (x.flatten(-len(p.event_shape)) for x in (value, observed))
        return Reshaped(conditional(p.base, *flat), tuple(p.event_shape))
    if isinstance(p, torch.distributions.MixtureSameFamily):
        value, observed = (x.unsqueeze(-1 - len(p.event_shape)) for x in (value, observed))
        component = p.component_distribution
        log_weights = p.mixture_distribution.logits + marginal(component, observed).log_prob(value)
        mixture = torch.distributions.Categorical(logits=log_weights, validate_args=False)
        parts = conditional(component, value, observed).expand(log_weights.shape)
        return dist.MixtureSameFamily(mixture, parts, validate_args=False)
    if isinstance(p, torch.distributions.MultivariateNormal | torch.distributions.LowRankMultivariateNormal):
        return Completed(p, value, observed, _gain(p.covariance_matrix, observed))
    raise ValueError(
        f"{type(p).__name__} cannot be drawn of which some elements are given: they depend on each other. "
        "Families that are independent over elements can (pv.likelihoods.Normal, StudentT, Bernoulli, "
        "Categorical, ...), and LowRankNormal, FullRankNormal and MixtureOfNormals"
    )


class Completed(TorchDistribution):
    r"""A distribution of whole values whose observed elements are certain: draws and a mean, and no density.

    A draw x of the whole distribution becomes one that is conditional by :math:`x + G (x_o - x)_o`, with
    :math:`G = S_{\cdot o} S_{oo}^{-1}` of a Normal, and G = 0 of independent elements.

    Args:
        whole: batch shape ``[...]``, event shape ``event_shape``.
        value: ``[..., *event_shape]``, as it is where observed.
        observed: booleans ``[..., *event_shape]``.
        gain: G, ``[..., P, P]``, of vectors; None where elements are independent.

    Reference: Doucet, 2010, "A note on efficient conditional simulation of Gaussian distributions".
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, whole: Any, value: Tensor, observed: Tensor, gain: Tensor | None = None):
        end = len(whole.event_shape)
        leading = (x.shape[: x.dim() - end] for x in (value, observed))
        shape = torch.broadcast_shapes(whole.batch_shape, *leading)
        # Pyro's zero-inflated ones cannot be expanded, and seldom need to be.
        self.whole = whole if shape == whole.batch_shape else whole.expand(shape)
        self.value, self.observed, self.gain = value, observed, gain
        super().__init__(self.whole.batch_shape, whole.event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return cast(constraints.Constraint, self.whole.support)

    def _complete(self, x: Tensor) -> Tensor:
        if self.gain is not None:
            away = torch.where(self.observed, self.value - x, 0.0)
            x = x + (self.gain @ away[..., None])[..., 0]
        return torch.where(self.observed, self.value.to(x), x)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self._complete(self.whole.sample(sample_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Completed:
        return Completed(self.whole.expand(batch_shape), self.value, self.observed, self.gain)

    @property
    def mean(self) -> Tensor:
        return self._complete(self.whole.mean)


def _gain(covariance: Tensor, observed: Tensor) -> Tensor:
    r""":math:`S_{\cdot o} S_{oo}^{-1}`, ``[..., P, P]``, with columns of 0 for what is not observed."""
    rows = torch.where(observed[..., None], covariance, 0.0)
    block = torch.where(observed[..., None, :], rows, (~observed).to(covariance).diag_embed())
    return torch.linalg.solve(block, rows).mT


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
