"""The distribution of a row: columns that are independent, each of a family of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from pyro_vae.constraints import inside, scalar_support
from pyro_vae.distributions.missing import Completed, marginal


class _RowSupport(Constraint):
    """Rows whose columns each lie in the support of their part."""

    event_dim = 1

    def __init__(self, parts: Sequence[Constraint], index: Sequence[Tensor], size: int):
        self.parts, self.index, self.size = [scalar_support(part) for part in parts], index, size

    def inside(self) -> Tensor:
        """A number within the support of each column, ``[D]``."""
        row = torch.zeros(self.size, device=self.index[0].device)
        for part, index in zip(self.parts, self.index, strict=True):
            row[index] = inside(part)
        return row

    @property
    def is_discrete(self) -> bool:  # type: ignore[override]
        return all(part.is_discrete for part in self.parts)

    def by_column(self, value: Tensor) -> Tensor:
        """Whether each value lies where its column's do, ``[..., D]``."""
        fits = torch.ones(value.shape, dtype=torch.bool, device=value.device)
        for part, index in zip(self.parts, self.index, strict=True):
            fits[..., index] = part.check(value[..., index])
        return fits

    def check(self, value: Tensor) -> Tensor:
        return self.by_column(value).all(-1)

    def __repr__(self) -> str:
        return f"the supports of {len(self.parts)} kinds of columns"


class ByColumn(TorchDistribution):
    r"""Columns that are independent: :math:`p(v) = \prod_g p_g(v_{I_g})`, those of a kind computed together.

    Columns that are none of any part are given: nothing is said of how likely they are.

    Args:
        parts: distributions of vectors ``(d_g,)``, whose elements are independent.
        index: of each, its columns :math:`I_g`, ``[d_g]``.
        size: D, the number of all columns.
        rest: rows ``[..., D]`` from which draws take the columns that are given; by default they are NaN.
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(
        self, parts: Sequence[Distribution], index: Sequence[Tensor], size: int, rest: Tensor | None = None
    ):
        self.parts: list[Any] = list(parts)
        self.index, self.rest = list(index), rest
        shapes = [part.batch_shape for part in self.parts] + ([] if rest is None else [rest.shape[:-1]])
        super().__init__(torch.broadcast_shapes(*shapes), torch.Size([size]), validate_args=False)

    @constraints.dependent_property(event_dim=1)
    def support(self) -> Constraint:
        return _RowSupport([part.support for part in self.parts], self.index, *self.event_shape)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return all(part.has_rsample for part in self.parts)

    def marginal(self, observed: Tensor) -> ByColumn:
        """That of the observed elements alone, ``[..., D]``."""
        pairs = zip(self.parts, self.index, strict=True)
        return self._like([marginal(part, observed[..., index]) for part, index in pairs])

    def conditional(self, value: Tensor, observed: Tensor) -> Completed:
        """That of whole rows whose observed elements are certain."""
        return Completed(self, value, observed)

    def given(self, rest: Tensor) -> ByColumn:
        """The same, whose draws take the columns that are given from ``rest``."""
        return ByColumn(self.parts, self.index, self.event_shape[0], rest)

    def _like(self, parts: Sequence[Distribution], rest: Tensor | None = None) -> ByColumn:
        return ByColumn(parts, self.index, self.event_shape[0], self.rest if rest is None else rest)

    def log_prob(self, value: Tensor) -> Tensor:
        pairs = zip(self.parts, self.index, strict=True)
        return cast(Tensor, sum(part.log_prob(value[..., index]) for part, index in pairs))

    def by_column(self, value: Tensor) -> Tensor:
        """The log-density of each column, ``[..., D]``, which is 0 where it is not observed."""
        pairs = zip(self.parts, self.index, strict=True)
        return self.row([part.base_dist.log_prob(value[..., index]) for part, index in pairs], 0.0)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self.row([part.sample(sample_shape) for part in self.parts])

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self.row([part.rsample(sample_shape) for part in self.parts])

    def expand(self, batch_shape: Any, _instance: Any = None) -> ByColumn:
        rest = None if self.rest is None else self.rest.expand(*batch_shape, *self.event_shape)
        return self._like([part.expand(batch_shape) for part in self.parts], rest)

    @property
    def mean(self) -> Tensor:
        return self.row([part.mean for part in self.parts])

    @property
    def variance(self) -> Tensor:
        return self.row([part.variance for part in self.parts])

    def row(self, values: list[Tensor], rest: float = torch.nan) -> Tensor:
        """Columns in their order, and those that are given."""
        batch = torch.broadcast_shapes(*(value.shape[:-1] for value in values))
        dtype = next((value.dtype for value in values if value.is_floating_point()), values[0].dtype)
        joined = torch.cat([value.expand(*batch, value.shape[-1]).to(dtype) for value in values], -1)
        order = torch.cat(self.index)
        if len(order) == self.event_shape[0]:
            return joined[..., order.argsort()]
        row = joined.new_full((*batch, *self.event_shape), rest)
        if self.rest is not None and rest != rest:
            row = self.rest.to(joined).expand_as(row)
        return row.index_copy(-1, order, joined)
