"""One contract, all variants: what every prior, likelihood and guide promises.

A class that appears in ``priors``, ``likelihoods`` or ``guides`` without a case here fails a test, and so
does a family of Pyro's that is neither a case nor refused with a reason (test_families.py).
"""

import copy
import inspect
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
import yaml
from cases import EVENT_SHAPE, GUIDES, LIKELIHOODS, OWN_SUPPORT, PRIORS, D, build
from pyro.infer import Trace_ELBO
from torch import nn

import pyro_vae as pv
from pyro_vae import config

CASES = {"prior": PRIORS, "likelihood": LIKELIHOODS, "guide": GUIDES}


@pytest.fixture(params=[(kind, name) for kind, cases in CASES.items() for name in cases], ids="-".join)
def part(request):
    kind, name = request.param
    return kind, CASES[kind][name]


def draw(vae: pv.VAE, *leading: int) -> tuple[torch.Tensor, torch.Tensor]:
    """z and x of a VAE's own model, with these leading dimensions."""
    with torch.no_grad():
        z = vae.prior().sample(leading)
        return z, vae.decode(z).sample().to(z)


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
        and not name.startswith("Univariate")
        and name not in pv.distributions.families()  # made from Pyro's: test_families.py
    }
    assert variants <= set(module.__all__)
    assert set(module.__all__) <= {type(case).__name__ for case in cases.values()}
    for name in module.__all__:
        assert len(inspect.getdoc(getattr(module, name))) > 40


def test_shapes(part):
    vae = build(**dict([part]))
    for leading in [(), (4,), (5, 4)]:
        z, x = draw(vae, *leading)
        for p, event_shape, value in ((vae.encode(x), (D,), z), (vae.decode(z), EVENT_SHAPE, x)):
            assert p.batch_shape == leading
            assert p.event_shape == event_shape
            own = p.sample()
            assert own.shape == value.shape == leading + event_shape
            assert p.log_prob(own).shape == leading
            centre, name = pv.distributions.centre(p)
            assert centre.shape == leading + event_shape
            assert centre.isfinite().all()
            assert name in ("mean", "median", "mode")
    assert vae.prior().batch_shape == ()
    assert vae.prior().event_shape == (D,)


def test_every_parameter_receives_a_gradient(part):
    vae = build(**dict([part]))
    _, x = draw(vae, 8)
    (-pv.objectives.log_weights(vae, x, 2).mean()).backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_samples_lie_in_the_support_and_have_a_density(part):
    vae = build(**dict([part]))
    z, x = draw(vae, 50)
    for p in (vae.prior(), vae.encode(x), vae.decode(z)):
        value = p.sample()
        assert pv.distributions.support(p).check(value).all()
        assert p.log_prob(value).isfinite().all()
    assert vae.prior().log_prob(vae.encode(x).sample()).isfinite().all()


def test_particles_are_vectorised(part):
    """Pyro's loss over K vectorised particles is the mean of the importance weights, draw for draw."""
    vae = build(**dict([part]))
    _, x = draw(vae, 4)
    # A mixture draws its components in another order when it is expanded.
    k = 5000 if isinstance(part[1], pv.guides.MixtureOfNormals) else 3
    torch.manual_seed(0)
    elbo = Trace_ELBO(num_particles=k, vectorize_particles=True, max_plate_nesting=1)
    loss = elbo.loss(vae.model, vae.guide, x)
    torch.manual_seed(0)
    log_w = pv.objectives.log_weights(vae, x, k).sum(-1)
    tolerance = 1e-4 if k == 3 else 6 * (log_w.std() / k**0.5).item()
    assert loss == pytest.approx(-log_w.mean().item(), rel=1e-4, abs=tolerance)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", PRIORS)
def test_prior_is_normalised_and_fits_its_samples(name):
    """E_q[p / q] = 1 under a wide q on the same support, and E_p[-log p] from two computations."""
    vae = build(prior=PRIORS[name])
    p, support = vae.prior(), vae.p_z.support
    with torch.no_grad():
        q = dist.StudentT(2.0, 0.0, 2.0).expand((D,)).to_event(1)
        if vae.pushed:
            base = dist.StudentT(4.0, 0.0, 1.5).expand((vae.guide_dim,)).to_event(1)
            push = pv.distributions.onto(support).with_cache(1)
            q = dist.TransformedDistribution(base, [push])
        z = q.sample((400_000,))
        w = (p.log_prob(z) - q.log_prob(z)).exp()
        assert w.mean().item() == pytest.approx(1, abs=5 * (w.std() / 400_000**0.5).item())
        entropy = -p.log_prob(p.sample((100_000,)))
        weighted = -torch.where(w > 0, w * p.log_prob(z), 0.0)  # far in a tail log p is -inf
    error = math.hypot(entropy.std() / 100_000**0.5, weighted.std() / 400_000**0.5)
    assert entropy.mean().item() == pytest.approx(weighted.mean().item(), abs=5 * error + 1e-9)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", GUIDES)
def test_guide_is_normalised_and_reparameterised(name):
    """E_q[p / q] = 1 for a narrow p; the pathwise and the score estimator of d/dparams E_q[f] agree."""
    guide, d = copy.deepcopy(GUIDES[name]), 2
    torch.manual_seed(4)
    guide.setup(d)
    params = (0.5 * torch.randn(guide.param_shape(d))).requires_grad_()
    with torch.no_grad():
        draws = guide(params).sample((1000,))
        narrow = dist.Normal(draws.mean(0), 0.3 * draws.std(0)).to_event(1)
        mean = draws.mean(0)
        if name == "Dirichlet":
            narrow = dist.Dirichlet(30 * mean)
        elif name == "Beta":
            narrow = dist.Beta(30 * mean, 30 * (1 - mean)).to_event(1)
        elif name == "Gamma":
            narrow = dist.Gamma(30.0, 30 / mean).to_event(1)
        q = guide(params)
        z = q.rsample((200_000,))
        w = (narrow.log_prob(z) - q.log_prob(z)).exp()
    assert w.mean().item() == pytest.approx(1, abs=5 * (w.std() / 200_000**0.5).item())

    def f(z):
        # Its gradient falls off faster than the draws of heavy tails move.
        return z.tanh().sum(-1) + 0.5 * z.tanh().prod(-1)

    q = guide(params)
    pathwise = torch.autograd.grad(f(q.rsample((200_000,))).mean(), params)[0]
    q = guide(params)
    z = q.rsample((200_000,))
    if guide.invertible:
        z = z.detach()
        score = torch.autograd.grad(((f(z) - f(z).mean()) * q.log_prob(z)).mean(), params)[0]
        torch.testing.assert_close(pathwise, score, atol=0.03, rtol=0)
    else:  # no density but at its own draws: finite differences, under common random numbers
        direction = torch.randn_like(params)

        def mean(step):
            torch.manual_seed(5)
            return f(guide(params + step * direction).rsample((200_000,))).mean()

        difference = (mean(1e-3) - mean(-1e-3)) / 2e-3
        assert (pathwise * direction).sum().item() == pytest.approx(difference.item(), abs=0.02)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", [n for n, guide in GUIDES.items() if guide.invertible])
def test_guide_has_one_density(name):
    """At its own draws, whose way back is remembered, and at the same numbers without that memory."""
    vae = build(guide=GUIDES[name], **({} if name in OWN_SUPPORT else {"prior": PRIORS["LogNormal"]}))
    x = torch.rand(6, *EVENT_SHAPE).round()
    q = vae.encode(x)
    z = q.rsample()
    torch.testing.assert_close(
        vae.encode(x).log_prob(z.detach().clone()), q.log_prob(z), rtol=1e-5, atol=1e-5
    )


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
    vae, other = build(**dict([part])), build(seed=3, **dict([part]))
    z, x = draw(vae, 20)
    vae.initialize(pv.data.Split(x))
    with torch.no_grad():
        for p in vae.parameters():
            p.add_(0.01 * torch.randn_like(p))
    other.load_state_dict(vae.state_dict())
    assert torch.equal(vae.decode(z).log_prob(x), other.decode(z).log_prob(x))
    assert torch.equal(vae.prior().log_prob(z), other.prior().log_prob(z))
    torch.manual_seed(0)
    draws = vae.encode(x).rsample()
    torch.manual_seed(0)
    assert torch.equal(draws, other.encode(x).rsample())


def test_configuration_rebuilds_the_part(part):
    kind, value = part
    described = yaml.safe_load(yaml.safe_dump(config.describe(value)))
    again = config.build(pv.VAE, {kind: described}, ["event_shape"])[kind]
    assert type(again) is type(value)
    assert config.describe(again) == described
    one, other = build(**{kind: value}), build(**{kind: again})
    z, x = draw(one, 4)
    assert torch.equal(one.decode(z).log_prob(x), other.decode(z).log_prob(x))
    assert torch.equal(one.prior().log_prob(z), other.prior().log_prob(z))
    assert repr(one) == repr(other)


def test_repr_and_float64(part):
    vae = build(**dict([part]))
    assert type(part[1]).__name__ in repr(vae)
    z, x = draw(vae, 4)
    single = vae.prior().log_prob(z) + vae.decode(z).log_prob(x)
    assert vae.encode(x).rsample().dtype == torch.float32
    twin = copy.deepcopy(vae).double()
    z, x = z.double(), x.double()
    q = twin.encode(x)
    drawn = q.rsample()
    for value in (drawn, q.log_prob(drawn), twin.prior().sample(), twin.prior().log_prob(z)):
        assert value.dtype == torch.float64
    double = twin.prior().log_prob(z) + twin.decode(z).log_prob(x)
    assert double.dtype == torch.float64
    torch.testing.assert_close(single, double.float(), rtol=1e-3, atol=1e-3)
    assert vae.prior().sample().dtype == torch.float32


def test_parts_follow_the_device(part):
    """Every tensor of every distribution moves with the module; "meta" stands in for a GPU."""
    name = getattr(part[1], "transform", type(part[1]).__name__)
    if name in ("spline", "spline_coupling", "spline_autoregressive", "NanMaskedNormal"):
        pytest.skip("Pyro selects elements by their values, which a tensor without values does not have")
    if name in ("Beta", "Dirichlet") and part[0] == "guide":
        pytest.skip("PyTorch has no draws of these without values")
    vae = build(**dict([part])).to("meta")
    z, x = torch.zeros(4, D, device="meta"), torch.zeros(4, *EVENT_SHAPE, device="meta")
    with pyro.validation_enabled(False):
        q = vae.encode(x)
        drawn = q.rsample()
        assert q.log_prob(drawn).device.type == "meta"
        assert vae.decode(z).log_prob(x).device.type == "meta"
        assert vae.prior().log_prob(z).device.type == "meta"


def test_impossible_priors_are_refused():
    for prior, message in [
        (dist.Normal(torch.zeros(2), 1.0), "latent_dim=3"),
        (dist.Bernoulli(0.5), "cannot follow a prior over"),
        (dist.Categorical(torch.ones(3)).expand((3,)), "cannot follow a prior over"),
    ]:
        with pytest.raises(ValueError, match=message):
            build(prior=prior)
    flow = dist.TransformedDistribution(
        dist.Normal(torch.zeros(D), 1.0), [dist.transforms.affine_autoregressive(D)]
    )
    with pytest.raises(ValueError, match=r"would not be trained; take pv.priors.Flow"):
        build(prior=flow)
    for prior in (dist.Normal, torch.distributions.Laplace(0.0, 1.0)):
        with pytest.raises(TypeError, match=r"dist.Laplace\(0., 1.\)"):
            build(prior=prior)


def test_priors_of_vectors_are_rebuilt():
    for prior in (
        dist.Uniform(torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([1.0, 5.0, 2.0])),
        dist.MultivariateStudentT(torch.tensor(5.0), torch.zeros(3), torch.eye(3)),
        dist.RelaxedBernoulli(torch.tensor(0.5), probs=torch.tensor(0.3)),
        dist.TransformedDistribution(dist.Normal(torch.zeros(3), 1.0), [dist.transforms.ExpTransform()]),
    ):
        described = yaml.safe_load(yaml.safe_dump(config.describe(prior)))
        again = config.build(pv.VAE, {"prior": described}, ["event_shape"])["prior"]
        one, other = build(prior=prior), build(prior=again)
        z = one.prior().sample((4,))
        torch.testing.assert_close(one.prior().log_prob(z), other.prior().log_prob(z))


def test_what_is_no_prior_is_refused():
    for prior in (
        dist.Delta(torch.tensor(0.0)),
        dist.ImproperUniform(dist.constraints.real, (), ()),
        dist.SoftAsymmetricLaplace(0.0, 1.0, 1.0, 0.5),
    ):
        with pytest.raises(ValueError, match="is no prior"):
            build(prior=prior)
    heavy, x = build(prior=dist.GeneralizedPareto(0.0, 1.0, 0.2)), torch.rand(4, *EVENT_SHAPE).round()
    assert pv.objectives.log_weights(heavy, x).isfinite().all()
    assert pv.objectives.log_weights(heavy.double(), x.double()).isfinite().all()


def test_counts_and_names_of_maps_are_checked():
    for make, message in [
        (lambda: pv.priors.VampPrior(2.5), "components=2.5 must be a whole number"),
        (lambda: pv.guides.LowRankNormal(0), "rank=0 must be"),
        (lambda: pv.likelihoods.LowRankNormal("2"), "rank='2' must be"),
        (lambda: pv.likelihoods.Categorical("16"), "levels='16' must be"),
        (lambda: build(prior=pv.priors.Flow("spl")), "transform='spl' is none of 'affine_coupling'"),
        (lambda: build(guide=pv.guides.Flow("iaf")), "transform='iaf' is none of"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(AttributeError, match="did you mean StudentT"):
        _ = pv.likelihoods.StudenT


def test_impossible_pairs_are_refused():
    for prior, guide, message in [
        (dist.Normal(0.0, 1.0), dist.Gamma, "dist.Gamma with dist.Gamma"),
        (dist.Gamma(2.0, 1.0), dist.Beta, "Guides over the reals"),
        (dist.Dirichlet(torch.ones(D)), dist.Gamma, "Dirichlet with dist.Dirichlet"),
        (pv.priors.VampPrior(5), pv.guides.Flow("planar"), "density of q"),
        (pv.priors.Normal(), dist.VonMises, "not reparameterised"),
        (pv.priors.Normal(), dist.Poisson, "not reparameterised"),
        (pv.priors.Normal(), dist.Pareto, "moves with its parameters"),
        (pv.priors.Normal(), dist.RelaxedBernoulli, "cannot come from an encoder"),
    ]:
        with pytest.raises(ValueError, match=message):
            build(prior=prior, guide=guide)
    with pytest.raises(ValueError, match="leaves nothing free"):
        pv.VAE(EVENT_SHAPE, 1, prior=dist.Dirichlet(torch.ones(1)))
    for module in (pv.priors, pv.guides):
        with pytest.raises(ValueError, match="transform='spline'"):
            pv.VAE(EVENT_SHAPE, 1, **{module.__name__[9:-1]: module.Flow("affine_coupling")})
    for wrong in (pv.priors.Normal(), dist.Normal(0.0, 1.0), "Normal"):
        with pytest.raises(TypeError, match="a guide is"):
            build(guide=wrong)
        with pytest.raises(TypeError, match="a likelihood is"):
            build(likelihood=wrong)


@pytest.mark.usefixtures("double")
def test_kl_is_in_closed_form_where_there_is_one():
    """Against importance-free Monte Carlo with many draws."""
    for prior, guide in [
        (pv.priors.Normal(), pv.guides.Normal()),
        (pv.priors.Normal(learned=True), pv.guides.Normal()),
        (dist.Laplace(0.0, 1.0), dist.Laplace),
        (dist.Laplace(0.0, 1.0), pv.guides.Normal()),
        (dist.Gamma(2.0, 1.0), dist.Gamma),
        (dist.Beta(2.0, 3.0), dist.Beta),
        (dist.Dirichlet(torch.ones(D)), dist.Dirichlet),
        (dist.MultivariateNormal(torch.zeros(D), torch.eye(D) + 0.5), pv.guides.FullRankNormal()),
        (dist.MultivariateNormal(torch.zeros(D), torch.eye(D) + 0.5), pv.guides.Normal()),
    ]:
        vae = build(prior=prior, guide=guide)
        q, p = vae.encode(torch.rand(1, *EVENT_SHAPE).round()), vae.prior()
        assert pv.distributions.has_closed_form(q, p)
        z = q.rsample((100_000,))
        kl = pv.objectives.kl_divergence(q, p, z)
        torch.testing.assert_close(kl[0], kl[-1])
        sampled = q.log_prob(z) - p.log_prob(z)
        error = (sampled.std() / 100_000**0.5).item()
        assert kl[0].item() == pytest.approx(sampled.mean().item(), abs=5 * error)
    for prior in (dist.StudentT(4.0), pv.priors.Flow()):
        vae = build(prior=prior)
        assert not pv.distributions.has_closed_form(vae.encode(torch.rand(1, *EVENT_SHAPE)), vae.prior())


class TestNormalLikelihood:
    def test_starts_at_the_statistics(self):
        x = 100 + torch.rand(EVENT_SHAPE) + (20 * torch.rand(EVENT_SHAPE) + 1) * torch.randn(50, *EVENT_SHAPE)
        data, mean, std = pv.data.Split(x), x.mean(0), x.std(0, correction=0)
        unit = std.square().mean().sqrt()
        for scale, expected in (
            ("decoder", unit.expand(EVENT_SHAPE)),
            ("shared", unit.expand(EVENT_SHAPE)),
            ("per_pixel", std),
            (7.0, torch.tensor(7.0).expand(EVENT_SHAPE)),
        ):
            vae = build(likelihood=pv.likelihoods.Normal(scale=scale), decoder=Silent)
            vae.initialize(data)
            p = vae.decode(torch.zeros(1, D)).base_dist
            torch.testing.assert_close(p.loc[0], mean)
            torch.testing.assert_close(p.scale[0], expected, rtol=2e-3, atol=0)

    def test_learned_scales_have_a_floor(self):
        vae = build(likelihood=pv.likelihoods.Normal(scale="shared"))
        x = torch.tensor([-5.0, 5.0])[:, None, None].expand(2, *EVENT_SHAPE)
        vae.initialize(pv.data.Split(x))
        vae.p_x.learned["scale"].data.fill_(-1e4)
        assert vae.decode(torch.zeros(1, D)).base_dist.scale.min().item() == pytest.approx(5e-3)


def test_scales_grow_linearly():
    """softplus, not exp, which a raw value of 20 would take to 5e8 (within a VAE, whose parts are copies)."""
    vae = build(likelihood=pv.likelihoods.Normal(scale="shared"))
    vae.p_x.learned["scale"].data.fill_(20.0)
    assert vae.decode(torch.zeros(1, D)).base_dist.scale.max().item() == pytest.approx(20, rel=1e-3)
    assert vae.q_z(torch.full((1, 2 * D), 20.0)).base_dist.scale.max().item() == pytest.approx(20)


@pytest.mark.parametrize(
    ("scale", "message"), [("sharred", "one of decoder, shared"), (0, "satisfy"), (-1.0, "satisfy")]
)
def test_impossible_sources_are_refused(scale, message):
    with pytest.raises(ValueError, match=message):
        pv.likelihoods.Normal(scale=scale)


def test_a_likelihood_must_leave_something_to_the_decoder():
    class Constant(pv.likelihoods.Univariate):
        family = dist.Normal

    with pytest.raises(ValueError, match="decoder"):
        Constant(loc=0.0, scale="shared")


def test_own_likelihood_starts_at_the_statistics():
    class Laplace(pv.likelihoods.Univariate):
        family = dist.Laplace

    x = 5000 + torch.rand(EVENT_SHAPE) + torch.randn(101, *EVENT_SHAPE)
    vae = build(likelihood=Laplace(loc="decoder", scale="shared"), decoder=Silent)
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


class Silent(nn.Module):
    """A decoder that says nothing: raw output 0, the likelihood's starting values."""

    def __init__(self, in_shape, out_shape):
        super().__init__()
        self.out_shape = out_shape

    def forward(self, z):
        return z.new_zeros(*z.shape[:-1], *self.out_shape)
