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


def test_each_sees_all_that_comes_before_it():
    program = pv.HierarchicalVAE((6,), (2, 2, 2), inference="top_down", skip=True)
    told = program.explain()
    assert "p(z1|z3, z2) = Normal" in told
    assert "p(x|z3, z2, z1) = Bernoulli" in told
    assert "q(z1|z3, z2, x) =" in told
    assert "KL of z3, z2, z1: reported in closed form" in told
    up = pv.HierarchicalVAE((6,), (2, 2, 2), skip=True).explain()
    assert "q(z3|z1, z2, x) = Normal" in up
    assert not pv.HierarchicalVAE((6,), (2, 2, 2)).skip


class TestResNet:
    @pytest.mark.parametrize(
        ("seen", "out"),
        [
            (((1, 9, 6), (2, 3, 3)), (3, 5, 3)),
            ((4, 1, 1), (8, 8)),
            (((3,), (2, 4, 4), (5,)), (2, 4, 4)),
            ((1, 7, 5), (6,)),
            ((3,), (4,)),
        ],
        ids=str,
    )
    def test_fits_any_images(self, seen, out):
        net = pv.nets.resnet(4, 1)(seen, out)
        shapes = pv.nets.as_shapes(seen)
        for leading in [(), (2,), (5, 2)]:
            assert net(*(torch.rand(*leading, *shape) for shape in shapes)).shape == (*leading, *out)
        rows = [torch.rand(5, 2, *shape) for shape in shapes]
        torch.testing.assert_close(net(*rows)[3, 1], net(*(row[3, 1] for row in rows)))
        net(*rows).square().sum().backward()
        assert all(p.grad.abs().sum() > 0 for p in net.parameters())

    def test_each_input_matters_where_it_is(self):
        net = pv.nets.resnet(4, 1)(((1, 8, 8), (2, 4, 4)), (1, 8, 8))
        x, z = torch.zeros(1, 8, 8), torch.zeros(2, 4, 4)
        base, one, other = net(x, z), x.clone(), z.clone()
        one[0, 7, 7] = other[0, 0, 0] = 1.0
        of_x, of_z = (net(one, z) != base)[0], (net(x, other) != base)[0]
        assert of_x[7, 7]
        assert not of_x[:3].any()  # four convolutions, of a pixel to each side
        assert of_z[0, 0]
        assert not of_z[7].any()

    def test_halves_down_to_the_size_of_what_is_emitted(self):
        """And so sees every pixel, where the nearest one alone would be seen."""
        net = pv.nets.resnet(3, 1)((1, 28, 28), (2, 4, 4))
        strides = [layer.stride[0] for layer in net.stems[0] if isinstance(layer, torch.nn.Conv2d)]
        assert strides == [2, 2, 2]
        x = torch.zeros(1, 28, 28, requires_grad=True)
        net(x).sum().backward()
        assert (x.grad != 0).all()

    def test_is_made_again_from_its_text(self):
        for made in (pv.nets.resnet(), pv.nets.resnet(8, num_blocks=1, activation=torch.nn.ReLU)):
            assert pv.registry.read("between", pv.registry.write(made)) == made
        assert repr(pv.nets.resnet(8, 1)) == "resnet(8, num_blocks=1)"
        with pytest.raises(ValueError, match="num_blocks=0 must be a positive"):
            pv.nets.resnet(8, 0)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A run of levels of images, two epochs of a few data."""
    torch.manual_seed(0)
    program = pv.HierarchicalVAE((1, 8, 8), IMAGES, inference="top_down", skip=True, **RESNET)
    data = pv.data.load(torch.rand(60, 1, 8, 8).round())
    folder = tmp_path_factory.mktemp("images") / "run"
    loss = FreeBits(0.3)
    return pv.fit(program, data, epochs=2, batch_size=20, loss=loss, folder=folder, progress=False)


class TestImages:
    @either
    def test_are_sites_of_their_shapes(self, inference):
        program = pv.HierarchicalVAE((1, 8, 8), IMAGES, inference=inference, skip=True, **RESNET)
        drawn = program.generate(5)
        assert [tuple(drawn[site].shape[1:]) for site in program.sites] == [(2, 4, 4), (2, 2, 2), (3,)]
        log_w = log_weights(program, torch.rand(4, 1, 8, 8).round(), 3)
        assert log_w.shape == (3, 4)
        (-log_w.mean()).backward()
        assert all(p.grad.abs().sum() > 0 for p in program.parameters())

    def test_without_skips(self):
        """A network between images of different sizes, of the raw numbers of one too."""
        program = pv.HierarchicalVAE((1, 8, 8), IMAGES, inference="top_down", **RESNET)
        assert log_weights(program, torch.rand(4, 1, 8, 8).round(), 3).isfinite().all()

    def test_history_has_the_kl_of_each_level_and_the_elbo_is_no_loss(self, images):
        for row in images.history:
            levels = [row[f"kl_z{level}"] for level in (1, 2, 3)]
            assert row["kl"] == pytest.approx(sum(levels))
            assert row["elbo"] == pytest.approx(-row["reconstruction"] - row["kl"])
        # A mean over steps of what is no less than each of them.
        assert row["loss"] >= row["reconstruction"] + sum(max(kl, 0.3) for kl in levels) - 1e-4
        best = max(row["validation_elbo"] for row in images.history)
        bound = pv.evaluate.elbo(images.program, images.data.validation, num_samples=1)
        assert bound.elbo == pytest.approx(best, rel=1e-5)

    def test_are_evaluated_drawn_and_kept(self, images):
        program, x = images.program, images.data.test.batch(slice(0, 6))
        units = pv.evaluate.active_units(program, x, num_samples=20)
        assert set(units) == set(program.sites)
        anatomy = pv.evaluate.anatomy(program, x, num_aggregate=6)
        assert [anatomy.sites[site].num_latents for site in program.sites] == [32, 8, 3]
        pv.figures.levels(program, 3)
        pv.figures.latents(program, x)
        pv.figures.reconstructions(program, x)
        again = pv.load(images.folder)
        assert again.options["latent_dims"] == IMAGES
        torch.manual_seed(1)
        one = log_weights(program, x)
        torch.manual_seed(1)
        assert torch.equal(one, log_weights(again, x))

    def test_kl_by_level_is_drawn_one_upon_the_other(self, images):
        (axes,) = pv.figures.kl_by_level(images.history).axes
        last = images.history[-1]
        labels = [text.get_text() for text in axes.get_legend().get_texts()]
        assert labels == [f"z{level}: {last[f'validation_kl_z{level}']:.2f}" for level in (1, 2, 3)]
        top = axes.collections[-1].get_paths()[0].vertices[:, 1].max()
        assert top == pytest.approx(max(row["validation_kl"] for row in images.history), rel=1e-6)

    @pytest.mark.parametrize("dims", [((2, 4),), ((2, 4, 4, 4),), ((2, 0, 4),), ("2x4x4",)], ids=str)
    def test_other_shapes_are_refused(self, dims):
        with pytest.raises(ValueError, match=r"latent_dims=.*(is no image's|must be)"):
            pv.HierarchicalVAE((1, 8, 8), dims)


@pytest.mark.parametrize("prior", [pv.priors.Bernoulli(), pv.priors.Codes(4, code_dim=2)], ids=repr)
def test_discrete_latents_are_no_image(prior):
    with pytest.raises(ValueError, match=r"is of a vector, and .* latent_dims=\(3, 8\), for example"):
        pv.HierarchicalVAE((1, 8, 8), (3, (1, 2, 2)), prior=prior, **RESNET)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:log p.x. of")
def test_twelve_levels_are_used(digits):
    """None collapses under free bits, the highest included, and the data are described by them."""
    parts = {"encoder": pv.nets.mlp(64), "decoder": pv.nets.mlp(64), "between": pv.nets.mlp(32)}
    dims, loss = (4,) * 12, FreeBits(0.25)
    program = pv.HierarchicalVAE(digits.event_shape, dims, inference="top_down", skip=True, **parts)
    run = pv.fit(
        program, digits, epochs=12, batch_size=100, lr=2e-3, warmup_epochs=6, loss=loss, progress=False
    )
    last = run.history[-1]
    assert min(last[f"validation_kl_z{level}"] for level in range(1, 13)) > 0.1
    assert last["validation_elbo"] > -26.0  # of the mean of the data it is -28
