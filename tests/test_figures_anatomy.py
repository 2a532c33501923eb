"""What is drawn of an anatomy, of rates and distortions, and of neighbours among the codes."""

import math

import numpy as np
import pytest
import torch
from cases import batch_of, make

import pyro_vae as pv
from pyro_vae.checks import ConfigError


def heights(axes):
    return [bar.get_height() for bar in axes.patches]


def test_anatomy_of_one_site(make_vae):
    vae = make_vae(latent_dim=4)
    with torch.no_grad():
        for d in (2, 6):
            vae.q_z.net.layers[-1].weight[d], vae.q_z.net.layers[-1].bias[d] = 0.0, 0.0
    found = pv.evaluate.anatomy(vae, torch.rand(50, 1, 8, 8).round(), num_aggregate=50)
    left, right = pv.figures.anatomy(found).axes
    drawn = heights(left)
    site = found.sites["z"]
    np.testing.assert_allclose(drawn, site.kl_by_latent.sort(descending=True).values)
    colours = [bar.get_facecolor() for bar in left.patches]
    assert colours[0] == colours[2] != colours[3]
    assert left.get_xticklabels()[0].get_text() == "z: 3 of 4\nabove 0.01"
    assert left.lines[0].get_ydata()[0] == 0.01
    assert sum(left.get_xlim()) / 2 == 1.5  # in the middle of four
    widths = [bar.get_width() for bar in right.patches]
    expected = [site.mutual_information, site.total_correlation, site.dimension_wise_kl]
    np.testing.assert_allclose(widths, expected)
    assert sum(widths) == pytest.approx(found.kl, abs=1e-5)
    labels = [text.get_text() for text in right.get_legend().get_texts()]
    assert labels[-3:] == ["mutual information", "total correlation", "dimension-wise KL"]


@pytest.mark.parametrize("name", ["HierarchicalVAE-bottom-up", "HierarchicalVAE-top-down", "CountVAE-latent"])
def test_anatomy_of_several_sites(name):
    """A bar for each and for all, in which parts add up to the KL."""
    program = make(name)
    found = pv.evaluate.anatomy(program, batch_of(program, 30), num_aggregate=50)
    left, right = pv.figures.anatomy(found).axes
    assert len(left.patches) == sum(site.num_latents for site in found.sites.values())
    names = [label.get_text() for label in right.get_yticklabels()]
    assert names == ["all", *found.sites]
    for y, part in enumerate([found, *found.sites.values()]):
        widths = [bar.get_width() for bar in right.patches if round(bar.get_y() + bar.get_height() / 2) == y]
        assert sum(widths) == pytest.approx(part.kl, abs=1e-4)


def test_anatomy_of_latents_that_depend_on_each_other(make_vae):
    """What x explains of their variance; and the KL whole, of a guide without a density elsewhere."""
    for guide in (pv.guides.FullRankNormal(), pv.guides.Flow("planar")):
        vae = make_vae(guide=guide, latent_dim=3)
        found = pv.evaluate.anatomy(vae, torch.rand(30, 1, 8, 8).round(), num_aggregate=30)
        left, right = pv.figures.anatomy(found).axes
        site = found.sites["z"]
        share = (site.variances / site.spreads).sort(descending=True).values
        np.testing.assert_allclose(heights(left), share)
        assert "variance that x explains" in left.get_title()
        assert site.collapsed == int((share <= 0.01).sum())
        kept = 3 - site.collapsed
        assert left.get_xticklabels()[0].get_text() == f"z: {kept} of 3\nabove 0.01"
        assert sum(bar.get_width() for bar in right.patches) == pytest.approx(found.kl, abs=1e-5)


def test_a_latent_has_collapsed_in_any_unit():
    """Of a wide latent that x explains nothing of the mean varies by more than 0.01, and it is grey."""
    nan = torch.full((2,), math.nan)
    variances, spreads = torch.tensor([0.5, 50.0]), torch.tensor([100.0, 100.0])
    site = pv.evaluate.Latents(
        1.0, nan[0], nan[0], nan[0], nan[0], nan, variances, spreads, torch.zeros(3, 2), {}
    )
    assert site.dead.tolist() == [True, False]
    assert site.collapsed == 1
    found = pv.evaluate.Anatomy(1.0, 1.0, math.nan, math.nan, {"z": site}, {}, 100)
    left, _ = pv.figures.anatomy(found).axes
    assert heights(left) == pytest.approx([0.5, 0.005])
    assert left.get_xticklabels()[0].get_text() == "z: 1 of 2\nabove 0.01"
    assert left.patches[0].get_facecolor() != left.patches[1].get_facecolor()


def test_rate_distortion(make_vae):
    x = torch.rand(40, 1, 8, 8).round()
    programs = {1: make_vae(), 4.0: make_vae(latent_dim=5), "wide": make_vae(encoder=pv.nets.mlp(20))}
    found = pv.evaluate.rate_distortion(programs, x)
    assert list(found.points) == ["1", "4.0", "wide"]
    for name, program in programs.items():
        assert found.points[str(name)] == pv.evaluate.elbo(program, x)
    lines = str(found).splitlines()
    assert len(lines) == 4
    assert "counting measure" in lines[-1]
    assert "<table>" in found._repr_html_()
    (axes,) = pv.figures.rate_distortion(found).axes
    points = axes.lines[1]
    order = sorted(found.points.values(), key=lambda point: point.kl)
    np.testing.assert_allclose(points.get_xdata(), [point.kl for point in order])
    np.testing.assert_allclose(points.get_ydata(), [point.reconstruction for point in order])
    for line in axes.lines[2:]:
        assert sum(line.get_xydata()[0]) == pytest.approx(sum(line.get_xydata()[1]))
    twin = make_vae()
    (axes,) = pv.figures.rate_distortion(pv.evaluate.rate_distortion({"one": twin, "two": twin}, x)).axes
    assert axes.texts[0].get_text() == "one, two"


def test_rates_of_different_measures_are_not_compared(make_vae):
    programs = {"grey": make_vae(likelihood=pv.likelihoods.Normal()), "binary": make_vae()}
    with pytest.raises(ConfigError, match="different measures"):
        pv.evaluate.rate_distortion(programs, torch.rand(40, 1, 8, 8).round())
    with pytest.raises(ConfigError, match="one or more"):
        pv.evaluate.rate_distortion({}, torch.rand(4, 1, 8, 8).round())


def test_tsne_keeps_neighbours():
    """Three clusters in five dimensions are three in the plane."""
    torch.manual_seed(0)
    y = torch.arange(150) % 3
    x = 10 * torch.nn.functional.one_hot(y, 5).float() + 0.1 * torch.randn(150, 5)
    vae = pv.VAE((5,), 5, likelihood=pv.likelihoods.Normal(), encoder=pv.nets.mlp(), decoder=pv.nets.mlp(4))
    state = torch.get_rng_state()
    figure = pv.figures.tsne(vae, pv.data.Split(x, labels=y))
    assert torch.equal(torch.get_rng_state(), state)
    (axes,) = figure.axes
    points = np.asarray(axes.collections[0].get_offsets())
    assert points.shape == (150, 2)
    distance = np.linalg.norm(points[:, None] - points, axis=-1)
    same = (y[:, None] == y).numpy()
    assert distance[same].max() < distance[~same].min()
    assert axes.get_title() == "t-SNE of the mean of each q(z|x), 150 data"
    assert len(axes.get_legend().get_texts()) == 3
    again = pv.figures.tsne(vae, x, y)
    np.testing.assert_array_equal(points, again.axes[0].collections[0].get_offsets())


def test_tsne_of_one_latent_and_of_few_data(make_vae):
    pv.figures.tsne(make_vae(latent_dim=1), torch.rand(10, 1, 8, 8))
    with pytest.raises(ValueError, match="4 data or more"):
        pv.figures.tsne(make_vae(), torch.rand(3, 1, 8, 8))
    with pytest.raises(ValueError, match="one for each of the 10 data"):
        pv.figures.tsne(make_vae(), torch.rand(10, 1, 8, 8), torch.zeros(3))
    numbers = pv.figures.tsne(make_vae(), torch.rand(10, 1, 8, 8), torch.rand(10))
    assert numbers.axes[1].get_ylabel() == "label"
    assert math.isfinite(np.asarray(numbers.axes[0].collections[0].get_offsets()).sum())
