"""Nothing grows: a process holds the same after more runs, as `benchmarks/soak.py` measures for longer."""

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def soak(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("soak")


@pytest.mark.slow  # it compiles, in a process for each kind
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_nothing_grows(soak, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["soak.py", "--steps", "1000", "--fits", "3", "--loads", "5"])
    assert soak.main() == 0
    *_, done, growth = capsys.readouterr().out.splitlines()
    assert done == "in 4 processes: eager 500, compiled 1,000, fits 3, loads 5"
    for kind in ("open files", "signals handled otherwise", "parameters in Pyro's store"):
        assert f"{kind} +0" in growth


def test_what_grows_is_told(soak, monkeypatch, capsys):
    """And so is an aim that was not reached."""
    before = {"resident MiB": 500.0, "open files": 9.0}

    def result(files, done):
        return lambda task: (task[0], done, 1.0, before, before | {"open files": files})

    monkeypatch.setattr("sys.argv", ["soak.py", "--steps", "40", "--fits", "1", "--loads", "1"])
    for files, done, code in ((9.0, 40, 0), (10.0, 40, 1), (9.0, 0, 1)):
        monkeypatch.setattr(soak, "alone", result(files, done))
        assert soak.main() == code
        assert f"open files +{files - 9:g}" in capsys.readouterr().out.splitlines()[-1]
