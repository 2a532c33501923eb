"""What teaches a classifier of few labels, and what is drawn of classes."""

import math

import pytest
import torch
from pyro.infer import TraceEnum_ELBO

import pyro_vae as pv

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def build(classifier=None, **options):
    torch.manual_seed(0)
    nets = {"encoder": pv.nets.mlp(8), "decoder": pv.nets.mlp(8), "classifier": classifier or pv.nets.mlp(8)}
    vae = pv.SemiSupervisedVAE((4,), num_classes=3, latent_dim=2, **nets | options)
    return vae, torch.rand(6, 4).round()


def loss(vae, batch):
    torch.manual_seed(1)
    return TraceEnum_ELBO(max_plate_nesting=1).loss(vae.model, vae.guide, batch)


@pytest.mark.usefixtures("double")
def test_worst_direction_of_a_linear_classifier_of_two_classes():
    """Along the difference of the weights, one way or the other: the divergence is in closed form."""
    torch.manual_seed(0)
    small = {"encoder": pv.nets.mlp(4), "decoder": pv.nets.mlp(4), "classifier": pv.nets.mlp()}
    vae = pv.SemiSupervisedVAE((4,), num_classes=2, latent_dim=2, radius=0.3, **small)
    x = torch.randn(200, 4)
    logits = vae.q_y(x).logits
    weight = vae.q_y.net.layers[0].weight
    steepest = (weight[1] - weight[0]) / (weight[1] - weight[0]).norm() * 0.3 * 2  # sqrt(4) elements
    ways = []
    for r in (steepest, -steepest):
        moved = vae.q_y(x + r).logits
        ways.append((logits.exp() * (logits - moved)).sum(1))
    found = vae._roughness(x, logits)
    torch.testing.assert_close(torch.stack(ways).sub(found).abs().min(0).values, torch.zeros(200), **EXACT)
    assert (found > 0).all()
    worse = torch.stack(ways).max(0).values
    assert (found / worse).mean() > 0.8  # the gradient at a small r is of the nearer side
    random = 0.3 * 2 * torch.nn.functional.normalize(torch.randn(200, 4), dim=1)
    anyhow = (logits.exp() * (logits - vae.q_y(x + random).logits)).sum(1)
    assert anyhow.mean() < 0.7 * found.mean()


@pytest.mark.usefixtures("double")
def test_radius_is_a_term_of_training_alone():
    """Alpha times the divergence, summed over data, with and without a label; and no report has it."""
    batch = {"x": build()[1], "y": torch.tensor([0.0, math.nan, 2.0, math.nan, math.nan, 1.0])}
    found, reports, plain = {}, {}, {}
    for radius in (0.0, 0.4):
        vae, _ = build(alpha=2.0, radius=radius)
        vae._roughness = lambda x, logits: torch.arange(6.0) + 0 * logits[:, 0]  # without noise of its own
        found[radius], plain[radius] = loss(vae.train(), batch), loss(vae.eval(), batch)
        reports[radius] = pv.evaluate.elbo(vae.train(), batch, num_samples=2)
    assert found[0.4] - found[0.0] == pytest.approx(2.0 * 15)
    assert plain[0.4] == plain[0.0]
    assert reports[0.4] == reports[0.0]


@pytest.mark.usefixtures("double")
def test_what_is_held_against_has_no_gradient():
    """Of a classifier that does not hang on x the divergence is 0, and of its logits nothing is learned."""
    vae, x = build()
    logits = vae.q_y(x).logits.detach().requires_grad_()
    vae._roughness(x, logits).sum().backward()
    assert logits.grad is None
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in vae.q_y.parameters())
    with torch.no_grad():
        vae.q_y.net.layers[0].weight.zero_()
    torch.testing.assert_close(vae._roughness(x, vae.q_y(x).logits), torch.zeros(6), **EXACT)


def test_told():
    assert "less 10 KL(q(y|x) || q(y|x + r)) of each, |r| = 0.25" in build()[0].explain()
    assert "KL(q(y|x) ||" not in build(radius=0.0)[0].explain()
    assert "KL(q(y|x) ||" not in build(alpha=0.0)[0].explain()
    with pytest.raises(pv.checks.ConfigError, match="radius=-1"):
        build(radius=-1.0)


@pytest.mark.usefixtures("double")
def test_styles_are_of_each_class(monkeypatch):
    """Each row's z is decoded under each class in turn, though the model draws labels itself."""
    vae, x = build()
    drawn = []
    monkeypatch.setattr("pyro_vae.figures.observed.pictures", lambda _, what, ax: drawn.append(what))
    y = torch.arange(6.0) % 3
    pv.figures.styles(vae, {"x": x, "y": y}, 4)
    (what,) = drawn
    assert what.columns == ["data", "0", "1", "2"]
    z = vae.encode(x[:4], y[:4]).mean
    for row, datum, own in zip(what.rows, x, z, strict=False):
        torch.testing.assert_close(row[0], datum)
        torch.testing.assert_close(row[1:], vae.decode(own.expand(3, -1), torch.arange(3.0)).mean)
