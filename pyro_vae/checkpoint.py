"""Runs on disk: folders with a configuration, weights, and what it takes to go on.

A run's folder holds ``config.yaml`` (what the run is made of), ``checkpoint.safetensors`` (weights,
optimizer, generator states, history: all that resuming takes, in one file), ``history.csv``,
``log.txt``, ``figures/`` and, when training has ended, ``model.safetensors``. Files are written under
temporary names and renamed. No pickle is read or written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import yaml
from torch import Tensor

from pyro_vae import config
from pyro_vae.vae import VAE

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
            if not {"class", "event_shape", "dtype"} <= meta.keys():
                raise CheckpointError(
                    f"{path} is a safetensors file, but pyro_vae did not write it; give the folder of a "
                    "run made by pyro-vae train or pv.fit"
                )
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, meta
    except FileNotFoundError:
        raise CheckpointError(f"there is no {path}; give the folder of a run: {_runs()}") from None
    except (safetensors.SafetensorError, OSError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{path} is damaged or no safetensors file ({error}); restore it from a copy, or train anew"
        ) from error


def load_state(module: torch.nn.Module, tensors: Mapping[str, Tensor], origin: Path) -> None:
    """Copies weights into a module.

    Raises:
        CheckpointError: names or shapes differ; nothing was copied.
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
            f"{f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''} do not match; build the VAE "
            f"with the parts listed in {CONFIG}"
        )
    module.load_state_dict(dict(tensors))


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
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); restore it, or train anew") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds no configuration; restore it, or train anew")
    return values


def save_model(folder: Path, vae: VAE) -> None:
    """Writes a trained VAE's weights to ``model.safetensors``."""
    save_tensors(folder / MODEL, vae.state_dict(), identity(vae))


def identity(vae: VAE) -> dict[str, Any]:
    """What the configuration does not tell of a VAE: its class and dtype, and the shape of its data."""
    return {
        "class": f"{type(vae).__module__}.{type(vae).__qualname__}",
        "dtype": str(vae.input_loc.dtype).removeprefix("torch."),
        "event_shape": vae.event_shape,
    }


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, by the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def load(folder: str | Path, *, vae: VAE | None = None) -> VAE:
    """The VAE of a run: trained, or as of its last checkpoint if training has not ended.

    Args:
        folder: of the run.
        vae: one built with the same parts, if the run's own cannot be imported by name (made of
            lambdas, or of classes in a script or notebook).

    Raises:
        CheckpointError: files are missing, damaged, foreign, or of another model.
        ConfigError: the parts cannot be built from the configuration.

    >>> load("runs/digits").decode(torch.zeros(1, 2))  # doctest: +SKIP
    """
    folder = Path(folder)
    values = read_config(folder)
    if (folder / MODEL).exists():
        path, prefix = folder / MODEL, ""
    else:
        path, prefix = folder / CHECKPOINT, "model."
    tensors, meta = load_tensors(path)
    if vae is None:
        vae = build_vae(values, meta, folder)
    weights = under(prefix, tensors)
    load_state(vae, weights, path)
    return vae.eval()


def build_vae(values: Mapping[str, Any], meta: Mapping[str, Any], folder: Path) -> VAE:
    """An untrained VAE from a run's configuration and identity."""
    try:
        if meta["class"] != f"{VAE.__module__}.{VAE.__qualname__}":
            raise config.ConfigError(
                f"the run's model is a {meta['class']}, which only its own code can build"
            )
        vae = VAE(tuple(meta["event_shape"]), **config.build(VAE, values, skip=["event_shape"]))
        return vae.to(getattr(torch, meta["dtype"]))
    except config.ConfigError as error:
        raise config.ConfigError(
            f"{error}. If parts of this run have no import path, build the VAE as it was and pass it: "
            f"pv.load({str(folder)!r}, vae=vae)"
        ) from error


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
