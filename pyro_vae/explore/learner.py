"""A copy of a program that takes steps while it is looked at."""

from __future__ import annotations

import copy

import torch

from pyro_vae.data import Split
from pyro_vae.evaluate.likelihood import unchecked_elbo
from pyro_vae.program import Program
from pyro_vae.running import one_thread, seed_generators
from pyro_vae.svi import SVI

BATCH, RATE = 128, 1e-3
"""Data of a step, and Adam's learning rate."""
MEASURED = 200
"""Held-out data of which the ELBO is told, under the same noise at each step."""


class Learner:
    """Plain SVI on a copy of a program, or on one made anew; what it was copied from stays as it is.

    Its objective is the program's own, ``Trace_ELBO`` or, of discrete latents, that which sums over them.

    Args:
        program: what is copied.
        train: the data of its steps.
        held_out: those whose ELBO is told.
        anew: whether parameters are drawn anew.
        seed: of parameters, batches and noise.

    Raises:
        ValueError: a program that does not tell what it was made of is to begin anew.

    Attributes:
        program: the copy.
        told: the objective's name.
        history: a row for each time that was looked: ``step``, ``elbo``, ``reconstruction``, ``kl``.
    """

    def __init__(self, program: Program, train: Split, held_out: Split, anew: bool, seed: int = 0):
        self.train, self.seed, self.taken = train, seed, 0
        self.held_out = Split(held_out.batch(slice(0, MEASURED), program.dtype), columns=held_out.columns)
        with torch.random.fork_rng([]):
            seed_generators(seed, torch.device("cpu"))
            self.program = _anew(program, train) if anew else copy.deepcopy(program)
        optimizer = torch.optim.Adam([p for p in self.program.parameters() if p.requires_grad], RATE)
        objective = self.program.objective()
        objective.max_plate_nesting = self.program.max_plate_nesting  # else it tells of its guess
        self.told = type(objective).__name__
        self.svi = SVI(self.program.model, self.program.guide, optimizer, objective, compile=False)
        self.history: list[dict[str, float]] = []
        self.look()

    def step(self, number: int) -> None:
        """Takes so many steps, and looks."""
        devices = [self.program.device] if self.program.device.type == "cuda" else []
        self.program.train()
        with one_thread(), torch.random.fork_rng(devices):
            for _ in range(number):
                seed_generators(self.seed + self.taken, self.program.device)
                rows = torch.randint(len(self.train), (min(BATCH, len(self.train)),))
                self.svi.step(self.program.place(self.train.batch(rows)))
                self.taken += 1
        self.program.eval()
        self.look()

    def look(self) -> None:
        """Adds where it stands to the history."""
        found = unchecked_elbo(self.program, self.held_out, num_samples=4)
        row = {"elbo": found.elbo, "reconstruction": found.reconstruction, "kl": found.kl}
        self.history.append({"step": self.taken} | row)


def _anew(program: Program, train: Split) -> Program:
    if not program.options:
        raise ValueError(
            f"a {type(program).__name__} does not tell what it was made of, so that it cannot begin anew; go "
            "on from where it stands"
        )
    made = type(program)(**program.options).to(program.device, program.dtype)
    for name, first in program.before.items():  # which learns nothing here
        made.see_gaps(train.gaps)
        made.before[name].load_state_dict(first.state_dict())
        made.before[name].requires_grad_(False)
    made.initialize(train)
    return made.eval()
