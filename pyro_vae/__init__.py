"""pyro_vae: the variational autoencoder as a probabilistic program."""

from importlib.metadata import version

from pyro_vae import (
    checkpoint,
    data,
    distributions,
    evaluate,
    families,
    figures,
    guides,
    likelihoods,
    models,
    nets,
    objectives,
    priors,
    registry,
    sleef,
    svi,
    training,
)
from pyro_vae.arviz import to_arviz
from pyro_vae.checkpoint import load
from pyro_vae.comparison import Comparison, compare
from pyro_vae.conditional import Conditional
from pyro_vae.evaluate import predict
from pyro_vae.explore import explore
from pyro_vae.export import export
from pyro_vae.models import (
    VAE,
    ConditionalVAE,
    CountVAE,
    HierarchicalVAE,
    SelectionVAE,
    SemiSupervisedVAE,
    SequentialVAE,
)
from pyro_vae.program import Program
from pyro_vae.report import report
from pyro_vae.training import Run, fit, resume, verify

__version__ = version("pyro_vae")

sleef.touch_constants()

__all__ = [
    "VAE",
    "Comparison",
    "Conditional",
    "ConditionalVAE",
    "CountVAE",
    "HierarchicalVAE",
    "Program",
    "Run",
    "SelectionVAE",
    "SemiSupervisedVAE",
    "SequentialVAE",
    "checkpoint",
    "compare",
    "data",
    "distributions",
    "evaluate",
    "explore",
    "export",
    "families",
    "figures",
    "fit",
    "guides",
    "likelihoods",
    "load",
    "models",
    "nets",
    "objectives",
    "predict",
    "priors",
    "registry",
    "report",
    "resume",
    "svi",
    "to_arviz",
    "training",
    "verify",
]
