"""Bounds from Renyi's divergences."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from pyro_vae.checks import Count, Limit, checked
from pyro_vae.objectives.base import Draws, PerDatum

Finite = Annotated[float, Limit(math.nextafter(-math.inf, 0.0), math.inf, "a finite number")]


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
    def __init__(self, alpha: Finite = 0.5, num_particles: Count = 5):
        super().__init__(num_particles)
        self.alpha = alpha

    def per_datum(self, draws: Draws) -> Tensor:
        power = 1 - self.alpha
        return -(_log_mean(power * draws.log_w) / power if power else draws.log_w.mean(0))


def _log_mean(log_w: Tensor) -> Tensor:
    """The log of the mean of w, whose error is in proportion where log w is all but 0, as near alpha = 1."""
    top = log_w.detach().amax(0)
    below = log_w - top
    excess = below.expm1().mean(0)
    far = below.logsumexp(0) - math.log(len(log_w))
    return top + torch.where(excess > -0.5, excess.log1p(), far)
