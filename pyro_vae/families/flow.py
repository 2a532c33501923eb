"""A Normal pushed through learned invertible maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast, get_args

import pyro.distributions as dist
import pyro.distributions.transforms as T
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.checks import Count, checked
from pyro_vae.distributions.flow import affine_autoregressive, flow, stateless
from pyro_vae.families.base import Family, Shape, scale


class Flow(Family):
    """Base of the flows: a prior's maps are its own, those of a guide see features of the network.

    Args:
        transform: the kind of map.
        num_transforms: number of maps.
        hidden_dims: of the networks within the maps.

    Raises:
        ValueError: the map is unknown, or couples two halves of one dimension.
    """

    maps: Any
    """The kinds of map, a ``Literal``."""

    @checked
    def __init__(self, transform: str, num_transforms: Count, hidden_dims: Sequence[Count]):
        super().__init__()
        if transform not in get_args(self.maps):
            raise ValueError(
                f"transform={transform!r} is none of {', '.join(map(repr, get_args(self.maps)))}"
            )
        self.transform = transform
        self.num_transforms = num_transforms
        self.hidden_dims = list(hidden_dims)
        self.invertible = transform not in ("planar", "radial")

    def setup(self, event_shape: Shape) -> None:
        super().setup(event_shape)
        if len(event_shape) != 1:
            raise ValueError(f"a Flow is over vectors, not values of shape {event_shape}; reshape them")
        if "coupling" in self.transform and event_shape[0] < 2:
            raise ValueError(
                f"{self.transform} couples two halves, but there is 1 dimension; take transform='spline'"
            )
        self.transforms = nn.ModuleList(self._make(event_shape[0]) for _ in range(self.num_transforms))

    def _make(self, dim: int) -> nn.Module:
        raise NotImplementedError


class OwnFlow(Flow):
    """A flow with nothing but parameters of its own: the standard Normal pushed through maps."""

    zero: Tensor

    def setup(self, event_shape: Shape) -> None:
        super().setup(event_shape)
        self.register_buffer("zero", torch.zeros(event_shape))

    def _make(self, dim: int) -> nn.Module:
        options = {} if self.transform == "spline" else {"hidden_dims": self.hidden_dims}
        own = affine_autoregressive if self.transform == "affine_autoregressive" else None
        return cast(nn.Module, (own or getattr(T, self.transform))(dim, **options))

    def param_shape(self) -> Shape:
        return (0,)

    def forward(self, raw: Tensor) -> Distribution:
        base: Any = dist.Normal(self.zero, torch.ones_like(self.zero))
        transforms = [stateless(transform) for transform in self.transforms]
        if "autoregressive" in self.transform:  # whose direct way is the one that densities take
            transforms = [transform.inv for transform in transforms]
        return flow(base.to_event(1), transforms, self.event_shape[0])

    def describe(self, raw: str) -> dict[str, str]:
        return {"T": f"{self.num_transforms} learned {self.transform} maps of a standard Normal"}


class ConditionedFlow(Flow):
    """A flow whose base and maps see the network's output."""

    context_dim: int

    def _make(self, dim: int) -> nn.Module:
        make = getattr(T, f"conditional_{self.transform}")
        return cast(nn.Module, make(dim, context_dim=self.context_dim, hidden_dims=self.hidden_dims))

    def param_shape(self) -> Shape:
        return (2 * self.event_shape[0] + self.context_dim,)

    def forward(self, raw: Tensor) -> Distribution:
        (d,) = self.event_shape
        loc, raw_scale, context = raw.split([d, d, self.context_dim], dim=-1)
        base = dist.Normal(loc, scale(raw_scale)).to_event(1)
        conditioned = [cast(Any, transform).condition(context) for transform in self.transforms]
        return flow(base, conditioned, d)

    def describe(self, raw: str) -> dict[str, str]:
        one, two, three = (raw.replace("(", f"_{i}(", 1) for i in (1, 2, 3))
        maps = f"{self.num_transforms} {self.transform} maps that see {three}"
        return {"loc": one, "scale": f"softplus({two})", "T": maps}
