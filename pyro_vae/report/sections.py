"""What a report asks of a run, a section a question."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae import checkpoint, evaluate, figures
from pyro_vae.data import Split
from pyro_vae.evaluate.calibration import DISTANCE, JOINT, told
from pyro_vae.evaluate.shown import standard_error
from pyro_vae.evaluate.simulated import drawn_sites
from pyro_vae.explore import frozen
from pyro_vae.figures.drawing import CURVES, curve, on
from pyro_vae.program import Batch, DataWarning, Program
from pyro_vae.report import pictures, verdicts
from pyro_vae.training import Run

CERTIFIED, DIVIDED, SIMULATED, WORST = 50, 50, 500, 12
"""Data of the sandwich, data whose gap is divided, simulations of the calibration, and data in a picture."""
ODD = 200
"""Importance samples by which the oddest column of a row is found."""
TEMPERATURES, CHAINS, STEPS = 100, 4, 500
"""Of the sandwich, and of the search for the best member of the guide's family."""


class Of(str):
    """Which data a section is of, and how many."""


class Folded(str):
    """A text that is seen when it is asked for."""


class Page(str):
    """A page of HTML within the page."""


class Subject:
    """A run that is reported on, and what was found of it.

    Attributes:
        part: of the data, which are held out, if any were.
        split: they.
        which: what they are to the training, "held-out" or "training" data.
        data: those of them that are looked at.
        found: results of evaluators, by name, for verdicts and the sections that come after.
        summary: figures for the first table by name, with the data that they are of.
    """

    def __init__(self, run: Run, name: str, num_data: int, num_samples: int, seed: int):
        self.run, self.name, self.num_samples, self.seed = run, name, num_samples, seed
        self.program: Program = run.program
        self.part, self.split = run.data.held_out
        self.which = "training" if self.part == "train" else "held-out"
        self.data = self.first(num_data)
        self.found: dict[str, Any] = {}
        self.summary: dict[str, tuple[str, str]] = {}

    def first(self, number: int) -> Split:
        """The first so many of the held-out data."""
        split = self.split
        rows = split.batch(slice(0, number))
        return Split(rows, class_names=split.class_names, columns=split.columns)

    def of(self, data: Split) -> Of:
        """How many of which data these are."""
        number, all_of = len(data), len(self.split)
        return Of(
            f"{number} of {all_of} {self.part} data" if number < all_of else f"{number} {self.part} data"
        )

    def drawn(self) -> dict[str, tuple[int, ...]]:
        """Sites of the data that the model draws, with their shapes."""
        with self.program.evaluating():
            rows = self.program.place(self.data.batch(slice(0, 2)))
            return {name: tuple(rows[name].shape[1:]) for name in drawn_sites(self.program, rows)}


@dataclass(frozen=True)
class Section:
    """A title, the question that it answers, what it shows, and what that says.

    Attributes:
        tell: gives texts, figures and results, one after the other.
        verdict: one sentence, once all sections have told; a KeyError where what it needs was not found.
    """

    title: str
    question: str
    tell: Callable[[Subject], Iterator[Any]]
    verdict: Callable[[Subject], str]


def _model(subject: Subject) -> Iterator[Any]:
    program, run = subject.program, subject.run
    subject.found["parameters"] = sum(p.numel() for p in program.parameters() if p.requires_grad)
    data = run.data
    parts = f"{len(data.train)} training, {len(data.validation)} validation, {len(data.test)} test data"
    yield Of(f"{parts} of {data.name}")
    yield program.explain()
    if run.folder:
        values = checkpoint.read_config(run.folder)
        subject.found["loss"] = values.get("loss")
        lines = [f"{name}: {value}" for name, value in values.items() if name != "run" and value is not None]
        yield Folded("\n".join(["Configuration", repr(data), *lines]))


def _of_model(subject: Subject) -> str:
    loss = subject.found.get("loss")
    return (
        f"This {type(subject.program).__name__} has {subject.found['parameters']:,} learned numbers, and was "
        f"trained on {len(subject.run.data.train):,} data{f' by {loss}' if loss else ''}."
    )


def _training(subject: Subject) -> Iterator[Any]:
    run, history = subject.run, subject.run.history
    if not history:
        raise ValueError("no epoch has been trained")
    trained = Of(f"{len(run.data.train)} training data and {len(run.data.validation)} for validation")
    yield trained
    subject.found["history"] = history
    seconds = sum(row["seconds"] for row in history)
    subject.summary["epochs"] = f"{len(history)} in {seconds:.0f} s", f"{len(run.data.train)} training data"
    curves = []
    for key in CURVES:  # each by itself, which a narrow page has below the others
        figure, axes = on(None, 3.2, 2.8)
        curve(axes, history, key)
        curves.append(figure)
    yield curves


def _samples(subject: Subject) -> Iterator[Any]:
    program, seed = subject.program, subject.seed
    yield Of(f"draws of the model; beside them, of single numbers, {subject.of(subject.data)}")
    for site, shape in subject.drawn().items():
        if program.columns is not None and site == "x":
            yield figures.marginals(program, subject.data, seed=seed)
        elif shape:
            yield figures.samples(program, site=site, seed=seed)
        else:
            yield pictures.numbers(program, subject.data, site, seed)


def _reconstructions(subject: Subject) -> Iterator[Any]:
    yield subject.of(subject.data)
    subject.found["kept"] = pictures.variance_kept(subject.program, subject.data)
    for site, shape in subject.drawn().items():
        if shape:
            yield figures.reconstructions(subject.program, subject.data, site=site)


def _likelihood(subject: Subject) -> Iterator[Any]:
    program, seed, of = subject.program, subject.seed, subject.of(subject.data)
    few = subject.first(CERTIFIED)
    yield Of(f"{of}; annealed {subject.of(few)}; bounds from both sides of {CERTIFIED} simulated data")
    bound = evaluate.elbo(program, subject.data, seed=seed)
    yield str(bound)
    estimate = evaluate.log_likelihood(program, subject.data, num_samples=subject.num_samples, seed=seed)
    yield str(estimate)
    subject.found |= {"elbo": bound, "log_likelihood": estimate}
    subject.summary["ELBO"] = f"{bound.elbo:.2f} ± {bound.standard_error:.2f}", of
    subject.summary["log p(x)"] = (
        f"{estimate.log_likelihood:.2f} ± {estimate.standard_error:.2f} (K = {estimate.num_samples})",
        of,
    )
    options: Any = {"num_temperatures": TEMPERATURES, "num_chains": CHAINS, "seed": seed}
    annealed = evaluate.ais(program, few, **options)
    subject.found["ais"] = annealed
    yield str(annealed)
    more = annealed.per_datum - estimate.per_datum[: len(annealed.per_datum)]
    subject.summary["annealed less importance samples"] = (
        f"{more.mean():+.3f} ± {standard_error(more):.3f}",
        subject.of(few),
    )
    certificate = evaluate.sandwich(program, num_data=CERTIFIED, **options)
    subject.found["sandwich"] = certificate
    yield str(certificate)
    subject.summary["both bounds of log p(x)"] = (
        f"{certificate.width:.3f} ± {certificate.width_error:.3f} apart",
        f"{CERTIFIED} simulated data",
    )
    away = (annealed.log_likelihood - certificate.lower) / math.hypot(
        annealed.standard_error, certificate.lower_error
    )
    if abs(away) > 4:
        warnings.warn(
            "the simulated data are unlike the held-out ones (log p(x) differs by far), so that what "
            "certifies the former says little of the latter",
            DataWarning,
            stacklevel=2,
        )


def _gap(subject: Subject) -> Iterator[Any]:
    few = subject.first(DIVIDED)
    yield subject.of(few)
    gap = evaluate.inference_gap(subject.program, few, num_steps=STEPS, seed=subject.seed)
    subject.found["gap"] = gap
    subject.summary["log p(x) - ELBO"] = (
        f"{gap.approximation:.2f} (approximation) + {gap.amortisation:.2f} (amortisation)",
        subject.of(few),
    )
    yield gap
    with contextlib.suppress(ValueError):  # it has more latents than can be drawn
        # Of a plane of latents, the true posterior beside the guide's.
        yield figures.posteriors(subject.program, subject.first(4))


def _calibration(subject: Subject) -> Iterator[Any]:
    yield Of(
        f"{SIMULATED} simulated data, given and missing what {len(subject.split)} {subject.part} data are"
    )
    found = evaluate.calibration(
        subject.program, num_simulations=SIMULATED, data=subject.split, seed=subject.seed
    )
    subject.found["calibration"] = found
    latents = found.scale[[name not in (JOINT, DISTANCE) for name in found.names]]
    subject.summary["calibration of the guide"] = (
        f"p {told(found.p_value)}; latents {latents.min():.2f} to {latents.max():.2f} times as wide as they "
        "should be",
        f"{found.num_simulations} simulated data",
    )
    yield str(found)
    yield figures.calibration(found)


def _fit(subject: Subject) -> Iterator[Any]:
    yield subject.of(subject.data)
    found = evaluate.predictive_check(subject.program, subject.data, seed=subject.seed)
    subject.found["fit"] = found
    classifier = found.two_sample
    subject.summary["fit"] = (
        f"p {told(found.p_value)} of {len(found.statistics)} statistics; a classifier is right with "
        f"{classifier.accuracy:.2f} ± {classifier.standard_error:.2f}",
        subject.of(subject.data),
    )
    yield str(found)
    yield figures.predictive_check(found)


def _anatomy(subject: Subject) -> Iterator[Any]:
    yield subject.of(subject.data)
    found = evaluate.anatomy(subject.program, subject.data, seed=subject.seed)
    subject.found["anatomy"] = found
    active = ", ".join(
        f"{name} {s.num_latents - s.collapsed} of {s.num_latents}" for name, s in found.sites.items()
    )
    subject.summary["active latents"] = active, subject.of(subject.data)
    yield str(found)
    yield figures.anatomy(found)
    yield Page(frozen(subject.run))


def _worst(subject: Subject) -> Iterator[Any]:
    yield Of(f"{subject.of(subject.data)}, by their place in these: data.{subject.part}[place]")
    estimate = subject.found["log_likelihood"]
    at = estimate.per_datum.argsort()[:WORST]
    columns = _odd_columns(subject, at)
    subject.found["odd"] = columns[0] if columns else ""
    beside = [f"{estimate.per_datum[i]:.1f}" for i in at.tolist()]
    shown = {"log p(x)": beside, "oddest column, nats below its mean": columns}
    yield from pictures.data(subject.program, subject.data, at, "Explained worst: log p(x), nats", shown)
    k = estimate.pareto_k
    if not k.isnan().all():
        at = k.nan_to_num(-torch.inf).argsort(descending=True)[:WORST]
        shown = {"k-hat": [f"{k[i]:.1f}" for i in at.tolist()]}
        title = "Trusted least: Pareto's k of the importance weights"
        yield from pictures.data(subject.program, subject.data, at, title, shown)


def _odd_columns(subject: Subject, at: Tensor) -> list[str]:
    """Of some rows of a table, the column that is least likely given the others, against what is usual."""
    program = subject.program
    if program.columns is None:
        return []
    usual = subject.data.batch(slice(0, CERTIFIED))
    rows: Batch = {name: torch.cat([subject.data.batch(at)[name], x]) for name, x in usual.items()}
    try:
        found = evaluate.columns(
            program, Split(rows, columns=program.columns), num_samples=ODD, seed=subject.seed
        )
    except ValueError:  # its columns depend on each other beyond the latents
        return []
    away = found.per_datum[: len(at)] - found.per_datum[len(at) :].nanmean(0)
    least, column = away.nan_to_num(torch.inf).min(1)
    return [
        f"{found.names[j]} ({-value:.1f})" for j, value in zip(column.tolist(), least.tolist(), strict=True)
    ]


SECTIONS = (
    Section("The model", "What is it, in mathematics, and how was it trained?", _model, _of_model),
    Section(
        "Training",
        "Did it converge, and does it overfit?",
        _training,
        lambda s: verdicts.training(s.found["history"]),
    ),
    Section(
        "What it draws",
        "What do data look like that the model makes up?",
        _samples,
        lambda s: verdicts.draws(s.found["fit"].two_sample, s.which),
    ),
    Section(
        "What it keeps",
        "What is left of a datum that went through its latents?",
        _reconstructions,
        lambda s: verdicts.kept(s.found["kept"], s.found["elbo"]),
    ),
    Section(
        "How likely are data?",
        "The ELBO and importance samples bound log p(x) from below; on data that the model simulated, "
        "annealed importance sampling does so from both sides, which certifies these.",
        _likelihood,
        lambda s: verdicts.likelihood(
            s.found["log_likelihood"], s.found.get("ais"), s.found.get("sandwich"), s.which
        ),
    ),
    Section(
        "How far is the bound?",
        "log p(x) - ELBO has two parts: what the best member of the guide's family leaves (approximation), "
        "and what the encoder loses against that (amortisation).",
        _gap,
        lambda s: verdicts.gap(s.found["gap"]),
    ),
    Section(
        "Is the encoder calibrated?",
        "Latents of data that the model simulated are ranked among the guide's draws; of the true posterior, "
        "ranks are uniform.",
        _calibration,
        lambda s: verdicts.calibration(s.found["calibration"]),
    ),
    Section(
        "Does the model fit?",
        "Statistics of data, among those of draws from the model. What is not asked may be off.",
        _fit,
        lambda s: verdicts.fit(s.found["fit"]),
    ),
    Section(
        "What do the latents do?",
        "Which of them say something, and what does it cost?",
        _anatomy,
        lambda s: verdicts.anatomy(s.found["anatomy"]),
    ),
    Section(
        "Which data are odd?",
        "Those that the model explains worst, and those whose figure is least to be trusted.",
        _worst,
        lambda s: verdicts.worst(s.found["log_likelihood"].per_datum, s.part, s.found["odd"]),
    ),
)
