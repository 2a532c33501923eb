"""A GPU that is not there: tensors on it have shapes and no values, and whoever waits for it is seen.

PyTorch's ``FakeTensorMode`` runs operations for shapes, dtypes and devices alone. On "cuda" it needs no
driver, but for the engine of autograd, which wants a stream of each device: ``_backward`` takes its place.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensor,
    UnsupportedOperatorException,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

ATEN = torch.ops.aten
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
Seen = Counter[tuple[str, str]]
"""How often the host did what where: ``"read"`` values, ``"copy"`` between a tensor of its own and one there
or compute with both, make a ``"constant"`` there, wait for the ``"shape"`` of what is selected by values."""


class Gpu:
    """One of them: what is put there, and what the host does with it."""

    def __init__(self) -> None:
        self.mode = FakeTensorMode(allow_fallback_kernels=False)
        self._put: dict[int, tuple[Tensor, Tensor]] = {}  # and what it is of, that keeps its id

    def put(self, value: Tensor) -> Tensor:
        """Its stand-in on the GPU; that of one tensor is one."""
        if id(value) not in self._put:
            fake = self.mode.from_tensor(value.detach())
            with self.mode:
                fake = fake.to("cuda")
            if isinstance(value, nn.Parameter):
                fake = nn.Parameter(fake, value.requires_grad)
            self._put[id(value)] = value, fake
        return self._put[id(value)][1]

    def move(self, module: nn.Module) -> None:
        """``module.to("cuda")``, which itself would swap parameters for what is no parameter of anyone's."""
        held = [(each, dict(each._parameters)) for each in module.modules()]
        for each, _ in held:
            each._parameters.clear()
        module._apply(self.put)
        for each, parameters in held:
            each._parameters.update({n: None if p is None else self.put(p) for n, p in parameters.items()})

    @contextlib.contextmanager
    def watched(self) -> Iterator[Seen]:
        """What is run within runs there; of each read, copy and shape that the host waits for it is told."""
        watch = _Watch()

        def tolist(tensor: Tensor) -> Any:
            watch.note("read")
            return np.zeros(tensor.shape).tolist()

        def pin_memory(tensor: Tensor) -> Tensor:
            watch.pinned.append(tensor)
            return tensor

        engine = mock.patch.object(torch.autograd, "_engine_run_backward", _backward)
        lists = mock.patch.object(FakeTensor, "tolist", tolist)
        pins = mock.patch.object(Tensor, "pin_memory", pin_memory)
        with engine, lists, pins, self.mode, watch, _Values(self, watch):
            yield watch.seen


class _Watch(TorchDispatchMode):
    """Sees what the host would wait for, and answers a read with 1 (all at once, ``tolist``, with zeros)."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Seen = Counter()
        self.pinned: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        before = _devices((args, kwargs))
        if func is ATEN._local_scalar_dense.default:
            if before == {"cuda"}:
                self.note("read")
            try:
                return func(*args, **kwargs)  # a constant of the host's
            except DataDependentOutputException:
                return 1.0 if args[0].is_floating_point() else args[0].dtype is torch.bool or 1
        if torch.Tag.dynamic_output_shape in func.tags and "cuda" in before and _selects(func, args):
            self.note("shape")
        try:
            result = func(*args, **kwargs)
        except UnsupportedOperatorException:  # which PyTorch knows no shapes of: _sample_dirichlet, ...
            result = torch.empty_like(args[0]) if func._schema.returns else None
        waits = not (kwargs.get("non_blocking") and any(args[0] is tensor for tensor in self.pinned))
        if len(before | _devices(result)) > 1 and waits:
            self.note("copy")
        return result

    def note(self, kind: str) -> None:
        self.seen[kind, _place()] += 1


class _Values(TorchFunctionMode):
    """What goes past the dispatcher: tensors of Python's numbers, and arrays of NumPy, which have ones.

    Of such a constant a recorded step keeps the tensor, and an eager one copies it anew.
    """

    def __init__(self, gpu: Gpu, watch: _Watch) -> None:
        super().__init__()
        self.gpu, self.watch = gpu, watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and torch.device(kwargs.get("device") or "cpu").type == "cuda":
            self.watch.note("constant")
            with _disable_current_modes():
                return self.gpu.put(torch.tensor(*args, **kwargs | {"device": "cpu"}))
        if func is Tensor.numpy and isinstance(args[0], FakeTensor):
            return np.ones(args[0].shape)
        return func(*args, **kwargs)


def _selects(func: Any, args: Any) -> bool:
    """Whether its shape is one of values: of ``x[index]`` it is where the index is a mask."""
    if func not in (ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default):
        return True
    return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])


def _devices(value: Any) -> set[str]:
    return {leaf.device.type for leaf in tree_leaves(value) if isinstance(leaf, Tensor)}


def _place() -> str:
    """Whose line it is: the innermost that is neither PyTorch's nor of these tests."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        path = Path(frame.f_code.co_filename)
        inner = "torch" in path.parts and "distributions" not in path.parts
        inner = inner or path.parent == HERE or "engine" in path.parts or frame.f_code.co_name.startswith("<")
        if not inner:
            name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else Path(*path.parts[-3:])
            return f"{name}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "autograd"


def _backward(
    outputs: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    retain_graph: bool,
    create_graph: bool,
    inputs: Sequence[Tensor],
    allow_unreachable: bool = False,
    accumulate_grad: bool = False,
) -> tuple[Tensor | None, ...]:
    """As PyTorch's engine, node by node in an order in which each has all of its gradients."""
    wanted = {(node, index): i for i, (node, index) in enumerate(map(_edge, inputs))}
    given: dict[Any, dict[int, Tensor]] = {}

    def add(node: Any, index: int, gradient: Tensor) -> None:
        like = node._input_metadata[index]
        gradient = gradient.sum_to_size(like.shape).to(like.dtype)
        before = given.setdefault(node, {}).get(index)
        given[node][index] = gradient if before is None else before + gradient

    found: list[Tensor | None] = [None] * len(inputs)
    with torch.set_grad_enabled(create_graph):
        for output, gradient in zip(outputs, gradients, strict=True):
            add(*_edge(output), torch.ones_like(output) if gradient is None else gradient)
        for node in _order([node for node, _ in map(_edge, outputs)]):
            arrived = given.pop(node, {})
            for index, gradient in arrived.items():
                if (node, index) in wanted:
                    found[wanted[node, index]] = gradient
            if hasattr(node, "variable"):
                if accumulate_grad and not inputs and arrived:
                    leaf = node.variable
                    leaf.grad = arrived[0] if leaf.grad is None else leaf.grad + arrived[0]
                continue
            call = getattr(node, "apply", node)  # of a function written in Python
            results = call(*(arrived.get(i) for i in range(len(node._input_metadata)))) if arrived else ()
            results = results if isinstance(results, tuple) else (results,)
            for (following, index), gradient in zip(node.next_functions, results, strict=False):
                if following is not None and gradient is not None:
                    add(following, index, gradient)
    return tuple(found)


def _edge(tensor: Tensor) -> tuple[Any, int]:
    edge = torch.autograd.graph.get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def _order(roots: Sequence[Any]) -> list[Any]:
    """The nodes of a graph, each before those that it leads to."""
    order: list[Any] = []
    seen: set[Any] = set()
    stack = [(root, False) for root in roots]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(following, False) for following, _ in node.next_functions if following is not None]
    return order[::-1]
