"""One contract, all variants: what every prior, likelihood and guide promises.

A class that appears in ``priors``, ``likelihoods`` or ``guides`` without a case here fails a test.
"""

import copy
import inspect
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
import yaml
from torch import nn

import pyro_vae as pv
from pyro_vae import config

D = 3
EVENT_SHAPE = (2, 3)

PRIORS = {
    "Normal": pv.priors.Normal(),
    "Fixed": pv.priors.Fixed(dist.Normal(1.0, 2.0)),
    "Laplace": dist.Laplace(0.0, 1.0),
    "StudentT": dist.StudentT(4.0),
    "Gumbel": dist.Gumbel(0.0, 1.0),
    "per-latent": dist.Normal(torch.zeros(D), torch.tensor([1.0, 2.0, 3.0])),
    "MultivariateNormal": dist.MultivariateNormal(torch.zeros(D), torch.eye(D) + 0.5),
    "mixture": dist.MixtureSameFamily(
        dist.Categorical(torch.tensor([0.3, 0.7])),
        dist.Normal(torch.tensor([[-2.0, 0.0, 1.0], [1.0, 1.0, 1.0]]), torch.ones(2, D)).to_event(1),
    ),
}
LIKELIHOODS = {
    "Bernoulli": pv.likelihoods.Bernoulli(),
    "PseudoBernoulli": pv.likelihoods.PseudoBernoulli(),
    "Normal": pv.likelihoods.Normal(),
    "Normal-shared": pv.likelihoods.Normal(scale="shared"),
    "Normal-per-pixel": pv.likelihoods.Normal(scale="per_pixel"),
    "Normal-fixed": pv.likelihoods.Normal(scale=0.3),
}
GUIDES = {"Normal": pv.guides.Normal()}


def build(**parts) -> pv.VAE:
    torch.manual_seed(2)
    nets = {"encoder": pv.nets.mlp(8), "decoder": pv.nets.mlp(8)}
    return pv.VAE(EVENT_SHAPE, D, **(nets | parts))


@pytest.fixture(
    params=[("prior", k) for k in PRIORS]
    + [("likelihood", k) for k in LIKELIHOODS]
    + [("guide", k) for k in GUIDES],
    ids=lambda param: "-".join(param),
)
def part(request):
    kind, name = request.param
    return kind, {"prior": PRIORS, "likelihood": LIKELIHOODS, "guide": GUIDES}[kind][name]


@pytest.mark.parametrize(
    ("module", "base", "cases"),
    [
        (pv.priors, pv.priors.Prior, PRIORS),
        (pv.likelihoods, pv.likelihoods.Likelihood, LIKELIHOODS),
        (pv.guides, pv.guides.Guide, GUIDES),
    ],
    ids=["priors", "likelihoods", "guides"],
)
def test_every_variant_is_registered_and_tested(module, base, cases):
    variants = {
        name
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, base)
        and value.__module__ == module.__name__
        and not inspect.isabstract(value)
        and value is not getattr(module, "Univariate", None)
    }
    assert variants == set(module.__all__)
    assert variants <= {type(case).__name__ for case in cases.values()}
    for name in variants:
        assert len(inspect.getdoc(getattr(module, name))) > 40


def test_shapes(part):
    vae = build(**dict([part]))
    for leading in [(), (4,), (5, 4)]:
        x, z = torch.rand(*leading, *EVENT_SHAPE), torch.randn(*leading, D)
        for p, event_shape, value in (
            (vae.encode(x), (D,), z),
            (vae.decode(z), EVENT_SHAPE, x),
        ):
            assert p.batch_shape == leading
            assert p.event_shape == event_shape
            assert p.sample().shape == leading + event_shape
            assert p.log_prob(p.sample()).shape == leading
            assert value.shape == p.shape()
    assert vae.prior().batch_shape == ()
    assert vae.prior().event_shape == (D,)


def test_every_parameter_receives_a_gradient(part):
    vae = build(**dict([part]))
    x = vae.decode(torch.randn(4, D)).sample()
    (-pv.objectives.log_weights(vae, x).mean()).backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_samples_lie_in_the_support_and_have_a_density(part):
    vae = build(**dict([part]))
    x = torch.rand(50, *EVENT_SHAPE)
    for p in (vae.prior(), vae.encode(x), vae.decode(torch.randn(50, D))):
        value = p.sample()
        assert p.support.check(value).all()
        assert p.log_prob(value).isfinite().all()


@pytest.mark.usefixtures("double")
def test_density_is_normalised_and_fits_the_samples():
    """Each pixel's density integrates or sums to 1, and gives the samples' mean and variance."""
    for name, likelihood in LIKELIHOODS.items():
        if name == "PseudoBernoulli":  # which has no density, and its own test
            continue
        vae = build(likelihood=likelihood)
        pixels = vae.decode(torch.randn(1, D)).base_dist
        if pixels.support.is_discrete:
            grid, step = torch.tensor([0.0, 1.0]), 1.0
        else:
            grid = torch.linspace(-80, 80, 160_001)
            step = grid[1] - grid[0]
        density = pixels.log_prob(grid.reshape(-1, 1, 1, 1)).exp()
        total = density.sum(0) * step
        torch.testing.assert_close(total, torch.ones_like(total))
        values = grid.reshape(-1, 1, 1, 1)
        mean = (values * density).sum(0) * step
        variance = (values**2 * density).sum(0) * step - mean**2
        torch.testing.assert_close(mean, pixels.mean)
        torch.testing.assert_close(variance, pixels.variance)
        samples = pixels.sample((40_000,))
        error = (samples.mean(0) - mean) / (variance / 40_000).sqrt()
        assert error.abs().max() < 4.5
        torch.testing.assert_close(samples.var(0), variance, rtol=0.05, atol=0)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", PRIORS)
def test_prior_is_normalised_and_fits_its_samples(name):
    """E_q[p / q] = 1 under a wide q, and p's own E_p[-log p] from two independent computations."""
    p = build(prior=PRIORS[name]).prior()
    q = dist.StudentT(2.0, 0.0, 2.0).expand((D,)).to_event(1)
    z = q.sample((400_000,))
    w = (p.log_prob(z) - q.log_prob(z)).exp()
    assert w.mean().item() == pytest.approx(1, abs=5 * (w.std() / 400_000**0.5).item())
    entropy = -p.log_prob(p.sample((100_000,)))
    weighted = -torch.where(w > 0, w * p.log_prob(z), 0.0)  # far in a tail log p is -inf
    error = math.hypot(entropy.std() / 100_000**0.5, weighted.std() / 400_000**0.5)
    assert entropy.mean().item() == pytest.approx(weighted.mean().item(), abs=5 * error)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", GUIDES)
def test_guide_is_normalised_and_reparameterised(name):
    """E_z~wide[q / wide] = 1; and d/dparams E_q[f] by the pathwise and by the score estimator agree."""
    guide = GUIDES[name]
    params = (0.3 * torch.randn(guide.param_shape(D))).requires_grad_()
    q = guide(params)
    wide = dist.StudentT(3.0, 0.0, 3.0).expand((D,)).to_event(1)
    z = wide.sample((400_000,))
    w = (q.log_prob(z) - wide.log_prob(z)).exp()
    assert w.mean().item() == pytest.approx(1, abs=5 * (w.std() / 400_000**0.5).item())

    def f(z):
        return (z.sin() + 0.3 * z.square()).sum(-1)

    pathwise = torch.autograd.grad(f(guide(params).rsample((400_000,))).mean(), params)[0]
    z = guide(params).sample((400_000,))
    baseline = f(z).mean().detach()
    score = torch.autograd.grad(((f(z) - baseline) * guide(params).log_prob(z)).mean(), params)[0]
    torch.testing.assert_close(pathwise, score, atol=0.03, rtol=0)


def test_pseudo_bernoulli_is_the_formula_and_no_density():
    logits = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    p = pv.distributions.PseudoBernoulli(logits=logits)
    binary = torch.tensor([0.0, 1.0], dtype=torch.float64)[:, None]
    torch.testing.assert_close(p.log_prob(binary), dist.Bernoulli(logits=logits).log_prob(binary))
    x = ((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)[:, None]
    integral = p.log_prob(x).exp().mean(0)
    exact = (logits.exp() - 1) / (logits * (1 + logits.exp()))
    exact[1] = 0.5  # its limit
    torch.testing.assert_close(integral, exact)
    assert (integral <= 0.5 + 1e-12).all()
    with pytest.raises(ValueError, match="support"):
        p.log_prob(torch.tensor(1.5))


def test_state_is_saved_and_loaded(part):
    vae, other = build(**dict([part])), build(**dict([part]))
    with torch.no_grad():
        for p in vae.parameters():
            p.add_(torch.randn_like(p))
    vae.initialize(torch.rand(EVENT_SHAPE), torch.rand(EVENT_SHAPE) + 0.1)
    other.load_state_dict(vae.state_dict())
    z, x = torch.randn(4, D), torch.bernoulli(torch.rand(4, *EVENT_SHAPE))
    assert torch.equal(vae.decode(z).log_prob(x), other.decode(z).log_prob(x))
    assert torch.equal(vae.encode(x).log_prob(z), other.encode(x).log_prob(z))


def test_configuration_rebuilds_the_part(part):
    kind, value = part
    described = yaml.safe_load(yaml.safe_dump(config.describe(value)))
    again = config.build(pv.VAE, {kind: described}, ["event_shape"])[kind]
    assert type(again) is type(value)
    assert config.describe(again) == described
    one, other = build(**{kind: value}), build(**{kind: again})
    z, x = torch.randn(4, D), torch.bernoulli(torch.rand(4, *EVENT_SHAPE))
    assert torch.equal(one.decode(z).log_prob(x), other.decode(z).log_prob(x))
    assert torch.equal(one.prior().log_prob(z), other.prior().log_prob(z))


def test_repr_and_float64(part):
    vae = build(**dict([part]))
    assert repr(part[1])[:6] in repr(vae) or part[1] is PRIORS["Normal"]
    z, x = torch.randn(4, D), torch.bernoulli(torch.rand(4, *EVENT_SHAPE))
    single = pv.objectives.kl_divergence(vae.encode(x), vae.prior(), z) - vae.decode(z).log_prob(x)
    twin = copy.deepcopy(vae).double()
    z, x = z.double(), x.double()
    double = pv.objectives.kl_divergence(twin.encode(x), twin.prior(), z) - twin.decode(z).log_prob(x)
    assert double.dtype == torch.float64
    torch.testing.assert_close(single, double.float(), rtol=1e-4, atol=1e-4)
    assert vae.prior().sample().dtype == torch.float32


def test_parts_follow_the_device(part):
    """Every tensor of every distribution moves with the module; "meta" stands in for a GPU."""
    vae = build(**dict([part])).to("meta")
    z, x = torch.zeros(4, D, device="meta"), torch.zeros(4, *EVENT_SHAPE, device="meta")
    with pyro.validation_enabled(False):
        assert vae.encode(x).log_prob(z).device.type == "meta"
        assert vae.decode(z).log_prob(x).device.type == "meta"
        assert vae.prior().log_prob(z).device.type == "meta"


def test_impossible_priors_are_refused():
    for prior, message in [
        (dist.Gamma(2.0, 1.0), "support"),
        (dist.Normal(torch.zeros(2), 1.0), "latent_dim=3"),
        (dist.Bernoulli(0.5), "support"),
    ]:
        with pytest.raises(ValueError, match=message):
            build(prior=prior)
    flow = dist.TransformedDistribution(
        dist.Normal(torch.zeros(D), 1.0), [dist.transforms.affine_autoregressive(D)]
    )
    with pytest.raises(ValueError, match="would not be trained"):
        build(prior=flow)
    for prior in (dist.Normal, torch.distributions.Laplace(0.0, 1.0)):
        with pytest.raises(TypeError, match=r"dist.Laplace\(0., 1.\)"):
            build(prior=prior)


class TestNormalLikelihood:
    def test_starts_at_the_statistics(self):
        mean, std = 100 + torch.rand(EVENT_SHAPE), 20 * torch.rand(EVENT_SHAPE) + 1
        unit = std.square().mean().sqrt()
        for scale, expected in (
            ("decoder", unit.expand(EVENT_SHAPE)),
            ("shared", unit.expand(EVENT_SHAPE)),
            ("per_pixel", std),
            (7.0, torch.tensor(7.0).expand(EVENT_SHAPE)),
        ):
            vae = build(likelihood=pv.likelihoods.Normal(scale), decoder=Silent)
            vae.initialize(mean, std)
            p = vae.decode(torch.zeros(1, D)).base_dist
            torch.testing.assert_close(p.loc[0], mean)
            torch.testing.assert_close(p.scale[0], expected, rtol=2e-3, atol=0)

    def test_learned_scales_have_a_floor(self):
        vae = build(likelihood=pv.likelihoods.Normal("shared"))
        vae.initialize(torch.zeros(EVENT_SHAPE), torch.full(EVENT_SHAPE, 5.0))
        vae.p_x.learned["scale"].data.fill_(-1e4)
        assert vae.decode(torch.zeros(1, D)).base_dist.scale.min().item() == pytest.approx(5e-3)


def test_scales_grow_linearly():
    """softplus, not exp, which a raw value of 20 would take to 5e8 (within a VAE, whose parts are copies)."""
    vae = build(likelihood=pv.likelihoods.Normal("shared"))
    vae.p_x.learned["scale"].data.fill_(20.0)
    assert vae.decode(torch.zeros(1, D)).base_dist.scale.max().item() == pytest.approx(20, rel=1e-3)
    assert vae.q_z(torch.full((1, 2 * D), 20.0)).base_dist.scale.max().item() == pytest.approx(20)


@pytest.mark.parametrize(
    ("scale", "message"), [("sharred", "one of decoder, shared"), (0, "satisfy"), (-1.0, "satisfy")]
)
def test_impossible_sources_are_refused(scale, message):
    with pytest.raises(ValueError, match=message):
        pv.likelihoods.Normal(scale)


def test_a_likelihood_must_leave_something_to_the_decoder():
    class Constant(pv.likelihoods.Univariate):
        family = dist.Normal

    with pytest.raises(ValueError, match="decoder"):
        Constant(loc=0.0, scale="shared")


def test_own_likelihood_starts_at_the_statistics():
    class Laplace(pv.likelihoods.Univariate):
        family = dist.Laplace

    mean, std = 5000 + torch.rand(EVENT_SHAPE), torch.rand(EVENT_SHAPE) + 1
    vae = build(likelihood=Laplace(loc="decoder", scale="shared"), decoder=Silent)
    vae.initialize(mean, std)
    torch.testing.assert_close(vae.decode(torch.zeros(1, D)).mean[0], mean)


def test_bernoulli_starts_at_the_mean():
    mean = torch.tensor([[0.0, 0.2, 0.5], [0.7, 1.0, 0.3]])
    vae = build(decoder=Silent)
    vae.initialize(mean, torch.ones(EVENT_SHAPE))
    torch.testing.assert_close(vae.decode(torch.zeros(1, D)).mean[0], mean.clamp(0.01, 0.99))


class Silent(nn.Module):
    """A decoder that says nothing: raw output 0, the likelihood's starting values."""

    def __init__(self, in_shape, out_shape):
        super().__init__()
        self.out_shape = out_shape

    def forward(self, z):
        return z.new_zeros(*z.shape[:-1], *self.out_shape)
