"""What is drawn is what was computed: numbers read off the artists, and computed here another way."""

import gc
import itertools
import math
import weakref
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

import pyro_vae as pv
from pyro_vae.data.binarize import grey
from pyro_vae.figures import latent
from pyro_vae.figures.posteriors import SIDE, _cut_off

SMALL = {"encoder": pv.nets.mlp(8), "decoder": pv.nets.mlp(8)}
NORMAL = pv.likelihoods.Normal(scale=1.0)


def area(polygons):
    """Signed areas added up, so that holes are taken away."""
    return abs(sum(0.5 * (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() for x, y in (p.T for p in polygons)))


def ellipse(mass, covariance):
    """The area of the region of highest density that holds so much of a Normal on the plane."""
    return math.pi * -2 * math.log(1 - mass) * torch.linalg.det(covariance).sqrt().item()


@pytest.fixture
def linear():
    """x = w z + noise of scale 0.5, whose posterior is known; and a guide of scale 0.3 around it."""
    torch.manual_seed(0)
    w = torch.tensor([[1.0, 0.3], [0.2, 0.8], [0.5, -0.4]])
    precision = torch.eye(2) + w.T @ w / 0.25
    to_mean = torch.linalg.inv(precision) @ w.T / 0.25

    def decoder(in_shape, out_shape):
        net = nn.Linear(2, 3, bias=False)
        net.weight = nn.Parameter(w)
        return net

    class Encoder(nn.Module):
        def __init__(self, in_shape, out_shape):
            super().__init__()
            self.raw = math.log(math.expm1(0.3))

        def forward(self, x):
            loc = x @ to_mean.T
            return torch.cat([loc, torch.full_like(loc, self.raw)], -1)

    parts = {"likelihood": pv.likelihoods.Normal(scale=0.5), "decoder": decoder, "encoder": Encoder}
    x = torch.randn(2, 3)
    return pv.VAE((3,), 2, **parts), x, MultivariateNormal(x @ to_mean.T, precision_matrix=precision)


def test_regions_of_a_posterior_have_the_area_that_they_hold(linear):
    vae, x, posterior = linear
    with torch.no_grad():
        q = vae.encode(x)
    figure = pv.figures.posteriors(vae, x, num_data=2, num_steps=1, num_samples=20)
    for i, axes in enumerate(figure.axes):
        shaded, lines = axes.collections[:2]
        outer, inner = (path.to_polygons() for path in shaded.get_paths())
        covariance = posterior.covariance_matrix[i]
        assert area(inner) == pytest.approx(ellipse(0.5, covariance), rel=0.04)
        assert area(inner) + area(outer) == pytest.approx(ellipse(0.9, covariance), rel=0.04)
        middle = inner[0].mean(0)
        np.testing.assert_allclose(middle, posterior.mean[i], atol=0.05)
        drawn = sorted(area([polygon]) for path in lines.get_paths() for polygon in path.to_polygons())
        own = torch.diag(q.variance[i])
        np.testing.assert_allclose(drawn, [ellipse(0.5, own), ellipse(0.9, own)], rtol=0.04)


def test_a_posterior_that_is_cut_off_is_told_from_one_that_is_not():
    """So that the grid is made wider."""
    prior = torch.distributions.Normal(torch.zeros(2), 3.0)
    guide = torch.distributions.Normal(torch.zeros(2), 0.03)
    first = torch.linspace(-0.5, 0.5, SIDE)
    z = torch.stack([first.repeat(SIDE), first.repeat_interleave(SIDE)], -1)
    cut = [_cut_off(p.log_prob(z).sum(-1)[:, None]).item() for p in (prior, guide)]
    assert cut == [1, 0]


def test_posteriors_of_a_mixture(make_vae):
    x = torch.rand(1, 1, 8, 8).round()
    mixture = make_vae(prior=pv.priors.MixtureOfNormals(3))
    figure = pv.figures.posteriors(mixture, x, num_steps=1, num_samples=5)
    assert len(figure.axes[0].lines[0].get_xdata()) == 5
    bayesian = make_vae(decoder=pv.nets.bayesian(pv.nets.mlp(4)))
    with pytest.raises(ValueError, match=r"are latent, drawn anew.*figures\.uncertainty"):
        pv.figures.posteriors(bayesian, x)


def test_fans_are_quantiles_of_the_draws():
    torch.manual_seed(0)
    vae, x = pv.VAE((6, 2), 2, likelihood=NORMAL, **SMALL), torch.randn(2, 6, 2)
    x[:, 3:] = torch.nan
    figure = pv.figures.forecast(vae, x, num_data=2, num_samples=50, num_particles=100)
    draws = pv.predict(vae, x, 50, num_particles=100)["x"].numpy()
    for row, axes in enumerate(figure.axes):
        i, j = divmod(row, 2)
        for band, mass in zip(axes.collections[1:3], (0.9, 0.5), strict=True):
            (path,) = band.get_paths()
            for t in range(6):
                at = path.vertices[path.vertices[:, 0] == t, 1]
                expected = np.quantile(draws[:, i, t, j], [(1 - mass) / 2, (1 + mass) / 2])
                np.testing.assert_allclose([at.min(), at.max()], expected, atol=1e-5)


def test_histograms_of_ranks_are_shares_and_their_band_holds_its_share():
    vae = pv.VAE((3,), 1, likelihood=NORMAL, encoder=pv.nets.mlp(4))
    found = pv.evaluate.calibration(vae, num_simulations=60, num_samples=19)
    above, _ = pv.figures.calibration(found).subfigs
    random = np.random.default_rng(0)
    for axes, i in zip(above.axes, found.p_values.argsort().tolist(), strict=False):
        band, histogram = axes.patches
        heights, edges, _ = histogram.get_data()
        share = np.diff(edges) / 20
        ranks = found.ranks[:, i].numpy()
        counts = [((ranks >= a) & (ranks < b)).sum() for a, b in itertools.pairwise(edges)]
        np.testing.assert_allclose(heights * share * 60, counts)
        assert sum(counts) == 60
        high, _, low = band.get_data()
        uniform = np.stack([np.histogram(random.integers(0, 20, 60), edges)[0] for _ in range(4000)])
        inside = ((uniform >= low * share * 60 - 1e-9) & (uniform <= high * share * 60 + 1e-9)).mean()
        assert 0.94 < inside < 0.995  # counts are whole


def test_statistics_are_counted_in_the_bins_that_are_drawn():
    vae, x = pv.VAE((4,), 2, likelihood=NORMAL, **SMALL), torch.randn(50, 4)
    statistics = {"whole": lambda x: x.max()}
    found = pv.evaluate.predictive_check(vae, x, statistics=statistics, num_replications=19)
    (axes,) = (axes for axes in pv.figures.predictive_check(found).axes if axes.axison)
    assert axes.lines[0].get_xdata()[0] == pytest.approx(x.max().item())
    (statistic,) = found.statistics
    for bar in axes.patches:
        left, right = bar.get_x(), bar.get_x() + bar.get_width()
        inside = (statistic.replicated > left) & (statistic.replicated < right)
        assert bar.get_height() == pytest.approx(inside.sum().item(), abs=1)  # of one on an edge
    assert sum(bar.get_height() for bar in axes.patches) == 19


def test_main_planes_have_the_variance_that_they_say():
    vae, x = pv.VAE((6,), 5, likelihood=NORMAL, **SMALL), torch.randn(200, 6)
    (axes,) = pv.figures.latents(vae, x).axes
    with torch.no_grad():
        z = vae.encode(x).mean.numpy()
    variances = np.linalg.eigvalsh(np.cov(z.T))[::-1]
    points = np.asarray(axes.collections[0].get_offsets())
    np.testing.assert_allclose(np.var(points, 0, ddof=1), variances[:2], rtol=1e-3)
    for label, variance in zip((axes.get_xlabel(), axes.get_ylabel()), variances, strict=False):
        assert f"({variance / variances.sum():.0%} of the variance)" in label


def test_the_map_of_a_table_is_of_its_columns():
    columns = {"height": "real", "kind": {"kind": "category", "levels": ["a", "b", "c"]}}
    torch.manual_seed(0)
    vae = pv.VAE(columns, 2, likelihood="auto", **SMALL)
    figure = pv.figures.manifold(vae, 4)
    panels = {axes.get_title(): axes for axes in figure.axes if axes.images}
    assert [*panels] == ["height", "kind"]
    q = torch.distributions.Normal(0, 1).icdf(torch.linspace(0.05, 0.95, 4))
    z = torch.stack([q.repeat(4), q.flip(0).repeat_interleave(4)], 1)
    with torch.no_grad():
        p = vae.decode(z)
    expected = p.mean[:, 0].reshape(4, 4)
    np.testing.assert_allclose(panels["height"].images[0].get_array(), expected, atol=1e-5)
    assert (panels["height"].get_xlabel(), panels["height"].get_ylabel()) == ("z[0]", "z[1]")
    bars = [axes for axes in figure.axes if not axes.images]
    assert [text.get_text() for text in bars[1].get_yticklabels()] == ["a", "b", "c"]


def test_a_line_of_one_latent_is_read_as_text_is():
    vae = pv.VAE((1, 4, 4), 1, **SMALL)
    found = latent.lined(vae, 3, 2)
    z = torch.distributions.Normal(0, 1).icdf(torch.linspace(0.05, 0.95, 6))[:, None]
    with torch.no_grad():
        torch.testing.assert_close(torch.cat([*found.rows]), vae.decode(z).mean)
    assert list(found.labels) == ["z = -1.6", "z = 0.23"]
    with pytest.raises(ValueError, match="of one"):
        latent.lined(pv.VAE((1, 4, 4), 2, **SMALL), 3, 2)


def test_names_among_points_do_not_lie_on_each_other():
    z = torch.tensor([[0.0, 0.0], [10.0, 1.0]])
    middles = torch.tensor([[5.0, 0.5], [5.0, 0.5001], [5.1, 0.5], [1.0, 0.1]])
    at = latent._apart(z, middles) / torch.tensor([10.0, 1.0])
    assert torch.pdist(at).min() > 0.9 * latent.APART
    torch.testing.assert_close(at[3], torch.tensor([0.1, 0.1]))


def test_images_are_drawn_within_the_range_of_the_data():
    """So that black stays black, whatever a Normal draws."""
    x = torch.rand(3, 1, 4, 4)
    vae = pv.VAE((1, 4, 4), 2, likelihood=pv.likelihoods.Normal(scale=5.0), **SMALL)
    known = torch.zeros(1, 4, 4, dtype=torch.bool)
    figure = pv.figures.inpainting(vae, x, known, 2, num_particles=20)
    pixels = np.asarray(figure.axes[0].images[0].get_array())[..., 0]
    truth = (x[:, 0] - x.min()) / (x.max() - x.min())
    np.testing.assert_allclose(pixels[-4:, :4], truth[0], atol=1e-5)
    assert pixels.min() >= 0
    assert pixels.max() <= 1


def test_figures_leave_nothing_behind():
    """Neither settings of matplotlib, nor themselves."""
    before = dict(matplotlib.rcParams)
    vae, x = pv.VAE((1, 4, 4), 2, **SMALL), torch.rand(5, 1, 4, 4).round()
    for draw in (
        lambda: pv.figures.samples(vae, 4),
        lambda: pv.figures.latents(vae, x, torch.arange(5)),
        lambda: pv.figures.training_curves([{"epoch": 1, "elbo": -1.0, "reconstruction": 1.0, "kl": 0.0}]),
    ):
        figure = draw()
        figure.draw_without_rendering()
        left = weakref.ref(figure)
        del figure
        gc.collect()
        assert left() is None
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("binarize", ["dynamic", "static"])
def test_a_summary_shows_the_data_before_they_were_binarised(binarize):
    """Beside what the model sees, which is the same draw as before."""
    x = torch.rand(40, 1, 20, 20)
    data = pv.data.load(x, binarize=binarize, test=0.3)
    split = data.test
    before = grey(split.sources["x"], 5)
    seen = split.batch(slice(0, 5))["x"]
    assert {*seen.unique().tolist()} == {0.0, 1.0}
    assert all((x[:, None] == before[None]).flatten(2).all(2).any(0))
    run = SimpleNamespace(program=pv.VAE((1, 20, 20), 2, **SMALL), data=data, history=[])
    _, rows = (axes for axes in pv.figures.summary(run).axes if axes.images)
    assert [text.get_text() for text in rows.get_yticklabels()][:3] == ["data", "binarised", "reconstructed"]
    pixels = np.asarray(rows.images[0].get_array())[..., 0]
    np.testing.assert_allclose(pixels[:20, :20], before[0, 0], atol=1e-5)
    np.testing.assert_array_equal(pixels[21:41, :20], seen[0, 0])
