"""The training loop, over any program: epochs, validation, early stopping, checkpoints."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae import checkpoint
from pyro_vae.checks import ConfigError, check
from pyro_vae.data import Data
from pyro_vae.data.source import sent
from pyro_vae.distributed import Average, Group, elbo_of_all, joined, noise_seed
from pyro_vae.evaluate.likelihood import unchecked_elbo
from pyro_vae.objectives import elbo_terms, scale_latents
from pyro_vae.objectives.importance import by_datum
from pyro_vae.program import DataWarning, Program, UntrainedWarning
from pyro_vae.running import one_thread, parameters_known, seed_generators
from pyro_vae.seen import observing
from pyro_vae.svi import SVI, NonFiniteLossError, set_lr
from pyro_vae.training import state as states
from pyro_vae.training.batches import Batches
from pyro_vae.training.devices import deterministic, find_device, settle, uncompiled
from pyro_vae.training.folder import Folder, Resume, opened
from pyro_vae.training.opening import COMPILED_STEPS, check_arguments, look, make_optimizer, opening
from pyro_vae.training.report import Report
from pyro_vae.training.run import Run
from pyro_vae.training.schedules import LearningRate, warmup
from pyro_vae.training.settings import Settings
from pyro_vae.training.signals import Interrupted, Stops, collected
from pyro_vae.training.stamps import stamp
from pyro_vae.training.state import State

Callback = Callable[[int, Mapping[str, float], Program], Any]


@dataclass
class _Training:
    """A run in progress, in one process of those that train it."""

    program: Program
    data: Data
    settings: Settings
    svi: SVI
    rate: LearningRate
    folder: Folder | None
    callback: Callback | None
    group: Group
    average: Average | None
    notes: list[str]
    batches: Batches
    state: State = field(default_factory=State)
    best: dict[str, Tensor] = field(default_factory=dict)
    finite: set[str] = field(default_factory=set)

    def beta(self, epoch: float) -> float:
        """Weight of the KL in a step, at so many epochs done."""
        if not callable(self.settings.beta):
            return self.settings.beta * warmup(epoch, self.settings.warmup_epochs, len(self.batches))
        beta = float(self.settings.beta(epoch))
        if not 0 <= beta < math.inf:
            raise ConfigError(f"beta({epoch:g}) is {beta}; it must be a number from 0 up")
        return beta

    def epoch(self, report: Report, stops: Stops) -> None:
        """Trains for an epoch, or what is left of it, and saves."""
        if self.average is not None:
            self.average.asked = stops.__bool__
        state, split = self.state, self.data.train
        began, every = time.monotonic() - state.seconds, self.settings.save_every
        self.program.train()
        redraw_seed, order_seed = map(
            int, np.random.SeedSequence([self.settings.seed, state.epoch]).generate_state(2)
        )
        split.redraw(redraw_seed)
        dtype, device = self.program.dtype, self.program.device
        order = self.batches.order(order_seed)
        first, sums = state.batch, list(state.sums)
        done = [state.epoch + batch / len(self.batches) for batch in range(first, len(self.batches))]
        rates = self.rate.plan(done)
        betas = sent(torch.tensor([self.beta(epoch) for epoch in done], dtype=dtype), device)
        losses: list[Tensor] = []
        values = split.ahead(self.rows(order), dtype)
        with contextlib.closing(cast(Any, values)):  # which may read ahead, in a thread
            while state.batch < len(self.batches):
                now = slice(state.batch - first, state.batch - first + self.at_once())
                with self.locating():
                    losses.append(self.take(next(values), betas[now], rates and rates[now]))
                for _ in range(now.start, now.stop):
                    state.batch += 1
                    report.step(functools.partial(self.figures, losses[-1][-1]))
                ends = bool(stops if self.average is None else self.average)
                if ends or (every and state.batch % every == 0 and state.batch < len(self.batches)):
                    means, _ = self.fetch(losses)
                    state.sums, state.seconds = self.add(sums, first, means), time.monotonic() - began
                    self.save()
                if ends:
                    raise self.interrupted(stops)
        self.group.copy_buffers(self.program)
        means, weights = self.fetch(losses)
        row = self.measure([total / self.batches.number for total in self.add(sums, first, means)], rates)
        self.rate.end_epoch(row)
        row["seconds"] = round(time.monotonic() - began, 3)
        state.history.append(row)
        state.digests.append(checkpoint.digest(weights))
        self.group.agree(f"the weights after epoch {state.epoch + 1}", state.digests[-1])
        state.epoch, state.batch, state.sums, state.seconds = state.epoch + 1, 0, [], 0.0
        state.finished = state.epoch >= self.settings.epochs
        verdict = self.watch(row)
        self.save()
        report.epoch(row, state.finished)
        asked = self.group.first(lambda: self.called_back(row))  # after the last epoch as well
        if asked and not state.finished:
            state.finished = True
            verdict = f"stopped by the callback after epoch {state.epoch}"
            self.save()
        if state.finished:
            verdict = (verdict + self.take_best()).removeprefix(": ")
        if verdict:
            report.line(verdict)
        if not state.finished and self.group.any(bool(stops)):
            raise self.interrupted(stops)

    def at_once(self) -> int:
        """Steps to take by one launch, where they are replayed."""
        return self.batches.at_once(self.state.batch) if self.svi.replays else 1

    def rows(self, order: Tensor) -> Iterator[Tensor]:
        """Which data each launch is to take from here on, of each batch this process's share."""
        batch, size = self.state.batch, self.settings.batch_size
        while batch < len(self.batches):
            number = self.at_once()
            rows = order[batch * size :][: size * number]
            yield rows if self.average is None else rows[self.group.share(len(rows))]
            batch += number

    def take(self, batch: Mapping[str, Tensor], betas: Tensor, rates: list[float] | None) -> Tensor:
        """Takes the steps on these data, of as many batches as there are weights of the KL.

        Returns:
            the loss and the ELBO's terms of each, ``[U, 1 + T]``.
        """
        batch = {site: sent(value, self.program.device) for site, value in batch.items()}
        if self.average is not None:
            self.average.weight = self.group.weight(self.batches.size_of(self.state.batch))
            seed = noise_seed(self.settings.seed, self.svi.num_steps, self.group.rank)
            seed_generators(seed, self.program.device)
        if len(betas) == 1:
            with self.ragged(self.batches.size_of(self.state.batch)):
                if rates:
                    set_lr(self.rate.optimizer, rates[0])
                loss = self.svi.step(batch, betas[0])
            return torch.cat([loss[None], self.svi.terms])[None]
        batches = {site: value.unflatten(0, (len(betas), -1)) for site, value in batch.items()}
        loss = self.svi.steps(rates, batches, betas)
        return torch.cat([loss[:, None], self.svi.terms], 1)

    def add(self, sums: list[float], first: int, losses: Tensor) -> list[float]:
        """The sums over data, with those of the batches from ``first`` on: in order, however taken."""
        if not len(losses):
            return sums
        means = losses.double().numpy()
        size, rest = self.settings.batch_size, self.batches.number - first * self.settings.batch_size
        sizes = np.minimum(size, rest - size * np.arange(len(means)))
        begin = np.array(sums or np.zeros(means.shape[1]))
        total: list[float] = np.add.accumulate([begin, *means * sizes[:, None]])[-1].tolist()
        return total

    def fetch(self, losses: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The losses and terms of steps, and the weights, on the processor: waited for once.

        Raises:
            NonFiniteLossError: a step failed, or left what is not finite.
        """
        with self.locating():
            self.svi.check()
        taken = torch.cat(losses) if losses else torch.empty(0)
        weights = checkpoint.fetched({"": taken} | self.program.state_dict())
        means = weights.pop("")
        if broken := sorted(self.finite - checkpoint.finite(weights)):
            reason = f"{', '.join(broken[:3])} not finite after step {self.svi.num_steps}"
            raise NonFiniteLossError(self.non_finite(reason))
        return means, weights

    def figures(self, totals: Tensor) -> dict[str, float]:
        """The loss and the ELBO's terms by name, which are waited for."""
        return self.named(totals.tolist())

    def named(self, totals: list[float]) -> dict[str, float]:
        """The loss and the ELBO's terms by name."""
        loss, *values = totals
        terms = dict(zip(self.state.terms, values, strict=True))
        kl = math.fsum(value for name, value in terms.items() if name.startswith("kl_"))
        elbo = -math.fsum(values)
        return {"loss": loss, "elbo": elbo, "reconstruction": -elbo - kl, "kl": kl} | _several(terms)

    def measure(self, means: list[float], rates: list[float] | None) -> dict[str, float]:
        """The epoch's row of the history, from the means over its data and what rates were planned."""
        steps = (self.state.epoch + 1) * len(self.batches)
        row: dict[str, float] = {
            "epoch": self.state.epoch + 1,
            "steps": steps,
            "lr": rates[-1] if rates else float(self.rate.optimizer.param_groups[0]["lr"]),
            "beta": self.beta((steps - 1) / len(self.batches)),
        } | self.named(means)
        for c in self.program.conditionals():
            row |= {f"{name}_{c.site}": value for name, value in c.family.usage().items()}
        if len(self.data.validation):
            evaluated = unchecked_elbo if self.average is None else functools.partial(elbo_of_all, self.group)
            found = evaluated(self.program, self.data.validation)
            if not math.isfinite(found.elbo):
                raise NonFiniteLossError(self.non_finite(f"the validation ELBO is {found.elbo}"))
            named = {"elbo": found.elbo, "reconstruction": found.reconstruction, "kl": found.kl}
            row |= {f"validation_{name}": value for name, value in (named | _several(found.terms)).items()}
        return row

    def watch(self, row: Mapping[str, float]) -> str:
        """Keeps the best weights, and decides whether to stop, and says why."""
        state, patience, begins = self.state, self.settings.patience, self.settings.warmup_epochs
        if patience is None:
            return ""
        if state.epoch > begins and row["validation_elbo"] > state.best_elbo:
            state.best_epoch, state.best_elbo = state.epoch, row["validation_elbo"]
            self.best = {name: value.clone() for name, value in self.program.state_dict().items()}
        stop = state.epoch - max(state.best_epoch, begins) >= patience
        state.finished = state.finished or stop
        return f"stopped early, without a better validation ELBO for {patience} epochs" if stop else ""

    def take_best(self) -> str:
        """Restores the weights of the best epoch, where they were kept, and says so."""
        if not self.best:
            return ""
        self.program.load_state_dict(self.best)
        return f": restored the weights of epoch {self.state.best_epoch}"

    def called_back(self, row: Mapping[str, float]) -> bool:
        """Whether the callback asks to stop; whatever it draws, training goes on as without it."""
        if self.callback is None:
            return False
        device = self.program.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            self.program.eval()
            return bool(self.callback(self.state.epoch, dict(row), self.program))

    def save(self) -> None:
        """Writes the checkpoint."""
        if self.folder is not None:
            self.folder.save(*self.pack(self.folder), self.settings.keep)

    def pack(self, folder: Folder) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What is saved."""
        fingerprint = self.data.fingerprint
        return states.pack(
            self.state, self.program, self.best, self.svi, self.rate, fingerprint, folder.values
        )

    def begin(self) -> None:
        """Writes the first files of a run, or takes up the checkpoint of one that is gone on with."""
        folder, epochs = self.folder, self.settings.epochs
        going_on = folder is not None and folder.going_on
        if folder is not None and going_on:
            path, fingerprint = folder.path / checkpoint.CHECKPOINT, self.data.fingerprint
            self.state, self.best = states.restore(
                path, *folder.load(), self.program, self.svi, self.rate, len(self.batches), fingerprint
            )
            if self.state.planned[-1] != epochs:
                self.state.more(epochs, folder.path)
        state, here = self.state, stamp(self.program.device) | {"processes": str(self.group.size)}
        state.planned = state.planned or [epochs]
        if state.finished:
            self.take_best()
        elif not state.stamps or here != {n: v for n, v in state.stamps[-1].items() if n != "epoch"}:
            state.stamps.append({"epoch": state.epoch} | here)
        if folder is not None and not going_on:
            folder.start(*self.pack(folder))
        elif folder is not None and not state.finished:
            folder.forget_model()

    @contextmanager
    def ragged(self, size: int) -> Iterator[None]:
        """The step on an epoch's last batch, where it is smaller, is eager: it is not worth a compilation."""
        if size == self.batches.size_of(0) or self.settings.epochs >= COMPILED_STEPS:
            yield
            return
        compiles, self.svi.compile = self.svi.compile, False
        try:
            yield
        finally:
            self.svi.compile = compiles

    @contextmanager
    def locating(self) -> Iterator[None]:
        """Adds to a failed step's message where training stopped, and what is left."""
        try:
            yield
        except NonFiniteLossError as error:
            told = sorted(self.group.gather(str(error)), key=lambda text: "every site is finite" in text)
            raise NonFiniteLossError(self.non_finite(told[0])) from error
        except torch.OutOfMemoryError as error:
            size = self.settings.batch_size
            raise torch.OutOfMemoryError(
                f"a step on {size} data does not fit into the memory of {self.program.device} "
                f"({str(error).split('. GPU')[0]}); batch_size={max(1, size // 2)} takes less"
            ) from error

    def non_finite(self, reason: str) -> str:
        """Where training stopped, why, and what is left."""
        folder = self.folder
        kept = f" The last good checkpoint, after {folder.saved}, is in {folder.path}." if folder else ""
        return f"epoch {self.state.epoch + 1}: {reason}.{kept} Try a lower lr, or clip_norm=100"

    def interrupted(self, stops: Stops, message: str = "") -> Interrupted:
        """What to raise in all processes, as one of them was told to end."""
        stops.received = [signum for each in self.group.gather(stops.received) for signum in each]
        return stops.interrupted(message or self.how_to_resume())

    def how_to_resume(self) -> str:
        """Where training stopped, and how to go on."""
        where = f"stopped in epoch {self.state.epoch + 1}, after {self.state.batch} batches"
        if self.folder is None:
            return f"{where}; nothing is kept of a run without a folder: pv.fit(..., folder='runs/mine')"
        return f"{where}, and saved. Go on with: pyro-vae train --resume {self.folder.path}"


@one_thread()
def fit(
    program: Program,
    data: Data,
    *,
    folder: str | Path | None = None,
    resume: Resume = False,
    callback: Callback | None = None,
    progress: bool = True,
    **settings: Any,
) -> Run:
    """Trains a program by stochastic variational inference.

    Minimises the mean over data of ``loss``; for ``Trace_ELBO`` the negative ELBO, in nats per datum.
    All randomness is drawn under ``seed``, and the generators of the caller are left as they were. A
    run that is interrupted and resumed ends with the same bits as one that was not.

    Args:
        program: the model and its guide; trained in place, on ``device``.
        data: as made by ``pv.data.load``; moved to ``device``.
        folder: where the run is kept, to be resumed and loaded; None, and nothing is written.
        resume: go on from the folder's checkpoint; ``"auto"``, if there is one, and else start.
        callback: called after each epoch with its number, its row of the history and the program, in
            evaluation mode; training stops when it returns what is true.
        progress: show a bar on a terminal, lines elsewhere.
        settings: as listed below.

    Raises:
        ConfigError: there is no such setting, or its value will not do.
        DataError: the data lie outside the likelihood's support, or have another shape.
        CheckpointError: the folder holds a run already (or none, to resume), or another one.
        NonFiniteLossError: the loss became NaN or infinite; the last checkpoint is untouched.
        Interrupted: SIGINT, SIGTERM or SIGUSR1, or ``max_minutes`` are over; the step was finished and, where
            there is a folder, saved.
        RuntimeError: another thread of the process trains or evaluates.
    """
    with joined() as group:
        return _fit(group, program, data, folder, resume, callback, progress, settings)


_defaults = Settings().to_plain()
_options = [f"        {name}={_defaults[name]}: {told}" for name, told in Settings.documentation().items()]
_listed = "\n".join(textwrap.fill(line, 105, subsequent_indent=" " * 12) for line in _options)
fit.__doc__ = f"{fit.__doc__}\n    Settings:\n{_listed}\n"


def _fit(
    group: Group,
    program: Program,
    data: Data,
    folder: str | Path | None,
    resume: Resume,
    callback: Callback | None,
    progress: bool,
    settings: Mapping[str, Any],
) -> Run:
    """``fit`` in one process of those that train together."""
    default = {"loss": program.objective()} if isinstance(program, Program) else {}
    chosen = Settings.from_plain(default | dict(settings), trust="*")
    asked = program.fit_settings(chosen.epochs) if default else {}
    if "beta" in settings or not chosen.weighs_kl:
        asked.pop("warmup_epochs", None)
    asked = {name: value for name, value in asked.items() if name not in settings}
    chosen = replace(chosen, **asked)
    check("progress", progress, bool)
    folder = Path(check("folder", folder, str | Path)) if folder is not None else None
    check_arguments(program, data, chosen, folder, resume, callback)
    values = checkpoint.describe(program) | data.config | chosen.to_plain()
    place = find_device(chosen.device)
    notes = settle(program, data, place)
    if asked:
        told = ", ".join(f"{name}={value}" for name, value in asked.items())
        notes.append(f"{told}: a {type(program).__name__}'s own, unless they are given")
    shapes = [(name, tuple(value.shape)) for name, value in program.state_dict().items()]
    group.agree("the program's weights", [*shapes, bool(program.initialized)])
    group.agree("the data", data.fingerprint)
    found = group.first(lambda: look(program, data))
    for split, own in zip((data.train, data.validation, data.test), found, strict=True):
        split.gaps = own
    gaps = frozenset[str]().union(*found)
    devices = [place.index or 0] if place.type == "cuda" else []
    with (
        deterministic(chosen.deterministic, place),
        torch.random.fork_rng(devices),
        collected(chosen.max_minutes) as stops,
        observing(gaps),
        opened(folder, resume, values, group) as kept,
    ):
        seed_generators(chosen.seed, place)
        if not program.initialized:
            program.see_gaps(gaps)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UntrainedWarning)  # they are below
                group.first(lambda: program.initialize(data.train))
        for first in program.before.values():
            first.requires_grad_(False)
        program.see_number(len(data.train))
        group.copy_program(program)
        training = _prepare(program, data, chosen, kept, callback, group, notes)
        training.begin()
        for name, first in program.before.items():
            if not first.initialized:
                _fit_before(training, name, first, progress, settings)
        _train(training, stops, progress)
    program.eval()
    for alarm in [c.family.alarm for c in program.conditionals() if c.family.alarm]:
        warnings.warn(alarm, DataWarning, stacklevel=5)  # where fit was called
    return Run(program, data, training.state.history, kept.path if kept else None)


def _fit_before(
    training: _Training, name: str, program: Program, progress: bool, settings: Mapping[str, Any]
) -> None:
    """Trains a program within another by the same settings, but for the loss, and saves the other anew.

    It is a run of its own, in a folder of that name in the other's, from whose start ``verify`` has it.
    """
    folder, group = training.folder, training.group
    if progress and group.rank == 0:
        print(f"first its {name}, those of a {type(program).__name__}:", flush=True)
    own = {"lr": training.settings.lr} | {name: given for name, given in settings.items() if name != "loss"}
    program.requires_grad_(True)
    try:
        place = None if folder is None else folder.path / name
        _fit(group, program, training.data, place, "auto" if place else False, None, progress, own)
    except BaseException as error:
        program.initialized.fill_(False)  # it is not trained
        if isinstance(error, Interrupted):
            kept = "of which nothing is kept: start again"
            if folder is not None:
                kept = f"and saved. Go on with: pyro-vae train --resume {folder.path}"
            raise Interrupted(f"stopped while its {name} were trained, {kept}", error.signum) from error
        raise
    program.requires_grad_(False)
    if folder is not None:
        folder.start(*training.pack(folder))


def _train(training: _Training, stops: Stops, progress: bool) -> None:
    state, num_batches, folder = training.state, len(training.batches), training.folder
    settings, group = training.settings, training.group
    path = folder.path if folder and group.rank == 0 else None
    first, told = state.epoch * num_batches + state.batch, progress and group.rank == 0
    with Report(path, settings.epochs, num_batches, first, told, state.finished) as report:
        if not state.finished:
            num_steps, compiled = settings.epochs * num_batches, training.svi.compile
            train = training.data.train
            for line in opening(training.program, train, settings, state, num_steps, compiled, group.size):
                report.line(line)
            for line in training.notes:
                report.line(line)
            training.svi.log = report.line
        while not state.finished:
            training.epoch(report, stops)
        if folder is not None:
            folder.finish(training.program)
        if group.any(bool(stops.received)):
            where = f"the model is saved in {folder.path}" if folder else "the program is trained"
            raise training.interrupted(stops, f"training had ended, and {where}")


def _prepare(
    program: Program,
    data: Data,
    settings: Settings,
    folder: Folder | None,
    callback: Callback | None,
    group: Group,
    notes: list[str],
) -> _Training:
    """The optimizer, its schedule and the step."""
    average = Average(group) if group.size > 1 else None
    optimizer = make_optimizer(settings.optimizer, program, settings.lr)
    rate = LearningRate(optimizer, settings.lr, settings.schedule, settings.epochs)
    again = program.again(data.train)
    if len(again):
        share = f"{len(again.unique())} of {len(data.train)}"
        notes = [*notes, f"an epoch takes {share} training data several times, {len(again)} rows more"]
    batches = Batches(data.train, again, settings.batch_size, settings.save_every)
    num_steps = settings.epochs * len(batches)
    compiled = num_steps >= COMPILED_STEPS if settings.compile == "auto" else settings.compile
    steps = "a SemiAmortised guide takes steps of its own for each batch" if program.semi_amortised else ""
    if compiled and (why := uncompiled(program.device) or steps):
        compiled, notes = False, [*notes, f"steps are eager: {why}"]
    loss = copy.copy(settings.loss)
    if loss.max_plate_nesting == math.inf:  # or it would run both to guess it, and draw
        particles = loss.vectorize_particles and loss.num_particles > 1
        loss.max_plate_nesting = program.max_plate_nesting + particles
    svi = SVI(
        _annealed(program.model),
        _annealed(program.guide),
        optimizer,
        loss,
        compile=compiled,
        precision=settings.precision,
        reduction="mean",
        clip_norm=settings.clip_norm,
        terms=lambda model, guide: _terms(training, model, guide),
        average=average,
    )
    training = _Training(program, data, settings, svi, rate, folder, callback, group, average, notes, batches)
    training.finite = checkpoint.finite(program.state_dict())
    return training


def _terms(training: _Training, model: poutine.Trace, guide: poutine.Trace) -> Tensor:
    """The ELBO's terms as a vector, whose entries the state has the names of."""
    terms = elbo_terms(model, guide)
    kinds = {True: "reconstruction", False: "kl"}
    training.state.terms = [f"{kinds[model.nodes[site]['is_observed']]}_{site}" for site in terms]
    return torch.stack([by_datum(term, training.program).mean() for term in terms.values()])


def _several(terms: Mapping[str, float]) -> dict[str, float]:
    """The terms of latent sites, and those of observed ones, where there are several."""
    kinds = [{n: v for n, v in terms.items() if n.startswith(kind)} for kind in ("kl_", "reconstruction_")]
    return {name: value for kind in kinds if len(kind) > 1 for name, value in kind.items()}


def _annealed(story: Callable[[Any], Any]) -> Callable[[Any, Tensor], Any]:
    """A model or guide with a second argument, the factor of its latents' log-densities."""

    def run(batch: Any, beta: Tensor) -> Any:
        with scale_latents(beta), parameters_known():
            return story(batch)

    return run
