"""Guide families q(z|x): modules whose ``forward(params)`` returns a distribution over z.

``params`` are the encoder's raw reals; constraints live here, never in the network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import pyro.distributions as dist
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_vae.distributions import to_constrained

__all__ = ["Normal"]


class Guide(nn.Module, ABC):
    """Base of the guide families: a new one states ``param_shape`` and ``forward``."""

    @abstractmethod
    def param_shape(self, latent_dim: int) -> tuple[int, ...]:
        """Shape of what the encoder must emit for one datum, given ``latent_dim`` (D)."""

    @abstractmethod
    def forward(self, params: Tensor) -> Distribution:
        """q(z|x), batch shape ``[...]``, event shape ``(D,)``, from params ``[..., *param_shape]``."""


class Normal(Guide):
    r"""Mean field: :math:`q(z|x) = \prod_d \mathcal N(z_d; \mu_d(x), \sigma_d(x)^2)`.

    Reference: Kingma and Welling, 2014, "Auto-encoding variational Bayes", appendix C.
    """

    def param_shape(self, latent_dim: int) -> tuple[int, ...]:
        return (2 * latent_dim,)

    def forward(self, params: Tensor) -> Distribution:
        loc, raw_scale = params.chunk(2, dim=-1)
        return dist.Normal(loc, to_constrained(constraints.positive)(raw_scale)).to_event(1)
