"""How far two samples are from each other: a classifier's accuracy, and distances between features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import binom
from torch import Tensor

FOLDS = 5
FEW = 30
"""Pairs of which a classifier learns little."""
NEIGHBOURS = 3


@dataclass(frozen=True)
class TwoSample:
    """How well a classifier tells data from draws that it was not trained on; the nearer to 0.5 the better.

    Attributes:
        accuracy: share of data and draws that it told rightly.
        standard_error: of the accuracy, over pairs of a datum and a draw.
        p_value: of an accuracy as high if data and draws were of one distribution.
        num_pairs: of a datum and a draw.
    """

    accuracy: float
    standard_error: float
    p_value: float
    num_pairs: int

    def __str__(self) -> str:
        good = "near 0.5 is good" if self.num_pairs >= FEW else "of so few it learns little"
        return (
            f"a classifier tells data from draws with accuracy {self.accuracy:.3f} ± "
            f"{self.standard_error:.3f}, p = {self.p_value:.2g} ({good}; {self.num_pairs} pairs)"
        )


@dataclass(frozen=True)
class Features:
    """Data and draws in the eyes of a network.

    Attributes:
        frechet_distance: between Normals of the same moments; 0 is best.
        frechet_distance_of_draws: between two sets of draws, which is what a perfect model would have.
        precision: share of draws that lie among the data.
        recall: share of data that lie among the draws.
    """

    frechet_distance: float
    frechet_distance_of_draws: float
    precision: float
    recall: float

    def __str__(self) -> str:
        return (
            f"features: Fréchet distance {self.frechet_distance:.4g} (of draws to draws "
            f"{self.frechet_distance_of_draws:.4g}), precision {self.precision:.3f}, recall {self.recall:.3f}"
        )


def classifier_test(data: Tensor, draws: Tensor, seed: int) -> TwoSample:
    r"""Trains a classifier to tell data from draws, and counts how often it does, on others.

    Gradient boosting, which takes missing values, cross-validated in 5 folds. The n-th datum and the n-th
    draw, which may share what they are given and what they miss, are in one fold. Were they of one
    distribution, it would be even chances whether of a pair both or neither are told rightly, if not one:

    .. math:: p = P(B \ge b), \quad B \sim \mathrm{Binomial}(b + w, 1/2)

    for b pairs of which both are right, and w of which both are wrong.

    Args:
        data: ``[N, P]``; NaN is missing.
        draws: ``[N, P]``.
        seed: of the folds.

    Reference: Lopez-Paz and Oquab, 2017, "Revisiting classifier two-sample tests".
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    x = np.stack([data.cpu().numpy(), draws.cpu().numpy()])  # [2, N, P]
    number = x.shape[1]
    fold = np.random.default_rng(seed).permutation(number) % min(FOLDS, number)
    right = np.zeros((2, number))
    for own in np.unique(fold):
        train, test = fold != own, fold == own
        leaf = max(2, min(20, train.sum() // 5))  # 20, as by default, could not split a few data at all
        classifier = HistGradientBoostingClassifier(
            max_iter=50, min_samples_leaf=leaf, early_stopping=False, random_state=seed
        )
        unknown = np.isnan(x[:, train]).all((0, 1))  # columns of which the classifier could make no bins
        seen = np.where(unknown, 0.0, x)
        classifier.fit(np.concatenate(seen[:, train]), np.repeat([0, 1], train.sum()))
        told = classifier.predict(np.concatenate(seen[:, test])).reshape(2, -1)
        right[:, test] = told == np.array([[0], [1]])
    both, neither = ((right.sum(0) == count).sum() for count in (2, 0))
    share = right.mean(0)
    error = float(share.std(ddof=1) / number**0.5)
    p_value = float(binom.sf(both - 1, both + neither, 0.5))
    return TwoSample(float(share.mean()), error, p_value, number)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    r"""Between the Normals that have the moments of two samples of features, ``[N, F]`` and ``[M, F]``.

    .. math:: |\mu_a - \mu_b|^2 + \mathrm{tr}\bigl(S_a + S_b - 2 (S_a^{1/2} S_b S_a^{1/2})^{1/2}\bigr)

    The fewer data, the larger: compare it only at one N, and with that of draws to draws.

    Reference: Heusel, Ramsauer, Unterthiner, Nessler and Hochreiter, 2017, "GANs trained by a two time-scale
    update rule converge to a local Nash equilibrium".
    """
    a, b = a.double(), b.double()
    s_a, s_b = (torch.cov(v.T).reshape(v.shape[1], v.shape[1]) for v in (a, b))
    values, vectors = torch.linalg.eigh(s_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ s_b @ root).clamp(min=0).sqrt().sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + s_a.trace() + s_b.trace() - 2 * cross
    return max(0.0, distance.item())


def precision_recall(data: Tensor, draws: Tensor) -> tuple[float, float]:
    """Share of draws nearer to a datum than its third neighbour among the data, and the other way round.

    Args:
        data: features ``[N, F]``.
        draws: features ``[M, F]``.

    Reference: Kynkäänniemi, Karras, Laine, Lehtinen and Aila, 2019, "Improved precision and recall metric for
    assessing generative models".
    """

    def within(points: Tensor, of: Tensor) -> float:
        radius = torch.cdist(of, of).kthvalue(min(NEIGHBOURS + 1, len(of)), 1).values  # itself is the first
        return (torch.cdist(points, of) <= radius).any(1).double().mean().item()

    data, draws = data.double(), draws.double()
    return within(draws, data), within(data, draws)
