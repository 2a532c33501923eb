"""One function of tensors, traced once through all of Pyro and compiled."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pyro
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from pyro_vae.engine import private, products, regions, selections
from pyro_vae.engine.cpu import OPERATIONS
from pyro_vae.engine.guards import Guards, NoValues
from pyro_vae.engine.selections import Indexing, Selections, spread
from pyro_vae.engine.watch import Watch

UNDIVIDED, MOST_OPERATIONS = 2000, 5000
"""Operations of a record that inductor compiles whole, and that it compiles at all."""

Function = Callable[..., list[Tensor]]


class CompilationError(RuntimeError):
    """The function cannot be compiled, or the compiled one differs from it; the message says why."""


class Compiled:
    """A traced and compiled function of tensors.

    What the function closes over (parameters, buffers, other tensors) is an input of the compiled
    code, so that changes in place are seen; ``watch`` tells of others, after which another one is needed.

    Args:
        function: of tensors, to a list of tensors. Its noise comes from PyTorch's generators, and is
            the same as without compiling, seed for seed.
        inputs: tensors that it is to be called with, or others of the same shapes and dtypes.
        roots: what the function runs, if it is not reached by its closure.
        besides: what is not watched, though it may be reached.
        guarded: whether values of inputs may be read, so that ``guards`` are to hold at each call.

    Raises:
        CompilationError: the function depends on the values of tensors, or there is no compiler.
    """

    def __init__(
        self,
        function: Function,
        inputs: Sequence[Tensor],
        roots: Sequence[Any] = (),
        besides: Sequence[Any] = (),
        guarded: bool = False,
    ):
        self.watch = Watch(roots or [function], besides)
        try:
            with rollback() as changed, _observing() as called:
                selections.avoid([*inputs, *self.watch.tensors()])
                graph, self.guards = _trace(function, inputs, self.watch.tensors() if guarded else None)
        except Exception as error:
            self.watch.restore()
            raise CompilationError(f"it cannot be traced: {_first_line(error)}") from error
        drawn_on = private.drawn_on(graph)
        products.choose(graph)
        self.closed_over = _lift_constants(graph)
        self.devices = {tensor.device.type for tensor in self.closed_over} | drawn_on
        """Where the tensors that it closes over are, and where its random numbers are drawn."""
        self.watch.restrict([*self.closed_over, *self.guards.held.values()])
        if self.watch.changed():
            self.watch.restore()
            raise CompilationError("it changes an attribute, a global or a parameter while it runs")
        self.watch.add(called)
        written = {tensor.untyped_storage().data_ptr() for tensor, _ in changed.values()}
        self._written = [t for t in self.closed_over if t.untyped_storage().data_ptr() in written]
        self._call = _compile(graph, [*self.closed_over, *inputs])

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return list(self._call(*self.closed_over, *inputs))

    def check(
        self,
        eager: Function,
        inputs: Sequence[Tensor],
        tolerance: float,
        floor: Callable[[list[Tensor]], float] = lambda expected: 0.0,
    ) -> None:
        """Holds it against the eager function, and leaves tensors and random generators as they were.

        Args:
            eager: the same function of the inputs, as it is run without compiling.
            inputs: tensors.
            tolerance: largest distance of each result, relative to the norm of the eager one. Where that
                is not finite, it is left to those who look for it.
            floor: of the eager results, the least norm that distances are relative to.

        Raises:
            CompilationError: naming the difference.
        """
        with rollback():
            expected = [tensor.clone() for tensor in eager(*inputs)]
        with self.rollback():
            found = [tensor.clone() for tensor in self(*(given.clone() for given in inputs))]
        least = floor(expected)
        for a, b in zip(expected, found, strict=True):
            distance, size = (a - b).norm().item(), max(a.norm().item(), least)
            if math.isfinite(size) and not distance <= tolerance * size:
                raise CompilationError(
                    f"it differs from the eager one by {distance / size if size else math.inf:.2g} of its "
                    "norm, as if it depends on something that is not a tensor, such as a hidden counter or "
                    "another source of random numbers; pass that as a tensor argument"
                )

    @contextlib.contextmanager
    def rollback(self) -> Iterator[None]:
        """As the function of this name; compiled code writes past the dispatcher, where that one looks."""
        kept = [tensor.clone() for tensor in self._written]
        with rollback():
            yield
        with torch.no_grad():
            for tensor, before in zip(self._written, kept, strict=True):
                tensor.copy_(before)


class Recording(TorchFunctionMode):
    """Keeps what an objective does within the record.

    ``loss.backward()`` takes the gradient of ``loss * factor`` by these parameters, and adds it to
    ``gradients`` (None where a parameter has none), leaving ``.grad`` alone; ``x.item()``, by which
    objectives return a loss, is a tensor. Programs, whose own ``x.item()`` is a number that they go on
    with, are to be run within ``NoValues``.
    """

    scale = staticmethod(private.scale)

    def __init__(self, parameters: Sequence[Tensor], factor: float):
        super().__init__()
        self.parameters, self.factor = parameters, factor
        self.gradients: list[Tensor | None] = [None] * len(parameters)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.backward:
            return self._backward(*args, **(kwargs or {}))
        if func is Tensor.item:
            return args[0].detach()
        return func(*args, **(kwargs or {}))

    def _backward(self, loss: Tensor, *_: Any, **__: Any) -> None:
        if not self.parameters:
            return
        found = torch.autograd.grad(
            loss, self.parameters, torch.full_like(loss, self.factor), retain_graph=True, allow_unused=True
        )
        for i, gradient in enumerate(found):
            if gradient is not None:
                before = self.gradients[i]
                self.gradients[i] = gradient if before is None else before + gradient


class _Undo(private.TorchDispatchMode):
    """Keeps a copy of each tensor about to be changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in private.written(func, args, kwargs or {}):
            if id(tensor) not in self.before:
                self.before[id(tensor)] = tensor, tensor.clone()
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def rollback() -> Iterator[dict[int, tuple[Tensor, Tensor]]]:
    """Afterwards all tensors and PyTorch's random generators are as they were, whatever was run within.

    Gives the tensors that were changed, with what they held before. What is to be kept of the results
    must be cloned within.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    undo = _Undo()
    with torch.random.fork_rng(devices):
        try:
            with undo:
                yield undo.before
        finally:
            with torch.no_grad():
                for tensor, before in reversed(undo.before.values()):
                    if tensor.shape == before.shape:
                        tensor.copy_(before)
                    else:  # transposed in place, as intermediate results are
                        cast(Any, tensor).set_(before)


@contextlib.contextmanager
def _observing() -> Iterator[list[nn.Module]]:
    """Collects the modules that are called."""
    called: list[nn.Module] = []
    hook = register_module_forward_pre_hook(lambda module, _: called.append(module))
    try:
        yield called
    finally:
        hook.remove()


def _trace(
    function: Function, inputs: Sequence[Tensor], closed_over: Sequence[Tensor] | None
) -> tuple[GraphModule, Guards]:
    """The tensor operations of the function, recorded while it runs, and the values that it reads.

    Values may be read of inputs and of what is closed over; of nothing where that is None.
    """
    # Copies of the tensor objects, for one may be given twice, or be closed over as well.
    copies = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in inputs]
    selecting, guards = Selections(), Guards(copies if closed_over is not None else [], closed_over or [])
    function_modes, modes = (NoValues(), Indexing()), (selecting, guards)
    with contextlib.ExitStack() as stack:
        for mode in (*function_modes, *modes, pyro.validation_enabled(False), private.traced_pyro()):
            stack.enter_context(cast(Any, mode))
        graph = private.record(function, OPERATIONS, copies)
    guards.close()
    if selecting.found:
        spread(graph)
        private.propagate(graph, copies)
    return graph, guards


def _lift_constants(graph: GraphModule) -> list[Tensor]:
    """Makes the tensors that the graph closes over its leading inputs, and returns them."""
    graph.graph.eliminate_dead_code()
    first = next(iter(graph.graph.nodes))
    lifted: dict[int, tuple[Tensor, Any]] = {}
    for node in graph.graph.find_nodes(op="get_attr"):
        tensor = getattr(graph, node.target)
        if not isinstance(tensor, Tensor):
            raise CompilationError(f"it uses a {type(tensor).__name__} of its own")
        if id(tensor) not in lifted:
            with graph.graph.inserting_before(first):
                placeholder = graph.graph.placeholder(f"closed_over_{len(lifted)}")
            placeholder.meta["val"] = tensor
            lifted[id(tensor)] = tensor, placeholder
        node.replace_all_uses_with(lifted[id(tensor)][1])
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return [tensor for tensor, _ in lifted.values()]


def _compile(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # "no CUDA runtime is found"
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten.view.default):
        node.target = torch.ops.aten.reshape.default  # inductor may give what it views other strides
    graph.recompile()
    try:
        if len(graph.graph.nodes) > UNDIVIDED:
            return regions.divide(graph, _inductor, MOST_OPERATIONS)
        for node in graph.graph.nodes:
            node.meta.clear()
        return _inductor(graph, inputs)
    except Exception as error:
        raise CompilationError(f"inductor cannot compile it: {_first_line(error)}") from error


def _inductor(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    # Signals wait until the compiler, which inherits the mask, is done: Ctrl-C must not kill it alone.
    waiting = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waiting) if hasattr(signal, "pthread_sigmask") else None
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch about itself, when imported already
            return private.inductor(graph, inputs)
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
