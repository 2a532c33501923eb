"""Bidirectional Monte Carlo: log p(x) between two bounds, of data that the model has drawn itself."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import cast

import pyro
import torch
from torch import Tensor

from pyro_vae.checks import Count, Seed, checked
from pyro_vae.evaluate.ais import (
    Annealing,
    Start,
    Temperatures,
    accepted,
    draws_error,
    gradients,
    warn_of_few,
)
from pyro_vae.evaluate.door import as_split, check
from pyro_vae.evaluate.likelihood import COMPILED_ROWS, chunks, measure_of, over_batches
from pyro_vae.evaluate.reals import model_at
from pyro_vae.evaluate.shown import standard_error, table
from pyro_vae.objectives import importance_weighted_bound
from pyro_vae.objectives.importance import log_density
from pyro_vae.program import Batch, Program, sites
from pyro_vae.running import parameters_known
from pyro_vae.seen import observing
from pyro_vae.svi import Compile


@dataclass(frozen=True)
class Sandwich:
    """Two bounds of log p(x), nats per datum, of data simulated from the model.

    Attributes:
        lower: mean over the data of the lower bounds; in expectation log p(x) is above it.
        upper: likewise of the upper bounds, and below it.
        lower_error: standard error of ``lower``, over the data.
        upper_error: of ``upper``.
        width_error: of ``upper - lower``, paired by datum.
        draws_error: standard error of the width that the chains add for these very data; NaN of one chain.
        lower_per_datum: the lower bound of each datum, ``[N]``.
        upper_per_datum: the upper bound of each, ``[N]``.
        acceptance: share of Hamiltonian proposals that were accepted, ``[N]``; NaN of T = 2, without any.
        data: what was simulated, a batch.
        start: what is annealed to the posterior, the prior or the guide.
        num_temperatures: T, from 0 to 1.
        num_chains: C, per datum and direction.
        measure: what the densities are densities of.
    """

    lower: float
    upper: float
    lower_error: float
    upper_error: float
    width_error: float
    draws_error: float
    lower_per_datum: Tensor = field(repr=False)
    upper_per_datum: Tensor = field(repr=False)
    acceptance: Tensor = field(repr=False)
    data: Batch = field(repr=False)
    start: Start
    num_temperatures: int
    num_chains: int
    measure: str

    @property
    def width(self) -> float:
        """upper - lower, which no estimate of these data need be off by more."""
        return self.upper - self.lower

    def __str__(self) -> str:
        return (
            f"log p(x) from {self.lower:.2f} ± {self.lower_error:.2f} to {self.upper:.2f} ± "
            f"{self.upper_error:.2f} nats per datum, {self.width:.3f} ± {self.width_error:.3f} apart "
            f"(± {self.draws_error:.2g} by the chains; {self._made})"
        )

    def _repr_html_(self) -> str:
        rows = {"lower bound": self.lower, "upper bound": self.upper, "width": self.width}
        errors = {
            "lower bound": self.lower_error,
            "upper bound": self.upper_error,
            "width": self.width_error,
        }
        return table(f"log p(x), nats per datum; {self._made}", rows, errors)

    @property
    def _made(self) -> str:
        return (
            f"{len(self.lower_per_datum)} simulated data, annealed from the {self.start} and back, "
            f"{self.num_temperatures} temperatures, {self.num_chains} chains{accepted(self.acceptance)}, "
            f"densities w.r.t. {self.measure}"
        )


@checked
def sandwich(
    program: Program,
    *,
    num_data: Count = 100,
    num_temperatures: Temperatures = 500,
    num_chains: Count = 16,
    leapfrogs: Count = 2,
    start: Start = "guide",
    max_rows: Count = 2000,
    compile: Compile = "auto",
    seed: Seed = 0,
    progress: bool = False,
) -> Sandwich:
    r"""Bounds log p(x) from both sides, of data for which an exact draw of the posterior is known.

    Data are drawn from the model, :math:`(z^*, x) \sim p(z, x)`, so that :math:`z^* \sim p(z \mid x)`. Chains
    that are annealed up to the posterior give a lower bound, as in ``pv.evaluate.ais``; chains that begin at
    :math:`z^*` and are annealed down have weights that are unbiased for 1 / p(x), and give an upper bound:

    .. math:: E \log \tfrac1C \textstyle\sum_c w_c \;\le\; \log p(x) \;\le\;
        - E \log \tfrac1C \textstyle\sum_c \tilde w_c, \qquad
        \log \tilde w_c = \sum_{t=T-1}^{1} \log f_{\beta_{t-1}}(z_t) - \log f_{\beta_t}(z_t)

    The width certifies both, and what other estimates say of these very data, ``.data``: with the same
    settings AIS is as near on real data, as far as those are like what the model draws.

    Args:
        program: the model, whose latents are continuous.
        num_data: N, how many data are drawn.
        num_temperatures: T.
        num_chains: C, per datum and direction.
        leapfrogs: gradients that a Hamiltonian proposal takes.
        start: f_0, the prior or the guide.
        max_rows: data times chains decoded at once.
        compile: as in ``pv.evaluate.ais``.
        seed: of the data and the chains.
        progress: whether to show a bar.

    Raises:
        ValueError: as in ``pv.evaluate.ais``; or the model looks at the values that it gives a density, as
            those of the totals of a CountVAE do, so that what it draws is not what it says of them.

    Reference: Grosse, Ghahramani and Adams, 2015, "Sandwiching the marginal likelihood using bidirectional
    Monte Carlo"; Wu, Burda, Salakhutdinov and Grosse, 2017, "On the quantitative analysis of decoder-based
    generative models".

    >>> import pyro_vae as pv
    >>> vae = pv.VAE((3,), latent_dim=2, likelihood=pv.likelihoods.Normal())
    >>> bounds = pv.evaluate.sandwich(vae, num_data=4, num_temperatures=9)
    >>> bounds.lower_per_datum.shape, bounds.upper_per_datum.shape
    (torch.Size([4]), torch.Size([4]))
    """
    batch, latents = simulated(program, num_data, seed)
    split = as_split(batch, program)
    check(program, split)
    chunk, *_ = sizes = chunks(num_chains, max_rows)
    rows, at = max(1, max_rows // chunk), program.max_plate_nesting
    if compile == "auto":
        compile = 2 * gradients(num_temperatures, leapfrogs) * num_chains * num_data >= COMPILED_ROWS
    anneal = Annealing(program, start, num_temperatures, leapfrogs, compile)
    places = itertools.count(0, rows)

    def terms(batch: Batch) -> Tensor:
        place, number = next(places), program.num_data(batch)
        exact = {name: z.narrow(at, place, number) for name, z in latents.items()}
        with parameters_known():
            steps = anneal.steps(batch, chunk)
            paths = [anneal.path(batch, size) for size in sizes]
            up = [anneal.run(path, path.u, steps) for path in paths]
            ends = [path.reals.pack(exact).expand_as(path.u) for path in paths]
            down = [anneal.run(*each, steps, down=True) for each in zip(paths, ends, strict=True)]
        return torch.cat([torch.cat(up, 1), torch.cat(down, 1)])

    text = f"bounds of log p(x), T={num_temperatures}"
    # Another seed, or the first chains would begin with the noise that has made the data.
    log_w, up, log_v, down = over_batches(program, split, terms, rows, (seed + 1) % 2**32, text, progress)
    acceptance = (up.mean(0) + down.mean(0)) / 2
    warn_of_few(acceptance, num_temperatures)
    lower, upper = importance_weighted_bound(log_w), -importance_weighted_bound(log_v)
    measure, _ = measure_of(program, split)
    return Sandwich(
        lower.mean().item(),
        upper.mean().item(),
        standard_error(lower),
        standard_error(upper),
        standard_error(upper - lower),
        math.hypot(draws_error(log_w), draws_error(log_v)),
        lower,
        upper,
        acceptance,
        batch,
        start,
        num_temperatures,
        num_chains,
        measure,
    )


def simulated(program: Program, num_data: int, seed: int) -> tuple[Batch, Batch]:
    """Data drawn from the model, and its latents, ``[1, ..., N, *event_shape]``, draws of their posterior.

    Raises:
        ValueError: they are not, since the model looks at the values that it gives a density.
    """
    with program.evaluating(seed), observing(frozenset()):
        with pyro.plate("particles", 1, dim=-1 - program.max_plate_nesting):
            drawn, others = (program.simulate(num_data) for _ in range(2))
        latents, elsewhere = (
            {name: site["value"] for name, site in sites(trace) if not site["infer"].get("was_observed")}
            for trace in (drawn, others)
        )
        batch = program.example(num_data)
        for name in batch.keys() & drawn.nodes.keys():
            value = cast(Tensor, drawn.nodes[name]["value"])
            batch[name] = value.reshape(num_data, *program.event_shapes[name])
        now, then = (model_at(program, batch, values) for values in (latents, elsewhere))
        own = latents.keys() | batch.keys()
        made = {name for name, _ in sites(now)} - own  # of the data, and not in them: must say nothing of z
        same = [(drawn, now, own), (then, now, made)]
        for one, other, names in same:
            a, b = (log_density(trace, names, program).double() for trace in (one, other))
            if not torch.allclose(a, b, rtol=1e-4, atol=1e-4):
                raise ValueError(
                    f"what a {type(program).__name__} says of data depends on their values besides their "
                    "density (observed totals, say), so that data drawn from it are not what it says they "
                    "are, and no exact draw of the posterior is known; its bounds of real data are those of "
                    "pv.evaluate.ais and log_likelihood"
                )
    return batch, latents
