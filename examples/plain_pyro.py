"""The VAE with nothing but Pyro: `vae.model` and `vae.guide` are ordinary programs.

SVI is Pyro's own, and so are the optimizer, the posterior predictive and NUTS. Expect a test ELBO of about
-23.6 nats per image after 50 epochs (10 s on two cores).
"""

import argparse

import pyro
import torch
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO

import pyro_vae as pv

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=50)
epochs = parser.parse_args().epochs

pyro.set_rng_seed(0)
data = pv.data.load("digits", binarize="dynamic")
vae = pv.VAE(data.event_shape, latent_dim=10)
vae.initialize(data.train)  # start at the data's statistics

svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
for epoch in range(epochs):
    data.train.redraw(seed=epoch)  # the dynamic binarisation
    order = torch.randperm(len(data.train))
    loss = sum(svi.step(x) for x in data.train.batches(128, order)) / len(data.train)
    if (epoch + 1) % 10 == 0 or epoch + 1 == epochs:
        print(f"epoch {epoch + 1}: training ELBO {-loss:.2f} nats per image")
print("test", pv.evaluate.elbo(vae, data.test))

x = data.test[:1]
predictive = Predictive(pyro.poutine.uncondition(vae.model), guide=vae.guide, num_samples=100)
print("posterior predictive mean of its pixels:", predictive(x)["x"].mean().item())

mcmc = MCMC(NUTS(vae.model), num_samples=100, warmup_steps=100, disable_progbar=True)
mcmc.run(x)
z = mcmc.get_samples()["z"][:, 0]
print("posterior mean of z[0] by NUTS:", z[:, 0].mean().item())
print("posterior mean of z[0] by the guide:", vae.encode(x).mean[0, 0].item())
