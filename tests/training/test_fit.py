import csv
import functools
import math
import os
from pathlib import Path

import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from runs import FIT, interrupt_at, same
from torch import nn

import pyro_vae as pv
from pyro_vae.checks import ConfigError
from pyro_vae.svi import SVI, NonFiniteLossError
from pyro_vae.training import Interrupted
from pyro_vae.training.opening import make_optimizer


class TestFit:
    def test_learns(self, make_vae, digits):
        run = pv.fit(make_vae(), digits, epochs=30, lr=5e-3, progress=False)
        x, mean = digits.validation[:], digits.train.moments()[0].float().clamp(1e-3, 1 - 1e-3)
        independent = dist.Bernoulli(mean).log_prob(x).flatten(1).sum(1).mean().item()
        assert run.history[-1]["validation_elbo"] > independent + 1
        assert not run.program.training
        assert run.folder is None
        assert not os.listdir(), "without a folder nothing is written"

    def test_history(self, make_vae, digits):
        run = pv.fit(make_vae(), digits, **FIT, folder="run")
        assert [row["epoch"] for row in run.history] == [1, 2, 3, 4]
        assert [row["steps"] for row in run.history] == [4, 8, 12, 16]
        for row in run.history:
            assert row["elbo"] == pytest.approx(-(row["reconstruction"] + row["kl"]))
            assert row["validation_elbo"] == pytest.approx(
                -(row["validation_reconstruction"] + row["validation_kl"])
            )
            assert row["kl"] >= 0
        with (run.folder / "history.csv").open() as file:
            rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
        assert rows == run.history
        final = pv.evaluate.elbo(run.program, digits.validation, num_samples=1)
        assert final.elbo == run.history[-1]["validation_elbo"]

    def test_seed_decides_everything(self, make_vae, digits):
        runs = [
            pv.fit(make_vae(), digits, **FIT, seed=seed, folder=f"run{i}") for i, seed in enumerate((3, 3, 4))
        ]
        a, b, c = (run.program.state_dict() for run in runs)
        assert same(a, b)
        assert not same(a, c)

    def test_callers_generator_is_left(self, make_vae, digits):
        vae, state = make_vae(), torch.get_rng_state()
        pv.fit(vae, digits, **FIT, folder="run")
        assert torch.equal(torch.get_rng_state(), state)

    def test_validation_does_not_touch_training(self, make_vae, digits):
        state = {}
        for i, fraction in enumerate((0.1, 0.0)):
            data = pv.data.load(digits.train[:400], validation=0.0, test=0.0)
            if fraction:
                data.validation = digits.validation
            state[i] = pv.fit(make_vae(), data, **FIT, folder=f"run{i}").program.state_dict()
        assert same(state[0], state[1])

    def test_training_again_keeps_what_was_learnt(self, make_vae, digits):
        vae = make_vae()
        first = pv.fit(vae, digits, epochs=20, folder="one", progress=False)
        second = pv.fit(vae, digits, epochs=1, lr=1e-5, folder="two", progress=False)
        assert second.history[0]["elbo"] > first.history[10]["elbo"]

    @pytest.mark.parametrize(
        "optimizer",
        [
            torch.optim.RMSprop,
            functools.partial(torch.optim.SGD, momentum=0.5),
            torch.optim.AdamW,
            torch.optim.Adagrad,
        ],
    )
    def test_any_optimizer(self, make_vae, digits, optimizer):
        run = pv.fit(make_vae(), digits, **FIT, lr=1e-2, optimizer=optimizer)
        assert run.history[-1]["loss"] < run.history[0]["loss"]

    def test_optimizer_is_fused(self, make_vae):
        made = make_optimizer(torch.optim.Adam, make_vae(), 0.1)
        assert made.param_groups[0]["fused"] is True
        assert made.param_groups[0]["lr"] == 0.1
        unfused = functools.partial(torch.optim.Adam, fused=False)
        assert make_optimizer(unfused, make_vae(), 0.1).param_groups[0]["fused"] is False

    def test_optimizers_that_do_not_fit(self, make_vae, digits):
        for optimizer, message in [
            (functools.partial(torch.optim.Adam, lr=1e-3), "give it to fit"),
            (torch.optim.LBFGS, "LBFGS does not fit"),
        ]:
            with pytest.raises(ConfigError, match=message):
                pv.fit(make_vae(), digits, optimizer=optimizer)
        with pytest.raises(ConfigError, match=r"JitTrace_ELBO\(\) does not fit"):
            pv.fit(make_vae(), digits, loss=pyro.infer.JitTrace_ELBO())
        foreach = functools.partial(torch.optim.Adam, foreach=True)
        assert not make_optimizer(foreach, make_vae(), 0.1).param_groups[0]["fused"]

    @pytest.mark.parametrize(
        "loss",
        [
            pyro.infer.TraceMeanField_ELBO(),
            pyro.infer.RenyiELBO(alpha=0, num_particles=3, vectorize_particles=True),
            pyro.infer.ReweightedWakeSleep(num_particles=3, vectorize_particles=True),
        ],
        ids=lambda loss: type(loss).__name__,
    )
    def test_any_elbo(self, make_vae, digits, loss):
        run = pv.fit(make_vae(), digits, **FIT, loss=loss, folder="run")
        assert run.history[-1]["elbo"] > run.history[0]["elbo"]

    def test_warmup(self, make_vae, digits):
        """With next to no learning, runs with and without differ in the loss alone."""
        options = FIT | {"lr": 1e-12, "loss": pyro.infer.TraceMeanField_ELBO()}
        with_warmup = pv.fit(make_vae(), digits, **options, warmup_epochs=2, folder="with").history
        without = pv.fit(make_vae(), digits, **options, folder="without").history
        assert [row["beta"] for row in with_warmup] == [0.5, 1.0, 1.0, 1.0]
        assert [row["beta"] for row in without] == [1.0, 1.0, 1.0, 1.0]
        sizes = torch.tensor([400, 400, 400, 255]) / 1455
        mean_beta = [((torch.arange(4) + first) / 8 * sizes).sum().item() for first in (1, 5)] + [1.0, 1.0]
        for row, plain, beta in zip(with_warmup, without, mean_beta, strict=True):
            for name in ("elbo", "reconstruction", "kl", "validation_elbo"):
                assert row[name] == pytest.approx(plain[name], rel=1e-6)
            assert row["loss"] == pytest.approx(row["reconstruction"] + beta * row["kl"], rel=2e-3)

    def test_beta(self, make_vae):
        """With a Normal of variance s the objective is beta times the ELBO's of variance beta s."""
        data = pv.data.load(torch.randn(300, 2) @ torch.randn(2, 5))
        options = FIT | {"epochs": 20, "batch_size": 50, "loss": pyro.infer.TraceMeanField_ELBO()}
        rows = []
        for scale, beta in ((1.0, 1.0), (0.5, 4.0)):
            vae = make_vae((5,), likelihood=pv.likelihoods.Normal(scale=scale))
            rows.append(pv.fit(vae, data, **options, beta=beta, folder=str(beta)).history[-1])
            assert rows[-1]["beta"] == beta
            objective = rows[-1]["reconstruction"] + beta * rows[-1]["kl"]
            assert rows[-1]["loss"] == pytest.approx(objective, rel=1e-3)
        assert rows[0]["kl"] > 0.1
        assert rows[1]["kl"] == pytest.approx(rows[0]["kl"], rel=1e-3)  # Adam does not see the factor
        vae = make_vae((5,), likelihood=pv.likelihoods.Normal())
        warmed = pv.fit(vae, data, **options, beta=4.0, warmup_epochs=2, folder="warmed").history
        assert [row["beta"] for row in warmed[:3]] == [2.0, 4.0, 4.0]

    def test_learning_rate_schedule(self, make_vae, digits):
        run = pv.fit(make_vae(), digits, **FIT, lr=0.01, schedule="linear", folder="run")
        assert [row["lr"] for row in run.history] == pytest.approx(
            [0.01 * (1 - k / 16) for k in (3, 7, 11, 15)]
        )
        run = pv.fit(make_vae(), digits, **FIT, lr=0.01, schedule="constant", folder="other")
        assert {row["lr"] for row in run.history} == {0.01}

    def test_early_stopping_restores_the_best_weights(self, make_vae, uncompiled):
        """A large net on 40 data overfits; the weights kept are those of the best epoch."""
        data = pv.data.load(pv.data.load("digits").train[:80], validation=0.5, test=0.0)
        vae = make_vae(encoder=pv.nets.mlp(100), decoder=pv.nets.mlp(100), likelihood=pv.likelihoods.Normal())
        run = pv.fit(
            vae, data, epochs=2000, batch_size=40, lr=5e-3, patience=10, folder="run", progress=False
        )
        elbos = [row["validation_elbo"] for row in run.history]
        best = max(elbos)
        assert len(elbos) == elbos.index(best) + 1 + 10 < 2000
        assert pv.evaluate.elbo(run.program, data.validation, num_samples=1).elbo == best > elbos[-1]
        assert pv.evaluate.elbo(pv.load("run"), data.validation, num_samples=1).elbo == best
        assert "stopped early" in (run.folder / "log.txt").read_text()

    def test_early_stopping_waits_for_the_warmup(self, make_vae, digits):
        run = pv.fit(
            make_vae(),
            digits,
            epochs=9,
            batch_size=400,
            lr=1e-12,
            warmup_epochs=5,
            patience=2,
            folder="run",
            progress=False,
        )
        assert 7 <= len(run.history) < 9

    def test_float64(self, make_vae, digits):
        run = pv.fit(make_vae().double(), digits, **FIT, folder="run")
        assert run.program.dtype == torch.float64
        assert pv.load("run").dtype == torch.float64

    def test_tensorboard(self, make_vae, digits):
        loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        run = pv.fit(make_vae(), digits, **FIT, folder="run")
        events = loader.EventAccumulator(str(run.folder / "tensorboard"))
        events.Reload()
        values = [event.value for event in events.Scalars("validation_elbo")]
        assert values == pytest.approx([row["validation_elbo"] for row in run.history])

    def test_tabular_data_far_from_zero(self):
        """Units do not matter: data with mean 5000 and deviation 300 train as standardised ones do."""
        torch.manual_seed(0)
        z = torch.randn(1000, 1)
        x = z @ torch.tensor([[1.0, -1.0, 0.5]]) + 0.1 * torch.randn(1000, 3)
        elbos = []
        for scale, shift in ((1.0, 0.0), (300.0, 5000.0)):
            torch.manual_seed(1)
            data = pv.data.load(scale * x + shift)
            vae = pv.VAE(
                (3,),
                2,
                likelihood=pv.likelihoods.Normal(scale="shared"),
                encoder=pv.nets.mlp(20),
                decoder=pv.nets.mlp(20),
            )
            run = pv.fit(vae, data, epochs=20, batch_size=50, folder=f"run{scale}", progress=False)
            elbos.append(run.history[-1]["validation_elbo"])
        assert elbos[1] == pytest.approx(elbos[0] - 3 * math.log(300), abs=0.1)

    def test_what_is_no_program_or_data(self, make_vae, digits):
        with pytest.raises(TypeError, match=r"pv.data.load\(x\)"):
            pv.fit(make_vae(), torch.zeros(3, 1, 8, 8))
        with pytest.raises(TypeError, match=r"pv.data.load\(x\)"):
            pv.fit(make_vae(), digits.train)
        with pytest.raises(TypeError, match="such as pv"):
            pv.fit(nn.Linear(2, 2), digits)
        with pytest.raises(TypeError, match="callback='x'"):
            pv.fit(make_vae(), digits, callback="x")
        with pytest.raises(ConfigError, match="needs the folder"):
            pv.fit(make_vae(), digits, resume=True)
        with pytest.raises(ConfigError, match="needs validation data"):
            pv.fit(make_vae(), pv.data.load(digits.train[:100], validation=0.0), patience=3)

    def test_settings_are_told_in_its_help(self):
        for name, sentence in pv.training.Settings.documentation().items():
            assert f"{name}=" in pv.fit.__doc__
            assert sentence[:60] in " ".join(pv.fit.__doc__.split())

    def test_parts_by_name(self, make_vae, digits):
        run = pv.fit(
            make_vae(),
            digits,
            **FIT,
            loss="TraceMeanField_ELBO",
            optimizer="SGD(momentum=0.5)",
            folder="run",
        )
        values = pv.checkpoint.read_config(run.folder)
        assert (values["loss"], values["optimizer"]) == ("TraceMeanField_ELBO()", "SGD(momentum=0.5)")

    def test_shows_itself(self, make_vae, digits):
        run = pv.fit(make_vae(), digits, **FIT)
        assert repr(run).startswith("Run(VAE on digits: epoch 4, elbo -")
        assert "<table>" in run._repr_html_()


class TestCallback:
    def test_sees_each_epoch_and_may_stop(self, make_vae, digits):
        seen = []

        def callback(epoch, metrics, program):
            assert not program.training
            seen.append((epoch, metrics["elbo"]))
            return epoch == 2

        run = pv.fit(make_vae(), digits, **FIT, callback=callback, folder="run")
        assert seen == [(row["epoch"], row["elbo"]) for row in run.history]
        assert len(run.history) == 2
        assert "stopped by the callback after epoch 2" in (run.folder / "log.txt").read_text()
        assert len(pv.resume("run", progress=False).history) == 2

    @pytest.mark.parametrize("more", [{}, {"lr": 0.3, "patience": 1, "epochs": 9}])
    def test_sees_the_last_epoch(self, make_vae, digits, more):
        """Whether they are all done or it stops early, so that a tracker has each row of the history."""
        seen = []
        options = FIT | more | {"callback": lambda epoch, row, program: seen.append(row)}
        run = pv.fit(make_vae(), digits, **options)
        assert seen == run.history

    def test_changes_no_bits(self, make_vae, digits):
        def callback(epoch, metrics, program):
            torch.rand(7)
            program.generate(3)

        runs = [pv.fit(make_vae(), digits, **FIT, callback=c) for c in (None, callback)]
        assert same(*(run.program.state_dict() for run in runs))

    def test_stop_restores_the_best_weights(self, make_vae, digits):
        run = pv.fit(make_vae(), digits, **FIT, lr=0.3, patience=10, callback=lambda epoch, *_: epoch == 3)
        best = max(row["validation_elbo"] for row in run.history)
        assert pv.evaluate.elbo(run.program, digits.validation, num_samples=1).elbo == best

    def test_an_error_in_it_loses_nothing(self, make_vae, digits):
        def callback(epoch, metrics, program):
            if epoch == 3:
                raise RuntimeError("mine")

        with pytest.raises(RuntimeError, match="mine"):
            pv.fit(make_vae(), digits, **FIT, callback=callback, folder="run")
        resumed = pv.resume("run", progress=False)
        assert same(resumed.program.state_dict(), pv.fit(make_vae(), digits, **FIT).program.state_dict())


class Pair(pv.Program):
    """A program as a user would write it: two latents, two observed sites, plain modules."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 4))
        self.decoder = nn.Linear(2, 3)
        self.count = nn.Linear(1, 1)

    def model(self, batch):
        with self.plate(batch):
            u = self.sample("u", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            v = self.sample("v", dist.Normal(u, 1.0).to_event(1))
            self.sample("x", dist.Normal(self.decoder(torch.cat([u, v], -1)), 1.0).to_event(1), batch)
            self.sample("n", dist.Poisson(self.count(u).exp()).to_event(1), batch)

    def guide(self, batch):
        with self.plate(batch):
            loc, raw = self.encoder(torch.cat([batch["x"], batch["n"]], -1)).chunk(2, -1)
            scale = nn.functional.softplus(raw)
            self.sample("u", dist.Normal(loc[..., :1], scale[..., :1]).to_event(1))
            self.sample("v", dist.Normal(loc[..., 1:], scale[..., 1:]).to_event(1))


@pytest.fixture
def pairs():
    torch.manual_seed(0)
    u = torch.randn(400, 1)
    x = u + 0.5 * torch.randn(400, 3)
    return pv.data.load({"x": x, "n": torch.poisson(u.exp())})


class TestAnyProgram:
    def test_of_ones_own(self, pairs):
        torch.manual_seed(1)
        run = pv.fit(Pair(), pairs, epochs=5, batch_size=50, lr=1e-2, folder="run", progress=False)
        first, last = run.history[0], run.history[-1]
        assert last["elbo"] > first["elbo"] + 0.3
        for prefix in ("", "validation_"):
            assert last[f"{prefix}kl"] == pytest.approx(last[f"{prefix}kl_u"] + last[f"{prefix}kl_v"])
            parts = last[f"{prefix}reconstruction_x"] + last[f"{prefix}reconstruction_n"]
            assert last[f"{prefix}reconstruction"] == pytest.approx(parts)
            assert last[f"{prefix}elbo"] == pytest.approx(-last[f"{prefix}kl"] - parts)
        with pytest.raises(ConfigError, match="program=program"):
            pv.load("run")
        assert same(pv.load("run", program=Pair()).state_dict(), run.program.state_dict())
        assert isinstance(pv.load("run", trust=[Pair.__module__]), Pair)

    def test_is_resumed(self, pairs, monkeypatch):
        options = {"epochs": 3, "batch_size": 100, "progress": False}

        def make():
            torch.manual_seed(1)
            return Pair()

        whole = pv.fit(make(), pairs, **options)
        with monkeypatch.context() as patch:
            interrupt_at(patch, 5)
            with pytest.raises(Interrupted):
                pv.fit(make(), pairs, **options, folder="broken")
        resumed = pv.resume("broken", program=make(), data=pairs, progress=False)
        assert same(whole.program.state_dict(), resumed.program.state_dict())
        assert [sorted(row) for row in resumed.history] == [sorted(row) for row in whole.history]

    def test_compiled(self, pairs):
        histories = []
        for compile in (False, True):
            torch.manual_seed(1)
            run = pv.fit(Pair(), pairs, epochs=3, batch_size=54, compile=compile, progress=False)
            histories.append(run.history)
        for one, other in zip(*histories, strict=True):
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)

    def test_a_condition(self, digits):
        vae = pv.ConditionalVAE(
            digits.event_shape,
            given={"y": 10},
            latent_dim=2,
            encoder=pv.nets.mlp(16),
            decoder=pv.nets.mlp(16),
        )
        run = pv.fit(vae, digits, **FIT, folder="run")
        assert run.history[-1]["elbo"] > run.history[0]["elbo"]
        again = pv.load("run")
        assert again.options["given"] == {"y": 10}
        assert pv.evaluate.elbo(again, digits.test) == pv.evaluate.elbo(vae, digits.test)

    def test_levels(self, digits):
        vae = pv.HierarchicalVAE(digits.event_shape, (3, 2), encoder=pv.nets.mlp(16), decoder=pv.nets.mlp(16))
        run = pv.fit(vae, digits, **FIT, folder="run")
        row = run.history[-1]
        assert row["kl"] == pytest.approx(row["kl_z1"] + row["kl_z2"])
        assert "reconstruction_x" not in row
        again = pv.load("run")
        assert again.options["latent_dims"] == (3, 2)
        assert pv.evaluate.elbo(again, digits.test) == pv.evaluate.elbo(vae, digits.test)

    def test_missing_values(self, make_vae, monkeypatch):
        """Gaps in any split are seen by the encoder, also of a program that is made again from its folder."""
        torch.manual_seed(0)
        x = torch.randn(300, 1) + 0.3 * torch.randn(300, 4)
        x[torch.rand(300, 4) < 0.3] = math.nan
        data = pv.data.load(x)
        options = {"epochs": 3, "batch_size": 100, "progress": False}

        def make():
            return make_vae((4,), likelihood=pv.likelihoods.Normal(scale="shared"))

        whole = pv.fit(make(), data, **options, folder="whole")
        assert whole.program.gaps == {"x"}
        assert math.isfinite(whole.history[-1]["validation_elbo"])
        with monkeypatch.context() as patch:
            interrupt_at(patch, 5)
            with pytest.raises(Interrupted):
                pv.fit(make(), data, **options, folder="broken")
        resumed = pv.resume("broken", data=data, progress=False)
        assert same(whole.program.state_dict(), resumed.program.state_dict())
        for again in (pv.load("whole"), pv.load("whole", program=make())):
            assert same(again.state_dict(), whole.program.state_dict())


def test_mnist_reaches_a_known_bound(mnist_dir):
    """A small net on 6,000 real digits: far better than independent pixels (-206)."""
    data = pv.data.load("mnist", data_dir=mnist_dir, binarize="dynamic")
    subset = pv.data.load(data.train[:6000], validation=0.0)
    torch.manual_seed(0)
    vae = pv.VAE(subset.event_shape, 10, encoder=pv.nets.mlp(200), decoder=pv.nets.mlp(200))
    run = pv.fit(vae, subset, epochs=10, batch_size=50, lr=2e-3, progress=False)
    assert pv.evaluate.elbo(run.program, subset.test).elbo > -130


def test_prior_swap_trains(make_vae, digits):
    run = pv.fit(make_vae(prior=dist.Laplace(0.0, 1.0)), digits, **FIT, folder="run")
    assert run.history[-1]["elbo"] > run.history[0]["elbo"]
    assert isinstance(pv.load("run").options["prior"], dist.Laplace)


def test_tells_how_the_kl_is_reported(digits, make_vae):
    for prior, told in (
        (pv.priors.Normal(), "in closed form"),
        (pv.priors.MixtureOfNormals(3), "from draws"),
    ):
        run = pv.fit(make_vae(prior=prior), digits, epochs=1, folder=f"run-{told}", progress=False)
        assert told in (run.folder / "log.txt").read_text()


@pytest.mark.filterwarnings("ignore:Encountered NaN")
class TestNonFinite:
    def diverge(self, make_vae, digits, step):
        count = 0
        original = SVI.step

        def patched(self, *args, **kwargs):
            nonlocal count
            count += 1
            if count == step:
                with torch.no_grad():
                    self.parameters[0].fill_(math.nan)
            return original(self, *args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SVI, "step", patched)
            with pytest.raises(NonFiniteLossError) as caught:
                pv.fit(make_vae(), digits, **FIT, folder="run")
        return str(caught.value)

    def test_stops_and_leaves_the_checkpoint(self, make_vae, digits):
        message = self.diverge(make_vae, digits, 10)
        assert "epoch 3: " in message
        assert "step 10" in message
        assert "site 'z' of the guide" in message
        assert "after 2 epochs, is in run" in message
        assert "NonFiniteLossError" in Path("run/log.txt").read_text()
        vae = pv.load("run")
        assert all(p.isfinite().all() for p in vae.parameters())
        assert len(pv.resume("run", progress=False).history) == 4

    def test_before_the_first_checkpoint(self, make_vae, digits):
        assert "after 0 epochs, is in run" in self.diverge(make_vae, digits, 2)
        assert len(pv.resume("run", progress=False).history) == 4

    def test_parameters_are_checked_before_they_are_saved(self, make_vae, digits, monkeypatch):
        """A last step that ruins a parameter while the loss was still finite is not saved."""
        original = torch.optim.Adam.step
        count = 0

        def patched(self, *args, **kwargs):
            nonlocal count
            count += 1
            original(self, *args, **kwargs)
            if count == 8:
                with torch.no_grad():
                    self.param_groups[0]["params"][0].fill_(math.inf)

        monkeypatch.setattr(torch.optim.Adam, "step", patched)
        with pytest.raises(NonFiniteLossError, match=r"weight not finite after step 8.*after 1 epochs"):
            pv.fit(make_vae(), digits, **FIT, folder="run")
