"""Steps for each datum: towards log p(x) where it is known, and a guide as any other for every tool."""

import copy
import pickle

import pyro.distributions as dist
import pytest
import torch
from cases import COLUMNS, EVENT_SHAPE, GIVEN, LATENT_WEIGHTS, LEVELS, SMALL, D, batch_of
from models.linear import system
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO

import pyro_vae as pv
from pyro_vae import registry
from pyro_vae.objectives import log_weights
from pyro_vae.running import as_emitted
from pyro_vae.svi import CompilationWarning

GUIDE = {"guide": pv.guides.SemiAmortised(steps=3)}
MADE = {
    "VAE": lambda: pv.VAE(EVENT_SHAPE, D, **SMALL, **GUIDE),
    "VAE-VampPrior": lambda: pv.VAE(EVENT_SHAPE, D, prior=pv.priors.VampPrior(6), **SMALL, **GUIDE),
    "VAE-table": lambda: pv.VAE(COLUMNS, D, likelihood="auto", **SMALL, **GUIDE),
    "VAE-bayesian": lambda: pv.VAE(EVENT_SHAPE, D, **LATENT_WEIGHTS, **GUIDE),
    "ConditionalVAE": lambda: pv.ConditionalVAE(EVENT_SHAPE, given=GIVEN, latent_dim=D, **SMALL, **GUIDE),
    "CountVAE": lambda: pv.CountVAE((4,), given=GIVEN, latent_dim=D, **SMALL, **GUIDE),
    "HierarchicalVAE-bottom-up": lambda: pv.HierarchicalVAE(EVENT_SHAPE, (4, D), **LEVELS, **GUIDE),
    "SemiSupervisedVAE": lambda: pv.SemiSupervisedVAE(
        EVENT_SHAPE, num_classes=3, latent_dim=D, classifier=pv.nets.mlp(8), **SMALL, **GUIDE
    ),
}


@pytest.fixture(params=MADE)
def name(request):
    return request.param


def make(name):
    torch.manual_seed(2)
    return MADE[name]()


def linear(steps, lr, **how):
    """The VAE whose log p(x) is known, its guide taking steps."""
    s = system("VAE", **how)
    family = pv.guides.SemiAmortised(pv.guides.Normal(), steps, lr)
    family.guide = s.program.q_z.family
    s.program.q_z.family = family
    return s


def rise(program, batch, number):
    """What the steps add to the mean ELBO, and its standard error by draws."""
    with program.evaluating():
        after = log_weights(program, batch, number).mean(1)
        with as_emitted():
            before = log_weights(program, batch, number).mean(1)
    return (after.mean() - before.mean()).item(), ((after.var() + before.var()) / number).sqrt().item()


@pytest.mark.usefixtures("double")
def test_many_steps_lead_to_the_posterior():
    """From an encoder that is off: the ELBO of the exact family rises to log p(x), and not above."""
    s = linear(150, 0.04)
    assert s.gap.min() > 0.02
    bound = pv.evaluate.elbo(s.program, s.batch, num_samples=160)
    assert bound.elbo == pytest.approx(s.log_p.mean().item(), abs=4 * bound.draws_error + 0.01)
    with s.program.evaluating(), as_emitted():
        assert s.log_p.mean() - log_weights(s.program, s.batch, 500).mean() > 0.5 * s.gap.mean()


@pytest.mark.usefixtures("double")
def test_a_guide_that_is_the_posterior_is_hardly_moved():
    s = linear(5, 0.1, exact=True, number=60)
    gain, error = rise(s.program, s.batch, 400)
    assert gain > -0.05 - 4 * error


def test_a_few_steps_raise_the_bound_on_other_data(name):
    program = make(name)
    batch = batch_of(program, 30)
    if name == "SemiSupervisedVAE":
        batch["y"] = torch.where(torch.arange(30) % 2 == 0, torch.nan, batch["y"].float())
    with torch.no_grad():
        for c in program.semi_amortised:  # an encoder that is off
            for p in list(c.net.parameters())[-2:]:
                p.add_(0.4 * torch.randn_like(p))
    gain, error = rise(program, batch, 60)
    assert gain > 4 * error


def test_it_is_a_function_of_the_batch(name):
    """Whatever handlers it is run in; and draws are what they are without steps."""
    program = make(name)
    batch = batch_of(program, 5)
    state = torch.get_rng_state()
    one = poutine.trace(program.guide).get_trace(batch)
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    with as_emitted():
        plain = poutine.trace(program.guide).get_trace(batch)
    assert torch.equal(torch.get_rng_state(), after)
    assert not torch.equal(one.nodes[_z(one)]["value"], plain.nodes[_z(one)]["value"])
    again = poutine.trace(poutine.replay(program.guide, trace=one)).get_trace(batch)
    for trace in (one, again):
        trace.compute_log_prob()
    for site in one.stochastic_nodes:
        if "log_prob" in one.nodes[site] and (site != "x_weights"):
            assert torch.equal(one.nodes[site]["log_prob"], again.nodes[site]["log_prob"])


def _z(trace):
    return next(site for site in ("z", "z1") if site in trace.nodes)


def test_particles_and_enumeration(name):
    program = make(name)
    batch = batch_of(program, 4)
    if name == "VAE-bayesian":
        return  # whose weights lie outside of the plate
    enumerates = name == "SemiSupervisedVAE"
    number = 200 if enumerates else 3
    kind = TraceEnum_ELBO if enumerates else Trace_ELBO
    loss = kind(number, vectorize_particles=True, max_plate_nesting=1)
    if enumerates:
        batch["y"] = torch.full((4,), torch.nan)
        program.eval()  # without the classifier's loss
        found = -loss.loss(program.model, program.guide, batch) / 4
        bound = pv.evaluate.elbo(program, batch, num_samples=200)
        assert abs(found - bound.elbo) < 8 * bound.draws_error
        return
    torch.manual_seed(0)
    theirs = loss.loss(program.model, program.guide, batch)
    torch.manual_seed(0)
    assert theirs == pytest.approx(-log_weights(program, batch, 3).sum(-1).mean().item(), rel=1e-4)


def test_every_parameter_receives_a_gradient(name):
    program = make(name)
    batch = batch_of(program, 8)
    if name == "SemiSupervisedVAE":
        batch["y"] = torch.where(torch.arange(8) < 4, torch.nan, batch["y"].float())
    loss = program.objective()
    loss.loss_and_grads(program.model, program.guide, batch)
    for parameter_name, parameter in program.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


def test_evaluation(name):
    program = make(name)
    batch = batch_of(program, 6)
    before = copy.deepcopy(program.state_dict())
    bound = pv.evaluate.elbo(program, batch)
    assert bound == pv.evaluate.elbo(program, batch)
    estimate = pv.evaluate.log_likelihood(program, batch, num_samples=20)
    assert estimate.log_likelihood > bound.elbo - 4 * bound.draws_error
    assert pv.predict(program, {n: v[:1] for n, v in batch.items()}, 3, num_particles=50)["x"].shape[:2] == (
        3,
        1,
    )
    assert "moved for each datum by 3 steps of Adam" in program.explain()
    assert all(torch.equal(value, before[key]) for key, value in program.state_dict().items())
    assert all(p.grad is None for p in program.parameters())
    for twin in (copy.deepcopy(program), pickle.loads(pickle.dumps(program))):
        assert pv.evaluate.elbo(twin, batch) == bound


@pytest.mark.usefixtures("double")
def test_the_gradient_is_of_first_order():
    """Of the encoder: as if it emitted where the steps lead, what they add being a constant."""
    vae = make("VAE").double()
    x = batch_of(vae, 6)["x"].double()
    eps = torch.randn(6, D)
    with vae.refining({"x": x}):
        r = vae.q_z.emit(x)
        own = dist.Normal(0.0, 1.0).expand([6, D]).to_event(1)

        def elbo(raw):
            q = vae.q_z.distribution(raw)
            z = q.base_dist.loc + q.base_dist.scale * eps
            return (vae.decode(z).log_prob(x) + own.log_prob(z) - q.log_prob(z)).sum()

        parameters = list(vae.q_z.parameters())
        found = torch.autograd.grad(elbo(r), parameters)
    raw = r.detach().requires_grad_()
    (slope,) = torch.autograd.grad(elbo(raw), raw)
    emitted = vae.q_z.emit(x)
    assert not torch.allclose(emitted, r)
    expected = torch.autograd.grad((emitted * slope).sum(), parameters)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


class TestVAE:
    def test_encode_is_what_the_guide_draws_from(self):
        vae = make("VAE")
        x = batch_of(vae, 6)["x"]
        x[0, 0, 0] = torch.nan
        q = poutine.trace(vae.guide).get_trace(x).nodes["z"]["fn"]
        torch.testing.assert_close(vae.encode(x).mean, q.mean)
        torch.testing.assert_close(vae.encode(x.reshape(2, 3, *EVENT_SHAPE)).mean.reshape(6, D), q.mean)
        assert vae.encode(x[1]).batch_shape == ()
        with as_emitted():
            assert not torch.allclose(vae.encode(x).mean, q.mean)

    def test_others_than_normals(self):
        for guide in (pv.guides.FullRankNormal(), pv.guides.MixtureOfNormals(2), pv.guides.Gamma()):
            prior = dist.Gamma(2.0, 1.0) if "Gamma" in repr(guide) else pv.priors.Normal()
            own = pv.guides.SemiAmortised(guide, steps=2)
            vae = pv.VAE(EVENT_SHAPE, D, prior=prior, guide=own, **SMALL)
            gain, error = rise(vae, batch_of(vae, 20), 60)
            assert gain > -4 * error
            text = registry.write(own)
            assert registry.write(registry.read("guide", text)) == text

    @pytest.mark.parametrize("guide", [dist.Laplace, pv.guides.Laplace, pv.guides.Laplace()])
    def test_distribution_classes_are_guides_here_as_well(self, guide):
        own = pv.guides.SemiAmortised(guide, steps=2)
        vae = pv.VAE(EVENT_SHAPE, D, guide=own, **SMALL)
        assert isinstance(vae.encode(batch_of(vae, 4)["x"]).base_dist, dist.Laplace)
        text = registry.write(own)
        assert registry.write(registry.read("guide", text)) == text

    def test_steps_are_eager_and_say_so(self):
        vae = make("VAE")
        x = batch_of(vae, 8)["x"]
        svi = pv.svi.SVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters()), Trace_ELBO(), compile=True)
        svi.step(x)
        with pytest.warns(CompilationWarning, match="a SemiAmortised guide takes steps"):
            svi.step(x)
        svi.step(x)
        assert svi.engine == "eager, float32"

    def test_fit(self, tmp_path, recwarn):
        vae = make("VAE")
        data = pv.data.load(batch_of(vae, 40)["x"], validation=0.2, test=0.2)
        pv.fit(vae, data, folder=tmp_path / "run", epochs=2, batch_size=8, compile=True, progress=False)
        assert not [w for w in recwarn if issubclass(w.category, CompilationWarning)]
        assert "steps are eager: a SemiAmortised guide" in (tmp_path / "run" / "log.txt").read_text()
        loaded = pv.load(tmp_path / "run")
        assert pv.evaluate.elbo(loaded, data.test) == pv.evaluate.elbo(vae, data.test)
        gap = pv.evaluate.inference_gap(vae, data.test, num_steps=40, num_samples=100)
        assert gap.elbo == pytest.approx(pv.evaluate.elbo(vae, data.test, num_samples=100).elbo, abs=0.5)

    def test_what_does_not_go(self):
        for guide in (pv.guides.Discrete(), pv.guides.SemiAmortised(), "Normal"):
            with pytest.raises(ValueError, match="takes no steps of its own; give a family of continuous"):
                pv.guides.SemiAmortised(guide)
        with pytest.raises(ValueError, match="steps=0"):
            pv.guides.SemiAmortised(steps=0)
