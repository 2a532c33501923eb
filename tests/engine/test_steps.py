"""The compiled step is the eager step, whatever the program, the objective and the arguments."""

import copy
import math
import warnings
from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from plain import Autoencoder, B, assert_same, batches, make_svi, take, terms, train
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

from pyro_vae.svi import SVI, CompilationWarning

VERSION = tuple(map(int, torch.__version__.split(".")[:2]))


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
def test_every_objective(loss):
    """Others are held against Pyro's own SVI in test_svi.py."""
    compiled, one, other = train(Autoencoder, batches(), loss=loss)
    assert compiled.engine == "compiled, float32"
    assert_same(one, other, 1e-4)


def test_float64(double):
    compiled, one, other = train(Autoencoder, [x.double() for x in batches()])
    assert compiled.engine == "compiled, float32"  # which leaves dtypes as they are
    assert next(one.parameters()).dtype == torch.float64
    assert_same(one, other, 1e-12)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_batch_normalisation_and_dropout(dropout):
    """Running statistics are the same too, so that checking has not moved them.

    Inductor of PyTorch 2.11 takes draws in place, as dropout's, out of their order. Such a step is refused,
    and the run the same for that; PyTorch 2.14 compiles it.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compiled, one, other = train(lambda: Autoencoder(dropout), batches())
    refused = [w for w in caught if issubclass(w.category, CompilationWarning)]
    assert compiled.engine == f"{'eager' if refused else 'compiled'}, float32"
    assert_same(one, other, 1e-4)
    if not dropout or VERSION >= (2, 14):
        assert not refused


@pytest.mark.parametrize("family", [dist.Laplace, dist.Gumbel, partial(dist.StudentT, 5.0)])
def test_noise_is_that_of_eager_steps(family):
    """PyTorch's distributions are not told that they are traced, when some would draw other numbers."""

    class Program(Autoencoder):
        def guide(self, x):
            with pyro.plate("data", len(x)):
                loc, raw = self.encoder(x).chunk(2, -1)
                scale = {"loc": loc, "scale": raw.exp()}
                pyro.sample(
                    "z", family(**scale, **({"df": 5.0} if family is dist.StudentT else {})).to_event(1)
                )

    compiled, one, other = train(Program, batches())
    assert compiled.engine == "compiled, float32"
    assert_same(one, other, 1e-4)


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


def test_batch_in_a_dict():
    """Its first tensor's length is what the mean is over."""

    def model(batch):
        with pyro.plate("data", len(batch["x"])):
            loc = pyro.param("w", torch.tensor(0.5)) * batch["more"][0]
            pyro.sample("x", dist.Normal(loc, 1.0), obs=batch["x"])

    losses = []
    for compile in (True, False):
        pyro.clear_param_store()
        svi = SVI(
            model,
            lambda batch: None,
            pyro.optim.SGD({"lr": 0.1}),
            Trace_ELBO(),
            compile=compile,
            reduction="mean",
        )
        xs = torch.arange(12.0).split(4)
        losses.append([svi.step({"x": x, "more": [torch.ones(4), "text"]}).item() for x in xs])
        assert svi.engine == f"{'compiled' if compile else 'eager'}, float32"
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0][0] == pytest.approx(-dist.Normal(0.5, 1.0).log_prob(xs[0]).mean().item())


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


def test_one_wrong_call_is_only_that():
    svi = make_svi(Autoencoder())
    take(svi, *batches(B, B))
    with pytest.raises(RuntimeError, match="shape"):
        svi.step(torch.zeros(B, 65))
    take(svi, *batches(B))
    assert svi.engine == "compiled, float32"


@pytest.mark.parametrize("compile", [True, False])
def test_bfloat16(compile):
    """Products in bfloat16, all else in float32: gradients are those of float32 to bfloat16's 8 bits."""
    x = batches(B)[0]
    gradients, dtype = {}, {}
    for precision in ("float32", "bf16"):
        module = Autoencoder()
        module.decoder.register_forward_hook(
            lambda module, args, y, key=precision: dtype.update({key: y.dtype}) or y
        )
        svi = make_svi(module, precision=precision, compile=compile, lr=0.0)
        for _ in range(2):
            torch.manual_seed(0)
            loss = svi.step(x)
        assert svi.engine == f"{'compiled' if compile else 'eager'}, {precision}"
        assert loss.dtype == torch.float32
        gradients[precision] = torch.cat([p.grad.flatten() for p in module.parameters()])
    assert dtype == {"float32": torch.float32, "bf16": torch.bfloat16}
    assert all(gradient.dtype == torch.float32 for gradient in gradients.values())
    distance = (gradients["bf16"] - gradients["float32"]).norm() / gradients["float32"].norm()
    assert 1e-5 < distance < 0.03


def test_shapes_modes_and_frozen_parameters():
    """Each change is followed, and going back compiles nothing anew."""
    one, other = (Autoencoder(dropout=0.0) for _ in range(2))
    for module in (one, other):
        pyro.module(module.name, module)  # a parameter that is new in the store is a change too
    compiled, eager = make_svi(one), make_svi(other, compile=False)
    changes = [
        (lambda module: None, B, 0),
        (lambda module: None, B, 1),
        (lambda module: None, 7, 1),
        (lambda module: module.eval(), B, 1),
        (lambda module: module.encoder.requires_grad_(False), B, 1),
        (lambda module: module.encoder.requires_grad_(True).train() and module.train(), B, 0),
        (lambda module: setattr(module.decoder[1], "bias", nn.Parameter(torch.ones(16))), B, 1),
        (lambda module: module.load_state_dict({k: v * 0.9 for k, v in module.state_dict().items()}), B, 0),
    ]
    total = 0
    for change, size, compilations in changes:
        x = batches(size)[0]
        for module, svi in ((one, compiled), (other, eager)):
            change(module)
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


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="memory is read from /proc, which is not here"
)
@pytest.mark.parametrize("compile", [True, False])
def test_memory_is_flat(compile):
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

    module = Autoencoder()
    svi = make_svi(module, compile=compile, terms=terms)
    xs = batches(B, 9)
    sizes = []
    for i in range(6000 if compile else 1500):
        svi.step(xs[i % 2])
        if i % 500 == 499:
            sizes.append(resident())
    assert sizes[-1] - sizes[0] < 5, sizes  # MiB
