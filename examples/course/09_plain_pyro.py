# %% [markdown]
# # 9. Plain Pyro
#
# `vae.model` and `vae.guide` are ordinary Pyro programs, with sites "z" and "x" in a plate "data". All of
# Pyro applies to them: its SVI, optimizers and ELBOs, its posterior predictive, NUTS. The script to copy
# and own is the next cell.

# %%
import os

import pyro
import torch
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO

import pyro_vae as pv

# Fraction of every number of steps: below 1, for a quick look, training is cut short and numbers differ.
SIZE = float(os.environ.get("COURSE_SIZE", 1))
pyro.set_rng_seed(0)
data = pv.data.load("digits", binarize="dynamic")
vae = pv.VAE(data.event_shape, latent_dim=10)
vae.initialize(data.train)  # start at the data's statistics

num_epochs = max(2, round(50 * SIZE))
svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
for epoch in range(num_epochs):
    data.train.redraw(seed=epoch)  # the dynamic binarisation
    order = torch.randperm(len(data.train))
    loss = sum(svi.step(batch) for batch in data.train.batches(128, order)) / len(data.train)
    if (epoch + 1) % 10 == 0 or epoch + 1 == num_epochs:
        print(f"epoch {epoch + 1}: training ELBO {-loss:.2f} nats per image")
print("test", pv.evaluate.elbo(vae, data.test))

# %% [markdown]
# Compiled, the same steps take about half the time: `from pyro_vae.svi import SVI`, and `SVI(vae.model,
# vae.guide, torch.optim.Adam(vae.parameters()), Trace_ELBO(), compile=True)`. `pv.fit` does that in runs of
# 1000 steps or more, and keeps checkpoints; but nothing depends on it.
#
# ## Posterior predictive
#
# What would another image of the same $z$ look like? Draw $z \sim q(z \mid x)$ and $x' \sim p(x \mid z)$:
# `uncondition` makes the observed site a sampled one.

# %%
x = data.test[:8]
predictive = Predictive(pyro.poutine.uncondition(vae.model), guide=vae.guide, num_samples=100)
again = predictive(x)["x"]  # [100, 8, 1, 8, 8]
rows = [x, again.mean(0).detach(), *again[:3].detach()]
figure = pv.figures.grid(rows, "Images, and others of the same z", ["x", "mean of x'", "x'", "x'", "x'"])
os.makedirs("figures", exist_ok=True)
figure.savefig("figures/09_plain_pyro.png")
figure

# %% [markdown]
# ## NUTS
#
# The posterior of one image without any guide: draws of a Markov chain on `vae.model`. One short chain, for
# a first look at three latents; for a conclusion run several and check them, as in chapter 7.

# %%
mcmc = MCMC(
    NUTS(vae.model),
    num_samples=max(10, round(200 * SIZE)),
    warmup_steps=max(10, round(200 * SIZE)),
    disable_progbar=True,
)
mcmc.run(x[:1])
z = mcmc.get_samples()["z"][:, 0]
q = vae.encode(x[:1])
print("latent   posterior by NUTS      q(z|x)")
for d in range(3):
    loc, scale = q.mean[0, d].item(), q.stddev[0, d].item()
    print(f"z[{d}]    {z[:, d].mean():7.2f} ± {z[:, d].std():.2f}     {loc:7.2f} ± {scale:.2f}")

# %% [markdown]
# ## Exercises
#
# **1.** `TraceMeanField_ELBO` has the KL by its formula. Is its mean that of `Trace_ELBO`?
#
# <details><summary>Solution</summary>
#
# It is; only the noise is another.
#
# ```python
# from pyro.infer import TraceMeanField_ELBO
#
# losses = [
#     torch.tensor([loss().loss(vae.model, vae.guide, x) for _ in range(50)])
#     for loss in (Trace_ELBO, TraceMeanField_ELBO)
# ]
# difference = losses[0].mean() - losses[1].mean()
# assert difference.abs() < 5 * (losses[0].var() / 50 + losses[1].var() / 50).sqrt()
# ```
#
# </details>
#
# **2.** Set the first latent to 2 and the others to 0. What does the model say of $x$, by a handler of
# Pyro's?
#
# <details><summary>Solution</summary>
#
# `condition` fixes a site; the rest of the program runs as ever.
#
# ```python
# at = torch.zeros(1, 10)
# at[0, 0] = 2.0
# trace = pyro.poutine.trace(pyro.poutine.condition(vae.model, {"z": at})).get_trace(x[:1])
# said = trace.nodes["x"]["fn"].log_prob(x[:1])
# assert torch.allclose(said, vae.decode(at).log_prob(x[:1]), atol=1e-4)
# ```
#
# </details>
