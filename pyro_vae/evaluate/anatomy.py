"""What each latent carries, and where the KL goes."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.checks import Count, Seed, checked
from pyro_vae.checks import found as shown
from pyro_vae.data import DataError, Split
from pyro_vae.data.arrays import classes
from pyro_vae.distributions import elements
from pyro_vae.evaluate.aggregate import aggregate
from pyro_vae.evaluate.door import Data, as_split, check
from pyro_vae.evaluate.latents import Draws, by_latent, posterior_moments, variance_of_means
from pyro_vae.evaluate.likelihood import over_batches
from pyro_vae.evaluate.probes import Probe, probe
from pyro_vae.evaluate.shown import standard_error, table
from pyro_vae.objectives import elbo_terms
from pyro_vae.objectives.elbo import kl_term, latents
from pyro_vae.objectives.importance import by_datum, traces
from pyro_vae.program import Batch, Program

COLLAPSED = 0.01
"""Nats of KL below which a latent carries nothing."""
ACTIVE = 0.01
"""Variance of the posterior's mean over the data, above which a latent is an active unit."""
CEILING = (
    "mutual information is near its ceiling, log N: codes of these data hardly overlap, so that of more data "
    "it would be more, and marginal KL and total correlation less"
)
SPLIT = ("mutual_information", "marginal_kl", "total_correlation", "dimension_wise_kl")


@dataclass(frozen=True)
class Latents:
    r"""A site's part in an ``Anatomy``, nats per datum; NaN where it is not defined.

    Attributes:
        kl: E_q[log q(z_s|·) - log p(z_s|·)], given the latents before it.
        mutual_information: :math:`I_q(x; z_s \mid z_{<s})`, with z_{<s} what the guide draws before.
        marginal_kl: ``kl - mutual_information``, :math:`\mathrm{KL}(q(z_s|z_{<s}) \| p(z_s|z_{<s}))` where
            the guide goes the model's way; else only the sum over sites is a divergence.
        total_correlation: :math:`\mathrm{KL}(q(z_s) \| \prod_d q(z_{sd}))`, of a site that the guide draws
            from x alone, its latents independent given x.
        dimension_wise_kl: :math:`\sum_d \mathrm{KL}(q(z_{sd}) \| p(z_{sd}))`, of such a site if they are
            independent under p, and p(z_s) is one for all data.
        kl_by_latent: ``[D]``, whose sum is ``kl``, of latents that are independent in guide and prior.
        variances: of E_q[z_d|x] over the data, ``[D]``: above 0.01 a latent is an active unit.
        spreads: variances of all draws of q(z), ``[D]``, of which ``variances`` are what x explains.
        codes: E_q[z|x], ``[N, D]``.
        standard_errors: of the numbers, by name: of ``kl`` over the data; of the others what the draws leave
            for these very data.
        probe: what is read of the labels from the codes, where there are labels.
    """

    kl: float
    mutual_information: float
    marginal_kl: float
    total_correlation: float
    dimension_wise_kl: float
    kl_by_latent: Tensor = field(repr=False)
    variances: Tensor = field(repr=False)
    spreads: Tensor = field(repr=False)
    codes: Tensor = field(repr=False)
    standard_errors: dict[str, float] = field(repr=False)
    probe: Probe | None = None

    @property
    def num_latents(self) -> int:
        """D."""
        return len(self.variances)

    @property
    def active_units(self) -> int:
        """Latents whose posterior mean varies with x."""
        return int((self.variances > ACTIVE).sum())

    @property
    def dead(self) -> Tensor:
        """Which latents have collapsed, ``[D]``: those with a KL below 0.01 nats; where they have none of
        their own, whose posterior mean has no more than a hundredth of their variance, whatever their unit.
        """
        if self.kl_by_latent.isnan().any():
            return self.variances <= ACTIVE * self.spreads
        return self.kl_by_latent < COLLAPSED

    @property
    def collapsed(self) -> int:
        """How many latents are ``dead``."""
        return int(self.dead.sum())


@dataclass(frozen=True)
class Anatomy:
    """What ``anatomy`` returns, nats per datum: ``kl = mutual_information + marginal_kl``.

    Attributes:
        reconstruction: mean of -E_q[log p(x|z)], over all observed sites.
        kl: mean of KL(q(z|x) || p(z)), over all latent sites.
        mutual_information: I_q(x; z) of the N data, at most log N; NaN of a guide without a density at points
            that it did not draw.
        marginal_kl: KL(q(z) || p(z)).
        sites: what each site of latents adds, in the order in which the guide draws them.
        standard_errors: by name: of ``reconstruction`` and ``kl`` over the data; of the other two what the
            draws leave for these very data.
        num_data: N.
        alarm: in plain words, that latents have collapsed, and what to try; else empty.
        notes: what could not be told apart, and why.
    """

    reconstruction: float
    kl: float
    mutual_information: float
    marginal_kl: float
    sites: dict[str, Latents]
    standard_errors: dict[str, float]
    num_data: int
    alarm: str = ""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        told = _told(self)
        lines = [f"reconstruction {told('reconstruction')}, KL {told('kl')} nats per datum"]
        if not math.isnan(self.mutual_information):
            lines.append(
                f"KL = mutual information {told('mutual_information')} (at most log N = "
                f"{math.log(self.num_data):.2f}) + marginal KL {told('marginal_kl')}"
            )
        for name, site in self.sites.items():
            own = _told(site)
            several = len(self.sites) > 1
            parts = [f"{site.active_units} of {site.num_latents} units active"]
            parts += [f"KL {own('kl')}", f"mutual information {own('mutual_information')}"] * several
            if not math.isnan(site.total_correlation):
                parts.append(f"total correlation {own('total_correlation')}")
            if not math.isnan(site.dimension_wise_kl):
                parts.append(f"dimension-wise KL {own('dimension_wise_kl')}")
            lines.append(f"{name}: {', '.join(parts)}")
            lines += [f"{name}: {site.probe}"] * (site.probe is not None)
        return "\n".join([*lines, *self.notes, *[self.alarm] * bool(self.alarm)])

    def _repr_html_(self) -> str:
        names = ("reconstruction", "kl", "mutual_information", "marginal_kl")
        rows = {name: getattr(self, name) for name in names}
        errors = dict(self.standard_errors)
        for site, own in self.sites.items():
            for name in ("kl", *SPLIT) if len(self.sites) > 1 else SPLIT[2:]:
                rows[f"{name} of {site}"] = getattr(own, name)
                errors[f"{name} of {site}"] = own.standard_errors[name]
            rows[f"active units of {site}, of {own.num_latents}"] = own.active_units
        defined = {name.replace("_", " "): value for name, value in rows.items() if not math.isnan(value)}
        cells = table("nats per datum", defined, {name.replace("_", " "): e for name, e in errors.items()})
        probes = [f"{site}: {own.probe}" for site, own in self.sites.items() if own.probe]
        told = [html.escape(line) for line in [*probes, *self.notes, self.alarm] if line]
        return cells + "".join(f"<p>{line}</p>" for line in told)


@checked
def anatomy(
    program: Program,
    data: Data,
    labels: Any = None,
    *,
    num_samples: Draws = 16,
    num_aggregate: Draws = 2000,
    batch_size: Count = 1000,
    seed: Seed = 0,
    progress: bool = False,
) -> Anatomy:
    r"""Takes the KL apart: by site, by latent, and into what it says of x and what it costs for nothing.

    .. math:: \frac1N \sum_n \mathrm{KL}(q(z|x_n) \| p(z)) = I_q(x; z) + \mathrm{KL}(q(z) \| p(z)), \qquad
        q(z) = \frac1N \sum_n q(z|x_n)

    and, of latents that are independent under guide and prior,

    .. math:: \mathrm{KL}(q(z) \| p(z)) = \underbrace{\mathrm{KL}(q(z) \| {\textstyle\prod_d} q(z_d))}_{
        \text{total correlation}} + \underbrace{\textstyle\sum_d \mathrm{KL}(q(z_d) \| p(z_d))}_{
        \text{dimension-wise KL}}.

    The sum over the N data is a full one, at draws of q(z). I_q is that of these very data: it cannot exceed
    log N, and where it comes near it their codes do not overlap, so that more data would have more of it,
    and less marginal KL and total correlation. KLs are in closed form where they have one; that the mean of
    log q(z|x) - log p(z) is known takes off much of the noise of the other parts (a control variate).

    Of several sites :math:`I_q(x; z) = \sum_s I_q(x; z_s | z_{<s})`, in the order in which the guide draws
    them: bottom-up, the lowest level has it all. Sites that the guide draws from the model's own density
    given the others, as what is missing, tell nothing of x, and are left out.

    Args:
        program: the model.
        data: a split such as ``data.test``, a batch, or a tensor ``[N, *event_shape]``.
        labels: class of each datum ``[N]``, in whatever ``pv.data.load(labels=...)`` takes (names too, a
            Series of pandas, of a table the name of a column); or a number, of which some are not whole; by
            default the data's own, site ``"y"``.
        num_samples: draws of z per datum, for reconstruction, KL and the posterior's means.
        num_aggregate: draws of q(z), from as many data, evenly.
        batch_size: decoded data at a time, over all draws.
        seed: of the draws, and of the folds of the probes.
        progress: whether to show a bar.

    Raises:
        DataError: the data lie outside the likelihood's support; or there are not as many labels, or infinite
            ones.

    Reference: Hoffman and Johnson, 2016, "ELBO surgery: yet another way to carve up the variational evidence
    lower bound"; Chen, Li, Grosse and Duvenaud, 2018, "Isolating sources of disentanglement in variational
    autoencoders"; Alain and Bengio, 2017, "Understanding intermediate layers using linear classifier probes".
    """
    split = as_split(data, program)
    check(program, split)
    known = _labels(split, labels)
    sizes: dict[str, int] = {}

    def terms(batch: Batch) -> Tensor:
        return _terms(program, batch, num_samples, sizes)

    rows = max(1, batch_size // num_samples)
    moments = over_batches(program, split, terms, rows, seed, "anatomy", progress).double()
    number, total = len(sizes), sum(sizes.values())
    (reconstruction,), kls, noise, *latent = moments.split([1, number, number, *[total] * 4])
    kl = dict(zip(sizes, kls, strict=True))
    drawn = noise.mean(1).div(len(split)).sqrt().tolist()
    means = {name: (kl[name].mean().item(), error) for name, error in zip(sizes, drawn, strict=True)}
    all_of = aggregate(program, split, means, num_aggregate, seed, progress)
    by_site = [dict(zip(sizes, part.split([*sizes.values()]), strict=True)) for part in latent]
    found = {}
    for name in all_of.order:
        each, mean, uncertain, within = (part[name] for part in by_site)
        parts = {quantity: all_of.of(quantity, name) for quantity in SPLIT}
        codes = mean.T.contiguous()
        found[name] = Latents(
            means[name][0],
            **{quantity: value for quantity, (value, _) in parts.items()},
            kl_by_latent=each.mean(1),
            variances=(variances := variance_of_means(mean, uncertain)),
            spreads=variances + within.mean(1),
            codes=codes,
            standard_errors={"kl": standard_error(kl[name])} | {name: e for name, (_, e) in parts.items()},
            probe=None if known is None else probe(codes, known, seed),
        )
    unread = tuple(
        f"{name}: labels are not read from the codes: that takes two classes of 5 data, and 10 data in all"
        for name, site in found.items()
        if known is not None and site.probe is None
    )
    information, rest = all_of.of("mutual_information"), all_of.of("marginal_kl")
    ceiling = (CEILING,) * (len(split) > 1 and information[0] > 0.9 * math.log(len(split)))
    whole = kls.sum(0)
    return Anatomy(
        reconstruction.mean().item(),
        whole.mean().item(),
        information[0],
        rest[0],
        found,
        {
            "reconstruction": standard_error(reconstruction),
            "kl": standard_error(whole),
            "mutual_information": information[1],
            "marginal_kl": rest[1],
        },
        len(split),
        _alarm(found),
        all_of.notes + ceiling + unread,
    )


def _terms(program: Program, batch: Batch, num_samples: int, sizes: dict[str, int]) -> Tensor:
    """Of each datum, one below the other, ``[rows, B]``: its reconstruction; the KL of each site, and the
    variance of its noise; of each latent its KL, its posterior mean, the variance of that one's noise, and
    the variance of its draws.

    The numbers of latents by site are written into ``sizes``.
    """
    model, guide = traces(program, batch, num_samples)
    size = num_samples, program.num_data(batch)
    terms = {name: by_datum(term, program).expand(size) for name, term in elbo_terms(model, guide).items()}
    observed = [term for name, term in terms.items() if model.nodes[name]["is_observed"]]
    kls, moments = [], []
    for name, q, p, z, exact in latents(model, guide):
        mean, noise = posterior_moments(guide.nodes[name], program.dtype)
        sizes[name] = len(mean)
        each = torch.full_like(mean, math.nan)
        one, other = elements(q), elements(p)
        if one is not None and other is not None:
            own, mask = kl_term(one, other, z, exact).expand(z.shape), model.nodes[name]["mask"]
            if mask is not None:  # of a whole value of the site
                own = own * torch.as_tensor(mask)[(..., *[None] * len(q.event_shape))]
            each = by_latent(own, len(q.event_shape)).mean(0).mT
        kls.append(terms[name])
        within = by_latent(z, len(q.event_shape)).to(mean).var(0).mT
        moments.append(torch.stack([each, mean, noise, within]))
    kl = torch.stack(kls)
    reconstruction = sum(observed, torch.zeros_like(kl[0])).mean(0)
    return torch.cat(
        [reconstruction[None], kl.mean(1), kl.var(1) / num_samples, torch.cat(moments, 1).flatten(0, 1)]
    )


def _labels(data: Split, labels: Any) -> Tensor | None:
    """One for each datum, on the CPU; None where there are none.

    Raises:
        DataError: they are no labels, not as many as the data, or some are infinite.
    """
    if labels is None:
        own = data.labels
        return own.cpu() if own is not None and own.dim() == 1 else None
    if isinstance(labels, str) and data.columns is not None:
        labels = data.batch(slice(0, len(data)))["x"][:, data.columns.number(labels)]
    masked = isinstance(labels, np.ma.MaskedArray)
    # A copy, since pandas' arrays may be read-only.
    array = labels if isinstance(labels, Tensor) or masked else np.array(labels)
    numeric = isinstance(array, Tensor) or (array.dtype.kind in "biuf" and not masked)
    known = torch.as_tensor(array).cpu() if numeric else classes(labels)[0]
    if known.shape != (len(data),):
        raise DataError(f"labels={shown(labels)} must be one for each of the {len(data)} data")
    if known.isinf().any():
        raise DataError(
            f"labels={shown(labels)} are infinite of {int(known.isinf().sum())} data; NaN stands for one "
            "that is not known"
        )
    return known.long() if known.dtype == torch.bool else known


def _alarm(sites: Mapping[str, Latents]) -> str:
    """In plain words, that latents have collapsed, and what to try."""
    none = [name for name, site in sites.items() if site.collapsed == site.num_latents]
    some = {name: site for name, site in sites.items() if 0 < site.collapsed < site.num_latents}
    use = (
        "pv.fit(..., warmup_epochs=20), which lets the KL in by degrees; "
        'loss=pv.objectives.FreeBits(0.1, by="latent"), under which so many nats of each cost nothing; or a '
        "weaker decoder"
    )
    told = []
    if none and len(none) == len(sites):
        told.append(
            f"Collapsed: no latent carries anything ({_criterion(sites[none[0]])}): the decoder ignores "
            f"{', '.join(none)}, and all data are modelled alike. Try {use}."
        )
    elif none:
        told.append(
            f"Collapsed: no latent of {', '.join(none)} carries anything ({_criterion(sites[none[0]])}): the "
            f"model would do as well without. Try {use}."
        )
    for name, site in some.items():
        told.append(
            f"Collapsed: {site.collapsed} of {site.num_latents} latents of {name} carry nothing "
            f"({_criterion(site)}); they cost nothing either, and {site.num_latents - site.collapsed} would "
            f"do. To have more of them used, try {use}."
        )
    return "\n".join(told)


def _criterion(site: Latents) -> str:
    own = not site.kl_by_latent.isnan().any()
    return f"a KL below {COLLAPSED} nats" if own else "a posterior mean that hardly varies with x"


def _told(numbers: Any) -> Any:
    """Of a name, the number and its standard error."""

    def told(name: str) -> str:
        return f"{getattr(numbers, name):.2f} ± {numbers.standard_errors[name]:.2f}"

    return told
