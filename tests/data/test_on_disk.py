"""What is read as it is needed: ahead, in turn, within bounds of memory, and with the same bits."""

import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_vae.data import source as sources
from pyro_vae.data import split as splits
from pyro_vae.data.source import OnDisk
from pyro_vae.data.split import Split


class Rows(OnDisk):
    """The numbers of rows, and who read which."""

    dtype, path = np.dtype("f8"), "rows"

    def __init__(self, number, fails=None):
        self.shape, self.fails, self.read_by = (number, 1), fails, []

    def read(self, rows):
        self.read_by.append((threading.current_thread().name, len(rows)))
        if self.fails in rows:
            raise OSError("the disk is gone")
        return rows[:, None].astype(float)


class TestReadingAhead:
    def test_values_come_in_turn(self):
        source = Rows(1000)
        split = Split({"x": source, "y": torch.arange(1000)})
        order = split.shuffled(1)
        assert torch.equal(order, torch.randperm(1000, generator=torch.Generator().manual_seed(1)))
        batches = list(split.batches(30, order, start=3))
        assert torch.cat([batch["x"][:, 0].long() for batch in batches]).equal(order[90:])
        assert torch.cat([batch["y"] for batch in batches]).equal(order[90:])
        assert {name.rpartition("_")[0] for name, _ in source.read_by} == {"read ahead"}

    def test_it_is_bounded_and_ends(self, monkeypatch):
        source = Rows(10_000)
        monkeypatch.setattr(splits, "AHEAD", 10 * 4 * 20)  # twenty batches of ten single numbers
        batches = Split(source).batches(10)
        next(batches)
        time.sleep(0.2)
        assert 2 < len(source.read_by) <= 21
        batches.close()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("read ahead")]

    def test_what_fails_fails_in_its_turn(self):
        batches = Split(Rows(100, fails=35)).batches(10)
        for _ in range(3):
            next(batches)
        with pytest.raises(OSError, match="the disk is gone"):
            next(batches)

    def test_nothing_is_read_ahead_of_what_is_in_memory(self):
        drawn = []
        indices = (drawn.append(i) or torch.tensor([i]) for i in range(10))
        next(Split(torch.rand(10, 2)).ahead(indices))
        assert drawn == [0]


class Volumes(OnDisk):
    """Zeros and ones in large pieces, and how many were read at a time."""

    dtype, path = np.dtype("u1"), "volumes"

    def __init__(self, number, side):
        self.shape, self.numbers = (number, side, side, side), []

    def read(self, rows):
        self.numbers.append(len(rows))
        return np.ones((len(rows), *self.shape[1:]), "u1") * (rows % 2).astype("u1")[:, None, None, None]


class TestLargeData:
    def test_few_are_looked_at_at_a_time(self):
        source = Volumes(300, 32)
        split = Split(source)
        assert split.moments()[0].unique().tolist() == [0.5]
        for _ in source.sample(np.arange(300)):
            pass
        assert max(source.numbers) * 8 * 32**3 <= sources.LOOKED_AT
        assert sum(source.numbers) == 600

    def test_few_are_examples(self, monkeypatch):
        monkeypatch.setattr(splits, "EXAMPLES", 4 * 32**3 * 20)
        assert Split(Volumes(300, 32)).examples["x"].shape == (20, 32, 32, 32)
        monkeypatch.setattr(splits, "EXAMPLES", 1)
        assert len(Split(Volumes(300, 8)).examples["x"]) == 16

    def test_the_next_batch_alone_is_read_ahead_of_large_ones(self, monkeypatch):
        monkeypatch.setattr(splits, "MOST_AHEAD", 4 * 16**3 * 10)
        source = Volumes(300, 16)
        batches = Split(source).batches(10)
        next(batches)
        time.sleep(0.2)
        assert len(source.numbers) == 2
        batches.close()


PEAK = """
import re, sys
import torch
import pyro_vae as pv
from pyro_vae.data import mapped, rowgroups, split

mapped._MAPPED = rowgroups._HELD = split.AHEAD = 2**25
torch.set_num_threads(1)
for path in sys.argv[2:]:
    data = pv.data.load(path, stream=sys.argv[1] == "True")
    data.train.moments()
    for batch in data.train.batches(256, data.train.shuffled(0)):
        batch["x"].sum()
    print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 2**10)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_memory():
    """Each takes 400 MB in memory, and from disk no more than buffers, some rows and row groups."""
    for name, number in (("first.parquet", 2), ("t.parquet", 1000)):
        parts = {f"c{i}": np.tile(np.linspace(0.0, 1.0 + i, number), 1000) for i in range(50)}
        pd.DataFrame(parts).to_parquet(name, row_group_size=20_000)
    x = np.lib.format.open_memmap("x.npy", "w+", np.float32, (200_000, 512))  # which is holes on the disk
    x[::100] = np.random.default_rng(0).normal(size=512)
    del x
    command = [sys.executable, "-c", PEAK, "True", "first.parquet", "t.parquet", "x.npy"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    first, *peaks = map(float, run.stdout.split())  # which loads PyTorch and pyarrow
    assert max(peaks) < first + 350, peaks  # of one that is read whole it is 800 or more
