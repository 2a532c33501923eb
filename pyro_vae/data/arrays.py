"""Arrays as they are given, made into sites: real numbers ``[N, *event_shape]`` and classes ``[N]``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.binarize import Binarize
from pyro_vae.data.source import DataError


class Sites:
    """Values by site, before they are split and binarised.

    Args:
        data: anything that NumPy makes an array of real numbers of, or a mapping of such by site.
        labels: site ``"y"``, as ``classes`` takes them.
        class_names: of labels that are numbers.

    Attributes:
        values: tensors or memory-mapped arrays ``[N, *event_shape]``; x is first.
        divisor: of the first site's values, 255 for 8-bit images.
    """

    def __init__(self, data: Any, labels: Any = None, class_names: Sequence[str] | None = None):
        given = dict(data) if isinstance(data, Mapping) else {"x": data}
        if not given or not all(isinstance(site, str) for site in given):
            raise DataError(f'a mapping has names of sites, not {list(given)}: {{"x": x, "y": labels}}')
        self.values: dict[str, Any] = {}
        self.divisor = 1.0
        self.class_names = None if class_names is None else tuple(class_names)
        for site in sorted(given, key=lambda site: site != "x"):
            if site == "y" and getattr(given[site], "ndim", 1) < 2:
                self.label(given[site])
            else:
                what = "the data" if site == "x" else f"the values of site {site!r}"
                self.values[site] = numbers(given[site], what)
        self.first = next(iter(self.values))
        if labels is not None:
            self.label(labels)
        x = self.values[self.first]
        if x.dtype in (torch.uint8, np.uint8) and x.ndim in (3, 4) and 0 not in x.shape:
            self.divisor = 255.0 if x.max() > 1 else 1.0  # else they are binary images
            x = x[:, None] if x.ndim == 3 else x
        if x.ndim == 4 and x.shape[-1] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
            order = (0, 3, 1, 2)
            x = x.permute(order).contiguous() if isinstance(x, Tensor) else x.transpose(order)
        self.values[self.first] = x

    def __len__(self) -> int:
        return len(self.values[self.first])

    def label(self, labels: Any) -> None:
        """Adds site ``"y"``."""
        if "y" in self.values:
            raise DataError("labels are given twice: labels=... and the data's own y; leave one of them out")
        self.values["y"], names = classes(labels)
        self.class_names = names or self.class_names

    def check(self, name: str, binarize: Binarize) -> None:
        """Refuses what no model could be fitted to.

        Raises:
            DataError: sites are empty or of unequal length, or hold infinite values, or cannot be binarised.
        """
        shape = tuple(self.values[self.first].shape)
        if not shape or 0 in shape:
            raise DataError(f"{name} is empty: its shape is {shape}; give an array [N, *event_shape]")
        if self.first == "x" and len(shape) == 1:
            raise DataError(
                f"{name} has shape {shape}, so that a datum would be a single number without a shape; "
                "give [N, 1] for one feature per datum: x[:, None]"
            )
        for site, values in self.values.items():
            if not values.ndim or len(values) != shape[0]:
                what = "labels" if site == "y" else f"a site {site!r}"
                raise DataError(
                    f"{name} has {shape[0]} data but {what} of shape {tuple(values.shape)}; give one row per "
                    f"datum, {shape[0]} of them"
                )
            where = name if site == self.first else f"site {site!r} of {name}"
            for start, x in _chunks(values):
                infinite = np.isinf(x).reshape(len(x), -1).any(1)
                if infinite.any():
                    raise DataError(
                        f"{where} holds infinite values, first in row {start + infinite.argmax()}; drop such "
                        "rows, or say that such values are not observed: x[np.isinf(x)] = np.nan"
                    )
        if binarize != "none":
            parts = [x for _, x in _chunks(self.values[self.first])]  # fmin and fmax leave out NaN
            low = min(float(np.fmin.reduce(x, axis=None)) for x in parts) / self.divisor
            high = max(float(np.fmax.reduce(x, axis=None)) for x in parts) / self.divisor
            if not 0 <= low <= high <= 1:
                raise DataError(
                    f"binarize={binarize!r} reads values as probabilities in [0, 1], but those of {name} "
                    f"range over [{low:g}, {high:g}]; scale them: (x - x.min()) / (x.max() - x.min()), "
                    'or leave them as they are, binarize="none", under a likelihood of real values: '
                    'likelihood=pv.likelihoods.Normal(scale="shared") (--likelihood Normal)'
                )


def numbers(x: Any, what: str = "the data") -> Any:
    """A memory-mapped array as it is, and anything else as a tensor of real numbers."""
    if hasattr(x, "columns") and hasattr(x, "items") and hasattr(x, "to_numpy"):  # a pandas DataFrame
        text = [str(name) for name, column in x.items() if getattr(column.dtype, "kind", "O") not in "biuf"]
        if text:
            raise DataError(
                f"{what} have columns that are not numbers: {', '.join(text)}; leave them out, "
                'frame.select_dtypes("number"), or give one of them as labels=frame[column]'
            )
        x = x.to_numpy(dtype="float64", na_value=np.nan)
    if isinstance(x, Tensor):
        x = x.detach().cpu()
        x = (x.float() if x.dtype in (torch.bfloat16, torch.float16) else x).numpy()
    try:
        array = x if isinstance(x, np.memmap) else np.asarray(x)
    except ValueError as error:
        raise DataError(f"{what} are ragged ({error}); give rows of equal shape") from error
    if array.dtype.kind not in "biuf":
        found = f"hold {array.dtype} values" if array.ndim else f"are of type {type(x).__name__}"
        raise DataError(
            f"{what} {found}, not real numbers; rows of different shapes give such an array: give "
            "an array [N, *event_shape] of a numeric dtype, or a mapping of such by site"
        )
    if isinstance(array, np.memmap) and array.dtype.isnative and array.dtype.itemsize <= 8:
        return array
    wide = {"u": "i8", "f": "f8"}  # what PyTorch lacks: wider unsigned integers and floats
    kept = array.dtype.name in ("uint8", "float32", "bool", "int8", "int16", "int32")
    dtype = array.dtype.newbyteorder("=") if kept else np.dtype(wide.get(array.dtype.kind, "i8"))
    return torch.from_numpy(np.require(array, dtype, ["C", "W"]))


def classes(labels: Any) -> tuple[Tensor, tuple[str, ...] | None]:
    """Classes ``[N]`` as numbers, int64, and the names of those that were none.

    Numbers stay what they are, and others are numbered from 0 in their order. Where None or NaN say that
    a class is not known, labels are floating.

    Raises:
        DataError: labels are negative, not hashable, or no sequence.
    """
    labels = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else labels
    if hasattr(labels, "__array__"):
        array = np.asarray(labels)
    elif isinstance(labels, str) or not hasattr(labels, "__iter__"):
        raise DataError(f"labels are {labels!r}; give one label per datum, of shape (N,)")
    else:  # NumPy would write the NaN in ["cat", nan] as a string
        array = np.fromiter(labels, object)
    if array.ndim != 1:
        raise DataError(f"labels have shape {array.shape}; give one label per datum, of shape (N,)")
    found = [c.item() if hasattr(c, "item") else c for c in array.tolist()]
    known = [c for c in found if isinstance(c, str) or str(c) not in ("None", "nan", "NaT", "<NA>")]
    if known and {type(c) for c in known} <= {int, float}:
        array = np.array([c if isinstance(c, int | float) else np.nan for c in found])
        whole = len(known) == len(found) and all(float(c).is_integer() for c in known)
        if array.dtype.kind != "f" and array.min() < 0:
            raise DataError(
                f"labels are class numbers from 0, but the least is {array.min()}; number them anew, "
                "np.unique(y, return_inverse=True)[1], and where one is not known, give NaN"
            )
        return numbers(array.astype(np.int64) if whole and array.min() >= 0 else array, "labels"), None
    try:
        ordered = sorted(set(known), key=str)
    except TypeError as error:
        raise DataError(f"labels must be numbers, strings or other hashable classes ({error})") from error
    code = {c: float(i) for i, c in enumerate(ordered)}
    coded = torch.tensor([code.get(c, torch.nan) for c in found], dtype=torch.float64)
    return coded if len(known) < len(found) else coded.long(), tuple(map(str, ordered)) or None


def _chunks(values: Any) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(values), 1000):
        x = values[start : start + 1000]
        yield start, x.numpy() if isinstance(x, Tensor) else np.asarray(x)
