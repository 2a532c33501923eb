"""The benchmark's peers do the same work: from the same start they learn the same."""

import importlib
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import pyro_vae as pv

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("peers")


@pytest.mark.slow
def test_peers_converge_to_the_same(peers, digits):
    worker = importlib.import_module("worker")

    def hidden():
        return pv.nets.mlp(16, activation=nn.Softplus)

    setting = peers.Setting(digits, "", torch.device("cpu"), batch_size=100, latent_dim=3, hidden=hidden)
    elbos = {}
    for name, maker in peers.STEPS.items():
        try:
            peer = maker(setting)
        except ImportError:  # NumPyro, which need not be installed
            continue
        for number in range(15):
            peer.epoch(number)
        elbos[name] = worker.test_elbo(peer, setting)
    assert {"ours, float32", "ours, bf16", "PyTorch by hand, fused Adam"} <= elbos.keys()
    expected = elbos["PyTorch by hand, fused Adam"]
    assert expected > -30  # from -44.4, that of guessing
    for name, elbo in elbos.items():
        assert elbo == pytest.approx(expected, abs=0.5), name


@pytest.mark.slow
def test_the_claims_are_measured_in_processes_of_their_own(peers, mnist_dir, monkeypatch, capsys):
    speed = importlib.import_module("speed")
    options = ["--data-dir", str(mnist_dir), "--rounds", "1", "--threads", "1", "--size", "2560"]
    monkeypatch.setattr("sys.argv", ["speed.py", *options])
    speed.main()
    out = capsys.readouterr().out
    for claim in ("Pyro's official way / ours", "step, ours / float32 products", "K = 5000, ours"):
        assert re.search(claim + r".*\| [0-9.]+ \(", out), claim


@pytest.mark.slow
def test_missing_pixels_are_tabled(monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    missing_pixels = importlib.import_module("missing_pixels")
    options = ["--data", "digits", "--epochs", "1", "--num-samples", "5"]
    monkeypatch.setattr("sys.argv", ["missing_pixels.py", *options])
    missing_pixels.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows[1:]] == [
        "complete",
        "50 % missing",
        "50 % missing, guide complete",
        "0 where missing",
    ]
    assert Path("runs/missing_pixels/missing_pixels.png").exists()


@pytest.mark.slow
def test_parts_are_tabled(monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    parts = importlib.import_module("parts")
    options = ["parts.py", "--data", "digits", "--epochs", "1", "--num-samples", "2", "--figure", "parts.png"]
    monkeypatch.setattr("sys.argv", options)
    parts.main()
    out = capsys.readouterr().out
    for part in (*parts.likelihoods(17), *parts.priors()[2:]):
        assert f"| {part!r} | -" in out
    assert Path("parts.png").stat().st_size > 1000


def test_examples_are_run_and_tabled(monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    examples = importlib.import_module("examples")
    monkeypatch.setenv("COURSE_SIZE", "0.02")
    monkeypatch.setattr("sys.argv", ["examples.py", "--only", "01_bayes", "--thumbnails", "."])
    examples.main()
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "01_bayes" in line]
    assert examples.TELLS.search(row)
    assert Path("runs/examples/01_bayes_rule.txt").exists()
    assert Path("01_bayes_rule.png").stat().st_size > 1000


def test_structures_are_tabled_and_gone_on_with(monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    structures = importlib.import_module("structures")
    options = ["structures.py", "--data", "digits", "--epochs", "1", "--num-samples", "2"]
    monkeypatch.setattr("sys.argv", options)
    structures.main()
    first = capsys.readouterr().out
    assert first.count("epoch 1/1") == 5
    structures.main()
    again = capsys.readouterr().out
    assert "epoch 1/1" not in again
    tables = [re.findall(r"^\| .*", out, re.MULTILINE) for out in (first, again)]
    assert tables[0] == tables[1]
    assert sum(row.startswith(("| VAE | -", "| ConditionalVAE | -")) for row in tables[0]) == 2
    assert sum(row.startswith("| two levels, 40 and 20, ") for row in tables[0]) == 2
    assert sum(" + " in row for row in tables[0]) == 2  # a number for each level


def test_rows_of_other_tables_are_told_apart_and_teach_less(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    draws = importlib.import_module("draws")
    random = np.random.default_rng(0)
    kind = random.integers(0, 3, 400)
    frame = pd.DataFrame({"size": kind + 0.1 * random.normal(size=400), "kind": np.array(list("abc"))[kind]})
    data = pv.data.load(frame, validation=0.0, test=0.25)
    train, real = (part.batch(slice(None))["x"] for part in (data.train, data.test))
    assert draws.features(real, data.columns).shape == (100, 4)
    shuffled = torch.stack([train[torch.randperm(len(train)), 0], train[:, 1]], 1)
    monkeypatch.setattr(draws, "REPEATS", 2)
    monkeypatch.setattr(draws, "TREES", 20)
    same, other = (
        draws.told_apart(*(draws.features(rows, data.columns) for rows in (drawn, real)))
        for drawn in (train, shuffled)
    )
    assert same == pytest.approx(0.5, abs=0.1)
    assert other > 0.7
    taught, untaught = (draws.learned_from(drawn, real, data.columns, "kind") for drawn in (train, shuffled))
    assert taught > 97
    assert untaught < 60


def test_cells_are_compared_with_those_of_the_same_totals(monkeypatch):
    pytest.importorskip("scanpy")
    monkeypatch.syspath_prepend(BENCHMARKS)
    cells = importlib.import_module("cells")
    rows = {
        name: [{"log_p": log_p + more, "accuracy": 80.0, "rand": 0.5, "seconds": 9.0} for more in (0.0, 2.0)]
        for name, log_p in {
            "CountVAE": -600.0,
            "CountVAE, observed total": -500.0,
            "scvi-tools": -610.0,
            "scvi-tools, observed total": -495.0,
        }.items()
    }
    told = [[cell.strip() for cell in line.split("|")[1:4]] for line in cells.table(rows).splitlines()[2:]]
    assert told == [
        ["CountVAE", "-599.0 ± 1.0", ""],
        ["scvi-tools", "-609.0 ± 1.0", "-10.0 ± 0.0"],
        ["CountVAE, observed total", "-499.0 ± 1.0", ""],
        ["scvi-tools, observed total", "-494.0 ± 1.0", "+5.0 ± 0.0"],
    ]


def test_certificates_are_printed(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    certificate = importlib.import_module("certificate")
    pv.fit(pv.VAE(digits.event_shape, 2), digits, epochs=1, folder=tmp_path / "run", progress=False)
    few = ["--num-data", "4", "--num-samples", "5", "--num-temperatures", "4"]
    monkeypatch.setattr("sys.argv", ["certificate.py", str(tmp_path / "run"), *few])
    certificate.main()
    out = capsys.readouterr().out
    assert len(re.findall(r"^(?:annealed|ten|importance).*: [+-]\d+\.\d\d ± \d", out, re.MULTILINE)) == 4


def test_records_are_tabled(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    records = importlib.import_module("records")
    options = ["--data", "digits", "--epochs", "1", "--num-samples", "2", "--num-images", "5"]
    monkeypatch.setattr(
        "sys.argv", ["records.py", *options, "--folder", str(tmp_path), "--rows", "gated, VampPrior(500)"]
    )
    fit = pv.fit
    monkeypatch.setattr(pv, "fit", lambda *args, compile, **settings: fit(*args, **settings))
    records.main()
    (row,) = re.findall(r"^\| gated.*", capsys.readouterr().out, re.MULTILINE)
    assert re.search(r"\| 82\.43 .* \| \d+\.\d\d ± \d+\.\d\d \| 1 \| \d+ \|", row)


def test_codes_cost_less_given_those_before(monkeypatch):
    """A code that repeats the one before it costs nothing more; one that knows nothing of it, all of it."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    following = importlib.import_module("codes").following
    torch.manual_seed(0)
    one, other = torch.randint(8, (2, 3000))
    alike = torch.zeros(2, 8).log_softmax(-1)
    for second, expected in ((one, torch.tensor(8.0).log()), (other, 2 * torch.tensor(8.0).log())):
        parts = torch.stack([one, second], 1).split([2000, 500, 500])
        assert following(alike, *parts) == pytest.approx(expected.item(), abs=0.05)
