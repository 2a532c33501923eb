"""Missing values filled in by a VAE, under scikit-learn's conventions."""

# scikit-learn's name for data:
# ruff: noqa: N803

from __future__ import annotations

import itertools
import math
import warnings
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from pyro.infer import RenyiELBO
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.preprocessing import PowerTransformer, StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from pyro_vae import nets
from pyro_vae.checks import Count, check_all
from pyro_vae.data import load
from pyro_vae.evaluate.predict import drawn
from pyro_vae.likelihoods import Normal
from pyro_vae.models import VAE
from pyro_vae.program import seed_generators
from pyro_vae.sklearn.estimator import seed_of
from pyro_vae.training import Interrupted, fit

POWERS = (-3.0, 5.0)
"""Between which a column's power lies: those of columns of a few values would run away."""
BEYOND = 0.5
"""How far outside the observed range values may be drawn, in standard deviations of the column."""
CHUNK = 200
"""Rows whose draws are held at once."""


class VAEImputer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    r"""Fills in what is missing (NaN) by its mean under a VAE of the rows, trained on what is observed.

    .. math:: E[x_m \mid x_o] \approx \sum_k \frac{w_k}{\sum_l w_l} E[x_m \mid z_k], \qquad
        w_k = \frac{p(x_o, z_k)}{q(z_k \mid x_o)}, \quad z_k \sim q(z \mid x_o)

    Trained by the importance-weighted bound on :math:`\log p(x_o)`; right where what is missing does not tell
    by its being missing (at random). Each column is first standardised and brought near a Normal (Yeo and
    Johnson, 2000), whatever its unit and skewness; what is drawn lies within its observed range, or not far
    outside. A constant column is filled with its constant, one that was never observed with 0. What a row is
    filled with does not depend on the rows beside it.

    Args:
        latent_dim: D, the number of latent variables per row.
        hidden_dims: widths of the hidden layers of both networks, beside which both are linear.
        dropout: share of the hidden units left out at a time in training, lest it fit what is observed
            more closely than what is not.
        n_estimators: VAEs whose draws are put together.
        epochs: passes over the rows.
        max_steps: gradient steps of each VAE, though they be fewer passes.
        batch_size: rows per step.
        lr: learning rate at its highest.
        num_particles: K, importance samples per row in training.
        num_samples: draws per row, over all VAEs, and as many importance samples of each.
        random_state: of the weights, the noise and the order of the data.
        verbose: whether to show progress.

    Attributes:
        vaes_: the trained ``pv.VAE``s, of columns as they are learned.
        n_features_in_: number of columns of the training data.
        feature_names_in_: their names, where they have any.

    Raises:
        ValueError: as scikit-learn has it.
        ConfigError: an argument will not do.

    Reference: Mattei and Frellsen, 2019, "MIWAE: deep generative modelling and imputation of incomplete data
    sets"; Rubin, 1976, "Inference and missing data"; Yeo and Johnson, 2000, "A new family of power
    transformations to improve normality or symmetry".

    >>> x = np.random.default_rng(0).normal(size=(100, 1)) * [1.0, 10.0, -3.0]
    >>> x[::3, 1] = np.nan
    >>> imputer = VAEImputer(epochs=5, random_state=0)
    >>> imputer.fit_transform(x).shape, imputer.sample(x[:2], 5).shape
    ((100, 3), (5, 2, 3))
    """

    vaes_: list[VAE]

    def __init__(
        self,
        latent_dim: Count = 8,
        *,
        hidden_dims: Sequence[Count] = (128, 128),
        dropout: float = 0.1,
        n_estimators: Count = 3,
        epochs: Count = 300,
        max_steps: Count = 1200,
        batch_size: Count = 128,
        lr: float = 4e-3,
        num_particles: Count = 5,
        num_samples: Count = 400,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool | int = False,
    ):
        self.latent_dim = latent_dim
        self.hidden_dims = hidden_dims
        self.dropout = dropout
        self.n_estimators = n_estimators
        self.epochs = epochs
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.lr = lr
        self.num_particles = num_particles
        self.num_samples = num_samples
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> VAEImputer:
        """Trains on the rows of X ``[N, n_features]``; y is ignored."""
        x = self._rows(X, ensure_min_samples=2)
        fine = check_all(type(self).__init__, self.get_params(deep=False))
        self._seed = seed_of(self.random_state)
        self._columns = _Columns(x)
        self.vaes_ = []
        values = self._columns.learned(x)
        values = values[~np.isnan(values).all(1)]  # of the others there is nothing to learn
        if values.shape[1] == 0:
            return self
        data = load(torch.tensor(values, dtype=torch.float32), validation=0.0, test=0.0)
        net = partial(_Residual, hidden_dims=tuple(fine["hidden_dims"]), dropout=fine["dropout"])
        batches = math.ceil(len(values) / fine["batch_size"])
        for seed in range(self._seed, self._seed + fine["n_estimators"]):
            with torch.random.fork_rng([]):
                seed_generators(seed, torch.device("cpu"))
                vae = VAE(values.shape[1:], fine["latent_dim"], likelihood=Normal(), encoder=net, decoder=net)
            try:
                fit(
                    vae,
                    data,
                    loss=RenyiELBO(0.0, fine["num_particles"], max_plate_nesting=1, vectorize_particles=True),
                    epochs=min(fine["epochs"], math.ceil(fine["max_steps"] / batches)),
                    batch_size=fine["batch_size"],
                    lr=fine["lr"],
                    compile=False,
                    device="cpu",
                    seed=seed % 2**32,
                    progress=bool(self.verbose),
                )
            except Interrupted:  # which tells how to keep a run
                raise KeyboardInterrupt from None
            self.vaes_.append(vae)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """X ``[N, n_features]``, with the mean of the draws where it is NaN."""
        check_is_fitted(self)
        x = self._rows(X, reset=False)
        # A row's noise hangs on what the row is, and on nothing beside it.
        seeds = [zlib.crc32(row.tobytes(), self._seed) for row in x]
        filled = [draws.mean(0) for draws in self._draws(x, seeds, self.num_samples)]
        return np.where(np.isnan(x), np.array(filled).reshape(x.shape), x)

    def sample(
        self, X: Any, n_samples: Count = 1, random_state: int | np.random.RandomState | None = None
    ) -> np.ndarray:
        """Draws of each row of X ``[N, n_features]``, ``[n_samples, N, n_features]``, as X where it is known.

        Their quantiles are predictive intervals; each of them is one of multiple imputations (Rubin, 1987).

        Args:
            X: rows, of which what is NaN is drawn.
            n_samples: how many.
            random_state: of the draws.
        """
        check_is_fitted(self)
        number = check_all(type(self).sample, {"n_samples": n_samples})["n_samples"]
        x = self._rows(X, reset=False)
        seeds = check_random_state(random_state).randint(np.iinfo(np.int32).max, size=len(x)).tolist()
        draws = np.stack(list(self._draws(x, seeds, number)), 1)
        return np.where(np.isnan(x), draws, x)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _rows(self, X: Any, **options: Any) -> np.ndarray:
        rows: np.ndarray = validate_data(
            self, X, dtype=np.float64, order="C", ensure_all_finite="allow-nan", **options
        )
        return rows

    def _draws(self, x: np.ndarray, seeds: Sequence[int], number: int) -> Iterator[np.ndarray]:
        """Draws of each row in turn, ``[number, n_features]``."""
        columns, each = self._columns, -(-number // max(1, len(self.vaes_)))
        for start in range(0, len(x), CHUNK):
            rows = slice(start, start + CHUNK)
            values = torch.tensor(columns.learned(x[rows]), dtype=torch.float32)
            gaps = values.isnan().any(1).nonzero()[:, 0].tolist()
            of_each = [
                [one["x"][:, 0] for one in drawn(vae, {"x": values[gaps]}, each, self.num_samples, 0, own)]
                for vae, own in ((vae, [seeds[start + i] for i in gaps]) for vae in self.vaes_ if gaps)
            ]
            found = {i: torch.cat(parts) for i, parts in zip(gaps, zip(*of_each, strict=True), strict=False)}
            for i, known in enumerate(values):
                yield columns.units(found.get(i, known.expand(number, -1))[:number].double().numpy())


class _Columns:
    """Columns as they are learned: those that vary, standardised, and near a Normal.

    Args:
        x: rows ``[N, n_features]``, of which some values are NaN.
    """

    def __init__(self, x: np.ndarray):
        known = ~np.isnan(x)
        low = np.where(known, x, np.inf).min(0, initial=np.inf)
        high = np.where(known, x, -np.inf).max(0, initial=-np.inf)
        self.constant = np.where(known.any(0), low, 0.0)
        size = np.maximum(np.abs(low), np.abs(high))
        self.varies = known.any(0) & (high - low > 1e-10 * size)
        if self.varies.any():
            own = x[:, self.varies]
            self.unit = StandardScaler().fit(own)
            standard = self.unit.transform(own)
            with warnings.catch_warnings():  # of columns of a few values, whose powers are then bounded
                warnings.simplefilter("ignore", RuntimeWarning)
                self.power = PowerTransformer(standardize=False).fit(standard)
            self.power.lambdas_ = np.clip(np.nan_to_num(self.power.lambdas_, nan=1.0), *POWERS)
            self.near_normal = StandardScaler().fit(self.power.transform(standard))
            self.low, self.high = np.nanmin(standard, 0) - BEYOND, np.nanmax(standard, 0) + BEYOND

    def learned(self, x: np.ndarray) -> np.ndarray:
        """Rows ``[N, n_features]`` as they are learned, ``[N, n_varying]``; those far outside nearer."""
        if not self.varies.any():
            return np.empty((len(x), 0))
        standard = np.clip(self.unit.transform(x[:, self.varies]), self.low - 3, self.high + 3)
        values: np.ndarray = self.near_normal.transform(self.power.transform(standard))
        return values

    def units(self, values: np.ndarray) -> np.ndarray:
        """Draws ``[S, n_varying]`` in the columns' own units, ``[S, n_features]``."""
        rows = np.tile(self.constant, (len(values), 1))
        if self.varies.any():
            with warnings.catch_warnings():  # where a power has no inverse
                warnings.simplefilter("ignore", RuntimeWarning)
                standard = self.power.inverse_transform(self.near_normal.inverse_transform(values))
            beyond = np.isnan(standard)
            standard[beyond] = np.where(values[beyond] < 0, -np.inf, np.inf)
            standard = np.clip(standard, self.low, self.high)
            rows[:, self.varies] = self.unit.inverse_transform(standard)
        return rows


class _Residual(nn.Module):
    """A dense network with dropout beside a linear one, which it starts near."""

    def __init__(self, in_shape: Any, out_shape: tuple[int, ...], hidden_dims: Sequence[int], dropout: float):
        super().__init__()
        self.linear = nets.MLP(in_shape, out_shape, ())
        dense = nets.MLP(in_shape, out_shape, hidden_dims, nn.Tanh).layers
        with torch.no_grad():
            cast(Any, dense[-1]).weight.mul_(0.3)
        after = ((layer, nn.Dropout(dropout)) if isinstance(layer, nn.Tanh) else (layer,) for layer in dense)
        self.curved = nn.Sequential(*itertools.chain.from_iterable(after))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x) + self.curved(x)
        return y
