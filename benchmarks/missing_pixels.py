"""Half of all pixels are missing in training: what does that cost, of complete images?

    python benchmarks/missing_pixels.py --data-dir DIR

prints a table: log p(x) of complete test images, in nats per image, of a VAE that was trained on complete
images, on images of which each pixel is missing with probability 1/2 (NaN, once and for all), and on those
with 0 in the place of what is missing; the others paired with the first, image by image. As the guide of the
second saw no complete image, it is fitted to complete ones, the decoder as it is. Images are binarised once;
networks and settings are the package's defaults and the same for all, no tuning for any. Then it draws
``missing_pixels.png``: of the lower half of test images what the encoder guesses, and draws of p(rest|given),
by the model that was trained with missing pixels. The runs are kept in a folder, where an interrupted
benchmark goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae.evaluate import LogLikelihood


def kinds(x: Tensor, rate: float) -> dict[str, Tensor]:
    """The training images, complete and not."""
    missing = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < rate
    return {
        "complete": x,
        f"{100 * rate:g} % missing": torch.where(missing, torch.nan, x),
        "0 where missing": torch.where(missing, 0.0, x),
    }


def main() -> None:
    """Prints the table and draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--rate", type=float, default=0.5, help="of what is missing")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--num-samples", type=int, default=500)
    parser.add_argument("--num-images", type=int, default=10_000, help="test images, from the first on")
    parser.add_argument("--folder", type=Path, default=Path("runs/missing_pixels"))
    given = parser.parse_args()
    whole = pv.data.load(given.data, data_dir=given.data_dir, binarize="static")
    training, test = whole.train.batch(slice(None))["x"], whole.test[: given.num_images]
    complete = pv.data.load(training, test=0.0)
    found: dict[str, LogLikelihood] = {}

    def trained(name: str, vae: pv.VAE, data: pv.data.Data, epochs: int) -> None:
        print(f"\n{name}", flush=True)
        folder = given.folder / name.replace(" ", "-").replace("%", "percent").replace(",", "")
        pv.fit(vae, data, epochs=epochs, folder=folder, resume="auto")
        found[name] = pv.evaluate.log_likelihood(vae, test, num_samples=given.num_samples)

    for name, x in kinds(training, given.rate).items():
        torch.manual_seed(0)
        vae = pv.VAE(whole.event_shape, 20)
        trained(name, vae, pv.data.load(x, test=0.0), given.epochs)
        if x.isnan().any():
            known = torch.ones(whole.event_shape, dtype=torch.bool)
            known[..., whole.event_shape[-2] // 2 :, :] = False
            figure = pv.figures.inpainting(vae, test[:10], known)
            figure.savefig(given.folder / "missing_pixels.png", dpi=150)
            vae.p_x.requires_grad_(False)
            trained(f"{name}, guide complete", vae, complete, max(1, given.epochs // 4))
    lines, first = [], found["complete"]
    for name, one in found.items():
        paired = one.per_datum - first.per_datum
        error = paired.std().item() / len(paired) ** 0.5
        against = "" if one is first else f"{paired.mean():+.2f} ± {error:.2f}"
        lines.append(f"| {name} | {one.log_likelihood:.2f} ± {one.standard_error:.2f} | {against} |")
    print(f"\n| trained on | log p(complete x), K = {given.num_samples} | less the first, paired |")
    print("|---|---:|---:|", *lines, sep="\n")


if __name__ == "__main__":
    main()
