"""Arguments are held against the annotations of what takes them: said once, and checked at the door."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import numpy as np
from torch import Tensor


class ConfigError(ValueError):
    """An option or an argument cannot be used; the message says which, why, and what would do."""


F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Limit:
    """Numbers from ``low`` up to, but without, ``high``; and how they are called."""

    low: float
    high: float
    told: str


Count = Annotated[int, Limit(1, math.inf, "positive")]
Levels = Annotated[int, Limit(2, math.inf, "2 levels or more: 256 for 8-bit images")]
Seed = Annotated[int, Limit(0, 2**32, "from 0 up to 2**32")]
NotNegative = Annotated[float, Limit(0.0, math.inf, "a number from 0 up")]
Positive = Annotated[float, Limit(math.ulp(0.0), math.inf, "positive")]
Whole = Annotated[int, Limit(0, math.inf, "a whole number from 0 up")]


def checked(function: F) -> F:
    """The function, which then refuses arguments that are not as they are annotated; NumPy's become Python's.

    Raises:
        ConfigError: naming the argument, what was found and what would do.

    >>> @checked
    ... def draw(num_samples: Count) -> None: ...
    >>> draw(0)
    Traceback (most recent call last):
    pyro_vae.checks.ConfigError: num_samples=0 must be positive
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.arguments.update(check_all(function, bound.arguments))
        return function(*bound.args, **bound.kwargs)

    return typing.cast(F, call)


def check_all(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name, each as ``check`` returns it."""
    hints = _hints(function)
    return {name: check(name, value, hints.get(name, Any)) for name, value in arguments.items()}


def check(name: str, value: Any, hint: Any) -> Any:
    """The value, if it is as it is annotated; a number of NumPy's as one of Python's.

    Raises:
        ConfigError: naming the argument, what was found and what would do.
    """
    value = _plain(value)
    if isinstance(value, np.ndarray) and get_origin(hint) in _LISTS:
        value = value.tolist()
    if not fits(value, hint):
        raise ConfigError(f"{name}={found(value)} must be {wanted(value, hint)}")
    return value


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is as it is annotated."""
    origin, arguments = get_origin(hint) or hint, get_args(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return True
    if origin is Annotated:
        inner, limit = arguments
        return fits(value, inner) and limit.low <= value < limit.high
    if origin in (Union, types.UnionType):
        return any(fits(value, option) for option in arguments)
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in arguments)
    if origin in _NUMBERS:
        return isinstance(value, _NUMBERS[origin]) and not isinstance(value, bool | np.bool_)
    if origin in _LISTS and arguments:
        return isinstance(value, list | tuple) and all(fits(item, arguments[0]) for item in value)
    if origin in (collections.abc.Mapping, dict) and arguments:
        return isinstance(value, Mapping) and all(
            fits(key, arguments[0]) and fits(item, arguments[1]) for key, item in value.items()
        )
    return isinstance(value, origin)


def wanted(value: Any, hint: Any) -> str:
    """What would do instead of a value: of its type, else of any."""
    origin, arguments = get_origin(hint) or hint, get_args(hint)
    if origin is Annotated:
        inner, limit = arguments
        return limit.told if fits(value, inner) else wanted(value, inner)
    if origin in (Union, types.UnionType):
        return " or ".join(wanted(value, option) for option in arguments)
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin in _LISTS and arguments:
        items = value if isinstance(value, list | tuple) else ()
        wrong = next((item for item in items if not fits(item, arguments[0])), None)
        return f"a list, each {wanted(wrong, arguments[0])}"
    if origin in (collections.abc.Mapping, dict) and arguments:
        return f"a mapping, such as {{'x': ...}}, each value {wanted(None, arguments[1])}"
    return TOLD.get(origin, f"a {origin.__name__}")


def found(value: Any) -> str:
    """A value as it is told of, in one short line."""
    if isinstance(value, Tensor):
        return f"<a tensor of shape {list(value.shape)}>"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _plain(value: Any) -> Any:
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


@functools.cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    return {
        name: hint
        for name, hint in typing.get_type_hints(function, include_extras=True).items()
        if name != "return"
    }


_LISTS = (collections.abc.Sequence, list, tuple)
_NUMBERS = {int: Integral, float: Real}
TOLD: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a text",
    type(None): "None",
    object: "of any kind",
    collections.abc.Callable: "a function",
    type: "a class, by its name without quotes",
}
