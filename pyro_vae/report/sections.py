"""What a report asks of a run, a section a question."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae import checkpoint, evaluate, figures
from pyro_vae.data import Split
from pyro_vae.evaluate.calibration import DISTANCE, JOINT, told
from pyro_vae.evaluate.shown import standard_error
from pyro_vae.figures import Figure
from pyro_vae.program import DataWarning, Program
from pyro_vae.training import Run

CERTIFIED, DIVIDED, SIMULATED, WORST = 50, 50, 500, 12
"""Data of the sandwich, data whose gap is divided, simulations of the calibration, and data in a picture."""
TEMPERATURES, CHAINS, STEPS = 100, 4, 500
"""Of the sandwich, and of the search for the best member of the guide's family."""


class Subject:
    """A run that is reported on, and what was found of it.

    Attributes:
        part: of the held-out data.
        split: they.
        data: those of them that are looked at.
        found: results of evaluators, by name, for the sections that come after.
        summary: figures for the first table, by name.
    """

    def __init__(self, run: Run, name: str, num_data: int, num_samples: int, seed: int):
        self.run, self.name, self.num_samples, self.seed = run, name, num_samples, seed
        self.program: Program = run.program
        self.part, self.split = run.data.held_out
        self.data = self.first(num_data)
        self.found: dict[str, Any] = {}
        self.summary: dict[str, str] = {}

    def first(self, number: int) -> Split:
        """The first so many of the held-out data."""
        split = self.split
        rows = split.batch(slice(0, number))
        return Split(rows, class_names=split.class_names, columns=split.columns)


@dataclass(frozen=True)
class Section:
    """A title, the question that it answers, and what it shows: figures, texts, results."""

    title: str
    question: str
    tell: Callable[[Subject], Sequence[Any]]


def _model(subject: Subject) -> Sequence[Any]:
    program, run = subject.program, subject.run
    number = sum(p.numel() for p in program.parameters() if p.requires_grad)
    lines = [f"{type(program).__name__}, {number:,} parameters", repr(run.data)]
    if run.folder:
        values = checkpoint.read_config(run.folder)
        lines += [f"{name}: {value}" for name, value in values.items() if name != "run" and value is not None]
    return [program.explain(), "\n".join(lines)]


def _training(subject: Subject) -> Sequence[Any]:
    history = subject.run.history
    if not history:
        raise ValueError("no epoch has been trained")
    seconds = sum(row["seconds"] for row in history)
    subject.summary["epochs"] = f"{len(history)} in {seconds:.0f} s"
    return [figures.training_curves(history)]


def _samples(subject: Subject) -> Sequence[Any]:
    return [figures.samples(subject.program, seed=subject.seed)]


def _reconstructions(subject: Subject) -> Sequence[Any]:
    return [figures.reconstructions(subject.program, subject.split)]


def _likelihood(subject: Subject) -> Sequence[Any]:
    program, seed = subject.program, subject.seed
    bound = evaluate.elbo(program, subject.data, seed=seed)
    estimate = evaluate.log_likelihood(program, subject.data, num_samples=subject.num_samples, seed=seed)
    subject.found |= {"elbo": bound, "log_likelihood": estimate}
    subject.summary["ELBO"] = f"{bound.elbo:.2f} ± {bound.standard_error:.2f}"
    subject.summary["log p(x)"] = (
        f"{estimate.log_likelihood:.2f} ± {estimate.standard_error:.2f} (K = {estimate.num_samples})"
    )
    shown: list[Any] = [str(bound), str(estimate)]
    certificate = evaluate.sandwich(
        program, num_data=CERTIFIED, num_temperatures=TEMPERATURES, num_chains=CHAINS, seed=seed
    )
    subject.summary["both bounds of log p(x), on simulated data"] = (
        f"{certificate.width:.3f} ± {certificate.width_error:.3f} apart"
    )
    annealed = evaluate.ais(
        program,
        subject.first(CERTIFIED),
        num_temperatures=TEMPERATURES,
        num_chains=CHAINS,
        seed=subject.seed,
    )
    own = estimate.per_datum[: len(annealed.per_datum)]
    more = annealed.per_datum - own
    subject.summary["annealed less importance samples"] = (
        f"{more.mean():+.3f} ± {standard_error(more):.3f} ({len(more)} data)"
    )
    shown += [str(annealed), str(certificate)]
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
    return shown


def _gap(subject: Subject) -> Sequence[Any]:
    gap = evaluate.inference_gap(subject.program, subject.first(DIVIDED), num_steps=STEPS, seed=subject.seed)
    subject.summary["log p(x) - ELBO"] = (
        f"{gap.approximation:.2f} (approximation) + {gap.amortisation:.2f} (amortisation), {DIVIDED} data"
    )
    return [gap, *_posteriors(subject)]


def _posteriors(subject: Subject) -> list[Figure]:
    """Of a plane of latents, the true posterior beside the guide's."""
    try:
        return [figures.posteriors(subject.program, subject.first(4))]
    except ValueError:  # it has more latents than can be drawn
        return []


def _calibration(subject: Subject) -> Sequence[Any]:
    found = evaluate.calibration(
        subject.program, num_simulations=SIMULATED, data=subject.split, seed=subject.seed
    )
    latents = found.scale[[name not in (JOINT, DISTANCE) for name in found.names]]
    subject.summary["calibration of the guide"] = (
        f"p {told(found.p_value)} of {found.num_simulations} simulations; latents "
        f"{latents.min():.2f} to {latents.max():.2f} times as wide as they should be"
    )
    return [str(found), figures.calibration(found)]


def _fit(subject: Subject) -> Sequence[Any]:
    found = evaluate.predictive_check(subject.program, subject.data, seed=subject.seed)
    number, least = len(found.statistics), min(found.p_values.values(), default=1.0)
    classifier = found.two_sample
    subject.summary["fit"] = (
        f"least p of {number} statistics {told(least)}; a classifier is right with "
        f"{classifier.accuracy:.2f} ± {classifier.standard_error:.2f}"
    )
    return [str(found), figures.predictive_check(found)]


def _anatomy(subject: Subject) -> Sequence[Any]:
    found = evaluate.anatomy(subject.program, subject.data, seed=subject.seed)
    active = ", ".join(f"{name} {s.active_units} of {s.num_latents}" for name, s in found.sites.items())
    subject.summary["active latents"] = active
    return [str(found), figures.anatomy(found)]


def _worst(subject: Subject) -> Sequence[Any]:
    estimate = subject.found["log_likelihood"]
    shown: list[Any] = []
    for what, values in (
        ("Explained worst: log p(x), nats", -estimate.per_datum),
        ("Trusted least: Pareto's k of the importance weights", estimate.pareto_k),
    ):
        known = values.nan_to_num(-torch.inf)
        at = known.argsort(descending=True)[:WORST]
        told = estimate.per_datum if "log p" in what else values
        shown += _pictures(subject, at, what, [f"{told[i]:.1f}" for i in at.tolist()])
    return shown


def _pictures(subject: Subject, at: Tensor, title: str, beside: Sequence[str]) -> list[Any]:
    """Some of the data with a number each, images as pictures and tables as rows."""
    x = subject.data.batch(at)["x"]
    columns = subject.program.columns
    if columns is None:
        return [
            figures.grid([x], title, columns=[f"{i}: {t}" for i, t in zip(at.tolist(), beside, strict=True)])
        ]
    frame = columns.decode(x)
    frame.insert(0, title, list(beside))
    frame.index = at.tolist()
    return [frame]


SECTIONS = (
    Section("The model", "What is it, in mathematics, and how was it trained?", _model),
    Section("Training", "Did it converge, and does it overfit?", _training),
    Section("What it draws", "What do data look like that the model makes up?", _samples),
    Section("What it keeps", "What is left of a datum that went through its latents?", _reconstructions),
    Section(
        "How likely are held-out data?",
        "The ELBO and importance samples bound log p(x) from below; on data that the model simulated, "
        "annealed importance sampling does so from both sides, which certifies these.",
        _likelihood,
    ),
    Section(
        "How far is the bound?",
        "log p(x) - ELBO has two parts: what the best member of the guide's family leaves (approximation), "
        "and what the encoder loses against that (amortisation).",
        _gap,
    ),
    Section(
        "Is the encoder calibrated?",
        "Latents of data that the model simulated are ranked among the guide's draws; of the true posterior, "
        "ranks are uniform.",
        _calibration,
    ),
    Section(
        "Does the model fit?",
        "Statistics of held-out data, among those of draws from the model. What is not asked may be off.",
        _fit,
    ),
    Section("What do the latents do?", "Which of them say something, and what does it cost?", _anatomy),
    Section(
        "Which data are odd?",
        "Those that the model explains worst, and those whose figure is least to be trusted.",
        _worst,
    ),
)
