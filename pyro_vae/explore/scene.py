"""What is asked of a program while it is explored: where data lie, what a point decodes to, what q says."""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae import evaluate
from pyro_vae.constraints import domain, support
from pyro_vae.data import DataError, Split
from pyro_vae.evaluate.anatomy import ACTIVE, COLLAPSED
from pyro_vae.evaluate.predict import FEW
from pyro_vae.evaluate.reals import Reals, model_at
from pyro_vae.explore.densities import densities
from pyro_vae.explore.posterior import on_grid
from pyro_vae.explore.subjects import Subject
from pyro_vae.figures.stories import inferred, repeated, shown, told
from pyro_vae.models import CountVAE
from pyro_vae.objectives import elbo_terms
from pyro_vae.objectives.importance import by_datum, log_density, traces
from pyro_vae.program import Batch, DataWarning, Program, sites

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
    reals are mapped there as HMC has them.

    Args:
        subject: program and data.
        site: whose latents are shown; by default the first in the model's order that is a vector, or a
            path of vectors; of a HierarchicalVAE that at the top.

    Raises:
        ValueError: there is no such site, it is discrete, or x is of a shape that is not shown.

    Attributes:
        site: name of the latents' site.
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
        self.kind = _kind(self.program, self.event_shape)
        whole = self.data if len(self.data) < len(subject.data) else subject.data
        self.low, self.high = whole.range("x")
        if not self.low < self.high:
            self.low, self.high = (0.0, 1.0) if math.isnan(self.low) else (self.low - 0.5, self.low + 0.5)
        with self.program.evaluating():
            head = self.batch(slice(0, 1))
            _, values = inferred(self.program, head)
            trace = told(self.program, head, values)
            latents = {
                name: node
                for name, node in sites(trace)
                if not node["infer"].get("was_observed") and name not in self.names
            }
            self.site = _choose(self.program, latents, values, site)
            self.alone = [*latents] == [self.site]
            self.choices = [
                n for n, other in latents.items() if n != self.site and other["fn"].support.is_discrete
            ]
            self.densities = densities(self.program, self.site, [*latents], head)
            node = latents[self.site]
            self.shape = tuple(node["fn"].event_shape)
            self.reals = Reals(self.program, {self.site: node}, "")
            self.mapped = domain(support(node["fn"])) != "the reals"
            draws = node["fn"].sample((DRAWS,)).reshape(DRAWS, -1, *self.shape)[:, :1]
            self.reach = _ends(self.reals.pack({self.site: draws})[:, 0])
            self.centre = shown(trace, "x")[1]
        self.update()

    def update(self) -> None:
        """Finds codes and what each latent carries, of a program that may have learnt since."""
        found = []
        with self.program.evaluating():
            for start in range(0, len(self.data), 500):
                _, values = inferred(self.program, self.batch(slice(start, start + 500)))
                found.append(self.reals.pack({self.site: values[self.site][None]})[0])
        before = getattr(self, "directions", None)
        self.codes = torch.cat(found)
        self.origin, self.directions, self.shares = _principal(self.codes)
        if before is not None:  # a plane does not turn round when it is found again
            self.directions = self.directions * (self.directions * before).sum(1, keepdim=True).sign()
        self.latents = self._anatomy()

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

    def decode(self, u: Tensor, context: Batch) -> Tensor:
        """The centre of p(x|z, ·) at latents ``[R, D]``, other latents at theirs: ``[R, *event_shape]``.

        Args:
            u: on the reals.
            context: a datum whose other values are given: labels, columns that are given, a total. A label
                that is not known is the likeliest of q(y|x).
        """
        with self.program.evaluating():
            return self._decode(u, context)

    def _decode(self, u: Tensor, context: Batch) -> Tensor:
        values, _ = self.reals.unpack(u[None].to(self.codes))
        z = {self.site: values[self.site].reshape(len(u), *self.shape)}
        chosen = repeated(self.chosen(context), len(u))
        return shown(told(self.program, repeated(context, len(u)), z | chosen), "x")[0]

    def chosen(self, datum: Batch) -> Batch:
        """The likeliest of latents that are a choice, beside those moved: of a label that is not known."""
        if not self.choices:
            return {}
        with self.program.evaluating():
            return {
                name: value
                for name, value in inferred(self.program, datum)[1].items()
                if name in self.choices
            }

    def draw(self, number: int, context: Batch) -> Tensor:
        """Draws of the latents before x was seen, ``[number, D]``: of p(z), or of p(z|y) where y is given."""
        with self.program.evaluating():
            model = poutine.trace(self.program.model).get_trace(repeated(context, number))
            return self.reals.pack({self.site: cast(Any, model.nodes)[self.site]["value"][None]})[0]

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
        with self.program.evaluating():
            _, values = inferred(self.program, datum)
            mean = self.reals.pack({self.site: values[self.site][None]})[0]
            with pyro.plate("particles", DRAWS, dim=-1 - self.program.max_plate_nesting):
                guide = poutine.trace(self.program.guide).get_trace(datum)
            draws = self.reals.pack({self.site: cast(Any, guide.nodes)[self.site]["value"]})[:, 0]
            _, directions = self.plane(plane)
            centred = draws - draws.mean(0)
            flat = centred @ directions.T
            reconstruction = self._decode(mean, datum)
            elbo, kl = self._bound(datum)
        return {
            "mean": mean[0],
            "scale": draws.std(0),
            "covariance": flat.T @ flat / (len(draws) - 1),
            "reconstruction": reconstruction,
            "elbo": elbo,
            "fit": elbo + kl,
            "kl": kl,
        }

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
            ``grid``, or None; ``draws``, ``[S, D]``; ``effective``, the effective sample size of
            the importance weights; ``moved``, whether HMC moved the draws on; ``completion``, the datum with
            the mean of the draws where it was not known, or None.
        """
        self.check(datum)
        missing = datum["x"].isnan().any()
        found, moved = self._predict(datum, 0), False
        effective = found.effective_sample_size.item()
        if effective < FEW:
            with contextlib.suppress(ValueError):  # of latents that HMC does not move
                found, moved = self._predict(datum, STEPS), True
        draws = self.reals.pack({self.site: found[self.site]})[:, 0]
        grid = None
        if self.alone and self.dim == 2:
            low, high = self._extent(draws)
            with self.program.evaluating():
                grid = on_grid(lambda u: self._log_joint(datum, u), low, high)
        return {
            "grid": grid,
            "draws": draws,
            "effective": effective,
            "moved": moved,
            "completion": self._mean(found, datum) if missing else None,
        }

    def _predict(self, datum: Batch, hmc: int) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)  # of few draws, which the page tells itself
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
        """What ``latents`` tells."""
        values = self.data.batch(slice(0, ANATOMY), self.program.dtype)
        some = Split({name: values[name] for name in self.names}, columns=self.data.columns)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is not shown
            found = evaluate.anatomy(self.program, some, [0] * len(some), num_samples=4, num_aggregate=2)
        own = found.sites.get(self.site)
        told = own is not None and own.num_latents == self.dim
        kl = own.kl_by_latent if own is not None and told else torch.full((self.dim,), math.nan)
        dead = torch.zeros(self.dim, dtype=torch.bool)
        if own is not None and told:
            share = own.variances <= ACTIVE * own.spreads
            dead = torch.where(kl.isnan(), share, kl < COLLAPSED)
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


def _kind(program: Program, shape: Sequence[int]) -> str:
    """How values of a shape are shown.

    Raises:
        ValueError: they are not.
    """
    if isinstance(program, CountVAE):
        return "bars"
    if program.columns is not None:
        return "table"
    if len(shape) == 1 or (len(shape) == 2 and shape[0] >= 4 * shape[1]):
        return "curve"
    if len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3)):
        return "image"
    raise ValueError(
        f"x of shape {tuple(shape)} is not shown: the explorer shows images (H, W), (1, H, W) and (3, H, W), "
        "vectors (T,), series (T, D) and tables"
    )


def _choose(program: Program, latents: Mapping[str, Any], guided: Batch, site: str | None) -> str:
    kind = type(program).__name__
    if site is not None and site not in latents:
        raise ValueError(f"site={site!r} is none of the {kind}'s latents, {', '.join(latents)}")
    fit = [name for name, node in latents.items() if name in guided and _is_vector(node["fn"])]
    chosen = [name for name in fit if site in (None, name)]
    if not chosen:
        raise ValueError(
            f"the explorer moves latents that are vectors of real numbers, or paths of such, and the {kind} "
            f"has {site or ', '.join(latents) or 'none'}, which {'is' if site else 'are'} not; of "
            "discrete latents look at pv.figures.samples"
        )
    wide = [name for name in chosen if math.prod(latents[name]["fn"].event_shape) > 1]
    return (wide or chosen)[0]


def _is_vector(p: Any) -> bool:
    return len(p.event_shape) in (1, 2) and not support(p).is_discrete


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
