"""Every family of Pyro's: it is a likelihood, or is refused with a reason. Densities, samples, recovery."""

import copy
import inspect
import math
import pickle
import warnings

import pyro.distributions as dist
import pytest
import torch
from cases import FAMILIES, LIKELIHOODS, D, build
from pyro.infer import Trace_ELBO
from torch import nn
from torch.distributions import Distribution

import pyro_vae as pv
from pyro_vae import config
from pyro_vae.distributions import bounds, support, variant_name
from pyro_vae.svi import SVI

VECTORS = "is no scalar with a constraint of its own|vectors, not numbers|is no likelihood"
UNTOLD = "does not say what its parameters are"
REFUSED = {
    "AVFMultivariateNormal": VECTORS,
    "CoalescentTimes": "is no likelihood|needs a number for leaf_times",
    "CoalescentTimesWithRate": "is no likelihood|needs a number for leaf_times",
    "Delta": VECTORS,
    "Dirichlet": VECTORS,
    "DirichletMultinomial": VECTORS,
    "DiscreteHMM": "needs a number for observation_dist",
    "Empirical": UNTOLD,
    "ExpandedDistribution": UNTOLD,
    "ExponentialFamily": UNTOLD,
    "FoldedDistribution": UNTOLD,
    "GammaGaussianHMM": UNTOLD,
    "GaussianHMM": UNTOLD,
    "GaussianMRF": UNTOLD,
    "GaussianScaleMixture": VECTORS,
    "GroupedNormalNormal": "needs a number for group_idx",
    "ImproperUniform": UNTOLD,
    "Independent": UNTOLD,
    "IndependentHMM": UNTOLD,
    "LKJ": "needs a number for dim",
    "LKJCholesky": "needs a number for dim",
    "LKJCorrCholesky": "needs a number for d",
    "LinearHMM": UNTOLD,
    "LogNormalNegativeBinomial": "no density, or no sampler",
    "LogisticNormal": "vectors, not numbers",
    "LowRankMultivariateNormal": VECTORS,
    "MaskedDistribution": UNTOLD,
    "MaskedMixture": UNTOLD,
    "MixtureOfDiagNormals": VECTORS,
    "MixtureOfDiagNormalsSharedCovariance": VECTORS,
    "MixtureSameFamily": UNTOLD,
    "Multinomial": VECTORS,
    "MultivariateNormal": VECTORS,
    "MultivariateStudentT": VECTORS,
    "NanMaskedMultivariateNormal": VECTORS,
    "OMTMultivariateNormal": VECTORS,
    "OneHotCategorical": VECTORS,
    "OneHotCategoricalStraightThrough": VECTORS,
    "OneOneMatching": VECTORS,
    "OneTwoMatching": VECTORS,
    "OrderedLogistic": VECTORS,
    "ProjectedNormal": VECTORS,
    "Rejector": UNTOLD,
    "RelaxedBernoulliStraightThrough": "draws do not follow its density|needs a number for temperature",
    "RelaxedOneHotCategorical": VECTORS,
    "RelaxedOneHotCategoricalStraightThrough": VECTORS,
    "SineBivariateVonMises": "vectors, not numbers",
    "SineSkewed": VECTORS,
    "SoftAsymmetricLaplace": "must also define a custom .expand",
    "SpanningTree": VECTORS,
    "Stable": "integral done by numbers",
    "StableWithLogProb": "integral done by numbers",
    "TorchDistribution": UNTOLD,
    "TransformedDistribution": UNTOLD,
    "TruncatedPolyaGamma": UNTOLD,
    "Uniform": UNTOLD,
    "Unit": "vectors, not numbers",
    "VonMises3D": VECTORS,
    "Wishart": UNTOLD,
    "ZeroInflatedDistribution": "made from a distribution|needs a number for base_dist",
}
"""Families that are no likelihoods, and what is said of them."""

NAMES = [
    name
    for name, family in vars(dist).items()
    if inspect.isclass(family) and issubclass(family, Distribution)
]


def test_every_family_works_or_is_refused_for_a_reason():
    assert set(NAMES) == set(FAMILIES) | set(REFUSED) | {"Categorical"}
    assert len(FAMILIES) >= 38
    for name in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name]):
            build(likelihood=getattr(dist, name))


def test_three_spellings_mean_the_same():
    assert type(pv.likelihoods.as_likelihood(dist.StudentT)) is pv.likelihoods.StudentT
    assert type(pv.likelihoods.as_likelihood(torch.distributions.StudentT)) is pv.likelihoods.StudentT
    assert pv.likelihoods.of(dist.Normal) is pv.likelihoods.Normal
    assert pv.likelihoods.of(dist.Categorical) is pv.likelihoods.Categorical
    assert pv.guides.of(dist.Normal) is pv.guides.Normal
    described = {"class_path": "pyro_vae.likelihoods.StudentT", "init_args": {"df": 4.0, "scale": "shared"}}
    built = config.build(pv.VAE, {"likelihood": described}, ["event_shape"])["likelihood"]
    assert repr(built) == repr(pv.likelihoods.StudentT(df=4.0, scale="shared"))
    for name in ("Normal", "StudentT", "Bernoulli", "TruncatedNormal"):
        assert name in dir(pv.likelihoods)
    with pytest.raises(AttributeError, match="has no Delta"):
        _ = pv.likelihoods.Delta
    with pytest.raises(AttributeError, match="has no attribute 'Studentt'"):
        _ = pv.likelihoods.Studentt


def test_what_a_family_cannot_be_made_with_is_refused():
    for family, sources, message in [
        ("StudentT", {"sd": 1.0}, "no parameter 'sd'; it has df, loc, scale"),
        ("StudentT", {"df": -1.0}, "does not satisfy"),
        ("StudentT", {"df": "learned"}, "one of decoder, shared, per_pixel"),
        ("Binomial", {}, "needs a number for total_count"),
        ("Binomial", {"total_count": "shared"}, "needs a number for total_count"),
        ("Binomial", {"total_count": True}, "needs a number for total_count"),
        ("Pareto", {}, r"moves with its parameter scale.*Pareto\(scale=...\)"),
        ("GeneralizedPareto", {"loc": 0.0}, "moves with its parameter"),
        ("Exponential", {"rate": "shared"}, "leaves nothing to the decoder"),
    ]:
        with pytest.raises(ValueError, match=message):
            getattr(pv.likelihoods, family)(**sources)
    for levels in (1, 0):
        with pytest.raises(ValueError, match="2 levels or more"):
            pv.likelihoods.Categorical(levels)


class Bell(dist.TorchDistribution):
    """A family of one's own: p(x) = N(x; loc, 1)."""

    arg_constraints = {"loc": dist.constraints.real}  # noqa: RUF012
    support = dist.constraints.real
    has_rsample = True

    def __init__(self, loc, validate_args=None):
        self.loc = loc
        super().__init__(loc.shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        return Bell(self.loc.expand(batch_shape))

    def rsample(self, sample_shape=()):
        return self.loc + torch.randn(self._extended_shape(sample_shape))

    def log_prob(self, value):
        return dist.Normal(self.loc, 1.0).log_prob(value)


def test_family_of_ones_own_in_python_and_configuration():
    for kind in ("likelihood", "guide"):
        vae = build(**{kind: Bell})
        described = config.describe(vae.parts[kind])
        assert described["class_path"] == f"{Bell.__module__}.Bell"
        again = config.build(pv.VAE, {kind: described}, ["event_shape"])[kind]
        assert again.family is Bell
        by_path = config.build(pv.VAE, {kind: f"{Bell.__module__}.Bell"}, ["event_shape"])[kind]
        assert by_path.family is Bell
    with pytest.raises(config.ConfigError, match=r"cannot be the likelihood \(.*Belle"):
        config.build(pv.VAE, {"likelihood": f"{Bell.__module__}.Belle"}, ["event_shape"])


def test_family_of_ones_own_is_pickled_and_copied(monkeypatch):
    x = torch.rand(4, 2, 3).round()
    for kind, module in (("likelihood", pv.likelihoods), ("guide", pv.guides)):
        vae, made = build(**{kind: Bell}), module.of(Bell)
        text = pickle.dumps((vae, made, made()))
        copies = [copy.deepcopy((vae, made, made())), pickle.loads(text)]
        assert all(again[1] is made for again in copies)
        monkeypatch.delattr(module, variant_name(Bell))  # as in another process
        for twin, again, part in [*copies, pickle.loads(text)]:
            assert again.family is type(part).family is Bell
            z = vae.prior().sample((4,))
            assert torch.equal(twin.encode(x).log_prob(z), vae.encode(x).log_prob(z))
            assert torch.equal(twin.decode(z).log_prob(x), vae.decode(z).log_prob(x))
    assert type(pickle.loads(pickle.dumps(Softer()))) is Softer


class Softer(pv.likelihoods.Laplace):
    """A class of one's own over one that was made."""


UNIVARIATE = {
    name: likelihood
    for name, likelihood in LIKELIHOODS.items()
    if name not in ("PseudoBernoulli", "LowRankNormal", "LowRankNormal-shared", "DiscretizedLogisticMixture")
}


def grid(constraint) -> tuple[torch.Tensor, torch.Tensor]:
    """Points over a support, and the length (or the count) that each stands for."""
    low, high = (torch.as_tensor(end).flatten()[0].item() for end in bounds(constraint))
    if constraint.is_discrete:
        k = torch.arange(0.0, min(high, 3000.0) + 1)
        return k, torch.ones_like(k)
    if math.isinf(low):
        u = torch.linspace(-40, 40, 40_001)
        x, slope = u.sinh(), u.cosh()
    elif math.isinf(high):
        u = torch.linspace(-60, 60, 40_001)
        x, slope = low + u.exp(), u.exp()
    else:
        u = torch.linspace(-36, 36, 40_001)
        x, slope = low + (high - low) * u.sigmoid(), (high - low) * u.sigmoid() * (-u).sigmoid()
    return x, slope * (u[1] - u[0])


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", UNIVARIATE)
def test_density_is_normalised_and_fits_the_samples(name):
    """Each pixel's density integrates or sums to 1; its distribution function is that of the samples."""
    vae = build(likelihood=UNIVARIATE[name])
    with torch.no_grad():
        p = vae.decode(torch.randn(1, D)).base_dist
        x, size = grid(support(p))
        density = p.log_prob(x.reshape(-1, 1, 1, 1)).exp() * size.reshape(-1, 1, 1, 1)
        density = torch.where(density.isfinite(), density, 0.0)  # 0 times infinity at the ends
        total = density.sum(0)
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-3)
        number = 4000
        samples = p.sample((number,)).flatten(1)
        cdf = density.cumsum(0).flatten(1)
        for pixel, own in zip(samples.T, cdf.T, strict=True):
            empirical = torch.searchsorted(pixel.sort().values.contiguous(), x, right=True) / number
            assert (empirical - own).abs().max().item() < 2.2 / number**0.5  # Kolmogorov and Smirnov
        centre, kind = pv.distributions.centre(p)
        if kind == "mean":
            values = x.reshape(-1, 1, 1, 1)
            mean = torch.where(density > 0, values * density, 0.0).sum(0)
            if name not in ("FisherSnedecor", "InverseGamma", "StudentT", "GeneralizedPareto", "VonMises"):
                torch.testing.assert_close(centre, mean, rtol=1e-2, atol=1e-3)
        elif kind == "median":
            at = torch.searchsorted(x, centre.flatten())
            drawn = name in ("FisherSnedecor", "RelaxedBernoulli")  # which have no quantiles
            assert (cdf.gather(0, at[None]) - 0.5).abs().max().item() < (0.1 if drawn else 0.01)


@pytest.mark.usefixtures("double")
def test_low_rank_normal_is_the_dense_one():
    for name in ("LowRankNormal", "LowRankNormal-shared"):
        vae = build(likelihood=LIKELIHOODS[name])
        with torch.no_grad():
            vae.initialize(pv.data.Split(3 + 2 * torch.randn(20, 2, 3)))
            p = vae.decode(torch.randn(1, D))
            base = p.base
            covariance = base.cov_factor @ base.cov_factor.mT + base.cov_diag.diag_embed()
            dense = dist.MultivariateNormal(base.loc, covariance)
            x = p.sample((200_000,))
            torch.testing.assert_close(p.log_prob(x), dense.log_prob(x.flatten(2)))
            sampled = x.flatten(1).T.cov()
            torch.testing.assert_close(sampled, covariance[0], rtol=0.03, atol=0.03 * covariance.max().item())
            torch.testing.assert_close(p.variance, covariance.diagonal(dim1=-2, dim2=-1).reshape(1, 2, 3))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("event_shape", [(2, 1, 2), (2, 2), (3,)])
def test_mixture_of_logistics_sums_to_one(event_shape):
    """Over all images, with channels that share their component and without."""
    torch.manual_seed(0)
    levels = 4
    likelihood = pv.likelihoods.DiscretizedLogisticMixture(components=3, levels=levels)
    likelihood.setup(event_shape)
    likelihood.offset.copy_(torch.tensor([0.1, 0.5, 0.9]))
    p = likelihood(torch.randn(likelihood.param_shape(event_shape)))
    images = torch.cartesian_prod(*[torch.arange(levels).double()] * math.prod(event_shape))
    probability = p.log_prob(images.reshape(-1, *event_shape)).exp()
    assert probability.sum().item() == pytest.approx(1)
    mean = (probability[:, None] * images).sum(0).reshape(event_shape)
    torch.testing.assert_close(p.mean, mean)
    second = (probability[:, None] * images**2).sum(0).reshape(event_shape)
    torch.testing.assert_close(p.variance, second - mean**2)
    draws = p.sample((100_000,)).flatten(1)
    counts = torch.bincount(
        (draws * levels ** torch.arange(draws.shape[1] - 1, -1, -1)).sum(1).long(), minlength=len(images)
    )
    assert (counts / 100_000 - probability).abs().max().item() < 5 * (0.25 / 100_000) ** 0.5


def test_mixture_of_logistics_shares_its_component_across_channels():
    """Two far components: both channels come from the same one, where independent pixels mix."""
    logits, scale = torch.zeros(2, 1, 1), torch.full((2, 2, 1, 1), 0.01)
    loc = torch.tensor([0.1, 0.9])[:, None, None, None].expand(2, 2, 1, 1)
    p = pv.distributions.DiscretizedLogisticMixture(logits, loc, scale, 256, event_shape=(2, 1, 1))
    x = p.sample((1000,)).flatten(1)
    assert ((x[:, 0] > 128) == (x[:, 1] > 128)).all()


@pytest.mark.usefixtures("double")
def test_discretised_families_are_exact():
    """Differences of the distribution function, edges included, far into the tails."""
    k = torch.arange(256.0)
    for family, cdf in (
        (pv.distributions.DiscretizedLogistic, torch.sigmoid),
        (pv.distributions.DiscretizedNormal, torch.special.ndtr),
    ):
        for loc, scale in [(0.5, 0.1), (0.0, 0.5), (1.2, 0.02), (-0.1, 0.3)]:
            edges = ((k[:-1] + 0.5) / 255 - loc) / scale
            upper = torch.cat([cdf(edges), torch.ones(1)])
            direct = upper - torch.cat([torch.zeros(1), upper[:-1]])
            p = family(torch.tensor(loc), torch.tensor(scale), 256)
            torch.testing.assert_close(p.log_prob(k).exp(), direct, atol=1e-14, rtol=1e-9)
            assert p.log_prob(k).isfinite().all()
            assert p.log_prob(k).exp().sum().item() == pytest.approx(1)
        single = family(torch.tensor(0.3, dtype=torch.float32), torch.tensor(1e-3, dtype=torch.float32), 256)
        assert single.log_prob(k.float()).isfinite().all()


@pytest.mark.usefixtures("double")
def test_truncated_normal_keeps_its_moments_in_the_tails():
    x = torch.linspace(0, 1, 200_001)
    for loc, scale in [(0.5, 0.1), (-0.5, 0.2), (1.7, 0.3), (0.2, 5.0), (-3.0, 0.3)]:
        p = pv.distributions.TruncatedNormal(torch.tensor(loc), torch.tensor(scale))
        density = p.log_prob(x).exp()
        assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=1e-6)
        mean = torch.trapezoid(x * density, x).item()
        assert p.mean.item() == pytest.approx(mean, abs=1e-6)
        variance = torch.trapezoid((x - mean) ** 2 * density, x).item()
        assert p.variance.item() == pytest.approx(variance, rel=1e-3)
        draws = p.sample((100_000,))
        assert draws.mean().item() == pytest.approx(mean, abs=5 * (variance / 100_000) ** 0.5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize(
    "name",
    [
        *("Laplace", "Logistic", "SoftLaplace", "NanMaskedNormal", "Exponential", "Gamma", "HalfNormal"),
        *("Weibull", "InverseGamma", "LogNormal", "GammaPoisson", "NegativeBinomial", "Geometric", "Poisson"),
    ],
)
def test_starts_at_the_best_fit_on_any_scale(name, scale):
    """No worse than a long search by another method from there, whatever the data's unit."""
    likelihood = build(likelihood=LIKELIHOODS[name]).p_x
    counts = likelihood.measure.startswith("counting")
    if counts and scale < 1:
        pytest.skip("counts have no unit")
    x = scale * torch.distributions.Gamma(3.0, 0.1 if counts else 1.0).sample((200, 2, 3))
    x = x.round() if counts else x
    likelihood.initialize(x.mean(0), x.std(0), x)
    shape = likelihood.param_shape((2, 3))

    def log_prob(raw):
        return likelihood(raw.expand(200, *shape)).log_prob(x).mean() / 6

    start = log_prob(torch.zeros(shape)).item()
    raw = torch.zeros(shape, requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=0.02)
    for _ in range(500):
        optimizer.zero_grad()
        (-log_prob(raw)).backward()
        optimizer.step()
    # Its own search is for all pixels together, this one for each.
    best = log_prob(raw.detach()).item()
    assert start > best - 0.05 - 0.002 * abs(best)


@pytest.mark.parametrize("name", ["StudentT", "NegativeBinomial", "GammaPoisson"])
def test_start_stays_where_the_family_has_a_limit(name):
    """Data of the limit, a Normal or a Poisson, do not send the parameters to infinity."""
    likelihood = build(likelihood=LIKELIHOODS[name]).p_x
    limit = dist.Normal(3.0, 2.0) if name == "StudentT" else dist.Poisson(4.0)
    x = limit.sample((200, 2, 3))
    likelihood.initialize(x.mean(0), x.std(0), x)
    start = likelihood(torch.zeros(likelihood.param_shape((2, 3)))).log_prob(x).mean().item() / 6
    assert start == pytest.approx(limit.log_prob(x).mean().item(), abs=0.05)
    for name, unit in likelihood.named_buffers():
        if name.startswith("unit"):
            assert 1e-3 < unit.item() < 1001


def test_tails_of_the_normal_in_single_precision():
    z = torch.tensor([-5e4, -5e3, -40.0, -3.0, -1.0, 0.0, 2.0], requires_grad=True)
    exact = torch.special.log_ndtr(z.double().detach())
    value = pv.distributions._log_ndtr(z)
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-6)
    (slope,) = torch.autograd.grad(value.sum(), z)
    normal = -0.5 * z.detach().double().square() - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(slope.double(), (normal - exact).exp(), rtol=1e-3, atol=0)
    p = pv.distributions.TruncatedNormal(torch.tensor(5.0), torch.tensor(1e-3).requires_grad_())
    assert torch.autograd.grad(p.log_prob(torch.tensor(0.3)), p.scale)[0].isfinite()
    far = pv.distributions.TruncatedNormal(torch.tensor([-10.0, 11.0]), torch.tensor(0.01))
    torch.testing.assert_close(far.sample((1000,)).mean(0), torch.tensor([1e-5, 1 - 1e-5]), rtol=0, atol=5e-6)
    wide = pv.distributions.TruncatedNormal(torch.tensor(0.5), torch.tensor(1e3))
    assert wide.variance.item() == pytest.approx(1 / 12, rel=1e-3)


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


RECOVERED = {name: case for name, case in LIKELIHOODS.items() if type(case).__name__ == name}
del RECOVERED["PseudoBernoulli"]


@pytest.mark.parametrize("name", RECOVERED)
def test_recovers_a_model_of_its_family(name):
    """A linear model of the family, its data, a fit: held-out log p(x) within 0.12 nats of the truth's.

    4 pixels, one latent, 3000 training data; both evidences by quadrature on 1000 held-out data.
    """

    def make():
        nets = {"encoder": pv.nets.mlp(32, 32), "decoder": Linear}
        return pv.VAE((4,), 1, likelihood=RECOVERED[name], **nets)

    torch.manual_seed(0)
    truth = make()
    with torch.no_grad():
        truth.decoder.layer.weight.copy_(0.4 * torch.randn_like(truth.decoder.layer.weight))
        truth.decoder.layer.bias.copy_(1 + 0.3 * torch.randn_like(truth.decoder.layer.bias))
        for buffer_name, unit in truth.p_x.named_buffers():
            # Away from where draws overflow.
            if buffer_name.startswith(("unit_df", "unit_concentration")):
                unit.fill_(2.0)
        x = truth.decode(truth.prior().sample((4000,))).sample().float()
    if pv.distributions.domain(support(truth.decode(torch.zeros(1, 1)))) == "[0, 1]":
        x = x.clamp(1e-6, 1 - 1e-6)  # where float32 rounds to the ends
    train, test = x[:3000], x[3000:]
    vae = make()
    vae.initialize(pv.data.Split(train))
    before = evidence(vae, test)
    optimizer = torch.optim.Adam(vae.parameters())
    loss = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    steps = 800
    with pv.svi.pyro.validation_enabled(False), warnings.catch_warnings():
        svi = SVI(vae.model, vae.guide, optimizer, loss, compile=False, reduction="mean", clip_norm=100.0)
        for step in range(steps):
            pv.svi.set_lr(optimizer, 2e-2 * (1 - step / steps))
            svi.step(train[torch.randint(3000, (256,))])
    best, after = evidence(truth, test), evidence(vae, test)
    gap = (best - after).mean().item()
    assert after.isfinite().all()
    assert gap < 0.12, f"{best.mean():.3f} {before.mean():.3f} {after.mean():.3f}"
    assert after.mean() > before.mean()
