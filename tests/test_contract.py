"""One contract, all variants: what every prior, likelihood and guide promises.

``cases`` takes whatever ``dir(pv.likelihoods)`` and ``dir(pv.guides)`` offer; a prior that is not among its
cases fails a test.
"""

import copy
import inspect
import pickle
import pydoc
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import EVENT_SHAPE, GUIDES, LIKELIHOODS, OF_DISCRETE, PRIORS, D, build
from pyro.infer import Trace_ELBO

import pyro_vae as pv
from pyro_vae import registry
from pyro_vae.constraints import support
from pyro_vae.objectives import log_weights

CASES = {"prior": PRIORS, "likelihood": LIKELIHOODS, "guide": GUIDES}
BOTH_WAYS = {"spline", "spline_coupling", "spline_autoregressive"}


@pytest.fixture(params=[(kind, name) for kind, cases in CASES.items() for name in cases], ids="-".join)
def part(request):
    kind, name = request.param
    return kind, CASES[kind][name]


def draw(vae: pv.VAE, *leading: int) -> tuple[torch.Tensor, torch.Tensor]:
    """z and x of a VAE's own model, with these leading dimensions."""
    with torch.no_grad():
        z = vae.prior().sample(leading)
        return z, vae.decode(z).sample().to(z)


@pytest.mark.parametrize("kind", CASES)
def test_every_variant_is_tested_and_told(kind):
    module = getattr(pv, f"{kind}s")
    tested = {type(case).__name__ for case in CASES[kind].values()}
    tested |= {getattr(case, "name", "") for case in CASES[kind].values()}
    offered = set(dir(module))
    # Those are of tables, which are programs, or of discrete latents.
    assert offered - {"Auto", "ByColumn"} - OF_DISCRETE[kind] <= tested
    for name in offered:
        assert len(inspect.getdoc(getattr(module, name))) > 30


@pytest.mark.parametrize("kind", CASES)
def test_help_is_short(kind):
    """``help(pv.likelihoods)`` tells each part in a line or two, and the reference page has them all."""
    module = getattr(pv, f"{kind}s")
    text = pydoc.plain(pydoc.render_doc(module))
    assert text.count("\n") < 200
    assert all(f"``{name}``" in text or f"{name} = <family" in text for name in dir(module))
    page = Path(__file__).resolve().parents[1] / "docs" / "reference" / f"{kind}s.md"
    assert {*module._OWN} <= {*page.read_text().replace(",", " ").split()}


def test_shapes(part):
    """Any leading dimensions, as of particles and of enumeration."""
    vae = build(**dict([part]))
    for leading in [(), (4,), (5, 4), (2, 1, 4)]:
        z, x = draw(vae, *leading)
        for p, event_shape, value in ((vae.encode(x), (D,), z), (vae.decode(z), EVENT_SHAPE, x)):
            assert p.batch_shape == leading
            assert p.event_shape == event_shape
            own = p.sample()
            assert own.shape == value.shape == leading + event_shape
            assert p.log_prob(own).shape == leading
            centre, name = pv.distributions.centre(p)
            assert centre.shape == leading + event_shape
            assert centre.isfinite().all()
            assert name in ("mean", "median", "mode")
            if "ZeroInflated" not in getattr(part[1], "name", ""):  # once drawn from, Pyro's do not expand
                wide = p.expand((7, *leading))
                assert wide.log_prob(wide.sample()).shape == (7, *leading)
    assert vae.prior().batch_shape == ()
    assert vae.prior().event_shape == (D,)


def test_leading_dimensions_are_independent(part):
    if isinstance(part[1], pv.families.SemiAmortised):
        pytest.skip("the draws of its steps are of a datum's place in the batch")
    vae = build(**dict([part])).double()
    z, x = draw(vae, 2, 4)
    torch.testing.assert_close(vae.decode(z).log_prob(x)[1, 3], vae.decode(z[1, 3]).log_prob(x[1, 3]))
    if vae.q_z.family.invertible:
        value = vae.encode(x).sample()
        many, one = vae.encode(x).log_prob(value), vae.encode(x[1, 3]).log_prob(value[1, 3])
        torch.testing.assert_close(many[1, 3], one, rtol=1e-5, atol=1e-5)


def test_every_parameter_receives_a_gradient(part):
    vae = build(**dict([part]))
    _, x = draw(vae, 8)
    (-log_weights(vae, x, 2).mean()).backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_samples_lie_in_the_support_and_have_a_density(part):
    vae = build(**dict([part]))
    z, x = draw(vae, 50)
    for p, stated in (
        (vae.prior(), vae.p_z.support),
        (vae.encode(x), vae.p_z.support),
        (vae.decode(z), vae.p_x.support),
    ):
        value = p.sample()
        assert support(p).check(value).all()
        assert stated.check(value).all()
        assert p.log_prob(value).isfinite().all()
    assert vae.prior().log_prob(vae.encode(x).sample()).isfinite().all()
    assert pv.likelihoods.as_likelihood(vae.p_x.family).measure == vae.p_x.family.measure


def test_particles_are_vectorised(part):
    """Pyro's loss over K vectorised particles is the mean of the importance weights, draw for draw."""
    vae = build(**dict([part]))
    _, x = draw(vae, 4)
    torch.manual_seed(0)
    loss = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1).loss(
        vae.model, vae.guide, x
    )
    torch.manual_seed(0)
    log_w = log_weights(vae, x, 3)
    assert log_w.shape == (3, 4)
    assert loss == pytest.approx(-log_w.sum(-1).mean().item(), rel=1e-4, abs=1e-4)


def test_state_is_saved_and_loaded(part):
    vae, other = build(**dict([part])), build(seed=3, **dict([part]))
    z, x = draw(vae, 20)
    vae.initialize(pv.data.Split(x))
    with torch.no_grad():
        for p in vae.parameters():
            p.add_(0.01 * torch.randn_like(p))
    other.load_state_dict(vae.state_dict())
    for twin in (other, pickle.loads(pickle.dumps(vae)), copy.deepcopy(vae)):
        assert torch.equal(vae.decode(z).log_prob(x), twin.decode(z).log_prob(x))
        assert torch.equal(vae.prior().log_prob(z), twin.prior().log_prob(z))
        torch.manual_seed(0)
        draws = vae.encode(x).rsample()
        torch.manual_seed(0)
        assert torch.equal(draws, twin.encode(x).rsample())


def test_initialised_parts_start_finite(part):
    vae = build(**dict([part]))
    _, x = draw(vae, 50)
    x = x.clamp(max=1 - 1e-6) if pv.constraints.domain(vae.p_x.support) == "[0, 1]" else x  # not rounded to 1
    vae.initialize(pv.data.Split(x))
    assert vae.initialized
    assert log_weights(vae, x, 2).isfinite().all()


def test_text_rebuilds_the_part(part):
    kind, value = part
    texts = {registry.write(value)} | ({repr(value)} if isinstance(value, pv.families.Family) else set())
    for text in texts:
        if kind == "prior" and text.startswith("Fixed(") and text != registry.write(value):
            continue  # its repr shows Pyro's own
        again = registry.read(kind, text)
        assert registry.write(again) == registry.write(value)
        one, other = build(**{kind: value}), build(**{kind: again})
        z, x = draw(one, 4)
        assert torch.equal(one.decode(z).log_prob(x), other.decode(z).log_prob(x))
        torch.testing.assert_close(one.prior().log_prob(z), other.prior().log_prob(z))
        assert repr(one) == repr(other)


def test_copies_share_nothing(part):
    vae = build(**dict([part]))
    twin = copy.deepcopy(vae)
    z, x = draw(vae, 4)
    before = vae.decode(z).log_prob(x), vae.prior().log_prob(z)

    def tensors(module):
        return {t.data_ptr() for t in (*module.parameters(), *module.buffers()) if t.numel()}

    assert not tensors(vae) & tensors(twin)
    with torch.no_grad():
        for t in (*twin.parameters(), *twin.buffers()):
            t.fill_(0.7 if t.is_floating_point() else 1)
    assert torch.equal(vae.decode(z).log_prob(x), before[0])
    assert torch.equal(vae.prior().log_prob(z), before[1])


def test_float64(part):
    vae = build(**dict([part]))
    z, x = draw(vae, 4)
    single = vae.prior().log_prob(z) + vae.decode(z).log_prob(x)
    assert vae.encode(x).rsample().dtype == torch.float32
    twin = copy.deepcopy(vae).double()
    z, x = z.double(), x.double()
    q = twin.encode(x)
    drawn = q.rsample()
    for value in (drawn, q.log_prob(drawn), twin.prior().sample(), twin.prior().log_prob(z)):
        assert value.dtype == torch.float64
    double = twin.prior().log_prob(z) + twin.decode(z).log_prob(x)
    assert double.dtype == torch.float64
    torch.testing.assert_close(single, double.float(), rtol=1e-3, atol=1e-3)
    assert vae.prior().sample().dtype == torch.float32


def test_parts_follow_the_device(part):
    """Every tensor of every distribution moves with the module; "meta" stands in for a GPU."""
    kind, value = part
    if getattr(value, "transform", "") in BOTH_WAYS:
        pytest.skip("Pyro selects elements by their values, which a tensor without values does not have")
    if kind == "guide" and getattr(value, "name", "") in ("Beta", "Dirichlet", "AsymmetricLaplace"):
        pytest.skip("PyTorch has no draws of these without values")
    vae = build(**{kind: value}).to("meta")
    z, x = torch.zeros(4, D, device="meta"), torch.zeros(4, *EVENT_SHAPE, device="meta")
    with pyro.validation_enabled(False):
        q = vae.encode(x)
        drawn = q.rsample()
        assert q.log_prob(drawn).device.type == "meta"
        assert vae.decode(z).log_prob(x).device.type == "meta"
        assert vae.prior().log_prob(z).device.type == "meta"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (dist.Normal(0.0, 1.0), dist.Normal(0.0, 2.0)),
        (dist.Laplace(0.0, 1.0), dist.Gumbel(0.0, 1.0)),
        (dist.Laplace(0.0, 1.0), pv.priors.Normal()),
        (dist.Normal(0.0, 1.0), dist.MultivariateNormal(torch.zeros(D), torch.eye(D))),
        (pv.priors.Normal(), pv.priors.Normal(learned=True)),
        (pv.priors.Normal(), pv.priors.Flow()),
        (pv.priors.Normal(), pv.priors.MixtureOfNormals(2)),
    ],
)
def test_weights_of_another_prior_are_refused(one, other):
    for a, b in [(one, other), (other, one)]:
        with pytest.raises(RuntimeError, match=r"is .* here, and|issing key|nexpected key|size mismatch"):
            build(prior=a).load_state_dict(build(prior=b).state_dict())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pv.likelihoods.Normal(scale=0.3), pv.likelihoods.Normal(scale=0.4)),
        (pv.likelihoods.StudentT(df=4.0), pv.likelihoods.StudentT(df=5.0)),
        (pv.likelihoods.Normal(), pv.likelihoods.Normal(scale="shared")),
    ],
)
def test_weights_of_another_likelihood_are_refused(one, other):
    for a, b in [(one, other), (other, one)]:
        with pytest.raises(RuntimeError):
            build(likelihood=a).load_state_dict(build(likelihood=b).state_dict())


def test_parts_are_copied():
    prior, likelihood = pv.priors.Normal(learned=True), pv.likelihoods.Normal(scale="shared")
    one, other = (build(prior=prior, likelihood=likelihood) for _ in range(2))
    assert not {id(p) for p in one.parameters()} & {id(p) for p in other.parameters()}
    assert not list(likelihood.parameters())
    assert one.options["likelihood"] is not likelihood
