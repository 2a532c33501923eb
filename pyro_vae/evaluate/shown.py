"""Means with their standard errors, and how a notebook shows them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor


def table(caption: str, rows: Mapping[str, float], errors: Mapping[str, float]) -> str:
    """Numbers with their standard errors, in HTML."""
    cells = "".join(
        f"<tr><td>{name}</td><td>{value:.3f}{f' ± {errors[name]:.3f}' if name in errors else ''}</td></tr>"
        for name, value in rows.items()
    )
    return f"<table><caption>{caption}</caption>{cells}</table>"


def standard_error(values: Tensor) -> float:
    """Of the mean of ``values``, ``[N]``; NaN of one."""
    return (values.std() / math.sqrt(len(values))).item() if len(values) > 1 else math.nan
