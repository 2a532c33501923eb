"""What tests of runs share."""

import os
import signal

import torch

from pyro_vae.svi import SVI

FIT = {"epochs": 4, "batch_size": 400, "progress": False}  # 4 batches an epoch, the last one ragged


def same(one, other):
    """Whether two state dicts have the same bits."""
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
