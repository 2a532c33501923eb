"""Whole numbers on a learned scale of their own."""

import math

import pyro
import pytest
import torch

import pyro_vae as pv
from pyro_vae.data.columns import Columns
from pyro_vae.distributions.stepped import SteppedLogistic
from pyro_vae.families.stepped import Stepped

pytestmark = pytest.mark.usefixtures("double")


def started(x, low=None):
    """A family that has met these values, and its distribution where the network emits 0."""
    family = Stepped(low)
    family.setup(tuple(x.shape[1:]))
    family.initialize(x, x.nanmean(0), x.nan_to_num().std(0))
    return family(torch.zeros(family.param_shape())).base_dist


@pytest.mark.parametrize("low", [None, 0])
def test_is_normalised_and_fits_its_draws(low):
    knots = torch.tensor([[0.0, 1.0, 4.0], [0.0, 2.0, 3.0]])
    first, slopes = torch.tensor([-1.0, 0.2]), torch.rand(2, 4) + 0.3
    p = SteppedLogistic(torch.tensor([0.3, -1.0]), torch.tensor([0.7, 2.0]), knots, first, slopes, low)
    k = torch.arange(-400.0 if low is None else 0.0, 400.0)[:, None].expand(-1, 2)
    mass = p.log_prob(k).exp()
    torch.testing.assert_close(mass.sum(0), torch.ones(2))
    x = p.sample((20_000,))
    for value in range(-3 if low is None else 0, 6):
        share, expected = (x == value).double().mean(0), mass[k[:, 0] == value][0]
        torch.testing.assert_close(share, expected, atol=0.015, rtol=0)
    torch.testing.assert_close(p.mean, (k * mass).sum(0), atol=0.02, rtol=0.01)


def test_with_unit_steps_it_is_the_rounded_logistic():
    loc, scale = torch.tensor([1.3]), torch.tensor([2.0])
    p = SteppedLogistic(loc, scale, torch.tensor([[0.0, 1.0]]), torch.tensor([0.5]), torch.ones(1, 3))
    k = torch.arange(-60.0, 60.0)[:, None]
    torch.testing.assert_close(p.log_prob(k), pv.distributions.RoundedLogistic(loc, scale).log_prob(k))


@pytest.mark.parametrize("low", [None, 0])
def test_it_starts_at_the_frequencies(low):
    few, counts = torch.randint(1, 8, (700,)).double() ** 2, torch.poisson(torch.full((700,), 3.0))
    x = torch.stack([few, counts, torch.full((700,), 5.0)], 1)
    x[::5, 0] = torch.nan
    p = started(x, low)
    for j in range(3):
        own = x[:, j][~x[:, j].isnan()]
        for value in own.unique():
            row = torch.full((3,), 5.0)
            row[j] = value
            share = (own == value).double().mean().item()
            assert p.log_prob(row)[j].exp().item() == pytest.approx(share, abs=0.01)
    assert p.log_prob(torch.tensor([1000.0, 50.0, 9.0])).isfinite().all()  # never seen


def test_many_large_values():
    x = (200 + 30 * torch.randn(1000, 1)).round()
    normal = pv.distributions.RoundedLogistic(torch.tensor([200.0]), torch.tensor([30 * 3**0.5 / math.pi]))
    assert started(x).log_prob(x).mean() > normal.log_prob(x).mean() - 0.05


def test_as_a_column():
    columns = Columns({"year": "integer", "visits": "count", "age": "real"})
    likelihood = {"year": Stepped(), "visits": Stepped(0)}
    nets = {"encoder": pv.nets.mlp(8), "decoder": pv.nets.mlp(8)}
    vae = pv.VAE(columns, 2, likelihood=likelihood, **nets)
    year, visits = torch.randint(2007, 2010, (300,)).double(), torch.poisson(torch.full((300,), 2.0))
    x = torch.stack([year, visits, torch.randn(300)], 1)
    vae.initialize(pv.data.Split(x))
    before = pv.evaluate.elbo(vae, x).elbo
    adam, loss = pyro.optim.Adam({"lr": 0.01}), pyro.infer.Trace_ELBO()
    svi = pv.svi.SVI(vae.model, vae.guide, adam, loss, compile=False)
    for _ in range(100):
        svi.step(x)
    assert pv.evaluate.elbo(vae, x).elbo > before
    drawn = pv.predict(vae, {"year": 2008, "visits": math.nan}, 20)
    assert (drawn["visits"] >= 0).all()
