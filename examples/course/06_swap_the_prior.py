# %% [markdown]
# # 6. Swap the prior
#
# New data come from $z \sim p(z)$. In training, the decoder has seen other $z$: those of the encoder, all
# together the *aggregate posterior*
#
# $$q(z) = \frac1N \sum_n q(z \mid x_n)$$
#
# Where the prior has mass and the aggregate posterior has none, there is a *hole*: the decoder never learnt
# what belongs there, and what it makes there is poor. Averaged over the data, the KL in the ELBO is
# (Hoffman and Johnson, 2016)
#
# $$\frac1N \sum_n \mathrm{KL}(q(z \mid x_n) \,\|\, p(z)) = I(x; z) + \mathrm{KL}(q(z) \,\|\, p(z))$$
#
# where $I(x; z)$ is the mutual information, what $z$ tells of $x$. The second term is the mismatch. It is
# large where encodings lie that the prior holds for unlikely; a hole is cheap: if the prior has mass $h$
# where there are no encodings, it need only be $-\log(1 - h)$, 0.03 nats for $h = 0.03$. So both are
# measured below. A prior that is learned can lower the mismatch: a mixture, a VampPrior (a mixture of the
# encodings of learned pseudo-data; Tomczak and Welling, 2018), a flow. One line each.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import pyro_vae as pv

# Fraction of every number of steps: below 1, for a quick look, training is cut short and numbers differ.
SIZE = float(os.environ.get("COURSE_SIZE", 1))
Path("figures").mkdir(exist_ok=True)

# %%
data = pv.data.load("digits")  # grey values in [0, 1]
result = pv.compare(
    data,
    likelihood=pv.likelihoods.Normal(scale="shared"),
    priors=[pv.priors.Normal(), pv.priors.MixtureOfNormals(10), pv.priors.VampPrior(50), pv.priors.Flow()],
    latent_dim=2,
    encoder=pv.nets.mlp(200),
    decoder=pv.nets.mlp(200),
    epochs=max(2, round(150 * SIZE)),
    lr=2e-3,
    num_samples=max(10, round(500 * SIZE)),
    progress=False,
)
print(result)

# %% [markdown]
# ## The hole problem in a picture
#
# With two latents everything can be drawn. The first figure: the prior's density, grey (its square root, so
# that thin mass is seen), and draws from the aggregate posterior of the training images. The second: means
# of $p(x \mid z)$ at draws $z \sim p(z)$, sorted by $\log p(z) - \log q(z)$; on the left encodings are
# denser than the prior, on the right is the deepest hole. $q(z)$ is a sum over all training images, and
# $\mathrm{KL}(q(z) \,\|\, p(z))$ a mean over draws of it.


# %%
def log_aggregate(vae, z, x):
    """log q(z) = log mean_n q(z|x_n), for z [M, D] and all data x."""
    q = vae.encode(x)
    return (
        torch.cat([q.log_prob(part[:, None]).logsumexp(1) for part in z.split(200)])
        - torch.tensor(len(x)).log()
    )


x = data.train[:]
figure, panels = plt.subplots(1, 4, figsize=(16, 4.6), layout="constrained")
rows, labels = [], []
for axes, (name, vae) in zip(panels, result.programs.items(), strict=True):
    short = name.split("(")[0]
    with vae.evaluating():
        p = vae.prior()
        encoded = vae.encode(x).sample()
        low, high = encoded.quantile(torch.tensor([0.005, 0.995]), 0) + torch.tensor([[-1.0], [1.0]])
        sides = [torch.linspace(low[d], high[d], 300) for d in (0, 1)]
        plane = torch.stack(torch.meshgrid(*sides, indexing="xy"), -1)
        density = p.log_prob(plane.reshape(-1, 2)).exp().reshape(300, 300)
        mismatch = (log_aggregate(vae, encoded, x) - p.log_prob(encoded)).mean()
        z = p.sample((1000,))
        hole = p.log_prob(z) - log_aggregate(vae, z, x)
        by_depth = hole.argsort()[torch.linspace(0, 999, 16).long()]
        rows.append(vae.decode(z[by_depth]).mean.clamp(0.0, 1.0))
    in_hole = (hole > 3).float().mean()
    labels.append(short)
    print(
        f"{short:16} KL(q(z) || p(z)) = {mismatch:.2f} nats; "
        f"{in_hole:.1%} of draws in a hole (q(z) < p(z) / 20)"
    )
    shade = density.sqrt()  # so that thin mass is seen
    axes.contourf(*sides, shade, levels=12, cmap="Greys")
    axes.scatter(*encoded.T, s=2, color="C1", alpha=0.7)
    axes.set(xlim=sides[0][[0, -1]].tolist(), ylim=sides[1][[0, -1]].tolist(), xlabel="z[0]", ylabel="z[1]")
    axes.set_title(f"{short}: KL(q(z) || p(z)) = {mismatch:.2f} nats")
figure.suptitle(
    "The prior (grey) and draws from the aggregate posterior (orange): holes are grey without orange"
)
figure.savefig("figures/06_swap_the_prior.png")

# %%
figure = pv.figures.grid(
    rows,
    "Means of p(x|z), z ~ p(z): from where encodings are dense (left) to the deepest hole (right)",
    labels,
)
figure.savefig("figures/06_swap_the_prior_draws.png")
figure

# %% [markdown]
# The learned priors lower $\mathrm{KL}(q(z) \,\|\, p(z))$, the VampPrior to nearly nothing, and each raises
# $\log p(x)$ by more than that: freed from the round prior, the encodings also spread out (mind the axes),
# so that $z$ tells more of $x$.

# %% [markdown]
# ## Exercises
#
# **1.** A prior is uniform on 100 cells, encodings are uniform on 97 of them. What does the hole cost?
#
# <details><summary>Solution</summary>
#
# $-\log(1 - h)$ with $h = 0.03$: 0.03 nats.
#
# ```python
# q = torch.full((97,), 1 / 97)
# assert torch.isclose((q * (q / 0.01).log()).sum(), -torch.tensor(1 - 0.03).log())
# ```
#
# </details>
#
# **2.** Two data, two values of $z$: check the cut of the mean KL into mutual information and mismatch.
#
# <details><summary>Solution</summary>
#
# By hand, with $q(z \mid x)$ as a table:
#
# ```python
# q, p = torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0.5, 0.5])
# aggregate = q.mean(0)
# mean_kl = (q * (q / p).log()).sum(1).mean()
# information = (q * (q / aggregate).log()).sum(1).mean()
# assert torch.isclose(mean_kl, information + (aggregate * (aggregate / p).log()).sum())
# ```
#
# </details>
