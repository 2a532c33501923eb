"""The page: served while it is open, or frozen into a file."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import webbrowser
from importlib import resources
from typing import Any

import torch
from torch import Tensor

from pyro_vae.explore.answers import Answers, described
from pyro_vae.explore.scene import Scene
from pyro_vae.explore.server import Server
from pyro_vae.explore.subjects import entries
from pyro_vae.program import Batch
from pyro_vae.registry import Trust

SCRIPTS = (
    "drawing.js",
    "asking.js",
    "plane.js",
    "states.js",
    "decoder.js",
    "encoder.js",
    "learning.js",
    "page.js",
)
"""Of the page, a subject each; the last one begins."""
SIDES, NUMBERS = (9, 31), 500_000
"""Points along a side of a frozen map, at least and at most, and numbers of all its pictures."""


def explore(
    run: Any,
    data: Any = None,
    *,
    site: str | None = None,
    port: int = 0,
    browser: bool = True,
    trust: Trust = (),
) -> None:
    """Opens a page in the browser on what a run has learnt, and answers it until it is closed.

    The latent plane with the codes of the data, and what each point of it decodes to; a datum chosen, drawn
    or with parts that are not known, with q(z|x) beside the true posterior; each latent with its KL; one
    datum turning into another; steps of SVI on a copy. All is computed here and nothing is fetched: the page
    is served to this machine alone, under a token. It returns when the page is closed, after half an hour
    without it, or at Ctrl-C. Meanwhile it computes in the thread that called it, and no other may train.

    Args:
        run: of ``pv.fit``; its folder; the folder of a comparison, whose runs are a menu; or a program.
        data: of a program: data as ``pv.data.load`` makes them, a split, a batch, a DataFrame (whose
            ``attrs["units"]`` may tell units by column) or a tensor; of a folder whose data were in memory,
            those, as ``pv.data.load`` made them.
        site: of the latents that are shown; by default the first in the model's order that is a vector, of a
            HierarchicalVAE the highest level.
        port: to listen at; 0 takes a free one.
        browser: whether a browser is opened; the address is printed in any case.
        trust: modules that a run's configuration may import from.

    Raises:
        CheckpointError, ConfigError, DataError: a run cannot be read, or the port is taken.
        ValueError: its latents are codes of a codebook or no vector, or x is of a shape that is not shown.

    >>> explore("runs/digits")  # doctest: +SKIP
    """
    answers = Answers(entries(run, data, trust), site)
    server = Server(lambda token, nonce: _html(None, token, nonce), answers.by_name, port)
    with contextlib.suppress(KeyboardInterrupt):
        print(f"{server.address}\nopen until the page is closed, or Ctrl-C", flush=True)
        if browser:
            webbrowser.open(server.address)
        server.serve()


def frozen(run: Any, data: Any = None, *, site: str | None = None, trust: Trust = ()) -> str:
    """The map of a run's latent plane as one page of HTML, which opens from a file, without a network.

    Of it are decoded the points of a grid, between which the page goes in straight lines; what asks the
    program (a datum's q and posterior, learning) is not there. Of more than two latents it is the principal
    plane of the codes, the rest at their mean. Of choices alone it has all of their joint values, and of
    those beside a plane the likeliest. What the model is given is as of the first datum, and told.

    Args:
        run, data, site, trust: as of ``explore``; of several runs the first.

    Returns:
        The page.

    Raises:
        As ``explore``; or ValueError: there are too many joint values of choices.
    """
    scene = Scene(entries(run, data, trust)[0].read(), site)
    context = scene.batch([0])
    state, grid, x = (_map if scene.dim else _values)(scene, context)
    image = scene.kind == "image"
    if image:
        x = (((x - scene.low) / (scene.high - scene.low)).clamp(0, 1) * 255).round()
    values = x.reshape(-1).cpu().to(torch.uint8 if image else torch.float32).numpy()
    state = described(scene) | {"runs": [], "held": _held(scene, context)} | state
    grid |= {
        "size": x[0].numel(),
        "dtype": str(values.dtype),
        "values": base64.b64encode(values.tobytes()).decode(),
    }
    return _html({"state": state, "grid": grid})


def _values(scene: Scene, context: Batch) -> tuple[dict[str, Any], dict[str, Any], Tensor]:
    """Of choices alone: x at each of their joint values, the last switch fastest."""
    joint = scene.joint
    if joint is None or len(joint) * math.prod(scene.event_shape) > NUMBERS:
        what = "values of its latents" if joint is None else f"{len(joint)} joint values of its latents"
        raise ValueError(
            f"x at all {what} is more than one file should hold, {NUMBERS} numbers; look at it live, "
            "pyro-vae explore RUN, or at pv.figures.samples(vae)"
        )
    u = torch.zeros(len(joint), 0)
    parts = zip(u.split(64), joint.split(64), strict=True)
    x = torch.cat([scene.decode(some, context, states) for some, states in parts])
    levels = [own.levels for own in scene.switches for _ in range(own.number)]
    return {}, {"levels": levels}, x


def _map(scene: Scene, context: Batch) -> tuple[dict[str, Any], dict[str, Any], Tensor]:
    """What the page is told of a plane, its grid, and x at the grid's points; switches are the likeliest."""
    origin, directions = scene.plane(None)
    flat = (scene.codes - origin) @ directions.T
    edges = flat if scene.dim > 2 else torch.cat([flat, (scene.reach - origin) @ directions.T])
    low, high = edges.amin(0), edges.amax(0)
    low, high = low - 0.05 * (high - low) - 1e-3, high + 0.05 * (high - low) + 1e-3
    number = math.prod(scene.event_shape)
    side = int(min(max((NUMBERS / number) ** 0.5, SIDES[0]), SIDES[1]))
    steps = torch.linspace(0, 1, side).to(low)[:, None] * (high - low) + low
    first, second = steps.unbind(1)
    points = torch.stack([first.repeat(side), second.repeat_interleave(side)], 1)
    x = torch.cat([scene.decode(u, context) for u in (points @ directions + origin).split(64)])
    state: dict[str, Any] = {"switches": []}
    if scene.dim > 2:
        ends = zip(low.tolist(), high.tolist(), strict=True)
        state |= {
            "dim": 2,
            "origin": [0.0, 0.0],
            "directions": [[1.0, 0.0], [0.0, 1.0]],
            "names": [f"principal component {i + 1} ({100 * s:.0f} %)" for i, s in enumerate(scene.shares)],
            "latents": [
                {"index": i, "name": f"PC {i + 1}", "kl": None, "collapsed": False, "low": a, "high": b}
                for i, (a, b) in enumerate(ends)
            ],
        }
    if scene.dim > 1:
        state["codes"] = [[round(v, 4) for v in row] for row in flat.tolist()]
    return state, {"low": low.tolist(), "high": high.tolist(), "side": side}, x


def _held(scene: Scene, datum: Batch) -> list[str]:
    """What the model is given of a datum, in words, such as ``y = 3``."""
    found = []
    for name in scene.names:
        values = datum[name].reshape(-1).tolist()
        if name != "x":
            names = scene.data.class_names if name == "y" else None
            shown = [str(names[int(v)]) if names and v == v else _told(v) for v in values]
            taken = scene.chosen(datum).get(f"{name}_unobserved")
            if taken is not None and math.isnan(values[0]):
                likeliest = int(taken.item())
                shown.append(f"and taken for the likeliest, {names[likeliest] if names else likeliest}")
            found.append(f"{name} = {', '.join(shown)}")
            continue
        if columns := scene.program.columns:
            for column in scene.program.given_columns:
                value, levels = values[columns.number(column)], columns.of[column].levels
                known = levels and not math.isnan(value)
                found.append(f"{column} = {levels[int(value)] if known else _told(value)}")
        if scene.total_is_given:
            found.append(f"a total of {_told(math.fsum(v for v in values if v == v))}")
    return found


def _told(value: float) -> str:
    return "not known" if math.isnan(value) else f"{value:.4g}"


def _html(kept: Any, token: str = "", nonce: str = "") -> str:
    """The page in one piece, with what is kept in it of a program."""
    folder = resources.files("pyro_vae.explore")
    page, *scripts = (folder.joinpath(name).read_text("utf-8") for name in ("page.html", *SCRIPTS))
    data = json.dumps(kept, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    for name, text in (("token", token), ("nonce", nonce), ("script", "\n".join(scripts)), ("frozen", data)):
        page = page.replace(f"{{{{{name}}}}}", text)
    return page
