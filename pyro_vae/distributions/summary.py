"""What any distribution tells of itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.distributions.columns import ByColumn


def has_closed_form(q: Distribution, p: Distribution) -> bool:
    """Whether PyTorch has KL(q || p) in closed form."""
    try:
        torch.distributions.kl_divergence(q, p)
    except NotImplementedError:
        return False
    return True


def _of_columns(part: Distribution) -> tuple[Tensor, str]:
    base: Any = part
    while isinstance(base, torch.distributions.Independent):
        base = base.base_dist
    return (base.mode, "mode") if isinstance(base, torch.distributions.Categorical) else centre(part)


def centre(distribution: Distribution) -> tuple[Tensor, str]:
    """A typical value, ``[*batch_shape, *event_shape]``, and what it is.

    The mean; where there is none or it is not finite, the median of each element; then the mode; and as
    a last resort the median of 301 draws. Of a table's categories, whose numbers mean nothing, the mode.
    """
    base: Any = distribution
    if isinstance(base, ByColumn):
        found = [_of_columns(part) for part in base.parts]
        return base.row([value for value, _ in found]), " or ".join(sorted({kind for _, kind in found}))
    while isinstance(base, torch.distributions.Independent):
        base = base.base_dist
    scalar = not base.event_shape
    like = torch.full((), 0.5)

    def median() -> Tensor:
        if not scalar:
            raise NotImplementedError
        draw = base.sample()
        value: Tensor = base.icdf(like.to(draw).expand(draw.shape))
        return value

    for name, compute in (("mean", lambda: base.mean), ("median", median), ("mode", lambda: base.mode)):
        try:
            value: Tensor = compute()
        except (NotImplementedError, AttributeError):
            continue
        if value.isfinite().all():
            return value, name
    return distribution.sample((301,)).median(0).values, "median"
