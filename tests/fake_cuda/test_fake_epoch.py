"""An epoch waits for a GPU twice, at its end: seen without one."""

from unittest import mock

import torch
from stand_in import Gpu

import pyro_vae as pv
from pyro_vae.distributed import ALONE
from pyro_vae.seen import observing
from pyro_vae.training import loop
from pyro_vae.training.report import Report
from pyro_vae.training.settings import Settings
from pyro_vae.training.signals import Stops

ONCE = {
    ("read", "pyro_vae/svi.py:check"): "whether a step failed, before anything else is believed",
    ("copy", "pyro_vae/checkpoint.py:fetched"): "losses and terms of all steps, and the weights, all at once",
}
"""What the host waits for in an epoch, and why."""


def epoch(make_vae, num_batches):
    """One whose steps are replayed, as far as the loop sees."""
    gpu, x = Gpu(), torch.rand(8 * num_batches, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    data, vae = pv.data.load(x, binarize="dynamic", validation=0, test=0), make_vae()
    vae.initialize(data.train)
    data.train.redraw(0)  # so that statistics are known, as they are from the door
    gpu.move(vae)
    for source in data.train.sources.values():
        vars(source).update({n: gpu.put(v) for n, v in vars(source).items() if isinstance(v, torch.Tensor)})
    chosen = Settings(epochs=9, batch_size=8, warmup_epochs=2, beta=2.0)
    adam, generator = torch.optim.Adam(vae.parameters()), torch.Generator()
    with (
        mock.patch.object(loop, "make_optimizer", return_value=adam),
        mock.patch.object(loop.checkpoint, "finite", return_value=set()),
    ):
        training = loop._prepare(vae, data, chosen, None, None, ALONE, [])
    training.rate.optimizer.param_groups[0]["lr"] = gpu.put(torch.ones(()))
    svi, seen_at = training.svi, []

    def step(batch, beta):
        assert batch["x"].is_cuda
        assert beta.is_cuda
        svi.terms = batch["x"].mean((1, 2, 3))[:2]
        svi._pending.append((torch.zeros(1, device="cuda"), svi.num_steps, None))
        svi.num_steps += 1
        seen_at.append(sum(seen.values()))
        return batch["x"].mean() * beta

    with (
        gpu.watched() as seen,
        observing(frozenset()),
        mock.patch.object(torch, "Generator", return_value=generator),
        mock.patch.object(svi, "step", step),
        Report(None, 9, num_batches, 0, False, False) as report,
    ):
        training.state.terms = ["reconstruction_x", "kl_z"]
        training.epoch(report, Stops())
    assert len(seen_at) == num_batches
    return seen, seen_at


def test_an_epoch_waits_at_its_end(make_vae):
    (few, during), (many, _) = epoch(make_vae, 2), epoch(make_vae, 4)
    assert few == many
    assert {*during} == {0}  # before the first step and between steps nothing is waited for
    assert few == dict.fromkeys(ONCE, 1)
