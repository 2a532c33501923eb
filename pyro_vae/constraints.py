"""Supports and constraints: what sets they are, and the maps from the reals onto them."""

from __future__ import annotations

import math
from typing import Any, cast

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Distribution, Transform, transform_to
from torch.distributions.constraints import Constraint


def to_constrained(constraint: Constraint) -> Transform:
    """The map from raw reals to values that satisfy a constraint, ``transform_to`` with one exception.

    Positive values are softplus(raw), as in Pyro's own guides, where ``transform_to`` has exp(raw): one
    outlying datum then moves a scale by its raw value, not by the exponential of it.
    """
    if is_positive(constraint):
        constraint = constraints.softplus_positive
    return transform_to(constraint)


def support(distribution: Distribution) -> Constraint:
    """Where a distribution has its mass, which ``distribution.support`` does not always tell.

    PyTorch gives distributions of angles the real line, on which they are periodic and not normalised,
    and a mixture a support of a kind of its own.
    """
    base: Any = distribution
    while isinstance(base, torch.distributions.Independent | dist.ExpandedDistribution):
        base = base.base_dist
    if isinstance(base, torch.distributions.VonMises | dist.SineBivariateVonMises | dist.SineSkewed):
        circle = constraints.interval(-math.pi, math.pi)
        return constraints.independent(circle, len(distribution.event_shape))
    if isinstance(base, torch.distributions.MixtureSameFamily):
        event_dim = len(distribution.event_shape) - len(base.event_shape)
        return constraints.independent(support(base.component_distribution), event_dim)
    own = cast(Constraint, distribution.support)
    if isinstance(scalar_support(own), type(constraints.unit_interval)):
        low, high = bounds(own) or (0, 0)
        if isinstance(high, float) and math.isinf(high):  # as GeneralizedPareto has it
            return constraints.independent(constraints.greater_than_eq(low), len(distribution.event_shape))
    return own


def onto(support: Constraint) -> Transform:
    """The bijection from the reals onto a support: ``biject_to``, but softplus onto positive values.

    Under ``biject_to``'s exp, one large value of a guide would be a huge latent.
    """
    if is_positive(support):
        support = constraints.independent(constraints.softplus_positive, support.event_dim)
    return torch.distributions.biject_to(support)


def scalar_support(constraint: Constraint) -> Any:
    """The constraint of one element, of one on many."""
    while hasattr(constraint, "base_constraint"):
        constraint = constraint.base_constraint
    return constraint


def bounds(constraint: Any) -> tuple[Any, Any] | None:
    """Lower and upper end of an interval, which may be infinite; None if it is no interval.

    Numbers, or tensors where they differ from element to element.
    """
    scalar = scalar_support(constraint)
    if isinstance(scalar, type(constraints.real) | type(constraints.integer)):  # copies of them too
        return -math.inf, math.inf
    if isinstance(scalar, type(constraints.boolean)):
        return 0, 1
    ends = getattr(scalar, "lower_bound", None), getattr(scalar, "upper_bound", None)
    if ends == (None, None):
        return None
    low, high = (_as_number(end) for end in ends)
    return -math.inf if low is None else low, math.inf if high is None else high


def _as_number(end: Any) -> Any:
    one = isinstance(end, Tensor) and end.unique().numel() == 1
    return end.flatten()[0].item() if one else end


def is_positive(constraint: Any) -> bool:
    """Whether it asks for values above 0 and nothing else."""
    ends = bounds(constraint) or (None, None)
    return not any(isinstance(end, Tensor) for end in ends) and ends == (0, math.inf)


def same_bounds(one: Constraint, other: Constraint) -> bool:
    """Whether two supports are the same set; whether an end belongs to it is left aside."""
    a, b = bounds(one), bounds(other)
    if a is None or b is None:
        return type(scalar_support(one)) is type(scalar_support(other))
    return all(
        bool((torch.as_tensor(x, dtype=torch.float64) == torch.as_tensor(y, dtype=torch.float64)).all())
        for x, y in zip(a, b, strict=True)
    )


def domain(constraint: Constraint) -> str:
    """A support in words: ``"the reals"``, ``"{0, 1}"``, ``"[0, inf]"``, ``"whole numbers in [0, 255]"``."""
    ends = bounds(constraint)
    if isinstance(constraint, type(constraints.simplex)):
        return "the simplex"
    if ends is None or any(isinstance(end, Tensor) for end in ends):
        return str(scalar_support(constraint))
    if ends == (-math.inf, math.inf) and not constraint.is_discrete:
        return "the reals"
    low, high = ends
    if isinstance(scalar_support(constraint), type(constraints.boolean)):
        return "{0, 1}"
    return f"{'whole numbers in ' if constraint.is_discrete else ''}[{low:g}, {high:g}]"


def is_bounded(constraint: Constraint) -> bool:
    """Whether it is an interval of finite ends, as of probabilities or grey levels."""
    ends = bounds(constraint)
    return ends is not None and all(bool(torch.as_tensor(end).isfinite().all()) for end in ends)


def inside(constraint: Constraint) -> Any:
    """A number within a support, for elements that were not observed and do not count; of rows a tensor."""
    if hasattr(constraint, "inside"):  # of a table's rows, whose columns have supports of their own
        return constraint.inside()
    low, high = bounds(constraint) or (0.0, 0.0)
    if isinstance(low, Tensor) or isinstance(high, Tensor):  # from element to element
        low, high = torch.as_tensor(low).max().item(), torch.as_tensor(high).min().item()
    if math.isinf(low):
        return 0.0 if math.isinf(high) else float(high - 1)
    if constraint.is_discrete:
        return float(low)
    return float(low + 1 if math.isinf(high) else (low + high) / 2)
