"""Sentences say what the figures do: each way of being off, and none."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pyro_vae.evaluate.ais import AIS
from pyro_vae.evaluate.anatomy import Anatomy, Latents
from pyro_vae.evaluate.calibration import DISTANCE, JOINT, Calibration
from pyro_vae.evaluate.gap import InferenceGap
from pyro_vae.evaluate.intervals import Intervals
from pyro_vae.evaluate.likelihood import ELBO, LogLikelihood
from pyro_vae.evaluate.predictive_check import PredictiveCheck, Statistic
from pyro_vae.evaluate.sandwich import Sandwich
from pyro_vae.evaluate.two_sample import TwoSample
from pyro_vae.report import verdicts


def history(values, training=None):
    return [
        {"elbo": t, "validation_elbo": v}
        for v, t in zip(values, training or [v + 1 for v in values], strict=True)
    ]


def test_training():
    rising, settled = np.arange(40.0) - 100, -50 - 50 * np.exp(-np.arange(40.0))
    over = [*rising[:30], *(rising[29] - 0.5 * np.arange(1, 11))]
    assert "still rose by 4.00 in the last 4 epochs: it is not done" in verdicts.training(history(rising))
    assert verdicts.training(history(settled)) == (
        "The validation ELBO is -50.00 nats per datum after 40 epochs, and has settled (+0.00 in the last 4 "
        "epochs); that of the training data lies 1.00 above."
    )
    assert "5.00 below that of epoch 30: it overfits since" in verdicts.training(history(over))
    assert (
        verdicts.training([{"elbo": -3.0}])
        == "The ELBO of the training data is -3.00 nats per datum after 1 epoch."
    )


def per_datum(mean, spread=0.01):
    return mean + spread * torch.linspace(-1, 1, 20)


@pytest.mark.parametrize(
    ("more", "width", "told"),
    [
        (0.0, 0.002, "to be trusted within 0.04"),
        (0.5, 0.002, "which is too low: annealing finds 0.50"),
        (-0.5, 0.002, "annealing finds 0.50 ± 0.00 less, and certifies nothing"),
        (0.0, 0.9, "its bounds are 0.90 apart"),
    ],
)
def test_likelihood(more, width, told):
    estimate = LogLikelihood(-10.0, 0.1, per_datum(-10.0), 100, "counting measure")
    annealed = AIS(-10.0, 0.1, 0.01, per_datum(-10.0 + more), torch.ones(20), "guide", 50, 4, "")
    bounds = torch.zeros(20)
    certificate = Sandwich(
        -10.0, -10.0 + width, 0.1, 0.1, 0.02, 0.01, bounds, bounds, bounds, {}, "guide", 50, 4, ""
    )
    assert told in verdicts.likelihood(estimate, annealed, certificate)
    assert "by importance samples alone" in verdicts.likelihood(estimate, None, None)
    heavy = replace(estimate, pareto_k=torch.tensor([0.9] * 3 + [0.1] * 17))
    assert ("but for 3 of 20 data" in verdicts.likelihood(heavy, annealed, certificate)) == (
        "trusted" in told
    )


@pytest.mark.parametrize(
    ("approximation", "amortisation", "told"),
    [
        (0.1, 0.9, "1.00 ± 0.00 nats below log p(x), 90 % by the encoder"),
        (0.9, 0.1, "90 % by the guide's family"),
        (0.5, 0.5, "encoder and guide's family have a part each"),
        (0.001, 0.001, "The ELBO is log p(x), as far as can be told"),
    ],
)
def test_gap(approximation, amortisation, told):
    log_p, best = per_datum(-10.0), per_datum(-10.0 - approximation)
    elbo = best - amortisation
    values = {
        "log_likelihood": log_p,
        "best_elbo": best,
        "elbo": elbo,
        "approximation": log_p - best,
        "amortisation": best - elbo,
    }
    found = InferenceGap(values, 100, 100, torch.ones(20), torch.zeros(20), 0.0, 0.0)
    assert told in verdicts.gap(found)


def ranks(scale=1.0, shift=0.0, number=1000, draws=99):
    """Of truths that are standard Normal among draws so many times as wide, and lower by a shift."""
    truth = torch.special.ndtri((torch.arange(number) + 0.5).double() / number)
    return (torch.special.ndtr(truth / scale + shift) * (draws + 1)).long().clamp(max=draws)


@pytest.mark.parametrize(
    ("scale", "shift", "told"),
    [
        (1.0, 0.0, "The encoder is calibrated, as far as 1000 simulations, nothing missing, tell (p = 0.5)"),
        (
            0.7,
            0.0,
            "not calibrated (p < 1e-6, 1000 simulations, nothing missing): 1 of 2 latents are too narrow",
        ),
        (1.4, 0.0, "1 of 2 latents are too wide (z[0] 1.4"),
        (1.0, 0.5, "z[0] is off its place, the truth +0.50 of its standard deviations away"),
    ],
)
def test_calibration(scale, shift, told):
    off = (scale, shift) != (1.0, 0.0)
    columns = torch.stack([ranks(scale, shift), ranks(), ranks(), ranks()], 1)
    p_values = torch.tensor([1e-9 if off else 0.5, 0.5, 0.5, 0.5])
    names = ("z[0]", "z[1]", JOINT, DISTANCE)
    found = Calibration(1e-9 if off else 0.5, p_values, names, columns, 1000, 99)
    assert told in verdicts.calibration(found)


def test_calibration_together():
    columns = torch.stack([ranks(), ranks(), ranks(1.0, 0.5), ranks()], 1)
    names = ("z[0]", "z[1]", JOINT, DISTANCE)
    found = Calibration(1e-9, torch.tensor([0.5, 0.5, 1e-9, 0.5]), names, columns, 1000, 99)
    assert "together they are not, as the truth is more probable than its draws" in verdicts.calibration(
        found
    )


def check(observed=0.0, accuracy=0.5, p=0.5, held=None):
    statistic = Statistic("mean", observed, torch.linspace(-1, 1, 99).double(), 0.5)
    return PredictiveCheck((statistic,), TwoSample(accuracy, 0.02, p, 100), None, held, 50, 99)


def test_fit():
    assert verdicts.fit(check()).startswith("Nothing that was asked tells data from draws: 1 statistics")
    assert "does not fit: mean is off (data 9, draws" in verdicts.fit(check(observed=9.0))
    told = verdicts.fit(check(accuracy=0.8, p=1e-9))
    assert told == "The model does not fit: a classifier tells data from draws (accuracy 0.80 ± 0.02)."
    held = Intervals(("a", "b"), torch.zeros(3, 2), torch.tensor([0.5, 0.001]), 0.002, 9)
    assert "predictive intervals of b do not hold what they say (p = 0.002)" in verdicts.fit(check(held=held))
    assert "they are not alike" in verdicts.draws(check(accuracy=0.8, p=1e-9).two_sample)
    assert "does not tell draws of the model from held-out data" in verdicts.draws(check().two_sample)
    assert "from training data" in verdicts.draws(check().two_sample, "training")
    assert "of 10 pairs it learns little" in verdicts.draws(replace(check().two_sample, num_pairs=10))


def test_what_is_kept():
    bound = ELBO(-10.0, 8.0, 2.0, 0.1)
    assert (
        verdicts.kept({"x": 0.34}, bound)
        == "Reconstructions have 34 % of the variance of x, for a KL of 2.00 nats."
    )
    several = verdicts.kept({"a": -0.1, "b": 0.5, "c": math.nan}, bound)
    assert several == "Reconstructions have from 0 % (a) to 50 % (b) of the variance, for a KL of 2.00 nats."
    assert "2.00 nats (KL) beyond the prior" in verdicts.kept({}, bound)


def test_anatomy_and_odd_data():
    each = torch.tensor([1.0, 0.001])
    empty = torch.zeros(0)
    site = Latents(1.0, 0.8, 0.2, 0.1, 0.1, each, each, each, empty, {})
    found = Anatomy(8.0, 1.001, 0.8, 0.2, {"z": site}, {}, 50)
    assert verdicts.anatomy(found).startswith(
        "1 of 2 latents of z carry something; of a KL of 1.00 nats 0.80 say"
    )
    told = verdicts.worst(torch.tensor([-1.0, -9.0, -2.0]), "test", "age (4.0)")
    assert told == (
        "Datum 1 of the test data is explained worst: log p(x) -9.00, 7.00 below the median, most of it in "
        "age (4.0)."
    )
