"""What holds while programs run: one thread at it, seeds, and which of its forms a story is run in."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from contextvars import ContextVar

import torch

_BUSY = threading.RLock()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Refuses a second thread of the process what draws and traces, but not the same one.

    Pyro keeps its handlers, its validation and its parameters, and PyTorch its random generators, once for
    all threads: of two that train, one would meet the other's sites, and both the other's noise.

    Raises:
        RuntimeError: another thread is at it.
    """
    lock = _BUSY  # another one in a child that is forked within
    if not lock.acquire(blocking=False):
        raise RuntimeError(
            "another thread of this process trains or evaluates a program, and Pyro's handlers and PyTorch's "
            "random generators are one for all threads; wait for it, or take a process for each: "
            "multiprocessing.get_context('spawn')"
        )
    try:
        yield
    finally:
        lock.release()


def _after_fork() -> None:
    """A child has one thread: nobody else is busy, and OpenMP's, which it would wait for, are gone."""
    global _BUSY
    _BUSY = threading.RLock()
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


def seed_generators(seed: int, device: torch.device) -> None:
    """Seeds the CPU's generator and that of the device, and no other."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)


KNOWN: ContextVar[bool] = ContextVar("whether the parameters are known to who runs a program", default=False)
LEARNED: ContextVar[bool] = ContextVar("whether the model is what was learned of it", default=False)
EMITTED: ContextVar[bool] = ContextVar("whether the guide is what its networks emit", default=False)


@contextlib.contextmanager
def _within(flag: ContextVar[bool], value: bool = True) -> Iterator[None]:
    token = flag.set(value)
    try:
        yield
    finally:
        flag.reset(token)


def parameters_known() -> contextlib.AbstractContextManager[None]:
    """Within it, programs announce one parameter, by which Pyro's ELBOs know of a gradient to take.

    All of them would take a millisecond a step, and who runs the programs has them already.
    """
    return _within(KNOWN)


def as_learned() -> contextlib.AbstractContextManager[None]:
    """Within it, weights that are latent are drawn from their guide, which is what was learned of them."""
    return _within(LEARNED)


def as_emitted() -> contextlib.AbstractContextManager[None]:
    """Within it, a ``SemiAmortised`` guide takes no steps."""
    return _within(EMITTED)


@contextlib.contextmanager
def as_written() -> Iterator[None]:
    """Within ``evaluating``, both stories as written: weights that are latent have their prior, and sites."""
    with _within(LEARNED, False), as_emitted():
        yield
