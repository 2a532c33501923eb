"""Evaluators of programs with discrete latents: right against explicit sums, or refused in a sentence."""

import itertools
import math

import pyro.distributions as dist
import pytest
import torch
from cases import DISCRETE, SMALL, batch_of, make

import pyro_vae as pv
from pyro_vae.distributions import Discrete
from pyro_vae.program import DataWarning

EXACT = {"rtol": 1e-9, "atol": 1e-9}
VALUES = {
    "bits": torch.tensor(list(itertools.product((0.0, 1.0), repeat=3))),
    "choices": torch.tensor([[*a, *b] for a in torch.eye(3).tolist() for b in torch.eye(3).tolist()]),
}
PRIORS = {"bits": pv.priors.Bernoulli(), "choices": pv.priors.OneHotCategorical(3)}
GRADIENTS = ("enumerate", "relaxed", "score")


def build(kind, gradients="enumerate", **options):
    """A VAE that is not trained, whose guide is far from the prior."""
    torch.manual_seed(0)
    parts = {"prior": PRIORS[kind], "likelihood": pv.likelihoods.Normal(), **SMALL}
    parts["guide"] = pv.guides.Discrete(gradients)
    vae = pv.VAE((5,), VALUES[kind].shape[1], **(parts | options))
    with torch.no_grad():
        for p in vae.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return vae.to(torch.get_default_dtype()), torch.randn(6, 5)


@torch.no_grad()
def by_hand(vae, x, kind):
    """log p(x, z) and log q(z|x) of each value, ``[B, S]``."""
    values = VALUES[kind].to(x)
    z = values[:, None].expand(-1, len(x), -1)
    log_p = vae.decode(z).log_prob(x) + vae.prior().log_prob(values)[:, None]
    return log_p.T, vae.encode(x).log_prob(z).T


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("gradients", GRADIENTS)
@pytest.mark.parametrize("kind", PRIORS)
def test_anatomy(kind, gradients):
    """The KL, and what of it is mutual information: sums over all values, of the 6 data's own."""
    vae, x = build(kind, gradients)
    _, log_q = by_hand(vae, x, kind)
    log_prior = vae.prior().log_prob(VALUES[kind].to(x))
    kl = (log_q.exp() * (log_q - log_prior)).sum(1).mean().item()
    mixture = log_q.logsumexp(0) - math.log(6)
    information = (log_q.exp() * (log_q - mixture)).sum(1).mean().item()
    found = pv.evaluate.anatomy(vae, x, num_samples=4, num_aggregate=6000)
    assert found.kl == pytest.approx(kl, rel=1e-6)
    error = found.standard_errors["mutual_information"]
    assert found.mutual_information == pytest.approx(information, abs=5 * error)
    assert 0 < error < 0.2 * information
    assert found.mutual_information + found.marginal_kl == pytest.approx(found.kl)
    site = found.sites["z"]
    assert site.num_latents == VALUES[kind].shape[1]
    torch.testing.assert_close(site.codes, (log_q.exp() @ VALUES[kind].to(x)).to(site.codes))
    if kind == "bits":  # which are independent, one by one
        assert site.kl_by_latent.sum().item() == pytest.approx(kl, rel=1e-6)
        one = torch.stack([mixture[VALUES[kind][:, d] == 1].logsumexp(0) for d in range(3)]).exp()
        marginals = (one * (2 * one).log() + (1 - one) * (2 - 2 * one).log()).sum().item()
        error = site.standard_errors["dimension_wise_kl"]
        assert site.dimension_wise_kl == pytest.approx(marginals, abs=5 * error + 1e-6)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("gradients", GRADIENTS)
@pytest.mark.parametrize("kind", PRIORS)
def test_inference_gap(kind, gradients):
    """The ELBO is that of the guide, though its weights be summed over; and the parts make up the whole."""
    vae, x = build(kind, gradients)
    log_p, log_q = by_hand(vae, x, kind)
    elbo, evidence = (log_q.exp() * (log_p - log_q)).sum(1), log_p.logsumexp(1)
    found = pv.evaluate.inference_gap(vae, x, num_steps=60, num_samples=400)
    if gradients == "enumerate":
        torch.testing.assert_close(found.per_datum["elbo"], elbo.to(found.per_datum["elbo"]), **EXACT)
        torch.testing.assert_close(found.per_datum["log_likelihood"], evidence.double(), **EXACT)
        assert (found.per_datum["approximation"] > -1e-9).all()
        assert (found.per_datum["amortisation"] > -0.02).all()
    assert found.elbo == pytest.approx(elbo.mean().item(), abs=0.25)
    assert found.log_likelihood == pytest.approx(evidence.mean().item(), abs=0.25)
    assert found.approximation + found.amortisation == pytest.approx(found.log_likelihood - found.elbo)
    assert found.amortisation > 0.1


class Exact(pv.Program):
    """A choice among four, and two numbers given it; the guide is the posterior, or twice as sure."""

    def __init__(self, sure=1.0):
        super().__init__()
        self.event_shapes, self.sure = {"x": (40,)}, sure
        generator = torch.Generator().manual_seed(0)
        self.loc = torch.nn.Parameter(0.25 * torch.randn(4, 40, generator=generator))

    def model(self, batch):
        with self.plate(batch):
            z = self.sample("z", Discrete(self.loc.new_zeros(4), 4))
            self.sample("x", dist.Normal(z @ self.loc, 1.0).to_event(1), batch)

    def guide(self, batch):
        log_p = dist.Normal(self.loc, 1.0).to_event(1).log_prob(batch["x"][..., None, :])
        with self.plate(batch):
            self.sample("z", Discrete(self.sure * log_p, 4, enumerates=True))


def test_calibration():
    """Of the posterior p-values are of 0.05 in 1 of 20 tries, though most ranks are ties; else tiny."""
    exact = [pv.evaluate.calibration(Exact(), num_simulations=200, seed=seed).p_value for seed in range(5)]
    assert sum(p < 0.05 for p in exact) <= 2
    assert min(exact) > 1e-4
    assert pv.evaluate.calibration(Exact(3.0), num_simulations=1000).p_value < 1e-4


def test_predictive_check():
    """Of data of the model's own, and of others."""
    program = Exact()
    x = program.generate(200, seed=1)["x"]
    own, off = (pv.evaluate.predictive_check(program, by * x, num_replications=19) for by in (1, 2))
    assert own["spread within a datum"].p_value > 1 / 20
    assert off["spread within a datum"].p_value == 1 / 20


REFUSED = "HMC moves continuous latents, and .* is not: pv.evaluate.log_likelihood takes it"


@pytest.mark.parametrize("gradients", GRADIENTS)
@pytest.mark.parametrize("kind", PRIORS)
def test_annealing_is_refused(kind, gradients):
    vae, x = build(kind, gradients)
    for start in ("prior", "guide"):
        with pytest.raises(ValueError, match=REFUSED):
            pv.evaluate.ais(vae, x, num_temperatures=4, num_chains=2, start=start)


@pytest.mark.parametrize("name", DISCRETE)
def test_every_program(name):
    """With half of the labels known."""
    program = make(name)
    batch = batch_of(program, 24)
    batch["y"] = torch.where(torch.arange(24) % 2 == 0, torch.nan, batch["y"].float())
    found = pv.evaluate.anatomy(program, batch, num_aggregate=200)
    elbo = pv.evaluate.elbo(program, batch, num_samples=64)
    assert found.kl == pytest.approx(elbo.kl, abs=0.1)
    gap = pv.evaluate.inference_gap(program, batch, num_steps=40, num_samples=400)
    assert gap.elbo == pytest.approx(elbo.elbo, abs=5 * elbo.draws_error + 0.03)
    assert gap.log_likelihood > gap.elbo
    assert pv.evaluate.calibration(program, batch, num_simulations=20, num_samples=9).p_value > 0
    assert pv.evaluate.calibration(program, num_simulations=20, num_samples=9).p_value > 0
    assert pv.evaluate.predictive_check(program, batch, num_replications=9).p_value > 0
    with pytest.raises(ValueError, match=REFUSED):
        pv.evaluate.ais(program, batch, num_temperatures=4, num_chains=2)


def test_simulated_labels_are_missing_where_the_datas_are():
    """And a label that is missing is the one that x was drawn with."""
    from pyro_vae.evaluate.simulated import simulated

    program = make("SemiSupervisedVAE")
    batch = batch_of(program, 8)
    batch["y"] = torch.where(torch.arange(8) % 2 == 0, torch.nan, batch["y"].float())
    with program.evaluating():
        trace, drawn = simulated(program, program.place(batch))
    assert torch.equal(drawn["y"].isnan(), batch["y"].isnan())
    hidden = trace.nodes["y_unobserved"]["value"]
    assert torch.equal(hidden[1::2].float(), drawn["y"][1::2])


@pytest.mark.usefixtures("double")
def test_codes():
    """Mutual information is the entropy of the data's codes; what draws cannot find is refused."""
    torch.manual_seed(0)
    prior, parts = pv.priors.Codes(4, 2), {"likelihood": pv.likelihoods.Normal(), **SMALL}
    vae = pv.VAE((5,), 4, prior=prior, **parts).double().eval()
    x = torch.randn(40, 5)
    counts = torch.unique(vae.encode(x).codes, dim=0, return_counts=True)[1] / 40
    entropy = torch.special.entr(counts).sum().item()
    found = pv.evaluate.anatomy(vae, x, num_aggregate=40)
    assert found.kl == pytest.approx(2 * math.log(4), rel=1e-6)
    assert found.mutual_information == pytest.approx(entropy, rel=1e-6)
    assert pv.evaluate.calibration(vae, num_simulations=100).p_value < 1e-3  # it is certain, and wrong
    with pytest.raises(ValueError, match="weighs one value of its latents, so that log p"):
        pv.evaluate.inference_gap(vae, x)
    with pytest.raises(ValueError, match="HMC moves continuous latents"):
        pv.evaluate.ais(vae, x, num_temperatures=4, num_chains=2)
    with pytest.warns(DataWarning, match="the estimate of log p.x. is the ELBO"):
        known = pv.evaluate.log_likelihood(vae, x, num_samples=5)
    assert known.log_likelihood == pytest.approx(pv.evaluate.elbo(vae, x).elbo)


def test_ranks_of_equals_are_random_though_they_differ_by_rounding():
    from pyro_vae.evaluate.calibration import _ranks

    torch.manual_seed(0)
    truth = torch.full((2000, 1), 100.0)
    ranks = _ranks(truth, (truth + 1e-4).expand(9, -1, -1)).double()
    assert ranks.mean().item() == pytest.approx(4.5, abs=5 * 8.25**0.5 / 2000**0.5)
