"""Bounds from Renyi's divergences."""

from __future__ import annotations

from torch import Tensor

from pyro_vae.checks import Count, checked
from pyro_vae.objectives.base import Draws, PerDatum
from pyro_vae.objectives.importance import importance_weighted_bound


class Renyi(PerDatum):
    r"""Between the ELBO (alpha = 1) and ``IWAE`` (alpha = 0): how far the guide covers all of the posterior.

    .. math:: -\frac{1}{1 - \alpha} E\Big[\log \frac1K \sum_k
        \Big(\frac{p(x, z_k)}{q(z_k \mid x)}\Big)^{1 - \alpha}\Big]

    A lower bound from alpha = 0 up, in expectation; below 0, with enough particles, an upper one.

    Args:
        alpha: order of the divergence; the larger, the more the guide seeks one mode.
        num_particles: K.

    Reference: Li and Turner, 2016, "Renyi divergence variational inference".
    """

    @checked
    def __init__(self, alpha: float = 0.5, num_particles: Count = 5):
        super().__init__(num_particles)
        self.alpha = alpha

    def per_datum(self, draws: Draws) -> Tensor:
        power = 1 - self.alpha
        return -(importance_weighted_bound(power * draws.log_w) / power if power else draws.log_w.mean(0))
