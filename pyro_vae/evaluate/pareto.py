"""Whether importance weights are to be trusted: how many count, and how heavy their tail is."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from pyro_vae.program import DataWarning

HEAVY = 0.7
"""A k-hat above which an average of weights converges too slowly to be of use."""
WARNED = 1000
"""Samples from which on it is warned of."""


class Weights:
    r"""A stream of log weights: what is kept of it is bounded, and the same however it is cut.

    Args:
        num_samples: K, how many there will be for each datum.
    """

    def __init__(self, num_samples: int):
        self.num_samples = num_samples
        self.kept = min(num_samples // 5, int(3 * math.sqrt(num_samples))) + 1
        self.largest = torch.empty(0)
        self.sums = torch.empty(0)  # of w and of w^2, in logarithms

    def add(self, log_w: Tensor) -> None:
        """Takes in some more, ``[k, B]``."""
        log_w = log_w.double()
        sums = torch.stack([log_w.logsumexp(0), (2 * log_w).logsumexp(0)])
        if self.sums.numel():
            log_w = torch.cat([self.largest, log_w])
            sums = torch.logaddexp(sums, self.sums)
        self.sums = sums
        self.largest = log_w.topk(min(self.kept, len(log_w)), 0).values

    @property
    def log_mean(self) -> Tensor:
        """The log of the mean of w, ``[B]``: the importance-weighted bound."""
        return self.sums[0] - math.log(self.num_samples)

    @property
    def effective_sample_size(self) -> Tensor:
        r""":math:`(\sum_k w_k)^2 / \sum_k w_k^2`, ``[B]``, from 1 to K."""
        return (2 * self.sums[0] - self.sums[1]).exp()

    @property
    def pareto_k(self) -> Tensor:
        """See ``pareto_k``, ``[B]``."""
        return pareto_k(self.largest)


def pareto_k(log_w: Tensor) -> Tensor:
    r"""The shape :math:`\hat k` of the generalised Pareto distribution that the largest weights follow.

    Weights with a tail of shape k have moments up to the order 1/k: a variance for k < 1/2, a mean for k < 1,
    and an upper bound for k < 0. Above 0.7 their average is not to be trusted. K samples have a tail of
    the :math:`\min(K/5, 3\sqrt K)` largest; fewer than 5 (K < 25) have none that can be fitted.

    Args:
        log_w: the largest log weights and the next one, where the tail begins, descending: ``[M + 1, N]``.

    Returns:
        ``[N]``: NaN of M < 5; -inf where they are all but equal, or tied as those of few discrete latents;
        inf where those beside the largest are no more than rounding.

    Reference: Zhang and Stephens, 2009, "A new and efficient estimation method for the generalized Pareto
    distribution"; Vehtari et al., 2024, "Pareto smoothed importance sampling".
    """
    number = len(log_w) - 1
    if number < 5:
        return torch.full_like(log_w[0], math.nan)
    w = (log_w - log_w[0]).exp()
    x = (w[:-1] - w[-1]).flip(0)
    x = x / x[-1]  # k has no unit
    of_quartile = int(number / 4 + 0.5)
    quartile = x[of_quartile - 1]
    i = torch.arange(1, 31 + math.isqrt(number)).to(x)[:, None]
    b = 1 + (1 - (len(i) / (i - 0.5)).sqrt()) / (3 * quartile)  # candidates for -k / scale, [grid, N]
    k = (-b[:, None] * x).log1p().mean(1)
    posterior = (number * ((-b / k).log() - k - 1)).softmax(0)
    k = (-(posterior * b).sum(0) * x).log1p().mean(0)
    k = (number * k + 10 * 0.5) / (number + 10)  # a weak prior, worth 10 weights, as the reference has it
    bounded = (log_w[0] - log_w[-1] < 1e-3) | (quartile == 0)
    far = (quartile < 1e-290) & (log_w[number - of_quartile] > log_w[-1] + 1e-9)  # lost to rounding, not tied
    return torch.where(far, math.inf, torch.where(bounded, -math.inf, k))


def warn_of_tails(k: Tensor, num_samples: int) -> None:
    """Names the data, ``[N]``, whose weights are not to be trusted, to the caller of a checked evaluator.

    Of few samples k-hat is too noisy to warn by, and the figure is no more than a glance: it is only printed.
    """
    heavy = (k > HEAVY).nonzero()[:, 0] if num_samples >= WARNED else k.new_empty(0)
    if len(heavy):
        worst = heavy[k[heavy].argsort(descending=True)][:5].tolist()
        more = " ..." if len(heavy) > len(worst) else ""
        warnings.warn(
            f"log p(x) of {len(heavy)} of {len(k)} data is not to be trusted, and likely too low: the tail "
            f"of their importance weights is heavy (Pareto k-hat above {HEAVY}, at worst "
            f"{k[worst[0]].item():.2f}; data {', '.join(map(str, worst))}{more}); take "
            f"num_samples={10 * num_samples}, or pv.evaluate.ais",
            DataWarning,
            stacklevel=4,
        )
