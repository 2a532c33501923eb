"""Twelve levels of latents, none of which collapses: skips, free bits, and the KL of each.

Of scikit-learn's digits one level of 48 latents is learned, and twelve of 4 each, where a level sees its
neighbour alone or all that is above it (``skip=True``). Under free bits (Kingma et al., 2016) the first 0.25
nats of each level cost nothing, and the weight of the KL rises over the first half of the epochs. Expect test
ELBOs of about -25.3 of one level, -25.3 of neighbours and -24.0 with skips. Through a chain of networks the
level next to x carries most, and those above are held up by the free bits alone; with skips each is next to
x, and the highest carries most. The ELBO that is printed is the bound, without free bits.

    python examples/deep_ladder.py
    python examples/deep_ladder.py --images

With ``--images`` networks are convolutions, and the twelve levels four images of 4 x 4 pixels, four of 2 x 2,
and at the top four vectors of 4 latents.
"""

import argparse
from pathlib import Path

import torch

import pyro_vae as pv

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=24)
parser.add_argument("--images", action="store_true", help="levels of images, by convolutions")
given = parser.parse_args()
epochs = given.epochs

data = pv.data.load("digits", binarize="dynamic")
resnet = pv.nets.resnet(8, num_blocks=1)
nets = dict.fromkeys(("encoder", "decoder"), resnet if given.images else pv.nets.mlp(64))
images = ((1, 4, 4),) * 4 + ((1, 2, 2),) * 4 + (4,) * 4


def ladder(skip):
    dims, between = (images, resnet) if given.images else ((4,) * 12, pv.nets.mlp(32))
    return pv.HierarchicalVAE(
        data.event_shape, dims, inference="top_down", skip=skip, between=between, **nets
    )


width = 96 if given.images else 48
programs = {
    f"one level of {width}": lambda: pv.VAE(data.event_shape, width, **nets),
    "twelve, each sees its neighbour": lambda: ladder(skip=False),
    "twelve, each sees all above": lambda: ladder(skip=True),
}
told = []
for name, make in programs.items():
    torch.manual_seed(0)
    program = make()
    run = pv.fit(
        program,
        data,
        epochs=epochs,
        lr=2e-3,
        warmup_epochs=epochs // 2,
        loss=pv.objectives.FreeBits(0.25),
    )
    bound = pv.evaluate.elbo(program, data.test, num_samples=20)
    levels = " ".join(f"{value:.2f}" for term, value in bound.terms.items() if term.startswith("kl_"))
    told.append(f"{name:32} ELBO {bound.elbo:.2f}, KL {bound.kl:.2f} = {levels}")
print("\nOf the test data, levels from the highest to that next to x:\n", *told, sep="\n")

Path("figures").mkdir(exist_ok=True)
name = "deep_ladder_images" if given.images else "deep_ladder"
pv.figures.kl_by_level(run.history).savefig(f"figures/{name}.png", dpi=120)
