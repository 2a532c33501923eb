"""What do the figures look like? All of them, of data of each kind, on one sheet, to be looked at.

    python benchmarks/contact_sheet.py --data-dir DIR

trains a model of each kind of data for seconds, draws each figure that it has, and puts them all on
``contact_sheet.png``, a row of figures for each kind; ``--folder`` keeps each figure in a file, too. Where
there is no MNIST, scikit-learn's digits take its place; other images and series are made, and so is the
table, unless palmerpenguins is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

import pyro_vae as pv

HIGH, GAP = 420, 16
"""Pixels of a figure on the sheet, and between two."""


class Blobs(pv.Program):
    """A program of one's own: what is seen, and where, of images; with no more than Pyro and two networks."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.event_shapes = {"x": shape}
        self.decoder = pv.nets.mlp(64)((3,), shape)
        self.encoder = pv.nets.mlp(64)(shape, (2, 3))

    def model(self, batch: Any) -> None:
        """Two latents, and the image."""
        with self.plate(batch):
            where = pyro.sample("where", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            what = pyro.sample("what", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            loc = self.decoder(torch.cat([where, what], -1))
            self.sample("x", dist.Normal(loc, 0.1).to_event(3), batch)

    def guide(self, batch: Any) -> None:
        """Independent Normals."""
        loc, scale = self.encoder(batch["x"].nan_to_num()).unbind(-2)  # what is not known is black
        scale = nn.functional.softplus(scale)
        with self.plate(batch):
            pyro.sample("where", dist.Normal(loc[..., :2], scale[..., :2]).to_event(1))
            pyro.sample("what", dist.Normal(loc[..., 2:], scale[..., 2:]).to_event(1))


def colour_images(number: int) -> tuple[Tensor, Tensor]:
    """Blobs of a hue, somewhere on 20 x 28 pixels: ``[number, 3, 20, 28]``; and their hues, from 0 to 1."""
    at, hue = torch.rand(2, number, 1, 1), torch.rand(number)
    y, x = torch.linspace(0, 1, 20)[:, None], torch.linspace(0, 1, 28)
    blob = (-((y - at[0]) ** 2 + (x - at[1]) ** 2) / 0.03).exp()
    angles = 2 * math.pi * (hue[:, None] + torch.tensor([0.0, 1 / 3, 2 / 3]))
    colour = 0.5 + 0.5 * angles.cos()
    return (blob[:, None] * colour[..., None, None]).clamp(0, 1), hue


def series(number: int) -> Tensor:
    """Two waves of a phase and a noise: ``[number, 40, 2]``."""
    phase = 2 * math.pi * torch.rand(number)
    angles = torch.linspace(0, 2 * math.pi, 40) + phase[:, None]
    waves = torch.stack([angles.sin(), 0.5 * (2 * angles).cos()], -1)
    return waves + 0.1 * torch.randn(number, 40, 2)


def table(number: int) -> Any:
    """Penguins, with their units; or, where they are not installed, rows like them, which are made."""
    try:
        from palmerpenguins import load_penguins

        frame = load_penguins().drop(columns="year")
        frame = frame.sample(min(number, len(frame)), random_state=0)
    except ImportError:
        kind, mass = torch.arange(number) % 3, 4200 + 800 * torch.randn(number)
        frame = pd.DataFrame(
            {
                "species": [("Adelie", "Chinstrap", "Gentoo")[k] for k in kind.tolist()],
                "bill_length_mm": (44 + 4 * kind + torch.randn(number)).numpy(),
                "flipper_length_mm": (200 + 0.015 * (mass - 4200)).round().numpy(),
                "body_mass_g": mass.round().numpy(),
            }
        )
        frame.loc[::20, "bill_length_mm"] = float("nan")
    frame.attrs["units"] = {name: name.rpartition("_")[2] for name in frame if name.endswith(("_mm", "_g"))}
    return frame


@dataclass
class Kind:
    """A kind of data, and a model that was trained on them.

    Attributes:
        run: of the training.
        labels: of the held-out data, where they have none of their own.
    """

    run: Any
    labels: Tensor | None = None

    @property
    def vae(self) -> Any:
        """The program."""
        return self.run.program

    @property
    def test(self) -> Any:
        """Held-out data."""
        return self.run.data.test


@dataclass(frozen=True)
class Size:
    """How many data of each kind, the epochs of training, and where MNIST is."""

    number: int = 1000
    epochs: int = 15
    data_dir: str | None = None


def fitted(vae: Any, data: Any, size: Size, **more: Any) -> Kind:
    """A model that was trained."""
    fit: dict[str, Any] = {"batch_size": 32, "progress": False, "compile": False, "device": "cpu"}
    return Kind(pv.fit(vae, data, epochs=size.epochs, **fit), **more)


NETS: dict[str, Any] = {"encoder": pv.nets.mlp(128), "decoder": pv.nets.mlp(128)}
NORMAL = NETS | {"likelihood": pv.likelihoods.Normal(scale="shared")}


def digits(latent_dim: int) -> Callable[[Size], Kind]:
    """MNIST, or digits, of 10 classes."""

    def make(size: Size) -> Kind:
        name = "mnist" if size.data_dir else "digits"
        train = pv.data.load(name, data_dir=size.data_dir).train
        x, y = train[: size.number], train.labels[: size.number]
        data = pv.data.load(x, labels=y, binarize="dynamic", test=0.3)
        return fitted(pv.VAE(data.event_shape, latent_dim, **NETS), data, size)

    return make


def parts(latent_dim: int, **chosen: Any) -> Callable[[Size], Kind]:
    """Digits of 8 x 8 pixels, of a VAE of these parts."""

    def make(size: Size) -> Kind:
        train = pv.data.load("digits").train
        data = pv.data.load(train[: size.number], labels=train.labels[: size.number], binarize="dynamic")
        return fitted(pv.VAE(data.event_shape, latent_dim, **NETS | chosen), data, size)

    return make


def colour(build: Callable[[Any], pv.Program], classes: int = 0) -> Callable[[Size], Kind]:
    """Images of 20 x 28 pixels, of so many classes."""

    def make(size: Size) -> Kind:
        x, hue = colour_images(size.number)
        names = [f"hue {int(classes * h):03d}" for h in hue.tolist()]
        data = pv.data.load(x, labels=names if classes else None, test=0.3)
        return fitted(build(data), data, size)

    return make


def numbers(size: Size) -> Kind:
    """Vectors, with labels that are numbers: where each begins."""
    data = pv.data.load(series(size.number)[..., 0], test=0.3)
    return fitted(pv.VAE(data.event_shape, 1, **NORMAL), data, size, labels=data.test[:][:, 0])


def waves(size: Size) -> Kind:
    """Series of two numbers."""
    data = pv.data.load(series(size.number), test=0.3)
    return fitted(pv.VAE(data.event_shape, 2, **NORMAL), data, size)


def rows(size: Size) -> Kind:
    """A table with units."""
    data = pv.data.load(table(size.number), test=0.3)
    return fitted(pv.VAE(data.event_shapes, 2, **NETS, likelihood="auto"), data, size)


def conditional(data: Any) -> pv.Program:
    """Given the class."""
    given = {"y": len(data.class_names)}
    return pv.ConditionalVAE(data.event_shape, given=given, latent_dim=2, **NORMAL)


def two_levels(data: Any) -> pv.Program:
    """Of latents."""
    return pv.HierarchicalVAE(data.event_shape, (4, 2), **NORMAL, between=pv.nets.mlp(32))


MIXTURE: dict[str, Any] = {
    "prior": pv.priors.MixtureOfNormals(4),
    "decoder": pv.nets.bayesian(pv.nets.mlp(32)),
}
KINDS: dict[str, Callable[[Size], Kind]] = {
    "images, 10 classes, 2 latents": digits(2),
    "images, 10 classes, 50 latents": digits(50),
    "images, a mixture of 4, weights that are not known": parts(2, **MIXTURE),
    "images, 4 positions of 16 codes": parts(
        16, prior=pv.priors.Codes(16, 4), guide=pv.guides.VectorQuantised()
    ),
    "colour, no classes, 2 latents": colour(lambda data: pv.VAE(data.event_shape, 2, **NORMAL)),
    "colour, 200 classes, 5 latents": colour(lambda data: pv.VAE(data.event_shape, 5, **NORMAL), 200),
    "colour, given 10 classes, 2 latents": colour(conditional, 10),
    "colour, two levels": colour(two_levels),
    "colour, a program of one's own": colour(lambda data: Blobs(data.event_shape)),
    "vectors, labels that are numbers, 1 latent": numbers,
    "series of two numbers, 2 latents": waves,
    "a table with units, 2 latents": rows,
}


def known(kind: Kind) -> Tensor:
    """The upper half of each image, and the first of all else."""
    shape = kind.run.data.event_shape
    mask = torch.ones(shape, dtype=torch.bool)
    along = max(0, len(shape) - 2)  # the height of an image
    mask.narrow(along, shape[along] // 2, shape[along] - shape[along] // 2).fill_(False)
    return mask


def unfinished(kind: Kind) -> dict[str, Tensor]:
    """Some data of which no more than ``known`` is."""
    batch: dict[str, Tensor] = kind.test.batch(slice(0, 3))
    return batch | {"x": batch["x"].float().masked_fill(~known(kind), math.nan)}


FIGURES: dict[str, Callable[[Kind], Any]] = {
    "summary": lambda k: pv.figures.summary(k.run),
    "samples": lambda k: pv.figures.samples(k.vae),
    "reconstructions": lambda k: pv.figures.reconstructions(k.vae, k.test),
    "manifold": lambda k: pv.figures.manifold(k.vae),
    "traversals": lambda k: pv.figures.traversals(k.vae, k.test.batch([0])),
    "latents": lambda k: pv.figures.latents(k.vae, k.test, k.labels),
    "tsne": lambda k: pv.figures.tsne(k.vae, k.test, k.labels),
    "interpolation": lambda k: pv.figures.interpolation(k.vae, k.test.batch([0]), k.test.batch([1])),
    "styles": lambda k: pv.figures.styles(k.vae, k.test),
    "levels": lambda k: pv.figures.levels(k.vae),
    "inpainting": lambda k: pv.figures.inpainting(k.vae, k.test, known(k), num_particles=100),
    "clusters": lambda k: pv.figures.clusters(k.vae, k.test),
    "comparison": lambda k: pv.figures.comparison({"this": k.vae, "that": k.vae}, k.test),
    "grid": lambda k: pv.figures.grid([k.test[:3]], "Data", ["three"]),
    "marginals": lambda k: pv.figures.marginals(k.vae, k.test),
    "pairs": lambda k: pv.figures.pairs(k.vae, k.test),
    "training_curves": lambda k: pv.figures.training_curves(k.run.history),
    "kl_by_level": lambda k: pv.figures.kl_by_level(k.run.history),
    "anatomy": lambda k: pv.figures.anatomy(pv.evaluate.anatomy(k.vae, k.test, num_aggregate=200)),
    "rate_distortion": lambda k: pv.figures.rate_distortion(
        pv.evaluate.rate_distortion({"this": k.vae, "that": k.vae}, k.test)
    ),
    "calibration": lambda k: pv.figures.calibration(
        pv.evaluate.calibration(k.vae, k.test, num_simulations=50)
    ),
    "predictive_check": lambda k: pv.figures.predictive_check(
        pv.evaluate.predictive_check(k.vae, k.test, num_replications=19)
    ),
    "intervals": lambda k: pv.figures.intervals(
        pv.evaluate.intervals(k.vae, k.test, num_rows=20, num_particles=100)
    ),
    "codes": lambda k: pv.figures.codes(k.vae, k.test),
    "forecast": lambda k: pv.figures.forecast(k.vae, unfinished(k), num_particles=100),
    "uncertainty": lambda k: pv.figures.uncertainty(k.vae, k.test),
    "posteriors": lambda k: pv.figures.posteriors(k.vae, k.test, num_data=4, num_steps=50, num_samples=20),
}
"""How each figure is drawn of a kind; where it is not for that kind, it says so by a ValueError."""


def drawn(kind: Kind, names: Iterable[str] = FIGURES) -> dict[str, Any]:
    """The figures that there are of a kind."""
    found = {}
    for name in names:
        with contextlib.suppress(ValueError):
            found[name] = FIGURES[name](kind)
    return found


def picture(figure: Any) -> Image.Image:
    """A figure as an image."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    return Image.open(content).convert("RGB")


def sheet(rows: dict[str, list[Image.Image]]) -> Image.Image:
    """All of them, at one height, a row below its title."""
    shrunk = {
        title: [image.resize((round(image.width * HIGH / image.height), HIGH)) for image in row]
        for title, row in rows.items()
    }
    width = max(sum(image.width + GAP for image in row) for row in shrunk.values())
    whole = Image.new("RGB", (width, len(rows) * (HIGH + 3 * GAP)), "white")
    draw = ImageDraw.Draw(whole)
    for i, (title, row) in enumerate(shrunk.items()):
        left, top = 0, i * (HIGH + 3 * GAP)
        draw.text((GAP, top + GAP // 2), title, fill="black", font_size=20)
        for image in row:
            whole.paste(image, (left, top + 2 * GAP))
            left += image.width + GAP
    return whole


def main() -> None:
    """Draws the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data-dir", help="of MNIST")
    parser.add_argument("--output", type=Path, default=Path("contact_sheet.png"))
    parser.add_argument("--folder", type=Path, help="where each figure is kept by itself, too")
    parser.add_argument("--number", type=int, default=Size.number, help="of data, of each kind")
    parser.add_argument("--epochs", type=int, default=Size.epochs)
    parser.add_argument("--figures", nargs="+", choices=FIGURES, default=[*FIGURES])
    given = parser.parse_args()
    all_of: dict[str, list[Image.Image]] = {}
    drawn_of_all: set[str] = set()
    for title, make in KINDS.items():
        torch.manual_seed(0)
        kind = make(Size(given.number, given.epochs, given.data_dir))
        images = {name: picture(figure) for name, figure in drawn(kind, given.figures).items()}
        print(f"{title}: {', '.join(images)}", flush=True)
        all_of[title] = [*images.values()]
        drawn_of_all |= images.keys()
        if given.folder:
            given.folder.mkdir(exist_ok=True)
            for name, image in images.items():
                image.save(given.folder / f"{title.replace(', ', '-').replace(' ', '_')}-{name}.png")
    sheet(all_of).save(given.output)
    print(given.output)
    if missing := {*given.figures} - drawn_of_all:
        sys.exit(f"drawn of no kind of data: {', '.join(sorted(missing))}")


if __name__ == "__main__":
    main()
