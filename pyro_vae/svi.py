"""Stochastic variational inference whose step is compiled: Pyro's handlers run once, not at each step."""

from __future__ import annotations

import copy
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal, cast

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pyro_vae.compiler import (
    CompilationError,
    CompilationWarning,
    Compile,
    Compiled,
    Tracing,
    check_equal,
    rollback,
)

Precision = Literal["float32", "bf16"]

AUTO_STEPS = 1000
"""Steps after which ``compile="auto"`` compiles: a run that is over before has not waited for it."""
MAX_GRAPHS = 16
"""Different shapes, modes and so on for which a step is compiled, before it is given up."""
CHECK_EVERY = 32
"""Steps on a GPU between two looks at whether the loss is finite, each of which waits for the GPU."""
TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Largest distance of a compiled gradient from the eager one, relative to its norm."""

_LOGGER = logging.getLogger(__name__)


class NonFiniteLossError(ArithmeticError):
    """The loss or a gradient became NaN or infinite; the message names the step and the site."""


@dataclass
class _Result:
    """What a step has computed, before the optimizer's turn."""

    loss: Tensor
    norm: Tensor
    terms: Tensor
    gradients: dict[nn.Parameter, Tensor]

    @classmethod
    def of(cls, tensors: list[Tensor], trained: list[nn.Parameter]) -> _Result:
        loss, norm, terms, *gradients = tensors
        addresses = set()
        for i, (parameter, gradient) in enumerate(zip(trained, gradients, strict=True)):
            # Optimizers expect what autograd gives them: memory of its own, laid out as the parameter's.
            if gradient.stride() != parameter.stride() or gradient.data_ptr() in addresses:
                gradients[i] = torch.empty_like(parameter, requires_grad=False).copy_(gradient)
            addresses.add(gradient.data_ptr())
        return cls(loss, norm, terms, dict(zip(trained, gradients, strict=True)))

    @property
    def tensors(self) -> list[Tensor]:
        return [self.loss, self.norm, self.terms, *self.gradients.values()]


@dataclass
class _Graph:
    """A compiled step, for arguments of one shape."""

    compiled: Compiled
    trained: list[nn.Parameter]
    parameters: list[tuple[Any, ...]]
    uses: int = 0
    recordable: bool = True
    replay: _Replay | None = None

    def __call__(self, inputs: Sequence[Tensor]) -> _Result:
        for parameter in self.trained:  # whose memory the new gradients then take
            parameter.grad = None
        return _Result.of(self.compiled(*inputs), self.trained)


@dataclass
class _Pending:
    """Steps on a GPU whose results have not been looked at."""

    failed: Tensor
    steps: list[tuple[int, Tensor, Any, Any]] = field(default_factory=list)


class SVI:
    """Stochastic variational inference, with the interface of ``pyro.infer.SVI`` and a compiled step.

    Takes any Pyro model and guide of static structure: which sites there are, and their shapes, may
    depend on the shapes of the arguments but not on the values of tensors. The step is traced once for
    each shape of the arguments through all of Pyro, gradients included, and compiled. It is the same
    function as the eager step, seed for seed: that is checked when it is compiled and again at its
    10th, 100th, 1000th ... use, and where it fails, the step is eager from there on, with a warning.

    Numbers that change from step to step (an annealing factor) should be tensors: anything else is
    compiled in, and another number means another compilation, up to 16. Changes of modules, and of what
    the programs reach by their closures and globals, are followed in the same way; those that Python does
    not show (a file's, an iterator's) are noticed by the next check.

    The first step is eager, with Pyro's validation on to catch mistakes; later ones are without.

    Args:
        model: Pyro model.
        guide: Pyro guide, called with the same arguments.
        optim: a ``torch.optim`` optimizer over the parameters to be learned (one with ``fused=True`` is
            fastest), or a ``pyro.optim`` one, which learns all parameters of model and guide.
        loss: the objective.
        compile: True; False; or ``"auto"``: after the first 1000 steps.
        precision: ``"float32"`` leaves dtypes as they are; ``"bf16"`` runs the matrix products and
            convolutions within model and guide in bfloat16, by ``torch.autocast``; densities are computed
            outside of it. Parameters and their gradients keep their dtype.
        reduction: ``"sum"``: the loss is that of Pyro; ``"mean"``: divided by the length of the first
            tensor among the arguments.
        clip_norm: largest norm of the gradient; None for no clipping.
        terms: also computed in each step, and found in ``svi.terms``: a function of the traces of the model
            and of the guide to a tensor.
        log: called with a line on each compilation.

    Raises:
        ValueError: an option is none of those above, or the optimizer is LBFGS, which needs a closure.

    Reference: Hoffman et al., 2013, "Stochastic variational inference".
    """

    terms: Tensor

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        optim: torch.optim.Optimizer | PyroOptim,
        loss: ELBO,
        *,
        compile: Compile = "auto",
        precision: Precision = "float32",
        reduction: Literal["sum", "mean"] = "sum",
        clip_norm: float | None = None,
        terms: Callable[[poutine.Trace, poutine.Trace], Tensor] | None = None,
        log: Callable[[str], None] = _LOGGER.info,
    ):
        for name, value, accepted in (
            ("compile", compile, ("auto", True, False)),
            ("precision", precision, ("float32", "bf16")),
            ("reduction", reduction, ("sum", "mean")),
        ):
            if value not in accepted:
                raise ValueError(f"{name}={value!r} is none of {', '.join(map(repr, accepted))}")
        if isinstance(optim, torch.optim.LBFGS):
            raise ValueError("LBFGS evaluates the loss several times in a step; give torch.optim.Adam, say")
        self.model, self.guide, self.optim = model, guide, optim
        self.loss = copy.copy(loss)  # an ELBO keeps what it guessed of the model's plates
        self.compile, self.precision, self.reduction = compile, precision, reduction
        self.clip_norm, self.log = clip_norm, log
        self.num_steps = 0
        self.num_compilations = 0
        self.compile_seconds = 0.0
        self._terms = terms
        self._graphs: dict[Any, list[_Graph]] = {}
        self._pending: _Pending | None = None
        self._warned = False
        self._device = torch.device("cpu")

    @property
    def engine(self) -> str:
        """How the next steps are taken: ``"compiled, float32"``, for example."""
        graphs = [graph for of_key in self._graphs.values() for graph in of_key]
        replayed = any(graph.replay for graph in graphs)
        kind = "CUDA graph" if replayed else "compiled" if graphs and self.compile else "eager"
        return f"{kind}, {self.precision}"

    def step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Takes one gradient step.

        Returns:
            The loss, a scalar tensor, so that nothing waits for it unless it is read.

        Raises:
            NonFiniteLossError: the loss or the gradient's norm is not finite; parameters and optimizer are
                as before that step (statistics of batch normalisation are not). On a GPU it may be raised
                up to 32 steps later, or by ``check()``; none was taken since.
        """
        leaves, spec = pytree.tree_flatten((args, kwargs))
        inputs = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        self._device = inputs[0].device if inputs else torch.device("cpu")
        generators = _generators(inputs)
        try:
            graph, obstacle = self._graph(leaves, spec, inputs) if self._compiles() else None, None
        except CompilationError as error:
            graph, obstacle = None, error
        if graph is not None and graph.replay is not None:
            result = graph.replay(inputs)
        else:
            try:
                first = self.num_steps == 0
                result = graph(inputs) if graph else self._evaluate(args, kwargs, validate=first)
            except ValueError as error:
                # Pyro's validation refuses NaN too; tell it from mistakes, and by the site where it arose.
                text = self._explain(self.num_steps + 1, (args, kwargs), generators)
                if text.startswith("the loss is"):
                    raise NonFiniteLossError(text) from error
                raise
            if _waits(self.optim, result.loss):
                if not isfinite((result.loss + result.norm).item()):
                    raise NonFiniteLossError(self._explain(self.num_steps + 1, (args, kwargs), generators))
                self._update(result)
            else:
                self._update_if_finite(result)
        if obstacle is not None:  # and not the arguments, with which the eager step would have failed too
            self._give_up(str(obstacle))
        self.num_steps += 1
        self.terms = result.terms
        if self.num_steps == 1:
            self._warn_of_untrained(result)
        if self._pending is not None:
            failed = self._pending.failed.clone()
            self._pending.steps.append((self.num_steps, failed, (args, kwargs), generators))
            if len(self._pending.steps) >= CHECK_EVERY:
                self.check()
        return result.loss

    @torch.no_grad()
    def evaluate_loss(self, *args: Any, **kwargs: Any) -> float:
        """Estimates the loss, as Pyro's SVI does, without gradients."""
        with pyro.validation_enabled(False):
            loss = cast(Any, self.loss).loss(self.model, self.guide, *args, **kwargs)
        return float(sum(loss) if isinstance(loss, tuple) else loss) * self._factor((args, kwargs))

    def check(self) -> None:
        """Waits for the steps taken, and raises NonFiniteLossError if one of them failed."""
        if self._pending is None or not self._pending.steps:
            return
        steps, self._pending.steps = self._pending.steps, []
        failed = torch.stack([failed for _, failed, *_ in steps]).tolist()
        if any(failed):
            number, _, arguments, generators = steps[failed.index(True)]
            self._pending.failed.zero_()
            self.num_steps = number - 1
            raise NonFiniteLossError(self._explain(number, arguments, generators))

    def _evaluate(self, args: Any, kwargs: Any, *, validate: bool = False, tracing: bool = False) -> _Result:
        """Loss and gradients, as Pyro computes them."""
        programs = [poutine.trace(_within(program, self._autocast)) for program in (self.model, self.guide)]
        factor = self._factor((args, kwargs))
        pyro_optim = isinstance(self.optim, PyroOptim)
        parameters = [p for p in self.parameters if p.requires_grad]
        for parameter in parameters:
            parameter.grad = None
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(pyro.validation_enabled(validate))
            captured = stack.enter_context(poutine.trace(param_only=True)) if pyro_optim else None
            backward = stack.enter_context(Tracing(parameters, factor)) if tracing else None
            total = cast(Any, self.loss).loss_and_grads(*programs, *args, **kwargs)
        if captured is not None and not tracing:
            sites = captured.trace.nodes.values()
            parameters = list(dict.fromkeys(cast(Any, site["value"]).unconstrained() for site in sites))
            self._captured = parameters
        # ReweightedWakeSleep has two losses, of the model and of the guide.
        total = sum(total) if isinstance(total, tuple) else total
        loss = torch.as_tensor(total, device=self._device).detach() * factor
        found = backward.gradients if backward else [parameter.grad for parameter in parameters]
        gradients = {p: g for p, g in zip(parameters, found, strict=True) if g is not None}
        values = list(gradients.values())
        if values and factor != 1 and not backward:
            torch._foreach_mul_(values, factor)
        # One by one, which inductor fuses with what comes before.
        norms = [torch.linalg.vector_norm(value) for value in values]
        norm = torch.stack(norms).norm() if norms else loss.new_zeros(())
        if self.clip_norm is not None:
            values = values and list(
                torch._foreach_mul(values, (self.clip_norm / (norm + 1e-6)).clamp(max=1.0))
            )
        with torch.no_grad(), pyro.validation_enabled(False):
            traces = [program.trace for program in programs]
            terms = self._terms(*traces) if self._terms else loss.new_zeros(0)
        return _Result(loss, norm, terms, dict(zip(gradients, values, strict=True)))

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is learned."""
        if isinstance(self.optim, PyroOptim):
            return getattr(self, "_captured", [])
        return [p for group in self.optim.param_groups for p in group["params"]]

    def _factor(self, arguments: Any) -> float:
        if self.reduction == "sum":
            return 1.0
        return 1 / len(next(leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, Tensor)))

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "float32":
            return nullcontext()
        # A weight is used once in a step: a cache would save nothing, and outlive the tracing.
        return torch.autocast(self._device.type, torch.bfloat16, cache_enabled=False)

    def _update(self, result: _Result) -> None:
        for parameter in self.parameters:
            parameter.grad = result.gradients.get(parameter)
        if isinstance(self.optim, PyroOptim):
            self.optim(list(result.gradients))
            for parameter in result.gradients:  # which another SVI may share
                parameter.grad = None
        else:
            self.optim.step()

    def _update_if_finite(self, result: _Result) -> None:
        """The update, unless this or an earlier step failed, decided on the device."""
        if self._pending is None:
            self._pending = _Pending(torch.zeros((), dtype=torch.bool, device=result.loss.device))
        self._pending.failed.logical_or_(~torch.isfinite(result.loss + result.norm))
        optim: Any = self.optim
        optim.found_inf, optim.grad_scale = self._pending.failed.float(), None
        self._update(result)
        optim.found_inf = None

    def _compiles(self) -> bool:
        if not self.compile or self.num_steps == 0:
            return False
        if self.compile == "auto" and self.num_steps < AUTO_STEPS:
            return False
        if _PYRO_STACK:
            self._give_up("it is called within a Pyro handler, which it would not see", once=True)
            return False
        return True

    def _graph(self, leaves: list[Any], spec: Any, inputs: list[Tensor]) -> _Graph:
        """The compiled step for these arguments."""
        key = spec, tuple(map(_describe, leaves)), self._describe_settings()
        parameters = self._describe_parameters()
        graphs = self._graphs.setdefault(key, [])
        graph = next(
            (g for g in graphs if g.parameters == parameters and not g.compiled.watch.changed()), None
        )
        if graph is None:
            if self.num_compilations == MAX_GRAPHS:
                raise CompilationError(
                    f"it was compiled {MAX_GRAPHS} times already, for other arguments, parameters or "
                    "attributes; pass what changes as tensors of the same shape"
                )
            graph = self._compile(leaves, spec, inputs)
            graphs.append(graph)
        graph.uses += 1
        if math.log10(graph.uses).is_integer():
            try:
                self._compare(graph, leaves, spec, inputs)
            except Exception as error:
                raise CompilationError(f"at its use {graph.uses}: {error}") from error
        if graph.replay is not None and graph.replay.outdated(self.optim):
            graph.replay = None
        if graph.replay is None and graph.recordable and _records(self.optim, graph.compiled):
            self._record(graph, inputs)
        return graph

    def _record(self, graph: _Graph, inputs: list[Tensor]) -> None:
        assert isinstance(self.optim, torch.optim.Optimizer)
        try:
            graph.replay = _Replay(graph, inputs, self._update_if_finite, self.optim)
        except RuntimeError as error:  # from the driver; the compiled step does the same without it
            graph.recordable = False
            self.log(f"the compiled step is not recorded as a CUDA graph: {error}")
        else:
            self.log("recorded the compiled step as a CUDA graph")

    def _compile(self, leaves: list[Any], spec: Any, inputs: list[Tensor]) -> _Graph:
        began = time.monotonic()
        if isinstance(self.optim, PyroOptim):
            with rollback():  # to meet its parameters
                args, kwargs = pytree.tree_unflatten(leaves, spec)
                self._evaluate(args, kwargs)
        trained: list[nn.Parameter] = []

        def function(*tensors: Tensor) -> list[Tensor]:
            given = iter(tensors)
            mixed = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            args, kwargs = pytree.tree_unflatten(mixed, spec)
            result = self._evaluate(args, kwargs, tracing=True)
            trained[:] = result.gradients
            return result.tensors

        self.num_compilations += 1
        graph = _Graph(
            Compiled(function, inputs, (self.model, self.guide)), trained, self._describe_parameters()
        )
        seconds = time.monotonic() - began
        self.compile_seconds += seconds
        shapes = ", ".join(str(list(tensor.shape)) for tensor in inputs)
        self.log(f"compiled the step for arguments of shape {shapes} in {seconds:.1f} s")
        return graph

    def _compare(self, graph: _Graph, leaves: list[Any], spec: Any, inputs: list[Tensor]) -> None:
        """Refuses a compiled step that differs from the eager one."""
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        with rollback():
            eager = self._evaluate(args, kwargs)
            expected = [tensor.clone() for tensor in eager.tensors]  # what was written in place is undone
        for parameter in self.parameters:
            parameter.grad = None
        found = _Result.of(graph.compiled.trial(*inputs), graph.trained)
        if eager.gradients.keys() != found.gradients.keys():
            raise CompilationError("other parameters have gradients than in the eager step")
        found.gradients = {p: found.gradients[p] for p in eager.gradients}
        dtype = torch.bfloat16 if self.precision == "bf16" else expected[0].dtype
        tolerance = TOLERANCE.get(dtype, TOLERANCE[torch.bfloat16])
        check_equal(expected, found.tensors, tolerance, floor=1e-3 * expected[1].item())

    def _describe_parameters(self) -> list[tuple[Any, ...]]:
        return [(id(p), p.requires_grad, p.dtype, p.device) for p in self.parameters]

    def _describe_settings(self) -> tuple[Any, ...]:
        """What a step depends on besides its arguments and parameters."""
        own = self.model, self.guide, self.precision, self.clip_norm, self.reduction, self._terms
        # The nesting of plates is guessed by the objective itself, at its first use.
        objective = tuple((k, v) for k, v in vars(self.loss).items() if k != "max_plate_nesting")
        kinds = ("cpu", "cuda")
        autocast = tuple((torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds)
        return own, objective, autocast, torch.get_default_dtype()

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

    def _warn_of_untrained(self, result: _Result) -> None:
        """A module that Pyro has copied (pyro.module does, of one in channels_last) trains the copy."""
        untrained = [p for p in self.parameters if p.requires_grad and p not in result.gradients]
        if untrained:
            shapes = ", ".join(str(list(p.shape)) for p in untrained[:5])
            number = f"{len(untrained)} of the optimizer's parameters"
            text = f"{number} have no gradient and stay as they are; their shapes: {shapes}"
            warnings.warn(text, stacklevel=3)

    def _explain(self, step: int, arguments: Any, generators: Any) -> str:
        """Which site went wrong first, in the order of the program: the guide's, then the model's."""
        args, kwargs = arguments
        with rollback():
            _restore(generators)
            programs = [poutine.trace(_within(p, self._autocast)) for p in (self.model, self.guide)]
            with pyro.validation_enabled(False), torch.no_grad(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Encountered")  # it is what we are after
                total = cast(Any, self.loss).loss(*programs, *args, **kwargs)
                loss = float(sum(total) if isinstance(total, tuple) else total)
                if not isfinite(loss):
                    for program, name in zip(reversed(programs), ("guide", "model"), strict=True):
                        for site_name, site in _sites(program.trace):
                            density = site["fn"].log_prob(site["value"])
                            for what, value in (("value", site["value"]), ("log-density", density)):
                                if not torch.isfinite(value).all():
                                    return (
                                        f"the loss is {loss} in step {step}: the {what} at site "
                                        f"{site_name!r} of the {name}, a {site['fn']}, is not finite"
                                    )
        return (
            f"the gradient's norm is not finite in step {step}, where the loss is "
            f"{loss * self._factor(arguments)}, though every site is finite"
        )


class _Replay:
    """A step on a GPU, update included, recorded as one CUDA graph: replaying it is a single launch."""

    def __init__(
        self,
        graph: _Graph,
        inputs: list[Tensor],
        update: Callable[[_Result], None],
        optim: torch.optim.Optimizer,
    ):
        self.graph = graph
        self.inputs = [tensor.detach().clone() for tensor in inputs]

        def function() -> _Result:
            result = graph(self.inputs)
            update(result)
            return result

        with torch.no_grad():
            self.replay, self.result = _capture(function, graph.compiled.rollback, inputs[0].device)
        self.state = self._look(optim)

    def outdated(self, optim: Any) -> bool:
        """Whether what was recorded by its address or its value is elsewhere or another one now."""
        return self._look(optim) != self.state

    def _look(self, optim: torch.optim.Optimizer) -> list[Any]:
        tensors = [*self.graph.compiled.closed_over, *self.graph.trained]
        state: list[Any] = [id(optim)]
        for entry in optim.state.values():
            tensors += [value for value in entry.values() if isinstance(value, Tensor)]
        for group in optim.param_groups:
            tensors += [value for value in group.values() if isinstance(value, Tensor)]
            state += [v for k, v in group.items() if k != "params" and not isinstance(v, Tensor)]
        return state + [tensor.data_ptr() for tensor in tensors]

    @torch.no_grad()
    def __call__(self, inputs: list[Tensor]) -> _Result:
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.replay()
        result = self.result
        return _Result(result.loss.clone(), result.norm, result.terms.clone(), result.gradients)


def _capture(
    function: Callable[[], _Result],
    rollback: Callable[[], AbstractContextManager[None]],
    device: torch.device,
) -> tuple[Callable[[], None], _Result]:
    """Records what the function launches; returns what launches it again, and where its results will be."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), rollback():
            for _ in range(3):  # what is made at the first call, libraries' workspaces say, is not recorded
                function()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):  # which launches nothing
            result = function()
    return graph.replay, result


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate, in place where it is a tensor, as a recorded step needs it."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def _waits(optim: torch.optim.Optimizer | PyroOptim, tensor: Tensor) -> bool:
    """Whether each step waits for its loss: always on a CPU, where it costs nothing; else if it must."""
    if not tensor.is_cuda:
        return True
    if isinstance(optim, PyroOptim):
        return True
    return not all(group.get("fused") and group.get("capturable") for group in optim.param_groups)


def _records(optim: torch.optim.Optimizer | PyroOptim, compiled: Compiled) -> bool:
    """Whether a step can be one CUDA graph: all is on the GPU, the learning rate too; no Python hooks."""
    if isinstance(optim, PyroOptim) or compiled.devices != {"cuda"}:
        return False
    if optim._optimizer_step_pre_hooks or optim._optimizer_step_post_hooks:
        return False
    return not _waits(optim, compiled.closed_over[0]) and all(
        isinstance(group["lr"], Tensor) for group in optim.param_groups
    )


def _within(program: Callable[..., Any], context: Callable[[], Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with context():
            return program(*args, **kwargs)

    return run


def _describe(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.stride(), leaf.dtype, leaf.device, leaf.requires_grad
    if isinstance(leaf, bool | int | float | str | bytes | torch.dtype | torch.device | torch.Size | None):
        return type(leaf), leaf
    raise CompilationError(f"an argument is a {type(leaf).__name__}, whose changes cannot be seen")


def _generators(inputs: list[Tensor]) -> list[tuple[torch.device, Tensor]]:
    """The states of the random generators that a step draws from."""
    devices = {tensor.device for tensor in inputs if tensor.is_cuda}
    states = [(device, torch.cuda.get_rng_state(device)) for device in devices]
    return [(torch.device("cpu"), torch.get_rng_state()), *states]


def _restore(generators: list[tuple[torch.device, Tensor]]) -> None:
    for device, state in generators:
        if device.type == "cuda":
            torch.cuda.set_rng_state(state, device)
        else:
            torch.set_rng_state(state)


def _sites(trace: poutine.Trace) -> Iterator[tuple[str, Any]]:
    """The sample sites of a program, without those that plates make to subsample."""
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and not site_is_subsample(site):
            yield name, site
