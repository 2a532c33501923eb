"""The importance-weighted bound for latents whose draws carry no gradients."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from pyro_vae.checks import checked
from pyro_vae.objectives.base import Draws, PerDatum, Several, instead
from pyro_vae.objectives.importance import importance_weighted_bound


class VIMCO(PerDatum):
    r"""The bound of IWAE for discrete latents: each draw is held against what the others say of its place.

    .. math:: L = \log \frac1K \sum_k w_k, \qquad \nabla_\phi = \nabla L + \sum_k (L - L_{-k})\,
        \nabla_\phi \log q_\phi(z_k \mid x), \qquad
        L_{-k} = \log \frac1K \Big(\sum_{j \ne k} w_j + \prod_{j \ne k} w_j^{1 / (K - 1)}\Big)

    The gradient is unbiased for any guide, and goes through no draw.

    Args:
        num_particles: K, two or more.

    Reference: Mnih and Rezende, 2016, "Variational inference for Monte Carlo objectives".
    """

    at_rest: ClassVar[bool] = True
    reparameterised: ClassVar[bool] = False

    @checked
    def __init__(self, num_particles: Several = 5):
        super().__init__(num_particles)

    def per_datum(self, draws: Draws) -> Tensor:
        bound, log_w = importance_weighted_bound(draws.log_w), draws.log_w.detach()
        others = (log_w.sum(0) - log_w) / (len(log_w) - 1)
        itself = torch.eye(len(log_w), dtype=torch.bool, device=log_w.device)[..., None]
        without = torch.where(itself, others, log_w[:, None])  # [K, k, B]: of each k, its own in their place
        signal = bound.detach() - importance_weighted_bound(without)
        return -instead(bound, bound + (signal * draws.log_q).sum(0))
