"""Whether held-out data look like draws of the model: in statistics, and to a classifier."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae.checks import ConfigError, Count, Seed, checked, found
from pyro_vae.data import DataError
from pyro_vae.data.columns import Columns
from pyro_vae.evaluate.calibration import told
from pyro_vae.evaluate.door import Data, as_split, check
from pyro_vae.evaluate.intervals import Intervals, intervals
from pyro_vae.evaluate.latents import Draws
from pyro_vae.evaluate.simulated import drawn_sites, simulated
from pyro_vae.evaluate.two_sample import (
    Features,
    TwoSample,
    classifier_test,
    frechet_distance,
    precision_recall,
)
from pyro_vae.program import Batch, Program
from pyro_vae.seen import observing

MOST, MOST_SEEN = 2000, 5000
"""Data, at most, that a classifier and a network of features look at."""
LEVEL = 0.05
"""Of a p-value up to which a statistic is told to be off."""
LEVELS = 5
"""Of a category, whose shares are statistics by default."""

Function = Callable[[Any], Any]


@dataclass(frozen=True)
class Statistic:
    r"""One statistic of held-out data, and of replicated data of the same size.

    Attributes:
        name: what it was named.
        observed: its number of the data; of numbers of each datum, how far their distribution function lies
            from that of all sets together, at most (Kolmogorov and Smirnov).
        replicated: likewise of each replicated set, ``[R]``.
        p_value: of a number as far out, on either side; of a distance as large.
        values: the numbers of each datum, ``[N]``; None if it is one number.
        draws: those of replicated data, ``[R, N]``.
    """

    name: str
    observed: float
    replicated: Tensor = field(repr=False)
    p_value: float
    values: Tensor | None = field(default=None, repr=False)
    draws: Tensor | None = field(default=None, repr=False)

    @property
    def z_score(self) -> float:
        """How many standard deviations of the replicated the observed lies above their mean.

        Infinite where all of these are equal, or the observed alone is infinite; NaN where some of these are.
        """
        spread = self.replicated.std().item()
        away = self.observed - self.replicated.mean().item()
        if math.isnan(spread):
            return math.nan
        return away / spread if spread > 0 else 0.0 if away == 0 else math.copysign(math.inf, away)

    @property
    def extremes(self) -> Tensor:
        """How far out the statistic is of the data, first, and of each replicated set, ``[1 + R]``.

        In standard deviations of all of these, on either side, of distances above; infinite ones as if they
        lay as far again beyond the others as these are apart.
        """
        pool = torch.cat([torch.tensor([self.observed], dtype=torch.float64), self.replicated.double()])
        known = pool[pool.isfinite()]
        low, high = (known.min().item(), known.max().item()) if len(known) else (0.0, 0.0)
        apart = (high - low) or 1.0
        pool = pool.nan_to_num(posinf=high + apart, neginf=low - apart)
        spread = pool.std()
        away = torch.where(spread > 0, (pool - pool.mean()) / spread, 0.0)
        return away.abs() if self.values is None else away

    def __str__(self) -> str:
        what = " (distance of distributions)" if self.values is not None else ""
        mean, spread = self.replicated.mean().item(), self.replicated.std().item()
        return (
            f"{self.name}{what}: data {self.observed:.4g}, draws {mean:.4g} ± {spread:.2g}, "
            f"p = {self.p_value:.2g}"
        )


@dataclass(frozen=True)
class PredictiveCheck:
    """Held-out data beside draws of the model.

    Attributes:
        statistics: each, with its p-value.
        two_sample: how well a classifier tells data from draws.
        features: distances in the eyes of the user's network; None without.
        intervals: of a table, how much the predictive intervals of each column hold; else None.
        num_data: N, of a set.
        num_replications: R, sets that were drawn.
    """

    statistics: tuple[Statistic, ...] = field(repr=False)
    two_sample: TwoSample
    features: Features | None
    intervals: Intervals | None
    num_data: int
    num_replications: int

    def __getitem__(self, name: str) -> Statistic:
        return {statistic.name: statistic for statistic in self.statistics}[name]

    @property
    def p_values(self) -> dict[str, float]:
        """By statistic; of many, some are small by chance."""
        return {statistic.name: statistic.p_value for statistic in self.statistics}

    @property
    def adjusted(self) -> dict[str, float]:
        """By statistic, corrected for their number: that any of them is as far out (Westfall and Young)."""
        if not self.statistics:
            return {}
        away = torch.stack([statistic.extremes for statistic in self.statistics])
        farthest = away[:, 1:].max(0).values
        share = (1 + (farthest >= away[:, :1]).sum(1)).double() / (1 + self.num_replications)
        return dict(zip(self.p_values, share.tolist(), strict=True))

    @property
    def p_value(self) -> float:
        """Of all statistics together, exact: were the data draws, at most 5 % of cases have it below 0.05."""
        return min(self.adjusted.values(), default=1.0)

    @property
    def off(self) -> list[Statistic]:
        """Statistics in which data are no draws: of an adjusted p up to 0.05, the farthest first."""
        adjusted = self.adjusted
        found = [statistic for statistic in self.statistics if adjusted[statistic.name] <= LEVEL]
        return sorted(found, key=lambda statistic: -statistic.extremes[0].item())

    def __str__(self) -> str:
        title = f"{self.num_data} data against {self.num_replications} sets of as many draws"
        if self.statistics:
            off = f"{len(self.off)} of them off" if self.off else "none of them off"
            title += f"; p {told(self.p_value)} of all {len(self.statistics)} statistics together, {off}"
        rest = [part for part in (self.features, self.intervals) if part is not None]
        return "\n".join([title, *map(str, self.statistics), str(self.two_sample), *map(str, rest)])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{s.name}</td><td>{s.observed:.4g}</td><td>{s.replicated.mean():.4g} ± "
            f"{s.replicated.std():.2g}</td><td>{s.p_value:.2g}</td></tr>"
            for s in self.statistics
        )
        head = "<tr><th></th><th>data</th><th>draws</th><th>p</th></tr>"
        return f"<table>{head}{rows}</table><p>{self.two_sample}</p>"


@checked
def predictive_check(
    program: Program,
    data: Data,
    *,
    statistics: Mapping[str, Callable[..., Any]] | None = None,
    features: Callable[..., Any] | None = None,
    num_replications: Draws = 200,
    max_rows: Count = 2000,
    seed: Seed = 0,
    progress: bool = False,
) -> PredictiveCheck:
    r"""Compares held-out data with draws of the model: as many, given the same, and missing the same.

    .. math:: z_n \sim p(z \mid y_n), \quad x_n^{(r)} \sim p(x \mid z_n, y_n), \quad
        p = \min\bigl(1, \tfrac{2}{R + 1} (1 + \min(\#\{r : T^{(r)} \ge T\}, \#\{r : T^{(r)} \le T\}))\bigr)

    A statistic T is a function of a whole set to one number, or to a number for each datum; of these the
    distributions are compared. Were the data draws of the model, a p-value would be below 0.05 in 5 % of
    cases at most, whatever the statistic; that of all together, too, from how far out the farthest one is of
    the data, and of each replicated set. Beside them a classifier tries to tell data from draws, and of a
    table each value is predicted from the rest of its row.

    Args:
        program: the model.
        data: held-out data: a split such as ``data.test``, a batch, or a tensor ``[N, *event_shape]``.
        statistics: by name. They get the values of x, ``[N, *event_shape]``; of a model of a table a
            DataFrame of its columns; of a model with other sites, such as labels, the batch of all sites.
            What is missing is NaN. By default means, spreads, zeros and ends of each datum or column, of
            binary data means alone, and of images how much neighbours differ, too. What is not asked about
            may be wrong.
        features: a network or function of x ``[n, *event_shape]`` to features ``[n, F]``, such as a
            classifier's last layer, for the Fréchet distance (FID, if it is the Inception network), precision
            and recall.
        num_replications: R, sets drawn; a p-value is at least 2 / (R + 1), of distances 1 / (R + 1).
        max_rows: data decoded at once.
        seed: of the draws.
        progress: whether to show a bar.

    Raises:
        DataError: the data lie outside the likelihood's support, there is one alone, or a statistic of them
            is no number.
        ConfigError: a statistic is neither one number nor one for each datum, or changes the data.
        ValueError: whether values are missing is itself a draw of the model.

    Reference: Rubin, 1984, "Bayesianly justifiable and relevant frequency calculations for the applied
    statistician"; Gelman, Meng and Stern, 1996, "Posterior predictive assessment of model fitness via
    realized discrepancies"; Besag and Clifford, 1989, "Generalized Monte Carlo significance tests"; Westfall
    and Young, 1993, "Resampling-based multiple testing".

    >>> import pyro_vae as pv
    >>> vae = pv.VAE((3,), latent_dim=2, likelihood=pv.likelihoods.Normal())
    >>> x = torch.randn(50, 3)
    >>> check = pv.evaluate.predictive_check(vae, x, statistics={"largest": torch.max}, num_replications=20)
    >>> list(check.p_values), check["largest"].observed == x.max().item()
    (['largest'], True)
    """
    split = as_split(data, program)
    check(program, split)
    number = len(split)
    if number < 2:
        raise DataError(
            f"data={found(data)} hold one datum, and a set is compared with sets of draws; give 2 or more"
        )
    replicated: list[list[np.ndarray]] = []
    sets: list[Batch] = []
    bar = tqdm(total=num_replications, desc="replications", disable=not progress, leave=False)
    with program.evaluating(seed), observing(split.gaps), bar:
        placed = program.place(split.batch(slice(0, number), dtype=program.dtype))
        rows = {name: value.clone() for name, value in placed.items()}  # which a statistic might change
        of = program.event_shapes or rows  # a split may have labels that are none of the model's
        rows = {name: value for name, value in rows.items() if name in of}
        drawn = drawn_sites(program, rows)
        functions = _defaults(program, rows, drawn) if statistics is None else dict(statistics)
        observed = _apply(functions, program, rows)
        for _ in range(num_replications):
            made = [
                simulated(program, {name: value[i : i + max_rows] for name, value in rows.items()})[1]
                for i in range(0, number, max_rows)
            ]
            one = {name: torch.cat([part[name] for part in made]) for name in rows}
            replicated.append(_apply(functions, program, one))
            sets = [*sets[:1], one]
            bar.update()
        order = torch.randperm(number).to(program.device)
        few = order[:MOST]
        own, others = (_flat(one, few) for one in (rows, sets[0]))
        seen = None
        if features is not None:
            seen = _features(features, [rows, sets[0], sets[-1]], order[:MOST_SEEN], max_rows)
    compared = tuple(
        _compare(name, observed[i], np.stack([one[i] for one in replicated]))
        for i, name in enumerate(functions)
    )
    held = intervals(program, split, seed=seed, progress=progress) if program.columns is not None else None
    return PredictiveCheck(compared, classifier_test(own, others, seed), seen, held, number, num_replications)


def _flat(batch: Batch, rows: Tensor) -> Tensor:
    """Some rows of all sites, side by side."""
    return torch.cat([value[rows].reshape(len(rows), -1).double() for value in batch.values()], 1)


def _defaults(program: Program, rows: Batch, drawn: list[str]) -> dict[str, Function]:
    """Statistics where none are named."""
    if program.columns is not None:
        given = [program.columns.number(name) for name in program.given_columns]
        return _of_columns(program.columns, rows["x"], given)
    functions: dict[str, Function] = {}
    for site in drawn:
        x = rows[site]
        binary = bool(((x == 0) | (x == 1) | x.isnan()).all())  # whose mean tells all the others
        plain = dict(list(_PLAIN.items())[: 1 if binary else None])
        for name, function in (plain | _OF_IMAGES if x.dim() > 2 else plain).items():
            if len(rows) == 1:
                functions[name] = function
            else:
                functions[f"{site}: {name}"] = _of_site(function, site)
    return functions


def _of_site(function: Function, site: str) -> Function:
    return lambda batch: function(batch[site])


def _spread(x: Tensor) -> Tensor:
    flat = x.flatten(1) if x.dim() > 1 else x[:, None]
    return (flat - flat.nanmean(1, keepdim=True)).square().nanmean(1).sqrt()


_PLAIN: dict[str, Function] = {
    "mean of a datum": lambda x: x.double().reshape(len(x), -1).nanmean(1),
    "spread within a datum": lambda x: _spread(x.double()),
    "zeros of a datum": lambda x: torch.where(x.isnan(), x, x == 0).reshape(len(x), -1).nanmean(1),
    "smallest": lambda x: x[~x.isnan()].min(),
    "largest": lambda x: x[~x.isnan()].max(),
}


def _changes(dim: int) -> Function:
    """From each element to its neighbour, in the mean over a datum."""
    return lambda x: x.double().diff(dim=dim).abs().reshape(len(x), -1).nanmean(1)


_OF_IMAGES: dict[str, Function] = {
    "changes along rows of a datum": _changes(-1),
    "changes along columns of a datum": _changes(-2),
}


def _of_columns(columns: Columns, x: Tensor, given: list[int]) -> dict[str, Function]:
    """Of numbers mean and standard deviation, and where there are zeros their share; shares of levels."""
    functions: dict[str, Function] = {}
    for j, (name, column) in enumerate(columns.of.items()):
        values = x[:, j][~x[:, j].isnan()]
        if j in given or not len(values):
            continue
        if column.levels:
            often = values.long().bincount(minlength=len(column.levels)).argsort(descending=True)
            for level in [column.levels[i] for i in often[:LEVELS].tolist()]:
                functions[f"{name} = {level}"] = _of_column(name, partial(_share, value=level))
            continue
        functions[f"{name}: mean"] = _of_column(name, lambda values: values.astype(float).mean())
        if column.kind != "boolean":
            functions[f"{name}: std"] = _of_column(name, lambda values: values.astype(float).std(ddof=0))
        if (values == 0).any() and column.kind in ("count", "amount"):
            functions[f"{name}: zeros"] = _of_column(name, partial(_share, value=0))
    return functions


def _of_column(name: str, function: Function) -> Function:
    """A function of what is known of one column of a DataFrame."""
    return lambda frame: function(frame[name].dropna())


def _share(values: Any, value: Any) -> Any:
    return (values == value).mean()


def _apply(functions: Mapping[str, Function], program: Program, batch: Batch) -> list[np.ndarray]:
    """The statistics of one set: numbers, or ``[N]``."""
    number = program.num_data(batch)
    if program.columns is not None:
        seen: Any = program.columns.decode(batch["x"])
    else:
        seen = next(iter(batch.values())) if len(batch) == 1 else batch
    values, versions = [], [value._version for value in batch.values()]
    for name, function in functions.items():
        value = function(seen)
        if [value._version for value in batch.values()] != versions:
            raise ConfigError(
                f"statistics={name!r} changes the values it is given, which others are to see as they were; "
                "take a copy: x.clone()"
            )
        try:
            numbers = (
                value.detach().cpu().double() if isinstance(value, Tensor) else value
            )  # from bfloat16 too
            array = np.asarray(numbers, dtype=float)
        except (TypeError, ValueError):
            array = np.zeros((0, 0))
        if array.shape not in ((), (number,)):
            raise ConfigError(
                f"statistics={name!r} gives {found(value)}, and must give one number, or one for each of the "
                f"{number} data: lambda x: x.flatten(1).sum(1)"
            )
        if np.isnan(array).all():
            raise DataError(
                f"statistic {name!r} is no number (NaN); of data of which values are missing take one that "
                "leaves them out, such as x.nanmean()"
            )
        values.append(array)
    return values


def _compare(name: str, observed: np.ndarray, draws: np.ndarray) -> Statistic:
    """One statistic of the data, with those of replicated sets ``[R]`` or ``[R, N]``."""
    number = len(draws) + 1
    if not observed.ndim:
        tails = (draws >= observed).sum(), (draws <= observed).sum()
        p_value = min(1.0, 2 * (1 + int(min(tails))) / number)
        return Statistic(name, float(observed), torch.from_numpy(draws), p_value)
    known = [np.sort(values[~np.isnan(values)]) for values in (observed, *draws)]
    pool = np.sort(np.concatenate(known))
    distance, *distances = [_distance(values, pool) for values in known]
    p_value = (1 + sum(other >= distance for other in distances)) / number
    kept = torch.from_numpy(observed), torch.from_numpy(draws)
    return Statistic(name, distance, torch.tensor(distances, dtype=torch.float64), p_value, *kept)


def _distance(values: np.ndarray, pool: np.ndarray) -> float:
    """The largest difference of the distribution functions of sorted numbers, and of a pool with them."""
    own = np.unique(values)
    sides = (
        np.searchsorted(values, own, side) / len(values) - np.searchsorted(pool, own, side) / len(pool)
        for side in ("left", "right")
    )
    return float(max(abs(side).max() for side in sides))


def _features(function: Function, sets: list[Batch], few: Tensor, max_rows: int) -> Features:
    """Distances of data, and of draws, from draws, in the eyes of a network."""
    seen = []
    for batch in sets:
        x = batch.get("x", next(iter(batch.values())))[few]
        parts = []
        for rows in x.split(max_rows):
            part = function(rows)
            if not isinstance(part, Tensor) or part.dim() != 2 or len(part) != len(rows):
                raise ConfigError(
                    f"features={found(function)} gives {found(part)} of {len(rows)} data, and must give a "
                    f"tensor of features [{len(rows)}, F]: lambda x: network(x).flatten(1)"
                )
            parts.append(part.double().cpu())
        seen.append(torch.cat(parts))
        if not seen[-1].isfinite().all():
            raise DataError(
                "features of some data are no numbers; a network that sees data of which values are missing "
                "must take NaN: features=lambda x: network(x.nan_to_num(0.0))"
            )
    data, draws, others = seen
    distances = frechet_distance(data, draws), frechet_distance(draws, others)
    return Features(*distances, *precision_recall(data, draws))
