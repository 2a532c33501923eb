"""Mixtures of Normals whose draws carry gradients."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor


class MixtureOfDiagNormals(dist.MixtureSameFamily):
    r"""Mixture of Normals with diagonal covariances, whose draws carry gradients.

    .. math:: q(z) = \sum_k \pi_k \prod_d \mathcal N(z_d; \mu_{kd}, \sigma_{kd}^2)

    A draw moves with the parameters such that each conditional distribution function
    :math:`F_d(z_d \mid z_{<d})` stays as it is: :math:`\mathrm d z_d = -\mathrm d F_d / q(z_d \mid z_{<d})`.
    (The gradient that Pyro's own class of this name has for the weights is biased.)

    Args:
        logits: of the components, ``[..., K]``.
        loc: means, ``[..., K, D]``.
        scale: standard deviations, ``[..., K, D]``.

    Reference: Figurnov, Mohamed and Mnih, 2018, "Implicit reparameterization gradients".
    """

    has_rsample = True

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, validate_args: bool | None = None):
        self.logits, self.loc, self.scale = logits, loc, scale
        component: Any = dist.Normal(loc, scale, validate_args=validate_args)
        super().__init__(
            dist.Categorical(logits=logits, validate_args=validate_args),
            component.to_event(1),
            validate_args=validate_args,
        )

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        fixed: Tensor = self.sample(sample_shape)
        log_weights, moving = self.logits, []
        for d in range(fixed.shape[-1]):
            component = torch.distributions.Normal(self.loc[..., d], self.scale[..., d], validate_args=False)
            z = fixed[..., d, None]
            weights = log_weights.softmax(-1)
            cdf = (weights * component.cdf(z)).sum(-1)
            density = (weights * component.log_prob(z).exp()).sum(-1).detach().clamp(min=1e-30)
            moving.append(fixed[..., d] - (cdf - cdf.detach()) / density)
            log_weights = log_weights + component.log_prob(moving[-1][..., None])
        return torch.stack(moving, -1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> MixtureOfDiagNormals:
        logits = self.logits.expand(*batch_shape, -1)
        loc, scale = (tensor.expand(*batch_shape, -1, -1) for tensor in (self.loc, self.scale))
        return MixtureOfDiagNormals(logits, loc, scale, validate_args=False)
