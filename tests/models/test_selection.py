"""Values that are missing for what they are: the selection model takes the bias away."""

import copy
import math

import pyro
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO

import pyro_vae as pv
from pyro_vae.models.selection_vae import SelectionVAE

LINEAR = {"encoder": pv.nets.mlp(), "decoder": pv.nets.mlp(), "likelihood": pv.likelihoods.Normal(scale=0.7)}


def bound(number: int) -> RenyiELBO:
    return RenyiELBO(0.0, number, max_plate_nesting=1, vectorize_particles=True)


def select(vae, slope, at):
    """Gives p(s|x) the logits slope (x - at), of values on the scale of the data, and fixes it."""
    with torch.no_grad():
        seen, net = vae.p_s.seen[0], vae.p_s.net
        net.weight.copy_(slope * seen.scale)
        start = vae.p_s(seen.loc[None]).base_dist.logits[0]
        net.bias.add_(slope * (seen.loc - at) - start)
    vae.p_s.requires_grad_(False)


def test_the_evidence_is_that_of_the_story(double):
    """log p(x_o, s) by quadrature over what is missing and z, from importance weights."""
    torch.manual_seed(0)
    vae = SelectionVAE((2,), 1, **LINEAR)
    select(vae, torch.tensor([-1.5, 0.8]), torch.tensor([0.3, -0.2]))
    x = torch.tensor([[0.5, -1.0], [torch.nan, 0.7], [torch.nan, torch.nan]])
    layer, known = vae.p_x.net.layers[0], ~x.isnan()
    with torch.no_grad():
        p_x = torch.distributions.MultivariateNormal(
            layer.bias, layer.weight @ layer.weight.T + 0.49 * torch.eye(2)
        )
        axis = torch.linspace(-12, 12, 1201)
        step = axis[1] - axis[0]
        exact = []
        for row, seen in zip(x, known, strict=True):
            grids = [row[i : i + 1] if seen[i] else axis for i in range(2)]
            whole = torch.cartesian_prod(*grids)
            log_p = p_x.log_prob(whole) + vae.p_s(whole).log_prob(seen.double().expand_as(whole))
            exact.append(log_p.logsumexp(0) + (~seen).sum() * step.log())
    found = pv.evaluate.log_likelihood(vae, x, num_samples=40_000, max_rows=200_000)
    torch.testing.assert_close(found.per_datum, torch.stack(exact), atol=0.03, rtol=0)
    terms = pv.evaluate.elbo(vae, x, num_samples=10).terms
    assert terms["kl_x_unobserved"] == 0


def vanishing(number):
    """Values of N(1, 2^2), of which large ones are mostly not seen."""
    torch.manual_seed(0)
    x = 1.0 + 2.0 * torch.randn(number, 1)
    seen = torch.bernoulli(torch.sigmoid(-1.5 * (x - 1.0))).bool()
    return pv.data.Split(torch.where(seen, x, torch.nan))


def test_mean_and_spread_are_recovered():
    data = vanishing(2000)
    parts = LINEAR | {"likelihood": pv.likelihoods.Normal(scale="shared")}
    moments = {}
    for model in (pv.VAE, SelectionVAE):
        torch.manual_seed(0)
        vae = model((1,), 1, **parts)
        vae.initialize(data)
        if model is SelectionVAE:
            select(vae, -1.5, 1.0)
        svi = pv.svi.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.02}), bound(20), compile=False)
        for step in range(240):
            svi.step(data.batch(torch.arange(500) + 500 * (step % 4)))
        with vae.evaluating():
            x = vae.decode(vae.prior().sample((20_000,))).sample()
        moments[model] = x.mean().item(), x.std().item()
    mean, std = moments[pv.VAE]
    assert mean < -0.2  # which is biased
    assert std < 1.6
    assert moments[SelectionVAE] == pytest.approx((1.0, 2.0), abs=0.2)


def test_draws_of_what_is_missing_know_why(double):
    """x ~ N(0, 1), unseen where it is large: of an unseen value, x p(s=0|x) by quadrature."""
    vae = SelectionVAE((1,), 1, **LINEAR | {"likelihood": pv.likelihoods.Normal(scale=0.6)})
    with torch.no_grad():
        vae.p_x.net.layers[0].weight.fill_(0.8)
        vae.p_x.net.layers[0].bias.zero_()
    select(vae, -3.0, 0.5)
    x = torch.linspace(-8, 8, 4001)
    weight = (-0.5 * x.square() + torch.nn.functional.logsigmoid(3.0 * (x - 0.5))).softmax(0)
    mean = (weight * x).sum()
    drawn = pv.predict(vae, torch.tensor([[torch.nan], [0.2]]), 4000, num_particles=20_000)
    assert drawn.mean()[0, 0].item() == pytest.approx(mean.item(), abs=0.06)
    assert mean > 0.8
    assert (drawn["x"][:, 1] == 0.2).all()
    assert drawn["x"][:, 0].equal(drawn["x_unobserved"][:, 0])
    assert "s" not in drawn


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the effective sample size")
def test_imputation_of_what_is_above_the_mean():
    """The paper's protocol: of half of the columns, values above the mean are removed."""
    from sklearn.datasets import load_breast_cancer

    x = torch.tensor(load_breast_cancer().data, dtype=torch.float32)
    x = (x - x.mean(0)) / x.std(0)
    missing = (x > 0) & (torch.arange(30) < 15)
    data = pv.data.load(x.masked_fill(missing, torch.nan), validation=0.0, test=0.0)
    error = {}
    for model in (pv.VAE, SelectionVAE):
        torch.manual_seed(0)
        parts = {"likelihood": pv.likelihoods.Normal(scale="shared")}
        vae = model((30,), 14, encoder=pv.nets.mlp(128), decoder=pv.nets.mlp(128), **parts)
        pv.fit(vae, data, epochs=60, batch_size=64, loss=bound(10), progress=False, compile=False)
        filled = pv.predict(vae, x.masked_fill(missing, torch.nan), 50, num_particles=200).mean()
        error[model] = (filled - x)[missing].square().mean().sqrt().item()
    assert error[SelectionVAE] < error[pv.VAE] - 0.15


@pytest.mark.parametrize("selection", [pv.nets.SelfMasking, pv.nets.mlp(4)], ids=["self", "network"])
def test_it_learns_as_any_program(selection):
    data = vanishing(64)
    vae = SelectionVAE((1,), 1, selection=selection, **LINEAR)
    vae.initialize(data)
    with torch.no_grad():  # before it is trained, values are seen as often as they are
        share = vae.p_s(torch.zeros(1)).base_dist.probs if selection is pv.nets.SelfMasking else None
    if share is not None:
        assert share.item() == pytest.approx((~data[:].isnan()).float().mean().item(), abs=0.02)
    svi = pv.svi.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO(), compile=False)
    before = copy.deepcopy(vae.state_dict())
    for _ in range(3):
        assert math.isfinite(svi.step(data.batch(slice(0, 64))))
    moved = {n for n, v in vae.state_dict().items() if not torch.equal(v, before[n])}
    assert moved == {n for n, _ in vae.named_parameters()}
    assert vae.generate(5)["x"].shape == (5, 1)


@pytest.mark.parametrize("selection", [pv.nets.SelfMasking, pv.nets.mlp(4)], ids=["self", "network"])
def test_a_run_is_read_back(selection, tmp_path):
    data = pv.data.load(vanishing(64)[:], validation=0.0, test=0.0)
    vae = SelectionVAE((1,), 1, selection=selection, **LINEAR)
    pv.fit(vae, data, epochs=1, folder=tmp_path / "run", progress=False)
    read = pv.load(tmp_path / "run")
    assert read.options["selection"] == selection
    torch.testing.assert_close(read.state_dict(), vae.state_dict())


def test_what_is_seen_of_draws_depends_on_them():
    vae = SelectionVAE((3,), 1, **LINEAR)
    torch.nn.init.constant_(vae.p_s.net.weight, 1e4)  # seen if above what is typical
    drawn = vae.generate(200)
    assert ((drawn["x"] > vae.p_s.seen[0].loc) == drawn["s"].bool()).float().mean() > 0.99
    assert 0.1 < drawn["s"].mean() < 0.9


def test_what_cannot_be_drawn():
    with pytest.raises(ValueError, match="whether a column is observed depends on its value"):
        pv.evaluate.columns(SelectionVAE((2,), 1, **LINEAR), torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"what is missing cannot be drawn from Bernoulli\(\).*or a pv.VAE"):
        SelectionVAE((3,), 1, likelihood=pv.likelihoods.Bernoulli())
    with pytest.raises(ValueError, match="cannot be drawn from LowRankNormal"):
        SelectionVAE((3,), 1, likelihood=pv.likelihoods.LowRankNormal(1))
