"""What the latents are used for."""

from __future__ import annotations

import contextlib
import math
from typing import Annotated, Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.checks import Limit, NotNegative, Seed, checked
from pyro_vae.evaluate.door import Data, as_split, check
from pyro_vae.evaluate.likelihood import over_batches
from pyro_vae.program import Batch, Program, sites

Draws = Annotated[int, Limit(2, math.inf, "2 or more")]


@checked
def active_units(
    program: Program,
    data: Data,
    *,
    threshold: NotNegative = 0.01,
    num_samples: Draws = 100,
    seed: Seed = 0,
) -> dict[str, int]:
    r"""Number of latents d of each site with :math:`\mathrm{Var}_x(E_{q(z|x)}[z_d])` above a threshold.

    Means are those of the guide's distributions where they have one, else of draws, and over draws of the
    latents that the guide draws before; less what noise of the draws adds to the variance.

    Args:
        program: the model.
        data: a split such as ``data.test``, a batch, or a tensor ``[N, *event_shape]``.
        threshold: of the variance.
        num_samples: draws of z per datum.
        seed: of the draws.

    Returns:
        By latent site, such as ``{"z": 17}``.

    Reference: Burda, Grosse and Salakhutdinov, 2016, "Importance weighted autoencoders", section 5.
    """
    split = as_split(data, program)
    check(program, split)
    sizes: dict[str, int] = {}

    def moments(batch: Batch) -> Tensor:
        with pyro.plate("particles", num_samples, dim=-1 - program.max_plate_nesting):
            trace = poutine.trace(program.guide).get_trace(batch)
        found = {name: posterior_moments(site, program.dtype) for name, site in sites(trace)}
        sizes.update({name: len(mean) for name, (mean, _) in found.items()})
        return torch.cat([torch.stack(pair) for pair in found.values()], 1)  # [2, latents, B]

    mean, noise = over_batches(program, split, moments, 1000, seed, "active units").double()
    active = (variance_of_means(mean, noise) > threshold).split(list(sizes.values()))
    return {name: int(units.sum()) for name, units in zip(sizes, active, strict=True)}


def posterior_moments(site: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The mean of a site of a guide of several particles, and the variance of its noise, ``[D, B]`` each."""
    value, means = site["value"], site["value"]
    with contextlib.suppress(NotImplementedError, AttributeError):
        mean = site["fn"].mean
        means = mean.expand(value.shape) if mean.isfinite().all() else value
    each = by_latent(means, len(site["fn"].event_shape)).to(dtype)
    return each.mean(0).mT, each.var(0).mT / len(each)


def variance_of_means(means: Tensor, noise: Tensor) -> Tensor:
    """Var_x(E[z_d|x]), ``[D]``, of means ``[D, N]`` that are noisy; 0 of a single datum."""
    if means.shape[1] < 2:
        return torch.zeros(len(means), dtype=means.dtype)
    return means.var(1) - noise.mean(1)


def by_latent(values: Tensor, event_dim: int) -> Tensor:
    """Of values ``[K, ..., B, *event_shape]``, those of each datum side by side: ``[K, B, D]``."""
    first = values.movedim(values.dim() - 1 - event_dim, 1)
    return first.reshape(*first.shape[:2], -1)
