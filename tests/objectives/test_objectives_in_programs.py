"""Objectives of every program: exact guides, log weights by another way, plates, scales, Pyro's own."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import PROGRAMS, batch_of, make
from models.linear import EXACT, KINDS, system
from pyro import poutine
from pyro.infer import RenyiELBO, ReweightedWakeSleep, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

import pyro_vae as pv
from pyro_vae.objectives import (
    IWAE,
    MMD,
    AnalyticKL,
    BetaTC,
    Chi,
    DReG,
    FreeBits,
    Renyi,
    StickingTheLanding,
    Thermodynamic,
    WakeSleep,
    log_weights,
    scale_latents,
)
from pyro_vae.objectives.elbo import kl_divergence

pytestmark = pytest.mark.usefixtures("double")
K = 4
OF_WEIGHTS = {
    "IWAE": (IWAE(K), lambda w: -(w.logsumexp(0) - math.log(K))),
    "DReG": (DReG(K), lambda w: -(w.logsumexp(0) - math.log(K))),
    "WakeSleep": (WakeSleep(K), lambda w: -(w.logsumexp(0) - math.log(K))),
    "StickingTheLanding": (StickingTheLanding(K), lambda w: -w.mean(0)),
    "Renyi": (Renyi(0.7, K), lambda w: -((0.3 * w).logsumexp(0) - math.log(K)) / 0.3),
    "Chi": (Chi(3.0, K), lambda w: ((3 * w).logsumexp(0) - math.log(K)) / 3),
    "Thermodynamic": (
        Thermodynamic(K, 2, 0.1),
        lambda w: -(0.1 * w.mean(0) + 0.9 * ((0.1 * w).softmax(0) * w).sum(0)),
    ),
}


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("missing", [False, True], ids=["whole", "missing"])
def test_with_the_posterior_as_guide_each_bound_is_the_evidence(kind, missing):
    s = system(kind, missing, exact=True)
    for objective, _ in OF_WEIGHTS.values():
        sign = 1 if isinstance(objective, Chi) else -1
        found = sign * objective.loss(s.program.model, s.program.guide, s.batch)
        assert found == pytest.approx(s.log_p.sum().item(), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("missing", [False, True], ids=["whole", "missing"])
def test_elbos_of_a_wrong_guide(kind, missing):
    """KLs in closed form only where that is right: the ladder's that goes bottom-up is drawn."""
    s = system(kind, missing)
    exact = (s.gap - s.log_p).sum().item()
    for objective in (AnalyticKL(4000), StickingTheLanding(4000), FreeBits(0.0, num_particles=4000)):
        noise = log_weights(s.program, s.batch, 1000).sum(-1).std().item() / 4000**0.5
        found = objective.loss(s.program.model, s.program.guide, s.batch)
        assert found == pytest.approx(exact, abs=5 * noise + 0.01)


@pytest.mark.parametrize("name", PROGRAMS)
def test_of_the_same_noise_they_are_formulas_of_the_same_weights(name):
    """To rounding, at the first call too: to guess the plates draws nothing."""
    program = make(name)
    batch = batch_of(program, 5)
    if name not in ("ConditionalVAE", "ConditionalVAE-prior"):
        batch["x"] = torch.where(torch.rand(batch["x"].shape) < 0.2, torch.nan, batch["x"])
        program.see_gaps(frozenset(["x"]))
    program.double().eval()
    batch = program.place(batch)
    for objective, formula in OF_WEIGHTS.values():
        torch.manual_seed(3)
        log_w = log_weights(program, batch, K)
        torch.manual_seed(3)
        found = objective.loss_and_grads(program.model, program.guide, batch)
        torch.testing.assert_close(found, formula(log_w).sum().detach())
        objective.max_plate_nesting = math.inf


@pytest.mark.parametrize("kind", ["bottom_up", "top_down", "VAE"])
def test_doubly_reparameterised_over_levels(kind):
    """Where one latent's draw depends on another's, the guide's gradient has the mean of IWAE's."""
    s = system(kind)
    batch = {site: value.repeat(300, *[1] * (value.dim() - 1)) for site, value in s.batch.items()}
    guide = [p for c in (s.program.q_z if kind != "VAE" else [s.program.q_z]) for p in c.parameters()]
    found = {}
    for objective in (IWAE(3), DReG(3)):
        samples = []
        for _ in range(20):
            s.program.zero_grad()
            objective.loss_and_grads(s.program.model, s.program.guide, batch)
            samples.append(torch.cat([p.grad.flatten() for p in guide]) / 1800)
        found[type(objective)] = torch.stack(samples)
    one, other = found.values()
    error = ((one.var(0) + other.var(0)) / 20).sqrt() + 1e-12
    assert ((one.mean(0) - other.mean(0)).abs() < 5 * error).all()
    assert ((other.mean(0) / error).abs() > 20).any()


def line(size=6, plate=lambda x: pyro.plate("data", len(x))):
    """Some plain program with a guide that is off, and its data."""

    def model(x):
        with plate(x) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x[rows])

    def guide(x):
        with plate(x) as rows:
            pyro.sample("z", dist.Normal(0.5 * x[rows] + 0.3, 0.8))

    return model, guide, torch.randn(size)


def seeded(objective, *arguments):
    torch.manual_seed(7)
    return objective.loss(*arguments)


@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_a_plate_that_subsamples_weighs_data(name):
    """N / B of the loss of the subsample, datum by datum; Pyro's RenyiELBO has it within the exponent."""
    objective, chosen = OF_WEIGHTS[name][0], torch.tensor([1, 4])
    model, guide, x = line(plate=lambda x: pyro.plate("data", len(x), subsample=chosen))
    whole = line()[:2]
    found, alone = seeded(objective, model, guide, x), seeded(objective, *whole, x[chosen])
    assert found == pytest.approx(3 * alone)
    theirs = RenyiELBO(0, num_particles=K, vectorize_particles=True, max_plate_nesting=1)
    assert abs(seeded(theirs, model, guide, x) - 3 * seeded(theirs, *whole, x[chosen])) > 0.1


def test_random_subsamples_have_the_mean_of_the_whole():
    model, guide, x = line(plate=lambda x: pyro.plate("data", len(x), subsample_size=2))
    for objective in (DReG(K), AnalyticKL(), StickingTheLanding(), IWAE(K)):
        found = torch.tensor([objective.loss(model, guide, x) for _ in range(200)])
        whole = torch.tensor([objective.loss(*line()[:2], x) for _ in range(100)])
        error = (found.var() / 200 + whole.var() / 100).sqrt()
        assert (found.mean() - whole.mean()).abs() < 4 * error


@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_a_scale_of_all_sites_weighs_data(name):
    model, guide, x = line()
    scaled = [poutine.scale(program, scale=0.01) for program in (model, guide)]
    objective = OF_WEIGHTS[name][0]
    assert seeded(objective, *scaled, x) == pytest.approx(0.01 * seeded(objective, model, guide, x))


@pytest.mark.parametrize("objective", [AnalyticKL(2), StickingTheLanding(2), FreeBits(0.0), FreeBits(1e3)])
def test_beta_weighs_the_kl(objective):
    """E_q[log p(x|z)] - beta KL."""
    model, guide, x = line(size=2000)
    losses = []
    for beta in (0.0, 1.0, torch.tensor(3.0)):
        torch.manual_seed(11)
        with scale_latents(beta):
            losses.append(objective.loss(model, guide, x))
    assert losses[2] - losses[0] == pytest.approx(3 * (losses[1] - losses[0]))
    if not (isinstance(objective, FreeBits) and objective.nats):
        exact = torch.distributions.kl_divergence(dist.Normal(0.5 * x + 0.3, 0.8), dist.Normal(0.0, 1.0))
        assert losses[1] - losses[0] == pytest.approx(exact.sum().item(), rel=0.1)
    else:
        assert losses[1] - losses[0] == pytest.approx(1e3 * len(x))


def test_masks_leave_data_out():
    model, guide, x = line()
    mask = torch.tensor([True, False, True, True, False, True])
    kept = [poutine.mask(program, mask=mask) for program in (model, guide)]
    for objective in (IWAE(K), AnalyticKL(), StickingTheLanding()):
        torch.manual_seed(7)
        found = objective.per_datum(objective.draws(*kept, (x,), {}))
        torch.manual_seed(7)
        whole = objective.per_datum(objective.draws(model, guide, (x,), {}))
        torch.testing.assert_close(found, torch.where(mask, whole, 0.0))


def test_weights_of_what_all_data_share_are_those_of_the_batch():
    """A latent outside of the plate: the batch is one datum."""

    def model(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, 0.5), obs=x)

    def guide(x):
        pyro.sample("w", dist.Normal(x.mean(), 0.3))

    x = torch.randn(5)
    torch.manual_seed(7)
    w = x.mean() + 0.3 * torch.normal(torch.zeros(K, 1), torch.ones(1))
    log_w = dist.Normal(w, 0.5).log_prob(x).sum(-1) + (
        dist.Normal(0.0, 1.0).log_prob(w) - dist.Normal(x.mean(), 0.3).log_prob(w)
    ).squeeze(-1)
    assert seeded(IWAE(K), model, guide, x) == pytest.approx(-(log_w.logsumexp(0) - math.log(K)).item())


@pytest.mark.parametrize("by", ["site", "latent"])
def test_free_bits_of_masked_latents(by):
    """At a threshold of 0 it is the ELBO."""
    x, known = torch.randn(6, 2), torch.tensor([True, True, False, True, False, True])

    def model(x):
        with pyro.plate("data", 6):
            with poutine.mask(mask=known):
                z = pyro.sample("z", dist.Normal(torch.zeros(6, 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", 6), poutine.mask(mask=known):
            pyro.sample("z", dist.Normal(0.5 * x, 0.7).to_event(1))

    found, elbo = (seeded(o, model, guide, x) for o in (FreeBits(0.0, by), AnalyticKL()))
    assert found == pytest.approx(elbo)


def test_a_batch_is_of_all_the_data():
    s = system("VAE", number=6)
    with pytest.raises(ValueError, match="num_data=5 is less than a batch of 6"):
        BetaTC(5).loss(s.program.model, s.program.guide, s.batch)
    assert math.isfinite(BetaTC(6).loss(s.program.model, s.program.guide, s.batch))


def test_a_batch_of_one_datum_has_no_discrepancy():
    """As the last of an epoch may be: there is no pair of draws, and of the rest there is a gradient."""
    s = system("VAE")
    one = {"x": s.batch["x"][:1]}
    found = []
    for objective in (MMD(weight=100.0), MMD(weight=0.0)):
        s.program.zero_grad()
        torch.manual_seed(1)
        found.append(objective.loss_and_grads(s.program.model, s.program.guide, one))
        assert all(p.grad.isfinite().all() for p in s.program.parameters() if p.grad is not None)
    assert found[0] == found[1]


def test_plates_within_a_datum_are_summed():
    """Elements in a plate of their own, on either side of that of the data."""
    x = torch.randn(3, 4)
    found = []
    for outer, inner in ((-1, -2), (-2, -1)):

        def model(x, outer=outer, inner=inner):
            with pyro.plate("data", 3, dim=outer):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                with pyro.plate("elements", 4, dim=inner):
                    pyro.sample("x", dist.Normal(z, 0.5), obs=x.T if inner == -2 else x)

        def guide(x, outer=outer):
            with pyro.plate("data", 3, dim=outer):
                mean = 0.4 * x.mean(1)
                pyro.sample("z", dist.Normal(mean if outer == -1 else mean[:, None], 0.3))

        found.append(
            [seeded(o, model, guide, x) for o in (IWAE(K), DReG(K), AnalyticKL(K), FreeBits(2.0), MMD(1.0))]
        )
        torch.manual_seed(7)
        z = 0.4 * x.mean(1) + 0.3 * torch.normal(torch.zeros(K, 3), torch.ones(1))
        log_w = dist.Normal(z[..., None], 0.5).log_prob(x).sum(-1) + dist.Normal(0.0, 1.0).log_prob(z)
        log_w = log_w - dist.Normal(0.4 * x.mean(1), 0.3).log_prob(z)
        assert found[-1][0] == pytest.approx(-(log_w.logsumexp(0) - math.log(K)).sum().item())
    assert found[0] == pytest.approx(found[1])


@pytest.mark.parametrize("auto", [AutoNormal, AutoMultivariateNormal])
def test_automatic_guides(auto):
    """Their latents are made of others, which are none of the model's: the density is that of these."""
    model, _, x = line()
    guide = auto(model, init_scale=0.7)
    guide(x)
    parameters = list(guide.parameters())
    elbo = Trace_ELBO(2000, vectorize_particles=True, max_plate_nesting=1)
    elbo.loss_and_grads(model, guide, x)
    expected = torch.cat([p.grad.flatten() for p in parameters])
    value = elbo.loss(model, guide, x)
    for objective in (AnalyticKL(2000), StickingTheLanding(2000), Renyi(1.0, 2000)):
        guide.zero_grad()
        objective.loss_and_grads(model, guide, x)
        found = torch.cat([p.grad.flatten() for p in parameters])
        assert objective.loss(model, guide, x) == pytest.approx(value, abs=0.6)
        assert (found - expected).abs().max() < 0.7
    if auto is AutoNormal:
        torch.manual_seed(3)
        one = IWAE(3).loss(model, guide, x)
        torch.manual_seed(3)
        assert DReG(3).loss(model, guide, x) == pytest.approx(one)


def test_pyros_mean_field_is_wrong_bottom_up():
    """Which is why there is one of ours: z1's KL depends on z2, which the guide draws after it."""
    s = system("bottom_up")
    exact = (s.gap - s.log_p).sum().item()
    theirs = TraceMeanField_ELBO(num_particles=4000, vectorize_particles=True, max_plate_nesting=1)
    with pyro.validation_enabled(False):  # which warns
        found = theirs.loss(s.program.model, s.program.guide, s.batch)
    assert abs(found - exact) > 0.3


def test_pyros_wake_sleep_weighs_whole_batches():
    """Of six data its bound is weaker than of each; ours is datum by datum."""
    s = system("VAE")
    theirs = ReweightedWakeSleep(num_particles=K, vectorize_particles=True, max_plate_nesting=1)
    found = sum(theirs.loss(s.program.model, s.program.guide, s.batch)[0].item() for _ in range(200)) / 200
    log_w = log_weights(s.program, s.batch, 200 * K).reshape(K, 200, 6)
    of_batch = -(log_w.sum(-1).logsumexp(0) - math.log(K)).mean().item()
    of_data = -(log_w.logsumexp(0) - math.log(K)).sum(-1).mean().item()
    assert of_batch - of_data > 0.1
    assert abs(found - of_batch) < abs(found - of_data)


def test_what_is_not_independent_is_told():
    batch = torch.rand(5, 6).round()
    parts = {"encoder": pv.nets.mlp(4), "decoder": pv.nets.mlp(4)}
    for vae in (
        pv.VAE((6,), 2, guide=pv.guides.FullRankNormal(), **parts),
        pv.VAE((6,), 2, prior=pv.priors.MixtureOfNormals(2), **parts),
    ):
        with pytest.raises(ValueError, match=r"of 'z', a .* is not independent over its latents.*by='site'"):
            FreeBits(0.5, "latent").loss(vae.model, vae.guide, batch)
        assert math.isfinite(FreeBits(0.5).loss(vae.model, vae.guide, batch))
    vae = pv.VAE((6,), 2, guide=pv.guides.FullRankNormal(), **parts)
    with pytest.raises(ValueError, match="is not independent"):
        BetaTC(50).loss(vae.model, vae.guide, batch)
    vae = pv.VAE((6,), 2, prior=pv.priors.VampPrior(3), **parts)
    assert math.isfinite(BetaTC(50).loss(vae.model, vae.guide, batch))


@pytest.mark.parametrize("transform", ["planar", "affine_autoregressive"])
def test_flows_without_an_inverse_are_told(transform):
    batch = torch.rand(5, 6).round()
    guide = pv.guides.Flow(transform, hidden_dims=[8], context_dim=4)
    vae = pv.VAE((6,), 2, guide=guide, encoder=pv.nets.mlp(4), decoder=pv.nets.mlp(4))
    for validate in (True, False):
        with pyro.validation_enabled(validate):
            assert math.isfinite(IWAE().loss(vae.model, vae.guide, batch))
            for objective in (StickingTheLanding(), DReG(), WakeSleep(), Chi(), Thermodynamic()):
                if transform == "planar":
                    with pytest.raises(NotImplementedError, match=r"Planar, a flow of the guide, has no inv"):
                        objective.loss(vae.model, vae.guide, batch)
                else:
                    assert math.isfinite(objective.loss(vae.model, vae.guide, batch))


def test_the_kl_of_bits_broadcasts():
    """A prior of one Bernoulli for all data, by itself and of vectors: PyTorch's own refuses other shapes."""
    logits, prior = torch.randn(3, 5), torch.tensor(0.3)
    q, p = dist.Bernoulli(logits=logits), dist.Bernoulli(prior)
    expected = logits.sigmoid() * (logits.sigmoid() / prior).log()
    expected = expected + (-logits).sigmoid() * ((-logits).sigmoid() / (1 - prior)).log()
    torch.testing.assert_close(kl_divergence(q, p, q.sample()), expected)
    q, p = q.to_event(1), dist.Bernoulli(prior.expand(5)).to_event(1)
    torch.testing.assert_close(kl_divergence(q, p, q.sample()), expected.sum(1))
