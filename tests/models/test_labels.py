"""What teaches a classifier of few labels, and what is drawn of classes."""

import math
import signal

import pandas as pd
import pytest
import torch
from pyro.infer import TraceEnum_ELBO

import pyro_vae as pv

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def build(classifier=None, **options):
    torch.manual_seed(0)
    nets = {"encoder": pv.nets.mlp(8), "decoder": pv.nets.mlp(8), "classifier": classifier or pv.nets.mlp(8)}
    vae = pv.SemiSupervisedVAE((4,), num_classes=3, latent_dim=2, **nets | options)
    return vae, torch.rand(6, 4).round()


def loss(vae, batch):
    torch.manual_seed(1)
    return TraceEnum_ELBO(max_plate_nesting=1).loss(vae.model, vae.guide, batch)


@pytest.mark.usefixtures("double")
def test_worst_direction_of_a_linear_classifier_of_two_classes():
    """Along the difference of the weights, one way or the other: the divergence is in closed form."""
    torch.manual_seed(0)
    small = {"encoder": pv.nets.mlp(4), "decoder": pv.nets.mlp(4), "classifier": pv.nets.mlp()}
    vae = pv.SemiSupervisedVAE((4,), num_classes=2, latent_dim=2, radius=0.3, **small)
    x = torch.randn(200, 4)
    logits = vae.q_y(x).logits
    weight = vae.q_y.net.layers[0].weight
    steepest = (weight[1] - weight[0]) / (weight[1] - weight[0]).norm() * 0.3 * 2  # sqrt(4) elements
    ways = []
    for r in (steepest, -steepest):
        moved = vae.q_y(x + r).logits
        ways.append((logits.exp() * (logits - moved)).sum(1))
    found = vae._roughness(x, logits)
    torch.testing.assert_close(torch.stack(ways).sub(found).abs().min(0).values, torch.zeros(200), **EXACT)
    assert (found > 0).all()
    worse = torch.stack(ways).max(0).values
    assert (found / worse).mean() > 0.8  # the gradient at a small r is of the nearer side
    random = 0.3 * 2 * torch.nn.functional.normalize(torch.randn(200, 4), dim=1)
    anyhow = (logits.exp() * (logits - vae.q_y(x + random).logits)).sum(1)
    assert anyhow.mean() < 0.7 * found.mean()


@pytest.mark.usefixtures("double")
def test_radius_is_a_term_of_training_alone():
    """Alpha times the divergence, of features the entropy too, summed over data; and no report has it."""
    batch = {"x": build()[1], "y": torch.tensor([0.0, math.nan, 2.0, math.nan, math.nan, 1.0])}
    found, reports, plain = {}, {}, {}
    for radius in (0.0, 0.4):
        vae, _ = build(alpha=2.0, radius=radius)
        vae._roughness = lambda x, logits: torch.arange(6.0) + 0 * logits[:, 0]  # without noise of its own
        found[radius], plain[radius] = loss(vae.train(), batch), loss(vae.eval(), batch)
        reports[radius] = pv.evaluate.elbo(vae.train(), batch, num_samples=2)
    assert found[0.4] - found[0.0] == pytest.approx(2.0 * 15)
    assert plain[0.4] == plain[0.0]
    assert reports[0.4] == reports[0.0]


@pytest.mark.parametrize("what", ["columns", "pixels", "table"])
@pytest.mark.usefixtures("double")
def test_what_is_not_known_is_not_moved(what):
    """Nor is the mask: r is of the values that are there, and as long as they are many."""
    torch.manual_seed(0)
    small = dict.fromkeys(("classifier", "encoder", "decoder"), pv.nets.mlp(8))
    x = torch.rand(6, 4)
    shape = {"columns": (4,), "pixels": (2, 2)}.get(what) or {
        "a": "real",
        "b": {"kind": "category", "levels": ["u", "v"]},
        "c": "real",
        "d": "positive",
    }
    if what == "table":
        x[:, 1] = x[:, 1].round()
    x = torch.where(torch.rand(6, 4) < 0.4, math.nan, x)
    x[0] = math.nan
    x = x.view(6, 2, 2) if what == "pixels" else x
    kind = "auto" if what == "table" else pv.likelihoods.Normal()
    vae = pv.SemiSupervisedVAE(shape, num_classes=3, latent_dim=2, radius=0.3, likelihood=kind, **small)
    vae.initialize(pv.data.Split({"x": x, "y": torch.full((6,), math.nan)}))
    (see,) = vae.q_y.seen
    seen, took = see(x), []
    vae.q_y.net.register_forward_hook(lambda _, given, __: took.append(given[0]))
    vae._roughness(x, vae.q_y(x).logits)
    _, near, moved = took
    known = ~x.isnan().flatten(1)
    if what == "table":  # numbers, then one of two, then the mask
        known = torch.cat([known[:, [0, 2, 3]], known[:, [1, 1]]], 1)
    known = torch.cat([known, torch.zeros(6, 4, dtype=torch.bool)], 1)
    for one in (near, moved):
        r = (one - seen).flatten(1)
        assert ((r != 0) == known).all()
        torch.testing.assert_close(r.norm(dim=1), 0.3 * known.sum(1).sqrt(), **EXACT)


@pytest.mark.usefixtures("double")
def test_what_is_held_against_has_no_gradient():
    """Of a classifier that does not hang on x the divergence is 0, and of its logits nothing is learned."""
    vae, x = build()
    logits = vae.q_y(x).logits.detach().requires_grad_()
    vae._roughness(x, logits).sum().backward()
    assert logits.grad is None
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in vae.q_y.parameters())
    with torch.no_grad():
        vae.q_y.net.layers[0].weight.zero_()
    torch.testing.assert_close(vae._roughness(x, vae.q_y(x).logits), torch.zeros(6), **EXACT)


def test_told():
    assert "less 10 KL(q(y|x) || q(y|x + r)) of each, |r| = 0.25" in build()[0].explain()
    assert "KL(q(y|x) ||" not in build(radius=0.0)[0].explain()
    assert "KL(q(y|x) ||" not in build(alpha=0.0)[0].explain()
    with pytest.raises(pv.checks.ConfigError, match="radius=-1"):
        build(radius=-1.0)


def _labelled():
    digits = pv.data.load("digits", binarize="threshold").train
    y = digits.labels[:300].clone().double()
    y[40:] = math.nan
    return pv.data.load({"x": digits[:300], "y": y.float()}, validation=0.1, test=0.0)


def _on_features(**options):
    torch.manual_seed(0)
    small = dict.fromkeys(("classifier", "encoder", "decoder"), pv.nets.mlp(16))
    options = {"features": 3} | small | options
    return pv.SemiSupervisedVAE((1, 8, 8), latent_dim=2, **options)


class TestFeatures:
    """The classifier sees latents of a VAE of x alone, which is trained before, and then stays."""

    @pytest.mark.usefixtures("double")
    def test_entropy_is_a_term_of_training(self):
        x, found = torch.rand(6, 1, 8, 8).round(), {}
        for radius in (0.0, 0.1):
            vae = _on_features(radius=radius, alpha=2.0).train()
            (seen,) = vae.q_y.seen
            seen.eval()  # without draws
            vae._roughness = lambda x, logits: torch.arange(6.0) + 0 * logits[:, 0]
            found[radius] = loss(vae, {"x": x})
        q = vae.classify(x)
        assert found[0.1] - found[0.0] == pytest.approx(2.0 * (15 - (q * q.log()).sum().item()))
        assert "10 (KL(q(y|x) || q(y|x + r)) + H(q(y|x))) of each, |r| = 0.15" in _on_features().explain()

    def test_by_default(self):
        of_images = pv.SemiSupervisedVAE((1, 28, 28), num_classes=10, latent_dim=2)
        assert of_images.features.latent_dim == 20
        assert of_images.radius == 0.15
        assert pv.SemiSupervisedVAE((1, 8, 8), num_classes=10, latent_dim=2).features is None
        with pytest.raises(pv.checks.ConfigError, match="features=-1"):
            _on_features(features=-1)

    def test_trained_by_the_same_fit(self, tmp_path):
        """As by a fit of its own before, and as in a run that was stopped and goes on."""
        data, options = _labelled(), {"epochs": 2, "batch_size": 64, "progress": False}
        one, two, resumed = _on_features(), _on_features(), _on_features()
        run = pv.fit(one, data, **options)
        assert [row["epoch"] for row in run.history] == [1, 2]
        assert run.history[0]["lr"] == pytest.approx(2e-3, rel=0.5)  # the model's own
        pv.fit(two.features, data, lr=2e-3, **options)
        pv.fit(two, data, **options)
        stop = lambda *_: signal.raise_signal(signal.SIGTERM)  # noqa: E731
        with pytest.raises(pv.training.Interrupted):
            pv.fit(_on_features(), data, folder=tmp_path / "run", callback=stop, **options)
        pv.fit(resumed, data, folder=tmp_path / "run", resume=True, **options)
        for other in (two, resumed):
            for name, value in one.state_dict().items():
                torch.testing.assert_close(value, other.state_dict()[name], rtol=0.0, atol=0.0, msg=name)

    @pytest.mark.parametrize("again", ["resume", "auto", "here"])
    def test_goes_on_where_it_was_stopped(self, tmp_path, again, monkeypatch):
        """While features are trained, after their first epoch: with a folder the same bits come out."""
        data, options = _labelled(), {"epochs": 2, "batch_size": 64, "progress": False}
        whole, stopped, folder = _on_features(), _on_features(), tmp_path / "run"
        pv.fit(whole, data, **options)
        original, rows = pv.training.loop._Training.measure, []

        def measure(*given):
            rows.append(1)
            signal.raise_signal(signal.SIGTERM)
            return original(*given)

        with monkeypatch.context() as patch:
            patch.setattr(pv.training.loop._Training, "measure", measure)
            kept = {} if again == "here" else {"folder": folder}
            with pytest.raises(pv.training.Interrupted, match="stopped while its features were trained"):
                pv.fit(stopped, data, **kept, **options)
        assert len(rows) == 1
        assert not stopped.features.initialized
        if again == "here":  # from the weights as they are
            run = pv.fit(stopped, data, **options)
            assert run.program.features.initialized
            return
        if again == "resume":
            run = pv.resume(folder, data=data, progress=False)
        else:
            run = pv.fit(_on_features(), data, folder=folder, resume="auto", **options)
        for other in (run.program, pv.load(folder)):
            for name, value in whole.state_dict().items():
                torch.testing.assert_close(value, other.state_dict()[name], rtol=0.0, atol=0.0, msg=name)
        assert len(pv.training.reopen(folder / "features", data=data).history) == 2
        assert "the same bits after each of 2 epochs" in str(
            pv.training.verify(folder, data=data, progress=False)
        )

    def test_by_hand_first(self):
        """``initialize`` does not take them for trained, and says so; ``pv.fit`` then trains them."""
        vae, data = _on_features(), _labelled()
        with pytest.warns(pv.program.UntrainedWarning, match=r"pv\.fit\(program\.features, data\)"):
            vae.initialize(data.train)
        start = vae.features.p_x.net.layers[0].weight.clone()
        pv.fit(vae, data, epochs=1, progress=False)
        assert not torch.equal(vae.features.p_x.net.layers[0].weight, start)

    def test_trained_before_and_kept(self, tmp_path):
        vae, data = _on_features(), _labelled()
        pv.fit(vae.features, data, epochs=2, progress=False)
        before = {name: value.clone() for name, value in vae.features.state_dict().items()}
        start = vae.q_y.net.layers[0].weight.clone()
        pv.fit(vae, data, epochs=2, progress=False, folder=tmp_path / "run")
        for name, value in vae.features.state_dict().items():
            torch.testing.assert_close(value, before[name], rtol=0.0, atol=0.0)
        assert not torch.equal(vae.q_y.net.layers[0].weight, start)
        x = data.train[:5]["x"] if isinstance(data.train[:5], dict) else data.train[:5]
        z = vae.features.encode(x).mean
        torch.testing.assert_close(vae.classify(x), vae.q_y.net(z).softmax(1))
        with pytest.raises(pv.checks.ConfigError, match=r"frozen.*program\.requires_grad_\(True\)"):
            pv.fit(vae.features, data, epochs=1, progress=False)
        again = pv.load(tmp_path / "run")
        torch.testing.assert_close(again.classify(x), vae.classify(x), rtol=0.0, atol=0.0)
        assert again.options["features"] == 3

    def test_normalisations_of_features_stay(self):
        """Those of a network that counts batches, such as BatchNorm, are of the features' own training."""
        vae = _on_features()
        shape = vae.features.q_z.family.param_shape()
        layers = torch.nn.Flatten(), torch.nn.BatchNorm1d(64), torch.nn.Linear(64, math.prod(shape))
        vae.features.q_z.net = torch.nn.Sequential(*layers, torch.nn.Unflatten(1, shape))
        data = _labelled()
        pv.fit(vae.features, data, epochs=1, progress=False)
        before = {name: value.clone() for name, value in vae.features.state_dict().items()}
        pv.fit(vae, data, epochs=1, progress=False)
        for name, value in vae.features.state_dict().items():
            torch.testing.assert_close(value, before[name], rtol=0.0, atol=0.0)

    def test_draws_in_training_alone(self):
        vae, x = _on_features(), torch.rand(4, 1, 8, 8).round()
        (seen,) = vae.q_y.seen
        assert torch.equal(seen.eval()(x), seen(x))
        assert not torch.equal(seen.train()(x), seen(x))
        assert not seen(x).requires_grad

    @pytest.mark.usefixtures("double")
    def test_radius_is_of_the_latents(self):
        """Of features that are one point, which r leaves: |r| = radius sqrt(3) along a linear classifier."""
        line = pv.nets.mlp()
        vae = _on_features(num_classes=2, classifier=line, radius=0.2).eval()
        x = torch.rand(50, 1, 8, 8).round()
        logits, weight = vae.q_y(x).logits, vae.q_y.net.layers[0].weight
        steepest = (weight[1] - weight[0]) / (weight[1] - weight[0]).norm() * 0.2 * 3**0.5
        ways = []
        for r in (steepest, -steepest):
            moved = vae.q_y.net(vae.features.encode(x).mean + r).log_softmax(1)
            ways.append((logits.exp() * (logits - moved)).sum(1))
        found = vae._roughness(x, logits)
        torch.testing.assert_close(torch.stack(ways).sub(found).abs().min(0).values, torch.zeros(50), **EXACT)


@pytest.mark.usefixtures("double")
def test_styles_are_of_each_class(monkeypatch):
    """Each row's z is decoded under each class in turn, though the model draws labels itself."""
    vae, x = build()
    drawn = []
    monkeypatch.setattr("pyro_vae.figures.observed.pictures", lambda _, what, ax: drawn.append(what))
    y = torch.arange(6.0) % 3
    pv.figures.styles(vae, {"x": x, "y": y}, 4)
    (what,) = drawn
    assert what.columns == ["data", "0", "1", "2"]
    z = vae.encode(x[:4], y[:4]).mean
    for row, datum, own in zip(what.rows, x, z, strict=False):
        torch.testing.assert_close(row[0], datum)
        torch.testing.assert_close(row[1:], vae.decode(own.expand(3, -1), torch.arange(3.0)).mean)


class TestBalance:
    """Rows with a label are a quarter of what an epoch takes."""

    def test_again(self):
        vae, _ = build()
        y = torch.tensor([1.0] + 23 * [math.nan])
        found = vae.again(pv.data.Split({"x": torch.rand(24, 4), "y": y}))
        assert found.tolist() == 7 * [0]  # 8 of 31
        for whole in (y.nan_to_num(2.0), torch.full((24,), math.nan)):
            assert not len(vae.again(pv.data.Split({"x": torch.rand(24, 4), "y": whole})))
        assert not len(vae.again(pv.data.Split(torch.rand(24, 4))))

    @pytest.mark.filterwarnings("ignore:no training datum has the label")
    def test_an_epoch_takes_them(self, tmp_path):
        """Each row as often as it is to be, in another order in each epoch; the share is that of the term."""
        y = torch.full((60,), math.nan)
        y[[3, 50]] = 1.0
        x = torch.arange(60.0)[:, None] / 60 + torch.zeros(60, 4)
        data = pv.data.load({"x": x, "y": y}, validation=0.0, test=0.0)
        vae, _ = build(likelihood=pv.likelihoods.Normal(), alpha=1.0)
        seen, model = [], vae.model
        vae.model = lambda batch: (seen.append((batch["x"][:, 0] * 60).round()), model(batch))[1]
        run = pv.fit(
            vae, data, epochs=2, batch_size=16, progress=False, compile=False, folder=tmp_path / "run"
        )
        taken = torch.cat(seen)
        epoch = 60 + len(vae.again(data.train))
        epochs = [taken[-2 * epoch : -epoch], taken[-epoch:]]
        for each in epochs:
            expected = torch.cat([torch.arange(60.0), torch.tensor([3.0, 50.0]).repeat(9)])
            assert torch.equal(each.sort().values, expected.sort().values)
        assert not torch.equal(*epochs)
        assert vae.labelled.item() == pytest.approx(20 / 78)
        assert math.isfinite(run.history[-1]["loss"])
        assert (
            "2 of 60 training data several times, 18 rows more" in (tmp_path / "run" / "log.txt").read_text()
        )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.manual_seed(0)
    number = torch.arange(60) % 3
    frame = pd.DataFrame({"a": torch.randn(60) + number, "b": torch.randn(60)})
    frame["kind"] = ["Gentoo", "Adelie", "Chinstrap"] * 20
    frame.loc[::4, "kind"] = None
    data = pv.data.load(frame, labels="kind")
    folder, programs = tmp_path_factory.mktemp("names"), {}
    small = {"encoder": pv.nets.mlp(8), "decoder": pv.nets.mlp(8), "likelihood": "auto"}
    for kind, own in (
        (pv.SemiSupervisedVAE, {"num_classes": 3, "classifier": pv.nets.mlp(8)}),
        (pv.ConditionalVAE, {"given": {"y": 3}}),
    ):
        vae = kind(data.columns, latent_dim=2, **own, **small)
        pv.fit(vae, data, epochs=1, progress=False, folder=folder / kind.__name__, compile=False)
        programs[kind.__name__] = vae, pv.load(folder / kind.__name__)
    return frame, data, programs


class TestNames:
    """Of classes that the data had names of, and which a program then takes in the place of numbers."""

    @pytest.mark.parametrize("kind", ["SemiSupervisedVAE", "ConditionalVAE"])
    def test_generate_and_predict(self, trained, kind):
        _, data, programs = trained
        for vae in programs[kind]:
            assert vae.class_names == data.class_names == ("Adelie", "Chinstrap", "Gentoo")
            for name, number in (("Gentoo", 2), (["Adelie", "Gentoo", "Adelie"], torch.tensor([0, 2, 0]))):
                one, other = (vae.generate(3, given={"y": given}) for given in (name, number))
                torch.testing.assert_close(one["x"], other["x"], rtol=0.0, atol=0.0)
            torch.testing.assert_close(
                pv.predict(vae, {"a": [0.3, 0.1], "y": ["Gentoo", None]}, 5, num_particles=9)["b"],
                pv.predict(vae, {"a": [0.3, 0.1], "y": torch.tensor([2.0, math.nan])}, 5, num_particles=9)[
                    "b"
                ],
                rtol=0.0,
                atol=0.0,
            )
            for ask in (
                lambda vae: vae.generate(2, given={"y": "Emperor"}),
                lambda vae: pv.predict(vae, {"a": [0.3], "y": ["Emperor"]}),
            ):
                with pytest.raises(pv.data.DataError, match=r"y has Emperor, .* knows Adelie, Chinstrap"):
                    ask(vae)

    def test_batches(self, trained):
        _, data, programs = trained
        vae, x = programs["SemiSupervisedVAE"][0], data.train[:4]
        names = pd.Series(["Gentoo", None, "Adelie", "Adelie"])
        found = [
            pv.evaluate.elbo(vae, {"x": x, "y": y}, num_samples=3).elbo
            for y in (
                torch.tensor([2.0, math.nan, 0.0, 0.0]),
                names,
                names.astype("category"),
                names.tolist(),
            )
        ]
        assert found == 4 * found[:1]

    def test_other_numbers_for_the_same_names_are_refused(self, trained):
        """Of data that lack a class, the others are numbered anew; and those of the first are to be had."""
        frame, _, programs = trained
        vae = programs["SemiSupervisedVAE"][0]
        some = frame[frame["kind"] != "Adelie"]
        with pytest.raises(pv.data.DataError, match=r"numbered as Chinstrap, Gentoo.*vae.class_names.index"):
            pv.evaluate.elbo(vae, pv.data.load(some, labels="kind").train)
        numbers = some["kind"].map(vae.class_names.index, na_action="ignore")
        mended = pv.data.load(some.drop(columns="kind"), labels=numbers)
        assert math.isfinite(pv.evaluate.elbo(vae, mended.train).elbo)
        first = frame[frame["kind"] != "Gentoo"]  # which leaves the numbers as they were
        assert math.isfinite(pv.evaluate.elbo(vae, pv.data.load(first, labels="kind").train).elbo)

    def test_of_numbers_there_are_none(self):
        vae, x = build()
        pv.fit(vae, pv.data.load(x, labels=[0, 1, 2, 0, 1, 2]), epochs=1, progress=False, compile=False)
        assert vae.class_names is None
        with pytest.raises(pv.data.DataError, match=r"y has Gentoo, .* knows numbers alone"):
            vae.generate(1, given={"y": "Gentoo"})
