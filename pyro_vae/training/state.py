"""Where training stands: all that resuming takes, to a file and back."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae import checkpoint
from pyro_vae.checkpoint import CheckpointError, damaged
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
        planned: epochs that the run was to have, at its start and since it was given more.
        digests: of the weights, after each epoch done.
        stamps: where it was trained, each with the epochs done when it came there.
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
    planned: list[int] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    stamps: list[dict[str, Any]] = field(default_factory=list)

    def more(self, epochs: int, folder: Path) -> None:
        """Gives more epochs to a run that has done all that it was to have.

        Raises:
            CheckpointError: it has not, or would get fewer.
        """
        planned = self.planned[-1]
        if epochs <= planned or self.epoch < planned:
            stopped = ", and has stopped there" if self.finished and self.epoch < planned else ""
            raise CheckpointError(
                f"{folder} is a run of {planned} epochs that has done {self.epoch}{stopped}, and cannot be "
                f"one of {epochs}; one that has done all can have more: pyro-vae train --resume {folder}"
            )
        self.planned.append(epochs)
        self.finished = False


def _each(kind: Any) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)


def _is_row(value: Any) -> bool:
    return (
        isinstance(value, dict) and {"epoch", "loss", "seconds"} <= value.keys() and _numbers(value.values())
    )


def _numbers(values: Iterable[Any]) -> bool:
    return all(map(_is_number, values))


SCHEMA: checkpoint.Schema = {
    **dict.fromkeys(("epoch", "batch", "best_epoch", "num_steps"), checkpoint.is_count),
    "sums": lambda value: isinstance(value, list) and _numbers(value),
    "terms": _each(str),
    "seconds": lambda value: _is_number(value) and math.isfinite(value),  # below 0, if a clock goes back
    "history": lambda value: isinstance(value, list) and all(map(_is_row, value)),
    "best_elbo": _is_number,
    "finished": lambda value: isinstance(value, bool),
    "planned": lambda value: isinstance(value, list) and bool(value) and all(map(checkpoint.is_count, value)),
    "digests": _each(str),
    "stamps": _each(dict),
    "fingerprint": lambda value: isinstance(value, str),
    "schedule": lambda value: isinstance(value, dict),
    "optimizer": lambda value: isinstance(value, dict) and value.keys() == {"scalars", "param_groups"},
}
"""What a checkpoint says besides its run's identity."""


def pack(
    state: State,
    program: Program,
    best: Mapping[str, Tensor],
    svi: SVI,
    rate: LearningRate,
    fingerprint: str,
    values: Mapping[str, Any],
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All that resuming takes, as tensors and JSON values; ``values`` is the run's configuration."""
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
    meta = asdict(state) | checkpoint.identity(program, values)
    meta |= {"fingerprint": fingerprint, "num_steps": svi.num_steps, "schedule": rate.state()}
    meta["optimizer"] = {"scalars": scalars, "param_groups": groups}
    return tensors, meta


def read(path: Path, meta: Mapping[str, Any]) -> State:
    """Where training stands, as a checkpoint says.

    Raises:
        CheckpointError: it is damaged.
    """
    checkpoint.check_schema(path, meta, SCHEMA)
    state = State(**{name: meta[name] for name in State.__dataclass_fields__})
    if {len(state.history), len(state.digests)} != {state.epoch}:
        raise damaged(path, "its counts disagree")
    return state


def restore(
    path: Path,
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    program: Program,
    svi: SVI,
    rate: LearningRate,
    num_batches: int,
    fingerprint: str,
) -> tuple[State, dict[str, Tensor]]:
    """Takes up what ``pack`` gave, and returns the state and the weights of the best epoch.

    Args:
        path: of the file, for messages.
        tensors, meta: that it holds.
        program, svi, rate: to be brought where they were.
        num_batches: steps in an epoch.
        fingerprint: of the data given.

    Raises:
        CheckpointError: it is damaged, or of other data, or of another program.
    """
    state = read(path, meta)
    if meta["fingerprint"] != fingerprint:
        raise CheckpointError(
            f"{path.parent} was trained on other data ({meta['fingerprint']}) than given ({fingerprint}); "
            "give the same data, or start a new run"
        )
    steps, sums = state.epoch * num_batches + state.batch, len(state.terms) + 1 if state.batch else 0
    if meta["num_steps"] != steps or len(state.sums) != sums:
        raise damaged(path, "its counts disagree")
    try:
        best = _restore(path, tensors, meta, program, svi, rate)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise damaged(path, repr(error)) from error
    return state, best


def _restore(
    path: Path,
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    program: Program,
    svi: SVI,
    rate: LearningRate,
) -> dict[str, Tensor]:
    best = checkpoint.under("best.", tensors)
    if best:  # which must fit, too
        checkpoint.load_state(program, best, path)
    checkpoint.load_state(program, checkpoint.under("model.", tensors), path)
    optimizer, saved = rate.optimizer, meta["optimizer"]["param_groups"]
    entries: dict[int, dict[str, Any]] = {}
    for name, value in checkpoint.under("optimizer.", tensors).items():
        index, key = name.split(".", 1)
        entries.setdefault(int(index), {})[key] = value
    for index, named in meta["optimizer"]["scalars"].items():
        entries.setdefault(int(index), {}).update(named)
    fresh = _stepped(optimizer).state_dict()
    for number, state in entries.items():
        _check_alike(f"optimizer.{number}", state, fresh["state"].get(number, {}))
    for group, named in zip(fresh["param_groups"], saved, strict=True):
        _check_alike(
            "optimizer", named, {n: v for n, v in group.items() if n not in ("params", *_OF_DEVICES)}
        )
    _check_alike("schedule", meta["schedule"], rate.state())
    groups = [
        group | {name: own[name] for name in ("lr", "initial_lr", *_OF_DEVICES) if name in own}
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
    return best


_OF_DEVICES = ("fused", "foreach", "capturable")
"""How an optimizer runs is a matter of the device, which may be another one now."""


def _stepped(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """A copy after a step of its own, whose state has the names and shapes that the optimizer's will have."""
    twin = copy.deepcopy(optimizer)
    for group in twin.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    twin.step()
    return twin


def _check_alike(name: str, found: Any, own: Any) -> None:
    """Refuses what was read where it is not of the kind, shape and names of what is there.

    Raises:
        ValueError: naming it.
    """
    if isinstance(own, dict):
        alike = isinstance(found, dict) and own.keys() <= found.keys()
        for key in own if alike else ():
            _check_alike(f"{name}.{key}", found[key], own[key])
    elif isinstance(own, list | tuple):
        alike = isinstance(found, list | tuple) and len(found) == len(own)
        for index, (value, one) in enumerate(zip(found, own, strict=True) if alike else ()):
            _check_alike(f"{name}[{index}]", value, one)
    elif isinstance(own, Tensor) and isinstance(found, Tensor):
        alike = found.shape == own.shape and found.is_floating_point() == own.is_floating_point()
        alike = alike and not found.isnan().any()
    elif isinstance(own, Tensor | int | float) and not isinstance(own, bool):
        alike = _is_number(found) and not math.isnan(found)
    else:
        alike = own is None or isinstance(found, type(own))
    if not alike:
        raise ValueError(f"{name} is not what was written")
