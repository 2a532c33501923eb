"""What a program says of itself is what it computes."""

import re

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import GUIDES, LIKELIHOODS, OWN_SUPPORT, PRIORS, PROGRAMS, batch_of, build, make

import pyro_vae as pv
from pyro_vae.objectives.importance import traces

FORMATS = ["text", "latex", "graph"]


def test_every_part_is_explained():
    for kind, cases in (("prior", PRIORS), ("likelihood", LIKELIHOODS), ("guide", GUIDES)):
        for name, part in cases.items():
            vae = build(**{kind: part})
            named = getattr(vae, {"prior": "p_z", "likelihood": "p_x", "guide": "q_z"}[kind]).family.name
            for format in ("text", "latex"):
                told = vae.explain(format)
                assert named in told, name
                assert "the program" not in told, name  # each density is recognised as its conditional's
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
        "z_n | x_n ~ q(z|x) = Normal(loc, scale)",
        "scale = 0.001 + softplus(h_2(x) + b_2)",
        "E_q[log p(x|z)]\n  - beta KL(q(z|x) || p(z))",
        "KL: reported in closed form",
        "counting measure",
    ):
        assert line in told
    total = sum(p.numel() for p in pv.VAE((1, 8, 8), 10).parameters())
    assert re.search(rf"total\s+{total:,}", told)


_SITES = {"a", "b", "library", "s", "w", "x", "x_unobserved", "z", "z1", "z2", "z3"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_is_explained(name):
    """Its sites in the model's order, and a total of its parameters."""
    program = make(name)
    told = program.explain()
    model, guide = traces(program, batch_of(program, 3), 1)
    ps, qs = (re.findall(rf"~ {letter}\((\w+)", told) for letter in "pq")
    for found, trace in ((ps, model), (qs, guide)):
        assert found == [n for n in trace.nodes if n in _SITES]
    assert re.search(rf"total\s+{sum(p.numel() for p in program.parameters()):,}\b", told)
    latex = program.explain("latex")
    assert latex.count(r"\sim") == len(ps) + len(qs)
    assert latex.count("{") == latex.count("}")


def test_tells_what_is_given():
    told = make("ConditionalVAE-prior").explain()
    for line in (
        "y_n is given",
        '"y" of the data, one of 3 classes',
        '"age" of the data, shape 2',
        "z_n | y_n, age_n ~ p(z|y, age) = Normal",
        "x_n | z_n, y_n, age_n ~ p(x|z, y, age) = Bernoulli",
        "logits = f(z, y, age) + b",
        "z_n | x_n, y_n, age_n ~ q(z|x, y, age)",
        "loc = h_1(x, y, age) + b_1",
    ):
        assert line in told
    columns = pv.data.columns.Columns({"age": "integer", "sex": "boolean", "size": "real"})
    nets = {"encoder": pv.nets.mlp(4), "decoder": pv.nets.mlp(4)}
    vae = pv.ConditionalVAE(columns, given=["sex", "age"], latent_dim=2, likelihood="auto", **nets)
    told = vae.explain()
    for line in (
        "x_given_n are given",
        "columns sex (boolean), age (integer)",
        "x_n | z_n, x_given_n ~ p(x|z, x_given) = ByColumn(StudentT())",
        "f_1(z, x_given)",
        "z_n | x_n ~ q(z|x) = Normal",
    ):
        assert line in told
    assert r"x_n \mid z_n, \mathrm{x\_given}_n &\sim" in vae.explain("latex")
    assert "x_given -> x" in vae.explain("graph")
    graph = make("ConditionalVAE").explain("graph")
    assert "y -> x" in graph
    assert "y -> z" not in graph


def test_every_letter_is_told():
    """Units that differ from column to column, too."""
    frame = pd.DataFrame({"a": np.linspace(1.0, 2.0, 40), "b": np.linspace(1.0, 2000.0, 40)})
    table = pv.data.load(frame)
    vae = pv.VAE(table.event_shapes, 2, likelihood={"a": dist.LogNormal, "b": dist.LogNormal})
    assert "u are units" not in vae.explain()
    vae.initialize(table.train)
    told = vae.explain()
    assert "loc = u (f_1(z) + b_1)" in told
    assert "u are units, each column's own" in told
    vamp = pv.VAE((3,), 2, likelihood=dist.Normal, prior=pv.priors.VampPrior(5))
    assert "u are units" not in vamp.explain()


def test_tells_levels_upwards_and_downwards():
    up = make("HierarchicalVAE-bottom-up").explain()
    assert up.index("p(z2) =") < up.index("p(z1|z2) =") < up.index("p(x|z1) =")
    assert up.index("q(z1|x) =") < up.index("q(z2|z1) =")
    assert "loc = h_1(z1) + b_1" in up
    assert "- beta E_q[log q(z1|x) - log p(z1|z2)]" in up
    assert "KL of z2: reported in closed form" in up
    assert "KL of z1: estimated from draws" in up
    down = make("HierarchicalVAE-top-down").explain()
    assert down.index("q(z3|x) =") < down.index("q(z2|z3, x) =") < down.index("q(z1|z2, x) =")
    assert re.search(r"computed from Normal\(h'+\(x\)\) and p\(z1\|z2\)", down)
    assert "- beta KL(q(z1|z2, x) || p(z1|z2))" in down
    assert "KL of z3, z2, z1: reported in closed form" in down


def test_tells_a_program_of_ones_own():
    program = make("own")
    told = program.explain()
    for line in (
        "a_n ~ p(a) = Normal(loc, scale)",
        "b_n | a_n ~ p(b|a) = Normal",
        "loc = as the program computes it from a\n      scale = 1\n",
        "x_n | a_n, b_n ~ p(x|a, b) = Bernoulli(logits)",
        "logits = as the program computes it from a, b",
        "w_n | a_n ~ p(w|a) = Normal",
        "b_n | a_n, x_n, w_n ~ q(b|a, x, w)",
        "E_q[log p(x|a, b) + log p(w|a)]",
        "log p(x|a, b) is w.r.t. counting measure",
        "mixed measure",
        "(its own)              2",
    ):
        assert line in told
    program.event_shapes = {}
    with pytest.raises(ValueError, match=r"self\.event_shapes"):
        program.explain()
    batch = batch_of(make("own"), 50)
    batch["w"][::3] = torch.nan
    again = program.explain(batch=batch)
    assert again == told
    assert r"\mathrm{logits}(a, b)" in program.explain("latex", batch)


def test_tells_what_lies_outside_the_plate():
    class Shared(pv.Program):
        def __init__(self):
            super().__init__()
            self.event_shapes = {"x": ()}

        def model(self, batch):
            w = pyro.sample("w", dist.Gamma(2.0, 3.0))
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.2, 0.8])))
            with self.plate(batch):
                self.sample("x", dist.Normal(w * k, 0.5), batch)

        def guide(self, batch):
            pyro.sample("w", dist.LogNormal(0.0, 0.5))
            pyro.sample("k", dist.Categorical(torch.tensor([0.5, 0.5])))

    told = Shared().explain()
    assert "  w ~ p(w) = Gamma(concentration, rate)" in told
    assert 'site "w", latent, one for all data, shape () (a number), values in [0, inf]' in told
    assert "probs = 0.2 to 0.8" in told
    assert "x_n | w_n, k_n" not in told
    assert "x_n | w, k ~ p(x|w, k)" in told


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
    p = vae.decode(z).base_dist
    b_1, b_2 = (vae.p_x.family.parameter[name].offset for name in ("loc", "scale"))
    f_1, f_2 = vae.p_x.emit(z).chunk(2, dim=-2)
    torch.testing.assert_close(p.loc, unit * (f_1 + b_1), rtol=5e-3, atol=0)
    expected = factor * (floor + torch.nn.functional.softplus(f_2 + b_2))
    torch.testing.assert_close(p.scale, expected, rtol=5e-3, atol=0)


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
    with pytest.raises(ValueError, match="'text' or 'latex' or 'graph'"):
        pv.VAE((2,)).explain("html")


def test_graph_of_a_density_that_cannot_draw_marked_values():
    """As Laplace's, of which the missing values are latent."""
    told = pv.SelectionVAE((3,), 2, likelihood=dist.Laplace).explain("graph")
    assert "x ~ Laplace" in told
    assert "z -> x_unobserved" in told


def test_graph_has_the_sites():
    told = pv.VAE((2,)).explain("graph")
    for part in ("digraph", "z -> x", "label=data", "x ~ Bernoulli"):
        assert part in told


def test_shows_itself_in_notebooks(monkeypatch):
    told = {format: build().explain(format) for format in FORMATS}
    assert repr(told["text"]) == str(told["text"])
    assert told["text"]._repr_markdown_() == f"```text\n{told['text']}\n```"
    assert told["text"]._repr_latex_() is None
    assert told["latex"]._repr_latex_() == f"$$\n{told['latex']}\n$$"
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert told["graph"]._repr_svg_() is None
    assert "digraph" in told["graph"]._repr_markdown_()


def test_explaining_changes_nothing():
    vae = build(prior=pv.priors.Flow("affine_coupling"))
    before, state = {k: v.clone() for k, v in vae.state_dict().items()}, torch.get_rng_state()
    vae.explain()
    assert all(torch.equal(v, before[k]) for k, v in vae.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert not any(c._forward_hooks or c.family._forward_hooks for c in vae.conditionals())
