# %% [markdown]
# # 1. Bayes' rule in one dimension
#
# A room has an unknown temperature $z$. A thermometer gives readings $x_1, \dots, x_N$, each off by some
# noise. What do we know about $z$ after the readings? Bayes' rule says
#
# $$p(z \mid x) = \frac{p(z)\, p(x \mid z)}{p(x)}, \qquad p(x) = \int p(z)\, p(x \mid z)\, dz$$
#
# The *prior* $p(z)$ is what we held for likely before; the *likelihood* $p(x \mid z)$ says how probable the
# readings are at each temperature; the *posterior* $p(z \mid x)$ is what we hold for likely after; and the
# *evidence* $p(x)$, which makes the posterior integrate to 1, says how well the whole model foretold the
# readings.
#
# Here the posterior is computed in four ways, which agree: on a grid, by importance sampling, by Markov
# chain Monte Carlo (NUTS), and by stochastic variational inference (SVI). The later chapters need the last
# one.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO

# Fraction of every number of steps: below 1, for a quick look, training is cut short and numbers differ.
SIZE = float(os.environ.get("COURSE_SIZE", 1))
Path("figures").mkdir(exist_ok=True)
pyro.set_rng_seed(0)
torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## The model
#
# The story of how the data came about, in the order in which it happened: a temperature, then readings of
# it.
#
# $$z \sim \mathrm{Normal}(18, 2), \qquad x_n \sim \mathrm{Normal}(z, 1)$$
#
# Pyro writes it as a program. `pyro.sample("z", prior)` draws $z$ and names it; a name is called a *site*.
# With `obs=x` the value is given, not drawn. `pyro.plate` says that what is inside holds for each reading,
# independently given $z$. Logarithms are natural; their unit is the *nat*, 1.44 bits.

# %%
readings = torch.tensor([20.1, 20.9, 19.6, 21.3])
prior = dist.Normal(18.0, 2.0)


def likelihood(z):
    return dist.Normal(z, 1.0)


def model(x):  # as a program in Pyro
    z = pyro.sample("z", prior)
    with pyro.plate("readings", len(x)):
        pyro.sample("x", likelihood(z), obs=x)


# %% [markdown]
# ## First way: a grid
#
# With one unknown, the integral is a sum over a fine grid. Densities are multiplied as sums of their
# logarithms.


# %%
def by_grid(x):
    z = torch.linspace(5.0, 35.0, 3001)
    log_joint = prior.log_prob(z) + likelihood(z).log_prob(x[:, None]).sum(0)  # log p(z) + log p(x|z)
    evidence = torch.trapezoid(log_joint.exp(), z)  # p(x)
    posterior = log_joint.exp() / evidence  # p(z|x)
    mean = torch.trapezoid(posterior * z, z)
    variance = torch.trapezoid(posterior * (z - mean) ** 2, z)
    return z, posterior, mean, variance.sqrt(), evidence.log()


z, posterior, mean, deviation, log_evidence = by_grid(readings)
print(
    f"grid:       posterior mean {mean:.3f}, standard deviation {deviation:.3f}, log p(x) {log_evidence:.3f}"
)

# %% [markdown]
# A Normal prior and a Normal likelihood are the rare case with a formula: precisions (one over the
# variance) add, and the posterior mean is the average of prior mean and readings, weighted by precision.

# %%
precision = 1 / 2.0**2 + len(readings) / 1.0**2
exact_mean = (18.0 / 2.0**2 + readings.sum() / 1.0**2) / precision
print(f"formula:    posterior mean {exact_mean:.3f}, standard deviation {precision**-0.5:.3f}")

# %% [markdown]
# ## Second way: importance sampling
#
# Draw temperatures from the prior, and let each count by how well it explains the readings:
#
# $$z_k \sim p(z), \qquad w_k = p(x \mid z_k), \qquad p(x) \approx \frac1K \sum_k w_k, \qquad
# E[z \mid x] \approx \frac{\sum_k w_k z_k}{\sum_k w_k}$$
#
# The effective sample size tells how many equally weighted draws these are worth: few, where the prior and
# the posterior lie far apart. That is why importance sampling alone does not reach far in many dimensions.


# %%
def by_importance_sampling(x, num_samples=round(100_000 * SIZE)):
    z = prior.sample((num_samples,))
    log_w = likelihood(z).log_prob(x[:, None]).sum(0)
    share = log_w.softmax(0)  # w_k / sum of w
    mean = (share * z).sum()
    deviation = (share * (z - mean) ** 2).sum().sqrt()
    log_evidence = log_w.logsumexp(0) - torch.tensor(float(num_samples)).log()
    effective = 1 / share.square().sum()
    return z, share, mean, deviation, log_evidence, effective


*_, mean, deviation, log_evidence, effective = by_importance_sampling(readings)
print(
    f"importance: posterior mean {mean:.3f}, standard deviation {deviation:.3f}, log p(x) {log_evidence:.3f}"
)
print(f"            effective sample size {effective:.0f}")

# %% [markdown]
# ## Third way: NUTS
#
# A Markov chain walks over $z$, uphill and downhill on $\log p(z, x)$, so that in the long run it spends
# its time in proportion to the posterior. It needs no evidence, and gives none. Pyro's NUTS takes the model
# as it stands.


# %%
def by_nuts(x):
    chain = MCMC(
        NUTS(model), num_samples=round(4000 * SIZE), warmup_steps=round(500 * SIZE), disable_progbar=True
    )
    chain.run(x)
    return chain.get_samples()["z"]


draws = by_nuts(readings)
print(f"NUTS:       posterior mean {draws.mean():.3f}, standard deviation {draws.std():.3f}")

# %% [markdown]
# ## Fourth way: variational inference
#
# The Kullback-Leibler divergence $\mathrm{KL}(q \,\|\, p) = E_q[\log q - \log p]$ says how far $q$ is from
# $p$: it is never negative, 0 only if $q = p$, and not symmetric.
#
# Choose a family $q(z)$, here $\mathrm{Normal}(m, s)$, and of it the member nearest to the posterior.
# Nearest means the greatest *evidence lower bound* (ELBO),
#
# $$\mathrm{ELBO} = E_{q(z)}\bigl[\log p(z, x) - \log q(z)\bigr]
# = \log p(x) - \mathrm{KL}\bigl(q(z) \,\|\, p(z \mid x)\bigr) \le \log p(x)$$
#
# which takes no knowledge of $p(x)$ to compute. Its expectation is estimated from draws of $q$, and $m$ and
# $s$ follow its gradient: *stochastic* variational inference.


# %%
def guide(x):  # the program that draws from q; pyro.param is a number that SVI may change
    m = pyro.param("m", torch.tensor(18.0))
    s = pyro.param("s", torch.tensor(2.0), constraint=dist.constraints.positive)
    pyro.sample("z", dist.Normal(m, s))


def by_svi(x):
    pyro.clear_param_store()
    steps = round(1500 * max(SIZE, 0.4))  # fewer do not arrive
    optimizer = pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.1 ** (1 / steps)})  # to a tenth
    svi = SVI(model, guide, optimizer, Trace_ELBO(10, max_plate_nesting=1, vectorize_particles=True))
    for _ in range(steps):
        svi.step(x)
    elbo = -Trace_ELBO(100_000, max_plate_nesting=1, vectorize_particles=True).loss(model, guide, x)
    return pyro.param("m").item(), pyro.param("s").item(), elbo


m, s, elbo = by_svi(readings)
print(f"SVI:        posterior mean {m:.3f}, standard deviation {s:.3f}, ELBO {elbo:.3f}")

# %% [markdown]
# The posterior is a Normal, so that a Normal $q$ can meet it: the ELBO reaches $\log p(x)$, and the gap, a
# KL divergence, is 0.
#
# ## Swap the likelihood
#
# Thermometers fail. A fifth reading says 27. With Normal noise of 1 degree that is all but impossible, and
# the posterior lets it drag the temperature up. A StudentT has heavy tails: it takes an outlier for an
# outlier. One line changes, and the formula is gone; the four ways remain.

# %%
outlying = torch.cat([readings, torch.tensor([27.0])])
figure, panels = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
for axes, name in zip(panels, ("Normal", "StudentT"), strict=True):
    if name == "StudentT":
        # From here on the model and the four ways use this one: 2 degrees of freedom, centre z, scale 1.
        def likelihood(z):
            return dist.StudentT(2.0, z, 1.0)

    z, posterior, mean, deviation, log_evidence = by_grid(outlying)
    weighted, share, is_mean, is_deviation, is_log_evidence, _ = by_importance_sampling(outlying)
    draws = by_nuts(outlying)
    m, s, elbo = by_svi(outlying)
    print(f"\n{name} likelihood       mean  deviation  log p(x)")
    print(f"grid                 {mean:8.3f} {deviation:8.3f} {log_evidence:9.3f}")
    print(f"importance sampling  {is_mean:8.3f} {is_deviation:8.3f} {is_log_evidence:9.3f}")
    print(f"NUTS                 {draws.mean():8.3f} {draws.std():8.3f}")
    print(f"SVI                  {m:8.3f} {s:8.3f} {elbo:9.3f}  the ELBO; gap {log_evidence - elbo:.3f}")

    bins = torch.linspace(17.0, 25.0, 81).tolist()
    axes.hist(weighted, bins, weights=share, density=True, alpha=0.3, label="importance sampling")
    axes.hist(draws, bins, density=True, histtype="step", color="C2", label="NUTS")
    axes.plot(z, prior.log_prob(z).exp(), "k:", label="prior")
    axes.plot(z, posterior, "k", linewidth=2, label="posterior (grid)")
    axes.plot(z, dist.Normal(m, s).log_prob(z).exp(), "C3--", linewidth=2, label="SVI, q(z) Normal")
    axes.plot(outlying, torch.zeros(5), "k|", markersize=14, clip_on=False)
    axes.set(xlim=(16.0, 28.0), ylim=(0.0, 1.0), xlabel="temperature z", ylabel="density")
    axes.set_title(f"{name} likelihood")
panels[0].legend()
figure.suptitle("The posterior of a temperature, four ways (ticks: the readings)")
figure.savefig("figures/01_bayes_rule.png")

# %% [markdown]
# With the StudentT the posterior stays with the four readings that agree, and $\log p(x)$ is higher by 12.6
# nats: the model that allows for outliers foretells these readings better, $e^{12.6}$ times (the *Bayes
# factor*). Both models were fixed beforehand; chapter 5 compares models that were learned, and therefore on
# data they were not trained on. The posterior is no longer a Normal, and the best Normal falls short of it,
# here by a gap of 0.002 nats, which nobody would notice. Chapters 2, 3 and 7 have gaps that matter.

# %% [markdown]
# ## Exercises
#
# **1.** Two of the four readings come today, the others tomorrow. Is the posterior of tomorrow that of all
# four at once?
#
# <details><summary>Solution</summary>
#
# It is: today's posterior is tomorrow's prior. Precisions add in any order.
#
# ```python
# def update(mean, variance, x):
#     precision = 1 / variance + len(x)
#     return (mean / variance + x.sum()) / precision, 1 / precision
#
#
# at_once = update(18.0, 4.0, readings)
# in_turn = update(*update(18.0, 4.0, readings[:2]), readings[2:])
# assert abs(at_once[0] - in_turn[0]) < 1e-9 and abs(at_once[1] - in_turn[1]) < 1e-9
# ```
#
# </details>
#
# **2.** From how many readings on does the prior make up less than one hundredth of the posterior mean?
#
# <details><summary>Solution</summary>
#
# Its weight is its share of the precision, $(1/4) / (1/4 + N)$: from 25 on.
#
# ```python
# assert next(N for N in range(1, 100) if (1 / 4) / (1 / 4 + N) < 0.01) == 25
# ```
#
# </details>
