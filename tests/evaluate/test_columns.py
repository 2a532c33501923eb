"""How likely columns are, against closed forms and quadrature in float64."""

import math

import pandas as pd
import pytest
import torch
from torch.distributions import MultivariateNormal

import pyro_vae as pv
from pyro_vae.data import DataError
from pyro_vae.data.columns import Columns
from pyro_vae.families import COUNTING, LEBESGUE

SCALE = 0.7
NAMES = ("a", "b", "c", "x")  # one is called as the site of the rows is


@pytest.fixture
def linear(double):
    """A linear VAE of a table, of which all is Normal, with a guide near the prior; and rows with gaps."""
    torch.manual_seed(0)
    real = Columns(dict.fromkeys(NAMES, "real"))
    nets = {"encoder": pv.nets.mlp(), "decoder": pv.nets.mlp()}
    vae = pv.VAE(real, 2, likelihood=pv.likelihoods.Normal(scale=SCALE), **nets)
    layer = vae.p_x.net.layers[0]
    with torch.no_grad():
        layer.weight.copy_(torch.randn(4, 2))
        layer.bias.copy_(torch.randn(4))
        weight, loc = layer.weight.clone(), layer.bias.clone()
        vae.q_z.net.layers[0].weight.mul_(0.1)
    p_x = MultivariateNormal(loc, weight @ weight.T + SCALE**2 * torch.eye(4))
    x = p_x.sample((12,))
    x[0, 1] = x[1, :3] = x[2] = torch.nan
    return vae, x, p_x


def exact(p_x, row, which):
    """log p of the elements of a row that are observed, and among those asked for."""
    known = which & ~row.isnan()
    if not known.any():
        return torch.zeros(())
    covariance = p_x.covariance_matrix[known][:, known]
    return MultivariateNormal(p_x.mean[known], covariance).log_prob(row[known])


def test_against_the_closed_form(linear):
    vae, x, p_x = linear
    found = pv.evaluate.columns(vae, x, num_samples=20_000, max_rows=50_000)
    one = torch.eye(4, dtype=torch.bool)
    alone = torch.stack([torch.stack([exact(p_x, row, own) for own in one]) for row in x])
    rest = torch.stack(
        [torch.stack([exact(p_x, r, own | ~own) - exact(p_x, r, ~own) for own in one]) for r in x]
    )
    missing = x.isnan()
    assert found.per_datum.isnan().equal(missing)
    assert found.alone_per_datum.isnan().equal(missing)
    torch.testing.assert_close(found.alone_per_datum[~missing], alone[~missing], atol=0.05, rtol=0)
    torch.testing.assert_close(found.per_datum[~missing], rest[~missing], atol=0.08, rtol=0)
    assert (rest - alone)[~missing].abs().max() > 0.5  # they are not the same
    total = torch.stack([exact(p_x, row, one.any(0)) for row in x])
    torch.testing.assert_close(found.total.per_datum, total, atol=0.2, rtol=0)  # by the guide alone
    assert found.names == NAMES
    for j, name in enumerate(NAMES):
        values = found.per_datum[:, j][~missing[:, j]]
        assert found.given_rest[name] == pytest.approx(values.mean().item())
        assert found.standard_error[name] == pytest.approx((values.std() / len(values) ** 0.5).item())
    assert found.by_measure.keys() == {LEBESGUE}
    assert found.by_measure[LEBESGUE] is found.total


def test_mixed_against_quadrature(double):
    columns = Columns(
        {"price": "positive", "visits": "count", "kind": {"kind": "category", "levels": ["u", "v", "w"]}}
    )
    vae = pv.VAE(columns, 1, likelihood="auto", encoder=pv.nets.mlp(), decoder=pv.nets.mlp())
    with torch.no_grad():
        vae.p_x.net.layers[0].weight.mul_(2.0)
    frame = pd.DataFrame(
        {"kind": ["u", "w", None, "v"], "visits": [0, 3, 1, None], "price": [0.5, 2.0, 1.0, 3.0]}
    )
    x = columns.encode(frame)
    z = torch.linspace(-8, 8, 4001)[:, None]
    with torch.no_grad():
        known = ~x.isnan()
        whole = vae.decode(z[:, None].expand(-1, 4, -1)).marginal(known)
        by_column = whole.by_column(torch.where(known, x, 1.0))
    log_z = torch.distributions.Normal(0.0, 1.0).log_prob(z) + math.log(z[1] - z[0])

    def log_p(*own):
        return (by_column[..., list(own)].sum(-1) + log_z).logsumexp(0)

    found = pv.evaluate.columns(vae, frame, num_samples=20_000, max_rows=80_000)
    close = {"atol": 0.03, "rtol": 0, "equal_nan": True}
    for j in range(3):
        others = [i for i in range(3) if i != j]
        given_rest = torch.where(known[:, j], log_p(0, 1, 2) - log_p(*others), torch.nan)
        torch.testing.assert_close(found.per_datum[:, j], given_rest, **close)
        torch.testing.assert_close(
            found.alone_per_datum[:, j], torch.where(known[:, j], log_p(j), torch.nan), **close
        )
    assert found.measures == (LEBESGUE, COUNTING, COUNTING)
    torch.testing.assert_close(found.by_measure[LEBESGUE].per_datum, log_p(0), **close)
    torch.testing.assert_close(found.by_measure[COUNTING].per_datum, log_p(1, 2), **close)
    assert found.by_measure[COUNTING].measure == COUNTING
    assert found.total.measure.startswith("a mixed measure")
    restricted = pv.evaluate.columns(vae, frame, columns=["visits"], num_samples=20_000, max_rows=80_000)
    assert restricted.names == ("visits",)
    torch.testing.assert_close(restricted.per_datum[:, 0], found.per_datum[:, 1], **close)


@pytest.mark.filterwarnings("ignore:log p.x. of")
def test_a_guide_narrower_than_the_posterior(linear):
    """Where it was never trained on gaps: its draws alone would miss most of the posterior."""
    vae, x, p_x = linear
    with torch.no_grad():
        vae.q_z.net.layers[0].weight.zero_()
        vae.q_z.net.layers[0].bias.copy_(torch.tensor([0.0, 0.0, -5.0, -5.0]))  # scales of 0.007
    found = pv.evaluate.columns(vae, x[3:], num_samples=20_000, max_rows=50_000)
    one = torch.eye(4, dtype=torch.bool)
    rest = torch.stack(
        [torch.stack([exact(p_x, r, own | ~own) - exact(p_x, r, ~own) for own in one]) for r in x]
    )
    torch.testing.assert_close(found.per_datum, rest[3:], atol=0.3, rtol=0)


def test_columns_that_are_given_have_no_density(double):
    columns = Columns({"a": "real", "sex": {"kind": "category", "levels": ["f", "m"]}, "b": "count"})
    nets = {"encoder": pv.nets.mlp(4), "decoder": pv.nets.mlp(4)}
    vae = pv.ConditionalVAE(columns, given=["sex"], latent_dim=1, likelihood="auto", **nets)
    frame = pd.DataFrame({"a": [0.1, 0.2, -0.3], "sex": ["f", "m", "m"], "b": [1, 0, 2]})
    found = pv.evaluate.columns(vae, frame, num_samples=5)
    assert found.names == ("a", "b")
    assert found.by_measure.keys() == {LEBESGUE, COUNTING}
    with pytest.raises(DataError, match=r"columns='sex' is given to it: .* models are a, b"):
        pv.evaluate.columns(vae, frame, columns=["sex"])
    with pytest.raises(DataError, match="columns='age' is not there"):
        pv.evaluate.columns(vae, frame, columns=["age"])


def test_labels_and_categories_that_are_missing():
    rows = {"a": torch.randn(20).tolist(), "sex": ["f", "m", None, "m"] * 5, "y": ["u", None, "v", None] * 5}
    data = pv.data.load(pd.DataFrame(rows), labels="y", test=0, validation=0)
    nets = dict.fromkeys(("encoder", "decoder", "classifier"), pv.nets.mlp(4))
    vae = pv.SemiSupervisedVAE(data.event_shapes, num_classes=2, latent_dim=1, likelihood="auto", **nets)
    vae.initialize(data.train)
    found = pv.evaluate.columns(vae, data.train, num_samples=500)
    assert {*found.given_rest} == {"a", "sex"}
    assert found.per_datum[:, 0].isfinite().all()
    assert found.per_datum[:, 1].isnan().tolist() == data.train[:][:, 1].isnan().tolist()
    for name in found.names:  # of an untrained decoder, columns are nearly independent
        assert found.given_rest[name] == pytest.approx(found.alone[name], abs=0.05)


def test_memory_is_bounded_and_the_parts_join(linear, monkeypatch):
    vae, x, _ = linear
    seen = []
    decode = vae.p_x.forward
    monkeypatch.setattr(vae.p_x, "forward", lambda z: seen.append(z[..., 0].numel()) or decode(z))
    found = pv.evaluate.columns(vae, x, num_samples=90, max_rows=100)
    assert max(seen) <= 100
    assert found.per_datum[~x.isnan()].isfinite().all()
    assert (found.effective_sample_size[~x.isnan()] <= 90 + 1e-6).all()


def test_any_vector_has_columns(make_vae):
    vae = make_vae((3,), likelihood=pv.likelihoods.StudentT())
    found = pv.evaluate.columns(vae, torch.randn(10, 3), num_samples=4)
    assert found.names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("shape", "likelihood"),
    [((1, 8, 8), pv.likelihoods.Bernoulli()), ((3,), pv.likelihoods.LowRankNormal(1))],
)
def test_what_has_no_columns(make_vae, shape, likelihood):
    vae = make_vae(shape, likelihood=likelihood)
    with pytest.raises(ValueError, match=r"independent given the latents, and x of the VAE is of"):
        pv.evaluate.columns(vae, torch.bernoulli(torch.rand(5, *shape)))


def test_shows_itself(linear):
    vae, x, _ = linear
    found = pv.evaluate.columns(vae, x, num_samples=10)
    lines = str(found).splitlines()
    assert lines[0].split("  ")[-1].strip() == "measure"
    assert [line.split()[0] for line in lines[1:5]] == list(NAMES)
    assert f"{found.given_rest['a']:.3f} ± {found.standard_error['a']:.3f}" in lines[1]
    assert lines[-2].startswith(f"all columns: {found.total.log_likelihood:.2f}")
    frame = found.frame()
    assert list(frame.index) == list(NAMES)
    assert frame.loc["b", "log p(x_j | rest)"] == found.given_rest["b"]
    assert frame.observed.tolist() == (~x.isnan()).sum(0).tolist()
    html = found._repr_html_()
    assert html.count("<tr>") == html.count("</tr>") == 5


@pytest.mark.filterwarnings("ignore:log p.x. of")
def test_evaluation_takes_frames(make_vae):
    """In any order of columns; what is not there is not known."""
    columns = Columns({"a": "real", "kind": {"kind": "category", "levels": ["u", "v"]}})
    vae = pv.VAE(columns, 1, likelihood="auto", encoder=pv.nets.mlp(4), decoder=pv.nets.mlp(4))
    frame = pd.DataFrame({"kind": ["v", "u", None], "a": [0.5, None, 1.0]})
    rows = torch.tensor([[0.5, 1.0], [torch.nan, 0.0], [1.0, torch.nan]])
    for measure in (pv.evaluate.elbo, pv.evaluate.log_likelihood, pv.evaluate.active_units):
        assert str(measure(vae, frame)) == str(measure(vae, rows)), measure
        named = {"kind": ["v", "u", None], "a": [0.5, None, 1.0]}
        assert str(measure(vae, named)) == str(measure(vae, rows)), measure
    hidden = torch.where(torch.tensor([True, False]), rows, torch.nan)
    assert pv.evaluate.elbo(vae, frame[["a"]]) == pv.evaluate.elbo(vae, hidden)
    with pytest.raises(DataError, match="column kind has no category 'w': there are u, v"):
        pv.evaluate.elbo(vae, frame.replace("u", "w"))
    with pytest.raises(DataError, match="there is no column 'b'"):
        pv.evaluate.elbo(vae, frame.assign(b=1.0))
    import polars

    assert pv.evaluate.elbo(vae, polars.from_pandas(frame)) == pv.evaluate.elbo(vae, rows)


@pytest.mark.parametrize(
    ("likelihood", "told"),
    [(pv.likelihoods.Categorical(3), "whole numbers in .0, 2."), (pv.likelihoods.Bernoulli(), "lie outside")],
)
def test_a_column_outside_of_its_likelihood_is_named(likelihood, told):
    """Also where the density of such values is not NaN but an error."""
    data = pv.data.load(pd.DataFrame({"a": torch.randn(30).tolist(), "year": [2007, 2008, 2009] * 10}))
    vae = pv.VAE(data.event_shapes, 1, likelihood={"year": likelihood})
    with pytest.raises(DataError, match=f"of column year .*{told}.*2007, 2009"):
        pv.evaluate.check(vae, data.train)
