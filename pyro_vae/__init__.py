"""pyro_vae: the variational autoencoder as a probabilistic program."""

from pyro_vae import (
    checkpoint,
    config,
    data,
    distributions,
    evaluate,
    figures,
    guides,
    likelihoods,
    nets,
    objectives,
    priors,
    svi,
)
from pyro_vae.checkpoint import load
from pyro_vae.comparison import Comparison, compare
from pyro_vae.training import Run, fit, resume
from pyro_vae.vae import VAE

__all__ = [
    "VAE",
    "Comparison",
    "Run",
    "checkpoint",
    "compare",
    "config",
    "data",
    "distributions",
    "evaluate",
    "figures",
    "fit",
    "guides",
    "likelihoods",
    "load",
    "nets",
    "objectives",
    "priors",
    "resume",
    "svi",
]
