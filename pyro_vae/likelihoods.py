"""Likelihoods p(x|z): modules whose ``forward(params)`` returns a distribution over x.

``params`` are the decoder's raw reals. A likelihood reads its family's ``arg_constraints`` and maps
each parameter into them; each parameter is given per datum by the decoder,
learned and shared, learned per pixel, or fixed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, cast, get_args

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from pyro_vae import distributions
from pyro_vae.distributions import to_constrained

__all__ = ["Bernoulli", "Normal", "PseudoBernoulli"]

Source = float | Literal["decoder", "shared", "per_pixel"]
"""Where a parameter comes from: a fixed number; ``"decoder"``, a value per datum and pixel;
``"shared"``, one learned value; ``"per_pixel"``, a learned value for each pixel."""


class Likelihood(nn.Module, ABC):
    """Base of the likelihoods.

    Attributes:
        measure: what its densities are densities of; only like measures may be compared.
        mends: what to do when the data lie outside its support, in one line.
    """

    measure: ClassVar[str]
    mends: ClassVar[str]

    def setup(self, event_shape: tuple[int, ...]) -> None:
        """Creates what depends on ``event_shape``; the VAE calls it once, on its own copy."""
        self.event_shape = event_shape

    @abstractmethod
    def param_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of what the decoder must emit for one datum."""

    @abstractmethod
    def forward(self, params: Tensor) -> Distribution:
        """p(x|z), batch shape ``[...]``, event shape ``event_shape``."""

    def initialize(self, mean: Tensor, std: Tensor) -> None:
        """Starts p(x|z) at the data's statistics; ``mean`` and ``std`` have shape ``event_shape``."""


class Univariate(Likelihood):
    """Every pixel independent, of one univariate family. A new likelihood states its ``family``.

    The decoder emits the parameters whose source is ``"decoder"``, one after the other along the
    first dimension of the event, so that images of C channels need k * C output channels for k
    parameters. Raw output 0 means the starting value that ``start`` gives.

    Attributes:
        family: the distribution class.
        floor: smallest value of each learned scale, in units of the data's standard deviation.
            Without one the density of a constant pixel has no maximum.
    """

    family: ClassVar[type[Distribution]]
    floor: ClassVar[float] = 1e-3
    unit: Tensor
    offset: Tensor

    def __init__(self, **sources: Source):
        super().__init__()
        for name, source in sources.items():
            _check_source(type(self).__name__, name, source, cast(Any, self.family.arg_constraints)[name])
            setattr(self, name, source)
        self.sources = sources
        self.learned = nn.ParameterDict()
        if not self.decoded:
            raise ValueError(f"{self!r} leaves nothing to the decoder; leave one parameter to it")

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
        self.register_buffer("unit", torch.ones(()))
        self.register_buffer("offset", torch.zeros(self.param_shape(event_shape)))

    def param_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (len(self.decoded) * event_shape[0], *event_shape[1:])

    def forward(self, params: Tensor) -> Distribution:
        event_dim = len(self.event_shape)
        decoded = (params + self.offset).chunk(len(self.decoded), dim=-event_dim)
        raw = dict(zip(self.decoded, decoded, strict=True)) | dict(self.learned.items())
        values = {
            name: self._constrain(name, raw[name]) if name in raw else params.new_full((), float(source))
            for name, source in self.sources.items()
        }
        return cast(Any, self.family)(**values).to_event(event_dim)

    def _transform(self, name: str) -> Transform:
        return to_constrained(cast(Any, self.family.arg_constraints)[name])

    def _constrain(self, name: str, raw: Tensor) -> Tensor:
        value: Tensor = self._transform(name)(raw)
        if name == "loc":
            return self.unit * value
        if name == "scale":
            return self.unit * (self.floor + value)
        return value

    def start(self, mean: Tensor, std: Tensor) -> dict[str, Tensor]:
        """Starting value of each parameter, given the data's mean and standard deviation.

        Locations and scales are in the data's unit, the root mean square of ``std``.
        """
        scale = std / self.unit if self.sources.get("scale") == "per_pixel" else torch.ones(())
        return {"loc": mean / self.unit, "scale": scale.clamp(min=10 * self.floor)}

    @torch.no_grad()
    def initialize(self, mean: Tensor, std: Tensor) -> None:
        self.unit.copy_(std.square().mean().sqrt().clamp(min=1e-6))
        offsets = self.offset.chunk(len(self.decoded), dim=-len(self.event_shape))
        targets = dict(zip(self.decoded, offsets, strict=True)) | dict(self.learned.items())
        for name, value in self.start(mean, std).items():
            if name in targets:
                targets[name].copy_(self._transform(name).inv(value))

    def __repr__(self) -> str:
        told = (f"{name}={source!r}" for name, source in self.sources.items() if source != "decoder")
        return f"{type(self).__name__}({', '.join(told)})"


def _check_source(likelihood: str, name: str, source: Source, constraint: Any) -> None:
    named = get_args(get_args(Source)[1])
    is_number = isinstance(source, float | int) and not isinstance(source, bool)
    if not (source in named if isinstance(source, str) else is_number):
        raise ValueError(f"{likelihood}({name}={source!r}): give a number, or one of {', '.join(named)}")
    if is_number and not constraint.check(torch.tensor(float(source))):
        raise ValueError(
            f"{likelihood}({name}={source!r}) does not satisfy {constraint}; give another number"
        )


class Bernoulli(Univariate):
    r"""Binary pixels: :math:`p(x|z) = \prod_i \sigma(l_i)^{x_i} (1 - \sigma(l_i))^{1 - x_i}`.

    The logits :math:`l` are the decoder's output; they start at the logit of the data's mean.
    """

    family = dist.Bernoulli
    measure = "counts on {0, 1}"
    mends = (
        'binarise: pv.data.load(..., binarize="dynamic"); '
        'or model real values: likelihood=pv.likelihoods.Normal(scale="shared"); '
        "or ask for the pseudo-likelihood: likelihood=pv.likelihoods.PseudoBernoulli()"
    )

    def __init__(self) -> None:
        super().__init__(logits="decoder")

    def start(self, mean: Tensor, std: Tensor) -> dict[str, Tensor]:
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
        scale: :math:`\sigma`, in the units of the data if a number; else where it comes from.
    """

    family = dist.Normal
    measure = "Lebesgue measure on the data's scale"
    mends = "remove values that are not finite"

    def __init__(self, scale: Source = "decoder") -> None:
        super().__init__(loc="decoder", scale=scale)
