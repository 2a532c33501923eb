"""Calibration of a guide: histograms of ranks, their distribution functions, and expected coverage."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import FigureBase

from pyro_vae.checks import checked
from pyro_vae.evaluate.calibration import DISTANCE, Calibration, told
from pyro_vae.evaluate.uniform import UniformRanks
from pyro_vae.figures.drawing import PALETTE, Figure, whole, within

WORST, BINS = 4, 20
"""Quantities that are named; and bins of a histogram, at most."""
BAND = "0.88"
"""Its colour."""


@checked
def calibration(result: Calibration, *, figure: FigureBase | None = None) -> Figure:
    """Ranks of the truth among draws of the guide, of all quantities; the four worst are named.

    Above their histograms: heaped at both ends if the guide is too narrow, in the middle if it is too wide,
    and to the right where the truth lies above. Below all distribution functions, less the uniform one, and
    the expected coverage of regions around random points. A curve leaves the grey band exactly where its
    p-value, corrected for the number of quantities, is below 0.05.

    Args:
        result: of ``pv.evaluate.calibration``.
        figure: a part of a figure of one's own, or all of it, to draw on.

    Reference: Säilynoja, Bürkner and Vehtari, 2022, "Graphical test for discrete uniformity"; Lemos et al.,
    2023, "Sampling-based accuracy testing of posterior estimators for general inference".
    """
    ranks, number = result.ranks.numpy(), len(result.names)
    uniform = UniformRanks(*(size := (result.num_simulations, result.num_samples)))
    worst = result.p_values.argsort()[:WORST].tolist()
    colour = {i: PALETTE[place] for place, i in enumerate(worst)}
    host = within(figure, 10, 5.6)
    above, below = host.subfigures(2, 1, height_ratios=[1, 1.5])
    for i, axes in zip(worst, above.subplots(1, WORST, sharey=True, squeeze=False)[0], strict=False):
        _histogram(axes, ranks[:, i], *size, colour[i])
        axes.set_title(f"{result.names[i]}, p {told(result.p_values[i].item())}", fontsize=9)
    above.axes[0].set_ylabel("frequency\n(1: as expected)", fontsize=8)
    for axes in above.axes[len(worst) :]:
        axes.set_axis_off()
    left, right = below.subplots(1, 2, width_ratios=[1.6, 1])
    band = [np.concatenate([[0], bound / size[0], [1]]) for bound in uniform.band(1 - 0.05 / number)]
    at = np.concatenate([[0], uniform.at, [1]])
    curves = np.pad(uniform.below(ranks) / size[0], ((1, 1), (0, 0)))
    curves[-1] = 1
    for axes, start in ((left, at), (right, 0 * at)):
        axes.fill_between(at, *(bound - start for bound in band), color=BAND, linewidth=0)
        axes.plot(at, at - start, color="0.5", linewidth=0.8, linestyle="--")
        axes.tick_params(labelsize=8)
        axes.set_xlim(0, 1)
    for i in sorted(range(number), key=lambda i: i in colour):
        named: dict[str, Any] = {"color": colour.get(i, "0.6"), "linewidth": 1.4 if i in colour else 0.7}
        left.plot(at, curves[:, i] - at, label=result.names[i] if i in colour else None, **named)
    left.legend(fontsize=8, ncols=2)
    left.set_xlabel("rank / number of draws", fontsize=8)
    left.set_title(f"Share of ranks below, less that expected: {number} quantities", fontsize=9)
    right.plot(at, curves[:, result.names.index(DISTANCE)], color="0.2", linewidth=1.2)
    right.set(ylim=(0, 1))
    right.set_xlabel("credibility of a region around a random point", fontsize=8)
    right.set_ylabel("share of truths within", fontsize=8)
    right.set_title("Expected coverage", fontsize=9)
    host.suptitle(
        f"Ranks of the truth among draws of the guide, p {told(result.p_value)}; grey: 95 % of calibrated "
        "guides stay within",
        fontsize=10,
    )
    return whole(host)


def _histogram(axes: Any, ranks: np.ndarray, size: int, num_draws: int, colour: str) -> None:
    """How often ranks lie in each bin, over how often they should."""
    from scipy.stats import binom  # which is slow to import

    edges = np.linspace(0, num_draws + 1, min(BINS, num_draws + 1) + 1).round()
    share = np.diff(edges) / (num_draws + 1)
    bounds = [binom.ppf(q, size, share) / size / share for q in (0.025, 0.975)]
    axes.stairs(bounds[1], edges, baseline=bounds[0], fill=True, color=BAND, linewidth=0)
    axes.stairs(np.histogram(ranks, edges)[0] / size / share, edges, color=colour, linewidth=1.2)
    axes.axhline(1, color="0.5", linewidth=0.8, linestyle="--")
    axes.set_xlim(0, num_draws + 1)
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=7)
    axes.set_xlabel("rank; grey: 95 % of each bin", fontsize=7)
