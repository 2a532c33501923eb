"""What is not given is drawn from its conditional distribution, which is known of linear Normals."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from models.linear import LATENTS, PIXELS, SCALE, system
from pyro.infer import RenyiELBO
from torch.distributions import MultivariateNormal

import pyro_vae as pv
from pyro_vae.program import DataWarning

pytestmark = pytest.mark.usefixtures("double")
S = 4000


def evidence(s) -> MultivariateNormal:
    """p(x), of all elements of each datum."""
    program, prior = s.program, s.prior
    w = torch.zeros(PIXELS, prior.mean.shape[-1])
    layer = program.p_x.net.layers[0]
    w[:, :LATENTS] = layer.weight[:, :LATENTS].detach()
    offset = layer.bias.detach().expand(len(prior.mean), -1)
    if "y" in s.batch:
        given = [torch.nn.functional.one_hot(s.batch["y"], 3).double(), s.batch["age"]]
        offset = offset + torch.cat(given, 1) @ layer.weight[:, LATENTS:].T.detach()
    covariance = w @ prior.covariance_matrix @ w.T + SCALE**2 * torch.eye(PIXELS)
    return MultivariateNormal(offset + prior.mean @ w.T, covariance)


def missing_given_observed(s):
    """Of each datum: which elements are missing, and the Normal of them."""
    for x, loc, covariance in zip(s.batch["x"], evidence(s).loc, evidence(s).covariance_matrix, strict=True):
        m, o = x.isnan(), ~x.isnan()
        gain = covariance[m][:, o] @ torch.linalg.inv(covariance[o][:, o])
        rest = covariance[m][:, m] - gain @ covariance[o][:, m]
        yield m, MultivariateNormal(loc[m] + gain @ (x[o] - loc[o]), rest)


def check_draws(s, drawn, size: float) -> None:
    """Mean, covariance and quantiles of what is missing, within 5 standard errors of so many draws."""
    x = drawn["x"]
    for i, (m, p) in enumerate(missing_given_observed(s)):
        o = ~m
        assert (x[:, i, o] == s.batch["x"][i, o]).all()
        if not m.any():
            continue
        draws, variance = x[:, i, m], p.variance
        assert ((draws.mean(0) - p.mean).abs() < 5 * (variance / size).sqrt()).all()
        spread = variance[:, None] * variance + p.covariance_matrix**2
        assert (
            (draws.T.cov().reshape(spread.shape) - p.covariance_matrix).abs() < 5 * (spread / size).sqrt()
        ).all()
        below = drawn.quantile([0.1, 0.5, 0.9])[:, i, m]
        at = torch.distributions.Normal(p.mean, p.stddev).cdf(below)
        assert ((at - torch.tensor([[0.1], [0.5], [0.9]])).abs() < 5 * 0.5 / math.sqrt(size)).all()


def wrong(s, scale: float = 0.7, shift: float = 0.4) -> None:
    """Makes the guide of a VAE narrower, and moves it."""
    layer = s.program.q_z.net.layers[0]
    with torch.no_grad():
        layer.bias[:LATENTS] += shift * s.posterior.stddev[0]
        raw = layer.bias[LATENTS:]
        before = s.program.encode(s.batch["x"][:1]).stddev[0]
        for _ in range(100):
            raw += 0.2 * (scale * before - s.program.encode(s.batch["x"][:1]).stddev[0]) / before


@pytest.mark.parametrize("kind", ["VAE", "ConditionalVAE", "bottom_up", "top_down"])
def test_exact_guides(kind):
    s = system(kind, missing=True, exact=True)
    drawn = pv.predict(s.program, s.batch, S, num_particles=S)
    # Of r = (q + p(z)) / 2 no weight is above 2 p(x): K E[w]^2 / E[w^2] >= K / 2.
    assert (drawn.effective_sample_size > 0.49 * S).all()
    assert (drawn.effective_sample_size < 1.01 * S).all()
    check_draws(s, drawn, S / 3)  # drawn anew from half as many
    torch.testing.assert_close(drawn.mean(), drawn["x"].mean(0))


@pytest.mark.parametrize("kind", ["VAE", "conditional_prior", "top_down"])
def test_guides_are_corrected_and_patterns_may_differ(kind):
    """Guides as wide as the prior; each datum its own pattern, one of them wholly missing."""
    s = system(kind, missing=True)
    drawn = pv.predict(s.program, s.batch, S, num_particles=4 * S)
    assert s.batch["x"][0].isnan().all()
    check_draws(s, drawn, min(S, drawn.effective_sample_size.min().item()) / 2)


def test_a_guide_far_from_the_posterior_costs_little():
    """What it was not trained on, nothing given, is drawn from the prior."""
    s = system("VAE", missing=True, exact=True)
    wrong(s, scale=0.1, shift=20.0)
    nothing = {name: torch.full_like(x, torch.nan) for name, x in s.batch.items()}
    drawn = pv.predict(s.program, nothing, 4000, num_particles=4000)
    assert (drawn.effective_sample_size > 1900).all()
    z = drawn["z"]
    assert (z.mean(0).abs() < 5 / math.sqrt(1300)).all()
    assert ((z.var(0) - 1).abs() < 5 * math.sqrt(2 / 1300)).all()


def test_a_narrow_guide_off_the_mark_is_corrected():
    s = system("VAE", missing=True, exact=True)
    wrong(s)
    drawn = pv.predict(s.program, s.batch, S, num_particles=20 * S)
    z = drawn["z"]
    within = 5 * s.posterior.stddev / math.sqrt(drawn.effective_sample_size.min().item() / 4)
    assert ((z.mean(0) - s.posterior.mean).abs() < within).all()
    unweighed = s.program.encode(s.batch["x"]).mean
    assert ((unweighed - s.posterior.mean).abs() > 0.3 * s.posterior.stddev).all()


@pytest.mark.parametrize("kind", ["VAE", "ConditionalVAE", "top_down"])
def test_hmc_reaches_the_posterior_from_few_particles(kind):
    """From 5 particles of a guide, that is narrow and far off."""
    s = system(kind, missing=True, exact=True)
    if kind == "VAE":
        wrong(s, 0.2, 2.0)
    number = 1000
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        drawn = pv.predict(s.program, s.batch, number, num_particles=5, hmc=60)
    assert (drawn.acceptance > 0.6).all()
    check_draws(s, drawn, number / 2)
    names = ("z1", "z2") if kind == "top_down" else ("z",)
    z = torch.cat([drawn[name] for name in names], -1)
    assert ((z.mean(0) - s.posterior.mean).abs() < 5 * s.posterior.stddev / math.sqrt(number / 2)).all()
    assert ((z.std(0) / s.posterior.stddev - 1).abs() < 0.15).all()


@pytest.mark.parametrize("prior", [dist.Gamma(2.0, 1.0), dist.Dirichlet(torch.ones(3).double())])
def test_hmc_on_other_supports(prior):
    """Nothing is observed: the latents are those of the prior, whatever the guide."""
    torch.manual_seed(0)
    small = {"encoder": pv.nets.mlp(), "decoder": pv.nets.mlp(), "likelihood": pv.likelihoods.Normal()}
    vae = pv.VAE((2,), 3, prior=prior, **small)
    drawn = pv.predict(vae, torch.full((2, 2), math.nan), 1000, num_particles=100, hmc=20)
    p = prior if prior.event_shape else prior.expand((3,))
    error = (p.variance / 500).sqrt()
    assert ((drawn["z"].mean(0) - p.mean).abs() < 5 * error).all()
    assert ((drawn["z"].var(0) / p.variance - 1).abs() < 0.35).all()


class Scalar(pv.Program):
    """A latent that is a number, as Pyro's own sites are."""

    def model(self, batch):
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            self.sample("x", dist.Normal(z, 1.0), batch)

    def guide(self, batch):
        with self.plate(batch):
            pyro.sample("z", dist.Normal(3.0, 0.3))


def test_hmc_of_a_latent_that_is_a_number():
    drawn = pv.predict(Scalar(), torch.tensor([0.0, -2.0]), 1000, num_particles=5, hmc=40)
    assert drawn["z"].shape == (1000, 2)
    error = math.sqrt(0.5 / 500)
    assert ((drawn["z"].mean(0) - torch.tensor([0.0, -1.0])).abs() < 5 * error).all()


def test_a_frame_tells_the_acceptance():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [0.1, None, -1.0, 0.5], "b": [1.0, 0.3, None, 2.0]})
    table = pv.data.load(frame, validation=0.0, test=0.0)
    nets = {"encoder": pv.nets.mlp(), "decoder": pv.nets.mlp()}
    vae = pv.VAE(table.event_shapes, 1, likelihood="auto", **nets).double()
    vae.initialize(table.train)
    drawn = pv.predict(vae, frame, 50, hmc=6)
    by_name = pv.predict(vae, {name: frame[name] for name in frame}, 50, hmc=6)
    assert drawn.attrs["acceptance"] == by_name.acceptance.tolist()
    assert "acceptance" not in pv.predict(vae, frame, 50).attrs


def test_all_missing_is_the_marginal():
    s = system("VAE")
    nothing = torch.full((2, PIXELS), math.nan)
    drawn = pv.predict(s.program, nothing, S, num_particles=4 * S)
    p = evidence(s)
    size = drawn.effective_sample_size.min().item()
    assert ((drawn.mean() - p.mean[0]).abs() < 5 * (p.variance[0] / min(size, S) * 2).sqrt()).all()


def test_absent_sites_are_not_known():
    s = system("ConditionalVAE")
    given = {name: value for name, value in s.batch.items() if name != "x"}
    drawn = pv.predict(s.program, given, 50, num_particles=4000)
    assert drawn["x"].shape == (50, 6, PIXELS)
    assert set(drawn) == {"z", "x"}
    nothing = s.batch | {"x": torch.full((6, PIXELS), math.nan)}
    assert torch.equal(pv.predict(s.program, nothing, 50, num_particles=4000)["x"], drawn["x"])


def test_draws_hang_on_no_other_datum():
    s = system("VAE", missing=True)
    for hmc in (0, 4):
        whole = pv.predict(s.program, s.batch, 30, hmc=hmc)
        part = pv.predict(s.program, s.batch["x"][:2], 30, hmc=hmc)
        torch.testing.assert_close(whole["x"][:, :2], part["x"])
        torch.testing.assert_close(whole.effective_sample_size[:2], part.effective_sample_size)
    again, other = pv.predict(s.program, s.batch, 30), pv.predict(s.program, s.batch, 30, seed=1)
    assert torch.equal(again["x"].nan_to_num(), pv.predict(s.program, s.batch, 30)["x"])
    assert not torch.equal(again["z"], other["z"])


def test_nothing_leaks():
    s = system("VAE", missing=True)
    state, before = torch.get_rng_state(), {n: p.clone() for n, p in s.program.state_dict().items()}
    pv.predict(s.program, s.batch, 5, hmc=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, before[n]) for n, p in s.program.state_dict().items())
    assert all(p.grad is None for p in s.program.parameters())
    assert not pyro.get_param_store()


@pytest.mark.parametrize("name", ["FullRankNormal", "LowRankNormal", "MixtureOfNormals"])
def test_correlated_elements_see_each_other(name):
    """The decoder sees nothing of z: x_m given x_o is then that of one distribution."""
    torch.manual_seed(0)
    vae = pv.VAE(
        (3,), 1, likelihood=getattr(pv.likelihoods, name)(), encoder=pv.nets.mlp(), decoder=pv.nets.mlp()
    )
    with torch.no_grad():
        for c in (vae.p_x, vae.q_z):
            for q in c.net.parameters():
                q.zero_()
        vae.p_x.net.layers[0].bias.normal_(std=0.7)
    x = torch.tensor([[0.5, math.nan, -0.3]])
    drawn = pv.predict(vae, x, S, num_particles=10)["x"][:, 0, 1]
    grid = torch.linspace(-12, 12, 4001)
    rows = torch.stack([torch.full_like(grid, 0.5), grid, torch.full_like(grid, -0.3)], 1)
    with torch.no_grad():
        density = vae.decode(torch.zeros(1)).log_prob(rows).softmax(0)
    mean = (density * grid).sum()
    std = (density * (grid - mean).square()).sum().sqrt()
    assert (drawn.mean() - mean).abs() < 5 * std / math.sqrt(S)
    quantiles = torch.quantile(drawn, torch.tensor([0.1, 0.5, 0.9]))
    at = (density * (grid <= quantiles[:, None])).sum(-1)
    torch.testing.assert_close(at, torch.tensor([0.1, 0.5, 0.9]), rtol=0, atol=0.04)


def test_discrete_sites():
    torch.manual_seed(0)
    vae = pv.VAE((4,), 2, encoder=pv.nets.mlp(), decoder=pv.nets.mlp())
    x = torch.tensor([[1.0, math.nan, 0.0, math.nan]])
    drawn = pv.predict(vae, x, 2000, num_particles=4000)
    assert set(drawn["x"].unique().tolist()) == {0.0, 1.0}
    z = torch.randn(100_000, 2)
    with torch.no_grad():
        p = vae.decode(z).base_dist.probs
    weight = p[:, 0] * (1 - p[:, 2])
    exact = (weight[:, None] * p).sum(0) / weight.sum()
    torch.testing.assert_close(drawn.mean()[0, [1, 3]], exact[[1, 3]], rtol=0, atol=0.05)


class Discrete(pv.Program):
    """z is one of two, with a guide that ignores x."""

    def model(self, batch):
        with self.plate(batch):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            self.sample("x", dist.Normal(4 * z, 1.0), batch)
            self.sample("y", dist.Normal(-4 * z, 1.0), batch)

    def guide(self, batch):
        with self.plate(batch):
            pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))


def test_programs_of_several_sites():
    nan = torch.tensor([math.nan, math.nan, 0.0])
    drawn = pv.predict(Discrete(), {"x": torch.tensor([4.0, 2.0, 0.0]), "y": nan}, 2000)
    exact = torch.tensor([1 / (1 + math.exp(-8.0)), 0.5, 1 / (1 + math.exp(16.0))])
    torch.testing.assert_close(drawn["z"].double().mean(0), exact, rtol=0, atol=0.05)
    torch.testing.assert_close(drawn.mean("y")[:2], -4 * exact[:2], rtol=0, atol=0.25)
    assert (drawn["y"][:, 2] == 0).all()
    with pytest.raises(ValueError, match="HMC moves continuous latents, and z is not"):
        pv.predict(Discrete(), {"x": torch.zeros(1), "y": torch.zeros(1)}, hmc=1)


def test_few_effective_samples_are_told():
    s = system("VAE", exact=True)
    wrong(s, 0.05, 30.0)
    with pytest.warns(DataWarning, match=r"below 20 of 6 of 6 data \(at worst .*num_particles=1000.*hmc=20"):
        drawn = pv.predict(s.program, s.batch, 5, num_particles=100)
    assert (drawn.effective_sample_size < 20).all()


def test_mistakes_are_told():
    s = system("VAE")
    with pytest.raises(pv.data.DataError, match="given='w' is no site of the data; a VAE has x"):
        pv.predict(s.program, {"w": s.batch["x"]})
    with pytest.raises(ValueError, match=r"built for x of shape \[B, 5\]"):
        pv.predict(s.program, s.batch["x"][0])
    with pytest.raises(pv.data.DataError, match="given='' is no site"):
        pv.predict(s.program, {})
    with pytest.raises(ValueError, match="num_samples=0 must be positive"):
        pv.predict(s.program, s.batch, 0)


def many(num_particles: int) -> RenyiELBO:
    """The importance-weighted bound, datum by datum (MIWAE, where the data have holes)."""
    return RenyiELBO(0.0, num_particles, max_plate_nesting=1, vectorize_particles=True)


def test_the_bound_of_many_particles_rises_to_the_evidence_of_what_is_observed():
    s = system("VAE", missing=True)
    program, evidence = s.program, s.log_p.sum().item()
    bounds = [
        -sum(many(k).loss(program.model, program.guide, s.batch) for _ in range(n)) / n
        for k, n in ((1, 100), (5, 60), (2000, 60))
    ]
    assert bounds == sorted(bounds)
    assert bounds[0] < evidence - 0.3
    assert bounds[-1] == pytest.approx(evidence, abs=0.05)


def holes() -> pv.data.Data:
    torch.manual_seed(0)
    x = torch.randn(120, 2) @ torch.randn(2, 5) + 0.3 * torch.randn(120, 5)
    x[torch.rand_like(x) < 0.3] = math.nan
    return pv.data.load(x, validation=0.0, test=0.0)


def trained(**settings):
    torch.manual_seed(0)
    vae = pv.VAE((5,), 2, likelihood=pv.likelihoods.Normal(), encoder=pv.nets.mlp(8), decoder=pv.nets.mlp(8))
    data = holes()
    run = pv.fit(vae, data, batch_size=120, lr=2e-2, loss=many(5), progress=False, **settings)
    return vae, data, run


def test_training_with_holes_by_many_particles():
    vae, data, run = trained(epochs=60, compile=False)
    losses = [row["loss"] for row in run.history]
    assert losses[-1] < losses[0] - 0.5
    estimate = pv.evaluate.log_likelihood(vae, data.train, num_samples=500)
    assert -losses[-1] < estimate.log_likelihood + 0.2
    assert -losses[-1] > estimate.log_likelihood - 0.5


@pytest.mark.slow
def test_compiled_training_by_many_particles_is_the_eager_one():
    eager, compiled = (trained(epochs=6, compile=compile)[2].history for compile in (False, True))
    for one, other in zip(eager, compiled, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)
