"""Readers of the named data sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pyro_vae.data.arrays import Sites
from pyro_vae.data.pictures import decode
from pyro_vae.data.source import DataError, reason, shown


def _digits(root: Path) -> tuple[Sites, None]:
    """1,797 handwritten digits of 8x8 pixels with 17 grey levels (Alpaydin and Kaynak, 1998)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    read = Sites(bunch.images.astype(np.uint8), bunch.target, [str(digit) for digit in range(10)])
    read.divisor = 16.0
    return read, None


def _arrays(part: Any) -> Sites:
    return Sites(part.data, part.targets, getattr(part, "classes", None))


def _emnist(part: Any) -> Sites:
    """torchvision's images of it are stored column by column."""
    return Sites(part.data.transpose(1, 2), part.targets, part.classes)


def _omniglot(part: Any) -> Sites:
    """Strokes white on black, averaged from 105x105 down to the 28x28 that the literature uses."""
    part.loader = _character  # torchvision's would open any format
    images = torch.stack([torch.from_numpy(np.array(image.convert("L"))) for image, _ in part])
    grey = 1 - images[:, None].float() / 255
    first = 0 if part.background else 964  # the test data are of other characters
    return Sites(F.interpolate(grey, size=(28, 28), mode="area"), [first + y for _, y in part])


def _character(path: str) -> Any:
    """One of Omniglot's images, read as those of a folder are."""
    from PIL import Image

    with open(path, "rb") as file:
        pixels = decode(file, path, "L")
    if pixels.shape[1:] != (105, 105):
        raise DataError(f"{path} is {pixels.shape[1:]}, and no character of 105x105 pixels; restore it")
    return Image.fromarray(pixels[0])


def _torchvision(
    dataset: str,
    read: Callable[[Any], Sites] = _arrays,
    parts: Sequence[dict[str, Any]] = ({"train": True}, {"train": False}),
) -> Callable[[Path], tuple[Sites, Sites]]:
    """Reader of one of torchvision's sets, which it downloads when ``root`` does not hold it."""

    def load_set(root: Path) -> tuple[Sites, Sites]:
        import torchvision

        make = getattr(torchvision.datasets, dataset)
        found = []
        for arguments in parts:
            try:
                try:
                    part = make(str(root), download=False, **arguments)
                except RuntimeError:
                    part = make(str(root), download=True, **arguments)
            except Exception as error:
                raise DataError(
                    f"{dataset} is neither in {shown(str(root))} nor can it be downloaded "
                    f"({reason(error)}); put the files there in torchvision's layout, or name the folder "
                    "that has them: --data-dir DIR (data_dir=DIR)"
                ) from error
            found.append(read(part))
        return found[0], found[1]

    return load_set


SETS: dict[str, Callable[[Path], tuple[Sites, Sites | None]]] = {
    "digits": _digits,
    "mnist": _torchvision("MNIST"),
    "fashion-mnist": _torchvision("FashionMNIST"),
    "kmnist": _torchvision("KMNIST"),
    "emnist": _torchvision("EMNIST", _emnist, [{"split": "balanced", "train": t} for t in (True, False)]),
    "omniglot": _torchvision("Omniglot", _omniglot, [{"background": b} for b in (True, False)]),
    "cifar10": _torchvision("CIFAR10"),
}
"""Readers of the named data sets: of a folder, their data and their test data."""
