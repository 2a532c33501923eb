"""Conditionals p(value | parents): a family, and a network from the parents to what the family needs."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, cast

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_vae.checks import found
from pyro_vae.constraints import bounds, onto, same_bounds
from pyro_vae.families import Family
from pyro_vae.families.base import Shape, units
from pyro_vae.nets import Net, check_factories

_GAPS: ContextVar[frozenset[str] | None] = ContextVar("sites of which values may be missing", default=None)


@contextlib.contextmanager
def observing(gaps: frozenset[str]) -> Iterator[None]:
    """Within it, values of these sites may be missing and those of all others are not: nobody need look."""
    token = _GAPS.set(gaps)
    try:
        yield
    finally:
        _GAPS.reset(token)


def may_have_gaps(site: str, value: Tensor) -> bool:
    """Whether elements of a site's value may be missing (NaN): as is known, or as a look at it tells."""
    if not value.is_floating_point():
        return False
    known = _GAPS.get()
    if known is not None:
        return site in known
    try:
        # By tolist, which a recorded step refuses; a number it would look at before each use, at more cost.
        return bool(value.isnan().any().tolist())
    except (TypeError, RuntimeError, NotImplementedError):
        return True


class Real(nn.Module):
    """How a network sees real values of a site: standardised, and what is missing at its mean.

    Where the data have gaps, a mask (1 where a value is known) stands beside the values.

    Args:
        site: the site's name.
        event_shape: shape of one value; ``()`` is seen as ``(1,)``.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, site: str, event_shape: Shape):
        super().__init__()
        self.site, self.event_shape = site, tuple(event_shape)
        self.gaps = False
        self.register_buffer("loc", torch.zeros(self.event_shape))
        self.register_buffer("scale", torch.ones(self.event_shape if len(self.event_shape) == 1 else ()))

    @property
    def shape(self) -> Shape:
        """Shape of what the network sees."""
        if not self.gaps:
            return self.event_shape or (1,)
        first, *rest = self.event_shape if len(self.event_shape) not in (0, 2) else (1, *self.event_shape)
        return (2 * first, *rest)

    @torch.no_grad()
    def initialize(self, mean: Tensor, std: Tensor, by_column: bool) -> None:
        """Centres element by element, and divides columns each by its own unit, all else by one number.

        Pixels that hardly vary are not blown up, nor are columns of large units heard alone.
        """
        self.loc.copy_(mean)
        unit = units(std, by_column)
        self.scale.copy_(unit if self.scale.dim() else unit.flatten()[0])

    def forward(self, x: Tensor) -> Tensor:
        seen = (x - self.loc) / self.scale
        known = None
        if self.gaps or may_have_gaps(self.site, x):
            known = ~seen.isnan()
            seen = torch.where(known, seen, 0.0)
        if self.gaps:
            pair, dims = (seen, cast(Tensor, known).to(seen)), len(self.event_shape)
            return torch.stack(pair, -1 - dims) if dims in (0, 2) else torch.cat(pair, -dims)
        return seen if self.event_shape else seen[..., None]


class Label(nn.Module):
    """How a network sees a label: one of K numbers is 1, all are 0 where it is missing.

    Args:
        site: the site's name.
        num_classes: K.
    """

    classes: Tensor

    def __init__(self, site: str, num_classes: int):
        super().__init__()
        self.site, self.event_shape, self.shape = site, (), (num_classes,)
        self.register_buffer("classes", torch.arange(num_classes).to(torch.get_default_dtype()))

    def check(self, y: Tensor) -> None:
        """Refuses classes that there are not.

        Raises:
            ValueError: naming the first of them.
        """
        wrong = (y == y) & ~torch.isin(y, self.classes.to(y))
        try:
            outside = y[wrong].tolist()
        except (TypeError, RuntimeError, NotImplementedError):  # in a recorded step, which has no values
            return
        if outside:
            raise ValueError(
                f"{self.site}={outside[0]:g} is no class: there are those from 0 to {len(self.classes) - 1}"
            )

    def forward(self, y: Tensor) -> Tensor:
        return (y[..., None] == self.classes).to(self.classes.dtype)


class Latent(nn.Module):
    """How a network sees a latent: as it is."""

    def __init__(self, site: str, event_shape: Shape):
        super().__init__()
        self.site, self.event_shape, self.shape = site, tuple(event_shape), tuple(event_shape)

    def forward(self, z: Tensor) -> Tensor:
        return z


Seen = Real | Label | Latent


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
        self.family = copy.deepcopy(family)
        self.parents = nn.ModuleDict({parent.site: parent for parent in parents})
        self._push = onto(support) if support is not None and _is_pushed(family, support) else None
        inner = self.event_shape
        if self._push is not None:
            inner = tuple(self._push.inverse_shape(torch.Size(self.event_shape)))
        if min(inner, default=1) < 1:
            raise ValueError(f"a prior over {support} leaves nothing free with latent_dim=1; take 2")
        self.family.setup(inner)
        self.factory = net
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

    @property
    def seen(self) -> list[Seen]:
        """How each parent is seen."""
        return cast(list[Seen], list(self.parents.values()))

    def forward(self, *parents: Tensor) -> Distribution:
        """The distribution, batch shape ``[...]``, for parents ``[..., *their event shapes]``."""
        return self.distribution(self.emit(*parents) if self.parents else self.raw)

    def distribution(self, raw: Tensor) -> Distribution:
        """The distribution that raw reals ``[..., *family.param_shape()]`` mean."""
        with full_precision(raw.device):
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
        inputs = [seen(x).expand(*batch, *seen.shape).reshape(-1, *seen.shape) for x, seen in pairs]
        y: Tensor = self.net(*inputs)
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
            f"the guide {family!r}, over {family.support}, cannot follow a prior over {support}. Guides "
            "over the reals (Normal, LowRankNormal, FullRankNormal, MixtureOfNormals, Flow, dist.Laplace) go "
            "with every continuous prior; others with priors on their own support: dist.Gamma with "
            "dist.Gamma, dist.Beta with dist.Beta, Dirichlet with dist.Dirichlet"
        )
    return True
