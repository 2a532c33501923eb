import functools
import os
import signal
from pathlib import Path

import pytest
import torch
from runs import FIT, interrupt_at, same
from torch import nn
from torch.optim import lr_scheduler

import pyro_vae as pv
from pyro_vae.checkpoint import CheckpointError
from pyro_vae.checks import ConfigError
from pyro_vae.svi import SVI
from pyro_vae.training import Interrupted
from pyro_vae.training.folder import opened


class TestResume:
    @pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.parametrize("steps", [(1,), (4,), (5,), (7, 2), (15,), (16,)], ids=str)
    def test_is_bitwise_the_uninterrupted_run(self, make_vae, digits, monkeypatch, steps, signum):
        options = FIT | {"warmup_epochs": 2, "patience": 3, "clip_norm": 50.0}
        whole = pv.fit(make_vae(), digits, **options, folder="whole")
        with monkeypatch.context() as patch:
            interrupt_at(patch, steps[0], signum=signum)
            with pytest.raises(Interrupted, match="pyro-vae train --resume broken") as caught:
                pv.fit(make_vae(), digits, **options, folder="broken")
            assert caught.value.signum == signum
        for step in steps[1:]:
            with monkeypatch.context() as patch:
                interrupt_at(patch, step, signum=signum)
                with pytest.raises(Interrupted):
                    pv.resume("broken", progress=False)
        torch.manual_seed(99)
        torch.rand(7)
        resumed = pv.resume("broken", progress=False)
        assert same(whole.program.state_dict(), resumed.program.state_dict())
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
            with pytest.raises(Interrupted):
                pv.fit(make_vae(), digits, **FIT, optimizer=optimizer, folder="broken")
        assert same(whole.program.state_dict(), pv.resume("broken", progress=False).program.state_dict())

    def test_best_weights_survive_an_interruption(self, make_vae, monkeypatch, uncompiled):
        """Interrupted after the best epoch, the resumed run still restores its weights."""
        data = pv.data.load(pv.data.load("digits").train[:80], validation=0.5, test=0.0)
        options = {"epochs": 2000, "batch_size": 40, "lr": 5e-3, "patience": 10, "progress": False}

        def make():
            nets = {"encoder": pv.nets.mlp(100), "decoder": pv.nets.mlp(100)}
            return make_vae(likelihood=pv.likelihoods.Normal(), **nets)

        whole = pv.fit(make(), data, **options, folder="whole")
        with monkeypatch.context() as patch:
            interrupt_at(patch, len(whole.history) - 4)
            with pytest.raises(Interrupted):
                pv.fit(make(), data, **options, folder="broken")
        resumed = pv.resume("broken", data=data, progress=False)
        assert same(whole.program.state_dict(), resumed.program.state_dict())
        assert len(resumed.history) == len(whole.history)

    @pytest.mark.parametrize(
        "schedule",
        [
            functools.partial(lr_scheduler.StepLR, step_size=2),
            functools.partial(lr_scheduler.MultiStepLR, milestones=[1, 3], gamma=0.5),
            functools.partial(lr_scheduler.ReduceLROnPlateau, patience=0, factor=0.5, threshold=10.0),
            functools.partial(lr_scheduler.ExponentialLR, gamma=0.7),
        ],
        ids=pv.registry.write,
    )
    @pytest.mark.parametrize("step", [1, 4, 6, 8, 13])
    def test_with_a_scheduler(self, make_vae, digits, monkeypatch, schedule, step):
        whole = pv.fit(make_vae(), digits, **FIT, schedule=schedule, folder="whole")
        assert whole.history[-1]["lr"] < whole.history[0]["lr"]
        with monkeypatch.context() as patch:
            interrupt_at(patch, step)
            with pytest.raises(Interrupted):
                pv.fit(make_vae(), digits, **FIT, schedule=schedule, folder="broken")
        resumed = pv.resume("broken", progress=False)
        assert same(whole.program.state_dict(), resumed.program.state_dict())
        assert [row["lr"] for row in resumed.history] == [row["lr"] for row in whole.history]

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
            with pytest.raises(Interrupted):
                pv.fit(make(), digits, **FIT, folder="broken")
        with pytest.raises(ConfigError, match="program=program"):
            pv.resume("broken", progress=False)
        resumed = pv.resume("broken", program=make(), progress=False)
        assert same(whole.program.state_dict(), resumed.program.state_dict())
        with pytest.raises(ConfigError, match="program=program"):
            pv.load("broken")
        assert same(pv.load("broken", program=make()).state_dict(), whole.program.state_dict())

    @pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.NAdam])
    def test_in_float64(self, make_vae, digits, monkeypatch, optimizer):
        whole = pv.fit(make_vae().double(), digits, **FIT, optimizer=optimizer, folder="whole")
        with monkeypatch.context() as patch:
            interrupt_at(patch, 6)
            with pytest.raises(Interrupted):
                pv.fit(make_vae().double(), digits, **FIT, optimizer=optimizer, folder="broken")
        assert same(whole.program.state_dict(), pv.resume("broken", progress=False).program.state_dict())

    def test_an_array_must_be_given_again(self, make_vae, monkeypatch):
        data = pv.data.load(torch.bernoulli(torch.rand(900, 1, 8, 8)), validation=0.0, test=0.0)
        interrupt_at(monkeypatch, 6)
        with pytest.raises(Interrupted):
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
        assert same(again.program.state_dict(), run.program.state_dict())
        assert again.history == run.history
        assert (run.folder / "checkpoint.safetensors").read_bytes() == before

    def test_not_with_other_settings(self, make_vae, digits):
        pv.fit(make_vae(), digits, **FIT, folder="run")
        with pytest.raises(CheckpointError, match=r"run with lr=0\.001, not 0\.1"):
            pv.fit(make_vae(), digits, **FIT, lr=0.1, folder="run", resume=True)

    def test_a_run_in_training_is_left_alone(self, make_vae, digits):
        pv.fit(make_vae(), digits, **FIT, folder="run")
        with opened(Path("run"), True, {}), pytest.raises(CheckpointError, match="another process"):
            pv.resume("run")

    def test_a_folder_is_not_overwritten(self, make_vae, digits):
        pv.fit(make_vae(), digits, **FIT, folder="run")
        with pytest.raises(CheckpointError, match=r"holds a run already.*--resume run"):
            pv.fit(make_vae(), digits, **FIT, folder="run")

    @pytest.mark.parametrize(("epoch", "message"), [(2, "stopped in epoch 3"), (4, "training had ended")])
    def test_signal_during_validation(self, make_vae, digits, monkeypatch, epoch, message):
        evaluate, calls = pv.training.loop.unchecked_elbo, []

        def patched(*args):
            calls.append(args)
            if len(calls) == epoch:
                os.kill(os.getpid(), signal.SIGTERM)
            return evaluate(*args)

        with monkeypatch.context() as patch:
            patch.setattr(pv.training.loop, "unchecked_elbo", patched)
            with pytest.raises(Interrupted, match=message):
                pv.fit(make_vae(), digits, **FIT, folder="run")
        assert len(pv.resume("run", progress=False).history) == 4

    def test_a_class_of_ones_own(self, digits):
        class Mine(pv.VAE):
            pass

        def make():
            torch.manual_seed(0)
            return Mine(digits.event_shape, 2, encoder=pv.nets.mlp(8), decoder=pv.nets.mlp(8))

        run = pv.fit(make(), digits, **FIT, folder="run")
        with pytest.raises(ConfigError, match=r"no name.*program=program"):
            pv.load("run")
        assert same(pv.load("run", program=make()).state_dict(), run.program.state_dict())

    def test_second_signal_stops_at_once(self, make_vae, digits, monkeypatch):
        def patched(self, *args):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("still here")

        monkeypatch.setattr(SVI, "step", patched)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell starts in background
        with pytest.raises(KeyboardInterrupt) as caught:
            pv.fit(make_vae(), digits, **FIT, folder="run")
        assert not isinstance(caught.value, Interrupted)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


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
        with pytest.raises(Interrupted):
            pv.fit(make_vae(**parts), data, epochs=2, folder="parted", progress=False)
    resumed = pv.resume("parted", progress=False)
    for name, value in whole.program.state_dict().items():
        assert torch.equal(value, resumed.program.state_dict()[name]), name
    vae = pv.load("whole")
    assert pv.evaluate.elbo(vae, data.test) == pv.evaluate.elbo(whole.program, data.test)
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
