"""What latents cost, and what is lost for want of them."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyro_vae.checks import ConfigError, Count, Seed, checked
from pyro_vae.checks import found as shown
from pyro_vae.evaluate.door import Data, as_split
from pyro_vae.evaluate.likelihood import ELBO, elbo, measure_of
from pyro_vae.program import Program


@dataclass(frozen=True)
class RateDistortion:
    """Rate and distortion of several programs on the same data, nats per datum.

    Attributes:
        points: by name, such as the beta of the training: of each the ``kl`` is the rate, ``reconstruction``
            the distortion, and minus their sum the ``elbo``.
        measure: what the densities are densities of; those on the real line may have a negative distortion.
    """

    points: dict[str, ELBO]
    measure: str

    def __str__(self) -> str:
        width = max(map(len, self.points))
        lines = [
            f"{name.ljust(width)}  rate {point.kl:8.2f}  distortion {point.reconstruction:9.2f}  "
            f"ELBO {point.elbo:9.2f} ± {point.standard_error:.2f}"
            for name, point in self.points.items()
        ]
        return "\n".join([*lines, f"nats per datum, w.r.t. {self.measure}"])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{point.kl:.2f}</td><td>{point.reconstruction:.2f}</td>"
            f"<td>{point.elbo:.2f} ± {point.standard_error:.2f}</td></tr>"
            for name, point in self.points.items()
        )
        caption = f"<caption>nats per datum, w.r.t. {html.escape(self.measure)}</caption>"
        header = "<tr><th></th><th>rate</th><th>distortion</th><th>ELBO</th></tr>"
        return f"<table>{caption}{header}{rows}</table>"


@checked
def rate_distortion(
    programs: Mapping[Any, Program],
    data: Data,
    *,
    num_samples: Count = 16,
    batch_size: Count = 1000,
    seed: Seed = 0,
) -> RateDistortion:
    r"""The rate R = E[KL(q(z|x) || p(z))] and distortion D = -E[log p(x|z)] of each program.

    :math:`-\mathrm{ELBO} = D + R`: programs of one ELBO lie on a line of slope -1, along which those trained
    with a larger beta, ``pv.fit(..., beta=4.0)``, have a smaller rate. None has D + R below the entropy of
    the data.

    Args:
        programs: by name, such as their betas; ``pv.compare(...).programs`` are.
        data: the same for all: a split such as ``data.test``, a batch, or a tensor ``[N, *event_shape]``.
        num_samples: draws of z per datum.
        batch_size: decoded data at a time, over all draws.
        seed: of the draws, the same for all.

    Raises:
        ConfigError: there is none, or densities are on different measures, which are not to be compared.
        DataError: the data lie outside a likelihood's support.

    Reference: Alemi et al., 2018, "Fixing a broken ELBO".
    """
    if not programs:
        raise ConfigError(f"programs={shown(programs)} must be one or more: {{'beta 1': vae}}")
    options: Any = {"num_samples": num_samples, "batch_size": batch_size, "seed": seed}
    points = {str(name): elbo(program, data, **options) for name, program in programs.items()}
    measures = {measure_of(program, as_split(data, program))[0] for program in programs.values()}
    if len(measures) > 1:
        raise ConfigError(
            f"the programs have densities on different measures, {' and '.join(sorted(measures))}, which are "
            "not to be compared; take those of one likelihood"
        )
    return RateDistortion(points, measures.pop())
