"""All private API of PyTorch and Pyro that the package uses, and what happens where it is gone.

If a name below cannot be imported, neither can the engine; if it fails when it is used, the trace fails; if
it does something else than it did, the compiled step differs from the eager one. Each of these is noticed
before a compiled step is taken, which is then taken eagerly, with a CompilationWarning that names it.

=============================================  =========================================================
API                                            used for; what breaks it
=============================================  =========================================================
torch.fx.experimental.proxy_tensor.make_fx     recording operations; ``experimental`` may move.
torch._inductor: compile_fx, config            compiling the record; ``torch.compile`` would trace Python.
torch.utils._python_dispatch                   seeing operations that write, or whose shapes are values.
torch._C.DisableTorchFunction                  reading a value, for a guard, out of what is recorded.
OpOverload._schema                             which arguments an operation writes; another format.
torch.utils._pytree                            tensors within arguments.
node.meta["val"]                               shapes within a record: a convention of make_fx.
torch.fx.passes.fake_tensor_prop               the same, where a record was changed.
torch._guards: tracing; FakeTensorMode,        the surroundings without which inductor's cache is not used.
  ShapeEnv
torch._inductor.cpu_vec_isa                    telling its cache the width of this processor's vectors.
torch.ops.mkldnn._linear_pointwise             products on a CPU. Where it is gone, MKL multiplies.
torch._inductor.runtime.cache_dir_utils        the folder where measurements of products are kept.
torch._foreach_mul                             clipping all gradients in one kernel.
torch._C._get_tracing_state, as Pyro asks it   told "yes", Pyro branches on no tensor. Were it to ask in
                                               another way, it would branch, and the trace be refused.
pyro.util.torch_isnan, torch_isinf             likewise: Pyro's search for NaN at each site.
Distribution._validate_sample                  likewise: validation, in distributions made before.
pyro.infer.util.Dice.compute_expectation       likewise: TraceEnum_ELBO selects by value.
EnergyDistance.__call__                        likewise: its pairs are where a triangle is not zero.
pyro.distributions.transforms.spline:          likewise: the inverse of a quadratic spline asserts a tensor.
  _monotonic_rational_spline
nn.Module: _parameters, _buffers, _modules,    noticing what was replaced, and putting it back.
  _forward_hooks, _forward_pre_hooks
Tensor._backward_hooks                         noticing hooks on gradients.
ParamStoreDict: _params, _constraints,         putting back what a trace has added to the store.
  _param_to_name
Optimizer._optimizer_step_pre_hooks,           an optimizer with hooks is not recorded as a CUDA graph.
  _optimizer_step_post_hooks
optimizer.found_inf, grad_scale                GradScaler's way to skip an update on the GPU.
=============================================  =========================================================
"""

from __future__ import annotations

import contextlib
import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast
from unittest import mock

import pyro
import pyro.infer.util
import pyro.util
import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

__all__ = ["TorchDispatchMode", "tree_flatten", "tree_leaves", "tree_map", "tree_unflatten"]


def record(
    function: Callable[..., Any], operations: dict[Any, Callable[..., Any]], inputs: Sequence[Tensor]
) -> GraphModule:
    """The operations of the function, with others in the place of some."""
    from torch._guards import TracingContext, tracing
    from torch._subclasses import FakeTensorMode

    # Else each shape that it writes down gets a mode of its own, with a stack trace: a third of the time.
    with tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True))):
        return make_fx(function, operations)(*inputs)


def propagate(graph: GraphModule, inputs: Sequence[Tensor]) -> None:
    """Finds the shapes within a record anew."""
    from torch._subclasses import FakeTensorMode
    from torch.fx.passes.fake_tensor_prop import FakeTensorProp

    with torch.no_grad():
        FakeTensorProp(graph, FakeTensorMode(allow_non_fake_inputs=True)).propagate(*inputs)


def inductor(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    """Compiles the graph, which draws from the generators of eager PyTorch: the noise is the same."""
    from torch._guards import TracingContext, tracing
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx
    from torch._inductor.cpu_vec_isa import pick_vec_isa
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    # Without a shape environment, though no shape is symbolic, inductor leaves its cache alone.
    fake = FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True, allow_non_fake_inputs=True)
    # Draws that do not depend on each other are to stay in order, or each would get another's noise.
    settings: dict[str, Any] = {"fallback_random": True, "reorder_for_peak_memory": False}
    # The cache finds code by the settings alone: without this, also that of a processor with other vectors.
    settings["cpp.simdlen"] = pick_vec_isa().bit_width()
    if any(tensor.is_cuda for tensor in inputs):
        # PyTorch 2.11 writes one result of a kernel of many over a number that the others still read.
        settings["inplace_buffers"] = False
    else:
        settings["layout_optimization"] = False  # which slows down convolutions on a CPU
    with config.patch(settings), tracing(TracingContext(fake)):
        return cast(Callable[..., Any], compile_fx(graph, inputs))


def may_write(func: Any) -> bool:
    """Whether an operation writes to one of its arguments."""
    schema = getattr(func, "_schema", None)
    # That of batch normalisation hides that it writes the running statistics.
    return schema is not None and (schema.is_mutable or "batch_norm" in schema.name)


def written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """The tensors that a call of an operation writes."""
    schema = func._schema
    if may_write(func):
        for i, argument in enumerate(schema.arguments):
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            writes = argument.alias_info is not None and argument.alias_info.is_write
            if writes or argument.name.startswith("running_"):
                for tensor in value if isinstance(value, list | tuple) else [value]:
                    if isinstance(tensor, Tensor):
                        yield tensor


@contextlib.contextmanager
def unseen() -> Iterator[None]:
    """What is done within is not recorded, nor seen by any mode."""
    with torch._C.DisableTorchFunction(), _disable_current_modes():
        yield


TO_COPY: Any = torch.ops.aten._to_copy.default
READ: Any = torch.ops.aten._local_scalar_dense.default


def mutates(func: Any) -> bool:
    """Whether an operation writes to its arguments, the first of which it then returns."""
    return getattr(func, "_schema", None) is not None and func._schema.is_mutable


def aliases(func: Any) -> bool:
    """Whether what an operation returns shares the memory of its first argument."""
    schema = getattr(func, "_schema", None)
    return schema is not None and any(result.alias_info is not None for result in schema.returns)


def root(node: Any) -> Any:
    """What it is a view of."""
    while isinstance(node, Node) and (node.target is operator.getitem or aliases(node.target)):
        node = node.args[0]
    return node


def scale(tensors: list[Tensor], factor: Tensor) -> list[Tensor]:
    return list(torch._foreach_mul(tensors, factor)) if tensors else []


def drawn_on(graph: GraphModule) -> set[str]:
    """The kinds of devices that random numbers are drawn on."""
    return {
        value.device.type
        for node in graph.graph.nodes
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        for value in tree_leaves(node.meta["val"])
    }


# Pyro, told that it is traced


class _StandIn:
    """An object, but for some of its attributes."""

    def __init__(self, original: Any, **own: Any):
        self.__dict__.update(own, _original=original)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


class _Zeros(TorchFunctionMode):
    """``x.masked_select(mask)`` is x with zeros elsewhere, which do the same in a scalar product."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.masked_select:
            return args[0].where(args[1], 0.0).reshape(-1)
        return func(*args, **(kwargs or {}))


class _Pairs(TorchFunctionMode):
    """``x.new_ones(n, n).tril(-1).nonzero()`` has a shape that is known: EnergyDistance makes pairs so."""

    def __init__(self) -> None:
        super().__init__()
        self.ones: list[Tensor] = []
        self.triangles: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.nonzero and any(args[0] is triangle for triangle in self.triangles):
            rows, columns = args[0].shape
            return torch.tril_indices(rows, columns, -1, device=args[0].device).T
        result = func(*args, **(kwargs or {}))
        if func is Tensor.new_ones:
            self.ones.append(result)
        elif func is Tensor.tril and args[1:] == (-1,) and any(args[0] is ones for ones in self.ones):
            self.triangles.append(result)
        return result


class _Held(TorchFunctionMode):
    """``assert tensor`` holds. Where it would not, neither would the result be finite."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return True if func is Tensor.__bool__ else func(*args, **(kwargs or {}))


@contextlib.contextmanager
def traced_pyro() -> Iterator[None]:
    """Pyro avoids branches on tensors while it is traced: so its modules, and nobody else's, are told it is.

    PyTorch's own distributions would draw other random numbers, and are not told.
    """
    told = _StandIn(torch, _C=_StandIn(torch._C, _get_tracing_state=lambda: True))
    modules = [vars(module) for name, module in sys.modules.items() if name.startswith("pyro.")]
    modules = [names for names in modules if names.get("torch") is torch]
    dice: Any = pyro.infer.util.Dice
    expectation = dice.compute_expectation
    energy: Any = pyro.infer.EnergyDistance
    distance = energy.__call__

    def with_pairs(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _Pairs():
            return distance(self, *args, **kwargs)

    def without_selection(self: Any, costs: Any) -> Any:
        with _Zeros():
            return expectation(self, costs)

    splines: Any = sys.modules["pyro.distributions.transforms.spline"]  # of which a function has the name
    spline = splines._monotonic_rational_spline

    def without_assertion(*args: Any, **kwargs: Any) -> Any:
        with _Held():
            return spline(*args, **kwargs)

    with (
        mock.patch.object(splines, "_monotonic_rational_spline", without_assertion),
        # Which does not reach distributions made or expanded before.
        mock.patch.object(Distribution, "_validate_sample", return_value=None),
        # Pyro looks for NaN at each site by a branch on tensors; the caller looks at the result.
        mock.patch.object(pyro.util, "torch_isnan", return_value=False),
        mock.patch.object(pyro.util, "torch_isinf", return_value=False),
        mock.patch.object(dice, "compute_expectation", without_selection),
        mock.patch.object(energy, "__call__", with_pairs),
        contextlib.ExitStack() as stack,
    ):
        for names in modules:
            stack.enter_context(mock.patch.dict(names, torch=told))
        yield


@contextlib.contextmanager
def unchanged_store() -> Iterator[None]:
    """Afterwards Pyro's store has the parameters of before, and new ones: TraceGraph_ELBO replaces some."""
    store: Any = pyro.get_param_store()
    held = store._params, store._param_to_name
    before = [dict(each) for each in held]
    yield
    for each, kept in zip(held, before, strict=True):
        each.update(kept)


# What a program may change

OF_MODULES = vars(nn.Module()).keys()
"""Attributes that every module has, and that ``look`` looks at."""


def dicts(modules: Sequence[nn.Module]) -> list[dict[Any, Any]]:
    """Where modules and Pyro's parameter store keep what they hold."""
    store: Any = pyro.get_param_store()
    held = [store._params, store._constraints, store._param_to_name]
    for module in modules:
        held += [vars(module), module._parameters, module._buffers]
    return held


def look(modules: Iterable[nn.Module]) -> list[Any]:
    """What is compared of modules and Pyro's store, at each step: their children, hooks and tensors."""
    store: Any = pyro.get_param_store()
    state: list[Any] = [*map(id, store._params.values())]
    for module in modules:
        held = vars(module)
        if children := held["_modules"]:
            state += map(id, children.values())
        if held["_forward_hooks"] or held["_forward_pre_hooks"]:
            state += (*held["_forward_hooks"], *held["_forward_pre_hooks"])
        for tensors in (held["_parameters"], held["_buffers"]):
            for t in tensors.values():
                if t is not None:
                    state += (
                        id(t),
                        t.requires_grad,
                        t.dtype,
                        t.device,
                        t.stride(),
                        t._backward_hooks and len(t._backward_hooks),
                    )
        state.append(None)
    return state


def has_hooks(optim: Any) -> bool:
    return bool(optim._optimizer_step_pre_hooks or optim._optimizer_step_post_hooks)


@contextlib.contextmanager
def skipped(optim: Any, failed: Tensor) -> Iterator[None]:
    """A step of a fused optimizer changes nothing where ``failed`` is 1, which is read on the GPU."""
    optim.found_inf, optim.grad_scale = failed, None
    try:
        yield
    finally:
        optim.found_inf = None


# Products on a CPU, by oneDNN

_LIBRARY = torch.library.Library("pyro_vae", "DEF")
_LIBRARY.define("linear(Tensor x, Tensor weight) -> Tensor")


@torch.library.impl(_LIBRARY, "linear", "CPU")
def _linear(x: Tensor, weight: Tensor) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return y


@torch.library.impl(_LIBRARY, "linear", "Meta")
def _linear_meta(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0]))


def onednn() -> bool:
    """Whether oneDNN can be asked for a product."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def cache_folder() -> Path:
    """Where inductor keeps what it has compiled."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return Path(cache_dir())
