"""Threads and children of a process: Pyro has one state for all threads, and OpenMP none for children."""

import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest

import pyro_vae as pv
from pyro_vae.running import one_thread

QUICK = {"epochs": 3, "progress": False, "device": "cpu"}


@contextlib.contextmanager
def busy():
    """Another thread that holds what only one may."""
    held, done = threading.Event(), threading.Event()

    def hold():
        with one_thread():
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize(
    "use",
    [
        lambda vae, x: pv.evaluate.elbo(vae, x),
        lambda vae, x: vae.generate(2),
        lambda vae, x: pv.figures.samples(vae, 4),
    ],
    ids=["elbo", "generate", "samples"],
)
def test_a_second_thread_is_refused(make_vae, digits, use):
    vae, x = make_vae(), digits.validation[:10]
    with busy(), pytest.raises(RuntimeError, match=r"another thread .* a process for each: .*'spawn'"):
        use(vae, x)
    use(vae, x)


def test_the_first_is_not_disturbed(make_vae, digits):
    expected = pv.fit(make_vae(), digits, **QUICK).history[-1]["elbo"]
    refused = []

    def second(epoch, row, program):
        def run():
            with pytest.raises(RuntimeError, match="another thread"):
                pv.evaluate.elbo(vae, digits.validation)
            refused.append(epoch)

        thread = threading.Thread(target=run)
        with one_thread():  # what fit holds
            thread.start()
            thread.join()

    vae = make_vae()
    assert pv.fit(make_vae(), digits, callback=second, **QUICK).history[-1]["elbo"] == expected
    assert refused == [1, 2, 3]


def test_one_thread_may_nest(make_vae, digits):
    def evaluate(epoch, row, program):
        assert pv.evaluate.elbo(program, digits.validation, num_samples=1).elbo == row["validation_elbo"]

    pv.fit(make_vae(), digits, callback=evaluate, **QUICK)


FORKED = """
import os, torch
import pyro_vae as pv
torch.set_num_threads(2)
torch.mm(torch.ones(800, 800), torch.ones(800, 800))
data = pv.data.load(torch.rand(500, 200).round())  # whose batches take more than one thread
def fit():
    nets = {"encoder": pv.nets.mlp(8), "decoder": pv.nets.mlp(8)}
    pv.fit(pv.VAE((200,), 2, **nets), data, epochs=1, batch_size=250, progress=False, device="cpu")
fit()
child = os.fork()
if child == 0:
    fit()
    os._exit(torch.get_num_threads())
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 1, status
assert torch.get_num_threads() == 2
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_of_a_process_that_has_trained_trains():
    """OpenMP's threads are not there after a fork, and a child that waits for them would wait for ever."""
    command = [sys.executable, "-W", "ignore", "-c", FORKED]
    own = os.environ | {
        "OMP_WAIT_POLICY": "passive"
    }  # where tests share the cores, waiting in a loop is slow
    with subprocess.Popen(command, env=own, start_new_session=True) as process:
        try:
            assert process.wait(120) == 0
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail("the child hangs")
