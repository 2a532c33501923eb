"""Vectors of a codebook, side by side: drawn by their shares, or the nearest ones for certain."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import kl

from pyro_vae.distributions.discrete import one_of


class Codebook(nn.Module):
    r"""K vectors e_k, each the moving average of what is nearest to it, and how often each is used.

    Of the vectors of a batch, n_k of which are nearest to e_k and have the sum s_k,

    .. math:: N_k \leftarrow \gamma N_k + (1 - \gamma) n_k, \qquad
        e_k \leftarrow e_k + (1 - \gamma) (s_k - n_k e_k) / N_k,

    which is the quotient of the moving averages of s_k and n_k. A code that none of the last 1 / (1 - gamma)
    batches used is dead, and moves to a vector of the batch, drawn at random. At first they all are.

    Args:
        num_codes: K.
        code_dim: numbers of a code.
        decay: :math:`\gamma`, from 0 up to, but without, 1.
        num_positions: M, at each of which the uses of codes are counted likewise; None for no such counts.

    Reference: van den Oord, Vinyals and Kavukcuoglu, 2017, "Neural discrete representation learning",
    appendix A; Dhariwal et al., 2020, "Jukebox: a generative model for music", section 3.
    """

    vectors: Tensor
    usage: Tensor
    uses: Tensor | None

    def __init__(self, num_codes: int, code_dim: int, decay: float, num_positions: int | None = None):
        super().__init__()
        self.decay = decay
        self.register_buffer("vectors", torch.randn(num_codes, code_dim))
        self.register_buffer("usage", torch.zeros(num_codes))
        self.register_buffer("uses", None if num_positions is None else torch.zeros(num_positions, num_codes))

    @property
    def dead(self) -> Tensor:
        """Which codes are, ``[K]``: one use so many batches ago leaves (1 - decay) / e of it."""
        return self.usage < (1 - self.decay) / math.e

    @property
    def perplexity(self) -> Tensor:
        """As many codes, used alike, would be as hard to foretell."""
        return torch.distributions.Categorical(self.usage + torch.finfo(self.usage.dtype).tiny).perplexity()

    @property
    def logits(self) -> Tensor | None:
        """Of the shares of codes at each position, ``[M, K]``, each once more than it was seen of late."""
        return None if self.uses is None else (self.uses + (1 - self.decay)).log()

    def parts(self, values: Tensor) -> Tensor:
        """``[..., M, code_dim]`` of ``[..., M code_dim]``."""
        return values.unflatten(-1, (-1, self.vectors.shape[1]))

    @torch.no_grad()
    def nearest(self, values: Tensor) -> Tensor:
        """The number of the code that is nearest to each part of ``[..., M code_dim]``: ``[..., M]``."""
        distances = self.vectors.square().sum(-1) - 2 * self.parts(values) @ self.vectors.mT
        return distances.argmin(-1)

    def look_up(self, codes: Tensor) -> Tensor:
        """Vectors side by side, ``[..., M code_dim]``, of their numbers ``[..., M]``."""
        return self.vectors[codes].flatten(-2)

    @torch.no_grad()
    def follow(self, values: Tensor, codes: Tensor) -> None:
        """Moves towards values ``[..., M code_dim]``, to whose parts the codes ``[..., M]`` are nearest."""
        seen = self.parts(values).flatten(0, -2)
        used = one_of(codes.flatten(), len(self.usage)).to(seen)
        counts = used.sum(
            0
        )  # by a product, and not by index_add_, whose order is not that of before on a GPU
        usage = self.decay * self.usage + (1 - self.decay) * counts
        sums = used.mT @ seen - counts[:, None] * self.vectors
        least = torch.finfo(usage.dtype).tiny
        moved = self.vectors + (1 - self.decay) * sums / usage.clamp(min=least)[:, None]
        if self.uses is not None:
            each = one_of(codes.flatten(0, -2), len(self.usage)).to(seen).sum(0)
            self.uses.copy_(self.decay * self.uses + (1 - self.decay) * each)
        # Of as many vectors as codes no two are the same.
        drawn = torch.rand(max(seen.shape[0], len(usage)), device=seen.device).argsort()[: len(usage)]
        self.usage.copy_(usage)
        self.vectors.copy_(torch.where(self.dead[:, None], seen[drawn % seen.shape[0]], moved))


class OfCodebook(constraints.Constraint):
    """Vectors that are codes of a codebook, side by side."""

    is_discrete = True
    event_dim = 1

    def __init__(self, codebook: Codebook):
        self.codebook = codebook

    def check(self, value: Tensor) -> Tensor:
        return (value == self.codebook.look_up(self.codebook.nearest(value))).all(-1)

    def __str__(self) -> str:
        return f"vectors of {len(self.codebook.usage)} codes"


class Codes(TorchDistribution):
    r"""M codes, drawn independently: :math:`p(v) = \prod_m \pi_{m k_m}`, by default all alike, 1 / K each.

    Args:
        codebook: of K codes.
        num_positions: M.
        logits: of the shares :math:`\pi_m` of the codes at each position, ``[M, K]``; None for all alike.
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(
        self,
        codebook: Codebook,
        num_positions: int,
        logits: Tensor | None = None,
        batch_shape: Any = torch.Size(),
    ):
        self.codebook, self.num_positions, self.logits = codebook, num_positions, logits
        event_shape = torch.Size([num_positions * codebook.vectors.shape[1]])
        super().__init__(torch.Size(batch_shape), event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return OfCodebook(self.codebook)

    @property
    def log_shares(self) -> Tensor:
        """Of each code at each position, ``[M, K]``."""
        number = len(self.codebook.usage)
        logits = self.codebook.usage.new_zeros(self.num_positions, number)
        return (logits if self.logits is None else self.logits).log_softmax(-1)

    def log_prob_of(self, codes: Tensor) -> Tensor:
        """Of the numbers of codes, ``[..., M]``."""
        if self.logits is None:
            nats = self.num_positions * math.log(len(self.codebook.usage))
            return self.codebook.vectors.new_full(codes.shape[:-1], -nats)
        return self.log_shares.expand(*codes.shape, -1).gather(-1, codes[..., None]).sum((-1, -2))

    def log_prob(self, value: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        # In a step of training the codebook has moved on from the value, but codes in use move little.
        return self.log_prob_of(self.codebook.nearest(value)).expand(shape)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        each = torch.distributions.Categorical(logits=self.log_shares)
        return self.codebook.look_up(each.sample((*sample_shape, *self.batch_shape)))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Codes:
        return Codes(self.codebook, self.num_positions, self.logits, batch_shape)

    @property
    def mean(self) -> Tensor:
        return self._expected(self.codebook.vectors)

    @property
    def variance(self) -> Tensor:
        return self._expected(self.codebook.vectors.square()) - self.mean.square()

    def _expected(self, of_codes: Tensor) -> Tensor:
        return (self.log_shares.exp() @ of_codes).flatten().expand(*self.batch_shape, -1)


class Nearest(TorchDistribution):
    r"""The codes nearest to some vectors, for certain: :math:`q(v) = 1` of them, and 0 of all others.

    Draws carry the gradients of the vectors that they stand for ("straight-through").

    Args:
        values: vectors side by side, ``[..., M code_dim]``.
        codebook: their codes'.
        commitment_cost: what training adds for the squared distance of a vector from its code.

    Reference: van den Oord, Vinyals and Kavukcuoglu, 2017, "Neural discrete representation learning".
    """

    arg_constraints = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, values: Tensor, codebook: Codebook, commitment_cost: float = 0.25):
        self.values, self.codebook, self.commitment_cost = values, codebook, commitment_cost
        self.codes = codebook.nearest(values)
        self.nearest = codebook.look_up(self.codes)  # a copy, as the codebook moves on
        super().__init__(values.shape[:-1], values.shape[-1:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return OfCodebook(self.codebook)

    @property
    def commitment(self) -> Tensor:
        """What training adds: ``[...]``."""
        return self.commitment_cost * (self.values - self.nearest).square().sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        same = (value == self.nearest).all(-1)
        return torch.where(same, 0.0, -math.inf).to(self.values)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        value = self.nearest + (self.values - self.values.detach())
        return value.expand(self._extended_shape(sample_shape))

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self.rsample(sample_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Nearest:
        new = Nearest.__new__(Nearest)
        new.codebook, new.commitment_cost = self.codebook, self.commitment_cost
        for name in ("values", "codes", "nearest"):
            setattr(new, name, getattr(self, name).expand(*batch_shape, -1))
        TorchDistribution.__init__(new, torch.Size(batch_shape), self.event_shape, validate_args=False)
        return new

    @property
    def mean(self) -> Tensor:
        return self.nearest

    @property
    def variance(self) -> Tensor:
        return torch.zeros_like(self.nearest)


@kl.register_kl(Nearest, Codes)  # type: ignore[untyped-decorator]
def _kl(q: Nearest, p: Codes) -> Tensor:
    shape = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
    return -p.log_prob_of(q.codes).to(q.values).expand(shape)
