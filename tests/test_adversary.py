"""What somebody tried who wished the package ill, or held it wrongly."""

from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch import nn

import pyro_vae as pv
from pyro_vae.checkpoint import CheckpointError
from pyro_vae.checks import ConfigError
from pyro_vae.cli import main

SMALL = {"encoder": pv.nets.mlp(8), "decoder": pv.nets.mlp(8)}
QUICK = {"epochs": 1, "progress": False}


@pytest.mark.parametrize("kind", ["priors", "likelihoods", "guides"])
def test_a_file_of_compare_imports_nothing(kind, monkeypatch, capsys):
    Path("evil_for_compare.py").write_text("open('PWNED', 'w')")
    monkeypatch.syspath_prepend(Path.cwd())
    Path("c.yaml").write_text(f"{kind}: ['evil_for_compare.Foo', 'evil_for_compare.Bar']")
    assert main(["compare", "--config", "c.yaml"]) == 2
    assert not Path("PWNED").exists()


def test_a_file_does_not_say_where_to_write(capsys):
    Path("c.yaml").write_text("folder: elsewhere\nepochs: 1")
    assert main(["train", "--config", "c.yaml"]) == 2
    assert "no option folder" in capsys.readouterr().err
    assert not Path("elsewhere").exists()


class Inner(pv.Program):
    """A latent of the model's alone, beside one of both."""

    def __init__(self, shape=(6,)):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor([-2.0, 0.0, 2.0]))
        self.scale = nn.Parameter(torch.ones(()))

    def model(self, batch):
        with self.plate(batch):
            k = pyro.sample("k", dist.Categorical(torch.ones(3) / 3))
            z = pyro.sample("z", dist.Normal(self.shift[k], 1.0))
            self.sample("x", dist.Normal(z[..., None], self.scale).to_event(1), batch)

    def guide(self, batch):
        with self.plate(batch):
            pyro.sample("z", dist.Normal(batch["x"].mean(-1), 1.0))


def test_a_latent_of_the_model_alone_does_not_count():
    program, x = Inner(), torch.randn(5, 1)
    exact = torch.stack([dist.Normal(m, 2**0.5).log_prob(x[:, 0]) for m in program.shift.tolist()])
    exact = exact.logsumexp(0) - torch.tensor(3.0).log()
    found = pv.evaluate.log_likelihood(program, x, num_samples=20_000)
    torch.testing.assert_close(found.per_datum.float(), exact, atol=0.05, rtol=0)


class Outer(pv.Program):
    def __init__(self, **parts):
        super().__init__()
        self.inner = pv.VAE((6,), 2, likelihood=pv.likelihoods.Normal(scale="shared"), **SMALL, **parts)

    def model(self, batch):
        return self.inner.model(batch)

    def guide(self, batch):
        return self.inner.guide(batch)


def test_a_vae_within_a_program_meets_the_data():
    x = 100 * torch.randn(300, 6) + 1000
    x[torch.rand(300, 6) < 0.2] = float("nan")
    data = pv.data.load(x)
    run = pv.fit(Outer(), data, **QUICK)
    assert run.program.inner.initialized
    assert run.program.gaps == {"x"}
    assert run.history[-1]["validation_elbo"] > -50
    trained = run.program.inner
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    judge = Outer()
    judge.inner = trained
    judge.initialize(pv.data.load(torch.randn(100, 6)).train)
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())


def test_gaps_in_double_precision():
    x = torch.randn(200, 6, dtype=torch.float64)
    x[torch.rand(200, 6) < 0.2] = float("nan")
    vae = pv.VAE((6,), 2, likelihood=dist.Laplace, **SMALL).double()
    pv.fit(vae, pv.data.load(x), **QUICK)
    assert {p.dtype for p in vae.parameters()} == {torch.float64}


def test_pyro_param_is_refused():
    class Mine(Inner):
        def model(self, batch):
            pyro.param("a", torch.tensor(1.0), constraint=constraints.positive)
            return super().model(batch)

    with pytest.raises(ConfigError, match=r"'a' by pyro.param"):
        pv.fit(Mine(), pv.data.load(torch.randn(50, 1)), **QUICK)


def test_missing_values_that_the_model_does_not_leave_out():
    class Mine(Inner):
        def model(self, batch):
            with self.plate(batch):
                z = pyro.sample("z", dist.Normal(0.0, self.scale))
                pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=batch["x"])

    x = torch.randn(50, 1)
    x[::5] = float("nan")
    with pytest.raises(pv.data.DataError, match=r"self.sample\('x'"):
        pv.fit(Mine(), pv.data.load(x), **QUICK)


def test_columns_that_single_precision_does_not_resolve():
    x = torch.stack([1e8 + torch.rand(100, dtype=torch.float64), 1e4 * torch.rand(100).double()], 1)
    with pytest.raises(pv.data.DataError, match="column 0 of the training data"):
        pv.fit(pv.VAE((2,), 1, likelihood=pv.likelihoods.Normal(), **SMALL), pv.data.load(x), **QUICK)


def test_weights_of_another_likelihood_are_refused():
    pv.fit(
        pv.VAE((6,), 2, likelihood=dist.Laplace, **SMALL),
        pv.data.load(torch.randn(60, 6)),
        folder="run",
        **QUICK,
    )
    for parts in ({"likelihood": dist.Logistic}, {"likelihood": dist.Laplace, "guide": dist.Laplace}):
        with pytest.raises(CheckpointError, match="is a run with"):
            pv.load("run", program=pv.VAE((6,), 2, **parts, **SMALL))


def test_what_is_given():
    cvae = pv.ConditionalVAE((6,), given={"y": 3, "c": (3,)}, latent_dim=2, **SMALL)
    for number in (1, 2, 3):
        drawn = cvae.generate(number, given={"c": [1.0, 2.0, 3.0], "y": 2})
        assert drawn["x"].shape == (number, 6)
    assert cvae.generate(3, given={"y": [0, 1, 2]})["x"].shape == (3, 6)
    for wrong in (1.9, -0.5, "a", None, float("nan"), 3, [0, 1]):
        with pytest.raises(pv.data.DataError, match=r"(give classes|knows numbers alone,) from 0 to 2"):
            cvae.generate(3, given={"y": wrong})
