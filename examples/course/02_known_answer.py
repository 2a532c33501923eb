# %% [markdown]
# # 2. A latent variable model with a known answer
#
# Now every datum $x_n$ has an unknown $z_n$ of its own, a *latent variable*, and a *decoder* tells how $x$
# comes from $z$. Where the decoder is linear and everything is Normal, posterior and evidence have
# formulas, and every claim about the ELBO can be checked. The model is probabilistic principal component
# analysis (Tipping and Bishop, 1999):
#
# $$z_n \sim \mathrm{Normal}(0, I), \qquad x_n \mid z_n \sim \mathrm{Normal}(W z_n + b, \sigma^2 I)$$
#
# $$p(x) = \mathrm{Normal}(b,\; W W^\top + \sigma^2 I), \qquad
# p(z \mid x) = \mathrm{Normal}\bigl(\Sigma W^\top (x - b) / \sigma^2,\; \Sigma\bigr), \quad
# \Sigma = (I + W^\top W / \sigma^2)^{-1}$$

# %%
import math
import os
from pathlib import Path

import matplotlib.pyplot as plt
import pyro.distributions as dist
import torch
from pyro.infer import TraceMeanField_ELBO
from torch.distributions import kl_divergence

import pyro_vae as pv

# Fraction of every number of steps: below 1, for a quick look, training is cut short and numbers differ.
SIZE = float(os.environ.get("COURSE_SIZE", 1))
torch.manual_seed(0)
Path("figures").mkdir(exist_ok=True)

# %% [markdown]
# ## Data from the model
#
# Two-dimensional data from one latent: a cloud along a line.

# %%
W, b, sigma = torch.tensor([[2.0], [1.0]]), torch.tensor([1.0, -0.5]), 0.5
z = torch.randn(2000, 1)
x = z @ W.T + b + sigma * torch.randn(2000, 2)


def evidence(W, b, sigma):
    """p(x), a distribution."""
    return dist.MultivariateNormal(b, W @ W.T + sigma**2 * torch.eye(len(b)))


def posterior(x, W, b, sigma):
    """p(z|x), a distribution."""
    covariance = torch.linalg.inv(torch.eye(W.shape[1]) + W.T @ W / sigma**2)
    return dist.MultivariateNormal((x - b) @ W @ covariance / sigma**2, covariance)


print(f"log p(x) of the true model: {evidence(W, b, sigma).log_prob(x).mean():.3f} nats per datum")

# %% [markdown]
# ## The ELBO is a bound
#
# Take one datum, and as guess at its posterior any $q(z) = \mathrm{Normal}(m, s)$. The ELBO is
#
# $$E_{q(z)}[\log p(x \mid z)] - \mathrm{KL}(q(z) \,\|\, p(z))
# = \log p(x) - \mathrm{KL}(q(z) \,\|\, p(z \mid x))$$
#
# The left side can be computed without knowing posterior or evidence. The right side says that it is at
# most $\log p(x)$, with equality where $q$ is the posterior. Both are drawn against $m$ and against $s$.

# %%
datum = x[0]


def elbo(m, s):
    """E_q[log p(x|z)], by the formula for Normals, less KL(q(z) || p(z)); for m and s of shape [...]."""
    mean = m[..., None] * W[:, 0] + b
    spread = s**2 * W.square().sum() / (2 * sigma**2)  # what the variance of z adds
    reconstruction = dist.Normal(mean, sigma).log_prob(datum).sum(-1) - spread
    return reconstruction - kl_divergence(dist.Normal(m, s), dist.Normal(0.0, 1.0))


log_p = evidence(W, b, sigma).log_prob(datum)
exact = posterior(datum, W, b, sigma)
best_m, best_s = exact.mean[0], exact.covariance_matrix[0, 0].sqrt()
print(f"log p(x) = {log_p:.4f}, ELBO at the posterior = {elbo(best_m, best_s):.4f}")

figure, panels = plt.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
ms, ss = torch.linspace(-1.5, 1.5, 200) + best_m, torch.linspace(0.03, 1.2, 200)
for axes, values, bound, at, name in (
    (panels[0], ms, elbo(ms, best_s.expand(200)), best_m, "m, with s the posterior's"),
    (panels[1], ss, elbo(best_m.expand(200), ss), best_s, "s, with m the posterior's"),
):
    axes.axhline(log_p, color="k", label="log p(x)")
    axes.plot(values, bound, label="ELBO")
    axes.fill_between(values, bound, log_p, alpha=0.2, label="gap: KL(q(z) || p(z|x))")
    axes.axvline(at, color="grey", linestyle=":", label="the posterior's")
    axes.set(xlabel=name, ylim=(log_p - 8, log_p + 0.5))
panels[0].set_ylabel("nats")
panels[0].legend(loc="lower left")
figure.suptitle("The ELBO of one datum lies below log p(x), and touches it where q is the posterior")
figure.savefig("figures/02_known_answer_bound.png")

# %% [markdown]
# ## Learning
#
# $W$, $b$ and $\sigma$ are not known either. Raising the ELBO in them as well raises a lower bound of the
# evidence of the data. And instead of one $q$ per datum, an *encoder* computes $m$ and $s$ from $x$: that
# is a variational autoencoder, here with networks of no hidden layer. The most that any such model can
# reach is known: $\log p(x)$ at the maximum-likelihood parameters. There $\sigma^2$ is the mean of the
# discarded eigenvalues of the data's covariance, and the columns of $W$ are the leading eigenvectors $u_d$
# times $\sqrt{\lambda_d - \sigma^2}$, up to a rotation.

# %%
data = pv.data.load(x, validation=0, test=0)
vae = pv.VAE(
    data.event_shape,
    latent_dim=1,
    likelihood=pv.likelihoods.Normal(scale="shared"),
    encoder=pv.nets.mlp(),  # without hidden layers: linear
    decoder=pv.nets.mlp(),
)
# Columns are taken for quantities in units of their own, and sigma is then one number times these units. Here
# both are in one unit: sigma is one number, as above.
vae.initialized.fill_(True)
run = pv.fit(vae, data, epochs=max(2, round(200 * SIZE)), batch_size=100, lr=3e-2, progress=False)

S = torch.cov(x.T, correction=0)  # one eigenvalue is discarded, so that W W^T + sigma^2 I is S itself
eigenvalues = torch.linalg.eigvalsh(S)  # ascending: the last is the line's
maximum = -0.5 * (2 * math.log(2 * math.pi) + eigenvalues.log().sum() + 2)
reached = pv.evaluate.elbo(vae, x, num_samples=100).elbo
print(f"greatest possible log p(x): {maximum:.3f}; ELBO after training: {reached:.3f}")
print(f"learned sigma {vae.decode(torch.zeros(1, 1)).base_dist.scale.mean():.3f}, true {sigma}")

figure, panels = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
panels[0].scatter(*x[:500].T, s=6, alpha=0.5, label="data")
line = vae.decode(torch.tensor([[-2.5], [2.5]])).mean.detach()
panels[0].plot(*line.T, "C1", linewidth=3, label="E[x|z], z from -2.5 to 2.5")
panels[0].set(title="Data, and the learned line", xlabel="x[0]", ylabel="x[1]", aspect="equal")
panels[0].legend()
panels[1].plot([row["epoch"] for row in run.history], [row["elbo"] for row in run.history], label="ELBO")
panels[1].axhline(maximum, color="k", label="greatest possible log p(x)")
panels[1].set(title="Training", xlabel="epoch", ylabel="nats per datum", ylim=(maximum - 1, maximum + 0.1))
panels[1].legend()
figure.savefig("figures/02_known_answer.png")

# %% [markdown]
# ## The gap, where the guide cannot be right
#
# With two latents and a $W$ whose columns are not orthogonal, the posterior's $\Sigma$ has correlations: to
# explain the same $x$, more of the one latent goes with less of the other. A *guide*, as Pyro calls the
# program that draws from $q$, whose latents are independent (*mean field*) cannot have them. Of all such
# guides, the best for a Normal posterior of precision matrix $\Lambda = \Sigma^{-1}$ has variances $1 /
# \Lambda_{dd}$, and its gap is $\tfrac12 (\sum_d \log \Lambda_{dd} - \log \det \Lambda)$. Both guides are
# trained with the model held fixed.

# %%
W = torch.tensor([[1.0, 0.9], [0.5, 0.6], [-0.3, -0.2]])
b, sigma = torch.zeros(3), 0.4
x = torch.randn(2000, 2) @ W.T + sigma * torch.randn(2000, 3)
log_p = evidence(W, b, sigma).log_prob(x).mean()
precision = torch.eye(2) + W.T @ W / sigma**2
gap = 0.5 * (precision.diag().log().sum() - torch.logdet(precision))
print(f"log p(x) = {log_p:.3f}, gap of the best mean-field guide by the formula: {gap:.3f}")
data = pv.data.load(x, validation=0, test=0)

figure, panels = plt.subplots(1, 2, figsize=(10, 4.4), sharex=True, sharey=True, layout="constrained")
for axes, guide in zip(panels, (pv.guides.Normal(), pv.guides.FullRankNormal()), strict=True):
    vae = pv.VAE(
        (3,),
        latent_dim=2,
        likelihood=pv.likelihoods.Normal(scale=sigma),
        guide=guide,
        encoder=pv.nets.mlp(),
        decoder=pv.nets.mlp(),
    )
    vae.initialized.fill_(True)  # and the decoder's output is the mean as it is
    linear = vae.p_x.net.layers[0]
    linear.weight.data, linear.bias.data = W.clone(), b.clone()
    vae.p_x.requires_grad_(False)
    fit = {"epochs": max(2, round(100 * SIZE)), "batch_size": 100, "lr": 3e-2, "progress": False}
    # This loss is Trace_ELBO with the KL by its formula, not from draws.
    pv.fit(vae, data, loss=TraceMeanField_ELBO(), **fit)
    reached = pv.evaluate.elbo(vae, x, num_samples=100).elbo
    print(f"{guide!r}: ELBO {reached:.3f}, gap {log_p - reached:.3f}")

    q, p = vae.encode(x[:1]), posterior(x[0], W, b, sigma)
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-3, 3, 200)] * 2, indexing="xy"), -1)
    for density, colour in ((p, "k"), (q, "C3")):
        relative = (density.log_prob(grid) - density.log_prob(density.mean)).detach().exp()
        axes.contour(*grid.unbind(-1), relative, levels=[math.exp(-2), math.exp(-0.5)], colors=colour)
    axes.set(title=f"{guide!r}: gap {log_p - reached:.3f} nats", xlabel="z[0]", ylabel="z[1]", aspect="equal")
figure.suptitle("The posterior of one datum (black) and q(z|x) (red), at 1 and 2 standard deviations")
figure.savefig("figures/02_known_answer_gap.png")

# %% [markdown]
# The full-rank guide becomes the posterior, and its bound is tight up to the noise of training and
# sampling. The mean-field one is too narrow along the ridge; its gap is the formula's to 0.01 nats. Nothing
# in the training tells which of the two one has: that takes a better guide, or importance samples
# (`pv.evaluate.log_likelihood`), or the true posterior (chapter 7).

# %% [markdown]
# ## Exercises
#
# **1.** Move $m$ away from the posterior's by 0.3. Is what the ELBO loses the KL divergence?
#
# <details><summary>Solution</summary>
#
# It is, to rounding.
#
# ```python
# W, b, sigma = torch.tensor([[2.0], [1.0]]), torch.tensor([1.0, -0.5]), 0.5
# exact = posterior(datum, W, b, sigma)
# m, s = exact.mean[0], exact.covariance_matrix[0, 0].sqrt()
# lost = evidence(W, b, sigma).log_prob(datum) - elbo(m + 0.3, s)
# assert torch.isclose(lost, kl_divergence(dist.Normal(m + 0.3, s), dist.Normal(m, s)), atol=1e-4)
# ```
#
# </details>
#
# **2.** For which $W$ is the mean-field guide exact? Why does its gap not depend on $x$?
#
# <details><summary>Solution</summary>
#
# For one whose columns are orthogonal: then $\Lambda = I + W^\top W / \sigma^2$ is diagonal. And $\Lambda$
# has no $x$ in it: the posteriors of all data have one shape.
#
# ```python
# orthogonal = torch.tensor([[1.0, 0.0], [0.0, 0.6], [0.0, 0.0]])
# precision = torch.eye(2) + orthogonal.T @ orthogonal / sigma**2
# assert abs(precision.diag().log().sum() - torch.logdet(precision)) < 1e-5
# ```
#
# </details>
