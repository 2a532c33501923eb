"""Are latent weights, and steps for each datum, worth it? On few of scikit-learn's digits, and on all.

    python benchmarks/bayesian.py

trains VAEs of the same networks (64-100-D and back) on ``--numbers`` of the digits: with ordinary weights,
with latent ones (independent Normals, and of low rank), and with a guide that takes steps for each datum; and
prints the ELBO and log p(x) of 400 other digits, in nats per datum, with the time that training took.
"""

from __future__ import annotations

import argparse
import time
import warnings

import torch

import pyro_vae as pv

NET = pv.nets.mlp(100)
PARTS = {
    "ordinary": {},
    "bayesian": {"decoder": pv.nets.bayesian(NET)},
    "bayesian, low rank": {"decoder": pv.nets.bayesian(NET, guide=pv.guides.LowRankNormal(5))},
    "semi-amortised": {"guide": pv.guides.SemiAmortised()},
}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--numbers", type=int, nargs="+", default=[100, 1000], help="of training data")
    parser.add_argument("--steps", type=int, default=2000, help="of training")
    parser.add_argument("--latent-dim", type=int, default=5)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--num-samples", type=int, default=200)
    given = parser.parse_args()
    warnings.simplefilter("ignore", pv.program.DataWarning)
    digits = pv.data.load("digits", binarize="threshold")
    x = torch.cat([split.batch(slice(0, len(split)))["x"] for split in (digits.train, digits.test)])
    others = x[-400:]
    print("| training data | parts | ELBO of others | log p(x) of others | seconds |\n|---|---|---|---|---|")
    for number in given.numbers:
        data = pv.data.load(x[:number], validation=0.0, test=0.0)
        epochs = max(1, given.steps * 50 // number)
        for name in given.parts:
            torch.manual_seed(0)
            parts = {"encoder": NET, "decoder": NET} | PARTS[name]
            vae = pv.VAE(data.event_shape, given.latent_dim, **parts)
            began = time.perf_counter()
            pv.fit(vae, data, epochs=epochs, batch_size=50, lr=2e-3, compile=False, progress=False)
            seconds = time.perf_counter() - began
            bound = pv.evaluate.elbo(vae, others)
            estimate = pv.evaluate.log_likelihood(vae, others, num_samples=given.num_samples)
            print(
                f"| {number} | {name} | {bound.elbo:.2f} ± {bound.standard_error:.2f} "
                f"| {estimate.log_likelihood:.2f} ± {estimate.standard_error:.2f} | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
