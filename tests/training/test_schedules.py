import functools
import math

import pytest
import torch
from runs import FIT
from torch.optim import lr_scheduler

import pyro_vae as pv
from pyro_vae.checks import ConfigError
from pyro_vae.training.schedules import SCHEDULES, warmup


def test_names():
    assert [SCHEDULES["constant"](p) for p in (0.0, 0.7)] == [1.0, 1.0]
    assert [SCHEDULES["linear"](p) for p in (0.0, 0.75)] == [1.0, 0.25]
    assert SCHEDULES["cosine"](0.5) == pytest.approx(0.5)
    burda = [SCHEDULES["burda"](k / 3280 + 1e-9) for k in (0, 1, 4, 13, 1093)]
    assert burda == pytest.approx([10 ** (-i / 7) for i in (0, 1, 2, 3, 7)])


def test_warmup():
    """From one step's share to exactly 1 in the last step."""
    assert [warmup(k / 4, 2, 4) for k in range(9)] == [*(k / 8 for k in range(1, 9)), 1.0]
    assert warmup(0.0, 0, 4) == 1.0


def test_functions_of_the_epoch(make_vae, digits):
    seen = []

    def lr(epoch):
        seen.append(epoch)
        return 0.01 / (1 + epoch)

    run = pv.fit(make_vae(), digits, **FIT, lr=lr, beta=lambda epoch: 0.5 + epoch)
    assert seen[1:] == [k / 4 for k in range(16)]
    last = [3 / 4, 7 / 4, 11 / 4, 15 / 4]
    assert [row["lr"] for row in run.history] == pytest.approx([0.01 / (1 + e) for e in last])
    assert [row["beta"] for row in run.history] == pytest.approx([0.5 + e for e in last])


def test_a_function_that_tells_nonsense(make_vae, digits):
    with pytest.raises(ConfigError, match=r"beta\(0\.5\) is nan"):
        pv.fit(make_vae(), digits, **FIT, beta=lambda epoch: math.nan if epoch == 0.5 else 1.0)
    with pytest.raises(ConfigError, match=r"lr\(0\.5\) is -1"):
        pv.fit(make_vae(), digits, **FIT, lr=lambda epoch: -1.0 if epoch == 0.5 else 1e-3)


def test_any_scheduler(make_vae, digits):
    step = functools.partial(lr_scheduler.StepLR, step_size=2, gamma=0.1)
    run = pv.fit(make_vae(), digits, **FIT, lr=0.01, schedule=step)
    assert [row["lr"] for row in run.history] == pytest.approx([0.01, 0.01, 0.001, 0.001])
    own = lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch)  # noqa: E731
    run = pv.fit(make_vae(), digits, **FIT, lr=0.01, schedule=own)
    assert [row["lr"] for row in run.history] == pytest.approx([0.01, 0.005, 0.0025, 0.00125])
    run = pv.fit(make_vae(), digits, **FIT, lr=0.01, schedule="StepLR(step_size=1)")
    assert run.history[1]["lr"] == pytest.approx(0.001)


@pytest.mark.parametrize("validation", [0.1, 0.0])
def test_plateau_watches_the_elbo(make_vae, digits, validation):
    """With a threshold that no epoch passes the rate falls from the second epoch on."""
    data = pv.data.load(digits.train[:400], validation=validation)
    plateau = functools.partial(lr_scheduler.ReduceLROnPlateau, patience=0, factor=0.5, threshold=0.9)
    run = pv.fit(make_vae(), data, epochs=4, schedule=plateau, progress=False)
    assert [row["lr"] for row in run.history] == pytest.approx([1e-3, 1e-3, 5e-4, 2.5e-4])


def test_schedulers_that_are_none(make_vae, digits):
    with pytest.raises(ConfigError, match="returned a float"):
        pv.fit(make_vae(), digits, **FIT, schedule=lambda optimizer: 0.1)
    with pytest.raises(ConfigError, match=r"schedule StepLR cannot be made.*step_size"):
        pv.fit(make_vae(), digits, **FIT, schedule=torch.optim.lr_scheduler.StepLR)
