"""What a run tells while it goes: a bar or lines, log.txt, TensorBoard."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from pyro_vae import checkpoint


class Report:
    """Tells of a run's progress, from its ``step``-th step on; without a folder in no file."""

    def __init__(
        self, folder: Path | None, epochs: int, num_batches: int, step: int, progress: bool, finished: bool
    ):
        terminal = sys.stderr.isatty() or "ipykernel" in sys.modules
        self.epochs, self.num_batches, self.taken = epochs, num_batches, step
        self.lines = progress and not terminal
        self.last_line = self.last_read = 0.0
        self.log: Any = None
        self.events: Any = None
        self.validation: dict[str, str] = {}
        self.bar = tqdm(
            total=epochs * num_batches,
            initial=step,
            disable=not (progress and terminal) or finished,
            unit="step",
            dynamic_ncols=True,
        )
        with self._logging():
            if folder:
                self.log = (folder / checkpoint.LOG).open("a")  # closed on exit
            if folder and importlib.util.find_spec("tensorboard") and not finished:
                self.events = _Events(folder / "tensorboard", step // num_batches + 1)

    def __enter__(self) -> Report:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.bar.close()
        if error is not None:
            self._write(f"{type(error).__name__}: {error}")
        for file in (self.log, self.events):
            if file:
                with self._logging():
                    file.close()

    def step(self, figures: Callable[[], Mapping[str, float]]) -> None:
        """After a step, with a function that waits for it and tells its loss and the like."""
        self.taken += 1
        if not self.bar.disable and time.monotonic() - self.last_read > 0.1:  # reading waits for a GPU
            epoch = f"epoch {(self.taken - 1) // self.num_batches + 1}/{self.epochs}"
            self.bar.set_description(epoch, refresh=False)
            told = {name: f"{value:.2f}" for name, value in figures().items() if name != "elbo"}
            self.bar.set_postfix(told | self.validation, refresh=False)
            self.bar.update(self.taken - self.bar.n)
            self.last_read = time.monotonic()

    def epoch(self, row: Mapping[str, float], finished: bool) -> None:
        """After an epoch, with its row of the history."""
        told = {"loss": "loss", "reconstruction": "reconstruction", "kl": "KL"}
        told |= {name: f"KL {name[3:]}" for name in row if name.startswith("kl_")}
        told |= {"validation_elbo": "validation ELBO"}
        figures = {label: f"{row[name]:.2f}" for name, label in told.items() if name in row}
        self.validation = {label: value for label, value in figures.items() if "validation" in label}
        named = "".join(f"  {label} {value}" for label, value in figures.items())
        text = f"epoch {row['epoch']}/{self.epochs}{named}"
        self._write(f"{text}  {row['seconds']:.1f} s")
        if self.lines and (finished or time.monotonic() - self.last_line > 1):
            self._print(text)
            self.last_line = time.monotonic()
        if self.events:
            with self._logging():
                self.events.add(row)

    def line(self, text: str) -> None:
        """Anything else worth telling."""
        self._write(text)
        if self.lines:
            self._print(text)
        elif not self.bar.disable:
            self.bar.write(text)

    def _print(self, text: str) -> None:
        try:
            print(text, flush=True)
        except OSError:  # nobody reads it any more
            self.lines = False

    def _write(self, text: str) -> None:
        if self.log:
            with self._logging():
                self.log.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {text}\n")
                self.log.flush()

    @contextlib.contextmanager
    def _logging(self) -> Iterator[None]:
        """A log that cannot be written ends, with a warning; training goes on, whose results it is not."""
        try:
            yield
        except OSError as error:
            for file in (self.log, self.events):
                if file:
                    with contextlib.suppress(OSError):
                        file.close()
            self.log = self.events = None
            text = f"log.txt and TensorBoard end here: they cannot be written ({error.strerror or error})"
            warnings.warn(text, stacklevel=4)


class _Events:
    """TensorBoard's file of scalars; what an earlier process wrote of epochs from ``first`` on is void."""

    def __init__(self, folder: Path, first: int):
        event_pb2, summary_pb2, record_writer = map(
            importlib.import_module,
            (
                "tensorboard.compat.proto.event_pb2",
                "tensorboard.compat.proto.summary_pb2",
                "tensorboard.summary.writer.record_writer",
            ),
        )
        self.event, self.summary = event_pb2.Event, summary_pb2.Summary
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        self.writer = record_writer.RecordWriter((folder / name).open("xb"))
        self._write(file_version="brain.Event:2")
        status = event_pb2.SessionLog.START
        self._write(step=first, session_log=event_pb2.SessionLog(status=status))

    def add(self, row: Mapping[str, float]) -> None:
        """An epoch's row of the history."""
        values = [self.summary.Value(tag=name, simple_value=value) for name, value in row.items()]
        self._write(step=int(row["epoch"]), summary=self.summary(value=values))

    def close(self) -> None:
        self.writer.close()

    def _write(self, **content: Any) -> None:
        self.writer.write(self.event(wall_time=time.time(), **content).SerializeToString())
        self.writer.flush()
