"""Mixtures of Normals."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.checks import Count, checked
from pyro_vae.distributions import MixtureOfDiagNormals, Reshaped
from pyro_vae.families.base import Family, Shape, scale, units


class MixtureOfNormals(Family):
    r"""Several modes: :math:`p(v) = \sum_k \pi_k\, \mathcal N(v; \mu_k, \mathrm{diag}(\sigma_k^2))`.

    The components start apart: alike they would have the same gradient. As a prior, its weights, means and
    scales are learned; as a guide or a likelihood, they are the network's.

    Args:
        components: K.

    Reference: Dilokthanakul et al., 2016, "Deep unsupervised clustering with Gaussian mixture variational
    autoencoders"; Figurnov, Mohamed and Mnih, 2018, "Implicit reparameterization gradients".
    """

    offset: Tensor
    unit: Tensor

    @checked
    def __init__(self, components: Count = 5):
        super().__init__()
        self.components = components

    def setup(self, event_shape: Shape) -> None:
        super().setup(event_shape)
        self.size = math.prod(event_shape)
        self.register_buffer("offset", torch.randn(self.components, self.size))
        self.register_buffer("unit", torch.ones(self.size))

    def param_shape(self) -> Shape:
        return (self.components * (1 + 2 * self.size),)

    def forward(self, raw: Tensor) -> Distribution:
        of_each = raw.unflatten(-1, (self.components, -1))
        loc, raw_scale = of_each[..., 1:].chunk(2, dim=-1)
        loc, sigma = (
            self.offset + self.unit * loc,
            self.unit * scale(raw_scale + 0.5413),
        )  # softplus(0.5413) = 1
        mixture = MixtureOfDiagNormals(of_each[..., 0], loc, sigma)
        return mixture if len(self.event_shape) == 1 else Reshaped(mixture, self.event_shape)

    @torch.no_grad()
    def initialize(self, x: Tensor, mean: Tensor, std: Tensor, *, by_column: bool = False) -> None:
        rows = torch.linspace(0, len(x) - 1, self.components).round().long()
        some = torch.where(x.isnan(), mean.to(x), x)[rows].flatten(1)
        self.unit.copy_(units(std, by_column).flatten())
        self.offset.copy_(some + 0.01 * self.unit * torch.randn_like(some))

    def describe(self, raw: str) -> dict[str, str]:
        one, two, three = (raw.replace("(", f"_{i}(", 1) for i in (1, 2, 3))
        return {"logits": one, "loc": f"{two} + b", "scale": f"softplus({three})"}
