import importlib
import math
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from cases import PROGRAMS, batch_of, make
from scipy.stats import binom

import pyro_vae as pv
from pyro_vae.checks import ConfigError
from pyro_vae.data import DataError
from pyro_vae.data.columns import Column, Columns
from pyro_vae.evaluate.predictive_check import _distance
from pyro_vae.evaluate.two_sample import classifier_test, frechet_distance, precision_recall
from pyro_vae.program import DataWarning

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from linear import SCALE, _layer, system

FEW = {"num_replications": 99}


def drawn(program, number, seed=0):
    """Data that the model draws itself."""
    return program.generate(number, seed=seed)["x"]


@pytest.fixture
def linear():
    return system("VAE", exact=True).program.float()


# --- statistics


def test_p_values_of_numbers_are_counted(linear):
    """Against the replications themselves, which a statistic keeps."""
    kept = []

    def keep(x):
        kept.append(x.clone())
        return x.mean()

    x = drawn(linear, 40)
    found = pv.evaluate.predictive_check(linear, x, statistics={"mean": keep}, num_replications=19)
    assert torch.equal(kept[0], x)
    means = torch.stack([one.mean() for one in kept[1:]]).double()
    torch.testing.assert_close(found["mean"].replicated, means)
    above, below = (means >= x.mean()).sum(), (means <= x.mean()).sum()
    assert found["mean"].p_value == min(1, 2 * (1 + min(above, below)) / 20)
    assert len(means) == 19


def test_replications_are_draws_of_the_model(linear):
    """Their covariance is W W' + s^2 I, which the model has."""
    kept = []
    pv.evaluate.predictive_check(
        linear, drawn(linear, 500), statistics={"k": lambda x: kept.append(x) or 0.0}, num_replications=40
    )
    w = _layer(linear.p_x).weight.detach()
    expected = w @ w.T + SCALE**2 * torch.eye(5)
    torch.testing.assert_close(torch.cat(kept[1:]).T.cov(), expected, atol=0.12, rtol=0)


def test_false_alarms(linear):
    """Of 25 sets that the model drew no more than 5 are below 0.05, of either kind of statistic."""
    statistics = {"mean": torch.mean, "first": lambda x: x[:, 0]}
    small = [
        pv.evaluate.predictive_check(
            linear, drawn(linear, 30, 1000 + i), statistics=statistics, num_replications=39, seed=i
        )
        for i in range(25)
    ]
    for name in statistics:
        assert sum(one[name].p_value <= 0.05 for one in small) <= 5
    assert sum(one.two_sample.p_value <= 0.05 for one in small) <= 5


def test_wrong_models_are_found_out(linear):
    x = 1.3 * drawn(linear, 400)
    found = pv.evaluate.predictive_check(linear, x, **FEW)
    assert found["spread within a datum"].p_value == 0.01
    assert found["mean of a datum"].values.shape == (400,)
    assert found["mean of a datum"].draws.shape == (99, 400)
    assert found["smallest"].z_score < 0 < found["largest"].z_score
    assert "99 sets of as many draws" in str(found)
    assert "near 0.5 is good" in str(found)
    assert "largest" in found._repr_html_()


def test_distance_is_that_of_kolmogorov():
    from scipy.stats import ks_2samp

    random = np.random.default_rng(0)
    for values, others in (
        (random.normal(size=30), random.normal(size=50)),
        (random.integers(0, 4, 30), random.integers(0, 5, 70)),
    ):
        pool = np.sort(np.concatenate([values, others]))
        assert _distance(np.sort(values), pool) == pytest.approx(ks_2samp(values, pool).statistic)


def test_what_is_missing_is_missing_of_draws(linear):
    x = drawn(linear, 50)
    x[:20, 1] = torch.nan
    x[7] = torch.nan

    def holes(seen):
        assert torch.equal(seen.isnan(), x.isnan())
        return seen.nanmean()

    found = pv.evaluate.predictive_check(linear, x, statistics={"holes": holes}, **FEW)
    assert len(found["holes"].replicated) == 99
    with pytest.raises(DataError, match="nanmean"):
        pv.evaluate.predictive_check(linear, x, statistics={"mean": torch.mean}, **FEW)
    assert pv.evaluate.predictive_check(linear, x, **FEW)["mean of a datum"].values.isnan().sum() == 1


def test_what_is_no_statistic(linear):
    x = drawn(linear, 10)
    for wrong in (lambda x: x, lambda x: "many", lambda x: x[:3, 0]):
        with pytest.raises(ConfigError, match="must give one number, or one for each of the 10 data"):
            pv.evaluate.predictive_check(linear, x, statistics={"wrong": wrong})
    with pytest.raises(ConfigError, match=r"features \[10, F\]"):
        pv.evaluate.predictive_check(linear, x, features=lambda x: x.sum(1), num_replications=2)


def test_labels_are_seen_by_statistics():
    """Of a model with other sites a statistic sees the batch, y as it is in the data."""
    program = make("ConditionalVAE")
    batch = batch_of(program, 30)

    def of_class_1(seen):
        assert torch.equal(seen["y"], batch["y"])
        return seen["x"][seen["y"] == 1].mean()

    found = pv.evaluate.predictive_check(program, batch, statistics={"1": of_class_1}, num_replications=5)
    assert found["1"].observed == pytest.approx(batch["x"][batch["y"] == 1].mean().item())
    default = pv.evaluate.predictive_check(program, batch, num_replications=5)
    assert "x: mean of a datum" in default.p_values or "mean of a datum" in default.p_values
    assert not any(name.startswith("y") for name in default.p_values)


def table(number=120):
    random = np.random.default_rng(0)
    height = random.normal(170, 10, number)
    island = pd.Categorical(random.choice(["a", "b"], number, p=[0.7, 0.3]), categories=["a", "b"])
    return pd.DataFrame({"height": height, "visits": random.poisson(2.0, number), "island": island})


@pytest.fixture
def of_table():
    data = pv.data.load(table(), test=0.0, validation=0.0)
    torch.manual_seed(0)
    vae = pv.VAE(data.event_shapes, 2, likelihood="auto", encoder=pv.nets.mlp(8), decoder=pv.nets.mlp(8))
    vae.initialize(data.train)
    return vae


@pytest.mark.filterwarnings("ignore::pyro_vae.program.DataWarning")
def test_tables(of_table):
    frame = table().astype({"height": "float32"})
    frame.loc[:9, "height"] = math.nan
    seen = []

    def means(one):
        seen.append(one)
        return one["height"].mean()

    named = {"means": means, "by island": lambda f: f["height"][f["island"] == "a"].mean()}
    found = pv.evaluate.predictive_check(of_table, frame, statistics=named, num_replications=9)
    assert all(isinstance(one, pd.DataFrame) and one["height"].isna().sum() == 10 for one in seen)
    assert found["means"].observed == pytest.approx(frame["height"].mean())
    assert found.intervals.names == ("height", "visits", "island")
    assert found.intervals.places.shape == (120, 3)
    assert found.intervals.places[:, 0].isnan().sum() == 10
    default = pv.evaluate.predictive_check(of_table, frame, num_replications=9)
    assert {"height: mean", "height: std", "visits: zeros", "island = a"} <= default.p_values.keys()
    assert "95 %" in str(default)
    for figure in (pv.figures.predictive_check(default), pv.figures.intervals(default.intervals)):
        assert figure.axes


# --- two samples


def test_classifier_is_right_at_its_level():
    """Of 15 equal samples with features that pairs share few are told; and it finds out what differs."""
    torch.manual_seed(0)
    alarms, accuracies = 0, []
    for i in range(15):
        shared = torch.randn(60, 1)
        data, draws = (torch.cat([torch.randn(60, 2), shared], 1) for _ in range(2))
        found = classifier_test(data, draws, i)
        alarms += found.p_value <= 0.05
        accuracies.append(found.accuracy)
    assert alarms <= 4
    assert np.mean(accuracies) == pytest.approx(0.5, abs=0.04)
    data, draws = torch.randn(300, 2), torch.randn(300, 2)
    draws[:, 1] = draws[:, 0] + 0.1 * draws[:, 1]
    data[:9, 0] = torch.nan
    found = classifier_test(data, draws, 0)
    assert found.accuracy > 0.8
    assert found.p_value < 1e-6
    assert found.standard_error == pytest.approx(0.02, abs=0.01)


def test_p_value_of_the_classifier_counts_pairs():
    """Of the 32 of 40 that it is asked of."""
    x = torch.arange(40.0)[:, None]
    found = classifier_test(x, x + 100, 0)
    assert (found.accuracy, found.p_value) == (1.0, pytest.approx(binom.sf(31, 32, 0.5)))
    same = classifier_test(x, x, 0)
    assert same.accuracy == 0.5
    assert same.p_value > 0.05


def test_what_a_classifier_is_asked_of_has_not_taught_it(monkeypatch):
    """Each block is told by those before alone, so that errors of one pair are no other's, as of folds."""
    import sklearn.ensemble

    asked, own = [], sklearn.ensemble.HistGradientBoostingClassifier

    class Classifier(own):
        def fit(self, x, y):
            self.taught = set(x[:, 0])
            return super().fit(x, y)

        def predict_proba(self, x):
            asked.append((self.taught, set(x[:, 0])))
            return super().predict_proba(x)

    monkeypatch.setattr(sklearn.ensemble, "HistGradientBoostingClassifier", Classifier)
    x = torch.arange(23.0)[:, None]
    classifier_test(x, x + 0.5, 0)
    later = set()
    for taught, now in reversed(asked):
        assert not taught & (now | later)
        later |= now
    assert len(later) == 2 * (23 - 5)


@pytest.mark.slow
def test_false_alarms_of_the_classifier():
    """300 equal samples, of which at most 5 % are below 0.05, up to 2.6 standard errors: 99 % of tries."""
    torch.manual_seed(0)
    alarms = [classifier_test(torch.randn(40, 3), torch.randn(40, 3), i).p_value <= 0.05 for i in range(300)]
    assert np.mean(alarms) <= 0.05 + 2.6 * (0.05 * 0.95 / 300) ** 0.5


def test_frechet_distance_of_normals():
    """|m_a - m_b|^2 + sum of (s_a - s_b)^2 of samples whose moments are exactly these."""
    torch.manual_seed(0)
    x = torch.randn(50, 3).double()
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T.cov()), x.T, upper=False).T
    a, b = white * torch.tensor([1.0, 2.0, 0.0]) + 1.0, white * torch.tensor([3.0, 1.0, 0.5])
    assert frechet_distance(a, b) == pytest.approx(3 + 4 + 1 + 0.25)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a[:, :1], b[:, :1]) == pytest.approx(1 + 4)


@pytest.mark.skipif(find_spec("torchmetrics") is None, reason="torchmetrics is not installed")
@pytest.mark.filterwarnings("ignore")
def test_frechet_distance_is_that_of_torchmetrics():
    """With a feature network of one's own; its default one, Inception, is downloaded."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 6))
    theirs = FrechetInceptionDistance(feature=net, normalize=True, input_img_size=(3, 4, 4))
    a, b = torch.rand(200, 3, 4, 4), torch.rand(300, 3, 4, 4) ** 2
    with torch.no_grad():
        theirs.update(a, real=True)
        theirs.update(b, real=False)
        ours = frechet_distance(*(net(x) for x in (a, b)))
        assert ours == pytest.approx(theirs.compute().item(), rel=1e-3)


def test_precision_and_recall():
    """Draws at one of two places that data are at are precise, and recall half of them."""
    torch.manual_seed(0)
    near, far = torch.randn(50, 2), torch.randn(50, 2) + 100
    data = torch.cat([near, far])
    precision, recall = precision_recall(data, near + 0.01)
    assert precision > 0.95
    assert recall == pytest.approx(0.5, abs=0.05)
    assert precision_recall(near, far) == (0.0, 0.0)
    assert precision_recall(data, data) == (1.0, 1.0)


def test_features_of_the_users_network(linear):
    x = drawn(linear, 300)
    options = {"statistics": {"mean": torch.mean}, "num_replications": 5, "max_rows": 100}
    right = pv.evaluate.predictive_check(linear, x, features=lambda x: x[:, :3], **options).features
    wrong = pv.evaluate.predictive_check(linear, 3 * x, features=lambda x: x[:, :3], **options).features
    assert right.frechet_distance < 4 * right.frechet_distance_of_draws
    assert wrong.frechet_distance > 20 * wrong.frechet_distance_of_draws
    assert right.precision > 0.8 > wrong.recall
    x[0, 0] = torch.nan
    with pytest.raises(DataError, match="must take NaN"):
        pv.evaluate.predictive_check(
            linear, x, statistics={"n": lambda x: x.nanmean()}, features=lambda x: x, num_replications=2
        )


# --- intervals


@pytest.mark.filterwarnings("ignore::pyro_vae.program.DataWarning")
def test_intervals_of_a_right_model_hold_what_they_say(linear):
    x = drawn(linear, 100)
    x[:20, 2] = torch.nan
    found = pv.evaluate.intervals(linear, x, num_particles=100)
    assert found.names == tuple("01234")
    for level in (0.5, 0.9):
        error = (level * (1 - level) / 80) ** 0.5
        assert (found.coverage(level) - level).abs().max() < 4 * error
    assert found.p_value > 0.01
    narrow = 0.3 * (x - x.nanmean(0)) + x.nanmean(0)
    wide = pv.evaluate.intervals(linear, narrow, num_rows=60, num_particles=100)
    assert wide.p_value < 1e-3
    assert wide.coverage(0.5).min() > 0.55
    assert "50 %" in str(wide)


def test_draws_of_intervals_are_moved_on(linear):
    """As ``predict`` moves them: each column hidden in turn, under a seed of its own."""
    x, options = drawn(linear, 3), {"num_samples": 9, "num_particles": 20, "hmc": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        found = pv.evaluate.intervals(linear, x, num_rows=3, **options)
        with linear.evaluating(0):
            rows = x[torch.randperm(3)]
        hidden = rows.index_fill(1, torch.tensor([1]), torch.nan)
        draws = pv.predict(linear, hidden, 9, num_particles=20, hmc=2, seed=1)["x"].reshape(9, 3, 5)
    below = (draws[..., 1] < rows[:, 1]).sum(0) / 10
    assert ((found.places[:, 1] - below) >= 0).all()
    assert ((found.places[:, 1] - below) <= 0.1).all()
    with pytest.MonkeyPatch.context() as patch:
        predict = importlib.import_module("pyro_vae.evaluate.predict")
        patch.setattr(predict, "_move", lambda data, steps: torch.zeros(len(data)))  # none was accepted
        with pytest.warns(DataWarning, match=r"HMC's proposals were accepted .*\(\.\.\., hmc=4\)"):
            pv.evaluate.intervals(linear, x, num_rows=1, **options)


def test_intervals_are_of_rows():
    with pytest.raises(ValueError, match="predictive_check"):
        pv.evaluate.intervals(make("VAE"), torch.zeros(4, 2, 3))


# --- every program


@pytest.mark.filterwarnings("ignore::pyro_vae.program.DataWarning")
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program(name):
    program = make(name)
    if program.columns is not None:  # text levels, as a frame has them
        of = program.columns.of.items()
        program.columns = Columns({n: Column(c.kind, "category", c.levels) if c.levels else c for n, c in of})
    batch = batch_of(program, 12)
    if not program.given_columns:
        batch["x"].flatten(1)[:3, 0] = torch.nan
    if name == "SelectionVAE":
        with pytest.raises(ValueError, match="whether a value is missing depends on it"):
            pv.evaluate.predictive_check(program, batch)
        return
    before = {key: value.clone() for key, value in program.state_dict().items()}
    state = torch.get_rng_state()
    options = {"num_replications": 4, "max_rows": 5}
    found, again = (pv.evaluate.predictive_check(program, batch, **options) for _ in range(2))
    other = pv.evaluate.predictive_check(program, batch, seed=1, **options) if name == "VAE" else None
    for one, same in zip(found.statistics, again.statistics, strict=True):
        assert torch.equal(one.replicated, same.replicated)
    assert other is None or any(
        not torch.equal(a.replicated, b.replicated)
        for a, b in zip(found.statistics, other.statistics, strict=True)
    )
    assert (found.intervals is not None) == (program.columns is not None)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in program.state_dict().items())


def test_figures(linear):
    x = drawn(linear, 100)
    many = {f"mean {i}": (lambda x, i=i: x[:, i % 5].mean()) for i in range(20)}
    found = pv.evaluate.predictive_check(linear, x, statistics=many, num_replications=19)
    figure = pv.figures.predictive_check(found)
    assert sum(axes.axison for axes in figure.axes) == 12
    assert "12 of 20" in figure.get_suptitle()
    default = pv.figures.predictive_check(pv.evaluate.predictive_check(linear, x, num_replications=19))
    titles = [axes.get_title() for axes in default.axes if axes.axison]
    assert len(titles) == 5
    assert titles[0].startswith("mean of a datum\np = ")


def test_labels_that_are_none_of_the_model_are_left_out(digits, make_vae):
    """A statistic gets x alone, though the data have labels too."""
    found = pv.evaluate.predictive_check(
        make_vae(), digits.test, statistics={"ink": lambda x: x.flatten(1).sum(1)}, num_replications=5
    )
    assert list(found.p_values) == ["ink"]


def test_one_datum_is_no_set():
    vae = pv.VAE((3,), 2, likelihood=pv.likelihoods.Normal())
    with pytest.raises(DataError, match="one datum"):
        pv.evaluate.predictive_check(vae, torch.randn(1, 3))
    found = pv.evaluate.predictive_check(vae, torch.randn(2, 3), num_replications=2)
    assert found.two_sample.num_pairs == 2
    with pytest.raises(ConfigError, match="num_replications=1 must be 2 or more"):
        pv.evaluate.predictive_check(vae, torch.randn(2, 3), num_replications=1)


def test_all_statistics_together(linear):
    """Against counting by hand; of a statistic that is infinite, too; and what is off is named."""
    x = drawn(linear, 40)
    statistics = {
        "mean": torch.mean,
        "first": lambda x: x[:, 0],
        "infinite": lambda x: torch.tensor(math.inf),
        "at times": lambda x: 1 / (x[0, 0] > 0).double(),
        "wrong": lambda x: float((x.sum() - total).abs() < 1e-3),
    }
    total = x.sum()
    found = pv.evaluate.predictive_check(linear, x, statistics=statistics, num_replications=19)
    assert [one.name for one in found.off] == ["wrong"]
    assert found.p_value == found.adjusted["wrong"] == 1 / 20
    assert found.adjusted["infinite"] == 1.0
    assert "p = 0.05 of all 5 statistics together, 1 of them off" in str(found)
    pool = torch.cat([torch.tensor([found["mean"].observed]), found["mean"].replicated])
    torch.testing.assert_close(found["mean"].extremes, ((pool - pool.mean()) / pool.std()).abs())
    farthest = torch.stack([one.extremes for one in found.statistics]).max(0).values
    by_hand = (1 + (farthest[1:] >= found["mean"].extremes[0]).sum().item()) / 20
    assert found.adjusted["mean"] == pytest.approx(by_hand)
    assert all(one.extremes.isfinite().all() for one in found.statistics)
    assert found["wrong"].z_score == math.inf
    assert math.isnan(found["at times"].z_score)


def test_all_statistics_together_have_few_false_alarms(linear):
    """Of 40 sets that the model drew, with 20 statistics each, 2 are expected, and 6 or more in 1 of 70."""
    many = {f"{i} {j}": (lambda x, i=i, j=j: (x[:, i] * x[:, j]).mean()) for i in range(4) for j in range(5)}
    alarms = [
        pv.evaluate.predictive_check(
            linear, drawn(linear, 10, 1000 + i), statistics=many, num_replications=39, seed=i
        ).p_value
        <= 0.05
        for i in range(40)
    ]
    assert sum(alarms) <= 5


def test_a_statistic_that_changes_the_data_is_refused():
    vae, x = pv.VAE((3,), 2, likelihood=pv.likelihoods.Normal()), torch.randn(20, 3)
    before = x.clone()
    with pytest.raises(ConfigError, match="'total' changes the values"):
        pv.evaluate.predictive_check(vae, x, statistics={"total": lambda x: x.abs_().sum(), "m": torch.mean})
    assert torch.equal(x, before)


def test_a_program_of_few_bits():
    vae = pv.VAE((3,), 2, likelihood=pv.likelihoods.Normal()).to(torch.bfloat16)
    found = pv.evaluate.predictive_check(vae, torch.randn(20, 3), num_replications=3)
    assert all(0 < p <= 1 for p in found.p_values.values())


def test_a_classifier_of_columns_without_values():
    data, draws = torch.randn(2, 40, 3).double()
    data[:, 1] = draws[:, 1] = torch.nan
    data[0, 1] = draws[0, 1] = 0.0  # known of one pair, and not where it is held out
    found = classifier_test(data, draws + 4, 0)
    assert found.accuracy > 0.9


def test_a_classifier_of_few_data_learns_what_is_plain():
    torch.manual_seed(0)
    data, draws = torch.randn(18, 3), torch.randn(18, 3) + torch.tensor([9.0, 0.0, 0.0])
    found = classifier_test(data, draws, seed=0)
    assert found.accuracy > 0.9
    assert found.p_value < 0.01
    assert "of so few it learns little; 18 pairs" in str(found)


def test_images_are_asked_of_their_neighbours(digits, make_vae):
    found = pv.evaluate.predictive_check(make_vae(), digits.test, num_replications=20)
    assert list(found.p_values) == [
        "mean of a datum",
        "changes along rows of a datum",
        "changes along columns of a datum",
    ]
    x = digits.test[:].double()
    rows = (x[..., 1:] - x[..., :-1]).abs().flatten(1).mean(1)
    torch.testing.assert_close(found["changes along rows of a datum"].values, rows)
