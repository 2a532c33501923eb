"""Does anything grow? Many steps in one run, then many runs and many loads in one process.

    python benchmarks/soak.py --minutes 10

trains a tiny model with validation, checkpoints and reports for as long: a third of the time in one eager
run, a third in one compiled run, and a third in short runs, each kept and loaded again. It prints what the
process holds after a warm-up and at the end of each third: resident memory, open files, threads, handlers of
signals, entries of Pyro's parameter store, and Python's objects.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import shutil
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyro
import torch

import pyro_vae as pv


def held() -> dict[str, float]:
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
    """A tiny model on the digits, and what has been done with it."""

    def __init__(self, folder: Path):
        self.folder, self.data = folder, pv.data.load("digits", binarize="dynamic")
        self.done = dict.fromkeys(("steps", "epochs", "fits", "loads"), 0)

    def vae(self) -> pv.VAE:
        """Untrained."""
        return pv.VAE(self.data.event_shape, 2, encoder=pv.nets.mlp(8), decoder=pv.nets.mlp(8))

    def fit(self, seconds: float, compile: bool, epochs: int = 1_000_000) -> None:
        """One run, which the clock ends."""
        end = time.monotonic() + seconds

        def over(epoch: int, row: Mapping[str, float], program: pv.Program) -> bool:
            return time.monotonic() > end

        shutil.rmtree(self.folder, ignore_errors=True)
        options: dict[str, Any] = {"epochs": epochs, "batch_size": 64, "progress": False, "device": "cpu"}
        run = pv.fit(self.vae(), self.data, folder=self.folder, compile=compile, callback=over, **options)
        self.done["fits"] += 1
        self.done["epochs"] += len(run.history)
        self.done["steps"] += int(run.history[-1]["steps"])

    def load(self) -> None:
        """What was trained last, and its ELBO."""
        pv.evaluate.elbo(pv.load(self.folder), self.data.test, num_samples=1)
        self.done["loads"] += 1

    def thirds(self, seconds: float) -> Iterator[str]:
        """Each kind of work for so long."""
        for compile in (False, True):
            self.fit(seconds, compile)
            yield f"one {'compiled' if compile else 'eager'} run"
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.fit(seconds, compile=False, epochs=2)
            for _ in range(3):
                self.load()
        yield "runs and loads"


def main() -> None:
    """Prints what grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    given = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        soak = Soak(Path(folder) / "run")
        for _ in soak.thirds(1.0):  # what is made once, is made now
            pass
        before, kinds = held(), soak.thirds(60 * given.minutes / 3)
        print(f"{'after the warm-up':<20} " + ", ".join(f"{name} {value}" for name, value in before.items()))
        done = dict(soak.done)
        for kind in kinds:
            told = ", ".join(f"{name} {value - done[name]}" for name, value in soak.done.items())
            done = dict(soak.done)
            grown = ", ".join(f"{name} {value - before[name]:+g}" for name, value in held().items())
            print(f"{kind:<20} {told}; since the warm-up: {grown}", flush=True)


if __name__ == "__main__":
    main()
