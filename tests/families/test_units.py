"""Columns in units of their own: log p(x) changes by the sum of the logarithms of the units, and not more."""

import math
import warnings

import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.objectives import log_weights
from pyro_vae.program import DataWarning

UNITS = torch.tensor([1.0, 2.0**10, 2.0**-7, 2.0**6])  # without rounding, so that nothing else differs


def train(likelihood, x: torch.Tensor, steps: int = 30) -> tuple[pv.VAE, torch.Tensor]:
    """A VAE trained on x, and its importance-weighted bounds."""
    torch.manual_seed(0)
    vae = pv.VAE((4,), 2, likelihood=likelihood, encoder=pv.nets.mlp(8), decoder=pv.nets.mlp(8))
    vae.initialize(pv.data.Split(x))
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-2)
    torch.manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        (-log_weights(vae, x).mean()).backward()
        optimizer.step()
    return vae, pv.evaluate.log_likelihood(vae, x, num_samples=20).per_datum


@pytest.fixture
def columns():
    torch.manual_seed(7)
    z = torch.randn(120, 2)
    x = z @ torch.randn(2, 4) + 0.4 * torch.randn(120, 4) + torch.tensor([3.0, -2.0, 0.5, 1.0])
    return x.double()


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("gaps", [False, True], ids=["whole", "gaps"])
@pytest.mark.parametrize(
    ("likelihood", "positive"),
    [
        (pv.likelihoods.Normal(), False),
        (pv.likelihoods.Normal(scale="shared"), False),
        (pv.likelihoods.Normal(scale="per_element"), False),
        (pv.likelihoods.StudentT(), False),
        (pv.likelihoods.StudentT(df=4.0, scale="shared"), False),
        (pv.likelihoods.Laplace(), False),
        (pv.likelihoods.Laplace(scale="shared"), False),
        (pv.likelihoods.Logistic(scale="per_element"), False),
        (pv.likelihoods.LowRankNormal(1), False),
        (pv.likelihoods.FullRankNormal(), False),
        (pv.likelihoods.MixtureOfNormals(2), False),
        (pv.likelihoods.Gamma(), True),
        (pv.likelihoods.Gamma(rate="shared"), True),
        (pv.likelihoods.Weibull(), True),
        (pv.likelihoods.LogNormal(), True),
        (pv.likelihoods.Exponential(), True),
    ],
    ids=repr,
)
def test_units_do_not_matter(columns, likelihood, positive, gaps):
    """The same rows in other units, under the same seed: the same fit, to the last digits."""
    x = columns.div(3).exp() if positive else columns
    if gaps:
        x = torch.where(torch.rand_like(x) < 0.2, math.nan, x)
    _, one = train(likelihood, x)
    _, other = train(likelihood, x * UNITS)
    jacobian = (UNITS.log() * ~x.isnan()).sum(-1)
    torch.testing.assert_close(one, other + jacobian, atol=0.01, rtol=0)
    assert one.isfinite().all()


@pytest.mark.usefixtures("double")
def test_shifts_do_not_matter(columns):
    for likelihood in (pv.likelihoods.Normal(scale="shared"), pv.likelihoods.StudentT()):
        _, one = train(likelihood, columns)
        _, other = train(likelihood, columns + torch.tensor([0.0, 100.0, -5.0, 1e4]))
        torch.testing.assert_close(one, other, atol=0.02, rtol=0)


def test_every_column_is_used():
    """Counts of very different sizes: each column starts at its own rate, and is seen by the encoder."""
    rates = torch.tensor([0.5, 20.0, 3000.0, 5.0])
    x = dist.Poisson(rates.expand(200, 4)).sample()
    vae, bound = train(dist.Poisson, x, steps=20)
    assert bound.isfinite().all()
    raw = torch.zeros(1, *vae.p_x.family.param_shape())
    rate = vae.p_x.family(raw).base_dist.rate[0]
    torch.testing.assert_close(rate, x.mean(0), rtol=0.02, atol=0.02)
    best = dist.Poisson(x.mean(0)).log_prob(x).sum(-1).mean()
    assert bound.mean() > best - 1
    seen = vae.q_z.seen[0](x)
    torch.testing.assert_close(seen.std(0, correction=0), torch.ones(4), rtol=1e-3, atol=1e-3)


def test_a_constant_column_is_named_and_ends_finite(columns):
    x = columns.float()
    x[:, 1], x[:, 3] = 7.0, 0.0
    for likelihood in (
        pv.likelihoods.Normal(),
        pv.likelihoods.Normal(scale="per_element"),
        dist.StudentT,
        dist.Laplace,
    ):
        with pytest.warns(
            DataWarning, match=r"constant in the training data: column 1 \(all 7\), 3 \(all 0\) of x"
        ):
            vae, bound = train(likelihood, x, steps=30)
        assert bound.isfinite().all()
        assert all(p.isfinite().all() for p in vae.parameters())
    for counts in (dist.Poisson, pv.likelihoods.Categorical(9)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            train(counts, torch.full((20, 4), 3.0) + torch.arange(20)[:, None] % 2, steps=2)


def test_images_are_divided_by_one_number():
    x = torch.rand(60, 1, 4, 4) * torch.linspace(0.1, 5, 16).reshape(1, 4, 4)
    vae = pv.VAE((1, 4, 4), 2, likelihood=pv.likelihoods.Normal(scale="shared"), encoder=pv.nets.mlp(4))
    vae.initialize(pv.data.Split(x))
    (seen,) = vae.q_z.seen
    pooled = x.var(0, correction=0).mean().sqrt()
    assert seen.scale.shape == ()
    assert seen.scale.item() == pytest.approx(pooled.item(), rel=1e-5)
    assert vae.p_x.family.parameter["loc"].unit.item() == pytest.approx(pooled.item(), rel=1e-5)
    assert vae.p_x.family.parameter["scale"].unit.shape == ()


def test_bounded_columns_are_not_blown_up():
    """A vector of binary values is seen as it is, but for its mean: one number for all."""
    x = (torch.rand(100, 5) < torch.tensor([0.01, 0.5, 0.5, 0.9, 0.5])).float()
    vae = pv.VAE((5,), 2, encoder=pv.nets.mlp(4), decoder=pv.nets.mlp(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vae.initialize(pv.data.Split(x))
    assert vae.q_z.seen[0].scale.unique().numel() == 1


def test_densities_stay_on_the_scale_of_the_data(columns):
    vae, _ = train(pv.likelihoods.Normal(scale="shared"), columns.float() * UNITS.float(), steps=1)
    p = vae.decode(torch.zeros(1, 2))
    by_hand = (
        dist.Normal(p.base_dist.loc, p.base_dist.scale).log_prob(columns.float() * UNITS.float()).sum(-1)
    )
    torch.testing.assert_close(p.log_prob(columns.float() * UNITS.float()), by_hand)
    ratio = p.base_dist.scale[0] / (columns.std(0, correction=0) * UNITS)
    torch.testing.assert_close(ratio, ratio[:1].expand(4), rtol=1e-3, atol=0)
