"""The training step of stochastic variational inference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from math import isfinite
from typing import Any, NamedTuple, cast

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyro_vae.objectives import kl_divergence, scale_latents


class Losses(NamedTuple):
    """What one step minimised and its parts, means over the batch in nats per datum.

    For ``Trace_ELBO`` at beta = 1, ``loss`` estimates ``reconstruction + kl``, the negative ELBO.
    """

    loss: float
    reconstruction: float
    kl: float


class NonFiniteLossError(ArithmeticError):
    """The loss or a gradient became NaN or infinite; the message names the step and the site."""


class SVI:
    """Stochastic variational inference with a ``torch.optim`` optimizer and any ``pyro.infer.ELBO``.

    A step equals that of ``pyro.infer.SVI``, except that the loss is a mean over the data of the
    batch instead of a sum, and that parameters are those given instead of those that Pyro's store
    collects. The first step runs with Pyro's validation on, to catch mistakes; later steps without.

    Args:
        model: Pyro model; its first argument is the batch ``[B, ...]``.
        guide: Pyro guide, called with the same arguments.
        optimizer: over the parameters to be learned.
        loss: the objective.
        clip_norm: largest norm of the gradient (of the mean loss); None for no clipping.

    Reference: Hoffman et al., 2013, "Stochastic variational inference".
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        optimizer: torch.optim.Optimizer,
        loss: ELBO,
        *,
        clip_norm: float | None = None,
    ):
        self.model, self.guide = model, guide
        self.optimizer, self.clip_norm = optimizer, clip_norm
        self.loss = copy.copy(loss)  # an ELBO keeps what it guessed of the model's plates
        self.num_steps = 0

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The optimizer's parameters."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def step(self, x: Tensor, beta: float = 1.0) -> Losses:
        """Takes one gradient step on the batch x.

        Args:
            x: data ``[B, *event_shape]``.
            beta: factor of the latents' log-densities (see ``scale_latents``).

        Raises:
            NonFiniteLossError: the loss or the gradient's norm is not finite; nothing was updated.
        """
        model, guide = (poutine.trace(program) for program in (self.model, self.guide))
        self.optimizer.zero_grad(set_to_none=True)
        try:
            loss = self._loss_and_grads(model, guide, x, beta, validate=self.num_steps == 0)
        except ValueError as error:
            # Validation refuses NaN too; tell it from mistakes, and by the site where it arose.
            loss = self._loss_and_grads(model, guide, x, beta, validate=False)
            self.optimizer.zero_grad(set_to_none=True)
            if isfinite(loss):
                raise
            raise NonFiniteLossError(self._explain(loss, model.trace, guide.trace)) from error
        loss = loss / len(x)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        torch._foreach_mul_(gradients, 1 / len(x))
        norm = nn.utils.get_total_norm(gradients)
        if not (torch.isfinite(norm) and isfinite(loss)):
            raise NonFiniteLossError(self._explain(loss, model.trace, guide.trace))
        if self.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.clip_norm, norm)
        self.optimizer.step()
        self.num_steps += 1
        return Losses(loss, *_parts(model.trace, guide.trace))

    def _loss_and_grads(self, model: Any, guide: Any, x: Tensor, beta: float, validate: bool) -> float:
        with pyro.validation_enabled(validate), scale_latents(beta):
            loss = cast(Any, self.loss).loss_and_grads(model, guide, x)
        # ReweightedWakeSleep has two losses, of the model and of the guide.
        return float(sum(loss) if isinstance(loss, tuple) else loss)

    def _explain(self, loss: float, *traces: poutine.Trace) -> str:
        """Which site went wrong first, in the order of the program: the guide's, then the model's."""
        if not isfinite(loss):
            for trace, program in zip(reversed(traces), ("guide", "model"), strict=True):
                for name, site in _sites(trace):
                    with pyro.validation_enabled(False):
                        density = site["fn"].log_prob(site["value"])
                    for what, value in (("value", site["value"]), ("log-density", density)):
                        if not torch.isfinite(value).all():
                            return (
                                f"the loss is {loss} in step {self.num_steps + 1}: the {what} at site "
                                f"{name!r} of the {program}, a {site['fn']}, is not finite"
                            )
        return (
            f"the gradient's norm is not finite in step {self.num_steps + 1}, where the loss is {loss}, "
            "though every site is finite"
        )


@torch.no_grad()
def _parts(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> tuple[float, float]:
    """-E[log p(x|z)] and KL(q(z|x) || p(z)) per datum, from the sites of the two programs."""
    reconstruction = kl = 0.0
    with pyro.validation_enabled(False):
        for name, site in _sites(model_trace):
            if site["is_observed"]:
                reconstruction -= site["fn"].log_prob(site["value"]).mean().item()
            else:
                q: Any = guide_trace.nodes[name]["fn"]
                kl += kl_divergence(q, site["fn"], site["value"]).mean().item()
    return reconstruction, kl


def _sites(trace: poutine.Trace) -> Iterator[tuple[str, Any]]:
    """The sample sites of a program, without those that plates make to subsample."""
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and not site_is_subsample(site):
            yield name, site
