"""VAEs of several levels of latents."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal, cast

import pyro.distributions as dist
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae import nets
from pyro_vae.checks import Count, check
from pyro_vae.conditional import Conditional
from pyro_vae.data import Split
from pyro_vae.data.columns import Columns
from pyro_vae.families import Family, Of
from pyro_vae.families.named import Normal
from pyro_vae.guides import as_guide
from pyro_vae.likelihoods import Bernoulli, ByName, Likelihood
from pyro_vae.models.parts import as_rows, check_shape, refuse_encoding, see, start_guide
from pyro_vae.priors import Normal as StandardNormal
from pyro_vae.priors import as_prior
from pyro_vae.program import Program
from pyro_vae.seen import Latent

Inference = Literal["bottom_up", "top_down"]


class HierarchicalVAE(Program):
    r"""Levels of latents, each the prior of the one below: sites ``"z1"`` (next to x), ``"z2"``, ...

    .. math:: p(z_L) \prod_{l=1}^{L-1} p(z_l \mid z_{l+1})\; p(x \mid z_1)

    with Normals between the levels. The guide goes bottom-up,
    :math:`q(z_1 \mid x) \prod_l q(z_{l+1} \mid z_l)`, or top-down,
    :math:`q(z_L \mid x) \prod_l q(z_l \mid z_{l+1}, x)`, sharing the model's path: there a Normal that was
    computed upwards from x is multiplied with the model's :math:`p(z_l \mid z_{l+1})`,

    .. math:: \sigma^{-2} = \sigma_x^{-2} + \sigma_p^{-2}, \qquad
        \mu = \sigma^2 (\mu_x \sigma_x^{-2} + \mu_p \sigma_p^{-2}).

    Args:
        event_shape: shape of one datum, such as (1, 28, 28), or the columns of a table.
        latent_dims: number of latents of each level, the one next to x first.
        inference: ``"bottom_up"`` or ``"top_down"``.
        prior: of the highest level, as in ``pv.VAE``.
        likelihood: p(x|z1), likewise.
        guide: the family at each level; top-down they are Normals.
        encoder: factory of the network that sees x.
        decoder: factory of the network from z1 to the likelihood's parameters.
        between: factory of the networks between levels, upwards and downwards.

    Raises:
        ValueError: the shapes are empty, or the parts do not fit together.

    Reference: Burda, Grosse and Salakhutdinov, 2016, "Importance weighted autoencoders"; Sønderby et al.,
    2016, "Ladder variational autoencoders".
    """

    def __init__(
        self,
        event_shape: tuple[int, ...] | Columns,
        latent_dims: Sequence[int] = (40, 20),
        *,
        inference: Inference = "bottom_up",
        prior: Family | Distribution = StandardNormal(),
        likelihood: Likelihood | ByName | Literal["auto"] = Bernoulli(),
        guide: Family | Of | type[Distribution] = Normal(),
        encoder: nets.Net = nets.mlp(400, 400),
        decoder: nets.Net = nets.mlp(400, 400),
        between: nets.Net = nets.mlp(200, 200),
    ):
        super().__init__()
        dims = tuple(check("latent_dims", latent_dims, Sequence[Count]))
        if not dims:
            raise ValueError("latent_dims=() has no level; latent_dims=(40, 20), for example")
        event_shape, self.columns, likely = as_rows(event_shape, likelihood)
        x, _ = check_shape("HierarchicalVAE", event_shape, min(dims))
        nets.check_factories(encoder=encoder, decoder=decoder, between=between)
        if inference not in ("bottom_up", "top_down"):
            raise ValueError(f'inference={inference!r} is neither "bottom_up" nor "top_down"')
        family = as_guide(guide)
        if inference == "top_down" and not isinstance(family, Normal):
            raise ValueError(f'inference="top_down" multiplies Normals, and the guide is {family!r}')
        self.options = {
            "event_shape": self.columns or x,
            "latent_dims": dims,
            "inference": inference,
            "prior": prior,
            "likelihood": likely,
            "guide": family,
            "encoder": encoder,
            "decoder": decoder,
            "between": between,
        }
        self.event_shape, self.latent_dims, self.inference = x, dims, inference
        self.event_shapes = {"x": x}
        self.sites = [f"z{level}" for level in range(1, len(dims) + 1)]
        z = [Latent(site, (d,)) for site, d in zip(self.sites, dims, strict=True)]
        self.p_top = Conditional(self.sites[-1], as_prior(prior), (dims[-1],))
        refuse_encoding("HierarchicalVAE", self.p_top.family)
        self.p_z = nn.ModuleList(
            Conditional(below.site, Normal(), below.event_shape, (above,), between)
            for below, above in itertools.pairwise(z)
        )
        self.p_x = Conditional("x", likely, x, (z[0],), decoder)
        supports = [c.support for c in self._down()]
        parents: list[Any] = [see(x, self.columns), *z]
        if (
            inference == "top_down"
        ):  # what is seen upwards: a Normal, of which the next one sees the raw numbers
            parents[1:] = [Latent(f"evidence{level}", (2 * d,)) for level, d in enumerate(dims, 1)]
        self.q_z = nn.ModuleList(
            Conditional(
                value.site,
                family,
                value.event_shape,
                (parent,),
                between if level else encoder,
                support=support,
            )
            for level, (value, parent, support) in enumerate(zip(z, parents, supports, strict=False))
        )

    def model(self, batch: Any) -> Tensor:
        """The generative story, from the highest level down to x."""
        with self.plate(batch):
            z = self.sample(self.sites[-1], self.p_top())
            for site, p_z in list(zip(self.sites, self.p_z, strict=False))[::-1]:
                z = self.sample(site, p_z(z))
            return self.sample("x", self.p_x(z), batch)

    def guide(self, batch: Any) -> None:
        """The inference story, upwards or downwards."""
        with self.plate(batch):
            if self.inference == "bottom_up":
                value = batch["x"]
                for site, q_z in zip(self.sites, self.q_z, strict=True):
                    value = self.sample(site, q_z(value))
                return
            seen = self._evidence(batch["x"])
            z = self.sample(self.sites[-1], seen[-1])
            for site, p_z, evidence in list(zip(self.sites, self.p_z, seen, strict=False))[::-1]:
                z = self.sample(site, _product(evidence, p_z(z)))

    def initialize(self, data: Split) -> None:
        super().initialize(data)
        start_guide(cast(Conditional, self.q_z[-1]), self.p_top)

    def _down(self) -> list[Conditional]:
        """The model's conditionals of the latents, the one next to x first."""
        return [*cast(list[Conditional], list(self.p_z)), self.p_top]

    def _evidence(self, x: Tensor) -> list[Distribution]:
        """What x says of each level, on the way up."""
        found, value = [], x
        for q_z in cast(list[Conditional], list(self.q_z)):
            raw = q_z.emit(value)
            found.append(q_z.distribution(raw))
            value = raw
        return found


def _product(one: Any, other: Any) -> Distribution:
    """The Normal proportional to the product of two."""
    a, b = one.base_dist, other.base_dist
    precision = a.scale.square().reciprocal() + b.scale.square().reciprocal()
    loc = (a.loc / a.scale.square() + b.loc / b.scale.square()) / precision
    product: Any = dist.Normal(loc, precision.rsqrt())
    return cast(Distribution, product.to_event(1))
