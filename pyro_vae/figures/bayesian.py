"""What is not known of a network's weights, seen in the plane of the latents."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.axes import Axes
from pyro import poutine

from pyro_vae.checks import Count, Seed, checked
from pyro_vae.distributions import centre
from pyro_vae.evaluate.latents import Draws
from pyro_vae.evaluate.reals import model_at
from pyro_vae.figures.drawing import Figure, on
from pyro_vae.figures.stories import Data, inferred, repeated, some
from pyro_vae.program import Program, sites

MOST = 2000
"""Data whose codes are drawn."""


@checked
def uncertainty(
    program: Program,
    data: Data,
    num_steps: Count = 40,
    *,
    num_samples: Draws = 30,
    seed: Seed = 0,
    ax: Axes | None = None,
) -> Figure:
    r"""How much p(x|z) differs from draw to draw of the decoder's weights, over a plane of latents.

    .. math:: u(z) = \Big( \frac1D \sum_d \mathrm{Var}_{q(w)} \, E[x_d \mid z, w] \Big)^{1/2}

    Dots are the means of the data's q(z|x): the decoder is known there, and less where there are none.

    Args:
        program: a model with two latents, whose decoder has latent weights (``nets.bayesian``).
        data: whose codes are drawn, a split or x ``[N, *event_shape]``; with what the model is given.
        num_steps: points of the plane in each direction, over twice the range of the codes, where no data
            lie, too; and at least over the middle 99 % of the prior.
        num_samples: draws of the weights.
        seed: of them.
        ax: axes of a figure of one's own to draw on.

    Raises:
        ValueError: no weights are latent, or there are not two latents.
    """
    if not program.bayesian:
        raise ValueError(
            f"no weights of this {type(program).__name__} are latent; make it with some, "
            "decoder=pv.nets.bayesian(pv.nets.mlp(50))"
        )
    with program.evaluating(seed):
        batch = some(program, data, MOST)
        _, values = inferred(program, batch)
        if [tuple(value.shape[1:]) for value in values.values()] != [(2,)]:
            told = ", ".join(f"{name} of shape {list(value.shape)}" for name, value in values.items())
            raise ValueError(f"a map needs a latent plane, but there are {told}; train with latent_dim=2")
        ((site, codes),) = values.items()
        low, high = codes.amin(0), codes.amax(0)
        middle, reach = (low + high) / 2, (high - low).clamp(min=1.0)
        first = {name: value[:1] for name, value in batch.items()}
        drawn: Any = poutine.trace(program.model).get_trace(repeated(first, 2000)).nodes[site]
        prior = drawn["value"].quantile(torch.tensor([0.005, 0.995]).to(codes), 0)
        low, high = prior[0].minimum(middle - reach), prior[1].maximum(middle + reach)
        ends = [*zip(low.tolist(), high.tolist(), strict=True)]
        x, y = (torch.linspace(*end, num_steps).to(codes) for end in ends)
        z = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 2)
        one = repeated(first, len(z))
        at = {site: z.expand(num_samples, *[1] * (program.max_plate_nesting - 1), *z.shape)}
        p_x: Any = dict(sites(model_at(program, one, at)))["x"]["fn"]
        mean = centre(p_x)[0].to(codes).reshape(num_samples, len(z), -1)
        spread = mean.var(0).mean(-1).sqrt().reshape(num_steps, num_steps)
    figure, axes = on(ax, 6.4, 5.2)
    (left, right), (bottom, top) = ends
    image = axes.imshow(
        spread.cpu().numpy(), origin="lower", extent=(left, right, bottom, top), aspect="auto", cmap="magma"
    )
    axes.plot(*codes.cpu().T.numpy(), ".", color="white", markersize=2, alpha=0.6)
    axes.figure.colorbar(image, ax=axes, label="standard deviation of E[x|z, w] over q(w)")
    axes.set(title="Where the decoder is not known", xlabel=f"{site}[0]", ylabel=f"{site}[1]")
    axes.set(xlim=(left, right), ylim=(bottom, top))
    return figure
