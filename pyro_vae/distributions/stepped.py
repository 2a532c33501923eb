"""Whole numbers: a Logistic, rounded on a scale of their own."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.nn import functional as F


class SteppedLogistic(TorchDistribution):
    r"""Whole numbers whose distribution function is a Logistic's at the heights of steps.

    .. math:: P(v \le k) = F\left(\frac{g(k) - \mu}{s}\right), \qquad F(b) = 1 / (1 + e^{-b})

    with g rising linearly between knots, which are whole numbers, and beyond the outer ones. With g(k) =
    k + 1/2 it is the rounded Logistic; with a knot at each category, proportional odds with a scale.

    Args:
        loc: :math:`\mu`, any batch shape.
        scale: :math:`s`.
        knots: whole numbers that rise, ``[..., M]``.
        first: g at the first of them, ``[...]``.
        slopes: of g before, between and after the knots, ``[..., M + 1]``.
        low: the smallest value that there is, at most the first knot; by default there is none.

    Reference: McCullagh, 1980, "Regression models for ordinal data".
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(
        self, loc: Tensor, scale: Tensor, knots: Tensor, first: Tensor, slopes: Tensor, low: int | None = None
    ):
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.knots, self.first, self.slopes, self.low = knots, first, slopes, low
        super().__init__(self.loc.shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer if self.low is None else constraints.nonnegative_integer

    def _pieces(self, k: Tensor) -> Tensor:
        """How much of each linear piece lies before k, ``[..., M + 1]``; below the first it is negative."""
        away, width = k[..., None] - self.knots, self.knots.diff(dim=-1)
        between = away[..., :-1].clamp(min=0).minimum(width)
        return torch.cat([away[..., :1].clamp(max=0), between, away[..., -1:].clamp(min=0)], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        pieces = self._pieces(value)
        high = (self.first + (pieces * self.slopes).sum(-1) - self.loc) / self.scale
        # The step itself, which is lost in the difference of two heights.
        step = ((pieces - self._pieces(value - 1)) * self.slopes).sum(-1) / self.scale
        log_p = F.logsigmoid(high) + F.logsigmoid(step - high) + (-(-step).expm1()).log()
        return log_p if self.low is None else torch.where(value <= self.low, F.logsigmoid(high), log_p)

    def _quantile(self, u: Tensor) -> Tensor:
        """The smallest value up to which the probability is u or more."""
        tiny = torch.finfo(u.dtype).eps
        height = self.loc + self.scale * torch.logit(u.clamp(tiny, 1 - tiny)) - self.first
        rise = self.slopes[..., 1:-1] * self.knots.diff(dim=-1)
        below = rise.cumsum(-1) - rise
        inner = (height[..., None] - below).clamp(min=0).minimum(rise) / self.slopes[..., 1:-1]
        before = height.clamp(max=0) / self.slopes[..., 0]
        after = (height - rise.sum(-1)).clamp(min=0) / self.slopes[..., -1]
        value = (self.knots[..., 0] + before + inner.sum(-1) + after).ceil()
        return value if self.low is None else value.clamp(min=self.low)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        return self._quantile(torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device))

    def expand(self, batch_shape: Any, _instance: Any = None) -> SteppedLogistic:
        loc, scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        return SteppedLogistic(loc, scale, self.knots, self.first, self.slopes, self.low)

    def _quantiles(self) -> Tensor:
        u = (torch.arange(1000) + 0.5).to(self.loc) / 1000
        return self._quantile(u.reshape(-1, *[1] * self.loc.dim()).expand(-1, *self.batch_shape))

    @property
    def mean(self) -> Tensor:
        return self._quantiles().mean(0)

    @property
    def variance(self) -> Tensor:
        return self._quantiles().var(0)
