"""A guide that takes steps for each datum from what the encoder emits."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.checks import Count, Positive, checked
from pyro_vae.families.base import COUNTING, Family, Shape
from pyro_vae.families.named import Normal
from pyro_vae.families.univariate import Of


class SemiAmortised(Family):
    r"""Another guide whose raw reals r take steps for each datum from those that the encoder emits.

    .. math:: r_0 = h(x), \qquad r_{t+1} = r_t + \mathrm{Adam}\big(\nabla_r\, \mathrm{ELBO}(x; r_t)\big),
        \qquad q(z \mid x) = \mathrm{family}(r_T)

    The model is frozen in the steps. They are taken wherever the guide is run, in training and evaluation,
    as a function of the batch alone: q is a distribution as any other, and each bound a bound. A datum whose
    ELBO does not rise by them keeps what the encoder emits.

    **The gradient of training is of first order.** What the steps add is a constant in it,

    .. math:: r_T = h(x) + \mathrm{const}, \qquad \nabla_h = \nabla_r\, \mathrm{ELBO}(x; r)\big|_{r_T},

    so that the encoder is moved by the ELBO's slope at r_T and not at its own answer, and the model by the
    ELBO's gradient at r_T. Kim et al. differentiate through the steps, to second order, and found that
    better; Marino et al. learn a network that takes them. Neither is done here.

    Each step draws 8 latents per datum: training takes 8 T times the time of decoding, and is not compiled.

    Args:
        guide: the family, of continuous latents: a ``pv.guides`` object, or a distribution class.
        steps: T.
        lr: of Adam, in raw reals: how far each goes in a step at most.

    Raises:
        ValueError: the guide is one of discrete latents.

    Reference: Kim, Wiseman, Miller, Sontag and Rush, 2018, "Semi-amortized variational autoencoders"; Marino,
    Yue and Mandt, 2018, "Iterative amortized inference"; Hjelm et al., 2016, "Iterative refinement of the
    approximate posterior for directed belief networks".
    """

    @checked
    def __init__(self, guide: Any = Normal, steps: Count = 5, lr: Positive = 0.1):
        super().__init__()
        if inspect.isclass(guide) and issubclass(guide, Distribution):
            guide = Of(guide)
        made = isinstance(guide, Of) or (inspect.isclass(guide) and issubclass(guide, Family))
        guide = guide() if made else copy.deepcopy(guide)
        fits = isinstance(guide, Family) and not isinstance(guide, SemiAmortised)
        if not fits or guide.measure == COUNTING or guide.certain or not guide.reparameterised:
            raise ValueError(
                f"guide={guide!r} takes no steps of its own; give a family of continuous latents, "
                "pv.guides.SemiAmortised(pv.guides.Normal())"
            )
        self.guide, self.steps, self.lr = guide, steps, lr
        self.support, self.invertible = guide.support, guide.invertible
        self.note = f"moved for each datum by {steps} steps of Adam on its ELBO, lr {lr:g}"

    def setup(self, event_shape: Shape) -> None:
        super().setup(event_shape)
        self.guide.setup(event_shape)

    def param_shape(self) -> Shape:
        return self.guide.param_shape()

    def forward(self, raw: Tensor) -> Distribution:
        distribution: Distribution = self.guide(raw)
        return distribution

    @torch.no_grad()
    def initialize(self, x: Tensor, mean: Tensor, std: Tensor, *, by_column: bool = False) -> None:
        self.guide.initialize(x, mean, std, by_column=by_column)

    def describe(self, raw: str) -> dict[str, str]:
        return self.guide.describe(raw)
