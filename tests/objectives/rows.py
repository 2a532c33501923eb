"""A Normal problem of which each row has parameters of its own, so that one step gives many gradients.

x ~ N(a z + theta, s^2), z ~ N(0, 1), q(z) = N(loc, exp(log_scale)^2), in two dimensions side by side; of all
rows x, theta, loc and log_scale are the same. Evidence, posterior and divergences are in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

A, S = torch.tensor([1.3, 0.6], dtype=torch.float64), 0.8
X, THETA = torch.tensor([1.1, -0.4], dtype=torch.float64), torch.tensor([0.2, 0.1], dtype=torch.float64)


def posterior(x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Its mean and standard deviation."""
    precision = 1 + A.square() / S**2
    return A * (x - theta) / S**2 / precision, precision.rsqrt().expand_as(x)


def evidence(theta: Tensor) -> Tensor:
    return dist.Normal(theta, (A.square() + S**2).sqrt()).log_prob(X).sum(-1)


def normal_kl(loc: Tensor, scale: Tensor, other: Tensor, other_scale: Tensor) -> Tensor:
    q, p = dist.Normal(loc, scale), dist.Normal(other, other_scale)
    return torch.distributions.kl_divergence(q, p).sum(-1)


def renyi(alpha: float, loc: Tensor, scale: Tensor, other: Tensor, other_scale: Tensor) -> Tensor:
    """D_alpha of two Normals (Gil, Alajaji and Linder, 2013, "Renyi divergence measures for ...")."""
    between = alpha * other_scale.square() + (1 - alpha) * scale.square()
    parts = (other_scale / scale).log() + (other_scale.square() / between).log() / (2 * (alpha - 1))
    return (parts + alpha * (loc - other).square() / (2 * between)).sum(-1)


@dataclass
class Rows:
    number: int
    off: float = 0.3
    wide: float = 1.25
    theta: Tensor = field(init=False)
    loc: Tensor = field(init=False)
    log_scale: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.x = X.expand(self.number, -1)
        mean, std = posterior(X, THETA)
        self.theta, self.loc, self.log_scale = (
            value.repeat(self.number, 1).requires_grad_()
            for value in (THETA, mean + self.off, (self.wide * std).log())
        )

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(A * z + self.theta, S).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc, self.log_scale.exp()).to_event(1))

    def gradients(self, objective) -> dict[str, Tensor]:
        """Of the loss of each row, ``[rows, 2]`` each."""
        for tensor in (self.theta, self.loc, self.log_scale):
            tensor.grad = None
        objective.loss_and_grads(self.model, self.guide, self.x)
        return {name: getattr(self, name).grad.clone() for name in ("theta", "loc", "log_scale")}

    def log_w(self, num_particles: int) -> Tensor:
        """By hand, of the noise that comes next."""
        noise = torch.normal(torch.zeros(num_particles, *self.x.shape), torch.ones(1))
        z = self.loc + self.log_scale.exp() * noise
        log_p = dist.Normal(A * z + self.theta, S).log_prob(self.x) + dist.Normal(0.0, 1.0).log_prob(z)
        return (log_p - dist.Normal(self.loc, self.log_scale.exp()).log_prob(z)).sum(-1)


def slopes(function, rows: Rows) -> dict[str, Tensor]:
    """The gradient of a function of theta, loc and scale, by autograd on a closed form, ``[2]`` each."""
    names = "theta", "loc", "log_scale"
    one = {name: getattr(rows, name)[0].detach().clone().requires_grad_() for name in names}
    found = torch.autograd.grad(
        function(one["theta"], one["loc"], one["log_scale"].exp()), list(one.values()), allow_unused=True
    )
    return {name: torch.zeros(2) if slope is None else slope for name, slope in zip(one, found, strict=True)}
