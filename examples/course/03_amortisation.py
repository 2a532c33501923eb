# %% [markdown]
# # 3. Amortisation
#
# Variational inference gives every datum $x_n$ a distribution $q_n(z) = \mathrm{Normal}(m_n, s_n)$ of its
# own, whose $m_n$ and $s_n$ are found by gradient steps. For a new datum one starts again. An *encoder* is
# a network that computes $m$ and $s$ from $x$: its weights are shared by all data, so that what was learnt
# on some serves the others, and a new datum takes one pass. That is *amortised* inference. It costs
# something: a network seldom hits the best $m_n$ and $s_n$ exactly. With the model held fixed (Cremer, Li
# and Duvenaud, 2018),
#
# $$\log p(x) - \mathrm{ELBO}_\text{encoder} =
# \underbrace{\log p(x) - \mathrm{ELBO}_\text{own}}_{\text{approximation gap: the family}}
# + \underbrace{\mathrm{ELBO}_\text{own} - \mathrm{ELBO}_\text{encoder}}_{
# \text{amortisation gap: the network}}$$

# %%
import os
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, TraceMeanField_ELBO

import pyro_vae as pv

# Fraction of every number of steps: below 1, for a quick look, training is cut short and numbers differ.
SIZE = float(os.environ.get("COURSE_SIZE", 1))
torch.manual_seed(0)
Path("figures").mkdir(exist_ok=True)

# %% [markdown]
# ## A model and its encoder
#
# A VAE of handwritten digits, 8 x 8 pixels, each made black or white once, white with probability its grey
# value (`"static"`; chapter 4 draws them anew in each epoch, `"dynamic"`). From here on the decoder does
# not change.

# %%
data = pv.data.load("digits", binarize="static")
vae = pv.VAE(data.event_shape, latent_dim=5, encoder=pv.nets.mlp(100), decoder=pv.nets.mlp(100))
pv.fit(vae, data, epochs=max(2, round(200 * SIZE)), progress=False)
vae.requires_grad_(False)
x = data.test[:]
by_encoder = pv.evaluate.elbo(vae, x, num_samples=100)
log_p = pv.evaluate.log_likelihood(vae, x, num_samples=max(10, round(5000 * SIZE)))
print(f"{len(x)} test images, by the encoder: {by_encoder}")
print(log_p)

# %% [markdown]
# ## A guide for each datum
#
# The same model; but the guide is two tables of numbers, a row for each test image, that start at the
# prior. SVI improves them.


# %%
def own_guide(x):
    loc = pyro.param("loc", torch.zeros(len(x), 5))
    scale = pyro.param("scale", torch.ones(len(x), 5), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, scale).to_event(1))  # the 5 numbers are one vector, not 5 data


pyro.clear_param_store()
num_steps = max(20, round(1500 * SIZE))
loss = TraceMeanField_ELBO()
optimizer = pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.02 ** (1 / num_steps)})  # to a fiftieth
svi = SVI(vae.model, own_guide, optimizer, loss)
seconds, steps, bounds = 0.0, [], []
for step in range(num_steps):
    began = time.perf_counter()
    svi.step(x)
    seconds += time.perf_counter() - began
    if step % 10 == 0 or step + 1 == num_steps:
        measure = TraceMeanField_ELBO(num_particles=20, vectorize_particles=True, max_plate_nesting=1)
        steps.append(step + 1)
        bounds.append(-measure.loss(vae.model, own_guide, x) / len(x))

own = -TraceMeanField_ELBO(200, vectorize_particles=True, max_plate_nesting=1).loss(
    vae.model, own_guide, x
) / len(x)
began = time.perf_counter()
for _ in range(10):
    vae.encode(x)
once = (time.perf_counter() - began) / 10
print(
    f"own guides: ELBO {own:.2f} after {num_steps} steps, {seconds:.1f} s; "
    f"the encoder takes {1000 * once:.1f} ms"
)
print(
    f"approximation gap {log_p.log_likelihood - own:.2f} nats, "
    f"amortisation gap {own - by_encoder.elbo:.2f} nats"
)

# %%
figure, axes = plt.subplots(figsize=(8, 4.6), layout="constrained")
axes.plot(steps, bounds, label="own guide of each image")
axes.axhline(by_encoder.elbo, color="C1", label="encoder: no step at all")
axes.axhline(log_p.log_likelihood, color="k", label="log p(x), importance samples")
axes.axhspan(own, log_p.log_likelihood, color="C0", alpha=0.15, label="approximation gap")
axes.axhspan(by_encoder.elbo, own, color="C1", alpha=0.25, label="amortisation gap")
axes.set(
    xscale="log", xlabel="gradient steps on the guides of the test images", ylabel="ELBO, nats per image"
)
axes.set(
    title="What the encoder saves, and what it costs", ylim=(by_encoder.elbo - 4, log_p.log_likelihood + 0.5)
)
axes.legend(loc="lower right")
figure.savefig("figures/03_amortisation.png")

# %% [markdown]
# ## New data
#
# An encoder is a function that was fitted to the training data. Does it do as well on images that it has
# never seen?

# %%
gaps = {}
for name, images in (("training", data.train[: len(x)]), ("test", x)):
    pyro.clear_param_store()
    svi = SVI(
        vae.model, own_guide, pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.02 ** (1 / num_steps)}), loss
    )
    for _ in range(num_steps):
        svi.step(images)
    best = dist.Normal(pyro.param("loc"), pyro.param("scale")).to_event(1)
    with vae.evaluating():
        for q in (best, vae.encode(images)):
            z = q.rsample((100,))
            elbos = vae.decode(z).log_prob(images).mean(0) - pv.objectives.kl_divergence(
                q, vae.prior(), z
            ).mean(0)
            gaps.setdefault(name, []).append(elbos)
    gap = gaps[name][0] - gaps[name][1]
    print(f"{name} images: amortisation gap {gap.mean():.2f} ± {gap.std() / len(gap) ** 0.5:.2f} nats")

figure, axes = plt.subplots(figsize=(5.4, 5), layout="constrained")
for name, (own_elbos, encoder_elbos) in gaps.items():
    axes.scatter(own_elbos, encoder_elbos, s=8, alpha=0.6, label=f"{name} images")
low, high = axes.get_xlim()
axes.plot([low, high], [low, high], "k:", linewidth=1, label="no gap")
axes.set(
    xlabel="ELBO of its own guide, nats",
    ylabel="ELBO by the encoder, nats",
    title="Each image's amortisation gap",
)
axes.legend()
figure.savefig("figures/03_amortisation_gap.png")

# %% [markdown]
# The encoder gives in a fraction of a millisecond what takes hundreds of gradient steps per datum, for a
# tenth or two of a nat; of that, a little less on the images that it was trained on. ($\log p(x)$ is itself
# estimated, by importance samples, which are a little too low on average: the printed approximation gap is
# too small rather than too large.) Training a new datum's own guide from where the encoder starts it is the
# best of both.

# %% [markdown]
# ## Exercises
#
# **1.** Which five test images does the encoder serve worst? Look at them.
#
# <details><summary>Solution</summary>
#
# Those with the largest gap; often they are odd digits, unlike what it was trained on.
#
# ```python
# worst = (gaps["test"][0] - gaps["test"][1]).argsort()[-5:]
# means = vae.decode(vae.encode(x[worst]).mean).mean
# pv.figures.grid([x[worst], means], "Served worst by the encoder", ["x", "mean of p(x|z)"])
# assert len(worst) == 5
# ```
#
# </details>
#
# **2.** Start each own guide where the encoder starts it, and not at the prior. How many steps does it
# need?
#
# <details><summary>Solution</summary>
#
# A few dozen, where from the prior it took hundreds.
#
# ```python
# q = vae.encode(x).base_dist
# pyro.clear_param_store()
# pyro.param("loc", q.loc.clone())
# pyro.param("scale", q.scale.clone(), constraint=dist.constraints.positive)
# svi = SVI(vae.model, own_guide, pyro.optim.ClippedAdam({"lr": 0.01}), loss)
# for _ in range(30):
#     svi.step(x)
# measure = TraceMeanField_ELBO(200, vectorize_particles=True, max_plate_nesting=1)
# reached = -measure.loss(vae.model, own_guide, x) / len(x)
# print(f"after 30 steps {reached:.2f}, by the encoder {by_encoder.elbo:.2f}")
# ```
#
# </details>
