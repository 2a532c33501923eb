"""What does a column cost? python benchmarks/columns.py

A table of 2,000 rows, a fifth of the values missing, with as many columns of each of six kinds: one step of
``pv.fit`` (batch 100, networks of 100 hidden numbers) and the time to compile it, by the number of columns.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import pandas as pd
import torch

import pyro_vae as pv
from pyro_vae.engine.products import processor


def table(columns: int, rows: int = 2000) -> pd.DataFrame:
    """Columns of six kinds in turn, all moved by one number of the row."""
    random = np.random.default_rng(0)
    z = random.normal(size=(rows, 1))
    x = z * random.normal(size=columns) + random.normal(size=(rows, columns))
    kinds = (
        lambda v: v,
        lambda v: np.exp(v),
        lambda v: random.poisson(np.exp(v)),
        lambda v: np.round(10 * v),
        lambda v: v > 0,
        lambda v: pd.Categorical.from_codes(np.digitize(v, [-1, 1]), ["a", "b", "c"]),
    )
    made = {f"c{j}": pd.Series(kinds[j % 6](x[:, j])) for j in range(columns)}
    return pd.DataFrame({name: v.mask(random.random(rows) < 0.2) for name, v in made.items()})


def seconds(columns: int, compile: bool, epochs: int) -> tuple[float, float]:
    """Of a step in the median epoch, and of the first epoch more than that."""
    data = pv.data.load(table(columns), validation=0.0, test=0.0)
    nets = {"encoder": pv.nets.mlp(100), "decoder": pv.nets.mlp(100)}
    vae = pv.VAE(data.event_shapes, 5, likelihood="auto", **nets)
    began = time.perf_counter()
    run = pv.fit(vae, data, epochs=epochs, batch_size=100, compile=compile, progress=False, device="cpu")
    total = time.perf_counter() - began
    epoch = statistics.median(float(row["seconds"]) for row in run.history[1:])
    return epoch / 20, total - epoch * epochs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--epochs", type=int, default=8)
    given = parser.parse_args()
    print(f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| columns | step, eager, ms | step, compiled, ms | compiling and preparing, s |")
    print("|---:|---:|---:|---:|")
    for columns in given.columns:
        eager, _ = seconds(columns, False, given.epochs)
        compiled, first = seconds(columns, True, given.epochs)
        print(f"| {columns:,} | {1e3 * eager:.2f} | {1e3 * compiled:.2f} | {first:.1f} |", flush=True)


if __name__ == "__main__":
    main()
