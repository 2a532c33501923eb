"""Programs: two Pyro stories over a batch, a model and a guide."""

from __future__ import annotations

import contextlib
import functools
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO
from pyro.poutine.condition_messenger import ConditionMessenger
from pyro.poutine.runtime import _PYRO_STACK, effectful
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_vae import bayesian
from pyro_vae.checks import Count, Seed, checked, found
from pyro_vae.conditional import Conditional, full_precision
from pyro_vae.constraints import inside, support
from pyro_vae.data import DataError, Split
from pyro_vae.data.arrays import classes
from pyro_vae.data.columns import Columns, few
from pyro_vae.data.tables import as_pandas, is_frame
from pyro_vae.distributions import marginal
from pyro_vae.families import LEBESGUE, SemiAmortised
from pyro_vae.running import EMITTED, KNOWN, LEARNED, as_learned, one_thread, seed_generators
from pyro_vae.seen import Label, Real, Row, may_have_gaps

Batch = dict[str, Tensor]


def as_batch(batch: Mapping[str, Any] | Tensor | np.ndarray, name: str = "batch") -> Batch:
    """A batch, for which a single tensor is short: that of site ``"x"``.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(batch, Mapping):
        if all(isinstance(value, Tensor) for value in batch.values()):
            return batch if isinstance(batch, dict) else dict(batch)
        return {site: as_batch(value, f"{name}[{site!r}]")["x"] for site, value in batch.items()}
    if isinstance(batch, Tensor):
        return {"x": batch}
    if isinstance(batch, np.ndarray) and batch.dtype.kind in "biuf":
        return {"x": torch.as_tensor(batch, dtype=torch.get_default_dtype())}
    if hasattr(batch, "to_frame"):
        raise TypeError(
            f"{name} is a {type(batch).__name__} of pandas, and a program takes rows: one of them is "
            "frame.iloc[[0]], and a column by its name {'age': frame['age']}"
        )
    raise TypeError(
        f"{name}={found(batch)}: a program takes a batch, a mapping from sites to tensors, or one tensor, "
        f"not a {type(batch).__name__}; of a split, split.batch(slice(0, 100))"
    )


class _Reading(dict[str, Tensor]):
    """A batch that remembers which sites were read."""

    def __init__(self, batch: Batch):
        super().__init__(batch)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.names.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)


class DataWarning(UserWarning):
    """Something in the data that is likely a mistake; the message says what, and the mend."""


class UntrainedWarning(UserWarning):
    """A program within another that ought to be trained before it was not; the message says how to."""


class Program(nn.Module):
    """A latent variable model and its guide: two Pyro stories over a batch.

    A batch maps the names of sites to tensors ``[B, *event_shape]``; a bare tensor is short for
    ``{"x": tensor}``; NaN means not observed. A subclass holds ``nn.Module``s and writes ``model`` and
    ``guide`` with plain ``pyro.sample`` in a plate of B data::

        class Mine(pv.Program):
            def model(self, batch):
                with self.plate(batch):
                    z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                    self.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), batch)

            def guide(self, batch):
                with self.plate(batch):
                    pyro.sample("z", dist.Normal(self.encoder(batch["x"]), 0.5).to_event(1))

    ``self.sample(name, distribution, batch)`` is ``pyro.sample`` that observes the batch's value of that
    name, of which elements may be missing. Parameters are this module's own: they are announced to Pyro
    under names unique to the instance, and never kept in the global parameter store.

    Attributes:
        max_plate_nesting: plates within each other in the model, that of the data included.
        options: what it was made with, from which a registered model is made again.
        event_shapes: shape of a value of each site of the data, as far as it is known.
        columns: of a model of a table, what the columns of its rows x are; a batch may name them instead,
            and so may ``pyro.condition``.
        given_columns: those of them that the model is given.
        class_names: of labels y, in the order of their numbers, where the data that it was trained on had
            such; a batch and ``generate`` may then name classes.
        notes: what else there is to tell of it, a line each.
    """

    max_plate_nesting: int = 1
    columns: Columns | None = None
    given_columns: tuple[str, ...] = ()
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    initialized: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.options: dict[str, Any] = {}
        self.event_shapes: dict[str, tuple[int, ...]] = {}
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))
        # Once looked for; and no plain value before, which a recorded step would see changed.
        self._found: tuple[tuple[Conditional, ...], ...] = ()

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        for name in ("model", "guide"):
            if name in vars(cls):
                setattr(cls, name, _story(vars(cls)[name]))

    def model(self, batch: Any) -> Any:
        """The generative story: latents, then what is observed."""
        raise NotImplementedError(f"{type(self).__name__} has no model(self, batch)")

    def guide(self, batch: Any) -> Any:
        """The inference story: the latents, given what is observed."""
        raise NotImplementedError(f"{type(self).__name__} has no guide(self, batch)")

    def objective(self) -> ELBO:
        """What ``pv.fit`` minimises unless it is told.

        ``Trace_ELBO()``, but ``TraceEnum_ELBO()`` if the guide enumerates, and ``pv.objectives.RLOO()``,
        whose score functions have a baseline, if it has some.
        """
        from pyro_vae.objectives import RLOO

        families = [conditional.family for conditional in self.conditionals()]
        if any(family.enumerates for family in families):
            return TraceEnum_ELBO()
        return RLOO() if any(family.scores for family in families) else Trace_ELBO()

    def fit_settings(self, epochs: int) -> dict[str, Any]:
        """Settings of ``pv.fit`` for so many epochs, where it is told no others: here its own."""
        return {}

    def plate(self, batch: Mapping[str, Tensor]) -> Any:
        """The plate ``"data"``, over the B data of a batch.

        Raises:
            ValueError: a site's values have another shape than the program was built for.
        """
        return pyro.plate("data", self.num_data(batch))

    def num_data(self, batch: Mapping[str, Tensor]) -> int:
        """B, the number of data in a batch.

        Raises:
            ValueError: a site's values have another shape than the program was built for.
        """
        sizes = {name: len(value) for name, value in batch.items()}
        for name in self.event_shapes.keys() & batch.keys():
            shape = self.event_shapes[name]
            if tuple(batch[name].shape[1:]) != shape:
                raise ValueError(
                    f"this {type(self).__name__} was built for {name} of shape "
                    f"[{', '.join(['B', *map(str, shape)])}], but {name} has shape "
                    f"{list(batch[name].shape)}; for a single datum use {name}[None]"
                )
        if len(set(sizes.values())) != 1:
            raise ValueError(f"a batch needs as many values of each site, but has {sizes}")
        return next(iter(sizes.values()))

    def sample(
        self, name: str, distribution: Distribution, batch: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """``pyro.sample`` of a site; observed where the batch has it, element by element."""
        value = None if batch is None else batch.get(name)
        if value is not None and may_have_gaps(name, value):
            observed = ~value.isnan()
            value = torch.where(observed, value, inside(support(distribution)))
            distribution = marginal(distribution, observed)
        infer: Any = {"enumerate": "parallel"} if getattr(distribution, "enumerates", False) else {}
        with full_precision(self.device):
            drawn = pyro.sample(name, cast(Any, distribution), obs=value, infer=infer)
            if self.training and hasattr(distribution, "commitment"):
                # A guide's log-density is taken off the ELBO.
                pyro.factor(f"{name}_commitment", distribution.commitment, has_rsample=True)
        return drawn

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next(self.parameters(), self.initialized).device

    @property
    def dtype(self) -> torch.dtype:
        """Of its parameters."""
        return next(self.parameters(), torch.empty(0)).dtype

    def read_batch(self, batch: Any) -> Batch:
        """A batch as ``as_batch`` has it; of a table's model also a DataFrame, or values by column.

        Columns that are absent are not known (NaN). Labels y may be the names of classes.

        Raises:
            DataError: a column or a class is unknown, or a column has values of another kind.
            TypeError: it is no batch.
        """
        named = isinstance(batch, Mapping) and not isinstance(batch.get("y"), Tensor | None)
        if named and "y" not in (self.columns or ()):
            batch = dict(batch) | {"y": self.class_numbers(batch["y"])}
        if self.columns is None or isinstance(batch, Tensor | np.ndarray):
            return as_batch(batch)
        rest: dict[str, Any] = {}
        if is_frame(batch):
            batch = as_pandas(batch)
        elif not self.names_columns(batch):
            return as_batch(batch)
        else:
            rest = {name: value for name, value in batch.items() if name not in self.columns}
            batch = {name: batch[name] for name in batch if name not in rest}
        rows = self.columns.encode(batch)
        return {"x": rows.to(self.device, self.dtype)} | as_batch(rest)

    def class_numbers(self, labels: Any) -> Any:
        """Names of classes, one or ``[N]``, as their numbers, of which None and NaN are not known (NaN).

        What is an array of numbers, or one number, stays as it is.

        Raises:
            DataError: a name is that of no class.
        """
        if isinstance(labels, str):
            return self.class_numbers([labels])[0]
        numbers = isinstance(labels, np.ndarray) and labels.dtype.kind in "biuf"
        if numbers or isinstance(labels, Tensor) or not hasattr(labels, "__len__"):
            return labels
        codes, names = classes(labels)
        if names is None:
            return codes
        known = self.class_names or ()
        if others := [name for name in names if name not in known]:
            last = self.classes.get("y", 1) - 1
            told = few(known) or f"numbers alone, from 0 to {last}, as its training data had"
            raise DataError(f"y has {few(others)}, and this {type(self).__name__} knows {told}")
        number = torch.tensor([*map(known.index, names), torch.nan])
        return number[codes.nan_to_num(len(names)).long()]

    def names_columns(self, batch: Any) -> bool:
        """Whether it is a mapping of values by column, and not by site."""
        named = self.columns is not None and isinstance(batch, Mapping) and batch.keys() & self.columns.keys()
        return bool(named) and np.ndim(batch.get("x")) != 2  # the rows, though a column be called x, too

    def _conditioned(self, batch: Batch) -> Batch:
        """A batch in which columns have the values that ``pyro.condition`` gives them by their names."""
        handlers = [h for h in _PYRO_STACK if isinstance(h, ConditionMessenger) and isinstance(h.data, dict)]
        data = {name: value for handler in handlers for name, value in cast(Any, handler.data).items()}
        if self.columns is None or not data:
            return batch
        own = {conditional.site for conditional in self.conditionals()}  # latents come before columns
        for name in [name for name in data if name in self.columns and name not in own]:
            j = torch.arange(len(self.columns), device=self.device) == self.columns.number(name)
            value = torch.as_tensor(data[name]).to(batch["x"])[..., None]
            batch = batch | {"x": torch.where(j, value, batch["x"])}
        return batch

    def place(self, batch: Any) -> Batch:
        """A batch on its device, real values in its dtype."""
        return {
            name: value.to(self.device, self.dtype if value.is_floating_point() else None)
            for name, value in self.read_batch(batch).items()
        }

    def conditionals(self) -> list[Conditional]:
        """The conditionals that it holds, without those of programs within it."""

        def within(module: nn.Module) -> Iterator[nn.Module]:
            for child in module.children():
                if not isinstance(child, Program):
                    yield child
                    yield from within(child)

        return [module for module in within(self) if isinstance(module, Conditional)]

    @property
    def bayesian(self) -> tuple[Conditional, ...]:
        """Those with latent weights."""
        return self._special[0]

    @property
    def semi_amortised(self) -> tuple[Conditional, ...]:
        """Those that take steps for each datum."""
        return self._special[1]

    @property
    def _special(self) -> tuple[tuple[Conditional, ...], ...]:
        """What each story asks for, and what is looked for once."""
        if not self._found:
            own = self.conditionals()
            latent = tuple(c for c in own if c.weights is not None)
            self._found = latent, tuple(c for c in own if isinstance(c.family, SemiAmortised))
        return self._found

    def refining(self, batch: Batch) -> contextlib.AbstractContextManager[Any]:
        """Within it, networks of a ``SemiAmortised`` guide emit what its steps lead to for a batch."""
        if not self.semi_amortised or EMITTED.get():
            return contextlib.nullcontext()
        from pyro_vae.refinement import refined

        return refined(self, batch).moving()

    def inferred(self, conditional: Conditional, *parents: Tensor) -> Distribution:
        """What a conditional of the guide says of sites of the data, ``[..., *their event shapes]``."""
        if not self.semi_amortised:
            return cast(Distribution, conditional(*parents))
        shapes = [seen.event_shape for seen in conditional.seen]
        leading = torch.broadcast_shapes(
            *(x.shape[: x.dim() - len(shape)] for x, shape in zip(parents, shapes, strict=True))
        )
        batch = {
            seen.site: x.expand(*leading, *shape).reshape(-1, *shape)
            for x, seen, shape in zip(parents, conditional.seen, shapes, strict=True)
        }
        with self.refining(batch):
            return cast(Distribution, conditional(*parents))

    @property
    def before(self) -> Mapping[str, Program]:
        """Programs within this one, by name, that ``pv.fit`` trains before it, and then leaves as they are.

        One is taken for trained once it is ``initialized``, which it is not by ``initialize`` of this one.
        """
        return {}

    def again(self, data: Split) -> Tensor:
        """Indices ``[M]`` of training data that an epoch takes besides each datum once; here none."""
        return torch.empty(0, dtype=torch.long)

    def see_number(self, num_data: int) -> None:
        """Tells networks whose weights are latent how many data N all of training sees."""
        for c in self.bayesian:
            cast(Any, c.net).num_data = num_data

    @property
    def seen_number(self) -> int | None:
        """N, as those networks were told; None where no weights are latent, or nobody has told."""
        told = next((cast(Any, c.net).num_data for c in self.bayesian), None)
        return None if told is None else int(told)

    def _within(self) -> list[Program]:
        """Programs within it that have not met data yet; one that was trained stays as it is."""
        inner = [module for module in self.modules() if isinstance(module, Program) and module is not self]
        return [program for program in inner if not program.initialized]

    def initialize(self, data: Split) -> None:
        """Starts conditionals at the data's statistics, and standardises what their networks see.

        Called by ``pv.fit`` unless it was before. Images are divided by one number; the columns of vectors,
        unless their values are bounded, each by its own standard deviation. Densities stay on the scale of
        the data.

        Args:
            data: the training data.
        """
        trained_before = self.before
        for program in self._within():
            if program not in trained_before.values():
                program.initialize(data)
        for name, program in trained_before.items():
            if not program.initialized:
                warnings.warn(
                    f"the {name} of this {type(self).__name__} are of a {type(program).__name__} that is not "
                    "trained yet. pv.fit of the whole trains it first; before any other way of training "
                    f"call pv.fit(program.{name}, data)",
                    UntrainedWarning,
                    stacklevel=2,
                )
        own = {c.site: c for c in self.conditionals() if c.site in data.event_shapes}
        for site, c in own.items():
            mean, std = (moment.to(self.device, self.dtype) for moment in data.moments(site))
            c.family.initialize(self.place(data.examples)[site], mean, std, by_column=c.family.by_column)
            if c.family.by_column and (self.columns or c.family.measure == LEBESGUE):
                _warn_of_constants(site, std, mean, self.columns)
        self.see_gaps(data.gaps)
        self.see_number(len(data))
        for c in self.conditionals():
            for parent in c.seen:
                if isinstance(parent, Real | Row) and parent.site in data.event_shapes:
                    beside = own.get(parent.site)
                    vector = len(parent.event_shape) == 1
                    parent.initialize(data, vector and (beside is None or beside.family.by_column))
        if not self.event_shapes:
            read = _Reading(self.place(data.batch(slice(0, 2))))
            with self.evaluating():
                guide = poutine.trace(self.guide).get_trace(read)
                poutine.replay(self.model, trace=guide)(read)
            self.event_shapes = {n: shape for n, shape in data.event_shapes.items() if n in read.names}
        self.class_names = data.class_names if "y" in self.event_shapes else None
        self.initialized.fill_(True)

    def see_gaps(self, gaps: frozenset[str]) -> None:
        """Makes anew, with a mask beside what they see, the networks that see sites with missing values."""
        device, dtype = self.device, self.dtype
        for program in self._within():
            program.see_gaps(gaps)
        for c in self.conditionals():
            new = [p for p in c.seen if isinstance(p, Real | Row) and p.site in gaps and not p.gaps]
            for parent in new:
                parent.gaps = True
            if new:
                c.build()
                c.to(device, dtype)

    @property
    def gaps(self) -> frozenset[str]:
        """Sites of which its networks see a mask beside the values."""
        return frozenset(seen.site for seen in self.modules() if isinstance(seen, Real | Row) and seen.gaps)

    @property
    def classes(self) -> dict[str, int]:
        """Sites that its networks see as labels, with the number of their classes."""
        return {p.site: p.shape[0] for c in self.conditionals() for p in c.seen if isinstance(p, Label)}

    def example(self, num_data: int = 2) -> Batch:
        """A batch of the right shapes, for what is asked of a program and not of data.

        Real values are the mean of what a network sees, labels one class after the other, and all else zero.
        """
        if not self.event_shapes:
            raise ValueError(
                f"the shapes of {type(self).__name__}'s data are not known yet: train it (pv.fit), or set "
                "self.event_shapes = {'x': (784,)}, say, in its __init__"
            )
        batch = {
            name: torch.zeros(num_data, *shape, device=self.device, dtype=self.dtype)
            for name, shape in self.event_shapes.items()
        }
        for seen in (seen for c in self.conditionals() for seen in c.seen if seen.site in batch):
            if isinstance(seen, Label):
                batch[seen.site] = torch.arange(num_data, device=self.device) % len(seen.classes)
            elif isinstance(seen, Real):
                batch[seen.site] = seen.loc.expand(num_data, *seen.event_shape)
            elif isinstance(seen, Row):
                batch[seen.site] = batch[seen.site] + seen.typical()
        return batch

    def generate(
        self, num_samples: Count = 1, given: Mapping[str, Any] | None = None, *, seed: Seed = 0
    ) -> Batch:
        """Draws of all sites, latent and observed, ``[num_samples, *event_shape]``: see ``simulate``."""
        with self.evaluating(seed):
            trace = self.simulate(num_samples, given)
        return {name: site["value"] for name, site in sites(trace)}

    @checked
    def simulate(self, num_samples: Count, given: Mapping[str, Any] | None = None) -> poutine.Trace:
        """The trace of the model run forward for so many data, with the values of some sites given.

        Args:
            num_samples: how many.
            given: values by site, of one datum or of all: a number, or a tensor ``[*event_shape]`` or
                ``[num_samples, *event_shape]``; of labels y also the name of a class, or a list of them.

        Raises:
            DataError: the model has no site of that name, or the value another shape.
        """
        batch, given = self.example(num_samples), dict(given or {})
        if self.columns is not None and (
            named := {n: given.pop(n) for n in list(given) if n in self.columns}
        ):
            if modelled := [name for name in named if name not in self.given_columns]:
                raise DataError(
                    f"given={modelled[0]!r} is a column that this {type(self).__name__} models; draws given "
                    f"it are those of pv.predict(vae, {{{modelled[0]!r}: ...}}), or of a model that is given "
                    f"it: pv.ConditionalVAE(table.event_shapes, given=[{modelled[0]!r}])"
                )
            batch["x"] = self.columns.encode(named, num_samples).to(batch["x"])
        unknown = set(given) - batch.keys()
        if unknown:
            raise DataError(f"given={unknown.pop()!r} is no site of the model; it has {', '.join(batch)}")
        known = {}
        for name, value in given.items():
            shape, number = self.event_shapes[name], self.classes.get(name)
            value = self.class_numbers(value) if name == "y" else value
            try:
                tensor = torch.as_tensor(value)
                if number and not torch.isin(tensor, torch.arange(number).to(tensor)).all():
                    raise ValueError
                one = tuple(tensor.shape) in ((), shape)
                tensor = tensor.expand_as(batch[name]) if one else tensor.reshape(batch[name].shape)
            except (RuntimeError, TypeError, ValueError) as error:
                wanted = f"{shape}, or {(num_samples, *shape)}" if shape else f"one, or {num_samples}"
                what = f"classes from 0 to {number - 1}" if number else "numbers"
                raise DataError(f"{name}={value!r} is no value of {name}: give {what}, {wanted}") from error
            known[name] = tensor.to(batch[name])
        model = poutine.uncondition(self.model)
        return poutine.trace(poutine.condition(model, data=known)).get_trace(batch | known)

    def explain(self, format: Any = "text", batch: Mapping[str, Tensor] | None = None) -> str:
        """Its stories in mathematics, ``"text"``, ``"latex"`` or ``"graph"``: see ``pyro_vae.explain``."""
        from pyro_vae.explain import explain

        return explain(self, format, batch)

    @contextlib.contextmanager
    @checked
    def evaluating(self, seed: Seed = 0) -> Iterator[None]:
        """Evaluation mode, without gradients or validation, under a seed; weights that are latent are drawn
        from their guide, which is what was learned of them.

        Afterwards modes and random generators are as they were.

        Raises:
            RuntimeError: another thread of the process trains or evaluates.
        """
        modes = [(module, module.training) for module in self.modules()]
        devices = [self.device] if self.device.type == "cuda" else []
        with one_thread(), torch.no_grad(), torch.random.fork_rng(devices), pyro.validation_enabled(False):
            seed_generators(seed, self.device)
            self.eval()
            try:
                with as_learned():
                    yield
            finally:
                for module, training in modes:
                    module.training = training

    def announce(self) -> None:
        """Tells Pyro's handlers (SVI's parameter capture, say) of its parameters.

        ``pyro.module`` would do so through the global store, where another module of the same name
        takes precedence, and where parameters outlive their owner.
        """
        prefix = f"{type(self).__name__}-{id(self):x}$$$"
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                _param(parameter, constraint=constraints.real, name=prefix + name)
                if KNOWN.get():
                    return


def _story(function: Callable[..., Any]) -> Callable[..., Any]:
    """A model or guide that takes a tensor for a batch, and whose program's parameters Pyro knows of."""

    @functools.wraps(function)
    def run(self: Program, batch: Any, *args: Any, **kwargs: Any) -> Any:
        self.announce()
        batch = self._conditioned(self.read_batch(batch))
        try:
            if not any(self._special):
                return function(self, batch, *args, **kwargs)
            number, story = self.num_data(batch), function.__name__
            with (
                self.refining(batch) if story == "guide" else contextlib.nullcontext(),
                bayesian.drawn(self.bayesian, story, number, learned=LEARNED.get()),
            ):
                return function(self, batch, *args, **kwargs)
        except KeyError as error:
            (site,) = error.args or ("",)
            if site not in self.event_shapes or site in batch:
                raise
            raise TypeError(
                f"the {function.__name__} of a {type(self).__name__} sees values of {site}, and the batch "
                f"has {', '.join(batch)}"
            ) from None

    return run


@effectful(type="param")
def _param(parameter: nn.Parameter, **_: Any) -> Tensor:
    alias: Any = parameter.detach()  # carries the reference, which would make the parameter unpicklable
    alias.unconstrained = weakref.ref(parameter)
    return alias


def _warn_of_constants(site: str, std: Tensor, mean: Tensor, columns: Columns | None) -> None:
    constant = (std == 0).nonzero()[:, 0].tolist()
    names: Any = range(len(std)) if columns is None else list(columns)
    if columns is not None:  # of categories it is no density
        kinds = list(columns.of.values())
        constant = [i for i in constant if not (kinds[i].levels or kinds[i].kind == "boolean")]
    if constant:
        told = ", ".join(f"{names[i]} (all {mean[i].item():g})" for i in constant[:5])
        more = f" and {len(constant) - 5} more" if len(constant) > 5 else ""
        mend = (
            "x[:, x.std(0) > 0]" if columns is None else f"frame.drop(columns={[names[i] for i in constant]})"
        )
        warnings.warn(
            f"constant in the training data: column {told}{more} of {site}; a density of constants says "
            f"nothing, and is measured in the unit of the other columns; leave them out: {mend}",
            DataWarning,
            stacklevel=4,
        )


def sites(trace: poutine.Trace) -> Iterator[tuple[str, Any]]:
    """The sample sites of a program in their order, without those that plates make to subsample."""
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and not site_is_subsample(site):
            yield name, site
