"""What a model says of data as ArviZ has it: a tree of draws, with names for their dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
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

if TYPE_CHECKING:
    import xarray


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
) -> xarray.DataTree:
    r"""Draws for ArviZ: prior, posterior, their predictions, log-likelihoods and the data.

    Each datum has latents of its own, so that a tree is of few data, such as ``data.test[:50]``. Its groups:

    ========================  ==================================================================
    ``posterior``             the latents, given a datum: ``z [chain, draw, datum, ...]``
    ``posterior_predictive``  data anew at these latents, ``x [chain, draw, datum, ...]``
    ``log_likelihood``        :math:`\log p(x_n \mid z_n)` of what is observed
    ``prior``                 the latents before a datum is seen
    ``prior_predictive``      data at those
    ``observed_data``         the data, with NaN for what is missing
    ``constant_data``         what a model is given, if anything
    ``importance``            ``pv.evaluate.log_likelihood``, datum by datum: ``log_evidence``,
                              ``pareto_k``, ``effective_sample_size``
    ========================  ==================================================================

    ``arviz_stats.loo`` of it leaves out one datum at a time, and with it the latents that are its own:
    what it estimates is :math:`\sum_n \log p(x_n)`, from draws of the posterior, whose weights
    :math:`1 / p(x_n \mid z_n)` have heavy tails unless a datum says little of its latents. The same number
    from the guide's draws is ``log_evidence``; compare their Pareto k before believing either.

    Args:
        program: the model.
        data: a split such as ``data.test``, a batch, a tensor ``[N, *event_shape]``; of a table also a
            DataFrame.
        num_samples: S, draws of each datum.
        num_particles: importance samples of which the posterior's draws are chosen, as in ``pv.predict``.
        hmc: steps by which each is then moved on, likewise.
        posterior: draws of your own instead, by latent and chain, ``[chains, S, N, *event_shape]``: those of
            NUTS are ``mcmc.get_samples(group_by_chain=True)``.
        seed: of all draws.

    Raises:
        DataError: the data lie outside the likelihood's support.
        ImportError: ArviZ is not installed: ``pip install 'pyro_vae[arviz]'``.
        ValueError: ``posterior`` lacks a latent, or has another shape.

    Reference: Kumar, Carroll, Hartikainen and Martin, 2019, "ArviZ: a unified library for exploratory
    analysis of Bayesian models"; Vehtari, Gelman and Gabry, 2017, "Practical Bayesian model evaluation using
    leave-one-out cross-validation and WAIC".
    """
    try:
        from arviz_base import from_dict
    except ImportError as error:
        raise ImportError(f"{error}; a tree of draws takes ArviZ: pip install 'pyro_vae[arviz]'") from error
    split = as_split(data, program)
    check(program, split)
    batch = program.place(split.batch(slice(0, len(split))))
    estimate = log_likelihood(program, split, num_samples=num_particles, seed=seed)
    if posterior is None:
        drawn = predict(program, batch, num_samples, num_particles=num_particles, hmc=hmc, seed=seed)
        ...
