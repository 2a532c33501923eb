"""One compiled function, and what undoes a trace."""

import copy
import math

import pytest
import torch
from torch import nn

from pyro_vae.engine import CompilationError, Compiled
from pyro_vae.engine.trace import rollback


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
    def function(x):
        return [x if x.sum() > 0 else -x]

    with pytest.raises(CompilationError, match="cannot be traced"):
        Compiled(function, [torch.ones(3)])
    guards = Compiled(function, [torch.ones(3)], guarded=True).guards
    assert guards.hold([torch.ones(3)])
    assert not guards.hold([-torch.ones(3)])


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


def test_difference_is_refused():
    compiled = Compiled(lambda x: [2 * x], [torch.ones(3)])
    compiled.check(lambda x: [2 * x], [torch.ones(3)], 1e-6)
    compiled.check(lambda x: [2 * x + math.nan], [torch.ones(3)], 1e-6)  # left to those who look for it
    compiled.check(lambda x: [2.1 * x], [torch.ones(3)], 1e-6, lambda expected: 1e6)
    for function in (lambda x: [2.1 * x], lambda x: [0 * x]):
        with pytest.raises(CompilationError, match="differs from the eager one"):
            compiled.check(function, [torch.ones(3)], 1e-6)
    with pytest.raises(CompilationError, match="differs"):
        Compiled(lambda x: [x / 0 * 0], [torch.ones(3)]).check(lambda x: [x], [torch.ones(3)], 1e-6)


def test_check_leaves_tensors_and_generators_as_they_were():
    total = torch.zeros(3)

    def function(x):
        total.add_(x)
        return [total + torch.randn(3)]

    compiled = Compiled(function, [torch.ones(3)])
    noise = torch.get_rng_state()
    compiled.check(function, [torch.ones(3)], 1e-6)
    assert torch.equal(total, torch.zeros(3))
    assert torch.equal(torch.get_rng_state(), noise)
    compiled(torch.ones(3))
    assert torch.equal(total, torch.ones(3))
