# %% [markdown]
# # 12. How far is the bound?
#
# The ELBO is what training maximises, and it is what people quote; but it is a bound. How far below
# $\log p(x)$ it lies nobody sees from the ELBO alone: a model may be bad, or good with a bad encoder. This
# chapter measures the distance, first where the answer is known, then where it is not, and says whose fault
# it is.

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
# ## A known answer
#
# With a linear decoder, $x = W z + \mu + \sigma \varepsilon$ and $\log p(x)$ is a Normal's (chapter 2). The
# guide here is made wrong on purpose: its encoder is not trained at all, so that $q(z \mid x)$ is far from
# the posterior.


# %%
def linear_vae(guide):
    """A model whose evidence is known, with an encoder that has learnt nothing yet."""
    torch.manual_seed(1)
    likelihood = pv.likelihoods.Normal(scale=0.5)
    vae = pv.VAE((6,), 2, likelihood=likelihood, guide=guide, encoder=pv.nets.mlp(16), decoder=pv.nets.mlp())
    return vae.double()


vae = linear_vae(pv.guides.Normal())
W, mu = vae.p_x.net.layers[0].weight.detach(), vae.p_x.net.layers[0].bias.detach()
evidence = torch.distributions.MultivariateNormal(mu, W @ W.T + 0.25 * torch.eye(6, dtype=torch.float64))
x = vae.generate(100, seed=3)["x"]
truth = evidence.log_prob(x)
print(f"log p(x) {truth.mean():.3f} nats per datum; {pv.evaluate.elbo(vae, x, num_samples=100)}")

# %% [markdown]
# ## From below: importance sampling
#
# With $K$ draws of the guide,
#
# $$\log p(x) = \log E_q\!\left[\frac{p(x, z)}{q(z \mid x)}\right] \;\ge\;
# E \log \frac1K \sum_k w_k, \qquad w_k = \frac{p(x, z_k)}{q(z_k \mid x)}.$$
#
# With $K = 1$ it is the ELBO, and it rises to $\log p(x)$ with $K$, sooner or later: later, if few of the
# draws carry all of the weight. Pareto's $\hat k$ of the largest weights tells (above 0.7, more draws hardly
# help).

# %%
numbers = [1, 10, 100, 1000, 10_000]
from_below = [pv.evaluate.log_likelihood(vae, x, num_samples=K, seed=1) for K in numbers]
for K, found in zip(numbers, from_below, strict=True):
    off = (found.per_datum - truth).mean()
    print(f"K = {K:5}: {found.log_likelihood:8.3f}, off by {off:+.3f}")
print(f"Pareto's k at the last: {from_below[-1].pareto_k.median():.2f} in the median")

# %% [markdown]
# ## From both sides: annealing
#
# Instead of one leap from $q$ to the posterior, many small steps: at each temperature $\beta_t$ the draws
# are moved by Hamiltonian Monte Carlo on $q^{1 - \beta_t} p(x, z)^{\beta_t}$, and a factor is added to the
# weight (Neal, 2001). Backwards it gives an *upper* bound, if it starts at a draw of the true posterior.
# For data that the model has simulated there is one for nothing: the $z$ that the datum was made of. So the
# truth is sandwiched (Grosse et al., 2015).

# %%
temperatures = [3, 10, 30, 100, 300] if SIZE >= 1 else [3, 10]
sandwiches = [
    pv.evaluate.sandwich(vae, num_data=100, num_temperatures=T, num_chains=16, seed=2) for T in temperatures
]
known = evidence.log_prob(sandwiches[0].data["x"])  # the same seed simulates the same data
for T, found in zip(temperatures, sandwiches, strict=True):
    below, above = (found.lower_per_datum - known).mean(), (found.upper_per_datum - known).mean()
    print(f"T = {T:4}: the lower bound is {below:+.3f} from the truth, the upper one {above:+.3f}")

# %% [markdown]
# ## Whose fault is it?
#
# $$\log p(x) - \mathrm{ELBO} = \underbrace{\log p(x) - \max_{q \in \text{family}} \mathrm{ELBO}(q)}_{
# \text{approximation}} + \underbrace{\max_q \mathrm{ELBO}(q) - \mathrm{ELBO}(q_\phi(z \mid x))}_{
# \text{amortisation}}$$
#
# The first is what the *family* cannot say: no independent Normal is a tilted ellipse. The second is what
# the *encoder* did not find, though the family has it. The best member is found by optimising $q$ for each
# datum by itself (Cremer, Li and Duvenaud, 2018). A better family mends the first, a larger encoder, or more
# training, the second. So for digits:

# %%
data = pv.data.load("digits", binarize="static")
nets = {"encoder": pv.nets.mlp(200), "decoder": pv.nets.mlp(200)}
trained = pv.VAE(data.event_shape, latent_dim=8, **nets)
pv.fit(trained, data, epochs=max(2, round(150 * SIZE)), progress=False)
images = data.test[:100]
gaps = {}
for name, guide in (
    ("Normal", pv.guides.Normal()),
    ("FullRankNormal", pv.guides.FullRankNormal()),
    ("Flow", pv.guides.Flow()),
):
    other = pv.VAE(data.event_shape, latent_dim=8, guide=guide, **nets)
    other.initialize(data.train)
    other.p_x.load_state_dict(trained.p_x.state_dict())
    other.p_x.requires_grad_(False)  # the same model: only the guide is trained
    pv.fit(other, data, epochs=max(2, round(150 * SIZE)), progress=False)
    gaps[name] = pv.evaluate.inference_gap(other, images, num_steps=max(10, round(500 * SIZE)))
    print(f"\n{name}\n{gaps[name]}")
annealed = pv.evaluate.ais(trained, images, num_temperatures=max(5, round(100 * SIZE)), num_chains=4)
print(f"{annealed}\n{pv.evaluate.log_likelihood(trained, images)}")

# %% [markdown]
# Both richer families halve what the independent Normal cannot say. But a full-rank Normal has more to be
# told, and its encoder finds less of it: in the same number of epochs its ELBO is no better. The flow's is.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
off = [(found.per_datum - truth).mean().item() for found in from_below]
left.plot(numbers, off, "o-", label="importance samples (K draws)")
for side, marker, colour in (("lower", "^", "C1"), ("upper", "v", "C3")):
    distances = [getattr(found, f"{side}_per_datum") - known for found in sandwiches]
    means, errors = (
        [f(d).item() for d in distances] for f in (torch.mean, lambda d: d.std() / len(d) ** 0.5)
    )
    label = f"AIS, {side} bound (T temperatures)"
    left.errorbar(temperatures, means, errors, fmt=f"{marker}-", color=colour, capsize=3, label=label)
left.axhline(0, color="black", linewidth=0.8)
left.set(xscale="log", xlabel="K, or T", ylabel="nats from log p(x), mean", title="Where the answer is known")
left.set_yscale("symlog", linthresh=0.03)
left.legend()
bottom = torch.zeros(len(gaps))
for part, colour in (("approximation", "C0"), ("amortisation", "C1")):
    values = torch.tensor([getattr(gap, part) for gap in gaps.values()])
    right.bar([*gaps], values, bottom=bottom, color=colour, label=part)
    bottom = bottom + values
right.set(ylabel="nats per image", title="log p(x) - ELBO of digits, one decoder")
right.legend()
figure.savefig("figures/12_how_far_is_the_bound.png")

# %% [markdown]
# ## Exercises
#
# **1.** A guide has two values, each with probability one half, of weights 1 and 3. What are $\log p$, and
# the bounds with $K = 1$ and $2$?
#
# <details><summary>Solution</summary>
#
# $\log p = \log 2$; the bounds are means over all pairs of draws.
#
# ```python
# one, two, three = (torch.tensor(float(n)).log() for n in (1, 2, 3))
# first, second = (one + three) / 2, (one + 2 * two + three) / 4
# assert first < second < two
# ```
#
# </details>
#
# **2.** For large $K$ the bound is too low by about $v / 2K$, with $v$ the variance of $w_k / p(x)$. Is it
# so with ten draws of that guide?
#
# <details><summary>Solution</summary>
#
# Nearly: $v = 1/4$, so that 0.0125 nats are expected.
#
# ```python
# K = 10
# threes = torch.arange(K + 1.0)
# share = torch.distributions.Binomial(K, torch.tensor(0.5)).log_prob(threes).exp()
# missing = two - (share * ((K + 2 * threes) / K).log()).sum()
# assert abs(missing - 0.25 / (2 * K)) < 0.002
# ```
#
# </details>
