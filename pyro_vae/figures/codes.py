"""What the codes of a codebook are used for, and what they say."""

from __future__ import annotations

import torch
from matplotlib.figure import FigureBase

from pyro_vae.checks import ConfigError, Count, checked
from pyro_vae.distributions import centre
from pyro_vae.evaluate.door import Data, as_split, check
from pyro_vae.evaluate.likelihood import over_batches
from pyro_vae.families import Codes
from pyro_vae.figures.drawing import Figure, Pictures, draw, whole, within
from pyro_vae.models import VAE
from pyro_vae.program import Batch

SHOWN = 16
"""Positions that are drawn, at most."""


@checked
def codes(program: VAE, data: Data, num_codes: Count = 10, *, figure: FigureBase | None = None) -> Figure:
    """How often data use each code of ``pv.priors.Codes``, and what the most used ones of each position say.

    Above a bar for each code, the most used first, as a share of all uses; a line is where all would be if
    they were used alike. Below, row by row, a position of the latents at its most used codes, decoded with
    all other positions at their means over the data.

    Args:
        program: a VAE whose prior is ``pv.priors.Codes``.
        data: a split such as ``data.test``, a batch, or a tensor ``[N, *event_shape]``.
        num_codes: decoded for each position.
        figure: a part of a figure of one's own, or all of it, to draw on.

    Raises:
        ConfigError: it has another prior.
    """
    prior = program.p_z.family
    if not isinstance(prior, Codes):
        raise ConfigError(f"the program has no codes, but prior={prior!r}; take pv.priors.Codes(512)")
    split = as_split(data, program)
    check(program, split)

    def numbers(batch: Batch) -> torch.Tensor:
        q = program.encode(batch["x"])
        found: torch.Tensor = q.codes.T  # type: ignore[attr-defined]
        return found

    found = over_batches(program, split, numbers, 1000, 0, "codes")  # [M, N]
    size, book = prior.num_codes, prior.codebook
    counts = torch.stack([row.bincount(minlength=size) for row in found])
    shares = counts.sum(0).double() / counts.sum()
    with program.evaluating():
        vectors = book.vectors
        mean = (counts.to(vectors) @ vectors) / counts.sum(1, keepdim=True).to(vectors)  # [M, code_dim]
        rows = []
        for m in range(min(SHOWN, prior.num_positions)):
            order = counts[m].argsort(descending=True)[: min(num_codes, size)].to(vectors.device)
            z = mean.repeat(len(order), 1, 1)
            z[:, m] = vectors[order]
            rows.append(centre(program.decode(z.flatten(1)))[0])
    unused = int((shares == 0).sum())
    perplexity = torch.special.entr(shares).sum().exp()
    host = within(figure, 8, 2.6 + 0.55 * len(rows))
    above, below = host.subplots(2, 1, height_ratios=[1.6, 0.55 * len(rows) + 0.4])
    above.bar(range(size), shares.sort(descending=True).values.tolist(), width=1.0)
    above.axhline(1 / size, color="0.4", linewidth=0.8, linestyle="--")
    above.set(xlim=(-0.5, size - 0.5), xlabel="codes, the most used first", ylabel="share of uses")
    above.set_title(
        f"{size} codes, {unused} of which no datum uses; perplexity {perplexity:.0f}", fontsize=10
    )
    labels = [f"z, position {m}" for m in range(len(rows))]
    draw(Pictures(rows, "Decoded: the most used codes of each position, others at their mean", labels), below)
    return whole(host)
