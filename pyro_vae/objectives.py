"""What is maximised and what is measured: importance weights, bounds, KL divergences, schedules."""

from __future__ import annotations

import math
from typing import Any, Protocol, cast

import torch
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions import kl_divergence as analytic_kl


class LatentVariableModel(Protocol):
    """What the estimators need of a model: its three distributions."""

    def prior(self) -> Distribution: ...
    def decode(self, z: Tensor) -> Distribution: ...
    def encode(self, x: Tensor) -> Distribution: ...


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
        return analytic_kl(q, p).expand(z.shape[:-1])
    except NotImplementedError:
        return q.log_prob(z) - p.log_prob(z)


def elbo_terms(model_trace: Trace, guide_trace: Trace) -> Tensor:
    r""":math:`-E_q[\log p(x|z)]` and :math:`\mathrm{KL}(q \| p)`, means over the data, from traced programs.

    Args:
        model_trace: of a model whose observed and latent sites have batch shape ``[..., B]``.
        guide_trace: of its guide.

    Returns:
        ``[2]``, in nats per datum.
    """
    reconstruction, kl = [], []
    for name, site in model_trace.nodes.items():
        if site["type"] != "sample" or site_is_subsample(site):
            continue
        p: Any = site["fn"]
        if site["is_observed"]:
            reconstruction.append(-p.log_prob(site["value"]).mean())
        else:
            q: Any = guide_trace.nodes[name]["fn"]
            kl.append(kl_divergence(q, p, cast(Tensor, site["value"])).mean())
    return torch.stack([torch.stack(reconstruction).sum(), torch.stack(kl).sum()])


def log_weights(vae: LatentVariableModel, x: Tensor, num_particles: int = 1) -> Tensor:
    r"""Log importance weights :math:`\log w_k = \log p(x, z_k) - \log q(z_k | x)`, z_k ~ q(z|x).

    Their mean over k is the ELBO; the log of the mean of their exponentials, the importance-weighted
    bound, rises to log p(x) as their number grows.

    Args:
        vae: the model.
        x: data ``[B, *event_shape]``.
        num_particles: K.

    Returns:
        ``[K, B]``, in nats.

    Reference: Burda, Grosse and Salakhutdinov, 2016, "Importance weighted autoencoders".
    """
    q_z = vae.encode(x)
    z = q_z.rsample((num_particles,))
    log_joint = vae.prior().log_prob(z) + vae.decode(z).log_prob(x)
    return log_joint - q_z.log_prob(z)


def importance_weighted_bound(log_w: Tensor) -> Tensor:
    r""":math:`\log \frac1K \sum_k w_k \le \log p(x)` in expectation, from log weights ``[K, ...]``."""
    return log_w.logsumexp(0) - math.log(len(log_w))


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
        self.beta = beta

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"]:
            msg["scale"] = msg["scale"] * self.beta


def warmup(step: int, num_steps: int) -> float:
    """Linear KL warm-up: beta rises from 1/num_steps at step 0 to exactly 1 at step num_steps - 1."""
    return 1.0 if step + 1 >= num_steps else (step + 1) / num_steps


SCHEDULES = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1.0 - progress,
    # Burda et al., 2016: 10^(-i/7) for 3^i epochs, i = 0..7, of 3280 in all.
    "burda": lambda progress: 10 ** (-math.floor(math.log(6560 * progress + 1, 3)) / 7),
}
"""Learning-rate schedules: name to factor, as a function of the fraction of training done, in [0, 1)."""
