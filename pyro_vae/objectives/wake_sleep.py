"""Reweighted wake-sleep."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from pyro_vae.checks import checked
from pyro_vae.objectives.base import Draws, PerDatum, Several, instead, normalised
from pyro_vae.objectives.importance import importance_weighted_bound


class WakeSleep(PerDatum):
    r"""The guide learns from weighted draws instead of through them: for discrete latents, and no collapse.

    .. math:: \nabla_\theta = \sum_k \bar w_k\, \nabla_\theta \log p_\theta(x, z_k), \qquad
        \nabla_\phi = \sum_k \bar w_k\, \nabla_\phi \log q_\phi(z_k \mid x)

    The model ascends the bound of ``IWAE``, which is the loss; the guide, in its wake phase, descends
    KL(p(z|x) || q(z|x)), the more truly the larger K. One step does both. The weights are those of each
    datum, where ``pyro.infer.ReweightedWakeSleep`` has one for the whole batch.

    Args:
        num_particles: K, two or more.

    Reference: Bornschein and Bengio, 2015, "Reweighted wake-sleep"; Le, Kosiorek, Siddharth, Teh and Wood,
    2020, "Revisiting reweighted wake-sleep for models with stochastic control flow".
    """

    at_rest: ClassVar[bool] = True
    reparameterised: ClassVar[bool] = False

    @checked
    def __init__(self, num_particles: Several = 5):
        super().__init__(num_particles)

    def per_datum(self, draws: Draws) -> Tensor:
        ascent = (normalised(draws.log_w) * (draws.log_p + draws.log_q)).sum(0)
        return -instead(importance_weighted_bound(draws.log_w), ascent)
