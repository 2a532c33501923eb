"""How far the bound lies below log p(x), and whose fault it is: the family's, or the encoder's."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyro_vae.checks import Count, Seed, checked
from pyro_vae.evaluate.door import Data, as_split, check
from pyro_vae.evaluate.likelihood import over_batches
from pyro_vae.evaluate.pareto import HEAVY, Weights, warn_of_tails
from pyro_vae.evaluate.shown import standard_error, table
from pyro_vae.objectives.importance import weights_and_elbos
from pyro_vae.program import Batch, DataWarning, Program
from pyro_vae.refinement import PARTICLES, fit

SLOPE = 0.05
"""Nats that the fitted ELBO may still have risen by from the third quarter of the steps to the last."""

TOLD = {
    "log_likelihood": "log p(x)",
    "best_elbo": "ELBO of the family's best member",
    "elbo": "ELBO of the encoder's",
    "approximation": "approximation gap",
    "amortisation": "amortisation gap",
}


@dataclass(frozen=True)
class InferenceGap:
    r"""How far the ELBO is below log p(x), in two parts; means over the data, in nats per datum.

    .. math:: \log p(x) - \mathrm{ELBO} = \underbrace{\log p(x) - \mathrm{ELBO}(q^*)}_{\text{approximation}}
        + \underbrace{\mathrm{ELBO}(q^*) - \mathrm{ELBO}}_{\text{amortisation}}

    with q* the best member of the guide's family for each datum.

    Attributes:
        per_datum: ``log_likelihood``, ``best_elbo``, ``elbo``, ``approximation``, ``amortisation``, of each
            datum ``[N]``.
        num_samples: K, importance samples per datum.
        num_steps: in which q* was sought.
        effective_sample_size: of each datum's weights under q*, ``[N]``, from 1 to K.
        pareto_k: of these weights, ``[N]``, above 0.7 where log p(x) and the approximation gap are not to be
            trusted, and likely too small.
        rise: of the ELBO of q*, from the third quarter of the steps to the last.
        rise_standard_error: of that.
    """

    per_datum: dict[str, Tensor] = field(repr=False)
    num_samples: int
    num_steps: int
    effective_sample_size: Tensor = field(repr=False)
    pareto_k: Tensor = field(repr=False)
    rise: float
    rise_standard_error: float

    @property
    def log_likelihood(self) -> float:
        """Mean of log p(x)."""
        return self._mean("log_likelihood")

    @property
    def best_elbo(self) -> float:
        """Mean of the ELBO of the family's best member for each datum."""
        return self._mean("best_elbo")

    @property
    def elbo(self) -> float:
        """Mean of the ELBO of what the encoder emits."""
        return self._mean("elbo")

    @property
    def approximation(self) -> float:
        """Mean of what the best member of the family loses against the posterior."""
        return self._mean("approximation")

    @property
    def amortisation(self) -> float:
        """Mean of what the encoder loses against the best member."""
        return self._mean("amortisation")

    @property
    def standard_error(self) -> dict[str, float]:
        """Of each mean, over the data."""
        return {name: standard_error(values) for name, values in self.per_datum.items()}

    def _mean(self, name: str) -> float:
        return self.per_datum[name].mean().item()

    def _notes(self) -> str:
        effective = self.effective_sample_size.median().item()
        heavy, known = (self.pareto_k > HEAVY).sum().item(), not self.pareto_k.isnan().all()
        tails = f"; k-hat above {HEAVY} of {heavy} of {len(self.pareto_k)} data" if known else ""
        return (
            f"K = {self.num_samples}, {effective:.0f} of them effective in the median{tails}; "
            f"{self.num_steps} steps, in the last quarter {self.rise:+.3f} ± {self.rise_standard_error:.3f}"
        )

    def __str__(self) -> str:
        errors = self.standard_error
        width = max(map(len, TOLD.values()))
        lines = [
            f"{told.ljust(width)}  {self._mean(name):9.2f} ± {errors[name]:.2f}"
            for name, told in TOLD.items()
        ]
        return "\n".join([*lines, f"nats per datum; {self._notes()}"])

    def _repr_html_(self) -> str:
        rows = {told: self._mean(name) for name, told in TOLD.items()}
        errors = {TOLD[name]: value for name, value in self.standard_error.items()}
        return table(f"nats per datum; {self._notes()}", rows, errors)


@checked
def inference_gap(
    program: Program,
    data: Data,
    *,
    num_steps: Count = 1000,
    num_samples: Count = 1000,
    max_rows: Count = 2000,
    seed: Seed = 0,
    progress: bool = False,
) -> InferenceGap:
    r"""Splits log p(x) - ELBO into what the guide's family cannot say, and what its encoder does not find.

    .. math:: q^*_x = \arg\max_{q \in \text{family}} \mathrm{ELBO}(x, q)

    is sought for each datum by itself, from what the encoder emits, the model being frozen: Adam moves the
    raw reals that the guide's networks emit, and the average over the last quarter of the steps is taken.
    The gaps are then those of the importance weights w of K draws: the ELBOs are the means of log w, and
    :math:`\log p(x)` the log of the mean of w under q*, whose weights are better behaved than the encoder's;
    over latents that the guide enumerates all of them are sums.

    What is moved is what networks emit that the guide runs and the model does not. Parameters of a family
    that no network emits, such as the maps of a ``Flow``, stay as they are (their context moves). What a
    network emits for a draw of another latent, as in q(z2|z1), is moved by the same amount for all draws.

    Args:
        program: the model.
        data: a split such as ``data.test``, a batch, or a tensor ``[N, *event_shape]``; each datum costs
            8 ``num_steps`` steps forward and back, and twice ``num_samples`` decoded data.
        num_steps: of Adam, in which q* is sought.
        num_samples: K.
        max_rows: data times samples decoded at once; another number means other draws.
        seed: of the draws.
        progress: whether to show a bar.

    Raises:
        DataError: the data lie outside the likelihood's support.
        ValueError: the guide runs no network that could be moved, or weighs but one value of its latents.

    Reference: Cremer, Li and Duvenaud, 2018, "Inference suboptimality in variational autoencoders".
    """
    split = as_split(data, program)
    check(program, split)
    for family in (conditional.family for conditional in program.conditionals()):
        if family.certain:
            raise ValueError(
                f"the guide {family!r} weighs one value of its latents, so that log p(x) is not found beyond "
                "the ELBO, and neither are the gaps; pv.evaluate.elbo tells that"
            )

    def terms(batch: Batch) -> Tensor:
        best, rise = fit(program, batch, num_steps)
        _, elbo = _weights(program, batch, num_samples, max_rows)
        moved, best_elbo = _weights(best, batch, num_samples, max_rows)
        bounds = [moved.log_mean, best_elbo, elbo]
        return torch.stack([*bounds, moved.effective_sample_size, moved.pareto_k, rise])

    rows = max(1, max_rows // PARTICLES)
    found = over_batches(program, split, terms, rows, seed, "best member of the family", progress)
    log_p, best_elbo, elbo, effective, k, rise = found
    warn_of_tails(k, num_samples)
    error = standard_error(rise)
    if rise.mean() - 2 * (0 if math.isnan(error) else error) > SLOPE:
        warnings.warn(
            f"the best member of the family is not found yet: its ELBO still rose by {rise.mean():.3f} nats "
            f"in the last quarter of the steps, most for datum {int(rise.argmax())} ({rise.max():.2f}); take "
            f"num_steps={4 * num_steps}",
            DataWarning,
            stacklevel=3,
        )
    values = log_p, best_elbo, elbo, log_p - best_elbo, best_elbo - elbo
    per_datum = dict(zip(TOLD, values, strict=True))
    return InferenceGap(per_datum, num_samples, num_steps, effective, k, rise.mean().item(), error)


def _weights(program: Program, batch: Batch, num_samples: int, max_rows: int) -> tuple[Weights, Tensor]:
    """The importance weights of so many draws, and the ELBO of each datum, ``[B]``."""
    stream, elbos = Weights(num_samples), []
    chunk = max(1, max_rows // program.num_data(batch))
    for start in range(0, num_samples, chunk):
        log_w, elbo = weights_and_elbos(program, batch, min(chunk, num_samples - start))
        stream.add(log_w)
        elbos.append(elbo)
    return stream, torch.cat(elbos).double().mean(0)
