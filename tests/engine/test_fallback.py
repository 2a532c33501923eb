"""What cannot be compiled is said, and done eagerly."""

import ast
import collections
import copy
import random
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from plain import Autoencoder, B, Line, assert_same, batches, make_svi, take
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal

import pyro_vae.svi
from pyro_vae.svi import SVI, CompilationWarning

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
            for i in range(int((x.sum() + 0 * w).item()) - 3):
                pyro.sample(f"x_{i}", dist.Normal(w, 1.0), obs=x[i])

        self.check(model, "cannot be traced")

    def test_other_random_numbers(self, uncompiled):
        def model(x):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(w + random.random(), 1.0), obs=x)

        self.check(model, "not a tensor")

    def test_attribute_that_changes_later(self, uncompiled):
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

    def test_no_compiler(self, monkeypatch):
        def fail(*_, **__):
            raise RuntimeError("no C++ compiler")

        monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", fail)
        module = Autoencoder()
        svi = make_svi(module)
        before = copy.deepcopy(module.state_dict())
        with pytest.warns(CompilationWarning, match="no C\\+\\+ compiler"):
            take(svi, *batches())
        assert svi.engine == "eager, float32"
        assert not torch.equal(before["encoder.0.weight"], module.encoder[0].weight)

    def test_within_a_handler(self, uncompiled):
        one, other = Autoencoder(), Autoencoder()
        x = batches(B)[0]
        for module, compile in ((one, True), (other, False)):
            svi = make_svi(module, compile=compile)
            torch.manual_seed(0)
            for _ in range(3):
                svi.step(x)
            with warnings.catch_warnings(record=True) as caught, poutine.scale(scale=0.5):
                warnings.simplefilter("always")
                svi.step(x)
            assert any(issubclass(w.category, CompilationWarning) for w in caught) == compile
            svi.step(x)
        assert_same(one, other)


READS = {
    "list": lambda line, x: x.tolist()[0],
    "array": lambda line, x: x.numpy()[0],
    "float of a parameter": lambda line, x: float(line.net[0].bias[0].detach()),
    "branch on a parameter": lambda line, x: 1.0 if line.net[0].bias[0] > 0 else 2.0,
    "length of a selection": lambda line, x: float(len(x[x > 0.5])),
    "number of values": lambda line, x: float(len(torch.unique(x))),
    "tensor of items": lambda line, x: torch.tensor([line.net[0].bias[0].item(), 1.0]).sum(),
    "item": lambda line, x: {1.0: 0.0}.get(line.net[0].bias[0].item(), 5.0),
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


def test_arguments_that_cannot_be_watched():
    def model(x, settings):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("w", torch.tensor(0.0)), max(settings)), obs=x)

    svi = SVI(model, lambda x, settings: None, pyro.optim.SGD({"lr": 0.1}), Trace_ELBO(), compile=True)
    svi.step(torch.ones(3), {1.0})
    with pytest.warns(CompilationWarning, match="an argument is a set"):
        svi.step(torch.ones(3), {2.0})


def test_values_that_are_asked_for_in_vain(uncompiled):
    """A program may ask for a value to choose a path, and take another one where that is refused."""

    def model(x):
        try:
            complete = bool(x.isfinite().all())
        except TypeError:
            complete = False
        scale = torch.tensor(1.0) if complete else x.new_tensor(1.0).where(x.isfinite().all(), 2.0)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("w", torch.tensor(0.0)), scale), obs=x)

    svi = SVI(model, lambda x: None, pyro.optim.SGD({"lr": 0.1}), Trace_ELBO(), compile=True)
    take(svi, *[torch.ones(3)] * 3)
    assert svi.engine == "compiled, float32"


def run_python(code):
    code = textwrap.dedent(SIMPLE) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


SIMPLE = """
    import importlib, sys, warnings
    import pyro, pyro.distributions as dist, torch
    from pyro.infer import Trace_ELBO
    from pyro_vae.svi import SVI

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("w", torch.tensor(0.0)), 1.0), obs=x)

    def steps(compile):
        svi = SVI(model, lambda x: None, pyro.optim.SGD({"lr": 0.1}), Trace_ELBO(), compile=compile)
        for _ in range(3):
            svi.step(torch.ones(3))
        return svi.engine
"""


def test_missing_private_names():
    """Eager steps do without the engine. Then each name in turn is taken away, as another version of PyTorch
    or Pyro may: before the engine is imported, which then cannot be, or after."""
    code = """
    assert steps(False) == steps("auto") == "eager, float32"
    assert not [name for name in sys.modules if name.startswith("pyro_vae.engine")]

    from torch._inductor import compile_fx  # PyTorch's own parts find what they need
    import pyro.infer.util

    def without(holder, name):
        kept = getattr(holder, name)
        delattr(holder, name)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert steps(True) == "eager, float32", name
        setattr(holder, name, kept)
        caught = [str(w.message) for w in caught if w.category.__name__ == "CompilationWarning"]
        assert len(caught) == 1 and name in caught[0], (name, caught)
        print(name)

    for module, name in [
        ("torch.fx.experimental.proxy_tensor", "make_fx"),
        ("torch.utils._python_dispatch", "TorchDispatchMode"),
        ("torch.utils._pytree", "tree_flatten"),
    ]:
        without(importlib.import_module(module), name)
        for imported in [name for name in sys.modules if name.startswith("pyro_vae.engine")]:
            del sys.modules[imported]
    assert steps(True) == "compiled, float32"
    without(compile_fx, "compile_fx")
    without(pyro.infer.util, "Dice")
    """
    assert len(run_python(code).split()) == 5


def test_private_names_are_in_one_file():
    root = Path(pyro_vae.svi.__file__).parent
    files = [root / "svi.py", *(root / "engine").glob("*.py")]
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            elif isinstance(node, ast.Attribute) and getattr(node.value, "id", None) not in ("self", "cls"):
                names = [node.attr]
            else:
                continue
            private = [n for n in names if n == "experimental" or (n.startswith("_") and n[:2] != "__")]
            assert not private or path.name == "private.py", f"{path.name}:{node.lineno}: {private}"
