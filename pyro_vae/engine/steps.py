"""The compiled steps of stochastic variational inference: found, made, and held against the eager ones."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pyro_vae.engine import private, replay
from pyro_vae.engine.describe import describe
from pyro_vae.engine.guards import NoValues
from pyro_vae.engine.replay import Replay, Result
from pyro_vae.engine.trace import CompilationError, Compiled, Recording, rollback

MAX_STEPS = 16
"""Different shapes, modes and so on for which a step is compiled, before it is given up."""

MAX_ONCE = 4
"""Steps in a row that are compiled for arguments of one shape, and used but once, before it is given up."""


class Inference(Protocol):
    """What steps are of, as ``pyro_vae.svi.SVI`` has it."""

    optim: Any
    log: Callable[[str], None]
    num_compilations: int

    @property
    def parameters(self) -> list[nn.Parameter]: ...
    @property
    def tolerance(self) -> float: ...
    @property
    def roots(self) -> list[Any]: ...


@dataclass
class Step:
    """A compiled step, for arguments of one shape."""

    compiled: Compiled
    trained: list[nn.Parameter]
    met: list[nn.Parameter]  # by the optimizer, though without a gradient
    parameters: list[tuple[Any, ...]]
    shapes: list[Any]
    kept: list[Any]  # which are told by their identity, that nothing else may take
    uses: int = 0
    recordable: bool = True
    replays: dict[int, Replay] = field(default_factory=dict)
    """Of so many steps."""

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Result, Tensor]:
        """Loss and gradients, before the optimizer's turn, and 1 where they are not finite, else 0."""
        for parameter in self.trained:  # whose memory the new gradients then take
            parameter.grad = None
        loss, norm, terms, failed, *gradients = self.compiled(*inputs)
        addresses = set()
        for i, (parameter, gradient) in enumerate(zip(self.trained, gradients, strict=True)):
            # Optimizers expect what autograd gives them: memory of its own, laid out as the parameter's.
            if gradient.stride() != parameter.stride() or gradient.data_ptr() in addresses:
                gradients[i] = torch.empty_like(parameter, requires_grad=False).copy_(gradient)
            addresses.add(gradient.data_ptr())
        found = dict.fromkeys(self.met) | dict(zip(self.trained, gradients, strict=True))
        return (loss, norm, terms, found), failed


class Steps:
    """The compiled steps of one SVI, for each shape of its arguments, mode of its modules and so on.

    Args:
        svi: whose steps they are.
        evaluate: of args and kwargs, what a step computes before the optimizer's turn; with ``recording``,
            a ``Recording`` given parameters and a factor, and ``within``, a context to run programs in.
        update: the optimizer's turn, given what ``evaluate`` returns.
        settings: gives what a step depends on besides its arguments and parameters.
        joined: of what ``evaluate`` returns, the same of all processes that take the steps together.
    """

    def __init__(
        self,
        svi: Inference,
        evaluate: Callable[..., Result],
        update: Callable[[Result], None],
        settings: Callable[[], tuple[Any, ...]],
        joined: Callable[[Result], Result] | None = None,
    ):
        self.svi, self.evaluate, self.update, self.settings = svi, evaluate, update, settings
        self.joined = joined
        self.failed: Tensor | None = None
        """On a GPU: 1 where a step failed, since when none is taken, else 0."""
        self._steps: dict[Any, list[Step]] = {}
        self._made: list[Step] = []  # the same, in the order in which they were

    @property
    def kind(self) -> str:
        """How they are taken."""
        if self.replays:
            return "CUDA graph"
        return "compiled" if self._made else "eager"

    @property
    def replays(self) -> bool:
        """Whether steps are replayed."""
        return any(step.replays for step in self._made)

    def find(self, args: Any, kwargs: Any) -> Callable[[], tuple[Result, Tensor | None]]:
        """The compiled step for these arguments, not yet taken.

        Returns:
            a function to the result, and to whether it or an earlier step failed. Where that is None, the
            loss is to be looked at now, and the update to be made; else it is made unless it failed.

        Raises:
            CompilationError: it cannot be compiled, or differs from the eager step.
        """
        leaves, spec = private.tree_flatten((args, kwargs))
        inputs = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        watched: list[Any] = []
        steps = self._of_kind(leaves, spec, watched)
        step = next((s for s in self._fitting(steps) if s.compiled.guards.hold(inputs)), None)
        if step is None:
            once = [s for s in self._made if s.shapes == _shapes(inputs)][-MAX_ONCE:]
            if len(once) == MAX_ONCE and all(s.uses == 1 for s in once):
                raise CompilationError(
                    f"it was compiled {MAX_ONCE} times for one step each, since attributes, or values that "
                    "it reads from its arguments, change; pass what changes as tensors"
                )
            if self.svi.num_compilations == MAX_STEPS:
                raise CompilationError(
                    f"it was compiled {MAX_STEPS} times already, for other arguments, parameters or "
                    "attributes; pass what changes as tensors of the same shape"
                )
            step = self._compile(leaves, spec, inputs, watched)
            steps.append(step)
            self._made.append(step)
        step.uses += 1
        if math.log10(step.uses).is_integer():
            try:
                self._check(step, leaves, spec, inputs)
            except Exception as error:
                raise CompilationError(f"at its use {step.uses}: {error}") from error
        self._record(step, [given[None] for given in inputs], 1)
        return lambda: self._take(step, inputs)

    def find_several(
        self, args: Any, kwargs: Any, number: int
    ) -> Callable[[Sequence[float] | None], list[Tensor]] | None:
        """So many steps as one launch, if single ones are replayed, and none of these is to be checked.

        Args:
            args, kwargs: in which each tensor is those of all steps, ``[U, ...]``.
            number: of steps, U.

        Returns:
            a function of their learning rates, as a ``Replay`` is one.
        """
        leaves, spec = private.tree_flatten((args, kwargs))
        given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        first = [leaf[0] if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        fitting = self._fitting(self._of_kind(first, spec, []))
        step = next((s for s in fitting if s.replays and not s.compiled.guards.reads), None)
        if step is None or len(str(step.uses)) < len(str(step.uses + number)):
            return None
        self._record(step, given, number)
        if number not in step.replays:
            return None
        step.uses += number
        return lambda lr: step.replays[number](given, self.svi.optim, lr)

    def _of_kind(self, leaves: list[Any], spec: Any, watched: list[Any]) -> list[Step]:
        """Those for such arguments, settings and surroundings."""
        kinds = ("cpu", "cuda")
        autocast = tuple((torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds)
        surroundings = autocast, torch.get_default_dtype()
        key = spec, tuple(describe(leaf, watched) for leaf in leaves), self.settings(), surroundings
        return self._steps.setdefault(key, [])

    def _fitting(self, steps: list[Step]) -> Iterator[Step]:
        """Those for parameters and modules as they are now."""
        parameters = self._describe_parameters()
        return (s for s in steps if s.parameters == parameters and not s.compiled.watch.changed())

    def _take(self, step: Step, inputs: Sequence[Tensor]) -> tuple[Result, Tensor | None]:
        if 1 in step.replays:
            given = [tensor[None] for tensor in inputs]
            loss, norm, terms, failed = (each[0] for each in step.replays[1](given, self.svi.optim))
            return (loss, norm, terms, {}), failed
        if replay.waits(self.svi.optim, step.compiled.closed_over[0]):
            return step(inputs)[0], None
        failed = self._failed_on(step.compiled.closed_over[0].device)
        result, now = self._advance(step, inputs, failed)
        failed.copy_(now)
        return result, now

    def _advance(self, step: Step, inputs: Sequence[Tensor], before: Tensor) -> tuple[Result, Tensor]:
        """Takes it unless this or an earlier step fails, which is decided on the device, and told."""
        result, failed = step(inputs)
        if self.joined is not None:
            result = self.joined(result)
            failed = _failed(*result[:2])
        failed = torch.maximum(before, failed)
        with private.skipped(self.svi.optim, failed):
            self.update(result)
        return result, failed

    def _failed_on(self, device: torch.device) -> Tensor:
        if self.failed is None:
            self.failed = torch.zeros((), device=device)
        return self.failed

    def _record(self, step: Step, inputs: list[Tensor], number: int) -> None:
        """Records so many steps, unless they are, or cannot be."""
        optim, compiled = self.svi.optim, step.compiled
        if self.joined is not None:  # what other processes launch, and when, is no part of the graph
            return
        if any(each.outdated(optim) for each in step.replays.values()):
            step.replays.clear()
        if number in step.replays or not (step.recordable and replay.records(optim, compiled)):
            return
        take = functools.partial(self._advance, step)
        failed = self._failed_on(compiled.closed_over[0].device)
        try:
            recorded = Replay(take, inputs, number, failed, compiled, step.trained, optim)
        except RuntimeError as error:  # from the driver; the compiled step does the same without it
            step.recordable = False
            self.svi.log(f"the compiled step is not recorded as a CUDA graph: {error}")
            return
        step.replays[number] = recorded
        if number == 1:
            self.svi.log("recorded the compiled step as a CUDA graph")

    def _compile(self, leaves: list[Any], spec: Any, inputs: list[Tensor], watched: list[Any]) -> Step:
        began = time.monotonic()
        if not isinstance(self.svi.optim, torch.optim.Optimizer):
            with rollback(), private.unchanged_store():  # for Pyro's to meet its parameters
                args, kwargs = private.tree_unflatten(leaves, spec)
                self.evaluate(args, kwargs)
        trained: list[nn.Parameter] = []
        met: list[nn.Parameter] = []

        def function(*tensors: Tensor) -> list[Tensor]:
            given = iter(tensors)
            mixed = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            args, kwargs = private.tree_unflatten(mixed, spec)
            loss, norm, terms, gradients = self.evaluate(args, kwargs, recording=Recording, within=NoValues)
            trained[:] = [parameter for parameter, value in gradients.items() if value is not None]
            met[:] = gradients
            return [loss, norm, terms, _failed(loss, norm), *_present(gradients.values())]

        self.svi.num_compilations += 1
        roots = [*self.svi.roots, *watched]
        compiled = Compiled(function, inputs, roots, besides=[self.svi], guarded=True)
        seconds = time.monotonic() - began
        shapes = ", ".join(str(list(tensor.shape)) for tensor in inputs)
        self.svi.log(f"compiled the step for arguments of shape {shapes} in {seconds:.1f} s")
        return Step(compiled, trained, met, self._describe_parameters(), _shapes(inputs), watched)

    def _check(self, step: Step, leaves: list[Any], spec: Any, inputs: list[Tensor]) -> None:
        """Refuses a compiled step that differs from the eager one."""

        def eager(*_: Tensor) -> list[Tensor]:
            args, kwargs = private.tree_unflatten(leaves, spec)
            loss, norm, terms, gradients = self.evaluate(args, kwargs)
            for parameter in self.svi.parameters:
                parameter.grad = None
            if {p for p, gradient in gradients.items() if gradient is not None} != set(step.trained):
                raise CompilationError("other parameters have gradients than in the eager step")
            values = _present(gradients[parameter] for parameter in step.trained)
            return [loss, norm, terms, _failed(loss, norm), *values]

        step.compiled.check(eager, inputs, self.svi.tolerance, lambda expected: 1e-3 * expected[1].item())

    def _describe_parameters(self) -> list[tuple[Any, ...]]:
        return [(id(p), p.requires_grad, p.dtype, p.device) for p in self.svi.parameters]


def _failed(loss: Tensor, norm: Tensor) -> Tensor:
    """1 where they are not finite, else 0: what a fused optimizer skips its step by."""
    return (~torch.isfinite(loss.sum() + norm)).to(torch.float32)


def _present(gradients: Iterable[Tensor | None]) -> list[Tensor]:
    return [gradient for gradient in gradients if gradient is not None]


def _shapes(inputs: Sequence[Tensor]) -> list[Any]:
    return [(tensor.shape, tensor.dtype) for tensor in inputs]
