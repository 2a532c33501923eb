"""The training loop: epochs, schedules, validation, early stopping, checkpoints, reports."""

from __future__ import annotations

import csv
import importlib.util
import inspect
import io
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
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
from pyro_vae.data import Data, load
from pyro_vae.objectives import SCHEDULES, warmup
from pyro_vae.svi import SVI, Losses, NonFiniteLossError
from pyro_vae.vae import VAE

Schedule = Literal["constant", "cosine", "linear", "burda"]


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
    warmup_epochs: int = 0,
    clip_norm: float | None = None,
    patience: int | None = None,
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
        warmup_epochs: epochs over which the weight of the KL rises linearly to 1 (KL warm-up). It
            never enters a reported ELBO.
        clip_norm: largest norm of the gradient of the mean loss.
        patience: epochs without a better validation ELBO after which training stops; the best weights
            are then restored. Counted from the end of the warm-up.
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
    _check_arguments(vae, data, epochs, batch_size, lr, schedule, patience)
    values = data.config | {"latent_dim": vae.latent_dim} | _describe_parts(vae) | settings
    folder = Path(folder or f"runs/{data.name}-{datetime.now():%Y%m%d-%H%M%S}")
    place = _place(device)
    vae.to(place)
    data.to(place)
    for split in (data.train, data.validation):
        if len(split):
            evaluate.check_support(vae, split)
    if not vae.initialized:
        vae.initialize(*data.train.moments)

    svi = SVI(vae.model, vae.guide, _make(optimizer, vae, lr), loss, clip_norm=clip_norm)
    state, best = _State(), dict[str, Tensor]()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([place.index or 0] if place.type == "cuda" else []))
        torch.manual_seed(seed)
        if resume:
            state, best = _restore(folder, vae, svi, values, data)
        else:
            _begin(folder, values)
        report = stack.enter_context(_Report(folder, data, state, epochs, batch_size, progress))
        stop = stack.enter_context(_signals())
        if not state.finished:
            report.line(f"{len(data.train)} data on {place}, {_num_parameters(vae)} parameters, seed {seed}")
        num_batches = math.ceil(len(data.train) / batch_size)

        def save() -> None:
            _save(folder, vae, svi, state, best, data)

        while not state.finished:
            began = time.monotonic()
            vae.train()
            epoch_seed, order_seed = map(int, np.random.SeedSequence([seed, state.epoch]).generate_state(2))
            data.train.redraw(epoch_seed)
            order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(order_seed))
            for x in data.train.batches(batch_size, order, start=state.batch):
                done = state.epoch * num_batches + state.batch
                for group in svi.optimizer.param_groups:
                    group["lr"] = lr * SCHEDULES[schedule](done / (epochs * num_batches))
                beta = warmup(done, warmup_epochs * num_batches)
                try:
                    losses = svi.step(x.to(vae.input_loc), beta)
                except NonFiniteLossError as error:
                    raise NonFiniteLossError(_non_finite(str(error), state, folder)) from error
                state.sums = [a + b * len(x) for a, b in zip(state.sums, losses, strict=True)]
                state.batch += 1
                report.step(state, losses)
                if stop:
                    state.seconds += time.monotonic() - began
                    save()
                    raise Interrupted(_how_to_resume(folder, state), stop[0])
            if not all(p.isfinite().all() for p in vae.parameters()):
                reason = "a parameter is not finite after the epoch's last step"
                raise NonFiniteLossError(_non_finite(reason, state, folder))

            train = Losses(*(total / len(data.train) for total in state.sums))
            row: dict[str, float] = {
                "epoch": state.epoch + 1,
                "steps": (state.epoch + 1) * num_batches,
                "lr": svi.optimizer.param_groups[0]["lr"],
                "beta": warmup((state.epoch + 1) * num_batches - 1, warmup_epochs * num_batches),
                "loss": train.loss,
                "elbo": -(train.reconstruction + train.kl),
                "reconstruction": train.reconstruction,
                "kl": train.kl,
            }
            if len(data.validation):
                validation = evaluate.elbo(vae, data.validation)
                row |= {
                    f"validation_{name}": value
                    for name, value in asdict(validation).items()
                    if name != "standard_error"
                }
            row["seconds"] = round(state.seconds + time.monotonic() - began, 3)
            state.history.append(row)
            state.epoch, state.batch, state.sums, state.seconds = state.epoch + 1, 0, [0.0] * 3, 0.0
            watched = patience is not None and state.epoch > warmup_epochs
            if watched and row["validation_elbo"] > state.best_elbo:
                state.best_epoch, state.best_elbo = state.epoch, row["validation_elbo"]
                best = {name: value.clone() for name, value in vae.state_dict().items()}
            waited = state.epoch - max(state.best_epoch, warmup_epochs)
            stopped_early = patience is not None and waited >= patience
            state.finished = stopped_early or state.epoch >= epochs
            if state.finished and best:
                vae.load_state_dict(best)
            save()
            report.epoch(state, row)
            if state.finished:
                if stopped_early:
                    report.line(f"stopped early: no better validation ELBO for {patience} epochs")
                if best:
                    report.line(f"restored the weights of epoch {state.best_epoch}")
        checkpoint.save_model(folder, vae)
    vae.eval()
    return Run(folder, vae, data, state.history)


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
    vae = vae or checkpoint.build_vae(values, meta["event_shape"], folder)
    skip = ("vae", "data", "folder", "resume", "progress")
    settings = config.build(fit, values, skip=skip)
    return fit(vae, data, **settings, folder=folder, resume=True, progress=progress)


def _check_arguments(
    vae: VAE,
    data: Data,
    epochs: int,
    batch_size: int,
    lr: float,
    schedule: str,
    patience: int | None,
) -> None:
    if not isinstance(data, Data):
        raise TypeError(
            f"fit takes a data set, not a {type(data).__name__}; pv.fit(vae, pv.data.load(x), ...)"
        )
    for name, value in (("epochs", epochs), ("batch_size", batch_size), ("lr", lr)):
        if not value > 0:
            raise config.ConfigError(f"{name}={value} must be positive")
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


def _num_parameters(vae: VAE) -> int:
    return sum(p.numel() for p in vae.parameters() if p.requires_grad)


def _place(device: str) -> torch.device:
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
    fused = "fused" in inspect.signature(cls).parameters and keywords.get("fused") is None
    parameters = [p for p in vae.parameters() if p.requires_grad]
    return factory(parameters, lr, fused=True) if fused else factory(parameters, lr)


def _begin(folder: Path, values: dict[str, Any]) -> None:
    if (folder / checkpoint.CONFIG).exists():
        raise CheckpointError(
            f"{folder} holds a run already; go on with it: pyro-vae train --resume {folder} "
            f"(pv.resume({str(folder)!r})), or choose another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.write_config(folder, values)


def _save(folder: Path, vae: VAE, svi: SVI, state: _State, best: dict[str, Tensor], data: Data) -> None:
    tensors = {f"model.{name}": value for name, value in vae.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    tensors["rng.cpu"] = torch.get_rng_state()
    if vae.input_loc.is_cuda:
        tensors["rng.cuda"] = torch.cuda.get_rng_state(vae.input_loc.device)
    saved = svi.optimizer.state_dict()
    scalars: dict[str, dict[str, Any]] = {}
    for index, entries in saved["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                scalars.setdefault(str(index), {})[name] = value
    meta = asdict(state) | {
        "event_shape": vae.event_shape,
        "fingerprint": data.fingerprint,
        "optimizer": {"scalars": scalars, "param_groups": saved["param_groups"]},
        "num_steps": svi.num_steps,
    }
    checkpoint.save_tensors(folder / checkpoint.CHECKPOINT, tensors, meta)
    if state.history:
        text = io.StringIO()
        writer = csv.DictWriter(text, state.history[0].keys())
        writer.writeheader()
        writer.writerows(state.history)
        checkpoint.write(folder / "history.csv", text.getvalue().encode())


def _restore(
    folder: Path, vae: VAE, svi: SVI, values: dict[str, Any], data: Data
) -> tuple[_State, dict[str, Tensor]]:
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
    if meta["fingerprint"] != data.fingerprint:
        raise CheckpointError(
            f"{folder} was trained on other data ({meta['fingerprint']}) than given "
            f"({data.fingerprint}); give the same data, or start a new run"
        )

    def under(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    checkpoint.load_state(vae, under("model."), path)
    entries: dict[int, dict[str, Any]] = {}
    for name, value in under("optimizer.").items():
        index, key = name.split(".", 1)
        entries.setdefault(int(index), {})[key] = value
    for index, named in meta["optimizer"]["scalars"].items():
        entries.setdefault(int(index), {}).update(named)
    groups = meta["optimizer"]["param_groups"]
    svi.optimizer.load_state_dict({"state": entries, "param_groups": groups})
    svi.num_steps = meta["num_steps"]
    torch.set_rng_state(tensors["rng.cpu"])
    if "rng.cuda" in tensors and vae.input_loc.is_cuda:
        torch.cuda.set_rng_state(tensors["rng.cuda"], vae.input_loc.device)
    names = _State.__dataclass_fields__
    return _State(**{k: v for k, v in meta.items() if k in names}), under("best.")


def _non_finite(reason: str, state: _State, folder: Path) -> str:
    kept = f"that of epoch {state.epoch}, is in {folder}" if state.epoch else "there is none yet"
    return (
        f"epoch {state.epoch + 1}: {reason}. Last good checkpoint: {kept}. Try a lower lr, or clip_norm=100"
    )


def _how_to_resume(folder: Path, state: _State) -> str:
    return (
        f"stopped in epoch {state.epoch + 1}, after {state.batch} batches, and saved. Go on with: "
        f"pyro-vae train --resume {folder}"
    )


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM, so that the step in progress can be finished; a second one kills."""
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

    def __init__(
        self,
        folder: Path,
        data: Data,
        state: _State,
        epochs: int,
        batch_size: int,
        progress: bool,
    ):
        self.epochs = epochs
        self.num_batches = math.ceil(len(data.train) / batch_size)
        terminal = sys.stderr.isatty() or "ipykernel" in sys.modules
        self.lines = progress and not terminal
        self.last_line = 0.0
        self.log = (folder / "log.txt").open("a")  # closed on exit
        self.bar = tqdm(
            total=epochs * self.num_batches,
            initial=state.epoch * self.num_batches + state.batch,
            disable=not (progress and terminal) or state.finished,
            unit="step",
            dynamic_ncols=True,
        )
        self.writer = None
        if importlib.util.find_spec("tensorboard") and not state.finished:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=state.epoch + 1)

    def __enter__(self) -> _Report:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.bar.close()
        if error is not None:
            self._write(f"{type(error).__name__}: {error}")
        self.log.close()
        if self.writer:
            self.writer.close()

    def step(self, state: _State, losses: Losses) -> None:
        if not self.bar.disable:
            self.bar.set_description(f"epoch {state.epoch + 1}/{self.epochs}", refresh=False)
            count = state.batch
            names = zip(("loss", "reconstruction", "KL"), losses, strict=True)
            self.bar.set_postfix({k: f"{v:.2f}" for k, v in names}, refresh=False)
            self.bar.update(1 if count else 0)

    def epoch(self, state: _State, row: dict[str, float]) -> None:
        text = f"epoch {state.epoch}/{self.epochs}  " + "  ".join(
            f"{label} {row[key]:.2f}"
            for label, key in (
                ("loss", "loss"),
                ("reconstruction", "reconstruction"),
                ("KL", "kl"),
                ("validation ELBO", "validation_elbo"),
            )
            if key in row
        )
        self._write(f"{text}  {row['seconds']:.1f} s")
        if self.lines and (state.finished or time.monotonic() - self.last_line > 1):
            print(text, flush=True)
            self.last_line = time.monotonic()
        if self.writer:
            for key, value in row.items():
                self.writer.add_scalar(key, value, state.epoch)
            self.writer.flush()

    def line(self, text: str) -> None:
        self._write(text)
        if self.lines:
            print(text, flush=True)
        elif not self.bar.disable:
            self.bar.write(text)

    def _write(self, text: str) -> None:
        self.log.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {text}\n")
        self.log.flush()
