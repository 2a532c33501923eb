"""What is maximised and what is measured: importance weights, bounds, KL divergences.

The classes are losses of ``pv.fit`` and of any SVI: each is a ``pyro.infer.ELBO`` of any model and guide.
"""

from pyro_vae.objectives.analytic_kl import AnalyticKL
from pyro_vae.objectives.base import Draws, PerDatum
from pyro_vae.objectives.beta_tc import BetaTC
from pyro_vae.objectives.chi import Chi
from pyro_vae.objectives.dreg import DReG
from pyro_vae.objectives.elbo import elbo_terms, in_closed_form, kl_divergence, scale_latents
from pyro_vae.objectives.free_bits import FreeBits
from pyro_vae.objectives.importance import importance_weighted_bound, log_weights
from pyro_vae.objectives.iwae import IWAE
from pyro_vae.objectives.mmd import MMD
from pyro_vae.objectives.purposes import purpose
from pyro_vae.objectives.renyi import Renyi
from pyro_vae.objectives.rloo import RLOO
from pyro_vae.objectives.sticking_the_landing import StickingTheLanding
from pyro_vae.objectives.thermodynamic import Thermodynamic
from pyro_vae.objectives.vimco import VIMCO
from pyro_vae.objectives.wake_sleep import WakeSleep

__all__ = [
    "IWAE",
    "MMD",
    "RLOO",
    "VIMCO",
    "AnalyticKL",
    "BetaTC",
    "Chi",
    "DReG",
    "Draws",
    "FreeBits",
    "PerDatum",
    "Renyi",
    "StickingTheLanding",
    "Thermodynamic",
    "WakeSleep",
    "elbo_terms",
    "importance_weighted_bound",
    "in_closed_form",
    "kl_divergence",
    "log_weights",
    "purpose",
    "scale_latents",
]
