# %% [markdown]
# # 8. Posterior collapse
#
# A latent has *collapsed* where $q(z_d \mid x) = p(z_d)$ for all $x$: it says nothing about the datum, and
# the decoder does without it. There are two kinds, and they are mended differently:
#
# 1. the model is such that its best parameters ignore the latent. Then the *model* has to change.
# 2. the best parameters would use it, and training does not find them. Then the *training* has to change.
#
# How it is seen: the KL of each latent; the number of *active units*, latents whose $E_{q(z \mid x)}[z_d]$
# varies over the data (variance above 0.01; Burda, Grosse and Salakhutdinov, 2016); and an ELBO no better
# than that of a model without latents.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import nn
from torch.distributions import Bernoulli, kl_divergence

import pyro_vae as pv

# Fraction of every number of steps: below 1, for a quick look, training is cut short and numbers differ.
SIZE = float(os.environ.get("COURSE_SIZE", 1))
Path("figures").mkdir(exist_ok=True)


def kl_by_latent(vae, x):
    """KL(q(z_d|x) || p(z_d)), mean over the data, largest first."""
    with vae.evaluating():
        return (
            kl_divergence(vae.encode(x).base_dist, vae.prior().base_dist).mean(0).sort(descending=True).values
        )


# %% [markdown]
# ## The first kind: a likelihood that is too wide
#
# In the linear model of chapter 2, the greatest ELBO is known for every fixed $\sigma$. A latent is used
# exactly when the variance that it explains, an eigenvalue $\lambda_d$ of the data's covariance, exceeds
# $\sigma^2$; all others collapse, and that is the best that can be done (Lucas, Tucker, Grosse and Norouzi,
# 2019). Then $\mathrm{KL}_d = \tfrac12 \log(\lambda_d / \sigma^2)$ on average.
#
# The data have eigenvalues 4, 2, 0.8, 0.5, 0.25 and 5 of 0.05. With $\sigma = 1$ fixed two latents should
# survive; learned, all five.

# %%
torch.manual_seed(0)
eigenvalues = torch.tensor([4.0, 2.0, 0.8, 0.5, 0.25] + [0.05] * 5)
rotation = torch.linalg.qr(torch.randn(10, 10)).Q
white = torch.randn(4000, 10)
white = (white - white.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(white.T, correction=0))).T
linear = pv.data.load(
    white * eigenvalues.sqrt() @ rotation.T, validation=0, test=0
)  # exactly these eigenvalues

kls = {}
for name, scale in (("sigma = 1, fixed", 1.0), ("sigma learned", "shared")):
    torch.manual_seed(0)
    vae = pv.VAE(
        (10,),
        latent_dim=5,
        likelihood=pv.likelihoods.Normal(scale=scale),
        encoder=pv.nets.mlp(),
        decoder=pv.nets.mlp(),
    )
    vae.initialized.fill_(True)  # one sigma for all columns, in the units of the data, as in chapter 2
    loss = TraceMeanField_ELBO()
    pv.fit(vae, linear, epochs=max(2, round(60 * SIZE)), lr=2e-2, loss=loss, progress=False)
    kls[name] = kl_by_latent(vae, linear.train[:])
    variance = vae.decode(torch.zeros(1, 5)).base_dist.scale[0, 0].item() ** 2
    theory = 0.5 * (eigenvalues[:5] / variance).clamp(min=1).log()
    kls[f"{name}: theory"] = theory
    active = pv.evaluate.active_units(vae, linear.train)["z"]
    print(f"{name}: {active} active units, KL by latent {[round(v, 2) for v in kls[name].tolist()]}")
    print(f"    in theory {(eigenvalues[:5] > variance).sum()}, {[round(v, 2) for v in theory.tolist()]}")

# %% [markdown]
# No warm-up and no other guide would bring the three latents back: at $\sigma = 1$ they are not worth their
# KL. A sum of squared errors without the half is such a likelihood, with $\sigma^2 = 1/2$ in the units of
# the data; a mean over $P$ pixels is one with $\sigma^2 = P/2$, under which a latent survives only if
# $\lambda_d > P/2$.
#
# ## The second kind: a trap for training
#
# A decoder of ten ReLU layers. At the start each layer halves the variance of what passes through it, so
# that its output hardly varies with $z$, and the KL is the one thing that training can lower at once: the
# encoder is pulled to the prior within a few epochs, and then $z$ is noise that the decoder learns to
# ignore. Compare the decoder with two layers, the same deep one with *KL warm-up* (the weight of the KL
# rises from 0 to 1 over the first half of the epochs: Bowman et al., 2016), and a full-rank Normal as
# guide.


# %%
digits = pv.data.load("digits", binarize="dynamic")
pixels = Bernoulli(digits.train[:].mean(0).clamp(1e-3, 1 - 1e-3))
without, on_validation = (
    pixels.log_prob(split[:]).flatten(1).sum(1).mean().item() for split in (digits.test, digits.validation)
)
with torch.no_grad():
    for name, layers in (("10 layers", [100] * 10), ("2 layers", [100] * 2)):
        torch.manual_seed(0)
        net = pv.nets.mlp(*layers, activation=nn.ReLU)((10,), digits.event_shape)
        spread = net(torch.randn(1000, 10)).std(0).mean()
        print(f"decoder of {name}, untrained: its output varies with z by {spread:.3f}")
print(f"\nwithout latents, every pixel by itself: test log p(x) = {without:.2f} nats per image")

epochs = max(2, round(60 * SIZE))
ten, two = pv.nets.mlp(*[100] * 10, activation=nn.ReLU), pv.nets.mlp(100, 100, activation=nn.ReLU)
trials = {
    "10 layers": {"decoder": ten},
    "2 layers": {"decoder": two},
    "10 layers, warm-up": {"decoder": ten, "warmup_epochs": epochs // 2},
    "10 layers, full-rank guide": {"decoder": ten, "guide": pv.guides.FullRankNormal()},
}
histories, by_latent = {}, {}
for name, parts in trials.items():
    torch.manual_seed(0)
    warmup_epochs = parts.pop("warmup_epochs", 0)
    vae = pv.VAE(digits.event_shape, latent_dim=10, encoder=pv.nets.mlp(100, 100), **parts)
    run = pv.fit(vae, digits, epochs=epochs, warmup_epochs=warmup_epochs, progress=False)
    histories[name] = run.history
    bound = pv.evaluate.elbo(vae, digits.test, num_samples=10)
    active = pv.evaluate.active_units(vae, digits.test)["z"]
    print(f"{name:26} test {bound}, {active} active units", flush=True)
    if isinstance(vae.encode(digits.test[:1]), torch.distributions.Independent):
        by_latent[name] = kl_by_latent(vae, digits.test[:])

# %%
figure, panels = plt.subplots(1, 3, figsize=(14, 4.4), layout="constrained")
bars = torch.arange(5)
for i, (name, kl) in enumerate(kls.items()):
    filled = {} if "theory" not in name else {"fill": False, "edgecolor": "k", "linewidth": 1.2}
    panels[0].bar(
        bars + 0.4 * (i // 2) - 0.2,
        kl,
        0.35,
        label="theory" if i == 3 else name if filled == {} else None,
        **filled,
    )
panels[0].set(title="Linear model: KL of each latent", xlabel="latent, by KL", ylabel="nats", xticks=bars)
for name, history in histories.items():
    panels[1].plot([row["epoch"] for row in history], [row["kl"] for row in history], label=name)
    elbos = [row["validation_elbo"] for row in history]
    panels[2].plot([row["epoch"] for row in history], elbos, label=name)
panels[1].set(title="Digits: KL", xlabel="epoch", ylabel="nats per image")
panels[2].axhline(on_validation, color="k", linestyle=":", label="without latents")
panels[2].set(title="Digits: validation ELBO", xlabel="epoch", ylabel="nats per image")
panels[2].set_ylim(on_validation - 2, on_validation + 3.5)
for axes, place in zip(panels, ("upper right", "upper right", "lower right"), strict=True):
    axes.legend(loc=place)
figure.savefig("figures/08_posterior_collapse.png")

# %% [markdown]
# The deep decoder alone ends with no active unit and the ELBO of a model without latents. Warm-up mends it:
# while the KL is cheap, the encoder tells the decoder much, and the decoder comes to rely on it before the
# price rises. A shallower decoder does not fall into the trap. With the full-rank guide about a third of
# the ELBO is regained. These are runs of one seed each: repeat them before you rely on the order. Which
# remedy helps depends on the cause: look at the KL by latent, change one thing, look again.

# %% [markdown]
# ## Exercises
#
# **1.** For which fixed $\sigma$ would exactly three of the latents of the linear model survive?
#
# <details><summary>Solution</summary>
#
# For $0.5 < \sigma^2 < 0.8$.
#
# ```python
# assert [(eigenvalues > variance).sum().item() for variance in (0.4, 0.6, 0.9)] == [4, 3, 2]
# ```
#
# </details>
#
# **2.** What is the greatest log-likelihood of the linear data without any latent, with one $\sigma$ for
# all?
#
# <details><summary>Solution</summary>
#
# That of Normals whose variance is the mean of the eigenvalues.
#
# ```python
# variance = eigenvalues.mean()
# by_hand = -5 * ((2 * torch.pi * variance).log() + 1)
# normal = torch.distributions.Normal(0.0, variance.sqrt())
# assert torch.isclose(normal.log_prob(linear.train[:]).sum(1).mean(), by_hand, atol=1e-2)
# ```
#
# </details>
