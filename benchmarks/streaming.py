"""How fast do data train that are read as they are needed, beside the same data in memory, and in how much?

    python benchmarks/streaming.py --size 256 --folder DIR

makes three sets under DIR (a ``.npy`` file of images, a ``.parquet`` file, a folder of images), each of so
many MiB in memory, and trains on each from memory and from disk, each in a process of its own; they take
turns, an epoch each. Ratios are taken within a round and told as their median with their quartiles.
``--cold`` puts the files out of the system's cache before each epoch, as it is with data larger than memory:
their speed is then the disk's, which is told, too. Peaks of memory are those of the whole process, PyTorch
included.

    python benchmarks/streaming.py --sparse 20 --folder DIR

trains for a minute on a ``.npy`` file of so many GB of images, nearly all of it holes that take no room on
the disk, and prints how long the passes before the first step took, and the peak.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pyro_vae as pv
from pyro_vae.engine import products
from pyro_vae.training import Interrupted

KINDS = ("npy", "parquet", "images")
COLUMNS = 20
WAYS = {"memory": False, "disk": True}


def make(kind: str, size: int, folder: Path) -> Path:
    """A set of so many bytes in memory."""
    random = np.random.default_rng(0)
    if kind == "npy":
        path = folder / "images.npy"
        images = np.lib.format.open_memmap(path, "w+", np.uint8, (size // 784, 28, 28))
        for start in range(0, len(images), 10_000):
            part = images[start : start + 10_000]
            part[:] = random.integers(0, 256, part.shape, np.uint8)
        images.flush()
        return path
    if kind == "parquet":
        import pandas as pd

        path, number = folder / "table.parquet", size // (8 * COLUMNS)
        z = random.normal(size=number)
        reals = {f"real {i}": z + random.normal(size=number) for i in range(COLUMNS - 3)}
        texts = {f"text {i}": random.choice(["a", "b", "c"], number) for i in range(2)}
        frame = pd.DataFrame(reals | texts | {"missing": np.where(random.random(number) < 0.1, np.nan, z)})
        frame.to_parquet(path, row_group_size=max(1000, number // 50))
        return path
    from PIL import Image

    path = folder / "images"
    y, x = np.mgrid[:32, :32] / 5
    for number in range(size // 3072):
        file = path / f"class {number % 10}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        a, b, c = random.random((3, 3))
        waves = 127 + 60 * np.sin(y[..., None] * a + 6 * b) + 60 * np.cos(x[..., None] * c)
        Image.fromarray(waves.clip(0, 255).astype(np.uint8)).save(file)
    return path


def files(path: Path) -> Iterator[Path]:
    """A file, or those of a folder."""
    yield from (file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def forget(path: Path) -> None:
    """Puts files out of the system's cache."""
    for file in files(path):
        with open(file, "rb") as content:
            os.fsync(content.fileno())
            os.posix_fadvise(content.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk(path: Path) -> str:
    """What the disk does: MB a second in turn, and pieces of 4 KiB at random that one thread reads."""
    forget(path)
    begin, size = time.perf_counter(), 0
    for file in files(path):
        with open(file, "rb", buffering=0) as content:
            while part := content.read(2**22):
                size += len(part)
    in_turn = size / (time.perf_counter() - begin) / 1e6
    largest = max(files(path), key=lambda file: file.stat().st_size)
    forget(largest)
    places = np.random.default_rng(0).integers(0, max(1, largest.stat().st_size // 4096), 1000)
    with open(largest, "rb", buffering=0) as content:
        os.posix_fadvise(content.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        begin = time.perf_counter()
        for place in places.tolist():
            os.pread(content.fileno(), 4096, 4096 * place)
    return f"{in_turn:.0f} MB/s in turn, {1000 / (time.perf_counter() - begin):.0f} pieces/s at random"


def train(pipe: Connection, path: Path, streams: bool, epochs: int, batch_size: int) -> None:
    """Trains, an epoch each time that it is told to, and tells how many data a second it took."""
    torch.set_num_threads(1)
    data = pv.data.load(path, stream=streams, validation=0.0, test=0.0)
    torch.manual_seed(0)
    likelihood: Any = "auto" if data.columns else pv.likelihoods.Normal(scale="shared")
    vae = pv.VAE(data.columns or data.event_shape, 10, likelihood=likelihood)

    def turn(epoch: int, row: Mapping[str, float], program: pv.Program) -> None:
        pipe.send((len(data.train) / row["seconds"], peak()))
        pipe.recv()

    pv.fit(vae, data, epochs=epochs, batch_size=batch_size, compile=True, progress=False, callback=turn)


def sparse(size: float, folder: Path) -> None:
    """Trains on a file of so many GB for a minute, and tells what went before, and the peak of memory."""
    torch.set_num_threads(1)
    path, number = folder / "sparse.npy", int(size * 1e9) // 784
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (number, 28, 28))
    images[:: max(1, number // 1000)] = np.arange(784, dtype=np.uint8).reshape(28, 28)
    images.flush()
    del images
    began = time.perf_counter()
    data = pv.data.load(path, stream=True)
    vae = pv.VAE(data.event_shape, 10, likelihood=pv.likelihoods.Normal(scale="shared"))
    try:
        pv.fit(vae, data, batch_size=1000, epochs=1, max_minutes=1, compile=False, progress=False)
        raise SystemExit(f"an epoch of {size:g} GB takes less than a minute; give more: --sparse 20")
    except Interrupted:
        seconds = time.perf_counter() - began - 60
    print(f"{size:g} GB: {seconds:.0f} s before the first step, {seconds / size:.1f} s for each GB")
    print(f"peak {peak():.0f} MiB")


def peak() -> float:
    """Largest resident memory of this process so far, in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 2**10


def measured(
    path: Path, rounds: int, batch_size: int, cold: bool
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Data a second of each way in each round, and its peak memory."""
    context, pipes, processes = multiprocessing.get_context("spawn"), {}, []
    for way, streams in WAYS.items():
        pipes[way], other = context.Pipe()
        process = context.Process(target=train, args=(other, path, streams, rounds + 2, batch_size))
        process.start()
        processes.append(process)
        other.close()
        pipes[way].recv()  # the first epoch, in which it compiles
    speeds: dict[str, list[float]] = {way: [] for way in WAYS}
    peaks: dict[str, float] = {}
    for _ in range(rounds):
        for way, pipe in pipes.items():
            if cold:
                forget(path)
            pipe.send(None)
            speed, peaks[way] = pipe.recv()
            speeds[way].append(speed)
    for process in processes:
        process.kill()
    return speeds, peaks


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=64, help="MiB of each set in memory")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--cold", action="store_true", help="nothing is in the system's cache")
    parser.add_argument("--sparse", type=float, help="train on so many GB of holes, and nothing else")
    parser.add_argument("--folder", default=None, help="where the sets are made, and removed")
    chosen = parser.parse_args()
    cores = os.cpu_count()
    print(f"{products.processor()}, {cores} cores, torch {torch.__version__}, batches of {chosen.batch_size}")
    if chosen.sparse:
        with tempfile.TemporaryDirectory(dir=chosen.folder) as made:
            sparse(chosen.sparse, Path(made))
        return
    print(f"{chosen.size} MiB, {'out of' if chosen.cold else 'in'} the system's cache\n")
    print(
        "| | from memory, data/s | from disk, data/s | disk / memory | peak, MiB | of disk, MiB | the disk |"
    )
    print("|---|---:|---:|---:|---:|---:|---|")
    for kind in chosen.kinds:
        if chosen.folder is not None:
            Path(chosen.folder).mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=chosen.folder))
        try:
            path = make(kind, chosen.size * 2**20, folder)
            told = disk(path)
            speeds, peaks = measured(path, chosen.rounds, chosen.batch_size, chosen.cold)
        finally:
            shutil.rmtree(folder)
        ratios = [a / b for a, b in zip(speeds["disk"], speeds["memory"], strict=True)]
        low, _, high = statistics.quantiles(ratios, method="inclusive") if len(ratios) > 1 else 3 * ratios
        cells = [f"{statistics.median(speeds[way]):,.0f}" for way in WAYS]
        cells.append(f"{statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})")
        cells += [f"{peaks[way]:.0f}" for way in WAYS]
        print(f"| {kind} | {' | '.join(cells)} | {told} |", flush=True)


if __name__ == "__main__":
    main()
