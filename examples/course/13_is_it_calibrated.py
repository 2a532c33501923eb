# %% [markdown]
# # 13. Is it calibrated?
#
# A posterior makes a promise: of all the times it says "90 %", nine in ten come true. An encoder may break
# it for *every* datum, by being too sure of itself, and no ELBO tells. This chapter holds the promise
# against data whose truth is known, those that the model has simulated; and then asks the other question,
# whether the model is like the data at all.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import pyro_vae as pv

# Fraction of every number of steps: below 1, for a quick look, training is cut short and numbers differ.
SIZE = float(os.environ.get("COURSE_SIZE", 1))
torch.manual_seed(0)
Path("figures").mkdir(exist_ok=True)

# %% [markdown]
# ## Ranks
#
# Draw $z^*$ from the prior, $x$ from $p(x \mid z^*)$, and then $L$ draws from $q(z \mid x)$. If $q$ is the
# posterior, $z^*$ and the $L$ draws are all draws of one distribution, and none is special: the rank of
# $z^*$ among them is uniform over $0, \dots, L$ (Cook, Gelman and Rubin, 2006; Talts et al., 2018). If $q$ is
# too narrow, $z^*$ lies outside too often, and the histogram of ranks has the shape of a U; if it is too
# wide, of a hill; if it is shifted, of a slope.
#
# With $z \sim \mathcal N(0, 1)$ and $x \mid z \sim \mathcal N(z, 0.5^2)$, the posterior is $\mathcal N(0.8
# x, 0.2)$.

# %%
N, L = 20_000, 9
z = torch.randn(N)
x = z + 0.5 * torch.randn(N)
figure, panels = plt.subplots(1, 4, figsize=(12, 2.8), sharey=True, layout="constrained")
for axes, (name, scale, shift) in zip(
    panels,
    (("exact", 1.0, 0.0), ("narrow", 0.8, 0.0), ("wide", 1.25, 0.0), ("shifted", 1.0, 0.1)),
    strict=True,
):
    q = torch.distributions.Normal(0.8 * x + shift, scale * 0.2**0.5)
    ranks = (q.sample((L,)) < z).sum(0)
    counts = torch.bincount(ranks, minlength=L + 1)
    print(f"{name:8} {counts.tolist()}")
    axes.bar(range(L + 1), counts / N, width=1.0, edgecolor="white")
    axes.axhline(1 / (L + 1), color="black", linewidth=0.8)
    axes.set(title=name, xlabel="rank of the truth")
panels[0].set_ylabel("share of simulations")
figure.savefig("figures/13_is_it_calibrated.png")

# %% [markdown]
# ## A VAE's encoder
#
# The same in one line, for every latent of any program: simulate, encode, rank. The *p*-value is of all of
# them together; below 0.05, say, the encoder is not calibrated.

# %%
data = pv.data.load("digits", binarize="static")
nets = {"encoder": pv.nets.mlp(200), "decoder": pv.nets.mlp(200)}
vae = pv.VAE(data.event_shape, latent_dim=4, **nets)
number = max(20, round(1000 * SIZE))
for epochs in (5, 150):
    pv.fit(vae, data, epochs=max(2, round(epochs * SIZE)), progress=False)
    found = pv.evaluate.calibration(vae, num_simulations=number)
    print(f"after {epochs} epochs more: {pv.evaluate.elbo(vae, data.test)}\n{found}")
figure = pv.figures.calibration(found)
figure.savefig("figures/13_ranks_of_digits.png")
figure

# %% [markdown]
# What to do with an encoder that is not: a richer family (`guide=pv.guides.Flow()`), more training, or
# draws that are weighed or moved on afterwards: `pv.predict(vae, x, hmc=20)`.
#
# ## Calibrated is not right
#
# An encoder that ignores $x$ and says the prior, with a decoder that ignores $z$, is calibrated. Whether
# the *model* is like the data is another question, put to other data: are statistics of held-out data
# typical among those of data that the model draws?


# %%
def ink(x):
    """How much of each image is white."""
    return x.flatten(1).mean(1)


def strokes(x):
    """How often each image changes from pixel to pixel, along its rows."""
    return x.diff(dim=-1).abs().flatten(1).mean(1)


for latent_dim in (1, 10):
    torch.manual_seed(0)
    other = pv.VAE(data.event_shape, latent_dim=latent_dim, **nets)
    pv.fit(other, data, epochs=max(2, round(150 * SIZE)), progress=False)
    check = pv.evaluate.predictive_check(other, data.test, statistics={"ink": ink, "strokes": strokes})
    print(f"{latent_dim} latents: {check}")
figure = pv.figures.predictive_check(check)
figure.savefig("figures/13_does_the_model_fit.png")
figure

# %% [markdown]
# ## Exercises
#
# **1.** How often does the 90 % interval of the narrow guide, of 0.8 times the scale, hold the truth?
#
# <details><summary>Solution</summary>
#
# In 81 % of all cases, by formula and by count.
#
# ```python
# reach = 1.645 * 0.8
# normal = torch.distributions.Normal(0.0, 1.0)
# formula = 2 * normal.cdf(torch.tensor(reach)) - 1
# assert abs(formula - 0.81) < 0.01
# assert abs(((z - 0.8 * x).abs() < reach * 0.2**0.5).float().mean() - formula) < 0.02
# ```
#
# </details>
#
# **2.** Is a guide that says the prior, whatever $x$ is, calibrated?
#
# <details><summary>Solution</summary>
#
# It is, and useless. Ranks are uniform:
#
# ```python
# counts = torch.bincount((torch.randn(L, N) < z).sum(0), minlength=L + 1)
# assert (counts / N - 1 / (L + 1)).abs().max() < 0.02
# ```
#
# </details>
