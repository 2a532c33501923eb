"""What is explored: programs with data, of which those of a folder are read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyro_vae import checkpoint, evaluate
from pyro_vae.checks import ConfigError
from pyro_vae.data import Data, Split
from pyro_vae.data.tables import units_of
from pyro_vae.evaluate.door import as_split
from pyro_vae.program import Program
from pyro_vae.registry import Trust
from pyro_vae.training import Run, reopen


@dataclass
class Subject:
    """A program, and data that it is looked at with.

    Attributes:
        name: what it is called.
        program: it, which stays as it is.
        data: held-out data, or those that were given.
        train: data of steps that a copy of it takes.
        units: of a table's columns, by name.
    """

    name: str
    program: Program
    data: Split
    train: Split
    units: dict[str, str] = field(default_factory=dict)


@dataclass
class Entry:
    """A line of the menu: what is known of a run before it is read.

    Attributes:
        name: of the run.
        parts: prior, likelihood and so on, by name.
        read: makes its subject.
    """

    name: str
    parts: dict[str, str]
    read: Callable[[], Subject]


def entries(run: Any, data: Any = None, trust: Trust = ()) -> list[Entry]:
    """What there is to explore: one run, or those of a folder of runs, or a program with data.

    Args:
        run: a ``Run``; the folder of one, or of a comparison; or a program.
        data: of a program; or of a folder whose data were in memory, as ``pv.data.load`` made them.
        trust: modules that a run's configuration may import from.

    Raises:
        ConfigError: it is none of these, or a program is without data.
    """
    if isinstance(run, Run):
        subject = _subject(run.folder.name if run.folder else run.data.name, run.program, run.data)
        return [Entry(subject.name, _parts(run.program), lambda: subject)]
    if isinstance(run, Program):
        if data is None:
            raise ConfigError(f"of a {type(run).__name__} give data to explore it with: pv.explore(vae, x)")
        subject = _subject(type(run).__name__, run, data)
        return [Entry(subject.name, _parts(run), lambda: subject)]
    if not isinstance(run, str | Path):
        raise ConfigError(
            f"run is a {type(run).__name__}, and must be a run of pv.fit, its folder, or a program with data"
        )
    folder = Path(run)
    within = [] if (folder / checkpoint.CONFIG).exists() else sorted(folder.glob(f"*/{checkpoint.CONFIG}"))
    folders = [path.parent for path in within] or [folder]
    return [Entry(path.resolve().name, _written(path), _reader(path, data, trust)) for path in folders]


def _reader(folder: Path, data: Any, trust: Trust) -> Callable[[], Subject]:
    def read() -> Subject:
        run = reopen(folder, data=data, trust=trust)
        return _subject(folder.resolve().name, run.program, run.data)

    return read


def _subject(name: str, program: Program, data: Any) -> Subject:
    if isinstance(data, Data):
        split, train = data.held_out[1], data.train
    else:
        split = train = as_split(data, program)
    evaluate.check(program, split)
    units = (program.columns.units if program.columns else {}) | units_of(data)
    return Subject(name, program, split, train, units)


def _parts(program: Program) -> dict[str, str]:
    return _told(checkpoint.describe(program))


def _written(folder: Path) -> dict[str, str]:
    return _told(checkpoint.read_config(folder))


def _told(values: dict[str, Any]) -> dict[str, str]:
    names = ("model", "prior", "likelihood", "guide", "loss")
    return {name: str(values[name]) for name in names if values.get(name) is not None}
