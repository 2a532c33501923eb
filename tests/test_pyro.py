"""The VAE is ordinary Pyro: every inference algorithm applies."""

import copy
import importlib
import re
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.contrib.autoname import scope
from pyro.infer import (
    MCMC,
    NUTS,
    SVI,
    Importance,
    Predictive,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.infer.autoguide import AutoNormal
from torch.distributions import kl_divergence

import pyro_vae as pv


@pytest.fixture
def x():
    return torch.bernoulli(torch.rand(6, 1, 8, 8))


def test_sites(make_vae, x):
    vae = make_vae()
    model = pyro.poutine.trace(vae.model).get_trace(x)
    guide = pyro.poutine.trace(vae.guide).get_trace(x)
    assert set(model.stochastic_nodes) == {"data", "z"}
    assert model.observation_nodes == ["x"]
    assert set(guide.stochastic_nodes) == {"data", "z"}
    assert model.nodes["z"]["value"].shape == (6, 2)
    assert [frame.name for frame in model.nodes["x"]["cond_indep_stack"]] == ["data"]
    assert len(model.param_nodes) == len(guide.param_nodes) == len(list(vae.parameters()))


@pytest.mark.parametrize(
    "loss",
    [
        Trace_ELBO(),
        Trace_ELBO(num_particles=5, vectorize_particles=True),
        TraceGraph_ELBO(),
        TraceMeanField_ELBO(),
        RenyiELBO(alpha=0, num_particles=5),
        RenyiELBO(alpha=0.5, num_particles=5, vectorize_particles=True),
        ReweightedWakeSleep(num_particles=3, vectorize_particles=True),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_svi_trains_every_parameter(make_vae, x, loss):
    vae = make_vae()
    before = copy.deepcopy(vae.state_dict())
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss)
    first = svi.step(x)
    for _ in range(30):
        last = svi.step(x)
    if isinstance(first, tuple):
        first, last = first[0], last[0]
    assert last < first
    for name, parameter in vae.named_parameters():
        assert not torch.equal(parameter, before[name]), name
    assert not list(pyro.get_param_store())


def test_predictive(make_vae, x):
    vae = make_vae()
    prior = Predictive(pyro.poutine.uncondition(vae.model), num_samples=4)(x)
    assert prior["x"].shape == (4, 6, 1, 8, 8)
    assert ((prior["x"] == 0) | (prior["x"] == 1)).all()
    model = pyro.poutine.uncondition(vae.model)
    posterior = Predictive(model, guide=vae.guide, num_samples=500, parallel=True)(x)
    mean = posterior["z"].mean(0).reshape(6, 2)
    torch.testing.assert_close(mean, vae.encode(x).mean, atol=0.25, rtol=0)


def test_importance(make_vae, x):
    vae = make_vae()
    estimate = Importance(vae.model, vae.guide, num_samples=1000).run(x[:1]).get_log_normalizer()
    ours = pv.evaluate.log_likelihood(vae, x[:1], num_samples=100_000).log_likelihood
    assert estimate.item() == pytest.approx(ours, abs=0.3)


@pytest.mark.slow
def test_nuts_samples_the_posterior(double):
    """A linear VAE, whose posterior is known."""
    vae = pv.VAE(
        (3,), 1, likelihood=pv.likelihoods.Normal(scale=0.5), encoder=pv.nets.mlp(), decoder=pv.nets.mlp()
    )
    x = torch.tensor([[1.0, -1.0, 0.5]])
    w = vae.p_x.net.layers[0].weight.detach()
    variance = 1 / (1 + w.square().sum() / 0.25)
    mean = variance * (w[:, 0] * x[0]).sum() / 0.25
    mcmc = MCMC(NUTS(vae.model, jit_compile=False), 600, 200, disable_progbar=True)
    mcmc.run(x)
    z = mcmc.get_samples()["z"]
    assert z.shape == (600, 1, 1)
    assert z.mean().item() == pytest.approx(mean.item(), abs=4 * (variance / 200).sqrt().item())
    assert z.std().item() == pytest.approx(variance.sqrt().item(), rel=0.2)


def test_render_model(make_vae, x):
    graph = pyro.render_model(make_vae().model, model_args=(x,), render_distributions=True)
    assert "z -> x" in graph.source
    assert "x ~ Bernoulli" in graph.source


def test_autoguide(make_vae, x):
    vae = make_vae()
    guide = AutoNormal(vae.model)
    svi = SVI(vae.model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    losses = [svi.step(x) for _ in range(100)]
    assert sum(losses[-10:]) < sum(losses[:10])
    assert guide.median(x)["z"].shape == (6, 2)


def test_condition(make_vae, x):
    vae = make_vae()
    z = torch.randn(6, 2)
    trace = pyro.poutine.trace(pyro.condition(vae.model, data={"z": z})).get_trace(x)
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["z"]["log_prob"], vae.prior().log_prob(z))
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], vae.decode(z).log_prob(x))


def test_vectorized_particles_agree_with_the_distributions(make_vae, x):
    vae = make_vae()
    loss = TraceMeanField_ELBO(num_particles=400, vectorize_particles=True)
    theirs = loss.loss(vae.model, vae.guide, x) / len(x)
    ours = pv.evaluate.elbo(vae, x, num_samples=400)
    assert theirs == pytest.approx(-ours.elbo, abs=0.3)
    assert ours.kl == pytest.approx(kl_divergence(vae.encode(x), vae.prior()).mean().item())


class TestTwoVAEs:
    """Two VAEs in one process do not touch each other, whatever the parameter store holds."""

    def test_training_one_leaves_the_other(self, make_vae, x):
        one, other = make_vae(), make_vae()
        before = copy.deepcopy(other.state_dict())
        svi = SVI(one.model, one.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
        for _ in range(3):
            svi.step(x)
        for name, value in other.state_dict().items():
            assert torch.equal(value, before[name])

    def test_store_is_ignored(self, make_vae, x):
        vae = make_vae()
        expected = vae.decode(torch.zeros(1, 2)).base_dist.logits.clone()
        names = pyro.poutine.trace(vae.model).get_trace(x).param_nodes
        for name in [*names, *dict(vae.named_parameters())]:
            pyro.param(name, torch.full((3,), 7.0))
        vae.model(x)
        vae.guide(x)
        with pyro.poutine.trace(param_only=True) as capture:
            Trace_ELBO().loss(vae.model, vae.guide, x)
        captured = {id(site["value"].unconstrained()) for site in capture.trace.nodes.values()}
        assert captured == {id(p) for p in vae.parameters()}
        torch.testing.assert_close(vae.decode(torch.zeros(1, 2)).base_dist.logits, expected)

    def test_parts_are_copied(self, x):
        prior, likelihood = pv.priors.Normal(), pv.likelihoods.Normal(scale="shared")
        one = pv.VAE((1, 8, 8), prior=prior, likelihood=likelihood)
        other = pv.VAE((1, 8, 8), prior=prior, likelihood=likelihood)
        assert not {id(p) for p in one.parameters()} & {id(p) for p in other.parameters()}
        assert not list(likelihood.parameters())

    def test_both_in_one_program(self, make_vae, x):
        one, other = make_vae(), make_vae()

        def program(part):
            def run(x):
                with scope(prefix="one"):
                    getattr(one, part)(x)
                with scope(prefix="other"):
                    getattr(other, part)(x)

            return run

        svi = SVI(program("model"), program("guide"), pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
        svi.step(x)
        assert len(svi.optim.optim_objs) == 2 * len(list(one.parameters()))


def test_wrong_shape_is_named(make_vae):
    with pytest.raises(ValueError, match=r"\[B, 1, 8, 8\].*x\[None\]"):
        make_vae().model(torch.zeros(1, 8, 8))


@pytest.mark.parametrize("shape", [(), (0,), (1, 0, 3)])
def test_empty_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="at least one pixel"):
        pv.VAE(shape)


def test_pickles_after_use(make_vae, x):
    import pickle

    vae = make_vae()
    vae.model(x)
    SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(x)
    twin = pickle.loads(pickle.dumps(vae))
    assert all(torch.equal(a, b) for a, b in zip(vae.parameters(), twin.parameters(), strict=True))


def test_deepcopy_is_independent(make_vae, x):
    vae = make_vae()
    vae.model(x)
    twin = copy.deepcopy(vae)
    SVI(twin.model, twin.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(x)
    for a, b in zip(vae.parameters(), twin.parameters(), strict=True):
        assert not torch.equal(a, b)


def test_prior_swap_is_one_line(make_vae, x):
    vae = make_vae(prior=dist.Laplace(0.0, 1.0))
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    assert svi.step(x) > 0


@pytest.mark.slow
def test_pyros_own_tests_are_compared(monkeypatch, capsys, tmp_path):
    """By benchmarks/pyro_world.py: here a file of three tests stands for Pyro's."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "benchmarks")
    world = importlib.import_module("pyro_world")
    (tmp_path / "test_own.py").write_text(
        """
import pyro, pyro.distributions as dist, torch
from pyro.infer import SVI, Trace_ELBO

def learn(shift):
    def model():
        loc = pyro.param("loc", lambda: torch.zeros(()))
        pyro.sample("x", dist.Normal(loc + shift(loc), 1.0), obs=torch.ones(()))
    svi = SVI(model, lambda: None, pyro.optim.SGD({"lr": 0.1}), Trace_ELBO())
    for _ in range(4):
        svi.step()
    return type(svi).__mro__[1].__module__

def test_same():
    learn(lambda loc: 0.0)

def test_eager():
    learn(lambda loc: loc.item())

def test_by_name():
    assert learn(lambda loc: 0.0) == "pyro.infer.svi"

def test_without():
    pass
"""
    )
    options = ["--pyro", str(tmp_path), "--only", "test_own.py", "--record"]
    monkeypatch.setattr("sys.argv", ["pyro_world.py", "tests", *options])
    for _ in range(2):  # of which the second goes on where there is nothing left
        world.main()
        out = capsys.readouterr().out
        (row,) = [line for line in out.splitlines() if line.startswith("| test_own.py")]
        assert row.split(" | ")[1:12] == ["4", "3", "3", "2", "0", "1", "1", "1", "0", "6", "6"]
        assert "| 3 | the first step |" in out
        assert re.search(r"\| 3 \| .*reads the values of a tensor", out)
        assert "test_by_name`: passed with Pyro's, failed with ours: AssertionError" in out
