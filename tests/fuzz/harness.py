"""Watches workers: an input that takes too long ends its worker, and so may one that the system ends."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

SECONDS = 20.0
"""That one input may take."""
OUTCOMES = ("refused", "read", "executed", "raw", "unclear", "memory", "hang", "crash")
FINE = ("refused", "read")
COMMAND = [sys.executable, "-m", "fuzz.worker"]
CANARY = """
from pathlib import Path
def fire(*args, **kwargs): Path("fired").touch()
fire()
class Net: __init__ = fire
"""


class Worker:
    """One process; used in a ``with``."""

    def __init__(self, kinds: Sequence[str], folder: Path):
        (folder / "canary.py").write_text(CANARY)
        tests = str(Path(__file__).resolve().parents[1])
        path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), tests, str(folder)]).strip(os.pathsep)
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        self.errors = open(folder / "stderr", "wb")  # noqa: SIM115
        self.process = subprocess.Popen(
            [*COMMAND, ",".join(kinds)],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
        )
        self.waits = 10 * SECONDS  # for the imports and the seeds

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()

    def ask(self, kind: str, number: int) -> tuple[str, str]:
        """What became of one input."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        with contextlib.suppress(BrokenPipeError):
            stdin.write(f"{kind} {number}\n".encode())
            stdin.flush()
        if not select.select([stdout], [], [], self.waits)[0]:
            return "hang", f"more than {self.waits:g} s"
        self.waits = SECONDS
        line = stdout.readline()
        if not line:
            return "crash", f"the process ended with {self.process.wait()}"
        found, why = json.loads(line)
        return found, why


def run(
    inputs: Iterator[tuple[str, int]], kinds: Sequence[str], until: float
) -> Iterator[tuple[str, int, str, str]]:
    """Kind, number, outcome and reason of each input, until they or the time are at an end.

    Args:
        inputs: kind and number of each.
        kinds: that are among them.
        until: as ``time.monotonic`` tells it.
    """
    with tempfile.TemporaryDirectory() as parent:
        for count in range(10**6):
            folder = Path(parent) / str(count)
            folder.mkdir()
            with Worker(kinds, folder) as worker:
                for kind, number in inputs:
                    found, why = worker.ask(kind, number)
                    yield kind, number, found, why
                    if time.monotonic() > until:
                        return
                    if found in ("hang", "crash", "memory"):
                        break  # this worker is of no more use
                else:
                    return


def table(counts: dict[str, Counter[str]]) -> str:
    """A line of counts for each kind, and their sum."""
    rows = [("kind", "tried", *OUTCOMES)]
    total: Counter[str] = Counter()
    for kind, count in counts.items():
        rows.append((kind, str(sum(count.values())), *(str(count[name]) for name in OUTCOMES)))
        total += count
    rows.append(("all", str(sum(total.values())), *(str(total[name]) for name in OUTCOMES)))
    return "\n".join("".join(f"{cell:>12}" for cell in row) for row in rows)
