"""CTGAN and TVAE, in a process and an environment of their own, for ``draws.py``.

    PYTHON benchmarks/draws_peer.py FOLDER

reads ``FOLDER/rows.csv`` and ``FOLDER/given.json`` (the discrete columns, how many rows to draw, a seed), and
writes a ``.csv`` of drawn rows for each of ``PEERS``, and the processor's seconds, ``FOLDER/seconds.json``.
As sdv has it, numbers are drawn within the range there was in training.

Reference: Xu, Skoularidou, Cuesta-Infante and Veeramachaneni, 2019, "Modeling tabular data using conditional
GAN".
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from ctgan import CTGAN, TVAE

LONG: dict[str, Any] = {"batch_size": 100, "epochs": 1000}
PEERS: dict[str, Any] = {
    "CTGAN": lambda: CTGAN(enable_gpu=False),
    "CTGAN, batches of 100, 1000 epochs": lambda: CTGAN(enable_gpu=False, **LONG),
    "TVAE": lambda: TVAE(enable_gpu=False),
    "TVAE, batches of 100, 1000 epochs": lambda: TVAE(enable_gpu=False, **LONG),
}
"""By default batches are of 500, so that a small table has one step an epoch, 300 in all."""


def main() -> None:
    folder = Path(sys.argv[1])
    given = json.loads((folder / "given.json").read_text())
    rows, seconds = pd.read_csv(folder / "rows.csv"), {}
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name, make in PEERS.items():
        np.random.seed(given["seed"])
        torch.manual_seed(given["seed"])
        model, began = make(), time.process_time()
        model.fit(rows, given["discrete"])
        seconds[name] = time.process_time() - began
        drawn = model.sample(given["number"])
        numbers = [column for column in rows if column not in given["discrete"]]
        drawn[numbers] = drawn[numbers].clip(rows[numbers].min(), rows[numbers].max(), axis=1)
        drawn.to_csv(folder / f"{name}.csv", index=False)
    (folder / "seconds.json").write_text(json.dumps(seconds))


if __name__ == "__main__":
    main()
