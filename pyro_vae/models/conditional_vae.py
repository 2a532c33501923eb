"""The VAE under conditions: labels, or other values that are given."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from torch import Tensor
from torch.distributions import Distribution

from pyro_vae import nets
from pyro_vae.checks import check
from pyro_vae.conditional import Conditional
from pyro_vae.data import Split
from pyro_vae.data.columns import Columns
from pyro_vae.families import Family, Of
from pyro_vae.families.base import Shape
from pyro_vae.families.named import Normal
from pyro_vae.guides import as_guide
from pyro_vae.likelihoods import Bernoulli, ByName, Likelihood
from pyro_vae.models.parts import (
    as_rows,
    check_given,
    check_shape,
    given_values,
    refuse_encoding,
    see,
    see_given,
    start_guide,
)
from pyro_vae.priors import Normal as StandardNormal
from pyro_vae.priors import as_prior
from pyro_vae.program import Program
from pyro_vae.seen import Label, Latent, Row, Seen

Given = Mapping[str, int | tuple[int, ...]] | Sequence[str]


class ConditionalVAE(Program):
    r"""A VAE of which all distributions see values that are given: labels, covariates.

    .. math::

        z_n \sim p(z) \text{ or } p(z \mid y_n), \qquad x_n \sim p(x \mid z = z_n, y = y_n), \qquad
        q(z_n \mid x_n, y_n)

    It generates on demand: ``cvae.generate(10, given={"y": 3})``; of a table, with categories by their names
    both ways, ``cvae.columns.decode(cvae.generate(10, given={"species": "setosa"})["x"])`` is a DataFrame.
    Nothing is said of how likely y is. A y that is missing (NaN) is seen as not known.

    Args:
        event_shape: shape of one datum, such as (1, 28, 28), or the columns of a table.
        given: sites of the data that are given, each with its number of classes, for labels that are whole
            numbers from 0 on, or with the shape of its real values: ``{"y": 10, "age": (1,)}``; of a table
            the names of columns: ``["sex", "age"]``.
        latent_dim: D, the number of latent variables per datum.
        conditional_prior: whether the prior is p(z|y), its parameters a network's of y, instead of p(z).
        prior: p(z), as in ``pv.VAE``; if conditional the family of p(z|y), by default a Normal.
        likelihood: p(x|z, y), likewise.
        guide: the family of q(z|x, y), likewise.
        encoder: factory of the network from x and what is given to the guide's parameters; its ``in_shape``
            is a tuple of shapes.
        decoder: factory of the network from z and what is given, likewise.

    Raises:
        ValueError: the shapes are empty, or the parts do not fit together.

    Reference: Sohn, Lee and Yan, 2015, "Learning structured output representation using deep conditional
    generative models"; Kingma, Mohamed, Rezende and Welling, 2014, "Semi-supervised learning with deep
    generative models".
    """

    def __init__(
        self,
        event_shape: tuple[int, ...] | Columns,
        *,
        given: Given = {"y": 10},  # noqa: B006
        latent_dim: int = 10,
        conditional_prior: bool = False,
        prior: Family | Distribution = StandardNormal(),
        likelihood: Likelihood | ByName | Literal["auto"] = Bernoulli(),
        guide: Family | Of | type[Distribution] = Normal(),
        encoder: nets.Net = nets.mlp(400, 400),
        decoder: nets.Net = nets.mlp(400, 400),
    ):
        super().__init__()
        names = () if isinstance(given, Mapping) else check("given", given, Sequence[str])
        event_shape, self.columns, family = as_rows(event_shape, likelihood, names)
        x, z = check_shape("ConditionalVAE", event_shape, latent_dim)
        nets.check_factories(encoder=encoder, decoder=decoder)
        check("conditional_prior", conditional_prior, bool)
        self.given_columns = tuple(names)
        self.given = {} if self.columns and names else check_given(given)
        self.options = {
            "event_shape": self.columns or x,
            "given": list(self.given_columns) if self.columns and names else dict(self.given),
            "latent_dim": z[0],
            "conditional_prior": conditional_prior,
            "prior": prior,
            "likelihood": family,
            "guide": as_guide(guide),
            "encoder": encoder,
            "decoder": decoder,
        }
        self.event_shape, self.latent_dim = x, z[0]
        self.event_shapes = {"x": x} | {s: () if isinstance(k, int) else k for s, k in self.given.items()}
        own = as_prior(prior)
        refuse_encoding("ConditionalVAE", own)
        if conditional_prior:
            self.p_z = Conditional("z", _given_more(own, z), z, self._seen(), nets.mlp(64))
        else:
            self.p_z = Conditional("z", own, z)
        saw = (see(x, self.columns), *(() if self.given_columns else self._seen()))
        self.q_z = Conditional("z", as_guide(guide), z, saw, encoder, support=self.p_z.support)
        self.p_x = Conditional("x", family, x, (Latent("z", z), *self._seen()), decoder)

    def model(self, batch: Any) -> Tensor:
        """The generative story: z ~ p(z) or p(z|y), x ~ p(x|z, y)."""
        y = self._values(batch)
        with self.plate(batch):
            z = self.sample("z", self.p_z(*y) if self.p_z.parents else self.p_z())
            p_x = self.p_x(z, *y)
            if self.given_columns:
                p_x = cast(Any, p_x).given(batch["x"])
            return self.sample("x", p_x, batch)

    def guide(self, batch: Any) -> Tensor:
        """The inference story: z ~ q(z|x, y)."""
        with self.plate(batch):
            y = () if self.given_columns else self._values(batch)
            return self.sample("z", self.q_z(batch["x"], *y))

    def prior(self, *y: Tensor) -> Distribution:
        """p(z), or p(z|y) if the prior is conditional, event shape ``(D,)``."""
        return self.p_z(*self._classes(y)) if self.p_z.parents else self.p_z()

    def decode(self, z: Tensor, *y: Tensor) -> Distribution:
        """p(x|z, y), for z ``[..., D]`` and what is given ``[...]`` or ``[..., *shape]``, in its order."""
        return self.p_x(z, *self._classes(y))

    def encode(self, x: Tensor, *y: Tensor) -> Distribution:
        """q(z|x, y), for x ``[..., *event_shape]`` and what is given, in its order."""
        return self.inferred(self.q_z, x, *self._classes(y))

    def initialize(self, data: Split) -> None:
        super().initialize(data)
        start_guide(self.q_z, self.p_z)

    def _seen(self) -> tuple[Seen, ...]:
        if self.given_columns:
            return (Row("x", cast(Columns, self.columns), self.given_columns),)
        return see_given(self.given)

    def _classes(self, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What is given, of which the labels are classes that there are."""
        for seen, value in zip(self.p_x.seen[1:], given, strict=False):
            if isinstance(seen, Label) and isinstance(value, Tensor):
                seen.check(value)
        return given

    def _values(self, batch: Mapping[str, Tensor]) -> list[Tensor]:
        if self.given_columns:
            return [batch["x"]]
        return given_values("ConditionalVAE", self.given, batch, "pv.data.load(x, labels=y)")


def _given_more(prior: Family, event_shape: Shape) -> Family:
    """The family of p(z|y) that a prior p(z) is of.

    Raises:
        ValueError: it has no parameters, which could come from y.
    """
    if isinstance(prior, StandardNormal):
        return Normal()
    trial = copy.deepcopy(prior)
    trial.setup(event_shape)
    if not math.prod(trial.param_shape()):
        raise ValueError(
            f"conditional_prior=True, and prior={prior!r} has no parameters that could come from what is "
            "given; leave it out for a Normal, or take one whose are learned: "
            "pv.priors.OneHotCategorical(10, learned=True), pv.priors.MixtureOfNormals(10)"
        )
    return prior
