"""Where a run is computed: the device, what fits into its memory, and how it is kept to the same bits."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from pyro_vae.checks import ConfigError
from pyro_vae.data import Data, Split
from pyro_vae.data.source import Memory, Source, reason
from pyro_vae.program import Program

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
"""What cuBLAS reads when it is loaded: sums of one order each time need ``:4096:8`` there."""


def find_device(device: str) -> torch.device:
    """The device of a name; ``auto`` is cuda if there is one, else cpu.

    Of processes that ``torchrun`` starts, each takes a GPU of its own, the one of its number on the machine.

    Raises:
        ConfigError: there is no such device.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and _by_torchrun():
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    mend = "device='cpu' can"
    try:
        place = torch.device(device)
        if place.type == "cuda":
            missing, mend = _missing(place.index or 0)
            if missing:
                raise RuntimeError(missing)
        return torch.zeros((), device=place).device
    except (RuntimeError, AssertionError, ImportError) as error:
        if isinstance(error, NotImplementedError | ImportError):
            error = RuntimeError(f"this PyTorch, {torch.__version__}, is built without it")
        raise ConfigError(f"device={device!r} cannot be used ({reason(error)}); {mend}") from error


def _by_torchrun() -> bool:
    """Not where a ``LOCAL_RANK`` alone was left in the environment."""
    return {"LOCAL_RANK", "WORLD_SIZE"} <= os.environ.keys()


def _missing(index: int) -> tuple[str, str]:
    """Why there is no such GPU, or nothing, and what can be used."""
    if not torch.backends.cuda.is_built():
        told = f"this PyTorch, {torch.__version__}, is built without CUDA"
        return told, "device='cpu' can, or a GPU by another PyTorch: https://pytorch.org/get-started/locally"
    with warnings.catch_warnings(record=True) as caught:  # of a driver that is too old, say
        warnings.simplefilter("always")
        number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not number:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = f": CUDA_VISIBLE_DEVICES is {visible!r}" if visible is not None else ", nor a driver for one"
        told = str(caught[0].message) if caught else f"no GPU is found{hidden}"
        return told, "device='cpu' can; nvidia-smi tells whether there is a driver"
    if index >= number:
        there = "one GPU here, cuda:0" if number == 1 else f"{number} GPUs here, cuda:0 to cuda:{number - 1}"
        mend = "device='cuda:0' can"
        if _by_torchrun():
            mend += f", and so many processes: torchrun --nproc-per-node {number}"
        return f"there is {there}" if number == 1 else f"there are {there}", mend
    return "", "device='cpu' can"


def settle(program: Program, data: Data, device: torch.device) -> list[str]:
    """Moves the program to the device, and the data where they fit beside it; tells where they do not.

    Data on disk stay there, and those that do not fit in the memory of the host: their batches are sent.

    Returns:
        lines to tell.

    Raises:
        ConfigError: the device has no numbers of the program's kind.
    """
    if device.type == "mps" and program.dtype == torch.float64:
        raise ConfigError(
            "device='mps' knows no float64, of which this program is; program.float() can be used"
        )
    program.to(device)
    held = [source for split in _splits(data) for source in split.sources.values()]
    told = stays(program, held, device)
    place = torch.device("cpu") if told or not all(isinstance(source, Memory) for source in held) else device
    data.to(place)
    return [told] if told else []


def stays(program: Program, held: list[Source], device: torch.device) -> str:
    """Why data stay in the memory of the host; nothing where they fit into the device's, or are there.

    They may take half of what is free beside the gradients and two moments of each parameter, as Adam has:
    activations, which nobody knows before the first step, take the rest.
    """
    if device.type == "cpu":
        return ""
    size = sum(
        value.nbytes
        for source in held
        if isinstance(source, Memory)
        for value in vars(source).values()
        if isinstance(value, Tensor) and value.device != device
    )
    if device.type != "cuda":
        return f"data stay in the memory of the host, since {device.type} knows no float64" if size else ""
    trained = 3 * sum(p.nbytes for p in program.parameters() if p.requires_grad)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by PyTorch, for itself
    free = torch.cuda.mem_get_info(device)[0] + kept
    if 2 * size <= free - trained:
        return ""
    return (
        f"data of {_told(size)} stay in the memory of the host, from which each batch is sent: {device} has "
        f"{_told(free)} free, of which gradients and optimizer take {_told(trained)}, and half of the rest "
        "is left to activations, which are not counted"
    )


def uncompiled(device: torch.device) -> str:
    """Why no step can be compiled for the device; nothing where one can."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "Triton, which compiles for GPUs, is not installed: pip install triton"
    if device.type not in ("cpu", "cuda"):
        return f"for {device.type} nothing has been compiled yet"
    return ""


@contextlib.contextmanager
def deterministic(wanted: bool, device: torch.device) -> Iterator[None]:
    """Within it PyTorch takes, if that is wanted, none but operations whose results are the same each time.

    Raises:
        ConfigError: cuBLAS was not told to.
    """
    if not wanted:
        yield
        return
    if device.type == "cuda" and os.environ.get(CUBLAS) not in (":4096:8", ":16:8"):
        raise ConfigError(
            f"deterministic=True needs {CUBLAS}, which is {os.environ.get(CUBLAS, 'not set')}, before Python "
            f"starts: export {CUBLAS}=:4096:8"
        )
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _splits(data: Data) -> list[Split]:
    return [data.train, data.validation, data.test]


def _told(size: int) -> str:
    """Bytes, to be read."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
