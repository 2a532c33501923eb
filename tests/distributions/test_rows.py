"""Rows of columns of several families, against each column by itself; whole numbers, ordered categories."""

from __future__ import annotations

import copy

import pyro.distributions as dist
import pytest
import scipy.stats
import torch

import pyro_vae as pv
from pyro_vae.families import ByColumn
from pyro_vae.families.columns import Auto

COLUMNS = pv.data.columns.Columns(
    {
        "a": "real",
        "b": "count",
        "c": {"kind": "category", "levels": ["u", "v", "w"]},
        "d": "real",
        "e": {"kind": "ordinal", "levels": ["1", "2", "3", "4"]},
        "f": "boolean",
        "g": "integer",
        "h": "positive",
    }
)
NAN = float("nan")


@pytest.fixture
def row():
    """The distribution of a batch of rows, with parameters that differ from row to row, in float64."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    family = copy.deepcopy(Auto().resolve(COLUMNS))
    family.setup((8,))
    yield family(torch.randn(5, *family.param_shape()))
    torch.set_default_dtype(torch.float32)


def test_density_is_that_of_the_columns(row):
    """log p of a row is the sum over columns; what is missing has none; order is the table's."""
    x = row.sample((3,))
    assert x.shape == (3, 5, 8)
    each = row.by_column(x)
    torch.testing.assert_close(each.sum(-1), row.log_prob(x))
    for part, index in zip(row.parts, row.index, strict=True):
        torch.testing.assert_close(each[..., index], part.base_dist.log_prob(x[..., index]))
    observed = torch.rand(3, 5, 8) < 0.5
    filled = torch.where(observed, x, 1.0)
    torch.testing.assert_close(
        row.marginal(observed).log_prob(filled), torch.where(observed, each, 0.0).sum(-1)
    )
    torch.testing.assert_close(row.marginal(observed).by_column(filled), torch.where(observed, each, 0.0))
    assert row.support.check(x).all()
    x[..., 2] = 3.0
    assert not row.support.check(x).any()
    assert row.support.by_column(x).all(0).all(0).tolist() == [True, True, False] + [True] * 5


def test_moments_of_draws(row):
    """Means and variances are those of draws, column by column."""
    x = row.sample((40_000,))
    fine = row.variance.isfinite() & (row.variance < 100)
    error = (x.mean(0) - row.mean).abs() / (x.std(0) / 200 + 1e-9)
    assert error[fine].max() < 5
    ratio = (x.var(0) / row.variance)[fine]
    assert 0.5 < ratio.min() < ratio.max() < 2
    assert row.expand((2, 5)).sample().shape == (2, 5, 8)


def test_given_columns_have_no_density():
    family = ByColumn([pv.likelihoods.Normal(), pv.likelihoods.Bernoulli()], [[0], [3]])
    family.setup((4,))
    p = family(torch.randn(6, *family.param_shape()))
    rows = torch.arange(24.0).reshape(6, 4)
    x = p.given(rows).sample()
    assert torch.equal(x[:, [1, 2]], rows[:, [1, 2]])
    torch.testing.assert_close(p.log_prob(x), p.log_prob(x.clone().index_fill(1, torch.tensor([1, 2]), 9.0)))
    assert p.sample()[:, 1].isnan().all()
    assert (p.by_column(x)[:, [1, 2]] == 0).all()


def test_shared_parameters_are_a_column_s_own():
    """One learned scale of a column is no other column's, though both were given the same family."""
    vae = pv.VAE({"a": "real", "b": "real"}, 1, likelihood=pv.likelihoods.Normal(scale="shared"))
    data = pv.data.load(
        torch.stack([torch.randn(400), 100 * torch.randn(400)], 1).numpy(), validation=0.0, test=0.0
    )
    vae.initialize(data.train)
    (part,) = vae.p_x.family.parts
    assert part.parameters_["scale"].value.shape == (2,)
    assert part.parameters_["scale"].value[1] > 30 * part.parameters_["scale"].value[0]


def test_rounded_logistic():
    """Against the difference of scipy's distribution function, also far in the tails and far from 0."""
    loc = torch.tensor([0.3, -4.0, 3750.0, 12.0], dtype=torch.float64)
    scale = torch.tensor([0.05, 2.0, 400.0, 1e-3], dtype=torch.float64)
    p = pv.distributions.RoundedLogistic(loc, scale)
    for k in (0.0, 1.0, -7.0, 12.0, 4000.0):
        law = scipy.stats.logistic(loc.numpy(), scale.numpy())
        exact = torch.from_numpy(law.cdf(k + 0.5) - law.cdf(k - 0.5))
        fine = exact > 1e-6  # below, the difference is not exact
        value = p.log_prob(torch.full((4,), k, dtype=torch.float64))
        torch.testing.assert_close(value[fine], exact[fine].log(), rtol=1e-6, atol=1e-6)
        assert value.isfinite().all()
    single = pv.distributions.RoundedLogistic(loc.float(), scale.float())
    torch.testing.assert_close(
        single.log_prob(torch.tensor([0.0, -3.0, 3000.0, 12.0])).double(),
        p.log_prob(torch.tensor([0.0, -3.0, 3000.0, 12.0], dtype=torch.float64)),
        rtol=1e-4,
        atol=1e-4,
    )


def test_ordinal_is_proportional_odds():
    """P(v <= k) = F(c_k - r); at r = 0 the frequencies of the data; more r, higher categories."""
    torch.manual_seed(1)
    x = torch.multinomial(torch.tensor([[0.5, 0.2, 0.05, 0.25], [0.1, 0.1, 0.7, 0.1]]), 1000, True).T.double()
    family = pv.likelihoods.Ordinal(4).double()
    family.setup((2,))
    family = family.double()
    family.initialize(x, x.mean(0), x.std(0))
    probs = family(torch.zeros(1, 2, dtype=torch.float64)).base_dist.probs[0]
    counts = torch.stack([torch.bincount(column.long(), minlength=4) + 1.0 for column in x.T]).double()
    torch.testing.assert_close(probs, counts / counts.sum(1, keepdim=True))
    r = torch.tensor([[0.7, -1.3]], dtype=torch.float64)
    below = family(r).base_dist.probs[0].cumsum(-1)[:, :3]
    odds = torch.logit(below) - torch.logit(probs.cumsum(-1)[:, :3])
    torch.testing.assert_close(odds, -r.T.expand(2, 3))
    two = pv.likelihoods.Ordinal(2)
    two.setup((3,))
    logits = torch.randn(4, 3)
    torch.testing.assert_close(
        two(logits).log_prob(torch.ones(4, 3)),
        dist.Bernoulli(logits=logits).log_prob(torch.ones(4, 3)).sum(-1),
    )


def test_what_a_network_sees_of_a_row():
    """Standardised numbers, logarithms of counts and positive numbers, one-hot categories, masks."""
    from pyro_vae.seen import Row

    torch.manual_seed(2)
    row = Row("x", COLUMNS)
    n = 500
    x = torch.stack(
        [
            3 + 2 * torch.randn(n),
            torch.poisson(5 * torch.ones(n)),
            torch.randint(3, (n,)).float(),
            1e3 * torch.randn(n),
            torch.randint(4, (n,)).float(),
            torch.randint(2, (n,)).float(),
            torch.randint(100, (n,)).float(),
            torch.randn(n).exp(),
        ],
        1,
    )
    x[torch.rand(n, 8) < 0.2] = NAN
    row.initialize(pv.data.Split(x))
    assert row.shape == (6 + 7,)
    seen = row(x)
    known = ~x[:, [0, 1, 3, 5, 6, 7]].isnan()
    for j in range(6):
        values = seen[known[:, j], j]
        assert abs(values.mean()) < 1e-4
        assert abs(values.std(correction=0) - 1) < 1e-3
    assert (seen[:, :6][~known] == 0).all()
    torch.testing.assert_close(seen[:, 6:9], torch.stack([x[:, 2] == k for k in range(3)], 1).float())
    raw = seen[:, 1] * row.scale[1] + row.loc[1]
    torch.testing.assert_close(raw[known[:, 1]], x[known[:, 1], 1].log1p(), rtol=1e-5, atol=1e-5)
    row.gaps = True
    assert torch.equal(row(x)[:, 13:], (~x.isnan()).float())
    typical = row.typical()
    assert typical.shape == (8,)
    assert (row(typical[None])[0, :6].abs() < 1e-4).all()


@pytest.mark.parametrize("scale", [1e2, 1e5, 1e7])
def test_large_counts_in_single_precision(scale):
    """Their log-probabilities are those of double precision."""
    k = torch.tensor([0.5, 1.0, 1.7]).mul(scale).round()
    for made, parameters in (
        (pv.distributions.Poisson, {"rate": torch.tensor(scale)}),
        (
            pv.distributions.GammaPoisson,
            {"concentration": torch.tensor(2.0), "rate": torch.tensor(2 / scale)},
        ),
        (
            pv.distributions.NegativeBinomial,
            {"total_count": torch.tensor(2.0), "logits": torch.tensor(scale / 2).log()},
        ),
    ):
        exact = made.__bases__[0](**{name: value.double() for name, value in parameters.items()})
        value = made(**parameters).log_prob(k)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), exact.log_prob(k.double()), rtol=1e-4, atol=1e-4)


def test_a_loaded_table_is_the_same_model(tmp_path):
    """Its distributions have the same parameters, of each kind of column."""
    torch.manual_seed(3)
    family = Auto().resolve(COLUMNS)
    family.setup((8,))
    rows = family(torch.randn(40, *family.param_shape())).sample()
    data = pv.data.Split(rows, columns=COLUMNS)
    vae = pv.VAE(COLUMNS, 2, likelihood="auto", encoder=pv.nets.mlp(8), decoder=pv.nets.mlp(8))
    whole = pv.data.Data(data, data, data, "table", {"data": None}, "0")
    pv.fit(vae, whole, epochs=1, progress=False, compile=False, folder=tmp_path / "run")
    again = pv.load(tmp_path / "run")
    z = torch.randn(5, 2)
    for one, other in zip(vae.decode(z).parts, again.decode(z).parts, strict=True):
        assert type(one.base_dist) is type(other.base_dist)
        for name in one.base_dist.arg_constraints:
            assert torch.equal(getattr(one.base_dist, name), getattr(other.base_dist, name))


def test_families_of_one_name_stay_apart():
    """One that is named, and one that is chosen, though they are called the same."""
    columns = pv.data.columns.Columns({"a": "real", "b": "real"})
    family = Auto({"a": pv.guides.StudentT()}).resolve(columns)
    assert family.columns == [[0], [1]]
