"""The semi-supervised VAE against sums over its labels by hand.

Networks are linear and q(z|x, y) is the posterior, so that log p(x, y, z) - log q(z|x, y) = log p(x, y) for
each z: all that is estimated of z is exact, and what is left is the sum over y.
"""

import math

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from torch.distributions import MultivariateNormal

import pyro_vae as pv
from pyro_vae.objectives import log_weights
from pyro_vae.program import DataWarning

K, D, PIXELS, SCALE = 3, 2, 4, 0.6
NAN = torch.nan
LABELS = {
    "all": [0.0, 1.0, 2.0, 1.0, 0.0],
    "none": [NAN] * 5,
    "some": [0.0, NAN, 2.0, NAN, 1.0],
}
EXACT = {"rtol": 1e-9, "atol": 1e-9}


def _linear(**options):
    """A program of linear networks, whose guide of z is the posterior; and log p(x, y), ``[B, K]``, of x."""
    torch.manual_seed(0)
    line: dict = dict.fromkeys(("classifier", "encoder", "decoder"), pv.nets.mlp()) | {"radius": 0.0}
    likelihood = pv.likelihoods.Normal(scale=SCALE)
    program = pv.SemiSupervisedVAE(
        (PIXELS,), num_classes=K, latent_dim=D, likelihood=likelihood, **(line | options)
    )
    decoder, encoder = program.p_x.net.layers[0], program.q_z.net.layers[0]
    with torch.no_grad():
        columns, _ = torch.linalg.qr(torch.randn(PIXELS, D))  # at right angles: the posterior factorises
        w = columns * torch.tensor([1.5, 0.7])
        decoder.weight[:, :D], offset = w, decoder.weight[:, D:].T + decoder.bias  # [K, PIXELS]
        variance = 1 / (1 + w.square().sum(0) / SCALE**2)
        gain = variance[:, None] * w.T / SCALE**2
        raw = torch.log(torch.expm1(variance.sqrt() - 1e-3)) - math.log(math.expm1(1 - 1e-3))
        encoder.weight.zero_()
        encoder.weight[:D, :PIXELS], encoder.weight[:D, PIXELS:] = gain, -gain @ offset.T
        encoder.bias[:D], encoder.bias[D:] = 0.0, raw
    x = torch.randn(5, PIXELS)
    p_x = MultivariateNormal(offset.detach(), w @ w.T + SCALE**2 * torch.eye(PIXELS))
    return program, x, p_x.log_prob(x[:, None]) - math.log(K)


def _truth(program, x, y, log_p):
    """The ELBO and log p(x, what is known of y), ``[B]``."""
    log_q = program.classify(x).log()
    latent = (log_q.exp() * (log_p - log_q)).sum(1)
    known = log_p.gather(1, y.nan_to_num(0.0).long()[:, None])[:, 0]
    return latent.where(y.isnan(), known), log_p.logsumexp(1).where(y.isnan(), known)


@pytest.fixture(params=LABELS)
def case(request, double):
    program, x, log_p = _linear()
    y = torch.tensor(LABELS[request.param])
    return program, {"x": x, "y": y}, *_truth(program, x, y, log_p)


def test_elbo_is_the_sum(case):
    program, batch, elbo, _ = case
    program.eval()
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(program.model, program.guide, batch)
    assert loss == pytest.approx(-elbo.sum().item(), rel=1e-9)
    found = pv.evaluate.elbo(program, batch, num_samples=1)
    terms = found.terms
    # What of it is estimated from draws of z is the reconstruction of x and nothing else.
    assert set(terms) == {"reconstruction_y", "reconstruction_x", "kl_y_unobserved", "kl_z"}
    known = ~batch["y"].isnan()
    assert terms["reconstruction_y"] == pytest.approx(math.log(K) * known.double().mean().item())
    q_y = program.classify(batch["x"])
    kl = (q_y * (q_y * K).log()).sum(1).where(~known, 0.0).mean().item()
    assert terms["kl_y_unobserved"] == pytest.approx(kl, abs=1e-12)
    many = pv.evaluate.elbo(program, batch, num_samples=3000)
    assert many.elbo == pytest.approx(elbo.mean().item(), abs=5 * many.draws_error)


def test_log_likelihood_is_the_sum(case):
    program, batch, _, log_p = case
    torch.testing.assert_close(log_weights(program.eval(), batch, 2), log_p.expand(2, -1), **EXACT)
    found = pv.evaluate.log_likelihood(program, batch, num_samples=3)
    torch.testing.assert_close(found.per_datum, log_p, **EXACT)
    assert found.bits_per_dim is None


@pytest.mark.filterwarnings("ignore:y_unobserved")  # Pyro's, that another loss would sum over it
def test_labels_that_are_draws_estimate_the_same(case):
    """By Pyro's Trace_ELBO, which draws the label."""
    program, batch, elbo, _ = case
    loss = Trace_ELBO(num_particles=4000, vectorize_particles=True, max_plate_nesting=1)
    found = -loss.loss(program.eval().model, program.guide, batch)
    assert found == pytest.approx(elbo.sum().item(), abs=0.1)


def test_gradient_is_that_of_the_sum(case):
    """In expectation, as q(z|x, y) is differentiated at draws; q(y|x) and p(x|z, y) do not mind."""
    program, batch, *_ = case
    program.eval()
    SVI(program.model, program.guide, pyro.optim.SGD({"lr": 0.0}), TraceEnum_ELBO()).step(batch)
    raw = program.q_y(batch["x"]).logits.detach().requires_grad_()
    log_q = raw.log_softmax(1)
    _, _, log_p = _linear()
    (log_q.exp() * (log_q - log_p)).sum(1)[batch["y"].isnan()].sum().backward()
    layer = program.q_y.net.layers[0]
    layer.zero_grad()
    torch.manual_seed(0)
    TraceEnum_ELBO(max_plate_nesting=1).loss_and_grads(program.model, program.guide, batch)
    torch.testing.assert_close(layer.bias.grad, raw.grad.sum(0), **EXACT)
    torch.testing.assert_close(layer.weight.grad, raw.grad.T @ batch["x"], **EXACT)


def test_labels_of_whole_numbers_and_none_at_all(double):
    program, x, log_p = _linear()
    program.eval()
    y = torch.tensor([0, 1, 2, 1, 0])
    _, known = _truth(program, x, y.double(), log_p)
    torch.testing.assert_close(log_weights(program, {"x": x, "y": y})[0], known, **EXACT)
    torch.testing.assert_close(log_weights(program, x)[0], log_p.logsumexp(1), **EXACT)


@pytest.mark.usefixtures("double")
def test_probabilities_of_classes_that_are_learned():
    """p(y) is in the ELBO of rows with a label and without; and learned of both, where it is not balanced."""
    program, x, log_p = _linear(balanced=False)
    logits = torch.tensor([1.0, 0.0, -2.0])
    with torch.no_grad():
        program.p_y.raw.copy_(logits)
    y = torch.tensor(LABELS["some"])
    log_p = log_p + math.log(K) + logits.log_softmax(0)
    _, known = _truth(program, x, y, log_p)
    torch.testing.assert_close(log_weights(program.eval(), {"x": x, "y": y})[0], known, **EXACT)
    TraceEnum_ELBO(max_plate_nesting=1).loss_and_grads(program.model, program.guide, {"x": x, "y": y})
    of_class = torch.nn.functional.one_hot(y.nan_to_num(0.0).long(), K).double()
    responsible = torch.where(y.isnan()[:, None], program.classify(x), of_class)
    gradient = 5 * logits.softmax(0) - responsible.sum(0)
    torch.testing.assert_close(program.p_y.raw.grad, gradient, **EXACT)
    assert not list(_linear()[0].p_y.parameters())


@pytest.mark.usefixtures("double")
def test_probabilities_of_classes_count_each_row_once():
    """Though an epoch takes those with a label several times, which may be of other frequencies."""
    program, x, _ = _linear(balanced=False, alpha=0.0)
    y = torch.tensor([0.0, NAN, NAN, NAN, 0.0])
    x, y = torch.cat([x, torch.randn(40, PIXELS)]), torch.cat([y, torch.full((40,), NAN)])
    with pytest.warns(DataWarning) as told:
        program.initialize(pv.data.Split({"x": x, "y": y}))
    assert "no training datum has the label 1, 2, 2 of 3 classes" in str(told[-1].message)
    again = program.again(pv.data.Split({"x": x, "y": y}))
    assert again.tolist() == [0, 4] * 6
    more = {"x": torch.cat([x, x[again]]), "y": torch.cat([y, y[again]])}
    grads, losses = [], []
    for batch, mode in ((more, True), ({"x": x, "y": y}, False)):
        program.train(mode)
        program.p_y.zero_grad()
        torch.manual_seed(0)
        losses.append(TraceEnum_ELBO(max_plate_nesting=1).loss_and_grads(program.model, program.guide, batch))
        grads.append(program.p_y.raw.grad.clone())
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-6)
    assert losses[0] > losses[1]
    assert pv.evaluate.elbo(program.train(), more) == pv.evaluate.elbo(program.eval(), more)


@pytest.mark.usefixtures("double")
def test_alpha_teaches_the_classifier_and_is_in_no_report():
    batch = {"x": _linear()[1], "y": torch.tensor(LABELS["some"])}
    grads, losses = {}, {}
    for alpha in (0.0, 2.0):
        program, x, _ = _linear(alpha=alpha)
        program.labelled.fill_(0.6)
        before = pv.evaluate.elbo(program, batch, num_samples=2)
        torch.manual_seed(0)
        loss = TraceEnum_ELBO(max_plate_nesting=1)
        losses[alpha] = loss.loss_and_grads(program.train().model, program.guide, batch)
        grads[alpha] = program.q_y.net.layers[0].bias.grad
        known = ~batch["y"].isnan()
        log_q = program.q_y(x).logits.log_softmax(1)[known, batch["y"][known].long()]
        assert pv.evaluate.elbo(program, batch, num_samples=2) == before
        torch.testing.assert_close(log_weights(program, batch), log_weights(program.eval(), batch), **EXACT)
    classified = -2.0 / 0.6 * log_q.sum()
    assert losses[2.0] - losses[0.0] == pytest.approx(classified.item())
    (own,) = torch.autograd.grad(classified, program.q_y.net.layers[0].bias)
    torch.testing.assert_close(grads[2.0] - grads[0.0], own, **EXACT)


@pytest.mark.parametrize(
    ("labels", "mend"),
    [
        ([0.0, 1.5, 2.0, NAN], r"number them from 0: np.unique"),
        ([-1.0, 1.0, 2.0, 0.0], r"number them from 0: np.unique"),
        ([0.0, 1.0, 3.0, NAN], r"from 0 to 3, but .* 0 to 2: num_classes=4"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, mend):
    program, _, _ = _linear()
    with pytest.raises(pv.data.DataError, match=mend):
        pv.evaluate.elbo(program, {"x": torch.randn(4, PIXELS), "y": torch.tensor(labels)})


def _digits(number=50, **options):
    """Digits of which so many have a label, ten classes alike, and a small program."""
    data = pv.data.load("digits", binarize="threshold")
    x, y = data.train[:600], data.train.labels[:600].double()
    y[number:] = NAN
    torch.manual_seed(0)
    small = dict.fromkeys(("classifier", "encoder", "decoder"), pv.nets.mlp(32))
    vae = pv.SemiSupervisedVAE((1, 8, 8), latent_dim=3, **(small | options))
    return vae, pv.data.load({"x": x, "y": y.float()}, validation=0.1, test=0.0), data


@pytest.mark.parametrize("balanced", [True, False])
def test_compiled_steps_are_those_of_eager_ones(balanced):
    runs = []
    for compiled in (True, False):
        vae, data, _ = _digits(balanced=balanced)
        runs.append(
            pv.fit(vae, data, epochs=2, batch_size=90, compile=compiled, progress=False, warmup_epochs=1)
        )
    for one, other in zip(runs[0].program.parameters(), runs[1].program.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-4)
    row, again = runs[0].history[-1], runs[1].history[-1]
    assert row["elbo"] == pytest.approx(again["elbo"], rel=1e-4)
    assert row["loss"] > -row["elbo"]  # by the classifier's term
    assert row["kl"] == pytest.approx(row["kl_z"] + row["kl_y_unobserved"])


def test_reported_elbo_is_the_evaluated_one(double):
    """That of fit, from traces with enumerated labels, and that of evaluate."""
    program, x, log_p = _linear(alpha=1.0)
    y = torch.tensor(LABELS["some"])
    elbo, _ = _truth(program, x, y, log_p)
    program.initialized.fill_(True)
    data = pv.data.load({"x": x, "y": y}, validation=0.0, test=0.0)
    run = pv.fit(program, data, epochs=1, lr=1e-12, progress=False)
    reported = run.history[-1]
    classified = -program.classify(x).log()[[0, 2, 4], [0, 2, 1]].sum().item() / 5
    assert reported["loss"] - classified == pytest.approx(-elbo.mean().item(), rel=1e-6)
    assert reported["kl_y_unobserved"] == pytest.approx(
        pv.evaluate.elbo(program, {"x": x, "y": y}).terms["kl_y_unobserved"], rel=1e-6
    )


def test_no_alpha_is_warned_of_with_numbers():
    vae, data, _ = _digits(alpha=0.0)
    number = int((~data.train.labels.isnan()).sum())
    with pytest.warns(DataWarning, match=f"{number} of {len(data.train)} training data do not teach"):
        vae.initialize(data.train)
    again = len(vae.again(data.train))
    assert again > number
    assert vae.labelled.item() == pytest.approx((number + again) / (len(data.train) + again))


def test_a_class_without_a_label_is_warned_of():
    vae, data, _ = _digits()
    y = data.train.labels.clone()
    y[y == 3] = NAN
    with pytest.warns(DataWarning, match="has the label 3, 1 of 10 classes"):
        vae.initialize(pv.data.Split({"x": data.train[:], "y": y}))


class TestQuestions:
    def test_classify(self, double):
        program, x, _ = _linear()
        probabilities = program.train().classify(x)
        assert program.training
        torch.testing.assert_close(probabilities, program.q_y(x).probs)
        torch.testing.assert_close(probabilities.sum(1), torch.ones(5))
        assert not probabilities.requires_grad

    def test_predict_draws_the_label(self, double):
        """From its posterior, which q(y|x) is not."""
        program, x, log_p = _linear()
        drawn = pv.predict(program, {"x": x}, num_samples=2000, num_particles=4000)
        shares = torch.stack([(drawn["y"] == k).double().mean(0) for k in range(K)], 1)
        truth = log_p.softmax(1)
        assert (shares - truth).abs().max() < 0.05
        assert (program.classify(x) - truth).abs().max() > 0.1
        assert torch.equal(drawn["y"], drawn["y_unobserved"])

    def test_predict_keeps_what_is_known(self, double):
        program, x, log_p = _linear()
        y = torch.tensor(LABELS["some"])
        drawn = pv.predict(program, {"x": x, "y": y}, num_samples=500, num_particles=3000)
        known = ~y.isnan()
        assert (drawn["y"][:, known] == y[known]).all()
        unknown = (drawn["y"][:, ~known] == 1.0).double().mean(0)
        torch.testing.assert_close(unknown, log_p.softmax(1)[~known, 1], rtol=0.0, atol=0.1)

    def test_predict_of_a_label(self, double):
        """x ~ p(x|y), whose mean is known."""
        program, _, _ = _linear()
        drawn = pv.predict(program, {"y": torch.tensor([2.0])}, num_samples=4000, num_particles=4000)
        mean = program.decode(torch.zeros(1, D), torch.tensor([2.0])).mean
        torch.testing.assert_close(drawn["x"].mean(0), mean, rtol=0.0, atol=0.15)

    def test_generate(self):
        vae, *_ = _digits()
        assert (vae.generate(20, given={"y": 3})["y"] == 3).all()
        free = vae.generate(500)["y"]
        assert free.unique().tolist() == list(range(10))
        with pytest.raises(pv.data.DataError, match="classes from 0 to 9"):
            vae.generate(1, given={"y": 10})


def test_of_a_table():
    columns = {"a": "real", "b": {"kind": "category", "levels": ["u", "v"]}}
    torch.manual_seed(0)
    small = dict.fromkeys(("classifier", "encoder", "decoder"), pv.nets.mlp(8))
    vae = pv.SemiSupervisedVAE(columns, num_classes=2, latent_dim=2, likelihood="auto", **small)
    x = torch.stack([torch.randn(30), torch.randint(2, (30,)).float()], 1)
    x[3, 0] = NAN
    y = torch.where(torch.arange(30) < 10, x[:, 1], NAN)
    assert pv.evaluate.elbo(vae, {"x": x, "y": y}).terms["kl_y_unobserved"] >= 0
    assert vae.classify({"a": [0.3], "b": ["v"]}).shape == (1, 2)


@pytest.mark.filterwarnings("ignore:no training datum is known")
@pytest.mark.parametrize("classes", [2, 40])
@pytest.mark.filterwarnings("ignore:no training datum has the label")
@pytest.mark.usefixtures("double")
def test_of_a_table_and_discrete_latents_it_is_the_sum(classes):
    """Over y and z, both enumerated; a value that is missing is left out."""
    columns = {"a": "real", "b": {"kind": "category", "levels": ["u", "v", "w"]}, "c": "count"}
    torch.manual_seed(0)
    small = dict.fromkeys(("classifier", "encoder", "decoder"), pv.nets.mlp(8))
    one_of_three = {"latent_dim": 3, "prior": pv.priors.OneHotCategorical(3), "balanced": False}
    vae = pv.SemiSupervisedVAE(columns, num_classes=classes, likelihood="auto", **one_of_three, **small)
    x = torch.stack(
        [torch.randn(4), torch.tensor([0.0, 2.0, 1.0, 1.0]), torch.tensor([0.0, 5.0, 2.0, 1.0])], 1
    )
    x[1, 0] = x[2, 1] = NAN
    y = torch.tensor([1.0, NAN, NAN, classes - 1.0])
    vae.initialize(pv.data.Split({"x": x, "y": y}, columns=vae.columns))
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    vae.eval()
    k, z = torch.arange(classes).double(), torch.eye(3)
    log_q_y, log_p_y = vae.classify(x).log(), vae.p_y().probs.log()
    total = 0.0
    for row, label, log_q in zip(x, y, log_q_y, strict=True):
        log_q_z = vae.encode(row.expand(classes, 3), k).log_prob(z[:, None])  # [3, K]
        p_x = vae.decode(z[:, None].expand(3, classes, 3), k.expand(3, classes))
        densities = p_x.by_column(row.nan_to_num(1.0).expand(3, classes, 3))
        log_p = densities.where(~row.isnan(), 0.0).sum(-1) + math.log(1 / 3) + log_p_y
        of_class = (log_q_z.exp() * (log_p - log_q_z)).sum(0)
        total += of_class[int(label)] if label == label else (log_q.exp() * (of_class - log_q)).sum()
    found = pv.evaluate.elbo(vae, {"x": x, "y": y}, num_samples=1)
    assert found.elbo == pytest.approx(total.item() / 4, rel=1e-9)
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(vae.model, vae.guide, {"x": x, "y": y})
    assert loss == pytest.approx(-total.item(), rel=1e-9)


@pytest.mark.slow
def test_learns_from_few_labels():
    """0.72 when this was written; of logistic regression on the same fifty labels 0.69."""
    vae, data, whole = _digits(**dict.fromkeys(("classifier", "encoder", "decoder"), pv.nets.mlp(128)))
    pv.fit(vae, data, epochs=150, batch_size=64, progress=False)
    right = (vae.classify(whole.test[:]).argmax(1) == whole.test.labels).double().mean()
    assert right > 0.65
