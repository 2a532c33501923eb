"""What a run tells while it goes: a bar or lines, log.txt, TensorBoard, history.csv."""

from __future__ import annotations

import csv
import importlib.util
import io
import sys
import time
from collections.abc import Callable, Mapping, Sequence
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
        self.log = (folder / "log.txt").open("a") if folder else None  # closed on exit
        self.validation: dict[str, str] = {}
        self.bar = tqdm(
            total=epochs * num_batches,
            initial=step,
            disable=not (progress and terminal) or finished,
            unit="step",
            dynamic_ncols=True,
        )
        self.writer = None
        if folder and importlib.util.find_spec("tensorboard") and not finished:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step // num_batches + 1)

    def __enter__(self) -> Report:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.bar.close()
        if error is not None:
            self._write(f"{type(error).__name__}: {error}")
        if self.log:
            self.log.close()
        if self.writer:
            self.writer.close()

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
        if self.log:
            self.log.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {text}\n")
            self.log.flush()


def write_history(folder: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Writes history.csv, a row an epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, history[0].keys())
    writer.writeheader()
    writer.writerows(history)
    checkpoint.write(folder / "history.csv", text.getvalue().encode())
