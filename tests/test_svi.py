import copy
import math

import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import pyro_vae as pv
from pyro_vae.objectives import SCHEDULES, elbo_terms, scale_latents, warmup
from pyro_vae.svi import SVI, NonFiniteLossError

B = 64  # a power of two, so that the mean and the sum over data differ by exact arithmetic


def batches(number=12):
    torch.manual_seed(5)
    return [torch.bernoulli(torch.rand(B, 1, 8, 8)) for _ in range(number)]


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
def test_equals_pyro_step_for_step(make_vae, loss, fused, compile):
    """Ours divides gradients by B = 64; Adam then takes the same step if its eps is 64 times smaller."""
    ours, theirs = make_vae(), make_vae()
    optimizer = torch.optim.Adam(ours.parameters(), lr=1e-2, eps=1e-8 / B, fused=fused)
    svi = SVI(ours.model, ours.guide, optimizer, loss, compile=compile, reduction="mean")
    reference = pyro.infer.SVI(
        theirs.model, theirs.guide, pyro.optim.Adam({"lr": 1e-2, "eps": 1e-8}), copy.copy(loss)
    )
    for step, x in enumerate(batches()):
        torch.manual_seed(step)
        expected = reference.step(x) / B
        torch.manual_seed(step)
        assert svi.step(x).item() == pytest.approx(expected, rel=1e-6)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_takes_the_gradient_of_the_mean(make_vae):
    vae = make_vae()
    x = batches(1)[0]
    before = [p.detach().clone() for p in vae.parameters()]
    torch.manual_seed(0)
    pyro.infer.Trace_ELBO().differentiable_loss(vae.model, vae.guide, x).div(B).backward()
    gradients = [p.grad.clone() for p in vae.parameters()]
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(vae.parameters(), lr=0.1)
    SVI(vae.model, vae.guide, optimizer, Trace_ELBO(), reduction="mean").step(x)
    for p, old, g in zip(vae.parameters(), before, gradients, strict=True):
        torch.testing.assert_close(p.detach(), old - 0.1 * g)


def test_parts_of_the_loss(make_vae):
    vae = make_vae()
    optimizer = torch.optim.SGD(vae.parameters(), lr=0.0)
    svi = SVI(vae.model, vae.guide, optimizer, TraceMeanField_ELBO(), reduction="mean", terms=elbo_terms)
    x = batches(1)[0]
    losses = [(svi.step(x).item(), *svi.terms.tolist()) for _ in range(200)]
    for loss, reconstruction, kl in losses:
        assert loss == pytest.approx(reconstruction + kl, rel=1e-5)
    exact = pv.evaluate.elbo(vae, x, num_samples=200)
    assert losses[0][2] == pytest.approx(exact.kl, rel=1e-5)
    mean = sum(reconstruction for _, reconstruction, _ in losses) / 200
    assert mean == pytest.approx(exact.reconstruction, abs=0.1)


@pytest.mark.parametrize("vectorize", [False, True])
def test_parts_with_particles(make_vae, vectorize):
    vae = make_vae()
    loss = Trace_ELBO(num_particles=3, vectorize_particles=vectorize)
    svi = SVI(vae.model, vae.guide, torch.optim.SGD(vae.parameters(), lr=0.0), loss, terms=elbo_terms)
    x = batches(1)[0]
    kl = set()
    for _ in range(3):
        svi.step(x)
        kl.add(round(svi.terms[1].item(), 4))
    assert kl == {round(pv.evaluate.elbo(vae, x).kl, 4)}


def test_clipping(make_vae):
    vae = make_vae()
    before = [p.detach().clone() for p in vae.parameters()]
    optimizer = torch.optim.SGD(vae.parameters(), lr=1.0)
    svi = SVI(vae.model, vae.guide, optimizer, Trace_ELBO(), clip_norm=0.5, reduction="mean")
    svi.step(batches(1)[0])
    moved = [p.detach() - old for p, old in zip(vae.parameters(), before, strict=True)]
    assert nn.utils.get_total_norm(moved).item() == pytest.approx(0.5, rel=1e-4)


def test_validation_is_on_in_the_first_step(make_vae):
    vae = make_vae()
    svi = SVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters()), Trace_ELBO())
    with pytest.raises(ValueError, match="support"):
        svi.step(torch.full((4, 1, 8, 8), 0.5))


@pytest.mark.parametrize("loss", [Trace_ELBO(), TraceMeanField_ELBO()])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_beta_scales_the_kl(make_vae, loss, beta):
    vae = make_vae()
    x = batches(1)[0]
    with torch.no_grad():
        torch.manual_seed(0)
        with scale_latents(torch.tensor(beta)):
            scaled = loss.loss(vae.model, vae.guide, x) / B
        torch.manual_seed(0)
        z = vae.encode(x).rsample()
        reconstruction = -vae.decode(z).log_prob(x).mean()
        if isinstance(loss, TraceMeanField_ELBO):
            kl = torch.distributions.kl_divergence(vae.encode(x), vae.prior()).mean()
        else:
            kl = (vae.encode(x).log_prob(z) - vae.prior().log_prob(z)).mean()
    assert scaled == pytest.approx((reconstruction + beta * kl).item(), rel=1e-5)


def test_warmup_ends_at_exactly_one():
    assert [warmup(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warmup(0, 0) == warmup(0, 1) == 1.0


def test_schedules():
    for name, schedule in SCHEDULES.items():
        factors = [schedule(i / 100) for i in range(100)]
        assert factors[0] == 1, name
        assert factors == sorted(factors, reverse=True)
        assert min(factors) > 0
    assert SCHEDULES["cosine"](0.5) == pytest.approx(0.5)
    # Burda et al.: 10^(-i/7) for 3^i of 3280 epochs, i = 0..7
    epoch = 0
    for i in range(8):
        for e in (epoch, epoch + 3**i - 1):
            assert SCHEDULES["burda"]((e + 0.5) / 3280) == pytest.approx(10 ** (-i / 7))
        epoch += 3**i
    assert epoch == 3280


@pytest.mark.filterwarnings("ignore:Encountered NaN")
class TestNonFinite:
    def broken(self, make_vae, where):
        vae = make_vae()
        optimizer = torch.optim.Adam(vae.parameters())
        svi = SVI(vae.model, vae.guide, optimizer, Trace_ELBO())
        x = batches(1)[0]
        svi.step(x)
        with torch.no_grad():
            getattr(vae, where).layers[-1].bias.fill_(math.nan)
        before = copy.deepcopy([vae.state_dict(), optimizer.state_dict()])
        with pytest.raises(NonFiniteLossError) as caught:
            svi.step(x)
        torch.testing.assert_close([vae.state_dict(), optimizer.state_dict()], before, equal_nan=True)
        return str(caught.value)

    def test_site_of_the_guide_is_named(self, make_vae):
        assert "in step 2: the value at site 'z' of the guide" in self.broken(make_vae, "encoder")

    def test_site_of_the_model_is_named(self, make_vae):
        assert "in step 2: the log-density at site 'x' of the model" in self.broken(make_vae, "decoder")

    def test_in_the_first_step(self, make_vae):
        """Where Pyro's validation would answer with a ValueError."""
        vae = make_vae()
        vae.encoder.layers[-1].bias.data.fill_(math.nan)
        svi = SVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters()), Trace_ELBO())
        with pytest.raises(NonFiniteLossError, match="in step 1: the value at site 'z' of the guide"):
            svi.step(batches(1)[0])

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
