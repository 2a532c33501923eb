"""The compiled step is the eager step: values, gradients, and whatever may change in between."""

import collections
import copy
import math
import random
import signal
import warnings
from pathlib import Path

import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    TraceTMC_ELBO,
    config_enumerate,
)
from pyro.infer.autoguide import AutoDelta, AutoIAFNormal, AutoMultivariateNormal, AutoNormal
from torch import nn

import pyro_vae as pv
from pyro_vae import svi as engine
from pyro_vae.compiler import CompilationError, CompilationWarning, Compiled, rollback
from pyro_vae.objectives import elbo_terms
from pyro_vae.svi import SVI, NonFiniteLossError

B = 32


def batches(*sizes):
    generator = torch.Generator().manual_seed(5)
    return [torch.bernoulli(torch.rand(size, 1, 8, 8, generator=generator)) for size in sizes or [B] * 6]


def make_svi(vae, loss=None, *, compile=True, lr=1e-2, model=None, **options):
    optimizer = torch.optim.Adam(vae.parameters(), lr, fused=True)
    options = {"reduction": "mean"} | options
    return SVI(model or vae.model, vae.guide, optimizer, loss or Trace_ELBO(), compile=compile, **options)


def take(svi, *xs):
    for x in xs:
        svi.step(x)
    svi.check()


def assert_same(one, other, tolerance=1e-5):
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def train(make, xs, **options):
    """Both ways from the same start under the same seed; returns the compiled SVI and both modules."""
    modules, losses = [], []
    for compile in (True, False):
        pyro.clear_param_store()
        torch.manual_seed(1)
        module = make()
        svi = make_svi(module, compile=compile, **options)
        torch.manual_seed(3)
        losses.append([svi.step(x).item() for x in xs])
        modules.append(module)
        if compile:
            compiled = svi
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    return compiled, *modules


# PyTorch 2.11 compiles two dropouts to draws in another order (2.15 does not): such steps are refused.
DROPOUT = 0.3 if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 15) else 0.0


class Noisy(nn.Module):
    """A network with batch normalisation and dropout."""

    def __init__(self, in_shape, out_shape):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(in_shape), 16, bias=False),  # whose gradient would be 0 up to rounding
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(16, math.prod(out_shape)),
        )
        self.out_shape = out_shape

    def forward(self, x):
        return self.layers(x).reshape(len(x), *self.out_shape)


@pytest.mark.filterwarnings("ignore:.*no sample sites configured for enumeration")
@pytest.mark.parametrize(
    "loss",
    [
        TraceGraph_ELBO(),
        TraceEnum_ELBO(max_plate_nesting=1),
        TraceTMC_ELBO(max_plate_nesting=1),
        ReweightedWakeSleep(num_particles=2),
        Trace_ELBO(num_particles=3),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_every_objective(make_vae, loss):
    """Others are held against Pyro's own SVI in test_svi.py."""
    compiled, one, other = train(make_vae, batches(), loss=loss)
    assert compiled.engine == "compiled, float32"
    assert_same(one, other, 1e-4)


@pytest.mark.parametrize(
    "parts",
    [
        {"prior": dist.StudentT(3.0, 0.0, 1.0), "likelihood": pv.likelihoods.Normal(scale="per_pixel")},
        {"prior": pv.priors.VampPrior(5), "guide": pv.guides.FullRankNormal()},
        {"prior": dist.Dirichlet(torch.ones(2)), "guide": pv.guides.MixtureOfNormals(2)},
        {"prior": pv.priors.Flow(num_transforms=2), "guide": pv.guides.Flow("planar")},
        {"likelihood": pv.likelihoods.DiscretizedLogisticMixture(2, levels=3), "guide": dist.StudentT},
    ],
    ids=["student", "vamp", "mixture", "flow", "levels"],
)
def test_parts(make_vae, parts):
    compiled, one, other = train(lambda: make_vae(**parts), batches())
    assert compiled.engine == "compiled, float32"
    assert_same(one, other, 1e-4)


def test_convolutions_batch_normalisation_dropout(make_vae):
    """Whose running statistics are the same too, so that checking has not moved them."""
    conv = {"encoder": pv.nets.conv(4, hidden_dim=16), "decoder": pv.nets.conv(4, hidden_dim=16)}
    compiled, one, other = train(lambda: make_vae(**conv), batches())
    assert compiled.engine == "compiled, float32"
    assert_same(one, other)
    compiled, one, other = train(lambda: make_vae(encoder=Noisy, decoder=Noisy), batches())
    assert compiled.engine == "compiled, float32"
    assert_same(one, other, 1e-4)


def test_float64(make_vae, double):
    compiled, one, other = train(make_vae, [x.double() for x in batches()])
    assert compiled.engine == "compiled, float32"  # which leaves dtypes as they are
    assert next(one.parameters()).dtype == torch.float64
    assert_same(one, other, 1e-12)


# Three of Pyro's own kinds of model, against pyro.infer.SVI.


def regression(x, y):
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w, scale), obs=y)


def subsampled(x, y):
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", len(x), subsample_size=20) as index:
        pyro.sample("y", dist.Normal(x[index] @ w, 0.5), obs=y[index])


@config_enumerate
def mixture(x):
    weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(2)))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
    with pyro.plate("components", 2):
        locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(x)):
        assignment = pyro.sample("assignment", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(locs[assignment], scale), obs=x)


class DeepMarkovModel(nn.Module):
    """A sequence z_1, z_2, ... with nonlinear transitions and emissions, a guide that reads x backwards,
    and sequences of different lengths."""

    def __init__(self):
        super().__init__()
        self.transition = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 4))
        self.emission = nn.Linear(2, 3)
        self.rnn = nn.GRU(3, 5, batch_first=True)
        self.combine = nn.Linear(7, 4)
        self.z_0 = nn.Parameter(torch.zeros(2))

    def model(self, x, lengths):
        pyro.module("dmm", self)
        z = self.z_0.expand(len(x), 2)
        with pyro.plate("sequences", len(x)):
            for t in range(x.shape[1]):
                with poutine.mask(mask=t < lengths):
                    loc, raw = self.transition(z).chunk(2, -1)
                    z = pyro.sample(f"z_{t}", dist.Normal(loc, raw.exp()).to_event(1))
                    logits = self.emission(z)
                    pyro.sample(f"x_{t}", dist.Bernoulli(logits=logits).to_event(1), obs=x[:, t])

    def guide(self, x, lengths):
        pyro.module("dmm", self)
        states, _ = self.rnn(x.flip(1))
        z = self.z_0.expand(len(x), 2)
        with pyro.plate("sequences", len(x)):
            for t in range(x.shape[1]):
                with poutine.mask(mask=t < lengths):
                    hidden = torch.cat([z, states[:, -1 - t]], -1)
                    loc, raw = self.combine(hidden).chunk(2, -1)
                    z = pyro.sample(f"z_{t}", dist.Normal(loc, raw.exp()).to_event(1))


def regression_data():
    x = torch.randn(60, 3)
    return x, x @ torch.tensor([1.0, 2.0, -1.0]) + 0.1 * torch.randn(60)


def guide_of_mixture(model):
    return AutoDelta(poutine.block(model, expose=["weights", "locs", "scale"]))


@pytest.mark.parametrize(
    ("model", "make_guide", "loss", "make_data"),
    [
        (regression, AutoNormal, TraceMeanField_ELBO(), regression_data),
        (regression, AutoMultivariateNormal, Trace_ELBO(num_particles=2), regression_data),
        (regression, AutoIAFNormal, Trace_ELBO(), regression_data),
        (subsampled, AutoNormal, Trace_ELBO(), regression_data),
        (mixture, guide_of_mixture, TraceEnum_ELBO(max_plate_nesting=1), lambda: [torch.randn(30) * 5]),
    ],
    ids=["mean-field", "full-rank", "IAF", "subsampling", "enumeration"],
)
def test_pyro_models_step_for_step(model, make_guide, loss, make_data):
    data = make_data()
    losses, stores = [], []
    for of_pyro in (True, False):
        pyro.clear_param_store()
        torch.manual_seed(1)
        guide, optim = make_guide(model), pyro.optim.Adam({"lr": 0.02})
        svi = (
            pyro.infer.SVI(model, guide, optim, copy.copy(loss))
            if of_pyro
            else SVI(model, guide, optim, loss, compile=True)
        )
        losses.append([float(svi.step(*data)) for _ in range(20)])
        stores.append({name: value.detach().clone() for name, value in pyro.get_param_store().items()})
        evaluated = svi.evaluate_loss(*data)
        assert isinstance(evaluated, float)
        assert math.isfinite(evaluated)
    assert svi.engine == "compiled, float32"
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert stores[0].keys() == stores[1].keys()
    for name, value in stores[0].items():
        torch.testing.assert_close(value, stores[1][name], rtol=1e-4, atol=1e-5)


def test_deep_markov_model():
    x, lengths = torch.bernoulli(torch.rand(10, 4, 3)), torch.tensor([4, 3, 2, 4, 1, 4, 4, 2, 3, 4])
    modules, losses = [], []
    for of_pyro in (True, False):
        pyro.clear_param_store()
        torch.manual_seed(0)
        module = DeepMarkovModel()
        if of_pyro:
            optim = pyro.optim.Adam({"lr": 1e-2})
            svi = pyro.infer.SVI(module.model, module.guide, optim, Trace_ELBO())
        else:
            svi = make_svi(module, reduction="sum")
        losses.append([float(svi.step(x, lengths)) for _ in range(20)])
        modules.append(module)
    assert svi.engine == "compiled, float32"
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert_same(*modules, 1e-4)


# What may change between steps.


def test_one_compilation_for_each_shape(make_vae, digits):
    """Over a whole run with schedules of the KL and the learning rate, and a smaller last batch."""
    lines = []

    def log(self, line):
        lines.append(line)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pv.training._Report, "line", log)
        vae = make_vae()
        pv.fit(vae, digits, epochs=4, batch_size=500, warmup_epochs=3, schedule="cosine", compile=True)
    compiled = [line for line in lines if line.startswith("compiled")]
    assert len(digits.train) % 500
    assert len(compiled) == 2
    assert any("compiled, float32" in line for line in lines)


def test_fit_is_the_same_run(make_vae, digits):
    runs = []
    for compile in (True, False):
        vae = make_vae()
        runs.append(
            pv.fit(vae, digits, epochs=3, batch_size=300, warmup_epochs=2, clip_norm=5.0, compile=compile)
        )
    assert_same(runs[0].vae, runs[1].vae, 1e-4)
    for one, other in zip(runs[0].history, runs[1].history, strict=True):
        for name in ("loss", "kl", "reconstruction", "validation_elbo"):
            assert one[name] == pytest.approx(other[name], rel=1e-4)


def test_shapes_modes_and_frozen_parameters(make_vae):
    """Each change is followed, and going back compiles nothing anew."""
    one, other = (make_vae(encoder=Noisy, decoder=Noisy) for _ in range(2))
    compiled, eager = make_svi(one), make_svi(other, compile=False)
    changes = [
        (lambda vae: None, B, 0),
        (lambda vae: None, B, 1),
        (lambda vae: None, 7, 1),
        (lambda vae: vae.eval(), B, 1),
        (lambda vae: vae.encoder.requires_grad_(False), B, 1),
        (lambda vae: vae.encoder.requires_grad_(True).train() and vae.train(), B, 0),
        (lambda vae: setattr(vae.decoder.layers[1], "bias", nn.Parameter(torch.ones(16))), B, 1),
        (lambda vae: vae.load_state_dict({k: v * 0.9 for k, v in vae.state_dict().items()}), B, 0),
    ]
    total = 0
    for change, size, compilations in changes:
        x = batches(size)[0]
        for vae, svi in ((one, compiled), (other, eager)):
            change(vae)
            torch.manual_seed(4)
            loss = svi.step(x)
            assert svi.step(x).isfinite()
            if svi is compiled:
                expected = loss
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
        assert_same(one, other, 1e-3)
        total += compilations
        assert compiled.num_compilations == total or total == 0
    assert compiled.engine == "compiled, float32"


def test_changed_dtype(make_vae):
    vae = make_vae()
    svi = make_svi(vae)
    x = batches(B)[0]
    for _ in range(3):
        svi.step(x)
    vae.double()
    svi.optim = torch.optim.Adam(vae.parameters(), 1e-2, fused=True)
    assert svi.step(x.double()).dtype == torch.float64
    assert svi.num_compilations == 2


def test_changed_settings(make_vae):
    one, other = make_vae(), make_vae()
    losses = []
    for vae, compile in ((one, True), (other, False)):
        svi = make_svi(vae, compile=compile)
        torch.manual_seed(0)
        take(svi, *batches(B, B))
        svi.loss.num_particles = 3
        take(svi, *batches(B))
        svi.clip_norm = 0.1
        take(svi, *batches(B))
        svi.guide = lambda x, vae=vae: pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
        svi.model = lambda x, vae=vae: vae.model(x)
        losses.append(svi.step(batches(B)[0]))
    torch.testing.assert_close(*losses)
    assert_same(one, other)


@pytest.mark.parametrize("option", ["compile", "precision", "reduction"])
def test_wrong_options(make_vae, option):
    with pytest.raises(ValueError, match=f"{option}='fast' is none of"):
        make_svi(make_vae(), **{option: "fast"})


def test_parameters_added_to_the_optimizer(make_vae):
    vae = make_vae()
    optimizer = torch.optim.Adam(vae.encoder.parameters(), 1e-2, fused=True)
    svi = SVI(vae.model, vae.guide, optimizer, Trace_ELBO(), compile=True)
    for x in batches():
        svi.step(x)
    before = vae.decoder.layers[0].weight.clone()
    optimizer.add_param_group({"params": list(vae.decoder.parameters())})
    svi.step(batches()[0])
    assert not torch.equal(before, vae.decoder.layers[0].weight)


@pytest.mark.parametrize("compile", [True, False])
def test_parameters_without_a_gradient(make_vae, compile):
    """They are named, and stay as they are, though the optimizer would decay them."""
    vae, unused = make_vae(), nn.Parameter(torch.ones(2, 3))
    optimizer = torch.optim.AdamW([*vae.parameters(), unused], 1e-2, weight_decay=0.5)
    svi = SVI(vae.model, vae.guide, optimizer, Trace_ELBO(), compile=compile)
    with pytest.warns(UserWarning, match=r"1 of the optimizer's parameters have no gradient.*\[2, 3\]"):
        take(svi, *batches())
    assert svi.engine == f"{'compiled' if compile else 'eager'}, float32"
    assert torch.equal(unused, torch.ones(2, 3))


def test_cleared_parameter_store():
    def model(x):
        loc = pyro.param("loc", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    svi = SVI(model, lambda x: None, pyro.optim.SGD({"lr": 0.01}), Trace_ELBO(), compile=True)
    x = torch.ones(10)
    for _ in range(5):
        svi.step(x)
    pyro.clear_param_store()
    svi.step(x)
    assert pyro.param("loc").item() == pytest.approx(0.1)


def test_many_shapes_are_given_up(make_vae, monkeypatch):
    monkeypatch.setattr(engine, "MAX_GRAPHS", 1)
    svi = make_svi(make_vae())
    xs = batches(8, 8, 9, 10)
    with pytest.warns(CompilationWarning, match="for other arguments"):
        take(svi, *xs)
    assert svi.engine == "eager, float32"


def test_numbers_are_compiled_in_and_followed():
    """A Python number is part of what was compiled; another one is another compilation."""

    def model(x, scale):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("loc", torch.tensor(0.0)), scale), obs=x)

    x = torch.ones(4)
    svi = SVI(model, lambda x, scale: None, pyro.optim.SGD({"lr": 0.0}), Trace_ELBO(), compile=True)
    svi.step(x, 1.0)
    for scale in (1.0, 2.0, 1.0):
        expected = -dist.Normal(0.0, scale).log_prob(x).sum()
        torch.testing.assert_close(svi.step(x, scale), expected)
    assert svi.num_compilations == 2


# What cannot be compiled is said, and done eagerly.


class TestFallback:
    def check(self, model, reason, steps=4):
        torch.manual_seed(0)
        guide = AutoNormal(poutine.block(model, expose=["w"]))
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO(), compile=True)
        with pytest.warns(CompilationWarning, match=reason):
            take(svi, *[torch.ones(5)] * steps)
        assert svi.engine == "eager, float32"

    def test_branch_on_a_value(self):
        def model(x):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            w = w if w > 0 else -w
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(w, 1.0), obs=x)

        self.check(model, "cannot be traced")

    def test_number_of_sites_from_a_value(self):
        def model(x):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            for i in range(int(x.sum().item()) - 3):
                pyro.sample(f"x_{i}", dist.Normal(w, 1.0), obs=x[i])

        self.check(model, "cannot be traced")

    def test_other_random_numbers(self):
        def model(x):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(w + random.random(), 1.0), obs=x)

        self.check(model, "not a tensor")

    def test_attribute_that_changes_later(self):
        """Where it cannot be watched, it is noticed at the tenth use at the latest."""
        state = collections.deque([1.0])

        def model(x):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(w, state[0]), obs=x)

        guide = AutoNormal(model)
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO(), compile=True)
        take(svi, *[torch.ones(5)] * 5)
        state[0] = 2.0
        with pytest.warns(CompilationWarning, match="hidden counter"):
            take(svi, *[torch.ones(5)] * 6)
        assert svi.engine == "eager, float32"

    def test_no_compiler(self, make_vae, monkeypatch):
        def fail(*_, **__):
            raise RuntimeError("no C++ compiler")

        monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", fail)
        vae = make_vae()
        svi = make_svi(vae)
        before = copy.deepcopy(vae.state_dict())
        with pytest.warns(CompilationWarning, match="no C\\+\\+ compiler"):
            take(svi, *batches())
        assert svi.engine == "eager, float32"
        assert not torch.equal(before["encoder.layers.0.weight"], vae.encoder.layers[0].weight)

    def test_within_a_handler(self, make_vae):
        one, other = make_vae(), make_vae()
        x = batches(B)[0]
        for vae, compile in ((one, True), (other, False)):
            svi = make_svi(vae, compile=compile)
            torch.manual_seed(0)
            for _ in range(3):
                svi.step(x)
            with warnings.catch_warnings(record=True) as caught, poutine.scale(scale=0.5):
                warnings.simplefilter("always")
                svi.step(x)
            assert any(issubclass(w.category, CompilationWarning) for w in caught) == compile
            svi.step(x)
        assert_same(one, other)


# Whatever happens between steps or within the program: followed or refused, never ignored.


class Line(nn.Module):
    """y ~ Normal(a x + b, scale), with everything that may change about a module."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 3), nn.Identity())
        self.register_buffer("shift", torch.zeros(3))
        self.scale, self.prior = 1.0, dist.Normal(torch.zeros(3), torch.ones(3)).to_event(1)
        self.number, self.flag = torch.tensor(1.0), torch.tensor(True)

    def model(self, x):
        pyro.module("line", self)
        loc = self.net(x - self.shift) + (1.0 if self.training else 0.0)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior)
            pyro.sample("x", dist.Normal(loc + z, self.scale).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(x), 1.0).to_event(1))


CHANGES = {
    "buffer": lambda line: setattr(line, "shift", torch.ones(3)),
    "number": lambda line: setattr(line, "scale", 3.0),
    "distribution": lambda line: setattr(line, "prior", dist.Normal(torch.ones(3), 2.0).to_event(1)),
    "layer": lambda line: line.net.__setitem__(1, nn.Tanh()),
    "hook": lambda line: line.net.register_forward_hook(lambda module, args, y: 2 * y),
    "gradient's hook": lambda line: line.net[0].bias.register_hook(lambda gradient: 0 * gradient),
    "mode": lambda line: line.eval(),
    "frozen": lambda line: line.net[0].bias.requires_grad_(False),
}


@pytest.mark.filterwarnings("ignore:net.0.bias was not registered")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_changed_module(change):
    lines, losses = [], []
    for compile in (True, False):
        pyro.clear_param_store()
        torch.manual_seed(0)
        line = Line()
        svi = make_svi(line, compile=compile)
        take(svi, *[torch.ones(5, 3)] * 3)
        change(line)
        losses.append([svi.step(torch.ones(5, 3)).item() for _ in range(3)])
        lines.append(line)
        assert svi.engine == f"{'compiled' if compile else 'eager'}, float32"
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for one, other in zip(lines[0].parameters(), lines[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


OUTSIDE = 1.0


class Holder:
    def __init__(self):
        self.number, self.values = 1.0, torch.ones(4)


def outside_programs():
    """Programs that read something outside, and how to change it."""
    global OUTSIDE
    OUTSIDE = 1.0
    holder, numbers, state = Holder(), [1.0], {"scale": torch.tensor(1.0)}
    local = 1.0

    def observe(loc, scale):
        with pyro.plate("data", 4):
            pyro.sample(
                "x", dist.Normal(pyro.param("loc", torch.tensor(0.0)) + loc, scale), obs=torch.ones(4)
            )

    def change_local():
        nonlocal local
        local = 2.0

    def change_global():
        global OUTSIDE
        OUTSIDE = 2.0

    return {
        "closure": (lambda x: observe(local, 1.0), change_local),
        "global": (lambda x: observe(OUTSIDE, 1.0), change_global),
        "list": (lambda x: observe(numbers[0], 1.0), lambda: numbers.__setitem__(0, 2.0)),
        "tensor in a dict": (
            lambda x: observe(0.0, state["scale"]),
            lambda: state.update(scale=torch.tensor(2.0)),
        ),
        "attribute": (lambda x: observe(holder.number, 1.0), lambda: setattr(holder, "number", 2.0)),
        "tensor as attribute": (
            lambda x: observe(holder.values, 1.0),
            lambda: setattr(holder, "values", torch.zeros(4)),
        ),
        "tensor in place": (lambda x: observe(holder.values, 1.0), lambda: holder.values.zero_()),
    }


@pytest.mark.parametrize("name", outside_programs())
def test_changed_outside(name):
    losses = []
    for compile in (True, False):
        pyro.clear_param_store()
        model, change = outside_programs()[name]
        svi = SVI(model, lambda x: None, pyro.optim.SGD({"lr": 0.1}), Trace_ELBO(), compile=compile)
        take(svi, *[torch.ones(1)] * 3)
        change()
        losses.append([svi.step(torch.ones(1)).item() for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


class Layout(nn.Module):
    """Gradients that the record lays out otherwise than autograd does, or shares between parameters."""

    def __init__(self):
        super().__init__()
        self.w, self.expanded = nn.Parameter(torch.rand(3, 5)), nn.Parameter(torch.rand(1000))
        self.a, self.b = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def model(self, x):
        pyro.module("layout", self)
        pyro.factor("f", -(self.expanded.sum() - 1.0).square())
        with pyro.plate("data", len(x)):
            loc = (self.w.t() * x[:, None, None]).sum((1, 2)) + self.a + self.b
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(self, x):
        pass


def test_layout_of_gradients():
    compiled, one, other = train(Layout, [torch.linspace(-1, 1, 7)] * 8, clip_norm=0.5)
    assert compiled.engine == "compiled, float32"
    assert_same(one, other)


def test_one_tensor_as_two_arguments():
    def model(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(x * pyro.param("w", torch.tensor(0.5)) + other, 1.0), obs=y)

    other, x, y = torch.arange(4.0), torch.ones(4), torch.linspace(0, 1, 4)
    losses = []
    for compile in (True, False):
        pyro.clear_param_store()
        svi = SVI(model, lambda x, y: None, pyro.optim.SGD({"lr": 0.01}), Trace_ELBO(), compile=compile)
        calls = [(x, x), (x, x), (x, y), (other, y), (x, other)]
        losses.append([svi.step(*call).item() for call in calls])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


READS = {
    "list": lambda line, x: x.tolist()[0],
    "array": lambda line, x: x.numpy()[0],
    "float of an attribute": lambda line, x: float(line.number),
    "branch on an attribute": lambda line, x: 1.0 if line.flag else 2.0,
    "length of a selection": lambda line, x: float(len(x[x > 0.5])),
    "number of values": lambda line, x: float(len(torch.unique(x))),
    "tensor of items": lambda line, x: torch.tensor([x[0].item(), 1.0]).sum(),
    "item": lambda line, x: {1.0: 0.0}.get(x[0].item(), 5.0),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_values_that_become_numbers_are_refused(read):
    line = Line()

    def model(x):
        with pyro.plate("data", len(x)):
            w = pyro.param("w", torch.tensor(0.0))
            pyro.sample("x", dist.Normal(w + read(line, x), 1.0), obs=x)

    svi = SVI(model, lambda x: None, pyro.optim.SGD({"lr": 0.0}), Trace_ELBO(), compile=True)
    with pytest.warns(CompilationWarning, match="cannot be traced.*values of a tensor"):
        take(svi, *[torch.ones(3)] * 3)
    assert svi.engine == "eager, float32"


def test_changes_while_running_are_refused_and_undone():
    class Average(Line):
        def model(self, x):
            self.shift = 0.9 * self.shift + 0.1 * x.mean(0)
            super().model(x)

    lines = []
    for compile in (True, False):
        pyro.clear_param_store()
        torch.manual_seed(0)
        lines.append(Average())
        svi = make_svi(lines[-1], compile=compile)
        if compile:
            with pytest.warns(CompilationWarning, match="it changes an attribute"):
                take(svi, *[torch.ones(5, 3)] * 3)
        else:
            take(svi, *[torch.ones(5, 3)] * 3)
    assert_same(*lines)


def test_arguments_changed_in_place():
    def model(x):
        x.add_(1.0)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(pyro.param("w", torch.tensor(0.0)), 1.0), obs=x)

    x = torch.zeros(4)
    svi = SVI(model, lambda x: None, pyro.optim.SGD({"lr": 0.1}), Trace_ELBO(), compile=True)
    totals = []
    for _ in range(3):
        svi.step(x)
        totals.append(x.sum().item())
    assert torch.diff(torch.tensor(totals)).tolist() == [4.0, 4.0]
    assert svi.engine == "compiled, float32"


def test_a_parameter_of_two():
    """Gradients of one SVI do not reach the other's steps."""

    def program(name, x):
        with pyro.plate("data", len(x)):
            pyro.sample(name, dist.Normal(pyro.param("w", torch.tensor(0.0)), 1.0), obs=x)

    values = []
    for make in (pyro.infer.SVI, SVI):
        pyro.clear_param_store()
        svis = [
            make(lambda x, n=name: program(n, x), lambda x: None, pyro.optim.SGD({"lr": 0.01}), Trace_ELBO())
            for name in "ab"
        ]
        for _ in range(3):
            for svi in svis:
                svi.step(torch.ones(4))
                values.append(pyro.param("w").item())
    assert values[:6] == pytest.approx(values[6:])


def test_no_arguments_and_expanded_distributions():
    class Module(pyro.nn.PyroModule):
        def __init__(self):
            super().__init__()
            self.w = pyro.nn.PyroSample(dist.Normal(0.0, 1.0).expand([2]).to_event(1))

        def forward(self):
            with pyro.plate("data", 5):
                pyro.sample("x", dist.Normal(self.w.sum(), 1.0), obs=torch.ones(5))

    module = Module()
    svi = SVI(module, AutoNormal(module), pyro.optim.Adam({"lr": 0.01}), Trace_ELBO(), compile=True)
    assert all(svi.step().isfinite() for _ in range(4))
    assert svi.engine == "compiled, float32"


def test_one_wrong_call_is_only_that(make_vae):
    svi = make_svi(make_vae())
    take(svi, *batches(B, B))
    with pytest.raises(ValueError, match="built for data of shape"):
        svi.step(torch.zeros(B, 1, 8, 9))
    take(svi, *batches(B))
    assert svi.engine == "compiled, float32"


def test_arguments_that_cannot_be_watched():
    def model(x, settings):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("w", torch.tensor(0.0)), max(settings)), obs=x)

    svi = SVI(model, lambda x, settings: None, pyro.optim.SGD({"lr": 0.1}), Trace_ELBO(), compile=True)
    svi.step(torch.ones(3), {1.0})
    with pytest.warns(CompilationWarning, match="an argument is a set"):
        svi.step(torch.ones(3), {2.0})


def test_lbfgs_is_refused(make_vae):
    vae = make_vae()
    with pytest.raises(ValueError, match="LBFGS"):
        SVI(vae.model, vae.guide, torch.optim.LBFGS(vae.parameters()), Trace_ELBO())


def test_auto_waits(make_vae, monkeypatch):
    monkeypatch.setattr(engine, "AUTO_STEPS", 3)
    svi = make_svi(make_vae(), compile="auto")
    engines = []
    for x in batches(*[B] * 5):
        svi.step(x)
        engines.append(svi.engine)
    assert engines == ["eager, float32"] * 3 + ["compiled, float32"] * 2


def test_auto_of_fit(make_vae, digits, monkeypatch, capsys):
    pv.fit(make_vae(), digits, epochs=1, batch_size=500)
    assert (
        "3 steps, eager, float32 (compile=True compiles them; auto does from 3000)" in capsys.readouterr().out
    )
    monkeypatch.setattr("pyro_vae.training.COMPILED_STEPS", 3)
    run = pv.fit(make_vae(), digits, epochs=1, batch_size=500)
    out = capsys.readouterr().out
    assert "3 steps, compiled, float32\n" in out
    assert "compiled the step for arguments of shape [500, 1, 8, 8], [] in" in out
    assert "compiled the step" in (run.folder / "log.txt").read_text()


# Mixed precision.


def dtypes(vae, x):
    with torch.autocast("cpu", torch.bfloat16):
        guide = poutine.trace(vae.guide).get_trace(x)
        model = poutine.trace(poutine.replay(vae.model, trace=guide)).get_trace(x)
        model.compute_log_prob()
    return {site["value"].dtype for site in (guide.nodes["z"], model.nodes["z"])} | {
        model.nodes[name]["log_prob"].dtype for name in ("z", "x")
    }


@pytest.mark.parametrize("compile", [True, False])
def test_bfloat16(make_vae, compile):
    """Products in bfloat16, all else in float32: gradients are those of float32 to bfloat16's 8 bits."""
    x = batches(B)[0]
    gradients, dtype = {}, {}
    for precision in ("float32", "bf16"):
        vae = make_vae()
        vae.decoder.register_forward_hook(
            lambda module, args, y, key=precision: dtype.update({key: y.dtype}) or y
        )
        svi = make_svi(vae, precision=precision, compile=compile, lr=0.0)
        for _ in range(2):
            torch.manual_seed(0)
            loss = svi.step(x)
        assert svi.engine == f"{'compiled' if compile else 'eager'}, {precision}"
        assert loss.dtype == torch.float32
        gradients[precision] = torch.cat([p.grad.flatten() for p in vae.parameters()])
    assert dtype == {"float32": torch.float32, "bf16": torch.bfloat16}
    assert all(gradient.dtype == torch.float32 for gradient in gradients.values())
    distance = (gradients["bf16"] - gradients["float32"]).norm() / gradients["float32"].norm()
    assert 1e-5 < distance < 0.03
    assert dtypes(vae, x) == {torch.float32}


def test_bfloat16_run_evaluates_in_float32(make_vae, digits):
    run = pv.fit(make_vae(), digits, epochs=2, precision="bf16")
    before = pv.evaluate.elbo(run.vae, digits.validation)
    assert before.elbo == pytest.approx(run.history[-1]["validation_elbo"], rel=1e-7)
    assert pv.evaluate.elbo(pv.load(run.folder), digits.validation) == before
    assert {p.dtype for p in run.vae.parameters()} == {torch.float32}


# Failures, on any device.


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Takes the paths of a GPU on the CPU: results read later, a step recorded and replayed.

    The stand-in for a CUDA graph runs the recorded function anew, into the same memory.
    """

    def capture(function, rollback, device):
        with rollback():
            result = function()

        def replay():
            new = function()
            with torch.no_grad():
                for own, other in zip(result.tensors, new.tensors, strict=True):
                    own.copy_(other)

        return replay, result

    monkeypatch.setattr(engine, "_waits", lambda optim, tensor: False)
    monkeypatch.setattr(engine, "_records", lambda optim, compiled: True)
    monkeypatch.setattr(engine, "_capture", capture)


@pytest.mark.parametrize("compile", [True, False])
def test_replayed_steps(make_vae, on_a_gpu, compile):
    """Recorded with a learning rate in a tensor, which changes; shapes, which change; against eager steps."""
    modules = []
    for recorded in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not recorded:
                patch.setattr(engine, "_waits", lambda optim, tensor: True)
            vae = make_vae()
            optimizer = torch.optim.Adam(vae.parameters(), torch.tensor(1e-2), fused=True)
            svi = SVI(
                vae.model, vae.guide, optimizer, Trace_ELBO(), compile=recorded and compile, terms=elbo_terms
            )
            torch.manual_seed(0)
            losses = []
            for i, x in enumerate(batches(*[B, B, B, 7] * 12)):
                engine.set_lr(optimizer, 1e-2 / (1 + i))
                losses.append(torch.cat([svi.step(x)[None], svi.terms]))
            svi.check()
        if recorded:
            assert svi.engine == f"{'CUDA graph' if compile else 'eager'}, float32"
            reference = torch.stack(losses)
        modules.append(vae)
    torch.testing.assert_close(reference, torch.stack(losses), rtol=1e-4, atol=1e-4)
    assert_same(*modules, 1e-4)


@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize("compile", [True, False])
@pytest.mark.parametrize("where", ["gpu", "cpu"])
def test_failed_step_is_named_and_not_taken(make_vae, request, where, compile):
    if where == "gpu":
        request.getfixturevalue("on_a_gpu")
    vae = make_vae(likelihood=pv.likelihoods.Normal())
    optimizer = torch.optim.Adam(vae.parameters(), torch.tensor(1e-2), fused=True)
    svi = SVI(vae.model, vae.guide, optimizer, Trace_ELBO(), compile=compile)
    take(svi, *batches())
    before = copy.deepcopy([vae.state_dict(), optimizer.state_dict()])
    bad = batches(B)[0]
    bad[3, 0, 2, 2] = math.inf
    with pytest.raises(NonFiniteLossError, match="in step 7: the value at site 'z' of the guide"):
        take(svi, bad, *batches())
    torch.testing.assert_close([vae.state_dict(), optimizer.state_dict()], before)
    assert svi.num_steps == 6
    assert svi.step(batches(B)[0]).isfinite()
    svi.check()


def test_compiled_run_resumes_bitwise(make_vae, digits, monkeypatch):
    def fit(**options):
        options = {"epochs": 3, "batch_size": 400, "compile": True, "lr": 1e-2} | options
        return pv.fit(make_vae(), digits, **options)

    whole = fit(folder="whole")
    step, count = SVI.step, 0

    def interrupt(self, *args):
        nonlocal count
        count += 1
        if count == 6:
            signal.raise_signal(signal.SIGINT)
        return step(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SVI, "step", interrupt)
        with pytest.raises(pv.training.Interrupted):
            fit(folder="parts")
    resumed = fit(folder="parts", resume=True)
    for a, b in zip(whole.vae.state_dict().values(), resumed.vae.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="memory is read from /proc, which is not here"
)
@pytest.mark.parametrize("compile", [True, False])
def test_memory_is_flat(make_vae, compile):
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

    vae = make_vae()
    svi = make_svi(vae, compile=compile, terms=elbo_terms)
    xs = batches(B, 9)
    sizes = []
    for i in range(6000 if compile else 1500):
        svi.step(xs[i % 2])
        if i % 500 == 499:
            sizes.append(resident())
    assert sizes[-1] - sizes[0] < 5, sizes  # MiB


# The pieces.


def test_rollback():
    x, norm, noise = torch.arange(4.0), nn.BatchNorm1d(3), torch.get_rng_state()
    before = copy.deepcopy(norm.state_dict())
    with rollback():
        x.mul_(2).view(2, 2)[0] += torch.randn(2)
        torch.add(x, 1, out=x)
        norm(torch.randn(5, 3))
    assert torch.equal(x, torch.arange(4.0))
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    assert torch.equal(torch.get_rng_state(), noise)


def test_products_of_matrices():
    """Those that oneDNN is given, in all layouts, with and without bias, and the small ones."""
    a, b, c, bias = torch.randn(60, 50), torch.randn(50, 70), torch.randn(60, 70), torch.randn(70)

    def function(a, b, c):
        products = [a @ b, (b.t() @ a.t()).t(), a.t() @ c, torch.addmm(bias, a, b), a[:2, :3] @ b[:3, :4]]
        return [*products, torch.addmm(c, a, b, beta=2.0)]

    compiled = Compiled(function, [a, b, c])
    for result, expected in zip(compiled(a, b, c), function(a, b, c), strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-4)


def test_values_cannot_be_read():
    with pytest.raises(CompilationError, match="cannot be traced"):
        Compiled(lambda x: [x if x.sum() > 0 else -x], [torch.ones(3)])


def test_random_numbers_are_those_of_eager():
    def function(x):
        return [x + torch.randn(3), torch.bernoulli(torch.full((5,), 0.5)), torch.randperm(6)]

    x = torch.zeros(3)
    compiled = Compiled(function, [x])
    for seed in range(3):
        torch.manual_seed(seed)
        expected = function(x)
        torch.manual_seed(seed)
        assert all(torch.equal(a, b) for a, b in zip(compiled(x), expected, strict=True))
