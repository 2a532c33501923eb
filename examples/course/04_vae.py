# %% [markdown]
# # 4. The VAE
#
# Chapter 2 had a linear decoder and the exact posterior; chapter 3 an encoder. With a nonlinear network as
# decoder there is no formula left, and the encoder is what makes learning feasible. This is the variational
# autoencoder (Kingma and Welling, 2014; Rezende, Mohamed and Wierstra, 2014): a generative model
#
# $$z \sim \mathrm{Normal}(0, I), \qquad x \mid z \sim \mathrm{Bernoulli}(\mathrm{logits} = f_\theta(z))$$
#
# (logits are log-odds: the probability that a pixel is 1 is $1 / (1 + e^{-\text{logit}})$) and a guide
# $q_\phi(z \mid x) = \mathrm{Normal}(m_\phi(x), s_\phi(x))$, trained together on
#
# $$\mathrm{ELBO}(x) = \underbrace{E_{q(z \mid x)}[\log p(x \mid z)]}_{-\text{reconstruction}} -
# \underbrace{\mathrm{KL}(q(z \mid x) \,\|\, p(z))}_{\text{KL}}$$

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch.distributions import Normal, kl_divergence

import pyro_vae as pv

# Fraction of every number of steps: below 1, for a quick look, training is cut short and numbers differ.
SIZE = float(os.environ.get("COURSE_SIZE", 1))
torch.manual_seed(0)
Path("figures").mkdir(exist_ok=True)

# %% [markdown]
# ## Data
#
# Handwritten digits of 8 x 8 pixels, which come with scikit-learn. A Bernoulli is a distribution on $\{0,
# 1\}$: grey pixels are drawn as black or white, with probability their grey value, anew in each epoch. For
# MNIST write `"mnist"`.

# %%
data = pv.data.load("digits", binarize="dynamic")
print(data)

# %% [markdown]
# ## Model and guide, in one line each

# %%
vae = pv.VAE(
    data.event_shape,
    latent_dim=10,
    prior=pv.priors.Normal(),  # p(z)
    likelihood=pv.likelihoods.Bernoulli(),  # p(x|z)
    guide=pv.guides.Normal(),  # q(z|x)
    encoder=pv.nets.mlp(400, 400),
    decoder=pv.nets.mlp(400, 400),
)
print(vae.explain())

# %% [markdown]
# ## Learning
#
# Each step draws a batch of data and one $z$ for each of them, and moves all weights a little along the
# gradient of the ELBO.

# %%
run = pv.fit(vae, data, epochs=max(2, round(150 * SIZE)), progress=False)
print("test", pv.evaluate.elbo(vae, data.test))
figure = pv.figures.training_curves(run.history)
figure.savefig("figures/04_vae_curves.png")
figure

# %% [markdown]
# ## What it has learnt
#
# What the model generates: $z$ from the prior, and of $p(x \mid z)$ the mean (a draw would be black and
# white). Reconstructions: $z$ the mean of $q(z \mid x)$.

# %%
figure = pv.figures.samples(vae, 100)
figure.savefig("figures/04_vae.png")
figure

# %%
figure = pv.figures.reconstructions(vae, data.test[:12])
figure.savefig("figures/04_vae_reconstructions.png")
figure

# %%
figure = pv.figures.latents(vae, data.test)
figure.savefig("figures/04_vae_latents.png")
figure

# %% [markdown]
# ## The anatomy of the ELBO
#
# In nats, the reconstruction is the mean length of telling $x$ once $z$ is known, and the KL the mean extra
# length of telling $z$ (a bits-back code reaches this; Hinton and van Camp, 1993). Their sum is -ELBO, an
# upper bound of $-\log p(x)$. Three cuts through it:
#
# - by latent: for Normals that are independent, the KL is a sum over latents. Some carry a lot; one that
#   carries nothing has $q(z_d \mid x) = p(z_d)$ and a KL of 0.
# - by class: some digits are harder to tell.
# - against $\log p(x)$: importance weights $w_k = p(x, z_k) / q(z_k \mid x)$ with $z_k \sim q(z \mid x)$
#   give $\log \frac1K \sum_k w_k$, which is the ELBO in expectation for $K = 1$, and rises to $\log p(x)$
#   (Burda, Grosse and Salakhutdinov, 2016).

# %%
x, labels = data.test[:], data.test.labels
with vae.evaluating():
    q = vae.encode(x).base_dist  # independent Normals
    kl_by_latent = kl_divergence(q, Normal(0.0, 1.0))  # [N, D]
    z = q.sample((100,))
    reconstruction = -vae.decode(z).log_prob(x).mean(0)  # [N]
    num_samples = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    log_w = pv.objectives.log_weights(vae, x, 1000)  # [K, N]
    bounds = [pv.objectives.importance_weighted_bound(log_w[:k]).mean() for k in num_samples]

figure, panels = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
by_size = kl_by_latent.mean(0).sort(descending=True)
panels[0].bar(range(10), by_size.values)
panels[0].set_xticks(range(10), [f"z[{d}]" for d in by_size.indices.tolist()])
panels[0].set(title="KL of each latent", ylabel="nats per image")
classes = labels.unique().tolist()
parts = [[v[labels == c].mean() for c in classes] for v in (reconstruction, kl_by_latent.sum(1))]
panels[1].bar(classes, parts[0], label="reconstruction")
panels[1].bar(classes, parts[1], bottom=parts[0], label="KL")
panels[1].set(title="-ELBO of each digit", xlabel="class", ylabel="nats per image", xticks=classes)
panels[1].margins(y=0.25)
panels[1].legend(loc="upper center", ncols=2)
panels[2].semilogx(num_samples, bounds, "o-")
panels[2].set(title="From the ELBO towards log p(x)", xlabel="K, importance samples", ylabel="nats per image")
figure.savefig("figures/04_vae_anatomy.png")
print(f"reconstruction {reconstruction.mean():.2f}, KL {kl_by_latent.sum(1).mean():.2f}")
print(
    f"bound with K = 1, one draw per image: {bounds[0]:.2f}, with K = 1000: {bounds[-1]:.2f} nats per image"
)

# %% [markdown]
# Three quarters of the nats are reconstruction: noise in the pixels, which the dynamic binarisation
# puts there. Every latent is used, some four times as much as others. And the bound is already near $\log
# p(x)$ with a few samples: the Normal guide costs a third of a nat.

# %% [markdown]
# ## Exercises
#
# **1.** Is the KL that `pv.evaluate.elbo` tells the sum of the bars of the first panel?
#
# <details><summary>Solution</summary>
#
# It is: for independent Normals, the formula is a sum over latents.
#
# ```python
# assert abs(pv.evaluate.elbo(vae, x).kl - kl_by_latent.sum(1).mean()) < 1e-3
# ```
#
# </details>
#
# **2.** The figure of samples shows means of $p(x \mid z)$. What do draws look like?
#
# <details><summary>Solution</summary>
#
# Black and white, and noisy: given $z$, each pixel is drawn by itself.
#
# ```python
# with vae.evaluating():
#     draws = vae.decode(vae.prior().sample((16,))).sample()
# pv.figures.grid([draws[:8], draws[8:]], "Draws, not means")
# assert set(draws.unique().tolist()) <= {0.0, 1.0}
# ```
#
# </details>
