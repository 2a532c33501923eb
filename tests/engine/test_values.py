"""Programs whose shapes, indices, branches and arguments are not static by themselves: what is made static of
them is Pyro's step, seed for seed, and the rest is eager."""

import argparse
import functools
import types

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import pytest
import torch
from plain import follow
from pyro.infer import Trace_ELBO

from pyro_vae.svi import SVI


def batches(number=11):
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(20, generator=generator),) for _ in range(number)]


def regression(term):
    """x ~ Normal(w + term(x), 1)."""

    def make():
        def model(x, *more):
            loc = pyro.param("w", torch.tensor(0.1)) + 0.01 * term(x, *more)
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

        return model, lambda *args: None

    return make


def scale():
    return pyro.param("scale", torch.tensor(0.3))


# x[mask]


def put_back(x):
    y = torch.zeros_like(x)
    y[x > 0] = x[x > 0].log() * scale()  # not finite outside of the mask, where no gradient may come from
    return y.sum()


def changed_in_place(x):
    y = x * scale()
    mask = y > 0
    y[mask] += 1.0
    y[mask] = y[mask].sqrt()
    y[~mask] = 0.5
    return y.sum()


def rows(x):
    y = torch.zeros(5, 4)
    y[x[:5] > 0] = (x.reshape(5, 4) * scale())[x[:5] > 0] * torch.arange(4.0)
    return y.sum()


def broadcast(x):
    return (x[x > 0] * scale() + x[x > 0].detach().abs()).exp().sum()


SELECTIONS = [put_back, changed_in_place, rows, broadcast]


@pytest.mark.parametrize("term", SELECTIONS)
def test_selections(term, uncompiled):
    svi, reasons = follow(regression(term), batches)
    assert svi.engine == "compiled, float32", reasons


@pytest.mark.parametrize("length", [10_007, 10_009])
def test_data_of_any_length(length, uncompiled):
    """Even of that which selections have while they are recorded."""
    data = [(torch.randn(length),)] * 3
    svi, reasons = follow(regression(lambda x: put_back(x) + len(x) * scale()), lambda: data)
    assert svi.engine == "compiled, float32", reasons


def test_selections_by_inductor():
    svi, reasons = follow(regression(lambda x: sum(term(x) for term in SELECTIONS)), batches)
    assert svi.engine == "compiled, float32", reasons


REFUSED = {
    "length": lambda x: float(len(x[x > 0])),
    "shape": lambda x: x[x > 0].shape[0] * scale(),
    "mean": lambda x: x[x > 0].mean(),
    "order": lambda x: x[x > 0].sort()[0][0] * scale(),
    "number in a gradient": lambda x: (x[x > 0] + scale()).sum(),
    "another mask": lambda x: (torch.zeros(20).index_put((x > 0,), x[x < 0][:1]) * scale()).sum(),
    "noise": lambda x: torch.rand_like(x[x > 0]).sum() * scale(),
}


@pytest.mark.parametrize("term", REFUSED.values(), ids=REFUSED.keys())
def test_selections_that_are_refused(term, uncompiled):
    """Their number is in the result, or in the order of random numbers."""
    svi, reasons = follow(regression(term), lambda: batches(3))
    assert svi.engine == "eager, float32"
    assert "depends on the values of a tensor" in reasons[0]


@pytest.mark.parametrize("order", ["linear", "quadratic"])
@pytest.mark.parametrize("observed", [True, False])
def test_splines(order, observed, uncompiled):
    """The identity outside of an interval, where most of these data are."""

    def make():
        spline = transforms.Spline(2, count_bins=4, bound=1.5, order=order)

        def flow(x, name):
            pyro.module("spline", spline)
            spline._cached_x_y = None, None  # of the last step's x, and its graph
            base = dist.Normal(torch.zeros(2), 2.0).to_event(1)
            with pyro.plate("data", len(x)):
                pyro.sample(
                    name, dist.TransformedDistribution(base, [spline]), obs=x if name == "x" else None
                )

        def model(x):
            if observed:
                return flow(x, "x")
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

        return model, (lambda x: None) if observed else (lambda x: flow(x, "z"))

    torch.manual_seed(2)
    data = 3 * torch.randn(30, 2)
    svi, reasons = follow(make, lambda: [(data,)] * 11, rel=1e-4)
    assert svi.engine == "compiled, float32", reasons


# x[i]


def test_an_integer_as_an_index(uncompiled):
    def term(x):
        table = torch.arange(12.0).reshape(3, 4) * scale()
        i, j = (x[0] > 0).long() - 1, (x[1] > 0).int()  # -1 is the last
        rows = table[i].sum() + table[i, j] * 2 + table[j, torch.tensor([1, 2])].sum()
        return rows + table[:, i].sum() * table[1:, j, None].sum() + table[..., j].prod()

    svi, reasons = follow(regression(term), batches)
    assert svi.engine == "compiled, float32", reasons


def test_a_tensor_of_tensors(uncompiled):
    def term(x):
        numbers = torch.tensor([[x[0], 1], [scale(), True]])
        whole = torch.tensor([x[0] > 0, x.argmax()])
        assert (numbers.dtype, whole.dtype) == (torch.float32, torch.int64)
        return (numbers * scale()).sum() + whole.sum()

    svi, reasons = follow(regression(term), batches)
    assert svi.engine == "compiled, float32", reasons


# Values of arguments


def test_values_of_arguments_are_looked_at_before_each_step(uncompiled):
    def term(x):
        assert (x < 100).all()
        assert not x.isnan().any()
        return scale() if x.sum() > 0 else -scale()

    svi, reasons = follow(regression(term), batches)
    assert svi.engine == "compiled, float32", reasons
    assert svi.num_compilations == 2


def test_many_values_of_arguments_are_eager(uncompiled):
    svi, reasons = follow(regression(lambda x: float(x.max()) * scale()), batches)
    assert svi.engine == "eager, float32"
    assert svi.num_compilations == 4
    assert "compiled 4 times for one step each" in reasons[0]
    svi, reasons = follow(regression(lambda x: sum(float(number) for number in x) * scale()), batches)
    assert svi.num_compilations == 1
    assert "__float__ reads the values" in reasons[0]


def test_values_of_what_is_closed_over(uncompiled):
    """Whether changed in place or replaced, it is looked at before each step."""
    held = {"limit": torch.tensor(-100.0)}

    def term(x):
        return scale() if (x.sum() > held["limit"]) and held["limit"] < 0 else -scale()

    def calls():
        held["limit"] = torch.tensor(-100.0)
        for i, batch in enumerate(batches()):
            if i == 4:
                held["limit"].fill_(50.0)
            if i == 7:
                held["limit"] = torch.tensor(-90.0)
            yield batch

    svi, reasons = follow(regression(term), calls)
    assert svi.engine == "compiled, float32", reasons
    assert 2 <= svi.num_compilations <= 3


def test_what_is_computed_from_nothing_is_no_value(uncompiled):
    """A sequential plate has an index for each of its turns."""

    def make():
        def model(x):
            scale = pyro.param("scale", torch.ones(20))
            for i in pyro.plate("data", len(x)):
                pyro.sample(f"x{i}", dist.Normal(0.0, scale[i]), obs=x[i])

        return model, lambda x: None

    svi, reasons = follow(make, batches)
    assert svi.engine == "compiled, float32", reasons


VALUES = {
    "of a parameter": lambda x: scale() if scale() > 0.29 else -scale(),
    "of noise": lambda x: scale() if torch.rand(()) > 0.5 else -scale(),
    "written to": lambda x: float(x.clone().mul_(scale().detach()).sum()),
    "by an operation": lambda x: torch.arange((scale().detach() * 10).round()).sum() * scale(),
    "selected": lambda x: x[x > 0].sum().item(),
    "by another name": lambda x: float(scale().data.sum()) * scale(),
    "of noise, by another name": lambda x: scale() if float(torch.rand(()).data) > 0.5 else -scale(),
}


@pytest.mark.parametrize("term", VALUES.values(), ids=VALUES.keys())
def test_other_values_are_refused(term, uncompiled):
    svi, reasons = follow(regression(term), lambda: batches(4))
    assert svi.engine == "eager, float32"
    assert "values of a tensor" in reasons[0]


# Arguments that are not tensors


def shifted(shift, x):
    return x + shift


ARGUMENTS = {
    "namespace": lambda i: argparse.Namespace(value=1.0, names=["a", None]),
    "simple namespace": lambda i: types.SimpleNamespace(value=i // 4),
    "partial": lambda i: functools.partial(shifted, 0.5 * (i > 4)),
    "function": lambda i: shifted,
    "array": lambda i: np.array([1.0, i // 6]),
    "number of numpy": lambda i: np.float64(i // 6),
}


@pytest.mark.parametrize("make", ARGUMENTS.values(), ids=ARGUMENTS.keys())
def test_arguments(make, uncompiled):
    """Made anew for each step; where their values are others, so is what is compiled."""

    def term(x, given):
        if callable(given):
            given = given(0.25) if isinstance(given, functools.partial) else given(0.25, 1.0)
        return scale() * float(np.sum(getattr(given, "value", given)))

    svi, reasons = follow(regression(term), lambda: [(x, make(i)) for i, (x,) in enumerate(batches(9))])
    assert svi.engine == "compiled, float32", reasons
    assert svi.num_compilations <= 3


def test_a_large_array_is_refused(uncompiled):
    given = np.ones(10_000)
    svi, reasons = follow(
        regression(lambda x, y: scale() * y.sum()), lambda: [(x, given) for (x,) in batches(3)]
    )
    assert svi.engine == "eager, float32"
    assert "a large array of 10000 numbers" in reasons[0]


def test_what_runs_the_program_may_be_in_its_reach(uncompiled):
    """The SVI counts its steps, which is no change of the program."""

    class Trainer:
        def __init__(self):
            optim = pyro.optim.Adam({"lr": 0.02})
            self.svi = SVI(self.model, lambda x: None, optim, Trace_ELBO(), compile=True)

        def model(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(pyro.param("w", torch.tensor(0.0)), 1.0), obs=x)

    trainer = Trainer()
    for (x,) in batches(6):
        trainer.svi.step(x)
    assert trainer.svi.engine == "compiled, float32"
    assert trainer.svi.num_compilations == 1
