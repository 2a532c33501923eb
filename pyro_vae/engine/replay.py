"""Steps on a GPU that wait for nothing: recorded as a CUDA graph, and looked at later."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pyro_vae.engine import private
from pyro_vae.engine.trace import Compiled

Result = tuple[Tensor, Tensor, Tensor, dict[nn.Parameter, Tensor | None]]
"""Of a step: the loss, the norm of the gradient, further terms, and the gradients, clipped; None of a
parameter that an optimizer meets without."""
T = TypeVar("T")

ALIGNED = 16
"""Bytes of which addresses are multiples, or compiled code first copies what is there."""


class Replay:
    """Steps on a GPU, updates included, recorded as one CUDA graph: replaying them is a single launch.

    It draws from the generator what as many single steps draw.

    Args:
        step: of one step's inputs and of whether one before failed, takes it, and gives its result and
            whether it or one before failed.
        inputs: of all steps, ``[U, ...]`` each.
        number: of steps, U.
        failed: whether a step before failed; written.
        compiled: what is run in a step.
        parameters: that are trained.
        optim: whose learning rates may be others in each step.
    """

    def __init__(
        self,
        step: Callable[[list[Tensor], Tensor], tuple[Result, Tensor]],
        inputs: Sequence[Tensor],
        number: int,
        failed: Tensor,
        compiled: Compiled,
        parameters: Sequence[nn.Parameter],
        optim: torch.optim.Optimizer,
    ):
        self.compiled, self.parameters = compiled, parameters
        self.inputs = [_aligned(given) for given in inputs]
        self.rates = [group["lr"].detach().expand(number).clone() for group in optim.param_groups]

        def take(some: int) -> list[Tensor]:
            kept, after, found = [group["lr"] for group in optim.param_groups], failed, []
            try:
                for i in range(some):
                    for group, rates in zip(optim.param_groups, self.rates, strict=True):
                        group["lr"] = rates[i]
                    (*result, _), after = step([given[i] for given in self.inputs], after)
                    found.append((*result, after))
            finally:
                for group, rate in zip(optim.param_groups, kept, strict=True):
                    group["lr"] = rate
            failed.copy_(after)
            return [torch.stack(each) for each in zip(*found, strict=True)]

        with torch.no_grad():
            self.replay, self.results = _capture(take, number, compiled.rollback, failed.device)
        self.state = self._look(optim)

    def outdated(self, optim: torch.optim.Optimizer) -> bool:
        """Whether what was recorded by its address or its value is elsewhere or another one now."""
        return self._look(optim) != self.state

    def _look(self, optim: torch.optim.Optimizer) -> list[Any]:
        tensors = [*self.compiled.closed_over, *self.parameters]
        state: list[Any] = [id(optim)]
        for entry in optim.state.values():
            tensors += [value for value in entry.values() if isinstance(value, Tensor)]
        for group in optim.param_groups:
            state += [v for k, v in group.items() if k != "params" and not isinstance(v, Tensor)]
        return state + [tensor.data_ptr() for tensor in tensors]

    @torch.no_grad()
    def __call__(
        self, inputs: Sequence[Tensor], optim: torch.optim.Optimizer, lr: Sequence[float] | None = None
    ) -> list[Tensor]:
        """Takes the steps, with these learning rates, or the optimizer's.

        Returns:
            losses, norms and terms of them all, ``[U, ...]``, and whether each or one before it failed.
        """
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        told = None if lr is None else torch.tensor(lr, pin_memory=self.rates[0].is_cuda)
        for rates, group in zip(self.rates, optim.param_groups, strict=True):
            rates.copy_(group["lr"] if told is None else told, non_blocking=True)
            if told is not None:
                group["lr"].copy_(rates[-1])
        self.replay()
        return [result.clone() for result in self.results]


def _aligned(given: Tensor) -> Tensor:
    """A copy, whose entries along the leading dimension are laid out as they were, at such addresses."""
    shape, strides = given.shape[1:], given.stride()[1:]
    room = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    unit = max(1, ALIGNED // given.element_size())
    room = unit * math.ceil(max(1, room) / unit)
    memory = given.new_empty(len(given) * room)
    return memory.as_strided(given.shape, (room, *strides)).copy_(given.detach())


def _capture(
    function: Callable[[int], T],
    number: int,
    rollback: Callable[[], AbstractContextManager[None]],
    device: torch.device,
) -> tuple[Callable[[], None], T]:
    """Records what so many steps launch; returns what launches it again, and where its results will be."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), rollback():
            for _ in range(3):  # what is made at the first call, libraries' workspaces say, is not recorded
                function(1)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):  # which launches nothing
            result = function(number)
    return graph.replay, result


def waits(optim: Any, tensor: Tensor) -> bool:
    """Whether each step waits for its loss: always on a CPU, where it costs nothing; else if it must."""
    if not tensor.is_cuda or not isinstance(optim, torch.optim.Optimizer):
        return True
    return not all(group.get("fused") and group.get("capturable") for group in optim.param_groups)


def records(optim: Any, compiled: Compiled) -> bool:
    """Whether a step can be one CUDA graph: all is on the GPU, the learning rate too; no Python hooks."""
    if compiled.devices != {"cuda"} or waits(optim, compiled.closed_over[0]) or private.has_hooks(optim):
        return False
    return all(isinstance(group["lr"], Tensor) for group in optim.param_groups)
