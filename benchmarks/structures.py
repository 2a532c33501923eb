"""What do labels tell, and what does a second level of latents? Everything else equal.

    python benchmarks/structures.py --data-dir DIR

prints two tables: a VAE beside a ConditionalVAE, to which the label is given; and one level of latents beside
two, with KL warm-up over the first half of the epochs. Images are dynamically binarised; networks next to
them are 784-400-400, and all have the same seed, order of the data and number of steps, no tuning for any of
them. Differences are against the first of each table, paired image by image. The runs are kept in a folder,
where an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import pyro_vae as pv
from pyro_vae.evaluate import ELBO, LogLikelihood

Makers = dict[str, Callable[[], pv.Program]]
Measured = tuple[ELBO, LogLikelihood, dict[str, int]]


def labels(shape: tuple[int, ...], num_classes: int) -> Makers:
    """Without the label, and given it: log p(x) and log p(x|y)."""
    given = {"y": num_classes}
    return {
        "VAE": lambda: pv.VAE(shape, 20),
        "ConditionalVAE": lambda: pv.ConditionalVAE(shape, given=given, latent_dim=20),
    }


def levels(shape: tuple[int, ...], *inferences: Any) -> Makers:
    """One level of 40 latents, and a second one of 20 above it."""
    made: Makers = {"one level, 40": lambda: pv.VAE(shape, 40)}
    for inference in inferences:
        name = f"two levels, 40 and 20, {inference.replace('_', '-')}"
        made[name] = lambda inference=inference: pv.HierarchicalVAE(shape, (40, 20), inference=inference)
    return made


def measure(
    makers: Makers, data: pv.data.Data, folder: Path, num_samples: int, **settings: Any
) -> dict[str, Measured]:
    """Trains each, or goes on with it, and evaluates it on the test data."""
    found = {}
    for name, make in makers.items():
        print(f"\n{folder.name}: {name}", flush=True)
        own = folder / name.replace(", ", "-").replace(" ", "-")
        torch.manual_seed(0)
        program = make()
        pv.fit(program, data, folder=own, resume="auto", **settings)
        found[name] = (
            pv.evaluate.elbo(program, data.test),
            pv.evaluate.log_likelihood(program, data.test, num_samples=num_samples),
            pv.evaluate.active_units(program, data.test),
        )
    return found


def table(measured: dict[str, Measured]) -> str:
    """What was measured as a table in Markdown."""
    first = next(iter(measured.values()))[1]
    header = ["", "ELBO", "KL", f"log p(x), K = {first.num_samples}", "less the first, paired"]
    header.append("active units")
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for name, (elbo, estimate, active) in measured.items():
        paired = estimate.per_datum - first.per_datum
        error = paired.std().item() / len(paired) ** 0.5
        cells = [name, f"{elbo.elbo:.2f}"]
        cells += [" + ".join(f"{elbo.terms[f'kl_{site}']:.2f}" for site in active)]
        cells += [f"{estimate.log_likelihood:.2f} ± {estimate.standard_error:.2f}"]
        cells += ["" if estimate is first else f"{paired.mean():+.2f} ± {error:.2f}"]
        lines.append([*cells, " + ".join(map(str, active.values()))])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--num-samples", type=int, default=100)
    parser.add_argument("--folder", type=Path, default=Path("runs/structures"))
    given = parser.parse_args()
    data = pv.data.load(given.data, data_dir=given.data_dir, binarize="dynamic")
    shape, num_classes = data.event_shape, int(data.train.range("y")[1]) + 1
    told = {
        "labels": ("Labels: log p(x), and log p(x given y)", labels(shape, num_classes), {}),
        "warm-up": (
            "Levels, with KL warm-up",
            levels(shape, "bottom_up", "top_down"),
            {"warmup_epochs": given.epochs // 2},
        ),
    }
    tables = {}
    for name, (title, makers, settings) in told.items():
        settings = {"epochs": given.epochs, **settings}
        tables[title] = table(measure(makers, data, given.folder / name, given.num_samples, **settings))
    for title, text in tables.items():
        print(f"\n{title}, nats per image\n\n{text}")


if __name__ == "__main__":
    main()
