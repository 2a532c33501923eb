"""Tables: each column's marginal, pairs of columns, and what is reconstructed of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from pyro_vae.checks import Seed, checked
from pyro_vae.data.columns import Column
from pyro_vae.data.tables import units_of
from pyro_vae.figures.drawing import Figure, whole, within, wrapped
from pyro_vae.figures.stories import Data, by_datum, inferred, predictive, repeated, shown, some, told
from pyro_vae.program import Batch, Program, sites

MOST, MOST_PAIRS = 20, 5
"""Columns drawn, where not all are; and of those whose pairs are drawn."""
ROWS, DRAWS = 5000, 2000
"""Rows of data drawn, at most; and draws, at least."""
BARRED = 50
"""Rows whose predictive intervals are drawn."""
BARS = 12
"""Values that are bars beside each other, and not the bins of a histogram."""
DATA, DRAWN = "0.75", "C0"
"""Their colours."""

Table = dict[str, np.ndarray]
"""Values by column."""


@checked
def marginals(
    program: Program,
    data: Data | None = None,
    columns: Sequence[str] | None = None,
    *,
    seed: Seed = 0,
    figure: FigureBase | None = None,
) -> Figure:
    r"""Each column of a table by itself: how often its values are in the data, and in draws of the model.

    Draws are of :math:`\int p(x_j \mid z) p(z)\,\mathrm d z`; columns that are given are as in the data, and
    not drawn. A histogram reaches over the central 99 % of the data, in ``2 sqrt(N)`` bins, from 8 up to 30;
    what of the draws lies beyond is told.
    Where there are more than 20 columns they are those in which data and draws differ most: by the largest
    difference of their distribution functions (Kolmogorov and Smirnov), and of categories by their total
    variation.

    Args:
        program: a model of a table.
        data: a split, of which the first 5000 rows are drawn; or a DataFrame, of which
            ``frame.attrs["units"]`` may tell units by column; or a batch. None: draws alone.
        columns: by name; by default all of them, or 20.
        seed: of the draws.
        figure: a part of a figure of one's own, or all of it, to draw on.

    Raises:
        ValueError: the model is not of a table.
        DataError: there is no such column.
    """
    check_table(program, "marginals")
    return by_column({"draws": program}, data, columns, seed, "raws of the model", host=figure)


@checked
def pairs(
    program: Program,
    data: Data,
    columns: Sequence[str] | None = None,
    *,
    seed: Seed = 0,
    figure: FigureBase | None = None,
) -> Figure:
    """Pairs of columns of a table: below the diagonal the data, above it as many draws of the model.

    Args:
        program: a model of a table.
        data: as in ``marginals``.
        columns: from 2 up to 8, by name; by default the 5 that depend on each other most, as the data's rank
            correlations (Spearman's) tell.
        seed: of the draws.
        figure: a part of a figure of one's own, or all of it, to draw on.

    Raises:
        ValueError: the model is not of a table, or the columns are too many, or one alone.
        DataError: there is no such column.
    """
    check_table(program, "pairs")
    found, drawn = _data_and_draws(program, data, seed)
    free = [name for name in drawn if name in found]
    if len(free) < 2 or not 2 <= len(columns or free[:2]) <= 8:
        number = len(free) if columns is None else len(columns)
        raise ValueError(f"pairs are of 2 up to 8 columns, and there are {number}; see figures.marginals")
    strength = _dependence({name: found[name] for name in free})
    chosen, why = _choose(program, columns, MOST_PAIRS, strength.get, "that depend on each other most")
    units, number = _units(program, data), len(chosen)
    random = np.random.default_rng(seed)
    host = within(figure, 1.7 * number + 1, 1.6 * number + 0.8)
    places = host.subplots(number, number, squeeze=False)
    limits = {name: _limits(_of(program, name), found[name]) for name in chosen}
    for i, below in enumerate(chosen):
        for j, beside in enumerate(chosen):
            axes = places[i, j]
            if i == j:
                _marginal(axes, _of(program, below), found[below], [drawn[below]], upright=True)
                axes.set_yticks([])
                axes.set_ylabel("")
            else:
                rows = min(len(found[below]), 1000)
                values = found if i > j else drawn
                points = [
                    _jittered(_of(program, name), values[name][:rows], random) for name in (beside, below)
                ]
                axes.scatter(*points, s=4, alpha=0.4, color="0.35" if i > j else DRAWN, linewidths=0)
                if _in_logs(_of(program, below), limits[below]):
                    axes.set_yscale("log")
                axes.set_ylim(limits[below])
                if i == 0:  # whose panel on the left is a marginal, which has other heights
                    axes.yaxis.tick_right()
                _ticks(axes.yaxis, _of(program, below), limits[below], j == (0 if i else number - 1))
            if _in_logs(_of(program, beside), limits[beside]):
                axes.set_xscale("log")
            axes.set_xlim(limits[beside])
            _ticks(axes.xaxis, _of(program, beside), limits[beside], i == number - 1)
            axes.tick_params(labelsize=7)
            if j == 0:
                axes.set_ylabel(_short(below, units.get(below), 20), fontsize=8)
            if i == number - 1:
                axes.set_xlabel(_short(beside, units.get(beside), 20), fontsize=8)
    host.suptitle(f"Data (grey, below) and draws (blue, above){why}", fontsize=10)
    return whole(host)


def reconstructed(program: Program, data: Data, host: Any = None, most: int = MOST) -> Figure:
    """Each column of a table: its values, and the centres of p(x|z) at the centre of q(z|x).

    Of the first rows there is also where the central 90 % of x' ~ p(x'|z), z ~ q(z|x), lie.
    """
    with program.evaluating():
        batch = some(program, data, ROWS, "x")
        trace = told(program, batch, inferred(program, batch)[1])
        y, centre = shown(trace, "x")
        found, made = _table(program, batch["x"]), _table(program, y)
        again = dict(sites(predictive(program, {name: v[:BARRED] for name, v in batch.items()})))
        draws = by_datum(again["x"]["value"])
        low, high = (_table(program, draws.quantile(q, 0)) for q in (0.05, 0.95))
    found = {name: found[name] for name in made}
    error = {name: _error(_of(program, name), found[name], made[name]) for name in made}
    chosen, why = _choose(program, None, most, error.get, "whose errors are largest")
    units = _units(program, data)

    def draw(axes: Axes, name: str) -> None:
        column, x, y = _of(program, name), found[name], made[name]
        known = ~np.isnan(x)
        if column.levels or column.kind == "boolean":
            labels = column_levels(column)
            right = [
                np.mean(y[x == code].round() == code) if (x == code).any() else 0.0
                for code in range(len(labels))
            ]
            order = np.argsort([-(x == code).sum() for code in range(len(labels))])[:BARS][::-1]
            axes.barh(range(len(order)), [right[code] for code in order], color=DRAWN, height=0.7)
            axes.set_yticks(range(len(order)), [cut(labels[code], 14) for code in order])
            axes.set_xlim(0, 1)
            axes.set_xlabel("share reconstructed right", fontsize=7)
        else:
            ends = _limits(column, x)
            if _in_logs(column, ends):
                axes.set(xscale="log", yscale="log")
            axes.plot(ends, ends, color="0.6", linewidth=0.8)
            axes.scatter(x[known], y[known], s=4, alpha=0.4, color=DRAWN, linewidths=0)
            axes.vlines(x[:BARRED], low[name], high[name], color=DRAWN, alpha=0.25, linewidth=0.8)
            axes.set_xlim(ends)
            axes.set_ylim(ends)
            for axis in (axes.xaxis, axes.yaxis):
                _ticks(axis, column, ends, labelled=True)
            axes.set_xlabel("data", fontsize=7)
            axes.set_ylabel("reconstruction", fontsize=7)
        entitle(axes, name, units.get(name), x)

    return panels(
        chosen,
        draw,
        f"Data, reconstructions (the {centre} of p(x|z), of categories the likeliest) and lines, 90 % of "
        f"p(x'|x){why}",
        [],
        host,
    )


def check_table(program: Program, name: str) -> None:
    """Refuses a model that is not of a table.

    Raises:
        ValueError: saying what to draw of it.
    """
    if program.columns is None:
        raise ValueError(
            f"figures.{name} draws columns of a table, and the {type(program).__name__} was not built for "
            "one: pv.VAE(pv.data.load(frame).event_shapes, ...); of images look at figures.samples"
        )


def refuse_axes(ax: Axes | None) -> None:
    """Refuses axes for what has a panel for each of several columns or rows.

    Raises:
        ValueError: they are given.
    """
    if ax is not None:
        raise ValueError(
            "ax= is for what is drawn on one axes, and of a table there are several: leave it out"
        )


def by_column(
    programs: Mapping[str, Program],
    data: Any,
    columns: Sequence[str] | None,
    seed: int,
    title: str,
    given: Mapping[str, Any] | None = None,
    host: Any = None,
    most: int = MOST,
) -> Figure:
    """``marginals`` of several models of one table; without data of draws under what is given."""
    found: Table = {}
    drawn: dict[str, Table] = {}
    for label, program in programs.items():
        check_table(program, "comparison")
        found, drawn[label] = _data_and_draws(program, data, seed, given)
    first = next(iter(programs.values()))
    units = _units(first, data)
    distances: Callable[[str], float] = lambda name: max(  # noqa: E731
        _distance(_of(first, name), found, draws, name) for draws in drawn.values()
    )
    chosen, why = _choose(first, columns, most, distances)

    def draw(axes: Axes, name: str) -> None:
        _marginal(axes, _of(first, name), found.get(name), [draws[name] for draws in drawn.values()])
        entitle(axes, name, units.get(name), found.get(name))

    keys = [Patch(color=DATA, label="data")] if found else []
    keys += [Patch(color=f"C{i}", label=label) for i, label in enumerate(programs)]
    return panels(chosen, draw, f"{'Data and d' if found else 'D'}{title}{why}", keys, host)


def _data_and_draws(
    program: Program, data: Any, seed: int, given: Mapping[str, Any] | None = None
) -> tuple[Table, Table]:
    with program.evaluating(seed):
        if data is None:
            values = dict(sites(program.simulate(DRAWS, given)))["x"]["value"]
            return {}, _table(program, values)
        batch: Batch = some(program, data, ROWS, "x")
        every = repeated(batch, -(-DRAWS // len(batch["x"])))
        drawn = dict(sites(told(program, every, {}, draw=True)))["x"]["value"]
        order = torch.randperm(len(drawn)).to(drawn.device)
        made, found = _table(program, drawn[order]), _table(program, batch["x"])
    return {name: found[name] for name in made}, made


def _table(program: Program, x: torch.Tensor) -> Table:
    """Values ``[N, D]`` by column, without those that are given."""
    names = list(program.columns or ())
    values = x.detach().cpu().double().numpy()
    return {name: values[:, j] for j, name in enumerate(names) if name not in program.given_columns}


def _of(program: Program, name: str) -> Column:
    assert program.columns is not None
    return program.columns.of[name]


def _units(program: Program, data: Any) -> dict[str, str]:
    """What was told at training, or by a frame."""
    assert program.columns is not None
    return program.columns.units | units_of(data)


def _choose(
    program: Program,
    columns: Sequence[str] | None,
    most: int,
    interest: Callable[[str], float | None],
    told: str = "in which they differ most",
) -> tuple[list[str], str]:
    """The columns to draw, and how they were chosen."""
    assert program.columns is not None
    for name in columns or ():
        program.columns.number(name)
        if name in program.given_columns:
            raise ValueError(
                f"column {name} is given to the {type(program).__name__}, which does not draw it"
            )
    free = [name for name in program.columns if name not in program.given_columns]
    if columns is not None or len(free) <= most:
        return list(columns or free), ""
    ranked = sorted(free, key=lambda name: -(interest(name) or 0.0))[:most]
    return [name for name in free if name in ranked], f", the {most} of {len(free)} columns {told}"


def _known(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _distance(column: Column, found: Table, drawn: Table, name: str) -> float:
    """Between the distributions of data and draws, from 0 to 1; without data the spread of the draws."""
    b = _known(drawn[name])
    if name not in found or not len(a := _known(found[name])) or not len(b):
        return float(b.std()) if len(b) else 0.0
    at = np.unique(np.concatenate([a, b]))
    if column.kind == "category":
        return float(abs(_shares(a, at) - _shares(b, at)).sum() / 2)
    below = [np.searchsorted(np.sort(v), at, side="right") / len(v) for v in (a, b)]
    return float(abs(below[0] - below[1]).max())


def _shares(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """How often each of some values is."""
    found = np.searchsorted(at, values).clip(0, len(at) - 1)
    return np.bincount(found[at[found] == values], minlength=len(at)) / max(1, len(values))


def _dependence(found: Table) -> dict[str, float]:
    """Of each column, the largest rank correlation with another, without a sign."""
    ranks = np.stack([_ranks(values) for values in found.values()])
    scale = np.sqrt(np.square(ranks).sum(1, keepdims=True))
    unit = ranks / np.where(scale > 0, scale, 1.0)
    strength = abs(unit @ unit.T)
    np.fill_diagonal(strength, 0.0)
    return dict(zip(found, strength.max(1).tolist(), strict=True))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks around 0, those of equal values equal, and 0 of what is missing."""
    known = np.isfinite(values)
    _, place, count = np.unique(values[known], return_inverse=True, return_counts=True)
    ranks = np.zeros(len(values))
    ranks[known] = (np.cumsum(count) - (count - 1) / 2)[place] - (known.sum() + 1) / 2
    return ranks


def _error(column: Column, x: np.ndarray, y: np.ndarray) -> float:
    """Of a reconstruction: the share of the variance that is left, or of categories that are wrong."""
    known = ~np.isnan(x)
    if not known.any():
        return 0.0
    if column.levels:
        return float(np.mean(x[known] != y[known].round()))
    return float(np.square(x - y)[known].mean() / max(x[known].var(), 1e-12))


def panels(
    names: Sequence[str],
    draw: Callable[[Axes, str], None],
    title: str,
    keys: Sequence[Any],
    host: Any = None,
) -> Figure:
    """A panel for each column, five beside each other, or up to three on a part of a figure."""
    across = min(5, len(names), 3 if len(names) in (3, 6, 9) else 4 if len(names) in (4, 7, 8) else 5)
    if host:
        across = 2 if len(names) == 4 else min(across, 3)
    down = -(-len(names) // across)
    wide = max(4.5, 2.4 * across)
    figure = within(host, wide, 1.9 * down + 0.6)
    places = figure.subplots(down, across, squeeze=False)
    for axes, name in zip(places.flat, names, strict=False):
        draw(axes, name)
        axes.tick_params(labelsize=7)
    for axes in places.flat[len(names) :]:
        axes.set_axis_off()
    figure.suptitle(wrapped(title, wide, 10), fontsize=10)
    if keys:
        figure.legend(handles=list(keys), loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return whole(figure)


def entitle(axes: Axes, name: str, unit: str | None, found: np.ndarray | None = None) -> None:
    """A column's name above it, its unit, and how many of its values are missing."""
    missing = "" if found is None else _percent(np.isnan(found).mean())
    axes.set_title(_short(name, unit, 26) + (f"\n{missing} missing" if missing else ""), fontsize=8)


def _percent(share: float) -> str:
    """Such as ``"12 %"``; nothing where there is none."""
    return "" if share == 0 else "< 1 %" if share < 0.01 else f"{100 * share:.0f} %"


def _short(name: str, unit: str | None, most: int) -> str:
    return cut(name, most) + (f" ({unit})" if unit else "")


def cut(text: str, most: int) -> str:
    """Without its middle, where it is too long: names often differ at their ends."""
    return text if len(text) <= most else f"{text[: (most + 1) // 2]}…{text[len(text) - (most - 2) // 2 :]}"


def _marginal(
    axes: Axes,
    column: Column,
    found: np.ndarray | None,
    drawn: Sequence[np.ndarray],
    *,
    upright: bool = False,
) -> None:
    """The data as bars, and draws as lines, or as bars beside them."""
    draws = [_known(values) for values in drawn]
    data = draws[0] if found is None else _known(found)
    if not len(data):
        axes.text(0.5, 0.5, "no value in the data", ha="center", transform=axes.transAxes, fontsize=7)
        axes.set(xticks=[], yticks=[])
        return
    coloured = [(DATA, data)] if found is not None else []
    coloured += [(f"C{i}", values) for i, values in enumerate(draws)]
    values, ends = np.unique(data), (-np.inf, np.inf)
    if column.levels or column.kind == "boolean":
        _bars(axes, np.arange(max(2, len(column.levels))), column_levels(column), coloured, upright)
    elif column.whole and values[-1] - values[0] < BARS:
        whole = np.arange(values[0], values[-1] + 1)
        _bars(axes, whole, [f"{v:g}" for v in whole], coloured, True)
        ends = whole[0], whole[-1]
    else:
        low, high = _limits(column, data)
        number = max(8, min(30, round(2 * len(data) ** 0.5)))
        if _in_logs(column, (low, high)):
            axes.set_xscale("log")
            bins: np.ndarray = np.geomspace(low, high, number + 1)
            widths: np.ndarray = np.diff(np.log(bins))
        else:
            width = max(1, round((high - low) / number)) if column.whole else (high - low) / number
            first = np.floor(low) - 0.5 if column.whole else low  # bins of equally many whole numbers
            bins = first + width * np.arange(round((high - first) / width) + 1)
            widths = np.diff(bins)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=column.whole))
        for colour, v in coloured:
            height = np.histogram(v, bins)[0] / max(1, len(v)) / widths
            axes.stairs(height, bins, color=colour, fill=colour == DATA, linewidth=1.2)
        ends = bins[0], bins[-1]
        axes.set_xlim(ends)
        axes.set_ylim(bottom=0)
        axes.set_yticks([])
        axes.set_ylabel("density of logarithms" if axes.get_xscale() == "log" else "density", fontsize=7)
    beyond = float(np.mean((draws[0] < ends[0]) | (draws[0] > ends[1])))
    if beyond > 0.02 and len(draws) == 1 and not upright:
        told = f"{_percent(beyond)} of draws\nbeyond"
        axes.text(0.98, 0.95, told, fontsize=6, ha="right", va="top", transform=axes.transAxes)


def column_levels(column: Column) -> list[str]:
    """Names of a category's levels, or of what is true and false."""
    return list(map(str, column.levels)) or ["False", "True"]


def _bars(
    axes: Axes,
    values: np.ndarray,
    labels: list[str],
    coloured: Sequence[tuple[str, np.ndarray]],
    upright: bool,
) -> None:
    """Shares of values, side by side; the rarest of many together."""
    shares = np.stack([_shares(found, values) for _, found in coloured])
    at = values.astype(float)
    if len(values) > BARS and not upright:
        often = np.sort(np.argsort(-shares[0])[: BARS - 1])
        rest = (1 - shares[:, often].sum(1, keepdims=True)).clip(0)
        labels = [labels[i] for i in often] + [f"{len(values) - len(often)} others"]
        shares, at = np.concatenate([shares[:, often], rest], 1), np.arange(len(labels), dtype=float)
    width = 0.8 / len(coloured)
    for i, (colour, _) in enumerate(coloured):
        place = at + (i + 0.5) * width - 0.4
        (axes.bar if upright else axes.barh)(place, shares[i], width, color=colour)
    if upright:
        axes.set_yticks([])
        axes.set_ylabel("share", fontsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    else:
        axes.set_yticks(at, [cut(label, 14) for label in labels])
        axes.invert_yaxis()
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("share", fontsize=7)


def _limits(column: Column, values: np.ndarray) -> tuple[float, float]:
    """The ends of a column's axis: all levels, or the central 99 % of the data."""
    known = _known(values)
    if column.levels or column.kind == "boolean" or not len(known):
        return -0.6, max(1, len(column.levels) - 1) + 0.6
    low, high = np.quantile(known, [0.005, 0.995])
    margin = 0.04 * (high - low) or 0.5 * abs(high) or 0.5
    bound = 0.0 if column.kind in ("positive", "amount", "share", "count") else -np.inf
    return float(low if low - margin < bound else low - margin), float(high + margin)


def _in_logs(column: Column, limits: tuple[float, float]) -> bool:
    """Whether a column's axis is logarithmic: of positive numbers of more than two orders of magnitude."""
    return column.kind == "positive" and limits[0] > 0 and limits[1] / limits[0] > 100


def _jittered(column: Column, values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Whole numbers, of which many would lie on one another, beside each other."""
    return values + random.uniform(-0.3, 0.3, len(values)) if column.whole else values


def _ticks(axis: Any, column: Column, limits: tuple[float, float], labelled: bool) -> None:
    if column.levels or column.kind == "boolean":
        labels = column_levels(column)
        step = -(-len(labels) // 8)
        axis.set_ticks(range(0, len(labels), step), [cut(label, 9) for label in labels[::step]])
        if axis.axis_name == "x":
            axis.set_tick_params(rotation=45 if max(map(len, labels)) > 2 else 0)
    elif not _in_logs(column, limits):
        axis.set_major_locator(MaxNLocator(3, integer=column.whole))
    if not labelled:
        axis.set_tick_params(labelleft=False, labelright=False, labelbottom=False)
