"""The same VAE under several priors, likelihoods and guides, side by side."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch.distributions import Distribution

from pyro_vae import checkpoint, config, evaluate, figures
from pyro_vae.data import Data
from pyro_vae.guides import Guide
from pyro_vae.likelihoods import LEBESGUE, Likelihood, as_likelihood
from pyro_vae.priors import Prior
from pyro_vae.training import check_seed, fit
from pyro_vae.vae import VAE, seed_generators

MENDS = (
    "make them comparable: with pv.data.load(..., levels=True) and pv.likelihoods.DiscretizedLogistic(), "
    "DiscretizedNormal(), DiscretizedLogisticMixture() or Categorical(), all are probabilities of grey "
    "levels; a density p of values dequantised on [0, 1], (level + noise) / 256, bounds the "
    "probability of the levels by log P >= E[log p] - P log 256 for P pixels; and a density of y = a x "
    "is one of x after adding P log |a|"
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
        active_units: latents that vary with x.
        num_parameters: learned numbers.
        seconds: of training.
    """

    name: str
    elbo: float
    log_likelihood: float
    standard_error: float
    difference: float
    difference_standard_error: float
    bits_per_dim: float | None
    active_units: int
    num_parameters: int
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` returns; printed, it is a table.

    Attributes:
        rows: one per variant, in the order given; the first is the one that others are compared with.
        vaes: the trained models, by name.
        folder: where the runs, comparison.csv and comparison.png are.
        num_samples: K of the log-likelihoods.
        measure: what all densities are densities of.
        split: which data were evaluated on.
    """

    rows: list[Row]
    vaes: dict[str, VAE]
    folder: Path
    num_samples: int
    measure: str
    split: str

    def __str__(self) -> str:
        has_bits = self.rows[0].bits_per_dim is not None
        bits = ["bits/dim"] * has_bits
        header = ["", "ELBO", f"log p(x), K={self.num_samples}", *bits, "less the first"]
        table = [[*header, "active", "parameters", "s"]]
        for i, row in enumerate(self.rows):
            difference = f"{row.difference:+.2f} ± {row.difference_standard_error:.2f}" if i else ""
            table.append(
                [row.name, f"{row.elbo:.2f}", f"{row.log_likelihood:.2f} ± {row.standard_error:.2f}"]
                + [f"{row.bits_per_dim:.3f}" for _ in bits]
                + [difference, str(row.active_units), f"{row.num_parameters:,}", f"{row.seconds:.0f}"]
            )
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = []
        for name, *cells in table:
            padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
            lines.append("  ".join([name.ljust(widths[0]), *padded]))
        note = f"nats per datum of the {self.split} data, w.r.t. {self.measure}; differences are paired"
        return "\n".join([*lines, note])


def compare(
    data: Data,
    *,
    priors: Iterable[Prior | Distribution] = (),
    likelihoods: Iterable[Likelihood | type[Distribution]] = (),
    guides: Iterable[Guide | type[Distribution]] = (),
    num_samples: int = 100,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool = True,
    **arguments: Any,
) -> Comparison:
    """Trains the same VAE under several priors, likelihoods or guides, and tells which fits.

    With more than one list, every combination is trained. All have the same seed, order of the data and
    evaluation noise. Called again with the same folder, it goes on where it was stopped.

    Args:
        data: as made by ``pv.data.load``.
        priors: to compare; none means that of ``arguments``.
        likelihoods: likewise; all on the same measure.
        guides: likewise.
        num_samples: importance samples per datum of the log-likelihood.
        seed: of all.
        folder: of the runs and results; by default a new one under runs/.
        progress: whether to show progress.
        arguments: further arguments of ``pv.VAE`` and ``pv.fit``, the same for all.

    Raises:
        ValueError: fewer than two variants, or densities on different measures.
        DataError: the data lie outside a likelihood's support.
    """
    check_seed(seed)
    lists: dict[str, list[Any]] = {
        "prior": list(priors),
        "likelihood": list(likelihoods),
        "guide": list(guides),
    }
    varied = {kind: parts for kind, parts in lists.items() if parts}
    variants = [dict(zip(varied, parts, strict=True)) for parts in itertools.product(*varied.values())]
    names = [", ".join(_name(part) for part in variant.values()) for variant in variants]
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise ValueError(
            f"compare takes two or more different variants, but was given {names}; for example "
            "pv.compare(data, likelihoods=[pv.likelihoods.Normal(), dist.Laplace])"
        )
    check_measures([as_likelihood(likelihood) for likelihood in varied.get("likelihood", [])])
    own = {name: value for name, value in arguments.items() if name in VAE.__init__.__annotations__}
    rest = {name: value for name, value in arguments.items() if name not in own}
    vaes: dict[str, VAE] = {}
    for name, variant in zip(names, variants, strict=True):  # all, before the first is trained
        with torch.random.fork_rng([]):
            seed_generators(seed, torch.device("cpu"))
            vaes[name] = VAE(data.event_shape, **(own | variant))
        for part in (data.train, data.validation, data.test):
            if len(part):
                evaluate.check_support(vaes[name], part)
    if folder is None:
        folder = Path("runs") / f"compare-{data.name}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = Path(folder)
    split, part = data.held_out
    rows: list[Row] = []
    reference = None
    for name, vae in vaes.items():
        own_folder = folder / _slug(name)
        going_on = (own_folder / checkpoint.CONFIG).exists()
        if progress:
            print(f"\n{name}", flush=True)
        try:
            run = fit(vae, data, folder=own_folder, resume=going_on, seed=seed, progress=progress, **rest)
        except checkpoint.CheckpointError as error:
            told = str(error).split(";")[0]
            raise checkpoint.CheckpointError(
                f"{told}: give the arguments with which the comparison in {folder} began, or another folder"
            ) from error
        estimate = evaluate.log_likelihood(vae, part, num_samples=num_samples)
        reference = estimate.per_datum if reference is None else reference
        paired = estimate.per_datum - reference
        rows.append(
            Row(
                name,
                evaluate.elbo(vae, part).elbo,
                estimate.log_likelihood,
                estimate.standard_error,
                paired.mean().item(),
                (paired.std() / math.sqrt(len(paired))).item(),
                estimate.bits_per_dim,
                evaluate.active_units(vae, part),
                sum(p.numel() for p in vae.parameters()),
                sum(row["seconds"] for row in run.history),
            )
        )
    measure = next(iter(vaes.values())).p_x.measure
    result = Comparison(rows, vaes, folder, num_samples, measure, split)
    _write(result, figures.comparison(vaes, part[:10]))
    return result


def check_measures(likelihoods: Sequence[Likelihood]) -> None:
    """Refuses to compare densities on different measures.

    Raises:
        ValueError: naming the measures, and how to make them comparable.
    """
    measures = {repr(likelihood): likelihood.measure for likelihood in likelihoods}
    normalised = all(measure == LEBESGUE or measure.startswith("counting") for measure in measures.values())
    if len(measures) > 1 and (len(set(measures.values())) > 1 or not normalised):
        told = "; ".join(f"{name}: {measure}" for name, measure in measures.items())
        raise ValueError(f"densities on different measures are not compared ({told}). To {MENDS}")


def _slug(name: str) -> str:
    """A folder's name, short enough for any file system, and different for different names."""
    slug = re.sub(r"[^\w.=-]+", "_", name).strip("_")
    return slug if len(slug) <= 80 else f"{slug[:70]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _name(part: Any) -> str:
    if isinstance(part, type):
        return part.__name__
    if isinstance(part, Distribution):
        described = config.describe(part)
        if isinstance(described, dict):
            values = ", ".join(f"{name}={value}" for name, value in described["init_args"].items())
            return f"{type(part).__name__}({values})"
    return repr(part)


def _write(result: Comparison, figure: Figure) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, Row.__dataclass_fields__)
    writer.writeheader()
    writer.writerows(vars(row) for row in result.rows)
    checkpoint.write(result.folder / "comparison.csv", text.getvalue().encode())
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    checkpoint.write(result.folder / "comparison.png", picture.getvalue())
