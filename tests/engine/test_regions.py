"""Long records: what repeats itself is compiled once, and the pieces together are the whole."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from plain import follow
from torch import nn

from pyro_vae.engine import private, regions, trace


@pytest.fixture
def divided(monkeypatch, uncompiled):
    """Records of any length are cut; gives, for each, the pieces, equal ones once."""
    found = []
    original = regions.build

    def kept(record, compiler):
        found.append(regions.distinct(record.order).values())
        return original(record, compiler)

    monkeypatch.setattr(regions, "build", kept)
    monkeypatch.setattr(trace, "UNDIVIDED", 0)
    return found


def walk(length):
    """A latent chain z with two layers between its states, observed with noise; a guide that looks at x."""

    def make():
        torch.manual_seed(1)
        step = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3))
        look = nn.Sequential(nn.Linear(5, 8), nn.Softplus(), nn.Linear(8, 6))

        def model(x):
            pyro.module("step", step)
            z = x.new_zeros(len(x), 3)
            with pyro.plate("data", len(x)):
                for t in range(length):
                    z = pyro.sample(f"z{t}", dist.Normal(step(z), 0.5).to_event(1))
                    pyro.sample(f"x{t}", dist.Normal(z[:, :2], 0.3).to_event(1), obs=x[:, t])

        def guide(x):
            pyro.module("look", look)
            z = x.new_zeros(len(x), 3)
            with pyro.plate("data", len(x)):
                for t in range(length):
                    loc, raw = look(torch.cat([z, x[:, t]], -1)).chunk(2, -1)
                    z = pyro.sample(f"z{t}", dist.Normal(loc, nn.functional.softplus(raw)).to_event(1))

        return model, guide

    return make


def batches(length, number):
    generator = torch.Generator().manual_seed(1)
    return lambda: [(torch.randn(20, length, 2, generator=generator),) for _ in range(number)]


def test_is_pyros_step(divided):
    svi, _ = follow(walk(12), lambda: batches(12, 11)())
    assert svi.engine == "compiled, float32"
    assert len(divided[0]) > 3


def test_a_longer_loop_has_not_more_to_compile(divided):
    sizes = []
    for length in (8, 24):
        follow(walk(length), lambda length=length: batches(length, 2)())
        sizes.append(sum(map(len, divided[-1])))
    assert sizes[1] < 1.5 * sizes[0]  # not 3


def test_what_is_written_to_between_the_pieces(divided):
    """Running statistics, an intermediate result changed in place after views of it were taken."""

    def make():
        torch.manual_seed(1)
        first = nn.Linear(2, 4, bias=False)  # whose gradient would be 0 up to rounding
        net = nn.Sequential(first, nn.BatchNorm1d(4, momentum=0.5), nn.Tanh(), nn.Linear(4, 2))

        def model(x):
            pyro.module("net", net)
            total = torch.zeros(len(x), 2)
            rows = total.t()
            for t in range(6):
                loc = net(x[:, t]) + 0.1 * net[1].running_mean.sum()
                total += loc.detach().exp().log1p()  # which the view sees
                loc = (loc + rows.t() / (t + 1)).sigmoid().mul(2.0).sub(1.0).tanh()
                pyro.sample(f"x{t}", dist.Normal(loc, 1.0 + total[0, 0].abs()).to_event(2), obs=x[:, t])

        return model, lambda x: None

    svi, reasons = follow(make, lambda: batches(6, 11)())
    assert svi.engine == "compiled, float32", reasons
    assert len(divided[0]) > 3


def test_inductor(monkeypatch):
    """Compiled in earnest."""
    monkeypatch.setattr(trace, "UNDIVIDED", 200)
    calls = []
    compile = private.inductor
    monkeypatch.setattr(private, "inductor", lambda *args: calls.append(1) or compile(*args))
    svi, _ = follow(walk(8), lambda: batches(8, 4)(), rel=1e-4)
    assert svi.engine == "compiled, float32"
    assert len(calls) > 2


def test_too_little_repeated(divided, monkeypatch):
    monkeypatch.setattr(trace, "MOST_OPERATIONS", 20)
    svi, reasons = follow(walk(4), lambda: batches(4, 3)())
    assert svi.engine == "eager, float32"
    assert "different operations, more than 20" in reasons[0]
