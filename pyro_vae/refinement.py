"""The steps that take what a guide's networks emit to what is best for each datum, the model being frozen."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyro
import torch
from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_STACK
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from pyro_vae.conditional import Conditional
from pyro_vae.objectives import elbo_terms
from pyro_vae.objectives.importance import by_datum, traces
from pyro_vae.program import Batch, Program, sites
from pyro_vae.running import as_emitted, parameters_known, seed_generators

PARTICLES = 8
"""Draws of the latents for each datum at each step."""
LEARNING_RATE = 0.03
"""Of Adam, constant: its noise is then the same in both quarters that are compared, and averaged out."""


class Moved(Program):
    """A program whose guide's networks emit, for each datum of one batch, something added of its own.

    Args:
        program: stays as it is.
        batch: the data.
        networks: whose output is moved; those that the guide runs and the model does not, if none are given.

    Raises:
        ValueError: the guide runs no network of its own.
    """

    def __init__(self, program: Program, batch: Batch, networks: Sequence[nn.Module] = ()):
        super().__init__()
        self.program = program
        self.max_plate_nesting, self.columns = program.max_plate_nesting, program.columns
        self.event_shapes = program.event_shapes
        self.networks = list(networks or _of_the_guide(program, batch))
        self.shifts = nn.ParameterList()
        self.guide(batch)
        if not len(self.shifts):
            raise ValueError(
                f"the guide of the {type(program).__name__} runs no network of its own that emits a tensor, "
                "which could be moved to the best q(z|x) of each datum; write one with a network, as in "
                "self.q_z = pv.Conditional('z', pv.guides.Normal(), (2,), (seen,), pv.nets.mlp())"
            )

    def model(self, batch: Any) -> Any:
        return self.program.model(batch)

    def guide(self, batch: Any) -> Any:
        with self.moving():
            return self.program.guide(batch)

    @contextlib.contextmanager
    def moving(self) -> Iterator[None]:
        """Within it the networks, called in the guide's order, emit what is moved."""
        number = 0

        def move(module: nn.Module, inputs: Any, emitted: Any) -> Any:
            nonlocal number
            if not isinstance(emitted, Tensor):
                return None
            if number == len(self.shifts):  # the first time, without particles
                self.shifts.append(nn.Parameter(torch.zeros_like(emitted)))
            shift = self.shifts[number]
            number += 1
            return (emitted.reshape(-1, *shift.shape) + shift).reshape(emitted.shape)

        with contextlib.ExitStack() as hooks:
            for network in self.networks:
                hooks.callback(network.register_forward_hook(move).remove)
            hooks.enter_context(as_emitted())
            yield


def _of_the_guide(program: Program, batch: Batch) -> list[nn.Module]:
    """The networks that the guide may run and the model does not."""
    parts = list(_parts(program))
    models = _called(parts, lambda: program.model(batch))
    own = [part for part in parts if part not in models and getattr(part, "parents", True)]
    return [part.net if isinstance(part, Conditional) else part for part in own]


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """The conditionals and networks that a program holds, without what these are made of."""
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict | Program):
            yield from _parts(child)
        else:
            yield child


def _called(parts: list[nn.Module], run: Callable[[], Any]) -> set[nn.Module]:
    """Those that ``run`` calls itself, and not within one another, as a VampPrior does the encoder."""
    found, depth = set(), 0

    def before(module: nn.Module, inputs: Any) -> None:
        nonlocal depth
        if not depth:
            found.add(module)
        depth += 1

    def after(module: nn.Module, inputs: Any, result: Any) -> None:
        nonlocal depth
        depth -= 1

    with contextlib.ExitStack() as hooks:
        for part in parts:
            hooks.callback(part.register_forward_pre_hook(before).remove)
            hooks.callback(part.register_forward_hook(after).remove)
        run()
    return found


def fit(program: Program, batch: Batch, num_steps: int) -> tuple[Moved, Tensor]:
    """The program with the best member of its guide's family for each datum of a batch, by Adam.

    Returns:
        it, and by how much the ELBO rose from the third quarter of the steps to the last, ``[B]``.
    """
    moved = Moved(program, batch)
    return moved, ascend(moved, batch, num_steps, LEARNING_RATE)


@torch.no_grad()
def ascend(moved: Moved, batch: Batch, num_steps: int, lr: float) -> Tensor:
    """Takes steps of Adam on each datum's ELBO, to the mean of the last quarter of them.

    Returns:
        by how much the ELBO rose from the third quarter to the last, ``[B]``.
    """
    shifts = list(moved.shifts)
    adam = torch.optim.Adam(shifts, lr)
    quarter = max(1, num_steps // 4)
    averages = [torch.zeros_like(shift) for shift in shifts]
    last = torch.zeros(2, moved.num_data(batch), device=moved.device)
    for left in range(num_steps, 0, -1):
        with torch.enable_grad(), parameters_known():
            elbo, surrogate = _elbo(moved, batch)
            gradients = torch.autograd.grad(-surrogate.mean(0).sum(), shifts, allow_unused=True)
        for shift, gradient in zip(shifts, gradients, strict=True):
            shift.grad = gradient
        adam.step()
        if left <= 2 * quarter:
            last[int(left <= quarter)] += elbo.mean(0) / quarter
        if left <= quarter:
            for average, shift in zip(averages, shifts, strict=True):
                average += shift.detach() / quarter
    for average, shift in zip(averages, shifts, strict=True):
        shift.copy_(average)
        shift.requires_grad_(False)
    return last[1] - last[0]


@torch.no_grad()
def refined(program: Program, batch: Batch) -> Moved:
    """A program whose ``SemiAmortised`` guide is moved by its steps, for each datum of a batch.

    The same each time: the steps' draws are under a seed of their own. A datum whose ELBO, at other draws,
    does not rise keeps what the encoder emits.

    Raises:
        NotImplementedError: a compiler records, which would take the seed's draws for those of each step.
    """
    if get_proxy_mode() is not None:
        raise NotImplementedError("a SemiAmortised guide takes steps under a seed of its own at each batch")
    device = program.device
    semi_amortised: list[Any] = list(program.semi_amortised)
    devices = [device] if device.type == "cuda" else []
    with _alone(), torch.random.fork_rng(devices), pyro.validation_enabled(False), parameters_known():
        seed_generators(0, device)
        moved = Moved(program, batch, [c.net for c in semi_amortised])
        bounds = []
        for takes_steps in (False, True):
            if takes_steps:
                ascend(moved, batch, semi_amortised[0].family.steps, semi_amortised[0].family.lr)
            seed_generators(1, device)
            bounds.append(_elbo(moved, batch)[0].mean(0))
    for shift in moved.shifts:
        rose = (bounds[1] > bounds[0]).reshape(-1, *[1] * (shift.dim() - 1))
        shift.copy_(torch.where(rose, shift, 0.0))
    return moved


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Without the handlers and plates in which a story is being told: the steps are no part of it."""
    before: list[Any] = [(held, held[:]) for held in (_PYRO_STACK, _DIM_ALLOCATOR._stack)]
    for held, _ in before:
        held.clear()
    try:
        yield
    finally:
        for held, values in before:
            held[:] = values


def _elbo(program: Program, batch: Batch) -> tuple[Tensor, Tensor]:
    """Of each particle and datum, ``[K, B]``; and what has its gradient, of draws that carry none, too.

    Reference: Kool, van Hoof and Welling, 2019, "Buy 4 REINFORCE samples, get a baseline for free!"
    """
    model, guide = traces(program, batch, PARTICLES)
    terms = (by_datum(term, program) for term in elbo_terms(model, guide).values())
    elbo = -sum(terms, torch.zeros(PARTICLES, program.num_data(batch), device=program.device))
    scores = [
        by_datum(site["fn"].log_prob(site["value"]), program)
        for _, site in sites(guide)
        if not site["fn"].has_rsample
    ]
    if not scores:
        return elbo.detach(), elbo
    elbo_of_others = (elbo.sum(0) - elbo) / (PARTICLES - 1)
    return elbo.detach(), elbo + (elbo - elbo_of_others).detach() * sum(scores)
