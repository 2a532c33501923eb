"""The priors, likelihoods, guides and programs that the contract is tested on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pyro_vae as pv

D = 3
EVENT_SHAPE = (2, 3)

PRIORS = {
    "Normal": pv.priors.Normal(),
    "Normal-learned": pv.priors.Normal(learned=True),
    "MixtureOfNormals": pv.priors.MixtureOfNormals(4),
    "LowRankNormal": pv.priors.LowRankNormal(2),
    "FullRankNormal": pv.priors.FullRankNormal(),
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

OWN_SUPPORT = {
    "Beta": "Beta",
    "Chi2": "Gamma",
    "ContinuousBernoulli": "Beta",
    "Dirichlet": "Dirichlet",
    "Exponential": "Gamma",
    "Gamma": "Gamma",
    "HalfNormal": "Gamma",
    "Kumaraswamy": "Beta",
    "LogNormal": "Gamma",
    "Weibull": "Gamma",
}
"""Guides that are not over the reals, and a prior over the same support."""

GUIDES = (
    {name: getattr(pv.guides, name)() for name in dir(pv.guides)}
    | {
        "LowRankNormal": pv.guides.LowRankNormal(2),
        "MixtureOfNormals": pv.guides.MixtureOfNormals(3),
        "StudentT-df": pv.guides.StudentT(df=5.0),
        "Structured": pv.guides.Structured(features=4),
    }
    | {
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
)
del GUIDES["Flow"], GUIDES["Discrete"], GUIDES["VectorQuantised"]
OF_DISCRETE = {
    "prior": {"Bernoulli", "Codes", "OneHotCategorical"},
    "guide": {"Discrete", "VectorQuantised"},
    "likelihood": set[str](),
}
"""Parts of discrete latents, which have tests of their own in ``models/test_discrete.py`` and
``models/test_codes.py``."""

NUMBERS: dict[str, dict[str, float]] = {
    "AffineBeta": {"loc": -1.0, "scale": 3.0},
    "BetaBinomial": {"total_count": 10},
    "Binomial": {"total_count": 10},
    "Categorical": {"levels": 5},
    "DiscretizedLogistic": {"levels": 16},
    "DiscretizedLogisticMixture": {"components": 3, "levels": 8},
    "DiscretizedNormal": {"levels": 16},
    "ExtendedBetaBinomial": {"total_count": 10},
    "ExtendedBinomial": {"total_count": 10},
    "GeneralizedPareto": {"loc": 0.0, "concentration": 0.2},
    "LowRankNormal": {"rank": 2},
    "MixtureOfNormals": {"components": 2},
    "Ordinal": {"levels": 5},
    "Pareto": {"scale": 1.0},
    "RelaxedBernoulli": {"temperature": 0.5},
}
"""What some are made with."""

LIKELIHOODS = {
    name: getattr(pv.likelihoods, name)(**NUMBERS.get(name, {}))
    for name in dir(pv.likelihoods)
    if name not in ("Auto", "ByColumn")  # of tables, which are programs below
} | {
    "Normal-shared": pv.likelihoods.Normal(scale="shared"),
    "Normal-per-element": pv.likelihoods.Normal(scale="per_element"),
    "Normal-fixed": pv.likelihoods.Normal(scale=0.3),
    "StudentT-mixed": pv.likelihoods.StudentT(df=4.0, scale="shared"),
    "Gamma-shared": pv.likelihoods.Gamma(concentration="shared"),
    "DiscretizedNormal-shared": pv.likelihoods.DiscretizedNormal(levels=16, scale="shared"),
    "LowRankNormal-shared": pv.likelihoods.LowRankNormal(2, covariance="shared"),
}
FAMILIES = {name: case for name, case in LIKELIHOODS.items() if isinstance(case, pv.families.Univariate)}
"""Those that are independent over elements, and of numbers."""


def prior_of(guide: Any) -> Any:
    """A prior that a guide goes with."""
    name = getattr(guide, "name", "Normal")
    return PRIORS[OWN_SUPPORT[name]] if name in OWN_SUPPORT else pv.priors.Normal()


def build(seed: int = 2, **parts: Any) -> pv.VAE:
    """A small VAE; keywords swap its parts."""
    torch.manual_seed(seed)
    nets: dict[str, Any] = {"encoder": pv.nets.mlp(8), "decoder": pv.nets.mlp(8)}
    if "guide" in parts:
        nets["prior"] = prior_of(parts["guide"])
    return pv.VAE(EVENT_SHAPE, D, **(nets | parts))


class TwoSites(pv.Program):
    """A program of one's own: two latents, two observed sites, nothing but Pyro and ``nn.Module``s."""

    def __init__(self) -> None:
        super().__init__()
        self.event_shapes = {"x": (4,), "w": (2,)}
        self.to_x, self.to_w = nn.Linear(3, 4), nn.Linear(1, 2)
        self.encoder = nn.Linear(6, 3)
        self.log_scale = nn.Parameter(torch.zeros(2))

    def model(self, batch: Any) -> None:
        with self.plate(batch):
            a = pyro.sample("a", dist.Normal(self.log_scale.new_zeros(1), 1.0).to_event(1))
            b = pyro.sample("b", dist.Normal(a.expand(*a.shape[:-1], 2), 1.0).to_event(1))
            self.sample("x", dist.Bernoulli(logits=self.to_x(torch.cat([a, b], -1))).to_event(1), batch)
            self.sample("w", dist.Normal(self.to_w(a), self.log_scale.exp()).to_event(1), batch)

    def guide(self, batch: Any) -> None:
        seen = torch.cat([batch["x"], batch["w"]], -1).nan_to_num(0.0)
        loc = self.encoder(seen)
        with self.plate(batch):
            a = pyro.sample("a", dist.Normal(loc[..., :1], 0.8).to_event(1))
            pyro.sample("b", dist.Normal(a + loc[..., 1:], 0.9).to_event(1))


SMALL = {"encoder": pv.nets.mlp(8), "decoder": pv.nets.mlp(8)}
LATENT_WEIGHTS = SMALL | {"decoder": pv.nets.bayesian(pv.nets.mlp(8))}
LEVELS = SMALL | {"between": pv.nets.mlp(7)}
GIVEN = {"y": 3, "age": (2,)}
COLUMNS = {
    "height": "real",
    "visits": "count",
    "year": "integer",
    "ill": "boolean",
    "island": {"kind": "category", "levels": ["a", "b", "c"]},
    "grade": {"kind": "ordinal", "levels": ["low", "high"]},
}
"""Of tables; all of them take 0 and 1."""
PROGRAMS: dict[str, Callable[[], pv.Program]] = {
    "VAE": lambda: pv.VAE(EVENT_SHAPE, D, **SMALL),
    "VAE-VampPrior": lambda: pv.VAE(EVENT_SHAPE, D, prior=pv.priors.VampPrior(6), **SMALL),
    "VAE-Gamma": lambda: pv.VAE(EVENT_SHAPE, D, prior=dist.Gamma(2.0, 1.0), guide=dist.Gamma, **SMALL),
    "ConditionalVAE": lambda: pv.ConditionalVAE(EVENT_SHAPE, given=GIVEN, latent_dim=D, **SMALL),
    "ConditionalVAE-prior": lambda: pv.ConditionalVAE(
        EVENT_SHAPE, given=GIVEN, latent_dim=D, conditional_prior=True, **SMALL
    ),
    "HierarchicalVAE-1": lambda: pv.HierarchicalVAE(EVENT_SHAPE, (D,), **LEVELS),
    "HierarchicalVAE-bottom-up": lambda: pv.HierarchicalVAE(EVENT_SHAPE, (4, D), **LEVELS),
    "HierarchicalVAE-top-down": lambda: pv.HierarchicalVAE(
        EVENT_SHAPE, (4, 3, 2), inference="top_down", **LEVELS
    ),
    "HierarchicalVAE-skip": lambda: pv.HierarchicalVAE(
        EVENT_SHAPE, (4, 3, 2), inference="top_down", skip=True, **LEVELS
    ),
    "VAE-table": lambda: pv.VAE(COLUMNS, D, likelihood="auto", **SMALL),
    "ConditionalVAE-table": lambda: pv.ConditionalVAE(
        COLUMNS, given=["ill", "visits"], likelihood="auto", latent_dim=D, **SMALL
    ),
    "CountVAE": lambda: pv.CountVAE((4,), latent_dim=D, **SMALL),
    "CountVAE-latent": lambda: pv.CountVAE((4,), given=GIVEN, latent_dim=D, library="latent", **SMALL),
    "SelectionVAE": lambda: pv.SelectionVAE((4,), D, likelihood=pv.likelihoods.Normal(), **SMALL),
    "SequentialVAE": lambda: pv.SequentialVAE(
        EVENT_SHAPE,
        D,
        transition=pv.nets.gated(4),
        likelihood=pv.likelihoods.Bernoulli(),
        encoder=pv.nets.recurrent(8),
        decoder=pv.nets.mlp(8),
    ),
    "SequentialVAE-structured": lambda: pv.SequentialVAE(
        EVENT_SHAPE,
        D,
        transition=pv.nets.gated(4),
        likelihood=pv.likelihoods.Bernoulli(),
        guide=pv.guides.Structured(features=8),
        encoder=pv.nets.recurrent(8),
        decoder=pv.nets.mlp(8),
    ),
    "own": TwoSites,
}
"""Each program of the package, in its ways, and one that a user wrote; of continuous latents."""
DISCRETE: dict[str, Callable[[], pv.Program]] = {
    "SemiSupervisedVAE": lambda: pv.SemiSupervisedVAE(
        EVENT_SHAPE, num_classes=3, latent_dim=D, classifier=pv.nets.mlp(8), **SMALL
    ),
    "SemiSupervisedVAE-features": lambda: pv.SemiSupervisedVAE(
        EVENT_SHAPE, num_classes=3, latent_dim=D, features=2, classifier=pv.nets.mlp(8), **SMALL
    ),
}
"""Those with discrete latents, which have tests of their own in ``models/test_discrete.py``."""

BAYESIAN: dict[str, Callable[[], pv.Program]] = {
    "VAE-bayesian": lambda: pv.VAE(EVENT_SHAPE, D, **LATENT_WEIGHTS),
    "VAE-table-bayesian": lambda: pv.VAE(COLUMNS, D, likelihood="auto", **LATENT_WEIGHTS),
    "ConditionalVAE-bayesian": lambda: pv.ConditionalVAE(
        EVENT_SHAPE, given=GIVEN, latent_dim=D, **LATENT_WEIGHTS
    ),
    "HierarchicalVAE-bayesian": lambda: pv.HierarchicalVAE(EVENT_SHAPE, (4, D), **LEVELS | LATENT_WEIGHTS),
    "SemiSupervisedVAE-bayesian": lambda: pv.SemiSupervisedVAE(
        EVENT_SHAPE, num_classes=3, latent_dim=D, classifier=pv.nets.mlp(8), **LATENT_WEIGHTS
    ),
    "SequentialVAE-bayesian": lambda: pv.SequentialVAE(
        EVENT_SHAPE,
        D,
        transition=pv.nets.gated(4),
        likelihood=pv.likelihoods.Bernoulli(),
        encoder=pv.nets.recurrent(8),
        decoder=pv.nets.bayesian(pv.nets.mlp(8)),
    ),
}
"""Those whose decoder has latent weights, which have tests of their own in ``test_bayesian.py``."""


def make(name: str, seed: int = 2) -> pv.Program:
    """A program of ``PROGRAMS``, the same at each call."""
    torch.manual_seed(seed)
    return (PROGRAMS | DISCRETE | BAYESIAN)[name]()


def batch_of(program: pv.Program, number: int, seed: int = 5) -> dict[str, torch.Tensor]:
    """A batch that suits one of ``PROGRAMS``."""
    generator = torch.Generator().manual_seed(seed)
    batch = {}
    for site, shape in program.event_shapes.items():
        if site == "x":
            batch[site] = torch.rand(number, *shape, generator=generator).round()
        elif site == "y":
            batch[site] = torch.randint(3, (number, *shape), generator=generator)
        else:
            batch[site] = torch.randn(number, *shape, generator=generator)
    return batch
