"""Arrays as they are given, made into sites: real numbers ``[N, *event_shape]`` and classes ``[N]``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.binarize import Binarize
from pyro_vae.data.mapped import mapped
from pyro_vae.data.source import DataError, OnDisk, at_once, memory, reason, shown

_IN_NUMPY = (torch.float32, torch.float64)  # of those with which it is as fast
_LABELS = ("labels", "label", "targets", "target")


class Sites:
    """Values by site, before they are split and binarised.

    Args:
        data: anything that NumPy makes an array of real numbers of, or a mapping of such by site.
        labels: site ``"y"``, as ``classes`` takes them.
        class_names: of labels that are numbers.

    Attributes:
        values: tensors, or arrays on disk, ``[N, *event_shape]``; x is first.
        divisor: of the first site's values, 255 for 8-bit images, 65535 for a folder of those of 16.
    """

    def __init__(self, data: Any, labels: Any = None, class_names: Sequence[str] | None = None):
        given = dict(data) if isinstance(data, Mapping) else {"x": data}
        if not given or not all(isinstance(site, str) for site in given):
            raise DataError(
                f'a mapping has names of sites, not {shown(list(given))}: {{"x": x, "y": labels}}'
            )
        if not {"x", "y"} & given.keys() and (named := [site for site in given if site in _LABELS]):
            other = next((site for site in given if site not in _LABELS), "images")
            raise DataError(
                f"the data have sites {shown(list(given))}, and would be modelled with {named[0]} among the "
                f'observed values; name them x and y: {{"x": file[{other!r}], "y": file[{named[0]!r}]}}'
            )
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
        # Asked of what was given: pixels of which some are masked are no longer bytes here.
        eight = getattr(given[self.first], "dtype", None) in (torch.uint8, np.uint8)
        if eight and x.ndim in (3, 4) and 0 not in x.shape:
            grey = any((pixels > 1).any() for _, pixels in _chunks(mapped(x)))
            self.divisor = 255.0 if grey else 1.0  # else they are binary images
            x = x[:, None] if x.ndim == 3 else x
        if x.ndim == 4 and x.shape[-1] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
            order = (0, 3, 1, 2)
            x = x.permute(order).contiguous() if isinstance(x, Tensor) else x.transpose(order)
        self.values[self.first] = x
        self.values = {site: mapped(values) for site, values in self.values.items()}

    def __len__(self) -> int:
        return len(self.values[self.first])

    def label(self, labels: Any) -> None:
        """Adds site ``"y"``."""
        if "y" in self.values:
            raise DataError("labels are given twice: labels=... and the data's own y; leave one of them out")
        y, names = classes(labels)
        known = self.class_names
        if known and names is None and y.numel() and y.nan_to_num(0).max() >= len(known):
            raise DataError(f"labels run up to {y.max():g}, but {len(known)} classes are named, from 0")
        self.values["y"], self.class_names = y, names or known

    def check(self, name: str, binarize: Binarize) -> None:
        """Refuses what no model could be fitted to.

        Raises:
            DataError: sites are empty or of unequal length, or hold infinite values, or cannot be binarised.
        """
        shape = tuple(self.values[self.first].shape)
        if not shape:
            raise DataError(f"{name} is a single number; give an array [N, *event_shape] of N data")
        if 0 in shape:
            what = "has no row" if shape[0] == 0 else "has rows without values"
            raise DataError(f"{name} is empty: its shape is {shape}, which {what}; give [N, *event_shape]")
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
            if not isinstance(values, OnDisk):  # which is looked at when its statistics are computed
                for start, x in _chunks(values):
                    check_finite(x, where, range(start, start + len(x)))
        if binarize != "none" and self.divisor == 1:  # those that are divided are in [0, 1] by that
            ends = [  # fmin and fmax leave out NaN
                (float(np.fmin.reduce(x, axis=None)), float(np.fmax.reduce(x, axis=None)))
                for _, x in _chunks(self.values[self.first])
            ]
            low, high = min(least for least, _ in ends), max(most for _, most in ends)
            if not 0 <= low <= high <= 1:
                raise DataError(
                    f"binarize={binarize!r} reads values as probabilities in [0, 1], but those of {name} "
                    f"range over [{low:g}, {high:g}]; scale them: (x - x.min()) / (x.max() - x.min()), "
                    'or leave them as they are, binarize="none", under a likelihood of real values: '
                    'likelihood=pv.likelihoods.Normal(scale="shared") (--likelihood Normal)'
                )


def check_finite(x: np.ndarray, where: str, rows: Sequence[int] | np.ndarray) -> None:
    """Refuses values that are infinite, or would be in torch's default type.

    Raises:
        DataError: naming the first of the rows that has one.
    """
    if x.dtype.kind != "f":
        return
    infinite = np.isinf(x).reshape(len(x), -1).any(1)
    if infinite.any():
        raise DataError(
            f"{where} holds infinite values, first in row {rows[int(infinite.argmax())]}; drop such rows, or "
            "say that such values are not observed: x[np.isinf(x)] = np.nan"
        )
    most = torch.finfo(torch.get_default_dtype()).max
    if x.dtype == np.float64 and (beyond := (abs(x) > most).reshape(len(x), -1).any(1)).any():
        raise DataError(
            f"{where} holds values beyond {most:.3g}, first in row {rows[int(beyond.argmax())]}, which "
            f"{torch.get_default_dtype()} cannot hold; divide them: x / abs(x).max()"
        )


def numbers(x: Any, what: str = "the data") -> Any:
    """What is mapped or on disk as it is, and anything else as a tensor of real numbers; masked ones are NaN.

    Raises:
        DataError: no real numbers can be had of it, or they would take more than half of the memory.
    """
    if isinstance(x, OnDisk):
        return x
    if hasattr(x, "columns") and hasattr(x, "items") and hasattr(x, "to_numpy"):  # a pandas DataFrame
        text = [str(name) for name, column in x.items() if getattr(column.dtype, "kind", "O") not in "biuf"]
        if text:
            raise DataError(
                f"{what} have columns that are not numbers: {', '.join(text)}; leave them out, "
                'frame.select_dtypes("number"), or give one of them as labels=frame[column]'
            )
        x = x.to_numpy(dtype="float64", na_value=np.nan)
    array = _array(x, what)
    if array.dtype.kind not in "biuf":
        found = f"hold {str(array.dtype)[:80]} values" if array.ndim else f"are of type {type(x).__name__}"
        mend = "np.array(x, float), in which None is NaN, or " if array.ndim and array.dtype == object else ""
        raise DataError(
            f"{what} {found}, not real numbers; rows of different shapes give such an array: give {mend}"
            "an array [N, *event_shape] of a numeric dtype, or a mapping of such by site"
        )
    if isinstance(array, np.memmap) and array.dtype.itemsize <= 8:
        return array
    if array.nbytes > memory() and not array.flags.c_contiguous:  # of one number repeated, say
        raise DataError(
            f"{what} of shape {array.shape} would take {array.nbytes / 2**30:.3g} GiB, which is too much"
        )
    wide = {"u": "i8", "f": "f8"}  # what PyTorch lacks: wider unsigned integers and floats
    kept = array.dtype.name in ("uint8", "float32", "bool", "int8", "int16", "int32")
    dtype = array.dtype.newbyteorder("=") if kept else np.dtype(wide.get(array.dtype.kind, "i8"))
    if array.dtype.name == "uint64" and array.size and array.max() > np.iinfo("i8").max:
        dtype = np.dtype("f8")  # as integers they would turn negative
    with np.errstate(over="ignore"):  # to infinite values, which are refused as such
        array = np.require(array, dtype, ["C", "W"])
    return torch.from_numpy(array)


def _array(x: Any, what: str) -> np.ndarray:
    """What NumPy makes of it, in which masked values are NaN.

    Raises:
        DataError: a tensor has no such values, rows are ragged, or NumPy cannot read it.
    """
    if isinstance(x, Tensor):
        x = _strided(x, what)
    elif hasattr(x, "toarray"):  # of SciPy
        raise DataError(f"{what} are sparse; give all of their values: x.toarray()")
    try:
        if isinstance(x, list | tuple) and any(isinstance(row, np.ma.MaskedArray) for row in x):
            x = np.ma.array(x)
        if isinstance(x, np.ma.MaskedArray):
            exact = x.dtype if x.dtype.kind in "fO" else np.float64
            x = np.ma.filled(x.astype(exact), np.nan) if np.ma.is_masked(x) else x.data
        return x if isinstance(x, np.memmap) else np.asarray(x)
    except ValueError as error:
        raise DataError(f"{what} are ragged ({reason(error)}); give rows of equal shape") from error
    except Exception as error:  # whatever another's __array__ raises
        raise DataError(
            f"{what} of type {type(x).__name__} cannot be read by NumPy ({reason(error)}); give an array "
            "[N, *event_shape]"
        ) from error


def check_dense(x: Tensor, what: str = "the data") -> None:
    """Refuses a tensor that is no plain array of numbers.

    Raises:
        DataError: it is on no device, nested, quantised or sparse.
    """
    for wrong, found, mend in (
        (x.is_meta, "on the device meta, where there are no values", "give them on the processor"),
        (x.is_nested, "nested", "pad them with NaN: torch.nested.to_padded_tensor(x, torch.nan)"),
        (x.is_quantized, "quantised", "x.dequantize()"),
        (x.layout is not torch.strided, "sparse", "give all of their values: x.to_dense()"),
    ):
        if wrong:
            raise DataError(f"{what} are a tensor that is {found}; {mend}")


def _strided(x: Tensor, what: str) -> np.ndarray:
    check_dense(x, what)
    try:
        x = x.detach().cpu().resolve_conj().resolve_neg()
        return (x if x.dtype in _IN_NUMPY or not x.is_floating_point() else x.float()).numpy()
    except Exception as error:
        raise DataError(
            f"{what} are a tensor of {x.dtype}, which NumPy does not have ({reason(error)}); give x.float()"
        ) from error


def classes(labels: Any) -> tuple[Tensor, tuple[str, ...] | None]:
    """Classes ``[N]`` as numbers, int64, and the names of those that were none.

    Numbers stay what they are, and others are numbered from 0 in their order. Where None, NaN or a mask say
    that a class is not known, labels are floating.

    Raises:
        DataError: labels are negative, huge, not hashable, of one name but not equal, or no sequence.
    """
    if isinstance(labels, np.ma.MaskedArray):
        array = np.array(labels, object)
        array[np.ma.getmaskarray(labels)] = None
    elif isinstance(labels, Tensor) or hasattr(labels, "__array__"):
        array = _array(labels, "labels")
    elif not (hasattr(labels, "__iter__") and hasattr(labels, "__len__")) or isinstance(
        labels, str | bytes | bytearray | Mapping | Set
    ):
        raise DataError(f"labels are {shown(labels)}; give one label per datum, in a list or array (N,)")
    else:  # NumPy would write the NaN in ["cat", nan] as a string
        array = np.fromiter(labels, object)
    if array.ndim != 1:
        raise DataError(f"labels have shape {array.shape}; give one label per datum, of shape (N,)")
    try:
        found = [c.item() if hasattr(c, "item") else c for c in array.tolist()]
        known = [c for c in found if isinstance(c, str | int) or str(c) not in ("None", "nan", "NaT", "<NA>")]
        distinct = {(isinstance(c, bool), c): c for c in known}  # True is no 1
    except Exception as error:  # whatever their own methods raise
        raise DataError(
            f"labels must be numbers, strings or other hashable classes ({reason(error)})"
        ) from error
    if known and {type(c) for c in known} <= {int, float}:
        return _numbered(found, len(known)), None
    ordered = sorted(distinct.values(), key=str)
    names = [str(c) for c in ordered]
    for (c, name), (other, again) in itertools.pairwise(zip(ordered, names, strict=True)):
        if name == again:
            raise DataError(
                f"labels {shown(c)} and {shown(other)} are not equal but have one name; give all as strings: "
                "[str(label) for label in labels]"
            )
    code = {key: float(i) for i, key in enumerate((isinstance(c, bool), c) for c in ordered)}
    coded = [code.get((isinstance(c, bool), c), torch.nan) for c in found]
    whole = len(known) == len(found)
    return torch.tensor(coded, dtype=torch.int64 if whole else torch.float64), tuple(names) or None


def _numbered(found: list[Any], num_known: int) -> Tensor:
    """Labels that are numbers, or not known."""
    known = [c for c in found if isinstance(c, int | float)]
    anew = "number them anew, np.unique(y, return_inverse=True)[1], and where one is not known, give NaN"
    if huge := [c for c in known if isinstance(c, int) and abs(c) > 2**53]:
        raise DataError(f"labels are class numbers from 0, but {shown(huge[0])} is among them; {anew}")
    array = np.array([c if isinstance(c, int | float) else np.nan for c in found])
    if array.dtype.kind != "f" and array.min() < 0:
        raise DataError(f"labels are class numbers from 0, but the least is {array.min()}; {anew}")
    whole = num_known == len(found) and all(0 <= c <= 2**53 and float(c).is_integer() for c in known)
    return torch.from_numpy(array.astype(np.int64 if whole else np.float64))


def _chunks(values: Any) -> Iterator[tuple[int, np.ndarray]]:
    number = at_once(tuple(values.shape[1:]))
    for start in range(0, len(values), number):
        rows = np.arange(start, min(start + number, len(values)))
        yield start, values.read(rows) if isinstance(values, OnDisk) else values[start : rows[-1] + 1].numpy()
