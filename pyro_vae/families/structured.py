"""A guide of sequences that goes step by step, by any network of the state before (``Structured``)."""

from __future__ import annotations

import copy
import inspect
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.checks import Count, checked
from pyro_vae.distributions import Driven, Reshaped
from pyro_vae.families.base import COUNTING, Family, Shape
from pyro_vae.families.named import Normal
from pyro_vae.nets import Net, check_factories, combiner


class Structured(Family):
    r"""The guide of the deep Markov model: each state given the one before and what the encoder read.

    .. math:: q(z_{1:T} \mid x) = \prod_{t=1}^T \mathrm{family}\bigl(z_t;\, \mathrm{net}(z_{t-1}, h_t)\bigr),
        \qquad h = \mathrm{encoder}(x), \quad z_0 \text{ learned}

    With an encoder that reads from the end it is the paper's ST-R (DKS), with
    ``nets.recurrent(direction="both")`` its ST-LR. Densities are one call of the network for all steps; draws
    are a loop, unrolled where it is compiled. ``Markov`` has none, and is linear in the state before.
    Latents ``(T,)`` are steps of one state.

    Args:
        guide: the family of z_t given z_{t-1} and h_t, over ``(L,)``.
        net: factory of the network, called with ``((L,), (features,))``, and z_{t-1} and h_t.
        features: size of h_t.

    Raises:
        TypeError: ``net`` is no factory.
        ValueError: the family is none over the reals with a density of its own.

    Reference: Krishnan, Shalit and Sontag, 2017, "Structured inference networks for nonlinear state space
    models", section 4.
    """

    note = "z_0 is learned, and h_t is what the encoder emits at step t"

    @checked
    def __init__(self, guide: Any = Normal, net: Any = combiner(), features: Count = 64):
        super().__init__()
        guide = guide() if inspect.isclass(guide) and issubclass(guide, Family) else copy.deepcopy(guide)
        if not isinstance(guide, Family) or guide.measure == COUNTING or not guide.on_reals:
            raise ValueError(
                f"guide={guide!r} is no family of real states; pv.guides.Normal() and "
                "pv.guides.FullRankNormal() are, for example"
            )
        check_factories(net=net)
        self.guide, self.factory, self.features = guide, cast(Net, net), features
        self.reparameterised, self.invertible = guide.reparameterised, guide.invertible

    def setup(self, event_shape: Shape) -> None:
        super().setup(event_shape)
        state = tuple(event_shape[1:]) or (1,)
        self.guide.setup(state)
        self.start = nn.Parameter(torch.zeros(state))
        self.net: Any = self.factory((state, (self.features,)), self.guide.param_shape())

    def param_shape(self) -> Shape:
        return (self.event_shape[0], self.features)

    def forward(self, raw: Tensor) -> Distribution:
        q = Driven(self.start, self.step, raw)
        return q if q.event_shape == self.event_shape else Reshaped(q, self.event_shape)

    def step(self, z: Tensor, h: Tensor) -> Distribution:
        """q(z_t | z_{t-1}, h_t), batch shape ``[...]``, for z_{t-1} ``[..., L]``, h_t ``[..., features]``."""
        leading = torch.broadcast_shapes(z.shape[:-1], h.shape[:-1])
        before, read = (part.expand(*leading, -1).reshape(-1, part.shape[-1]) for part in (z, h))
        y: Tensor = self.net(before, read)
        if tuple(y.shape[1:]) != tuple(self.guide.param_shape()):
            raise ValueError(
                f"the network of guides.Structured returned shape {list(y.shape)} for {len(before)} states; "
                f"it must be {[len(before), *self.guide.param_shape()]}, the out_shape of its factory's call"
            )
        raw = y.reshape(*leading, *self.guide.param_shape()).to(z.dtype)
        return cast(Distribution, self.guide(raw))

    def arguments(self) -> dict[str, Any]:
        return {"guide": self.guide, "net": self.factory, "features": self.features}

    def describe(self, raw: str) -> dict[str, str]:
        told = self.guide.describe("g(z_{t-1}, h_t)")
        inner = ", ".join(f"{name} = {value}" for name, value in told.items())
        return {"z_t given z_{t-1}": f"{self.guide.name}({inner})"}
