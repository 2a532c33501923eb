"""Clusters against closed forms, integrals and all permutations by hand."""

import itertools
import math
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.data import DataError
from pyro_vae.evaluate.clusters import match, middles, of_latent

EXACT = {"rtol": 1e-9, "atol": 1e-9}
SMALL = {"encoder": pv.nets.mlp(8), "decoder": pv.nets.mlp(8)}
W, M, S = (torch.tensor(v, dtype=torch.float64) for v in ([0.3, 0.7], [-1.0, 2.0], [0.5, 1.0]))
NOISE = 0.8
X = torch.tensor([[-2.0], [0.0], [0.4], [1.0], [4.0]], dtype=torch.float64)
GRID = torch.linspace(-30, 30, 12_001, dtype=torch.float64)


def mixture(weights, loc, scale):
    component = dist.Normal(loc[..., None], scale[..., None]).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(weights), component)


class TwoNormals(pv.Program):
    """z of a mixture of two, x ~ N(z, 0.8); the guide is the posterior."""

    def __init__(self):
        super().__init__()
        self.event_shapes = {"x": (1,)}

    def model(self, batch):
        with self.plate(batch):
            z = pyro.sample("z", mixture(W, M, S))
            self.sample("x", dist.Normal(z, NOISE).to_event(1), batch)

    def guide(self, batch):
        variance = 1 / (1 / S**2 + 1 / NOISE**2)
        loc = variance * (M / S**2 + batch["x"] / NOISE**2)
        with self.plate(batch):
            pyro.sample("z", mixture(component_given(batch["x"]), loc, variance.sqrt().expand_as(loc)))


def component_given(x):
    """p(k|x), ``[B, 2]``."""
    return (W.log() + dist.Normal(M, (S**2 + NOISE**2).sqrt()).log_prob(x)).softmax(1)


def build(prior, latent_dim=1, **options):
    torch.manual_seed(0)
    vae = pv.VAE((3,), latent_dim, prior=prior, likelihood=pv.likelihoods.Normal(), **SMALL | options)
    with torch.no_grad():
        for p in vae.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return vae, torch.randn(6, 3)


@pytest.mark.usefixtures("double")
def test_the_posterior_gives_the_components_own():
    """E[p(k|z)] over p(z|x) is p(k|x), within the draws' standard errors."""
    found = pv.evaluate.clusters(TwoNormals(), X, num_samples=20_000)
    truth = component_given(X)
    assert found.responsibilities.dtype == torch.float64
    assert (found.responsibilities - truth).abs().max() < 5 * 0.5 / 20_000**0.5
    torch.testing.assert_close(found.responsibilities.sum(1), torch.ones(5), **EXACT)
    assert found.assignments.tolist() == truth.argmax(1).tolist() == [0, 0, 1, 1, 1]
    assert (found.site, found.accuracy, found.matching) == ("z", None, None)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("prior", [pv.priors.MixtureOfNormals(3), pv.priors.VampPrior(4)])
def test_against_an_integral(prior):
    """Over q(z|x), of a learned mixture and of the guide's own."""
    vae, x = build(prior)
    p = vae.prior()
    each = p.component_distribution.log_prob(GRID[:, None, None])
    given_z = (p.mixture_distribution.logits + each).softmax(-1)
    torch.testing.assert_close(of_latent(p, vae.encode(x), GRID[:, None]), given_z, **EXACT)
    q = vae.encode(x).log_prob(GRID[:, None, None]).exp()
    torch.testing.assert_close(torch.trapezoid(q, GRID, dim=0), torch.ones(6), rtol=0, atol=1e-6)
    truth = torch.trapezoid(q[..., None] * given_z[:, None], GRID, dim=0)
    found = pv.evaluate.clusters(vae, x, num_samples=10_000)
    assert (found.responsibilities - truth).abs().max() < 5 * 0.5 / 10_000**0.5
    torch.testing.assert_close(found.sizes, found.responsibilities.mean(0), **EXACT)
    assert 1 <= found.in_use <= found.responsibilities.shape[1]


@pytest.mark.usefixtures("double")
def test_an_array_of_latents():
    p = pv.families.MixtureOfNormals(2)
    p.setup((2, 3))
    z = torch.randn(5, 2, 3)
    raw = torch.randn(p.param_shape())
    inner = p(raw).base
    each = inner.component_distribution.log_prob(z.flatten(1)[:, None])
    expected = (inner.mixture_distribution.logits + each).softmax(-1)
    torch.testing.assert_close(of_latent(p(raw), None, z), expected, **EXACT)


@pytest.mark.usefixtures("double")
def test_a_choice_is_its_own_cluster():
    vae, x = build(pv.priors.OneHotCategorical(4), 4)
    found = pv.evaluate.clusters(vae, x, num_samples=1)
    torch.testing.assert_close(found.responsibilities, vae.encode(x).mean, **EXACT)


@pytest.mark.usefixtures("double")
def test_labels_of_a_model_of_labels_are_hidden_from_it():
    torch.manual_seed(0)
    vae = pv.SemiSupervisedVAE((3,), num_classes=3, latent_dim=1, classifier=pv.nets.mlp(8), **SMALL)
    x = torch.rand(6, 3).round()
    q = vae.classify(x)
    data = pv.data.Split(x, labels=torch.arange(6) % 3)
    found = pv.evaluate.clusters(vae, data)
    assert found.site == "y_unobserved"
    torch.testing.assert_close(found.responsibilities, q, **EXACT)
    assert found.num_labels == 6
    assert found.accuracy == match(q.argmax(1), torch.arange(6.0) % 3, 3)[0]


@pytest.mark.usefixtures("double")
def test_of_several_latents_one_is_named():
    torch.manual_seed(0)
    vae = pv.SemiSupervisedVAE(
        (3,),
        num_classes=3,
        latent_dim=1,
        prior=pv.priors.MixtureOfNormals(2),
        classifier=pv.nets.mlp(8),
        **SMALL,
    )
    data = {"x": torch.rand(6, 3).round(), "y": torch.arange(6.0) % 3}
    with pytest.raises(ValueError, match="site=None must be one of"):
        pv.evaluate.clusters(vae, data)
    assert pv.evaluate.clusters(vae, data, site="z").responsibilities.shape == (6, 2)
    with pytest.raises(ValueError, match="site='w' must be one of"):
        pv.evaluate.clusters(vae, data, site="w")


def test_what_has_no_clusters_is_refused():
    vae, x = build(pv.priors.Normal())
    with pytest.raises(ValueError, match=r"prior=pv.priors.MixtureOfNormals\(10\)"):
        pv.evaluate.clusters(vae, x)
    bits, x = build(pv.priors.Bernoulli(), 3)
    with pytest.raises(ValueError, match="no latent of this VAE is a mixture"):
        pv.evaluate.clusters(bits, x)
    choices, x = build(pv.priors.OneHotCategorical(3), 6)
    with pytest.raises(ValueError, match="no latent"):
        pv.evaluate.clusters(choices, x)
    vae, x = build(pv.priors.MixtureOfNormals(2))
    with pytest.raises(DataError, match="a number for each of the 6 data"):
        pv.evaluate.clusters(vae, x, torch.zeros(5))
    with pytest.raises(DataError, match="a number for each"):
        pv.evaluate.clusters(vae, x, list("abcdef"))


@pytest.mark.parametrize(("number", "classes"), [(4, 4), (5, 3), (3, 5)])
def test_matching_is_the_best_of_all(number, classes):
    generator = torch.Generator().manual_seed(0)
    assignments = torch.randint(number, (60,), generator=generator)
    labels = torch.randint(classes, (60,), generator=generator).double()
    known = torch.rand(60, generator=generator) < 0.8
    size = max(number, classes)
    best = max(
        int((torch.tensor(order)[assignments[known]] == labels[known]).sum())
        for order in itertools.permutations(range(size))
    )
    accuracy, _, matching, count = match(assignments, labels.where(known, math.nan), number)
    assert count == int(known.sum())
    assert accuracy == pytest.approx(best / count)
    assert int((matching[assignments[known]] == labels[known]).sum()) == best
    assert int((~matching.isnan()).sum()) == min(number, classes)


def test_clusters_that_are_the_classes():
    """By other names: accuracy and NMI are 1, and a cluster more than there are classes has none."""
    labels = torch.tensor([3.0, 3.0, 7.0, math.nan, 5.0, 7.0])
    accuracy, nmi, matching, _ = match(torch.tensor([2, 2, 0, 3, 1, 0]), labels, 4)
    assert (accuracy, nmi) == (1, pytest.approx(1))
    assert matching[:3].tolist() == [7, 5, 3]
    assert matching[3].isnan()
    accuracy, nmi, *_ = match(torch.zeros(6, dtype=torch.int64), labels, 2)
    assert (accuracy, nmi) == (pytest.approx(0.4), 0)


@pytest.mark.usefixtures("double")
def test_told():
    found = pv.evaluate.clusters(TwoNormals(), X, [1, 1, 0, 0, math.nan], num_samples=100)
    assert "2 clusters of z, about" in str(found)
    assert "accuracy 1.000, NMI 1.000 (4 labels)" in str(found)
    assert "<table>" in found._repr_html_()
    assert "accuracy" not in str(pv.evaluate.clusters(TwoNormals(), X))
    one = pv.evaluate.Clusters("z", torch.eye(3)[[0, 0]])
    assert one.in_use == 1
    assert pv.evaluate.Clusters("z", torch.eye(4)).in_use == pytest.approx(4)


@pytest.mark.usefixtures("double")
def test_middles():
    """Of each component or value; the same of any number of data."""
    for prior in (mixture(W, M, S), mixture(W, M, S).expand([5])):
        torch.testing.assert_close(middles(prior), M[:, None])
    family = pv.families.MixtureOfNormals(2)
    family.setup((2, 3))
    p = family(torch.randn(family.param_shape()))
    torch.testing.assert_close(middles(p.expand([4])).flatten(1), p.base.loc)
    assert middles(pv.distributions.Discrete(torch.zeros(3), 3)).tolist() == torch.eye(3).tolist()
    assert middles(dist.Categorical(logits=torch.zeros(4, 3))).tolist() == [0, 1, 2]


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn of clusters."""
    found = []
    module = sys.modules["pyro_vae.figures.clusters"]
    monkeypatch.setattr(module, "pictures", lambda _, what, ax: found.append(what))
    return found


@pytest.mark.usefixtures("double")
def test_figure(drawn):
    """A column for each cluster, the larger first: its middle, decoded, and its data."""
    vae, _ = build(pv.priors.MixtureOfNormals(3))
    x = torch.randn(40, 3)
    found = pv.evaluate.clusters(vae, x)
    pv.figures.clusters(vae, x, 2)
    (what,) = drawn
    order = found.sizes.argsort(descending=True).tolist()
    assert what.columns == [f"k = {k}\n{found.sizes[k]:.0%}" for k in order]
    assert what.title.startswith("Clusters of z: the mean of each")
    order = found.sizes.argsort(descending=True)
    loc = vae.prior().component_distribution.mean
    torch.testing.assert_close(what.rows[0], vae.decode(loc[order]).mean)
    labels = torch.arange(40.0) % 3
    labels[::5] = torch.nan
    pv.figures.clusters(vae, x, 2, labels=labels)
    told = drawn[1].columns
    for k, text in zip(order, told, strict=True):
        own = [
            v for v, a in zip(labels.tolist(), found.assignments.tolist(), strict=True) if a == k and v == v
        ]
        best = max(sorted({*own}), key=own.count, default=0)
        share = f"{best:.0f}: {own.count(best) / len(own):.0%}" if own else "?"  # a cluster of no datum
        assert text.split("\n")[2] == share
    assert drawn[1].title.endswith("the commonest class of all that are")
    with pytest.raises(ValueError, match=r"labels=.* must be one for each of the 40 data"):
        pv.figures.clusters(vae, x, labels=labels[:5])
    named = pv.data.load(x, labels=["ab"[i % 2] for i in range(40)], test=0.5)
    pv.figures.clusters(vae, named.test)
    assert {text.split("\n")[2][0] for text in drawn[2].columns} <= {"a", "b", "?"}


@pytest.mark.usefixtures("double")
def test_figure_of_classes(drawn):
    """Of a model of labels each column's middle is decoded under its own class."""
    torch.manual_seed(0)
    vae = pv.SemiSupervisedVAE((3,), num_classes=3, latent_dim=1, classifier=pv.nets.mlp(8), **SMALL)
    data = {"x": torch.rand(9, 3).round(), "y": torch.arange(9.0) % 3}
    pv.figures.clusters(vae, data, 4)
    found = pv.evaluate.clusters(vae, data)
    order = found.sizes.argsort(descending=True)
    (what,) = drawn
    expected = vae.decode(torch.zeros(3, 1), order.to(torch.float64)).mean
    torch.testing.assert_close(what.rows[0], expected)
    assert len(what.rows) == 5
    for column, k in enumerate(order):
        own = found.responsibilities[found.assignments == k, k].sort(descending=True).values
        there = torch.stack([row[column] for row in what.rows[1:]])
        assert int((~there[:, 0].isnan()).sum()) == min(4, len(own))
