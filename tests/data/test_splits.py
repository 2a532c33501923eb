import numpy as np
import pytest
import torch
from torch.distributions import constraints

from pyro_vae.data import DataError, Split, load

NAN, INF = float("nan"), float("inf")


def whole(x, **kwargs):
    """All data for training, so that nothing is lost."""
    return load(x, validation=0.0, test=0.0, **kwargs).train


class TestDigits:
    def test_default(self):
        data = load()
        assert data.event_shape == (1, 8, 8)
        assert data.event_shapes == {"x": (1, 8, 8), "y": ()}
        assert [len(s) for s in (data.train, data.validation, data.test)] == [1455, 162, 180]
        x = data.train[:]
        assert x.dtype == torch.float32
        assert (x.min(), x.max()) == (0, 1)
        assert data.train.labels.dtype == torch.int64
        assert data.class_names == data.test.class_names == tuple("0123456789")
        assert str(data).startswith("digits: 1455 training, 162 validation, 180 test data of shape (1, 8, 8)")

    def test_splits_are_disjoint_and_whole(self):
        from sklearn.datasets import load_digits

        data = load("digits")
        x = torch.cat([s[:] for s in (data.train, data.validation, data.test)])
        labels = torch.cat([s.labels for s in (data.train, data.validation, data.test)])
        expected = torch.tensor(load_digits().images[:, None] / 16, dtype=torch.float32)

        def key(x, y):
            return sorted((*r, c) for r, c in zip(x.reshape(-1, 64).tolist(), y.tolist(), strict=True))

        assert key(x, labels) == key(expected, torch.tensor(load_digits().target))

    def test_split_seed(self):
        assert torch.equal(load("digits").train[:], load("digits").train[:])
        assert not torch.equal(load("digits").train[:], load("digits", split_seed=1).train[:])


class TestShuffling:
    @pytest.mark.parametrize("labelled", [True, False])
    def test_no_split_is_sorted_by_class(self, labelled):
        y = torch.arange(1000) // 250
        data = load(y[:, None].float(), labels=y if labelled else None)
        for split in (data.train, data.validation, data.test):
            runs = (split[:-1] != split[1:]).float().mean()
            assert 0.6 < runs < 0.9  # 3/4 of neighbours differ where the order is random

    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("counts", [[500, 300, 150, 49, 1], [7, 7, 7, 6], [3, 900]])
    def test_classes_are_in_proportion(self, counts, seed):
        y = np.repeat(np.arange(len(counts)), counts)
        data = load(np.arange(len(y))[:, None], labels=y, validation=0.2, test=0.15, split_seed=seed)
        num_test = round(0.15 * len(y))
        num_validation = round(0.2 * (len(y) - num_test))
        assert (len(data.test), len(data.validation)) == (num_test, num_validation)
        left = np.array(counts)
        for split, number in ((data.test, num_test), (data.validation, num_validation)):
            found = split.labels.bincount(minlength=len(counts)).numpy()
            assert (abs(found - left * number / left.sum()) < 1).all()
            left = left - found
        assert (data.train.labels.bincount(minlength=len(counts)).numpy() == left).all()

    def test_each_datum_is_held_out_as_often(self):
        y = np.repeat([0, 1, 2], [2, 11, 27])
        times = np.zeros(40)
        for seed in range(400):
            test = load(np.arange(40)[:, None], labels=y, validation=0.0, split_seed=seed).test
            times[test[:][:, 0].long().numpy()] += 1
        error = (times - 40) / np.sqrt(400 * 0.1 * 0.9)
        assert abs(error).max() < 4
        assert error.std() == pytest.approx(1, abs=0.35)

    @pytest.mark.parametrize("seed", range(10))
    def test_a_rare_class_is_in_each_split(self, seed):
        y = np.repeat([0, 1, 2, 3], [4, 296, 3, 97])
        data = load(np.arange(400)[:, None], labels=y, split_seed=seed)
        for split in (data.train, data.validation, data.test):
            assert (split.labels.bincount(minlength=4) > 0).all()
        rows = torch.cat([split[:] for split in (data.train, data.validation, data.test)])
        assert torch.equal(rows[:, 0].sort().values, torch.arange(400.0))

    @pytest.mark.parametrize("seed", range(20))
    def test_no_class_is_held_out_whole(self, seed):
        """Nor is one with few labels among many that are not known."""
        y = np.full(40, NAN)
        y[:5] = [0, 1, 2, 2, 3]
        data = load(np.arange(40)[:, None], labels=y, validation=0.3, test=0.3, split_seed=seed)
        assert {*data.train.labels.nan_to_num(9).tolist()} == {0, 1, 2, 3, 9}
        assert [len(split) for split in (data.train, data.validation, data.test)] == [20, 8, 12]
        rows = torch.cat([split[:] for split in (data.train, data.validation, data.test)])
        assert torch.equal(rows[:, 0].sort().values, torch.arange(40.0))

    def test_rare_classes_take_no_more_than_others_have_too_much(self):
        y = np.repeat(np.arange(101), [4] * 100 + [9600])
        data = load(np.arange(10_000)[:, None], labels=y, validation=0.0)
        assert data.test.labels.bincount(minlength=101)[100] == 960
        assert load(np.arange(8)[:, None], labels=np.repeat([0, 1], 4), test=0.1).test.labels.shape == (1,)

    def test_unknown_labels_are_a_class(self):
        y = np.where(np.arange(1000) % 10 == 0, np.arange(1000) // 500, np.nan)
        data = load(np.zeros((1000, 2)), labels=y)
        assert data.test.labels.isnan().sum() == 90
        assert [int((data.test.labels == c).sum()) for c in (0, 1)] == [5, 5]

    def test_numbers_that_are_nearly_all_distinct_are_no_classes(self):
        sizes = np.linspace(0.0, 1.0, 200)
        data = load(np.zeros((200, 2)), labels=sizes)
        assert len(data.test) == 20
        others = load(np.zeros((200, 2)))
        assert [len(s) for s in (data.train, data.validation)] == [len(others.train), len(others.validation)]


class TestBatches:
    def test_cover_the_data_once(self):
        split = whole({"x": torch.arange(10.0)[:, None], "y": torch.arange(10)})
        order = torch.randperm(10)
        batches = list(split.batches(4, order))
        assert [len(b["x"]) for b in batches] == [4, 4, 2]
        x = torch.cat([b["x"] for b in batches])
        assert torch.equal(x[:, 0].sort().values, torch.arange(10.0))
        assert torch.equal(x, split[order])
        assert torch.equal(torch.cat([b["y"] for b in batches]), x[:, 0].long())
        assert torch.equal(next(split.batches(4, order, start=2))["x"], batches[2]["x"])
        assert torch.equal(split.batch(order)["x"], x)

    def test_types(self):
        x, y, w = (
            torch.zeros(6, 2, dtype=torch.uint8),
            torch.arange(6, dtype=torch.int32),
            torch.ones(6, 3).int(),
        )
        split = Split({"x": x, "y": y, "w": w, "v": torch.ones(6, dtype=torch.float64)})
        for dtype in (torch.float32, torch.float64):
            batch = next(split.batches(4, dtype=dtype))
            kinds = {site: value.dtype for site, value in batch.items()}
            assert kinds == {"x": dtype, "y": torch.int64, "w": dtype, "v": dtype}
        torch.set_default_dtype(torch.float64)
        try:
            assert split.batch(slice(2))["x"].dtype == split[:2].dtype == torch.float64
        finally:
            torch.set_default_dtype(torch.float32)

    def test_indices(self):
        split = Split(torch.arange(10.0)[:, None])
        assert split[3].tolist() == [3]
        assert split[-1].tolist() == split[np.int64(9)].tolist() == split[torch.tensor(9)].tolist() == [9]
        for index in (torch.tensor([1, -1]), [1, -1], np.array([1, -1]), torch.arange(10) % 8 == 1):
            assert split[index][:, 0].tolist() == [1, 9]
            assert split.batch(index)["x"][:, 0].tolist() == [1, 9]
        assert split[7:][:, 0].tolist() == [7, 8, 9]
        with pytest.raises(IndexError):
            split[10]

    def test_works_with_a_dataloader(self):
        loader = torch.utils.data.DataLoader(load("digits").train, batch_size=32)
        assert next(iter(loader)).shape == (32, 1, 8, 8)

    def test_sites_of_unequal_length(self):
        with pytest.raises(DataError, match="x: 3, y: 2"):
            Split(torch.zeros(3, 1), torch.zeros(2))

    @pytest.mark.parametrize("binarize", ["none", "dynamic"])
    def test_moves_all_sites(self, binarize):
        x = torch.rand(20, 1, 2)
        split = Split({"x": x, "w": torch.ones(20, 2)}, torch.arange(20), binarize=binarize).to("meta")
        assert {value.device.type for value in split.batch(slice(5)).values()} == {"meta"}


class TestStatistics:
    def test_moments(self):
        x = 1e4 + torch.randn(3001, 2, 3, dtype=torch.float64) * torch.rand(2, 3)
        mean, std = whole(x).moments()
        torch.testing.assert_close(mean, x.mean(0))
        torch.testing.assert_close(std, x.std(0, correction=0))

    def test_leave_out_what_is_missing(self):
        x = 1e4 + torch.randn(2500, 4, dtype=torch.float64)
        gone = torch.rand(2500, 4) < torch.tensor([0.0, 0.3, 0.9, 1.0])
        gone[:1500, 1] = True  # a whole first chunk of them
        split = Split(x.masked_fill(gone, NAN))
        mean, std = split.moments()
        for i in range(3):
            seen = x[~gone[:, i], i]
            torch.testing.assert_close(mean[i], seen.mean())
            torch.testing.assert_close(std[i], seen.std(correction=0))
        assert (mean[3], std[3]) == (0, 0)
        assert split.range() == (x[~gone].min(), x[~gone].max())
        assert split.missing() == pytest.approx(gone.double().mean().item())
        assert split.gaps == {"x"}

    def test_gaps(self):
        x, y = torch.rand(1200, 3), torch.arange(1200.0)
        y[-1] = NAN
        assert Split({"x": x, "w": x}, y).gaps == {"y"}
        assert Split(x.int(), y.int()).gaps == frozenset()

    def test_of_nothing(self):
        for split in (Split(torch.zeros(0, 2)), Split(torch.full((3, 2), NAN))):
            mean, std = split.moments()
            assert mean.tolist() == std.tolist() == [0, 0]
            assert np.isnan(split.range()).all()
            assert len(split.examples["x"]) == len(split)

    def test_examples(self):
        split = whole({"x": torch.arange(2500.0)[:, None], "y": torch.arange(2500) % 5})
        x, y = split.examples["x"], split.examples["y"]
        assert len(x) == len(y) == 1000
        assert (x[:, 0].long() % 5 == y).all()
        assert torch.equal(x, split[torch.arange(1000) * 2500 // 1000])

    def test_unknown_site(self):
        with pytest.raises(DataError, match="no site 'w', but 'x'"):
            Split(torch.zeros(3, 2)).moments("w")


class TestCheck:
    def test_names_what_was_found(self):
        split = Split({"x": torch.tensor([[0.0, 1.0], [0.5, -2.0], [3.0, 9.0]]), "w": torch.zeros(3)})
        with pytest.raises(
            DataError, match=r"^2 of 3 data lie outside .*\[0, 1\].* Foo\(\).*\[-2, 9\]. Mend: do"
        ):
            split.check("x", constraints.unit_interval, "[0, 1]", "Foo()", "do")
        split.check("x", constraints.real, "reals", "Foo()", "do")
        with pytest.raises(DataError, match=r"^3 of 3 data of site 'w' lie outside"):
            split.check("w", constraints.positive, "reals", "Foo()", "do")

    def test_missing_is_fine_and_infinite_is_not(self):
        Split(torch.tensor([[NAN, 1.0], [0.0, NAN]])).check("x", constraints.boolean, "", "", "")
        with pytest.raises(DataError, match=r"^1 of 2"):
            Split(torch.tensor([[NAN, 1.0], [0.0, INF]])).check("x", constraints.real, "", "", "")
        with pytest.raises(DataError, match=r"^1 of 2"):
            Split(torch.tensor([[NAN, 1.0], [2.0, NAN]])).check("x", constraints.boolean, "", "", "")

    def test_unknown_site(self):
        with pytest.raises(DataError, match="no site 'w'"):
            Split(torch.zeros(2, 2)).check("w", constraints.real, "", "", "")

    def test_vectors(self):
        x = torch.tensor([[0.2, 0.8], [NAN, 0.5], [0.5, 0.6]])
        with pytest.raises(DataError, match=r"^1 of 3"):
            Split(x).check("x", constraints.simplex, "", "", "")

    def test_labels(self):
        split = Split({"x": torch.zeros(3, 2)}, torch.tensor([0.0, 2.0, NAN]))
        split.check("y", constraints.integer_interval(0, 2), "", "", "")
        with pytest.raises(DataError, match=r"^1 of 3 data of site 'y'"):
            split.check("y", constraints.integer_interval(0, 1), "", "", "")

    @pytest.mark.parametrize(("loc", "scale"), [(0, 1e-10), (1.7e9, 1), (1e6, 0.01), (0, 1e30)])
    def test_scales_beyond_single_precision(self, loc, scale):
        x = loc + scale * np.random.default_rng(0).normal(size=(100, 3))
        with pytest.raises(DataError, match="standardise"):
            whole(x).check_scale()
        with pytest.raises(DataError, match="data of site 'w' var"):
            whole({"x": np.eye(100), "w": x}).check_scale("w")

    def test_data_that_do_not_vary(self):
        for x, what in (
            (np.full((100, 3), 3.0), "100 in number, are all equal"),
            (np.ones((1, 2)), "1 in number, are all equal"),
            (np.full((5, 2), NAN), "5 in number, are all missing"),
        ):
            with pytest.raises(DataError, match=what):
                whole(x).check_scale()

    def test_scales_that_are_fine(self):
        split = whole({"x": np.eye(20) * 1e3, "y": np.full(20, 3)})
        split.check_scale("x")
        split.check_scale("y")


class TestShown:
    def test_briefly(self):
        data = load({"x": np.random.rand(50, 3), "w": np.zeros((50, 2))}, labels=["cat", "<dog>"] * 25)
        assert repr(data) == str(data)
        assert str(data) == "array: 41 training, 4 validation, 5 test data of shape (3,), w (2,), y ()"
        assert repr(data.train) == "Split(41 data: x (3,), w (2,), y ())"

    def test_in_a_notebook(self):
        x = np.random.rand(40, 3)
        x[:10] = np.nan
        split = Split(x, ["cat", "<dog>"] * 20)
        shown = split._repr_html_()
        for part in ("(3,)", "25.0%", "cat: 20", "&lt;dog&gt;: 20"):
            assert part in shown
        data = load(x, labels=np.arange(40))
        for part in ("train", "validation", "test", "32 classes"):
            assert part in data._repr_html_()
        assert "nan" in load(x, test=0.0)._repr_html_()  # of an empty split
