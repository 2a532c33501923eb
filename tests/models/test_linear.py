"""Truths in closed form: programs that are linear and Normal, with a condition, with levels, with gaps."""

import math
from itertools import pairwise

import pyro.distributions as dist
import pytest
import torch
from linear import EXACT, KINDS, LATENTS, SCALE, system
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch.distributions import kl_divergence

import pyro_vae as pv
from pyro_vae.objectives import elbo_terms, importance_weighted_bound, log_weights
from pyro_vae.objectives.importance import traces

pytestmark = pytest.mark.usefixtures("double")
both = pytest.mark.parametrize("missing", [False, True], ids=["whole", "missing"])
every = pytest.mark.parametrize("kind", KINDS)


@every
@both
def test_the_truths_agree_with_each_other(kind, missing):
    """ELBO + KL(q || posterior) = log p, by hand: what the others are held against."""
    s = system(kind, missing)
    assert s.gap.min() > 0.01
    torch.testing.assert_close(-sum(s.expected.values()) + s.gap, s.log_p)


@every
@both
def test_elbo_plus_gap_is_the_evidence(kind, missing):
    s = system(kind, missing)
    estimate = pv.evaluate.elbo(s.program, s.batch, num_samples=20_000, batch_size=200_000)
    exact = s.log_p - s.gap
    assert estimate.elbo == pytest.approx(exact.mean().item(), abs=5 * estimate.draws_error)
    assert estimate.draws_error < 0.03
    assert estimate.standard_error == pytest.approx((exact.std() / 6**0.5).item(), rel=0.05)
    assert estimate.elbo == pytest.approx(-(estimate.reconstruction + estimate.kl), rel=1e-12)
    assert estimate.elbo == pytest.approx(-sum(estimate.terms.values()), rel=1e-12)


@every
@both
def test_each_site_adds_its_term(kind, missing):
    s = system(kind, missing)
    with torch.no_grad():
        found = elbo_terms(*traces(s.program, s.batch, 20_000))
    assert list(found) == ["x", *sorted(s.expected.keys() - {"x"}, reverse=True)]
    for site, term in found.items():
        assert term.shape == (20_000, 6)
        error = 5 * term.std(0) / 20_000**0.5 + 1e-10
        assert ((term.mean(0) - s.expected[site]).abs() < error).all(), site


@pytest.mark.parametrize("kind", ["VAE", "conditional_prior", "bottom_up", "top_down"])
def test_kl_is_in_closed_form_where_it_may(kind):
    """Not where the guide goes against the model: q(z1|x) beside p(z1|z2) of a z2 that was drawn from z1."""
    s = system(kind)
    model, guide = traces(s.program, s.batch, 7)
    found = elbo_terms(model, guide)
    for site in found.keys() - {"x"}:
        p, q, z = model.nodes[site]["fn"], guide.nodes[site]["fn"], guide.nodes[site]["value"]
        closed, drawn = kl_divergence(q, p).expand(7, 6), q.log_prob(z) - p.log_prob(z)
        torch.testing.assert_close(found[site], drawn if (kind, site) == ("bottom_up", "z1") else closed)
    if kind != "bottom_up":  # no noise at all at the top
        top = found["z2" if kind == "top_down" else "z"]
        torch.testing.assert_close(top, top[:1].expand(7, 6))


@pytest.mark.parametrize("kind", EXACT)
@both
def test_weights_are_the_evidence_when_the_guide_is_the_posterior(kind, missing):
    s = system(kind, missing, exact=True)
    torch.testing.assert_close(s.gap, torch.zeros(6), atol=1e-9, rtol=0)
    torch.testing.assert_close(log_weights(s.program, s.batch, 7), s.log_p.expand(7, 6))
    estimate = pv.evaluate.log_likelihood(s.program, s.batch, num_samples=3)
    torch.testing.assert_close(estimate.per_datum, s.log_p)
    assert (
        pv.evaluate.elbo(s.program, s.batch, num_samples=2).elbo < s.log_p.mean() + 1
    )  # closed forms are noisy


@every
@both
def test_bound_rises_to_the_evidence(kind, missing):
    s = system(kind, missing)
    log_w = log_weights(s.program, s.batch, 60_000).detach()
    bounds = [importance_weighted_bound(log_w.reshape(k, -1, 6)).mean(0) for k in (1, 2, 5, 50)]
    for lower, higher in pairwise(bounds):
        assert (lower < higher + 1e-9).all()
    assert (bounds[-1] < s.log_p + 0.01).all()
    error = 5 * log_w.std(0) / 60_000**0.5
    assert ((bounds[0] - s.log_p + s.gap).abs() < error).all()
    error = 5 * (log_w - s.log_p).exp().std(0) / 60_000**0.5
    assert ((importance_weighted_bound(log_w) - s.log_p).abs() < error).all()
    assert error.median() < 0.1


@pytest.mark.parametrize("kind", EXACT)
@both
def test_gap_of_the_bound_falls_as_one_over_k(kind, missing):
    """log p - bound(K) = Var(w / p) / 2K + o(1/K) (Domke and Sheldon, 2018): the rate, not a value."""
    s = system(kind, missing, exact=True, wider=1.15)  # bounded weights
    with torch.no_grad():
        log_w = log_weights(s.program, s.batch, 160_000) - s.log_p
    number, gaps = (8, 16, 32), []
    for k in number:
        log_mean = importance_weighted_bound(log_w.reshape(k, -1, 6))
        gaps.append(
            (log_mean.expm1() - log_mean).mean().item()
        )  # E[mean w / p] = 1, which takes off the noise
    slope = math.log(gaps[2] / gaps[0]) / math.log(4)
    assert slope == pytest.approx(-1, abs=0.08)
    variance = log_w.exp().var(0).mean().item()
    assert 2 * 32 * gaps[2] / variance == pytest.approx(1, abs=0.15)


def test_a_datum_of_which_nothing_is_known_adds_nothing():
    for kind in KINDS:
        s = system(kind, missing=True)
        assert s.batch["x"][0].isnan().all()
        assert s.log_p[0] == 0
        with torch.no_grad():
            model, guide = traces(s.program, s.batch, 3)
            assert not elbo_terms(model, guide)["x"][:, 0].any()
            weights = log_weights(s.program, s.batch, 20_000)[:, 0].exp()
        assert weights.mean().item() == pytest.approx(1, abs=5 * (weights.std() / 20_000**0.5).item())


def test_a_program_sees_nothing_of_a_missing_value():
    """Whatever stands in its place within the computation: the same weights, and finite gradients."""
    s = system("VAE", missing=True)
    torch.manual_seed(0)
    log_w = log_weights(s.program, s.batch, 2)
    log_w.sum().backward()
    assert all(p.grad.isfinite().all() for p in s.program.parameters())
    torch.manual_seed(0)
    for i, (weight, x) in enumerate(zip(log_w.mT, s.batch["x"], strict=True)):
        torch.manual_seed(0)
        eps = torch.randn(2, 6, LATENTS)[:, i]
        q, known = s.program.encode(x[None]), ~x.isnan()
        z = q.mean + q.stddev * eps
        loc = s.program.decode(z).mean
        alone = dist.Normal(loc[:, known], SCALE).log_prob(x[known]).sum(-1)
        torch.testing.assert_close(weight, alone + s.program.prior().log_prob(z) - q.log_prob(z))


@pytest.mark.parametrize("num_samples", [1, 999, 2500])
def test_log_likelihood_does_not_depend_on_chunks(num_samples):
    s = system("VAE", exact=True)
    small = pv.evaluate.log_likelihood(s.program, s.batch, num_samples=num_samples, max_rows=70)
    large = pv.evaluate.log_likelihood(s.program, s.batch, num_samples=num_samples)
    torch.testing.assert_close(small.per_datum, large.per_datum)
    torch.testing.assert_close(small.per_datum, s.log_p)


@every
@both
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_pyro_estimators(kind, missing, elbo):
    if elbo is TraceMeanField_ELBO and kind == "bottom_up":
        pytest.skip("Pyro takes the KL of q(z1|x) to p(z1|z2) in closed form, where z2 depends on z1")
    s = system(kind, missing)
    loss = elbo(num_particles=8000, vectorize_particles=True, max_plate_nesting=1)
    noise = log_weights(s.program, s.batch, 1000).sum(-1).std().item() / 8000**0.5
    found = -loss.loss(s.program.model, s.program.guide, s.batch)
    assert found == pytest.approx((s.log_p - s.gap).sum().item(), abs=5 * noise + 0.02)


def test_pyro_renyi_is_the_importance_weighted_bound():
    s = system("top_down", missing=True)
    loss = RenyiELBO(alpha=0, num_particles=5, vectorize_particles=True, max_plate_nesting=1)
    theirs = -sum(loss.loss(s.program.model, s.program.guide, s.batch) for _ in range(100)) / 100
    ours = importance_weighted_bound(log_weights(s.program, s.batch, 100_000).reshape(5, -1, 6)).sum(-1)
    assert theirs == pytest.approx(ours.mean().item(), abs=5 * ours.std().item() / 10 + 0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_active_units(kind):
    """A latent whose posterior mean x does not move is no active unit; here each moves, until cut."""
    s = system(kind, exact=kind in EXACT, number=60)
    sites = ["z1", "z2"] if kind in ("bottom_up", "top_down") else ["z"]
    variance = s.q.mean.var(0)
    expected = dict(zip(sites, (variance > 0.01).split(LATENTS), strict=True))
    found = pv.evaluate.active_units(s.program, s.batch, num_samples=400)
    assert found == {site: int(units.sum()) for site, units in expected.items()} == dict.fromkeys(sites, 2)
    bottom = s.program.q_z[0] if len(sites) == 2 else s.program.q_z
    with torch.no_grad():
        bottom.net.layers[0].weight[0] = 0.0
    cut = pv.evaluate.active_units(s.program, s.batch, num_samples=400)
    if kind in ("VAE", "ConditionalVAE", "conditional_prior"):
        assert cut == {"z": 1}
    else:  # the level above hears of it through that one alone; downwards, z1 hears of z2
        assert cut["z2"] == 1
        assert cut["z1"] == 1
    between = pv.evaluate.active_units(s.program, s.batch, threshold=10.0)
    assert between == dict.fromkeys(sites, 0)


def test_levels_of_covariance_are_marginalised():
    """A likelihood with covariance of its own: evidence N(b, W W' + F F' + diag), of what is observed."""
    torch.manual_seed(0)
    vae = pv.VAE(
        (5,),
        1,
        likelihood=pv.likelihoods.LowRankNormal(2, covariance="shared"),
        encoder=pv.nets.mlp(),
        decoder=pv.nets.mlp(),
    )
    vae.q_z.net.layers[0].weight.data.zero_()  # the prior as the guide
    vae.q_z.net.layers[0].bias.data.zero_()
    p = vae.decode(torch.zeros(1, 1))
    w = vae.p_x.net.layers[0].weight.detach()
    covariance = (w @ w.T + p.cov_factor @ p.cov_factor.mT + p.cov_diag.diag_embed())[0].detach()
    x = dist.MultivariateNormal(p.loc[0].detach(), covariance).sample((6,))
    x[torch.rand_like(x) < 0.4] = math.nan
    exact = []
    for datum in x:
        known = ~datum.isnan()
        sub = covariance[known][:, known]
        exact.append(dist.MultivariateNormal(p.loc[0, known].detach(), sub).log_prob(datum[known]))
    estimate = pv.evaluate.log_likelihood(vae, x, num_samples=40_000, max_rows=200_000)
    torch.testing.assert_close(estimate.per_datum, torch.stack(exact), atol=0.03, rtol=0)


@pytest.mark.parametrize("missing", [0.0, pytest.param(0.3, marks=pytest.mark.slow)])
def test_training_finds_the_maximum_likelihood(missing):
    """Probabilistic PCA: the evidence at the maximum is known (Tipping and Bishop, 1999).

    Columns of like variance: the shared scale is in units of these, where that of PCA is one number.
    """
    torch.manual_seed(0)
    half = 2**0.5
    true_w = torch.tensor([[2.0, 0.0], [0.0, 2.0], [half, half], [half, -half]])
    x = torch.randn(2000, 2) @ true_w.T + 0.5 * torch.randn(2000, 4)
    whole = x.clone()
    x[torch.rand_like(x) < missing] = math.nan
    vae = pv.VAE(
        (4,),
        2,
        likelihood=pv.likelihoods.Normal(scale="shared"),
        encoder=pv.nets.mlp(*[32] * bool(missing)),
        decoder=pv.nets.mlp(),
    )
    vae.initialize(pv.data.Split(x))
    optimizer = torch.optim.Adam(vae.parameters())
    steps = 1500 if missing else 600
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-2 * (1 - step / steps)
        optimizer.zero_grad()
        (-log_weights(vae, x[torch.randint(2000, (200,))]).mean()).backward()
        optimizer.step()
    p = vae.decode(torch.zeros(1, 2)).base_dist
    w = vae.p_x.net.layers[0].weight.detach() * vae.p_x.family.parameter["loc"].unit[:, None]
    covariance = w @ w.T + p.scale[0].detach().square().diag()
    fitted = dist.MultivariateNormal(p.loc[0].detach(), covariance).log_prob(whole).mean().item()
    eigenvalues = torch.linalg.eigvalsh(torch.cov(whole.T, correction=0)).flip(0)
    noise = eigenvalues[2:].mean()
    maximum = -0.5 * (4 * math.log(2 * math.pi) + eigenvalues[:2].log().sum() + 2 * noise.log() + 4)
    assert fitted == pytest.approx(maximum.item(), abs=0.05 if missing else 0.02)
    if not missing:
        assert p.scale.mean().item() == pytest.approx(noise.sqrt().item(), rel=0.03)
        # The posterior factorises only up to a rotation, which the diagonal guide finds.
        assert pv.evaluate.elbo(vae, x, num_samples=20).elbo == pytest.approx(maximum.item(), abs=0.03)


def test_traces_are_those_of_pyro():
    s = system("ConditionalVAE", missing=True)
    torch.manual_seed(1)
    ours = log_weights(s.program, s.batch)[0]
    torch.manual_seed(1)
    guide = poutine.trace(s.program.guide).get_trace(s.batch)
    model = poutine.trace(poutine.replay(s.program.model, trace=guide)).get_trace(s.batch)
    assert ours.sum().item() == pytest.approx((model.log_prob_sum() - guide.log_prob_sum()).item())
