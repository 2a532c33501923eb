"""Vector quantisation: the arithmetic against loops by hand, and what every program promises of it."""

import copy
import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import SMALL
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

import pyro_vae as pv
from pyro_vae import registry
from pyro_vae.checks import ConfigError
from pyro_vae.distributions.codes import Codebook, Codes, Nearest
from pyro_vae.objectives import log_weights
from pyro_vae.program import DataWarning

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def build(num_codes=5, code_dim=2, positions=3, learned=False, **options):
    torch.manual_seed(0)
    prior = pv.priors.Codes(num_codes, code_dim, learned=learned)
    parts = {"prior": prior, "likelihood": pv.likelihoods.Normal(scale="shared")} | SMALL | options
    vae = pv.VAE((5,), positions * code_dim, **parts)
    return vae.to(torch.get_default_dtype()), torch.randn(6, 5)


def by_hand(vae, x):
    """The number of the nearest code of each position, one after the other."""
    vectors, numbers = vae.p_z.family.codebook.vectors, []
    for row in vae.q_z.emit(x):
        parts = row.reshape(-1, vectors.shape[1])
        numbers.append([min(range(len(vectors)), key=lambda k, h=h: (h - vectors[k]).norm()) for h in parts])
    return torch.tensor(numbers)


@pytest.mark.usefixtures("double")
class TestDistributions:
    def test_the_nearest_codes_are_certain(self):
        vae, x = build()
        q, p = vae.eval().encode(x), vae.prior()
        assert torch.equal(q.codes, by_hand(vae, x))
        z = q.sample()
        assert torch.equal(z, vae.p_z.family.codebook.vectors[q.codes].flatten(1))
        assert p.support.check(z).all()
        assert not p.support.check(z + 0.1).any()
        assert (q.log_prob(z) == 0).all()
        assert (q.log_prob(z.roll(2, -1)) == -math.inf).any()
        assert (q.variance == 0).all()
        assert torch.equal(q.mean, z)
        wide = q.expand((4, 6))
        assert torch.equal(wide.log_prob(z), torch.zeros(4, 6))
        assert wide.rsample().shape == (4, 6, 6)

    def test_all_codes_are_alike(self):
        book = Codebook(3, 2, 0.9)
        p = Codes(book, 2)
        values = torch.stack([book.look_up(torch.tensor([i, j])) for i in range(3) for j in range(3)])
        torch.testing.assert_close(p.log_prob(values).logsumexp(0), torch.tensor(0.0), **EXACT)
        torch.testing.assert_close(values.mean(0), p.mean, **EXACT)
        torch.testing.assert_close(values.var(0, correction=0), p.variance, **EXACT)
        drawn = p.expand((4,)).sample((2000,))
        assert drawn.shape == (2000, 4, 4)
        error = (p.variance / 8000).sqrt()
        assert ((drawn.mean((0, 1)) - p.mean).abs() < 5 * error).all()
        q = Nearest(torch.randn(7, 4), book)
        kl = torch.distributions.kl_divergence(q, p)
        torch.testing.assert_close(kl, torch.full((7,), 2 * math.log(3)), **EXACT)
        torch.testing.assert_close(kl, q.log_prob(q.sample()) - p.log_prob(q.sample()), **EXACT)

    def test_learned_shares(self):
        """Normalised, drawn as often as they say, and the KL is -log of those of the nearest codes."""
        book, logits = Codebook(3, 2, 0.9), torch.randn(2, 3)
        p = Codes(book, 2, logits)
        codes = torch.tensor([[i, j] for i in range(3) for j in range(3)])
        values, log_shares = book.look_up(codes), logits.log_softmax(1)
        log_p = log_shares[0, codes[:, 0]] + log_shares[1, codes[:, 1]]
        torch.testing.assert_close(p.log_prob(values), log_p, **EXACT)
        torch.testing.assert_close(log_p.logsumexp(0), torch.tensor(0.0), **EXACT)
        mean = (log_p.exp()[:, None] * values).sum(0)
        torch.testing.assert_close(p.mean, mean, **EXACT)
        variance = (log_p.exp()[:, None] * (values - mean).square()).sum(0)
        torch.testing.assert_close(p.variance, variance, **EXACT)
        drawn = p.expand((4,)).sample((5000,))
        assert ((drawn.mean((0, 1)) - mean).abs() < 5 * (variance / 20_000).sqrt()).all()
        q = Nearest(torch.randn(7, 4), book).expand((3, 7))
        kl = torch.distributions.kl_divergence(q, p)
        torch.testing.assert_close(kl, q.log_prob(q.sample()) - p.log_prob(q.sample()), **EXACT)
        assert kl.shape == (3, 7)
        assert kl.unique().numel() > 1

    def test_codes_are_moving_averages(self):
        """Each that is used is the quotient of the moving averages of the sum and the number of its parts."""
        torch.manual_seed(0)
        book = Codebook(4, 2, 0.8)
        values = [torch.randn(5, 6) + torch.tensor([3.0, 0.0]).repeat(3) * (i % 2) for i in range(6)]
        sums, numbers = torch.zeros(4, 2), torch.zeros(4)
        dead = torch.ones(4, dtype=torch.bool)
        for batch in values:
            book.vectors[0] = torch.tensor([100.0, 100.0])  # which is used by none
            before, codes = book.vectors.clone(), book.nearest(batch)
            sums[dead] = before[dead] * numbers[dead, None]
            sums, numbers = 0.8 * sums, 0.8 * numbers
            for part, k in zip(batch.reshape(-1, 2), codes.flatten().tolist(), strict=True):
                sums[k] += 0.2 * part
                numbers[k] += 0.2
            book.follow(batch, codes)
            torch.testing.assert_close(book.usage, numbers, **EXACT)
            dead = numbers < 0.2 / math.e
            assert torch.equal(book.dead, dead)
            assert dead[0]
            used = ~dead
            torch.testing.assert_close(book.vectors[used], sums[used] / numbers[used, None], **EXACT)
            parts = batch.reshape(-1, 2)
            assert all((parts == code).all(1).any() for code in book.vectors[dead]), "moved to what was seen"

    def test_gradients_go_straight_through(self):
        values, book = torch.randn(3, 4, requires_grad=True), Codebook(6, 2, 0.9)
        weights = torch.randn(3, 4)
        (Nearest(values, book).rsample() * weights).sum().backward()
        assert torch.equal(values.grad, weights)
        values.grad = None
        q = Nearest(values, book, 0.5)
        q.commitment.sum().backward()
        torch.testing.assert_close(values.grad, values.detach() - q.nearest, **EXACT)

    def test_perplexity(self):
        book = Codebook(4, 1, 0.9)
        book.usage.copy_(torch.tensor([2.0, 1.0, 1.0, 0.0]))
        p = torch.tensor([0.5, 0.25, 0.25])
        torch.testing.assert_close(book.perplexity, (-(p * p.log()).sum()).exp(), **EXACT)
        assert book.dead.tolist() == [False, False, False, True]


@pytest.mark.usefixtures("double")
def test_the_elbo_is_that_of_the_codes():
    """log p(x|z) - M log K at the nearest codes; in training mode less the commitment, by any loss."""
    vae, x = build(guide=pv.guides.VectorQuantised(0.7))
    vae.eval()
    q = vae.encode(x)
    elbo = vae.decode(q.nearest).log_prob(x) - 3 * math.log(5)
    torch.testing.assert_close(log_weights(vae, x, 3), elbo.expand(3, -1), **EXACT)
    found = pv.evaluate.elbo(vae, x)
    assert found.elbo == pytest.approx(elbo.mean().item(), rel=1e-9)
    assert found.kl == pytest.approx(3 * math.log(5), rel=1e-9)
    assert found.draws_error == pytest.approx(0.0, abs=1e-9)
    commitment = 0.7 * (q.values - q.nearest).square().sum()
    losses = [Trace_ELBO(), TraceMeanField_ELBO(), pv.objectives.AnalyticKL(), pv.objectives.FreeBits(0.1)]
    for loss in losses:
        assert loss.loss(vae.model, vae.guide, x) == pytest.approx(-elbo.sum().item(), rel=1e-9)
        own = copy.deepcopy(vae).train()
        expected = (commitment - elbo.sum()).item()
        assert loss.loss(own.model, own.guide, x) == pytest.approx(expected, rel=1e-9), loss


@pytest.mark.parametrize("name", ["StickingTheLanding", "DReG", "Chi", "VIMCO", "WakeSleep", "Thermodynamic"])
def test_losses_that_run_the_guide_twice_are_refused(name):
    """The codes have moved from under the values that were drawn, which would be impossible."""
    vae, x = build()
    loss = getattr(pv.objectives, name)()
    with pytest.raises(
        NotImplementedError, match=f"{name} runs the guide twice, and the codes at its site 'z'"
    ):
        loss.loss_and_grads(vae.train().model, vae.guide, x)


@pytest.mark.usefixtures("double")
def test_the_encoder_learns_through_the_codes_and_by_the_commitment():
    vae, x = build()
    raw = vae.q_z.emit(x)
    z = vae.eval().encode(x).nearest.clone().requires_grad_()
    (slope,) = torch.autograd.grad(vae.decode(z).log_prob(x).sum(), z)
    expected = torch.autograd.grad((raw * (0.5 * (raw - z).detach() - slope)).sum(), vae.q_z.parameters())
    Trace_ELBO().loss_and_grads(vae.train().model, vae.guide, x)
    for parameter, gradient in zip(vae.q_z.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, **EXACT)
    assert all(p.grad.abs().sum() > 0 for p in vae.parameters())


@pytest.mark.usefixtures("double")
def test_learned_shares_are_those_of_the_data():
    """Moving averages of the uses at each position, by hand; and the KL falls to near the codes' entropy."""
    vae, x = build(learned=True)
    assert pv.evaluate.elbo(vae, x).kl == pytest.approx(3 * math.log(5), rel=1e-9)
    uses = torch.zeros(3, 5)
    for rows in (slice(0, 4), slice(2, 6), slice(0, 6)):
        codes = vae.train().encode(x[rows]).codes
        uses = 0.99 * uses + 0.01 * torch.stack([column.bincount(minlength=5) for column in codes.T])
    shares = (uses + 0.01) / (uses + 0.01).sum(1, keepdim=True)
    torch.testing.assert_close(vae.prior().log_shares, shares.log(), **EXACT)
    for _ in range(600):
        vae.encode(x)
    shares = [column.bincount(minlength=5) / 6 for column in vae.eval().encode(x).codes.T]
    entropy = sum(torch.special.entr(share).sum().item() for share in shares)
    assert entropy < 3 * math.log(5) - 0.5
    found = pv.evaluate.elbo(vae, x)
    assert found.kl == pytest.approx(entropy, abs=0.05)
    torch.testing.assert_close(log_weights(vae, x, 1).mean().item(), found.elbo, **EXACT)
    drawn = vae.p_z.family.codebook.nearest(vae.generate(4000)["z"]).T
    for column, share in zip(drawn, shares, strict=True):
        torch.testing.assert_close(column.bincount(minlength=5) / 4000, share, rtol=0, atol=0.04)
    again = pv.VAE(**vae.options)
    again.load_state_dict(vae.state_dict())
    assert pv.evaluate.elbo(again.double().eval(), x) == pv.evaluate.elbo(vae, x)


@pytest.fixture(scope="module")
def trained():
    digits = pv.data.load("digits", binarize="dynamic")
    torch.manual_seed(0)
    vae = pv.VAE((1, 8, 8), 8, prior=pv.priors.Codes(16, 2), **SMALL)
    return pv.fit(vae, digits, epochs=10, lr=1e-2, progress=False)


def test_fit_tells_of_the_codes(trained, digits):
    first, last = trained.history[0], trained.history[-1]
    assert last["elbo"] > first["elbo"]
    assert last["kl"] == pytest.approx(4 * math.log(16), rel=1e-5)
    assert last["loss"] > -last["elbo"]
    book = trained.program.p_z.family.codebook
    assert last["perplexity_z"] == pytest.approx(book.perplexity.item(), rel=1e-5)
    assert 4 < last["perplexity_z"] <= 16
    assert last["dead_codes_z"] == 0
    assert trained.program.p_z.family.alarm == ""
    found = pv.evaluate.elbo(trained.program, digits.validation)
    assert found.elbo == pytest.approx(last["validation_elbo"], abs=1e-3)


def test_evaluation_moves_nothing(trained, digits):
    vae = trained.program
    before, vae = copy.deepcopy(vae.state_dict()), copy.deepcopy(vae).train()
    pv.evaluate.elbo(vae, digits.validation)
    vae.generate(3)
    vae.explain()
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


def test_copies_and_files_have_one_codebook(trained, digits, tmp_path):
    x = digits.validation[:5]
    for twin in (copy.deepcopy(trained.program), pickle.loads(pickle.dumps(trained.program))):
        assert twin.q_z.family.support.codebook is twin.p_z.family.codebook
        assert twin.p_z.family.codebook is not trained.program.p_z.family.codebook
        assert torch.equal(log_weights(twin.eval(), x, 1), log_weights(trained.program.eval(), x, 1))
    vae = pv.VAE((1, 8, 8), 8, prior=pv.priors.Codes(16, 2, decay=0.5), **SMALL)
    run = pv.fit(vae, digits, epochs=1, progress=False, folder=tmp_path / "run")
    again = pv.load(tmp_path / "run")
    assert again.q_z.family.support.codebook is again.p_z.family.codebook
    assert torch.equal(log_weights(again.eval(), x, 1), log_weights(run.program.eval(), x, 1))
    assert (
        "Codes(num_codes=16, code_dim=2, decay=0.5, learned=False)"
        in (tmp_path / "run" / "config.yaml").read_text()
    )


@pytest.fixture(params=["recorded", pytest.param("compiled", marks=pytest.mark.slow)])
def compiler(request):
    if request.param == "recorded":
        request.getfixturevalue("uncompiled")


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("learned", [False, True])
def test_compiled_steps_are_those_of_eager_ones(learned):
    found = []
    for compiled in (True, False):
        vae, x = build(learned=learned)
        data = pv.data.load(x.repeat(8, 1), validation=0.0, test=0.0)
        pv.fit(vae, data, epochs=6, batch_size=48, compile=compiled, progress=False)
        found.append(torch.cat([value.flatten().float() for value in vae.state_dict().values()]))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_an_alarm_when_codes_die():
    """As of two data, over and over, which have 6 positions to be told."""
    vae, x = build(num_codes=64)
    data = pv.data.load(x[:2].repeat(20, 1), validation=0.0, test=0.0)
    told = r"of 64 codes are dead: .* take pv\.priors\.Codes\(\d+, 2\)"
    with pytest.warns(DataWarning, match=told):
        run = pv.fit(vae, data, epochs=2, progress=False)
    assert 32 < run.history[-1]["dead_codes_z"] < 64
    assert "nats of KL are for nothing" in vae.p_z.family.alarm
    learned, _ = build(num_codes=64, learned=True)
    learned.p_z.family.codebook.usage[:2] = 1.0
    assert "62 of 64 codes are dead" in learned.p_z.family.alarm
    assert "for nothing" not in learned.p_z.family.alarm  # which are paid as they are used


def test_several_processes_are_refused(monkeypatch):
    vae, x = build()
    for name, value in (("is_initialized", True), ("get_world_size", 2)):
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    vae.eval().encode(x)
    with pytest.raises(ConfigError, match="each of 2 processes would have another; train in one"):
        vae.train().encode(x)


def test_what_will_not_do_is_refused():
    def make(number, prior, **options):
        return pv.VAE((5,), number, prior=prior, **(SMALL | options))

    with pytest.raises(ValueError, match="take latent_dim=3, or 12 for four of them"):
        make(7, pv.priors.Codes(8, 3))
    with pytest.raises(ValueError, match="is of codes, and the prior is over the reals"):
        make(4, pv.priors.Normal(), guide=pv.guides.VectorQuantised())
    with pytest.raises(ValueError, match="is of discrete latents, and the prior is over vectors of 8 codes"):
        make(4, pv.priors.Codes(8, 2), guide=pv.guides.Discrete())
    with pytest.raises(ValueError, match="cannot follow a prior over vectors of 8 codes"):
        make(4, pv.priors.Codes(8, 2), guide=pv.guides.FullRankNormal())
    for wrong in ({"num_codes": 1}, {"code_dim": 0}, {"decay": 1.0}, {"decay": -0.1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            pv.priors.Codes(**wrong)
    with pytest.raises(ConfigError, match="commitment_cost=-1"):
        pv.guides.VectorQuantised(-1.0)


def test_texts_and_explained():
    for kind, text in (
        ("prior", "Codes(num_codes=512, code_dim=16, decay=0.99, learned=False)"),
        ("guide", "VectorQuantised(commitment_cost=0.25)"),
    ):
        assert repr(registry.read(kind, text)) == text
        assert repr(registry.read(kind, text.partition("(")[0])) == text
    vae, _ = build()
    told = vae.explain()
    assert "3 positions, of 4.83 nats" in told
    assert "training adds 0.25 times the squared distance to the codes, which no ELBO reports" in told
    assert "values in vectors of 5 codes" in told
    assert "of 4.83 nats if codes are all alike, and less by" in build(learned=True)[0].explain()
    assert vae.explain("latex")


def test_figure_of_use(trained, digits):
    """A bar for each code, and a row for each position."""
    vae, x = trained.program, digits.train
    above, below = pv.figures.codes(vae, x, num_codes=5).axes
    with vae.evaluating():
        counts = vae.encode(x[:]).codes.flatten().bincount(minlength=16)
    drawn = [bar.get_height() for bar in above.patches]
    assert drawn == pytest.approx((counts.sort(descending=True).values / counts.sum()).tolist(), rel=1e-5)
    assert f"{int((counts == 0).sum())} of which no datum uses" in above.get_title()
    assert "most used codes of each position" in below.get_title().replace("\n", " ")
    with pytest.raises(ConfigError, match="has no codes, but prior=Normal"):
        pv.figures.codes(pv.VAE((5,), 2, **SMALL), torch.rand(4, 5).round())


class Factored(pv.Program):
    """A guide with a factor of its own."""

    def __init__(self):
        super().__init__()
        self.event_shapes = {"x": (2,)}
        self.loc = torch.nn.Parameter(torch.zeros(2))

    def model(self, batch):
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            self.sample("x", dist.Normal(z, 1.0).to_event(1), batch)

    def guide(self, batch):
        with self.plate(batch):
            pyro.factor("cost", (batch["x"] - self.loc).square().sum(-1), has_rsample=True)
            pyro.sample("z", dist.Normal(batch["x"] / 2, 0.5**0.5).to_event(1))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", ["IWAE", "AnalyticKL", "StickingTheLanding", "RLOO"])
def test_factors_of_the_guide_are_of_every_loss(name):
    """q is the posterior, so that each is -log p(x) plus the factor."""
    program, x = Factored(), torch.randn(4, 2)
    program.double()
    expected = (x - program.loc).square().sum() - dist.Normal(0.0, 2**0.5).log_prob(x).sum()
    loss = getattr(pv.objectives, name)(num_particles=3)
    loss.max_plate_nesting = 2
    found = loss.loss_and_grads(program.model, program.guide, x)
    tolerance = 1e-9 if name != "AnalyticKL" else 3.0  # whose reconstruction is that of its draws
    assert found.item() == pytest.approx(expected.item(), abs=tolerance)
    torch.testing.assert_close(program.loc.grad, -2 * x.sum(0), **EXACT)
