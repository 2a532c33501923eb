"""Eager and compiled steps are those of pyro.infer.SVI; failures are named, and not taken."""

import copy
import math

import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from plain import Autoencoder, B, batches, make_svi, terms
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import pyro_vae.svi
from pyro_vae.svi import SVI, NonFiniteLossError


@pytest.mark.parametrize(("fused", "compile"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize(
    "loss",
    [
        Trace_ELBO(),
        Trace_ELBO(num_particles=2, vectorize_particles=True),
        TraceMeanField_ELBO(),
        RenyiELBO(alpha=0.5, num_particles=2, vectorize_particles=True),
    ],
    ids=["Trace", "Trace-2", "MeanField", "Renyi"],
)
def test_equals_pyro_step_for_step(loss, fused, compile):
    """Ours divides gradients by B = 32; Adam then takes the same step if its eps is 32 times smaller.

    A power of two, so that the mean and the sum over data differ by exact arithmetic.
    """
    ours, theirs = Autoencoder(), Autoencoder()
    optimizer = torch.optim.Adam(ours.parameters(), lr=1e-2, eps=1e-8 / B, fused=fused)
    svi = SVI(ours.model, ours.guide, optimizer, loss, compile=compile, reduction="mean")
    reference = pyro.infer.SVI(
        theirs.model, theirs.guide, pyro.optim.Adam({"lr": 1e-2, "eps": 1e-8}), copy.copy(loss)
    )
    for step, x in enumerate(batches(*[B] * 12)):
        torch.manual_seed(step)
        expected = reference.step(x) / B
        torch.manual_seed(step)
        assert svi.step(x).item() == pytest.approx(expected, rel=1e-6)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_takes_the_gradient_of_the_mean():
    module = Autoencoder()
    x = batches(B)[0]
    before = [p.detach().clone() for p in module.parameters()]
    torch.manual_seed(0)
    Trace_ELBO().differentiable_loss(module.model, module.guide, x).div(B).backward()
    gradients = [p.grad.clone() for p in module.parameters()]
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    SVI(module.model, module.guide, optimizer, Trace_ELBO(), reduction="mean").step(x)
    for p, old, g in zip(module.parameters(), before, gradients, strict=True):
        torch.testing.assert_close(p.detach(), old - 0.1 * g)


@pytest.mark.parametrize("compile", [True, False])
def test_terms(compile):
    """A tensor of the traces of the very step: its loss is made of them."""

    def parts(model, guide):
        densities = [trace.log_prob_sum() for trace in (model, guide)]
        return torch.stack(densities)

    svi = make_svi(Autoencoder(), compile=compile, reduction="sum", terms=parts)
    for x in batches(B, B, B):
        loss = svi.step(x)
        log_p, log_q = svi.terms
        torch.testing.assert_close(loss, log_q - log_p)
        assert not svi.terms.requires_grad


def test_mean_needs_a_tensor():
    svi = SVI(lambda n: None, lambda n: None, pyro.optim.SGD({}), Trace_ELBO(), reduction="mean")
    with pytest.raises(ValueError, match="needs a tensor among the arguments"):
        svi.step(3)


@pytest.mark.parametrize("compile", [True, False])
def test_clipping(compile):
    module = Autoencoder()
    svi = SVI(
        module.model,
        module.guide,
        torch.optim.SGD(module.parameters(), lr=1.0),
        Trace_ELBO(),
        clip_norm=0.5,
        reduction="mean",
        compile=compile,
    )
    for x in batches(B, B):
        before = [p.detach().clone() for p in module.parameters()]
        svi.step(x)
    moved = [p.detach() - old for p, old in zip(module.parameters(), before, strict=True)]
    assert nn.utils.get_total_norm(moved).item() == pytest.approx(0.5, rel=1e-4)


def test_validation_is_on_in_the_first_step():
    with pytest.raises(ValueError, match="support"):
        make_svi(Autoencoder()).step(torch.full((4, 64), 0.5))


@pytest.mark.parametrize("option", ["compile", "precision", "reduction"])
def test_wrong_options(option):
    with pytest.raises(ValueError, match=f"{option}='fast' is none of"):
        make_svi(Autoencoder(), **{option: "fast"})


def test_lbfgs_is_refused():
    module = Autoencoder()
    with pytest.raises(ValueError, match="LBFGS"):
        SVI(module.model, module.guide, torch.optim.LBFGS(module.parameters()), Trace_ELBO())


def test_auto_waits(monkeypatch):
    monkeypatch.setattr(pyro_vae.svi, "AUTO_STEPS", 3)
    svi = make_svi(Autoencoder(), compile="auto")
    engines = []
    for x in batches(*[B] * 5):
        svi.step(x)
        engines.append(svi.engine)
    assert engines == ["eager, float32"] * 3 + ["compiled, float32"] * 2


@pytest.mark.filterwarnings("ignore:Encountered NaN")
class TestNonFinite:
    def broken(self, where):
        module = Autoencoder()
        optimizer = torch.optim.Adam(module.parameters())
        svi = SVI(module.model, module.guide, optimizer, Trace_ELBO(), terms=terms)
        x = batches(B)[0]
        svi.step(x)
        with torch.no_grad():
            getattr(module, where)[-1].bias.fill_(math.nan)
        before = copy.deepcopy([module.state_dict(), optimizer.state_dict()])
        noise = torch.get_rng_state()
        with pytest.raises(NonFiniteLossError) as caught:
            svi.step(x)
        torch.testing.assert_close([module.state_dict(), optimizer.state_dict()], before, equal_nan=True)
        after = torch.get_rng_state()
        torch.set_rng_state(noise)
        torch.randn(B, 2)
        assert torch.equal(torch.get_rng_state(), after)  # one step has drawn, and no explanation
        return str(caught.value)

    def test_site_of_the_guide_is_named(self):
        assert "in step 2: the value at site 'z' of the guide" in self.broken("encoder")

    def test_site_of_the_model_is_named(self):
        assert "in step 2: the log-density at site 'x' of the model" in self.broken("decoder")

    def test_in_the_first_step(self):
        """Where Pyro's validation would answer with a ValueError."""
        module = Autoencoder()
        module.encoder[-1].bias.data.fill_(math.nan)
        with pytest.raises(NonFiniteLossError, match="in step 1: the value at site 'z' of the guide"):
            make_svi(module).step(batches(B)[0])

    def test_gradient(self):
        """A finite loss with an infinite gradient: the square root at zero."""
        w = nn.Parameter(torch.zeros(()))

        def model(x):
            pyro.param("w", w)
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(w.sqrt(), 1.0), obs=x)

        svi = SVI(model, lambda x: None, torch.optim.SGD([w], lr=0.1), Trace_ELBO())
        with pytest.raises(NonFiniteLossError, match="norm is not finite in step 1"):
            svi.step(torch.ones(3))
        assert w == 0


def test_any_pyro_model():
    """Bayesian linear regression with an autoguide: the posterior mean is known."""
    torch.manual_seed(0)
    x = torch.randn(200, 1)
    y = 2 * x[:, 0] + 0.1 * torch.randn(200)

    def model(xy):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(xy)):
            pyro.sample("y", dist.Normal(w * xy[:, 0], 0.1), obs=xy[:, 1])

    guide = pyro.infer.autoguide.AutoNormal(model)
    xy = torch.stack([x[:, 0], y], 1)
    guide(xy)
    svi = SVI(model, guide, torch.optim.Adam(guide.parameters(), lr=0.02), Trace_ELBO())
    for _ in range(600):
        svi.step(xy)
    precision = 1 + x.square().sum() / 0.01
    mean = (x[:, 0] * y).sum() / 0.01 / precision
    assert guide.median()["w"].item() == pytest.approx(mean.item(), abs=0.01)
