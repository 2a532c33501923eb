"""Priors p(z): modules whose ``forward(encode)`` returns a distribution of event shape ``(D,)``.

Any continuous Pyro distribution instance is a prior too: ``pv.VAE(..., prior=dist.Laplace(0., 1.))``. The
guide follows it onto its support, be that the reals, (0, inf), an interval, the circle or the simplex.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import pyro.distributions as dist
import pyro.distributions.transforms as T
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import Distribution, Transform, constraints

from pyro_vae import distributions
from pyro_vae.distributions import to_constrained

__all__ = ["Fixed", "Flow", "MixtureOfNormals", "Normal", "VampPrior"]

_softplus = to_constrained(constraints.positive)


Maps = Literal[
    "affine_coupling", "spline_coupling", "affine_autoregressive", "spline_autoregressive", "spline"
]


class Prior(nn.Module, ABC):
    """Base of the priors: a new one states ``forward``, and ``setup`` if it has parameters.

    Attributes:
        encodes: whether p(z) is made of densities q(z|x) at points that they did not draw.
    """

    encodes: bool = False

    def setup(self, latent_dim: int, event_shape: tuple[int, ...]) -> None:
        """Creates what depends on D and the shape of a datum; the VAE calls it once, on its own copy."""
        self.latent_dim = latent_dim

    def initialize(self, x: Tensor) -> None:
        """Starts p(z) from some of the data, ``[n, *event_shape]``."""

    @property
    def name(self) -> str:
        """What the family is called."""
        return type(self).__name__

    def describe(self) -> dict[str, str]:
        """Its parameters, by name, in mathematics."""
        return {}

    @property
    def support(self) -> constraints.Constraint:
        """Where p(z) has its mass."""
        return constraints.real_vector

    @abstractmethod
    def forward(self, encode: Callable[[Tensor], Distribution]) -> Distribution:
        """p(z), batch shape ``()``, event shape ``(D,)``; ``encode`` maps data ``x`` to q(z|x)."""


class Fixed(Prior):
    """A given distribution, with nothing to learn.

    Args:
        distribution: instance with event shape ``(D,)``; or batch shape ``(D,)`` and no event
            shape; or neither, and then D independent copies are meant.

    Raises:
        ValueError: the shape is none of these.
    """

    def __init__(self, distribution: Distribution):
        super().__init__()
        self.distribution = distribution

    def setup(self, latent_dim: int, event_shape: tuple[int, ...]) -> None:
        super().setup(latent_dim, event_shape)
        given = cast(Any, self.distribution)
        own_shape, batch_shape = tuple(given.event_shape), tuple(given.batch_shape)
        if not own_shape and batch_shape in ((), (latent_dim,)):
            try:
                p_z = given.expand((latent_dim,)).to_event(1)
            except NotImplementedError as error:
                raise ValueError(f"{given} is no prior: {error}") from error
        elif own_shape == (latent_dim,) and not batch_shape:
            p_z = given
        else:
            raise ValueError(
                f"the prior {given} has batch shape {batch_shape} and event shape {own_shape}, "
                f"but latent_dim={latent_dim} needs event shape ({latent_dim},), or a scalar "
                "distribution such as dist.Laplace(0., 1.)"
            )
        try:
            if isinstance(given, dist.Delta):
                raise ValueError("it has no density")
            with torch.random.fork_rng([]):
                p_z.log_prob(p_z.sample())
        except Exception as error:  # whatever a distribution that is no prior raises
            reason = str(error).split("\n")[0]
            raise ValueError(
                f"{given} is no prior: {reason}; take dist.Laplace(0., 1.), for example"
            ) from error
        dtype = torch.get_default_dtype()  # that of the networks made beside it
        self.p_z = _map_tensors(p_z, lambda t: t.to(dtype) if t.is_floating_point() else t)

    @property
    def base(self) -> Any:
        """The distribution, of which independent copies are meant."""
        base: Any = self.distribution
        while isinstance(base, torch.distributions.Independent | dist.ExpandedDistribution):
            base = base.base_dist
        return base

    @property
    def name(self) -> str:
        return type(self.base).__name__

    def describe(self) -> dict[str, str]:
        told = {}
        if (
            isinstance(self.base, torch.distributions.TransformedDistribution)
            and not self.base.arg_constraints
        ):
            maps = ", ".join(type(transform).__name__ for transform in self.base.transforms)
            return {"base": repr(self.base.base_dist), "transforms": maps}
        base = copy.deepcopy(self.base)  # which keeps the matrices that it is asked for
        for argument in getattr(base, "arg_constraints", {}):
            value = getattr(base, argument)
            number = isinstance(value, Tensor) and value.unique().numel() == 1
            told[argument] = f"{value.flatten()[0].item():g}" if number else f"{argument} as given"
        if {"probs", "logits"} <= told.keys():
            del told["logits"]
        return told

    @property
    def support(self) -> constraints.Constraint:
        return distributions.support(self.p_z)

    def forward(self, encode: Callable[[Tensor], Distribution]) -> Distribution:
        return self.p_z

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Fixed:
        # A distribution's tensors are no buffers: `.to(device)` and `.double()` must reach them.
        super()._apply(fn, recurse)
        if hasattr(self, "p_z"):
            self.p_z = _map_tensors(self.p_z, fn)
        return self

    def extra_repr(self) -> str:
        return repr(self.distribution)


class Normal(Fixed):
    r"""The Normal, :math:`p(z) = \prod_d \mathcal N(z_d; \mu_d, \sigma_d^2)`, by default the standard one.

    Args:
        learned: whether the means and scales are learned, from 0 and 1 on.
    """

    def __init__(self, learned: bool = False) -> None:
        super().__init__(dist.Normal(0.0, 1.0))
        self.learned = learned

    def setup(self, latent_dim: int, event_shape: tuple[int, ...]) -> None:
        super().setup(latent_dim, event_shape)
        if self.learned:
            self.loc = nn.Parameter(torch.zeros(latent_dim))
            self.raw_scale = nn.Parameter(cast(Tensor, _softplus.inv(torch.ones(latent_dim))))

    def forward(self, encode: Callable[[Tensor], Distribution]) -> Distribution:
        if not self.learned:
            return self.p_z
        return cast(Distribution, cast(Any, dist.Normal(self.loc, _softplus(self.raw_scale))).to_event(1))

    def extra_repr(self) -> str:
        return "learned=True" if self.learned else ""

    def describe(self) -> dict[str, str]:
        if not self.learned:
            return super().describe()
        return {"loc": "a learned value per latent", "scale": "a learned value per latent"}


class MixtureOfNormals(Prior):
    r"""Learned clusters: :math:`p(z) = \sum_k \pi_k\, \mathcal N(z; \mu_k, \mathrm{diag}(\sigma_k^2))`.

    Weights, means and scales are learned; the means start at draws from the standard Normal.

    Args:
        components: K.

    Reference: Dilokthanakul et al., 2016, "Deep unsupervised clustering with Gaussian mixture variational
    autoencoders".
    """

    def __init__(self, components: int = 10):
        super().__init__()
        self.components = distributions.check_count("components", components)

    def setup(self, latent_dim: int, event_shape: tuple[int, ...]) -> None:
        super().setup(latent_dim, event_shape)
        self.logits = nn.Parameter(torch.zeros(self.components))
        self.loc = nn.Parameter(torch.randn(self.components, latent_dim))
        self.raw_scale = nn.Parameter(cast(Tensor, _softplus.inv(torch.ones(self.components, latent_dim))))

    def forward(self, encode: Callable[[Tensor], Distribution]) -> Distribution:
        component: Any = dist.Normal(self.loc, _softplus(self.raw_scale))
        return _mixture(self.logits, component.to_event(1))

    def describe(self) -> dict[str, str]:
        k = self.components
        return {
            "logits": f"{k} learned values",
            "loc": f"{k} learned vectors",
            "scale": f"{k} learned vectors",
        }

    def extra_repr(self) -> str:
        return f"components={self.components}"


class VampPrior(Prior):
    r"""The guide's own mixture over pseudo-inputs: :math:`p(z) = \frac1K \sum_k q(z \mid u_k)`.

    The pseudo-inputs :math:`u_k` are learned, in data space, and start at data; sampling goes through
    the encoder.

    Args:
        components: K.

    Reference: Tomczak and Welling, 2018, "VAE with a VampPrior".
    """

    encodes = True
    logits: Tensor

    def __init__(self, components: int = 500):
        super().__init__()
        self.components = distributions.check_count("components", components)

    def setup(self, latent_dim: int, event_shape: tuple[int, ...]) -> None:
        super().setup(latent_dim, event_shape)
        self.pseudo_inputs = nn.Parameter(torch.randn(self.components, *event_shape))
        self.register_buffer("logits", torch.zeros(self.components))

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        rows = torch.linspace(0, len(x) - 1, self.components).long()
        # Where there are more components than data, equal ones would stay equal.
        self.pseudo_inputs.copy_(x[rows] + 0.01 * x.std() * torch.randn_like(x[rows]))

    def forward(self, encode: Callable[[Tensor], Distribution]) -> Distribution:
        return _mixture(self.logits, encode(self.pseudo_inputs))

    def describe(self) -> dict[str, str]:
        return {"u": f"{self.components} learned pseudo-inputs, through the encoder: the mean of q(z|u_k)"}

    def extra_repr(self) -> str:
        return f"components={self.components}"


class Flow(Prior):
    r"""The standard Normal pushed through learned invertible maps: :math:`z = T_L(\cdots T_1(\epsilon))`.

    Args:
        transform: the kind of map: ``affine_coupling`` (RealNVP), ``spline_coupling``,
            ``affine_autoregressive`` (MAF), ``spline_autoregressive``, or ``spline``, which takes each
            dimension by itself. Autoregressive maps are quick to evaluate, and slow (D passes) to draw from;
            steps with splines are not compiled.
        num_transforms: L.
        hidden_dims: of the networks within the maps.

    Reference: Dinh, Sohl-Dickstein and Bengio, 2017, "Density estimation using Real NVP"; Papamakarios,
    Pavlakou and Murray, 2017, "Masked autoregressive flow for density estimation"; Durkan et al., 2019,
    "Neural spline flows".
    """

    zero: Tensor

    def __init__(
        self,
        transform: Maps = "affine_coupling",
        num_transforms: int = 4,
        hidden_dims: Sequence[int] = (64, 64),
    ):
        super().__init__()
        self.transform = transform
        self.num_transforms = distributions.check_count("num_transforms", num_transforms)
        self.hidden_dims = list(hidden_dims)

    def setup(self, latent_dim: int, event_shape: tuple[int, ...]) -> None:
        super().setup(latent_dim, event_shape)
        distributions.check_transform(self.transform, Maps, latent_dim)
        options = {} if self.transform == "spline" else {"hidden_dims": self.hidden_dims}
        make = getattr(distributions, self.transform, None) or getattr(T, self.transform)
        self.transforms = nn.ModuleList(make(latent_dim, **options) for _ in range(self.num_transforms))
        self.register_buffer("zero", torch.zeros(latent_dim))

    def forward(self, encode: Callable[[Tensor], Distribution]) -> Distribution:
        base: Any = dist.Normal(self.zero, torch.ones_like(self.zero))
        transforms = [distributions.stateless(transform) for transform in self.transforms]
        if "autoregressive" in self.transform:  # whose direct way is the one that densities take
            transforms = [transform.inv for transform in transforms]
        return distributions.flow(base.to_event(1), transforms, self.latent_dim)

    def describe(self) -> dict[str, str]:
        return {"T": f"{self.num_transforms} learned {self.transform} maps of a standard Normal"}

    def extra_repr(self) -> str:
        return f"{self.transform!r}, num_transforms={self.num_transforms}, hidden_dims={self.hidden_dims}"


def as_prior(prior: Any) -> Prior:
    """A prior of one's own: a copy of the given one, or the given distribution as a prior."""
    if isinstance(prior, Prior):
        return copy.deepcopy(prior)
    if isinstance(prior, type) and issubclass(prior, Prior):
        return prior()
    if isinstance(prior, Distribution) and isinstance(prior, TorchDistributionMixin):
        return Fixed(prior)
    raise TypeError(
        f"a prior is a pv.priors object or an instance of a Pyro distribution, not {prior!r}; "
        "for example prior=pv.priors.Normal() or prior=dist.Laplace(0., 1.)"
    )


def _mixture(logits: Tensor, components: Any) -> Distribution:
    return cast(Distribution, dist.MixtureSameFamily(dist.Categorical(logits=logits), components))


def _map_tensors(distribution: Distribution, fn: Callable[[Tensor], Tensor]) -> Distribution:
    """The distribution with ``fn`` applied to each tensor that it holds, and validation off.

    Draws of a guide over all reals need no check at each step that they are real.
    """
    memo: dict[int, Any] = {}

    seen: set[int] = set()

    def visit(value: object) -> None:
        if id(value) in seen:  # a transform and its inverse hold each other
            return
        seen.add(id(value))
        if isinstance(value, nn.Module):
            raise ValueError(
                f"the prior holds a network, {type(value).__name__}, whose parameters would not be trained; "
                "take pv.priors.Flow(), or make it a pv.priors.Prior, whose forward returns the distribution"
            )
        if isinstance(value, torch.Tensor):
            memo[id(value)] = fn(value)
        elif isinstance(value, Distribution | Transform):
            for item in vars(value).values():
                visit(item)
        elif isinstance(value, list | tuple):
            for item in value:
                visit(item)

    visit(distribution)
    mapped = copy.deepcopy(distribution, memo)
    nested: list[Any] = [mapped]
    for p in nested:
        if isinstance(p, Distribution):
            p._validate_args = False
            if type(p) is dist.GeneralizedPareto:  # type: ignore[attr-defined]
                p.__class__ = distributions.GeneralizedPareto
            nested.extend(vars(p).values())
    return mapped
