"""Models: one story a file."""

from pyro_vae.models.conditional_vae import ConditionalVAE
from pyro_vae.models.count_vae import CountVAE
from pyro_vae.models.hierarchical_vae import HierarchicalVAE
from pyro_vae.models.selection_vae import SelectionVAE
from pyro_vae.models.semi_supervised_vae import SemiSupervisedVAE
from pyro_vae.models.sequential_vae import SequentialVAE
from pyro_vae.models.vae import VAE

__all__ = [
    "VAE",
    "ConditionalVAE",
    "CountVAE",
    "HierarchicalVAE",
    "SelectionVAE",
    "SemiSupervisedVAE",
    "SequentialVAE",
]
