"""Importance weights, for any program, from its traces."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.enum_messenger import EnumMessenger
from torch import Tensor

from pyro_vae.checks import Count, checked
from pyro_vae.objectives.elbo import mean, over_values
from pyro_vae.program import Batch, Program, sites


@checked
def log_weights(program: Program, batch: Mapping[str, Any] | Tensor, num_particles: Count = 1) -> Tensor:
    r"""Log importance weights :math:`\log w_k = \log p(x, z_k) - \log q(z_k | x)`, z_k ~ q(z|x).

    x is all that is observed, without what is missing; z all that is not. What ``poutine.scale`` weighs in
    training is left aside, as the model's draws know nothing of it. Their mean over k is the ELBO; the log of
    the mean of their exponentials, the importance-weighted bound, rises to log p(x) as K grows.
    Latents y that the guide enumerates are summed over, :math:`\log \sum_y p(x, y, z_y) / q(z_y | x, y)`;
    this lies above the ELBO, and is log p(x) where there are no others.

    Args:
        program: whose latents and observations lie in its plate of data.
        batch: ``[B, *event_shape]`` of each site; of a table's model also a DataFrame, or values by column.
        num_particles: K.

    Returns:
        ``[K, B]``, in nats.

    Raises:
        ValueError: a site lies outside the plate of data, so that it has no weight datum by datum.

    Reference: Burda, Grosse and Salakhutdinov, 2016, "Importance weighted autoencoders".
    """
    return weights_and_elbos(program, program.read_batch(batch), num_particles)[0]


def weights_and_elbos(program: Program, batch: Batch, num_particles: int) -> tuple[Tensor, Tensor]:
    """``log_weights``, and their means over latents that the guide enumerates, whose mean is the ELBO.

    Without such latents these are one and the same.
    """
    model, guide = traces(program, batch, num_particles, enumerating=True)
    for trace in (model, guide):
        trace.compute_log_prob()
    log_p, log_q = log_ratio(model, guide, lambda site: _in_data(site, program))
    size = num_particles, program.num_data(batch)
    log_w, elbo = (over_values(guide, log_p - log_q, reduce).expand(size) for reduce in (_log_sum, mean))
    return log_w, elbo


def _log_sum(log_w: Tensor, log_q: Tensor, dim: int) -> Tensor:
    """Weights summed over one latent's values, but for those that q rules out."""
    fine = log_q > -math.inf
    return (log_w.where(fine, 0.0) + log_q).where(fine, -math.inf).logsumexp(dim, keepdim=True)


def log_ratio(
    model: poutine.Trace, guide: poutine.Trace, density: Callable[[Any], Tensor | float]
) -> tuple[Tensor, Tensor]:
    """log p(x, z) and log q(z | x), whose difference is the log importance weight, of any model and guide.

    Latents that the guide does not draw are drawn from the model: their density cancels.

    Args:
        model: trace of the model.
        guide: of the guide, at the same draws.
        density: of a site, to its log-density datum by datum.
    """
    drawn = {name: site for name, site in sites(guide) if not site["is_observed"]}
    log_p = [density(site) for name, site in sites(model) if site["is_observed"] or name in drawn]
    log_q = [density(site) for site in drawn.values()]
    return tuple(torch.as_tensor(sum(found)) for found in (log_p, log_q))  # type: ignore[return-value]


def log_density(trace: poutine.Trace, names: Container[str], program: Program) -> Tensor:
    """Of some sites together, ``[K, B]``, or what broadcasts to it.

    Raises:
        ValueError: a site lies outside the plate of data, so that it has no density datum by datum.
    """
    trace.compute_log_prob()
    total = torch.zeros((), device=program.device)
    for name, site in sites(trace):
        if name in names:
            total = total + _in_data(site, program)
    return total


def _in_data(site: Any, program: Program) -> Tensor:
    if not any(frame.name == "data" for frame in site["cond_indep_stack"]):
        raise ValueError(
            f"site {site['name']!r} lies outside the plate 'data', so that it has no weight datum by datum"
        )
    return by_datum(unscaled(site), program)


def unscaled(site: Any) -> Tensor:
    """A site's log-density, once computed, without what scales it and what is masked of it."""
    return scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])


def traces(
    program: Program, batch: Batch, num_particles: int, *, enumerating: bool = False
) -> tuple[poutine.Trace, poutine.Trace]:
    """The traces of the model, replayed against the guide's, and of the guide, of K particles each.

    Latents that the guide asks to be enumerated are drawn as all others are, or indeed enumerated: then their
    values are a further dimension to the left of the particles'.
    """
    program.num_data(batch)  # which refuses other shapes in one line, as Pyro's traces do not
    handlers: list[Any] = [contextlib.nullcontext()] * 2
    if enumerating:
        handlers = [EnumMessenger(-2 - program.max_plate_nesting), EnumMessenger()]
    first, then = handlers
    with pyro.plate("particles", num_particles, dim=-1 - program.max_plate_nesting):
        with first:
            guide = poutine.trace(program.guide).get_trace(batch)
        with then:
            model = poutine.trace(poutine.replay(program.model, trace=guide)).get_trace(batch)
    return model, guide


def defensive(
    program: Program, batch: Batch, seen: Batch, num_particles: int
) -> Iterator[tuple[poutine.Trace, Tensor]]:
    r"""Traces of the model, which observes the batch, with log p(x, z) / r(z), ``[K, B]``.

    .. math:: r(z) = \tfrac12 q(z \mid s) + \tfrac12 p(z)

    with s what the guide sees, and half of z drawn from each. Weights are then bounded by 2 p(x|z), where
    those of draws of q alone may have no variance: it was not trained on such gaps, and may be narrower than
    the posterior. A guide that has no density at draws of the model proposes alone.

    Reference: Hesterberg, 1995, "Weighted average importance sampling and defensive mixture distributions".
    """
    invertible = all(conditional.family.invertible for conditional in program.conditionals())
    guided = (num_particles + 1) // 2 if invertible else num_particles
    share = guided / num_particles
    for own, number in ((True, guided), (False, num_particles - guided)):
        if not number:
            continue
        with pyro.plate("particles", number, dim=-1 - program.max_plate_nesting):
            if own:
                guide = poutine.trace(program.guide).get_trace(seen)
                model = poutine.trace(poutine.replay(program.model, trace=guide)).get_trace(batch)
            else:
                model = poutine.trace(program.model).get_trace(batch)
                guide = poutine.trace(poutine.replay(program.guide, trace=model)).get_trace(seen)
        observed = {name for name, site in sites(model) if site["is_observed"]}
        log_x, log_p = (
            log_density(model, names, program) for names in (observed, guide.nodes.keys() - observed)
        )
        log_r = torch.logaddexp(
            log_density(guide, guide.nodes, program) + math.log(share),
            log_p + math.log1p(-share) if share < 1 else log_p.new_tensor(-math.inf),
        )
        yield model, log_x + log_p - log_r


def by_datum(log_prob: Tensor, program: Program) -> Tensor:
    """A site's log-density ``[K, B]``, summed over plates of elements, which lie between the two."""
    within = min(log_prob.dim() - 1, program.max_plate_nesting)
    return log_prob.sum(list(range(-within, -1))) if within > 1 else log_prob


@checked
def importance_weighted_bound(log_w: Tensor) -> Tensor:
    r""":math:`\log \frac1K \sum_k w_k \le \log p(x)` in expectation, from log weights ``[K, ...]``."""
    return log_w.logsumexp(0) - math.log(len(log_w))
