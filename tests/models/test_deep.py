"""Many levels: with skips, of images, and under free bits."""

import pytest
import torch
from linear import DEPTH, deep

import pyro_vae as pv
from pyro_vae.objectives import FreeBits, elbo_terms, log_weights
from pyro_vae.objectives.importance import traces

either = pytest.mark.parametrize("inference", ["bottom_up", "top_down"])
RESNET = dict.fromkeys(("encoder", "decoder", "between"), pv.nets.resnet(4, 1))
IMAGES = ((2, 4, 4), (2, 2, 2), 3)
"""Levels of images, and at the top a vector."""


@pytest.mark.usefixtures("double")
class TestLinear:
    @either
    def test_the_truths_agree_with_each_other(self, inference):
        s = deep(inference)
        assert s.gap.min() > 0.01
        torch.testing.assert_close(-sum(s.expected.values()) + s.gap, s.log_p)

    @either
    def test_weights_are_the_evidence_when_the_guide_is_the_posterior(self, inference):
        s = deep(inference, exact=True)
        torch.testing.assert_close(s.gap, torch.zeros(6), atol=1e-9, rtol=0)
        torch.testing.assert_close(log_weights(s.program, s.batch, 7), s.log_p.expand(7, 6))

    @either
    def test_each_site_adds_its_term(self, inference):
        s = deep(inference)
        with torch.no_grad():
            found = elbo_terms(*traces(s.program, s.batch, 20_000))
        assert set(found) == set(s.expected) == {"x", *(f"z{level + 1}" for level in range(DEPTH))}
        for site, term in found.items():
            error = 5 * term.std(0) / 20_000**0.5 + 1e-10
            assert ((term.mean(0) - s.expected[site]).abs() < error).all(), site
        bound = pv.evaluate.elbo(s.program, s.batch, num_samples=2000)
        assert bound.elbo == pytest.approx((s.log_p - s.gap).mean().item(), abs=5 * bound.draws_error)

    def test_free_bits_leave_out_the_levels_below_the_threshold(self):
        """The gradient is that of the reconstruction and the KLs above it, draw for draw."""
        s = deep("top_down")
        low, *_, high = sorted(s.expected[f"z{level + 1}"].mean().item() for level in range(DEPTH))
        nats = (low + high) / 2
        program, batch = s.program, s.batch
        torch.manual_seed(1)
        loss = FreeBits(nats).differentiable_loss(program.model, program.guide, batch)
        torch.manual_seed(1)
        terms = {site: t.reshape(-1, 6).mean(0) for site, t in elbo_terms(*traces(program, batch, 1)).items()}
        levels = {site: terms[site].mean() for site in program.sites}
        paid = [kl for kl in levels.values() if kl > nats]
        assert 0 < len(paid) < DEPTH
        by_hand = terms["x"].mean() + sum(paid) + nats * (DEPTH - len(paid))
        torch.testing.assert_close(loss, 6 * by_hand)
        parameters = list(program.parameters())
        ours = torch.autograd.grad(loss, parameters, allow_unused=True)
        theirs = torch.autograd.grad(6 * by_hand, parameters, allow_unused=True)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other)
