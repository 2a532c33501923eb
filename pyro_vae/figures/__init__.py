"""Pictures of a program. Each function returns a matplotlib Figure; notebooks show it, and
``figure.savefig(path)`` keeps it.

Data are drawn by the mean of their density, or its median or mode if it has no mean, on one grey scale per
figure; data that are no images, as curves over their index; tables column by column. What is not observed
(NaN) is pale blue.

A figure of one axes takes ``ax=``, one of several panels ``figure=``, for a figure of one's own:
``left, right = matplotlib.figure.Figure(layout="constrained").subfigures(1, 2)``.
"""

from pyro_vae.figures.anatomy import anatomy, rate_distortion
from pyro_vae.figures.bayesian import uncertainty
from pyro_vae.figures.calibration import calibration
from pyro_vae.figures.clusters import clusters
from pyro_vae.figures.codes import codes
from pyro_vae.figures.drawing import Figure, grid, training_curves
from pyro_vae.figures.hierarchy import kl_by_level
from pyro_vae.figures.latent import interpolation, latents, levels, manifold, traversals, tsne
from pyro_vae.figures.observed import comparison, inpainting, reconstructions, samples, styles
from pyro_vae.figures.posteriors import posteriors
from pyro_vae.figures.predictive_check import intervals, predictive_check
from pyro_vae.figures.sequences import forecast
from pyro_vae.figures.summary import summary
from pyro_vae.figures.tables import marginals, pairs

__all__ = [
    "Figure",
    "anatomy",
    "calibration",
    "clusters",
    "codes",
    "comparison",
    "forecast",
    "grid",
    "inpainting",
    "interpolation",
    "intervals",
    "kl_by_level",
    "latents",
    "levels",
    "manifold",
    "marginals",
    "pairs",
    "posteriors",
    "predictive_check",
    "rate_distortion",
    "reconstructions",
    "samples",
    "styles",
    "summary",
    "training_curves",
    "traversals",
    "tsne",
    "uncertainty",
]
