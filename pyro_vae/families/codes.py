"""Vector quantisation: codes of a codebook, as a prior and as a guide."""

from __future__ import annotations

import copy
import math
from typing import Annotated, Any, cast

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.checks import ConfigError, Count, Levels, Limit, NotNegative, checked
from pyro_vae.distributions.codes import Codebook, Nearest, OfCodebook
from pyro_vae.distributions.codes import Codes as Drawn
from pyro_vae.families.base import COUNTING, Family, Shape

Decay = Annotated[float, Limit(0.0, 1.0, "a number from 0 up to, but without, 1")]

MOST_DEAD = 0.05
"""Share of dead codes above which a run ends with a warning."""


class Codes(Family):
    r"""Codes of a codebook: :math:`p(z) = \prod_m \pi_{m k_m}`, with z_m the vector of the code :math:`k_m`.

    There are as many positions m as make up ``latent_dim``, which is a multiple of ``code_dim``, and the
    decoder sees the vectors. By default codes are all alike, :math:`\pi_{mk} = 1 / K`. The guide is
    ``pv.guides.VectorQuantised()``, so that the KL is :math:`-\log \pi_{m k_m}` nats for each position. The
    codebook is no parameter: each code is the moving average of what the encoder emits nearest to it, and one
    that no batch uses any more starts anew at what the encoder emits for a datum. Nor are shares that are
    learned: they are moving averages of how often each code is used at each position.

    A run's history has its ``perplexity``, how many codes used alike would be as hard to foretell, and the
    number of its ``dead_codes``, which none of the last 1 / (1 - ``decay``) batches used.

    Args:
        num_codes: K.
        code_dim: numbers of a code.
        decay: of the moving averages.
        learned: whether the shares of the codes at each position are learned, from 1/K on.

    Reference: van den Oord, Vinyals and Kavukcuoglu, 2017, "Neural discrete representation learning".
    """

    measure = COUNTING
    reparameterised = False

    @checked
    def __init__(
        self, num_codes: Levels = 512, code_dim: Count = 16, decay: Decay = 0.99, learned: bool = False
    ):
        super().__init__()
        self.learned = learned
        self.num_codes, self.code_dim, self.decay = num_codes, code_dim, decay

    def setup(self, event_shape: Shape) -> None:
        super().setup(event_shape)
        if event_shape[-1] % self.code_dim:
            raise ValueError(
                f"latent_dim={event_shape[-1]} is no whole number of codes of code_dim={self.code_dim}: take "
                f"latent_dim={self.code_dim}, or {4 * self.code_dim} for four of them"
            )
        self.num_positions = event_shape[-1] // self.code_dim
        counted = self.num_positions if self.learned else None
        self.codebook = Codebook(self.num_codes, self.code_dim, self.decay, counted)
        self.support = OfCodebook(self.codebook)

    def param_shape(self) -> Shape:
        return (0,)

    def forward(self, raw: Tensor) -> Distribution:
        return Drawn(self.codebook, self.num_positions, self.codebook.logits)

    def describe(self, raw: str) -> dict[str, str]:
        told = f"{self.num_codes} codes of {self.code_dim} numbers"
        own = {"e": f"{told}, moving averages of what is nearest to them"}
        return own | ({"pi": "shares at each position, moving averages, too"} if self.learned else {})

    @property
    def note(self) -> str:  # type: ignore[override]
        """How many codes a value has, and what it costs."""
        told = f"{self.num_positions} position{'s' * (self.num_positions > 1)}"
        most = f"{self.num_positions * math.log(self.num_codes):.2f} nats"
        return f"{told}, of {most}" + " if codes are all alike, and less by learned shares" * self.learned

    def usage(self) -> dict[str, float]:
        return {
            "perplexity": self.codebook.perplexity.item(),
            "dead_codes": float(self.codebook.dead.sum().item()),
        }

    @property
    def alarm(self) -> str:  # type: ignore[override]
        """That codes have died, and what to try; else empty."""
        found = self.usage()
        dead, perplexity = int(found["dead_codes"]), found["perplexity"]
        if dead <= MOST_DEAD * self.num_codes:
            return ""
        enough = max(2, 2 ** math.ceil(math.log2(perplexity)))
        paid = self.num_positions * math.log(self.num_codes)
        wasted = self.num_positions * math.log(self.num_codes / perplexity)
        cost = f", so that {wasted:.2f} of the {paid:.2f} nats of KL are for nothing"
        return (
            f"{dead} of {self.num_codes} codes are dead: none of the last {1 / (1 - self.decay):.0f} batches "
            f"used them. The perplexity of all is {perplexity:.1f}{'' if self.learned else cost}; "
            f"train for more epochs, or take pv.priors.Codes({enough}, {self.code_dim})"
        )


class VectorQuantised(Family):
    r"""The guide of codes: the nearest to what the encoder emits, for certain.

    .. math:: q(z_m \mid x) = 1 \text{ of } z_m = e_{k_m}, \quad
        k_m = \arg\min_k \lVert h_m(x) - e_k \rVert^2, \qquad
        \mathrm{ELBO} = \log p(x \mid z) - M \log K

    The gradient at z is given to h(x) as it is ("straight-through"). Training adds the commitment,
    :math:`\beta \sum_m \lVert h_m(x) - e_{k_m} \rVert^2`, so that h(x) stays near its codes: a factor of the
    guide in training mode, and of no ELBO that is reported.

    As it weighs no other codes, importance weights of its draws find no more of log p(x) than the ELBO.

    Args:
        commitment_cost: :math:`\beta`, nats for the squared distance of a position.

    Reference: van den Oord, Vinyals and Kavukcuoglu, 2017, "Neural discrete representation learning".
    """

    measure = COUNTING
    certain = True

    @checked
    def __init__(self, commitment_cost: NotNegative = 0.25):
        super().__init__()
        self.commitment_cost = commitment_cost

    def over(self, support: OfCodebook) -> VectorQuantised:
        """One of these, of the codebook of a prior, which is the prior's and not copied."""
        made = copy.deepcopy(self)
        made.support = support
        return made

    def param_shape(self) -> Shape:
        return self.event_shape

    def forward(self, raw: Tensor) -> Distribution:
        codebook: Codebook = cast(Any, self.support).codebook
        q = Nearest(raw, codebook, self.commitment_cost)
        if self.training:
            _refuse_several()
            codebook.follow(raw, q.codes)
        return q

    def describe(self, raw: str) -> dict[str, str]:
        return {"nearest": f"the codes nearest to {raw}, position by position"}

    @property
    def note(self) -> str:  # type: ignore[override]
        """What training adds, and what no draws find."""
        return (
            f"training adds {self.commitment_cost:g} times the squared distance to the codes, which no ELBO "
            "reports; no other codes are weighed, so that log p(x) is not found beyond the ELBO"
        )


def _refuse_several() -> None:
    """Refuses to train in several processes, each of which would have a codebook of its own.

    Raises:
        ConfigError: there are several.
    """
    group = torch.distributed
    if group.is_available() and group.is_initialized() and group.get_world_size() > 1:
        raise ConfigError(
            "the codebook of pv.priors.Codes is a moving average over the batches of one process, and each "
            f"of {group.get_world_size()} processes would have another; train in one: torchrun "
            "--nproc-per-node 1"
        )
