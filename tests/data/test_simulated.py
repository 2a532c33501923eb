"""A table drawn from a known small model: its families are found, and its density is nearly reached."""

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv

WEIGHTS = torch.tensor([0.5, 0.3, 0.2])


def columns(c):
    """p(x_j | c) of each column, given which of three groups ``[...]`` a row is of."""

    def of(*values):
        return torch.tensor(values)[c]

    return {
        "size": dist.StudentT(5.0, of(-2.0, 0.0, 3.0), of(0.5, 1.0, 0.5)),
        "cost": dist.LogNormal(of(0.0, 1.0, 2.0), 0.4),
        "rain": pv.distributions.ZeroInflatedLogNormal(of(2.0, 0.0, -2.0), of(0.0, 1.0, 0.5), 0.5),
        "share": dist.Beta(of(2.0, 5.0, 8.0), of(8.0, 5.0, 2.0)),
        "visits": dist.GammaPoisson(2.0, 2.0 / of(1.0, 4.0, 12.0)),
        "year": pv.distributions.RoundedLogistic(of(1990.0, 2000.0, 2005.0), 1.5),
        "smokes": dist.Bernoulli(of(0.1, 0.5, 0.9)),
        "town": dist.Categorical(of([0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6])),
    }


def simulated(number, seed):
    torch.manual_seed(seed)
    return {name: p.sample() for name, p in columns(torch.multinomial(WEIGHTS, number, True)).items()}


def as_frame(values):
    frame = pd.DataFrame({name: x.double().numpy() for name, x in values.items()})
    frame = frame.astype({"visits": int, "year": int, "smokes": bool})
    return frame.assign(town=np.array(["A", "B", "C"])[frame.town.astype(int)])


def truth(values):
    """log p(x) of each row, a sum over groups, and of each column by itself, added up."""
    groups = torch.arange(3)[:, None].expand(3, len(values["size"]))
    by_column = torch.stack([p.log_prob(values[name]) for name, p in columns(groups).items()])
    weighed = WEIGHTS.log()[:, None]
    return (by_column.sum(0) + weighed).logsumexp(0), (by_column + weighed).logsumexp(1).sum(0)


def test_families_are_recovered():
    table = pv.data.load(as_frame(simulated(500, 0)))
    family = pv.VAE(table.event_shapes, 2, likelihood="auto").p_x.family
    found = [repr(family.family_of(j)) for j in range(8)]
    wanted = ["StudentT()", "LogNormal()", "ZeroInflatedLogNormal()", "Beta()", "GammaPoisson()"]
    assert found == [*wanted, "RoundedLogistic()", "Bernoulli()", "Categorical(levels=3)"]


@pytest.mark.slow
def test_the_density_is_nearly_reached():
    """0.3 nats of rows that were held out, where columns by themselves lose 3."""
    train, test = simulated(3000, 0), simulated(1000, 1)
    table = pv.data.load(as_frame(train))
    torch.manual_seed(0)
    nets = {"encoder": pv.nets.mlp(64), "decoder": pv.nets.mlp(64)}
    prior = pv.priors.MixtureOfNormals(10)
    vae = pv.VAE(table.event_shapes, 2, prior=prior, likelihood="auto", **nets)
    pv.fit(vae, table, epochs=80, lr=5e-3, progress=False)
    found = pv.evaluate.log_likelihood(vae, as_frame(test), num_samples=500).per_datum.double()
    best, alone = (log_p.double() for log_p in truth(test))
    lost, error = (best - found).mean().item(), (best - found).std().item() / 1000**0.5
    assert (best - alone).mean() > 2.0
    assert -3 * error < lost < 0.3
