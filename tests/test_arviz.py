"""What ArviZ is given is what the model says, by closed forms."""

import importlib
import sys

import cases
import pyro
import pytest
import torch
from models import linear
from models.linear import SCALE, system
from pyro.infer import MCMC, NUTS

import pyro_vae as pv
from pyro_vae.evaluate.pareto import pareto_k

pytest.importorskip("xarray", reason="xarray, which ArviZ takes, is not installed")
S = 2000


@pytest.fixture(scope="module")
def known():
    return system("VAE")


@pytest.fixture(scope="module")
def tree(known):
    return pv.to_arviz(known.program, known.batch, S)


def near(found, expected, error):
    """Within five standard errors."""
    assert ((torch.as_tensor(found) - expected).abs() < 5 * error).all()


def test_posterior(tree, known):
    """Means and covariances of the draws are those of the known posterior, and not of the guide."""
    z = torch.from_numpy(tree["posterior"]["z"].values[0])
    std = known.posterior.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt()
    # Draws repeat: of 1000 particles, half of the prior, a few hundred are effective.
    size = torch.from_numpy(tree["importance"]["effective_sample_size"].values).clamp(max=1000.0) / 4
    near(z.mean(0), known.posterior.mean, std / size.sqrt()[:, None])
    near(z.std(0), std, std / size.sqrt()[:, None])


def test_likelihoods_and_predictions(tree, known):
    z = torch.from_numpy(tree["posterior"]["z"].values[0])
    p = known.program.decode(z)
    found = torch.from_numpy(tree["log_likelihood"]["x"].values[0])
    torch.testing.assert_close(found, p.log_prob(known.batch["x"]).detach())
    anew = torch.from_numpy(tree["posterior_predictive"]["x"].values[0])
    residual = (anew - p.mean.detach()) / SCALE
    near(residual.mean((0, 1)), 0.0, (len(residual) * residual.shape[1]) ** -0.5)
    near(residual.var(), 1.0, (2 / residual.numel()) ** 0.5)
    before = torch.from_numpy(tree["prior"]["z"].values[0]).flatten(0, 1)
    near(before.mean(0), 0.0, len(before) ** -0.5)
    assert tree["prior_predictive"]["x"].dims == ("chain", "draw", "datum", "x_dim_0")
    assert torch.equal(torch.from_numpy(tree["observed_data"]["x"].values), known.batch["x"])


def test_importance_is_that_of_evaluation(tree, known):
    own = pv.evaluate.log_likelihood(known.program, known.batch, num_samples=1000)
    assert torch.equal(torch.from_numpy(tree["importance"]["pareto_k"].values), own.pareto_k)
    assert torch.equal(torch.from_numpy(tree["importance"]["log_evidence"].values), own.per_datum)


@pytest.mark.filterwarnings("ignore:Estimated shape parameter")
def test_loo(tree):
    """ArviZ's own, whose Pareto k is as this package computes it of the same weights."""
    pytest.importorskip("arviz_base", reason="arviz-base is not installed")
    arviz_stats = pytest.importorskip("arviz_stats", reason="arviz-stats is not installed")
    found = arviz_stats.loo(tree, pointwise=True, reff=1.0)
    log_w = -torch.from_numpy(tree["log_likelihood"]["x"].values[0]).double()
    tail = min(S // 5, int(3 * S**0.5))
    expected = pareto_k(log_w.topk(tail + 1, 0).values)
    torch.testing.assert_close(torch.as_tensor(found.pareto_k.values), expected, rtol=0.0, atol=0.02)
    assert found.n_data_points == len(log_w[0])
    assert (found.pareto_k > 0.7).any()  # where the guide's draws are fine
    assert (tree["importance"]["pareto_k"] < 0).all()


@pytest.mark.filterwarnings("ignore:Estimated shape parameter")
def test_loo_is_the_evidence(monkeypatch):
    """A datum left out leaves its latents at the prior: of exact draws, it is log p(x) in closed form."""
    arviz_stats = pytest.importorskip("arviz_stats", reason="arviz-stats is not installed")
    monkeypatch.setattr(linear, "SCALE", 4.0)  # a datum that tells little of its latents
    known = system("VAE")
    z = known.posterior.sample((4 * S,))[None]
    tree = pv.to_arviz(known.program, known.batch, posterior={"z": z}, num_particles=1000)
    found = arviz_stats.loo(tree, pointwise=True, reff=1.0)
    assert (found.pareto_k < 0.5).all()
    weights = (-torch.from_numpy(tree["log_likelihood"]["x"].values[0])).exp()
    near(found.elpd_i.values, known.log_p, weights.std(0) / weights.mean(0) / len(weights) ** 0.5)
    assert found.elpd == pytest.approx(float(found.elpd_i.sum()))
    near(tree["importance"]["log_evidence"].values, known.log_p, 0.05)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_plots(tree, monkeypatch, tmp_path):
    pyplot = importlib.import_module("matplotlib.pyplot")
    style = importlib.import_module("matplotlib.style")
    if not hasattr(style, "core"):  # which arviz-plots 0.8 asks for, and matplotlib 3.11 has not
        monkeypatch.setattr(style, "core", style, raising=False)
    arviz_plots = pytest.importorskip("arviz_plots", reason="arviz-plots is not installed")
    for name, plot, options in (
        ("dist", arviz_plots.plot_dist, {"var_names": ["z"], "coords": {"datum": 0}}),
        ("forest", arviz_plots.plot_forest, {"var_names": ["z"]}),
        ("ppc", arviz_plots.plot_ppc_dist, {}),
    ):
        drawn = plot(tree, backend="matplotlib", **options)
        drawn.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
        pyplot.close("all")


def test_goes_to_a_file_and_back(tree, tmp_path):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf", reason="h5netcdf is not installed")
    tree.to_netcdf(tmp_path / "tree.nc", engine="h5netcdf")
    with xarray.open_datatree(tmp_path / "tree.nc", engine="h5netcdf") as again:
        assert {*again.children} == {*tree.children}
        for group in tree.children:
            xarray.testing.assert_identical(again[group].to_dataset(), tree[group].to_dataset())


def test_draws_of_nuts(known):
    """Chains of one's own stand in place of the importance-weighted draws."""
    pyro.set_rng_seed(0)
    chains = MCMC(NUTS(known.program.model), num_samples=3, warmup_steps=2, disable_progbar=True)
    chains.run(known.batch)
    z = chains.get_samples(group_by_chain=True)["z"]
    tree = pv.to_arviz(known.program, known.batch, posterior={"z": z}, num_particles=30)
    assert torch.equal(torch.from_numpy(tree["posterior"]["z"].values), z)
    log_p = known.program.decode(z).log_prob(known.batch["x"]).detach()
    torch.testing.assert_close(torch.from_numpy(tree["log_likelihood"]["x"].values), log_p)
    with pytest.raises(
        ValueError, match=r"posterior needs draws of z, \[chains, draws, 6, 2\], and has \[3, 6"
    ):
        pv.to_arviz(known.program, known.batch, posterior={"z": z[0]})


@pytest.mark.filterwarnings("ignore:the effective sample size is below")
@pytest.mark.parametrize("name", ["ConditionalVAE", "HierarchicalVAE-bottom-up", "VAE-table", "SelectionVAE"])
def test_every_kind(name):
    """With missing values, conditions, levels and columns."""
    program = cases.make(name)
    batch = cases.batch_of(program, 4)
    batch["x"].view(-1)[0] = torch.nan
    tree = pv.to_arviz(program, batch, 5, num_particles=30)
    x = tree["posterior_predictive"]["x"]
    assert x.shape[:3] == (1, 5, 4)
    assert not x.isnull().any()
    assert tree["observed_data"]["x"].isnull().sum() == 1
    assert tree["log_likelihood"]["x"].dims == ("chain", "draw", "datum")
    assert tree["log_likelihood"]["x"].notnull().all()
    if name == "ConditionalVAE":
        assert {*tree["constant_data"].data_vars} == {"y", "age"}
    if name == "VAE-table":
        assert list(x["x_dim_0"].values) == list(cases.COLUMNS)


def test_without_xarray(known, monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ImportError, match=r"pip install 'pyro_vae\[arviz\]'"):
        pv.to_arviz(known.program, known.batch)
