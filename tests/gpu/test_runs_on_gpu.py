"""Whole runs on a GPU, and from there to the CPU and back."""

import functools
import gc
import traceback
import warnings
from collections import Counter

import pyro.distributions as dist
import pytest
import torch
from plain import assert_same
from runs import FIT, interrupt_at, same

import pyro_vae as pv
from pyro_vae.checks import ConfigError
from pyro_vae.evaluate import log_likelihood
from pyro_vae.training import Interrupted, find_device

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that PyTorch can use"),
]

RECORDED = "recorded the compiled step as a CUDA graph"
NETS = {"encoder": pv.nets.mlp(16), "decoder": pv.nets.mlp(16)}
SHAPE = (1, 8, 8)
MODELS = {
    "VAE": lambda: pv.VAE(SHAPE, 2, **NETS),
    "conditional": lambda: pv.ConditionalVAE(SHAPE, given={"y": 10}, latent_dim=2, **NETS),
    "hierarchical": lambda: pv.HierarchicalVAE(SHAPE, (3, 2), **NETS),
    "flow": lambda: pv.VAE(SHAPE, 2, guide=pv.guides.Flow(), **NETS),
    "vamp": lambda: pv.VAE(SHAPE, 2, prior=pv.priors.VampPrior(5), **NETS),
    "student": lambda: pv.VAE(SHAPE, 2, likelihood=dist.StudentT, **NETS),
    "conv": lambda: pv.VAE(
        SHAPE, 2, encoder=pv.nets.conv(4, hidden_dim=16), decoder=pv.nets.conv(4, hidden_dim=16)
    ),
}


def noisy():
    """Digits whose pixels all vary: the gradients of a scale of almost 0 are rounding alone."""
    x = pv.data.load("digits", binarize="none").train[:1500]
    return pv.data.load(x + torch.rand(x.shape, generator=torch.Generator().manual_seed(2)))


@pytest.mark.parametrize("name", MODELS)
def test_fit(name, capsys):
    """With KL warm-up and data that are binarised on the GPU: the run is replayed, and the eager one."""
    runs = []
    for compile in (True, False):
        torch.manual_seed(1)
        data = noisy() if name == "student" else pv.data.load("digits", binarize="dynamic")
        run = pv.fit(
            MODELS[name](), data, epochs=3, batch_size=400, warmup_epochs=2, clip_norm=50.0, compile=compile
        )
        runs.append(run)
        assert (RECORDED in capsys.readouterr().out) == compile
        assert run.program.device.type == data.train.sources["x"].values.device.type == "cuda"
    losses = [[row["loss"] for row in run.history] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert_same(runs[0].program, runs[1].program, 1e-2)
    assert run.history[-1]["elbo"] > run.history[0]["elbo"]


def test_bf16(digits, capsys):
    run = pv.fit(MODELS["VAE"](), digits, **FIT | {"progress": True}, precision="bf16", compile=True)
    assert RECORDED in capsys.readouterr().out
    assert {p.dtype for p in run.program.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "optimizer",
    [
        torch.optim.AdamW,
        torch.optim.Adagrad,
        torch.optim.NAdam,
        functools.partial(torch.optim.SGD, momentum=0.5),
    ],
)
def test_optimizers(uncompiled, make_vae, digits, optimizer):
    runs = [
        pv.fit(make_vae(), digits, **FIT, optimizer=optimizer, clip_norm=5.0, device=device, compile=True)
        for device in ("cuda", "cuda", "cpu")
    ]
    assert same(runs[0].program.state_dict(), runs[1].program.state_dict())
    elbos = [run.history[-1]["elbo"] for run in runs]
    assert elbos[0] == pytest.approx(elbos[2], abs=1.0)  # the noise is another one


def test_resumed_there_and_elsewhere(uncompiled, make_vae, digits, monkeypatch):
    """On the GPU with the bits of the uninterrupted run; a checkpoint is none of the device's."""
    options = FIT | {"compile": True, "warmup_epochs": 2}
    whole = pv.fit(make_vae(), digits, **options, folder="whole")
    for folder in ("broken", "moved"):
        with monkeypatch.context() as patch:
            interrupt_at(patch, 6)
            with pytest.raises(Interrupted):
                pv.fit(make_vae(), digits, **options, folder=folder)
    resumed = pv.resume("broken", progress=False)
    assert same(whole.program.state_dict(), resumed.program.state_dict())
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)
        with pytest.raises(Interrupted):
            pv.resume("moved", device="cpu", progress=False)
    moved = pv.resume("moved", device="cuda", progress=False)
    assert moved.history[-1]["loss"] == pytest.approx(whole.history[-1]["loss"], abs=1.0)
    loaded = pv.load("whole")
    assert loaded.device.type == "cpu"
    assert same(loaded.state_dict(), {k: v.cpu() for k, v in whole.program.state_dict().items()})
    assert pv.load("moved").device.type == "cpu"


@pytest.mark.parametrize("compile", [False, True])
def test_log_likelihood_is_that_of_the_cpu(make_vae, digits, monkeypatch, compile):
    """Given the same draws."""

    def standard_normal(shape, dtype, device):
        return torch.normal(torch.zeros(shape, dtype=dtype), torch.ones(shape, dtype=dtype)).to(device)

    if not compile:  # else the draws would be constants of the record
        monkeypatch.setattr(torch.distributions.normal, "_standard_normal", standard_normal)
    vae = make_vae()
    x = digits.test[:40]
    options = {"num_samples": 100 if not compile else 5000, "seed": 3, "max_rows": 4000}
    here = log_likelihood(vae, x, **options, compile=False)
    there = log_likelihood(vae.cuda(), x, **options, compile=compile)
    torch.testing.assert_close(there.per_datum, here.per_datum, rtol=1e-4, atol=0.3 if compile else 1e-3)
    if compile:
        eager = log_likelihood(vae, x, **options, compile=False)
        torch.testing.assert_close(there.per_datum, eager.per_datum, rtol=1e-4, atol=1e-3)


def test_a_device_that_is_not_there():
    with pytest.raises(ConfigError, match="device='cuda:99' cannot be used"):
        find_device("cuda:99")
    assert find_device("auto") == torch.device("cuda:0")


def test_out_of_memory(digits):
    """The message says what to do, and the GPU can be used afterwards."""
    wide = {"encoder": pv.nets.mlp(32768), "decoder": pv.nets.mlp(32768)}
    gc.collect()
    torch.cuda.empty_cache()
    allowed = torch.cuda.memory_reserved() + 300e6  # of which an activation is 183
    torch.cuda.set_per_process_memory_fraction(allowed / torch.cuda.get_device_properties(0).total_memory)
    try:
        with pytest.raises(torch.OutOfMemoryError, match="batch_size=700 takes less"):
            pv.fit(pv.VAE(SHAPE, 2, **wide), digits, epochs=1, batch_size=1400, progress=False)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    pv.fit(MODELS["VAE"](), digits, epochs=1, progress=False)


def test_waits_of_an_epoch(uncompiled, make_vae, digits, capsys):
    """The host waits for the GPU a fixed number of times an epoch, not at each step."""
    counts, before, places = [], 0, Counter()

    def told(message, category, filename, lineno, *_):
        if "synchronizing" in str(message):
            frames = [f for f in traceback.extract_stack() if "pyro_vae" in f.filename]
            where = [f"{f.filename.rpartition('pyro_vae/')[2]}:{f.lineno}" for f in frames]
            places[" < ".join(where[::-1][:3])] += 1

    def callback(*_):
        nonlocal before
        counts.append(places.total() - before)
        before = places.total()

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = told
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for size in (100, 50):  # twice the steps, none to be checked in the second epoch
                options = {"epochs": 3, "batch_size": size, "progress": False, "compile": True}
                pv.fit(make_vae(), digits, **options, callback=callback)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    with capsys.disabled():
        print(f"\nwaits of epochs: {counts}")
        for place, count in places.most_common(40):
            print(f"{count:5} {place}")
    assert counts[1] == counts[3]  # the second epochs: nothing is compiled or recorded in them
