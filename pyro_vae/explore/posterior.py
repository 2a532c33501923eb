"""A density on a plane, normalised on a grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

SIDE, COARSE = 64, 32
"""Cells in each direction, of the grid that is kept, and of those by which its place is found."""
ZOOMS = 4
"""Of these at most so many."""
NEGLIGIBLE = 10.0
"""Nats below the highest density, from which on a cell is left out."""


@dataclass(frozen=True)
class Grid:
    """A density on the cells of a box.

    Attributes:
        low: corner of the box, ``[2]``.
        high: the opposite one.
        log_p: normalised log-density at the middle of each cell, ``[SIDE, SIDE]``, rows along the second
            coordinate.
        log_evidence: log of the integral by which it was normalised.
    """

    low: Tensor
    high: Tensor
    log_p: Tensor
    log_evidence: float


def on_grid(log_density: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Grid:
    r"""Normalises a density on the cells where it has its mass, which are sought within a box.

    .. math:: p_{ij} = \frac{f(u_{ij})}{\Delta \sum_{kl} f(u_{kl})}, \qquad
        \log \int f \approx \log \Delta \sum_{kl} f(u_{kl})

    with :math:`\Delta` the area of a cell. A mode that lies between the points of the first grid and is far
    narrower than its cells is found if the density rises towards it.

    Args:
        log_density: of points ``[G, 2]``, up to a constant, ``[G]``.
        low: corner of the box, ``[2]``.
        high: the opposite one.
    """
    for _ in range(ZOOMS):
        points, cell = _middles(low, high, COARSE)
        log_p = log_density(points)
        near = points[log_p > log_p.max() - NEGLIGIBLE]
        size = high - low
        low, high = near.amin(0) - cell, near.amax(0) + cell
        if (high - low > 0.7 * size).all():
            break
    points, cell = _middles(low, high, SIDE)
    log_p = log_density(points).double()
    log_evidence = log_p.logsumexp(0) + cell.double().log().sum()
    return Grid(low, high, (log_p - log_evidence).reshape(SIDE, SIDE), log_evidence.item())


def _middles(low: Tensor, high: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The middles of the cells of a box, ``[side^2, 2]``, the first coordinate fastest; and a cell's size."""
    cell = (high - low) / side
    first, second = ((torch.arange(side).to(low) + 0.5)[:, None] * cell + low).unbind(1)
    return torch.stack([first.repeat(side), second.repeat_interleave(side)], 1), cell
