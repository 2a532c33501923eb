"""Labels that ``pyro-vae predict`` fills: the right ones, as the file has those that are there."""

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_vae as pv
from pyro_vae.cli import _num_classes, _right, main
from pyro_vae.data import DataError
from pyro_vae.filling import fill

# Of a program that was not trained.
pytestmark = pytest.mark.filterwarnings("ignore:the effective sample size")
NUMBER = np.arange(60) % 3
HIDDEN = np.arange(60) % 4 > 0


def _knows(data):
    """A program whose classifier is right of classes that are far apart, in their first column."""
    torch.manual_seed(0)
    line = dict.fromkeys(("classifier", "encoder", "decoder"), pv.nets.mlp())
    shape, kind = (data.columns, "auto") if data.columns else ((2,), pv.likelihoods.Normal())
    vae = pv.SemiSupervisedVAE(shape, num_classes=3, latent_dim=1, likelihood=kind, **line)
    vae.initialize(data.train)
    (see,), layer = vae.q_y.seen, vae.q_y.net.layers[0]
    centres = see(torch.tensor([[0.0, 0.0], [10.0, 0.0], [20.0, 0.0]])).detach()[:, 0]
    with torch.no_grad():
        layer.weight[:, 0], layer.weight[:, 1], layer.bias[:] = 50 * centres, 0.0, -25 * centres.square()
    return vae.eval()


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(0)
    return np.stack([10 * NUMBER + random.normal(size=60), random.normal(size=60)], 1).astype("float32")


@pytest.fixture(scope="module")
def of_table(rows):
    frame = pd.DataFrame(rows, columns=["a", "b"]).assign(kind=np.where(HIDDEN, np.nan, NUMBER))
    return _knows(pv.data.load(frame, labels="kind", validation=0.0, test=0.0))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(
    ("names", "dtype"),
    [
        (["c", "a", "b"], "object"),
        (["c", "a", "b"], "category"),
        (["c", "9", "10"], "object"),
        ([0, 1, 2], "float64"),
        ([-1, 3, 10], "Int64"),
        ([1, 2, 3], "category"),
        ([False, True], "boolean"),
    ],
)
def test_labels_of_a_table(of_table, rows, tmp_path, suffix, names, dtype):
    """Holes are filled with the class, and the column is what it was, of whatever type."""
    some = len(names) > NUMBER
    of_table.class_names = None if names == [0, 1, 2] else tuple(map(str, names))
    truth = pd.Series([names[k] for k in NUMBER[some]], dtype=dtype)
    frame = pd.DataFrame(rows[some], columns=["a", "b"])
    known = ~HIDDEN[some] & (truth != names[-1]).to_numpy()  # of one class none is
    frame.insert(1, "kind", truth.where(known))
    path, output = tmp_path / f"t{suffix}", tmp_path / f"filled{suffix}"
    frame.to_csv(path, index=False) if suffix == ".csv" else frame.to_parquet(path, index=False)
    fill(of_table, path, output, 5, labels="kind", num_particles=50)
    read = pd.read_csv if suffix == ".csv" else pd.read_parquet
    before, after = read(path), read(output)
    assert list(after.columns) == ["a", "kind", "b"]
    assert after["kind"].tolist() == truth.tolist()
    if suffix == ".parquet" and dtype != "category":  # which has a category more
        assert after["kind"].dtype == before["kind"].dtype


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_without_labels(of_table, rows, tmp_path, suffix):
    """Be the column all holes, or not there."""
    of_table.class_names = ("c", "a", "b")
    read = pd.read_csv if suffix == ".csv" else pd.read_parquet
    for more in ({"kind": np.full(60, np.nan)}, {"kind": [None] * 60}, {}):
        frame = pd.DataFrame(rows, columns=["a", "b"]).assign(**more)
        path, output = tmp_path / f"t{suffix}", tmp_path / f"filled{suffix}"
        frame.to_csv(path, index=False) if suffix == ".csv" else frame.to_parquet(path, index=False)
        fill(of_table, path, output, 5, labels="kind", num_particles=50)
        assert read(output)["kind"].tolist() == [of_table.class_names[k] for k in NUMBER]
        output.unlink()


def test_draws_of_labels(of_table, rows, tmp_path):
    """Those that are there stay in each table; a class that has no name is its number."""
    of_table.class_names = ("c", "a")
    frame = pd.DataFrame(rows, columns=["a", "b"]).assign(kind=np.where(NUMBER == 1, "a", None))
    frame.to_csv(tmp_path / "t.csv", index=False)
    fill(of_table, tmp_path / "t.csv", tmp_path / "all.csv", 7, labels="kind", draws=True, num_particles=50)
    made = pd.read_csv(tmp_path / "all.csv")
    assert len(made) == 7 * 60
    assert (made["kind"] == "a")[np.tile(NUMBER == 1, 7)].all()
    assert set(made["kind"]) <= {"c", "a", "2"}
    frame.assign(kind="d").to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(DataError, match="kind has d, and the model knows c, a, 2"):
        fill(of_table, tmp_path / "other.csv", tmp_path / "more.csv", 7, labels="kind")


def test_what_a_conditional_model_is_given_is_read(rows, tmp_path):
    """Its labels are those of the file, by their names, and stay empty where they are not known."""
    torch.manual_seed(0)
    columns = pv.data.load(pd.DataFrame(rows, columns=["a", "b"])).columns
    small = dict.fromkeys(("encoder", "decoder"), pv.nets.mlp(8))
    vae = pv.ConditionalVAE(columns, given={"y": 3}, latent_dim=1, likelihood="auto", **small).eval()
    vae.class_names = ("c", "a", "b")
    frame = pd.DataFrame({"kind": ["c", "a", None, "c"], "a": np.nan, "b": 0.5})
    frame.to_csv(tmp_path / "t.csv", index=False)
    fill(vae, tmp_path / "t.csv", tmp_path / "f.csv", 9, labels="kind", num_particles=50)
    made = pd.read_csv(tmp_path / "f.csv")
    assert made["kind"].isna().tolist() == [False, False, True, False]
    by_name = {"b": [0.5] * 4, "y": torch.tensor([0.0, 1.0, np.nan, 0.0])}
    found = pv.predict(vae, by_name, 9, num_particles=50)
    np.testing.assert_allclose(made["a"], found.mean("a"), rtol=1e-5)
    other = pv.predict(vae, by_name | {"y": torch.tensor([2.0, 2.0, 2.0, 2.0])}, 9, num_particles=50)
    assert not np.isclose(made["a"], other.mean("a"), rtol=1e-5).any()


@pytest.mark.parametrize("labels", ["none", "numbers", "names"])
def test_labels_of_arrays(rows, tmp_path, labels):
    """Of a .npz file: those that are there stay, others are filled, and y is added where there is none."""
    program = _knows(pv.data.load({"x": rows, "y": NUMBER}, validation=0.0, test=0.0))
    names = np.array(["c", "a", "b"])
    program.class_names = tuple(names.tolist()) if labels != "numbers" else None
    x = np.where(np.arange(120).reshape(60, 2) % 9 == 1, np.nan, rows)  # of the second column alone
    x[:, 0] = rows[:, 0]
    y = {"numbers": {"y": np.where(HIDDEN, np.nan, 2.0)}, "names": {"y": names[NUMBER]}}.get(labels, {})
    np.savez(tmp_path / "t.npz", x=x, **y)
    fill(program, tmp_path / "t.npz", tmp_path / "filled.npz", 5, num_particles=50)
    made = np.load(tmp_path / "filled.npz")
    np.testing.assert_array_equal(made["x"][~np.isnan(x)], x[~np.isnan(x)])
    assert not np.isnan(made["x"]).any()
    if labels == "numbers":  # which are wrong, and stay
        np.testing.assert_array_equal(made["y"], np.where(HIDDEN, NUMBER, 2))
    else:
        assert made["y"].tolist() == names[NUMBER].tolist()


def test_pictures_are_what_the_program_was_trained_on(tmp_path):
    """Bytes are divided, and grey values binarised, as they were; what is there stays."""
    torch.manual_seed(0)
    small = dict.fromkeys(("classifier", "encoder", "decoder"), pv.nets.mlp(4))
    vae = pv.SemiSupervisedVAE((1, 4, 4), num_classes=3, latent_dim=2, **small).eval()
    bytes_ = np.random.default_rng(0).integers(0, 256, (5, 4, 4)).astype(np.uint8)
    np.savez(tmp_path / "t.npz", x=bytes_)
    fill(vae, tmp_path / "t.npz", tmp_path / "f.npz", 5, binarize="threshold", num_particles=50)
    made = np.load(tmp_path / "f.npz")
    np.testing.assert_array_equal(made["x"][:, 0], bytes_)
    binary = torch.from_numpy(bytes_ > 127).float()[:, None]
    assert made["y"].tolist() == vae.classify(binary).argmax(1).tolist()


def test_right_of_those_that_have_a_label(rows):
    """The line that training prints: of 15 held-out labels here 5 are wrong; and of none there is nothing."""
    program = _knows(pv.data.load({"x": rows, "y": NUMBER}, validation=0.0, test=0.0))
    y = torch.from_numpy(np.where(HIDDEN, np.nan, np.where(NUMBER == 2, 0, NUMBER)))
    wrong = (~HIDDEN & (NUMBER == 2)).sum()
    told = f"q(y|x) is right of {1 - wrong / 15:.1%} of 15 data that have a label"
    assert _right(program, pv.data.Split({"x": rows, "y": y})) == told
    assert _right(program, pv.data.Split({"x": rows, "y": y * np.nan})) == ""
    assert _right(program, pv.data.Split({"x": rows})) == ""


@pytest.mark.parametrize(
    ("labels", "number"),
    [
        ([0, 1, 2, 1], 3),
        ([0.0, np.nan, 4.0, 2.0] * 2, 5),
        (["b", "a", "c", None], 3),
        ([np.nan] * 4, 0),
        ([0, 1, 2, 10**9], 0),
        (None, 0),
    ],
)
def test_number_of_classes_is_that_of_the_data(labels, number):
    x = np.zeros((4 if labels is None else len(labels), 2), "float32")
    assert _num_classes(pv.data.load(x, labels=labels, validation=0.0, test=0.0)) == number


def test_labels_of_one_class_are_refused(rows, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame(rows, columns=["a", "b"])
    for label, told in (("Gentoo", "Gentoo"), (0, "0"), (4, "4")):
        frame.assign(kind=label).to_csv("t.csv", index=False)
        assert main(["train", "--data", "t.csv", "--labels", "kind", "--model", "SemiSupervisedVAE"]) == 2
        assert f"all labels are {told}; give some of another class" in capsys.readouterr().err


def test_a_number_that_names_a_class(of_table, monkeypatch):
    """On the command line it is its name, as in the file; in Python it is the class's number."""
    drawn = []
    of_table.class_names = ("1", "2", "4")
    monkeypatch.setattr("pyro_vae.drawn.open_program", lambda run, trust: of_table)
    monkeypatch.setattr("pyro_vae.drawn.keep", lambda *given: None)
    monkeypatch.setattr(
        "pyro_vae.drawn.figures.samples", lambda program, number, given, seed: drawn.append(given)
    )
    for text in ("y=2", "y=4", "y=0"):
        assert main(["sample", "run", "--given", text]) == 0
    assert [of_table.generate(1, given)["y"].item() for given in drawn] == [1, 2, 0]
