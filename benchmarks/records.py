"""Published figures, and ours beside them: MNIST, dynamically binarised, nats per image.

    python benchmarks/records.py --data-dir DIR

trains the published networks on a budget that two cores have (``--epochs``, stated in the table), and
estimates -log p(x) by importance samples; ``--full`` trains as long as the papers did, for a GPU, and
``--short`` for 3 epochs, with 500 samples of 500 images, so that a row of k = 50 takes some ten minutes of
one core. The runs are kept in a folder, where an interrupted benchmark goes on; ``--rows`` names those to
run, by default all but those of k = 50, whose steps take ten times as long. The last column is the first
row's -log p(x) less a row's, image by image, which the images' differences do not blur.

What is not as in the papers: 6,000 of the 60,000 training images are held out (Burda et al. train on all;
Tomczak and Welling hold out 10,000); and on the budget, batches are of 100 images and the learning rate falls
from 1e-3 as a cosine, since the papers' schedules would spend most of a short run at 1e-4.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.engine.products import processor

BURDA = {
    "epochs": 3280,
    "batch_size": 20,
    "schedule": "burda",
    "optimizer": functools.partial(torch.optim.Adam, eps=1e-4),
}
TOMCZAK = {"epochs": 2000, "batch_size": 100, "lr": 5e-4, "schedule": "constant", "patience": 50}


SHORT = {"batch_size": 100, "lr": 1e-3, "schedule": "cosine"}


class Dense(nn.Module):
    """Dense layers with tanh, or each multiplied with a sigmoid of another one (Dauphin et al., 2017)."""

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        hidden_dims: tuple[int, ...] = (),
        gated: bool = False,
    ):
        super().__init__()
        self.in_shape, self.out_shape, self.gated = in_shape, out_shape, gated
        widths = [torch.Size(in_shape).numel(), *hidden_dims]
        self.layers = nn.ModuleList(nn.Linear(i, o * (1 + gated)) for i, o in pairwise(widths))
        self.last = nn.Linear(widths[-1], torch.Size(out_shape).numel())
        for layer in (*self.layers, self.last):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(x.dim() - len(self.in_shape))
        for layer in self.layers:
            y = nn.functional.glu(layer(y), -1) if self.gated else layer(y).tanh()
        y = self.last(y)
        return y.reshape(*y.shape[:-1], *self.out_shape)


def tanh(*hidden_dims: int) -> Any:
    """A factory of such a network."""
    return functools.partial(Dense, hidden_dims=hidden_dims)


GATED = functools.partial(Dense, hidden_dims=(300, 300), gated=True)


@dataclass(frozen=True)
class Record:
    """A published figure, and how ours is made."""

    published: float
    source: str
    make: Callable[[tuple[int, ...]], pv.Program]
    settings: dict[str, Any] = field(default_factory=dict)
    warmup: float = 0.0
    """Share of the epochs over which the weight of the KL rises."""


def one_layer(shape: tuple[int, ...]) -> pv.Program:
    """784-200-200-50."""
    return pv.VAE(shape, 50, encoder=tanh(200, 200), decoder=tanh(200, 200))


def two_layers(shape: tuple[int, ...]) -> pv.Program:
    """784-200-200-100-100-100-50."""
    nets = {"encoder": tanh(200, 200), "decoder": tanh(200, 200), "between": tanh(100, 100)}
    return pv.HierarchicalVAE(shape, (100, 50), **nets)


def gated(shape: tuple[int, ...], prior: Any) -> pv.Program:
    """784-300-300-40."""
    return pv.VAE(shape, 40, prior=prior, encoder=GATED, decoder=GATED)


RECORDS: dict[str, Record] = {
    "VAE, k = 1": Record(86.76, "Burda 2016, table 1", one_layer, BURDA),
    "IWAE, k = 5": Record(85.54, "Burda 2016, table 1", one_layer, BURDA | {"loss": pv.objectives.IWAE(5)}),
    "IWAE, k = 5, DReG": Record(
        84.90, "nbip's IWAE repository", one_layer, BURDA | {"loss": pv.objectives.DReG(5)}
    ),
    "two layers, IWAE, k = 5": Record(
        83.89, "Burda 2016, table 1", two_layers, BURDA | {"loss": pv.objectives.IWAE(5)}
    ),
    "IWAE, k = 50": Record(84.78, "Burda 2016, table 1", one_layer, BURDA | {"loss": pv.objectives.IWAE(50)}),
    "two layers, IWAE, k = 50": Record(
        82.90, "Burda 2016, table 1", two_layers, BURDA | {"loss": pv.objectives.IWAE(50)}
    ),
    "gated, Normal prior": Record(
        84.45,
        "Norouzi 2020, their run of Tomczak 2018",
        lambda shape: gated(shape, pv.priors.Normal()),
        TOMCZAK,
        0.05,
    ),
    "gated, VampPrior(500)": Record(
        82.43,
        "Norouzi 2020, their run of Tomczak 2018",
        lambda shape: gated(shape, pv.priors.VampPrior(500)),
        TOMCZAK,
        0.05,
    ),
}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-dir", type=Path)
    cheap = [name for name in RECORDS if "k = 50" not in name]
    parser.add_argument("--rows", nargs="+", default=cheap, choices=[*RECORDS], metavar="ROW")
    parser.add_argument("--epochs", type=int, default=50)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--full", action="store_true", help="as many epochs as published, all test images")
    length.add_argument("--short", action="store_true", help="3 epochs, 500 samples of 500 test images")
    parser.add_argument("--num-samples", type=int, default=5000)
    parser.add_argument("--num-images", type=int, default=2000, help="of the test images, the first ones")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--folder", type=Path, default=Path("runs/records"))
    given = parser.parse_args()
    if given.full:
        given.num_images = 10_000
    if given.short:
        given.epochs, given.num_samples, given.num_images = 3, 500, 500
    data = pv.data.load(given.data, data_dir=given.data_dir, binarize="dynamic")
    images = data.test.batch(slice(0, given.num_images))
    lines: list[str] = []
    first: Tensor | None = None
    for name in given.rows:
        record = RECORDS[name]
        epochs = record.settings["epochs"] if given.full else given.epochs
        settings = record.settings | {"epochs": epochs, "warmup_epochs": round(record.warmup * epochs)}
        if not given.full:
            settings = {n: v for n, v in settings.items() if n not in ("optimizer", "patience")} | SHORT
        print(f"\n{name}", flush=True)
        torch.manual_seed(0)
        program = record.make(data.event_shape)
        own = given.folder / f"{name.replace(', ', '-').replace(' ', '-')}-{epochs}"
        run = pv.fit(program, data, folder=own, resume="auto", device=given.device, compile=True, **settings)
        found = pv.evaluate.log_likelihood(program, images, num_samples=given.num_samples, progress=True)
        print(found, flush=True)
        first = found.per_datum if first is None else first
        better = found.per_datum - first
        error = better.std().item() / len(better) ** 0.5
        paired = f"{better.mean():+.2f} ± {error:.2f}" if lines else ""
        done, planned = len(run.history), record.settings["epochs"]
        minutes = sum(row["seconds"] for row in run.history) / 60
        lines.append(
            f"| {name} | {record.published:.2f} ({record.source}, {planned} epochs) | "
            f"{-found.log_likelihood:.2f} ± {found.standard_error:.2f} | {done} | {minutes:.0f} | {paired} |"
        )
    number = len(next(iter(images.values())))
    print(
        f"\n{processor()}, {torch.get_num_threads()} threads; K = {given.num_samples}, {number} test images\n"
    )
    print("| -log p(x), nats per image | published | ours | epochs | minutes | better than the first |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
