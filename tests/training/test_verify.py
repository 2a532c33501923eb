"""Whether a run, trained again, has the same bits; and if not, what differs."""

import pytest
import torch
from runs import FIT, interrupt_at

import pyro_vae as pv
from pyro_vae.checkpoint import CheckpointError
from pyro_vae.cli import main
from pyro_vae.svi import SVI
from pyro_vae.training import Interrupted, verify


@pytest.fixture
def run(make_vae, digits, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 6)
        with pytest.raises(Interrupted):
            pv.fit(make_vae(), digits, **FIT, folder="run")
    pv.resume("run", progress=False)


def test_the_same_bits(run):
    for epochs, found in ((None, 4), (2, 2), (9, 4)):
        verified = verify("run", epochs=epochs, progress=False)
        assert (verified.epochs, verified.differs, verified.stamps) == (found, None, {})
    assert str(verified) == "the same bits after each of 4 epochs"


def test_with_more_epochs(run):
    pv.resume("run", epochs=6, progress=False)
    assert verify("run", progress=False).differs is None
    assert verify("run", epochs=6, progress=False).epochs == 6


def test_other_bits_and_why(run, monkeypatch, capsys):
    """A step that is another from the tenth on, on a machine with other threads."""
    original, count = SVI.step, []

    def step(self, *args):
        count.append(1)
        if len(count) == 10:
            with torch.no_grad():
                self.parameters[0].mul_(1 + 1e-6)
        return original(self, *args)

    monkeypatch.setattr(SVI, "step", step)
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    verified = verify("run", progress=False)
    assert (verified.differs, verified.stamps) == (3, {"threads": (str(threads), "77")})
    assert str(verified) == f"other bits from epoch 3 on. What differs: threads was {threads}, is 77"
    count.clear()
    assert main(["verify", "run", "--epochs", "3"]) == 4
    assert "other bits from epoch 3 on" in capsys.readouterr().out
    assert main(["verify", "run", "--epochs", "1"]) == 0


def test_what_has_not_begun(make_vae, digits, monkeypatch):
    interrupt_at(monkeypatch, 1)
    with pytest.raises(Interrupted):
        pv.fit(make_vae(), digits, **FIT, folder="run")
    with pytest.raises(CheckpointError, match="no epoch that could be trained again"):
        verify("run")
