"""Distributions of sequences ``(T, *shape)``: each value depends on the one before."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from pyro_vae.distributions.elements import elements


def _passes(weight: Tensor, value: Tensor) -> Tensor:
    """``recurrence`` along the first dimension, by log2(T) passes."""
    z = value.clone(memory_format=torch.contiguous_format)
    weight = weight.clone(memory_format=torch.contiguous_format)
    step = 1
    while step < len(z):  # z_t then holds what the last 2 step values add to it
        z = torch.cat([z[:step], torch.addcmul(z[step:], weight[step:], z[:-step])])
        weight = torch.cat([weight[:step], weight[step:] * weight[:-step]])
        step *= 2
    return z.contiguous()


_recurrence = torch.library.custom_op("pyro_vae::recurrence", _passes, mutates_args=())
"""The same as one operation to whoever records it."""


@_recurrence.register_fake
def _(weight: Tensor, value: Tensor) -> Tensor:
    return value.new_empty(value.shape)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], output)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of z_t reaches z_{t-1} by weight_t: the same recurrence, backwards."""
    weight, z = ctx.saved_tensors
    later = torch.cat([weight[1:], torch.zeros_like(weight[:1])])
    gradient = _recurrence(later.flip(0), gradient.flip(0)).flip(0)
    return gradient * torch.cat([torch.zeros_like(z[:1]), z[:-1]]), gradient


_recurrence.register_autograd(_backward, setup_context=_keep)


def recurrence(weight: Tensor, value: Tensor, dim: int) -> Tensor:
    r""":math:`z_t = w_t z_{t-1} + v_t` along a dimension, t = 1, ..., T, from :math:`z_0 = 0`, by element.

    It is one operation to a compiler, whatever T is, and takes log2(T) passes over all of the sequence.

    Args:
        weight: w, of a shape that broadcasts with that of the values.
        value: v.
        dim: that of time.

    Reference: Blelloch, 1990, "Prefix sums and their applications"; Martin and Cundy, 2018, "Parallelizing
    linear recurrent neural nets over sequence length".
    """
    weight, value = torch.broadcast_tensors(weight, value)
    # A file that is exported is to be read without this package, which has that operation.
    apply = _passes if torch.compiler.is_exporting() else _recurrence
    z: Tensor = apply(weight.movedim(dim, 0), value.movedim(dim, 0))
    return z.movedim(0, dim)


@torch.library.custom_op("pyro_vae::turning", mutates_args=())
def _turning(weight: Tensor, value: Tensor) -> Tensor:
    """``turning`` along the first dimension: one operation, of log2(T) passes, to whoever records it."""
    z, weight = value.clone(memory_format=torch.contiguous_format), weight.contiguous()
    step = 1
    while step < len(z):
        z = torch.cat([z[:step], z[step:] + weight[step:] @ z[:-step]])
        weight = torch.cat([weight[:step], weight[step:] @ weight[:-step]])
        step *= 2
    return z.contiguous()


@_turning.register_fake
def _(weight: Tensor, value: Tensor) -> Tensor:
    return value.new_empty(value.shape)


def _turn_back(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of z_t reaches z_{t-1} by the transpose of W_t."""
    weight, z = ctx.saved_tensors
    later = torch.cat([weight[1:], torch.zeros_like(weight[:1])]).mT
    gradient = _turning(later.flip(0), gradient.flip(0)).flip(0)
    return gradient @ torch.cat([torch.zeros_like(z[:1]), z[:-1]]).mT, gradient


_turning.register_autograd(_turn_back, setup_context=_keep)


def turning(weight: Tensor, value: Tensor) -> Tensor:
    r""":math:`z_t = W_t z_{t-1} + v_t`, t = 1, ..., T, from :math:`z_0 = 0`: ``recurrence``, of vectors.

    It takes log2(T) passes of products of matrices, :math:`O(T L^3)` each.

    Args:
        weight: W, ``[T, ..., L, L]``.
        value: v, ``[T, ..., L, S]``, of S sequences that share their W.
    """
    z: Tensor = _turning(weight, value)
    return z


class Chain(TorchDistribution):
    r"""A Markov chain: :math:`p(z_{1:T}) = p(z_1) \prod_{t=2}^T p(z_t \mid z_{t-1})`.

    Its log-density is one call of the transition, for all steps at once; draws are one step after the other.

    Args:
        initial: p(z_1), batch shape ``[...]``, event shape ``shape``.
        transition: from z_{t-1} ``[..., *shape]`` to p(z_t | z_{t-1}), batch shape ``[...]``.
        length: T.
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, initial: Distribution, transition: Callable[[Tensor], Distribution], length: int):
        self.initial: Any = initial
        self.transition, self.length = transition, length
        shape = torch.Size((length, *initial.event_shape))
        super().__init__(initial.batch_shape, shape, validate_args=False)

    @constraints.dependent_property
    def support(self) -> Constraint:
        return constraints.independent(self.initial.support, 1)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return bool(self.initial.has_rsample)

    def log_steps(self, value: Tensor) -> Tensor:
        """Each step's log-density given the one before, ``[..., T]``."""
        at = -len(self.event_shape)
        first = self.initial.log_prob(value.select(at, 0))
        if self.length == 1:
            return cast(Tensor, first[..., None])
        before, after = value.narrow(at, 0, self.length - 1), value.narrow(at, 1, self.length - 1)
        later = self.transition(before).log_prob(after)
        shape = torch.broadcast_shapes(first.shape, later.shape[:-1])
        return torch.cat([first.expand(shape)[..., None], later.expand(*shape, -1)], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.log_steps(value).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self._draw(self.initial.sample(sample_shape), lambda p: p.sample())

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self._draw(self.initial.rsample(sample_shape), lambda p: p.rsample())

    def expand(self, batch_shape: Any, _instance: Any = None) -> Chain:
        return Chain(self.initial.expand(batch_shape), self.transition, self.length)

    def _draw(self, first: Tensor, draw: Callable[[Any], Tensor]) -> Tensor:
        values = [first]
        for _ in range(1, self.length):
            values.append(draw(self.transition(values[-1])))
        return torch.stack(values, -len(self.event_shape))


class MarkovNormal(TorchDistribution):
    r"""A chain of Normals, linear in the value before, element by element.

    .. math:: q(z_{1:T}) = \prod_{t=1}^T \mathcal N\bigl(z_t;\, w_t z_{t-1} + \mu_t,\, \sigma_t^2\bigr),
        \qquad z_0 = 0

    All of it is Normal, with covariances along the sequence, and nothing in it goes step by step.

    Args:
        weight: w, ``[..., *event_shape]``.
        loc: :math:`\mu`, likewise.
        scale: :math:`\sigma`, likewise.
        event_dim: number of the dimensions of a value, of which the first is that of time.
    """

    arg_constraints = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, weight: Tensor, loc: Tensor, scale: Tensor, event_dim: int):
        self.weight, self.loc, self.scale = torch.broadcast_tensors(weight, loc, scale)
        batch, event = self.loc.shape[:-event_dim], self.loc.shape[-event_dim:]
        super().__init__(batch, event, validate_args=False)

    @constraints.dependent_property
    def support(self) -> Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    def log_steps(self, value: Tensor) -> Tensor:
        """Each step's log-density given the one before, ``[..., T]``."""
        at = -len(self.event_shape)
        zero = torch.zeros_like(value.narrow(at, 0, 1))
        before = torch.cat([zero, value.narrow(at, 0, self.event_shape[0] - 1)], at)
        each = dist.Normal(self.loc + self.weight * before, self.scale, validate_args=False).log_prob(value)
        return each.flatten(at).unflatten(-1, (self.event_shape[0], -1)).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.log_steps(value).sum(-1)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return recurrence(self.weight, self.loc + self.scale * noise, -len(self.event_shape))

    def again(self, t: int, value: Tensor, moved: Tensor) -> Tensor:
        """What was drawn at step t, had the value before it been another, by so much."""
        return value + self.weight.select(-len(self.event_shape), t) * moved

    def expand(self, batch_shape: Any, _instance: Any = None) -> MarkovNormal:
        shape = (*batch_shape, *self.event_shape)
        weight, loc, scale = (part.expand(shape) for part in (self.weight, self.loc, self.scale))
        return MarkovNormal(weight, loc, scale, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        return recurrence(self.weight, self.loc, -len(self.event_shape))

    @property
    def variance(self) -> Tensor:
        return recurrence(self.weight.square(), self.scale.square(), -len(self.event_shape))


class TurningNormal(TorchDistribution):
    r"""A chain of Normals, linear in the vector before; elements of a step are independent given it.

    .. math:: q(z_{1:T}) = \prod_{t=1}^T \mathcal N\bigl(z_t;\, W_t z_{t-1} + \mu_t,\,
        \mathrm{diag}(\sigma_t^2)\bigr), \qquad z_0 = 0

    Args:
        weight: W, ``[..., T, L, L]``.
        loc: :math:`\mu`, ``[..., T, L]``.
        scale: :math:`\sigma`, likewise.
    """

    arg_constraints = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, weight: Tensor, loc: Tensor, scale: Tensor):
        batch = torch.broadcast_shapes(weight.shape[:-3], loc.shape[:-2], scale.shape[:-2])
        shape = torch.broadcast_shapes(weight.shape[-3:-1], loc.shape[-2:], scale.shape[-2:])
        self.loc, self.scale = (part.expand(*batch, *shape) for part in (loc, scale))
        self.weight = weight  # not expanded: draws and particles share it
        super().__init__(batch, shape, validate_args=False)

    @constraints.dependent_property
    def support(self) -> Constraint:
        return constraints.independent(constraints.real, 2)

    def log_steps(self, value: Tensor) -> Tensor:
        """Each step's log-density given the one before, ``[..., T]``."""
        value = value.expand(*torch.broadcast_shapes(value.shape[:-2], self.batch_shape), *self.event_shape)
        before = torch.cat([torch.zeros_like(value[..., :1, :]), value[..., :-1, :]], -2)
        turned = self._together(before, torch.matmul)
        each = dist.Normal(self.loc + turned, self.scale, validate_args=False).log_prob(value)
        return each.sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.log_steps(value).sum(-1)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self._together(self.loc + self.scale * noise, turning)

    def again(self, t: int, value: Tensor, moved: Tensor) -> Tensor:
        """What was drawn at step t, had the value before it been another, by so much."""
        return value + (self.weight[..., t, :, :] @ moved[..., None])[..., 0]

    def expand(self, batch_shape: Any, _instance: Any = None) -> TurningNormal:
        shape = (*batch_shape, *self.event_shape)
        return TurningNormal(self.weight, self.loc.expand(shape), self.scale.expand(shape))

    @property
    def mean(self) -> Tensor:
        return self._together(self.loc, turning)

    @property
    def variance(self) -> Tensor:
        cov, found = torch.zeros_like(self.scale[..., 0, :]).diag_embed(), []
        for weight, scale in zip(self.weight.unbind(-3), self.scale.unbind(-2), strict=True):
            cov = weight @ cov @ weight.mT + scale.square().diag_embed()
            found.append(cov.diagonal(0, -2, -1))
        return torch.stack(found, -2)

    def _together(self, value: Tensor, apply: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """A function of matrices ``[T, ..., L, L]`` and of columns, which are those that share their W."""
        leading, own = value.shape[:-2], self.weight.shape[:-3]
        weight = self.weight.expand(*leading[len(leading) - len(own) :], *self.weight.shape[-3:])
        columns = value.flatten(0, len(leading) - len(own) - 1) if len(leading) > len(own) else value[None]
        z = apply(weight.movedim(-3, 0), columns.movedim(0, -1).movedim(-3, 0))
        return z.movedim(0, -3).movedim(-1, 0).reshape(value.shape)


class Driven(TorchDistribution):
    r"""A Markov chain with an input at each step: :math:`\prod_{t=1}^T q(z_t \mid z_{t-1}, h_t)`.

    Its log-density is one call of the transition, for all steps at once; draws are one step after the other.

    Args:
        start: z_0, ``shape``.
        transition: from z_{t-1} ``[..., *shape]`` and h_t ``[..., F]`` to q(z_t | z_{t-1}, h_t).
        inputs: h, ``[..., T, F]``.
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, start: Tensor, transition: Callable[[Tensor, Tensor], Distribution], inputs: Tensor):
        self.start, self.transition, self.inputs = start, transition, inputs
        event = torch.Size((inputs.shape[-2], *start.shape))
        super().__init__(inputs.shape[:-2], event, validate_args=False)

    @functools.cached_property
    def first(self) -> Any:
        """q(z_1 | h_1)."""
        return self.transition(self.start.to(self.inputs), self.inputs[..., 0, :])

    @constraints.dependent_property
    def support(self) -> Constraint:
        return constraints.independent(self.first.support, 1)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return bool(self.first.has_rsample)

    def log_steps(self, value: Tensor) -> Tensor:
        """Each step's log-density given the one before, ``[..., T]``."""
        at = -len(self.event_shape)
        first = self.start.to(value).expand_as(value.select(at, 0)).unsqueeze(at)
        before = torch.cat([first, value.narrow(at, 0, self.event_shape[0] - 1)], at)
        return self.transition(before, self.inputs).log_prob(value)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.log_steps(value).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self._draw(sample_shape, lambda q: q.sample())

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self._draw(sample_shape, lambda q: q.rsample())

    def expand(self, batch_shape: Any, _instance: Any = None) -> Driven:
        inputs = self.inputs.expand(*batch_shape, *self.inputs.shape[-2:])
        return Driven(self.start, self.transition, inputs)

    def _draw(self, sample_shape: Any, draw: Callable[[Any], Tensor]) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        z, values = self.start.to(self.inputs).expand(*shape[: -len(self.event_shape)], *self.start.shape), []
        for h in self.inputs.unbind(-2):
            z = draw(self.transition(z, h))
            values.append(z)
        return torch.stack(values, -len(self.event_shape))


class Continued(TorchDistribution):
    r"""One distribution of a sequence at its observed steps S, and another chain at all others.

    .. math:: \prod_{t \in S} q(z_t \mid z_{t-1}) \prod_{t \notin S} p(z_t \mid z_{t-1})

    As the guide of a chain it adds nothing to the ELBO at the others, whatever is drawn there, since the
    chain's own densities are taken off again.

    Args:
        first: q, which has ``log_steps``, or whose elements are independent.
        then: p.
        within: booleans ``[..., T]``, True at S.
        follows: whether other steps are drawn from p, one after the other; else they are left as q draws
            them, all at once, for who wants no more than the ELBO and has none but at the end.
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, first: Any, then: Chain, within: Tensor, follows: bool = True):
        self.first, self.then, self.within, self.follows = first, then, within, follows
        shape = torch.broadcast_shapes(first.batch_shape, then.batch_shape, within.shape[:-1])
        super().__init__(shape, first.event_shape, validate_args=False)

    @property
    def support(self) -> Constraint:
        return cast(Constraint, self.first.support)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return bool(self.first.has_rsample and self.then.has_rsample)

    def log_prob(self, value: Tensor) -> Tensor:
        steps = cast(Tensor, log_steps(self.first, value))
        return torch.where(self.within, steps, self.then.log_steps(value)).sum(-1)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        first = self.first.expand(self.batch_shape)
        drawn: Tensor = first.rsample(sample_shape)
        if not self.follows:
            return drawn
        at, then = -len(self.event_shape), self.then.expand(self.batch_shape)
        own, values = drawn.unbind(at), cast(list[Tensor], [])
        for t, value in enumerate(own):
            p = then.transition(values[-1]) if t else then.initial.expand(drawn.shape[:at])
            keep = self.within[..., t].reshape(*self.within.shape[:-1], *[1] * (-at - 1))
            if t and isinstance(first, Driven):
                value = first.transition(values[-1], first.inputs[..., t, :]).rsample()
            elif t and hasattr(first, "again"):
                value = first.again(t, value, values[-1] - own[t - 1])
            values.append(torch.where(keep, value, cast(Any, p).rsample()))
        return torch.stack(values, at)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Continued:
        return Continued(self.first.expand(batch_shape), self.then, self.within, self.follows)


def log_steps(distribution: Any, value: Tensor) -> Tensor | None:
    """Each step's log-density given the one before, ``[..., T]``, of a distribution that has such steps."""
    if hasattr(distribution, "log_steps"):
        return cast(Tensor, distribution.log_steps(value))
    each = elements(distribution)
    if each is None:
        return None
    log_p: Tensor = each.log_prob(value)
    shape = distribution.event_shape
    return log_p.flatten(-len(shape)).unflatten(-1, (shape[0], -1)).sum(-1)
