"""Sequences of different lengths, with gaps: a deep Markov model, a forecast, and another likelihood.

    python examples/sequences.py

Made data: noisy views of points that go round in circles, each at a speed of its own; some sequences end
early, and a tenth of all values are missing. NaN is all that the model is told of either. It is trained,
held-out sequences are scored, and one is continued.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

import pyro_vae as pv

SIZE = float(os.environ.get("COURSE_SIZE", 1))
STEPS = 30

torch.manual_seed(0)
turn = 0.25 + 0.25 * torch.rand(1000, 1)
angle = 2 * math.pi * torch.rand(1000, 1) + turn * torch.arange(STEPS)
x = torch.stack([angle.cos(), angle.sin()], -1) + 0.1 * torch.randn(1000, STEPS, 2)
x[::4, 20:] = math.nan  # every fourth sequence is shorter
x[torch.rand_like(x) < 0.1] = math.nan

data = pv.data.load(x)
vae = pv.SequentialVAE(data.event_shape, latent_dim=4, likelihood=pv.likelihoods.Normal(scale="shared"))
pv.fit(vae, data, epochs=max(1, round(50 * SIZE)), batch_size=50, lr=5e-3, compile=False)
print(vae.explain())
print(pv.evaluate.elbo(vae, data.test))
print(pv.evaluate.log_likelihood(vae, data.test, num_samples=max(2, round(500 * SIZE))))

whole = data.test.batch(slice(1))["x"]
given = whole.clone()
given[:, 15:] = math.nan
number = max(20, round(1000 * SIZE))
Path("figures").mkdir(exist_ok=True)
figure = pv.figures.forecast(vae, given, truth=whole, num_samples=number, num_particles=number)
figure.savefig("figures/sequences.png")
