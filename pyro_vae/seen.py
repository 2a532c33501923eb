"""How a network sees the values of a site, and which of them are known."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import cast

import torch
from torch import Tensor, nn

from pyro_vae.data import Split
from pyro_vae.data.columns import Columns
from pyro_vae.data.source import statistics
from pyro_vae.families.base import Shape, units

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
    if torch.compiler.is_exporting():  # of any values
        return True
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
    def initialize(self, data: Split, by_column: bool) -> None:
        """Centres element by element, and divides columns each by its own unit, all else by one number.

        Pixels that hardly vary are not blown up, nor are columns of large units heard alone.
        """
        mean, std = data.moments(self.site)
        self.loc.copy_(mean)
        unit = units(std, by_column)
        self.scale.copy_(unit if self.scale.dim() else unit.flatten()[0])

    def forward(self, x: Tensor) -> Tensor:
        seen = (x - self.loc) / self.scale
        known = None
        if self.gaps or may_have_gaps(self.site, x):
            known = ~seen.isnan()
            seen = torch.where(known, seen, 0.0)
        return self._beside(seen, cast(Tensor, known).to(seen) if self.gaps else seen)

    def known(self, x: Tensor) -> Tensor:
        """Of what the network sees, 1 where it is a value that is known, else 0, as of the mask."""
        known = (~x.isnan()).to(x)
        return self._beside(known, torch.zeros_like(known))

    def _beside(self, seen: Tensor, mask: Tensor) -> Tensor:
        """Values, and where there are gaps a mask of them."""
        dims = len(self.event_shape)
        if self.gaps:
            return torch.stack((seen, mask), -1 - dims) if dims in (0, 2) else torch.cat((seen, mask), -dims)
        return seen if dims else seen[..., None]


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


class Row(nn.Module):
    """How a network sees columns of a table: numbers standardised, categories as one of K numbers that is 1.

    Of counts and amounts it sees log(1 + v), of positive numbers the logarithm. What is missing is at its
    mean, or no category at all; where the data have gaps, a mask of the columns stands beside them.

    Args:
        site: the site of the rows, ``[..., D]``.
        columns: what they are.
        names: those that it sees; by default all.
    """

    loc: Tensor
    scale: Tensor
    numbers: Tensor
    category: Tensor
    level: Tensor
    mask: Tensor
    counts: Tensor
    positive: Tensor

    def __init__(self, site: str, columns: Columns, names: Iterable[str] | None = None):
        super().__init__()
        self.site, self.event_shape, self.gaps = site, (len(columns),), False
        seen = {columns.number(name): columns.of[name] for name in (columns if names is None else names)}
        numbers = [j for j, column in seen.items() if not column.levels]
        hot = [(j, level) for j, column in seen.items() for level in range(len(column.levels))]
        for name, index in (
            ("numbers", numbers),
            ("category", [j for j, _ in hot]),
            ("level", [level for _, level in hot]),
            ("mask", list(seen)),
            ("counts", [i for i, j in enumerate(numbers) if seen[j].kind in ("count", "amount")]),
            ("positive", [i for i, j in enumerate(numbers) if seen[j].kind == "positive"]),
        ):
            self.register_buffer(name, torch.tensor(index, dtype=torch.int64), persistent=False)
        self.register_buffer("loc", torch.zeros(len(numbers)))
        self.register_buffer("scale", torch.ones(len(numbers)))

    @property
    def shape(self) -> Shape:
        """Shape of what the network sees."""
        return (len(self.numbers) + len(self.level) + self.gaps * len(self.mask),)

    @torch.no_grad()
    def initialize(self, data: Split, by_column: bool = True) -> None:
        """Standardises the numbers, as they are seen."""
        if not len(self.numbers):
            return
        seen = (self._logged(x.to(self.loc)) for x in data.chunks(self.site))
        mean, std, *_ = statistics(seen, tuple(self.loc.shape))
        self.loc.copy_(mean)
        self.scale.copy_(units(std, by_column=True))

    def typical(self) -> Tensor:
        """A row ``[D]`` of the means of numbers, as they are seen, and first categories."""
        numbers = self.loc.clone()
        numbers[self.counts] = numbers[self.counts].expm1().clamp(min=0)
        numbers[self.positive] = numbers[self.positive].exp()
        return self.loc.new_zeros(self.event_shape).index_copy(0, self.numbers, numbers)

    def _logged(self, x: Tensor) -> Tensor:
        seen = x[..., self.numbers]
        if len(self.counts):
            seen = seen.index_copy(-1, self.counts, seen[..., self.counts].clamp(min=0).log1p())
        if len(self.positive):
            tiny = torch.finfo(x.dtype).tiny
            seen = seen.index_copy(-1, self.positive, seen[..., self.positive].clamp(min=tiny).log())
        return seen

    def forward(self, x: Tensor) -> Tensor:
        seen = (self._logged(x) - self.loc) / self.scale
        if self.gaps or may_have_gaps(self.site, x):
            seen = torch.where(seen.isnan(), 0.0, seen)
        parts = [seen, (x[..., self.category] == self.level).to(seen)]
        if self.gaps:
            parts.append((~x[..., self.mask].isnan()).to(seen))
        return torch.cat(parts, -1)

    def known(self, x: Tensor) -> Tensor:
        """Of what the network sees, 1 where it is a value that is known, else 0, as of the mask."""
        known = (~x.isnan()).to(x)
        parts = [known[..., self.numbers], known[..., self.category]]
        return torch.cat([*parts, *([torch.zeros_like(known[..., self.mask])] if self.gaps else [])], -1)


Seen = Real | Label | Latent | Row
