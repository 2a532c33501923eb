"""Going on with a run from what its folder holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyro_vae import checkpoint
from pyro_vae.checkpoint import CheckpointError
from pyro_vae.checks import ConfigError
from pyro_vae.data import Data, load
from pyro_vae.distributed import Group, joined
from pyro_vae.program import Program
from pyro_vae.registry import Trust
from pyro_vae.training.folder import opened
from pyro_vae.training.loop import Callback, fit
from pyro_vae.training.run import Run
from pyro_vae.training.settings import Settings

CHANGEABLE = ("epochs", *(name for name in checkpoint.MOVABLE if name in Settings.documentation()))
"""Settings that a run may be gone on with differently."""


def resume(
    folder: str | Path,
    *,
    program: Program | None = None,
    data: Data | None = None,
    trust: Trust = (),
    callback: Callback | None = None,
    progress: bool = True,
    **changes: Any,
) -> Run:
    """Goes on with an interrupted run; the finished run has the bits of an uninterrupted one.

    A finished run is given more epochs by ``epochs``. Schedules over the whole run are from there on those of
    so many epochs: cosine and linear, which had come down to 0, rise again, and the run is not the one that
    so many epochs at once would have been. With a constant learning rate and no schedule it is.

    Args:
        folder: of the run.
        program: one built as the run's was, if its parts have no import path.
        data: the run's data, if they were an array and not a name or a file.
        trust: modules of one's own that the run's configuration may import from.
        callback: as in ``fit``.
        progress: show a bar on a terminal, lines elsewhere.
        changes: settings on which no bit hangs: ``device``, ``deterministic``, ``save_every``, ``keep``,
            ``max_minutes``; and ``epochs``.

    Raises:
        CheckpointError, ConfigError, DataError: the run cannot be gone on with, and why.
    """
    with joined() as group:
        return _resume(group, Path(folder), program, data, trust, callback, progress, changes)


def _resume(
    group: Group,
    folder: Path,
    program: Program | None,
    data: Data | None,
    trust: Trust,
    callback: Callback | None,
    progress: bool,
    changes: Mapping[str, Any],
) -> Run:
    """``resume`` in one process of those that train together."""
    for name in changes:
        if name not in CHANGEABLE:
            raise ConfigError(
                f"a run is not gone on with another {name}; what may be changed: {', '.join(CHANGEABLE)}"
            )
    changed = Settings.from_plain(changes, trust="*")
    values = group.first(lambda: checkpoint.read_config(folder))  # which it may change below
    path = folder / checkpoint.CHECKPOINT
    tensors, meta = checkpoint.load_tensors(path)
    checkpoint.check_run(values, meta, path)
    if data is None:
        if values.get("data") is None:
            raise CheckpointError(
                f"{folder} was trained on an array, which is not kept with it; pass it: "
                f"pv.resume({str(folder)!r}, data=pv.data.load(array))"
            )
        data = load(**checkpoint.options(load, values))
    program = checkpoint.build(values, meta, path, checkpoint.under("model.", tensors), trust, program)
    names = Settings.documentation().keys() & values.keys()
    settings = Settings.from_plain({name: values[name] for name in names}, trust)
    if "epochs" in changes and changed.epochs != settings.epochs:
        with opened(folder, True, {}, group) as place:
            assert place is not None
            place.extend(changed.epochs)
    objects = {
        name: getattr(changed if name in changes else settings, name) for name in names | changes.keys()
    }
    return fit(program, data, **objects, folder=folder, resume=True, callback=callback, progress=progress)
