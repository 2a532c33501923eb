"""The same model under several priors, likelihoods, guides and objectives, side by side."""

from __future__ import annotations

import csv
import hashlib
import html
import inspect
import io
import itertools
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from pyro.infer import ELBO
from torch.distributions import Distribution

from pyro_vae import checkpoint, evaluate, figures, registry
from pyro_vae.checks import ConfigError, Count, check, found
from pyro_vae.data import Data
from pyro_vae.distributed import joined
from pyro_vae.families import COUNTING, LEBESGUE, Auto, ByColumn, Family, Of
from pyro_vae.likelihoods import ByName, Likelihood, as_likelihood
from pyro_vae.models import VAE
from pyro_vae.models.parts import as_rows
from pyro_vae.objectives import purpose
from pyro_vae.program import Program
from pyro_vae.running import seed_generators
from pyro_vae.training import Interrupted, Settings, fit

MENDS = (
    "make them comparable: with pv.data.load(..., levels=True) and pv.likelihoods.DiscretizedLogistic(), "
    "DiscretizedNormal(), DiscretizedLogisticMixture() or Categorical(), all are probabilities of grey "
    "levels; a density p of values dequantised on [0, 1], (level + noise) / 256, bounds the "
    "probability of the levels by log P >= E[log p] - P log 256 for P pixels; and a density of y = a x "
    "is one of x after adding P log |a|"
)
WHOLE = (
    "make them comparable, give whole numbers families of whole numbers, dist.GammaPoisson or "
    "pv.likelihoods.RoundedLogistic(), and all others families of real ones, dist.LogNormal or dist.StudentT"
)


@dataclass(frozen=True)
class Row:
    """One variant of a comparison.

    Attributes:
        name: of the parts that differ.
        elbo: on the held-out data, nats per datum.
        log_likelihood: importance-weighted, nats per datum.
        standard_error: of ``log_likelihood``.
        difference: mean over the data of log p(x) less that of the first variant.
        difference_standard_error: of that mean, from the paired differences.
        bits_per_dim: for grey levels, else None.
        by_column: of a table, for each column whose likelihood differs: mean of log p(x_j | rest), that less
            the first variant's, and the standard error of the difference, from the paired ones.
        active_units: latents that vary with x, by site.
        num_parameters: learned numbers.
        seconds: of training.
        purpose: of the objective, where these differ.
    """

    name: str
    elbo: float
    log_likelihood: float
    standard_error: float
    difference: float
    difference_standard_error: float
    bits_per_dim: float | None
    active_units: dict[str, int]
    num_parameters: int
    seconds: float
    by_column: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    purpose: str = ""


@dataclass(frozen=True, repr=False)
class Comparison:
    """What ``compare`` returns; printed, or in a notebook, it is a table.

    Attributes:
        rows: one per variant, in the order given; the first is the one that others are compared with.
        programs: the trained models, by name.
        folder: where the runs, comparison.csv and comparison.png are.
        num_samples: K of the log-likelihoods.
        measure: what all densities are densities of.
        split: which data were evaluated on.
    """

    rows: list[Row]
    programs: dict[str, Program]
    folder: Path
    num_samples: int
    measure: str
    split: str

    def __repr__(self) -> str:
        table = self._table()
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = []
        for name, *cells in table:
            padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
            lines.append("  ".join([name.ljust(widths[0]), *padded]))
        told = [f"{name}: {purpose}" for name, purpose in self._purposes().items()]
        return "\n".join([*lines, self._note(), *told])

    def _repr_html_(self) -> str:
        header, *rows = [[html.escape(cell) for cell in row] for row in self._table()]
        body = "".join(f"<tr><th>{name}</th><td>{'</td><td>'.join(cells)}</td></tr>" for name, *cells in rows)
        told = "".join(f"<li>{html.escape(f'{name}: {p}')}</li>" for name, p in self._purposes().items())
        listed = f"<ul>{told}</ul>" if told else ""
        return (
            f"<table><tr><th>{'</th><th>'.join(header)}</th></tr>{body}</table><p>{self._note()}</p>{listed}"
        )

    def _purposes(self) -> dict[str, str]:
        """What each objective is for, by the variant's name."""
        return {row.name: row.purpose for row in self.rows if row.purpose}

    def _table(self) -> list[list[str]]:
        bits = ["bits/dim"] * (self.rows[0].bits_per_dim is not None)
        columns = [f"{name} | rest" for name in self.rows[0].by_column]
        header = ["", "ELBO", f"log p(x), K={self.num_samples}", *bits, "less the first", *columns]
        table = [[*header, "active", "parameters", "s"]]
        for i, row in enumerate(self.rows):
            difference = f"{row.difference:+.2f} ± {row.difference_standard_error:.2f}" if i else ""
            units = ", ".join(f"{site} {active}" for site, active in row.active_units.items())
            levels = f" ({units})" if len(row.active_units) > 1 else ""
            table.append(
                [row.name, f"{row.elbo:.2f}", f"{row.log_likelihood:.2f} ± {row.standard_error:.2f}"]
                + [f"{row.bits_per_dim:.3f}" for _ in bits]
                + [difference]
                + [
                    f"{less:+.3f} ± {error:.3f}" if i else f"{mean:.3f}"
                    for mean, less, error in row.by_column.values()
                ]
                + [f"{sum(row.active_units.values())}{levels}"]
                + [f"{row.num_parameters:,}", f"{row.seconds:.0f}"]
            )
        return table

    def _note(self) -> str:
        return f"nats per datum of the {self.split} data, w.r.t. {self.measure}; differences are paired"


def compare(
    data: Data,
    *,
    priors: Iterable[Family | Distribution | str] = (),
    likelihoods: Iterable[Likelihood | ByName | str] = (),
    guides: Iterable[Family | Of | type[Distribution] | str] = (),
    objectives: Iterable[ELBO | str] = (),
    model: type[Program] = VAE,
    num_samples: int = 100,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool = True,
    **arguments: Any,
) -> Comparison:
    """Trains the same model under several priors, likelihoods, guides or objectives, and tells which fits.

    With more than one list, every combination is trained. All have the same seed, order of the data and
    evaluation noise. Called again with the same folder, it goes on where it was stopped.

    Args:
        data: as made by ``pv.data.load``.
        priors: to compare, objects or their texts (``"VampPrior(500)"``); none means that of ``arguments``.
        likelihoods: likewise; all on the same measure. Of a table also by column, all other columns being as
            they are by default: ``[{"visits": dist.Poisson}, {"visits": dist.GammaPoisson}]``.
        guides: likewise.
        objectives: likewise, losses of ``pv.fit``: ``["Trace_ELBO", "IWAE(5)", pv.objectives.DReG(5)]``.
            Whatever was minimised, the same is measured; and the table tells what each objective is for.
        model: the class: ``pv.VAE``, ``pv.ConditionalVAE``, ...
        num_samples: importance samples per datum of the log-likelihood.
        seed: of all.
        folder: of the runs and results; by default a new one under runs/.
        progress: whether to show progress.
        arguments: further arguments of the model and settings of ``pv.fit``, the same for all.

    Raises:
        ValueError: fewer than two variants, or densities on different measures.
        ConfigError: there is no such argument, or its value will not do.
        DataError: the data lie outside a likelihood's support.
    """
    if not isinstance(data, Data):
        raise TypeError(
            f"compare takes a data set, not a {type(data).__name__}; pv.compare(pv.data.load(x), ...)"
        )
    lists: dict[str, Any] = {"prior": priors, "likelihood": likelihoods, "guide": guides, "loss": objectives}
    for kind, parts in lists.items():
        if not isinstance(parts, Iterable):
            name = "objectives" if kind == "loss" else f"{kind}s"
            raise TypeError(f"{name}={found(parts)} must be a list of what is compared: {name}=[..., ...]")
    lists = {kind: [parts] if isinstance(parts, str) else parts for kind, parts in lists.items()}
    varied = {kind: [_part(kind, part) for part in parts] for kind, parts in lists.items()}
    varied = {kind: parts for kind, parts in varied.items() if parts}
    variants = [dict(zip(varied, parts, strict=True)) for parts in itertools.product(*varied.values())]
    names = [", ".join(map(_name, variant.values())) for variant in variants]
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise ValueError(
            f"compare takes two or more different variants, but was given {names}; for example "
            "pv.compare(data, likelihoods=[pv.likelihoods.Normal(), dist.Laplace])"
        )
    differ = _differing(data, varied.get("likelihood", []), arguments.get("given", ()))
    takes, options = inspect.signature(model).parameters, Settings.documentation()
    for name in [*arguments, *varied]:
        if name not in {*takes, *options} - {"event_shape"}:
            near = registry.nearest(name, {*takes, *options, *inspect.signature(compare).parameters})
            raise ConfigError(f"neither {model.__name__} nor fit takes {name!r}; {near}")
    shape = {"event_shape": data.columns or data.event_shape} if "event_shape" in takes else {}
    own = shape | {name: _part(name, value) for name, value in arguments.items() if name in takes}
    settings = {name: value for name, value in arguments.items() if name not in takes} | {"seed": seed}
    for loss in varied.get("loss", [Settings().loss]):  # all, before the first is trained
        minutes = Settings.from_plain({"loss": loss} | settings, trust="*").max_minutes
    end = None if minutes is None else time.monotonic() + 60 * minutes
    check("num_samples", num_samples, Count)
    programs: dict[str, Program] = {}
    for name, variant in zip(names, variants, strict=True):  # all, before the first is trained
        with torch.random.fork_rng([]):
            seed_generators(seed, torch.device("cpu"))
            programs[name] = model(**(own | {kind: p for kind, p in variant.items() if kind != "loss"}))
        for part in (data.train, data.validation, data.test):
            if len(part):
                evaluate.check(programs[name], part)
    with joined() as group:  # of which each trains its share, all evaluate, and the first writes
        folder = group.first(lambda: Path(folder or checkpoint.new_folder(f"compare-{data.name}")))
    split, part = data.held_out
    rows: list[Row] = []
    reference, first = None, None
    for (name, program), variant in zip(programs.items(), variants, strict=True):
        own_folder = folder / _slug(name)
        objective = {kind: part for kind, part in variant.items() if kind == "loss"}
        if progress and not group.rank:
            print(f"\n{name}", flush=True)
        if end is not None:  # of all variants together
            settings["max_minutes"] = max((end - time.monotonic()) / 60, 1e-9)
        try:
            chosen = settings | objective
            run = fit(program, data, folder=own_folder, resume="auto", progress=progress, **chosen)
        except checkpoint.CheckpointError as error:
            told = str(error).split(";")[0]
            raise checkpoint.CheckpointError(
                f"{told}: give the arguments with which the comparison in {folder} began, or another folder"
            ) from error
        except Interrupted as error:
            told = str(error).split(". Go on")[0]
            message = f"{name}: {told}. Call compare again as before, with the folder {folder}, to go on"
            raise Interrupted(message, error.signum) from None
        estimate = evaluate.log_likelihood(program, part, num_samples=num_samples)
        reference = estimate.per_datum if reference is None else reference
        paired = estimate.per_datum - reference
        by_column = {}
        if differ:
            columns = evaluate.columns(program, part, columns=differ, num_samples=num_samples)
            first = columns.per_datum if first is None else first
            for column, own, other in zip(differ, columns.per_datum.T, first.T, strict=True):
                less = (own - other)[~own.isnan()]
                spread = (less.std() / math.sqrt(len(less))).item()
                by_column[column] = columns.given_rest[column], less.mean().item(), spread
        rows.append(
            Row(
                name,
                evaluate.elbo(program, part).elbo,
                estimate.log_likelihood,
                estimate.standard_error,
                paired.mean().item(),
                (paired.std() / math.sqrt(len(paired))).item(),
                estimate.bits_per_dim,
                evaluate.active_units(program, part),
                sum(p.numel() for p in program.parameters()),
                sum(row["seconds"] for row in run.history),
                by_column,
                *map(purpose, objective.values()),
            )
        )
    result = Comparison(rows, programs, folder, num_samples, estimate.measure, split)
    if group.rank:
        return result
    _write(result)
    picture = io.BytesIO()
    figures.comparison(programs, part.batch(slice(0, 10))).savefig(picture, format="png", dpi=120)
    checkpoint.write(folder / "comparison.png", picture.getvalue())
    return result


def _differing(data: Data, likelihoods: Sequence[Any], given: Any) -> list[str]:
    """Columns of a table whose likelihoods are compared.

    Raises:
        ValueError: some are on different measures.
    """
    families = [as_likelihood(likelihood) for likelihood in likelihoods]
    if data.columns is not None:
        names = () if isinstance(given, Mapping) else tuple(given)
        families = [as_rows(data.columns, family, names)[2] for family in families]
    if data.columns is None or not all(isinstance(family, ByColumn) for family in families):
        check_measures(families)
        return []
    differ = []
    for number, name in enumerate(data.columns):
        own = [part for f in families if (part := cast(ByColumn, f).family_of(number))]
        check_measures(own, f"column {name}: ", WHOLE)
        if len(set(map(repr, own))) > 1:
            differ.append(name)
    return differ


def check_measures(likelihoods: Sequence[Family], where: str = "", mends: str = MENDS) -> None:
    """Refuses to compare densities on different measures.

    Raises:
        ValueError: naming the measures, and how to make them comparable.
    """
    measures = {repr(likelihood): likelihood.measure for likelihood in likelihoods}
    normalised = set(measures.values()) <= {LEBESGUE, COUNTING}
    if len(measures) > 1 and (len(set(measures.values())) > 1 or not normalised):
        told = "; ".join(f"{name}: {measure}" for name, measure in measures.items())
        raise ValueError(f"{where}densities on different measures are not compared ({told}). To {mends}")


def _part(kind: str, part: Any) -> Any:
    """A part, or what its text means."""
    if isinstance(part, Mapping) and kind == "likelihood":
        return {column: _part(kind, own) for column, own in part.items()}
    text = isinstance(part, str) and kind in (*registry.PARTS, "loss")
    return registry.read(kind, part, trust="*") if text else part


def _name(part: Any) -> str:
    """What a part is called in the table: of likelihoods by column, those that are named."""
    by_name = part.families if isinstance(part, Auto) else part
    if isinstance(by_name, Mapping):
        return ", ".join(f"{column}: {_name(own)}" for column, own in by_name.items()) or "auto"
    text = registry.write(part)
    if isinstance(part, ELBO) and part.num_particles > 1 and "num_particles" not in text:
        # As many as by default, too: what an objective costs and means hangs on them.
        called, others = text[:-1].split("(", 1)
        text = f"{called}({', '.join(filter(None, [f'num_particles={part.num_particles}', others]))})"
    return text


def _slug(name: str) -> str:
    """A folder's name, short enough for any file system, and different for different names."""
    slug = re.sub(r"[^\w.=-]+", "_", name).strip("_")
    return slug if len(slug) <= 80 else f"{slug[:70]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _write(result: Comparison) -> None:
    flat = []
    for row in result.rows:
        units = row.active_units
        levels = {f"active_units_{site}": active for site, active in units.items()} if len(units) > 1 else {}
        columns = {
            f"{what}_{column}": value
            for column, values in row.by_column.items()
            for what, value in zip(("log_p", "difference", "standard_error"), values, strict=True)
        }
        own = {name: value for name, value in vars(row).items() if name not in ("by_column", "purpose")}
        flat.append(own | {"active_units": sum(units.values())} | levels | columns)
    text = io.StringIO()
    writer = csv.DictWriter(text, flat[0])
    writer.writeheader()
    writer.writerows(flat)
    checkpoint.write(result.folder / "comparison.csv", text.getvalue().encode())
