"""One picture of a run, for every program and kind of data; and all figures of all kinds, on a sheet."""

import importlib
import re
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import PROGRAMS, batch_of, make
from test_figures import history

import pyro_vae as pv
from pyro_vae.checks import ConfigError
from pyro_vae.figures.stories import DRAWS, predictive

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
BOUND = pv.evaluate.ELBO(-20.5, 15.25, 5.25, 0.25)
ESTIMATE = pv.evaluate.LogLikelihood(-20.0, 0.25, torch.zeros(7), 100, "counting measure")


def run_of(program, batch):
    """A run of a program that was not trained, as ``pv.fit`` returns it."""
    rows = program.columns.decode(batch["x"]) if program.columns else batch
    data = pv.data.load(rows, test=0.3, validation=0.0)
    return SimpleNamespace(program=program, data=data, history=history())


def text(figure):
    """All that is written on it."""
    found = figure.findobj(lambda artist: hasattr(artist, "get_text"))
    return " ".join(" ".join(artist.get_text() for artist in found).split())


@pytest.mark.parametrize("name", PROGRAMS)
def test_summary_of_every_program(name):
    program = make(name)
    figure = pv.figures.summary(run_of(program, batch_of(program, 20)), BOUND, ESTIMATE)
    told = text(figure)
    assert f"{type(program).__name__} of " in told
    assert "Of 7 test data, in nats for each" in told
    assert "log p(x) -20.00 ± 0.25" in told
    assert "ELBO -20.50 ± 0.25 = -(reconstruction 15.25 + KL 5.25), 0.50 below" in told
    assert "epoch" in told
    if program.columns:
        assert "Data and draws" in told
        assert "reconstruction" in told
    else:
        latent = {"own": "b[0] = ", "SelectionVAE": "z[0]"}.get(name, "z1[" if "Hier" in name else "z[")
        latent = "Generated data" if name.startswith("SequentialVAE") else latent
        assert latent in told
        assert "Data (dots)" in told or "drawn anew" in told


def test_summary_measures_what_is_not_given(make_vae):
    vae = make_vae()
    run = run_of(vae, {"x": torch.rand(20, 1, 8, 8).round()})
    told = text(pv.figures.summary(run))
    bound = pv.evaluate.elbo(vae, run.data.test, num_samples=100)
    estimate = pv.evaluate.log_likelihood(vae, run.data.test, num_samples=100)
    assert f"ELBO {bound.elbo:.2f}" in told
    total, part, kl = map(
        float, re.search(r"ELBO (\S+) ± \S+ = -\(reconstruction (\S+) \+ KL (\S+)\)", told).groups()
    )
    assert total == pytest.approx(-(part + kl), abs=0.011)
    site = pv.evaluate.anatomy(vae, run.data.test, num_aggregate=2).sites["z"]
    kept = site.num_latents - site.collapsed
    assert f"Latents that have not collapsed: {kept} of {site.num_latents} of z" in told
    assert f"log p(x) {estimate.log_likelihood:.2f}" in told
    assert "Map of the latent plane" in told
    assert "8 x 8 pixels, drawn smooth" in told
    with pytest.raises(ConfigError, match=r"run=VAE.* must be a Run"):
        pv.figures.summary(vae)


def test_summary_where_no_label_is_known(make_vae):
    run = run_of(make_vae(), {"x": torch.rand(20, 1, 8, 8).round(), "y": torch.full((20,), torch.nan)})
    assert "Map of the latent plane" in text(pv.figures.summary(run, BOUND, ESTIMATE))


def test_names_above_the_map_do_not_run_into_each_other():
    x, nets = torch.randn(60, 30, 2), {"encoder": pv.nets.mlp(4), "decoder": pv.nets.mlp(4)}
    vae = pv.VAE((30, 2), 2, likelihood=pv.likelihoods.Normal(), **nets)
    figure = pv.figures.summary(run_of(vae, {"x": x}), BOUND, ESTIMATE)
    figure.draw_without_rendering()
    axes = next(a for a in figure.axes if "Map of the latent plane" in a.get_title())
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert len(boxes) > 8
    space = 0.05 * figure.dpi
    assert all(a.x1 + space < b.x0 for a, b in pairwise(boxes))


def test_what_the_training_curves_of_latent_weights_are_of_is_told():
    told = [
        text(pv.figures.summary(run_of(program, batch_of(program, 30)), BOUND, ESTIMATE))
        for program in (make("VAE-bayesian"), make("VAE"))
    ]
    note = "The training's ELBO and KL have those of the weights in them."
    assert [note in one for one in told] == [True, False]


def test_uncertainty_is_that_of_the_decoded_mean(make_vae):
    """And draws have the likelihood's noise, too."""
    vae = make_vae(likelihood=pv.likelihoods.Normal(scale=3.0))
    x = torch.randn(4, 1, 8, 8)
    with vae.evaluating():
        again = predictive(vae, {"x": x})
        mean = again.nodes["x"]["fn"].mean.reshape(4, DRAWS, 64)
        z = vae.encode(x).sample((2000,))
        expected = vae.decode(z).mean.reshape(2000, 4, 64).std(0)
    torch.testing.assert_close(mean.std(1).mean(1), expected.mean(1), rtol=0.2, atol=0)
    noise = again.nodes["x"]["value"].reshape(4, DRAWS, 64) - mean
    assert noise.std().item() == pytest.approx(3.0, rel=0.02)


def test_a_program_without_pictures_has_what_is_left():
    class Scalar(pv.Program):
        """A site that is not named x, and a latent that has no quantiles."""

        def __init__(self):
            super().__init__()
            self.event_shapes = {"w": ()}
            self.logits = torch.nn.Parameter(torch.zeros(()))

        def model(self, batch):
            with self.plate(batch):
                k = pyro.sample("k", dist.Bernoulli(0.5))
                self.sample("w", dist.Normal(k, 1.0), batch)

        def guide(self, batch):
            with self.plate(batch):
                pyro.sample("k", dist.Bernoulli(logits=self.logits))

    split = pv.data.Split({"w": torch.randn(20)})
    data = SimpleNamespace(
        name="w", held_out=("test", split), train=split, validation=split, test=split, event_shapes={"w": ()}
    )
    told = text(pv.figures.summary(SimpleNamespace(program=Scalar(), data=data, history=[]), BOUND, ESTIMATE))
    assert "p(k) = Bernoulli" in told
    assert "20 training, 20 validation, 20 test data; 0 epochs" in told


@pytest.fixture
def sheet(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("contact_sheet")


def test_the_sheet_has_all_figures(sheet):
    assert {*sheet.FIGURES} == {*pv.figures.__all__} - {"Figure"}


CHEAP = ("reconstructions", "traversals", "latents")
KINDS = (
    *("images, 10 classes, 2 latents", "images, 10 classes, 50 latents", "colour, no classes, 2 latents"),
    *("images, a mixture of 4, weights that are not known", "images, 4 positions of 16 codes"),
    *("colour, 200 classes, 5 latents", "colour, given 10 classes, 2 latents", "colour, two levels"),
    *("colour, a program of one's own", "vectors, labels that are numbers, 1 latent"),
    *("series of two numbers, 2 latents", "a table with units, 2 latents"),
)


SOME = {
    "images, a mixture of 4, weights that are not known": ("clusters", "uncertainty"),
    "images, 4 positions of 16 codes": ("codes",),
    "colour, given 10 classes, 2 latents": ("styles",),
    "colour, two levels": ("levels", "kl_by_level"),
    "series of two numbers, 2 latents": ("forecast", "manifold"),
    "a table with units, 2 latents": ("marginals", "pairs", "manifold"),
}
"""Figures that there are not of every kind."""


@pytest.mark.parametrize("name", KINDS)
def test_figures_of_each_kind_are_drawn_without_a_warning(sheet, name):
    """Which would be an error here."""
    assert {*KINDS} == {*sheet.KINDS}
    kind = sheet.KINDS[name](sheet.Size(number=60, epochs=1))
    names = {*CHEAP, *SOME.get(name, ())} - ({"traversals"} if "codes" in name else set())
    figures = sheet.drawn(kind, sorted(names))
    assert {*figures} == names
    for figure in figures.values():
        figure.draw_without_rendering()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the effective sample size")  # of so short a training
@pytest.mark.filterwarnings("ignore:the guide VectorQuantised.* weighs one value")
@pytest.mark.parametrize("name", KINDS)
def test_all_figures_of_each_kind_are_drawn_without_a_warning(sheet, name):
    kind = sheet.KINDS[name](sheet.Size(number=100, epochs=2))
    images = [sheet.picture(figure) for figure in sheet.drawn(kind).values()]
    assert len(images) >= 13
    assert sheet.sheet({name: images}).height > sheet.HIGH


@pytest.mark.parametrize("latent_dim", [2, 6])
@pytest.mark.parametrize("shape", [(28, 100), (100, 28), (8, 8)])
def test_pictures_fill_their_place_whatever_the_shape_of_images(shape, latent_dim):
    """No white below wide ones, nor beside tall ones: there are as many rows and columns as fit."""
    vae = pv.VAE(shape, latent_dim, encoder=pv.nets.mlp(4), decoder=pv.nets.mlp(4))
    figure = pv.figures.summary(run_of(vae, {"x": torch.rand(90, *shape).round()}), BOUND, ESTIMATE)
    main, data = (axes for axes in figure.axes if axes.images)
    for axes, least, most in ((main, 0.6, 2.1), (data, 1.4, 3.1)):
        left, right, bottom, top = axes.images[0].get_extent()
        assert least < (right - left) / (bottom - top) < most


def test_latents_of_a_path_are_named_by_time():
    nets = {"encoder": pv.nets.mlp(4), "decoder": pv.nets.mlp(4)}
    program = pv.SequentialVAE((6, 2), latent_dim=3, likelihood=pv.likelihoods.Normal(), **nets)
    told = text(pv.figures.traversals(program, torch.randn(6, 2), max_rows=18))
    assert all(f"z[{t}, {d}] = " in told for t in range(6) for d in range(3))
