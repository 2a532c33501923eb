"""The ELBO with a KL that is free up to a threshold."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyro_vae.checks import Count, NotNegative, checked
from pyro_vae.objectives.base import Draws, PerDatum
from pyro_vae.objectives.elbo import kl_term, latents, one_by_one


class FreeBits(PerDatum):
    r"""The ELBO in which some nats of KL cost nothing: latents are used that would else collapse.

    .. math:: -E_q[\log p(x \mid z)] + \sum_g \max\Big(\lambda, \frac1B \sum_b \mathrm{KL}_g(x_b)\Big)

    The mean is over the batch. It is no bound: where all groups lie above the threshold it is the ELBO. Of
    what all data share, such as weights that are latent, no bits are free.

    Args:
        nats: the threshold of each group.
        by: the groups g: each site, or each latent of each site, whose KL is its own where guide and prior
            are independent over the latents.
        num_particles: draws per datum.

    Raises:
        ValueError: by latent, of a guide or prior that is not independent over them.

    Reference: Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling, 2016, "Improved variational
    inference with inverse autoregressive flow", section 8.
    """

    weighs_kl: ClassVar[bool] = True

    @checked
    def __init__(
        self, nats: NotNegative = 1.0, by: Literal["site", "latent"] = "site", num_particles: Count = 1
    ):
        super().__init__(num_particles)
        self.nats, self.by = nats, by

    def per_datum(self, draws: Draws) -> Tensor:
        total = -draws.log_x
        for name, q, p, z, exact in latents(draws.model, draws.guide):
            site = draws.model.nodes[name]
            plates = draws.of_data(site)
            if draws.batch and not plates:
                total = total + draws.weighed(site, kl_term(q, p, z, exact))
                continue
            if self.by == "site":
                groups = draws.by_datum(_masked(kl_term(q, p, z, exact), site, 0)).mean() / draws.together
            else:
                mend = "FreeBits(by='site') takes it"
                each = (
                    one_by_one(q, f"the guide of {name!r}", mend),
                    one_by_one(p, f"the prior of {name!r}", mend),
                )
                event = len(q.event_shape)
                kl = _masked(kl_term(*each, z, exact), site, event)
                groups = draws.rows(kl, event, plates).mean(0)
            total = total + draws.relative(site) * draws.together * groups.clamp(min=self.nats).sum()
        return total.mean(0)


def _masked(kl: Tensor, site: Any, event: int) -> Tensor:
    """A KL, whose last dimensions are those of the event, without that of data whose latents are masked."""
    mask = site["mask"]
    return scale_and_mask(kl, mask=mask[(..., *[None] * event)] if isinstance(mask, Tensor) else mask)
