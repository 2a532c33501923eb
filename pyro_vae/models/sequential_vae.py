"""The VAE of sequences: a chain of states, and what is seen of each (a deep Markov model)."""

from __future__ import annotations

import functools
import math
import warnings
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae import nets
from pyro_vae.bayesian import Bayesian
from pyro_vae.conditional import Conditional
from pyro_vae.data import Split
from pyro_vae.data.source import statistics
from pyro_vae.distributions import Chain as ChainOf
from pyro_vae.distributions import Continued
from pyro_vae.distributions.chain import log_steps
from pyro_vae.families import Family, Of
from pyro_vae.families.base import LEBESGUE, Shape, units
from pyro_vae.families.chain import Chain, Markov, Steps
from pyro_vae.guides import as_guide
from pyro_vae.likelihoods import Likelihood, as_likelihood
from pyro_vae.likelihoods import Normal as NormalLikelihood
from pyro_vae.models.parts import check_shape, refuse_encoding
from pyro_vae.priors import Normal as NormalPrior
from pyro_vae.priors import as_prior
from pyro_vae.program import DataWarning, Program, as_batch
from pyro_vae.recurrent import EachStep
from pyro_vae.seen import Latent, Real, may_have_gaps


class Sequence(Real):
    """How a network sees a sequence: columns standardised, each by the values of all of its steps.

    A mask is always beside them, whether data to train on have gaps or not: forecasts are asked of all.
    Whether they had steps that are not observed, and were not the last, is kept in ``skips``.
    """

    skips: Tensor

    def __init__(self, site: str, event_shape: Shape):
        super().__init__(site, event_shape)
        self.loc, self.scale = torch.zeros(event_shape[1:]), torch.ones(event_shape[1:])
        self.register_buffer("skips", torch.tensor(False))

    @property
    def shape(self) -> Shape:
        """Shape of what the network sees."""
        return (2, *self.event_shape)

    def forward(self, x: Tensor) -> Tensor:
        known = ~x.isnan()
        return torch.stack([torch.where(known, (x - self.loc) / self.scale, 0.0), known.to(x)], -3)

    @torch.no_grad()
    def initialize(self, data: Split, by_column: bool = True) -> None:
        mean, std, *_ = statistics((x.flatten(0, 1) for x in data.chunks(self.site)), self.event_shape[1:])
        self.loc.copy_(mean)
        self.scale.copy_(units(std, by_column=True))
        gaps = (within(x) & x.isnan().all(-1) for x in data.chunks(self.site))
        self.skips.fill_(self.site in data.gaps and any(bool(gap.any()) for gap in gaps))


def within(x: Tensor) -> Tensor:
    """Steps up to the last one of which anything is observed, ``[..., T]``, of x ``[..., T, D]``."""
    later = x.isnan().all(-1).flip(-1).to(torch.int8).cumprod(-1).flip(-1)
    return later == 0


class SequentialVAE(Program):
    r"""Sequences x of T steps, in which states z follow each other, and each is seen: a deep Markov model.

    .. math::

        z_1 \sim p(z_1), \qquad z_t \sim p(z_t \mid z_{t-1}), \qquad x_t \sim p(x_t \mid z_t), \qquad
        q(z_{1:T} \mid x) = \prod_t q(z_t \mid z_{t-1}, x)

    Sites are ``"z"``, all states of a datum, ``[B, T, L]``, and ``"x"``, ``[B, T, D]``. NaN means not
    observed: at the end, a shorter sequence, whose evidence is its own; anywhere else, a gap. ``pv.predict``
    fills it, and continues the sequence as far as T reaches.

    Beyond the last observed step the guide is the model's own transition, which adds nothing to the ELBO and
    makes forecasts as good as the states that they start from. So it is in a gap, at steps of which nothing
    is observed, unless the data that were trained on had such gaps, so that the encoder knows of them.

    No part of a step of training is a loop over time: densities of all transitions are one call of a network,
    the default guide is Normal and linear in the states before (``pv.guides.Markov``), and the default
    encoder has gates that see x alone (``pv.nets.recurrent``): each of both is one operation, a recurrence. A
    compiled step has as many operations for T = 200 as for T = 10. Draws of the model are a loop. The sizes
    of the paper, whose recurrent network is unrolled where it is compiled, are::

        pv.SequentialVAE(
            (129, 88), latent_dim=100, likelihood=pv.likelihoods.Bernoulli(),
            transition=pv.nets.gated(200), decoder=pv.nets.mlp(100, 100, activation=nn.ReLU),
            encoder=pv.nets.recurrent(600, num_layers=1, cell="gru"),
            guide=pv.guides.Structured(features=600),
        )

    Unless it is told otherwise, ``pv.fit`` warms up the KL over a third of the epochs, as the paper does, as
    states are else soon given up, and takes ``lr=1e-2``: lower it for networks as large as the paper's.

    Args:
        event_shape: ``(T, D)``: number of steps, of values at each.
        latent_dim: L, the number of states at each step.
        transition: factory of the network from z_{t-1} to the parameters of z_t, of independent Normals.
        prior: p(z_1), over the reals, as in ``pv.VAE``.
        likelihood: p(x_t | z_t), as in ``pv.VAE``; all that is learned of it is the same at all steps.
        guide: the family of q(z | x), over ``(T, L)``: ``pv.guides.Markov()``, of dozens of states
            ``pv.guides.Markov("diagonal")``; ``pv.guides.Structured()``, by any network of the state before;
            or ``pv.guides.Normal()``, in which steps are independent.
        encoder: factory of the network from x to the guide's parameters at all steps.
        decoder: factory of the network from z_t to the likelihood's parameters.

    Raises:
        ValueError: the shape is not ``(T, D)``, or the parts do not fit together.

    Reference: Krishnan, Shalit and Sontag, 2017, "Structured inference networks for nonlinear state space
    models".

    >>> vae = SequentialVAE((20, 3), latent_dim=2)
    >>> vae.decode(vae.prior().sample((5,))).mean.shape
    torch.Size([5, 20, 3])
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        latent_dim: int = 10,
        *,
        transition: nets.Net = nets.gated(64),
        prior: Family | Distribution = NormalPrior(),
        likelihood: Likelihood = NormalLikelihood(),
        guide: Family | Of | type[Distribution] = Markov(),
        encoder: nets.Net = nets.recurrent(64),
        decoder: nets.Net = nets.mlp(64),
    ):
        super().__init__()
        x, (state,) = check_shape("SequentialVAE", event_shape, latent_dim)
        if len(x) != 2:
            mend = (
                f"of one value at each step give x[..., None], and pv.SequentialVAE(({x[0]}, 1), ...)"
                if len(x) == 1
                else f"give x.flatten(2), and pv.SequentialVAE({x[0], math.prod(x[1:])}, ...)"
            )
            raise ValueError(
                f"event_shape={x} is no (T, D), the number of steps and of values at each; {mend}"
            )
        nets.check_factories(transition=transition, encoder=encoder, decoder=decoder)
        first, family = as_prior(prior), as_likelihood(likelihood)
        refuse_encoding("SequentialVAE", first)
        self.options = {
            "event_shape": x,
            "latent_dim": state,
            "transition": transition,
            "prior": prior,
            "likelihood": family,
            "guide": as_guide(guide),
            "encoder": encoder,
            "decoder": decoder,
        }
        self.event_shape, self.latent_dim, self.event_shapes = x, state, {"x": x}
        z = (x[0], state)
        self.p_z = Conditional("z", Chain(first, transition), z)
        if not cast(Chain, self.p_z.family).initial.on_reals:
            raise ValueError(
                f"prior={first!r} is of the first state, which is real as the later ones are; take "
                "pv.priors.Normal(), or another one over the reals"
            )
        self.q_z = Conditional(
            "z", as_guide(guide), z, (Sequence("x", x),), encoder, support=self.p_z.support
        )
        self.p_x = Conditional("x", Steps(family), x, (Latent("z", z),), _at_each_step(decoder))

    def model(self, batch: Any) -> Tensor:
        """The generative story: z_1 ~ p(z_1), z_t ~ p(z_t | z_{t-1}), x_t ~ p(x_t | z_t)."""
        with self.plate(batch):
            z = self.sample("z", self.p_z())
            return self.sample("x", self.p_x(z), batch)

    def guide(self, batch: Any) -> Tensor:
        """The inference story: z ~ q(z | x), and beyond what is observed by the model's transition."""
        with self.plate(batch):
            return self.sample("z", self.encode(batch["x"]))

    def fit_settings(self, epochs: int) -> dict[str, Any]:
        """Small networks that are one step after the other take a higher rate; and the KL is warmed up.

        States that tell of their own step alone are else learned first, and hardly unlearned.
        """
        return {"lr": 1e-2, "warmup_epochs": epochs // 3}

    def initialize(self, data: Split) -> None:
        super().initialize(data)
        low = torch.full(self.event_shape[1:], math.inf, dtype=torch.float64)
        high = -low
        for x in data.chunks("x"):
            steps = x.flatten(0, 1).to(low)
            low = low.minimum(steps.nan_to_num(math.inf).amin(0))
            high = high.maximum(steps.nan_to_num(-math.inf).amax(0))
        empty = low > high
        constant = (low == high) & (self.p_x.family.measure == LEBESGUE)
        for found, told in ((empty, "never observed"), (constant, "constant")):
            if columns := found.nonzero()[:, 0].tolist():
                warnings.warn(
                    f"{told} in the training data: values {columns[:5]} of the {len(found)} of a step of x; "
                    "nothing is learned of them, whatever is drawn; leave them out: x[..., kept]",
                    DataWarning,
                    stacklevel=3,
                )

    def prior(self) -> Distribution:
        """p(z), batch shape ``()``, event shape ``(T, L)``."""
        return self.p_z()

    def decode(self, z: Tensor) -> Distribution:
        """p(x | z), batch shape ``[...]``, event shape ``(T, D)``, for states z ``[..., T, L]``."""
        return self.p_x(z)

    def encode(self, x: Tensor) -> Distribution:
        """q(z | x), batch shape ``[...]``, event shape ``(T, L)``, for x ``[..., T, D]``."""
        x = as_batch(x, "x")["x"]
        q = self.q_z(x)
        if not may_have_gaps("x", x) or log_steps(q, torch.zeros(q.event_shape).to(x)) is None:
            return q
        inside = within(x)
        if not self.training:  # a gap is the encoder's where it has seen such
            skips = cast(Sequence, self.q_z.seen[0]).skips
            inside = inside & (skips | ~x.isnan().all(-1))
        # In training no step beyond is seen by anything: none is drawn, one after the other.
        return Continued(q, cast(ChainOf, self.p_z()), inside, follows=not self.training)


def _at_each_step(decoder: Any) -> Any:
    """A factory of the decoder of all steps; weights that are latent are those of all steps, too."""
    if getattr(decoder, "make", None) is not Bayesian:
        return functools.partial(EachStep, net=decoder)
    inner = functools.partial(EachStep, net=decoder.options["net"])
    return functools.partial(Bayesian, **(decoder.options | {"net": inner}))
