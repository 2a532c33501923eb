"""Values of which elements are missing: marginals, of every likelihood, against sums and integrals."""

import math

import pyro.distributions as dist
import pytest
import torch
from cases import EVENT_SHAPE, FAMILIES, LIKELIHOODS, D, build
from pyro import poutine

import pyro_vae as pv
from pyro_vae.constraints import bounds, inside, support
from pyro_vae.distributions import conditional, marginal
from pyro_vae.objectives import log_weights

pytestmark = pytest.mark.usefixtures("double")
CORRELATED = [name for name in LIKELIHOODS if name not in FAMILIES and name != "Categorical"]


def gaps(x: torch.Tensor) -> torch.Tensor:
    """x with one element missing of the first datum, some of the others, and all of the last."""
    missing = torch.rand_like(x) < 0.4
    missing[0] = torch.arange(6).reshape(2, 3) == 4
    missing[-1] = True
    return torch.where(missing, math.nan, x)


def drawn(name: str, number: int = 6):
    """A VAE of a likelihood's case, z, p(x|z) and draws from it."""
    vae = build(likelihood=LIKELIHOODS[name])
    with torch.no_grad():
        z = vae.prior().sample((number,))
        p = vae.decode(z)
        return vae, z, p, p.sample().to(torch.float64)


def filled(x: torch.Tensor, p) -> tuple[torch.Tensor, torch.Tensor]:
    observed = ~x.isnan()
    return observed, torch.where(observed, x, inside(support(p)))


def grid(constraint, centre: float, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Points over a support, and what each stands for."""
    low, high = (torch.as_tensor(end).flatten()[0].item() for end in bounds(constraint))
    if constraint.is_discrete:
        k = torch.arange(max(float(low), -2000.0), min(high, 2000.0) + 1)
        return k, torch.ones_like(k)
    u = torch.linspace(-30, 30, 12_001)
    if math.isinf(low):
        x, slope = centre + spread * u.sinh(), spread * u.cosh()
    elif math.isinf(high):
        x, slope = low + u.exp(), u.exp()
    else:
        x, slope = low + (high - low) * u.sigmoid(), (high - low) * u.sigmoid() * (-u).sigmoid()
    return x, slope * (u[1] - u[0])


@pytest.mark.parametrize("name", [n for n in LIKELIHOODS if n != "PseudoBernoulli"])
def test_marginal_is_the_integral_over_what_is_missing(name):
    """One element of the first datum is missing: the joint density, summed or integrated over it."""
    vae, z, p, x = drawn(name)
    x[0, 1, 1] = math.nan
    observed, value = filled(x, p)
    found = marginal(p, observed).log_prob(value)
    assert found.shape == (6,)
    torch.testing.assert_close(found[1:], p.log_prob(value)[1:], rtol=1e-6, atol=1e-8)
    values, size = grid(support(p), 0.0, 1.0)
    if name == "ZeroInflatedLogNormal":  # whose 0 has a probability
        values, size = torch.cat([torch.zeros(1), values]), torch.cat([torch.ones(1), size])
    whole = value[0].repeat(len(values), 1, 1)
    whole[:, 1, 1] = values
    with torch.no_grad():
        log_p = vae.decode(z[:1].expand(len(whole), D)).log_prob(whole)
    integral = torch.where(log_p.isfinite(), log_p + size.log(), -math.inf).logsumexp(0)
    assert found[0].item() == pytest.approx(integral.item(), abs=2e-3)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_what_is_missing_does_not_matter(name):
    """Neither for the density, whatever stands there, nor for any gradient, which stays finite."""
    vae, _, p, x = drawn(name)
    x = gaps(x)
    observed, value = filled(x, p)
    found = marginal(p, observed).log_prob(value)
    assert found.isfinite().all()
    assert found[-1].item() == pytest.approx(0, abs=1e-9)
    other = torch.where(observed, value, p.sample().to(value))
    torch.testing.assert_close(marginal(p, observed).log_prob(other), found)
    torch.manual_seed(0)
    log_w = log_weights(vae, x, 2)
    assert log_w.isfinite().all()
    log_w.sum().backward()
    assert all(q.grad is not None and q.grad.isfinite().all() for q in vae.parameters())
    trace = poutine.trace(vae.model).get_trace({"x": x})
    trace.compute_log_prob()
    assert trace.nodes["x"]["log_prob"].shape == (6,)
    assert trace.nodes["x"]["log_prob"][-1].item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_independent_elements_add_up(name):
    _, _, p, x = drawn(name)
    x = gaps(x)
    observed, value = filled(x, p)
    alone = torch.where(observed, p.base_dist.log_prob(value), 0.0).sum((-1, -2))
    torch.testing.assert_close(marginal(p, observed).log_prob(value), alone)


@pytest.mark.parametrize("name", ["LowRankNormal", "LowRankNormal-shared", "FullRankNormal"])
def test_correlated_normals_are_those_of_the_block(name):
    vae, _, p, x = drawn(name)
    x = gaps(x)
    observed, value = filled(x, p)
    found = marginal(p, observed).log_prob(value)
    base = p.base
    covariance = base.covariance_matrix
    for i in range(5):
        known = observed[i].flatten()
        block = dist.MultivariateNormal(base.loc[i][known], covariance[i][known][:, known])
        torch.testing.assert_close(found[i], block.log_prob(x[i].flatten()[known]))
    particles = marginal(p.expand((4, 6)), observed)
    torch.testing.assert_close(particles.log_prob(value), found.expand(4, 6))
    assert marginal(p, observed).expand((4, 6)).log_prob(value).shape == (4, 6)
    assert vae.p_x.family.measure == pv.families.LEBESGUE


def test_mixture_of_normals_is_the_sum_over_observed_elements():
    _vae, _, p, x = drawn("MixtureOfNormals")
    x = gaps(x)
    observed, value = filled(x, p)
    base, flat, known = p.base, value.flatten(1), observed.flatten(1)
    each = dist.Normal(base.loc, base.scale).log_prob(flat[:, None])
    each = torch.where(known[:, None], each, 0.0).sum(-1)
    exact = (base.logits.log_softmax(-1) + each).logsumexp(-1)
    torch.testing.assert_close(marginal(p, observed).log_prob(value), exact)


def test_mixture_of_logistics_sums_over_a_channel():
    """Channels share their component, so that one that is missing is summed out within it."""
    torch.manual_seed(0)
    family = pv.likelihoods.DiscretizedLogisticMixture(components=3, levels=4)
    family.setup((2, 2, 2))
    family.offset.copy_(torch.tensor([0.1, 0.5, 0.9]))
    p = family(torch.randn(family.param_shape()))
    x = p.sample()
    observed = torch.ones(2, 2, 2, dtype=torch.bool)
    observed[1, 0, 1] = False
    whole = x.repeat(4, 1, 1, 1)
    whole[:, 1, 0, 1] = torch.arange(4.0)
    torch.testing.assert_close(marginal(p, observed).log_prob(x), p.log_prob(whole).logsumexp(0))
    assert marginal(p, observed).sample((3,)).shape == (3, 2, 2, 2)


def test_marginal_of_mixtures_of_vectors():
    logits, loc = torch.tensor([0.2, -0.3]), torch.randn(2, 3)
    root = torch.randn(2, 3, 3)
    covariance = root @ root.mT + torch.eye(3)
    p = dist.MixtureSameFamily(dist.Categorical(logits=logits), dist.MultivariateNormal(loc, covariance))
    observed = torch.tensor([[True, False, True]])
    x = torch.randn(1, 3)
    keep = [0, 2]
    each = dist.MultivariateNormal(loc[:, keep], covariance[:, keep][:, :, keep]).log_prob(x[:, keep])
    exact = (logits.log_softmax(0) + each).logsumexp(0)
    torch.testing.assert_close(marginal(p, observed).log_prob(x)[0], exact)


class Simplex(pv.families.Family):
    """A likelihood whose elements depend on each other in another way."""

    support = dist.constraints.simplex

    def param_shape(self):
        return self.event_shape

    def forward(self, raw):
        return dist.Dirichlet(torch.nn.functional.softplus(raw) + 0.1)


def test_others_refuse_and_name_what_works():
    p = dist.Dirichlet(torch.ones(4, 3))
    with pytest.raises(ValueError, match=r"depend on each other.*pv.likelihoods.Normal.*FullRankNormal"):
        marginal(p, torch.rand(4, 3) < 0.5)
    vae = pv.VAE((3,), 2, likelihood=Simplex(), encoder=pv.nets.mlp(4), decoder=pv.nets.mlp(4))
    x = p.sample()
    x[0] = math.nan
    with pytest.raises(pv.data.DataError, match=r"x has missing values.*Dirichlet"):
        pv.evaluate.elbo(vae, x)
    assert math.isfinite(pv.evaluate.elbo(vae, p.sample()).elbo)


def test_draws_are_those_of_the_whole_distribution():
    """What is missing is drawn like the rest, where nothing is observed any more."""
    _, _, p, x = drawn("FullRankNormal")
    observed = ~gaps(x).isnan()
    draws = marginal(p, observed).sample((40_000,))
    torch.testing.assert_close(draws.mean(0), p.mean, rtol=0, atol=0.1)
    assert draws.shape == (40_000, 6, *EVENT_SHAPE)


@pytest.mark.parametrize(
    "name", ["Normal", "LowRankNormal", "MixtureOfNormals", "DiscretizedLogisticMixture"]
)
def test_particles_of_data_with_gaps(name):
    vae, _, _, x = drawn(name)
    x = gaps(x)
    many = log_weights(vae, x, 3)
    assert many.shape == (3, 6)
    torch.manual_seed(1)
    one = log_weights(vae, x, 1)
    torch.manual_seed(1)
    torch.testing.assert_close(log_weights(vae, {"x": x}, 1), one)


def of_last(p, x: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """p(x_1 | others) at points, of a vector of two or more, normalised over them."""
    whole = x.repeat(len(points), 1)
    whole[:, 1] = points
    return p.log_prob(whole).softmax(0)


def test_conditional_of_normals_and_of_their_mixtures():
    """Mean and quantiles of draws, against the joint density on a grid; what is observed stays."""
    torch.manual_seed(0)
    root = torch.randn(2, 3, 3)
    covariance = root @ root.mT + 0.3 * torch.eye(3)
    loc, weights = torch.randn(2, 3), dist.Categorical(logits=torch.tensor([0.2, -0.3]))
    normal = dist.MultivariateNormal(loc[0], covariance[0])
    low_rank = dist.LowRankMultivariateNormal(loc[0], root[0, :, :2], torch.tensor([0.3, 0.4, 0.5]))
    diagonal = pv.distributions.MixtureOfDiagNormals(weights.logits, loc, torch.rand(2, 3) + 0.3)
    full = dist.MixtureSameFamily(weights, dist.MultivariateNormal(loc, covariance))
    x, observed = torch.tensor([0.4, 0.0, -0.5]), torch.tensor([True, False, True])
    points = torch.linspace(-15, 15, 6001)
    for p in (normal, low_rank, diagonal, full, normal.expand((2,))):
        density = of_last(p if not p.batch_shape else normal, x, points)
        mean = (density * points).sum()
        std = (density * (points - mean).square()).sum().sqrt()
        found = conditional(p, x, observed)
        torch.testing.assert_close(found.mean[..., 1], mean.expand(p.batch_shape), rtol=0, atol=1e-3)
        draws = found.sample((20_000,))
        assert draws.shape == (20_000, *p.batch_shape, 3)
        assert (draws[..., [0, 2]] == x[[0, 2]]).all()
        assert ((draws[..., 1].mean(0) - mean).abs() < 5 * std / 140).all()
        assert ((draws[..., 1].std(0) / std - 1).abs() < 0.05).all()


@pytest.mark.parametrize("name", [n for n in LIKELIHOODS if n != "DiscretizedLogisticMixture"])
def test_conditional_keeps_what_is_observed(name):
    _, _, p, x = drawn(name)
    x = gaps(x)
    observed, value = filled(x, p)
    found = conditional(p, value, observed)
    draws = found.sample((3,))
    assert draws.shape == (3, 6, *EVENT_SHAPE)
    assert (draws == x)[:, observed].all()
    assert draws.isfinite().all()
    assert support(p).check(draws.to(value)).all()
    if not name.startswith("ZeroInflated"):  # which Pyro cannot expand
        particles = conditional(p.expand((4, 6)), value, observed).sample()
        assert particles.shape == (4, 6, *EVENT_SHAPE)


def test_conditional_of_nothing_is_the_whole():
    _, _, p, x = drawn("FullRankNormal")
    found = conditional(p, x, torch.zeros_like(x, dtype=torch.bool))
    torch.testing.assert_close(found.mean, p.mean)
    torch.testing.assert_close(found.sample((40_000,)).mean(0), p.mean, rtol=0, atol=0.1)


def test_what_has_no_conditional_is_told():
    with pytest.raises(ValueError, match="Dirichlet cannot be drawn of which some elements are given"):
        conditional(dist.Dirichlet(torch.ones(3)), torch.ones(3) / 3, torch.tensor([True, False, False]))
