"""Are PyTorch's special functions slowed down by constants that are not in memory? (See pyro_vae/sleef.py.)

    python benchmarks/sleef.py

times each function of 200,704 numbers in a fresh process with PyTorch alone, before and after the
cure. It takes two minutes, and wants an idle machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import torch

CURE = Path(__file__).parent.parent / "pyro_vae" / "sleef.py"
FUNCTIONS = [
    "log1p",
    "expm1",
    "exp",
    "log",
    "tanh",
    "erf",
    "erfc",
    "lgamma",
    "sinh",
    "cosh",
    "acosh",
    "asinh",
]
FUNCTIONS += ["atanh", "exp2", "sigmoid"]


def cure() -> ModuleType:
    """The module alone: importing the package would apply it."""
    spec = importlib.util.spec_from_file_location("sleef_alone", CURE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measure(name: str, dtype: torch.dtype) -> tuple[float, float]:
    """Median milliseconds before and after, in this process."""
    function, x = getattr(torch, name), torch.rand(200_704, dtype=dtype) * 0.9 + 0.05

    def median() -> float:
        times = []
        for _ in range(40):
            began = time.perf_counter()
            function(x)
            times.append(time.perf_counter() - began)
        return 1000 * statistics.median(times[5:])

    before = median()
    cure().touch_constants()
    return before, median()


def in_fresh_process(name: str, dtype: str = "float32", threads: int = 1) -> tuple[float, float]:
    """``measure``, where nothing has touched the constants yet."""
    command = [sys.executable, __file__, "--one", name, dtype, str(threads)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    before, after = output.split()[-2:]
    return float(before), float(after)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--one", nargs=3, metavar=("FUNCTION", "DTYPE", "THREADS"), help="in this process")
    chosen = parser.parse_args()
    if chosen.one:
        name, dtype, threads = chosen.one
        torch.set_num_threads(int(threads))
        print(*measure(name, getattr(torch, dtype)))
        return
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}\n")
    print("| function | dtype | threads | before, ms | after, ms | ratio |\n|---|---|---:|---:|---:|---:|")
    for dtype in ("float32", "float64"):
        for threads in (1, torch.get_num_threads()):
            for name in FUNCTIONS:
                before, after = in_fresh_process(name, dtype, threads)
                ratio = before / after
                mark = "**" if ratio > 1.5 else ""
                print(
                    f"| {name} | {dtype} | {threads} | {before:.3f} | {after:.3f} | {mark}{ratio:.2f}{mark} |"
                )


if __name__ == "__main__":
    main()
