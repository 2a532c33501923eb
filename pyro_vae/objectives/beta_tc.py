"""The total correlation of the latents, weighed by itself."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import Count, NotNegative, checked
from pyro_vae.objectives.base import Draws, PerDatum
from pyro_vae.objectives.elbo import latents, one_by_one


class BetaTC(PerDatum):
    r"""The ELBO with more weight on what latents have in common over the data: they disentangle.

    .. math:: -\mathrm{ELBO} + (\beta - 1) \sum_s
        \mathrm{KL}\Big(q(z_s) \,\Big\|\, \prod_d q(z_{s,d})\Big), \qquad q(z) = \frac1N \sum_n q(z \mid x_n)

    q(z) at a draw is estimated without bias from the batch: a datum's own guide counts 1 / N, the others of
    the batch stand for the N - 1 others (minibatch stratified sampling). One draw per datum.

    Args:
        num_data: N, data that the batches are of.
        beta: weight of the total correlation; 1 is the ELBO.

    Raises:
        ValueError: a guide is not independent over its latents, a latent has plates of its own, or a batch
            has more than N data.

    Reference: Chen, Li, Grosse and Duvenaud, 2018, "Isolating sources of disentanglement in variational
    autoencoders".
    """

    @checked
    def __init__(self, num_data: Count, beta: NotNegative = 6.0):
        super().__init__(1)
        self.num_data, self.beta = num_data, beta

    def per_datum(self, draws: Draws) -> Tensor:
        total = (draws.kl - draws.log_x).mean(0)
        number = len(total) * draws.together
        if number > self.num_data:
            raise ValueError(
                f"num_data={self.num_data} is less than a batch of {number}; it is the number of all "
                "data that batches are of: pv.objectives.BetaTC(len(data.train))"
            )
        for name, q, _, z, _ in latents(draws.model, draws.guide):
            if draws.batch and not draws.of_data(draws.model.nodes[name]):
                continue  # what all data share has no aggregate
            if z.shape[: z.dim() - len(q.event_shape)] != (number,):
                raise ValueError(
                    f"the latents of {name!r} lie in plates of their own, beside that of the data: a total "
                    "correlation is that of the latents of one datum; pyro.infer.Trace_ELBO() takes them"
                )
            each = one_by_one(q, f"the guide of {name!r}", "pv.guides.Normal() is, for one")
            common = total_correlation(each, z, self.num_data)
            total = total + (self.beta - 1) * (common if draws.together == 1 else common.sum())
        return total


def total_correlation(q: Any, z: Tensor, num_data: int) -> Tensor:
    """Estimates log q(z) - sum_d log q(z_d) at each datum's draw, ``[B]``.

    Args:
        q: of the guide, independent over the latents: batch ``[B, *event_shape]``.
        z: its draws, of the same shape.
        num_data: N.
    """
    log_q = q.log_prob(z[:, None]).flatten(2)  # of the draw of one datum under the guide of another
    return log_aggregate(log_q.sum(-1), num_data) - log_aggregate(log_q, num_data).sum(-1)


def log_aggregate(log_q: Tensor, num_data: int) -> Tensor:
    """log q(z) of each draw, from log q(z_i | x_j), ``[B, B, ...]``; without bias for q(z), over batches."""
    own = torch.eye(len(log_q), dtype=torch.bool, device=log_q.device)
    others = max(num_data - 1, 1) / max(len(log_q) - 1, 1)
    log_share = torch.where(own, 0.0, math.log(others)).to(log_q) - math.log(num_data)
    return (log_q + log_share.reshape(*own.shape, *[1] * (log_q.dim() - 2))).logsumexp(1)
