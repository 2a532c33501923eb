"""Steps on a GPU that wait for nothing: recorded as a CUDA graph, and looked at later."""

from __future__ import annotations

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


class Replay:
    """A step on a GPU, update included, recorded as one CUDA graph: replaying it is a single launch."""

    def __init__(
        self,
        step: Callable[[Sequence[Tensor]], Result],
        inputs: Sequence[Tensor],
        compiled: Compiled,
        optim: torch.optim.Optimizer,
    ):
        self.inputs = [tensor.detach().clone() for tensor in inputs]
        self.compiled = compiled
        with torch.no_grad():
            device = inputs[0].device
            self.replay, self.result = _capture(lambda: step(self.inputs), compiled.rollback, device)
        self.state = self._look(optim)

    def outdated(self, optim: torch.optim.Optimizer) -> bool:
        """Whether what was recorded by its address or its value is elsewhere or another one now."""
        return self._look(optim) != self.state

    def _look(self, optim: torch.optim.Optimizer) -> list[Any]:
        tensors = [*self.compiled.closed_over, *self.result[3]]
        state: list[Any] = [id(optim)]
        for entry in optim.state.values():
            tensors += [value for value in entry.values() if isinstance(value, Tensor)]
        for group in optim.param_groups:
            tensors += [value for value in group.values() if isinstance(value, Tensor)]
            state += [v for k, v in group.items() if k != "params" and not isinstance(v, Tensor)]
        return state + [tensor.data_ptr() for tensor in tensors]

    @torch.no_grad()
    def __call__(self, inputs: Sequence[Tensor]) -> Result:
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.replay()
        loss, norm, terms, gradients = self.result
        return loss.clone(), norm, terms.clone(), gradients


def _capture(
    function: Callable[[], T], rollback: Callable[[], AbstractContextManager[None]], device: torch.device
) -> tuple[Callable[[], None], T]:
    """Records what the function launches; returns what launches it again, and where its results will be."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), rollback():
            for _ in range(3):  # what is made at the first call, libraries' workspaces say, is not recorded
                function()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):  # which launches nothing
            result = function()
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
