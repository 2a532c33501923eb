"""The training loop: epochs, schedules, validation, early stopping, checkpoints, reports."""

from __future__ import annotations

import csv
import importlib.util
import inspect
import io
import itertools
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyro.infer
import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae import checkpoint, config, evaluate
from pyro_vae.checkpoint import CheckpointError
from pyro_vae.compiler import Compile
from pyro_vae.data import Data, load
from pyro_vae.distributions import has_closed_form
from pyro_vae.objectives import SCHEDULES, elbo_terms, scale_latents, warmup
from pyro_vae.svi import SVI, NonFiniteLossError, Precision, set_lr
from pyro_vae.vae import VAE, seed_generators

try:
    import fcntl
except ImportError:  # not on this system
    fcntl = None  # type: ignore[assignment]

Schedule = Literal["constant", "cosine", "linear", "burda"]

COMPILED_STEPS = 3000
"""Length of a run, in steps, from which on it is worth waiting for the compiler."""


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal; the message says how to go on."""

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.signum = signum


@dataclass
class Run:
    """A finished run.

    Attributes:
        folder: where it is kept.
        vae: the trained model.
        data: what it was trained on.
        history: one row per epoch, as in history.csv.
    """

    folder: Path
    vae: VAE
    data: Data
    history: list[dict[str, float]]


@dataclass
class _State:
    """Where training stands: with the weights, optimizer and generators, all that resuming takes."""

    epoch: int = 0
    batch: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_elbo: float = -math.inf
    finished: bool = False


@dataclass
class _Training:
    """A run in progress: what its epochs need, and what is saved of it."""

    folder: Path
    vae: VAE
    data: Data
    svi: SVI
    epochs: int
    batch_size: int
    lr: float
    schedule: Callable[[float], float]
    beta_end: float
    warmup_epochs: int
    patience: int | None
    seed: int
    state: _State = field(default_factory=_State)
    best: dict[str, Tensor] = field(default_factory=dict)

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        return math.ceil(len(self.data.train) / self.batch_size)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer."""
        assert isinstance(self.svi.optim, torch.optim.Optimizer)
        return self.svi.optim

    def beta(self, step: int) -> float:
        """Weight of the KL in a step."""
        return self.beta_end * warmup(step, self.warmup_epochs * self.num_batches)

    def epoch(self, report: _Report, signals: list[int]) -> None:
        """Trains for an epoch, or what is left of it, and saves."""
        began, state, split = time.monotonic(), self.state, self.data.train
        self.vae.train()
        redraw_seed, order_seed = map(int, np.random.SeedSequence([self.seed, state.epoch]).generate_state(2))
        split.redraw(redraw_seed)
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(order_seed))
        dtype, device = self.vae.input_loc.dtype, self.vae.input_loc.device
        sums = torch.tensor(state.sums, dtype=torch.float64, device=device)
        for x in split.batches(self.batch_size, order, start=state.batch, dtype=dtype):
            step = state.epoch * self.num_batches + state.batch
            set_lr(self.optimizer, self.lr * self.schedule(step / (self.epochs * self.num_batches)))
            beta = torch.full((), self.beta(step), dtype=dtype, device=device)
            with self.locating():
                loss = self.svi.step(x.to(device), beta)
            losses = torch.cat([loss[None], self.svi.terms])
            sums.add_(losses, alpha=len(x))
            state.batch += 1
            report.step(losses)
            if signals:
                with self.locating():
                    self.svi.check()
                state.sums = sums.tolist()
                state.seconds += time.monotonic() - began
                self.save()
                raise Interrupted(self.how_to_resume(), signals[0])
        with self.locating():
            self.svi.check()
        state.sums = sums.tolist()
        if not all(p.isfinite().all() for p in self.vae.parameters()):
            raise NonFiniteLossError(self.non_finite("a parameter is not finite after the epoch's last step"))
        row = self.measure()
        row["seconds"] = round(state.seconds + time.monotonic() - began, 3)
        state.history.append(row)
        state.epoch, state.batch, state.sums, state.seconds = state.epoch + 1, 0, [0.0] * 3, 0.0
        verdict = self.watch(row)
        self.save()
        report.epoch(row)
        if verdict:
            report.line(verdict)
        if signals and not state.finished:
            raise Interrupted(self.how_to_resume(), signals[0])

    def measure(self) -> dict[str, float]:
        """The epoch's row of the history."""
        steps = (self.state.epoch + 1) * self.num_batches
        loss, reconstruction, kl = (total / len(self.data.train) for total in self.state.sums)
        row: dict[str, float] = {
            "epoch": self.state.epoch + 1,
            "steps": steps,
            "lr": float(self.optimizer.param_groups[0]["lr"]),
            "beta": self.beta(steps - 1),
            "loss": loss,
            "elbo": -(reconstruction + kl),
            "reconstruction": reconstruction,
            "kl": kl,
        }
        if len(self.data.validation):
            validation = evaluate.elbo(self.vae, self.data.validation)
            if not math.isfinite(validation.elbo):
                raise NonFiniteLossError(self.non_finite(f"the validation ELBO is {validation.elbo}"))
            row["validation_elbo"] = validation.elbo
            row["validation_reconstruction"] = validation.reconstruction
            row["validation_kl"] = validation.kl
        return row

    def watch(self, row: dict[str, float]) -> str:
        """Keeps the best weights, decides whether to stop, and then restores them."""
        state = self.state
        state.finished = state.epoch >= self.epochs
        if self.patience is None:
            return ""
        if state.epoch > self.warmup_epochs and row["validation_elbo"] > state.best_elbo:
            state.best_epoch, state.best_elbo = state.epoch, row["validation_elbo"]
            self.best = {name: value.clone() for name, value in self.vae.state_dict().items()}
        stop = state.epoch - max(state.best_epoch, self.warmup_epochs) >= self.patience
        state.finished = state.finished or stop
        if not (state.finished and self.best):
            return ""
        self.vae.load_state_dict(self.best)
        why = f"stopped early, without a better validation ELBO for {self.patience} epochs: " if stop else ""
        return f"{why}restored the weights of epoch {state.best_epoch}"

    def save(self) -> None:
        """Writes the checkpoint, all in one file, and the history."""
        tensors = {f"model.{name}": value for name, value in self.vae.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        tensors["rng.cpu"] = torch.get_rng_state()
        if self.vae.input_loc.is_cuda:
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.vae.input_loc.device)
        saved = self.optimizer.state_dict()
        for group in saved["param_groups"]:
            group["lr"] = float(group["lr"])  # a tensor on a GPU
        scalars: dict[str, dict[str, Any]] = {}
        for index, entries in saved["state"].items():
            for name, value in entries.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{index}.{name}"] = value
                else:
                    scalars.setdefault(str(index), {})[name] = value
        meta = asdict(self.state) | checkpoint.identity(self.vae)
        meta["fingerprint"] = self.data.fingerprint
        meta["optimizer"] = {"scalars": scalars, "param_groups": saved["param_groups"]}
        meta["num_steps"] = self.svi.num_steps
        if self.state.history:  # first, so that it is never behind; resuming rewrites it
            text = io.StringIO()
            writer = csv.DictWriter(text, self.state.history[0].keys())
            writer.writeheader()
            writer.writerows(self.state.history)
            checkpoint.write(self.folder / "history.csv", text.getvalue().encode())
        checkpoint.save_tensors(self.folder / checkpoint.CHECKPOINT, tensors, meta)

    def restore(self, values: dict[str, Any]) -> None:
        """Takes up what ``save`` wrote, if it is of this configuration and these data."""
        folder = self.folder
        stored = checkpoint.read_config(folder)
        differing = [name for name in values if name != "device" and stored.get(name) != values[name]]
        if differing:
            name = differing[0]
            raise CheckpointError(
                f"{folder} is a run with {name}={stored.get(name)!r}, not {values[name]!r}, and cannot be "
                f"gone on with differently; resume it as it is: pv.resume({str(folder)!r})"
            )
        path = folder / checkpoint.CHECKPOINT
        tensors, meta = checkpoint.load_tensors(path)
        if meta["fingerprint"] != self.data.fingerprint:
            raise CheckpointError(
                f"{folder} was trained on other data ({meta['fingerprint']}) than given "
                f"({self.data.fingerprint}); give the same data, or start a new run"
            )
        checkpoint.load_state(self.vae, checkpoint.under("model.", tensors), path)
        entries: dict[int, dict[str, Any]] = {}
        for name, value in checkpoint.under("optimizer.", tensors).items():
            index, key = name.split(".", 1)
            entries.setdefault(int(index), {})[key] = value
        for index, named in meta["optimizer"]["scalars"].items():
            entries.setdefault(int(index), {}).update(named)
        # How the optimizer runs is a matter of the device, which may be another one now.
        kept = ("lr", "fused", "foreach", "capturable")
        groups = [
            saved | {name: own[name] for name in kept if name in own}
            for saved, own in zip(meta["optimizer"]["param_groups"], self.optimizer.param_groups, strict=True)
        ]
        self.optimizer.load_state_dict({"state": entries, "param_groups": groups})
        set_lr(self.optimizer, meta["optimizer"]["param_groups"][0]["lr"])
        for own, entry in zip(self.optimizer.state.values(), entries.values(), strict=True):
            for name, value in entry.items():  # which load_state_dict casts to the parameters' dtype
                if isinstance(value, Tensor) and own[name].dtype != value.dtype:
                    own[name] = value.to(own[name].device)
        self.svi.num_steps = meta["num_steps"]
        torch.set_rng_state(tensors["rng.cpu"])
        if "rng.cuda" in tensors and self.vae.input_loc.is_cuda:
            torch.cuda.set_rng_state(tensors["rng.cuda"], self.vae.input_loc.device)
        names = _State.__dataclass_fields__
        self.state = _State(**{name: value for name, value in meta.items() if name in names})
        self.best = checkpoint.under("best.", tensors)

    @contextmanager
    def locating(self) -> Iterator[None]:
        """Adds to a failed step's message where training stopped, and what is left."""
        try:
            yield
        except NonFiniteLossError as error:
            raise NonFiniteLossError(self.non_finite(str(error))) from error

    def non_finite(self, reason: str) -> str:
        """Where training stopped, why, and what is left."""
        return (
            f"epoch {self.state.epoch + 1}: {reason}. The last good checkpoint, after {self.state.epoch} "
            f"epochs, is in {self.folder}. Try a lower lr, or clip_norm=100"
        )

    def how_to_resume(self) -> str:
        """Where training stopped, and how to go on."""
        return (
            f"stopped in epoch {self.state.epoch + 1}, after {self.state.batch} batches, and saved. Go on "
            f"with: pyro-vae train --resume {self.folder}"
        )


def fit(
    vae: VAE,
    data: Data,
    *,
    epochs: int = 100,
    batch_size: int = 128,
    lr: float = 1e-3,
    optimizer: Callable[[Iterable[Any], float], torch.optim.Optimizer] = torch.optim.Adam,
    schedule: Schedule = "cosine",
    loss: pyro.infer.ELBO = pyro.infer.Trace_ELBO(),
    beta: float = 1.0,
    warmup_epochs: int = 0,
    clip_norm: float | None = None,
    patience: int | None = None,
    compile: Compile = "auto",
    precision: Precision = "float32",
    device: str = "auto",
    seed: int = 0,
    folder: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Run:
    """Trains a VAE by stochastic variational inference, and keeps the run in a folder.

    Minimises the mean over data of ``loss``; for ``Trace_ELBO`` the negative ELBO, in nats per datum.
    All randomness is drawn under ``seed``, and the generators of the caller are left as they were. A
    run that is interrupted and resumed ends with the same bits as one that was not.

    Args:
        vae: the model; trained in place, on ``device``.
        data: as made by ``pv.data.load``; moved to ``device``.
        epochs: passes over the training data.
        batch_size: data per gradient step.
        lr: learning rate at its highest.
        optimizer: any ``torch.optim`` class, or ``functools.partial`` of one with its arguments.
        schedule: of the learning rate over the whole run: constant, cosine, linear (to 0), or burda.
        loss: any ``pyro.infer.ELBO``.
        beta: weight of the KL in training (beta-VAE; Higgins et al., 2017). Where it is not 1, what is
            minimised bounds no log p(x); it never enters a reported ELBO.
        warmup_epochs: epochs over which the weight of the KL rises linearly to ``beta`` (KL warm-up).
        clip_norm: largest norm of the gradient of the mean loss.
        patience: epochs without a better validation ELBO after which training stops; the best weights
            are then restored. Counted from the end of the warm-up.
        compile: whether the step is compiled (see pyro_vae.svi.SVI), which takes a few seconds for each
            shape of batches and changes no result but in rounding; auto: in runs of at least 3000 steps.
        precision: float32; or bf16: the networks' matrix products and convolutions in bfloat16 while
            training, with distributions, the KL, parameters and all evaluation in float32.
        device: cpu, cuda, or auto: cuda if there is one.
        seed: of the noise, the order of the data and the dynamic binarisation.
        folder: of the run; by default runs/DATA-TIME.
        resume: go on from the folder's checkpoint.
        progress: show a bar on a terminal, lines elsewhere.

    Raises:
        DataError: the data lie outside the likelihood's support, or have another shape.
        CheckpointError: the folder holds a run already (or none, to resume), or another one.
        NonFiniteLossError: the loss became NaN or infinite; the last checkpoint is untouched.
        Interrupted: SIGINT or SIGTERM; the step was finished and saved.
    """
    settings = {
        name: config.describe(value)
        for name, value in locals().items()
        if name not in ("vae", "data", "folder", "resume", "progress")
    }
    _check_arguments(
        data, epochs, batch_size, lr, schedule, patience, seed, loss, beta, warmup_epochs, clip_norm
    )
    values = data.config | {"latent_dim": vae.latent_dim} | _describe_parts(vae) | settings
    place = find_device(device)
    vae.to(place)
    data.to(place)
    data.train.check_scale()
    for split in (data.train, data.validation, data.test):
        if len(split):
            evaluate.check_support(vae, split)
    num_steps = epochs * math.ceil(len(data.train) / batch_size)
    why = ""
    if compile == "auto":
        compile = num_steps >= COMPILED_STEPS
        why = "" if compile else f" (compile=True compiles them; auto does from {COMPILED_STEPS})"
    svi = SVI(
        _annealed(vae.model),
        _annealed(vae.guide),
        _make(optimizer, vae, lr),
        loss,
        compile=compile,
        precision=precision,
        reduction="mean",
        clip_norm=clip_norm,
        terms=elbo_terms,
    )
    folder = Path(folder) if folder else _new_folder(data.name)
    rate = SCHEDULES[schedule]
    training = _Training(
        folder, vae, data, svi, epochs, batch_size, lr, rate, beta, warmup_epochs, patience, seed
    )
    devices = [place.index or 0] if place.type == "cuda" else []
    with torch.random.fork_rng(devices), _signals() as signals:
        seed_generators(seed, place)
        if not vae.initialized:
            vae.initialize(data.train)
        if resume:
            training.restore(values)
        else:
            if (folder / checkpoint.CONFIG).exists():
                checkpoint.write_config(folder, values)  # which refuses, before a file is touched
            folder.mkdir(parents=True, exist_ok=True)
            # In this order, so that what has a configuration can always be resumed.
            training.save()
            checkpoint.write_config(folder, values)
        with _alone(folder), _Report(training, progress) as report:
            if not training.state.finished:
                size = sum(p.numel() for p in vae.parameters() if p.requires_grad)
                report.line(f"{len(data.train)} data on {place}, {size} parameters, seed {seed}")
                report.line(f"{num_steps} steps, {'compiled' if svi.compile else 'eager'}, {precision}{why}")
                report.line(f"KL reported {_kl_is(vae, data)}")
                svi.log = report.line
            while not training.state.finished:
                training.epoch(report, signals)
            checkpoint.save_model(folder, vae)
            if signals:
                raise Interrupted(f"training had ended, and the model is saved in {folder}", signals[0])
    vae.eval()
    return Run(folder, vae, data, training.state.history)


def _kl_is(vae: VAE, data: Data) -> str:
    with vae.evaluating():
        q_z = vae.encode(data.train[:1].to(vae.input_loc))
        closed = has_closed_form(q_z, vae.prior())
    return "in closed form" if closed else "as estimated from draws"


def resume(
    folder: str | Path, *, vae: VAE | None = None, data: Data | None = None, progress: bool = True
) -> Run:
    """Goes on with an interrupted run; the finished run has the bits of an uninterrupted one.

    Args:
        folder: of the run.
        vae: one built as the run's was, if its parts have no import path.
        data: the run's data, if they were an array and not a name or a file.
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
        data = load(**config.build(load, values, skip=["labels"]))
    vae = vae or checkpoint.build_vae(values, meta, folder)
    skip = ("vae", "data", "folder", "resume", "progress")
    settings = config.build(fit, values, skip=skip)
    return fit(vae, data, **settings, folder=folder, resume=True, progress=progress)


def _check_arguments(
    data: Data,
    epochs: int,
    batch_size: int,
    lr: float,
    schedule: str,
    patience: int | None,
    seed: int,
    loss: pyro.infer.ELBO,
    beta: float,
    warmup_epochs: int,
    clip_norm: float | None,
) -> None:
    if not isinstance(data, Data):
        raise TypeError(
            f"fit takes a data set, not a {type(data).__name__}; pv.fit(vae, pv.data.load(x), ...)"
        )
    for name, value in (("epochs", epochs), ("batch_size", batch_size), ("lr", lr)):
        if not value > 0:
            raise config.ConfigError(f"{name}={value} must be positive")
    check_seed(seed)
    if clip_norm is not None and not clip_norm > 0:
        raise config.ConfigError(f"clip_norm={clip_norm} must be positive, or None for no clipping")
    if not 0 <= beta < math.inf:
        raise config.ConfigError(f"beta={beta} must be a number from 0 up; beta=1 makes the loss the ELBO's")
    if warmup_epochs < 0:
        raise config.ConfigError(f"warmup_epochs={warmup_epochs} must not be negative")
    if type(loss) in config.UNUSABLE:
        raise config.ConfigError(f"{type(loss).__name__} does not fit here; loss=pyro.infer.Trace_ELBO()")
    if schedule not in SCHEDULES:
        raise config.ConfigError(
            f"no schedule is named {schedule!r}; {config.nearest(str(schedule), SCHEDULES)}"
        )
    if patience is not None and not (patience > 0 and len(data.validation)):
        raise config.ConfigError(
            f"patience={patience} needs to be positive, and validation data to watch "
            f"(there are {len(data.validation)}): pv.data.load(..., validation=0.1)"
        )


def _describe_parts(vae: VAE) -> dict[str, Any]:
    return {name: config.describe(part) for name, part in vae.parts.items()}


def check_seed(seed: int) -> None:
    """Refuses what is no seed."""
    if not 0 <= seed < 2**32:
        raise config.ConfigError(f"seed={seed} must lie from 0 up to 2**32")


def find_device(device: str) -> torch.device:
    """The device of a name; ``auto`` is cuda if there is one, else cpu.

    Raises:
        ConfigError: there is no such device.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.zeros((), device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise config.ConfigError(f"device={device!r} cannot be used ({reason}); device='cpu' can") from error


def _make(factory: Callable[..., torch.optim.Optimizer], vae: VAE, lr: float) -> torch.optim.Optimizer:
    """The optimizer, in its fused form (one kernel for all parameters) where it has one."""
    cls, keywords = config.factory(factory)
    if "lr" in keywords:
        raise config.ConfigError(f"the optimizer was given lr={keywords['lr']}; give it to fit: lr=...")
    if cls in config.UNUSABLE:
        raise config.ConfigError(f"{cls.__name__} does not fit here; optimizer=torch.optim.Adam, for example")
    chosen = keywords.get("fused") is not None or keywords.get("foreach") or keywords.get("differentiable")
    accepted = inspect.signature(cls).parameters
    ways: dict[str, Any] = {} if chosen or "fused" not in accepted else {"fused": True}
    parameters = [p for p in vae.parameters() if p.requires_grad]
    rate: Any = lr
    if ways and vae.input_loc.is_cuda and "capturable" in accepted:  # so that a CUDA graph can hold it
        ways["capturable"], rate = True, torch.tensor(lr, device=vae.input_loc.device)
    try:
        return factory(parameters, rate, **ways)
    except (ValueError, RuntimeError) as error:
        raise config.ConfigError(f"{cls.__name__} cannot be made: {error}") from error


def _annealed(program: Callable[[Tensor], Any]) -> Callable[[Tensor, Tensor], Any]:
    """The program with a second argument, the factor of its latents' log-densities."""

    def run(x: Tensor, beta: Tensor) -> Any:
        with scale_latents(beta):
            return program(x)

    return run


def _new_folder(name: str) -> Path:
    """A folder runs/NAME-TIME that no other run has."""
    stem = f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    for suffix in itertools.chain([""], map("-{}".format, itertools.count(2))):
        folder = Path("runs") / (stem + suffix)
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
    raise AssertionError("unreachable")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Refuses to train a run that another process is training; a killed process leaves no lock."""
    with (folder / ".lock").open("w") as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise CheckpointError(
                    f"another process is training {folder}; wait for it, or stop it"
                ) from None
        yield


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM, to finish the step in progress; the same one again acts as ever."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def handle(signum: int, frame: Any) -> None:
        received.append(signum)
        signal.signal(signum, previous[signum])

    previous: dict[int, Any] = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


class _Report:
    """Tells of the progress: a bar on a terminal or lines elsewhere, log.txt, TensorBoard."""

    def __init__(self, training: _Training, progress: bool):
        self.training = training
        state = training.state
        terminal = sys.stderr.isatty() or "ipykernel" in sys.modules
        self.lines = progress and not terminal
        self.last_line = self.last_read = 0.0
        self.unread = 0
        self.log = (training.folder / "log.txt").open("a")  # closed on exit
        self.validation: dict[str, str] = {}
        self.bar = tqdm(
            total=training.epochs * training.num_batches,
            initial=state.epoch * training.num_batches + state.batch,
            disable=not (progress and terminal) or state.finished,
            unit="step",
            dynamic_ncols=True,
        )
        self.writer = None
        if importlib.util.find_spec("tensorboard") and not state.finished:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(training.folder / "tensorboard"), purge_step=state.epoch + 1)

    def __enter__(self) -> _Report:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.bar.close()
        if error is not None:
            self._write(f"{type(error).__name__}: {error}")
        self.log.close()
        if self.writer:
            self.writer.close()

    def step(self, losses: Tensor) -> None:
        """After a step, of which the loss, reconstruction and KL are given."""
        self.unread += 1
        if not self.bar.disable and time.monotonic() - self.last_read > 0.1:  # reading waits for a GPU
            epoch = f"epoch {self.training.state.epoch + 1}/{self.training.epochs}"
            self.bar.set_description(epoch, refresh=False)
            named = zip(("loss", "reconstruction", "KL"), losses.tolist(), strict=True)
            figures = {name: f"{value:.2f}" for name, value in named}
            self.bar.set_postfix(figures | self.validation, refresh=False)
            self.bar.update(self.unread)
            self.unread, self.last_read = 0, time.monotonic()

    def epoch(self, row: dict[str, float]) -> None:
        """After an epoch."""
        labels = {"reconstruction": "reconstruction", "kl": "KL", "validation_elbo": "validation ELBO"}
        figures = [f"{label} {row[key]:.2f}" for key, label in labels.items() if key in row]
        if "validation_elbo" in row:
            self.validation = {"validation ELBO": f"{row['validation_elbo']:.2f}"}
        text = "  ".join([f"epoch {row['epoch']}/{self.training.epochs}  loss {row['loss']:.2f}", *figures])
        self._write(f"{text}  {row['seconds']:.1f} s")
        if self.lines and (self.training.state.finished or time.monotonic() - self.last_line > 1):
            print(text, flush=True)
            self.last_line = time.monotonic()
        if self.writer:
            for key, value in row.items():
                self.writer.add_scalar(key, value, int(row["epoch"]))
            self.writer.flush()

    def line(self, text: str) -> None:
        """Anything else worth telling."""
        self._write(text)
        if self.lines:
            print(text, flush=True)
        elif not self.bar.disable:
            self.bar.write(text)

    def _write(self, text: str) -> None:
        self.log.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {text}\n")
        self.log.flush()
