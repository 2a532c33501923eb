import io

import matplotlib.pyplot as plt
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

import pyro_vae as pv


def mosaic(figure):
    (image,) = figure.axes[0].images
    return np.asarray(image.get_array())


class Echo(nn.Module):
    """A decoder whose every pixel is z[0] + 10 z[1]."""

    def __init__(self, in_shape, out_shape):
        super().__init__()
        self.out_shape = out_shape

    def forward(self, z):
        value = z[..., 0] + 10 * z[..., 1]
        return value.reshape(*value.shape, *[1] * len(self.out_shape)).expand(*value.shape, *self.out_shape)


def echo(shape=(1, 4, 4), **parts):
    return pv.VAE(shape, 2, likelihood=pv.likelihoods.Normal(scale=1.0), decoder=Echo, **parts)


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
    ):
        assert isinstance(figure, Figure)
        figure.savefig("figure.png")
        with Image.open("figure.png") as saved, Image.open(io.BytesIO(figure._repr_png_())) as shown:
            assert shown.size == saved.size
    assert not plt.get_fignums()


def test_manifold_lies_on_the_quantiles():
    """Left to right z[0] rises, bottom to top z[1], over norm.ppf(linspace(.05, .95, n))."""
    pixels = mosaic(pv.figures.manifold(echo(), 5))[::5, ::5, 0]
    q = torch.distributions.Normal(0, 1).icdf(torch.linspace(0.05, 0.95, 5))
    expected = q[None, :] + 10 * q.flip(0)[:, None]
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    np.testing.assert_allclose(pixels, expected, atol=1e-5)


def test_quantiles_of_a_prior_without_a_closed_form():
    p = dist.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.5, 4.0]]))
    q = pv.figures._quantiles(echo(prior=p), 3)
    expected = 1.645 * torch.tensor([[-1.0, -2.0], [0.0, 0.0], [1.0, 2.0]])
    torch.testing.assert_close(q, expected, atol=0.05, rtol=0)


def test_manifold_needs_a_plane(make_vae):
    with pytest.raises(ValueError, match="latent_dim=2"):
        pv.figures.manifold(make_vae(latent_dim=3))


def test_reconstructions_show_the_data(make_vae):
    x = torch.rand(3, 1, 8, 8)
    vae = make_vae(likelihood=pv.likelihoods.PseudoBernoulli())
    pixels = mosaic(pv.figures.reconstructions(vae, x))
    scale = x.max() - x.min()
    np.testing.assert_allclose(pixels[:8, 9:17, 0], (x[1, 0] - x.min()) / scale, atol=1e-5)
    assert pixels.shape == (17, 26, 3)


def test_interpolation_ends_at_the_data():
    x = torch.randn(2, 1, 4, 4)
    pixels = mosaic(pv.figures.interpolation(echo(), x[0], x[1], 3))
    assert pixels.shape == (4, 5 * 5 - 1, 3)


def test_traversals_vary_one_latent():
    vae = echo()
    figure = pv.figures.traversals(vae, torch.randn(1, 4, 4), 3)
    rows = mosaic(figure)[::5, ::5, 0]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    steps = dict(zip(labels, np.diff(rows, axis=1), strict=True))
    np.testing.assert_allclose(steps["z[1]"], 10 * steps["z[0]"], rtol=1e-3)


@pytest.mark.parametrize(("latent_dim", "label"), [(1, "jitter"), (2, "z[1]"), (5, "principal")])
def test_latents(make_vae, latent_dim, label):
    vae = make_vae(latent_dim=latent_dim)
    labels = torch.arange(30) % 3
    figure = pv.figures.latents(vae, torch.rand(30, 1, 8, 8), labels)
    (axes,) = figure.axes
    assert label in axes.get_ylabel()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["0", "1", "2"]
    points, *keys = axes.collections
    assert len(points.get_offsets()) == 30
    for label_, key in enumerate(keys):  # every point in the colour of its class
        assert (points.get_facecolors()[label_::3, :3] == key.get_facecolors()[0, :3]).all()


def test_training_curves():
    history = [
        {
            "epoch": i,
            "elbo": -100.0 / i,
            "reconstruction": 90.0 / i,
            "kl": 10.0 / i,
            "validation_elbo": -101.0 / i,
        }
        for i in range(1, 30)
    ]
    figure = pv.figures.training_curves(history)
    lines = figure.axes[0].lines
    assert [line.get_label() for line in lines] == ["training", "validation"]
    assert lines[0].get_ydata()[3] == -25.0
    assert len(figure.axes[1].lines) == 1
