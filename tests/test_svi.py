"""Eager and compiled steps are those of pyro.infer.SVI; failures are named, and not taken."""

import copy
import functools
import math
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.infer
import pyro.optim.multi
import pytest
import torch
from plain import Autoencoder, B, batches, make_svi, terms
from pyro.contrib.gp.kernels import RBF
from pyro.infer import (
    EnergyDistance,
    JitTrace_ELBO,
    JitTraceEnum_ELBO,
    JitTraceGraph_ELBO,
    JitTraceMeanField_ELBO,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    Trace_MMD,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
)
from torch import nn
from torch.distributions import constraints

import pyro_vae.svi
from pyro_vae.svi import SVI, NonFiniteLossError


@pytest.mark.parametrize(("fused", "compile"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize(
    "loss",
    [
        Trace_ELBO(),
        Trace_ELBO(num_particles=2, vectorize_particles=True),
        TraceMeanField_ELBO(),
        RenyiELBO(alpha=0.5, num_particles=2, vectorize_particles=True),
    ],
    ids=["Trace", "Trace-2", "MeanField", "Renyi"],
)
def test_equals_pyro_step_for_step(loss, fused, compile):
    """Ours divides gradients by B = 32; Adam then takes the same step if its eps is 32 times smaller.

    A power of two, so that the mean and the sum over data differ by exact arithmetic.
    """
    ours, theirs = Autoencoder(), Autoencoder()
    optimizer = torch.optim.Adam(ours.parameters(), lr=1e-2, eps=1e-8 / B, fused=fused)
    svi = SVI(ours.model, ours.guide, optimizer, loss, compile=compile, reduction="mean")
    reference = pyro.infer.SVI(
        theirs.model, theirs.guide, pyro.optim.Adam({"lr": 1e-2, "eps": 1e-8}), copy.copy(loss)
    )
    for step, x in enumerate(batches(*[B] * 12)):
        torch.manual_seed(step)
        expected = reference.step(x) / B
        torch.manual_seed(step)
        assert svi.step(x).item() == pytest.approx(expected, rel=1e-6)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_takes_the_gradient_of_the_mean():
    module = Autoencoder()
    x = batches(B)[0]
    before = [p.detach().clone() for p in module.parameters()]
    torch.manual_seed(0)
    Trace_ELBO().differentiable_loss(module.model, module.guide, x).div(B).backward()
    gradients = [p.grad.clone() for p in module.parameters()]
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    SVI(module.model, module.guide, optimizer, Trace_ELBO(), reduction="mean").step(x)
    for p, old, g in zip(module.parameters(), before, gradients, strict=True):
        torch.testing.assert_close(p.detach(), old - 0.1 * g)


@pytest.mark.parametrize("compile", [True, False])
def test_terms(compile, uncompiled):
    """A tensor of the traces of the very step: its loss is made of them."""

    def parts(model, guide):
        densities = [trace.log_prob_sum() for trace in (model, guide)]
        return torch.stack(densities)

    svi = make_svi(Autoencoder(), compile=compile, reduction="sum", terms=parts)
    for x in batches(B, B, B):
        loss = svi.step(x)
        log_p, log_q = svi.terms
        torch.testing.assert_close(loss, log_q - log_p)
        assert not svi.terms.requires_grad


def test_mean_needs_a_tensor():
    svi = SVI(lambda n: None, lambda n: None, pyro.optim.SGD({}), Trace_ELBO(), reduction="mean")
    with pytest.raises(ValueError, match="needs a tensor among the arguments"):
        svi.step(3)


@pytest.mark.parametrize("compile", [True, False])
def test_clipping(compile, uncompiled):
    module = Autoencoder()
    svi = SVI(
        module.model,
        module.guide,
        torch.optim.SGD(module.parameters(), lr=1.0),
        Trace_ELBO(),
        clip_norm=0.5,
        reduction="mean",
        compile=compile,
    )
    for x in batches(B, B):
        before = [p.detach().clone() for p in module.parameters()]
        svi.step(x)
    moved = [p.detach() - old for p, old in zip(module.parameters(), before, strict=True)]
    assert nn.utils.get_total_norm(moved).item() == pytest.approx(0.5, rel=1e-4)


def test_validation_is_on_in_the_first_step():
    with pytest.raises(ValueError, match="support"):
        make_svi(Autoencoder()).step(torch.full((4, 64), 0.5))


@pytest.mark.parametrize("option", ["compile", "precision", "reduction"])
def test_wrong_options(option):
    with pytest.raises(ValueError, match=f"{option}='fast' is none of"):
        make_svi(Autoencoder(), **{option: "fast"})


@pytest.mark.parametrize("clip_norm", [-1.0, 0, float("nan"), float("inf")])
def test_only_positive_norms(clip_norm):
    """A negative one would ascend."""
    vae = Autoencoder()
    optim = torch.optim.Adam(vae.parameters())
    with pytest.raises(ValueError, match="must be a positive number"):
        SVI(vae.model, vae.guide, optim, Trace_ELBO(), clip_norm=clip_norm)


def test_lbfgs_is_refused():
    module = Autoencoder()
    with pytest.raises(ValueError, match="LBFGS"):
        SVI(module.model, module.guide, torch.optim.LBFGS(module.parameters()), Trace_ELBO())


def test_auto_waits(monkeypatch, uncompiled):
    monkeypatch.setattr(pyro_vae.svi, "AUTO_STEPS", 3)
    svi = make_svi(Autoencoder(), compile="auto")
    engines = []
    for x in batches(*[B] * 5):
        svi.step(x)
        engines.append(svi.engine)
    assert engines == ["eager, float32"] * 3 + ["compiled, float32"] * 2


@pytest.mark.filterwarnings("ignore:Encountered NaN")
class TestNonFinite:
    def broken(self, where):
        module = Autoencoder()
        optimizer = torch.optim.Adam(module.parameters())
        svi = SVI(module.model, module.guide, optimizer, Trace_ELBO(), terms=terms)
        x = batches(B)[0]
        svi.step(x)
        with torch.no_grad():
            getattr(module, where)[-1].bias.fill_(math.nan)
        before = copy.deepcopy([module.state_dict(), optimizer.state_dict()])
        noise = torch.get_rng_state()
        with pytest.raises(NonFiniteLossError) as caught:
            svi.step(x)
        torch.testing.assert_close([module.state_dict(), optimizer.state_dict()], before, equal_nan=True)
        after = torch.get_rng_state()
        torch.set_rng_state(noise)
        torch.randn(B, 2)
        assert torch.equal(torch.get_rng_state(), after)  # one step has drawn, and no explanation
        return str(caught.value)

    def test_site_of_the_guide_is_named(self):
        assert "in step 2: the value at site 'z' of the guide" in self.broken("encoder")

    def test_site_of_the_model_is_named(self):
        assert "in step 2: the log-density at site 'x' of the model" in self.broken("decoder")

    def test_in_the_first_step(self):
        """Where Pyro's validation would answer with a ValueError."""
        module = Autoencoder()
        module.encoder[-1].bias.data.fill_(math.nan)
        with pytest.raises(NonFiniteLossError, match="in step 1: the value at site 'z' of the guide"):
            make_svi(module).step(batches(B)[0])

    def test_gradient(self):
        """A finite loss with an infinite gradient: the square root at zero."""
        w = nn.Parameter(torch.zeros(()))

        def model(x):
            pyro.param("w", w)
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(w.sqrt(), 1.0), obs=x)

        svi = SVI(model, lambda x: None, torch.optim.SGD([w], lr=0.1), Trace_ELBO())
        with pytest.raises(NonFiniteLossError, match="norm is not finite in step 1"):
            svi.step(torch.ones(3))
        assert w == 0


def test_any_pyro_model():
    """Bayesian linear regression with an autoguide: the posterior mean is known."""
    torch.manual_seed(0)
    x = torch.randn(200, 1)
    y = 2 * x[:, 0] + 0.1 * torch.randn(200)

    def model(xy):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(xy)):
            pyro.sample("y", dist.Normal(w * xy[:, 0], 0.1), obs=xy[:, 1])

    guide = pyro.infer.autoguide.AutoNormal(model)
    xy = torch.stack([x[:, 0], y], 1)
    guide(xy)
    svi = SVI(model, guide, torch.optim.Adam(guide.parameters(), lr=0.02), Trace_ELBO())
    for _ in range(600):
        svi.step(xy)
    precision = 1 + x.square().sum() / 0.01
    mean = (x[:, 0] * y).sum() / 0.01 / precision
    assert guide.median()["w"].item() == pytest.approx(mean.item(), abs=0.01)


class TestInThePlaceOfPyros:
    """What scripts written for pyro.infer.SVI do."""

    @staticmethod
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 2.0))
            pyro.sample("x", dist.Normal(z, pyro.param("scale", lambda: torch.ones(()))), obs=x)

    @staticmethod
    def guide(x, observations=None):  # which ReweightedWakeSleep gives
        loc = pyro.param("loc", lambda: torch.zeros(()))
        scale = pyro.param("spread", lambda: torch.ones(()), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc + 0.5 * x, scale))

    x = torch.linspace(-1, 2, 7)

    def run(self, kind, loss, *, steps=4, optim=None, more=(), **options):
        """Losses, parameters and the SVI."""
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        optim = optim or pyro.optim.ClippedAdam({"lr": 0.02, "clip_norm": 0.5, "lrd": 0.9})
        svi = kind(self.model, self.guide, optim, loss, *more, **options)
        losses = []
        for _ in range(steps):
            loss = svi.step(self.x)
            losses += [tuple(map(float, loss)) if isinstance(loss, tuple) else float(loss)]
        return np.array(losses), {k: v.detach().clone() for k, v in pyro.get_param_store().items()}, svi

    def assert_equal(self, one, other):
        np.testing.assert_allclose(one[0], other[0], rtol=1e-5)
        assert one[1].keys() == other[1].keys()
        for name, value in one[1].items():
            torch.testing.assert_close(value, other[1][name], rtol=1e-4, atol=1e-5)

    def by_hand(model, guide, *args):  # noqa: N805
        """The ELBO, as Pyro's tutorial writes it."""
        of_guide = pyro.poutine.trace(guide).get_trace(*args)
        of_model = pyro.poutine.trace(pyro.poutine.replay(model, trace=of_guide)).get_trace(*args)
        return of_guide.log_prob_sum() - of_model.log_prob_sum()

    @pytest.mark.filterwarnings("ignore:.*no sample sites configured for enumeration")
    @pytest.mark.parametrize(
        ("loss", "of_pyro", "compile"),
        [
            (by_hand, None, True),
            (Trace_ELBO(num_particles=2).differentiable_loss, None, False),
            (TraceTailAdaptive_ELBO(num_particles=3, vectorize_particles=True), None, True),
            (EnergyDistance(prior_scale=0.1, num_particles=3), None, True),
            (Trace_MMD(RBF(1), num_particles=3), None, True),
            (ReweightedWakeSleep(num_particles=2, vectorize_particles=True), None, True),
            (JitTrace_ELBO(), Trace_ELBO(), False),
            (JitTraceGraph_ELBO(), pyro.infer.TraceGraph_ELBO(), False),
            (JitTraceEnum_ELBO(), pyro.infer.TraceEnum_ELBO(), False),
            (JitTraceMeanField_ELBO(), TraceMeanField_ELBO(), False),
        ],
        ids=lambda value: value if isinstance(value, bool) else type(value).__name__,
    )
    def test_every_kind_of_loss(self, loss, of_pyro, compile):
        """The Jit ones draw other random numbers in Pyro, and are held against those without."""
        of_pyro = of_pyro or copy.copy(loss)
        expected = self.run(pyro.infer.SVI, of_pyro)
        found = self.run(SVI, loss, compile=compile)
        self.assert_equal(found, expected)
        svi = found[2]
        assert svi.engine == ("compiled, float32" if compile else "eager, float32")
        if hasattr(loss, "max_plate_nesting"):  # which is guessed at the first use
            assert loss.max_plate_nesting == of_pyro.max_plate_nesting
        evaluated = []
        for each in (svi, expected[2]):
            pyro.set_rng_seed(1)
            try:
                evaluated.append(each.evaluate_loss(self.x))
            except NotImplementedError:
                evaluated.append(None)
        assert type(evaluated[0]) is type(evaluated[1])
        if evaluated[0] is not None:
            np.testing.assert_allclose(*evaluated, rtol=1e-4)

    def test_gradients_of_ones_own(self):
        def loss_and_grads(model, guide, *args):
            loss = Trace_ELBO().differentiable_loss(model, guide, *args)
            (2 * loss).backward()
            return loss.item()

        loss = Trace_ELBO().loss
        optim = [pyro.optim.SGD({"lr": 0.01}) for _ in range(2)]
        expected = self.run(pyro.infer.SVI, loss, optim=optim[0], more=[loss_and_grads])
        self.assert_equal(self.run(SVI, loss, optim=optim[1], more=[loss_and_grads]), expected)

    def test_what_a_loss_closes_over_is_followed(self, uncompiled):
        setting = {"weight": 1.0}

        def loss(model, guide, x):
            return setting["weight"] * Trace_ELBO().differentiable_loss(model, guide, x)

        svi = self.run(SVI, loss, optim=pyro.optim.SGD({"lr": 0.0}), compile=True)[2]
        for weight in (1.0, 2.0):
            setting["weight"] = weight
            pyro.set_rng_seed(0)
            before = float(svi.step(self.x))
        pyro.set_rng_seed(0)
        setting["weight"] = 1.0
        assert before == pytest.approx(2 * float(svi.step(self.x)))
        assert svi.num_compilations == 2
        assert svi.engine == "compiled, float32"

    def test_a_loss_sees_the_programs_as_they_are(self):
        class Program(nn.Module):
            rate = 3.0

            def forward(self, x):
                return TestInThePlaceOfPyros.model(x)

        def loss(model, guide, x):
            return model.rate * Trace_ELBO().differentiable_loss(model, guide, x)

        losses = []
        for kind in (pyro.infer.SVI, SVI):
            pyro.clear_param_store()
            pyro.set_rng_seed(0)
            losses.append(float(kind(Program(), self.guide, pyro.optim.SGD({"lr": 0.1}), loss).step(self.x)))
        assert losses[0] == pytest.approx(losses[1])

    def test_the_mean_of_several_losses_is_one(self):
        loss = ReweightedWakeSleep(num_particles=2, max_plate_nesting=1)
        both = self.run(SVI, loss, steps=1)[0][0]
        (mean,), _, svi = self.run(SVI, loss, steps=1, reduction="mean")
        assert mean == pytest.approx(sum(both) / len(self.x), rel=1e-5)
        assert isinstance(svi.evaluate_loss(self.x), float)

    @pytest.mark.parametrize(
        "make",
        [
            lambda: pyro.optim.ExponentialLR(
                {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "gamma": 0.5}
            ),
            lambda: pyro.optim.ReduceLROnPlateau(
                {"optimizer": torch.optim.SGD, "optim_args": {"lr": 0.01}, "patience": 0}
            ),
            lambda: pyro.optim.AdagradRMSProp({"eta": 0.1}),
            lambda: pyro.optim.Adam(lambda name: {"lr": 0.1 if name == "loc" else 0.01}, {"clip_value": 0.1}),
        ],
        ids=["ExponentialLR", "ReduceLROnPlateau", "AdagradRMSProp", "by name"],
    )
    def test_optimizers(self, make):
        found = []
        for kind in (pyro.infer.SVI, SVI):
            optim = make()
            self.run(kind, Trace_ELBO(), optim=optim, steps=1)
            svi = kind(self.model, self.guide, optim, Trace_ELBO())
            losses = []
            for _ in range(4):
                losses.append(float(svi.step(self.x)))
                if isinstance(optim, pyro.optim.PyroLRScheduler):
                    plateau = isinstance(
                        next(iter(optim.optim_objs.values())), torch.optim.lr_scheduler.ReduceLROnPlateau
                    )
                    optim.step(*([losses[-1]] if plateau else []))
            store = {k: v.detach().clone() for k, v in pyro.get_param_store().items()}
            found.append((losses, store, optim.get_state()))
        self.assert_equal(*found)
        assert found[0][2].keys() == found[1][2].keys()

    def test_parameters_without_a_gradient(self):
        """Pyro's optimizer meets them, and nobody is warned."""

        def guide(x):
            pyro.param("unused", torch.zeros(()))
            self.guide(x)

        optim = pyro.optim.Adam({"lr": 0.1})
        svi = SVI(self.model, guide, optim, Trace_ELBO())
        for _ in range(2):
            svi.step(self.x)
        assert optim.get_state().keys() == {"unused", "loc", "scale", "spread"}

    def test_a_guide_that_is_a_handler(self):
        """Objectives ask whether a guide is one."""
        losses = []
        for kind in (pyro.infer.SVI, SVI):
            pyro.clear_param_store()
            pyro.set_rng_seed(0)
            guide = pyro.infer.autoguide.AutoNormalMessenger(self.model)
            svi = kind(self.model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
            losses.append([float(svi.step(self.x)) for _ in range(3)])
        assert losses[0] == pytest.approx(losses[1])

    @pytest.mark.filterwarnings("ignore:the step is taken eagerly")
    def test_decaying_baselines(self):
        """Which TraceGraph_ELBO keeps in the parameter store, replacing them: no trial may leave its own."""

        def guide(x):
            rate = pyro.param("rate", lambda: torch.ones(()), constraint=constraints.positive)
            infer = {"baseline": {"use_decaying_avg_baseline": True}}
            pyro.sample("z", dist.Poisson(rate), infer=infer)

        def model(x):
            z = pyro.sample("z", dist.Poisson(2.0))
            pyro.sample("x", dist.Normal(z, 1.0).expand([len(x)]).to_event(1), obs=x)

        found = []
        for kind in (pyro.infer.SVI, SVI):
            pyro.clear_param_store()
            pyro.set_rng_seed(0)
            options = {"compile": True} if kind is SVI else {}
            svi = kind(model, guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.TraceGraph_ELBO(), **options)
            losses = [float(svi.step(self.x)) for _ in range(6)]
            found.append((losses, {k: v.detach().clone() for k, v in pyro.get_param_store().items()}))
        self.assert_equal(*found)

    def test_two_sets_of_parameters_take_turns(self, uncompiled):
        """Neither makes the other be compiled again."""

        def model(name):
            loc = pyro.param(name, lambda: torch.ones(()))
            pyro.sample("x", dist.Normal(loc, 1.0), obs=torch.zeros(()))

        svi = SVI(model, lambda name: None, pyro.optim.SGD({"lr": 0.1}), Trace_ELBO(), compile=True)
        for name in "abababab":
            svi.step(name)
        assert svi.num_compilations <= 3  # for a alone, at first
        assert pyro.param("a").item() == pytest.approx(0.9**4)
        assert pyro.param("b").item() == pytest.approx(0.9**4)

    @pytest.mark.parametrize("compile", [True, False])
    @pytest.mark.parametrize("number", [1, 2])
    def test_programs_with_some_of_their_arguments(self, compile, number, uncompiled):
        """A guide that is a ``functools.partial``, as Pyro's LDA has it."""

        def losses(make):
            pyro.clear_param_store()
            torch.manual_seed(0)
            net, shift = torch.nn.Linear(2, 2), torch.tensor(0.1)

            def model(x):
                with pyro.plate("data", len(x)):
                    z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                    pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

            def guide(net, *rest):
                pyro.module("net", net)
                x = rest[-1]
                with pyro.plate("data", len(x)):
                    pyro.sample("z", dist.Normal(net(x) + sum(rest[:-1]), 0.5).to_event(1))

            given = functools.partial(guide, *[net, shift][:number])
            svi = make(model, given, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
            return [float(svi.step(torch.ones(5, 2))) for _ in range(5)]

        ours = losses(lambda *given: SVI(*given, compile=compile))
        assert ours == pytest.approx(losses(pyro.infer.SVI), rel=1e-5)

    @pytest.mark.parametrize("compile", [True, False])
    def test_momentum_goes_on_where_there_is_no_gradient(self, compile, uncompiled):
        """Two share an optimizer and parameters; the loss of one depends on them at times only."""

        def losses(make):
            pyro.clear_param_store()
            torch.manual_seed(0)
            net = torch.nn.Linear(2, 1)

            def model(x):
                pyro.module("net", net)
                with pyro.plate("data", len(x)):
                    pyro.sample("y", dist.Normal(net(x)[:, 0], 1.0), obs=x[:, 0])

            def other(x, known):
                pyro.module("net", net)
                pyro.sample("z", dist.Normal(net(x).sum() if known else 0.0, 1.0), obs=torch.tensor(1.0))

            optim = pyro.optim.Adam({"lr": 0.1})
            both = [make(story, lambda *_: None, optim, Trace_ELBO()) for story in (other, model)]
            found = []
            for i in range(9):
                x = torch.randn(7, 2)
                found += [both[0].step(x, i % 4 == 3), both[1].step(x)]
            return [float(loss) for loss in found]

        ours = losses(lambda *given: SVI(*given, compile=compile))
        assert ours == pytest.approx(losses(pyro.infer.SVI), rel=1e-5)

    @pytest.mark.parametrize(
        ("optim", "loss", "message"),
        [
            (pyro.optim.multi.MixedMultiOptimizer([]), Trace_ELBO(), "MixedMultiOptimizer.*own step"),
            (torch.optim.Adam, Trace_ELBO(), "optim is a type"),
            (pyro.optim.Adam({}), 1.0, "loss is a float"),
        ],
    )
    def test_refused(self, optim, loss, message):
        with pytest.raises(ValueError, match=message):
            SVI(self.model, self.guide, optim, loss)

    def test_run(self):
        """Deprecated, and used: steps, then draws from the posterior."""
        found = []
        for kind in (pyro.infer.SVI, SVI):
            pyro.clear_param_store()
            pyro.set_rng_seed(0)
            with pytest.warns(FutureWarning, match="deprecated"):
                svi = kind(self.model, self.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO(), None, 5, 3)
            with pytest.warns(FutureWarning, match="deprecated"):
                posterior = svi.run(self.x)
            assert isinstance(posterior, pyro.infer.SVI)
            marginal = pyro.infer.EmpiricalMarginal(posterior, "z")
            found.append((marginal.enumerate_support(), pyro.param("loc").detach()))
        assert found[0][0].shape == (5, 7)
        torch.testing.assert_close(found[0], found[1])

    def test_validation_that_is_off_stays_off(self):
        """As for grey values as the data of a Bernoulli."""
        svi = make_svi(Autoencoder(), compile=False)
        with pyro.validation_enabled(False):
            svi.step(torch.full((4, 64), 0.5))

    def test_mistakes_are_told_as_they_are(self):
        def model(x):
            raise ValueError("the user's own")

        svi = SVI(model, lambda x: None, pyro.optim.Adam({}), Trace_ELBO())
        with pytest.raises(ValueError, match="the user's own"):
            svi.step(self.x)

    def test_a_loss_is_used_as_a_number(self):
        losses = [
            loss for _ in range(3) for loss in [make_svi(Autoencoder(), compile=False).step(batches()[0])]
        ]
        first = losses[0]
        assert f"{first:.3f}" == "%.3f" % first == f"{float(first):.3f}"  # noqa: UP031
        assert first < 1e9
        assert math.isfinite(first)
        assert not pyro.util.torch_isnan(first)
        assert np.mean(losses) == pytest.approx(sum(losses) / 3) == pytest.approx(first / 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of NumPy, told to PyTorch
            assert np.isfinite(first)
        total = 0.0
        for loss in losses:
            total += loss  # in place from the second on
        assert losses[0] == first == losses[1]
