import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from pyro_vae.data import DataError, load


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
        assert len(data.class_names) == 10

    def test_emnist_stands_upright(self, tmp_path):
        images = np.zeros((30, 28, 28), np.uint8)
        images[:, 3, 20] = 255
        for part in ("train", "test"):
            raw = tmp_path / "EMNIST" / "raw"
            write_idx(raw / f"emnist-balanced-{part}-images-idx3-ubyte", images)
            write_idx(raw / f"emnist-balanced-{part}-labels-idx1-ubyte", np.zeros(30, np.uint8))
        data = load("emnist", data_dir=tmp_path)
        assert data.test[0][0, 20, 3] == 1
        assert (len(data.class_names), data.class_names[10]) == (47, "A")

    def test_cifar10(self, monkeypatch):
        class Fake:
            def __init__(self, root, download, train):
                self.data = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
                self.targets = [0, 1] * 10
                self.classes = ["airplane", "automobile"]

        monkeypatch.setattr(torchvision.datasets, "CIFAR10", Fake)
        data = load("cifar10", data_dir="x")
        assert data.event_shape == (3, 32, 32)
        assert data.class_names == ("airplane", "automobile")
        assert load(**data.config).fingerprint == data.fingerprint

    def test_omniglot(self, monkeypatch):
        class Fake(list):
            def __init__(self, root, download, background):
                self.background = background
                image = Image.new("1", (105, 105), 1)
                image.putpixel((50, 50), 0)
                super().__init__([(image, 7)] * 20)

        monkeypatch.setattr(torchvision.datasets, "Omniglot", Fake)
        data = load("omniglot", data_dir="x")
        assert data.event_shape == (1, 28, 28)
        assert 0.03 < data.test[0].sum().item() < 0.08
        assert data.train.labels.unique().tolist() == [7]
        assert data.test.labels.unique().tolist() == [964 + 7]  # another alphabet's

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
        whole = torch.cat([data.train[:], data.validation[:]]).double().mean()
        assert whole.item() == pytest.approx(0.1307, abs=1e-4)
        share = data.train.labels.bincount() / 54000 - data.validation.labels.bincount() / 6000
        assert share.abs().max() < 1 / 6000
        assert data.class_names[3] == "3 - three"
