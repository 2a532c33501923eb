"""Networks of sequences ``(T, D)``: one that reads all of them, and one from a value to the next."""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from pyro_vae.distributions import recurrence

Shape = tuple[int, ...]
Cell = Literal["minimal", "gru"]
Direction = Literal["backward", "forward", "both"]


class Recurrent(nn.Module):
    r"""Reads a sequence, by default from its end, and emits at each step what it knows by then.

    .. math:: h_t = (1 - g_t) \odot h_{t+1} + g_t \odot v_t, \qquad
        g_t = \sigma(W x_t + b), \quad v_t = V x_t + c, \qquad y_t = \mathrm{mlp}(h_t, x_t)

    Gates do not see h, which is then no loop over time but one operation (``distributions.recurrence``); a
    second layer reads the first. A step of which a mask says that nothing is observed is not read, its g
    being 0: a sequence that ends early is read as one that is as short. ``cell="gru"`` is the usual recurrent
    network, whose gates see h, step by step, and which reads all steps: it is unrolled where it is compiled,
    which takes a minute or more.

    Args:
        in_shape: ``(T, D)``, or ``(2, T, D)`` of values and a mask.
        out_shape: ``(k T, P)``, as families want it: k numbers for each of P at each step; or ``(P,)``, of
            the whole sequence, from h at both of its ends.
        hidden_dim: number of elements of h.
        num_layers: how often the sequence is read.
        cell: ``"minimal"`` or ``"gru"``.
        direction: ``"backward"``, ``"forward"``, or ``"both"``, side by side.

    Raises:
        ValueError: the shapes are not of sequences of one length.

    Reference: Feng, Tung, Ahmed, Bengio and Hajimirsadeghi, 2024, "Were RNNs all we needed?"; Cho et al.,
    2014, "Learning phrase representations using RNN encoder-decoder for statistical machine translation".
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        hidden_dim: int = 64,
        num_layers: int = 2,
        cell: Cell = "minimal",
        direction: Direction = "backward",
    ):
        super().__init__()
        length = in_shape[-2] if len(in_shape) in (2, 3) and isinstance(in_shape[0], int) else 0
        self.whole = len(out_shape) == 1
        if not length or (out_shape[0] % length and not self.whole):
            raise ValueError(
                "nets.recurrent reads a sequence (T, D) and emits (k T, P), but was given "
                f"in_shape={in_shape}, out_shape={out_shape}; of other data take pv.nets.mlp(400)"
            )
        self.length, self.out_shape, self.cell, self.direction = length, out_shape, cell, direction
        ways = 2 if direction == "both" else 1
        dim = math.prod(in_shape) // length
        seen = 2 * ways * hidden_dim if self.whole else dim + ways * hidden_dim
        if cell == "gru":
            self.gru = nn.GRU(dim, hidden_dim, num_layers, batch_first=True, bidirectional=ways == 2)
        else:
            dims = [dim] + [ways * hidden_dim] * (num_layers - 1)
            self.layers = nn.ModuleList(nn.Linear(d, 2 * ways * hidden_dim) for d in dims)
        width = math.prod(out_shape) // (1 if self.whole else length)
        self.last = nn.Sequential(nn.Linear(seen, hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, width))

    def forward(self, x: Tensor) -> Tensor:
        steps = x if x.dim() == 3 else x.movedim(-3, -2).flatten(-2)
        known = None if x.dim() == 3 else self._turned((x[:, 1] != 0).any(-1, keepdim=True).to(x))
        h = self._turned(self._read(self._turned(steps), known))
        y: Tensor = self.last(torch.cat([h[:, 0], h[:, -1]] if self.whole else [steps, h], -1))
        if self.whole:
            return y
        k, width = self.out_shape[0] // self.length, math.prod(self.out_shape[1:])
        return y.unflatten(-1, (k, width)).transpose(1, 2).reshape(x.shape[0], *self.out_shape)

    def _turned(self, x: Tensor) -> Tensor:
        return x.flip(1) if self.direction == "backward" else x

    def _read(self, x: Tensor, known: Tensor | None) -> Tensor:
        if self.cell == "gru":
            return cast(Tensor, self.gru(x)[0])
        for layer in self.layers:
            gates, values = layer(x).chunk(2, -1)
            new = gates.sigmoid() if known is None else gates.sigmoid() * known
            keep, new = 1 - new, new * values
            if self.direction == "both":
                (keep, back), (new, last) = keep.chunk(2, -1), new.chunk(2, -1)
                ahead = recurrence(keep, new, 1)
                x = torch.cat([ahead, recurrence(back.flip(1), last.flip(1), 1).flip(1)], -1)
            else:
                x = recurrence(keep, new, 1)
        return x


class Gated(nn.Module):
    r"""A step from z to the next: between a linear one and another, by a gate.

    .. math:: \mu = (1 - g) \odot (W z + b) + g \odot h, \qquad g = \sigma(\mathrm{mlp}(z)), \quad
        h = \mathrm{mlp}(z), \qquad r = V \max(h, 0) + c

    with r the other parameters, such as the raw scale, and W at the start the identity.

    Args:
        in_shape: ``(L,)``.
        out_shape: ``(k L,)``.
        hidden_dim: width of the hidden layer of gate and h.

    Reference: Krishnan, Shalit and Sontag, 2017, "Structured inference networks for nonlinear state space
    models", section 5.
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, hidden_dim: int = 64):
        super().__init__()
        self.out_shape = out_shape
        dim = math.prod(in_shape)
        self.gate, self.proposal = (
            nn.Sequential(nn.Linear(dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, dim)) for _ in range(2)
        )
        self.line, self.rest = nn.Linear(dim, dim), nn.Linear(dim, math.prod(out_shape) - dim)
        with torch.no_grad():
            self.line.weight.copy_(torch.eye(dim))
            self.line.bias.zero_()

    def forward(self, z: Tensor) -> Tensor:
        gate, proposal = self.gate(z).sigmoid(), self.proposal(z)
        loc = (1 - gate) * self.line(z) + gate * proposal
        return torch.cat([loc, self.rest(proposal.relu())], -1).reshape(*z.shape[:-1], *self.out_shape)


class Combiner(nn.Module):
    r"""What is known of a state from the one before, and from what an encoder read, of equal weight.

    .. math:: y = V \tfrac12 \bigl(\tanh(W z_{t-1} + b) + h_t\bigr) + c

    Args:
        in_shapes: ``((L,), (F,))`` of z_{t-1} and h_t.
        out_shape: ``(k L,)``.

    Reference: Krishnan, Shalit and Sontag, 2017, "Structured inference networks for nonlinear state space
    models", section 4.
    """

    def __init__(self, in_shapes: tuple[Shape, Shape], out_shape: Shape):
        super().__init__()
        self.out_shape = out_shape
        state, features = map(math.prod, in_shapes)
        self.before, self.last = nn.Linear(state, features), nn.Linear(features, math.prod(out_shape))

    def forward(self, z: Tensor, h: Tensor) -> Tensor:
        y: Tensor = self.last((self.before(z).tanh() + h) / 2)
        return y.reshape(*z.shape[:-1], *self.out_shape)


class EachStep(nn.Module):
    """One network at each step of a sequence ``(T, *shape)``: the same, and of that step alone."""

    def __init__(self, in_shape: Shape, out_shape: Shape, net: Any):
        super().__init__()
        self.net = net(in_shape[1:], out_shape[1:])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x.flatten(0, 1))
        return y.unflatten(0, x.shape[:2])
