"""What a VAE says of itself is what it computes."""

import re

import pyro.distributions as dist
import pytest
import torch
from cases import GUIDES, LIKELIHOODS, OWN_SUPPORT, PRIORS, build

import pyro_vae as pv


@pytest.mark.parametrize("format", ["text", "latex", "graph"])
def test_every_part_is_explained(format):
    for kind, cases in (("prior", PRIORS), ("likelihood", LIKELIHOODS), ("guide", GUIDES)):
        for name, part in cases.items():
            told = build(**{kind: part}).explain(format)
            named = getattr(part, "name", type(part).__name__)
            assert named in told or format == "graph", name
            if format == "latex":
                assert told.count("{") == told.count("}")
                assert told.count(r"\left(") == told.count(r"\right)")


def test_tells_the_default_vae():
    told = pv.VAE((1, 8, 8), 10).explain()
    for line in (
        "z_n ~ p(z) = Normal(loc, scale)",
        'site "z", latent, shape 10, values in the reals',
        "x_n | z_n ~ p(x|z) = Bernoulli(logits)",
        'site "x", observed, shape 1 x 8 x 8, values in {0, 1}',
        "logits = f(z) + b",
        "scale = softplus(h_2(x))",
        "KL: reported in closed form",
        "counting measure",
    ):
        assert line in told
    total = sum(p.numel() for p in pv.VAE((1, 8, 8), 10).parameters())
    assert re.search(rf"total\s+{total:,}", told)


def test_formulas_are_what_is_computed():
    """The numbers in the formula give the distribution's parameters from the decoder's output."""
    x = 50 + 10 * torch.randn(100, 2, 3)
    vae = build(likelihood=pv.likelihoods.StudentT(df=4.0))
    vae.initialize(pv.data.Split(x))
    told = vae.explain()
    unit = float(re.search(r"loc = (\S+) \(f_1\(z\) \+ b_1\)", told)[1])
    factor, floor = map(
        float, re.search(r"scale = (\S+) \((\S+) \+ softplus\(f_2\(z\) \+ b_2\)\)", told).groups()
    )
    assert "df = 4\n" in told
    z = torch.randn(5, 3)
    f = vae.decoder(z) + vae.p_x.offset
    p = vae.decode(z).base_dist
    f_1, f_2 = f.chunk(2, dim=-2)
    torch.testing.assert_close(p.loc, unit * f_1, rtol=5e-3, atol=0)
    torch.testing.assert_close(
        p.scale, factor * (floor + torch.nn.functional.softplus(f_2)), rtol=5e-3, atol=0
    )


def test_implied_beta_is_that_of_the_squared_error():
    """sigma^2-weighted ELBO and squared error + beta KL rank and weigh alike: they differ by a factor."""
    torch.manual_seed(0)
    vae = pv.VAE((6,), 2, likelihood=pv.likelihoods.Normal(scale=0.3))
    told = vae.explain()
    beta = float(re.search(r"beta = 2 sigma\^2 = (\S+),", told)[1])
    mean_beta = float(re.search(r"beta = 2 sigma\^2 / 6 = (\S+)", told)[1])
    x, z = torch.randn(4, 6), torch.randn(4, 2)
    p, constant = vae.decode(z), 6 * 0.5 * torch.tensor(2 * torch.pi * 0.3**2).log()
    squares = (x - p.mean).square().sum(-1)
    torch.testing.assert_close(-p.log_prob(x) - constant, squares / beta)
    assert mean_beta == pytest.approx(beta / 6, rel=1e-3)
    shared = pv.VAE((6,), 2, likelihood=pv.likelihoods.Normal(scale="shared"))
    assert f"sigma = {shared.decode(z).base_dist.scale[0, 0]:.4g}" in shared.explain()
    assert "no squared error" in pv.VAE((6,), 2, likelihood=dist.Normal).explain()


def test_tells_what_is_pushed_and_sampled():
    told = build(prior=dist.Dirichlet(torch.ones(3))).explain()
    assert "the simplex, by stick-breaking" in told
    assert "estimated from draws" in told
    for name in OWN_SUPPORT:
        assert "pushed" not in build(guide=GUIDES[name]).explain()
    with pytest.raises(ValueError, match="'text', 'latex', 'graph'"):
        pv.VAE((2,)).explain("html")


def test_graph_has_the_sites():
    told = pv.VAE((2,)).explain("graph")
    for part in ("digraph", "z -> x", "label=data", "x ~ Bernoulli"):
        assert part in told


def test_explaining_changes_nothing():
    vae = build(prior=pv.priors.Flow("affine_coupling"))
    before, state = {k: v.clone() for k, v in vae.state_dict().items()}, torch.get_rng_state()
    vae.explain()
    assert all(torch.equal(v, before[k]) for k, v in vae.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
