# %% [markdown]
# # 10. Your own data
#
# An array, a folder of images, a table; a network of your own; a distribution of your own. Each is one line
# where the VAE is built.

# %%
import math
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyro.distributions as dist
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_wine
from torch import nn
from torch.distributions import constraints

import pyro_vae as pv
from pyro_vae.sklearn import VAEEstimator

# Fraction of every number of steps: below 1, for a quick look, training is cut short and numbers differ.
SIZE = float(os.environ.get("COURSE_SIZE", 1))
torch.manual_seed(0)
Path("figures").mkdir(exist_ok=True)

# %% [markdown]
# ## An array
#
# Anything of shape `[N, ...]`: here 2,000 noisy sine waves of 40 points, with outliers. `pv.data.load` also
# takes the name of a `.npy`, `.npz` or `.pt` file; a `.npy` larger than memory is read as it is needed.

# %%
t = torch.linspace(0, 2 * math.pi, 40)
phase, size = 2 * math.pi * torch.rand(2000, 1), 0.5 + torch.rand(2000, 1)
noise = 0.1 * torch.randn(2000, 40) + (torch.rand(2000, 40) < 0.02) * torch.randn(2000, 40)
curves = pv.data.load(size * torch.sin(t + phase) + noise)
print(curves)

# %% [markdown]
# ## A network of your own
#
# Any module that is made from two shapes, that of one input and that of one output. It maps `[B,
# *in_shape]` to `[B, *out_shape]`, real numbers without constraint: what makes a scale positive, or a
# probability lie between 0 and 1, is the distribution's business.


# %%
class Encoder(nn.Module):
    def __init__(self, in_shape, out_shape):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(in_shape[0], 100), nn.Tanh(), nn.Linear(100, out_shape[0]))

    def forward(self, x):
        return self.layers(x)


# %% [markdown]
# ## A distribution of your own
#
# The hyperbolic secant, which Pyro does not have, $p(x) = \frac{1}{2 s} \operatorname{sech} \frac{\pi (x -
# m)}{2 s}$. Any subclass of `TorchDistribution` that tells the constraints of its parameters is a
# likelihood, with all that comes with one.


# %%
class HyperbolicSecant(dist.TorchDistribution):
    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012
    support = constraints.real

    def __init__(self, loc, scale, validate_args=None):
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        return HyperbolicSecant(self.loc.expand(batch_shape), self.scale.expand(batch_shape))

    def log_prob(self, value):
        z = (math.pi / 2 * (value - self.loc) / self.scale).abs()
        return -z - torch.log1p(torch.exp(-2 * z)) - self.scale.log()

    def sample(self, sample_shape=()):
        u = torch.rand(self._extended_shape(sample_shape), device=self.loc.device)
        return self.loc + self.scale * 2 / math.pi * torch.log(torch.tan(math.pi / 2 * u))

    @property
    def mean(self):
        return self.loc


grid = torch.linspace(-30.0, 30.0, 6001)
density = HyperbolicSecant(torch.tensor(0.5), torch.tensor(1.3)).log_prob(grid).exp()
print(f"its density integrates to {torch.trapezoid(density, grid):.6f}")  # check yours

result = pv.compare(
    curves,
    likelihoods=[
        pv.likelihoods.Normal(scale="shared"),
        pv.likelihoods.StudentT(df="shared", scale="shared"),
        pv.likelihoods.of(HyperbolicSecant)(scale="shared"),
    ],
    latent_dim=3,
    encoder=Encoder,
    epochs=max(2, round(80 * SIZE)),
    batch_size=64,
    lr=3e-3,
    num_samples=max(10, round(500 * SIZE)),
    progress=False,
)
print(result)
vae = result.programs["StudentT(df='shared', scale='shared')"]
print(vae.explain())
figure = pv.figures.reconstructions(vae, curves.test[:6])
figure.savefig("figures/10_your_own_data.png")
figure

# %% [markdown]
# ## A folder of images
#
# Any sizes that agree, any of the usual formats; subfolders are classes. Here the folder is made from
# scikit-learn's digits, ten classes of 8 x 8 pixels.

# %%
folder = Path("runs/my_images")
images, targets = load_digits(return_X_y=True)
for i, (image, target) in enumerate(zip(images.reshape(-1, 8, 8), targets, strict=True)):
    (folder / str(target)).mkdir(parents=True, exist_ok=True)
    Image.fromarray((image * 255 / 16).astype(np.uint8)).save(folder / str(target) / f"{i:04}.png")
pictures = pv.data.load(folder, binarize="dynamic")
print(pictures)
net = pv.nets.conv(16, 32)
vae = pv.VAE(pictures.event_shape, latent_dim=2, encoder=net, decoder=net)
num_epochs = max(2, round(60 * SIZE))
pv.fit(vae, pictures, epochs=num_epochs, warmup_epochs=num_epochs // 3, lr=2e-3, progress=False)
print("test", pv.evaluate.elbo(vae, pictures.test))
figure = pv.figures.latents(vae, pictures.test)
figure.savefig("figures/10_your_own_data_images.png")
figure

# %% [markdown]
# ## A table
#
# Rows and columns of numbers in different units: thirteen chemical measurements of 178 wines. Nothing needs
# to be prepared: the networks see each column at mean 0 and variance 1, and densities are those of the
# columns as they are. One measurement in twenty is lost here (NaN): it is left out of the density, and the
# encoder is told that it is not known. `VAEEstimator` is one of scikit-learn's estimators, so that its tools
# apply. A table so small wants a small network. How surprising is each wine? `score_samples` estimates $\log
# p(x)$, here of all that is known of it; the lowest are candidates for outliers. (The model was trained on
# these wines, so that all scores are a little high.) And `reconstruct` guesses what was lost, by the mean
# of $p(x \mid z)$.


# %%
wines = load_wine()
lost = np.random.default_rng(0).random(wines.data.shape) < 0.05
known = np.where(lost, np.nan, wines.data)
num_epochs = max(2, round(150 * SIZE))
model = VAEEstimator(latent_dim=2, hidden_dims=(16,), epochs=num_epochs, lr=3e-3, random_state=0)
z = model.fit_transform(known)
log_p = model.score_samples(known)
error = ((model.reconstruct(known) - wines.data) / wines.data.std(0))[lost]
print(f"what was lost is guessed to {error.std():.2f} standard deviations of its column")
print(f"log p(x) {log_p.mean():.2f} nats per wine; the most surprising wines: {log_p.argsort()[:5]}")

figure, axes = plt.subplots(figsize=(6.4, 5), layout="constrained")
for label in range(3):
    axes.scatter(*z[wines.target == label].T, s=14, label=f"cultivar {label + 1}")
odd = log_p.argsort()[:5]
axes.scatter(*z[odd].T, s=90, facecolors="none", edgecolors="k", label="the five most surprising")
axes.set(title="178 wines, by the mean of q(z|x)", xlabel="z[0]", ylabel="z[1]")
axes.legend()
figure.savefig("figures/10_your_own_data_table.png")

# %% [markdown]
# ## Exercises
#
# **1.** Is the $s$ of the hyperbolic secant its standard deviation? Ask its draws.
#
# <details><summary>Solution</summary>
#
# It is.
#
# ```python
# draws = HyperbolicSecant(torch.tensor(0.5), torch.tensor(1.3)).sample((100_000,))
# assert abs(draws.std() / 1.3 - 1) < 0.03
# ```
#
# </details>
#
# **2.** How many images of each class are there to train on? The labels are in the split.
#
# <details><summary>Solution</summary>
#
# About as many of each.
#
# ```python
# sizes = pictures.train.labels.bincount()
# print(sizes.tolist())
# assert len(sizes) == 10 and sizes.sum() == len(pictures.train)
# ```
#
# </details>
