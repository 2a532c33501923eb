"""VAEs of several levels of latents."""

from __future__ import annotations

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
from pyro_vae.families.base import Shape
from pyro_vae.families.named import Normal
from pyro_vae.guides import as_guide
from pyro_vae.likelihoods import Bernoulli, ByName, Likelihood
from pyro_vae.models.parts import as_rows, check_shape, refuse_encoding, see, start_guide
from pyro_vae.priors import Normal as StandardNormal
from pyro_vae.priors import as_prior
from pyro_vae.program import Program
from pyro_vae.seen import Latent, Seen

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

    With ``skip`` each sees all that comes before it in its story, and not its neighbour alone, so that the
    highest of many levels is still next to x:

    .. math:: p(z_L) \prod_{l=1}^{L-1} p(z_l \mid z_{l+1}, \ldots, z_L)\; p(x \mid z_1, \ldots, z_L), \qquad
        \prod_l q(z_l \mid x, z_1, \ldots, z_{l-1}) \text{ or } \prod_l q(z_l \mid x, z_{l+1}, \ldots, z_L).

    Args:
        event_shape: shape of one datum, such as (1, 28, 28), or the columns of a table.
        latent_dims: number of latents of each level, the one next to x first; or the shape of their image,
            ``(C, H, W)``, of which ``nets.resnet`` makes networks between any two.
        inference: ``"bottom_up"`` or ``"top_down"``.
        skip: whether each level sees all that comes before it.
        prior: of the highest level, as in ``pv.VAE``.
        likelihood: p(x|z1), likewise.
        guide: the family at each level; top-down they are Normals.
        encoder: factory of the network that sees x; of those that do, with ``skip``.
        decoder: factory of the network from z1 to the likelihood's parameters; with ``skip`` from all levels.
        between: factory of the networks between levels alone, upwards and downwards.

    Raises:
        ValueError: the shapes are empty, or the parts do not fit together.

    Reference: Burda, Grosse and Salakhutdinov, 2016, "Importance weighted autoencoders"; Sønderby et al.,
    2016, "Ladder variational autoencoders"; Maaløe, Fraccaro, Liévin and Winther, 2019, "BIVA: a very deep
    hierarchy of latent variables for generative modeling".
    """

    def __init__(
        self,
        event_shape: tuple[int, ...] | Columns,
        latent_dims: Sequence[int | tuple[int, int, int]] = (40, 20),
        *,
        inference: Inference = "bottom_up",
        skip: bool = False,
        prior: Family | Distribution = StandardNormal(),
        likelihood: Likelihood | ByName | Literal["auto"] = Bernoulli(),
        guide: Family | Of | type[Distribution] = Normal(),
        encoder: nets.Net = nets.mlp(400, 400),
        decoder: nets.Net = nets.mlp(400, 400),
        between: nets.Net = nets.mlp(200, 200),
    ):
        super().__init__()
        dims, shapes = _levels(latent_dims)
        event_shape, self.columns, likely = as_rows(event_shape, likelihood)
        x, _ = check_shape("HierarchicalVAE", event_shape, 1)
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
            "skip": check("skip", skip, bool),
            "prior": prior,
            "likelihood": likely,
            "guide": family,
            "encoder": encoder,
            "decoder": decoder,
            "between": between,
        }
        self.event_shape, self.latent_dims, self.inference, self.skip = x, dims, inference, skip
        self.event_shapes = {"x": x}
        self.sites = [f"z{level}" for level in range(1, len(dims) + 1)]
        z = [Latent(site, shape) for site, shape in zip(self.sites, shapes, strict=True)]
        above = [tuple(z[level:]) if skip else tuple(z[level : level + 1]) for level in range(1, len(z) + 1)]
        self.p_top = Conditional(self.sites[-1], as_prior(prior), shapes[-1])
        refuse_encoding("HierarchicalVAE", self.p_top.family)
        if len(shapes[-1]) > 1 and self.p_top.support.is_discrete:
            raise ValueError(
                f"prior={self.p_top.family!r} is of a vector, and the highest level of latent_dims={dims} an "
                f"image; latent_dims={(*dims[:-1], 8)}, for example"
            )
        self.p_z = nn.ModuleList(
            Conditional(own.site, Normal(), own.event_shape, parents, between)
            for own, parents in zip(z[:-1], above, strict=False)
        )
        self.p_x = Conditional("x", likely, x, tuple(z) if skip else (z[0],), decoder)
        self.q_z = nn.ModuleList()
        for level, (own, p) in enumerate(zip(z, self._down(), strict=True)):
            seen: tuple[Seen, ...] = (see(x, self.columns),)
            if skip:
                seen += tuple(z[:level]) if inference == "bottom_up" else above[level]
            elif level:
                # Downwards, that is what is seen of the level below, the raw numbers of its Normal.
                shape = self._up()[-1].family.param_shape()
                seen = (z[level - 1] if inference == "bottom_up" else Latent(f"evidence{level}", shape),)
            factory = between if level and not skip else encoder
            self.q_z.append(Conditional(own.site, family, own.event_shape, seen, factory, support=p.support))

    def model(self, batch: Any) -> Tensor:
        """The generative story, from the highest level down to x."""
        with self.plate(batch):
            z: dict[str, Tensor] = {}
            for p_z in reversed(self._down()):
                z[p_z.site] = self.sample(p_z.site, _given(p_z, z))
            return self.sample("x", _given(self.p_x, z), batch)

    def guide(self, batch: Any) -> None:
        """The inference story, upwards or downwards."""
        with self.plate(batch):
            known = {"x": batch["x"]}
            if self.inference == "bottom_up":
                for q_z in self._up():
                    known[q_z.site] = self.sample(q_z.site, _given(q_z, known))
                return
            found = [] if self.skip else self._evidence(batch["x"])
            for level, p_z in reversed(list(enumerate(self._down()))):
                q = _given(self._up()[level], known) if self.skip else found[level]
                known[p_z.site] = self.sample(p_z.site, _product(q, _given(p_z, known)) if p_z.parents else q)

    def initialize(self, data: Split) -> None:
        super().initialize(data)
        start_guide(self._up()[-1], self.p_top)

    def _down(self) -> list[Conditional]:
        """The model's conditionals of the latents, the one next to x first."""
        return [*cast(list[Conditional], list(self.p_z)), self.p_top]

    def _up(self) -> list[Conditional]:
        """The guide's conditionals, the one next to x first."""
        return cast(list[Conditional], list(self.q_z))

    def _evidence(self, x: Tensor) -> list[Distribution]:
        """What x says of each level, on the way up."""
        found, value = [], x
        for q_z in self._up():
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
    return cast(Distribution, product.to_event(len(one.event_shape)))


def _given(conditional: Conditional, known: dict[str, Tensor]) -> Distribution:
    """A conditional's distribution, of whose parents the values are known by site."""
    return cast(Distribution, conditional(*(known[seen.site] for seen in conditional.seen)))


def _levels(latent_dims: Any) -> tuple[tuple[Any, ...], list[Shape]]:
    """The latents of each level, as they are given and as shapes.

    Raises:
        ValueError: there is no level, or one is neither a number nor the shape of an image.
    """
    dims = tuple(check("latent_dims", latent_dims, Sequence[Count | tuple[Count, ...]]))
    if not dims:
        raise ValueError("latent_dims=() has no level; latent_dims=(40, 20), for example")
    for level in dims:
        if not isinstance(level, int) and len(level) != 3:
            raise ValueError(
                f"latent_dims={latent_dims!r} has a level of shape {tuple(level)}, which is no image's; "
                "latent_dims=((8, 7, 7), 20), for example"
            )
    shapes = [(level,) if isinstance(level, int) else tuple(level) for level in dims]
    return tuple(shape if len(shape) == 3 else shape[0] for shape in shapes), shapes
