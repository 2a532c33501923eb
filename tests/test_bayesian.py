"""Latent weights: Bayesian linear regression in closed form, and every tool on programs that have them."""

import copy
import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import BAYESIAN, D, batch_of, make
from matplotlib import pyplot
from pyro import poutine
from pyro.infer import (
    SVI,
    Predictive,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from torch.distributions import MultivariateNormal, kl_divergence

import pyro_vae as pv
from pyro_vae import registry
from pyro_vae.objectives.beta_tc import total_correlation
from pyro_vae.objectives.mmd import discrepancy
from pyro_vae.running import as_written
from pyro_vae.seen import Real
from pyro_vae.training.opening import opening

NOISE, PRIOR, INPUTS, ROWS = 0.6, 0.8, 3, 12


class Regression(pv.Program):
    """x = w z + b + noise, of z that is given: all that is latent are the weights."""

    def __init__(self, guide=None, num_data=None):
        super().__init__()
        self.event_shapes = {"x": (1,), "z": (INPUTS,)}
        net = pv.nets.bayesian(pv.nets.mlp(), PRIOR, guide, num_data)
        noise = pv.likelihoods.Normal(scale=NOISE)
        self.p_x = pv.Conditional("x", noise, (1,), (Real("z", (INPUTS,)),), net)

    def model(self, batch):
        with self.plate(batch):
            self.sample("x", self.p_x(batch["z"]), batch)

    def guide(self, batch):
        pass


class Known:
    """Data of a regression, log p(x) and p(w|x) (Bishop, 2006, section 3.3)."""

    def __init__(self):
        torch.manual_seed(4)
        z = torch.randn(ROWS, INPUTS)
        self.design = torch.cat([z, torch.ones(ROWS, 1)], 1)
        x = self.design @ torch.tensor([[1.0], [-0.5], [0.2], [0.7]]) + NOISE * torch.randn(ROWS, 1)
        self.batch = {"x": x, "z": z}
        self.prior = MultivariateNormal(torch.zeros(4), PRIOR**2 * torch.eye(4))
        precision = torch.eye(4) / PRIOR**2 + self.design.T @ self.design / NOISE**2
        mean = torch.linalg.solve(precision, self.design.T @ x[:, 0] / NOISE**2)
        self.posterior = MultivariateNormal(mean, precision_matrix=precision)
        covariance = PRIOR**2 * self.design @ self.design.T + NOISE**2 * torch.eye(ROWS)
        self.log_p = MultivariateNormal(torch.zeros(ROWS), covariance).log_prob(x[:, 0]).item()

    def exact(self, num_data=None):
        """A regression whose guide is the posterior."""
        program = Regression(pv.guides.FullRankNormal(), num_data)
        q, tril = program.p_x.weights, self.posterior.scale_tril
        q.family.unit.fill_(1.0)
        q.family.loc.zero_()
        rows, columns = torch.tril_indices(4, 4, -1)
        with torch.no_grad():
            raw = torch.cat([self.posterior.mean, tril.diagonal().expm1().log(), tril[rows, columns]])
            q.raw.copy_(raw)
        return program


@pytest.fixture
def known(double):
    return Known()


def test_the_exact_posterior_has_the_evidence(known):
    """At each draw of it, to rounding: log p(x, w) - log p(w|x) does not depend on w."""
    program = known.exact()
    torch.testing.assert_close(program.p_x.weights().mean, known.posterior.mean)
    torch.testing.assert_close(program.p_x.weights().covariance_matrix, known.posterior.covariance_matrix)
    for loss in (
        Trace_ELBO(),
        Trace_ELBO(7, vectorize_particles=True, max_plate_nesting=1),
        TraceGraph_ELBO(),
    ):
        assert loss.loss(program.model, program.guide, known.batch) == pytest.approx(-known.log_p, rel=1e-9)


def test_another_guide_lies_below_by_its_divergence(known):
    program = Regression()
    q = program.p_x.weights()
    expected = known.log_p - kl_divergence(MultivariateNormal(q.mean, q.variance.diag()), known.posterior)
    found = torch.tensor(
        [
            -Trace_ELBO(500, vectorize_particles=True, max_plate_nesting=1).loss(
                program.model, program.guide, known.batch
            )
            for _ in range(10)
        ]
    )
    assert abs(found.mean() - expected) < 5 * found.std() / 10**0.5


@pytest.mark.parametrize(
    "loss", [Trace_ELBO(), TraceMeanField_ELBO(), TraceGraph_ELBO(), pv.objectives.AnalyticKL()]
)
def test_the_mean_of_batches_is_the_whole(known, loss):
    """N / B of each of them, at the same weights, and its gradient."""
    program = Regression(num_data=ROWS)

    def value(rows):
        torch.manual_seed(1)  # of the weights, all that is drawn
        program.zero_grad()
        found = float(
            loss.loss_and_grads(program.model, program.guide, {n: v[rows] for n, v in known.batch.items()})
        )
        gradient = torch.cat([p.grad.flatten() for p in program.parameters()])
        return torch.cat([torch.tensor([found]), gradient]) * ROWS / len(range(ROWS)[rows])

    batches = [value(slice(i, i + 3)) for i in range(0, ROWS, 3)]
    torch.testing.assert_close(torch.stack(batches).mean(0), value(slice(None)))
    assert not torch.allclose(batches[0], batches[1])
    program.see_number(2 * ROWS)  # or the test would hold whatever N were
    assert not torch.allclose(value(slice(None)), torch.stack(batches).mean(0))


def test_fit_knows_the_number_and_reports_the_bound():
    """Of a loss with KLs in closed form the reported ELBO is the very loss; N is that of the data at hand."""
    vae = make("VAE-bayesian")
    for number in (24, 18):
        data = pv.data.load(torch.rand(number, 2, 3).round(), validation=0, test=0)
        run = pv.fit(vae, data, epochs=2, batch_size=5, loss=TraceMeanField_ELBO(), beta=1.0, progress=False)
        assert vae.p_x.net.num_data == number
        assert run.history[-1]["loss"] == pytest.approx(-run.history[-1]["elbo"], rel=1e-5)
    kl = kl_divergence(vae.p_x.weights(), vae.p_x.net.prior()).item()
    assert run.history[-1]["kl_x_weights"] == pytest.approx(kl / 18, rel=0.01)


def test_what_is_loaded_knows_the_number(tmp_path):
    """So that Pyro's SVI of it takes the batch's share of the weights' KL, as it was trained."""
    vae, x = make("VAE-bayesian"), torch.rand(24, 2, 3).round()
    assert vae.seen_number is None
    pv.fit(vae, pv.data.load(x), epochs=1, progress=False, folder=tmp_path / "run")
    loaded = pv.load(tmp_path / "run", program=make("VAE-bayesian"))
    assert loaded.seen_number == vae.seen_number == 20
    losses = []
    for program in (vae, loaded, make("VAE-bayesian")):
        program.load_state_dict(vae.state_dict())
        torch.manual_seed(0)
        losses.append(Trace_ELBO().loss(program.model, program.guide, x[:5]))
    assert losses[0] == losses[1] != losses[2]


def test_the_density_of_a_datum_is_the_predictive_one(known):
    program = known.exact()
    found = pv.evaluate.log_likelihood(program, known.batch, num_samples=4000, max_rows=50_000)
    variance = NOISE**2 + (known.design @ known.posterior.covariance_matrix * known.design).sum(1)
    p = dist.Normal(known.design @ known.posterior.mean, variance.sqrt())
    noise = (1 / found.effective_sample_size - 1 / 4000).clamp(min=0).sqrt()
    assert ((found.per_datum - p.log_prob(known.batch["x"][:, 0])).abs() < 5 * noise).all()
    bound = pv.evaluate.elbo(program, known.batch, num_samples=500)
    assert bound.kl == 0
    assert bound.elbo < found.log_likelihood


@pytest.mark.parametrize(
    "shapes", [((), (4,)), ((3, 1), (3, 4)), ((3, 1), (4,)), ((3, 1), (2, 3, 4)), ((3, 1), (2, 1, 1))]
)
def test_weights_of_particles(double, shapes):
    """Row by row what one network of each particle's weights gives, of enumerated parents too."""
    net = pv.nets.bayesian(pv.nets.mlp(4))(((2,), (3,)), (5,))
    w0 = net.take()
    of_w, of_x = shapes
    w, a, b = w0 + torch.randn(*of_w, len(w0)), torch.randn(*of_x, 2), torch.randn(*of_x, 3)
    y = net(w, a, b)
    lead = torch.broadcast_shapes(of_w, of_x)
    assert y.shape == (*lead, 5)
    flat = [v.expand(*lead, v.shape[-1]).reshape(-1, v.shape[-1]) for v in (w, a, b)]
    rows = []
    plain = pv.nets.mlp(4)(((2,), (3,)), (5,))
    for own, *seen in zip(*flat, strict=True):
        torch.nn.utils.vector_to_parameters(own, plain.parameters())
        rows.append(plain(*seen))
    torch.testing.assert_close(y.reshape(-1, 5), torch.stack(rows))


def test_priors_scales():
    net = pv.nets.bayesian(pv.nets.conv(4, hidden_dim=6))((3,), (2, 4, 4))
    expected = {"layers.0.weight": 3**-0.5, "layers.0.bias": 1.0}
    pieces = dict(zip(net.shapes, net.scale.split([math.prod(s) for s in net.shapes.values()]), strict=True))
    for name, scale in expected.items():
        torch.testing.assert_close(pieces[name], torch.full_like(pieces[name], scale))
    assert (pv.nets.bayesian(pv.nets.mlp(4), scale=0.3)((3,), (2,)).scale == 0.3).all()


def test_without_n_a_batch_is_all_of_the_data():
    one, other = (pv.nets.bayesian(pv.nets.mlp(4), num_data=n)((2,), (3,)) for n in (None, 40))
    assert one.share(8) == 1
    assert other.share(8) == 0.2
    program = make("VAE-bayesian")
    program.initialize(pv.data.Split(batch_of(program, 20)))
    assert program.p_x.net.num_data == 20


@pytest.fixture(params=BAYESIAN)
def name(request):
    return request.param


def test_sites(name):
    program = make(name)
    batch = batch_of(program, 6)
    (c,) = program.bayesian
    ours = {id(p) for p in program.parameters()}
    for trace in (poutine.trace(s).get_trace(batch) for s in (program.model, program.guide)):
        site = trace.nodes["x_weights"]
        assert site["cond_indep_stack"] == ()
        assert site["fn"].event_shape == c.weights.event_shape
        assert {id(trace.nodes[n]["value"].unconstrained()) for n in trace.param_nodes} == ours
    assert c.drawn is None
    assert sum(p.numel() for p in c.net.parameters()) == 0
    with program.evaluating():
        for story in (program.model, program.guide):
            assert "x_weights" not in poutine.trace(story).get_trace(batch).nodes
        with as_written():
            assert "x_weights" in poutine.trace(program.model).get_trace(batch).nodes


@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")
def test_svi_trains_every_parameter(name):
    program = make(name)
    enumerates = isinstance(program, pv.SemiSupervisedVAE)
    loss = (TraceEnum_ELBO if enumerates else Trace_ELBO)(2, vectorize_particles=True)
    batch = batch_of(program, 8)
    before = copy.deepcopy(program.state_dict())
    svi = SVI(program.model, program.guide, pyro.optim.Adam({"lr": 1e-2}), loss)
    losses = [svi.step(batch) for _ in range(20)]
    assert sum(losses[-5:]) < sum(losses[:5])
    for key, parameter in program.named_parameters():
        assert not torch.equal(parameter, before[key]), key


def test_copies_texts_and_dtypes(name):
    program, other = make(name), make(name, seed=9)
    batch = batch_of(program, 8)
    program.initialize(pv.data.Split(batch))
    other.load_state_dict(program.state_dict())
    again = type(program)(**program.options)
    again.load_state_dict(program.state_dict())
    bound = pv.evaluate.elbo(program, batch, num_samples=3)
    for twin in (other, again, copy.deepcopy(program), pickle.loads(pickle.dumps(program))):
        assert pv.evaluate.elbo(twin, batch, num_samples=3) == bound
    text = registry.write(program.options["decoder"])
    assert registry.write(registry.read("decoder", text)) == text == repr(program.options["decoder"])
    program.double()
    assert program.generate(3, {n: batch[n][:3] for n in batch if n != "x"})["x"].dtype == torch.float64


def test_evaluation_is_of_what_was_learned_and_changes_nothing(name):
    program = make(name)
    batch = batch_of(program, 20)
    before, state = copy.deepcopy(program.state_dict()), torch.get_rng_state()
    bound = pv.evaluate.elbo(program, batch)
    assert bound == pv.evaluate.elbo(program, batch)
    estimate = pv.evaluate.log_likelihood(program, batch, num_samples=50)
    assert estimate.log_likelihood > bound.elbo - 3 * bound.draws_error
    assert not any("weights" in term for term in bound.terms)
    assert pv.predict(program, {n: v[:2] for n, v in batch.items()}, 3)["x"].shape[0] == 3
    assert program.generate(2, {n: batch[n][:2] for n in batch if n != "x"})["x"].shape[0] == 2
    assert all(torch.equal(value, before[key]) for key, value in program.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():  # a guide that knows nothing gives the prior's bound, not that of its centre
        program.bayesian[0].weights.family.parameters_["scale"].unit.mul_(100.0)
    assert pv.evaluate.elbo(program, batch).elbo < bound.elbo - 1


def test_explain_tells_of_the_weights(name):
    program = make(name)
    text = program.explain()
    assert "x_weights ~ p(x_weights) = Normal" in text
    assert "x_weights ~ q(x_weights) = Normal" in text
    assert "one for all data" in text
    assert "- beta KL(q(x_weights) || p(x_weights)) / N" in text
    assert "w" in program.explain("latex")


class TestVAE:
    def test_outside_of_a_story_the_weights_are_at_their_centre(self):
        vae = make("VAE-bayesian")
        z = torch.zeros(5, 2, D)
        assert torch.equal(vae.decode(z).mean, vae.decode(z).mean)
        assert vae.decode(z).batch_shape == (5, 2)
        assert vae.decode(z[0, 0]).batch_shape == ()

    def test_guides_of_the_weights(self):
        for guide in (pv.guides.LowRankNormal(2), pv.guides.FullRankNormal(), pv.guides.Laplace()):
            decoder = pv.nets.bayesian(pv.nets.mlp(), guide=guide)
            vae = pv.VAE((4,), 2, encoder=pv.nets.mlp(), decoder=decoder)
            assert type(vae.p_x.weights.family) is type(guide)
            plain, moved = vae.p_x.weights(), pv.nets.bayesian(pv.nets.mlp())((2,), (4,))
            assert ((plain.mean.abs() < 2) & (plain.variance.sqrt() < 0.3)).all()
            assert moved.take().shape == plain.event_shape
            text = registry.write(decoder)
            assert registry.write(registry.read("decoder", text)) == text
            Trace_ELBO().loss_and_grads(vae.model, vae.guide, torch.ones(3, 4))
            assert all(p.grad.isfinite().all() for p in vae.parameters())

    def test_what_does_not_go(self):
        vae, x = make("VAE-bayesian"), torch.ones(2, 2, 3)
        with pytest.raises(ValueError, match=r"encoder=bayesian.*is a network of the guide"):
            pv.VAE((4,), 2, encoder=pv.nets.bayesian(pv.nets.mlp(3)))
        with pytest.raises(ValueError, match="scale=0 must be a positive number"):
            pv.nets.bayesian(pv.nets.mlp(3), scale=0)
        with pytest.raises(TypeError, match="net is to be made by a factory"):
            pv.nets.bayesian(torch.nn.Linear(2, 2))
        with pytest.raises(ValueError, match="lies outside the plate 'data'"):
            pv.objectives.log_weights(vae, x, 2)
        for ask in (
            lambda: pv.predict(vae, x, 3, hmc=2),
            lambda: pv.evaluate.ais(vae, x, num_temperatures=3),
            lambda: pv.evaluate.calibration(vae, num_simulations=30),
        ):
            with pytest.raises(ValueError, match="are latent, drawn anew for each density"):
                ask()

    @pytest.mark.parametrize(
        "guide",
        [pv.guides.Discrete(), dist.Gamma, pv.guides.Dirichlet(), pv.guides.SemiAmortised()],
        ids=["discrete", "positive", "simplex", "steps"],
    )
    def test_guides_that_are_none_of_weights_are_refused(self, guide):
        decoder = pv.nets.bayesian(pv.nets.mlp(3), guide=guide)
        with pytest.raises(
            ValueError, match="is no family of latent weights, which are real and not of a da"
        ):
            pv.VAE((4,), 2, encoder=pv.nets.mlp(), decoder=decoder)

    def test_wrong_arguments_are_refused(self):
        latent = pv.nets.bayesian(pv.nets.mlp(3))
        with pytest.raises(ValueError, match=r"num_data=2\.5 must be a whole number; leave it out"):
            pv.nets.bayesian(pv.nets.mlp(3), num_data=2.5)
        with pytest.raises(ValueError, match="are latent already; leave out the outer bayesian"):
            pv.nets.bayesian(latent)
        with pytest.raises(ValueError, match=r"transition=bayesian.* is a part of the prior"):
            pv.SequentialVAE((4, 2), 2, transition=latent)

    def test_several_processes_are_refused(self):
        vae, x = make("VAE-bayesian"), torch.ones(8, 2, 3)
        data = pv.data.load(x, validation=0, test=0)
        settings, state = pv.training.Settings(), pv.training.state.State()
        with pytest.raises(pv.checks.ConfigError, match="'x_weights' lies outside the plate of the data"):
            list(opening(vae, data.train, settings, state, 1, False, 2))

    def test_a_run_is_kept_resumed_compared_and_drawn(self, tmp_path):
        vae = make("VAE-bayesian")
        data = pv.data.load(batch_of(vae, 40)["x"], validation=0.2, test=0.2)
        run = pv.fit(vae, data, folder=tmp_path / "run", epochs=2, batch_size=8, progress=False)
        assert {"kl_z", "kl_x_weights"} <= set(run.history[-1])
        loaded = pv.load(tmp_path / "run")
        assert pv.evaluate.elbo(loaded, data.test) == pv.evaluate.elbo(vae, data.test)
        pv.fit(loaded, data, epochs=1, progress=False)
        priors = [pv.priors.Normal(), pv.priors.MixtureOfNormals(2)]
        parts = vae.options | {"decoder": "bayesian(mlp(8), scale=0.5)"}
        kept = {name: parts[name] for name in ("latent_dim", "encoder", "decoder")}
        table = pv.compare(data, priors=priors, **kept, epochs=1, num_samples=20, progress=False)
        assert "MixtureOfNormals" in str(table)
        pyplot.close(pv.figures.summary(run))

    def test_the_map_is_dark_where_the_data_are(self):
        """Of a linear decoder the variance is known at each z; the error of 400 draws is 2 % of its root."""
        parts = {
            "encoder": pv.nets.mlp(),
            "decoder": pv.nets.bayesian(pv.nets.mlp(), guide=pv.guides.Normal()),
        }
        vae = pv.VAE((4,), 2, likelihood=pv.likelihoods.Normal(scale=1.0), **parts)
        figure = pv.figures.uncertainty(vae, torch.randn(20, 4), 9, num_samples=400)
        (image,) = figure.axes[0].images
        left, right, bottom, top = image.get_extent()
        codes = torch.as_tensor(figure.axes[0].lines[0].get_xydata())
        for (low, high), code in zip(((left, right), (bottom, top)), codes.T, strict=True):
            assert low < code.min() - 0.45 * (code.max() - code.min())  # where no data lie
            assert high > code.max() + 0.45 * (code.max() - code.min())
            assert low < -2.2  # the middle of the prior
            assert high > 2.2
        z = torch.meshgrid(torch.linspace(left, right, 9), torch.linspace(bottom, top, 9), indexing="xy")
        of_weights, of_biases = vae.p_x.weights().variance.detach().split([8, 4])
        of_weights = of_weights.reshape(4, 2).mean(0)
        expected = (of_weights[0] * z[0] ** 2 + of_weights[1] * z[1] ** 2 + of_biases.mean()).sqrt()
        found = torch.as_tensor(image.get_array().data)
        torch.testing.assert_close(found, expected, rtol=0.12, atol=0)
        assert expected.max() > 1.3 * expected.min()
        with pytest.raises(ValueError, match="no weights of this VAE are latent; make it with some"):
            pv.figures.uncertainty(pv.VAE((4,), 2), torch.rand(3, 4).round())
        with pytest.raises(ValueError, match="a map needs a latent plane, but there are z of shape"):
            pv.figures.uncertainty(make("VAE-bayesian"), torch.rand(3, 2, 3).round())

    def test_predictive_of_pyro(self):
        vae = make("VAE-bayesian")
        x = batch_of(vae, 6)["x"]
        drawn = Predictive(poutine.uncondition(vae.model), guide=vae.guide, num_samples=3)(x)
        assert drawn["x"].shape == (3, 6, *x.shape[1:])
        assert drawn["x_weights"].shape[0] == 3


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("by", ["site", "latent"])
def test_bits_are_free_of_each_datum_and_not_of_weights(by):
    """By hand; and where none are free it is the ELBO."""
    vae = pv.VAE((5,), 3, encoder=pv.nets.mlp(4), decoder=pv.nets.bayesian(pv.nets.mlp(4), num_data=40))
    x = torch.rand(8, 5).round()
    trace = poutine.trace(vae.guide).get_trace(x)
    guide = poutine.replay(vae.guide, trace)
    q = vae.encode(x)
    kl = kl_divergence(q.base_dist, dist.Normal(torch.zeros(3), 1.0))
    groups = kl.sum(1).mean() if by == "site" else kl.mean(0)
    weights = kl_divergence(vae.p_x.weights(), vae.p_x.net.prior()) * 8 / 40
    model = poutine.trace(poutine.replay(vae.model, trace)).get_trace(x)
    log_x = model.nodes["x"]["fn"].log_prob(x).sum()
    for nats in (0.0, groups.max().item() * 1.5):
        found = pv.objectives.FreeBits(nats, by).loss(vae.model, guide, x)
        expected = weights + 8 * groups.clamp(min=nats).sum() - log_x
        assert found == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.usefixtures("double")
def test_total_correlation_is_of_the_latents_of_data():
    vae = pv.VAE((5,), 3, encoder=pv.nets.mlp(4), decoder=pv.nets.bayesian(pv.nets.mlp(4), num_data=40))
    x = torch.rand(8, 5).round()
    guide = poutine.replay(vae.guide, poutine.trace(vae.guide).get_trace(x))
    z = poutine.trace(guide).get_trace(x).nodes["z"]["value"]
    one, three = (pv.objectives.BetaTC(40, beta).loss(vae.model, guide, x) for beta in (1.0, 3.0))
    assert one == pytest.approx(pv.objectives.AnalyticKL().loss(vae.model, guide, x), rel=1e-9)
    expected = total_correlation(vae.encode(x).base_dist, z, 40).sum().item()
    assert three - one == pytest.approx(2 * expected, rel=1e-9)
    with pytest.raises(ValueError, match="num_data=7 is less than a batch of 8"):
        pv.objectives.BetaTC(7).loss(vae.model, guide, x)


@pytest.mark.usefixtures("double")
def test_mmd_is_of_the_latents_of_data_and_not_of_weights():
    """The weights have their KL, and a batch's latents the discrepancy of a batch."""
    vae = pv.VAE((5,), 3, encoder=pv.nets.mlp(4), decoder=pv.nets.bayesian(pv.nets.mlp(4), num_data=40))
    x = torch.rand(8, 5).round()
    guide = poutine.replay(vae.guide, poutine.trace(vae.guide).get_trace(x))
    z = poutine.trace(guide).get_trace(x).nodes["z"]["value"]

    def found(weight, kl):
        torch.manual_seed(0)
        return pv.objectives.MMD(weight, kl).loss(vae.model, guide, x)

    torch.manual_seed(0)
    expected = discrepancy(z, vae.prior().expand((8,)).sample()).item()
    assert found(3.0, 0.0) - found(0.0, 0.0) == pytest.approx(8 * 3.0 * expected, rel=1e-9)
    elbo = pv.objectives.AnalyticKL().loss(vae.model, guide, x)
    kl = kl_divergence(vae.encode(x), vae.prior()).sum().item()
    assert found(0.0, 1.0) == pytest.approx(elbo, rel=1e-9)
    assert found(0.0, 0.0) == pytest.approx(elbo - kl, rel=1e-9)  # of the weights there still is one


def test_compiled_steps_are_the_eager_ones():
    """Seed for seed; vectorised particles too."""
    for particles in (1, 3):
        found = []
        for compile in (False, True):
            vae = make("VAE-bayesian")
            vae.see_number(50)
            x = batch_of(vae, 10)["x"]
            loss = Trace_ELBO(
                particles, vectorize_particles=particles > 1, max_plate_nesting=1 + (particles > 1)
            )
            optimizer = torch.optim.Adam(vae.parameters(), 1e-2)
            svi = pv.svi.SVI(vae.model, vae.guide, optimizer, loss, compile=compile)
            torch.manual_seed(0)
            found.append(torch.stack([svi.step(x).detach().clone() for _ in range(12)]))
            assert svi.engine.startswith("compiled" if compile else "eager")
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-3)
