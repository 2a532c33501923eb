"""Missing values filled in by VAEs, under scikit-learn's conventions."""

# scikit-learn's name for data:
# ruff: noqa: N803

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro.infer import RenyiELBO
from scipy.optimize import nnls
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from pyro_vae.checks import Count, check_all
from pyro_vae.data import load
from pyro_vae.models import VAE
from pyro_vae.sklearn.columns import Columns
from pyro_vae.sklearn.estimator import rows_of, seed_of
from pyro_vae.sklearn.linear import Linear
from pyro_vae.training import Interrupted, fit

HIDDEN, ENOUGH = 0.15, 2000
"""Share of the observed values that the rehearsal hides, and how many are enough."""
LEVEL = 0.9
"""Of the intervals that are to hold as many of the hidden values."""
SMALL = 0.05
"""A weight in the mixture below which a part is left out."""
NUMBERS = 4_000_000
"""Numbers that draws may hold at once."""


class VAEImputer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    r"""Fills in what is missing (NaN) by its mean under VAEs of the rows, trained on what is observed.

    .. math:: E[x_m \mid x_o] \approx \sum_k \frac{w_k}{\sum_l w_l} E[x_m \mid z_k], \qquad
        w_k = \frac{p(x_o, z_k)}{q(z_k \mid x_o)}, \quad z_k \sim q(z \mid x_o)

    A VAE starts as the most likely linear one with its exact posterior (factor analysis, by EM), and learns
    what is curved by the importance-weighted bound on :math:`\log p(x_o)`. Right where what is missing does
    not tell by its being missing (at random).

    Some observed values are hidden first, in a rehearsal, and what fills these in best is then made of all
    values: whether columns are brought near a Normal (Yeo and Johnson, 2000); how much the linear VAE, the
    curved ones and the columns by themselves weigh in the mixture (the curved ones are left out where they
    do not help); and how wide its draws are, so that 90 % intervals hold 90 %. Units do not matter. What is
    drawn lies within a column's observed range, or not far outside. A constant column is filled with its
    constant, one that was never observed with 0. What a row is filled with does not depend on the rows
    beside it.

    Args:
        latent_dim: D, the number of latent variables per row at most; those that are not needed are left out.
        hidden_dims: widths of the hidden layers of the curved networks, beside which linear ones stand.
        dropout: share of the hidden units left out at a time in training, lest it fit what is observed
            more closely than what is not.
        n_estimators: curved VAEs whose draws are put together.
        epochs: passes over the rows.
        max_steps: gradient steps of each VAE, though they be fewer passes.
        batch_size: rows per step.
        lr: learning rate at its highest.
        num_particles: K, importance samples per row in training.
        num_samples: draws per row, over all VAEs, of which the mean is taken.
        random_state: of what is hidden, the weights, the noise and the order of the data.
        verbose: whether to show progress.

    Attributes:
        vaes_: the ``pv.VAE``s of the mixture, of columns as they are learned.
        weights_: their weights, which sum to 1.
        n_features_in_: number of columns of the training data.
        feature_names_in_: their names, where they have any.

    Raises:
        ValueError: as scikit-learn has it.
        ConfigError: an argument will not do.

    Reference: Mattei and Frellsen, 2019, "MIWAE: deep generative modelling and imputation of incomplete data
    sets"; Rubin, 1976, "Inference and missing data"; Yeo and Johnson, 2000, "A new family of power
    transformations to improve normality or symmetry"; Breiman, 1996, "Stacked regressions".

    >>> x = np.random.default_rng(0).normal(size=(100, 1)) * [1.0, 10.0, -3.0]
    >>> x[::3, 1] = np.nan
    >>> imputer = VAEImputer(epochs=5, random_state=0)
    >>> imputer.fit_transform(x).shape, imputer.sample(x[:2], 5).shape
    ((100, 3), (5, 2, 3))
    """

    vaes_: list[VAE]
    weights_: list[float]

    def __init__(
        self,
        latent_dim: Count = 20,
        *,
        hidden_dims: Sequence[Count] = (64, 64),
        dropout: float = 0.1,
        n_estimators: Count = 2,
        epochs: Count = 300,
        max_steps: Count = 600,
        batch_size: Count = 128,
        lr: float = 2e-3,
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
        x = rows_of(self, X, ensure_min_samples=2)
        fine = check_all(type(self).__init__, self.get_params(deep=False))
        self._seed = seed_of(self.random_state)
        powers, (flat, straight, curved), stretch = self._rehearse(x, fine)
        columns = Columns(x, powers)
        values = columns.learned(x)
        parts: list[tuple[float, VAE]] = []
        if values.shape[1]:
            linear, number = Linear.fit(values, fine["latent_dim"]), fine["n_estimators"]
            seeds = range(self._seed + 1, self._seed + 1 + number) if curved else ()
            parts = [
                *([(flat, Linear.flat(values.shape[1]).vae())] if flat else []),
                *([(straight, linear.vae())] if straight else []),
                *((curved / number, self._curved(linear, values, seed, fine)) for seed in seeds),
            ]
        self._mixture = _Mixture(columns, parts, stretch)
        self.vaes_, self.weights_ = [vae for _, vae in parts], [weight for weight, _ in parts]
        return self

    def transform(self, X: Any) -> np.ndarray:
        """X ``[N, n_features]``, with the mean of the draws where it is NaN."""
        check_is_fitted(self)
        x = rows_of(self, X, reset=False)
        return np.where(np.isnan(x), self._mixture.mean(x, self.num_samples, self._seed), x)

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
        x = rows_of(self, X, reset=False)
        generator = torch.Generator().manual_seed(seed_of(random_state))
        parts = self._mixture.draws(x, max(number, self.num_samples), lambda: generator, alike=False)
        return np.where(np.isnan(x), np.concatenate([draws[:number] for draws in parts], 1), x)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _rehearse(self, x: np.ndarray, fine: Mapping[str, Any]) -> tuple[bool, list[float], float]:
        """What fills in hidden values best.

        Returns:
            whether columns are brought near a Normal; the weights of columns by themselves, of the linear VAE
            and of the curved ones; and by how much draws are stretched.
        """
        known = ~np.isnan(x)
        share = min(HIDDEN, ENOUGH / max(1, known.sum()))
        hidden = known & (np.random.default_rng(self._seed).random(x.shape) < share)
        rows, seen = hidden.any(1), np.where(hidden, np.nan, x)
        each = {powers: Columns(seen, powers) for powers in (False, True)}
        width = int(each[False].varies.sum())
        if not (rows.any() and width):
            return False, [0.0, 1.0, 0.0], 1.0
        at, given, number, seed = hidden[rows], seen[rows], fine["num_samples"], self._seed
        spread = np.where(known, x - np.where(known, x, 0.0).sum(0) / np.maximum(known.sum(0), 1), 0.0)
        spread = np.sqrt(np.square(spread).sum(0) / np.maximum(known.sum(0), 1))
        unit = np.broadcast_to(np.where(spread > 0, spread, 1.0), at.shape)[at]
        truth = x[rows][at] / unit

        def guess(columns: Columns, vae: VAE) -> np.ndarray:
            mean: np.ndarray = _Mixture(columns, [(1.0, vae)]).mean(given, number, seed)[at] / unit
            return mean

        straight = {}
        for powers, columns in each.items():
            linear = Linear.fit(columns.learned(seen), fine["latent_dim"])
            straight[powers] = linear, linear.vae(), guess(columns, linear.vae())
        powers = min(straight, key=lambda powers: np.square(straight[powers][2] - truth).sum())
        columns, (linear, vae, guessed) = each[powers], straight[powers]
        flat, curved = Linear.flat(width).vae(), self._curved(linear, columns.learned(seen), seed, fine)
        weights = _weights(np.stack([guess(columns, flat), guessed, guess(columns, curved)], 1), truth)
        mixture = _Mixture(columns, list(zip(weights, (flat, vae, curved), strict=True)))
        return powers, weights, mixture.stretch_to(given, x[rows], at, number, seed)

    def _curved(self, linear: Linear, values: np.ndarray, seed: int, fine: Mapping[str, Any]) -> VAE:
        """A VAE that starts as the linear one, trained on rows ``[N, n_varying]``."""
        values = values[~np.isnan(values).all(1)]  # of the others there is nothing to learn
        data = load(torch.tensor(values, dtype=torch.float32), validation=0.0, test=0.0)
        batches = math.ceil(len(values) / fine["batch_size"])
        vae = linear.vae(fine["hidden_dims"], fine["dropout"], seed)
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
        return vae


def _weights(guesses: np.ndarray, truth: np.ndarray) -> list[float]:
    """Of guesses ``[M, P]`` at values ``[M]``: the best from 0 up that sum to 1, none of them small."""
    heavy = 1e3 * np.linalg.norm(truth) + 1e-9  # of the equation that they sum to 1
    best, _ = nnls(np.vstack([guesses, np.full(guesses.shape[1], heavy)]), np.append(truth, heavy))
    best = np.where(best < SMALL * best.sum(), 0.0, best)
    weights: list[float] = (best / best.sum()).tolist()
    return weights


@dataclass
class _Mixture:
    """VAEs of the same columns, each with its weight; draws are stretched about their mean."""

    columns: Columns
    parts: Sequence[tuple[float, VAE]]
    stretch: float = 1.0

    def __post_init__(self) -> None:
        for _, vae in self.parts:
            vae.double()  # so that no rounding tells of the rows beside

    def mean(self, x: np.ndarray, number: int, seed: int) -> np.ndarray:
        """Of draws of each row, ``[N, n_features]``, under the same noise whatever the rows beside it."""
        means = [draws.mean(0) for draws in self._alike(x, number, seed)]
        return np.concatenate([np.empty((0, x.shape[1])), *means])

    def stretch_to(
        self, x: np.ndarray, true: np.ndarray, at: np.ndarray, number: int, seed: int, level: float = LEVEL
    ) -> float:
        """By how much to stretch draws, so that intervals of this level hold as many of the values ``at``."""
        reached, start = [], 0
        for draws in self._alike(x, number, seed):
            rows = slice(start, start + draws.shape[1])
            low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
            mean = draws.mean(0)
            off, reach = true[rows] - mean, np.where(true[rows] > mean, high - mean, low - mean)
            reached.append((off / np.where(reach == 0, np.inf, reach))[at[rows]])
            start = rows.stop
        return float(np.clip(np.quantile(np.concatenate(reached), level), 0.5, 2.0))

    def draws(self, x: np.ndarray, number: int, noise: Any, alike: bool) -> Iterator[np.ndarray]:
        """``[number, n, n_features]`` of some rows at a time.

        Args:
            x: rows ``[N, n_features]``.
            number: how many, in an order without meaning.
            noise: gives the generator to draw some rows with.
            alike: whether all rows are drawn with the same noise.
        """
        counts = np.diff(np.round(np.cumsum([0.0, *(weight for weight, _ in self.parts)]) * number))
        values = torch.tensor(self.columns.learned(x))
        for rows in values.split(max(1, NUMBERS // (number * max(64, x.shape[1])))):
            generator = noise()
            parts = (
                [rows.expand(number, *rows.shape)]
                if not self.parts
                else [
                    _drawn(vae, rows, int(count), generator, 1 if alike else len(rows))
                    for count, (_, vae) in zip(counts, self.parts, strict=True)
                    if count
                ]
            )
            draws = torch.cat(parts)
            draws = draws[torch.randperm(number, generator=generator)]
            mean = draws.mean(0)
            yield self.columns.units((mean + self.stretch * (draws - mean)).numpy())

    def _alike(self, x: np.ndarray, number: int, seed: int) -> Iterator[np.ndarray]:
        return self.draws(x, number, lambda: torch.Generator().manual_seed(seed), alike=True)


def _drawn(vae: VAE, x: Tensor, number: int, generator: torch.Generator, rows: int) -> Tensor:
    """Draws of rows ``[N, D]`` from p(x' | x_o), ``[number, N, D]``, with noise for one row or for each.

    Importance samples of z are drawn anew by their weights, evenly (systematic resampling).
    """

    def noise(draw: Any, *shape: int) -> Tensor:
        drawn: Tensor = draw(shape, generator=generator, dtype=x.dtype)
        return drawn

    with vae.evaluating():
        q: Any = vae.encode(x)
        z = q.mean + (q.scale_tril @ noise(torch.randn, number, rows, vae.latent_dim, 1))[..., 0]
        p: Any = vae.decode(z)
        seen = p.base_dist.log_prob(x.nan_to_num()) * ~x.isnan()
        log_w = vae.prior().log_prob(z) + seen.sum(-1) - q.log_prob(z)
        steps = (torch.arange(number, dtype=x.dtype)[:, None] + noise(torch.rand, 1, rows)) / number
        below = log_w.softmax(0).cumsum(0).mT.contiguous()
        index = torch.searchsorted(below, steps.expand(-1, len(x)).mT.contiguous()).mT
        index = index.clamp(max=number - 1)[..., None].expand(-1, -1, x.shape[1])
        loc, scale = p.base_dist.loc.gather(0, index), p.base_dist.scale.gather(0, index)
        drawn: Tensor = loc + scale * noise(torch.randn, number, rows, x.shape[1])
    return drawn
