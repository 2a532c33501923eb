"""How likely each column of a table is: alone, and given all others."""

from __future__ import annotations

import functools
import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pyro
import torch
from pyro import poutine
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae.checks import Count, Seed, checked
from pyro_vae.data import DataError, Split
from pyro_vae.evaluate.door import Data, as_split, check
from pyro_vae.evaluate.likelihood import (
    LogLikelihood,
    chunks,
    log_likelihood,
    over_batches,
)
from pyro_vae.evaluate.pareto import Weights
from pyro_vae.evaluate.shown import standard_error
from pyro_vae.families import COUNTING, LEBESGUE, ByColumn
from pyro_vae.objectives import importance_weighted_bound
from pyro_vae.objectives.importance import defensive
from pyro_vae.program import Batch, Program
from pyro_vae.seen import observing


@dataclass(frozen=True, repr=False)
class ColumnLikelihoods:
    """Estimates of log p(x_j) and log p(x_j | all others that are observed), in nats, by column.

    Printed, or in a notebook, it is a table. A datum counts where its value of the column is observed.

    Attributes:
        names: of the columns.
        measures: of each, what its densities are densities of.
        per_datum: log p(x_j | rest), ``[N, D]``, NaN where x_j is not observed.
        alone_per_datum: log p(x_j), likewise.
        effective_sample_size: of the weights of each conditional, ``[N, D]``, from 1 to ``num_samples``.
        by_measure: log p of the columns of each measure together.
        total: log p(x) of all columns.
        num_samples: K, importance samples per datum and column.
    """

    names: tuple[str, ...]
    measures: tuple[str, ...]
    per_datum: Tensor = field(repr=False)
    alone_per_datum: Tensor = field(repr=False)
    effective_sample_size: Tensor = field(repr=False)
    by_measure: dict[str, LogLikelihood]
    total: LogLikelihood
    num_samples: int

    @property
    def given_rest(self) -> dict[str, float]:
        """Mean of log p(x_j | rest), by column."""
        return {name: v.mean().item() for name, v in self._known(self.per_datum)}

    @property
    def alone(self) -> dict[str, float]:
        """Mean of log p(x_j), by column."""
        return {name: v.mean().item() for name, v in self._known(self.alone_per_datum)}

    @property
    def standard_error(self) -> dict[str, float]:
        """Of ``given_rest``, over the data."""
        return {name: standard_error(v) for name, v in self._known(self.per_datum)}

    def frame(self) -> Any:
        """As a DataFrame of pandas: a row for each column of the table."""
        import pandas

        header, *rows = self._rows()
        frame = pandas.DataFrame([row[1:] for row in rows], columns=header[1:], index=list(self.names))
        return frame.rename_axis("column")

    def _known(self, per_datum: Tensor) -> Iterator[tuple[str, Tensor]]:
        for name, values in zip(self.names, per_datum.unbind(1), strict=True):
            yield name, values[~values.isnan()]

    def _rows(self) -> list[list[Any]]:
        rows: list[list[Any]] = [
            [
                "",
                "log p(x_j)",
                "± alone",
                "log p(x_j | rest)",
                "± given rest",
                "observed",
                "effective",
                "measure",
            ]
        ]
        for (name, alone), (_, rest), (_, effective), measure in zip(
            self._known(self.alone_per_datum),
            self._known(self.per_datum),
            self._known(self.effective_sample_size),
            self.measures,
            strict=True,
        ):
            moments = [alone.mean().item(), standard_error(alone), rest.mean().item(), standard_error(rest)]
            rows.append([name, *moments, len(rest), effective.mean().item(), measure.split(" measure")[0]])
        return rows

    def _table(self) -> list[list[str]]:
        """As text, each mean beside its standard error."""
        header, *rows = self._rows()
        told = [
            [
                row[0],
                *(f"{row[i]:.3f} ± {row[i + 1]:.3f}" for i in (1, 3)),
                f"{row[5]}",
                f"{row[6]:.0f}",
                row[7],
            ]
            for row in rows
        ]
        return [[header[i] for i in (0, 1, 3, 5, 6, 7)], *told]

    def _notes(self) -> list[str]:
        sums = self.by_measure if len(self.by_measure) > 1 else {}
        return [
            *(f"columns by {m}: {v.log_likelihood:.2f} ± {v.standard_error:.2f}" for m, v in sums.items()),
            f"all columns: {self.total.log_likelihood:.2f} ± {self.total.standard_error:.2f}, w.r.t. "
            f"{self.total.measure}",
            f"nats per datum, K = {self.num_samples}; effective: sample size of the weights, of K",
        ]

    def __str__(self) -> str:
        table = self._table()
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]) for name, *cells in table
        ]
        return "\n".join([*lines, *self._notes()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        header, *rows = [[html.escape(cell) for cell in row] for row in self._table()]
        body = "".join(f"<tr><th>{name}</th><td>{'</td><td>'.join(cells)}</td></tr>" for name, *cells in rows)
        notes = "<br>".join(self._notes())
        return f"<table><tr><th>{'</th><th>'.join(header)}</th></tr>{body}</table><p>{notes}</p>"


@checked
def columns(
    program: Program,
    data: Data,
    *,
    columns: Sequence[str] | None = None,
    num_samples: Count = 1000,
    max_rows: Count = 2000,
    seed: Seed = 0,
    progress: bool = False,
) -> ColumnLikelihoods:
    r"""Estimates how likely each column is, alone and given the others: what totals of a table hide.

    .. math:: \log p(x_j) \approx \log \frac1K \sum_k p(x_j \mid z_k), \quad z_k \sim p(z)

    .. math:: \log p(x_j \mid x_{-j}) \approx \log \sum_k w_k \, p(x_j \mid z_k) - \log \sum_k w_k, \quad
        z_k \sim r = \tfrac12 q(z \mid x_{-j}) + \tfrac12 p(z), \quad w_k = \frac{p(x_{-j}, z_k)}{r(z_k)}

    with :math:`x_{-j}` what else is observed of a datum. Unlike the log-density of all columns, each is one
    on a single measure, so that they compare between models whatever the other columns' families are.

    Args:
        program: the model, whose columns are independent given its latents.
        data: a split such as ``data.test``, a DataFrame, a batch, or a tensor ``[N, D]``.
        columns: by name (of a tensor's by number, ``"0"``); by default all that the program models.
        num_samples: K; N D K data are decoded.
        max_rows: data times samples decoded at once.
        seed: of the draws.
        progress: whether to show a bar.

    Raises:
        DataError: the data lie outside the likelihood's support, or there is no such column.
        ValueError: the values are no rows of columns that are independent given the latents.

    Reference: Owen and Zhou, 2000, "Safe and effective importance sampling".

    >>> import pyro_vae as pv
    >>> vae = pv.VAE((3,), latent_dim=2, likelihood=pv.likelihoods.Normal())
    >>> pv.evaluate.columns(vae, torch.randn(50, 3), num_samples=10).per_datum.shape
    torch.Size([50, 3])
    """
    split = as_split(data, program)
    check(program, split)
    measures = _measures(program, split)
    names = list(program.columns or split.columns or map(str, range(len(measures))))
    modelled = [name for name, measure in zip(names, measures, strict=True) if measure is not None]
    chosen = modelled if columns is None else list(columns)
    for name in chosen:
        if name not in modelled:
            what = "is given to it" if name in names else "is not there"
            raise DataError(
                f"columns={name!r} {what}: the columns that this {type(program).__name__} models are "
                f"{', '.join(modelled[:20])}"
            )
    index = torch.tensor([names.index(name) for name in chosen])
    known = torch.cat([~batch["x"].isnan().cpu() for batch in split.batches(1000)])
    sizes = chunks(num_samples, max_rows)
    rows = max(1, max_rows // sizes[0])

    def alone(batch: Batch) -> Tensor:
        log_p = [_by_column(program, _drawn(program, batch, n))[..., index] for n in sizes]
        return importance_weighted_bound(torch.cat(log_p)).mT

    alone_per_datum = over_batches(program, split, alone, rows, seed, "log p(x_j)", progress).mT.double()
    given_rest, effective = _given_rest(program, split, known[:, index], index, sizes, rows, seed, progress)
    total = log_likelihood(program, split, num_samples=num_samples, max_rows=max_rows, seed=seed)
    kinds = dict.fromkeys(measure for measure in measures if measure is not None)
    by_measure = dict.fromkeys(kinds, total)
    for measure in kinds if len(kinds) > 1 else ():
        others = torch.tensor([own != measure and own is not None for own in measures])
        bound = functools.partial(_without, program, split.gaps | {"x"}, others.to(program.device), sizes)
        log_p, size, k = over_batches(program, split, bound, rows, seed, f"log p, {measure}", progress)
        own = log_p.mean().item(), standard_error(log_p), log_p, num_samples, measure
        by_measure[measure] = LogLikelihood(*own, effective_sample_size=size, pareto_k=k)
    return ColumnLikelihoods(
        tuple(chosen),
        tuple(cast(str, measures[j]) for j in index.tolist()),
        given_rest,
        alone_per_datum.masked_fill(~known[:, index], torch.nan),
        effective,
        by_measure,
        total,
        num_samples,
    )


def _without(
    program: Program, gaps: frozenset[str], others: Tensor, sizes: list[int], batch: Batch
) -> Tensor:
    """log p of what is observed but for some columns, effective sample size and k-hat, ``[3, B]``."""
    rest = batch | {"x": batch["x"].masked_fill(others, torch.nan)}
    with observing(gaps):
        stream = Weights(sum(sizes))
        for log_w in (own for n in sizes for _, own in defensive(program, rest, rest, n)):
            stream.add(log_w)
    return torch.stack([stream.log_mean, stream.effective_sample_size, stream.pareto_k])


def _given_rest(
    program: Program,
    split: Split,
    known: Tensor,
    index: Tensor,
    sizes: list[int],
    rows: int,
    seed: int,
    progress: bool,
) -> tuple[Tensor, Tensor]:
    """log p(x_j | rest) and the effective sample size of its weights, ``[N, D]``, many cells at once."""
    found = torch.full((2, *known.shape), torch.nan, dtype=torch.float64)
    cells = known.nonzero()
    with (
        program.evaluating(seed),
        observing(split.gaps | {"x"}),
        tqdm(total=len(cells), desc="log p(x_j | rest)", disable=not progress, leave=False) as bar,
    ):
        for at in cells.split(rows):
            datum, column = at.unbind(1)
            batch = program.place(split.batch(datum, dtype=program.dtype))
            j = index[column].to(program.device)[:, None]
            hidden = batch | {"x": batch["x"].scatter(1, j, torch.nan)}
            log_w, log_p = [], []
            for model, log_ratio in (pair for n in sizes for pair in defensive(program, batch, hidden, n)):
                own = _by_column(program, model)
                log_p.append(own.gather(-1, j.expand(len(own), -1, 1))[..., 0])
                log_w.append(log_ratio - log_p[-1])
            w, p = torch.cat(log_w).double(), torch.cat(log_p).double()
            found[0, datum, column] = ((w + p).logsumexp(0) - w.logsumexp(0)).cpu()
            found[1, datum, column] = (2 * w.logsumexp(0) - (2 * w).logsumexp(0)).exp().cpu()
            bar.update(len(at))
    return found[0], found[1]


def _drawn(program: Program, batch: Batch, number: int) -> poutine.Trace:
    """The trace of the model, whose latents are its own draws."""
    with pyro.plate("particles", number, dim=-1 - program.max_plate_nesting):
        return poutine.trace(program.model).get_trace(batch)


def _by_column(program: Program, model: poutine.Trace) -> Tensor:
    """log p(x_j | z) of each column, ``[K, B, D]``, 0 where it is not observed.

    Raises:
        ValueError: there are no columns that are independent given z.
    """
    if "x_unobserved" in model.nodes:
        raise ValueError(
            f"whether a column is observed depends on its value in a {type(program).__name__}, which "
            "log p(x_j | rest) would have to say, too; pv.evaluate.log_likelihood has log p(x, s)"
        )
    site: Any = model.nodes.get("x", {"fn": None, "value": None})
    fn, value = site["fn"], site["value"]
    if isinstance(fn, torch.distributions.Independent) and fn.event_shape == fn.base_dist.batch_shape[-1:]:
        log_p = fn.base_dist.log_prob(value)
    elif hasattr(fn, "by_column"):
        log_p = fn.by_column(value)
    else:
        raise ValueError(
            "pv.evaluate.columns is for rows x of columns that are independent given the latents, and x of "
            f"the {type(program).__name__} is of {type(fn).__name__} {list(getattr(fn, 'event_shape', []))}; "
            "likelihood=dist.StudentT has them, for example; for all else pv.evaluate.log_likelihood"
        )
    return cast(Tensor, log_p).reshape(-1, *log_p.shape[-2:])


def _measures(program: Program, split: Split) -> list[str | None]:
    """What densities of each column are densities of; None of one that is given to the model."""
    with program.evaluating(), observing(split.gaps):
        model = _drawn(program, program.place(split.batch(slice(0, 1))), 1)
    number = _by_column(program, model).shape[-1]
    family = next((c.family for c in program.conditionals() if c.site == "x"), None)
    if isinstance(family, ByColumn):
        own = [family.family_of(j) for j in range(number)]
        return [None if f is None else f.measure for f in own]
    discrete = cast(Any, model.nodes["x"]["fn"]).support.is_discrete
    return [family.measure if family else COUNTING if discrete else LEBESGUE] * number
