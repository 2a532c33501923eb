"""The parts of the ELBO, site by site, and the handler that weighs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions import kl_divergence as analytic_kl

from pyro_vae.checks import NotNegative, check
from pyro_vae.distributions import elements, has_closed_form
from pyro_vae.program import sites


def kl_divergence(q: Distribution, p: Distribution, z: Tensor) -> Tensor:
    r""":math:`\mathrm{KL}(q \| p) = E_q[\log q(z) - \log p(z)]`, in nats.

    In closed form where PyTorch has one; else the estimate :math:`\log q(z) - \log p(z)` at ``z``.

    Args:
        q: distribution with batch shape ``[...]`` and event shape ``(D,)``.
        p: distribution with the same event shape.
        z: draws from q, ``[..., D]``.

    Returns:
        ``[...]``, the batch shape of z.
    """
    try:
        try:
            kl = analytic_kl(q, p)
        except IndexError:  # PyTorch's of Bernoullis does not broadcast
            shape = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
            kl = analytic_kl(q.expand(shape), p.expand(shape))
        # Of latents that are enumerated z has other dimensions.
        return kl.expand(torch.broadcast_shapes(kl.shape, z.shape[: z.dim() - len(q.event_shape)]))
    except NotImplementedError:
        return q.log_prob(z) - p.log_prob(z)


def elbo_terms(model_trace: Trace, guide_trace: Trace) -> dict[str, Tensor]:
    r"""What each site adds to the negative ELBO: observed ones -E_q[log p], latent ones KL(q || p).

    .. math:: -\mathrm{ELBO} = -\sum_{s} E_q[\log p(x_s \mid \cdot)] + \sum_{s} E_q[\log q(z_s \mid \cdot) -
        \log p(z_s \mid \cdot)]

    A KL is in closed form where PyTorch has one and no parent of the site in the model depends on it in the
    guide, as of a guide that goes the model's way. Over latents that the guide enumerates it is the mean.
    What is masked adds nothing; scales, such as a weight of the KL, are left aside. Weights that all data
    share (``nets.bayesian``) add 1 / N of their KL to each datum.

    Args:
        model_trace: of a model, replayed against the guide's.
        guide_trace: of its guide.

    Returns:
        By site, observed ones first, each of the shape of its log-density: ``[..., B]``, nats.
    """
    observed = {
        name: -site["fn"].log_prob(site["value"]) for name, site in sites(model_trace) if site["is_observed"]
    }
    terms = observed | {name: kl_term(*parts) for name, *parts in latents(model_trace, guide_trace)}
    masked = {n: _of_datum(model_trace.nodes[n], term) for n, term in terms.items()}
    return {name: over_values(guide_trace, term, mean) for name, term in masked.items()}


def _of_datum(site: Any, term: Tensor) -> Tensor:
    """What is masked is left out, and what is one for all data has a datum's share, 1 / N."""
    return scale_and_mask(term, scale=(site["infer"] or {}).get("per_datum", 1.0), mask=site["mask"])


def enumerated(guide_trace: Trace) -> dict[str, int]:
    """The latents that a guide enumerates, each with the dimension of its values, from the right."""
    found = {name: site["infer"].get("_enumerate_dim") for name, site in sites(guide_trace)}
    return {name: dim for name, dim in found.items() if dim is not None}


def over_values(guide_trace: Trace, term: Tensor, reduce: Callable[[Tensor, Tensor, int], Tensor]) -> Tensor:
    """A term without the dimensions of latents that the guide enumerates.

    Args:
        guide_trace: of the guide.
        term: of which the last dimensions are those without enumeration.
        reduce: from a term, the log-probability of one latent's values and their dimension to what is left.
    """
    dims = enumerated(guide_trace)
    for name, dim in reversed(dims.items()):  # those below may be drawn given those above
        if term.dim() >= -dim:
            site: Any = guide_trace.nodes[name]
            term = reduce(term, site["fn"].log_prob(site["value"]), dim)
    kept = -1 - max(dims.values(), default=-1 - term.dim())
    return term.reshape(term.shape[-kept:]) if term.dim() > kept else term


def mean(term: Tensor, log_q: Tensor, dim: int) -> Tensor:
    """E_q of a term over one latent's values; those that q rules out may be infinite."""
    weight = log_q.exp()
    return (weight * term.where(weight > 0, 0.0)).sum(dim, keepdim=True)


def in_closed_form(model_trace: Trace, guide_trace: Trace) -> dict[str, bool]:
    """Of each latent site, whether ``elbo_terms`` has its KL in closed form, or from draws."""
    return {
        name: exact and has_closed_form(q, p) for name, q, p, _, exact in latents(model_trace, guide_trace)
    }


def latents(model_trace: Trace, guide_trace: Trace) -> Iterator[tuple[str, Any, Any, Tensor, bool]]:
    """Name, q, p and value of each latent, and whether the guide draws it after those above it."""
    drawn = [name for name, _ in sites(guide_trace)]
    before: set[str] = set()
    for name, site in sites(model_trace):
        if not site["is_observed"] and name in drawn:
            after = before <= set(drawn[: drawn.index(name)])
            yield name, guide_trace.nodes[name]["fn"], site["fn"], site["value"], after
            before.add(name)


def kl_term(q: Any, p: Any, z: Tensor, exact: bool) -> Tensor:
    """The KL of a latent that ``latents`` tells of, in closed form if it may be."""
    return kl_divergence(q, p, z) if exact else q.log_prob(z) - p.log_prob(z)


def one_by_one(distribution: Distribution, whose: str, mend: str) -> Distribution:
    """The distribution of each latent of a site, all of them then a part of the batch.

    Raises:
        ValueError: they are not independent; told with whose they are, and what would do.
    """
    each = elements(distribution)
    if each is None:
        kind = type(distribution).__name__
        raise ValueError(f"{whose}, a {kind}, is not independent over its latents, one by one; {mend}")
    return each


class scale_latents(Messenger):  # named as Pyro names its handlers
    r"""Handler that multiplies the log-density of each latent site by ``beta``.

    Around both model and guide it turns the ELBO into
    :math:`E_q[\log p(x|z)] - \beta\,\mathrm{KL}(q(z|x) \| p(z))`, the objective of KL warm-up; where
    beta = 1 it is the ELBO.

    Args:
        beta: factor, a number or a tensor.

    Reference: Bowman et al., 2016, "Generating sentences from a continuous space"; Sønderby et al.,
    2016, "Ladder variational autoencoders".
    """

    def __init__(self, beta: float | Tensor):
        super().__init__()
        self.beta = beta if isinstance(beta, Tensor) else check("beta", beta, NotNegative)

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"]:
            msg["scale"] = msg["scale"] * self.beta
