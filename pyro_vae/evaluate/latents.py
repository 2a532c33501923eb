"""What the latents are used for."""

from __future__ import annotations

import math
from typing import Annotated

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.checks import Limit, NotNegative, Seed, checked
from pyro_vae.evaluate.door import Data, as_split, check
from pyro_vae.evaluate.likelihood import over_batches
from pyro_vae.program import Batch, Program, sites


@checked
def active_units(
    program: Program,
    data: Data,
    *,
    threshold: NotNegative = 0.01,
    num_samples: Annotated[int, Limit(2, math.inf, "2 or more")] = 100,
    seed: Seed = 0,
) -> dict[str, int]:
    r"""Number of latents d of each site with :math:`\mathrm{Var}_x(E_{q(z|x)}[z_d])` above a threshold.

    Estimated from draws for every guide alike, less what their noise adds to the variance.

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
        found = []
        for name, site in sites(trace):
            z = site["value"].reshape(num_samples, len(next(iter(batch.values()))), -1).to(program.dtype)
            sizes[name] = z.shape[-1]
            found.append(torch.stack([z.mean(0), z.var(0)]))
        return torch.cat(found, -1).movedim(1, -1)  # [2, latents, B]

    mean, variance = over_batches(program, split, moments, 1000, seed, "active units").double()
    active = (mean.var(1) - variance.mean(1) / num_samples > threshold).split(list(sizes.values()))
    return {name: int(units.sum()) for name, units in zip(sizes, active, strict=True)}
