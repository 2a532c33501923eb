"""Runs on disk: folders with a configuration, weights, and what it takes to go on.

A run's folder holds ``config.yaml`` (what the run is made of), ``checkpoint.safetensors`` (weights,
optimizer, generator states, history: all that resuming takes, in one file), ``start.safetensors`` (the same
before the first step), ``history.csv``, ``log.txt``, ``figures/`` and, when training has ended,
``model.safetensors``. Files are written under temporary names and renamed; each safetensors file carries a
digest of all that it holds, and the run's number, which its configuration has too. No pickle is read or
written.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import inspect
import itertools
import json
import math
import os
import secrets
import typing
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pyro_vae import plain_yaml, registry
from pyro_vae.bounded import bounded
from pyro_vae.checks import ConfigError
from pyro_vae.data.columns import Columns
from pyro_vae.program import Program
from pyro_vae.registry import Trust

CONFIG, CHECKPOINT, MODEL = "config.yaml", "checkpoint.safetensors", "model.safetensors"
START, HISTORY, LOG = "start.safetensors", "history.csv", "log.txt"
FILES = (CONFIG, CHECKPOINT, MODEL, START, HISTORY, LOG, "checkpoint-*.safetensors", "tensorboard")
"""What training writes."""
MOVABLE = ("device", "deterministic", "data", "data_dir", "save_every", "keep", "max_minutes")
"""Of a configuration, what may change between one start of a run and the next: no bit depends on it."""
LARGEST = 2**18
"""Bytes of a configuration."""

Schema = Mapping[str, Callable[[Any], bool]]
"""What values must be there, by name, and which will do."""


class CheckpointError(ValueError):
    """A run or one of its files cannot be used; the message says which, why, and the mend."""


def damaged(path: Path, why: str) -> CheckpointError:
    """What to raise where a file is not what was written."""
    return CheckpointError(f"{path} is damaged: {why}; restore it from a copy, or train anew")


def write(path: Path, content: bytes) -> None:
    """Writes a file so that at any moment either the old or the new content is there, whole.

    The temporary name is one that no other process has, nor a link that somebody left.

    Raises:
        OSError: naming the file; what was there before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(temporary, flags, 0o666)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"{reason}; what was there before is untouched", str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync(folder: Path) -> None:
    """Has a folder's names outlive a loss of power, where the system opens folders."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not on this file system
            raise
    finally:
        os.close(descriptor)


def written(folder: Path) -> list[str]:
    """Names of what training wrote in a folder; temporary files of one that was killed are removed."""
    names = sorted(os.listdir(folder))
    for name in names:
        if any(fnmatch.fnmatch(name, f".{file}.*tmp") for file in FILES):
            (folder / name).unlink(missing_ok=True)
    return [name for name in names if any(fnmatch.fnmatch(name, file) for file in FILES)]


def fetched(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the processor: those of a GPU in one copy, which alone is waited for."""
    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    away = [name for name, tensor in whole.items() if not tensor.is_cpu]
    if away:
        flat = torch.cat([whole[name].reshape(-1).view(torch.uint8) for name in away]).cpu()
        for name, piece in zip(away, flat.split([whole[name].nbytes for name in away]), strict=True):
            # A copy, whose address suits the type.
            whole[name] = piece.clone().view(whole[name].dtype).reshape(whole[name].shape)
    return whole


def digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Of names, types, shapes and bits of tensors, and of a text."""
    found = hashlib.sha256(text.encode())
    whole = fetched(tensors)
    for name in sorted(whole):
        tensor = whole[name]
        found.update(f"\0{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        found.update(cast(Any, tensor.reshape(-1).view(torch.uint8).numpy()))
    return found.hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Writes tensors and JSON values as one safetensors file, with a digest of all."""
    whole = fetched(tensors)
    seen: set[int] = set()
    for name, tensor in whole.items():
        storage = tensor.untyped_storage().data_ptr()
        if storage in seen:  # tied weights, which safetensors does not write twice
            whole[name] = tensor.clone()
        seen.add(storage)
    text = json.dumps(dict(meta))
    write(path, safetensors.torch.save(whole, {"pyro_vae": text, "digest": digest(whole, text)}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what ``save_tensors`` wrote.

    Raises:
        CheckpointError: the file is missing, damaged, or not of this package.
    """
    _check_kind(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            held = file.metadata() or {}
            if "pyro_vae" not in held:
                raise CheckpointError(
                    f"{path} is a safetensors file, but pyro_vae did not write it; give the folder of a "
                    "run made by pyro-vae train or pv.fit"
                )
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        if held.get("digest") != digest(tensors, held["pyro_vae"]):
            raise damaged(path, "its digest is not that of what it holds (or an earlier pyro_vae wrote it)")
        meta = json.loads(held["pyro_vae"])
    except FileNotFoundError:
        raise CheckpointError(f"there is no {path}; give the folder of a run: {_runs()}") from None
    except CheckpointError:
        raise
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError, RecursionError) as error:
        raise damaged(path, f"it is no safetensors file ({_line(error)})") from error
    if isinstance(meta, dict):
        for name in ("class_names", "num_data"):  # of runs that were begun before there were such
            meta.setdefault(name, None)
    check_schema(path, meta, _IDENTITY)
    return tensors, meta


def _check_kind(path: Path) -> None:
    if path.exists() and not path.is_file():  # a pipe, from which one would read for ever
        raise damaged(path, "it is no file")


def check_schema(path: Path, meta: Any, schema: Schema) -> None:
    """Refuses what a file says where a value is missing or will not do.

    Raises:
        CheckpointError: naming the file and the value.
    """
    for name, right in schema.items():
        if not isinstance(meta, dict) or name not in meta:
            raise damaged(path, f"it lacks {name}")
        if not right(meta[name]):
            raise damaged(path, f"{name}={str(meta[name])[:60]} is not what was written")


def is_count(value: Any) -> bool:
    """Whether a value is a whole number from 0 up, of a size that computers count to."""
    return type(value) is int and 0 <= value < 2**63


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_count, value)) and math.prod(value) < 2**40


_IDENTITY: Schema = {
    "class": lambda value: isinstance(value, str),
    "dtype": lambda value: value in ("float16", "bfloat16", "float32", "float64"),
    "event_shape": lambda value: value is None or isinstance(value, dict) or _is_shape(value),
    "event_shapes": lambda value: isinstance(value, dict) and all(map(_is_shape, value.values())),
    "gaps": lambda value: isinstance(value, list) and all(isinstance(site, str) for site in value),
    "class_names": lambda value: (
        value is None or (isinstance(value, list) and all(isinstance(name, str) for name in value))
    ),
    "num_data": lambda value: value is None or is_count(value),
    "run": lambda value: isinstance(value, str),
    "config": lambda value: isinstance(value, dict),
}


ADDED = ("skips", "repeated")
"""Buffers that the weights of earlier versions lack, which are then zero."""


def load_state(module: torch.nn.Module, tensors: Mapping[str, Tensor], origin: Path) -> None:
    """Copies weights into a module.

    Raises:
        CheckpointError: names, shapes or what is fixed differ, or a value is not finite.
    """
    own = module.state_dict()
    added = {name: torch.zeros_like(own[name]) for name in own if name.rpartition(".")[2] in ADDED}
    tensors = {**added, **tensors}
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
    if broken := sorted(finite(own) - finite(tensors)):
        raise CheckpointError(
            f"the weights in {origin} are not finite ({', '.join(broken[:3])}); take those of an earlier "
            "checkpoint, or train anew with a lower lr"
        )
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:  # values that are fixed, of a prior say, are others
        raise CheckpointError(
            f"the weights in {origin} are of another model: {str(error).splitlines()[-1].strip()}; build it "
            f"with the parts listed in {CONFIG}"
        ) from error


def finite(tensors: Mapping[str, Tensor]) -> set[str]:
    """Names of the tensors, buffers too, that are finite throughout."""
    return {name for name, value in fetched(tensors).items() if value.isfinite().all()}


def write_config(folder: Path, values: Mapping[str, Any]) -> None:
    """Writes a run's configuration."""
    text = (
        "# What this run is made of. Train the same again: pyro-vae train --config config.yaml\n"
        + plain_yaml.dump(values)
    )
    write(folder / CONFIG, text.encode())


def read_config(folder: Path, name: str = CONFIG) -> dict[str, Any]:
    """Reads a run's configuration.

    Raises:
        CheckpointError: it is missing, too large, or no YAML mapping of plain values.
    """
    path = Path(folder) / name
    _check_kind(path)
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ValueError(f"it has more than {LARGEST} bytes")
        return plain_yaml.load(content.decode())
    except FileNotFoundError:
        what = f"{folder} is not the folder of a run: " if name == CONFIG else ""
        raise CheckpointError(f"{what}there is no {path}; {_runs()}") from None
    except (OSError, ValueError) as error:
        raise damaged(path, f"it cannot be read as a configuration: {_line(error)}") from error


def check_run(values: Mapping[str, Any], meta: Mapping[str, Any], path: Path) -> None:
    """Refuses a file that is not of the run beside whose configuration it lies, or not as it was trained.

    Args:
        values: of the configuration.
        meta: that the file has with it.
        path: of the file.

    Raises:
        CheckpointError: it is of another run, or the configuration was changed.
    """
    if values.get("run") != meta["run"]:
        raise CheckpointError(
            f"{path} is of run {meta['run']!s:.40}, and the {CONFIG} beside it of run "
            f"{values.get('run')!s:.40}; put back the one that belongs there"
        )
    for name, value in meta["config"].items():
        if name not in (*MOVABLE, "epochs") and not same(values.get(name), value):
            raise CheckpointError(
                f"{path} was trained with {name}={value!r:.60}, and the {CONFIG} beside it says "
                f"{values.get(name)!r:.60}; put back what it said"
            )


def same(one: Any, other: Any) -> bool:
    """Whether plain values are the same, NaN and lists for tuples too."""
    return json.dumps(one, sort_keys=True, default=str) == json.dumps(other, sort_keys=True, default=str)


def save_model(folder: Path, program: Program, values: Mapping[str, Any]) -> None:
    """Writes a trained program's weights to ``model.safetensors``, with its run's configuration."""
    save_tensors(folder / MODEL, program.state_dict(), identity(program, values))


def identity(program: Program, values: Mapping[str, Any]) -> dict[str, Any]:
    """The run's number and configuration, and what it does not tell: class, dtype, shapes, gaps, names, N."""
    return {
        "run": values["run"],
        "config": {name: value for name, value in values.items() if name != "run"},
        "class": f"{type(program).__module__}.{type(program).__qualname__}",
        "dtype": str(program.dtype).removeprefix("torch."),
        "event_shape": _shape_of(program.options.get("event_shape")),
        "event_shapes": program.event_shapes,
        "gaps": sorted(program.gaps),
        "class_names": program.class_names and list(program.class_names),
        "num_data": program.seen_number,
    }


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, by the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def describe(program: Program) -> dict[str, Any]:
    """A program's class and options as plain values, parts as their texts, less the shape of its data."""
    options = {name: _plain(value) for name, value in program.options.items() if name != "event_shape"}
    return {"model": registry.write(type(program))} | options


def _shape_of(event_shape: Any) -> Any:
    """A shape, or what the columns of a table are, as plain values."""
    return event_shape.plain if isinstance(event_shape, Columns) else event_shape


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
    check_run(values, meta, path)
    held = tensors if finished else weights(tensors, meta)
    program = build(values, meta, path, held, trust, program)
    load_state(program, held, path)
    return program.eval()


def weights(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> dict[str, Tensor]:
    """Those of a checkpoint: the last, or when training has ended, the best that it kept."""
    return (under("best.", tensors) if meta.get("finished") else {}) or under("model.", tensors)


def build(
    values: Mapping[str, Any],
    meta: Mapping[str, Any],
    path: Path,
    tensors: Mapping[str, Tensor],
    trust: Trust = (),
    program: Program | None = None,
) -> Program:
    """The untrained program of a run, from its configuration if none is given, as its identity says.

    Args:
        values: the configuration.
        meta: that the file of its weights has with it.
        path: of that file.
        tensors: the weights; a program that would be far larger is not made.
        trust: modules that the configuration may import from.
        program: one to be taken instead.

    Raises:
        CheckpointError: it would be far larger than the weights, or the program given is another one.
        ConfigError: it cannot be made.
    """
    folder = path.parent
    if isinstance(program, Program) and program.options:
        _refuse_another(program, values, folder)
    limit = bounded(len(tensors), sum(value.numel() for value in tensors.values()))
    try:
        if program is None:
            for part in registry.PARTS:
                if part in values:
                    registry.names(
                        part
                    )  # once in a process, one of each is made, which is not the file's doing
            with limit:
                cls = registry.read("model", values.get("model", ""), trust)
                event_shape = _tuples(meta["event_shape"])
                shape = {} if event_shape is None else {"event_shape": event_shape}
                program = cls(**shape, **options(cls, values, trust))
        if not isinstance(program, Program):
            raise ConfigError(f"model={values.get('model')}, a {type(program).__name__}, is no pv.Program")
    except (TypeError, ValueError, RuntimeError) as error:
        if limit.is_over:
            raise CheckpointError(
                f"the {CONFIG} in {folder} describes a program far larger than the weights in {path.name}; "
                "put back the one that belongs there"
            ) from error
        raise ConfigError(
            f"{error}. If the run's model or parts of it are your own, build it as it was and pass it: "
            f"pv.load({str(folder)!r}, program=program)"
        ) from error
    shapes = {site: tuple(shape) for site, shape in meta["event_shapes"].items()}
    program.event_shapes = shapes | program.event_shapes
    program.class_names = meta["class_names"] and tuple(meta["class_names"])
    program.see_gaps(frozenset(meta["gaps"]))
    if meta["num_data"] is not None:
        program.see_number(meta["num_data"])
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


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _runs() -> str:
    found = sorted(str(path.parent) for path in Path("runs").glob(f"*/{CONFIG}"))
    return f"there are {', '.join(found[-5:])}" if found else "train one: pyro-vae train"
