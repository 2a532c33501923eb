"""What is asked of a program while it is explored: where data lie, what a point decodes to, what q says."""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae import evaluate
from pyro_vae.constraints import domain, support
from pyro_vae.data import DataError, Split
from pyro_vae.evaluate.predict import FEW
from pyro_vae.evaluate.reals import Reals, guide_at, model_at
from pyro_vae.explore.choice import choose, kind_of
from pyro_vae.explore.densities import densities, latent_weights
from pyro_vae.explore.posterior import on_grid
from pyro_vae.explore.subjects import Subject
from pyro_vae.explore.switches import UNOBSERVED, Switches, joint, switches
from pyro_vae.figures.stories import inferred, repeated, shown, told, typical
from pyro_vae.objectives import elbo_terms
from pyro_vae.objectives.importance import by_datum, log_density, traces
from pyro_vae.program import Batch, DataWarning, sites

MOST_DATA, MOST_SLIDERS = 2000, 50
"""Data whose codes are shown, and latents that have a slider."""
ANATOMY = 500
"""Data of which each latent's KL is taken."""
DRAWS, PARTICLES = 1000, 1000
"""Draws of q by which its place is told, and importance samples of the posterior."""
COMPLETIONS, STEPS = 200, 20
"""Draws of what is not known; and where few importance samples count, steps of HMC that move them on."""
BOUND = 200
"""Draws of a datum's ELBO."""

Plane = tuple[int, int] | None
"""Two latents by number; or the principal plane of the codes."""


class Scene:
    """A program with data, on a plane of one of its latent sites.

    Latents are on the reals, u, where every point is one of theirs; those of a support that is not all of the
    reals are mapped there as HMC has them. Latents of few values each are switches, beside those or alone,
    where D is 0. Weights that are latent are at the mean of their guide.

    Args:
        subject: program and data.
        site: whose latents are shown; by default the first in the model's order that is a vector, or a
            path of vectors; of a HierarchicalVAE that at the top.

    Raises:
        ValueError: there is no such site, it is a choice beside others that are none, all latents are codes
            of a codebook, or x is of a shape that is not shown.

    Attributes:
        site: name of the latents' site.
        switches: of all discrete sites that have such.
        codes: centres of q(u|x), ``[N, D]``.
        latents: of each its KL, whether it has collapsed, and how far a slider goes; the largest KL first.
        densities: what they are called, such as p(x|z, y) where y is given.
        kind: how x is shown: ``"image"``, ``"curve"``, ``"table"`` or ``"bars"``.
    """

    def __init__(self, subject: Subject, site: str | None = None):
        self.subject, self.program = subject, subject.program
        self.data = Split(
            subject.data.batch(slice(0, MOST_DATA), self.program.dtype),
            class_names=subject.data.class_names,
            columns=subject.data.columns,
        )
        names = self.program.event_shapes or self.data.event_shapes
        self.names = [name for name in self.data.event_shapes if name in names]
        if "x" not in self.names:
            raise ValueError(
                f"the explorer shows site x, and this {type(self.program).__name__} is of "
                f"{', '.join(self.names)}; call what is to be seen x"
            )
        self.event_shape = tuple(self.data.event_shapes["x"])
        self.kind = kind_of(self.program, self.event_shape)
        whole = self.data if len(self.data) < len(subject.data) else subject.data
        self.low, self.high = whole.range("x")
        if not self.low < self.high:
            self.low, self.high = (0.0, 1.0) if math.isnan(self.low) else (self.low - 0.5, self.low + 0.5)
        with self.held():
            head = self.batch(slice(0, 1))
            _, values = inferred(self.program, head)
            trace = told(self.program, head, values)
            latents = {
                name: node
                for name, node in sites(trace)
                if not node["infer"].get("was_observed") and name not in self.names
            }
            self.site = choose(self.program, latents, values, site)
            self.alone = [*latents] == [self.site]
            node = latents[self.site]
            real = not support(node["fn"]).is_discrete
            self.choices = [name for name, other in latents.items() if support(other["fn"]).is_discrete]
            found = [switches(name, latents[name]) for name in self.choices if name in values]
            self.switches = [own for own in found if own is not None]
            discrete = not real and len(self.switches) == len(latents)
            self.joint = joint(self.switches) if discrete else None
            self.densities = densities(self.program, self.site, [*latents], head)
            self.shape = tuple(node["fn"].event_shape) if real else (0,)
            self.reals = Reals(self.program, {self.site: node} if real else {}, "")
            self.mapped = real and domain(support(node["fn"])) != "the reals"
            self.reach = torch.zeros(2, 0).to(self.program.device, self.program.dtype)
            if real:
                draws = node["fn"].sample((DRAWS,)).reshape(DRAWS, -1, *self.shape)[:, :1]
                self.reach = _ends(self._packed({self.site: draws})[:, 0])
            self.centre = shown(trace, "x")[1]
        self.update()

    def update(self) -> None:
        """Finds codes and what each latent carries, of a program that may have learnt since."""
        found = []
        with self.held():
            for start in range(0, len(self.data), 500):
                _, values = inferred(self.program, self.batch(slice(start, start + 500)))
                found.append(self._packed({n: v[None] for n, v in values.items()})[0])
        before = getattr(self, "directions", None)
        self.codes = torch.cat(found)
        self.origin, self.directions, self.shares = _principal(self.codes)
        if before is not None:  # a plane does not turn round when it is found again
            self.directions = self.directions * (self.directions * before).sum(1, keepdim=True).sign()
        self.latents = self._anatomy()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """What is computed is of the program as it is, and draws are the same each time."""
        with self.program.evaluating(), _at_their_mean(latent_weights(self.program)):
            yield

    def _packed(self, values: Batch) -> Tensor:
        """The latents that are shown, ``[S, B, D]``, of values ``[S, ..., B, *event_shape]`` by site."""
        if self.reals.maps:
            return self.reals.pack({self.site: values[self.site]})
        some = next(iter(values.values()))
        return torch.zeros(len(some), some.shape[self.reals.at], 0).to(self.reach)

    @property
    def total_is_given(self) -> bool:
        """Whether counts are given how many they are in all, which is so unless that is a latent, too."""
        return "total" in re.findall(r"\w+", self.densities["decoder"])

    @property
    def dim(self) -> int:
        """D, latents on the reals."""
        return self.codes.shape[1]

    def batch(self, index: Any) -> Batch:
        """Some data, of the sites that the program has."""
        values = self.data.batch(index, self.program.dtype)
        return self.program.place({name: values[name] for name in self.names})

    def read(self, values: Mapping[str, Any]) -> Batch:
        """A datum as the page has it: by site a list of numbers, None where a value is not known.

        Raises:
            DataError: it is none of this program's.
        """
        if values.keys() != set(self.names):
            raise DataError(f"a datum has {', '.join(self.names)}, and not {', '.join(values) or 'nothing'}")
        batch = {}
        for name in self.names:
            shape = self.data.event_shapes[name]
            given, size = values[name], math.prod(shape)
            if not isinstance(given, list) or len(given) != size:
                raise DataError(f"{name} is a list of {size} numbers, and null where it is not known")
            numbers = [_number(value) for value in given]
            batch[name] = torch.tensor(numbers, dtype=torch.float64).reshape(1, *shape)
        for name in self.names:  # labels are whole numbers where all are known
            if self.data.batch([0])[name].dtype == torch.int64 and not batch[name].isnan().any():
                batch[name] = batch[name].long()
        return self.program.place(batch)

    def plane(self, plane: Plane) -> tuple[Tensor, Tensor]:
        """Origin ``[D]`` and directions ``[2, D]`` of a plane; of a single latent the second is 0."""
        if plane is None or self.dim < 2:
            return self.origin, self.directions
        directions = torch.zeros(2, self.dim).to(self.codes)
        directions[[0, 1], list(plane)] = 1.0
        return torch.zeros(self.dim).to(self.codes), directions

    def decode(self, u: Tensor, context: Batch, states: Tensor | None = None) -> Tensor:
        """The centre of p(x|z, ·) at latents ``[R, D]``, other latents at theirs: ``[R, *event_shape]``.

        Args:
            u: on the reals.
            context: a datum whose other values are given: labels, columns that are given, a total. A label
                that is not known is the likeliest of q(y|x).
            states: levels of all switches, ``[R, switches]``; by default the likeliest ones of the datum's q.
        """
        with self.held():
            return self._decode(u, context, states)

    def _decode(self, u: Tensor, context: Batch, states: Tensor | None = None) -> Tensor:
        batch, z = repeated(context, len(u)), repeated(self.chosen(context), len(u))
        if self.reals.maps:
            values, _ = self.reals.unpack(u[None].to(self.codes))
            z |= {self.site: values[self.site].reshape(len(u), *self.shape)}
        for own, levels in self._apart(states):
            value = self._value(own, levels)
            label = own.site.removesuffix(UNOBSERVED)
            if own.site != label in batch:  # one that is known is another for as long
                batch[label] = value.to(self.program.dtype)
            z[own.site] = value
        return shown(told(self.program, batch, z), "x")[0]

    def _apart(self, states: Tensor | None) -> Iterator[tuple[Switches, Tensor]]:
        """Each site's switches, and their levels, of those of all."""
        if states is not None and self.switches:
            parts = states.split([own.number for own in self.switches], -1)
            yield from zip(self.switches, parts, strict=True)

    def _value(self, own: Switches, levels: Tensor) -> Tensor:
        value = own.values(levels.to(self.program.device))
        return value if own.kind == "integers" else value.to(self.program.dtype)

    def chosen(self, datum: Batch) -> Batch:
        """The likeliest of latents that are a choice, beside those moved: of a label that is not known."""
        if not self.choices:
            return {}
        with self.held():
            return {
                name: value
                for name, value in inferred(self.program, datum)[1].items()
                if name in self.choices
            }

    def _states(self, values: Batch) -> Tensor:
        """Levels of all switches, ``[S, B, switches]``, of values ``[S, ..., B, *event_shape]`` by site."""
        found = [own.states(values[own.site].movedim(self.reals.at, 1)) for own in self.switches]
        return torch.cat([one.flatten(2) for one in found], -1) if found else torch.zeros(1, 0)

    def draw(self, number: int, context: Batch) -> tuple[Tensor, Tensor]:
        """Draws of the latents before x was seen, ``[number, D]``: of p(z), or of p(z|y) where y is given.

        With them levels of the switches, ``[number, switches]``.
        """
        with self.held():
            model = poutine.trace(self.program.model).get_trace(repeated(context, number))
            values = {name: node["value"][None] for name, node in sites(model)}
            states = self._states(values)[0] if self.switches else torch.zeros(number, 0)
            return self._packed(values)[0], states

    def infer(self, datum: Batch, plane: Plane) -> dict[str, Any]:
        """What the encoder says of a datum: the place of q(u|x), and the ELBO's parts.

        Returns:
            ``mean`` and ``scale``, ``[D]`` each; ``covariance`` in the plane, ``[2, 2]``;
            ``reconstruction``, the centre of p(x|z) at the mean; ``elbo``, ``fit`` = E_q[log p(x|z)] and
            ``kl`` in nats.

        Raises:
            DataError: the datum has no density.
        """
        self.check(datum)
        with self.held():
            _, values = inferred(self.program, datum)
            mean = self._packed({name: value[None] for name, value in values.items()})[0]
            with pyro.plate("particles", DRAWS, dim=-1 - self.program.max_plate_nesting):
                guide = poutine.trace(self.program.guide).get_trace(datum)
            nodes: Any = guide.nodes
            draws = self._packed({name: nodes[name]["value"] for name in values})[:, 0]
            _, directions = self.plane(plane)
            centred = draws - draws.mean(0)
            flat = centred @ directions.T
            reconstruction = self._decode(mean, datum)
            elbo, kl = self._bound(datum) if self.joint is None else self._summed(datum)[1:]
            likely = [
                own.probabilities(nodes[own.site]["fn"], nodes[own.site]["value"]) for own in self.switches
            ]
            now = self._states({own.site: values[own.site][None] for own in self.switches})[0]
        return {
            "mean": mean[0],
            "scale": (centred.square().sum(0) / (len(draws) - 1)).sqrt(),
            "covariance": flat.T @ flat / (len(draws) - 1),
            "reconstruction": reconstruction,
            "elbo": elbo,
            "fit": elbo + kl,
            "kl": kl,
            "likely": [levels for site in likely for levels in site],
            "now": now.flatten(),
        }

    def _summed(self, datum: Batch) -> tuple[Tensor, float, float]:
        """log p(x, z) of all joint values of switches, ``[G]``; and, by sums over them, ELBO and KL."""
        assert self.joint is not None
        at = self.program.max_plate_nesting
        z = {
            own.site: self._value(own, levels).reshape(len(levels), *[1] * at, *own.shape)
            for own, levels in self._apart(self.joint)
        }
        model, guide = (told_of(self.program, datum, z) for told_of in (model_at, guide_at))
        log_p, log_z, log_q = (
            log_density(trace, names, self.program).double().expand(len(self.joint), 1)[:, 0]
            for trace, names in ((model, model.nodes), (model, z), (guide, z))
        )
        q = log_q.exp()
        elbo, kl = ((q * term.where(q > 0, 0.0)).sum().item() for term in (log_p - log_q, log_q - log_z))
        return log_p, elbo, kl

    def _bound(self, datum: Batch) -> tuple[float, float]:
        """ELBO and KL of a datum: the mean of log weights, whose noise vanishes as q nears the posterior."""
        model, guide = traces(self.program, datum, BOUND)
        terms = elbo_terms(model, guide)
        latent = [name for name in terms if not model.nodes[name]["is_observed"]]
        kl = math.fsum(by_datum(terms[name], self.program).mean().item() for name in latent)
        log_p = log_density(model, terms, self.program)
        if torch.equal(log_p, log_density(model, latent, self.program)):  # nothing is known
            return -kl, kl
        log_w = log_p - log_density(guide, latent, self.program)
        return log_w.mean().item(), kl

    def posterior(self, datum: Batch, plane: Plane) -> dict[str, Any]:
        """The true posterior p(u|x_o), of all that is known of a datum; and what completes the rest.

        On a grid, if these are two latents and there are no others; and as draws of every program, by
        importance weights, which HMC moves on where few of them count: see ``pv.predict``.

        Returns:
            ``grid``, or None; ``evidence``, log p(x) by the grid or a sum over all values, or None;
            ``likely``, of each switch how probable its levels are; ``draws``, ``[S, D]``; ``effective``, the
            effective sample size of the importance weights; ``moved``, whether HMC moved the draws on;
            ``completion``, the datum with the mean of the draws where it was not known, or None.
        """
        self.check(datum)
        missing = datum["x"].isnan().any()
        found, moved = self._predict(datum, 0), False
        effective = found.effective_sample_size.item()
        if effective < FEW:
            with contextlib.suppress(ValueError):  # of latents that HMC does not move
                found, moved = self._predict(datum, STEPS), True
        draws = self._packed(found)[:, 0]
        states = self._states(found)[:, 0] if self.switches else torch.zeros(len(draws), 0)
        weights = torch.full((len(draws),), 1 / len(draws), dtype=torch.float64)
        grid = evidence = None
        if self.alone and self.dim == 2:
            low, high = self._extent(draws)
            with self.held():
                grid = on_grid(lambda u: self._log_joint(datum, u), low, high)
            evidence = grid.log_evidence
        if self.joint is not None:
            with self.held():
                log_p = self._summed(datum)[0].cpu()
            states, weights, evidence = self.joint, log_p.softmax(0), log_p.logsumexp(0).item()
        each = [own.levels for own in self.switches for _ in range(own.number)]
        return {
            "grid": grid,
            "evidence": evidence,
            "likely": [
                torch.zeros(levels, dtype=torch.float64).index_add(0, state.cpu(), weights)
                for levels, state in zip(each, states.unbind(-1), strict=True)
            ],
            "draws": draws,
            "effective": effective,
            "moved": moved,
            "completion": self._mean(found, datum) if missing else None,
        }

    def _predict(self, datum: Batch, hmc: int) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)  # of few draws, which the page tells itself
            with self.held():
                return evaluate.predict(self.program, datum, COMPLETIONS, num_particles=PARTICLES, hmc=hmc)

    def _mean(self, found: Any, datum: Batch) -> Tensor:
        return torch.where(datum["x"].isnan(), found.mean("x").to(datum["x"]), datum["x"])

    def check(self, datum: Batch) -> None:
        """Refuses a datum that the program gives no density.

        Raises:
            DataError: naming what was found.
        """
        if not all(value.isnan().all() for value in datum.values()):
            evaluate.check(self.program, Split(datum, columns=self.data.columns))

    def _log_joint(self, datum: Batch, u: Tensor) -> Tensor:
        """log p(x, u) at points ``[G, 2]``, a few thousand at a time: ``[G]``."""
        found = []
        for some in u.split(4096):
            values, change = self.reals.unpack(some[:, None])
            model = model_at(self.program, datum, values)
            found.append((log_density(model, model.nodes, self.program) + change)[:, 0])
        return torch.cat(found)

    def _extent(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        """A box around all codes, what the prior reaches, and some draws."""
        every = torch.cat([self.codes, self.reach, draws])
        low, high = every.amin(0), every.amax(0)
        margin = 0.1 * (high - low) + 1e-3
        return low - margin, high + margin

    def _called(self, d: int) -> str:
        """Such as z[3]; or z[2, 0] of a latent path, the first at time 2."""
        place = np.unravel_index(d, self.shape) if math.prod(self.shape) == self.dim else (d,)
        return f"{self.site}[{', '.join(map(str, place))}]"

    def _anatomy(self) -> list[dict[str, Any]]:
        """What ``latents`` tells, and ``switches_kl``."""
        values = self.data.batch(slice(0, ANATOMY), self.program.dtype)
        some = Split({name: values[name] for name in self.names}, columns=self.data.columns)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is not shown
            found = evaluate.anatomy(self.program, some, [0] * len(some), num_samples=4, num_aggregate=2)
        self.switches_kl = [kl for own in self.switches for kl in _kl_of(own, found.sites.get(own.site))]
        if not self.reals.maps:
            return []
        own = found.sites.get(self.site)
        told = own is not None and own.num_latents == self.dim
        kl = own.kl_by_latent if own is not None and told else torch.full((self.dim,), math.nan)
        dead = own.dead if own is not None and told else torch.zeros(self.dim, dtype=torch.bool)
        ends = _ends(torch.cat([self.codes, self.reach]), 0.0)
        order = sorted(range(self.dim), key=lambda d: (-kl[d].nan_to_num(0.0).item(), d))
        return [
            {
                "index": d,
                "name": self._called(d),
                "kl": None if kl[d].isnan() else round(kl[d].item(), 4),
                "collapsed": bool(dead[d]),
                "low": round(ends[0, d].item(), 4),
                "high": round(ends[1, d].item(), 4),
            }
            for d in order[:MOST_SLIDERS]
        ]


class _at_their_mean(Messenger):  # named as Pyro names its handlers
    """Handler that puts sites at the centre of their distribution, whatever the particles."""

    def __init__(self, names: Iterable[str]):
        super().__init__()
        self.names = {*names}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.names and msg["value"] is None:
            value = typical(msg["fn"])
            msg["value"] = value[(0,) * (value.dim() - len(msg["fn"].event_shape))]


def _kl_of(own: Switches, found: Any) -> list[float | None]:
    """Nats that each switch of a site carries, where they are told apart."""
    kl = [found.kl] if found is not None and own.number == 1 else []
    if found is not None and found.num_latents == own.number > 1:
        kl = found.kl_by_latent.tolist()
    return [round(value, 4) if math.isfinite(value) else None for value in kl] or [None] * own.number


def _principal(codes: Tensor) -> tuple[Tensor, Tensor, list[float]]:
    """Origin, directions and shares of the variance of the codes' main plane; of two latents their own."""
    dim = codes.shape[1]
    if dim <= 2:
        return codes.new_zeros(dim), torch.eye(2, dim).to(codes), []
    centred = codes - codes.mean(0)
    _, s, directions = torch.linalg.svd(centred, full_matrices=False)
    directions = torch.cat([directions, directions.new_zeros(2, dim)])[:2]  # of a single datum
    shares = (s.square() / s.square().sum().clamp(min=1e-30)).tolist()
    return codes.mean(0), directions, [*shares, 0.0][:2]


def _ends(u: Tensor, tail: float = 0.002) -> Tensor:
    """Lower and upper quantiles, ``[2, D]``."""
    return torch.stack([u.quantile(tail, 0), u.quantile(1 - tail, 0)])


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        raise DataError(f"{str(value)[:40]!r} is no number")
    return float(value)


def rounded(values: Tensor, digits: int = 5) -> Any:
    """As nested lists of numbers of so many significant digits, None for NaN and infinity."""
    array = values.detach().cpu().double().numpy()
    with np.errstate(all="ignore"):
        size = 10.0 ** (digits - 1 - np.floor(np.log10(np.abs(np.where(array == 0, 1.0, array)))))
        found = np.where(np.isfinite(array), np.round(array * size) / size, array)
    known = np.isfinite(found)
    if not known.all():
        found = found.astype(object)
        found[~known] = None
    return found.tolist()
