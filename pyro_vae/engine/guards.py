"""Values that a program reads of its arguments: constants of the compiled step, looked at before each use.

``assert (x >= 0).all()`` or ``if lengths.max() > 10`` is a number for Python, and another number may mean
another program. While it is recorded, such a read is answered where the tensor was computed from
arguments and from tensors that the program closes over, but no parameters and random numbers. How it was
computed is kept, so that it can be computed again: where the answers are the same, so is the program. Other
reads are refused. What is computed from nothing, as ``torch.arange(3)``, is the same each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pyro_vae.engine import private
from pyro_vae.engine.selections import is_selection

MOST = 8
"""Reads in one program. Where there are more, a number for each row, say, they differ from batch to batch."""

_NUMBERS = {getattr(Tensor, f"__{name}__") for name in ("bool", "float", "int", "index", "complex")}
_NUMBERS |= {Tensor.item}
_READERS = _NUMBERS | {Tensor.__array__, Tensor.numpy, Tensor.tolist}
_MAKERS = {torch.tensor, torch.as_tensor, Tensor.new_tensor}


@dataclass(frozen=True)
class _Slot:
    """A tensor by its number: of the inputs, and then of what is computed of them."""

    number: int


class Guards(private.TorchDispatchMode):
    """Keeps what is computed from the inputs alone, and the numbers that were read of it."""

    active: ClassVar[Guards | None] = None

    def __init__(self, inputs: Sequence[Tensor], closed_over: Sequence[Tensor]):
        super().__init__()
        self._closed_over = {id(tensor): tensor for tensor in closed_over}
        self._known = {id(tensor): _Slot(i) for i, tensor in enumerate(inputs)}
        self._kept: list[Any] = list(inputs)  # so that no other object takes an id
        self._made: set[int] = set()
        """Where there is what the program has computed or written."""
        self._constant: set[_Slot] = set()
        self._tape: list[tuple[Any, Any, list[_Slot]]] = []
        self._reads: list[tuple[Any, _Slot, Any]] = []
        self._size = len(inputs)
        self.held: dict[_Slot, Tensor] = {}
        """Tensors that the program closes over, and that numbers are computed from."""

    def __enter__(self) -> Guards:
        Guards.active = self
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        Guards.active = None
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is private.READ:  # by an operation that needs a number, as the end of arange
            return self.read(Tensor.item, args[0])
        result = func(*args, **(kwargs or {}))
        for written in private.written(func, args, kwargs or {}):
            self._forget(_memory(written))
        given = [leaf for leaf in private.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in private.tree_leaves(result) if isinstance(leaf, Tensor)]
        random = torch.Tag.nondeterministic_seeded in func.tags
        # Those of another type are PyTorch's, of which it keeps shapes only.
        plain = all(type(tensor) is Tensor and not is_selection(tensor) for tensor in made)
        if plain and not random and not private.mutates(func) and all(map(self._knows, given)):
            slots = [self._new(tensor) for tensor in made]
            arguments = private.tree_map(self._slot, (args, kwargs or {}))
            self._tape.append((func, arguments, slots))
            if all(self._slot(tensor) in self._constant for tensor in given):
                self._constant.update(slots)
        self._made.update(map(_memory, made))
        return result

    def _new(self, tensor: Tensor) -> _Slot:
        slot = self._known[id(tensor)] = _Slot(self._size)
        self._kept.append(tensor)
        self._size += 1
        return slot

    def _knows(self, tensor: Tensor) -> bool:
        """Whether it follows from the inputs and from what is closed over, or is closed over itself."""
        if id(tensor) in self._known:
            return True
        own = id(tensor) in self._closed_over and type(tensor) is Tensor and not tensor.requires_grad
        if not own or _memory(tensor) in self._made:
            return False
        self.held[self._new(tensor)] = tensor
        return True

    def _forget(self, storage: int) -> None:
        """What shares memory with what is written to has no longer the value that was computed."""
        self._made.add(storage)
        for tensor in self._kept:
            if _memory(tensor) == storage:
                self._known.pop(id(tensor), None)

    def _slot(self, leaf: Any) -> Any:
        return self._known[id(leaf)] if isinstance(leaf, Tensor) else leaf

    def read(self, func: Any, tensor: Tensor) -> Any:
        """The number that was asked for.

        Raises:
            TypeError: it follows from something else than inputs and what is closed over.
        """
        known = func in _NUMBERS and self._knows(tensor)
        constant = known and self._slot(tensor) in self._constant
        if not known or (len(self._reads) == MOST and not constant):
            raise TypeError(f"{func.__name__} reads the values of a tensor")
        with private.unseen(), torch.no_grad():
            value = func(tensor)
        if not constant:
            self._reads.append((func, self._slot(tensor), value))
        return value

    def close(self) -> None:
        """Keeps only what the numbers are computed by."""
        self._known, self._kept = {}, []
        needed = {slot for _, slot, _ in self._reads}
        tape = []
        for func, arguments, slots in reversed(self._tape):
            if needed.intersection(slots):
                tape.append((func, arguments, slots))
                needed.update(leaf for leaf in private.tree_leaves(arguments) if isinstance(leaf, _Slot))
        self._tape = tape[::-1]
        self.held = {slot: tensor for slot, tensor in self.held.items() if slot in needed}

    @property
    def reads(self) -> bool:
        """Whether there are values to be looked at before each use."""
        return bool(self._reads)

    def hold(self, inputs: Sequence[Tensor]) -> bool:
        """Whether the same numbers would be read."""
        if not self._reads:
            return True
        values: dict[_Slot, Any] = {_Slot(i): tensor for i, tensor in enumerate(inputs)} | self.held
        with torch.no_grad():
            for func, arguments, slots in self._tape:
                args, kwargs = private.tree_map(
                    lambda leaf: values[leaf] if isinstance(leaf, _Slot) else leaf, arguments
                )
                made = [
                    leaf for leaf in private.tree_leaves(func(*args, **kwargs)) if isinstance(leaf, Tensor)
                ]
                values.update(zip(slots, made, strict=True))
            return all(func(values[slot]) == value for func, slot, value in self._reads)


def _memory(tensor: Tensor) -> int:
    """Where it is; nowhere, of PyTorch's own without values."""
    return tensor.untyped_storage().data_ptr() if type(tensor) in (Tensor, nn.Parameter) else 0


class NoValues(TorchFunctionMode):
    """Refuses to turn a tensor's values into Python's, which would be constants, or has them guarded."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        makes = func in _MAKERS and isinstance(args[-1], list | tuple)
        if makes and any(isinstance(leaf, Tensor) for leaf in private.tree_leaves(args[-1])):
            if func is Tensor.new_tensor or (kwargs or {}).get("requires_grad"):
                raise TypeError(f"{func.__name__} reads the values of a tensor")
            return _stack(args[0], **(kwargs or {}))
        if func in _READERS:
            if Guards.active is None:
                raise TypeError(f"{func.__name__} reads the values of a tensor")
            return Guards.active.read(func, args[0])
        return func(*args, **(kwargs or {}))


def _stack(data: Any, dtype: Any = None, device: Any = None, **_: Any) -> Tensor:
    """``torch.tensor([x, 1.0])``, where x is a tensor of one number: a copy of it, without gradient."""
    leaves = [torch.as_tensor(leaf) for leaf in private.tree_leaves(data)]
    if any(leaf.numel() != 1 or leaf.is_complex() for leaf in leaves):
        raise TypeError("tensor reads the values of a tensor")
    if dtype is None:  # as PyTorch finds it from Python's numbers
        whole = torch.bool if all(leaf.dtype is torch.bool for leaf in leaves) else torch.int64
        dtype = torch.get_default_dtype() if any(leaf.is_floating_point() for leaf in leaves) else whole

    def stack(value: Any) -> Tensor:
        if isinstance(value, list | tuple):
            return torch.stack([stack(item) for item in value])
        return torch.as_tensor(value, device=device).detach().reshape(()).to(dtype)

    return stack(data)
