"""What a step depends on among its arguments: shapes of tensors, and values or identities of the rest."""

from __future__ import annotations

import argparse
import enum
import functools
import types
from collections.abc import Hashable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_vae.engine.watch import of_library

_PLAIN = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    torch.dtype,
    torch.device,
    torch.Size,
    types.NoneType,
    enum.Enum,
)
_RECORDS = (argparse.Namespace, types.SimpleNamespace)
_LARGEST = 2**16  # bytes of an array, which are compared at each step


class UndescribedError(TypeError):
    """An argument whose changes would not be noticed."""


def describe(leaf: Any, watched: list[Any]) -> Hashable:
    """What must be equal for a step that was compiled for another argument to serve this one.

    Args:
        leaf: an argument, or a part of one.
        watched: is added what is told by its identity, whose inside is to be watched.

    Raises:
        UndescribedError: naming it.
    """
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.stride(), leaf.dtype, leaf.device, leaf.requires_grad
    return _within(leaf, watched)


def _within(value: Any, watched: list[Any]) -> Hashable:
    """The same for what is no input of the step, but compiled in."""
    kind = type(value)
    if isinstance(value, _PLAIN):
        return kind, value
    if isinstance(value, np.generic):
        return kind, value.item()
    if isinstance(value, np.ndarray):
        if value.nbytes > _LARGEST or value.dtype.hasobject:
            raise UndescribedError(f"an argument is a large array of {value.size} numbers; make it a tensor")
        return kind, value.dtype, value.shape, value.tobytes()
    if isinstance(value, list | tuple):
        return kind, *(_within(item, watched) for item in value)
    if isinstance(value, dict):
        return kind, *((key, _within(item, watched)) for key, item in value.items())
    if isinstance(value, _RECORDS):
        return kind, _within(vars(value), watched)
    if isinstance(value, functools.partial):  # which is often made anew for each step, as methods are
        return kind, *(_within(part, watched) for part in (value.func, value.args, value.keywords))
    if isinstance(value, types.MethodType):
        return kind, *(_within(part, watched) for part in (value.__self__, value.__func__))
    if isinstance(value, Tensor | nn.Module | types.FunctionType | type) or _is_own(value):
        watched.append(value)  # and so kept, so that no other object takes its id
        return kind, id(value)
    raise UndescribedError(f"an argument is a {kind.__name__}, whose changes cannot be seen")


def _is_own(value: Any) -> bool:
    """Whether its class is written in Python outside of the libraries, as the program is."""
    return hasattr(value, "__dict__") and not of_library(value)
