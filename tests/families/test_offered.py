"""Every family of Pyro's: it is a likelihood or a guide, or is refused with a reason."""

import copy
import inspect
import pickle

import pyro.distributions as dist
import pytest
import torch
from cases import FAMILIES, NUMBERS, build
from torch.distributions import Distribution

import pyro_vae as pv
from pyro_vae import registry
from pyro_vae.families import Univariate

VECTORS = "is no scalar with a constraint of its own|vectors, not numbers|is no family of numbers"
UNTOLD = "does not say what its parameters are"
REFUSED = {
    "AVFMultivariateNormal": VECTORS,
    "CoalescentTimes": VECTORS,
    "CoalescentTimesWithRate": VECTORS,
    "Delta": VECTORS,
    "Dirichlet": VECTORS,
    "DirichletMultinomial": VECTORS,
    "DiscreteHMM": "needs a number for observation_dist",
    "Empirical": UNTOLD,
    "ExpandedDistribution": UNTOLD,
    "ExponentialFamily": UNTOLD,
    "FoldedDistribution": UNTOLD,
    "GammaGaussianHMM": UNTOLD,
    "GaussianHMM": UNTOLD,
    "GaussianMRF": UNTOLD,
    "GaussianScaleMixture": VECTORS,
    "GroupedNormalNormal": "vectors, not numbers",
    "ImproperUniform": UNTOLD,
    "Independent": UNTOLD,
    "IndependentHMM": UNTOLD,
    "LKJ": "needs a number for dim",
    "LKJCholesky": "needs a number for dim",
    "LKJCorrCholesky": "needs a number for d",
    "LinearHMM": UNTOLD,
    "LogNormalNegativeBinomial": "no density, or no sampler",
    "LogisticNormal": "vectors, not numbers",
    "LowRankMultivariateNormal": VECTORS,
    "MaskedDistribution": UNTOLD,
    "MaskedMixture": UNTOLD,
    "MixtureOfDiagNormals": VECTORS,
    "MixtureOfDiagNormalsSharedCovariance": VECTORS,
    "MixtureSameFamily": UNTOLD,
    "Multinomial": VECTORS,
    "MultivariateNormal": VECTORS,
    "MultivariateStudentT": VECTORS,
    "NanMaskedMultivariateNormal": VECTORS,
    "NanMaskedNormal": "missing values are left out of every family's density",
    "OMTMultivariateNormal": VECTORS,
    "OneHotCategorical": VECTORS,
    "OneHotCategoricalStraightThrough": VECTORS,
    "OneOneMatching": VECTORS,
    "OneTwoMatching": VECTORS,
    "OrderedLogistic": VECTORS,
    "ProjectedNormal": VECTORS,
    "Rejector": UNTOLD,
    "RelaxedBernoulliStraightThrough": "draws do not follow its density",
    "RelaxedOneHotCategorical": VECTORS,
    "RelaxedOneHotCategoricalStraightThrough": VECTORS,
    "SineBivariateVonMises": "vectors, not numbers",
    "SineSkewed": VECTORS,
    "SoftAsymmetricLaplace": "must also define a custom .expand",
    "SpanningTree": VECTORS,
    "Stable": "integral done by numbers",
    "StableWithLogProb": "integral done by numbers",
    "TorchDistribution": UNTOLD,
    "TransformedDistribution": UNTOLD,
    "TruncatedPolyaGamma": UNTOLD,
    "Uniform": UNTOLD,
    "Unit": "vectors, not numbers",
    "VonMises3D": VECTORS,
    "Wishart": UNTOLD,
    "ZeroInflatedDistribution": "made from a distribution",
}
"""Families that are no likelihoods, and what is said of them."""

NO_GUIDES = {
    "AffineBeta": "moves with its parameter loc",
    "Bernoulli": "not reparameterised",
    "BetaBinomial": "needs a number",
    "Binomial": "needs a number",
    "Categorical": "no scalar",
    "Cauchy": "no variance",
    "ExtendedBetaBinomial": "needs a number",
    "ExtendedBinomial": "needs a number",
    "FisherSnedecor": "no variance",
    "GammaPoisson": "not reparameterised",
    "GeneralizedPareto": "moves with its parameter",
    "Geometric": "not reparameterised",
    "HalfCauchy": "no variance",
    "InverseGamma": "no variance",
    "NegativeBinomial": "not reparameterised",
    "Pareto": "moves with its parameter scale",
    "Poisson": "not reparameterised",
    "RelaxedBernoulli": "needs a number",
    "VonMises": "not reparameterised",
    "ZeroInflatedNegativeBinomial": "not reparameterised",
    "ZeroInflatedPoisson": "not reparameterised",
}

NAMES = {
    name
    for name, family in vars(dist).items()
    if inspect.isclass(family) and issubclass(family, Distribution)
}


def test_every_family_is_offered_or_refused_for_a_reason():
    offered = set(dir(pv.likelihoods)) & NAMES
    assert not offered & set(REFUSED)
    assert offered | set(REFUSED) == NAMES
    assert len(offered) >= 36
    for name, reason in REFUSED.items():
        with pytest.raises(ValueError, match=reason):
            build(likelihood=getattr(dist, name))
        if name not in dir(pv.likelihoods):
            with pytest.raises(AttributeError, match=f"has no {name}: .{{15}}"):
                getattr(pv.likelihoods, name)


def test_every_guide_is_offered_or_refused_for_a_reason():
    able = set(dir(pv.guides)) & NAMES - {"Dirichlet"}
    assert able | set(NO_GUIDES) == set(dir(pv.likelihoods)) & NAMES
    for name, reason in NO_GUIDES.items():
        with pytest.raises(ValueError, match=reason):
            pv.guides.as_guide(getattr(dist, name))
        with pytest.raises(AttributeError, match=f"has no {name}: .{{15}}"):
            getattr(pv.guides, name)


def test_all_that_is_offered_can_be_made():
    for module, kind in ((pv.likelihoods, "likelihood"), (pv.guides, "guide")):
        for name in dir(module):
            assert callable(getattr(module, name))
            if name in ("Auto", "ByColumn"):  # of tables
                continue
            made = getattr(module, name)(**(NUMBERS.get(name, {}) if kind == "likelihood" else {}))
            assert isinstance(made, pv.families.Family)
            assert made.name == name or name == "Flow"
            assert set(dir(module)) <= set(registry.names(kind))


def test_three_spellings_mean_the_same():
    wanted = repr(pv.likelihoods.StudentT())
    for spelling in (
        dist.StudentT,
        torch.distributions.StudentT,
        pv.likelihoods.StudentT,
        pv.likelihoods.StudentT(),
    ):
        assert repr(pv.likelihoods.as_likelihood(spelling)) == wanted
    assert pv.likelihoods.of(dist.Normal) is pv.likelihoods.Normal
    assert type(pv.guides.as_guide(torch.distributions.Normal)) is pv.guides.Normal
    assert (
        repr(pv.guides.as_guide(pv.guides.Laplace)) == repr(pv.guides.as_guide(dist.Laplace)) == "Laplace()"
    )
    text = "StudentT(df=4.0, scale='shared')"
    assert repr(pv.likelihoods.StudentT(df=4.0, scale="shared")) == text
    assert repr(registry.read("likelihood", text)) == text
    with pytest.raises(AttributeError, match="has no attribute 'Studentt'; did you mean StudentT"):
        _ = pv.likelihoods.Studentt
    with pytest.raises(ValueError, match="Categorical needs its number of levels"):
        build(likelihood=dist.Categorical)


def test_earlier_words_for_sources_still_work():
    assert repr(pv.likelihoods.Normal(scale="per_pixel")) == "Normal(scale='per_element')"
    assert repr(pv.likelihoods.Normal(loc="decoder")) == "Normal()"


@pytest.mark.parametrize(
    ("family", "sources", "message"),
    [
        ("StudentT", {"sd": 1.0}, "no parameter 'sd'; it has df, loc, scale|unexpected keyword"),
        ("Laplace", {"sd": 1.0}, "no parameter 'sd'; it has loc, scale"),
        ("StudentT", {"df": -1.0}, "does not satisfy"),
        ("StudentT", {"df": "learned"}, "one of network, shared, per_element"),
        ("Normal", {"scale": "sharred"}, "one of network, shared, per_element"),
        ("Normal", {"scale": 0}, "satisfy"),
        ("Normal", {"scale": True}, "give a number"),
        ("Binomial", {}, "needs a number for total_count"),
        ("Binomial", {"total_count": "shared"}, "needs a number for total_count"),
        ("Binomial", {"total_count": True}, "needs a number for total_count"),
        ("Pareto", {}, r"moves with its parameter scale.*Pareto\(scale=...\)"),
        ("GeneralizedPareto", {"loc": 0.0}, "moves with its parameter"),
    ],
)
def test_what_a_family_cannot_be_made_with_is_refused(family, sources, message):
    with pytest.raises((ValueError, TypeError), match=message):
        getattr(pv.likelihoods, family)(**sources)


def test_a_guide_must_have_a_variance():
    with pytest.raises(ValueError, match=r"df=2.0\) does not satisfy"):
        pv.guides.StudentT(df=2.0)


def test_a_likelihood_must_leave_something_to_the_decoder():
    for made in (pv.likelihoods.Exponential(rate="shared"), pv.likelihoods.Normal(loc=0.0, scale="shared")):
        with pytest.raises(ValueError, match="leaves nothing to the decoder"):
            build(likelihood=made)
    for levels in (1, 0):
        with pytest.raises(ValueError, match="2 levels or more"):
            pv.likelihoods.Categorical(levels)


def test_counts_and_names_of_maps_are_checked():
    for make, message in [
        (lambda: pv.priors.VampPrior(2.5), "components=2.5 must be a whole number"),
        (lambda: pv.guides.LowRankNormal(0), "rank=0 must be"),
        (lambda: pv.likelihoods.LowRankNormal("2"), "rank='2' must be"),
        (lambda: pv.likelihoods.Categorical("16"), "levels='16' must be"),
        (lambda: pv.priors.Flow("spl"), "transform='spl' is none of 'affine_coupling'"),
        (lambda: pv.guides.Flow("iaf"), "transform='iaf' is none of"),
        (lambda: pv.guides.Flow("planar", 0), "num_transforms=0 must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


class Bell(dist.TorchDistribution):
    """A family of one's own: p(x) = N(x; loc, 1)."""

    arg_constraints = {"loc": dist.constraints.real}  # noqa: RUF012
    support = dist.constraints.real
    has_rsample = True

    def __init__(self, loc, validate_args=None):
        self.loc = loc
        super().__init__(loc.shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        return Bell(self.loc.expand(batch_shape))

    def rsample(self, sample_shape=()):
        return self.loc + torch.randn(self._extended_shape(sample_shape))

    def log_prob(self, value):
        return dist.Normal(self.loc, 1.0).log_prob(value)

    @property
    def variance(self):
        return torch.ones_like(self.loc)


@pytest.mark.parametrize("kind", ["likelihood", "guide"])
def test_family_of_ones_own(kind):
    x = torch.rand(4, 2, 3).round()
    vae = build(**{kind: Bell})
    made = vae.options[kind]
    assert made.parameters_["loc"].role == "location"
    for twin in (copy.deepcopy(vae), pickle.loads(pickle.dumps(vae))):
        z = vae.prior().sample((4,))
        assert torch.equal(twin.encode(x).log_prob(z), vae.encode(x).log_prob(z))
        assert torch.equal(twin.decode(z).log_prob(x), vae.decode(z).log_prob(x))
    text = registry.write(made)
    assert f"{Bell.__module__}.Bell" in text
    with pytest.raises(registry.ConfigError, match="not trusted"):
        registry.read(kind, text)
    again = registry.read(kind, text, trust="*")
    assert build(**{kind: again}).options[kind].family is Bell


class Sharp(Univariate):
    """A class of one's own over a family, with a word less to say."""

    def __init__(self):
        super().__init__(dist.Laplace, scale=0.1)


def test_class_of_ones_own():
    vae = build(likelihood=Sharp())
    assert type(vae.p_x.family) is Sharp
    assert vae.p_x.family.name == "Sharp"
    assert build(likelihood=Sharp).decode(torch.zeros(1, 3)).base_dist.scale.unique().item() == pytest.approx(
        0.1
    )
    assert type(pickle.loads(pickle.dumps(vae)).p_x.family) is Sharp


def test_no_family_draws_from_the_callers_generator():
    before = torch.get_rng_state()
    for case in FAMILIES.values():
        Univariate(case.family, **{n: p.source for n, p in case.parameters_.items()})
    dir(pv.guides)
    assert torch.equal(torch.get_rng_state(), before)
