"""Annealed importance sampling: the log-likelihood by a path of densities, whatever the guide."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.checks import Count, Limit, Seed, checked
from pyro_vae.evaluate.door import Data, as_split, check
from pyro_vae.evaluate.hamiltonian import ACCEPTANCE, Densities, Point, begin, move
from pyro_vae.evaluate.likelihood import COMPILED_ROWS, chunks, compiled_or_none, measure_of, over_batches
from pyro_vae.evaluate.reals import Reals, guide_at, model_at, refuse_latent_weights
from pyro_vae.evaluate.shown import standard_error, table
from pyro_vae.objectives import importance_weighted_bound
from pyro_vae.objectives.importance import log_density, traces
from pyro_vae.program import Batch, DataWarning, Program, sites
from pyro_vae.running import parameters_known
from pyro_vae.svi import Compile

Start = Literal["prior", "guide"]
Temperatures = Annotated[int, Limit(2, math.inf, "2 or more: those of both ends")]

WIDTH = 4.0
"""Temperatures are those of a sigmoid from -WIDTH to WIDTH: dense near both ends, where weights vary most."""
SHARE, LEAST = 4, 20
"""The run that finds the steps has so many times fewer temperatures, and at least so many; before it leaves
the lower end, it takes as many steps there."""
SHORT = 1.0
"""Nats that an estimate may be too low by, as far as the spread of the chains tells, without a warning."""
FEW = 0.4
"""A share of accepted proposals below which chains are told to hardly move."""


@dataclass(frozen=True)
class AIS:
    """Estimate of log p(x) by annealed importance sampling, nats per datum; a lower bound in expectation.

    Attributes:
        log_likelihood: mean over the data.
        standard_error: of the mean, over the data.
        draws_error: standard error that the chains add for these very data; NaN of one chain.
        per_datum: the estimate for each datum, ``[N]``.
        acceptance: share of Hamiltonian proposals that were accepted, ``[N]``; NaN of T = 2, without any.
        start: what is annealed to the posterior, the prior or the guide.
        num_temperatures: T, from 0 to 1.
        num_chains: C, per datum.
        measure: what the densities are densities of; compare only like with like.
        shortfall: about how far the estimate lies below log p(x), ``[N]``, by the spread of the chains: see
            ``shortfall``; NaN of one chain. ``draws_error`` knows nothing of it.
    """

    log_likelihood: float
    standard_error: float
    draws_error: float
    per_datum: Tensor = field(repr=False)
    acceptance: Tensor = field(repr=False)
    start: Start
    num_temperatures: int
    num_chains: int
    measure: str
    shortfall: Tensor = field(default_factory=lambda: torch.empty(0), repr=False)

    def __str__(self) -> str:
        return (
            f"log p(x) {self.log_likelihood:.2f} ± {self.standard_error:.2f} nats per datum "
            f"(± {self.draws_error:.2g} by the chains; annealed from the {self.start}, {self._made}, "
            f"densities w.r.t. {self.measure})"
        )

    def _repr_html_(self) -> str:
        caption = f"nats per datum, annealed from the {self.start}, {self._made}, w.r.t. {self.measure}"
        return table(caption, {"log p(x)": self.log_likelihood}, {"log p(x)": self.standard_error})

    @property
    def _made(self) -> str:
        return f"{self.num_temperatures} temperatures, {self.num_chains} chains{accepted(self.acceptance)}"


@checked
def ais(
    program: Program,
    data: Data,
    *,
    num_temperatures: Temperatures = 500,
    num_chains: Count = 16,
    leapfrogs: Count = 2,
    start: Start = "guide",
    max_rows: Count = 2000,
    compile: Compile = "auto",
    seed: Seed = 0,
    progress: bool = False,
) -> AIS:
    r"""Estimates log p(x) by chains that go from the prior, or from the guide, to the posterior.

    .. math:: f_\beta(z) = f_0(z)^{1 - \beta} \, p(x, z)^\beta, \qquad f_0(z) = p(z) \text{ or } q(z \mid x)

    .. math:: \log w_c = \sum_{t=1}^{T-1} \log f_{\beta_t}(z_{t-1}) - \log f_{\beta_{t-1}}(z_{t-1}),
        \quad z_0 \sim f_0, \quad z_t \sim \mathrm{HMC}_{\beta_t}(z_{t-1}), \qquad
        \log p(x) \approx \log \frac1C \sum_c w_c

    with :math:`0 = \beta_0 < \dots < \beta_{T-1} = 1` those of a sigmoid. Weights are unbiased for p(x) at
    any number of temperatures, so that their logarithm is a lower bound in expectation; how far it lies below
    falls as 1/T. From the guide it is near with few; from the prior it needs many, and owes nothing to the
    guide; T = 2 is importance sampling. Latents that are not on the reals are mapped there.

    It costs gradients of C N leapfrogs (T - 2) decoded data, and a quarter of that again for a preliminary
    run of other chains, which finds steps by datum and temperature that are then left as they are: of a
    784-400-400-20 VAE on one core 1.4 times the time of the decoder's bare float32 products, forwards and
    backwards, for as many (2.9 times, uncompiled: benchmarks/likelihoods.py). Memory is bounded by
    ``max_rows`` decoded data at a time.

    Args:
        program: the model, whose latents are continuous.
        data: a split such as ``data.test``, a batch, or a tensor ``[N, *event_shape]``.
        num_temperatures: T.
        num_chains: C, per datum.
        leapfrogs: gradients that a Hamiltonian proposal takes; more temperatures bring more than more of
            these.
        start: f_0, the prior or the guide.
        max_rows: data times chains decoded at once.
        compile: whether the gradient is compiled, which takes some seconds; auto: if at least 5 million data
            are decoded in all. The noise is the same.
        seed: of the chains.
        progress: whether to show a bar.

    Raises:
        DataError: the data lie outside the likelihood's support.
        ValueError: a latent is discrete or lies outside the plate of data; or the guide, to start from, has
            no density at latents that it did not draw, or draws others than the model has.

    Reference: Neal, 2001, "Annealed importance sampling"; Wu, Burda, Salakhutdinov and Grosse, 2017, "On the
    quantitative analysis of decoder-based generative models".

    >>> import pyro_vae as pv
    >>> vae = pv.VAE((3,), latent_dim=2, likelihood=pv.likelihoods.Normal())
    >>> pv.evaluate.ais(vae, torch.randn(4, 3), num_temperatures=9).per_datum.shape
    torch.Size([4])
    """
    split = as_split(data, program)
    check(program, split)
    chunk, *_ = sizes = chunks(num_chains, max_rows)
    rows = max(1, max_rows // chunk)
    if compile == "auto":
        compile = gradients(num_temperatures, leapfrogs) * num_chains * len(split) >= COMPILED_ROWS
    anneal = Annealing(program, start, num_temperatures, leapfrogs, compile)

    def terms(batch: Batch) -> Tensor:
        with parameters_known():
            steps = anneal.steps(batch, chunk)
            paths = [anneal.path(batch, size) for size in sizes]
            return torch.cat([anneal.run(path, path.u, steps) for path in paths], 1)

    text = f"log p(x) from the {start}, T={num_temperatures}"
    log_w, accepted = over_batches(program, split, terms, rows, seed, text, progress)
    per_datum, acceptance = importance_weighted_bound(log_w), accepted.mean(0)
    warn_of_few(acceptance, num_temperatures)
    short = shortfall(log_w)
    _warn_of_spread(short, log_w, num_temperatures, start)
    mean, error, draws = per_datum.mean().item(), standard_error(per_datum), draws_error(log_w)
    measure, _ = measure_of(program, split)
    made = acceptance, start, num_temperatures, num_chains, measure
    return AIS(mean, error, draws, per_datum, *made, short)


class Path:
    """The densities at both ends of a path, for one batch, of latents on the reals.

    Attributes:
        u: chains at its start, draws of f_0, ``[C, B, D]``.
        reals: maps the latents.
    """

    def __init__(self, program: Program, batch: Batch, start: Start, num_chains: int):
        refuse_latent_weights(program, "pv.evaluate.log_likelihood averages over them")
        self.program, self.batch = program, batch
        self.guided: set[str] | None = None
        if start == "guide":
            model, guide = traces(program, batch, num_chains)
            self.guided = {name for name, _ in sites(guide)}
        else:
            with pyro.plate("particles", num_chains, dim=-1 - program.max_plate_nesting):
                model = poutine.trace(program.model).get_trace(batch)
        log_density(model, model.nodes, program)  # which refuses latents outside the plate of data
        latents = {name: site for name, site in sites(model) if not site["is_observed"]}
        self.names = frozenset(latents)
        if self.guided is not None and not self.guided <= self.names:
            raise ValueError(
                f"the guide draws {', '.join(sorted(self.guided - self.names))}, which the model does not "
                'have; anneal from the prior: start="prior"'
            )
        self.reals = Reals(
            program,
            latents,
            "pv.evaluate.log_likelihood takes it, and sums over its values where the guide enumerates them, "
            "else over draws, of which many are needed",
        )
        self.u = self.reals.pack({name: site["value"] for name, site in latents.items()})

    def densities(self, u: Tensor, *tensors: Tensor) -> list[Tensor]:
        """log f_0 and log p(x, z), ``[2, C, B]``, and their slopes, ``[2, C, B, D]``, of a batch."""
        batch = dict(zip(self.batch, tensors, strict=True))
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            values, change = self.reals.unpack(u)
            model = model_at(self.program, batch, values)
            if self.guided is None:
                log_0 = log_density(model, self.names, self.program)
            else:  # what it leaves to the model is drawn from it
                guide = guide_at(self.program, batch, values)
                log_0 = log_density(guide, self.guided, self.program)
                log_0 = log_0 + log_density(model, self.names - self.guided, self.program)
            log_1 = log_density(model, model.nodes, self.program)
            logs = [(log_p + change).expand(u.shape[:2]) for log_p in (log_0, log_1)]
            slopes = [torch.autograd.grad(log_p.sum(), u, retain_graph=True)[0] for log_p in logs]
        return [torch.stack(logs).detach(), torch.stack(slopes)]


class Annealing:
    """Takes chains along paths, up to the posterior or down from it, with steps found beforehand.

    Args:
        program: the model.
        start: what is at the lower end.
        num_temperatures: T.
        leapfrogs: of a Hamiltonian proposal.
        compile: whether the densities of the first batch's shape are compiled.

    Raises:
        ValueError: the guide is to be at the lower end, and has no density at latents that it did not draw.
    """

    def __init__(self, program: Program, start: Start, num_temperatures: int, leapfrogs: int, compile: bool):
        self.program, self.start, self.leapfrogs, self.compile = program, start, leapfrogs, compile
        self.betas = schedule(num_temperatures)
        self.compiled: dict[torch.Size, Any] = {}
        for conditional in program.conditionals():
            if start == "guide" and not conditional.family.invertible:
                raise ValueError(
                    f"the guide {conditional.family!r} has no density at latents that it did not draw; "
                    'anneal from the prior: start="prior"'
                )

    def path(self, batch: Batch, num_chains: int) -> Path:
        """Of a batch, with chains at the lower end."""
        return Path(self.program, batch, self.start, num_chains)

    def steps(self, batch: Batch, num_chains: int) -> Tensor:
        """Steps of each temperature, ``[T, B, D]``, from a run of other chains, which counts for nothing.

        Positions are measured in the standard deviations of the chains, which narrow as they go up, and sizes
        aim at a share of proposals that are accepted.
        """
        path = self.path(batch, num_chains)
        weights = _weights(schedule(max(LEAST, len(self.betas) // SHARE)), path.u)
        densities = self._densities(path)
        point, variance = begin(densities, path.u), _variance(path.u)
        size, steps = path.u.new_full((path.u.shape[1], 1), 0.3), []
        for weight in torch.cat([weights[:1].expand(LEAST, -1, -1, -1), weights]):
            variance = variance.lerp(_variance(point.u), 0.2)  # of few chains it varies
            steps.append(size * variance.sqrt())
            point, chance = self._move(densities, point, weight, steps[-1])
            size = size * (chance.mean(0)[:, None] - ACCEPTANCE).exp()
        logs = torch.stack(steps[LEAST:], -1).log()
        between = torch.nn.functional.interpolate(logs, len(self.betas), mode="linear", align_corners=True)
        return between.exp().movedim(-1, 0)

    def run(self, path: Path, u: Tensor, steps: Tensor, down: bool = False) -> Tensor:
        """Of chains from u, log weights, and shares of proposals accepted, ``[2, C, B]`` in float64."""
        densities, betas = self._densities(path), self.betas
        if down:
            betas, steps = betas[::-1], steps.flip(0)
        point, weights = begin(densities, u), _weights(betas, u)
        log_w, accepted = torch.zeros(2, *u.shape[:2], dtype=torch.float64, device=u.device)
        for i in range(1, len(betas)):
            log_w += (betas[i] - betas[i - 1]) * (point.logs[1].double() - point.logs[0].double())
            if i < len(betas) - 1:
                point, chance = self._move(densities, point, weights[i], steps[i])
                accepted += chance
        return torch.stack([log_w, accepted / (len(betas) - 2)])

    def _move(self, densities: Densities, point: Point, weight: Tensor, step: Tensor) -> tuple[Point, Tensor]:
        """At most so far, as trajectories of one length may return to where they began."""
        momentum, uniform = torch.randn_like(point.u), torch.rand_like(point.u[..., 0])
        step = step * (0.5 + 0.5 * torch.rand_like(step[:, :1]))
        return move(densities, point, weight, step, momentum, uniform, self.leapfrogs)

    def _densities(self, path: Path) -> Densities:
        batch = list(path.batch.values())
        if self.compile and not self.compiled:  # for the shape of the first batches; the last may be smaller
            inputs = [path.u, *batch]
            self.compiled[path.u.shape] = compiled_or_none(path.densities, inputs, self.program)
        compiled = self.compiled.get(path.u.shape)
        found = path.densities if compiled is None or compiled.watch.changed() else compiled

        def densities(u: Tensor) -> tuple[Tensor, Tensor]:
            logs, slopes = found(u.contiguous(), *batch)  # as it was compiled
            return logs, slopes

        return densities


def _variance(u: Tensor) -> Tensor:
    """Of chains, ``[B, D]``; 1 where they have none."""
    variance = u.var(0) if len(u) > 1 else torch.ones_like(u[0])
    return torch.where(variance.isfinite() & (variance > 0), variance, 1.0)


def _weights(betas: list[float], u: Tensor) -> Tensor:
    """Of both ends, at each temperature, ``[T, 2, 1, 1]``."""
    beta = torch.tensor(betas, dtype=u.dtype, device=u.device)
    return torch.stack([1 - beta, beta], 1)[..., None, None]


def gradients(num_temperatures: int, leapfrogs: int) -> int:
    """How many each chain takes, those of the run that finds the steps included."""
    pilot = LEAST + max(LEAST, num_temperatures // SHARE)
    return 2 + leapfrogs * (pilot + num_temperatures - 2)


def schedule(number: int) -> list[float]:
    """So many inverse temperatures from 0 to 1."""
    s = torch.linspace(-WIDTH, WIDTH, number, dtype=torch.float64).sigmoid()
    return ((s - s[0]) / (s[-1] - s[0])).tolist()


def draws_error(log_w: Tensor) -> float:
    """Standard error of the mean over data of log mean w that the draws ``[C, N]`` add; NaN of one draw."""
    w = (log_w - log_w.logsumexp(0)).exp() * len(log_w)  # whose mean is 1
    return ((w.var(0) / len(w)).sum().sqrt() / w.shape[1]).item() if len(w) > 1 else math.nan


def shortfall(log_w: Tensor) -> Tensor:
    r"""About how far the log of the mean weight lies below log p(x), of each datum, of chains ``[C, N]``.

    .. math:: \log p(x) = E[\log w] + \tfrac12 \mathrm{Var}[\log w]

    for Normal log weights, as those of a path with many temperatures are; less what the mean of C weights has
    of it. It sees what few chains that all end far too low do not: their errors look small.

    Reference: Neal, 2001, "Annealed importance sampling", section 4.
    """
    if len(log_w) < 2:
        return torch.full_like(log_w[0], math.nan)
    return (0.5 * log_w.var(0) + log_w.mean(0) - importance_weighted_bound(log_w)).clamp(min=0.0)


def _warn_of_spread(short: Tensor, log_w: Tensor, num_temperatures: int, start: Start) -> None:
    """Tells of data whose chains end so far apart that the best of them is far below log p(x)."""
    low = short > SHORT
    if low.any():
        at = int(short.nan_to_num(0.0).argmax())
        prior = ', or anneal from the prior, start="prior"' if start == "guide" else ""
        warnings.warn(
            f"log p(x) of {int(low.sum())} of {len(low)} data is too low, by about {short[at].item():.3g} "
            f"nats of datum {at}, as its chains' log weights spread by ± {log_w[:, at].std().item():.2g}; "
            f"take more temperatures, num_temperatures={4 * num_temperatures}{prior}",
            DataWarning,
            stacklevel=4,
        )


def accepted(acceptance: Tensor) -> str:
    """The share of proposals, ``[N]``, in words; nothing where none was made."""
    share = acceptance.mean().item()
    return "" if math.isnan(share) else f", {100 * share:.0f} % of proposals accepted"


def warn_of_few(acceptance: Tensor, num_temperatures: int) -> None:
    """Tells of data whose chains hardly move, so that the estimate is far below log p(x)."""
    low = acceptance < FEW
    if low.any() and num_temperatures > 2:
        at = int(acceptance.argmin())
        warnings.warn(
            f"fewer than {100 * FEW:.0f} % of the proposals were accepted of {int(low.sum())} of {len(low)} "
            f"data (at worst {acceptance[at].item():.2g}, datum {at}), so that their bounds are loose; take "
            f"more temperatures, num_temperatures={4 * num_temperatures}",
            DataWarning,
            stacklevel=4,
        )
