"""Against quadrature and many draws of Normals whose guide is known, and limits where it is the posterior."""

import copy
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import PROGRAMS, batch_of, make
from models.linear import LATENTS, PIXELS, system
from pyro import poutine
from sklearn.datasets import load_digits
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal, kl_divergence

import pyro_vae as pv
from pyro_vae.data import DataError
from pyro_vae.evaluate import aggregate

LEVELS = ("bottom_up", "top_down")


def mixture(q):
    """The aggregate posterior: all data's q with one weight each."""
    return MixtureSameFamily(Categorical(logits=torch.zeros(q.batch_shape)), q)


def truth(s, draws=100_000):
    """Mutual information and marginal KL over all latents from many draws, with their standard errors."""
    number = len(s.q.mean)
    n = torch.arange(draws) % number
    own = MultivariateNormal(s.q.mean[n], s.q.covariance_matrix[n])
    z = own.sample()
    log_q = own.log_prob(z)
    log_mixed = torch.cat([mixture(s.q).log_prob(part) for part in z.split(20_000)])
    log_p = MultivariateNormal(s.prior.mean[n], s.prior.covariance_matrix[n]).log_prob(z)
    return [(x.mean().item(), x.std().item() / draws**0.5) for x in (log_q - log_mixed, log_mixed - log_p)]


def by_quadrature(q, p):
    """KL(q(z)||p(z)), total correlation and dimension-wise KL of two latents, from a grid."""
    axis = torch.linspace(-7, 7, 401)
    z = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    step = axis[1] - axis[0]
    log_q = mixture(q).log_prob(z.reshape(-1, 2)).reshape(401, 401)
    marginals = [
        mixture(Normal(q.mean[:, d], q.variance[:, d].sqrt())).log_prob(axis) for d in range(LATENTS)
    ]
    mass = log_q.exp() * step**2
    assert mass.sum().item() == pytest.approx(1, abs=1e-6)
    product = marginals[0][:, None] + marginals[1]
    log_p = p.log_prob(z)
    each = [(m.exp() * (m - Normal(0, 1).log_prob(axis))).sum() * step for m in marginals]
    return [(mass * (log_q - x)).sum().item() for x in (log_p, product)] + [sum(each).item()]


def within(found, name, expected, more=0.0):
    """Whether an estimate is within 4.5 standard errors, which are small."""
    error = math.hypot(found.standard_errors[name], more)
    assert error < 0.05
    assert getattr(found, name) == pytest.approx(expected, abs=4.5 * error + 1e-9), name


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("wrong", [False, True])
def test_one_site_against_quadrature(wrong):
    s = system("VAE", exact=not wrong, number=40)
    found = pv.evaluate.anatomy(s.program, s.batch, num_aggregate=4000)
    marginal, correlation, dimension_wise = by_quadrature(
        s.q, MultivariateNormal(torch.zeros(2), torch.eye(2))
    )
    kl = kl_divergence(s.q, s.prior)
    assert found.kl == pytest.approx(kl.mean().item(), rel=1e-9)
    assert found.standard_errors["kl"] == pytest.approx((kl.std() / 40**0.5).item(), rel=1e-9)
    within(found, "marginal_kl", marginal)
    within(found, "mutual_information", found.kl - marginal)
    site = found.sites["z"]
    within(site, "total_correlation", correlation)
    within(site, "dimension_wise_kl", dimension_wise)
    assert found.mutual_information + found.marginal_kl == pytest.approx(found.kl, rel=1e-12)
    assert site.total_correlation + site.dimension_wise_kl == pytest.approx(site.marginal_kl, rel=1e-9)
    assert found.mutual_information < math.log(40)
    variance = s.q.variance
    each = 0.5 * (s.q.mean.square() + variance - 1 - variance.log()).mean(0)
    torch.testing.assert_close(site.kl_by_latent, each)
    torch.testing.assert_close(site.codes, s.q.mean)
    torch.testing.assert_close(site.variances, s.q.mean.var(0))
    assert found.reconstruction == pytest.approx(
        s.expected["x"].mean().item(), abs=5 * s.expected["x"].std().item() / 20
    )


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("kind", ["ConditionalVAE", "conditional_prior", *LEVELS])
def test_of_every_kind_against_many_draws(kind, missing):
    s = system(kind, missing, number=30)
    found = pv.evaluate.anatomy(s.program, s.batch, num_samples=400, num_aggregate=4000)
    (information, error), (marginal, more) = truth(s)
    within(found, "mutual_information", information, error)
    within(found, "marginal_kl", marginal, more)
    for name in ("kl", "mutual_information", "marginal_kl"):
        parts = sum(getattr(site, name) for site in found.sites.values())
        assert getattr(found, name) == pytest.approx(parts, abs=1e-9)
    assert bool(found.notes) == (kind == "conditional_prior")
    for name, site in found.sites.items():
        expected = s.expected[name].mean().item()
        assert site.kl == pytest.approx(expected, abs=0.05)
        assert site.kl_by_latent.sum().item() == pytest.approx(site.kl, rel=1e-9)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", LEVELS)
def test_levels_one_after_the_other(kind):
    """The first that the guide draws, by quadrature; of the others what it tells beyond."""
    s = system(kind, number=30)
    found = pv.evaluate.anatomy(s.program, s.batch, num_samples=400, num_aggregate=4000)
    first, second = found.sites.items()
    part = slice(0, LATENTS) if kind == "bottom_up" else slice(LATENTS, None)
    q = MultivariateNormal(s.q.mean[:, part], s.q.covariance_matrix[:, part, part])
    p = MultivariateNormal(torch.zeros(2), torch.eye(2))
    marginal, correlation, dimension_wise = by_quadrature(q, p)
    assert (first[0], second[0]) == (("z1", "z2") if kind == "bottom_up" else ("z2", "z1"))
    within(first[1], "mutual_information", kl_divergence(q, p).mean().item() - marginal)
    within(first[1], "total_correlation", correlation)
    assert math.isnan(second[1].total_correlation)
    assert math.isnan(second[1].dimension_wise_kl)
    if kind == "bottom_up":  # z2 hears of x through z1 alone
        assert second[1].mutual_information == pytest.approx(0, abs=1e-9)
        assert math.isnan(first[1].dimension_wise_kl)
    else:
        within(first[1], "marginal_kl", marginal)
        within(first[1], "dimension_wise_kl", dimension_wise)
        assert second[1].mutual_information > 0.05
    posterior = s.q.mean[:, part].var(0)
    torch.testing.assert_close(first[1].variances, posterior, rtol=0.01, atol=0.01)
    other = slice(LATENTS, None) if kind == "bottom_up" else slice(0, LATENTS)
    torch.testing.assert_close(second[1].variances, s.q.mean[:, other].var(0), rtol=0.05, atol=0.01)


@pytest.mark.usefixtures("double")
def test_noise_of_the_draws_makes_no_latent_active():
    """The means of z2, over two draws of z1, vary by a tenth more than their expectations do."""
    s = system("bottom_up", number=2000)
    site = pv.evaluate.anatomy(s.program, s.batch, num_samples=2, num_aggregate=2).sites["z2"]
    expected = s.q.mean[:, LATENTS:].var(0)
    assert (site.codes.var(0) > expected + 0.05).all()
    torch.testing.assert_close(site.variances, expected, atol=0.04, rtol=0)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", ["VAE", *LEVELS])
def test_the_posteriors_of_many_data_make_up_the_prior(kind):
    """q(z) -> p(z) at the rate 1/N, so that all of the KL is mutual information."""
    few, many = (
        pv.evaluate.anatomy(s.program, s.batch, num_aggregate=1500)
        for s in (system(kind, exact=True, number=number) for number in (50, 1500))
    )
    within(many, "marginal_kl", 0.0, 0.01)
    within(many, "mutual_information", many.kl, 0.01)
    assert few.marginal_kl > 5 * abs(many.marginal_kl)
    if kind == "VAE":
        within(many.sites["z"], "total_correlation", 0.0, 0.01)
        within(many.sites["z"], "dimension_wise_kl", 0.0, 0.01)


@pytest.mark.usefixtures("double")
def test_codes_that_do_not_overlap_have_the_logarithm_of_their_number():
    vae = system("VAE", number=8).program
    with torch.no_grad():
        layer = vae.q_z.net.layers[0]
        layer.weight[:2] *= 50
        layer.bias[2:] = -5.0  # small scales
    x = torch.randn(8, PIXELS)
    found = pv.evaluate.anatomy(vae, x)
    within(found, "mutual_information", math.log(8))
    assert found.marginal_kl == pytest.approx(found.kl - math.log(8), abs=0.05)


@pytest.mark.usefixtures("double")
def test_standard_errors_are_those_of_the_seeds():
    s = system("VAE", number=40)
    names = ("mutual_information", "total_correlation", "dimension_wise_kl")
    found = [pv.evaluate.anatomy(s.program, s.batch, num_aggregate=400, seed=seed) for seed in range(30)]
    for name in names:
        spread = torch.tensor([getattr(one.sites["z"], name) for one in found]).std().item()
        told = sum(one.sites["z"].standard_errors[name] for one in found) / 30
        # Draws go evenly over the data, which takes off some of what is told.
        assert 0.5 * told < spread < 1.4 * told, name


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", ["VAE", *LEVELS])
def test_the_sum_over_data_does_not_depend_on_its_parts(kind, monkeypatch):
    s = system(kind, missing=True, number=23)
    whole = pv.evaluate.anatomy(s.program, s.batch, num_aggregate=50)
    monkeypatch.setattr(aggregate, "NUMBERS", 50 * 100 * 3)
    parts = pv.evaluate.anatomy(s.program, s.batch, num_aggregate=50)
    assert parts.mutual_information == pytest.approx(whole.mutual_information, rel=1e-9)
    assert parts.sites.keys() == whole.sites.keys()


@pytest.mark.parametrize("name", PROGRAMS)
def test_of_every_program(name):
    """It changes nothing, its noise hangs on the seed alone, and the KL is that of the ELBO."""
    program, batch = make(name), batch_of(make(name), 20)
    program.train()
    before, state = copy.deepcopy(program.state_dict()), torch.get_rng_state()
    found = pv.evaluate.anatomy(program, batch, num_aggregate=100)
    assert all(torch.equal(value, before[key]) for key, value in program.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in program.modules())
    assert all(p.grad is None for p in program.parameters())
    bound = pv.evaluate.elbo(program, batch)
    assert (found.reconstruction, found.kl) == pytest.approx((bound.reconstruction, bound.kl), rel=1e-5)
    assert found.mutual_information + found.marginal_kl == pytest.approx(found.kl, abs=1e-5)
    assert str(found) == str(pv.evaluate.anatomy(program, batch, num_aggregate=100))
    assert found.mutual_information != pv.evaluate.anatomy(program, batch, seed=1).mutual_information
    assert "x_unobserved" not in found.sites  # of which nothing is missing
    for site in found.sites.values():
        assert site.codes.shape == (20, site.num_latents)
        assert site.codes.dtype == site.kl_by_latent.dtype == torch.float64
        if name not in (
            "VAE-VampPrior",
            "SequentialVAE",
            "SequentialVAE-structured",
        ):  # of whose latents none is independent of others
            assert site.kl_by_latent.sum().item() == pytest.approx(site.kl, abs=1e-4)
    assert "<table>" in found._repr_html_()


def test_what_is_missing_is_no_latent_of_the_anatomy():
    program = make("SelectionVAE")
    x = torch.rand(30, 4)
    x[torch.rand(30, 4) < 0.4] = torch.nan
    found = pv.evaluate.anatomy(program, x, num_aggregate=100)
    assert list(found.sites) == ["z"]
    assert found.mutual_information + found.marginal_kl == pytest.approx(found.kl, abs=1e-5)


@pytest.mark.parametrize(
    "guide", ["FullRankNormal", "MixtureOfNormals", "Flow-planar", "Flow-affine_coupling"]
)
def test_what_is_not_defined_is_left_out(make_vae, guide):
    name, *transform = guide.split("-")
    number = {"MixtureOfNormals": (2,)}.get(name, tuple(transform))
    vae = make_vae(guide=getattr(pv.guides, name)(*number), latent_dim=3)
    found = pv.evaluate.anatomy(vae, torch.rand(30, 1, 8, 8).round(), num_aggregate=100)
    site = found.sites["z"]
    assert site.kl_by_latent.isnan().all()
    assert math.isnan(site.total_correlation)
    assert math.isnan(found.mutual_information) == (guide == "Flow-planar")
    assert ("no mutual information" in str(found)) == (guide == "Flow-planar")
    assert "total" not in str(found)
    assert "nan" not in str(found)
    assert "nan" not in found._repr_html_()


def test_plates_within_a_datum_are_its_latents():
    """Latents of each of three parts of a datum, in a plate of their own, beside one site of all three."""

    class Parts(pv.Program):
        max_plate_nesting = 2

        def __init__(self, plates):
            super().__init__()
            self.plates = plates
            self.event_shapes = {"x": (3,)}
            self.encoder = torch.nn.Linear(3, 3)

        def draw(self, loc, scale):
            """Latents ``[..., 1, B, 3]``."""
            if not self.plates:
                return pyro.sample("z", dist.Normal(loc, scale).to_event(1))
            with pyro.plate("parts", 3, dim=-2):
                z = pyro.sample("z", dist.Normal(loc.mT, scale[:, None]))
            return z.movedim(-2, -1).unsqueeze(-3)

        def model(self, batch):
            with self.plate(batch):
                z = self.draw(torch.zeros(len(batch["x"]), 3), torch.ones(3))
                self.sample("x", dist.Normal(z, 1.0).to_event(1), batch)

        def guide(self, batch):
            with self.plate(batch):
                self.draw(self.encoder(batch["x"]), torch.tensor([0.2, 0.5, 0.8]))

    x = torch.randn(40, 3)
    found = []
    for plates in (False, True):
        torch.manual_seed(1)
        found.append(pv.evaluate.anatomy(Parts(plates), x))
    one, other = found
    torch.testing.assert_close(one.sites["z"].kl_by_latent, other.sites["z"].kl_by_latent)
    torch.testing.assert_close(one.sites["z"].codes, other.sites["z"].codes)
    within(one, "mutual_information", other.mutual_information, other.standard_errors["mutual_information"])


def test_an_alarm_when_latents_have_collapsed(make_vae):
    x = torch.bernoulli(torch.rand(200, 1, 8, 8))
    vae = make_vae(latent_dim=3)
    assert not pv.evaluate.anatomy(vae, x).alarm
    layer = vae.q_z.net.layers[-1]
    with torch.no_grad():
        layer.weight[[1, 4]], layer.bias[[1, 4]] = 0.0, 0.0  # raw 0 is a scale of 1
    some = pv.evaluate.anatomy(vae, x)
    assert some.sites["z"].collapsed == 1
    assert some.sites["z"].active_units == 2
    assert "1 of 3 latents of z carry nothing" in some.alarm
    assert "2 would do" in str(some)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    every = pv.evaluate.anatomy(vae, x)
    assert "the decoder ignores z" in every.alarm
    assert "warmup_epochs" in every.alarm
    assert "FreeBits" in every.alarm
    assert every.mutual_information == pytest.approx(0, abs=1e-4)
    assert every.alarm in every._repr_html_().replace("&quot;", '"')


def test_an_alarm_of_latents_that_depend_on_each_other(make_vae):
    vae = make_vae(guide=pv.guides.FullRankNormal())
    with torch.no_grad():
        vae.q_z.net.layers[-1].weight.zero_()
    found = pv.evaluate.anatomy(vae, torch.rand(50, 1, 8, 8).round())
    assert "hardly varies with x" in found.alarm


def test_no_alarm_of_latents_in_a_small_unit():
    """The posterior's mean varies by less than 0.01, as on a simplex, and tells all there is of x."""
    torch.manual_seed(1)
    program = Sized(0.05)
    found = pv.evaluate.anatomy(program, torch.randn(200, 2), num_aggregate=200)
    latents = found.sites["z"]
    assert latents.kl_by_latent.isnan().all()
    assert latents.active_units == 0  # as they are defined
    assert found.mutual_information > 2
    assert latents.collapsed == 0
    assert not found.alarm
    share = latents.variances / latents.spreads
    torch.testing.assert_close(share, torch.full_like(share, 0.9), atol=0.05, rtol=0)


class Sized(pv.Program):
    """Latents of a size, dependent on each other, of which x explains nine tenths of the variance."""

    def __init__(self, size):
        super().__init__()
        self.event_shapes, self.size = {"x": (2,)}, size

    def model(self, batch):
        with self.plate(batch):
            z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(2), self.size**2 * torch.eye(2)))
            self.sample("x", dist.Normal(z / self.size, 0.5).to_event(1), batch)

    def guide(self, batch):
        covariance = self.size**2 * torch.tensor([[0.1, 0.02], [0.02, 0.1]])
        with self.plate(batch):
            pyro.sample("z", dist.MultivariateNormal(0.95 * self.size * batch["x"], covariance))


def test_few_draws_tell_of_no_error(make_vae):
    """A line goes through two draws, whatever their noise."""
    found = pv.evaluate.anatomy(make_vae(), torch.rand(30, 1, 8, 8).round(), num_aggregate=2)
    assert math.isnan(found.standard_errors["mutual_information"])
    again = pv.evaluate.anatomy(make_vae(), torch.rand(30, 1, 8, 8).round(), num_aggregate=3)
    assert again.standard_errors["mutual_information"] > 0


def test_a_level_that_is_not_used():
    """p(z1|z2) that does not hear of z2, whose q is the prior."""
    program = pv.HierarchicalVAE(
        (4,), (3, 2), encoder=pv.nets.mlp(8), decoder=pv.nets.mlp(8), between=pv.nets.mlp()
    )
    with torch.no_grad():
        for conditional in (program.q_z[1], program.p_z[0]):
            conditional.net.layers[0].weight.zero_()
            conditional.net.layers[0].bias.zero_()
        program.q_z[0].net.layers[-1].weight[:3] *= 5
    found = pv.evaluate.anatomy(program, torch.rand(50, 4).round())
    assert found.sites["z2"].collapsed == 2
    assert "no latent of z2 carries anything" in found.alarm


def test_labels_are_read_from_the_codes():
    """Codes that are the classes' own; codes that have nothing of them; and numbers."""
    torch.manual_seed(0)
    y = torch.arange(300) % 3
    x = torch.nn.functional.one_hot(y, 3).float() * 4 + 0.1 * torch.randn(300, 3)
    vae = pv.VAE((3,), 3, likelihood=pv.likelihoods.Normal(), encoder=pv.nets.mlp(), decoder=pv.nets.mlp(4))
    with torch.no_grad():
        vae.q_z.net.layers[0].weight[:3] = torch.eye(3)
    told = pv.evaluate.anatomy(vae, {"x": x, "y": y}).sites["z"].probe
    assert told.linear == told.neighbours == 1
    assert told.chance == pytest.approx(1 / 3)
    blind = pv.evaluate.anatomy(vae, x, torch.randint(3, (300,))).sites["z"].probe
    assert blind.linear == pytest.approx(1 / 3, abs=5 * blind.standard_errors["linear"])
    assert blind.neighbours == pytest.approx(1 / 3, abs=5 * blind.standard_errors["neighbours"])
    names = pv.evaluate.anatomy(vae, x, [("cat", "dog", "cow")[i] for i in y.tolist()]).sites["z"].probe
    assert names == told
    pd = pytest.importorskip("pandas")
    series = pd.Series(y.numpy(), index=range(1000, 1300))
    masked = np.ma.array(y.numpy(), mask=np.arange(300) >= 250)
    for labels, number in (
        (series, 300),
        (series.map({0: "cat", 1: "dog", 2: "cow"}), 300),
        (series.astype("category"), 300),
        (series.astype("Int64").where(series.index < 1250), 250),
        (masked, 250),
    ):
        own = pv.evaluate.anatomy(vae, x, labels, num_aggregate=10).sites["z"].probe
        assert (own.num_data, own.linear, own.continuous) == (number, 1, False)
    number = 2 * x[:, 0] - x[:, 1] + 0.01 * torch.randn(300)
    number[::7] = torch.nan
    read = pv.evaluate.anatomy(vae, x, number).sites["z"].probe
    assert read.continuous
    assert read.num_data == 257
    assert read.linear > 0.99
    assert read.chance == 0
    assert "R^2" in str(read)
    assert pv.evaluate.anatomy(vae, x).sites["z"].probe is None
    assert pv.evaluate.anatomy(vae, x, torch.zeros(300)).sites["z"].probe is None
    with pytest.raises(DataError, match="one for each of the 300 data"):
        pv.evaluate.anatomy(vae, x, y[:5])
    with pytest.raises(DataError, match="give one label per datum"):
        pv.evaluate.anatomy(vae, x, "species")


def test_labels_are_a_column_of_a_table():
    pd = pytest.importorskip("pandas")
    sort = np.arange(90) % 3
    frame = pd.DataFrame({"size": sort + 0.1 * np.random.default_rng(0).normal(size=90)})
    frame["sort"] = pd.Series(["small", "medium", "large"])[sort].array
    data = pv.data.load(frame)
    vae = pv.VAE(data.event_shapes, 2, likelihood="auto", encoder=pv.nets.mlp(), decoder=pv.nets.mlp())
    named, codes = (
        pv.evaluate.anatomy(vae, data.train, labels, num_aggregate=10).sites["z"].probe
        for labels in ("sort", data.train.batch(slice(0, 90))["x"][:, 1])
    )
    assert named == codes
    assert named.num_data == len(data.train)
    with pytest.raises(DataError, match="did you mean 'sort'"):
        pv.evaluate.anatomy(vae, data.train, "sorts")


class Masked(pv.Program):
    """Of which some data have no latents."""

    def model(self, batch):
        with self.plate(batch):
            with poutine.mask(mask=batch["x"][:, 0] > 0):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            self.sample("x", dist.Normal(z, 1.0).to_event(1), batch)

    def guide(self, batch):
        with self.plate(batch), poutine.mask(mask=batch["x"][:, 0] > 0):
            pyro.sample("z", dist.Normal(0.5 * batch["x"], 0.7).to_event(1))


@pytest.mark.usefixtures("double")
def test_what_is_masked_is_left_out_of_each_latent_too():
    x = torch.randn(8, 2)
    found = pv.evaluate.anatomy(Masked(), x, num_aggregate=10).sites["z"]
    each = kl_divergence(Normal(0.5 * x, 0.7), Normal(torch.zeros(2), 1.0)) * (x[:, :1] > 0)
    torch.testing.assert_close(found.kl_by_latent, each.mean(0))
    assert found.kl_by_latent.sum().item() == pytest.approx(found.kl, rel=1e-9)


def test_probes_agree_with_scikit_learn_by_hand():
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    from pyro_vae.evaluate.probes import probe

    x, y = load_digits(return_X_y=True)
    z = torch.as_tensor(x[:, ::4]).double()
    found = probe(z, torch.as_tensor(y), 0)
    train, test = torch.arange(len(y)) % 5 > 0, torch.arange(len(y)) % 5 == 0
    unit = z.var(0).mean().sqrt()
    for model, told in (
        (LogisticRegression(max_iter=1000), found.linear),
        (KNeighborsClassifier(10), found.neighbours),
    ):
        held_out = model.fit(z[train] / unit, y[train]).score(z[test] / unit, y[test])
        assert told == pytest.approx(held_out, abs=0.05)
    assert found.chance == pytest.approx(183 / 1797)


def test_one_datum_and_refusals(make_vae):
    vae, x = make_vae(), torch.rand(3, 1, 8, 8).round()
    assert pv.evaluate.anatomy(vae, x[:1]).mutual_information == pytest.approx(0, abs=1e-5)
    with pytest.raises(DataError, match="support"):
        pv.evaluate.anatomy(vae, x + 0.5)
    with pytest.raises(pv.checks.ConfigError, match="num_samples=1 must be 2 or more"):
        pv.evaluate.anatomy(vae, x, num_samples=1)
