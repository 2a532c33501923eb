"""Where a likelihood starts: at its maximum likelihood, whatever the unit, and whatever is missing."""

import math

import pyro.distributions as dist
import pytest
import torch
from cases import EVENT_SHAPE, LIKELIHOODS, D, build
from scipy import optimize, stats
from torch import nn

import pyro_vae as pv
from pyro_vae.families.start import most_likely


class Silent(nn.Module):
    """A decoder that says nothing: raw output 0, the likelihood's starting values."""

    def __init__(self, in_shape, out_shape):
        super().__init__()
        self.out_shape = out_shape

    def forward(self, z):
        return z.new_zeros(*z.shape[:-1], *self.out_shape)


def fitted(name: str, x: torch.Tensor, by_column: bool = True, **sources) -> dict[str, torch.Tensor]:
    family = getattr(pv.likelihoods, name)(**sources)
    family.setup(tuple(x.shape[1:]))
    some = x.nan_to_num(0.0)
    return most_likely(family, x, some.std(0, correction=0), by_column)


def gamma(x):
    shape, _, scale = stats.gamma.fit(x, floc=0)
    return {"concentration": shape, "rate": 1 / scale}


def beta(x):
    a, b, _, _ = stats.beta.fit(x, floc=0, fscale=1)
    return {"concentration1": a, "concentration0": b}


def weibull(x):
    shape, _, scale = stats.weibull_min.fit(x, floc=0)
    return {"concentration": shape, "scale": scale}


def negative_binomial(x):
    def loss(theta):
        return -stats.nbinom.logpmf(x, math.exp(theta[0]), 1 / (1 + math.exp(theta[1]))).sum()

    best = optimize.minimize(loss, [0.0, 0.0], method="Nelder-Mead", options={"maxiter": 4000}).x
    return {"total_count": math.exp(best[0]), "logits": best[1]}


MLE = {
    "Normal": (stats.norm(3, 2), lambda x: {"loc": x.mean(), "scale": x.std()}),
    "Laplace": (
        stats.laplace(3, 2),
        lambda x: dict(zip(("loc", "scale"), stats.laplace.fit(x), strict=True)),
    ),
    "Cauchy": (stats.cauchy(3, 2), lambda x: dict(zip(("loc", "scale"), stats.cauchy.fit(x), strict=True))),
    "Gumbel": (
        stats.gumbel_r(3, 2),
        lambda x: dict(zip(("loc", "scale"), stats.gumbel_r.fit(x), strict=True)),
    ),
    "Logistic": (
        stats.logistic(3, 2),
        lambda x: dict(zip(("loc", "scale"), stats.logistic.fit(x), strict=True)),
    ),
    "StudentT": (
        stats.t(3.5, 3, 2),
        lambda x: dict(zip(("df", "loc", "scale"), stats.t.fit(x), strict=True)),
    ),
    "Exponential": (stats.expon(0, 4), lambda x: {"rate": 1 / x.mean()}),
    "Gamma": (stats.gamma(3, 0, 5), gamma),
    "Weibull": (stats.weibull_min(2.0, 0, 5), weibull),
    "LogNormal": (stats.lognorm(0.6, 0, 4), lambda x: {"loc": (y := x.log()).mean(), "scale": y.std()}),
    "Beta": (stats.beta(2, 5), beta),
    "Poisson": (stats.poisson(4.0), lambda x: {"rate": x.mean()}),
    "Geometric": (stats.geom(0.2, -1), lambda x: {"logits": -math.log(x.mean())}),
    "NegativeBinomial": (stats.nbinom(3, 0.3), negative_binomial),
}
"""What data are drawn from, and their maximum likelihood by other means."""


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", MLE)
def test_start_is_the_maximum_likelihood(name):
    """Of each column by itself, one of which has gaps, in parameters and in nats."""
    truth, mle = MLE[name]
    x = torch.as_tensor(truth.rvs(size=(2000, 2), random_state=1), dtype=torch.float64)
    unknown = torch.rand(2000) < 0.3
    x[unknown, 1] = math.nan
    found = fitted(name, x)
    columns = [x[:, 0], x[~unknown, 1]]
    for i, column in enumerate(columns):
        own = {n: v.expand(2)[i].item() for n, v in found.items()}

        best = mle(column if name == "LogNormal" else column.numpy())
        if name == "LogNormal":
            best["scale"] = column.log().std(correction=0)
        best = {n: float(v) for n, v in best.items()}
        family = getattr(dist, name)
        p, q = (family(**{n: torch.tensor(v) for n, v in values.items()}) for values in (own, best))
        lost = (q.log_prob(column) - p.log_prob(column)).mean().item()
        assert abs(lost) < 2e-3
        for n, value in best.items():
            loose = 0.15 if n in ("df", "total_count") else 0.03  # held back a little
            assert own[n] == pytest.approx(value, rel=loose, abs=0.03), n


@pytest.mark.usefixtures("double")
def test_missing_values_are_left_out():
    """The start of data with gaps is that of the observed values alone, and of nothing else."""
    x = torch.distributions.Gamma(3.0, 0.2).sample((300, 2))
    gaps = x.clone()
    gaps[100:, 0] = math.nan
    for name in ("Normal", "Gamma", "StudentT"):
        one, other = fitted(name, gaps), fitted(name, x[:100])
        for parameter, value in one.items():
            assert value.expand(2)[0].item() == pytest.approx(other[parameter].expand(2)[0].item(), rel=1e-2)


@pytest.mark.usefixtures("double")
def test_a_column_without_values_is_finite():
    x = torch.randn(50, 3)
    x[:, 1] = math.nan
    for name in ("Normal", "StudentT", "Laplace"):
        vae = pv.VAE(
            (3,), 1, likelihood=getattr(pv.likelihoods, name)(), encoder=pv.nets.mlp(3), decoder=Silent
        )
        with pytest.warns(pv.program.DataWarning, match="column 1"):
            vae.initialize(pv.data.Split(x))
        assert pv.objectives.log_weights(vae, x, 2).isfinite().all()


class TestNormal:
    @pytest.mark.parametrize("missing", [False, True])
    def test_starts_at_the_statistics(self, missing):
        x = 100 + torch.rand(EVENT_SHAPE) + (20 * torch.rand(EVENT_SHAPE) + 1) * torch.randn(50, *EVENT_SHAPE)
        if missing:
            x[torch.rand_like(x) < 0.3] = math.nan
        mean = x.nanmean(0)
        std = (x - mean).square().nanmean(0).sqrt()
        unit = std.square().mean().sqrt()
        for scale, expected in (
            ("network", unit.expand(EVENT_SHAPE)),
            ("shared", unit.expand(EVENT_SHAPE)),
            ("per_element", std),
            (7.0, torch.tensor(7.0).expand(EVENT_SHAPE)),
        ):
            vae = build(likelihood=pv.likelihoods.Normal(scale=scale), decoder=Silent)
            vae.initialize(pv.data.Split(x))
            p = vae.decode(torch.zeros(1, D)).base_dist
            torch.testing.assert_close(p.loc[0], mean)
            torch.testing.assert_close(p.scale.expand(1, *EVENT_SHAPE)[0], expected, rtol=2e-3, atol=0)

    def test_learned_scales_have_a_floor(self):
        vae = build(likelihood=pv.likelihoods.Normal(scale="shared"))
        x = torch.tensor([-5.0, 5.0])[:, None, None].expand(2, *EVENT_SHAPE)
        vae.initialize(pv.data.Split(x))
        vae.p_x.family.parameter["scale"].raw.data.fill_(-1e4)
        assert vae.decode(torch.zeros(1, D)).base_dist.scale.min().item() == pytest.approx(5e-3)


def test_scales_grow_linearly():
    """softplus, not exp, which a raw value of 20 would take to 5e8."""
    vae = build(likelihood=pv.likelihoods.Normal(scale="shared"))
    raw = vae.p_x.family.parameter["scale"].raw
    raw.data.fill_(20.0)
    assert vae.decode(torch.zeros(1, D)).base_dist.scale.max().item() == pytest.approx(20, rel=0.05)
    assert vae.q_z.family(torch.full((1, 2 * D), 20.0)).base_dist.scale.max().item() == pytest.approx(
        20, rel=0.05
    )


def test_guides_over_the_reals_start_near_a_standard_normal():
    """raw = 0 is a distribution of mean about 0 and spread about 1, for each of them."""
    for name in dir(pv.guides):
        guide = getattr(pv.guides, name)()
        if not guide.on_reals or name in ("Discrete", "Flow", "MixtureOfNormals", "VectorQuantised"):
            continue
        guide.setup((2,))
        z = guide(torch.zeros(guide.param_shape())).sample((20_000,))
        assert z.median(0).values.abs().max().item() < 0.25, name
        middle = z.quantile(0.84, 0) - z.quantile(0.16, 0)
        assert (middle / 2 - 1).abs().max().item() < 0.35, name


def test_own_likelihood_starts_at_the_statistics():
    x = 5000 + torch.rand(EVENT_SHAPE) + torch.randn(101, *EVENT_SHAPE)
    vae = build(likelihood=pv.likelihoods.Laplace(loc="network", scale="shared"), decoder=Silent)
    vae.initialize(pv.data.Split(x))
    # The median is where a Laplace has its greatest likelihood.
    torch.testing.assert_close(vae.decode(torch.zeros(1, D)).mean[0], x.median(0).values, rtol=0, atol=0.1)
    scale = (x - x.median(0).values).abs().mean().item()
    assert vae.decode(torch.zeros(1, D)).base_dist.scale.mean().item() == pytest.approx(scale, rel=0.02)


def test_bernoulli_starts_at_the_mean():
    mean = torch.tensor([[0.0, 0.2, 0.5], [0.7, 1.0, 0.3]])
    x = (torch.arange(10)[:, None, None] < 10 * mean).float()
    vae = build(decoder=Silent)
    vae.initialize(pv.data.Split(x))
    torch.testing.assert_close(vae.decode(torch.zeros(1, D)).mean[0], mean.clamp(0.01, 0.99))


def test_levels_start_at_their_frequencies_without_what_is_missing():
    x = torch.randint(0, 4, (500, *EVENT_SHAPE)).float()
    x[:250] = math.nan
    vae = build(likelihood=pv.likelihoods.Categorical(5), decoder=Silent)
    vae.initialize(pv.data.Split(x))
    counts = torch.bincount(x[250:].long().flatten(), minlength=5) + 1.0
    torch.testing.assert_close(vae.decode(torch.zeros(1, D)).base_dist.probs[0, 0, 0], counts / counts.sum())


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize(
    "name",
    [
        *("Laplace", "Logistic", "SoftLaplace", "StudentT", "Exponential", "Gamma", "HalfNormal"),
        *("Weibull", "InverseGamma", "LogNormal", "GammaPoisson", "NegativeBinomial", "Geometric", "Poisson"),
    ],
)
def test_starts_at_the_best_fit_on_any_scale(name, scale):
    """No worse than a search by another method from there, whatever the data's unit."""
    likelihood = build(likelihood=LIKELIHOODS[name]).p_x.family
    counts = likelihood.measure == pv.families.COUNTING
    if counts and scale < 1:
        pytest.skip("counts have no unit")
    x = scale * torch.distributions.Gamma(3.0, 0.1 if counts else 1.0).sample((200, 2, 3))
    x = x.round() if counts else x
    likelihood.initialize(x, x.mean(0), x.std(0))
    shape = likelihood.param_shape()

    def log_prob(raw):
        return likelihood(raw.expand(200, *shape)).log_prob(x).mean() / 6

    start = log_prob(torch.zeros(shape)).item()
    raw = torch.zeros(shape, requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=0.04)
    for _ in range(100):
        optimizer.zero_grad()
        (-log_prob(raw)).backward()
        optimizer.step()
    # Its own search is for all elements together, this one for each.
    best = log_prob(raw.detach()).item()
    assert start > best - 0.05 - 0.002 * abs(best)


@pytest.mark.parametrize("name", ["StudentT", "NegativeBinomial", "GammaPoisson"])
def test_start_stays_where_the_family_has_a_limit(name):
    """Data of the limit, a Normal or a Poisson, do not send the parameters to infinity."""
    likelihood = build(likelihood=LIKELIHOODS[name]).p_x.family
    limit = dist.Normal(3.0, 2.0) if name == "StudentT" else dist.Poisson(4.0)
    x = limit.sample((200, 2, 3))
    likelihood.initialize(x, x.mean(0), x.std(0))
    start = likelihood(torch.zeros(likelihood.param_shape())).log_prob(x).mean().item() / 6
    assert start == pytest.approx(limit.log_prob(x).mean().item(), abs=0.05)
    for buffer, unit in likelihood.named_buffers():
        if buffer.endswith("unit"):
            assert 1e-3 < unit.item() < 1001
