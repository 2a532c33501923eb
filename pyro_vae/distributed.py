r"""One run by several processes: each takes its share of every batch, and all go the same way.

Which processes there are is told by the environment that ``torchrun`` sets; without it nothing here is used.
Of a batch of B data process r of R takes rows floor(r B / R) to floor((r + 1) B / R), and what a step needs
of the whole batch, the loss, the ELBO's terms and the gradients, is

.. math:: \sum_r \frac{B_r}{B} \, (\text{mean over the } B_r \text{ data of process } r),

one all-reduce of one flat tensor in each step. Its result has the same bits in all processes, and so have
the weights that are updated by it.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import datetime
import functools
import itertools
import math
import os
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from pyro_vae import evaluate
from pyro_vae.checks import ConfigError
from pyro_vae.data import Split
from pyro_vae.data.source import Streamed
from pyro_vae.evaluate.likelihood import unchecked_elbo
from pyro_vae.evaluate.shown import standard_error
from pyro_vae.program import Program

_GROUPS = itertools.count()
"""Of this process, one after the other."""

_STORES: dict[tuple[str, ...], Any] = {}
"""Where processes meet, by what the environment says of it. It outlives their groups: one of the others may
already wait there for the next."""
atexit.register(_STORES.clear)  # which ends the thread of one that this process serves

_PATIENT: list[Any] = []
"""PyTorch's group in which to wait for the first process, while ``joined`` keeps one. Nothing else does, so
that its threads end where it ends."""

TIMEOUT = datetime.timedelta(minutes=30)
"""How long a process waits for the others, where one of them does not end but hangs."""

FIRST = datetime.timedelta(days=7)
"""How long they wait for what the first does alone: it may look at all data, however large they are."""

LOOK_EVERY = 32
"""Steps on a GPU between two looks at whether a process is to end, each of which waits for the GPU."""

T = TypeVar("T")


class ProcessError(RuntimeError):
    """Another process of the run has ended or does not answer, or does something else than this one."""


class Group:
    """The processes of a run.

    Args:
        rank: number of this one, from 0.
        size: how many there are, R.
    """

    def __init__(self, rank: int, size: int):
        self.rank, self.size = rank, size

    def share(self, number: int) -> slice:
        """Which of so many data are this process's: as many as the others', or one more or less.

        Of fewer data than processes, some share a first one, of which ``weight`` is then 0.
        """
        start, stop = self._ends(number)
        return slice(start, stop) if stop > start else slice(0, 1)

    def weight(self, number: int) -> float:
        """Its share of so many data."""
        start, stop = self._ends(number)
        return (stop - start) / number

    def _ends(self, number: int) -> tuple[int, int]:
        return self.rank * number // self.size, (self.rank + 1) * number // self.size

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in their order."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.size
        with _answering():
            dist.all_gather_object(found, value)
        return found

    def first(self, function: Callable[[], T]) -> T:
        """What a function returns in the first process, which alone calls it, or the error that it raises."""
        if self.size == 1:
            return function()
        import torch.distributed as dist

        found: list[Any] = [None, None]
        raised: Exception | None = None
        if self.rank == 0:
            try:
                found[0] = function()
            except Exception as error:
                raised, found[1] = error, _sent(error)
        with _answering():
            dist.broadcast_object_list(found, 0, *_PATIENT)
        if raised is not None or found[1] is not None:
            raise raised or found[1]
        return cast(T, found[0])

    def agree(self, what: str, value: Any) -> None:
        """Refuses to go on where processes have different values.

        Raises:
            ProcessError: naming what differs, and the processes.
        """
        found = self.gather(value)
        others = [str(rank) for rank, other in enumerate(found) if other != found[0]]
        if others:
            raise ProcessError(
                f"{what} of process {', '.join(others)} are not those of process 0; start all of them by the "
                "same command, on the same data and versions: torchrun --nproc-per-node 2 -m pyro_vae train"
            )

    def any(self, value: bool) -> bool:
        """Whether it is so in one of the processes."""
        return any(self.gather(value))

    def copy_program(self, program: Program) -> None:
        """Gives a program the weights, and the shapes of its data, that it has in the first process."""
        programs = [module for module in program.modules() if isinstance(module, Program)]
        shapes = self.first(lambda: [each.event_shapes for each in programs])
        for each, own in zip(programs, shapes, strict=True):
            each.event_shapes = own
        self._broadcast(list(program.state_dict().values()))

    def copy_buffers(self, program: Program) -> None:
        """The same of its buffers alone: statistics of batch normalisation are of one process's share."""
        self._broadcast(list(program.buffers()))

    def _broadcast(self, tensors: list[Tensor]) -> None:
        if self.size == 1:
            return
        import torch.distributed as dist

        with _answering(), torch.no_grad():
            for tensor in tensors:
                whole = tensor.detach().contiguous()
                dist.broadcast(whole, 0)
                if whole.data_ptr() != tensor.data_ptr():
                    tensor.copy_(whole)


ALONE = Group(0, 1)
"""A process that trains by itself."""


def _sent(error: Exception) -> Exception:
    """An error as others can be told of it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return ProcessError(f"process 0: {type(error).__name__}: {error}")
    return error


class Average:
    """The mean over the whole batch of what each process has computed on its share.

    By one number more it tells the others whether a process is to end: all do, after the same step.

    Attributes:
        weight: of this process's share in the step to come.
        asked: called in each step, whether this process is to end.
    """

    def __init__(self, group: Group):
        self.group, self.weight = group, 1 / group.size
        self.asked: Callable[[], bool] = lambda: False
        self._flat = torch.empty(0)
        self._sizes: list[int] | None = None
        self._taken = 0
        self._ends = False

    def __call__(self, values: list[Tensor]) -> list[Tensor]:
        """Means of tensors, in memory that the next step overwrites."""
        import torch.distributed as dist

        sizes = [value.numel() for value in values]
        if self._sizes is None:
            self.group.agree("the parameters that have a gradient", sizes)
            self._sizes = sizes
            dtype = functools.reduce(torch.promote_types, (value.dtype for value in values))
            self._flat = values[0].new_empty(sum(sizes) + 1, dtype=dtype)
        if sizes != self._sizes:  # which the others do not know of
            raise ProcessError(
                "other parameters have a gradient than in the first step, and what several processes add up "
                "must be alike; train such a program in one: torchrun --nproc-per-node 1"
            )
        flat = self._flat
        with torch.no_grad():
            torch.cat([value.reshape(-1) for value in values], out=flat[:-1])
            flat[:-1].mul_(self.weight)
            flat[-1].fill_(float(self.asked()))
            with _answering():
                dist.all_reduce(flat)
            means = [
                piece.view(value.shape).to(value.dtype)
                for piece, value in zip(flat[:-1].split(sizes), values, strict=True)
            ]
        self._taken += 1
        if not flat.is_cuda or self._taken % LOOK_EVERY == 0:
            self._ends = bool(flat[-1].item())
        # Optimizers expect gradients that are laid out as parameters are.
        return [
            mean if value.is_contiguous() else torch.empty_like(value).copy_(mean)
            for mean, value in zip(means, values, strict=True)
        ]

    def __bool__(self) -> bool:
        """Whether all are to end after the step that was taken last."""
        return self._ends


@contextlib.contextmanager
def joined() -> Iterator[Group]:
    """The processes of this run: those that ``torchrun`` has started, or whose group the caller has made.

    Raises:
        ProcessError: another one has ended, or does not answer.
        ConfigError: the environment tells of several by halves.
    """
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        yield Group(dist.get_rank(), dist.get_world_size())
        return
    told = _told()
    if not told:
        yield ALONE
        return
    # Its functions' defaults keep the group that there is as it is imported: imported later, by the
    # compiler, that group would not end where it is destroyed, but at the interpreter's end, in its threads.
    import torch.distributed.nn
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with _answering():
        if told not in _STORES:
            _STORES[told] = next(rendezvous("env://", timeout=TIMEOUT))
        store, rank, size = _STORES[told]
        # torchrun's outlives processes that it starts anew, and in it is where those were.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)
        store = PrefixStore(f"attempt {attempt}, group {next(_GROUPS)}", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        _PATIENT.append(dist.new_group(backend="gloo", timeout=FIRST))
    try:
        yield Group(rank, size)
    finally:
        _PATIENT.clear()
        dist.destroy_process_group()  # and so others who wait for this one no longer do


def _told() -> tuple[str, ...]:
    """Number and place of the processes, and which is this one, as the environment says; empty of one alone.

    Raises:
        ConfigError: it does not say which, or how to find the others.
    """
    found = {name: os.environ.get(name, "") for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")}
    size, rank, address, port = told = tuple(found.values())
    if size in ("", "1"):
        return ()
    if size.isdecimal() and rank.isdecimal() and int(rank) < int(size) and address and port.isdecimal():
        return told
    shown = ", ".join(f"{name}={value}" if value else f"no {name}" for name, value in found.items())
    raise ConfigError(
        f"the environment has {shown}, by which this process cannot find others; start several by torchrun "
        "--nproc-per-node 2 -m pyro_vae train, or one alone: unset WORLD_SIZE"
    )


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    """Says what it means where others do not answer."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, ProcessError):
            raise
        reason = re.sub(r"^\[.*?\] ", "", str(error).partition(". ")[0].partition("\n")[0])
        raise ProcessError(
            f"another process of the run has ended or does not answer ({reason[:100]}); what it says itself "
            "tells why. Go on with the run when that is mended: --resume auto"
        ) from error


def noise_seed(seed: int, step: int, rank: int) -> int:
    """The seed of a process's noise in a step: other noise in each, and no state to be kept."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])


def part(split: Split, rows: slice) -> Split:
    """Some of a split's data, without copying them or reading the others."""
    streamed = {name: source for name, source in split.sources.items() if isinstance(source, Streamed)}
    values: dict[str, Any] = {
        name: source.values if isinstance(source, Streamed) else source.values[rows]
        for name, source in split.sources.items()
    }
    own = Split(
        values,
        divisor=split.sources[split.first].divisor,
        binarize=split.binarize if split.first in streamed else "none",  # what is in memory is drawn already
        seed=split.seed,
        rows=next((source.rows[rows] for source in streamed.values()), None),
        class_names=split.class_names,
        columns=split.columns,
    )
    own.gaps = split.gaps  # though there be none in this part
    return own


def elbo_of_all(group: Group, program: Program, data: Split) -> evaluate.ELBO:
    """The ELBO of data, without its errors: each process evaluates its share, by noise of its own."""
    size = len(data)
    found = unchecked_elbo(program, part(data, group.share(size)), seed=group.rank)
    each = group.gather((group.weight(size), found))

    def mean(of: Callable[[evaluate.ELBO], float]) -> float:
        return math.fsum(weight * of(one) for weight, one in each if weight)

    terms = {name: mean(lambda one, name=name: one.terms[name]) for name in found.terms}  # type: ignore[misc]
    parts = (mean(lambda one: one.elbo), mean(lambda one: one.reconstruction), mean(lambda one: one.kl))
    return evaluate.ELBO(*parts, math.nan, math.nan, terms)


def log_likelihood(program: Program, data: Split, *, seed: int = 0, **options: Any) -> evaluate.LogLikelihood:
    """``pv.evaluate.log_likelihood`` under ``torchrun``: each process takes its share, and all get all.

    Args:
        program: the model, of the same weights in all processes, as ``pv.fit`` leaves it.
        data: a split such as ``data.test``.
        seed: of the draws, which are others for another number of processes.
        options: those of ``pv.evaluate.log_likelihood``.

    Raises:
        DataError: the data lie outside the likelihood's support.
        ProcessError: another process has ended.
    """
    with joined() as group:
        own = part(data, group.share(len(data)))
        found = evaluate.log_likelihood(program, own, seed=seed + group.rank, **options)
        kept = slice(None if group.weight(len(data)) else 0)  # of fewer data than processes, some have none
        names = ("per_datum", "effective_sample_size", "pareto_k")
        parts = group.gather({name: getattr(found, name)[kept] for name in names})
        whole: dict[str, Any] = {name: torch.cat([each[name] for each in parts]) for name in names}
    mean = whole["per_datum"].mean().item()
    bits = found.bits_per_dim and found.bits_per_dim * mean / found.log_likelihood
    return dataclasses.replace(
        found,
        log_likelihood=mean,
        standard_error=standard_error(whole["per_datum"]),
        bits_per_dim=bits,
        binarized=data.binarized,
        **whole,
    )
