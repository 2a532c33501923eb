"""What every family states: how raw reals become a distribution, whatever its role."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_vae.constraints import domain, is_bounded, to_constrained

Shape = tuple[int, ...]

COUNTING = "counting measure"
LEBESGUE = "Lebesgue measure on the data's scale"

FLOOR = 1e-3
"""Smallest scale in its unit: without one, a density of constant values would rise for ever."""


class NeedsNumberError(ValueError):
    """A family whose ``parameter`` must be given as a number."""

    def __init__(self, message: str, parameter: str):
        super().__init__(message)
        self.parameter = parameter


class Family(nn.Module, ABC):
    r"""How raw reals become a distribution over values of some shape: :math:`p(v) = \mathrm{family}(r)`.

    A likelihood is a family fed by the decoder, a guide one fed by the encoder, a learned prior one fed by
    parameters of its own. A new one states ``param_shape`` and ``forward``; attributes of the names of its
    constructor's arguments make its ``repr``, from which a configuration makes it again.

    Attributes:
        event_shape: shape of one value, known after ``setup``.
        measure: what its densities are densities of; only like measures may be compared.
        mends: what to do when data lie where it has no density, in one line.
        support: where its values lie.
        reparameterised: whether its draws carry gradients, as those of a guide must.
        invertible: whether it has a density at points that it did not draw itself.
        scores: whether, as a guide, its gradients are those of the score function.
        enumerates: whether, as a guide, it has its values enumerated.
        certain: whether, as a guide, it weighs but one value, so that its draws tell no more than the ELBO.
        note: what else there is to tell of it.
        alarm: what a run ends with as a warning; else empty.
    """

    event_shape: Shape
    measure: str = LEBESGUE
    mends: str = "remove values that are not finite"
    support: constraints.Constraint = constraints.real
    reparameterised: bool = True
    invertible: bool = True
    enumerates: bool = False
    scores: bool = False
    certain: bool = False
    note: str = ""
    alarm: str = ""

    def setup(self, event_shape: Shape) -> None:
        """Creates what depends on the shape of a value; called once, on a conditional's own copy."""
        self.event_shape = tuple(event_shape)

    @abstractmethod
    def param_shape(self) -> Shape:
        """Shape of the raw reals that are needed for one value."""

    @abstractmethod
    def forward(self, raw: Tensor) -> Distribution:
        """For raw ``[..., *param_shape()]``: batch shape ``[...]``, event shape ``event_shape``."""

    def initialize(self, x: Tensor, mean: Tensor, std: Tensor, *, by_column: bool = False) -> None:
        """Starts at the statistics of values; what is not observed is NaN.

        Args:
            x: some values, ``[n, *event_shape]``.
            mean: of each element over all values, ``event_shape``.
            std: standard deviation likewise.
            by_column: whether elements are columns, each in a unit of its own; else all share one.
        """

    @property
    def name(self) -> str:
        """What the family is called."""
        return type(self).__name__

    @property
    def binary(self) -> bool:
        """Whether its values are 0 and 1."""
        return domain(self.support) == "{0, 1}"

    @property
    def on_reals(self) -> bool:
        """Whether its values are all real numbers."""
        return domain(self.support) == "the reals"

    @property
    def by_column(self) -> bool:
        """Whether the elements of its values may be columns in units of their own: vectors without bounds."""
        return len(self.event_shape) == 1 and not is_bounded(self.support)

    def usage(self) -> dict[str, float]:
        """What each epoch's row of a run's history has of it, by name."""
        return {}

    def describe(self, raw: str) -> dict[str, str]:
        """Its parameters by name: how each comes from what is called ``raw``, such as ``"f(z)"``."""
        return {}

    def arguments(self) -> dict[str, Any]:
        """What it was made with."""
        return {
            name: getattr(self, name)
            for name in inspect.signature(type(self)).parameters
            if hasattr(self, name)
        }

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.arguments().items())})"


def scale(raw: Tensor) -> Tensor:
    """softplus, not quite to 0, where an outlying datum would take it."""
    value: Tensor = to_constrained(constraints.positive)(raw)
    return value.clamp(min=1e-5)


def units(std: Tensor, by_column: bool) -> Tensor:
    """The unit of each element, of the shape of ``std``: its own, or that of all.

    A column that does not vary has no unit of its own.
    """
    pooled = std.square().mean().sqrt().clamp(min=1e-6)
    return torch.where(std > 0, std, pooled) if by_column else pooled.expand_as(std)


def refuse_others(module: nn.Module, names: list[str], prefix: str, state: Any, errors: list[str]) -> None:
    """Notes, when weights are loaded, that they were of a module of which these buffers had other values."""
    for name in names:
        own, other = getattr(module, name), state.get(prefix + name)
        # Probabilities and logits are made to add up anew each time, which rounds.
        near = 8 * torch.finfo(own.dtype).eps if own.is_floating_point() else 0.0
        if other is not None and (
            own.shape != other.shape or not torch.allclose(own, other.to(own), near, near, equal_nan=True)
        ):
            errors.append(f"{prefix}{name} is {own.tolist()} here, and {other.tolist()} in the weights")


def summary(parts: Mapping[str, Any], names: Iterable[str]) -> str:
    """A list of parts, each with what it is, as the docstring of what offers them has it."""
    first = ((name, (inspect.getdoc(parts[name]) or "").partition("\n")[0]) for name in names)
    return "\n".join(f"- ``{name}``: {line}" for name, line in first)
