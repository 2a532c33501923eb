"""Classes as numbers, of which each datum has one."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vae.checks import Levels, checked
from pyro_vae.families.base import COUNTING, Family, Shape


class Label(Family):
    r"""One of K classes 0, ..., K - 1, with a logit each: :math:`p(y = k) = \mathrm{softmax}(r)_k`.

    Args:
        num_classes: K.
    """

    measure = COUNTING
    reparameterised = False
    enumerates = True

    @checked
    def __init__(self, num_classes: Levels):
        super().__init__()
        self.num_classes = num_classes
        self.support = constraints.integer_interval(0, num_classes - 1)

    def param_shape(self) -> Shape:
        return (self.num_classes,)

    def forward(self, raw: Tensor) -> Distribution:
        return dist.Categorical(logits=raw)

    def describe(self, raw: str) -> dict[str, str]:
        return {"logits": raw}
