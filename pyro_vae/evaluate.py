"""Measures of a trained VAE. Nothing here changes a parameter, or the state of a random generator."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae.compiler import CompilationError, CompilationWarning, Compile, Compiled, check_equal, rollback
from pyro_vae.data import DataError, Split
from pyro_vae.distributions import domain, support
from pyro_vae.likelihoods import COUNTING
from pyro_vae.objectives import importance_weighted_bound, kl_divergence, log_weights
from pyro_vae.vae import VAE

COMPILED_ROWS = 5_000_000
"""Importance weights from which on it is worth waiting for the compiler."""


@dataclass(frozen=True)
class ELBO:
    """The evidence lower bound and its two parts: ``elbo = -(reconstruction + kl)``, nats per datum.

    Attributes:
        elbo: mean of E_q[log p(x|z)] - KL(q(z|x) || p(z)).
        reconstruction: mean of -E_q[log p(x|z)].
        kl: mean of KL(q(z|x) || p(z)).
        standard_error: of ``elbo``, over the data.
    """

    elbo: float
    reconstruction: float
    kl: float
    standard_error: float

    def __str__(self) -> str:
        return (
            f"ELBO {self.elbo:.2f} ± {self.standard_error:.2f} nats per datum "
            f"(reconstruction {self.reconstruction:.2f}, KL {self.kl:.2f})"
        )


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
    """

    log_likelihood: float
    standard_error: float
    per_datum: Tensor
    num_samples: int
    measure: str
    bits_per_dim: float | None = None

    def __str__(self) -> str:
        bits = "" if self.bits_per_dim is None else f", {self.bits_per_dim:.3f} bits/dim"
        return (
            f"log p(x) {self.log_likelihood:.2f} ± {self.standard_error:.2f} nats per datum{bits} "
            f"(K = {self.num_samples}, densities w.r.t. {self.measure})"
        )


def elbo(
    vae: VAE, data: Split | Tensor, *, num_samples: int = 1, batch_size: int = 1000, seed: int = 0
) -> ELBO:
    """Estimates the ELBO, whatever objective the VAE was trained with.

    The KL is in closed form where there is one. The same seed gives the same noise, so that two
    models, or two epochs, are compared under common random numbers.

    Args:
        vae: the model.
        data: a split such as ``data.test``, or a tensor ``[N, *event_shape]``.
        num_samples: draws of z per datum.
        batch_size: decoded data at a time, over all draws.
        seed: of the draws.

    Raises:
        DataError: the data lie outside the likelihood's support.
    """

    def terms(x: Tensor) -> Tensor:
        q_z = vae.encode(x)
        z = q_z.rsample((num_samples,))
        kl = kl_divergence(q_z, vae.prior(), z)
        log_p = vae.decode(z).log_prob(x)
        return torch.stack([-log_p.mean(0), kl.mean(0)])

    _check_positive(num_samples=num_samples, batch_size=batch_size)
    batch_size = max(1, batch_size // num_samples)
    parts = _over_batches(vae, data, terms, batch_size, seed, "ELBO", progress=False).double()
    total = parts.sum(0)
    reconstruction, kl = parts.mean(1).tolist()
    return ELBO(-(reconstruction + kl), reconstruction, kl, _standard_error(total))


def log_likelihood(
    vae: VAE,
    data: Split | Tensor,
    *,
    num_samples: int = 1000,
    max_rows: int = 4000,
    compile: Compile = "auto",
    seed: int = 0,
    progress: bool = False,
) -> LogLikelihood:
    r"""Estimates :math:`\log p(x) \approx \log \frac1K \sum_k p(x, z_k) / q(z_k|x)`.

    Memory is bounded by ``max_rows`` decoded data at a time, whatever K.

    Args:
        vae: the model.
        data: a split such as ``data.test``, or a tensor ``[N, *event_shape]``.
        num_samples: K; the literature uses 5000.
        max_rows: data times samples decoded at once.
        compile: whether the importance weights are compiled, which takes a few seconds; auto: if there are
            at least 5 million of them. The noise is the same.
        seed: of the draws.
        progress: whether to show a bar.

    Raises:
        DataError: the data lie outside the likelihood's support.

    Reference: Burda, Grosse and Salakhutdinov, 2016, "Importance weighted autoencoders".
    """
    _check_positive(num_samples=num_samples, max_rows=max_rows)
    chunk = min(num_samples, max(1, max_rows // 4))
    sizes = [chunk] * (num_samples // chunk) + [num_samples % chunk] * (num_samples % chunk > 0)

    if compile == "auto":
        compile = num_samples * len(data) >= COMPILED_ROWS
    weigh: dict[Any, Callable[..., list[Tensor]]] = {}

    def eager(x: Tensor) -> list[Tensor]:
        return [log_weights(vae, x, chunk)]

    def terms(x: Tensor) -> Tensor:
        if not weigh:  # for the shape of the first batches; the last may be smaller
            weigh[x.shape] = _compiled(eager, x) if compile else eager
        weights = weigh.get(x.shape, eager)
        log_w = [weights(x)[0] if size == chunk else log_weights(vae, x, size) for size in sizes]
        return importance_weighted_bound(torch.cat(log_w))[None]

    per_datum = _over_batches(
        vae, data, terms, max(1, max_rows // chunk), seed, f"log p(x), K={num_samples}", progress
    )[0].double()
    mean = per_datum.mean().item()
    levels = vae.p_x.measure == COUNTING and not vae.p_x.binary
    bits = -mean / (math.prod(vae.event_shape) * math.log(2)) if levels else None
    return LogLikelihood(mean, _standard_error(per_datum), per_datum, num_samples, vae.p_x.measure, bits)


def active_units(
    vae: VAE, data: Split | Tensor, *, threshold: float = 0.01, num_samples: int = 100, seed: int = 0
) -> int:
    r"""Number of latents d that vary with x: :math:`\mathrm{Var}_x(E_{q(z|x)}[z_d])` above a threshold.

    Estimated from draws for every guide alike, less what their noise adds to the variance.

    Args:
        vae: the model.
        data: a split such as ``data.test``, or a tensor ``[N, *event_shape]``.
        threshold: of the variance.
        num_samples: draws of z per datum.
        seed: of the draws.

    Reference: Burda, Grosse and Salakhutdinov, 2016, "Importance weighted autoencoders", section 5.
    """

    def moments(x: Tensor) -> Tensor:
        z = vae.encode(x).sample((num_samples,))
        return torch.cat([z.mean(0), z.var(0)], -1).T

    _check_positive(num_samples=num_samples - 1)
    joined = _over_batches(vae, data, moments, 1000, seed, "active units", progress=False).double()
    mean, variance = joined.chunk(2)
    return int((mean.var(1) - variance.mean(1) / num_samples > threshold).sum())


def _compiled(function: Callable[[Tensor], list[Tensor]], x: Tensor) -> Callable[..., list[Tensor]]:
    """The compiled function, or with a warning the function itself, where it cannot be compiled."""
    try:
        compiled = Compiled(function, [x])
        with rollback():
            expected = [tensor.clone() for tensor in function(x)]
        check_equal(expected, compiled.trial(x), tolerance=1e-4)
    except CompilationError as error:
        text = f"the log-likelihood is estimated eagerly, not compiled: {error}"
        warnings.warn(text, CompilationWarning, stacklevel=5)
        return function
    return compiled


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise DataError(f"{name}={number} must be positive; {name}=1000, for example")


def _standard_error(values: Tensor) -> float:
    return (values.std() / math.sqrt(len(values))).item() if len(values) > 1 else math.nan


def _over_batches(
    vae: VAE,
    data: Split | Tensor,
    terms: Callable[[Tensor], Tensor],
    batch_size: int,
    seed: int,
    description: str,
    progress: bool,
) -> Tensor:
    """``terms`` of each batch, ``[k, B]``, joined to ``[k, N]`` on the CPU."""
    split = data if isinstance(data, Split) else Split(data)
    reference = vae.input_loc
    check_support(vae, split)
    results = []
    with (
        vae.evaluating(seed),
        tqdm(total=len(split), desc=description, unit="datum", disable=not progress, leave=False) as bar,
    ):
        for x in split.batches(batch_size, dtype=reference.dtype):
            results.append(terms(x.to(reference.device)).cpu())
            bar.update(len(x))
    return torch.cat(results, 1)


def check_support(vae: VAE, split: Split) -> None:
    """Refuses data that the VAE's likelihood gives no density, or that have another shape.

    Raises:
        DataError: naming what was found and how to mend it.
    """
    if not len(split):
        raise DataError("the split is empty; load the data with a larger fraction for it: test=0.1")
    if split.event_shape != vae.event_shape:
        raise DataError(
            f"the data have shape {split.event_shape}, but the VAE was built for {vae.event_shape}: "
            "pv.VAE(data.event_shape, ...)"
        )
    with vae.evaluating():
        z = vae.prior().sample((8,))
        p_x, given = vae.decode(z), support(vae.decode(z[:1]))  # one, for all data alike
        split.check(given, domain(given), repr(vae.p_x), vae.p_x.mends)
        low, high = split.range
        for end in (low, high):  # many a support is closed where the density is 0 or infinite
            if not p_x.log_prob(vae.input_loc.new_full(vae.event_shape, end)).isfinite().all():
                raise DataError(
                    f"the values range over [{low:g}, {high:g}], and the likelihood {vae.p_x!r} gives values "
                    f"of {end:g} no density, or an infinite one. Mend: {vae.p_x.mends}"
                )
