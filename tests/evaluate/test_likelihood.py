import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from models.linear import system
from pyro import poutine
from torch import nn

import pyro_vae as pv
from pyro_vae.data import DataError
from pyro_vae.objectives import importance_weighted_bound, kl_divergence, log_weights
from pyro_vae.program import DataWarning

pytestmark = pytest.mark.filterwarnings("ignore:log p.x. of")  # what is not trained is not to be trusted


def noisy(in_shape, out_shape):
    """A net with dropout and batch statistics, which evaluation must not touch."""
    flat = nn.Flatten(1) if len(in_shape) > 1 else nn.Identity()
    n = torch.Size(in_shape).numel()
    return nn.Sequential(flat, nn.BatchNorm1d(n), nn.Dropout(0.5), nn.Linear(n, out_shape[0]))


@pytest.fixture
def x():
    return torch.bernoulli(torch.rand(30, 1, 8, 8))


def test_evaluation_changes_nothing(make_vae, x):
    vae = make_vae(encoder=noisy)
    vae.train()
    vae.p_x.net.eval()
    before = copy.deepcopy(vae.state_dict())
    modes = [m.training for m in vae.modules()]
    state = torch.get_rng_state()
    pv.evaluate.elbo(vae, x)
    pv.evaluate.log_likelihood(vae, x, num_samples=5)
    for name, value in vae.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert [m.training for m in vae.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in vae.parameters())


def test_dropout_is_off(make_vae, x):
    vae = make_vae(encoder=noisy)
    assert pv.evaluate.elbo(vae, x).kl == pv.evaluate.elbo(vae, x, seed=1).kl


def test_seed_decides(make_vae, x):
    vae = make_vae()
    assert pv.evaluate.elbo(vae, x) == pv.evaluate.elbo(vae, x)
    assert pv.evaluate.elbo(vae, x) != pv.evaluate.elbo(vae, x, seed=1)


def test_ragged_batches_weigh_each_datum_alike(make_vae, x):
    """Averaging the means of batches of 20 and 10 would be wrong."""
    vae = make_vae()
    whole, ragged = (pv.evaluate.elbo(vae, x, num_samples=2000, batch_size=b) for b in (30, 20))
    assert whole.kl == pytest.approx(ragged.kl, rel=1e-6)
    assert whole.elbo == pytest.approx(ragged.elbo, abs=0.02)


def test_estimates_are_told_in_words(make_vae, x):
    vae = make_vae()
    assert "nats per datum" in str(pv.evaluate.elbo(vae, x))
    estimate = pv.evaluate.log_likelihood(vae, x, num_samples=7)
    assert "(K = 7, " in str(estimate)
    assert "k-hat" not in str(estimate)  # of so few
    assert "counting measure" in str(estimate)
    assert estimate.per_datum.shape == (30,)
    assert estimate.standard_error == pytest.approx((estimate.per_datum.std() / 30**0.5).item())


def test_log_likelihood_is_at_least_the_elbo(make_vae, x):
    vae = make_vae()
    bound = pv.evaluate.elbo(vae, x, num_samples=200)
    assert pv.evaluate.log_likelihood(vae, x, num_samples=1000).log_likelihood > bound.elbo


def test_log_likelihood_against_quadrature():
    """A nonlinear decoder over one latent: log p(x) by integration on a grid, in float64."""
    torch.set_default_dtype(torch.float64)
    try:
        vae = pv.VAE((4,), 1, encoder=pv.nets.mlp(5), decoder=pv.nets.mlp(5))
        vae.q_z.net.layers[-1].bias.data[1] = 0.7  # wider than the prior: bounded weights
        x = torch.bernoulli(torch.rand(6, 4))
        z = torch.linspace(-40, 40, 200_001)[:, None]
        joint = vae.prior().log_prob(z)[:, None] + vae.decode(z[:, None]).log_prob(x)
        exact = joint.logsumexp(0) + (z[1] - z[0]).log()
        estimate = pv.evaluate.log_likelihood(vae, x, num_samples=100_000)
        torch.testing.assert_close(estimate.per_datum, exact.detach(), atol=0.01, rtol=0)
    finally:
        torch.set_default_dtype(torch.float32)


def test_kl_closed_form_and_sampled_agree():
    q = dist.Normal(torch.tensor([[0.3, -1.0]]), torch.tensor([[0.5, 2.0]])).to_event(1)
    p = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    z = q.sample((200_000,))
    closed = kl_divergence(q, p, z)
    assert closed.shape == (200_000, 1)
    assert closed.unique().numel() == 1
    sampled = (q.log_prob(z) - p.log_prob(z)).mean()
    assert closed[0, 0].item() == pytest.approx(sampled.item(), abs=0.02)
    other = dist.StudentT(5.0, torch.zeros(2), 1.0).to_event(1)
    torch.testing.assert_close(kl_divergence(q, other, z), q.log_prob(z) - other.log_prob(z))


def test_particles_come_first(make_vae, x):
    assert log_weights(make_vae(), x, 7).shape == (7, 30)


def test_float64_data_are_not_rounded():
    """x = 5000 ± 1e-3: rounding to float32 would move each datum by up to a fifth of the scale."""
    x = 5000 + 1e-3 * torch.randn(50, 3, dtype=torch.float64)
    vae = pv.VAE((3,), 1, likelihood=pv.likelihoods.Normal(scale=1e-3), decoder=pv.nets.mlp(4)).double()
    with torch.no_grad():
        vae.p_x.net.layers[-1].bias.fill_(5000.0)
        vae.p_x.net.layers[-1].weight.zero_()
    exact = dist.Normal(torch.full((3,), 5000.0).double(), 1e-3).log_prob(x).sum(-1).mean()
    assert pv.evaluate.elbo(vae, x).reconstruction == pytest.approx(-exact.item(), rel=1e-9)


def test_bad_data(make_vae, x):
    vae = make_vae()
    with pytest.raises(DataError, match="empty"):
        pv.evaluate.elbo(vae, x[:0])
    with pytest.raises(DataError, match="shape"):
        pv.evaluate.elbo(vae, x[:, :, :4])
    with pytest.raises(DataError, match="support"):
        pv.evaluate.elbo(vae, x + 0.5)
    normal = make_vae(likelihood=pv.likelihoods.Normal())
    with pytest.raises(DataError, match="support"):
        pv.evaluate.elbo(normal, x * torch.inf)
    with pytest.raises(pv.checks.ConfigError, match="num_samples=0"):
        pv.evaluate.log_likelihood(vae, x, num_samples=0)


@pytest.mark.parametrize("num_samples", [50, 130])
def test_compiled_log_likelihood(make_vae, num_samples):
    """The same noise and estimate, with a smaller last batch and a smaller last chunk of samples."""
    vae, x = make_vae(), torch.bernoulli(torch.rand(15, 1, 8, 8))
    eager, compiled = (
        pv.evaluate.log_likelihood(vae, x, num_samples=num_samples, max_rows=160, compile=compile)
        for compile in (False, True)
    )
    torch.testing.assert_close(eager.per_datum, compiled.per_datum, rtol=1e-5, atol=1e-5)


def test_log_likelihood_that_cannot_be_compiled(make_vae):
    class Branching(pv.nets.MLP):
        def forward(self, x):
            return super().forward(x if x.sum() > 0 else -x)

    vae, x = make_vae(encoder=Branching), torch.bernoulli(torch.rand(5, 1, 8, 8))
    expected = pv.evaluate.log_likelihood(vae, x, num_samples=10)
    with pytest.warns(pv.svi.CompilationWarning, match="cannot be traced"):
        assert pv.evaluate.log_likelihood(vae, x, num_samples=10, compile=True).log_likelihood == (
            expected.log_likelihood
        )


@pytest.mark.usefixtures("double")
def test_weights_are_told_of(make_vae, x):
    """Their effective sample size, and the data whose tail is too heavy."""
    vae = make_vae().double()
    vae.p_x.net.layers[-1].weight.data.mul_(30)  # far from what the guide says
    with pytest.warns(DataWarning, match=r"^log p\(x\) of \d+ of 30 data .*num_samples=10000, ") as caught:
        estimate = pv.evaluate.log_likelihood(vae, x, num_samples=1000, max_rows=100_000)
    assert caught[0].filename == __file__
    with vae.evaluating():
        log_w = log_weights(vae, x, 1000)
    torch.testing.assert_close(estimate.per_datum, importance_weighted_bound(log_w))
    torch.testing.assert_close(estimate.effective_sample_size, 1 / log_w.softmax(0).square().sum(0))
    assert estimate.pareto_k.shape == (30,)
    heavy = int((estimate.pareto_k > 0.7).sum())
    median = estimate.effective_sample_size.median()
    assert f"(K = 1000, {median:.0f} of them effective in the median; " in str(estimate)
    assert f"k-hat above 0.7 of {heavy} of 30 data" in str(estimate)
    assert f"k-hat above 0.7 of {heavy} of 30 data" in estimate._repr_html_()


@pytest.mark.usefixtures("double")
def test_an_exact_guide_is_trusted(recwarn):
    s = system("VAE", exact=True)
    estimate = pv.evaluate.log_likelihood(s.program, s.batch, num_samples=100)
    torch.testing.assert_close(estimate.effective_sample_size, torch.full((6,), 100.0))
    assert (estimate.pareto_k == -math.inf).all()
    assert not recwarn.list


def test_the_draw_of_binary_data_is_told(digits, make_vae):
    vae = make_vae()
    for part, told in ((digits.test, "; x binarised by one draw, seed 0)"), (digits.test[:5], "measure)")):
        assert str(pv.evaluate.log_likelihood(vae, part, num_samples=2)).endswith(told)
    digits.train.redraw(7)
    assert digits.train.binarized == "x binarised by one draw, seed 7"
    assert pv.data.load("digits", binarize="threshold").test.binarized == "x binarised at 0.5"
    assert pv.data.load("digits", levels=True).test.binarized == ""


class Masked(pv.Program):
    """Of which some data have no latents."""

    def model(self, batch):
        with self.plate(batch):
            with poutine.mask(mask=batch["x"][:, 0] > 0):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            self.sample("x", dist.Normal(z, 1.0).to_event(1), batch)

    def guide(self, batch):
        with self.plate(batch), poutine.mask(mask=batch["x"][:, 0] > 0):
            pyro.sample("z", dist.Normal(0.5 * batch["x"], 0.7).to_event(1))


def test_masked_sites_add_nothing():
    x = torch.randn(6, 2)
    found = pv.evaluate.elbo(Masked(), x, num_samples=4000, batch_size=24_000)
    weights = log_weights(Masked(), x, 4000).mean().item()
    assert found.elbo == pytest.approx(weights, abs=6 * found.draws_error + 0.01)


class Scaled(pv.Program):
    """Whose terms weigh more in training."""

    factor = 3.0

    def model(self, batch):
        with self.plate(batch), poutine.scale(scale=self.factor):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with poutine.scale(scale=self.factor):
                self.sample("x", dist.Normal(z, 1.0).to_event(1), batch)

    def guide(self, batch):
        with self.plate(batch), poutine.scale(scale=self.factor):
            pyro.sample("z", dist.Normal(0.5 * batch["x"], 0.7).to_event(1))


def test_scales_are_of_training_alone():
    """Whatever weighs a density, what is measured is what the model draws from: p(x) = Normal(0, 2)."""
    x = torch.randn(6, 2)
    scaled, plain = Scaled(), Scaled()
    plain.factor = 1.0
    for evaluate, options in (
        (pv.evaluate.elbo, {"num_samples": 20}),
        (pv.evaluate.log_likelihood, {"num_samples": 20}),
        (pv.evaluate.anatomy, {"num_aggregate": 20}),
        (pv.evaluate.ais, {"num_temperatures": 5, "num_chains": 2}),
    ):
        assert str(evaluate(scaled, x, **options)) == str(evaluate(plain, x, **options))
    truth = dist.Normal(0.0, 2**0.5).log_prob(x).sum(1)
    found = pv.evaluate.log_likelihood(scaled, x, num_samples=5000)
    torch.testing.assert_close(found.per_datum, truth.double(), atol=0.05, rtol=0)
