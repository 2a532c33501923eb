"""Distributions that Pyro lacks, and what any distribution tells of itself."""

from pyro_vae.distributions.arrays import Reshaped
from pyro_vae.distributions.chain import Chain, Continued, Driven, MarkovNormal, TurningNormal, recurrence
from pyro_vae.distributions.columns import ByColumn
from pyro_vae.distributions.discrete import Discrete
from pyro_vae.distributions.discretized import (
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    DiscretizedNormal,
    RoundedLogistic,
)
from pyro_vae.distributions.elements import elements
from pyro_vae.distributions.missing import conditional, marginal
from pyro_vae.distributions.mixture import MixtureOfDiagNormals
from pyro_vae.distributions.summary import centre, has_closed_form
from pyro_vae.distributions.univariate import (
    Categorical,
    GammaPoisson,
    GeneralizedPareto,
    Kumaraswamy,
    LogitNormal,
    NegativeBinomial,
    Poisson,
    PseudoBernoulli,
    TruncatedNormal,
    ZeroInflatedLogNormal,
)

__all__ = [
    "ByColumn",
    "Categorical",
    "Chain",
    "Continued",
    "Discrete",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "DiscretizedNormal",
    "Driven",
    "GammaPoisson",
    "GeneralizedPareto",
    "Kumaraswamy",
    "LogitNormal",
    "MarkovNormal",
    "MixtureOfDiagNormals",
    "NegativeBinomial",
    "Poisson",
    "PseudoBernoulli",
    "Reshaped",
    "RoundedLogistic",
    "TruncatedNormal",
    "TurningNormal",
    "ZeroInflatedLogNormal",
    "centre",
    "conditional",
    "elements",
    "has_closed_form",
    "marginal",
    "recurrence",
]
