"""Draws of all that is not given: missing elements, missing sites, latents."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, cast

import numpy as np
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae.checks import Count, Limit, Seed, checked
from pyro_vae.data import DataError, Split
from pyro_vae.data.columns import Column, Columns
from pyro_vae.data.tables import is_frame
from pyro_vae.distributions import conditional
from pyro_vae.evaluate.door import check
from pyro_vae.evaluate.frames import as_frame, by_column, check_given, columns_of
from pyro_vae.evaluate.hamiltonian import ACCEPTANCE, begin, move
from pyro_vae.evaluate.reals import Reals, model_at, refuse_latent_weights
from pyro_vae.objectives.importance import defensive, log_density
from pyro_vae.program import Batch, DataWarning, Program, sites
from pyro_vae.running import parameters_known, seed_generators
from pyro_vae.seen import observing

MAX_ROWS = 2000
"""Data times draws that HMC moves at once."""
FEW = 20.0
"""An effective sample size below which draws are told to be few."""
LEAPFROGS = 4
"""Of a step of HMC."""

Steps = Annotated[int, Limit(0, float("inf"), "0, or a positive number of steps")]


@dataclass(frozen=True)
class Predictions(Mapping[str, Tensor]):
    """Draws by site, ``[S, B, *event_shape]``, of all that was not given, beside what was.

    Attributes:
        effective_sample_size: of the importance weights of each datum, ``[B]``, from 1 to their number.
        acceptance: share of HMC's proposals that were accepted, ``[B]``; None without.
        columns: of a table's model, what the columns of its rows are.
    """

    draws: dict[str, Tensor] = field(repr=False)
    effective_sample_size: Tensor
    acceptance: Tensor | None = None
    columns: Columns | None = field(default=None, repr=False)

    def __getitem__(self, site: str) -> Tensor:
        return self.draws[site]

    def __iter__(self) -> Iterator[str]:
        return iter(self.draws)

    def __len__(self) -> int:
        return len(self.draws)

    def mean(self, site: str = "x") -> Tensor:
        """Of the draws, ``[B, *event_shape]``; of categories, which have none, the most frequent."""
        draws = self._numbers(site)
        return self._instead(draws.mean(0), draws.mode(0).values, site, lambda column: bool(column.levels))

    def quantile(self, q: float | Sequence[float], site: str = "x") -> Tensor:
        """Of the draws, ``[B, *event_shape]``, or ``[len(q), B, *event_shape]`` of several.

        Of a table's whole numbers and ordered categories the next one below that was drawn, and of categories
        without order, which have none, the most frequent.
        """
        draws = self._numbers(site)
        at = torch.as_tensor(q, dtype=draws.dtype, device=draws.device)

        def quantiles(interpolation: str) -> Tensor:
            # Datum by datum, as torch.quantile takes no large tensors.
            found = [torch.quantile(one, at, 0, interpolation=interpolation) for one in draws.unbind(1)]
            return torch.stack(found, at.dim())

        found = quantiles("linear")
        if columns_of(self.columns, site):
            found = self._instead(found, quantiles("lower"), site, lambda column: column.whole)
        return self._instead(found, draws.mode(0).values, site, lambda column: column.kind == "category")

    def _numbers(self, site: str) -> Tensor:
        return self[site].to(torch.promote_types(self[site].dtype, torch.float32))

    def _instead(self, values: Tensor, others: Tensor, site: str, where: Callable[[Column], bool]) -> Tensor:
        """Values, and others where a site's columns are of some kind."""
        chosen = torch.tensor(
            [where(column) for column in columns_of(self.columns, site)], device=values.device
        )
        return torch.where(chosen, others, values) if chosen.any() else values


@checked
def predict(
    program: Program,
    given: Any,
    num_samples: Count = 100,
    *,
    num_particles: Count = 1000,
    hmc: Steps = 0,
    seed: Seed = 0,
    progress: bool = False,
) -> Any:
    r"""Draws from :math:`p(x_m, z \mid x_o)`: of all that is not given (m, z), given all that is (o).

    .. math:: z_k \sim r(z) = \tfrac12 q(z \mid x_o) + \tfrac12 p(z), \quad
        w_k = \frac{p(x_o, z_k)}{r(z_k)}

    .. math:: z \sim \sum_k \frac{w_k}{\sum_l w_l} \delta_{z_k}, \quad x_m \sim p(x_m \mid x_o, z)

    Exact as the number K of particles grows, and with HMC also as that of its steps does. What is drawn for a
    datum depends on its place and the seed, and on no other datum.

    Args:
        program: the model.
        given: a batch, ``[B, *event_shape]`` of each site, or of x alone; NaN, and sites that are absent, are
            not known. For a table's model also a DataFrame, or values by column, of which categories may be
            given by their names; columns that are absent are not known.
        num_samples: S, draws per datum.
        num_particles: K, importance samples per datum.
        hmc: steps of Hamiltonian Monte Carlo by which each draw of the latents then moves on, where the guide
            is too far from the posterior; the first half finds the step size.
        seed: of the draws.
        progress: whether to show a bar.

    Returns:
        ``Predictions``, a mapping from each site of the model to ``[S, B, *event_shape]``, given values as
        they are; where columns were named, from each column to ``[S, B]``, categories as their numbers. Of a
        DataFrame it is one DataFrame of the table's columns, dtypes and categories, indexed by the draw and
        as what was given, whose ``attrs["effective_sample_size"]`` lists that of each row, and
        ``attrs["acceptance"]`` with HMC the share of its proposals that were accepted.

    Raises:
        DataError: what is given has another shape, or lies outside the likelihood's support, or lacks a
            column which the model is given.
        ValueError: a site lies outside the plate of data, or cannot be drawn in part, or, with HMC, is no
            continuous latent.

    Reference: Rubin, 1976, "Inference and missing data"; Mattei and Frellsen, 2019, "MIWAE: deep generative
    modelling and imputation of incomplete data sets"; Neal, 2011, "MCMC using Hamiltonian dynamics".

    >>> import pyro_vae as pv
    >>> vae = pv.VAE((3,), latent_dim=2, likelihood=pv.likelihoods.Normal())
    >>> drawn = pv.predict(vae, torch.tensor([[0.5, float("nan"), 1.0]]), num_samples=7)
    >>> {site: list(draws.shape) for site, draws in drawn.items()}
    {'z': [7, 1, 2], 'x': [7, 1, 3]}
    """
    batch = _with_absent(program, given)
    check_given(program, batch)
    number = program.num_data(batch)
    found = list(drawn(program, batch, num_samples, num_particles, hmc, _seeds(seed, number), progress))
    at = program.max_plate_nesting
    draws = {name: torch.cat([one.draws[name] for one in found], at) for name in found[0].draws}
    size = torch.cat([one.effective_sample_size for one in found])
    acceptance = torch.cat([cast(Tensor, one.acceptance) for one in found]) if hmc else None
    _warn_of_few(size, acceptance, num_particles)
    if program.names_columns(given):
        draws = by_column(cast(Columns, program.columns), draws)
    elif is_frame(given):
        frame = as_frame(cast(Columns, program.columns), given, draws["x"], size)
        if acceptance is not None:
            frame.attrs["acceptance"] = acceptance.tolist()
        return frame
    return Predictions(draws, size, acceptance, program.columns)


def drawn(
    program: Program,
    batch: Batch,
    num_samples: int,
    num_particles: int,
    hmc: int,
    seeds: Sequence[int],
    progress: bool = False,
) -> Iterator[Predictions]:
    """``predict`` of a few data at a time, of a batch with all sites, each datum under a seed of its own."""
    split = Split(batch)
    check(program, split)
    gaps, size = split.gaps, max(1, MAX_ROWS // num_samples) if hmc else 1
    bar = tqdm(total=len(split), desc="predictions", unit="datum", disable=not progress, leave=False)
    with program.evaluating(), parameters_known(), observing(gaps), bar:
        for start in range(0, len(split), size):
            chunk = range(start, min(start + size, len(split)))
            data = [
                _Weighed(
                    program,
                    {name: x[i : i + 1] for name, x in batch.items()},
                    num_samples,
                    num_particles,
                    seeds[i],
                )
                for i in chunk
            ]
            acceptance = _move(data, hmc) if hmc else None
            draws = [one.complete() for one in data]
            yield Predictions(
                {
                    name: torch.cat([one[name] for one in draws], program.max_plate_nesting)
                    for name in draws[0]
                },
                torch.stack([one.effective_sample_size for one in data]),
                acceptance,
            )
            bar.update(len(data))


class _Weighed:
    """One datum, and draws of its latents from guide and prior, drawn anew by their importance weights.

    Attributes:
        observed: the sites that the model observes.
        sites: of its latents.
        guided: of the guide's draws of the latents, by site.
        latents: by site, ``[S, ..., 1, *event_shape]``.
        effective_sample_size: of the weights, ``()``.
    """

    def __init__(self, program: Program, row: Batch, num_samples: int, num_particles: int, seed: int):
        self.program, self.row, self.seed = program, row, seed
        seed_generators(seed, program.device)
        proposed = list(defensive(program, row, row, num_particles))
        model = proposed[0][0]
        self.observed = {name for name, site in sites(model) if site["is_observed"]}
        self.sites = {name: site for name, site in sites(model) if not site["is_observed"]}
        self.guided = {name: site["value"] for name, site in self.sites.items()}
        log_w = torch.cat([own.expand(len(own), 1)[:, 0] for _, own in proposed])
        self.effective_sample_size = (2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp()
        if not self.effective_sample_size.isfinite():
            raise DataError(
                "the model or its guide gives a datum no finite density; pv.evaluate.log_likelihood(...)"
                ".per_datum tells which"
            )
        index = torch.multinomial(log_w.softmax(0), num_samples, replacement=True)
        nodes: list[Any] = [trace.nodes for trace, _ in proposed]
        self.latents = {name: torch.cat([of[name]["value"] for of in nodes])[index] for name in self.sites}

    def complete(self) -> Batch:
        """All sites of the model, ``[S, ..., 1, *event_shape]``: latents, what is given, and draws."""
        seed_generators(self.seed + 1, self.program.device)
        own = {name: self.row[name] for name in self.observed if name in self.row}
        gaps = frozenset(self.row) - own.keys()
        filled = self.row | {name: value.nan_to_num(0.0) for name, value in own.items()}
        with observing(gaps), _completing(own, self.latents):
            trace = model_at(self.program, filled, self.latents)
        made = self.observed - own.keys()  # of the data, and not in them: whether a value was missing, say
        return {name: site["value"] for name, site in sites(trace) if name not in made}


class _completing(Messenger):  # named as Pyro names its handlers
    """Handler that draws what is missing of observed sites, given the rest of them and all sites before.

    Where the model has a latent for it, called as Pyro calls it, ``"x_unobserved"``, it is that.
    """

    def __init__(self, given: Batch, latents: Batch):
        super().__init__()
        self.given, self.latents = given, latents

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] not in self.given:
            return
        value, fn = self.given[msg["name"]], msg["fn"]
        observed = ~value.isnan()
        drawn = self.latents.get(f"{msg['name']}_unobserved")
        if drawn is not None:
            msg["value"] = torch.where(observed, value, drawn)
        elif observed.all():
            msg["value"] = value.expand(*fn.batch_shape, *fn.event_shape)
        elif observed.any():
            msg["value"] = conditional(fn, value.nan_to_num(0.0), observed).sample()
        else:
            msg["value"] = fn.sample()


def _move(data: Sequence[_Weighed], steps: int) -> Tensor:
    """Moves all draws of the latents of some data by HMC, and returns each datum's acceptance, ``[B]``.

    Positions are measured in the standard deviations of the guide's draws. Of each datum the step size is its
    own; once found, it is drawn anew below that at each step, as trajectories of one length may return to
    where they began.
    """
    program = data[0].program
    refuse_latent_weights(program, "leave it to the importance weights, hmc=0")
    batch = {name: torch.cat([one.row[name] for one in data]) for name in data[0].row}
    reals = Reals(
        program,
        data[0].sites,
        "leave it to the importance weights, hmc=0 and more particles, num_particles=10000",
    )

    def pack(values: Sequence[Batch]) -> Tensor:
        return reals.pack({name: torch.cat([one[name] for one in values], reals.at) for name in values[0]})

    def densities(u: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x_o, z) on the reals, and its slope."""
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            values, change = reals.unpack(u)
            trace = model_at(program, batch, values)
            log_p = log_density(trace, trace.nodes, program) + change
            (slope,) = torch.autograd.grad(log_p.sum(), u)
        return log_p.detach()[None], slope[None]

    unit = pack([one.guided for one in data]).std(0)
    unit = torch.where(unit.isfinite() & (unit > 0), unit, 1.0)
    point = begin(densities, pack([one.latents for one in data]))
    number, _, dims = point.u.shape
    generators = [torch.Generator(unit.device).manual_seed(one.seed + 2) for one in data]

    def noise(draw: Any, *shape: int) -> Tensor:
        drawn = [draw(shape, generator=g, dtype=unit.dtype, device=unit.device) for g in generators]
        return torch.stack(drawn, 1)

    size, weights = unit.new_full((len(data), 1), 0.5), unit.new_ones(1, 1, 1)
    accepted = torch.zeros_like(size)
    for i in range(steps):
        momentum = noise(torch.randn, number, dims)
        adapts = i < steps // 2
        step = unit * (size if adapts else size * (0.5 + 0.5 * noise(torch.rand, 1).mT))
        uniform = noise(torch.rand, number)
        point, chance = move(densities, point, weights, step, momentum, uniform, LEAPFROGS)
        rate = chance.mean(0)[:, None]
        if adapts:
            size = size * (rate - ACCEPTANCE).exp()
        else:
            accepted += rate / (steps - steps // 2)
    values, _ = reals.unpack(point.u)
    for i, one in enumerate(data):
        one.latents = {name: z.narrow(reals.at, i, 1) for name, z in values.items()}
    return accepted[:, 0]


def _with_absent(program: Program, given: Any) -> Batch:
    """What is given, and NaN for each site that is not.

    Raises:
        DataError: nothing is, or a site that the program does not know.
    """
    batch, shapes = program.place(given), program.event_shapes
    unknown = batch.keys() - shapes.keys() if shapes else set()
    if unknown or not batch:
        name = unknown.pop() if unknown else ""
        raise DataError(
            f"given={name!r} is no site of the data; a {type(program).__name__} has {', '.join(shapes)}: "
            "give some of them, with NaN for what is not known"
        )
    like = torch.empty((), dtype=program.dtype, device=program.device)
    number = program.num_data(batch)
    absent = {name: shape for name, shape in shapes.items() if name not in batch}
    return batch | {name: like.new_full((number, *shape), math.nan) for name, shape in absent.items()}


def _seeds(seed: int, number: int) -> list[int]:
    """One for each datum."""
    return [int(np.random.SeedSequence([seed, i]).generate_state(1)[0]) for i in range(number)]


def _warn_of_few(size: Tensor, acceptance: Tensor | None, num_particles: int) -> None:
    if acceptance is not None:
        low = acceptance < 0.5
        told, worst = "fewer than half of HMC's proposals were accepted", acceptance
        mend = "take more steps, of which the first half finds the step size"
    else:
        low, worst = size < min(FEW, num_particles / 2), size
        told = f"the effective sample size is below {FEW:g}"
        mend = f"take more, num_particles={10 * num_particles}, or move the draws on, hmc=20"
    if low.any():
        at = int(worst.argmin())
        warnings.warn(
            f"{told} of {int(low.sum())} of {len(size)} data (at worst {worst[at].item():.2g}, datum {at}), "
            f"so that their draws are of few latents; {mend}",
            DataWarning,
            stacklevel=4,
        )
