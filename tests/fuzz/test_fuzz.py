"""The short form of the fuzzing, and that its harness sees what it looks for."""

import importlib
import io
import itertools
import pickle
import random
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
import yaml
from PIL import Image

import pyro_vae as pv
from fuzz import worker
from fuzz.harness import CANARY, FINE, Worker, run, table
from fuzz.mutate import mutate
from fuzz.seeds import KINDS
from pyro_vae.data import DataError

OWN = ("npy", "npz", "pt", "csv", "parquet", "png", "ppm", "idx", "text")
"""Kinds that are read by the data and the registry alone."""


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """The module that tells when it is imported or called, as workers have it."""
    Path("canary.py").write_text(CANARY)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("canary", None)


def test_what_is_damaged_or_evil_is_refused():
    numbers = itertools.chain(
        range(12), range(100, 125)
    )  # the seeds, which hold the evil ones, and some more
    inputs = ((kind, number) for number in numbers for kind in OWN)
    counts = {kind: Counter() for kind in OWN}
    wrong = []
    for kind, number, found, why in run(inputs, OWN, time.monotonic() + 60):
        counts[kind][found] += 1
        if found not in FINE:
            wrong.append(f"{kind} {number}: {found}: {why}")
    assert not wrong, table(counts)
    assert all(count["read"] and count["refused"] for count in counts.values()), table(counts)


@pytest.mark.slow
def test_runs_that_are_damaged_or_evil_are_refused_without_running_code():
    kinds = ("config", "safetensors", "checkpoint")
    inputs = ((kind, number) for number in range(60) for kind in kinds)
    found = Counter(outcome for _, _, outcome, _ in run(inputs, kinds, time.monotonic() + 120))
    assert found["refused"]
    assert found["read"]
    assert not found["executed"] + found["hang"] + found["crash"] + found["memory"]


def test_inputs_are_functions_of_their_number(canary):
    for kind in ("npy", "png", "text"):
        seeds = KINDS[kind]()
        inputs = [worker.make(kind, number, seeds) for number in range(60)]
        assert inputs == [worker.make(kind, number, seeds) for number in range(60)]
        assert len(set(inputs)) > 50


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_mutations_get_past_checksums():
    file = io.BytesIO()
    np.savez(file, x=np.zeros((20, 3)), y=np.arange(20))
    whole = 0
    for number in range(100):
        changed = io.BytesIO(mutate(file.getvalue(), [file.getvalue()], random.Random(number)))
        if zipfile.is_zipfile(changed):
            with zipfile.ZipFile(changed) as archive:
                try:
                    whole += archive.testzip() is None and archive.namelist() != []
                except Exception:
                    continue
    assert whole > 40


@pytest.mark.filterwarnings("ignore")
class TestHarness:
    """Readers that are wrong on purpose are found out."""

    @pytest.mark.parametrize(
        ("kind", "reader"),
        [
            ("npy", lambda content: np.load(io.BytesIO(content), allow_pickle=True)),
            ("npz", lambda content: np.load(io.BytesIO(content), allow_pickle=True)["x"]),
            ("pt", lambda content: torch.load(io.BytesIO(content), weights_only=False)),
            ("text", lambda content: eval(content.partition(b"|")[2])),
        ],
        ids=["npy", "npz", "pt", "text"],
    )
    def test_code_that_is_run_is_seen(self, kind, reader, canary):
        seeds = [seed for seed in KINDS[kind]() if len(seed) < 2**20]  # without what takes 2 GiB
        sys.modules.pop("canary", None)
        found = [worker.outcome(kind, seed, lambda kind, content: reader(content))[0] for seed in seeds]
        assert "executed" in found
        found = [worker.outcome(kind, seed, worker.READERS[kind])[0] for seed in seeds]
        assert set(found) <= set(FINE)

    def test_yaml_that_is_run_is_seen(self, canary):
        text = b"model: !!python/object/apply:canary.fire []\n"
        assert worker.outcome("config", text, lambda _, content: yaml.unsafe_load(content))[0] == "executed"

    def test_other_outcomes(self):
        def raises(error):
            def reader(kind, content):
                raise error

            return worker.outcome("npy", b"", reader)

        assert raises(DataError("x is empty; give some")) == ("refused", "x is empty; give some")
        assert raises(DataError("two\nlines"))[0] == raises(DataError(""))[0] == "unclear"
        assert raises(ValueError("x"))[0] == raises(SystemExit())[0] == raises(MemoryError())[0] == "raw"
        assert worker.outcome("npy", b"", lambda *_: None) == ("read", "")

    @pytest.mark.parametrize(
        ("code", "outcome"),
        [("import time; time.sleep(60)", "hang"), ("import os; os.abort()", "crash")],
    )
    def test_what_ends_a_worker(self, code, outcome, tmp_path, monkeypatch):
        """A worker whose process hangs or dies, as a reader's native code may."""
        monkeypatch.setattr("fuzz.harness.COMMAND", [sys.executable, "-c", code])
        with Worker(["npy"], tmp_path) as one:
            one.waits = 1.0
            assert one.ask("npy", 0)[0] == outcome

    def test_pickles_of_the_seeds_are_evil(self, canary):
        from fuzz.seeds import Evil, Shell

        for cls in (Evil, Shell):
            content = pickle.dumps(cls())
            worker.FIRED.unlink(missing_ok=True)
            pickle.loads(content)
            assert worker.FIRED.exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [(KINDS["png"]()[-1], "no readable image"), (KINDS["png"]()[0], "no character of 105x105")],
    ids=["PostScript", "small"],
)
def test_omniglot_is_read_as_folders_are(content, told, monkeypatch):
    class Fake(list):
        """As torchvision reads it: each image by ``loader``, else by Pillow, whatever its format."""

        def __init__(self, root, download, background):
            super().__init__([0] * 3)
            self.loader, self.background = None, background

        def __iter__(self):
            yield (self.loader or Image.open)("a.png"), 7

    Path("a.png").write_bytes(content)
    monkeypatch.setattr(torchvision.datasets, "Omniglot", Fake)
    with pytest.raises(DataError, match=f"a.png .*{told}"):
        pv.data.load("omniglot", data_dir="x")
    assert not worker.FIRED.exists()


@pytest.mark.slow
def test_workers_share_the_inputs(monkeypatch, capsys):
    """Each input is given to one of them, and the table is that of one worker."""
    tables = []
    for jobs in ("1", "3"):
        monkeypatch.setattr(
            "sys.argv", ["fuzz", "--kinds", "npy", "text", "--number", "20", "--start", "3", "--jobs", jobs]
        )
        assert importlib.import_module("fuzz.__main__").main() == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1]
    assert tables[0].splitlines()[-1].split()[:2] == ["all", "40"]
