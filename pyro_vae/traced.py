"""Programs that keep the trace of their last run, and what the traces tell of a step that failed."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from math import isfinite
from typing import Any, cast

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae.losses import several

Context = Callable[[], AbstractContextManager[Any]]


class NonFiniteLossError(ArithmeticError):
    """The loss or a gradient became NaN or infinite; the message names the step and the site."""


class Traced(functools.partial[Any]):
    """A program within contexts, which keeps the trace of its last run.

    Else it is as it was: objectives look through a ``partial(handler, program)``, and ask for attributes.
    """

    def __new__(cls, program: Callable[..., Any], contexts: Sequence[Context]) -> Traced:
        self = super().__new__(cls, _run, contexts, program)  # a partial of a partial would be flattened
        self.traced = poutine.Trace()
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with poutine.trace() as handler, ExitStack() as stack:
            for context in self.args[0]:
                stack.enter_context(context())
            result = _run(*self.args, *args, **kwargs)
        self.traced = handler.trace
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.args[1], name)


def _run(_: Sequence[Context], program: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return program(*args, **kwargs)


def explain(
    programs: Sequence[Traced],
    loss: Callable[..., Any],
    arguments: Any,
    generators: dict[torch.device, Tensor],
    step: int,
    factor: float,
) -> str:
    """Which site went wrong first, in the order of the program: the guide's, then the model's.

    Args:
        programs: model and guide.
        loss: of both and their arguments.
        arguments: args and kwargs.
        generators: the states of the random generators, by device, before the step.
        step: its number.
        factor: by which the loss is multiplied.
    """
    args, kwargs = arguments
    with torch.random.fork_rng([device for device in generators if device.type == "cuda"]):
        for device, state in generators.items():
            if device.type == "cuda":
                torch.cuda.set_rng_state(state, device)
            else:
                torch.set_rng_state(state)
        with pyro.validation_enabled(False), torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Encountered")  # it is what we are after
            total = float(sum(several(loss(*programs, *args, **kwargs))))
            if not isfinite(total):
                for program, name in zip(reversed(programs), ("guide", "model"), strict=True):
                    for site_name, site in program.traced.nodes.items():
                        if site["type"] != "sample" or site_is_subsample(site):
                            continue
                        fn, value = cast(tuple[Any, Tensor], (site["fn"], site["value"]))
                        for what, found in (("value", value), ("log-density", fn.log_prob(value))):
                            if not torch.isfinite(found).all():
                                return (
                                    f"the loss is {total} in step {step}: the {what} at site "
                                    f"{site_name!r} of the {name}, a {fn}, is not finite"
                                )
    return (
        f"the gradient's norm is not finite in step {step}, where the loss is {total * factor}, though every "
        "site is finite"
    )
