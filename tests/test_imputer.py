"""The imputer keeps scikit-learn's contract, and fills in as well as can be known."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer
from sklearn.utils.estimator_checks import estimator_checks_generator

from pyro_vae.checks import ConfigError
from pyro_vae.sklearn import VAEImputer
from pyro_vae.sklearn.columns import Columns
from pyro_vae.sklearn.linear import Linear

TINY = {
    "latent_dim": 2,
    "hidden_dims": (8,),
    "n_estimators": 1,
    "epochs": 2,
    "num_samples": 20,
    "random_state": 0,
}
CHECKS = [check for _, check in estimator_checks_generator(VAEImputer(**TINY))]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.func.__name__)
def test_scikit_learn_contract(check):
    check(VAEImputer(**TINY))


@pytest.fixture(scope="module")
def correlated():
    """Rows of a Normal of rank 2 and a little noise, in units of their own, and which values are missing."""
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 2)) @ random.normal(size=(2, 6)) + 0.3 * random.normal(size=(300, 6))
    x = 1000 + x * np.array([1.0, 1e-3, 1e3, -5.0, 2.0, 1.0])
    return x, random.random(x.shape) < 0.3


def conditional_mean(x, missing):
    """With the means and covariances of all values, those that are missing too."""
    covariance, mean, filled = np.cov(x.T), x.mean(0), x.copy()
    for row, m in zip(filled, missing, strict=True):
        gain = np.linalg.solve(covariance[~m][:, ~m], covariance[~m][:, m])
        row[m] = mean[m] + (row[~m] - mean[~m]) @ gain
    return filled


def error(filled, x, missing):
    return (((filled - x) / x.std(0))[missing] ** 2).mean()


@pytest.mark.parametrize("unit", [1.0, 1e-9])
def test_imputation_is_near_the_conditional_mean(correlated, unit):
    x, missing = correlated
    x = x * unit
    imputer = VAEImputer(max_steps=100, random_state=0)
    filled = imputer.fit_transform(np.where(missing, np.nan, x))
    np.testing.assert_array_equal(filled[~missing], x[~missing])
    least, worst = error(conditional_mean(x, missing), x, missing), error(x.mean(0) + 0 * x, x, missing)
    assert least < error(filled, x, missing) < least + 0.03 * (worst - least)
    draws = imputer.sample(np.where(missing, np.nan, x), 200, random_state=0)
    assert (draws[:, ~missing] == x[~missing]).all()
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    assert 0.86 < ((low <= x) & (x <= high))[missing].mean() < 0.94
    assert abs(((draws.mean(0) - filled) / x.std(0))[missing]).mean() < 0.05


def test_full_rank_and_complete_rows():
    """Fitted to rows without gaps, any of which may be missing later."""
    random = np.random.default_rng(3)
    x = random.normal(size=(2000, 4)) @ random.normal(size=(4, 4))
    missing = random.random(x.shape) < 0.3
    filled = VAEImputer(max_steps=50, n_estimators=1, random_state=0).fit(x)
    filled = filled.transform(np.where(missing, np.nan, x))
    least, worst = error(conditional_mean(x, missing), x, missing), error(x.mean(0) + 0 * x, x, missing)
    assert error(filled, x, missing) < least + 0.03 * (worst - least)


def test_columns_that_know_nothing_of_each_other():
    random = np.random.default_rng(2)
    x = random.normal(size=(60, 15))
    missing = random.random(x.shape) < 0.3
    holes = np.where(missing, np.nan, x)
    filled = VAEImputer(max_steps=50, n_estimators=1, random_state=0).fit_transform(holes)
    by_mean = np.nanmean(holes, 0) + 0 * x
    assert error(filled, x, missing) < 1.15 * error(by_mean, x, missing)


@pytest.mark.slow
def test_what_is_curved_is_learned():
    random = np.random.default_rng(0)
    z = random.uniform(-2, 2, size=400)
    x = np.stack([z, z**2, np.sin(3 * z)], 1) + 0.05 * random.normal(size=(400, 3))
    missing = random.random(x.shape) < 0.2
    missing[:, 0] = False
    holes = np.where(missing, np.nan, x)
    imputer = VAEImputer(n_estimators=1, max_steps=400, lr=1e-2, random_state=0)
    filled = imputer.fit_transform(holes)
    assert error(filled, x, missing) < 0.5 * error(np.nanmean(holes, 0) + 0 * x, x, missing)
    assert imputer.weights_[-1] > 0.5
    assert sum(imputer.weights_) == pytest.approx(1)


@pytest.mark.slow
def test_breast_cancer():
    x = load_breast_cancer().data
    x = (x - x.mean(0)) / x.std(0)
    missing = np.random.default_rng(0).random(x.shape) < 0.5
    imputer = VAEImputer(random_state=0)
    assert error(imputer.fit_transform(np.where(missing, np.nan, x)), x, missing) < 0.23
    draws = imputer.sample(np.where(missing, np.nan, x), 200, random_state=0)
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    assert 0.88 < ((low <= x) & (x <= high))[missing].mean() < 0.935


def test_columns_and_back():
    """However far out a draw lies, whose power has an inverse all the same, it comes back into the range."""
    x = np.exp(2 * np.random.default_rng(0).normal(size=(400, 2))) * [1.0, -1.0]
    for powers in (False, True):
        columns = Columns(x, powers)
        values = columns.learned(x)
        np.testing.assert_allclose(columns.units(values), x, rtol=1e-8)
        skewness = abs((values**3).mean(0))
        assert (skewness < 5).all() == powers
        end, step = values.max(0), 1e-3 * values.std(0)
        assert (columns.units(end + step)[0] > columns.units(end)[0]).all()
        far = columns.units(np.array([[-1e3] * 2, [1e3] * 2]))
        np.testing.assert_allclose(far[0], x.min(0) - 0.5 * x.std(0))
        np.testing.assert_allclose(far[1], x.max(0) + 0.5 * x.std(0))


def test_the_start_is_the_linear_vae():
    """Its evidence and posterior are those of N(b, W W' + Psi), whatever is known."""
    random = np.random.default_rng(0)
    x = random.normal(size=(500, 2)) @ random.normal(size=(2, 5)) + 0.5 * random.normal(size=(500, 5))
    x = (x - x.mean(0)) / x.std(0)
    x[random.random(x.shape) < 0.2] = np.nan
    linear = Linear.fit(x, 4)
    d = linear.weight.shape[1]
    assert 2 <= d < 4  # not all are needed
    vae = linear.vae((8,), 0.1).double().eval()
    rows = torch.tensor(x[:20])
    q, w = vae.encode(rows), linear.weight
    for row, loc, tril in zip(x, q.mean, q.scale_tril, strict=False):
        seen = ~np.isnan(row)
        precision = np.eye(d) + (w[seen].T / linear.variance[seen]) @ w[seen]
        mean = np.linalg.solve(precision, (w[seen].T / linear.variance[seen]) @ (row - linear.bias)[seen])
        np.testing.assert_allclose(loc.detach(), mean, atol=1e-5)
        np.testing.assert_allclose((tril @ tril.T).detach(), np.linalg.inv(precision), atol=1e-5)
    p = vae.decode(torch.eye(d).double())
    np.testing.assert_allclose(p.mean.detach(), linear.bias + w.T, atol=1e-6)
    np.testing.assert_allclose(p.variance.detach(), np.stack([linear.variance] * d), rtol=1e-5)
    full = np.cov(np.nan_to_num(x[~np.isnan(x).any(1)]).T)
    assert abs(w @ w.T + np.diag(linear.variance) - full).max() < 0.25


def test_odd_columns_are_filled():
    random = np.random.default_rng(1)
    x = random.normal(size=(60, 7))
    x[:, 1] = 3.5  # constant
    x[:, 2] = np.nan  # never observed
    x[:, 3] = 1e9 + 1e-2 * x[:, 0]
    x[:, 4] = np.exp(3 * x[:, 4])
    x[:, 5] = np.arange(60) == 7
    x[random.random(x.shape) < 0.2] = np.nan
    x[4] = np.nan
    imputer = VAEImputer(**TINY).fit(x)
    filled = imputer.transform(x)
    assert filled.shape == x.shape
    assert np.isfinite(filled).all()
    assert (filled[:, 1] == 3.5).all()
    assert (filled[:, 2] == 0).all()
    own = x[:, [0, 3, 4, 5, 6]]
    low, high, spread = np.nanmin(own, 0), np.nanmax(own, 0), np.nanstd(own, 0)
    draws = imputer.sample(x, 50, random_state=0)[..., [0, 3, 4, 5, 6]]
    assert (draws >= low - 0.51 * spread).all()
    assert (draws <= high + 0.51 * spread).all()
    far = np.where(np.isnan(x), np.nan, x * 1e6)
    assert np.isfinite(imputer.transform(far)).all()


def test_imputers_without_anything_to_learn():
    x = np.array([[1.0, np.nan], [1.0, np.nan], [np.nan, np.nan]])
    np.testing.assert_array_equal(VAEImputer(**TINY).fit_transform(x), [[1.0, 0.0]] * 3)


def test_imputations_hang_on_seed_and_row_alone(correlated):
    x, missing = correlated
    x = np.where(missing, np.nan, x)[:40]
    state = torch.get_rng_state()
    one = VAEImputer(**TINY | {"n_estimators": 2}).fit(x)
    filled = one.transform(x)
    np.testing.assert_allclose(filled[[7, 3]], one.transform(x[[7, 3]]), rtol=1e-9)
    np.testing.assert_array_equal(filled, clone(one).fit_transform(x))
    assert (VAEImputer(**TINY | {"random_state": 1}).fit_transform(x) != filled).any()
    np.testing.assert_array_equal(filled, pickle.loads(pickle.dumps(one)).transform(x))
    draws = one.sample(x, 3, random_state=0)
    np.testing.assert_array_equal(draws, one.sample(x, 3, random_state=0))
    gaps = np.isnan(x)
    assert (draws[0][gaps] != draws[1][gaps]).any()
    assert (draws[:, gaps] != one.sample(x, 3, random_state=1)[:, gaps]).any()
    assert torch.equal(torch.get_rng_state(), state)
    assert len(one.vaes_) == len(one.weights_)


def test_imputers_in_pipelines_and_frames(correlated):
    pandas = pytest.importorskip("pandas")
    x, missing = correlated
    frame = pandas.DataFrame(np.where(missing, np.nan, x)[:50], columns=list("abcdef"))
    imputer = VAEImputer(**TINY).set_output(transform="pandas").fit(frame)
    assert list(imputer.get_feature_names_out()) == list("abcdef")
    assert list(imputer.transform(frame).columns) == list("abcdef")
    assert not imputer.transform(frame).isna().any().any()
    model = make_pipeline(VAEImputer(**TINY), Binarizer())
    assert set(np.unique(model.fit_transform(frame))) <= {0.0, 1.0}
    with pytest.raises(ConfigError, match="epochs=0 must be positive"):
        VAEImputer(epochs=0).fit(frame)
