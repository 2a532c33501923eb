"""The latents of a program on the reals, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Transform

from pyro_vae.constraints import onto, support
from pyro_vae.program import Batch, Program


class Reals:
    """Maps latents of some sites, ``[S, ..., B, *event_shape]``, to vectors u, ``[S, B, D]``, and back.

    Args:
        program: whose latents they are.
        sites: of a trace of its model, by name.
        instead: what is to be done where a site is discrete, for the message.

    Raises:
        ValueError: a site is discrete.
    """

    def __init__(self, program: Program, sites: Mapping[str, Any], instead: str):
        self.at = program.max_plate_nesting  # the dimension of data, after that of draws
        self.maps: dict[str, Transform] = {}
        for name, site in sites.items():
            if support(site["fn"]).is_discrete:
                raise ValueError(f"HMC moves continuous latents, and {name} is not: {instead}")
            self.maps[name] = onto(support(site["fn"]))
        self.shapes: dict[str, torch.Size] = {}

    def pack(self, values: Batch) -> Tensor:
        """Values by site to u."""
        parts = []
        for name, onto_support in self.maps.items():
            u = onto_support.inv(values[name]).movedim(self.at, 1)
            self.shapes[name] = u.shape[2:]
            parts.append(u.reshape(*u.shape[:2], -1))
        return torch.cat(parts, -1)

    def unpack(self, u: Tensor) -> tuple[Batch, Tensor]:
        """u to values by site, and log the change of volume, ``[S, B]``."""
        values, change = {}, u.new_zeros(())
        parts = u.split([math.prod(shape) for shape in self.shapes.values()], -1)
        for (name, onto_support), part in zip(self.maps.items(), parts, strict=True):
            part = part.reshape(*u.shape[:2], *self.shapes[name]).movedim(1, self.at)
            values[name] = onto_support(part)
            volume = onto_support.log_abs_det_jacobian(part, values[name])
            change = change + volume.movedim(self.at, 1).reshape(*u.shape[:2], -1).sum(-1)
        return values, change


def refuse_latent_weights(program: Program, instead: str) -> None:
    """Refuses a program whose weights are latent: its density is another each time that it is asked for.

    Raises:
        ValueError: it is one.
    """
    if program.bayesian:
        raise ValueError(
            "latents of a datum are told at weights that stay, and those of the network of "
            f"{program.bayesian[0]} are latent, drawn anew for each density: {instead}"
        )


def model_at(program: Program, batch: Batch, latents: Batch) -> poutine.Trace:
    """The trace of the model at these values of all latents, ``[S, ..., B, *event_shape]``."""
    return _at(program, program.model, batch, latents)


def guide_at(program: Program, batch: Batch, latents: Batch) -> poutine.Trace:
    """Likewise of the guide."""
    return _at(program, program.guide, batch, latents)


def _at(program: Program, story: Any, batch: Batch, latents: Batch) -> poutine.Trace:
    number = len(next(iter(latents.values())))
    with pyro.plate("particles", number, dim=-1 - program.max_plate_nesting):
        return poutine.trace(poutine.condition(story, data=cast(Any, latents))).get_trace(batch)
