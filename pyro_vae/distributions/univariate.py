"""Families of single numbers that Pyro lacks, or has in a form that does not serve as a likelihood."""

from __future__ import annotations

import math
from typing import Any, cast

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from pyro_vae.distributions.discretized import log_normal_between


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


class Poisson(dist.Poisson):
    """Pyro's Poisson, in double precision: large counts are differences of far larger numbers."""

    def log_prob(self, value: Tensor) -> Tensor:
        exact: Any = dist.Poisson(self.rate.double(), validate_args=self._validate_args)
        return cast(Tensor, exact.log_prob(value.double()).to(self.rate.dtype))


class GammaPoisson(dist.GammaPoisson):
    """Pyro's GammaPoisson, in double precision: large counts are differences of far larger numbers."""

    def log_prob(self, value: Tensor) -> Tensor:
        shape, rate = self.concentration.double(), self.rate.double()
        exact: Any = dist.GammaPoisson(shape, rate, validate_args=self._validate_args)
        return cast(Tensor, exact.log_prob(value.double()).to(self.rate.dtype))


class NegativeBinomial(dist.NegativeBinomial):
    """Pyro's NegativeBinomial, in double precision: large counts are differences of far larger numbers."""

    def log_prob(self, value: Tensor) -> Tensor:
        number, logits = self.total_count.double(), self.logits.double()
        exact: Any = dist.NegativeBinomial(number, logits=logits, validate_args=self._validate_args)
        return cast(Tensor, exact.log_prob(value.double()).to(self.logits.dtype))


class Kumaraswamy(dist.Kumaraswamy):
    r"""Pyro's Kumaraswamy, with a density that does not round to 0 near the ends, and draws within them.

    .. math:: \log p(x) = \log a + \log b + (a - 1) \log x + (b - 1) \log(1 - x^a)

    Reference: Kumaraswamy, 1980, "A generalized probability density function for double-bounded random
    processes".
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        a, b, log_x = self.concentration1, self.concentration0, value.log()
        return a.log() + b.log() + (a - 1) * log_x + (b - 1) * (-(a * log_x).expm1()).log()

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        value: Tensor = super().rsample(sample_shape)  # rounds to the ends, where the density may be infinite
        return value.clamp(torch.finfo(value.dtype).tiny, 1 - torch.finfo(value.dtype).eps)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self.rsample(sample_shape)


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
        return low, high, log_normal_between(low, high)

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


class ZeroInflatedLogNormal(TorchDistribution):
    r"""0 with probability :math:`\pi`, else positive with :math:`\log x \sim \mathcal N(\mu, \sigma^2)`.

    .. math:: p(x) = \pi \, [x = 0] + (1 - \pi) \, \mathrm{LogNormal}(x; \mu, \sigma) \, [x > 0]

    with respect to the counting measure at 0 and Lebesgue's elsewhere: rain of a day, what somebody spent.

    Args:
        gate_logits: log-odds of :math:`\pi`.
        loc: :math:`\mu`.
        scale: :math:`\sigma`.

    Reference: Aitchison, 1955, "On the distribution of a positive random variable having a discrete
    probability mass at the origin".
    """

    arg_constraints = {  # noqa: RUF012
        "gate_logits": constraints.real,
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    support = constraints.nonnegative

    def __init__(self, gate_logits: Any, loc: Any, scale: Any, validate_args: bool | None = None):
        values = torch.broadcast_tensors(*map(torch.as_tensor, (gate_logits, loc, scale)))
        self.gate_logits, self.loc, self.scale = values
        self.base = dist.LogNormal(self.loc, self.scale, validate_args=False)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        is_zero = value == 0
        log_prob = self.base.log_prob(torch.where(is_zero, 1.0, value))
        zero, other = F.logsigmoid(self.gate_logits), F.logsigmoid(-self.gate_logits)
        return torch.where(is_zero, zero, other + log_prob)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        is_zero = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device) < self.gate_logits.sigmoid()
        return torch.where(is_zero, 0.0, self.base.sample(sample_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> ZeroInflatedLogNormal:
        gate_logits, loc, scale = (p.expand(batch_shape) for p in (self.gate_logits, self.loc, self.scale))
        return type(self)(gate_logits, loc, scale, validate_args=self._validate_args)

    @property
    def mean(self) -> Tensor:
        return (-self.gate_logits).sigmoid() * self.base.mean

    @property
    def variance(self) -> Tensor:
        zero, other = self.gate_logits.sigmoid(), (-self.gate_logits).sigmoid()
        return other * (self.base.variance + zero * self.base.mean.square())  # of which no term is negative


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
