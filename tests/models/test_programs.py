"""One contract, all programs: whatever its structure, the same tools take it."""

import copy
import inspect
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import DISCRETE, EVENT_SHAPE, GIVEN, PROGRAMS, SMALL, D, batch_of, make
from pyro import poutine
from pyro.infer import (
    SVI,
    Predictive,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)

import pyro_vae as pv
from pyro_vae import models, registry
from pyro_vae.objectives import log_weights

LATENTS = {
    "VAE": ["z"],
    "ConditionalVAE": ["z"],
    "SelectionVAE": ["z", "x_unobserved"],
    "SequentialVAE": ["z"],
    "own": ["a", "b"],
}
OBSERVED = {"own": {"x", "w"}, "SelectionVAE": {"x", "s"}}


@pytest.fixture(params=PROGRAMS)
def name(request):
    return request.param


def latents(program: pv.Program) -> list[str]:
    if isinstance(program, pv.HierarchicalVAE):
        return program.sites
    if isinstance(program, pv.CountVAE):
        return [*["library"] * (program.library == "latent"), "z"]
    return LATENTS.get(type(program).__name__, LATENTS["own"])


def test_every_model_is_tested():
    assert set(models.__all__) == {name.partition("-")[0] for name in PROGRAMS | DISCRETE} - {"own"}
    for model in models.__all__:
        assert len(inspect.getdoc(getattr(models, model))) > 200


def test_sites(name):
    program = make(name)
    batch = batch_of(program, 6)
    model = poutine.trace(program.model).get_trace(batch)
    guide = poutine.trace(program.guide).get_trace(batch)
    assert set(model.stochastic_nodes) == {"data", *latents(program)}
    assert set(guide.stochastic_nodes) == {"data", *latents(program)}
    assert set(model.observation_nodes) == OBSERVED.get(name, {"x"})
    for site in (*latents(program), "x"):
        assert [frame.name for frame in model.nodes[site]["cond_indep_stack"]] == ["data"]
    ours = {id(p) for p in program.parameters()}
    for trace in (model, guide):
        announced = [id(trace.nodes[node]["value"].unconstrained()) for node in trace.param_nodes]
        assert set(announced) == ours
        assert len(announced) == len(ours)
    assert not list(pyro.get_param_store())


def test_weights_of_particles(name):
    """Pyro's vectorised loss, draw for draw; datum by datum, whatever else is in the batch."""
    program = make(name)
    batch = batch_of(program, 4)
    torch.manual_seed(0)
    loss = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    theirs = loss.loss(program.model, program.guide, batch)
    torch.manual_seed(0)
    ours = log_weights(program, batch, 3)
    assert ours.shape == (3, 4)
    assert theirs == pytest.approx(-ours.sum(-1).mean().item(), rel=1e-4)


def test_data_are_independent(name):
    """What a datum adds does not depend on the others in the batch."""
    program = make(name).double()
    batch = program.place(batch_of(program, 4))
    z = {
        s: n["value"]
        for s, n in poutine.trace(program.guide).get_trace(batch).nodes.items()
        if s in latents(program)
    }

    def weight(rows):
        some, fixed = ({s: v[rows] for s, v in values.items()} for values in (batch, z))
        total = torch.zeros(())
        for story, sign in ((program.model, 1), (program.guide, -1)):
            trace = poutine.trace(poutine.condition(story, data=fixed)).get_trace(some)
            trace.compute_log_prob()
            total = total + sign * sum(trace.nodes[s]["log_prob"] for s in trace.observation_nodes)
        return total

    torch.testing.assert_close(weight(slice(None))[2], weight(slice(2, 3))[0])


def test_every_parameter_receives_a_gradient(name):
    program = make(name)
    (-log_weights(program, batch_of(program, 8), 2).mean()).backward()
    for parameter_name, parameter in program.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


def test_missing_values_anywhere(name):
    program = make(name)
    batch = batch_of(program, 8)
    for site, value in batch.items():
        if value.is_floating_point():
            batch[site] = torch.where(torch.rand_like(value) < 0.3, torch.nan, value)
    if "y" in batch:
        batch["y"] = torch.where(torch.rand(8) < 0.5, torch.nan, batch["y"].float())
    for see in (False, True):
        if see:
            program.initialize(pv.data.Split(batch))
        log_w = log_weights(program, batch, 3)
        assert log_w.isfinite().all()
        log_w.sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in program.parameters())


def test_state_and_copies(name):
    program, other = make(name), make(name, seed=9)
    batch = batch_of(program, 8)
    program.initialize(pv.data.Split(batch))
    with torch.no_grad():
        for p in program.parameters():
            p.add_(0.01 * torch.randn_like(p))
    program.model(batch)  # whatever Pyro keeps of it
    other.load_state_dict(program.state_dict())
    twins = [other, copy.deepcopy(program), pickle.loads(pickle.dumps(program))]
    if program.options:
        again = type(program)(**program.options)
        again.load_state_dict(program.state_dict())
        twins.append(again)
    for twin in twins:
        assert bool(twin.initialized)
        torch.manual_seed(0)
        one = log_weights(program, batch, 2)
        torch.manual_seed(0)
        assert torch.equal(one, log_weights(twin, batch, 2))
        assert not {t.data_ptr() for t in program.parameters()} & {t.data_ptr() for t in twin.parameters()}


def test_options_are_texts(name):
    """What a program was made with can be written down, and read again."""
    program = make(name)
    if not program.options:
        assert name == "own"
        return
    assert registry.names("model")[type(program).__name__] is type(program)
    for part, value in program.options.items():
        if part in registry.PARTS:
            text = registry.write(value)
            assert registry.write(registry.read(part, text, trust="*")) == text


def test_float64(name):
    program = make(name).double()
    batch = program.place(batch_of(program, 4))
    assert program.dtype == torch.float64
    assert log_weights(program, batch, 2).dtype == torch.float64
    drawn = program.generate(3, {site: batch[site][:3] for site in batch if site in ("y", "age")})
    assert drawn["x"].dtype == torch.float64


def test_meta_device(name):
    program = make(name).to("meta")
    batch = program.place(batch_of(program, 4))
    with pyro.validation_enabled(False):
        assert log_weights(program, batch, 2).device.type == "meta"


def test_generate(name):
    program = make(name)
    given = {"y": 2, "age": torch.tensor([0.5, -1.0])} if "y" in program.event_shapes else {}
    state = torch.get_rng_state()
    drawn = program.generate(5, given)
    assert torch.equal(torch.get_rng_state(), state)
    assert drawn["x"].shape == (5, *program.event_shapes["x"])
    assert set(drawn) >= {*latents(program), "x"}
    assert all(len(drawn[site]) == 5 for site in drawn)
    assert all(
        torch.equal(value, again)
        for value, again in zip(drawn.values(), program.generate(5, given).values(), strict=True)
    )
    assert not torch.equal(
        drawn[latents(program)[0]], program.generate(5, given, seed=1)[latents(program)[0]]
    )
    ones = torch.ones(program.event_shapes["x"])
    assert torch.equal(program.generate(5, {**given, "x": ones})["x"], ones.expand(5, *ones.shape))
    with pytest.raises(pv.data.DataError, match="'v' is no site"):
        program.generate(5, {"v": 1})
    with pytest.raises(pv.data.DataError, match="is no value of x"):
        program.generate(5, {"x": torch.zeros(7)})


def test_evaluation_changes_nothing(name):
    program = make(name)
    batch = batch_of(program, 20)
    program.train()
    next(module for module in program.modules() if isinstance(module, torch.nn.Linear)).eval()
    before = copy.deepcopy(program.state_dict())
    modes = [m.training for m in program.modules()]
    state = torch.get_rng_state()
    bound = pv.evaluate.elbo(program, batch)
    estimate = pv.evaluate.log_likelihood(program, batch, num_samples=50)
    units = pv.evaluate.active_units(program, batch)
    assert set(units) == set(latents(program))
    assert estimate.per_datum.shape == (20,)
    assert estimate.log_likelihood > bound.elbo - 3 * bound.draws_error
    observed = {f"reconstruction_{s}" for s in OBSERVED.get(name, {"x"})}
    assert set(bound.terms) == {f"kl_{s}" for s in latents(program)} | observed
    assert bound == pv.evaluate.elbo(program, batch)
    assert bound != pv.evaluate.elbo(program, batch, seed=1)
    for key, value in program.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert [m.training for m in program.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in program.parameters())
    assert not list(pyro.get_param_store())


@pytest.mark.parametrize(
    "loss",
    [
        Trace_ELBO(),
        TraceGraph_ELBO(),
        TraceMeanField_ELBO(),
        TraceEnum_ELBO(),
        RenyiELBO(alpha=0, num_particles=5, vectorize_particles=True),
    ],
    ids=lambda loss: type(loss).__name__,
)
@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")
def test_svi_trains_every_parameter(name, loss):
    if isinstance(loss, TraceMeanField_ELBO) and name == "HierarchicalVAE-bottom-up":
        pytest.skip("a guide that goes against the model is none of Pyro's mean fields")
    program = make(name)
    batch = batch_of(program, 8)
    before = copy.deepcopy(program.state_dict())
    svi = SVI(program.model, program.guide, pyro.optim.Adam({"lr": 1e-2}), loss)
    first = sum(svi.step(batch) for _ in range(5)) / 5
    for _ in range(25):
        svi.step(batch)
    last = sum(svi.step(batch) for _ in range(5)) / 5
    assert last < first
    for key, parameter in program.named_parameters():
        assert not torch.equal(parameter, before[key]), key
    assert not list(pyro.get_param_store())


def test_predictive_and_condition(name):
    program = make(name)
    batch = batch_of(program, 6)
    drawn = Predictive(poutine.uncondition(program.model), num_samples=4)(batch)
    assert drawn["x"].shape == (4, 6, *program.event_shapes["x"])
    posterior = Predictive(
        poutine.uncondition(program.model), guide=program.guide, num_samples=7, parallel=True
    )(batch)
    site = latents(program)[0]
    assert posterior[site].numel() == 7 * 6 * drawn[site][0, 0].numel()
    z = {
        s: poutine.trace(program.model).get_trace(batch).nodes[s]["value"].detach() for s in latents(program)
    }
    trace = poutine.trace(poutine.condition(program.model, data=z)).get_trace(batch)
    trace.compute_log_prob()
    assert all(torch.equal(trace.nodes[s]["value"], z[s]) for s in z)
    assert trace.nodes["x"]["log_prob"].shape == (6,)


def test_render_model(name):
    program = make(name)
    batch = batch_of(program, 3)
    graph = pyro.render_model(program.model, model_args=(batch,), render_distributions=True)
    below = latents(program)[0]
    assert f"{below} -> x" in graph.source
    families = {"CountVAE": "NegativeBinomial", "SelectionVAE": "Normal"}
    family = "ByColumn" if program.columns else families.get(type(program).__name__, "Bernoulli")
    assert f"x ~ {family}" in graph.source


@pytest.mark.parametrize("name", ["ConditionalVAE", "HierarchicalVAE-bottom-up", "own"])
def test_nuts(name):
    program = make(name)
    batch = batch_of(program, 2)
    mcmc = pyro.infer.MCMC(pyro.infer.NUTS(program.model, jit_compile=False), 20, 20, disable_progbar=True)
    mcmc.run(batch)
    for site in latents(program):
        assert mcmc.get_samples()[site].shape[:2] == (20, 2)
        assert mcmc.get_samples()[site].isfinite().all()


class SemiSupervised(pv.ConditionalVAE):
    """Labels that are drawn and enumerated: parents with an extra dimension ahead of the batch."""

    def __init__(self, **options):
        super().__init__(EVENT_SHAPE, given={"y": 3}, latent_dim=D, **SMALL, **options)
        self.classify = torch.nn.Linear(6, 3)

    def model(self, batch):
        with self.plate({"x": batch["x"]}):
            y = pyro.sample("y", dist.Categorical(logits=torch.zeros(3)))
            z = self.sample("z", self.prior(*[y] * bool(self.p_z.parents)))
            self.sample("x", self.p_x(z, y), batch)

    def guide(self, batch):
        with self.plate({"x": batch["x"]}):
            logits = self.classify(batch["x"].nan_to_num(0.0).flatten(1))
            y = pyro.sample("y", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
            self.sample("z", self.q_z(batch["x"], y))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("conditional_prior", [False, True])
@pytest.mark.parametrize("gaps", [False, True])
def test_enumeration_is_the_sum(conditional_prior, gaps):
    """TraceEnum_ELBO against the sum over labels by hand, in expectation."""
    torch.manual_seed(0)
    program = SemiSupervised(conditional_prior=conditional_prior)
    x = torch.rand(4, *EVENT_SHAPE).round()
    x = torch.where(torch.rand_like(x) < 0.3, torch.nan, x) if gaps else x
    seen = x.nan_to_num(0.0) if gaps else x
    number = 3000
    elbo = TraceEnum_ELBO(num_particles=number, vectorize_particles=True, max_plate_nesting=1)
    theirs = -elbo.loss(program.model, program.guide, {"x": x})
    log_q = program.classify(seen.flatten(1)).log_softmax(-1)
    exact, variance = 0.0, 0.0
    with torch.no_grad():
        for k in range(3):
            y = torch.full((4,), k)
            q = program.encode(x, y)
            z = q.rsample((number,))
            p = program.prior(*[y] * conditional_prior)
            log_x = program.decode(z, y.expand(number, 4))
            joint = log_x.base_dist.log_prob(seen)
            joint = torch.where(x.isnan(), 0.0, joint).sum((-1, -2)) + p.log_prob(z) - q.log_prob(z)
            each = log_q[:, k].exp() * (joint - torch.log(torch.tensor(3.0)) - log_q[:, k])
            exact = exact + each.mean(0).sum()
            variance = variance + each.sum(-1).var() / number
    assert theirs == pytest.approx(exact.item(), abs=7 * (2 * variance).item() ** 0.5)
    loss = TraceEnum_ELBO(max_plate_nesting=1)
    svi = SVI(program.model, program.guide, pyro.optim.Adam({"lr": 1e-3}), loss)
    assert svi.step({"x": x}) > 0


class TestConditional:
    def test_what_is_given_matters(self):
        program = make("ConditionalVAE")
        batch = batch_of(program, 4)
        z = torch.zeros(4, D)
        base = program.decode(z, batch["y"], batch["age"]).mean
        assert not torch.allclose(program.decode(z, (batch["y"] + 1) % 3, batch["age"]).mean, base)
        assert not torch.allclose(program.decode(z, batch["y"], batch["age"] + 1).mean, base)
        assert program.prior(batch["y"], batch["age"]).batch_shape == ()
        conditional = make("ConditionalVAE-prior")
        p = conditional.prior(batch["y"], batch["age"])
        assert p.batch_shape == (4,)
        assert not torch.allclose(p.mean[0], p.mean[1])

    def test_a_missing_label_is_seen_as_none(self):
        program = make("ConditionalVAE")
        batch = batch_of(program, 4)
        z = torch.zeros(4, D)
        unknown = program.decode(z, torch.full((4,), torch.nan), batch["age"]).mean
        for k in range(3):
            assert not torch.allclose(program.decode(z, torch.full((4,), k), batch["age"]).mean, unknown)

    def test_labels_whole_or_floating_are_the_same(self):
        program = make("ConditionalVAE")
        batch = batch_of(program, 4)
        torch.manual_seed(0)
        one = log_weights(program, batch)
        torch.manual_seed(0)
        assert torch.equal(one, log_weights(program, batch | {"y": batch["y"].float()}))

    def test_what_is_missing_from_a_batch_is_named(self):
        program = make("ConditionalVAE")
        batch = batch_of(program, 4)
        with pytest.raises(pv.data.DataError, match=r"needs y in each batch, but has x, age"):
            program.model({"x": batch["x"], "age": batch["age"]})
        with pytest.raises(pv.data.DataError, match=r"needs values of (y|age)"):
            pv.evaluate.elbo(program, batch["x"])
        with pytest.raises(pv.data.DataError, match=r"y has classes from 0 to 7.*given=\{'y': 8\}"):
            pv.evaluate.elbo(program, batch | {"y": torch.tensor([0, 1, 2, 7])})

    @pytest.mark.parametrize(
        "given", [{}, {"y": 0}, {"y": 2.5}, {"x": 3}, {"z": 3}, {"y": (0,)}, {"y": True}]
    )
    def test_impossible_conditions_are_refused(self, given):
        with pytest.raises(ValueError, match=r"given=|nothing is given"):
            pv.ConditionalVAE(EVENT_SHAPE, given=given)

    def test_given_is_copied(self):
        given = dict(GIVEN)
        program = pv.ConditionalVAE(EVENT_SHAPE, given=given, **SMALL)
        given["w"] = 3
        assert set(program.given) == set(GIVEN) == set(program.options["given"])


class TestHierarchical:
    def test_any_depth(self):
        for inference in ("bottom_up", "top_down"):
            for dims in [(3,), (4, 2), (5, 4, 3, 2)]:
                program = pv.HierarchicalVAE(
                    EVENT_SHAPE, dims, inference=inference, between=pv.nets.mlp(4), **SMALL
                )
                batch = {"x": torch.rand(4, *EVENT_SHAPE).round()}
                model = poutine.trace(program.model).get_trace(batch)
                assert {s: model.nodes[s]["value"].shape[1] for s in program.sites} == {
                    f"z{i}": d for i, d in enumerate(dims, 1)
                }
                assert log_weights(program, batch, 2).shape == (2, 4)

    def test_one_level_is_the_vae(self):
        one = make("HierarchicalVAE-1")
        vae = make("VAE")
        batch = {"x": torch.rand(4, *EVENT_SHAPE).round()}
        vae.q_z.net.load_state_dict(one.q_z[0].net.state_dict())
        vae.p_x.net.load_state_dict(one.p_x.net.state_dict())
        torch.manual_seed(0)
        weights = log_weights(one, batch, 3)
        torch.manual_seed(0)
        torch.testing.assert_close(weights, log_weights(vae, batch, 3))

    def test_top_down_shares_the_models_path(self):
        program = make("HierarchicalVAE-top-down")
        guide = poutine.trace(program.guide).get_trace({"x": torch.rand(4, *EVENT_SHAPE).round()})
        z2, q = guide.nodes["z2"]["value"], guide.nodes["z1"]["fn"]
        p = program.p_z[0](z2).base_dist
        assert (q.base_dist.scale < p.scale).all()  # a product is narrower than its factors
        log_ratio = (q.log_prob(z := torch.randn(1000, 4, 4)) - program.p_z[0](z2).log_prob(z)).var()
        assert log_ratio > 0

    def test_other_guides_and_priors(self):
        x = torch.rand(4, *EVENT_SHAPE).round()
        for options in (
            {"guide": pv.guides.StudentT()},
            {"guide": pv.guides.FullRankNormal()},
            {"prior": dist.Gamma(2.0, 1.0)},
            {"prior": pv.priors.Flow(hidden_dims=[8])},
            {"prior": pv.priors.MixtureOfNormals(3), "inference": "top_down"},
        ):
            program = pv.HierarchicalVAE(EVENT_SHAPE, (4, 2), between=pv.nets.mlp(4), **SMALL, **options)
            assert log_weights(program, x, 2).isfinite().all(), options
        with pytest.raises(ValueError, match='inference="top_down" multiplies Normals'):
            pv.HierarchicalVAE(EVENT_SHAPE, (4, 2), inference="top_down", guide=pv.guides.StudentT())
        with pytest.raises(ValueError, match="neither"):
            pv.HierarchicalVAE(EVENT_SHAPE, (4, 2), inference="ladder")
        for dims in [(), (0,), (3, -1)]:
            with pytest.raises(ValueError, match=r"has no level|each positive"):
                pv.HierarchicalVAE(EVENT_SHAPE, dims)

    def test_top_down_over_a_prior_with_ends(self):
        """The top level is pushed onto the support of its prior."""
        torch.manual_seed(0)
        program = pv.HierarchicalVAE(
            EVENT_SHAPE,
            (4, 2),
            inference="top_down",
            prior=dist.Gamma(2.0, 1.0),
            between=pv.nets.mlp(4),
            **SMALL,
        )
        assert log_weights(program, torch.rand(4, *EVENT_SHAPE).round(), 5).isfinite().all()


def test_fit_trains_every_parameter(name):
    program = make(name)
    data = pv.data.load(batch_of(program, 60))
    program.initialize(data.train)
    before = {key: value.clone() for key, value in program.named_parameters()}
    pv.fit(program, data, epochs=2, batch_size=16, progress=False)
    for key, value in program.named_parameters():
        assert not torch.equal(value, before[key]), key
