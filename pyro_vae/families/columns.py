"""Rows of a table: each column of a family of its own, those of one family computed together."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, cast

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae import distributions
from pyro_vae.constraints import bounds, domain
from pyro_vae.data import DataError
from pyro_vae.data.columns import Column, Columns
from pyro_vae.families.base import Family, Shape
from pyro_vae.families.levels import Categorical, Ordinal
from pyro_vae.families.named import Bernoulli, LogNormal, RoundedLogistic, ZeroInflatedLogNormal
from pyro_vae.families.univariate import Of, Univariate


class ByColumn(Family):
    r"""Columns that are independent given what the raw reals come from: :math:`p(v) = \prod_j p_j(v_j)`.

    Args:
        families: of a single number each.
        columns: of each family, the numbers of its columns; one that has no family is given.

    Raises:
        ValueError: a column has two families, or a family is none of single numbers.
    """

    def __init__(self, families: Sequence[Family], columns: Sequence[Sequence[int]]):
        super().__init__()
        self.columns = [[int(j) for j in group] for group in columns]
        every = [j for group in self.columns for j in group]
        if len(families) != len(self.columns) or len(set(every)) < len(every) or min(every, default=-1) < 0:
            raise ValueError(f"columns={columns!r} must name columns 0, 1, ... for each family, each once")
        self.families = list(families)
        made = [copy.deepcopy(family) for family in families]
        for family in made:
            if isinstance(family, Univariate):
                for parameter in family.parameters_.values():
                    if parameter.source == "shared":  # among the values of a column, of which a row has one
                        parameter.source = "per_element"
        self.parts = nn.ModuleList(made)
        measures = sorted({family.measure for family in made})
        self.measure = measures[0] if len(measures) == 1 else f"a mixed measure ({'; '.join(measures)})"
        self.reparameterised = all(family.reparameterised for family in made)
        self.mends = "give each column a family that has its values: likelihood={'age': dist.StudentT}"

    @classmethod
    def of(cls, families: Iterable[Family | None]) -> ByColumn:
        """That of a family for each column, in order; None for one that is given."""
        kinds: dict[Any, tuple[Family, list[int]]] = {}
        for number, family in enumerate(families):
            if family is not None:
                key = type(family), getattr(family, "family", None), repr(family)
                kinds.setdefault(key, (family, []))[1].append(number)
        return cls([family for family, _ in kinds.values()], [index for _, index in kinds.values()])

    def setup(self, event_shape: Shape) -> None:
        super().setup(event_shape)
        last = max(max(group) for group in self.columns)
        if len(self.event_shape) != 1 or last >= self.event_shape[0]:
            raise ValueError(f"{self!r} is of rows of {last + 1} columns, not of shape {self.event_shape}")
        for number, (part, index) in enumerate(zip(self.parts, self.columns, strict=True)):
            cast(Family, part).setup((len(index),))
            self.register_buffer(f"index{number}", torch.tensor(index), persistent=False)
        trial = [part(torch.zeros(cast(Family, part).param_shape())) for part in self.parts]
        if not all(
            isinstance(p, torch.distributions.Independent) and not p.base_dist.event_shape for p in trial
        ):
            raise ValueError(
                f"{self!r}: the family of a column is one of single numbers, such as dist.StudentT"
            )
        self.support = distributions.ByColumn(trial, self.index, self.event_shape[0]).support

    @property
    def index(self) -> list[Tensor]:
        """Of each part, its columns."""
        return [getattr(self, f"index{number}") for number in range(len(self.columns))]

    @property
    def by_column(self) -> bool:
        return True

    def family_of(self, column: int) -> Family | None:
        """The family of a column, with the values of all of its kind; None if the column is given."""
        pairs = zip(self.parts, self.columns, strict=True)
        return next((cast(Family, part) for part, group in pairs if column in group), None)

    def param_shape(self) -> Shape:
        return (sum(cast(Family, part).param_shape()[0] for part in self.parts),)

    def forward(self, raw: Tensor) -> Distribution:
        sizes = [cast(Family, part).param_shape()[0] for part in self.parts]
        parts = [part(chunk) for part, chunk in zip(self.parts, raw.split(sizes, -1), strict=True)]
        return distributions.ByColumn(parts, self.index, self.event_shape[0])

    @torch.no_grad()
    def initialize(self, x: Tensor, mean: Tensor, std: Tensor, *, by_column: bool = True) -> None:
        for part, index in zip(self.parts, self.index, strict=True):
            cast(Family, part).initialize(x[..., index], mean[index], std[index], by_column=True)

    def describe(self, raw: str) -> dict[str, str]:
        """By family, how its parameters come about."""
        told = {}
        for kind, part in zip(self.families, self.parts, strict=True):
            how = cast(Family, part).describe(raw)
            told[repr(kind)] = ", ".join(f"{name} = {text}" for name, text in how.items())
        return told

    def arguments(self) -> dict[str, Any]:
        return {"families": self.families, "columns": self.columns}


class Auto(Family):
    """A family for each column of a table, by what the column is, but for those that are named here.

    ========  ==========================================  =====================
    kind      values                                      family
    ========  ==========================================  =====================
    real      real numbers                                StudentT
    positive  above 0                                     LogNormal
    amount    0, often, or above 0                        ZeroInflatedLogNormal
    share     between 0 and 1                             Beta
    count     0, 1, ..., varied more than a Poisson       GammaPoisson
    integer   other whole numbers                         RoundedLogistic
    boolean   True and False, 0 and 1                     Bernoulli
    category  without an order                            Categorical
    ordinal   with an order                               Ordinal
    ========  ==========================================  =====================

    Args:
        families: by column; all others are chosen.
    """

    def __init__(self, families: Mapping[str, Family] | None = None):
        super().__init__()
        self.families = dict(families or {})

    def resolve(self, columns: Columns, given: Collection[str] = ()) -> ByColumn:
        """The family of the rows of a table, of which some columns may be given.

        Raises:
            DataError: a family is named for a column that there is not.
        """
        for name in (*self.families, *given):
            columns.number(name)
        for name, family in self.families.items():
            _check_levels(name, columns.of[name], family)
        chosen = (None if n in given else self.families.get(n) or choose(c) for n, c in columns.of.items())
        return ByColumn.of(chosen)

    def setup(self, event_shape: Shape) -> None:
        raise ValueError(
            'likelihood="auto", or a family for each column by its name, is for tables: '
            'pv.VAE(pv.data.load(frame).event_shapes, likelihood="auto")'
        )

    def param_shape(self) -> Shape:
        raise NotImplementedError

    def forward(self, raw: Tensor) -> Distribution:
        raise NotImplementedError


def _check_levels(name: str, column: Column, family: Family) -> None:
    """Refuses for categories, and for True and False, a family over other values.

    Raises:
        DataError: naming the column.
    """
    if not column.levels and isinstance(family, Categorical) and family.levels == Categorical().levels:
        raise DataError(
            f"column {name} is of kind {column.kind}, and {family!r} would give it levels 0 to 255; make it "
            f"categories: frame[{name!r}] = frame[{name!r}].astype('category'), or, in their order, "
            f"pd.Categorical(frame[{name!r}], ordered=True)"
        )
    wanted = {"boolean": 2}.get(column.kind, len(column.levels))
    if wanted and bounds(family.support) != (0, wanted - 1):
        raise DataError(
            f"column {name} has {wanted} values that are numbered from 0, and {family!r} is over "
            f"{domain(family.support)}; {choose(column)!r} is the family of such columns"
        )


def choose(column: Column) -> Family:
    """The family of a column, by its kind."""
    if column.levels:
        return {"category": Categorical, "ordinal": Ordinal}[column.kind](len(column.levels))
    family: Any = {
        "real": Of(dist.StudentT),
        "positive": LogNormal,
        "amount": ZeroInflatedLogNormal,
        "share": Of(dist.Beta),
        "count": Of(dist.GammaPoisson),
        "integer": RoundedLogistic,
        "boolean": Bernoulli,
    }[column.kind]
    return cast(Family, family())
