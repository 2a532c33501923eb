"""Nothing grows: a process holds the same after more runs, as `benchmarks/soak.py` measures for longer."""

import importlib
import re
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.slow  # it compiles
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.filterwarnings("ignore")
def test_nothing_grows(monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    soak = importlib.import_module("soak")
    monkeypatch.setattr("sys.argv", ["soak.py", "--minutes", "0.02"])
    soak.main()
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split("  ")[0] for line in lines] == ["one eager run", "one compiled run", "runs and loads"]
    for line in lines:
        assert re.search(r"steps [1-9]\d*, epochs [1-9]", line), line
        for kind in ("open files", "signals handled otherwise", "parameters in Pyro's store"):
            assert f"{kind} +0" in line, line
        assert int(re.search(r"Python's objects ([+-]\d+)", line)[1]) < 5000, line
