"""The same command until it is done: limits of time, signals, checkpoints within epochs, more epochs."""

import signal
from pathlib import Path

import pytest
from runs import FIT, interrupt_at, same

import pyro_vae as pv
from pyro_vae.checkpoint import CheckpointError
from pyro_vae.checks import ConfigError
from pyro_vae.cli import main
from pyro_vae.training import Interrupted

SMALL = ["--epochs", "2", "--encoder.hidden_dims", "[8]", "--decoder.hidden_dims", "[8]"]


def test_auto_starts_and_goes_on(make_vae, digits, monkeypatch):
    whole = pv.fit(make_vae(), digits, **FIT, folder="whole")
    for step in (3, 6):
        with monkeypatch.context() as patch:
            interrupt_at(patch, step)
            with pytest.raises(Interrupted):
                pv.fit(make_vae(), digits, **FIT, folder="run", resume="auto")
    run = pv.fit(make_vae(), digits, **FIT, folder="run", resume="auto")
    assert same(run.program.state_dict(), whole.program.state_dict())
    again = pv.fit(make_vae(), digits, **FIT, folder="run", resume="auto")
    assert again.history == run.history
    with pytest.raises(CheckpointError, match="is a run with lr"):
        pv.fit(make_vae(), digits, **FIT, lr=1.0, folder="run", resume="auto")
    with pytest.raises(ConfigError, match="resume='always' must be"):
        pv.fit(make_vae(), digits, **FIT, folder="run", resume="always")


def test_the_same_command_until_it_is_done(capsys, undrawn):
    command = ["train", "--folder", "run", "--resume", "auto", *SMALL]
    codes = []
    while not codes or codes[-1]:
        codes.append(main([*command, "--max-minutes", "1e-9" if len(codes) < 3 else "10"]))
        assert len(codes) < 9
    assert codes == [75, 75, 75, 0]
    assert "and saved" in capsys.readouterr().err
    assert main(["train", "--folder", "whole", *SMALL]) == 0
    assert same(pv.load("run").state_dict(), pv.load("whole").state_dict())


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no such signal")
def test_the_signal_of_schedulers(make_vae, digits, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 6, signum=signal.SIGUSR1)
        with pytest.raises(Interrupted, match="and saved") as caught:
            pv.fit(make_vae(), digits, **FIT, folder="run")
    assert caught.value.code == 128 + signal.SIGUSR1
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    whole = pv.fit(make_vae(), digits, **FIT)
    assert same(pv.resume("run", progress=False).program.state_dict(), whole.program.state_dict())


def test_checkpoints_within_an_epoch(make_vae, digits, monkeypatch):
    """Where nothing is saved at the end, no more than so many steps are lost."""

    def killed(*args):
        raise RuntimeError("killed")

    whole = pv.fit(make_vae(), digits, **FIT)
    original, count = pv.svi.SVI.step, []

    def step(self, *args):
        count.append(1)
        return killed() if len(count) == 8 else original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(pv.svi.SVI, "step", step)
        with pytest.raises(RuntimeError, match="killed"):
            pv.fit(make_vae(), digits, **FIT, save_every=3, folder="run")
    _, meta = pv.checkpoint.load_tensors(Path("run/checkpoint.safetensors"))
    assert (meta["epoch"], meta["batch"]) == (1, 3)
    resumed = pv.resume("run", progress=False, save_every=None)
    assert same(resumed.program.state_dict(), whole.program.state_dict())
    for one, other in zip(resumed.history, whole.history, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_checkpoints_that_stay(make_vae, digits):
    whole = pv.fit(make_vae(), digits, **FIT, keep=2, folder="run")
    assert {path.name for path in Path("run").glob("checkpoint-*")} == {
        "checkpoint-3.safetensors",
        "checkpoint-4.safetensors",
    }
    Path("run/checkpoint-3.safetensors").replace("run/checkpoint.safetensors")
    again = pv.resume("run", progress=False)
    assert len(again.history) == 4
    assert same(again.program.state_dict(), whole.program.state_dict())


def test_a_folder_that_was_moved(make_vae, digits, monkeypatch):
    whole = pv.fit(make_vae(), digits, **FIT)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 6)
        with pytest.raises(Interrupted):
            pv.fit(make_vae(), digits, **FIT, folder="run")
    Path("run").rename("elsewhere")
    assert same(pv.resume("elsewhere", progress=False).program.state_dict(), whole.program.state_dict())


class TestMoreEpochs:
    def test_with_a_constant_rate_are_those_of_a_longer_run(self, make_vae, digits):
        options = FIT | {"schedule": "constant", "patience": 50}
        whole = pv.fit(make_vae(), digits, **options | {"epochs": 6})
        pv.fit(make_vae(), digits, **options, folder="run")
        more = pv.resume("run", epochs=6, progress=False)
        assert same(more.program.state_dict(), whole.program.state_dict())
        assert same(pv.load("run").state_dict(), whole.program.state_dict())
        assert pv.checkpoint.read_config(Path("run"))["epochs"] == 6

    def test_follow_the_schedule_of_so_many(self, make_vae, digits):
        pv.fit(make_vae(), digits, **FIT, folder="run")
        more = pv.resume("run", epochs=6, progress=False)
        rates = [row["lr"] for row in more.history]
        assert rates[4] > rates[3]
        assert "from epoch 5 on that of 6 epochs" in Path("run/log.txt").read_text()

    @pytest.mark.parametrize("step", [1, 3, 6])
    def test_may_be_interrupted(self, make_vae, digits, monkeypatch, step):
        for name in ("whole", "run"):
            pv.fit(make_vae(), digits, **FIT, folder=name)
        whole = pv.resume("whole", epochs=6, progress=False)
        with monkeypatch.context() as patch:
            interrupt_at(patch, step)
            with pytest.raises(Interrupted):
                pv.resume("run", epochs=6, progress=False)
        assert not Path("run/model.safetensors").exists()
        pv.load("run")
        more = pv.resume("run", progress=False, **({} if step == 1 else {"epochs": 6}))
        assert same(more.program.state_dict(), whole.program.state_dict())

    def test_are_refused_to_what_has_not_done_its_own(self, make_vae, digits, monkeypatch):
        with monkeypatch.context() as patch:
            interrupt_at(patch, 6)
            with pytest.raises(Interrupted):
                pv.fit(make_vae(), digits, **FIT, folder="run")
        with pytest.raises(CheckpointError, match="run of 4 epochs that has done 1, and cannot be one of 9"):
            pv.resume("run", epochs=9, progress=False)
        assert pv.checkpoint.read_config(Path("run"))["epochs"] == 4
        pv.resume("run", progress=False)
        with pytest.raises(CheckpointError, match="has done 4, and cannot be one of 2"):
            pv.resume("run", epochs=2, progress=False)
        with pytest.raises(ConfigError, match="not gone on with another lr"):
            pv.resume("run", lr=1.0)

    def test_after_early_stopping_there_are_none(self, make_vae, digits):
        pv.fit(make_vae(), digits, **FIT, callback=lambda epoch, *_: epoch == 2, folder="run")
        with pytest.raises(CheckpointError, match="that has done 2, and has stopped there"):
            pv.resume("run", epochs=9, progress=False)

    def test_on_the_command_line(self, capsys, undrawn):
        assert main(["train", "--folder", "run", *SMALL]) == 0
        assert main(["train", "--resume", "run", "--epochs", "3"]) == 0
        assert "2 epochs were planned, now 3" in capsys.readouterr().out
        assert main(["train", "--resume", "run", "--lr", "3"]) == 2


def test_a_comparison_has_one_limit_of_time(digits):
    options = {
        "latent_dim": 2,
        "encoder": "mlp(8)",
        "decoder": "mlp(8)",
        "num_samples": 2,
        "folder": "compared",
    }
    with pytest.raises(Interrupted, match=r"Call compare again as before, with the folder compared"):
        pv.compare(digits, guides=["Normal", "Laplace"], **FIT, **options, max_minutes=1e-9)
    assert len(pv.compare(digits, guides=["Normal", "Laplace"], **FIT, **options).rows) == 2
