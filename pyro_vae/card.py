"""A run's README.md, as model hubs read it: what it is, its data, its numbers, how to load it."""

from __future__ import annotations

import csv
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pyro_vae import checkpoint
from pyro_vae.program import Program

README = "README.md"
MARK = "# Written by pyro_vae when training ends; take this line out, and it is left as it is."
NUMBERS = {
    "validation_elbo": "ELBO of validation data",
    "elbo": "ELBO of training data, in epoch {epoch:g}",
}


def write(folder: Path, values: Mapping[str, Any], program: Program, *measured: str) -> None:
    """Writes a run's README.md, unless there is one that was not written here.

    Args:
        folder: of the run.
        values: its configuration.
        program: what it trained.
        measured: further numbers in words, each with its measure and number of samples.
    """
    path = folder / README
    if path.is_file():
        with path.open("rb") as file:
            if MARK.encode() not in file.read(200):
                return
    checkpoint.write(path, text(folder, values, program, *measured).encode())


def text(folder: Path, values: Mapping[str, Any], program: Program, *measured: str) -> str:
    """The text of it: metadata as YAML, then Markdown. Nothing of it is ever executed.

    Numbers of training are those of the epoch whose weights were kept. Names, which may be anybody's, stay in
    their line and are shown as they are, whatever they mean to YAML, Markdown or HTML.
    """
    kind, name = type(program).__name__, folder.resolve().name
    data = _line(Path(str(values.get("data") or "data of one's own")).name)
    row = _kept(folder / checkpoint.HISTORY, values)
    figures = {label.format(**row): row[key] for key, label in NUMBERS.items() if key in row}
    about = {
        "library_name": "pyro_vae",
        "license": "unknown",
        "tags": ["pyro_vae", "pyro", "variational-autoencoder", "bayesian-inference", kind],
        "datasets": [data],
        "metrics": ["elbo"],
        "model-index": [
            {
                "name": _line(name),
                "results": [
                    {
                        "task": {"type": "density-estimation"},
                        "dataset": {"name": data, "type": data},
                        "metrics": [
                            {"type": "elbo", "name": f"{label}, nats per datum", "value": value}
                            for label, value in figures.items()
                        ],
                    }
                ],
            }
        ],
    }
    unit = f"nats per datum, densities w.r.t. {_measure(program)}"
    told = [f"{label}: {value:.2f} {unit}" for label, value in figures.items()]
    parts = {key: value for key, value in values.items() if key != "run"}
    return "\n".join(
        [
            "---",
            MARK,
            "# The license is yours to choose.",
            yaml.safe_dump(about, sort_keys=False, allow_unicode=True, width=10_000).rstrip(),
            "---",
            "",
            f"# {_shown(name)}: a {kind} of {_shown(data)}",
            "",
            (inspect.getdoc(type(program)) or kind).split("\n")[0],
            "",
            "## Numbers",
            "",
            *(f"- {_shown(one)}" for one in [*told, *measured] or ["none yet"]),
            "",
            "A bound compares with that of another model of the same data, measured alike. How far it lies",
            "below log p(x), and whether it is to be trusted, `pyro-vae report` of this folder tells.",
            "",
            "## What it is made of",
            "",
            "```yaml",
            yaml.safe_dump(parts, sort_keys=False, allow_unicode=True).rstrip().replace("```", "'''"),
            "```",
            "",
            "## How to load it",
            "",
            "```python",
            "import pyro_vae as pv",
            "",
            f"program = pv.load({name!r})  # the folder that this file is in",
            "draws = program.generate(10)",
            "```",
            "",
        ]
    )


def _line(text: str) -> str:
    """A text in one line, of what can be seen."""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())


def _shown(text: str) -> str:
    """A text in one line of Markdown, which shows it as it is."""
    return re.sub(r"([\\`*_\[\]<>&|~$])", r"\\\1", _line(text))


def _kept(path: Path, values: Mapping[str, Any]) -> dict[str, float]:
    """The figures of the epoch whose weights were kept: with patience the best one, else the last."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    if values.get("patience") is not None:  # as training has it, the first of those that are equal
        late = [row for row in rows if row["epoch"] > (values.get("warmup_epochs") or 0)]
        if late:
            return max(late, key=lambda row: row["validation_elbo"])
    return rows[-1] if rows else {}


def _measure(program: Program) -> str:
    """What the densities of its data are densities of."""
    measures = {c.family.measure for c in program.conditionals() if c.site in program.event_shapes}
    return " and ".join(sorted(measures)) or "the measure of its likelihood"
