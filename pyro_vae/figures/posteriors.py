"""True posteriors of a plane of latents, and what the guide makes of them."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from matplotlib.figure import FigureBase
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from pyro import poutine
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide.initialization import init_to_value
from torch import Tensor

from pyro_vae.checks import Count, Seed, checked
from pyro_vae.constraints import onto, support
from pyro_vae.evaluate.reals import refuse_latent_weights
from pyro_vae.figures.drawing import Figure, whole, within
from pyro_vae.figures.stories import Data, some
from pyro_vae.objectives.importance import log_density
from pyro_vae.program import Batch, Program, sites
from pyro_vae.refinement import fit

SIDE = 80
"""Points of the grid in each direction."""
WIDER = 8
"""Times that the grid is made, at most, each wider by three fifths where the posterior reaches beyond."""
MASSES = (0.9, 0.5)
"""Of the regions of highest density that are drawn."""


@checked
def posteriors(
    program: Program,
    data: Data,
    *,
    num_data: Count = 4,
    num_steps: Count = 1000,
    num_samples: Count = 200,
    seed: Seed = 0,
    figure: FigureBase | None = None,
) -> Figure:
    r"""The posterior p(z|x) of some data on a plane of latents, and the guide's q(z|x) over it.

    Shaded is :math:`p(z \mid x) \propto p(z)\, p(x \mid z)` on a grid, and with dots draws of it by NUTS;
    lines are q(z|x) as the encoder has it, and the best member of its family, which
    ``pv.evaluate.inference_gap`` seeks: between the posterior and the latter is the approximation gap,
    between the two lines the amortisation gap. Regions of highest density hold 50 % and 90 %.

    Args:
        program: a model of one site of two latents.
        data: a batch, a split, or a tensor ``[N, *event_shape]``.
        num_data: how many are drawn, the first ones.
        num_steps: in which the best member is sought.
        num_samples: draws of NUTS for each datum, after as many to adapt.
        seed: of the draws.
        figure: a part of a figure of one's own, or all of it, to draw on.

    Raises:
        ValueError: the latents are no plane, or weights are latent, too.

    Reference: Hoffman and Gelman, 2014, "The No-U-Turn sampler"; Cremer, Li and Duvenaud, 2018, "Inference
    suboptimality in variational autoencoders".
    """
    refuse_latent_weights(program, "see figures.uncertainty")
    with program.evaluating(seed):
        batch = {name: value[:num_data] for name, value in some(program, data, num_data).items()}
        number = program.num_data(batch)
        own = _guides(program, batch)
        site, best = own[0], _guides(fit(program, batch, num_steps)[0], batch)[1]
        draws = _nuts(program, batch, {site: own[1].sample()}, num_samples)[site].reshape(-1, number, 2)
        near = torch.cat([draws, *(q.sample((500,)).reshape(-1, number, 2) for q in (own[1], best))])
        low, high = near.quantile(0.005, 0), near.quantile(0.995, 0)
        low, high = low - 0.2 * (high - low), high + 0.2 * (high - low)
        for _ in range(WIDER):
            steps = torch.linspace(0, 1, SIDE).to(low)[:, None, None] * (high - low)
            first, second = (low + steps).unbind(-1)  # [SIDE, B]
            grid = torch.stack([first.repeat(SIDE, 1), second.repeat_interleave(SIDE, 0)], -1)
            densities = _log_joint(program, batch, site, grid), own[1].log_prob(grid), best.log_prob(grid)
            wider = 0.3 * (high - low) * _cut_off(densities[0])[:, None]
            if not wider.any():
                break
            low, high = low - wider, high + wider
    columns = min(number, 4)
    rows = -(-number // columns)
    host = within(figure, 3 * columns, 3 * rows + 0.8)
    for i in range(number):
        axes = host.add_subplot(rows, columns, i + 1)
        at = first[:, i].cpu(), second[:, i].cpu()
        for log_p, colour, width in zip(densities, ("C0", "C3", "k"), (0.0, 1.2, 1.8), strict=True):
            p = log_p[:, i].cpu().double().softmax(0)
            levels, image = _levels(p), p.reshape(SIDE, SIDE)
            if width:
                axes.contour(*at, image, levels=levels, colors=colour, linewidths=width)
            else:
                axes.contourf(*at, image, levels=[*levels, p.max() * 1.01], colors=["#cfe1f2", "#93c3df"])
        axes.plot(*draws[:, i].cpu().T, ".", color="C0", markersize=2)
        axes.set_title(f"datum {i}", fontsize=9)
        if i >= number - columns:
            axes.set_xlabel(f"{site}[0]", fontsize=8)
        if i % columns == 0:
            axes.set_ylabel(f"{site}[1]", fontsize=8)
        axes.tick_params(labelsize=7)
    keys = [
        Patch(color="#93c3df", label="p(z|x), normalised on a grid"),
        Line2D([], [], color="C0", marker=".", linestyle="", label="draws of it by NUTS"),
        Line2D([], [], color="C3", label="q(z|x), of the encoder"),
        Line2D([], [], color="k", linewidth=1.8, label="q(z|x), the best of the family"),
    ]
    host.legend(handles=keys, loc="outside lower center", ncols=2, fontsize=8)
    host.suptitle(f"Posteriors of {site}: regions that hold 50 % and 90 %", fontsize=10)
    return whole(host)


def _guides(program: Program, batch: Batch) -> tuple[str, Any]:
    """The latents' site, and its distribution in the guide.

    Raises:
        ValueError: there are several, or not two latents.
    """
    found = dict(sites(poutine.trace(program.guide).get_trace(batch)))
    sizes = {name: site["value"][0].numel() for name, site in found.items()}
    if [*sizes.values()] != [2]:
        has = " and ".join(f"{name} has {size}" for name, size in sizes.items())
        raise ValueError(f"posteriors are drawn on a latent plane, but {has}; train with latent_dim=2")
    (site,) = sizes
    return site, found[site]["fn"]


def _log_joint(program: Program, batch: Batch, site: str, z: Tensor) -> Tensor:
    """log p(x, z) at values of the latents ``[G, B, 2]``: ``[G, B]``."""
    with pyro.plate("particles", len(z), dim=-1 - program.max_plate_nesting):
        trace = poutine.trace(poutine.condition(program.model, data={site: z})).get_trace(batch)
    return log_density(trace, trace.nodes, program)


def _nuts(program: Program, batch: Batch, start: Batch, num_samples: int) -> Batch:
    model = dict(sites(poutine.trace(program.model).get_trace(batch)))
    # Of a mixture's support Pyro knows no bijection.
    transforms = {name: onto(support(model[name]["fn"])).inv for name in start}
    kernel: Any = NUTS(program.model, init_strategy=init_to_value(values=start), transforms=transforms)
    chain = MCMC(kernel, num_samples, warmup_steps=num_samples, disable_progbar=True)
    with torch.enable_grad():
        chain.run(batch)
    return chain.get_samples()


def _cut_off(log_p: Tensor) -> Tensor:
    """Whether the outer region of each posterior ``[SIDE * SIDE, B]`` reaches the edge, nearly, ``[B]``."""
    p = log_p.double().softmax(0)
    level = torch.tensor([_levels(each)[0] for each in p.T.cpu()]).to(p)
    image = p.reshape(SIDE, SIDE, -1)
    edge = torch.cat([image[0], image[-1], image[:, 0], image[:, -1]])
    return (edge.amax(0) > 0.2 * level).to(log_p)


def _levels(p: Tensor) -> list[float]:
    """Densities that bound the regions of highest density which hold ``MASSES``."""
    ranked = p.sort(descending=True).values
    found = [ranked[ranked.cumsum(0) <= mass][-1:] for mass in MASSES]
    return [level.item() if len(level) else ranked[0].item() for level in found]
