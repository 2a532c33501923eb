"""Latents that are one of a few values: switches of some levels each, and how probable these are."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae.constraints import scalar_support, support
from pyro_vae.distributions.discrete import OneHots, one_of

UNOBSERVED = "_unobserved"
"""How the latent of a label that is not known is called, after the label."""
MOST_STATES = 4096
"""Joint values of a datum's latents that are summed over, at most."""


@dataclass(frozen=True)
class Switches:
    """What the values of a discrete site are made of: ``number`` switches, of ``levels`` levels each.

    Attributes:
        site: of the latents.
        shape: of one value.
        kind: bits 0 and 1; numbers of which one is 1; or whole numbers from ``low`` on.
    """

    site: str
    shape: tuple[int, ...]
    kind: Literal["bits", "one-hot", "integers"]
    number: int
    levels: int
    low: int = 0

    @property
    def names(self) -> list[str]:
        """Of each switch, such as z[3]; or z alone."""
        own = self.site.removesuffix(UNOBSERVED)
        return [own] if self.number == 1 else [f"{own}[{m}]" for m in range(self.number)]

    def values(self, states: Tensor) -> Tensor:
        """Values ``[..., *shape]`` of levels ``[..., number]``."""
        if self.kind == "one-hot":
            states = one_of(states, self.levels)
        return (states + self.low).reshape(*states.shape[: -1 - (self.kind == "one-hot")], *self.shape)

    def states(self, values: Tensor) -> Tensor:
        """The levels of values: ``[..., number]``."""
        flat = values.reshape(*values.shape[: values.dim() - len(self.shape)], -1)
        if self.kind == "one-hot":
            return flat.unflatten(-1, (self.number, self.levels)).argmax(-1)
        return flat.round().long() - self.low

    def probabilities(self, fn: Any, draws: Tensor) -> Tensor:
        """Of each level, ``[number, levels]``, averaged over a distribution's batch.

        Args:
            fn: which says them, if it does.
            draws: of it, ``[..., *shape]``, that are counted if it does not.
        """
        with contextlib.suppress(NotImplementedError, AttributeError):
            if self.kind == "integers":
                while hasattr(fn, "base_dist"):
                    fn = fn.base_dist
                return fn.probs.reshape(-1, self.number, self.levels).double().mean(0)
            mean = fn.mean.reshape(-1, *self.shape).double().mean(0)
            if self.kind == "one-hot":
                return mean.reshape(self.number, self.levels)
            return torch.stack([1 - mean.reshape(-1), mean.reshape(-1)], -1)
        return one_of(self.states(draws).reshape(-1, self.number), self.levels).double().mean(0)


def switches(site: str, node: Any) -> Switches | None:
    """Those of a latent site, by its node in a trace of one datum; None if it is made of none."""
    fn = node["fn"]
    shape, number = tuple(fn.event_shape), math.prod(fn.event_shape)
    if node["value"].numel() != number:  # several in a plate of their own
        return None
    found = scalar_support(support(fn))
    if isinstance(found, type(constraints.boolean)):
        return Switches(site, shape, "bits", number, 2)
    if isinstance(found, OneHots | type(constraints.one_hot)):
        levels = getattr(found, "num_classes", number)
        return Switches(site, shape, "one-hot", number // levels, levels)
    if isinstance(found, constraints.integer_interval):
        with contextlib.suppress(TypeError, ValueError, RuntimeError):  # of bounds that differ
            low, high = int(found.lower_bound), int(found.upper_bound)
            return Switches(site, shape, "integers", number, high - low + 1, low)
    return None


def joint(of: Sequence[Switches]) -> Tensor | None:
    """All joint levels of some sites, ``[G, switches]``, the last one fastest; None if there are too many."""
    each = [own.levels for own in of for _ in range(own.number)]
    if math.prod(each) > MOST_STATES:
        return None
    return torch.cartesian_prod(*map(torch.arange, each)).reshape(-1, len(each))
