"""Sequences with what is inferred of them: gaps filled, and forecasts."""

from __future__ import annotations

import math

import torch
from matplotlib.figure import FigureBase
from torch import Tensor

from pyro_vae.checks import Count, Seed, Whole, checked
from pyro_vae.evaluate.predict import predict
from pyro_vae.figures.drawing import NOT_OBSERVED, Figure, whole, within
from pyro_vae.figures.stories import Data, some
from pyro_vae.program import Program

BANDS = (0.9, 0.5)
"""Shares of the draws that lie within the bands."""


@checked
def forecast(
    program: Program,
    data: Data,
    *,
    truth: Tensor | None = None,
    num_data: Count = 3,
    num_samples: Count = 400,
    num_particles: Count = 1000,
    hmc: Whole = 0,
    seed: Seed = 0,
    figure: FigureBase | None = None,
) -> Figure:
    """Sequences over time, a panel for each column: what was observed, and what of the rest is inferred.

    Dots are observed values. Where a step is not observed (NaN) the ground is shaded; there a line is the
    median of ``pv.predict``'s draws, and bands hold 50 % and 90 % of them.

    Args:
        program: of sequences x ``(T, D)``.
        data: a batch, a split, or a tensor ``[N, T, D]``; NaN is not observed.
        truth: the values that were not observed, where they are known, ``[N, T, D]``, of the same data in
            the same order: small crosses.
        num_data: how many are drawn, the first ones, or all where there are fewer; panels tell which.
        num_samples: draws of each.
        num_particles: importance samples of each.
        hmc: steps of Hamiltonian Monte Carlo that move the draws on, where few of the samples count.
        seed: of the draws.
        figure: a part of a figure of one's own, or all of it, to draw on.

    Raises:
        ValueError: the data are no sequences of vectors, or the truth is of other data.
    """
    batch = {name: value[:num_data] for name, value in some(program, data, num_data).items()}
    x = batch["x"].cpu()
    if x.dim() != 3:
        raise ValueError(
            f"x has shape {list(x.shape)}, and a forecast is of sequences [N, T, D]; of one value at each "
            "step give x[..., None]"
        )
    if truth is not None and (truth.shape[1:] != x.shape[1:] or len(truth) < len(x)):
        raise ValueError(
            f"truth has shape {list(truth.shape)}, which is not that of the data that are drawn, "
            f"{list(x.shape)}; give x[...] of the same sequences, [N, T, D]"
        )
    drawn = predict(program, batch, num_samples, num_particles=num_particles, hmc=hmc, seed=seed)
    ends = sorted({end for band in BANDS for end in ((1 - band) / 2, (1 + band) / 2)} | {0.5})
    quantiles = dict(zip(ends, drawn.quantile(ends).cpu(), strict=True))
    number, steps, columns = x.shape
    wide, time = min(max(6.2, 1.2 + 0.12 * steps), 10), torch.arange(steps)  # the legend is 6 wide
    host = within(figure, wide, 1.6 * number * columns + 0.6)
    axes = host.subplots(number * columns, 1, sharex=True, squeeze=False)[:, 0]
    for row, ax in enumerate(axes):
        i, j = divmod(row, columns)
        missing = x[i, :, j].isnan()
        ax.fill_between(
            *_edges(time, missing), transform=ax.get_xaxis_transform(), color=NOT_OBSERVED, alpha=0.4, lw=0
        )
        for band, shade in zip(BANDS, (0.25, 0.45), strict=True):
            low, high = (quantiles[end][i, :, j] for end in ((1 - band) / 2, (1 + band) / 2))
            ax.fill_between(time, low, high, color="C0", alpha=shade, lw=0, label=f"{band:.0%} of draws")
        ax.plot(time, quantiles[0.5][i, :, j], color="C0", lw=1.2, label="median")
        ax.plot(time, x[i, :, j], ".", color="black", markersize=4, label="observed")
        if truth is not None:
            hidden = truth[i, :, j].cpu().masked_fill(~missing, math.nan)
            ax.plot(time, hidden, "x", color="C3", markersize=4, label="not shown to the model")
        ax.set_ylabel(f"x[{j}]" + f", datum {i}", fontsize=8)
        ax.tick_params(labelsize=7)
    axes[-1].set_xlabel("step", fontsize=8)
    host.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=5,
        fontsize=8,
        columnspacing=1.2,
        handlelength=1.5,
    )
    host.suptitle("What is observed (dots), and p(the rest | it)", fontsize=10)
    return whole(host)


def _edges(time: Tensor, missing: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the shaded ground: each step half a step to either side, from 0 to 1 where it is missing."""
    ends = torch.stack([time - 0.5, time + 0.5], 1).flatten()
    high = missing.to(torch.float32).repeat_interleave(2)
    return ends, torch.zeros_like(high), high
