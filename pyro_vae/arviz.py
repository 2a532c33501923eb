"""What a model says of data as ArviZ has it: a tree of draws, with names for their dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pyro
from pyro import poutine
from torch import Tensor

from pyro_vae.checks import Count, Seed, checked
from pyro_vae.evaluate import log_likelihood, predict
from pyro_vae.evaluate.door import Data, as_split, check
from pyro_vae.evaluate.predict import Steps
from pyro_vae.evaluate.reals import model_at
from pyro_vae.objectives.importance import by_datum, unscaled
from pyro_vae.program import Batch, Program, sites
from pyro_vae.seen import observing


@checked
def to_arviz(
    program: Program,
    data: Data,
    num_samples: Count = 500,
    *,
    num_particles: Count = 1000,
    hmc: Steps = 0,
    posterior: Mapping[str, Tensor] | None = None,
    seed: Seed = 0,
) -> Any:
    r"""Draws for ArviZ: prior, posterior, their predictions, log-likelihoods and the data.

    Each datum has latents of its own, so that a tree is of few data, such as ``data.test[:50]``. Its groups:

    ========================  ======================================================================
    ``posterior``             latents, given their datum: ``z [chain, draw, datum, z_dim_0]``
    ``posterior_predictive``  data anew at these latents: ``x [chain, draw, datum, x_dim_0, ...]``
    ``log_likelihood``        :math:`\log p(x_n \mid z_n)` of what is observed: ``x [chain, draw, datum]``
    ``prior``                 latents before the datum is seen
    ``prior_predictive``      data at those
    ``observed_data``         the data, NaN where they are missing
    ``constant_data``         what the model is given, if anything
    ``importance``            ``pv.evaluate.log_likelihood`` datum by datum: ``log_evidence``, ``pareto_k``,
                              ``effective_sample_size``
    ========================  ======================================================================

    ``arviz_stats.loo`` leaves out a datum, and with it the latents that are its own: it estimates
    :math:`\sum_n \log p(x_n)` from draws of the posterior, by weights :math:`1 / p(x_n \mid z_n)`, which have
    heavy tails unless a datum tells little of its latents. ``log_evidence`` is the same from draws of the
    guide: look at the Pareto k of both before you believe either.

    Args:
        program: the model.
        data: a split such as ``data.test``, a batch, or a tensor ``[N, *event_shape]``.
        num_samples: S, draws for each datum.
        num_particles: importance samples of which the posterior's draws are chosen, as in ``pv.predict``.
        hmc: steps of Hamiltonian Monte Carlo by which each is moved on, likewise.
        posterior: draws of one's own instead, by latent, ``[chains, S, N, *event_shape]``: of NUTS they are
            ``mcmc.get_samples(group_by_chain=True)``.
        seed: of the draws.

    Returns:
        ``xarray.DataTree``, which ``arviz_stats`` and ``arviz_plots`` take.

    Raises:
        DataError: the data lie outside the likelihood's support.
        ImportError: ArviZ is not installed: ``pip install 'pyro_vae[arviz]'``.
        ValueError: ``posterior`` has other latents, or other shapes.

    Reference: Kumar, Carroll, Hartikainen and Martin, 2019, "ArviZ: a unified library for exploratory
    analysis of Bayesian models"; Vehtari, Gelman and Gabry, 2017, "Practical Bayesian model evaluation using
    leave-one-out cross-validation and WAIC".
    """
    try:
        import xarray
    except ImportError as error:
        raise ImportError(f"{error}; draws for ArviZ take pip install 'pyro_vae[arviz]'") from error
    split = as_split(data, program)
    check(program, split)
    batch = program.place(split.batch(slice(0, len(split))))
    estimate = log_likelihood(program, split, num_samples=num_particles, seed=seed)
    with program.evaluating(seed), observing(split.gaps):
        story = poutine.trace(program.model).get_trace(batch)
    observed = [name for name, site in sites(story) if site["is_observed"]]
    shapes = {n: tuple(s["value"].shape) for n, s in sites(story) if not s["is_observed"]}
    if posterior is None:
        found = predict(program, batch, num_samples, num_particles=num_particles, hmc=hmc, seed=seed)
        chains, latents = 1, {name: found[name] for name in shapes}
    else:
        chains, latents = _by_draw(posterior, shapes)
        latents = program.place(latents)
    number = len(next(iter(latents.values())))
    with program.evaluating(seed):
        with observing(split.gaps):
            at = model_at(program, batch, latents)
            at.compute_log_prob()
            log_p = {name: by_datum(unscaled(at.nodes[name]), program) for name in observed}
        # What is observed is drawn anew, whether it was missing or not.
        whole = batch | {name: batch[name].nan_to_num(0.0) for name in observed if name in batch}
        model, particles = poutine.uncondition(program.model), -1 - program.max_plate_nesting
        with observing(split.gaps - {*observed}), pyro.plate("particles", number, dim=particles):
            anew = poutine.trace(poutine.condition(model, data=cast(Any, latents))).get_trace(whole)
            before = poutine.trace(model).get_trace(whole)
    groups: dict[str, tuple[int, dict[str, Any]]] = {  # with the number of chains; 0 of what is no draw
        "posterior": (chains, latents),
        "posterior_predictive": (chains, {name: anew.nodes[name]["value"] for name in observed}),
        "log_likelihood": (chains, {n: value.expand(number, len(split)) for n, value in log_p.items()}),
        "prior": (1, {name: before.nodes[name]["value"] for name in latents}),
        "prior_predictive": (1, {name: before.nodes[name]["value"] for name in observed}),
        "observed_data": (0, {name: batch[name] for name in observed if name in batch}),
        "constant_data": (0, {name: value for name, value in batch.items() if name not in observed}),
        "importance": (
            0,
            {
                "log_evidence": estimate.per_datum,
                "pareto_k": estimate.pareto_k,
                "effective_sample_size": estimate.effective_sample_size,
            },
        ),
    }
    columns = {} if program.columns is None else {"x_dim_0": list(program.columns)}
    return xarray.DataTree.from_dict(
        {
            group: xarray.Dataset(
                {name: _labelled(name, value, number_of) for name, value in values.items()},
            ).assign_coords(columns if group.endswith(("_predictive", "observed_data")) else {})
            for group, (number_of, values) in groups.items()
            if values
        }
    )


def _by_draw(posterior: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, Batch]:
    """The number of chains, and draws of all chains one after the other, ``[C S, N, *event_shape]``.

    Raises:
        ValueError: they are not of these latents, or have another shape.
    """
    for name, shape in shapes.items():
        if name not in posterior or tuple(posterior[name].shape[2:]) != shape:
            found = list(posterior[name].shape) if name in posterior else "none"
            raise ValueError(
                f"posterior needs draws of {name}, [chains, draws, {', '.join(map(str, shape))}], and has "
                f"{found}; of NUTS they are mcmc.get_samples(group_by_chain=True), run on the same data"
            )
    chains = len(posterior[next(iter(shapes))])
    return chains, {name: posterior[name].flatten(0, 1) for name in shapes}


def _labelled(name: str, value: Tensor, chains: int) -> tuple[list[str], Any]:
    """A variable as xarray takes it: names of dimensions, and numbers."""
    array = value.detach().cpu().numpy()
    leading = ["chain", "draw", "datum"] if chains else ["datum"]
    if chains:
        array = array.reshape(chains, -1, *array.shape[1:])
    rest = array.ndim - len(leading)
    return [*leading, *(f"{name}_dim_{i}" for i in range(rest))], array
