"""Every univariate family of Pyro, element by element: as a likelihood, a guide or a prior.

::

    pv.VAE(..., likelihood=dist.StudentT)                            # all parameters from the network
    pv.VAE(..., likelihood=pv.likelihoods.StudentT(df=4.0, scale="shared"))

and so is one of your own, a distribution class with ``arg_constraints``.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vae import distributions
from pyro_vae.constraints import bounds, same_bounds, support
from pyro_vae.families.base import COUNTING, Family, NeedsNumberError, Shape, units
from pyro_vae.families.parameter import Parameter, Role, Source
from pyro_vae.families.start import most_likely

_BETTER: dict[Any, Any] = {
    dist.GeneralizedPareto: distributions.GeneralizedPareto,  # type: ignore[attr-defined]
    dist.Kumaraswamy: distributions.Kumaraswamy,
    dist.Poisson: distributions.Poisson,
    dist.GammaPoisson: distributions.GammaPoisson,
    dist.NegativeBinomial: distributions.NegativeBinomial,
}
"""Families of which this package has its own form."""

_INTEGRAL = "its density is an integral done by numbers, whose gradients are not finite everywhere"
_REFUSED: dict[Any, str] = {
    dist.Stable: _INTEGRAL,
    dist.StableWithLogProb: _INTEGRAL,
    dist.Delta: "it has no density",
    dist.GroupedNormalNormal: "its values are vectors, not numbers",
    dist.NanMaskedNormal: "missing values are left out of every family's density; take pv.likelihoods.Normal",
    dist.ZeroInflatedDistribution: "it is made from a distribution; take ZeroInflatedPoisson",
    dist.RelaxedBernoulliStraightThrough: "its draws do not follow its density; take RelaxedBernoulli",
}


class Univariate(Family):
    """Every element independent, of one univariate family.

    Each parameter in the family's ``arg_constraints`` has a source: ``"network"`` (the default), a value per
    datum and element; ``"shared"``, one learned value; ``"per_element"``, a learned value for each element;
    or a number. The network emits its parameters one after the other along the first dimension of the
    event, so that images of C channels need k * C output channels for k parameters.

    Args:
        family: the distribution class.
        sources: of its parameters, by name.

    Raises:
        ValueError: the family or a source will not do; the message says why.
    """

    tightened: ClassVar[Mapping[str, constraints.Constraint]] = {}
    """Constraints within those of the family."""
    measured_in: ClassVar[Mapping[str, str]] = {}
    """Parameters whose unit is the starting value of another, where that cannot be seen from the density."""

    def __init__(self, family: type[Distribution], **sources: Source):
        super().__init__()
        if family.__module__.startswith("torch.distributions"):
            family = getattr(dist, family.__name__, family)
        self.family = _BETTER.get(family, family)
        if self.family in _REFUSED:
            raise ValueError(f"{self.name} is no family of numbers: {_REFUSED[self.family]}")
        if not issubclass(self.family, TorchDistributionMixin):
            raise ValueError(f"{self.name} is no Pyro distribution; subclass dist.TorchDistribution")
        found = parameters(self.family) | dict(self.tightened)
        unknown = [name for name in sources if name not in found]
        if unknown:
            raise ValueError(f"{self.name} has no parameter {unknown[0]!r}; it has {', '.join(found)}")
        made = {name: Parameter(self.name, name, c, sources.get(name)) for name, c in found.items()}
        self.parameter = torch.nn.ModuleDict(made)
        trial = self._trial()
        self.support = support(trial)
        self._find_roles(trial)
        for parameter in self.parameters_.values():
            parameter.measured = parameter.name in self.measured_in
        self.reparameterised = trial.has_rsample
        if self.support.is_discrete:
            self.measure = COUNTING
        if type(self).mends == Family.mends:
            self.mends = mend(trial)

    @property
    def name(self) -> str:
        """What the family is called."""
        return self.family.__name__ if type(self) is Univariate else type(self).__name__

    @property
    def parameters_(self) -> dict[str, Parameter]:
        """Its parameters by name."""
        return cast(dict[str, Parameter], dict(self.parameter.items()))

    @property
    def from_network(self) -> list[Parameter]:
        """Those that the network emits, in order."""
        return [p for p in self.parameters_.values() if p.source == "network"]

    def setup(self, event_shape: Shape) -> None:
        super().setup(event_shape)
        for parameter in self.parameters_.values():
            parameter.setup(self.event_shape)
        if self.on_reals:  # near a standard Normal, as a guide should start
            for name, value in self._near_normal().items():
                p = self.parameters_[name]
                p.start(value, value.new_ones(()) if p.is_real or p.role == "scale" else None)

    def param_shape(self) -> Shape:
        return (len(self.from_network) * self.event_shape[0], *self.event_shape[1:])

    def forward(self, raw: Tensor) -> Distribution:
        event_dim, emitted = len(self.event_shape), len(self.from_network)
        chunks = iter(raw.chunk(emitted, dim=-event_dim) if emitted else ())
        values = {
            name: p(next(chunks) if p.source == "network" else None) for name, p in self.parameters_.items()
        }
        distribution = cast(Any, self.family)(**values)
        if not emitted:
            distribution = distribution.expand(self.event_shape)
        return cast(Distribution, distribution.to_event(event_dim))

    @torch.no_grad()
    def initialize(self, x: Tensor, mean: Tensor, std: Tensor, *, by_column: bool = False) -> None:
        best, unit = self.start(x, mean, std, by_column), units(std, by_column)
        size = units(std, by_column=True)
        for name, value in best.items():
            role = self.parameters_[name].role
            if value.dim() and role in ("scale", "rate"):  # of constants it would have no limit
                best[name] = torch.where(std > 0, value, size if role == "scale" else 1 / size)
        spread = next((best.get(n, unit) for n, p in self.parameters_.items() if p.role == "scale"), unit)
        for name, value in best.items():
            p = self.parameters_[name]
            if p.role == "location":
                p.start(value, spread)
            elif name in self.measured_in:
                p.start(value, best.get(self.measured_in[name], unit))
            else:
                own = {"scale": unit, "rate": 1 / unit}.get(p.role)
                p.start(value, own if p.source == "shared" and by_column else None)

    def start(self, x: Tensor, mean: Tensor, std: Tensor, by_column: bool) -> dict[str, Tensor]:
        """Starting value of each learned parameter, ``()`` or ``event_shape``: see ``initialize``."""
        return most_likely(self, x, std, by_column)

    def describe(self, raw: str) -> dict[str, str]:
        emitted = self.from_network
        told = {}
        for name, p in self.parameters_.items():
            index = f"_{emitted.index(p) + 1}" if p in emitted and len(emitted) > 1 else ""
            told[name] = p.describe(raw.replace("(", f"{index}(", 1))
        return told

    def arguments(self) -> dict[str, Any]:
        defaults = {p.name: p.default for p in inspect.signature(type(self)).parameters.values()}
        return {
            name: p.source
            for name, p in self.parameters_.items()
            if p.source != defaults.get(name, "network")
        }

    def _near_normal(self) -> dict[str, Tensor]:
        key = (type(self), self.family, *((name, p.source) for name, p in self.parameters_.items()))
        if key not in _NEAR_NORMAL:
            at = (torch.arange(200, dtype=torch.float32)[:, None] + 0.5) / 200
            z = torch.special.ndtri(at)
            start = self.start(z, z.new_zeros(1), z.new_ones(1), by_column=False)
            _NEAR_NORMAL[key] = {name: value.reshape(()) for name, value in start.items()}
        return _NEAR_NORMAL[key]

    def _trial(self) -> Any:
        """An instance with raw values 0, made to see whether the family will do."""

        def build(**moved: float) -> Any:
            values = {name: p.trial(moved.get(name, 0.0)) for name, p in self.parameters_.items()}
            return cast(Any, self.family)(**values)

        try:
            trial = build()
            if trial.event_shape:
                raise ValueError("its values are vectors, not numbers")
            with torch.random.fork_rng([]):
                trial.expand((2,)).log_prob(trial.sample())
        except Exception as error:  # whatever a class that is not made of numbers raises
            reason = str(error).split("\n")[0] or "it has no density, or no sampler"
            raise ValueError(f"{self.name} is no family of numbers: {reason}") from error
        for name, parameter in self.parameters_.items():
            ends = [] if parameter.fixed else [support(build(**{name: step})) for step in (-1.0, 1.0)]
            if not all(same_bounds(other, support(trial)) for other in ends):
                raise NeedsNumberError(
                    f"the support of {self.name} moves with its parameter {name}, so that data would fall "
                    f"outside it: give a number, {self.name}({name}=...)",
                    name,
                )
        return trial

    def _find_roles(self, trial: Any) -> None:
        r"""Which parameter is a location and which a scale, seen from the density:

        :math:`p(x + c \mid l + c) = p(x \mid l)` and :math:`p(c x \mid c l, c s) = p(x \mid l, s) / c`; of a
        rate, :math:`p(c x \mid r / c) = p(x \mid r) / c`.
        """
        if trial.support.is_discrete:
            return
        values = {name: p.trial(0.0).double() for name, p in self.parameters_.items()}
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(0)  # and no GPU's, as torch.manual_seed does
            x = trial.sample((5,)).double()

        def log_prob(x: Tensor, **moved: Tensor) -> Tensor:
            with contextlib.suppress(Exception):  # some take no doubles
                return cast(Tensor, cast(Any, self.family)(**values | moved, validate_args=False).log_prob(x))
            return x.new_full((), math.nan)

        before, locations = log_prob(x), {}
        for name, p in self.parameters_.items():
            if (
                self.on_reals
                and p.is_real
                and _close(log_prob(x + 0.7, **{name: values[name] + 0.7}), before)
            ):
                p.role = "location"
                locations[name] = 2 * values[name]
        for name, p in self.parameters_.items():
            for role, factor in (("scale", 2.0), ("rate", 0.5)) if p.low == 0 and p.role == "other" else ():
                if _close(
                    log_prob(2 * x, **locations, **{name: factor * values[name]}), before - math.log(2)
                ):
                    p.role = cast(Role, role)
                    return


_NEAR_NORMAL: dict[Any, dict[str, Tensor]] = {}


def _close(one: Tensor, other: Tensor) -> bool:
    return bool(((one - other).abs() < 1e-6 * (1 + other.abs())).all())


class Of:
    """``pv.likelihoods.StudentT``, say: makes a ``Univariate`` of a family from its parameters' sources."""

    def __init__(self, family: type[Distribution]):
        self.family = family
        self.__name__ = family.__name__
        self.__doc__ = (
            f"{family.__name__} element by element, with parameters {', '.join(parameters(family))}."
        )

    def __call__(self, **sources: Source) -> Univariate:
        return Univariate(self.family, **sources)

    def __repr__(self) -> str:
        return f"<family {self.__name__}: {self.__doc__}>"


def parameters(family: type[Distribution]) -> dict[str, constraints.Constraint | None]:
    """What a family is made with: names of parameters and their constraints.

    Of two ways to give the same (probs or logits) the unconstrained one is meant. A parameter that must
    be a number, as it is whole or has no constraint, has None.

    Raises:
        ValueError: the family does not say what its parameters are, or they are no scalars.
    """
    name, described = family.__name__, getattr(family, "arg_constraints", None)
    if not isinstance(described, dict) or not described:
        raise ValueError(f"{name} does not say what its parameters are (arg_constraints)")
    found: dict[str, constraints.Constraint | None] = {}
    for argument in inspect.signature(family).parameters.values():
        if argument.name in described:
            constraint: Any = described[argument.name]
            if constraints.is_dependent(constraint) or constraint.event_dim:
                raise ValueError(
                    f"{name}'s parameter {argument.name} is no scalar with a constraint of its own"
                )
            found[argument.name] = None if constraint.is_discrete else constraint
        elif argument.default is argument.empty:
            found[argument.name] = None
    for constrained, free in (("probs", "logits"), ("gate", "gate_logits")):
        if {constrained, free} <= found.keys():
            del found[constrained]
    return found


@functools.cache
def offered() -> dict[str, Univariate]:
    """By name, a ``Univariate`` of each of Pyro's families that can be one, numbers where it needs them."""
    found = {}
    for name, family in vars(dist).items():
        if inspect.isclass(family) and issubclass(family, Distribution):
            numbers: dict[str, float] = {}
            while True:
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # Pyro's, of families that are deprecated
                        made = Univariate(family, **numbers)
                except NeedsNumberError as error:
                    if error.parameter not in numbers:
                        numbers[error.parameter] = 1.0
                        continue
                except ValueError:
                    pass
                else:
                    if any(not p.fixed for p in made.parameters_.values()):
                        found[name] = made
                break
    return found


def attribute(name: str, module: str, listed: Callable[[], list[str]]) -> Any:
    """What ``module.name`` is, for the name of one of Pyro's families.

    Raises:
        AttributeError: it cannot be one, and why.
    """
    family = getattr(dist, name, None)
    if not (inspect.isclass(family) and issubclass(family, Distribution)):
        # Importing asks for names such as __path__, and is not to wait for the list.
        near = [] if name.startswith("_") else difflib.get_close_matches(name, listed(), n=3, cutoff=0.6)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise AttributeError(f"module {module!r} has no attribute {name!r}{hint}")
    if name not in listed():
        try:
            Univariate(family)
            reason = "its draws are not reparameterised, or it has no variance"
        except ValueError as error:
            reason = str(error)
        raise AttributeError(f"module {module!r} has no {name}: {reason}")
    return Of(family)


def mend(p: Distribution) -> str:
    """What to do with data outside a support."""
    ends = bounds(support(p))
    if cast(Any, p.support).is_discrete:
        return whole_numbers((ends or (0, math.inf))[1])
    low, high = ends or (-math.inf, math.inf)
    real = 'a likelihood of real values: likelihood=pv.likelihoods.Normal(scale="shared")'
    if (low, high) == (0, 1):
        return (
            "draw values from within (0, 1): dequantised, (255 * x + torch.rand_like(x)) / 256, or squeezed, "
            "0.001 + 0.998 * x; or a family with mass at the ends: likelihood=dist.ContinuousBernoulli, "
            "pv.likelihoods.TruncatedNormal()"
        )
    if math.isfinite(low) and math.isfinite(high):
        return f"scale the data into ({low:g}, {high:g}), or take {real}"
    if math.isfinite(low):
        return f"shift the data above {low:g} (add a small number to values of {low:g}), or take {real}"
    return Family.mends


def whole_numbers(top: float) -> str:
    """What to do where a likelihood of levels up to ``top`` meets other data."""
    wanted = "0, 1, 2, ..." if math.isinf(top) else f"from 0 to {top:g}, or as many levels as the data have"
    return (
        f"give whole numbers {wanted}; grey levels of images: pv.data.load(..., levels=True) (--levels true)"
    )
