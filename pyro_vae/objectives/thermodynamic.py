"""The thermodynamic variational objective."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from pyro_vae.checks import Count, Limit, checked
from pyro_vae.objectives.base import Draws, PerDatum, Several, instead, normalised

Within = Annotated[float, Limit(math.ulp(0.0), 1.0, "above 0 and below 1")]


class Thermodynamic(PerDatum):
    r"""A sum over steps from guide to posterior: tighter than the ELBO, and for discrete latents too.

    .. math:: \log p(x) = \int_0^1 E_{\pi_\beta}\Big[\log \frac{p(x, z)}{q(z \mid x)}\Big] d\beta
        \ge \sum_{j=0}^{J-1} (\beta_{j+1} - \beta_j) E_{\pi_{\beta_j}}[\log w], \qquad
        \pi_\beta \propto q(z \mid x)^{1 - \beta} p(x, z)^\beta

    Means under :math:`\pi_\beta` are those of the K draws weighted by :math:`w^\beta`; their gradients are
    covariances, and go through no draw. Of one step it is the ELBO.

    Args:
        num_particles: K, two or more.
        num_steps: J; beta is 0, and from ``first`` on evenly spaced in its logarithm.
        first: the first beta above 0.

    Reference: Masrani, Le and Wood, 2019, "The thermodynamic variational objective".
    """

    at_rest: ClassVar[bool] = True
    reparameterised: ClassVar[bool] = False

    @checked
    def __init__(self, num_particles: Several = 10, num_steps: Count = 5, first: Within = 0.03):
        super().__init__(num_particles)
        self.num_steps, self.first = num_steps, first

    @property
    def betas(self) -> list[float]:
        """0, ``first``, ..., 1."""
        last = self.num_steps - 1
        return [0.0, *(self.first ** (1 - j / last) for j in range(last)), 1.0] if last else [0.0, 1.0]

    def per_datum(self, draws: Draws) -> Tensor:
        log_p, log_q, log_w = draws.log_p, draws.log_q, draws.log_w.detach()
        unbiased = len(log_w) / (len(log_w) - 1)  # where weights are equal, at beta = 0
        value, ascent = torch.zeros_like(log_w[0]), torch.zeros_like(log_w[0])
        for beta, following in pairwise(self.betas):
            share, v = following - beta, normalised(beta * log_w)
            mean = (v * log_w).sum(0)
            covariance = unbiased * v * (log_w - mean) * (beta * log_p + (1 - beta) * log_q)
            value = value + share * mean
            ascent = ascent + share * (v * (log_p - log_q) + covariance).sum(0)
        return -instead(value, ascent)
