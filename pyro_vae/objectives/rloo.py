"""The ELBO by the score function, with the other draws for a baseline."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from pyro_vae.checks import checked
from pyro_vae.objectives.base import Draws, PerDatum, Several, instead
from pyro_vae.objectives.importance import unscaled


class RLOO(PerDatum):
    r"""The ELBO of latents whose draws carry no gradients, each held against the others of its datum.

    .. math:: \nabla = \frac1K \sum_k \nabla \log p(x, z_k) + \Big(\log w_k - \frac{1}{K - 1} \sum_{j \ne k}
        \log w_j\Big) \nabla \log q(z_k \mid x), \qquad w_k = \frac{p(x, z_k)}{q(z_k \mid x)}

    The gradient is unbiased, as the others know nothing of draw k; without them ("REINFORCE") it has the size
    of log w, and where the guide is the posterior, with them, none of its noise. Through draws that carry
    gradients these go as ever.

    Args:
        num_particles: K, two or more.

    Reference: Kool, van Hoof and Welling, 2019, "Buy 4 REINFORCE samples, get a baseline for free!";
    Williams, 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement
    learning".
    """

    reparameterised: ClassVar[bool] = False
    weighs_kl: ClassVar[bool] = True

    @checked
    def __init__(self, num_particles: Several = 4):
        super().__init__(num_particles)

    def per_datum(self, draws: Draws) -> Tensor:
        log_w = draws.log_w
        others = (log_w.sum(0) - log_w) / (len(log_w) - 1)
        surrogate, signal = log_w, (log_w - others).detach()
        for site in draws.drawn.values():
            if not site["fn"].has_rsample:  # whose own log q in log w has the gradient 0 in the mean
                surrogate = surrogate + draws.density(site) + signal * draws.by_datum(_log_q(site))
        return -instead(log_w, surrogate).mean(0)


def _log_q(site: Any) -> Tensor:
    """Of a draw, whatever the KL weighs."""
    return unscaled(site | {"unscaled_log_prob": site["fn"].log_prob(site["value"])})
