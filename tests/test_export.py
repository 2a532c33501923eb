"""What is exported computes what the program does, without this package."""

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.export import ExportError, _numbers, _Part, named

needs_onnx = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime"))),
    reason="ONNX is not installed",
)
KNOWN = {
    *("Categorical", "DiscretizedLogisticMixture", "FullRankNormal", "LowRankNormal", "MixtureOfNormals"),
    *("Dirichlet", "Normal", "Ordinal", "StudentT"),
}
"""What has parameters by name, beside all univariate families."""
FLOWS = {name for name in cases.GUIDES if name.startswith("Flow")}
DISCRETE = {
    "VAE-bits": pv.priors.Bernoulli(learned=True),
    "VAE-choices": pv.priors.OneHotCategorical(3),
    "VAE-codes": pv.priors.Codes(4, code_dim=1, learned=True),
}
PROGRAMS: dict[str, Any] = {
    "VAE-conv": lambda: pv.VAE((1, 8, 8), 2, encoder=pv.nets.conv(2, 4), decoder=pv.nets.conv(4, 2)),
    "VAE-resnet": lambda: pv.VAE((1, 8, 8), 2, encoder=pv.nets.resnet(2, 1), decoder=pv.nets.resnet(2, 1)),
    **cases.PROGRAMS | cases.DISCRETE | cases.BAYESIAN,
    **{name: lambda prior=prior: cases.build(prior=prior) for name, prior in DISCRETE.items()},
}
PUSHED = ("Beta", "Dirichlet", "Gamma", "Uniform", "VonMises")
"""Priors onto whose supports a guide over the reals is pushed, each in another way."""

MAPS, NAMES = "whose own parameters come from a network", "has no parameters by name"
FURTHER, WEIGHTS = "story draws from what it computes of it further", "weights of its network are latent"
CANNOT = {
    **{(f"guide-{name}", "encoder"): MAPS for name in FLOWS},
    ("guide-SemiAmortised", "encoder"): FURTHER,
    ("guide-Structured", "encoder"): NAMES,
    ("SequentialVAE-structured", "encoder"): NAMES,
    ("CountVAE", "decoder"): FURTHER,
    ("CountVAE-latent", "decoder"): FURTHER,
    ("CountVAE-latent", "q_library"): FURTHER,
    ("HierarchicalVAE-skip", "q_z_0"): FURTHER,
    ("HierarchicalVAE-skip", "q_z_1"): FURTHER,
    ("HierarchicalVAE-top-down", "q_z_0"): FURTHER,
    ("HierarchicalVAE-top-down", "q_z_1"): FURTHER,
    ("HierarchicalVAE-top-down", "q_z_2"): FURTHER,
    ("SelectionVAE", "p_s"): FURTHER,
    **{(name, "decoder"): WEIGHTS for name in cases.BAYESIAN},
}
"""What has no files, each with its reason: the table in ``docs/export.md`` has them all, in these words."""
TOLD = {
    "a guide that is a flow": lambda what, part: what.startswith("guide-Flow"),
    "a `Structured` guide": lambda what, part: what in ("guide-Structured", "SequentialVAE-structured"),
    "a `SemiAmortised` guide": lambda what, part: what == "guide-SemiAmortised",
    "the decoder of a `CountVAE`": lambda what, part: what.startswith("CountVAE") and part == "decoder",
    "`q_library` of a `CountVAE`": lambda what, part: part == "q_library",
    "a top-down `HierarchicalVAE`'s guide": lambda what, part: what.startswith("Hier") and part[0] == "q",
    "`p_s` of a `SelectionVAE`": lambda what, part: part == "p_s",
    "a decoder of `pv.nets.bayesian`": lambda what, part: what.endswith("bayesian"),
}
"""Rows of that table, and which of these they are about."""


def parts(program):
    """Its parts by name, each as it is exported."""
    names = {"q_z": "encoder", "p_x": "decoder"}
    own = program.conditionals()
    found = {n: c for n, c in program.named_modules() if c in own}
    found = {names.get(n, n.replace(".", "_")): c for n, c in found.items() if c.parents}
    return {name: _Part(program, name, c) for name, c in found.items()}


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
    if name == "MarkovNormal":
        return pv.distributions.MarkovNormal(**values, event_dim=len(p.event_shape))
    made = getattr(pv.distributions, name, None) or getattr(dist, name)
    numbers = {n: v.flatten()[0] for n, v in values.items() if n in ("levels", "temperature")}
    made = made(**{**values, **{n: int(v) if n == "levels" else v for n, v in numbers.items()}})
    return made.to_event(len(p.event_shape) - len(made.event_shape))


def variants():
    """Each registered part and program that has files of its own, and what they are."""
    yield from (
        (f"likelihood-{n}", "decoder", lambda n=n: cases.build(likelihood=cases.LIKELIHOODS[n]))
        for n in cases.LIKELIHOODS
    )
    yield from (
        (f"guide-{n}", "encoder", lambda n=n: cases.build(guide=cases.GUIDES[n])) for n in cases.GUIDES
    )
    yield from ((f"prior-{n}", "encoder", lambda n=n: cases.build(prior=cases.PRIORS[n])) for n in PUSHED)
    yield from ((name, None, make) for name, make in PROGRAMS.items())


class TestList:
    def test_is_whole(self):
        """What is refused of all that is registered is what is listed, for the reason that is given."""
        found = {}
        for what, only, make in variants():
            program = make()
            with program.evaluating():
                for name, part in parts(program).items():
                    if only in (None, name) and (why := part.refused()):
                        found[what, name] = why
        assert found.keys() == CANNOT.keys()
        for key, why in found.items():
            assert CANNOT[key] in why, key

    def test_is_in_the_pages(self):
        page = (Path(__file__).resolve().parents[1] / "docs" / "export.md").read_text()
        rows = [row.split(" | ") for row in page.splitlines() if row.startswith("| ")]
        for what, part in CANNOT:
            (row,) = [row for row, fits in TOLD.items() if fits(what, part)]
            (reason,) = [cells[1] for cells in rows if cells[0].startswith(f"| {row}")]
            assert CANNOT[what, part] in reason
        assert all(any(fits(*key) for key in CANNOT) for fits in TOLD.values())

    @pytest.mark.parametrize("name", cases.PRIORS)
    def test_priors_are_numbers(self, name):
        """From which their densities can be had, but for those of flows."""
        vae = cases.build(prior=cases.PRIORS[name])
        told = json.loads(json.dumps(_numbers(vae.p_z)))
        if name.startswith("Flow"):
            assert NAMES in told["left out"] or MAPS in told["left out"]
            return
        p, z = vae.prior(), vae.prior().sample((5,))
        values = {key: torch.tensor(value) for key, value in told["parameters"].items()}
        if "mixture" in told["distribution"]:
            logits = values.pop("logits")
            each = getattr(dist, told["distribution"]["mixture"])(**values).to_event(1)
            made = dist.MixtureSameFamily(dist.Categorical(logits=logits), each)
        else:
            made = rebuilt(p, values)
        torch.testing.assert_close(made.log_prob(z), p.log_prob(z), rtol=1e-4, atol=1e-4)


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
            inner = p.base if hasattr(p, "base") and not hasattr(p, "base_dist") else p  # reshaped
            made = rebuilt(inner, values)
            at = x.reshape(len(x), *inner.event_shape)
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

    @needs_onnx
    @pytest.mark.parametrize(
        "encoder", [pv.nets.recurrent(4), pv.nets.recurrent(3, cell="gru", direction="both")], ids=repr
    )
    def test_of_sequences(self, tmp_path, encoder):
        """A reading of all steps is recorded for batches of any size, in operations that anything knows."""
        import onnxruntime

        torch.manual_seed(0)
        vae = pv.SequentialVAE((5, 2), 2, encoder=encoder, decoder=pv.nets.mlp(4))
        vae.initialize(pv.data.Split(7.0 + torch.randn(20, 5, 2)))
        pv.export(vae, tmp_path, parts=["encoder"])
        recorded = torch.export.load(tmp_path / "encoder.pt2")
        assert "pyro_vae" not in str(recorded.graph)
        session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
        x = 7.0 + torch.randn(9, 5, 2)
        x[0, 3:], x[1, 1, 0], x[2, 1:3] = torch.nan, torch.nan, torch.nan
        q = vae.q_z(x)
        names = ["weight", "loc", "scale"]
        for found in (
            recorded.module()(x),
            dict(zip(names, session.run(names, {"x": x.numpy()}), strict=True)),
        ):
            for name in names:
                expected = getattr(q, name).detach()
                torch.testing.assert_close(torch.as_tensor(found[name]), expected, rtol=1e-5, atol=1e-5)

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

    @needs_onnx
    def test_a_reader_with_numpy_alone(self, tmp_path):
        """log p(x|z) of a table and draws of it, from the files and what the JSON says, nothing else."""
        import onnxruntime

        columns = {"age": "real", "ill": "boolean", "island": {"kind": "category", "levels": ["a", "b", "c"]}}
        vae = pv.VAE(columns, 2, likelihood={"age": pv.likelihoods.Normal()}, **cases.SMALL)
        x = torch.tensor([[40.0, 0, 2], [55.0, 1, 0], [61.0, 1, 1], [38.0, 0, 0]])
        vae.initialize(pv.data.Split(x))
        folder = pv.export(vae, tmp_path / "\u6a21\u578b \u00e9", formats=["onnx"]).parent
        told = json.loads((folder / "export.json").read_text())
        part = told["parts"]["decoder"]
        session = onnxruntime.InferenceSession(folder / part["files"][0], providers=["CPUExecutionProvider"])
        prior = told["priors"]["z"]["parameters"]
        z = np.random.default_rng(0).normal(prior["loc"], prior["scale"], (4, 2))
        assert part["inputs"]["z"] == {"shape": ["B", 2], "dtype": "float32"}
        found = session.run(list(part["outputs"]), {"z": z.astype("float32")})
        of = dict(zip(part["outputs"], found, strict=True))
        log_p = np.zeros(4)
        for i, (column, kind) in enumerate(told["columns"].items()):
            value, family = x[:, i].numpy(), part["distribution"]["columns"][column]
            if family == "Normal":
                loc, scale = of[f"{column}.loc"], of[f"{column}.scale"]
                log_p += -((value - loc) ** 2) / (2 * scale**2) - np.log(scale) - np.log(2 * np.pi) / 2
            elif family == "Bernoulli":
                logits = of[f"{column}.logits"]
                log_p += value * logits - np.logaddexp(0, logits)
            else:
                assert (family, kind["levels"]) == ("Categorical", ["a", "b", "c"])
                logits = of[f"{column}.logits"]
                log_p += logits[np.arange(4), value.astype(int)] - np.logaddexp.reduce(logits, -1)
        with torch.no_grad():
            expected = vae.decode(torch.from_numpy(z).float()).log_prob(x)
        np.testing.assert_allclose(log_p, expected.numpy(), rtol=1e-5)

    @needs_onnx
    def test_double(self, tmp_path):
        """torch.export has all in float64; onnxruntime has not, and is not let down by a file that fails."""
        vae = fitted().double()
        with pytest.raises(ExportError, match=r"onnxruntime cannot run decoder\.onnx, .*program\.float\(\)"):
            pv.export(vae, tmp_path, parts=["decoder"])
        assert not [*tmp_path.iterdir()]
        told = json.loads(pv.export(vae, tmp_path, parts=["decoder"], formats=["pt2"]).read_text())
        assert told["parts"]["decoder"]["outputs"]["loc"]["dtype"] == "float64"

    @needs_onnx
    def test_large_weights_are_in_a_file_beside(self, tmp_path, monkeypatch):
        import onnxruntime

        monkeypatch.setattr(importlib.import_module("pyro_vae.export"), "INLINE", 10)
        vae = fitted()
        told = json.loads(pv.export(vae, tmp_path, parts=["decoder"], formats=["onnx"]).read_text())
        assert told["parts"]["decoder"]["files"] == ["decoder.onnx", "decoder.onnx.data"]
        assert len([*tmp_path.iterdir()]) == 3
        session = onnxruntime.InferenceSession(tmp_path / "decoder.onnx", providers=["CPUExecutionProvider"])
        z = torch.randn(3, 2)
        (loc,) = session.run(["loc"], {"z": z.numpy()})
        expected = vae.decode(z).mean.detach()
        torch.testing.assert_close(torch.from_numpy(loc), expected, rtol=1e-5, atol=1e-3)

    def test_all_or_nothing(self, tmp_path, monkeypatch):
        """What was there stays where a part fails, and nothing half-written is left."""
        pv.export(fitted(), tmp_path, formats=["pt2"])
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        module = importlib.import_module("pyro_vae.export")
        write, wrong = module._write_pt2, {name: torch.zeros(5, 3) for name in ("loc", "scale")}

        def fails(recorded, path, *names):
            run = write(recorded, path, *names)
            return (lambda values: wrong) if path.stem == "decoder" else run

        monkeypatch.setattr(module, "_write_pt2", fails)
        other = cases.build(likelihood=pv.likelihoods.Normal())
        with pytest.raises(ExportError, match=r"decoder\.pt2 computes another .*, and nothing was written"):
            pv.export(other, tmp_path, formats=["pt2"])
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

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

    def test_a_network_of_one_size_of_batch(self, tmp_path):
        class Sized(nn.Linear):
            def __init__(self, n, m):
                super().__init__(n[0], m[0])

            def forward(self, x):
                return super().forward(x.reshape(len(x), -1))

        vae = pv.VAE((3,), 2, likelihood=pv.likelihoods.Normal(), encoder=Sized, decoder=pv.nets.mlp(4))
        with pytest.raises(ExportError, match=r"the encoder .* x\.shape\[0\], not len\(x\)"):
            pv.export(vae, tmp_path, formats=["pt2"])


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "only", "make"), list(variants()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_onnx_of_all(what, only, make, tmp_path):
    """Each registered likelihood, guide, prior and program that is not on the list, in onnxruntime."""
    import onnxruntime

    program = make()
    with program.evaluating():
        own = parts(program)
    chosen = [n for n in own if only in (None, n) and (what, n) not in CANNOT]
    if not chosen:
        return
    told = json.loads(pv.export(program, tmp_path, parts=chosen, formats=["onnx"]).read_text())
    for name in chosen:
        session = onnxruntime.InferenceSession(tmp_path / f"{name}.onnx", providers=["CPUExecutionProvider"])
        outputs = list(told["parts"][name]["outputs"])
        for number in (1, 3, 1000):
            inputs = own[name].inputs(number)
            with program.evaluating():
                expected = own[name](*inputs.values())
            found = session.run(outputs, {site: value.numpy() for site, value in inputs.items()})
            for key, value in zip(outputs, found, strict=True):
                torch.testing.assert_close(
                    torch.from_numpy(value), expected[key], rtol=1e-5, atol=1e-5, equal_nan=True
                )


def test_command(tmp_path, capsys, digits):
    vae = pv.VAE(digits.event_shape, 2, **cases.SMALL)
    pv.fit(vae, digits, epochs=1, folder="run", progress=False)
    assert main(["export", "run", "--output", "out", "--formats", "pt2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("export.json")
    assert main(["export", "run", "--formats", "pt2"]) == 0
    assert Path("exported", "export.json").exists()
    assert main(["export", "run", "--output", "out", "--formats", "tflite"]) == 2
