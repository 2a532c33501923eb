"""The evidence lower bound and the importance-weighted log-likelihood."""

from __future__ import annotations

import html
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae.checks import Count, Seed, checked
from pyro_vae.constraints import domain, support
from pyro_vae.data import Split
from pyro_vae.evaluate.door import Data, as_split, check
from pyro_vae.evaluate.pareto import HEAVY, Weights, warn_of_tails
from pyro_vae.evaluate.shown import standard_error, table
from pyro_vae.families import COUNTING, LEBESGUE
from pyro_vae.objectives import elbo_terms, log_weights
from pyro_vae.objectives.importance import by_datum, traces
from pyro_vae.program import Batch, DataWarning, Program, sites
from pyro_vae.seen import observing
from pyro_vae.svi import CompilationWarning, Compile

COMPILED_ROWS = 5_000_000
"""Importance weights from which on it is worth waiting for the compiler."""


@dataclass(frozen=True)
class ELBO:
    """The evidence lower bound and its two parts: ``elbo = -(reconstruction + kl)``, nats per datum.

    Attributes:
        elbo: mean of E_q[log p(x|z)] - KL(q(z|x) || p(z)).
        reconstruction: mean of -E_q[log p(x|z)], over all observed sites.
        kl: mean of KL(q(z|x) || p(z)), over all latent sites.
        standard_error: of ``elbo``, over the data.
        draws_error: standard error of ``elbo`` that the draws of z add for these very data; NaN of one draw.
        terms: what each site adds to ``-elbo``, by name.
    """

    elbo: float
    reconstruction: float
    kl: float
    standard_error: float
    draws_error: float = math.nan
    terms: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        draws = "" if math.isnan(self.draws_error) else f"; ± {self.draws_error:.2f} by the draws"
        latent = {name: value for name, value in self.terms.items() if name.startswith("kl_")}
        levels = (
            "".join(f", {name[3:]} {value:.2f}" for name, value in latent.items()) if len(latent) > 1 else ""
        )
        return (
            f"ELBO {self.elbo:.2f} ± {self.standard_error:.2f} nats per datum "
            f"(reconstruction {self.reconstruction:.2f}, KL {self.kl:.2f}{levels}{draws})"
        )

    def _repr_html_(self) -> str:
        named = {name.replace("kl_", "KL of ").replace("_", " of ", 1): v for name, v in self.terms.items()}
        several = named if len(named) > 2 else {}
        rows = {"ELBO": self.elbo, "reconstruction": self.reconstruction, "KL": self.kl} | several
        errors = {"ELBO": self.standard_error}
        return table("nats per datum", rows, errors)


@dataclass(frozen=True)
class LogLikelihood:
    """Importance-weighted estimate of log p(x), nats per datum; a lower bound in expectation.

    Attributes:
        log_likelihood: mean over the data.
        standard_error: of the mean, over the data.
        per_datum: the estimate for each datum, ``[N]``.
        num_samples: K, importance samples per datum.
        measure: what the densities are densities of; compare only like with like.
        bits_per_dim: -log2 p(x) per element of a datum, for whole numbers such as grey levels; else None.
        effective_sample_size: of each datum's weights, ``[N]``, from 1 to K.
        pareto_k: of each datum's weights, ``[N]``, above 0.7 where the estimate is not to be trusted; NaN for
            K < 25. See ``pyro_vae.evaluate.pareto``.
        binarized: how binary data were drawn from grey values, if it is known.
    """

    log_likelihood: float
    standard_error: float
    per_datum: Tensor = field(repr=False)
    num_samples: int
    measure: str
    bits_per_dim: float | None = None
    effective_sample_size: Tensor = field(default_factory=lambda: torch.empty(0), repr=False)
    pareto_k: Tensor = field(default_factory=lambda: torch.empty(0), repr=False)
    binarized: str = ""

    def __str__(self) -> str:
        bits = "" if self.bits_per_dim is None else f", {self.bits_per_dim:.3f} bits/dim"
        return (
            f"log p(x) {self.log_likelihood:.2f} ± {self.standard_error:.2f} nats per datum{bits} "
            f"({'; '.join(self._notes())})"
        )

    def _notes(self) -> list[str]:
        """What the figure hangs on."""
        notes = [f"K = {self.num_samples}"]
        if len(self.effective_sample_size):
            notes[0] += f", {self.effective_sample_size.median().item():.0f} of them effective in the median"
        if len(k := self.pareto_k[~self.pareto_k.isnan()]):
            notes.append(f"k-hat above {HEAVY} of {int((k > HEAVY).sum())} of {len(self.pareto_k)} data")
        drawn = [self.binarized] if self.binarized else []
        return [*notes, f"densities w.r.t. {self.measure}", *drawn]

    def _repr_html_(self) -> str:
        rows = {"log p(x)": self.log_likelihood}
        bits = {} if self.bits_per_dim is None else {"bits per dimension": self.bits_per_dim}
        caption = f"nats per datum; {html.escape('; '.join(self._notes()))}"
        return table(caption, rows | bits, {"log p(x)": self.standard_error})


@checked
def elbo(
    program: Program, data: Data, *, num_samples: Count = 16, batch_size: Count = 1000, seed: Seed = 0
) -> ELBO:
    """Estimates the ELBO, whatever objective the program was trained with.

    KLs are in closed form where they have one. The same seed gives the same noise, so that two
    models, or two epochs, are compared under common random numbers.

    Args:
        program: the model.
        data: a split such as ``data.test``, a batch, or a tensor ``[N, *event_shape]``.
        num_samples: draws of z per datum.
        batch_size: decoded data at a time, over all draws.
        seed: of the draws.

    Raises:
        DataError: the data lie outside the likelihood's support.
    """
    split = as_split(data, program)
    check(program, split)
    return unchecked_elbo(program, split, num_samples=num_samples, batch_size=batch_size, seed=seed)


def unchecked_elbo(
    program: Program, data: Split, *, num_samples: int = 1, batch_size: int = 1000, seed: int = 0
) -> ELBO:
    """``elbo`` of data that have passed the door."""
    names: list[str] = []

    def terms(batch: Batch) -> Tensor:
        model, guide = traces(program, batch, num_samples, enumerating=True)
        found = elbo_terms(model, guide)
        observed = [name for name in found if model.nodes[name]["is_observed"]]
        names[:] = [("reconstruction_" if name in observed else "kl_") + name for name in found]
        size = num_samples, len(next(iter(batch.values())))
        return torch.stack([by_datum(value, program).expand(size) for value in found.values()])

    batch_size = max(1, batch_size // num_samples)
    parts = over_batches(program, data, terms, batch_size, seed, "ELBO").double()  # [sites, S, N]
    means = dict(zip(names, parts.mean((1, 2)).tolist(), strict=True))
    kl = math.fsum(value for name, value in means.items() if name.startswith("kl_"))
    reconstruction = math.fsum(means.values()) - kl
    total = parts.sum(0)
    draws = math.nan
    if num_samples > 1:
        draws = (total.var(0).mean() / total.numel()).sqrt().item()
    return ELBO(-(reconstruction + kl), reconstruction, kl, standard_error(total.mean(0)), draws, means)


@checked
def log_likelihood(
    program: Program,
    data: Data,
    *,
    num_samples: Count = 1000,
    max_rows: Count = 2000,
    compile: Compile = "auto",
    seed: Seed = 0,
    progress: bool = False,
) -> LogLikelihood:
    r"""Estimates :math:`\log p(x) \approx \log \frac1K \sum_k p(x, z_k) / q(z_k|x)`.

    Memory is bounded by ``max_rows`` decoded data at a time, whatever K: of the weights only sums and the
    largest are kept. Those whose tail is too heavy for the estimate to be trusted are told of in a warning.

    Args:
        program: the model.
        data: a split such as ``data.test``, a batch, or a tensor ``[N, *event_shape]``.
        num_samples: K; the literature uses 5000.
        max_rows: data times samples decoded at once; another number means other draws.
        compile: whether the importance weights are compiled, which takes a few seconds; auto: if there are
            at least 5 million of them. The noise is the same.
        seed: of the draws.
        progress: whether to show a bar.

    Raises:
        DataError: the data lie outside the likelihood's support.

    Reference: Burda, Grosse and Salakhutdinov, 2016, "Importance weighted autoencoders"; Vehtari et al.,
    2024, "Pareto smoothed importance sampling".
    """
    split = as_split(data, program)
    check(program, split)
    for family in (conditional.family for conditional in program.conditionals()):
        if family.certain:
            warnings.warn(
                f"the guide {family!r} weighs one value of its latents: the estimate of log p(x) is the "
                "ELBO, and too low by what other values would add; pv.evaluate.elbo is as near",
                DataWarning,
                stacklevel=3,
            )
    chunk, *_ = sizes = chunks(num_samples, max_rows)
    if compile == "auto":
        compile = num_samples * len(split) >= COMPILED_ROWS
    compiled: dict[int, Any] = {}

    def terms(batch: Batch) -> Tensor:
        inputs = list(batch.values())

        def eager(*tensors: Tensor) -> list[Tensor]:
            return [log_weights(program, dict(zip(batch, tensors, strict=True)), chunk)]

        if compile and not compiled:  # for the shape of the first batches; the last may be smaller
            compiled[len(inputs[0])] = compiled_or_none(eager, inputs, program)
        weights = compiled.get(len(inputs[0]))
        if weights is None or weights.watch.changed():
            weights = eager
        stream = Weights(num_samples)
        for n in sizes:
            stream.add(weights(*inputs)[0] if n == chunk else log_weights(program, batch, n))
        return torch.stack([stream.log_mean, stream.effective_sample_size, stream.pareto_k])

    rows = max(1, max_rows // chunk)
    found = over_batches(program, split, terms, rows, seed, f"log p(x), K={num_samples}", progress)
    per_datum, effective, k = found
    warn_of_tails(k, num_samples)
    mean, error = per_datum.mean().item(), standard_error(per_datum)
    measure, elements = measure_of(program, split)
    bits = -mean / (elements * math.log(2)) if elements else None
    told = split.binarized
    return LogLikelihood(mean, error, per_datum, num_samples, measure, bits, effective, k, told)


def chunks(num_samples: int, max_rows: int) -> list[int]:
    """So many samples, in parts of which at least four data's fit in ``max_rows``, the first the largest."""
    chunk = min(num_samples, max(1, max_rows // 4))
    return [chunk] * (num_samples // chunk) + [num_samples % chunk] * (num_samples % chunk > 0)


def measure_of(program: Program, data: Split) -> tuple[str, int]:
    """What the densities of a program's observations are densities of; and how many levels a datum has.

    The number is 0 unless all observed sites are whole numbers that may be more than two.
    """
    families = {c.site: c.family for c in program.conditionals()}
    found: dict[str, str] = {}
    levels = 0
    with program.evaluating(), observing(data.gaps):
        model, _ = traces(program, program.place(data.batch(slice(0, 2))), 1)
    for name, site in sites(model):
        if site["is_observed"]:
            family, discrete = families.get(name), cast(Any, site["fn"]).support.is_discrete
            found[name] = family.measure if family else COUNTING if discrete else LEBESGUE
            binary = domain(support(site["fn"])) == "{0, 1}"
            levels += 0 if binary else math.prod(data.event_shapes.get(name, ()))
    if len(set(found.values())) > 1:
        return f"a mixed measure ({'; '.join(f'{name}: {measure}' for name, measure in found.items())})", 0
    (measure,) = set(found.values()) or {LEBESGUE}
    return measure, levels if measure == COUNTING and len(found) == 1 else 0  # labels are no pixels


def compiled_or_none(function: Any, inputs: list[Tensor], program: Program) -> Any:
    """The compiled function, or with a warning None, where it cannot be compiled."""
    try:
        from pyro_vae.engine import Compiled

        compiled = Compiled(function, inputs, (function, program))
        compiled.check(function, inputs, tolerance=1e-4)
    except Exception as error:  # private API of another version of PyTorch, say
        text = f"the log-likelihood is estimated eagerly, not compiled: {error}"
        warnings.warn(text, CompilationWarning, stacklevel=5)
        return None
    return compiled


def over_batches(
    program: Program,
    data: Split,
    terms: Callable[[Batch], Tensor],
    batch_size: int,
    seed: int,
    description: str,
    progress: bool = False,
) -> Tensor:
    """``terms`` of each batch, ``[..., B]``, joined to ``[..., N]`` on the CPU."""
    results = []
    with (
        program.evaluating(seed),
        observing(data.gaps),
        tqdm(total=len(data), desc=description, unit="datum", disable=not progress, leave=False) as bar,
    ):
        for batch in data.batches(batch_size, dtype=program.dtype):
            results.append(terms(program.place(batch)).cpu())
            bar.update(results[-1].shape[-1])
    return torch.cat(results, -1)
