"""Normals whose elements are correlated."""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.checks import Count, check
from pyro_vae.distributions import Reshaped
from pyro_vae.families.base import FLOOR, Family, Shape, scale, units


class _Correlated(Family):
    """Elements in a unit of their own or of all, around a starting value."""

    unit: Tensor
    loc: Tensor

    def setup(self, event_shape: Shape) -> None:
        super().setup(event_shape)
        self.size = math.prod(event_shape)
        self.register_buffer("unit", torch.ones(self.size))
        self.register_buffer("loc", torch.zeros(self.size))

    @torch.no_grad()
    def initialize(self, x: Tensor, mean: Tensor, std: Tensor, *, by_column: bool = False) -> None:
        self.unit.copy_(units(std, by_column).flatten())
        self.loc.copy_(mean.flatten())

    def _rows(self, raw: Tensor) -> Tensor:
        """Raw reals ``[..., *param_shape()]`` as rows, ``[..., rows, size]``."""
        return raw.reshape(*raw.shape[: raw.dim() - len(self.event_shape)], -1, self.size)

    def _arrays(self, base: Any) -> Distribution:
        vector = len(self.event_shape) == 1
        return cast(Distribution, base) if vector else Reshaped(base, self.event_shape)

    def _unit(self) -> str:
        return f"{self.unit[0].item():.3g}" if self.unit.unique().numel() == 1 else "u"


class FullRankNormal(_Correlated):
    r"""All elements correlated: :math:`p(v) = \mathcal N(v; \mu, L L^\top)`, L lower triangular."""

    def param_shape(self) -> Shape:
        return (2 * self.size + self.size * (self.size - 1) // 2,)

    def forward(self, raw: Tensor) -> Distribution:
        d = self.size
        loc, diagonal, lower = raw.split([d, d, raw.shape[-1] - 2 * d], dim=-1)
        rows, columns = torch.tril_indices(d, d, -1, device=raw.device)
        scale_tril = scale(diagonal).diag_embed()
        scale_tril[..., rows, columns] = lower
        loc, scale_tril = self.loc + self.unit * loc, self.unit[:, None] * scale_tril
        return self._arrays(dist.MultivariateNormal(loc, scale_tril=scale_tril))

    def describe(self, raw: str) -> dict[str, str]:
        one, two, three = (raw.replace("(", f"_{i}(", 1) for i in (1, 2, 3))
        unit = self._unit()
        times = "" if unit == "1" else f"{unit} "
        loc = one if unit == "1" else f"b + {times}{one}"
        return {"loc": loc, "L": f"{times}softplus({two}) on the diagonal and {times}{three} below"}


class LowRankNormal(_Correlated):
    r"""Elements correlated: :math:`p(v) = \mathcal N(v; \mu, W W^\top + \mathrm{diag}(\sigma^2))`.

    Args:
        rank: columns of W.
        covariance: ``"network"``: W and sigma are the network's; ``"shared"``: learned, and the same for all.

    Reference: Rezende, Mohamed and Wierstra, 2014, "Stochastic backpropagation and approximate inference
    in deep generative models", section 4.3.
    """

    def __init__(self, rank: int = 2, covariance: Literal["network", "shared"] = "network"):
        super().__init__()
        covariance = "network" if cast(str, covariance) == "decoder" else covariance
        if covariance not in ("network", "shared"):
            raise ValueError(f'covariance={covariance!r} is neither "network" nor "shared"')
        self.rank, self.covariance = check("rank", rank, Count), covariance

    def setup(self, event_shape: Shape) -> None:
        super().setup(event_shape)
        # Off 0, where the density has a saddle: it depends on W through its square.
        start = torch.cat([torch.full((1, self.size), 0.5), 0.3 * torch.randn(self.rank, self.size)])
        if self.covariance == "shared":
            self.start = nn.Parameter(start)
        else:
            self.register_buffer("start", start)

    def param_shape(self) -> Shape:
        rows = 2 + self.rank if self.covariance == "network" else 1
        return (rows * self.event_shape[0], *self.event_shape[1:])

    def forward(self, raw: Tensor) -> Distribution:
        rows = self._rows(raw)
        learned = self.start + rows[..., 1:, :] if self.covariance == "network" else self.start
        sigma = self.unit * (FLOOR + nn.functional.softplus(learned[..., 0, :]))
        factor = (self.unit * learned[..., 1:, :]).mT
        loc = self.loc + self.unit * rows[..., 0, :]
        return self._arrays(dist.LowRankMultivariateNormal(loc, factor, sigma.square()))

    def describe(self, raw: str) -> dict[str, str]:
        unit = self._unit()
        if self.covariance == "shared":
            return {"loc": f"b + {unit} {raw}", "W": "learned values", "sigma": "learned values"}
        one, two, three = (raw.replace("(", f"_{i}(", 1) for i in (1, 2, 3))
        sigma = f"{unit} ({FLOOR:g} + softplus({two} + b_2))"
        return {"loc": f"b_1 + {unit} {one}", "sigma": sigma, "W": f"{unit} ({three} + b_3)"}
