"""A table of bad data: each ends in one sentence that names what was found."""

import datetime
import decimal
import io
import itertools
import os
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae.data import DataError, Split, load

X = np.arange(40.0).reshape(20, 2)
T = torch.from_numpy(X)
NAN, INF = float("nan"), float("inf")


def quietly(make, *args, **kwargs):
    """What PyTorch makes, and warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(*args, **kwargs)


class Raises:
    """An object all of whose methods fail."""

    def __array__(self, *args, **kwargs):
        raise RuntimeError("first line\nsecond line")

    def __repr__(self):
        raise RuntimeError("no repr")


VALUES = {
    "sparse": (quietly(T.to_sparse), r"sparse.*x\.to_dense\(\)"),
    "sparse rows": (quietly(T.to_sparse_csr), "sparse"),
    "quantised": (quietly(torch.quantize_per_tensor, T.float(), 0.1, 0, torch.quint8), r"x\.dequantize"),
    "nested": (quietly(torch.nested.nested_tensor, [T, T[:3]]), "to_padded_tensor"),
    "jagged": (quietly(torch.nested.nested_tensor, [T, T[:3]], layout=torch.jagged), "to_padded_tensor"),
    "meta": (torch.empty(20, 2, device="meta"), "device meta"),
    "bits": (torch.zeros(20, 2, dtype=torch.bits8), "torch.bits8"),
    "complex": (X + 1j, "complex128 values"),
    "complex tensor": (torch.complex(T, T), "complex128 values"),
    "datetime": (np.full((20, 1), "2020-01-01", "M8[D]"), "datetime64"),
    "timedelta": (np.ones((20, 1), "m8[s]"), "timedelta64"),
    "object": (X.astype(object), r"object values.*np\.array\(x, float\)"),
    "none": ([[1.0, None]] * 20, "object values"),
    "bigints": ([[2**70, 1]] * 20, "object values"),
    "strings": ([["a", "b"]] * 20, "<U1"),
    "bytes rows": ([[b"a"]] * 20, r"\|S1"),
    "records": (np.zeros(20, [("a", "f8")]), "'a', '<f8'"),
    "ragged": ([[1.0], [1.0, 2.0]], "ragged"),
    "ragged tensors": ([T[0], T[0, :1]], "ragged"),
    "data and labels": ((T, torch.arange(20)), "ragged"),
    "generator": ((row for row in X), "type generator"),
    "endless": (itertools.count(), "type count"),
    "set": ({1, 2}, "type set"),
    "bytes": (b"abc", "type bytes"),
    "none alone": (None, "type NoneType"),
    "a number": (3.0, "single number"),
    "a class": (dict, "type type"),
    "raises": (Raises(), r"type Raises cannot be read by NumPy \(first line\)"),
    "no rows": (np.zeros((0, 2)), r"\(0, 2\), which has no row"),
    "no values": (np.zeros((3, 0)), r"\(3, 0\), which has rows without"),
    "one dimension": (X[:, 0], r"\(20,\).*x\[:, None\]"),
    "infinite": (np.where(X == 7, INF, X), "infinite values, first in row 3"),
    "minus infinite": (np.where(X == 39, -INF, X), "infinite values, first in row 19"),
    "beyond float32": (np.where(X == 7, 1e39, X), r"beyond 3.4e\+38, first in row 3"),
    "beyond float64": (np.full((20, 2), np.longdouble("1e4000")), "infinite values"),
    "repeated": (np.broadcast_to(0.0, (10**9, 10**4)), r"\(1000000000, 10000\) would take"),
    "repeated tensor": (torch.zeros(1).expand(10**9, 10**4), "would take"),
    "no mapping": ({}, r"not \[\]"),
    "numbered sites": ({0: X}, r"not \[0\]"),
    "bytes sites": ({b"x": X}, r"not \[b'x'\]"),
    "many sites": (dict.fromkeys(range(10**4), X), r"\.\.\."),
    "nested mapping": ({"x": {"a": X}}, "type dict"),
    "images and labels": ({"images": X, "labels": X[:, 0]}, r"\"x\": file\['images'\]"),
    "data and targets": ({"data": X, "target": X[:, 0]}, r"\"y\": file\['target'\]"),
    "meta site": ({"x": X, "w": torch.empty(20, 2, device="meta")}, "site 'w'.*meta"),
    "short site": ({"x": X, "w": X[:3]}, r"site 'w' of shape \(3, 2\)"),
    "infinite site": ({"x": X, "w": np.full((20, 1), INF)}, "site 'w' of array"),
    "strange site": ({"x": X, "w": "abc"}, "site 'w' are of type str"),
    "empty name": ("", "named ''"),
    "no file": ("nowhere", "named 'nowhere'"),
    "long name": ("a" * 5000, r"named 'aaaa.*\.\.\."),
    "long file": ("a" * 5000 + ".npy", r"named 'aaaa.*\.\.\."),
    "long path": (Path("a" * 5000), r"named 'aaaa.*\.\.\."),
    "nul": ("a\0b.npy", r"named 'a\\x00b.npy'"),
    "line": ("a\nb.npy", r"named 'a\\nb.npy'"),
    "surrogate": ("\ud800", r"\\ud800"),
    "near": ("fashon-mnist", "did you mean 'fashion-mnist'"),
    "device": ("/dev/null", "/dev/null is no .npy"),
}

LABELS = {
    "one name": ([1, "1"] * 10, "labels 1 and '1'|labels '1' and 1"),
    "one name of objects": (np.array([1, "1"] * 10, object), "one name"),
    "one name and none": ([1, "1", "None", None] * 5, "one name"),
    "lists": ([[0]] * 20, "unhashable type: 'list'"),
    "ragged": ([[1], [1, 2]] * 10, "unhashable"),
    "arrays": ([np.zeros(2)] * 20, "labels must be numbers|labels have shape"),
    "two dimensions": (X, r"shape \(20, 2\)"),
    "a number": (3, "labels are 3;"),
    "an array's number": (np.float64(3), r"shape \(\)"),
    "a string": ("a" * 20, "labels are 'aaaa"),
    "bytes": (b"a" * 20, "labels are b'aaaa"),
    "a mapping": ({1: 2}, r"labels are \{1: 2\}"),
    "a set": ({1, 2}, r"labels are \{1, 2\}"),
    "endless": (itertools.count(), r"labels are count\(0\)"),
    "generator": ((i for i in range(20)), "labels are <generator"),
    "raises": (Raises(), "type Raises"),
    "few": ([0, 1, 2], r"labels of shape \(3,\)"),
    "none": ([], r"labels of shape \(0,\)"),
    "negative": ([0, -1] * 10, "the least is -1"),
    "huge": ([2**70] * 20, str(2**70)),
    "huge unsigned": (np.full(20, 2**63 + 1, np.uint64), str(2**63 + 1)),
    "inexact": (np.full(20, 2**62), str(2**62)),
    "digits": ([10**5000] * 20, "<int> is among them"),
    "infinite": ([INF] * 20, "site 'y' of array holds infinite"),
    "beyond float32": ([1e300, 0.5] * 10, "site 'y' of array holds values beyond"),
    "sparse": (quietly(torch.arange(20).to_sparse), "labels are a tensor that is sparse"),
    "meta": (torch.empty(20, device="meta"), "labels are a tensor .*meta"),
    "nested": (quietly(torch.nested.nested_tensor, [T, T]), "nested"),
    "quantised": (quietly(torch.quantize_per_tensor, T[:, 0].float(), 0.1, 0, torch.quint8), "quantised"),
}

ARGUMENTS = {
    name: [(value, message) for value in values]
    for name, values, message in (
        *(
            (
                fraction,
                [
                    *(-1, 1, 1.5, -1e-9, 50, NAN, INF, -INF, True, None, "0.1", 1j, [0.1], 10**400, 10**5000),
                    *(np.bool_(True), np.array(0.1), torch.tensor(0.1), decimal.Decimal("0.1"), Raises()),
                    datetime.timedelta(1),
                ],
                "is no fraction; give a number",
            )
            for fraction in ("validation", "test")
        ),
        (
            "split_seed",
            [-1, 2**32, 10**5000, 3.0, "3", None, True, torch.tensor(3), NAN],
            "whole number from 0 up to",
        ),
        ("levels", ["yes", 1, 0, None, "True", np.bool_(True), Raises()], "is neither True nor False"),
        ("stream", ["yes", 1, 0, "None", np.bool_(True)], "is neither True nor False"),
        (
            "binarize",
            [
                "bernoulli",
                None,
                True,
                [],
                {},
                ["none"],
                np.array(["none", "none"]),
                "x" * 10**6,
                torch.ones(2),
            ],
            "is none of 'dynamic'",
        ),
        ("data_dir", [3, 0.5, True, b"a", [], "", "a\0b", "a\nb", Raises()], "is no name of a folder"),
    )
}


def refuses(message, *args, **kwargs):
    with pytest.raises(DataError, match=message) as caught:
        load(*args, **kwargs)
    told = str(caught.value)
    assert "\n" not in told
    assert len(told) < 700


@pytest.mark.parametrize(("data", "message"), VALUES.values(), ids=VALUES)
def test_data(data, message):
    refuses(message, data)


@pytest.mark.parametrize(("labels", "message"), LABELS.values(), ids=LABELS)
def test_labels(labels, message):
    refuses(message, X, labels=labels)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [(name, *case) for name, cases in ARGUMENTS.items() for case in cases],
    ids=[f"{name}-{i}" for name, cases in ARGUMENTS.items() for i in range(len(cases))],
)
def test_arguments(name, value, message):
    refuses(f"{name}=.*{message}", X, **{name: value})


@pytest.mark.parametrize("fractions", [(0.99, 0.0), (0.0, 0.999999), (0.8, 0.9)])
def test_nothing_left(fractions):
    refuses("nothing is left to train on: of 20", X, validation=fractions[0], test=fractions[1])


@pytest.mark.parametrize("name", ["sparse", "quantised", "nested", "meta"])
def test_splits_of_ones_own(name):
    with pytest.raises(DataError, match=VALUES[name][1]):
        Split(VALUES[name][0])


def header(shape, descr="'<f8'", more=b"", version=1):
    """An .npy file that begins as is said, and holds 64 bytes."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode() + more + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text


def zipped(content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
    return file.getvalue()


def saved(write, *args, **kwargs):
    file = io.BytesIO()
    write(file, *args, **kwargs)
    return file.getvalue()


def tensors(value):
    return saved(lambda file: torch.save(value, file))


def picture(width, height):
    """A PNG that says that it is so large."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


PICTURE = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50), np.uint8)).save, "png")


def renamed(content):
    """A .pt file whose pickle asks for something of a name that has no end."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(file, "w") as other:
        for member in archive.infolist():
            other.writestr(member, archive.read(member).replace(b"tensor_v2", b"tensor_v" + b"2" * 50_000))
    return file.getvalue()


DAMAGED = "cannot be read as .* without unpickling"
FILES = {
    "absurd.npy": (header((2**40, 8)) + bytes(64), "1099511627776, 8.*holds 64 bytes"),
    "overflow.npy": (header((2**62, 2**62)) + bytes(64), "is damaged: its header"),
    "negative.npy": (header((-1, 2)) + bytes(64), r"\(-1, 2\)"),
    "negatives.npy": (header((-2, -4)) + bytes(64), DAMAGED),
    "zero.npy": (header((0, 2**60)) + bytes(64), "is damaged"),
    "digits.npy": (header("(" + "9" * 5000 + ", 2)") + bytes(64), DAMAGED),
    "more.npy": (saved(np.save, X) + b"more", "holds 324 bytes"),
    "twice.npy": (2 * saved(np.save, X), "is damaged"),
    "less.npy": (saved(np.save, X)[:-1], "holds 319 bytes"),
    "nothing.npy": (b"", DAMAGED),
    "magic.npy": (b"\x93NUMPY", DAMAGED),
    "version.npy": (header((4, 2), version=9) + bytes(64), DAMAGED),
    "nested.npy": (header("(" * 3000) + bytes(64), DAMAGED),
    "code.npy": (header("__import__('os').system('touch fired')") + bytes(64), DAMAGED),
    "object.npy": (header((8,), "'|O'") + bytes(64), "Python objects"),
    "records.npy": (header((4,), "[('a', '<f8'), ('b', '<f8')]") + bytes(64), "not real numbers"),
    "text.npy": (header((4, 4), "'<U1'") + bytes(64), "<U1"),
    "zip.npy": (zipped(b""), DAMAGED),
    "pickle.npy": (b"\x80\x04N.", DAMAGED),
    "absurd.npz": (zipped(header((2**40, 8)) + bytes(64)), "1099511627776, 8"),
    "short.npz": (zipped(saved(np.save, X)[:-3]), "holds 317 bytes"),
    "not.npz": (zipped(b"text"), DAMAGED),
    "cut.npz": (saved(np.savez, x=X)[:-40], DAMAGED),
    "array.npz": (saved(np.save, X), DAMAGED),
    "empty.npz": (saved(np.savez), "holds no arrays"),
    "unnamed.npz": (saved(np.savez, X, X), "arr_0"),
    "images.npz": (saved(np.savez, images=X, labels=X[:, 0]), r"file\['images'\]"),
    "object.npz": (saved(np.savez, x=X.astype(object), allow_pickle=True), "Python objects"),
    "meta.pt": (tensors(torch.empty(20, 2, device="meta")), "device meta"),
    "sparse.pt": (tensors(quietly(T.to_sparse)), "sparse"),
    "large.pt": (tensors(torch.zeros(1).expand(10**6, 10**4)), "would take 37.3 GiB in memory"),
    "number.pt": (tensors(3), "holds no arrays"),
    "labels.pt": (tensors({"x": T, "y": {"a": 1}}), "labels y in"),
    "nested.pt": (tensors({"x": T, "y": [[0]] * 20}), "labels y in"),
    "names.pt": (tensors({0: T, 1: T}), r"not \[0, 1\]"),
    "long.pt": (renamed(tensors(T)), "a name of 50"),
    "old.pt": (
        saved(lambda file: torch.save(T, file, _use_new_zipfile_serialization=False)).replace(
            b"tensor_v2", b"tensor_v" + b"2" * 50_000
        ),
        "a name of 50",
    ),
    "cut.pt": (tensors(T)[:-40], DAMAGED),
    "text.pt": (b"x", DAMAGED),
    "x.tsv": (b"1,2\n", "np.save"),
    "bomb/a.png": (picture(2**30, 2**30), "no readable image"),
    "wide/a.png": (picture(2**31 - 1, 1), "no readable image"),
    "flat/a.png": (picture(0, 5), "no readable image"),
    "large/a.png": (picture(6000, 6000), "large would take 0.0335 GiB in memory"),
    "cut/a.png": (PICTURE[:200], "no readable image"),
    "nothing/a.png": (b"", "no readable image"),
    "script/a.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n", "no readable image"),
    "bad/a.ppm": (b"P6\n5 5\n255\nxx", "no readable image"),
    "minus/a.ppm": (b"P6\n-5 5\n255\n", "no readable image"),
    "huge/a.ppm": (b"P6\n999999999 99999\n255\n", "no readable image"),
    "black/a.ppm": (b"P6\n5 5\n0\n" + bytes(75), "no readable image"),
    "letters/a.ppm": (b"P3\n2 2\n255\n1 2 3 a b c\n", "no readable image"),
    "deep/a.ppm": (b"P6\n2 2\n65535\n" + bytes(24), "more than 8 bits"),
    "deep/a.pgm": (b"Pf\n2 2\n-1\n" + bytes(16), "more than 8 bits"),
    "short/a.gif": (b"GIF89a\0\0\0", "no readable image"),
    "short/a.bmp": (b"BM" + bytes(60), "no readable image"),
    "short/a.tif": (b"II*\0" + bytes(20), "no readable image"),
    "hidden/.a.png": (b"", "holds no images"),
    "hidden/.checkpoints/a.png": (b"", "holds no images"),
}


@pytest.mark.parametrize(
    ("name", "content", "message", "stream"),
    [(name, *case, False) for name, case in FILES.items()]
    + [(name, *case, True) for name, case in FILES.items() if name.endswith(".npy")],
    ids=lambda value: value if isinstance(value, str) and len(value) < 20 else "",
)
def test_files(name, content, message, stream):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    refuses(message, path if path.parent == Path() else Path(*path.parts[:1]), stream=stream)
    assert not Path("fired").exists()


def test_what_grows_without_end():
    """An archive that takes far more than it does on disk, or says so."""
    with zipfile.ZipFile("bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("x.npy", header((2**24, 8)) + bytes(2**20))
    content = Path("bomb.npz").read_bytes()
    size = struct.pack("<I", len(header((2**24, 8))) + 2**20)
    Path("bomb.npz").write_bytes(content.replace(size, struct.pack("<I", len(header((2**24, 8))) + 2**30)))
    refuses("bomb.npz would take 1 GiB in memory", "bomb.npz")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.pt", "folder/x.png"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda name: os.symlink("/dev/zero", name)])
def test_pipes_and_devices(name, make):
    Path("folder").mkdir()
    make(name)
    refuses("is a pipe, a device or the like", Path(name) if "/" not in name else "folder")


def test_masked_values_are_not_observed():
    mask = X > 30
    given = {
        "floats": np.ma.masked_array(X, mask),
        "single": np.ma.masked_array(X.astype("f4"), mask),
        "integers": np.ma.masked_array(X.astype(int), mask),
        "rows": [np.ma.masked_array(row, row > 30) for row in X],
    }
    for values in given.values():
        train = load(values, labels=np.arange(20), validation=0.0, test=0.0).train
        found = train[train.labels.argsort()]
        np.testing.assert_array_equal(found.numpy(), np.where(mask, NAN, X))
    image = np.ma.masked_array(np.full((20, 4, 4), 255, np.uint8), np.arange(320).reshape(20, 4, 4) % 5 == 0)
    found = load(image, validation=0.0, test=0.0).train[:]
    assert found.shape == (20, 1, 4, 4)
    assert found.isnan().sum() == 64
    assert found[~found.isnan()].unique().tolist() == [1]
    labels = load(X, labels=np.ma.masked_array(np.arange(20) % 3, np.arange(20) < 5)).train.labels
    assert labels.isnan().any()
    assert set(labels[~labels.isnan()].tolist()) == {0, 1, 2}


def test_numbers_that_integers_of_64_bits_do_not_hold():
    for x in (
        np.full((20, 2), 2**63 + 2**11, np.uint64),
        torch.full((20, 2), 2**63 + 2**11, dtype=torch.uint64),
    ):
        assert load(x).train.range() == (2**63 + 2**11, 2**63 + 2**11)


def test_small_floats_are_read():
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16):
        x = torch.tensor([[0.5, 1.0], [2.0, -4.0]] * 10).to(dtype)
        assert load(x, labels=x[:, 0]).train[:].unique().tolist() == [-4, 0.5, 1, 2]


def test_true_is_no_1():
    assert load(X, labels=[True, 1] * 10).class_names == ("1", "True")


def test_an_image_beside_classes():
    for name in ("cats/a.png", "dogs/a.png", "stray.png"):
        path = Path("pictures", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(path)
    refuses("pictures/stray.png lies beside folders", "pictures")
    Path("pictures/stray.png").rename("pictures/.stray.png")
    assert load("pictures").class_names == ("cats", "dogs")


def test_labels_beyond_their_names():
    from pyro_vae.data.arrays import Sites

    with pytest.raises(DataError, match="labels run up to 7, but 3 classes are named"):
        Sites(X, [7] * 20, ["a", "b", "c"])
