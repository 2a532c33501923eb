"""What is exported computes what the program does, without this package."""

import importlib
import importlib.util
import json

import cases
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.export import ExportError, named

needs_onnx = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime"))),
    reason="ONNX is not installed",
)
KNOWN = {
    *("Categorical", "DiscretizedLogisticMixture", "FullRankNormal", "LowRankNormal", "MixtureOfNormals"),
    *("Dirichlet", "Normal", "Ordinal", "StudentT"),
}
"""What has parameters by name, beside all univariate families."""
PROGRAMS = [
    *("VAE", "VAE-VampPrior", "VAE-Gamma", "ConditionalVAE", "ConditionalVAE-prior", "CountVAE-latent"),
    *("HierarchicalVAE-bottom-up", "HierarchicalVAE-top-down", "VAE-table", "ConditionalVAE-table"),
    *("CountVAE", "SelectionVAE", "SemiSupervisedVAE"),
]
FLOWS = {name for name in cases.GUIDES if name.startswith("Flow")}


def fitted():
    """A small VAE whose encoder standardises what it sees."""
    vae = pv.VAE((3,), latent_dim=2, likelihood=pv.likelihoods.Normal(), **cases.SMALL)
    vae.initialize(
        pv.data.Split(100.0 + 5.0 * torch.randn(50, 3, generator=torch.Generator().manual_seed(1)))
    )
    return vae


def rebuilt(p, values):
    """The distribution that the names and values mean, by Pyro's classes or ours of their names."""
    name = named(p)[0]
    if isinstance(p, pv.distributions.DiscretizedLogisticMixture):
        values = {**values, "levels": int(values["levels"].flatten()[0])}
        return pv.distributions.DiscretizedLogisticMixture(**values, event_shape=p.event_shape)
    if name == "MixtureOfDiagNormals":
        return pv.distributions.MixtureOfDiagNormals(**values)
    made = getattr(pv.distributions, name, None) or getattr(dist, name)
    numbers = {n: v.flatten()[0] for n, v in values.items() if n in ("levels", "temperature")}
    made = made(**{**values, **{n: int(v) if n == "levels" else v for n, v in numbers.items()}})
    return made.to_event(len(p.event_shape) - len(made.event_shape))


class TestNamed:
    """Names and values say all that there is to say of a distribution."""

    @pytest.mark.parametrize("role", ["likelihood", "guide"])
    def test_of_every_family(self, role):
        refused = set()
        for name, family in (cases.LIKELIHOODS if role == "likelihood" else cases.GUIDES).items():
            vae = cases.build(**{role: family})
            z = vae.prior().sample((4,))
            with torch.no_grad():
                p = vae.decode(z) if role == "likelihood" else vae.encode(torch.rand(4, *cases.EVENT_SHAPE))
            try:
                _, values = named(p)
            except ExportError:
                refused.add(name)
                continue
            assert values, name
            assert all(len(value) == 4 for value in values.values()), name
            x = p.sample()
            inner = p.base if hasattr(p, "base") and not hasattr(p, "base_dist") else p  # of vectors
            made = rebuilt(inner, values)
            at = x.flatten(1) if inner is not p else x
            torch.testing.assert_close(made.log_prob(at), p.log_prob(x), rtol=1e-4, atol=1e-4, msg=name)
        assert not refused & (KNOWN | cases.FAMILIES.keys())
        assert role == "likelihood" or refused >= FLOWS

    def test_pushed(self):
        """A Normal guide over a prior on the positive reals is told with its map."""
        vae = cases.build(prior=dist.Gamma(2.0, 1.0))
        q = vae.encode(torch.rand(4, *cases.EVENT_SHAPE))
        what, values = named(q)
        assert what == {"of": "Normal", "through": ["SoftplusTransform"]}
        z = q.sample()
        u = z + (-(-z).expm1()).log()
        normal = dist.Normal(values["loc"], values["scale"])
        expected = (normal.log_prob(u) - nn.functional.logsigmoid(u)).sum(-1)
        torch.testing.assert_close(q.log_prob(z), expected, rtol=1e-4, atol=1e-4)


class TestFiles:
    def test_standardised_within(self, tmp_path):
        """What goes in is the data as they are, in batches of any size, and missing values are NaN."""
        vae = fitted()
        told = json.loads(pv.export(vae, tmp_path, formats=["pt2"]).read_text())
        encoder = torch.export.load(tmp_path / "encoder.pt2").module()
        for x in (100 + torch.randn(1, 3), torch.tensor([[95.0, torch.nan, 108.0]] * 7)):
            q = vae.encode(x).base_dist
            found = encoder(x)
            torch.testing.assert_close(found["loc"], q.loc, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(found["scale"], q.scale, rtol=1e-5, atol=1e-5)
        decoder = torch.export.load(tmp_path / "decoder.pt2").module()
        z = torch.randn(4, 2)
        torch.testing.assert_close(decoder(z)["loc"], vae.decode(z).mean, rtol=1e-5, atol=1e-5)
        assert (decoder(z)["loc"] > 50).all()  # on the scale of the data
        part = told["parts"]["encoder"]
        assert part["inputs"]["x"] == {"shape": ["B", 3], "dtype": "float32", "missing": "NaN"}
        assert part["outputs"]["loc"] == {"shape": ["B", 2], "dtype": "float32"}
        assert (part["distribution"], part["support"]) == ("Normal", "the reals")
        assert told["parts"]["decoder"]["distribution"] == "Normal"
        assert told["priors"]["z"]["parameters"] == {"loc": [0.0, 0.0], "scale": [1.0, 1.0]}

    def test_leaves_the_program_as_it_is(self, tmp_path):
        vae = fitted()
        before = {name: value.clone() for name, value in vae.state_dict().items()}
        pv.export(vae, tmp_path, parts=["decoder"], formats=["pt2"])
        assert vae.training
        assert all(torch.equal(before[name], value) for name, value in vae.state_dict().items())
        assert {path.name for path in tmp_path.iterdir()} == {"decoder.pt2", "export.json"}

    def test_encode_is_recorded_without_ceremony(self):
        class Encoder(nn.Module):
            def __init__(self, vae):
                super().__init__()
                self.vae = vae

            def forward(self, x):
                return self.vae.encode(x).mean

        vae, x = fitted(), torch.randn(4, 3)
        recorded = torch.export.export(Encoder(vae), (x,)).module()
        gaps = torch.tensor([[90.0, torch.nan, 100.0]] * 4)
        for values in (x, gaps):
            torch.testing.assert_close(recorded(values), vae.encode(values).mean)

    @needs_onnx
    def test_onnx(self, tmp_path):
        import onnxruntime

        vae = fitted()
        pv.export(vae, tmp_path, parts=["encoder"])
        session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
        x = 100 + 5 * torch.randn(9, 3)
        loc, scale = session.run(["loc", "scale"], {"x": x.numpy()})
        q = vae.encode(x).base_dist
        torch.testing.assert_close(torch.from_numpy(loc), q.loc.detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(torch.from_numpy(scale), q.scale.detach(), rtol=1e-5, atol=1e-5)

    def test_columns_by_name(self, tmp_path):
        vae = cases.make("VAE-table")
        told = json.loads(pv.export(vae, tmp_path, parts=["decoder"], formats=["pt2"]).read_text())
        z = torch.randn(5, cases.D)
        found = torch.export.load(tmp_path / "decoder.pt2").module()(z)
        assert told["parts"]["decoder"]["distribution"]["columns"]["visits"] == "GammaPoisson"
        assert {name.split(".")[0] for name in found} == {*cases.COLUMNS}
        assert told["columns"]["island"]["levels"] == ["a", "b", "c"]
        with torch.no_grad():
            mean = vae.decode(z).mean
        visits = found["visits.concentration"] / found["visits.rate"]
        torch.testing.assert_close(visits, mean[:, list(cases.COLUMNS).index("visits")], rtol=1e-5, atol=1e-5)

    def test_a_file_that_differs_is_refused(self, tmp_path, monkeypatch):
        module = importlib.import_module("pyro_vae.export")
        wrong = {name: torch.zeros(5, 2) for name in ("loc", "scale")}
        monkeypatch.setattr(module, "_write_pt2", lambda *_: lambda values: wrong)
        with pytest.raises(ExportError, match="computes another loc than the program"):
            pv.export(fitted(), tmp_path, parts=["encoder"], formats=["pt2"])


class TestRefused:
    @pytest.mark.parametrize("name", sorted(FLOWS))
    def test_flows(self, tmp_path, name):
        vae = cases.build(guide=cases.GUIDES[name])
        with pytest.raises(ExportError, match=r"the encoder \(z given x\) cannot be exported: .*decoder"):
            pv.export(vae, tmp_path / "new", formats=["pt2"])
        assert not (tmp_path / "new").exists()

    def test_what_the_story_makes_more_of(self, tmp_path):
        """A CountVAE's means are shares times a total, which its network alone does not know."""
        with pytest.raises(ExportError, match=r"the decoder .* further; leave it out, parts=\['encoder'\]"):
            pv.export(cases.make("CountVAE"), tmp_path, formats=["pt2"])

    def test_no_conditional(self, tmp_path):
        with pytest.raises(ExportError, match=r"this TwoSites has no pv\.Conditional"):
            pv.export(cases.make("own"), tmp_path, formats=["pt2"])

    def test_parts(self, tmp_path):
        with pytest.raises(ValueError, match=r"parts=\['encodr'\] are none of this VAE, which has encoder"):
            pv.export(fitted(), tmp_path, parts=["encodr"], formats=["pt2"])

    def test_without_onnx(self, tmp_path, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ImportError, match=r"pip install 'pyro_vae\[export\]', or leave it out"):
            pv.export(fitted(), tmp_path)

    def test_a_network_that_asks_for_values(self, tmp_path):
        class Asks(nn.Module):
            def __init__(self, n, m):
                super().__init__()
                self.layer = nn.Linear(n[0], m[0])

            def forward(self, x):
                return self.layer(x) if x.sum() > 0 else -self.layer(x)

        vae = pv.VAE((3,), 2, likelihood=pv.likelihoods.Normal(), encoder=Asks, decoder=pv.nets.mlp(4))
        with pytest.raises(ExportError, match=r"cannot record the encoder .* must not ask for values"):
            pv.export(vae, tmp_path, formats=["pt2"])


@pytest.mark.slow
class TestEvery:
    @pytest.mark.parametrize("name", PROGRAMS)
    def test_program(self, name, tmp_path):
        """Of each program all parts, or those that the refusal leaves."""
        program = cases.make(name)
        try:
            pv.export(program, tmp_path, formats=["pt2"])
        except ExportError as error:
            text = str(error)
            if "leave it out" in text:
                parts = json.loads(text.split("parts=")[1].replace("'", '"'))
                pv.export(program, tmp_path, parts=parts, formats=["pt2"])

    @needs_onnx
    @pytest.mark.parametrize(
        "name",
        [
            *("Bernoulli", "Beta", "Categorical", "DiscretizedLogisticMixture", "FullRankNormal"),
            *("LowRankNormal", "MixtureOfNormals", "NegativeBinomial", "Ordinal", "StudentT-mixed"),
            "ZeroInflatedPoisson",
        ],
    )
    def test_onnx_of_kinds_of_likelihoods(self, name, tmp_path):
        vae = cases.build(likelihood=cases.LIKELIHOODS[name])
        pv.export(vae, tmp_path, parts=["decoder"], formats=["onnx"])


def test_command(tmp_path, capsys, digits):
    vae = pv.VAE(digits.event_shape, 2, **cases.SMALL)
    pv.fit(vae, digits, epochs=1, folder="run", progress=False)
    assert main(["export", "run", "--output", "out", "--formats", "pt2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("export.json")
    assert main(["export", "run", "--output", "out", "--formats", "tflite"]) == 2
