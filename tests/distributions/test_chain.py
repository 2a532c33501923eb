"""Chains: densities and draws against the loop, and against the Normal of all steps together."""

import pyro.distributions as dist
import pytest
import torch

from pyro_vae.constraints import domain, support
from pyro_vae.distributions import Chain, Continued, Driven, MarkovNormal, TurningNormal, recurrence
from pyro_vae.distributions.chain import log_steps, turning


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def transition(z):
    return dist.Normal(torch.tanh(z) + 0.3 * z.flip(-1), 0.5 + z.square().mean(-1, keepdim=True)).to_event(1)


def chain(length=4):
    return Chain(dist.Normal(torch.tensor([0.5, -0.5]), 0.8).to_event(1), transition, length)


def markov(*leading, length=5, shape=(2,)):
    parts = [torch.randn(*leading, length, *shape) for _ in range(3)]
    return MarkovNormal(parts[0].tanh(), parts[1], parts[2].exp(), 1 + len(shape))


@pytest.mark.parametrize("length", [1, 2, 3, 8, 13])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_recurrence_is_the_loop(length, dim):
    shape = [3, 2, 4]
    shape[dim] = length
    weight, value = (torch.randn(shape, requires_grad=True) for _ in range(2))
    z = [torch.zeros_like(value.select(dim, 0))]
    for w, v in zip(weight.unbind(dim), value.unbind(dim), strict=True):
        z.append(w * z[-1] + v)
    torch.testing.assert_close(recurrence(weight, value, dim), torch.stack(z[1:], dim))
    assert torch.autograd.gradcheck(lambda w, v: recurrence(w, v, dim), (weight, value))


def test_recurrence_broadcasts():
    weight, value = torch.randn(5, 2), torch.randn(3, 5, 2)
    whole = recurrence(weight.expand(3, 5, 2), value, -2)
    assert torch.equal(recurrence(weight, value, -2), whole)
    assert recurrence(weight, value.to("meta"), -2).shape == (3, 5, 2)


def test_density_of_a_chain_is_the_product_of_its_steps():
    p, z = chain(), torch.randn(7, 3, 4, 2)
    by_hand = p.initial.log_prob(z[..., 0, :])
    for t in range(1, 4):
        by_hand = by_hand + transition(z[..., t - 1, :]).log_prob(z[..., t, :])
    torch.testing.assert_close(p.log_prob(z), by_hand)
    torch.testing.assert_close(p.expand((7, 3)).log_prob(z), by_hand)
    assert p.log_steps(z).shape == (7, 3, 4)
    assert domain(support(p)) == "the reals"
    assert Chain(p.initial, transition, 1).log_prob(z[..., :1, :]).shape == (7, 3)


def test_draws_of_a_chain_follow_its_transition():
    p = chain()
    z = p.sample((20_000,))
    assert z.shape == (20_000, 4, 2)
    assert p.expand((3,)).rsample((5,)).shape == (5, 3, 4, 2)
    torch.manual_seed(0)
    one = p.rsample((6,))
    torch.manual_seed(0)
    assert torch.equal(one, p.sample((6,)))
    noise = (z[:, 1:] - transition(z[:, :-1]).mean) / transition(
        z[:, :-1]
    ).stddev  # of which each is standard
    first = (z[:, :1] - p.initial.mean) / p.initial.stddev
    noise = torch.cat([first, noise], 1).flatten(1)
    error = 5 / 20_000**0.5
    assert noise.mean(0).abs().max() < error
    torch.testing.assert_close(noise.T.cov(), torch.eye(8), atol=1.5 * error, rtol=0)


def test_a_driven_chain():
    """Its density is the product of its steps, from z_0 on, and its draws follow them."""

    def driven(z, h):
        return dist.Normal(torch.tanh(z + h[..., :2]), 0.5 + h[..., 2:].square()).to_event(1)

    start, h = torch.tensor([2.0, -1.0]), torch.randn(3, 4, 3)
    q, z = Driven(start, driven, h), torch.randn(7, 3, 4, 2)
    assert (q.batch_shape, q.event_shape, q.has_rsample) == ((3,), (4, 2), True)
    assert domain(support(q)) == "the reals"
    before = torch.cat([start.expand(7, 3, 1, 2), z[:, :, :-1]], 2)
    by_hand = sum(driven(before[:, :, t], h[:, t]).log_prob(z[:, :, t]) for t in range(4))
    torch.testing.assert_close(q.log_prob(z), by_hand)
    torch.testing.assert_close(q.expand((7, 3)).log_prob(z), by_hand)
    torch.testing.assert_close(log_steps(q, z).sum(-1), by_hand)
    z = q.rsample((20_000,))
    before = torch.cat([start.expand(20_000, 3, 1, 2), z[:, :, :-1]], 2)
    noise = (z - driven(before, h).mean) / driven(before, h).stddev
    error = 5 / 20_000**0.5
    assert noise.mean(0).abs().max() < error
    torch.testing.assert_close(noise.flatten(1).T.cov(), torch.eye(24), atol=1.6 * error, rtol=0)
    torch.manual_seed(0)
    one = q.rsample((6,))
    torch.manual_seed(0)
    assert torch.equal(one, q.sample((6,)))


def test_a_linear_chain_is_a_normal():
    """z = (I - W)^-1 (loc + scale e), with W just below the diagonal."""
    q = markov(length=5, shape=(1,))
    before = torch.diag(q.weight[1:, 0], -1)
    inverse = torch.linalg.inv(torch.eye(5) - before)
    factor = inverse @ q.scale[:, 0].diag()
    whole = torch.distributions.MultivariateNormal(inverse @ q.loc[:, 0], factor @ factor.T)
    z = torch.randn(6, 5)
    torch.testing.assert_close(q.log_prob(z[..., None]), whole.log_prob(z))
    torch.testing.assert_close(q.mean[:, 0], whole.mean)
    torch.testing.assert_close(q.variance[:, 0], whole.variance)
    torch.manual_seed(0)
    noise = torch.randn(3, 5, 1)
    torch.manual_seed(0)
    torch.testing.assert_close(q.rsample((3,))[..., 0], whole.mean + noise[..., 0] @ factor.T)


def test_shapes_of_a_linear_chain():
    for shape in [(), (2,), (2, 3)]:
        q = markov(4, shape=shape)
        assert (q.batch_shape, q.event_shape) == ((4,), (5, *shape))
        z = q.expand((6, 4)).rsample((2,))
        assert z.shape == (2, 6, 4, 5, *shape)
        assert q.log_prob(z).shape == (2, 6, 4)
        torch.testing.assert_close(q.log_steps(z).sum(-1), q.log_prob(z))
        torch.testing.assert_close(q.mean.shape, q.variance.shape)


@pytest.mark.parametrize("length", [1, 2, 3, 8, 13])
def test_turning_is_the_loop(length):
    weight, value = torch.randn(length, 3, 2, 2) / 2, torch.randn(length, 3, 2, 4)
    z = [torch.zeros(3, 2, 4)]
    for w, v in zip(weight, value, strict=True):
        z.append(w @ z[-1] + v)
    torch.testing.assert_close(turning(weight, value), torch.stack(z[1:]))
    assert torch.autograd.gradcheck(turning, (weight.requires_grad_(), value.requires_grad_()))
    assert turning(weight.detach().to("meta"), value.detach().to("meta")).shape == value.shape


def test_a_chain_of_vectors_is_a_normal():
    """z = (I - W)^-1 (loc + scale e), with the W_t just below the diagonal."""
    q = TurningNormal(torch.randn(4, 2, 2) / 2, torch.randn(4, 2), torch.rand(4, 2) + 0.1)
    before = torch.zeros(8, 8)
    for t in range(1, 4):
        before[2 * t : 2 * t + 2, 2 * t - 2 : 2 * t] = q.weight[t]
    inverse = torch.linalg.inv(torch.eye(8) - before)
    factor = inverse @ q.scale.flatten().diag()
    whole = torch.distributions.MultivariateNormal(inverse @ q.loc.flatten(), factor @ factor.T)
    z = torch.randn(6, 4, 2)
    torch.testing.assert_close(q.log_prob(z), whole.log_prob(z.flatten(1)))
    torch.testing.assert_close(q.mean.flatten(), whole.mean)
    torch.testing.assert_close(q.variance.flatten(), whole.variance)
    torch.manual_seed(0)
    noise = torch.randn(3, 4, 2)
    torch.manual_seed(0)
    torch.testing.assert_close(q.rsample((3,)).flatten(1), whole.mean + noise.flatten(1) @ factor.T)


@pytest.mark.parametrize("shared", [(), (4,), (1,), (6, 1), (6, 4)])
def test_shapes_of_a_chain_of_vectors(shared):
    """Weights are of fewer dimensions than what they turn, or of size 1 there."""
    weight, loc = torch.randn(*shared, 5, 3, 3) / 3, torch.randn(6, 4, 5, 3)
    q = TurningNormal(weight, loc, torch.ones(3))
    assert (q.batch_shape, q.event_shape) == ((6, 4), (5, 3))
    each = TurningNormal(weight.expand(6, 4, 5, 3, 3), loc, torch.ones(6, 4, 5, 3))
    z = torch.randn(2, 7, 6, 4, 5, 3)
    torch.testing.assert_close(q.log_prob(z), each.log_prob(z))
    torch.testing.assert_close(q.log_prob(z[0, 0, 0, 0]), each.log_prob(z[0, 0, 0, 0].expand(6, 4, 5, 3)))
    torch.testing.assert_close(q.mean, each.mean)
    torch.testing.assert_close(q.variance.expand(6, 4, 5, 3), each.variance)
    torch.manual_seed(0)
    drawn = q.expand((8, 6, 4)).rsample((2,))
    torch.manual_seed(0)
    torch.testing.assert_close(drawn, each.rsample((2, 8)))
    assert drawn.shape == (2, 8, 6, 4, 5, 3)


@pytest.mark.parametrize("first", [markov(3, length=4), dist.Normal(torch.zeros(3, 4, 2), 2.0).to_event(2)])
def test_a_chain_goes_on_beyond_what_is_observed(first):
    first, then = first.expand((3,)), chain()
    within = torch.arange(4) < torch.tensor([4, 2, 0])[:, None]
    q = Continued(first, then, within)
    z = torch.randn(5, 3, 4, 2)
    expected = torch.where(within, log_steps(first, z), then.log_steps(z)).sum(-1)
    torch.testing.assert_close(q.log_prob(z), expected)
    torch.testing.assert_close(q.log_prob(z)[:, 0], first.log_prob(z)[:, 0])
    torch.testing.assert_close(q.log_prob(z)[:, 2], then.log_prob(z)[:, 2])
    torch.manual_seed(0)
    drawn = q.rsample((20_000,))
    torch.manual_seed(0)
    left = Continued(first, then, within, follows=False).rsample((20_000,))
    assert torch.equal(drawn[:, within], left[:, within])  # of the first, draw for draw
    before, after = drawn[:, 1, 1:3], drawn[:, 1, 2:4]
    noise = (after - transition(before).mean) / transition(before).stddev
    assert noise.mean(0).abs().max() < 5 / 20_000**0.5
    wholly = (drawn[:, 2, 0] - then.initial.mean) / then.initial.stddev
    assert wholly.mean(0).abs().max() < 5 / 20_000**0.5
    assert wholly.std(0).sub(1).abs().max() < 5 / 40_000**0.5
    assert q.expand((7, 3)).rsample().shape == (7, 3, 4, 2)


def test_what_has_no_steps():
    whole = dist.MultivariateNormal(torch.zeros(4), torch.eye(4))
    assert log_steps(whole, torch.zeros(4)) is None
