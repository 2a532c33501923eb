"""What of a program is shown: which of its latents, and x as what."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pyro_vae.constraints import support
from pyro_vae.explore.switches import switches
from pyro_vae.families import Codes
from pyro_vae.models import CountVAE, SequentialVAE
from pyro_vae.program import Batch, Program

MOST_CURVES = 8
"""Numbers at each time of a series, of which more are drawn as an image."""


def kind_of(program: Program, shape: Sequence[int]) -> str:
    """How values of a shape are shown.

    Raises:
        ValueError: they are not.
    """
    if isinstance(program, CountVAE):
        return "bars"
    if program.columns is not None:
        return "table"
    series = isinstance(program, SequentialVAE) and shape[1] <= MOST_CURVES
    if len(shape) == 1 or (len(shape) == 2 and shape[0] >= 4 * shape[1]) or series:
        return "curve"
    if len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3)):
        return "image"
    raise ValueError(
        f"x of shape {tuple(shape)} is not shown: the explorer shows images (H, W), (1, H, W) and (3, H, W), "
        "vectors (T,), series (T, D) and tables"
    )


def choose(program: Program, latents: Mapping[str, Any], guided: Batch, site: str | None) -> str:
    """The site that is shown: real numbers, or where there are none such a choice.

    Raises:
        ValueError: there is none, or it is not shown.
    """
    kind = type(program).__name__
    if site is not None and site not in latents:
        raise ValueError(f"site={site!r} is none of the {kind}'s latents, {', '.join(latents)}")
    fit = [name for name, node in latents.items() if name in guided and _is_vector(node["fn"])]
    chosen = [name for name in fit if site in (None, name)]
    if not fit:  # of choices alone
        chosen = [name for name in latents if name in guided and switches(name, latents[name])]
        chosen = [name for name in chosen if site in (None, name)]
    if not chosen:
        codes = any(isinstance(c.family, Codes) for c in program.conditionals() if c.site in (site, *latents))
        instead = (
            "look at pv.figures.codes(vae, data.test), and of draws at pv.figures.samples(vae)"
            if codes
            else "look at pv.figures.samples(vae)"
        )
        raise ValueError(
            "the explorer moves latents that are vectors of real numbers, or paths of such, and, where there "
            f"are none, bits and choices; and the {kind} has {site or ', '.join(latents) or 'none'}, which "
            f"{'is' if site else 'are'} not; {instead}"
        )
    wide = [name for name in chosen if math.prod(latents[name]["fn"].event_shape) > 1]
    return (wide or chosen)[0]


def _is_vector(p: Any) -> bool:
    return len(p.event_shape) in (1, 2) and not support(p).is_discrete
