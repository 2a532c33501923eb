"""How figures are drawn, whatever they show: axes of one's own, sizes, names and values, scripts."""

import inspect
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from cases import make
from matplotlib import font_manager
from matplotlib.figure import Figure
from test_figures import NORMAL, echo, history, mosaic, table_vae, texts
from test_figures_summary import run_of

import pyro_vae as pv
from pyro_vae.checks import ConfigError
from pyro_vae.figures import drawing

SEVERAL = {
    *("anatomy", "calibration", "codes", "forecast", "marginals", "pairs", "posteriors", "predictive_check"),
    *("summary", "training_curves"),
}
"""Figures of several panels, which take a figure and no axes."""
X = torch.rand(6, 1, 8, 8).round()
Y = torch.arange(6) % 3


def conditional():
    torch.manual_seed(0)
    nets = {"encoder": pv.nets.mlp(8), "decoder": pv.nets.mlp(8)}
    return pv.ConditionalVAE((1, 8, 8), given={"y": 3}, latent_dim=2, **nets)


def one_axes(make_vae):
    """A call of each figure of one axes, but for what it is drawn on."""
    vae, table = make_vae(), table_vae({"a": "real", "b": "real"})
    mixed = make_vae(prior=pv.priors.MixtureOfNormals(3))
    unsure = make_vae(decoder=pv.nets.bayesian(pv.nets.mlp(4)))
    intervals = pv.evaluate.intervals(table, torch.randn(8, 2), num_particles=500)
    return {
        "grid": lambda **ax: pv.figures.grid([X], "title", **ax),
        "samples": lambda **ax: pv.figures.samples(vae, 4, **ax),
        "reconstructions": lambda **ax: pv.figures.reconstructions(vae, X, **ax),
        "clusters": lambda **ax: pv.figures.clusters(mixed, X, 2, **ax),
        "comparison": lambda **ax: pv.figures.comparison({"a": vae}, X, **ax),
        "inpainting": lambda **ax: pv.figures.inpainting(vae, X, X[0] > 0, 1, num_particles=200, **ax),
        "interpolation": lambda **ax: pv.figures.interpolation(vae, X[0], X[1], 3, **ax),
        "traversals": lambda **ax: pv.figures.traversals(vae, X[0], 3, **ax),
        "manifold": lambda **ax: pv.figures.manifold(vae, 3, **ax),
        "latents": lambda **ax: pv.figures.latents(vae, X, Y, **ax),
        "tsne": lambda **ax: pv.figures.tsne(vae, X, Y, **ax),
        "styles": lambda **ax: pv.figures.styles(conditional(), {"x": X, "y": Y}, 2, **ax),
        "levels": lambda **ax: pv.figures.levels(make("HierarchicalVAE-bottom-up"), 3, **ax),
        "kl_by_level": lambda **ax: pv.figures.kl_by_level(history(kl_z2=1.0, kl_z1=9.0), **ax),
        "intervals": lambda **ax: pv.figures.intervals(intervals, **ax),
        "uncertainty": lambda **ax: pv.figures.uncertainty(unsure, X, 3, num_samples=2, **ax),
        "rate_distortion": lambda **ax: pv.figures.rate_distortion(
            pv.evaluate.rate_distortion({"a": vae}, X), **ax
        ),
    }


def test_figures_of_one_axes_are_drawn_on_axes_of_ones_own(make_vae):
    """All of those, and no others, take ``ax``; the same is then drawn there, and nowhere else."""
    draw = one_axes(make_vae)
    assert {*draw} == {*pv.figures.__all__} - SEVERAL - {"Figure"}
    for name in {*pv.figures.__all__} - {"Figure"}:
        assert ("ax" in inspect.signature(getattr(pv.figures, name)).parameters) == (name in draw), name
    for name, of in draw.items():
        alone = of()
        assert isinstance(alone, pv.figures.Figure), name
        assert len(alone.axes) == 1 + (name == "uncertainty"), name  # which has a bar
        figure = Figure()
        left, right = figure.subplots(1, 2)
        assert of(ax=right) is figure, name
        assert not left.has_data(), name
        assert right.get_title().split() == alone.axes[0].get_title().split(), name
        assert len(right.get_children()) == len(alone.axes[0].get_children()), name
        figure.draw_without_rendering()
    assert not plt.get_fignums()
    with pytest.raises(ConfigError, match="ax=3 must be"):
        pv.figures.samples(make_vae(), ax=3)


def test_figures_of_several_panels_are_drawn_on_a_part_of_a_figure(make_vae):
    for name in {*pv.figures.__all__} - {"Figure"}:
        parameters = inspect.signature(getattr(pv.figures, name)).parameters
        assert ("figure" in parameters) == (name in SEVERAL), name
    vae, table = make_vae(), table_vae({"a": "real", "b": "real"})
    rows, series = torch.randn(20, 2), make_vae((5, 2), likelihood=NORMAL)
    book = make_vae(latent_dim=4, prior=pv.priors.Codes(4, 2), guide=pv.guides.VectorQuantised())
    x = torch.randn(2, 5, 2)
    x[:, 3:] = torch.nan
    calls = {
        "anatomy": lambda **f: pv.figures.anatomy(pv.evaluate.anatomy(vae, X, num_aggregate=6), **f),
        "calibration": lambda **f: pv.figures.calibration(
            pv.evaluate.calibration(vae, num_simulations=20, num_samples=9), **f
        ),
        "codes": lambda **f: pv.figures.codes(book, X, **f),
        "forecast": lambda **f: pv.figures.forecast(series, x, num_samples=10, num_particles=20, **f),
        "marginals": lambda **f: pv.figures.marginals(table, rows, **f),
        "pairs": lambda **f: pv.figures.pairs(table, rows, **f),
        "posteriors": lambda **f: pv.figures.posteriors(vae, X[:1], num_steps=1, num_samples=5, **f),
        "predictive_check": lambda **f: pv.figures.predictive_check(
            pv.evaluate.predictive_check(vae, X.repeat(4, 1, 1, 1), num_replications=5), **f
        ),
        "summary": lambda **f: pv.figures.summary(
            run_of(vae, {"x": X.repeat(4, 1, 1, 1)}), pv.evaluate.elbo(vae, X), None, **f
        ),
        "training_curves": lambda **f: pv.figures.training_curves(history(), **f),
    }
    assert {*calls} == SEVERAL
    for name, of in calls.items():
        figure = Figure(figsize=(24, 8), layout="constrained")
        left, right = figure.subfigures(1, 2)
        assert of(figure=right) is figure, name
        assert not left.axes, name
        assert figure.axes, name
        assert len(figure.axes) == len(of().axes), name
        figure.draw_without_rendering()
        with pytest.raises(ValueError, match=r"on this figure already.*figure\.clear\(\)"):
            of(figure=right)
        with pytest.raises(ValueError, match="on this figure already"):  # of which parts are drawn
            of(figure=figure)


def test_a_figure_without_a_layout_has_all_titles_and_legends_on_it(make_vae):
    found = pv.evaluate.anatomy(make_vae(), X, num_aggregate=6)
    for figure in (Figure(figsize=(9, 4)), plt.figure(figsize=(9, 4))):
        pv.figures.anatomy(found, figure=figure)
        figure.draw_without_rendering()
        assert figure.axes[1].get_legend().get_window_extent().y0 > 0
    plt.close(figure)
    figure = Figure(layout="tight")
    pv.figures.anatomy(found, figure=figure.subfigures())
    assert "Tight" in type(figure.get_layout_engine()).__name__  # one's own stays


def test_what_is_of_a_table_takes_no_axes():
    vae, x, axes = table_vae({"a": "real", "b": "real"}), torch.randn(6, 2), Figure().subplots()
    for draw in (
        lambda: pv.figures.samples(vae, ax=axes),
        lambda: pv.figures.reconstructions(vae, x, ax=axes),
        lambda: pv.figures.comparison({"a": vae}, x, ax=axes),
        lambda: pv.figures.traversals(vae, x[0], ax=axes),
    ):
        with pytest.raises(ValueError, match="of a table there are several: leave it out"):
            draw()
    assert pv.figures.latents(vae, x, ax=axes).axes == [axes]


@pytest.mark.parametrize("shape", [(3, 20, 28), (3, 28, 20), (1, 28, 28)], ids=str)
def test_figures_have_the_shape_of_their_pictures(make_vae, shape):
    """No wide band of white: pictures are three quarters of it, beside titles and names."""
    vae, x = make_vae(shape, likelihood=NORMAL), torch.rand(12, *shape)
    for figure in (
        pv.figures.samples(vae),
        pv.figures.reconstructions(vae, x[:3]),
        pv.figures.reconstructions(vae, x),
        pv.figures.manifold(vae),
        pv.figures.manifold(vae, 4),
        pv.figures.traversals(vae, x[0]),
    ):
        figure.draw_without_rendering()
        (axes,) = figure.axes
        share = axes.get_window_extent()
        assert share.width > 0.75 * figure.bbox.width, axes.get_title()
        assert share.height > 0.6 * figure.bbox.height, axes.get_title()
        around = axes.get_tightbbox()
        assert around.height > 0.85 * figure.bbox.height, axes.get_title()


def test_the_map_has_names_and_values():
    (axes,) = pv.figures.manifold(echo(), 3).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("z[0]", "z[1]")
    assert texts(axes.get_xticklabels()) == ["-1.6", "0.0", "1.6"]
    assert texts(axes.get_yticklabels()) == ["1.6", "0.0", "-1.6"]
    scaled = echo(prior=dist.Normal(torch.tensor([0.0, 5.0]), torch.tensor([0.01, 100.0])))
    (axes,) = pv.figures.manifold(scaled, 3).axes
    assert texts(axes.get_xticklabels()) == ["-0.016", "0.0", "0.016"]
    assert texts(axes.get_yticklabels()) == ["169.5", "5.0", "-159.5"]
    maps = pv.figures.manifold(table_vae(), 3).axes
    assert maps[0].get_xlabel() == "z[0]"
    assert texts(maps[0].get_xticklabels()) == ["-1.6", "0.0", "1.6"]
    assert texts(maps[0].get_yticklabels()) == ["1.6", "0.0", "-1.6"]


def test_traversals_show_the_datum_its_values_and_their_order(make_vae):
    vae, x = make_vae(latent_dim=4, likelihood=NORMAL), torch.rand(1, 8, 8)
    (axes,) = pv.figures.traversals(vae, x, 3, max_rows=2).axes
    title = " ".join(axes.get_title().split())
    assert "the 2 of 4 with the sharpest q(z|x) first" in title
    assert texts(axes.get_xticklabels()) == ["datum", "-1.6", "0.0", "1.6"]
    with torch.no_grad():
        q = vae.encode(x[None])
    sharpest = q.stddev[0].argsort()[:2].tolist()
    labels = [text.split(" = ") for text in texts(axes.get_yticklabels())]
    assert [name for name, _ in labels] == [f"z[{d}]" for d in sharpest]
    np.testing.assert_allclose([float(v) for _, v in labels], q.mean[0, sharpest], atol=0.06)
    pixels = mosaic(axes.figure)
    shown = (x[0] - x.min()) / (x.max() - x.min())
    for top in (0, 9):
        first = pixels[top : top + 8, :8, 0]
        np.testing.assert_allclose(np.corrcoef(first.ravel(), shown.ravel())[0, 1], 1, atol=1e-5)
    levels = pv.figures.traversals(make("HierarchicalVAE-bottom-up"), torch.ones(1, 2, 3), 3)
    assert texts(levels.axes[0].get_xticklabels()) == ["datum", "5%", "50%", "95%"]  # of Normals that differ


def test_curves_begin_at_the_first_epoch():
    for axes in pv.figures.training_curves(history()).axes:
        assert axes.get_xlim() == (1, 29)
    for axes in pv.figures.training_curves(history()[:1]).axes:  # a point, which no line is seen of
        assert axes.get_xlim() == (0.5, 1.5)
        assert all(line.get_marker() == "." for line in axes.lines)


def test_many_classes_have_a_bar(make_vae):
    """Each with its own part of it, in the colour of its points."""
    x = torch.rand(60, 1, 8, 8)
    split = pv.data.Split(x, labels=[f"class {i % 30:02d}" for i in range(60)])
    axes, bar = pv.figures.latents(make_vae(), split).axes
    assert axes.get_legend() is None
    assert bar.get_ylabel() == "class"
    named = texts(bar.get_yticklabels())
    assert named[:2] == ["class 00", "class 03"]
    scale = axes.figure.axes[1]._colorbar.mappable
    points = axes.collections[0].get_facecolors()
    for place, name in zip(bar.get_yticks(), named, strict=True):
        code = int(name.split()[1])
        np.testing.assert_allclose(scale.to_rgba(place)[:3], points[code, :3], atol=1e-6)
    whole = pv.figures.latents(make_vae(), x, 18 + torch.arange(60) % 45)  # ages, say
    assert texts(whole.axes[1].get_yticklabels())[0] == "18"


def test_titles_keep_formulas_whole():
    title = drawing.wrapped("The mean of p(x|z, y) for all, z ~ p(z|y), y = 2 and so on", 2.0)
    for formula in ("p(x|z, y)", "z ~ p(z|y)", "y = 2"):
        assert any(formula in line for line in title.split("\n")), title
    assert title.count("\n") >= 2


def test_other_scripts_are_drawn_with_the_fonts_that_there_are(monkeypatch):
    """A glyph that only the fallback has, and one that nobody has, of which one sentence tells."""
    stix = next(font for font in font_manager.fontManager.ttflist if font.name == "STIXGeneral")
    own = font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap()
    there = font_manager.get_font(stix.fname).get_charmap()
    char = next(chr(code) for code in there if code not in own and chr(code).isprintable() and code > 0x2000)

    def drawn(fallback, text):
        monkeypatch.setattr(drawing, "FALLBACK", fallback)
        return pv.figures.grid([torch.zeros(2, 1, 4, 4)], text)._repr_png_()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        boxes = drawn(("No such font",), char)
    drawing._tell_of_boxes.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert boxes != drawn(("No such font", "STIXGeneral"), char)
        assert drawn((), "latin") == drawn(("STIXGeneral",), "latin")
        with pytest.raises(UserWarning, match=r"in a script of which no font .* fonts-noto-cjk"):
            drawn((), "身長")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for _ in range(2):
            drawn((), "身長 体重")
    assert len(told) == 1  # and neither one for each glyph nor for each figure


@pytest.mark.parametrize("what", ["damaged", "gone"])
def test_a_font_that_is_no_more_keeps_no_figure_from_being_drawn(monkeypatch, tmp_path, what):
    """Matplotlib's list of fonts, of its cache, may be older than the files."""
    path = tmp_path / "font.ttf"
    if what == "damaged":
        path.write_bytes(Path(font_manager.findfont("DejaVu Sans")).read_bytes()[:20_000])
    entry = font_manager.FontEntry(
        fname=str(path),
        name=drawing.FALLBACK[0],
        style="normal",
        variant="normal",
        weight=400,
        stretch="normal",
    )
    whole = font_manager.fontManager.ttflist
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [*whole, entry])
    monkeypatch.setattr(drawing, "_added", lambda: False)
    monkeypatch.setattr(drawing, "_tell_of_boxes", lambda: None)
    figure = drawing.Figure()
    figure.add_subplot().set_title("\u4e2d\u6587")
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_fonts_that_matplotlib_has_not_heard_of_are_found(monkeypatch):
    """It keeps its list of fonts in a file; one that was installed since is added."""
    manager = font_manager.fontManager
    stix = [font for font in manager.ttflist if font.name == "STIXGeneral"]
    monkeypatch.setattr(manager, "ttflist", [font for font in manager.ttflist if font not in stix])
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [font.fname for font in stix])
    monkeypatch.setattr(drawing, "FALLBACK", ("STIXGeneral",))
    own = font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap()
    there = font_manager.get_font(stix[0].fname).get_charmap()
    char = next(chr(code) for code in there if code not in own and chr(code).isprintable() and code > 0x2000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pv.figures.grid([torch.zeros(2, 1, 4, 4)], char)._repr_png_()
