"""A run's folder: one process at a time, nothing lost, nothing of another run."""

import errno
import math
import os
import warnings
from pathlib import Path

import pytest
import torch
from runs import FIT, same
from torch import nn

import pyro_vae as pv
from pyro_vae import checkpoint
from pyro_vae.checkpoint import CheckpointError
from pyro_vae.svi import SVI, NonFiniteLossError
from pyro_vae.training import report


def at_step(monkeypatch, number, act):
    """Does something before the step with this number."""
    original, steps = SVI.step, []

    def step(self, *args):
        steps.append(1)
        if len(steps) == number:
            act()
        return original(self, *args)

    monkeypatch.setattr(SVI, "step", step)


def full(*args, **keywords):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class TestAStartThatWasKilled:
    def test_leaves_nothing_in_the_way(self, make_vae, digits):
        """Before the configuration is written, nothing has been trained."""
        pv.fit(make_vae(), digits, **FIT, folder="whole")
        folder = Path("run")
        folder.mkdir()
        (folder / ".checkpoint.safetensors.0123456789abcdef.tmp").write_text("half")
        start = (Path("whole") / "start.safetensors").read_bytes()
        (folder / "start.safetensors").write_bytes(start)
        (folder / "checkpoint.safetensors").write_bytes(start)
        pv.fit(make_vae(), digits, **FIT, folder="run")
        assert same(pv.load("run").state_dict(), pv.load("whole").state_dict())
        assert not list(folder.glob("*.tmp")) + list(folder.glob(".*.tmp"))

    def test_a_refused_run_changes_nothing(self, make_vae, digits):
        """As where the process was killed when a temporary name and the configuration were one file."""
        folder = pv.fit(make_vae(), digits, **FIT, folder="run").folder
        before = (folder / "config.yaml").read_bytes()
        os.link(folder / "config.yaml", folder / ".config.yaml.tmp")
        with pytest.raises(CheckpointError, match="holds a run already"):
            pv.fit(make_vae(), digits, **FIT | {"epochs": 9}, folder="run")
        assert (folder / "config.yaml").read_bytes() == before

    def test_links_are_not_written_through(self, make_vae, digits):
        Path("run").mkdir()
        Path("mine").write_text("mine")
        for name in ("config.yaml", "checkpoint.safetensors"):
            Path("run", f".{name}.tmp").symlink_to(Path("mine").resolve())
        pv.fit(make_vae(), digits, **FIT, folder="run")
        assert Path("mine").read_text() == "mine"

    def test_a_refused_start_leaves_no_folder(self, make_vae, digits):
        with pytest.raises(pv.registry.ConfigError):
            pv.fit(make_vae(), digits, **FIT, optimizer="SGD(momentum=-1)", folder="run")
        assert not os.path.exists("run")


@pytest.mark.parametrize("left", ["checkpoint.safetensors", "model.safetensors", "history.csv", "log.txt"])
def test_a_folder_with_any_file_of_a_run_is_refused(left, make_vae, digits):
    folder = pv.fit(make_vae(), digits, **FIT, folder="run").folder
    for path in folder.iterdir():
        if path.is_file() and path.name != left:
            path.unlink()
    for path in (folder / "tensorboard").glob("*"):
        path.unlink()
    if (folder / "tensorboard").exists():
        (folder / "tensorboard").rmdir()
    with pytest.raises(CheckpointError, match=rf"holds {left} of a run whose config.yaml is gone"):
        pv.fit(make_vae(), digits, **FIT, folder="run")


def test_the_lock_comes_first(make_vae, digits):
    from pyro_vae.training.folder import opened

    with opened(Path("run"), False, {}):
        Path("run/log.txt").write_text("its own")
        with pytest.raises(CheckpointError, match="another process is training run"):
            pv.fit(make_vae(), digits, **FIT, folder="run")
        assert {path.name for path in Path("run").iterdir()} == {".lock", "log.txt"}


def test_files_of_two_runs_are_told_apart(make_vae, digits):
    for name, seed in (("one", 0), ("other", 1)):
        pv.fit(make_vae(), digits, **FIT, seed=seed, folder=name)
    for name in ("model.safetensors", "checkpoint.safetensors"):
        theirs = Path("other", name).read_bytes()
        Path("one", name).replace(Path("other", name))
        Path("one", name).write_bytes(theirs)
    with pytest.raises(CheckpointError, match=r"model.safetensors is of run .*, and the config.yaml"):
        pv.load("one")
    with pytest.raises(CheckpointError, match=r"checkpoint.safetensors is of run .*, and the config.yaml"):
        pv.resume("one", progress=False)


class TestAFullDisk:
    @pytest.mark.parametrize("name", ["checkpoint.safetensors", "history.csv", "model.safetensors"])
    def test_says_what_could_not_be_written_and_what_there_is(self, make_vae, digits, monkeypatch, name):
        original, count = checkpoint.write, []

        def write(path, content):
            if path.name == name:
                count.append(1)
                if len(count) == (1 if name.startswith("model") else 3):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            original(path, content)

        epochs = {"checkpoint.safetensors": 1, "history.csv": 2, "model.safetensors": 4}[name]
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "write", write)
            told = rf"run/{name} could not be written: No space.*Saved: {epochs} epochs.*--resume run"
            with pytest.raises(CheckpointError, match=told):
                pv.fit(make_vae(), digits, **FIT, folder="run")
        assert len(pv.resume("run", progress=False).history) == 4

    @pytest.mark.filterwarnings("ignore:log.txt and TensorBoard end here")
    def test_of_logs_alone_does_not_stop_training(self, make_vae, digits, monkeypatch):
        monkeypatch.setattr(report._Events, "add", full)
        assert len(pv.fit(make_vae(), digits, **FIT, folder="run").history) == 4

    @pytest.mark.filterwarnings("ignore:Encountered NaN", "ignore:log.txt and TensorBoard end here")
    def test_does_not_hide_a_loss_that_is_not_finite(self, make_vae, digits, monkeypatch):
        vae = make_vae()

        def ruin():
            monkeypatch.setattr(report.Report, "_write", lambda self, text: self._fail())
            with torch.no_grad():
                next(vae.parameters()).fill_(math.nan)

        def fail(self):
            with self._logging():
                full()

        monkeypatch.setattr(report.Report, "_fail", fail, raising=False)
        at_step(monkeypatch, 6, ruin)
        with pytest.raises(NonFiniteLossError, match="after 1 epochs, is in run"):
            pv.fit(vae, digits, **FIT, folder="run")


@pytest.mark.parametrize("folder", ["file", "file/run"])
def test_a_folder_that_cannot_be_written(folder, make_vae, digits):
    Path("file").write_text("mine")
    with pytest.raises(
        CheckpointError, match=r"file.* cannot be written \(.*\), where the run is to be kept"
    ):
        pv.fit(make_vae(), digits, **FIT, folder=folder)
    assert Path("file").read_text() == "mine"


class TestDisturbedInTraining:
    def test_a_folder_that_is_moved(self, make_vae, digits, monkeypatch):
        whole = pv.fit(make_vae(), digits, **FIT)
        with monkeypatch.context() as patch:
            at_step(patch, 6, lambda: Path("run").rename("elsewhere"))
            with pytest.raises(CheckpointError, match="run was moved or removed while it was trained"):
                pv.fit(make_vae(), digits, **FIT, folder="run")
        assert not Path("run").exists()
        resumed = pv.resume("elsewhere", progress=False)
        assert same(resumed.program.state_dict(), whole.program.state_dict())

    def test_a_configuration_that_is_removed(self, make_vae, digits, monkeypatch):
        at_step(monkeypatch, 6, Path("run/config.yaml").unlink)
        with pytest.warns(UserWarning, match="config.yaml was gone from run, and is there again"):
            run = pv.fit(make_vae(), digits, **FIT, folder="run")
        assert same(pv.load("run").state_dict(), run.program.state_dict())


def test_buffers_are_checked_before_they_are_saved(digits, monkeypatch):
    """Statistics of a batch that are not finite, which training itself does not see."""
    data = pv.data.load(digits.train[:400], validation=0.0, test=0.0)

    def net(in_shape, out_shape):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, out_shape[0]))

    vae = pv.VAE(data.event_shape, 2, encoder=net)
    norm = next(module for module in vae.modules() if isinstance(module, nn.BatchNorm1d))
    at_step(monkeypatch, 6, lambda: norm.running_mean.fill_(math.nan))
    with pytest.raises(NonFiniteLossError, match=r"running_mean not finite.*after 1 epochs"):
        pv.fit(vae, data, **FIT | {"batch_size": 100}, folder="run")


def test_weights_that_are_not_finite_are_not_loaded(make_vae, digits):
    folder = pv.fit(make_vae(), digits, **FIT, folder="run").folder
    tensors, meta = checkpoint.load_tensors(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("weight"))
    tensors[name][0] = math.nan
    checkpoint.save_tensors(folder / "model.safetensors", tensors, meta)
    with pytest.raises(CheckpointError, match=rf"weights in run/model.safetensors are not finite \({name}\)"):
        pv.load("run")


def test_no_warning_where_all_is_well(make_vae, digits):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pv.fit(make_vae(), digits, **FIT, folder="run", save_every=1, keep=1)
