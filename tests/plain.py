"""Plain Pyro programs with networks, and ways to take steps of them."""

import copy
import itertools
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn

from pyro_vae.svi import SVI, CompilationWarning

B, SIZE = 32, 64
NUMBERS = itertools.count()


def mlp(sizes, dropout=None):
    """Two layers, between them perhaps batch normalisation and dropout."""
    inputs, outputs = sizes
    if dropout is None:
        return nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, outputs))
    first = nn.Linear(inputs, 16, bias=False)  # whose gradient would be 0 up to rounding
    return nn.Sequential(first, nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, outputs))


class Autoencoder(nn.Module):
    """Bernoulli x, Normal z of two dimensions; the same at each call."""

    def __init__(self, dropout=None, likelihood=lambda raw: dist.Bernoulli(logits=raw)):
        super().__init__()
        torch.manual_seed(1)
        self.name = f"autoencoder_{next(NUMBERS)}"
        self.encoder, self.decoder = mlp((SIZE, 4), dropout), mlp((2, SIZE), dropout)
        self.likelihood = likelihood

    def model(self, x):
        pyro.module(self.name, self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", self.likelihood(self.decoder(z).to(z.dtype)).to_event(1), obs=x)

    def guide(self, x):
        pyro.module(self.name, self)
        with pyro.plate("data", len(x)):
            loc, raw = self.encoder(x).to(x.dtype).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


class Line(nn.Module):
    """y ~ Normal(a x + b, scale), with everything that may change about a module."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 3), nn.Identity())
        self.register_buffer("shift", torch.zeros(3))
        self.scale, self.prior = 1.0, dist.Normal(torch.zeros(3), torch.ones(3)).to_event(1)
        self.number, self.flag = torch.tensor(1.0), torch.tensor(True)

    def model(self, x):
        pyro.module("line", self)
        loc = self.net(x - self.shift) + (1.0 if self.training else 0.0)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior)
            pyro.sample("x", dist.Normal(loc + z, self.scale).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(x), 1.0).to_event(1))


def batches(*sizes):
    generator = torch.Generator().manual_seed(5)
    return [torch.bernoulli(torch.rand(size, SIZE, generator=generator)) for size in sizes or [B] * 6]


def terms(model, guide):
    sites = model.nodes["x"], guide.nodes["z"]
    return torch.stack([site["fn"].log_prob(site["value"]).mean() for site in sites])


def make_svi(module, loss=None, *, compile=True, lr=1e-2, **options):
    optimizer = torch.optim.Adam(module.parameters(), lr, fused=True)
    options = {"reduction": "mean"} | options
    # An objective keeps what it guesses of the plates, and draws for the guess.
    loss = copy.copy(loss) or Trace_ELBO()
    return SVI(module.model, module.guide, optimizer, loss, compile=compile, **options)


def take(svi, *xs):
    for x in xs:
        svi.step(x)
    svi.check()


def assert_same(one, other, tolerance=1e-5):
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def train(make, xs, **options):
    """Both ways from the same start under the same seed; returns the compiled SVI and both modules."""
    modules, losses = [], []
    for compile in (True, False):
        pyro.clear_param_store()
        torch.manual_seed(1)
        module = make()
        svi = make_svi(module, compile=compile, **options)
        torch.manual_seed(3)
        losses.append([svi.step(x).item() for x in xs])
        modules.append(module)
        if compile:
            compiled = svi
    assert losses[0] == pytest.approx(
        losses[1], rel=1e-4
    )  # Adam makes much of a rounding where gradients are small
    return compiled, *modules


def follow(make, calls, rel=1e-5):
    """Takes the same steps by Pyro's SVI and by ours, and gives ours, with why it was eager."""
    losses = []
    for of_pyro in (True, False):
        pyro.clear_param_store()
        torch.manual_seed(0)
        model, guide = make()
        optim = pyro.optim.Adam({"lr": 0.02})
        if of_pyro:
            svi = pyro.infer.SVI(model, guide, optim, Trace_ELBO())
        else:
            svi = SVI(model, guide, optim, Trace_ELBO(), compile=True)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            losses.append([float(svi.step(*args)) for args in calls()])
    assert losses[0] == pytest.approx(losses[1], rel=rel)
    return svi, [str(w.message) for w in caught if issubclass(w.category, CompilationWarning)]
