"""Does anything grow? Many steps, many runs and many loads, each kind in processes of its own.

    python benchmarks/soak.py --steps 2000000 --fits 1000 --loads 10000 --minutes 9 --jobs 14

trains a tiny model, with validation, checkpoints, histories and logs: a fortieth of the steps in an eager
run, the others in compiled ones; in short runs, one after the other; and loads a run and evaluates it, over
and over. Each process tells what it holds after a warm-up and at the end: resident memory, open files,
threads, handlers of signals, entries of Pyro's parameter store, and Python's objects. Exit code 1: something
of these has grown (memory by more than 32 MiB, objects by more than 5,000), or the time was over before an
aim was reached.
"""

from __future__ import annotations

import argparse
import gc
import math
import multiprocessing
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyro
import torch

import pyro_vae as pv

MOST = {"resident MiB": 32.0, "Python's objects": 5000.0}
"""By which it may grow; nothing else may."""
Held = dict[str, float]


def held() -> Held:
    """What the process holds."""
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    return {
        "resident MiB": round(int(status["VmRSS"].split()[0]) / 1024, 1),
        "open files": len(list(Path("/proc/self/fd").iterdir())),
        "threads": int(status["Threads"]),
        "Python's threads": threading.active_count(),
        "signals handled otherwise": sum(
            handler not in (signal.default_int_handler, signal.SIG_DFL) for handler in handlers
        ),
        "parameters in Pyro's store": len(pyro.get_param_store()),
        "Python's objects": len(gc.get_objects()),
    }


class Soak:
    """Work of each kind, in a folder, until the aim is reached, or the time; each tells how much was done."""

    def __init__(self, folder: Path):
        self.folder, self.number = folder, 0
        self.data = pv.data.load(torch.randn(4100, 4), validation=0.0125, test=0.0125)
        self.few = pv.data.load(torch.randn(400, 4))

    def fit(self, data: pv.data.Data, batch_size: int, **options: Any) -> pv.Run:
        """One run, in a folder of its own that the next one removes."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            nets = {"encoder": pv.nets.mlp(4), "decoder": pv.nets.mlp(4)}
            vae = pv.VAE((4,), 1, likelihood=pv.likelihoods.Normal(), **nets)
            options |= {"batch_size": batch_size, "progress": False, "device": "cpu"}
            return pv.fit(vae, data, folder=folder, **options)

    def steps(self, compile: bool, aim: float, until: float) -> int:
        """One run of so many steps, 500 an epoch."""

        def over(epoch: int, row: Mapping[str, float], program: pv.Program) -> bool:
            return row["steps"] >= aim or time.monotonic() > until

        options = {"epochs": 1_000_000, "save_every": 250, "keep": 2, "compile": compile, "callback": over}
        return int(self.fit(self.data, 8, **options).history[-1]["steps"])

    def eager(self, aim: float, until: float) -> int:
        """Steps as Pyro takes them."""
        return self.steps(False, aim, until)

    def compiled(self, aim: float, until: float) -> int:
        """Compiled steps."""
        return self.steps(True, aim, until)

    def fits(self, aim: float, until: float) -> int:
        """Short runs, one after the other."""
        number = 0
        while number < aim and time.monotonic() < until:
            self.fit(self.few, 64, epochs=2, compile=False)
            number += 1
        return number

    def loads(self, aim: float, until: float) -> int:
        """A run that is loaded and evaluated, over and over."""
        run, number = self.folder / "run", 0
        if not run.exists():
            vae = pv.VAE((4,), 1, likelihood=pv.likelihoods.Normal())
            pv.fit(vae, self.few, folder=run, epochs=2, progress=False, device="cpu")
        while number < aim and time.monotonic() < until:
            pv.evaluate.elbo(pv.load(run), self.few.test, num_samples=1)
            number += 1
        return number


WARM_UP = {"eager": 1000, "compiled": 1000, "fits": 20, "loads": 100}
"""Of each kind, after which all is there that is made once."""


def soak(kind: str, aim: float, seconds: float) -> tuple[str, int, float, Held, Held]:
    """Works in this process; the kind, how much was done in what time, and what was held before and after."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        work = getattr(Soak(Path(folder)), kind)
        work(WARM_UP[kind], math.inf)
        before, began = held(), time.monotonic()
        done = work(aim, began + seconds)
        return kind, done, time.monotonic() - began, before, held()


def alone(task: tuple[str, float, float]) -> tuple[str, int, float, Held, Held]:
    """The same in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(soak, *task).result()


def told(figures: Mapping[str, float], sign: str = "") -> str:
    """Figures in a line."""
    return ", ".join(f"{name} {value:{sign}g}" for name, value in figures.items())


def main() -> int:
    """Prints what grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="at most, of each process after its warm-up"
    )
    for kind in ("steps", "fits", "loads"):
        parser.add_argument(
            f"--{kind}", type=float, default=math.inf, help="aim; without one, the time ends it"
        )
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    given = parser.parse_args()
    several = max(1, given.jobs - 3)  # of compiled steps, which are most of the work
    aims = {"eager": given.steps / 40, "compiled": given.steps * 39 / 40 / several}
    aims |= {"fits": given.fits, "loads": given.loads}
    kinds = ["eager", *["compiled"] * several, "fits", "loads"]
    tasks = [(kind, aims[kind], 60 * given.minutes) for kind in kinds]
    total, most, short = dict.fromkeys(aims, 0), dict[str, float](), False
    with ThreadPoolExecutor(given.jobs) as pool:  # each waits for a process
        for kind, done, seconds, before, after in pool.map(alone, tasks):
            growth = {name: round(after[name] - before[name], 1) for name in before}
            total[kind] += done
            short |= done < aims[kind] < math.inf
            most = {name: max(value, most.get(name, value)) for name, value in growth.items()}
            print(f"{kind}: {done:,} in {seconds:.0f} s, {done / seconds:,.0f} a second")
            print(f"    after the warm-up: {told(before)}\n    at the end: {told(after)}")
            print(f"    growth: {told(growth, '+')}", flush=True)
    print(f"in {len(tasks)} processes: " + ", ".join(f"{kind} {done:,}" for kind, done in total.items()))
    print(f"growth of a process, at most: {told(most, '+')}")
    grown = any(value > MOST.get(name, 0) for name, value in most.items())
    return int(grown or short)


if __name__ == "__main__":
    sys.exit(main())
