"""The priors, likelihoods and guides that the contract is tested on."""

import inspect

import pyro.distributions as dist
import torch
from torch.distributions import Distribution

import pyro_vae as pv

D = 3
EVENT_SHAPE = (2, 3)

PRIORS = {
    "Normal": pv.priors.Normal(),
    "Normal-learned": pv.priors.Normal(learned=True),
    "MixtureOfNormals": pv.priors.MixtureOfNormals(4),
    "VampPrior": pv.priors.VampPrior(6),
    "Fixed": pv.priors.Fixed(dist.Normal(1.0, 2.0)),
    "Laplace": dist.Laplace(0.0, 1.0),
    "StudentT": dist.StudentT(4.0),
    "Cauchy": dist.Cauchy(0.0, 1.0),
    "Gumbel": dist.Gumbel(0.0, 1.0),
    "per-latent": dist.Normal(torch.zeros(D), torch.tensor([1.0, 2.0, 3.0])),
    "MultivariateNormal": dist.MultivariateNormal(torch.zeros(D), torch.eye(D) + 0.5),
    "mixture": dist.MixtureSameFamily(
        dist.Categorical(torch.tensor([0.3, 0.7])),
        dist.Normal(torch.tensor([[-2.0, 0.0, 1.0], [1.0, 1.0, 1.0]]), torch.ones(2, D)).to_event(1),
    ),
    "mixture-of-Gammas": dist.MixtureSameFamily(
        dist.Categorical(torch.tensor([0.3, 0.7])),
        dist.Gamma(torch.full((2, D), 3.0), torch.tensor([[1.0], [4.0]]).expand(2, D)).to_event(1),
    ),
    "Uniform": dist.Uniform(-1.0, 2.0),
    "Gamma": dist.Gamma(2.0, 1.0),
    "LogNormal": dist.LogNormal(0.0, 0.5),
    "Weibull": dist.Weibull(1.0, 2.0),
    "Beta": dist.Beta(2.0, 3.0),
    "Dirichlet": dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])),
    "VonMises": dist.VonMises(0.5, 2.0),
} | {
    f"Flow-{transform}": pv.priors.Flow(transform, num_transforms=2, hidden_dims=[8])
    for transform in (
        "spline_coupling",
        "affine_coupling",
        "affine_autoregressive",
        "spline_autoregressive",
        "spline",
    )
}

GUIDES = {
    "Normal": pv.guides.Normal(),
    "FullRankNormal": pv.guides.FullRankNormal(),
    "LowRankNormal": pv.guides.LowRankNormal(2),
    "MixtureOfNormals": pv.guides.MixtureOfNormals(3),
    "Laplace": pv.guides.Laplace(),
    "StudentT": pv.guides.StudentT(),
} | {
    f"Flow-{transform}": pv.guides.Flow(transform, hidden_dims=[8], context_dim=4)
    for transform in (
        "affine_autoregressive",
        "spline_autoregressive",
        "spline",
        "affine_coupling",
        "planar",
        "radial",
        "householder",
    )
}
OWN_SUPPORT = {"Gamma": pv.guides.Gamma(), "Beta": pv.guides.Beta(), "Dirichlet": pv.guides.Dirichlet()}
"""Guides that go with the prior of the same name only."""
GUIDES |= OWN_SUPPORT

NUMBERS = {
    "AffineBeta": {"loc": -1.0, "scale": 3.0},
    "BetaBinomial": {"total_count": 10},
    "Binomial": {"total_count": 10},
    "DiscretizedLogistic": {"levels": 16},
    "DiscretizedNormal": {"levels": 16},
    "ExtendedBetaBinomial": {"total_count": 10},
    "ExtendedBinomial": {"total_count": 10},
    "GeneralizedPareto": {"loc": 0.0, "concentration": 0.2},
    "Pareto": {"scale": 1.0},
    "RelaxedBernoulli": {"temperature": 0.5},
}
"""Parameters that must be numbers."""


def families() -> dict[str, pv.likelihoods.Likelihood]:
    """A likelihood of each of Pyro's families that can be one."""
    found = {}
    for name, family in vars(dist).items():
        if inspect.isclass(family) and issubclass(family, Distribution):
            try:
                found[name] = pv.likelihoods.of(family)(**NUMBERS.get(name, {}))
            except ValueError:  # test_families.py knows the reason
                continue
    del found["Categorical"]
    return found


FAMILIES = families()
LIKELIHOODS = FAMILIES | {
    "PseudoBernoulli": pv.likelihoods.PseudoBernoulli(),
    "Normal-shared": pv.likelihoods.Normal(scale="shared"),
    "Normal-per-pixel": pv.likelihoods.Normal(scale="per_pixel"),
    "Normal-fixed": pv.likelihoods.Normal(scale=0.3),
    "StudentT-mixed": pv.likelihoods.StudentT(df=4.0, scale="shared"),
    "Gamma-shared": pv.likelihoods.Gamma(concentration="shared"),
    "Categorical": pv.likelihoods.Categorical(levels=5),
    "DiscretizedLogistic": pv.likelihoods.DiscretizedLogistic(levels=16),
    "DiscretizedNormal": pv.likelihoods.DiscretizedNormal(levels=16, scale="shared"),
    "DiscretizedLogisticMixture": pv.likelihoods.DiscretizedLogisticMixture(components=3, levels=8),
    "LogitNormal": pv.likelihoods.LogitNormal(),
    "TruncatedNormal": pv.likelihoods.TruncatedNormal(),
    "LowRankNormal": pv.likelihoods.LowRankNormal(2),
    "LowRankNormal-shared": pv.likelihoods.LowRankNormal(2, covariance="shared"),
}


def build(seed: int = 2, **parts) -> pv.VAE:
    """A small VAE; keywords swap its parts."""
    torch.manual_seed(seed)
    nets = {"encoder": pv.nets.mlp(8), "decoder": pv.nets.mlp(8)}
    name = type(parts.get("guide")).__name__
    if name in OWN_SUPPORT:
        nets["prior"] = PRIORS[name]
    return pv.VAE(EVENT_SHAPE, D, **(nets | parts))
