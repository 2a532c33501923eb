"""Distributions that Pyro lacks, and how raw reals become parameters."""

from __future__ import annotations

import pyro.distributions as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Transform, transform_to
from torch.distributions.constraints import Constraint


class PseudoBernoulli(dist.Bernoulli):
    r"""The Bernoulli log-density evaluated at grey values in [0, 1]: *not* a probability.

    .. math:: \log \tilde p(x \mid l) = x\,l - \log(1 + e^{l}), \qquad x \in [0, 1]

    This is the "binary cross-entropy" of many tutorials. Its integral over [0, 1] is
    :math:`(e^{l} - 1) / (l (1 + e^{l}))`, which is at most 1/2, so its values are log-densities
    on no measure and must not be compared with those of any likelihood. Samples are drawn from
    the Bernoulli, and lie in {0, 1}.

    Args:
        logits: natural parameter :math:`l`, any batch shape.

    Reference: Loaiza-Ganem and Cunningham, 2019, "The continuous Bernoulli: fixing a pervasive
    error in variational autoencoders".
    """

    support = dist.constraints.unit_interval
    has_enumerate_support = False

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return value * self.logits - F.softplus(self.logits)


def to_constrained(constraint: Constraint) -> Transform:
    """The map from raw reals to values that satisfy a constraint, ``transform_to`` with one exception.

    Positive values are softplus(raw), as in Pyro's own guides, where ``transform_to`` has exp(raw): one
    outlying datum then moves a scale by its raw value, not by the exponential of it.
    """
    if constraint is dist.constraints.positive:
        constraint = dist.constraints.softplus_positive
    return transform_to(constraint)
