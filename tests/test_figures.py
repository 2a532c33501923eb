import io

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import PROGRAMS, batch_of, make
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

import pyro_vae as pv
from pyro_vae.figures import stories
from pyro_vae.figures.drawing import NOT_OBSERVED
from pyro_vae.figures.latent import _quantiles


def mosaic(figure):
    (image,) = figure.axes[0].images
    return np.asarray(image.get_array())


def texts(labels):
    return [label.get_text() for label in labels]


class Echo(nn.Module):
    """A network whose every output is the sum of what it sees, times 1, 10, 100, ..."""

    def __init__(self, in_shape, out_shape):
        super().__init__()
        self.out_shape = out_shape

    def forward(self, *inputs):
        seen = torch.cat([x.flatten(1) for x in inputs], 1)
        value = seen @ (10.0 ** torch.arange(seen.shape[1]))
        return value.reshape(len(seen), *[1] * len(self.out_shape)).expand(len(seen), *self.out_shape)


NORMAL = pv.likelihoods.Normal(scale=1.0)


def echo(shape=(1, 4, 4), **parts):
    return pv.VAE(shape, 2, likelihood=NORMAL, decoder=Echo, **parts)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 5), (6, 5), (2, 4, 4), (10,)], ids=str)
def test_all_figures_for_all_shapes(make_vae, shape):
    vae = make_vae(shape, likelihood=pv.likelihoods.Normal(scale="shared"))
    x = torch.randn(9, *shape)
    for figure in (
        pv.figures.samples(vae, 10),
        pv.figures.reconstructions(vae, x),
        pv.figures.latents(vae, x),
        pv.figures.manifold(vae, 4),
        pv.figures.traversals(vae, x[0], 5),
        pv.figures.interpolation(vae, x[0], x[1]),
        pv.figures.comparison({"one": vae, "other": vae}, x),
    ):
        assert isinstance(figure, Figure)
        figure.savefig("figure.png")
    with Image.open("figure.png") as saved, Image.open(io.BytesIO(figure._repr_png_())) as shown:
        assert shown.size == saved.size
    assert not plt.get_fignums()


@pytest.mark.parametrize("name", PROGRAMS)
def test_figures_of_every_program(name):
    program, state = make(name), torch.get_rng_state()
    batch = batch_of(program, 6)
    split, one = pv.data.Split(batch), batch_of(program, 1)
    pv.figures.samples(program, 6)
    pv.figures.reconstructions(program, batch)
    pv.figures.reconstructions(program, split)
    pv.figures.latents(program, split)
    pv.figures.traversals(program, one, 3)
    pv.figures.interpolation(program, one, split.batch([2]), 3)
    pv.figures.comparison({name: program}, batch)
    if name == "own":
        assert "p(w|a, b)" in pv.figures.reconstructions(program, batch, site="w").axes[0].get_title()
        with pytest.raises(ValueError, match="it has a, b, x, w"):
            pv.figures.samples(program, 4, site="v")
    if name.startswith("Conditional") and not program.given_columns:
        with pytest.raises(pv.data.DataError, match="needs values of"):
            pv.figures.reconstructions(program, batch["x"])
    assert torch.equal(state, torch.get_rng_state())


def test_manifold_lies_on_the_quantiles():
    """Left to right z[0] rises, bottom to top z[1], over norm.ppf(linspace(.05, .95, n))."""
    pixels = mosaic(pv.figures.manifold(echo(), 5))[::5, ::5, 0]
    q = torch.distributions.Normal(0, 1).icdf(torch.linspace(0.05, 0.95, 5))
    expected = q[None, :] + 10 * q.flip(0)[:, None]
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    np.testing.assert_allclose(pixels, expected, atol=1e-5)


def test_quantiles_of_a_prior_without_a_closed_form():
    p = dist.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.5, 4.0]]))
    expected = 1.645 * torch.tensor([[-1.0, -2.0], [0.0, 0.0], [1.0, 2.0]])
    torch.testing.assert_close(_quantiles(p.expand([1]), 3), expected, atol=0.05, rtol=0)
    with pytest.raises(ValueError, match="no quantiles"):
        _quantiles(dist.Bernoulli(0.5), 3)


def test_manifold_needs_a_plane(make_vae):
    with pytest.raises(ValueError, match="latent_dim=2"):
        pv.figures.manifold(make_vae(latent_dim=3))
    with pytest.raises(ValueError, match=r"figures\.levels"):
        pv.figures.manifold(make("HierarchicalVAE-bottom-up"))
    cvae = pv.ConditionalVAE((1, 4, 4), given={"y": 3}, latent_dim=2)
    with pytest.raises(ValueError, match=r"given=\{'y': 0\}"):
        pv.figures.manifold(cvae)
    assert pv.figures.manifold(cvae, 3, given={"y": 2}).axes[0].get_title().endswith("y = 2")


def test_reconstructions_show_the_data(make_vae):
    x = torch.rand(3, 1, 8, 8)
    vae = make_vae(likelihood=pv.likelihoods.PseudoBernoulli())
    pixels = mosaic(pv.figures.reconstructions(vae, x))
    scale = x.max() - x.min()
    np.testing.assert_allclose(pixels[:8, 9:17, 0], (x[1, 0] - x.min()) / scale, atol=1e-5)
    assert pixels.shape == (17, 26, 3)


def test_what_is_missing_is_seen_and_filled_in(make_vae):
    x = torch.rand(3, 1, 8, 8)
    x[0, :, 2:5, 3] = torch.nan
    x[1] = torch.nan
    vae = make_vae(likelihood=pv.likelihoods.Normal(scale="shared"))
    pixels = mosaic(pv.figures.reconstructions(vae, x))
    absent = np.isclose(pixels, np.float32(NOT_OBSERVED)).all(-1)
    assert absent[2:5, 3].all()
    assert absent[:8, 9:17].all()
    assert absent.sum() == 3 + 64
    assert np.isfinite(pixels).all()
    curves = pv.figures.reconstructions(make_vae((8,), likelihood=NORMAL), x[:, 0, 3])
    assert len(curves.axes[0].lines) == 6
    pv.figures.reconstructions(vae, torch.full((2, 1, 8, 8), torch.nan))


def test_interpolation_ends_at_the_data():
    x = torch.randn(2, 1, 4, 4)
    pixels = mosaic(pv.figures.interpolation(echo(), x[0], x[1], 3))
    assert pixels.shape == (4, 5 * 5 - 1, 3)
    with pytest.raises(ValueError, match="one datum"):
        pv.figures.interpolation(echo(), x, x[1])


def test_traversals_vary_one_latent():
    vae = echo()
    figure = pv.figures.traversals(vae, torch.randn(1, 4, 4), 3)
    rows = mosaic(figure)[::5, 5::5, 0]  # without the datum
    names = [text.split(" = ")[0] for text in texts(figure.axes[0].get_yticklabels())]
    steps = dict(zip(names, np.diff(rows, axis=1), strict=True))
    np.testing.assert_allclose(steps["z[1]"], 10 * steps["z[0]"], rtol=1e-3)


def test_a_split_stands_for_its_first_datum():
    vae, x = echo(), torch.randn(20, 1, 4, 4)
    test = pv.data.load(x, test=0.5).test
    first = [mosaic(pv.figures.traversals(vae, datum, 3)) for datum in (test, test.batch([0]))]
    np.testing.assert_array_equal(*first)
    pv.figures.interpolation(vae, test, test.batch([1]), 2)
    with pytest.raises(ValueError, match="one datum is wanted, but there are"):
        pv.figures.traversals(vae, test[:2])


def test_traversals_keep_what_is_given():
    """What is decoded is z[0] + 10 y[0] + 100 y[1]: the label's part is in all pictures."""
    cvae = pv.ConditionalVAE((1, 4, 4), given={"y": 2}, latent_dim=1, likelihood=NORMAL, decoder=Echo)
    pictures = []
    for y in (0, 1):
        batch = {"x": torch.ones(1, 1, 4, 4), "y": torch.tensor([y])}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pyro_vae.figures.heat.draw", lambda drawn, _: pictures.append(drawn.rows[0][1:]))
            pv.figures.traversals(cvae, batch, 3)
    z = torch.distributions.Normal(0, 1).icdf(torch.linspace(0.05, 0.95, 3))
    for picture, label in zip(pictures, (10, 100), strict=True):
        torch.testing.assert_close(picture[:, 0, 0, 0], z + label)


def test_traversals_of_a_level_carry_those_below_along():
    program = make("HierarchicalVAE-bottom-up")
    x = torch.ones(1, 2, 3)
    default = pv.figures.traversals(program, x, 3)
    assert texts(default.axes[0].get_yticklabels())[0].startswith("z1[")
    assert "p(z1|z2)" in default.axes[0].get_title()
    above = pv.figures.traversals(program, x, 3, site="z2")
    assert len(texts(above.axes[0].get_yticklabels())) == 3
    assert np.ptp(mosaic(above)[:, ::4, 0]) > 0.1
    with pytest.raises(ValueError, match="z2, z1"):
        pv.figures.traversals(program, x, site="z3")


def test_styles_are_those_of_the_data_in_every_class():
    """Each picture is z[0] + 10 y[0] + 100 y[1] + 1000 y[2], with the z of its row and y of its column."""
    cvae = pv.ConditionalVAE((1, 4, 4), given={"y": 3}, latent_dim=1, likelihood=NORMAL, decoder=Echo)
    split = pv.data.Split(torch.randn(5, 1, 4, 4), labels=["a", "bb", "c", "a", "bb"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyro_vae.figures.heat.draw", lambda drawn, _: drawn)
        drawn = pv.figures.styles(cvae, split, 4)
    rows = drawn.rows
    assert list(drawn.columns) == ["data", "a", "bb", "c"]
    with torch.no_grad():
        z = cvae.encode(split[:], split.labels).mean
    for i, row in enumerate(rows):
        torch.testing.assert_close(row[0], split[i])
        torch.testing.assert_close(row[1:, 0, 0, 0], z[i] + 10.0 ** torch.arange(1, 4))
    assert len(rows) == 4
    shown = pv.figures.styles(cvae, split)
    assert texts(shown.axes[0].get_xticklabels()) == ["data", "a", "bb", "c"]
    with pytest.raises(ValueError, match="ConditionalVAE"):
        pv.figures.styles(echo(), split)


def test_what_is_decoded_has_the_label_that_is_known():
    """And where there is none, that which is inferred."""
    program = pv.SemiSupervisedVAE((1, 4, 4), num_classes=3, latent_dim=1, likelihood=NORMAL, decoder=Echo)
    batch = program.place({"x": torch.randn(4, 1, 4, 4), "y": torch.tensor([2.0, 1.0, torch.nan, 0.0])})
    with program.evaluating():
        _, values = stories.inferred(program, batch)
        x, _ = stories.shown(stories.told(program, batch, values), "x")
        y = batch["y"].where(~batch["y"].isnan(), program.q_y(batch["x"]).logits.argmax(-1))
        torch.testing.assert_close(x, program.p_x(values["z"], y).mean)
        draws = stories.by_datum(stories.shown(stories.predictive(program, batch), "x")[0])
    expected = 10.0 ** (1 + y[[0, 1, 3]])  # what z adds is small beside it
    torch.testing.assert_close(draws.mean(0)[[0, 1, 3], 0, 0, 0], expected, atol=2.0, rtol=0)


def test_samples_of_each_class_in_its_column():
    cvae = pv.ConditionalVAE((1, 4, 4), given={"y": 3}, latent_dim=1, likelihood=NORMAL, decoder=Echo)
    figure = pv.figures.samples(cvae, 9)
    assert texts(figure.axes[0].get_xticklabels()) == ["0", "1", "2"]
    pixels = mosaic(figure)[::5, ::5, 0]
    assert (np.diff(pixels, axis=1) > 0.05).all()  # 10, 100 and 1000 beside the one z
    one = pv.figures.samples(cvae, 9, given={"y": 2})
    assert one.axes[0].get_title().endswith("y = 2")
    cvae.class_names = ("cat", "dog", "eel")
    named = pv.figures.samples(cvae, 9)
    assert texts(named.axes[0].get_xticklabels()) == ["cat", "dog", "eel"]
    for y in (2, "eel"):
        assert pv.figures.samples(cvae, 9, given={"y": y}).axes[0].get_title().endswith("y = eel")


def test_levels_keep_what_is_above():
    class Sum(pv.Program):
        """x is exactly a + b: pictures of the second row differ by b alone."""

        def __init__(self):
            super().__init__()
            self.event_shapes = {"x": (2, 2)}

        def model(self, batch):
            with self.plate(batch):
                a = pyro.sample("a", dist.Normal(0.0, 1000.0))
                b = pyro.sample("b", dist.Normal(0.0, 1.0))
                loc = (a + b)[..., None, None].expand(*a.shape, 2, 2)
                self.sample("x", dist.Normal(loc, 1.0).to_event(2), batch)

        def guide(self, batch):
            raise AssertionError

    figure = pv.figures.levels(Sum(), 6)
    assert texts(figure.axes[0].get_yticklabels()) == ["a, b anew", "b anew"]
    pixels = mosaic(figure)[::3, ::3, 0]
    assert pixels.shape == (2, 6)
    assert pixels[0, 0] == pixels[1, 0]
    assert np.ptp(pixels[0]) > 0.9
    assert 0 < np.ptp(pixels[1]) < 0.01
    with pytest.raises(ValueError, match="HierarchicalVAE"):
        pv.figures.levels(echo())


@pytest.mark.parametrize(("latent_dim", "label"), [(1, "jitter"), (2, "z[1]"), (5, "principal")])
def test_latents(make_vae, latent_dim, label):
    vae = make_vae(latent_dim=latent_dim)
    labels = torch.arange(30) % 3
    figure = pv.figures.latents(vae, torch.rand(30, 1, 8, 8), labels)
    (axes,) = figure.axes
    assert label in axes.get_ylabel()
    assert texts(axes.get_legend().get_texts()) == ["0", "1", "2"]
    points, *keys = axes.collections
    assert len(points.get_offsets()) == 30
    for label_, key in enumerate(keys):  # every point in the colour of its class
        assert (points.get_facecolors()[label_::3, :3] == key.get_facecolors()[0, :3]).all()


def test_latents_are_labelled_by_the_data(make_vae):
    x = torch.rand(4, 1, 8, 8)
    named = pv.figures.latents(make_vae(), pv.data.Split(x, labels=["cat", "dog", "cat", "cat"]))
    assert texts(named.axes[0].get_legend().get_texts()) == ["cat", "dog"]
    some = {"x": x, "y": torch.tensor([0.0, torch.nan, 1.0, 0.0])}
    known = pv.figures.latents(make_vae(), some)
    assert texts(known.axes[0].get_legend().get_texts()) == ["0", "1", "not known"]
    assert pv.figures.latents(make_vae(), x).axes[0].get_legend() is None
    none = pv.figures.latents(make_vae(), {"x": x, "y": torch.full((4,), torch.nan)})
    assert texts(none.axes[0].get_legend().get_texts()) == ["not known"]
    levels = pv.figures.latents(make("HierarchicalVAE-bottom-up"), torch.ones(3, 2, 3), site="z2")
    assert "q(z2|x)" in levels.axes[0].get_title()


def history(**more):
    row = {"elbo": -100.0, "reconstruction": 90.0, "kl": 10.0, "validation_elbo": -101.0} | more
    return [{"epoch": i} | {key: value / i for key, value in row.items()} for i in range(1, 30)]


def test_training_curves():
    figure = pv.figures.training_curves(history())
    lines = figure.axes[0].lines
    assert [line.get_label() for line in lines] == ["training", "validation"]
    assert lines[0].get_ydata()[3] == -25.0
    assert len(figure.axes[1].lines) == 1


def test_training_curves_by_level():
    figure = pv.figures.training_curves(history(kl_z2=1.0, kl_z1=9.0, validation_kl_z1=8.0))
    curves = {line.get_label(): line.get_ydata()[0] for line in figure.axes[2].lines}
    assert {name: value for name, value in curves.items() if name[0] != "_"} == {"all": 10, "z2": 1, "z1": 8}
    assert 9 in curves.values()  # in training, which is dashed as the legend tells
    assert figure.axes[2].get_title() == "KL by site"


# --- tables

KINDS = {
    "height": "real",
    "weight": "positive",
    "fat": "share",
    "visits": "count",
    "year": "integer",
    "ill": "boolean",
    "town": {"kind": "category", "levels": [f"a town of the name {i}" for i in range(30)]},
    "grade": {"kind": "ordinal", "levels": ["low", "middle", "high"]},
}


def rows(number=300):
    """Of ``KINDS``; height, weight, year and grade are moved by one number."""
    generator = torch.Generator().manual_seed(0)
    z, e = torch.randn(number, generator=generator), torch.randn(7, number, generator=generator)
    x = [170 + 8 * z + e[0], (4 + 2 * z + 0.1 * e[1]).exp(), e[2].sigmoid(), e[3].exp().round()]
    x += [(1960 + 9 * z + e[4]).round(), (e[5] > 0) * 1.0, (10 * e[6].abs()).round().clamp(max=29)]
    x = torch.stack([*x, (z > -1) * 1.0 + (z > 1) * 1.0], 1)
    x[:30, 1], x[:, 2] = torch.nan, torch.where(torch.arange(number) < 90, torch.nan, x[:, 2])
    return x


def table_vae(kinds=KINDS):
    torch.manual_seed(0)
    return pv.VAE(kinds, 2, likelihood="auto", encoder=pv.nets.mlp(8), decoder=pv.nets.mlp(8))


class Known(pv.Program):
    """A table of these columns, whose distribution is this."""

    def __init__(self, kinds, p):
        super().__init__()
        self.columns, self.p = pv.data.columns.Columns(kinds), p
        self.event_shapes = {"x": (len(kinds),)}

    def model(self, batch):
        with self.plate(batch):
            self.sample("x", self.p.expand([len(batch["x"])]), batch)

    def guide(self, batch):
        pass


def panels(figure):
    return {axes.get_title().split("\n")[0]: axes for axes in figure.axes if axes.axison}


def test_marginals_are_of_data_and_draws():
    """Shares of each category and of each bin, of the data as they are."""
    x = rows()
    figure = pv.figures.marginals(table_vae(), x)
    found = panels(figure)
    assert [*found] == [*KINDS]
    assert found["fat"].get_title() == "fat\n30 % missing"
    assert found["weight"].get_xscale() == "log"
    assert found["weight"].get_title() == "weight\n10 % missing"
    data, _ = found["grade"].containers
    shares = [float((x[:, 7] == level).float().mean()) for level in range(3)]
    np.testing.assert_allclose([bar.get_width() for bar in data], shares, atol=1e-6)
    assert texts(found["grade"].get_yticklabels()) == ["low", "middle", "high"]
    grey, _ = found["height"].patches
    counts, edges, _ = grey.get_data()
    np.testing.assert_allclose(counts, np.histogram(x[:, 0], edges)[0] / len(x) / np.diff(edges), rtol=1e-6)
    (names, *_), most = texts(found["town"].get_yticklabels()), 12
    assert len(found["town"].get_yticks()) == most
    assert len({*texts(found["town"].get_yticklabels())}) == most  # told apart, though they are cut
    assert len(names) <= 14
    assert "others" in texts(found["town"].get_yticklabels())[-1]
    assert texts(figure.legends[0].get_texts()) == ["data", "draws"]


def test_marginals_of_a_frame_have_units():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"height": [1.5, 2.5, 0.5], "ill": [True, False, True]})
    frame.attrs["units"] = {"height": "cm"}
    vae = pv.VAE(pv.data.load(frame, test=0.0, validation=0.0).event_shapes, 2, likelihood="auto")
    assert [*panels(pv.figures.marginals(vae, frame))] == ["height (cm)", "ill"]
    assert [*panels(pv.figures.reconstructions(vae, frame))] == ["height (cm)", "ill"]
    x = vae.columns.encode(frame)
    assert [*panels(pv.figures.marginals(vae, x))] == ["height (cm)", "ill"]  # which the columns kept
    frame.attrs["units"] = {"height": "ell"}
    assert [*panels(pv.figures.marginals(vae, frame))] == ["height (ell)", "ill"]


def test_marginals_show_draws_of_the_model():
    """Of a model that says what its draws are: they lie in those bins."""
    p = dist.Uniform(torch.zeros(2), torch.tensor([0.5, 1.0])).to_event(1)
    x = torch.stack([torch.linspace(0, 1, 200), torch.linspace(0, 1, 200)], 1)
    found = panels(pv.figures.marginals(Known({"a": "real", "b": "share"}, p), x))
    _, drawn = found["a"].patches
    counts, edges, _ = drawn.get_data()
    assert counts[(edges[:-1] > 0) & (edges[1:] < 0.5)].min() > 1.5  # a density of 2 up to there
    assert counts[edges[:-1] > 0.5].max() == 0


def test_draws_beyond_the_data_are_told():
    """Of reals, and of a few whole numbers, as years are; and what the heights are."""
    p = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    x = torch.stack([torch.linspace(-1, 1, 300), torch.arange(300.0) % 3 - 1], 1)
    found = panels(pv.figures.marginals(Known({"a": "real", "year": "integer"}, p), x))
    for name, height in (("a", "density"), ("year", "share")):
        assert any("of draws\nbeyond" in text.get_text() for text in found[name].texts), name
        assert found[name].get_ylabel() == height
    inside = panels(pv.figures.marginals(Known({"a": "real", "year": "integer"}, p), 5 * x))
    assert not any(text.get_text() for axes in inside.values() for text in axes.texts)


def test_the_columns_that_differ_most_are_drawn():
    """40 columns, of which the draws are standard Normals, and so are the data but for three of them."""
    p = dist.Normal(torch.zeros(40), 1.0).to_event(1)
    vae = Known({f"c{j}": "real" for j in range(40)}, p)
    x = torch.randn(500, 40)
    x[:, [3, 17, 31]] += 3
    figure = pv.figures.marginals(vae, x)
    assert "the 20 of 40 columns in which they differ most" in figure.get_suptitle()
    drawn = [*panels(figure)]
    assert len(drawn) == 20
    assert {"c3", "c17", "c31"} <= {*drawn}
    assert [*panels(pv.figures.marginals(vae, x, ["c5", "c4"]))] == ["c5", "c4"]
    with pytest.raises(pv.data.DataError, match="no column 'c99'"):
        pv.figures.marginals(vae, x, ["c99"])


def test_pairs_are_of_the_columns_that_depend():
    x = rows()
    vae = table_vae()
    figure = pv.figures.pairs(vae, x)
    assert "the 5 of 8 columns that depend on each other most" in figure.get_suptitle()
    below = [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()]
    assert {"height", "weight", "year", "grade"} <= {*below}
    two = pv.figures.pairs(vae, x, ["year", "height"])
    panel = dict(enumerate(two.axes))
    points = panel[2].collections[0].get_offsets()
    np.testing.assert_allclose(points[:, 1], x[:, 0], atol=1e-4)
    np.testing.assert_allclose(points[:, 0], x[:, 4], atol=0.31)  # whole numbers lie beside each other
    drawn = panel[1].collections[0].get_offsets()
    assert len(drawn) == len(points)
    named = pv.figures.pairs(vae, x, ["grade", "height", "weight"])
    named.draw_without_rendering()  # which makes the labels
    right = [[label.label2.get_visible() for label in axes.yaxis.get_major_ticks()] for axes in named.axes]
    assert texts(named.axes[2].get_yticklabels()) == ["low", "middle", "high"]
    assert all(right[2])  # of the uppermost row, whose own left end is a marginal
    assert not any(right[1])
    for wrong in (["year"], [f"{name}" for name in KINDS] + ["height"]):
        with pytest.raises(ValueError, match="2 up to 8 columns"):
            pv.figures.pairs(vae, x, wrong)


def test_a_table_is_never_drawn_as_lines():
    """Samples and reconstructions by column; all else as a map of its columns."""
    x = rows()
    vae = table_vae()
    assert [*panels(pv.figures.samples(vae))] == [*KINDS]
    assert [*panels(pv.figures.comparison({"one": vae, "other": table_vae()}, x))] == [*KINDS]
    found = panels(pv.figures.reconstructions(vae, x))
    points = found["height"].collections[0].get_offsets()
    with torch.no_grad():
        mean, _ = pv.distributions.centre(vae.decode(vae.encode(x).mean))
    np.testing.assert_allclose(points, torch.stack([x[:, 0], mean[:, 0]], 1), rtol=1e-4)
    for figure, number in (
        (pv.figures.traversals(vae, x[0], 5), 2),
        (pv.figures.interpolation(vae, x[0], x[1], 5), 1),
        (pv.figures.manifold(vae, 4), len(KINDS)),
    ):
        maps = [axes for axes in figure.axes if axes.images]
        assert len(maps) == number
        names = maps[0].get_yticklabels() if number < 3 else [axes.title for axes in maps]
        assert texts(names) == [*KINDS]
        assert not any(axes.lines for axes in maps)


def test_whole_numbers_have_whole_ticks():
    vae = table_vae({"year": "integer", "height": "real"})
    year = panels(pv.figures.reconstructions(vae, torch.tensor([[2007.0, 1.0], [2009.0, 0.0]])))["year"]
    for axis in (year.xaxis, year.yaxis):
        assert {"2007", "2008", "2009"} <= {*texts(axis.get_ticklabels())} <= {*map(str, range(2000, 2020))}


def test_categories_are_reconstructed_as_the_likeliest():
    """Not as the mean of their numbers, which is another category."""
    vae = table_vae({"town": {"kind": "category", "levels": ["a", "b", "c"]}, "height": "real"})
    with torch.no_grad():
        for p in vae.p_x.net.parameters():
            p.zero_()
        vae.p_x.net.layers[-1].bias.copy_(torch.tensor([1.1, 0.0, 1.0, 0.0, 0.0, 0.0]))
        part = vae.p_x(torch.zeros(2)).parts[0]
    assert part.base_dist.mode.item() == 0
    assert round(part.mean.item()) == 1
    found = panels(pv.figures.reconstructions(vae, torch.tensor([[0.0, 1.0], [2.0, 0.0]])))
    widths = [bar.get_width() for bar in found["town"].containers[0]]
    assert sorted(widths) == [0.0, 0.0, 1.0]


def test_what_is_no_table_is_refused(make_vae):
    for draw in (pv.figures.marginals, pv.figures.pairs):
        with pytest.raises(ValueError, match=r"columns of a table.*pv\.data\.load\(frame\)"):
            draw(make_vae(), torch.rand(4, 1, 8, 8))


def test_given_columns_are_not_drawn():
    cvae = pv.ConditionalVAE(KINDS, given=["town"], likelihood="auto", latent_dim=2)
    x = rows()
    assert [*panels(pv.figures.marginals(cvae, x))] == [name for name in KINDS if name != "town"]
    with pytest.raises(ValueError, match="town is given"):
        pv.figures.marginals(cvae, x, ["town"])


# --- what is not given, series, numbers as labels


def test_inpainting_keeps_what_is_given(make_vae):
    vae = make_vae()
    x = torch.rand(3, 1, 8, 8).round()
    known = torch.ones(1, 8, 8, dtype=torch.bool)
    known[:, 5:] = False
    figure = pv.figures.inpainting(vae, x, known, 4, num_particles=20)
    assert texts(figure.axes[0].get_yticklabels()) == ["given", "guess", *["drawn"] * 4, "truth"]
    pixels = mosaic(figure)
    for i in range(7):  # each row has what is given, and the last one all
        row = pixels[9 * i : 9 * i + 8, :8, 0]
        np.testing.assert_allclose(row[:5], x[0, 0, :5])
        assert (np.abs(row[5:] - x[0, 0, 5:].numpy()).max() < 1e-6) == (i == 6)
    assert np.isclose(pixels[5:8, :8], np.float32(NOT_OBSERVED)).all()
    for wrong in (known.float(), known[:, :4]):
        with pytest.raises(ValueError, match="must be booleans"):
            pv.figures.inpainting(vae, x, wrong)


@pytest.mark.parametrize(("shape", "lines"), [((12,), 1), ((12, 3), 3)])
def test_series_have_an_axis_of_time(make_vae, shape, lines):
    figure = pv.figures.reconstructions(make_vae(shape, likelihood=NORMAL), torch.randn(4, *shape))
    (axes,) = figure.axes
    assert len(axes.lines) == 2 * 4 * lines
    below, beside = axes.child_axes
    assert texts(below.get_xticklabels()) == ["0", "0", "0", "0", "11"]
    assert below.get_xlabel() == ("time" if len(shape) > 1 else "index")
    assert len(beside.get_yticks()) == 2
    image = pv.figures.reconstructions(make_vae((12, 4), likelihood=NORMAL), torch.randn(4, 12, 4))
    assert image.axes[0].images


def test_colours_keep_their_shape(make_vae):
    vae = make_vae((3, 4, 12), likelihood=NORMAL)
    figure = pv.figures.reconstructions(vae, torch.rand(5, 3, 4, 12))
    (axes,) = figure.axes
    figure.canvas.draw()
    assert axes.get_aspect() == 1.0
    assert axes.get_window_extent().height > 0.6 * figure.bbox.height * 0.5  # and no wide band around them


def test_labels_that_are_numbers_have_a_colour_bar(make_vae):
    x, ages = torch.rand(30, 1, 8, 8), torch.linspace(1.5, 40, 30)
    ages[3] = torch.nan
    figure = pv.figures.latents(make_vae(), x, ages)
    axes, bar = figure.axes
    missing, points = axes.collections
    assert len(missing.get_offsets()) == 1
    np.testing.assert_allclose(points.get_array(), ages[~ages.isnan()])
    assert bar.get_ylabel() == "label"
    assert axes.get_legend() is None
