import numpy as np
import pytest
import torch

from pyro_vae.data import DataError, load


@pytest.mark.parametrize("mode", ["dynamic", "static", "threshold"])
def test_is_binary(mode):
    data = load("digits", binarize=mode)
    for split in (data.train, data.validation, data.test):
        assert set(split[:].unique().tolist()) == {0.0, 1.0}
        assert split.sources["x"].values.dtype == torch.uint8


def test_threshold():
    grey = load("digits").train[:]
    assert torch.equal(load("digits", binarize="threshold").train[:], (grey > 0.5).float())


@pytest.mark.parametrize("as_uint8", [True, False])
def test_redraw_has_the_right_probabilities(as_uint8):
    grey = torch.tensor([0.0, 51 / 255, 0.6, 1.0])
    x = (grey * 255).to(torch.uint8).expand(6000, 1, 4) if as_uint8 else grey.expand(6000, 1, 4)
    train = load(x, binarize="dynamic", validation=0.0, test=0.0).train
    draws = []
    for seed in range(5):
        train.redraw(seed)
        draws.append(train[:])
    assert not torch.equal(draws[0], draws[1])
    mean = torch.stack(draws).reshape(-1, 4).mean(0)
    assert (mean[0], mean[3]) == (0, 1)
    error = (mean[1:3] - grey[1:3]) / (grey[1:3] * (1 - grey[1:3]) / 30_000).sqrt()
    assert error.abs().max() < 4
    train.redraw(0)
    assert torch.equal(train[:], draws[0])


def test_dynamic_redraws_training_data_alone():
    data = load("digits", binarize="dynamic")
    splits = (data.train, data.validation, data.test)
    before = [s[:] for s in splits]
    for split in splits:
        split.redraw(5)
    assert [torch.equal(a, s[:]) for a, s in zip(before, splits, strict=True)] == [False, True, True]


@pytest.mark.parametrize("stream", [False, True])
def test_statistics_are_of_the_first_draw(stream):
    np.save("x.npy", np.random.default_rng(0).integers(0, 256, (300, 4, 4), np.uint8))
    one, other = (load("x.npy", binarize="dynamic", stream=stream).train for _ in range(2))
    moments, examples = one.moments(), one.examples["x"]
    other.redraw(3)
    assert not torch.equal(other[:], one[:])
    assert torch.equal(other.moments()[0], moments[0])
    assert torch.equal(other.examples["x"], examples)


def test_the_fingerprint_does_not_depend_on_the_draw():
    one, other = load("digits", binarize="dynamic"), load("digits", binarize="dynamic")
    other.train.redraw(3)
    assert one.fingerprint == other.fingerprint
    assert one.fingerprint != load("digits", split_seed=1).fingerprint


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("mode", ["dynamic", "static", "threshold"])
def test_what_is_missing_stays_so(mode, stream):
    x = np.random.default_rng(0).random((200, 5), np.float32)
    x[x < 0.2] = np.nan
    np.save("x.npy", x)
    grey = load("x.npy", stream=stream).train
    split = load("x.npy", binarize=mode, stream=stream).train
    for seed in range(2):
        assert torch.equal(split[:].isnan(), grey[:].isnan())
        assert set(split[:][~split[:].isnan()].tolist()) == {0.0, 1.0}
        split.redraw(seed)
    assert split.gaps == {"x"}


def test_the_data_given_are_left_alone():
    x = torch.rand(50, 3)
    copy = x.clone()
    load(x, binarize="dynamic").train.redraw(1)
    assert torch.equal(x, copy)


def test_the_first_site_alone():
    y, w = np.full(50, 3), np.full((50, 2), 0.3)
    split = load({"x": np.full((50, 2), 0.3), "w": w, "y": y}, binarize="threshold").train
    batch = split.batch(slice(None))
    assert batch["x"].unique().tolist() == [0]
    assert batch["w"].unique().tolist() == [pytest.approx(0.3)]
    assert batch["y"].unique().tolist() == [3]


@pytest.mark.parametrize("values", [[0.0, 2.0], [-1.0, np.nan]])
def test_values_beyond_one_are_refused(values):
    low, high = np.nanmin(values), np.nanmax(values)
    with pytest.raises(DataError, match=rf"range over \[{low:g}, {high:g}\].*binarize=\"none\""):
        load(torch.tensor([values] * 10), binarize="dynamic")
