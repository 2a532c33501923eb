"""The gap below log p(x) and its two parts, against linear programs of which all of them are known."""

import copy
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import PROGRAMS, batch_of, make
from matplotlib.colors import to_hex
from models.linear import KINDS, SCALE, system
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

import pyro_vae as pv
from pyro_vae.evaluate.gap import TOLD, inference_gap
from pyro_vae.figures.posteriors import posteriors
from pyro_vae.program import DataWarning
from pyro_vae.refinement import Moved


def correlated(guide=pv.guides.Normal()):
    """A linear VAE of a posterior with correlation; x, log p(x), and the posterior, ``[B]`` each."""
    torch.manual_seed(1)
    noise = pv.likelihoods.Normal(scale=SCALE)
    vae = pv.VAE((3,), 2, likelihood=noise, guide=guide, encoder=pv.nets.mlp(), decoder=pv.nets.mlp())
    w = torch.tensor([[1.0, 0.8], [0.5, 0.9], [-0.2, 0.1]])
    with torch.no_grad():
        vae.p_x.net.layers[0].weight.copy_(w)
        vae.p_x.net.layers[0].bias.zero_()
        x = torch.randn(6, 2) @ w.T + SCALE * torch.randn(6, 3)
    log_p = MultivariateNormal(torch.zeros(3), w @ w.T + SCALE**2 * torch.eye(3)).log_prob(x)
    precision = torch.eye(2) + w.T @ w / SCALE**2
    posterior = MultivariateNormal(x @ w @ torch.linalg.inv(precision) / SCALE**2, precision_matrix=precision)
    return vae, x, log_p, posterior


def close(found, name, expected, error=0.0):
    """Within five standard errors of the importance weights, and what Adam's noise leaves."""
    noise = (1 / found.effective_sample_size - 1 / found.num_samples).clamp(min=0).sqrt()
    assert ((found.per_datum[name] - expected).abs() < 5 * noise + 5 * error + 0.01).all(), name


@pytest.mark.parametrize(
    ("kind", "missing"), [*((kind, False) for kind in KINDS), ("VAE", True), ("top_down", True)]
)
@pytest.mark.usefixtures("double")
def test_the_gap_is_the_divergence_of_the_posterior(kind, missing):
    s = system(kind, missing)
    found = inference_gap(s.program, s.batch, num_steps=150)
    close(found, "log_likelihood", s.log_p)
    close(found, "elbo", s.log_p - s.gap, error=(2 * s.gap / 1000).sqrt())  # which is about Var(log w) / 2
    whole = found.per_datum["approximation"] + found.per_datum["amortisation"]
    torch.testing.assert_close(whole, found.per_datum["log_likelihood"] - found.per_datum["elbo"])
    assert (found.per_datum["approximation"] >= 0).all()
    if not missing:  # the posterior is of the family
        close(found, "approximation", torch.zeros(6))
        assert found.effective_sample_size.min() > 900


@pytest.mark.filterwarnings("ignore:log p")  # they are narrower than the posterior along its correlation
@pytest.mark.usefixtures("double")
def test_the_best_of_independent_normals():
    """Its variances are those of each latent given all others: the precision's diagonal, inverted."""
    vae, x, log_p, posterior = correlated()
    precision = posterior.precision_matrix
    approximation = 0.5 * (precision.diagonal(dim1=-2, dim2=-1).log().sum(-1) - precision.logdet())
    assert approximation.min() > 0.2
    encoder = vae.encode(x)
    q = MultivariateNormal(encoder.mean, encoder.variance.diag_embed())
    found = inference_gap(vae, x, num_steps=500, num_samples=20_000, max_rows=60_000)
    close(found, "log_likelihood", log_p)
    close(found, "approximation", approximation, error=0.01)
    gap = kl_divergence(q, posterior)
    assert gap.mean() > 2 * approximation.mean()
    spread = (encoder.variance.unsqueeze(-1) * precision).square().sum((-1, -2)).sqrt()
    close(found, "amortisation", gap - approximation, error=(gap + spread) / 20_000**0.5)
    assert found.approximation == pytest.approx(approximation.mean().item(), abs=0.02)
    assert found.log_likelihood - found.elbo == pytest.approx(found.approximation + found.amortisation)


@pytest.mark.usefixtures("double")
def test_a_richer_family_has_no_approximation_gap():
    vae, x, log_p, _ = correlated(pv.guides.FullRankNormal())
    found = inference_gap(vae, x, num_steps=500)
    close(found, "approximation", torch.zeros(6))
    close(found, "log_likelihood", log_p)
    assert found.amortisation > 1


class Classes(pv.Program):
    """A user's own: one of three classes, which no gradient passes, and networks that are no conditionals."""

    def __init__(self):
        super().__init__()
        self.event_shapes = {"x": (4,)}
        self.encoder, self.decoder = nn.Linear(4, 3), nn.Linear(3, 4)

    def model(self, batch):
        with self.plate(batch):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(3) / 3))
            self.sample("x", dist.Bernoulli(logits=4 * self.decoder(z)).to_event(1), batch)

    def guide(self, batch):
        with self.plate(batch):
            pyro.sample("z", dist.OneHotCategorical(logits=self.encoder(batch["x"])))


def test_discrete_latents():
    torch.manual_seed(0)
    program, x = Classes(), torch.rand(5, 4).round()
    with torch.no_grad():
        log_p_x = dist.Bernoulli(logits=4 * program.decoder(torch.eye(3)[:, None])).log_prob(x).sum(-1)
    found = inference_gap(program, x, num_steps=250)
    expected = log_p_x.logsumexp(0) - torch.tensor(3.0).log()
    torch.testing.assert_close(found.per_datum["log_likelihood"].float(), expected, atol=0.02, rtol=0)
    assert found.approximation < 0.03  # the posterior is of the family
    assert found.amortisation > 0.3


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program(name):
    """Finite numbers, and nothing is changed by asking for them."""
    program = make(name)
    batch = batch_of(program, 5)
    before = copy.deepcopy(program.state_dict())
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        found = inference_gap(program, batch, num_steps=30, num_samples=50)
    assert list(found.per_datum) == list(TOLD)
    for values in found.per_datum.values():
        assert values.shape == (5,)
        assert values.dtype == torch.float64
        assert values.isfinite().all()
    assert found.amortisation > 0
    assert all(torch.equal(value, before[key]) for key, value in program.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None and p.requires_grad for p in program.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in program.modules())


def test_the_seed_decides():
    vae, x, *_ = correlated()
    few = {"num_steps": 5, "num_samples": 5}
    one, same, other = (inference_gap(vae, x, **few, seed=seed).per_datum for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in TOLD)
    assert not torch.equal(one["best_elbo"], other["best_elbo"])


@pytest.mark.parametrize(
    ("name", "number"),
    [("VAE", 1), ("VAE-VampPrior", 1), ("HierarchicalVAE-top-down", 3), ("SelectionVAE", 1), ("own", 1)],
)
def test_what_is_moved_is_the_guides(name, number):
    """Neither p(z1|z2) nor p(x|z), which the guide runs, too; but the encoder that a VampPrior runs."""
    program = make(name)
    with program.evaluating():
        moved = Moved(program, batch_of(program, 5))
    assert [len(shift) for shift in moved.shifts] == [5] * number


@pytest.mark.filterwarnings("ignore:log p")
def test_it_is_told_in_words():
    vae, x, *_ = correlated()
    found = inference_gap(vae, x, num_steps=200, num_samples=100)
    text, html = str(found), found._repr_html_()
    for part in (*TOLD.values(), "nats per datum", "K = 100", "200 steps", "effective"):
        assert part in text
        assert part in html
    assert found.standard_error.keys() == found.per_datum.keys()


def test_too_few_steps():
    vae, x, *_ = correlated()
    vae.q_z.net.layers[0].bias.data[:2] = 4.0
    with pytest.warns(DataWarning, match=r"still rose by .* nats .*num_steps=160"):
        inference_gap(vae, x, num_steps=40, num_samples=10)


def test_a_guide_without_networks():
    class Bare(Classes):
        def guide(self, batch):
            with self.plate(batch):
                pyro.sample("z", dist.OneHotCategorical(torch.ones(3) / 3))

    with pytest.raises(ValueError, match=r"guide of the Bare runs no network .*pv\.Conditional\("):
        inference_gap(Bare(), torch.ones(4, 4), num_steps=2)


def test_the_figure():
    vae, x, _, posterior = correlated()
    figure = posteriors(vae, x, num_data=2, num_steps=200, num_samples=50)
    assert len(figure.axes) == 2
    first = figure.axes[0]
    assert (first.get_xlabel(), first.get_ylabel()) == ("z[0]", "z[1]")
    (points,) = first.lines
    draws = torch.tensor(points.get_xydata())
    assert draws.shape == (50, 2)
    assert ((draws.mean(0) - posterior.mean[0]).abs() < 5 * posterior.stddev[0] / 15**0.5).all()
    assert {to_hex(c.get_edgecolor()[0]) for c in first.collections[1:]} == {to_hex("C3"), "#000000"}
    for name in ("HierarchicalVAE-top-down", "VAE"):
        with pytest.raises(ValueError, match=r"has 3.*; train with latent_dim=2"):
            posteriors(make(name), batch_of(make(name), 2))
