"""Data sets: by name, from a file or a folder of images, or an array; split, binarised, batched.

A split is held as one tensor and batched by index, or streamed from a memory-mapped file when it is
larger than memory. Values of 8-bit images are divided by 255; other values are left as they are.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

Binarize = Literal["dynamic", "static", "threshold", "none"]
Array = np.ndarray | Tensor
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")


class DataError(ValueError):
    """The data cannot be used as they are; the message says what was found and how to mend it."""


class Split:
    """Data x ``[N, *event_shape]``, held as one tensor or memory-mapped, and their labels.

    Indexing with a slice or an index tensor gives a float tensor ``[B, *event_shape]``.

    Args:
        values: numbers ``[N, *event_shape]``, a tensor or a (memory-mapped) array.
        labels: class of each datum ``[N]``, for plots.
        divisor: what values are divided by, 255 for 8-bit images.
        binarize: ``"none"``; ``"threshold"``: x > 0.5; ``"static"``: x ~ Bernoulli(grey value), drawn
            once; ``"dynamic"``: drawn anew at each ``redraw``.
        seed: of the static draw, and of the first dynamic one.
        rows: which rows of a memory-mapped array this split is made of; None for all.
    """

    def __init__(
        self,
        values: Array,
        labels: Tensor | None = None,
        *,
        divisor: float = 1.0,
        binarize: Binarize = "none",
        seed: int = 0,
        rows: np.ndarray | None = None,
    ):
        self.streamed = isinstance(values, np.memmap)
        self.values: Any = values if self.streamed else torch.as_tensor(values)
        self.labels = labels
        self.divisor = divisor
        self.binarize = binarize
        self.seed = seed
        self.rows = rows
        self.device = torch.device("cpu")
        self._grey: tuple[Tensor, Tensor] | None = None  # where values are not 0 or 1, and the values
        if not self.streamed and binarize != "none":
            self._binarize_resident()

    def __len__(self) -> int:
        return len(self.values) if self.rows is None else len(self.rows)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one datum."""
        return tuple(self.values.shape[1:])

    def __getitem__(self, index: slice | Tensor | int) -> Tensor:
        if isinstance(index, int):
            return self[torch.tensor([index])][0]
        if isinstance(index, Tensor):
            index = torch.arange(len(self))[index.cpu()]
        return self._take(index, torch.get_default_dtype())

    def batches(
        self,
        batch_size: int,
        order: Tensor | None = None,
        start: int = 0,
        dtype: torch.dtype | None = None,
    ) -> Iterator[Tensor]:
        """Batches of ``[B, *event_shape]``, in the order of the indices given (or as stored).

        Args:
            batch_size: B; the last batch may be smaller.
            order: permutation ``[N]`` to follow.
            start: number of batches to skip.
            dtype: of the batches, by default torch's.
        """
        for i in range(start * batch_size, len(self), batch_size):
            chunk = slice(i, min(i + batch_size, len(self)))
            index = chunk if order is None else order[chunk]
            yield self._take(index, dtype or torch.get_default_dtype())

    def redraw(self, seed: int) -> None:
        """Draws a dynamically binarised split anew; the draw is a function of ``seed`` alone.

        Only pixels that are neither 0 nor 1 are drawn, which for MNIST is a fifth of them.
        """
        if self.binarize != "dynamic":
            return
        self.seed = seed
        self._draw()

    def to(self, device: torch.device) -> Split:
        """Moves what is held in memory to the device, where batches are then made."""
        self.device = torch.device(device)
        if not self.streamed:
            self.values = self.values.to(device)
        if self._grey is not None:
            index, grey = self._grey
            self._grey = index.to(device), grey.to(device)
        return self

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each pixel, each ``event_shape``, in float64."""
        # Without the shift the squares of values far from 0 would lose the variance.
        shift = self._take(torch.tensor([0]), torch.float64)[0]
        first, second = torch.zeros_like(shift), torch.zeros_like(shift)
        for x in self.batches(1000, dtype=torch.float64):
            x = x - shift
            first += x.sum(0)
            second += x.square().sum(0)
        mean = first / len(self)
        return mean + shift, (second / len(self) - mean.square()).clamp(min=0).sqrt()

    @cached_property
    def examples(self) -> Tensor:
        """At most 1000 data, evenly over the split; of the first draw, if it is drawn anew."""
        number = min(1000, len(self))
        return self[torch.arange(number) * len(self) // number]

    @cached_property
    def range(self) -> tuple[float, float]:
        """Smallest and largest value."""
        ends = [(x.min().item(), x.max().item()) for x in self.batches(1000)]
        return min(low for low, _ in ends), max(high for _, high in ends)

    def check_scale(self) -> None:
        """Refuses data whose variation single precision does not resolve.

        Raises:
            DataError: all data are equal, or far from 0 on their own scale, or tiny, or huge.
        """
        mean, std = self.moments
        unit, size = std.square().mean().sqrt().item(), mean.abs().max().item()
        if not 1e-6 < unit < 1e15 or size > 1e5 * unit:
            raise DataError(
                f"the training data vary by {unit:.3g} (standard deviation) around values up to {size:.3g}, "
                "which single precision does not resolve; standardise them: (x - x.mean()) / x.std()"
            )

    def check(self, support: constraints.Constraint, domain: str, likelihood: str, mends: str) -> None:
        """Refuses data outside a likelihood's support.

        Raises:
            DataError: naming the likelihood, the range found, and the mends.
        """
        outside = 0
        for x in self.batches(1000):
            inside = support.check(x).reshape(len(x), -1).all(-1)
            inside &= x.isfinite().reshape(len(x), -1).all(-1)
            outside += int((~inside).sum())
        if outside:
            low, high = self.range
            raise DataError(
                f"{outside} of {len(self)} data lie outside the support {domain} of the likelihood "
                f"{likelihood}: the values range over [{low:g}, {high:g}]. Mend: {mends}"
            )

    def _take(self, index: slice | Tensor, dtype: torch.dtype) -> Tensor:
        if self.streamed:
            return self._stream(index, dtype)
        if isinstance(index, Tensor):
            return self._scale(self.values.index_select(0, index.to(self.device)), dtype)
        return self._scale(self.values[index], dtype)

    def _scale(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        x = x.to(dtype)
        return x if self.divisor == 1.0 else x / self.divisor

    def _binarize_resident(self) -> None:
        if self.binarize == "threshold":
            self.values = (self.values > 0.5 * self.divisor).to(torch.uint8)
        else:
            grey = self._scale(self.values, torch.float32).reshape(-1)
            index = ((grey > 0) & (grey < 1)).nonzero()[:, 0]
            self.values = grey.to(torch.uint8).reshape(self.values.shape)
            self._grey = index, grey[index]
            self._draw()
        self.divisor = 1.0
        if self.binarize == "dynamic":
            _ = self.moments, self.examples  # of the first draw, whatever was drawn since
        else:
            self._grey = None

    def _draw(self) -> None:
        if self._grey is not None:
            index, grey = self._grey
            generator = torch.Generator(self.device).manual_seed(self.seed)
            # A third of the time of torch.bernoulli and an indexed assignment, which draw the same.
            draw = torch.rand(grey.shape, generator=generator, device=self.device) < grey
            self.values.view(-1).scatter_(0, index, draw.to(self.values.dtype))

    def _stream(self, index: Any, dtype: torch.dtype) -> Tensor:
        is_slice = isinstance(index, slice)
        rows = np.arange(*index.indices(len(self))) if is_slice else index.cpu().numpy()
        stored = rows if self.rows is None else self.rows[rows]
        by_place = np.argsort(stored)  # a file is read fastest in its own order
        x = np.empty((len(stored), *self.event_shape), self.values.dtype)
        x[by_place] = self.values[stored[by_place]]
        grey = self._scale(torch.from_numpy(x), dtype)
        if self.binarize == "none":
            return grey.to(self.device)
        if self.binarize == "threshold":
            return (grey > 0.5).to(grey).to(self.device)
        if self.binarize == "dynamic":
            seed = np.random.SeedSequence([self.seed, *map(int, stored[:2]), len(stored)]).generate_state(1)
            generator = torch.Generator().manual_seed(int(seed[0]))
            return torch.bernoulli(grey, generator=generator).to(self.device)
        # One counter-based stream per datum, so that its draw does not depend on the batch it is in.
        uniform = [
            np.random.Generator(np.random.Philox(key=[self.seed, int(row)])).random(self.event_shape)
            for row in stored
        ]
        return (torch.from_numpy(np.stack(uniform)) < grey).to(grey).to(self.device)


@dataclass
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
        """Shape of one datum."""
        return self.train.event_shape

    @property
    def held_out(self) -> tuple[str, Split]:
        """The split to evaluate on, with its name: the test data, or what there is."""
        splits = {"test": self.test, "validation": self.validation, "train": self.train}
        return next((name, split) for name, split in splits.items() if len(split))

    def __str__(self) -> str:
        return (
            f"{self.name}: {len(self.train)} training, {len(self.validation)} validation, "
            f"{len(self.test)} test data of shape {self.event_shape}"
        )

    def to(self, device: torch.device) -> Data:
        """Moves all splits."""
        for split in (self.train, self.validation, self.test):
            split.to(device)
        return self


def load(
    data: str | Path | np.ndarray | Tensor = "digits",
    *,
    labels: Array | None = None,
    data_dir: Path | None = None,
    binarize: Binarize = "none",
    validation: float = 0.1,
    test: float = 0.1,
    levels: bool = False,
    split_seed: int = 0,
    stream: bool | None = None,
) -> Data:
    """Loads a data set and splits it.

    Args:
        data: a name (digits, mnist, fashion-mnist, kmnist, emnist, omniglot, cifar10); or a file
            ``.npy``, ``.npz`` (arrays ``x`` and ``y``, or a single one), ``.pt`` (a tensor, or a dict
            with ``x`` and ``y``); or a folder of images (subfolders are classes); or an array
            ``[N, *event_shape]``. Images ``[N, H, W, C]`` of 1, 3 or 4 channels become ``[N, C, H, W]``, and
            8-bit ones ``[N, H, W]`` become ``[N, 1, H, W]``; 8-bit images are divided by 255.
        labels: classes ``[N]`` of an array's data, for plots.
        data_dir: folder of the named sets, in torchvision's layout; downloaded into it when not
            there. By default ~/.cache/pyro_vae.
        binarize: ``dynamic`` draws x ~ Bernoulli(grey value) anew each epoch, and validation and test
            data once; ``static`` draws all once; ``threshold`` is x > 0.5; ``none`` leaves grey values.
        validation: fraction of the training data held out for validation.
        test: fraction held out for testing, where the set has no test data of its own.
        levels: leave grey levels of 8-bit images the whole numbers that they are, 0 to 255 (of digits, 0 to
            16), for likelihoods of counts, instead of dividing them into [0, 1].
        split_seed: of the split and of the static draws, apart from the seed of training.
        stream: read a ``.npy`` file batch by batch instead of loading it; by default when it would
            take more than half of the memory.

    Raises:
        DataError: what is wrong with the data, and how to mend it.

    >>> load("digits", binarize="dynamic").train[:2].shape
    torch.Size([2, 1, 8, 8])
    """
    if binarize not in get_args(Binarize):
        raise DataError(f"binarize={binarize!r} is none of {', '.join(map(repr, get_args(Binarize)))}")
    if not 0 <= split_seed < 2**32:
        raise DataError(f"split_seed={split_seed} must lie from 0 up to 2**32")
    for name, fraction in (("validation", validation), ("test", test)):
        if not 0 <= fraction < 1:
            raise DataError(f"{name}={fraction} is no fraction; give a number from 0 up to 1")
    config: dict[str, Any] = {
        "data": None,
        "data_dir": None if data_dir is None else str(Path(data_dir).resolve()),
        "binarize": binarize,
        "validation": validation,
        "test": test,
        "levels": levels,
        "split_seed": split_seed,
        "stream": stream,
    }
    own_test: _Raw | None = None
    if isinstance(data, str | Path):
        name = str(data)
        train, own_test = _read(name, data_dir, stream)
        config["data"] = name if name in SETS else str(Path(name).resolve())
    else:
        name = "array"
        train = _Raw(data)
    if labels is not None:
        train.y = torch.as_tensor(np.asarray(labels))
    if levels and binarize != "none":
        raise DataError(
            f"levels=True keeps grey levels, and binarize={binarize!r} does not; give one of them"
        )
    for raw in (train, own_test):
        if raw is not None:
            raw.divisor = 1.0 if levels else raw.divisor
            raw.check(name, binarize)
    splits = _split(train, own_test, validation, test, split_seed)
    held_out: Binarize = "static" if binarize == "dynamic" else binarize
    modes = [binarize, held_out, held_out]
    made = [
        Split(raw.x, raw.y, divisor=raw.divisor, binarize=mode, seed=split_seed, rows=raw.rows)
        for raw, mode in zip(splits, modes, strict=True)
    ]
    name = name if name in SETS else Path(name).stem
    return Data(made[0], made[1], made[2], name, config, _fingerprint(splits))


class _Raw:
    """Numbers as read, before splitting and binarising."""

    def __init__(self, x: Any, y: Array | None = None):
        self.x = _numbers(x)
        self.y = None if y is None else torch.as_tensor(np.asarray(y))
        self.rows: np.ndarray | None = None
        self.divisor = 1.0
        if self.x.dtype in (torch.uint8, np.uint8) and self.x.ndim in (3, 4) and 0 not in self.x.shape:
            if self.x.max() > 1:  # else they are binary images
                self.divisor = 255.0
            if self.x.ndim == 3:
                self.x = self.x[:, None]
        if self.x.ndim == 4 and self.x.shape[-1] in (1, 3, 4) and self.x.shape[1] not in (1, 3, 4):
            order = (0, 3, 1, 2)
            tensor = isinstance(self.x, Tensor)
            self.x = self.x.permute(order).contiguous() if tensor else self.x.transpose(order)

    def __len__(self) -> int:
        return len(self.x) if self.rows is None else len(self.rows)

    def numpy(self, index: Any) -> np.ndarray:
        """Some of the values, in memory."""
        return self.x[index].numpy() if isinstance(self.x, Tensor) else np.array(self.x[index])

    def take(self, rows: np.ndarray) -> _Raw:
        taken = object.__new__(_Raw)
        taken.divisor = self.divisor
        taken.y = None if self.y is None else self.y[torch.from_numpy(rows)]
        taken.x, taken.rows = self.x, rows
        if isinstance(self.x, Tensor):
            taken.x, taken.rows = self.x[torch.from_numpy(rows)], None
        return taken

    def check(self, name: str, binarize: Binarize) -> None:
        shape = tuple(self.x.shape)
        if not len(shape) or not shape[0] or 0 in shape:
            raise DataError(f"{name} is empty: its shape is {shape}; give an array [N, *event_shape]")
        if len(shape) == 1:
            raise DataError(
                f"{name} has shape {shape}, so that a datum would be a single number without a shape; "
                "give [N, 1] for one feature per datum: x[:, None]"
            )
        if self.y is not None and self.y.shape != shape[:1]:
            raise DataError(
                f"{name} has {shape[0]} data but labels of shape {tuple(self.y.shape)}; "
                f"give one label per datum, of shape ({shape[0]},)"
            )
        low, high = float("inf"), float("-inf")
        for i in range(0, shape[0], 1000):
            x = torch.from_numpy(self.numpy(slice(i, i + 1000))) / self.divisor
            if not torch.isfinite(x).all():
                row = i + int((~torch.isfinite(x.reshape(len(x), -1)).all(-1)).nonzero()[0])
                raise DataError(
                    f"{name} holds NaN or infinite values, first in row {row}; drop such rows: "
                    "x[np.isfinite(x.reshape(len(x), -1)).all(1)]"
                )
            low, high = min(low, x.min().item()), max(high, x.max().item())
        if binarize != "none" and not 0 <= low <= high <= 1:
            raise DataError(
                f"binarize={binarize!r} reads values as probabilities in [0, 1], but those of {name} "
                f"range over [{low:g}, {high:g}]; scale them: (x - x.min()) / (x.max() - x.min()), "
                'or leave them as they are, binarize="none", under a likelihood of real values: '
                'likelihood=pv.likelihoods.Normal(scale="shared") (--likelihood Normal)'
            )


def _numbers(x: Any) -> Any:
    """A memory-mapped array as it is, and anything else as a tensor of real numbers."""
    if isinstance(x, Tensor):
        x = x.detach().cpu()
        x = (x.float() if x.dtype in (torch.bfloat16, torch.float16) else x).numpy()
    try:
        array = x if isinstance(x, np.memmap) else np.asarray(x)
    except ValueError as error:
        raise DataError(f"the data are ragged ({error}); give rows of equal shape") from error
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"the data hold {array.dtype} values, not real numbers; rows of different shapes give such "
            "an array: give rows of equal shape, of a numeric dtype"
        )
    if isinstance(array, np.memmap) and array.dtype.isnative and array.dtype.itemsize <= 8:
        return array
    wide = {"u": "i8", "f": "f8"}  # what PyTorch lacks: wider unsigned integers and floats
    kept = array.dtype.name in ("uint8", "float32", "bool", "int8", "int16", "int32")
    dtype = array.dtype.newbyteorder("=") if kept else np.dtype(wide.get(array.dtype.kind, "i8"))
    return torch.from_numpy(np.require(array, dtype, ["C", "W"]))


def _fingerprint(splits: Sequence[_Raw]) -> str:
    digest = hashlib.sha256()
    for raw in splits:
        rows = np.arange(len(raw)) if raw.rows is None else raw.rows
        some = np.sort(rows[:: max(1, len(rows) // 1000)])
        values = raw.numpy(some)
        digest.update(f"{len(raw)} {values.dtype} {values.shape[1:]}".encode() + values.tobytes())
    return digest.hexdigest()[:16]


def _split(train: _Raw, own_test: _Raw | None, validation: float, test: float, seed: int) -> list[_Raw]:
    order = np.random.default_rng(seed).permutation(len(train))
    num_test = 0 if own_test is not None else round(test * len(train))
    num_validation = round(validation * (len(train) - num_test))
    cuts = np.cumsum([num_test, num_validation])
    rows = [np.sort(part) for part in np.split(order, cuts)]
    if not len(rows[2]):
        raise DataError(
            f"nothing is left to train on: of {len(train)} data {num_test} were held out for testing "
            f"and {num_validation} for validation; lower validation={validation} or test={test}"
        )
    held_out = train.take(rows[0]) if own_test is None else own_test
    return [train.take(rows[2]), train.take(rows[1]), held_out]


def _read(name: str, data_dir: Path | None, stream: bool | None) -> tuple[_Raw, _Raw | None]:
    path = Path(name)
    if name in SETS:
        root = Path.home() / ".cache" / "pyro_vae" if data_dir is None else Path(data_dir)
        return SETS[name](root)
    if path.is_dir():
        return _read_folder(path), None
    if not path.exists():
        near = difflib.get_close_matches(name.lower(), SETS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise DataError(
            f"no data set or file named {name!r}; {hint}Known names: {', '.join(SETS)}; "
            "or give a .npy, .npz or .pt file, or a folder of images"
        )
    readers = {".npy": _read_npy, ".npz": _read_npz, ".pt": _read_pt}
    if path.suffix not in readers:
        raise DataError(
            f"{path} is no .npy, .npz or .pt file and no folder of images; save an array as such a "
            'file: np.save("data.npy", x)'
        )
    try:
        return readers[path.suffix](path, stream), None
    except DataError:
        raise
    except Exception as error:  # whatever the parsers of damaged files raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{path} cannot be read as {path.suffix} without unpickling ({reason[:200]}); save a plain "
            'numeric array: np.save("data.npy", x), or tensor: torch.save(x, "data.pt")'
        ) from error


def _read_npy(path: Path, stream: bool | None) -> _Raw:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if stream is None:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        stream = array.nbytes > memory / 2
    return _Raw(array) if stream else _Raw(np.array(array))


def _read_npz(path: Path, stream: bool | None) -> _Raw:
    with np.load(path, allow_pickle=False) as arrays:
        names = list(arrays)
        key = "x" if "x" in names else names[0] if len(names) == 1 else None
        if key is None:
            raise DataError(f'{path} holds {names}, none of them "x"; np.savez(path, x=x, y=labels)')
        return _Raw(arrays[key], arrays["y"] if "y" in names else None)


def _read_pt(path: Path, stream: bool | None) -> _Raw:
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(loaded, Tensor):
        return _Raw(loaded)
    if isinstance(loaded, dict) and isinstance(loaded.get("x"), Tensor):
        return _Raw(loaded["x"], loaded.get("y"))
    raise DataError(f"{path} holds no tensor; torch.save(x, path) or torch.save(dict(x=x, y=y), path)")


def _read_folder(path: Path) -> _Raw:
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
    folders = [str(file.parent) for file in files]
    classes = sorted(set(folders))
    labels = np.array([classes.index(folder) for folder in folders]) if len(classes) > 1 else None
    return _Raw(np.stack(images), labels)


def _digits(root: Path) -> tuple[_Raw, None]:
    """1,797 handwritten digits of 8x8 pixels with 17 grey levels (Alpaydin and Kaynak, 1998)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    raw = _Raw(bunch.images.astype(np.uint8), bunch.target)
    raw.divisor = 16.0
    return raw, None


def _torchvision(
    dataset: str, read: Callable[[Any], _Raw] | None = None, splits: Sequence[dict[str, Any]] = ()
) -> Callable[[Path], tuple[_Raw, _Raw]]:
    """Reader of one of torchvision's sets, which it downloads when ``root`` does not hold it."""

    def load_set(root: Path) -> tuple[_Raw, _Raw]:
        import torchvision

        make = getattr(torchvision.datasets, dataset)
        raws = []
        for arguments in splits or ({"train": True}, {"train": False}):
            try:
                try:
                    part = make(str(root), download=False, **arguments)
                except RuntimeError:
                    part = make(str(root), download=True, **arguments)
            except Exception as error:
                raise DataError(
                    f"{dataset} is neither in {root} nor can it be downloaded ({error}); put the files "
                    "there in torchvision's layout, or name the folder that has them: --data-dir DIR "
                    "(data_dir=DIR)"
                ) from error
            raws.append(read(part) if read else _Raw(part.data, part.targets))
        return raws[0], raws[1]

    return load_set


def _omniglot(part: Any) -> _Raw:
    """Strokes white on black, averaged from 105x105 down to the 28x28 that the literature uses."""
    images = torch.stack([torch.from_numpy(np.array(image.convert("L"))) for image, _ in part])
    grey = 1 - images[:, None].float() / 255
    return _Raw(F.interpolate(grey, size=(28, 28), mode="area"), np.array([y for _, y in part]))


SETS: dict[str, Callable[[Path], tuple[_Raw, _Raw | None]]] = {
    "digits": _digits,
    "mnist": _torchvision("MNIST"),
    "fashion-mnist": _torchvision("FashionMNIST"),
    "kmnist": _torchvision("KMNIST"),
    "emnist": _torchvision(
        "EMNIST",
        # torchvision's EMNIST images are stored column by column.
        lambda part: _Raw(part.data.transpose(1, 2).contiguous(), part.targets),
        [{"split": "balanced", "train": train} for train in (True, False)],
    ),
    "omniglot": _torchvision(
        "Omniglot", _omniglot, [{"background": background} for background in (True, False)]
    ),
    "cifar10": _torchvision("CIFAR10"),
}
"""Readers of the named data sets."""
