"""The guide's own mixture over pseudo-inputs, as a prior."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.checks import Count, checked
from pyro_vae.families.base import Family, Shape


class VampPrior(Family):
    r"""The guide's own mixture over pseudo-inputs: :math:`p(z) = \frac1K \sum_k q(z \mid u_k)`.

    The pseudo-inputs :math:`u_k` are learned, in data space, and start at data; sampling goes through
    the encoder.

    Args:
        components: K.

    Reference: Tomczak and Welling, 2018, "VAE with a VampPrior".
    """

    logits: Tensor

    @checked
    def __init__(self, components: Count = 500):
        super().__init__()
        self.components = components

    def see(self, encode: Callable[[Tensor], Distribution], shape: Shape) -> None:
        """Takes q(z|x), and the shape of x."""
        self.encode = (encode,)  # not a submodule: the guide's parameters are the guide's
        self.pseudo_inputs = nn.Parameter(torch.randn(self.components, *shape))
        self.register_buffer("logits", torch.zeros(self.components))

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Starts the pseudo-inputs at data ``[n, *shape]``; NaN becomes the mean."""
        rows = torch.linspace(0, len(x) - 1, self.components).long()
        x = torch.where(x.isnan(), x.nanmean(0).nan_to_num(0.0), x)
        # Where there are more components than data, equal ones would stay equal.
        self.pseudo_inputs.copy_(x[rows] + 0.01 * x.std() * torch.randn_like(x[rows]))

    def param_shape(self) -> Shape:
        return (0,)

    def forward(self, raw: Tensor) -> Distribution:
        (encode,) = self.encode
        weights = dist.Categorical(logits=self.logits)
        return cast(Distribution, dist.MixtureSameFamily(weights, encode(self.pseudo_inputs)))

    def describe(self, raw: str) -> dict[str, str]:
        return {"u": f"{self.components} learned pseudo-inputs, through the encoder: the mean of q(z|u_k)"}
