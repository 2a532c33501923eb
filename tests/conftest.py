from __future__ import annotations

import os
from pathlib import Path

import pyro
import pytest
import torch

import pyro_vae as pv

# Processes of `pytest -n` share the cores: threads that wait for a core cost more than they bring.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    threads = max(1, (os.cpu_count() or 1) // workers)
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # of the processes that tests start

MNIST = Path(__file__).resolve().parents[2] / "shared" / "data" / "mnist"


def pytest_collectstart(collector: pytest.Collector) -> None:
    """What a file of tests draws as it is imported is the same in every process, whatever came before it."""
    if isinstance(collector, pytest.Module):
        pyro.set_rng_seed(0)


@pytest.fixture(autouse=True)
def _seeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test under one seed, in a folder of its own, with an empty parameter store."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    if not MNIST.exists():
        pytest.skip("no MNIST at hand; put it in ../shared/data/mnist to run this test")
    return MNIST


@pytest.fixture
def digits() -> pv.data.Data:
    return pv.data.load("digits", binarize="dynamic")


@pytest.fixture
def make_vae():
    """A small VAE, the same at each call; keywords swap its parts."""

    def make(event_shape=(1, 8, 8), latent_dim=2, **parts) -> pv.VAE:
        torch.manual_seed(1)
        nets = {"encoder": pv.nets.mlp(16), "decoder": pv.nets.mlp(16)}
        return pv.VAE(event_shape, latent_dim, **(nets | parts))

    return make


@pytest.fixture
def double():
    """Float64 as the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def uncompiled(monkeypatch):
    """What is recorded is run as it is, which is quicker, and as right."""
    from pyro_vae.engine import private

    monkeypatch.setattr(private, "inductor", lambda graph, inputs: graph)


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures are composed, and not rendered, which is most of the time of ``pyro-vae train`` here."""
    monkeypatch.setattr(pv.figures.Figure, "savefig", lambda self, file, **options: file.write(b"no picture"))
