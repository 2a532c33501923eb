"""What objectives share: per datum, K draws of the guide and their densities, of any Pyro program."""

from __future__ import annotations

import contextlib
import functools
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar, cast

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO
from pyro.infer.util import is_validation_enabled, torch_backward
from pyro.poutine import Trace
from pyro.util import check_model_guide_match, check_site_shape, warn_if_nan
from torch import Tensor

from pyro_vae.checks import Count, Limit, checked
from pyro_vae.objectives.elbo import kl_term, latents
from pyro_vae.objectives.importance import log_ratio
from pyro_vae.program import sites

Several = Annotated[int, Limit(2, math.inf, "2 or more")]


class Draws:
    """K draws of the guide per datum, and the densities that model and guide have there.

    Data are what the plates that all sites share are over; where a site lies outside of every plate (weights
    that all data share), the batch is one datum. N / B of a plate that subsamples, and any scale that all
    sites have in common, weighs data, and is left to the loss; what else scales a site scales its
    log-density, as the weight of the KL does that of latents.

    Args:
        model: trace of the model at the draws.
        guide: of the guide, at the same values.
        live: of the guide as it drew, if values of ``guide`` are these without their history.
        num_particles: K.
        nesting: plates within each other, without that of the particles.
        again: the guide at the same values without their history.
    """

    def __init__(
        self,
        model: Trace,
        guide: Trace,
        live: Trace,
        num_particles: int,
        nesting: int,
        again: Callable[[], Trace],
    ):
        self.model, self.guide, self.live, self.again = model, guide, live, again
        self.num_particles = num_particles
        stacks = [_stack(site, nesting) for trace in (model, guide) for _, site in sites(trace)]
        shared = _shared(stacks)
        seen = _shared([_stack(site, nesting) for _, site in sites(model) if site["is_observed"]])
        within = _shared([stack for stack in stacks if stack.keys() & seen.keys()])
        self.batch = {dim: within[dim].size for dim in sorted(within)}
        """Those that all share but what lies outside of the data's, and all data thus share."""
        self.plates = {dim: shared[dim].size for dim in sorted(shared)}
        self.shape = (num_particles, *(self.plates.get(dim, 1) for dim in range(-nesting, 0)))
        """Of a log-density, once it is summed over the plates within a datum."""
        scales = [site["scale"] for trace in (model, guide) for _, site in sites(trace)]
        alike = all(isinstance(scale, int | float) and scale == scales[0] for scale in scales)
        subsampled = math.prod(f.full_size / f.size for f in shared.values() if f.full_size)
        self.scale: float = scales[0] if scales and alike else subsampled
        """By which the loss of each datum is multiplied."""

    def of_data(self, site: Any) -> dict[int, int]:
        """The plates of the data, though some sites lie outside; none of a site that does."""
        own = _stack(site, len(self.shape) - 1)
        return self.batch if self.batch.keys() <= own.keys() else {}

    @property
    def together(self) -> int:
        """Data that count as one datum, as they share a latent: B, or 1."""
        return math.prod(size for dim, size in self.batch.items() if dim not in self.plates)

    @property
    def drawn(self) -> dict[str, Any]:
        """The sites that the guide draws."""
        return {name: site for name, site in sites(self.guide) if not site["is_observed"]}

    def by_datum(self, tensor: Tensor) -> Tensor:
        """A tensor over particles and plates, ``[K, ..., B, ...]``, summed within each datum: ``[K, B]``."""
        within = [d for d in range(1 - len(self.shape), 0) if d not in self.plates and -d <= tensor.dim()]
        return (tensor.sum(within, keepdim=True) if within else tensor).expand(self.shape).flatten(1)

    def weighed(self, site: Any, log_prob: Tensor) -> Tensor:
        """What a site's log-density, or what stands for it, adds to each datum: ``[K, B]``."""
        return self.by_datum(scale_and_mask(log_prob, self.relative(site), site["mask"]))

    def relative(self, site: Any) -> Any:
        """What scales a site besides that which scales its data."""
        return site["scale"] if self.scale == 1 else site["scale"] / self.scale

    def density(self, site: Any) -> Tensor:
        """The log-density of a site, ``[K, B]``."""
        with _inverting():
            log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        return self.weighed(site, log_prob)

    @functools.cached_property
    def log_p(self) -> Tensor:
        """log p(x, z), ``[K, B]``; of latents that the guide does not draw, nothing: they are the prior's."""
        return log_ratio(self.model, self.guide, self.density)[0]

    @functools.cached_property
    def log_x(self) -> Tensor:
        """log p(x | z), of all that is observed, ``[K, B]``."""
        return log_ratio(self.model, Trace(), self.density)[0]

    @functools.cached_property
    def log_q(self) -> Tensor:
        """log q(z | x), ``[K, B]``."""
        return log_ratio(self.model, self.guide, self.density)[1]

    @property
    def factors(self) -> Tensor | int:
        """What factors of the guide take off the ELBO of each datum, ``[B]``."""
        return sum(self.density(site).mean(0) for _, site in sites(self.guide) if site["is_observed"])

    @property
    def log_w(self) -> Tensor:
        """The log importance weights log p(x, z) - log q(z | x), ``[K, B]``."""
        return self.log_p - self.log_q

    @functools.cached_property
    def score(self) -> Tensor:
        """log q of the same draws without their history, ``[K, B]``: its gradient is the score function."""
        trace = self.again()
        return log_ratio(Trace(), trace, self.density)[1]

    @functools.cached_property
    def path(self) -> Tensor:
        """What has the gradient of log w by way of the draws alone, ``[K, B]``, and the value 0.

        Neither the model's parameters have one, nor those of the density of the guide.
        """
        if not (torch.is_grad_enabled() and self.log_w.requires_grad):
            return torch.zeros_like(self.log_w)
        slopes = torch.autograd.grad(
            self.log_w.sum(),
            [site["value"] for site in self.drawn.values()],
            retain_graph=True,
            allow_unused=True,
        )
        total = torch.zeros_like(self.log_w)
        for (name, site), slope in zip(self.drawn.items(), slopes, strict=True):
            value: Any = self.live.nodes[name]["value"]
            if slope is not None and value.requires_grad:
                moved = slope * (value - value.detach())
                event = list(range(-len(site["fn"].event_shape), 0))
                total = total + self.by_datum(moved.sum(event) if event else moved)
        return total

    @functools.cached_property
    def kl(self) -> Tensor:
        """KL(q(z | x) || p(z)), ``[K, B]``, in closed form where it may be: see ``elbo_terms``."""
        found = [
            self.weighed(self.model.nodes[name], kl_term(*parts))
            for name, *parts in latents(self.model, self.guide)
        ]
        # Those by which the guide draws others, and which are none of the model's.
        aside = [self.density(site) for name, site in self.drawn.items() if name not in self.model.nodes]
        return torch.as_tensor(sum(found + aside))

    def rows(self, value: Tensor, event: int, plates: dict[int, int] | None = None) -> Tensor:
        """Numbers of a latent site as a table ``[K B, D]``, of all D that one datum has of it.

        Args:
            value: ``[K, ..., B, ..., *event_shape]``.
            event: how many dimensions are the site's own.
            plates: over the data; None for those that all sites share.
        """
        plates = self.plates if plates is None else plates
        batch = value.flatten(-event) if event else value[..., None]  # [..., latents]
        nesting = len(self.shape) - 1
        while batch.dim() < nesting + 2:
            batch = batch[None]
        batch = batch.expand(
            self.num_particles,
            *(plates.get(dim, batch.shape[dim - 1]) for dim in range(-nesting, 0)),
            -1,
        )
        of_data = [0, *(nesting + 1 + dim for dim in plates)]
        within = [d for d in range(nesting + 2) if d not in of_data]
        return batch.permute(*of_data, *within).flatten(len(of_data)).flatten(0, -2)


class PerDatum(ELBO):
    """An objective that is a sum over data, of each of which the guide draws K times.

    A subclass says what is minimised of one datum, and whether draws are ``at_rest``. It takes any model and
    guide with data in a plate, in ``pv.fit``, in ``pyro_vae.svi.SVI`` and in Pyro's.

    Args:
        num_particles: K, draws of the latents per datum.
    """

    at_rest: ClassVar[bool] = False
    """Whether the draws are without history, so that a density's gradient is that at a fixed value; what
    moves the draws is then ``draws.path``."""
    reparameterised: ClassVar[bool] = True
    """Whether gradients go through the draws, so that the guide's must have them."""
    weighs_kl: ClassVar[bool] = False
    """Whether there is a KL for ``beta`` to weigh, in a sum."""

    @checked
    def __init__(self, num_particles: Count = 1):
        super().__init__(num_particles=num_particles, vectorize_particles=True)

    @abstractmethod
    def per_datum(self, draws: Draws) -> Tensor:
        """What is minimised of each datum, ``[B]``, in nats."""

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The sum over data, with its gradient."""
        draws = self.draws(model, guide, args, kwargs)
        return (self.per_datum(draws) + draws.factors).sum() * draws.scale

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The sum over data, without gradients."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The sum over data, whose gradients are added to those of the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        torch_backward(loss, retain_graph=self.retain_graph)
        warn_if_nan(loss, "loss")
        return loss.detach()

    def draws(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Draws:
        """Runs the guide, and the model at its draws.

        Raises:
            NotImplementedError: gradients are to go through draws of the guide that have none; or its density
                is asked for at draws without their history, and it is that of a flow without an inverse, or
                of codes, which move as the guide runs.
        """
        if self.max_plate_nesting == math.inf:
            self._guess(model, guide, args, kwargs)
        model, guide = map(self._vectorized_num_particles, (model, guide))
        live = poutine.trace(guide).get_trace(*args, **kwargs)

        def again() -> Trace:
            _check_moving(live, self)
            return poutine.trace(poutine.replay(guide, trace=_rested(live))).get_trace(*args, **kwargs)

        drawn = again() if self.at_rest else live
        trace = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(*args, **kwargs)
        if self.reparameterised:
            _check_reparameterised(drawn, self)
        if is_validation_enabled():
            check_model_guide_match(trace, drawn, self.max_plate_nesting)
            for found in (trace, drawn):
                with _inverting():
                    found.compute_log_prob()
                for _, site in sites(found):
                    check_site_shape(site, self.max_plate_nesting)
        nesting = self.max_plate_nesting - (self.num_particles > 1)
        return Draws(trace, drawn, live, self.num_particles, nesting, again)

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        draws = self.draws(model, guide, args, kwargs)
        return draws.model, draws.guide

    def _guess(self, model: Any, guide: Any, args: Any, kwargs: Any) -> None:
        """Runs both once to see their plates, and leaves random generators as they were."""
        here = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(here), torch.no_grad(), poutine.block():
            drawn = poutine.trace(guide).get_trace(*args, **kwargs)
            trace = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(*args, **kwargs)
        frames = [f for found in (trace, drawn) for _, site in sites(found) for f in site["cond_indep_stack"]]
        nesting = max((-frame.dim for frame in frames if frame.vectorized), default=0)
        self.max_plate_nesting = nesting + (self.num_particles > 1)


def _stack(site: Any, nesting: int) -> dict[int, Any]:
    """The plates that a site lies in, by their dimensions."""
    return {f.dim: f for f in site["cond_indep_stack"] if f.vectorized and -f.dim <= nesting}


def _shared(stacks: list[dict[int, Any]]) -> dict[int, Any]:
    """Those that are the same in all."""
    return {
        dim: frame
        for dim, frame in (stacks[0] if stacks else {}).items()
        if all(dim in stack and stack[dim].name == frame.name for stack in stacks)
    }


def instead(value: Tensor, surrogate: Tensor) -> Tensor:
    """The value, with the gradient of the surrogate."""
    return value.detach() + (surrogate - surrogate.detach())


def normalised(log_w: Tensor) -> Tensor:
    """Weights that sum to 1 over the particles, as numbers."""
    return log_w.detach().softmax(0)


@contextlib.contextmanager
def _inverting() -> Iterator[None]:
    """Tells of Pyro's flows that know the density of their own draws alone."""
    try:
        yield
    except KeyError as error:
        if "intermediates cache" not in str(error):
            raise
        raise NotImplementedError(
            f"{str(error.args[0]).split()[0]}, a flow of the guide, has no inverse, and its density at draws "
            "without their history is asked for; loss=pv.objectives.IWAE() does not ask, and autoregressive "
            "and coupling flows have one"
        ) from error


def _rested(live: Trace) -> Trace:
    """Values without history, of which one can ask the slope there."""
    trace = Trace()
    for name, site in live.nodes.items():
        if site["type"] == "sample":
            fn: Any = site["fn"]
            value: Tensor = cast(Any, site["value"]).detach()
            moves = value.is_floating_point() and fn.has_rsample
            trace.add_node(name, **site | {"value": value.requires_grad_() if moves else value})
    return trace


def _check_reparameterised(guide: Trace, objective: PerDatum) -> None:
    for name, site in sites(guide):
        if not site["is_observed"] and not site["fn"].has_rsample:
            raise NotImplementedError(
                f"{type(objective).__name__} takes gradients through the draws, and those at site {name!r} "
                f"of the guide, a {type(site['fn']).__name__}, have none; loss=pv.objectives.WakeSleep() "
                "needs none"
            )


def _check_moving(guide: Trace, objective: PerDatum) -> None:
    for name, site in sites(guide):
        if hasattr(site["fn"], "commitment"):
            raise NotImplementedError(
                f"{type(objective).__name__} runs the guide twice, and the codes at its site {name!r} move "
                "as it runs; loss=pyro.infer.Trace_ELBO() runs it once, and as the guide weighs one value, "
                "no loss finds more"
            )
