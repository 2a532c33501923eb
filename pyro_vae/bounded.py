"""Tensors are made only as large as they may be: of a program that a stranger's file describes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode


class TooLargeError(ValueError):
    """What is made would take more than it may."""


class Bounded(TorchFunctionMode):
    """Within it, as many numbers are made as may be, and calls of PyTorch; one more is an error.

    What may be made on the "meta" device, which has shapes and takes no memory, is made there first.

    Args:
        numbers: in all tensors together that are made.
        calls: of PyTorch's functions.

    Raises:
        TooLargeError: before memory is taken.
    """

    def __init__(self, numbers: int, calls: int):
        super().__init__()
        self.numbers, self.calls, self.told = numbers, calls, f"{numbers:,} numbers or {calls:,} calls"

    @property
    def is_over(self) -> bool:
        """Whether more was asked for."""
        return min(self.numbers, self.calls) < 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # A generator is of another device.
        meta = {name: value for name, value in kwargs.items() if name != "generator"} | {"device": "meta"}
        with contextlib.suppress(TypeError, RuntimeError):  # it makes no tensor on a device, or none at all
            made = func(*args, **meta)
            self.numbers -= made.numel() if isinstance(made, Tensor) else 0
        self.calls -= 1
        if self.is_over:
            raise TooLargeError(f"it would take more than {self.told}")
        return func(*args, **kwargs)


def bounded(tensors: int, numbers: int) -> Bounded:
    """What making a program may take that has so many tensors of so many numbers in all.

    A program makes each of its tensors once, and some on the way.
    """
    return Bounded(8 * numbers + 2**22, 50 * tensors + 10_000)
