"""Names to parts, and back: one text for command line, ``compare``, configuration files and estimator.

A part is written as in Python, ``StudentT(df=4.0, scale="shared")`` or ``mlp(400, activation=ReLU)``, and
read without Python's help: names are looked up among what this package, Pyro and PyTorch have of that kind,
arguments are plain values and other such parts. As a text may come from somebody else, nothing that it names
is imported unless its reader trusts the module, and nothing but parts is made.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import functools
import importlib
import inspect
import io
import itertools
import tokenize
import types
import typing
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Union, get_args, get_origin

import pyro.distributions as dist
import pyro.infer
import torch
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch import Tensor, nn
from torch.distributions import Distribution, Transform
from torch.optim import lr_scheduler

from pyro_vae import checks, guides, likelihoods, models, nets, objectives, priors
from pyro_vae.checks import ConfigError
from pyro_vae.data.source import reason, shown
from pyro_vae.families import Of
from pyro_vae.objectives import schedules

_FUNCTION = types.FunctionType
_KINDS: dict[str, tuple[Any, Any, tuple[type, ...]]] = {
    "prior": (dist, priors, (Distribution, nn.Module)),
    "likelihood": (None, likelihoods, (Distribution, nn.Module)),
    "guide": (None, guides, (Distribution, nn.Module)),
    "distribution": (dist, None, (Distribution, Transform)),
    "encoder": (None, nets, (nn.Module, _FUNCTION)),
    "decoder": (None, nets, (nn.Module, _FUNCTION)),
    "classifier": (None, nets, (nn.Module, _FUNCTION)),
    "between": (None, nets, (nn.Module, _FUNCTION)),
    "selection": (None, nets, (nn.Module, _FUNCTION)),
    "transition": (None, nets, (nn.Module, _FUNCTION)),
    "optimizer": (torch.optim, None, (torch.optim.Optimizer, _FUNCTION)),
    "schedule": (lr_scheduler, None, (lr_scheduler.LRScheduler, _FUNCTION)),
    "loss": (pyro.infer, objectives, (pyro.infer.ELBO,)),
    "beta": (None, schedules, (schedules.Schedule, _FUNCTION)),
    "model": (None, models, (nn.Module,)),
    "function": (None, None, (_FUNCTION,)),
    "value": (nn, None, (nn.Module, object)),
}
"""Of each kind: where others have its classes, where this package has them, and what one of one's own is:
a class below one of these, or a function."""

UNUSABLE = {
    torch.optim.Optimizer,
    torch.optim.LBFGS,  # wants the loss as a closure, and SparseAdam sparse gradients
    torch.optim.SparseAdam,
    lr_scheduler.LRScheduler,
    lr_scheduler.ChainedScheduler,  # and SequentialLR want schedulers that know their optimizer
    lr_scheduler.SequentialLR,
    pyro.infer.ELBO,
    pyro.infer.Trace_MMD,  # wants a kernel per site, and is of one datum: objectives.MMD is of a batch
    objectives.PerDatum,
    # The jitted ELBOs look parameters up in the global store, where this package keeps none.
    *(value for name, value in vars(pyro.infer).items() if name.startswith("Jit")),
}
"""What Pyro and PyTorch have but training cannot use."""

PARTS = (
    *("prior", "likelihood", "guide", "encoder", "decoder"),
    *("classifier", "between", "selection", "transition"),
)
"""Kinds that models are made of."""

Trust = str | Iterable[str]
"""Modules that may be imported, with all below them; ``"*"``, any: of a text that its reader wrote."""


@functools.cache
def names(kind: str) -> Mapping[str, Any]:
    """The parts of a kind by their names: classes, and functions that make one."""
    theirs, ours, bases = _KINDS[kind]
    found = {name: v for name, v in vars(theirs).items() if _is_class(v, bases[0])} if theirs else {}
    if kind == "distribution":
        found = {name: v for name, v in vars(dist.transforms).items() if _is_class(v, Transform)} | found
    offered = getattr(ours, "__all__", None) or (dir(ours) if ours else ())
    own = {name: getattr(ours, name) for name in offered if not name.startswith("_")}
    found |= {name: part for name, part in own.items() if kind != "loss" or _is_class(part, *bases)}
    return {name: part for name, part in found.items() if callable(part) and part not in UNUSABLE}


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the names nearest to a mistyped one."""
    lower = {n.lower(): n for n in sorted(set(known))}
    near = difflib.get_close_matches(name[:100].lower(), lower, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(lower[n] for n in near)}?"
    listed = list(lower.values())
    more = f" and {len(listed) - 40} more" if len(listed) > 40 else ""
    return f"known are {', '.join(listed[:40])}{more}"


def read(kind: str, text: str, trust: Trust = ()) -> Any:
    """The part that a text means.

    Priors, likelihoods, guides and losses are instances; networks factories; optimizers, schedules and models
    classes, or partials of them; a function is one of the reader's own.

    Args:
        kind: of the part.
        text: a name, or a call with plain values and parts: ``"VampPrior(500)"``, ``"my_module.MyNet(k=3)"``.
        trust: modules whose classes and functions may be imported.

    Raises:
        ConfigError: it names no part of that kind, or its arguments do not fit.
    """
    check(kind, text, str)
    try:
        return _Reader(trust).part(_parse(text), kind)
    except ConfigError as error:
        raise ConfigError(f"{kind} {_short(text)!r}: {error}") from error.__cause__


def _parse(text: str) -> ast.expr:
    """The one door through which texts come, whoever wrote them.

    Raises:
        ConfigError: a text is too long, is no expression, or has a number or name that would be read as
            another than stands there.
    """
    if len(text) > _LONGEST:
        raise ConfigError(f"it has {len(text):,} characters, and more than {_LONGEST:,} are not read")
    text = text.strip()
    try:
        node = ast.parse(text, mode="eval").body
        tokens = [] if text.isascii() else list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError) as error:
        nameless = "of a lambda or a local class, which have no name to be read by: pass the object again"
        named = f"no name and no call ({_short(reason(error))}); write StudentT(df=4.0), say"
        raise ConfigError(f"it is {nameless if '<' in text else named}") from error
    for word in [token.string for token in tokens if token.type == tokenize.NAME]:
        if (name := unicodedata.normalize("NFKC", word)) != word:  # as which Python would read it
            raise ConfigError(f"{_short(word)} is no {_short(name)}, though it looks like it")
    depth, level = 0, list[ast.AST]([node])
    while level:
        for inner in level:
            number = inner.value if isinstance(inner, ast.Constant) else None
            most = 2**63 if isinstance(number, int) else float("inf")
            if isinstance(number, int | float) and abs(number) >= most:
                raise ConfigError("it has a number that 64 bits do not hold; write inf where that is meant")
        depth, level = depth + 1, [child for inner in level for child in ast.iter_child_nodes(inner)]
        if depth > _DEEPEST:
            raise ConfigError(f"it is nested too deep: more than {_DEEPEST} levels are not read")
    return node


_LONGEST, _DEEPEST = 200_000, 70
"""Characters of a text, tens of thousands of numbers, and levels of parts and lists within others."""


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_class(value: Any, *bases: type) -> bool:
    return inspect.isclass(value) and issubclass(value, bases)


class _Reader:
    def __init__(self, trust: Trust):
        self.trust = trust if trust == "*" else tuple([trust] if isinstance(trust, str) else trust)

    def part(self, node: ast.expr, kind: str) -> Any:
        """The part that a name, a call, or a distribution's ``.to_event(1)`` or ``.expand([3])`` means."""
        if not isinstance(node, ast.Call):
            return self.make(self.target(node, kind), kind, [], {})
        inner = "distribution" if kind in ("prior", "likelihood", "guide") else kind
        made_of_others = ("Auto", "ByColumn", "SemiAmortised", "Structured")
        if isinstance(node.func, ast.Name) and node.func.id in made_of_others:
            inner = kind
        arguments = [self.value(item, inner) for item in node.args]
        given = [keyword.arg or "**" for keyword in node.keywords]
        if twice := [name for name, other in itertools.pairwise(sorted(given)) if name == other]:
            raise ConfigError(f"{_short(twice[0])} is given twice; leave one of them out")
        kinds = {"guide": "guide", "net": "encoder"}  # of weights that are latent; of a guide's own network
        keywords = {k.arg or "**": self.value(k.value, kinds.get(k.arg or "", inner)) for k in node.keywords}
        if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Call):
            base, method = self.part(node.func.value, inner), node.func.attr
            if not (isinstance(base, Distribution) and method in ("to_event", "expand")):
                raise ConfigError(
                    f".{_short(method)} is not known; known are .to_event(n) and .expand([...])"
                )
            return _call(getattr(base, method), arguments, keywords)
        return self.make(self.target(node.func, kind), kind, arguments, keywords)

    def value(self, node: ast.expr, kind: str) -> Any:
        """An argument: a plain value, a part, or a class or function by its name."""
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None as value):
                return value
            case ast.UnaryOp(ast.USub(), ast.Constant(value=int() | float() as number)) if number is not True:
                return -number
            case ast.UnaryOp(ast.USub(), ast.Name(id="inf")):
                return -float("inf")
            case ast.Name(id="inf"):
                return float("inf")
            case ast.List(elts=items):
                return [self.value(item, kind) for item in items]
            case ast.Tuple(elts=items):
                return tuple(self.value(item, kind) for item in items)
            case ast.Dict() if all(isinstance(key, ast.Constant) for key in node.keys):
                keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
                return dict(zip(keys, [self.value(item, kind) for item in node.values], strict=True))
            case ast.Name(id=name):
                known = {**names("value"), **names(kind)}
                if name in known:
                    return known[name]
                name = _short(name)
                raise ConfigError(f'{name} is no value; a text is written "{name}"; {nearest(name, known)}')
            case ast.Attribute():
                return self.target(node, "value")
            case ast.Call():
                return self.part(node, kind)
        raise ConfigError(f"{_short(ast.unparse(node))} is no plain value: a number, text, list or part is")

    def target(self, node: ast.expr, kind: str) -> Any:
        """The class or function that a name or an import path means."""
        path, known = ast.unparse(node), names(kind)
        if not all(word.isidentifier() for word in path.split(".")):
            raise ConfigError("it is no name and no call of one; write StudentT(df=4.0), say")
        if "." in path:
            return self.imported(path, kind)
        matches = [known[name] for name in known if name.lower() == path.lower()]
        if not matches:
            make = {"guide": guides.as_guide, "likelihood": likelihoods.as_likelihood}.get(kind)
            if make and _is_class(getattr(dist, path, None), Distribution):
                try:
                    make(getattr(dist, path))  # which tells why it cannot be one
                except ValueError as error:
                    raise ConfigError(str(error)) from error
            own = "or the import path of your own, my_module.Name"
            raise ConfigError(f"no {kind} is named {_short(path)}; {nearest(path, known)} ({own})")
        return known[path] if path in known else matches[0]

    def imported(self, path: str, kind: str) -> Any:
        """What an import path leads to: if it is trusted, a part, and defined where that is trusted too."""
        words = path.split(".")
        if not self.trusts(".".join(words[:-1])):
            short = f"Write {words[-1]} alone; or, if" if words[-1] in names(kind) else "If"
            module = _short(words[0])
            raise ConfigError(
                f"{_short(path)} is code of a module that is not trusted: nothing was imported. {short} you "
                f'know what it does, trust=["{module}"] (--trust {module}), or pass the object itself'
            )
        found: Any = None
        for length in range(len(words) - 1, 0, -1):
            module = ".".join(words[:length])
            try:
                found = functools.reduce(getattr, words[length:], importlib.import_module(module))
                break
            except Exception as error:  # whatever the module's code raises
                if isinstance(error, ModuleNotFoundError) and error.name == module and length > 1:
                    continue  # a class within a class
                raise ConfigError(f"{_short(path)} cannot be imported ({reason(error)})") from error
        bases = _KINDS[kind][2]
        if not (_is_class(found, *bases) or (inspect.isfunction(found) and isinstance(found, bases))):
            wanted = " or a ".join(base.__name__ for base in bases)
            raise ConfigError(f"{path} is no {kind}; a {wanted} of one's own is")
        if not self.trusts(found.__module__):  # a trusted module may have imported anything
            raise ConfigError(f"{path} is defined in {found.__module__}, which is not trusted")
        return found

    def trusts(self, module: str) -> bool:
        return self.trust == "*" or any(f"{module}.".startswith(f"{name}.") for name in self.trust)

    def make(self, target: Any, kind: str, arguments: Sequence[Any], keywords: dict[str, Any]) -> Any:
        """What the class or function of a kind, with these arguments, means."""
        if kind in ("likelihood", "guide") and _is_class(target, Distribution):
            if not (arguments or keywords):
                return target
            target = Of(target)
        called = target in names("encoder").values() and not _is_class(target, nn.Module)
        called = called or _is_class(target, schedules.Schedule)
        if called or kind in ("prior", "likelihood", "guide", "loss", "distribution"):
            return _call(target, arguments, keywords)
        if arguments:
            raise ConfigError(f"its arguments are given by name: {target.__name__}(name=value)")
        keywords = _bind(target, (), keywords, partial=True)[1]
        return functools.partial(target, **keywords) if keywords else target


def _call(target: Any, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    arguments, keywords = _bind(target, arguments, keywords)
    try:
        return target(*arguments, **keywords)
    except Exception as error:  # whatever a constructor raises
        raise ConfigError(f"it cannot be made: {reason(error)}") from error


def _bind(
    target: Any, arguments: Sequence[Any], keywords: Mapping[str, Any], partial: bool = False
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments, checked against a signature's plain types; those of distributions as tensors."""
    signature = inspect.signature(target)
    try:
        bound = (signature.bind_partial if partial else signature.bind)(*arguments, **keywords)
    except TypeError as error:
        wrong = next((name for name in keywords if name not in signature.parameters), "")
        takes = f"it takes {', '.join(signature.parameters)}"
        hint = nearest(wrong, signature.parameters) if wrong else takes
        raise ConfigError(f"{_short(str(error))}; {hint}") from error
    inner = target.func if isinstance(target, functools.partial) else target
    try:
        hints = typing.get_type_hints(inner.__init__ if inspect.isclass(inner) else inner)
    except Exception:  # names that its module does not know while it runs
        hints = {}

    def fit(label: str, value: Any, hint: Any) -> Any:
        if _is_class(target, Distribution, Transform):
            value = _tensor(value, hint)
        check(label, value, hint)
        return value

    for name, value in bound.arguments.items():
        hint = hints.get(name, Any)
        match signature.parameters[name].kind:
            case inspect.Parameter.VAR_POSITIONAL:
                bound.arguments[name] = tuple(fit(name, item, hint) for item in value)
            case inspect.Parameter.VAR_KEYWORD:
                bound.arguments[name] = {label: fit(label, item, hint) for label, item in value.items()}
            case _:
                bound.arguments[name] = fit(name, value, hint)
    return bound.args, bound.kwargs


def _tensor(value: Any, hint: Any) -> Any:
    """Numbers and lists of them as the tensors that distributions take, unless others are asked for."""
    wanted = {hint, *get_args(hint)}
    exact = type(value) is int and Tensor in wanted and not wanted & {int, float}
    if exact or (isinstance(value, float | list | tuple) and wanted & {Tensor, Any}):
        with contextlib.suppress(TypeError, ValueError):  # a list of parts, say
            return torch.tensor(value, dtype=torch.get_default_dtype())
    return value


def check(label: str, value: Any, hint: Any) -> None:
    """Refuses a value of another type than an annotation asks for, where that is made of plain types.

    Raises:
        ConfigError: naming the value and what would do.
    """
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    others = [o for o in options if inspect.isclass(o) and o not in checks.TOLD and o is not Any]
    if others and not isinstance(value, str | dict | list | int | float):
        return
    if not any(issubclass(o, tuple) for o in others) and not checks.fits(value, hint):
        raise ConfigError(f"{_short(label)}={shown(value)} must be {checks.wanted(value, hint)}")


def options(text: str, extra: Mapping[str, str]) -> str:
    """A part's text with further arguments: ``options("StudentT", {"df": "4"})`` is ``"StudentT(df=4)"``.

    Args:
        text: of the part.
        extra: by the argument's name, as typed: values, parts and names of modules, ``true``, ``false`` and
            ``null`` too; all else is a text, and needs no quotes.

    Raises:
        ConfigError: the text is no name and no call.
    """
    node = _parse(text)
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    given = [keyword for keyword in call.keywords if keyword.arg not in extra]
    call.keywords = given + [ast.keyword(name, _typed(value)) for name, value in extra.items()]
    return ast.unparse(ast.fix_missing_locations(call)) if extra else text


def _typed(text: str) -> ast.expr:
    try:
        node = _parse(_WORDS.get(text, text))
    except ConfigError:
        return ast.Constant(text)
    known = isinstance(node, ast.Name) and (text in names("value") or text in ("inf", "nan"))
    plain = ast.Constant | ast.UnaryOp | ast.List | ast.Tuple | ast.Dict | ast.Call | ast.Attribute
    return node if known or isinstance(node, plain) else ast.Constant(text)


_WORDS = {"true": "True", "false": "False", "null": "None"}


def plain(text: Any) -> Any:
    """The number, list, mapping, True, False or None that a text stands for; else what it is."""
    if not isinstance(text, str):
        return text
    try:
        value = ast.literal_eval(_parse(_WORDS.get(text, text)))
    except (ValueError, TypeError, RecursionError, MemoryError):
        return text
    return value if isinstance(value, bool | int | float | str | list | tuple | dict | None) else text


def write(part: Any) -> str:
    """The text from which ``read`` makes a part again; of what has no name, one that ``read`` refuses."""
    if isinstance(part, Distribution) and names("prior").get(type(part).__name__) is not type(part):
        return f"Fixed({_written(part)})"  # a prior of this package has the name
    return _written(part)


def _written(part: Any) -> str:
    if isinstance(part, Tensor):
        return _numbers(part.detach().cpu().numpy())
    if isinstance(part, list | tuple):
        items = ", ".join(map(_written, part))
        return f"[{items}]" if isinstance(part, list) else f"({items}{',' * (len(part) == 1)})"
    if isinstance(part, functools.partial):
        order = [*inspect.signature(part.func).parameters, *part.keywords]
        return _called(part.func, {name: part.keywords[name] for name in order if name in part.keywords})
    if isinstance(part, ExpandedDistribution):
        return f"{_written(part.base_dist)}.expand({list(part.batch_shape)})"
    if isinstance(part, Distribution | Transform):
        return _distribution(part)
    if isinstance(part, pyro.infer.ELBO):
        parameters = inspect.signature(type(part)).parameters
        kept = {name: vars(part)[name] for name in parameters if name in vars(part)}
        return _called(type(part), {n: v for n, v in kept.items() if v != parameters[n].default})
    if inspect.isclass(part) or inspect.isroutine(part):
        return _name(part)
    if isinstance(part, Of):
        return _name(part.family)
    if isinstance(part, likelihoods.ByColumn | likelihoods.Auto):
        return _called(type(part), part.arguments())
    if isinstance(part, dict):
        return f"{{{', '.join(f'{key!r}: {_written(value)}' for key, value in part.items())}}}"
    text, cls = repr(part), type(part)  # of numbers and texts too
    if cls.__module__.startswith("pyro_vae."):  # a family of numbers may be one's own
        cls = getattr(part, "family", cls)
    if cls is priors.Fixed:  # whose repr has Pyro's within
        text = f"Fixed({_written(part.distribution)})"
    return _name(cls) + text.removeprefix(cls.__name__) if text.startswith(cls.__name__) else text


def _numbers(values: Any) -> str:
    """Nested lists of the shortest decimals that are the same numbers in the array's own precision."""
    return f"[{', '.join(map(_numbers, values))}]" if values.ndim else str(values[()])


def _distribution(part: Any) -> str:
    """By the constructor's arguments, read from attributes of the same names."""
    arguments, stored = {}, vars(part)
    parameters = inspect.signature(type(part)).parameters
    for name in parameters.keys() - {"validate_args", "cache_size"}:
        # Some keep arguments under other names, and compute others on demand.
        near = [n for n in (name, f"_{name}", name.replace("_distribution", "_dist")) if n in stored]
        near = [n for n in (f"_unbroadcasted_{name}",) if near[:1] == [name] and n in stored] or near
        if near:
            arguments[name] = stored[near[0]]
        elif parameters[name].default is inspect.Parameter.empty:
            if not hasattr(part, name):
                return f"<{type(part).__name__}>"
            arguments[name] = getattr(part, name)
    if {"probs", "logits"} <= parameters.keys():  # one was given; the other was computed, and may be kept
        probs, own = arguments.pop("probs", None), part
        arguments.pop("logits", None)
        while inner := vars(own).get("_categorical", vars(own).get("base_dist")):  # who has both
            own = inner
        probs = vars(own).get("probs", probs)
        name = "probs" if probs is not None and getattr(own, "_param", probs) is probs else "logits"
        arguments[name] = getattr(part, name)
    for name in [n for n in ("scale_tril", "covariance_matrix", "precision_matrix") if n in arguments][1:]:
        del arguments[name]
    return _called(type(part), {name: arguments[name] for name in parameters if name in arguments})


def _called(target: Any, keywords: Mapping[str, Any]) -> str:
    return f"{_name(target)}({', '.join(f'{name}={_written(value)}' for name, value in keywords.items())})"


def _name(value: Any) -> str:
    """The short name of what Pyro, PyTorch and this package have, the import path of all else."""
    known = (value.__module__ or "").split(".")[0] in ("torch", "pyro", "pyro_vae")
    return str(value.__qualname__) if known else f"{value.__module__}.{value.__qualname__}"
