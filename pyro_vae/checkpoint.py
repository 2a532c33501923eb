"""Runs on disk: folders with a configuration, weights, and what it takes to go on.

A run's folder holds ``config.yaml`` (what the run is made of), ``checkpoint.safetensors`` (weights,
optimizer, generator states, history: all that resuming takes, in one file), ``history.csv``,
``log.txt``, ``figures/`` and, when training has ended, ``model.safetensors``. Files are written under
temporary names and renamed. No pickle is read or written.
"""

from __future__ import annotations

import inspect
import itertools
import json
import os
import typing
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import yaml
from torch import Tensor

from pyro_vae import registry
from pyro_vae.program import Program
from pyro_vae.registry import ConfigError, Trust

CONFIG, CHECKPOINT, MODEL = "config.yaml", "checkpoint.safetensors", "model.safetensors"


class CheckpointError(ValueError):
    """A run or one of its files cannot be used; the message says which, why, and the mend."""


def write(path: Path, content: bytes, *, new: bool = False) -> None:
    """Writes a file so that at any moment either the old or the new content is there, whole.

    Raises:
        FileExistsError: it exists, and was to be ``new``.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if new:
            os.link(temporary, path)  # which, unlike a rename, fails where there is a file
        else:
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Writes tensors and JSON values as one safetensors file."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    seen: set[int] = set()
    for name, tensor in whole.items():
        storage = tensor.untyped_storage().data_ptr()
        if storage in seen:  # tied weights, which safetensors does not write twice
            whole[name] = tensor.clone()
        seen.add(storage)
    write(path, safetensors.torch.save(whole, {"pyro_vae": json.dumps(dict(meta))}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what ``save_tensors`` wrote.

    Raises:
        CheckpointError: the file is missing, damaged, or not of this package.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            meta = json.loads((file.metadata() or {}).get("pyro_vae", "{}"))
            if not isinstance(meta, dict) or not {"class", "event_shapes", "dtype"} <= meta.keys():
                raise CheckpointError(
                    f"{path} is a safetensors file, but pyro_vae did not write it; give the folder of a "
                    "run made by pyro-vae train or pv.fit"
                )
            _check_identity(path, meta)
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, meta
    except FileNotFoundError:
        raise CheckpointError(f"there is no {path}; give the folder of a run: {_runs()}") from None
    except (safetensors.SafetensorError, OSError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged or no safetensors file ({error}); restore it from a copy, or train anew"
        ) from error


def _check_identity(path: Path, meta: Mapping[str, Any]) -> None:
    shapes, gaps = meta["event_shapes"], meta.get("gaps")
    fine = meta["dtype"] in ("float16", "bfloat16", "float32", "float64")
    fine = fine and isinstance(shapes, dict) and all(isinstance(shape, list) for shape in shapes.values())
    if not (fine and isinstance(gaps, list) and all(isinstance(site, str) for site in gaps)):
        raise CheckpointError(f"{path} is damaged: what it says of its program is not what was written")


def load_state(module: torch.nn.Module, tensors: Mapping[str, Tensor], origin: Path) -> None:
    """Copies weights into a module.

    Raises:
        CheckpointError: names, shapes or what is fixed differ.
    """
    own = module.state_dict()
    wrong = sorted(own.keys() ^ tensors.keys()) + [
        f"{name} (shape {list(tensors[name].shape)}, expected {list(own[name].shape)})"
        for name in sorted(own.keys() & tensors.keys())
        if own[name].shape != tensors[name].shape
    ]
    if wrong:
        raise CheckpointError(
            f"the weights in {origin} are of another model: {', '.join(wrong[:3])}"
            f"{f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''} do not match; build it with the "
            f"parts listed in {CONFIG}"
        )
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:  # values that are fixed, of a prior say, are others
        raise CheckpointError(
            f"the weights in {origin} are of another model: {str(error).splitlines()[-1].strip()}; build it "
            f"with the parts listed in {CONFIG}"
        ) from error


def write_config(folder: Path, values: Mapping[str, Any]) -> None:
    """Writes a run's configuration, once.

    Raises:
        CheckpointError: there is one already.
    """
    text = (
        "# What this run is made of. Train the same again: pyro-vae train --config config.yaml\n"
        + yaml.safe_dump(dict(values), sort_keys=False)
    )
    try:
        write(folder / CONFIG, text.encode(), new=True)
    except FileExistsError:
        raise CheckpointError(
            f"{folder} holds a run already; go on with it: pyro-vae train --resume {folder} "
            f"(pv.resume({str(folder)!r})), or choose another folder"
        ) from None


def read_config(folder: Path, name: str = CONFIG) -> dict[str, Any]:
    """Reads a run's configuration.

    Raises:
        CheckpointError: it is missing or no YAML mapping.
    """
    path = Path(folder) / name
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        what = f"{folder} is not the folder of a run: " if name == CONFIG else ""
        raise CheckpointError(f"{what}there is no {path}; {_runs()}") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError, RecursionError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); restore it, or train anew") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds no configuration; restore it, or train anew")
    return values


def save_model(folder: Path, program: Program) -> None:
    """Writes a trained program's weights to ``model.safetensors``."""
    save_tensors(folder / MODEL, program.state_dict(), identity(program))


def identity(program: Program) -> dict[str, Any]:
    """What the configuration does not tell: class, dtype, shapes of the data, sites with gaps."""
    return {
        "class": f"{type(program).__module__}.{type(program).__qualname__}",
        "dtype": str(program.dtype).removeprefix("torch."),
        "event_shape": program.options.get("event_shape"),
        "event_shapes": program.event_shapes,
        "gaps": sorted(program.gaps),
    }


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, by the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def describe(program: Program) -> dict[str, Any]:
    """A program's class and options as plain values, parts as their texts, less the shape of its data."""
    options = {name: _plain(value) for name, value in program.options.items() if name != "event_shape"}
    return {"model": registry.write(type(program))} | options


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str | None) else registry.write(value)


def options(function: Callable[..., Any], values: Mapping[str, Any], trust: Trust = ()) -> dict[str, Any]:
    """The arguments of a class or function that are among plain values, parts read from their texts.

    Args:
        function: with plain types and parts among its arguments.
        values: by name; others are left aside.
        trust: modules whose classes and functions may be imported.

    Raises:
        ConfigError: a value is of another type, or names no part.
    """
    hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    found: dict[str, Any] = {}
    for name in inspect.signature(function).parameters:
        if name in values and name in registry.PARTS:
            found[name] = registry.read(name, values[name], trust)
        elif name in values:
            value = values[name] if hints.get(name) is str else registry.plain(values[name])
            registry.check(name, value, hints.get(name, Any))
            found[name] = _tuples(value)
    return found


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def load(folder: str | Path, *, program: Program | None = None, trust: Trust = ()) -> Program:
    """The program of a run: trained, or as of its last checkpoint if training has not ended.

    Args:
        folder: of the run.
        program: one built with the same parts, if the run's own cannot be read by name: a class of your own,
            or made of lambdas and the like.
        trust: modules of your own that its configuration may import from: ``["my_module"]``. Whatever they do
            is done; nothing else that a configuration says is.

    Raises:
        CheckpointError: files are missing, damaged, foreign, or of another model.
        ConfigError: the program cannot be built from the configuration.

    >>> load("runs/digits").decode(torch.zeros(1, 2))  # doctest: +SKIP
    """
    folder = Path(folder)
    values = read_config(folder)
    finished = (folder / MODEL).exists()
    path = folder / (MODEL if finished else CHECKPOINT)
    tensors, meta = load_tensors(path)
    program = build(values, meta, folder, trust, program)
    load_state(program, tensors if finished else under("model.", tensors), path)
    return program.eval()


def build(
    values: Mapping[str, Any],
    meta: Mapping[str, Any],
    folder: Path,
    trust: Trust = (),
    program: Program | None = None,
) -> Program:
    """The untrained program of a run, from its configuration if none is given, as its identity says."""
    if isinstance(program, Program) and program.options:
        _refuse_another(program, values, folder)
    try:
        if program is None:
            cls = registry.read("model", values.get("model", ""), trust)
            shape = {} if meta.get("event_shape") is None else {"event_shape": _tuples(meta["event_shape"])}
            program = cls(**shape, **options(cls, values, trust))
        if not isinstance(program, Program):
            raise ConfigError(f"model={values.get('model')}, a {type(program).__name__}, is no pv.Program")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"{error}. If the run's model or parts of it are your own, build it as it was and pass it: "
            f"pv.load({str(folder)!r}, program=program)"
        ) from error
    shapes = {site: tuple(shape) for site, shape in meta["event_shapes"].items()}
    program.event_shapes = shapes | program.event_shapes
    program.see_gaps(frozenset(meta["gaps"]))
    return program.to(getattr(torch, meta["dtype"]))


def _refuse_another(program: Program, values: Mapping[str, Any], folder: Path) -> None:
    for name, value in describe(program).items():
        nameless = "<" in f"{value}{values.get(name)}"  # a lambda, say
        if not nameless and name in values and values[name] != value:
            raise CheckpointError(
                f"{folder} is a run with {name}={values[name]!r}, and the program given has {value!r}; build "
                f"it with the parts listed in {CONFIG}"
            )


def new_folder(name: str) -> Path:
    """A folder runs/NAME-TIME that no other run has."""
    stem = f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    for suffix in itertools.chain([""], map("-{}".format, itertools.count(2))):
        folder = Path("runs") / (stem + suffix)
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
    raise AssertionError("unreachable")


def latest(root: str | Path = "runs") -> Path:
    """The run whose checkpoint was written last.

    Raises:
        CheckpointError: there is none.
    """
    checkpoints = list(Path(root).glob(f"*/{CHECKPOINT}"))
    if not checkpoints:
        raise CheckpointError(f"there is no run in {Path(root).resolve()}; train one: pyro-vae train")
    return max(checkpoints, key=lambda path: path.stat().st_mtime).parent


def _runs() -> str:
    found = sorted(str(path.parent) for path in Path("runs").glob(f"*/{CONFIG}"))
    return f"there are {', '.join(found[-5:])}" if found else "train one: pyro-vae train"
