"""The stream of importance weights, and the tail's shape against distributions of which it is known."""

import math

import pyro.distributions as dist
import pytest
import torch

from pyro_vae.evaluate.pareto import Weights, pareto_k, warn_of_tails
from pyro_vae.program import DataWarning

pytestmark = pytest.mark.usefixtures("double")


def stream(log_w, *sizes):
    weights = Weights(len(log_w))
    for part in log_w.split(sizes or len(log_w)):
        weights.add(part)
    return weights


def test_a_stream_is_the_same_however_it_is_cut():
    log_w = 3 * torch.randn(1000, 7) - 90
    whole = stream(log_w)
    torch.testing.assert_close(whole.log_mean, log_w.logsumexp(0) - math.log(1000))
    normalised = log_w.softmax(0)
    torch.testing.assert_close(whole.effective_sample_size, 1 / normalised.square().sum(0))
    for sizes in ([999, 1], [1, 999], [300, 300, 300, 100], [10] * 100):
        cut = stream(log_w, *sizes)
        assert torch.equal(cut.largest, whole.largest)
        assert torch.equal(cut.pareto_k, whole.pareto_k)
        assert len(cut.largest) == 95  # 3 sqrt(K), and where the tail begins
        torch.testing.assert_close(cut.log_mean, whole.log_mean, rtol=1e-14, atol=0)
        torch.testing.assert_close(cut.effective_sample_size, whole.effective_sample_size, rtol=1e-12, atol=0)


@pytest.mark.parametrize("k", [-0.4, 0.1, 0.5, 0.9])
def test_tails_that_are_pareto(k):
    """Above any threshold a generalised Pareto distribution is one again, of the same shape."""
    u = torch.rand(5000, 400)
    found = stream((((1 - u) ** -k - 1) / k + 0.3).log()).pareto_k
    tail = int(3 * math.sqrt(5000))
    expected = (tail * k + 5) / (tail + 10)  # as the prior, worth 10 of them, shrinks it towards 1/2
    assert found.mean().item() == pytest.approx(expected, abs=0.02)
    if k > 0:  # as of maximum likelihood, which is regular there
        assert found.std().item() == pytest.approx((1 + k) / tail**0.5, rel=0.15)


@pytest.mark.parametrize("scale", [0.9, 0.6, 0.4])
def test_a_proposal_narrower_than_a_normal_target(scale):
    """P(w > t) falls as t^(-1/k) with k = 1 - scale^2, up to logarithms."""
    z = scale * torch.randn(50_000, 100)
    log_w = dist.Normal(0.0, 1.0).log_prob(z) - dist.Normal(0.0, scale).log_prob(z)
    assert stream(log_w).pareto_k.mean().item() == pytest.approx(1 - scale**2, abs=0.07)


def test_a_wide_proposal_has_bounded_weights():
    z = 1.5 * torch.randn(5000, 50)
    log_w = dist.Normal(0.0, 1.0).log_prob(z) - dist.Normal(0.0, 1.5).log_prob(z)
    weights = stream(log_w)
    assert (weights.pareto_k < 0).all()
    moment = (2 * log_w).exp().mean(0)  # E w^2, of which the effective sample size is K / E w^2
    torch.testing.assert_close(weights.effective_sample_size, 5000 / moment, rtol=0.05, atol=0)


def test_tails_that_cannot_be_fitted():
    assert stream(torch.randn(24, 3)).pareto_k.isnan().all()
    assert stream(torch.randn(25, 3)).pareto_k.isfinite().all()
    assert stream(torch.randn(3, 2)).pareto_k.isnan().all()
    same = torch.full((1000, 2), -90.0) + 1e-6 * torch.randn(1000, 2)  # of an exact guide, but for rounding
    assert (stream(same).pareto_k == -math.inf).all()
    few = torch.tensor([-1.0, 0.5, 2.0])[torch.randint(3, (1000, 2))]  # of a discrete latent
    assert (stream(few).pareto_k == -math.inf).all()
    assert stream(torch.full((1000, 1), -math.inf)).pareto_k.isnan().all()
    assert stream(torch.full((1000, 1), math.nan)).log_mean.isnan().all()


@pytest.mark.parametrize("spread", [100.0, 1e3, 1e4, 3e5, 1e9])
def test_weights_that_one_outweighs_by_far(spread):
    """As of a decoder of pixels that is nearly certain: the others are 0 next to it, and not equal."""
    log_w = spread * torch.randn(1000, 200)
    found = stream(log_w)
    assert (found.effective_sample_size < 3).all()
    assert (found.pareto_k > 1).all()
    few = torch.where(torch.arange(1000)[:, None] < 5, -1.0, -math.inf).expand(-1, 3)  # equal, or impossible
    assert (stream(few).pareto_k == -math.inf).all()


def test_as_arviz_has_it():
    arviz = pytest.importorskip("arviz_stats.base", reason="arviz-stats is not installed")
    for number in (25, 100, 1000, 5000):
        log_w = 2 * torch.randn(20, number)
        _, expected = arviz.array_stats.psislw(-log_w.numpy(), r_eff=1.0)
        torch.testing.assert_close(stream(log_w.mT).pareto_k, torch.tensor(expected), rtol=1e-8, atol=1e-8)


def test_data_are_named_the_worst_first():
    k = torch.tensor([0.2, math.nan, 0.9, -math.inf, 1.3, 0.7])
    with pytest.warns(DataWarning, match=r"2 of 6 data .* 1\.30; data 4, 2\); .*num_samples=10000, .*ais"):
        warn_of_tails(k, 1000)
    warn_of_tails(k[[0, 1, 3, 5]], 1000)
    warn_of_tails(k, 999)  # too few to tell
    with pytest.warns(DataWarning, match=r"9 of 9 data .*data 8, 7, 6, 5, 4 \.\.\.\)"):
        warn_of_tails(torch.arange(1.0, 10.0), 1000)


def test_no_unit():
    log_w = torch.randn(1000, 5).sort(0, descending=True).values[:96]
    torch.testing.assert_close(pareto_k(log_w), pareto_k(log_w - 1000))
