"""Values and gradients of the objectives against closed forms and brute force, in float64."""

import itertools
import math
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from objectives.rows import Rows, X, evidence, normal_kl, posterior, renyi, slopes
from pyro.infer import Trace_ELBO

import pyro_vae as pv
from pyro_vae.objectives import (
    IWAE,
    MMD,
    VIMCO,
    AnalyticKL,
    BetaTC,
    Chi,
    DReG,
    FreeBits,
    Renyi,
    StickingTheLanding,
    Thermodynamic,
    WakeSleep,
)
from pyro_vae.objectives.beta_tc import log_aggregate, total_correlation
from pyro_vae.objectives.importance import importance_weighted_bound
from pyro_vae.objectives.mmd import WIDTHS, discrepancy

pytestmark = pytest.mark.usefixtures("double")


def agree(found, expected, floor=0.0):
    """Means over rows are what they should be, within five standard errors and what else is told."""
    for name, sample in found.items():
        error = sample.std(0) / len(sample) ** 0.5
        distance = (sample.mean(0) - expected[name]).abs()
        assert (distance <= 5 * error + floor + 1e-9).all(), (name, sample.mean(0), expected[name], error)


def minus_elbo(theta, loc, scale):
    return normal_kl(loc, scale, *posterior(X, theta)) - evidence(theta)


@pytest.mark.parametrize(
    "objective",
    [
        AnalyticKL(),
        AnalyticKL(3),
        StickingTheLanding(),
        StickingTheLanding(3),
        Renyi(1.0, 3),
        FreeBits(0.0, "latent"),
        FreeBits(0.0),
        BetaTC(50_000, beta=1.0),
        Thermodynamic(2, num_steps=1),
        MMD(weight=0.0, kl=1.0),
    ],
    ids=pv.registry.write,
)
def test_elbos_have_the_gradient_of_the_elbo(objective):
    rows = Rows(500 if isinstance(objective, BetaTC | MMD) else 50_000)
    expected = slopes(minus_elbo, rows)
    assert min(slope.abs().min() for slope in expected.values()) > 0.05
    agree(rows.gradients(objective), expected)
    value = objective.loss(rows.model, rows.guide, rows.x) / rows.number
    exact = minus_elbo(rows.theta[0], rows.loc[0], rows.log_scale[0].exp()).item()
    assert value == pytest.approx(exact, abs=0.05 if rows.number < 1000 else 0.02)


@pytest.mark.parametrize("objective", [IWAE(4), IWAE(1), Renyi(0.3, 4), Renyi(-1.0, 4), Renyi(0.0, 4)])
def test_bounds_are_those_by_hand(objective):
    """Of the same noise: loss and gradients are those of the formula, to rounding."""
    rows, power = Rows(50), 1 - getattr(objective, "alpha", 0.0)
    torch.manual_seed(1)
    found = rows.gradients(objective)
    torch.manual_seed(1)
    log_w = rows.log_w(objective.num_particles)
    by_hand = -((power * log_w).logsumexp(0) - math.log(len(log_w))).sum() / power
    expected = torch.autograd.grad(by_hand, [rows.theta, rows.loc, rows.log_scale])
    for gradient, wanted in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(gradient, wanted)
    torch.manual_seed(1)
    assert objective.loss(rows.model, rows.guide, rows.x) == pytest.approx(by_hand.item())


def test_doubly_reparameterised_gradients_are_those_of_the_bound():
    """The same mean; and for the model, of the same noise, the same."""
    rows = Rows(100_000)
    torch.manual_seed(1)
    plain = rows.gradients(IWAE(4))
    torch.manual_seed(1)
    double = rows.gradients(DReG(4))
    torch.testing.assert_close(plain["theta"], double["theta"])
    for name in ("loc", "log_scale"):
        difference = plain[name] - double[name]
        error = difference.std(0) / len(difference) ** 0.5
        assert (difference.mean(0).abs() < 5 * error).all()
        assert (double[name].mean(0).abs() > 10 * error).all()
        assert (double[name].var(0) < plain[name].var(0)).all()


MANY = 4000


@pytest.mark.parametrize("alpha", [0.3, 0.7])
def test_many_particles_give_renyis_bound(alpha):
    rows = Rows(50)
    exact = slopes(
        lambda theta, loc, scale: renyi(alpha, loc, scale, *posterior(X, theta)) - evidence(theta), rows
    )
    agree(rows.gradients(Renyi(alpha, MANY)), exact, floor=10 / MANY)


@pytest.mark.parametrize("off", [1e-3, 1e-6, 1e-9, 1e-14])
@pytest.mark.parametrize("sign", [1, -1])
def test_renyis_bound_near_the_elbo(off, sign):
    """In single precision too, where log(K) is rounded to more than is left of the weights."""

    class Weights:
        log_w = (-80 + 3 * torch.randn(5, 100, dtype=torch.float64)).requires_grad_()

    exact = -(Weights.log_w.mean(0) + sign * off * Weights.log_w.var(0, correction=0) / 2)
    for dtype, tolerance in ((torch.float64, 1e-4), (torch.float32, 2e-4)):

        class Rounded:
            log_w = Weights.log_w.detach().to(dtype).requires_grad_()

        found = Renyi(1 - sign * off, 5).per_datum(Rounded)
        torch.testing.assert_close(found.double(), exact, atol=tolerance, rtol=0)
        (slope,) = torch.autograd.grad(found.sum(), Rounded.log_w)
        torch.testing.assert_close(slope, torch.full_like(slope, -0.2), atol=0.01, rtol=0)


@pytest.mark.parametrize("n", [1.5, 2.0, 3.0])
def test_many_particles_give_the_chi_bound(n):
    """The guide's gradient; the model's is that of the evidence."""
    rows = Rows(50)

    def cubo(theta, loc, scale):
        return evidence(theta) + (n - 1) / n * renyi(n, *posterior(X, theta), loc, scale)

    exact = slopes(cubo, rows) | {"theta": slopes(lambda theta, *_: -evidence(theta), rows)["theta"]}
    agree(rows.gradients(Chi(n, MANY)), exact, floor=20 / MANY)
    found = Chi(n, MANY).loss(rows.model, rows.guide, rows.x) / 50
    bound = cubo(rows.theta[0], rows.loc[0], rows.log_scale[0].exp()).item()
    assert found == pytest.approx(bound, abs=0.01)
    assert bound > evidence(rows.theta[0]).item() + 0.02


@pytest.mark.parametrize(("num_steps", "first"), [(1, 0.5), (2, 0.3), (5, 0.03)])
def test_many_particles_give_the_thermodynamic_bound(num_steps, first):
    rows, objective = Rows(50), Thermodynamic(MANY, num_steps, first)

    def bound(theta, loc, scale):
        mean, std = posterior(X, theta)
        total = 0.0
        for beta, following in pairwise(objective.betas):
            precision = (1 - beta) / scale.square() + beta / std.square()
            center = ((1 - beta) * loc / scale.square() + beta * mean / std.square()) / precision
            own = center, precision.rsqrt()
            log_w = evidence(theta) + normal_kl(*own, loc, scale) - normal_kl(*own, mean, std)
            total = total + (following - beta) * log_w
        return -total

    exact = slopes(bound, rows)
    agree(rows.gradients(objective), exact, floor=10 / MANY)
    value = bound(rows.theta[0], rows.loc[0], rows.log_scale[0].exp()).item()
    assert objective.loss(rows.model, rows.guide, rows.x) / 50 == pytest.approx(value, abs=0.005)
    assert len(objective.betas) == num_steps + 1
    assert objective.betas == sorted(objective.betas)


def test_wake_sleep_descends_the_other_divergence():
    rows = Rows(50)

    def other(theta, loc, scale):
        mean, std = posterior(X, theta)
        return normal_kl(mean.detach(), std.detach(), loc, scale) - evidence(theta)

    agree(rows.gradients(WakeSleep(MANY)), slopes(other, rows), floor=10 / MANY)


@pytest.mark.parametrize(
    "objective",
    [StickingTheLanding(), DReG(4), Chi(2.0, 4), IWAE(4), AnalyticKL(), WakeSleep(4)],
    ids=lambda objective: type(objective).__name__,
)
def test_at_the_posterior_some_have_no_noise(objective):
    """The guide's gradient is 0 in each draw, of those that go by the path of the draws alone."""
    rows = Rows(200, off=0.0, wide=1.0)
    found = rows.gradients(objective)
    silent = isinstance(objective, StickingTheLanding | DReG | Chi)
    for name in ("loc", "log_scale"):
        assert (found[name].abs().max().item() < 1e-12) == silent
    sign = -1 if isinstance(objective, Chi) else 1
    if not isinstance(objective, AnalyticKL):
        value = sign * objective.loss(rows.model, rows.guide, rows.x) / 200
        assert value == pytest.approx(-evidence(rows.theta[0]).item(), rel=1e-12)


def rate(make, particles=(4, 16, 64), number=16_000):
    """How the signal-to-noise ratio of the guide's gradient grows: its exponent in K."""
    ratios = []
    for k in particles:
        gradient = Rows(number, off=0.3, wide=1.3).gradients(make(k))["loc"]
        ratios.append((gradient.mean(0).abs() / gradient.std(0)).log().mean())
    steps = torch.tensor(particles).double().log()
    return (torch.stack(ratios).diff().sum() / (steps[-1] - steps[0])).item()


def test_signal_to_noise_of_the_guides_gradient():
    """K^-1/2 of the bound (Rainforth et al., 2018), K^1/2 doubly reparameterised (Tucker et al., 2019)."""
    assert rate(IWAE) == pytest.approx(-0.5, abs=0.15)
    assert rate(DReG) == pytest.approx(0.5, abs=0.15)
    assert rate(StickingTheLanding) == pytest.approx(0.5, abs=0.05)


def test_free_bits_cost_nothing():
    """Of the groups below the threshold the KL has no gradient, and counts as much as the threshold."""
    rows = Rows(1000)
    q = rows.loc[0].detach(), rows.log_scale[0].detach().exp()
    each = torch.distributions.kl_divergence(dist.Normal(*q), dist.Normal(0.0, 1.0))
    low, high = each.sort().values
    between = ((low + high) / 2).item()
    of_x = slopes(
        lambda theta, loc, scale: (
            minus_elbo(theta, loc, scale) - normal_kl(loc, scale, torch.zeros(2), torch.ones(2))
        ),
        rows,
    )
    whole = slopes(minus_elbo, rows)
    free = each < between
    mixed = {name: torch.where(free, of_x[name], whole[name]) for name in whole}
    rows = Rows(50_000)
    agree(rows.gradients(FreeBits(between, "latent")), mixed)
    agree(rows.gradients(FreeBits(low.item() / 2, "latent")), whole)
    agree(rows.gradients(FreeBits(each.sum().item() * 1.1)), of_x)
    agree(rows.gradients(FreeBits(each.sum().item() * 0.9)), whole)
    value = FreeBits(between, "latent").loss(rows.model, rows.guide, rows.x) / rows.number
    elbo = AnalyticKL().loss(rows.model, rows.guide, rows.x) / rows.number
    assert value - elbo == pytest.approx(between - low.item(), abs=0.03)


def test_total_correlation_by_brute_force():
    """Of the whole data at once it is that of the mixture; of batches, q(z) has the right mean."""
    torch.manual_seed(0)
    q = dist.Normal(torch.randn(40, 3), torch.rand(40, 3) + 0.3)
    z = q.sample()
    each = torch.stack([dist.Normal(q.loc[j], q.scale[j]).log_prob(z) for j in range(40)], 1)
    joint = each.sum(-1).logsumexp(1) - math.log(40)
    marginals = each.logsumexp(1) - math.log(40)
    torch.testing.assert_close(total_correlation(q, z, 40), joint - marginals.sum(-1))
    found, naive = torch.zeros(40), torch.zeros(40)
    for _ in range(2000):
        rows = torch.randperm(40)[:8]
        some = each[rows][:, rows].sum(-1)
        found[rows] += log_aggregate(some, 40).exp() / 400
        naive[rows] += log_aggregate(some, 8).exp() / 400  # as if the batch were all
    assert (found / joint.exp()).mean() == pytest.approx(1.0, abs=0.05)
    assert (naive / joint.exp()).mean() > 1.3


def test_discrepancy_by_brute_force():
    torch.manual_seed(0)
    a, b = torch.randn(5, 2) + 1, torch.randn(6, 2)
    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    unit = sum((b[i] - b[j]).square().sum() for i, j in pairs) / 30

    def k(one, other):
        return sum(c * unit / (c * unit + (one - other).square().sum()) for c in WIDTHS)

    by_hand = sum(k(a[i], a[j]) for i in range(5) for j in range(5) if i != j) / 20
    by_hand = by_hand + sum(k(b[i], b[j]) for i, j in pairs) / 30
    by_hand = by_hand - 2 * sum(k(one, other) for one in a for other in b) / 30
    torch.testing.assert_close(discrepancy(a, b), by_hand)
    same = torch.stack([discrepancy(torch.randn(20, 2), torch.randn(20, 2)) for _ in range(400)])
    assert same.mean().abs() < 4 * same.std() / 20
    assert discrepancy(torch.randn(200, 2) + 1, torch.randn(200, 2)) > 0.3


def coin(probs, logits):
    """A model with a discrete latent: x of it is 0 or 1."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Bernoulli(torch.where(z == 1, probs[..., 0], probs[..., 1])), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=logits))

    return model, guide


def test_discrete_latents():
    """Gradients against the sum over both values; the others tell that they need gradients of draws."""
    number = 50
    probs = torch.tensor([0.8, 0.4]).repeat(number, 1).requires_grad_()
    logits = torch.full((number,), 0.2, requires_grad=True)
    model, guide = coin(probs, logits)
    x = torch.ones(number)
    for objective in (WakeSleep(MANY), Thermodynamic(MANY, 4, 0.05)):
        probs.grad = logits.grad = None
        objective.loss_and_grads(model, guide, x)
        own = {"probs": torch.tensor([0.8, 0.4]), "logits": torch.tensor(0.2)}
        own = {name: value.requires_grad_() for name, value in own.items()}
        q = torch.stack([own["logits"].sigmoid(), (-own["logits"]).sigmoid()]).log()
        joint = torch.stack([torch.tensor(0.3).log(), torch.tensor(0.7).log()]) + own["probs"].log()
        if isinstance(objective, WakeSleep):
            loss = -joint.logsumexp(0) - (joint.softmax(0).detach() * q).sum()
        else:
            betas = objective.betas
            loss = 0.0
            for beta, following in pairwise(betas):
                weights = (beta * joint + (1 - beta) * q).softmax(0)
                loss = loss - (following - beta) * (weights * (joint - q)).sum()
        exact = dict(zip(own, torch.autograd.grad(loss, list(own.values())), strict=True))
        agree({"probs": probs.grad, "logits": logits.grad}, exact, floor=10 / MANY)
    for objective in (IWAE(), DReG(), StickingTheLanding(), AnalyticKL(), Chi(), Renyi()):
        with pytest.raises(NotImplementedError, match=r"site 'z' of the guide, a Bernoulli.*WakeSleep\(\)"):
            objective.loss(model, guide, x)


def test_elbos_are_pyros():
    """A plain program: the same loss as Trace_ELBO of the same noise, and of the whole the same mean."""
    rows = Rows(20)
    for objective in (StickingTheLanding(), Renyi(1.0, 1), IWAE(1), Thermodynamic(2, 1)):
        particles = objective.num_particles
        torch.manual_seed(3)
        ours = objective.loss(rows.model, rows.guide, rows.x)
        torch.manual_seed(3)
        pyros = Trace_ELBO(particles, vectorize_particles=True, max_plate_nesting=1)
        assert ours == pytest.approx(pyros.loss(rows.model, rows.guide, rows.x), rel=1e-12)


def test_the_bound_rises_with_particles():
    rows = Rows(2000, off=0.6, wide=1.5)
    losses = [IWAE(k).loss(rows.model, rows.guide, rows.x) / rows.number for k in (1, 4, 32, 256)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == pytest.approx(-evidence(rows.theta[0]).item(), abs=0.01)
    assert importance_weighted_bound(torch.zeros(3, 2)).tolist() == [0.0, 0.0]


def test_vimco_of_discrete_latents():
    """Unbiased: the gradient of the bound summed over all draws, of both model and guide."""
    torch.manual_seed(0)
    k, number, x = 3, 100_000, torch.tensor([0.3, 1.2])
    start = {"p": torch.tensor([0.2, -0.4]), "q": torch.tensor([0.6, -0.9]), "m": torch.tensor([0.5, 1.1])}
    own, other = ({n: v.clone().requires_grad_() for n, v in start.items()} for _ in range(2))

    def model(x):
        with pyro.plate("rows", number, dim=-2), pyro.plate("data", 2, dim=-1):
            z = pyro.sample("z", dist.Bernoulli(logits=own["p"]))
            pyro.sample("x", dist.Normal(own["m"] * z, 0.5), obs=x.expand(number, 2))

    def guide(x):
        with pyro.plate("rows", number, dim=-2), pyro.plate("data", 2, dim=-1):
            pyro.sample("z", dist.Bernoulli(logits=own["q"]))

    bound = torch.zeros(2)
    for draws in itertools.product((0.0, 1.0), repeat=k):
        z = torch.tensor(draws)[:, None].expand(k, 2)
        log_q = dist.Bernoulli(logits=other["q"]).log_prob(z)
        log_p = dist.Bernoulli(logits=other["p"]).log_prob(z) + dist.Normal(other["m"] * z, 0.5).log_prob(x)
        bound = bound + log_q.sum(0).exp() * ((log_p - log_q).logsumexp(0) - math.log(k))
    expected = torch.autograd.grad(bound.sum(), list(other.values()))
    loss = VIMCO(k).loss_and_grads(model, guide, x)
    assert abs(loss.item() / number + bound.sum().item()) < 0.02
    for (name, value), slope in zip(own.items(), expected, strict=True):
        torch.testing.assert_close(-value.grad / number, slope, atol=0.01, rtol=0, msg=name)
