"""The aggregate posterior: what the guide says of all data together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae.data import Split
from pyro_vae.distributions import elements
from pyro_vae.evaluate.latents import by_latent
from pyro_vae.objectives.elbo import latents
from pyro_vae.objectives.importance import by_datum, log_density, traces, unscaled
from pyro_vae.program import Batch, Program, sites
from pyro_vae.seen import observing

CHUNK = 500
"""Draws at a time."""
NUMBERS = 2**22
"""Numbers in memory at a time, draws by data by latents."""

Estimate = tuple[float, float]
"""A mean, and its standard error."""


@dataclass
class Aggregate:
    """Estimates by name of a quantity and of a site, "" of all sites together.

    Attributes:
        estimates: nats per datum; what is not there is not defined.
        order: the sites, as the guide draws them.
        notes: why some are not there.
    """

    estimates: dict[tuple[str, str], Estimate]
    order: list[str]
    notes: tuple[str, ...] = ()

    def of(self, name: str, site: str = "") -> Estimate:
        """NaN if it is not defined."""
        return self.estimates.get((name, site), (math.nan, math.nan))


@dataclass
class Role:
    """How a site of latents is drawn.

    Attributes:
        alone: by the guide from x and nothing else.
        fixed: by the model from one density for all data and draws.
        given: by the model from densities that differ with what it is given.
        follows: by the guide from the model's own density given others; or it is empty.
    """

    alone: bool
    fixed: bool
    given: bool
    follows: bool


def roles(program: Program, batch: Batch) -> dict[str, Role]:
    """Of each site, in the order of the guide: held against other draws, and other data."""
    model, guide = traces(program, batch, 2)
    found = {name: (q, p, z) for name, q, p, z, _ in latents(model, guide)}
    one = {}
    for name, (q, _, z) in found.items():
        at = z.dim() - 1 - len(q.event_shape)
        one[name] = z.narrow(0, 0, 1).narrow(at, 0, 1)
    same = {name: value.expand(found[name][2].shape) for name, value in one.items()}
    with pyro.plate("particles", 2, dim=-1 - program.max_plate_nesting):
        told = poutine.trace(poutine.condition(program.model, data=same)).get_trace(batch)
    result = {}
    for name in (name for name, _ in sites(guide) if name in found):
        q, p, z = found[name]
        log_q, of_first = q.log_prob(z), q.log_prob(z[:1])
        again: Any = told.nodes[name]["fn"]
        alone = _equal(of_first, of_first[:1])
        fixed, free = (_equal(d := fn.log_prob(one[name]), d.flatten()[0]) for fn in (p, again))
        follows = _equal(log_q, p.log_prob(z)) and (not alone or not log_q.any())
        result[name] = Role(alone, fixed, not free, follows)
    return result


def _equal(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b.expand_as(a), rtol=1e-4, atol=1e-4)


def aggregate(
    program: Program, data: Split, kls: Mapping[str, Estimate], number: int, seed: int, progress: bool
) -> Aggregate:
    """What ``anatomy`` says of q(z), from so many draws of it, with each site's mean KL known."""
    if not all(conditional.family.invertible for conditional in program.conditionals()):
        note = (
            "no mutual information: the guide has no density at points that it did not draw, so that q(z) "
            "has none"
        )
        return Aggregate({}, list(kls), (note,))
    with program.evaluating((seed + 1) % 2**32), observing(data.gaps):
        role = roles(program, program.place(data.batch(slice(0, 100), program.dtype)))
        role = {name: own for name, own in role.items() if not own.follows}
        index = torch.arange(number) * len(data) // number
        with tqdm(total=number, desc="aggregate", disable=not progress, leave=False) as bar:
            parts = []
            for chunk in index.split(CHUNK):
                parts.append(_at_draws(program, data, chunk, role))
                bar.update(len(chunk))
    rows = {key: torch.cat([part[key] for part in parts]).cpu().double() for key in parts[0]}
    known = torch.stack([rows["kl", name] for name in role])
    means, errors = torch.tensor([kls[name] for name in role], dtype=torch.float64).T
    estimates = controlled(torch.stack([*rows.values()]), known, means, errors)
    given = any(own.given for own in role.values())
    note = (
        "the prior differs with what is given: what is left of the KL is no divergence of q(z) from one prior"
    )
    return Aggregate(dict(zip(rows, estimates, strict=True)), list(role), (note,) * given)


def _at_draws(
    program: Program, data: Split, index: Tensor, role: Mapping[str, Role]
) -> dict[tuple[str, str], Tensor]:
    """Of a draw of q(z|x_n) for each index n: what is averaged, by quantity and site, ``[M]`` each."""
    own = program.place(data.batch(index, program.dtype))
    model, guide = traces(program, own, 1)
    for trace in (model, guide):
        trace.compute_log_prob(lambda name, site: name in role)
    log_p, log_q = (
        {name: log_density(trace, {name}, program)[0] for name in role} for trace in (model, guide)
    )
    sums: dict[tuple[str, str], Tensor] = {}
    for key, log_sum in _over_data(program, data, guide, role):
        sums[key] = torch.logaddexp(sums[key], log_sum) if key in sums else log_sum
    mixed = {key: log_sum - math.log(len(data)) for key, log_sum in sums.items()}
    rows = {}
    before = torch.zeros_like(next(iter(log_q.values())))
    for name, own_role in role.items():
        rows["kl", name] = log_q[name] - log_p[name]
        rows["mutual_information", name] = log_q[name] - (mixed["prefix", name] - before)
        rows["marginal_kl", name] = rows["kl", name] - rows["mutual_information", name]
        before = mixed["prefix", name]
        if ("latents", name) in mixed:
            product = mixed["latents", name].sum(-1)
            rows["total_correlation", name] = mixed["site", name] - product
            if own_role.fixed and elements(model.nodes[name]["fn"]) is not None:
                rows["dimension_wise_kl", name] = product - log_p[name]
    for quantity in ("mutual_information", "marginal_kl"):
        rows[quantity, ""] = torch.stack([rows[quantity, name] for name in role]).sum(0)
    return rows


def _over_data(
    program: Program, data: Split, guide: poutine.Trace, role: Mapping[str, Role]
) -> Iterator[tuple[tuple[str, str], Tensor]]:
    r"""The logarithm of :math:`\sum_j q(z_m | x_j)` over some data after others, ``[M]``.

    By name: of a site and those before it ("prefix"); of one that is drawn from x alone ("site"), and of each
    of its latents ("latents", ``[M, D]``), if they are independent.
    """
    values, at = {}, {}
    for name, site in sites(guide):
        at[name] = site["value"].dim() - 1 - len(site["fn"].event_shape)
        values[name] = site["value"].transpose(0, at[name])  # of each datum's draw a particle
    number = len(next(iter(values.values())))
    numbers = sum(value[0].numel() for value in values.values())
    for batch in data.batches(max(1, NUMBERS // number // max(100, numbers)), dtype=program.dtype):
        batch = program.place(batch)
        size = number, program.num_data(batch)
        here = {
            name: value.expand(*value.shape[: at[name]], size[1], *value.shape[at[name] + 1 :])
            for name, value in values.items()
        }
        with pyro.plate("particles", number, dim=-1 - program.max_plate_nesting):
            trace = poutine.trace(poutine.condition(program.guide, data=here)).get_trace(batch)
        trace.compute_log_prob(lambda name, site: name in role)
        prefix = torch.zeros(size, device=program.device, dtype=program.dtype)
        for name, own in role.items():
            density = by_datum(unscaled(trace.nodes[name]), program).expand(size)
            prefix = prefix + density
            yield ("prefix", name), prefix.logsumexp(1)
            fn: Any = trace.nodes[name]["fn"]
            each = elements(fn) if own.alone else None
            if each is not None:
                yield ("site", name), density.logsumexp(1)
                own_density = each.log_prob(here[name])
                yield ("latents", name), by_latent(own_density, len(fn.event_shape)).logsumexp(1)


def controlled(values: Tensor, known: Tensor, means: Tensor, errors: Tensor) -> list[Estimate]:
    r"""Means of ``values``, ``[Q, M]``, less what is seen to be noise, with their standard errors.

    .. math:: \bar v + \beta (\mu - \bar k), \qquad \beta = \mathrm{Cov}(v, k) \mathrm{Var}(k)^{-1}

    with k ``known``, ``[S, M]``, of which the means :math:`\mu` are known but for ``errors``, ``[S]``. It is
    linear in v, so that sums stay sums, and that of k itself is :math:`\mu`. Errors are NaN of M < S + 2.

    Reference: Owen, 2013, "Monte Carlo theory, methods and examples", section 8.9.
    """
    number = values.shape[1]
    v, k = (x - x.mean(1, keepdim=True) for x in (values, known))
    slopes = v @ k.T @ torch.linalg.pinv(k @ k.T, hermitian=True)  # [Q, S]
    best = values.mean(1) + slopes @ (means - known.mean(1))
    freedom = max(number - 1 - len(known), 0)  # at 0, slopes that go through all values hide their noise
    left = (v - slopes @ k).square().sum(1) if freedom else torch.full_like(best, math.nan)
    variance = left / max(freedom, 1) / number + slopes.square() @ errors.square()
    return list(zip(best.tolist(), variance.sqrt().tolist(), strict=True))
