"""What each objective is for, in a line."""

from __future__ import annotations

import inspect

import pyro.infer
from pyro.infer import ELBO

PYROS: dict[type[ELBO], str] = {
    pyro.infer.Trace_ELBO: "The ELBO from draws, of any model and guide: what all others are held against.",
    pyro.infer.TraceMeanField_ELBO: "The ELBO with KLs in closed form, of guides that go the model's way.",
    pyro.infer.TraceGraph_ELBO: "The ELBO with less noise for latents whose draws carry no gradients.",
    pyro.infer.TraceEnum_ELBO: "The ELBO summed over the values of discrete latents.",
    pyro.infer.TraceTMC_ELBO: "A bound from all combinations of several draws of each latent.",
    pyro.infer.RenyiELBO: "The bound of Renyi, datum by datum, where no plate subsamples.",
    pyro.infer.ReweightedWakeSleep: "Wake-sleep with weights of whole batches: of few data with few latents.",
    pyro.infer.TraceTailAdaptive_ELBO: "Gradients weighed by rank: a guide that covers heavy tails.",
}
"""Those of Pyro's that training takes."""


def purpose(objective: ELBO) -> str:
    """What an objective is for, in a sentence; nothing of one that has no docstring."""
    kind = type(objective)
    own = (inspect.getdoc(kind) or "").partition("\n")[0].replace("``", "")
    return PYROS.get(kind, own)
