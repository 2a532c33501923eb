"""Vectors of discrete numbers: bits, or one of K numbers that is 1."""

from __future__ import annotations

from typing import Any, cast

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import kl
from torch.nn.functional import logsigmoid, softplus


def one_of(number: Tensor, num_classes: int) -> Tensor:
    """``torch.nn.functional.one_hot``, which looks at the values, and which a compiled step thus refuses."""
    return number[..., None] == torch.arange(num_classes, device=number.device)


class OneHots(constraints.Constraint):
    """Vectors that are groups of ``num_classes`` numbers, of each of which one is 1 and the others 0."""

    is_discrete = True
    event_dim = 1

    def __init__(self, num_classes: int):
        self.num_classes = num_classes

    def check(self, value: Tensor) -> Tensor:
        each: Any = constraints.one_hot
        return cast(Tensor, each.check(value.unflatten(-1, (-1, self.num_classes))).all(-1))

    def __str__(self) -> str:
        return f"one of {self.num_classes} numbers is 1"


class Discrete(TorchDistribution):
    r"""Independent bits, or independent choices among K, as one vector of zeros and ones.

    .. math:: p(v) = \prod_d \sigma(l_d)^{v_d} \sigma(-l_d)^{1 - v_d}, \qquad
        p(v) = \prod_m \prod_k \mathrm{softmax}(l_m)_k^{v_{mk}}

    Under a temperature its draws, which are discrete all the same, carry the gradients of relaxed ones
    ("straight-through"): those of :math:`\sigma((l + \epsilon) / \tau)` with Logistic noise, or of
    :math:`\mathrm{softmax}((l + \epsilon) / \tau)` with Gumbel noise. The density is of the draws as they
    are, so that an ELBO is right, and its gradient biased.

    Args:
        logits: ``[..., D]``; of choices those of one after those of another.
        num_classes: K; None for bits.
        temperature: :math:`\tau`; None for draws without gradients.
        enumerates: whether a program asks for its values to be enumerated.

    Reference: Jang, Gu and Poole, 2017, "Categorical reparameterization with Gumbel-softmax"; Maddison, Mnih
    and Teh, 2017, "The Concrete distribution".
    """

    arg_constraints = {}  # noqa: RUF012
    has_enumerate_support = True

    def __init__(
        self,
        logits: Tensor,
        num_classes: int | None = None,
        temperature: float | None = None,
        enumerates: bool = False,
    ):
        self.logits, self.num_classes = logits, num_classes
        self.temperature, self.enumerates = temperature, enumerates
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return self.temperature is not None

    @property
    def support(self) -> constraints.Constraint:
        if self.num_classes is None:
            return constraints.independent(constraints.boolean, 1)
        return OneHots(self.num_classes)

    def _grouped(self, vector: Tensor) -> Tensor:
        """``[..., D / K, K]`` of ``[..., D]``."""
        return vector.unflatten(-1, (-1, cast(int, self.num_classes)))

    @property
    def log_probs(self) -> Tensor:
        """Of each number's being 1, ``[..., D]``."""
        if self.num_classes is None:
            return logsigmoid(self.logits)
        return self._grouped(self.logits).log_softmax(-1).flatten(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        if self.num_classes is None:
            return (value * self.logits - softplus(self.logits)).sum(-1)
        return (value * self.log_probs).sum(-1)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        logits = self.logits.expand(self._extended_shape(sample_shape))
        u = torch.rand_like(logits).clamp(torch.finfo(logits.dtype).tiny, 1 - torch.finfo(logits.dtype).eps)
        if self.num_classes is None:
            noisy = logits + u.log() - (-u).log1p()
            hard = (noisy > 0).to(logits)
        else:
            noisy = self._grouped(logits - (-u.log()).log())
            hard = one_of(noisy.argmax(-1), self.num_classes).to(logits)
        if self.temperature is not None:
            warm = noisy / self.temperature
            soft = warm.sigmoid() if self.num_classes is None else warm.softmax(-1)
            hard = hard + (soft - soft.detach())
        return hard if self.num_classes is None else hard.flatten(-2)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self.rsample(sample_shape)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All values jointly, ``[2^D or K^(D / K), ..., D]``."""
        n = 2 if self.num_classes is None else self.num_classes
        groups = self.logits.shape[-1] // (1 if self.num_classes is None else n)
        each = torch.arange(n, device=self.logits.device)
        chosen = torch.cartesian_prod(*[each] * groups).reshape(-1, groups)
        values = chosen if self.num_classes is None else one_of(chosen, n).flatten(-2)
        values = values.to(self.logits).reshape(-1, *[1] * len(self.batch_shape), self.logits.shape[-1])
        return values.expand(-1, *self.batch_shape, -1) if expand else values

    def expand(self, batch_shape: Any, _instance: Any = None) -> Discrete:
        logits = self.logits.expand(*batch_shape, -1)
        return Discrete(logits, self.num_classes, self.temperature, self.enumerates)

    @property
    def mean(self) -> Tensor:
        return self.log_probs.exp()

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 - self.mean)


@kl.register_kl(Discrete, Discrete)  # type: ignore[untyped-decorator]
def _kl(q: Discrete, p: Discrete) -> Tensor:
    if q.num_classes != p.num_classes:
        raise NotImplementedError
    found = q.mean * (q.log_probs - p.log_probs)
    if q.num_classes is None:
        found = found + (1 - q.mean) * (logsigmoid(-q.logits) - logsigmoid(-p.logits))
    return found.sum(-1)


class Bit(dist.Bernoulli):
    """One number of ``Discrete`` bits: a Bernoulli whose KL broadcasts, as PyTorch's does not."""


@kl.register_kl(Bit, torch.distributions.Bernoulli)  # type: ignore[untyped-decorator]
def _kl_of_bits(q: Bit, p: torch.distributions.Bernoulli) -> Tensor:
    one = q.probs * (logsigmoid(q.logits) - logsigmoid(p.logits))
    return one + (1 - q.probs) * (logsigmoid(-q.logits) - logsigmoid(-p.logits))
