"""The ELBO without the score of the guide."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from pyro_vae.objectives.base import Draws, PerDatum, instead


class StickingTheLanding(PerDatum):
    r"""The ELBO, whose gradient has no noise left where the guide is the posterior.

    .. math:: -E_q[\log p(x, z) - \log q_{\bar\phi}(z \mid x)]

    The parameters :math:`\bar\phi` of the density do not move, only the draws: what is left out has mean 0.
    Of a guide that is far from the posterior the gradient may be noisier than that of ``Trace_ELBO``.

    Args:
        num_particles: draws per datum.

    Reference: Roeder, Wu and Duvenaud, 2017, "Sticking the landing: simple, lower-variance gradient
    estimators for variational inference".
    """

    weighs_kl: ClassVar[bool] = True

    def per_datum(self, draws: Draws) -> Tensor:
        return -instead(draws.log_w, draws.log_w + draws.score).mean(0)
