"""Where a run is trained: what its bits may hang on besides its configuration and data."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import torch


def stamp(device: torch.device) -> dict[str, str]:
    """Versions, threads and processors, by name."""
    names = {"pyro_vae": "pyro_vae", "torch": "torch", "pyro": "pyro-ppl", "numpy": "numpy"}
    found = {name: version(package) for name, package in names.items()}
    found |= {"python": platform.python_version(), "system": platform.platform()}
    found |= {"processor": _processor(), "instructions": torch.backends.cpu.get_cpu_capability()}
    found |= {"threads": str(torch.get_num_threads()), "device": str(device)}
    if device.type == "cuda":
        found |= {"device": torch.cuda.get_device_name(device), "cuda": str(torch.version.cuda)}
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()
