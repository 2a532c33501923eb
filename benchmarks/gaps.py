"""Whose fault is it: approximation and amortisation gaps of VAEs with richer and richer guides, on MNIST.

    python benchmarks/gaps.py --data-dir DIR

trains the VAE of the README (784-400-400-20, dynamically binarised) with each of ``--guides`` and prints, for
the first ``--num-data`` test images, in nats: log p(x) (importance samples from the best member of the family
for each image), the ELBO of that member and that of the encoder's, and the two gaps between them; how many
images have weights that are not to be trusted (k-hat above 0.7), where log p(x) and the approximation gap
are likely too small; and the ELBO's rise in the last quarter of the steps. A Flow's maps are the program's
own: its best member moves the base Normal and the context that the maps see. SemiAmortised, whose steps of
training take some hundred times as long, runs if it is named; on digits that is minutes,

    python benchmarks/gaps.py --data digits --guides Normal SemiAmortised --epochs 60

The runs are kept in a folder, where an interrupted benchmark goes on.

Reference: Cremer, Li and Duvenaud, 2018, "Inference suboptimality in variational autoencoders".
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import pyro_vae as pv

GUIDES = {
    "Normal": pv.guides.Normal(),
    "FullRankNormal": pv.guides.FullRankNormal(),
    "Flow": pv.guides.Flow(),
    "SemiAmortised": pv.guides.SemiAmortised(),
}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--guides", nargs="+", choices=GUIDES, default=list(GUIDES)[:3])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--num-data", type=int, default=100, help="test images, from the first on")
    parser.add_argument("--num-steps", type=int, default=2000)
    parser.add_argument("--num-samples", type=int, default=5000)
    parser.add_argument("--folder", type=Path, default=Path("runs/gaps"))
    given = parser.parse_args()
    data = pv.data.load(given.data, data_dir=given.data_dir, binarize="dynamic")
    images = data.test.batch(slice(0, given.num_data))
    rows = []
    for name in given.guides:
        vae = pv.VAE(data.event_shape, 20, guide=GUIDES[name])
        vae = pv.fit(vae, data, epochs=given.epochs, folder=given.folder / name, resume="auto").program
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:  # the table tells as much
            warnings.simplefilter("always")
            found = pv.evaluate.inference_gap(
                vae, images, num_steps=given.num_steps, num_samples=given.num_samples
            )
        print(f"\n{name} ({time.perf_counter() - start:.0f} s)\n{found}", flush=True)
        for warning in caught:
            print(warning.message)
        cells = [f"{found.per_datum[n].mean():.2f} ± {e:.2f}" for n, e in found.standard_error.items()]
        rows.append([name, *cells, f"{int((found.pareto_k > 0.7).sum())} of {len(found.pareto_k)}"])
    print(f"\nnats per image, {given.num_data} test images, {given.epochs} epochs, {data.test.binarized}\n")
    print("| guide | log p(x) | best ELBO | ELBO | approximation | amortisation | k-hat > 0.7 |")
    print("|---" * 7 + "|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
