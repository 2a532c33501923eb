"""Networks: factories ``(in_shape, out_shape) -> nn.Module`` that emit raw reals.

A network maps ``[..., *in_shape]`` to ``[..., *out_shape]`` for any leading batch dimensions. Any
callable with that signature serves as a factory, a class of your own included::

    class MyNet(nn.Module):
        def __init__(self, in_shape, out_shape): ...

    pv.VAE(event_shape, latent_dim=20, encoder=MyNet, decoder=pv.nets.mlp(400))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

from torch import Tensor, nn

__all__ = ["MLP", "Conv"]

Shape = tuple[int, ...]
Net = Callable[[Shape, Shape], nn.Module]


def mlp(*hidden_dims: int, activation: type[nn.Module] = nn.SiLU) -> Net:
    """Factory of dense networks with these hidden layers: see :class:`MLP`.

    >>> import torch
    >>> mlp(400, 200)((1, 28, 28), (20,))(torch.zeros(3, 1, 28, 28)).shape
    torch.Size([3, 20])
    """
    return partial(MLP, hidden_dims=hidden_dims, activation=activation)


def conv(*channels: int, hidden_dim: int = 256, activation: type[nn.Module] = nn.SiLU) -> Net:
    """Factory of convolutional networks with these channels: see :class:`Conv`."""
    return partial(Conv, channels=channels or (32, 64), hidden_dim=hidden_dim, activation=activation)


class _Net(nn.Module):
    """Lets ``self.layers``, from ``[N, *inner_shape]``, take and return any leading dimensions."""

    def __init__(self, in_shape: Shape, inner_shape: Shape, out_shape: Shape):
        super().__init__()
        self.in_shape, self.inner_shape, self.out_shape = in_shape, inner_shape, out_shape
        self.layers = nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        leading = x.shape[: x.dim() - len(self.in_shape)]
        y: Tensor = self.layers(x.reshape(-1, *self.inner_shape))
        return y.reshape(*leading, *self.out_shape)


class MLP(_Net):
    """Dense network: in_shape, hidden_dims, out_shape, linear at the end.

    Args:
        in_shape: shape of one input.
        out_shape: shape of one output.
        hidden_dims: width of each hidden layer.
        activation: nonlinearity after each hidden layer.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        hidden_dims: Sequence[int] = (400, 400),
        activation: type[nn.Module] = nn.SiLU,
    ):
        widths = [math.prod(in_shape), *hidden_dims, math.prod(out_shape)]
        super().__init__(in_shape, (widths[0],), out_shape)
        for fan_in, fan_out in pairwise(widths):
            self.layers.extend([_glorot(nn.Linear(fan_in, fan_out)), activation()])
        del self.layers[-1]


class Conv(_Net):
    """Convolutional network: an encoder if ``in_shape`` is an image, else a decoder.

    Each of ``channels`` is one 3x3 convolution of stride 2, so that a side of n becomes
    ceil(n / 2); a dense hidden layer joins the last one to the vector. The decoder is the mirror
    image with transposed convolutions, whose output padding makes every side exact: any image size
    and number of channels will do, odd ones too. Images are ``(C, H, W)`` or ``(H, W)``.

    Args:
        in_shape: shape of one input.
        out_shape: shape of one output.
        channels: number of feature maps after each convolution of the encoder.
        hidden_dim: width of the dense layer.
        activation: nonlinearity after each layer but the last.

    Raises:
        ValueError: neither or both of the shapes are images.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        channels: Sequence[int] = (32, 64),
        hidden_dim: int = 256,
        activation: type[nn.Module] = nn.SiLU,
    ):
        encodes, decodes = (len(shape) in (2, 3) for shape in (in_shape, out_shape))
        if encodes == decodes:
            raise ValueError(
                "nets.conv joins an image (C, H, W) or (H, W) to a vector (D,), but was given "
                f"in_shape={in_shape}, out_shape={out_shape}; for data that are not images use "
                "nets.mlp()"
            )
        image, vector = (in_shape, out_shape) if encodes else (out_shape, in_shape)
        depth, *size = (1, *image)[-3:]
        sizes, depths = [tuple(size)], [depth, *channels]
        for _ in channels:
            sizes.append(tuple(-(-side // 2) for side in sizes[-1]))
        inner = (depths[-1], *sizes[-1])
        widths = [math.prod(inner), hidden_dim, math.prod(vector)]
        if encodes:
            super().__init__(in_shape, (depth, *size), out_shape)
            for i, o in pairwise(depths):
                self.layers.extend([_glorot(nn.Conv2d(i, o, 3, 2, 1)), activation()])
            self.layers.append(nn.Flatten())
            for i, o in pairwise(widths):
                self.layers.extend([_glorot(nn.Linear(i, o)), activation()])
        else:
            super().__init__(in_shape, in_shape, out_shape)
            for i, o in pairwise(reversed(widths)):
                self.layers.extend([_glorot(nn.Linear(i, o)), activation()])
            self.layers.append(nn.Unflatten(1, inner))
            for (i, o), target in zip(pairwise(reversed(depths)), sizes[-2::-1], strict=True):
                # A transposed convolution makes 2n - 1 of n; one more row or column where 2n is due.
                padding = (1 - target[0] % 2, 1 - target[1] % 2)
                up = nn.ConvTranspose2d(i, o, 3, 2, 1, output_padding=padding)
                self.layers.extend([_glorot(up), activation()])
        del self.layers[-1]


def _glorot(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> nn.Module:
    """Glorot and Bengio, 2010: keeps the variance of activations and gradients across layers."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
