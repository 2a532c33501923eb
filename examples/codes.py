"""A latent that is four codes: vector quantisation as a prior and a guide.

Scikit-learn's digits, each told by four of 64 codes (van den Oord, Vinyals and Kavukcuoglu, 2017). The prior
is uniform over the codes, so that the KL is 4 log 64 = 16.64 nats of any datum, the guide takes the codes
nearest to what the encoder emits, and the codebook follows by moving averages. Expect a test ELBO of about
-27.8, of which 16.64 nats pay for the codes, a perplexity above 60, and no dead code.

    python examples/codes.py
"""

import argparse
from pathlib import Path

import torch

import pyro_vae as pv

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=100)
parser.add_argument("--seed", type=int, default=0)
given = parser.parse_args()

data = pv.data.load("digits", binarize="dynamic")
torch.manual_seed(given.seed)
vae = pv.VAE(
    data.event_shape,
    latent_dim=4 * 8,
    prior=pv.priors.Codes(64, code_dim=8),
    encoder=pv.nets.mlp(128),
    decoder=pv.nets.mlp(128),
)
print(str(vae.explain()).split("The ELBO")[0])
run = pv.fit(vae, data, epochs=given.epochs, lr=3e-3, seed=given.seed)
last = run.history[-1]
print(f"perplexity of the codes {last['perplexity_z']:.1f} of 64, {last['dead_codes_z']:.0f} of them dead")

terms = pv.evaluate.elbo(vae, data.test)
print(f"test ELBO {terms.elbo:.2f}: reconstruction {terms.reconstruction:.2f} + KL {terms.kl:.2f} nats")

# What the codes cost if a code is priced by how often its position has it, and not log 64.
with vae.evaluating():
    train, test = (vae.encode(split[:]).codes for split in (data.train, data.test))
shares = torch.stack([(column.bincount(minlength=64) + 1.0) / (len(train) + 64) for column in train.T])
nats = -shares.log().gather(1, test.T).sum(0).mean()
print(f"coded by their shares they cost {nats:.2f} nats: ELBO {-terms.reconstruction - nats:.2f}")

Path("figures").mkdir(exist_ok=True)
pv.figures.codes(vae, data.train, num_codes=8).savefig("figures/codes.png")
