"""A model of each family, its data, a fit: it is found again."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import FAMILIES, LIKELIHOODS
from torch import nn

import pyro_vae as pv
from pyro_vae.constraints import domain, support
from pyro_vae.objectives import log_weights


class Linear(nn.Module):
    def __init__(self, in_shape, out_shape):
        super().__init__()
        self.out_shape = out_shape
        self.layer = nn.Linear(math.prod(in_shape), math.prod(out_shape))

    def forward(self, z):
        return self.layer(z.flatten(-1)).reshape(*z.shape[:-1], *self.out_shape)


def evidence(vae: pv.VAE, x: torch.Tensor) -> torch.Tensor:
    """log p(x) of each datum under a VAE with one latent, by quadrature."""
    z = torch.linspace(-6, 6, 201)[:, None]
    log_weight = dist.Normal(0.0, 1.0).log_prob(z) + math.log(12 / 200)
    with torch.no_grad():
        return (vae.decode(z[:, None]).log_prob(x) + log_weight).logsumexp(0)


RECOVERED = {name: case for name, case in LIKELIHOODS.items() if name == case.name}
del RECOVERED["PseudoBernoulli"]


@pytest.mark.slow
@pytest.mark.parametrize("name", RECOVERED)
def test_recovers_a_model_of_its_family(name):
    """A linear model of the family, its data, a fit: held-out log p(x) within 0.12 nats of the truth's.

    4 elements, one latent, 3000 training data; both evidences by quadrature on 1000 held-out data.
    """

    def make():
        nets = {"encoder": pv.nets.mlp(32, 32), "decoder": Linear}
        return pv.VAE((4,), 1, likelihood=RECOVERED[name], **nets)

    torch.manual_seed(0)
    truth = make()
    with torch.no_grad():
        layer = truth.p_x.net.layer
        layer.weight.copy_(0.4 * torch.randn_like(layer.weight))
        layer.bias.copy_(1 + 0.3 * torch.randn_like(layer.bias))
        for parameter, p in truth.p_x.family.parameters_.items() if name in FAMILIES else ():
            if parameter in ("df", "concentration") and not p.fixed:
                p.unit.fill_(2.0)  # away from where draws overflow
        x = truth.decode(truth.prior().sample((4000,))).sample().float()
    if domain(support(truth.decode(torch.zeros(1, 1)))) == "[0, 1]":
        x = x.clamp(1e-6, 1 - 1e-6)  # where float32 rounds to the ends
    train, test = x[:3000], x[3000:]
    vae = make()
    vae.initialize(pv.data.Split(train))
    before = evidence(vae, test)
    optimizer = torch.optim.Adam(vae.parameters())
    steps = 800
    with pyro.validation_enabled(False), warnings.catch_warnings():
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = 2e-2 * (1 - step / steps)
            optimizer.zero_grad()
            (-log_weights(vae, train[torch.randint(3000, (256,))], 4).mean()).backward()
            nn.utils.clip_grad_norm_(vae.parameters(), 100.0)
            optimizer.step()
    best, after = evidence(truth, test), evidence(vae, test)
    gap = (best - after).mean().item()
    assert after.isfinite().all()
    assert gap < 0.12, f"{best.mean():.3f} {before.mean():.3f} {after.mean():.3f}"
    assert after.mean() > before.mean()
