"""Counts whose totals differ: densities by SciPy, parameters found again, totals that scale the means."""

import warnings
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from plain import assert_same

import pyro_vae as pv
from pyro_vae.models.count_vae import CountVAE

stats = pytest.importorskip("scipy.stats")

G = 6
NETS = {"encoder": pv.nets.mlp(8), "decoder": pv.nets.mlp(8)}
LIKELIHOODS = {
    "NegativeBinomial": dist.NegativeBinomial,
    "NegativeBinomial-per-gene": pv.likelihoods.NegativeBinomial(total_count="per_element"),
    "GammaPoisson": dist.GammaPoisson,
    "Poisson": dist.Poisson,
    "ZeroInflatedNegativeBinomial": pv.likelihoods.ZeroInflatedNegativeBinomial(total_count="per_element"),
    "ZeroInflatedPoisson": dist.ZeroInflatedPoisson,
}


def counts(number=8):
    return torch.poisson(torch.rand(number, G) * torch.tensor([0.1, 1.0, 5.0, 30.0, 2.0, 0.5])) + torch.eye(
        number, G
    )


def make(likelihood="NegativeBinomial-per-gene", **options):
    torch.manual_seed(1)
    return CountVAE((G,), likelihood=LIKELIHOODS[likelihood], latent_dim=2, **(NETS | options))


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_density_by_scipy(name, double):
    """Each count by SciPy, its mean the total times softmax of what the network gives for each gene."""
    vae, x = make(name), counts()
    vae.initialize(pv.data.Split(x))
    z, total = torch.randn(3, 8, 2), x.sum(-1, keepdim=True)
    with torch.no_grad():
        ours = vae.decode(z, log_total=total.log()).log_prob(x)
        family = vae.p_x.family
        raw = iter(vae.p_x.emit(z).chunk(len(family.from_network), -1))
        value = {
            n: p(next(raw) if p.source == "network" else None).expand(3, 8, G).numpy()
            for n, p in family.parameters_.items()
        }
    size = value.get("total_count", value.get("concentration"))
    if "logits" in value:
        unscaled = size * np.exp(value["logits"])
    else:
        unscaled = value["rate"] if size is None else size / value["rate"]
    mean = total.numpy() * unscaled / unscaled.sum(-1, keepdims=True)
    np.testing.assert_allclose(mean.sum(-1), np.broadcast_to(total[:, 0], (3, 8)))
    p = stats.poisson(mean) if size is None else stats.nbinom(size, size / (size + mean))
    expected = p.logpmf(x.numpy())
    if "gate_logits" in value:
        gate = 1 / (1 + np.exp(-value["gate_logits"]))
        expected = np.log(gate * (x.numpy() == 0) + (1 - gate) * np.exp(expected))
    np.testing.assert_allclose(ours, expected.sum(-1), rtol=1e-9)


@pytest.mark.parametrize("name", [name for name in LIKELIHOODS if "Zero" not in name])
def test_means_are_in_proportion_to_the_total(name):
    vae, z = make(name), torch.randn(5, 2)
    one, other = (vae.decode(z, log_total=torch.tensor([total]).log()).mean for total in (1.0, 300.0))
    torch.testing.assert_close(300 * one, other)
    torch.testing.assert_close(other.sum(-1), torch.full((5,), 300.0))


def test_totals_are_what_was_counted():
    """Of data that are missing in part that of the rest; of none at all that of the training data."""
    vae, x = make(), counts()
    vae.initialize(pv.data.Split(x))
    torch.testing.assert_close(vae.typical.exp()[0], x.sum(-1).mean())
    x[0, 2], x[1] = torch.nan, torch.nan
    total = vae.log_total(x).exp()[:, 0]
    torch.testing.assert_close(total[2:], x[2:].sum(-1))
    torch.testing.assert_close(total[0], x[0].nansum())
    torch.testing.assert_close(total[1], vae.typical.exp()[0])


def test_drawn_counts_have_typical_totals():
    x = 10 * counts(200)
    vae = make()
    vae.initialize(pv.data.Split(x))
    drawn = vae.generate(500)["x"].sum(-1).mean()
    torch.testing.assert_close(drawn, x.sum(-1).mean(), rtol=0.1, atol=0)


def simulated(number=3000, genes=20):
    """Two kinds of cells in two batches, the second of which was sequenced four times as deep."""
    generator = torch.Generator().manual_seed(3)
    kind = torch.randint(2, (number,), generator=generator)
    batch = torch.randint(2, (number,), generator=generator)
    shares = (1.2 * torch.randn(2, genes, generator=generator)).softmax(-1)
    theta = torch.linspace(0.5, 1.8, genes).exp()
    log_total = torch.where(batch == 0, 6.0, 7.4) + 0.2 * torch.randn(number, generator=generator)
    mean = log_total.exp()[:, None] * shares[kind]
    torch.manual_seed(4)
    x = torch.poisson(torch.distributions.Gamma(theta, theta / mean).sample())
    return {"x": x, "batch": batch}, theta, log_total, shares


@pytest.mark.parametrize("library", ["observed", "latent"])
def test_recovery(library, uncompiled):
    """The dispersion of each gene, and of a latent library that of each batch and of each cell."""
    batch, theta, log_total, _ = simulated()
    torch.manual_seed(0)
    data = pv.data.load(batch)
    vae = CountVAE(data.event_shape, given={"batch": 2}, latent_dim=2, library=library)
    pv.fit(vae, data, epochs=40, batch_size=200, lr=2e-2, schedule="cosine", progress=False)
    found = vae.p_x.family.parameters_["total_count"].value
    ratio = found / theta
    assert ratio.log().abs().median() < 0.12
    assert ratio.log().abs().max() < 0.8
    if library == "latent":
        with torch.no_grad():
            prior = vae.p_library(torch.tensor([0, 1]))
            x = batch["x"][:500]
            guide = vae.log_total(x) + vae.q_library(x, batch["batch"][:500]).mean
        torch.testing.assert_close(prior.mean[:, 0], torch.tensor([6.0, 7.4]), atol=0.15, rtol=0)
        assert torch.corrcoef(torch.stack([guide[:, 0], log_total[:500]]))[0, 1] > 0.95


@pytest.mark.parametrize("library", ["observed", "latent"])
def test_compiled_saved_and_asked(library):
    """The step compiles, with no part of it eager; a run is loaded; what is missing is drawn."""
    data = pv.data.load({"x": counts(320), "batch": torch.arange(320) % 3})
    options = {"epochs": 2, "batch_size": 64}
    runs = [
        pv.fit(
            make(library=library, given={"batch": 3}),
            data,
            compile=compile,
            progress=False,
            folder=f"run-{compile}",
            **options,
        )
        for compile in (True, False)
    ]
    assert_same(runs[0].program, runs[1].program, 1e-4)
    assert "compiled, float32" in Path("run-True/log.txt").read_text()
    again = pv.load("run-True", program=make(library=library, given={"batch": 3}))
    assert_same(again, runs[0].program, 0.0)
    given = {name: value.clone() for name, value in data.test.batch(slice(0, 2)).items()}
    given["x"][0, 3] = torch.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pv.program.DataWarning)  # of a model that has hardly been trained
        drawn = pv.predict(again, given, num_samples=5)
    assert drawn["x"].shape == (5, 2, G)
    assert (drawn["x"][:, 0, 3] >= 0).all()
    torch.testing.assert_close(drawn["x"][:, 1], given["x"][1].expand(5, G))
    assert pv.evaluate.log_likelihood(again, data.test, num_samples=10).per_datum.isfinite().all()


def test_networks_see_logarithms():
    """log(1 + x), standardised: a count of a thousand is no outlier."""
    vae, x = make(), counts(100)
    vae.initialize(pv.data.Split(x))
    (seen,) = vae.q_z.seen
    logs = x.log1p()
    torch.testing.assert_close(
        seen(x), (logs - logs.mean(0)) / logs.std(0, correction=0), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"likelihood": dist.Normal}, "none of counts.*NegativeBinomial"),
        ({"likelihood": dist.Bernoulli}, "none of counts"),
        ({"event_shape": (3, 4)}, "no shape of a vector"),
        ({"library": "known"}, "library='known'"),
        ({"prior": pv.priors.VampPrior(3)}, "VampPrior"),
        ({"given": {"x": 3}}, "another name than x"),
    ],
)
def test_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CountVAE(**({"event_shape": (G,)} | options))


def test_batches_are_needed():
    vae = make(given={"batch": 3})
    with pytest.raises(pv.data.DataError, match=r"needs batch.*batch_key"):
        vae.model(counts())
