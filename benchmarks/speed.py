"""How fast is a step, beside Pyro's own way, PyTorch by hand, NumPyro, and the products of matrices alone?

    python benchmarks/speed.py --data-dir DIR

prints the table of the README; it takes about five minutes on two cores that do nothing else. Every peer
trains the same network (784-400-50 and back, softplus) on the same images, binarised anew each epoch, with
Adam, each in a process of its own; they take turns within each round. Ratios are taken within a round, and
told as their median with their quartiles: they mean something, where milliseconds depend on the
machine and on what else it does. ``--all`` adds all peers, batches of 128 and 2048, a convolutional
network, and the waits for the compiler; ``--figure FILE`` draws the cost against the network's size;
``--threads 1 2 4`` repeats all with so many. NumPyro and pythae take part if they are installed (pip
install -e ".[benchmark]" brings NumPyro).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import statistics
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import peers
import pyro
import sleef
import torch
from peers import OURS
from worker import LIKELIHOODS, Order, Worker

from pyro_vae.engine import products
from pyro_vae.svi import AUTO_STEPS
from pyro_vae.training.opening import COMPILED_STEPS

PYRO, COMPILED = "Pyro's example (SVI, pyro.optim, DataLoader)", "the same, torch.compile"
FLOAT32, BF16, EAGER = "float32 products alone", "ours, bf16", "ours, eager"
Times = dict[str, list[float]]


def interleaved(orders: Iterable[Order], rounds: int, elbos: dict[str, float] | None = None) -> Times:
    """Seconds of a unit of each in each round; ``elbos`` is given what each has learned."""
    workers = {order.name: Worker(order) for order in orders}
    try:
        for name, worker in list(workers.items()):
            try:
                worker.ready()
            except ChildProcessError as error:
                del workers[name]
                print(f"({name} does not take part: {error})")
        times: Times = {name: [] for name in workers}
        for _ in range(rounds):
            for name, worker in workers.items():
                times[name].append(worker())
        if elbos is not None:
            elbos |= {name: worker("elbo") for name, worker in workers.items()}
        return times
    finally:
        for worker in workers.values():
            worker.close()


def ratio(times: Times, of: str, to: str) -> str:
    """Median over rounds, with the quartiles, which half of the rounds lie between."""
    if of not in times or to not in times:
        return "not measured"
    found = [a / b for a, b in zip(times[of], times[to], strict=True)]
    low, _, high = statistics.quantiles(found, method="inclusive") if len(found) > 1 else found * 3
    return f"{statistics.median(found):.2f} ({low:.2f} to {high:.2f})"


def table(title: str, times: Times, unit: str, to: str = OURS, elbos: dict[str, float] | None = None) -> None:
    """A Markdown table of medians, and of how many times as long as ours each takes."""
    more = " test ELBO |" if elbos else ""
    print(f"\n## {title}\n\n| | {unit} | / {to} |{more}\n|---|---:|---:|" + ("---:|" if elbos else ""))
    scale = 1000 if unit == "ms" else 1
    for name, values in times.items():
        cell = f" {elbos[name]:.2f} |" if elbos else ""
        print(
            f"| {name} | {scale * statistics.median(values):.3f} | {ratio(times, name, to)} |{cell}",
            flush=True,
        )


def heading(device: str) -> None:
    """The machine, as far as it matters."""
    print(f"{products.processor()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}")
    print(f"torch {torch.__version__}, Pyro {pyro.__version__}, Python {platform.python_version()}")
    if device == "cuda":
        print(f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}")
    before, after = sleef.in_fresh_process("log1p")
    state = "slowed down" if before > 1.5 * after else "not slowed down"
    print(f"log1p was {state} by constants not in memory: {before:.2f} ms, {after:.2f} with the cure")


def claims(base: Order, rounds: int, everything: bool) -> None:
    """The ratios of the README, for a number of threads."""

    def orders(names: Iterable[str], **changes: Any) -> list[Order]:
        return [dataclasses.replace(base, name=name, **changes) for name in names]

    cuda = list(peers.ON_CUDA) if base.device == "cuda" else []
    with_us = [PYRO, *cuda, OURS, BF16] if not everything else [*peers.SLOW, *peers.STEPS, *cuda]
    elbos: dict[str, float] = {}
    epochs = interleaved(orders(with_us, unit="epochs", warm_up=1), max(3, rounds // 2), elbos)
    table("Epoch, batch 256", epochs, "s", elbos=elbos)
    names = [COMPILED, *cuda[:1], "NumPyro", OURS, BF16, FLOAT32]
    if everything:
        names = [*peers.STEPS, *cuda[:1], *peers.FLOORS]
    steps = interleaved(orders(names, unit="steps"), rounds)
    table("Step, batch 256", steps, "ms")
    chosen = LIKELIHOODS if everything else LIKELIHOODS[2:]
    likelihood = interleaved(orders(chosen, unit="likelihood", number=40, warm_up=1), max(3, rounds // 2))
    table("log p(x), K = 5000, 40 images", likelihood, "s", FLOAT32)
    print(f"\n## {base.threads} threads\n\n| | ratio |\n|---|---:|")
    for text, times, of, to in (
        ("epoch, Pyro's official way / ours", epochs, PYRO, OURS),
        ("step, NumPyro / ours", steps, "NumPyro", OURS),
        ("step, torch.compile by hand / ours", steps, COMPILED, OURS),
        *((f"step, {name} / ours", steps, name, OURS) for name in cuda[:1]),
        *((f"epoch, {name} / ours", epochs, name, OURS) for name in cuda),
        ("step, ours / float32 products", steps, OURS, FLOAT32),
        ("K = 5000, ours / float32 products", likelihood, "ours, compiled", FLOAT32),
        ("epoch, ours float32 / ours bf16", epochs, OURS, BF16),
    ):
        print(f"| {text} | {ratio(times, of, to)} |")


def others(base: Order, rounds: int) -> None:
    """Other batches, and a convolutional network."""
    for size in (128, 2048):
        found = interleaved(
            [
                dataclasses.replace(base, name=name, batch_size=size, number=40 if size < 2048 else 8)
                for name in [*peers.STEPS, *peers.FLOORS]
            ],
            rounds,
        )
        table(f"Step, batch {size}", found, "ms")
    names = [name for name in peers.STEPS if name != "NumPyro"]
    found = interleaved([dataclasses.replace(base, name=name, widths=(), number=5) for name in names], rounds)
    table("Step, convolutional network (32, 64)", found, "ms")


def waits(base: Order, rounds: int) -> None:
    """What the compiler makes one wait for, and how well runs choose whether to wait."""
    print("\n## Seconds until two steps are done\n\n| | the first time | the second time |\n|---|---:|---:|")
    found: dict[str, tuple[float, float]] = {}
    for name in (COMPILED, EAGER, OURS, BF16, "NumPyro"):
        with tempfile.TemporaryDirectory() as folder:
            order = dataclasses.replace(base, name=name, number=2, warm_up=1)
            first, second = (_wait(Worker(order, {"TORCHINDUCTOR_CACHE_DIR": folder})) for _ in range(2))
            found[name] = first, second
            print(f"| {name} | {first:.1f} | {second:.1f} |")
    print("\n## Regret: seconds longer than the best choice, for runs compiled for the first time")
    print("\n| network, batch | steps | best, s | never | always | fit | SVI, auto |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    wait = found[OURS][0] - found[EAGER][0]
    for changes in ({"widths": (32,), "latent_dim": 2, "batch_size": 32}, {}, {"batch_size": 1024}):
        each = dataclasses.replace(base, **changes)
        orders = [dataclasses.replace(each, name=name, number=20) for name in (EAGER, OURS)]
        eager, ours = (statistics.median(times) for times in interleaved(orders, rounds).values())
        for steps in (100, 1000, 3000, 10_000, 100_000):
            never, always = steps * eager, wait + steps * ours
            fit = always if steps >= COMPILED_STEPS else never
            later = never if steps <= AUTO_STEPS else AUTO_STEPS * eager + wait + (steps - AUTO_STEPS) * ours
            best = min(never, always)
            regrets = " | ".join(f"{value - best:.1f}" for value in (never, always, fit, later))
            print(f"| {each.widths[0]}, {each.batch_size} | {steps} | {best:.1f} | {regrets} |")


def _wait(worker: Worker) -> float:
    seconds = worker.ready()
    worker.close()
    return seconds


def draw(base: Order, rounds: int, path: Path) -> None:
    """Milliseconds of a step against the network's size, and seconds of an epoch against the data's."""
    chosen = {
        "Pyro, data in one tensor, no validation": "Pyro",
        COMPILED: "PyTorch by hand, torch.compile",
        OURS: "ours, float32",
        BF16: "ours, bf16",
    }
    sweeps: dict[str, dict[int, dict[str, Any]]] = {
        "width of the hidden layer": {w: {"widths": (w,)} for w in (50, 100, 200, 400, 800)},
        "number of hidden layers of 400": {n: {"widths": (400,) * n} for n in (1, 2, 3, 4)},
        "latent dimensions": {d: {"latent_dim": d} for d in (2, 10, 50, 200)},
        "images": {n: {"size": n, "unit": "epochs"} for n in (6000, 13500, 27000, 54000)},
    }
    figure, axes = plt.subplots(1, 4, figsize=(15, 3.8), layout="constrained")
    for axis, (label, variants) in zip(axes, sweeps.items(), strict=True):
        found = [
            interleaved([dataclasses.replace(base, name=name, number=20, **each) for name in chosen], rounds)
            for each in variants.values()
        ]
        unit, scale = ("s per epoch", 1) if label == "images" else ("ms per step", 1000)
        for name, text in chosen.items():
            values = [scale * statistics.median(times[name]) for times in found]
            axis.plot(list(variants), values, "o-", label=text)
        axis.set(xlabel=label, ylabel=unit, ylim=(0, None))
    axes[1].set_xticks([1, 2, 3, 4])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    where = f"{products.processor()}, {base.threads} threads" if base.device == "cpu" else base.device
    figure.suptitle(f"784-400-50 VAE, batch {base.batch_size}: cost of a step and of an epoch ({where})")
    figure.savefig(path, dpi=100)
    print(f"\n{path}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", required=True, help="folder of MNIST, in torchvision's layout")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, nargs="*", default=[torch.get_num_threads()])
    parser.add_argument("--size", type=int, help="training images used; all of them by default")
    parser.add_argument("--all", action="store_true", help="all peers and settings")
    parser.add_argument("--figure", type=Path, help="where to draw the costs against sizes")
    chosen = parser.parse_args()
    heading(chosen.device)
    for threads in chosen.threads:
        base = Order(OURS, "steps", chosen.data_dir, device=chosen.device, threads=threads, size=chosen.size)
        claims(base, chosen.rounds, chosen.all)
        if chosen.all:
            others(base, chosen.rounds)
            waits(base, max(3, chosen.rounds // 2))
    if chosen.figure:
        draw(base, max(3, chosen.rounds // 2), chosen.figure)


if __name__ == "__main__":
    main()
