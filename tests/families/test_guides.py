"""Guides and priors: normalised, reparameterised, of one density; pairs that fit, and training."""

import copy
import math

import pyro.distributions as dist
import pytest
import torch
from cases import EVENT_SHAPE, GUIDES, OWN_SUPPORT, PRIORS, D, build

import pyro_vae as pv
from pyro_vae.constraints import domain, onto
from pyro_vae.distributions import has_closed_form
from pyro_vae.objectives import log_weights

double = pytest.mark.usefixtures("double")


@double
@pytest.mark.parametrize("name", [n for n in PRIORS if n not in ("Flow-spline", "Flow-spline_coupling")])
def test_prior_is_normalised_and_fits_its_samples(name):
    """E_q[p / q] = 1 under a wide q on the same support, and E_p[-log p] from two computations."""
    vae = build(prior=PRIORS[name])
    number = 100_000
    with torch.no_grad():
        p = vae.prior()
        q = dist.StudentT(2.0, 0.0, 2.0).expand((D,)).to_event(1)
        if vae.q_z.pushed:
            size = D - (name == "Dirichlet")
            base = dist.StudentT(4.0, 0.0, 1.5).expand((size,)).to_event(1)
            q = dist.TransformedDistribution(base, [onto(vae.p_z.support).with_cache(1)])
        z = q.sample((number,))
        w = (p.log_prob(z) - q.log_prob(z)).exp()
        assert w.mean().item() == pytest.approx(1, abs=5 * (w.std() / number**0.5).item())
        assert w.std() / number**0.5 < 0.05
        entropy = -p.log_prob(p.sample((number // 4,)))
        weighted = -torch.where(w > 0, w * p.log_prob(z), 0.0)  # far in a tail log p is -inf
    error = math.hypot(entropy.std() / (number // 4) ** 0.5, weighted.std() / number**0.5)
    assert entropy.mean().item() == pytest.approx(weighted.mean().item(), abs=5 * error + 1e-9)


@double
def test_priors_of_narrow_peaks_are_normalised():
    """Splines, by quadrature; of a coupling, over the second half: what is left is the first by itself."""
    z = torch.linspace(-12, 12, 400_001)
    one = pv.priors.Flow("spline", num_transforms=2)
    one.setup((1,))
    two = pv.priors.Flow("spline_coupling", num_transforms=1, hidden_dims=[8])
    two.setup((2,))
    with torch.no_grad():
        raw = torch.zeros(0)
        assert torch.trapezoid(one(raw).log_prob(z[:, None]).exp(), z).item() == pytest.approx(1, abs=1e-4)
        for first in (-1.0, 0.3, 2.0):
            both = torch.stack([torch.full_like(z, first), z], 1)
            integral = torch.trapezoid(two(raw).log_prob(both).exp(), z).log()
            lower = dist.TransformedDistribution(
                dist.Normal(torch.zeros(1), 1.0), [two.transforms[0].lower_spline]
            )
            exact = lower.log_prob(torch.tensor([first])).item()
            assert integral.item() == pytest.approx(exact, abs=1e-4)


def narrow(name: str, support: str, draws: torch.Tensor):
    """A distribution within the draws of a guide, on its support."""
    mean = draws.mean(0)
    if name == "Dirichlet":
        return dist.Dirichlet(30 * mean)
    if support == "[0, 1]":
        mean = mean.clamp(0.05, 0.95)
        return dist.Beta(30 * mean, 30 * (1 - mean)).to_event(1)
    if support == "[0, inf]":
        middle = draws.median(0).values
        return dist.Gamma(30.0, 30 / middle).to_event(1)
    spread = (draws.quantile(0.84, 0) - draws.quantile(0.16, 0)) / 2
    return dist.Normal(draws.median(0).values, 0.3 * spread).to_event(1)


@double
@pytest.mark.parametrize("name", GUIDES)
def test_guide_is_normalised_and_reparameterised(name):
    """E_q[p / q] = 1 for a narrow p; the pathwise and the score estimator of d/dparams E_q[f] agree."""
    guide, number = copy.deepcopy(GUIDES[name]), 100_000
    torch.manual_seed(4)
    guide.setup((2,))
    params = (0.5 * torch.randn(guide.param_shape())).requires_grad_()
    with torch.no_grad():
        q = guide(params)
        p = narrow(name, domain(guide.support), guide(params).sample((1000,)))
        z = q.rsample((number,))
        w = torch.where(q.log_prob(z) > -600, (p.log_prob(z) - q.log_prob(z)).exp(), 0.0)
    assert w.mean().item() == pytest.approx(1, abs=5 * (w.std() / number**0.5).item())
    assert w.std() / number**0.5 < 0.05

    def f(z):
        # Its gradient falls off faster than the draws of heavy tails move.
        return z.tanh().sum(-1) + 0.5 * z.tanh().prod(-1)

    q = guide(params)
    value = f(q.rsample((number,)))
    pathwise = torch.autograd.grad(value.mean(), params)[0]
    q = guide(params)
    z = q.rsample((number,))
    if guide.invertible:
        z = z.detach()
        score = torch.autograd.grad(((f(z) - f(z).mean()) * q.log_prob(z)).mean(), params)[0]
        torch.testing.assert_close(pathwise, score, atol=0.04, rtol=0)
        assert pathwise.abs().max() > 0.04
    else:  # no density but at its own draws: finite differences, under common random numbers
        direction = torch.randn_like(params)

        def mean(step):
            torch.manual_seed(5)
            return f(guide(params + step * direction).rsample((number,))).mean()

        difference = (mean(1e-3) - mean(-1e-3)) / 2e-3
        assert (pathwise * direction).sum().item() == pytest.approx(difference.item(), abs=0.02)


@double
@pytest.mark.parametrize("name", [n for n, guide in GUIDES.items() if guide.invertible])
def test_guide_has_one_density(name):
    """At its own draws, whose way back is remembered, and at the same numbers without that memory."""
    own = {} if getattr(GUIDES[name], "name", name) in OWN_SUPPORT else {"prior": PRIORS["LogNormal"]}
    vae = build(guide=GUIDES[name], **own)
    x = torch.rand(6, *EVENT_SHAPE).round()
    q = vae.encode(x)
    z = q.rsample()
    again = vae.encode(x).log_prob(z.detach().clone())
    torch.testing.assert_close(again, q.log_prob(z), rtol=1e-5, atol=1e-5)


def test_impossible_priors_are_refused():
    for prior, message in [
        (dist.Normal(torch.zeros(2), 1.0), "latent_dim=3"),
        (dist.Poisson(1.0), "cannot follow a prior over"),
        (dist.Categorical(torch.ones(3)).expand((3,)), "cannot follow a prior over"),
        (dist.Delta(torch.tensor(0.0)), "is no prior"),
        (dist.ImproperUniform(dist.constraints.real, (), ()), "is no prior"),
        (dist.SoftAsymmetricLaplace(0.0, 1.0, 1.0, 0.5), "is no prior"),
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
    heavy, x = build(prior=dist.GeneralizedPareto(0.0, 1.0, 0.2)), torch.rand(4, *EVENT_SHAPE).round()
    assert log_weights(heavy, x).isfinite().all()
    assert log_weights(heavy.double(), x.double()).isfinite().all()


def test_impossible_pairs_are_refused():
    for prior, guide, message in [
        (dist.Normal(0.0, 1.0), dist.Gamma, "dist.Gamma with dist.Gamma"),
        (dist.Gamma(2.0, 1.0), dist.Beta, "Guides over the reals"),
        (dist.Dirichlet(torch.ones(D)), dist.Gamma, "Dirichlet with dist.Dirichlet"),
        (pv.priors.VampPrior(5), pv.guides.Flow("planar"), "density of q"),
        (pv.priors.Normal(), dist.VonMises, "not reparameterised"),
        (pv.priors.Normal(), dist.Cauchy, "no variance"),
    ]:
        with pytest.raises(ValueError, match=message):
            build(prior=prior, guide=guide)
    with pytest.raises(ValueError, match="leaves nothing free"):
        pv.VAE(EVENT_SHAPE, 1, prior=dist.Dirichlet(torch.ones(1)))
    for module in (pv.priors, pv.guides):
        with pytest.raises(ValueError, match="transform='spline'"):
            pv.VAE(EVENT_SHAPE, 1, **{module.__name__[9:-1]: module.Flow("affine_coupling")})
    for wrong in (dist.Normal(0.0, 1.0), "Normal"):
        with pytest.raises(TypeError, match="a guide is"):
            build(guide=wrong)
        with pytest.raises(TypeError, match="a likelihood is"):
            build(likelihood=wrong)
    for model in (pv.ConditionalVAE, pv.HierarchicalVAE):
        with pytest.raises(ValueError, match=r"take pv\.priors\.MixtureOfNormals"):
            model(EVENT_SHAPE, prior=pv.priors.VampPrior(5))


@double
def test_kl_is_in_closed_form_where_there_is_one():
    """Against Monte Carlo with many draws."""
    for prior, guide in [
        (pv.priors.Normal(), pv.guides.Normal()),
        (pv.priors.Normal(learned=True), pv.guides.Normal()),
        (dist.Laplace(0.0, 1.0), dist.Laplace),
        (dist.Laplace(0.0, 1.0), pv.guides.Normal()),
        (dist.Gamma(2.0, 1.0), dist.Gamma),
        (dist.Beta(2.0, 3.0), dist.Beta),
        (dist.Dirichlet(torch.ones(D)), pv.guides.Dirichlet()),
        (dist.MultivariateNormal(torch.zeros(D), torch.eye(D) + 0.5), pv.guides.FullRankNormal()),
        (dist.MultivariateNormal(torch.zeros(D), torch.eye(D) + 0.5), pv.guides.Normal()),
    ]:
        vae = build(prior=prior, guide=guide)
        q, p = vae.encode(torch.rand(1, *EVENT_SHAPE).round()), vae.prior()
        assert has_closed_form(q, p)
        z = q.rsample((50_000,))
        kl = pv.objectives.kl_divergence(q, p, z)
        torch.testing.assert_close(kl[0], kl[-1])
        sampled = q.log_prob(z) - p.log_prob(z)
        error = (sampled.std() / 50_000**0.5).item()
        assert kl[0].item() == pytest.approx(sampled.mean().item(), abs=5 * error)
    for prior in (dist.StudentT(4.0), pv.priors.Flow()):
        vae = build(prior=prior)
        assert not has_closed_form(vae.encode(torch.rand(1, *EVENT_SHAPE)), vae.prior())


def test_vamp_prior_is_the_mean_of_the_guide():
    vae = build(prior=pv.priors.VampPrior(6))
    u = vae.p_z.family.pseudo_inputs
    z = torch.randn(4, D)
    exact = (vae.encode(u).log_prob(z[:, None]).logsumexp(1) - math.log(6)).detach()
    torch.testing.assert_close(vae.prior().log_prob(z).detach(), exact)
    x = torch.rand(50, *EVENT_SHAPE)
    x[torch.rand_like(x) < 0.3] = math.nan
    x = x.round()
    vae.initialize(pv.data.Split(x))
    assert u.isfinite().all()
    assert ((u > -0.2) & (u < 1.2)).all()


LIKE = {
    "Beta": dist.Beta(1.0, 1.0),
    "Chi2": dist.Chi2(2.0),
    "ContinuousBernoulli": dist.Beta(1.0, 1.0),
    "Dirichlet": PRIORS["Dirichlet"],
    "Exponential": dist.Exponential(1.0),
    "Gamma": PRIORS["Gamma"],
    "HalfNormal": dist.HalfNormal(1.0),
    "Kumaraswamy": dist.Beta(1.0, 1.0),
    "LogNormal": dist.LogNormal(0.0, 1.0),
    "Weibull": dist.Exponential(1.0),
}
"""Priors that guides on their own support can be, so that saying nothing costs nothing."""


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", GUIDES)
def test_every_guide_trains_on_digits(digits, name, seed):
    """A few epochs: all finite, and a validation ELBO above log p(x) of a model without latents."""
    guide, n = GUIDES[name], getattr(GUIDES[name], "name", "")
    prior = LIKE.get(n, pv.priors.Normal())
    latent = D if n == "Dirichlet" else 8
    torch.manual_seed(seed)
    nets = {"encoder": pv.nets.mlp(64), "decoder": pv.nets.mlp(64)}
    vae = pv.VAE((1, 8, 8), latent, prior=prior, guide=guide, **nets)
    vae.initialize(digits.train)
    optimizer = torch.optim.Adam(vae.parameters(), lr=3e-3)
    for epoch in range(12):
        digits.train.redraw(epoch)
        for batch in digits.train.batches(64, torch.randperm(len(digits.train))):
            optimizer.zero_grad()
            loss = -log_weights(vae, batch).mean()
            assert loss.isfinite()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(vae.parameters(), 100.0)
            optimizer.step()
    mean = digits.train.moments()[0].clamp(0.01, 0.99).float()
    constant = dist.Bernoulli(mean).to_event(3).log_prob(digits.validation[:]).mean().item()
    found = pv.evaluate.elbo(vae, digits.validation, num_samples=20)
    assert all(p.isfinite().all() for p in vae.parameters())
    # So few steps do not take one over another support further than that: it has not diverged.
    assert found.elbo > constant + (-0.5 if n in LIKE else 1)
