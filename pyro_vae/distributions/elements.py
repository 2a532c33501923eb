"""A distribution of many numbers as one of each, where they are independent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyro.distributions as dist
import torch
from torch.distributions import Distribution
from torch.distributions.transforms import IndependentTransform

from pyro_vae.distributions.discrete import Bit, Discrete


def elements(distribution: Any) -> Distribution | None:
    """The distribution of each element, batch shape ``[..., *event_shape]``, if they are independent."""
    p = distribution
    if not p.event_shape:
        return p
    if isinstance(p, dist.ExpandedDistribution):
        return elements(p.base_dist.expand(p.batch_shape))
    if isinstance(p, torch.distributions.Independent):
        return elements(p.base_dist)
    if isinstance(p, Discrete) and p.num_classes is None:
        return Bit(logits=p.logits, validate_args=False)
    if isinstance(p, torch.distributions.TransformedDistribution):
        base, transforms = elements(p.base_dist), list(_elementwise(p.transforms))
        if base is None or len(transforms) < len(p.transforms):
            return None
        pushed: Distribution = dist.TransformedDistribution(base, transforms)
        return pushed
    return None


def _elementwise(transforms: list[Any]) -> Iterator[Any]:
    """Those that act on each element by itself."""
    for transform in transforms:
        while isinstance(transform, IndependentTransform):
            transform = transform.base_transform
        if transform.domain.event_dim == transform.codomain.event_dim == 0:
            yield transform
