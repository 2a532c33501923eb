"""The questions that the page may ask, in JSON, and their answers."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import Count, Whole, check
from pyro_vae.evaluate.probes import continuous
from pyro_vae.explore.learner import BATCH, RATE, Learner
from pyro_vae.explore.scene import Plane, Scene, rounded
from pyro_vae.explore.subjects import Entry
from pyro_vae.explore.switches import UNOBSERVED
from pyro_vae.program import Batch

MOST_PICTURES, MOST_STEPS = 64, 200
"""Decoded at once, and taken at once."""
KEPT = 8
"""Runs in memory."""
SHOWN = 300
"""Draws of a prior or a posterior that are shown, at most."""


class Answers:
    """Answers on the runs of a menu, and on a copy of one that learns.

    Args:
        entries: the runs.
        site: of the latents that are shown; None for each run's own default.
    """

    def __init__(self, entries: Sequence[Entry], site: str | None = None):
        self.entries, self.site = entries, site
        self.scenes: dict[int, Scene] = {}
        self.learner: Learner | None = None
        self.learning: Scene | None = None
        self.scene({"run": 0})

    @property
    def by_name(self) -> dict[str, Callable[[Mapping[str, Any]], Any]]:
        """All questions."""
        return {
            "state": self.state,
            "datum": self.datum,
            "decode": self.decode,
            "prior": self.prior,
            "infer": self.infer,
            "posterior": self.posterior,
            "learn": self.learn,
        }

    def scene(self, asked: Mapping[str, Any]) -> Scene:
        """That which is asked of: a run, or the copy that learns."""
        if asked.get("learning") and self.learning is not None:
            return self.learning
        run = check("run", asked.get("run"), Whole)
        if run >= len(self.entries):
            raise ValueError(f"run={run} is none of the {len(self.entries)}")
        if run not in self.scenes:
            if len(self.scenes) >= KEPT:
                self.scenes.pop(next(iter(self.scenes)))
            self.scenes[run] = Scene(self.entries[run].read(), self.site)
        return self.scenes[run]

    def state(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """All that the page has to know of a run before it asks more."""
        scene = self.scene(asked)
        return {"runs": [{"name": e.name, "parts": e.parts} for e in self.entries]} | described(scene)

    def datum(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """A datum by its number."""
        scene, number = self.scene(asked), check("number", asked.get("number"), Whole)
        if number >= len(scene.data):
            raise ValueError(f"number={number} is none of the {len(scene.data)} data")
        values = scene.batch([number])
        return {"datum": {name: rounded(value.reshape(-1), 7) for name, value in values.items()}}

    def decode(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The centres of p(x|z) at some points."""
        scene = self.scene(asked)
        u = _points(asked.get("u"), scene.dim)
        states = _states(asked.get("states"), scene, len(u))
        return {"pictures": pictures(scene, scene.decode(u, _datum(scene, asked), states))}

    def prior(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Draws of the latents from the model itself, which is given what a datum has."""
        scene = self.scene(asked)
        draws, states = scene.draw(SHOWN, _datum(scene, asked))
        return {"draws": rounded(draws, 4), "states": states.tolist()}

    def infer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What the encoder says of a datum, on a plane."""
        scene = self.scene(asked)
        found = scene.infer(_datum(scene, asked), _plane(scene, asked))
        made = {name: found[name] for name in ("elbo", "fit", "kl")}
        return {name: value if math.isfinite(value) else None for name, value in made.items()} | {
            "mean": rounded(found["mean"]),
            "scale": rounded(found["scale"]),
            "covariance": rounded(found["covariance"]),
            "reconstruction": pictures(scene, found["reconstruction"])[0],
            "likely": [rounded(levels, 4) for levels in found["likely"]],
            "now": found["now"].tolist(),
        }

    def posterior(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The true posterior of a datum, on a plane."""
        scene, plane = self.scene(asked), _plane(self.scene(asked), asked)
        found = scene.posterior(_datum(scene, asked), plane)
        origin, directions = scene.plane(plane)
        grid, completion = found["grid"], found["completion"]
        own = None
        if grid is not None:
            density = (grid.log_p - grid.log_p.max()).exp()
            own = {
                "low": rounded(grid.low),
                "high": rounded(grid.high),
                "density": encoded(density),
                "side": len(density),
            }
        evidence = found["evidence"]
        return {
            "grid": own,
            "evidence": evidence if evidence is not None and math.isfinite(evidence) else None,
            "likely": [rounded(levels, 4) for levels in found["likely"]],
            "draws": rounded((found["draws"][:SHOWN] - origin) @ directions.T, 4),
            "effective": round(found["effective"], 1),
            "moved": found["moved"],
            "completion": None if completion is None else pictures(scene, completion)[0],
        }

    def learn(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Begins to learn on a copy, ``anew`` or from where a run stands; or takes ``steps``."""
        if "anew" in asked:
            scene = self.scene({"run": asked.get("run")})
            subject, anew = scene.subject, check("anew", asked["anew"], bool)
            self.learner = Learner(subject.program, subject.train, subject.data, anew)
            self.learning = Scene(replace(subject, program=self.learner.program), scene.site)
        if self.learner is None or self.learning is None:
            raise ValueError("nothing learns yet; begin anew, or go on from the run")
        if "steps" in asked:
            steps = check("steps", asked["steps"], Count)
            self.learner.step(min(steps, MOST_STEPS))
            self.learning.update()
        row = {
            name: value if math.isfinite(value) else None for name, value in self.learner.history[-1].items()
        }
        return {
            "row": row,
            "codes": rounded(self.learning.codes, 4),
            "latents": self.learning.latents,
            "switches": switched(self.learning),
            "origin": rounded(self.learning.origin),
            "directions": rounded(self.learning.directions),
            "told": f"{self.learner.told}, Adam, {RATE:g}, batches of {BATCH}",
        }


def described(scene: Scene) -> dict[str, Any]:
    """What a page shows of a scene, without asking."""
    program, data = scene.program, scene.data
    labels = data.labels
    labels = None if labels is None or labels.dim() != 1 else labels.cpu()
    numbers = labels is not None and continuous(labels)
    columns = program.columns.of if program.columns is not None else {}
    return {
        "title": ", ".join(dict.fromkeys([type(program).__name__, scene.subject.name])),
        "site": scene.site,
        "densities": scene.densities,
        "mapped": scene.mapped,
        "dim": scene.dim,
        "codes": rounded(scene.codes, 4),
        "labels": None if labels is None else rounded(labels.double()),
        "numbers": numbers,
        "classes": data.class_names,
        "latents": scene.latents,
        "switches": switched(scene),
        "weights": bool(program.bayesian),
        "origin": rounded(scene.origin),
        "directions": rounded(scene.directions),
        "shares": [round(share, 4) for share in scene.shares],
        "kind": scene.kind,
        "shape": list(scene.event_shape),
        "range": [scene.low, scene.high],
        "whole": bool((data.examples["x"].nan_to_num(0.0) % 1 == 0).all()),
        "centre": scene.centre,
        "columns": [
            {
                "name": name,
                "kind": column.kind,
                "levels": [str(level) for level in column.levels]
                or (["False", "True"] if column.kind == "boolean" else []),
                "unit": scene.subject.units.get(name, ""),
                "given": name in program.given_columns,
            }
            for name, column in columns.items()
        ],
        "given": [
            {
                "site": name,
                "size": math.prod(data.event_shapes[name]),
                "classes": program.classes.get(name),
                "open": name + UNOBSERVED in scene.choices or name in scene.subject.data.gaps,
            }
            for name in scene.names
            if name != "x"
        ],
        "masks": "x" in program.gaps,
        "exact": (scene.alone and scene.dim == 2) or scene.joint is not None,
        "summed": 0 if scene.joint is None else len(scene.joint),
    }


def switched(scene: Scene) -> list[dict[str, Any]]:
    """The switches, with the names of their levels, the nats that each carries, and whether x hangs on it."""
    names, kls, found = scene.data.class_names, iter(scene.switches_kl), []
    for own in scene.switches:
        of_labels = own.site.removesuffix(UNOBSERVED) == "y" and names and len(names) == own.levels
        levels = [str(v) for v in (names if of_labels and names else range(own.low, own.low + own.levels))]
        decodes = own.site.removesuffix(UNOBSERVED) in re.findall(r"\w+", scene.densities["decoder"])
        found += [{"name": name, "levels": levels, "kl": next(kls), "decodes": decodes} for name in own.names]
    return found


def pictures(scene: Scene, x: Tensor) -> list[Any]:
    """Values ``[R, *event_shape]`` for the page: images as bytes in base64, all else as numbers."""
    flat = x.reshape(len(x), -1)
    if scene.kind == "image":
        scale = (flat - scene.low) / (scene.high - scene.low)
        return [encoded(row) for row in scale]
    found: list[Any] = rounded(flat, 4)
    return found


def encoded(values: Tensor) -> str:
    """Numbers from 0 to 1 as bytes from 0 to 255, in base64."""
    levels = (values.nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    return base64.b64encode(levels.cpu().numpy().tobytes()).decode()


def _datum(scene: Scene, asked: Mapping[str, Any]) -> Batch:
    values = asked.get("datum")
    return scene.read(values if isinstance(values, dict) else {})


def _plane(scene: Scene, asked: Mapping[str, Any]) -> Plane:
    plane = asked.get("plane")
    if plane is None:
        return None
    known = isinstance(plane, list) and len(plane) == 2 and all(type(d) is int for d in plane)
    if not known or not all(0 <= d < scene.dim for d in plane) or plane[0] == plane[1]:
        raise ValueError(f"a plane is of two latents from 0 to {scene.dim - 1}")
    return plane[0], plane[1]


def _states(states: Any, scene: Scene, number: int) -> Tensor | None:
    """Levels of all switches, ``[R, switches]``; None where none are said."""
    if states is None:
        return None
    levels = [own.levels for own in scene.switches for _ in range(own.number)]
    known = isinstance(states, list) and len(states) == number
    known = known and all(isinstance(row, list) and len(row) == len(levels) for row in states)
    if not known or not all(
        type(v) is int and 0 <= v < n for row in states for v, n in zip(row, levels, strict=True)
    ):
        raise ValueError(f"states are {number} rows of levels, of {levels}, from 0 on")
    return torch.tensor(states, dtype=torch.long).reshape(number, len(levels))


def _points(u: Any, dim: int) -> Tensor:
    """Latents ``[R, D]``."""
    known = isinstance(u, list) and 0 < len(u) <= MOST_PICTURES
    if not known or not all(isinstance(row, list) and len(row) == dim for row in u):
        raise ValueError(f"u is a list of up to {MOST_PICTURES} points of {dim} numbers each")
    numbers = [v for row in u for v in row]
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e6 for v in numbers):
        raise ValueError("u is of finite numbers")
    return torch.tensor(u, dtype=torch.float64).reshape(len(u), dim)
