"""What a stranger's first GPU may be or lack, with ``torch.cuda`` in part made up."""

import contextlib
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from runs import FIT, interrupt_at, same

import pyro_vae as pv
from pyro_vae import checkpoint
from pyro_vae.checks import ConfigError
from pyro_vae.data.source import Memory, sent
from pyro_vae.svi import SVI
from pyro_vae.training import Interrupted, devices
from pyro_vae.training.devices import CUBLAS, deterministic, find_device, settle, stays, uncompiled

GPU = torch.device("cuda:0")


@pytest.fixture
def gpus(monkeypatch):
    """Makes up how many GPUs there are, and what is free on each."""

    def make_up(number, free=0, built=True):
        monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: built)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(number))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
        for name in ("CUDA_VISIBLE_DEVICES", "LOCAL_RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name, raising=False)

    return make_up


@pytest.mark.parametrize(
    ("number", "device", "message"),
    [
        (
            1,
            "cuda:9",
            r"device='cuda:9' cannot be used \(there is one GPU here, cuda:0\); device='cuda:0' can",
        ),
        (2, "cuda:2", r"\(there are 2 GPUs here, cuda:0 to cuda:1\); device='cuda:0' can"),
        (0, "cuda", r"\(no GPU is found, nor a driver for one\); device='cpu' can; nvidia-smi tells"),
        (0, "cuda:1", r"\(no GPU is found"),
        (1, "gpu", r"device='gpu' cannot be used .*device='cpu' can"),
        (1, "cuda:x", r"Invalid device string: 'cuda:x'"),
        (1, "", r"device='' cannot be used"),
        (0, "hpu", r"\(this PyTorch, .*, is built without it\); device='cpu' can"),
    ],
)
def test_a_device_that_is_not_there(gpus, number, device, message):
    gpus(number)
    with pytest.raises(ConfigError, match=message) as caught:
        find_device(device)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("device", "rank", "found"), [("auto", 1, "cuda:1"), ("cuda", 0, "cuda:0"), ("cuda:0", 1, "cuda:0")]
)
def test_each_process_has_a_gpu_of_its_own(gpus, monkeypatch, device, rank, found):
    gpus(2)
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.setattr(torch, "zeros", lambda shape, device: SimpleNamespace(device=device))
    assert find_device(device) in (torch.device("cuda"), GPU)  # of a process alone, where that was left
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert find_device(device) == torch.device(found)


def test_more_processes_than_gpus(gpus, monkeypatch):
    gpus(1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    message = r"'cuda:1' cannot be used \(there is one GPU here, cuda:0\); .*torchrun --nproc-per-node 1"
    with pytest.raises(ConfigError, match=message):
        find_device("auto")
    assert find_device("cpu") == torch.device("cpu")


def test_a_pytorch_without_cuda(gpus):
    gpus(0, built=False)
    with pytest.raises(ConfigError, match=r"built without CUDA\); .*pytorch.org/get-started"):
        find_device("cuda")


def test_a_gpu_that_is_hidden(gpus, monkeypatch):
    gpus(0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError, match=r"\(no GPU is found: CUDA_VISIBLE_DEVICES is ''\)"):
        find_device("cuda")


def test_a_driver_that_is_too_old(gpus, monkeypatch):
    """PyTorch warns of it, and that is the reason."""

    def available():
        warnings.warn("The NVIDIA driver on your system is too old (found version 1)", stacklevel=1)
        return False

    gpus(0)
    monkeypatch.setattr(torch.cuda, "is_available", available)
    with pytest.raises(ConfigError, match=r"\(The NVIDIA driver on your system is too old"):
        find_device("cuda")


def test_memory_is_estimated_before_data_are_moved(gpus, make_vae, digits):
    """Twice the data and three times the parameters fit, and a byte less does not."""
    vae = make_vae()
    held = [source for split in (digits.train, digits.test) for source in split.sources.values()]
    size = sum(v.nbytes for s in held for v in vars(s).values() if isinstance(v, torch.Tensor))
    trained = 3 * sum(p.nbytes for p in vae.parameters())
    gpus(1, 2 * size + trained)
    assert stays(vae, held, GPU) == ""
    gpus(1, 2 * size + trained - 1)
    told = stays(vae, held, GPU)
    assert "stay in the memory of the host, from which each batch is sent: cuda:0 has" in told
    assert "activations, which are not counted" in told
    assert "\n" not in told
    assert stays(vae, held, torch.device("cpu")) == ""


def test_what_pytorch_keeps_for_itself_is_free(gpus, make_vae, digits, monkeypatch):
    gpus(1, 0)
    held = list(digits.train.sources.values())
    assert stays(make_vae(), held, GPU)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2**40)
    assert stays(make_vae(), held, GPU) == ""


@pytest.mark.parametrize("fit", [True, False])
def test_data_are_moved_or_stay(monkeypatch, make_vae, digits, fit):
    """ "meta" stands in for the GPU."""
    monkeypatch.setattr(devices, "stays", lambda *_: "" if fit else "they stay")
    vae, meta = make_vae(), torch.device("meta")
    assert settle(vae, digits, meta) == ([] if fit else ["they stay"])
    assert vae.device == meta
    assert {s.values.device.type for s in digits.train.sources.values()} == {"meta" if fit else "cpu"}


def test_data_on_disk_stay_there(tmp_path, make_vae, monkeypatch):
    """With what is beside them, so that rows are looked up where they are."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((40, 1, 8, 8), np.float32))
    data = pv.data.load(tmp_path / "x.npy", stream=True)
    assert not any(isinstance(source, Memory) for source in data.train.sources.values())
    monkeypatch.setattr(devices, "stays", lambda *_: "")
    assert settle(make_vae(), data, torch.device("meta")) == []
    assert next(data.train.batches(5))["x"].device.type == "cpu"


def test_mps_knows_no_float64(make_vae, digits):
    with pytest.raises(ConfigError, match=r"mps' knows no float64.*program.float\(\)"):
        settle(make_vae().double(), digits, torch.device("mps"))
    held = list(digits.train.sources.values())
    assert stays(make_vae(), held, torch.device("mps")).endswith("since mps knows no float64")


def test_batches_are_sent_through_pinned_memory(monkeypatch):
    calls = []

    class Value:
        device = torch.device("cpu")

        def pin_memory(self):
            calls.append("pinned")
            return self

        def to(self, device, non_blocking):
            calls.append((str(device), non_blocking))
            return self

    sent(Value(), GPU)
    assert calls == ["pinned", ("cuda:0", True)]
    x = torch.ones(2)
    assert sent(x, torch.device("cpu")) is x


def test_where_nothing_is_compiled(monkeypatch):
    assert uncompiled(torch.device("cpu")) == ""
    assert "nothing has been compiled yet" in uncompiled(torch.device("mps"))
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    assert "pip install triton" in uncompiled(GPU)
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: object())
    assert uncompiled(GPU) == ""


@pytest.mark.parametrize("warn_only", [None, False, True])
def test_deterministic_is_set_and_restored(warn_only):
    torch.use_deterministic_algorithms(warn_only is not None, warn_only=bool(warn_only))

    def state():
        enabled = torch.are_deterministic_algorithms_enabled()
        return enabled, torch.is_deterministic_algorithms_warn_only_enabled()

    before = state()
    try:
        with contextlib.suppress(KeyError), deterministic(True, torch.device("cpu")):
            assert state() == (True, False)
            raise KeyError
        assert state() == before
        with deterministic(False, torch.device("cpu")):
            assert state() == before
    finally:
        torch.use_deterministic_algorithms(False)


def test_deterministic_products_need_a_word_to_cublas(monkeypatch):
    monkeypatch.delenv(CUBLAS, raising=False)
    with pytest.raises(ConfigError, match=f"{CUBLAS}, which is not set.*export {CUBLAS}=:4096:8"):
        deterministic(True, GPU).__enter__()
    monkeypatch.setenv(CUBLAS, ":4096:8")
    with deterministic(True, GPU):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_run_of_a_gpu_is_gone_on_with_here(make_vae, digits, monkeypatch):
    """Its checkpoint names no device: what a GPU adds, its generator and how the optimizer ran, is left."""
    whole = pv.fit(make_vae(), digits, **FIT)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 6)
        with pytest.raises(Interrupted):
            pv.fit(make_vae(), digits, **FIT, folder="run")
    path = Path("run") / checkpoint.CHECKPOINT
    tensors, meta = checkpoint.load_tensors(path)
    assert {value.device.type for value in tensors.values()} == {"cpu"}
    for group in meta["optimizer"]["param_groups"]:
        assert not isinstance(group["lr"], torch.Tensor)
        group |= {"fused": True, "capturable": True, "foreach": None}
    meta["stamps"][0]["device"] = "NVIDIA H100"
    checkpoint.save_tensors(path, tensors | {"rng.cuda": torch.zeros(16, dtype=torch.uint8)}, meta)
    resumed = pv.resume("run", data=digits, progress=False)
    assert same(whole.program.state_dict(), resumed.program.state_dict())


def test_deterministic_is_on_in_steps_and_off_afterwards(make_vae, digits, monkeypatch):
    """On a processor the bits are the same with and without."""
    seen, step = [], SVI.step

    def looking(self, *args, **kwargs):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return step(self, *args, **kwargs)

    monkeypatch.setattr(SVI, "step", looking)
    runs = [pv.fit(make_vae(), digits, **FIT, deterministic=d) for d in (True, False)]
    assert {*seen[:16]} == {True} != {*seen[16:]}
    assert not torch.are_deterministic_algorithms_enabled()
    assert same(*(run.program.state_dict() for run in runs))


def test_why_steps_are_eager_is_told(make_vae, digits, monkeypatch, capsys):
    monkeypatch.setattr("pyro_vae.training.loop.uncompiled", lambda device: "no Triton")
    pv.fit(make_vae(), digits, epochs=1, batch_size=400, compile=True)
    assert "steps are eager: no Triton" in capsys.readouterr().out
