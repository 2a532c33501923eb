"""Priors p(z): modules whose ``forward(encode)`` returns a distribution of event shape ``(D,)``.

Any Pyro distribution instance over the reals is a prior too: ``pv.VAE(..., prior=dist.Laplace(0., 1.))``.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, cast

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import Distribution, Transform, constraints

__all__ = ["Fixed", "Normal"]


class Prior(nn.Module, ABC):
    """Base of the priors: a new one states ``forward``, and ``setup`` if it has parameters."""

    def setup(self, latent_dim: int) -> None:
        """Creates what depends on ``latent_dim`` (D); the VAE calls it once, on its own copy."""
        self.latent_dim = latent_dim

    @abstractmethod
    def forward(self, encode: Callable[[Tensor], Distribution]) -> Distribution:
        """p(z), batch shape ``()``, event shape ``(D,)``; ``encode`` maps data ``x`` to q(z|x)."""


class Fixed(Prior):
    """A given distribution, with nothing to learn.

    Args:
        distribution: instance with event shape ``(D,)``; or batch shape ``(D,)`` and no event
            shape; or neither, and then D independent copies are meant.

    Raises:
        ValueError: the shape is none of these, or the support is not the reals.
    """

    def __init__(self, distribution: Distribution):
        super().__init__()
        self.distribution = distribution

    def setup(self, latent_dim: int) -> None:
        super().setup(latent_dim)
        given = cast(Any, self.distribution)
        event_shape, batch_shape = tuple(given.event_shape), tuple(given.batch_shape)
        if not event_shape and batch_shape in ((), (latent_dim,)):
            p_z = given.expand((latent_dim,)).to_event(1)
        elif event_shape == (latent_dim,) and not batch_shape:
            p_z = given
        else:
            raise ValueError(
                f"the prior {given} has batch shape {batch_shape} and event shape {event_shape}, "
                f"but latent_dim={latent_dim} needs event shape ({latent_dim},), or a scalar "
                "distribution such as dist.Laplace(0., 1.)"
            )
        if not _is_real(p_z.support):
            raise ValueError(
                f"the prior {given} has support {p_z.support}, but the guides reach all reals; "
                "give a distribution over the reals, such as dist.Laplace(0., 1.)"
            )
        dtype = torch.get_default_dtype()  # that of the networks made beside it
        self.p_z = _map_tensors(p_z, lambda t: t.to(dtype) if t.is_floating_point() else t)

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
    r"""The standard Normal, :math:`p(z) = \prod_d \mathcal N(z_d; 0, 1)`."""

    def __init__(self) -> None:
        super().__init__(dist.Normal(0.0, 1.0))

    def extra_repr(self) -> str:
        return ""


def as_prior(prior: Prior | Distribution) -> Prior:
    """A prior of one's own: a copy of the given one, or the given distribution as a prior."""
    if isinstance(prior, Prior):
        return copy.deepcopy(prior)
    if isinstance(prior, Distribution) and isinstance(prior, TorchDistributionMixin):
        return Fixed(prior)
    raise TypeError(
        f"a prior is a pv.priors object or an instance of a Pyro distribution, not {prior!r}; "
        "for example prior=pv.priors.Normal() or prior=dist.Laplace(0., 1.)"
    )


def _is_real(support: constraints.Constraint) -> bool:
    while hasattr(support, "base_constraint"):  # of independent copies, of a mixture's components
        support = support.base_constraint
    return support is constraints.real


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
                "make it a pv.priors.Prior, whose forward returns the distribution"
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
            nested.extend(vars(p).values())
    return mapped
