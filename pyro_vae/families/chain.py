"""Families of sequences ``(T, *shape)``: chains of states, and what is seen of each."""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae import distributions
from pyro_vae.families.base import Family, Shape, scale
from pyro_vae.families.named import Normal
from pyro_vae.nets import Net


class Chain(Family):
    r"""A Markov chain of states: :math:`p(z_{1:T}) = p(z_1) \prod_{t=2}^T \mathcal N(z_t; f(z_{t-1}))`.

    Args:
        initial: the family of p(z_1), with parameters of its own.
        transition: factory of the network f from a state to the parameters of the next one's Normal, elements
            independent.
    """

    note = "g is what the transition emits"

    def __init__(self, initial: Family, transition: Net):
        super().__init__()
        self.initial, self.transition = initial, transition
        self.invertible = initial.invertible

    def setup(self, event_shape: Shape) -> None:
        super().setup(event_shape)
        self.initial.setup(event_shape[1:])
        self.next = Normal()
        self.next.setup(event_shape[1:])
        self.net = self.transition(event_shape[1:], self.next.param_shape())

    def param_shape(self) -> Shape:
        return self.initial.param_shape()

    def forward(self, raw: Tensor) -> Distribution:
        return distributions.Chain(self.initial(raw), self.step, self.event_shape[0])

    def step(self, z: Tensor) -> Distribution:
        """p(z_t | z_{t-1}), batch shape ``[...]``, for states z_{t-1} ``[..., *shape]``."""
        leading = z.shape[: z.dim() - len(self.event_shape) + 1]
        y: Tensor = self.net(z.reshape(-1, *self.event_shape[1:]))
        if tuple(y.shape[1:]) != self.next.param_shape():
            raise ValueError(
                f"the transition returned shape {list(y.shape)} for {leading.numel()} states; it must be "
                f"{[leading.numel(), *self.next.param_shape()]}, the out_shape of its factory's call"
            )
        return cast(Distribution, self.next(y.reshape(*leading, *self.next.param_shape()).to(z.dtype)))

    def describe(self, raw: str) -> dict[str, str]:
        first, then = self.initial.describe(raw), self.next.describe("g(z_{t-1})")
        told = ((self.initial, first), (self.next, then))
        one, next_one = (f"{p.name}({', '.join(f'{k} = {v}' for k, v in d.items())})" for p, d in told)
        return {"z_1": one, "z_t given z_{t-1}": next_one}


class Markov(Family):
    r"""Normals along a sequence, each linear in the vector before.

    .. math:: q(z_{1:T}) = \prod_{t=1}^T \mathcal N\bigl(z_t;\, W_t z_{t-1} + \mu_t,\,
        \mathrm{diag}(\sigma_t^2)\bigr), \qquad W_t = \tanh(r_1 / \sqrt L), \quad \mu_t = r_2, \quad
        \sigma_t = \mathrm{softplus}(r_3)

    The posterior of a state space model is a chain, too, and such a one where it is linear and Normal, but
    for correlations within a step. A model bends to its guide: where states turn into each other and W is
    diagonal, it learns too little of their turning. Draws and densities take all steps at once.

    Args:
        weight: ``"full"``, W is any matrix, of which a step takes :math:`L^2` numbers and :math:`O(L^3)`
            time; ``"diagonal"``, for many states, each of which then goes on from its own value alone.

    Raises:
        ValueError: the weight is neither.

    Reference: Archer, Park, Buesing, Cunningham and Paninski, 2015, "Black box variational inference for
    state space models".
    """

    def __init__(self, weight: Literal["full", "diagonal"] = "full"):
        super().__init__()
        if weight not in ("full", "diagonal"):
            raise ValueError(f'weight={weight!r} is neither "full" nor "diagonal"')
        self.weight = weight

    @property
    def note(self) -> str:  # type: ignore[override]
        by_element = "" if self.weight == "full" else ", element by element"
        return f"z_t is Normal(weight z_{{t-1}} + loc, scale){by_element}, with z_0 = 0"

    def param_shape(self) -> Shape:
        if self.weight == "diagonal":
            return (3 * self.event_shape[0], *self.event_shape[1:])
        return (self.event_shape[0], self.size * (self.size + 2))

    @property
    def size(self) -> int:
        """L, the number of elements of a step."""
        return math.prod(self.event_shape[1:])

    def forward(self, raw: Tensor) -> Distribution:
        if self.weight == "diagonal":
            weight, loc, raw_scale = raw.chunk(3, -len(self.event_shape))
            return distributions.MarkovNormal(weight.tanh(), loc, scale(raw_scale), len(self.event_shape))
        size = self.size
        weight, loc, raw_scale = raw.split([size * size, size, size], -1)
        weight = (weight / size**0.5).tanh().unflatten(-1, (size, size))
        q = distributions.TurningNormal(weight, loc, scale(raw_scale))
        return q if q.event_shape == self.event_shape else distributions.Reshaped(q, self.event_shape)

    def describe(self, raw: str) -> dict[str, str]:
        one, two, three = (raw.replace("(", f"_{i}(", 1) for i in (1, 2, 3))
        whole = self.weight == "full" and self.size > 1
        weight = f"tanh({one} / {self.size**0.5:.3g}), {self.size} x {self.size}" if whole else f"tanh({one})"
        return {"weight": weight, "loc": two, "scale": f"softplus({three})"}


class Steps(Family):
    r"""A family at each step of a sequence, the same at all: :math:`p(v) = \prod_t p(v_t; r_t)`.

    Args:
        family: of one step.
    """

    def __init__(self, family: Family):
        super().__init__()
        self.family = family
        for name in ("measure", "mends", "support", "reparameterised", "invertible", "note"):
            setattr(self, name, getattr(family, name))

    def setup(self, event_shape: Shape) -> None:
        super().setup(event_shape)
        self.family.setup(event_shape[1:])

    def param_shape(self) -> Shape:
        return (self.event_shape[0], *self.family.param_shape())

    def forward(self, raw: Tensor) -> Distribution:
        each: Any = self.family(raw)
        return cast(Distribution, each.to_event(1))

    @torch.no_grad()
    def initialize(self, x: Tensor, mean: Tensor, std: Tensor, *, by_column: bool = False) -> None:
        steps = x.flatten(0, 1)
        steps = steps[~steps.flatten(1).isnan().all(1)]
        mean = steps.nanmean(0).nan_to_num()
        std = (steps - mean).square().nanmean(0).nan_to_num().sqrt()
        self.family.initialize(steps, mean, std, by_column=self.family.by_column)

    @property
    def name(self) -> str:
        return self.family.name

    def describe(self, raw: str) -> dict[str, str]:
        return self.family.describe(raw.replace("(z)", "(z_t)"))

    def __repr__(self) -> str:
        return repr(self.family)
