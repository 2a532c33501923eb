"""A given distribution, with nothing to learn."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import AffineTransform, Distribution, Transform

from pyro_vae import distributions
from pyro_vae.checks import checked
from pyro_vae.constraints import support
from pyro_vae.families.base import LEBESGUE, Family, Shape, refuse_others

_AS_GIVEN = ("_unbroadcasted_low", "_unbroadcasted_high")
"""What Pyro's Uniform keeps as it is given, numbers or tensors."""


class Fixed(Family):
    """A given distribution, with nothing to learn.

    Its tensors are buffers: they follow the module's device and dtype, and weights that were learned under
    another distribution are refused.

    Args:
        distribution: instance with the event shape of a value; or that batch shape and no event shape; or
            neither, and then independent copies are meant.

    Raises:
        ValueError: the shape is none of these, or there is no density.
    """

    @checked
    def __init__(self, distribution: Distribution):
        super().__init__()
        self.distribution = distribution

    def setup(self, event_shape: Shape) -> None:
        super().setup(event_shape)
        given = cast(Any, self.distribution)
        own_shape, batch_shape = tuple(given.event_shape), tuple(given.batch_shape)
        if not own_shape and batch_shape in ((), self.event_shape):
            try:
                fixed = given.expand(event_shape).to_event(len(event_shape))
            except NotImplementedError as error:
                raise ValueError(f"{self.told} is no prior: {error}") from error
        elif own_shape == self.event_shape and not batch_shape:
            fixed = given
        else:
            raise ValueError(
                f"the prior {self.told} has batch shape {batch_shape} and event shape {own_shape}, but "
                f"{'latent_dim=' if len(event_shape) == 1 else 'it '}{event_shape[0]} needs event shape "
                f"{self.event_shape}, or a scalar distribution such as dist.Laplace(0., 1.)"
            )
        try:
            if isinstance(given, dist.Delta):
                raise ValueError("it has no density")
            with torch.random.fork_rng([]):
                fixed.log_prob(fixed.sample())
        except Exception as error:  # whatever a distribution that is no prior raises
            reason = str(error).split("\n")[0]
            raise ValueError(
                f"{self.told} is no prior: {reason}; take dist.Laplace(0., 1.), for example"
            ) from error
        dtype = torch.get_default_dtype()  # that of the networks made beside it
        self.fixed, self._held = _map(fixed, lambda t: t.to(dtype) if t.is_floating_point() else t)
        self.names = []
        for i, tensor in enumerate(self._held):
            self.names.append(f"{self.name}_{i}")
            self.register_buffer(self.names[-1], tensor)
        self.support = support(self.fixed)
        self.measure = "counting measure" if self.support.is_discrete else LEBESGUE

    def param_shape(self) -> Shape:
        return (0,)

    def forward(self, raw: Tensor) -> Distribution:
        return self.fixed

    @property
    def told(self) -> str:
        """The distribution in one line."""
        return " ".join(str(self.distribution).split())

    @property
    def base(self) -> Any:
        """The distribution, of which independent copies are meant."""
        base: Any = self.distribution
        while isinstance(base, torch.distributions.Independent | dist.ExpandedDistribution):
            base = base.base_dist
        return base

    @property
    def name(self) -> str:
        return type(self.base).__name__

    def describe(self, raw: str) -> dict[str, str]:
        base, told = self.base, {}
        if isinstance(base, torch.distributions.TransformedDistribution) and not base.arg_constraints:
            maps = ", ".join(type(transform).__name__ for transform in base.transforms)
            return {"base": repr(base.base_dist), "transforms": maps}
        base = copy.deepcopy(base)  # which keeps the matrices that it is asked for
        for argument in getattr(base, "arg_constraints", {}):
            value = getattr(base, argument)
            number = isinstance(value, Tensor) and value.unique().numel() == 1
            told[argument] = f"{value.flatten()[0].item():g}" if number else f"{argument} as given"
        if {"probs", "logits"} <= told.keys():
            del told["logits"]
        return told

    def __repr__(self) -> str:
        return f"Fixed({self.told})"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Fixed:
        super()._apply(fn, recurse)
        if hasattr(self, "fixed"):
            now = [getattr(self, name) for name in self.names]
            memo = {id(before): after for before, after in zip(self._held, now, strict=True)}
            self.fixed, self._held = copy.deepcopy(self.fixed, memo), now
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Fixed:
        # The buffers first, so that the copied distribution holds the copied buffers.
        copied = nn.Module.__new__(type(self))
        memo[id(self)] = copied
        buffers = copy.deepcopy(self._buffers, memo)
        for name, value in vars(self).items():
            vars(copied)[name] = buffers if name == "_buffers" else copy.deepcopy(value, memo)
        return copied

    def _load_from_state_dict(self, state: Any, prefix: str, *args: Any) -> None:
        refuse_others(self, self.names, prefix, state, args[-1])
        super()._load_from_state_dict(state, prefix, *args)


def _map(distribution: Distribution, fn: Callable[[Tensor], Tensor]) -> tuple[Distribution, list[Tensor]]:
    """The distribution with ``fn`` applied to each tensor that it holds, validation off; and these tensors.

    Draws of a guide over all reals need no check at each step that they are real.
    """
    distribution = copy.deepcopy(distribution)
    memo: dict[int, Any] = {}
    seen: set[int] = set()

    def visit(value: object) -> None:
        if id(value) in seen:  # a transform and its inverse hold each other
            return
        seen.add(id(value))
        if isinstance(value, nn.Module):
            raise ValueError(
                f"the prior holds a network, {type(value).__name__}, whose parameters would not be trained; "
                "take pv.priors.Flow(), or make it a family (pv.families.Family), whose forward returns it"
            )
        if isinstance(value, torch.Tensor):
            memo[id(value)] = fn(value).clone(memory_format=torch.contiguous_format)
        elif isinstance(value, Distribution | Transform):
            if isinstance(value, AffineTransform):  # of a Gumbel(0.0, 1.0), which is read again as tensors
                for name in ("loc", "scale"):
                    if isinstance(getattr(value, name), int | float):
                        setattr(value, name, torch.tensor(float(getattr(value, name))))
            for name in _AS_GIVEN:  # single ones as numbers, which are on every device
                bound = vars(value).get(name)
                if isinstance(bound, Tensor) and bound.numel() == 1:
                    setattr(value, name, bound.item())
            for item in vars(value).values():
                visit(item)
        elif isinstance(value, list | tuple):
            for item in value:
                visit(item)

    visit(distribution)
    tensors = list(memo.values())
    mapped = copy.deepcopy(distribution, memo)
    nested: list[Any] = [mapped]
    for p in nested:
        if isinstance(p, Distribution):
            p._validate_args = False
            if type(p) is dist.GeneralizedPareto:  # type: ignore[attr-defined]
                p.__class__ = distributions.GeneralizedPareto
            nested.extend(vars(p).values())
    return mapped, tensors
