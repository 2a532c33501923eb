"""Runs that are killed, cut short, damaged and misplaced, over and over.

After each fault the run must go on to the bits of one that was not disturbed, or refuse clearly: nothing of
it is lost, nothing half-written, nothing silently wrong. Each trial is a child of this process, by fork.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import pyro_vae as pv
from pyro_vae.svi import SVI, NonFiniteLossError
from pyro_vae.training import Interrupted

from .jobs import (
    SETTINGS,
    compared,
    counted,
    data,
    dated,
    digest,
    disturbed,
    diverging,
    first_weights,
    jumped,
    limited,
    load,
    make,
    resumed,
    start,
    train,
)
from .shim import KINDS, Shim

CLEAR = (pv.checkpoint.CheckpointError, pv.registry.ConfigError, pv.data.DataError)


@dataclass
class Outcome:
    """How a child ended: done, killed, refused, interrupted, nonfinite or wrong; with what it told."""

    kind: str
    told: Any = None


def child(
    job: Any, *args: Any, shim: Shim | None = None, after: float | None = None, signum: int = 9
) -> Outcome:
    """A job in a child, under a shim, or sent a signal after some seconds."""
    with tempfile.TemporaryDirectory() as scratch:
        result, errors = Path(scratch, "result"), Path(scratch, "errors")
        pid = os.fork()
        if pid == 0:
            _run(job, args, shim, result, errors)
        if after is not None:
            time.sleep(after)
            os.kill(pid, signum)
        end = time.monotonic() + 120
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            time.sleep(0.002)
            if time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return Outcome("wrong", "took more than two minutes")
        told = errors.read_text() if errors.exists() else ""  # where a signal came before it
        if "Traceback" in told and "Exception ignored" not in told:  # of a signal within a destructor
            return Outcome("wrong", told)
        return Outcome(*json.loads(result.read_text())) if result.exists() else Outcome("killed")


def _run(job: Any, args: Any, shim: Shim | None, result: Path, errors: Path) -> None:
    try:
        descriptor = os.open(errors, os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, 2)
        sys.stderr = os.fdopen(2, "w")
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        warnings.simplefilter("ignore")
        if shim:
            shim.install()
        try:
            told = "done", job(*args)
        except CLEAR as error:
            told = "refused", str(error)
        except OSError as error:
            told = ("refused" if error.filename else "wrong"), f"{type(error).__name__}: {error}"
        except NonFiniteLossError as error:
            told = "nonfinite", str(error)
        except Interrupted as error:
            told = "interrupted", str(error)
        except KeyboardInterrupt:
            told = "killed", None
        text = json.dumps(told)
        if shim:
            shim.kind = ""
        result.write_text(text)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(0)


@dataclass
class Faults:
    """Trials of every scenario, counted by how they ended."""

    random: random.Random
    place: Path
    counts: collections.Counter[tuple[str, str]] = field(default_factory=collections.Counter)
    kills: int = 0
    wrong: list[str] = field(default_factory=list)
    number: int = 0

    def __post_init__(self) -> None:
        original, self.known = SVI.step, {}
        for seed in (0, 1):
            vae, seen = make(seed), set()

            def step(svi: Any, *args: Any, vae: Any = vae, seen: set[str] = seen) -> Any:
                result = original(svi, *args)
                seen.add(digest(vae))
                return result

            SVI.step = step  # type: ignore[method-assign]
            run = pv.fit(vae, data(), folder=self.place / f"whole{seed}", **SETTINGS, seed=seed)
            SVI.step = original  # type: ignore[method-assign]
            seen.add(child(first_weights, seed).told)
            self.known[seed] = seen | {digest(run.program)}
        self.whole = {seed: load(self.place / f"whole{seed}") for seed in (0, 1)}

    def folder(self) -> Path:
        self.number += 1
        return self.place / f"run{self.number}"

    def note(self, scenario: str, right: bool, outcome: Outcome, about: str = "") -> None:
        ended = "same bits" if outcome.kind == "done" else outcome.kind
        self.counts[scenario, ended if right else "WRONG"] += 1
        if not right:
            self.wrong.append(f"{scenario}, {about}: {outcome.kind}, {str(outcome.told)[-300:]}")

    def check(self, scenario: str, folder: Path, about: str, last: Outcome | None = None) -> None:
        """Whether a run goes on to the bits of the undisturbed one, and what there is of it is its own."""
        config, wrong, what = folder / "config.yaml", last, ""
        if (last is None or last.kind != "wrong") and config.exists():
            before, wrong = config.read_bytes(), None
            refused, loaded = child(lambda: start(folder, lr=0.5)), child(load, folder)
            if refused.kind != "refused" or config.read_bytes() != before:
                wrong, what = refused, ", a run that was to be refused"
            elif loaded.told not in self.known[0]:
                wrong, what = loaded, ", loaded"
        if wrong is None or wrong.kind != "wrong":
            wrong = wrong if what else None
        outcome = wrong or child(train, folder)
        right = not wrong and outcome.told == self.whole[0] and child(load, folder).told == self.whole[0]
        rests = [name for name in os.listdir(folder) if name.endswith("tmp")] if folder.exists() else []
        self.note(scenario, right and not rests, outcome, about + what + (f", left {rests}" if rests else ""))
        shutil.rmtree(folder, ignore_errors=True)

    def writes(self) -> list[Callable[[], None]]:
        """A trial of every kind of fault at every call that writes."""
        total = child(counted, self.folder()).told
        return [
            functools.partial(self.write, kind, at, total) for kind in KINDS for at in range(1, total + 1)
        ]

    def write(self, kind: str, at: int, total: int) -> None:
        """A fault at one of the calls that write."""
        folder = self.folder()
        outcome = child(train, folder, shim=Shim(folder, kind, at))
        self.kills += kind in ("kill", "torn", "power")
        self.check(f"writes, {kind}", folder, f"at {at} of {total}", outcome)

    def again_and_again(self) -> None:
        """A run that is killed at one call after another, of its start and of each time it goes on."""
        folder = self.folder()
        for _ in range(self.random.randrange(5, 25)):
            kind = self.random.choice(("kill", "torn", "power"))
            outcome = child(train, folder, shim=Shim(folder, kind, self.random.randrange(1, 60)))
            self.kills += outcome.kind == "killed"
            if outcome.kind in ("wrong", "refused"):
                break
        self.check("killed again and again", folder, "", outcome)

    def moments(self) -> None:
        """Killed at random times, until it is done."""
        folder = self.folder()
        for _ in range(3):
            outcome = child(train, folder, after=self.random.uniform(0, 0.5))
            self.kills += outcome.kind == "killed"
            if outcome.kind in ("wrong", "refused"):
                break
        self.check("killed at a time", folder, "", outcome)

    def signals(self) -> None:
        """A signal at a random time."""
        folder = self.folder()
        signum = self.random.choice((signal.SIGINT, signal.SIGTERM, signal.SIGUSR1))
        outcome = child(train, folder, after=self.random.uniform(0.02, 0.4), signum=signum)
        self.check(f"signal {signum.name}", folder, "", outcome)

    def flips(self) -> None:
        """A bit of one of a run's files, of a finished run or one that is not."""
        folder = self.folder()
        shutil.copytree(self.place / "whole0", folder)
        if self.random.random() < 0.5:
            (folder / "model.safetensors").unlink()
        path = self.random.choice([*folder.glob("*.safetensors"), folder / "config.yaml"])
        content = bytearray(path.read_bytes())
        at = self.random.randrange(len(content))
        content[at] ^= 1 << self.random.randrange(8)
        path.write_bytes(content)
        for job in (load, train):
            outcome = child(job, folder)
            right = outcome.kind == "refused" or outcome.told == self.whole[0]
            if not right:
                break
        self.note("a bit flipped", right, outcome, f"byte {at} of {path.name}, {job.__name__}")
        shutil.rmtree(folder)

    def swaps(self) -> None:
        """A file of one run in the folder of another."""
        for name in ("checkpoint.safetensors", "model.safetensors", "config.yaml"):
            folder = self.folder()
            shutil.copytree(self.place / "whole0", folder)
            shutil.copy(self.place / "whole1" / name, folder / name)
            if name == "checkpoint.safetensors":
                (folder / "model.safetensors").unlink()
            outcome = child(load, folder)
            self.note("files of two runs", outcome.kind == "refused", outcome, name)
            shutil.rmtree(folder)

    def stale(self) -> None:
        """A new run where files of an older one are, killed: what is loaded is never the older."""
        folder = self.folder()
        shutil.copytree(self.place / "whole0", folder)
        (folder / "config.yaml").unlink()
        for name in ("history.csv", "log.txt", "start.safetensors", "checkpoint.safetensors"):
            if self.random.random() < 0.5:
                (folder / name).unlink(missing_ok=True)
        started = child(lambda: train(folder, 1), shim=Shim(folder, "kill", self.random.randrange(5, 120)))
        self.kills += started.kind == "killed"
        loaded = child(load, folder) if (folder / "config.yaml").exists() else started
        right = (
            loaded.kind == "refused"
            or loaded.told in self.known[1]
            or started.kind == loaded.kind == "killed"
        )
        self.note("a new run over an old one", right, loaded)
        shutil.rmtree(folder)

    def planted(self) -> None:
        """A link under the name of a temporary file is not written through."""
        folder, victim = self.folder(), self.place / "victim"
        folder.mkdir()
        victim.write_text("mine")
        for name in ("config.yaml", "checkpoint.safetensors", "model.safetensors", "history.csv"):
            (folder / f".{name}.tmp").symlink_to(victim)
        outcome = child(train, folder)
        right = victim.read_bytes() == b"mine" and (
            outcome.kind == "refused" or outcome.told == self.whole[0]
        )
        self.note("a planted link", right, outcome)
        victim.unlink()

    def diverges(self) -> None:
        """The loss that is not finite is told as that, also where the disk is full."""
        folder = self.folder()
        at = self.random.randrange(2, 7)
        outcome = child(diverging, folder, at)
        self.note("not finite, disk full", outcome.kind == "nonfinite", outcome, f"step {at}")
        shutil.rmtree(folder, ignore_errors=True)

    def moved(self) -> None:
        """A folder that is renamed, or loses its configuration, while it is trained."""
        folder, at = self.folder(), self.random.randrange(1, 7)
        outcome = child(disturbed, folder, at, lambda: folder.rename(f"{folder}-moved"))
        other = Path(f"{folder}-moved")
        self.check("folder renamed", other if other.exists() else folder, f"step {at}", outcome)
        if outcome.kind != "refused":
            self.note("folder renamed", False, outcome, f"step {at}, and nothing was told")
        folder = self.folder()
        outcome = child(disturbed, folder, at, lambda: (folder / "config.yaml").unlink(missing_ok=True))
        loaded = child(load, folder)
        right = outcome.kind == "refused" or loaded.told == self.whole[0]
        self.note("configuration removed", right, loaded, f"step {at}")

    def contents(self) -> None:
        """Files that were written as they should be and say what they should not."""
        source = self.place / "whole0"
        tensors, meta = pv.checkpoint.load_tensors(source / "checkpoint.safetensors")
        changes = [
            (name, value) for name in meta for value in (..., None, -1, [], {}, "x", 10**4000, 1e400, [[]])
        ]
        for name, value in self.random.sample(changes, 4):
            folder = self.folder()
            shutil.copytree(source, folder)
            (folder / "model.safetensors").unlink()
            wrong = {k: v for k, v in meta.items() if k != name} | ({} if value is ... else {name: value})
            pv.checkpoint.save_tensors(folder / "checkpoint.safetensors", tensors, wrong)
            self._contents("checkpoint's contents", folder, f"{name}={str(value)[:20]}")
        for name in self.random.sample([n for n in tensors if n.startswith(("model", "best", "rng"))], 1):
            folder = self.folder()
            shutil.copytree(source, folder)
            (folder / "model.safetensors").unlink()
            some = {k: v for k, v in tensors.items() if k != name}
            pv.checkpoint.save_tensors(folder / "checkpoint.safetensors", some, meta)
            self._contents("checkpoint's contents", folder, f"without {name}")
        bomb = "a: &a [x, x]\n" + "".join(
            f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in itertools.pairwise("abcdefghijklmnop")
        )
        texts = [
            "[" * 100_000,
            "a: &a [*a]",
            bomb,
            f"epochs: {'1' * 5000}",
            "epochs: 1\n" * 2,
            "x: " + "y" * 10**6,
        ]
        values = yaml.safe_load((source / "config.yaml").read_text())
        odd = [{name: value} for name in values for value in ([], {}, -1, "x", 10**18, 1e300)]
        odd.remove({"epochs": 10**18})  # that many are trained, as it says
        odd += [{"epochs": 10**4000}, {"latent_dim": 10**12}]
        for text in [
            *self.random.sample(texts, 3),
            *(yaml.safe_dump(values | own) for own in self.random.sample(odd, 3)),
        ]:
            folder = self.folder()
            shutil.copytree(source, folder)
            (folder / "config.yaml").write_text(text)
            self._contents("configuration's contents", folder, text[:20] + text[-60:])

    def _contents(self, scenario: str, folder: Path, about: str) -> None:
        for job in (load, resumed):
            outcome = child(limited, job, folder)
            right = outcome.kind == "refused" or outcome.told in self.known[0]
            if not right:
                break
        self.note(scenario, right, outcome, f"{about}, {job.__name__}")
        shutil.rmtree(folder)

    def compares(self) -> None:
        """A comparison that is killed, and called again."""
        if not hasattr(self, "compared"):
            self.compared = child(compared, self.place / "compared").told
        folder = self.folder()
        at = self.random.randrange(1, 250)
        outcome = child(compared, folder, shim=Shim(folder, "kill", at))
        self.kills += outcome.kind == "killed"
        outcome = child(compared, folder)
        self.note("compare, killed", outcome.told == self.compared, outcome, f"at {at}")
        shutil.rmtree(folder)

    def clocks(self) -> None:
        """The time of day, or the steady clock by which runs are limited, jumps by hours, and back.

        A limit of time is told by the steady clock alone, and a run that it stops goes on.
        """
        folder, clock = self.folder(), self.random.choice(("day", "steady"))
        hours = self.random.choice((-1, 1)) * self.random.uniform(1, 48)
        started = child(train, folder, shim=Shim(folder, "kill", self.random.randrange(5, 120)))
        self.kills += started.kind == "killed"
        dated(folder, -hours)
        stops = self.random.random() < 0.5
        outcome = child(jumped, folder, self.random.randrange(1, 4), clock, hours, stops)
        about = f"{clock}, {hours:.0f} hours, {'stopped' if stops else 'not stopped'}"
        ends = "interrupted" if stops or (clock == "steady" and hours > 0) else "done"
        if outcome.kind not in (ends, "done"):  # there may have been fewer steps
            self.note("a clock that jumps", False, outcome, about)
        self.check("a clock that jumps", folder, about, outcome)

    def filled(self) -> None:
        """A small disk that a run fills, until there is space: a real one where one can be mounted."""
        pages = self.random.randrange(1, 30)
        with self.disk(f"size={pages * 4096}") as (place, remount):
            folder = (place or self.place) / f"run{self.number}"
            shim = None if place else Shim(folder, "filled", pages * 4096)
            outcome = child(train, folder, shim=shim)
            remount("size=64M")
            self.check("a disk that fills", folder, f"{pages} pages{'' if place else ', shim'}", outcome)

    def readonly(self) -> None:
        """A disk that may only be read when a run is to go on: refused, and loaded all the same."""
        with self.disk("size=64M") as (place, remount):
            folder = (place or self.place) / f"run{self.number}"
            started = child(train, folder, shim=Shim(folder, "kill", self.random.randrange(5, 120)))
            self.kills += started.kind == "killed"
            remount("ro")
            outcome = child(train, folder, shim=None if place else Shim(folder, "readonly", 1))
            loaded = child(load, folder)
            clear = "Error" not in str(outcome.told)  # told in a sentence, not as the system does
            right = outcome.kind == "refused" and clear
            right = right and (loaded.told in self.known[0] or loaded.kind == "refused")
            self.note("a disk that is only read", right, outcome, f"loaded: {loaded.kind}")
            remount("rw")
            self.check("a disk that was only read", folder, "", outcome)

    @contextlib.contextmanager
    def disk(self, options: str) -> Iterator[tuple[Path | None, Callable[[str], object]]]:
        """A small file system, and what mounts it otherwise; None where none may be mounted."""
        place = self.folder()
        place.mkdir()

        def mount(options: str) -> bool:
            command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
            with contextlib.suppress(FileNotFoundError):
                return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0
            return False

        if not mount(options):
            yield None, lambda options: None
            return
        try:
            yield place, lambda options: mount(f"remount,{options}")
        finally:
            subprocess.run(["umount", str(place)], check=True)

    @property
    def scenarios(self) -> tuple[Callable[[], None], ...]:
        """Those that differ from time to time."""
        return (
            *(self.again_and_again, self.moments, self.signals, self.flips, self.stale, self.diverges),
            *(self.moved, self.contents, self.compares, self.planted),
            *(self.clocks, self.filled, self.readonly),
        )
