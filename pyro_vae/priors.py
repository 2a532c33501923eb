"""Priors p(z). Any continuous Pyro distribution instance is one: ``pv.VAE(..., prior=dist.Laplace(0., 1.))``.

The guide follows a prior onto its support, be that the reals, (0, inf), an interval, the circle or the
simplex.
"""

from __future__ import annotations

import copy
from typing import cast

from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch.distributions import Distribution

from pyro_vae.families import (
    Codes,
    Family,
    Fixed,
    FullRankNormal,
    LowRankNormal,
    MixtureOfNormals,
    VampPrior,
    summary,
)
from pyro_vae.families.discrete import Bernoulli, OneHotCategorical
from pyro_vae.families.for_priors import Flow, Normal

__all__ = [
    "Bernoulli",
    "Codes",
    "Fixed",
    "Flow",
    "FullRankNormal",
    "LowRankNormal",
    "MixtureOfNormals",
    "Normal",
    "OneHotCategorical",
    "VampPrior",
]
_OWN, __doc__ = __all__, f"{__doc__}\n{summary(globals(), __all__)}"
del __all__  # with which help() would show of each all that a torch.nn.Module has


def as_prior(prior: Family | Distribution | type[Family]) -> Family:
    """A prior of one's own: a copy of the given one, or the given distribution as a prior.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(prior, Family):
        return copy.deepcopy(prior)
    if isinstance(prior, type) and issubclass(prior, Family):
        return prior()
    if isinstance(prior, Distribution) and isinstance(prior, TorchDistributionMixin):
        return Fixed(cast(Distribution, prior))
    raise TypeError(
        f"a prior is a pv.priors object or an instance of a Pyro distribution, not {prior!r}; "
        "for example prior=pv.priors.Normal() or prior=dist.Laplace(0., 1.)"
    )


def __dir__() -> list[str]:
    return sorted(_OWN)
