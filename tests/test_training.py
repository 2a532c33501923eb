import csv
import functools
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pyro.distributions as dist
import pyro.infer
import pytest
import torch
import yaml
from torch import nn

import pyro_vae as pv
from pyro_vae import checkpoint, training
from pyro_vae.checkpoint import CheckpointError
from pyro_vae.config import ConfigError
from pyro_vae.svi import SVI, NonFiniteLossError

FIT = {"epochs": 4, "batch_size": 400, "progress": False}  # 4 batches an epoch, the last one ragged


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one | other)


def interrupt_at(monkeypatch, *steps, signum=signal.SIGINT):
    """Sends a signal during the steps with these numbers, counted over all calls from now on."""
    count = 0
    step = SVI.step

    def patched(self, *args, **kwargs):
        nonlocal count
        count += 1
        if count in steps:
            os.kill(os.getpid(), signum)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(SVI, "step", patched)


class TestFit:
    def test_learns(self, make_vae, digits):
        run = pv.fit(make_vae(), digits, epochs=30, lr=5e-3, progress=False)
        x, mean = digits.validation[:], digits.train.moments[0].float().clamp(1e-3, 1 - 1e-3)
        independent = dist.Bernoulli(mean).log_prob(x).flatten(1).sum(1).mean().item()
        assert run.history[-1]["validation_elbo"] > independent + 1
        assert not run.vae.training
        assert run.folder.parent.name == "runs"
        assert run.folder.name.startswith("digits-")

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
        final = pv.evaluate.elbo(run.vae, digits.validation)
        assert final.elbo == run.history[-1]["validation_elbo"]

    def test_seed_decides_everything(self, make_vae, digits):
        runs = [
            pv.fit(make_vae(), digits, **FIT, seed=seed, folder=f"run{i}") for i, seed in enumerate((3, 3, 4))
        ]
        a, b, c = (run.vae.state_dict() for run in runs)
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
            state[i] = pv.fit(make_vae(), data, **FIT, folder=f"run{i}").vae.state_dict()
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
        run = pv.fit(make_vae(), digits, **FIT, lr=1e-3, optimizer=optimizer, folder="run")
        assert run.history[-1]["loss"] < run.history[0]["loss"]

    def test_optimizer_is_fused(self, make_vae):
        made = training._make(torch.optim.Adam, make_vae(), 0.1)
        assert made.param_groups[0]["fused"] is True
        assert made.param_groups[0]["lr"] == 0.1
        unfused = functools.partial(torch.optim.Adam, fused=False)
        assert training._make(unfused, make_vae(), 0.1).param_groups[0]["fused"] is False

    def test_optimizers_that_do_not_fit(self, make_vae, digits):
        for optimizer, message in [
            (functools.partial(torch.optim.Adam, lr=1e-3), "give it to fit"),
            (torch.optim.LBFGS, "LBFGS does not fit"),
        ]:
            with pytest.raises(ConfigError, match=message):
                pv.fit(make_vae(), digits, optimizer=optimizer)
        with pytest.raises(ConfigError, match="JitTrace_ELBO does not fit"):
            pv.fit(make_vae(), digits, loss=pyro.infer.JitTrace_ELBO())
        foreach = functools.partial(torch.optim.Adam, foreach=True)
        assert not training._make(foreach, make_vae(), 0.1).param_groups[0]["fused"]

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

    def test_early_stopping_restores_the_best_weights(self, make_vae):
        """A large net on 40 data overfits; the weights kept are those of the best epoch."""
        data = pv.data.load(pv.data.load("digits").train[:80], validation=0.5, test=0.0)
        vae = make_vae(encoder=pv.nets.mlp(100), decoder=pv.nets.mlp(100), likelihood=pv.likelihoods.Normal())
        run = pv.fit(
            vae, data, epochs=2000, batch_size=40, lr=5e-3, patience=10, folder="run", progress=False
        )
        elbos = [row["validation_elbo"] for row in run.history]
        best = max(elbos)
        assert len(elbos) == elbos.index(best) + 1 + 10 < 2000
        assert pv.evaluate.elbo(run.vae, data.validation).elbo == best > elbos[-1]
        assert pv.evaluate.elbo(pv.load("run"), data.validation).elbo == best
        assert "stopped early" in (run.folder / "log.txt").read_text()

    def test_best_weights_survive_an_interruption(self, make_vae, monkeypatch):
        """Interrupted after the best epoch, the resumed run still restores its weights."""
        data = pv.data.load(pv.data.load("digits").train[:80], validation=0.5, test=0.0)
        options = {"epochs": 2000, "batch_size": 40, "lr": 5e-3, "patience": 10, "progress": False}

        def make():
            nets = {"encoder": pv.nets.mlp(100), "decoder": pv.nets.mlp(100)}
            return make_vae(likelihood=pv.likelihoods.Normal(), **nets)

        whole = pv.fit(make(), data, **options, folder="whole")
        with monkeypatch.context() as patch:
            interrupt_at(patch, len(whole.history) - 4)
            with pytest.raises(training.Interrupted):
                pv.fit(make(), data, **options, folder="broken")
        resumed = pv.resume("broken", data=data, progress=False)
        assert same(whole.vae.state_dict(), resumed.vae.state_dict())
        assert len(resumed.history) == len(whole.history)

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
        assert run.vae.input_loc.dtype == torch.float64
        assert pv.load("run").input_loc.dtype == torch.float64

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

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"epochs": 0}, "epochs=0 must be positive"),
            ({"lr": -1.0}, "lr=-1.0 must be positive"),
            ({"schedule": "cosin"}, "did you mean cosine"),
            ({"patience": 0}, "patience=0"),
            ({"clip_norm": -1.0}, "clip_norm=-1.0"),
            ({"warmup_epochs": -2}, "warmup_epochs=-2"),
            ({"beta": -1.0}, "beta=-1.0"),
            ({"beta": math.nan}, "beta=nan"),
            ({"seed": -1}, "seed=-1"),
        ],
    )
    def test_bad_arguments(self, make_vae, digits, arguments, message):
        with pytest.raises(ConfigError, match=message):
            pv.fit(make_vae(), digits, **arguments)
        assert not os.path.exists("runs")

    def test_a_tensor_is_no_data_set(self, make_vae):
        with pytest.raises(TypeError, match=r"pv.data.load\(x\)"):
            pv.fit(make_vae(), torch.zeros(3, 1, 8, 8))


class TestResume:
    @pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.parametrize("steps", [(1,), (4,), (5,), (7, 2), (15,), (16,)], ids=str)
    def test_is_bitwise_the_uninterrupted_run(self, make_vae, digits, monkeypatch, steps, signum):
        options = FIT | {"warmup_epochs": 2, "patience": 3, "clip_norm": 50.0}
        whole = pv.fit(make_vae(), digits, **options, folder="whole")
        with monkeypatch.context() as patch:
            interrupt_at(patch, steps[0], signum=signum)
            with pytest.raises(training.Interrupted, match="pyro-vae train --resume broken") as caught:
                pv.fit(make_vae(), digits, **options, folder="broken")
            assert caught.value.signum == signum
        for step in steps[1:]:
            with monkeypatch.context() as patch:
                interrupt_at(patch, step, signum=signum)
                with pytest.raises(training.Interrupted):
                    pv.resume("broken", progress=False)
        torch.manual_seed(99)
        torch.rand(7)
        resumed = pv.resume("broken", progress=False)
        assert same(whole.vae.state_dict(), resumed.vae.state_dict())
        assert same(pv.load("whole").state_dict(), pv.load("broken").state_dict())
        for a, b in zip(whole.history, resumed.history, strict=True):
            assert {k: v for k, v in a.items() if k != "seconds"} == {
                k: v for k, v in b.items() if k != "seconds"
            }

    @pytest.mark.parametrize(
        "optimizer",
        [torch.optim.RMSprop, functools.partial(torch.optim.SGD, momentum=0.5), torch.optim.NAdam],
    )
    def test_with_other_optimizers(self, make_vae, digits, monkeypatch, optimizer):
        whole = pv.fit(make_vae(), digits, **FIT, optimizer=optimizer, folder="whole")
        with monkeypatch.context() as patch:
            interrupt_at(patch, 6)
            with pytest.raises(training.Interrupted):
                pv.fit(make_vae(), digits, **FIT, optimizer=optimizer, folder="broken")
        assert same(whole.vae.state_dict(), pv.resume("broken", progress=False).vae.state_dict())

    def test_with_dropout_and_batch_statistics(self, digits, monkeypatch):
        def net(in_shape, out_shape):
            return nn.Sequential(
                nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, out_shape[0])
            )

        def make():
            torch.manual_seed(1)
            return pv.VAE(digits.event_shape, 2, encoder=net)

        whole = pv.fit(make(), digits, **FIT, folder="whole")
        with monkeypatch.context() as patch:
            interrupt_at(patch, 6)
            with pytest.raises(training.Interrupted):
                pv.fit(make(), digits, **FIT, folder="broken")
        with pytest.raises(ConfigError, match="vae=vae"):
            pv.resume("broken", progress=False)
        resumed = pv.resume("broken", vae=make(), progress=False)
        assert same(whole.vae.state_dict(), resumed.vae.state_dict())
        with pytest.raises(ConfigError, match="vae=vae"):
            pv.load("broken")
        assert same(pv.load("broken", vae=make()).state_dict(), whole.vae.state_dict())

    @pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.NAdam])
    def test_in_float64(self, make_vae, digits, monkeypatch, optimizer):
        whole = pv.fit(make_vae().double(), digits, **FIT, optimizer=optimizer, folder="whole")
        with monkeypatch.context() as patch:
            interrupt_at(patch, 6)
            with pytest.raises(training.Interrupted):
                pv.fit(make_vae().double(), digits, **FIT, optimizer=optimizer, folder="broken")
        assert same(whole.vae.state_dict(), pv.resume("broken", progress=False).vae.state_dict())

    def test_an_array_must_be_given_again(self, make_vae, monkeypatch):
        data = pv.data.load(torch.bernoulli(torch.rand(900, 1, 8, 8)), validation=0.0, test=0.0)
        interrupt_at(monkeypatch, 6)
        with pytest.raises(training.Interrupted):
            pv.fit(make_vae(), data, epochs=4, batch_size=300, folder="run", progress=False)
        with pytest.raises(CheckpointError, match=r"data=pv\.data\.load"):
            pv.resume("run")
        other = pv.data.load(torch.bernoulli(torch.rand(900, 1, 8, 8)), validation=0.0, test=0.0)
        with pytest.raises(CheckpointError, match="other data"):
            pv.resume("run", data=other)
        assert len(pv.resume("run", data=data, progress=False).history) == 4

    def test_a_finished_run_is_left_as_it_is(self, make_vae, digits):
        run = pv.fit(make_vae(), digits, **FIT, folder="run")
        before = (run.folder / "checkpoint.safetensors").read_bytes()
        again = pv.resume("run", progress=False)
        assert same(again.vae.state_dict(), run.vae.state_dict())
        assert again.history == run.history
        assert (run.folder / "checkpoint.safetensors").read_bytes() == before

    def test_not_with_other_settings(self, make_vae, digits):
        pv.fit(make_vae(), digits, **FIT, folder="run")
        with pytest.raises(CheckpointError, match=r"run with lr=0\.001, not 0\.1"):
            pv.fit(make_vae(), digits, **FIT, lr=0.1, folder="run", resume=True)

    def test_a_run_in_training_is_left_alone(self, make_vae, digits):
        pv.fit(make_vae(), digits, **FIT, folder="run")
        with training._alone(Path("run")), pytest.raises(CheckpointError, match="another process"):
            pv.resume("run")

    def test_a_folder_is_not_overwritten(self, make_vae, digits):
        pv.fit(make_vae(), digits, **FIT, folder="run")
        with pytest.raises(CheckpointError, match=r"holds a run already.*--resume run"):
            pv.fit(make_vae(), digits, **FIT, folder="run")

    @pytest.mark.parametrize(("epoch", "message"), [(2, "stopped in epoch 3"), (4, "training had ended")])
    def test_signal_during_validation(self, make_vae, digits, monkeypatch, epoch, message):
        evaluate, calls = pv.evaluate.elbo, []

        def patched(*args):
            calls.append(args)
            if len(calls) == epoch:
                os.kill(os.getpid(), signal.SIGTERM)
            return evaluate(*args)

        with monkeypatch.context() as patch:
            patch.setattr(pv.evaluate, "elbo", patched)
            with pytest.raises(training.Interrupted, match=message):
                pv.fit(make_vae(), digits, **FIT, folder="run")
        assert len(pv.resume("run", progress=False).history) == 4

    def test_a_class_of_ones_own(self, digits):
        class Mine(pv.VAE):
            pass

        def make():
            torch.manual_seed(0)
            return Mine(digits.event_shape, 2, encoder=pv.nets.mlp(8), decoder=pv.nets.mlp(8))

        run = pv.fit(make(), digits, **FIT, folder="run")
        with pytest.raises(ConfigError, match=r"Mine.*vae=vae"):
            pv.load("run")
        assert same(pv.load("run", vae=make()).state_dict(), run.vae.state_dict())

    def test_second_signal_stops_at_once(self, make_vae, digits, monkeypatch):
        def patched(self, *args):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("still here")

        monkeypatch.setattr(SVI, "step", patched)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell starts in background
        with pytest.raises(KeyboardInterrupt) as caught:
            pv.fit(make_vae(), digits, **FIT, folder="run")
        assert not isinstance(caught.value, training.Interrupted)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_sigkill_loses_nothing_but_the_epoch(tmp_path):
    """Killed at random moments, many times over, a run always resumes, to the same bits."""
    script = textwrap.dedent(
        """
        import os, random, signal, sys, time
        import torch, pyro_vae as pv
        try:
            import torch.utils.tensorboard
        except ImportError:
            pass
        torch.set_num_threads(1)
        data = pv.data.load("digits", binarize="dynamic")

        def train(folder):
            torch.manual_seed(0)
            if os.path.exists(folder + "/config.yaml"):
                return pv.resume(folder, data=data, progress=False)
            vae = pv.VAE(data.event_shape, 2, encoder=pv.nets.mlp(16), decoder=pv.nets.mlp(16))
            options = {"epochs": 200, "batch_size": 100, "compile": False, "progress": False}
            return pv.fit(vae, data, **options, folder=folder)

        whole = train("whole")  # which also imports all that children will need
        def stamp(folder):
            path = folder + "/checkpoint.safetensors"
            return os.stat(path).st_mtime_ns if os.path.exists(path) else None

        random.seed(0)
        kills = epochs = 0
        seen = set()
        last = None
        while True:
            child = os.fork()
            if child == 0:
                train("killed")
                os._exit(0)
            if kills < 12:
                # Once it is training, at a random moment of one of its next epochs.
                began = time.monotonic()
                while stamp("killed") == last and time.monotonic() - began < 20:
                    time.sleep(0.001)
                time.sleep(random.uniform(0, 0.1))
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if os.WIFEXITED(status):
                assert os.WEXITSTATUS(status) == 0
                break
            kills += 1
            last = stamp("killed")
            if os.path.exists("killed/checkpoint.safetensors"):
                _, meta = pv.checkpoint.load_tensors(pv.checkpoint.Path("killed/checkpoint.safetensors"))
                assert meta["epoch"] >= epochs, "an epoch was lost"
                assert len(meta["history"]) == meta["epoch"]
                epochs = meta["epoch"]
                seen.add(epochs)
                pv.load("killed")
        killed = train("killed")
        for a, b in zip(whole.vae.state_dict().values(), killed.vae.state_dict().values(), strict=True):
            assert torch.equal(a, b)
        print(kills, "kills, in", len(seen), "epochs")
        """
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    kills, epochs = (int(word) for word in re.findall("[0-9]+", done.stdout))
    assert kills >= 5
    assert epochs >= 4


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
        with pytest.raises(NonFiniteLossError, match=r"a parameter is not finite.*after 1 epochs"):
            pv.fit(make_vae(), digits, **FIT, folder="run")


class TestFiles:
    @pytest.fixture
    def run(self, make_vae, digits):
        return pv.fit(make_vae(), digits, **FIT, folder="run").folder

    def test_configuration_rebuilds_the_run(self, make_vae, digits, run):
        values = yaml.safe_load((run / "config.yaml").read_text())
        assert values["data"] == "digits"
        assert values["binarize"] == "dynamic"
        assert values["epochs"] == 4
        vae = pv.load(run)
        assert vae.latent_dim == 2
        assert vae.encoder.layers[0].out_features == 16
        x = digits.test[:]
        assert pv.evaluate.elbo(vae, x) == pv.evaluate.elbo(pv.load("run"), x)

    def test_no_temporary_files_are_left(self, run):
        assert not [p for p in run.rglob("*") if "tmp" in p.name]

    def test_unfinished_run_loads_from_its_checkpoint(self, run):
        finished = pv.load(run).state_dict()
        (run / "model.safetensors").unlink()
        assert same(pv.load(run).state_dict(), finished)

    @pytest.mark.parametrize("name", ["model.safetensors", "checkpoint.safetensors"])
    @pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "foreign", "pickle"])
    def test_damaged_files(self, run, name, damage):
        path = run / name
        if name.startswith("checkpoint"):
            (run / "model.safetensors").unlink()
        content = path.read_bytes()
        if damage == "truncated":
            path.write_bytes(content[: len(content) // 2])
        elif damage == "garbage":
            path.write_bytes(b"\x00\xff" * 500)
        elif damage == "empty":
            path.write_bytes(b"")
        elif damage == "foreign":
            import safetensors.torch

            safetensors.torch.save_file({"weight": torch.zeros(3)}, path)
        else:
            torch.save({"weight": torch.zeros(3)}, path)
        with pytest.raises(CheckpointError, match=name) as caught:
            pv.load(run)
        assert (
            "did not write it" in str(caught.value) if damage == "foreign" else "damaged" in str(caught.value)
        )
        if name.startswith("checkpoint"):
            with pytest.raises(CheckpointError):
                pv.resume(run)

    def test_tied_weights(self, digits):
        class Tied(nn.Module):
            def __init__(self, in_shape, out_shape):
                super().__init__()
                self.a, self.b = nn.Linear(2, 64), nn.Linear(2, 64)
                self.b.weight = self.a.weight

            def forward(self, z):
                return (self.a(z) + self.b(-z).tanh()).reshape(*z.shape[:-1], 1, 8, 8)

        vae = pv.VAE(digits.event_shape, 2, decoder=Tied)
        pv.fit(vae, digits, **FIT, folder="tied")
        again = pv.load("tied", vae=pv.VAE(digits.event_shape, 2, decoder=Tied))
        assert same(again.state_dict(), vae.state_dict())

    def test_runs_started_at_once_have_folders_of_their_own(self):
        assert len({training._new_folder("x") for _ in range(5)}) == 5

    def test_history_is_never_behind_the_checkpoint(self, make_vae, digits, monkeypatch):
        original, written = checkpoint.write, []

        def patched(path, content, **options):
            written.append(path.name)
            original(path, content, **options)

        monkeypatch.setattr(checkpoint, "write", patched)
        pv.fit(make_vae(), digits, **FIT, folder="other")
        names = ["history.csv", "checkpoint.safetensors"]
        assert written == ["checkpoint.safetensors", "config.yaml", *names * 4, "model.safetensors"]

    def test_missing_files(self, run):
        with pytest.raises(CheckpointError, match="not the folder of a run"):
            pv.load("nowhere")
        (run / "model.safetensors").unlink()
        (run / "checkpoint.safetensors").unlink()
        with pytest.raises(CheckpointError, match="there is no"):
            pv.load(run)

    def test_weights_of_another_model(self, run):
        text = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(text.replace("- 16", "- 17"))
        with pytest.raises(CheckpointError, match=r"of another model.*shape \[16\], expected \[17\]"):
            pv.load(run)

    @pytest.mark.parametrize("text", ["[1, 2", "just words", "\xff\xfe"])
    def test_damaged_configuration(self, run, text):
        (run / "config.yaml").write_bytes(text.encode("latin-1"))
        with pytest.raises(CheckpointError, match=r"config\.yaml"):
            pv.load(run)

    def test_configuration_cannot_call_just_anything(self, run):
        values = yaml.safe_load((run / "config.yaml").read_text())
        for kind in ("prior", "likelihood", "guide", "encoder"):
            evil = values | {kind: {"class_path": "subprocess.Popen", "init_args": {"args": "touch owned"}}}
            for values_of in (evil, values | {kind: "os.getcwd"}):
                (run / "config.yaml").write_text(yaml.safe_dump(values_of))
                with pytest.raises(ConfigError, match="is not made"):
                    pv.load(run)
        assert not os.path.exists("owned")

    def test_failed_write_keeps_the_old_file(self, run, monkeypatch):
        path = run / "model.safetensors"
        before = path.read_bytes()

        def full(fd):
            raise OSError("no space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space"):
            checkpoint.write(path, b"half")
        assert path.read_bytes() == before
        assert not list(run.glob(".*tmp"))

    def test_latest(self, make_vae, digits):
        for name in ("a", "b"):
            pv.fit(make_vae(), digits, **FIT, folder=f"runs/{name}")
        os.utime("runs/a/checkpoint.safetensors", (2e9, 2e9))
        assert checkpoint.latest().name == "a"
        with pytest.raises(CheckpointError, match="pyro-vae train"):
            checkpoint.latest("nowhere")


def test_mnist_reaches_a_known_bound(mnist_dir):
    """A small net on 6,000 real digits: far better than independent pixels (-206)."""
    data = pv.data.load("mnist", data_dir=mnist_dir, binarize="dynamic")
    subset = pv.data.load(data.train[:6000], validation=0.0)
    torch.manual_seed(0)
    vae = pv.VAE(subset.event_shape, 10, encoder=pv.nets.mlp(200), decoder=pv.nets.mlp(200))
    run = pv.fit(vae, subset, epochs=10, batch_size=50, lr=2e-3, progress=False)
    assert pv.evaluate.elbo(run.vae, subset.test).elbo > -130


def test_prior_swap_trains(make_vae, digits):
    run = pv.fit(make_vae(prior=dist.Laplace(0.0, 1.0)), digits, **FIT, folder="run")
    assert run.history[-1]["elbo"] > run.history[0]["elbo"]
    assert isinstance(pv.load("run").parts["prior"], dist.Laplace)


def test_tells_how_the_kl_is_reported(digits, make_vae):
    for prior, told in (
        (pv.priors.Normal(), "in closed form"),
        (pv.priors.MixtureOfNormals(3), "from draws"),
    ):
        run = pv.fit(make_vae(prior=prior), digits, epochs=1, folder=f"run-{told}", progress=False)
        assert told in (run.folder / "log.txt").read_text()


@pytest.mark.parametrize(
    "parts",
    [
        {"prior": pv.priors.VampPrior(7)},
        {"prior": pv.priors.Flow("affine_coupling", num_transforms=2)},
        {"likelihood": pv.likelihoods.StudentT(df=4.0, scale="shared"), "guide": pv.guides.Flow("planar")},
        {"likelihood": pv.likelihoods.DiscretizedLogisticMixture(2, levels=17)},
        {"guide": pv.guides.MixtureOfNormals(2), "prior": pv.priors.Normal(learned=True)},
    ],
    ids=["vamp", "flow", "student", "mixture", "guide"],
)
def test_any_parts_are_resumed_loaded_and_drawn(parts, make_vae):
    """Interrupted and resumed, with the same bits; loaded from its folder; evaluated; in every picture."""
    likelihood = pv.likelihoods.as_likelihood(parts.get("likelihood", pv.likelihoods.Bernoulli()))
    data = pv.data.load(
        "digits", binarize="dynamic" if likelihood.binary else "none", levels=not likelihood.binary
    )
    whole = pv.fit(make_vae(**parts), data, epochs=2, folder="whole", progress=False)
    steps, original = [], pv.svi.SVI.step

    def interrupted(self, *arguments):
        steps.append(1)
        if len(steps) == 15:
            signal.raise_signal(signal.SIGINT)
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pv.svi.SVI, "step", interrupted)
        with pytest.raises(pv.training.Interrupted):
            pv.fit(make_vae(**parts), data, epochs=2, folder="parted", progress=False)
    resumed = pv.resume("parted", progress=False)
    for name, value in whole.vae.state_dict().items():
        assert torch.equal(value, resumed.vae.state_dict()[name]), name
    vae = pv.load("whole")
    assert pv.evaluate.elbo(vae, data.test) == pv.evaluate.elbo(whole.vae, data.test)
    x = data.test[:4]
    for figure in (
        pv.figures.samples(vae, 4),
        pv.figures.reconstructions(vae, x),
        pv.figures.interpolation(vae, x[0], x[1], 3),
        pv.figures.traversals(vae, x[0], 3),
        pv.figures.manifold(vae, 3),
        pv.figures.latents(vae, data.test[:20]),
    ):
        assert figure.axes
    assert "p(x|z)" in vae.explain()
