"""The VAE as a scikit-learn estimator: one object that is a transformer, a density and a generator."""

# scikit-learn's name for data:
# ruff: noqa: N803

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import index
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, DensityMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae import config, nets
from pyro_vae.data import DataError, Split, load
from pyro_vae.distributions import centre, check_count
from pyro_vae.evaluate import check_support
from pyro_vae.guides import Guide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.objectives import importance_weighted_bound, log_weights
from pyro_vae.priors import Prior
from pyro_vae.svi import NonFiniteLossError
from pyro_vae.training import Interrupted, fit
from pyro_vae.vae import VAE, seed_generators

BATCH_SIZE = 1000
"""Rows that go through a network at once, after training."""


class VAEEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, BaseEstimator):
    r"""A VAE under scikit-learn's conventions, for pipelines and searches.

    .. math::

        \text{transform: } E_{q(z|x)}[z], \qquad \text{inverse\_transform: } E_{p(x|z)}[x], \qquad
        \text{score\_samples: } \log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k|x)}, \; z_k \sim q(z|x)

    Trained in single precision, and in double precision from then on. What comes of a datum does not depend
    on the data beside it. Where there is no mean, the median or mode stands for it.

    Scores are nats per datum, with respect to ``vae_.p_x.measure``. Those of likelihoods on different
    measures (a Bernoulli and a Normal, say), or of data on different scales, do not compare: search over
    priors, guides, networks and likelihoods of one measure.

    Args:
        latent_dim: D, the number of latent variables per datum.
        prior: p(z), as ``pv.VAE`` takes it, or its text as on the command line: ``"VampPrior(500)"``.
        likelihood: p(x|z), likewise: ``"Bernoulli"``, ``dist.Laplace``, ...
        guide: the family of q(z|x), likewise: ``"FullRankNormal"``, ...
        hidden_dims: widths of the hidden layers of both networks, where none is given.
        encoder: factory ``(in_shape, out_shape) -> nn.Module``; by default ``pv.nets.mlp(*hidden_dims)``.
        decoder: likewise.
        event_shape: what each row is reshaped to, such as (1, 28, 28) for images, channels first; by default
            (n_features,).
        epochs: passes over the training data.
        batch_size: data per gradient step.
        lr: learning rate at its highest.
        beta: weight of the KL in training (beta-VAE; Higgins et al., 2017). Where it is not 1, what is
            minimised bounds no log p(x); it never enters a score.
        warmup_epochs: epochs over which the weight of the KL rises linearly to ``beta`` (KL warm-up).
        num_samples: K, importance samples per datum of ``score_samples``.
        device: cpu, cuda, or auto: cuda if there is one.
        random_state: of the weights, the noise and the order of the data.
        verbose: whether to show progress.

    Attributes:
        vae_: the trained ``pv.VAE``, for all else that the package does.
        history_: one row per epoch, as in history.csv.
        n_features_in_: number of columns of the training data.
        feature_names_in_: their names, where they have any.

    Raises:
        DataError: data lie outside the likelihood's support, or do not have ``event_shape``.
        ConfigError: a text names no part.
        NonFiniteLossError: the loss became NaN or infinite.

    Reference: Kingma and Welling, 2014, "Auto-encoding variational Bayes".

    >>> from sklearn.datasets import load_digits
    >>> x = load_digits().data
    >>> model = VAEEstimator(latent_dim=2, hidden_dims=(32,), epochs=2, random_state=0).fit(x)
    >>> model.transform(x).shape, model.sample(3).shape
    ((1797, 2), (3, 64))
    """

    vae_: VAE
    history_: list[dict[str, float]]

    def __init__(
        self,
        latent_dim: int = 10,
        *,
        prior: str | Prior | Distribution = "Normal",
        likelihood: str | Likelihood | type[Distribution] = 'Normal(scale="shared")',
        guide: str | Guide | type[Distribution] = "Normal",
        hidden_dims: Sequence[int] = (400, 400),
        encoder: nets.Net | None = None,
        decoder: nets.Net | None = None,
        event_shape: Sequence[int] | None = None,
        epochs: int = 100,
        batch_size: int = 128,
        lr: float = 1e-3,
        beta: float = 1.0,
        warmup_epochs: int = 0,
        num_samples: int = 100,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ):
        self.latent_dim = latent_dim
        self.prior = prior
        self.likelihood = likelihood
        self.guide = guide
        self.hidden_dims = hidden_dims
        self.encoder = encoder
        self.decoder = decoder
        self.event_shape = event_shape
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.beta = beta
        self.warmup_epochs = warmup_epochs
        self.num_samples = num_samples
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> VAEEstimator:
        """Trains a VAE on the rows of X ``[N, n_features]``; y is ignored."""
        x = validate_data(self, X, dtype=np.float64, order="C", ensure_min_samples=2)
        shape = x.shape[1:] if self.event_shape is None else tuple(map(index, self.event_shape))
        if math.prod(shape) != x.shape[1]:
            raise DataError(
                f"rows of {x.shape[1]} features cannot take the shape event_shape={shape}; leave it out, or "
                "give one of as many elements"
            )
        data = load(torch.tensor(x, dtype=torch.float32).reshape(-1, *shape), validation=0.0, test=0.0)
        seed = _seed(self.random_state)
        # Searches give numpy's numbers, which a run's configuration cannot hold.
        net = nets.mlp(*map(index, self.hidden_dims))
        with torch.random.fork_rng([]):
            seed_generators(seed, torch.device("cpu"))
            vae = VAE(
                shape,
                index(self.latent_dim),
                prior=_part("prior", self.prior),
                likelihood=_part("likelihood", self.likelihood),
                guide=_part("guide", self.guide),
                encoder=self.encoder or net,
                decoder=self.decoder or net,
            )
        try:
            with TemporaryDirectory() as folder:
                run = fit(
                    vae,
                    data,
                    epochs=index(self.epochs),
                    batch_size=index(self.batch_size),
                    lr=float(self.lr),
                    beta=float(self.beta),
                    warmup_epochs=index(self.warmup_epochs),
                    device=self.device,
                    seed=seed,
                    folder=folder,
                    progress=bool(self.verbose),
                )
        except NonFiniteLossError as error:  # both tell of a folder that is gone
            told = str(error).split(". The last good checkpoint")[0]
            raise NonFiniteLossError(f"{told}. Try a lower lr than {self.lr:g}") from None
        except Interrupted:
            raise KeyboardInterrupt from None
        self.vae_, self.history_ = vae.double(), run.history
        return self

    def transform(self, X: Any) -> np.ndarray:
        """The mean of q(z|x) of each row of X ``[N, n_features]``, ``[N, latent_dim]``."""
        x = self._data(X)
        return self._centres(self.vae_.encode, x)

    def inverse_transform(self, Z: Any) -> np.ndarray:
        """The mean of p(x|z) of each row of Z ``[N, latent_dim]``, ``[N, n_features]``."""
        check_is_fitted(self)
        z = check_array(Z, dtype=np.float64, order="C")
        if z.shape[1] != self.vae_.latent_dim:
            raise ValueError(f"Z has {z.shape[1]} columns, but there are {self.vae_.latent_dim} latents")
        return self._centres(self.vae_.decode, torch.tensor(z).to(self.vae_.input_loc))

    def reconstruct(self, X: Any) -> np.ndarray:
        """The mean of p(x|z) at the mean of q(z|x), ``[N, n_features]``, as X."""
        return self.inverse_transform(self.transform(X))

    def sample(
        self, n_samples: int = 1, random_state: int | np.random.RandomState | None = None
    ) -> np.ndarray:
        """Draws from the model, z ~ p(z) and x ~ p(x|z), ``[n_samples, n_features]``."""
        check_is_fitted(self)
        number = check_count("n_samples", index(n_samples))
        with self.vae_.evaluating(_seed(random_state)):
            z = self.vae_.prior().sample((number,))
            return _rows([self.vae_.decode(batch).sample() for batch in z.split(BATCH_SIZE)])

    def score_samples(self, X: Any) -> np.ndarray:
        """Estimates log p(x) of each row of X ``[N, n_features]`` in nats, ``[N]``; the same at each call."""
        x = self._data(X)
        number = check_count("num_samples", index(self.num_samples))
        scores = []
        with self.vae_.evaluating():
            for datum in x.split(1):
                seed_generators(0, x.device)
                scores.append(importance_weighted_bound(log_weights(self.vae_, datum, number)))
        values: np.ndarray = torch.cat(scores).cpu().numpy()
        return values

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of ``score_samples``; y is ignored."""
        return float(self.score_samples(X).mean())

    @property
    def _n_features_out(self) -> int:
        return self.vae_.latent_dim

    def _data(self, X: Any) -> Tensor:
        """Rows as the VAE takes them, ``[N, *event_shape]``, on its device."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=np.float64, order="C", reset=False)
        x = torch.tensor(rows).reshape(-1, *self.vae_.event_shape)
        check_support(self.vae_, Split(x))
        return x.to(self.vae_.input_loc)

    def _centres(self, of: Callable[[Tensor], Distribution], rows: Tensor) -> np.ndarray:
        """The mean of each row's distribution, or its median or mode if it has none, ``[N, ...]``."""

        def centres(batch: Tensor) -> Tensor:
            seed_generators(0, batch.device)
            value, kind = centre(of(batch))
            if kind == "mean" or len(batch) == 1:
                return value
            # Which there is, and its draws, hang on all rows of the batch.
            return torch.cat([centres(row) for row in batch.split(1)])

        with self.vae_.evaluating():
            return _rows([centres(batch) for batch in rows.split(BATCH_SIZE)])


def _seed(random_state: int | np.random.RandomState | None) -> int:
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def _part(kind: str, part: Any) -> Any:
    return config.parse(kind, part) if isinstance(part, str) else part


def _rows(batches: Sequence[Tensor]) -> np.ndarray:
    """Batches ``[B, ...]`` as one array ``[N, n]``."""
    rows: np.ndarray = torch.cat(list(batches)).flatten(1).double().cpu().numpy()
    return rows
