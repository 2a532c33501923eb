"""Weights of the KL over a run, as functions of the epochs done: what ``beta`` of ``pv.fit`` may be.

Each is written as it is read: ``Cyclical(period=10)``, in Python, in a file and on the command line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from pyro_vae.checks import Limit, NotNegative, Positive, check_all

Share = Annotated[float, Limit(math.ulp(0.0), math.nextafter(1.0, 2.0), "above 0 and at most 1")]


class Schedule:
    """A function of the epochs done, such as 0.5, that comes to an end, ``end``."""

    end: float

    def __post_init__(self) -> None:
        check_all(type(self).__init__, vars(self))

    def __call__(self, epoch: float) -> float:
        raise NotImplementedError

    def whole(self, epochs: int) -> int:
        """The next number of epochs, from so many on, after which it is at its end."""
        raise NotImplementedError

    def unfinished(self, epochs: int) -> str:
        """What is to be said where a run of so many epochs stops on the way to ``end``; else nothing."""
        last = self(math.nextafter(epochs, 0.0))
        if math.isclose(last, self.end, rel_tol=0.01, abs_tol=0.01):
            return ""
        return (
            f"beta={self!r} is at {last:.2g} when {epochs} epochs end, and not at {self.end:g}, so that the "
            f"model that is kept was trained on another objective; take epochs={self.whole(epochs)}"
        )


@dataclass(frozen=True)
class Linear(Schedule):
    """From ``start`` to ``end`` in a line, over so many epochs, and then ``end``.

    Args:
        epochs: of the way.
        start: weight at the beginning.
        end: weight from then on.

    Reference: Sønderby et al., 2016, "Ladder variational autoencoders".

    >>> [Linear(epochs=4)(epoch) for epoch in (0, 1, 4, 9)]
    [0.0, 0.25, 1.0, 1.0]
    """

    epochs: Positive
    start: NotNegative = 0.0
    end: NotNegative = 1.0

    def __call__(self, epoch: float) -> float:
        return self.start + (self.end - self.start) * min(epoch / self.epochs, 1.0)

    def whole(self, epochs: int) -> int:
        return max(epochs, math.ceil(self.epochs))


@dataclass(frozen=True)
class Monotone(Schedule):
    """From ``start`` to ``end`` in a smooth wave, slowly at first and at last, and then ``end``.

    Args:
        epochs: of the way.
        start: weight at the beginning.
        end: weight from then on.

    Reference: Bowman et al., 2016, "Generating sentences from a continuous space".

    >>> [round(Monotone(epochs=4)(epoch), 3) for epoch in (0, 1, 2, 4, 9)]
    [0.0, 0.146, 0.5, 1.0, 1.0]
    """

    epochs: Positive
    start: NotNegative = 0.0
    end: NotNegative = 1.0

    def __call__(self, epoch: float) -> float:
        share = 0.5 - 0.5 * math.cos(math.pi * min(epoch / self.epochs, 1.0))
        return self.start + (self.end - self.start) * share

    def whole(self, epochs: int) -> int:
        return max(epochs, math.ceil(self.epochs))


@dataclass(frozen=True)
class Cyclical(Schedule):
    """From 0 to ``end`` in a line, again in each period: latents that collapsed get another chance.

    A run of a whole number of periods stops at ``end``.

    Args:
        period: epochs of a cycle.
        rise: share of the cycle in which the weight rises; then it stays at ``end``.
        end: the weight at the top.

    Reference: Fu, Li, Liu, Gao, Celikyilmaz and Carin, 2019, "Cyclical annealing schedule: a simple approach
    to mitigating KL vanishing".

    >>> [Cyclical(period=4)(epoch) for epoch in (0, 1, 2, 3.5, 4, 5)]
    [0.0, 0.5, 1.0, 1.0, 0.0, 0.5]
    """

    period: Positive
    rise: Share = 0.5
    end: NotNegative = 1.0

    def __call__(self, epoch: float) -> float:
        return self.end * min(epoch % self.period / self.period / self.rise, 1.0)

    def whole(self, epochs: int) -> int:
        return math.floor(math.ceil(epochs / self.period) * self.period)


__all__ = ["Cyclical", "Linear", "Monotone"]
