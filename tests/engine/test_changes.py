"""Whatever changes between steps or within the program is followed or refused, never ignored.

Changes make another record; what is compiled of records is held against eager steps in test_steps.py.
"""

import pyro
import pyro.distributions as dist
import pytest
import torch
from plain import Autoencoder, B, Line, assert_same, batches, make_svi, take
from pyro.infer import Trace_ELBO
from torch import nn

from pyro_vae.engine import steps
from pyro_vae.svi import SVI, CompilationWarning

pytestmark = pytest.mark.usefixtures("uncompiled")


def test_changed_dtype():
    module = Autoencoder()
    svi = make_svi(module)
    x = batches(B)[0]
    for _ in range(3):
        svi.step(x)
    module.double()
    svi.optim = torch.optim.Adam(module.parameters(), 1e-2, fused=True)
    assert svi.step(x.double()).dtype == torch.float64
    assert svi.num_compilations == 2


def test_changed_settings():
    one, other = Autoencoder(), Autoencoder()
    losses = []
    for module, compile in ((one, True), (other, False)):
        svi = make_svi(module, compile=compile)
        torch.manual_seed(0)
        take(svi, *batches(B, B))
        svi.objective.num_particles = 3
        take(svi, *batches(B))
        svi.clip_norm = 0.1
        take(svi, *batches(B))
        svi.guide = lambda x, module=module: pyro.sample(
            "z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1)
        )
        svi.model = lambda x, module=module: module.model(x)
        losses.append(svi.step(batches(B)[0]))
    torch.testing.assert_close(*losses)
    assert_same(one, other)


def test_parameters_added_to_the_optimizer():
    module = Autoencoder()
    optimizer = torch.optim.Adam(module.encoder.parameters(), 1e-2, fused=True)
    svi = SVI(module.model, module.guide, optimizer, Trace_ELBO(), compile=True)
    for x in batches():
        svi.step(x)
    before = module.decoder[0].weight.clone()
    optimizer.add_param_group({"params": list(module.decoder.parameters())})
    svi.step(batches()[0])
    assert not torch.equal(before, module.decoder[0].weight)


@pytest.mark.parametrize("compile", [True, False])
def test_parameters_without_a_gradient(compile):
    """They are named, and stay as they are, though the optimizer would decay them."""
    module, unused = Autoencoder(), nn.Parameter(torch.ones(2, 3))
    optimizer = torch.optim.AdamW([*module.parameters(), unused], 1e-2, weight_decay=0.5)
    svi = SVI(module.model, module.guide, optimizer, Trace_ELBO(), compile=compile)
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


def test_many_shapes_are_given_up(monkeypatch):
    monkeypatch.setattr(steps, "MAX_STEPS", 1)
    svi = make_svi(Autoencoder())
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
