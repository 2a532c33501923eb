"""Scores by hand, of codes that are the factors, that are mixed, and that have nothing of them."""

import math

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.data import DataError
from pyro_vae.evaluate import probes
from pyro_vae.evaluate.disentanglement import _focus


@pytest.fixture
def factors():
    return torch.cartesian_prod(*[torch.arange(k) for k in (4, 3, 5)]).repeat(20, 1).double()


def test_codes_that_are_the_factors(factors):
    z = torch.cat([factors, torch.randn(len(factors), 1, dtype=torch.float64)], 1)
    found = pv.evaluate.disentanglement(z, factors)
    assert found.mig > 0.97  # the noise's mutual information, by chance, and over 20 bins
    assert min(found.disentanglement, found.completeness, found.informativeness) > 0.999
    np.testing.assert_allclose(found.importance[:3], np.eye(3), atol=1e-3)
    told = found.mutual_information.diagonal()
    torch.testing.assert_close(told, torch.tensor([math.log(k) for k in (4, 3, 5)]).double())
    assert "3 factors" in str(found)
    assert "<table>" in found._repr_html_()


def test_a_gap_by_hand():
    """Two bits, of which another latent tells one: (2 - 1) / 2; a latent is of no use beside the first."""
    y = torch.arange(4).repeat(200).double()
    z = torch.stack([y, (y >= 2).double(), torch.zeros(800).double()], 1)
    found = pv.evaluate.disentanglement(z, {"level": y})
    assert found.factors == ("level",)
    assert found.mig == pytest.approx(0.5)
    torch.testing.assert_close(
        found.mutual_information[:, 0], torch.tensor([2.0, 1.0, 0.0]).double() * math.log(2)
    )
    assert found.disentanglement == 1  # of one factor


def test_separation_by_hand():
    """Of numbers the gap of squared correlations; of classes that of accuracies."""
    torch.manual_seed(0)
    y, noise = torch.randn(2, 20_000).double()
    z = torch.stack([2 * y, 0.6 * y + 0.8 * noise], 1)
    found = pv.evaluate.disentanglement(z[:2000], y[:2000, None])
    assert found.sap == pytest.approx(1 - 0.36, abs=0.03)
    label = (y > 0).double()
    split = pv.evaluate.disentanglement(torch.stack([label, noise], 1)[:2000], label[:2000, None])
    assert split.sap == pytest.approx(0.5, abs=0.04)


def test_a_rotation_takes_it_away():
    """Both latents tell both factors as well."""
    torch.manual_seed(0)
    y = torch.rand(2000, 2).double() - 0.5
    turned = y @ torch.tensor([[1.0, -1.0], [1.0, 1.0]]).double() / 2**0.5
    straight, mixed = (pv.evaluate.disentanglement(z, y) for z in (y, turned))
    assert min(straight.mig, straight.sap, straight.disentanglement, straight.completeness) > 0.9
    assert max(mixed.mig, mixed.sap, mixed.disentanglement, mixed.completeness) < 0.05
    assert mixed.informativeness > 0.95


def test_entropies_of_importance_by_hand():
    """Rows (1, 0) and (1/2, 1/2): focus 1 and 0; shares 1/4 and 3/4."""
    focus, share = _focus(np.array([[0.5, 0.0], [0.75, 0.75]]))
    np.testing.assert_allclose(focus, [1, 0], atol=1e-9)
    np.testing.assert_allclose(share, [0.25, 0.75])


def test_seeds_and_refusals(factors):
    z = factors + torch.randn_like(factors)
    assert str(pv.evaluate.disentanglement(z, factors)) == str(pv.evaluate.disentanglement(z, factors))
    with pytest.raises(DataError, match="must be"):
        pv.evaluate.disentanglement(z[:, :1], factors)
    with pytest.raises(DataError, match="must be"):
        pv.evaluate.disentanglement(z[:7], factors)
    with pytest.raises(DataError, match="factor 1 ranges over"):
        pv.evaluate.disentanglement(z, factors * torch.tensor([1.0, 0.0, 1.0]))
    for none in (factors[:, 0], {}, {"shape": None}, {"shape": ["cat"] * len(z)}):
        with pytest.raises(DataError, match="mapping from names"):
            pv.evaluate.disentanglement(z, none)


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_codes_and_factors_that_are_not_finite(factors, odd):
    z = factors.clone().requires_grad_()
    far = torch.where(torch.arange(len(z))[:, None] == 3, odd, factors)
    with pytest.raises(DataError, match=f"codes of 1 of {len(z)} data are not finite"):
        pv.evaluate.disentanglement(far, factors)
    with pytest.raises(DataError, match="factor 0 ranges over"):
        pv.evaluate.disentanglement(z, far)


def test_codes_of_which_nothing_can_be_told(factors):
    found = pv.evaluate.disentanglement(torch.zeros(len(factors), 3), factors)
    assert (found.mig, found.sap, found.disentanglement, found.completeness) == pytest.approx((0, 0, 0, 0))


def test_of_a_program(make_vae):
    x, y = torch.rand(60, 1, 8, 8).round(), torch.arange(60) % 3
    found = pv.evaluate.anatomy(make_vae(), x, num_aggregate=20)
    scores = pv.evaluate.disentanglement(found.sites["z"].codes, {"class": y, "number": torch.rand(60)})
    assert scores.importance.shape == (2, 2)
    torch.testing.assert_close(scores.importance.sum(0), torch.ones(2).double())


def test_classes_of_few_data_are_told_of():
    codes = torch.randn(20, 2)
    found = probes.probe(codes, torch.tensor([0] * 8 + [1] * 8 + [2] * 4), seed=0)
    assert (found.num_data, found.num_left_out) == (16, 4)
    assert "4 data left out, of classes of fewer than 5" in str(found)
