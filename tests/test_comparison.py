"""Comparisons: equal conditions, paired differences, refusals, and going on."""

import csv
import dataclasses
import functools
import html
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
import yaml
from cases import TwoSites

import pyro_vae as pv
from pyro_vae import comparison
from pyro_vae.checks import ConfigError
from pyro_vae.training.loop import _Training


@pytest.fixture
def shared():
    return {
        "latent_dim": 2,
        "encoder": pv.nets.mlp(8),
        "decoder": pv.nets.mlp(8),
        "epochs": 2,
        "num_samples": 5,
        "folder": "compared",
        "progress": False,
    }


def test_each_variant_is_trained_as_by_itself(digits, shared):
    result = pv.compare(digits, priors=[pv.priors.Normal(), dist.Laplace(0.0, 1.0)], **shared)
    assert [row.name for row in result.rows] == ["Normal()", "Laplace(loc=0.0, scale=1.0)"]
    log_likelihoods = []
    for row, prior in zip(result.rows, [pv.priors.Normal(), dist.Laplace(0.0, 1.0)], strict=True):
        torch.manual_seed(0)
        nets = {name: shared[name] for name in ("encoder", "decoder")}
        vae = pv.VAE(digits.event_shape, 2, prior=prior, **nets)
        run = pv.fit(vae, digits, epochs=2, folder=f"alone-{row.name[:3]}", progress=False)
        estimate = pv.evaluate.log_likelihood(vae, digits.test, num_samples=5)
        assert row.log_likelihood == estimate.log_likelihood
        assert row.elbo == pv.evaluate.elbo(vae, digits.test).elbo
        assert row.num_parameters == sum(p.numel() for p in vae.parameters())
        assert row.bits_per_dim is None
        assert row.active_units == pv.evaluate.active_units(vae, digits.test)
        assert run.folder.exists()
        log_likelihoods.append(estimate.per_datum)
    paired = log_likelihoods[1] - log_likelihoods[0]
    assert result.rows[1].difference == pytest.approx(paired.mean().item())
    expected = paired.std().item() / math.sqrt(len(paired))
    assert result.rows[1].difference_standard_error == pytest.approx(expected)
    assert result.rows[0].difference == 0.0
    table = str(result)
    assert "counting measure" in table
    assert f"{paired.mean():+.2f} ± {expected:.2f}" in table
    rows = list(csv.DictReader((result.folder / "comparison.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == [row.name for row in result.rows]
    assert float(rows[1]["log_likelihood"]) == result.rows[1].log_likelihood
    assert (result.folder / "comparison.png").stat().st_size > 1000


def test_the_callers_generators_are_left_alone(digits, shared, monkeypatch):
    """Those of GPUs too, all of which torch.manual_seed seeds anew."""
    seeded, before = [], torch.get_rng_state()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    pv.compare(digits, guides=[pv.guides.Normal(), dist.Laplace], **shared)
    assert torch.equal(torch.get_rng_state(), before)
    assert not seeded


def test_goes_on_where_it_was_stopped(digits, shared, monkeypatch):
    guides = [pv.guides.Normal(), dist.Laplace]
    first = pv.compare(digits, guides=guides, **shared)
    trained = []
    original = _Training.epoch
    monkeypatch.setattr(_Training, "epoch", lambda *a: trained.append(1) or original(*a))
    again = pv.compare(digits, guides=guides, **shared)
    assert not trained
    assert again.rows == first.rows
    assert not torch.equal(*[next(vae.q_z.net.parameters()) for vae in again.programs.values()])


def test_goes_on_only_as_it_began(digits, shared):
    guides = [pv.guides.Normal(), dist.Laplace]
    pv.compare(digits, guides=guides, **shared | {"epochs": 1})
    with pytest.raises(pv.checkpoint.CheckpointError, match="or another folder"):
        pv.compare(digits, guides=guides, **shared)


def test_long_and_like_names(digits, shared):
    wide = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
    flows = [pv.priors.Flow(hidden_dims=[8]), pv.priors.Flow(hidden_dims=[9])]
    result = pv.compare(digits, priors=[wide, *flows], **shared | {"epochs": 1})
    assert len(result.rows) == 3
    assert max(len(path.name) for path in result.folder.iterdir()) <= 80


def test_lists_are_combined(digits, shared):
    result = pv.compare(
        digits,
        priors=[pv.priors.Normal(), pv.priors.MixtureOfNormals(2)],
        guides=[pv.guides.Normal(), pv.guides.FullRankNormal()],
        **shared | {"epochs": 1},
    )
    assert [row.name for row in result.rows] == [
        "Normal(), Normal()",
        "Normal(), FullRankNormal()",
        "MixtureOfNormals(components=2), Normal()",
        "MixtureOfNormals(components=2), FullRankNormal()",
    ]
    assert len(result.programs) == 4


def test_levels_have_bits(shared):
    data = pv.data.load("digits", levels=True)
    result = pv.compare(
        data, likelihoods=[pv.likelihoods.Categorical(17), pv.likelihoods.Binomial(total_count=16)], **shared
    )
    for row in result.rows:
        assert row.bits_per_dim == pytest.approx(-row.log_likelihood / 64 / math.log(2))
    assert "bits/dim" in str(result)


def test_different_measures_are_refused_before_anything_is_trained(digits, shared):
    for likelihoods in (
        [pv.likelihoods.Bernoulli(), pv.likelihoods.Normal()],
        [pv.likelihoods.Bernoulli(), pv.likelihoods.PseudoBernoulli()],
        [dist.Poisson, dist.Gamma],
    ):
        with pytest.raises(ValueError, match=r"different measures are not compared.*make them comparable"):
            pv.compare(digits, likelihoods=likelihoods, **shared)
    grey = pv.data.load("digits")
    with pytest.raises(pv.data.DataError, match="outside the support"):
        pv.compare(grey, likelihoods=[dist.Poisson, dist.Geometric], **shared)
    with pytest.raises(ValueError, match="two or more different variants"):
        pv.compare(digits, priors=[pv.priors.Normal()], **shared)
    with pytest.raises(ValueError, match="two or more different variants"):
        pv.compare(digits, **shared)


def test_wrong_arguments_are_told_before_anything_is_trained(digits, shared):
    for wrong, told in (
        ({"epoch": 3}, "neither VAE nor fit takes 'epoch'; did you mean epochs"),
        ({"latent_dims": 3}, "did you mean latent_dim"),
        ({"num_sample": 3}, "did you mean num_samples"),
        ({"event_shape": (64,)}, "neither VAE nor fit takes 'event_shape'"),
        ({"epochs": 0}, "epochs=0 must be positive"),
        ({"lr": "fast"}, "lr='fast' must be a number"),
        ({"seed": -1}, "seed=-1 must"),
        ({"num_samples": 0}, "num_samples=0 must be positive"),
        ({"encoder": "mpl(8)"}, "did you mean mlp"),
        ({"guides": ["Normal", "LaPlaze"]}, "did you mean Laplace"),
        ({"guides": (), "priors": ["Normal", "Normal"]}, "two or more different variants"),
    ):
        with pytest.raises(ValueError, match=re.escape(told)):
            pv.compare(digits, **{"guides": ["Normal", "Laplace"]} | shared | wrong)
    with pytest.raises(ConfigError, match="neither TwoSites nor fit takes 'prior'"):
        pv.compare(digits, priors=["Normal", "VampPrior"], model=TwoSites)
    assert not list(Path().iterdir())


def test_texts_stand_for_parts(digits, shared):
    shared["epochs"] = 1
    texts = {"priors": ["Normal", "Laplace(0.0, 1.0)"], "encoder": "mlp(8)", "optimizer": "SGD(momentum=0.5)"}
    optimizer = functools.partial(torch.optim.SGD, momentum=0.5)
    objects = {"priors": [pv.priors.Normal(), dist.Laplace(0.0, 1.0)], "optimizer": optimizer}
    one = pv.compare(digits, **shared | texts)
    other = pv.compare(digits, **shared | objects)  # in the same folder: it is the same comparison
    assert one.rows == other.rows


def test_names_are_what_is_read_again(digits, shared):
    likelihoods = [dist.Bernoulli, pv.likelihoods.Binomial(total_count=1), "BetaBinomial(total_count=1)"]
    guides = [pv.guides.Laplace]
    result = pv.compare(digits, likelihoods=likelihoods, guides=guides, **shared | {"epochs": 1})
    assert [row.name for row in result.rows] == [
        "Bernoulli, Laplace",
        "Binomial(total_count=1), Laplace",
        "BetaBinomial(total_count=1), Laplace",
    ]


def test_the_default_is_a_new_folder(digits, shared):
    del shared["folder"]
    shared["epochs"] = 1
    folders = {pv.compare(digits, guides=["Normal", "Laplace"], **shared).folder for _ in range(2)}
    assert len(folders) == 2
    for folder in folders:
        assert folder.parent == Path("runs")
        assert {"Normal", "Laplace", "comparison.csv", "comparison.png"} == {p.name for p in folder.iterdir()}


def test_conditional_models(shared):
    data = pv.data.load("digits", binarize="dynamic")
    assert data.class_names or data.train.labels is not None
    result = pv.compare(data, guides=["Normal", "Laplace"], model=pv.ConditionalVAE, **shared | {"epochs": 1})
    for program in result.programs.values():
        assert program.given == {"y": 10}
    batch = data.test.batch(slice(None))
    estimate = pv.evaluate.log_likelihood(program, batch, num_samples=5)
    assert result.rows[1].log_likelihood == pytest.approx(estimate.log_likelihood)


def test_levels_of_latents(digits, shared):
    del shared["latent_dim"]
    own = {"latent_dims": (4, 2), "between": pv.nets.mlp(4), "epochs": 1}
    guides = ["Normal", "LowRankNormal(1)"]
    result = pv.compare(digits, guides=guides, model=pv.HierarchicalVAE, **shared | own)
    for row in result.rows:
        assert row.active_units.keys() == {"z1", "z2"}
        units = row.active_units
        assert f"{units['z1'] + units['z2']} (z1 {units['z1']}, z2 {units['z2']})" in str(result)
    rows = list(csv.DictReader((result.folder / "comparison.csv").read_text().splitlines()))
    for row, read in zip(result.rows, rows, strict=True):
        assert {"z1": int(read["active_units_z1"]), "z2": int(read["active_units_z2"])} == row.active_units
        assert int(read["active_units"]) == sum(row.active_units.values())


def test_shows_itself(tmp_path):
    row = pv.comparison.Row("StudentT(<b>)", -20.0, -19.5, 0.25, 0.0, 0.0, None, {"z": 7}, 1234, 5.4)
    other = dataclasses.replace(row, name="Normal()", difference=-1.0, difference_standard_error=0.5)
    result = pv.Comparison([row, other], {}, tmp_path, 100, "counting measure", "test")
    assert str(result) == repr(result)
    assert str(result).splitlines() == [
        "                 ELBO  log p(x), K=100  less the first  active  parameters  s",
        "StudentT(<b>)  -20.00    -19.50 ± 0.25                       7       1,234  5",
        "Normal()       -20.00    -19.50 ± 0.25    -1.00 ± 0.50       7       1,234  5",
        "nats per datum of the test data, w.r.t. counting measure; differences are paired",
    ]
    html = result._repr_html_()
    assert html.count("<tr>") == html.count("</tr>") == 3
    assert "<th>StudentT(&lt;b&gt;)</th><td>-20.00</td>" in html
    assert "w.r.t. counting measure; differences are paired</p>" in html


def test_log_density_changes_with_the_scale_as_the_refusal_says():
    """log p(a x) + P log a under a model of a x is log p(x) under the same model of x."""
    x = 0.5 + 0.2 * torch.randn(50, 6, dtype=torch.float64)
    vae, scaled = (
        pv.VAE((6,), 2, likelihood=pv.likelihoods.Normal(scale=scale)).double() for scale in (0.5, 5.0)
    )
    scaled.q_z.load_state_dict(vae.q_z.state_dict())
    scaled.p_x.net.load_state_dict(vae.p_x.net.state_dict())
    vae.initialize(pv.data.Split(x))
    scaled.initialize(pv.data.Split(10 * x))
    one = pv.evaluate.log_likelihood(vae, x, num_samples=3).log_likelihood
    other = pv.evaluate.log_likelihood(scaled, 10 * x, num_samples=3).log_likelihood
    assert one == pytest.approx(other + 6 * math.log(10))


def test_active_units_are_those_that_the_data_move():
    class Two(torch.nn.Module):
        """Of four latents the first two follow x, the third by too little, the fourth not at all."""

        def __init__(self, in_shape, out_shape):
            super().__init__()

        def forward(self, x):
            loc = x[:, :1] * torch.tensor([1.0, 0.5, 0.05, 0.0])
            return torch.cat([loc, torch.zeros_like(loc)], -1)

    x = torch.randn(2000, 3)
    for guide in (pv.guides.Normal(), dist.Laplace):
        vae = pv.VAE((3,), 4, likelihood=dist.Normal, guide=guide, encoder=Two)
        assert pv.evaluate.active_units(vae, x) == {"z": 2}
        assert pv.evaluate.active_units(vae, x, threshold=0.5) == {"z": 1}
        assert pv.evaluate.active_units(vae, x, threshold=0.001) == {"z": 3}


def test_dequantised_densities_bound_the_probability_of_levels():
    """The bound that the refusal names, on one pixel: log P(k) >= E_u[log p((k + u) / L)] - log L."""
    levels = 16
    p = pv.distributions.LogitNormal(torch.tensor(0.3), torch.tensor(0.8))
    k = torch.arange(levels).double()
    u = (torch.arange(2000).double() + 0.5) / 2000
    log_p = p.log_prob((k[:, None] + u) / levels)
    exact = (log_p.exp().mean(1) / levels).log()
    bound = log_p.mean(1) - math.log(levels)
    assert (bound <= exact + 1e-9).all()
    assert exact.exp().sum().item() == pytest.approx(1, abs=1e-3)


@pytest.fixture
def visits():
    """A table of which a column is a count, spread further than a Poisson, and at times unknown."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"age": random.normal(40, 10, 300), "sex": random.choice(["f", "m"], 300)})
    frame["visits"] = random.negative_binomial(1, 0.2, 300).astype(float)
    frame.loc[::7, "visits"] = np.nan
    return pv.data.load(frame, test=0.3)


def test_likelihoods_of_a_column(visits, shared):
    likelihoods = [{"visits": dist.Poisson}, {"visits": "GammaPoisson"}]
    result = pv.compare(visits, likelihoods=likelihoods, **shared | {"epochs": 3})
    poisson, other = result.rows
    assert [row.name for row in result.rows] == ["visits: Poisson", "visits: GammaPoisson()"]
    found = [
        pv.evaluate.columns(
            program, visits.test, columns=["visits"], num_samples=result.num_samples
        ).per_datum
        for program in result.programs.values()
    ]
    less = (found[1] - found[0]).flatten()
    less = less[~less.isnan()]
    assert len(less) < len(visits.test)
    assert poisson.by_column["visits"] == pytest.approx((found[0].nanmean().item(), 0.0, 0.0), rel=1e-12)
    mean, difference, error = other.by_column["visits"]
    assert mean == pytest.approx(found[1].nanmean().item(), rel=1e-12)
    assert difference == pytest.approx(less.mean().item())
    assert error == pytest.approx((less.std() / len(less) ** 0.5).item())
    assert difference > 0.5
    header, _, last, _ = str(result).splitlines()
    assert "visits | rest" in header
    assert f"{difference:+.3f} ± {error:.3f}" in last
    rows = list(csv.DictReader((result.folder / "comparison.csv").read_text().splitlines()))
    assert float(rows[1]["difference_visits"]) == difference
    assert "by_column" not in rows[0]


def test_measures_are_compared_column_by_column(visits, shared):
    normal = {"visits": dist.Normal}
    with pytest.raises(
        ValueError, match=r"^column visits: densities on different .* To make .* whole numbers"
    ):
        pv.compare(visits, likelihoods=[{"visits": dist.Poisson}, normal], **shared)
    assert not list(Path().iterdir())
    # The same of both, though not what the column would be given by default.
    both = [normal | {"age": dist.Normal}, normal | {"age": dist.StudentT}]
    result = pv.compare(visits, likelihoods=both, **shared | {"epochs": 1})
    assert [row.by_column.keys() for row in result.rows] == [{"age"}] * 2
    assert [row.name for row in result.rows] == [
        "visits: Normal, age: Normal",
        "visits: Normal, age: StudentT",
    ]


def test_what_is_chosen_against_what_is_named(visits, shared):
    given = {"model": pv.ConditionalVAE, "given": ["sex"], "epochs": 1}
    result = pv.compare(visits, likelihoods=["auto", {"age": dist.Normal}], **shared | given)
    assert [row.name for row in result.rows] == ["auto", "age: Normal"]
    assert result.rows[1].by_column.keys() == {"age"}


def test_objectives(digits, shared):
    """The same start, measured the same way; the table tells what each is for, and a file does not."""
    objectives = ["Trace_ELBO", pv.objectives.IWAE(3), 'FreeBits(0.5, by="latent")']
    result = pv.compare(digits, objectives=objectives, **shared)
    names = ["Trace_ELBO()", "IWAE(num_particles=3)", "FreeBits(nats=0.5, by='latent')"]
    assert [row.name for row in result.rows] == names
    for row, (name, program) in zip(result.rows, result.programs.items(), strict=True):
        folder = result.folder / re.sub(r"[^\w.=-]+", "_", name).strip("_")
        settings = yaml.safe_load((folder / "config.yaml").read_text())
        assert settings["loss"] == name
        assert row.elbo == pv.evaluate.elbo(program, digits.test).elbo
        assert row.active_units == pv.evaluate.active_units(program, digits.test)
        assert f"{name}: {row.purpose}" in str(result).splitlines()
        assert html.escape(f"{name}: {row.purpose}") in result._repr_html_()
    assert result.rows[1].purpose.startswith("A bound that is the closer to log p(x)")
    assert len({row.elbo for row in result.rows}) == 3
    assert "purpose" not in (result.folder / "comparison.csv").read_text()


def test_objectives_beside_priors(digits, shared):
    lists = {"priors": ["Normal", "VampPrior(3)"], "objectives": ["AnalyticKL", "DReG(2)"]}
    result = pv.compare(digits, **lists, **shared | {"epochs": 1})
    assert [row.name for row in result.rows][1:3] == [
        "Normal(), DReG(num_particles=2)",
        "VampPrior(components=3), AnalyticKL()",
    ]
    assert result.rows[1].purpose == result.rows[3].purpose


def test_an_objective_is_named_with_its_draws():
    """By default they are not in its text, and IWAE() would not say of how many."""
    o = pv.objectives
    for part, name in (
        (o.IWAE(5), "IWAE(num_particles=5)"),
        (o.IWAE(7), "IWAE(num_particles=7)"),
        (o.Renyi(alpha=0.3), "Renyi(num_particles=5, alpha=0.3)"),
        (o.AnalyticKL(), "AnalyticKL()"),
        (pyro.infer.Trace_ELBO(), "Trace_ELBO()"),
        (pyro.infer.RenyiELBO(), "RenyiELBO(num_particles=2)"),
    ):
        assert comparison._name(part) == name


def test_objectives_that_do_not_fit(digits, shared):
    for wrong, told in (
        ({"objectives": ["Trace_ELBO", "IWEA"]}, "did you mean IWAE"),
        ({"objectives": ["Trace_ELBO", "IWAE"], "beta": 0.5}, "loss=IWAE() has none to weigh"),
        ({"objectives": ["Trace_ELBO", torch.nn.MSELoss()]}, "does not fit here"),
        ({"objectives": ["IWAE", "IWAE(5)"]}, "two or more different variants"),
    ):
        with pytest.raises(ValueError, match=re.escape(told)):
            pv.compare(digits, **shared | wrong)
    assert not list(Path().iterdir())
