"""The importance-weighted bound with a doubly reparameterised gradient."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from pyro_vae.checks import Count, checked
from pyro_vae.objectives.base import Draws, PerDatum, instead, normalised
from pyro_vae.objectives.importance import importance_weighted_bound


class DReG(PerDatum):
    r"""The bound of ``IWAE``, whose gradient for the guide gets better with more draws instead of noisier.

    .. math:: \nabla_\phi = \sum_k \bar w_k^2\, \frac{\partial \log w_k}{\partial z_k}
        \frac{\partial z_k}{\partial \phi}, \qquad
        \nabla_\theta = \sum_k \bar w_k\, \nabla_\theta \log p_\theta(x, z_k)

    with weights :math:`\bar w` that sum to 1. Both are unbiased for the gradient of the bound.

    Args:
        num_particles: K.

    Reference: Tucker, Lawson, Gu and Maddison, 2019, "Doubly reparameterized gradient estimators for Monte
    Carlo objectives".
    """

    at_rest: ClassVar[bool] = True

    @checked
    def __init__(self, num_particles: Count = 5):
        super().__init__(num_particles)

    def per_datum(self, draws: Draws) -> Tensor:
        w = normalised(draws.log_w)
        ascent = (w.square() * draws.path + w * draws.log_p).sum(0)
        return -instead(importance_weighted_bound(draws.log_w), ascent)
