"""Which estimate of log p(x) is to be trusted? Importance and annealed importance sampling of a run.

    pyro-vae train --data mnist --latent-dim 20 --epochs 20 --folder runs/mnist
    python benchmarks/certificate.py runs/mnist

prints, for the first test data: importance samples of the guide, ten times as many, and annealed importance
sampling, with differences paired datum by datum; all are lower bounds in expectation, so that the highest is
the nearest. Then, for data that the model has drawn itself, a lower and an upper bound, and what importance
samples say of these.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

from torch import Tensor

import pyro_vae as pv


def told(name: str, difference: Tensor) -> str:
    """A paired difference."""
    return f"{name}: {difference.mean():+.2f} ± {difference.std() / len(difference) ** 0.5:.2f}"


def main() -> None:
    """Prints the estimates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--num-data", type=int, default=100)
    parser.add_argument("--num-samples", type=int, default=5000)
    parser.add_argument("--num-temperatures", type=int, default=500)
    given = parser.parse_args()
    warnings.simplefilter("ignore", pv.program.DataWarning)  # the lines below say it
    run = pv.training.reopen(given.run)
    x = run.data.held_out[1].batch(slice(0, given.num_data))
    annealing = {"num_temperatures": given.num_temperatures, "progress": True}

    def sampled(data: dict[str, Tensor], number: int) -> pv.evaluate.LogLikelihood:
        found = pv.evaluate.log_likelihood(run.program, data, num_samples=number, progress=True)
        print(found, flush=True)
        return found

    few, many = sampled(x, given.num_samples), sampled(x, 10 * given.num_samples)
    annealed = pv.evaluate.ais(run.program, x, **annealing)
    print(annealed)
    print(told("ten times as many samples, less the first", many.per_datum - few.per_datum))
    print(told("annealed, less the first", annealed.per_datum - few.per_datum))
    print(told("annealed, less ten times as many", annealed.per_datum - many.per_datum), flush=True)
    bounds = pv.evaluate.sandwich(run.program, num_data=given.num_data, **annealing)
    print(bounds)
    again = sampled(bounds.data, given.num_samples)
    print(told("importance samples, less the lower bound", again.per_datum - bounds.lower_per_datum))


if __name__ == "__main__":
    main()
