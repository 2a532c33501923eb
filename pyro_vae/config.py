"""Names to parts, and back: what a run is made of as plain values that a person can read and edit.

A part (prior, likelihood, guide, network, optimizer, loss) is described by the import path of its
class and the arguments it was made with::

    {"class_path": "pyro_vae.likelihoods.Normal", "init_args": {"scale": "shared"}}
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import jsonargparse
import pyro.distributions
import pyro.infer
import torch
from jsonargparse.typing import register_type
from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from pyro_vae import distributions, guides, likelihoods, nets, priors
from pyro_vae.vae import VAE

NAMESPACES: dict[str, tuple[Any, ...]] = {
    "prior": (priors, pyro.distributions),
    "likelihood": (likelihoods,),
    "guide": (guides,),
    "encoder": (nets,),
    "decoder": (nets,),
    "optimizer": (torch.optim,),
    "loss": (pyro.infer,),
}
"""Where the short name of a part is looked up, in this order."""

_BASES: dict[str, tuple[type, ...]] = {
    "prior": (priors.Prior, Distribution),
    "likelihood": (likelihoods.Likelihood,),
    "guide": (guides.Guide,),
    "optimizer": (torch.optim.Optimizer,),
    "loss": (pyro.infer.ELBO,),
}

# Lists in a configuration become the tensor arguments of a distribution.
register_type(
    Tensor,
    Tensor.tolist,
    lambda values: torch.as_tensor(values, dtype=torch.get_default_dtype()),
    fail_already_registered=False,
)

PARTS = (nn.Module, Distribution, Transform, torch.optim.Optimizer, pyro.infer.ELBO)
"""What a configuration may name; nothing else is ever made from one."""


UNUSABLE = {
    torch.optim.Optimizer,
    torch.optim.LBFGS,  # wants the loss as a closure, and SparseAdam sparse gradients
    torch.optim.SparseAdam,
    pyro.infer.ELBO,
    pyro.infer.Trace_MMD,  # wants a kernel per site
    # The jitted ELBOs look parameters up in the global store, where this package keeps none.
    pyro.infer.JitTrace_ELBO,
    pyro.infer.JitTraceEnum_ELBO,
    pyro.infer.JitTraceGraph_ELBO,
    pyro.infer.JitTraceMeanField_ELBO,
}
"""What the namespaces hold but training cannot use."""


class ConfigError(ValueError):
    """A name or value that cannot be made into a part; the message says what would do."""


def known(kind: str) -> dict[str, str]:
    """Short names of the parts of a kind, such as ``"prior"``, with their import paths."""
    found: dict[str, str] = {}
    for namespace in NAMESPACES[kind]:
        # Those modules also have, as attributes, the families that Pyro has.
        for name in dir(namespace) if namespace in (likelihoods, guides) else namespace.__all__:
            value = getattr(namespace, name, None)
            bases = _BASES.get(kind, (object,))
            if inspect.isclass(value) and issubclass(value, bases) and value not in UNUSABLE:
                found.setdefault(name, f"{namespace.__name__}.{name}")
    return found


def resolve(kind: str, name: str) -> str:
    """Import path of a part, from its short name; an import path is returned as it is.

    Raises:
        ConfigError: there is no such name; the nearest known ones are told.
    """
    paths = known(kind)
    for match in (name, name.lower()):
        for short, path in paths.items():
            if match in (short, short.lower()):
                return path
    if "." in name:
        return _variant(kind, name)
    raise ConfigError(
        f"no {kind} is named {name!r}; {nearest(name, paths)} "
        f"(or the import path of your own: --{kind} package.module.Name)"
    )


def _variant(kind: str, path: str) -> str:
    """The path itself; or, of a distribution class, that of the likelihood or guide made from it."""
    namespace: Any = NAMESPACES[kind][0]
    if namespace in (likelihoods, guides):
        module, _, name = path.rpartition(".")
        try:
            family = getattr(importlib.import_module(module), name)
            if inspect.isclass(family) and issubclass(family, Distribution):
                namespace.of(family)
                return f"{namespace.__name__}.{distributions.variant_name(family)}"
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"{path} cannot be the {kind} ({error})") from error
    return path


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint at the names nearest to a mistyped one."""
    names = sorted(set(names))
    lower = {n.lower(): n for n in names}
    near = difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(lower[n] for n in near)}?"
    return f"known are {', '.join(names)}"


def describe(value: Any) -> Any:
    """Plain values (None, numbers, strings, lists, dicts) from which ``build`` makes the part again.

    A part's constructor arguments are read from its attributes of the same names. Functions, classes
    without an import path and the like are described too, but ``build`` refuses them.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if inspect.isclass(value) or isinstance(value, functools.partial):
        cls, keywords = factory(value)
        # What a factory is called with, (in_shape, out_shape) or (parameters, lr), is left out.
        parameters = list(inspect.signature(cls).parameters.values())[2:]
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        return {"class_path": _path(cls), "init_args": _plain(defaults | keywords)}
    if inspect.isfunction(value):
        return {"class_path": _path(value)}
    arguments = {}
    for name, parameter in inspect.signature(type(value)).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        # Distributions keep some arguments under other names, and compute others on demand.
        stored = [n for n in (name, f"_{name}", name.replace("_distribution", "_dist")) if n in vars(value)]
        if stored:
            arguments[name] = vars(value)[stored[0]]
        elif (not isinstance(value, Distribution) or parameter.default is parameter.empty) and hasattr(
            value, name
        ):
            arguments[name] = getattr(value, name)
        elif parameter.default is parameter.empty:
            return repr(value)
    wanted = {"probs", "logits"} <= inspect.signature(type(value)).parameters.keys()
    if wanted and not {"probs", "logits"} & arguments.keys() and isinstance(value, Distribution):
        arguments["logits"] = cast(Any, value).logits  # kept in the base of a transformed distribution
    if {"probs", "logits"} <= arguments.keys():  # given was one; the other was computed and kept
        given = getattr(value, "_param", arguments["probs"])
        del arguments["logits" if given is arguments["probs"] else "probs"]
    matrices = [n for n in ("scale_tril", "covariance_matrix", "precision_matrix") if n in arguments]
    for name in matrices[1:]:
        del arguments[name]
    return {"class_path": _path(type(value)), "init_args": _plain(arguments)}


def factory(value: Any) -> tuple[Any, dict[str, Any]]:
    """The class or function that a factory calls, and the keywords that it calls it with."""
    if not isinstance(value, functools.partial):
        return value, {}
    # jsonargparse wraps the class that it is to make into a call of its own.
    cls = next((a for a in (value.func, *value.args) if inspect.isclass(a)), value.func)
    return cls, value.keywords


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _path(value) if inspect.isclass(value) else describe(value) for name, value in arguments.items()
    }


def _path(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def parse(kind: str, text: str) -> Any:
    """The part that a text such as ``"VampPrior(500)"`` or ``"StudentT(df=4.0)"`` means, as in Python.

    Raises:
        ConfigError: it is no name, or no call with plain values, or the values do not fit.
    """
    try:
        node = ast.parse(text, mode="eval").body
        function = node.func if isinstance(node, ast.Call) else node
        path = resolve(kind, ast.unparse(function))
        arguments: dict[str, Any] = {}
        if isinstance(node, ast.Call):
            module, _, name = path.rpartition(".")
            keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
            signature = inspect.signature(getattr(importlib.import_module(module), name))
            arguments = signature.bind(*map(ast.literal_eval, node.args), **keywords).arguments
    except (SyntaxError, ImportError, AttributeError, TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        example = {"prior": "VampPrior(500)", "guide": "LowRankNormal(rank=2)"}.get(kind, "StudentT(df=4.0)")
        raise ConfigError(f"{text!r} is no {kind} ({error}); write it as in Python: {example!r}") from error
    spec = {"class_path": path, "init_args": arguments}
    return build(VAE, {kind: spec}, ["event_shape"])[kind]


def _distribution(spec: Any) -> Any:
    """Distributions and transforms, whose signatures seldom say that lists are tensors; else the same."""
    if isinstance(spec, list):
        if spec and all(isinstance(item, dict) for item in spec):
            return [_distribution(item) for item in spec]
        return torch.tensor(spec, dtype=torch.get_default_dtype())
    if isinstance(spec, float):
        return torch.tensor(spec)
    if not isinstance(spec, dict) or "class_path" not in spec:
        return spec
    module, _, name = spec["class_path"].rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    if not issubclass(cls, Distribution | Transform):
        return spec
    arguments = {key: _distribution(value) for key, value in spec.get("init_args", {}).items()}
    try:
        return cls(**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{name} cannot be made from {arguments}: {error}") from error


class Parser(jsonargparse.ArgumentParser):
    """Argument parser made from signatures, in whose help only the known short names are listed."""

    def __init__(self, **kwargs: Any):
        super().__init__(allow_abbrev=False, **kwargs)

    def add_signature(self, function: Callable[..., Any], skip: Iterable[str] = ()) -> None:
        """Adds the parameters of a function or class, with parts as defaults made plain."""
        add = self.add_class_arguments if inspect.isclass(function) else self.add_function_arguments
        extra = {"instantiate": False} if inspect.isclass(function) else {}
        # Of "a likelihood or a distribution class" only the first, which the second is made into, is parsed:
        # mistakes are then told of that one alone.
        own = {"likelihood", "guide"} & inspect.signature(function).parameters.keys()
        add(function, None, skip={*skip, *own}, fail_untyped=False, **extra)
        for kind in own - set(skip):
            self.add_argument(f"--{kind}", type=_BASES[kind][0], help=f"the {kind}, by its name")
        for name, parameter in inspect.signature(function).parameters.items():
            if name in NAMESPACES and name not in skip:
                self.set_defaults({name: describe(parameter.default)})

    def format_help(self, *args: Any) -> str:
        text = super().format_help(*args)
        return re.sub(r",\s+known\s+subclasses:[^)]*\)", ")", text)


def check(value: Any) -> None:
    """Refuses a configuration that names anything but parts: it may come from somebody else.

    To know what a path names, its module is imported; nothing of it is called.

    Raises:
        ConfigError: an import path is not that of a module, distribution, optimizer or ELBO.
    """
    if isinstance(value, list):
        for item in value:
            check(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            is_name = key in NAMESPACES and isinstance(item, str)
            check({"class_path": resolve(key, item)} if is_name else item)
        path = value.get("class_path")
        if path is not None:
            module, _, name = str(path).rpartition(".")
            try:
                part = getattr(importlib.import_module(module), name)
            except (ImportError, AttributeError, ValueError) as error:
                raise ConfigError(f"{path} cannot be imported ({error})") from error
            if not (inspect.isclass(part) and issubclass(part, PARTS)):
                raise ConfigError(
                    f"{path} is no class of a module, distribution, optimizer or ELBO: it is not made"
                )


def build(
    function: Callable[..., Any], config: Mapping[str, Any], skip: Iterable[str] = ()
) -> dict[str, Any]:
    """Arguments of a function or class, as objects, from a run's configuration.

    Args:
        function: whose parameters to take; other entries of the configuration are left aside.
        config: plain values as made by ``describe``.
        skip: parameters to leave out.

    Raises:
        ConfigError: a value does not fit its parameter, or a part cannot be imported.
    """
    parser = Parser(exit_on_error=False)
    parser.add_signature(function, skip)
    taken = set(inspect.signature(function).parameters) - set(skip)
    values = {name: value for name, value in config.items() if name in taken}
    for kind in NAMESPACES.keys() & values.keys():
        value = {"class_path": values[kind]} if isinstance(values[kind], str) else values[kind]
        if isinstance(value, dict) and "class_path" in value:
            # Short names too must not slip past the check.
            values[kind] = value | {"class_path": resolve(kind, value["class_path"])}
    check(values)
    if isinstance(values.get("prior"), dict):
        values["prior"] = _distribution(values["prior"])
    try:
        return vars(parser.instantiate(parser.parse_object(values)))
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        raise ConfigError(f"the configuration does not fit {function.__name__}: {error}") from error
