"""Likelihoods p(x|z). Every univariate family of Pyro with a density is one without being named here::

    pv.VAE(..., likelihood=dist.StudentT)                            # all parameters from the decoder
    pv.VAE(..., likelihood=pv.likelihoods.StudentT(df=4.0, scale="shared"))

and so is one of your own, a distribution class with ``arg_constraints``. Of a table, ``likelihood="auto"``
chooses one for each column by its kind: the rules are a table in ``Auto``, ``help(pv.likelihoods.Auto)``.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any, Literal

from torch.distributions import Distribution

from pyro_vae.families import (
    Auto,
    ByColumn,
    Categorical,
    DiscretizedLogisticMixture,
    Family,
    FullRankNormal,
    LowRankNormal,
    MixtureOfNormals,
    Of,
    Ordinal,
    summary,
)
from pyro_vae.families.named import (
    NAMED,
    Bernoulli,
    DiscretizedLogistic,
    DiscretizedNormal,
    LogitNormal,
    LogNormal,
    Normal,
    PseudoBernoulli,
    RoundedLogistic,
    TruncatedNormal,
    ZeroInflatedLogNormal,
)
from pyro_vae.families.univariate import attribute, offered

__all__ = [
    "Auto",
    "Bernoulli",
    "ByColumn",
    "Categorical",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "DiscretizedNormal",
    "FullRankNormal",
    "LogNormal",
    "LogitNormal",
    "LowRankNormal",
    "MixtureOfNormals",
    "Normal",
    "Ordinal",
    "PseudoBernoulli",
    "RoundedLogistic",
    "TruncatedNormal",
    "ZeroInflatedLogNormal",
]

_OWN, __doc__ = __all__, f"{__doc__}\n{summary(globals(), __all__)}"
del __all__  # with which help() would show of each all that a torch.nn.Module has


Likelihood = Family | Of | type[Distribution] | type[Family]
ByName = Mapping[str, Likelihood]
"""Of a table, likelihoods by column."""


def as_likelihood(likelihood: Likelihood | ByName | Literal["auto"]) -> Family:
    """A likelihood of one's own: a copy of the given one, or the given family with all from the decoder.

    ``"auto"``, or likelihoods by name, are ``Auto``, which chooses one for each column of a table.

    Raises:
        TypeError: it is neither.
        ValueError: the family cannot be one; the message says why.
    """
    if isinstance(likelihood, Family):
        return copy.deepcopy(likelihood)
    if isinstance(likelihood, Of):
        return likelihood()
    if isinstance(likelihood, type) and issubclass(likelihood, Family):
        arguments = inspect.signature(likelihood).parameters.values()
        if needed := [argument.name for argument in arguments if argument.default is argument.empty]:
            name = likelihood.__name__
            raise ValueError(f"{name} needs to know {' and '.join(needed)}: {name}({needed[0]}=...)")
        return likelihood()
    if isinstance(likelihood, type) and issubclass(likelihood, Distribution):
        return of(likelihood)()
    if isinstance(likelihood, str) and likelihood == "auto":
        return Auto()
    if isinstance(likelihood, Mapping):
        return Auto({str(column): as_likelihood(own) for column, own in likelihood.items()})
    name = likelihood if isinstance(likelihood, str) and likelihood in __dir__() else "Bernoulli"
    raise TypeError(
        f"a likelihood is a pv.likelihoods object or a distribution class, not {likelihood!r}; "
        f"likelihood=pv.likelihoods.{name}() or likelihood=dist.StudentT, for example"
    )


def of(family: type[Distribution]) -> Any:
    """What makes the likelihood of a univariate family: ``of(dist.StudentT)(df=4.0)``."""
    if family.__name__ == "Categorical":
        raise ValueError("Categorical needs its number of levels: pv.likelihoods.Categorical(levels=...)")
    return NAMED.get(family, Of(family))


def __getattr__(name: str) -> Any:
    return attribute(name, __name__, __dir__)


def __dir__() -> list[str]:
    return sorted({*_OWN, *offered()})
