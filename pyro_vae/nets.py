"""Networks: factories ``(in_shape, out_shape) -> nn.Module`` that emit raw reals.

A network maps ``[..., *in_shape]`` to ``[..., *out_shape]`` for any leading batch dimensions. Where it sees
several things (an image and a label, say), ``in_shape`` is a tuple of their shapes, and it is called with as
many tensors. Any callable with that signature serves as a factory, a class of your own included::

    class MyNet(nn.Module):
        def __init__(self, in_shape, out_shape): ...

    pv.VAE(event_shape, latent_dim=20, encoder=MyNet, decoder=pv.nets.mlp(400))
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.bayesian import Bayesian
from pyro_vae.recurrent import Cell, Combiner, Direction, Gated, Recurrent

__all__ = [
    "MLP",
    "Combiner",
    "Conv",
    "Gated",
    "Recurrent",
    "ResNet",
    "SelfMasking",
    "bayesian",
    "combiner",
    "conv",
    "gated",
    "mlp",
    "recurrent",
    "resnet",
]

Shape = tuple[int, ...]
Shapes = tuple[Shape, ...]
Net = Callable[[Any, Shape], nn.Module]
"""A factory: ``(in_shape, out_shape) -> nn.Module``, or ``(in_shapes, out_shape)``."""


class Factory:
    """A class of networks with its options: what ``mlp(...)`` and ``conv(...)`` return."""

    def __init__(self, text: str, make: Callable[..., nn.Module], **options: Any):
        self.text, self.make, self.options = text, make, options

    def __call__(self, in_shape: Any, out_shape: Shape) -> nn.Module:
        return self.make(in_shape, out_shape, **self.options)

    def __repr__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Factory) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


def mlp(*hidden_dims: int, activation: type[nn.Module] = nn.SiLU) -> Net:
    """Factory of dense networks with these hidden layers: see :class:`MLP`.

    >>> import torch
    >>> mlp(400, 200)((1, 28, 28), (20,))(torch.zeros(3, 1, 28, 28)).shape
    torch.Size([3, 20])
    """
    _check(activation, hidden_dims=hidden_dims)
    return Factory(_text("mlp", hidden_dims, activation), MLP, hidden_dims=hidden_dims, activation=activation)


def conv(*channels: int, hidden_dim: int = 256, activation: type[nn.Module] = nn.SiLU) -> Net:
    """Factory of convolutional networks with these channels: see :class:`Conv`."""
    _check(activation, channels=channels, hidden_dim=[hidden_dim])
    channels = channels or (32, 64)
    width = () if hidden_dim == 256 else (f"hidden_dim={hidden_dim}",)
    options = {"channels": channels, "hidden_dim": hidden_dim, "activation": activation}
    return Factory(_text("conv", (*channels, *width), activation), Conv, **options)


def resnet(channels: int = 32, num_blocks: int = 2, activation: type[nn.Module] = nn.SiLU) -> Net:
    """Factory of residual convolutional networks between images of any sizes: see :class:`ResNet`."""
    _check(activation, channels=[channels], num_blocks=[num_blocks])
    blocks = () if num_blocks == 2 else (f"num_blocks={num_blocks}",)
    options = {"channels": channels, "num_blocks": num_blocks, "activation": activation}
    return Factory(_text("resnet", (channels, *blocks), activation), ResNet, **options)


def bayesian(net: Net, scale: float | None = None, guide: Any = None, num_data: int | None = None) -> Net:
    r"""Factory of networks of the model whose weights are latent, with a prior and a guide of their own.

    .. math:: w \sim p(w) = \prod_i \mathcal N(w_i; 0, s_i^2), \qquad q(w), \qquad
        \mathrm{ELBO} = \frac1N \Big( \sum_n \mathrm{ELBO}_n(w) - \mathrm{KL}(q(w) \| p(w)) \Big)

    They are one vector, the site ``"x_weights"`` of p(x|z), drawn once for all data; a batch of B has its
    share B / N in their density. Evaluation is of what was learned: weights are drawn from q(w).

    Args:
        net: factory of the network, ``nets.mlp(50)``.
        scale: s of all weights; None: one over the root of the fan-in, of biases 1.
        guide: the family of q(w), a ``pv.guides`` object; None: independent Normals. It starts at the
            network's usual weights, with a tenth of the prior's scale.
        num_data: N; ``pv.fit`` and ``initialize`` tell it. Until it is known, a batch is all of the data.

    Raises:
        TypeError: ``net`` is no factory.
        ValueError: the scale or the number is not positive; or the network's weights are latent already.

    Reference: Blundell, Cornebise, Kavukcuoglu and Wierstra, 2015, "Weight uncertainty in neural networks";
    Daxberger and Hernandez-Lobato, 2019, "Bayesian variational autoencoders for unsupervised
    out-of-distribution detection".

    >>> import pyro_vae as pv
    >>> vae = pv.VAE((4,), latent_dim=2, decoder=pv.nets.bayesian(pv.nets.mlp(50)))
    >>> vae.p_x.weights().event_shape  # 2 x 50 + 50, and 50 x 4 + 4
    torch.Size([354])
    """
    check_factories(net=net)
    if getattr(net, "make", None) is Bayesian:
        raise ValueError(f"the weights of net={net!r} are latent already; leave out the outer bayesian")
    for name, value in (("scale", scale), ("num_data", num_data)):
        if value is not None and not (isinstance(value, int | float) and 0 < value < math.inf):
            raise ValueError(f"{name}={value!r} must be a positive number; leave it out for the usual one")
    if num_data is not None and num_data != int(num_data):
        raise ValueError(f"num_data={num_data!r} must be a whole number; leave it out, pv.fit knows it")
    given = {"scale": scale, "guide": guide, "num_data": num_data}
    told = "".join(f", {name}={value!r}" for name, value in given.items() if value is not None)
    return Factory(f"bayesian({net!r}{told})", Bayesian, net=net, **given)


def recurrent(
    hidden_dim: int = 64, num_layers: int = 2, cell: Cell = "minimal", direction: Direction = "backward"
) -> Net:
    """Factory of networks that read sequences ``(T, D)``: see :class:`Recurrent`.

    >>> import torch
    >>> recurrent(16)((20, 3), (20, 5))(torch.zeros(4, 20, 3)).shape
    torch.Size([4, 20, 5])
    """
    _check(nn.SiLU, hidden_dim=[hidden_dim], num_layers=[num_layers])
    options = {"num_layers": num_layers, "cell": cell, "direction": direction}
    usual = {"num_layers": 2, "cell": "minimal", "direction": "backward"}
    own = [f"{name}={value!r}" for name, value in options.items() if value != usual[name]]
    text = f"recurrent({', '.join([str(hidden_dim), *own])})"
    return Factory(text, Recurrent, hidden_dim=hidden_dim, **options)


def gated(hidden_dim: int = 64) -> Net:
    """Factory of networks from a state to the parameters of the next one: see :class:`Gated`."""
    _check(nn.SiLU, hidden_dim=[hidden_dim])
    return Factory(f"gated({hidden_dim})", Gated, hidden_dim=hidden_dim)


def combiner() -> Net:
    """Factory of networks from a state, and what an encoder read, to a guide: see :class:`Combiner`."""
    return Factory("combiner()", Combiner)


def _check(activation: Any, **widths: Sequence[Any]) -> None:
    """Refuses widths that are not positive, and what is no class of activations."""
    for name, values in widths.items():
        for value in values:
            if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
                raise ValueError(
                    f"{name}={value!r} must be a positive whole number; nets.mlp(400, 200), for example"
                )
    if not (inspect.isclass(activation) or inspect.isfunction(activation)):
        raise ValueError(f"activation={activation!r} must be a class of modules; torch.nn.ReLU, for example")


def check_factories(**factories: Any) -> None:
    """Refuses what makes no networks, by the names of the arguments.

    Raises:
        TypeError: it is no factory.
    """
    for name, factory in factories.items():
        if isinstance(factory, nn.Module) or not callable(factory) or not _takes_shapes(factory):
            kind = getattr(factory, "__name__", type(factory).__name__)
            raise TypeError(
                f"{name} is to be made by a factory (in_shape, out_shape) -> nn.Module, but was given "
                f"{kind}: give the class itself, or pv.nets.mlp(400); for a network that exists, "
                "lambda in_shape, out_shape: net"
            )
        if name in ("encoder", "classifier") and getattr(factory, "make", None) is Bayesian:
            raise ValueError(
                f"{name}={factory!r} is a network of the guide, and the model, which has the prior of latent "
                f"weights, does not run it; {name}={factory.options['net']!r}, and decoder={factory!r}"
            )
        if name == "transition" and getattr(factory, "make", None) is Bayesian:
            raise ValueError(
                f"{name}={factory!r} is a part of the prior, whose weights are no latents; "
                f"{name}={factory.options['net']!r}, and decoder={factory!r}"
            )


def _takes_shapes(factory: Callable[..., Any]) -> bool:
    try:
        inspect.signature(factory).bind((1,), (1,))
    except TypeError:
        return False
    except ValueError:  # a function that does not tell what it takes
        return True
    return True


def _text(name: str, arguments: Sequence[Any], activation: type[nn.Module]) -> str:
    known = getattr(nn, activation.__name__, None) is activation
    path = activation.__name__ if known else f"{activation.__module__}.{activation.__qualname__}"
    own = [] if activation is nn.SiLU else [f"activation={path}"]
    return f"{name}({', '.join([*map(str, arguments), *own])})"


def as_shapes(in_shape: Shape | Shapes) -> Shapes:
    """The shapes that a network sees: one, or several."""
    several = bool(in_shape) and isinstance(in_shape[0], tuple)
    return in_shape if several else (in_shape,)  # type: ignore[return-value]


class MLP(nn.Module):
    """Dense network: all that it sees side by side, hidden_dims, out_shape, linear at the end.

    Args:
        in_shape: shape of one input; or a tuple of shapes.
        out_shape: shape of one output.
        hidden_dims: width of each hidden layer.
        activation: nonlinearity after each hidden layer.
    """

    def __init__(
        self,
        in_shape: Shape | Shapes,
        out_shape: Shape,
        hidden_dims: Sequence[int] = (400, 400),
        activation: type[nn.Module] = nn.SiLU,
    ):
        super().__init__()
        _check(activation, hidden_dims=hidden_dims)
        self.in_shapes, self.out_shape = as_shapes(in_shape), out_shape
        widths = [sum(map(math.prod, self.in_shapes)), *hidden_dims, math.prod(out_shape)]
        self.layers = nn.Sequential()
        for fan_in, fan_out in pairwise(widths):
            self.layers.extend([_glorot(nn.Linear(fan_in, fan_out)), activation()])
        del self.layers[-1]

    def forward(self, *inputs: Tensor) -> Tensor:
        vectors = [
            x.flatten(x.dim() - len(shape)) if shape else x[..., None] for x, shape in self._with(inputs)
        ]
        y: Tensor = self.layers(vectors[0] if len(vectors) == 1 else torch.cat(vectors, -1))
        return y.reshape(*y.shape[:-1], *self.out_shape)

    def _with(self, inputs: tuple[Tensor, ...]) -> list[tuple[Tensor, Shape]]:
        return list(zip(inputs, self.in_shapes, strict=True))


class Conv(nn.Module):
    """Convolutional network: an encoder if it sees an image, else a decoder.

    Each of ``channels`` is one 3x3 convolution of stride 2, so that a side of n becomes
    ceil(n / 2); a dense hidden layer joins the last one, and what else it sees, to the vector. The decoder is
    the mirror image with transposed convolutions, whose output padding makes every side exact: any image size
    and number of channels will do, odd ones too. Images are ``(C, H, W)`` or ``(H, W)``.

    Args:
        in_shape: shape of one input; or a tuple of shapes, the first of which may be an image.
        out_shape: shape of one output.
        channels: number of feature maps after each convolution of the encoder.
        hidden_dim: width of the dense layer.
        activation: nonlinearity after each layer but the last.

    Raises:
        ValueError: neither or both of the shapes are images.
    """

    def __init__(
        self,
        in_shape: Shape | Shapes,
        out_shape: Shape,
        channels: Sequence[int] = (32, 64),
        hidden_dim: int = 256,
        activation: type[nn.Module] = nn.SiLU,
    ):
        super().__init__()
        _check(activation, channels=channels, hidden_dim=[hidden_dim])
        self.in_shapes, self.out_shape = as_shapes(in_shape), out_shape
        encodes, decodes = (len(shape) in (2, 3) for shape in (self.in_shapes[0], out_shape))
        if encodes == decodes:
            raise ValueError(
                "nets.conv joins an image (C, H, W) or (H, W) to a vector (D,), but was given "
                f"in_shape={in_shape}, out_shape={out_shape}; for data that are not images use "
                "nets.mlp()"
            )
        image = self.in_shapes[0] if encodes else out_shape
        depth, *size = (1, *image)[-3:]
        sizes, depths = [tuple(size)], [depth, *channels]
        for _ in channels:
            sizes.append(tuple(-(-side // 2) for side in sizes[-1]))
        inner = (depths[-1], *sizes[-1])
        self.image = (depth, *size) if encodes else None
        self.convolutions, self.layers = nn.Sequential(), nn.Sequential()
        beside = sum(math.prod(shape) for shape in self.in_shapes[1 if encodes else 0 :])
        if encodes:
            for i, o in pairwise(depths):
                self.convolutions.extend([_glorot(nn.Conv2d(i, o, 3, 2, 1)), activation()])
            for i, o in pairwise([math.prod(inner) + beside, hidden_dim, math.prod(out_shape)]):
                self.layers.extend([_glorot(nn.Linear(i, o)), activation()])
        else:
            for i, o in pairwise([beside, hidden_dim, math.prod(inner)]):
                self.layers.extend([_glorot(nn.Linear(i, o)), activation()])
            self.layers.append(nn.Unflatten(1, inner))
            for (i, o), target in zip(pairwise(reversed(depths)), sizes[-2::-1], strict=True):
                # A transposed convolution makes 2n - 1 of n; one more row or column where 2n is due.
                padding = (1 - target[0] % 2, 1 - target[1] % 2)
                up = nn.ConvTranspose2d(i, o, 3, 2, 1, output_padding=padding)
                self.layers.extend([_glorot(up), activation()])
        del self.layers[-1]

    def forward(self, *inputs: Tensor) -> Tensor:
        shape = self.in_shapes[0]
        leading = inputs[0].shape[: inputs[0].dim() - len(shape)]
        vectors = [x.reshape(math.prod(leading), -1) for x in inputs]
        if self.image is not None:
            vectors[0] = self.convolutions(inputs[0].reshape(-1, *self.image)).flatten(1)
        y: Tensor = self.layers(vectors[0] if len(vectors) == 1 else torch.cat(vectors, -1))
        return y.reshape(*leading, *self.out_shape)


class ResNet(nn.Module):
    r"""Residual convolutions from one or several images to one, each of any size.

    .. math:: h_0 = b + \frac{1}{\sqrt n} \sum_{s=1}^n \mathrm{stem}_s(x_s), \qquad
        h_k = h_{k-1} + \frac{1}{\sqrt K} \mathrm{conv}(a(\mathrm{conv}(a(h_{k-1})))), \qquad
        y = \mathrm{conv}(a(h_K))

    There is a stem for each size s among the images, which sees all their channels and brings them to the
    size of what is emitted: by convolutions of stride 2, which halve it, down to no smaller than that, and
    then by the nearest pixel. b is learned at each pixel. Images are ``(C, H, W)`` or ``(H, W)``; a vector
    ``(D,)`` is one of a single pixel. Convolutions are 3x3, those of a single pixel 1x1.

    Args:
        in_shape: shape of one input; or a tuple of shapes.
        out_shape: shape of one output.
        channels: number of feature maps.
        num_blocks: K.
        activation: the nonlinearity a.

    Reference: He, Zhang, Ren and Sun, 2016, "Identity mappings in deep residual networks"; Child, 2021, "Very
    deep VAEs generalize autoregressive models and can outperform them on images".
    """

    def __init__(
        self,
        in_shape: Shape | Shapes,
        out_shape: Shape,
        channels: int = 32,
        num_blocks: int = 2,
        activation: type[nn.Module] = nn.SiLU,
    ):
        super().__init__()
        _check(activation, channels=[channels], num_blocks=[num_blocks])
        self.in_shapes, self.out_shape = as_shapes(in_shape), out_shape
        depth, *size = _image(out_shape)
        self.images = [_image(shape) for shape in self.in_shapes]
        self.sizes = list(dict.fromkeys(image[1:] for image in self.images))
        self.stems = nn.ModuleList(
            _stem(sum(image[0] for image in self.images if image[1:] == own), own, size, channels, activation)
            for own in self.sizes
        )
        self.bias = nn.Parameter(torch.zeros(channels, *size))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *(activation(), _conv(channels, channels, size)),
                *(activation(), _conv(channels, channels, size)),
            )
            for _ in range(num_blocks)
        )
        self.last = nn.Sequential(activation(), _conv(channels, depth, size))

    def forward(self, *inputs: Tensor) -> Tensor:
        leading = inputs[0].shape[: inputs[0].dim() - len(self.in_shapes[0])]
        rows = math.prod(leading)
        images = [x.reshape(rows, *image) for x, image in zip(inputs, self.images, strict=True)]
        seen = [
            stem(torch.cat([image for image in images if image.shape[2:] == size], 1))
            for stem, size in zip(self.stems, self.sizes, strict=True)
        ]
        h = self.bias + torch.stack(seen).sum(0) / math.sqrt(len(seen))
        for block in self.blocks:
            h = h + block(h) / math.sqrt(len(self.blocks))
        y: Tensor = self.last(h)
        return y.reshape(*leading, *self.out_shape)


def _image(shape: Shape) -> Shape:
    """A shape as that of an image: a vector is one of a single pixel."""
    return (*shape, 1, 1) if len(shape) == 1 else (1, *shape)[-3:]


def _conv(channels: int, out_channels: int, size: Sequence[int], stride: int = 1) -> nn.Module:
    """A convolution of images of a size; 1x1 of a single pixel, where all other weights would see nothing."""
    side = 1 if max(size) == 1 else 3
    return _glorot(nn.Conv2d(channels, out_channels, side, stride, side // 2))


def _stem(
    depth: int, size: Sequence[int], target: Sequence[int], channels: int, activation: type[nn.Module]
) -> nn.Sequential:
    """Convolutions from images of a size to feature maps of another."""
    layers: list[nn.Module] = []
    while max(size) > 1 and all(-(-n // 2) >= m for n, m in zip(size, target, strict=True)):
        layers += [_conv(depth, channels, size, 2), activation()]
        depth, size = channels, [-(-n // 2) for n in size]
    layers = layers[:-1] or [_conv(depth, channels, size)]
    if list(size) != list(target):
        layers.append(nn.Upsample(tuple(target)))
    return nn.Sequential(*layers)


def _glorot(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> nn.Module:
    """Glorot and Bengio, 2010: keeps the variance of activations and gradients across layers."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class SelfMasking(nn.Module):
    r"""Logits of each element's own value: :math:`a_i x_i + b_i`, which start at 0."""

    def __init__(self, in_shape: Shape, out_shape: Shape):
        super().__init__()
        self.weight, self.bias = (nn.Parameter(torch.zeros(in_shape)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x + self.bias
