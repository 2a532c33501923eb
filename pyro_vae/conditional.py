"""Conditionals p(value | parents): a family, and a network from the parents to what the family needs."""

from __future__ import annotations

import contextlib
import copy
import math
from typing import Any, cast

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_vae.bayesian import START, Bayesian
from pyro_vae.checks import found
from pyro_vae.constraints import bounds, domain, onto, same_bounds
from pyro_vae.distributions import centre
from pyro_vae.families import COUNTING, Family, SemiAmortised
from pyro_vae.families.base import Shape
from pyro_vae.families.discrete import follow
from pyro_vae.families.univariate import Univariate
from pyro_vae.guides import Normal, as_guide
from pyro_vae.nets import Net, check_factories
from pyro_vae.seen import Latent, Seen


class Conditional(nn.Module):
    r"""A family whose parameters come from a network of the parents: :math:`p(v \mid \text{parents})`.

    Without parents they are parameters of its own: :math:`p(v)`.

    Args:
        site: name of the site whose value it is of.
        family: copied.
        event_shape: shape of one value.
        parents: how each parent is seen, in the order of the call: ``Real``, ``Label``, ``Latent``.
        net: factory of the network, called with the parents' shape (several: a tuple of shapes).
        support: where values must lie; a family over the reals is pushed there.

    Raises:
        TypeError: ``net`` is no factory.
        ValueError: parts do not fit together.

    Attributes:
        weights: q(w), where the network's weights are latent: see ``nets.bayesian``.
        drawn: w ``[..., W]``, while a program tells one of its stories.
    """

    def __init__(
        self,
        site: str,
        family: Family,
        event_shape: Shape,
        parents: tuple[Seen, ...] = (),
        net: Net | None = None,
        *,
        support: constraints.Constraint | None = None,
    ):
        super().__init__()
        self.site, self.event_shape = site, tuple(event_shape)
        self.family = family = follow(copy.deepcopy(family), support)
        self.parents = nn.ModuleDict({parent.site: parent for parent in parents})
        self._push = onto(support) if support is not None and _is_pushed(family, support) else None
        inner = self.event_shape
        if self._push is not None:
            inner = tuple(self._push.inverse_shape(torch.Size(self.event_shape)))
        if min(inner, default=1) < 1:
            raise ValueError(f"a prior over {support} leaves nothing free with latent_dim=1; take 2")
        self.family.setup(inner)
        self.factory = net
        self.weights: Conditional | None = None
        self.drawn: Tensor | None = None
        if parents:
            self.build()
        elif math.prod(self.family.param_shape()):
            self.raw = nn.Parameter(torch.zeros(self.family.param_shape()))
        else:
            self.register_buffer("raw", torch.zeros(0), persistent=False)

    @property
    def pushed(self) -> bool:
        """Whether the family's values are pushed onto another support."""
        return self._push is not None

    @property
    def support(self) -> constraints.Constraint:
        """Where its values lie."""
        return self.family.support if self._push is None else cast(Any, self._push).codomain

    def build(self) -> None:
        """Makes the network, for what it sees of the parents now."""
        shapes = tuple(parent.shape for parent in self.seen)
        if not math.prod(self.family.param_shape()):
            reader = "decoder" if isinstance(self.seen[0], Latent) else "encoder"
            raise ValueError(
                f"{self.family!r} of {self} leaves nothing to the {reader}; leave one parameter to it"
            )
        check_factories(net=self.factory)
        seen: Any = shapes[0] if len(shapes) == 1 else shapes
        net: Any = cast(Net, self.factory)(seen, self.family.param_shape())
        if not isinstance(net, nn.Module):
            raise TypeError(
                f"the network of {self} is to be made by a factory (in_shape, out_shape) -> nn.Module, but "
                f"{getattr(self.factory, '__name__', self.factory)} returned {type(net).__name__}"
            )
        self.net = net
        if isinstance(net, Bayesian):
            w = net.take()
            guide = as_guide(net.guide or Normal())
            if guide.measure == COUNTING or not guide.on_reals or isinstance(guide, SemiAmortised):
                raise ValueError(
                    f"guide={guide!r} is no family of latent weights, which are real and not of a datum; "
                    "take pv.guides.LowRankNormal(5), or leave it out for Normals"
                )
            self.weights = Conditional(f"{self.site}_weights", guide, tuple(w.shape))
            _start_at(self.weights.family, w, START * net.scale)

    @property
    def seen(self) -> list[Seen]:
        """How each parent is seen."""
        return cast(list[Seen], list(self.parents.values()))

    def forward(self, *parents: Tensor) -> Distribution:
        """The distribution, batch shape ``[...]``, for parents ``[..., *their event shapes]``."""
        return self.distribution(self.emit(*parents) if self.parents else self.raw)

    def distribution(self, raw: Tensor) -> Distribution:
        """The distribution that raw reals ``[..., *family.param_shape()]`` mean."""
        # What torch.export records has no values to validate.
        unchecked = torch.compiler.is_exporting() and pyro.validation_enabled(False)
        with full_precision(raw.device), unchecked or contextlib.nullcontext():
            p: Distribution = self.family(raw)
            if self._push is not None:
                # Cached: the way back from a sample is not exact where the map is flat.
                p = dist.TransformedDistribution(p, [self._push.with_cache(1)])
        return p

    def emit(self, *parents: Tensor) -> Tensor:
        """The network's output, though it be made for a single batch dimension."""
        if len(parents) != len(self.parents):
            raise TypeError(f"{self} takes {', '.join(self.parents)}, but was given {len(parents)} values")
        pairs = list(zip(parents, self.seen, strict=True))
        leading = [_leading(x, seen) for x, seen in pairs]
        try:
            batch = torch.broadcast_shapes(*leading)
        except RuntimeError:
            told = ", ".join(f"{seen.site} {list(x.shape)}" for x, seen in pairs)
            raise RuntimeError(
                f"{self}: the leading dimensions cannot be broadcast, {told}; give as many of each"
            ) from None
        inputs = [seen(x).expand(*batch, *seen.shape) for x, seen in pairs]
        if self.weights is None:
            inputs = [x.reshape(-1, *seen.shape) for x, seen in zip(inputs, self.seen, strict=True)]
            y: Tensor = self.net(*inputs)
        else:
            w = centre(self.weights())[0] if self.drawn is None else self.drawn
            batch = torch.broadcast_shapes(batch, w.shape[:-1])
            y = self.net(w, *inputs).flatten(0, len(batch) - 1) if batch else self.net(w, *inputs)[None]
        out_shape = self.family.param_shape()
        if tuple(y.shape[1:]) != tuple(out_shape):
            raise ValueError(
                f"the network of {self} returned shape {list(y.shape)} for input "
                f"{[list(x.shape) for x in inputs]}; it must be {[batch.numel(), *out_shape]}, the out_shape "
                "that the factory is called with"
            )
        return y.reshape(*batch, *out_shape).to(inputs[0].dtype)  # bfloat16 under autocast

    def __str__(self) -> str:
        given = f" | {', '.join(self.parents)}" if self.parents else ""
        return f"{self.site}{given}"


def _start_at(family: Family, w: Tensor, std: Tensor) -> None:
    """Starts a guide of weights at those that a network was made with."""
    family.initialize(w + std * torch.randn(64, len(w)), w, std, by_column=True)
    for p in family.parameters_.values() if isinstance(family, Univariate) else ():
        if p.role == "location":  # it moves as far in a step as weights that are parameters
            p.start(w, torch.ones_like(w))


def _leading(x: Any, seen: Seen) -> torch.Size:
    """The leading dimensions of a parent's value.

    Raises:
        ValueError: it is no tensor ``[..., *event_shape]``.
    """
    shape = x.shape if isinstance(x, Tensor) else None
    end = -1 if shape is None else len(shape) - len(seen.event_shape)
    if shape is None or end < 0 or tuple(shape[end:]) != seen.event_shape:
        wanted = ", ".join(["...", *map(str, seen.event_shape)])
        raise ValueError(f"{seen.site}={found(x)} must be a tensor [{wanted}]")
    return shape[:end]


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Autocast is for networks: distributions keep the dtype of their data."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else contextlib.nullcontext()


def _is_pushed(family: Family, support: constraints.Constraint) -> bool:
    """Whether a family is pushed onto a support, or lies there already.

    Raises:
        ValueError: it can do neither; the pairs that work are told.
    """
    if same_bounds(family.support, support):
        return False
    try:
        if support.is_discrete:
            raise NotImplementedError
        onto(support)
        possible = bounds(family.support) == (-math.inf, math.inf)
    except NotImplementedError:
        possible = False
    if not possible:
        raise ValueError(
            f"the guide {family!r}, over {domain(family.support)}, cannot follow a prior over "
            f"{domain(support)}. Guides over the reals (Normal, LowRankNormal, FullRankNormal, "
            "MixtureOfNormals, Flow, dist.Laplace) go with every continuous prior; others with priors on "
            "their own support: dist.Gamma with dist.Gamma, dist.Beta with dist.Beta, Dirichlet with "
            "dist.Dirichlet, Discrete with Bernoulli and OneHotCategorical"
        )
    return True
