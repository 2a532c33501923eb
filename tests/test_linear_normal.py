"""A VAE whose evidence and posterior are known: linear decoder, Normal prior and likelihood.

x = W z + b + s e, so that p(x) = Normal(b, W W' + s^2 I) and p(z|x) is Normal with covariance
S = (I + W'W / s^2)^-1 and mean S W'(x - b) / s^2 (Bishop, 2006, section 2.3.3).
"""

import math
from itertools import pairwise

import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch.distributions import kl_divergence

import pyro_vae as pv
from pyro_vae.objectives import importance_weighted_bound, log_weights

SCALE, NUM_PIXELS, LATENT_DIM = 0.7, 5, 2

pytestmark = pytest.mark.usefixtures("double")


@pytest.fixture
def system():
    """A linear VAE with an imperfect guide, its data, evidence and posterior."""
    torch.manual_seed(3)
    vae = pv.VAE(
        (NUM_PIXELS,),
        LATENT_DIM,
        likelihood=pv.likelihoods.Normal(scale=SCALE),
        encoder=pv.nets.mlp(),
        decoder=pv.nets.mlp(),
    )
    torch.nn.init.normal_(vae.decoder.layers[0].bias)
    set_guide(vae)
    with torch.no_grad():  # wider than the posterior, so that weights are bounded, and off the mean
        vae.encoder.layers[0].bias += torch.tensor([0.1, -0.1, 0.25, 0.25])
    p_x = evidence(vae)
    x = p_x.sample((6,))
    w, covariance = posterior_covariance(vae)
    mean = (x - p_x.mean) @ w @ covariance / SCALE**2
    return vae, x, p_x.log_prob(x), dist.MultivariateNormal(mean, covariance)


def evidence(vae):
    w, b = vae.decoder.layers[0].weight.detach(), vae.decoder.layers[0].bias.detach()
    return dist.MultivariateNormal(b, w @ w.T + SCALE**2 * torch.eye(NUM_PIXELS))


def posterior_covariance(vae):
    w = vae.decoder.layers[0].weight.detach()
    return w, torch.linalg.inv(torch.eye(LATENT_DIM) + w.T @ w / SCALE**2)


@torch.no_grad()
def set_guide(vae) -> None:
    """Sets q(z|x) to the posterior's means and variances; correlations are beyond its family."""
    w, covariance = posterior_covariance(vae)
    encoder = vae.encoder.layers[0]
    gain = covariance @ w.T / SCALE**2
    encoder.weight.zero_()
    encoder.weight[:LATENT_DIM] = gain
    encoder.bias[:LATENT_DIM] = -gain @ vae.decoder.layers[0].bias
    encoder.bias[LATENT_DIM:] = covariance.diagonal().sqrt().expm1().log()  # softplus undone


@torch.no_grad()
def make_exact(vae) -> None:
    """Sets the decoder's columns at right angles, so that p(z|x) factorises, and q(z|x) to it."""
    q, _ = torch.linalg.qr(vae.decoder.layers[0].weight)
    vae.decoder.layers[0].weight.copy_(q * torch.tensor([1.5, 0.4]))
    set_guide(vae)


def exact_elbo(vae, x):
    """E_q[log p(x|z)] - KL(q || p), by hand."""
    q = vae.encode(x)
    w = vae.decoder.layers[0].weight
    mean, variance = q.mean, q.variance
    error = (x - vae.decode(mean).mean).square().sum(-1) + (variance * w.square().sum(0)).sum(-1)
    log_p = -0.5 * error / SCALE**2 - NUM_PIXELS * math.log(SCALE * math.sqrt(2 * math.pi))
    return log_p - 0.5 * (variance + mean**2 - 1 - variance.log()).sum(-1)


def test_elbo_plus_gap_is_evidence(system):
    vae, x, log_p, posterior = system
    q = vae.encode(x)
    q_full = dist.MultivariateNormal(q.mean, torch.diag_embed(q.variance))
    gap = kl_divergence(q_full, posterior)
    assert gap.min() > 0.01
    torch.testing.assert_close(exact_elbo(vae, x) + gap, log_p)


def test_evaluate_elbo(system):
    vae, x, _, _ = system
    estimate = pv.evaluate.elbo(vae, x, num_samples=100_000)
    exact = exact_elbo(vae, x)
    assert estimate.elbo == pytest.approx(exact.mean().item(), abs=0.01)
    assert estimate.kl == pytest.approx(kl_divergence(vae.encode(x), vae.prior()).mean().item(), rel=1e-12)
    assert estimate.elbo == -(estimate.reconstruction + estimate.kl)
    assert estimate.standard_error == pytest.approx((exact.std() / 6**0.5).item(), rel=0.02)


def test_weights_are_the_evidence_when_the_guide_is_the_posterior(system):
    vae, x, _, _ = system
    make_exact(vae)
    p_x = evidence(vae)
    torch.testing.assert_close(log_weights(vae, x, 7), p_x.log_prob(x).expand(7, 6))
    estimate = pv.evaluate.log_likelihood(vae, x, num_samples=3)
    torch.testing.assert_close(estimate.per_datum, p_x.log_prob(x))


def test_bound_rises_to_the_evidence(system):
    vae, x, log_p, _ = system
    log_w = log_weights(vae, x, 200_000).detach()
    bounds = []
    for k in (1, 2, 5, 50):
        bound = importance_weighted_bound(log_w.reshape(k, -1, 6))
        bounds.append(bound.mean(0))
    for lower, higher in pairwise(bounds):
        assert (lower < higher).all()
    assert (bounds[-1] < log_p + 0.01).all()
    torch.testing.assert_close(bounds[0], exact_elbo(vae, x).detach(), atol=0.03, rtol=0)
    torch.testing.assert_close(importance_weighted_bound(log_w), log_p, atol=0.02, rtol=0)


def test_gap_of_the_bound_falls_as_one_over_k(system):
    """log p - bound(K) = Var(w / p) / 2K + o(1/K) (Domke and Sheldon, 2018): the rate, not a value."""
    vae, x, _, _ = system
    make_exact(vae)
    with torch.no_grad():
        vae.encoder.layers[0].bias[LATENT_DIM:] += 0.2  # a guide a little too wide: bounded weights
    log_p = evidence(vae).log_prob(x)
    log_w = log_weights(vae, x, 1_000_000).detach()
    gap = [(log_p - importance_weighted_bound(log_w.reshape(k, -1, 6)).mean(0)).mean() for k in (4, 16)]
    assert 3.3 < gap[0] / gap[1] < 4.8


@pytest.mark.parametrize("num_samples", [1, 999, 2500])
def test_log_likelihood_does_not_depend_on_chunks(system, num_samples):
    vae, x, _, _ = system
    make_exact(vae)
    small = pv.evaluate.log_likelihood(vae, x, num_samples=num_samples, max_rows=70)
    large = pv.evaluate.log_likelihood(vae, x, num_samples=num_samples)
    torch.testing.assert_close(small.per_datum, large.per_datum)


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_pyro_estimators(system, elbo):
    vae, x, _, _ = system
    loss = elbo(num_particles=20_000, vectorize_particles=True, max_plate_nesting=1)
    assert -loss.loss(vae.model, vae.guide, x) == pytest.approx(exact_elbo(vae, x).sum().item(), abs=0.15)


def test_pyro_renyi_is_the_importance_weighted_bound(system):
    vae, x, _, _ = system
    loss = RenyiELBO(alpha=0, num_particles=5, vectorize_particles=True, max_plate_nesting=1)
    theirs = -sum(loss.loss(vae.model, vae.guide, x) for _ in range(4000)) / 4000
    ours = importance_weighted_bound(log_weights(vae, x, 100_000).reshape(5, -1, 6)).sum(-1)
    assert theirs == pytest.approx(ours.mean().item(), abs=0.15)


def test_training_finds_the_maximum_likelihood():
    """Probabilistic PCA: the evidence at the maximum is known (Tipping and Bishop, 1999)."""
    torch.manual_seed(0)
    true_w = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, -1.5], [0.5, 0.5]])
    x = torch.randn(4000, 2) @ true_w.T + 0.5 * torch.randn(4000, 4)
    data = pv.data.load(x, validation=0.0, test=0.0)
    vae = pv.VAE(
        (4,),
        2,
        likelihood=pv.likelihoods.Normal(scale="shared"),
        encoder=pv.nets.mlp(),
        decoder=pv.nets.mlp(),
    )
    pv.fit(vae, data, epochs=80, batch_size=200, lr=2e-2, progress=False, folder="run")
    eigenvalues = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    noise = eigenvalues[2:].mean()
    maximum = -0.5 * (4 * math.log(2 * math.pi) + eigenvalues[:2].log().sum() + 2 * noise.log() + 4)
    w = vae.decoder.layers[0].weight.detach() * vae.p_x.unit_loc
    scale = vae.decode(torch.zeros(1, 2)).base_dist.scale[0, 0].item()
    assert scale == pytest.approx(noise.sqrt().item(), rel=0.03)
    fitted = dist.MultivariateNormal(x.mean(0), w @ w.T + scale**2 * torch.eye(4)).log_prob(x).mean()
    assert fitted <= maximum + 1e-9
    assert fitted == pytest.approx(maximum.item(), abs=0.02)
    # The posterior factorises only up to a rotation, which the diagonal guide finds.
    assert pv.evaluate.elbo(vae, x, num_samples=20).elbo == pytest.approx(maximum.item(), abs=0.03)
