"""Whole numbers whose own scale is learned."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.checks import Count, checked
from pyro_vae.distributions.stepped import SteppedLogistic
from pyro_vae.families.base import COUNTING, FLOOR, Family, Shape
from pyro_vae.families.univariate import whole_numbers


class Stepped(Family):
    r"""Whole numbers, whatever their distribution: :math:`P(v_i \le k) = F((g_i(k) - \mu_i) / s_i)`.

    g is learned for each element: linear between knots at its values (or their quantiles, if there are many),
    and beyond them. It starts where :math:`\mu = 0, s = 1` gives the values' own frequencies. Scales of
    answers, years, ages, small and large counts are all fitted by it, and unseen values have a probability.

    Args:
        low: the smallest number that there is: 0 for counts; by default there is none.
        knots: M, the most of them.
    """

    measure = COUNTING
    reparameterised = False
    at: Tensor

    @checked
    def __init__(self, low: int | None = None, knots: Count = 32):
        super().__init__()
        self.low, self.knots = low, knots
        self.support = constraints.integer if low is None else constraints.nonnegative_integer
        self.mends = whole_numbers(math.inf)

    def setup(self, event_shape: Shape) -> None:
        super().setup(event_shape)
        self.register_buffer("at", torch.arange(float(self.knots)).expand(*event_shape, -1).clone())
        self.first = nn.Parameter(torch.zeros(event_shape))
        self.log_slopes = nn.Parameter(torch.zeros(*event_shape, self.knots + 1))

    def param_shape(self) -> Shape:
        return (2 * self.event_shape[0], *self.event_shape[1:])

    def forward(self, raw: Tensor) -> Distribution:
        n = len(self.event_shape)
        loc, raw_scale = raw.chunk(2, -n)
        scale = FLOOR + nn.functional.softplus(raw_scale + math.log(math.e - 1))
        slopes = self.log_slopes.exp().clamp(min=1e-6)
        p: Any = SteppedLogistic(loc, scale, self.at, self.first, slopes, self.low)
        return cast(Distribution, p.to_event(n))

    @torch.no_grad()
    def initialize(self, x: Tensor, mean: Tensor, std: Tensor, *, by_column: bool = False) -> None:
        own = (self.at, self.first[..., None], self.log_slopes)
        parts = [p.flatten(0, len(self.event_shape) - 1) for p in own]
        for values, at, first, log_slopes in zip(x.flatten(1).unbind(1), *parts, strict=True):
            values = values[values.isfinite()]
            knots, heights = self._steps(values.double())
            slopes = heights.diff() / knots.diff()
            outer = (heights[-1] - heights[0]) / (knots[-1] - knots[0])
            more = self.knots - len(knots)  # that are of no use: beyond the last, in line with what is there
            at.copy_(torch.cat([knots, knots[-1] + 1 + torch.arange(more, device=x.device)]))
            first.copy_(heights[:1])
            log_slopes.copy_(torch.cat([outer[None], slopes, outer.expand(more + 1)]).clamp(min=1e-3).log())

    def _steps(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Knots, two at least, and how high their share of the values is."""
        if not len(values):
            values = self.at.new_zeros(1).double()
        knots = torch.unique(torch.cat([values, values - 1]))  # a step at each value
        if len(knots) > self.knots:
            shares = torch.linspace(0, 1, self.knots - 1).to(values)
            knots = torch.unique(values.sort().values[(shares * (len(values) - 1)).round().long()])
            knots = torch.cat([knots[:1] - 1, knots])
        if self.low is not None:
            knots = knots[knots >= self.low]
        knots = torch.cat([knots, knots[-1:] + 1])[: max(2, min(self.knots, len(knots)))]
        counts = (values[:, None] <= knots).sum(0)
        return knots, torch.logit((counts + 0.5) / (len(values) + 1)).cummax(0).values

    def describe(self, raw: str) -> dict[str, str]:
        one, two = (raw.replace("(", f"_{i}(", 1) for i in (1, 2))
        return {"loc": one, "scale": f"{FLOOR:g} + softplus({two} + 0.541)", "steps": "g learned"}
