"""What is maximised and what is measured: importance weights, bounds, KL divergences."""

from pyro_vae.objectives.elbo import elbo_terms, in_closed_form, kl_divergence, scale_latents
from pyro_vae.objectives.importance import importance_weighted_bound, log_weights

__all__ = [
    "elbo_terms",
    "importance_weighted_bound",
    "in_closed_form",
    "kl_divergence",
    "log_weights",
    "scale_latents",
]
