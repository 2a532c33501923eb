"""A distribution pushed through invertible maps."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import pyro.distributions as dist
import torch
from pyro.nn import AutoRegressiveNN
from torch import Tensor, nn
from torch.distributions import Distribution


class _Flow(dist.TransformedDistribution):
    """TransformedDistribution whose maps, conditioned on a batch, take values that do not have its shape."""

    def log_prob(self, value: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        if shape != value.shape[:-1]:
            value = value.expand(*shape, -1)
        log_prob: Tensor = super().log_prob(value)
        return log_prob


class _AnyDtypeNN(AutoRegressiveNN):
    """Pyro's, for values of any dtype: the way back through a map starts from zeros of the default one."""

    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        return super().forward(x.to(next(self.parameters())))


def affine_autoregressive(dim: int, hidden_dims: list[int]) -> nn.Module:
    """Pyro's map of this name, for values of any dtype."""
    return dist.transforms.AffineAutoregressive(_AnyDtypeNN(dim, hidden_dims))


def flow(base: Distribution, transforms: Sequence[Any], dim: int) -> Distribution:
    """The base distribution pushed through maps, with the order of the dimensions reversed in between."""
    chain: list[Any] = [transforms[0]]
    order = torch.arange(dim - 1, -1, -1, device=base.mean.device)
    for transform in transforms[1:]:
        chain += [dist.transforms.Permute(order), transform]
    return cast(Distribution, _Flow(base, chain))


def stateless(transform: nn.Module) -> Any:
    """A copy that shares its tensors, for one use: Pyro's maps keep what they computed last."""
    copied = copy.copy(transform)
    copied._modules = {name: child and stateless(child) for name, child in transform._modules.items()}
    return copied
