"""Where a univariate family starts: at its maximum likelihood on some values, no parameter named."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_vae.constraints import inside
from pyro_vae.families.base import units

WEAK = 1e-3
"""Weight, in nats per element, of a squared logarithm of a shape parameter: it holds those back of which the
likelihood hardly depends, such as the degrees of freedom of a StudentT where there are no tails."""


def most_likely(family: Any, x: Tensor, std: Tensor, by_column: bool) -> dict[str, Tensor]:
    r"""Values of a univariate family's learned parameters that maximise a penalised likelihood.

    .. math:: \frac1n \sum_i \log p(x_i \mid \theta) - 10^{-3} \sum_{s} (\log \theta_s)^2

    over shape parameters s, by sign-based gradient steps. Locations are fitted element by element, all others
    for all elements together; all of them column by column where elements are columns.

    Args:
        family: a ``Univariate``.
        x: values ``[n, *event_shape]``; NaN where they are not observed.
        std: standard deviation of each element, ``event_shape``.
        by_column: whether elements are columns in units of their own.

    Returns:
        Each learned parameter's value, of shape ``()`` or ``event_shape``.
    """
    x = x[:: max(1, x.numel() // 100_000)]
    observed = x.isfinite()
    event_shape, over = x.shape[1:], 0 if by_column else None
    centre = x.nanmedian(0).values.nan_to_num(0.0) if family.on_reals else x.new_zeros(())
    away = (x - centre).abs()
    spread = (away.nanmean(0).nan_to_num(0.0) if over == 0 else away.nanmean()).clamp(min=1e-6)
    unit = units(std, by_column).to(x)
    if by_column:
        spread = torch.where(spread > 1e-6, spread, unit)
    learned = {name: p for name, p in family.parameters_.items() if not p.fixed}
    raw: dict[str, Tensor] = {}
    for name, p in learned.items():
        by_element = p.source != "shared" and (by_column or p.source == "per_element" or p.role == "location")
        raw[name] = x.new_zeros(event_shape if by_element else ()).requires_grad_()

    def value(name: str, u: Tensor) -> Tensor:
        p = learned[name]
        if p.role == "location":
            return (centre if u.dim() else centre.mean()) + spread * u
        if p.role in ("scale", "rate"):
            size = unit if p.source == "shared" and by_column else spread
            return size * u.exp() if p.role == "scale" else u.exp() / size
        if p.low is not None:
            return u.exp() + p.low
        constrained: Tensor = torch.distributions.transform_to(p.constraint)(u)
        return constrained

    def values() -> dict[str, Tensor]:
        return {name: value(name, u) for name, u in raw.items()}

    numbers = {name: p.number.to(x) for name, p in family.parameters_.items() if p.fixed}
    shapes = [name for name, p in learned.items() if p.low is not None and p.role == "other"]
    filled = torch.where(observed, x, inside(family.support))
    share = observed.sum(0) / observed.sum().clamp(min=1)  # of the data: what is weak is weak in each column
    best = {name: v.detach().clone() for name, v in values().items()}
    if not raw:
        return best
    # The loss is the same at each step, and of any size: only signs of its gradient are used.
    optimizer = torch.optim.Rprop(raw.values(), lr=0.1, step_sizes=(1e-6, 2.0))
    with torch.enable_grad():
        for _ in range(300):
            optimizer.zero_grad()
            now = values()
            log_p = family.family(**now, **numbers).log_prob(filled)
            loss = -torch.where(observed, log_p, 0.0).sum() / observed.sum().clamp(min=1)
            if not loss.isfinite():  # the data lie where there is no density: checked elsewhere
                break
            best = {name: v.detach().clone() for name, v in now.items()}
            loss = loss + WEAK * sum((share * raw[name].square()).sum() for name in shapes)
            loss.backward()
            if not all(u.grad is not None and u.grad.isfinite().all() for u in raw.values()):
                break
            optimizer.step()
    return best
