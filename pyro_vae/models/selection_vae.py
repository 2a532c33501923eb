"""The VAE of values that are missing not at random: whether a value is seen depends on what it is."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae import nets
from pyro_vae.conditional import Conditional
from pyro_vae.data import Split
from pyro_vae.data.columns import Columns
from pyro_vae.distributions import marginal
from pyro_vae.families import ByColumn, Family, Of, Univariate
from pyro_vae.families.base import units
from pyro_vae.families.named import Bernoulli
from pyro_vae.guides import Normal as NormalGuide
from pyro_vae.likelihoods import ByName, Likelihood
from pyro_vae.likelihoods import Normal as NormalLikelihood
from pyro_vae.models.vae import VAE
from pyro_vae.priors import Normal as NormalPrior
from pyro_vae.seen import Real


class SelectionVAE(VAE):
    r"""A VAE in whose story values are first there, and then seen or not: :math:`s_i = 1` if x_i is observed.

    .. math::

        z \sim p(z), \qquad x \sim p(x \mid z), \qquad s \sim p(s \mid x), \qquad
        q(z, x_m \mid x_o) = q(z \mid x_o)\, p(x_m \mid z)

    ``pv.VAE`` leaves out of the density what is missing, which is right where it is missing at random: for
    reasons that lie in what is observed. Where large incomes are kept secret, or sensors fail above a
    threshold, it is biased; p(s|x) mends that, as far as its form is right, which data alone cannot tell.

    Missing values are latents, site ``"x_unobserved"``, that the guide draws from the decoder, so that their
    densities cancel. As their posterior is narrower, train with the importance-weighted bound, as the paper
    does: ``pv.fit(..., loss=pyro.infer.RenyiELBO(alpha=0.0, num_particles=20, vectorize_particles=True))``.

    Args:
        event_shape: shape of one datum, or the columns of a table, as in ``pv.VAE``.
        latent_dim: D, the number of latent variables per datum.
        selection: factory of the network from x, standardised, to logits: of ``pv.nets.SelfMasking`` whether
            a value is seen depends on itself alone, of ``pv.nets.mlp(32)`` on all of x.
        prior: p(z), as in ``pv.VAE``.
        likelihood: p(x|z), likewise, independent over elements and reparameterised.
        guide: the family of q(z|x), likewise.
        encoder: factory of the network from x to the guide's parameters.
        decoder: factory of the network from z to the likelihood's parameters.

    Raises:
        ValueError: the parts do not fit together, or missing values cannot be drawn with gradients.

    Reference: Ipsen, Mattei and Frellsen, 2021, "not-MIWAE: deep generative modelling with missing not at
    random data"; Rubin, 1976, "Inference and missing data".
    """

    def __init__(
        self,
        event_shape: tuple[int, ...] | Columns,
        latent_dim: int = 10,
        *,
        selection: nets.Net = nets.SelfMasking,
        prior: Family | Distribution = NormalPrior(),
        likelihood: Likelihood | ByName | Literal["auto"] = NormalLikelihood(),
        guide: Family | Of | type[Distribution] = NormalGuide(),
        encoder: nets.Net = nets.mlp(400, 400),
        decoder: nets.Net = nets.mlp(400, 400),
    ):
        super().__init__(
            event_shape,
            latent_dim,
            prior=prior,
            likelihood=likelihood,
            guide=guide,
            encoder=encoder,
            decoder=decoder,
        )
        family = self.p_x.family
        if not (isinstance(family, ByColumn | Univariate) and family.reparameterised):
            raise ValueError(
                f"what is missing cannot be drawn from {family!r} element by element, with gradients; take a "
                "likelihood of real values, likelihood=dist.StudentT, or a pv.VAE, which need not draw it"
            )
        nets.check_factories(selection=selection)
        self.options |= {"selection": selection}
        whole = Real("whole", self.event_shape)
        self.p_s = Conditional("s", Bernoulli(), self.event_shape, (whole,), selection)

    def model(self, batch: Any) -> Tensor:
        """The generative story: z ~ p(z), x ~ p(x|z), of which some is observed, s ~ p(s|x)."""
        known = ~batch["x"].isnan()
        with self.plate(batch):
            p_x = self.p_x(self.sample("z", self.p_z()))
            x = self.sample("x", p_x, batch)
            missing = self.sample("x_unobserved", marginal(p_x, ~known))
            whole = torch.where(known, x, missing)
            self.sample("s", self.p_s(whole), {"s": known.to(whole)})
            return x

    def guide(self, batch: Any) -> Tensor:
        """The inference story: z ~ q(z|x), and what is missing of x ~ p(x|z)."""
        with self.plate(batch):
            z = self.sample("z", self.q_z(batch["x"]))
            self.sample("x_unobserved", marginal(self.p_x(z), batch["x"].isnan()))
            return z

    @torch.no_grad()
    def initialize(self, data: Split) -> None:
        super().initialize(data)
        mean, std = data.moments("x")
        seen, known = cast(Real, self.p_s.seen[0]), (~self.place(data.examples)["x"].isnan()).to(self.dtype)
        seen.loc.copy_(mean)
        seen.scale.copy_(units(std, by_column=True) if seen.scale.dim() else units(std, False).flatten()[0])
        self.p_s.family.initialize(known, known.mean(0), known.std(0), by_column=True)
