"""Univariate families of which more is known than their density tells."""

from __future__ import annotations

import math
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae import distributions
from pyro_vae.checks import Levels, check
from pyro_vae.families.base import units
from pyro_vae.families.parameter import Source
from pyro_vae.families.univariate import Univariate


class Normal(Univariate):
    r"""Real values: :math:`p(v) = \prod_i \mathcal N(v_i; \mu_i, \sigma_i^2)`.

    The mean starts at the values' mean, in units of their standard deviation. A learned scale has a floor of
    0.001 of that.

    Args:
        loc: :math:`\mu`.
        scale: :math:`\sigma`, in the units of the data if a number; else where it comes from.

    Reference: Kingma and Welling, 2014, "Auto-encoding variational Bayes", appendix C.
    """

    def __init__(self, loc: Source = "network", scale: Source = "network"):
        super().__init__(dist.Normal, loc=loc, scale=scale)

    def start(self, x: Tensor, mean: Tensor, std: Tensor, by_column: bool) -> dict[str, Tensor]:
        pooled = units(std, by_column)
        own = self.parameters_["scale"].source == "per_element"
        return {"loc": mean, "scale": torch.where(std > 0, std, pooled) if own else pooled}


class Bernoulli(Univariate):
    r"""Binary values: :math:`p(v) = \prod_i \sigma(l_i)^{v_i} (1 - \sigma(l_i))^{1 - v_i}`.

    The logits :math:`l` start at the logit of the values' mean.

    Args:
        logits: :math:`l`.
    """

    mends = (
        'binarise: pv.data.load(..., binarize="dynamic"); '
        'or model real values: likelihood=pv.likelihoods.Normal(scale="shared"); '
        "or ask for the pseudo-likelihood: likelihood=pv.likelihoods.PseudoBernoulli()"
    )
    of: ClassVar[type[Distribution]] = dist.Bernoulli

    def __init__(self, logits: Source = "network"):
        super().__init__(self.of, logits=logits)

    def start(self, x: Tensor, mean: Tensor, std: Tensor, by_column: bool) -> dict[str, Tensor]:
        # Pixels that are never on must not start at -inf: 0.01 is where a net can come back from.
        return {"logits": torch.logit(mean.clamp(0.01, 0.99))}


class PseudoBernoulli(Bernoulli):
    """Grey values in [0, 1] under the Bernoulli's formula, as in many tutorials: no probability.

    See :class:`pyro_vae.distributions.PseudoBernoulli`. Its "log-likelihood" compares with nothing.
    """

    measure = "none (not normalised)"
    mends = "scale the data to [0, 1]; or likelihood=pv.likelihoods.Normal(scale='shared')"
    of = distributions.PseudoBernoulli


class DiscretizedLogistic(Univariate):
    """Grey levels 0, ..., L - 1: a Logistic, rounded (:class:`pyro_vae.distributions.DiscretizedLogistic`).

    Args:
        loc: location, where the levels span [0, 1].
        scale: scale, likewise.
        levels: L, 256 for 8-bit images.
    """

    measured_in: ClassVar = {"loc": "scale"}
    of: ClassVar[type[Distribution]] = distributions.DiscretizedLogistic

    def __init__(self, loc: Source = "network", scale: Source = "network", levels: int = 256):
        super().__init__(self.of, loc=loc, scale=scale, levels=check("levels", levels, Levels))


class DiscretizedNormal(DiscretizedLogistic):
    """Grey levels 0, ..., L - 1: a Normal, rounded. See :class:`pyro_vae.distributions.DiscretizedNormal`.

    Args:
        loc: location, where the levels span [0, 1].
        scale: scale, likewise.
        levels: L, 256 for 8-bit images.
    """

    of = distributions.DiscretizedNormal


class RoundedLogistic(Univariate):
    """Whole numbers of either sign: a Logistic, rounded (:class:`pyro_vae.distributions.RoundedLogistic`).

    Args:
        loc: location.
        scale: scale.
    """

    measured_in: ClassVar = {"loc": "scale"}

    def __init__(self, loc: Source = "network", scale: Source = "network"):
        super().__init__(distributions.RoundedLogistic, loc=loc, scale=scale)

    def start(self, x: Tensor, mean: Tensor, std: Tensor, by_column: bool) -> dict[str, Tensor]:
        # By moments: of columns far from 0 a search from there would not come near.
        size = units(std, by_column).to(x).clamp(min=0.3) * (math.sqrt(3) / math.pi)
        return {"loc": mean.to(x), "scale": size}


class TruncatedNormal(Univariate):
    """Values in [0, 1]: the Normal restricted to them (:class:`pyro_vae.distributions.TruncatedNormal`).

    Args:
        loc: where it would be highest without the ends.
        scale: its standard deviation without the ends.
    """

    measured_in: ClassVar = {"loc": "scale"}

    def __init__(self, loc: Source = "network", scale: Source = "network"):
        super().__init__(distributions.TruncatedNormal, loc=loc, scale=scale)


class LogNormal(Univariate):
    """Positive values, whose logarithms are Normal.

    Args:
        loc: mean of the logarithms, in units of their standard deviation.
        scale: their standard deviation.
    """

    measured_in: ClassVar = {"loc": "scale"}

    def __init__(self, loc: Source = "network", scale: Source = "network"):
        super().__init__(dist.LogNormal, loc=loc, scale=scale)


class ZeroInflatedLogNormal(Univariate):
    """Amounts: 0, or positive, with logarithms that are Normal.

    See :class:`pyro_vae.distributions.ZeroInflatedLogNormal`.

    Args:
        gate_logits: log-odds of 0.
        loc: mean of the logarithms of others, in units of their standard deviation.
        scale: their standard deviation.
    """

    measured_in: ClassVar = {"loc": "scale"}

    def __init__(self, gate_logits: Source = "network", loc: Source = "network", scale: Source = "network"):
        super().__init__(distributions.ZeroInflatedLogNormal, gate_logits=gate_logits, loc=loc, scale=scale)
        self.measure = "counting and Lebesgue measure (at 0, and elsewhere on the data's scale)"


class LogitNormal(Univariate):
    """Values in (0, 1), whose logits are Normal. See :class:`pyro_vae.distributions.LogitNormal`.

    Args:
        loc: mean of the logits.
        scale: their standard deviation.
    """

    measured_in: ClassVar = {"loc": "scale"}

    def __init__(self, loc: Source = "network", scale: Source = "network"):
        super().__init__(distributions.LogitNormal, loc=loc, scale=scale)


class StudentT(Univariate):
    r"""Real values with tails: :math:`p(v) = \prod_i t_{\nu_i}(v_i; \mu_i, \sigma_i)`, :math:`\nu > 2`.

    As a guide it must have one, for its divergence from a Normal prior to be finite.

    Args:
        df: :math:`\nu`, degrees of freedom.
        loc: :math:`\mu`.
        scale: :math:`\sigma`.
    """

    tightened: ClassVar = {"df": constraints.greater_than(2.0)}

    def __init__(self, df: Source = "network", loc: Source = "network", scale: Source = "network"):
        super().__init__(dist.StudentT, df=df, loc=loc, scale=scale)


NAMED: dict[type[Distribution], type[Univariate]] = {
    dist.Normal: Normal,
    dist.Bernoulli: Bernoulli,
    dist.LogNormal: LogNormal,
}
"""What is taken where one of Pyro's classes is given."""
