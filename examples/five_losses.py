"""Five tutorials, five likelihoods: what each printed loss means as a probability model, and what it costs.

Four of the five losses are, up to a constant and a factor, -log p(x|z) + beta KL(q || p) for some
likelihood, some sigma and some beta; D's KL is not that of its draws. First each claim about the tutorials
is checked by a number.

Then, for each tutorial, its mistake is put into one and the same dense network, and taken out again: A, a
decoder without z; B, grey pixels under a Bernoulli; C, standardised pixels, a sigmoid, and sigma^2 = 1/2;
D, the variance as standard deviation, and beta; E, no draws. All else is kept equal. They are judged on one
measure: the probability of binarised test images b ~ Bernoulli(x). A model that says how bright each pixel
is, E[x|z], says thereby how likely it is white, whatever it was trained on. So that the encoder does not
count, each gets a new one, trained for this. The number is a lower bound of log p(b), by importance
samples; it is loosest where the posterior is narrow, as for E with the mistake. The ± is the standard error
over test images.

What to see: A and C lose about a hundred nats, E more than ten. B costs nothing, for a reason: the loss of
a grey image is the mean of the loss of b over b ~ Bernoulli(x). It is a bound of the mean of log p(b), with
an encoder that sees x; it is none of log p(x), and its value compares with no density of x. D's mistakes
cost little at two latents; but what its loss claims lies above log p(b), and so bounds nothing.

Expect, on MNIST, in nats per image, with the mistake and mended: A -200 and -103, B -147 and -148, C -218
and -114, D -147 and -148, E -111 and -99; D's loss claims -143, E's -71. 10 minutes on two cores.

    python examples/five_losses.py --data-dir DIR      (or --data digits)
"""

import argparse
import math
from pathlib import Path

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.infer import TraceMeanField_ELBO
from torch import nn
from torch.distributions import Normal, kl_divergence

import pyro_vae as pv

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", default="mnist", help="mnist, or digits, which needs no download, or ...")
parser.add_argument("--data-dir", help="folder of the data; downloaded into it when not there")
parser.add_argument("--epochs", type=int, default=10, help="of each model; half as many for its judge")
args = parser.parse_args()

grey = pv.data.load(args.data, data_dir=args.data_dir)
binary = pv.data.load(args.data, data_dir=args.data_dir, binarize="dynamic")
mean, std = (moment.item() for moment in (grey.train[:].mean(), grey.train[:].std()))
x = grey.test[:]
num_pixels = x[0].numel()

# What each loss means. As printed, it is a function of what pixels and latents contribute. Its slope in the
# KL over its slope in the pixels' terms is beta; a slope of w in the squared error is a Normal of variance
# 1 / (2 w).

LOSSES = {
    "A": ("Bernoulli", 10, lambda pixels, kl: pixels.sum() + kl.sum()),
    "B": ("Bernoulli", 2, lambda pixels, kl: pixels.sum() + kl.sum()),
    "C": ("Normal", 10, lambda pixels, kl: pixels.sum() + kl.sum()),
    "D": ("Bernoulli", 2, lambda pixels, kl: pixels.mean() + 5e-4 * (2 * kl).mean()),  # its KL lacks the half
    "E": ("Bernoulli or Normal", 16, lambda pixels, kl: len(pixels) * pixels.mean() + kl.sum()),
}


def implied(name, latent_dim, num_pixels=784):
    """beta, and the variance if the pixels' terms are squared errors."""
    pixels = torch.ones(num_pixels, dtype=torch.float64, requires_grad=True)
    kl = torch.ones(latent_dim, dtype=torch.float64, requires_grad=True)
    by_pixel, by_latent = torch.autograd.grad(LOSSES[name][2](pixels, kl), [pixels, kl])
    return (by_latent[0] / by_pixel[0]).item(), 1 / (2 * by_pixel[0].item())


print("The losses as printed, for 784 pixels, are -log p(x|z) + beta KL(q(z|x) || p(z)), up to")
print("a constant and a factor, with")
for name, (family, latent_dim, _) in LOSSES.items():
    beta, variance = implied(name, latent_dim)
    sigma = f", sigma^2 = {variance:.3f} in the units of its data" if "Normal" in family else ""
    print(f"  {name}: p(x|z) {family}{sigma}, beta = {beta:.3f} with {latent_dim} latents")

# The claims, one number each.

print("\nA  log(1e-10 + 1 - p) at p = 1 in float32:", (torch.tensor(1e-10) + 1 - torch.ones(())).log().item())
logits = torch.linspace(0, 30, 30_001)
print(f"   which sigmoid reaches at logit {logits[logits.sigmoid() == 1].min():.2f}; from logits,", end=" ")
print(f"log(1 - p) at 20 is {-F.softplus(torch.tensor(20.0)):.2f}")
p = x.mean(0).double().clamp(1e-6, 1 - 1e-6)
mass = torch.where((p - 0.5).abs() < 1e-6, 0.5, (2 * p - 1) / p.logit())  # of p^x (1 - p)^(1 - x) over [0, 1]
print("B  the Bernoulli's formula for grey pixels, at the mean image (p from 1e-6 to 1 - 1e-6):", end=" ")
print(f"its mass on [0, 1]^{num_pixels} is exp({mass.log().sum():.1f}), not 1")
grey_loss = F.binary_cross_entropy(p.expand(len(x), *p.shape), x.double(), reduction="sum") / len(x)
drawn = F.binary_cross_entropy(p.expand(len(x), *p.shape), binary.test[:].double(), reduction="sum") / len(x)
print(
    f"   loss of grey test images {grey_loss:.2f}, of images drawn from them {drawn:.2f}: equal in the mean"
)
squares, half = torch.tensor([0.3, 1.7]), Normal(0.0, 0.5**0.5)
rise = half.log_prob(squares[0].sqrt()) - half.log_prob(squares[1].sqrt())
print(f"C  of squared errors 0.3 and 1.7 the loss differs by 1.4, -log Normal(sigma^2 = 1/2) by {rise:.1f}")
y = (x - mean) / std
print(f"   standardised pixels range over [{y.min():.2f}, {y.max():.2f}];", end=" ")
print(f"{((y < 0) | (y > 1)).float().mean():.1%} lie outside the sigmoid's (0, 1)")
try:
    torch.zeros(5, 784) - torch.zeros(5, 1, 28, 28)
except RuntimeError as error:
    print(f"   [5, 784] - [5, 1, 28, 28]: {error}")
variance = torch.tensor(0.01)
charged, due = (kl_divergence(Normal(0.0, s), Normal(0.0, 1.0)) for s in (variance.sqrt(), variance))
print(f"D  KL per latent at logvar = ln 0.01: charged {charged:.2f} nats, due for such draws {due:.2f}")
print("   beta with 2, 5, 10, 20 latents:", ", ".join(f"{implied('D', d)[0]:.3f}" for d in (2, 5, 10, 20)))
print(f"   15 x 15 digits: {len(torch.cartesian_prod(torch.arange(15), torch.arange(15)))}")
try:
    (torch.zeros(2), torch.zeros(2))[2]
except IndexError as error:
    print(f"E  output [2] of an encoder with two: {error}\n")


# With the mistake and mended. Of q(z|x) = Normal(loc, scale) D draws with scale^2 for scale, E not at all.


class DrawnWithVariance(dist.Normal):
    def rsample(self, sample_shape=()):
        return self.loc + self.scale**2 * torch.randn(self._extended_shape(sample_shape))


class NotDrawn(dist.Normal):
    def rsample(self, sample_shape=()):
        return self.loc.expand(self._extended_shape(sample_shape))


net, mirrored = pv.nets.mlp(256, 128), pv.nets.mlp(128, 256)


class Unconnected(nn.Module):
    """A decoder that is not given z."""

    def __init__(self, in_shape, out_shape):
        super().__init__()
        self.net = mirrored(in_shape, out_shape)

    def forward(self, z):
        return self.net(torch.zeros_like(z))


def sigmoid_net(in_shape, out_shape):
    return nn.Sequential(mirrored(in_shape, out_shape), nn.Sigmoid())


standardised = pv.data.load((grey.train[:] - mean) / std, validation=0, test=0)
bernoulli, half = pv.likelihoods.Bernoulli(), pv.likelihoods.Normal(scale=0.5**0.5)
printed_beta = implied("D", 2, num_pixels)[0]
VARIANTS = {
    "A with the mistake": (binary, {"latent_dim": 10, "decoder": Unconnected}, 1.0),
    "A mended": (binary, {"latent_dim": 10}, 1.0),
    "B with the mistake": (grey, {"latent_dim": 2, "likelihood": pv.likelihoods.PseudoBernoulli()}, 1.0),
    "B mended": (binary, {"latent_dim": 2}, 1.0),
    "C with the mistakes": (
        standardised,
        {"latent_dim": 10, "likelihood": half, "decoder": sigmoid_net},
        1.0,
    ),
    "C mended": (grey, {"latent_dim": 10, "likelihood": pv.likelihoods.Normal(scale="shared")}, 1.0),
    "D with both mistakes": (binary, {"latent_dim": 2, "guide": DrawnWithVariance}, printed_beta),
    "D with the wrong scale": (binary, {"latent_dim": 2, "guide": DrawnWithVariance}, 1.0),
    "D mended": (binary, {"latent_dim": 2}, 1.0),
    "E with the mistake": (binary, {"latent_dim": 16, "guide": NotDrawn}, 1.0),
    "E mended": (binary, {"latent_dim": 16}, 1.0),
}


class White(nn.Module):
    """p(b|z) of binarised pixels by a trained model: each is white with probability E[x|z]."""

    def __init__(self, trained, to_grey):
        super().__init__()
        trained.requires_grad_(False)
        self.white = lambda z: to_grey(trained.decode(z).mean)  # a function: it is not trained any further

    def forward(self, z):
        return dist.Bernoulli(self.white(z).clamp(1e-4, 1 - 1e-4)).to_event(3)


some = torch.stack([x[grey.test.labels == label][0] for label in range(10)])
rows, labels, scores = [some], ["test images"], {}
print(f"In nats per image: a lower bound of log p(b) of {len(x[:1000])} binarised test images (K = 1000);")
print("and what the loss claims, on training images, a bound of log p(b) if the loss is the negative ELBO.")
print(f"{'':22} {'claimed':>9} {'log p(b)':>9}  mended less the first, paired")
for name, (data, parts, beta) in VARIANTS.items():
    torch.manual_seed(0)
    vae = pv.VAE(data.event_shape, **({"encoder": net, "decoder": mirrored} | parts))
    if data is standardised:
        vae.initialized.fill_(True)  # its outputs are the sigmoid's, not started at the data's statistics
    loss = TraceMeanField_ELBO()
    run = pv.fit(vae, data, epochs=args.epochs, lr=1e-3, beta=beta, loss=loss, progress=False)
    shift, factor = (mean, std) if data is standardised else (0.0, 1.0)
    judge = pv.VAE(x[0].shape, vae.latent_dim, encoder=net, decoder=pv.nets.mlp())
    judge.p_x = White(vae, lambda y, shift=shift, factor=factor: shift + factor * y)
    pv.fit(judge, binary, epochs=(args.epochs + 1) // 2, progress=False)
    scores[name] = pv.evaluate.log_likelihood(judge, binary.test[:1000], num_samples=1000).per_datum
    claimed = "" if name[0] == "C" else f"{-run.history[-1]['loss']:.1f}"
    told = f"{name:22} {claimed:>9} {scores[name].mean():9.1f}"
    if name.endswith("mended"):
        paired = scores[name] - next(score for other, score in scores.items() if other[0] == name[0])
        told += f"  {paired.mean():+7.1f} ± {paired.std() / len(paired) ** 0.5:.1f}"
    if name[0] == "C":  # on its own measure too: densities of grey pixels, in the units of [0, 1]
        own = pv.evaluate.log_likelihood(vae, data.test[:1000] if data is grey else (x[:1000] - mean) / std)
        told += f"   log p(grey pixels) {own.log_likelihood - num_pixels * math.log(factor):.1f}"
    print(told, flush=True)
    with judge.evaluating():
        z = judge.prior().sample((10,))
        rows.append(torch.cat([judge.decode(judge.encode(some).mean).mean, judge.decode(z).mean]).cpu())
    labels.append(f"{name}: {scores[name].mean():.1f}")
Path("figures").mkdir(exist_ok=True)
title = "Left: reconstructions. Right: E[x|z] at draws z ~ p(z). Beside: log p(b), nats per image, at least"
pv.figures.grid(rows, title, labels).savefig("figures/five_losses.png")
