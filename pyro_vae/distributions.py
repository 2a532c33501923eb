"""Distributions that Pyro lacks, and what any distribution tells of itself: parameters, support, centre."""

from __future__ import annotations

import contextlib
import copy
import copyreg
import difflib
import functools
import inspect
import math
from abc import ABCMeta
from collections.abc import Callable, Sequence
from typing import Any, cast, get_args

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution, TorchDistributionMixin
from pyro.nn import AutoRegressiveNN
from torch import Tensor, nn
from torch.distributions import Distribution, Transform, transform_to
from torch.distributions.constraints import Constraint

__all__ = [
    "Categorical",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "DiscretizedNormal",
    "GeneralizedPareto",
    "Kumaraswamy",
    "LogitNormal",
    "MixtureOfDiagNormals",
    "PseudoBernoulli",
    "Reshaped",
    "TruncatedNormal",
]


class PseudoBernoulli(dist.Bernoulli):
    r"""The Bernoulli log-density evaluated at grey values in [0, 1]: *not* a probability.

    .. math:: \log \tilde p(x \mid l) = x\,l - \log(1 + e^{l}), \qquad x \in [0, 1]

    This is the "binary cross-entropy" of many tutorials. Its integral over [0, 1] is
    :math:`(e^{l} - 1) / (l (1 + e^{l}))`, which is at most 1/2, so its values are log-densities
    on no measure and must not be compared with those of any likelihood. Samples are drawn from
    the Bernoulli, and lie in {0, 1}.

    Args:
        logits: natural parameter :math:`l`, any batch shape.

    Reference: Loaiza-Ganem and Cunningham, 2019, "The continuous Bernoulli: fixing a pervasive
    error in variational autoencoders".
    """

    support = constraints.unit_interval
    has_enumerate_support = False

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return value * self.logits - F.softplus(self.logits)


class Categorical(dist.Categorical):
    """Pyro's Categorical over 0, ..., levels - 1, with the mean and variance of the level as a number."""

    def _level(self) -> Tensor:
        return torch.arange(self._num_events, device=self.logits.device, dtype=self.logits.dtype)

    @property
    def mean(self) -> Tensor:
        return (self.probs * self._level()).sum(-1)

    @property
    def variance(self) -> Tensor:
        return (self.probs * (self._level() - self.mean[..., None]).square()).sum(-1)


class Kumaraswamy(dist.Kumaraswamy):
    r"""Pyro's Kumaraswamy, with a density that does not round to 0 near the ends.

    .. math:: \log p(x) = \log a + \log b + (a - 1) \log x + (b - 1) \log(1 - x^a)

    Reference: Kumaraswamy, 1980, "A generalized probability density function for double-bounded random
    processes".
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        a, b, log_x = self.concentration1, self.concentration0, value.log()
        return a.log() + b.log() + (a - 1) * log_x + (b - 1) * (-(a * log_x).expm1()).log()


class GeneralizedPareto(dist.GeneralizedPareto):  # type: ignore[name-defined]
    r"""PyTorch's GeneralizedPareto, with a density in any floating-point type, not only the default one.

    .. math:: \log p(x) = -\log \sigma - (1 / \xi + 1) \log(1 + \xi z), \qquad z = (x - \mu) / \sigma

    Reference: Pickands, 1975, "Statistical inference using extreme order statistics".
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        z, exponential = self._z(value), self.concentration.abs() <= 1e-8
        xi = torch.where(exponential, 1.0, self.concentration)
        log_tail = torch.where(exponential, -z, -torch.special.xlog1py(1 / xi + 1, xi * z))
        return log_tail - self.scale.log()


class _Discretized(TorchDistribution):
    """A symmetric location-scale family, rounded: one states ``_log_between`` and ``_icdf``."""

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012

    def __init__(self, loc: Any, scale: Any, levels: Any, validate_args: bool | None = None):
        self.loc, self.scale = torch.broadcast_tensors(torch.as_tensor(loc), torch.as_tensor(scale))
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Constraint:
        return constraints.integer_interval(0, self.levels - 1)

    @staticmethod
    def _log_between(low: Tensor, high: Tensor) -> Tensor:
        """log(F(high) - F(low)) of the standard family; the ends may be infinite."""
        raise NotImplementedError

    @staticmethod
    def _icdf(u: Tensor) -> Tensor:
        """Quantiles of the standard family."""
        raise NotImplementedError

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        top = self.levels - 1
        low, high = (((value + half) / top - self.loc) / self.scale for half in (-0.5, 0.5))
        low = torch.where(value <= 0, -math.inf, low)
        high = torch.where(value >= top, math.inf, high)
        return self._log_between(low, high)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        u = torch.rand(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
        tiny = torch.finfo(u.dtype).eps
        x = self.loc + self.scale * self._icdf(u.clamp(tiny, 1 - tiny))
        top = torch.as_tensor(self.levels - 1).to(x)
        return torch.minimum((x * top).round().clamp(min=0), top)

    def expand(self, batch_shape: Any, _instance: Any = None) -> _Discretized:
        loc, scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        return type(self)(loc, scale, self.levels, validate_args=self._validate_args)

    def _moments(self) -> tuple[Tensor, Tensor]:
        first, second = torch.zeros_like(self.loc), torch.zeros_like(self.loc)
        for k in range(int(self.levels)):  # one by one: all at once would take as many times the memory
            p = self.log_prob(torch.full_like(self.loc, k)).exp()
            first, second = first + p * k, second + p * k**2
        return first, second

    @property
    def mean(self) -> Tensor:
        return self._moments()[0]

    @property
    def variance(self) -> Tensor:
        first, second = self._moments()
        return second - first.square()


class DiscretizedLogistic(_Discretized):
    r"""The Logistic rounded to the levels 0, ..., L - 1; the end bins reach to infinity.

    .. math:: P(k) = F(b_k) - F(b_{k-1}), \quad b_k = \frac{(k + 1/2) / (L - 1) - \mu}{\sigma},
        \quad b_{-1} = -\infty, \quad b_{L-1} = \infty

    with :math:`F(b) = 1 / (1 + e^{-b})`.

    Reference: Kingma et al., 2016, "Improved variational inference with inverse autoregressive flow".

    Args:
        loc: :math:`\mu`, on the scale where the levels span [0, 1].
        scale: :math:`\sigma`, on that scale.
        levels: L, one number (a scalar tensor will do).
    """

    @staticmethod
    def _log_between(low: Tensor, high: Tensor) -> Tensor:
        # s(b) - s(a) = s(b) s(-a) (1 - exp(a - b)), without cancellation anywhere
        return F.logsigmoid(high) + F.logsigmoid(-low) + (-(low - high).expm1()).log()

    @staticmethod
    def _icdf(u: Tensor) -> Tensor:
        return u.logit()


class DiscretizedNormal(_Discretized):
    r"""The Normal rounded to the levels 0, ..., L - 1; the end bins reach to infinity.

    .. math:: P(k) = F(b_k) - F(b_{k-1}), \quad b_k = \frac{(k + 1/2) / (L - 1) - \mu}{\sigma},
        \quad b_{-1} = -\infty, \quad b_{L-1} = \infty

    with :math:`F` the standard Normal's distribution function.

    Reference: Ho, Jain and Abbeel, 2020, "Denoising diffusion probabilistic models", equation 13.

    Args:
        loc: :math:`\mu`, on the scale where the levels span [0, 1].
        scale: :math:`\sigma`, on that scale.
        levels: L, one number (a scalar tensor will do).
    """

    @staticmethod
    def _log_between(low: Tensor, high: Tensor) -> Tensor:
        return _log_normal_between(low, high)

    @staticmethod
    def _icdf(u: Tensor) -> Tensor:
        return torch.special.ndtri(u)


def _log_normal_between(low: Tensor, high: Tensor) -> Tensor:
    """log(Phi(high) - Phi(low)), on the side of 0 where Phi is small and keeps its relative precision."""
    flip = low + high > 0
    low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
    below, upto = _log_ndtr(low), _log_ndtr(high)
    return upto + (-(below - upto).expm1()).log()


def _log_ndtr(z: Tensor) -> Tensor:
    """log Phi(z), whose gradient in PyTorch's own is wrong below -1000 in float32."""
    far = z < -1
    tail = torch.where(far & (z > -math.inf), z, -1.0)
    below = -0.5 * tail.square() + (0.5 * torch.special.erfcx(-tail / math.sqrt(2))).log()
    below = torch.where(z == -math.inf, -math.inf, below)
    return torch.where(far, below, torch.special.log_ndtr(torch.where(far, -1.0, z)))


class DiscretizedLogisticMixture(TorchDistribution):
    r"""Mixture of K discretized Logistics, whose component is drawn once for all channels of a pixel.

    .. math:: P(x) = \prod_{i} \sum_k \pi_{ik} \prod_c \mathrm{DL}(x_{ci}; \mu_{kci}, \sigma_{kci})

    Args:
        logits: of the components, ``[..., K, *pixels]``.
        loc: ``[..., K, C, *pixels]``, on the scale where the levels span [0, 1].
        scale: likewise.
        levels: L.
        event_shape: ``(C, *pixels)``, or ``pixels`` where C = 1.

    Reference: Salimans, Karpathy, Chen and Kingma, 2017, "PixelCNN++" (there, means also depend on the
    other channels of the pixel; here not).
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(
        self, logits: Tensor, loc: Tensor, scale: Tensor, levels: int, *, event_shape: tuple[int, ...]
    ):
        num_channels = event_shape[0] if len(event_shape) == 3 else 1
        pixels = event_shape[1:] if len(event_shape) == 3 else event_shape
        self._k = -1 - len(pixels)  # the dimension of the components, of logits
        self.log_weights = logits.log_softmax(self._k)
        self.component = DiscretizedLogistic(loc, scale, levels, validate_args=False)
        self._observed = (1, num_channels, *pixels)
        super().__init__(logits.shape[: self._k], torch.Size(event_shape), validate_args=False)

    @constraints.dependent_property
    def support(self) -> Constraint:
        return constraints.independent(self.component.support, len(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        leading = value.shape[: value.dim() - len(self.event_shape)]
        per_channel = self.component.log_prob(value.reshape(*leading, *self._observed))
        log_joint = self.log_weights + per_channel.sum(self._k)
        return log_joint.logsumexp(self._k).flatten(self._k + 1).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        which = dist.Categorical(logits=self.log_weights.movedim(self._k, -1)).sample(sample_shape)
        draws = self.component.sample(sample_shape)  # [..., K, C, *pixels]
        index = which.unsqueeze(self._k).unsqueeze(self._k)
        chosen = draws.gather(
            self._k - 1, index.expand(*draws.shape[: self._k - 1], 1, *draws.shape[self._k :])
        )
        return chosen.reshape(self._extended_shape(sample_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiscretizedLogisticMixture:
        own, given = len(self.batch_shape), (self.log_weights, self.component.loc, self.component.scale)
        logits, loc, scale = (tensor.expand(*batch_shape, *tensor.shape[own:]) for tensor in given)
        return type(self)(logits, loc, scale, self.component.levels, event_shape=tuple(self.event_shape))

    def _average(self, moment: Tensor) -> Tensor:
        weighted = self.log_weights.exp().unsqueeze(self._k) * moment
        return weighted.sum(self._k - 1).reshape(self._extended_shape())

    @property
    def mean(self) -> Tensor:
        return self._average(self.component.mean)

    @property
    def variance(self) -> Tensor:
        second = self.component.variance + self.component.mean.square()
        return self._average(second) - self.mean.square()


class TruncatedNormal(TorchDistribution):
    r"""The Normal restricted to [0, 1]: :math:`p(x) = \mathcal N(x; \mu, \sigma^2) / (\Phi(b) - \Phi(a))`.

    Here :math:`a = -\mu / \sigma` and :math:`b = (1 - \mu) / \sigma`; unlike the Normal it puts no mass
    on values that pixels cannot have.

    Args:
        loc: :math:`\mu`, any real; the mode where it lies in [0, 1].
        scale: :math:`\sigma`.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012
    support = constraints.unit_interval

    def __init__(self, loc: Any, scale: Any, validate_args: bool | None = None):
        self.loc, self.scale = torch.broadcast_tensors(torch.as_tensor(loc), torch.as_tensor(scale))
        super().__init__(self.loc.shape, validate_args=validate_args)

    def _ends(self) -> tuple[Tensor, Tensor, Tensor]:
        low, high = -self.loc / self.scale, (1 - self.loc) / self.scale
        return low, high, _log_normal_between(low, high)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        z = (value - self.loc) / self.scale
        log_mass = self._ends()[2]
        return -0.5 * z.square() - self.scale.log() - 0.5 * math.log(2 * math.pi) - log_mass

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        u = torch.rand(self._extended_shape(sample_shape), dtype=torch.float64, device=self.loc.device)
        loc, scale = self.loc.double(), self.scale.double()
        low, high = -loc / scale, (1 - loc) / scale
        flip = low + high > 0
        low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
        # Not special.ndtr, which rounds to 0 below -8.
        start, end = torch.special.log_ndtr(low).exp(), torch.special.log_ndtr(high).exp()
        # Far out, where even these round to 0, the Normal falls off exponentially.
        far = high + u.log() / high.abs()
        z = torch.where(high < -30, far, torch.special.ndtri(start + u * (end - start))).clamp(low, high)
        return (loc + scale * torch.where(flip, -z, z)).clamp(0, 1).to(self.loc)

    def expand(self, batch_shape: Any, _instance: Any = None) -> TruncatedNormal:
        loc, scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        return type(self)(loc, scale, validate_args=self._validate_args)

    @property
    def mean(self) -> Tensor:
        low, high, log_mass = self._ends()
        at_low, at_high = ((-0.5 * z.square() - log_mass).exp() / math.sqrt(2 * math.pi) for z in (low, high))
        return (self.loc + self.scale * (at_low - at_high)).clamp(0, 1)

    @property
    def variance(self) -> Tensor:
        # By quadrature: the closed form loses all digits where the Normal is wide or far away.
        edges = torch.linspace(0, 1, 1001, dtype=self.loc.dtype, device=self.loc.device)
        x = ((edges[1:] + edges[:-1]) / 2).reshape(-1, *[1] * self.loc.dim())
        weight = self.log_prob(x).softmax(0)
        mean = (weight * x).sum(0)
        return (weight * (x - mean).square()).sum(0)


class LogitNormal(TorchDistribution):
    r"""x in (0, 1) with :math:`\mathrm{logit}(x) \sim \mathcal N(\mu, \sigma^2)`.

    .. math:: \log p(x) = \log \mathcal N(\mathrm{logit}(x); \mu, \sigma^2) - \log x - \log(1 - x)

    It has no mean in closed form; its median is :math:`1 / (1 + e^{-\mu})`. At 0 and 1 the density is 0.

    Args:
        loc: :math:`\mu`.
        scale: :math:`\sigma`.

    Reference: Aitchison and Shen, 1980, "Logistic-normal distributions".
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, loc: Any, scale: Any, validate_args: bool | None = None):
        self.base = dist.Normal(loc, scale, validate_args=False)
        self.loc, self.scale = self.base.loc, self.base.scale
        super().__init__(self.base.batch_shape, validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        x = value.clamp(torch.finfo(value.dtype).tiny, 1 - torch.finfo(value.dtype).eps / 2)
        log_prob: Tensor = self.base.log_prob(x.logit()) - x.log() - (-x).log1p()
        return torch.where((value > 0) & (value < 1), log_prob, -math.inf)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self.base.rsample(sample_shape).sigmoid()

    def expand(self, batch_shape: Any, _instance: Any = None) -> LogitNormal:
        loc, scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        return type(self)(loc, scale, validate_args=self._validate_args)

    def icdf(self, value: Tensor) -> Tensor:
        return cast(Tensor, self.base.icdf(value)).sigmoid()


class MixtureOfDiagNormals(dist.MixtureSameFamily):
    r"""Mixture of Normals with diagonal covariances, whose draws carry gradients.

    .. math:: q(z) = \sum_k \pi_k \prod_d \mathcal N(z_d; \mu_{kd}, \sigma_{kd}^2)

    A draw moves with the parameters such that each conditional distribution function
    :math:`F_d(z_d \mid z_{<d})` stays as it is: :math:`\mathrm d z_d = -\mathrm d F_d / q(z_d \mid z_{<d})`.
    (The gradient that Pyro's own class of this name has for the weights is biased.)

    Args:
        logits: of the components, ``[..., K]``.
        loc: means, ``[..., K, D]``.
        scale: standard deviations, ``[..., K, D]``.

    Reference: Figurnov, Mohamed and Mnih, 2018, "Implicit reparameterization gradients".
    """

    has_rsample = True

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, validate_args: bool | None = None):
        self.logits, self.loc, self.scale = logits, loc, scale
        component: Any = dist.Normal(loc, scale, validate_args=validate_args)
        super().__init__(
            dist.Categorical(logits=logits, validate_args=validate_args),
            component.to_event(1),
            validate_args=validate_args,
        )

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        fixed: Tensor = self.sample(sample_shape)
        log_weights, moving = self.logits, []
        for d in range(fixed.shape[-1]):
            component = torch.distributions.Normal(self.loc[..., d], self.scale[..., d], validate_args=False)
            z = fixed[..., d, None]
            weights = log_weights.softmax(-1)
            cdf = (weights * component.cdf(z)).sum(-1)
            density = (weights * component.log_prob(z).exp()).sum(-1).detach().clamp(min=1e-30)
            moving.append(fixed[..., d] - (cdf - cdf.detach()) / density)
            log_weights = log_weights + component.log_prob(moving[-1][..., None])
        return torch.stack(moving, -1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> MixtureOfDiagNormals:
        logits = self.logits.expand(*batch_shape, -1)
        loc, scale = (tensor.expand(*batch_shape, -1, -1) for tensor in (self.loc, self.scale))
        return MixtureOfDiagNormals(logits, loc, scale, validate_args=False)


class Reshaped(TorchDistribution):
    """A distribution over vectors ``(P,)`` as one over arrays of ``event_shape`` with P elements."""

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, base: Distribution, event_shape: tuple[int, ...], validate_args: bool | None = None):
        self.base: Any = base
        super().__init__(base.batch_shape, torch.Size(event_shape), validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> Constraint:
        return constraints.independent(scalar_support(self.base.support), len(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return cast(Tensor, self.base.log_prob(value.flatten(value.dim() - len(self.event_shape))))

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self._array(self.base.sample(sample_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Reshaped:
        return Reshaped(self.base.expand(batch_shape), self.event_shape)

    def _array(self, value: Tensor) -> Tensor:
        return value.reshape(*value.shape[:-1], *self.event_shape)

    @property
    def mean(self) -> Tensor:
        return self._array(self.base.mean)

    @property
    def variance(self) -> Tensor:
        return self._array(self.base.variance)


def to_constrained(constraint: Constraint) -> Transform:
    """The map from raw reals to values that satisfy a constraint, ``transform_to`` with one exception.

    Positive values are softplus(raw), as in Pyro's own guides, where ``transform_to`` has exp(raw): one
    outlying datum then moves a scale by its raw value, not by the exponential of it.
    """
    if is_positive(constraint):
        constraint = constraints.softplus_positive
    return transform_to(constraint)


def parameters(family: type[Distribution]) -> dict[str, Constraint | None]:
    """What a family is made with: names of parameters and their constraints.

    Of two ways to give the same (probs or logits) the unconstrained one is meant. A parameter that must
    be a number, as it is whole or has no constraint, has None.

    Raises:
        ValueError: the family does not say what its parameters are, or they are no scalars.
    """
    name, described = family.__name__, getattr(family, "arg_constraints", None)
    if not isinstance(described, dict) or not described:
        raise ValueError(f"{name} does not say what its parameters are (arg_constraints)")
    found: dict[str, Constraint | None] = {}
    for argument in inspect.signature(family).parameters.values():
        if argument.name in described:
            constraint: Any = described[argument.name]
            if constraints.is_dependent(constraint) or constraint.event_dim:
                raise ValueError(
                    f"{name}'s parameter {argument.name} is no scalar with a constraint of its own"
                )
            found[argument.name] = None if constraint.is_discrete else constraint
        elif argument.default is argument.empty:
            found[argument.name] = None
    for constrained, free in (("probs", "logits"), ("gate", "gate_logits")):
        if {constrained, free} <= found.keys():
            del found[constrained]
    return found


def support(distribution: Distribution) -> Constraint:
    """Where a distribution has its mass, which ``distribution.support`` does not always tell.

    PyTorch gives distributions of angles the real line, on which they are periodic and not normalised,
    and a mixture a support of a kind of its own.
    """
    base: Any = distribution
    while isinstance(base, torch.distributions.Independent | dist.ExpandedDistribution):
        base = base.base_dist
    if isinstance(base, torch.distributions.VonMises | dist.SineBivariateVonMises | dist.SineSkewed):
        circle = constraints.interval(-math.pi, math.pi)
        return constraints.independent(circle, len(distribution.event_shape))
    if isinstance(base, torch.distributions.MixtureSameFamily):
        event_dim = len(distribution.event_shape) - len(base.event_shape)
        return constraints.independent(support(base.component_distribution), event_dim)
    own = cast(Constraint, distribution.support)
    if isinstance(scalar_support(own), type(constraints.unit_interval)):
        low, high = bounds(own) or (0, 0)
        if isinstance(high, float) and math.isinf(high):  # as GeneralizedPareto has it
            return constraints.independent(constraints.greater_than_eq(low), len(distribution.event_shape))
    return own


def onto(support: Constraint) -> Transform:
    """The bijection from the reals onto a support: ``biject_to``, but softplus onto positive values.

    Under ``biject_to``'s exp, one large value of a guide would be a huge latent.
    """
    if is_positive(support):
        support = constraints.independent(constraints.softplus_positive, support.event_dim)
    return torch.distributions.biject_to(support)


def scalar_support(constraint: Constraint) -> Any:
    """The constraint of one element, of one on many."""
    while hasattr(constraint, "base_constraint"):
        constraint = constraint.base_constraint
    return constraint


def bounds(constraint: Any) -> tuple[Any, Any] | None:
    """Lower and upper end of an interval, which may be infinite; None if it is no interval.

    Numbers, or tensors where they differ from element to element.
    """
    scalar = scalar_support(constraint)
    if isinstance(scalar, type(constraints.real) | type(constraints.integer)):  # copies of them too
        return -math.inf, math.inf
    if isinstance(scalar, type(constraints.boolean)):
        return 0, 1
    ends = getattr(scalar, "lower_bound", None), getattr(scalar, "upper_bound", None)
    if ends == (None, None):
        return None
    low, high = (_as_number(end) for end in ends)
    return -math.inf if low is None else low, math.inf if high is None else high


def _as_number(end: Any) -> Any:
    one = isinstance(end, Tensor) and end.unique().numel() == 1
    return end.flatten()[0].item() if one else end


def is_positive(constraint: Any) -> bool:
    """Whether it asks for values above 0 and nothing else."""
    ends = bounds(constraint) or (None, None)
    return not any(isinstance(end, Tensor) for end in ends) and ends == (0, math.inf)


def same_bounds(one: Constraint, other: Constraint) -> bool:
    """Whether two supports are the same set; whether an end belongs to it is left aside."""
    a, b = bounds(one), bounds(other)
    if a is None or b is None:
        return type(scalar_support(one)) is type(scalar_support(other))
    return all(
        bool((torch.as_tensor(x, dtype=torch.float64) == torch.as_tensor(y, dtype=torch.float64)).all())
        for x, y in zip(a, b, strict=True)
    )


def has_closed_form(q: Distribution, p: Distribution) -> bool:
    """Whether PyTorch has KL(q || p) in closed form."""
    try:
        torch.distributions.kl_divergence(q, p)
    except NotImplementedError:
        return False
    return True


def domain(constraint: Constraint) -> str:
    """A support in words: ``"the reals"``, ``"{0, 1}"``, ``"[0, inf]"``, ``"whole numbers in [0, 255]"``."""
    ends = bounds(constraint)
    if isinstance(constraint, type(constraints.simplex)):
        return "the simplex"
    if ends is None or any(isinstance(end, Tensor) for end in ends):
        return str(scalar_support(constraint))
    if ends == (-math.inf, math.inf) and not constraint.is_discrete:
        return "the reals"
    low, high = ends
    if isinstance(scalar_support(constraint), type(constraints.boolean)):
        return "{0, 1}"
    return f"{'whole numbers in ' if constraint.is_discrete else ''}[{low:g}, {high:g}]"


@functools.cache
def families() -> list[str]:
    """Names of Pyro's families whose parameters are scalars."""
    found = []
    for name, family in vars(dist).items():
        if inspect.isclass(family) and issubclass(family, Distribution):
            with contextlib.suppress(ValueError):
                parameters(family)
                found.append(name)
    return found


class _Made(ABCMeta):
    """Of classes that ``variant`` makes: pickled by what makes them, as their path may be the family's."""


def _reduce(made: Any) -> Any:
    own = vars(made)  # where a class that inherits from a made one has no _of
    return (own["_of"], (made.family,)) if "_of" in own else made.__qualname__


copyreg.pickle(cast(Any, _Made), _reduce)


def variant(family: type[Distribution], base: Any, module: Any) -> Any:
    """The subclass of ``base`` in ``module`` whose ``family`` it is, made if there is none yet."""
    if family.__module__.startswith("torch.distributions"):
        family = getattr(dist, family.__name__, family)
    if not issubclass(family, TorchDistributionMixin):
        raise ValueError(f"{family.__name__} is no Pyro distribution; subclass dist.TorchDistribution")
    for name in module.__all__:
        own = getattr(vars(module)[name], "family", None)
        # Some of Pyro's families are replaced by a subclass of the same name.
        if own is not None and own.__name__ == family.__name__ and issubclass(own, family):
            return vars(module)[name]
    name = variant_name(family)
    made = vars(module).get(name)
    if getattr(made, "family", None) is not family:
        text = f"{family.__name__} in each dimension, with parameters {', '.join(parameters(family))}."
        # A class of the user's own is known by the path of its family, where a configuration finds it again.
        path = module.__name__ if name == family.__name__ else family.__module__
        namespace = {"family": family, "_of": module.of, "__module__": path, "__doc__": text}
        made = _Made(family.__name__, (base,), namespace)
        setattr(module, name, made)
    return made


def variant_name(family: type[Distribution]) -> str:
    """Under which name a module keeps the variant of a family: its own if Pyro has it."""
    if getattr(dist, family.__name__, None) is family:
        return family.__name__
    return f"{family.__module__}_{family.__name__}".replace(".", "_")


def attribute(name: str, of: Callable[[Any], Any], module: str) -> Any:
    """What ``module.name`` is, for the name of one of Pyro's families."""
    family = getattr(dist, name, None)
    if not (inspect.isclass(family) and issubclass(family, Distribution)):
        near = difflib.get_close_matches(name, families(), n=3, cutoff=0.6)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise AttributeError(f"module {module!r} has no attribute {name!r}{hint}")
    try:
        return of(family)
    except ValueError as error:
        raise AttributeError(f"module {module!r} has no {name}: {error}") from error


def as_part(value: Any, base: Any, of: Callable[[Any], Any], example: str) -> Any:
    """A likelihood or guide of one's own: a copy of the given one, or one made from the given family."""
    if isinstance(value, base):
        return copy.deepcopy(value)
    if inspect.isclass(value) and issubclass(value, base):
        return value()
    if inspect.isclass(value) and issubclass(value, Distribution):
        return of(value)()
    kind = base.__name__.lower()
    raise TypeError(f"a {kind} is a pv.{kind}s object or a distribution class, not {value!r}; {example}")


def centre(distribution: Distribution) -> tuple[Tensor, str]:
    """A typical value, ``[*batch_shape, *event_shape]``, and what it is.

    The mean; where there is none or it is not finite, the median of each element; then the mode; and as
    a last resort the median of 301 draws.
    """
    base: Any = distribution
    while isinstance(base, torch.distributions.Independent):
        base = base.base_dist
    scalar = not base.event_shape
    like = torch.full((), 0.5)

    def median() -> Tensor:
        if not scalar:
            raise NotImplementedError
        draw = base.sample()
        value: Tensor = base.icdf(like.to(draw).expand(draw.shape))
        return value

    for name, compute in (("mean", lambda: base.mean), ("median", median), ("mode", lambda: base.mode)):
        try:
            value: Tensor = compute()
        except (NotImplementedError, AttributeError):
            continue
        if value.isfinite().all():
            return value, name
    return distribution.sample((301,)).median(0).values, "median"


def check_count(name: str, value: Any, least: int = 1) -> int:
    """A whole number that is at least 1, or an error that names it."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r} must be a whole number, {least} or more; {name}=5, for example")
    return value


def check_transform(name: str, known: Any, dim: int) -> None:
    """Refuses a map that is unknown, or that needs more dimensions than there are.

    Raises:
        ValueError: naming what would do.
    """
    if name not in get_args(known):
        raise ValueError(f"transform={name!r} is none of {', '.join(map(repr, get_args(known)))}")
    if "coupling" in name and dim < 2:
        raise ValueError(f"{name} couples two halves, but there is 1 dimension; take transform='spline'")


class _Flow(dist.TransformedDistribution):
    """TransformedDistribution whose maps, conditioned on a batch, take values that do not have its shape."""

    def log_prob(self, value: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        if shape != value.shape[:-1]:
            value = value.expand(*shape, -1)
        log_prob: Tensor = super().log_prob(value)
        return log_prob


class _AnyDtypeNN(AutoRegressiveNN):
    """Pyro's, for values of any dtype: the way back through a map starts from zeros of the default one."""

    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        return super().forward(x.to(next(self.parameters())))


def affine_autoregressive(dim: int, hidden_dims: list[int]) -> nn.Module:
    """Pyro's map of this name, for values of any dtype."""
    return dist.transforms.AffineAutoregressive(_AnyDtypeNN(dim, hidden_dims))


def flow(base: Distribution, transforms: Sequence[Any], dim: int) -> Distribution:
    """The base distribution pushed through maps, with the order of the dimensions reversed in between."""
    chain: list[Any] = [transforms[0]]
    order = torch.arange(dim - 1, -1, -1, device=base.mean.device)
    for transform in transforms[1:]:
        chain += [dist.transforms.Permute(order), transform]
    return cast(Distribution, _Flow(base, chain))


def stateless(transform: nn.Module) -> Any:
    """A copy that shares its tensors, for one use: Pyro's maps keep what they computed last."""
    copied = copy.copy(transform)
    copied._modules = {name: child and stateless(child) for name, child in transform._modules.items()}
    return copied
