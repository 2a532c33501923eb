"""Conditionals: what a network sees, what it says, and what is refused."""

import math

import pytest
import torch
from cases import EVENT_SHAPE, SMALL, D, build

import pyro_vae as pv
from pyro_vae.conditional import Conditional
from pyro_vae.families.named import Normal
from pyro_vae.seen import Label, Latent, Real, observing


def conditional(*parents, shape=(2,)):
    torch.manual_seed(0)
    return Conditional("v", Normal(), shape, parents, pv.nets.mlp(5))


def test_parents_of_different_leading_shapes_are_broadcast():
    """Particles and enumeration come ahead of the batch, in one parent and not in another."""
    p = conditional(Latent("z", (3,)), Label("y", 4), Real("a", (2,))).double()
    z, y, a = torch.randn(7, 1, 5, 3).double(), torch.arange(4).reshape(4, 1), torch.randn(5, 2).double()
    found = p(z, y, a)
    assert found.batch_shape == (7, 4, 5)
    for i, k, n in [(0, 0, 0), (6, 3, 4), (2, 1, 3)]:
        one = p(z[i, 0, n], torch.tensor(k), a[n])
        torch.testing.assert_close(found.mean[i, k, n], one.mean)
    with pytest.raises(RuntimeError, match=r"Shape mismatch|broadcast"):
        p(z, y, torch.randn(6, 2).double())


def test_without_parents_the_parameters_are_its_own():
    p = Conditional("v", pv.priors.Normal(learned=True), (3,))
    assert p().batch_shape == ()
    assert [tuple(q.shape) for q in p.parameters() if q.numel()]
    assert str(p) == "v"
    assert str(conditional(Latent("z", (3,)), Label("y", 4))) == "v | z, y"


class TestSeen:
    def test_values_are_standardised_and_gaps_lie_at_the_mean(self):
        x = 5 + 3 * torch.randn(200, 3)
        x[torch.rand_like(x) < 0.3] = math.nan
        vae = pv.VAE((3,), 2, likelihood=pv.likelihoods.Normal(), **SMALL)
        vae.initialize(pv.data.Split(x))
        (seen,) = vae.q_z.seen
        assert seen.gaps
        assert seen.shape == (6,)
        values, mask = seen(x).chunk(2, -1)
        assert torch.equal(mask, (~x.isnan()).float())
        assert not values[x.isnan()].any()
        known = torch.where(x.isnan(), math.nan, values)
        torch.testing.assert_close(known.nanmean(0), torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(known.square().nanmean(0).sqrt(), torch.ones(3), atol=1e-5, rtol=0)
        whole = x.nan_to_num(5.0)
        assert torch.equal(seen(whole)[:, 3:], torch.ones(200, 3))

    @pytest.mark.parametrize("shape", [(3,), (2, 3), (1, 4, 4), (3, 4, 4), ()])
    def test_a_mask_beside_values_of_any_shape(self, shape):
        seen = Real("x", shape)
        x = torch.randn(5, 7, *shape)
        assert seen(x).shape == (5, 7, *seen.shape)
        seen.gaps = True
        x = torch.where(torch.rand_like(x) < 0.4, math.nan, x)
        found = seen(x)
        assert found.shape == (5, 7, *seen.shape)
        assert found.isfinite().all()
        assert math.prod(seen.shape) == 2 * math.prod(shape)
        assert found.flatten(2)[..., math.prod(shape) :].sum() == (~x.isnan()).sum()

    @pytest.mark.parametrize("shape", [(1, 8, 8), (8, 8), (3, 8, 8)])
    def test_images_with_gaps_through_convolutions(self, shape):
        x = torch.rand(20, *shape)
        x[torch.rand_like(x) < 0.3] = math.nan
        nets = {"encoder": pv.nets.conv(4, hidden_dim=8), "decoder": pv.nets.conv(4, hidden_dim=8)}
        vae = pv.VAE(shape, 2, likelihood=pv.likelihoods.Normal(scale="shared"), **nets)
        vae.initialize(pv.data.Split(x))
        assert pv.objectives.log_weights(vae, x, 3).isfinite().all()

    def test_without_gaps_there_is_no_mask(self):
        vae = build()
        vae.initialize(pv.data.Split(torch.rand(20, *EVENT_SHAPE).round()))
        assert not vae.gaps
        x = torch.rand(4, *EVENT_SHAPE).round()
        x[0, 0, 0] = math.nan  # met later on: seen at the mean
        assert vae.encode(x).mean.isfinite().all()

    def test_a_network_with_a_mask_is_loaded_where_gaps_are_known(self):
        x = torch.rand(20, *EVENT_SHAPE).round()
        x[torch.rand_like(x) < 0.3] = math.nan
        vae, other = build(), build(seed=3)
        vae.initialize(pv.data.Split(x))
        with pytest.raises(RuntimeError, match="size mismatch"):
            other.load_state_dict(vae.state_dict())
        other.see_gaps(vae.gaps)
        other.load_state_dict(vae.state_dict())
        torch.testing.assert_close(other.encode(x).mean, vae.encode(x).mean)

    def test_labels(self):
        seen = Label("y", 3)
        assert seen(torch.tensor([0, 2])).tolist() == [[1, 0, 0], [0, 0, 1]]
        assert seen(torch.tensor([1.0, math.nan])).tolist() == [[0, 1, 0], [0, 0, 0]]

    def test_nobody_looks_where_gaps_are_known(self):
        vae = build()
        x = torch.rand(4, *EVENT_SHAPE).round()
        x[0, 0, 0] = math.nan
        with observing(frozenset()), pytest.raises(ValueError, match="nan"):
            pv.objectives.log_weights(vae, x)
        with observing(frozenset({"x"})):
            assert pv.objectives.log_weights(vae, x).isfinite().all()


def test_wrong_outputs_are_named():
    p = Conditional("v", Normal(), (2,), (Latent("z", (3,)),), lambda i, o: torch.nn.Linear(3, 5))
    with pytest.raises(ValueError, match=r"network of v \| z returned shape \[4, 5\].*\[4, 4\]"):
        p(torch.zeros(4, 3))


def test_families_are_copied_and_made_once():
    family = Normal()
    p, q = (
        conditional(Latent("z", (D,))),
        Conditional("v", family, (2,), (Latent("z", (D,)),), pv.nets.mlp(5)),
    )
    assert q.family is not family
    assert not hasattr(family, "event_shape")
    assert p.event_shape == q.event_shape == (2,)
