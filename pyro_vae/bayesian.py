"""Networks whose weights are latent: a vector that is drawn once for all data, and no parameters."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

START = 0.1
"""Scale of the guide of the weights at the start, in the scale of their prior."""


class Bayesian(nn.Module):
    r"""A network at weights w that it is given, one vector of all of them, of which it states the prior.

    .. math:: w_i \sim \mathcal N(0, s_i^2), \qquad s_i = 1 / \sqrt{\text{fan-in}}
        \text{ of a matrix's or a filter's weights}, \quad 1 \text{ of biases}

    Args:
        in_shape: shape of one input; or a tuple of shapes.
        out_shape: shape of one output.
        net: factory of the network.
        scale: s of all weights; None for the above.
        guide: family of the weights' guide; None for Normals.
        num_data: N, of the data that all of training sees; None until it is known.
    """

    scale: Tensor

    def __init__(
        self,
        in_shape: Any,
        out_shape: Any,
        net: Callable[[Any, Any], nn.Module],
        scale: float | None = None,
        guide: Any = None,
        num_data: int | None = None,
    ):
        super().__init__()
        several = bool(in_shape) and isinstance(in_shape[0], tuple)
        self.event_dims = [len(shape) for shape in (in_shape if several else (in_shape,))]
        self.net, self.guide, self.num_data = net(in_shape, out_shape), guide, num_data
        whole = dict(self.net.named_parameters())
        self.shapes = {name: tuple(p.shape) for name, p in whole.items()}
        scales = [torch.full((p.numel(),), _scale(p) if scale is None else scale) for p in whole.values()]
        self.register_buffer("scale", torch.cat(scales), persistent=False)

    def prior(self) -> Any:
        """p(w), event shape ``(W,)``."""
        return dist.Normal(torch.zeros_like(self.scale), self.scale).to_event(1)

    @torch.no_grad()
    def take(self) -> Tensor:
        """The weights ``[W]`` that the network was made with, none of its parameters from here on."""
        taken = [self.net.get_parameter(name).detach().flatten() for name in self.shapes]
        for name in self.shapes:
            path, _, last = name.rpartition(".")
            module = self.net.get_submodule(path)
            delattr(module, last)
            module.register_buffer(last, torch.empty(0), persistent=False)  # where each call puts its weights
        return torch.cat(taken)

    def share(self, number: int) -> float:
        """B / N: the share in the weights' density of a batch of B; all of it where N is not known."""
        return number / (self.num_data or number)

    def forward(self, w: Tensor, *inputs: Tensor) -> Tensor:
        """Raw reals ``[..., *out_shape]`` at weights ``[..., W]``, for inputs ``[..., *in_shape]``.

        Leading dimensions are broadcast: weights ``[K, 1, W]`` of K particles, inputs ``[K, B, *in_shape]``.
        """
        leading = [x.shape[: x.dim() - n] for x, n in zip(inputs, self.event_dims, strict=True)]
        batch = torch.broadcast_shapes(w.shape[:-1], *leading)
        # The dimensions of the batch in which the weights differ, which come first; within the others a
        # network sees ordinary rows.
        own = [len(batch) - w.dim() + 1 + i for i, size in enumerate(w.shape[:-1]) if size > 1]
        order = own + [i for i in range(len(batch)) if i not in own]
        rows = []
        for x, lead in zip(inputs, leading, strict=True):
            event = x.shape[len(lead) :]
            x = x.expand(*batch, *event).permute(*order, *range(len(batch), len(batch) + len(event)))
            rows.append(x.reshape(*[math.prod(batch[i] for i in own)] * bool(own), -1, *event))
        if own:
            y = torch.vmap(self._at, randomness="different")(w.reshape(-1, w.shape[-1]), *rows)
        else:
            y = self._at(w.reshape(-1), *rows)
        event = y.shape[1 + bool(own) :]
        y = y.reshape(*(batch[i] for i in order), *event)
        back = sorted(range(len(batch)), key=order.__getitem__)
        return y.permute(*back, *range(len(batch), y.dim()))

    def _at(self, w: Tensor, *inputs: Tensor) -> Tensor:
        pieces = w.split([math.prod(shape) for shape in self.shapes.values()])
        weights = {
            name: piece.reshape(shape)
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }
        y: Tensor = torch.func.functional_call(self.net, weights, inputs)
        return y


def _scale(weight: Tensor) -> float:
    """Of the prior of a layer's weights ``[out, in, ...]``, or of its biases ``[out]``."""
    return math.prod(weight.shape[1:]) ** -0.5


@contextlib.contextmanager
def drawn(conditionals: Sequence[Any], story: str, number: int, learned: bool) -> Iterator[None]:
    """Within it, networks whose weights are latent have those of a draw, outside of all plates.

    Args:
        conditionals: with ``weights``, their guide.
        story: which of the two draws them, ``"model"`` or ``"guide"``.
        number: B, of data in the batch.
        learned: whether the model is what was learned of it: its weights are then draws of their guide that
            no trace shows, and the guide has its own at their centre.
    """
    try:
        for c in conditionals:
            name = c.weights.site
            if not learned:
                fn, share = c.weights() if story == "guide" else c.net.prior(), c.net.share(number)
                with poutine.scale(scale=share):
                    infer: Any = {"per_datum": share / number}
                    c.drawn = pyro.sample(name, fn, infer=infer)
            elif story == "model":
                infer = {"is_auxiliary": True, "_do_not_trace": True}
                c.drawn = pyro.sample(name, c.weights(), infer=infer)
        yield
    finally:
        for c in conditionals:
            c.drawn = None
