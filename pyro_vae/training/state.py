"""Where training stands: all that resuming takes, to a file and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae import checkpoint
from pyro_vae.checkpoint import CheckpointError
from pyro_vae.program import Program
from pyro_vae.svi import SVI, set_lr
from pyro_vae.training.schedules import LearningRate


@dataclass
class State:
    """Where training stands.

    Attributes:
        epoch: epochs done.
        batch: batches done in the next one.
        sums: over its data, of the loss and of the ELBO's terms.
        terms: their names, such as ``"kl_z"``.
        seconds: that it took so far.
        history: a row for each epoch done.
        best_epoch: of the best validation ELBO.
        best_elbo: that ELBO.
        finished: whether there is nothing more to do.
    """

    epoch: int = 0
    batch: int = 0
    sums: list[float] = field(default_factory=list)
    terms: list[str] = field(default_factory=list)
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_elbo: float = -math.inf
    finished: bool = False


def save(
    folder: Path,
    state: State,
    program: Program,
    best: Mapping[str, Tensor],
    svi: SVI,
    rate: LearningRate,
    fingerprint: str,
) -> None:
    """Writes the checkpoint, all in one file."""
    tensors = {f"model.{name}": value for name, value in program.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in best.items()} | {"rng.cpu": torch.get_rng_state()}
    if program.device.type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(program.device)
    saved = rate.optimizer.state_dict()
    scalars: dict[str, dict[str, Any]] = {}
    for index, entries in saved["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                scalars.setdefault(str(index), {})[name] = value
    groups = [  # rates are tensors on a GPU
        {name: value.item() if isinstance(value, Tensor) else value for name, value in group.items()}
        for group in saved["param_groups"]
    ]
    meta = asdict(state) | checkpoint.identity(program)
    meta |= {"fingerprint": fingerprint, "num_steps": svi.num_steps, "schedule": rate.state()}
    meta["optimizer"] = {"scalars": scalars, "param_groups": groups}
    checkpoint.save_tensors(folder / checkpoint.CHECKPOINT, tensors, meta)


def restore(
    folder: Path, program: Program, svi: SVI, rate: LearningRate, fingerprint: str
) -> tuple[State, dict[str, Tensor]]:
    """Takes up what ``save`` wrote, and returns the state and the weights of the best epoch.

    Raises:
        CheckpointError: it is of other data, or of another program.
    """
    path = folder / checkpoint.CHECKPOINT
    try:
        return _restore(path, program, svi, rate, fingerprint)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error!r}); restore it from a copy, or train anew"
        ) from error


def _restore(
    path: Path, program: Program, svi: SVI, rate: LearningRate, fingerprint: str
) -> tuple[State, dict[str, Tensor]]:
    folder = path.parent
    tensors, meta = checkpoint.load_tensors(path)
    if meta["fingerprint"] != fingerprint:
        raise CheckpointError(
            f"{folder} was trained on other data ({meta['fingerprint']}) than given ({fingerprint}); give "
            "the same data, or start a new run"
        )
    checkpoint.load_state(program, checkpoint.under("model.", tensors), path)
    entries: dict[int, dict[str, Any]] = {}
    for name, value in checkpoint.under("optimizer.", tensors).items():
        index, key = name.split(".", 1)
        entries.setdefault(int(index), {})[key] = value
    for index, named in meta["optimizer"]["scalars"].items():
        entries.setdefault(int(index), {}).update(named)
    optimizer, saved = rate.optimizer, meta["optimizer"]["param_groups"]
    # How the optimizer runs is a matter of the device, which may be another one now.
    kept = ("lr", "initial_lr", "fused", "foreach", "capturable")
    groups = [
        group | {name: own[name] for name in kept if name in own}
        for group, own in zip(saved, optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({"state": entries, "param_groups": groups})
    set_lr(optimizer, saved[0]["lr"])
    for own, entry in zip(optimizer.state.values(), entries.values(), strict=True):
        for name, value in entry.items():  # which load_state_dict casts to the parameters' dtype
            if isinstance(value, Tensor) and own[name].dtype != value.dtype:
                own[name] = value.to(own[name].device)
    rate.restore(meta["schedule"])
    svi.num_steps = meta["num_steps"]
    torch.set_rng_state(tensors["rng.cpu"])
    if "rng.cuda" in tensors and program.device.type == "cuda":
        torch.cuda.set_rng_state(tensors["rng.cuda"], program.device)
    names = State.__dataclass_fields__
    state = State(**{name: value for name, value in meta.items() if name in names})
    return state, checkpoint.under("best.", tensors)
