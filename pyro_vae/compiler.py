"""Functions of tensors that run Pyro programs, traced once through all of Pyro and compiled.

Pyro's handlers are plain Python; what they do to tensors does not depend on the tensors' values in a
program of static structure. So the function is run once at the level of PyTorch's dispatcher, which
records tensor operations alone, gradients included, and the record is compiled by inductor.
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, cast
from unittest import mock

import pyro
import pyro.util
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

Function = Callable[..., list[Tensor]]
Compile = Literal["auto", True, False]


class CompilationError(RuntimeError):
    """The function cannot be compiled, or the compiled one differs from it; the message says why."""


class CompilationWarning(UserWarning):
    """Something is run eagerly that was to be compiled; the message says why."""


class Compiled:
    """A traced and compiled function of tensors.

    What the function closes over (parameters, buffers, other tensors) is an input of the compiled
    code, so that changes in place are seen; replaced tensors are not: see ``Watch``.

    Args:
        function: of tensors, to a list of tensors. Its noise comes from PyTorch's generators, and is
            the same as without compiling, seed for seed.
        inputs: tensors that it is to be called with, or others of the same shapes and dtypes.

    Raises:
        CompilationError: the function depends on the values of tensors, or there is no compiler.
    """

    def __init__(self, function: Function, inputs: Sequence[Tensor]):
        with rollback() as changed, _observing() as called:
            try:
                graph = _trace(function, inputs)
            except Exception as error:
                raise CompilationError(f"it cannot be traced: {_first_line(error)}") from error
        self.watch = Watch([*called, *_modules_of(function)])
        _use_onednn(graph)
        self.closed_over = _lift_constants(graph)
        written = {tensor.untyped_storage().data_ptr() for tensor, _ in changed.values()}
        self._written = [t for t in self.closed_over if t.untyped_storage().data_ptr() in written]
        self._call = _compile(graph, [*self.closed_over, *inputs])

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return list(self._call(*self.closed_over, *inputs))

    def trial(self, *inputs: Tensor) -> list[Tensor]:
        """The result of a call that leaves tensors and random generators as they were."""
        with self.rollback():
            return [tensor.clone() for tensor in self(*inputs)]

    @contextlib.contextmanager
    def rollback(self) -> Iterator[None]:
        """As the function of this name; compiled code writes past the dispatcher, where that one looks."""
        kept = [tensor.clone() for tensor in self._written]
        with rollback():
            yield
        with torch.no_grad():
            for tensor, before in zip(self._written, kept, strict=True):
                tensor.copy_(before)


class Watch:
    """Notices what a compiled function cannot: other tensors in place of those it closed over.

    It remembers the tensors and modes of modules, their descendants, and Pyro's parameter store.
    """

    def __init__(self, modules: Iterable[nn.Module]):
        self.modules = list(dict.fromkeys(part for module in modules for part in module.modules()))
        self.state = self._look()

    def changed(self) -> bool:
        """Whether a tensor was replaced, retyped or (un)frozen, or a mode switched."""
        return self._look() != self.state

    def _look(self) -> list[Any]:
        state: list[Any] = []
        for module in self.modules:
            state.append(module.training)
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None:
                    state += (id(tensor), tensor.requires_grad, tensor.dtype, tensor.device)
        state += map(id, pyro.get_param_store()._params.values())
        return state


@contextlib.contextmanager
def _observing() -> Iterator[list[nn.Module]]:
    """Collects the modules that are called."""
    called: list[nn.Module] = []
    hook = register_module_forward_pre_hook(lambda module, _: called.append(module))
    try:
        yield called
    finally:
        hook.remove()


def _modules_of(function: Any) -> list[nn.Module]:
    """The modules that a function reaches: its own, in its closure, or by a global name."""
    found: list[nn.Module] = []
    seen: set[int] = set()

    def visit(value: Any) -> None:
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, nn.Module):
            found.append(value)
        elif callable(value):
            for name in ("__self__", "__wrapped__", "func", "fn", "model", "guide"):
                visit(getattr(value, name, None))
            for cell in getattr(value, "__closure__", None) or ():
                with contextlib.suppress(ValueError):  # an empty cell
                    visit(cell.cell_contents)
            code = getattr(value, "__code__", None)
            for name in code.co_names if code else ():
                visit(value.__globals__.get(name))

    visit(function)
    return found


class Tracing(TorchFunctionMode):
    """Keeps what a traced program does within the record.

    ``loss.backward()`` takes the gradient of ``loss * factor`` by these parameters, and adds it to
    ``gradients`` (None where a parameter has none), leaving ``.grad`` alone; ``x.item()`` is a tensor,
    whose use as a number is an error.
    """

    def __init__(self, parameters: Sequence[Tensor], factor: float):
        super().__init__()
        self.parameters, self.factor = parameters, factor
        self.gradients: list[Tensor | None] = [None] * len(parameters)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.backward:
            return self._backward(*args, **(kwargs or {}))
        if func is torch.Tensor.item:
            return args[0].detach()
        if func is torch.Tensor.masked_select and _called_by_pyro():
            # TraceEnum_ELBO leaves out costs of probability 0 from a scalar product; zeros do the same.
            return args[0].where(args[1], 0.0).reshape(-1)
        return func(*args, **(kwargs or {}))

    def _backward(self, loss: Tensor, *_: Any, **__: Any) -> None:
        found = torch.autograd.grad(
            loss, self.parameters, torch.full_like(loss, self.factor), retain_graph=True, allow_unused=True
        )
        for i, gradient in enumerate(found):
            if gradient is not None:
                before = self.gradients[i]
                self.gradients[i] = gradient if before is None else before + gradient


class _Undo(TorchDispatchMode):
    """Keeps a copy of each tensor about to be changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        schema = func._schema
        # The schema of batch normalisation hides that it writes the running statistics.
        if schema.is_mutable or "batch_norm" in schema.name:
            for i, argument in enumerate(schema.arguments):
                value = args[i] if i < len(args) else kwargs.get(argument.name)
                writes = argument.alias_info is not None and argument.alias_info.is_write
                if writes or argument.name.startswith("running_"):
                    for tensor in value if isinstance(value, list | tuple) else [value]:
                        if isinstance(tensor, Tensor) and id(tensor) not in self.before:
                            self.before[id(tensor)] = tensor, tensor.clone()
        return func(*args, **kwargs)


@contextlib.contextmanager
def rollback() -> Iterator[dict[int, tuple[Tensor, Tensor]]]:
    """Afterwards all tensors and PyTorch's random generators are as they were, whatever was run within.

    Gives the tensors that were changed, with what they held before. What is to be kept of the results
    must be cloned within.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
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


def check_equal(
    eager: Sequence[Tensor], compiled: Sequence[Tensor], tolerance: float, floor: float = 0.0
) -> None:
    """Refuses tensors that differ by more than ``tolerance`` of their norm, or of a larger ``floor``.

    Raises:
        CompilationError: naming the difference. NaN is left to those who look for it.
    """
    for a, b in zip(eager, compiled, strict=True):
        distance, size = (a - b).norm().item(), max(a.norm().item(), floor)
        if distance > tolerance * size:
            raise CompilationError(
                f"it differs from the eager one by {distance / size if size else math.inf:.2g} of its norm: "
                "it depends on something that is not a tensor, such as a changing attribute or another "
                "source of random numbers; pass it as a tensor argument"
            )


def _trace(function: Function, inputs: Sequence[Tensor]) -> GraphModule:
    """The tensor operations of the function, recorded while it runs."""
    with (
        pyro.validation_enabled(False),
        # Pyro looks for NaN at each site by a branch on tensors; the caller looks at the result.
        mock.patch.object(pyro.util, "torch_isnan", return_value=False),
        mock.patch.object(pyro.util, "torch_isinf", return_value=False),
        # Pyro avoids some branches on tensors when it is told that it is being traced; PyTorch's own
        # distributions then draw other random numbers, and are not told.
        mock.patch.object(torch._C, "_get_tracing_state", _called_by_pyro),
    ):
        return make_fx(function)(*inputs)


def _called_by_pyro() -> bool:
    """Whether the caller of this function's caller, or where that is the interpreter, of this, is in Pyro."""
    frame: Any = sys._getframe(1)
    if frame.f_globals["__name__"] == __name__:
        frame = frame.f_back
    name: str = frame.f_globals["__name__"]
    return name.startswith("pyro.")


def _lift_constants(graph: GraphModule) -> list[Tensor]:
    """Makes the tensors that the graph closes over its leading inputs, and returns them."""
    nodes = list(graph.graph.nodes)
    first = nodes[0]
    lifted: dict[int, tuple[Tensor, Any]] = {}
    for node in nodes:
        if node.op != "get_attr":
            continue
        tensor = getattr(graph, node.target)
        if id(tensor) not in lifted:
            with graph.graph.inserting_before(first):
                lifted[id(tensor)] = tensor, graph.graph.placeholder(f"closed_over_{len(lifted)}")
        node.replace_all_uses_with(lifted[id(tensor)][1])
        graph.graph.erase_node(node)
    for node in graph.graph.nodes:
        node.meta.clear()
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return [tensor for tensor, _ in lifted.values()]


_LIBRARY = torch.library.Library("pyro_vae", "DEF")
_LIBRARY.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")


@torch.library.impl(_LIBRARY, "linear", "CPU")
def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


@torch.library.impl(_LIBRARY, "linear", "Meta")
def _linear_meta(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0]))


def _use_onednn(graph: GraphModule) -> None:
    """Has oneDNN compute the products of float32 matrices on a CPU.

    PyTorch leaves them to MKL, which is as fast on Intel's processors, and half as fast on AMD's.
    """
    if not torch.backends.mkldnn.is_available():
        return
    aten, nodes = torch.ops.aten, graph.graph
    for node in list(nodes.nodes):
        if node.op != "call_function" or node.target not in (aten.mm.default, aten.addmm.default):
            continue
        *bias, a, b = node.args
        values = [argument.meta.get("val") for argument in node.args]
        if node.kwargs or len(bias) != len(values) - 2 or not all(isinstance(v, Tensor) for v in values):
            continue
        if bias and values[0].dim() != 1:
            continue
        if any(v.dtype != torch.float32 or v.device.type != "cpu" for v in values):
            continue
        if values[-2].numel() * values[-1].shape[1] < 2**16:  # a call costs more than it saves
            continue
        with nodes.inserting_before(node):
            weight = nodes.call_function(aten.t.default, (b,))
            product = nodes.call_function(
                torch.ops.pyro_vae.linear.default, (a, weight, bias[0] if bias else None)
            )
        node.replace_all_uses_with(product)
        nodes.erase_node(node)


def _compile(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # "no CUDA runtime is found"
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx

    # Signals wait until the compiler, which inherits the mask, is done: Ctrl-C must not kill it alone.
    waiting = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waiting) if hasattr(signal, "pthread_sigmask") else None
    try:
        # With the generators of eager PyTorch the noise is the same, seed for seed.
        settings = {"fallback_random": True}
        if not any(tensor.is_cuda for tensor in inputs):
            settings["layout_optimization"] = False  # which slows down convolutions on a CPU
        with torch.no_grad(), config.patch(settings), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch about itself
            return cast(Callable[..., Any], compile_fx(graph, inputs))
    except Exception as error:
        raise CompilationError(f"inductor cannot compile it: {_first_line(error)}") from error
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
