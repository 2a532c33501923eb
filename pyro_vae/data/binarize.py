"""Binarisation around a source: grey values in [0, 1] become 0 or 1, and NaN stays NaN."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.source import Memory, Source, Streamed

Binarize = Literal["dynamic", "static", "threshold", "none"]


def binarized(source: Source, mode: Binarize, seed: int) -> Source:
    """The source, its values 1 where u < grey value; u is 0.5 (threshold), or uniform and drawn."""
    if mode == "none":
        return source
    if isinstance(source, Streamed):
        source.binary = DrawByRow(mode, seed)
        return source
    if mode == "threshold":
        return Memory(_binary(source.values > 0.5 * source.divisor, source.values))
    return Drawn(source, seed)


def grey(source: Source | None, number: int) -> Tensor | None:
    """The first grey values of which a source is a draw, ``[number, *event_shape]``, where they are kept."""
    return source.before(number) if isinstance(source, Drawn) else None


def redraw(source: Source, seed: int) -> None:
    """Draws a binarised source anew, as a function of ``seed`` alone."""
    if isinstance(source, Drawn):
        source.redraw(seed)
    elif isinstance(source, Streamed) and isinstance(source.binary, DrawByRow):
        source.binary.seed = seed


class Drawn(Memory):
    """x ~ Bernoulli(grey value), a byte each.

    Only values that are neither 0 nor 1 are drawn, which for MNIST is a fifth of them.
    """

    def __init__(self, source: Memory, seed: int):
        grey = source.take(slice(None), torch.float32)
        super().__init__(_binary(grey >= 1, grey).contiguous())
        self.index = ((grey > 0) & (grey < 1)).reshape(-1).nonzero()[:, 0]
        self.grey = grey.reshape(-1)[self.index]
        self.redraw(seed)

    def redraw(self, seed: int) -> None:
        generator = torch.Generator(self.grey.device).manual_seed(seed)
        # A third of the time of torch.bernoulli and an indexed assignment, which draw the same.
        draw = torch.rand(self.grey.shape, generator=generator, device=self.grey.device) < self.grey
        self.values.view(-1).scatter_(0, self.index, draw.to(self.values.dtype))

    def before(self, number: int) -> Tensor:
        """The first grey values."""
        values = self.values[:number].to(self.grey.dtype)
        drawn = self.index < values.numel()
        values.view(-1)[self.index[drawn]] = self.grey[drawn]
        return values


class DrawByRow:
    """Binarises rows as they are read from disk."""

    def __init__(self, mode: Binarize, seed: int):
        self.mode = mode
        self.seed = seed

    def __call__(self, grey: Tensor, rows: np.ndarray) -> Tensor:
        u = torch.tensor(0.5)
        if self.mode == "dynamic":
            # Half of the time of PyTorch's generator, on which the speed of training hangs here.
            stream = np.random.default_rng([self.seed, *map(int, rows[:2]), len(rows)])
            u = torch.from_numpy(stream.random(tuple(grey.shape), np.float32))
        elif self.mode == "static":
            # One counter-based stream per datum, so that its draw does not depend on the batch it is in.
            streams = (np.random.Generator(np.random.Philox(key=[self.seed, int(row)])) for row in rows)
            each = [stream.random(grey.shape[1:]) for stream in streams]
            u = torch.from_numpy(np.array(each).reshape(grey.shape))
        return _binary(u < grey, grey)


def _binary(ones: Tensor, grey: Tensor) -> Tensor:
    """Zeros and ones, a byte each, unless some are missing, which a byte cannot say."""
    if not grey.sum().isnan():  # in a twentieth of the time that a look at each takes
        return ones.to(torch.uint8)
    return ones.to(grey).masked_fill(grey.isnan(), torch.nan)
