"""Guide families q(z|x). Any univariate family of Pyro whose draws are reparameterised is one:
``guide=dist.Laplace``, or ``pv.guides.Laplace()``.

A guide over the reals is pushed onto the support of the prior; one over the very support of the prior,
such as ``dist.Gamma`` under a Gamma prior, is taken as it is.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch.distributions import Distribution

from pyro_vae.checks import Count, check
from pyro_vae.families import (
    ConditionedFlow,
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
)
from pyro_vae.families.chain import Markov
from pyro_vae.families.named import Normal, StudentT
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
    "StudentT",
    "VectorQuantised",
]

Maps = Literal[
    "affine_autoregressive",
    "spline_autoregressive",
    "spline",
    "affine_coupling",
    "planar",
    "radial",
    "householder",
]


class Flow(ConditionedFlow):
    r"""A Normal pushed through invertible maps, all conditioned on features h(x) of the encoder.

    .. math:: z = T_L(\cdots T_1(\epsilon; h) \cdots; h), \qquad \epsilon \sim \mathcal N(\mu(x), \sigma(x)^2)

    Args:
        transform: the kind of map: ``affine_autoregressive`` (IAF), ``spline_autoregressive``, ``spline``,
            ``affine_coupling`` (RealNVP), ``planar``, ``radial``, ``householder``.
        num_transforms: L.
        hidden_dims: of the networks within the maps.
        context_dim: number of features h(x).

    Planar and radial maps have no inverse in closed form: such a guide has a density only at its own draws.
    Steps with splines are not compiled.

    Reference: Rezende and Mohamed, 2015, "Variational inference with normalizing flows"; Kingma et al.,
    2016, "Improved variational inference with inverse autoregressive flow"; Tomczak and Welling, 2016,
    "Improving variational auto-encoders using Householder flow"; Durkan et al., 2019, "Neural spline flows".
    """

    maps = Maps

    def __init__(
        self,
        transform: Maps = "affine_autoregressive",
        num_transforms: int = 2,
        hidden_dims: Sequence[int] = (64, 64),
        context_dim: int = 32,
    ):
        super().__init__(transform, num_transforms, hidden_dims)
        self.context_dim = check("context_dim", context_dim, Count)


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
    return sorted({*__all__, *_offered()})
