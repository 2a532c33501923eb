"""A report opens by itself, says all that it was asked, and fails in one section at most."""

import functools
import re
from html.parser import HTMLParser

import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae import cli
from pyro_vae.report import page, sections

UNDRAWN = pytest.mark.usefixtures("undrawn")
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
    few = functools.partial(pv.figures.posteriors, num_steps=20, num_samples=20)
    monkeypatch.setattr(pv.figures, "posteriors", few)


class Page(HTMLParser):
    """Titles, links, and texts by class."""

    def __init__(self, text):
        super().__init__()
        self.links, self.told, self.verdicts, self.of, self.open, self.tags = [], [], [], [], None, []
        self.maps = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        own = dict(attributes)
        self.tags.append(tag)
        if tag == "iframe":
            assert own["sandbox"] == "allow-scripts"
            self.maps.append(own["srcdoc"])
        self.links += [own[name] for name in ("src", "href") if name in own]
        for name, texts in (("told", self.told), ("verdict", self.verdicts), ("of", self.of)):
            if name in own.get("class", "").split():
                texts.append("")
                self.open = tag, texts

    def handle_endtag(self, tag):
        self.open = None if self.open and tag == self.open[0] else self.open

    def handle_data(self, data):
        if self.open:
            self.open[1][-1] += data


def read(path):
    text = path.read_text("utf-8")
    found = Page(text)
    assert not [link for link in found.links if not link.startswith(("data:image/png;base64,", "#"))]
    assert not {"script", "link"} & set(found.tags)
    assert not [page for page in found.maps if "src=" in page or "http" in page]
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
def test_every_section_is_there_of_every_program(kind, digits, tmp_path, request):
    if kind != "plain":
        request.getfixturevalue("undrawn")
    run = trained(make(kind, digits), digits)
    path = pv.report(run, output=tmp_path / "r.html", num_data=20, num_samples=5, progress=False)
    text, found = read(path)
    for section in sections.SECTIONS:
        assert f"<h2>{section.title}</h2>" in text
    assert not [t for t in found.told if t.startswith("Not of this program")]
    assert found.tags.count("img") >= 7
    assert len(found.maps) == 1
    assert f"{len(found.maps[0]) / 1e6:.1f} MB of this file" in text
    for name in ("ELBO", "log p(x)", "both bounds", "approximation", "calibration", "active latents"):
        assert name in text.split("<h2>The model</h2>")[0]
    assert len(found.verdicts) == len(found.of) == len(sections.SECTIONS)
    assert found.verdicts[1].startswith("The validation ELBO is ")
    assert found.verdicts[5].startswith("The ELBO ")
    assert found.of[5] == "Of 3 of 180 test data."


def test_two_runs_are_side_by_side(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "SECTIONS", sections.SECTIONS[:5:4])  # what it is, and how likely data are
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


@UNDRAWN
def test_a_table_is_reported_on(tmp_path):
    pd = pytest.importorskip("pandas")
    random = torch.Generator().manual_seed(0)
    z = torch.randn(200, generator=random).numpy()
    frame = pd.DataFrame({"height": 170 + 10 * z, "visits": (z > 0) * 3 + 1, "sort": ["a", "b"] * 100})
    frame.loc[::7, "height"] = None
    data = pv.data.load(frame)
    run = trained(pv.VAE(data.event_shapes, 2, likelihood="auto", **NETS), data)
    path = pv.report(run, output=tmp_path / "r.html", num_data=20, num_samples=5, progress=False)
    text, found = read(path)
    worst = text.split("Explained worst")[1].split("Trusted least")[0]
    assert re.search(r"<th>visits</th>", worst)
    estimate = pv.evaluate.log_likelihood(run.program, data.test, num_samples=5)
    odd = estimate.per_datum.argsort()[:3].tolist()
    assert [int(i) for i in re.findall(r"<tr>\s*<th>(\d+)</th>", worst)] == odd
    assert found.verdicts[-1].startswith(f"Datum {odd[0]} of the test data is explained worst")
    oddest = re.findall(r"<td>(height|visits|sort) \(-?[0-9.]+\)</td>", worst)
    assert len(oddest) == 3
    assert f"most of it in {oddest[0]} (" in found.verdicts[-1]


def test_the_oddest_column_is_that_which_was_spoilt(tmp_path):
    """A row whose height is far from all others."""
    pd = pytest.importorskip("pandas")
    random = torch.Generator().manual_seed(0)
    frame = pd.DataFrame(torch.randn(60, 3, generator=random).numpy(), columns=["one", "two", "three"])
    data = pv.data.load(frame, validation=0.0)
    run = trained(pv.VAE(data.event_shapes, 2, likelihood="auto", **NETS), data)
    subject = sections.Subject(run, "", 60, 5, 0)
    subject.split.sources["x"].values[2, 1] = 9.0
    subject.data = subject.first(60)
    assert sections._odd_columns(subject, torch.tensor([2, 0]))[0].startswith("two (")


class TwoSites(pv.Program):
    """Of which none is called x, and one is a number for each datum."""

    def __init__(self):
        super().__init__()
        self.decoder, self.encoder = torch.nn.Linear(2, 5), torch.nn.Linear(5, 2)

    def model(self, batch):
        with self.plate(batch):
            z = self.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            h = self.decoder(z)
            self.sample("curve", dist.Normal(h[..., :4], 1.0).to_event(1), batch)
            self.sample("visits", dist.Poisson(h[..., 4].exp()), batch)

    def guide(self, batch):
        x = torch.cat([batch["curve"], batch["visits"][:, None]], -1)
        with self.plate(batch):
            self.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))


@UNDRAWN
def test_all_sites_of_a_program_are_drawn(tmp_path, monkeypatch):
    drawn = []
    for name in ("samples", "reconstructions"):
        own = getattr(pv.figures, name)
        monkeypatch.setattr(
            pv.figures, name, lambda *a, own=own, **k: drawn.append(k["site"]) or own(*a, **k)
        )
    numbers = sections.pictures.numbers
    monkeypatch.setattr(sections.pictures, "numbers", lambda *a: drawn.append(a[2]) or numbers(*a))
    kept = [section for section in sections.SECTIONS if section.title in ("What it draws", "What it keeps")]
    likely = next(section for section in sections.SECTIONS if section.title == "How likely are data?")
    monkeypatch.setattr(page, "SECTIONS", (*kept, likely, sections.SECTIONS[-1]))
    values = {"curve": torch.randn(60, 4), "visits": torch.poisson(torch.ones(60))}
    run = trained(TwoSites(), pv.data.load(values))
    text, found = read(pv.report(run, output=tmp_path / "r.html", num_samples=5, progress=False))
    assert drawn == ["curve", "visits", "curve"]
    assert not [t for t in found.told if t.startswith("Not of this program")]
    assert any(v.startswith("Reconstructions have from ") for v in found.verdicts)
    assert "visits in brackets: " in text


@UNDRAWN
def test_a_run_of_data_in_memory(tmp_path, monkeypatch):
    """Its folder alone will not do, and the message is the way."""
    monkeypatch.setattr(page, "SECTIONS", sections.SECTIONS[:2])
    x = torch.rand(60, 6).round()
    run = trained(pv.VAE((6,), 2, **NETS), pv.data.load(x), tmp_path / "run")
    with pytest.raises(pv.checkpoint.CheckpointError, match=r"reopen\(.*, data=pv.data.load\(x\)\)"):
        pv.report(tmp_path / "run", output=tmp_path / "r.html")
    again = pv.training.reopen(tmp_path / "run", data=pv.data.load(x))
    text, found = read(pv.report(again, output=tmp_path / "r.html", progress=False))
    assert "<details><summary>Configuration</summary>" in text
    assert "latent_dim: 2" in text.split("<details>")[1].split("</details>")[0]
    assert found.verdicts[0].startswith(f"This VAE has {sum(p.numel() for p in run.program.parameters())} ")
    assert text.split('class="panels"')[1].split("</section>")[0].count("<img") == 3


@UNDRAWN
def test_what_cannot_be_asked_is_said(digits, tmp_path, monkeypatch):
    def refuses(subject):
        raise ValueError("no such thing, <b>")

    def breaks(subject):
        raise KeyError("broken")

    def nothing(subject):
        return subject.found["what is not there"]

    def halfway(subject):
        yield "what is known"
        raise ValueError("no more")

    asked = [sections.Section("One", "?", tell, nothing) for tell in (refuses, breaks, halfway)]
    monkeypatch.setattr(page, "SECTIONS", (*asked, *sections.SECTIONS[:2]))
    run = trained(make("plain", digits), digits)
    with pytest.warns(RuntimeWarning, match="the section 'One' of the report failed.*KeyError: 'broken'"):
        path = pv.report(run, output=tmp_path / "r.html", progress=False)
    text = path.read_text()
    assert "Not of this program: no such thing, &lt;b&gt;" in text
    assert "This section failed: KeyError: &#39;broken&#39;" in text
    assert "<h2>Training</h2>" in text
    assert "<pre>what is known</pre>" in text
    assert "Not of this program: no more" in text
    assert len(Page(text).verdicts) == 2


def test_wrong_use_is_refused(digits, tmp_path):
    run = trained(make("plain", digits), digits)
    with pytest.raises(pv.checks.ConfigError, match=r"report\.html"):
        pv.report(run, output=tmp_path / "r.pdf")
    other = pv.data.load(digits.train[:50], validation=0.0)
    with pytest.raises(pv.data.DataError, match="different data"):
        pv.report(run, trained(make("plain", digits), other), output=tmp_path / "r.html")
    assert not list(tmp_path.iterdir())


@UNDRAWN
def test_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(page, "SECTIONS", sections.SECTIONS[:5])  # the options are of these
    options = ["--epochs", "1", "--latent-dim", "2", "--folder", "run", "--encoder", "mlp(8)"]
    assert cli.main(["train", *options]) == 0
    assert cli.main(["report", "run", "--num-data", "10", "--num-samples", "4"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "run/report.html"
    read(tmp_path / "run" / "report.html")
