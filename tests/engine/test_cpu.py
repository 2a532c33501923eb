"""What compiled steps compute otherwise on a CPU, against PyTorch's own in float64."""

import math
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from pyro_vae.engine import Compiled, cpu

X = torch.cat([torch.linspace(-100, 100, 4001), torch.logspace(-38, 1, 400), -torch.logspace(-38, 1, 400)])
SPECIAL = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan])
FUNCTIONS = {
    "softplus": (cpu.softplus, F.softplus),
    "sigmoid": (cpu.sigmoid, torch.sigmoid),
    "log_sigmoid": (lambda x: cpu.log_sigmoid_forward(x)[0], F.logsigmoid),
    "tanh": (cpu.tanh, torch.tanh),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_functions_are_right_to_the_last_digits(name):
    ours, theirs = FUNCTIONS[name]
    found, exact = ours(X).double(), theirs(X.double())
    smallest = torch.finfo(torch.float32).tiny
    assert found.dtype == torch.float64
    # e^-|x| has the relative error of |x|, times |x|.
    assert ((found - exact).abs() <= (3e-7 + 1e-7 * X.abs()) * exact.abs() + smallest).all()
    torch.testing.assert_close(ours(SPECIAL), theirs(SPECIAL), equal_nan=True)


def test_binary_cross_entropy_is_right():
    x = torch.arange(len(X)) % 2
    found = cpu.binary_cross_entropy_with_logits(X, x.float(), None, None, 0).double()
    exact = F.binary_cross_entropy_with_logits(X.double(), x.double(), reduction="none")
    assert ((found - exact).abs() <= 3e-7 * (X.abs() + exact)).all()


@pytest.mark.parametrize("x", [X.double(), X.to("meta")], ids=["float64", "elsewhere"])
def test_others_are_left_to_pytorch(x):
    assert all(function(x) is NotImplemented for function in (cpu.softplus, cpu.sigmoid, cpu.tanh, cpu.isnan))


def test_other_arguments_are_left_to_pytorch():
    assert cpu.softplus(X, 2.0, 20) is NotImplemented
    assert cpu.softplus_backward(X, X, 1, 5.0) is NotImplemented
    assert cpu.binary_cross_entropy_with_logits(X, X, X, None, 0) is NotImplemented
    assert cpu.addmm(X, X, X, beta=2) is NotImplemented


def test_a_graph_with_all_of_them_has_the_gradients_of_pytorch():
    torch.manual_seed(0)
    weight, bias = torch.randn(5, 7, requires_grad=True), torch.randn(5, requires_grad=True)
    x = torch.rand(64, 7)

    def function(x):
        h = F.linear(x, weight, bias)
        parts = [F.softplus(h), torch.tanh(h), torch.sigmoid(h), F.logsigmoid(h)]
        parts.append(F.binary_cross_entropy_with_logits(h, x[:, :5].round(), reduction="none"))
        parts.append(torch.where(h.isnan(), 0.0, h))
        value = sum((i + 1) * part.sin().sum() for i, part in enumerate(parts))
        return [value.detach(), *torch.autograd.grad(value, [weight, bias])]

    found, expected = Compiled(function, [x])(x), function(x)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


SHARED = """
import torch
from pyro_vae.engine import private
from torch.fx.experimental.proxy_tensor import make_fx

torch.manual_seed(0)
x = torch.randn(37, 51)
function = lambda x: [(x.exp() + x[0]).sum(-1), (x * 2).tanh()]
compiled = private.inductor(make_fx(function)(x), [x])
torch.testing.assert_close(list(compiled(x)), function(x))
"""


@pytest.mark.slow
def test_a_cache_that_processors_share(tmp_path):
    """One without AVX-512 does not take the code that another has left in a folder of both."""
    for capability in ("avx512", "avx2", "default"):
        cache = {"ATEN_CPU_CAPABILITY": capability, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
        told = subprocess.run(
            [sys.executable, "-c", SHARED], env=os.environ | cache, capture_output=True, text=True
        )
        assert told.returncode == 0, told.stderr
