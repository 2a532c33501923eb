"""Tutorial A, done right: a dense VAE of handwritten digits, which writes new ones again and again.

784-256-128 (ReLU), 10 latents, 128-256-784; the KL in closed form; RMSprop, batches of 128, 50 epochs.

What the tutorial gets wrong: its decoder is never connected to z, so that neither training nor decoding
works as printed; log(1e-10 + 1 - p) is log 0 at p = 1, because 1e-10 vanishes in float32; grey pixels are
fed to a Bernoulli; it validates on the test images. Here the decoder is given z, emits logits, the pixels
are binarised anew each epoch, and 6,000 training images are held out for validation.

Expect, on MNIST: a test ELBO of about -104.3 nats per image after 50 epochs, 3 minutes on two cores.

    python examples/tutorial_a_dense.py --data-dir DIR      (or --data digits)
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from pyro.infer import TraceMeanField_ELBO
from torch import nn

import pyro_vae as pv

FIGURES = Path("figures")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", default="mnist", help="mnist, or digits, which needs no download, or ...")
parser.add_argument("--data-dir", help="folder of the data; downloaded into it when not there")
parser.add_argument("--epochs", type=int, default=50)
parser.add_argument("--batch-size", type=int, default=128)
parser.add_argument("--lr", type=float, default=1e-3)
args = parser.parse_args()
digits = pv.data.load(args.data, data_dir=args.data_dir, binarize="dynamic")
torch.manual_seed(0)
vae = pv.VAE(
    digits.event_shape,
    latent_dim=10,
    encoder=pv.nets.mlp(256, 128, activation=nn.ReLU),
    decoder=pv.nets.mlp(128, 256, activation=nn.ReLU),
)
print(vae, vae.explain(), sep="\n\n")  # the summary: layers, then distributions and sizes

run = pv.fit(
    vae,
    digits,
    epochs=args.epochs,
    batch_size=args.batch_size,
    lr=args.lr,
    schedule="constant",
    optimizer=partial(torch.optim.RMSprop, alpha=0.9, eps=1e-7),  # as Keras has it
    loss=TraceMeanField_ELBO(),  # the KL in closed form
)

FIGURES.mkdir(exist_ok=True)
pv.figures.samples(vae, 100).savefig(FIGURES / "tutorial_a_dense.png")
pv.figures.training_curves(run.history).savefig(FIGURES / "tutorial_a_dense_curves.png")
print("test", pv.evaluate.elbo(vae, digits.test))
