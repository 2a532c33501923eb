"""The door: data are held against a program once, before either is used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.checks import checked
from pyro_vae.constraints import domain, support
from pyro_vae.data import DataError, Split
from pyro_vae.data.columns import few
from pyro_vae.data.tables import DataFrame
from pyro_vae.distributions import marginal
from pyro_vae.families import ByColumn, Family
from pyro_vae.families.columns import choose
from pyro_vae.families.univariate import mend
from pyro_vae.program import Program, sites
from pyro_vae.seen import Label, observing

Data = Split | Mapping[str, Any] | Tensor | np.ndarray | DataFrame


def as_split(data: Data, program: Program) -> Split:
    """A split, for which a batch or a tensor of x is short; for a table's model also a DataFrame of it.

    Raises:
        DataError: there are no data, or they are none of the program's columns.
    """
    if isinstance(data, Split):
        return data
    if isinstance(data, Mapping) and not data:
        raise DataError("data={} holds no site; give {'x': x}, or x alone")
    if isinstance(data, Mapping) and not program.names_columns(data):
        if program.class_names and "y" in data:
            data = {**data, "y": program.class_numbers(data["y"])}
        return Split(cast(Any, data), columns=program.columns)
    return Split(program.read_batch(data), columns=program.columns)


@checked
def check(program: Program, data: Split) -> None:
    """Refuses data that a program gives no density, that lack a site, or that have another shape.

    Raises:
        DataError: naming what was found and how to mend it.
    """
    kind = type(program).__name__
    if not len(data):
        raise DataError(
            "there are no rows, or the split is empty; give one or more, or load the data with a larger "
            "fraction for it: test=0.1"
        )
    for name, shape in program.event_shapes.items():
        if name not in data.event_shapes:
            raise DataError(
                f"the {kind} needs values of {name}, and the data have {', '.join(data.event_shapes)}: "
                + (
                    "pv.data.load(x, labels=y), NaN where not known"
                    if name == "y"
                    else f"pv.data.load({{'x': x, {name!r}: ...}})"
                )
            )
        if program.columns and data.columns and program.columns != data.columns:
            raise DataError(
                f"the {kind} was built for {program.columns!r}, and the data have {data.columns!r}; give "
                "a DataFrame with the columns of the first, in any order: pv.evaluate.elbo(vae, frame)"
            )
        if data.event_shapes[name] != shape:
            raise DataError(
                f"the data have {name} of shape {data.event_shapes[name]}, but the {kind} was built for "
                f"{shape}: pv.{kind}(data.event_shape, ...)"
            )
    own, names = program.class_names, data.class_names if "y" in program.event_shapes else None
    if own and names and own[: len(names)] != names:
        raise DataError(
            f"the {kind} was trained on classes {few(own)}, and those of the data are numbered as "
            f"{few(names)}; give the numbers of the first: "
            "labels=frame['kind'].map(vae.class_names.index, na_action='ignore')"
        )
    for seen in {seen.site: seen for c in program.conditionals() for seen in c.seen}.values():
        if isinstance(seen, Label) and seen.site in data.event_shapes:
            low, high = data.range(seen.site)
            chunks = data.chunks(seen.site) if data.sources[seen.site].floating else ()
            whole = all((y.isnan() | (y == y.round())).all() for y in chunks)
            known = not math.isnan(low)  # of any datum
            if known and (low < 0 or high >= seen.shape[0] or not whole):
                more = int(high) + 1
                mend = f"given={{{seen.site!r}: {more}}}"
                if "num_classes" in program.options:
                    mend = f"num_classes={more}"
                if low < 0 or not whole:
                    mend = "number them from 0: np.unique(y, return_inverse=True)[1]"
                raise DataError(
                    f"{seen.site} has classes from {low:g} to {high:g}, but the {kind} was built for "
                    f"0 to {seen.shape[0] - 1}: {mend}"
                )
    rows = {n: v.nan_to_num(0.0) for n, v in program.place(data.batch(slice(0, 8))).items()}
    with program.evaluating(), observing(frozenset()):
        model = poutine.trace(poutine.uncondition(program.model))
        many, one = model.get_trace(rows), model.get_trace({name: value[:1] for name, value in rows.items()})
        for name, site in sites(one):
            if site["infer"].get("was_observed") and name in data.event_shapes:
                _check_site(program, data, name, site["fn"], many.nodes[name]["fn"])
    if data.gaps:
        _check_gaps(program, data)


def _check_site(program: Program, data: Split, name: str, one: Any, many: Any) -> None:
    family = next((c.family for c in program.conditionals() if c.site == name), None)
    if isinstance(family, ByColumn):
        _check_columns(program, data, name, family, many)
        return
    told, mends = (repr(family), family.mends) if family else (type(_base(one)).__name__, mend(one))
    given = support(one)  # of one datum, for all alike
    data.check(name, given, domain(given), told, mends)
    low, high = data.range(name)
    shape = data.event_shapes[name]
    # Many a support is closed where the density is 0 or infinite.
    for end in () if math.isnan(low) else (low, high):
        value = torch.full(shape, float(end), device=program.device, dtype=program.dtype)
        if not many.log_prob(value).isfinite().all():
            raise DataError(
                f"the values range over [{low:g}, {high:g}], and the likelihood {told} gives values "
                f"of {end:g} no density, or an infinite one. Mend: {mends}"
            )
    if name in data.gaps:
        try:
            marginal(many, torch.ones(shape, dtype=torch.bool, device=program.device))
        except ValueError as error:
            raise DataError(f"{name} has missing values (NaN), and {error}") from error


def _check_columns(program: Program, data: Split, name: str, family: ByColumn, many: Any) -> None:
    """``_check_site`` of a table, column by column."""
    names = list(data.columns or program.columns or map(str, range(family.event_shape[0])))
    wrong, ends = torch.zeros(len(names), dtype=torch.int64), torch.tensor([[math.inf], [-math.inf]])
    for x in data.chunks(name):
        x = program.place({name: x})[name]
        wrong = wrong.to(x.device) + (~many.support.by_column(x) & ~x.isnan() | x.isinf()).sum(0)
        low, high = x.nan_to_num(math.inf).amin(0), x.nan_to_num(-math.inf).amax(0)
        ends = torch.stack([low.minimum(ends[0].to(x)), high.maximum(ends[1].to(x))])
    known = ends.isfinite().all(0) & (wrong == 0)  # values outside a support may end in any error
    filled = torch.where(known, ends, 0.5)
    densities = torch.stack([many.by_column(row.expand(*many.batch_shape, -1)) for row in filled])
    without = known & ~densities.isfinite().flatten(0, -2).all(0)
    what = data.columns or program.columns
    for j in ((wrong > 0) | without).nonzero()[:, 0].tolist():
        own = cast(Family, family.family_of(j))
        best = repr(choose(what.of[names[j]])) if what else repr(own)
        better = f'likelihood="auto" gives it {best}; or' if best != repr(own) else "give it"
        number = int(wrong[j])
        found = f"lie outside the support {domain(own.support)}" if number else "have no density at the ends"
        raise DataError(
            f"{number or 'some'} of {len(data)} values of column {names[j]} {found} of its likelihood "
            f"{own!r}: they range over [{ends[0, j]:g}, {ends[1, j]:g}]. Mend: {better} one that has one "
            f"there: likelihood={{{names[j]!r}: dist.StudentT}}"
        )


def _check_gaps(program: Program, data: Split) -> None:
    """Whether the model leaves out what is missing, as ``self.sample`` does and ``pyro.sample`` does not."""
    batch = program.place(data.batch(slice(0, 64)))
    with program.evaluating(), observing(data.gaps):
        trace = poutine.trace(program.model).get_trace(batch)
        for name, site in sites(trace):
            if site["is_observed"] and name in data.gaps and site["value"].isnan().any():
                raise DataError(
                    f"{name} has missing values (NaN), which pyro.sample(obs=...) takes for values; in the "
                    f"model write self.sample({name!r}, distribution, batch), which leaves them out"
                )


def _base(distribution: Any) -> Any:
    while isinstance(distribution, torch.distributions.Independent):
        distribution = distribution.base_dist
    return distribution
