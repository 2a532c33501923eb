"""How the learning rate and the weight of the KL change over a run."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pyro_vae.checks import ConfigError

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1.0 - progress,
    # Burda et al., 2016: 10^(-i/7) for 3^i epochs, i = 0..7, of 3280 in all.
    "burda": lambda progress: 10 ** (-math.floor(math.log(6560 * progress + 1, 3)) / 7),
}
"""Factors of the learning rate, as functions of the fraction of training done, in [0, 1)."""


def warmup(epoch: float, epochs: int, num_batches: int) -> float:
    """Linear KL warm-up: from one step's share at epoch 0 to exactly 1 in the last step of ``epochs``.

    Args:
        epoch: epochs done, a multiple of 1 / num_batches.
        epochs: of the warm-up.
        num_batches: steps in an epoch.
    """
    step, steps = round(epoch * num_batches) + 1, epochs * num_batches
    return 1.0 if step >= steps else step / steps


class LearningRate:
    """An optimizer's learning rate over a run.

    Args:
        optimizer: whose rate is set.
        lr: the rate at its highest; or the rate as a function of the epochs done, and no schedule.
        schedule: a name in ``SCHEDULES``, or a factory of a PyTorch scheduler, stepped after each epoch.
        epochs: in the run.

    Raises:
        ConfigError: the factory makes no scheduler, or the function no rate.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        lr: float | Callable[[float], float],
        schedule: str | Callable[[torch.optim.Optimizer], LRScheduler],
        epochs: int,
    ):
        self.optimizer, self.scheduler = optimizer, None
        if callable(lr):
            self.rate: Callable[[float], float] | None = lr
        elif isinstance(schedule, str):
            self.rate = lambda epoch: lr * SCHEDULES[schedule](epoch / epochs)
        else:
            self.rate, self.scheduler = None, _scheduler(schedule, optimizer)

    def plan(self, epochs: list[float]) -> list[float] | None:
        """The rate in each step, at so many epochs done; None where a scheduler sets it."""
        if not self.rate:
            return None
        rates = [float(self.rate(epoch)) for epoch in epochs]
        for epoch, rate in zip(epochs, rates, strict=True):
            if not 0 <= rate < math.inf:
                raise ConfigError(f"lr({epoch:g}) is {rate:g}; it must be a number from 0 up")
        return rates

    def end_epoch(self, row: Mapping[str, float]) -> None:
        """After an epoch, with its row of the history."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(-row["validation_elbo"] if "validation_elbo" in row else row["loss"])
        elif self.scheduler:
            with warnings.catch_warnings():  # a run that is resumed has taken its steps before
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
                self.scheduler.step()

    def state(self) -> dict[str, Any]:
        """What has changed in the scheduler since it was made: numbers, and lists of them."""
        stored = self.scheduler.state_dict() if self.scheduler else {}
        plain = {name: _plain(value) for name, value in stored.items()}
        return {name: value for name, value in plain.items() if value is not NotImplemented}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes up what ``state`` gave."""
        if self.scheduler:
            self.scheduler.load_state_dict(self.scheduler.state_dict() | dict(state))


def _scheduler(schedule: Callable[[torch.optim.Optimizer], Any], optimizer: torch.optim.Optimizer) -> Any:
    try:
        made = schedule(optimizer)
    except (TypeError, ValueError) as error:
        name = getattr(schedule, "__name__", schedule)
        raise ConfigError(f"the schedule {name} cannot be made: {error}; schedule='cosine' can") from error
    if not isinstance(made, LRScheduler):
        raise ConfigError(
            f"the schedule returned a {type(made).__name__}, which is no LRScheduler of PyTorch"
        )
    return made


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        items = [_plain(item) for item in value]
        return NotImplemented if NotImplemented in items else items
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return value.item()
    return value if value is None or isinstance(value, bool | int | float | str) else NotImplemented
