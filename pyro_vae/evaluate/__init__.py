"""Measures of a trained program. Nothing here changes a parameter, or the state of a random generator."""

from pyro_vae.evaluate.batched import Batched
from pyro_vae.evaluate.columns import ColumnLikelihoods, columns
from pyro_vae.evaluate.door import check
from pyro_vae.evaluate.latents import active_units
from pyro_vae.evaluate.likelihood import ELBO, LogLikelihood, elbo, log_likelihood
from pyro_vae.evaluate.predict import Predictions, predict

__all__ = [
    "ELBO",
    "Batched",
    "ColumnLikelihoods",
    "LogLikelihood",
    "Predictions",
    "active_units",
    "check",
    "columns",
    "elbo",
    "log_likelihood",
    "predict",
]
