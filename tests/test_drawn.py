"""Every kind of program goes through the command line to its last line, with pictures of its own."""

import math
import os

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_wine

from pyro_vae.cli import main

SLOW = pytest.mark.slow
ALWAYS = {"summary", "training", "samples", "reconstructions"}
VARIED = {"latents", "traversals"}
KINDS = {
    "few-labels": (["--data", "few.npz", "--model", "SemiSupervisedVAE", "--features", "3"], {"styles"}),
    "table": (["--data", "wine.csv", "--labels", "class", "--model", "SemiSupervisedVAE"], {"styles"}),
    "one-of-ten": (["--prior", "OneHotCategorical(10)", "--latent-dim", "10"], {"latents", "clusters"}),
    "bits": (["--prior", "Bernoulli()", "--latent-dim", "4"], {"latents"}),
    "codes": (["--prior", "Codes(16, code_dim=4)", "--latent-dim", "8"], {"latents", "codes"}),
    "mixture": (["--prior", "MixtureOfNormals(4)"], VARIED | {"clusters"}),
    "plane": (["--latent-dim", "2"], VARIED | {"manifold"}),
    "series": (
        ["--data", "series.npy", "--model", "SequentialVAE", "--latent-dim", "2", "--likelihood", "Normal"],
        {"forecast"},
    ),
    "ladder": (["--model", "HierarchicalVAE", "--latent-dims", "6", "3", "--skip", "true"], {"levels"}),
    "bayesian": (["--decoder", "bayesian(mlp(20))"], VARIED),
    "refined": (["--guide", "SemiAmortised(Normal())"], VARIED),
}


def _files():
    random = np.random.default_rng(0)
    y = np.full(300, math.nan, "float32")
    y[:60] = np.arange(60) % 10
    np.savez("few.npz", x=random.integers(0, 2, (300, 1, 8, 8)).astype("float32"), y=y)
    wine = load_wine(as_frame=True).frame.rename(columns={"target": "class"})
    wine["class"] = wine["class"].map({0: "a", 1: "b", 2: "c"}).where(np.arange(len(wine)) % 3 == 0)
    wine.to_csv("wine.csv", index=False)
    phase = np.arange(12) * 0.5 + random.uniform(0, 6, (200, 1))
    np.save("series.npy", np.sin(phase)[..., None].astype("float32"))


FAST = ("few-labels", "one-of-ten", "table")


@pytest.mark.filterwarnings("ignore::pyro_vae.program.DataWarning")  # of codes that few data use
@pytest.mark.parametrize("kind", [pytest.param(k, marks=[] if k in FAST else SLOW) for k in KINDS])
def test_trained_and_drawn(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _files()
    options, own = KINDS[kind]
    assert main(["train", *options, "--epochs", "1", "--folder", "run"]) == 0
    assert {entry.name.removesuffix(".png") for entry in os.scandir("run/figures")} == ALWAYS | own
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1].startswith("pyro-vae ")
    assert ("q(y|x) is right of" in printed) == ("SemiSupervisedVAE" in options)


@pytest.mark.filterwarnings("ignore:the effective sample size")
def test_labels_are_filled(tmp_path, monkeypatch, capsys, undrawn):
    """Those that are there stay, and a class that the model does not know is refused."""
    monkeypatch.chdir(tmp_path)
    _files()
    options = ["--epochs", "60", "--lr", "5e-3", "--latent-dim", "2", "--folder", "run"]
    options += ["--encoder.hidden_dims", "[64]", "--decoder.hidden_dims", "[64]"]
    assert main(["train", *KINDS["table"][0], *options]) == 0
    os.rename("wine.csv", "new.csv")  # without what it was trained on
    assert main(["predict", "run", "--data", "new.csv", "--num-samples", "20"]) == 0
    before, after = pd.read_csv("new.csv"), pd.read_csv("filled.csv")
    known = before["class"].notna()
    assert after["class"].isin(list("abc")).all()
    assert (after["class"] == before["class"])[known].all()
    truth = pd.Series(load_wine().target).map({0: "a", 1: "b", 2: "c"})
    assert (after["class"] == truth)[~known].mean() > 0.8
    before.assign(**{"class": "d"}).to_csv("other.csv", index=False)
    assert main(["predict", "run", "--data", "other.csv", "--output", "more.csv"]) == 2
    assert "class has d, and the model knows a, b, c" in capsys.readouterr().err
