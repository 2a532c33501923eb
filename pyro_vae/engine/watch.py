"""What a program depends on besides its arguments, and whether that is still as it was."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from pyro_vae.engine import private

_PLAIN = (bool, int, float, str, types.NoneType)
_LIBRARIES = {"torch", "pyro", "numpy"} | set(sys.stdlib_module_names)
_MOST = 10_000  # objects that are looked at


class Watch:
    """Notices that a program has changed, as far as Python lets it be seen.

    Watched are the modules that the program reaches (their tensors, modes, children, hooks and plain
    attributes), the tensors and plain values in its closure, among the globals that it names, and in the
    containers and objects there, and Pyro's parameter store.

    Args:
        roots: functions, methods or modules that the program starts from.
        besides: objects that the program may hold but not use: what runs it, and changes at each step.
    """

    def __init__(self, roots: Iterable[Any], besides: Iterable[Any] = ()):
        self._modules: dict[int, nn.Module] = {}
        self._slots: list[tuple[Any, Any, Any]] = []  # a holder, the key, and what was found there
        # By reference, so that no other object takes an id.
        self._seen: dict[int, Any] = {id(value): value for value in besides}
        for root in roots:
            self._visit(root)
        self._before = [(held, dict(held)) for held in private.dicts([*self._modules.values()])]
        self._state = self._look()

    def tensors(self) -> list[Tensor]:
        """Those that the program closes over."""
        buffers = [b for module in self._modules.values() for b in module.buffers(recurse=False)]
        return buffers + [value for *_, value in self._slots if isinstance(value, Tensor)]

    def restrict(self, closed_over: Sequence[Tensor]) -> None:
        """Leaves out the tensors that the program has not used."""
        used = {id(tensor) for tensor in closed_over}
        self._slots = [slot for slot in self._slots if not isinstance(slot[2], Tensor) or id(slot[2]) in used]

    def add(self, modules: Iterable[nn.Module]) -> None:
        """Adds modules that the program was seen to call; from here on changes are counted."""
        for module in modules:
            self._modules.setdefault(id(module), module)
        self._before = []
        self._state = self._look()

    def changed(self) -> bool:
        """Whether anything was replaced, switched, frozen or set."""
        modules, rest = self._state
        for held, number, plain, others in modules:  # at each step, and so by identity first
            if len(held) != number:
                return True
            for key, value in plain:
                if held.get(key, _get) is not value and _differs(held.get(key, _get), value):
                    return True
            for key in others:
                if type(held.get(key)) in _PLAIN:
                    return True
        if private.look(self._modules.values()) != rest:
            return True
        return any(_differs(_get(holder, key), before) for holder, key, before in self._slots)

    def restore(self) -> None:
        """Puts back what the program has replaced in modules and in the parameter store since the start."""
        for held, before in self._before:
            if held.keys() != before.keys() or any(held[key] is not before[key] for key in held):
                held.clear()
                held.update(before)

    def _look(self) -> tuple[list[Any], list[Any]]:
        """What modules hold: how many attributes, those that are plain, the others' names; and the rest."""
        modules = []
        for held in map(vars, self._modules.values()):
            plain = [(key, value) for key, value in held.items() if type(value) in _PLAIN]
            others = [key for key in held if type(held[key]) not in _PLAIN and key not in private.OF_MODULES]
            modules.append((held, len(held), plain, others))
        return modules, private.look(self._modules.values())

    def _visit(self, value: Any) -> None:
        if type(value) in _PLAIN or isinstance(value, Tensor | type | types.ModuleType):
            return
        if id(value) in self._seen or len(self._seen) > _MOST:
            return
        self._seen[id(value)] = value
        if isinstance(value, nn.Module):
            self._modules[id(value)] = value
            self._hold(vars(value), plain=False)
            for child in value.children():
                self._visit(child)
        elif isinstance(value, dict):
            self._hold(value)
        elif isinstance(value, tuple):
            for item in value:
                self._visit(item)
        elif isinstance(value, list):
            for i in range(len(value)):
                self._slot(value, i)
        elif isinstance(value, types.MethodType):
            self._visit(value.__self__)
            self._visit(value.__func__)
        elif isinstance(value, functools.partial):
            for part in (value.func, value.args, value.keywords):
                self._visit(part)
        elif isinstance(value, types.FunctionType):
            self._visit(getattr(value, "__wrapped__", None))
            self._visit_function(value)
        elif isinstance(value, Distribution | Transform):
            self._hold(vars(value), plain=False)
        elif hasattr(value, "__dict__") and not of_library(value):
            self._hold(vars(value))

    def _visit_function(self, function: types.FunctionType) -> None:
        if of_library(function):
            return
        for cell in function.__closure__ or ():
            self._slot(cell, None)
        self._visit(function.__defaults__)
        self._visit(function.__kwdefaults__)
        codes = [function.__code__]
        for code in codes:
            codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
            for name in code.co_names:
                if name in function.__globals__:
                    self._slot(function.__globals__, name)

    def _hold(self, held: dict[Any, Any], *, plain: bool = True) -> None:
        for key, value in list(held.items()):
            if key not in private.OF_MODULES and (plain or type(value) not in _PLAIN):
                self._slot(held, key)

    def _slot(self, holder: Any, key: Any) -> None:
        value = _get(holder, key)
        if not of_library(value) or type(value) in _PLAIN or isinstance(value, Tensor | Distribution):
            self._slots.append((holder, key, value))  # others are Pyro's to replace, as it does with caches
        self._visit(value)


def _differs(now: Any, before: Any) -> bool:
    return now is not before and not (type(now) is type(before) and type(now) in _PLAIN and now == before)


def of_library(value: Any) -> bool:
    """Whether a function, or the class of an object, is a library's."""
    module = value.__module__ if isinstance(value, types.FunctionType) else type(value).__module__
    return (module or "").partition(".")[0] in _LIBRARIES


def _get(holder: Any, key: Any) -> Any:
    try:
        return holder.cell_contents if isinstance(holder, types.CellType) else holder[key]
    except (KeyError, IndexError, ValueError):  # no longer there; an empty cell
        return _get  # which is nobody's value
