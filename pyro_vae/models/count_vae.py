"""The VAE of counts whose totals differ from datum to datum, as those of genes in cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae import nets
from pyro_vae.checks import check
from pyro_vae.conditional import Conditional
from pyro_vae.data import DataError, Split
from pyro_vae.data.anndata import cells
from pyro_vae.data.columns import Columns
from pyro_vae.data.source import statistics
from pyro_vae.families import Family, Of, Univariate
from pyro_vae.families.named import Normal
from pyro_vae.guides import as_guide
from pyro_vae.likelihoods import Likelihood, as_likelihood
from pyro_vae.models.parts import (
    check_given,
    check_shape,
    given_values,
    refuse_encoding,
    see_given,
    start_guide,
)
from pyro_vae.priors import Normal as StandardNormal
from pyro_vae.priors import as_prior
from pyro_vae.program import Batch, Program
from pyro_vae.seen import Latent, Row


class CountVAE(Program):
    r"""Counts :math:`x_{ng}`, such as of gene g in cell n: shares that a network gives, times a total.

    .. math::

        z_n \sim p(z), \qquad x_{ng} \sim \mathrm{NB}\bigl(\text{mean } \ell_n \, \rho_g(z_n, y_n),
        \text{ dispersion } \theta_g\bigr), \qquad \rho(z, y) = \mathrm{softmax}(f(z, y) + \log \theta)

    The total :math:`\ell_n`, how deep a cell was sequenced, is either what was counted, or latent:

    .. math:: \log \ell_n \sim \mathcal N(\mu_{y}, \sigma_{y}^2), \qquad
        q(\log \ell_n \mid x_n, y_n) = \mathcal N\bigl(\log \textstyle\sum_g x_{ng} + h_1(x_n, y_n),
        h_2(x_n, y_n)^2\bigr)

    with site ``"library"`` the logarithm, and :math:`\mu, \sigma` learned, a pair for each class given. Under
    ``library="observed"`` a total is a covariate that is given: log p(x) is of counts given their total, and
    compares with that of such models alone. Networks see log(1 + x), standardised. Values that are missing
    add nothing to a total; where there are none, it is the mean total of the training data.

    Args:
        event_shape: ``(G,)``, the number of genes; or their names, ``pv.data.load(adata).event_shapes``.
        given: sites that x and the guides are given, as in ``pv.ConditionalVAE``: ``{"batch": 3}``.
        latent_dim: D, the number of latents z per datum.
        library: whether totals are what was counted, ``"observed"``, or ``"latent"``.
        prior: p(z), as in ``pv.VAE``.
        likelihood: of a count whose mean can be scaled: NegativeBinomial, GammaPoisson, Poisson, and
            ZeroInflatedNegativeBinomial and ZeroInflatedPoisson, whose mean is that without extra zeros. By
            default the dispersion :math:`\theta`, ``total_count`` to Pyro, is one of each gene.
        guide: the family of q(z|x, y), as in ``pv.VAE``.
        encoder: factory of the network from x and what is given to the guide's parameters, and of another to
            those of the total's.
        decoder: factory of the network from z and what is given to the likelihood's parameters.

    Raises:
        ValueError: the shape is not that of a vector, or the parts do not fit together.

    Reference: Lopez, Regier, Cole, Jordan and Yosef, 2018, "Deep generative modeling for single-cell
    transcriptomics".

    >>> vae = CountVAE((50,), latent_dim=2)
    >>> shares = vae.decode(vae.prior().sample((5,)), log_total=torch.zeros(1)).mean
    >>> shares.shape, torch.allclose(shares.sum(-1), torch.ones(5))
    (torch.Size([5, 50]), True)
    """

    typical: Tensor

    def __init__(
        self,
        event_shape: tuple[int, ...] | Columns,
        *,
        given: Mapping[str, int | tuple[int, ...]] = {},
        latent_dim: int = 10,
        library: Literal["observed", "latent"] = "observed",
        prior: Family | Distribution = StandardNormal(),
        likelihood: Likelihood = Of(dist.NegativeBinomial)(total_count="per_element"),
        guide: Family | Of | type[Distribution] = Normal(),
        encoder: nets.Net = nets.mlp(128),
        decoder: nets.Net = nets.mlp(128),
    ):
        super().__init__()
        if isinstance(event_shape, Mapping):
            self.columns = event_shape if isinstance(event_shape, Columns) else Columns(event_shape)
            event_shape = (len(self.columns),)
        x, z = check_shape("CountVAE", event_shape, latent_dim)
        if len(x) != 1:
            raise ValueError(f"event_shape={x} is no shape of a vector of counts: pv.CountVAE((2000,), ...)")
        nets.check_factories(encoder=encoder, decoder=decoder)
        check("library", library, Literal["observed", "latent"])
        self.given = check_given(given) if given else {}
        family = as_likelihood(likelihood)
        if not (isinstance(family, Univariate) and issubclass(family.family, _SCALED)):
            raise ValueError(
                f"likelihood={family!r} is none of counts whose mean a total scales: take one of "
                f"{', '.join(kind.__name__ for kind in _SCALED)}, such as "
                'pv.likelihoods.NegativeBinomial(total_count="per_element")'
            )
        self.options = {
            "event_shape": self.columns or x,
            "given": dict(self.given),
            "latent_dim": z[0],
            "library": library,
            "prior": prior,
            "likelihood": family,
            "guide": as_guide(guide),
            "encoder": encoder,
            "decoder": decoder,
        }
        self.event_shape, self.latent_dim, self.library = x, z[0], library
        self.event_shapes = {"x": x} | {s: () if isinstance(k, int) else k for s, k in self.given.items()}
        self.register_buffer("typical", torch.zeros(1))
        self.p_z = Conditional("z", as_prior(prior), z)
        refuse_encoding("CountVAE", self.p_z.family)
        saw = (self._counts(), *see_given(self.given))
        self.q_z = Conditional("z", as_guide(guide), z, saw, encoder, support=self.p_z.support)
        if library == "latent":
            saw = (self._counts(), *see_given(self.given))
            self.p_library = Conditional("library", Normal(), (1,), see_given(self.given), nets.mlp())
            self.q_library = Conditional("library", Normal(), (1,), saw, encoder)
        self.p_x = Conditional("x", family, x, (Latent("z", z), *see_given(self.given)), decoder)

    def model(self, batch: Any) -> Tensor:
        """The generative story: log l ~ p(library|y) if it is latent, z ~ p(z), x ~ p(x|z, y, l)."""
        y = self._values(batch)
        with self.plate(batch):
            if self.library == "latent":
                log_total = self.sample("library", self.p_library(*y))
            else:
                log_total = self.log_total(batch["x"])
            z = self.sample("z", self.p_z())
            return self.sample("x", with_total(self.p_x(z, *y), log_total), batch)

    def guide(self, batch: Any) -> Tensor:
        """The inference story: log l ~ q(library|x, y) if it is latent, z ~ q(z|x, y)."""
        y = self._values(batch)
        with self.plate(batch):
            if self.library == "latent":
                q = self.q_library(batch["x"], *y)
                log_total = self.log_total(batch["x"]) + q.mean
                self.sample("library", dist.Normal(log_total, q.stddev).to_event(1))
            return self.sample("z", self.q_z(batch["x"], *y))

    def log_total(self, x: Tensor) -> Tensor:
        """log of what was counted of each datum, ``[..., 1]``; where nothing was, of the mean total."""
        total = x.nan_to_num(0.0).sum(-1, keepdim=True)
        return torch.where(total > 0, total.clamp(min=1.0).log(), self.typical)

    def example(self, num_data: int = 2) -> Batch:
        batch = super().example(num_data)
        return batch | {"x": self._scaled(batch["x"])}

    def prior(self) -> Distribution:
        """p(z), batch shape ``()``, event shape ``(D,)``."""
        return self.p_z()

    def decode(self, z: Tensor, *y: Tensor, log_total: Tensor | None = None) -> Distribution:
        """p(x|z, y, l), for z ``[..., D]``, what is given in its order, and log l ``[..., 1]``.

        By default l is the mean total of the training data.
        """
        return with_total(self.p_x(z, *y), self.typical if log_total is None else log_total)

    def encode(self, x: Tensor, *y: Tensor) -> Distribution:
        """q(z|x, y), for x ``[..., G]`` and what is given, in its order."""
        return self.inferred(self.q_z, x, *y)

    @torch.no_grad()
    def initialize(self, data: Split) -> None:
        self.typical.fill_(float(data.moments("x")[0].sum().clamp(min=1.0).log()))
        super().initialize(data)
        start_guide(self.q_z, self.p_z)
        at_typical = self._scaled(self.place({"x": data[:]})["x"])  # totals that differ are no dispersion
        mean, std, *_ = statistics(iter([at_typical]), self.event_shape)
        start(cast(Univariate, self.p_x.family), mean.clamp(min=0.5 / len(data)), std.square())
        if self.library == "latent":
            logs = self.log_total(self.place(data.examples)["x"])
            self.p_library.family.initialize(logs, logs.mean(0), logs.std(0, correction=0))
            known_to = (-0.5 * logs).exp().mean(0)  # as of a Poisson's total
            self.q_library.family.initialize(logs, 0 * known_to, known_to)

    def annotate(
        self, adata: Any, *, layer: str | None = None, batch_key: str | None = None, labels: Any = None
    ) -> None:
        """Writes the latents and the means of all cells into an AnnData, of the genes trained on.

        ``adata.obsm["X_vae"]`` are the means of q(z|x, y), from which scanpy goes on,
        ``scanpy.pp.neighbors(adata, use_rep="X_vae")``; ``adata.layers["denoised"]`` those of p(x|z, y, l)
        there, at each cell's own total.

        Args:
            adata: cells, with all the batches that there were in training.
            layer: as in ``pv.data.load``, and so are batch_key and labels.

        Raises:
            DataError: there are other genes, no counts, or other batches.
        """
        found, columns = cells(adata, layer, batch_key, labels)
        if len(columns) != self.event_shape[0] or (self.columns and [*columns] != [*self.columns]):
            raise DataError(
                f"the AnnData has {len(columns)} genes, and the model was trained on "
                f"{self.event_shape[0]}, or others; give those, in their order: adata[:, names]"
            )
        for site, number in self.given.items():
            if isinstance(number, int) and site in found.values:
                there = found.values[site].unique()
                there = there[~there.isnan()]
                if len(there) and int(there.max()) != number - 1:
                    raise DataError(
                        f"the cells are of {len(there)} classes of {site}, up to number {int(there.max())}, "
                        f"and those trained on of {number}: their numbers may be others; give all cells"
                    )
        z, means = [], []
        with self.evaluating():
            for start in range(0, len(found), 1000):
                batch = self.place({name: v[start : start + 1000] for name, v in found.values.items()})
                y = self._values(batch)
                z.append(self.encode(batch["x"], *y).mean)
                log_total = self.log_total(batch["x"])
                means.append(self.decode(z[-1], *y, log_total=log_total).mean.cpu().float())
        adata.obsm["X_vae"] = torch.cat(z).cpu().float().numpy()
        adata.layers["denoised"] = np.concatenate([mean.numpy() for mean in means])

    def _scaled(self, x: Tensor) -> Tensor:
        """Counts as they would be at the mean total."""
        return x * (self.typical - self.log_total(x)).exp()

    def _counts(self) -> Row:
        return Row("x", self.columns or Columns({str(g): "count" for g in range(*self.event_shape)}))

    def _values(self, batch: Mapping[str, Tensor]) -> list[Tensor]:
        return given_values("CountVAE", self.given, batch, "pv.data.load(adata, batch_key=...)")


def with_total(p: Any, log_total: Tensor) -> Distribution:
    """Counts whose means, without extra zeros, are scaled so that they sum to a total.

    Args:
        p: batch shape ``[...]``, event shape ``(G,)``, of ``_SCALED`` element by element.
        log_total: ``[..., 1]``.
    """
    base: Any = p.base_dist
    counts = base.base_dist if isinstance(base, dist.ZeroInflatedDistribution) else base
    log_mean, times = next(how for kind, how in _MEAN.items() if isinstance(counts, kind))
    logs = log_mean(counts)
    scaled = times(counts, log_total - logs.logsumexp(-1, keepdim=True))
    if counts is not base:
        scaled = dist.ZeroInflatedDistribution(scaled, gate_logits=base.gate_logits)
    return scaled.to_event(1)


def start(family: Univariate, mean: Tensor, variance: Tensor) -> None:
    r"""Starts at the moments :math:`\sigma^2 = \mu + \mu^2 / \theta`, with a fifth of that dispersion.

    What the latents will explain is none of it. The dispersion has a large unit, in which a step changes it
    in proportion.

    Args:
        family: of counts.
        mean: of each, ``(G,)``.
        variance: likewise.
    """
    parameters, theta = family.parameters_, mean.new_ones(())
    for p in (parameters[name] for name in ("total_count", "concentration") if name in parameters):
        theta = 5 * mean.square() / (variance - mean).clamp(min=0.05 * mean.square())
        p.start(theta, 100 * theta)
        theta = p.number.to(mean) if p.fixed else p(torch.zeros_like(p.offset)).to(mean)
    if "logits" in parameters:
        parameters["logits"].start(mean.log() - theta.log())
    else:
        parameters["rate"].start(theta / mean if "concentration" in parameters else mean)
    if "gate_logits" in parameters:
        parameters["gate_logits"].start(torch.full_like(mean, -2.0))


_MEAN: dict[Any, tuple[Any, Any]] = {
    dist.NegativeBinomial: (
        lambda p: p.logits + p.total_count.log(),
        lambda p, factor: type(p)(p.total_count, logits=p.logits + factor),
    ),
    dist.GammaPoisson: (
        lambda p: p.concentration.log() - p.rate.log(),
        lambda p, factor: type(p)(p.concentration, p.rate * (-factor).exp()),
    ),
    dist.Poisson: (
        lambda p: p.rate.log(),
        lambda p, factor: type(p)(p.rate * factor.exp()),
    ),
}
"""Of each kind of counts, log of its mean, and the same counts with log of the mean raised."""

_SCALED = (*_MEAN, dist.ZeroInflatedNegativeBinomial, dist.ZeroInflatedPoisson)
