"""The VAE under scikit-learn's conventions: an estimator, a classifier, an imputer of missing values."""

from pyro_vae.sklearn.classifier import VAEClassifier
from pyro_vae.sklearn.estimator import VAEEstimator
from pyro_vae.sklearn.imputer import VAEImputer

__all__ = ["VAEClassifier", "VAEEstimator", "VAEImputer"]
