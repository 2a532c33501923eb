"""Tables: kinds of columns, rows there and back, and fifty tables that a stranger might bring."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.data import DataError
from pyro_vae.data.columns import Column, Columns
from pyro_vae.data.source import Streamed

pd = pytest.importorskip("pandas")
NAN = float("nan")
N = 60


def frame(seed: int = 0, holes: bool = False):
    """A column of each kind."""
    random = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "height": random.normal(170, 10, N),
            "change": random.normal(0, 1, N).astype("float32"),
            "income": random.lognormal(10, 1, N),
            "share": random.beta(1, 1, N),
            "visits": random.poisson(random.gamma(1, 4, N)),
            "year": random.integers(2000, 2020, N),
            "ill": random.random(N) < 0.3,
            "sex": random.choice(["female", "male"], N),
            "island": pd.Categorical(random.choice(["a", "b"], N), categories=["a", "b", "c"]),
            "grade": pd.Categorical(
                random.choice(["low", "mid", "high"], N), categories=["low", "mid", "high"], ordered=True
            ),
        }
    )
    if holes:
        table = table.astype({"visits": "Int64", "ill": "boolean"})
        for j, name in enumerate(table.columns):
            table.loc[random.permutation(N)[: 5 + j], name] = None
    return table


KINDS = {
    "height": "positive",
    "change": "real",
    "income": "positive",
    "share": "share",
    "visits": "count",
    "year": "integer",
    "ill": "boolean",
    "sex": "category",
    "island": "category",
    "grade": "ordinal",
}


@pytest.mark.parametrize("holes", [False, True])
def test_there_and_back(holes):
    """Each column's kind; rows become numbers, and the same rows again, dtypes and categories too."""
    table = frame(holes=holes)
    data = pv.data.load(table, validation=0.2, test=0.2)
    assert {name: column.kind for name, column in data.columns.of.items()} == KINDS
    assert list(data.event_shapes) == list(table.columns)
    assert data.event_shapes["height"] == ()
    assert data.event_shape == (10,)
    again = data.columns.decode(data.columns.encode(table))
    again, like = (t.assign(sex=t["sex"].fillna("?")) for t in (again, table))
    pd.testing.assert_frame_equal(again, like, check_exact=False)
    turned = data.columns.encode(table[::-1][list(table.columns[::-1])])
    torch.testing.assert_close(turned.flip(0), data.columns.encode(table), equal_nan=True, rtol=0, atol=0)
    missing = table.isna().to_numpy()
    assert (data.columns.encode(table).isnan().numpy() == missing).all()


def test_categories_keep_their_dtype():
    """Of intervals, times and small integers, whose values a configuration holds as texts and numbers."""
    two = np.arange(N) % 2
    values = {
        "interval": pd.cut(np.linspace(0, 1 / 3, N), 3, precision=12),
        "left": pd.cut(np.arange(N), [-1, 3, N + 1], right=False),
        "month": pd.Categorical(pd.DatetimeIndex([pd.Timestamp(0), pd.Timestamp(1)])[two]),
        "zoned": pd.Categorical(pd.date_range("2020-01-01", periods=2, tz="Europe/Berlin")[two]),
        "period": pd.Categorical(pd.period_range("2020-01", periods=2, freq="M")[two], ordered=True),
        "span": pd.Categorical(pd.to_timedelta([1, 2], unit="h")[two]),
        "days": pd.cut(pd.date_range("2020-01-01", periods=N), 2),
        "small": pd.Categorical(np.array([3, 1], "int8")[two]),
        "text": pd.Categorical(pd.array(["u", "v"], dtype="string")[two]),
        "switch": pd.Categorical(two == 1),
    }
    table = pd.DataFrame(values)
    columns = pv.data.load(table).columns
    again = Columns(columns.plain).decode(columns.encode(table))
    pd.testing.assert_frame_equal(again, table)
    json.dumps(columns.plain)
    dates = _with(x=pd.Categorical(np.array(pd.to_datetime(["2020-01-01", "2020-01-02"]).date)[two]))
    columns = pv.data.load(dates).columns
    assert columns.decode(columns.encode(dates))["x"].tolist() == dates["x"].astype(str).tolist()


def test_foreign_tables_and_files(tmp_path):
    """Of polars, of Arrow, from .csv and .parquet: the same numbers."""
    polars, pyarrow = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    table = frame()
    rows = pv.data.load(table).train[:]
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_parquet(tmp_path / "t.parquet")
    plain = table.astype({"island": str, "grade": str, "change": "float64"})
    for other in (pyarrow.Table.from_pandas(table), str(tmp_path / "t.parquet")):
        assert torch.equal(pv.data.load(other).train[:], rows)
    assert torch.equal(pv.data.load(polars.from_pandas(plain)).train[:], pv.data.load(plain).train[:])
    csv = pv.data.load(str(tmp_path / "t.csv"))
    torch.testing.assert_close(csv.train[:], pv.data.load(plain).train[:])
    assert csv.config["data"] == str(tmp_path / "t.csv")


@pytest.mark.parametrize("again", [1, 3])
def test_holes_are_filled(again):
    """Of any dtype; what is there stays, and columns that only the whole rows have come last."""
    table = frame(holes=True)
    columns, missing = pv.data.load(table).columns, table.isna()
    whole = columns.decode(columns.encode(frame(1)).repeat(again, 1))
    few = table.drop(columns="year").assign(sex=table["sex"].astype("category"), person=range(N), ill=None)
    few["island"] = few["island"].cat.remove_categories("b")
    made = pv.data.tables.filled(Path("t.parquet"), few, whole)
    assert list(made.columns) == [*few.columns, "year"]
    assert not made.isna().any().any()
    assert made["person"].tolist() == list(range(N)) * again
    for name in table.columns.drop("year"):
        known = np.tile(few[name].notna().to_numpy(), again)
        assert made[name][known].tolist() == few[name].dropna().tolist() * again, name
        assert made[name][~known].tolist() == whole[name][~known].tolist(), name
    assert missing.equals(table.isna())


def test_labels_by_name():
    data = pv.data.load(frame(), labels="sex")
    assert "sex" not in data.event_shapes
    assert data.class_names == ("female", "male")
    with pytest.raises(DataError, match="labels='sexe' is no column"):
        pv.data.load(frame(), labels="sexe")


@pytest.mark.parametrize("dtype", ["float64", "Int64", "category", "object"])
@pytest.mark.parametrize(
    ("numbers", "names", "found"),
    [
        ([3, 1, 10], ("1", "3", "10"), [1, 0, 2]),
        ([-1, 1, 0], ("-1", "0", "1"), [0, 2, 1]),
        ([0, 2, 5], ("0", "2", "5"), [0, 1, 2]),
        ([2, 0, 1], None, [2, 0, 1]),
    ],
)
def test_labels_that_are_whole_numbers(dtype, numbers, names, found):
    """From 0 on they are what they are; others are names, in their order: there is no class of the rest."""
    kind = pd.Series([*numbers, *numbers, None], dtype="Int64")
    kind = kind.astype("float64").astype(dtype) if dtype != "Int64" else kind
    data = pv.data.load(pd.DataFrame({"a": range(7), "kind": kind}), labels="kind", test=0.0, validation=0.0)
    assert data.class_names == names
    labels = data.train.labels[data.train[:][:, 0].argsort()]
    assert labels[:6].tolist() == [*found, *found]
    assert labels[6].isnan()


def test_columns_are_plain_values():
    columns = pv.data.load(frame()).columns
    assert Columns(columns.plain) == columns
    assert hash(Columns(columns.plain)) == hash(columns)
    with pytest.raises(ValueError, match="only the shape is given"):
        Columns({"age": ()})
    with pytest.raises(ValueError, match="kind='age' is none of"):
        Columns({"age": "age"})
    with pytest.raises(ValueError, match="at least one"):
        Columns({})
    with pytest.raises(ValueError, match="levels"):
        Column("category")


class Opaque:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def _with(**columns):
    return pd.DataFrame({"a": np.linspace(-1.0, 1.0, N), **columns})


def _values(*some):
    return (list(some) * N)[:N]


def _two_of_one_name():
    both = pd.Index([(1,), "(1,)"], dtype=object, tupleize_cols=False)
    return pd.Categorical.from_codes(np.arange(N) % 2, both)


TABLES = {
    # works, as kinds of the last column
    "whole floats": (lambda: _with(x=np.arange(N) % 7 + 3.0), "integer"),
    "whole floats with holes": (lambda: _with(x=_values(5.0, NAN, 7.0)), "integer"),
    "zeros and ones": (lambda: _with(x=_values(0, 1)), "boolean"),
    "zeros and ones with holes": (lambda: _with(x=_values(0.0, 1.0, NAN)), "boolean"),
    "True, False and None": (lambda: _with(x=_values(True, False, None)), "boolean"),
    "texts and None": (lambda: _with(x=_values("u", None, "v")), "category"),
    "texts and NaN": (lambda: _with(x=_values("u", NAN, "v")), "category"),
    "texts and pd.NA": (lambda: _with(x=pd.array(_values("u", pd.NA, "v"), dtype="string")), "category"),
    "integers with pd.NA": (lambda: _with(x=pd.array(_values(4, pd.NA, 9), dtype="Int64")), "integer"),
    "unused category": (
        lambda: _with(x=pd.Categorical(_values("u", "v"), categories=["u", "v", "w"])),
        "category",
    ),
    "categories that are numbers": (lambda: _with(x=pd.Categorical(_values(3, 1, 2))), "category"),
    "intervals in order": (lambda: _with(x=pd.cut(np.arange(N), 3)), "ordinal"),
    "objects that are numbers": (lambda: _with(x=pd.Series(_values(1.5, -2.5), dtype=object)), "real"),
    "objects, some None": (lambda: _with(x=pd.Series(_values(1.5, None, -2.5), dtype=object)), "real"),
    "decimal bytes": (lambda: _with(x=np.arange(N, dtype=np.uint8)), "count"),
    "float16": (lambda: _with(x=np.linspace(-1, 1, N).astype("float16")), "real"),
    "names that are numbers": (lambda: _with().rename(columns={"a": 3}), "real"),
    "names with spaces": (lambda: _with().rename(columns={"a": "bill length [mm]"}), "real"),
    "another index": (lambda: _with().set_index(pd.Index(list(map(str, range(N))))), "real"),
    "index of two levels": (lambda: _with().set_index([pd.Index(range(N)), pd.Index(range(N))]), "real"),
    "repeated index": (lambda: _with().set_index(pd.Index([0] * N)), "real"),
    "one column": (lambda: _with(), "real"),
    "sparse": (lambda: _with(x=pd.arrays.SparseArray(np.linspace(-1.0, 1.0, N) ** 3)), "real"),
    "empty texts": (lambda: _with(x=_values("", "v")), "category"),
    "twenty categories": (lambda: _with(x=[f"c{i % 20}" for i in range(N)]), "category"),
    "Arrow's own dtype": (
        lambda: _with(x=pd.Series(_values(1.5, -2.5)).astype("float64[pyarrow]")),
        "real",
    ),
    # refused, in these words
    "no row": (lambda: _with()[:0], "0 rows"),
    "no column": (lambda: _with()[[]], "0 columns"),
    "duplicate names": (lambda: pd.concat([_with(), _with()], axis=1), "two columns are called 'a'"),
    "names that become one": (lambda: _with().assign(**{"1": 2.0}).rename(columns={"a": 1}), "called '1'"),
    "all missing": (lambda: _with(x=[NAN] * N), "column x has no value at all"),
    "all None": (lambda: _with(x=[None] * N), "column x has no value at all"),
    "infinite": (lambda: _with(x=_values(1.5, np.inf)), "column x holds infinite values"),
    "minus infinite": (lambda: _with(x=_values(1.5, -np.inf)), "frame.replace"),
    "dates": (lambda: _with(x=pd.date_range("2020", periods=N)), "dates or times .*days=1"),
    "dates with zones": (lambda: _with(x=pd.date_range("2020", periods=N, tz="UTC")), "dates or times"),
    "durations": (lambda: _with(x=pd.to_timedelta(range(N), unit="h")), "dates or times"),
    "periods": (lambda: _with(x=pd.period_range("2020", periods=N, freq="M")), "dates or times"),
    "dates as objects": (lambda: _with(x=_values(*pd.date_range("2020", periods=3).date)), "type date"),
    "dates as texts": (lambda: _with(x=[f"2020-01-{i % 30 + 1:02}" for i in range(N)]), "dates as texts"),
    "dates in Chinese": (lambda: _with(x=[f"2020年1月{i % 30 + 1}日" for i in range(N)]), "dates as texts"),
    "two of them": (lambda: _with(x=[NAN] * N, y=["one"] * N), "x has no value .*nor can these .*'y'"),
    "complex": (lambda: _with(x=np.arange(N) * 1j), "complex"),
    "numbers and texts": (lambda: _with(x=_values(1.5, "?")), "number and text, .*pd.to_numeric"),
    "lists": (lambda: _with(x=[[1, 2]] * N), "values of type list"),
    "dicts": (lambda: _with(x=[{"a": 1}] * N), "values of type dict"),
    "arrays": (lambda: _with(x=[np.zeros(2)] * N), "values of type ndarray"),
    "sets": (lambda: _with(x=[{1}] * N), "values of type set"),
    "opaque objects": (lambda: _with(x=[Opaque() for _ in range(N)]), "values of type Opaque"),
    "complex objects": (lambda: _with(x=pd.Series(_values(1.5, 2j), dtype=object)), "type complex"),
    "bytes": (lambda: _with(x=_values(b"u", b"v")), "values of type bytes"),
    "names of people": (lambda: _with(x=[f"name {i}" for i in range(N)]), "60 categories in 60 rows"),
    "10,000 categories": (
        lambda: pd.DataFrame({"x": [f"c{i // 2}" for i in range(20_000)]}),
        "10000 categories",
    ),
    "categories of one name": (lambda: _with(x=_two_of_one_name()), "one name"),
    "too far from 0": (lambda: _with(x=1e9 + np.arange(N) % 3 / 2), "single precision"),
}


@pytest.mark.parametrize("name", TABLES)
def test_malformed(name):
    """Each works as one would expect, or is refused in one sentence that names the column."""
    make, expected = TABLES[name]
    if expected in pv.data.columns.KINDS:
        table = make()
        data = pv.data.load(table)
        assert list(data.columns.of.values())[-1].kind == expected
        again = data.columns.decode(data.columns.encode(table))
        assert [str(c) for c in table.columns] == list(again.columns)
        assert (again.isna().to_numpy() == table.isna().to_numpy()).all()
        vae = pv.VAE(data.event_shapes, 2, likelihood="auto", **NETS)
        pv.fit(vae, data, epochs=1, progress=False, compile=False)
        assert np.isfinite(pv.evaluate.elbo(vae, data.test).elbo)
        drawn = pv.predict(vae, table.head(3).iloc[:, ::-1], 2)
        assert list(drawn.columns) == list(again.columns)
        assert not drawn.isna().any().any()
        plain = {"objects that are numbers", "objects, some None", "sparse"}  # which come back as float64
        for column in drawn if name not in plain else ():
            assert drawn[column].dtype == table.rename(columns=str)[column].dtype, column
        return

    def use():
        data = pv.data.load(make())
        pv.fit(pv.VAE(data.event_shapes, 2, likelihood="auto", **NETS), data, epochs=1, progress=False)

    with pytest.raises(DataError, match=expected) as refused:
        use()
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


NETS = {"encoder": pv.nets.mlp(8), "decoder": pv.nets.mlp(8)}


@pytest.mark.parametrize(
    ("value", "kind"), [(3.5, "positive"), (1.0, "integer"), (0, "integer"), (-5.0, "integer")]
)
def test_constant_columns_are_told_of(value, kind):
    """One value tells nothing of others: 1 alone is not True."""
    table = _with(x=[value] * N)
    data = pv.data.load(table)
    assert data.columns.of["x"].kind == kind
    with pytest.warns(UserWarning, match=f"constant in the training data: column x .all {value:g}"):
        pv.fit(pv.VAE(data.event_shapes, 2, likelihood="auto", **NETS), data, epochs=1, progress=False)


@pytest.mark.parametrize(("code", "size"), [(-999, 1.0), (-99, 1), (-9999, 7.5)])
def test_numbers_that_mean_not_known_are_told_of(code, size):
    """Silently they would be the column's outliers, and its other holes be filled with the like."""
    x = size * (1 + np.arange(N) % 5)
    x[::6] = code
    with pytest.warns(UserWarning, match=f"column x holds {code}, 10 times of 60, and else nothing below"):
        pv.data.load(_with(x=x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # where other values are as low it may be one of them
        pv.data.load(
            _with(x=np.linspace(0.6 * code, -code, N).round().clip(code), y=np.where(x == code, NAN, x))
        )
        pv.data.load(_with(x=np.where(x == code, code, 0.9 * code + x)))


def test_columns_twice_are_told_of():
    x = np.where(np.arange(N) % 7, np.linspace(0.1, 5.3, N), NAN)
    with pytest.warns(UserWarning, match=r"'x' and 'y' hold the same values.*drop\(columns='y'\)"):
        pv.data.load(_with(x=x, y=x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pv.data.load(_with(x=x, y=2 * x, u=np.arange(N) % 2, v=np.arange(N) % 2))


def test_rows_of_a_stranger():
    """At prediction: other order, columns missing or unknown, unseen categories, other kinds of values."""
    table = frame()
    columns = pv.data.load(table).columns
    some = table.head(3)
    assert columns.encode(some[some.columns[::-1]]).equal(columns.encode(some))
    assert columns.encode(some[["sex"]])[:, :7].isnan().all()
    assert columns.encode({"sex": ["male", None], "height": 170.0})[:, 7].isnan().tolist() == [False, True]
    assert columns.encode({"sex": torch.tensor([1.0, NAN])})[0, 7] == 1
    assert columns.encode({"sex": "male"}).shape == (1, 10)
    for given, words in (
        ({"sexe": ["male"]}, "no column 'sexe'"),
        ({"sex": ["other"]}, "no category 'other': there are female, male"),
        ({"sex": torch.tensor([2.0])}, "holds 2"),
        ({"sex": [["male"]]}, "no category|values of shape"),
        ({"height": ["tall"]}, "column height holds 'tall'"),
        ({"height": [np.inf]}, "holds inf"),
        ({"ill": [2]}, "column ill is of kind boolean, and holds 2"),
        ({"height": [1.0, 2.0], "year": [1, 2, 3]}, "differ in their number"),
        ({"height": np.zeros((2, 2))}, "values of shape"),
    ):
        with pytest.raises(DataError, match=words):
            columns.encode(given)


def test_no_names_in_the_first_row(tmp_path):
    (tmp_path / "t.csv").write_text("1,2\n3,4\n")
    with pytest.raises(DataError, match="header=None"):
        pv.data.load(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00bad")
    with pytest.raises(DataError, match="cannot be read as a table"):
        pv.data.load(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_bytes("名字,b\n河,2\n".encode("gbk"))
    with pytest.raises(DataError, match="encoding='gb18030'"):
        pv.data.load(tmp_path / "t.csv")
    for text, separator in (("a;b\n0,5;1\n1,5;2\n", "';'"), ("a\tb\n1\t2\n3\t4\n", r"'\\t'")):
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(DataError, match=f"separated by {separator}; .*decimal=','"):
            pv.data.load(tmp_path / "t.csv")
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read as a table"):
        pv.data.load(tmp_path / "t.parquet")


def test_amounts():
    """0 often, and else positive: no density of reals, which would rise without bound at 0."""
    random = np.random.default_rng(0)
    rain = np.where(random.random(400) < 0.6, 0.0, random.lognormal(1.0, 0.5, 400))
    table = pv.data.load(pd.DataFrame({"rain": rain, "depth": rain + random.normal(size=400)}))
    assert [column.kind for column in table.columns.of.values()] == ["amount", "real"]
    rare = np.where(np.arange(400) == 3, 0.0, random.lognormal(1.0, 0.5, 400))
    assert pv.data.load(pd.DataFrame({"x": rare})).columns.of["x"].kind == "real"
    nets = {"encoder": pv.nets.mlp(8), "decoder": pv.nets.mlp(8)}
    vae = pv.VAE(table.event_shapes, 2, likelihood="auto", **nets)
    pv.fit(vae, table, epochs=60, lr=1e-2, progress=False)
    drawn = pv.predict(vae, pd.DataFrame({"depth": [np.nan]}), num_samples=2000)["rain"]
    assert (drawn == 0).mean() == pytest.approx(0.6, abs=0.08)
    assert np.log(drawn[drawn > 0]).mean() == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("name", ["a\nb", "x" * 5000, "\x1b[2J"])
def test_names_of_strangers(tmp_path, name):
    """One sentence on one line, whatever the name of the column that it is about."""
    frame = pd.DataFrame({name: [None, None], "other": [1.5, 2.5]})
    with pytest.raises(DataError) as error:
        pv.data.load(frame)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500


def test_a_table_too_large_for_the_memory(tmp_path, monkeypatch):
    """A small page of a .parquet file stands for many equal rows; they are counted first."""
    monkeypatch.setattr("pyro_vae.data.tables.memory", lambda: 800.0)
    frame = pd.DataFrame({"x": np.linspace(0.0, 1.0, 100)})
    frame.to_parquet(tmp_path / "t.parquet")
    pv.data.load(tmp_path / "t.parquet")
    pd.concat([frame, frame], ignore_index=True).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="more than half of the memory; read it as it is needed, stream=True"):
        pv.data.load(tmp_path / "t.parquet", stream=False)
    assert isinstance(pv.data.load(tmp_path / "t.parquet").train.sources["x"], Streamed)


def test_a_family_for_a_column():
    """The user's choice for some columns, and what is said of one that will not do."""
    data = pv.data.load(frame(holes=True))
    vae = pv.VAE(data.event_shapes, 2, likelihood={"height": dist.StudentT, "visits": dist.Poisson}, **NETS)
    family = vae.p_x.family
    assert [family.family_of(j).name for j in (0, 2, 4)] == ["StudentT", "LogNormal", "Poisson"]
    with pytest.raises(DataError, match="no column 'hight'"):
        pv.VAE(data.event_shapes, likelihood={"hight": dist.StudentT})
    with pytest.raises(ValueError, match="is for tables"):
        pv.VAE((3,), likelihood="auto")
    bad = pv.VAE(data.event_shapes, 2, likelihood={"change": dist.LogNormal}, **NETS)
    with pytest.raises(DataError, match=r"values of column change lie outside .*'change': dist.StudentT"):
        pv.fit(bad, data, epochs=1, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pv.fit(vae, data, epochs=1, progress=False, compile=False)


@pytest.mark.parametrize(
    ("value", "mend"),
    [("4000", r"astype\(float\)"), ("40,5", 'decimal=","'), ("none", 'errors="coerce"')],
)
def test_texts_among_numbers(value, mend):
    """Each has a mend that loses no number."""
    table = pv.data.load(pd.DataFrame({"x": [1.5, 2.5, 3.5], "y": [0.1, -0.2, 0.3]}))
    vae = pv.VAE(table.event_shapes, 1, likelihood="auto", encoder=pv.nets.mlp(4), decoder=pv.nets.mlp(4))
    with pytest.raises(DataError, match=mend):
        pv.predict(vae, pd.DataFrame({"x": [value]}))


def test_levels_that_a_column_does_not_have():
    table = pv.data.load(pd.DataFrame({"rate": [1, 2, 3, 5, 4] * 4, "y": np.linspace(-1, 1, 20)}))
    with pytest.raises(DataError, match="levels 0 to 255; make it categories"):
        pv.VAE(table.event_shapes, 1, likelihood={"rate": pv.likelihoods.Categorical})
    pv.VAE(table.event_shapes, 1, likelihood={"rate": pv.likelihoods.Categorical(6)})
    vae = pv.VAE(table.event_shapes, 1, likelihood="auto")
    with pytest.raises(ValueError, match=r"Ordinal needs to know levels: Ordinal\(levels=...\)"):
        pv.VAE(table.event_shapes, 1, likelihood={"rate": pv.likelihoods.Ordinal})
    with pytest.raises(TypeError, match=r"not 'Gamma'; likelihood=pv.likelihoods.Gamma\(\)"):
        pv.VAE(table.event_shapes, 1, likelihood={"y": "Gamma"})
    with pytest.raises(ValueError, match=r"none is left to be modelled; .* given=\['rate'\]"):
        pv.ConditionalVAE(table.event_shapes, given=["rate", "y"], likelihood="auto")
    with pytest.raises(TypeError, match=r"frame.iloc\[\[0\]\]"):
        pv.predict(vae, pd.Series({"rate": 1.0}))
