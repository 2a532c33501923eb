"""Both sides of a sandwich against the evidence, which is known of linear Normals."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from evaluate.test_predict import wrong
from models.linear import system

import pyro_vae as pv
from pyro_vae.evaluate.sandwich import simulated

pytestmark = pytest.mark.usefixtures("double", "uncompiled")
both_ends = pytest.mark.parametrize("start", ["prior", "guide"])
SMALL = {"encoder": pv.nets.mlp(), "decoder": pv.nets.mlp()}


def sandwich(program, **options):
    defaults = {"num_data": 60, "num_temperatures": 60, "num_chains": 20}
    return pv.evaluate.sandwich(program, **(defaults | options), compile=True)


@both_ends
@pytest.mark.parametrize("kind", ["VAE", "ConditionalVAE", "bottom_up", "top_down"])
def test_both_bounds_are_the_evidence(kind, start):
    """One weight of an exact guide is the evidence; one of them is put off the mark for the bounds."""
    s = system(kind, exact=True)
    if kind == "VAE" and start == "guide":
        layer = s.program.q_z.net.layers[0]
        exact = {name: p.clone() for name, p in layer.state_dict().items()}
        wrong(s, 0.6, 1.0)
    bounds = sandwich(s.program, start=start)
    if kind == "VAE" and start == "guide":
        layer.load_state_dict(exact)
    log_p = pv.evaluate.log_likelihood(s.program, bounds.data, num_samples=1)
    within = 5 * bounds.draws_error + 1e-9
    assert bounds.draws_error < 0.05
    assert bounds.lower == pytest.approx(log_p.log_likelihood, abs=within)
    assert bounds.upper == pytest.approx(log_p.log_likelihood, abs=within)
    assert bounds.width == pytest.approx(0, abs=within)
    assert ((bounds.lower_per_datum - log_p.per_datum).abs() < 60 * within).all()
    assert (bounds.acceptance > 0.5).all()
    if start == "guide" and kind != "VAE":  # nothing is to be annealed, up or down
        torch.testing.assert_close(bounds.lower_per_datum, log_p.per_datum)
        torch.testing.assert_close(bounds.upper_per_datum, log_p.per_datum)


@pytest.mark.filterwarnings("ignore:fewer than 40 %")
def test_bounds_are_bounds_and_meet():
    """Of few temperatures far apart, about the evidence; nearer the more there are."""
    s = system("VAE", exact=True)
    widths = []
    for number in (4, 12, 36):
        bounds = sandwich(s.program, num_data=400, num_temperatures=number, num_chains=1, start="prior")
        log_p = pv.evaluate.log_likelihood(s.program, bounds.data, num_samples=1).per_datum
        assert (bounds.lower_per_datum - log_p).mean() < 0
        assert (bounds.upper_per_datum - log_p).mean() > 0
        widths.append(bounds.width)
    assert widths[0] > 2 * widths[1] > 4 * widths[2] > 0


def test_the_upper_bound_of_a_decoder_that_is_not_linear():
    """Over one latent: log p(x) by integration on a grid."""
    torch.manual_seed(1)
    vae = pv.VAE((4,), 1, encoder=pv.nets.mlp(5), decoder=pv.nets.mlp(5))
    torch.nn.init.normal_(vae.p_x.net.layers[-1].weight)
    for start in ("prior", "guide"):
        bounds = sandwich(vae, start=start)
        z = torch.linspace(-12, 12, 20_001)[:, None]
        with torch.no_grad():
            joint = vae.prior().log_prob(z)[:, None] + vae.decode(z[:, None]).log_prob(bounds.data["x"])
        exact = (joint.logsumexp(0) + (z[1] - z[0]).log()).mean().item()
        for bound in (bounds.lower, bounds.upper):
            assert bound == pytest.approx(exact, abs=5 * bounds.draws_error)
        assert bounds.draws_error < 0.05


@pytest.mark.parametrize("prior", [dist.Gamma(2.0, 1.0), dist.Dirichlet(torch.full((3,), 2.0).double())])
def test_other_supports(prior):
    torch.manual_seed(0)
    vae = pv.VAE((2,), 3, prior=prior, likelihood=pv.likelihoods.Normal(scale=0.5), **SMALL)
    bounds = sandwich(vae, start="prior")
    with torch.no_grad():
        log_p = vae.decode(vae.prior().sample((50_000, 1))).log_prob(bounds.data["x"])
    exact = (log_p.logsumexp(0) - math.log(50_000)).mean().item()
    assert bounds.draws_error < 0.05
    for bound in (bounds.lower, bounds.upper):
        assert bound == pytest.approx(exact, abs=5 * math.hypot(bounds.draws_error, 0.01))


class Beside(pv.Program):
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
    program = Beside()
    program.event_shapes = {"x": ()}
    bounds = sandwich(program, start=start)
    log_p = dist.Normal(0.0, math.sqrt(1.5)).log_prob(bounds.data["x"]).mean().item()
    assert bounds.lower == pytest.approx(log_p, abs=5 * bounds.draws_error)
    assert bounds.upper == pytest.approx(log_p, abs=5 * bounds.draws_error)


def test_counts_and_values_missing_not_at_random():
    torch.manual_seed(0)
    counts = pv.CountVAE((5,), latent_dim=1, library="latent", **SMALL)
    counts.initialize(pv.data.Split(torch.poisson(torch.full((20, 5), 6.0))))
    selected = pv.SelectionVAE((3,), 1, likelihood=pv.likelihoods.Normal(scale=0.7), **SMALL)
    torch.nn.init.constant_(selected.p_s.net.weight, 1.5)
    for vae in (counts, selected):
        bounds = sandwich(vae, num_data=30, num_temperatures=100, start="prior")
        assert bounds.draws_error < 0.1
        assert bounds.width == pytest.approx(0, abs=5 * bounds.draws_error)


def test_models_that_look_at_what_they_draw_are_refused():
    """Counts of which the total is given are not of that total; and what is told of z by no draw."""
    torch.manual_seed(0)
    vae = pv.CountVAE((5,), latent_dim=1, **SMALL)
    vae.initialize(pv.data.Split(torch.poisson(torch.full((20, 5), 6.0))))
    with pytest.raises(ValueError, match="a CountVAE says of data depends on their values"):
        pv.evaluate.sandwich(vae, num_data=5)

    class Told(Beside):
        def model(self, batch):
            with self.plate(batch):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                self.sample("s", dist.Normal(z, 1.0), {"s": torch.ones_like(batch["x"])})
                self.sample("x", dist.Normal(z, 1.0), batch)

    program = Told()
    program.event_shapes = {"x": ()}
    with pytest.raises(ValueError, match="a Told says of data depends on their values"):
        pv.evaluate.sandwich(program, num_data=5)


def test_what_is_simulated_are_draws_of_the_model():
    s = system("VAE", exact=True)
    batch, latents = simulated(s.program, 20_000, 0)
    assert latents["z"].shape == (1, 20_000, 2)
    standard = (latents["z"][0] - s.program.encode(batch["x"]).mean) / s.program.encode(batch["x"]).stddev
    assert (standard.mean(0).abs() < 5 / math.sqrt(20_000)).all()
    assert ((standard.var(0) - 1).abs() < 5 * math.sqrt(2 / 20_000)).all()


def test_evaluation_changes_nothing_and_the_seed_decides():
    s = system("VAE")
    before = {name: p.clone() for name, p in s.program.state_dict().items()}
    state, options = torch.get_rng_state(), {"num_temperatures": 5, "num_chains": 2, "num_data": 7}
    one, again, other = (sandwich(s.program, seed=seed, **options) for seed in (0, 0, 1))
    assert torch.equal(one.upper_per_datum, again.upper_per_datum)
    assert not torch.equal(one.data["x"], other.data["x"])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, before[name]) for name, p in s.program.state_dict().items())
    assert all(p.grad is None for p in s.program.parameters())


def test_data_and_chains_in_parts():
    s = system("VAE", exact=True)
    bounds = sandwich(s.program, num_data=13, num_chains=11, max_rows=40, num_temperatures=20, start="prior")
    log_p = pv.evaluate.log_likelihood(s.program, bounds.data, num_samples=1).per_datum
    assert bounds.upper_per_datum.shape == (13,)
    assert (bounds.upper_per_datum - log_p).abs().max() < 1.5


def test_what_is_told():
    s = system("VAE")
    bounds = sandwich(s.program, num_temperatures=5, num_chains=2, num_data=7)
    assert f"{bounds.width:.3f} ± {bounds.width_error:.3f} apart" in str(bounds)
    assert "7 simulated data" in str(bounds)
    assert "upper bound" in bounds._repr_html_()
    assert bounds.lower == pytest.approx(bounds.lower_per_datum.mean().item())
    paired = bounds.upper_per_datum - bounds.lower_per_datum
    assert bounds.width_error == pytest.approx((paired.std() / 7**0.5).item())
