"""Whether ranks are uniform: bands that hold their whole distribution function, and exact p-values."""

from __future__ import annotations

import numpy as np


class UniformRanks:
    r"""N independent ranks, uniform over 0, ..., L, as those of one value among L draws of its own kind are.

    Of their number below i, :math:`R_i \sim \mathrm{Binomial}(N, i / (L + 1))`, each has a two-sided tail
    probability. The least of them,

    .. math:: \gamma = \min_i \min\bigl(1, 2 P(R \le R_i), 2 P(R \ge R_i)\bigr)

    is the statistic: unlike Kolmogorov's it is as sensitive in the tails, where draws that are too narrow or
    too wide are found out, as in the middle. Its distribution is exact, ties and all: counts are a Poisson
    process given its end, which stays within bounds with a probability that a recursion sums up.

    Args:
        size: N.
        num_draws: L.

    Reference: Säilynoja, Bürkner and Vehtari, 2022, "Graphical test for discrete uniformity and its
    applications in goodness-of-fit evaluation and multiple sample comparison"; Noé, 1972, "The calculation of
    distributions of two-sided Kolmogorov-Smirnov type statistics".

    >>> two = UniformRanks(2, 1)
    >>> two.p_values(np.array([[0, 0], [0, 1]]))  # both below the middle, or one: of 4 equally likely cases
    array([0.5, 1. ])
    """

    def __init__(self, size: int, num_draws: int):
        from scipy.stats import binom, poisson  # which is slow to import

        self.size, self.num_draws = size, num_draws
        self.at = np.arange(1, num_draws + 1) / (num_draws + 1)
        count = np.arange(size + 1)
        tails = binom.cdf(count, size, self.at[:, None]), binom.sf(count - 1, size, self.at[:, None])
        self._local = np.minimum(1.0, 2 * np.minimum(*tails))  # [L, N + 1]
        self._step = poisson.pmf(np.arange(size + 1), size / (num_draws + 1))
        self._whole = poisson.pmf(size, size)
        self._step = self._step[: np.flatnonzero(self._step > 1e-18).max() + 1]

    def below(self, ranks: np.ndarray) -> np.ndarray:
        """Of ranks ``[N, Q]``, how many lie below i = 1, ..., L: ``[L, Q]``."""
        counts = np.stack([np.bincount(column, minlength=self.num_draws + 1) for column in ranks.T], 1)
        return np.asarray(counts.cumsum(0)[:-1])

    def p_values(self, ranks: np.ndarray) -> np.ndarray:
        """Of ranks ``[N, Q]``, by column, the probability of a statistic as small as its own, ``[Q]``."""
        least = np.take_along_axis(self._local, self.below(ranks), 1).min(0)
        return np.array([self._leaves(gamma) for gamma in least])

    def band(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        """The least and the largest number below each i, ``[L]``, of a band that holds all with ``level``."""
        low, high = np.log((1 - level) / self.num_draws), np.log(1 - level)
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if self._leaves(np.exp(middle)) <= 1 - level else (low, middle)
        return self._bounds(float(np.exp(low)))

    def _bounds(self, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        """Of the counts that are likelier than gamma; there are some if gamma is below 1."""
        inside = self._local > gamma * (1 + 1e-9)  # equal ones, as of both tails, are equal up to rounding
        return inside.argmax(1), self.size - inside[:, ::-1].argmax(1)

    def _leaves(self, gamma: float) -> float:
        """The probability that any of the counts is no likelier than gamma."""
        if gamma > 1 - 1e-6:
            return 1.0
        stays, first = np.ones(1), 0  # probabilities of the counts from the first on
        for low, high in zip(*self._bounds(gamma), strict=True):
            stays = np.convolve(stays, self._step)[max(low - first, 0) : high - first + 1]
            first = max(low, first)
        last = self.size - first - np.arange(len(stays))  # what is left for ranks of L
        known = last < len(self._step)
        inside = stays[known] @ self._step[last[known]] / self._whole
        return float(np.clip(1 - inside, gamma / 2, min(1.0, self.num_draws * gamma)))
