"""A process that gives inputs to their readers: "kind number" comes in, and what became of it goes out."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import pyro_vae as pv
from pyro_vae import checkpoint, models, registry
from pyro_vae.training.settings import Settings

from .mutate import mutate
from .seeds import KINDS, mnist_parts

try:
    import resource
except ImportError:  # which Windows lacks
    resource = None  # type: ignore[assignment]

MEMORY = 1.5 * 2**30
"""Bytes that one input may take."""
FIRED = Path("fired")
KINDS_OF_PARTS = (*registry.PARTS, "optimizer", "schedule", "loss", "model", "function")
OURS = (pv.data.DataError, registry.ConfigError, checkpoint.CheckpointError)


def make(kind: str, number: int, seeds: list[bytes]) -> bytes:
    """Input of a number: the seeds themselves, and then mutations of them."""
    if number < len(seeds):
        return seeds[number]
    chance = random.Random(f"{kind} {number}")
    return mutate(chance.choice(seeds), seeds, chance)


def _data(kind: str, content: bytes) -> None:
    path = Path(f"x.{kind}")
    path.write_bytes(content)
    _look(pv.data.load(path))


def _pictures(kind: str, content: bytes) -> None:
    folder = Path("pictures")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / f"a.{kind}").write_bytes(content)
    _look(pv.data.load(folder))


def _mnist(kind: str, content: bytes) -> None:
    folder = Path("mnist/MNIST/raw")
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "t10k"):
        for name, values in zip(("images-idx3", "labels-idx1"), mnist_parts(content), strict=True):
            (folder / f"{part}-{name}-ubyte").write_bytes(values)
    _look(pv.data.load("mnist", data_dir="mnist"))


def _look(data: Any) -> None:
    """Uses data that were read, which must then hold what they promise."""
    _ = repr(data), data._repr_html_()
    if data.columns is not None:
        x = data.train.batch(slice(0, 100))["x"]
        again = data.columns.encode(data.columns.decode(x)).to(x.dtype)
        assert torch.equal(again.nan_to_num(7e300), x.nan_to_num(7e300)), "columns come back changed"
    for split in (data.train, data.validation, data.test):
        for site, values in split.batch(slice(0, 100)).items():
            assert len(values) == min(100, len(split))
            assert tuple(values.shape[1:]) == split.event_shapes[site]
            assert not values.isinf().any(), f"{site} is infinite"


def _text(kind: str, content: bytes) -> None:
    of, _, text = content.decode("utf-8", "surrogateescape").partition("|")
    registry.plain(text)
    with contextlib.suppress(registry.ConfigError):
        registry.read("prior", registry.options(text, {"loc": text}))
    registry.read(of if of in KINDS_OF_PARTS else "prior", text)


def _config(kind: str, content: bytes) -> None:
    folder = _copy_of_run()
    (folder / "config.yaml").write_bytes(content)
    values = checkpoint.read_config(folder)
    checkpoint.options(pv.data.load, values)
    checkpoint.options(models.VAE, values)
    known = Settings.documentation()
    Settings.from_plain({name: value for name, value in values.items() if name in known})
    pv.load(folder)


def _weights(kind: str, content: bytes) -> None:
    folder = _copy_of_run()
    if kind == "checkpoint":
        (folder / "model.safetensors").unlink()
        (folder / "checkpoint.safetensors").write_bytes(content)
    else:
        (folder / "model.safetensors").write_bytes(content)
    program = pv.load(folder)
    program.generate(2)


def _copy_of_run() -> Path:
    folder = Path("copy")
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree("run", folder))


READERS: dict[str, Callable[[str, bytes], None]] = {
    **dict.fromkeys(("npy", "npz", "pt", "csv", "parquet"), _data),
    **dict.fromkeys(("png", "ppm"), _pictures),
    "idx": _mnist,
    "text": _text,
    "config": _config,
    **dict.fromkeys(("safetensors", "checkpoint"), _weights),
}


def outcome(kind: str, content: bytes, reader: Callable[[str, bytes], None]) -> tuple[str, str]:
    """What became of an input, and why: one of ``OUTCOMES`` but for a hang and a crash.

    An error that is not ours is raw; a message of ours of several lines, or of more than 2,000 characters, is
    unclear.
    """
    FIRED.unlink(missing_ok=True)
    before = _peak()
    try:
        reader(kind, content)
        found, why = "read", ""
    except OURS as error:
        why = str(error)
        found = "refused" if why and "\n" not in why and len(why) <= 2000 else "unclear"
    except BaseException as error:
        places = traceback.extract_tb(error.__traceback__)[-3:]
        where = " < ".join(f"{Path(p.filename).name}:{p.lineno}" for p in reversed(places))
        found, why = "raw", f"{type(error).__name__}: {error} ({where})"
    if _peak() - before > MEMORY:
        found = "memory"
    if FIRED.exists():
        found = "executed"
        sys.modules.pop("canary", None)
    return found, why[:300]


def _peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if resource else 0


def _limit() -> None:
    """No more address space than there is in use, and twice what an input may take."""
    if resource and Path("/proc/self/statm").exists():
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        most = int(used + 2 * MEMORY)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what readers print does not come between
    seeds: dict[str, list[bytes]] = {}
    for kind in sys.argv[1].split(","):
        torch.manual_seed(0)
        seeds[kind] = KINDS[kind]()
    sys.modules.pop("canary", None)
    _limit()
    for line in sys.stdin:
        kind, number = line.split()
        content = make(kind, int(number), seeds[kind])
        print(json.dumps(outcome(kind, content, READERS[kind])), file=answers, flush=True)


if __name__ == "__main__":
    main()
