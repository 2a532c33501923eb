"""The maximum mean discrepancy between the latents of the data and the prior."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae.checks import Count, NotNegative, checked
from pyro_vae.objectives.base import Draws, PerDatum
from pyro_vae.objectives.elbo import kl_term, latents

WIDTHS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Of the kernels, in units of the mean square distance of two draws of the prior."""


class MMD(PerDatum):
    r"""Latents of all data together follow the prior, each datum's need not: informative latents.

    .. math:: -E_q[\log p(x \mid z)] + \lambda \sum_s \mathrm{MMD}^2(q(z_s), p(z_s)) + \kappa\,
        \mathrm{KL}(q(z \mid x) \,\|\, p(z))

    The squared MMD is estimated without bias from the batch (of one draw it is left out), with the sum of
    inverse multiquadratic kernels :math:`c / (c + |z - z'|^2)`, in which c is 0.1 to 10 mean square distances
    of two draws of the prior. With :math:`\kappa = 0` it is the Wasserstein autoencoder (WAE-MMD), else
    InfoVAE with :math:`\kappa = 1 - \alpha`. The prior of a latent is that at the draws of those above it.
    What all data share, such as weights that are latent, has no such spread, and has its KL as in the ELBO.

    Args:
        weight: :math:`\lambda`, nats per datum.
        kl: :math:`\kappa`, weight of the KL.
        num_particles: draws per datum.

    Reference: Zhao, Song and Ermon, 2019, "InfoVAE: balancing learning and inference in variational
    autoencoders"; Tolstikhin, Bousquet, Gelly and Schoelkopf, 2018, "Wasserstein auto-encoders".
    """

    @checked
    def __init__(self, weight: NotNegative = 100.0, kl: NotNegative = 0.0, num_particles: Count = 1):
        super().__init__(num_particles)
        self.weight, self.kl = weight, kl

    def per_datum(self, draws: Draws) -> Tensor:
        total = self.kl * draws.kl - draws.log_x if self.kl else -draws.log_x
        for name, q, p, z, exact in latents(draws.model, draws.guide):
            site, event = draws.model.nodes[name], len(q.event_shape)
            plates = draws.of_data(site)
            if draws.batch and not plates:
                total = total + (1 - self.kl) * draws.weighed(site, kl_term(q, p, z, exact))
                continue
            prior = p.rsample() if p.has_rsample else p.sample()
            found = discrepancy(draws.rows(z, event, plates), draws.rows(prior, event, plates))
            total = total + draws.together * self.weight * found
        return total.mean(0)


def discrepancy(one: Tensor, other: Tensor) -> Tensor:
    """The squared MMD of two samples ``[n, D]`` and ``[m, D]``, without bias, so that it may be below 0.

    Of one draw each it is 0: there is no pair to compare them with.
    """
    if len(one) < 2 or len(other) < 2:
        return one.new_zeros(())
    within = square_distances(other, other).detach()
    unit = within.sum() / (len(other) * (len(other) - 1))

    def kernels(distances: Tensor) -> Tensor:
        return torch.stack([c * unit / (c * unit + distances) for c in WIDTHS]).sum(0)

    def mean(sample: Tensor) -> Tensor:  # over pairs, without those of a draw and itself
        number = len(sample)
        total = kernels(square_distances(sample, sample)).sum() - len(WIDTHS) * number
        return total / (number * (number - 1))

    return mean(one) + mean(other) - 2 * kernels(square_distances(one, other)).mean()


def square_distances(one: Tensor, other: Tensor) -> Tensor:
    """Between rows, ``[n, m]``."""
    return (one[:, None] - other).square().sum(-1)
