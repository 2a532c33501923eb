# %% [markdown]
# # 11. What you do not know you leave out
#
# Real data have holes: a patient who skipped a question, a sensor that was off, the lower half of a
# digit. There are two honest things to do with a value that was not observed: leave it out of the
# likelihood while learning, and infer it from the rest when it is asked for. Both are the same rule of
# probability, and neither needs a model of its own. (`pip install -e '.[tables]'` brings pandas.)

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_iris

import pyro_vae as pv

# Fraction of every number of steps: below 1, for a quick look, training is cut short and numbers differ.
SIZE = float(os.environ.get("COURSE_SIZE", 1))
torch.manual_seed(0)
Path("figures").mkdir(exist_ok=True)

# %% [markdown]
# ## Two numbers, one of them missing
#
# Let $x = (x_1, x_2)$ be Normal with standard deviations 1 and correlation $\rho = 0.9$. Of a datum whose
# $x_2$ is missing we know $x_1$ alone, so that its likelihood is the *marginal* $p(x_1) = \int p(x_1,
# x_2)\, dx_2$: what is not observed is integrated out. And what we believe of $x_2$ is the *conditional*
#
# $$p(x_2 \mid x_1) = \mathcal N(\rho x_1,\; 1 - \rho^2).$$
#
# Filling the hole with a mean before learning would do neither: it makes data up, all of them the same,
# and the correlation that is learnt from them is too small.

# %%
rho = 0.9
x = torch.randn(20_000, 2) @ torch.linalg.cholesky(torch.tensor([[1.0, rho], [rho, 1.0]])).T
holes = x.clone()
holes[torch.rand(len(x)) < 0.5, 1] = torch.nan  # half of the second column
filled = torch.where(holes.isnan(), holes.nanmean(0), holes)
print(
    f"correlation {torch.corrcoef(x.T)[0, 1]:.3f}, with the holes filled {torch.corrcoef(filled.T)[0, 1]:.3f}"
)

# %% [markdown]
# A VAE with one latent and a linear decoder *is* such a Normal: $x = W z + \mu + \sigma \varepsilon$. It
# is trained on the data with their holes; in `data`, a value that is NaN is not observed. Nothing else is
# to be said.

# %%
data = pv.data.load(holes, validation=0.0, test=0.0)
vae = pv.VAE(
    data.event_shape,
    latent_dim=1,
    likelihood=pv.likelihoods.Normal(scale="shared"),
    decoder=pv.nets.mlp(),  # no hidden layer: linear
    encoder=pv.nets.mlp(32),
)
pv.fit(vae, data, epochs=max(1, round(20 * SIZE)), batch_size=200, lr=5e-3, progress=False)
normal = torch.distributions.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, rho], [rho, 1.0]]))
alone = torch.distributions.Normal(0.0, 1.0)
exact = torch.where(holes[:, 1].isnan(), alone.log_prob(x[:, 0]), normal.log_prob(x)).mean()
print(pv.evaluate.log_likelihood(vae, data.train, num_samples=100), f"(of the Normal itself {exact:.2f})")
given = torch.tensor([[-1.0, torch.nan], [0.0, torch.nan], [2.0, torch.nan]])
drawn = pv.predict(vae, given, num_samples=2000)
for known, mean, std in zip(
    given[:, 0], drawn["x"][:, :, 1].mean(0), drawn["x"][:, :, 1].std(0), strict=True
):
    exact = f"{rho * known:+.2f} ± {(1 - rho**2) ** 0.5:.2f}"
    print(f"x1 = {known:+.1f}: x2 = {mean:+.2f} ± {std:.2f}; the Normal's conditional {exact}")

# %% [markdown]
# `pv.predict` draws everything that is not given, from $p(x_m, z \mid x_o)$ with $x_o$ what is observed
# and $x_m$ what is missing. The encoder proposes latents $z_k \sim q(z \mid x_o)$; each is weighed by how
# well it explains what is *known*, $w_k = p(x_o, z_k) / q(z_k \mid x_o)$; a latent is drawn by these
# weights, and the missing values from $p(x_m \mid z)$. So even an encoder that is wrong gives right
# answers, as long as its proposals reach where the posterior is. How many draws the weights are worth is
# the effective sample size, and there is a warning where that is small.

# %%
print("effective sample size of 1000:", [round(size) for size in drawn.effective_sample_size.tolist()])

# %% [markdown]
# ## A table
#
# Columns of different kinds are no different. Four lengths and a species, of 150 flowers; a fifth of all
# values is removed. `pv.data.load` sees from each column's values what it is, and `likelihood="auto"` gives
# it a family. What is lost is told as NaN (or None, or `pd.NA`). Species are clusters, so that the prior is a
# mixture: between the clusters of a Normal there would be flowers of no kind. (Take the line out, and the
# petals of a setosa, below, come out as 2.0 ± 0.6 cm.)

# %%
iris = load_iris(as_frame=True)
frame = iris.data.rename(columns=lambda name: name.removesuffix(" (cm)").replace(" ", "_"))
frame["species"] = iris.target_names[iris.target]
whole = frame.sample(frac=1, random_state=0).reset_index(drop=True)
random = np.random.default_rng(0)
frame = whole.mask(random.random(whole.shape) < 0.2)
print(frame.head())
table = pv.data.load(frame, test=0.0, validation=0.1)
print(table.event_shapes)
flowers = pv.VAE(
    table.event_shapes,
    latent_dim=2,
    prior=pv.priors.MixtureOfNormals(10),
    likelihood="auto",
    encoder=pv.nets.mlp(32),
    decoder=pv.nets.mlp(32),
)
pv.fit(flowers, table, epochs=max(2, round(1000 * SIZE)), batch_size=45, lr=1e-2, progress=False)
print(pv.evaluate.log_likelihood(flowers, table.validation))

# %% [markdown]
# Now every question is one and the same. *Which species has a flower with petals of 5 cm?*

# %%
asked = pd.DataFrame({"petal_length": [1.5, 5.0, 5.0], "petal_width": [np.nan, np.nan, 2.2]})
answers = pv.predict(flowers, asked, num_samples=1000)
print(answers.loc[0])  # the first draw: whole flowers
for row in range(len(asked)):
    shares = answers.xs(row, level=1)["species"].value_counts(normalize=True).sort_index()
    known = asked.loc[row].dropna().to_dict()
    print(known, "->", {name: round(share, 2) for name, share in shares.items()})

# %% [markdown]
# *How long are the petals of a virginica?* The same question, the other way round; no second model is
# trained.

# %%
asked = pd.DataFrame({"species": ["setosa", "virginica"]})
lengths = pv.predict(flowers, asked, num_samples=2000, num_particles=50_000)
for row, species in enumerate(("setosa", "virginica")):
    drawn = lengths.xs(row, level=1)["petal_length"]
    real = whole.loc[whole.species == species, "petal_length"]
    told, truth = (f"{values.mean():.2f} ± {values.std():.2f} cm" for values in (drawn, real))
    print(f"{species}: {told}; real flowers {truth}")

# %% [markdown]
# *And the values that we removed?* We kept them, so that the answer can be graded: the share of species
# that are right, and how often the middle nine tenths of the draws hold the true length, which should be
# nine tenths.

# %%
imputed = pv.predict(flowers, frame, num_samples=200)
low, high = (imputed.groupby(level=1)[list(whole.columns[:4])].quantile(q) for q in (0.05, 0.95))
lost = frame.iloc[:, :4].isna()
inside = ((whole.iloc[:, :4] >= low) & (whole.iloc[:, :4] <= high)).to_numpy()[lost.to_numpy()]
votes = imputed.groupby(level=1)["species"].agg(lambda names: names.mode()[0])
right = (votes == whole.species)[frame.species.isna()]
print(
    f"species right {right.mean():.2f} of {len(right)}; intervals hold {inside.mean():.2f} of {len(inside)}"
)

# %% [markdown]
# ## Half a digit
#
# Pixels are columns, too. A model of whole digits is shown the upper half of one and asked for the lower.
# The third row is the encoder's own answer, which saw half a picture and was never trained on such; those
# below are draws, each a possible digit, which differ where the upper half leaves it open. The encoder is
# a bad guide here, so that many of its proposals are weighed to find a few that explain what is seen.

# %%
digits = pv.data.load("digits", binarize="dynamic")
painter = pv.VAE(digits.event_shape, latent_dim=10)
pv.fit(painter, digits, epochs=max(2, round(60 * SIZE)), batch_size=64, progress=False)
truth = digits.test[:8]
half = truth.clone()
half[:, :, 4:] = torch.nan
with torch.no_grad():
    naive = painter.decode(painter.encode(half).mean).mean
drawn = pv.predict(painter, half, num_samples=3, num_particles=10_000)["x"]
figure = pv.figures.grid(
    [truth, half, torch.where(half.isnan(), naive, half), *drawn],
    "The lower half, given the upper",
    ["truth", "given", "naive", "draw", "draw", "draw"],
)
figure.savefig("figures/11_what_you_do_not_know.png")
plt.close(figure)
figure

# %% [markdown]
# ## When the hole itself tells
#
# All this holds where values are missing *at random*: whether one is missing may depend on what is
# observed, and not on the value itself (Rubin, 1976). Rich people who do not tell their income are
# another matter, and no amount of data repairs it: $p(x_m \mid x_o)$ is learnt from those who did tell.
# Then the holes are data, and belong into the model, as a site of their own: see the how-to on values
# that are not missing at random.
#
# **Rubin, 1976**, "Inference and missing data". **Mattei and Frellsen, 2019**, "MIWAE: deep generative
# modelling and imputation of incomplete data sets".

# %% [markdown]
# ## Exercises
#
# **1.** Half of the second column was filled with its mean. What does that do to the correlation, by
# formula?
#
# <details><summary>Solution</summary>
#
# Covariance and variance of that column are halved: $\rho / \sqrt 2$.
#
# ```python
# assert abs(torch.corrcoef(filled.T)[0, 1] - rho / 2**0.5) < 0.03
# ```
#
# </details>
#
# **2.** Of which data can the slope of $x_2$ on $x_1$ be learnt: those with $x_1 < 0$, or those with $x_2 <
# 0$?
#
# <details><summary>Solution</summary>
#
# The first: whether they are seen depends on $x_1$ alone, which is known (missing at random). The second
# are too flat.
#
# ```python
# def slope(part):
#     covariance = torch.cov(part.T)
#     return covariance[0, 1] / covariance[0, 0]
#
#
# assert abs(slope(x[x[:, 0] < 0]) - rho) < 0.04
# assert slope(x[x[:, 1] < 0]) < rho - 0.1
# ```
#
# </details>
