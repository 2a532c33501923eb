"""Guide families q(z|x): modules whose ``forward(params)`` returns a distribution over z.

``params`` are the encoder's raw reals; constraints live here, never in the network. Any univariate family of
Pyro whose draws are reparameterised is a guide: ``guide=dist.Laplace``, or ``pv.guides.Laplace()``.

A guide over the reals is pushed onto the support of the prior by the VAE; one over the very support of
the prior, such as ``dist.Gamma`` under a Gamma prior, is taken as it is.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, cast

import pyro.distributions as dist
import pyro.distributions.transforms as T
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_vae import distributions
from pyro_vae.distributions import (
    bounds,
    is_positive,
    onto,
    parameters,
    same_bounds,
    scalar_support,
    support,
    to_constrained,
)

__all__ = [
    "Dirichlet",
    "Flow",
    "FullRankNormal",
    "LowRankNormal",
    "MixtureOfNormals",
    "Normal",
]


Maps = Literal[
    "affine_autoregressive",
    "spline_autoregressive",
    "spline",
    "affine_coupling",
    "planar",
    "radial",
    "householder",
]


def _scale(raw: Tensor) -> Tensor:
    """softplus, not quite to 0, where an outlying datum would take it."""
    value: Tensor = to_constrained(constraints.positive)(raw)
    return value.clamp(min=1e-5)


class Guide(nn.Module, ABC):
    """Base of the guide families: a new one states ``param_shape`` and ``forward``.

    Attributes:
        support: where its draws lie.
        invertible: whether it has a density at points that it did not draw itself.
    """

    support: constraints.Constraint = constraints.real
    invertible: bool = True

    def setup(self, latent_dim: int) -> None:
        """Creates what depends on ``latent_dim`` (D); the VAE calls it once, on its own copy."""

    @property
    def name(self) -> str:
        """What the family is called."""
        return type(self).__name__

    def describe(self) -> dict[str, str]:
        """Its parameters, by name: how each comes from the encoder's output h(x), in mathematics."""
        return {}

    @abstractmethod
    def param_shape(self, latent_dim: int) -> tuple[int, ...]:
        """Shape of what the encoder must emit for one datum, given ``latent_dim`` (D)."""

    @abstractmethod
    def forward(self, params: Tensor) -> Distribution:
        """q(z|x), batch shape ``[...]``, event shape ``(D,)``, from params ``[..., *param_shape]``."""


class Univariate(Guide):
    """Mean field: every latent independent, of one univariate family. A new guide states its ``family``.

    All parameters in the family's ``arg_constraints`` come from the encoder, one after the other.

    Raises:
        ValueError: the family's draws are not reparameterised, or its support moves.
    """

    family: ClassVar[type[Distribution]]
    floor: ClassVar[float] = 1e-2

    def __init__(self) -> None:
        super().__init__()
        self.constraints = parameters(self.family)
        name = type(self).__name__
        fixed = [parameter for parameter, constraint in self.constraints.items() if constraint is None]
        if fixed:
            raise ValueError(f"{name} is no guide: its parameter {fixed[0]} cannot come from an encoder")
        try:
            q_z, moved = (self(torch.full(self.param_shape(1), raw)) for raw in (0.0, 1.0))
            reparameterised = q_z.has_rsample
            with torch.random.fork_rng([]):
                q_z.log_prob(q_z.sample())
        except Exception as error:  # whatever a class that is not made of numbers raises
            raise ValueError(f"{name} is no guide: {str(error).split(chr(10))[0]}") from error
        if not reparameterised:
            raise ValueError(
                f"{name} is no guide: its draws are not reparameterised, so that its gradients would be "
                "score-function estimates; take one that is, such as dist.Normal or dist.Laplace"
            )
        if not same_bounds(support(q_z), support(moved)):
            raise ValueError(f"{name} is no guide: its support moves with its parameters")
        self.support = scalar_support(support(q_z))

    def describe(self) -> dict[str, str]:
        told = {}
        for i, (name, constraint) in enumerate(self.constraints.items(), 1):
            raw = f"h_{i}(x)" if len(self.constraints) > 1 else "h(x)"
            low, high = bounds(constraint) or (-math.inf, math.inf)
            if (low, high) == (0, math.inf):
                told[name] = f"softplus({raw})" + ("" if name == "scale" else f" + {self.floor:g}")
            else:
                told[name] = raw if math.isinf(low) else f"{low:g} + {high - low:g} sigmoid({raw})"
        return told

    def param_shape(self, latent_dim: int) -> tuple[int, ...]:
        return (len(self.constraints) * latent_dim,)

    def forward(self, params: Tensor) -> Distribution:
        raw = params.chunk(len(self.constraints), dim=-1)
        values = {
            name: self._constrain(name, constraint, value)
            for (name, constraint), value in zip(self.constraints.items(), raw, strict=True)
        }
        return cast(Distribution, cast(Any, self.family)(**values).to_event(1))

    def _constrain(self, name: str, constraint: Any, raw: Tensor) -> Tensor:
        if not is_positive(constraint):
            return cast(Tensor, to_constrained(constraint)(raw))
        # With shape parameters near 0, draws round to the ends of the support.
        return _scale(raw) if name == "scale" else _scale(raw) + self.floor


class Normal(Univariate):
    r"""Mean field: :math:`q(z|x) = \prod_d \mathcal N(z_d; \mu_d(x), \sigma_d(x)^2)`.

    Reference: Kingma and Welling, 2014, "Auto-encoding variational Bayes", appendix C.
    """

    family = dist.Normal


class FullRankNormal(Guide):
    r"""All latents correlated: :math:`q(z|x) = \mathcal N(z; \mu(x), L(x) L(x)^\top)`, L lower triangular."""

    def describe(self) -> dict[str, str]:
        return {"loc": "h_1(x)", "L": "softplus(h_2(x)) on the diagonal and h_3(x) below"}

    def param_shape(self, latent_dim: int) -> tuple[int, ...]:
        return (2 * latent_dim + latent_dim * (latent_dim - 1) // 2,)

    def forward(self, params: Tensor) -> Distribution:
        # From n = 2 D + D (D - 1) / 2.
        d = round((math.sqrt(9 + 8 * params.shape[-1]) - 3) / 2)
        loc, diagonal, lower = params.split([d, d, params.shape[-1] - 2 * d], dim=-1)
        rows, columns = torch.tril_indices(d, d, -1, device=params.device)
        scale_tril = _scale(diagonal).diag_embed()
        scale_tril[..., rows, columns] = lower
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)


class LowRankNormal(Guide):
    r"""Latents correlated: :math:`q(z|x) = \mathcal N(z; \mu, W W^\top + \mathrm{diag}(\sigma^2))`, all of x.

    Args:
        rank: columns of W.

    Reference: Rezende, Mohamed and Wierstra, 2014, "Stochastic backpropagation and approximate inference
    in deep generative models", section 4.3.
    """

    def __init__(self, rank: int = 2):
        super().__init__()
        self.rank = distributions.check_count("rank", rank)

    def describe(self) -> dict[str, str]:
        return {"loc": "h_1(x)", "scale": "softplus(h_2(x))", "W": "h_3(x)"}

    def param_shape(self, latent_dim: int) -> tuple[int, ...]:
        return ((2 + self.rank) * latent_dim,)

    def forward(self, params: Tensor) -> Distribution:
        columns = params.unflatten(-1, (2 + self.rank, -1))
        scale = _scale(columns[..., 1, :])
        return dist.LowRankMultivariateNormal(columns[..., 0, :], columns[..., 2:, :].mT, scale.square())


class MixtureOfNormals(Guide):
    r"""Several modes: :math:`q(z|x) = \sum_k \pi_k\, \mathcal N(z; \mu_k, \mathrm{diag}(\sigma_k^2))`.

    Args:
        components: K.

    Reference: Figurnov, Mohamed and Mnih, 2018, "Implicit reparameterization gradients".
    """

    def __init__(self, components: int = 3):
        super().__init__()
        self.components = distributions.check_count("components", components)

    def setup(self, latent_dim: int) -> None:
        # The components start apart: alike they would have the same gradient.
        self.register_buffer("offset", 0.5 * torch.randn(self.components, latent_dim))

    def describe(self) -> dict[str, str]:
        return {"logits": "h_1(x)", "loc": "h_2(x) + b", "scale": "softplus(h_3(x))"}

    def param_shape(self, latent_dim: int) -> tuple[int, ...]:
        return (self.components * (1 + 2 * latent_dim),)

    def forward(self, params: Tensor) -> Distribution:
        of_each = params.unflatten(-1, (self.components, -1))
        loc, raw_scale = of_each[..., 1:].chunk(2, dim=-1)
        return distributions.MixtureOfDiagNormals(of_each[..., 0], loc + self.offset, _scale(raw_scale))


class Dirichlet(Guide):
    r"""On the simplex: :math:`q(z|x) = \mathrm{Dirichlet}(z; \alpha(x))`, for Dirichlet priors."""

    family = dist.Dirichlet
    support = constraints.simplex

    def describe(self) -> dict[str, str]:
        return {"concentration": "softplus(h(x)) + 0.01"}

    def param_shape(self, latent_dim: int) -> tuple[int, ...]:
        return (latent_dim,)

    def forward(self, params: Tensor) -> Distribution:
        return dist.Dirichlet(_scale(params) + 1e-2)


class Flow(Guide):
    r"""A Normal pushed through invertible maps, all conditioned on features h(x) of the encoder.

    .. math:: z = T_L(\cdots T_1(\epsilon; h) \cdots; h), \qquad \epsilon \sim \mathcal N(\mu(x), \sigma(x)^2)

    Args:
        transform: the kind of map: ``affine_autoregressive`` (IAF), ``spline_autoregressive``, ``spline``,
            ``affine_coupling`` (RealNVP), ``planar``, ``radial``, ``householder``.
        num_transforms: L.
        hidden_dims: of the networks within the maps.
        context_dim: number of features h(x).

    Planar and radial maps have no inverse in closed form: such a guide has a density only at its own draws.
    Steps with splines are not compiled.

    Reference: Rezende and Mohamed, 2015, "Variational inference with normalizing flows"; Kingma et al.,
    2016, "Improved variational inference with inverse autoregressive flow"; Tomczak and Welling, 2016,
    "Improving variational auto-encoders using Householder flow"; Durkan et al., 2019, "Neural spline flows".
    """

    def __init__(
        self,
        transform: Maps = "affine_autoregressive",
        num_transforms: int = 2,
        hidden_dims: Sequence[int] = (64, 64),
        context_dim: int = 32,
    ):
        super().__init__()
        self.transform = transform
        self.num_transforms = distributions.check_count("num_transforms", num_transforms)
        self.hidden_dims = list(hidden_dims)
        self.context_dim = distributions.check_count("context_dim", context_dim)
        self.invertible = transform not in ("planar", "radial")

    def setup(self, latent_dim: int) -> None:
        distributions.check_transform(self.transform, Maps, latent_dim)
        make = getattr(T, f"conditional_{self.transform}")
        self.transforms = nn.ModuleList(
            make(latent_dim, context_dim=self.context_dim, hidden_dims=self.hidden_dims)
            for _ in range(self.num_transforms)
        )

    def describe(self) -> dict[str, str]:
        maps = f"{self.num_transforms} {self.transform} maps that see h_3(x)"
        return {"loc": "h_1(x)", "scale": "softplus(h_2(x))", "T": maps}

    def extra_repr(self) -> str:
        own = f"{self.transform!r}, num_transforms={self.num_transforms}, hidden_dims={self.hidden_dims}"
        return f"{own}, context_dim={self.context_dim}"

    def param_shape(self, latent_dim: int) -> tuple[int, ...]:
        return (2 * latent_dim + self.context_dim,)

    def forward(self, params: Tensor) -> Distribution:
        d = (params.shape[-1] - self.context_dim) // 2
        loc, raw_scale, context = params.split([d, d, self.context_dim], dim=-1)
        base = dist.Normal(loc, _scale(raw_scale)).to_event(1)
        conditioned = [cast(Any, transform).condition(context) for transform in self.transforms]
        return distributions.flow(base, conditioned, d)


def as_guide(guide: Guide | type[Distribution]) -> Guide:
    """A guide of one's own: a copy of the given one, or the given family with all from the encoder."""
    example = "guide=pv.guides.Normal() or guide=dist.Laplace, for example"
    return cast(Guide, distributions.as_part(guide, Guide, of, example))


def pushed(guide: Guide, prior_support: constraints.Constraint) -> bool:
    """Whether a guide is pushed onto the prior's support, or lies there already.

    Raises:
        ValueError: it can do neither; the pairs that work are told.
    """
    if same_bounds(guide.support, prior_support):
        return False
    try:
        if prior_support.is_discrete:
            raise NotImplementedError
        onto(prior_support)
        possible = bounds(guide.support) == (-math.inf, math.inf)
    except NotImplementedError:
        possible = False
    if not possible:
        raise ValueError(
            f"the guide {guide!r}, over {guide.support}, cannot follow a prior over {prior_support}. Guides "
            "over the reals (Normal, LowRankNormal, FullRankNormal, MixtureOfNormals, Flow, dist.Laplace) go "
            "with every continuous prior; others with priors on their own support: dist.Gamma with "
            "dist.Gamma, dist.Beta with dist.Beta, Dirichlet with dist.Dirichlet"
        )
    return True


def of(family: type[Distribution]) -> type[Guide]:
    """The guide of a univariate family, as a class: ``of(dist.Laplace)()``.

    Raises:
        ValueError: the family cannot be one; the message says why.
    """
    return cast(type[Guide], distributions.variant(family, Univariate, sys.modules[__name__]))


def __getattr__(name: str) -> Any:
    return distributions.attribute(name, of, __name__)


def __dir__() -> list[str]:
    return sorted({*__all__, *distributions.families()})
