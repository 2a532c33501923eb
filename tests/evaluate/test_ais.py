"""Annealed importance sampling against the evidence, which is known of linear Normals.

Most of it runs what the engine records, uncompiled, which is quicker than Pyro's handlers at each gradient.
"""

import importlib
import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from evaluate.test_predict import wrong
from models.linear import system

import pyro_vae as pv
from pyro_vae.data import DataError
from pyro_vae.evaluate.hamiltonian import begin, move
from pyro_vae.objectives import importance_weighted_bound
from pyro_vae.program import DataWarning

pytestmark = pytest.mark.usefixtures("double", "uncompiled")
both_ends = pytest.mark.parametrize("start", ["prior", "guide"])
SMALL = {"encoder": pv.nets.mlp(), "decoder": pv.nets.mlp()}


def ais(program, data, **options):
    return pv.evaluate.ais(
        program, data, **({"num_temperatures": 60, "num_chains": 40} | options), compile=True
    )


def check(estimate, log_p) -> None:
    """Each datum, and all together, within 5 standard errors of what is known."""
    assert estimate.log_likelihood == pytest.approx(log_p.mean().item(), abs=5 * estimate.draws_error + 1e-9)
    assert estimate.draws_error < 0.1
    within = 5 * estimate.draws_error * len(log_p) + 1e-9  # of one, were it the worst of all
    assert ((estimate.per_datum - log_p).abs() < within).all()
    assert (estimate.acceptance > 0.5).all()


@pytest.mark.parametrize("kind", ["VAE", "ConditionalVAE", "bottom_up", "top_down"])
def test_from_exact_guides_nothing_is_to_be_annealed(kind):
    s = system(kind, missing=True, exact=True)
    estimate = ais(s.program, s.batch, num_temperatures=20)
    torch.testing.assert_close(estimate.per_datum, s.log_p)
    assert estimate.draws_error < 1e-9
    assert (estimate.acceptance > 0.5).all()


@both_ends
@pytest.mark.parametrize("kind", ["VAE", "conditional_prior", "bottom_up", "top_down"])
def test_guides_off_the_posterior_and_patterns_may_differ(kind, start):
    """Each datum has its own missing elements, one all of them."""
    s = system(kind, missing=True)
    assert s.batch["x"][0].isnan().all()
    check(ais(s.program, s.batch, start=start), s.log_p)


@both_ends
def test_a_narrow_guide_off_the_mark_is_corrected(start):
    """Where importance sampling is nats too low, from as many gradients' worth of draws."""
    s = system("VAE", exact=True)
    wrong(s, 0.3, 2.0)
    estimate = ais(s.program, s.batch, start=start, num_temperatures=150, num_chains=40)
    assert estimate.log_likelihood == pytest.approx(s.log_p.mean().item(), abs=0.25)
    far = ais(s.program, s.batch, start="guide", num_temperatures=2, num_chains=40)
    assert far.log_likelihood < s.log_p.mean() - 2


def test_that_chains_end_too_low_is_told():
    """Of a guide 10 standard deviations off, whose chains do not get there: their error looks small."""
    s = system("VAE", exact=True)
    wrong(s, 0.1, 10.0)
    options = {"num_temperatures": 20, "num_chains": 8}
    with pytest.warns(DataWarning, match=r"of 6 of 6 data is too low, by about .* start=\"prior\""):
        estimate = ais(s.program, s.batch, **options)
    low = (s.log_p - estimate.per_datum).mean().item()
    assert low > 5 > 1 > estimate.draws_error
    assert low / 3 < estimate.shortfall.mean() < 3 * low
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        near = ais(s.program, s.batch, start="prior", **options)
    assert near.shortfall.max() < 1
    assert ais(s.program, s.batch, num_temperatures=20, num_chains=1).shortfall.isnan().all()


def test_shortfall_of_normal_log_weights():
    """Of many chains nothing is left; of few far apart, half their variance less the best of them."""
    torch.manual_seed(0)
    shortfall = importlib.import_module("pyro_vae.evaluate.ais").shortfall
    assert shortfall(torch.randn(100_000, 5)).max() < 0.05
    log_w = 30 * torch.randn(16, 2000)
    expected = -importance_weighted_bound(log_w).mean() + 450  # log of the mean of exp(30 Normal)
    assert shortfall(log_w).mean().item() == pytest.approx(expected.item(), rel=0.05)


@both_ends
@pytest.mark.filterwarnings("ignore:fewer than 40 %")  # one chain finds its steps less well
def test_the_gap_falls_as_one_over_the_temperatures(start):
    """log p - E log w ~ 1 / T (Grosse, Maddison and Salakhutdinov, 2013): the rate, not a value."""
    s = system("VAE", exact=True, wider=1.6)
    data, log_p = s.batch["x"].repeat(250, 1), s.log_p.repeat(250)
    numbers, gaps = (17, 33, 65), []
    for number in numbers:
        estimate = ais(s.program, data, start=start, num_temperatures=number, num_chains=1, leapfrogs=4)
        log_w = estimate.per_datum - log_p
        gaps.append((log_w.expm1() - log_w).mean().item())  # E[w / p] = 1, which takes off the noise
    x = torch.tensor(numbers).double().sub(1).log()
    y = torch.tensor(gaps).log()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    assert slope.item() == pytest.approx(-1, abs=0.15)


def test_two_temperatures_are_importance_sampling():
    s = system("VAE")
    estimate = ais(s.program, s.batch, start="guide", num_temperatures=2, num_chains=3000, max_rows=40_000)
    sampled = pv.evaluate.log_likelihood(s.program, s.batch, num_samples=3000)
    check_near = 5 * math.sqrt(2) * estimate.draws_error * 6
    torch.testing.assert_close(estimate.per_datum, sampled.per_datum, atol=check_near, rtol=0)
    assert estimate.acceptance.isnan().all()
    assert "nan" not in str(estimate)
    assert "nan" not in str(pv.evaluate.sandwich(s.program, num_data=3, num_temperatures=2))


@pytest.mark.parametrize(
    "prior", [dist.Gamma(2.0, 1.0), dist.Dirichlet(torch.full((3,), 2.0).double()), dist.Beta(2.0, 3.0)]
)
def test_other_supports(prior):
    """Of nothing that is observed p(x) is 1, however far the guide, pushed there, is from the prior."""
    torch.manual_seed(0)
    vae = pv.VAE((2,), 3, prior=prior, likelihood=pv.likelihoods.Normal(), **SMALL)
    nothing = torch.full((3, 2), math.nan)
    check(ais(vae, nothing, start="guide"), torch.zeros(3))
    assert not ais(vae, nothing, start="prior", num_temperatures=5).per_datum.any()


def test_a_decoder_that_is_not_linear():
    """Over one latent: log p(x) by integration on a grid."""
    vae = pv.VAE((4,), 1, encoder=pv.nets.mlp(5), decoder=pv.nets.mlp(5))
    x = torch.bernoulli(torch.rand(6, 4))
    x[0, :2] = math.nan
    z = torch.linspace(-12, 12, 20_001)[:, None]
    with torch.no_grad():
        p = vae.decode(z[:, None]).base_dist.log_prob(x.nan_to_num(0.0)) * ~x.isnan()
        joint = vae.prior().log_prob(z)[:, None] + p.sum(-1)
    exact = joint.logsumexp(0) + (z[1] - z[0]).log()
    for start in ("prior", "guide"):
        check(ais(vae, x, start=start, num_chains=100), exact)


class Two(pv.Program):
    """The guide knows of z alone: w is drawn from the model."""

    def model(self, batch):
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            w = pyro.sample("w", dist.Normal(z, 0.5))
            self.sample("x", dist.Normal(w, 0.5), batch)

    def guide(self, batch):
        with self.plate(batch):
            pyro.sample("z", dist.Normal(0.3 * batch["x"], 1.0))


@both_ends
def test_what_the_guide_leaves_to_the_model(start):
    x = torch.tensor([-1.0, 0.0, 2.5])
    check(ais(Two(), x, start=start), dist.Normal(0.0, math.sqrt(1.5)).log_prob(x))


def test_values_missing_not_at_random():
    """What is missing is latent too, and where it is not missing its density is flat."""
    torch.manual_seed(0)
    vae = pv.SelectionVAE((3,), 1, likelihood=pv.likelihoods.Normal(scale=0.7), **SMALL)
    torch.nn.init.constant_(vae.p_s.net.weight, 1.5)
    x = torch.randn(4, 3)
    x[x > 0.5] = math.nan
    assert x.isnan().any()
    sampled = pv.evaluate.log_likelihood(vae, x, num_samples=100_000, max_rows=100_000)
    for start in ("prior", "guide"):
        check(ais(vae, x, start=start, num_chains=100), sampled.per_datum)


def test_counts_with_latent_totals():
    torch.manual_seed(0)
    vae = pv.CountVAE((5,), latent_dim=1, library="latent", **SMALL)
    x = torch.poisson(torch.full((4, 5), 6.0))
    vae.initialize(pv.data.Split(x))
    sampled = pv.evaluate.log_likelihood(vae, x, num_samples=100_000, max_rows=100_000)
    for start in ("prior", "guide"):
        estimate = ais(vae, x, start=start, num_chains=100)
        check(estimate, sampled.per_datum)
        assert estimate.measure == sampled.measure


@pytest.mark.filterwarnings("ignore:log p.x. of")  # so few temperatures
def test_tables():
    pandas = pytest.importorskip("pandas")
    torch.manual_seed(0)
    frame = pandas.DataFrame({"age": torch.randn(6).numpy(), "sex": ["a", "b", None, "a", "b", "a"]})
    table = pv.data.load(frame, validation=0.0, test=0.0)
    vae = pv.VAE(table.event_shapes, 1, likelihood="auto", **SMALL)
    vae.initialize(table.train)
    sampled = pv.evaluate.log_likelihood(vae, frame, num_samples=50_000, max_rows=50_000)
    check(ais(vae, frame, num_temperatures=30), sampled.per_datum)


@pytest.mark.filterwarnings("ignore:log p.x. of")  # so few temperatures
def test_compiled_is_eager_seed_for_seed():
    s = system("top_down", missing=True)
    options = {"num_temperatures": 9, "num_chains": 3, "max_rows": 12}  # the last batch is eager, too
    for start in ("prior", "guide"):
        one, other = (
            pv.evaluate.ais(s.program, s.batch, start=start, compile=compile, **options)
            for compile in (True, False)
        )
        torch.testing.assert_close(one.per_datum, other.per_datum)
        torch.testing.assert_close(one.acceptance, other.acceptance)


def test_chains_in_parts_are_as_good():
    s = system("VAE")
    estimate = ais(s.program, s.batch, num_chains=41, max_rows=40)
    check(estimate, s.log_p)
    assert estimate.num_chains == 41


@pytest.mark.filterwarnings("ignore:log p.x. of")  # so few temperatures
def test_evaluation_changes_nothing_and_the_seed_decides():
    s = system("VAE", missing=True)
    before = {name: p.clone() for name, p in s.program.state_dict().items()}
    s.program.train()
    state, options = torch.get_rng_state(), {"num_temperatures": 5, "num_chains": 2}
    one, again, other = (ais(s.program, s.batch, seed=seed, **options) for seed in (0, 0, 1))
    assert torch.equal(one.per_datum, again.per_datum)
    assert not torch.equal(one.per_datum, other.per_datum)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, before[name]) for name, p in s.program.state_dict().items())
    assert all(p.grad is None for p in s.program.parameters())
    assert s.program.training
    assert not pyro.get_param_store()


def test_what_is_told():
    s = system("VAE")
    estimate = ais(s.program, s.batch, num_temperatures=5, num_chains=2)
    assert f"log p(x) {estimate.log_likelihood:.2f} ± {estimate.standard_error:.2f} nats" in str(estimate)
    assert "from the guide, 5 temperatures, 2 chains" in str(estimate)
    assert "5 temperatures" in estimate._repr_html_()
    assert estimate.per_datum.dtype == torch.float64
    assert estimate.standard_error == pytest.approx((estimate.per_datum.std() / 6**0.5).item())
    assert math.isnan(ais(s.program, s.batch, num_temperatures=5, num_chains=1).draws_error)


def test_chains_that_hardly_move_are_told(monkeypatch):
    monkeypatch.setattr(importlib.import_module("pyro_vae.evaluate.ais"), "ACCEPTANCE", 0.05)
    s = system("VAE")
    with pytest.warns(DataWarning, match=r"accepted of 6 of 6 data .*num_temperatures=160"):
        ais(s.program, s.batch, num_temperatures=40)


class Discrete(pv.Program):
    def model(self, batch):
        with self.plate(batch):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            self.sample("x", dist.Normal(z, 1.0), batch)

    def guide(self, batch):
        with self.plate(batch):
            pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))


class Outside(pv.Program):
    def model(self, batch):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with self.plate(batch):
            self.sample("x", dist.Normal(w, 1.0), batch)

    def guide(self, batch):
        pyro.sample("w", dist.Normal(0.0, 1.0))


class Others(Two):
    def guide(self, batch):
        with self.plate(batch):
            pyro.sample("v", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})


def test_mistakes_are_told():
    x = torch.zeros(2)
    with pytest.raises(ValueError, match="HMC moves continuous latents, and z is not"):
        pv.evaluate.ais(Discrete(), x)
    with pytest.raises(ValueError, match="site 'w' lies outside the plate 'data'"):
        pv.evaluate.ais(Outside(), x)
    with pytest.raises(ValueError, match=r'guide draws v, which the model does not have.*start="prior"'):
        pv.evaluate.ais(Others(), x)
    planar = pv.VAE((2,), 2, guide=pv.guides.Flow("planar"), **SMALL)
    with pytest.raises(ValueError, match=r'no density at latents that it did not draw.*start="prior"'):
        pv.evaluate.ais(planar, torch.zeros(2, 2))
    pv.evaluate.ais(planar, torch.zeros(2, 2), start="prior", num_temperatures=3)
    with pytest.raises(ValueError, match="num_temperatures=1 must be 2 or more"):
        pv.evaluate.ais(planar, torch.zeros(2, 2), num_temperatures=1)
    with pytest.raises(DataError, match="empty"):
        pv.evaluate.ais(planar, torch.zeros(0, 2))


def test_a_step_leaves_what_it_should():
    """Draws of a product of powers stay so; here of two Normals, by any step size."""
    one, other = dist.Normal(0.0, 1.0), dist.Normal(torch.tensor(3.0), 0.5)
    weights = torch.tensor([0.3, 0.7])[:, None, None]
    precision = 0.3 + 0.7 / 0.25
    target = dist.Normal(0.7 * 3.0 / 0.25 / precision, precision**-0.5)

    def densities(u):
        slopes = torch.stack([-u, (3.0 - u) / 0.25])
        return torch.stack([p.log_prob(u).sum(-1) for p in (one, other)]), slopes

    point = begin(densities, target.sample((40_000, 1, 1)))
    for size in (0.1, 0.8):
        step, noise = torch.full((1, 1), size), (torch.randn(40_000, 1, 1), torch.rand(40_000, 1))
        point, chance = move(densities, point, weights, step, *noise, leapfrogs=3)
        assert 0.2 < chance.mean() < 1
        assert ((point.u - target.mean) / target.stddev).mean().abs() < 5 / 200
        assert (((point.u - target.mean) / target.stddev).var() - 1).abs() < 5 * math.sqrt(2 / 40_000)
    torch.testing.assert_close(point.logs, densities(point.u)[0])
    torch.testing.assert_close(point.slopes, densities(point.u)[1])
