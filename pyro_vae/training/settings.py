"""The options of ``pv.fit``: the one place where they are listed, told of and checked."""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
import pyro.infer
import torch
from pyro.optim import PyroOptim

from pyro_vae import registry
from pyro_vae.checks import ConfigError, Count, NotNegative, Positive, Seed, Whole
from pyro_vae.registry import Trust
from pyro_vae.training.schedules import SCHEDULES

Rate = Positive | Callable[[float], float]
Weight = NotNegative | Callable[[float], float]


@dataclass(frozen=True)
class Settings:
    """How ``pv.fit`` trains.

    Args:
        epochs: passes over the training data.
        batch_size: data per gradient step, of all processes together.
        lr: learning rate at its highest; or a function of the epochs done, such as 0.5, that is the learning
            rate and leaves nothing to ``schedule``. By default 1e-2 of a SequentialVAE, 2e-3 of a
            SemiSupervisedVAE with ``features``.
        optimizer: any ``torch.optim`` class, or ``functools.partial`` of one with its arguments.
        schedule: of the learning rate over the whole run: constant, cosine, linear (to 0), or burda; or a
            factory of a scheduler, such as those of ``torch.optim.lr_scheduler``, stepped after each epoch.
        loss: any ``pyro.infer.ELBO``; those of ``pv.objectives`` too. By default TraceEnum_ELBO() of a
            program whose guide enumerates discrete latents, RLOO() of one that takes score functions.
        beta: weight of the KL in training (beta-VAE; Higgins et al., 2017), or a function of the epochs done,
            such as those of ``pv.objectives.schedules``: Linear(10), Cyclical(10), Monotone(10).
            Where it is not 1, what is minimised bounds no log p(x); it never enters a reported ELBO.
        warmup_epochs: epochs over which the weight of the KL rises linearly to ``beta`` (KL warm-up). By
            default a third of them of a SequentialVAE, unless ``beta`` or what is no ELBO is given.
        clip_norm: largest norm of the gradient of the mean loss.
        patience: epochs without a better validation ELBO after which training stops; the best weights are
            then restored. Counted from the end of the warm-up.
        compile: whether the step is compiled (see pyro_vae.svi.SVI), which takes a few seconds and changes no
            result but in rounding; auto: in runs of at least 1000 steps. Steps on the smaller last batch of
            an epoch are eager in runs of less than 1000 epochs.
        precision: float32; or bf16: the networks' matrix products and convolutions in bfloat16 while
            training, with distributions, the KL, parameters and all evaluation in float32.
        device: cpu, cuda, one of several (cuda:1), or auto: cuda if there is one. On mps and others steps are
            eager.
        deterministic: whether PyTorch is to take none but operations whose results are the same each time, at
            the price of some speed; one that has none such is an error. On a CPU they all are.
        seed: of the noise, the order of the data and the dynamic binarisation.
        save_every: steps after which a checkpoint is written within an epoch, besides that at its end.
        keep: epochs whose checkpoints stay, the last ones, as checkpoint-EPOCH.safetensors.
        max_minutes: time after which training ends at the next step, with all saved, to be gone on with.

    Raises:
        ConfigError: a value is of the wrong type, or will not do.
    """

    epochs: Count = 100
    batch_size: Count = 128
    lr: Rate = 1e-3
    optimizer: Any = torch.optim.Adam
    schedule: str | Callable[..., Any] = "cosine"
    loss: Any = field(default_factory=pyro.infer.Trace_ELBO)
    beta: Weight = 1.0
    warmup_epochs: Whole = 0
    clip_norm: Positive | None = None
    patience: Count | None = None
    compile: bool | Literal["auto"] = "auto"
    precision: Literal["float32", "bf16"] = "float32"
    device: str = "auto"
    deterministic: bool = False
    seed: Seed = 0
    save_every: Count | None = None
    keep: Whole = 0
    max_minutes: Positive | None = None

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(type(self), include_extras=True).items():
            value = getattr(self, name)
            value = value.item() if isinstance(value, np.generic) else value
            if (
                inspect.isclass(value)
                and issubclass(value, pyro.infer.ELBO)
                and (value not in registry.UNUSABLE)
            ):
                value = value()
            object.__setattr__(self, name, value)
            registry.check(name, value, hint)
            if wrong := _CHECKS[name](value) if name in _CHECKS else "":
                told = value if isinstance(value, str) else " ".join(registry.write(value).split())
                raise ConfigError(f"{name}={told[:80]} {wrong}")
        if callable(self.lr) and self.schedule != "cosine":
            raise ConfigError("lr is a function of the epoch, which is a schedule; leave schedule out")
        if callable(self.beta) and self.warmup_epochs:
            raise ConfigError("beta is a function of the epoch, warm-up and all; leave warmup_epochs out")
        if (self.beta != 1 or self.warmup_epochs) and not self.weighs_kl:
            name, value = ("warmup_epochs", self.warmup_epochs) if self.beta == 1 else ("beta", self.beta)
            raise ConfigError(
                f"{name}={registry.write(value)} weighs the KL of an ELBO, and "
                f"loss={registry.write(self.loss)} has none to weigh: leave {name} out, or take "
                "loss=pyro.infer.Trace_ELBO()"
            )

    @property
    def weighs_kl(self) -> bool:
        """Whether the loss has a KL that a weight means something to."""
        return bool(getattr(self.loss, "weighs_kl", not isinstance(self.loss, _OF_WEIGHTS)))

    @classmethod
    def from_plain(cls, values: Mapping[str, Any], trust: Trust = ()) -> Settings:
        """Settings from plain values, such as those of a configuration, or objects.

        Args:
            values: by option; texts stand for parts (``"SGD(momentum=0.9)"``) and numbers.
            trust: modules whose classes and functions may be imported.

        Raises:
            ConfigError: there is no such option, or a value will not do.
        """
        known = cls.documentation()
        for name in values:
            if name not in known:
                raise ConfigError(f"fit has no option {name!r}; {registry.nearest(name, known)}")
        return cls(**{name: _read(name, value, trust) for name, value in values.items()})

    def to_plain(self) -> dict[str, Any]:
        """Plain values from which ``from_plain`` makes the settings again."""
        plain = bool | int | float | str | None
        values = {option.name: getattr(self, option.name) for option in fields(self)}
        return {name: v if isinstance(v, plain) else registry.write(v) for name, v in values.items()}

    @classmethod
    def documentation(cls) -> dict[str, str]:
        """What each option is, by name."""
        listed = re.split(r"^    (\w+): ", (inspect.getdoc(cls) or "").split("\n\n")[1], flags=re.MULTILINE)
        return {name: " ".join(text.split()) for name, text in zip(listed[1::2], listed[2::2], strict=True)}


_OF_WEIGHTS = (pyro.infer.RenyiELBO, pyro.infer.ReweightedWakeSleep, pyro.infer.TraceTailAdaptive_ELBO)
"""Objectives of Pyro's that are made of importance weights, in which a weight of the KL has no meaning."""


def _optimizer(value: Any) -> str:
    cls, keywords = (value.func, value.keywords) if isinstance(value, functools.partial) else (value, {})
    if isinstance(value, torch.optim.Optimizer | PyroOptim) or not callable(value):
        return "must be a class, torch.optim.Adam, or functools.partial(torch.optim.SGD, momentum=0.9)"
    if "lr" in keywords:
        return "has an lr of its own; give it to fit: lr=..."
    return "does not fit here; optimizer=torch.optim.Adam does" if cls in registry.UNUSABLE else ""


def _loss(value: Any) -> str:
    fine = isinstance(value, pyro.infer.ELBO) and type(value) not in registry.UNUSABLE
    return "" if fine else "does not fit here; loss=pyro.infer.Trace_ELBO() does"


def _schedule(value: Any) -> str:
    if value in SCHEDULES if isinstance(value, str) else value not in registry.UNUSABLE:
        return ""
    return f"is no schedule; {registry.nearest(str(value), {**SCHEDULES, **registry.names('schedule')})}"


_CHECKS: dict[str, Callable[[Any], str]] = {"optimizer": _optimizer, "schedule": _schedule, "loss": _loss}
"""What is wrong with a part, by option."""


def _read(name: str, value: Any, trust: Trust) -> Any:
    """What a text stands for."""
    if not isinstance(value, str):
        return value
    if name not in ("optimizer", "schedule", "loss"):
        value = registry.plain(value)
        if name not in ("lr", "beta") or not isinstance(value, str) or not {".", "("} & {*value}:
            return value
        try:
            return registry.read("beta" if name == "beta" else "function", value, trust)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
    if (
        name == "schedule"
        and value.isidentifier()
        and value.lower() not in map(str.lower, registry.names(name))
    ):
        return value  # one of this package's, or none
    return registry.read(name, value, trust)
