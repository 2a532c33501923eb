"""Part of a data set: values by site, batched by index."""

from __future__ import annotations

import html
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.data.arrays import check_dense, check_finite, classes, numbers
from pyro_vae.data.binarize import Binarize, binarized, redraw
from pyro_vae.data.columns import Columns
from pyro_vae.data.mapped import mapped
from pyro_vae.data.source import (
    Array,
    DataError,
    Index,
    Memory,
    OnDisk,
    Source,
    Statistics,
    Streamed,
    at_once,
    statistics,
)

AHEAD = 2**26
"""Bytes of the batches that are read ahead: while a block of rows is read, those before it are trained on."""
THREADS = 4
"""Threads that read, a batch each; so many batches are read ahead where they are larger."""
MOST_AHEAD = 2**28
"""Bytes of these at most, but that the next one is read ahead however large it is."""
EXAMPLES = 2**28
"""Bytes of the examples, where a thousand would be more, in float32."""


class Split:
    """Data by site, ``[N, *event_shape]`` each, of which NaN is not observed.

    Indexing gives values of the first site, x, and ``batch`` those of all sites.

    Args:
        values: of x, or of each site: numbers ``[N, *event_shape]``, tensors or arrays, in memory or not.
        labels: site ``"y"``, the class of each datum ``[N]``.
        divisor: what the first site's values are divided by, 255 for 8-bit images.
        binarize: the first site's values: ``"none"``; ``"threshold"``: x > 0.5; ``"static"``:
            x ~ Bernoulli(grey value), drawn once; ``"dynamic"``: drawn anew at each ``redraw``.
        seed: of the static draw, and of the first dynamic one.
        rows: which rows of arrays that are not in memory this split is made of; None for all.
        class_names: of the labels.
        columns: of a table, what those of its rows x are.

    Raises:
        DataError: sites differ in their number of data, or hold no numbers, or are no dense tensors.
    """

    def __init__(
        self,
        values: Array | Mapping[str, Array],
        labels: Any = None,
        *,
        divisor: float = 1.0,
        binarize: Binarize = "none",
        seed: int = 0,
        rows: np.ndarray | None = None,
        class_names: tuple[str, ...] | None = None,
        columns: Columns | None = None,
    ):
        self.columns = columns
        given: dict[str, Any] = dict(values) if isinstance(values, Mapping) else {"x": values}
        given |= {} if labels is None else {"y": labels}
        self.class_names = class_names
        if "y" in given and not isinstance(given["y"], Tensor) and getattr(given["y"], "ndim", 1) < 2:
            given["y"], names = classes(given["y"])
            self.class_names = names or class_names
        self.binarize, self.seed = binarize, seed
        self.sources: dict[str, Source] = {}
        for site in sorted(given, key=lambda site: site != "x"):
            array = given[site]
            if isinstance(array, Tensor):
                check_dense(array, f"the values of site {site!r}")
            else:
                array = mapped(numbers(array))
            by = 1.0 if self.sources else divisor
            self.sources[site] = Streamed(array, by, rows) if isinstance(array, OnDisk) else Memory(array, by)
        self.first = next(iter(self.sources))
        if len({len(source) for source in self.sources.values()}) > 1:
            lengths = ", ".join(f"{site}: {len(source)}" for site, source in self.sources.items())
            raise DataError(f"sites differ in their number of data ({lengths}); give one row per datum")
        # Whole numbers without a shape are classes, which stay whole; others are computed with.
        self._whole = {s for s, source in self.sources.items() if not (source.event_shape or source.floating)}
        if binarize != "none":
            self._whole.discard(self.first)
            self.sources[self.first] = binarized(self.sources[self.first], binarize, seed)
        self._statistics: dict[str, Statistics] = {}

    def __len__(self) -> int:
        return len(self.sources[self.first])

    def __getitem__(self, index: Any) -> Tensor:
        x = self._take(self.first, _index(index, len(self)), torch.get_default_dtype())
        return x if isinstance(index, slice) or np.ndim(index) else x[0]

    @property
    def event_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one datum, by site."""
        return {site: source.event_shape for site, source in self.sources.items()}

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one datum of the first site, x."""
        return self.sources[self.first].event_shape

    @property
    def labels(self) -> Tensor | None:
        """Site ``"y"``, if there is one: int64, or floating with NaN where a label is not known."""
        return self._take("y", slice(None), torch.get_default_dtype()) if "y" in self.sources else None

    def batch(self, index: Any, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Values of each site, ``[B, *event_shape]``, at a slice or indices ``[B]``, as in ``batches``."""
        index, dtype = _index(index, len(self)), dtype or torch.get_default_dtype()
        return {site: self._take(site, index, dtype) for site in self.sources}

    def batches(
        self,
        batch_size: int,
        order: Tensor | None = None,
        start: int = 0,
        dtype: torch.dtype | None = None,
    ) -> Iterator[dict[str, Tensor]]:
        """Batches of the values of each site, in the order of the indices given (or as stored).

        Args:
            batch_size: B; the last batch may be smaller.
            order: permutation ``[N]`` to follow.
            start: number of batches to skip.
            dtype: of the values, by default torch's; classes are int64.
        """
        chunks = (
            slice(i, min(i + batch_size, len(self))) for i in range(start * batch_size, len(self), batch_size)
        )
        return self.ahead((chunk if order is None else order[chunk] for chunk in chunks), dtype)

    def ahead(
        self,
        indices: Iterable[Index],
        dtype: torch.dtype | None = None,
        sites: Iterable[str] | None = None,
    ) -> Iterator[dict[str, Tensor]]:
        """``batch`` at each of these in turn; what is on disk is read ahead, by a few threads.

        Args:
            indices: slices, or indices ``[B]``.
            dtype: of the values, by default torch's; classes are int64.
            sites: by default all.
        """
        dtype = dtype or torch.get_default_dtype()
        sources = {s: self.sources[s] for s in sites or self.sources}
        on_disk = {site: source for site, source in sources.items() if isinstance(source, Streamed)}
        if not on_disk:
            yield from ({site: self._take(site, index, dtype) for site in sources} for index in indices)
            return

        def read(index: Index) -> dict[str, Tensor]:
            return {site: source.read(index, self._dtype(site, dtype)) for site, source in on_disk.items()}

        def batch(index: Index, reading: Future[dict[str, Tensor]]) -> dict[str, Tensor]:
            read = {site: values.to(on_disk[site].device) for site, values in reading.result().items()}
            return {s: read[s] if s in read else self._take(s, index, dtype) for s in sources}

        waiting: deque[tuple[Index, Future[dict[str, Tensor]]]] = deque()
        size = dtype.itemsize * sum(math.prod(source.event_shape) for source in on_disk.values())
        in_turn = any(source.values.blocks is not None for source in on_disk.values())  # or they meet again
        pool = ThreadPoolExecutor(1 if in_turn else THREADS, "read ahead")
        try:
            for index in indices:
                number = len(range(len(self))[index]) if isinstance(index, slice) else len(index)
                waiting.append((index, pool.submit(read, index)))
                held = max(1, number * size)
                while len(waiting) > max(1, min(max(THREADS, AHEAD // held), MOST_AHEAD // held)):
                    yield batch(*waiting.popleft())
            while waiting:
                yield batch(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def shuffled(self, seed: int) -> Tensor:
        """Indices ``[N]`` in an order to train in, drawn by ``seed``, in which they are read fast."""
        return self.sources[self.first].shuffled(seed)

    def redraw(self, seed: int) -> None:
        """Draws a dynamically binarised split anew; the draw is a function of ``seed`` alone."""
        if self.binarize == "dynamic":
            _ = self.moments(self.first), self.examples  # of the first draw, whatever is drawn since
            redraw(self.sources[self.first], seed)
            self.seed = seed

    def to(self, device: torch.device | str) -> Split:
        """Moves what is held in memory to the device, where batches are then made."""
        for source in self.sources.values():
            source.to(torch.device(device))
        return self

    @property
    def binarized(self) -> str:
        """In words, how values of the first site became 0 and 1; empty if they are as they were given."""
        if self.binarize == "none":
            return ""
        how = "at 0.5" if self.binarize == "threshold" else f"by one draw, seed {self.seed}"
        return f"{self.first} binarised {how}"

    @cached_property
    def gaps(self) -> frozenset[str]:
        """Sites that hold NaN: values that are not observed."""
        return frozenset(s for s, source in self.sources.items() if source.floating and self.missing(s))

    def missing(self, site: str = "x") -> float:
        """Share of the values that are not observed."""
        return self._of(site)[4]

    def moments(self, site: str = "x") -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each element's observed values, in float64; 0 if there are none."""
        return self._of(site)[:2]

    def range(self, site: str = "x") -> tuple[float, float]:
        """Smallest and largest observed value; NaN if there are none."""
        return self._of(site)[2:4]

    @cached_property
    def examples(self) -> dict[str, Tensor]:
        """At most 1000 data, fewer of large ones, evenly over the split; of its first draw, if drawn anew."""
        size = 4 * sum(math.prod(shape) for shape in self.event_shapes.values())
        number = min(1000, len(self), max(16, EXAMPLES // max(1, size)))
        return self.batch(torch.arange(number) * len(self) // max(1, number))

    def check(
        self, site: str, support: constraints.Constraint, domain: str, likelihood: str, mends: str
    ) -> None:
        """Refuses observed values outside a likelihood's support.

        Raises:
            DataError: naming the site, the likelihood, the range found, and the mends.
        """
        outside, check = 0, cast(Callable[[Tensor], Tensor], support.check)
        for x in self.chunks(site):
            inside = check(x)  # of each element, or of each vector
            missing, infinite = (a.reshape(*inside.shape, -1).any(-1) for a in (x.isnan(), x.isinf()))
            wrong = ~(inside | missing) | infinite
            outside += int(wrong.reshape(len(x), -1).any(-1).sum())
        if outside:
            low, high = self.range(site)
            raise DataError(
                f"{outside} of {len(self)} data{_where(site)} lie outside the support {domain} of the "
                f"likelihood {likelihood}: the values range over [{low:g}, {high:g}]. Mend: {mends}"
            )

    def check_scale(self, site: str = "x") -> None:
        """Refuses real data whose variation single precision does not resolve.

        Raises:
            DataError: data are equal, or tiny, or huge, or far from 0 on their own scale, as a column may be.
        """
        mean, std = self.moments(site)
        if len(self) and site not in self._whole and not std.any():
            same = "equal" if self.missing(site) < 1 else "missing"
            raise DataError(
                f"the training data{_where(site)}, {len(self)} in number, are all {same}, so that there is "
                "nothing to learn; give data that vary"
            )
        far = (mean.abs() > 1e5 * std) & (std > 0)
        if mean.dim() == 1 and site not in self._whole and far.any():
            column = int(far.nonzero()[0])
            raise DataError(
                f"column {self._named(column)} of the training data{_where(site)} varies by "
                f"{std[column].item():.3g} (standard deviation) around {mean[column].item():.3g}, which "
                "single precision does not resolve; standardise it: (x - x.mean(0)) / x.std(0)"
            )
        unit, size = std.square().mean().sqrt().item(), mean.abs().max().item()
        if site not in self._whole and (not 1e-6 < unit < 1e15 or size > 1e5 * unit):
            raise DataError(
                f"the training data{_where(site)} vary by {unit:.3g} (standard deviation) around values up "
                f"to {size:.3g}, which single precision does not resolve; standardise them: "
                "(x - x.mean()) / x.std()"
            )

    def _named(self, column: int) -> str:
        return str(column) if self.columns is None else list(self.columns)[column]

    def __repr__(self) -> str:
        sites = ", ".join(f"{site} {shape}" for site, shape in self.event_shapes.items())
        return f"Split({len(self)} data: {sites})"

    def _repr_html_(self) -> str:
        rows = [
            f"<tr><th>{len(self)} data</th><th>shape</th><th>range</th><th>missing</th><th>classes</th></tr>"
        ]
        for site, source in self.sources.items():
            cells = [site, str(source.event_shape), "read from disk", "", ""]
            if isinstance(source, Memory):
                low, high = self.range(site)
                cells[2:] = f"{low:g} to {high:g}", f"{self.missing(site):.1%}", self._counts(site)
            rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
        return f"<table>{''.join(rows)}</table>"

    def _counts(self, site: str) -> str:
        if site != "y" or self.labels is None or self.labels.ndim > 1:
            return ""
        found, counts = torch.unique(self.labels[~self.labels.isnan()], return_counts=True)
        known = [f"{y:g}" if self.class_names is None else self.class_names[int(y)] for y in found.tolist()]
        each = [f"{name}: {count}" for name, count in zip(known, counts.tolist(), strict=True)]
        return ", ".join(each) if len(each) <= 20 else f"{len(each)} classes"

    def _dtype(self, site: str, dtype: torch.dtype) -> torch.dtype:
        return torch.int64 if site in self._whole else dtype

    def _take(self, site: str, index: Index, dtype: torch.dtype) -> Tensor:
        return self.sources[site].take(index, self._dtype(site, dtype))

    def _source(self, site: str) -> Source:
        if site not in self.sources:
            raise DataError(f"the data have no site {site!r}, but {', '.join(map(repr, self.sources))}")
        return self.sources[site]

    def chunks(self, site: str, dtype: torch.dtype | None = None) -> Iterator[Tensor]:
        """All values of a site, a thousand data at a time or fewer, in the order that is read fastest."""
        return (batch[site] for batch in self.ahead(_pieces(self._source(site)), dtype, [site]))

    def _of(self, site: str) -> Statistics:
        if site not in self._statistics:
            self._statistics[site] = statistics(self._finite(site), self._source(site).event_shape)
        return self._statistics[site]

    def _finite(self, site: str) -> Iterator[Tensor]:
        """Its values, of which those on disk are looked at here for the first time."""
        source = self._source(site)
        if not isinstance(source, Streamed):
            yield from self.chunks(site, torch.float64)
            return
        batches = self.ahead(_pieces(source), torch.float64, [site])
        for piece, batch in zip(_pieces(source), batches, strict=True):
            check_finite(batch[site].cpu().numpy(), source.values.path, source.rows[piece])
            yield batch[site]


def _pieces(source: Source) -> Iterator[Index]:
    """Indices of a thousand data at a time, or fewer large ones, in the order that is read fastest."""
    order, number = source.order, at_once(source.event_shape)
    slices = (slice(start, start + number) for start in range(0, len(source), number))
    return (piece if order is None else order[piece] for piece in slices)


def _index(index: Any, size: int) -> Index:
    if isinstance(index, slice):
        return index
    if isinstance(index, int):
        return torch.tensor([range(size)[index]])
    return torch.arange(size)[torch.as_tensor(index).cpu()].reshape(-1)


def _where(site: str) -> str:
    return "" if site == "x" else f" of site {site!r}"
