"""What the children do: runs, whole ones and such in which something happens."""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import pyro_vae as pv
from pyro_vae.svi import SVI

from .shim import Clocks, Shim

SETTINGS = {"epochs": 3, "batch_size": 30, "patience": 50, "compile": False, "progress": False}
SETTINGS |= {"save_every": 1, "keep": 2}


@functools.cache
def data() -> pv.data.Data:
    """Of nine steps in all; made in the parent of all trials."""
    torch.set_num_threads(1)
    torch.manual_seed(7)
    return pv.data.load(torch.randn(80, 1) + 0.3 * torch.randn(80, 4))


def digest(program: torch.nn.Module) -> str:
    found = hashlib.sha256()
    for name, value in sorted(program.state_dict().items()):
        found.update(name.encode() + value.numpy().tobytes())
    return found.hexdigest()


def make(seed: int = 0) -> pv.VAE:
    torch.manual_seed(seed)
    nets = {"encoder": pv.nets.mlp(4), "decoder": pv.nets.mlp(4)}
    return pv.VAE((4,), 1, likelihood=pv.likelihoods.Normal(scale="shared"), **nets)


def train(folder: Path, seed: int = 0, **changes: Any) -> str:
    """Starts a run or goes on with it, and returns the digest of its weights."""
    options = SETTINGS | {"resume": "auto", "seed": seed} | changes
    return digest(pv.fit(make(seed), data(), folder=folder, **options).program)


def start(folder: Path, **changes: Any) -> str:
    """Trains where there is to be no run yet."""
    return train(folder, **{"resume": False} | changes)


def load(folder: Path) -> str:
    return digest(pv.load(folder))


def first_weights(seed: int) -> str:
    """Those from which a run starts, at the data's statistics."""
    found = []
    original = SVI.step

    def step(svi: Any, *args: Any) -> Any:
        found.append(digest(vae))
        return original(svi, *args)

    SVI.step = step  # type: ignore[method-assign]
    vae = make(seed)
    pv.fit(vae, data(), **SETTINGS, seed=seed)
    return found[0]


def counted(folder: Path) -> int:
    shim = Shim(folder)
    shim.install()
    train(folder)
    return shim.count


def resumed(folder: Path) -> str:
    return digest(pv.resume(folder, data=data(), progress=False).program)


def compared(folder: Path) -> list[Any]:
    options = {n: v for n, v in SETTINGS.items() if n != "patience"}
    found = pv.compare(
        data(),
        guides=["Normal", "Laplace"],
        latent_dim=1,
        likelihood="Normal",
        num_samples=3,
        encoder="mlp(4)",
        decoder="mlp(4)",
        folder=folder,
        **options,
    )
    table = (folder / "comparison.csv").read_text()
    return [len(table.splitlines()), *(digest(program) for program in found.programs.values())]


def limited(job: Any, folder: Path) -> str:
    """A job that may take another gigabyte, and 20 seconds."""
    try:
        import resource

        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 2**30, size + 2**30))
    except (ImportError, FileNotFoundError):
        pass
    signal.signal(signal.SIGALRM, lambda *_: os._exit(1))
    signal.alarm(20)
    return job(folder)


def disturbed(folder: Path, at: int, act: Callable[[], Any], **changes: Any) -> str:
    """A run in whose ``at``-th step something is done."""
    count, original = itertools.count(1), SVI.step

    def step(svi: Any, *args: Any) -> Any:
        if next(count) == at:
            act()
        return original(svi, *args)

    SVI.step = step  # type: ignore[method-assign]
    return train(folder, **changes)


def diverging(folder: Path, at: int) -> str:
    shim = Shim(folder)
    shim.install()

    def ruin() -> None:
        shim.kind, shim.at = "full", 1
        with torch.no_grad():
            for parameter in vae.parameters():
                parameter.fill_(float("nan"))

    count, original, vae = itertools.count(1), SVI.step, make()

    def step(svi: Any, *args: Any) -> Any:
        if next(count) == at:
            ruin()
        return original(svi, *args)

    SVI.step = step  # type: ignore[method-assign]
    options = SETTINGS | {"save_every": None, "keep": 0}
    return digest(pv.fit(vae, data(), folder=folder, **options).program)


def jumped(folder: Path, at: int, clock: str, hours: float, stops: bool) -> str:
    """A run of at most five minutes, in whose ``at``-th step a clock jumps, and which is stopped there."""
    clocks, original = Clocks(), SVI.step
    clocks.install()

    def step(svi: Any, *args: Any) -> Any:
        if stops and clocks.hours[clock]:
            signal.raise_signal(signal.SIGTERM)
        return original(svi, *args)

    SVI.step = step  # type: ignore[method-assign]
    return disturbed(folder, at, lambda: clocks.hours.update({clock: hours}), max_minutes=5)


def dated(folder: Path, hours: float) -> None:
    """Gives all files of a folder a time that lies so many hours from now."""
    then = time.time() + 3600 * hours
    for path in folder.glob("**/*"):
        os.utime(path, (then, then))
