"""A report opens by itself, says all that it was asked, and fails in one section at most."""

import re
from html.parser import HTMLParser

import pytest
import torch

import pyro_vae as pv
from pyro_vae import cli
from pyro_vae.report import page, sections

NETS = {"encoder": pv.nets.mlp(8), "decoder": pv.nets.mlp(8)}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """What is costly, on few data."""
    for name, value in {
        "CERTIFIED": 3,
        "DIVIDED": 3,
        "SIMULATED": 20,
        "WORST": 3,
        "TEMPERATURES": 4,
        "CHAINS": 2,
        "STEPS": 4,
    }.items():
        monkeypatch.setattr(sections, name, value)


class Page(HTMLParser):
    """Titles, links, and texts by class."""

    def __init__(self, text):
        super().__init__()
        self.links, self.told, self.open, self.tags = [], [], None, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        own = dict(attributes)
        self.tags.append(tag)
        self.links += [own[name] for name in ("src", "href") if name in own]
        if "told" in own.get("class", ""):
            self.told.append("")
            self.open = tag

    def handle_endtag(self, tag):
        self.open = None if tag == self.open else self.open

    def handle_data(self, data):
        if self.open:
            self.told[-1] += data


def read(path):
    text = path.read_text("utf-8")
    found = Page(text)
    assert not [link for link in found.links if not link.startswith(("data:image/png;base64,", "#"))]
    assert not {"script", "link", "iframe"} & set(found.tags)
    assert not [t for t in found.told if t.startswith("This section failed")]
    return text, found


def trained(program, data, folder=None):
    return pv.fit(program, data, epochs=1, progress=False, folder=folder)


def make(kind, digits):
    shape = digits.event_shape
    if kind == "conditional":
        return pv.ConditionalVAE(shape, given={"y": 10}, latent_dim=2, **NETS)
    if kind == "levels":
        return pv.HierarchicalVAE(shape, (2, 2), between=pv.nets.mlp(8), **NETS)
    return pv.VAE(shape, 2, **NETS)


@pytest.mark.parametrize("kind", ["plain", "conditional", "levels"])
def test_every_section_is_there_of_every_program(kind, digits, tmp_path):
    run = trained(make(kind, digits), digits)
    path = pv.report(run, output=tmp_path / "r.html", num_data=20, num_samples=5, progress=False)
    text, found = read(path)
    for section in sections.SECTIONS:
        assert f"<h2>{section.title}</h2>" in text
    assert not [t for t in found.told if t.startswith("Not of this program")]
    assert found.tags.count("img") >= 7
    for name in ("ELBO", "log p(x)", "both bounds", "approximation", "calibration", "active latents"):
        assert name in text.split("<h2>The model</h2>")[0]


def test_two_runs_are_side_by_side(digits, tmp_path):
    torch.manual_seed(0)
    first, second = (tmp_path / name for name in ("one", "<two>"))
    for folder in (first, second):
        trained(pv.VAE(digits.event_shape, 2, **NETS), digits, folder)
    path = pv.report(first, second, output=tmp_path / "r.html", num_data=20, num_samples=5, progress=False)
    text, _ = read(path)
    assert "<two>" not in text
    assert "&lt;two&gt;" in text
    differences = []
    for folder in (first, second):
        data = digits.test.batch(slice(0, 20))
        differences.append(pv.evaluate.log_likelihood(pv.load(folder), data, num_samples=5).per_datum)
    d = differences[1] - differences[0]
    assert f"{d.mean():+.2f} ± {d.std() / 20**0.5:.2f}" in text


def test_a_table_is_reported_on(tmp_path):
    pd = pytest.importorskip("pandas")
    random = torch.Generator().manual_seed(0)
    z = torch.randn(200, generator=random).numpy()
    frame = pd.DataFrame({"height": 170 + 10 * z, "visits": (z > 0) * 3 + 1, "sort": ["a", "b"] * 100})
    frame.loc[::7, "height"] = None
    data = pv.data.load(frame)
    run = trained(pv.VAE(data.event_shapes, 2, likelihood="auto", **NETS), data)
    path = pv.report(run, output=tmp_path / "r.html", num_data=20, num_samples=5, progress=False)
    text, _ = read(path)
    worst = text.split("Explained worst")[1]
    assert re.search(r"<th>visits</th>", worst)


def test_what_cannot_be_asked_is_said(digits, tmp_path, monkeypatch):
    def refuses(subject):
        raise ValueError("no such thing, <b>")

    def breaks(subject):
        raise KeyError("broken")

    monkeypatch.setattr(
        page,
        "SECTIONS",
        (sections.Section("One", "?", refuses), sections.Section("Two", "?", breaks), *sections.SECTIONS[:2]),
    )
    path = pv.report(trained(make("plain", digits), digits), output=tmp_path / "r.html", progress=False)
    text = path.read_text()
    assert "Not of this program: no such thing, &lt;b&gt;" in text
    assert "This section failed: KeyError: &#39;broken&#39;" in text
    assert "<h2>Training</h2>" in text


def test_wrong_use_is_refused(digits, tmp_path):
    run = trained(make("plain", digits), digits)
    with pytest.raises(pv.checks.ConfigError, match=r"report\.html"):
        pv.report(run, output=tmp_path / "r.pdf")
    other = pv.data.load(digits.train[:50], validation=0.0)
    with pytest.raises(pv.data.DataError, match="different data"):
        pv.report(run, trained(make("plain", digits), other), output=tmp_path / "r.html")
    assert not list(tmp_path.iterdir())


def test_on_the_command_line(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--epochs", "1", "--latent-dim", "2", "--folder", "run", "--encoder", "mlp(8)"]
    assert cli.main(["train", *options]) == 0
    assert cli.main(["report", "run", "--num-data", "10", "--num-samples", "4"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "run/report.html"
    read(tmp_path / "run" / "report.html")
