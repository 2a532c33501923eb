"""Stochastic variational inference whose step is compiled: Pyro's handlers run once, not at each step."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from math import inf, isfinite
from typing import Any, Literal, cast

import pyro
import pyro.infer
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.infer.abstract_infer import TracePosterior
from pyro.optim import PyroOptim
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor, nn

from pyro_vae.losses import Objective
from pyro_vae.traced import Context, Traced, explain
from pyro_vae.traced import NonFiniteLossError as NonFiniteLossError

Compile = Literal["auto", True, False]
Precision = Literal["float32", "bf16"]
Result = tuple[Tensor, Tensor, Tensor, dict[nn.Parameter, Tensor | None]]
"""Of a step: the loss, the norm of the gradient, further terms, and the gradients, clipped; None of a
parameter that Pyro's optimizer meets, though the loss does not depend on it."""

AUTO_STEPS = 1000
"""Steps after which ``compile="auto"`` compiles: a run that is over before has not waited for it."""
CHECK_EVERY, LAUNCHES = 32, 4
"""Steps on a GPU, and launches of them, between two looks at whether the loss is finite, each of which waits
for the GPU."""
TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Largest distance of a compiled gradient from the eager one, relative to its norm."""

_LOGGER = logging.getLogger(__name__)


class CompilationWarning(UserWarning):
    """Something is run eagerly that was to be compiled; the message says why."""


class SVI(pyro.infer.SVI):
    """Stochastic variational inference: ``pyro.infer.SVI`` with a compiled step.

    Takes any Pyro model and guide of static structure: which sites there are, and their shapes, may depend on
    the shapes of the arguments, and on few numbers computed from them, but on no other values of tensors. The
    step is traced once for each through all of Pyro, gradients included, and compiled. It is the same
    function as the eager step, seed for seed: that is checked when it is compiled and again at its
    10th, 100th, 1000th ... use, and where it fails, the step is eager from there on, with a warning.
    Equal are loss and gradients, each of them, whose distance is within 1e-3 of the eager one's norm in
    float32 (1e-7 in float64, 5e-2 in bfloat16), or of 1e-3 of the whole gradient's norm if that is larger.

    Numbers that change from step to step (an annealing factor) should be tensors: anything else is
    compiled in, and another number means another compilation, up to 16. Changes of modules, and of what
    the programs reach by their closures and globals, are followed in the same way; those that Python does
    not show (a file's, an iterator's) are noticed by the next check.

    The first step is eager, with Pyro's validation, if that is on, to catch mistakes; later ones without.

    Otherwise it is used as Pyro's, but that losses are tensors, and one that is not finite is an error.

    Args:
        model: Pyro model.
        guide: Pyro guide, called with the same arguments.
        optim: a ``torch.optim`` optimizer over the parameters to be learned (one with ``fused=True`` is
            fastest), or a ``pyro.optim`` one, which learns all parameters of model and guide.
        loss: the objective: an ``ELBO``, of which the ``Jit`` kinds are computed as those without; or a
            function of model, guide and their arguments to a tensor.
        loss_and_grads: of a function, another one that also adds the gradients to the parameters'
            ``.grad``; None to differentiate the loss.
        num_samples, num_steps: what ``run()`` draws from the posterior, and takes; deprecated in Pyro.
        compile: True; False; or ``"auto"``: after the first 1000 steps.
        precision: ``"float32"`` leaves dtypes as they are; ``"bf16"`` runs the matrix products and
            convolutions within model and guide in bfloat16, by ``torch.autocast``; densities are computed
            outside of it. Parameters and their gradients keep their dtype.
        reduction: ``"sum"``: the loss is that of Pyro; ``"mean"``: one number, divided by the length of the
            first tensor among the arguments, in the order of lists and dicts.
        clip_norm: largest norm of the gradient; None for no clipping.
        terms: also computed in each step, and found in ``svi.terms``: a function of the traces of the model
            and of the guide to a tensor.
        average: where several processes take each step together, each on its share of the data: of tensors
            of this one's, the same of all. Given are the loss, the terms and the gradients, in each step
            once; clipping, and whether they are finite, then follow from what it returns.
        log: called with a line on each compilation.

    Raises:
        ValueError: an option, the loss or the optimizer is none of those above, or LBFGS.

    Reference: Hoffman et al., 2013, "Stochastic variational inference".
    """

    terms: Tensor

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        optim: torch.optim.Optimizer | PyroOptim,
        loss: ELBO | Callable[..., Any],
        loss_and_grads: Callable[..., Any] | None = None,
        num_samples: int = 0,
        num_steps: int = 0,
        *,
        compile: Compile = "auto",
        precision: Precision = "float32",
        reduction: Literal["sum", "mean"] = "sum",
        clip_norm: float | None = None,
        terms: Callable[[poutine.Trace, poutine.Trace], Tensor] | None = None,
        average: Callable[[list[Tensor]], list[Tensor]] | None = None,
        log: Callable[[str], None] = _LOGGER.info,
    ):
        for name, value, accepted in (
            ("compile", compile, ("auto", True, False)),
            ("precision", precision, ("float32", "bf16")),
            ("reduction", reduction, ("sum", "mean")),
        ):
            if value not in accepted:
                raise ValueError(f"{name}={value!r} is none of {', '.join(map(repr, accepted))}")
        if not isinstance(optim, PyroOptim | torch.optim.Optimizer) or isinstance(optim, torch.optim.LBFGS):
            raise ValueError(
                f"optim is a {type(optim).__name__}, and must be an optimizer of pyro.optim or torch.optim "
                "that takes gradients: LBFGS needs a closure, a MultiOptimizer the loss, by its own step"
            )
        if clip_norm is not None and not 0 < clip_norm < inf:
            raise ValueError(
                f"clip_norm={clip_norm!r} must be a positive number; None leaves gradients as they are"
            )
        if num_samples or num_steps:
            warnings.warn("num_samples and num_steps are deprecated in Pyro", FutureWarning, stacklevel=2)
        TracePosterior.__init__(self)
        self.model, self.guide, self.optim = model, guide, optim
        self._objective = Objective(loss, loss_and_grads)
        self.num_samples, self._steps_to_run = num_samples, num_steps
        self.compile, self.precision, self.reduction = compile, precision, reduction
        self.clip_norm, self.log = clip_norm, log
        self.num_steps = 0
        self.num_compilations = 0
        self._terms, self._average = terms, average
        self._steps: Any = None  # the compiled ones
        self._pending: list[tuple[Tensor, int, Callable[[int], Any]]] = []  # launches not looked at
        self._captured: dict[nn.Parameter, None] = {}  # by Pyro, in any step
        self._warned = False
        self._device = torch.device("cpu")

    @property
    def engine(self) -> str:
        """How the next steps are taken: ``"compiled, float32"``, for example."""
        kind = self._steps.kind if self._steps and self.compile else "eager"
        return f"{kind}, {self.precision}"

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is learned."""
        if isinstance(self.optim, PyroOptim):
            return list(self._captured)
        return [p for group in self.optim.param_groups for p in group["params"]]

    @property
    def tolerance(self) -> float:
        """Largest distance of a compiled gradient from the eager one, relative to its norm."""
        dtypes = {torch.bfloat16} if self.precision == "bf16" else {p.dtype for p in self.parameters}
        coarsest = TOLERANCE[torch.bfloat16]
        return max((TOLERANCE.get(dtype, coarsest) for dtype in dtypes), default=coarsest)

    @property
    def objective(self) -> ELBO | Callable[..., Any]:
        """What is minimised, as it was given."""
        return self._objective.given

    @property
    def loss_and_grads(self) -> Callable[..., Any]:
        """Of model, guide and their arguments to the loss, adding its gradients to the parameters'."""
        return self._objective.loss_and_grads

    @property
    def loss(self) -> Callable[..., Any]:
        """Of model, guide and their arguments to the loss."""
        return self._objective.loss

    @property
    def roots(self) -> list[Any]:
        """The objects that a step starts from, and that are to be watched."""
        return [self.model, self.guide, *self._objective.roots]

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Takes one gradient step.

        Returns:
            The loss, a scalar tensor, so that nothing waits for it unless it is read, by ``float`` say; a
            tuple of them where the objective gives several, if ``reduction="sum"``: ReweightedWakeSleep does.

        Raises:
            NonFiniteLossError: the loss or the gradient's norm is not finite; parameters and optimizer are
                as before that step (statistics of batch normalisation are not). On a GPU it may be raised
                up to 32 compiled steps later, or by ``check()``; none was taken since.
        """
        tensors = list(_tensors((args, kwargs)))
        self._device = tensors[0].device if tensors else torch.device("cpu")
        context = self.num_steps + 1, (args, kwargs), _generators(tensors)
        take, obstacle = self._find(args, kwargs) if self._compiles() else (None, None)
        failed = None
        if take is not None:
            result, failed = take()
        else:
            try:
                result = self._evaluate(args, kwargs, validate=self.num_steps == 0)
            except ValueError as error:
                # Pyro's validation refuses NaN too; tell it from mistakes, and by the site where it arose.
                try:
                    text = self._explain(*context)
                except Exception:
                    raise error from None  # it is a mistake
                if not text.startswith("the loss is"):
                    raise
                if self._average is None:
                    raise NonFiniteLossError(text) from error
                result = self._evaluate(args, kwargs)  # of which the other processes are to learn
        if failed is None and self._average is not None:
            result = self._of_all(result)
        loss, norm, terms, gradients = result
        if failed is None:
            self.check()
            if not isfinite((loss.sum() + norm).item()):
                raise NonFiniteLossError(self._explain(*context))
            self._update(result)
        if obstacle is not None:  # and not the arguments, with which the eager step would have failed too
            self._give_up(str(obstacle) or repr(obstacle))
        self.num_steps += 1
        self.terms = terms
        if self.num_steps == 1:
            self._warn_of_untrained(gradients)
        if failed is not None:
            self._look_later(failed[None], lambda _: context[1:])
        if not self._objective.is_told:
            return torch.full_like(loss, inf)
        return tuple(loss) if loss.dim() else loss

    @property
    def replays(self) -> bool:
        """Whether steps are replayed as a CUDA graph, so that ``steps`` takes several by one launch."""
        return bool(self.compile and self._steps and self._steps.replays)

    def steps(self, lr: Sequence[float] | None, /, *args: Any, **kwargs: Any) -> Tensor:
        """Takes U gradient steps: those of ``step`` on each entry of the tensors among the arguments.

        On a GPU, where steps are replayed as a CUDA graph, these are one launch; they draw what as many
        single steps draw. ``svi.terms`` are then those of all, ``[U, ...]``.

        Args:
            lr: the learning rate of each step; None for the optimizer's as it is.
            args, kwargs: those of a step, but that each tensor is ``[U, ...]``.

        Returns:
            The losses ``[U]``.

        Raises:
            NonFiniteLossError: as of ``step``, up to 4 calls later.
        """
        tensors = list(_tensors((args, kwargs)))
        number = len(tensors[0])
        take = self._find_several(args, kwargs, number) if self.replays and self._compiles() else None
        if take is None:
            losses, terms = [], []
            for i in range(number):
                if lr is not None:
                    set_lr(cast(torch.optim.Optimizer, self.optim), lr[i])
                some_args, some_kwargs = _entry((args, kwargs), i)
                loss = self.step(*some_args, **some_kwargs)
                losses.append(torch.stack(loss) if isinstance(loss, tuple) else loss)
                terms.append(self.terms)
            self.terms = torch.stack(terms)
            return torch.stack(losses)
        before = _generators(tensors)
        loss, _, self.terms, failed = take(lr)
        after = _generators(tensors)

        def context(i: int) -> Any:
            states = {device: _between(before[device], after[device], i, number) for device in before}
            return _entry((args, kwargs), i), states

        self.num_steps += number
        self._look_later(failed, context)
        return loss if self._objective.is_told else torch.full_like(loss, inf)

    @torch.no_grad()
    def evaluate_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Estimates the loss, as Pyro's SVI does, without gradients: a number, or a tuple as of ``step``."""
        with pyro.validation_enabled(False):
            loss = self.loss(self.model, self.guide, *args, **kwargs)
        loss = self._reduce(loss, self._factor((args, kwargs))).tolist()
        return tuple(loss) if isinstance(loss, list) else loss

    def run(self, *args: Any, **kwargs: Any) -> SVI:
        """Takes ``num_steps`` steps and draws ``num_samples`` of the posterior; deprecated in Pyro."""
        warnings.warn("run is deprecated; use step and pyro.infer.Predictive", FutureWarning, stacklevel=2)
        for _ in range(self._steps_to_run):
            self.step(*args, **kwargs)
        return cast(SVI, TracePosterior.run(self, *args, **kwargs))

    def check(self) -> None:
        """Waits for the steps taken, and raises NonFiniteLossError if one of them failed."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        failed = torch.cat([failed for failed, *_ in pending]).tolist()
        if not any(failed):
            return
        self._steps.failed.zero_()
        index = failed.index(1.0)
        for flags, number, context in pending:
            if index < len(flags):
                self.num_steps = number + index - 1
                raise NonFiniteLossError(self._explain(number + index, *context(index)))
            index -= len(flags)

    def _look_later(self, failed: Tensor, context: Callable[[int], Any]) -> None:
        """Keeps whether the steps just taken failed, and of each its arguments and generators."""
        self._pending.append((failed, self.num_steps + 1 - len(failed), context))
        steps = sum(len(flags) for flags, *_ in self._pending)
        if steps >= CHECK_EVERY and len(self._pending) >= LAUNCHES:
            self.check()

    def _evaluate(
        self,
        args: Any,
        kwargs: Any,
        *,
        validate: bool = False,
        recording: Callable[[list[nn.Parameter], float], Any] | None = None,
        within: Context | None = None,
    ) -> Result:
        """Loss and gradients, as Pyro computes them, or as a recording of the engine keeps them."""
        programs = self._programs(within)
        factor = self._factor((args, kwargs))
        parameters = [p for p in self.parameters if p.requires_grad]
        record = recording(parameters, factor) if recording else None
        for parameter in parameters:
            parameter.grad = None
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            if not validate:
                stack.enter_context(pyro.validation_enabled(False))
            captured = stack.enter_context(poutine.trace(param_only=True))
            if record:
                stack.enter_context(record)
            total = self.loss_and_grads(*programs, *args, **kwargs)
        met: dict[nn.Parameter, None] = {}
        if isinstance(self.optim, PyroOptim):
            sites = captured.trace.nodes.values()
            met = dict.fromkeys(cast(Any, site["value"]).unconstrained() for site in sites)
            if not record:
                parameters = list(met)
                self._captured |= met
        loss = self._reduce(total, factor)
        found = record.gradients if record else [parameter.grad for parameter in parameters]
        gradients = {p: g for p, g in zip(parameters, found, strict=True) if g is not None}
        values = list(gradients.values())
        if factor != 1 and not record:
            for value in values:
                value.mul_(factor)
        norm = _norm(values, loss)
        if self.clip_norm is not None and self._average is None:
            clip = _clip(self.clip_norm, norm)
            values = record.scale(values, clip) if record else [value * clip for value in values]
        with torch.no_grad(), pyro.validation_enabled(False):
            traces = [program.traced for program in programs]
            terms = self._terms(*traces) if self._terms else loss.new_zeros(0)
        return loss, norm, terms, dict.fromkeys(met) | dict(zip(gradients, values, strict=True))

    def _of_all(self, result: Result) -> Result:
        """The result of a step on the data of all processes, from that on this one's."""
        assert self._average is not None
        loss, _, terms, gradients = result
        trained = [parameter for parameter, gradient in gradients.items() if gradient is not None]
        loss, terms, *values = self._average([loss, terms, *(cast(Tensor, gradients[p]) for p in trained)])
        norm = _norm(values, loss)
        if self.clip_norm is not None:
            clip = _clip(self.clip_norm, norm)
            values = [value.mul_(clip) for value in values]
        gradients = gradients | dict(zip(trained, values, strict=True))
        # What is read later needs memory of its own: the next step overwrites what was given.
        return loss.clone(), norm, terms.clone(), gradients

    def _programs(self, within: Context | None = None) -> list[Traced]:
        """Model and guide, which keep the trace of their last run."""
        contexts = [within] if within else []
        if self.precision == "bf16":
            # A weight is used once in a step: a cache would save nothing, and outlive the tracing.
            kind = self._device.type
            contexts.append(lambda: torch.autocast(kind, torch.bfloat16, cache_enabled=False))
        return [Traced(program, contexts) for program in (self.model, self.guide)]

    def _reduce(self, total: Any, factor: float) -> Tensor:
        """What an objective returns, as one tensor."""
        losses = torch.stack([loss.to(self._device) for loss in self._objective.losses(total)])
        several = isinstance(total, tuple) and self.reduction == "sum"
        return (losses if several else losses.sum()) * factor

    def _factor(self, arguments: Any) -> float:
        if self.reduction == "sum":
            return 1.0
        for tensor in _tensors(arguments):
            return 1 / len(tensor)
        raise ValueError("reduction='mean' needs a tensor among the arguments; reduction='sum' needs none")

    def _update(self, result: Result) -> None:
        *_, gradients = result
        if isinstance(self.optim, torch.optim.Optimizer):
            for parameter in self.parameters:
                parameter.grad = gradients.get(parameter)
            self.optim.step()
            return
        for parameter, gradient in gradients.items():
            if gradient is None and parameter in self.optim.optim_objs:
                # As Pyro has it: once it had a gradient, momentum goes on, in another SVI's steps too.
                moves = self.optim.optim_objs[parameter].state.get(parameter)
                gradient = torch.zeros_like(parameter) if moves else None
            parameter.grad = gradient
        self.optim(list(gradients))
        for parameter in gradients:  # which another SVI may share
            parameter.grad = None

    def _compiles(self) -> bool:
        if not self.compile or self.num_steps == 0:
            return False
        if self.compile == "auto" and self.num_steps < AUTO_STEPS:
            return False
        if am_i_wrapped():
            self._give_up("it is called within a Pyro handler, which it would not see", once=True)
            return False
        return True

    def _find(self, args: Any, kwargs: Any) -> tuple[Any, Exception | None]:
        """What takes the compiled step for these arguments, or why there is none."""
        try:
            if self._steps is None:
                from pyro_vae.engine import Steps  # which is slow to import, and may fail to be

                joined = self._of_all if self._average is not None else None
                self._steps = Steps(self, self._evaluate, self._update, self._settings, joined)
            return self._steps.find(args, kwargs), None
        except Exception as error:
            return None, error

    def _find_several(self, args: Any, kwargs: Any, number: int) -> Any:
        """What takes so many steps at once, if they can be: else each is taken, and tells why it cannot."""
        try:
            return self._steps.find_several(args, kwargs, number)
        except Exception:
            return None

    def _settings(self) -> tuple[Any, ...]:
        """What a step depends on besides its arguments and parameters."""
        return (
            self.model,
            self.guide,
            self._objective.state,
            self.precision,
            self.clip_norm,
            self.reduction,
            self._terms,
        )

    def _give_up(self, reason: str, *, once: bool = False) -> None:
        """Takes steps eagerly from here on."""
        text = f"the step is taken eagerly, not compiled: {reason}"
        if not once:
            self.compile = False
        elif self._warned:
            return
        self._warned = True
        self.log(text)
        warnings.warn(text, CompilationWarning, stacklevel=4 if once else 3)  # where step was called

    def _warn_of_untrained(self, gradients: dict[nn.Parameter, Tensor]) -> None:
        """A module that Pyro has copied (pyro.module does, of one in channels_last) trains the copy."""
        untrained = [p for p in self.parameters if p.requires_grad and p not in gradients]
        if untrained and not isinstance(self.optim, PyroOptim):  # which has those of the copy
            shapes = ", ".join(str(list(p.shape)) for p in untrained[:5])
            number = f"{len(untrained)} of the optimizer's parameters"
            text = f"{number} have no gradient and stay as they are; their shapes: {shapes}"
            warnings.warn(text, stacklevel=3)

    def _explain(self, step: int, arguments: Any, generators: dict[torch.device, Tensor]) -> str:
        """Which site went wrong first."""
        loss, factor = self._objective.finite_loss, self._factor(arguments)
        return explain(self._programs(), loss, arguments, generators, step, factor)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate, in place where it is a tensor, as a recorded step needs it."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def _norm(gradients: list[Tensor], loss: Tensor) -> Tensor:
    """Of all of them together."""
    # One by one, which inductor fuses with what comes before.
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
    return torch.stack(norms).norm() if norms else loss.new_zeros(())


def _clip(most: float, norm: Tensor) -> Tensor:
    """What a gradient is multiplied by, so that its norm is no larger."""
    return (most / (norm + 1e-6)).clamp(max=1.0)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors among arguments, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)


def _generators(tensors: list[Tensor]) -> dict[torch.device, Tensor]:
    """The states of the random generators that a step draws from."""
    devices = {tensor.device for tensor in tensors if tensor.is_cuda}
    states = {device: torch.cuda.get_rng_state(device) for device in devices}
    return {torch.device("cpu"): torch.get_rng_state(), **states}


def _entry(value: Any, i: int) -> Any:
    """Arguments, but of each tensor among them its entry."""
    if isinstance(value, Tensor):
        return value[i]
    if isinstance(value, Mapping):
        return {key: _entry(item, i) for key, item in value.items()}
    if not isinstance(value, list | tuple):
        return value
    items = [_entry(item, i) for item in value]
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def _between(before: Tensor, after: Tensor, i: int, number: int) -> Tensor:
    """The state of a generator after i of so many steps, all of which draw as much: its counter, on a GPU."""
    if torch.equal(before, after):
        return before
    one, other = before.view(torch.int64), after.view(torch.int64)
    return (one + (other - one) // number * i).view(torch.uint8)
