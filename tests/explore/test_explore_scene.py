"""What the explorer shows is what the program says, of every kind of program."""

import base64
import copy
import json
import math
import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from models.linear import system
from torch.distributions import kl_divergence
from torch.nn.functional import logsigmoid, softplus

import pyro_vae as pv
from pyro_vae.checks import ConfigError
from pyro_vae.data import DataError
from pyro_vae.explore import frozen
from pyro_vae.explore.answers import Answers, described
from pyro_vae.explore.learner import Learner
from pyro_vae.explore.posterior import SIDE, on_grid
from pyro_vae.explore.scene import Scene, rounded
from pyro_vae.explore.subjects import entries

NETS = {"encoder": pv.nets.mlp(8), "decoder": pv.nets.mlp(8)}


def scene(program, data, **options):
    return Scene(entries(program, data)[0].read(), **options)


def centres(grid):
    """The middles of a grid's cells, ``[SIDE, SIDE, 2]``, rows along the second coordinate."""
    first, second = (
        low + (torch.arange(SIDE) + 0.5) * (high - low) / SIDE
        for low, high in zip(grid.low, grid.high, strict=True)
    )
    return torch.stack(torch.meshgrid(first, second, indexing="xy"), -1)


@pytest.mark.parametrize("missing", [False, True])
def test_the_posterior_is_the_exact_one(double, missing):
    made = system("VAE", missing=missing)
    shown = scene(made.program, made.batch)
    assert shown.alone
    for i in range(len(made.log_p)):
        datum = {"x": made.batch["x"][i : i + 1]}
        if datum["x"].isnan().all():
            continue
        found = shown.posterior(datum, None)
        grid = found["grid"]
        exact = torch.distributions.MultivariateNormal(
            made.posterior.loc[i], made.posterior.covariance_matrix[i]
        )
        near = grid.log_p > grid.log_p.max() - 8
        assert torch.allclose(grid.log_p[near], exact.log_prob(centres(grid))[near], atol=2e-3)
        assert abs(grid.log_evidence - made.log_p[i].item()) < 2e-3
        assert (found["draws"].mean(0) - exact.mean).abs().max() < 5 * exact.variance.max().sqrt() / 200**0.5


def test_by_hand_on_a_plain_grid(double):
    """The same, without traces: p(z) p(x|z) at the same points, summed."""
    made = system("VAE")
    shown, x = scene(made.program, made.batch), made.batch["x"][:1]
    grid = shown.posterior({"x": x}, None)["grid"]
    z = centres(grid).reshape(-1, 2)
    log_p = made.program.prior().log_prob(z) + made.program.decode(z).log_prob(x)
    area = ((grid.high - grid.low) / SIDE).prod()
    by_hand = log_p - log_p.logsumexp(0) - area.log()
    assert torch.allclose(grid.log_p.reshape(-1), by_hand, atol=1e-9)


def test_the_gap_is_the_divergence(double):
    made = system("VAE")
    shown = scene(made.program, made.batch)
    for i in range(3):
        datum = {"x": made.batch["x"][i : i + 1]}
        gap = shown.posterior(datum, None)["grid"].log_evidence - shown.infer(datum, None)["elbo"]
        assert abs(gap - made.gap[i].item()) < 0.15 * made.gap[i].item() + 0.05


def test_q_is_that_of_the_encoder(double):
    made = system("VAE")
    shown, x = scene(made.program, made.batch), made.batch["x"][:1]
    found, q = shown.infer({"x": x}, None), made.program.encode(x)
    assert torch.allclose(found["mean"], q.mean[0])
    assert torch.allclose(found["scale"], q.stddev[0], rtol=0.1)
    assert torch.allclose(found["covariance"].diagonal().sqrt(), q.stddev[0], rtol=0.1)
    assert torch.allclose(found["kl"] * torch.ones(()), kl_divergence(q, made.program.prior())[0], rtol=0.1)
    assert torch.allclose(shown.decode(found["mean"][None], {"x": x}), made.program.decode(q.mean).mean)
    assert torch.allclose(shown.codes, made.program.encode(made.batch["x"]).mean)


def test_what_is_not_known_widens_the_posterior_and_is_filled(double):
    made = system("VAE", missing=True)
    shown, x = scene(made.program, made.batch), system("VAE").batch["x"][:1].clone()
    whole = shown.posterior({"x": x}, None)
    assert whole["completion"] is None
    x[:, 1:] = math.nan
    part = shown.posterior({"x": x}, None)
    assert (part["draws"].var(0) > whole["draws"].var(0)).all()
    assert part["completion"][0, 0] == x[0, 0]
    assert part["completion"].isfinite().all()
    x[:] = math.nan
    nothing = shown.infer({"x": x}, None)
    assert nothing["fit"] == 0
    assert nothing["elbo"] == -nothing["kl"]


def by_hand(kind):
    """A program in float64, its data, one of them, and its q, log p(z) and log p(x|z), without traces."""
    torch.manual_seed(1)
    prior, guide = pv.priors.Normal(), pv.guides.Normal()
    if kind == "mixture":
        prior = pv.priors.MixtureOfNormals(3)
    if kind == "Gamma":
        prior = dist.Gamma(2.0, 1.0)
    if kind == "flow":
        guide = pv.guides.Flow()
    options = {"latent_dim": 2, "guide": guide, **NETS}
    x = torch.bernoulli(torch.rand(60, 1, 6, 6))
    if kind == "given":
        data = pv.data.load({"x": x, "y": torch.arange(60) % 3})
        program = pv.ConditionalVAE((1, 6, 6), given={"y": 3}, prior=prior, **options)
    elif kind == "table":
        data = pv.data.load(table())
        program = pv.VAE(data.event_shapes, likelihood="auto", prior=prior, **options)
    else:
        data = pv.data.load(x)
        program = pv.VAE((1, 6, 6), prior=prior, **options)
    program.double()
    pv.fit(program, data, epochs=20, lr=0.01, batch_size=20, compile=False, progress=False)
    datum = program.place(data.test.batch([0], torch.float64))
    given = [datum["y"]] if kind == "given" else []
    program.eval()

    def log_x(z):
        p = program.p_x(z, *(y.expand(len(z)) for y in given))
        if kind != "table":
            return p.log_prob(datum["x"])
        columns = p.by_column(datum["x"].nan_to_num(1.0).expand(len(z), -1))
        return (columns * ~datum["x"].isnan()).sum(1)

    return program, data, datum, program.q_z(datum["x"], *given), program.p_z().log_prob, log_x


@pytest.mark.parametrize("kind", ["Normal", "mixture", "Gamma", "given", "table", "flow"])
def test_what_the_page_says_by_hand(kind):
    """log p(x) and the gap by a sum over z itself, the ELBO's parts and q's place by many draws."""
    program, data, datum, q, log_z, log_x = by_hand(kind)
    shown = scene(program, data)
    found, grid = shown.infer(datum, None), shown.posterior(datum, None)["grid"]
    low, high, side = (0.0, 24.0, 600) if kind == "Gamma" else (-9.0, 9.0, 400)
    middles = low + (torch.arange(side, dtype=torch.float64) + 0.5) * (high - low) / side
    area = ((high - low) / side) ** 2
    with torch.no_grad():
        z = torch.cartesian_prod(middles, middles)
        log_joint = torch.cat([log_z(some) + log_x(some) for some in z.split(50_000)])
        log_q = torch.cat([q.log_prob(some[:, None])[:, 0] for some in z.split(50_000)])
        evidence = log_joint.logsumexp(0).item() + math.log(area)
        assert abs(log_q.logsumexp(0).item() + math.log(area)) < 5e-3
        gap = (log_q.exp() * (log_q - log_joint + evidence).nan_to_num(0.0, 0.0, 0.0)).sum().item() * area
        torch.manual_seed(0)
        draws = q.sample((50_000,))[:, 0]
        log_w = log_z(draws) + log_x(draws) - q.log_prob(draws[:, None])[:, 0]
        kl = q.log_prob(draws[:, None])[:, 0] - log_z(draws)
    assert abs(grid.log_evidence - evidence) < 0.01
    near = (200**-0.5 + 50_000**-0.5) * 4.5
    assert abs(found["elbo"] - log_w.mean().item()) < near * log_w.std().item()
    assert abs(found["kl"] - kl.mean().item()) < near * kl.std().item() + 0.01
    fit = log_x(draws)
    assert abs(found["fit"] - fit.mean().item()) < near * (fit.std().item() + kl.std().item())
    assert abs(grid.log_evidence - found["elbo"] - gap) < near * log_w.std().item() + 0.02
    u = draws + (-(-draws).expm1()).log() if kind == "Gamma" else draws  # z = log(1 + e^u)
    assert torch.allclose(found["covariance"], u.T.cov(), atol=4.5 * (2 / 1000) ** 0.5 * u.var(0).max())
    assert torch.allclose(found["scale"], u.std(0), rtol=0.15)
    if kind not in ("flow", "Gamma"):  # whose centre is not the mean of u
        assert torch.allclose(found["mean"], u.mean(0), atol=0.02)
    cells = centres(grid).double().reshape(-1, 2)
    log_p = log_z(cells) + log_x(cells)
    if kind == "Gamma":
        log_p = log_z(softplus(cells)) + log_x(softplus(cells)) + logsigmoid(cells).sum(1)
    far = grid.log_p.reshape(-1) < grid.log_p.max() - 8
    assert torch.allclose(grid.log_p.reshape(-1)[~far], (log_p - evidence)[~far], atol=0.02)


@pytest.mark.parametrize("kind", ["Normal", "given", "table"])
def test_what_each_latent_carries_by_hand(kind):
    """KL of each latent in closed form, over all data."""
    program, data, *_ = by_hand(kind)
    latents = scene(program, data).latents
    batch = program.place(data.test.batch(slice(None), torch.float64))
    with torch.no_grad():
        q = program.q_z(batch["x"], *([batch["y"]] if kind == "given" else []))
    mean, variance = q.mean, q.variance
    kl = (0.5 * (mean.square() + variance - 1 - variance.log())).mean(0)
    assert {latent["index"]: latent["kl"] for latent in latents} == {
        d: pytest.approx(v, abs=1e-3) for d, v in enumerate(kl.tolist())
    }
    assert [latent["index"] for latent in latents] == kl.argsort(descending=True).tolist()


def test_draws_of_the_latents_are_those_of_the_model(double):
    """Of the prior, of that given y, of a level below another; in other units where a prior is on a part."""
    made = system("conditional_prior")
    shown = scene(made.program, made.batch)
    for i in range(3):
        datum = {name: value[i : i + 1] for name, value in made.batch.items()}
        (draws, _), p = shown.draw(4000, datum), made.program.prior(datum["y"], datum["age"])
        assert torch.allclose(draws.mean(0), p.mean[0], atol=0.1)
        assert torch.allclose(draws.std(0), p.stddev[0], rtol=0.1)
    assert shown.densities["drawn"] == "p(z|y, age)"
    made = system("top_down")
    shown = scene(made.program, made.batch, site="z1")
    (draws, _), size = shown.draw(4000, {"x": made.batch["x"][:1]}), shown.dim
    assert torch.allclose(draws.T.cov(), made.prior.covariance_matrix[0, :size, :size], atol=0.25)
    assert shown.densities["drawn"] == "p(z1)"
    vae = pv.VAE((4,), 2, prior=dist.Gamma(2.0, 1.0), likelihood=pv.likelihoods.Normal(), **NETS)
    x = torch.randn(5, 4)
    draws, _ = scene(vae, x).draw(4000, {"x": x[:1]})
    assert torch.allclose(softplus(draws).mean(0), torch.tensor(2.0), atol=0.15)


def test_a_grid_finds_narrow_modes_and_its_scale():
    mean, scale = torch.tensor([1.3, -0.7]), torch.tensor([0.004, 0.9])
    p = dist.Normal(mean.double(), scale.double()).to_event(1)
    grid = on_grid(
        lambda u: p.log_prob(u) + 3.0, torch.tensor([-5.0, -5.0]).double(), torch.tensor([5.0, 5.0]).double()
    )
    assert abs(grid.log_evidence - 3.0) < 1e-3
    assert (grid.low < mean).all()
    assert (grid.high > mean).all()
    assert grid.high[0] - grid.low[0] < 0.2


@pytest.mark.parametrize(
    ("prior", "dim"),
    [(dist.Gamma(2.0, 1.0), 2), (dist.Beta(2.0, 3.0), 2), (dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])), 3)],
    ids=["Gamma", "Beta", "Dirichlet"],
)
def test_latents_of_other_supports_are_on_the_reals(prior, dim, double):
    """The density of u is that of z times the change of volume: integrated over u, evidence is the same."""
    torch.manual_seed(0)
    vae = pv.VAE((4,), dim, prior=prior, likelihood=pv.likelihoods.Normal(scale=0.5), **NETS)
    x = torch.randn(20, 4)
    shown = scene(vae, x)
    assert shown.mapped
    assert shown.dim == 2
    grid = shown.posterior({"x": x[:1]}, None)["grid"]
    draws = vae.prior().sample((200_000,))
    by_draws = vae.decode(draws).log_prob(x[:1]).logsumexp(0) - math.log(200_000)
    assert abs(grid.log_evidence - by_draws) < 0.05
    assert shown.decode(torch.tensor([[30.0, -30.0]]), {"x": x[:1]}).isfinite().all()


class Counted(pv.Program):
    def __init__(self):
        super().__init__()
        self.event_shapes = {"x": (2,)}
        self.logits = torch.nn.Parameter(torch.zeros(3))

    def model(self, batch):
        with self.plate(batch):
            z = pyro.sample("z", dist.Poisson(self.logits.exp()).to_event(1))
            self.sample("x", dist.Normal(z[..., :2], 1.0).to_event(1), batch)

    def guide(self, batch):
        with self.plate(batch):
            pyro.sample("z", dist.Poisson(self.logits.exp()).to_event(1))


class OtherSite(pv.Program):
    def __init__(self):
        super().__init__()
        self.event_shapes = {"w": (2,)}
        self.loc = torch.nn.Parameter(torch.zeros(2))

    def model(self, batch):
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))
            self.sample("w", dist.Normal(z, 1.0).to_event(1), batch)

    def guide(self, batch):
        with self.plate(batch):
            pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))


@pytest.mark.parametrize(
    ("program", "data", "told"),
    [
        (
            Counted(),
            torch.zeros(5, 2),
            r"none, bits and choices; and the Counted has z, which are not; look at .*samples",
        ),
        (
            pv.VAE((4,), 8, prior=pv.priors.Codes(16, 4), **NETS),
            torch.zeros(5, 4),
            r"the VAE has z, which are not; look at pv\.figures\.codes\(vae, data\.test\)",
        ),
        (OtherSite(), {"w": torch.zeros(5, 2)}, "shows site x, and this OtherSite is of w"),
        (
            pv.VAE((2, 3, 4, 5), 2, **NETS),
            torch.zeros(5, 2, 3, 4, 5),
            r"x of shape \(2, 3, 4, 5\) is not shown",
        ),
        (pv.VAE((4, 6, 6), 2, **NETS), torch.zeros(5, 4, 6, 6), r"x of shape \(4, 6, 6\) is not shown"),
    ],
    ids=["counts", "codes", "no x", "five dimensions", "four channels"],
)
def test_what_cannot_be_shown_is_refused(program, data, told):
    with pytest.raises(ValueError, match=told):
        scene(program, data)


def test_wrong_use_is_refused(digits, make_vae, tmp_path):
    with pytest.raises(ConfigError, match=r"pv\.explore\(vae, x\)"):
        pv.explore(make_vae())
    with pytest.raises(ConfigError, match="must be a run"):
        pv.explore(3)
    with pytest.raises(pv.checkpoint.CheckpointError, match="not the folder of a run"):
        pv.explore(tmp_path / "nothing")
    with pytest.raises(ValueError, match="site='w' is none of the VAE's latents, z"):
        scene(make_vae(), digits, site="w")


def table():
    pd = pytest.importorskip("pandas")
    z = torch.randn(60, generator=torch.Generator().manual_seed(0)).numpy()
    frame = pd.DataFrame(
        {"height": 170 + 10 * z, "visits": (z > 0) * 3 + 1, "sort": ["a", "b"] * 30, "yes": z > 0.5}
    )
    frame.loc[::7, "height"] = np.nan
    return frame


def half_labelled(prior, dim):
    return pv.SemiSupervisedVAE(
        (1, 6, 6), num_classes=3, latent_dim=dim, prior=prior, classifier=pv.nets.mlp(8), **NETS
    )


def kinds():
    x = torch.rand(30, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    y = torch.arange(30) % 3
    frame = table()
    columns = pv.data.load(frame).event_shapes
    images = pv.data.load({"x": x[:, :1].round(), "y": y, "age": x[:, 0, 0, :2]})
    half = torch.where(torch.arange(30) % 2 == 0, torch.nan, y.float())
    some = pv.data.load({"x": x[:, :1].round(), "y": half})
    counts = pv.data.load((5 * x[:, 0].reshape(30, -1)[:, :8]).round())
    return {
        "grey": (pv.VAE((1, 6, 6), 2, **NETS), images),
        "colour": (pv.VAE((3, 6, 6), 3, likelihood=pv.likelihoods.Normal(), **NETS), pv.data.load(x)),
        "no channel": (pv.VAE((6, 6), 1, likelihood=pv.likelihoods.Normal(), **NETS), pv.data.load(x[:, 0])),
        "curve": (
            pv.VAE((12,), 2, likelihood=pv.likelihoods.Normal(), **NETS),
            pv.data.load(x.reshape(30, -1)[:, :12]),
        ),
        "series": (
            pv.VAE((9, 2), 2, likelihood=pv.likelihoods.Normal(), **NETS),
            pv.data.load(x[:, 0, :3].reshape(30, 9, 2)),
        ),
        "table": (pv.VAE(columns, 2, likelihood="auto", **NETS), pv.data.load(frame)),
        "given columns": (
            pv.ConditionalVAE(columns, given=["sort"], likelihood="auto", latent_dim=2, **NETS),
            pv.data.load(frame),
        ),
        "given": (pv.ConditionalVAE((1, 6, 6), given={"y": 3, "age": (2,)}, latent_dim=2, **NETS), images),
        "levels": (pv.HierarchicalVAE((1, 6, 6), (4, 3), between=pv.nets.mlp(4), **NETS), images),
        "flow": (
            pv.VAE(
                (1, 6, 6), 2, prior=pv.priors.MixtureOfNormals(3), guide=pv.guides.FullRankNormal(), **NETS
            ),
            images,
        ),
        "counts": (pv.CountVAE((8,), latent_dim=2, library="latent", **NETS), counts),
        "counts, total": (pv.CountVAE((8,), latent_dim=2, **NETS), counts),
        "path": (
            pv.SequentialVAE((6, 2), latent_dim=2, likelihood=pv.likelihoods.Normal(), **NETS),
            pv.data.load(x[:, 0, :2].reshape(30, 6, 2)),
        ),
        "choice": (pv.VAE((1, 6, 6), 4, prior=pv.priors.OneHotCategorical(4), **NETS), images),
        "two choices": (pv.VAE((1, 6, 6), 6, prior=pv.priors.OneHotCategorical(3), **NETS), images),
        "bits": (pv.VAE((1, 6, 6), 3, prior=pv.priors.Bernoulli(), **NETS), images),
        "many bits": (pv.VAE((1, 6, 6), 20, prior=pv.priors.Bernoulli(), **NETS), images),
        "choice above": (
            pv.HierarchicalVAE(
                (1, 6, 6), (3, 4), prior=pv.priors.OneHotCategorical(4), between=pv.nets.mlp(4), **NETS
            ),
            images,
        ),
        "some labels": (half_labelled(pv.priors.Normal(), 2), some),
        "some labels, a choice": (half_labelled(pv.priors.OneHotCategorical(4), 4), some),
        "weights": (pv.VAE((1, 6, 6), 2, **NETS | {"decoder": pv.nets.bayesian(pv.nets.mlp(8))}), images),
    }


def as_numbers(picture):
    return [*base64.b64decode(picture)] if isinstance(picture, str) else picture


KINDS = dict.fromkeys(["grey", "colour", "no channel", "given", "levels", "flow"], "image")
KINDS |= {"curve": "curve", "series": "curve", "table": "table", "given columns": "table", "counts": "bars"}
KINDS |= {"counts, total": "bars", "path": "curve"}
KINDS |= dict.fromkeys(["choice", "two choices", "bits", "many bits", "choice above"], "image")
KINDS |= dict.fromkeys(["some labels", "some labels, a choice", "weights"], "image")


@pytest.mark.parametrize("kind", KINDS)
def test_every_question_of_every_kind_of_program(kind):
    torch.manual_seed(0)
    program, data = kinds()[kind]
    program.initialize(data.train)
    before = {name: value.clone() for name, value in program.state_dict().items()}
    torch.manual_seed(7)
    answers = Answers(entries(program, data))

    def ask(name, **values):
        return json.loads(json.dumps(answers.by_name[name]({"run": 0} | values), allow_nan=False))

    state = ask("state")
    assert state["kind"] == KINDS[kind]
    assert len(state["codes"]) == len(data.test)
    assert {g["open"] for g in state["given"]} <= {kind.startswith("some labels")}  # may be not known
    datum = ask("datum", number=1)["datum"]
    (picture,) = ask("decode", u=[state["codes"][1]], datum=datum)["pictures"]
    draws = ask("prior", datum=datum)["draws"]
    assert len(draws[0]) == state["dim"]
    assert draws[0] != draws[1] or not state["dim"]
    inferred = ask("infer", datum=datum)
    assert inferred["mean"] == pytest.approx(state["codes"][1], abs=1e-3)
    assert as_numbers(inferred["reconstruction"]) == pytest.approx(as_numbers(picture), rel=1e-2, abs=1.01)
    assert inferred["elbo"] == pytest.approx(inferred["fit"] - inferred["kl"], abs=1e-6)
    posterior = ask("posterior", datum=datum)
    assert (posterior["grid"] is not None) == (state["exact"] and state["dim"] == 2)
    assert (posterior["evidence"] is not None) == state["exact"]
    for found in (inferred, posterior):
        assert [len(levels) for levels in found["likely"]] == [len(s["levels"]) for s in state["switches"]]
        assert all(sum(levels) == pytest.approx(1, abs=1e-3) for levels in found["likely"])
    drawn = ask("prior", datum=datum)["states"]
    other = ask("decode", u=[state["codes"][1]] * len(drawn[:9]), states=drawn[:9], datum=datum)["pictures"]
    assert len(other) == 9
    known = "y" in datum and datum["y"] != [None]  # then it is drawn as it is
    if any(s["decodes"] for s in state["switches"]) and not (known and kind == "some labels"):
        assert len({json.dumps(one) for one in other}) > 1
    assert [s["decodes"] for s in state["switches"]] == [kind != "choice above"] * len(state["switches"])
    assert (posterior["completion"] is not None) == (None in datum["x"])
    gaps = {"x": [None if k % 2 else v for k, v in enumerate(datum["x"])]}
    if "counts" not in kind:
        assert ask("posterior", datum=datum | gaps)["completion"]
    if state["dim"] > 2:
        assert ask("infer", datum=datum, plane=[2, 0])["covariance"][0][0] == pytest.approx(
            inferred["scale"][2] ** 2, rel=1e-3
        )
    assert torch.equal(torch.randn(3), torch.randn(3, generator=torch.Generator().manual_seed(7)))
    ask("learn", anew=True)
    row = ask("learn", steps=3)["row"]
    assert row["step"] == 3
    assert math.isfinite(row["elbo"])
    assert ask("state", learning=True)["dim"] == state["dim"]
    assert all(torch.equal(value, before[name]) for name, value in program.state_dict().items())
    if kind == "many bits":
        with pytest.raises(ValueError, match="all values of its latents is more than one file should hold"):
            frozen(program, data)
        return
    page = frozen(program, data)
    assert "{{" not in page
    assert "src=" not in page


def test_a_run_keeps_the_units_of_its_columns(tmp_path):
    frame = table()
    frame.attrs["units"] = {"height": "cm", 3: "no column"}
    pytest.importorskip("pyarrow")
    frame.to_parquet(path := tmp_path / "rows.parquet")
    for data, units in ((pv.data.load(frame), {"height": "cm"}), (pv.data.load(path), {"height": "cm"})):
        vae = pv.VAE(data.event_shapes, 2, likelihood="auto", **NETS)
        folder = tmp_path / data.name.split(".")[0]
        pv.fit(vae, data, epochs=1, compile=False, progress=False, folder=folder)
        again = pv.load(folder)
        assert again.columns.units == units
        assert again.columns.decode(again.generate(2)["x"]).attrs["units"] == units
        shown = described(Scene(entries(again, data)[0].read()))
        assert [column["unit"] for column in shown["columns"]] == ["cm", "", "", ""]


def test_a_frozen_page_tells_what_its_model_is_given():
    state = {}
    for kind, (program, data) in kinds().items():
        if kind in ("given", "given columns", "counts", "counts, total", "grey"):
            page = frozen(program, data)
            text = page.split("const FROZEN = ")[1].split(";\n")[0]
            state[kind] = json.loads(text)["state"]["held"], data.test.batch([0])
    assert state["grey"][0] == []
    held, datum = state["given"]
    age = ", ".join(f"{v:.4g}" for v in datum["age"][0].tolist())
    assert held == [f"y = {datum['y'].item()}", f"age = {age}"]
    held, datum = state["given columns"]
    assert held == [f"sort = {'ab'[int(datum['x'][0, 2])]}"]
    assert state["counts"][0] == []  # of a total that is a latent itself
    held, datum = state["counts, total"]
    assert held == [f"a total of {datum['x'].sum():.4g}"]


def test_densities_say_what_is_given():
    expected = {
        "grey": "p(x|z), q(z|x), p(z|x), p(z), p(z), p(x), log p(x|z)",
        "given": "p(x|z, y, age), q(z|x, y, age), p(z|x, y, age), p(z), p(z), p(x|y, age), "
        "log p(x|z, y, age)",
        "given columns": "p(x|z, sort), q(z|x), p(z|x), p(z), p(z), p(x|sort), log p(x|z, sort)",
        "levels": "p(x|z1), q(z2|x), p(z2|x), p(z2, z1), p(z2), p(x), log p(x|z1)",
        "counts": "p(x|library, z), q(z|x), p(z|x), p(library, z), p(z), p(x), log p(x|library, z)",
        "counts, total": "p(x|z, total), q(z|x), p(z|x), p(z), p(z), p(x|total), log p(x|z, total)",
        "choice": "p(x|z), q(z|x), p(z|x), p(z), p(z), p(x), log p(x|z)",
        "some labels": "p(x|y, z), q(z|x, y), p(z|x, y), p(z), p(z), p(y, x), log p(y) + log p(x|y, z)",
        "weights": "p(x|z, w), q(z|x), p(z|x), p(z), p(z), p(x), log p(x|z, w)",
    }
    every = kinds()
    for kind, told in expected.items():
        found = scene(*every[kind]).densities
        assert ", ".join(value for name, value in found.items() if "unknown" not in name) == told
        if kind == "some labels":  # of one that is not known it is a latent
            assert (found["prior_unknown"], found["fit_unknown"]) == ("p(y, z)", "log p(x|y, z)")
        else:
            assert (found["prior_unknown"], found["fit_unknown"]) == (found["prior"], found["fit"])
    program = pv.ConditionalVAE((1, 6, 6), given={"y": 3}, latent_dim=2, conditional_prior=True, **NETS)
    assert scene(program, every["given"][1]).densities["prior"] == "p(z|y)"
    text = frozen(*every["given"]).split("const FROZEN = ")[1].split(";\n")[0]
    assert json.loads(text)["state"]["densities"]["decoder"] == "p(x|z, y, age)"


def test_a_copy_learns_and_not_the_run(digits, make_vae):
    vae = make_vae()
    vae.initialize(digits.train)
    before = copy.deepcopy(vae.state_dict())
    torch.manual_seed(3)
    learner = Learner(vae, digits.train, digits.test, anew=False)
    learner.step(150)
    assert torch.equal(torch.randn(2), torch.randn(2, generator=torch.Generator().manual_seed(3)))
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    first, last = learner.history[0], learner.history[-1]
    assert last["elbo"] > first["elbo"] + 2
    assert last["elbo"] == pytest.approx(-last["reconstruction"] - last["kl"])
    assert pyro.get_param_store().keys() == {}.keys()


def test_collapsed_latents_are_those_of_the_anatomy(digits, make_vae):
    """A latent that the decoder does not see, and that q leaves at the prior."""
    vae = make_vae(latent_dim=3)
    vae.initialize(digits.train)
    head = vae.q_z.net
    with torch.no_grad():
        last = [m for m in head.modules() if isinstance(m, torch.nn.Linear)][-1]
        last.weight.mul_(20)
        for row in vae.q_z.emit(digits.test[:1]).reshape(2, -1).new_tensor([1, 4]).long().tolist():
            last.weight[row] = 0
            last.bias[row] = 0
    shown = scene(vae, digits)
    dead = {latent["index"] for latent in shown.latents if latent["collapsed"]}
    anatomy = pv.evaluate.anatomy(vae, digits.test, num_aggregate=2)
    expected = {d for d, kl in enumerate(anatomy.sites["z"].kl_by_latent.tolist()) if kl < 0.01}
    assert dead == expected
    assert len(dead) == anatomy.sites["z"].collapsed
    kls = [latent["kl"] for latent in shown.latents]
    assert kls == sorted(kls, reverse=True)


def test_the_runs_of_a_folder_are_a_menu(digits, tmp_path):
    for name, prior in {"a": pv.priors.Normal(), "b": pv.priors.VampPrior(3)}.items():
        vae = pv.VAE(digits.event_shape, 2, prior=prior, **NETS)
        pv.fit(vae, digits, epochs=1, compile=False, progress=False, folder=tmp_path / "two" / name)
    answers = Answers(entries(tmp_path / "two"))
    runs = answers.state({"run": 0})["runs"]
    assert [run["parts"]["prior"] for run in runs] == ["Normal()", "VampPrior(components=3)"]
    first, second = (answers.state({"run": k})["codes"] for k in (0, 1))
    assert first != second
    with pytest.raises(ValueError, match="run=2 is none of the 2"):
        answers.state({"run": 2})


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("decode", {"u": [[0.0]]}, "points of 2 numbers"),
        ("decode", {"u": [[0.0, True]]}, "finite numbers"),
        ("decode", {"u": [[0.0, 1e300]]}, "finite numbers"),
        ("decode", {"u": [[0.0, 0.0]] * 65}, "up to 64 points"),
        ("decode", {"u": "x"}, "list of up to"),
        ("decode", {"u": [[0.0, 0.0]], "datum": {}}, "a datum has x, and not nothing"),
        ("decode", {"u": [[0.0, 0.0]], "datum": {"x": [1]}}, "list of 64 numbers"),
        ("decode", {"u": [[0.0, 0.0]], "datum": {"x": ["1"] * 64}}, "is no number"),
        ("infer", {"plane": [0, 0]}, "two latents"),
        ("infer", {"plane": [0, 2]}, "two latents"),
        ("infer", {"datum": {"x": [0.5] * 64}}, "lie outside the support"),
        ("datum", {"number": -1}, "number=-1"),
        ("datum", {"number": 10**9}, "none of the 180"),
        ("datum", {}, "number=None"),
        ("state", {"run": "0"}, "run='0'"),
        ("state", {"run": True}, "run=True"),
        ("learn", {"steps": 1}, "nothing learns yet"),
    ],
)
def test_wrong_questions_are_refused(digits, make_vae, name, values, told):
    answers = Answers(entries(make_vae(), digits))
    datum = answers.datum({"run": 0, "number": 0})["datum"]
    with pytest.raises((ValueError, DataError), match=told):
        answers.by_name[name]({"run": 0, "datum": datum} | values)


def test_numbers_are_rounded_to_significant_digits():
    values = torch.tensor([123456.0, 0.0, -0.000123456, math.nan, math.inf])
    assert rounded(values, 3) == [123000.0, 0.0, -0.000123, None, None]


def test_a_label_that_is_not_known_is_the_likeliest(double):
    """It is decoded as q(y|x) has it, and not as the first class; a frozen page says so."""
    torch.manual_seed(0)
    y = torch.arange(80) % 4
    x = torch.nn.functional.one_hot(y, 4).double() * 4 + 0.1 * torch.randn(80, 4)
    labels = torch.where(torch.arange(80) % 8 < 4, y.double(), torch.nan)
    data = pv.data.load({"x": x, "y": labels}, validation=0.0, test=0.5)
    vae = pv.SemiSupervisedVAE(
        (4,),
        num_classes=4,
        latent_dim=2,
        likelihood=pv.likelihoods.Normal(),
        classifier=pv.nets.mlp(8),
        **NETS,
    ).double()
    pv.fit(vae, data, epochs=150, lr=1e-2, batch_size=20, progress=False)
    shown = scene(vae, data)
    assert shown.choices == ["y_unobserved"]
    unknown = int(shown.data.batch(slice(None))["y"].isnan().nonzero()[0, 0])
    datum, z = shown.batch([unknown]), torch.zeros(1, 2)
    likeliest = vae.classify(datum["x"]).argmax(1)
    assert likeliest.item() == datum["x"].argmax()
    torch.testing.assert_close(shown.decode(z, datum), vae.decode(z, likeliest).mean)
    other = torch.tensor([(likeliest.item() + 1) % 4]).double()
    torch.testing.assert_close(shown.decode(z, datum | {"y": other}), vae.decode(z, other).mean)
    found = shown.infer(datum, None)["reconstruction"]
    torch.testing.assert_close(found, vae.decode(vae.encode(datum["x"], likeliest).mean, likeliest).mean)
    rows = {name: value[labels.isnan()] for name, value in {"x": x, "y": labels}.items()}
    page = frozen(vae, pv.data.load(rows, validation=0.0, test=0.0))
    told = re.search(r"y = not known, and taken for the likeliest, (\d)", page)
    first = pv.data.load(rows, validation=0.0, test=0.0).train.batch([0])["x"]
    assert int(told[1]) == vae.classify(first).argmax()
    grid = json.loads(page.split("const FROZEN = ")[1].split(";\n")[0])["grid"]
    decoded = torch.frombuffer(bytearray(base64.b64decode(grid["values"])), dtype=torch.float32)
    corner = vae.decode(torch.tensor([grid["low"]]), torch.tensor([int(told[1])])).mean
    torch.testing.assert_close(decoded[:4], corner[0].float())


@pytest.mark.parametrize("kind", ["choice", "two choices", "bits"])
def test_choices_are_summed_over_by_hand(kind):
    """Posterior, evidence, ELBO and KL over all joint values, and what each decodes to."""
    program, data = kinds()[kind]
    program.double()
    pv.fit(program, data, epochs=30, lr=0.02, batch_size=10, compile=False, progress=False)
    program.eval()
    shown = scene(program, data)
    datum = shown.batch([2])
    z = {
        "choice": torch.eye(4),
        "bits": torch.cartesian_prod(*[torch.arange(2)] * 3),
        "two choices": torch.tensor(
            [[*row, *other] for row in torch.eye(3).tolist() for other in torch.eye(3).tolist()]
        ),
    }[kind].double()
    with torch.no_grad():
        q = program.encode(datum["x"])
        log_joint = program.prior().log_prob(z) + program.decode(z).log_prob(datum["x"])
        log_q = q.log_prob(z)
    posterior, share = log_joint.softmax(0), log_q.exp()
    size = {"choice": (1, 4), "bits": (3, 2), "two choices": (2, 3)}[kind]

    def by_switch(weights):  # [switches, levels]
        if kind == "bits":
            return torch.stack([weights @ (1 - z), weights @ z], 1)
        return (weights @ z).reshape(size)

    found, inferred = shown.posterior(datum, None), shown.infer(datum, None)
    torch.testing.assert_close(torch.stack(found["likely"]), by_switch(posterior))
    torch.testing.assert_close(torch.stack(inferred["likely"]), by_switch(share))
    assert found["evidence"] == pytest.approx(log_joint.logsumexp(0).item())
    assert inferred["elbo"] == pytest.approx((share * (log_joint - log_q)).sum().item())
    assert inferred["kl"] == pytest.approx((share * (log_q - program.prior().log_prob(z))).sum().item())
    assert found["evidence"] > inferred["elbo"]
    assert inferred["now"].tolist() == by_switch(share).argmax(1).tolist()
    assert shown.joint.shape == (len(z), size[0])
    decoded = shown.decode(torch.zeros(len(z), 0), datum, shown.joint)
    torch.testing.assert_close(decoded, program.decode(z).mean)
    torch.testing.assert_close(
        inferred["reconstruction"], program.decode(z[(share == share.max()).nonzero()[0]]).mean
    )
    text = frozen(program, data).split("const FROZEN = ")[1].split(";\n")[0]
    grid = json.loads(text)["grid"]
    assert grid["levels"] == [size[1]] * size[0]
    bytes_ = torch.tensor([*base64.b64decode(grid["values"])]).reshape(len(z), -1)
    assert (bytes_ / 255 - decoded.reshape(len(z), -1)).abs().max() < 1 / 254


def test_a_label_that_is_not_known_has_its_posterior_beside_the_classifier(double):
    """q(y|x) is vae.classify; p(y|x) by a sum over z; a label that is known is sure."""
    torch.manual_seed(0)
    program = half_labelled(pv.priors.Normal(), 2).double()
    x = torch.rand(60, 1, 6, 6).round()
    x[:, :, 0] = torch.nn.functional.one_hot(torch.arange(60) % 3, 6)[:, None]
    y = torch.where(torch.arange(60) % 2 == 0, (torch.arange(60) % 3).double(), torch.nan)
    data = pv.data.load({"x": x, "y": y})
    pv.fit(program, data, epochs=20, lr=0.01, batch_size=10, compile=False, progress=False)
    program.eval()
    shown = scene(program, data)
    labels = shown.data.batch(slice(None))["y"]
    unknown, known = (int(rows.nonzero()[0, 0]) for rows in (labels.isnan(), ~labels.isnan()))
    datum = shown.batch([unknown])
    q = program.classify(datum["x"])
    torch.testing.assert_close(torch.stack(shown.infer(datum, None)["likely"]), q)
    assert shown.infer(datum, None)["now"].tolist() == q.argmax(1).tolist()
    middles = torch.linspace(-6, 6, 121)
    z = torch.cartesian_prod(middles, middles)
    with torch.no_grad():
        log_p = [
            (program.prior().log_prob(z) + program.decode(z, torch.full((len(z),), k)).log_prob(datum["x"]))
            for k in range(3)
        ]
    exact = torch.stack(log_p).logsumexp(1).softmax(0)
    found = shown.posterior(datum, None)
    error = 4.5 * (exact * (1 - exact) * (1 / 200 + 1 / found["effective"])).sqrt() + 1e-3
    assert ((found["likely"][0] - exact).abs() < error).all()
    sure = shown.infer(shown.batch([known]), None)["likely"][0]
    assert sure.argmax() == labels[known]
    assert sure.max() == 1
    for level in range(3):  # whatever the datum's own label
        for i in (unknown, known):
            seen = shown.decode(torch.zeros(1, 2), shown.batch([i]), torch.tensor([[level]]))
            torch.testing.assert_close(seen, program.decode(torch.zeros(1, 2), torch.tensor([level])).mean)


def test_latent_weights_are_at_their_mean(double):
    """The grid is that of one decoder: p(z) p(x|z, w) at the mean of q(w), by hand, and so are its parts."""
    torch.manual_seed(0)
    program, data = kinds()["weights"]
    program.double()
    program.initialize(data.train)
    shown = scene(program, data)
    datum = shown.batch([0])
    found = shown.posterior(datum, None)
    z, grid = centres(found["grid"]).reshape(-1, 2).double(), found["grid"]
    (weights,) = program.bayesian
    with torch.no_grad():
        raw = weights.net(weights.weights().mean, z)
        p = weights.family(raw)
        log_p = program.prior().log_prob(z) + p.log_prob(datum["x"])
    torch.testing.assert_close(grid.log_p.reshape(-1) + grid.log_evidence, log_p)
    torch.testing.assert_close(shown.decode(z[:50], datum), p.mean[:50])
    inferred = shown.infer(datum, None)
    q = program.encode(datum["x"])
    with torch.no_grad():
        draws = q.sample((20_000,))[:, 0]
        log_x = weights.family(weights.net(weights.weights().mean, draws)).log_prob(datum["x"])
        log_w = log_x + program.prior().log_prob(draws) - q.log_prob(draws[:, None])[:, 0]
    assert abs(inferred["elbo"] - log_w.mean().item()) < 4.5 * (200**-0.5 + 20_000**-0.5) * log_w.std().item()
    assert inferred["elbo"] < found["evidence"]
    state = described(shown)
    assert state["weights"]
    assert state["exact"]


def test_a_copy_learns_by_what_sums_over_choices():
    """TraceEnum_ELBO of a program that enumerates, as pv.fit takes it."""
    every = kinds()
    summing = ("choice", "some labels")
    for kind in (*summing, "grey"):
        program, data = every[kind]
        program.initialize(data.train)
        answers = Answers(entries(program, data))
        answers.learn({"run": 0, "anew": False})
        told = answers.learn({"run": 0, "steps": 2})
        assert told["told"].startswith(f"Trace{'Enum' * (kind in summing)}_ELBO, Adam")
        assert len(told["switches"]) == len(answers.scene({"run": 0}).switches)
