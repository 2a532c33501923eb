"""A run's folder while it is trained: by one process at a time, nothing lost, nothing of another run."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import secrets
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from torch import Tensor

from pyro_vae import card, checkpoint
from pyro_vae.checkpoint import CheckpointError
from pyro_vae.distributed import ALONE, Group
from pyro_vae.program import Program
from pyro_vae.training import state as states

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


Resume = bool | Literal["auto"]
T = TypeVar("T")


class Folder:
    """A locked folder, and what is written there.

    Attributes:
        path: of the folder.
        values: the run's configuration, with its number.
        going_on: whether there is a checkpoint to go on from.
        saved: what the last checkpoint holds, in words.
    """

    def __init__(self, path: Path, values: dict[str, Any], going_on: bool, lock: int):
        self.path, self.values, self.going_on, self.saved = path, values, going_on, ""
        self._lock = lock

    def start(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Writes the files of a run before its first step."""
        with self._writing():
            # In this order, so that what has a configuration can always be resumed.
            for name in (checkpoint.START, checkpoint.CHECKPOINT):
                checkpoint.save_tensors(self.path / name, tensors, meta)
            checkpoint.write_config(self.path, self.values)
        self.saved = "0 epochs"

    def save(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], keep: int = 0) -> None:
        """Writes the history and the checkpoint; at the end of an epoch, and keeps it with those before."""
        with self._writing():
            if meta["history"]:  # first, so that it is never behind; resuming rewrites it
                _write_history(self.path, meta["history"])
            checkpoint.save_tensors(self.path / checkpoint.CHECKPOINT, tensors, meta)
            self.saved = _told(meta)
            if keep and not meta["batch"]:
                checkpoint.save_tensors(self.path / f"checkpoint-{meta['epoch']}.safetensors", tensors, meta)
                for path in self.path.glob("checkpoint-*.safetensors"):
                    number = path.stem.removeprefix("checkpoint-")
                    if number.isdecimal() and int(number) <= meta["epoch"] - keep:
                        path.unlink()

    def finish(self, program: Program) -> None:
        """Writes the trained model."""
        with self._writing():
            checkpoint.save_model(self.path, program, self.values)
            card.write(self.path, self.values, program)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The checkpoint.

        Raises:
            CheckpointError: it is damaged, or not of the configuration beside it.
        """
        path = self.path / checkpoint.CHECKPOINT
        tensors, meta = checkpoint.load_tensors(path)
        checkpoint.check_run(self.values, meta, path)
        states.read(path, meta)
        self.saved = _told(meta)
        return tensors, meta

    def extend(self, epochs: int) -> None:
        """Writes down that the run is to have more epochs, from which the next start takes it.

        Raises:
            CheckpointError: it has not done those that it was to have.
        """
        _, meta = self.load()
        states.read(self.path / checkpoint.CHECKPOINT, meta).more(epochs, self.path)
        with self._writing():
            checkpoint.write_config(self.path, self.values | {"epochs": epochs})

    def forget_model(self) -> None:
        """Removes the model of a run that goes on."""
        with self._writing():
            (self.path / checkpoint.MODEL).unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Says what there is where something cannot be written, or the folder is not the one locked."""
        try:
            if not _is_locked(self._lock, self.path):
                raise CheckpointError(
                    f"{self.path} was moved or removed while it was trained. Saved, where it is now: "
                    f"{self.saved}; go on from there: pyro-vae train --resume FOLDER"
                )
            if self.saved and not (self.path / checkpoint.CONFIG).exists():
                checkpoint.write_config(self.path, self.values)
                warnings.warn(
                    f"{checkpoint.CONFIG} was gone from {self.path}, and is there again", stacklevel=2
                )
            yield
        except OSError as error:
            mend = (
                f"go on when it can be: pyro-vae train --resume {self.path}" if self.saved else "train again"
            )
            raise CheckpointError(
                f"{error.filename} could not be written: {error.strerror}. Saved: {self.saved or 'nothing'}. "
                f"See that it can be, and {mend}"
            ) from error


def _told(meta: Mapping[str, Any]) -> str:
    return f"{meta['epoch']} epochs" + (f" and {meta['batch']} batches" if meta["batch"] else "")


def _write_history(folder: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Writes history.csv, a row an epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, history[0].keys())
    writer.writeheader()
    writer.writerows(history)
    checkpoint.write(folder / checkpoint.HISTORY, text.getvalue().encode())


class OfFirst(Folder):
    """A folder that the first process of several reads and writes, or learns that it cannot: so do all.

    Args:
        group: the processes.
        folder: as the first has it, in that one.
        path, values, going_on: of it.
    """

    def __init__(
        self, group: Group, folder: list[Folder], path: Path, values: dict[str, Any], going_on: bool
    ):
        super().__init__(path, values, going_on, -1)
        self._group, self._folder = group, folder

    def start(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        self._first(lambda folder: folder.start(tensors, meta))

    def save(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], keep: int = 0) -> None:
        self._first(lambda folder: folder.save(tensors, meta, keep))

    def finish(self, program: Program) -> None:
        self._first(lambda folder: folder.finish(program))

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return self._first(lambda folder: folder.load())

    def extend(self, epochs: int) -> None:
        self._first(lambda folder: folder.extend(epochs))

    def forget_model(self) -> None:
        self._first(lambda folder: folder.forget_model())

    def _first(self, does: Callable[[Folder], T]) -> T:
        def function() -> tuple[T, str]:
            (folder,) = self._folder
            return does(folder), folder.saved

        found, self.saved = self._group.first(function)
        return found


@contextmanager
def opened(
    path: Path | None, resume: Resume, values: Mapping[str, Any], group: Group = ALONE
) -> Iterator[Folder | None]:
    """Locks a run's folder, to start a run there or to go on with the one that it holds.

    Args:
        path: of the folder; None, and nothing is kept.
        resume: as of ``fit``.
        values: the run's configuration.
        group: the processes that train it, of which the first opens it.

    Raises:
        CheckpointError: another process trains it; there is no run to go on with, or one with other values;
            or there is one, or a rest of one, in the way of a new one.
    """
    if group.size == 1:
        with _opened(path, resume, values) as own:
            yield own
        return
    with contextlib.ExitStack() as stack:
        found: list[Folder] = []

        def enter() -> tuple[Path, dict[str, Any], bool] | None:
            folder = stack.enter_context(_opened(path, resume, values))
            if folder is None:
                return None
            found.append(folder)
            return folder.path, folder.values, folder.going_on

        told = group.first(enter)
        yield None if told is None else OfFirst(group, found, *told)


@contextmanager
def _opened(path: Path | None, resume: Resume, values: Mapping[str, Any]) -> Iterator[Folder | None]:
    """The same by this process, whether there are others or not.

    Raises:
        CheckpointError: another process trains it; there is no run to go on with, or one with other values;
            or there is one, or a rest of one, in the way of a new one.
    """
    if path is None:
        yield None
        return
    if resume is True:
        checkpoint.read_config(path)  # which tells of a folder that is not there
    made = not path.exists()
    with _locked(path) as lock:
        try:
            found = checkpoint.written(path)
            if resume is True or (resume == "auto" and checkpoint.CONFIG in found):
                stored = checkpoint.read_config(path)
                _refuse_differences(path, stored, values)
                yield Folder(path, stored, True, lock)
            else:
                _refuse_rests(path, found)
                yield Folder(path, {"run": secrets.token_hex(8), **values}, False, lock)
        finally:
            if os.path.exists(path) and os.listdir(path) == [_LOCK]:  # it was refused
                with contextlib.suppress(OSError):
                    (path / _LOCK).unlink()
                    if made:
                        path.rmdir()


_LOCK = ".lock"


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Locks a folder, made if it is not there; a process that is killed leaves no lock."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        checkpoint.sync(path.parent)
        descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or path} cannot be written ({error.strerror}), where the run is to be kept; "
            "see that it can be, or choose another folder"
        ) from error
    try:
        try:
            _lock(descriptor)
        except (BlockingIOError, PermissionError):
            raise CheckpointError(f"another process is training {path}; wait for it, or stop it") from None
        except OSError as error:
            warnings.warn(
                f"the file system of {path} has no locks ({error.strerror}): nothing sees to it that no "
                "other process trains there",
                stacklevel=2,
            )
        if not _is_locked(descriptor, path):  # it was removed in between
            raise CheckpointError(f"another process is training {path}; wait for it, or stop it")
        yield descriptor
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path / _LOCK))
    except FileNotFoundError:
        return False


def _refuse_rests(path: Path, found: Sequence[str]) -> None:
    """Refuses to start where there are a run's files, unless they are of a start that was killed."""
    if checkpoint.CONFIG in found:
        raise CheckpointError(
            f"{path} holds a run already; go on with it: pyro-vae train --resume {path} "
            f"(pv.resume({str(path)!r})), or choose another folder"
        )
    if set(found) <= {checkpoint.START, checkpoint.CHECKPOINT}:
        last = path / checkpoint.CHECKPOINT
        if not last.exists() or checkpoint.load_tensors(last)[1].get("num_steps") == 0:
            return
    raise CheckpointError(
        f"{path} holds {', '.join(found)} of a run whose {checkpoint.CONFIG} is gone; put it back, or choose "
        "another folder"
    )


def _refuse_differences(path: Path, stored: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    for name in values:
        if name not in checkpoint.MOVABLE and not checkpoint.same(stored.get(name), values[name]):
            raise CheckpointError(
                f"{path} is a run with {name}={stored.get(name)!r}, not {values[name]!r}, and cannot be "
                f"gone on with differently; resume it as it is: pv.resume({str(path)!r})"
            )
