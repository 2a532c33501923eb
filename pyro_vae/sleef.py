"""Makes PyTorch's special functions as fast as they are meant to be, on processors where they are not.

Sleef's AVX-512 functions, which PyTorch and what inductor compiles are built on, load the constants of
their special cases (infinities, overflow, NaN) under a mask that is nearly always all zero: ``vbroadcastss
mem, zmm{k}``. Such a load reads nothing and never faults. But while the page of the library that it points
to is not in memory, AMD's Zen 4 takes a detour of some 400 cycles at each of them, and as nothing faults,
the page never comes: log1p runs 10 times slower and expm1 7 times, and with them every softplus and every
binary cross-entropy, in eager and in compiled code, for the life of the process. Which functions are hit
depends on where the linker put the constants, and on what the kernel has read ahead.

One call on special values brings the page in. That is all that is done here, once, when the package is
imported; it takes 20 milliseconds, changes no result, and does nothing on processors that never had the
problem (an Intel Xeon with AMX was found to be one). ``python benchmarks/sleef.py`` shows the effect on the
machine at hand; docs/sleef.md has the whole story.
"""

from __future__ import annotations

import math

import torch

SPECIAL = (
    *(0.0, -0.0, 0.3, -0.3, 1.0, -1.0, 2.0, -2.0, 9.0, -9.0, 90.0, -90.0, 110.0, -110.0, 750.0, -750.0),
    *(1e-40, -1e-40, 1e-310, 1e10, -1e10, 1e38, -1e38, 1e300, math.inf, -math.inf, math.nan),
)

FUNCTIONS = (
    *(torch.log1p, torch.expm1, torch.exp, torch.exp2, torch.log, torch.log2, torch.log10, torch.sigmoid),
    *(torch.sinh, torch.cosh, torch.tanh, torch.acosh, torch.asinh, torch.atanh, torch.erf, torch.erfc),
    *(torch.sin, torch.cos, torch.tan, torch.lgamma, torch.nn.functional.softplus),
    *(torch.nn.functional.logsigmoid, torch.nn.functional.gelu),
    *(lambda x: torch.pow(x, 1.7), lambda x: torch.hypot(x, x), lambda x: torch.fmod(x, 0.7)),
)


@torch.no_grad()
def touch_constants() -> None:
    """Calls each function on values that take each of its branches."""
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor(SPECIAL, dtype=dtype)
        for function in FUNCTIONS:
            function(x)
