"""A decoder that says where it does not know: a VAE whose weights are latent, too.

A thousand of scikit-learn's digits train a VAE of two latents, once with ordinary weights, and once with a
prior on those of the decoder and a Normal for the posterior of each (Blundell et al., 2015). The ELBO of
other digits is over draws of the weights. The picture shows by how much decoders that are drawn differ, over
the plane of the latents: little where there are codes, much where there are none.
Expect the ELBO of other digits to be -20.7 of the ordinary one, and -21.0 of the Bayesian one.

    python examples/bayesian_decoder.py
"""

import argparse
from pathlib import Path

import torch

import pyro_vae as pv

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=90)
parser.add_argument("--number", type=int, default=1000, help="training data")
parser.add_argument("--seed", type=int, default=0)
given = parser.parse_args()

digits = pv.data.load("digits", binarize="threshold")
x = torch.cat([split.batch(slice(0, len(split)))["x"] for split in (digits.train, digits.test)])
few = pv.data.load(x[: given.number], validation=0.0, test=0.0)
others = x[given.number :]

decoders = {"ordinary": pv.nets.mlp(30), "Bayesian": pv.nets.bayesian(pv.nets.mlp(30))}
made = {}
for name, decoder in decoders.items():
    torch.manual_seed(given.seed)
    vae = made[name] = pv.VAE(few.event_shape, latent_dim=2, encoder=pv.nets.mlp(30), decoder=decoder)
    pv.fit(vae, few, epochs=given.epochs, batch_size=100, lr=1e-2, seed=given.seed, progress=False)
    own = pv.evaluate.elbo(vae, few.train, num_samples=50)
    bound = pv.evaluate.elbo(vae, others, num_samples=50)
    print(f"{name}: ELBO of the training data {own.elbo:.1f}, of others {bound.elbo:.1f} nats per datum")

vae = made["Bayesian"]
q = vae.p_x.weights()
print(f"{q.event_shape[0]} latent weights, each known to {q.variance.sqrt().mean():.2f} in the mean")
Path("figures").mkdir(exist_ok=True)
pv.figures.uncertainty(vae, few.train).savefig("figures/bayesian_decoder.png")
