import os

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae.data import DataError, load
from pyro_vae.data.source import Memory, Streamed


def values(x, **kwargs):
    """All data as they are read, in the order in which they were given."""
    number = len(np.load(x)) if isinstance(x, str) else len(x)
    split = load(x, labels=np.arange(number), validation=0.0, test=0.0, **kwargs).train
    return split[split.labels.argsort()].numpy()


class TestFiles:
    def test_npy(self, tmp_path):
        x = np.random.default_rng(0).normal(size=(50, 3))
        np.save("x.npy", x)
        data = load("x.npy")
        assert (data.name, data.event_shape) == ("x", (3,))
        assert [len(s) for s in (data.train, data.validation, data.test)] == [41, 4, 5]
        assert data.config["data"] == str(tmp_path / "x.npy")

    def test_npz_with_labels(self):
        np.savez("x.npz", y=np.arange(20), x=np.zeros((20, 4, 4), np.uint8))
        data = load("x.npz", validation=0.0, test=0.0)
        assert data.event_shapes == {"x": (1, 4, 4), "y": ()}
        assert sorted(data.train.labels.tolist()) == list(range(20))
        assert load("x.npz", labels=None).config["data"].endswith("x.npz")

    def test_npz_with_further_sites(self):
        np.savez("x.npz", w=np.arange(20.0), x=np.ones((20, 3)), y=np.array(["b", "a"] * 10))
        data = load("x.npz")
        assert list(data.event_shapes) == ["x", "w", "y"]
        assert data.event_shapes == {"x": (3,), "w": (), "y": ()}
        assert data.class_names == ("a", "b")

    def test_npz_without_x(self):
        np.savez("x.npz", anything=np.zeros((20, 3)))
        assert load("x.npz").event_shapes == {"x": (3,)}
        np.savez("x.npz", size=np.zeros((20, 3)), weight=np.zeros(20))
        assert load("x.npz").event_shapes == {"size": (3,), "weight": ()}

    def test_pt(self):
        torch.save(torch.rand(30, 2), "x.pt")
        assert load("x.pt").event_shape == (2,)
        torch.save({"x": torch.rand(30, 2), "y": torch.arange(30)}, "xy.pt")
        assert len(load("xy.pt").test.labels) == 3
        torch.save({"y": ["b", None, "a"] * 10, "x": torch.rand(30, 2), "of": "notes"}, "xy.pt")
        assert load("xy.pt").class_names == ("a", "b")

    def test_folder_of_images(self, tmp_path):
        for i in range(20):
            folder = tmp_path / "pictures" / ("cats" if i % 2 else "dogs")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((6, 5, 3), 10 * i, np.uint8)).save(folder / f"{i}.png")
        data = load("pictures", validation=0.0, test=0.0)
        assert data.event_shape == (3, 6, 5)
        assert data.train.labels.bincount().tolist() == [10, 10]
        assert data.class_names == ("cats", "dogs")
        brightness = (data.train[:].mean((1, 2, 3)) * 25.5).round().long()
        assert torch.equal(data.train.labels, 1 - brightness % 2)
        assert data.train[:].max().item() == pytest.approx(190 / 255)

    @pytest.mark.parametrize(
        ("shape", "event_shape"),
        [
            ((9, 6, 5), (1, 6, 5)),
            ((9, 6, 5, 4), (4, 6, 5)),
            ((9, 6, 5, 3), (3, 6, 5)),
            ((9, 3, 6, 5), (3, 6, 5)),
            ((9, 7), (7,)),
        ],
    )
    def test_uint8_images(self, shape, event_shape):
        x = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        found = values(x)
        assert found.shape[1:] == event_shape
        if len(shape) > 2:
            assert found.max() <= 1
            expected = x.transpose(0, 3, 1, 2) if shape[-1] in (3, 4) else x.reshape(9, *event_shape)
            np.testing.assert_allclose(found, expected / 255, rtol=1e-6)
        else:
            np.testing.assert_array_equal(found, x)

    def test_uint8_images_that_are_binary(self):
        x = np.random.default_rng(0).integers(0, 2, (50, 6, 5), np.uint8)
        for mode in ("none", "dynamic", "threshold"):
            np.testing.assert_array_equal(values(x, binarize=mode)[:, 0], x)

    @pytest.mark.parametrize("dtype", [">f4", ">i2", "<u2", "longdouble", "float16", "bool"])
    @pytest.mark.parametrize("stream", [False, True])
    def test_dtypes(self, dtype, stream):
        x = np.random.default_rng(0).integers(0, 2, (50, 4)).astype(dtype)
        np.save("x.npy", x)
        np.testing.assert_array_equal(values("x.npy", stream=stream), x.astype(np.float32))
        streams = stream and dtype != "longdouble"
        assert isinstance(load("x.npy", stream=stream).train.sources["x"], Streamed if streams else Memory)

    @pytest.mark.parametrize("shape", [(50, 4), (50, 6, 5), (50, 6, 5, 3)], ids=str)
    def test_fortran_order_is_not_read_row_by_row(self, shape):
        x = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        np.save("x.npy", np.asfortranarray(x))
        np.save("y.npy", x)
        assert torch.equal(load("x.npy").train[:], load("y.npy", stream=True).train[:])
        with pytest.raises(DataError, match=r"x\.npy is in Fortran order, .* np\.lib\.format\.open_memmap"):
            load("x.npy", stream=True)

    def test_bfloat16(self):
        assert load(torch.ones(20, 3, dtype=torch.bfloat16)).train[0].tolist() == [1, 1, 1]


class TestStreaming:
    @pytest.fixture
    def path(self):
        x = np.random.default_rng(0).integers(0, 256, (500, 6, 5), np.uint8)
        np.save("big.npy", x)
        return "big.npy"

    def test_equals_loading(self, path):
        streamed, loaded = load(path, stream=True), load(path, stream=False)
        assert isinstance(streamed.train.sources["x"], Streamed)
        assert streamed.event_shape == loaded.event_shape == (1, 6, 5)
        for a, b in zip(
            (streamed.train, streamed.validation, streamed.test),
            (loaded.train, loaded.validation, loaded.test),
            strict=True,
        ):
            assert torch.equal(a[:], b[:])
        assert streamed.fingerprint == loaded.fingerprint
        assert torch.equal(streamed.train[torch.tensor([3, 1, 2])], loaded.train[torch.tensor([3, 1, 2])])
        order = torch.randperm(len(streamed.train))
        for a, b in zip(streamed.train.batches(64, order), loaded.train.batches(64, order), strict=True):
            assert torch.equal(a["x"], b["x"])
        for a, b in zip(streamed.train.moments(), loaded.train.moments(), strict=True):
            torch.testing.assert_close(a, b)
        assert "read from disk" in streamed._repr_html_()

    def test_gaps(self):
        x = np.random.default_rng(0).normal(size=(300, 4))
        x[::7, 2] = np.nan
        np.save("x.npy", x)
        streamed, loaded = load("x.npy", stream=True), load("x.npy", stream=False)
        assert streamed.train.gaps == {"x"}
        assert streamed.fingerprint == loaded.fingerprint
        torch.testing.assert_close(streamed.train[:], loaded.train[:], equal_nan=True)
        x[0, 2] = -x[0, 2]  # another NaN
        np.save("x.npy", x)
        assert load("x.npy").fingerprint == loaded.fingerprint

    def test_with_labels_in_memory(self, path):
        x = np.load(path)
        data = load(path, labels=x[:, 0, 0] // 64, stream=True)
        for batch in data.train.batches(100, torch.randperm(len(data.train))):
            assert torch.equal((batch["x"][:, 0, 0, 0] * 255).round().long() // 64, batch["y"])
        assert data.config["data"] is None

    def test_dynamic(self, path):
        data = load(path, stream=True, binarize="dynamic")
        grey = load(path).train[:]
        total = torch.zeros_like(grey)
        for seed in range(60):
            data.train.redraw(seed)
            total += data.train[:]
        assert set(data.train[:].unique().tolist()) == {0.0, 1.0}
        error = (total / 60 - grey) / (grey * (1 - grey) / 60).sqrt().clamp(min=1e-3)
        assert error.mean().abs() < 0.05
        assert error.std().item() == pytest.approx(1, abs=0.05)

    def test_a_draw_does_not_depend_on_the_batch(self, path):
        split = load(path, stream=True, binarize="static").test
        assert torch.equal(split[:], torch.cat([batch["x"] for batch in split.batches(7)]))

    def test_a_file_that_is_cut_short(self, path):
        data = load(path, stream=True)
        next(data.train.batches(50))
        os.truncate(path, 128 + 499 * 30)
        for use in (
            lambda: next(data.train.batches(50)),
            lambda: data.test[:],
            lambda: data.validation.moments(),
        ):
            with pytest.raises(DataError, match=r"big\.npy was cut short .* 15098 of 15128 bytes"):
                use()

    def test_a_file_that_is_cut_short_while_it_is_looked_at(self, path, monkeypatch):
        load_npy = np.load

        def then_cut(*args, **kwargs):
            found = load_npy(*args, **kwargs)
            os.truncate(path, 1000)
            return found

        monkeypatch.setattr(np, "load", then_cut)
        with pytest.raises(DataError, match="cut short"):
            load(path, stream=True)

    def test_a_file_that_is_written_to(self, path):
        split = load(path, stream=True).train
        x = np.load(path)
        for changed in (x[::-1], x.astype("f4"), np.concatenate([x, x])):
            np.save(path, changed)  # into the same file
            with pytest.raises(DataError, match=r"big\.npy was written to after it had been opened"):
                next(split.batches(50))

    def test_a_file_that_is_replaced_or_removed_is_kept(self, path):
        split = load(path, stream=True).train
        expected = split[:].clone()
        np.save("other.npy", np.zeros((3, 2)))
        os.replace("other.npy", path)
        assert torch.equal(split[:], expected)
        os.remove(path)
        assert torch.equal(split[:], expected)

    def test_an_array_that_is_mapped_to_be_written_to(self):
        x = np.lib.format.open_memmap("mine.npy", "w+", np.float32, (50, 2))
        x[:] = 1
        split = load(x).train
        x[:] = 2
        x.flush()
        assert split[:].unique().tolist() == [2]
        os.truncate("mine.npy", 200)
        with pytest.raises(DataError, match="cut short"):
            split[:]

    def test_trains(self, path):
        import pyro_vae as pv

        data = load(path, stream=True, binarize="dynamic")
        vae = pv.VAE(data.event_shape, 2, encoder=pv.nets.mlp(8), decoder=pv.nets.mlp(8))
        run = pv.fit(vae, data, epochs=8, folder="run", progress=False)
        assert run.history[-1]["loss"] < run.history[0]["loss"]
