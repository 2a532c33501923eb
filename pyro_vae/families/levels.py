"""Levels, symbols and shares: Categorical, mixtures of rounded Logistics, Dirichlet."""

from __future__ import annotations

from typing import Any, cast

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_vae import distributions
from pyro_vae.checks import Count, Levels, checked
from pyro_vae.families.base import COUNTING, FLOOR, Family, Shape, scale
from pyro_vae.families.univariate import whole_numbers


class _Levels(Family):
    """Elements that are levels 0, ..., L - 1."""

    measure = COUNTING

    @checked
    def __init__(self, levels: Levels):
        super().__init__()
        self.levels = levels
        self.support = constraints.integer_interval(0, levels - 1)
        self.mends = whole_numbers(levels - 1)


class Categorical(_Levels):
    r"""Levels or symbols 0, ..., L - 1 with a probability each: :math:`p(v) = \prod_i \pi_{i v_i}`.

    The network emits L logits per element, which start at the logarithm of the levels' frequencies: those of
    all elements, or of vectors each element's own.

    Args:
        levels: L, 256 for 8-bit images.
    """

    offset: Tensor

    def __init__(self, levels: int = 256):
        super().__init__(levels)

    def setup(self, event_shape: Shape) -> None:
        super().setup(event_shape)
        own = self.event_shape if len(self.event_shape) == 1 else ()
        self.register_buffer("offset", torch.zeros(*own, self.levels))

    def param_shape(self) -> Shape:
        return (self.levels * self.event_shape[0], *self.event_shape[1:])

    def forward(self, raw: Tensor) -> Distribution:
        n = len(self.event_shape)
        logits = raw.unflatten(-n, (self.levels, self.event_shape[0])).movedim(-n - 1, -1)
        p: Any = distributions.Categorical(logits=logits + self.offset)
        return cast(Distribution, p.to_event(n))

    @torch.no_grad()
    def initialize(self, x: Tensor, mean: Tensor, std: Tensor, *, by_column: bool = False) -> None:
        if self.offset.dim() == 1:
            self.offset.copy_(_frequencies(x, self.levels).log())
            return
        for offset, column in zip(self.offset, x.unbind(-1), strict=True):
            offset.copy_(_frequencies(column, self.levels).log())

    def describe(self, raw: str) -> dict[str, str]:
        return {"logits": f"{raw} + b"}


class Ordinal(_Levels):
    r"""Categories 0, ..., L - 1 with an order: proportional odds of a number that the network emits.

    .. math:: P(v_i \le k) = F(c_{ik} - r_i), \qquad F(b) = 1 / (1 + e^{-b}), \qquad
        c_{i0} < c_{i1} < \dots < c_{i,L-2}

    with learned cut points c of each element, which start where r = 0 gives the categories' frequencies.

    Args:
        levels: L.

    Reference: McCullagh, 1980, "Regression models for ordinal data".
    """

    def setup(self, event_shape: Shape) -> None:
        super().setup(event_shape)
        start = torch.logit(torch.arange(1, self.levels) / self.levels)
        self.first = nn.Parameter(start[:1].expand(*event_shape, 1).clone())
        if self.levels > 2:
            self.log_steps = nn.Parameter(start.diff().log().expand(*event_shape, self.levels - 2).clone())

    def param_shape(self) -> Shape:
        return self.event_shape

    def forward(self, raw: Tensor) -> Distribution:
        cuts: Tensor = self.first
        if self.levels > 2:
            cuts = torch.cat([cuts, cuts + self.log_steps.exp().cumsum(-1)], -1)
        ends = cuts - raw[..., None]
        step = cuts.diff(dim=-1)  # F(b) - F(a) = F(b) F(-a) (1 - exp(a - b)), without cancellation
        within = (
            nn.functional.logsigmoid(ends[..., 1:])
            + nn.functional.logsigmoid(-ends[..., :-1])
            + (-(-step).expm1()).log()
        )
        log_p = [nn.functional.logsigmoid(ends[..., :1]), within, nn.functional.logsigmoid(-ends[..., -1:])]
        p: Any = distributions.Categorical(logits=torch.cat(log_p, -1))
        return cast(Distribution, p.to_event(len(self.event_shape)))

    @torch.no_grad()
    def initialize(self, x: Tensor, mean: Tensor, std: Tensor, *, by_column: bool = False) -> None:
        elements = x.reshape(len(x), -1).unbind(1)
        shares = torch.stack([_frequencies(element, self.levels) for element in elements])
        cuts = torch.logit(shares.cumsum(1)[:, :-1]).reshape(*self.event_shape, -1)
        self.first.copy_(cuts[..., :1])
        if self.levels > 2:
            self.log_steps.copy_(cuts.diff(dim=-1).log())

    def describe(self, raw: str) -> dict[str, str]:
        return {"cut points": f"c - {raw}, c learned"}


def _frequencies(x: Tensor, levels: int) -> Tensor:
    """Of the levels among values that are known, none of them 0."""
    counts = torch.bincount(x[x.isfinite()].long().clamp(0, levels - 1), minlength=levels) + 1.0
    return counts / counts.sum()


class DiscretizedLogisticMixture(_Levels):
    """Grey levels 0, ..., L - 1: a mixture of rounded Logistics, the component shared by a pixel's channels.

    See :class:`pyro_vae.distributions.DiscretizedLogisticMixture`. Locations start at the quantiles of the
    data's levels.

    Args:
        components: K.
        levels: L, 256 for 8-bit images.
    """

    unit: Tensor
    offset: Tensor

    @checked
    def __init__(self, components: Count = 5, levels: Levels = 256):
        super().__init__(levels)
        self.components = components

    def setup(self, event_shape: Shape) -> None:
        super().setup(event_shape)
        self.channels = event_shape[0] if len(event_shape) == 3 else 1
        self.register_buffer("unit", torch.ones(()))
        self.register_buffer("offset", torch.zeros(self.components))

    def param_shape(self) -> Shape:
        c, first = self.channels, self.event_shape[0]
        return (self.components * (1 + 2 * c) * (first // c), *self.event_shape[1:])

    def forward(self, raw: Tensor) -> Distribution:
        k, c, n = self.components, self.channels, len(self.event_shape)
        pixels = self.event_shape[1:] if n == 3 else self.event_shape
        raw = raw.reshape(*raw.shape[: raw.dim() - n], k * (1 + 2 * c), *pixels)
        at = -1 - len(pixels)
        logits, loc, raw_scale = raw.split([k, k * c, k * c], dim=at)
        loc, raw_scale = (t.unflatten(at, (k, c)) for t in (loc, raw_scale))
        offset = self.offset.reshape(k, 1, *[1] * len(pixels))
        return distributions.DiscretizedLogisticMixture(
            logits,
            offset + self.unit * loc,
            self.unit * (FLOOR + nn.functional.softplus(raw_scale)),
            self.levels,
            event_shape=self.event_shape,
        )

    @torch.no_grad()
    def initialize(self, x: Tensor, mean: Tensor, std: Tensor, *, by_column: bool = False) -> None:
        values = x[x.isfinite()][:1_000_000].to(self.unit) / (self.levels - 1)
        self.unit.copy_((std.square().mean().sqrt() / (self.levels - 1) / 2).clamp(min=1e-3))
        at = (torch.arange(self.components).to(values) + 0.5) / self.components
        self.offset.copy_(values.sort().values[(at * len(values)).long()])

    def describe(self, raw: str) -> dict[str, str]:
        one, two, three = (raw.replace("(", f"_{i}(", 1) for i in (1, 2, 3))
        unit = f"{self.unit.item():.3g}"
        return {
            "logits": one,
            "loc": f"b + {unit} {two}",
            "scale": f"{unit} ({FLOOR:g} + softplus({three}))",
        }


class Dirichlet(Family):
    r"""Shares that add up to 1: :math:`p(v) = \mathrm{Dirichlet}(v; \alpha)`, for Dirichlet priors."""

    support = constraints.simplex

    def param_shape(self) -> Shape:
        return self.event_shape

    def forward(self, raw: Tensor) -> Distribution:
        return dist.Dirichlet(scale(raw) + 1e-2)  # nearer to 0, draws round to the corners

    def describe(self, raw: str) -> dict[str, str]:
        return {"concentration": f"softplus({raw}) + 0.01"}
