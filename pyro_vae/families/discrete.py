"""Discrete latents: bits and choices, as priors and as guides."""

from __future__ import annotations

import copy
from typing import Any, Literal

from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vae import distributions
from pyro_vae.checks import Levels, Positive, checked
from pyro_vae.constraints import domain
from pyro_vae.distributions.codes import OfCodebook
from pyro_vae.distributions.discrete import OneHots
from pyro_vae.families.base import COUNTING, Family, Shape
from pyro_vae.families.codes import VectorQuantised
from pyro_vae.families.named import Normal

Gradients = Literal["auto", "enumerate", "relaxed", "score"]

FEW, MOST = 256, 65_536
"""Joint values of a datum's latents that are enumerated if nothing is said, and at most."""


class _Values(Family):
    """Vectors of zeros and ones, with a logit for each number."""

    measure = COUNTING
    num_classes: int | None = None

    def setup(self, event_shape: Shape) -> None:
        super().setup(event_shape)
        if self.num_classes is not None and event_shape[-1] % self.num_classes:
            raise ValueError(
                f"{event_shape[-1]} latents are no whole number of choices among {self.num_classes}: take "
                f"latent_dim={self.num_classes}, or {2 * self.num_classes} for two of them"
            )

    def param_shape(self) -> Shape:
        return self.event_shape

    def describe(self, raw: str) -> dict[str, str]:
        return {"logits": raw}


class _Prior(_Values):
    """All values alike, or with learned probabilities that start there."""

    reparameterised = False
    learned: bool

    def param_shape(self) -> Shape:
        return self.event_shape if self.learned else (0,)

    def forward(self, raw: Tensor) -> Distribution:
        logits = raw if self.learned else raw.new_zeros(self.event_shape)
        return distributions.Discrete(logits, self.num_classes)

    def describe(self, raw: str) -> dict[str, str]:
        return super().describe(raw) if self.learned else {"logits": "0"}


class Bernoulli(_Prior):
    r"""Bits: :math:`p(z) = \prod_d \pi_d^{z_d} (1 - \pi_d)^{1 - z_d}`, by default with :math:`\pi_d = 1/2`.

    The guide is of the same kind, ``pv.guides.Discrete()``.

    Args:
        learned: whether the probabilities are learned, from 1/2 on.
    """

    support = constraints.independent(constraints.boolean, 1)

    @checked
    def __init__(self, learned: bool = False):
        super().__init__()
        self.learned = learned


class OneHotCategorical(_Prior):
    r"""Choices among K, each K numbers of which one is 1: :math:`p(z) = \prod_m \prod_k \pi_{mk}^{z_{mk}}`.

    There are as many choices as make up ``latent_dim``: one if it is K. The guide is of the same kind,
    ``pv.guides.Discrete()``.

    Args:
        num_classes: K.
        learned: whether the probabilities are learned, from 1/K on.
    """

    @checked
    def __init__(self, num_classes: Levels = 10, learned: bool = False):
        super().__init__()
        self.num_classes, self.learned = num_classes, learned
        self.support = OneHots(num_classes)


class Discrete(_Values):
    r"""The guide of discrete latents, of the kind of their prior: a logit from the encoder for each number.

    .. math:: \mathrm{ELBO} = \sum_z q(z \mid x) \log \frac{p(x, z)}{q(z \mid x)}

    Over few joint values of a datum's latents this is summed exactly, and so are its gradients. Else the
    ELBO is estimated from draws. Those that are relaxed carry gradients of low variance, which are biased,
    though the ELBO is not; those of the score function are not biased, and noisy. ``pv.objectives.RLOO``, the
    loss that ``pv.fit`` then takes, holds each draw against others of its datum.

    Args:
        gradients: ``"enumerate"``, ``"relaxed"`` or ``"score"``; auto: enumerated up to 256 joint values,
            relaxed beyond.
        temperature: of draws that are relaxed.

    Reference: Jang, Gu and Poole, 2017, "Categorical reparameterization with Gumbel-softmax"; Maddison, Mnih
    and Teh, 2017, "The Concrete distribution"; Williams, 1992, "Simple statistical gradient-following
    algorithms".
    """

    @checked
    def __init__(self, gradients: Gradients = "auto", temperature: Positive = 0.5):
        super().__init__()
        self.gradients, self.temperature = gradients, temperature

    def over(self, support: Any) -> Discrete:
        """One of these over the support of a prior."""
        made = copy.deepcopy(self)
        made.support, made.num_classes = support, getattr(support, "num_classes", None)
        return made

    def setup(self, event_shape: Shape) -> None:
        number = event_shape[-1]
        if isinstance(self.support, type(constraints.one_hot)):  # of Pyro's OneHotCategorical
            self.num_classes = number
        super().setup(event_shape)
        k = self.num_classes
        self.states = 2**number if k is None else k ** (number // k)
        self.how = self.gradients
        if self.how == "auto":
            self.how = "enumerate" if self.states <= FEW else "relaxed"
        if self.how == "enumerate" and self.states > MOST:
            raise ValueError(
                f'gradients="enumerate" of latents of {_count(self.states)} joint values is more than the '
                f"{MOST:,} that are summed over; leave it out, or take fewer latents"
            )
        self.enumerates, self.scores = self.how == "enumerate", self.how == "score"
        self.reparameterised = self.how == "relaxed"

    def forward(self, raw: Tensor) -> Distribution:
        warm = self.temperature if self.how == "relaxed" else None
        return distributions.Discrete(raw, self.num_classes, warm, self.enumerates)

    @property
    def note(self) -> str:  # type: ignore[override]
        """How gradients are taken, and of how many values."""
        told = {
            "enumerate": "over which the ELBO and its gradients are summed",
            "relaxed": f"too many to be enumerated unasked (more than {FEW}): gradients are those of draws "
            f'relaxed at temperature {self.temperature:g}, and biased; of pv.guides.Discrete("score") not',
            "score": "of which draws give gradients by the score function, without bias, and noisy: RLOO "
            "holds each against others",
        }
        if self.gradients == "relaxed":
            told["relaxed"] = (
                f"of which draws are relaxed at temperature {self.temperature:g}: biased gradients"
            )
        return f"{_count(self.states)} joint values, {told[self.how]}"


def _count(states: int) -> str:
    return f"{states:,}" if states < 1e6 else f"about 10^{len(str(states)) - 1}"


def _has_values(support: Any) -> bool:
    """Whether it is that of bits or choices."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return isinstance(support, type(constraints.boolean) | type(constraints.one_hot) | OneHots)


def follow(guide: Family, support: Any) -> Family:
    """A guide's family as it is, but of discrete latents that which sums over them, draws or quantises them.

    Args:
        guide: the family that was given; of a guide that was not, the Normal.
        support: of the prior; None of what is no guide.

    Raises:
        ValueError: a guide of discrete latents has none.
    """
    discrete, codes = _has_values(support), isinstance(support, OfCodebook)
    if isinstance(guide, Discrete) and not discrete:
        raise ValueError(
            f"the guide {guide!r} is of discrete latents, and the prior is over {domain(support)}; leave it "
            "out, or take prior=pv.priors.Bernoulli()"
        )
    if isinstance(guide, VectorQuantised) and not codes:
        raise ValueError(
            f"the guide {guide!r} is of codes, and the prior is over {domain(support)}; leave it out, or "
            "take prior=pv.priors.Codes(512)"
        )
    if (discrete or codes) and isinstance(guide, Normal):
        guide = Discrete() if discrete else VectorQuantised()
    return guide.over(support) if isinstance(guide, Discrete | VectorQuantised) else guide
