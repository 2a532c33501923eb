# %% [markdown]
# # 7. Is the posterior right?
#
# The encoder's $q(z \mid x)$ approximates $p(z \mid x)$. The model itself knows better: $p(z \mid x)
# \propto p(z)\, p(x \mid z)$ can be computed for any $z$. With two latents there are two ways to compare,
# whose error can be made as small as we like:
#
# - on a grid of the latent plane, as in chapter 1;
# - by NUTS on the same `vae.model`, which works for any number of latents.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import torch
from matplotlib.patches import Ellipse
from pyro.infer import MCMC, NUTS

import pyro_vae as pv

# Fraction of every number of steps: below 1, for a quick look, training is cut short and numbers differ.
SIZE = float(os.environ.get("COURSE_SIZE", 1))
Path("figures").mkdir(exist_ok=True)
pyro.set_rng_seed(0)

# %% [markdown]
# ## A VAE with two latents

# %%
data = pv.data.load("digits", binarize="static")
vae = pv.VAE(data.event_shape, latent_dim=2, encoder=pv.nets.mlp(200), decoder=pv.nets.mlp(200))
pv.fit(vae, data, epochs=max(2, round(200 * SIZE)), progress=False)
vae.requires_grad_(False)
x = data.test[:]
print("test", pv.evaluate.elbo(vae, x, num_samples=100))

# %% [markdown]
# ## The exact posterior, on a grid
#
# $$\log p(z \mid x) = \log p(z) + \log p(x \mid z) - \log p(x), \qquad
# \log p(x) = \log \int p(z)\, p(x \mid z)\, dz$$
#
# The same sum over the plane gives $\log p(x)$ of every image to numerical accuracy, and so the gap $\log
# p(x) - \mathrm{ELBO} = \mathrm{KL}(q(z \mid x) \,\|\, p(z \mid x))$.

# %%
side = torch.linspace(-5, 5, 301)
plane = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1)  # [301, 301, 2]
with vae.evaluating():
    p_x = vae.decode(plane.reshape(-1, 2))
    log_prior = vae.prior().log_prob(plane.reshape(-1, 2))
    log_joint = torch.stack([log_prior + p_x.log_prob(image) for image in x])  # [N, 301 * 301]
    log_p = log_joint.logsumexp(1) + 2 * (side[1] - side[0]).log()
    q = vae.encode(x)
    z = q.sample((1000,))
    bound = (vae.prior().log_prob(z) + vae.decode(z).log_prob(x) - q.log_prob(z)).mean(0)
gap = log_p - bound
sampled = pv.evaluate.log_likelihood(vae, x, num_samples=max(10, round(2000 * SIZE)))
print(
    f"log p(x) on the grid {log_p.mean():.3f}, "
    f"by importance samples {sampled.log_likelihood:.3f} nats per image"
)
print(
    f"KL(q(z|x) || p(z|x)): {gap.mean():.2f} nats on average, "
    f"{gap.median():.2f} median, {gap.max():.2f} at most"
)

# %% [markdown]
# ## NUTS on the same model
#
# Two ordinary images, with the median and the lower quartile of the gap, and the two with the largest gaps.
# Before the draws are trusted, the chains are checked: two of them, started apart, should agree ($\hat R$
# near 1), and their draws be worth enough independent ones (effective sample size).


# %%
order = gap.argsort()
chosen = [order[len(x) // 2].item(), order[len(x) // 4].item(), order[-2].item(), order[-1].item()]
figure, panels = plt.subplots(2, 4, figsize=(14, 7.4), height_ratios=[1, 4], layout="constrained")
for axes, picture, n in zip(panels[1], panels[0], chosen, strict=True):
    chains = []
    for start in (torch.zeros(1, 2), torch.ones(1, 2)):
        mcmc = MCMC(
            NUTS(vae.model),
            num_samples=max(10, round(400 * SIZE)),
            warmup_steps=max(10, round(150 * SIZE)),
            initial_params={"z": start},
            disable_progbar=True,
        )
        mcmc.run(x[n : n + 1])
        chains.append(mcmc.get_samples()["z"][:, 0])
    draws = torch.stack(chains)  # [2, draws, 2]
    r_hat = pyro.ops.stats.gelman_rubin(draws).max()
    effective = pyro.ops.stats.effective_sample_size(draws).min()
    print(f"image {n}: R-hat {r_hat:.3f}, effective sample size {effective:.0f}, gap {gap[n]:.2f} nats")
    posterior = log_joint[n].softmax(0)
    print(f"    mean by NUTS {draws.mean((0, 1)).numpy().round(2)}, ", end="")
    print(f"on the grid {(posterior[:, None] * plane.reshape(-1, 2)).sum(0).numpy().round(2)}, ", end="")
    print(f"of the encoder {q.mean[n].numpy().round(2)}")

    axes.contourf(side, side, posterior.reshape(301, 301), levels=8, cmap="Greys")
    axes.scatter(*draws.reshape(-1, 2).T, s=3, color="C0", alpha=0.5, label="NUTS")
    for k in (1, 2):  # one and two standard deviations
        width, height = (2 * k * q.stddev[n]).tolist()
        label = "encoder, 1 and 2 sd" if k == 1 else None
        axes.add_patch(
            Ellipse(q.mean[n].tolist(), width, height, fill=False, color="C3", linewidth=2, label=label)
        )
    points = torch.cat(
        [draws.reshape(-1, 2), q.mean[n : n + 1] - 2 * q.stddev[n], q.mean[n : n + 1] + 2 * q.stddev[n]]
    )
    low, high = points.min(0).values - 0.3, points.max(0).values + 0.3
    axes.set(
        xlim=(low[0], high[0]),
        ylim=(low[1], high[1]),
        xlabel="z[0]",
        ylabel="z[1]",
        title=f"gap {gap[n]:.2f} nats",
    )
    picture.imshow(x[n, 0], cmap="gray")
    picture.set_title(f"image {n}, a {data.test.labels[n].item()}")
    picture.axis("off")
panels[1, 0].legend(loc="upper left")
figure.suptitle("The posterior of z: on a grid (grey), draws by NUTS (blue), the encoder's (red)")
figure.savefig("figures/07_is_the_posterior_right.png")

# %% [markdown]
# NUTS and the grid agree. With more than two latents the grid is too large; NUTS remains, and importance
# samples for $\log p(x)$. These posteriors are near ellipses, so that the family of the guide costs little,
# and most of the gap is the encoder's (chapter 3). A richer family is one line:


# %%
for guide in (
    pv.guides.Normal(),
    pv.guides.FullRankNormal(),
    pv.guides.Flow(),
    pv.guides.MixtureOfNormals(3),
):
    torch.manual_seed(0)
    other = pv.VAE(data.event_shape, 2, guide=guide, encoder=pv.nets.mlp(200), decoder=pv.nets.mlp(200))
    other.initialize(data.train)
    other.p_x.load_state_dict(vae.p_x.state_dict())
    other.p_x.requires_grad_(False)  # the same model: only the guide is trained
    pv.fit(other, data, epochs=max(2, round(120 * SIZE)), lr=2e-3, progress=False)
    reached = pv.evaluate.elbo(other, x, num_samples=100).elbo
    print(f"{type(guide).__name__:18} ELBO {reached:.2f}, mean gap {log_p.mean() - reached:.2f} nats")

# %% [markdown]
# The flow lowers the mean gap to a third, the mixture and the full-rank Normal hardly: these posteriors are
# not tilted.

# %% [markdown]
# ## Exercises
#
# **1.** Is the grid fine enough? Take every second point of it.
#
# <details><summary>Solution</summary>
#
# It is: $\log p(x)$ hardly changes.
#
# ```python
# coarse = log_joint.reshape(len(x), 301, 301)[:, ::2, ::2].flatten(1)
# again = coarse.logsumexp(1) + 2 * (side[2] - side[0]).log()
# assert (again - log_p).abs().max() < 0.05
# ```
#
# </details>
#
# **2.** The gap is a KL divergence. Compute that of one image on the grid, from its definition.
#
# <details><summary>Solution</summary>
#
# It is the same number, up to the draws that the ELBO was estimated by.
#
# ```python
# n = chosen[0]
# log_q = vae.encode(x[n : n + 1]).log_prob(plane.reshape(-1, 2))
# kl = (log_q.exp() * (log_q - log_joint[n] + log_p[n])).sum() * (side[1] - side[0]) ** 2
# assert abs(kl - gap[n]) < 0.2
# ```
#
# </details>
