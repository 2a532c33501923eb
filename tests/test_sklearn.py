"""The estimator keeps scikit-learn's contract, and is the VAE of the rest of the package."""

import os
import pickle
import signal
import string
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import GUIDES, LIKELIHOODS, PRIORS, build, prior_of
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer
from sklearn.utils.estimator_checks import estimator_checks_generator

import pyro_vae as pv
from pyro_vae.checks import ConfigError
from pyro_vae.data import DataError
from pyro_vae.sklearn import VAEEstimator, VAEImputer
from pyro_vae.svi import SVI, NonFiniteLossError

X, Y = load_digits(return_X_y=True)
X, Y = X[:300, X[:300].std(0) > 3].copy("C") / 16, np.array(list(string.ascii_lowercase))[Y[:300]]
SMALL = {"latent_dim": 2, "hidden_dims": (8,), "epochs": 2, "num_samples": 5, "random_state": 0}
# What parametrize_with_checks does too, which until scikit-learn 1.7 hands pytest a generator.
CHECKS = [check for _, check in estimator_checks_generator(VAEEstimator(**SMALL))]
PARTS = [("prior", name) for name in PRIORS]
PARTS += [("likelihood", name) for name in LIKELIHOODS]
PARTS += [("guide", name) for name in GUIDES]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.func.__name__)
def test_scikit_learn_contract(check):
    check(VAEEstimator(**SMALL))


@pytest.fixture(scope="module")
def small():
    return VAEEstimator(**SMALL).fit(X)


@pytest.fixture(scope="module")
def linear():
    """A linear VAE fitted to correlated data, these, and its evidence Normal(b, W W' + s^2 I)."""
    random = np.random.default_rng(0)
    x = random.normal(size=(400, 2)) @ random.normal(size=(2, 5)) + 0.5 * random.normal(size=(400, 5)) + 3
    model = VAEEstimator(2, hidden_dims=(), epochs=60, lr=2e-2, random_state=0, num_samples=2000).fit(x)
    p_x = model.vae_.decode(torch.cat([torch.zeros(1, 2), torch.eye(2)]).double())
    loc, w = p_x.mean[0].detach(), (p_x.mean[1:] - p_x.mean[0]).detach()
    return model, x, dist.MultivariateNormal(loc, w.T @ w + p_x.variance[0].detach().diag())


def test_scores_are_the_evidence(linear):
    model, x, p_x = linear
    scores = model.score_samples(x[:50])
    np.testing.assert_allclose(scores, p_x.log_prob(torch.tensor(x[:50])), atol=0.1)
    assert model.score(x) == pytest.approx(p_x.log_prob(torch.tensor(x)).mean().item(), abs=0.01)
    assert model.score(x) == model.score_samples(x).mean()


def test_scores_are_those_of_evaluate(linear):
    model, x, _ = linear
    estimate = pv.evaluate.log_likelihood(model.vae_, torch.tensor(x), num_samples=2000)
    np.testing.assert_allclose(model.score_samples(x[:50]), estimate.per_datum[:50], atol=0.1)
    assert model.score(x) == pytest.approx(estimate.log_likelihood, abs=0.01)


def test_draws_are_of_the_evidence(linear):
    model, _, p_x = linear
    n = 100_000
    x = model.sample(n, random_state=0)
    covariance = p_x.covariance_matrix.numpy()
    variance = covariance.diagonal()
    within = 5 * np.sqrt(variance / n)
    assert (abs(x.mean(0) - p_x.mean.numpy()) < within).all()
    within = 5 * np.sqrt((np.outer(variance, variance) + covariance**2) / n)
    assert (abs(np.cov(x.T) - covariance) < within).all()


def test_transforms_are_means(small):
    x = torch.tensor(X)
    z = small.vae_.encode(x).mean
    np.testing.assert_array_equal(small.transform(X), z.detach())
    np.testing.assert_array_equal(small.inverse_transform(z.detach()), small.vae_.decode(z).mean.detach())
    np.testing.assert_array_equal(small.reconstruct(X), small.inverse_transform(small.transform(X)))
    assert list(small.get_feature_names_out()) == ["vaeestimator0", "vaeestimator1"]


def test_training_is_that_of_fit(small):
    assert [row["epoch"] for row in small.history_] == [1, 2]
    more = {"epochs": 10, "batch_size": 50, "lr": 1e-2, "beta": 0.5, "warmup_epochs": 3}
    longer = VAEEstimator(**SMALL | more).fit(X)
    assert longer.history_[0]["beta"] < 0.5
    assert [row["beta"] for row in longer.history_][2:] == [0.5] * 8
    assert [row["steps"] for row in longer.history_] == list(range(6, 61, 6))
    assert longer.history_[-1]["elbo"] > longer.history_[0]["elbo"]
    assert longer.score(X) > small.score(X)


def test_the_same_seed_gives_the_same_bits(small):
    torch.manual_seed(1)
    again, other = VAEEstimator(**SMALL).fit(X), VAEEstimator(**SMALL | {"random_state": 1}).fit(X)
    for method in ("transform", "score_samples", "reconstruct"):
        value = getattr(small, method)(X)
        np.testing.assert_array_equal(value, getattr(small, method)(X))
        np.testing.assert_array_equal(value, getattr(again, method)(X))
        assert (value != getattr(other, method)(X)).any()
    np.testing.assert_array_equal(small.sample(3, random_state=1), again.sample(3, random_state=1))
    assert (small.sample(3, random_state=1) != small.sample(3, random_state=2)).all()
    assert (small.sample(3) != small.sample(3)).all()
    assert small.sample().shape == (1, X.shape[1])


def test_nothing_leaks():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    model = VAEEstimator(**SMALL).fit(X)
    model.score(X)
    model.reconstruct(X)
    model.sample(2, random_state=0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert not pyro.get_param_store()
    assert not list(Path().iterdir())


def test_verbose(capsys):
    VAEEstimator(**SMALL).fit(X)
    assert capsys.readouterr() == ("", "")
    VAEEstimator(**SMALL, verbose=True).fit(X)
    assert "epoch 2/2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("texts", "objects"),
    [
        (
            {"prior": "Laplace(0.0, 1.0)", "likelihood": "Laplace", "guide": "FullRankNormal"},
            {
                "prior": dist.Laplace(0.0, 1.0),
                "likelihood": dist.Laplace,
                "guide": pv.guides.FullRankNormal,
            },
        ),
        (
            {
                "prior": "VampPrior(5)",
                "likelihood": "StudentT(df=4.0)",
                "guide": "LowRankNormal(1)",
                "encoder": "mlp(7, activation=Tanh)",
            },
            {
                "prior": pv.priors.VampPrior(5),
                "likelihood": pv.likelihoods.StudentT(df=4.0),
                "guide": pv.guides.LowRankNormal(1),
                "encoder": pv.nets.mlp(7, activation=torch.nn.Tanh),
            },
        ),
    ],
)
def test_texts_and_objects_give_the_same_model(texts, objects):
    one = VAEEstimator(**SMALL, **texts).fit(X)
    other = clone(VAEEstimator(**SMALL, **objects)).fit(X)
    assert repr(one.vae_) == repr(other.vae_)
    np.testing.assert_array_equal(one.score_samples(X[:50]), other.score_samples(X[:50]))


PLAIN = {"Normal", "Gamma", "FullRankNormal", "VampPrior", "Flow-spline_coupling"}
"""Parts that are always tried; ``test_contract.test_float64`` has all of them, without the estimator."""


@pytest.mark.parametrize(
    ("kind", "name"),
    [pytest.param(*part, marks=[pytest.mark.slow] * (part[1] not in PLAIN)) for part in PARTS],
    ids=map("-".join, PARTS),
)
def test_every_part_in_double_precision(kind, name):
    part = {"prior": PRIORS, "likelihood": LIKELIHOODS, "guide": GUIDES}[kind][name]
    own = {"likelihood": pv.likelihoods.Normal(scale=0.5)} if kind != "likelihood" else {}
    model = VAEEstimator(num_samples=3)
    model.vae_ = build(**own, **{kind: part}).double()
    x = model.sample(5, random_state=0)
    values = {
        "transform": model.transform(x),
        "score_samples": model.score_samples(x),
        "reconstruct": model.reconstruct(x),
    }
    twin = pickle.loads(pickle.dumps(model))
    for method, value in values.items():
        assert value.dtype == np.float64
        assert np.isfinite(value).all()
        np.testing.assert_array_equal(getattr(twin, method)(x), value)
        if name != "SemiAmortised":  # whose steps have draws by place
            alone = [getattr(model, method)(row[None])[0] for row in x]  # whatever is beside it
            np.testing.assert_allclose(value, alone, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(twin.sample(5, random_state=0), x)
    x[0, 2] = np.nan
    try:
        scores = model.score_samples(x)
    except pv.data.DataError:
        with pytest.raises(pv.data.DataError, match="missing values"):
            model.score(x)
    else:
        assert np.isfinite(scores[0])
        np.testing.assert_array_equal(scores[1:], values["score_samples"][1:])


@pytest.mark.parametrize("name", ["Flow-affine_autoregressive", "VampPrior", "Gamma", "Beta", "Dirichlet"])
def test_trained_parts_are_pickled(name):
    guide = name if name in GUIDES and prior_of(GUIDES[name]) is PRIORS[name] else "Normal"
    model = VAEEstimator(**SMALL | {"latent_dim": 3}, prior=PRIORS[name], guide=guide).fit(X)
    twin = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(twin.score_samples(X[:20]), model.score_samples(X[:20]))
    assert np.isfinite(model.score_samples(X[:20])).all()


def test_pipeline():
    model = make_pipeline(Binarizer(threshold=0.5), VAEEstimator(**SMALL, likelihood="Bernoulli")).fit(X)
    assert model.transform(X).shape == (300, 2)
    assert -X.shape[1] < model.score(X) < 0
    assert set(np.unique(model[-1].sample(100, random_state=0))) == {0.0, 1.0}
    reconstructed = model[-1].inverse_transform(model.transform(X))
    assert 0 < reconstructed.min() < reconstructed.max() < 1


def test_grid_search():
    """Over numpy's numbers, as searches give them."""
    quick = {"hidden_dims": np.array([16]), "epochs": np.int64(15), "batch_size": np.int64(25)}
    grid = {"latent_dim": np.array([1, 6]), "lr": np.array([1e-2])}
    search = GridSearchCV(VAEEstimator(**SMALL | quick), grid, cv=2, error_score="raise").fit(X)
    assert search.best_params_ == {"latent_dim": 6, "lr": 1e-2}
    assert search.transform(X).shape == (300, 6)
    assert search.score(X[:10]) == search.best_estimator_.score(X[:10])


def test_convolutions():
    net = pv.nets.conv(4, hidden_dim=8)
    x = load_digits().data[:300]
    model = VAEEstimator(2, encoder=net, decoder=net, event_shape=[1, 8, 8], epochs=1).fit(x[:100])
    assert model.vae_.event_shape == (1, 8, 8)
    assert model.transform(x).shape == (300, 2)
    assert model.reconstruct(x).shape == model.sample(300).shape == x.shape
    assert pv.figures.samples(model.vae_, 4)
    with pytest.raises(pv.data.DataError, match=r"rows of 64 features .* event_shape=\(1, 28, 28\)"):
        VAEEstimator(event_shape=(1, 28, 28)).fit(x)


def test_data_outside_the_support_are_refused():
    model = VAEEstimator(**SMALL, likelihood="Bernoulli")
    with pytest.raises(pv.data.DataError, match="binarise"):
        model.fit(X)
    model.fit(X > 0.5)
    for method in (model.transform, model.score_samples, model.score, model.reconstruct):
        with pytest.raises(pv.data.DataError, match="binarise"):
            method(X)


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_divergence_is_told():
    with pytest.raises(NonFiniteLossError, match=r"^epoch 1: .*\. Try a lower lr, or clip_norm=100$"):
        VAEEstimator(**SMALL, lr=1e30).fit(X)
    assert np.isfinite(VAEEstimator(**SMALL, clip_norm=100).fit(X).score(X))


def test_an_interruption_is_a_plain_one(monkeypatch):
    """Not one that can be gone on with, as that of a run can."""
    step = SVI.step
    monkeypatch.setattr(SVI, "step", lambda *args: os.kill(os.getpid(), signal.SIGINT) or step(*args))
    with pytest.raises(KeyboardInterrupt) as caught:
        VAEEstimator(**SMALL).fit(X)
    assert type(caught.value) is KeyboardInterrupt
    assert not caught.value.args


def test_mistakes_are_told(small):
    for call in (lambda m: m.sample(), lambda m: m.inverse_transform(X), lambda m: m.score(X)):
        with pytest.raises(NotFittedError):
            call(VAEEstimator())
    with pytest.raises(ValueError, match=f"Z has {X.shape[1]} columns, but there are 2 latents"):
        small.inverse_transform(X)
    with pytest.raises(ValueError, match="n_samples=0 must be positive"):
        small.sample(0)
    with pytest.raises(ValueError, match="num_samples=0 must be positive"):
        clone(small).set_params(num_samples=0).fit(X).score(X)
    with pytest.raises(ConfigError, match="did you mean VampPrior"):
        VAEEstimator(prior="VampPriors").fit(X)
    for wrong in ({"epochs": 0}, {"lr": -1.0}, {"batch_size": 2.5}, {"beta": "much"}, {"device": "tpu"}):
        with pytest.raises(ConfigError, match=f"^{next(iter(wrong))}="):  # as the settings say it
            VAEEstimator(**SMALL | wrong).fit(X)
    with pytest.raises(ValueError, match=r"given=3 needs classes.*conditional=True"):
        small.sample(2, given=3)


def test_columns_in_other_units_give_the_same_model():
    """p(c x) prod c = p(x): scores fall by the sum of log c, and nothing else moves."""
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 2)) @ random.normal(size=(2, 4)) + random.normal(size=(200, 4))
    c = 2.0 ** np.array([-9, 0, 3, 8])  # by powers of two, which no rounding knows of
    for likelihood in ('Normal(scale="shared")', "Normal", "StudentT(df=4.0)", "Laplace", "FullRankNormal"):
        one = VAEEstimator(**SMALL, likelihood=likelihood).fit(x)
        other = VAEEstimator(**SMALL, likelihood=likelihood).fit(x * c)
        expected = one.score_samples(x[:40]) - np.log(c).sum()
        np.testing.assert_allclose(other.score_samples((x * c)[:40]), expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(other.transform(x * c), one.transform(x), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(other.reconstruct(x * c), one.reconstruct(x) * c, rtol=1e-4)


def with_gaps():
    x, missing = X.copy(), np.random.default_rng(0).random(X.shape) < 0.2
    x[missing] = np.nan
    x[7] = np.nan
    return x, missing


def test_missing_values_are_left_out():
    x, missing = with_gaps()
    model = VAEEstimator(**SMALL).fit(x)
    values = {name: getattr(model, name)(x[:50]) for name in ("transform", "score_samples", "reconstruct")}
    for name, value in values.items():
        assert np.isfinite(value).all()
        some = [getattr(model, name)(x[i : i + 1])[0] for i in range(10)]  # whatever is beside it
        np.testing.assert_allclose(value[:10], some, rtol=1e-9, atol=1e-12)
    assert values["score_samples"][7] == pytest.approx(0, abs=0.5)  # nothing is known of it
    by_mean = np.broadcast_to(np.nanmean(x, 0), x.shape)
    more = {"latent_dim": 5, "hidden_dims": (32,), "epochs": 60, "batch_size": 50, "lr": 1e-2}
    trained = VAEEstimator(**SMALL | more).fit(x)
    error = [np.square(guess - X)[missing].mean() for guess in (trained.reconstruct(x), by_mean)]
    assert error[0] < 0.7 * error[1]
    assert np.isfinite(trained.score(X[:20]))
    with pytest.raises(ValueError, match="infinity"):
        model.fit(np.where(missing, np.inf, X))
    with pytest.raises(ValueError, match="infinity"):
        model.transform(np.where(missing, np.inf, X))


def test_scores_with_missing_values_are_the_evidence(linear):
    model, x, p_x = linear
    x = x[:20].copy()
    x[:, 1] = np.nan
    x[::2, 4] = np.nan
    for row, score in zip(x, model.score_samples(x), strict=True):
        seen = np.flatnonzero(~np.isnan(row))
        part = dist.MultivariateNormal(p_x.mean[seen], p_x.covariance_matrix[seen][:, seen])
        assert score == pytest.approx(part.log_prob(torch.tensor(row[seen])).item(), abs=0.2)


@pytest.fixture(scope="module")
def conditional():
    return VAEEstimator(**SMALL | {"epochs": 60, "lr": 1e-2}, conditional=True).fit(X, Y)


@pytest.mark.filterwarnings("ignore:log p.x. of")
def test_given_labels(conditional):
    model = conditional
    assert isinstance(model.vae_, pv.ConditionalVAE)
    assert model.classes_.tolist() == list("abcdefghij")
    codes = torch.tensor([ord(label) - ord("a") for label in Y])
    x, batch = torch.tensor(X), {"x": torch.tensor(X), "y": codes}
    np.testing.assert_array_equal(model.transform(X, Y), model.vae_.encode(x, codes).mean.detach())
    np.testing.assert_array_equal(model.transform(X, list(Y)), model.transform(X, Y))
    batch = {site: value[:9] for site, value in batch.items()}
    estimate = pv.evaluate.log_likelihood(model.vae_, batch, num_samples=2000)
    scores = clone(model).set_params(num_samples=2000)
    scores.vae_, scores.classes_, scores.n_features_in_ = model.vae_, model.classes_, X.shape[1]
    np.testing.assert_allclose(scores.score_samples(X[:9], Y[:9]), estimate.per_datum, atol=0.5)
    shifted = np.roll(model.classes_, 1)[codes]
    assert model.score(X[:50], Y[:50]) > model.score(X[:50], shifted[:50]) + 1
    alone = [model.transform(X[i : i + 1], Y[i : i + 1])[0] for i in range(5)]
    np.testing.assert_allclose(model.transform(X, Y)[:5], alone, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(model.fit_transform(X, Y), model.transform(X, Y))


def test_generates_on_demand(conditional):
    means = {label: X[label == Y].mean(0) for label in conditional.classes_}
    for label in means:
        drawn = conditional.sample(500, random_state=0, given=label).mean(0)
        distance = {other: np.square(drawn - mean).sum() for other, mean in means.items()}
        assert min(distance, key=distance.get) == label
    c, d, both = (conditional.sample(2, random_state=3, given=given) for given in ("c", "d", ["c", "d"]))
    np.testing.assert_allclose(both, [c[0], d[1]])


def test_labels_of_any_type():
    for y in (Y == "a", np.where(Y == "a", -3, 7), np.where(Y == "a", "no", "yes").astype(object)):
        model = VAEEstimator(**SMALL, conditional=True).fit(X, y)
        assert model.vae_.given == {"y": 2}
        assert model.sample(3, given=y[0]).shape == (3, X.shape[1])
        twin = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(model.transform(X, y), twin.transform(X, y))


def test_conditional_in_searches_and_pipelines():
    model = make_pipeline(Binarizer(threshold=0.5), VAEEstimator(**SMALL, likelihood="Bernoulli"))
    x, y = X[:60], (Y > "d").astype(int)[:60]
    grid = {"vaeestimator__conditional": [False, True]}
    search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(x, y)
    assert search.score(x, y) == search.best_estimator_.score(x, y)
    assert model.set_params(vaeestimator__conditional=True).fit_transform(x, y).shape == (60, 2)
    twin = clone(model[-1])
    assert twin.conditional
    assert not hasattr(twin, "classes_")


def test_mistakes_with_labels_are_told(conditional):
    model, z = conditional, np.zeros((300, 2))
    calls = [lambda y: clone(model).fit(X, y), lambda y: model.inverse_transform(z, y)]
    calls += [lambda y, call=call: call(X, y) for call in (model.transform, model.score, model.reconstruct)]
    for call in [*calls, lambda y: model.sample(3, given=y)]:
        with pytest.raises(ValueError, match=r"requires y.*but y is None.*sample\(n, given=y\)"):
            call(None)
    for call in calls:
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            call(Y[:299])
    for call in calls[1:]:
        with pytest.raises(ValueError, match=r"y has the class 'z'; those that were fitted are \['a', 'b',"):
            call(np.where(Y == "a", "z", Y))
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        clone(model).fit(X, X[:, 0])


@pytest.fixture(scope="module")
def people():
    """Names of groups, of which two columns depend, one with holes, and one of truth values."""
    random = np.random.default_rng(0)
    group = random.choice(["a", "b", "c"], 240)
    size = np.select([group == "a", group == "b"], [1.0, 5.0], 9.0) + 0.3 * random.normal(size=240)
    frame = pd.DataFrame({"group": group, "size": size, "flag": random.random(240) < 0.3})
    frame.loc[::5, "size"] = np.nan
    return frame


@pytest.mark.filterwarnings("ignore:log p.x. of")
def test_tables(people):
    """Columns are what they are: dtypes come back, and the score is that of the VAE of the table."""
    options = {"hidden_dims": (32,), "epochs": 300, "lr": 1e-2, "batch_size": 120}
    model = VAEEstimator(2, **options, likelihood="auto", random_state=0)
    model.fit(people)
    drawn, again = model.sample(400, random_state=1), model.reconstruct(people)
    assert drawn.dtypes.equals(people.dtypes)
    assert (again.group == people.group).mean() > 0.95
    means = drawn.groupby("group")["size"].mean()
    assert np.abs(means[["a", "b", "c"]] - [1, 5, 9]).max() < 1.0
    assert model.transform(people).shape == (240, 2)
    found = model.score_samples(people.iloc[:40])
    wanted = pv.evaluate.log_likelihood(model.vae_, people.iloc[:40], num_samples=1000, seed=3).per_datum
    assert np.abs(found - wanted.numpy()).mean() < 0.3
    assert model.feature_names_in_.tolist() == list(people)
    other = clone(model).set_params(conditional=True, epochs=2).fit(people[["size", "flag"]], people.group)
    assert list(other.sample(3, given="b")) == ["size", "flag"]


def test_mistakes_with_tables_are_told(people):
    with pytest.raises(ValueError, match="y has no class of 48 rows"):
        VAEEstimator(conditional=True).fit(people[["flag"]], people["size"])
    with pytest.raises(DataError, match=r'VAEEstimator\(likelihood="auto"\) learns them as what they are'):
        VAEEstimator().fit(people)
    with pytest.raises(DataError, match="columns that are not numbers: group"):
        VAEImputer().fit(people)
    with pytest.raises(DataError, match="X is of type ndarray; give a DataFrame"):
        VAEEstimator(likelihood="auto").fit(np.zeros((9, 3)))
    model = VAEEstimator(hidden_dims=(4,), epochs=1, likelihood={"size": "StudentT"}).fit(people)
    assert "StudentT" in repr(model.vae_.p_x.family)
    with pytest.raises(DataError, match="no category 'd'"):
        model.transform(people.assign(group="d"))
    with pytest.raises(ValueError, match="feature names"):
        model.transform(people[["size", "flag", "group"]].rename(columns={"flag": "sign"}))
