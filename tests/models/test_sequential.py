"""Sequences: a linear and Normal state space model against the Kalman filter, whatever is observed of it."""

import importlib
import math
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal
from torch.fx.experimental.proxy_tensor import make_fx

import pyro_vae as pv
from pyro_vae.checkpoint import load_state
from pyro_vae.distributions.chain import turning
from pyro_vae.objectives import log_weights
from pyro_vae.objectives.importance import defensive
from pyro_vae.seen import observing

T, D, NOISE, STEP = 5, 2, 0.6, 0.5


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Backwards(nn.Module):
    """The posterior of a linear chain of one state, read from the end: p(x_{t:T} | z_t) is Normal in z_t."""

    slope, seen, offset = 0.9, torch.tensor([1.0, -0.7]).double(), torch.tensor([0.3, 0.1]).double()

    def __init__(self, in_shape, out_shape):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, pair):
        x, known = pair.unbind(1)
        seen = known * self.seen / NOISE**2
        own, linear = (seen * self.seen).sum(-1), (seen * (x - self.offset)).sum(-1)
        precision, pull, found = 0.0, 0.0, []
        for t in range(T - 1, -1, -1):
            precision, pull = precision + own[:, t], pull + linear[:, t]
            prior = 1 / STEP**2 if t else 1.0
            total = prior + precision
            found.append([self.slope * prior / total, pull / total, total.rsqrt()])
            shrink = 1 + STEP**2 * precision
            precision, pull = self.slope**2 * precision / shrink, self.slope * pull / shrink
        weight, loc, scale = (torch.stack(part, 1)[..., None] for part in zip(*found[::-1], strict=True))
        raw = [weight.clamp(max=1 - 1e-12).atanh(), loc, scale.expm1().log()]
        return torch.cat(raw, 1) + self.nothing


class Read(nn.Module):
    """The same of two states, by matrices: slope, offset and factor of z_t given z_{t-1} and x."""

    slope = torch.tensor([[0.8, 0.4], [-0.3, 0.7]]).double()
    seen = torch.tensor([[1.0, 0.5], [-0.7, 0.4]]).double()

    def __init__(self, in_shape, out_shape):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, pair):
        x, known = pair.unbind(1)
        precision, pull, found = torch.zeros(2, 2), torch.zeros(len(x), 2), []
        for t in range(T - 1, -1, -1):
            seen = known[:, t, :, None] * self.seen / NOISE**2
            precision = precision + seen.mT @ self.seen
            pull = pull + (seen * (x[:, t] - Backwards.offset)[..., None]).sum(1)
            prior = torch.eye(2) / (STEP**2 if t else 1.0)
            cov = torch.linalg.inv(prior + precision)
            factor = torch.linalg.cholesky(cov)
            loc = (cov @ pull[..., None])[..., 0]
            diagonal = factor.diagonal(0, 1, 2).expm1().log()
            found.append(
                torch.cat([(cov @ prior @ self.slope).flatten(1), loc, diagonal, factor[:, 1:, 0]], 1)
            )
            turned = self.slope.T @ prior
            precision, pull = turned @ (torch.eye(2) - cov @ prior) @ self.slope, loc @ turned.T
        return torch.stack(found[::-1], 1) + self.nothing


class Combined(nn.Module):
    """What ``Read`` tells, as the parameters of a full-rank Normal."""

    def __init__(self, in_shapes, out_shape):
        super().__init__()
        assert (in_shapes, out_shape) == (((2,), (9,)), (5,))

    def forward(self, z, h):
        slope, loc, rest = h.split([4, 2, 3], -1)
        return torch.cat([loc + (slope.unflatten(-1, (2, 2)) @ z[..., None])[..., 0], rest], -1)


STRUCTURED = {"guide": pv.guides.Structured(pv.guides.FullRankNormal(), Combined, features=9)}
DIAGONAL = {"guide": pv.guides.Markov("diagonal")}
EXACT = {"one state": (1, Backwards, DIAGONAL), "two states, structured": (2, Read, STRUCTURED)}


@pytest.fixture(params=EXACT)
def exact(request):
    """A system whose guide is the posterior."""
    states, encoder, parts = EXACT[request.param]
    return linear(states, encoder, **parts)


def linear(states, encoder, steps=T, **parts):
    """A program whose model is z_t = A z_{t-1} + noise, x_t = C z_t + d + noise; and A, C, d."""
    torch.manual_seed(4)
    plain = {"transition": pv.nets.mlp(), "decoder": pv.nets.mlp()}
    likelihood = pv.likelihoods.Normal(scale=NOISE)
    vae = pv.SequentialVAE((steps, D), states, likelihood=likelihood, encoder=encoder, **plain, **parts)
    vae.see_gaps(frozenset({"x"}))
    vae.q_z.seen[0].skips.fill_(True)  # as if trained on gaps
    slope = torch.tensor([[Backwards.slope]]) if states == 1 else Read.slope
    seen = Backwards.seen[:, None] if states == 1 else Read.seen
    step, decoder = vae.p_z.family.net.layers[0], vae.p_x.net.net.layers[0]
    offset = vae.p_z.family.next.parameters_["scale"].offset[0]
    with torch.no_grad():
        step.weight.copy_(torch.cat([slope, torch.zeros(states, states)]))
        step.bias[:states] = 0.0
        step.bias[states:] = math.log(math.expm1(STEP - pv.families.base.FLOOR)) - offset
        decoder.weight.copy_(seen)
        decoder.bias.copy_(Backwards.offset)
    return vae, slope, seen, Backwards.offset


def kalman(x, slope, seen, offset):
    """log p of what is observed of one sequence ``[T, D]``: predict, look, update."""
    states = len(slope)
    mean, cov, log_p = torch.zeros(states), torch.eye(states), torch.zeros(())
    for t, value in enumerate(x):
        if t:
            mean, cov = slope @ mean, slope @ cov @ slope.T + STEP**2 * torch.eye(states)
        known = ~value.isnan()
        if known.any():
            c = seen[known]
            total = c @ cov @ c.T + NOISE**2 * torch.eye(int(known.sum()))
            away = value[known] - c @ mean - offset[known]
            log_p = log_p + MultivariateNormal(torch.zeros(len(away)), total).log_prob(away)
            gain = cov @ c.T @ torch.linalg.inv(total)
            mean, cov = mean + gain @ away, cov - gain @ c @ cov
    return log_p


def smoother(x, slope, seen, offset):
    """Means and variances of all states ``[T, L]`` and values ``[T, D]``, given what is observed."""
    steps, states = len(x), len(slope)
    powers = torch.eye(steps * states)
    for t in range(1, steps):
        powers[t * states : (t + 1) * states, (t - 1) * states : t * states] = -slope
    spread = torch.block_diag(torch.eye(states), STEP * torch.eye((steps - 1) * states))
    factor = torch.linalg.inv(powers) @ spread
    whole = torch.cat([torch.eye(steps * states), torch.block_diag(*[seen] * steps)])
    cov = whole @ factor @ factor.T @ whole.T
    cov[steps * states :, steps * states :] += NOISE**2 * torch.eye(steps * D)
    mean = torch.cat([torch.zeros(steps * states), offset.repeat(steps)])
    value = torch.cat([torch.full((steps * states,), torch.nan), x.flatten()])
    known = ~value.isnan()
    gain = cov[:, known] @ torch.linalg.inv(cov[known][:, known])
    mean = mean + gain @ (value - mean)[known]
    variance = (cov - gain @ cov[known]).diagonal()
    of_z, of_x = ([steps * states, steps * D], ((steps, states), (steps, D)))
    return [[part.reshape(s) for part, s in zip(m.split(of_z), of_x, strict=True)] for m in (mean, variance)]


def sequences():
    """One wholly observed, two that end early, one of no step, gaps of steps and of values."""
    x = 1.5 * torch.randn(6, T, D, generator=torch.Generator().manual_seed(1))
    x[1, 3:], x[2, 1:], x[3], x[4, 1:3], x[4, 4, 0], x[5, 0] = [torch.nan] * 6
    return x


@pytest.mark.parametrize("training", [True, False])
def test_the_evidence_is_the_kalman_filters(exact, training):
    """Each weight of the exact guide is p(x) of what is observed, of every pattern of it."""
    vae, *system = exact
    x = sequences()
    expected = torch.stack([kalman(row, *system) for row in x])
    assert expected[3] == 0
    torch.testing.assert_close(expected[1], kalman(x[1, :3], *system))
    log_w = log_weights(vae.train(training), x, 4)
    torch.testing.assert_close(log_w, expected.expand(4, -1), rtol=0, atol=1e-9)


@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize(
    "guide",
    [
        pv.guides.Markov(),
        pv.guides.Markov("diagonal"),
        pv.guides.Normal(),
        pv.guides.FullRankNormal(),
        pv.guides.Structured(features=4),
    ],
    ids=repr,
)
def test_the_evidence_by_importance_sampling(guide, skips):
    """Two states that turn into each other, and a guide that knows nothing of them."""
    vae, *system = linear(2, pv.nets.recurrent(4), steps=3, guide=guide)
    vae.eval().q_z.seen[0].skips.fill_(skips)
    x = sequences()[:, :3] / 2
    expected = torch.stack([kalman(row, *system) for row in x])
    batch = {"x": x}
    halves = [log_w.expand(-1, len(x)).detach() for _, log_w in defensive(vae, batch, batch, 20_000)]
    ratio = (torch.cat(halves) - expected).exp()
    error = ratio.std(0) / 20_000**0.5
    assert (error < 0.1).all()
    assert ((ratio.mean(0) - 1).abs() < 5 * error + 1e-9).all()


def test_filling_and_forecasts_are_the_kalman_smoothers(exact):
    vae, *system = exact
    x = sequences()
    drawn = pv.predict(vae, x, num_samples=3000, num_particles=3000)
    size = 1 / (1 / 3000 + 1 / drawn.effective_sample_size)
    for i, row in enumerate(x):
        means, variances = smoother(row, *system)
        for site, mean, variance in zip(("z", "x"), means, variances, strict=True):
            found = drawn[site][:, i]
            free = variance > 1e-9
            assert torch.equal(
                found[:, ~free], row[~free].expand(3000, -1) if site == "x" else found[:, ~free]
            )
            if not free.any():
                continue
            away = (found.mean(0) - mean)[free] / (variance[free] / size[i]).sqrt()
            assert away.abs().max() < 5, (site, i)
            ratio = found.var(0)[free] / variance[free]
            assert (ratio - 1).abs().max() < 6 * (2 / size[i]).sqrt(), (site, i)


def test_forecasts_need_no_trained_guide_beyond_the_end():
    """However long they are, the weights are those of the observed steps."""
    vae, *_ = linear(2, pv.nets.recurrent(4), steps=12)
    x = torch.full((1, 12, D), torch.nan)
    x[:, 0] = 0.3
    drawn = pv.predict(vae, x, num_samples=200, num_particles=400)
    assert drawn.effective_sample_size > 100
    later = drawn["x"][:, 0, 1:]
    assert later.std(0).min() > NOISE / 2


class Lost(Backwards):
    """The posterior, but for steps of which nothing is observed: it has never seen such."""

    def forward(self, pair):
        nothing = pair[:, 1].amax(-1) == 0
        return super().forward(pair) + 30.0 * torch.cat([0 * nothing, nothing, 0 * nothing], 1)[..., None]


def test_a_gap_is_filled_without_an_encoder_that_knows_of_gaps():
    vae, *system = linear(1, Lost, **DIAGONAL)
    x = sequences()[:1] / 3
    x[0, 1:3] = torch.nan
    sizes = {}
    for skips in (True, False):
        vae.eval().q_z.seen[0].skips.fill_(skips)
        log_w = log_weights(vae, x, 20_000)[:, 0].detach()
        sizes[skips] = float((2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp())
    assert sizes[False] > 1000 > 50 > sizes[True]
    ratio = (log_w - kalman(x[0], *system)).exp()
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / 20_000**0.5


def test_whether_there_were_gaps_is_kept():
    """Steps that are not observed, but those at the end; runs of before did not tell."""
    whole, ended, skipped = (torch.randn(20, T, D) for _ in range(3))
    ended[:5, 3:], skipped[0, 1], skipped[1, 2, 0] = torch.nan, torch.nan, torch.nan
    ended[0, 1, 0] = torch.nan
    for x, expected in ((whole, False), (ended, False), (skipped, True)):
        vae = pv.SequentialVAE((T, D), 2, encoder=pv.nets.recurrent(4))
        vae.initialize(pv.data.Split(x))
        assert bool(vae.q_z.seen[0].skips) == expected
    state = vae.state_dict()
    again = pv.SequentialVAE((T, D), 2, encoder=pv.nets.recurrent(4))
    again.load_state_dict(state)
    assert again.q_z.seen[0].skips
    older = {name: value for name, value in state.items() if not name.endswith("skips")}
    load_state(vae, older, Path("older.safetensors"))
    assert not vae.q_z.seen[0].skips


@pytest.mark.parametrize("guide", [pv.guides.Markov(), pv.guides.Structured(features=4)], ids=repr)
def test_weights_serve_sequences_of_any_length(guide):
    """Nothing that is learned hangs on T: a longer program tells the same of a shorter sequence."""
    parts = {"encoder": pv.nets.recurrent(4), "guide": guide}
    vae, longer = (pv.SequentialVAE((steps, D), 2, **parts).eval() for steps in (T, T + 3))
    longer.load_state_dict(vae.state_dict())
    x = torch.randn(4, T, D)
    padded = torch.cat([x, torch.full((4, 3, D), torch.nan)], 1)
    z = torch.randn(4, T + 3, 2)
    expected = log_weights_at(vae, x, z[:, :T])
    torch.testing.assert_close(log_weights_at(longer, padded, z), expected)


def log_weights_at(vae, x, z):
    """log p(x, z) - log q(z | x) of these states."""
    with observing(frozenset({"x"})):
        trace = pyro.poutine.trace(pyro.poutine.condition(vae.model, {"z": z})).get_trace({"x": x})
        trace.compute_log_prob()
        return sum(trace.nodes[name]["log_prob"] for name in "zx") - vae.encode(x).log_prob(z)


def test_a_shorter_sequence_trains_as_itself():
    """In training what lies beyond the end adds nothing, whatever is drawn there."""
    vae, *_ = linear(2, pv.nets.recurrent(4), steps=4)
    x = sequences()[:, :4]
    x[:, 2:] = torch.nan
    with pyro.plate("data", len(x)), pyro.poutine.trace() as trace:
        q, p = vae.encode(x), vae.prior()
        z = q.rsample()
        far = torch.cat([z[:, :2], z[:, 2:] + 5], 1)
    del trace
    one, other = (p.log_prob(value) - q.log_prob(value) for value in (z, far))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("direction", ["backward", "forward", "both"])
@pytest.mark.parametrize("cell", ["minimal", "gru"])
def test_the_encoder_reads_in_its_direction(cell, direction):
    net = pv.nets.recurrent(3, num_layers=2, cell=cell, direction=direction)((2, T, D), (2 * T, 4))
    x = torch.randn(3, 2, T, D, requires_grad=True)
    y = net(x)
    assert y.shape == (3, 2 * T, 4)
    (slope,) = torch.autograd.grad(y.unflatten(1, (2, T))[:, :, 2].sum(), x)
    reached = slope.abs().sum((0, 1, 3)) > 0
    expected = {"backward": [0, 0, 1, 1, 1], "forward": [1, 1, 1, 0, 0], "both": [1] * 5}[direction]
    assert reached.int().tolist() == expected


@pytest.mark.parametrize("direction", ["backward", "forward", "both"])
def test_a_shorter_sequence_is_read_as_it_is(direction):
    """Steps of which nothing is observed change nothing before them at the end, and are skipped between."""
    nets = [
        pv.nets.recurrent(3, direction=direction)((2, length, D), (length, 4)) for length in (T, T - 2, T - 1)
    ]
    for net in nets[1:]:
        net.load_state_dict(nets[0].state_dict())
    x = torch.stack([torch.randn(2, T, D), torch.ones(2, T, D)], 1)
    ends, skips = x.clone(), x.clone()
    ends[:, :, 3:], skips[:, :, 2] = 0.0, 0.0
    torch.testing.assert_close(nets[0](ends)[:, :3], nets[1](x[:, :, :3]))
    left = [0, 1, 3, 4]
    torch.testing.assert_close(nets[0](skips)[:, left], nets[2](x[:, :, left]))


@pytest.mark.parametrize("direction", ["backward", "forward", "both"])
def test_the_encoder_reads_the_whole(direction):
    """Where what is wanted is no sequence, all of it depends on all steps."""
    net = pv.nets.recurrent(3, num_layers=2, direction=direction)((2, T, D), (7,))
    x = torch.randn(3, 2, T, D, requires_grad=True)
    y = net(x)
    assert y.shape == (3, 7)
    for column in y.unbind(1):
        (slope,) = torch.autograd.grad(column.sum(), x, retain_graph=True)
        assert (slope.abs().sum((1, 3)) > 0).all()
    for vae in (
        pv.VAE((T, D), 2, encoder=pv.nets.recurrent(3, direction=direction)),
        pv.SequentialVAE((T, D), 2, guide=pv.guides.MixtureOfNormals(2), encoder=pv.nets.recurrent(3)),
    ):
        assert log_weights(vae, torch.zeros(2, T, D), 3).isfinite().all()


def test_the_minimal_cell_is_its_recurrence():
    net = pv.nets.recurrent(3, num_layers=1)((T, D), (T, 1))
    x = torch.randn(1, T, D)
    h = torch.zeros(1, 3)
    gates, values = net.layers[0](x).chunk(2, -1)
    for t in range(T - 1, -1, -1):
        gate = gates[:, t].sigmoid()
        h = (1 - gate) * h + gate * values[:, t]
        torch.testing.assert_close(net(x)[:, t], net.last(torch.cat([x[:, t], h], -1)))


def test_a_gated_step():
    net = pv.nets.gated(7)((2,), (4,))
    z = torch.randn(3, 2)
    gate, proposal = net.gate(z).sigmoid(), net.proposal(z)
    torch.testing.assert_close(net(z)[:, :2], (1 - gate) * z + gate * proposal)  # W is the identity yet
    torch.testing.assert_close(net(z)[:, 2:], net.rest(proposal.relu()))


def test_the_combiner_is_the_papers():
    net = pv.nets.combiner()(((2,), (5,)), (4,))
    z, h = torch.randn(3, 2), torch.randn(3, 5)
    torch.testing.assert_close(net(z, h), net.last(0.5 * (net.before(z).tanh() + h)))


def test_a_structured_guide_in_words():
    guide = pv.guides.Structured(pv.guides.FullRankNormal(), pv.nets.mlp(8), features=3)
    assert repr(pv.registry.read("guide", repr(guide))) == repr(guide)
    vae = pv.SequentialVAE((T, D), 2, guide=guide, encoder=pv.nets.recurrent(4, direction="both"))
    guide = pv.guides.Markov("diagonal")
    assert repr(pv.registry.read("guide", repr(guide))) == repr(guide) == "Markov(weight='diagonal')"
    with pytest.raises(ValueError, match="neither"):
        pv.guides.Markov("low")
    assert "z_t given z_{t-1} = FullRankNormal(loc = g_1(z_{t-1}, h_t), L = " in vae.explain()
    with pytest.raises(ValueError, match="no family of real states"):
        pv.guides.Structured(pv.guides.Dirichlet())
    with pytest.raises(TypeError, match="net is to be made by a factory"):
        pv.guides.Structured(net=nn.Linear(2, 2))
    vae = pv.SequentialVAE(
        (T, D), 2, guide=pv.guides.Structured(net=lambda i, o: nn.Bilinear(2, 64, 3)), encoder=pv.nets.mlp(4)
    )
    with pytest.raises(ValueError, match=r"guides.Structured returned shape \[2, 3\]"):
        log_weights(vae, torch.zeros(2, T, D))


@pytest.mark.parametrize("guide", ["Markov()", "Markov('diagonal')", "Normal()", "the posterior"])
def test_the_benchmarks_best_guide_of_a_linear_system(guide, monkeypatch):
    """Its closed form is what is found by descent on the parameters of the guide."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    bench = importlib.import_module("sequences")
    monkeypatch.setattr(bench, "STEPS", 4)
    a, c = torch.tensor([[0.8, -0.5], [0.6, 0.7]]), torch.tensor([1.0, 0.3])
    logs = [torch.tensor([-1.0, -1.5]), torch.tensor(-2.0), torch.tensor([0.0, 0.5])]
    q, r, p = (part.exp() for part in logs)
    prior, seen = bench.precision(a, q, p), torch.kron(torch.eye(4), c[None])
    cov = torch.linalg.inv(prior)
    z = MultivariateNormal(torch.zeros(2), p.diag()).sample()  # log p of states by the story
    later = a @ z + torch.randn(2)
    states = torch.cat([z, later, a @ later, a @ a @ later])
    told = dist.Normal(0.0, p.sqrt()).log_prob(z).sum()
    for before, after in zip(states.split(2), states.split(2)[1:], strict=False):
        told = told + dist.Normal(a @ before, q.sqrt()).log_prob(after).sum()
    torch.testing.assert_close(MultivariateNormal(torch.zeros(8), cov).log_prob(states), told)
    truth = 1.3 * (seen @ cov @ seen.T + r * torch.eye(4))
    found = bench.best_elbo([a, c, *logs], guide, truth)
    x = MultivariateNormal(torch.zeros(4), truth / 1.3)
    log_p = x.log_prob(torch.zeros(4)) - 0.5 * 1.3 * 4
    posterior = prior + seen.T @ seen / r
    weight, log_scale = torch.zeros(4, 2, 2, requires_grad=True), torch.zeros(4, 2, requires_grad=True)
    kept = {"Markov()": torch.ones(2, 2), "Markov('diagonal')": torch.eye(2)}.get(guide, torch.zeros(2, 2))
    optimizer = torch.optim.LBFGS([weight, log_scale], max_iter=500, line_search_fn="strong_wolfe")

    def kl():
        optimizer.zero_grad()
        noise = torch.diag(log_scale.exp().flatten()).unflatten(0, (4, 2))
        factor = turning(weight * kept, noise).flatten(0, 1)
        logs = torch.logdet(posterior) + 2 * log_scale.sum()
        loss = 0.5 * ((factor.T @ posterior @ factor).trace() - 8 - logs)
        loss.backward()
        return loss

    gap = torch.zeros(()) if guide == "the posterior" else (optimizer.step(kl), kl())[1]
    assert (gap > 0.01) == (guide != "the posterior")
    torch.testing.assert_close(found, log_p - gap, rtol=0, atol=1e-6)


def test_columns_are_standardised_over_all_steps():
    vae = pv.SequentialVAE((4, 2), 1, encoder=pv.nets.recurrent(4))
    x = torch.randn(200, 4, 2) * torch.tensor([1.0, 50.0]) + torch.tensor([3.0, -100.0])
    x[:150, 2:] = torch.nan
    vae.initialize(pv.data.Split(x))
    steps = x.flatten(0, 1)[~x.flatten(0, 1).isnan().any(1)]
    (seen,) = vae.q_z.seen
    torch.testing.assert_close(seen.loc, steps.mean(0))
    torch.testing.assert_close(seen.scale, steps.std(0, correction=0))
    p = vae.p_x.family(torch.zeros(4, *vae.p_x.family.family.param_shape()))
    torch.testing.assert_close(p.mean, steps.mean(0).expand(4, 2))
    torch.testing.assert_close(p.stddev, steps.std(0, correction=0).expand(4, 2), rtol=0.02, atol=0)


def test_likelihoods_of_each_step():
    """One line; also those whose values depend on each other within a step, with gaps."""
    x = sequences()
    for likelihood in (pv.likelihoods.StudentT(), pv.likelihoods.LowRankNormal(1)):
        vae = pv.SequentialVAE((T, D), 2, likelihood=likelihood, encoder=pv.nets.recurrent(4))
        vae.initialize(pv.data.Split(x))
        assert log_weights(vae, x, 2).isfinite().all()
        drawn = pv.predict(vae, x[1:2], num_samples=3, num_particles=200)
        assert torch.equal(drawn["x"][:, 0, :3], x[1, :3].expand(3, 3, D))


def test_a_forecast_is_drawn():
    """What was observed, the medians of the draws, and shaded ground where nothing was."""
    vae, *_ = linear(1, Backwards, **DIAGONAL)
    x, truth = sequences()[:3], torch.ones(3, T, D)
    figure = pv.figures.forecast(vae, x, truth=truth, num_data=2, num_samples=30, num_particles=200)
    assert len(figure.axes) == 2 * D
    drawn = pv.predict(vae, x[:2], 30, num_particles=200)
    for i, ax in enumerate(figure.axes):
        of, column = divmod(i, D)
        lines = {line.get_label(): torch.as_tensor(line.get_ydata()) for line in ax.get_lines()}
        own = x[of, :, column]
        torch.testing.assert_close(lines["observed"], own, equal_nan=True)
        torch.testing.assert_close(lines["median"], drawn.quantile(0.5)[of, :, column])
        assert torch.equal(lines["not shown to the model"].isnan(), ~own.isnan())
    assert figure.axes[0].get_ylabel().startswith("x[0]")
    figure.savefig("forecast.png")
    few = pv.figures.forecast(vae, x[:1], truth=truth, num_samples=5, num_particles=20)
    assert [ax.get_ylabel() for ax in few.axes] == [f"x[{column}], datum 0" for column in range(D)]
    for wrong in (truth[:1], truth[:, 1:], truth[0]):
        with pytest.raises(ValueError, match="truth has shape"):
            pv.figures.forecast(vae, x, truth=wrong, num_data=2, num_samples=5, num_particles=20)
    with pytest.raises(ValueError, match="is of sequences"):
        pv.figures.forecast(pv.VAE((3,), 2, encoder=pv.nets.mlp(4), decoder=pv.nets.mlp(4)), torch.ones(2, 3))


def test_a_run_is_kept_and_opened():
    torch.set_default_dtype(torch.float32)
    nets = {"transition": pv.nets.gated(4), "encoder": pv.nets.recurrent(4, direction="both")}
    vae = pv.SequentialVAE((T, D), 2, prior=pv.priors.Normal(learned=True), decoder=pv.nets.mlp(4), **nets)
    x = sequences().float().repeat(5, 1, 1)
    pv.fit(vae, pv.data.load(x), epochs=1, folder="run", progress=False)
    again = pv.load("run")
    assert repr(again.options) == repr(vae.options)
    for name, value in vae.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


def test_its_story_is_told():
    vae = pv.SequentialVAE((T, D), 2, encoder=pv.nets.recurrent(4))
    text = vae.explain()
    assert "z_n ~ p(z) = Chain(z_1, z_t given z_{t-1})" in text
    assert "z_t given z_{t-1} = Normal(loc = g_1(z_{t-1}) + b_1, scale = " in text
    assert "loc = f_1(z_t) + b_1" in text
    assert "z_n | x_n ~ q(z|x) = Markov(weight, loc, scale)" in text
    assert r"\mathrm{Normal}(loc = g_{1}(z_{t-1}) + b_{1}" in vae.explain("latex")
    assert "z -> x" in vae.explain("graph")


def test_what_is_no_sequence_is_refused():
    with pytest.raises(ValueError, match=r"pv.SequentialVAE\(\(20, 1\), ...\)"):
        pv.SequentialVAE((20,), 2)
    with pytest.raises(ValueError, match=r"give x.flatten\(2\), and pv.SequentialVAE\(\(20, 6\), ...\)"):
        pv.SequentialVAE((20, 2, 3), 2)
    with pytest.raises(ValueError, match="of the first state"):
        pv.SequentialVAE((20, 1), 2, prior=pyro.distributions.Gamma(2.0, 1.0))
    with pytest.raises(ValueError, match="reads a sequence"):
        pv.VAE((7,), 2, encoder=pv.nets.recurrent(4))
    vae = pv.SequentialVAE((3, 1), 2, transition=lambda i, o: nn.Linear(2, 3), encoder=pv.nets.recurrent(4))
    with pytest.raises(ValueError, match="the transition returned shape"):
        log_weights(vae, torch.zeros(2, 3, 1))


def test_a_step_has_as_many_operations_whatever_the_length():
    def operations(length):
        vae = pv.SequentialVAE((length, 1), 2, encoder=pv.nets.recurrent(4))
        parameters = list(vae.parameters())

        def step(x):
            with observing(frozenset()), pyro.validation_enabled(False):
                log_w = log_weights(vae, {"x": x}, 1)
            return torch.autograd.grad(log_w.sum(), parameters)

        return len(make_fx(step)(torch.randn(3, length, 1)).graph.nodes)

    assert operations(5) == operations(40)


@pytest.mark.slow
@pytest.mark.parametrize(
    "guide", [pv.guides.Markov(), pv.guides.Structured(features=3)], ids=lambda g: g.name
)
def test_compiled_is_eager(guide):
    """Of sequences that end early and have gaps, step for step."""
    torch.set_default_dtype(torch.float32)
    found = []
    for compiles in (False, True):
        torch.manual_seed(0)
        nets = {"transition": pv.nets.gated(4), "encoder": pv.nets.recurrent(4), "decoder": pv.nets.mlp(4)}
        vae = pv.SequentialVAE((T, D), 2, guide=guide, **nets)
        data = pv.data.load(sequences().float().repeat(20, 1, 1))
        pv.fit(vae, data, epochs=3, batch_size=32, compile=compiles, progress=False)
        found.append(torch.cat([p.detach().flatten() for p in vae.parameters()]))
    torch.testing.assert_close(*found, rtol=0, atol=1e-4)


def test_what_a_sequence_asks_of_training():
    """A rate, and a warm-up over a third of the epochs, unless a weight, or what has none, is given."""
    data = pv.data.load(sequences()[:2].float().repeat(5, 1, 1).nan_to_num())
    torch.set_default_dtype(torch.float32)

    def betas(**settings):
        vae = pv.SequentialVAE((T, D), 1, encoder=pv.nets.recurrent(4))
        history = pv.fit(vae, data, epochs=6, batch_size=8, progress=False, **settings).history
        return [row["beta"] for row in history]

    vae = pv.SequentialVAE((T, D), 1, encoder=pv.nets.recurrent(4))
    for settings, lr in (({}, 1e-2), ({"lr": 1e-3}, 1e-3)):
        run = pv.fit(vae, data, epochs=1, schedule="constant", progress=False, **settings)
        assert run.history[0]["lr"] == lr
    assert betas() == betas(warmup_epochs=2) == [0.5, 1, 1, 1, 1, 1]
    assert betas(warmup_epochs=0) == betas(beta=1.0) == betas(loss=pv.objectives.IWAE(3)) == [1] * 6


def test_what_nothing_is_learned_of_is_told():
    x = torch.randn(20, T, 3)
    x[..., 1], x[..., 2] = torch.nan, 7.0
    x[0, :, 2] = torch.nan  # not wholly observed, and constant
    vae = pv.SequentialVAE((T, 3), 1, encoder=pv.nets.recurrent(4))
    with pytest.warns(pv.program.DataWarning) as found:
        vae.initialize(pv.data.Split(x))
    told = [str(warning.message).split(" of the")[0] for warning in found]
    assert told == [
        "never observed in the training data: values [1]",
        "constant in the training data: values [2]",
    ]
