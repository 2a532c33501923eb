# %% [markdown]
# # 15. What comes next?
#
# A sequence is a datum whose parts come one after the other. In a *state space model* each part $x_t$ is a
# noisy view of a hidden state $z_t$, and each state follows from the one before:
#
# $$p(z_1) \prod_{t=2}^T p(z_t \mid z_{t-1}) \prod_{t=1}^T p(x_t \mid z_t).$$
#
# Where both steps are linear and Normal, all questions have answers in closed form (Kalman, 1960). Where they
# are networks, this is a VAE whose prior is a chain: a deep Markov model (Krishnan, Shalit and Sontag, 2017).

# %%
import math
import os
from pathlib import Path

import torch
from torch.distributions import Normal

import pyro_vae as pv

# Fraction of every number of steps: below 1, for a quick look, training is cut short and numbers differ.
SIZE = float(os.environ.get("COURSE_SIZE", 1))
torch.manual_seed(0)
Path("figures").mkdir(exist_ok=True)

# %% [markdown]
# ## A known answer
#
# Let $z_1 \sim \mathcal N(0, 1)$, $z_t = 0.9\, z_{t-1} + 0.5\, \epsilon_t$ and $x_t = z_t + 0.5\, \eta_t$.
# What is known of $z_t$ is Normal; a step widens it, and a look narrows it. The Kalman filter is a loop over
# these two, and $\log p(x) = \sum_t \log p(x_t \mid x_1, \dots, x_{t-1})$ comes with it.


# %%
def kalman(x):
    """log p(x) of sequences [N, T], of the values that are known."""
    mean, variance, log_p = torch.zeros(len(x)), torch.ones(len(x)), torch.zeros(len(x))
    for t in range(x.shape[1]):
        if t:
            mean, variance = 0.9 * mean, 0.81 * variance + 0.25
        known, value = ~x[:, t].isnan(), x[:, t].nan_to_num()
        log_p += torch.where(known, Normal(mean, (variance + 0.25).sqrt()).log_prob(value), 0.0)
        gain = torch.where(known, variance / (variance + 0.25), 0.0)
        mean, variance = mean + gain * (value - mean), (1 - gain) * variance
    return log_p


T = 20
z, x = torch.randn(1000), []
for t in range(T):
    z = 0.9 * z + 0.5 * torch.randn(1000) if t else z
    x.append(z + 0.5 * torch.randn(1000))
x = torch.stack(x, 1)

# %% [markdown]
# A `pv.SequentialVAE` takes sequences $(T, D)$. With linear networks it can be that very system, and has to
# learn its three numbers from data. NaN means not observed: here a third of the sequences end early.

# %%
shorter = x[..., None].clone()
shorter[::3, 12:] = math.nan
data = pv.data.load(shorter)
vae = pv.SequentialVAE(
    data.event_shape,
    latent_dim=1,
    transition=pv.nets.mlp(),
    decoder=pv.nets.mlp(),
    likelihood=pv.likelihoods.Normal(scale="shared"),
    encoder=pv.nets.recurrent(16),
)
pv.fit(vae, data, epochs=max(2, round(50 * SIZE)), batch_size=50, lr=1e-2, compile=False, progress=False)
held_out = data.test.batch(slice(None))["x"]
exact = kalman(held_out[..., 0])
print(f"the true system, by the Kalman filter: log p(x) {exact.mean():.2f}")
print(pv.evaluate.elbo(vae, data.test))
print(pv.evaluate.log_likelihood(vae, data.test, num_samples=max(2, round(500 * SIZE))))

# %% [markdown]
# ## A pendulum
#
# Now an angle that swings, of which a camera sees sine and cosine, with noise. No linear system does so; and
# what the network has not been told is that there is an angle. Three lines are another model: a gated
# transition, and networks with hidden layers.


# %%
def pendulum(number, steps=40):
    angle, speed, seen = 5 * torch.rand(number) - 2.5, torch.randn(number), []
    for _ in range(steps):
        for _ in range(6):
            speed = speed - 0.05 * 4 * angle.sin()
            angle = angle + 0.05 * speed
        seen.append(torch.stack([angle.sin(), angle.cos()], 1))
    return torch.stack(seen, 1)


clean = pendulum(1000)
data = pv.data.load(clean + 0.1 * torch.randn_like(clean))
vae = pv.SequentialVAE(
    data.event_shape,
    latent_dim=3,
    transition=pv.nets.gated(32),
    decoder=pv.nets.mlp(32),
    encoder=pv.nets.recurrent(32),
)
pv.fit(vae, data, epochs=max(2, round(50 * SIZE)), batch_size=50, lr=5e-3, compile=False, progress=False)
print(pv.evaluate.elbo(vae, data.test))

# %% [markdown]
# ## Gaps and forecasts are one question
#
# Show the model the first part of a sequence, with a gap in it, and ask for the rest: what is NaN is drawn
# given what is not, by `pv.predict`. Beyond the last value the states go on by the transition, and so they do
# in the gap, as the encoder has seen none in training; what is observed after it weighs the draws, few of
# which count, and a warning says so. More of them, `num_particles=10000`, or some gaps among the data to
# train on are the mend.

# %%
x = pendulum(2) + 0.1 * torch.randn(2, 40, 2)
given = x.clone()
given[:, 8:12] = math.nan
given[:, 25:] = math.nan
number = max(20, round(1000 * SIZE))
figure = pv.figures.forecast(vae, given, truth=x, num_samples=number, num_particles=number)
figure.savefig("figures/15_time.png")
figure

# %% [markdown]
# ## Exercises
#
# **1.** Nothing is observed of a sequence. What do the filter and the model say of it, and how wide is $x_t$
# for large $t$?
#
# <details><summary>Solution</summary>
#
# $\log p$ of nothing is 0, and the guide is the prior, which needs no weights. The variance of $z_t$ goes to
# that of which a step makes itself, $v = 0.81\, v + 0.25$, about 1.32, and that of $x_t$ is 0.25 more.
#
# ```python
# assert kalman(torch.full((1, T), math.nan)) == 0
# assert pv.evaluate.log_likelihood(vae, torch.full((1, 40, 2), math.nan), num_samples=5).log_likelihood == 0
# assert abs(0.25 / (1 - 0.81) - 1.32) < 0.01
# ```
#
# </details>
#
# **2.** Take the second half of a sequence away. Is its $\log p$ that of a sequence of half the length?
#
# <details><summary>Solution</summary>
#
# Yes: what is not observed is left out, and what follows says nothing of what came before if it was not seen.
#
# ```python
# half = z.new_zeros(1, T)
# half[:, T // 2 :] = math.nan
# assert torch.equal(kalman(half), kalman(half[:, : T // 2]))
# ```
#
# </details>
