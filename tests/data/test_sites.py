import numpy as np
import pytest
import torch

from pyro_vae.data import DataError, Split, load

NAN = float("nan")


def labels(y):
    """Of ten data, in their order, and the names of their classes."""
    train = load({"x": np.arange(10)[:, None], "y": y}, validation=0.0, test=0.0).train
    given = load(np.arange(10)[:, None], labels=y, validation=0.0, test=0.0).train
    torch.testing.assert_close(train.labels, given.labels, equal_nan=True)
    for split in (Split(torch.zeros(10, 1), y), Split({"x": torch.zeros(10, 1), "y": y})):
        assert split.class_names == train.class_names == given.class_names
    return train.labels[train[:].flatten().argsort()], train.class_names


class TestLabels:
    @pytest.mark.parametrize("make", [list, np.array, torch.tensor, lambda y: np.array(y, np.uint16)])
    @pytest.mark.parametrize("kind", [int, float])
    def test_numbers_stay(self, make, kind):
        y = [kind(i) for i in (3, 1, 4, 1, 5, 9, 2, 6, 5, 3)]
        found, names = labels(make(y))
        assert found.dtype == torch.int64
        assert found.tolist() == y
        assert names is None

    @pytest.mark.parametrize("make", [list, np.array, lambda y: np.array(y, object), tuple])
    def test_strings(self, make):
        found, names = labels(make(["dog", "cat", "eel", "cat", "dog"] * 2))
        assert found.dtype == torch.int64
        assert found.tolist() == [1, 0, 2, 0, 1] * 2
        assert names == ("cat", "dog", "eel")

    def test_other_classes(self):
        found, names = labels([("b", 1), ("a", 2)] * 5)
        assert (found.tolist(), names) == ([1, 0] * 5, ("('a', 2)", "('b', 1)"))
        found, names = labels(np.array([True, False] * 5))
        assert (found.tolist(), names) == ([1, 0] * 5, ("False", "True"))

    @pytest.mark.parametrize("unknown", [None, NAN, np.nan])
    def test_unknown(self, unknown):
        found, names = labels(["dog", unknown, "cat", "nan", "dog"] * 2)
        torch.testing.assert_close(found, torch.tensor([1, NAN, 0, 2, 1] * 2), equal_nan=True)
        assert names == ("cat", "dog", "nan")
        found, names = labels([7, unknown] * 5)
        torch.testing.assert_close(found, torch.tensor([7, NAN] * 5), equal_nan=True)
        assert names is None

    def test_real_numbers_stay(self):
        y = np.linspace(-1, 1, 10)
        assert labels(y)[0].tolist() == pytest.approx(y.tolist())
        y[3] = NAN
        assert labels(y)[0].isnan().sum() == 1

    def test_more_than_one_dimension_is_no_class(self):
        data = load({"x": np.zeros((10, 2)), "y": np.eye(10)})
        assert data.event_shapes == {"x": (2,), "y": (10,)}
        assert data.train.batch(slice(2))["y"].is_floating_point()

    def test_none(self):
        assert load(np.zeros((10, 2))).train.labels is None


class TestMappings:
    def test_sites_stay_together(self):
        n = torch.arange(100)
        data = load({"w": n[:, None].float() + 0.5, "y": n % 3, "x": n[:, None].float(), "v": n})
        assert list(data.event_shapes) == ["x", "w", "y", "v"]
        assert data.event_shapes == {"x": (1,), "w": (1,), "y": (), "v": ()}
        for split in (data.train, data.validation, data.test):
            batch = split.batch(slice(None))
            assert torch.equal(batch["w"], batch["x"] + 0.5)
            assert torch.equal(batch["y"], batch["x"][:, 0].long() % 3)
            assert torch.equal(batch["v"], batch["x"][:, 0].long())
            assert torch.equal(split[:], batch["x"])

    def test_images_are_those_of_x(self):
        image = np.full((20, 6, 5), 255, np.uint8)
        batch = load({"mask": image, "x": image}).train.batch(slice(None))
        assert (batch["x"].shape[1:], batch["x"].max()) == ((1, 6, 5), 1)
        assert (batch["mask"].shape[1:], batch["mask"].max()) == ((6, 5), 255)
        assert load({"mask": image, "x": image}, levels=True).train[:].max() == 255

    def test_without_x(self):
        data = load({"size": np.arange(20.0), "colour": np.zeros((20, 3))})
        assert data.event_shape == ()
        assert data.train[:].shape == (16,)
        assert data.train[0].shape == ()
        assert data.train.moments("colour")[0].shape == (3,)

    def test_config(self):
        data = load({"x": np.zeros((20, 2))}, validation=0, split_seed=np.int64(3))
        assert data.config["data"] is None
        assert data.config["split_seed"] == 3
        assert {type(value) for value in data.config.values()} <= {str, int, float, bool, type(None)}

    def test_fingerprint_knows_all_sites(self):
        x, y = torch.rand(40, 3), torch.arange(40) % 2
        found = {load(x).fingerprint, load(x, labels=y).fingerprint, load(x, labels=1 - y).fingerprint}
        assert len(found) == 3
        assert load(x.double()).fingerprint in found


class TestMissing:
    def test_is_let_through(self):
        x = torch.rand(50, 3)
        x[::5, 1] = NAN
        data = load({"x": x, "w": torch.ones(50)})
        assert sum(int(s[:].isnan().sum()) for s in (data.train, data.validation, data.test)) == 10
        assert data.train.gaps == {"x"}
        assert data.fingerprint == load({"x": x.clone(), "w": torch.ones(50)}).fingerprint


class Column:
    def __init__(self, values):
        self.dtype, self.values = values.dtype, values


class Frame:
    """What pandas' DataFrame has of use here."""

    def __init__(self, **columns):
        self.columns = list(columns)
        self.items = {name: Column(np.array(value)) for name, value in columns.items()}.items

    def to_numpy(self, dtype, na_value):
        assert np.isnan(na_value)
        return np.stack([column.values for _, column in self.items()], 1).astype(dtype)


class TestTables:
    def test_of_numbers(self):
        train = load(Frame(a=np.arange(10), b=np.full(10, NAN)), validation=0.0, test=0.0).train
        assert train.event_shape == (2,)
        assert sorted(train[:][:, 0].tolist()) == list(range(10))
        assert train[:][:, 1].isnan().all()

    def test_of_others(self):
        with pytest.raises(DataError, match="columns that are not numbers: name, of; leave"):
            load(Frame(name=["a"] * 10, age=np.arange(10), of=["b"] * 10))

    def test_pandas(self):
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame(
            {"a": range(10), "b": pandas.array([1, None] * 5, dtype="Int64"), "c": ["u", "v"] * 5}
        )
        data = load(frame[["a", "b"]], labels=frame["c"], validation=0.0, test=0.0)
        assert data.class_names == ("u", "v")
        assert data.train.missing() == 0.25
        assert torch.equal(data.train[:][:, 0].long() % 2, data.train.labels)
