"""A step of Hamiltonian Monte Carlo, of many chains of many data at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

ACCEPTANCE = 0.8
"""The share of proposals that the step size aims at."""

Densities = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Of u ``[S, B, D]``: a few log-densities ``[E, S, B]``, and their slopes ``[E, S, B, D]``."""


class Point(NamedTuple):
    """Where chains are, ``[S, B, D]``, with the log-densities there, ``[E, S, B]``, and their slopes."""

    u: Tensor
    logs: Tensor
    slopes: Tensor


def begin(densities: Densities, u: Tensor) -> Point:
    """Chains at u."""
    return Point(u, *densities(u))


def move(
    densities: Densities,
    point: Point,
    weights: Tensor,
    step: Tensor,
    momentum: Tensor,
    uniform: Tensor,
    leapfrogs: int,
) -> tuple[Point, Tensor]:
    r"""Moves all chains, so that they stay draws of :math:`\prod_e f_e(u)^{w_e}`.

    Args:
        densities: the logarithms of f, with slopes.
        point: where the chains are.
        weights: w, ``[E, 1, 1]``.
        step: of each datum, by dimension or of all, ``[B, D]`` or ``[B, 1]``.
        momentum: standard Normal, ``[S, B, D]``.
        uniform: from 0 to 1, ``[S, B]``.
        leapfrogs: how many steps a proposal is away.

    Returns:
        Where they are then, and the chance that each had to move, ``[S, B]``.

    Reference: Neal, 2011, "MCMC using Hamiltonian dynamics".
    """

    def slope(at: Point) -> Tensor:
        return (weights[..., None] * at.slopes).sum(0)

    new, p = point, momentum
    for _ in range(leapfrogs):
        p = p + 0.5 * step * slope(new)
        new = begin(densities, new.u + step * p)
        p = p + 0.5 * step * slope(new)
    gain = (weights * new.logs).sum(0) - (weights * point.logs).sum(0)
    gain = gain + 0.5 * (momentum.square() - p.square()).sum(-1)
    chance = gain.exp().clamp(max=1.0).nan_to_num(0.0)  # 0 where the way has left the support
    taken = uniform < chance
    u, slopes = (
        torch.where(taken[..., None], *pair) for pair in ((new.u, point.u), (new.slopes, point.slopes))
    )
    return Point(u, torch.where(taken, new.logs, point.logs), slopes), chance
