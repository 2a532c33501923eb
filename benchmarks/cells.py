"""Cells of blood: how well are held-out counts predicted, and kinds of cells told apart?

    python benchmarks/cells.py --scvi PYTHON

prints a table over several splits of the 700 cells and 765 genes of 10x's peripheral blood that scanpy ships
(counts come back from its logarithms to rounding): log p(x) of a held-out cell in nats (importance sampling,
K = 1000); its kind (bulk_labels, 10 of them) as the majority of its 15 nearest training cells in latent space
has it; the adjusted Rand index of k-means in latent space against the kinds, over all cells; and the
processor's seconds of training, on one thread; with standard errors over splits. All have a latent total but
where it says so, 10 latents, networks of 128 hidden numbers, batches of 128, at most 400 epochs, and stop
when the validation ELBO has not risen for 45, with the best weights. log p(x) is compared, paired split by
split, with that of the first of the same totals: given its total, a cell is told more easily. "scVI's
networks" are those of scvi-tools (batch normalisation, ReLU, dropout; zero-inflated) in this package's model.
scvi-tools itself is asked in a process of its own, of a Python that has it, about the same cells and by as
many importance samples of its own: ``cells_peer.py``. Each model's guide proposes, so that what is printed
bounds its log p(x) from below, the less closely the worse the guide.

Reference: Zheng et al., 2017, "Massively parallel digital transcriptional profiling of single cells"; Lopez
et al., 2018, "Deep generative modeling for single-cell transcriptomics"; Gayoso et al., 2022, "A Python
library for probabilistic analysis of single-cell omics data".
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyro.distributions as dist
import scanpy
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

import pyro_vae as pv
from pyro_vae.engine.products import processor
from pyro_vae.models.count_vae import CountVAE

TITLES = ("log p(x), nats per cell", "less the first", "kind, %", "k-means, adjusted Rand", "training, s")


def load() -> Any:
    """The cells, with their counts."""
    adata = scanpy.datasets.pbmc68k_reduced()
    counts = np.expm1(adata.raw.X.toarray().astype(float)) * adata.obs["n_counts"].to_numpy()[:, None] / 1e4
    adata.X = counts.round().astype(np.float32)
    adata.raw = None
    return adata


def block(in_shape: tuple[int, ...], out_shape: tuple[int, ...], dropout: float = 0.1) -> nn.Module:
    """scVI's network with one hidden layer."""
    normal = nn.BatchNorm1d(128, eps=1e-3, momentum=0.01)
    hidden = [nn.Linear(*in_shape, 128), normal, nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*hidden, nn.Linear(128, *out_shape))


def without_dropout(in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> nn.Module:
    """That of its decoder."""
    return block(in_shape, out_shape, 0.0)


PER_GENE = pv.likelihoods.NegativeBinomial(total_count="per_element")
INFLATED = pv.likelihoods.ZeroInflatedNegativeBinomial(total_count="per_element")
MODELS: dict[str, Callable[[Any], pv.Program]] = {
    "CountVAE": lambda shapes: CountVAE(shapes, library="latent"),
    "CountVAE, zero-inflated": lambda shapes: CountVAE(shapes, library="latent", likelihood=INFLATED),
    "CountVAE, Poisson": lambda shapes: CountVAE(shapes, library="latent", likelihood=dist.Poisson),
    "CountVAE, scVI's networks": lambda shapes: CountVAE(
        shapes, library="latent", likelihood=INFLATED, encoder=block, decoder=without_dropout
    ),
    "VAE, negative binomial, no totals": lambda shapes: pv.VAE(
        (len(shapes),), likelihood=PER_GENE, encoder=pv.nets.mlp(128), decoder=pv.nets.mlp(128)
    ),
    "CountVAE, observed total": lambda shapes: CountVAE(shapes),
    "CountVAE, scVI's networks, observed total": lambda shapes: CountVAE(
        shapes, likelihood=INFLATED, encoder=block, decoder=without_dropout
    ),
}


def ours(make: Callable[[Any], pv.Program], train: Any, test: Any, seed: int, epochs: int) -> dict[str, Any]:
    """A model of this package, trained on some cells and asked of others."""
    torch.manual_seed(seed)
    data = pv.data.load(train, validation=0.1, test=0.0, split_seed=seed)
    vae: Any = make(data.event_shapes)
    began = time.process_time()
    pv.fit(vae, data, epochs=epochs, patience=45, seed=seed, compile=False, progress=False, device="cpu")
    seconds = time.process_time() - began
    held_out = torch.tensor(test.X)
    with vae.evaluating():
        z = [vae.encode(torch.tensor(cells.X)).mean.numpy() for cells in (train, test)]
    log_p = pv.evaluate.log_likelihood(vae, held_out, num_samples=1000).log_likelihood
    return {"log_p": log_p, "z": z, "seconds": seconds}


def theirs(python: str, train: Any, test: Any, seed: int, epochs: int) -> dict[str, dict[str, Any]]:
    """What scvi-tools answers of the same cells, by name."""
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        np.savez(at / "cells.npz", train=train.X, test=test.X, seed=seed, epochs=epochs)
        peer = Path(__file__).with_name("cells_peer.py")
        subprocess.run([python, str(peer), folder], check=True, stdout=subprocess.DEVNULL)
        with np.load(at / "found.npz") as found:
            values = {key: found[key] for key in found}
    names = dict.fromkeys(key.rpartition("/")[0] for key in values)
    return {
        name: {
            "log_p": float(values[f"{name}/log_p"].mean()),
            "z": [values[f"{name}/{part}"] for part in ("train", "test")],
            "seconds": float(values[f"{name}/seconds"]),
        }
        for name in names
    }


def measured(found: dict[str, Any], labels: tuple[Any, Any]) -> dict[str, float]:
    """With how well kinds are told apart by the latents."""
    (train, test), (y_train, y_test) = found.pop("z"), labels
    neighbours = KNeighborsClassifier(15).fit(train, y_train)
    clusters = KMeans(len(set(y_train)), n_init=10, random_state=0).fit_predict(np.concatenate([train, test]))
    rand = adjusted_rand_score(np.concatenate([y_train, y_test]), clusters)
    return found | {"accuracy": 100 * float(neighbours.score(test, y_test)), "rand": float(rand)}


def run(seeds: Iterable[int], epochs: int, python: str | None) -> dict[str, list[dict[str, float]]]:
    """What was measured, by model and split."""
    adata, rows = load(), dict[str, list[dict[str, float]]]()
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(len(adata))
        train, test = adata[order[140:]].copy(), adata[order[:140]].copy()
        labels = tuple(cells.obs["bulk_labels"].to_numpy(str) for cells in (train, test))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = {name: ours(make, train, test, seed, epochs) for name, make in MODELS.items()}
        for name, one in (found | (theirs(python, train, test, seed, epochs) if python else {})).items():
            rows.setdefault(name, []).append(measured(one, labels))
            print(seed, name, rows[name][-1], flush=True)
    return rows


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    """In Markdown, those with latent totals first."""

    def told(values: Any, form: str) -> str:
        error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
        return f"{np.mean(values):{form}} ± {error:{form.lstrip('+')}}"

    lines = [["", *TITLES], ["---", *["---:"] * len(TITLES)]]
    for given in (False, True):
        first = None
        for name, found in rows.items():
            if ("observed total" in name) is not given:
                continue
            log_p, accuracy, rand, seconds = (
                np.array([row[key] for row in found]) for key in ("log_p", "accuracy", "rand", "seconds")
            )
            less = "" if first is None else told(log_p - first, "+.1f")
            first = log_p if first is None else first
            cells = [told(log_p, ".1f"), less, told(accuracy, ".1f"), told(rand, ".3f")]
            lines.append([name, *cells, f"{seconds.mean():.0f}"])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    """Prints what each split gives, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="splits")
    parser.add_argument("--epochs", type=int, default=400, help="at most")
    parser.add_argument("--scvi", metavar="PYTHON", help="one that has scvi-tools, which is else left out")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = run(range(given.seeds), given.epochs, given.scvi)
    print(f"\n{processor()}, one thread, torch {torch.__version__}, {given.seeds} splits\n\n{table(rows)}")
    if given.seeds > 2:
        others = {name: found[1:] for name, found in rows.items()}
        print(f"\nwithout the first split, on which the model was tuned\n\n{table(others)}")
    if not given.scvi:
        print("\nscvi-tools was not asked: --scvi PYTHON, one that has it")


if __name__ == "__main__":
    main()
