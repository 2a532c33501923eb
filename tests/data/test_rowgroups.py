"""``.parquet`` files read by row groups, against the same tables in memory."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.data import DataError, rowgroups
from pyro_vae.data.source import OnDisk, Streamed
from pyro_vae.data.split import Split

NETS = {"encoder": pv.nets.mlp(8), "decoder": pv.nets.mlp(8)}
NUMBER = 600
PLAIN = {"progress": False, "compile": False}


def table(number=NUMBER):
    """Columns of each kind, of which some parts have no holes, or not all categories."""
    random, rows = np.random.default_rng(0), np.arange(number)
    z = random.normal(size=number)
    late = rows > number / 2
    frame = pd.DataFrame(
        {
            "real": z,
            "single": (z + random.normal(size=number)).astype("f4"),
            "count": random.poisson(np.exp(z).clip(max=50)) * random.integers(0, 3, number),
            "whole": np.where(late & (rows % 5 == 0), np.nan, 100 + rows % 7),
            "positive": np.exp(3 * z),
            "flag": np.where(late & (rows % 6 == 0), None, z > 0),
            "text": np.where(rows % 9 == 0, None, np.where(late, "late", np.where(z > 0, "b", "a"))),
            "size": pd.Categorical(np.where(z > 0, "large", "small"), ["small", "large"], ordered=True),
            "of": pd.Categorical(np.where(late, "z", np.where(z > 0, "y", "x"))),
            "class": np.where(late, "new", "old"),
        }
    )
    frame.loc[rows % 4 == 0, "real"] = np.nan
    return frame


@pytest.fixture
def path():
    table().to_parquet("t.parquet", row_group_size=50)
    return "t.parquet"


def sorted_by(split, column="positive"):
    """Indices in the order of a column whose values are all different."""
    x = split[:][:, list(split.columns).index(column)]
    return x.argsort()


@pytest.mark.parametrize("labels", [None, "class"])
def test_equals_the_table_in_memory(path, labels):
    streamed, loaded = (pv.data.load(path, labels=labels, stream=stream) for stream in (True, False))
    assert isinstance(streamed.train.sources["x"], Streamed)
    assert streamed.columns == loaded.columns
    assert [column.dtype for column in streamed.columns.of.values()] == [
        column.dtype for column in loaded.columns.of.values()
    ]
    assert streamed.class_names == loaded.class_names
    for part in ("train", "validation", "test"):
        one, other = getattr(streamed, part), getattr(loaded, part)
        first, second = one.batch(sorted_by(one)), other.batch(sorted_by(other))
        for site in second:
            torch.testing.assert_close(first[site], second[site], rtol=0, atol=0, equal_nan=True)
        for a, b in zip(one.moments(), other.moments(), strict=True):
            torch.testing.assert_close(a, b)
        assert one.range() == other.range()
        assert one.missing() == other.missing()


@pytest.fixture
def simple():
    table()[["real", "positive", "text"]].to_parquet("t.parquet", row_group_size=50)
    return "t.parquet"


def test_the_same_model_as_from_memory(simple, monkeypatch):
    """To rounding, where the order is the same; its statistics are summed up in another one."""
    monkeypatch.setattr(Split, "shuffled", lambda split, seed: sorted_by(split))
    programs = []
    for stream in (True, False):
        data = pv.data.load(simple, stream=stream)
        torch.manual_seed(0)
        vae = pv.VAE(data.event_shapes, 2, likelihood="auto", **NETS)
        pv.fit(vae, data, epochs=2, batch_size=100, **PLAIN)
        programs.append((vae, pv.evaluate.elbo(vae, data.train.batch(sorted_by(data.train))).elbo))
    (one, first), (other, second) = programs
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert first == pytest.approx(second, rel=1e-4)


@pytest.fixture
def few(monkeypatch):
    """Four row groups of the table are held, and the next one."""
    monkeypatch.setattr(rowgroups, "_HELD", 5 * 50 * 8 * 10)


def test_each_group_is_read_once_or_twice_an_epoch(path, few, monkeypatch):
    data = pv.data.load(path, stream=True)
    source = data.train.sources["x"].values
    assert source.window == 4
    read, frame = [], source.file.frame
    monkeypatch.setattr(
        source.file, "frame", lambda group, **more: read.append(group) or frame(group, **more)
    )
    for seed in range(3):
        read.clear()
        for _ in data.train.batches(4, data.train.shuffled(seed)):
            assert len(source._held) <= 5
        assert len(read) <= 12 + 5  # those that the epoch begins in are the last, too
    read.clear()
    for _ in data.train.batches(4):  # as they are evaluated
        pass
    assert len(read) <= 12 + 5
    read.clear()
    data.train.moments()
    assert len(read) <= 12


class Sorted(OnDisk):
    """The number of its row, in blocks of one class each."""

    dtype, path = np.dtype("f8"), "sorted"

    def __init__(self, blocks, size, window):
        self.shape, self.window = (blocks * size, 1), window
        self.blocks = np.arange(0, blocks * size, size)

    def read(self, rows):
        return rows[:, None].astype(float)


@pytest.mark.parametrize("window", [64, 16])
def test_the_order_is_shuffled(window):
    """Classes that are sorted on disk come in batches as a draw from ``window`` blocks of 64 has them.

    Of a class whose share is p, a batch of B has a share of variance p (1 - p) ((1 - r) / B + r), and places
    on disk of rows that come one after the other correlate by r = (G - W) / (W (G - 1)).
    """
    blocks, size, batch = 64, 100, 128
    source, share, found, lag = Sorted(blocks, size, window), 0.25, [], []
    split = Split(source, rows=np.random.default_rng(0).permutation(len(source)))
    for seed in range(30):
        order = split.shuffled(seed)
        assert torch.equal(order.sort().values, torch.arange(len(source)))
        rows = split.batch(order)["x"][:, 0].numpy()
        found.append((rows < share * len(source)).reshape(-1, batch).mean(1))
        lag.append(np.corrcoef(rows[:-1], rows[1:])[0, 1])
    assert not torch.equal(split.shuffled(1), split.shuffled(2))
    assert torch.equal(split.shuffled(1), split.shuffled(1))
    between = (blocks - window) / (window * (blocks - 1))
    without = (len(source) - batch) / (len(source) - 1)  # a batch is drawn without putting back
    expected = share * (1 - share) * ((1 - between) * without / batch + between)
    assert np.var(found) == pytest.approx(expected, rel=0.25)
    assert np.mean(lag) == pytest.approx(between, abs=0.015)
    assert np.mean(found) == pytest.approx(share)


def test_resumed_with_the_same_bits(simple, few):
    def stop(epoch, row, program):
        raise KeyboardInterrupt

    weights = []
    for callback in (None, stop):
        data = pv.data.load(simple, stream=True)
        torch.manual_seed(0)
        vae = pv.VAE(data.event_shapes, 2, likelihood="auto", **NETS)
        options = {"epochs": 2, "batch_size": 100, "folder": f"{callback}"} | PLAIN
        if callback is None:
            run = pv.fit(vae, data, **options)
        else:
            with pytest.raises(KeyboardInterrupt):
                pv.fit(vae, data, callback=callback, **options)
            run = pv.resume(options["folder"], progress=False)
        weights.append(run.program.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_a_file_that_is_changed(path):
    data = pv.data.load(path, stream=True)
    assert data.config["stream"] is True
    assert pv.data.load(path, stream=True).fingerprint == data.fingerprint
    frame = table()
    frame.loc[333, "positive"] *= 1.5
    frame.to_parquet(path, row_group_size=50)
    with pytest.raises(DataError, match=r"t\.parquet was written to after it had been opened"):
        data.train.batch(slice(0, 10))
    other = pv.data.load(path, stream=True)
    assert other.fingerprint != data.fingerprint
    Path(path).unlink()
    with pytest.raises(DataError, match=r"t\.parquet cannot be opened .*; leave it where it is"):
        other.train.batch(slice(0, 10))


@pytest.mark.parametrize("frame", [table(0), table()[[]]], ids=["rows", "columns"])
def test_a_table_of_nothing(frame):
    frame.to_parquet("empty.parquet", index=False)
    for stream in (False, True):
        with pytest.raises(DataError, match="one of each at least"):
            pv.data.load("empty.parquet", stream=stream)


def test_row_groups_that_are_too_large(path, monkeypatch):
    monkeypatch.setattr(rowgroups, "_HELD", 50 * 8 * 10)
    with pytest.raises(DataError, match=r"a row group of 50 rows.*row_group_size=5\)"):
        pv.data.load(path, stream=True)


def test_columns_that_cannot_be_modelled():
    frame = table()
    frame["id"] = [f"number {i}" for i in range(NUMBER)]
    frame.to_parquet("t.parquet", row_group_size=50)
    with pytest.raises(DataError, match="column id has 600 categories in 600 rows"):
        pv.data.load("t.parquet", stream=True)
    frame = table()
    frame.loc[420, "real"] = np.inf
    frame.to_parquet("t.parquet", row_group_size=50)
    with pytest.raises(DataError, match="column real holds infinite values, first in row 420"):
        pv.data.load("t.parquet", stream=True)
    with pytest.raises(DataError, match="labels='sort' is no column"):
        pv.data.load("t.parquet", labels="sort", stream=True)


@pytest.mark.slow
def test_on_the_command_line(path):
    """Streamed in training, and in what is done with the run afterwards."""
    small = ["--encoder.hidden_dims", "[4]", "--decoder.hidden_dims", "[4]"]
    command = ["train", "--data", path, "--stream", "true", "--epochs", "1", "--folder", "run", *small]
    assert main([*command, "--batch-size", "100"]) == 0
    data = pv.training.reopen("run").data
    assert isinstance(data.train.sources["x"], Streamed)
    assert list(data.columns) == list(table())
    assert main(["evaluate", "run", "--num-samples", "5"]) == 0
