"""How much faster are several processes, at equal work in each?

    python benchmarks/scale.py --processes 1 2 4 --rows 256 1024

trains a VAE (784-H-50 and back) by ``pv.fit`` in so many processes of one thread each, on ``--rows`` data a
step in each of them, and prints the efficiency: the time of a step of one process over that of R together,
whose batches are R times as large. So many processes are also run apart, each training a model of its own
at the same time as the others: what they lose against one process, the machine takes (its memory, caches and
clock are shared), and what those that train together lose against them is the price of training together.

Rounds take the numbers in turn, in fresh processes; each ratio is of one round, and the table has their
median with the smallest and the largest. Beside it stands what the time goes into: floating-point operations
at the rate of the step's largest product, and an all-reduce of as many bytes alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

import torch
from torch.distributed.rendezvous import rendezvous

import pyro_vae as pv
from pyro_vae.distributed import joined
from pyro_vae.training.stamps import stamp

SIZE, LATENT = 784, 50


def median_seconds(function: Callable[[], object], number: int = 20) -> float:
    """Of a call."""
    times = []
    for _ in range(number):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def meeting() -> Callable[[int, Mapping[str, float], pv.Program], None]:
    """A callback by which processes that do not train together begin each epoch at the same time."""
    store, _, size = next(rendezvous("env://"))
    os.environ["WORLD_SIZE"] = "1"  # by which fit would know of the others

    def meet(epoch: int, row: Mapping[str, float], program: pv.Program) -> None:
        if store.add(f"there {epoch}", 1) == size:
            store.set(f"all {epoch}", "")
        store.wait([f"all {epoch}"])

    return meet


def work(args: argparse.Namespace) -> None:
    """In one process of those of a round: prints what was measured."""
    torch.set_num_threads(1)
    (size,) = args.rows
    meet = meeting() if args.apart else None
    with joined() as group:
        torch.manual_seed(0)
        rows = size * args.steps * group.size
        data = pv.data.load(torch.bernoulli(torch.rand(rows, SIZE)), validation=0, test=0)
        nets = {"encoder": pv.nets.mlp(args.hidden), "decoder": pv.nets.mlp(args.hidden)}
        vae = pv.VAE((SIZE,), LATENT, **nets)
        options = {"epochs": args.epochs, "compile": True, "progress": False, "callback": meet}
        run = pv.fit(vae, data, batch_size=size * group.size, **options)
        # The first epoch compiles, and the second may still.
        seconds = statistics.median(row["seconds"] for row in run.history[2:]) / args.steps
        weights = [value for value in vae.parameters() if value.dim() == 2]
        parameters = sum(value.numel() for value in vae.parameters())
        a, b = torch.randn(size, SIZE), torch.randn(SIZE, args.hidden)
        product = median_seconds(lambda: a @ b)
        reduced = 0.0
        if group.size > 1:
            flat = torch.zeros(parameters)
            reduced = median_seconds(lambda: torch.distributed.all_reduce(flat))
        found = {
            "seconds": seconds,
            "parameters": parameters,
            # Each weight is in one product forward, and in two backward, but for the first layer's.
            "operations": size * (6 * sum(w.numel() for w in weights) - 2 * SIZE * args.hidden),
            "rate": 2 * size * SIZE * args.hidden / product,
            "bytes": 2 * (group.size - 1) / group.size * 4 * parameters,
            "reduced": reduced,
        }
        sys.stdout.write(f"{json.dumps(found)}\n")  # at once: the others' are written to the same pipe


def measure(processes: int, argv: list[str]) -> dict[str, float]:
    """One round of so many processes: the mean of what each has measured."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*command, __file__, "--work", *argv],
        env=environment | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: statistics.mean(each[name] for each in found) for name in found[0]}


def told(ratios: list[float]) -> str:
    """Their median, with the smallest and the largest."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, nargs="+", default=[256], help="data a step in each process")
    parser.add_argument("--steps", type=int, default=50, help="in an epoch")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=400)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--apart", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args)
        return
    here = stamp(torch.device("cpu"))
    print(
        f"{here['processor']}, {os.cpu_count()} cores; torch {here['torch']}; {args.rounds} rounds, medians\n"
    )
    print(
        "| rows | processes | ms a step | ms apart | efficiency | apart | together / apart "
        "| MFLOP | ms at its rate | MB all-reduced | ms alone |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    numbers = sorted({1, *args.processes})
    for rows in args.rows:
        own = [f"--{name}={getattr(args, name)}" for name in ("steps", "epochs", "hidden")]
        argv = [f"--rows={rows}", *own]
        rounds = [
            {
                number: (measure(number, argv), measure(number, [*argv, "--apart"]) if number > 1 else None)
                for number in numbers
            }
            for _ in range(args.rounds)
        ]
        for number in numbers:
            together = [found[number][0] for found in rounds]
            apart = [found[number][1] or found[number][0] for found in rounds]
            one, both, each = (
                [found["seconds"] for found in some]
                for some in ([found[1][0] for found in rounds], together, apart)
            )
            ratios = [
                told([a / b for a, b in zip(*pair, strict=True)])
                for pair in ((one, both), (one, each), (each, both))
            ]
            middle = {name: statistics.median(found[name] for found in together) for name in together[0]}
            print(
                f"| {rows} | {number} | {1e3 * middle['seconds']:.2f} | {1e3 * statistics.median(each):.2f} "
                f"| {' | '.join(ratios)} | {middle['operations'] / 1e6:.0f} "
                f"| {1e3 * middle['operations'] / middle['rate']:.2f} | {middle['bytes'] / 1e6:.2f} "
                f"| {1e3 * middle['reduced']:.2f} |"
            )


if __name__ == "__main__":
    main()
