"""Families: how raw reals become a distribution. ``priors``, ``likelihoods`` and ``guides`` offer them."""

from pyro_vae.families.base import COUNTING, LEBESGUE, Family, summary
from pyro_vae.families.codes import Codes, VectorQuantised
from pyro_vae.families.columns import Auto, ByColumn
from pyro_vae.families.discrete import Discrete
from pyro_vae.families.fixed import Fixed
from pyro_vae.families.flow import ConditionedFlow, OwnFlow
from pyro_vae.families.levels import Categorical, Dirichlet, DiscretizedLogisticMixture, Ordinal
from pyro_vae.families.mixture import MixtureOfNormals
from pyro_vae.families.normal import FullRankNormal, LowRankNormal
from pyro_vae.families.parameter import Source
from pyro_vae.families.semi_amortised import SemiAmortised
from pyro_vae.families.univariate import Of, Univariate
from pyro_vae.families.vamp import VampPrior

__all__ = [
    "COUNTING",
    "LEBESGUE",
    "Auto",
    "ByColumn",
    "Categorical",
    "Codes",
    "ConditionedFlow",
    "Dirichlet",
    "Discrete",
    "DiscretizedLogisticMixture",
    "Family",
    "Fixed",
    "FullRankNormal",
    "LowRankNormal",
    "MixtureOfNormals",
    "Of",
    "Ordinal",
    "OwnFlow",
    "SemiAmortised",
    "Source",
    "Univariate",
    "VampPrior",
    "VectorQuantised",
    "summary",
]
