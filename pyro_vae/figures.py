"""Pictures of a VAE. Each function returns a matplotlib Figure; notebooks show it, and
``figure.savefig(path)`` keeps it.

Images are drawn by the mean of p(x|z), or its median or mode if it has no mean, on one grey scale per
figure; data that are no images, as curves over their index.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.figure
import numpy as np
import torch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyro_vae import distributions
from pyro_vae.vae import VAE


class Figure(matplotlib.figure.Figure):
    """A figure that a notebook shows where it is the value of a cell, whatever matplotlib's backend."""

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.savefig(png, format="png")
        return png.getvalue()


def samples(vae: VAE, num_samples: int = 64, *, seed: int = 0) -> Figure:
    """Data generated from the model: the mean of p(x|z) at draws z ~ p(z), in a square grid."""
    side = max(1, int(num_samples**0.5))
    with vae.evaluating(seed):
        x, centre = distributions.centre(vae.decode(vae.prior().sample((num_samples,))))
    rows = [x[i : i + side] for i in range(0, num_samples, side)]
    return grid(rows, f"Generated data: {centre} of p(x|z), z ~ p(z)")


def reconstructions(vae: VAE, x: Tensor) -> Figure:
    """Data ``[N, *event_shape]`` (above) and the mean of p(x|z) at the mean of q(z|x) (below).

    Values beyond the range of the data, which a Normal may have, are drawn as its ends.
    """
    with vae.evaluating():
        x = x.to(vae.input_loc)
        y, centre = distributions.centre(vae.decode(distributions.centre(vae.encode(x))[0]))
    return grid(
        [x, y.clamp(x.min(), x.max())], f"Data (above) and reconstructions, the {centre} of p(x|z) (below)"
    )


def interpolation(vae: VAE, start: Tensor, end: Tensor, num_steps: int = 12) -> Figure:
    """One datum turning into another, along the line between the means of their q(z|x).

    The first and last picture are the data, ``start`` and ``end`` of shape ``event_shape``.
    """
    with vae.evaluating():
        ends = torch.stack([start, end]).to(vae.input_loc)
        a, b = distributions.centre(vae.encode(ends))[0]
        t = torch.linspace(0, 1, num_steps).to(ends)[:, None]
        x, _ = distributions.centre(vae.decode((1 - t) * a + t * b))
    return grid([torch.cat([ends[:1], x, ends[1:]])], "From one datum to another in latent space")


def traversals(vae: VAE, x: Tensor, num_steps: int = 11, *, max_rows: int = 10) -> Figure:
    """Each latent of one datum in turn varied over the prior's quantiles, the others kept.

    Args:
        vae: the model.
        x: one datum, ``event_shape``.
        num_steps: quantiles from 0.05 to 0.95.
        max_rows: latents drawn, those with the sharpest q(z|x) first.
    """
    with vae.evaluating():
        q_z = vae.encode(x[None].to(vae.input_loc))
        sharpest = q_z.sample((1000,)).std(0)[0].argsort()[:max_rows]
        quantiles = _quantiles(vae, num_steps)
        z = distributions.centre(q_z)[0].repeat(len(sharpest), num_steps, 1)
        for row, d in zip(z, sharpest.tolist(), strict=True):
            row[:, d] = quantiles[:, d]
        rows = list(distributions.centre(vae.decode(z))[0])
    labels = [f"z[{d}]" for d in sharpest.tolist()]
    return grid(rows, "One latent at a time, over quantiles 0.05 to 0.95 of p(z)", labels)


def manifold(vae: VAE, num_steps: int = 15) -> Figure:
    """Map of a 2-D latent plane: the mean of p(x|z) on a square grid of the prior's quantiles.

    Raises:
        ValueError: the latent space is not 2-D.
    """
    if vae.latent_dim != 2:
        raise ValueError(
            f"a map needs a latent plane, but latent_dim={vae.latent_dim}; train with latent_dim=2, "
            "or look at figures.traversals"
        )
    with vae.evaluating():
        first, second = _quantiles(vae, num_steps).T
        z = torch.stack(torch.meshgrid(first, second.flip(0), indexing="xy"), -1)
        x, _ = distributions.centre(vae.decode(z))
    return grid(list(x), "Map of the latent plane, over quantiles 0.05 to 0.95 of p(z)")


def latents(vae: VAE, x: Tensor, labels: Tensor | None = None) -> Figure:
    """Scatter of the means of q(z|x), coloured by class: the latent plane, or its main plane.

    With more than two latents, the projection on their first two principal components.
    """
    with vae.evaluating():
        z, centre = distributions.centre(vae.encode(x.to(vae.input_loc)))
        z = z.cpu()
        jitter = torch.rand(len(z), 1) - 0.5
    names = ["z[0]", "z[1]"]
    if vae.latent_dim == 1:
        z, names = torch.cat([z, jitter.to(z)], 1), ["z[0]", "(jitter)"]
    elif vae.latent_dim > 2:
        centred = z - z.mean(0)
        _, s, directions = torch.linalg.svd(centred, full_matrices=False)
        shares = (s.square() / s.square().sum()).tolist()
        z = centred @ directions[:2].T
        names = [f"principal component {i + 1} ({shares[i]:.0%} of the variance)" for i in (0, 1)]
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.add_subplot()
    if labels is None:
        axes.scatter(z[:, 0], z[:, 1], s=6, alpha=0.6)
    else:
        classes = labels.unique().tolist()
        colours = dict(zip(classes, _colours(len(classes)), strict=True))
        # In the order of the data, so that no class covers another.
        axes.scatter(z[:, 0], z[:, 1], s=6, alpha=0.7, color=[colours[label] for label in labels.tolist()])
        for label, colour in colours.items():
            axes.scatter([], [], s=6, color=colour, label=str(label))
        if len(classes) <= 20:
            axes.legend(title="class", markerscale=2, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set(title=f"The {centre} of each q(z|x), {len(z)} data", xlabel=names[0], ylabel=names[1])
    return figure


def comparison(vaes: Mapping[str, VAE], x: Tensor, *, seed: int = 0) -> Figure:
    """Data ``[N, *event_shape]``, and for each of several VAEs their reconstructions and N draws."""
    rows, labels = [x.cpu()], ["data"]
    for name, vae in vaes.items():
        with vae.evaluating(seed):
            z = distributions.centre(vae.encode(x.to(vae.input_loc)))[0]
            for kind, latent in (("reconstructed", z), ("drawn", vae.prior().sample((len(x),)))):
                rows.append(distributions.centre(vae.decode(latent))[0].cpu())
                labels.append(f"{name}: {kind}")
    return grid(rows, "Data, reconstructions and draws of each model", labels)


def training_curves(history: Sequence[dict[str, float]]) -> Figure:
    """ELBO, reconstruction and KL by epoch, from the rows of a run's history."""
    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, key, title in zip(
        figure.subplots(1, 3),
        ("elbo", "reconstruction", "kl"),
        ("ELBO", "Reconstruction, -E[log p(x|z)]", "KL(q(z|x) || p(z))"),
        strict=True,
    ):
        shown: list[float] = []
        for prefix, label in (("", "training"), ("validation_", "validation")):
            if prefix + key in history[0]:
                values = [row[prefix + key] for row in history]
                axes.plot(epochs, values, label=label)
                # The first epochs of an untrained model would flatten all that follows.
                shown += values[len(values) // 20 :]
        margin = 0.1 * (max(shown) - min(shown)) or 1.0
        axes.set_ylim(min(shown) - margin, max(shown) + margin)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(title=title, xlabel="epoch", ylabel="nats per datum")
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def _quantiles(vae: VAE, num_steps: int) -> Tensor:
    """Quantiles 0.05 to 0.95 of each latent under the prior, ``[num_steps, D]``."""
    p_z: Any = vae.prior()
    levels = torch.linspace(0.05, 0.95, num_steps).to(vae.input_loc)
    try:
        quantiles: Tensor = p_z.base_dist.icdf(levels[:, None])
        return quantiles.expand(num_steps, vae.latent_dim)
    except (AttributeError, NotImplementedError):
        return p_z.sample((100_000,)).quantile(levels, dim=0)


def _colours(number: int) -> Any:
    import matplotlib

    name = "tab10" if number <= 10 else "tab20" if number <= 20 else "turbo"
    palette = matplotlib.colormaps[name]
    return [palette(i if number <= 20 else i / (number - 1)) for i in range(number)]


def grid(rows: Sequence[Tensor], title: str, labels: Sequence[str] = ()) -> Figure:
    """Rows of data in one picture, on one grey scale: images, or curves.

    Args:
        rows: each ``[columns, *event_shape]``; they may differ in length.
        title: above them.
        labels: one beside each row.
    """
    columns = max(len(row) for row in rows)
    arrays = [row.float().cpu().numpy() for row in rows]
    event_shape = arrays[0].shape[1:]
    low, high = (float(f([f(a) for a in arrays])) for f in (np.min, np.max))
    scale = (high - low) or 1.0
    size = max(0.35, min(0.75, 9 / columns))
    beside = 0.12 * max(map(len, labels), default=0)
    wide = max(4, 0.09 * len(title), size * columns) + beside
    figure = Figure(figsize=(wide, size * len(rows) + 0.4), layout="constrained")
    axes = figure.add_subplot()
    height, width = event_shape[-2:] if len(event_shape) > 1 else (1, max(1, event_shape[0] - 1))
    gap = (max(1, height // 14), max(1, width // 14)) if len(event_shape) > 1 else (0.2, 0.1 * width)
    step = height + gap[0], width + gap[1]
    if len(event_shape) == 1:
        for i, array in enumerate(arrays):
            for j, curve in enumerate(array):
                x = j * step[1] + np.arange(len(curve))
                axes.plot(
                    x,
                    i * step[0] + 1 - (curve - low) / scale,
                    "C0.-" if len(curve) < 3 else "C0-",
                    linewidth=0.8,
                )
        axes.invert_yaxis()
    else:
        colour = len(event_shape) == 3 and event_shape[0] == 3
        blank = (len(rows) * step[0] - gap[0], columns * step[1] - gap[1], 3)
        mosaic = np.full(blank, np.nan, np.float32)
        for i, array in enumerate(arrays):
            for j, image in enumerate(array):
                channels = image.reshape(-1, height, width)[: 3 if colour else 1]
                top, left = i * step[0], j * step[1]
                mosaic[top : top + height, left : left + width] = channels.transpose(1, 2, 0)
        axes.imshow(np.nan_to_num((mosaic - low) / scale, nan=1.0), interpolation="nearest")
    axes.set_title(title)
    axes.set_xticks([])
    axes.set_yticks([i * step[0] + height / 2 for i in range(len(labels))], labels)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure
