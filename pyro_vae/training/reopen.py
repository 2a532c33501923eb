"""A run as ``fit`` returned it, from its folder."""

from __future__ import annotations

from pathlib import Path

from pyro_vae import checkpoint
from pyro_vae.checkpoint import CheckpointError
from pyro_vae.data import Data, DataError, load
from pyro_vae.program import Program
from pyro_vae.registry import Trust
from pyro_vae.training.run import Run


def reopen(
    folder: str | Path, *, program: Program | None = None, data: Data | None = None, trust: Trust = ()
) -> Run:
    """The program, data and history of a run that was kept, trained or as of its last checkpoint.

    Args:
        folder: of the run, which is only read.
        program: one built with the same parts, if the run's own cannot be read by name.
        data: what it was trained on, if that was an array and not a name or a file.
        trust: modules that its configuration may import from.

    Raises:
        CheckpointError, ConfigError: as of ``pv.load``; or it was trained on an array, which is not kept.
        DataError: the data are not those that it was trained on, so that their splits may overlap with its
            training data.

    >>> reopen("runs/digits").data.test  # doctest: +SKIP
    """
    folder = Path(folder)
    values = checkpoint.read_config(folder)
    if data is None:
        if values.get("data") is None:
            raise CheckpointError(
                f"{folder} was trained on data in memory, which is not kept with it; give it: "
                f"run = pv.training.reopen({str(folder)!r}, data=pv.data.load(x)), and then pv.report(run), "
                f"say; the program alone is pv.load({str(folder)!r})"
            )
        data = load(**checkpoint.options(load, values))
    _, meta = checkpoint.load_tensors(folder / checkpoint.CHECKPOINT)
    if meta.get("fingerprint") != data.fingerprint:
        raise DataError(
            f"the data in {values.get('data') or 'memory'} are not those that {folder} was trained on, and "
            "their splits may overlap with its training data; evaluate in Python: "
            f"pv.evaluate.elbo(pv.load({str(folder)!r}), x)"
        )
    history = [dict(row) for row in meta.get("history", ())]
    return Run(checkpoint.load(folder, program=program, trust=trust), data, history, folder)
