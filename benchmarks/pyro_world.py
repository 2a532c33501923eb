"""Pyro's own tests with this package's SVI, compiled, in the place of Pyro's.

    git clone --depth 1 --branch 1.9.2 https://github.com/pyro-ppl/pyro
    python benchmarks/pyro_world.py tests --pyro pyro

runs test files of Pyro twice, each test under one seed: as they are, and, of the tests that use an SVI, with
``pyro.infer.SVI`` and every imported name of it being ours with ``compile=True``. It prints, file by file,
how many tests pass with either, in how many all losses are equal, how many steps were compiled, and how many
were eager for what reasons; then each test that differs. One that fails with Pyro's SVI is not compared.

Pyro's tests learn for thousands of steps, which takes hours: ``--steps 120`` stops each after 120, whose
losses tell enough (the third check of a compiled step is at its 100th use). Many of the tests take a single
step, which is always eager: ``--repeat 2`` takes two of each. Compiling takes seconds: with ``--record`` what
is recorded of a step is run as it is, and only inductor's part of the work is left out. A test has
``--limit`` seconds; one that overruns is told as such, and not compared. What was found is kept in a folder,
test by test: another run, which should have the same options, goes on from there.

This file is also the plugin that pytest loads to replace the SVI.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FILES = (
    "tests/infer/test_inference.py",
    "tests/infer/test_valid_models.py",
    "tests/infer/test_autoguide.py",
    "tests/optim",
    "tests/integration_tests",
)
PASSED = ("passed", "xfailed", "stopped")
TOLERANCE = 1e-4
"""Of losses: they are in float64, but differences grow while a test learns."""
SETTING = "PYRO_WORLD"
"""The environment variable by which the plugin is told what to do, as JSON."""

Found = dict[str, dict[str, Any]]
"""Of each test: its outcome, seconds, the end of its error, its losses, and how its steps were taken."""


# The plugin: within the tests' process


class OutOfTime(BaseException):
    """Not an Exception, which the engine would take for a reason to go on eagerly."""


class Stopped(BaseException):
    """Of a test that has taken as many steps as are asked for."""


class Plugin:
    """Replaces the SVI, and writes down what becomes of each test.

    Args:
        ours: whether the SVI is ours.
        report: file that a line of JSON is added to for each test.
        limit: seconds for a test.
        steps: of a test, after which it is stopped; None for all.
        repeat: steps that are taken for each.
        record: whether what was recorded is run as it is.
        only: the tests to run, by their ids; None for all.
        done: those to leave out.
    """

    def __init__(
        self,
        ours: bool,
        report: str,
        limit: float,
        steps: int | None,
        repeat: int,
        record: bool,
        only: list[str] | None,
        done: list[str],
    ):
        self.report, self.limit, self.most, self.repeat = report, limit, steps, repeat
        self.only, self.done = only, set(done)
        import pyro.infer

        if record:
            from pyro_vae.engine import private

            private.inductor = lambda graph, inputs: graph

        stock = pyro.infer.SVI
        counting = self._counting(stock, ours)
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] == "pyro" and getattr(module, "SVI", None) is stock:
                module.SVI = counting

    def _counting(plugin, stock: Any, ours: bool) -> Any:  # noqa: N805
        """The SVI, writing down what it does."""
        if ours:
            from pyro_vae.svi import SVI
        else:
            SVI = stock  # noqa: N806

        class Counting(SVI):
            def __init__(self, *args: Any, **kwargs: Any):
                plugin.used = True
                self.how = "the first step"
                super().__init__(*args, **({"compile": True} if ours else {}), **kwargs)

            def step(self, *args: Any, **kwargs: Any) -> Any:
                return [self.once(*args, **kwargs) for _ in range(plugin.repeat)][-1]

            def once(self, *args: Any, **kwargs: Any) -> Any:
                if plugin.steps.total() == plugin.most:
                    raise Stopped
                if ours and self.compile and self.num_steps:
                    self.how = "compiled"
                try:
                    loss = super().step(*args, **kwargs)
                finally:
                    plugin.steps[self.how] += 1
                plugin.losses += map(float, loss if isinstance(loss, tuple) else (loss,))
                return loss

            def _give_up(self, reason: str, **options: Any) -> None:
                self.how = reason
                super()._give_up(reason, **options)

        return Counting

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [
            item
            for item in items
            if item.nodeid not in self.done and (self.only is None or item.nodeid in self.only)
        ]

    def pytest_runtest_protocol(self) -> None:
        """At the start of each test, which then is as random whichever others are run."""
        import pyro

        pyro.set_rng_seed(0)
        self.used = False
        self.steps: Counter[str] = Counter()
        self.losses: list[float] = []
        self.outcome, self.error, self.seconds = "passed", "", 0.0

        def stop(*_: Any) -> None:
            raise OutOfTime

        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, self.limit)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds += report.duration
        if report.when == "call":
            signal.setitimer(signal.ITIMER_REAL, 0)
        if report.outcome != "passed":
            self.outcome = "xfailed" if hasattr(report, "wasxfail") else report.outcome
            crash = getattr(report.longrepr, "reprcrash", None)
            self.error = crash.message.splitlines()[0] if crash else str(report.longrepr)[-200:]
            for kind, outcome in ((OutOfTime, "out of time"), (Stopped, "stopped")):
                if kind.__name__ in self.error:
                    self.outcome, self.error = outcome, ""

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        line = {"test": nodeid, "outcome": self.outcome, "seconds": round(self.seconds, 2)}
        line |= {"error": self.error, "used": self.used, "steps": self.steps, "losses": self.losses}
        with open(self.report, "a") as file:
            file.write(json.dumps(line) + "\n")


def pytest_configure(config: Any) -> None:
    config.pluginmanager.register(Plugin(**json.loads(os.environ[SETTING])))


# The command


def run(pyro: Path, file: str, chosen: Iterable[str], report: Path, **settings: Any) -> Found:
    """Runs the tests of a file or folder that are not in the report yet, and returns all that are."""
    done = read(report)
    settings |= {"report": str(report.resolve()), "done": list(done)}
    if settings["only"] is not None and not set(settings["only"]) - done.keys():
        return done
    here = Path(__file__).resolve().parent
    path = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    # Tracebacks as Python prints them: those of a test that is stopped may lack what pytest looks for.
    quiet = ["-q", "--no-header", "--tb=native", "-p", "no:cacheprovider"]
    # Pyro's tests take warnings for errors: of ours, the one that a step is eager is what is counted here.
    quiet += ["-W", "ignore::pyro_vae.svi.CompilationWarning"]
    environment = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", SETTING: json.dumps(settings)}
    with open(report.with_suffix(".txt"), "w") as log:
        subprocess.run(
            [sys.executable, "-m", "pytest", "-p", Path(__file__).stem, *quiet, file, *chosen],
            cwd=pyro,
            env=os.environ | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    return read(report)


def read(report: Path) -> Found:
    if not report.exists():
        return {}
    lines = map(json.loads, report.read_text().splitlines())
    return {line.pop("test"): line for line in lines}


def passed(found: Found) -> int:
    return sum(test["outcome"] in PASSED for test in found.values())


def kinds(found: Found) -> Counter[str]:
    """How many steps were taken how; reasons without what differs from test to test."""
    total: Counter[str] = Counter()
    for test in found.values():
        for how, number in test["steps"].items():
            total[re.sub(r"(?<![\w.])\d[\d.e+-]*\b|0x\w+", "#", how)[:250]] += number
    return total


def difference(stock: dict[str, Any], ours: dict[str, Any]) -> str | None:
    """In what a test differs, if it passes with Pyro's SVI."""
    if stock["outcome"] not in PASSED:
        return None
    if stock["outcome"] != ours["outcome"]:
        return f"{stock['outcome']} with Pyro's, {ours['outcome']} with ours: {ours['error'][:300]}"
    pairs = list(zip(stock["losses"], ours["losses"], strict=False))
    if len(stock["losses"]) != len(ours["losses"]):
        return f"{len(stock['losses'])} losses with Pyro's, {len(ours['losses'])} with ours"
    for i, (a, b) in enumerate(pairs):
        if not (a == b or math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)):
            return f"in step {i + 1} of {len(pairs)} the loss is {a:.6g} with Pyro's, {b:.6g} with ours"
    return None


def tests(given: argparse.Namespace) -> None:
    """Prints the table, then what differs."""
    header = ["file", "tests", "use SVI", "pass, Pyro's", "pass, ours", "pass with ours alone"]
    header += [
        "compiled and equal",
        "eager and equal",
        "differ",
        "out of time",
        "compiled steps",
        "eager steps",
    ]
    header += ["s, Pyro's", "s, ours"]
    print(f"| {' | '.join(header)} |\n| --- |{' ---: |' * (len(header) - 1)}")
    reasons: Counter[str] = Counter()
    differ: list[str] = []
    given.folder.mkdir(parents=True, exist_ok=True)
    chosen = ["-k", given.k] if given.k else []
    for file in given.only or FILES:
        reports = [
            given.folder / f"{file.replace('/', '-').removesuffix('.py')}-{who}.jsonl"
            for who in ("pyro", "ours")
        ]
        options = {name: getattr(given, name) for name in ("limit", "steps", "repeat", "record")}
        everything = run(given.pyro, file, chosen, reports[0], ours=False, only=None, **options)
        stock = {name: test for name, test in everything.items() if test["used"]}
        ours = run(given.pyro, file, chosen, reports[1], ours=True, only=list(stock), **options)
        compared = {
            name: difference(stock[name], ours[name])
            for name in stock.keys() & ours.keys()
            if "out of time" not in (stock[name]["outcome"], ours[name]["outcome"])
        }
        differ += [f"- `{name}`: {text}" for name, text in sorted(compared.items()) if text]
        known = [name for name in compared if stock[name]["outcome"] in PASSED]
        gained = passed({name: ours[name] for name in compared.keys() - set(known)})
        equal = Counter("compiled" in ours[name]["steps"] for name in known if not compared[name])
        steps = kinds(ours)
        compiled = steps.pop("compiled", 0)
        reasons += steps
        seconds = [sum(found[name]["seconds"] for name in compared) for found in (stock, ours)]
        cells: list[Any] = [file, len(everything), len(stock), passed(stock), passed(ours)]
        cells += [gained, equal[True], equal[False], len(known) - equal.total(), len(stock) - len(compared)]
        cells += [compiled, steps.total(), *(f"{s:.0f}" for s in seconds)]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
    print("\n| eager steps | because |\n| ---: | --- |")
    for reason, number in reasons.most_common():
        print(f"| {number} | {reason} |")
    print("\n".join(["\nThose that differ:\n", *differ] if differ else ["\nNone differs."]))


def main() -> None:
    """Runs the tests and prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["tests"])
    parser.add_argument("--pyro", type=Path, required=True, help="a checkout of pyro-ppl/pyro")
    parser.add_argument("--only", nargs="+", help="test files or folders, from the checkout's root")
    parser.add_argument("-k", help="as pytest's: which tests of them")
    parser.add_argument("--steps", type=int, help="of a test, after which it is stopped")
    parser.add_argument("--repeat", type=int, default=1, help="steps to take for each of a test")
    parser.add_argument("--record", action="store_true", help="record the steps, but do not compile them")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for a test")
    parser.add_argument("--folder", type=Path, default=Path("runs/pyro_world"), help="for what was found")
    given = parser.parse_args()
    began = time.monotonic()
    tests(given)
    print(f"\n{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
