"""Models: one story a file."""

from pyro_vae.models.conditional_vae import ConditionalVAE
from pyro_vae.models.hierarchical_vae import HierarchicalVAE
from pyro_vae.models.vae import VAE

__all__ = ["VAE", "ConditionalVAE", "HierarchicalVAE"]
