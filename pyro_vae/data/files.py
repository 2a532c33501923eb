"""Readers of files and of folders of images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.arrays import Sites
from pyro_vae.data.source import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")


def read(path: Path, stream: bool | None) -> Sites:
    """Sites of a ``.npy``, ``.npz`` or ``.pt`` file, or of a folder of images.

    Args:
        path: of the file or folder; nothing in it is unpickled.
        stream: read a ``.npy`` file batch by batch; by default when it would take half of the memory.

    Raises:
        DataError: the file cannot be read, or holds no such data.
    """
    if path.is_dir():
        return _read_folder(path)
    if path.suffix not in (".npy", ".npz", ".pt"):
        raise DataError(
            f"{path} is no .npy, .npz or .pt file and no folder of images; save an array as such a "
            'file: np.save("data.npy", x)'
        )
    try:
        if path.suffix == ".npy":
            return Sites(_read_npy(path, stream))
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return _read_arrays(path, dict(arrays), "np.savez(path, x=x, y=labels)")
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(loaded, Mapping):
            loaded = {k: v for k, v in loaded.items() if isinstance(v, Tensor) or k == "y"}
            return _read_arrays(path, loaded, "torch.save(dict(x=x, y=y), path)")
        return _read_arrays(path, {"x": loaded} if isinstance(loaded, Tensor) else {}, "torch.save(x, path)")
    except DataError:
        raise
    except Exception as error:  # whatever the parsers of damaged files raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{path} cannot be read as {path.suffix} without unpickling ({reason[:200]}); save a plain "
            'numeric array: np.save("data.npy", x), or tensor: torch.save(x, "data.pt")'
        ) from error


def _read_npy(path: Path, stream: bool | None) -> np.ndarray:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if stream is None:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        stream = array.nbytes > memory / 2
    return array if stream else np.array(array)


def _read_arrays(path: Path, arrays: dict[str, Any], mend: str) -> Sites:
    """Arrays by site; a single one is x, whatever it is called."""
    if not arrays:
        raise DataError(f"{path} holds no arrays; save some: {mend}")
    if len(arrays) == 1:
        arrays = {"x": next(iter(arrays.values()))}
    if any(str(name).startswith("arr_") for name in arrays):  # np.savez names them so, who does not
        raise DataError(f'{path} holds {list(arrays)}, none of them "x"; name its arrays: {mend}')
    return Sites(arrays)


def _read_folder(path: Path) -> Sites:
    from PIL import Image, UnidentifiedImageError

    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise DataError(f"{path} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    images: list[np.ndarray] = []
    for file in files:
        try:
            with Image.open(file) as image:
                if image.mode.startswith(("I", "F")):
                    raise DataError(
                        f"{file} has more than 8 bits per pixel (mode {image.mode}), which are on no known "
                        "scale; convert such images to an array of your own scale: np.save(path, x)"
                    )
                images.append(np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")))
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(f"{file} is no readable image ({error}); remove it") from error
        if images[-1].shape != images[0].shape:
            raise DataError(
                f"images must be of one size and kind, but {files[0]} is {images[0].shape} and {file} "
                f"is {images[-1].shape}; resize or convert them first"
            )
    folders = [file.parent.relative_to(path).as_posix() for file in files]
    return Sites(np.stack(images), labels=folders if len(set(folders)) > 1 else None)
