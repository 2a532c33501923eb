"""Tutorial D, done right: a convolutional VAE with two latents, its map, paths and concept vectors.

Convolutions of 32, 64 (stride 2), 64 and 64 channels, dense 32, two latents; dense 14x14x64, a transposed
convolution of 32 channels (stride 2), a convolution; RMSprop (whose rate falls to 0 over the run), batches
of 16, 10 epochs.

What the tutorial gets wrong: exp(logvar) is the standard deviation when z is drawn and the variance in the
KL, so that its loss is no bound; the means over pixels and latents with a factor of 5e-4 weigh the KL by
0.784 / latent_dim, which is 0.392 here and changes with latent_dim; grey pixels are fed to a Bernoulli; 15
x 15 digits are 225, not 255. `examples/five_losses.py` tells what each costs. Here sums are sums, and the
distributions keep their own scales.

Expect, on MNIST: a test ELBO of about -146 nats per image after 10 epochs, 18 minutes on two cores (two
latents cannot tell more than the class and a little of the style).

    python examples/tutorial_d_convolutional.py --data-dir DIR      (or --data digits)
"""

import argparse
import math
from functools import partial
from pathlib import Path

import torch
from pyro.infer import TraceMeanField_ELBO
from torch import nn
from torchvision.utils import save_image

import pyro_vae as pv

FIGURES = Path("figures")


def encoder(in_shape, out_shape):
    depth, height, width = in_shape
    half = math.ceil(height / 2) * math.ceil(width / 2)
    return nn.Sequential(
        *(nn.Conv2d(depth, 32, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(64 * half, 32), nn.ReLU()),
        nn.Linear(32, math.prod(out_shape)),
    )


def decoder(in_shape, out_shape):
    depth, height, width = out_shape
    inner = (64, height // 2, width // 2)
    return nn.Sequential(
        *(nn.Linear(math.prod(in_shape), math.prod(inner)), nn.ReLU(), nn.Unflatten(1, inner)),
        *(nn.ConvTranspose2d(64, 32, 3, stride=2, padding=1, output_padding=1), nn.ReLU()),
        nn.Conv2d(32, depth, 3, padding=1),
    )


def concepts(vae, x, labels):
    """A typical image of each class, and thick less thin strokes (fifths of each class, averaged) in z."""
    z, ink = vae.encode(x).mean, x.flatten(1).mean(1)
    typical, steps = [], []
    for label in labels.unique():
        codes, own = z[labels == label], ink[labels == label]
        thin, thick = own <= own.quantile(0.2), own >= own.quantile(0.8)
        typical.append(x[labels == label][(codes - codes.mean(0)).norm(dim=1).argmin()])
        steps.append(codes[thick].mean(0) - codes[thin].mean(0))
    return typical, torch.stack(steps).mean(0)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", default="mnist", help="mnist, or digits, which needs no download, or ...")
parser.add_argument("--data-dir", help="folder of the data; downloaded into it when not there")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--batch-size", type=int, default=16)
parser.add_argument("--lr", type=float, default=1e-3)
args = parser.parse_args()
digits = pv.data.load(args.data, data_dir=args.data_dir, binarize="dynamic")
torch.manual_seed(0)
vae = pv.VAE(digits.event_shape, latent_dim=2, encoder=encoder, decoder=decoder)
optimizer = partial(torch.optim.RMSprop, alpha=0.9, eps=1e-7)
loss = TraceMeanField_ELBO()
pv.fit(
    vae, digits, epochs=args.epochs, batch_size=args.batch_size, lr=args.lr, optimizer=optimizer, loss=loss
)
FIGURES.mkdir(exist_ok=True)
x, labels = digits.test[:], digits.test.labels

pv.figures.manifold(vae).savefig(FIGURES / "tutorial_d_convolutional.png")
with vae.evaluating():  # the same map without gaps: 15 x 28 = 420 pixels a side
    quantiles = torch.distributions.Normal(0.0, 1.0).icdf(torch.linspace(0.05, 0.95, 15))
    z = torch.cartesian_prod(quantiles.flip(0), quantiles).flip(1).to(vae.device)
    save_image(vae.decode(z).mean, FIGURES / "tutorial_d_map.png", nrow=15, padding=0)
    some, concept = concepts(vae, x.to(vae.device), labels)
    steps = torch.linspace(-2, 2, 9).to(concept)[:, None]
    rows = [torch.cat([a[None], vae.decode(vae.encode(a[None]).mean + steps * concept).mean]) for a in some]
title = "Test digits, and their codes plus -2 to 2 times the concept vector of thick strokes"
pv.figures.grid(rows, title).savefig(FIGURES / "tutorial_d_concept.png")
pv.figures.interpolation(vae, some[3], some[6]).savefig(FIGURES / "tutorial_d_path.png")
pv.figures.latents(vae, digits.test).savefig(FIGURES / "tutorial_d_latents.png")
print("test", pv.evaluate.elbo(vae, digits.test))
