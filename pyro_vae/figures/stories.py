"""A program's stories told with some values given, for what is drawn of them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae import distributions
from pyro_vae.data import DataError, Split
from pyro_vae.data.tables import DataFrame
from pyro_vae.program import Batch, Program, sites
from pyro_vae.seen import observing

Datum = Split | Mapping[str, Any] | Tensor | np.ndarray
Data = Datum | DataFrame
DRAWS = 200
"""Of each datum's predictive distribution."""


class centred(Messenger):  # named as Pyro names its handlers
    """Handler under which what is not given takes its typical value instead of being drawn."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["value"] is None and isinstance(msg["fn"], torch.distributions.Distribution):
            msg["value"] = typical(msg["fn"])


def typical(distribution: Any) -> Tensor:
    """The centre of a distribution, a value that it can have."""
    if distribution.support.is_discrete:
        with contextlib.suppress(NotImplementedError):  # as of a BetaBinomial
            return cast(Tensor, distribution.mode)
        return distributions.centre(distribution)[0].round()
    return distributions.centre(distribution)[0]


def some(program: Program, data: Data, most: int, site: str = "") -> Batch:
    """A batch where the program is; of a split, the first data.

    Raises:
        DataError: it lacks a site of the program, or that which is to be seen.
    """
    batch = program.place(data.batch(slice(0, most), program.dtype) if isinstance(data, Split) else data)
    if missing := program.event_shapes.keys() - batch.keys():
        raise DataError(
            f"the {type(program).__name__} needs values of {min(missing)}, and there are those of "
            f"{', '.join(batch) or 'none'}; give a batch: split.batch(slice(0, 10))"
        )
    if site and site not in batch:
        raise DataError(f"site={site!r} is none of the data's, {', '.join(batch)}")
    program.num_data(batch)
    return batch


def one(program: Program, datum: Datum) -> Batch:
    """A batch of one datum, for which its x, ``event_shape``, is short; of a split the first.

    Raises:
        ValueError: it is not one.
    """
    if isinstance(datum, Tensor) and tuple(datum.shape) == program.event_shapes.get("x"):
        datum = datum[None]
    batch = some(program, datum, 1)
    if len({len(value) for value in batch.values()} | {1}) > 1:
        sizes = {name: list(value.shape) for name, value in batch.items()}
        raise ValueError(f"one datum is wanted, but there are {sizes}; give split.batch([0]), or split[0]")
    return batch


def repeated(batch: Batch, times: int) -> Batch:
    """Each datum so many times."""
    return {name: value.repeat_interleave(times, 0) for name, value in batch.items()}


def inferred(program: Program, batch: Batch) -> tuple[Trace, Batch]:
    """The trace of the guide, its latents at the centres of their densities; and their values."""
    with centred():
        trace = poutine.trace(program.guide).get_trace(batch)
    return trace, {name: site["value"] for name, site in sites(trace) if not site["is_observed"]}


def told(program: Program, batch: Batch, values: Batch, site: str = "x", *, draw: bool = False) -> Trace:
    """The trace of the model with latents given; others take their typical values, or are drawn.

    With latents of data, their labels are given, too, where they are known.

    Raises:
        ValueError: it has no such site.
    """
    gaps = {name for name, value in batch.items() if value.is_floating_point() and value.isnan().any()}
    labels = {name: batch[name] for name in program.classes if values and name in batch and name != site}
    model = poutine.condition(poutine.uncondition(program.model), data=labels | values)
    with observing(frozenset(gaps - {site})):
        if draw:
            trace = poutine.trace(model).get_trace(batch)
        else:
            with centred():
                trace = poutine.trace(model).get_trace(batch)
    shown(trace, site)
    return trace


def predictive(program: Program, batch: Batch) -> Trace:
    """The trace of x' ~ p(x'|z), z ~ q(z|x), ``DRAWS`` for each datum, one after the other."""
    every = repeated(batch, DRAWS)
    guide = poutine.trace(program.guide).get_trace(every)
    z = {name: site["value"] for name, site in sites(guide) if not site["is_observed"]}
    return told(program, every, z, draw=True)


def by_datum(draws: Tensor) -> Tensor:
    """What is of a ``predictive`` trace, ``[DRAWS, B, *event_shape]``."""
    return draws.unflatten(0, (-1, DRAWS)).transpose(0, 1)


def shown(trace: Trace, site: str) -> tuple[Tensor, str]:
    """What is drawn of a site: the centre of its density, and what that is."""
    found = dict(sites(trace))
    if site not in found:
        raise ValueError(
            f"site={site!r} is none of the model's to draw; it has {', '.join(found)}: site={[*found][-1]!r}"
        )
    fn = found[site]["fn"]
    value, centre = distributions.centre(fn)
    return _with_modes(fn, value), centre


def _with_modes(p: Any, x: Tensor) -> Tensor:
    """With the likeliest category where values are categories, of which a mean says nothing."""
    for part, index in zip(p.parts, p.index, strict=True) if isinstance(p, distributions.ByColumn) else ():
        if isinstance(part.base_dist, torch.distributions.Categorical | torch.distributions.Bernoulli):
            x = x.index_copy(-1, index, part.base_dist.mode.to(x).nan_to_num(0.5).expand_as(x[..., index]))
    return x


def latent_sites(trace: Trace) -> list[str]:
    """Names of the latents, in the model's order."""
    return [name for name, site in sites(trace) if not site["infer"].get("was_observed")]


def density(site: str, *given: str) -> str:
    """Such as ``p(x|z, y)``."""
    return f"p({'|'.join(filter(None, [site, ', '.join(given)]))})"


def class_of(program: Program, site: str, value: Any) -> str:
    """A label as it is called: by the name of its class, where the program knows names."""
    names = program.class_names if site == "y" else None
    known = names and isinstance(value, int) and 0 <= value < len(names)
    return str(names[value]) if names and known else str(value)


def labels_given(program: Program, trace: Trace) -> dict[str, int]:
    """Labels that the model is given, so that it has no such sites, with the number of their classes."""
    return {site: number for site, number in program.classes.items() if site not in trace.nodes}


def batch_of(trace: Trace) -> Batch:
    """What a trace's program was called with."""
    batch: Batch = trace.nodes["_INPUT"]["args"][0]
    return batch
