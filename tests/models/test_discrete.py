"""Discrete latents: what is enumerated is an explicit sum, and what is drawn estimates it."""

import copy
import itertools
import pickle
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import DISCRETE, SMALL, batch_of, make
from pyro.infer import Trace_ELBO, TraceEnum_ELBO

import pyro_vae as pv
from pyro_vae import registry
from pyro_vae.distributions import Discrete
from pyro_vae.objectives import log_weights, scale_latents

EXACT = {"rtol": 1e-9, "atol": 1e-9}
PARTS = {
    "bits": (3, pv.priors.Bernoulli(learned=True)),
    "choice": (4, pv.priors.OneHotCategorical(4)),
    "two-choices": (6, pv.priors.OneHotCategorical(3, learned=True)),
    "pyros-bits": (3, dist.Bernoulli(0.3)),
    "pyros-choice": (3, dist.OneHotCategorical(torch.tensor([0.2, 0.3, 0.5]))),
}
VALUES = {
    "bits": list(itertools.product((0.0, 1.0), repeat=3)),
    "choice": torch.eye(4).tolist(),
    "two-choices": [[*a, *b] for a in torch.eye(3).tolist() for b in torch.eye(3).tolist()],
}
VALUES |= {"pyros-bits": VALUES["bits"], "pyros-choice": torch.eye(3).tolist()}


def build(kind, **options):
    torch.manual_seed(0)
    number, prior = PARTS[kind]
    vae = pv.VAE((5,), number, prior=prior, likelihood=pv.likelihoods.Normal(), **(SMALL | options))
    with torch.no_grad():
        for p in vae.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return vae.to(torch.get_default_dtype()), torch.randn(6, 5)


def by_hand(vae, x, values):
    """log p(x, z) and log q(z|x) of each value z, ``[B, S]``."""
    z = torch.tensor(values)
    log_p = torch.stack([vae.decode(one.expand(len(x), -1)).log_prob(x) for one in z], 1)
    prior = torch.stack([vae.prior().log_prob(one) for one in z])
    logits = vae.q_z.emit(x)
    if "log_probs" in dir(vae.encode(x)) and vae.encode(x).num_classes is None:
        each = z * logits[:, None] - torch.nn.functional.softplus(logits)[:, None]
        return log_p + prior, each.sum(-1)
    k = vae.encode(x).num_classes
    log_q = logits.unflatten(-1, (-1, k)).log_softmax(-1).flatten(-2)
    return log_p + prior, (z * log_q[:, None]).sum(-1)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", PARTS)
def test_what_is_enumerated_is_the_sum(kind):
    vae, x = build(kind)
    log_p, log_q = by_hand(vae, x, VALUES[kind])
    torch.testing.assert_close(log_q.logsumexp(1), torch.zeros(6), **EXACT)
    elbo = (log_q.exp() * (log_p - log_q)).sum(1)
    assert isinstance(vae.objective(), TraceEnum_ELBO)
    loss = TraceEnum_ELBO(max_plate_nesting=1)
    assert loss.loss(vae.model, vae.guide, x) == pytest.approx(-elbo.sum().item(), rel=1e-9)
    loss.loss_and_grads(vae.model, vae.guide, x)
    ours = torch.cat([p.grad.flatten() for p in vae.parameters()])
    gradient = torch.autograd.grad(-elbo.sum(), list(vae.parameters()))
    torch.testing.assert_close(ours, torch.cat([g.flatten() for g in gradient]), **EXACT)
    found = pv.evaluate.elbo(vae, x, num_samples=2)
    assert found.elbo == pytest.approx(elbo.mean().item(), rel=1e-9)
    assert found.draws_error == pytest.approx(0.0, abs=1e-9)
    kl = log_q.exp() * (log_q - torch.stack([vae.prior().log_prob(z) for z in torch.tensor(VALUES[kind])]))
    assert found.kl == pytest.approx(kl.sum(1).mean().item(), rel=1e-9)
    torch.testing.assert_close(log_weights(vae, x, 2), log_p.logsumexp(1).expand(2, -1), **EXACT)
    known = pv.evaluate.log_likelihood(vae, x, num_samples=1)
    torch.testing.assert_close(known.per_datum, log_p.logsumexp(1).detach(), **EXACT)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", ["bits", "two-choices"])
def test_gradients_of_draws_against_the_sum(kind):
    """Of the guide's logits, over 20,000 draws: the score function is not biased, relaxed draws may be.

    The relaxed gradient's bias is below half of the gradient's norm, and its standard deviation below two
    thirds of the score function's.
    """
    number = 20_000
    found = {}
    for gradients in ("enumerate", "score", "relaxed"):
        vae, x = build(kind, guide=pv.guides.Discrete(gradients))
        x = x[:1].expand(number, -1) if gradients != "enumerate" else x[:1]
        raw = vae.q_z.emit(x).detach().requires_grad_()
        q = vae.q_z.distribution(raw)
        if gradients == "enumerate":
            z = q.enumerate_support()[:, 0]
            log_p = vae.decode(z).log_prob(x) + vae.prior().log_prob(z)
            log_q = q.log_prob(z)
            (log_q.exp() * (log_p - log_q)).sum().backward()
        else:
            z = q.rsample() if gradients == "relaxed" else q.sample()
            assert z.requires_grad == (gradients == "relaxed")
            assert set(z.unique().tolist()) <= {0.0, 1.0}
            log_w = vae.decode(z).log_prob(x) + vae.prior().log_prob(z) - q.log_prob(z)
            (log_w if gradients == "relaxed" else log_w.detach() * q.log_prob(z)).sum().backward()
        found[gradients] = raw.grad
    exact = found["enumerate"][0]
    bias = {name: (found[name].mean(0) - exact).norm() / exact.norm() for name in ("score", "relaxed")}
    spread = {name: found[name].var(0).sum().sqrt() for name in ("score", "relaxed")}
    error = spread["score"] / number**0.5 / exact.norm()
    assert bias["score"] < 4 * error
    assert bias["relaxed"] < 0.5
    assert spread["relaxed"] < 0.67 * spread["score"]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", ["bits", "two-choices"])
def test_others_are_a_baseline_without_bias(kind):
    """RLOO's gradients, of all parameters and any weight of the KL, are those of the sum in the mean.

    The guide's have a standard deviation below two thirds of that without a baseline, by as many draws.
    """
    beta, (vae, x) = 0.3, build(kind, guide=pv.guides.Discrete("score"))
    x, parameters = x[:1], list(vae.parameters())
    z = torch.tensor(VALUES[kind])
    log_q = vae.encode(x).log_prob(z)
    elbo = vae.decode(z).log_prob(x) + beta * (vae.prior().log_prob(z) - log_q)
    exact = torch.autograd.grad(-(log_q.exp() * elbo).sum(), parameters)
    exact = torch.cat([g.flatten() for g in exact])
    spread, number = {}, 30
    of_guide = [torch.full((p.numel(),), name.startswith("q_z")) for name, p in vae.named_parameters()]
    of_guide = torch.cat(of_guide)
    for loss in (pv.objectives.RLOO(4), Trace_ELBO(num_particles=4, vectorize_particles=True)):
        loss.max_plate_nesting, found = 2, []
        for _ in range(number):
            vae.zero_grad()
            with scale_latents(beta):
                loss.loss_and_grads(vae.model, vae.guide, x.expand(400, -1))
            found.append(torch.cat([p.grad.flatten() for p in parameters]) / 400)
        grads = torch.stack(found)
        error = (grads.var(0).sum() / number).sqrt()
        assert (grads.mean(0) - exact).norm() < 4 * error
        spread[type(loss)] = grads[:, of_guide].var(0).sum().sqrt()
    least, most = spread.values()
    assert least < 0.67 * most
    assert least / number**0.5 < 0.05 * exact[of_guide].norm()


def test_nothing_is_left_of_noise_where_the_guide_is_the_posterior():
    logits = torch.tensor([0.3, -0.5, 0.1], requires_grad=True)

    def story(own):
        with pyro.plate("data", 5):
            pyro.sample("z", Discrete(own.expand(5, -1), 3))

    loss = pv.objectives.RLOO(4)
    found = loss.loss_and_grads(lambda: story(logits.detach()), lambda: story(logits))
    assert found.item() == pytest.approx(0.0, abs=1e-6)
    assert logits.grad.abs().max() < 1e-6


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("gradients", ["relaxed", "score"])
def test_draws_estimate_the_elbo_without_bias(gradients):
    """By Pyro's Trace_ELBO, and by evaluate, whatever the gradients are."""
    vae, x = build("bits", guide=pv.guides.Discrete(gradients))
    log_p, log_q = by_hand(vae, x, VALUES["bits"])
    elbo = (log_q.exp() * (log_p - log_q)).sum(1)
    loss = vae.objective()
    assert type(loss) is (Trace_ELBO if gradients == "relaxed" else pv.objectives.RLOO)
    found = pv.evaluate.elbo(vae, x, num_samples=5000)
    assert found.elbo == pytest.approx(elbo.mean().item(), abs=4 * found.draws_error)
    many = Trace_ELBO(num_particles=5000, vectorize_particles=True, max_plate_nesting=1)
    assert -many.loss(vae.model, vae.guide, x) / 6 == pytest.approx(found.elbo, abs=10 * found.draws_error)
    with torch.no_grad():
        weights = log_weights(vae, x, 5000).exp()
    error = weights.std(0) / 5000**0.5
    assert ((weights.mean(0) - log_p.logsumexp(1).exp()).abs() < 5 * error + 1e-9).all()


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("num_classes", [None, 3])
def test_distribution(num_classes):
    logits = torch.randn(2, 1, 6)
    q, p = Discrete(logits, num_classes), Discrete(torch.randn(6), num_classes)
    values = q.enumerate_support()
    assert values.shape == ((64 if num_classes is None else 9), 2, 1, 6)
    assert q.enumerate_support(expand=False).shape == (len(values), 1, 1, 6)
    assert q.support.check(values).all()
    assert not q.support.check(torch.full((6,), 0.5)).any()
    log_q = q.log_prob(values)
    if num_classes is None:
        theirs = dist.Bernoulli(logits=logits).to_event(1).log_prob(values)
    else:
        grouped = dist.OneHotCategorical(logits=logits.unflatten(-1, (2, 3))).to_event(1)
        theirs = grouped.log_prob(values.unflatten(-1, (2, 3)))
    torch.testing.assert_close(log_q, theirs, **EXACT)
    torch.testing.assert_close(log_q.logsumexp(0), torch.zeros(2, 1), **EXACT)
    weights = log_q.exp()[..., None]
    torch.testing.assert_close((weights * values).sum(0), q.mean, **EXACT)
    torch.testing.assert_close((weights * (values - q.mean).square()).sum(0), q.variance, **EXACT)
    kl = (log_q.exp() * (log_q - p.log_prob(values))).sum(0)
    torch.testing.assert_close(torch.distributions.kl_divergence(q, p), kl, **EXACT)
    for warm in (None, 0.5):
        drawn = Discrete(logits, num_classes, warm).expand((4, 2, 1)).sample((5000,))
        assert drawn.shape == (5000, 4, 2, 1, 6)
        torch.testing.assert_close(drawn.mean((0, 1)), q.mean, rtol=0.0, atol=0.02)
    with pytest.raises(NotImplementedError):
        torch.distributions.kl_divergence(q, Discrete(logits, 2))


class Mixture(pv.Program):
    """A choice and, given it, a Normal: x ~ N(z, 1) with z ~ N(m_c, 1)."""

    def __init__(self):
        super().__init__()
        self.event_shapes = {"x": (1,)}
        self.loc = torch.nn.Parameter(torch.tensor([-2.0, 0.5, 3.0]))
        self.logits = torch.nn.Linear(1, 3)

    def model(self, batch):
        with self.plate(batch):
            c = self.sample("c", Discrete(torch.zeros(3).to(self.loc), 3))
            z = pyro.sample("z", dist.Normal(c @ self.loc[:, None], 1.0).to_event(1))
            self.sample("x", dist.Normal(z, 1.0).to_event(1), batch)

    def guide(self, batch):
        x = batch["x"]
        with self.plate(batch):
            c = self.sample("c", Discrete(self.logits(x), 3, enumerates=True))
            pyro.sample("z", dist.Normal((c @ self.loc[:, None] + x) / 2, 0.5**0.5).to_event(1))


@pytest.mark.usefixtures("double")
def test_beside_a_continuous_latent():
    """q(z|x, c) is the posterior, so that the sum over c is exact for any draw of z."""
    program, x = Mixture(), torch.randn(5, 1)
    log_p = dist.Normal(program.loc, 2**0.5).log_prob(x) - torch.tensor(3.0).log()
    log_q = program.logits(x).log_softmax(1)
    torch.testing.assert_close(log_weights(program, x, 3), log_p.logsumexp(1).expand(3, -1), **EXACT)
    elbo = (log_q.exp() * (log_p - log_q)).sum(1)
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(program.model, program.guide, x)
    assert loss == pytest.approx(-elbo.sum().item(), rel=1e-9)
    terms = pv.evaluate.elbo(program, x, num_samples=4000)
    assert terms.elbo == pytest.approx(elbo.mean().item(), abs=5 * terms.draws_error)
    kl = dist.Normal((program.loc + x) / 2, 0.5**0.5)  # of z to its prior, given each choice
    kl = (log_q.exp() * torch.distributions.kl_divergence(kl, dist.Normal(program.loc, 1.0))).sum(1)
    assert terms.terms["kl_z"] == pytest.approx(kl.mean().item(), rel=1e-9)
    data = pv.data.load(x, validation=0.0, test=0.0)
    run = pv.fit(program, data, epochs=1, lr=1e-12, progress=False, loss=TraceEnum_ELBO())
    assert run.history[-1]["kl_z"] == pytest.approx(kl.mean().item(), rel=1e-6)


CONDITIONED = {
    "bits": (3, pv.priors.Bernoulli(learned=True)),
    "two-choices": (6, pv.priors.OneHotCategorical(3, learned=True)),
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", CONDITIONED)
@pytest.mark.parametrize("conditional", [False, True])
def test_given_a_label(kind, conditional):
    """log p(x|y) is the sum over z, and a prior that is conditional is of the family that was given."""
    torch.manual_seed(0)
    number, prior = CONDITIONED[kind]
    parts = {"prior": prior, "conditional_prior": conditional, "likelihood": pv.likelihoods.Normal()}
    cvae = pv.ConditionalVAE((5,), given={"y": 3}, latent_dim=number, **parts, **SMALL).double()
    x, y = torch.randn(6, 5), torch.tensor([0, 1, 2, 0, 1, 2])
    of_y = [y] * conditional
    log_p = torch.stack(
        [
            cvae.decode(z.expand(6, -1), y).log_prob(x) + cvae.p_z(*of_y).log_prob(z)
            for z in torch.tensor(VALUES[kind])
        ],
        1,
    )
    found = pv.evaluate.log_likelihood(cvae, {"x": x, "y": y}, num_samples=1)
    torch.testing.assert_close(found.per_datum, log_p.logsumexp(1).detach(), **EXACT)
    values = cvae.generate(60, given={"y": 1})["z"]
    assert cvae.p_z.support.check(values).all()
    again = type(cvae)(**cvae.options)
    again.load_state_dict(cvae.state_dict())
    assert again.explain() == cvae.explain()
    if conditional:
        cvae.p_z(y).log_prob(torch.tensor(VALUES[kind])[:1]).sum().backward()
        assert all(p.grad.abs().sum() > 0 for p in cvae.p_z.parameters())


@pytest.mark.parametrize(
    "prior", [pv.priors.Bernoulli(), dist.Laplace(0.0, 1.0), pv.priors.Codes(4, 2)], ids=repr
)
def test_a_prior_that_cannot_be_conditional_is_refused(prior):
    told = "has no parameters that could come from what is given; leave it out for a Normal, or take"
    with pytest.raises(ValueError, match=told):
        pv.ConditionalVAE((5,), latent_dim=4, prior=prior, conditional_prior=True, **SMALL)


class TestChoice:
    def test_by_number_of_values(self):
        few, _ = build("bits")
        assert few.q_z.family.how == "enumerate"
        assert "8 joint values, over which" in few.explain()
        assert "summed over all values" in few.explain()
        many = pv.VAE((5,), 30, prior=pv.priors.Bernoulli(), **SMALL)
        assert (many.q_z.family.how, type(many.objective())) == ("relaxed", Trace_ELBO)
        assert "about 10^9 joint values, too many" in many.explain()
        choices = pv.VAE((5,), 20, prior=pv.priors.OneHotCategorical(10), **SMALL)
        assert choices.q_z.family.states == 100
        assert choices.q_z.family.how == "enumerate"

    def test_overridden_in_a_word(self):
        relaxed, _ = build("bits", guide=pv.guides.Discrete("relaxed"))
        assert relaxed.encode(torch.zeros(1, 5)).has_rsample
        assert "relaxed at temperature 0.5" in relaxed.explain()
        score, _ = build("bits", guide=pv.guides.Discrete("score"))
        assert "by the score function" in score.explain()
        long = pv.VAE((5,), 10, prior=pv.priors.Bernoulli(), guide=pv.guides.Discrete("enumerate"), **SMALL)
        assert long.q_z.family.enumerates

    def test_what_will_not_do_is_refused(self):
        def make_(number, prior, **options):
            return pv.VAE((5,), number, prior=prior, **(SMALL | options))

        with pytest.raises(ValueError, match="take latent_dim=4, or 8"):
            make_(5, pv.priors.OneHotCategorical(4))
        with pytest.raises(ValueError, match=r"about 10.9 joint values is more than the 65,536"):
            make_(30, pv.priors.Bernoulli(), guide=pv.guides.Discrete("enumerate"))
        with pytest.raises(ValueError, match="of discrete latents, and the prior is over the reals"):
            make_(3, pv.priors.Normal(), guide=pv.guides.Discrete())
        with pytest.raises(ValueError, match="cannot follow a prior over"):
            make_(3, pv.priors.Bernoulli(), guide=pv.guides.FullRankNormal())
        with pytest.raises(pv.checks.ConfigError, match="gradients='best'"):
            pv.guides.Discrete("best")

    def test_texts(self):
        for kind, text in (
            ("prior", "OneHotCategorical(num_classes=4, learned=True)"),
            ("prior", "Bernoulli(learned=False)"),
            ("guide", "Discrete(gradients='relaxed', temperature=0.3)"),
        ):
            assert registry.write(registry.read(kind, text)) == text


@pytest.mark.parametrize("gradients", ["enumerate", "relaxed", "score"])
def test_fit(gradients, digits):
    """It learns, and reports what evaluate finds."""
    torch.manual_seed(0)
    vae = pv.VAE((1, 8, 8), 6, prior=pv.priors.Bernoulli(), guide=pv.guides.Discrete(gradients), **SMALL)
    run = pv.fit(vae, digits, epochs=3, lr=1e-2, progress=False)
    assert run.history[-1]["elbo"] > run.history[0]["elbo"]
    found = pv.evaluate.elbo(vae, digits.train, num_samples=4)
    assert found.elbo == pytest.approx(run.history[-1]["elbo"], abs=3.0)


def test_compiled_steps_are_those_of_eager_ones():
    found = []
    for compiled in (True, False):
        vae, x = build("bits")
        data = pv.data.load(x.repeat(8, 1), validation=0.0, test=0.0)
        pv.fit(vae, data, epochs=4, batch_size=48, compile=compiled, progress=False)
        found.append(torch.cat([p.detach().flatten() for p in vae.parameters()]))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("double")
def test_loss_of_ones_own_is_taken_or_refused_in_a_sentence():
    vae, x = build("bits")
    data = pv.data.load(x, validation=0.0, test=0.0)
    with pytest.raises(NotImplementedError, match=r"IWAE takes gradients through the draws"):
        pv.fit(vae, data, epochs=1, progress=False, loss=pv.objectives.IWAE(2))
    with pytest.warns(UserWarning, match="you need to use TraceEnum_ELBO instead"):  # Pyro's
        pv.fit(vae, data, epochs=1, progress=False, loss=Trace_ELBO())


# --- what every program promises, of those with discrete latents


@pytest.fixture(params=DISCRETE)
def name(request):
    return request.param


UNTRAINED = pytest.mark.filterwarnings("ignore::pyro_vae.program.UntrainedWarning")


@UNTRAINED
@pytest.mark.filterwarnings("ignore:no training datum has the label")
def test_missing_values_anywhere(name):
    program = make(name)
    batch = batch_of(program, 8)
    batch["x"] = torch.where(torch.rand_like(batch["x"]) < 0.3, torch.nan, batch["x"])
    batch["y"] = torch.where(torch.rand(8) < 0.5, torch.nan, batch["y"].float())
    for see in (False, True):
        if see:
            program.initialize(pv.data.Split(batch))
        log_w = log_weights(program, batch, 3)
        assert log_w.shape == (3, 8)
        assert log_w.isfinite().all()
        log_w.sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in program.parameters())


def test_training_reaches_every_parameter(name):
    program = make(name)
    batch = batch_of(program, 8) | {"y": torch.tensor([0, torch.nan, 2, torch.nan, 1, 1, 0, torch.nan])}
    TraceEnum_ELBO(max_plate_nesting=1).loss_and_grads(program.model, program.guide, batch)
    before = {parameter for each in program.before.values() for parameter in each.parameters()}
    for parameter_name, parameter in program.named_parameters():
        if parameter in before:
            assert parameter.grad is None, parameter_name  # it was trained by itself
            continue
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@UNTRAINED
def test_state_copies_and_files(name, tmp_path):
    program, other = make(name), make(name, seed=9)
    batch = batch_of(program, 8)
    program.initialize(pv.data.Split(batch))
    other.load_state_dict(program.state_dict())
    data = pv.data.load(batch, validation=0.0, test=0.0)
    trained = make(name)
    pv.fit(trained, data, epochs=1, progress=False, folder=tmp_path / "run")
    pairs = [(program, twin) for twin in (other, copy.deepcopy(program), pickle.loads(pickle.dumps(program)))]
    for one, twin in [*pairs, (trained, pv.load(tmp_path / "run"))]:
        torch.manual_seed(0)
        weights = log_weights(one.eval(), batch, 2)
        torch.manual_seed(0)
        assert torch.equal(weights, log_weights(twin.eval(), batch, 2))
    assert "TraceEnum_ELBO" in (tmp_path / "run" / "config.yaml").read_text()


def test_evaluation_changes_nothing(name):
    program = make(name).train()
    batch = batch_of(program, 12)
    before, state = copy.deepcopy(program.state_dict()), torch.get_rng_state()
    bound = pv.evaluate.elbo(program, batch)
    estimate = pv.evaluate.log_likelihood(program, batch, num_samples=50)
    assert estimate.log_likelihood > bound.elbo - 3 * bound.draws_error
    assert bound == pv.evaluate.elbo(program, batch)
    pv.evaluate.active_units(program, batch)
    program.generate(3)
    for key, value in program.state_dict().items():
        assert torch.equal(value, before[key]), key
    trained_before = {module for each in program.before.values() for module in each.modules()}
    assert all(module.training for module in {*program.modules()} - trained_before)
    assert torch.equal(torch.get_rng_state(), state)


def test_explained(name):
    told = make(name).explain()
    assert re.search(r"training adds 10 log q\(y\|x\) of each datum with a label less 10 \(?KL\(", told)
    assert "y_unobserved: summed over all values" in told
    assert "b_unobserved" not in told
    assert make(name).explain("latex")
