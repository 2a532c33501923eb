"""A long record, compiled piece by piece: what a loop over time repeats is compiled once.

A loop of 50 turns is 50 times the same, and inductor's time grows with the length of what it is given. So a
long record is cut where it repeats itself, and into pieces that are not too long; each is compiled by itself,
equal ones once.

Left as they are, between the pieces, are operations whose numbers differ from turn to turn (``x[:, t]`` and
its gradient), that write, draw random numbers, or give several tensors. Views cost nothing, and are taken
wherever they are needed.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from pyro_vae.engine import private

Compiler = Callable[[GraphModule, list[Tensor]], Callable[..., Any]]

LEAST, SHORT, MOST = 8, 32, 1000
"""Operations of a piece: at least, for a call costs time too; of several short turns; at most."""
WINDOW, PERIODS = 8, 100
"""Operations that a repetition is looked for by; and lengths of turns that are tried."""

_ATEN = torch.ops.aten
_INDEXED = {_ATEN.select.int, _ATEN.slice.Tensor, _ATEN.select_backward.default, _ATEN.slice_backward.default}


def divide(graph: GraphModule, compiler: Compiler, most: int) -> GraphModule:
    """The graph with its pieces compiled.

    Args:
        graph: whose nodes have values, as make_fx leaves them.
        compiler: of a graph, and of tensors such as its arguments will be.
        most: operations that are compiled in all.

    Raises:
        ValueError: there are more, since too little is repeated.
    """
    record = Record(graph)
    size = sum(map(len, distinct(record.order).values()))
    if size > most:
        raise ValueError(f"{size} different operations, more than {most}")
    return build(record, compiler)


class Record:
    """What of a graph is a view, what is to be left alone, and what are its pieces."""

    def __init__(self, graph: GraphModule):
        self.graph = graph
        written = _written(graph)
        self.views: set[Node] = set()
        """Of tensors that are not written to."""
        self.alone: set[Node] = set()
        self.bases: dict[Node, list[Node]] = {}
        """What each is computed from, looking through views."""
        for node in graph.graph.nodes:
            if node.op != "call_function":
                continue
            func: Any = node.target
            given = node.all_input_nodes
            self.bases[node] = [b for a in given for b in (self.bases[a] if a in self.views else [a])]
            whole = isinstance(node.meta.get("val"), Tensor) and func is not operator.getitem
            if node in written or not whole or func in _INDEXED or private.mutates(func):
                self.alone.add(node)
            elif private.aliases(func):
                self.views.add(node)
            elif torch.Tag.nondeterministic_seeded in func.tags:
                self.alone.add(node)
        self.order: list[Node | _Piece] = []
        """Pieces, and nodes that are left as they are, one after the other."""
        self._cut()

    def _cut(self) -> None:
        nodes = [node for node in self.bases if node not in self.views]
        cuts = turns([f"{n.target} {'' if n in self.alone else _layout(n)}" for n in nodes])
        piece: list[Node] = []
        for i, node in enumerate(nodes):
            if i in cuts or len(piece) == MOST:
                self._close(piece)
            if node not in self.alone:
                piece.append(node)
                continue
            if not self._may_precede(node, piece):
                self._close(piece)
            self.order.append(node)
        self._close(piece)

    def _close(self, piece: list[Node]) -> None:
        self.order.extend([_Piece(piece, self.views)] if len(piece) >= LEAST else piece)
        piece.clear()

    def _may_precede(self, node: Node, piece: list[Node]) -> bool:
        """Whether it needs nothing of the piece, and writes to nothing that the piece needs."""
        if not set(piece).isdisjoint(self.bases[node]):
            return False
        if not private.may_write(node.target):
            return True
        needed = {private.root(base) for other in piece for base in self.bases[other]}
        return not any(private.root(argument) in needed for argument in node.all_input_nodes)


def turns(items: Sequence[Hashable]) -> set[int]:
    """Where a sequence is to be cut so that its repetitions are alike.

    >>> sorted(turns([*"ab", *[*"loop-of-nine"] * 40, *"end"]))[:3]
    [2, 38, 74]
    """
    numbers: dict[Hashable, int] = {}
    sequence = np.array([numbers.setdefault(item, len(numbers)) for item in items])
    distances: Counter[int] = Counter()
    last: dict[bytes, int] = {}
    for i in range(len(sequence) - WINDOW + 1):
        window = sequence[i : i + WINDOW].tobytes()
        if window in last:
            distances[i - last[window]] += 1
        last[window] = i
    free = np.ones(len(sequence), dtype=bool)
    cuts: set[int] = set()

    def runs(period: int) -> list[tuple[int, int]]:
        """From where to where there are two turns or more of this length."""
        alike = (sequence[period:] == sequence[:-period]) & free[period:] & free[:-period]
        edges = np.flatnonzero(np.diff(np.concatenate([[0], alike.astype(np.int8), [0]])))
        return [(a, b + period) for a, b in edges.reshape(-1, 2).tolist() if b - a >= max(period, WINDOW)]

    def covered(period: int) -> int:
        return sum(end - begin for begin, end in runs(period))

    periods = [period for period, _ in distances.most_common(PERIODS)]
    for period in sorted(periods, key=lambda period: (-covered(period), period)):
        length = period * -(-SHORT // period)
        for begin, end in runs(period):
            cuts.update(range(begin, end, length), [end])
            free[begin:end] = False
    return cuts


def distinct(order: list[Node | _Piece]) -> dict[Any, _Piece]:
    return {item.description: item for item in order if isinstance(item, _Piece)}


def build(record: Record, compiler: Compiler) -> GraphModule:
    graph, order = record.graph, record.order
    compiled = {
        description: compiler(piece.module(graph), piece.examples())
        for description, piece in distinct(order).items()
    }
    whole = Graph()
    copies: dict[Node, Node] = {}

    def copied(node: Node) -> Node:
        if node not in copies:  # a view
            copies[node] = whole.node_copy(node, copied)
        return copies[node]

    for node in graph.graph.find_nodes(op="placeholder"):
        copies[node] = whole.node_copy(node)
    for number, item in enumerate(order):
        if isinstance(item, Node):
            copies[item] = whole.node_copy(item, copied)
            continue
        call = _named(compiled[item.description], f"piece_{number}")
        results = whole.call_function(call, tuple(map(copied, item.inputs)))
        for i, node in enumerate(item.outputs):
            copies[node] = whole.call_function(operator.getitem, (results, i))
    (output,) = graph.graph.find_nodes(op="output")
    whole.node_copy(output, copied)
    return GraphModule(graph, whole)


class _Piece:
    """Operations that follow one another; what is computed alike is described alike."""

    def __init__(self, nodes: list[Node], views: set[Node]):
        own = set(nodes)
        self.inputs: list[Node] = []
        self.body: list[Node] = []  # with the views that it takes
        numbers: dict[Node, int] = {}

        def visit(node: Node) -> None:
            if node in numbers:
                return
            if node in own or node in views:
                for argument in node.all_input_nodes:
                    visit(argument)
                self.body.append(node)
            else:
                self.inputs.append(node)
            numbers[node] = len(numbers)

        def is_used_outside(node: Node) -> bool:
            return any(is_used_outside(user) if user in views else user not in own for user in node.users)

        for node in nodes:
            visit(node)
        self.outputs = [node for node in nodes if is_used_outside(node)]

        def told(value: Any) -> Any:
            return f"%{numbers[value]}" if isinstance(value, Node) else value

        body = [f"{node.target} {private.tree_map(told, (node.args, node.kwargs))}" for node in self.body]
        given = [f"{numbers[node]} {_layout(node)}" for node in self.inputs]
        self.description = *body, *given, *(numbers[node] for node in self.outputs)

    def __len__(self) -> int:
        return len(self.body)

    def module(self, owner: GraphModule) -> GraphModule:
        graph = Graph()
        copies = {node: graph.placeholder(f"arg{i}") for i, node in enumerate(self.inputs)}
        for node in self.body:
            copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output(tuple(copies[node] for node in self.outputs))
        for node in graph.nodes:
            node.meta.clear()
        return GraphModule(owner, graph)

    def examples(self) -> list[Tensor]:
        """Tensors such as it will be given."""
        values = [node.meta["val"] for node in self.inputs]
        return [torch.empty_strided(v.shape, v.stride(), dtype=v.dtype, device=v.device) for v in values]


def _layout(node: Node) -> str:
    value = node.meta["val"]
    return f"{tuple(value.shape)} {value.stride()} {value.dtype} {value.device}"


def _written(graph: GraphModule) -> set[Node]:
    """Intermediate results that are written to, and what shares memory with them."""
    roots = {
        private.root(argument)
        for node in graph.graph.nodes
        if private.mutates(node.target)
        for argument in node.all_input_nodes
    }
    roots = {node for node in roots if node.op == "call_function"}
    return {node for node in graph.graph.nodes if private.root(node) in roots}


def _named(compiled: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A function, which the code of a graph can call by a name."""

    def call(*args: Tensor) -> Any:
        return compiled(*args)

    call.__name__ = name
    return call
