"""Folders of images, read as they are needed where they are larger than the memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from pyro_vae.data.arrays import Sites
from pyro_vae.data.source import DataError, OnDisk, check_growth, check_regular, memory, plain_bytes, reason

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
"""Pillow goes by content and not by suffix, and runs Ghostscript where that is PostScript."""

LOOKED_AT = 1000
"""Images whose kind is looked at before they are read, evenly over all."""
_MOST_FILES = 2_000_000
_SMALL = 2**22
"""Bytes that images may take however little they are on disk."""
_DEEPEST = 2**16 - 1
"""White of 16 bits, which is 257 times that of 8."""

Size = tuple[int, int]
"""Height and width."""


def read_folder(path: Path, stream: bool | None, size: Size | None) -> Sites:
    """A folder's images as the site ``x`` ``[N, C, H, W]``, its subfolders as the classes ``y``.

    Args:
        path: of the folder.
        stream: read them as they are needed; by default when they would take half of the memory.
        size: to which each is cropped in the middle and scaled; by default all have one, which is kept.

    Raises:
        DataError: an image cannot be read, or is not like the others; or they would take too much memory.
    """
    files = _images_in(path)
    pictures = Pictures(path, files, size)
    taken, held = pictures.dtype.itemsize * int(np.prod(pictures.shape)), int(pictures.sizes.sum())
    if not (stream or (stream is None and taken > memory())):
        check_growth(path, held, taken, _SMALL)
    folders = [file.parent.relative_to(path).as_posix() for file in files]
    if "." in folders and len(set(folders)) > 1:
        raise DataError(
            f"{files[folders.index('.')]} lies beside folders, which are classes of images; move it into one "
            "of them, or away"
        )
    on_disk = stream or (stream is None and taken > memory())
    x = pictures if on_disk else pictures.read(np.arange(len(files)))
    sites = Sites(x, labels=folders if len(set(folders)) > 1 else None)
    if pictures.deep:  # whole numbers of this kind are on no known scale but here
        sites.divisor = float(_DEEPEST)
    return sites


class Pictures(OnDisk):
    """Images of a folder, ``[N, C, H, W]``: in colour if one of those looked at is, or else grey.

    They are bytes, or whole numbers up to 65535 if one of those looked at is grey of 16 bits. Each is turned
    as its EXIF data say; where it is transparent, white shines through.
    """

    def __init__(self, path: Path, files: Sequence[Path], size: Size | None):
        self.path, self.files, self.scaled = str(path), [str(file) for file in files], size is not None
        self.sizes = np.array([os.stat(file).st_size for file in files])
        heads = [_head(file) for file in self.files[:: max(1, len(files) // LOOKED_AT)]]
        self.mode = "RGB" if any(mode == "RGB" for mode, *_ in heads) else "L"
        self.deep = any(deep for _, deep, _ in heads)
        self.size = heads[0][-1] if size is None else size
        self.shape = len(files), len(self.mode), *self.size
        self.dtype = np.dtype(np.int32 if self.deep else np.uint8)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """``[B, C, H, W]``, decoded.

        Raises:
            DataError: an image cannot be read, or is not like the others, or was written to.
        """
        x = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for place, row in enumerate(rows.tolist()):
            x[place] = self._one(row)
        return x

    def sample(self, rows: np.ndarray) -> Iterator[bytes]:
        """Names and sizes of all files, which rows these are, and the content of some files."""
        names = (os.path.relpath(file, self.path) for file in self.files)
        yield "\n".join(names).encode(errors="surrogateescape")
        yield plain_bytes(self.sizes)
        yield plain_bytes(rows[:: max(1, len(rows) // 1000)])
        for row in rows[:: max(1, len(rows) // 100)].tolist():
            yield Path(self.files[row]).read_bytes()

    def _one(self, row: int) -> np.ndarray:
        name = self.files[row]
        with _opened(name) as file:
            if os.fstat(file.fileno()).st_size != self.sizes[row]:
                raise DataError(
                    f"{name} was written to after the folder had been loaded; load the data again, and leave "
                    "the images alone while they are in use"
                )
            pixels = decode(file, name, self.mode, self.deep, self.size if self.scaled else None)
        if pixels.shape[1:] != self.size:
            height, width = self.size
            raise DataError(
                f"images must be of one size, but {self.files[0]} is {height}x{width} and {name} is "
                f"{pixels.shape[1]}x{pixels.shape[2]}; crop and scale all to one: "
                f"pv.data.load({self.path!r}, image_size=({height}, {width})) "
                f"(--image-size '({height}, {width})')"
            )
        return pixels


def decode(file: IO[bytes], name: str, mode: str, deep: bool = False, size: Size | None = None) -> np.ndarray:
    """Pixels of an image, ``[C, H, W]``.

    Args:
        file: in one of ``IMAGE_FORMATS``.
        name: of it.
        mode: ``"L"``, of one channel, or ``"RGB"``.
        deep: as whole numbers up to 65535, else as bytes.
        size: to which it is cropped in the middle and scaled (bilinear, over all pixels that it covers).

    Raises:
        DataError: it cannot be read, is animated, in colour or deep where it may not be, is of a scale that
            nobody knows, or is far larger in memory than on disk.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(file, formats=IMAGE_FORMATS) as image:
            _check_head(image, name)
            if mode == "L" and _mode(image) != "L":
                raise DataError(
                    f"{name} is in colour, and most of its folder is grey; convert one or the other"
                )
            if (itself_deep := _is_deep(image)) and not deep:
                raise DataError(
                    f"{name} has 16 bits per pixel, and most of its folder 8; convert one or the other"
                )
            held = os.fstat(file.fileno()).st_size
            check_growth(Path(name), held, image.width * image.height * len(mode), _SMALL)
            upright: Any = image
            ImageOps.exif_transpose(upright, in_place=True)
            if itself_deep:  # of which Pillow converts and scales floating numbers alone
                clear = upright.info.get("transparency")
                upright = upright.convert("F")
                if clear is not None:
                    pixels = np.asarray(upright)
                    upright = Image.fromarray(np.where(pixels == clear, np.float32(_DEEPEST), pixels))
            else:
                if upright.mode[-1] in "Aa" or "transparency" in upright.info:
                    above = upright.convert("RGBA")
                    upright = Image.new("RGBA", above.size, "white")
                    upright.alpha_composite(above)
                upright = upright.convert(mode)
            if size is not None:
                upright = ImageOps.fit(upright, size[::-1], Image.Resampling.BILINEAR)
            pixels = np.asarray(upright).reshape(upright.height, upright.width, -1).transpose(2, 0, 1)
            if itself_deep:
                return np.broadcast_to(pixels.round().astype(np.int32), (len(mode), *pixels.shape[1:]))
            return pixels.astype(np.int32) * (_DEEPEST // 255) if deep else pixels
    except DataError:
        raise
    except Exception as error:  # whatever the parsers of damaged files raise
        raise DataError(f"{name} is no readable image ({reason(error)}); remove it") from error


def _head(name: str) -> tuple[str, bool, Size]:
    """How an image is to be read, whether it has 16 bits, its height and width, as its first bytes tell."""
    from PIL import ExifTags, Image

    try:
        with _opened(name) as file, Image.open(file, formats=IMAGE_FORMATS) as image:
            _check_head(image, name)
            # Not the format's own, which of a PNG decodes all of it to look behind the pixels, too.
            turned = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            return _mode(image), _is_deep(image), image.size if turned else image.size[::-1]
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{name} is no readable image ({reason(error)}); remove it") from error


def _check_head(image: Any, name: str) -> None:
    raw = _stored(image)
    if not _is_deep(image) and (image.mode.startswith(("I", "F")) or ";16" in raw or "65535" in raw):
        if image.mode.startswith(("I", "F")):
            told = "which are on no known scale; convert them to an array of your own: np.save(path, x)"
        else:
            told = 'of which Pillow reads 8; have it write them as such: image.convert("RGB").save(path)'
        raise DataError(f"{name} has more than 8 bits per pixel (mode {image.mode}), {told}")
    if getattr(image, "is_animated", False):
        raise DataError(
            f"{name} has {image.n_frames} frames; save those that are meant as images of their own: "
            "image.seek(0), image.save(path)"
        )


def _mode(image: Any) -> str:
    return "L" if image.mode in ("1", "L", "LA", "La") or _is_deep(image) else "RGB"


def _stored(image: Any) -> str:
    """Pillow's names for how pixels are stored."""
    return str([tile[3] for tile in image.tile])


def _is_deep(image: Any) -> bool:
    """Whether it is grey, from 0 for black to 65535 for white."""
    if image.format == "TIFF":  # of which some have 12 bits, or signs, or 0 for white
        return image.mode.startswith("I;16") and ";12" not in _stored(image) and image.tag_v2.get(262) == 1
    return image.format in ("PNG", "PPM") and image.mode.startswith("I")  # which scales others to it


def _opened(name: str) -> IO[bytes]:
    try:
        return open(name, "rb")
    except OSError as error:
        raise DataError(f"{name} cannot be opened ({reason(error)}); load the folder again") from error


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
            check_regular(file)
            files.append(file)
    if not files:
        raise DataError(f"{path} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    return sorted(files)
