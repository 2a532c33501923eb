"""The temperature of the sea off Peru, a year ahead: a deep Markov model beside an autoregression.

Monthly means from 1950 to 2010 (statsmodels' ``elnino``: ``pip install statsmodels``), cut into windows of
three years and trained on those before 1990. Of the years after, the first two of three are shown and the
third is asked for: a state that is inferred goes on by the transition that was learned, and what is not
observed is NaN. Expect log p(third year | two before) of about -1.0 nats a month; each month's own Normal has
-1.65, and an autoregression of two months, which is told the seasons, -0.66: 445 windows of one series are
few for networks.

    python examples/sequences.py
"""

import argparse
import math
from pathlib import Path

import torch
from statsmodels.datasets import elnino
from torch.distributions import Normal

import pyro_vae as pv

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=60)
parser.add_argument("--seed", type=int, default=0)
given = parser.parse_args()

celsius = torch.tensor(elnino.load_pandas().data.iloc[:, 1:].to_numpy().flatten(), dtype=torch.float32)
past, later = celsius[:480], celsius[480:]
train = past.unfold(0, 36, 1)[..., None]  # every window, [N, T, D]
test = later.unfold(0, 36, 12)[..., None]  # one that begins with each year
shown = test.clone()
shown[:, 24:] = math.nan

torch.manual_seed(given.seed)
data = pv.data.load(train)
vae = pv.SequentialVAE(
    data.event_shape,
    latent_dim=4,
    transition=pv.nets.gated(32),
    likelihood=pv.likelihoods.Normal(scale="shared"),
    encoder=pv.nets.recurrent(32, direction="both"),
    decoder=pv.nets.mlp(32),
)
print(str(vae.explain()).split("The ELBO")[0])
pv.fit(vae, data, epochs=given.epochs, batch_size=50, seed=given.seed, compile=False)
print(pv.evaluate.elbo(vae, test))

# log p(the third year | the two before), by importance sampling of both.
whole, before = (pv.evaluate.log_likelihood(vae, x, num_samples=5000).per_datum for x in (test, shown))
own = (whole - before) / 12

# The same of two simpler models: each month's mean and scale over the years; and of what is left, an
# autoregression of two months by least squares, whose errors are Normal.
mean, scale = (f(past.view(-1, 12), 0) for f in (torch.mean, torch.std))
seasons = Normal(mean, scale).log_prob(test[:, 24:, 0]).mean(1)
left, x = (past.view(-1, 12) - mean).flatten(), test[..., 0] - mean.repeat(3)
weights = torch.linalg.lstsq(torch.stack([left[1:-1], left[:-2]], 1), left[2:, None]).solution[:, 0]
noise = (left[2:] - weights[0] * left[1:-1] - weights[1] * left[:-2]).std()
told = [
    Normal(weights[0] * x[:, t - 1] + weights[1] * x[:, t - 2], noise).log_prob(x[:, t])
    for t in range(24, 36)
]
for name, log_p in (
    ("each month", seasons),
    ("autoregression", torch.stack(told, 1).mean(1)),
    ("SequentialVAE", own),
):
    print(f"{name:14}: log p(year | before) {log_p.mean():.3f} ± {log_p.std() / len(log_p) ** 0.5:.3f} nats")

drawn = pv.predict(vae, shown, num_samples=400, num_particles=5000)
low, high = drawn.quantile([0.05, 0.95])
hidden = test[:, 24:]
inside = ((low[:, 24:] < hidden) & (hidden < high[:, 24:])).float().mean()
away = (drawn.mean()[:, 24:] - hidden).square().mean().sqrt()
print(
    f"a year ahead: {inside:.2f} lie within 90 % intervals; off by {away:.2f} °C, each month's mean by "
    f"{x[:, 24:].square().mean().sqrt():.2f}"
)

Path("figures").mkdir(exist_ok=True)
pv.figures.forecast(vae, shown[6:9], truth=test[6:9], num_particles=5000).savefig("figures/sequences.png")
