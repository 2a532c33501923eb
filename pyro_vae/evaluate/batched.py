"""A function over any number of rows, compiled for one batch of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import Count, checked
from pyro_vae.svi import CompilationWarning


class Batched:
    """Encodes, decodes, samples or scores any number of rows, in compiled batches of one size.

    ``Batched(f)(x)`` is ``torch.cat([f(rows) for rows in x.split(batch_size)])``, seed for seed. The
    batches of full size are compiled, at the first of them, which takes seconds; the smaller last one is
    computed eagerly. Memory is bounded by the batch size, but for the result.

    >>> import pyro_vae as pv
    >>> vae = pv.VAE((784,), latent_dim=2)
    >>> encode = pv.evaluate.Batched(lambda x: vae.encode(x).mean)
    >>> draw = pv.evaluate.Batched(lambda z: vae.decode(z).sample())
    >>> encode(torch.rand(30, 784)).shape, draw(torch.randn(30, 2)).shape
    (torch.Size([30, 2]), torch.Size([30, 784]))

    Args:
        function: of tensors whose first dimension is that of rows, to a tensor ``[rows, ...]``. What it does
            to a row depends on no other row. It may use any Pyro program, and runs without gradients.
        batch_size: rows at a time.

    Raises:
        ValueError: the batch size is not positive; or, when called, the tensors differ in their rows' number.

    What cannot be compiled, or is not equal to the eager result up to 1 % of its norm (for draws: of discrete
    values, a rounding decides few), is computed eagerly, with a ``CompilationWarning``.
    """

    @checked
    def __init__(self, function: Callable[..., Tensor], batch_size: Count = 1000):
        self.function, self.batch_size = function, batch_size
        self._compiled: dict[Any, Any] = {}
        self._eager = False

    @torch.no_grad()
    def __call__(self, *tensors: Tensor) -> Tensor:
        if len({len(tensor) for tensor in tensors}) != 1:
            found = ", ".join(str(list(tensor.shape)) for tensor in tensors) or "none"
            raise ValueError(f"takes tensors of equally many rows, not of shapes {found}")
        batches = zip(*(tensor.split(self.batch_size) for tensor in tensors), strict=True)
        return torch.cat([self._apply(batch) for batch in batches])

    def _apply(self, batch: tuple[Tensor, ...]) -> Tensor:
        if self._eager or len(batch[0]) < self.batch_size:
            return self.function(*batch)
        key = tuple((tensor.shape, tensor.stride(), tensor.dtype, tensor.device) for tensor in batch)
        compiled = self._compiled.get(key)
        if compiled is None or compiled.watch.changed():
            try:
                compiled = self._compile(batch)
            except Exception as error:  # private API of another version of PyTorch, say
                self._eager = True
                text = f"the function is computed eagerly, not compiled: {error}"
                warnings.warn(text, CompilationWarning, stacklevel=5)
                return self.function(*batch)
            self._compiled[key] = compiled
        return compiled(*batch)[0]

    def _compile(self, batch: tuple[Tensor, ...]) -> Any:
        from pyro_vae.engine import CompilationError, Compiled  # which is slow to import

        def function(*tensors: Tensor) -> list[Tensor]:
            found = self.function(*tensors)
            if not isinstance(found, Tensor) or len(found) != self.batch_size:
                raise CompilationError("it does not return one tensor with a row for each of its arguments'")
            return [found]

        compiled = Compiled(function, batch, [self.function])
        compiled.check(function, batch, tolerance=1e-2)
        return compiled
