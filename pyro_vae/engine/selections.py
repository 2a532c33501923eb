"""``x[mask]``: its shape depends on the values of the mask, but what is done with it need not.

Where a selection is only computed with, element by element, and then summed or put back by the same mask, all
of it can be done to the whole of x, and what is outside of the mask be left out at the end. Splines, for
example, are the identity outside of an interval: ``y[outside] = x[outside]``.

While the program is recorded, a selection has a length that nothing else has (``Selections``), which so can
be told from true sizes. It is in the record, gradients included, that operations are made those of the whole
(``spread``): nothing from outside of the mask then reaches a gradient, NaN neither.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.overrides import TorchFunctionMode

from pyro_vae.engine import private

LENGTHS = (10_007, 10_009, 10_037, 10_039)
LENGTH = LENGTHS[0]
"""Of a selection, while it is recorded."""

_ATEN = torch.ops.aten
_LIBRARY = torch.library.Library("pyro_vae_selections", "DEF")
_LIBRARY.define("select(Tensor x, Tensor mask) -> Tensor")  # x[mask]
_LIBRARY.define("put(Tensor x, Tensor mask, Tensor values, bool add) -> Tensor")  # x[mask] = values, or +=
_SELECT = torch.ops.pyro_vae_selections.select.default
_PUT = torch.ops.pyro_vae_selections.put.default
_COPIES = {private.TO_COPY, _ATEN.clone.default, _ATEN.detach.default, _ATEN.alias.default}
_COPIES |= {_ATEN.zeros_like.default, _ATEN.ones_like.default}
_MADE = {_ATEN.zeros.default: 0, _ATEN.ones.default: 0, _ATEN.full.default: 0}  # and where their size is
_MADE |= {_ATEN.new_zeros.default: 1, _ATEN.new_ones.default: 1, _ATEN.new_full.default: 1}
_SIZES = {Tensor.size, Tensor.numel, Tensor.nelement, Tensor.__len__, Tensor.__iter__}
_SIZES |= {Tensor.shape.__get__}  # type: ignore[attr-defined]


def avoid(tensors: Sequence[Tensor]) -> None:
    """Has selections be of a length that none of these has."""
    global LENGTH
    sizes = {size for tensor in tensors for size in tensor.shape}
    LENGTH = next((length for length in LENGTHS if length not in sizes), LENGTHS[0])


def refusal(func: Any) -> TypeError:
    return TypeError(f"the shape of what {func} returns depends on the values of a tensor")


# While they are recorded, values do not matter.


@torch.library.impl(_LIBRARY, "select", "CompositeExplicitAutograd")
def _select(x: Tensor, mask: Tensor) -> Tensor:
    return x.new_zeros((LENGTH, *x.shape[mask.dim() :]))


@torch.library.impl(_LIBRARY, "put", "CompositeExplicitAutograd")
def _put(x: Tensor, mask: Tensor, values: Tensor, add: bool) -> Tensor:
    return x.clone()


class Selections(private.TorchDispatchMode):
    """Refuses shapes that depend on the values of a tensor, but for those of ``x[mask]``."""

    found = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _ATEN.index.Tensor:
            masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            if len(args[1]) == len(masks) == 1 and masks[0].dtype is torch.bool:
                self.found = True
                return _SELECT(args[0], masks[0])
            if masks:
                raise refusal(func)
        elif func in (_ATEN.index_put.default, _ATEN.index_put_.default) and is_selection(args[2]):
            if len(args[1]) != 1:
                raise refusal(func)
            x = _PUT(args[0], args[1][0], args[2], any(args[3:]))
            return x if func is _ATEN.index_put.default else args[0].copy_(x)
        elif torch.Tag.dynamic_output_shape in func.tags:
            raise refusal(func)
        return func(*args, **(kwargs or {}))


class Indexing(TorchFunctionMode):
    """Has nothing of an index told to Python, where it would be a constant.

    ``x[i]``, where i is a tensor that is one integer, is a view at a number that PyTorch reads;
    ``index_select`` gives the same without. Refused is the size of a selection.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _SIZES and is_selection(args[0]):
            raise refusal("x[mask]")
        if func is Tensor.__getitem__:
            args = _select_integers(*args)
        if func is Tensor.__setitem__ and isinstance(args[2], int | float):
            # Else it is a tensor of the host's, and no step that closes over one is a CUDA graph.
            args = (*args[:2], args[0].new_full((), args[2]))
        return func(*args, **(kwargs or {}))


def _select_integers(x: Tensor, index: Any) -> tuple[Tensor, Any]:
    items = list(index) if isinstance(index, tuple) else [index]
    if not any(map(_is_integer, items)):
        return x, index
    # How many dimensions each takes: a mask as many as it has, an ellipsis those that are left.
    takes = [0 if i is None or i is Ellipsis else i.dim() if _is_mask(i) else 1 for i in items]
    takes = [x.dim() - sum(takes) if item is Ellipsis else n for item, n in zip(items, takes, strict=True)]
    for position, item in enumerate(items):
        if _is_integer(item):
            dim = sum(takes[:position])
            at = torch.where(item < 0, item + x.shape[dim], item).to(x.device)
            x, items[position] = x.index_select(dim, at.reshape(1)), 0
    return x, tuple(items)


def _is_integer(item: Any) -> bool:
    kinds = (torch.int64, torch.int32, torch.int16, torch.int8)
    return isinstance(item, Tensor) and item.dim() == 0 and item.dtype in kinds


def _is_mask(item: Any) -> bool:
    return isinstance(item, Tensor) and item.dtype in (torch.bool, torch.uint8)


def is_selection(tensor: Tensor) -> bool:
    return tensor.dim() > 0 and tensor.shape[0] == LENGTH


def spread(graph: GraphModule) -> None:
    """Replaces selections by the whole of what is selected from.

    Raises:
        TypeError: more is done with a selection than that allows.
    """
    graph.graph.eliminate_dead_code()
    spreading = _Spreading(graph.graph)
    for node in list(graph.graph.nodes):
        spreading.visit(node)


class _Spreading:
    def __init__(self, nodes: Graph):
        self.nodes = nodes
        self.masks: dict[Node, Node] = {}
        """Of each node that was a selection, and is the whole now."""
        self.scalars: set[Node] = set()
        """Nodes that had a selection's length and one value (gradients of sums, say), and are that value."""

    def visit(self, node: Node) -> None:
        func: Any = node.target
        args: Any = node.args
        concerned = [a for a in node.all_input_nodes if a in self.masks or a in self.scalars]
        selected = [a for a in concerned if a in self.masks]
        if func is _SELECT and not concerned:
            self.masks[node] = args[1]
            node.target, node.args = _ATEN.clone.default, (args[0],)  # for that may be changed later
        elif func is _PUT:
            self._put(node, *args)
        elif func is _ATEN.sum.default and selected:
            with self.nodes.inserting_before(node):
                node.args = self._within(self.masks[args[0]], args[0], 0), *args[1:]
        elif func in _MADE and LENGTH in args[_MADE[func]]:
            node.update_arg(_MADE[func], [])
            self.scalars.add(node)
        elif func is _ATEN.expand.default and not concerned and LENGTH in args[1]:
            if _value(args[0]).numel() != 1:
                raise refusal(func)
            node.target, node.args = _ATEN.reshape.default, (args[0], [])
            self.scalars.add(node)
        elif func in _MADE and selected:
            pass  # of which it has but the dtype
        elif concerned:
            if node.op != "call_function" or not self._is_elementwise(node, concerned):
                raise refusal("x[mask]")
            if selected:
                self.masks[node] = self.masks[selected[0]]
            else:
                self.scalars.add(node)
        elif LENGTH in private.tree_leaves((args, node.kwargs)):  # a mean, say
            raise refusal("x[mask]")

    def _is_elementwise(self, node: Node, concerned: list[Node]) -> bool:
        """Whether what is done is done to each element, so that it does the same to the whole."""
        func: Any = node.target
        pointwise = torch.Tag.pointwise in func.tags and torch.Tag.nondeterministic_seeded not in func.tags
        if not (pointwise or func in _COPIES) or (private.mutates(func) and node.args[0] not in self.masks):
            return False
        masks = [self.masks[argument] for argument in concerned if argument in self.masks]
        if any(not _equal(mask, masks[0]) for mask in masks):
            return False
        # Others are to be broadcast over the selection, and so over the whole.
        dims = {_value(argument).dim() for argument in concerned}
        others = [argument for argument in node.all_input_nodes if argument not in concerned]
        return len(dims) == 1 and all(_value(o).numel() == 1 or _value(o).dim() < max(dims) for o in others)

    def _put(self, node: Node, x: Node, mask: Node, values: Node, add: bool) -> None:
        """``x[mask] = values`` becomes ``where(mask, values, x)``."""
        fits = values in self.scalars or (values in self.masks and _equal(self.masks[values], mask))
        if x in self.masks or x in self.scalars or not fits:
            raise refusal("x[mask]")
        if _value(values).dim() != _value(x).dim() - _value(mask).dim() + 1:
            raise refusal("x[mask]")
        with self.nodes.inserting_before(node):
            if add:
                node.args = x, self._within(mask, values, 0)
                node.target = _ATEN.add.Tensor
            else:
                chosen = self._within(mask, values, x)
                node.replace_all_uses_with(chosen)
                chosen.meta.update(node.meta)
                self.nodes.erase_node(node)

    def _within(self, mask: Node, values: Node, other: Any) -> Node:
        """The values within the mask, and the other outside of it."""
        for _ in range(_value(values).dim() - 1):  # dimensions that the mask does not have
            mask = self.nodes.call_function(_ATEN.unsqueeze.default, (mask, -1))
        func = _ATEN.where.self if isinstance(other, Node) else _ATEN.where.ScalarOther
        return self.nodes.call_function(func, (mask, values, other))


def _value(node: Any) -> Any:
    """What it was when it was recorded, but for its values."""
    return node.meta["val"]


def _equal(a: Node, b: Node) -> bool:
    """Whether two nodes have one value: computed in the same way from the same, which nothing changes."""
    if a is b:
        return True
    func: Any = a.target
    if a.op != "call_function" or a.op != b.op or func is not b.target or func is operator.getitem:
        return False
    if private.mutates(func) or torch.Tag.nondeterministic_seeded in getattr(func, "tags", ()):
        return False
    changed = {private.root(node.args[0]) for node in a.graph.nodes if private.mutates(node.target)}
    if any(private.root(argument) in changed for node in (a, b) for argument in node.all_input_nodes):
        return False
    one, other = private.tree_leaves((a.args, a.kwargs)), private.tree_leaves((b.args, b.kwargs))
    return len(one) == len(other) and all(
        _equal(x, y) if isinstance(x, Node) and isinstance(y, Node) else type(x) is type(y) and x == y
        for x, y in zip(one, other, strict=True)
    )
