"""Measures of a trained program. Nothing here changes a parameter, or the state of a random generator."""

from pyro_vae.evaluate.ais import AIS, ais
from pyro_vae.evaluate.anatomy import Anatomy, Latents, anatomy
from pyro_vae.evaluate.batched import Batched
from pyro_vae.evaluate.calibration import Calibration, calibration
from pyro_vae.evaluate.clusters import Clusters, clusters
from pyro_vae.evaluate.columns import ColumnLikelihoods, columns
from pyro_vae.evaluate.disentanglement import Disentanglement, disentanglement
from pyro_vae.evaluate.door import check
from pyro_vae.evaluate.gap import InferenceGap, inference_gap
from pyro_vae.evaluate.intervals import Intervals, intervals
from pyro_vae.evaluate.latents import active_units
from pyro_vae.evaluate.likelihood import ELBO, LogLikelihood, elbo, log_likelihood
from pyro_vae.evaluate.predict import Predictions, predict
from pyro_vae.evaluate.predictive_check import PredictiveCheck, predictive_check
from pyro_vae.evaluate.probes import Probe
from pyro_vae.evaluate.rate_distortion import RateDistortion, rate_distortion
from pyro_vae.evaluate.sandwich import Sandwich, sandwich

__all__ = [
    "AIS",
    "ELBO",
    "Anatomy",
    "Batched",
    "Calibration",
    "Clusters",
    "ColumnLikelihoods",
    "Disentanglement",
    "InferenceGap",
    "Intervals",
    "Latents",
    "LogLikelihood",
    "Predictions",
    "PredictiveCheck",
    "Probe",
    "RateDistortion",
    "Sandwich",
    "active_units",
    "ais",
    "anatomy",
    "calibration",
    "check",
    "clusters",
    "columns",
    "disentanglement",
    "elbo",
    "inference_gap",
    "intervals",
    "log_likelihood",
    "predict",
    "predictive_check",
    "rate_distortion",
    "sandwich",
]
