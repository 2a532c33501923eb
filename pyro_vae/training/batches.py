"""Which data each step of an epoch takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.data import Split
from pyro_vae.data.source import Memory, sent

LAUNCHED_STEPS, LAUNCHED_NUMBERS = 1, 2**23
"""Steps on a GPU that are one launch at most, and numbers of their batches, which are copied for it. More
steps than one (64, say) have been tried in whole runs on a stand-in for a GPU only."""


@dataclass(frozen=True)
class Batches:
    """The batches of an epoch: each datum once, some again, in an order drawn by a seed.

    Args:
        split: the training data.
        again: indices ``[M]`` of those that are taken once more.
        size: data of a batch, but for the last.
        every: after so many batches there is a checkpoint; None, at the epoch's end alone.
    """

    split: Split
    again: Tensor
    size: int
    every: int | None = None

    @property
    def number(self) -> int:
        """Data that an epoch takes, of which some may be taken again."""
        return len(self.split) + len(self.again)

    def __len__(self) -> int:
        return math.ceil(self.number / self.size)

    def size_of(self, batch: int) -> int:
        """How many data a batch has, in all processes together."""
        return min(self.size, self.number - batch * self.size)

    def order(self, seed: int) -> Tensor:
        """Indices of all that an epoch takes, ``[number]``."""
        return mixed(self.split.shuffled(seed), self.again, seed)

    def at_once(self, batch: int) -> int:
        """Steps that one launch may take from a batch on: none is small or beyond a checkpoint."""
        left = self.number // self.size - batch
        if self.every:
            left = min(left, self.every - batch % self.every)
        # Rows of a file are drawn by the batch that they are read in.
        if left < 2 or not all(isinstance(s, Memory) for s in self.split.sources.values()):
            return 1
        numbers = self.size * sum(math.prod(shape) for shape in self.split.event_shapes.values())
        most = max(1, min(LAUNCHED_STEPS, LAUNCHED_NUMBERS // numbers))
        return math.ceil(left / math.ceil(left / most))  # as even as can be: few lengths to record


def mixed(order: Tensor, again: Tensor, seed: int) -> Tensor:
    """An order with further rows at places drawn by the seed, between which the others stay as they were."""
    if not len(again):
        return order
    generator = torch.Generator().manual_seed(seed)
    number = len(order) + len(again)
    places = torch.randperm(number, generator=generator)[: len(again)]
    rest = torch.ones(number, dtype=torch.bool)
    rest[places] = False
    index = torch.empty(number, dtype=torch.long)
    index[rest], index[places] = torch.arange(len(order)), torch.arange(len(order), number)
    return torch.cat([order, again.to(order.device)])[sent(index, order.device)]
