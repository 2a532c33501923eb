"""What does a loop over time cost to compile, and what is gained?

    python benchmarks/loops.py --lengths 10 50 200

trains a deep Markov model (Krishnan, Shalit, Sontag, 2017; as in Pyro's examples/dmm.py, with half of its
widths) on random sequences of so many steps of time, and prints the seconds until the second step is done and
the milliseconds of a step: Pyro's, ours eager and compiled, taken in turn, in one process for each length.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from pyro_vae.engine import products, regions
from pyro_vae.svi import SVI

KEYS, LATENT = 88, 50


class DeepMarkovModel(nn.Module):
    """z_t | z_{t-1} by a gated transition, x_t | z_t, and q(z_t | z_{t-1}, x_{t:T}) by reading backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(LATENT, 100), nn.ReLU(), nn.Linear(100, LATENT), nn.Sigmoid())
        self.proposal = nn.Sequential(nn.Linear(LATENT, 100), nn.ReLU(), nn.Linear(100, LATENT))
        self.line, self.spread = nn.Linear(LATENT, LATENT), nn.Linear(LATENT, LATENT)
        self.emission = nn.Sequential(nn.Linear(LATENT, 100), nn.ReLU(), nn.Linear(100, KEYS))
        self.reader = nn.GRU(KEYS, 300, batch_first=True)
        self.combine, self.moments = nn.Linear(LATENT, 300), nn.Linear(300, 2 * LATENT)

    def model(self, x: Tensor) -> None:
        pyro.module("dmm", self)
        z = x.new_zeros(len(x), LATENT)
        with pyro.plate("data", len(x)):
            for t in range(x.shape[1]):
                gate, proposal = self.gate(z), self.proposal(z)
                loc = (1 - gate) * self.line(z) + gate * proposal
                scale = nn.functional.softplus(self.spread(proposal.relu()))
                z = pyro.sample(f"z{t}", dist.Normal(loc, scale).to_event(1))
                pyro.sample(f"x{t}", dist.Bernoulli(logits=self.emission(z)).to_event(1), obs=x[:, t])

    def guide(self, x: Tensor) -> None:
        pyro.module("dmm", self)
        read = self.reader(x.flip(1))[0].flip(1)
        z = x.new_zeros(len(x), LATENT)
        with pyro.plate("data", len(x)):
            for t in range(x.shape[1]):
                hidden = 0.5 * (torch.tanh(self.combine(z)) + read[:, t])
                loc, raw = self.moments(hidden).chunk(2, -1)
                z = pyro.sample(f"z{t}", dist.Normal(loc, nn.functional.softplus(raw)).to_event(1))


def measure(length: int, batch_size: int, rounds: int) -> str:
    """A row of the table."""
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((batch_size, length, KEYS), 0.1))
    records: list[regions.Record] = []
    build = regions.build

    def noted(record: regions.Record, compiler: regions.Compiler) -> torch.fx.GraphModule:
        records.append(record)
        return build(record, compiler)

    regions.build = noted
    steps: dict[str, Callable[[], object]] = {}
    waits = {}
    for name, make in {
        "Pyro": lambda dmm: pyro.infer.SVI(dmm.model, dmm.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO()),
        "eager": lambda dmm: SVI(dmm.model, dmm.guide, adam(dmm), Trace_ELBO(), compile=False),
        "compiled": lambda dmm: SVI(dmm.model, dmm.guide, adam(dmm), Trace_ELBO(), compile=True),
    }.items():
        pyro.clear_param_store()
        torch.manual_seed(0)
        svi = make(DeepMarkovModel())
        steps[name] = lambda svi=svi: float(svi.step(x))
        began = time.perf_counter()
        steps[name](), steps[name]()
        waits[name] = time.perf_counter() - began
    assert svi.engine.startswith("compiled"), svi.engine
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            times[name].append(1000 * (time.perf_counter() - began))
    pieces = regions.distinct(records[-1].order).values() if records else []
    operations = f"{len(records[-1].bases)}, {sum(map(len, pieces))} different" if records else "whole"
    cells = [f"{statistics.median(times[name]):.0f}" for name in ("Pyro", "eager", "compiled")]
    return f"| {length} | {operations} | {waits['compiled']:.0f} | {' | '.join(cells)} |"


def adam(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), 1e-3, fused=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[10, 50, 200])
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--length", type=int, help=argparse.SUPPRESS)  # of the process that measures it
    chosen = parser.parse_args()
    if chosen.length:
        print(measure(chosen.length, chosen.batch_size, chosen.rounds), flush=True)
        return
    print(f"{products.processor()}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| steps of time | operations | s until compiled | ms, Pyro | ms, eager | ms, compiled |")
    print("|---:|---:|---:|---:|---:|---:|", flush=True)
    for length in chosen.lengths:
        options = ["--length", length, "--batch-size", chosen.batch_size, "--rounds", chosen.rounds]
        subprocess.run([sys.executable, "-W", "ignore", Path(__file__), *map(str, options)], check=True)


if __name__ == "__main__":
    main()
