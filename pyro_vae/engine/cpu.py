r"""What a compiled step computes otherwise than PyTorch on a CPU, for speed: the values are the same.

Each function below takes the place of an operation while a step is recorded; ``NotImplemented`` leaves it.

**Special functions.** softplus and the losses of binary data are ``log1p(exp(x))``; inductor takes both
from Sleef, whose log1p alone costs more than all else in the kernel. All of them need it of :math:`e =
e^{-|x|}` in (0, 1] only, where

.. math:: \log(1 + e) = 2 \operatorname{artanh}(s) = 2 s (1 + s^2/3 + s^4/5 + ...), \quad s = e / (2 + e)

takes a division and five coefficients (minimax, relative error 4e-9) for all of float32. tanh, of which
Sleef's is six times slower than eager PyTorch's, is done likewise.

**Biases** are added where the product is read; PyTorch writes them into the result first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

LOG2_E = 1.4426950408889634
ARTANH = (
    *(1.000000003960151, 0.3333315734531331, 0.20012455014403502, 0.13980302671258443),
    *(0.1408916334204544,),
)
"""artanh(s) / s in powers of s**2, for s up to 1/3."""
TANH = (
    *(0.9999999960756115, -0.33333260527615843, 0.1333112753477977, -0.05372106735689514),
    *(0.020590985331816507, -0.005659985112586831),
)
"""tanh(x) / x in powers of x**2, for |x| up to 5/8; relative error 4e-9."""


def for_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """Leaves tensors on other devices, and float64, to PyTorch."""

    @functools.wraps(function)
    def decide(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16):
            return NotImplemented
        return function(x, *args, **kwargs)

    return decide


def _exp(x: Tensor) -> Tensor:
    """By exp2, whose result inductor uses where it is; that of exp it writes to memory and reads again."""
    return torch.exp2(x * LOG2_E)


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Any:
    value: Any = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value


@for_cpu
def softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> Any:
    """max(x, 0) + log(1 + exp(-abs(x))), which from x = 20 on is x in float32, as PyTorch has it."""
    if beta != 1 or threshold != 20:
        return NotImplemented
    e = _exp(-x.abs())
    s = e / (e + 2.0)
    return x.clamp(min=0.0) + 2.0 * s * _polynomial(ARTANH, s * s)


@for_cpu
def sigmoid(x: Tensor) -> Any:
    """With the exponential that softplus has of the same x, which a kernel then computes once."""
    e = _exp(-x.abs())
    return torch.where(x < 0.0, e, 1.0) / (e + 1.0)


@for_cpu
def softplus_backward(gradient: Tensor, x: Tensor, beta: float, threshold: float) -> Any:
    return gradient * sigmoid(x) if beta == 1 and threshold == 20 else NotImplemented


@for_cpu
def log_sigmoid_forward(x: Tensor) -> Any:
    return -softplus(-x), x.new_zeros(0)


@for_cpu
def log_sigmoid_backward(gradient: Tensor, x: Tensor, _: Tensor) -> Any:
    return gradient * sigmoid(-x)


@for_cpu
def binary_cross_entropy_with_logits(
    logits: Tensor,
    x: Tensor,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    reduction: int = 1,
) -> Any:
    """softplus(logits) - x logits."""
    if weight is not None or pos_weight is not None or reduction != 0:
        return NotImplemented
    return softplus(logits) - x * logits


@for_cpu
def tanh(x: Tensor) -> Any:
    """By its series near 0, where the other form would lose digits."""
    series = x * _polynomial(TANH, x * x)
    e = _exp(-2.0 * x.abs())
    return torch.where(x.abs() < 0.625, series, torch.copysign((1.0 - e) / (1.0 + e), x))


@for_cpu
def isnan(x: Tensor) -> Any:
    """Which inductor vectorises, as it does not its own isnan."""
    return x != x


@for_cpu
def addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    """Subtracting the negative: of a sum, inductor would make addmm again."""
    return torch.mm(a, b) - (-bias) if beta == 1 and alpha == 1 else NotImplemented


OPERATIONS: dict[Any, Callable[..., Any]] = {
    aten.softplus.default: softplus,
    aten.softplus_backward.default: softplus_backward,
    aten.sigmoid.default: sigmoid,
    aten.log_sigmoid_forward.default: log_sigmoid_forward,
    aten.log_sigmoid_backward.default: log_sigmoid_backward,
    aten.binary_cross_entropy_with_logits.default: binary_cross_entropy_with_logits,
    aten.tanh.default: tanh,
    aten.isnan.default: isnan,
    aten.addmm.default: addmm,
}
