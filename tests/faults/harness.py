"""Runs that are killed, cut short, damaged and misplaced, over and over.

After each fault the run must go on to the bits of one that was not disturbed, or refuse clearly: nothing of
it is lost, nothing half-written, nothing silently wrong. Each trial is a child of this process, by fork.
"""

from __future__ import annotations

import collections
import hashlib
import inspect
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

import pyro_vae as pv
from pyro_vae.svi import SVI, NonFiniteLossError
from pyro_vae.training import Interrupted

from .shim import KINDS, Shim

SETTINGS = {"epochs": 3, "batch_size": 30, "patience": 50, "compile": False, "progress": False}
KNOWN = pv.training.Settings.documentation()
SETTINGS |= {name: value for name, value in {"save_every": 1, "keep": 2}.items() if name in KNOWN}
AUTO = inspect.signature(pv.fit).parameters["resume"].annotation != "bool"  # which was not there at first
CLEAR = (pv.checkpoint.CheckpointError, pv.registry.ConfigError, pv.data.DataError)


def digest(program: torch.nn.Module) -> str:
    found = hashlib.sha256()
    for name, value in sorted(program.state_dict().items()):
        found.update(name.encode() + value.numpy().tobytes())
    return found.hexdigest()


def make(seed: int = 0) -> pv.VAE:
    torch.manual_seed(seed)
    nets = {"encoder": pv.nets.mlp(4), "decoder": pv.nets.mlp(4)}
    return pv.VAE((4,), 1, likelihood=pv.likelihoods.Normal(scale="shared"), **nets)


def train(folder: Path, seed: int = 0, **changes: Any) -> str:
    """Starts a run or goes on with it, and returns the digest of its weights."""
    resume: Any = "auto" if AUTO else (folder / "config.yaml").exists()
    options = SETTINGS | {"resume": resume, "seed": seed} | changes
    return digest(pv.fit(make(seed), DATA, folder=folder, **options).program)


def start(folder: Path, **changes: Any) -> str:
    """Trains where there is to be no run yet."""
    return train(folder, **{"resume": False} | changes)


def load(folder: Path) -> str:
    return digest(pv.load(folder))


def children() -> None:
    """The data, in the parent of all trials."""
    global DATA
    torch.set_num_threads(1)
    torch.manual_seed(7)
    DATA = pv.data.load(torch.randn(80, 1) + 0.3 * torch.randn(80, 4))


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
        children()
        original, self.known = SVI.step, {}
        for seed in (0, 1):
            vae, seen = make(seed), set()

            def step(svi: Any, *args: Any, vae: Any = vae, seen: set[str] = seen) -> Any:
                result = original(svi, *args)
                seen.add(digest(vae))
                return result

            SVI.step = step  # type: ignore[method-assign]
            run = pv.fit(vae, DATA, folder=self.place / f"whole{seed}", **SETTINGS, seed=seed)
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

    def writes(self, each: int) -> None:
        """Every kind of fault at every call that writes; with ``each`` > 1, at one in so many."""
        folder = self.folder()
        total = child(counted, folder).told
        for kind in KINDS:
            for at in range(1 + self.random.randrange(each), total + 1, each):
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

    def report(self) -> str:
        table = collections.defaultdict(dict)
        for (scenario, ended), count in sorted(self.counts.items()):
            table[scenario][ended] = count
        lines = [f"{s:<28} {', '.join(f'{n} {ended}' for ended, n in e.items())}" for s, e in table.items()]
        total, wrong = sum(self.counts.values()), len(self.wrong)
        return "\n".join([*lines, f"{total} trials, {self.kills} kills, {wrong} wrong"])


def first_weights(seed: int) -> str:
    """Those from which a run starts, at the data's statistics."""
    found = []
    original = SVI.step

    def step(svi: Any, *args: Any) -> Any:
        found.append(digest(vae))
        return original(svi, *args)

    SVI.step = step  # type: ignore[method-assign]
    vae = make(seed)
    pv.fit(vae, DATA, **SETTINGS, seed=seed)
    return found[0]


def counted(folder: Path) -> int:
    shim = Shim(folder)
    shim.install()
    train(folder)
    return shim.count


def resumed(folder: Path) -> str:
    return digest(pv.resume(folder, data=DATA, progress=False).program)


def compared(folder: Path) -> list[Any]:
    options = {n: v for n, v in SETTINGS.items() if n != "patience"}
    found = pv.compare(
        DATA,
        guides=["Normal", "Laplace"],
        latent_dim=1,
        likelihood="Normal",
        num_samples=3,
        encoder="mlp(4)",
        decoder="mlp(4)",
        folder=folder,
        **options,
    )
    table = (folder / "comparison.csv").read_text()
    return [len(table.splitlines()), *(digest(program) for program in found.programs.values())]


def limited(job: Any, folder: Path) -> str:
    """A job that may take another gigabyte, and 20 seconds."""
    try:
        import resource

        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 2**30, size + 2**30))
    except (ImportError, FileNotFoundError):
        pass
    signal.signal(signal.SIGALRM, lambda *_: os._exit(1))
    signal.alarm(20)
    return job(folder)


def disturbed(folder: Path, at: int, act: Any) -> str:
    """A run in whose ``at``-th step something is done."""
    count, original = itertools.count(1), SVI.step

    def step(svi: Any, *args: Any) -> Any:
        if next(count) == at:
            act()
        return original(svi, *args)

    SVI.step = step  # type: ignore[method-assign]
    return train(folder)


def diverging(folder: Path, at: int) -> str:
    shim = Shim(folder)
    shim.install()

    def ruin() -> None:
        shim.kind, shim.at = "full", 1
        with torch.no_grad():
            for parameter in vae.parameters():
                parameter.fill_(float("nan"))

    count, original, vae = itertools.count(1), SVI.step, make()

    def step(svi: Any, *args: Any) -> Any:
        if next(count) == at:
            ruin()
        return original(svi, *args)

    SVI.step = step  # type: ignore[method-assign]
    options = {n: v for n, v in SETTINGS.items() if n not in ("save_every", "keep")}
    return digest(pv.fit(vae, DATA, folder=folder, **options).program)
