"""Data sets: by name, from a file or a folder of images, or arrays; split, binarised, batched.

A source holds the numbers of one site in memory, or reads them from disk as they are needed when they are
larger than it; a binarisation may lie around it. Values of 8-bit images are divided by 255; other
values are left as they are. A value that is NaN is not observed.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data import anndata, rowgroups, tables
from pyro_vae.data.arrays import Sites
from pyro_vae.data.binarize import Binarize
from pyro_vae.data.columns import Columns
from pyro_vae.data.files import read
from pyro_vae.data.pictures import read_folder
from pyro_vae.data.sets import SETS
from pyro_vae.data.source import Array, DataError, OnDisk, Streamed, plain_bytes, shown
from pyro_vae.data.split import Split

__all__ = ["SETS", "Binarize", "Data", "DataError", "Split", "load"]


@dataclass(repr=False)
class Data:
    """A data set in three splits.

    Attributes:
        name: that it was loaded by, or of its file.
        config: the arguments from which ``load`` makes it again.
        fingerprint: digest of rows of each split, before binarising, by which a run knows its data.
    """

    train: Split
    validation: Split
    test: Split
    name: str
    config: dict[str, Any]
    fingerprint: str

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one datum of the first site, x."""
        return self.train.event_shape

    @property
    def columns(self) -> Columns | None:
        """Of a table, what its columns are."""
        return self.train.columns

    @property
    def event_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of one datum, by site; of a table its columns, for which a model of it is built."""
        return self.columns or self.train.event_shapes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Of the labels, in the order of their numbers; None where they have none."""
        return self.train.class_names

    @property
    def held_out(self) -> tuple[str, Split]:
        """The split to evaluate on, with its name: the test data, or what there is."""
        splits = {"test": self.test, "validation": self.validation, "train": self.train}
        return next((name, split) for name, split in splits.items() if len(split))

    def to(self, device: torch.device | str) -> Data:
        """Moves all splits."""
        for split in (self.train, self.validation, self.test):
            split.to(device)
        return self

    def __repr__(self) -> str:
        others = "".join(f", {s} {shape}" for s, shape in list(self.train.event_shapes.items())[1:])
        shape = f"columns {self.columns!r}" if self.columns else f"shape {self.event_shape}"
        return (
            f"{self.name}: {len(self.train)} training, {len(self.validation)} validation, "
            f"{len(self.test)} test data of {shape}{others}"
        )

    def _repr_html_(self) -> str:
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return "".join(f"<b>{name}</b>{split._repr_html_()}" for name, split in splits.items())


def load(
    data: str | Path | Array | Mapping[str, Any] = "digits",
    *,
    labels: Any = None,
    layer: str | None = None,
    batch_key: str | None = None,
    data_dir: str | Path | None = None,
    binarize: Binarize = "none",
    validation: float = 0.1,
    test: float = 0.1,
    levels: bool = False,
    split_seed: int = 0,
    stream: bool | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> Data:
    """Loads a data set and splits it: shuffled, and each class in proportion where data have labels.

    Args:
        data: a name (digits, mnist, fashion-mnist, kmnist, emnist, omniglot, cifar10); or a file
            ``.npy``, ``.npz`` or ``.pt`` (of one array, or of arrays by site: ``x``, labels ``y``, any
            others); or a folder of images (subfolders are classes, hidden files are left out); or an array
            ``[N, *event_shape]``; or a mapping of arrays by site; or a table, whose columns keep their names
            and kinds: a DataFrame of pandas (of polars, of Arrow), a ``.csv`` or ``.parquet`` file. Images
            ``[N, H, W, C]`` of 1, 3 or 4 channels become ``[N, C, H, W]``, and 8-bit ones ``[N, H, W]``
            become ``[N, 1, H, W]``; 8-bit images are divided by 255, and a folder's grey ones of 16 bits by
            65535. What is said of images and of ``binarize`` is of the site ``x``, or else of the first. NaN
            is a value that is not observed, and so is one that is masked.
        labels: class of each datum ``[N]``, or of a table the name of the column of them; site ``y``: whole
            numbers from 0, or strings or other
            classes, which are numbered in their order and keep their names as ``class_names``, as do whole
            numbers in a column of a table that are not 0, 1, ..., K - 1.
            A class of three or more that is too small for its share gets a datum in each split all the same
            where another class has more than its own. Of cells also the name of a column of ``adata.obs``.
        layer: of cells, the layer that holds counts; by default ``adata.X``.
        batch_key: of cells, the column of ``adata.obs`` that says of which batch each is: site ``batch``,
            numbered in the order of their names.
        data_dir: folder of the named sets, in torchvision's layout; downloaded into it when not
            there. By default ~/.cache/pyro_vae.
        binarize: ``dynamic`` draws x ~ Bernoulli(grey value) anew each epoch, and validation and test
            data once; ``static`` draws all once; ``threshold`` is x > 0.5; ``none`` leaves grey values.
        validation: fraction of the training data held out for validation.
        test: fraction held out for testing, where the set has no test data of its own.
        levels: leave grey levels of 8-bit images the whole numbers that they are, 0 to 255 (of digits, 0 to
            16), for likelihoods of counts, instead of dividing them into [0, 1].
        split_seed: of the split and of the static draws, apart from the seed of training.
        stream: read a ``.npy`` or ``.parquet`` file, or a folder of images, batch by batch instead of loading
            it; by default when it would take more than half of the memory. Each batch looks whether the file
            was written to since; a ``.npy`` file that is cut short while a batch is being read ends the
            process all the same (SIGBUS).
        image_size: height and width, or both in one number, to which each image of a folder is cropped in the
            middle and scaled; by default all are of one size, which is kept.

    Raises:
        DataError: what is wrong with the data, and how to mend it.

    >>> load("digits", binarize="dynamic").train[:2].shape
    torch.Size([2, 1, 8, 8])
    """
    config: dict[str, Any] = {
        "data": None,
        "data_dir": data_dir,
        "binarize": binarize,
        "validation": validation,
        "test": test,
        "levels": levels,
        "split_seed": split_seed,
        "stream": stream,
        "image_size": image_size,
    }
    _check_arguments(config)
    folder = _is_path(data) and data not in SETS and os.path.isdir(cast(str, data))
    if image_size is not None and not folder:
        raise DataError(
            f"image_size={shown(image_size)} is of a folder of images, and the data are none; leave it out, "
            "or scale their images: torch.nn.functional.interpolate(x, size)"
        )
    name, own_test, columns = "array", None, None
    frame, cells = tables.is_frame(data), anndata.is_anndata(data)
    if cells or (_is_path(data) and Path(cast(str, data)).suffix in anndata.SUFFIXES):
        name = "cells" if cells else str(data)
        adata = data if cells else anndata.read_cells(Path(name))
        train, columns = anndata.cells(adata, layer, batch_key, labels)
        config |= {"layer": layer, "batch_key": batch_key}
        if not cells and (labels is None or isinstance(labels, str)):
            config |= {"data": str(Path(name).resolve()), "labels": labels}
    elif layer is not None or batch_key is not None:
        raise DataError(
            f"layer={shown(layer)} and batch_key={shown(batch_key)} are of an AnnData or a .h5ad file, and "
            f"the data are of type {type(data).__name__}; leave them out"
        )
    elif frame or (_is_path(data) and Path(cast(str, data)).suffix in tables.SUFFIXES):
        name = "table" if frame else str(data)
        on_disk = Path(name)
        if (
            not frame
            and on_disk.suffix == ".parquet"
            and (stream or (stream is None and not tables.fits(on_disk)))
        ):
            train, columns = rowgroups.table(on_disk, labels)
        else:
            train, columns = tables.table(data if frame else tables.read(on_disk), labels)
        if not frame and (labels is None or isinstance(labels, str)):
            config |= {"data": str(Path(name).resolve()), "labels": labels}
    elif isinstance(data, str | Path):
        name = str(data)
        size = config["image_size"]
        train, own_test = (
            (read_folder(Path(name), stream, size), None) if folder else _read(name, data_dir, stream)
        )
        if labels is not None:
            train.label(labels)
        else:
            config["data"] = name if name in SETS else str(Path(name).resolve())
    else:
        train = Sites(data, labels)
    for part in (train, own_test):
        if part is not None:
            part.divisor = 1.0 if levels else train.divisor
            part.check(name, binarize)
    x = train.values[train.first]
    if isinstance(x, OnDisk):
        config["stream"] = True
    parts = _split(train, own_test, validation, test, split_seed)
    if isinstance(x, OnDisk) and x.blocks is not None:  # those that are read together come together
        parts = [(part, rows[Streamed(x, rows=rows).shuffled(split_seed)]) for part, rows in parts]
    held_out: Binarize = "static" if binarize == "dynamic" else binarize
    splits = [
        Split(
            {s: v[torch.from_numpy(rows)] if isinstance(v, Tensor) else v for s, v in part.values.items()},
            divisor=part.divisor,
            binarize=mode,
            seed=int(split_seed),
            rows=rows,
            class_names=part.class_names,
            columns=columns,
        )
        for (part, rows), mode in zip(parts, (binarize, held_out, held_out), strict=True)
    ]
    name = name if name in SETS else Path(name).stem
    return Data(splits[0], splits[1], splits[2], name, config, _fingerprint(parts))


def _check_arguments(config: dict[str, Any]) -> None:
    def is_number(name: str, kind: Any, end: int) -> bool:
        value = config[name]
        return isinstance(value, kind) and not isinstance(value, bool) and 0 <= value < end

    modes, whether = get_args(Binarize), "is neither True nor False"
    fraction = "is no fraction; give a number from 0 up to 1"
    folder, mode, offered = config["data_dir"], config["binarize"], ", ".join(map(repr, modes))
    for name, fits, wrong in (
        ("data_dir", folder is None or _is_path(folder), "is no name of a folder"),
        ("binarize", isinstance(mode, str) and mode in modes, f"is none of {offered}"),
        ("validation", is_number("validation", Real, 1), fraction),
        ("test", is_number("test", Real, 1), fraction),
        ("split_seed", is_number("split_seed", Integral, 2**32), "must be a whole number from 0 up to 2**32"),
        ("levels", isinstance(config["levels"], bool), whether),
        ("stream", isinstance(config["stream"], bool | None), whether),
        ("image_size", _is_size(config["image_size"]), "is no height and width; give two numbers of pixels"),
    ):
        if not fits:
            raise DataError(f"{name}={shown(config[name])} {wrong}")
    if config["levels"] and config["binarize"] != "none":
        raise DataError(
            f"levels=True keeps grey levels, and binarize={config['binarize']!r} does not; give one of them"
        )
    if (size := config["image_size"]) is not None:
        config["image_size"] = (size, size) if isinstance(size, int) else tuple(size)
    config["data_dir"] = None if folder is None else os.path.realpath(folder)
    numbers = {"validation": float, "test": float, "split_seed": int}  # NumPy's become Python's
    config |= {name: kind(config[name]) for name, kind in numbers.items()}


def _is_size(value: Any) -> bool:
    """Whether it is a height and width, one for both, or none."""
    sides = list(value) if isinstance(value, list | tuple) else [value, value]
    numbers = [isinstance(side, int) and not isinstance(side, bool) and 0 < side < 2**16 for side in sides]
    return value is None or (len(sides) == 2 and all(numbers))


def _is_path(value: Any) -> bool:
    """Whether a file or folder can have this name."""
    return isinstance(value, str | Path) and str(value) != "" and str(value).isprintable()


def _read(name: str, data_dir: str | Path | None, stream: bool | None) -> tuple[Sites, Sites | None]:
    if name in SETS:
        return SETS[name](Path.home() / ".cache" / "pyro_vae" if data_dir is None else Path(data_dir))
    if _is_path(name) and os.path.exists(name):
        return read(Path(name), stream), None
    near = difflib.get_close_matches(name.lower(), SETS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise DataError(
        f"no data set or file named {shown(name)}; {hint}Known names: {', '.join(SETS)}; "
        "or give a .npy, .npz, .pt, .csv, .parquet or .h5ad file, or a folder of images"
    )


def _split(
    train: Sites, own_test: Sites | None, validation: float, test: float, seed: int
) -> list[tuple[Sites, np.ndarray]]:
    """Rows of the training, validation and test data."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(train))
    num_test = 0 if own_test is not None else round(test * len(order))
    num_validation = round(validation * (len(order) - num_test))
    if num_test + num_validation == len(order):
        raise DataError(
            f"nothing is left to train on: of {len(order)} data {num_test} were held out for testing "
            f"and {num_validation} for validation; lower validation={validation} or test={test}"
        )
    strata = np.zeros(len(order), int)
    if (y := train.values.get("y")) is not None and y.ndim == 1:  # those not known are a class, too
        found, of_row = np.unique(np.nan_to_num(np.asarray(y), nan=np.inf), return_inverse=True)
        if len(found) <= len(y) / 2:
            strata = of_row
            order = order[np.argsort(strata[order], kind="stable")]  # class by class, shuffled within
    rows: list[np.ndarray] = []
    for number in (num_test, num_validation):
        # Evenly over the order, so that each class has its share of them, up to rounding.
        chosen = (np.arange(number) * len(order) + random.integers(len(order))) // max(1, number)
        if number:
            _hold_out_each(chosen, strata[order], 3 - len(rows), random)
            _leave_each(chosen, strata[order], random)
        rows.append(random.permutation(order[chosen]))
        order = np.delete(order, chosen)
    tested = (train, rows[0]) if own_test is None else (own_test, np.arange(len(own_test)))
    return [(train, random.permutation(order)), (train, rows[1]), tested]


def _hold_out_each(chosen: np.ndarray, strata: np.ndarray, least: int, random: np.random.Generator) -> None:
    """Exchanges places among those chosen, so that each class of ``least`` or more has one.

    A class gives no more than what it has beyond its share, so that this may come to an end before. Rows lie
    class by class in ``strata``.
    """
    counts = np.bincount(strata)
    ends, share = counts.cumsum(), len(chosen) * counts / len(strata)
    held = np.bincount(strata[chosen], minlength=len(counts))
    for rare in random.permutation(np.flatnonzero((held == 0) & (counts >= least))):
        excess = np.where(share > 1, held - share, 0)
        giver = excess.argmax()
        if excess[giver] <= 0:
            return
        place = random.choice(np.flatnonzero(strata[chosen] == giver))
        chosen[place] = random.integers(ends[rare] - counts[rare], ends[rare])
        held[giver] -= 1


def _leave_each(chosen: np.ndarray, strata: np.ndarray, random: np.random.Generator) -> None:
    """Exchanges places among those chosen, so that no class is held out whole.

    The class that has most short of its share gives one, if it has two or more left.
    """
    counts = np.bincount(strata)
    share = len(chosen) * counts / len(strata)
    for whole in np.flatnonzero(np.bincount(strata[chosen], minlength=len(counts)) == counts):
        held = np.bincount(strata[chosen], minlength=len(counts))
        giver = np.where(counts - held > 1, share - held, -np.inf).argmax()
        if counts[giver] - held[giver] < 2:
            return
        free = np.setdiff1d(np.flatnonzero(strata == giver), chosen)
        chosen[np.flatnonzero(strata[chosen] == whole)[0]] = random.choice(free)


def _fingerprint(parts: Sequence[tuple[Sites, np.ndarray]]) -> str:
    digest = hashlib.sha256()
    for part, rows in parts:
        for site, values in part.values.items():
            digest.update(f"{site} {len(rows)} {tuple(values.shape[1:])}".encode())
            if isinstance(values, OnDisk):
                for content in values.sample(rows):
                    digest.update(content)
            else:
                digest.update(plain_bytes(values[rows[:: max(1, len(rows) // 1000)]]))
    return digest.hexdigest()[:16]
