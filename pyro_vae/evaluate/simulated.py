"""Data that a model draws in the place of others: with what they are given, and missing what they miss."""

from __future__ import annotations

import torch
from pyro import poutine

from pyro_vae.program import Batch, Program, sites


def simulated(program: Program, rows: Batch) -> tuple[poutine.Trace, Batch]:
    """The trace of the model that draws all but what it is given; and the data, as the rows are.

    Raises:
        ValueError: whether a value is missing is itself a draw of the model, and here it is as in the rows.
    """
    trace = poutine.trace(poutine.uncondition(program.model)).get_trace(rows)
    found = dict(sites(trace))
    beside = [n for n, site in found.items() if site["infer"].get("was_observed") and n not in rows]
    if beside and any(f"{name}_unobserved" in found for name in rows):
        raise ValueError(
            f"whether a value is missing depends on it in a {type(program).__name__}, and is copied from the "
            "data here; simulations are of models that are given what is missing, such as pv.VAE(...)"
        )
    batch = {
        name: torch.where(value.isnan(), value, found[name]["value"].to(value)) if name in found else value
        for name, value in rows.items()
    }
    return trace, batch


def drawn_sites(program: Program, rows: Batch) -> list[str]:
    """Sites of the data that the model draws, and is not given."""
    trace, _ = simulated(program, {name: value[:2] for name, value in rows.items()})
    return [name for name in rows if name in trace.nodes]
