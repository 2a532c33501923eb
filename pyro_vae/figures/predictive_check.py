"""Held-out data beside draws of the model: statistics, and what predictive intervals hold."""

from __future__ import annotations

import math
import textwrap
from typing import Any, cast

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyro_vae.checks import checked
from pyro_vae.evaluate.calibration import told
from pyro_vae.evaluate.intervals import Intervals
from pyro_vae.evaluate.predictive_check import PredictiveCheck, Statistic
from pyro_vae.figures.drawing import PALETTE, Figure, on, whole, within
from pyro_vae.figures.tables import DATA, DRAWN

MOST, ACROSS, WORST = 12, 4, 4
"""Statistics drawn, and beside each other; and columns that are named."""


@checked
def predictive_check(result: PredictiveCheck, *, figure: FigureBase | None = None) -> Figure:
    """Each statistic of replicated data, in blue, and of the data, in black; the 12 with the smallest p.

    Of numbers of each datum there are the data's, grey, beside those of all draws.

    Args:
        result: of ``pv.evaluate.predictive_check``.
        figure: a part of a figure of one's own, or all of it, to draw on.
    """
    order = sorted(result.statistics, key=lambda s: (s.p_value, -abs(s.z_score)))
    chosen = [s for s in result.statistics if s in order[:MOST]]
    across = 3 if len(chosen) in (3, 5, 6, 9) else min(ACROSS, max(2, len(chosen)))
    down = max(1, -(-len(chosen) // across))
    host = within(figure, 2.6 * across, 2.0 * down + 1.0)
    panels = list(host.subplots(down, across, squeeze=False).flat)
    for axes, statistic in zip(panels, chosen, strict=False):
        (_number if statistic.values is None else _distribution)(axes, statistic)
        axes.set_title(f"{statistic.name}\np = {statistic.p_value:.2g}", fontsize=8)
        axes.set_yticks([])
        axes.tick_params(labelsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(4))
    for axes in panels[len(chosen) :]:
        axes.set_axis_off()
    more = f", the {MOST} of {len(order)} statistics of least p" if len(order) > MOST else ""
    told = f"{result.num_data} data (black, grey) and {result.num_replications} sets of as many draws (blue)"
    lines = [
        line
        for text in (f"{told}{more};", str(result.two_sample))
        for line in textwrap.wrap(text, 40 * across)
    ]
    host.suptitle("\n".join(lines), fontsize=9)
    return whole(host)


def _number(axes: Axes, statistic: Statistic) -> None:
    values = statistic.replicated[statistic.replicated.isfinite()].numpy()
    ends = [*values, *([statistic.observed] if math.isfinite(statistic.observed) else [])]
    if not ends:
        return
    low, high = min(ends), max(ends)
    margin = 0.05 * (high - low) or 0.5 * max(1.0, abs(high))
    bins = np.linspace(low - margin, high + margin, 41)
    axes.hist(values, bins.tolist(), color=DRAWN)
    if math.isfinite(statistic.observed):
        axes.axvline(statistic.observed, color="black", linewidth=1.5)


def _distribution(axes: Axes, statistic: Statistic) -> None:
    both = cast(Tensor, statistic.values), cast(Tensor, statistic.draws).flatten()
    data, draws = (values[~values.isnan()].numpy() for values in both)
    low, high = np.quantile(np.concatenate([data, draws[: 10 * len(data)]]), [0.001, 0.999])
    margin = 0.02 * (high - low) or 0.5
    bins = np.linspace(low - margin, high + margin, 31)
    for values, colour in ((data, DATA), (draws, DRAWN)):
        height = np.histogram(values, bins)[0] / len(values)
        axes.stairs(height, bins, color=colour, fill=colour == DATA, linewidth=1.2)


@checked
def intervals(result: Intervals, *, ax: Axes | None = None) -> Figure:
    """What predictive intervals hold, less what they say, of each column; the four worst are named.

    The grey band is that of 95 % of right ones, level by level, of as many values as the worst column has.

    Args:
        result: of ``pv.evaluate.intervals``.
        ax: axes of a figure of one's own to draw on.
    """
    from scipy.stats import binom  # which is slow to import

    levels = np.linspace(0.01, 0.99, 99)
    held = torch.stack([result.coverage(level) for level in levels.tolist()]).numpy()
    worst = result.p_values.argsort()[:WORST].tolist()
    number = int((~result.places[:, worst[0]].isnan()).sum())
    figure, axes = on(ax, 6, 4.6)
    low, high = (binom.ppf(q, number, levels) / number - levels for q in (0.025, 0.975))
    axes.fill_between(levels, low, high, color="0.88", linewidth=0)
    axes.axhline(0, color="0.5", linewidth=0.8, linestyle="--")
    for j in sorted(range(len(result.names)), key=lambda j: j in worst):
        named: dict[str, Any] = {"color": "0.6", "linewidth": 0.7}
        if j in worst:
            named = {"color": PALETTE[worst.index(j)], "linewidth": 1.4}
            named["label"] = f"{result.names[j]}, p {told(result.p_values[j].item())}"
        axes.plot(levels, held[:, j] - levels, **named)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    axes.set_xlim(0, 1)
    axes.set_xlabel("level of a central interval, given the rest of the row", fontsize=8)
    axes.set_ylabel("share of values within, less the level", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.set_title(
        f"Above: intervals too wide; below: too narrow ({len(result.names)} columns, p "
        f"{told(result.p_value)})",
        fontsize=9,
    )
    return figure
