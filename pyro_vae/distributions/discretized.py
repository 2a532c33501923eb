"""Symmetric families rounded to the levels 0, ..., L - 1, and mixtures of them."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions.constraints import Constraint


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
        return log_normal_between(low, high)

    @staticmethod
    def _icdf(u: Tensor) -> Tensor:
        return torch.special.ndtri(u)


class RoundedLogistic(TorchDistribution):
    r"""Whole numbers of either sign: a Logistic, rounded.

    .. math:: P(k) = F\left(\frac{k + 1/2 - \mu}{s}\right) - F\left(\frac{k - 1/2 - \mu}{s}\right)

    with :math:`F(b) = 1 / (1 + e^{-b})`.

    Args:
        loc: :math:`\mu`, any batch shape.
        scale: :math:`s`; the standard deviation before rounding is :math:`s \pi / \sqrt 3`.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012
    support = constraints.integer

    def __init__(self, loc: Any, scale: Any, validate_args: bool | None = None):
        self.loc, self.scale = torch.broadcast_tensors(torch.as_tensor(loc), torch.as_tensor(scale))
        super().__init__(self.loc.shape, validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        low, high = ((value + half - self.loc) / self.scale for half in (-0.5, 0.5))
        # Their difference is 1 / s, which is lost between large numbers.
        between = (-(-1 / self.scale).expm1()).log()
        return F.logsigmoid(high) + F.logsigmoid(-low) + between

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        u = torch.rand(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
        tiny = torch.finfo(u.dtype).eps
        return (self.loc + self.scale * torch.logit(u.clamp(tiny, 1 - tiny))).round() + 0.0  # and no -0

    def expand(self, batch_shape: Any, _instance: Any = None) -> RoundedLogistic:
        loc, scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        return RoundedLogistic(loc, scale, validate_args=self._validate_args)

    @property
    def mean(self) -> Tensor:
        return torch.where(self.scale < 1, self._near(1)[0], self.loc)

    @property
    def variance(self) -> Tensor:
        # Of a scale of 1 or more, rounding adds 1/12 to within 1e-6.
        first, second = self._near(2)
        wide = (self.scale * math.pi).square() / 3 + 1 / 12
        return torch.where(self.scale < 1, second - first.square(), wide)

    def _near(self, most: int) -> list[Tensor]:
        """Moments around 0 of scales below 1, by their sums over the whole numbers that have mass."""
        k = torch.arange(-25.0, 26.0).to(self.loc).reshape(-1, *[1] * self.loc.dim()) + self.loc.round()
        p = RoundedLogistic(self.loc, self.scale.clamp(max=1), validate_args=False).log_prob(k).exp()
        return [(k**power * p).sum(0) for power in range(1, most + 1)]


def log_normal_between(low: Tensor, high: Tensor) -> Tensor:
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
        observed: ``[..., *event_shape]``; channels where it is False are left out of the density.

    Reference: Salimans, Karpathy, Chen and Kingma, 2017, "PixelCNN++" (there, means also depend on the
    other channels of the pixel; here not).
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor,
        levels: int,
        *,
        event_shape: tuple[int, ...],
        observed: Tensor | None = None,
    ):
        num_channels = event_shape[0] if len(event_shape) == 3 else 1
        pixels = event_shape[1:] if len(event_shape) == 3 else event_shape
        self._k = -1 - len(pixels)  # the dimension of the components, of logits
        self.log_weights = logits.log_softmax(self._k)
        self.component = DiscretizedLogistic(loc, scale, levels, validate_args=False)
        self._one = (1, num_channels, *pixels)  # a datum beside the components
        self.observed = observed
        super().__init__(logits.shape[: self._k], torch.Size(event_shape), validate_args=False)

    @constraints.dependent_property
    def support(self) -> Constraint:
        return constraints.independent(self.component.support, len(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        leading = value.shape[: value.dim() - len(self.event_shape)]
        per_channel = self.component.log_prob(value.reshape(*leading, *self._one))
        if self.observed is not None:
            shape = self.observed.shape[: self.observed.dim() - len(self.event_shape)]
            per_channel = torch.where(self.observed.reshape(*shape, *self._one), per_channel, 0.0)
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
        return self._like(logits, loc, scale, self.observed)

    def marginal(self, observed: Tensor) -> DiscretizedLogisticMixture:
        """That of the channels where ``observed``, ``[..., *event_shape]``, alone."""
        return self._like(self.log_weights, self.component.loc, self.component.scale, observed)

    def _like(self, logits: Tensor, loc: Tensor, scale: Tensor, observed: Tensor | None) -> Any:
        shape = tuple(self.event_shape)
        return type(self)(logits, loc, scale, self.component.levels, event_shape=shape, observed=observed)

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
