"""What a step of SVI minimises: an ELBO of Pyro's, or a function, as Pyro calls each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any, cast

import pyro.infer
import torch
from pyro.infer import ELBO
from torch import Tensor

PLAIN: dict[type[ELBO], Any] = {
    pyro.infer.JitTrace_ELBO: pyro.infer.Trace_ELBO,
    pyro.infer.JitTraceGraph_ELBO: pyro.infer.TraceGraph_ELBO,
    pyro.infer.JitTraceEnum_ELBO: pyro.infer.TraceEnum_ELBO,
    pyro.infer.JitTraceMeanField_ELBO: pyro.infer.TraceMeanField_ELBO,
}
"""Objectives that compile themselves, to what they compute: one of two compilers is enough."""


class Objective:
    """An ELBO or a function, of model, guide and their arguments.

    Args:
        given: of which ``Jit`` kinds are computed as those without.
        gradients: of a function, another one that also adds the gradients to the parameters' ``.grad``.

    Raises:
        ValueError: it is neither.
    """

    def __init__(self, given: ELBO | Callable[..., Any], gradients: Callable[..., Any] | None = None):
        if not isinstance(given, ELBO) and not callable(given):
            raise ValueError(f"loss is a {type(given).__name__}, and must be an ELBO or a function")
        self.given, self.gradients = given, gradients
        self.is_told = not isinstance(given, pyro.infer.TraceTailAdaptive_ELBO)
        """Whether the loss is computed, and not its gradient alone: Pyro then tells that it is infinite."""

    @property
    def loss(self) -> Callable[..., Any]:
        """A function is its own."""
        return self._method("loss")

    @property
    def loss_and_grads(self) -> Callable[..., Any]:
        """The loss, which adds its gradients to the parameters'."""
        if isinstance(self.given, ELBO):
            return self._method("loss_and_grads")
        return self.gradients or functools.partial(_differentiate, self.given)

    @property
    def finite_loss(self) -> Callable[..., Any]:
        """The loss, or one that is finite where it would be."""
        if self.is_told:
            return self.loss
        return functools.partial(cast(Any, pyro.infer.Trace_ELBO).loss, self.given)

    @property
    def state(self) -> tuple[Any, ...]:
        """What a step depends on, to be compared."""
        # What is not hashable is among the roots.
        held = ((name, v if isinstance(v, Hashable) else id(v)) for name, v in self._held())
        return self.given, self.gradients, tuple(held)

    @property
    def roots(self) -> list[Any]:
        """The objects that it starts from, and that are to be watched."""
        return [self.given, self.gradients, *(v for _, v in self._held() if not isinstance(v, Hashable))]

    def losses(self, total: Any) -> list[Tensor]:
        """What it returns, as tensors: ReweightedWakeSleep has two losses, for example."""
        return [torch.as_tensor(loss).detach() for loss in several(total if self.is_told else 0.0)]

    def _method(self, name: str) -> Callable[..., Any]:
        if not isinstance(self.given, ELBO):
            return self.given
        plain = PLAIN.get(type(self.given))
        return functools.partial(getattr(plain, name), self.given) if plain else getattr(self.given, name)

    def _held(self) -> list[tuple[str, Any]]:
        """Its attributes, or those of that which the function is a method of."""
        held = getattr(getattr(self.given, "__self__", self.given), "__dict__", {})
        # The nesting of plates is guessed by the objective itself, at its first use.
        return [(name, value) for name, value in held.items() if name != "max_plate_nesting"]


def several(total: Any) -> tuple[Any, ...]:
    return total if isinstance(total, tuple) else (total,)


def _differentiate(loss: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``loss_and_grads`` of a function, as Pyro has it."""
    value = loss(*args, **kwargs)
    if getattr(value, "requires_grad", False):
        value.backward(retain_graph=True)
    return value
