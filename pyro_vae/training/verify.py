"""Training again, to see whether the same bits come out."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_vae import checkpoint
from pyro_vae.checkpoint import CheckpointError
from pyro_vae.data import Data
from pyro_vae.distributed import joined
from pyro_vae.program import Program
from pyro_vae.registry import Trust
from pyro_vae.training import state as states
from pyro_vae.training.resume import resume


@dataclass(frozen=True)
class Verification:
    """What ``verify`` found; printed, it says so.

    Attributes:
        epochs: that were trained again.
        differs: the first after which weights had other bits; None, if none.
        stamps: what is not as it was, by name: then, and now.
    """

    epochs: int
    differs: int | None
    stamps: dict[str, tuple[str, str]]

    def __str__(self) -> str:
        others = "; ".join(f"{name} was {then}, is {now}" for name, (then, now) in self.stamps.items())
        if self.differs is None:
            return f"the same bits after each of {self.epochs} epochs" + (
                f", though {others}" if others else ""
            )
        why = (
            others
            or "no stamp does: something of the machine that has none, or kernels that vary by themselves"
        )
        return f"other bits from epoch {self.differs} on. What differs: {why}"


def verify(
    folder: str | Path,
    *,
    epochs: int | None = None,
    program: Program | None = None,
    data: Data | None = None,
    trust: Trust = (),
    progress: bool = True,
) -> Verification:
    """Trains a run again from its start, in a temporary folder, and compares the weights epoch by epoch.

    A run of several processes is trained again by as many: ``torchrun --nproc-per-node 2``, on one machine.

    Args:
        folder: of the run, which is only read.
        epochs: how many of its first; by default all that it has done.
        program, data, trust, progress: as in ``resume``.

    Raises:
        CheckpointError, ConfigError, DataError: the run cannot be trained again, and why.
    """
    folder = Path(folder)
    values, path = checkpoint.read_config(folder), folder / checkpoint.CHECKPOINT
    _, meta = checkpoint.load_tensors(path)
    checkpoint.check_run(values, meta, path)
    was = states.read(path, meta)
    number = was.epoch if epochs is None else min(epochs, was.epoch)
    if number < 1:
        raise CheckpointError(
            f"{folder} has done no epoch that could be trained again: pyro-vae train --resume {folder}"
        )
    _, first = checkpoint.load_tensors(folder / checkpoint.START)
    checkpoint.check_run(values, first, folder / checkpoint.START)
    with joined() as group, ExitStack() as stack:

        def begin() -> Path:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            shutil.copy(folder / checkpoint.START, place / checkpoint.CHECKPOINT)
            checkpoint.write_config(place, values | {"epochs": was.planned[0]})
            return place

        again = group.first(begin)
        for planned in was.planned:
            resume(
                again,
                program=program,
                data=data,
                trust=trust,
                callback=lambda epoch, *_: epoch >= number,
                progress=progress,
                epochs=planned,
                max_minutes=None,
            )
            meta = group.first(lambda: checkpoint.load_tensors(again / checkpoint.CHECKPOINT)[1])
            if meta["epoch"] >= number or meta["epoch"] < planned:
                break
    now = states.read(path, meta)
    differing = [i for i in range(number) if now.digests[i : i + 1] != was.digests[i : i + 1]]
    stamps: dict[str, tuple[Any, Any]] = {}
    here = now.stamps[-1]
    for stamp in was.stamps:
        if stamp["epoch"] < number:
            names = stamp.keys() & here.keys() - {"epoch"}
            stamps |= {name: (stamp[name], here[name]) for name in sorted(names) if stamp[name] != here[name]}
    return Verification(number, differing[0] + 1 if differing else None, stamps)
