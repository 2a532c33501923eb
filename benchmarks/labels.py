"""Few labels: who classifies the rows that have none?

    python benchmarks/labels.py
    python benchmarks/labels.py --data wine --each 5
    python benchmarks/labels.py --data moons --each 3
    python benchmarks/labels.py --mnist DIR --each 10

prints a table: the accuracy on rows without a label, over random sets of ``--each`` labels of each class, of
``VAEClassifier`` at its defaults beside scikit-learn's semi-supervised classifiers, and one of the labels
alone, of columns scaled alike; what is said of differences is paired, set by set. With ``--mnist`` the
accuracy is on the test images, of ``pv.SemiSupervisedVAE`` with the labels' term (alpha) and without; the
VAE whose latents the classifier sees is trained first, of no labels and for as many epochs.

The protocol is that of Kingma, Mohamed, Rezende and Welling, 2014, "Semi-supervised learning with deep
generative models", table 1: of MNIST with 100 labels M2 alone has 88.0 ± 1.7 %, on top of M1 96.7 ± 0.1 %;
with 1000 labels 96.4 ± 0.6 % and 97.6 ± 0.0 %.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import sklearn.datasets
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier

import pyro_vae as pv
from pyro_vae.sklearn import VAEClassifier
from pyro_vae.sklearn.classifier import one_unit

CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "VAEClassifier": lambda: VAEClassifier(random_state=0),
    "VAEClassifier(alpha=0)": lambda: VAEClassifier(alpha=0.0, random_state=0),
    "LabelSpreading(knn)": lambda: LabelSpreading(kernel="knn", max_iter=200),
    "LabelSpreading(rbf)": lambda: LabelSpreading(gamma=0.05, max_iter=200),
    "SelfTrainingClassifier": lambda: SelfTrainingClassifier(LogisticRegression(max_iter=1000)),
    "LogisticRegression": lambda: LogisticRegression(max_iter=1000),
    "KNeighborsClassifier(1)": lambda: KNeighborsClassifier(1),
}
ALONE = {"LogisticRegression", "KNeighborsClassifier(1)"}
"""Those that learn from rows with a label alone."""

MADE: dict[str, Callable[[], Any]] = {
    "bits": lambda: (
        (sklearn.datasets.load_digits().data > 8).astype(float),
        sklearn.datasets.load_digits().target,
    ),
    "blobs": lambda: sklearn.datasets.make_blobs(500, 2, centers=5, random_state=1),
    "blobs10": lambda: sklearn.datasets.make_blobs(1000, 10, centers=5, cluster_std=3.0, random_state=2),
    "moons": lambda: sklearn.datasets.make_moons(500, noise=0.1, random_state=0),
    "moons2": lambda: sklearn.datasets.make_moons(1000, noise=0.2, random_state=1),
    "circles": lambda: sklearn.datasets.make_circles(500, noise=0.08, factor=0.5, random_state=0),
    "unbalanced": lambda: sklearn.datasets.make_classification(
        1000,
        10,
        n_informative=5,
        n_classes=3,
        weights=[0.8, 0.15, 0.05],
        class_sep=1.5,
        random_state=0,
    ),
}
"""Sets that are made, beside those that scikit-learn has: rows and their classes."""


def scaled(x: np.ndarray) -> np.ndarray:
    """Columns standardised, those of one unit by one number, as VAEClassifier does by itself."""
    x = x[:, x.std(0) > 0]
    std = x.std(0)
    return (x - x.mean(0)) / (np.sqrt(np.square(std).mean()) if one_unit(x) else std)


def hidden(y: np.ndarray, each: int, seed: int) -> np.ndarray:
    """The rows that keep their label: so many of each class."""
    random = np.random.default_rng(seed)
    of_class = [random.permutation(np.flatnonzero(y == k))[:each] for k in np.unique(y)]
    return np.concatenate(of_class)


def measure(x: np.ndarray, y: np.ndarray, each: int, seed: int) -> dict[str, float]:
    """The accuracy of each classifier on rows without a label, of one set of labels."""
    known = hidden(y, each, seed)
    others = np.setdiff1d(np.arange(len(y)), known)
    some, found = np.full(len(y), -1), {}
    some[known] = y[known]
    for name, make in CLASSIFIERS.items():
        began = time.monotonic()
        own = x if name.startswith("VAEClassifier") else scaled(x)
        seen = known if name in ALONE else np.arange(len(y))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found[name] = float(make().fit(own[seen], some[seen]).score(own[others], y[others]))
        found[f"{name}, seconds"] = time.monotonic() - began
    return found


def mnist(
    data: Any, number: int, each: int, seed: int, alpha: float, features: int | None, **settings: Any
) -> dict[str, float]:
    """The accuracy on test images of one set of labels of the training images."""
    began, labels = time.monotonic(), data.train.labels[:number]
    known = torch.from_numpy(hidden(labels.numpy(), each, seed))
    y = torch.full((len(labels),), torch.nan)
    y[known] = labels[known].float()
    images = pv.data.load({"x": data.train[:number], "y": y}, binarize="dynamic", validation=0.0, test=0.0)
    torch.manual_seed(seed)
    vae = pv.SemiSupervisedVAE(
        images.event_shape,
        num_classes=10,
        latent_dim=20,
        alpha=alpha,
        features=features,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pv.program.DataWarning)  # that alpha is 0
        pv.fit(vae, images, **settings, seed=seed, progress=False)
    right = (vae.classify(data.test[:]).argmax(1) == data.test.labels).double().mean().item()
    return {"right": right, "seconds": time.monotonic() - began}


def table(rows: list[dict[str, float]]) -> str:
    """What was measured as a table in Markdown."""
    names = [name for name in rows[0] if not name.endswith(", seconds")]
    accuracy = {name: np.array([row[name] for row in rows]) for name in names}
    spread = {"ddof": 1 if len(rows) > 1 else 0}
    lines = [["", "accuracy", f"less {names[0]}'s, paired", "seconds"], ["---", "---:", "---:", "---:"]]
    for name, right in accuracy.items():
        more = right - accuracy[names[0]]
        told = f"{more.mean():+.3f} ± {more.std(**spread) / len(rows) ** 0.5:.3f}"
        seconds = np.mean([row[f"{name}, seconds"] for row in rows])
        own = f"{right.mean():.3f} ± {right.std(**spread):.3f}"
        lines.append([name, own, told if name != names[0] else "", f"{seconds:.1f}"])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    """Prints what each set of labels gives, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--data", default="digits", help=f"of sklearn.datasets.load_..., or {', '.join(MADE)}"
    )
    parser.add_argument("--mnist", metavar="DIR", help="MNIST, in this folder, in its place")
    parser.add_argument("--each", type=int, default=5, help="labels of each class")
    parser.add_argument("--sets", type=int, nargs="+", default=list(range(5)), help="their seeds")
    parser.add_argument(
        "--features", type=int, help="of MNIST, that the classifier sees; by default as many as it has"
    )
    parser.add_argument("--epochs", type=int, default=10, help="of MNIST")
    parser.add_argument("--lr", type=float, help="of MNIST; by default the model's own")
    parser.add_argument("--number", type=int, default=60_000, help="of MNIST's training images")
    parser.add_argument("--alphas", type=float, nargs="+", default=[10.0, 0.0], help="of MNIST")
    given = parser.parse_args()
    rows = []
    if given.mnist:
        data = pv.data.load("mnist", data_dir=given.mnist, validation=0.0)
    elif given.data in MADE:
        x, y = MADE[given.data]()
    else:
        x, y = getattr(sklearn.datasets, f"load_{given.data}")(return_X_y=True)
    for seed in given.sets:
        if given.mnist:
            row = {}
            for alpha in given.alphas:
                settings = {"epochs": given.epochs} | ({"lr": given.lr} if given.lr else {})
                found = mnist(data, given.number, given.each, seed, alpha, given.features, **settings)
                name = f"SemiSupervisedVAE(alpha={alpha:g})"
                row |= {name: found["right"], f"{name}, seconds": found["seconds"]}
            rows.append(row)
        else:
            rows.append(measure(x, y, given.each, seed))
        told = {
            name: round(value, 4) for name, value in rows[-1].items() if given.mnist or "seconds" not in name
        }
        print(f"labels {seed}: {told}", flush=True)
    print(f"\n{table(rows)}")


if __name__ == "__main__":
    main()
