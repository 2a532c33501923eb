"""Densities integrate to one and fit their samples; distributions of this package's own are exact."""

import math

import pyro.distributions as dist
import pytest
import torch
from cases import FAMILIES, LIKELIHOODS, D, build

import pyro_vae as pv
from pyro_vae.constraints import bounds, support

pytestmark = pytest.mark.usefixtures("double")
UNIVARIATE = {n: c for n, c in FAMILIES.items() if n != "PseudoBernoulli"} | {
    "Categorical": LIKELIHOODS["Categorical"]
}


def grid(constraint) -> tuple[torch.Tensor, torch.Tensor]:
    """Points over a support, and the length (or the count) that each stands for."""
    low, high = (torch.as_tensor(end).flatten()[0].item() for end in bounds(constraint))
    if constraint.is_discrete:
        k = torch.arange(max(float(low), -3000.0), min(high, 3000.0) + 1)
        return k, torch.ones_like(k)
    if math.isinf(low):
        u = torch.linspace(-40, 40, 40_001)
        x, slope = u.sinh(), u.cosh()
    elif math.isinf(high):
        u = torch.linspace(-60, 60, 40_001)
        x, slope = low + u.exp(), u.exp()
    else:
        u = torch.linspace(-36, 36, 40_001)
        x, slope = low + (high - low) * u.sigmoid(), (high - low) * u.sigmoid() * (-u).sigmoid()
    return x, slope * (u[1] - u[0])


@pytest.mark.parametrize("name", UNIVARIATE)
def test_density_is_normalised_and_fits_the_samples(name):
    """Each element's density integrates or sums to 1; its distribution function is that of the samples."""
    vae = build(likelihood=UNIVARIATE[name])
    with torch.no_grad():
        p = vae.decode(torch.randn(1, D)).base_dist
        x, size = grid(support(p))
        if name == "ZeroInflatedLogNormal":  # whose 0 has a probability
            x, size = torch.cat([torch.zeros(1), x]), torch.cat([torch.ones(1), size])
        density = p.log_prob(x.reshape(-1, 1, 1, 1)).exp() * size.reshape(-1, 1, 1, 1)
        density = torch.where(density.isfinite(), density, 0.0)  # 0 times infinity at the ends
        total = density.sum(0)
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-3)
        number = 4000
        samples = p.sample((number,)).flatten(1).to(x)
        cdf = density.cumsum(0).flatten(1)
        for element, own in zip(samples.T, cdf.T, strict=True):
            empirical = torch.searchsorted(element.sort().values.contiguous(), x, right=True) / number
            assert (empirical - own).abs().max().item() < 2.2 / number**0.5  # Kolmogorov and Smirnov
        centre, kind = pv.distributions.centre(p)
        if kind == "mean":
            values = x.reshape(-1, 1, 1, 1)
            mean = torch.where(density > 0, values * density, 0.0).sum(0)
            if name not in ("FisherSnedecor", "InverseGamma", "GeneralizedPareto", "VonMises"):
                torch.testing.assert_close(centre, mean, rtol=1e-2, atol=1e-3)
        elif kind == "median":
            at = torch.searchsorted(x, centre.flatten())
            drawn = name in ("FisherSnedecor", "RelaxedBernoulli")  # which have no quantiles
            assert (cdf.gather(0, at[None]) - 0.5).abs().max().item() < (0.1 if drawn else 0.01)


@pytest.mark.parametrize("name", ["LowRankNormal", "LowRankNormal-shared", "FullRankNormal"])
def test_correlated_normals_are_the_dense_one(name):
    vae = build(likelihood=LIKELIHOODS[name])
    with torch.no_grad():
        vae.initialize(pv.data.Split(3 + 2 * torch.randn(20, 2, 3)))
        p = vae.decode(torch.randn(1, D))
        base = p.base
        if name == "FullRankNormal":
            covariance = base.scale_tril @ base.scale_tril.mT
        else:
            covariance = base.cov_factor @ base.cov_factor.mT + base.cov_diag.diag_embed()
        dense = dist.MultivariateNormal(base.loc, covariance)
        x = p.sample((100_000,))
        torch.testing.assert_close(p.log_prob(x), dense.log_prob(x.flatten(2)))
        sampled = x.flatten(1).T.cov()
        torch.testing.assert_close(sampled, covariance[0], rtol=0.03, atol=0.03 * covariance.max().item())
        torch.testing.assert_close(p.variance, covariance.diagonal(dim1=-2, dim2=-1).reshape(1, 2, 3))


def test_mixture_of_normals_is_the_sum():
    vae = build(likelihood=LIKELIHOODS["MixtureOfNormals"])
    with torch.no_grad():
        raw = vae.p_x.emit(torch.randn(1, D))
        p, family = vae.p_x.family(raw), vae.p_x.family
        x = p.sample((1000,))
        of_each = raw.unflatten(-1, (2, -1))
        total = 0.0
        for k in range(2):
            loc, free = of_each[0, k, 1:].chunk(2)
            scale = torch.nn.functional.softplus(free + math.log(math.e - 1))
            weight = of_each[0, :, 0].softmax(0)[k]
            one = dist.Normal(family.offset[k] + loc, scale).log_prob(x.flatten(1)).sum(-1)
            total = total + weight * one.exp()
        torch.testing.assert_close(p.log_prob(x)[:, 0], total.log(), rtol=1e-4, atol=1e-3)
        x = p.sample((200_000,)).flatten(1)
        torch.testing.assert_close(x.mean(0), p.mean.flatten(), rtol=0, atol=0.02)


def test_students_t_has_a_variance():
    """As a guide: df > 2, whatever the network says."""
    p = build(guide=pv.guides.StudentT()).q_z.family(torch.full((1, 3 * D), -50.0)).base_dist
    assert p.df.min() > 2
    assert p.variance.isfinite().all()
