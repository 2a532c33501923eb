"""Which library computes a product of matrices on a CPU: measured, since no rule holds on the next machine.

PyTorch leaves products of float32 to MKL. oneDNN's are twice as fast on some processors of AMD, and no
faster, or slower by the copies that it makes of transposed matrices, on others and on Intel's. So each
shape is timed once, and the answer is kept in inductor's cache, by processor, version of PyTorch and number
of threads: the second run of a program has the same answer, and so the same bits.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyro_vae.engine import private

SMALLEST = 2**16
"""Multiplications below which nothing is to be gained."""
GAIN = 1.25
"""How many times as fast oneDNN must be: near 1, a second measurement could decide otherwise."""
ROUNDS = 9

_answers: dict[str, dict[str, bool]] = {}


def choose(graph: GraphModule) -> None:
    """Has oneDNN compute the products that it is faster at."""
    aten, nodes = torch.ops.aten, graph.graph
    if not private.onednn():
        return
    for node in list(nodes.find_nodes(op="call_function", target=aten.mm.default)):
        a, b = (argument.meta["val"] for argument in node.args)
        if a.dtype != torch.float32 or a.device.type != "cpu" or a.numel() * b.shape[1] < SMALLEST:
            continue
        if onednn_is_faster(a, b):
            with nodes.inserting_before(node):
                weight = nodes.call_function(aten.t.default, (node.args[1],))
                product = nodes.call_function(torch.ops.pyro_vae.linear.default, (node.args[0], weight))
            weight.meta["val"], product.meta["val"] = b.t(), node.meta["val"]
            node.replace_all_uses_with(product)
            nodes.erase_node(node)


def onednn_is_faster(a: Tensor, b: Tensor) -> bool:
    """For matrices of these shapes, with their elements in this order."""
    machine = f"{processor()}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    answers = _answers.setdefault(machine, {})
    key = " @ ".join(f"{tuple(x.shape)} by {x.stride()}" for x in (a, b))
    file = private.cache_folder() / "pyro_vae_products.json"
    if key not in answers:
        answers.update(_read(file).get(machine, {}))
    if key not in answers:
        answers[key] = _measure(*(torch.empty_strided(x.shape, x.stride()).fill_(0.5) for x in (a, b)))
        _write(file, machine, answers)
    return answers[key]


def processor() -> str:
    """Its name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


@torch.no_grad()
def _measure(a: Tensor, b: Tensor) -> bool:
    functions: tuple[Callable[[], Tensor], ...] = (
        lambda: torch.mm(a, b),
        lambda: torch.ops.pyro_vae.linear(a, b.t()),
    )
    times: list[list[float]] = [[], []]
    for i in range(2 + ROUNDS):
        for function, found in zip(functions, times, strict=True):
            began = time.perf_counter()
            function()
            if i >= 2:  # the first calls make what later ones use
                found.append(time.perf_counter() - began)
    mkl, onednn = map(statistics.median, times)
    return mkl > GAIN * onednn


def _read(file: Path) -> dict[str, dict[str, bool]]:
    """What was measured before; nothing, of a file that is not as it was written."""
    try:
        found = json.loads(file.read_text())
        return {
            str(machine): {str(key): value for key, value in answers.items() if isinstance(value, bool)}
            for machine, answers in found.items()
        }
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def _write(file: Path, machine: str, answers: dict[str, bool]) -> None:
    """Together with what others have measured meanwhile; where it cannot be kept, it is measured again."""
    found = _read(file)
    found[machine] = found.get(machine, {}) | answers
    unfinished = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(found, indent=1))
        unfinished.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink()
