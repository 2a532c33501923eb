"""Folders of images, as they come, in memory and read as they are needed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.data import DataError
from pyro_vae.data.source import Streamed

NETS = {"encoder": pv.nets.mlp(8), "decoder": pv.nets.mlp(8)}
ALL = {"validation": 0.0, "test": 0.0}


def save(image, name, **options):
    path = Path("pictures", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def grey(value, size=(6, 4)):
    return Image.new("L", size, value)


@pytest.fixture
def folder():
    """Twenty pictures of 4x6 pixels in two classes, each known by its brightness."""
    for i in range(20):
        save(grey(10 * i), f"{'cats' if i % 2 else 'dogs'}/{i:02}.png")
    return "pictures"


def test_equals_the_folder_in_memory(folder):
    streamed, loaded = pv.data.load(folder, stream=True), pv.data.load(folder)
    assert isinstance(streamed.train.sources["x"], Streamed)
    assert streamed.event_shapes == loaded.event_shapes == {"x": (1, 4, 6), "y": ()}
    assert streamed.class_names == ("cats", "dogs")
    for part in ("train", "validation", "test"):
        for site, values in getattr(loaded, part).batch(slice(None)).items():
            assert torch.equal(values, getattr(streamed, part).batch(slice(None))[site])
    order = torch.randperm(len(loaded.train))
    for one, other in zip(streamed.train.batches(5, order), loaded.train.batches(5, order), strict=True):
        assert torch.equal(one["x"], other["x"])
    for one, other in zip(streamed.train.moments(), loaded.train.moments(), strict=True):
        torch.testing.assert_close(one, other)


def test_larger_than_the_memory(folder, monkeypatch):
    monkeypatch.setattr("pyro_vae.data.pictures.memory", lambda: 400.0)
    data = pv.data.load(folder)
    assert isinstance(data.train.sources["x"], Streamed)
    assert data.config["stream"] is True


@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_binarised_with_the_same_bits(folder, mode):
    one, other = (pv.data.load(folder, stream=True, binarize=mode).train for _ in range(2))
    order = torch.randperm(len(one))
    for seed in (3, 4):
        one.redraw(seed)
        other.redraw(seed)
        first = [batch["x"] for batch in one.batches(4, order)]
        second = [batch["x"] for batch in other.batches(4, order, start=2)]
        assert torch.cat(first).unique().tolist() == [0, 1]
        assert all(torch.equal(a, b) for a, b in zip(first[2:], second, strict=True))


def one(image, name="a.png", size=None, **options):
    """The picture's pixels, as they are read beside others of its kind, in [0, 255]."""
    save(image, name, **options)
    x = pv.data.load("pictures", stream=True, image_size=size, **ALL).train[:]
    return (x[0] * 255).round().byte().numpy()


def coloured(mode):
    return Image.new("RGB", (6, 4), (250, 100, 50)).convert(mode)


@pytest.mark.parametrize("image", [coloured("RGB"), coloured("P"), coloured("CMYK"), coloured("RGBA")])
def test_colours(image):
    suffix = "tif" if image.mode == "CMYK" else "png"
    found = one(image, f"a.{suffix}")
    assert found.shape == (3, 4, 6)
    np.testing.assert_allclose(found[:, 0, 0], (250, 100, 50), atol=5 if image.mode == "P" else 0)


def test_grey_among_colours():
    save(grey(7), "a.png")
    found = one(coloured("RGB"), "b.png")
    assert found.shape == (3, 4, 6)
    assert pv.data.load("pictures", **ALL).train.range()[0] * 255 == pytest.approx(7)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_white_shines_through(mode):
    pixel = {"RGBA": (200, 0, 0, 51), "LA": (200, 51), "P": 0}[mode]
    image = Image.new(mode, (6, 4), pixel)
    if mode == "P":
        image.putpalette([200, 0, 0])
        found = one(image, transparency=bytes([51]))
    else:
        found = one(image)
    expected = [0.2 * 200 + 0.8 * 255, 0.8 * 255, 0.8 * 255]
    np.testing.assert_allclose(found[:, 0, 0], expected[: len(found)], atol=1)


@pytest.mark.parametrize(("orientation", "turned"), [(3, 2), (6, -1), (8, 1)])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_turned_upright(orientation, turned, suffix):
    pixels = np.zeros((16, 24), np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = one(Image.fromarray(pixels), f"a.{suffix}", exif=exif)[0]
    np.testing.assert_allclose(found, np.rot90(pixels, turned), atol=40 if suffix == "jpg" else 0)


def test_cropped_and_scaled():
    """The middle square of 40 x 60 pixels, each of 10 x 10 a mean over those it covers and some around."""
    wide = np.zeros((40, 60), np.uint8)
    wide[:, 10:30], wide[:, 30:50] = 50, 200
    found = one(Image.fromarray(wide), size=10)[0]
    assert found.shape == (10, 10)
    np.testing.assert_allclose(found[:, 1:4], 50, atol=1)
    np.testing.assert_allclose(found[:, 6:9], 200, atol=1)
    save(grey(50, (3, 100)), "b.png")
    loaded = pv.data.load("pictures", image_size=[8, 16], **ALL)
    assert loaded.event_shape == (1, 8, 16)
    assert loaded.config["image_size"] == (8, 16)


DEEP = np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm", "big.tif"])
@pytest.mark.parametrize("stream", [False, True])
def test_grey_of_16_bits(name, stream):
    """On the scale of those of 8 bits, which may lie beside them."""
    image = Image.fromarray(DEEP)
    if name == "big.tif":
        image = Image.frombytes("I;16B", (6, 4), DEEP.astype(">u2").tobytes())
    save(image, name)
    save(grey(51), "z.png")
    data = pv.data.load("pictures", stream=stream, **ALL).train
    assert data.event_shape == (1, 4, 6)
    first, second = sorted(data[:], key=lambda x: x.max(), reverse=True)
    np.testing.assert_allclose(first[0], DEEP / 65535, rtol=1e-6)
    np.testing.assert_allclose(second, 0.2, rtol=1e-6)
    levels = pv.data.load("pictures", stream=stream, levels=True, **ALL).train[:]
    assert sorted(levels.unique().int().tolist()) == sorted({*DEEP.reshape(-1).tolist(), 51 * 257})
    drawn = pv.data.load("pictures", stream=stream, binarize="dynamic", **ALL).train[:]
    assert drawn.unique().tolist() == [0, 1]


def test_grey_of_any_number_of_levels():
    """A ``.pgm`` says which is white."""
    path = save(grey(0), "a.pgm")
    path.write_bytes(b"P5\n3 1\n1023\n" + np.array([0, 341, 1023], ">u2").tobytes())
    np.testing.assert_allclose(pv.data.load("pictures", **ALL).train[0][0, 0], [0, 1 / 3, 1], atol=1e-5)


def test_16_bits_scaled_turned_transparent_and_in_colour():
    wide = np.full((8, 16), 60000, np.uint16)
    wide[:4, :8] = 1000
    exif = Image.Exif()
    exif[0x0112] = 3
    save(Image.fromarray(wide), "a.png", transparency=1000, exif=exif)
    save(coloured("RGB").resize((8, 8)), "b.png")
    data = pv.data.load("pictures", image_size=(4, 8), **ALL).train
    assert data.event_shape == (3, 4, 8)
    (deep,) = (x for x in data[:] if torch.equal(x[0], x[1]))
    np.testing.assert_allclose(deep[:, 0, [0, -1]], 60000 / 65535, rtol=1e-6)
    np.testing.assert_allclose(deep[:, -1, 0], 60000 / 65535, rtol=1e-6)
    np.testing.assert_allclose(deep[:, -1, -1], 1, rtol=1e-6)


def look(data):
    """Reads all of it."""
    for split in (data.train, data.validation, data.test):
        split.moments()


def refuses(message, **options):
    with pytest.raises(DataError, match=message) as caught:
        look(pv.data.load("pictures", **options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stream", [False, True])
def test_refused(stream, folder):
    path = save(grey(9, (6, 6)), "cats/odd.png")
    refuses(
        r"one size, but .*cats/01.png is 4x6 and .*odd.png is 6x6.*image_size=\(4, 6\)\) \(--image-size",
        stream=stream,
    )
    assert len(pv.data.load("pictures", stream=stream, image_size=(4, 6), **ALL).train[:]) == 21
    path.unlink()
    frames = [Image.fromarray(np.full((4, 6), i, np.uint8)) for i in (1, 200)]
    path = save(frames[0], "cats/moving.gif", save_all=True, append_images=frames[1:])
    refuses("moving.gif has 2 frames", stream=stream)
    path.unlink()
    path = save(Image.fromarray(np.random.default_rng(0).integers(0, 255, (4, 6), np.uint8)), "cats/cut.png")
    path.write_bytes(path.read_bytes()[:50])
    refuses("cut.png is no readable image", stream=stream)
    path.unlink()
    path = save(grey(0, (3000, 3000)), "cats/huge.png")
    refuses("huge.png would take .* times what it takes on disk", stream=stream, image_size=4)


def test_a_colour_picture_among_many_grey_ones(folder, monkeypatch):
    monkeypatch.setattr("pyro_vae.data.pictures.LOOKED_AT", 1)
    save(coloured("RGB"), "dogs/zebra.png")
    refuses(r"zebra\.png is in colour", stream=True)


def test_pictures_of_other_depths_are_refused(folder, monkeypatch):
    path = save(Image.fromarray(DEEP), "dogs/zebra.png")
    with monkeypatch.context() as patch:
        patch.setattr("pyro_vae.data.pictures.LOOKED_AT", 1)
        refuses(r"zebra\.png has 16 bits per pixel, and most of its folder 8", stream=True)
    path.unlink()
    path = save(Image.fromarray(DEEP), "dogs/zebra.tif", tiffinfo={262: 0})
    refuses(r"zebra\.tif has more than 8 bits per pixel \(mode I;16\), which are on no known scale")
    path.unlink()
    save(grey(0), "dogs/zebra.ppm").write_bytes(b"P6\n6 4\n65535\n" + bytes(144))
    refuses(r'zebra\.ppm .*of which Pillow reads 8; .*image.convert\("RGB"\).save')


@pytest.mark.parametrize("size", [0, -1, 2.5, "28", (28,), (1, 2, 3), (28, 0), True, 2**20])
def test_sizes(folder, size):
    refuses("image_size=.* is no height and width", image_size=size)
    with pytest.raises(DataError, match="is of a folder of images"):
        pv.data.load(np.zeros((20, 3)), image_size=28)


def test_a_folder_that_is_changed(folder):
    data = pv.data.load(folder, stream=True)
    assert pv.data.load(folder, stream=True).fingerprint == data.fingerprint
    other = np.random.default_rng(0).integers(0, 255, (4, 6), np.uint8)
    path = save(Image.fromarray(other), "dogs/04.png")
    with pytest.raises(DataError, match=r"04\.png was written to after"):
        look(data)
    assert pv.data.load(folder, stream=True).fingerprint != data.fingerprint
    path.unlink()
    with pytest.raises(DataError, match=r"04\.png cannot be opened"):
        look(data)


def test_on_the_command_line(folder, undrawn):
    save(grey(9, (6, 6)), "cats/odd.png")
    options = {"data": folder, "image-size": "(4, 4)", "stream": "true", "epochs": "1", "folder": "run"}
    command = [word for name, value in options.items() for word in (f"--{name}", value)]
    assert main(["train", *command, "--encoder.hidden_dims", "[4]", "--decoder.hidden_dims", "[4]"]) == 0
    data = pv.training.reopen("run").data
    assert data.event_shape == (1, 4, 4)
    assert isinstance(data.train.sources["x"], Streamed)
