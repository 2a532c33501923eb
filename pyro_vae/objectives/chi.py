"""The upper bound from the chi-divergence."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from torch import Tensor

from pyro_vae.checks import Count, Limit, checked
from pyro_vae.objectives.base import Draws, PerDatum, instead, normalised
from pyro_vae.objectives.importance import importance_weighted_bound

Order = Annotated[float, Limit(math.nextafter(1.0, 2.0), math.inf, "above 1")]


class Chi(PerDatum):
    r"""An upper bound on log p(x), which the guide lowers: it is wide enough to cover all of the posterior.

    .. math:: \mathrm{CUBO}_n = \frac1n \log E_q\Big[\Big(\frac{p(x, z)}{q(z \mid x)}\Big)^n\Big]

    The loss is this bound, estimated from K draws (of few, below its value), and not its negative. The guide
    descends its gradient, doubly reparameterised, :math:`(1 - n) \sum_k \bar v_k\, \partial_{z_k} \log w_k\,
    \partial_\phi z_k` with :math:`\bar v \propto w^n`: that of the estimate itself would lead draws away from
    the posterior. The model ascends the bound of ``IWAE``, as lowering this one would make it worse.

    Args:
        n: order, above 1.
        num_particles: K.

    Reference: Dieng, Tran, Ranganath, Paisley and Blei, 2017, "Variational inference via chi upper bound
    minimization".
    """

    at_rest: ClassVar[bool] = True

    @checked
    def __init__(self, n: Order = 2.0, num_particles: Count = 5):
        super().__init__(num_particles)
        self.n = n

    def per_datum(self, draws: Draws) -> Tensor:
        v, w = normalised(self.n * draws.log_w), normalised(draws.log_w)
        ascent = ((self.n - 1) * v * draws.path + w * draws.log_p).sum(0)
        return instead(importance_weighted_bound(self.n * draws.log_w) / self.n, -ascent)
