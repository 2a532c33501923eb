"""Questions put to a model of a table by the names of its columns."""

import math

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro.infer import Importance, Trace_ELBO
from torch.distributions import MultivariateNormal

import pyro_vae as pv
from pyro_vae.data import DataError
from pyro_vae.data.columns import Columns

SCALE = 0.7


@pytest.fixture
def linear(double):
    """A linear VAE of a table, with latents of two dimensions, and p(z, x), which is Normal."""
    torch.manual_seed(0)
    nets = {"encoder": pv.nets.mlp(), "decoder": pv.nets.mlp()}
    columns = Columns(dict.fromkeys(("age", "height", "x"), "real"))
    vae = pv.VAE(columns, 2, likelihood=pv.likelihoods.Normal(scale=SCALE), **nets)
    layer = vae.p_x.net.layers[0]
    with torch.no_grad():
        layer.weight.copy_(torch.randn(3, 2))
        weight, loc = layer.weight.clone(), layer.bias.clone()
        vae.q_z.net.layers[0].weight.mul_(0.1)
    within = torch.cat([torch.eye(2), weight])
    covariance = within @ within.T
    covariance[2:, 2:] += SCALE**2 * torch.eye(3)
    return vae, MultivariateNormal(torch.cat([torch.zeros(2), loc]), covariance)


def given_age(joint, age):
    """Mean and covariance of (z, age, height, x) given age."""
    gain = joint.covariance_matrix[:, 2] / joint.covariance_matrix[2, 2]
    mean = joint.mean + gain * (age - joint.mean[2])
    return mean, joint.covariance_matrix - gain[:, None] * joint.covariance_matrix[2]


def test_pyro_conditions_on_columns(linear):
    """By name, in any of Pyro's algorithms: the posterior of z, and log p(age)."""
    vae, joint = linear
    age = torch.tensor([1.5])
    nothing = {"x": torch.full((1, 3), torch.nan)}
    conditioned = pyro.condition(vae.model, data={"age": age})
    mean, covariance = given_age(joint, age)
    log_p = torch.distributions.Normal(joint.mean[2], joint.variance[2].sqrt()).log_prob(age)
    with pyro.plate("particles", 40_000, dim=-2):
        trace = pyro.poutine.trace(conditioned).get_trace(nothing)
    trace.compute_log_prob()
    log_w, z = trace.nodes["x"]["log_prob"][:, 0], trace.nodes["z"]["value"][:, 0]
    assert (log_w.logsumexp(0) - math.log(len(z))).item() == pytest.approx(log_p.item(), abs=0.03)
    w = log_w.softmax(0)[:, None]
    found = (w * z).sum(0)
    torch.testing.assert_close(found, mean[:2], atol=0.03, rtol=0)
    torch.testing.assert_close((w * (z - found)).T @ (z - found), covariance[:2, :2], atol=0.03, rtol=0)
    drawn = pv.predict(vae, {"age": age}, 4000)
    torch.testing.assert_close(drawn["z"][:, 0].mean(0), mean[:2], atol=0.1, rtol=0)
    posterior = Importance(conditioned, num_samples=200).run(nothing)
    assert posterior.get_log_normalizer().item() == pytest.approx(log_p.item(), abs=0.3)
    loss = Trace_ELBO().loss(conditioned, vae.guide, {"height": [0.1, 0.2]})  # the guide sees it not
    assert np.isfinite(loss)


def test_conditioning_replaces_and_broadcasts(linear):
    vae, _ = linear
    x = torch.randn(4, 3)
    conditioned = pyro.condition(vae.model, data={"height": torch.tensor(0.5)})
    trace = pyro.poutine.trace(conditioned).get_trace(x)
    assert trace.nodes["x"]["value"].equal(torch.stack([x[:, 0], torch.full((4,), 0.5), x[:, 2]], 1))
    assert x[0, 1] != 0.5


def test_latents_come_before_columns_of_their_name(double):
    """Diamonds have columns x, y and z."""
    vae = pv.VAE(Columns(dict.fromkeys("xyz", "real")), 2, likelihood="auto", encoder=pv.nets.mlp())
    x, z = torch.randn(4, 3), torch.randn(4, 2)
    trace = pyro.poutine.trace(pyro.condition(vae.model, data={"z": z})).get_trace(x)
    assert trace.nodes["z"]["value"].equal(z)
    assert trace.nodes["x"]["value"].equal(x)
    assert vae.model({"x": x}).equal(x)
    assert vae.model({"y": [0.5, 1.0]}).shape == (2, 3)
