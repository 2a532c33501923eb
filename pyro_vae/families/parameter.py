"""A parameter of a univariate family: where it comes from, in what unit, and within what limits."""

from __future__ import annotations

import math
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from pyro_vae.constraints import bounds, to_constrained
from pyro_vae.families.base import FLOOR, NeedsNumberError, Shape, refuse_others

Source = float | Literal["network", "shared", "per_element"]
"""Where a parameter comes from: a fixed number; ``"network"``, a value per datum and element;
``"shared"``, one learned value; ``"per_element"``, a learned value for each element."""

Role = Literal["location", "scale", "rate", "other"]
"""What a change of the data's origin and unit does to it; a rate is an inverse scale."""

_NAMED = get_args(get_args(Source)[1])
_EARLIER = {"decoder": "network", "per_pixel": "per_element"}


class Parameter(nn.Module):
    r"""One parameter: a number, or a value made of raw reals r.

    .. math::

        u\,(r + b) \text{ on the reals}, \qquad
        l + u\,(10^{-3} + \mathrm{softplus}(r + b)) \text{ above } l, \qquad
        c(r + b) \text{ under another constraint},

    with a unit u and an offset b that ``start`` takes from values, so that r = 0 means these. The floor keeps
    a density of constant values from rising for ever.

    Args:
        family: what the family is called, for messages.
        name: of the parameter.
        constraint: on its values; None if it must be a number.
        source: where it comes from; None for the network.

    Raises:
        ValueError: the source is none, or the number does not satisfy the constraint.
    """

    unit: Tensor
    offset: Tensor
    number: Tensor

    def __init__(self, family: str, name: str, constraint: Constraint | None, source: Source | None):
        super().__init__()
        self.name, self.constraint = name, cast(Any, constraint)
        given: Any = "network" if source is None and constraint is not None else source
        given = _EARLIER.get(given, given) if isinstance(given, str) else given
        self.source: Source = _check(family, name, given, constraint)
        self.role: Role = "other"
        self.measured = False
        low, high = bounds(constraint) or (None, None) if constraint is not None else (None, None)
        half_line = isinstance(low, int | float) and math.isfinite(low) and high == math.inf
        self.low: float | None = float(cast(float, low)) if half_line else None
        self.is_real = (low, high) == (-math.inf, math.inf)
        if self.fixed:
            self.register_buffer("number", torch.tensor(float(self.source)))

    @property
    def fixed(self) -> bool:
        """Whether it is a number."""
        return not isinstance(self.source, str)

    @property
    def has_unit(self) -> bool:
        """Whether its values have a size of their own: those of logits have not."""
        return self.low is not None or (self.is_real and (self.measured or self.role == "location"))

    def setup(self, event_shape: Shape) -> None:
        """Creates what depends on the shape of a value."""
        if self.fixed:
            self.number = torch.tensor(float(self.source))  # in the dtype of the networks made beside it
            return
        one = self.source == "shared"
        by_element = len(event_shape) == 1 and (not one or self.role in ("scale", "rate"))
        if self.has_unit:
            self.register_buffer("unit", torch.ones(event_shape if by_element else ()))
        self.register_buffer("offset", torch.zeros(() if one else event_shape))
        if self.source != "network":
            self.raw = nn.Parameter(torch.zeros(() if one else event_shape))

    def forward(self, raw: Tensor | None = None) -> Tensor:
        """Its value, from the network's output if it comes from there."""
        if self.fixed:
            return self.number
        return self._constrain((self.raw if raw is None else raw) + self.offset)

    @property
    def value(self) -> Tensor:
        """The value of one that is a number or learned by itself, ``()`` or ``event_shape``."""
        return self().detach()

    @torch.no_grad()
    def start(self, value: Tensor, unit: Tensor | None = None) -> None:
        """Makes raw 0 mean this value, ``()`` or ``event_shape``, in a unit, by default its own size."""
        if self.fixed:
            return
        value = value.to(self.offset)
        if self.low is not None:
            value = value - self.low
            unit = value if unit is None else unit
        if unit is not None and self.has_unit:
            unit = unit.to(self.unit)
            self.unit.copy_(unit if self.unit.dim() else unit.log().mean().exp())
            value = value / self.unit
        if self.low is not None:
            value = (value - FLOOR).clamp(min=9 * FLOOR)
            value = value + (-(-value).expm1()).log()  # the inverse of softplus
        elif not self.is_real:
            value = cast(Tensor, to_constrained(self.constraint).inv(value))
        self.offset.copy_(value if self.offset.dim() else value.mean())

    def describe(self, raw: str) -> str:
        """How it comes from what is called ``raw``, in mathematics; where it is learned, its value."""
        if self.fixed:
            return f"{self.source:g}"
        if self.source != "network":
            low, high = (end.item() for end in self.value.aminmax())
            if low == high:
                return f"{low:.4g} (one learned value)"
            kind = "one learned value, in units of the columns" if self.source == "shared" else "learned"
            return f"{low:.4g} to {high:.4g} ({kind})"
        sizes = self.unit.unique() if self.has_unit else self.offset.new_ones(1)
        unit = f"{sizes[0].item():.3g}" if len(sizes) == 1 else "u"
        factor = "" if unit == "1" else f"{unit} "
        _, number, which = raw.partition("(")[0].partition("_")  # of f_1(z)
        raw = f"{raw} + b{number}{which}"
        if self.low is not None:
            inner = f"{FLOOR:g} + softplus({raw})"
            above = f"{self.low:g} + " if self.low else ""
            return above + (f"{factor}({inner})" if factor else inner)
        if self.is_real:
            return f"{factor}({raw})" if factor else raw
        low, high = bounds(self.constraint) or (-math.inf, math.inf)
        return raw if math.isinf(low) else f"{low:g} + {high - low:g} sigmoid({raw})"

    def trial(self, raw: float) -> Tensor:
        """The value of a raw number before any start, or the number that it is."""
        return self.number if self.fixed else cast(Tensor, to_constrained(self.constraint)(torch.tensor(raw)))

    def _constrain(self, raw: Tensor) -> Tensor:
        if self.low is not None:
            value = self.unit * (FLOOR + nn.functional.softplus(raw))
            return value + self.low if self.low else value
        if self.is_real:
            return self.unit * raw if self.has_unit else raw
        return cast(Tensor, to_constrained(self.constraint)(raw))

    def _load_from_state_dict(self, state: Any, prefix: str, *args: Any) -> None:
        if self.fixed:
            refuse_others(self, ["number"], prefix, state, args[-1])
        super()._load_from_state_dict(state, prefix, *args)


def _check(family: str, name: str, source: Any, constraint: Any) -> Source:
    is_number = isinstance(source, float | int) and not isinstance(source, bool)
    if constraint is None and not is_number:
        raise NeedsNumberError(
            f"{family} needs a number for {name}, which cannot be learned"
            f"{'' if source is None else f', not {source!r}'}: {family}({name}=...), "
            f"--likelihood {family} --likelihood.{name} ...",
            name,
        )
    if not (source in _NAMED if isinstance(source, str) else is_number):
        raise ValueError(f"{family}({name}={source!r}): give a number, or one of {', '.join(_NAMED)}")
    fine = not is_number or constraint is None or constraint.check(torch.tensor(float(source)))
    if not fine or (is_number and not math.isfinite(source)):
        raise ValueError(
            f"{family}({name}={source!r}) does not satisfy {constraint}; give another, finite number"
        )
    return cast(Source, source)
