"""A peer of ``speed.py`` in a process of its own.

    python benchmarks/worker.py ORDER

makes itself ready, prints the seconds that took, and then for each line that it reads what that asks for:
``go`` is a unit of work, in seconds; ``elbo`` the test ELBO. ``Worker`` starts one.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from peers import PEERS, Peer, Setting, elbo_loss
from pyro.infer import RenyiELBO
from torch import nn

import pyro_vae as pv

LIKELIHOODS = "Pyro's RenyiELBO", "ours, eager", "ours, compiled", "float32 products alone"


def steps_of(peer: Peer, setting: Setting, number: int) -> Callable[[], float]:
    """Seconds of a step, over batches made beforehand."""
    batches = [x for x, _ in zip(setting.batches(0), range(number), strict=False)]
    prepared = [peer.prepare(x) for x in batches if len(x) == setting.batch_size]
    if not prepared:
        raise SystemExit("there are fewer images than a batch has")

    def run() -> float:
        return seconds(lambda: [peer.step(x) for x in prepared], setting.device) / len(prepared)

    return run


def epochs_of(peer: Peer, setting: Setting, _: int) -> Callable[[], float]:
    """Seconds of an epoch."""
    numbers = iter(range(10_000))
    return lambda: seconds(lambda: peer.epoch(next(numbers)), setting.device)


def likelihood_of(
    name: str, setting: Setting, num_images: int, num_samples: int = 5000
) -> Callable[[], float]:
    """Seconds of the importance-weighted log-likelihood of so many images."""
    torch.manual_seed(0)
    shape = setting.data.event_shape
    vae = pv.VAE(shape, setting.latent_dim, encoder=setting.hidden(), decoder=setting.hidden())
    vae.to(setting.device)
    images, chunk = setting.data.test[: 3 * num_images], 4000
    weights = [layer.weight.detach() for layer in vae.p_x.net.modules() if isinstance(layer, nn.Linear)]
    z = torch.randn(chunk, setting.latent_dim, device=setting.device)

    def products() -> None:
        for _ in range(num_images * num_samples // chunk):
            y = z
            for weight in weights:
                y = y @ weight.t()

    def of_pyro() -> None:
        loss = RenyiELBO(alpha=0.0, num_particles=num_samples, vectorize_particles=True)
        with pyro.validation_enabled(False), torch.no_grad():
            for image in images[:num_images]:
                loss.loss(vae.model, vae.guide, image[None])

    def estimate(number: int, compile: bool) -> float:
        def run() -> Any:
            return pv.evaluate.log_likelihood(vae, images[:number], num_samples=num_samples, compile=compile)

        return seconds(run, setting.device)

    units: dict[str, Callable[[], float]] = {
        "Pyro's RenyiELBO": lambda: seconds(of_pyro, setting.device),
        "ours, eager": lambda: estimate(num_images, False),
        # Each call compiles, in the same time for more images: the difference is without it.
        "ours, compiled": lambda: (estimate(3 * num_images, True) - estimate(num_images, True)) / 2,
        "float32 products alone": lambda: seconds(products, setting.device),
    }
    return units[name]


def seconds(function: Callable[[], Any], device: torch.device) -> float:
    """Of one call, with all that it has launched."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


@torch.no_grad()
def test_elbo(peer: Peer, setting: Setting) -> float:
    """Mean over the binarised test images, in nats."""
    torch.manual_seed(0)
    test, total = setting.data.test, 0.0
    for batch in test.batches(1000):
        total -= float(elbo_loss(*peer.nets(), batch["x"], peer.scale)) * len(batch["x"])
    return total / len(test)


@dataclass
class Order:
    """What a process is to do.

    Attributes:
        name: of the peer.
        unit: "steps", "epochs" or "likelihood".
        number: of steps, or of images.
        warm_up: units before it is ready.
        threads: that it has.
        size: of the training data; None for all.
        widths: of the hidden layers; empty for a convolutional network.
    """

    name: str
    unit: str
    data_dir: str
    number: int = 40
    warm_up: int = 2
    device: str = "cpu"
    threads: int = 0
    batch_size: int = 256
    latent_dim: int = 50
    widths: tuple[int, ...] = (400,)
    size: int | None = None

    def setting(self) -> Setting:
        device = torch.device(self.device)
        data = pv.data.load("mnist", data_dir=self.data_dir, binarize="dynamic").to(device)
        if self.size is not None:
            part = pv.data.Split(data.train.sources["x"].values[: self.size].float())
            data = pv.data.Data(part, part, data.test, "part", {}, "")
        widths = self.widths

        def hidden() -> pv.nets.Net:
            return pv.nets.mlp(*widths, activation=nn.Softplus) if widths else pv.nets.conv(32, 64)

        return Setting(data, self.data_dir, device, self.batch_size, self.latent_dim, hidden)


def serve(order: Order) -> None:
    """Does what is asked for, line by line."""
    setting = order.setting()
    began = time.perf_counter()
    peer = None
    if order.unit == "likelihood":
        unit = likelihood_of(order.name, setting, order.number)
    else:
        peer = PEERS[order.name](setting)
        unit = (steps_of if order.unit == "steps" else epochs_of)(peer, setting, order.number)
    for _ in range(order.warm_up):
        unit()
    print("@", time.perf_counter() - began, flush=True)
    for line in sys.stdin:
        asked = line.strip()
        print("@", test_elbo(peer, setting) if asked == "elbo" and peer else unit(), flush=True)


class Worker:
    """A peer in a process of its own, which makes itself ready while others do."""

    def __init__(self, order: Order, environment: dict[str, str] | None = None):
        command = [sys.executable, __file__, json.dumps(dataclasses.asdict(order))]
        # A pipe that nobody reads would fill up, and stop the peer.
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=os.environ | (environment or {}),
        )

    def ready(self) -> float:
        """Waits until it is, and returns the seconds that this took.

        Raises:
            ChildProcessError: it cannot take part; it is closed.
        """
        try:
            return self._answer()
        except BaseException:
            self.close()
            raise

    def __call__(self, asked: str = "go") -> float:
        assert self.process.stdin
        self.process.stdin.write(asked + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> float:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("@"):
                return float(line[1:])
        self.errors.seek(0)
        raise ChildProcessError((self.errors.read().strip() or "it ended without a word").splitlines()[-1])

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()


def main() -> None:
    order = Order(**json.loads(sys.argv[1]))
    if order.threads:
        if hasattr(os, "sched_setaffinity") and order.threads < (os.cpu_count() or 1):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: order.threads])  # for NumPyro too
        torch.set_num_threads(order.threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        serve(order)


if __name__ == "__main__":
    main()
