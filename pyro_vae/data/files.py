"""Readers of files of arrays: nothing in them is unpickled or run.

What a file announces is compared with what it holds before memory is taken for it.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.arrays import Sites
from pyro_vae.data.source import DataError, check_growth, check_regular, memory, reason, shown

_SMALL = 2**29
"""Bytes that an archive may take however little it is on disk."""


def read(path: Path, stream: bool | None) -> Sites:
    """Sites of a ``.npy``, ``.npz`` or ``.pt`` file.

    Args:
        path: of the file.
        stream: read a ``.npy`` file batch by batch; by default when it would take half of the memory.

    Raises:
        DataError: the file cannot be read, or holds no such data, or would take too much memory.
    """
    if path.suffix not in (".npy", ".npz", ".pt"):
        raise DataError(
            f"{path} is no .npy, .npz or .pt file and no folder of images; save an array as such a "
            'file: np.save("data.npy", x)'
        )
    check_regular(path)
    try:
        if path.suffix == ".npy":
            return Sites(_read_npy(path, stream))
        if path.suffix == ".npz":
            return _read_arrays(path, _read_npz(path), "np.savez(path, x=x, y=labels)")
        loaded = _read_pt(path)
        if isinstance(loaded, Mapping):
            return _read_arrays(path, dict(loaded), "torch.save(dict(x=x, y=y), path)")
        return _read_arrays(path, {"x": loaded} if isinstance(loaded, Tensor) else {}, "torch.save(x, path)")
    except DataError:
        raise
    except Exception as error:  # whatever the parsers of damaged files raise
        raise DataError(
            f"{path} cannot be read as {path.suffix} without unpickling ({reason(error)}); save a plain "
            'numeric array: np.save("data.npy", x), or tensor: torch.save(x, "data.pt")'
        ) from error


def _check_header(path: Path, file: IO[bytes], size: int) -> int:
    """Bytes of the array in an .npy file, as its header announces them.

    Raises:
        DataError: the file holds more or less than that.
    """
    version = np.lib.format.read_magic(file)
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in headers:
        raise ValueError(f"version {version[0]}.{version[1]} of the format, which is of structured arrays")
    shape, _, dtype = headers[version](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are pickled")
    taken = math.prod(shape) * dtype.itemsize
    if file.tell() + taken != size:
        raise DataError(
            f"{path} is damaged: its header announces {shown(shape)} values of {dtype.itemsize} bytes, and "
            f"it holds {size - file.tell()} bytes of them; save the array again: np.save(path, x)"
        )
    return taken


def _read_npy(path: Path, stream: bool | None) -> np.ndarray:
    with open(path, "rb") as file:
        taken = _check_header(path, file, path.stat().st_size)
    if stream or (stream is None and taken > memory()):
        return np.load(path, mmap_mode="r", allow_pickle=False)
    return np.load(path, allow_pickle=False)


def _read_npz(path: Path) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        check_growth(path, path.stat().st_size, sum(member.file_size for member in members), _SMALL)
        for member in members:
            with archive.open(member) as file:
                _check_header(path, file, member.file_size)
            with archive.open(member) as file:
                arrays[member.filename.removesuffix(".npy")] = np.lib.format.read_array(
                    file, allow_pickle=False
                )
    return arrays


def _read_pt(path: Path) -> Any:
    """A tensor or a mapping of them, to which labels in a list may be added."""
    held = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            check_growth(path, held, sum(member.file_size for member in members), _SMALL)
            for member in members:
                if member.filename.endswith("data.pkl"):
                    with archive.open(member) as file:
                        _check_names(file)
    else:
        with open(path, "rb") as file:
            for _ in range(4):  # as files of old begin: three numbers and tables, and the tensors
                _check_names(file)
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(loaded, Mapping):
        loaded = {name: value for name, value in loaded.items() if isinstance(value, Tensor) or name == "y"}
        y, plain = loaded.get("y", []), bool | int | float | str | None
        if not (
            isinstance(y, Tensor) or (isinstance(y, list | tuple) and all(isinstance(c, plain) for c in y))
        ):
            raise DataError(
                f"labels y in {path} are neither a tensor nor a list of numbers or texts; save them so"
            )
    tensors = loaded.values() if isinstance(loaded, Mapping) else [loaded]
    taken = [x.numel() * x.element_size() for x in tensors if isinstance(x, Tensor) and not x.is_nested]
    check_growth(path, held, sum(taken), _SMALL)  # a tensor may repeat one number
    return loaded


def _check_names(file: IO[bytes]) -> None:
    """Refuses a pickle that names something at great length, without unpickling it.

    To tell that it does not know a name, PyTorch makes a search that takes the square of its length.
    """
    for code, argument, _ in pickletools.genops(file):
        if code.name == "GLOBAL" and len(str(argument)) > 500:
            raise ValueError(f"a name of {len(str(argument))} characters")


def _read_arrays(path: Path, arrays: dict[str, Any], mend: str) -> Sites:
    """Arrays by site; a single one is x, whatever it is called."""
    if not arrays:
        raise DataError(f"{path} holds no arrays; save some: {mend}")
    if len(arrays) == 1:
        arrays = {"x": next(iter(arrays.values()))}
    if any(str(name).startswith("arr_") for name in arrays):  # np.savez names them so, who does not
        raise DataError(f'{path} holds {shown(list(arrays))}, none of them "x"; name its arrays: {mend}')
    return Sites(arrays)
