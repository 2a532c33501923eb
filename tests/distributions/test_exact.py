"""Distributions of this package's own: exact, far into the tails."""

import math

import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.distributions.discretized import _log_ndtr

double = pytest.mark.usefixtures("double")


@double
@pytest.mark.parametrize("event_shape", [(2, 1, 2), (2, 2), (3,)])
def test_mixture_of_logistics_sums_to_one(event_shape):
    """Over all images, with channels that share their component and without."""
    torch.manual_seed(0)
    levels = 4
    likelihood = pv.likelihoods.DiscretizedLogisticMixture(components=3, levels=levels)
    likelihood.setup(event_shape)
    likelihood.offset.copy_(torch.tensor([0.1, 0.5, 0.9]))
    p = likelihood(torch.randn(likelihood.param_shape()))
    images = torch.cartesian_prod(*[torch.arange(levels).double()] * math.prod(event_shape))
    probability = p.log_prob(images.reshape(-1, *event_shape)).exp()
    assert probability.sum().item() == pytest.approx(1)
    mean = (probability[:, None] * images).sum(0).reshape(event_shape)
    torch.testing.assert_close(p.mean, mean)
    second = (probability[:, None] * images**2).sum(0).reshape(event_shape)
    torch.testing.assert_close(p.variance, second - mean**2)
    draws = p.sample((100_000,)).flatten(1)
    counts = torch.bincount(
        (draws * levels ** torch.arange(draws.shape[1] - 1, -1, -1)).sum(1).long(), minlength=len(images)
    )
    assert (counts / 100_000 - probability).abs().max().item() < 5 * (0.25 / 100_000) ** 0.5


def test_mixture_of_logistics_shares_its_component_across_channels():
    """Two far components: both channels come from the same one, where independent pixels mix."""
    logits, scale = torch.zeros(2, 1, 1), torch.full((2, 2, 1, 1), 0.01)
    loc = torch.tensor([0.1, 0.9])[:, None, None, None].expand(2, 2, 1, 1)
    p = pv.distributions.DiscretizedLogisticMixture(logits, loc, scale, 256, event_shape=(2, 1, 1))
    x = p.sample((1000,)).flatten(1)
    assert ((x[:, 0] > 128) == (x[:, 1] > 128)).all()


@double
def test_discretised_families_are_exact():
    """Differences of the distribution function, edges included, far into the tails."""
    k = torch.arange(256.0)
    for family, cdf in (
        (pv.distributions.DiscretizedLogistic, torch.sigmoid),
        (pv.distributions.DiscretizedNormal, torch.special.ndtr),
    ):
        for loc, scale in [(0.5, 0.1), (0.0, 0.5), (1.2, 0.02), (-0.1, 0.3)]:
            edges = ((k[:-1] + 0.5) / 255 - loc) / scale
            upper = torch.cat([cdf(edges), torch.ones(1)])
            direct = upper - torch.cat([torch.zeros(1), upper[:-1]])
            p = family(torch.tensor(loc), torch.tensor(scale), 256)
            torch.testing.assert_close(p.log_prob(k).exp(), direct, atol=1e-14, rtol=1e-9)
            assert p.log_prob(k).isfinite().all()
            assert p.log_prob(k).exp().sum().item() == pytest.approx(1)
        single = family(torch.tensor(0.3, dtype=torch.float32), torch.tensor(1e-3, dtype=torch.float32), 256)
        assert single.log_prob(k.float()).isfinite().all()


@double
@pytest.mark.parametrize(("gate", "loc", "scale"), [(-2.0, 0.0, 0.5), (3.0, 5.0, 1.0), (0.0, -20.0, 0.1)])
def test_zero_inflated_log_normal(gate, loc, scale):
    """A probability at 0 and a density elsewhere, which make 1; moments; draws."""
    p = pv.distributions.ZeroInflatedLogNormal(*map(torch.tensor, (gate, loc, scale)))
    log_x = torch.linspace(loc - 10 * scale, loc + 14 * scale, 100_001)
    x, at_zero = log_x.exp(), p.log_prob(torch.zeros(()))
    density = p.log_prob(x).exp() * x
    assert torch.trapezoid(density, log_x).item() == pytest.approx(1 - at_zero.exp().item(), rel=1e-9)
    assert p.log_prob(torch.tensor(-0.0)) == at_zero
    torch.testing.assert_close(at_zero, torch.tensor(gate).sigmoid().log())
    mean = torch.trapezoid(x * density, log_x)
    torch.testing.assert_close(p.mean, mean)
    second = torch.trapezoid(x.square() * density, log_x)
    torch.testing.assert_close(p.variance, second - mean.square())
    draws = p.expand((3,)).sample((40_000,))
    zero = at_zero.exp().item()
    spread = (zero * (1 - zero) / draws.numel()) ** 0.5
    assert (draws == 0).double().mean().item() == pytest.approx(zero, abs=5 * spread)
    logs = draws[draws > 0].log()
    assert logs.mean().item() == pytest.approx(loc, abs=5 * scale / len(logs) ** 0.5)
    assert logs.std().item() == pytest.approx(scale, rel=5 / len(logs) ** 0.5)


def test_whole_numbers_have_one_zero():
    draws = pv.distributions.RoundedLogistic(torch.tensor(-0.1), torch.tensor(0.1)).sample((1000,))
    assert (draws == 0).any()
    assert not (draws[draws == 0].signbit()).any()


def test_zero_inflated_log_normal_in_single_precision():
    """Finite at the ends of single precision, with gradients that zeros do not spoil; no moment is NaN."""
    parameters = [torch.tensor(value, requires_grad=True) for value in (0.3, 0.0, 1.0)]
    for x in (0.0, 1e-45, 1e-38, 3.4e38):
        log_p = pv.distributions.ZeroInflatedLogNormal(*parameters).log_prob(torch.tensor(x))
        assert log_p.isfinite()
        assert all(slope.isfinite() for slope in torch.autograd.grad(log_p, parameters))
    for gate in (-1e4, 1e4):
        gate = torch.tensor(gate, requires_grad=True)
        log_p = pv.distributions.ZeroInflatedLogNormal(gate, 0.0, 1.0).log_prob(torch.tensor([0.0, 2.0]))
        assert log_p.isfinite().all()
        assert torch.autograd.grad(log_p.sum(), gate)[0].abs() == 1
    for loc, scale in ((0.0, 10.0), (85.0, 1.0)):
        assert pv.distributions.ZeroInflatedLogNormal(-1.0, loc, scale).variance == math.inf


@double
def test_truncated_normal_keeps_its_moments_in_the_tails():
    x = torch.linspace(0, 1, 200_001)
    for loc, scale in [(0.5, 0.1), (-0.5, 0.2), (1.7, 0.3), (0.2, 5.0), (-3.0, 0.3)]:
        p = pv.distributions.TruncatedNormal(torch.tensor(loc), torch.tensor(scale))
        density = p.log_prob(x).exp()
        assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=1e-6)
        mean = torch.trapezoid(x * density, x).item()
        assert p.mean.item() == pytest.approx(mean, abs=1e-6)
        variance = torch.trapezoid((x - mean) ** 2 * density, x).item()
        assert p.variance.item() == pytest.approx(variance, rel=1e-3)
        draws = p.sample((100_000,))
        assert draws.mean().item() == pytest.approx(mean, abs=5 * (variance / 100_000) ** 0.5)


def test_tails_of_the_normal_in_single_precision():
    z = torch.tensor([-5e4, -5e3, -40.0, -3.0, -1.0, 0.0, 2.0], requires_grad=True)
    exact = torch.special.log_ndtr(z.double().detach())
    value = _log_ndtr(z)
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-6)
    (slope,) = torch.autograd.grad(value.sum(), z)
    normal = -0.5 * z.detach().double().square() - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(slope.double(), (normal - exact).exp(), rtol=1e-3, atol=0)
    p = pv.distributions.TruncatedNormal(torch.tensor(5.0), torch.tensor(1e-3).requires_grad_())
    assert torch.autograd.grad(p.log_prob(torch.tensor(0.3)), p.scale)[0].isfinite()
    far = pv.distributions.TruncatedNormal(torch.tensor([-10.0, 11.0]), torch.tensor(0.01))
    torch.testing.assert_close(far.sample((1000,)).mean(0), torch.tensor([1e-5, 1 - 1e-5]), rtol=0, atol=5e-6)
    wide = pv.distributions.TruncatedNormal(torch.tensor(0.5), torch.tensor(1e3))
    assert wide.variance.item() == pytest.approx(1 / 12, rel=1e-3)


def test_pseudo_bernoulli_is_the_formula_and_no_density():
    logits = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    p = pv.distributions.PseudoBernoulli(logits=logits)
    binary = torch.tensor([0.0, 1.0], dtype=torch.float64)[:, None]
    torch.testing.assert_close(p.log_prob(binary), dist.Bernoulli(logits=logits).log_prob(binary))
    x = ((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)[:, None]
    integral = p.log_prob(x).exp().mean(0)
    exact = (logits.exp() - 1) / (logits * (1 + logits.exp()))
    exact[1] = 0.5  # its limit
    torch.testing.assert_close(integral, exact)
    assert (integral <= 0.5 + 1e-12).all()
    with pytest.raises(ValueError, match="support"):
        p.log_prob(torch.tensor(1.5))


@double
def test_gradients_of_the_mixture_move_its_draws():
    """d/dtheta E[f(z)], weights included, by the pathwise estimator and by the score."""
    logits = torch.tensor([0.3, -0.2, 0.1], requires_grad=True)
    loc = torch.tensor([[-1.0, 0.5], [0.8, -0.4], [0.2, 1.0]], requires_grad=True)
    scale = torch.tensor([[0.5, 0.7], [0.6, 0.9], [0.8, 0.4]], requires_grad=True)
    parameters = (logits, loc, scale)

    def f(z):
        return z.tanh().sum(-1) + (z[..., 0] * z[..., 1]).tanh()

    p = pv.distributions.MixtureOfDiagNormals(*parameters)
    z = p.rsample((300_000,))
    pathwise = torch.autograd.grad(f(z).mean(), parameters)
    z = z.detach()
    centred = f(z) - f(z).mean()
    score = torch.autograd.grad((centred * p.log_prob(z)).mean(), parameters)
    for one, other in zip(pathwise, score, strict=True):
        torch.testing.assert_close(one, other, atol=0.015, rtol=0)


def test_reshaped_keeps_what_the_vector_has():
    base = dist.MultivariateNormal(torch.arange(6.0), torch.eye(6) + 0.2)
    p = pv.distributions.Reshaped(base, (2, 3))
    x = p.sample((4,))
    assert x.shape == (4, 2, 3)
    torch.testing.assert_close(p.log_prob(x), base.log_prob(x.flatten(1)))
    assert torch.equal(p.mean, base.mean.reshape(2, 3))
    assert p.expand((5,)).sample().shape == (5, 2, 3)
    assert p.has_rsample


@double
def test_own_forms_of_pyros_families_agree_with_them():
    x = torch.linspace(0.05, 0.95, 19)
    for a, b in [(0.5, 2.0), (2.0, 0.5), (3.0, 4.0)]:
        args = torch.tensor(a), torch.tensor(b)
        ours, theirs = pv.distributions.Kumaraswamy(*args), dist.Kumaraswamy(*args)
        torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x))
    for xi in (0.2, 0.0, -0.3):
        args = torch.tensor(0.0), torch.tensor(1.5), torch.tensor(xi)
        ours, theirs = pv.distributions.GeneralizedPareto(*args), dist.GeneralizedPareto(*args)
        torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x))
    p = pv.distributions.Categorical(logits=torch.tensor([0.1, 0.7, -0.3]))
    level, probs = torch.arange(3.0), p.probs
    assert p.mean.item() == pytest.approx((level * probs).sum().item())
    assert p.variance.item() == pytest.approx((level**2 * probs).sum().item() - p.mean.item() ** 2)
