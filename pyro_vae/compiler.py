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
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, cast
from unittest import mock

import pyro
import pyro.util
import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae.watch import Watch

Function = Callable[..., list[Tensor]]
Compile = Literal["auto", True, False]


class CompilationError(RuntimeError):
    """The function cannot be compiled, or the compiled one differs from it; the message says why."""


class CompilationWarning(UserWarning):
    """Something is run eagerly that was to be compiled; the message says why."""


class Compiled:
    """A traced and compiled function of tensors.

    What the function closes over (parameters, buffers, other tensors) is an input of the compiled
    code, so that changes in place are seen; ``watch`` tells of others, after which another one is needed.

    Args:
        function: of tensors, to a list of tensors. Its noise comes from PyTorch's generators, and is
            the same as without compiling, seed for seed.
        inputs: tensors that it is to be called with, or others of the same shapes and dtypes.
        roots: what the function runs, if it is not reached by its closure.

    Raises:
        CompilationError: the function depends on the values of tensors, or there is no compiler.
    """

    def __init__(self, function: Function, inputs: Sequence[Tensor], roots: Sequence[Any] = ()):
        self.watch = Watch(roots or [function])
        try:
            with rollback() as changed, _observing() as called:
                graph = _trace(function, inputs)
        except Exception as error:
            self.watch.restore()
            raise CompilationError(f"it cannot be traced: {_first_line(error)}") from error
        drawn_on = {
            value.device.type
            for node in graph.graph.nodes
            if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
            for value in pytree.tree_leaves(node.meta["val"])
        }
        _use_onednn(graph)
        self.closed_over = _lift_constants(graph)
        self.devices = {tensor.device.type for tensor in self.closed_over} | drawn_on
        """Where the tensors that it closes over are, and where its random numbers are drawn."""
        self.watch.restrict(self.closed_over)
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

    def trial(self, *inputs: Tensor) -> list[Tensor]:
        """The result of a call that leaves tensors and random generators as they were."""
        with self.rollback():
            return [tensor.clone() for tensor in self(*(given.clone() for given in inputs))]

    @contextlib.contextmanager
    def rollback(self) -> Iterator[None]:
        """As the function of this name; compiled code writes past the dispatcher, where that one looks."""
        kept = [tensor.clone() for tensor in self._written]
        with rollback():
            yield
        with torch.no_grad():
            for tensor, before in zip(self._written, kept, strict=True):
                tensor.copy_(before)


@contextlib.contextmanager
def _observing() -> Iterator[list[nn.Module]]:
    """Collects the modules that are called."""
    called: list[nn.Module] = []
    hook = register_module_forward_pre_hook(lambda module, _: called.append(module))
    try:
        yield called
    finally:
        hook.remove()


class Tracing(TorchFunctionMode):
    """Keeps what a traced program does within the record.

    ``loss.backward()`` takes the gradient of ``loss * factor`` by these parameters, and adds it to
    ``gradients`` (None where a parameter has none), leaving ``.grad`` alone; ``x.item()``, by which
    Pyro returns a loss, is a tensor.
    """

    def __init__(self, parameters: Sequence[Tensor], factor: float):
        super().__init__()
        self.parameters, self.factor = parameters, factor
        self.gradients: list[Tensor | None] = [None] * len(parameters)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.backward:
            return self._backward(*args, **(kwargs or {}))
        if func is torch.Tensor.item and _called_by_pyro():
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


_READERS = {getattr(Tensor, f"__{name}__") for name in ("bool", "float", "int", "index", "complex", "array")}
_READERS |= {Tensor.item, Tensor.numpy, Tensor.tolist}
_MAKERS = {torch.tensor, torch.as_tensor, Tensor.new_tensor}


class _NoValues(TorchFunctionMode):
    """Refuses to turn a tensor's values into Python's, which would be recorded as constants."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        makes = func in _MAKERS and isinstance(args[-1], list | tuple)
        reads = makes and any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(args[-1]))
        if reads or func in _READERS:
            raise TypeError(f"{func.__name__} reads the values of a tensor")
        return func(*args, **(kwargs or {}))


class _NoShapesFromValues(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.dynamic_output_shape in func.tags and not (
            func is torch.ops.aten.index.Tensor
            and all(index is None or index.dtype not in (torch.bool, torch.uint8) for index in args[1])
        ):
            raise TypeError(f"the shape of what {func} returns depends on the values of a tensor")
        return func(*args, **(kwargs or {}))


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
                f"it differs from the eager one by {distance / size if size else math.inf:.2g} of its norm, "
                "as if it depends on something that is not a tensor, such as a hidden counter or another "
                "source of random numbers; pass that as a tensor argument"
            )


def _trace(function: Function, inputs: Sequence[Tensor]) -> GraphModule:
    """The tensor operations of the function, recorded while it runs."""
    with (
        _NoValues(),
        _NoShapesFromValues(),
        pyro.validation_enabled(False),
        # Which does not reach distributions made or expanded before.
        mock.patch.object(Distribution, "_validate_sample", return_value=None),
        # Pyro looks for NaN at each site by a branch on tensors; the caller looks at the result.
        mock.patch.object(pyro.util, "torch_isnan", return_value=False),
        mock.patch.object(pyro.util, "torch_isinf", return_value=False),
        # Pyro avoids some branches on tensors when it is told that it is being traced; PyTorch's own
        # distributions then draw other random numbers, and are not told.
        mock.patch.object(torch._C, "_get_tracing_state", _called_by_pyro),
    ):
        # Copies of the tensor objects, for one may be given twice, or be closed over as well.
        return make_fx(function)(*[t.detach().requires_grad_(t.requires_grad) for t in inputs])


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
    with graph.graph.inserting_before(nodes[0]):
        first = graph.graph.call_function(len, ((),))  # a place before all others
    lifted: dict[int, tuple[Tensor, Any]] = {}
    for node in nodes:
        if node.op != "get_attr":
            continue
        tensor = getattr(graph, node.target)
        if not isinstance(tensor, Tensor):
            raise CompilationError(f"it uses a {type(tensor).__name__} of its own")
        if id(tensor) not in lifted:
            with graph.graph.inserting_before(first):
                lifted[id(tensor)] = tensor, graph.graph.placeholder(f"closed_over_{len(lifted)}")
        node.replace_all_uses_with(lifted[id(tensor)][1])
        graph.graph.erase_node(node)
    graph.graph.erase_node(first)
    for node in graph.graph.nodes:
        node.meta.clear()
    graph.graph.eliminate_dead_code()
    used = [(tensor, node) for tensor, node in lifted.values() if node.users]
    for _, node in lifted.values():
        if not node.users:
            graph.graph.erase_node(node)
    graph.recompile()
    return [tensor for tensor, _ in used]


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
    # Signals wait until the compiler, which inherits the mask, is done: Ctrl-C must not kill it alone.
    waiting = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waiting) if hasattr(signal, "pthread_sigmask") else None
    # With the generators of eager PyTorch the noise is the same, seed for seed.
    settings = {"fallback_random": True}
    if not any(tensor.is_cuda for tensor in inputs):
        settings["layout_optimization"] = False  # which slows down convolutions on a CPU
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch about itself, when imported already
            from torch._inductor import config
            from torch._inductor.compile_fx import compile_fx

            with config.patch(settings):
                return cast(Callable[..., Any], compile_fx(graph, inputs))
    except Exception as error:
        raise CompilationError(f"inductor cannot compile it: {_first_line(error)}") from error
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
