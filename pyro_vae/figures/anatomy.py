"""Where the KL goes, latent by latent and part by part; and what it buys."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.ticker import MaxNLocator

from pyro_vae.checks import checked
from pyro_vae.evaluate.anatomy import ACTIVE, COLLAPSED, Anatomy
from pyro_vae.evaluate.rate_distortion import RateDistortion
from pyro_vae.figures.drawing import PALETTE, Figure, on, whole, within

PARTS = {
    "mutual_information": ("mutual information", PALETTE[0]),
    "total_correlation": ("total correlation", PALETTE[1]),
    "dimension_wise_kl": ("dimension-wise KL", PALETTE[2]),
    "marginal_kl": ("marginal KL", PALETTE[3]),
}
"""Of the KL, and their colours."""
BUSY, IDLE = "0.3", "0.75"
"""The colours of latents, which are none of their parts', and of what carries nothing."""


@checked
def anatomy(result: Anatomy, *, figure: FigureBase | None = None) -> Figure:
    """The KL of each latent, the largest first, level by level; and the parts of the KL.

    Latents that have collapsed, ``result.sites[name].dead``, are grey. Of guides and priors whose latents
    depend on each other, what x explains of each latent's variance is drawn instead.

    Args:
        result: of ``pv.evaluate.anatomy``.
        figure: a part of a figure of one's own, or all of it, to draw on.
    """
    host = within(figure, 10, 3.8)
    left, right = host.subplots(1, 2, width_ratios=[1.5, 1])
    _by_latent(left, result)
    _parts(right, result)
    return whole(host)


def _by_latent(axes: Any, result: Anatomy) -> None:
    own = not any(site.kl_by_latent.isnan().any() for site in result.sites.values())
    limit = COLLAPSED if own else ACTIVE
    start, middles = 0, {}
    for name, site in result.sites.items():
        share = site.variances / site.spreads.clamp(min=torch.finfo(site.spreads.dtype).tiny)
        values, order = (site.kl_by_latent if own else share).sort(descending=True)
        at = start + np.arange(len(values))
        axes.bar(at, values.numpy(), 0.85, color=[IDLE if dead else BUSY for dead in site.dead[order]])
        idle = site.collapsed
        middles[start + (len(values) - 1) / 2] = (
            f"{name}: {len(values) - idle} of {len(values)}\nabove {limit}"
        )
        start += len(values) + 1
    axes.axhline(limit, color="black", linewidth=0.8, linestyle="--")
    axes.set_xticks([*middles], [*middles.values()])
    axes.tick_params(axis="x", length=0)
    what = "KL of each latent" if own else "Share of each latent's variance that x explains"
    middle, reach = (start - 2) / 2, max(start, 9) / 2  # a few bars stand in the middle, and are not wide
    axes.set(title=f"{what}, largest first", xlim=(middle - reach, middle + reach))
    axes.set_ylabel("nats per datum" if own else "var E[z|x] / var z")


def _parts(axes: Any, result: Anatomy) -> None:
    rows: dict[str, Any] = {"all": result} if len(result.sites) > 1 else {}
    rows |= result.sites
    drawn: set[str] = set()
    for y, (_, part) in enumerate(rows.items()):
        told = {name: getattr(part, name, math.nan) for name in PARTS}
        split = told["total_correlation"] + told["dimension_wise_kl"]
        # The parts of a site's own marginal KL, and not of what it adds to that of those before it.
        whole = not math.isclose(split, told["marginal_kl"], abs_tol=1e-6)
        for name in ("total_correlation", "dimension_wise_kl") if whole else ("marginal_kl",):
            del told[name]
        ends = {True: 0.0, False: 0.0}
        for name, value in told.items():
            if not math.isnan(value):
                label = None if name in drawn else PARTS[name][0]
                drawn.add(name)
                axes.barh(y, value, 0.6, left=ends[value >= 0], color=PARTS[name][1], label=label)
                ends[value >= 0] += value
        if math.isnan(told["mutual_information"]):
            axes.barh(y, part.kl, 0.6, color=IDLE, label="KL")
    if math.log(result.num_data) < 1.2 * result.kl:
        axes.axvline(math.log(result.num_data), color="black", linewidth=0.8, linestyle=":", label="log N")
    axes.set_yticks(range(len(rows)), [*rows])
    axes.set_ylim(max(len(rows) - 0.4, 1), -0.6 if len(rows) > 1 else -1)
    axes.set(title=f"KL {result.kl:.2f}, in parts", xlabel="nats per datum")
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)


@checked
def rate_distortion(result: RateDistortion, *, ax: Axes | None = None) -> Figure:
    """Distortion against rate, a point for each program, above lines of one ELBO.

    Args:
        result: of ``pv.evaluate.rate_distortion``.
        ax: axes of a figure of one's own to draw on.
    """
    points = sorted(result.points.items(), key=lambda item: item[1].kl)
    rate = np.array([point.kl for _, point in points])
    distortion = np.array([point.reconstruction for _, point in points])
    figure, axes = on(ax, 5.6, 4.6)
    axes.plot(rate, distortion, "-", color="C0", linewidth=0.8)
    axes.plot(rate, distortion, "o", color="C0")
    margins = [0.12 * max(np.ptp(values), 0.02 * abs(values).max(), 1e-3) for values in (rate, distortion)]
    xlim = max(0.0, rate.min() - margins[0]), rate.max() + 1.5 * margins[0]
    ylim = distortion.min() - margins[1], distortion.max() + margins[1]
    told: list[tuple[float, float, str]] = []
    for (name, _), x, y in zip(points, rate, distortion, strict=True):
        if told and abs(x - told[-1][0]) < margins[0] / 4 and abs(y - told[-1][1]) < margins[1] / 4:
            x, y, before = told.pop()  # points that are nearly one have their names in one text
            name = f"{before}, {name}"
        told.append((x, y, name))
    for x, y, name in told:
        axes.annotate(name, (x, y), (5, 5), textcoords="offset points", fontsize="small")
    totals = MaxNLocator(8).tick_values(xlim[0] + ylim[0], xlim[1] + ylim[1])
    for total in totals[(totals > xlim[0] + ylim[0]) & (totals < xlim[1] + ylim[1])]:
        axes.plot(xlim, [total - x for x in xlim], color="0.8", linewidth=0.7, zorder=0)
        y = min(ylim[1], total - xlim[0])
        axes.annotate(
            f"{-total:g}", (total - y, y), (2, -9), textcoords="offset points", fontsize=7, color="0.5"
        )
    best = max(result.points.items(), key=lambda item: item[1].elbo)
    axes.set(
        title=f"Lines of one ELBO; the best, {best[0]}: {best[1].elbo:.2f} ± {best[1].standard_error:.2f}",
        xlabel="rate, KL(q(z|x) || p(z)) (nats per datum)",
        ylabel="distortion, -E[log p(x|z)] (nats per datum)",
        xlim=xlim,
        ylim=ylim,
    )
    return figure
