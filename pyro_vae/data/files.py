"""Readers of files and of folders of images: nothing in them is unpickled or run.

What a file announces is compared with what it holds before memory is taken for it.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.arrays import Sites
from pyro_vae.data.source import DataError, memory, reason, shown

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
"""Pillow goes by content and not by suffix, and runs Ghostscript where that is PostScript."""

_MOST_FILES = 2_000_000
_SMALL, _SMALL_FOLDER = 2**29, 2**22
"""Bytes that an archive, or a folder of images, may take however little it is on disk."""


def read(path: Path, stream: bool | None) -> Sites:
    """Sites of a ``.npy``, ``.npz`` or ``.pt`` file, or of a folder of images.

    Args:
        path: of the file or folder.
        stream: read a ``.npy`` file batch by batch; by default when it would take half of the memory.

    Raises:
        DataError: the file cannot be read, or holds no such data, or would take too much memory.
    """
    if path.is_dir():
        return _read_folder(path)
    if path.suffix not in (".npy", ".npz", ".pt"):
        raise DataError(
            f"{path} is no .npy, .npz or .pt file and no folder of images; save an array as such a "
            'file: np.save("data.npy", x)'
        )
    _check_regular(path)
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


def _check_regular(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path} is a pipe, a device or the like; save the data in a regular file")


def _check_growth(path: Path, held: int, found: int, small: int = _SMALL) -> None:
    """Refuses what is far larger in memory than on disk, as a file is that was made to exhaust a machine.

    Raises:
        DataError: it takes more than half of the memory; or more than is small and than 100 times what is on
            disk, where data seldom take ten times that.
    """
    if found > min(memory(), max(small, 100 * held)):
        raise DataError(
            f"{path} would take {found / 2**30:.3g} GiB in memory, {found / max(1, held):.3g} times what it "
            "takes on disk; if that is meant, save its array as a .npy file, which is read batch by batch"
        )


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
        _check_growth(path, path.stat().st_size, sum(member.file_size for member in members))
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
            _check_growth(path, held, sum(member.file_size for member in members))
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
    _check_growth(path, held, sum(taken))  # a tensor may repeat one number
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


def _read_folder(path: Path) -> Sites:
    files = _images_in(path)
    held = sum(file.stat().st_size for file in files)
    images: list[np.ndarray] = []
    taken = 0
    for file in files:
        images.append(read_image(file, path, held, taken))
        taken += images[-1].nbytes
        if images[-1].shape != images[0].shape:
            raise DataError(
                f"images must be of one size and kind, but {files[0]} is {images[0].shape} and {file} "
                f"is {images[-1].shape}; resize or convert them first"
            )
    folders = [file.parent.relative_to(path).as_posix() for file in files]
    if "." in folders and len(set(folders)) > 1:
        raise DataError(
            f"{files[folders.index('.')]} lies beside folders, which are classes of images; move it into one "
            "of them, or away"
        )
    return Sites(np.stack(images), labels=folders if len(set(folders)) > 1 else None)


def _images_in(path: Path) -> Sequence[Path]:
    """Its images, in order of their names, but for those that are hidden."""
    files: list[Path] = []
    for number, file in enumerate(path.rglob("*")):
        if number == _MOST_FILES:
            raise DataError(
                f"{path} holds more than {_MOST_FILES:,} files; give the folder of the images alone"
            )
        hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
        if file.suffix.lower() in IMAGE_SUFFIXES and not hidden and not file.is_dir():
            _check_regular(file)
            files.append(file)
    if not files:
        raise DataError(f"{path} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    return sorted(files)


def read_image(file: Path, folder: Path, held: int = 0, taken: int = 0) -> np.ndarray:
    """Pixels of a grey or colour image, of a folder in which ``taken`` bytes of others were read.

    Args:
        file: of the image, in one of ``IMAGE_FORMATS``.
        folder: of it and others.
        held: bytes of their files.
        taken: of the pixels that were read before.

    Raises:
        DataError: it is none, or would take far more memory than all their files.
    """
    from PIL import Image

    try:
        with Image.open(file, formats=IMAGE_FORMATS) as image:
            raw = str([tile[3] for tile in image.tile])  # Pillow's name for how pixels are stored
            if image.mode.startswith(("I", "F")) or ";16" in raw or "65535" in raw:
                raise DataError(
                    f"{file} has more than 8 bits per pixel (mode {image.mode}), which are on no known "
                    "scale; convert such images to an array of your own scale: np.save(path, x)"
                )
            mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
            _check_growth(folder, held, taken + math.prod(image.size) * len(mode), _SMALL_FOLDER)
            return np.asarray(image.convert(mode))
    except DataError:
        raise
    except Exception as error:  # whatever the parsers of damaged files raise
        raise DataError(f"{file} is no readable image ({reason(error)}); remove it") from error
