"""Simulation-based calibration: whether the truth lies among the guide's draws as one of them would."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass, field
from typing import cast

import torch
from pyro import poutine
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae.checks import Count, Seed, checked
from pyro_vae.data import Split
from pyro_vae.evaluate.door import Data, as_split, check
from pyro_vae.evaluate.latents import Draws
from pyro_vae.evaluate.reals import refuse_latent_weights
from pyro_vae.evaluate.simulated import simulated
from pyro_vae.evaluate.uniform import UniformRanks
from pyro_vae.objectives.importance import log_density, traces
from pyro_vae.program import Batch, DataWarning, Program, sites
from pyro_vae.seen import observing

FEW = 20
"""Simulations below which nothing is said of widths."""
JOINT, DISTANCE = "log p(x, z)", "distance"
"""Test quantities beside the latents: the model's density, and how far z lies from a point of the prior."""


@dataclass(frozen=True)
class Calibration:
    r"""Ranks of what was simulated among draws of the guide, which are uniform if it is the posterior.

    Attributes:
        p_value: of all quantities together: the least of ``p_values`` times their number (Bonferroni), which
            at most 5 % of calibrated guides have below 0.05.
        p_values: of each quantity's ranks, ``[Q]``; exact.
        names: of the quantities: each latent, ``"z[0]"``; ``"log p(x, z)"``; and ``"distance"``, of z from a
            random point, whose ranks are the expected coverage of TARP.
        ranks: of the truth among the draws, from 0 to ``num_samples``, ``[num_simulations, Q]``.
        num_simulations: pairs (z, x) that were simulated.
        num_samples: draws of the guide for each.
        missing: which values of the simulations are missing, in words.
    """

    p_value: float
    p_values: Tensor = field(repr=False)
    names: tuple[str, ...] = field(repr=False)
    ranks: Tensor = field(repr=False)
    num_simulations: int
    num_samples: int
    missing: str = "nothing missing"

    @property
    def adjusted(self) -> Tensor:
        """The p-value of each quantity, corrected for their number, ``[Q]`` (Holm, 1979)."""
        order = self.p_values.argsort()
        steps = self.p_values[order] * torch.arange(len(order), 0, -1)
        return torch.empty_like(steps).scatter(0, order, steps.cummax(0).values.clamp(max=1.0))

    @property
    def scale(self) -> Tensor:
        """About how wide the guide is, in units of the width that it should have, ``[Q]``: 0.8 is too narrow.

        It is that of Normals whose ranks these could be, and so is ``shift``; of 20 simulations it is known
        within a sixth, and of fewer it is not told.
        """
        return self._line[0]

    @property
    def shift(self) -> Tensor:
        """About how far above the guide's mean the truth is, in the guide's standard deviations, ``[Q]``."""
        slope, start = self._line
        return -start / slope

    @property
    def _line(self) -> tuple[Tensor, Tensor]:
        """Slope and start of the line by which probits of the distribution function of ranks go."""
        quantiles = torch.arange(1, self.num_samples + 1) / (self.num_samples + 1)
        below = (self.ranks[:, None] < torch.arange(1, self.num_samples + 1)[:, None]).double().sum(0)
        middle = (quantiles - 0.5).abs() <= 0.4  # where they are known best
        share = (below[middle] + 0.5) / (self.num_simulations + 1)
        x, y = torch.special.ndtri(quantiles[middle].double()), torch.special.ndtri(share)
        start = y.mean(0)  # quantiles are symmetric around 0.5
        return (x @ y) / x.square().sum(), start

    def __str__(self) -> str:
        order = self.p_values.argsort().tolist()
        off = [i for i in order if self.adjusted[i] < 0.05]
        verdict = f"{len(off)} of {len(order)} quantities are off" if off else "no quantity is off"
        heading = (
            f"calibration p {told(self.p_value)}: {verdict} ({self.num_simulations} simulations, "
            f"{self.missing}; {self.num_samples} draws of the guide each)"
        )
        more = [f"and {len(off) - 5} more"] if len(off) > 5 else []
        if not off:
            more = [f"(the least of {len(order)}, which is not significant among so many)"]
        return "\n  ".join([heading, *map(self._line_of, off[:5] or order[:1]), *more])

    def _line_of(self, i: int) -> str:
        about = ""
        if self.names[i] == JOINT:
            above = self.ranks[:, i].double().mean().item() / self.num_samples > 0.5
            why = "too wide, or beside it" if above else "too near the posterior's mode: too narrow"
            about = (
                f"; the truth is {'more' if above else 'less'} probable than most of the guide's draws: {why}"
            )
        elif self.names[i] != DISTANCE and self.num_simulations >= FEW:
            about = (
                f"; the guide is about {self.scale[i]:.2f} times as wide as it should be, and the truth "
                f"{self.shift[i]:+.2f} of its standard deviations off its mean"
            )
        return f"{self.names[i]}: p {told(self.p_values[i].item())}{about}"

    def _repr_html_(self) -> str:
        caption = f"calibration p {told(self.p_value)}; {self.num_simulations} simulations, {self.missing}"
        known = self.num_simulations >= FEW
        rows = "".join(
            f"<tr><td>{self.names[i]}</td><td>{told(self.p_values[i].item())}</td>"
            + (f"<td>{self.scale[i]:.2f}</td><td>{self.shift[i]:+.2f}</td></tr>" if known else "</tr>")
            for i in self.p_values.argsort().tolist()[:20]
        )
        head = f"<tr><th></th><th>p</th>{'<th>width</th><th>shift</th>' * known}</tr>"
        return f"<table><caption>{caption}</caption>{head}{rows}</table>"


@checked
def calibration(
    program: Program,
    data: Data | None = None,
    *,
    num_simulations: Draws = 1000,
    num_samples: Draws = 99,
    max_rows: Count = 2000,
    seed: Seed = 0,
    progress: bool = False,
) -> Calibration:
    r"""Tests whether the guide is the posterior of its model, on data that the model simulates.

    .. math:: (z^*, x^*) \sim p(z, x), \quad z_l \sim q(z \mid x^*), \quad
        r = \#\{l : f(z_l, x^*) < f(z^*, x^*)\}

    If q is p(z|x), the rank r of any quantity f is uniform over 0, ..., L: too narrow a guide has the truth
    among its extremes too often, too wide a one too seldom. Quantities are each latent; :math:`\log p(x, z)`,
    which also tells dependences that the guide lacks, and a guide that does not look at x; and the distance
    of z from a random point, of the prior. Equal values, of discrete latents, are ranked at random.

    It is about the guide and not about the model: whether that fits the data, ``predictive_check`` tells.

    Args:
        program: the model, and the guide.
        data: of which each simulation copies, of a row drawn at random, what the model is given, and which
            values are missing. By default nothing is missing, of which a warning tells where the guide was
            trained on gaps; labels are one class after the other, and real values at their mean.
        num_simulations: N pairs (z, x).
        num_samples: L, draws of the guide for each.
        max_rows: simulations times draws decoded at once.
        seed: of the draws.
        progress: whether to show a bar.

    Raises:
        DataError: the data lie outside the likelihood's support.
        ValueError: a site lies outside the plate of data; or weights are latent; or whether values are
            missing is itself a draw of the model.

    Reference: Talts, Betancourt, Simpson, Vehtari and Gelman, 2018, "Validating Bayesian inference algorithms
    with simulation-based calibration"; Modrák et al., 2023, "Simulation-based calibration checking for
    Bayesian computation: the choice of test quantities shapes sensitivity"; Lemos, Coogan, Hezaveh and
    Perreault-Levasseur, 2023, "Sampling-based accuracy testing of posterior estimators for general
    inference".

    >>> import pyro_vae as pv
    >>> vae = pv.VAE((3,), latent_dim=2, likelihood=pv.likelihoods.Normal())
    >>> pv.evaluate.calibration(vae, num_simulations=50).ranks.shape
    torch.Size([50, 4])
    """
    refuse_latent_weights(program, "pv.evaluate.log_likelihood averages over them")
    split = None if data is None else as_split(data, program)
    gaps: frozenset[str] = frozenset()
    if split is not None:
        check(program, split)
        gaps = split.gaps
    elif program.gaps:
        warnings.warn(
            f"the {type(program).__name__} was trained on data of which values of "
            f"{', '.join(sorted(program.gaps))} are missing, and of what is simulated nothing is: it is not "
            "tested where it is used; give data, whose gaps are copied: pv.evaluate.calibration(vae, "
            "data.test)",
            DataWarning,
            stacklevel=3,
        )
    bar = tqdm(total=num_simulations, desc="calibration", disable=not progress, leave=False)
    with program.evaluating(seed), observing(gaps), bar:
        rows = _rows(program, split, num_simulations + 1)  # one more: each is measured from the next one's z
        batches, *parts = zip(
            *(
                _simulate(program, {name: value[i : i + max_rows] for name, value in rows.items()})
                for i in range(0, num_simulations + 1, max_rows)
            ),
            strict=True,
        )
        batch = {name: torch.cat([part[name] for part in batches]) for name in rows}
        z, joint, drawn = map(torch.cat, parts)
        _warn_of_another_density(program, joint, drawn)
        unit = torch.where(z.std(0) > 0, z.std(0), 1.0)
        ranks = []
        for i in range(0, num_simulations, size := max(1, max_rows // num_samples)):
            own = slice(i, min(i + size, num_simulations))
            draws, log_p, names = _draw(program, {n: v[own] for n, v in batch.items()}, num_samples)
            point = z[own.start + 1 : own.stop + 1] / unit
            truth = _quantities(z[own] / unit, joint[own], point)
            ranks.append(_ranks(truth, _quantities(draws / unit, log_p, point)).cpu())
            bar.update(len(truth))
    found_ranks = torch.cat(ranks)
    uniform = UniformRanks(num_simulations, num_samples)
    p_values = torch.from_numpy(uniform.p_values(found_ranks.numpy()))
    p_value = min(1.0, len(p_values) * p_values.min().item())
    quantities = (*names, JOINT, DISTANCE)
    missing = f"values missing as in the {len(split)} data" if split and gaps else "nothing missing"
    return Calibration(p_value, p_values, quantities, found_ranks, num_simulations, num_samples, missing)


def _rows(program: Program, split: Split | None, number: int) -> Batch:
    """What is simulated beside: what is given, and which values are missing."""
    if split is None:
        return program.example(number)
    index = torch.randperm(len(split))[torch.arange(number) % len(split)]
    return program.place(split.batch(index, dtype=program.dtype))


def _simulate(program: Program, rows: Batch) -> tuple[Batch, Tensor, Tensor, Tensor]:
    """Data; their latents ``[B, D]``; and log p(x, z), ``[B]``, as observed and as drawn."""
    trace, batch = simulated(program, rows)
    latent = {name: site for name, site in sites(trace) if not site["infer"].get("was_observed")}
    model = poutine.condition(program.model, data={name: site["value"] for name, site in latent.items()})
    seen = poutine.trace(model).get_trace(batch)
    joint, drawn = (log_density(t, t.nodes, program) for t in (seen, trace))
    z = torch.cat([_by_datum(site, 0)[..., None].flatten(1) for site in latent.values()], -1)
    return batch, z.to(joint.dtype), joint, drawn


def _draw(program: Program, batch: Batch, number: int) -> tuple[Tensor, Tensor, list[str]]:
    """Latents of the guide ``[K, B, D]``; log p(x, z) of each, ``[K, B]``; and what they are called."""
    model, _ = traces(program, batch, number)
    latent = {name: _by_datum(site, 1) for name, site in sites(model) if not site["is_observed"]}
    log_p = log_density(model, model.nodes, program).expand(number, program.num_data(batch))
    names = [
        name + (f"[{', '.join(map(str, index))}]" if index else "")
        for name, z in latent.items()
        for index in itertools.product(*map(range, z.shape[2:]))
    ]
    return torch.cat([z[..., None].flatten(2) for z in latent.values()], -1).to(log_p.dtype), log_p, names


def _by_datum(site: dict[str, object], to: int) -> Tensor:
    """A site's values, whose dimension of data, the last one of the batch, is moved to another place."""
    value, fn = cast(Tensor, site["value"]), cast(torch.distributions.Distribution, site["fn"])
    return value.movedim(-1 - len(fn.event_shape), to)


def _quantities(z: Tensor, log_p: Tensor, point: Tensor) -> Tensor:
    """Of latents ``[..., B, D]`` and their log p(x, z) ``[..., B]``: what is ranked, ``[..., B, D + 2]``."""
    return torch.cat([z, log_p[..., None], (z - point).square().sum(-1, keepdim=True)], -1)


def _ranks(truth: Tensor, draws: Tensor) -> Tensor:
    """Of what is true, ``[B, Q]``, among draws ``[K, B, Q]``; a random place among equals.

    Those of equal discrete latents differ by rounding: all of them, then, to one side.
    """
    alike = torch.isclose(draws, truth, rtol=1e-5, atol=1e-6)
    below, equal = ((draws < truth) & ~alike).sum(0), alike.sum(0)
    return below + (torch.rand(equal.shape, device=equal.device) * (equal + 1)).long().clamp(max=len(draws))


def _warn_of_another_density(program: Program, seen: Tensor, drawn: Tensor) -> None:
    wrong = (seen - drawn).abs() > 1e-3 * (1 + drawn.abs())
    if wrong.any():
        at = int((seen - drawn).abs().argmax())
        warnings.warn(
            f"the {type(program).__name__} gives {int(wrong.sum())} of {len(wrong)} simulated data another "
            f"density than they were drawn from (log p(x, z) {seen[at].item():.4g}, not "
            f"{drawn[at].item():.4g}, of simulation {at}), as its story looks at values that it draws, such "
            "as their total: what is tested is then a guess at it; where there is one, take a story in which "
            'that is latent: pv.CountVAE(..., library="latent")',
            DataWarning,
            stacklevel=4,
        )


def told(p: float) -> str:
    """Such as ``"= 0.03"``."""
    return "< 1e-6" if p < 1e-6 else f"= {p:.2g}"
