"""Functions over any number of rows, compiled in batches."""

import warnings

import pytest
import torch

import pyro_vae as pv
from pyro_vae.svi import CompilationWarning


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return pv.VAE((6,), latent_dim=2, encoder=pv.nets.mlp(8), decoder=pv.nets.mlp(8))


def test_rows_are_as_by_the_function_itself(vae):
    x = torch.rand(70, 6).round()
    encode = pv.evaluate.Batched(lambda x: vae.encode(x).mean, batch_size=32)
    draw = pv.evaluate.Batched(lambda z: vae.decode(z).sample(), batch_size=32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(encode(x), vae.encode(x).mean)
        z = encode(x)
        torch.manual_seed(1)
        found = [draw(z), draw(z)]
    torch.manual_seed(1)
    expected = [torch.cat([vae.decode(rows).sample() for rows in z.split(32)]) for _ in range(2)]
    assert all(map(torch.equal, found, expected))
    assert not torch.equal(*found)
    assert not encode(x).requires_grad


def test_what_changes_is_followed(vae):
    x = torch.rand(64, 6)
    encode = pv.evaluate.Batched(lambda x: vae.encode(x).mean, batch_size=32)
    encode(x)
    with torch.no_grad():
        for parameter in vae.q_z.parameters():
            parameter.add_(0.1)
    torch.testing.assert_close(encode(x), vae.encode(x).mean)
    vae.double()
    torch.testing.assert_close(encode(x.double()), vae.encode(x.double()).mean)


def test_what_cannot_be_compiled_is_computed():
    x = torch.rand(10, 3)
    double = pv.evaluate.Batched(lambda x: x * 2 if x.sum() > 0 else x, batch_size=4)
    with pytest.warns(CompilationWarning, match="eagerly"):
        found = double(x)
    torch.testing.assert_close(found, 2 * x)
    torch.testing.assert_close(double(x), 2 * x)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="batch_size=0 must be positive"):
        pv.evaluate.Batched(torch.exp, batch_size=0)
    with pytest.raises(ValueError, match=r"equally many rows, not of shapes \[3\], \[2\]"):
        pv.evaluate.Batched(torch.add)(torch.ones(3), torch.ones(2))
