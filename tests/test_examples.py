"""Each example runs, and the README lists it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_runs(path, tmp_path):
    assert f"examples/{path.name}" in (ROOT / "README.md").read_text(), f"list {path.name} in the README"
    command = [sys.executable, str(path), "--epochs", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "ELBO" in done.stdout or "log p(x)" in done.stdout


def test_there_are_examples():
    assert EXAMPLES
