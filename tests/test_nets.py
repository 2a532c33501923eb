import pytest
import torch
from torch import nn

import pyro_vae as pv


@pytest.mark.parametrize(
    "shape",
    [(1, 28, 28), (1, 28, 20), (1, 8, 8), (3, 7, 5), (2, 1, 9), (1, 1, 1), (9, 6), (3, 33, 17)],
    ids=str,
)
@pytest.mark.parametrize("channels", [(), (4,), (4, 5, 6)], ids=str)
def test_conv_fits_any_image(shape, channels):
    encoder = pv.nets.conv(*channels, hidden_dim=8)(shape, (6,))
    decoder = pv.nets.conv(*channels, hidden_dim=8)((3,), shape)
    for leading in [(), (2,), (5, 2)]:
        assert encoder(torch.rand(*leading, *shape)).shape == (*leading, 6)
        assert decoder(torch.rand(*leading, 3)).shape == (*leading, *shape)


@pytest.mark.parametrize("make", [pv.nets.mlp(7), pv.nets.mlp(), pv.nets.mlp(5, 4)])
def test_mlp(make):
    net = make((2, 3), (4, 5))
    for leading in [(), (2,), (5, 2)]:
        assert net(torch.rand(*leading, 2, 3)).shape == (*leading, 4, 5)


def test_layers():
    net = pv.nets.mlp(7, 5, activation=nn.Tanh)((2, 3), (4,))
    kinds = [type(layer) for layer in net.layers]
    assert kinds == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]
    assert [layer.out_features for layer in net.layers[::2]] == [7, 5, 4]
    assert pv.nets.mlp()((3,), (2,)).layers[0].weight.shape == (2, 3)
    conv = pv.nets.conv(4, 5)((3, 8, 8), (2,))
    assert [layer.out_channels for layer in conv.convolutions if isinstance(layer, nn.Conv2d)] == [4, 5]
    mirror = pv.nets.conv(4, 5)((2,), (3, 8, 8))
    up = [layer for layer in mirror.layers if isinstance(layer, nn.ConvTranspose2d)]
    assert [(layer.in_channels, layer.out_channels) for layer in up] == [(5, 4), (4, 3)]


def test_leading_dimensions_are_independent():
    net = pv.nets.conv(4)((1, 6, 6), (3,))
    x = torch.rand(2, 5, 1, 6, 6)
    torch.testing.assert_close(net(x)[1, 3], net(x[1, 3]))


def test_variance_is_kept_across_layers():
    net = pv.nets.mlp(300, 300, activation=nn.Identity)((300,), (300,))
    y = net(torch.randn(500, 300))
    assert 0.5 < y.std().item() < 2


@pytest.mark.parametrize("shapes", [((5,), (3,)), ((1, 4, 4), (1, 4, 4))])
def test_conv_refuses_what_is_no_image(shapes):
    with pytest.raises(ValueError, match=r"nets.mlp\(\)"):
        pv.nets.conv()(*shapes)


def test_nets_may_be_made_for_a_single_batch_dimension():
    class Decoder(nn.Module):
        def __init__(self, in_shape, out_shape):
            super().__init__()
            self.linear, self.norm = nn.Linear(2, 64), nn.BatchNorm1d(64)

        def forward(self, z):
            return self.norm(self.linear(z)).reshape(-1, 1, 8, 8)

    vae = pv.VAE((1, 8, 8), 2, decoder=Decoder)
    assert vae.decode(torch.zeros(5, 4, 2)).batch_shape == (5, 4)


def test_outputs_of_the_wrong_shape_are_named():
    vae = pv.VAE((5,), 2, encoder=lambda i, o: nn.Linear(5, 3))
    with pytest.raises(ValueError, match=r"network of z \| x returned shape \[7, 3\].*must be \[7, 4\]"):
        vae.encode(torch.zeros(7, 5))


def test_own_net():
    class Mine(nn.Module):
        def __init__(self, in_shape, out_shape):
            super().__init__()
            self.linear = nn.Linear(in_shape[0], out_shape[0])

        def forward(self, x):
            return self.linear(x)

    vae = pv.VAE((5,), 2, encoder=Mine, decoder=lambda i, o: nn.Linear(i[0], o[0]))
    assert vae.decode(vae.encode(torch.zeros(3, 5)).sample()).sample().shape == (3, 5)


@pytest.mark.parametrize("make", [pv.nets.mlp(7), pv.nets.conv(4, hidden_dim=8)])
def test_several_inputs(make):
    """An image and a vector, side by side, and what is seen of each."""
    shapes, leading = ((1, 6, 6), (3,), (2,)), (5, 2)
    net = make(shapes, (4,)).double()
    inputs = [torch.rand(*leading, *shape, dtype=torch.float64) for shape in shapes]
    y = net(*inputs)
    assert y.shape == (*leading, 4)
    for i in range(3):
        moved = [x + (i == j) for j, x in enumerate(inputs)]
        assert not torch.allclose(net(*moved), y)
    torch.testing.assert_close(net(*[x[1, 0] for x in inputs]), y[1, 0])
    decoder = pv.nets.conv(4, hidden_dim=8)(((3,), (2,)), (1, 6, 6))
    assert decoder(torch.rand(5, 3), torch.rand(5, 2)).shape == (5, 1, 6, 6)


def test_factories_are_their_text():
    assert repr(pv.nets.mlp(400, 200)) == "mlp(400, 200)"
    assert repr(pv.nets.mlp(activation=nn.Tanh)) == "mlp(activation=Tanh)"
    assert repr(pv.nets.conv()) == "conv(32, 64)"
    assert repr(pv.nets.conv(4, hidden_dim=8)) == "conv(4, hidden_dim=8)"
    assert pv.nets.mlp(3) == pv.nets.mlp(3) != pv.nets.mlp(4)
    assert len({pv.nets.mlp(3), pv.nets.mlp(3)}) == 1


@pytest.mark.parametrize("net", [nn.Linear(5, 4), "mlp(400)", None])
def test_what_is_no_factory_is_named(net):
    with pytest.raises(TypeError, match=r"made by a factory.*was given .*pv.nets.mlp\(400\)"):
        pv.VAE((5,), 2, encoder=net)
