"""Likelihoods p(x|z): modules whose ``forward(params)`` returns a distribution over x.

``params`` are the decoder's raw reals; constraints live here, never in the network. Every univariate family
of Pyro with a density is a likelihood without being named here::

    pv.VAE(..., likelihood=dist.StudentT)                            # all parameters from the decoder
    pv.VAE(..., likelihood=pv.likelihoods.StudentT(df=4.0, scale="shared"))

and so is one of your own, a distribution class with ``arg_constraints``.
"""

from __future__ import annotations

import inspect
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, cast, get_args

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_vae import distributions
from pyro_vae.distributions import (
    bounds,
    is_positive,
    parameters,
    same_bounds,
    scalar_support,
    support,
    to_constrained,
)

__all__ = [
    "Bernoulli",
    "Categorical",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "DiscretizedNormal",
    "GeneralizedPareto",
    "Kumaraswamy",
    "LogitNormal",
    "LowRankNormal",
    "Normal",
    "PseudoBernoulli",
    "TruncatedNormal",
]

Source = float | Literal["decoder", "shared", "per_pixel"]
"""Where a parameter comes from: a fixed number; ``"decoder"``, a value per datum and pixel;
``"shared"``, one learned value; ``"per_pixel"``, a learned value for each pixel."""

COUNTING = "counting measure"
LEBESGUE = "Lebesgue measure on the data's scale"


class Likelihood(nn.Module, ABC):
    """Base of the likelihoods.

    Attributes:
        measure: what its densities are densities of; only like measures may be compared.
        mends: what to do when the data lie where it has no density, in one line.
        binary: whether its support is {0, 1}.
    """

    measure: str = LEBESGUE
    mends: str = "remove values that are not finite"
    binary: bool = False

    def setup(self, event_shape: tuple[int, ...]) -> None:
        """Creates what depends on ``event_shape``; the VAE calls it once, on its own copy."""
        self.event_shape = event_shape

    @abstractmethod
    def param_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of what the decoder must emit for one datum."""

    @abstractmethod
    def forward(self, params: Tensor) -> Distribution:
        """p(x|z), batch shape ``[...]``, event shape ``event_shape``."""

    def initialize(self, mean: Tensor, std: Tensor, x: Tensor) -> None:
        """Starts p(x|z) at the data's statistics.

        Args:
            mean: of each pixel, ``event_shape``.
            std: standard deviation of each pixel, ``event_shape``.
            x: some of the data, ``[n, *event_shape]``.
        """

    @property
    def name(self) -> str:
        """What the family is called."""
        return type(self).__name__

    def describe(self) -> dict[str, str]:
        """Its parameters, by name: how each comes from the decoder's output f(z), in mathematics."""
        return {}


def _constructor(cls: Any) -> Callable[..., None]:
    """An ``__init__`` whose signature, which the command line reads, names the family's parameters."""

    def init(self: Any, **sources: Source) -> None:
        Univariate.__init__(self, **sources)

    arguments = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    for name, constraint in parameters(cls.family).items():
        default = cls.defaults.get(name, inspect.Parameter.empty if constraint is None else "decoder")
        annotation = int | float if constraint is None else Source
        arguments.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        )
    init.__signature__ = inspect.Signature(arguments)  # type: ignore[attr-defined]
    init.__annotations__ = {argument.name: argument.annotation for argument in arguments[1:]}
    return init


class Univariate(Likelihood):
    """Every pixel independent, of one univariate family. A new likelihood states its ``family``.

    Each parameter in the family's ``arg_constraints`` has a source: ``"decoder"`` (the default), a value
    per datum and pixel; ``"shared"``, one learned value; ``"per_pixel"``, a learned value for each pixel;
    or a number. The decoder emits its parameters one after the other along the first dimension of the
    event, so that images of C channels need k * C output channels for k parameters.

    Locations are offset + unit * raw, and positive parameters unit * (floor + softplus(raw)): the units,
    and what raw output 0 means, come from the family's maximum-likelihood fit to some of the data.

    Attributes:
        family: the distribution class.
        defaults: sources that differ from ``"decoder"``.
        floor: smallest value of each positive parameter, in its unit. Without one the density of a
            constant pixel has no maximum.

    Raises:
        ValueError: the family or a source will not do; the message says why.
    """

    family: ClassVar[type[Distribution]]
    defaults: ClassVar[dict[str, Source]] = {}
    floor: ClassVar[float] = 1e-3
    offset: Tensor

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "family" in vars(cls) and "__init__" not in vars(cls):
            cls.__init__ = _constructor(cls)  # type: ignore[method-assign]

    def __init__(self, **sources: Source):
        super().__init__()
        name = type(self).__name__
        self.constraints = parameters(self.family)
        unknown = [source for source in sources if source not in self.constraints]
        if unknown:
            raise ValueError(f"{name} has no parameter {unknown[0]!r}; it has {', '.join(self.constraints)}")
        self.sources: dict[str, Source] = {}
        for parameter, constraint in self.constraints.items():
            free = None if constraint is None else "decoder"
            source: Any = sources.get(parameter, self.defaults.get(parameter, free))
            _check_source(name, parameter, source, constraint)
            self.sources[parameter] = source
            setattr(self, parameter, source)
        if not self.decoded:
            raise ValueError(f"{self!r} leaves nothing to the decoder; leave one parameter to it")
        self.learned = nn.ParameterDict()
        p_x = self._trial()
        self.on_reals = bounds(support(p_x)) == (-math.inf, math.inf) and not p_x.support.is_discrete
        self.binary = isinstance(scalar_support(p_x.support), type(constraints.boolean))
        if p_x.support.is_discrete:
            self.measure = COUNTING
        if type(self).mends == Likelihood.mends:
            self.mends = _mends(p_x)

    @property
    def decoded(self) -> list[str]:
        """Names of the parameters that the decoder emits."""
        return [name for name, source in self.sources.items() if source == "decoder"]

    def setup(self, event_shape: tuple[int, ...]) -> None:
        super().setup(event_shape)
        shapes: dict[Source, tuple[int, ...]] = {"shared": (), "per_pixel": event_shape}
        for name, source in self.sources.items():
            if source in shapes:
                self.learned[name] = nn.Parameter(torch.zeros(shapes[source]))
            if isinstance(source, str):
                self.register_buffer(f"unit_{name}", torch.ones(()))
        self.register_buffer("offset", torch.zeros(self.param_shape(event_shape)))

    def param_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (len(self.decoded) * event_shape[0], *event_shape[1:])

    def forward(self, params: Tensor) -> Distribution:
        event_dim = len(self.event_shape)
        decoded = (params + self.offset).chunk(len(self.decoded), dim=-event_dim)
        raw = dict(zip(self.decoded, decoded, strict=True)) | dict(self.learned.items())
        values = {name: self._constrain(name, value) for name, value in raw.items()}
        return self._distribution(values, params).to_event(event_dim)

    def _distribution(self, learned: dict[str, Tensor], like: Tensor) -> Any:
        """The family with the learned values given, and numbers of the dtype of ``like``."""
        numbers = {
            name: like.new_full((), float(source))
            for name, source in self.sources.items()
            if not isinstance(source, str)
        }
        return cast(Any, self.family)(**learned, **numbers)

    def _constrain(self, name: str, raw: Tensor) -> Tensor:
        unit: Tensor = getattr(self, f"unit_{name}")
        value: Tensor = to_constrained(cast(Any, self.constraints[name]))(raw)
        if is_positive(self.constraints[name]):
            return unit * (self.floor + value)
        return unit * value if name == "loc" else value

    def _trial(self) -> Any:
        """An instance with learned parameters at raw value 0, made to see whether the family will do."""
        zero = torch.zeros(())

        def build(**raw: Tensor) -> Any:
            values = {
                name: to_constrained(constraint)(raw.get(name, zero))
                for name, constraint in self.constraints.items()
                if constraint is not None and isinstance(self.sources[name], str)
            }
            return self._distribution(values, zero)

        name = type(self).__name__
        if self.family in _REFUSED:
            raise ValueError(f"{name} is no likelihood: {_REFUSED[self.family]}")
        try:
            p_x = build()
            if p_x.event_shape:
                raise ValueError("its values are vectors, not numbers")
            with torch.random.fork_rng([]):
                p_x.expand((2,)).log_prob(p_x.sample())
        except Exception as error:  # whatever a class that is not made of numbers raises
            reason = str(error).split("\n")[0] or "it has no density, or no sampler"
            raise ValueError(f"{name} is no likelihood: {reason}") from error
        for parameter, source in self.sources.items():
            moved = [build(**{parameter: zero + step}) for step in (-1, 1) if isinstance(source, str)]
            if not all(same_bounds(support(other), support(p_x)) for other in moved):
                raise ValueError(
                    f"the support of {name} moves with its parameter {parameter}, so that data would fall "
                    f"outside it: give a number, pv.likelihoods.{name}({parameter}=...)"
                )
        return p_x

    def start(self, mean: Tensor, std: Tensor, x: Tensor) -> dict[str, Tensor]:
        """Starting value of each parameter, of shape ``()`` for all pixels, or ``event_shape``.

        Those of greatest likelihood on ``x``, with locations on the real line pixel by pixel.
        """
        x = x[:: max(1, x.numel() // 100_000)]
        centre = x.median(0).values if self.on_reals else x.new_zeros(())
        spread = (x - centre).abs().mean().clamp(min=1e-6) if self.on_reals else x.new_ones(())
        raw = {}
        for name, source in self.sources.items():
            if isinstance(source, str):
                by_pixel = source == "per_pixel" or (source == "decoder" and name == "loc" and self.on_reals)
                raw[name] = x.new_zeros(self.event_shape if by_pixel else ())

        # Where the likelihood may rise for ever: a StudentT without tails (from 10 it is not far to heavy
        # ones), counts that are a Poisson's.
        ends = {"df": 10.0, "total_count": 1000.0}
        if self.measure == COUNTING:
            ends["concentration"] = 1000.0

        def values() -> dict[str, Tensor]:
            out = {}
            for name, u in raw.items():
                constraint: Any = self.constraints[name]
                positive = is_positive(constraint)
                out[name] = u.exp() if positive else torch.distributions.transform_to(constraint)(u)
                if name == "loc" and self.on_reals:
                    out[name] = centre.mean() + spread * u if not u.dim() else centre + spread * u
            return out

        best = {name: value.clone() for name, value in values().items()}
        # The loss is the same at each step, and of any size: only signs of its gradient are used.
        optimizer = torch.optim.Rprop(raw.values(), lr=0.1, step_sizes=(1e-6, 2.0))
        for u in raw.values():
            u.requires_grad_()
        with torch.enable_grad():
            for _ in range(300):
                optimizer.zero_grad()
                loss = -self._distribution(values(), x).log_prob(x).mean()
                if not loss.isfinite():  # the data lie where there is no density: checked elsewhere
                    break
                best = {name: value.detach().clone() for name, value in values().items()}
                loss.backward()
                if not all(u.grad is not None and u.grad.isfinite().all() for u in raw.values()):
                    break
                optimizer.step()
                for name in ends.keys() & raw.keys():
                    raw[name].data.clamp_(max=math.log(ends[name]))
        return best

    @torch.no_grad()
    def initialize(self, mean: Tensor, std: Tensor, x: Tensor) -> None:
        start = self.start(mean, std, x)
        pooled = std.square().mean().sqrt().clamp(min=1e-6)
        offsets = self.offset.chunk(len(self.decoded), dim=-len(self.event_shape))
        targets = dict(zip(self.decoded, offsets, strict=True)) | dict(self.learned.items())
        for name, target in targets.items():
            value, unit = start[name].to(target), getattr(self, f"unit_{name}")
            if is_positive(self.constraints[name]):
                unit.copy_(value.log().mean().exp())
                value = (value / unit - self.floor).clamp(min=9 * self.floor)
            elif name == "loc":
                scale = start.get("scale", pooled)
                unit.copy_(scale.log().mean().exp())
                value = value / unit
            target.copy_(to_constrained(cast(Any, self.constraints[name])).inv(value))

    def describe(self) -> dict[str, str]:
        told = {}
        for name, source in self.sources.items():
            if source == "decoder":
                index = f"_{self.decoded.index(name) + 1}" if len(self.decoded) > 1 else ""
                told[name] = self._written(name, f"f{index}(z) + b{index}")
            elif source == "shared":
                told[name] = f"{self.value(name).item():.4g} (one learned value)"
            elif source == "per_pixel":
                low, high = self.value(name).aminmax()
                told[name] = f"{low.item():.4g} to {high.item():.4g} (a learned value per pixel)"
            else:
                told[name] = f"{source:g}"
        return told

    def value(self, name: str) -> Tensor:
        """A learned parameter's value, shape ``()`` or ``event_shape``."""
        return self._constrain(name, self.learned[name].detach())

    def _written(self, name: str, raw: str) -> str:
        unit, constraint = f"{getattr(self, f'unit_{name}').item():.3g}", self.constraints[name]
        factor = "" if unit == "1" else f"{unit} "
        if is_positive(constraint):
            inner = f"{self.floor:g} + softplus({raw})"
            return f"{factor}({inner})" if factor else inner
        if name == "loc" and factor:
            return f"{factor}({raw})"
        low, high = bounds(constraint) or (-math.inf, math.inf)
        if math.isinf(low):
            return raw
        return f"{low:g} + {high - low:g} sigmoid({raw})"

    def __repr__(self) -> str:
        told = (
            f"{name}={source!r}"
            for name, source in self.sources.items()
            if source != self.defaults.get(name, "decoder")
        )
        return f"{type(self).__name__}({', '.join(told)})"


class Bernoulli(Univariate):
    r"""Binary pixels: :math:`p(x|z) = \prod_i \sigma(l_i)^{x_i} (1 - \sigma(l_i))^{1 - x_i}`.

    The logits :math:`l` are the decoder's output; they start at the logit of the data's mean.
    """

    family = dist.Bernoulli
    mends = (
        'binarise: pv.data.load(..., binarize="dynamic"); '
        'or model real values: likelihood=pv.likelihoods.Normal(scale="shared"); '
        "or ask for the pseudo-likelihood: likelihood=pv.likelihoods.PseudoBernoulli()"
    )

    def start(self, mean: Tensor, std: Tensor, x: Tensor) -> dict[str, Tensor]:
        # Pixels that are never on must not start at -inf: 0.01 is where a net can come back from.
        return {"logits": torch.logit(mean.clamp(0.01, 0.99))}


class PseudoBernoulli(Bernoulli):
    """Grey values in [0, 1] under the Bernoulli's formula, as in many tutorials: no probability.

    See :class:`pyro_vae.distributions.PseudoBernoulli`. Its "log-likelihood" compares with nothing.
    """

    family = distributions.PseudoBernoulli
    measure = "none (not normalised)"
    mends = "scale the data to [0, 1]; or likelihood=pv.likelihoods.Normal(scale='shared')"


class Normal(Univariate):
    r"""Real values: :math:`p(x|z) = \prod_i \mathcal N(x_i; \mu_i(z), \sigma_i^2)`.

    The mean comes from the decoder, in units of the data's standard deviation and starting at the
    data's mean. A learned scale has a floor of 0.001 of the data's standard deviation.

    Args:
        loc: :math:`\mu`.
        scale: :math:`\sigma`, in the units of the data if a number; else where it comes from.
    """

    family = dist.Normal

    def start(self, mean: Tensor, std: Tensor, x: Tensor) -> dict[str, Tensor]:
        pooled = std.square().mean().sqrt().clamp(min=1e-6)
        return {"loc": mean, "scale": std if self.sources["scale"] == "per_pixel" else pooled}


class DiscretizedLogistic(Univariate):
    """Grey levels 0, ..., L - 1: a Logistic, rounded (:class:`pyro_vae.distributions.DiscretizedLogistic`).

    Args:
        loc: location, where the levels span [0, 1].
        scale: scale, likewise.
        levels: L, 256 for 8-bit images.
    """

    family = distributions.DiscretizedLogistic
    defaults: ClassVar[dict[str, Source]] = {"levels": 256}


class DiscretizedNormal(Univariate):
    """Grey levels 0, ..., L - 1: a Normal, rounded. See :class:`pyro_vae.distributions.DiscretizedNormal`.

    Args:
        loc: location, where the levels span [0, 1].
        scale: scale, likewise.
        levels: L, 256 for 8-bit images.
    """

    family = distributions.DiscretizedNormal
    defaults: ClassVar[dict[str, Source]] = {"levels": 256}


class Kumaraswamy(Univariate):
    """Values in (0, 1), much as under a Beta. See :class:`pyro_vae.distributions.Kumaraswamy`."""

    family = distributions.Kumaraswamy


class GeneralizedPareto(Univariate):
    """Values above ``loc``, with a tail. See :class:`pyro_vae.distributions.GeneralizedPareto`."""

    family = distributions.GeneralizedPareto


class TruncatedNormal(Univariate):
    """Values in [0, 1]: the Normal restricted to them (:class:`pyro_vae.distributions.TruncatedNormal`)."""

    family = distributions.TruncatedNormal


class LogitNormal(Univariate):
    """Values in (0, 1), whose logits are Normal. See :class:`pyro_vae.distributions.LogitNormal`."""

    family = distributions.LogitNormal


class Categorical(Likelihood):
    r"""Levels or symbols 0, ..., L - 1 with a probability each: :math:`p(x|z) = \prod_i \pi_{i x_i}(z)`.

    The decoder emits L logits per pixel, which start at the logarithm of the levels' frequencies.

    Args:
        levels: L, 256 for 8-bit images.
    """

    family = distributions.Categorical
    measure = COUNTING
    offset: Tensor

    def __init__(self, levels: int = 256):
        super().__init__()
        self.levels = _check_levels(type(self).__name__, levels)
        self.mends = _integers(levels - 1)

    def setup(self, event_shape: tuple[int, ...]) -> None:
        super().setup(event_shape)
        self.register_buffer("offset", torch.zeros(self.levels))

    def param_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.levels * event_shape[0], *event_shape[1:])

    def forward(self, params: Tensor) -> Distribution:
        n = len(self.event_shape)
        logits = params.unflatten(-n, (self.levels, self.event_shape[0])).movedim(-n - 1, -1)
        p_x: Any = distributions.Categorical(logits=logits + self.offset)
        return cast(Distribution, p_x.to_event(n))

    @torch.no_grad()
    def initialize(self, mean: Tensor, std: Tensor, x: Tensor) -> None:
        counts = torch.bincount(x.long().clamp(0, self.levels - 1).flatten(), minlength=self.levels) + 1
        self.offset.copy_((counts / counts.sum()).log())

    def describe(self) -> dict[str, str]:
        return {"logits": "f(z) + b"}

    def extra_repr(self) -> str:
        return f"levels={self.levels}"


class DiscretizedLogisticMixture(Likelihood):
    """Grey levels 0, ..., L - 1: a mixture of rounded Logistics, the component shared by a pixel's channels.

    See :class:`pyro_vae.distributions.DiscretizedLogisticMixture`. Locations start at the quantiles of the
    data's levels.

    Args:
        components: K.
        levels: L, 256 for 8-bit images.
    """

    measure = COUNTING
    floor = 1e-3
    unit: Tensor
    offset: Tensor

    def __init__(self, components: int = 5, levels: int = 256):
        super().__init__()
        self.components = distributions.check_count("components", components)
        self.levels = _check_levels(type(self).__name__, levels)
        self.mends = _integers(levels - 1)

    def setup(self, event_shape: tuple[int, ...]) -> None:
        super().setup(event_shape)
        self.register_buffer("unit", torch.ones(()))
        self.register_buffer("offset", torch.zeros(self.components))

    def _channels(self, event_shape: tuple[int, ...]) -> int:
        return event_shape[0] if len(event_shape) == 3 else 1

    def param_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        c = self._channels(event_shape)
        return (self.components * (1 + 2 * c) * (event_shape[0] // c), *event_shape[1:])

    def forward(self, params: Tensor) -> Distribution:
        k, c, n = self.components, self._channels(self.event_shape), len(self.event_shape)
        pixels = self.event_shape[1:] if n == 3 else self.event_shape
        params = params.reshape(*params.shape[: params.dim() - n], k * (1 + 2 * c), *pixels)
        at = -1 - len(pixels)
        logits, loc, scale = params.split([k, k * c, k * c], dim=at)
        loc, scale = (t.unflatten(at, (k, c)) for t in (loc, scale))
        offset = self.offset.reshape(k, 1, *[1] * len(pixels))
        return distributions.DiscretizedLogisticMixture(
            logits,
            offset + self.unit * loc,
            self.unit * (self.floor + to_constrained(constraints.positive)(scale)),
            self.levels,
            event_shape=self.event_shape,
        )

    @torch.no_grad()
    def initialize(self, mean: Tensor, std: Tensor, x: Tensor) -> None:
        values = x.flatten()[:1_000_000].to(self.unit) / (self.levels - 1)
        self.unit.copy_((std.square().mean().sqrt() / (self.levels - 1) / 2).clamp(min=1e-3))
        at = (torch.arange(self.components).to(values) + 0.5) / self.components
        self.offset.copy_(values.sort().values[(at * len(values)).long()])

    def describe(self) -> dict[str, str]:
        unit = f"{self.unit.item():.3g}"
        positive = f"{unit} ({self.floor:g} + softplus(f_3(z)))"
        return {"logits": "f_1(z)", "loc": f"b + {unit} f_2(z)", "scale": positive}

    def extra_repr(self) -> str:
        return f"components={self.components}, levels={self.levels}"


class LowRankNormal(Likelihood):
    r"""All pixels together, for small data: :math:`p(x|z) = \mathcal N(x; \mu, W W^\top + \mathrm{diag}(d))`.

    Args:
        rank: columns of W.
        covariance: ``"decoder"``, W and d depend on z; ``"shared"``, they are learned and the same for all.
    """

    floor = 1e-3
    unit: Tensor
    loc: Tensor

    def __init__(self, rank: int = 2, covariance: Literal["decoder", "shared"] = "decoder"):
        super().__init__()
        rank = distributions.check_count("rank", rank)
        if covariance not in ("decoder", "shared"):
            raise ValueError(f'covariance={covariance!r} is neither "decoder" nor "shared"')
        self.rank, self.covariance = rank, covariance

    def setup(self, event_shape: tuple[int, ...]) -> None:
        super().setup(event_shape)
        size = math.prod(event_shape)
        # Off 0, where the likelihood has a saddle: it depends on W through its square.
        start = torch.cat([torch.full((1, size), 0.5), 0.3 * torch.randn(self.rank, size)])
        if self.covariance == "shared":
            self.raw = nn.Parameter(start)
        else:
            self.register_buffer("raw", start)
        self.register_buffer("unit", torch.ones(()))
        self.register_buffer("loc", torch.zeros(size))

    def param_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        decoded = 2 + self.rank if self.covariance == "decoder" else 1
        return (decoded * event_shape[0], *event_shape[1:])

    def forward(self, params: Tensor) -> Distribution:
        size = math.prod(self.event_shape)
        params = params.reshape(*params.shape[: params.dim() - len(self.event_shape)], -1, size)
        raw = self.raw + params[..., 1:, :] if self.covariance == "decoder" else self.raw
        variance = (self.floor + to_constrained(constraints.positive)(raw[..., 0, :])).square()
        base = dist.LowRankMultivariateNormal(
            self.loc + self.unit * params[..., 0, :],
            self.unit * raw[..., 1:, :].mT,
            self.unit.square() * variance,
        )
        return distributions.Reshaped(base, self.event_shape)

    @torch.no_grad()
    def initialize(self, mean: Tensor, std: Tensor, x: Tensor) -> None:
        self.unit.copy_(std.square().mean().sqrt().clamp(min=1e-6))
        self.loc.copy_(mean.flatten())

    def describe(self) -> dict[str, str]:
        unit = f"{self.unit.item():.3g}"
        if self.covariance == "shared":
            return {"loc": f"b + {unit} f(z)", "W": "learned values", "d": "learned values"}
        variance = f"{unit}^2 ({self.floor:g} + softplus(f_3(z) + b_3))^2"
        return {"loc": f"b_1 + {unit} f_1(z)", "W": f"{unit} (f_2(z) + b_2)", "d": variance}

    def extra_repr(self) -> str:
        return f"rank={self.rank}, covariance={self.covariance!r}"


def as_likelihood(likelihood: Likelihood | type[Distribution]) -> Likelihood:
    """A likelihood of one's own: a copy of the given one, or the given family with all from the decoder."""
    example = "likelihood=pv.likelihoods.Bernoulli() or likelihood=dist.StudentT, for example"
    return cast(Likelihood, distributions.as_part(likelihood, Likelihood, of, example))


def of(family: type[Distribution]) -> type[Likelihood]:
    """The likelihood of a univariate family, as a class: ``of(dist.StudentT)(df=4.0)``.

    Raises:
        ValueError: the family cannot be one; the message says why.
    """
    return cast(type[Likelihood], distributions.variant(family, Univariate, sys.modules[__name__]))


def __getattr__(name: str) -> Any:
    return distributions.attribute(name, of, __name__)


def __dir__() -> list[str]:
    return sorted({*__all__, *distributions.families()})


_INTEGRAL = "its density is an integral done by numbers, whose gradients are not finite everywhere"
_REFUSED: dict[Any, str] = {
    dist.Stable: _INTEGRAL,
    dist.StableWithLogProb: _INTEGRAL,
    dist.Delta: "it has no density",
    dist.GroupedNormalNormal: "its values are vectors, not numbers",
    dist.ZeroInflatedDistribution: "it is made from a distribution; take ZeroInflatedPoisson",
    dist.RelaxedBernoulliStraightThrough: "its draws do not follow its density; take RelaxedBernoulli",
}


def _check_levels(likelihood: str, levels: int) -> int:
    if distributions.check_count("levels", levels, least=0) < 2:
        raise ValueError(f"{likelihood}(levels={levels}) needs 2 levels or more; 256 for 8-bit images")
    return levels


def _check_source(likelihood: str, name: str, source: Any, constraint: Any) -> None:
    named = get_args(get_args(Source)[1])
    is_number = isinstance(source, float | int) and not isinstance(source, bool)
    if constraint is None and not is_number:
        raise ValueError(
            f"{likelihood} needs a number for {name}, which cannot be learned: "
            f"pv.likelihoods.{likelihood}({name}=...), --likelihood {likelihood} --likelihood.{name} ..."
        )
    if not (source in named if isinstance(source, str) else is_number):
        raise ValueError(f"{likelihood}({name}={source!r}): give a number, or one of {', '.join(named)}")
    if is_number and constraint is not None and not constraint.check(torch.tensor(float(source))):
        raise ValueError(
            f"{likelihood}({name}={source!r}) does not satisfy {constraint}; give another number"
        )


def _integers(top: float) -> str:
    wanted = "0, 1, 2, ..." if math.isinf(top) else f"from 0 to {top:g}, or as many levels as the data have"
    return (
        f"give whole numbers {wanted}; grey levels of images: pv.data.load(..., levels=True) (--levels true)"
    )


def _mends(p_x: Distribution) -> str:
    """What to do with data outside the support."""
    if cast(Any, p_x.support).is_discrete:
        return _integers((bounds(support(p_x)) or (0, math.inf))[1])
    low, high = bounds(support(p_x)) or (-math.inf, math.inf)
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
    return Likelihood.mends
