"""A run tells in its README.md what it is, in a form that model hubs read."""

import re
from pathlib import Path

import cases
import pytest
import yaml

import pyro_vae as pv
from pyro_vae import card, checkpoint


@pytest.fixture
def run(digits):
    pv.fit(pv.VAE(digits.event_shape, 2, **cases.SMALL), digits, epochs=1, folder="one", progress=False)
    return Path("one")


def parts(text):
    _, about, body = text.split("---\n", 2)
    return yaml.safe_load(about), body


def test_what_it_says(run):
    about, body = parts((run / "README.md").read_text())
    assert about["library_name"] == "pyro_vae"
    assert about["datasets"] == ["digits"]
    assert "VAE" in about["tags"]
    row = pv.load(run), (run / "history.csv").read_text().splitlines()
    last = dict(zip(row[1][0].split(","), row[1][-1].split(","), strict=True))
    found = about["model-index"][0]["results"][0]["metrics"]
    assert found[0] == {
        "type": "elbo",
        "name": "ELBO of validation data, nats per datum",
        "value": float(last["validation_elbo"]),
    }
    assert f"{float(last['validation_elbo']):.2f} nats per datum, densities w.r.t. counting measure" in body
    names: dict = {}
    exec(body.split("```python\n")[1].split("```")[0], names)
    assert names["draws"]["x"].shape == (10, 1, 8, 8)


def test_further_numbers_and_ones_own_text(run):
    """Numbers that are measured later are in it; a README of one's own is left alone."""
    values, program = checkpoint.read_config(run), pv.load(run)
    card.write(run, values, program, "test: log p(x) -20.00 (K = 100)")
    assert "- test: log p(x) -20.00 (K = 100)" in (run / "README.md").read_text()
    (run / "README.md").write_text("my own")
    card.write(run, values, program)
    assert (run / "README.md").read_text() == "my own"


def test_nothing_breaks_out(run):
    """What a configuration says stays within its block, and in one line."""
    values = checkpoint.read_config(run) | {"data": "a/b\n---\nlicense: mit\n```", "encoder": "```\n# x"}
    about, body = parts(card.text(run, values, pv.load(run)))
    assert about["license"] == "unknown"
    assert "/" not in about["datasets"][0]
    assert body.count("```") == 4
    assert not any(line.startswith("# x") for line in body.splitlines())


HOSTILE = "a`b`: {c} - # <img src=x onerror=e>[d](http e)*_f_*|g&amp;$h$\u202e\n---\nlicense: mit\n# i'\""


def test_names_are_shown_as_they_are(run):
    """A run's folder and its data may be called anything: YAML, Markdown, HTML and Python say just that."""
    renamed = run.rename(HOSTILE)
    values = checkpoint.read_config(renamed) | {"data": HOSTILE}
    card.write(renamed, values, pv.load(renamed), HOSTILE)
    about, body = parts((renamed / "README.md").read_text())
    line = " ".join(HOSTILE.replace("\u202e", "").split())
    assert about["license"] == "unknown"
    assert about["model-index"][0]["name"] == about["datasets"][0] == line
    (title,) = re.findall("^# (.*)$", body.split("```")[0], re.MULTILINE)
    assert title.replace("\\", "") == f"{line}: a VAE of {line}"
    for shown in (title, re.findall("^- (.*)$", body, re.MULTILINE)[-1]):
        assert not re.search(r"(?<!\\)[`*_<\[\]&|$]", shown)
    names: dict = {}
    exec(body.split("```python\n")[1].split("```")[0], names)
    assert names["draws"]["x"].shape == (10, 1, 8, 8)


def test_numbers_are_those_of_the_weights(run):
    """With patience the weights of the best epoch are kept, and the card has the numbers of that one."""
    program, values = pv.load(run), checkpoint.read_config(run)
    rows = ["epoch,elbo,validation_elbo", "1,-9,-10", "2,-28,-30", "3,-18,-20", "4,-19,", "5,-14,-25"]
    (run / "history.csv").write_text("\n".join(rows[:4] + rows[5:]))
    told = card.text(run, values | {"patience": 2, "warmup_epochs": 1}, program)
    assert "validation data: -20.00 nats" in told
    assert "training data, in epoch 3: -18.00" in told
    assert "validation data: -25.00 nats" in card.text(run, values, program)
    (run / "history.csv").write_text("\n".join(rows[:5]))
    assert "validation data" not in card.text(run, values, program)
