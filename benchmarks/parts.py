"""Which likelihood, and which prior, fits MNIST? Each swapped by itself, everything else equal.

    python benchmarks/parts.py --data-dir DIR

prints the two tables of the README, and draws its figure with --figure; about 25 minutes on two cores. The
likelihoods are all probabilities of the grey levels 0 to 255; the priors are compared on dynamically
binarised images. Same network, seed, order of the data and number of steps for all, no tuning for any of
them. The runs are kept in a folder, where an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pyro.distributions as dist

import pyro_vae as pv


def likelihoods(levels: int) -> list[Any]:
    """Six likelihoods of grey levels."""
    return [
        pv.likelihoods.DiscretizedLogistic(levels=levels),
        pv.likelihoods.DiscretizedNormal(levels=levels),
        pv.likelihoods.DiscretizedLogisticMixture(levels=levels),
        pv.likelihoods.BetaBinomial(total_count=levels - 1),
        pv.likelihoods.ZeroInflatedNegativeBinomial(),
        pv.likelihoods.Binomial(total_count=levels - 1),
    ]


def priors() -> list[Any]:
    """Five priors, the standard Normal first."""
    return [
        pv.priors.Normal(),
        dist.Laplace(0.0, 1.0),
        pv.priors.MixtureOfNormals(50),
        pv.priors.VampPrior(500),
        pv.priors.Flow(),
    ]


def table(comparison: pv.Comparison) -> str:
    """A comparison as a table in Markdown."""
    bits = comparison.rows[0].bits_per_dim is not None
    header = ["", "ELBO", f"log p(x), K = {comparison.num_samples}", *["bits/dim"] * bits]
    header += ["less the first, paired", "active units"]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for i, row in enumerate(comparison.rows):
        cells = [row.name, f"{row.elbo:.2f}", f"{row.log_likelihood:.2f} ± {row.standard_error:.2f}"]
        cells += [f"{row.bits_per_dim:.3f}" for _ in range(bits)]
        cells += [f"{row.difference:+.2f} ± {row.difference_standard_error:.2f}" if i else ""]
        lines.append([*cells, str(sum(row.active_units.values()))])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--num-samples", type=int, default=100)
    parser.add_argument("--folder", type=Path, default=Path("runs/parts"))
    parser.add_argument("--figure", type=Path, help="where to draw the likelihoods side by side")
    given = parser.parse_args()
    shared = {"latent_dim": 20, "epochs": given.epochs, "num_samples": given.num_samples}
    grey = pv.data.load(given.data, data_dir=given.data_dir, levels=True)
    levels = int(grey.train.range()[1]) + 1
    by_likelihood = pv.compare(
        grey, likelihoods=likelihoods(levels), folder=given.folder / "likelihoods", **shared
    )
    binary = pv.data.load(given.data, data_dir=given.data_dir, binarize="dynamic")
    by_prior = pv.compare(binary, priors=priors(), folder=given.folder / "priors", **shared)
    print(f"\nLikelihoods, grey levels 0 to {levels - 1}, nats per image\n\n{table(by_likelihood)}")
    print(f"\nPriors, dynamically binarised images, nats per image\n\n{table(by_prior)}")
    if given.figure:
        pv.figures.comparison(by_likelihood.programs, grey.test[:10]).savefig(given.figure, dpi=60)


if __name__ == "__main__":
    main()
