import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import pyro_vae as pv
from pyro_vae.data import DataError, load


class TestDigits:
    def test_default(self):
        data = load()
        assert data.event_shape == (1, 8, 8)
        assert [len(s) for s in (data.train, data.validation, data.test)] == [1455, 162, 180]
        x = data.train[:]
        assert x.dtype == torch.float32
        assert (x.min(), x.max()) == (0, 1)
        assert len(data.train.labels) == 1455
        assert str(data).startswith("digits: 1455 training, 162 validation, 180 test")

    def test_splits_are_disjoint_and_whole(self):
        from sklearn.datasets import load_digits

        data = load("digits")
        rows = torch.cat([s[:] for s in (data.train, data.validation, data.test)])
        labels = torch.cat([s.labels for s in (data.train, data.validation, data.test)])
        whole = torch.tensor(load_digits().images[:, None] / 16, dtype=torch.float32)

        def key(x, y):
            return sorted((*r, c) for r, c in zip(x.reshape(-1, 64).tolist(), y.tolist(), strict=True))

        assert key(rows, labels) == key(whole, torch.tensor(load_digits().target))

    def test_split_seed(self):
        assert torch.equal(load("digits").train[:], load("digits").train[:])
        assert not torch.equal(load("digits").train[:], load("digits", split_seed=1).train[:])


class TestBinarize:
    @pytest.mark.parametrize("mode", ["dynamic", "static", "threshold"])
    def test_is_binary(self, mode):
        data = load("digits", binarize=mode)
        for split in (data.train, data.validation, data.test):
            assert set(split[:].unique().tolist()) == {0.0, 1.0}

    def test_threshold(self):
        grey = load("digits").train[:]
        assert torch.equal(load("digits", binarize="threshold").train[:], (grey > 0.5).float())

    @pytest.mark.parametrize("as_uint8", [True, False])
    def test_redraw_has_the_right_probabilities(self, as_uint8):
        grey = torch.tensor([0.0, 51 / 255, 0.6, 1.0])
        x = (grey * 255).to(torch.uint8).expand(6000, 1, 4) if as_uint8 else grey.expand(6000, 1, 4)
        data = load(x, binarize="dynamic", validation=0.0, test=0.0)
        draws = []
        for seed in range(5):
            data.train.redraw(seed)
            draws.append(data.train[:])
        assert not torch.equal(draws[0], draws[1])
        mean = torch.stack(draws).reshape(-1, 4).mean(0)
        assert mean[0] == 0
        assert mean[3] == 1
        error = (mean[1:3] - grey[1:3]) / (grey[1:3] * (1 - grey[1:3]) / 30_000).sqrt()
        assert error.abs().max() < 4
        data.train.redraw(0)
        assert torch.equal(data.train[:], draws[0])

    def test_dynamic_redraws_training_data_alone(self):
        data = load("digits", binarize="dynamic")
        before = [s[:] for s in (data.train, data.validation, data.test)]
        for split in (data.train, data.validation, data.test):
            split.redraw(5)
        after = [s[:] for s in (data.train, data.validation, data.test)]
        assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [False, True, True]

    def test_fingerprint_does_not_depend_on_the_draw(self):
        one, other = load("digits", binarize="dynamic"), load("digits", binarize="dynamic")
        other.train.redraw(3)
        assert one.fingerprint == other.fingerprint
        assert one.fingerprint != load("digits", split_seed=1).fingerprint

    def test_values_beyond_one_are_refused(self):
        with pytest.raises(DataError, match=r"range over \[0, 2\].*binarize=\"none\""):
            load(torch.tensor([[0.0, 2.0]] * 10), binarize="dynamic")


class TestBatches:
    def test_cover_the_data_once(self):
        split = load(torch.arange(10.0)[:, None], validation=0.0, test=0.0).train
        order = torch.randperm(10)
        batches = list(split.batches(4, order))
        assert [len(b) for b in batches] == [4, 4, 2]
        assert torch.equal(torch.cat(batches)[:, 0].sort().values, torch.arange(10.0))
        assert torch.equal(torch.cat(batches), split[order])
        assert torch.equal(next(split.batches(4, order, start=2)), batches[2])

    def test_moments(self):
        x = 1e4 + torch.randn(3001, 2, 3, dtype=torch.float64) * torch.rand(2, 3)
        torch.set_default_dtype(torch.float64)
        try:
            mean, std = load(x, validation=0.0, test=0.0).train.moments
        finally:
            torch.set_default_dtype(torch.float32)
        torch.testing.assert_close(mean, x.mean(0))
        torch.testing.assert_close(std, x.std(0, correction=0))

    def test_works_with_a_dataloader(self):
        loader = torch.utils.data.DataLoader(load("digits").train, batch_size=32)
        assert next(iter(loader)).shape == (32, 1, 8, 8)


class TestFiles:
    def test_npy(self, tmp_path):
        x = np.random.default_rng(0).normal(size=(50, 3))
        np.save("x.npy", x)
        data = load("x.npy")
        assert (data.name, data.event_shape) == ("x", (3,))
        assert [len(s) for s in (data.train, data.validation, data.test)] == [41, 4, 5]
        assert data.config["data"] == str(tmp_path / "x.npy")

    def test_npz_with_labels(self):
        np.savez("x.npz", x=np.zeros((20, 4, 4), np.uint8), y=np.arange(20))
        data = load("x.npz", validation=0.0, test=0.0)
        assert data.event_shape == (1, 4, 4)
        assert data.train.labels.tolist() == list(range(20))

    def test_pt(self):
        torch.save(torch.rand(30, 2), "x.pt")
        assert load("x.pt").event_shape == (2,)
        torch.save({"x": torch.rand(30, 2), "y": torch.arange(30)}, "xy.pt")
        assert len(load("xy.pt").test.labels) == 3

    def test_folder_of_images(self, tmp_path):
        for i in range(20):
            folder = tmp_path / "pictures" / ("cats" if i % 2 else "dogs")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((6, 5, 3), 10 * i, np.uint8)).save(folder / f"{i}.png")
        data = load("pictures", validation=0.0, test=0.0)
        assert data.event_shape == (3, 6, 5)
        assert data.train.labels.bincount().tolist() == [10, 10]
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
        split = load(x, validation=0.0, test=0.0).train
        assert split.event_shape == event_shape
        if len(shape) > 2:
            assert split[:].max() <= 1
            expected = x.transpose(0, 3, 1, 2) if shape[-1] in (3, 4) else x.reshape(9, *event_shape)
            np.testing.assert_allclose(split[:].numpy(), expected / 255, rtol=1e-6)
        else:
            np.testing.assert_array_equal(split[:].numpy(), x)

    def test_uint8_images_that_are_binary(self):
        x = np.random.default_rng(0).integers(0, 2, (50, 6, 5), np.uint8)
        for mode in ("none", "dynamic", "threshold"):
            split = load(x, validation=0.0, test=0.0, binarize=mode).train
            np.testing.assert_array_equal(split[:].numpy()[:, 0], x)

    @pytest.mark.parametrize("dtype", [">f4", ">i2", "<u2", "longdouble", "float16", "bool"])
    @pytest.mark.parametrize("stream", [False, True])
    def test_dtypes(self, dtype, stream):
        x = np.random.default_rng(0).integers(0, 2, (50, 4)).astype(dtype)
        np.save("x.npy", x)
        split = load("x.npy", validation=0.0, test=0.0, stream=stream).train
        np.testing.assert_array_equal(split[:].numpy(), x.astype(np.float32))

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
        assert isinstance(streamed.train.values, np.memmap)
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
            assert torch.equal(a, b)

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
        assert torch.equal(split[:], torch.cat(list(split.batches(7))))

    def test_trains(self, path):
        data = load(path, stream=True, binarize="dynamic")
        vae = pv.VAE(data.event_shape, 2, encoder=pv.nets.mlp(8), decoder=pv.nets.mlp(8))
        run = pv.fit(vae, data, epochs=8, folder="run", progress=False)
        assert run.history[-1]["loss"] < run.history[0]["loss"]


def write_idx(path, array):
    """The IDX format of MNIST and its relatives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(head + array.tobytes())


class TestTorchvision:
    @pytest.mark.parametrize(
        ("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
    )
    def test_idx_sets(self, tmp_path, name, folder):
        images = np.random.default_rng(0).integers(0, 256, (30, 28, 28)).astype(np.uint8)
        labels = (np.arange(30) % 10).astype(np.uint8)
        for part in ("train", "t10k"):
            write_idx(tmp_path / folder / "raw" / f"{part}-images-idx3-ubyte", images)
            write_idx(tmp_path / folder / "raw" / f"{part}-labels-idx1-ubyte", labels)
        data = load(name, data_dir=tmp_path)
        assert [len(s) for s in (data.train, data.validation, data.test)] == [27, 3, 30]
        np.testing.assert_allclose(data.test[:].numpy()[:, 0], images / 255, rtol=1e-6)
        assert data.test.labels.tolist() == labels.tolist()

    def test_emnist_stands_upright(self, tmp_path):
        images = np.zeros((30, 28, 28), np.uint8)
        images[:, 3, 20] = 255
        for part in ("train", "test"):
            raw = tmp_path / "EMNIST" / "raw"
            write_idx(raw / f"emnist-balanced-{part}-images-idx3-ubyte", images)
            write_idx(raw / f"emnist-balanced-{part}-labels-idx1-ubyte", np.zeros(30, np.uint8))
        data = load("emnist", data_dir=tmp_path)
        assert data.test[0][0, 20, 3] == 1

    def test_cifar10(self, monkeypatch):
        class Fake:
            def __init__(self, root, download, train):
                self.data = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
                self.targets = [0] * 20

        monkeypatch.setattr(torchvision.datasets, "CIFAR10", Fake)
        assert load("cifar10", data_dir="x").event_shape == (3, 32, 32)

    def test_omniglot(self, monkeypatch):
        class Fake(list):
            def __init__(self, root, download, background):
                image = Image.new("1", (105, 105), 1)
                image.putpixel((50, 50), 0)
                super().__init__([(image, 7)] * 20)

        monkeypatch.setattr(torchvision.datasets, "Omniglot", Fake)
        data = load("omniglot", data_dir="x")
        assert data.event_shape == (1, 28, 28)
        assert 0.03 < data.test[0].sum().item() < 0.08
        assert data.test.labels.unique().tolist() == [7]

    def test_downloads_when_it_is_not_there(self, tmp_path, monkeypatch):
        calls = []

        def fake(root, download, train):
            calls.append(download)
            if not download:
                raise RuntimeError("Dataset not found")
            raise OSError("no network")

        monkeypatch.setattr(torchvision.datasets, "MNIST", fake)
        with pytest.raises(DataError, match=r"no network.*--data-dir"):
            load("mnist", data_dir=tmp_path)
        assert calls == [False, True]

    def test_real_mnist(self, mnist_dir):
        data = load("mnist", data_dir=mnist_dir)
        assert [len(s) for s in (data.train, data.validation, data.test)] == [54000, 6000, 10000]
        assert data.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
        whole = torch.cat([data.train.values, data.validation.values]).double().mean() / 255
        assert whole.item() == pytest.approx(0.1307, abs=1e-4)


class TestBadInput:
    """Each ends in one clear sentence with the mend."""

    def refuses(self, message, *args, **kwargs):
        with pytest.raises(DataError, match=message) as caught:
            load(*args, **kwargs)
        assert "\n" not in str(caught.value)

    def test_unknown_name(self):
        self.refuses("did you mean 'fashion-mnist'.*Known names: digits", "fashion_mnist")
        self.refuses("no data set or file named 'nowhere.npy'", "nowhere.npy")

    def test_unknown_suffix(self, tmp_path):
        (tmp_path / "x.csv").write_text("1,2")
        self.refuses("np.save", "x.csv")

    @pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt"])
    def test_damaged(self, tmp_path, suffix):
        (tmp_path / f"x{suffix}").write_bytes(b"\x93NUMPY garbage")
        self.refuses("cannot be read", f"x{suffix}")
        (tmp_path / f"x{suffix}").write_bytes(b"")
        self.refuses("cannot be read", f"x{suffix}")

    def test_pickles_are_not_loaded(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return (open, (str(tmp_path / "owned"), "w"))

        np.save("x.npy", np.array([Evil()], dtype=object))
        self.refuses("without unpickling", "x.npy")
        np.savez("x.npz", x=np.array([Evil()], dtype=object))
        self.refuses("without unpickling", "x.npz")
        torch.save(Evil(), "x.pt")
        self.refuses("without unpickling", "x.pt")
        assert not (tmp_path / "owned").exists()

    def test_images_of_16_bits(self, tmp_path):
        (tmp_path / "deep").mkdir()
        Image.fromarray(np.arange(25, dtype=np.uint16).reshape(5, 5)).save("deep/a.png")
        self.refuses("more than 8 bits", "deep")

    def test_streamed_files_are_checked_too(self):
        np.save("x.npy", np.array([["a", "b"]]))
        self.refuses("not real numbers", "x.npy", stream=True)

    def test_empty(self):
        self.refuses("is empty", np.zeros((0, 3)))
        self.refuses("is empty", np.zeros((3, 0)))
        self.refuses("is empty", np.float64(3.0))

    def test_one_dimensional(self):
        self.refuses(r"x\[:, None\]", np.zeros(5))

    def test_ragged(self):
        self.refuses("ragged|different shapes", [[1.0, 2.0], [3.0]])

    def test_not_numbers(self):
        self.refuses("not real numbers", np.array([["a", "b"]]))
        self.refuses("not real numbers", np.array([[1j]]))

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite(self, value):
        x = np.zeros((2000, 3))
        x[1500, 1] = value
        self.refuses("first in row 1500", x)

    def test_labels_of_another_length(self):
        self.refuses(r"shape \(10,\)", np.zeros((10, 2)), labels=np.zeros(9))

    def test_folders(self, tmp_path):
        (tmp_path / "empty").mkdir()
        self.refuses("holds no images", "empty")
        (tmp_path / "mixed").mkdir()
        Image.new("L", (5, 5)).save("mixed/a.png")
        Image.new("L", (6, 5)).save("mixed/b.png")
        self.refuses("one size", "mixed")
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "a.png").write_bytes(b"no picture")
        self.refuses("no readable image", "broken")

    @pytest.mark.parametrize("value", [False, None, "dyn"])
    def test_binarize(self, value):
        self.refuses("is none of 'dynamic'", "digits", binarize=value)

    def test_split_seed(self):
        self.refuses("split_seed=-1", "digits", split_seed=-1)

    @pytest.mark.parametrize(("loc", "scale"), [(0, 1e-10), (1.7e9, 1), (1e6, 0.01), (3, 0), (0, 1e30)])
    def test_scales_beyond_single_precision(self, loc, scale):
        data = load(loc + scale * np.random.default_rng(0).normal(size=(100, 3)))
        with pytest.raises(DataError, match="standardise"):
            pv.fit(pv.VAE((3,), 2, likelihood=pv.likelihoods.Normal()), data)

    def test_nothing_left_to_train_on(self):
        self.refuses("nothing is left", np.zeros((1, 2)), validation=0.6, test=0.6)
        self.refuses("no fraction", np.zeros((5, 2)), validation=1.5)

    def test_npz_without_x(self):
        np.savez("x.npz", a=np.zeros(3), b=np.zeros(3))
        self.refuses('none of them "x"', "x.npz")

    def test_pt_without_x(self):
        torch.save({"a": torch.zeros(3)}, "x.pt")
        self.refuses("holds no tensor", "x.pt")


class TestSupport:
    def test_grey_under_bernoulli(self):
        data = load("digits")
        with pytest.raises(DataError, match=r"Bernoulli.*\[0, 1\].*binarize=\"dynamic\".*PseudoBernoulli"):
            pv.fit(pv.VAE(data.event_shape), data)
        with pytest.raises(DataError, match="Bernoulli"):
            pv.evaluate.elbo(pv.VAE(data.event_shape), data.test)

    @pytest.mark.parametrize(
        ("likelihood", "scale", "fits"),
        [
            (pv.likelihoods.PseudoBernoulli(), 1.0, True),
            (pv.likelihoods.PseudoBernoulli(), 3.0, False),
            (pv.likelihoods.Normal(), 300.0, True),
        ],
    )
    def test_others(self, likelihood, scale, fits):
        data = load(load("digits").train[:] * scale)
        vae = pv.VAE(data.event_shape, likelihood=likelihood)
        if fits:
            pv.evaluate.check_support(vae, data.train)
        else:
            with pytest.raises(DataError, match="scale the data"):
                pv.evaluate.check_support(vae, data.train)

    def test_another_shape(self):
        with pytest.raises(DataError, match=r"data\.event_shape"):
            pv.fit(pv.VAE((1, 9, 9)), load("digits", binarize="static"))
