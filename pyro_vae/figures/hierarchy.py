"""What each of many levels of latents carries."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pyro_vae.checks import checked, found
from pyro_vae.figures.drawing import Figure, on


@checked
def kl_by_level(history: Sequence[dict[str, float]], *, ax: Axes | None = None) -> Figure:
    """The KL of each level of latents by epoch, one upon the other, so that their top is the KL of all.

    A level that collapses becomes a line. It is that of the validation data, or else of training.

    Args:
        history: of a run of a model of several latent sites, ``run.history``.
        ax: axes of a figure of one's own to draw on.

    Raises:
        ValueError: it is no such history.
    """
    names = [name for name in history[0] if name.startswith("kl_")] if history else []
    if not names:
        raise ValueError(
            f"history={found(history)} must be that of a model with several levels: run.history after "
            "pv.fit(pv.HierarchicalVAE(data.event_shape, latent_dims=(8, 4)), data)"
        )
    part = "validation" if f"validation_{names[0]}" in history[0] else "training"
    prefix = "validation_" if part == "validation" else ""
    values = np.array([[row[prefix + name] for row in history] for name in names])
    figure, axes = on(ax, 6.5, 4)
    epochs = [row["epoch"] for row in history]
    if len(epochs) == 1:  # which has no width
        epochs, values = [epochs[0] - 0.5, epochs[0] + 0.5], values.repeat(2, 1)
    colours = matplotlib.colormaps["viridis"](np.linspace(0.15, 0.85, len(names)))
    labels = [f"{name[3:]}: {value:.2f}" for name, value in zip(names, values[:, -1], strict=True)]
    axes.stackplot(epochs, values, labels=labels, colors=colours, edgecolor="white", linewidth=0.5)
    axes.set_xlim(epochs[0], epochs[-1])
    # The first epochs of an untrained model would flatten all that follows.
    axes.set_ylim(0.0, 1.1 * values.sum(0)[len(epochs) // 20 :].max())
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set(title=f"KL of each level, {part}", xlabel="epoch", ylabel="nats per datum")
    # As they lie, and with the last values.
    keys = (part[::-1] for part in axes.get_legend_handles_labels())
    axes.legend(*keys, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
