"""The estimator keeps scikit-learn's contract, and is the VAE of the rest of the package."""

import os
import pickle
import signal
import tempfile
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import GUIDES, LIKELIHOODS, OWN_SUPPORT, PRIORS, build
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer
from sklearn.utils.estimator_checks import estimator_checks_generator

import pyro_vae as pv
from pyro_vae.sklearn import VAEEstimator
from pyro_vae.svi import SVI, NonFiniteLossError

X = load_digits().data[:300] / 16
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
    p_x, layer = model.vae_.p_x, model.vae_.decoder.layers[0]
    w, loc = p_x.unit_loc * layer.weight, p_x.unit_loc * (layer.bias + p_x.offset)
    covariance = w @ w.T + p_x.value("scale").square() * torch.eye(5)
    return model, x, dist.MultivariateNormal(loc.detach(), covariance.detach())


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
    assert small.sample().shape == (1, 64)


def test_nothing_leaks(monkeypatch):
    Path("temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", "temporary")
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    model = VAEEstimator(**SMALL).fit(X)
    model.score(X)
    model.reconstruct(X)
    model.sample(2, random_state=0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert not pyro.get_param_store()
    assert [str(path) for path in Path().rglob("*")] == ["temporary"]


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
            {"prior": "VampPrior(5)", "likelihood": "StudentT(df=4.0)", "guide": "LowRankNormal(1)"},
            {
                "prior": pv.priors.VampPrior(5),
                "likelihood": pv.likelihoods.StudentT(df=4.0),
                "guide": pv.guides.LowRankNormal(1),
            },
        ),
    ],
)
def test_texts_and_objects_give_the_same_model(texts, objects):
    one = VAEEstimator(**SMALL, **texts).fit(X)
    other = clone(VAEEstimator(**SMALL, **objects)).fit(X)
    assert repr(one.vae_) == repr(other.vae_)
    np.testing.assert_array_equal(one.score_samples(X[:50]), other.score_samples(X[:50]))


@pytest.mark.parametrize(("kind", "name"), PARTS, ids=map("-".join, PARTS))
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
        alone = [getattr(model, method)(row[None])[0] for row in x]  # whatever is beside it
        np.testing.assert_allclose(value, alone, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(twin.sample(5, random_state=0), x)


@pytest.mark.parametrize("name", ["Flow-affine_autoregressive", "VampPrior", *OWN_SUPPORT])
def test_trained_parts_are_pickled(name):
    guide = OWN_SUPPORT.get(name, "Normal")
    model = VAEEstimator(**SMALL | {"latent_dim": 3}, prior=PRIORS[name], guide=guide).fit(X)
    twin = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(twin.score_samples(X[:20]), model.score_samples(X[:20]))
    assert np.isfinite(model.score_samples(X[:20])).all()


def test_pipeline():
    model = make_pipeline(Binarizer(threshold=0.5), VAEEstimator(**SMALL, likelihood="Bernoulli")).fit(X)
    assert model.transform(X).shape == (300, 2)
    assert -64 < model.score(X) < 0
    assert set(np.unique(model[-1].sample(100, random_state=0))) == {0.0, 1.0}
    reconstructed = model[-1].inverse_transform(model.transform(X))
    assert 0 < reconstructed.min() < reconstructed.max() < 1


def test_grid_search():
    """Over numpy's numbers, as searches give them."""
    quick = {"hidden_dims": np.array([16]), "epochs": np.int64(30), "batch_size": np.int64(25)}
    grid = {"latent_dim": np.array([1, 6]), "lr": np.array([1e-2])}
    search = GridSearchCV(VAEEstimator(**SMALL | quick), grid, cv=2, error_score="raise").fit(X)
    assert search.best_params_ == {"latent_dim": 6, "lr": 1e-2}
    assert search.transform(X).shape == (300, 6)
    assert search.score(X[:10]) == search.best_estimator_.score(X[:10])


def test_convolutions():
    net = pv.nets.conv(4, hidden_dim=8)
    model = VAEEstimator(2, encoder=net, decoder=net, event_shape=[1, 8, 8], epochs=1).fit(X[:100])
    assert model.vae_.event_shape == (1, 8, 8)
    assert model.transform(X).shape == (300, 2)
    assert model.reconstruct(X).shape == model.sample(300).shape == X.shape
    assert pv.figures.samples(model.vae_, 4)
    with pytest.raises(pv.data.DataError, match=r"rows of 64 features .* event_shape=\(1, 28, 28\)"):
        VAEEstimator(event_shape=(1, 28, 28)).fit(X)


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
    with pytest.raises(NonFiniteLossError, match=r"^epoch 1: .*\. Try a lower lr than 1e\+30$") as caught:
        VAEEstimator(**SMALL, lr=1e30).fit(X)
    assert "checkpoint" not in str(caught.value)


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
    with pytest.raises(ValueError, match="Z has 64 columns, but there are 2 latents"):
        small.inverse_transform(X)
    with pytest.raises(ValueError, match="n_samples=0 must be a whole number"):
        small.sample(0)
    with pytest.raises(ValueError, match="num_samples=0 must be a whole number"):
        clone(small).set_params(num_samples=0).fit(X).score(X)
    with pytest.raises(pv.config.ConfigError, match="did you mean VampPrior"):
        VAEEstimator(prior="VampPriors").fit(X)
