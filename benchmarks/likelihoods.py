"""What does annealed importance sampling cost, against the products of matrices that it cannot do without?

    python benchmarks/likelihoods.py --threads 1

prints seconds of ``pv.evaluate.ais``, compiled and eager, of a 784-400-400-20 VAE on random images, and of
the bare float32 products of its decoder, forwards and backwards, for as many data as it decodes. They are
taken in turn in one process; told are medians, and of the ratios the quartiles too. What is done once a call,
compiling above all, is left out: times are differences between many temperatures and few.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.engine import products
from pyro_vae.evaluate.ais import gradients


def seconds(function: Callable[[], Any]) -> float:
    """Of one call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--temperatures", type=int, default=100)
    parser.add_argument("--chains", type=int, default=16)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    vae = pv.VAE((784,), 20)
    x = torch.bernoulli(torch.full((given.images, 784), 0.3))
    few, many, leapfrogs = given.temperatures, 3 * given.temperatures, 2
    number = gradients(many, leapfrogs) - gradients(few, leapfrogs)
    weights = [layer.weight.detach() for layer in vae.p_x.net.modules() if isinstance(layer, nn.Linear)]
    z = torch.randn(given.images * given.chains, 20)

    def ours(compile: bool, temperatures: int) -> Callable[[], Any]:
        options = {"num_temperatures": temperatures, "num_chains": given.chains, "leapfrogs": leapfrogs}
        return lambda: pv.evaluate.ais(vae, x, compile=compile, **options)

    def bare() -> None:
        for _ in range(number):
            y = z
            for weight in weights:
                y = y @ weight.t()
            for weight in reversed(weights):
                y = y @ weight

    times: dict[str, list[float]] = {"compiled": [], "eager": [], "products alone": []}
    seconds(ours(True, few))  # fills the compiler's cache
    for _ in range(given.rounds):
        for name in ("compiled", "eager"):
            own = [seconds(ours(name == "compiled", temperatures)) for temperatures in (many, few)]
            times[name].append(own[0] - own[1])
        times["products alone"].append(seconds(bare))
    print(f"{products.processor()}, {given.threads} threads, torch {torch.__version__}")
    print(f"{number * len(z)} decoder passes forwards and backwards, medians of {given.rounds} rounds")
    print("\n| | s | / products alone |\n|---|---:|---:|")
    for name, values in times.items():
        ratios = [a / b for a, b in zip(values, times["products alone"], strict=True)]
        low, _, high = statistics.quantiles(ratios, method="inclusive") if len(ratios) > 1 else ratios * 3
        ratio = f"{statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})"
        print(f"| {name} | {statistics.median(values):.2f} | {ratio} |")


if __name__ == "__main__":
    main()
