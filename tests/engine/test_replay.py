"""Steps on a GPU, with a stand-in for it."""

import copy
import math

import pyro.distributions as dist
import pytest
import torch
from plain import Autoencoder, B, assert_same, batches, take, terms
from pyro.infer import Trace_ELBO

from pyro_vae.engine import replay
from pyro_vae.svi import SVI, NonFiniteLossError, set_lr


@pytest.fixture
def on_a_gpu(monkeypatch, uncompiled):
    """Takes the paths of a GPU on the CPU: results read later, a step recorded and replayed.

    The stand-in for a CUDA graph runs the recorded function anew, into the same memory.
    """

    def capture(function, number, rollback, device):
        with rollback():
            results = function(number)

        def replay():
            for own, other in zip(results, function(number), strict=True):
                own.copy_(other)

        return replay, results

    monkeypatch.setattr(replay, "waits", lambda optim, tensor: False)
    monkeypatch.setattr(replay, "records", lambda optim, compiled: True)
    monkeypatch.setattr(replay, "_capture", capture)


@pytest.mark.parametrize("recorded", [True, False])
def test_steps_on_a_gpu(on_a_gpu, recorded):
    """With a learning rate in a tensor, which changes; shapes, which change; against eager steps."""
    modules = []
    for compile in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(replay, "records", lambda optim, compiled: recorded)
            module = Autoencoder()
            optimizer = torch.optim.Adam(module.parameters(), torch.tensor(1e-2), fused=True)
            svi = SVI(module.model, module.guide, optimizer, Trace_ELBO(), compile=compile, terms=terms)
            torch.manual_seed(0)
            losses = []
            for i, x in enumerate(batches(*[B, B, B, 7] * 12)):
                set_lr(optimizer, 1e-2 / (1 + i))
                losses.append(torch.cat([svi.step(x)[None], svi.terms]))
            svi.check()
        if compile:
            assert svi.engine == f"{'CUDA graph' if recorded else 'compiled'}, float32"
            reference = torch.stack(losses)
        modules.append(module)
    torch.testing.assert_close(reference, torch.stack(losses), rtol=1e-4, atol=1e-4)
    assert_same(*modules, 1e-4)


def test_several_at_once(on_a_gpu):
    """Are those taken one by one, with a learning rate for each, up to a check, which is taken alone."""
    states = []
    for number in (1, 3):
        module = Autoencoder()
        optimizer = torch.optim.Adam(module.parameters(), torch.tensor(1e-2), fused=True)
        svi = SVI(module.model, module.guide, optimizer, Trace_ELBO(), compile=True, terms=terms)
        torch.manual_seed(0)
        take(svi, *batches(B, B))
        assert svi.replays
        rates, xs = [1e-2 / (1 + i) for i in range(12)], torch.stack(batches(*[B] * 12))
        losses, found = [], []
        for i in range(0, 12, number):
            losses.append(svi.steps(rates[i : i + number], xs[i : i + number]))
            found.append(svi.terms)
        svi.check()
        assert svi.num_steps == 14
        (step,) = svi._steps._made
        assert step.uses == 13
        assert set(step.replays) == {1, number}
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rates[-1])
        states.append([torch.cat(losses), torch.cat(found), *module.state_dict().values()])
    torch.testing.assert_close(*states, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_failed_step_of_several(on_a_gpu, monkeypatch):
    """It is named, and neither it nor those after it are taken."""
    monkeypatch.setattr("pyro_vae.svi._between", lambda before, *_: before)  # the stand-in draws on the CPU
    module = Autoencoder(likelihood=lambda raw: dist.Normal(raw, 1.0))
    optimizer = torch.optim.Adam(module.parameters(), torch.tensor(1e-2), fused=True)
    svi = SVI(module.model, module.guide, optimizer, Trace_ELBO(), compile=True)
    xs = torch.stack(batches(*[B] * 4))
    take(svi, *xs[:2])
    svi.steps(None, xs[:2])
    svi.check()
    before = copy.deepcopy([module.state_dict(), optimizer.state_dict()])
    bad = xs.clone()
    bad[2, 3, 18] = math.inf
    bad[:2] = math.nan
    svi.steps(None, bad)
    with pytest.raises(NonFiniteLossError, match="in step 5: the value at site 'z' of the guide"):
        svi.check()
    torch.testing.assert_close([module.state_dict(), optimizer.state_dict()], before)
    assert svi.num_steps == 4
    svi.steps(None, xs)
    svi.check()
    assert svi.num_steps == 8


@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize(("where", "compile"), [("gpu", True), ("cpu", True), ("cpu", False)])
def test_failed_step_is_named_and_not_taken(request, where, compile):
    if where == "gpu":
        request.getfixturevalue("on_a_gpu")
    module = Autoencoder(likelihood=lambda raw: dist.Normal(raw, 1.0))
    optimizer = torch.optim.Adam(module.parameters(), torch.tensor(1e-2), fused=True)
    svi = SVI(module.model, module.guide, optimizer, Trace_ELBO(), compile=compile)
    take(svi, *batches())
    before = copy.deepcopy([module.state_dict(), optimizer.state_dict()])
    bad = batches(B)[0]
    bad[3, 18] = math.inf
    with pytest.raises(NonFiniteLossError, match="in step 7: the value at site 'z' of the guide"):
        take(svi, bad, *batches())
    torch.testing.assert_close([module.state_dict(), optimizer.state_dict()], before)
    assert svi.num_steps == 6
    assert svi.step(batches(B)[0]).isfinite()
    svi.check()
