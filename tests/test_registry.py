import functools
import sys
from pathlib import Path

import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from cases import GUIDES, LIKELIHOODS, NUMBERS, PRIORS
from torch import nn
from torch.optim import lr_scheduler

import pyro_vae as pv
from pyro_vae import registry
from pyro_vae.checks import ConfigError
from pyro_vae.registry import options, read, write


class Net(nn.Module):
    def __init__(self, in_shape, out_shape, width: int = 3):
        super().__init__()
        self.width = width


def net_function(in_shape, out_shape, bias: bool = True) -> nn.Module:
    return nn.Linear(in_shape[0], out_shape[0], bias=bias)


class Halved(dist.Normal):
    """A family of one's own."""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of somebody's own, which tells when it is imported, and so does all that it could run."""
    (tmp_path / "their_module.py").write_text(
        "import os, subprocess\n"
        "from pathlib import Path\n"
        "from subprocess import Popen\n"
        "import pyro.distributions as dist\n"
        "from torch import nn\n"
        "Path('imported').touch()\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, in_shape, out_shape, width: int = 3):\n"
        "        super().__init__()\n"
        "        self.width = width\n"
        "class Outer:\n"
        "    class Inner(Net): pass\n"
        "class Family(dist.Laplace): pass\n"
        "def net(in_shape, out_shape): return nn.Flatten()\n"
        "def run(*args, **kwargs): Path('ran').touch()\n"
        "class Runs:\n"
        "    def __init__(self, *args, **kwargs): run()\n"
        "rate = lambda epoch: 0.1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_module", raising=False)
    yield lambda name: Path(name).exists()
    sys.modules.pop("their_module", None)


class TestRoundTrip:
    @pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
    def test_priors(self, prior):
        again = read("prior", write(prior))
        assert write(again) == write(prior)
        given, made = (getattr(p, "distribution", p) for p in (prior, again))
        if isinstance(given, dist.Distribution):
            x = given.sample()
            assert torch.equal(given.log_prob(x), made.log_prob(x))

    @pytest.mark.parametrize(
        "prior",
        [
            lambda: dist.Uniform(-1.0, 2.0),
            lambda: dist.Uniform(torch.tensor([-1.0, -2.0, 0.0, 1.0]), 2.0),
            lambda: dist.OneHotCategorical(torch.tensor([0.1, 0.2, 0.3, 0.4])),
            lambda: dist.OneHotCategorical(logits=torch.tensor([0.1, 0.2, 0.3, 0.4])),
            lambda: dist.RelaxedBernoulli(torch.tensor(0.5), torch.tensor(0.3)),
            lambda: dist.Bernoulli(logits=torch.tensor(0.3)),
            lambda: dist.MultivariateNormal(torch.zeros(4), torch.eye(4) + 0.5),
        ],
        ids=lambda prior: prior().__class__.__name__,
    )
    @pytest.mark.usefixtures("double")
    def test_a_prior_of_pyro_holds_the_same_numbers(self, prior):
        """By which weights that were learned under it are told from others."""
        states = []
        for p in (prior(), read("prior", write(prior()))):
            family = pv.priors.as_prior(p)
            family.setup((4,))
            states.append(family.state_dict())
        assert states[0].keys() == states[1].keys()
        for name, value in states[0].items():
            torch.testing.assert_close(value, states[1][name], rtol=1e-15, atol=1e-15)
        family.load_state_dict(states[0])

    @pytest.mark.parametrize(
        ("kind", "part"),
        [("likelihood", part) for part in LIKELIHOODS.values()]
        + [("guide", part) for part in GUIDES.values()],
        ids=lambda part: part if isinstance(part, str) else repr(part),
    )
    def test_families(self, kind, part):
        text = write(part)
        assert text == repr(part)
        again = read(kind, text)
        assert repr(again) == text
        assert type(again) is type(part)

    @pytest.mark.parametrize(
        "net",
        [
            pv.nets.mlp(3, 4),
            pv.nets.mlp(),
            pv.nets.conv(8, hidden_dim=5),
            pv.nets.mlp(3, activation=nn.Tanh),
            pv.nets.MLP,
            functools.partial(pv.nets.Conv, channels=[4]),
        ],
        ids=write,
    )
    def test_nets(self, net):
        again = read("encoder", write(net))
        assert write(again) == write(net)
        assert repr(again((1, 4, 4), (6,))) == repr(net((1, 4, 4), (6,)))

    @pytest.mark.parametrize(
        "optimizer",
        [torch.optim.Adam, torch.optim.RMSprop, functools.partial(torch.optim.SGD, momentum=0.9)],
        ids=write,
    )
    def test_optimizers(self, optimizer):
        built = read("optimizer", write(optimizer))
        p = [nn.Parameter(torch.zeros(3))]
        made, expected = built(p, 0.1), optimizer(p, 0.1)
        assert type(made) is type(expected)
        assert made.defaults == expected.defaults

    @pytest.mark.parametrize(
        "loss",
        [
            pyro.infer.Trace_ELBO(),
            pyro.infer.TraceMeanField_ELBO(num_particles=3),
            pyro.infer.RenyiELBO(alpha=0.5, num_particles=4, vectorize_particles=True),
            pyro.infer.ReweightedWakeSleep(num_particles=3, vectorize_particles=True),
        ],
        ids=write,
    )
    def test_losses(self, loss):
        built = read("loss", write(loss))
        assert type(built) is type(loss)
        assert write(built) == write(loss)
        kept = {name: value for name, value in vars(loss).items() if isinstance(value, int | float | str)}
        assert {name: vars(built)[name] for name in kept} == kept

    @pytest.mark.parametrize(
        "schedule",
        [
            functools.partial(lr_scheduler.CosineAnnealingLR, T_max=5),
            functools.partial(lr_scheduler.ReduceLROnPlateau, mode="min", factor=0.5),
            functools.partial(lr_scheduler.MultiStepLR, milestones=[2, 3]),
        ],
        ids=write,
    )
    def test_schedules(self, schedule):
        built = read("schedule", write(schedule))
        assert (built.func, built.keywords) == (schedule.func, schedule.keywords)

    def test_every_name_of_a_family(self):
        for kind in ("likelihood", "guide"):
            for name in {*registry.names(kind)} - {"Auto", "ByColumn"}:  # of tables: test_rows
                numbers = ", ".join(f"{key}={value}" for key, value in NUMBERS.get(name, {}).items())
                part = read(kind, f"{name}({numbers})")
                assert repr(read(kind, write(part))) == repr(part)

    def test_ones_own(self):
        for part in (
            Net,
            net_function,
            functools.partial(Net, width=9),
            functools.partial(net_function, bias=False),
        ):
            text = write(part)
            assert text.startswith("test_registry.")
            again = read("encoder", text, trust=["test_registry"])
            assert write(again) == text
            assert type(again((2,), (2,))) is type(part((2,), (2,)))

    def test_a_family_of_ones_own(self):
        assert read("likelihood", "test_registry.Halved", trust="*") is Halved
        part = read("likelihood", "test_registry.Halved(scale='shared')", trust="*")
        assert write(part) == "test_registry.Halved(scale='shared')"
        assert part.family is Halved

    @pytest.mark.parametrize(
        "part",
        [lambda i, o: nn.Linear(i[0], o[0]), type("Local", (Net,), {"__qualname__": "f.<locals>.Local"})],
    )
    def test_what_has_no_name_is_refused(self, part):
        with pytest.raises(ConfigError, match="pass the object again"):
            read("encoder", write(part), trust="*")

    @pytest.mark.parametrize("keyword", ["probs", "logits"])
    def test_probs_and_logits_are_told_apart(self, keyword):
        p = dist.Binomial(total_count=3, **{keyword: torch.tensor(0.3)})
        _ = p.probs, p.logits
        assert write(p) == f"Binomial(total_count=3.0, {keyword}=0.3)"

    def test_matrices_that_were_computed_are_told_apart(self):
        p = dist.MultivariateNormal(torch.zeros(2), torch.tensor([[2.0, 0.5], [0.5, 1.0]]))
        _ = p.precision_matrix, p.scale_tril
        torch.testing.assert_close(read("prior", write(p)).covariance_matrix, p.covariance_matrix)

    def test_numbers_are_short_and_exact(self):
        p = dist.Laplace(torch.tensor([0.1, 1e-30, 1 / 3]), torch.tensor(2.0))
        assert write(p) == "Laplace(loc=[0.1, 1e-30, 0.33333334], scale=[2.0, 2.0, 2.0])"
        assert torch.equal(read("prior", write(p)).loc, p.loc)

    def test_distributions_within_distributions(self):
        for text in (
            "MixtureSameFamily(Categorical([0.3, 0.7]), Independent(Normal([[0.], [2.]], [[1.], [2.]]), 1))",
            "MixtureSameFamily(Categorical([0.3, 0.7]), Normal([[0.], [2.]], [[1.], [2.]]).to_event(1))",
            "TransformedDistribution(Normal(0.0, 1.0), [ExpTransform(), AffineTransform(1.0, 2.0)])",
            "Gamma(2.0, 1.0).expand([3]).to_event(1)",
            "Fixed(Normal(1.0, 2.0))",
        ):
            part = read("prior", text)
            assert write(read("prior", write(part))) == write(part)


class TestRead:
    def test_short_names(self):
        assert isinstance(read("likelihood", "normal"), type(pv.likelihoods.Normal()))
        assert read("prior", "Normal").arguments() == {}
        assert isinstance(read("prior", "laplace(0, 1)"), dist.Laplace)
        assert read("optimizer", "adamw") is torch.optim.AdamW
        assert read("model", "conditionalvae") is pv.ConditionalVAE
        assert isinstance(read("loss", "Trace_ELBO"), pyro.infer.Trace_ELBO)

    def test_all_offered_are_of_their_kind(self):
        for kind in ("prior", "likelihood", "guide", "encoder", "optimizer", "loss", "schedule", "model"):
            known = registry.names(kind)
            assert known
            assert not [
                name for name, part in known.items() if not callable(part) or part in registry.UNUSABLE
            ]
        assert {"VampPrior", "Laplace"} <= registry.names("prior").keys()
        assert "JitTrace_ELBO" not in registry.names("loss")

    @pytest.mark.parametrize(
        ("kind", "text", "message"),
        [
            ("loss", "Renyi_ELBO", "did you mean RenyiELBO"),
            ("encoder", "mlpp", "did you mean mlp"),
            ("encoder", "mlp(3.5)", r"3\.5 must be a whole number"),
            ("encoder", "mlp(3, activation='Tanh')", "must be a class, by its name without quotes"),
            ("encoder", "mlp(3, activation=Tanhh)", "did you mean Tanh"),
            ("encoder", "Conv(channels=8)", "channels=8 must be a list, each a whole number"),
            ("encoder", "Conv([8])", "by name"),
            ("encoder", "Conv(chanels=[8])", "did you mean channels"),
            ("encoder", "os.getcwd", "not trusted"),
            ("prior", "VampPrior('many')", "components='many' must be a whole number"),
            ("prior", "VampPrior(components=True)", "True must be a whole number"),
            ("prior", "Laplace()", "missing a required argument: 'loc'"),
            ("prior", "Laplace(loc='low', scale=1.0)", "loc='low' must be a Tensor or a number"),
            ("prior", "Flow(transform='affine')", "affine_coupling"),
            ("likelihood", "Normal(scale=shared)", 'a text is written "shared"'),
            ("likelihood", "Normal(scale='big')", "network"),
            ("optimizer", "LBFGS", "no optimizer is named LBFGS"),
            ("optimizer", "SGD(momentum='much')", "momentum='much' must be a number"),
            ("prior", "", "no name and no call"),
            ("prior", "Laplace(1.0", "no name and no call"),
            ("prior", "Laplace(*[1, 2])", "no plain value"),
            ("prior", "Laplace(1 + 1, 2)", "no plain value"),
            ("prior", "Laplace(0.0, 1.0).sample()", r"\.sample is not known"),
            ("prior", 3, "prior=3 must be a text"),
        ],
    )
    def test_mistakes_are_named(self, kind, text, message):
        with pytest.raises(ConfigError, match=message):
            read(kind, text)


class TestTrust:
    def test_nothing_is_imported_untold(self, own):
        with pytest.raises(ConfigError, match=r'trust=\["their_module"\] \(--trust their_module\)'):
            read("encoder", "their_module.Net(width=300)")
        with pytest.raises(ConfigError, match="not trusted"):
            read("encoder", "their_module.Net", trust=["their", "other.their_module"])
        assert not own("imported")

    @pytest.mark.parametrize("trust", [["their_module"], "their_module", "*"])
    def test_what_is_trusted_is_imported(self, own, trust):
        built = read("encoder", "their_module.Net(width=300)", trust)
        assert built((1,), (1,)).width == 300
        assert read("encoder", "their_module.Outer.Inner", trust).__name__ == "Inner"
        assert isinstance(read("encoder", "their_module.net", trust)((1,), (1,)), nn.Flatten)
        assert isinstance(read("prior", "their_module.Family(0.0, 1.0)", trust), dist.Laplace)
        assert read("encoder", "mlp(3, activation=their_module.Net)", trust)
        assert own("imported")

    @pytest.mark.parametrize(
        ("kind", "text"),
        [
            ("prior", "their_module.run('x')"),
            ("prior", "their_module.Runs()"),
            ("loss", "their_module.Runs()"),
            ("encoder", "their_module.Runs(1)"),
            ("encoder", "their_module.subprocess.Popen(args='touch ran')"),
            ("encoder", "their_module.Popen"),
            ("encoder", "their_module.nn.Linear"),
            ("encoder", "mlp(3, activation=their_module.Popen)"),
            ("encoder", "their_module.os.system"),
            ("encoder", "their_module.nothing"),
            ("function", "their_module.Path"),
            ("model", "their_module.run"),
        ],
    )
    def test_trusted_modules_give_their_own_parts_alone(self, own, kind, text):
        """What they import for themselves, or could run, is not reached through them."""
        with pytest.raises(ConfigError):
            read(kind, text, trust=["their_module"])
        assert not own("ran")

    def test_a_module_that_fails(self, tmp_path, monkeypatch):
        (tmp_path / "broken_module.py").write_text("1 / 0")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ConfigError, match="division by zero"):
            read("encoder", "broken_module.Net", trust="*")
        with pytest.raises(ConfigError, match="No module named"):
            read("encoder", "no_such_module.Net", trust="*")

    @pytest.mark.parametrize(
        "text",
        [
            "__import__('their_module')",
            "__import__('os').system('touch ran')",
            "(lambda: __import__('their_module'))()",
            "[c for c in ().__class__.__base__.__subclasses__()]",
            "Laplace(loc=__import__('their_module'), scale=1.0)",
            "Laplace(loc=their_module.run(), scale=1.0)",
            "Laplace(0.0, 1.0).__class__.__base__",
            "Laplace(0.0, 1.0).to_event.__globals__",
            "Normal.__init__.__globals__",
            "Fixed({'class_path': 'their_module.run'})",
            "Fixed('their_module.run')",
            "exec('import their_module')",
            "their_module",
            "Laplace(" * 500,
            "[" * 5000 + "]" * 5000,
            "-" * 100_000 + "1",
            "a" + "()" * 100_000,
            "a" + ".a" * 100_000,
            "Laplace(" + "-" * 800 + "1, 2)",
            "f'{their_module.run()}'",
            "Laplace(f'{their_module}', 1)",
        ],
        ids=lambda text: text[:40],
    )
    @pytest.mark.parametrize("kind", ["prior", "encoder", "optimizer", "loss", "model", "function"])
    def test_code_is_refused(self, own, kind, text):
        with pytest.raises(ConfigError):
            read(kind, text)
        assert not own("imported")
        assert not own("ran")


class TestOptions:
    def test_merge_into_a_text(self):
        extra = {"df": "4", "scale": "shared", "loc": "-1e-3"}
        assert options("StudentT", extra) == "StudentT(df=4, scale='shared', loc=-0.001)"
        assert options("StudentT(df=2.0)", {"df": "4"}) == "StudentT(df=4)"
        assert options("mlp(3)", {"activation": "ReLU"}) == "mlp(3, activation=ReLU)"
        assert options("Normal", {"learned": "true"}) == "Normal(learned=True)"
        assert options("Flow", {"transform": "affine-coupling"}) == "Flow(transform='affine-coupling')"
        assert options("Fixed", {"distribution": "Laplace(0, inf)"}) == "Fixed(distribution=Laplace(0, inf))"
        assert options("Conv", {"channels": "[8, 16]"}) == "Conv(channels=[8, 16])"
        assert options("VampPrior(500)", {}) == "VampPrior(500)"

    def test_plain(self):
        values = {
            "1": 1,
            "1e-3": 1e-3,
            "true": True,
            "null": None,
            "[1, 2]": [1, 2],
            "fast": "fast",
            "a.b": "a.b",
        }
        assert {text: registry.plain(text) for text in values} == values
        for text in ("b'a'", "1j", "...", "{1, 2}", "1e999", "9" * 30, "[" * 90 + "]" * 90, "1 +", "f(1)"):
            assert registry.plain(text) == text
        assert registry.plain(2.5) == 2.5
