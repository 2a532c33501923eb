"""What comes before the first step: what is refused, the optimizer, and what is told."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch

from pyro_vae import evaluate
from pyro_vae.checks import ConfigError, check
from pyro_vae.data import Data, Split
from pyro_vae.objectives import in_closed_form
from pyro_vae.objectives.importance import traces
from pyro_vae.objectives.schedules import Schedule
from pyro_vae.program import Program, sites
from pyro_vae.running import as_written
from pyro_vae.training.folder import Resume
from pyro_vae.training.settings import Settings
from pyro_vae.training.state import State

COMPILED_STEPS = 1000
"""Steps on batches of one size from which on it is worth waiting for the compiler."""


def check_arguments(
    program: Any, data: Any, settings: Settings, folder: Path | None, resume: Any, callback: Any
) -> None:
    """Refuses what cannot be trained, or not so.

    Raises:
        TypeError: the program, the data or the callback is none.
        ConfigError: arguments do not go together.
    """
    if not isinstance(program, Program):
        raise TypeError(f"fit takes a program, such as pv.VAE(...), not {type(program).__name__}")
    if not isinstance(data, Data):
        raise TypeError(
            f"fit takes a data set, not a {type(data).__name__}; pv.fit(vae, pv.data.load(x), ...)"
        )
    if callback is not None and not callable(callback):
        raise TypeError(f"callback={callback!r} is no function (epoch, metrics, program)")
    check("resume", resume, Resume)
    if resume and folder is None:
        raise ConfigError(f"resume={resume!r} needs the folder of a run: folder='runs/mine'")
    if settings.patience is not None and not len(data.validation):
        raise ConfigError(
            f"patience={settings.patience} needs validation data to watch, and there are none: "
            "pv.data.load(..., validation=0.1)"
        )
    if isinstance(settings.beta, Schedule) and (told := settings.beta.unfinished(settings.epochs)):
        warnings.warn(told, UserWarning, stacklevel=5)  # where fit was called


def look(program: Program, data: Data) -> list[frozenset[str]]:
    """Holds all data against the program, and returns of each split the sites of which values are missing.

    Raises:
        DataError: they lie outside the likelihood's support, or have another shape.
    """
    for site in data.train.event_shapes:
        if site != "y" and site not in program.classes:  # labels have no scale
            data.train.check_scale(site)
    splits = (data.train, data.validation, data.test)
    for split in splits:
        if len(split):
            evaluate.check(program, split)
    return [split.gaps if len(split) else frozenset() for split in splits]


def make_optimizer(
    factory: Callable[..., torch.optim.Optimizer], program: Program, lr: Any
) -> torch.optim.Optimizer:
    """The optimizer, in its fused form (one kernel for all parameters) where it has one.

    Raises:
        ConfigError: it cannot be made.
    """
    cls, given = (factory.func, factory.keywords) if isinstance(factory, functools.partial) else (factory, {})
    chosen = given.get("fused") is not None or given.get("foreach") or given.get("differentiable")
    accepted = inspect.signature(cls).parameters
    ways: dict[str, Any] = {} if chosen or "fused" not in accepted else {"fused": True}
    parameters = [p for p in program.parameters() if p.requires_grad]
    if not parameters:
        raise ConfigError(
            f"all parameters of the {type(program).__name__} are frozen, as those of vae.features are once "
            "they were trained; to train them program.requires_grad_(True)"
        )
    rate: Any = float(lr(0.0)) if callable(lr) else lr
    if ways and program.device.type == "cuda":
        if "capturable" in accepted:  # so that a CUDA graph can hold it
            ways["capturable"], rate = True, torch.tensor(rate, device=program.device)
        else:  # PyTorch chooses: Adagrad, which says it has one, has no fused form on a GPU
            ways = {}
    try:
        return factory(parameters, lr=rate, **ways)
    except (TypeError, ValueError, RuntimeError) as error:
        name = getattr(cls, "__name__", cls)
        raise ConfigError(f"the optimizer {name} cannot be made: {error}; torch.optim.Adam can") from error


def opening(
    program: Program, data: Split, settings: Settings, state: State, num_steps: int, compiled: Any, size: int
) -> Iterator[str]:
    """What is told before the first step, by lines, and with it the last that is refused.

    Args:
        program: to be trained.
        data: to be trained on.
        settings: with which.
        state: where training stands.
        num_steps: in all.
        compiled: whether they are.
        size: number of processes.

    Raises:
        ConfigError: the program has parameters that would not be trained, or is none for several processes.
    """
    number = sum(p.numel() for p in program.parameters() if p.requires_grad)
    yield f"{len(data)} data on {program.device}, {number} parameters, seed {settings.seed}"
    if size > 1:
        yield f"{size} processes, each on its share of every {settings.batch_size} data"
    counts = [stamp.get("processes", "1") for stamp in state.stamps]
    if counts[-2:-1] not in ([], [str(size)]):
        began = state.stamps[-1]["epoch"] + 1
        yield f"{counts[-2]} processes before, now {size}: from epoch {began} on the noise is another"
    kind = "compiled" if compiled else "eager"
    hint = f" (compile=True compiles them; auto does from {COMPILED_STEPS})"
    why = hint if settings.compile == "auto" and not compiled else ""
    if len(planned := state.planned) > 1:
        yield (
            f"{planned[-2]} epochs were planned, now {planned[-1]}: a schedule over the whole run is from "
            f"epoch {planned[-2] + 1} on that of {planned[-1]} epochs"
        )
    yield f"{num_steps} steps, {kind}, {settings.precision}{why}"
    with program.evaluating(), as_written():
        model, guide = traces(program, program.place(data.batch(slice(0, 1))), 1)
        own = {id(parameter) for parameter in program.parameters()}
        for name, site in [*model.nodes.items(), *guide.nodes.items()]:
            if site["type"] == "param" and id(cast(Any, site["value"]).unconstrained()) not in own:
                raise ConfigError(
                    f"the program makes a parameter {name!r} by pyro.param, which is Pyro's and would not be "
                    "trained or kept; make it the program's: self.scale = nn.Parameter(torch.zeros(()))"
                )
        for name, site in [*sites(model), *sites(guide)] if size > 1 else ():
            if not any(frame.name == "data" for frame in site["cond_indep_stack"]):
                raise ConfigError(
                    f"site {name!r} lies outside the plate of the data, and each of {size} processes would "
                    "draw it and count it for its share; train in one: torchrun --nproc-per-node 1"
                )
        estimated = [site for site, closed in in_closed_form(model, guide).items() if not closed]
    told = f"as estimated from draws ({', '.join(estimated)})" if estimated else "in closed form"
    yield f"KL reported {told}"
