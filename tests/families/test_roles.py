"""Locations and scales are seen from the density."""

import pyro.distributions as dist
import pytest
import torch
from cases import FAMILIES

from pyro_vae.families import Univariate

LOCATION_SCALE = {
    "AsymmetricLaplace",
    "Cauchy",
    "Gumbel",
    "Laplace",
    "Logistic",
    "Normal",
    "SkewLogistic",
    "SoftLaplace",
    "StudentT",
}
RATE = {"Exponential", "Gamma"}
SCALE_ALONE = {
    "GeneralizedPareto": "scale",
    "HalfCauchy": "scale",
    "HalfNormal": "scale",
    "InverseGamma": "rate",
    "Pareto": "scale",
    "Weibull": "scale",
}


@pytest.mark.parametrize("name", FAMILIES)
def test_roles(name):
    case = FAMILIES[name]
    roles = {p: parameter.role for p, parameter in case.parameters_.items() if parameter.role != "other"}
    if case.name in LOCATION_SCALE:
        assert roles == {"loc": "location", "scale": "scale"}
    elif case.name in SCALE_ALONE:
        assert roles == {SCALE_ALONE[case.name]: "scale"}
    elif case.name in RATE:
        assert roles == {"rate": "rate"}
    else:
        assert not roles


class Renamed(dist.TorchDistribution):
    """A Cauchy whose parameters have names that tell nothing, the spread before the middle."""

    arg_constraints = {"a": dist.constraints.positive, "b": dist.constraints.real}  # noqa: RUF012
    support = dist.constraints.real
    has_rsample = True

    def __init__(self, a, b, validate_args=None):
        self.a, self.b = torch.broadcast_tensors(torch.as_tensor(a), torch.as_tensor(b))
        super().__init__(self.a.shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        return type(self)(self.a.expand(batch_shape), self.b.expand(batch_shape))

    def rsample(self, sample_shape=()):
        return self.b + self.a * torch.randn(self._extended_shape(sample_shape))

    def log_prob(self, value):
        return dist.Cauchy(self.b, self.a).log_prob(value)


class Misleading(Renamed):
    """One whose ``loc`` is no location and whose ``scale`` is a rate."""

    arg_constraints = {"loc": dist.constraints.real, "scale": dist.constraints.positive}  # noqa: RUF012

    def __init__(self, loc, scale, validate_args=None):
        self.loc, self.scale = torch.as_tensor(loc), torch.as_tensor(scale)
        super().__init__(self.scale, self.loc, validate_args)

    def expand(self, batch_shape, _instance=None):
        return Misleading(self.b.expand(batch_shape), self.a.expand(batch_shape))

    def log_prob(self, value):
        return dist.Normal(self.b**2, 1 + self.a).log_prob(value)


def test_names_do_not_matter():
    assert {n: p.role for n, p in Univariate(Renamed).parameters_.items()} == {"a": "scale", "b": "location"}
    assert {p.role for p in Univariate(Misleading).parameters_.values()} == {"other"}
