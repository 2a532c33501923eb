"""What the models share: checks of shapes, what is given, and how priors and guides are joined."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from numbers import Integral
from operator import index
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import check
from pyro_vae.conditional import Conditional
from pyro_vae.data import DataError
from pyro_vae.data.columns import Columns
from pyro_vae.families import Auto, ByColumn, Family, VampPrior
from pyro_vae.families.base import Shape
from pyro_vae.families.univariate import Univariate
from pyro_vae.likelihoods import as_likelihood
from pyro_vae.running import seed_generators
from pyro_vae.seen import Label, Real, Row, Seen


def check_shape(model: str, event_shape: Any, latent_dim: Any) -> tuple[Shape, Shape]:
    """The shapes of x and z.

    Raises:
        ValueError: they are empty, or no whole numbers.
    """
    example = f"for example pv.{model}((1, 28, 28), ...)"
    if not isinstance(event_shape, Sequence) or isinstance(event_shape, str):
        raise ValueError(f"event_shape={event_shape!r} is no shape; {example}")
    shape = tuple(event_shape)
    try:
        if any(isinstance(number, bool) for number in (*shape, latent_dim)):
            raise TypeError
        shape, latent_dim = tuple(map(index, shape)), index(latent_dim)
    except TypeError:
        raise ValueError(
            f"event_shape={event_shape} and latent_dim={latent_dim!r} need whole numbers; {example}"
        ) from None
    if not shape or min(*shape, latent_dim) < 1:
        raise ValueError(
            f"a {model} needs at least one pixel and one latent, but got event_shape={event_shape} "
            f"and latent_dim={latent_dim}; {example}"
        )
    return shape, (latent_dim,)


def as_rows(
    event_shape: Any, likelihood: Any, given: Collection[str] = ()
) -> tuple[Any, Columns | None, Family]:
    """The shape of x, the columns of a table's rows, and the likelihood; of a table one for each column.

    Raises:
        ValueError: the columns are none, or lack what they are.
        DataError: a column is named that there is not.
    """
    family = as_likelihood(likelihood)
    if not isinstance(event_shape, Mapping):
        if isinstance(family, Auto):
            family.setup(())  # which tells what it is for
        return event_shape, None, family
    columns = event_shape if isinstance(event_shape, Columns) else Columns(event_shape)
    if columns.keys() <= set(given):
        raise ValueError(
            f"given={list(given)} are all columns of the table, and none is left to be modelled; leave out "
            f"one at least, given={list(given)[:-1]}, or model them all: pv.VAE"
        )
    if isinstance(family, Auto):
        family = family.resolve(columns, given)
    elif isinstance(family, Univariate):
        family = ByColumn.of(None if name in given else family for name in columns)
    return (len(columns),), columns, family


def see(x: Shape, columns: Columns | None) -> Real | Row:
    """How an encoder sees x."""
    return Real("x", x) if columns is None else Row("x", columns)


def check_given(given: Any) -> dict[str, int | tuple[int, ...]]:
    checked: dict[str, int | tuple[int, ...]] = {}
    for site, what in check("given", given, Mapping[str, Any]).items():
        classes = isinstance(what, Integral) and not isinstance(what, bool) and int(what) > 0
        shape = isinstance(what, tuple | list) and all(type(n) is int and n > 0 for n in what)
        if site in ("x", "z") or not (classes or shape):
            raise ValueError(
                f"given={given!r}: {site!r} needs a number of classes or a shape, and another name than x or "
                'z; for example given={"y": 10, "age": (1,)}'
            )
        checked[site] = int(what) if isinstance(what, Integral) else tuple(what)
    if not checked:
        raise ValueError('given={} gives nothing; give labels, given={"y": 10}, or take a pv.VAE')
    return checked


def see_given(given: Mapping[str, int | Shape]) -> tuple[Seen, ...]:
    """How networks see sites that are given: labels, or real values."""
    return tuple(Label(site, k) if isinstance(k, int) else Real(site, k) for site, k in given.items())


def given_values(model: str, given: Collection[str], batch: Mapping[str, Tensor], how: str) -> list[Tensor]:
    """The values of sites that a model is given, in their order.

    Args:
        model: what it is called.
        given: the sites.
        batch: of data.
        how: to give them with the data.

    Raises:
        DataError: the batch lacks one.
    """
    if missing := [site for site in given if site not in batch]:
        raise DataError(
            f"a {model} given {', '.join(given)} needs {missing[0]} in each batch, but has "
            f"{', '.join(batch)}; give it with the data: {how}, or {{'x': x, {missing[0]!r}: ...}}"
        )
    return [batch[site] for site in given]


def join_encoder(prior: VampPrior, q_z: Conditional, shape: Shape) -> None:
    """Gives a prior that is made of q(z|x) its encoder.

    Raises:
        ValueError: the guide has no density at points that it did not draw, or does not see x alone.
    """
    if not q_z.family.invertible:
        raise ValueError(
            f"the prior {prior!r} needs the density of q(z|x) at any z, which the guide {q_z.family!r} "
            "does not have; take pv.guides.Flow('affine_autoregressive'), or any other guide"
        )
    prior.see(q_z, shape)


def refuse_encoding(model: str, prior: Family) -> None:
    """Refuses a prior that is made of q(z|x), where the guide is not that."""
    if isinstance(prior, VampPrior):
        raise ValueError(
            f"the prior {prior!r} is a mixture of q(z|x), and the guide of a {model} is another; take "
            "pv.priors.MixtureOfNormals(50) or pv.priors.Flow()"
        )


@torch.no_grad()
def start_guide(q_z: Conditional, p_z: Conditional) -> None:
    """Starts a guide over the very support of the prior at draws from it, rather than anywhere."""
    if q_z.pushed or q_z.family.on_reals or p_z.parents:
        return
    device = p_z.raw.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        seed_generators(0, device)
        z = p_z().sample((1000,))
    q_z.family.initialize(z, z.mean(0), z.std(0))
