"""How much faster are several processes, at equal work in each?

    python benchmarks/scale.py --processes 1 2 4

trains a VAE (784-H-50 and back) by ``pv.fit`` in so many processes of one thread each, on ``--rows`` data a
step in each of them, and prints the efficiency: the time of an epoch of one process over that of R, which has
R times as many data. Rounds take the numbers in turn, in fresh processes; each ratio is of one round, and the
table has their median with the smallest and the largest. Beside it stands what the time goes into:
floating-point operations at the rate of the step's largest product, and an all-reduce of as many bytes alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

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


def work(args: argparse.Namespace) -> None:
    """In one process of those of a round: the first prints what was measured."""
    torch.set_num_threads(1)
    with joined() as group:
        torch.manual_seed(0)
        rows = args.rows * args.steps * group.size
        data = pv.data.load(torch.bernoulli(torch.rand(rows, SIZE)), validation=0, test=0)
        nets = {"encoder": pv.nets.mlp(args.hidden), "decoder": pv.nets.mlp(args.hidden)}
        vae = pv.VAE((SIZE,), LATENT, **nets)
        run = pv.fit(
            vae, data, epochs=args.epochs, batch_size=args.rows * group.size, compile=True, progress=False
        )
        # The first epoch compiles, and the second may still.
        seconds = statistics.median(row["seconds"] for row in run.history[2:]) / args.steps
        weights = [value for value in vae.parameters() if value.dim() == 2]
        parameters = sum(value.numel() for value in vae.parameters())
        a, b = torch.randn(args.rows, SIZE), torch.randn(SIZE, args.hidden)
        product = median_seconds(lambda: a @ b)
        reduced = 0.0
        if group.size > 1:
            flat = torch.zeros(parameters)
            reduced = median_seconds(lambda: torch.distributed.all_reduce(flat))
        found = {
            "seconds": seconds,
            "parameters": parameters,
            # Each weight is in one product forward, and in two backward, but for the first layer's.
            "operations": args.rows * (6 * sum(w.numel() for w in weights) - 2 * SIZE * args.hidden),
            "rate": 2 * args.rows * SIZE * args.hidden / product,
            "bytes": 2 * (group.size - 1) / group.size * 4 * parameters,
            "reduced": reduced,
        }
        if group.rank == 0:
            print(json.dumps(found))


def measure(processes: int, argv: list[str]) -> dict[str, float]:
    """One round of so many processes."""
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
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=256, help="data a step in each process")
    parser.add_argument("--steps", type=int, default=50, help="in an epoch")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=400)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args)
        return
    argv = [f"--{name}={getattr(args, name)}" for name in ("rows", "steps", "epochs", "hidden")]
    numbers = sorted({1, *args.processes})
    rounds = [{number: measure(number, argv) for number in numbers} for _ in range(args.rounds)]
    here = stamp(torch.device("cpu"))
    print(
        f"{here['processor']}, {os.cpu_count()} cores; torch {here['torch']}; {args.rounds} rounds, medians\n"
    )
    print(
        "| processes | ms a step | efficiency | MFLOP | ms at its rate | MB all-reduced | ms alone | binds |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for number in numbers:
        each = [found[number] for found in rounds]
        ratios = sorted(found[1]["seconds"] / found[number]["seconds"] for found in rounds)
        middle = {name: statistics.median(found[name] for found in each) for name in each[0]}
        computed = middle["operations"] / middle["rate"]
        binds = "all-reduce" if middle["reduced"] > computed else "products"
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        megabytes, alone = middle["bytes"] / 1e6, 1e3 * middle["reduced"]
        print(
            f"| {number} | {1e3 * middle['seconds']:.2f} | {spread} | {middle['operations'] / 1e6:.0f} "
            f"| {1e3 * computed:.2f} | {megabytes:.2f} | {alone:.2f} | {binds} |"
        )


if __name__ == "__main__":
    main()
