"""How far two samples are from each other: a classifier's accuracy, and distances between features."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BLOCKS = 5
FEW = 30
"""Pairs of which a classifier learns little."""
NEIGHBOURS = 3


@dataclass(frozen=True)
class TwoSample:
    """How well a classifier tells data from draws that it was not trained on; the nearer to 0.5 the better.

    Attributes:
        accuracy: share of data and draws that it told rightly.
        standard_error: of the accuracy, over pairs of a datum and a draw.
        p_value: of as many pairs in which it holds the draw to be one rather than the datum, if they were of
            one distribution; exact.
        num_pairs: of a datum and a draw; it was asked of four fifths.
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

    Gradient boosting, which takes missing values. The n-th datum and the n-th draw, which may share what they
    are given and what they miss, are a pair. Pairs come in 5 blocks in a random order, and of each block but
    the first it is asked after it has seen those before: were data and draws of one distribution, it would be
    even chances, whatever it has learnt, which of a pair it holds to be the draw,

    .. math:: p = P(B \ge b), \quad B \sim \mathrm{Binomial}(n, 1/2)

    for b of n pairs that it has in the right order, the order of equals being drawn. (In cross-validation
    each pair is also what others are told by, so that errors come together, and p-values are too small.)

    Args:
        data: ``[N, P]``; NaN is missing.
        draws: ``[N, P]``.
        seed: of the blocks.

    Reference: Lopez-Paz and Oquab, 2017, "Revisiting classifier two-sample tests"; Dawid, 1984, "Statistical
    theory: the prequential approach".
    """
    from scipy.stats import binom  # which is slow to import, as is the next
    from sklearn.ensemble import HistGradientBoostingClassifier

    x = np.stack([data.cpu().numpy(), draws.cpu().numpy()])  # [2, N, P]
    number, random = x.shape[1], np.random.default_rng(seed)
    block = random.permutation(number) % min(BLOCKS, number)
    rights, first = [], []
    for own in range(1, block.max() + 1):
        train, test = block < own, block == own
        leaf = max(2, min(20, train.sum() // 5))  # 20, as by default, could not split a few data at all
        classifier = HistGradientBoostingClassifier(
            max_iter=50, min_samples_leaf=leaf, early_stopping=False, random_state=seed
        )
        unknown = np.isnan(x[:, train]).all((0, 1))  # columns of which the classifier could make no bins
        seen = np.where(unknown, 0.0, x)
        classifier.fit(np.concatenate(seen[:, train]), np.repeat([0, 1], train.sum()))
        share = classifier.predict_proba(np.concatenate(seen[:, test]))[:, 1].reshape(2, -1)
        rights.append((share > 0.5) == np.array([[False], [True]]))
        first.append(np.sign(share[1] - share[0]))
    share = np.concatenate(rights, 1).mean(0)
    order = np.concatenate(first)
    order = np.where(order == 0, random.choice([-1, 1], len(order)), order)
    error = float(share.std(ddof=1) / len(share) ** 0.5) if len(share) > 1 else math.nan
    p_value = float(binom.sf((order > 0).sum() - 1, len(order), 0.5))
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
