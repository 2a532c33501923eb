"""Whether predictive intervals of each column, given the rest of the row, hold as much as they say."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import Count, Seed, checked
from pyro_vae.evaluate.calibration import told
from pyro_vae.evaluate.door import Data, as_split, check
from pyro_vae.evaluate.predict import FEW, Steps, predict
from pyro_vae.evaluate.uniform import UniformRanks
from pyro_vae.program import DataWarning, Program

LEVELS = (0.5, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Intervals:
    """Where values lie among draws given the rest of their row: uniform from 0 to 1, if these are right.

    Attributes:
        names: of the columns.
        places: of each value, ``[N, D]``, from 0 below all draws to 1 above them; NaN of what is missing.
        p_values: of each column's places, ``[D]``; exact.
        p_value: of all columns together, the least of them times their number (Bonferroni).
        num_samples: draws for each value.
    """

    names: tuple[str, ...]
    places: Tensor = field(repr=False)
    p_values: Tensor = field(repr=False)
    p_value: float
    num_samples: int

    def coverage(self, level: float) -> Tensor:
        """Share of each column's values that lie within their central interval of a level, ``[D]``."""
        known = ~self.places.isnan()
        return ((self.places - 0.5).abs() <= level / 2).double().sum(0) / known.sum(0)

    def _rows(self) -> list[list[str]]:
        shares = torch.stack([self.coverage(level) for level in LEVELS], 1)
        return [
            [name, *(f"{share:.3f}" for share in row), told(p)]
            for name, row, p in zip(self.names, shares.tolist(), self.p_values.tolist(), strict=True)
        ]

    def __str__(self) -> str:
        heading = ["", *(f"{100 * level:g} %" for level in LEVELS), "p"]
        rows = [heading, *self._rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        title = f"share of values within central intervals, given the rest of the row: p {told(self.p_value)}"
        return "\n".join([title, *lines])


@checked
def intervals(
    program: Program,
    data: Data,
    *,
    num_rows: Count = 200,
    num_samples: Count = 99,
    num_particles: Count = 1000,
    hmc: Steps = 0,
    seed: Seed = 0,
    progress: bool = False,
) -> Intervals:
    r"""Hides each value of a row in turn, and finds its place among draws of it, given the rest.

    .. math:: x_j^{(s)} \sim p(x_j \mid x_{-j}), \quad
        u = \frac{\#\{s : x_j^{(s)} < x_j\} + U}{S + 1}, \quad U \sim \mathrm{Uniform}(0, 1)

    If the model is right u is uniform, and central intervals of 90 % hold 90 % of the values. Among equals,
    as of counts and categories, the place is drawn at random.

    Args:
        program: a model of rows x, whose columns are independent given its latents.
        data: held-out rows: a split, a DataFrame, a batch, or a tensor ``[N, D]``.
        num_rows: so many of them, at most, drawn at random.
        num_samples: S, draws of each value.
        num_particles: importance samples of each draw, as in ``pv.predict``, and so is hmc.
        hmc: steps by which each draw of the latents then moves on.
        seed: of the draws.
        progress: whether to show a bar for each column.

    Raises:
        DataError: the data lie outside the likelihood's support.
        ValueError: x is no row of columns.

    Reference: Dawid, 1984, "Statistical theory: the prequential approach"; Gneiting, Balabdaoui and Raftery,
    2007, "Probabilistic forecasts, calibration and sharpness".
    """
    split = as_split(data, program)
    check(program, split)
    if len(split.event_shapes.get("x", ())) != 1:
        raise ValueError(
            f"intervals are of rows x of columns, and x of this {type(program).__name__} has shape "
            f"{split.event_shapes.get('x')}; whether its data look like draws tells "
            "pv.evaluate.predictive_check"
        )
    with program.evaluating(seed):
        index = torch.randperm(len(split))[:num_rows]
    batch = program.place(split.batch(index, dtype=program.dtype))
    x = batch["x"]
    names = list(program.columns or split.columns or map(str, range(x.shape[1])))
    modelled = [j for j, name in enumerate(names) if name not in program.given_columns]
    places = torch.full((len(x), len(modelled)), torch.nan, dtype=torch.float64)
    p_values = torch.ones(len(modelled), dtype=torch.float64)
    few: list[str] = []
    for column, j in enumerate(modelled):
        known = ~x[:, j].isnan()
        if not known.any():
            continue
        hidden = {name: value[known] for name, value in batch.items()}
        hidden["x"] = hidden["x"].index_fill(1, torch.tensor([j], device=x.device), torch.nan)
        own = (seed + j) % 2**32
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DataWarning)
            how: Any = {"num_particles": num_particles, "hmc": hmc, "seed": own, "progress": progress}
            found = predict(program, hidden, num_samples, **how)["x"]
        few += [names[j]] * any(issubclass(one.category, DataWarning) for one in caught)
        draws, value = found.reshape(num_samples, -1, x.shape[1])[..., j], x[known, j]
        with program.evaluating(own):
            equal = (draws == value).sum(0)
            place = (draws < value).sum(0) + torch.rand(equal.shape, device=x.device) * (equal + 1)
        ranks = place.long().clamp(max=num_samples).cpu().numpy()
        p_values[column] = float(UniformRanks(len(ranks), num_samples).p_values(ranks[:, None])[0])
        places[known.cpu(), column] = place.double().cpu() / (num_samples + 1)
    if few:
        told, mend = f"the effective sample size is below {FEW:g}", f"num_particles={10 * num_particles}"
        if hmc:
            told, mend = "fewer than half of HMC's proposals were accepted", f"hmc={2 * hmc}"
        warnings.warn(
            f"{told} of some rows, so that draws of {', '.join(few)} are of few latents; take more: "
            f"pv.evaluate.intervals(..., {mend})",
            DataWarning,
            stacklevel=3,
        )
    p_value = min(1.0, len(modelled) * p_values.min().item())
    return Intervals(tuple(names[j] for j in modelled), places, p_values, p_value, num_samples)
