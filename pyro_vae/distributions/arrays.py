"""Distributions over vectors as distributions over arrays, and the other way."""

from __future__ import annotations

from typing import Any, cast

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from pyro_vae.constraints import scalar_support


class Reshaped(TorchDistribution):
    """A distribution over vectors, or arrays, as one over arrays of ``event_shape`` with as many elements."""

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, base: Distribution, event_shape: tuple[int, ...], validate_args: bool | None = None):
        self.base: Any = base
        super().__init__(base.batch_shape, torch.Size(event_shape), validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> Constraint:
        return constraints.independent(scalar_support(self.base.support), len(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        leading = value.shape[: value.dim() - len(self.event_shape)]
        return cast(Tensor, self.base.log_prob(value.reshape(*leading, *self.base.event_shape)))

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return bool(self.base.has_rsample)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self._array(self.base.sample(sample_shape))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self._array(self.base.rsample(sample_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Reshaped:
        return Reshaped(self.base.expand(batch_shape), self.event_shape)

    def _array(self, value: Tensor) -> Tensor:
        leading = value.shape[: value.dim() - len(self.base.event_shape)]
        return value.reshape(*leading, *self.event_shape)

    @property
    def mean(self) -> Tensor:
        return self._array(self.base.mean)

    @property
    def variance(self) -> Tensor:
        return self._array(self.base.variance)
