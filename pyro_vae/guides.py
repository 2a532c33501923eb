"""Guide families q(z|x). Any univariate family of Pyro whose draws are reparameterised is one:
``guide=dist.Laplace``, or ``pv.guides.Laplace()``.

A guide over the reals is pushed onto the support of the prior; one over the very support of the prior,
such as ``dist.Gamma`` under a Gamma prior, is taken as it is.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch.distributions import Distribution

from pyro_vae.families import (
    Dirichlet,
    Discrete,
    Family,
    FullRankNormal,
    LowRankNormal,
    MixtureOfNormals,
    Of,
    SemiAmortised,
    Univariate,
    VectorQuantised,
    summary,
)
from pyro_vae.families.chain import Markov
from pyro_vae.families.for_guides import Flow
from pyro_vae.families.named import Normal, StudentT
from pyro_vae.families.structured import Structured
from pyro_vae.families.univariate import attribute, offered

__all__ = [
    "Dirichlet",
    "Discrete",
    "Flow",
    "FullRankNormal",
    "LowRankNormal",
    "Markov",
    "MixtureOfNormals",
    "Normal",
    "SemiAmortised",
    "Structured",
    "StudentT",
    "VectorQuantised",
]

_OWN, __doc__ = __all__, f"{__doc__}\n{summary(globals(), __all__)}"
del __all__  # with which help() would show of each all that a torch.nn.Module has


def as_guide(guide: Family | Of | type[Distribution] | type[Family]) -> Family:
    """A guide of one's own: a copy of the given one, or the given family with all from the encoder.

    Raises:
        TypeError: it is neither.
        ValueError: the family cannot be one; the message says why.
    """
    if isinstance(guide, Family):
        made = copy.deepcopy(guide)
    elif isinstance(guide, Of) or (isinstance(guide, type) and issubclass(guide, Family)):
        made = guide()
    elif isinstance(guide, type) and issubclass(guide, Distribution):
        made = of(guide)()
    else:
        raise TypeError(
            f"a guide is a pv.guides object or a distribution class, not {guide!r}; "
            "guide=pv.guides.Normal() or guide=dist.Laplace, for example"
        )
    if isinstance(made, Univariate):
        why = _unfit(made)
        if why:
            raise ValueError(f"{made.name} is no guide: {why}")
    return made


def of(family: type[Distribution]) -> Any:
    """What makes the guide of a univariate family: ``of(dist.Laplace)()``."""
    own = {"Normal": Normal, "StudentT": StudentT}.get(family.__name__)
    return own if own is not None and own().family.__name__ == family.__name__ else Of(family)


def _unfit(guide: Univariate) -> str:
    """Why a univariate family cannot be a guide, or nothing."""
    if not guide.reparameterised:
        return (
            "its draws are not reparameterised, so that its gradients would be score-function estimates; "
            "take one that is, such as dist.Normal or dist.Laplace"
        )
    with torch.no_grad():
        trial = copy.deepcopy(guide)
        trial.setup((1,))
        try:
            variance = trial(torch.zeros(trial.param_shape())).variance
        except NotImplementedError:
            return ""
        if not variance.isfinite().all():
            return (
                "it has no variance, so that its divergence from most priors is infinite; take one that has, "
                "such as pv.guides.StudentT()"
            )
    return ""


@functools.cache
def _offered() -> list[str]:
    """Pyro's families that can be guides without a number given."""
    able = (name for name, made in offered().items() if not made.arguments())
    return [name for name in able if not _unfit(offered()[name])]


def __getattr__(name: str) -> Any:
    return attribute(name, __name__, __dir__)


def __dir__() -> list[str]:
    return sorted({*_OWN, *_offered()})
