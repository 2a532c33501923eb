"""Tutorial E, done right: a VAE of any depth and width for vectors of any length, which compresses them.

`num_layers` dense layers of `encoding_dim` units, mirrored; squared error or binary cross-entropy; the KL
in closed form or from draws; their weighted sum; Adam.

What the tutorial gets wrong: it takes output [2] of an encoder that has two, which is an IndexError; and it
never calls its sampler. With the index mended it trains an autoencoder with the penalty |loc|^2 / 2 on its
codes: without draws the best scale is 1, and the rest of the KL vanishes.

What its settings mean: a reconstruction loss is the negative log of a likelihood; squared error times
`input_dim` that of a Normal of variance 1/2, cross-entropy that of a Bernoulli, for pixels of 0 and 1. A
weight `beta` on the KL makes the objective E[log p(x|z)] - beta KL(q || p). For a Normal of fixed variance
s that is, up to a constant and the factor beta, the ELBO with variance beta s; with a learned scale it is
not. So learn the scale (`normal`) and leave beta at 1. Reported is the ELBO itself, whatever beta was in
training.

Expect, on MNIST: a test ELBO of about -97.6 nats per image with the defaults, in one or two minutes on two
cores; an image of 784 numbers is kept as 16.

    python examples/tutorial_e_stacked.py --data-dir DIR --num-layers 3 --likelihood normal
"""

import argparse
from pathlib import Path

import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

import pyro_vae as pv

FIGURES = Path("figures")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", default="mnist", help="mnist, or digits, which needs no download, or ...")
parser.add_argument("--data-dir", help="folder of the data; downloaded into it when not there")
parser.add_argument("--num-layers", type=int, default=2)
parser.add_argument("--encoding-dim", type=int, default=256)
parser.add_argument("--latent-dim", type=int, default=16)
parser.add_argument("--likelihood", choices=["bernoulli", "normal"], default="bernoulli")
parser.add_argument("--kl", choices=["analytic", "sampled"], default="analytic")
parser.add_argument("--beta", type=float, default=1.0, help="weight of the KL")
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--batch-size", type=int, default=128)
parser.add_argument("--lr", type=float, default=1e-3)
args = parser.parse_args()
binarize = "dynamic" if args.likelihood == "bernoulli" else "none"
vectors = pv.data.load(args.data, data_dir=args.data_dir, binarize=binarize)
p_x = {"bernoulli": pv.likelihoods.Bernoulli(), "normal": pv.likelihoods.Normal(scale="shared")}
torch.manual_seed(0)
net = pv.nets.mlp(*[args.encoding_dim] * args.num_layers)
vae = pv.VAE(vectors.event_shape, args.latent_dim, likelihood=p_x[args.likelihood], encoder=net, decoder=net)
loss = {"analytic": TraceMeanField_ELBO(), "sampled": Trace_ELBO()}
pv.fit(
    vae,
    vectors,
    epochs=args.epochs,
    batch_size=args.batch_size,
    lr=args.lr,
    beta=args.beta,
    loss=loss[args.kl],
)

x = vectors.test[:1000]
with vae.evaluating():
    code = vae.encode(x).mean  # compressed
    back = vae.decode(code).mean  # and reconstructed
print(f"{x[0].numel()} numbers kept as {code[0].numel()}: mean absolute error {(x - back).abs().mean():.3f}")
FIGURES.mkdir(exist_ok=True)
pv.figures.reconstructions(vae, x[:10]).savefig(FIGURES / "tutorial_e_stacked.png")
print("test", pv.evaluate.elbo(vae, vectors.test))
