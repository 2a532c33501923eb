"""The training loop, over any program: epochs, validation, early stopping, checkpoints."""

from __future__ import annotations

import copy
import functools
import inspect
import math
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae import checkpoint, evaluate
from pyro_vae.checkpoint import CheckpointError
from pyro_vae.conditional import observing
from pyro_vae.data import Data, load
from pyro_vae.evaluate.likelihood import unchecked_elbo
from pyro_vae.objectives import elbo_terms, in_closed_form, scale_latents
from pyro_vae.objectives.importance import by_datum, traces
from pyro_vae.program import Program, parameters_known, seed_generators
from pyro_vae.registry import ConfigError, Trust
from pyro_vae.svi import SVI, NonFiniteLossError
from pyro_vae.training import state as states
from pyro_vae.training.report import Report, write_history
from pyro_vae.training.schedules import LearningRate, warmup
from pyro_vae.training.settings import Settings, find_device
from pyro_vae.training.signals import Interrupted, alone, collected
from pyro_vae.training.state import State

COMPILED_STEPS = 1000
"""Steps on batches of one size from which on it is worth waiting for the compiler."""

Callback = Callable[[int, Mapping[str, float], Program], Any]


@dataclass(repr=False)
class Run:
    """A finished run.

    Attributes:
        program: the trained model.
        data: what it was trained on.
        history: one row per epoch, as in history.csv.
        folder: where it is kept; None if it is not.
    """

    program: Program
    data: Data
    history: list[dict[str, float]]
    folder: Path | None = None

    def __repr__(self) -> str:
        last = ", ".join(f"{name} {value}" for name, value in self._last().items())
        kept = f", kept in {self.folder}" if self.folder else ""
        return f"Run({type(self.program).__name__} on {self.data.name}: {last}{kept})"

    def _repr_html_(self) -> str:
        cells = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in self._last().items())
        kept = f"<p>kept in {self.folder}</p>" if self.folder else ""
        return f"<p><b>{type(self.program).__name__}</b> on {self.data.name}</p><table>{cells}</table>{kept}"

    def _last(self) -> dict[str, str]:
        row = self.history[-1] if self.history else {}
        told = ("epoch", "elbo", "reconstruction", "kl", "validation_elbo")
        return {name: f"{row[name]:.{0 if name == 'epoch' else 2}f}" for name in told if name in row}


@dataclass
class _Training:
    """A run in progress."""

    program: Program
    data: Data
    settings: Settings
    svi: SVI
    rate: LearningRate
    folder: Path | None
    callback: Callback | None
    state: State = field(default_factory=State)
    best: dict[str, Tensor] = field(default_factory=dict)

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        return math.ceil(len(self.data.train) / self.settings.batch_size)

    def beta(self, epoch: float) -> float:
        """Weight of the KL in a step, at so many epochs done."""
        if not callable(self.settings.beta):
            return self.settings.beta * warmup(epoch, self.settings.warmup_epochs, self.num_batches)
        beta = float(self.settings.beta(epoch))
        if not 0 <= beta < math.inf:
            raise ConfigError(f"beta({epoch:g}) is {beta}; it must be a number from 0 up")
        return beta

    def epoch(self, report: Report, signals: Sequence[int]) -> None:
        """Trains for an epoch, or what is left of it, and saves."""
        began, state, split = time.monotonic(), self.state, self.data.train
        self.program.train()
        redraw_seed, order_seed = map(
            int, np.random.SeedSequence([self.settings.seed, state.epoch]).generate_state(2)
        )
        split.redraw(redraw_seed)
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(order_seed))
        dtype, device = self.program.dtype, self.program.device
        sums = torch.tensor(state.sums, dtype=torch.float64, device=device)
        for batch in split.batches(self.settings.batch_size, order, start=state.batch, dtype=dtype):
            done = state.epoch + state.batch / self.num_batches
            self.rate.begin_step(done)
            beta = torch.full((), self.beta(done), dtype=dtype, device=device)
            batch = {site: value.to(device) for site, value in batch.items()}
            with self.locating(), self.ragged(len(next(iter(batch.values())))):
                loss = self.svi.step(batch, beta)
            losses = torch.cat([loss[None], self.svi.terms])
            sums = sums if len(sums) else losses.new_zeros(losses.shape, dtype=torch.float64)
            sums.add_(losses, alpha=len(next(iter(batch.values()))))
            state.batch += 1
            report.step(functools.partial(self.figures, losses))
            if signals:
                with self.locating():
                    self.svi.check()
                state.sums = sums.tolist()
                state.seconds += time.monotonic() - began
                self.save()
                raise Interrupted(self.how_to_resume(), signals[0])
        with self.locating():
            self.svi.check()
        if not all(p.isfinite().all() for p in self.program.parameters()):
            raise NonFiniteLossError(self.non_finite("a parameter is not finite after the epoch's last step"))
        row = self.measure(sums / len(split))
        self.rate.end_epoch(row)
        row["seconds"] = round(state.seconds + time.monotonic() - began, 3)
        state.history.append(row)
        state.epoch, state.batch, state.sums, state.seconds = state.epoch + 1, 0, [], 0.0
        state.finished = state.epoch >= self.settings.epochs
        verdict = self.watch(row)
        self.save()
        report.epoch(row, state.finished)
        if not state.finished and self.called_back(row):
            state.finished = True
            verdict = f"stopped by the callback after epoch {state.epoch}{self.take_best()}"
            self.save()
        if verdict:
            report.line(verdict)
        if signals and not state.finished:
            raise Interrupted(self.how_to_resume(), signals[0])

    def figures(self, totals: Tensor) -> dict[str, float]:
        """The loss and the ELBO's terms by name."""
        loss, *values = totals.tolist()
        terms = dict(zip(self.state.terms, values, strict=True))
        kl = math.fsum(value for name, value in terms.items() if name.startswith("kl_"))
        elbo = -math.fsum(values)
        return {"loss": loss, "elbo": elbo, "reconstruction": -elbo - kl, "kl": kl} | _several(terms)

    def measure(self, means: Tensor) -> dict[str, float]:
        """The epoch's row of the history, from the means over its data."""
        steps = (self.state.epoch + 1) * self.num_batches
        row: dict[str, float] = {
            "epoch": self.state.epoch + 1,
            "steps": steps,
            "lr": float(self.rate.optimizer.param_groups[0]["lr"]),
            "beta": self.beta((steps - 1) / self.num_batches),
        } | self.figures(means)
        if len(self.data.validation):
            found = unchecked_elbo(self.program, self.data.validation)
            if not math.isfinite(found.elbo):
                raise NonFiniteLossError(self.non_finite(f"the validation ELBO is {found.elbo}"))
            named = {"elbo": found.elbo, "reconstruction": found.reconstruction, "kl": found.kl}
            row |= {f"validation_{name}": value for name, value in (named | _several(found.terms)).items()}
        return row

    def watch(self, row: Mapping[str, float]) -> str:
        """Keeps the best weights, and decides whether to stop, and then restores them."""
        state, patience, begins = self.state, self.settings.patience, self.settings.warmup_epochs
        if patience is None:
            return ""
        if state.epoch > begins and row["validation_elbo"] > state.best_elbo:
            state.best_epoch, state.best_elbo = state.epoch, row["validation_elbo"]
            self.best = {name: value.clone() for name, value in self.program.state_dict().items()}
        stop = state.epoch - max(state.best_epoch, begins) >= patience
        state.finished = state.finished or stop
        why = f"stopped early, without a better validation ELBO for {patience} epochs" if stop else ""
        return (why + self.take_best()).removeprefix(": ") if state.finished else ""

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
        """Writes the history and the checkpoint."""
        if self.folder is None:
            return
        if self.state.history:  # first, so that it is never behind; resuming rewrites it
            write_history(self.folder, self.state.history)
        states.save(
            self.folder, self.state, self.program, self.best, self.svi, self.rate, self.data.fingerprint
        )

    @contextmanager
    def ragged(self, size: int) -> Iterator[None]:
        """The step on an epoch's last batch, where it is smaller, is eager: it is not worth a compilation."""
        if (
            size == min(self.settings.batch_size, len(self.data.train))
            or self.settings.epochs >= COMPILED_STEPS
        ):
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
            raise NonFiniteLossError(self.non_finite(str(error))) from error

    def non_finite(self, reason: str) -> str:
        """Where training stopped, why, and what is left."""
        done = self.state.epoch
        kept = f" The last good checkpoint, after {done} epochs, is in {self.folder}." if self.folder else ""
        return f"epoch {done + 1}: {reason}.{kept} Try a lower lr, or clip_norm=100"

    def how_to_resume(self) -> str:
        """Where training stopped, and how to go on."""
        where = f"stopped in epoch {self.state.epoch + 1}, after {self.state.batch} batches"
        if self.folder is None:
            return f"{where}; nothing is kept of a run without a folder: pv.fit(..., folder='runs/mine')"
        return f"{where}, and saved. Go on with: pyro-vae train --resume {self.folder}"


def fit(
    program: Program,
    data: Data,
    *,
    folder: str | Path | None = None,
    resume: bool = False,
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
        resume: go on from the folder's checkpoint.
        callback: called after each epoch with its number, its row of the history and the program, in
            evaluation mode; training stops when it returns what is true.
        progress: show a bar on a terminal, lines elsewhere.
        settings: as listed below.

    Raises:
        ConfigError: there is no such setting, or its value will not do.
        DataError: the data lie outside the likelihood's support, or have another shape.
        CheckpointError: the folder holds a run already (or none, to resume), or another one.
        NonFiniteLossError: the loss became NaN or infinite; the last checkpoint is untouched.
        Interrupted: SIGINT or SIGTERM; the step was finished and, where there is a folder, saved.
    """
    chosen = Settings.from_plain(settings, trust="*")
    folder = Path(folder) if folder is not None else None
    _check(program, data, chosen, folder, resume, callback)
    values = checkpoint.describe(program) | data.config | chosen.to_plain()
    place = find_device(chosen.device)
    program.to(place)
    data.to(place)
    for site in data.train.event_shapes:
        if site != "y" and site not in program.classes:  # labels have no scale
            data.train.check_scale(site)
    splits = [split for split in (data.train, data.validation, data.test) if len(split)]
    for split in splits:
        evaluate.check(program, split)
    gaps = frozenset[str]().union(*(split.gaps for split in splits))
    devices = [place.index or 0] if place.type == "cuda" else []
    with torch.random.fork_rng(devices), collected() as signals, observing(gaps):
        seed_generators(chosen.seed, place)
        if not program.initialized:
            program.see_gaps(gaps)
            program.initialize(data.train)
        training = _prepare(program, data, chosen, folder, callback)
        if folder is not None and resume:
            _refuse_differences(folder, values)
            training.state, training.best = states.restore(
                folder, program, training.svi, training.rate, data.fingerprint
            )
        elif folder is not None:
            if (folder / checkpoint.CONFIG).exists():
                checkpoint.write_config(folder, values)  # which refuses, before a file is touched
            folder.mkdir(parents=True, exist_ok=True)
            # In this order, so that what has a configuration can always be resumed.
            training.save()
            checkpoint.write_config(folder, values)
        _train(training, signals, progress)
    program.eval()
    return Run(program, data, training.state.history, folder)


_defaults = Settings().to_plain()
_options = [f"        {name}={_defaults[name]}: {told}" for name, told in Settings.documentation().items()]
_listed = "\n".join(textwrap.fill(line, 105, subsequent_indent=" " * 12) for line in _options)
fit.__doc__ = f"{fit.__doc__}\n    Settings:\n{_listed}\n"


def _train(training: _Training, signals: Sequence[int], progress: bool) -> None:
    state, num_batches, folder = training.state, training.num_batches, training.folder
    first = state.epoch * num_batches + state.batch
    with (
        alone(folder),
        Report(folder, training.settings.epochs, num_batches, first, progress, state.finished) as report,
    ):
        if not state.finished:
            for line in _opening(training):
                report.line(line)
            training.svi.log = report.line
        while not state.finished:
            training.epoch(report, signals)
        if folder is not None:
            checkpoint.save_model(folder, training.program)
        if signals:
            where = f"the model is saved in {folder}" if folder else "the program is trained"
            raise Interrupted(f"training had ended, and {where}", signals[0])


def _prepare(
    program: Program, data: Data, settings: Settings, folder: Path | None, callback: Callback | None
) -> _Training:
    """The optimizer, its schedule and the step."""
    optimizer = make_optimizer(settings.optimizer, program, settings.lr)
    rate = LearningRate(optimizer, settings.lr, settings.schedule, settings.epochs)
    num_steps = settings.epochs * math.ceil(len(data.train) / settings.batch_size)
    compiled = num_steps >= COMPILED_STEPS if settings.compile == "auto" else settings.compile
    svi = SVI(
        _annealed(program.model),
        _annealed(program.guide),
        optimizer,
        copy.copy(settings.loss),  # which keeps what it guesses of the program's plates
        compile=compiled,
        precision=settings.precision,
        reduction="mean",
        clip_norm=settings.clip_norm,
        terms=lambda model, guide: _terms(training, model, guide),
    )
    training = _Training(program, data, settings, svi, rate, folder, callback)
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


def make_optimizer(
    factory: Callable[..., torch.optim.Optimizer], program: Program, lr: Any
) -> torch.optim.Optimizer:
    """The optimizer, in its fused form (one kernel for all parameters) where it has one.

    Raises:
        ConfigError: it cannot be made.
    """
    cls, given = (factory.func, factory.keywords) if isinstance(factory, functools.partial) else (factory, {})
    chosen = given.get("fused") is not None or given.get("foreach") or given.get("differentiable")
    accepted = inspect.signature(cls).parameters
    ways: dict[str, Any] = {} if chosen or "fused" not in accepted else {"fused": True}
    parameters = [p for p in program.parameters() if p.requires_grad]
    rate: Any = float(lr(0.0)) if callable(lr) else lr
    if (
        ways and program.device.type == "cuda" and "capturable" in accepted
    ):  # so that a CUDA graph can hold it
        ways["capturable"], rate = True, torch.tensor(rate, device=program.device)
    try:
        return factory(parameters, lr=rate, **ways)
    except (TypeError, ValueError, RuntimeError) as error:
        name = getattr(cls, "__name__", cls)
        raise ConfigError(f"the optimizer {name} cannot be made: {error}; torch.optim.Adam can") from error


def _check(
    program: Any, data: Any, settings: Settings, folder: Path | None, resume: bool, callback: Any
) -> None:
    if not isinstance(program, Program):
        raise TypeError(f"fit takes a program, such as pv.VAE(...), not {type(program).__name__}")
    if not isinstance(data, Data):
        raise TypeError(
            f"fit takes a data set, not a {type(data).__name__}; pv.fit(vae, pv.data.load(x), ...)"
        )
    if callback is not None and not callable(callback):
        raise TypeError(f"callback={callback!r} is no function (epoch, metrics, program)")
    if resume and folder is None:
        raise ConfigError("resume=True needs the folder of a run: folder='runs/mine'")
    if settings.patience is not None and not len(data.validation):
        raise ConfigError(
            f"patience={settings.patience} needs validation data to watch, and there are none: "
            "pv.data.load(..., validation=0.1)"
        )


def _refuse_differences(folder: Path, values: Mapping[str, Any]) -> None:
    stored = checkpoint.read_config(folder)
    for name in values:
        if name != "device" and stored.get(name) != values[name]:
            raise CheckpointError(
                f"{folder} is a run with {name}={stored.get(name)!r}, not {values[name]!r}, and cannot be "
                f"gone on with differently; resume it as it is: pv.resume({str(folder)!r})"
            )


def _opening(training: _Training) -> Iterator[str]:
    program, settings = training.program, training.settings
    size = sum(p.numel() for p in program.parameters() if p.requires_grad)
    yield f"{len(training.data.train)} data on {program.device}, {size} parameters, seed {settings.seed}"
    kind = "compiled" if training.svi.compile else "eager"
    hint = f" (compile=True compiles them; auto does from {COMPILED_STEPS})"
    why = hint if settings.compile == "auto" and not training.svi.compile else ""
    yield f"{settings.epochs * training.num_batches} steps, {kind}, {settings.precision}{why}"
    with program.evaluating():
        model, guide = traces(program, program.place(training.data.train.batch(slice(0, 1))), 1)
        own = {id(parameter) for parameter in program.parameters()}
        for name, site in [*model.nodes.items(), *guide.nodes.items()]:
            if site["type"] == "param" and id(cast(Any, site["value"]).unconstrained()) not in own:
                raise ConfigError(
                    f"the program makes a parameter {name!r} by pyro.param, which is Pyro's and would not be "
                    "trained or kept; make it the program's: self.scale = nn.Parameter(torch.zeros(()))"
                )
        estimated = [site for site, closed in in_closed_form(model, guide).items() if not closed]
    told = f"as estimated from draws ({', '.join(estimated)})" if estimated else "in closed form"
    yield f"KL reported {told}"


def resume(
    folder: str | Path,
    *,
    program: Program | None = None,
    data: Data | None = None,
    trust: Trust = (),
    callback: Callback | None = None,
    progress: bool = True,
) -> Run:
    """Goes on with an interrupted run; the finished run has the bits of an uninterrupted one.

    Args:
        folder: of the run.
        program: one built as the run's was, if its parts have no import path.
        data: the run's data, if they were an array and not a name or a file.
        trust: modules of one's own that the run's configuration may import from.
        callback: as in ``fit``.
        progress: show a bar on a terminal, lines elsewhere.

    Raises:
        CheckpointError, ConfigError, DataError: the run cannot be gone on with, and why.
    """
    folder = Path(folder)
    values = checkpoint.read_config(folder)
    _, meta = checkpoint.load_tensors(folder / checkpoint.CHECKPOINT)
    if data is None:
        if values.get("data") is None:
            raise CheckpointError(
                f"{folder} was trained on an array, which is not kept with it; pass it: "
                f"pv.resume({str(folder)!r}, data=pv.data.load(array))"
            )
        data = load(**checkpoint.options(load, values))
    program = checkpoint.build(values, meta, folder, trust, program)
    names = Settings.documentation().keys() & values.keys()
    settings = Settings.from_plain({name: values[name] for name in names}, trust)
    objects = {name: getattr(settings, name) for name in names}
    return fit(program, data, **objects, folder=folder, resume=True, callback=callback, progress=progress)
