"""The importance-weighted bound."""

from __future__ import annotations

from torch import Tensor

from pyro_vae.checks import Count, checked
from pyro_vae.objectives.base import Draws, PerDatum
from pyro_vae.objectives.importance import importance_weighted_bound


class IWAE(PerDatum):
    r"""A bound that is the closer to log p(x) the more draws: a better model where the guide is simple.

    .. math:: -E\Big[\log \frac1K \sum_k \frac{p(x, z_k)}{q(z_k \mid x)}\Big]

    The mean over particles is that of each datum. The guide's gradient is the noisier the larger K: ``DReG``
    mends that.

    Args:
        num_particles: K.

    Reference: Burda, Grosse and Salakhutdinov, 2016, "Importance weighted autoencoders"; Rainforth et al.,
    2018, "Tighter variational bounds are not necessarily better".
    """

    @checked
    def __init__(self, num_particles: Count = 5):
        super().__init__(num_particles)

    def per_datum(self, draws: Draws) -> Tensor:
        return -importance_weighted_bound(draws.log_w)
