"""Are rows that a model draws of a mixed table told from real ones? Beside CTGAN and TVAE.

    python benchmarks/draws.py --peer PYTHON

prints, for the tables of ``tables.py``, how well a random forest tells drawn rows from as many held-out ones
(area under the ROC curve, cross-validated: 0.5 is not at all, 1 is always), and how often one that learned a
column (who is of which sex, who votes for whom) from drawn rows is right about held-out ones. Beside this
package's VAE (all by default, with ``likelihood="auto"``) are rows of the training data themselves, which is
as good as it gets, and the same with each column shuffled, which tells nothing of how columns go together;
and CTGAN and TVAE, which have no density to compare, in a process of their own, of a Python that has ctgan:
``draws_peer.py``. Those take complete rows alone, so that there are no others here, and are told that numbers
of few values are discrete. All draws are rounded to the digits that a column has. Standard errors are over
splits of the rows.

Reference: Lopez-Paz and Oquab, 2017, "Revisiting classifier two-sample tests".
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from tables import TABLES
from torch import Tensor

import pyro_vae as pv

ASKED = {"penguins": "sex", "anes96": "vote"}
FEW, REPEATS, TREES = 10, 5, 100


def features(rows: Tensor, columns: Any) -> np.ndarray:
    """What a forest sees of rows ``[N, D]``: a category as an indicator for each level."""
    made = []
    for j, column in enumerate(columns.of.values()):
        x = rows[:, j].double().numpy()
        made.append(
            np.equal.outer(x, np.arange(len(column.levels))) if column.kind == "category" else x[:, None]
        )
    return np.concatenate(made, 1)


def told_apart(drawn: np.ndarray, real: np.ndarray) -> float:
    """The area under the ROC curve, of parts of the drawn rows, as many as the real ones, in turn."""
    areas, random = [], np.random.default_rng(0)
    y = np.repeat([0, 1], len(real))
    for seed in range(REPEATS):
        some = drawn[random.choice(len(drawn), len(real), replace=False)]
        forest = RandomForestClassifier(TREES, random_state=seed)
        p = cross_val_predict(forest, np.concatenate([some, real]), y, cv=5, method="predict_proba")
        areas.append(roc_auc_score(y, p[:, 1]))
    return float(np.mean(areas))


def learned_from(drawn: Tensor, real: Tensor, columns: Any, name: str) -> float:
    """How often a forest that was shown drawn rows has one column of real rows right, in per cent."""
    j = columns.number(name)
    rest = [
        torch.cat([rows[:, :j], torch.zeros(len(rows), 1), rows[:, j + 1 :]], 1) for rows in (drawn, real)
    ]
    seen, asked = (features(rows, columns) for rows in rest)
    forest = RandomForestClassifier(5 * TREES, random_state=0).fit(seen, drawn[:, j].numpy())
    return 100 * float(forest.score(asked, real[:, j].numpy()))


def theirs(
    python: str, train: Tensor, columns: Any, number: int, seed: int
) -> dict[str, tuple[Tensor, float]]:
    """Rows that each of ``draws_peer.py`` draws, and its seconds of training."""
    frame = columns.decode(train).convert_dtypes()  # whole numbers as such
    discrete = [
        name
        for name, column in columns.of.items()
        if column.levels or column.kind == "boolean" or frame[name].nunique() <= FEW
    ]
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        frame.to_csv(at / "rows.csv", index=False)
        (at / "given.json").write_text(json.dumps({"discrete": discrete, "number": number, "seed": seed}))
        peer = Path(__file__).with_name("draws_peer.py")
        subprocess.run([python, str(peer), folder], check=True, stdout=subprocess.DEVNULL)
        seconds = json.loads((at / "seconds.json").read_text())
        return {
            name: (columns.encode(pd.read_csv(at / f"{name}.csv")), value) for name, value in seconds.items()
        }


def measure(name: str, seed: int, python: str | None, epochs: int) -> dict[str, tuple[float, float, float]]:
    """Of each method the area, the share that is right, and the processor's seconds, of one split."""
    data = pv.data.load(TABLES[name]().dropna(), test=0.2, validation=0.1, split_seed=seed)
    columns, real = data.columns, data.test.batch(slice(None))["x"]
    train = torch.cat([part.batch(slice(None))["x"] for part in (data.train, data.validation)])
    torch.manual_seed(seed)
    vae, began = pv.VAE(data.event_shapes, likelihood="auto"), time.process_time()
    pv.fit(vae, data, epochs=epochs, patience=30, seed=seed, compile=False, progress=False, device="cpu")
    seconds = time.process_time() - began
    shuffled = torch.stack([column[torch.randperm(len(train))] for column in train.T], 1)
    rows = {
        "VAE": (vae.generate(len(train), seed=seed)["x"], seconds),
        "training rows": (train, 0.0),
        "the same, columns shuffled": (shuffled, 0.0),
    }
    rows |= theirs(python, train, columns, len(train), seed) if python else {}
    digits = [next(d for d in range(9) if torch.allclose(x, x.round(decimals=d))) for x in train.T]
    found = {}
    for method, (drawn, took) in rows.items():
        drawn = torch.stack([x.round(decimals=d) for x, d in zip(drawn.T, digits, strict=True)], 1)
        area = told_apart(features(drawn, columns), features(real, columns))
        found[method] = area, learned_from(drawn, real, columns, ASKED[name]), took
    return found


def table(found: list[dict[str, tuple[float, float, float]]], asked: str) -> str:
    """In Markdown, over splits."""
    lines = [f"| rows drawn by | told from held-out ones | {asked}, % right | training, s |"]
    lines.append("| --- | ---: | ---: | ---: |")
    for method in found[0]:
        values = np.array([one[method] for one in found])
        area, right, seconds = values.mean(0)
        error = values.std(0, ddof=1 if len(found) > 1 else 0) / len(found) ** 0.5
        cells = [method, f"{area:.3f} ± {error[0]:.3f}", f"{right:.1f} ± {error[1]:.1f}"]
        lines.append(f"| {' | '.join(cells)} | {f'{seconds:.0f}' if seconds else ''} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--seeds", type=int, default=3, help="splits")
    parser.add_argument("--epochs", type=int, default=500, help="of the VAE, at most")
    parser.add_argument("--peer", metavar="PYTHON", help="one that has ctgan, which is else left out")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.tables:
        found = []
        for seed in range(given.seeds):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found.append(measure(name, seed, given.peer, given.epochs))
            print(name, seed, found[-1], flush=True)
        print(f"\n{name}, {given.seeds} splits\n\n{table(found, ASKED[name])}\n")
    if not given.peer:
        print("CTGAN and TVAE were not asked: --peer PYTHON, one that has ctgan")


if __name__ == "__main__":
    main()
