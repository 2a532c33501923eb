"""Cells of blood: how well are held-out counts predicted, and kinds of cells told apart?

    python benchmarks/cells.py

prints a table over several splits of the 700 cells and 765 genes of 10x's peripheral blood that scanpy ships
(counts come back from its logarithms to rounding): log p(x) of a held-out cell in nats (importance sampling,
K = 1000); its kind (bulk_labels, 10 of them) as the majority of its 15 nearest training cells in latent space
has it; the adjusted Rand index of k-means in latent space against the kinds, over all cells; and the
processor's seconds of training, on one thread. All have a latent total but where it says so, 10 latents,
networks of 128 hidden numbers, batches of 128, at most 400 epochs, and stop when the validation ELBO has not
risen for 45. Differences are against the first, paired split by split. "scVI's networks" are those of
scvi-tools (batch normalisation, ReLU, dropout; zero-inflated) in this package's model; scvi-tools itself,
which warms up the KL over all 400 epochs by default, is asked if it is installed.

Reference: Zheng et al., 2017, "Massively parallel digital transcriptional profiling of single cells"; Lopez
et al., 2018, "Deep generative modeling for single-cell transcriptomics"; Gayoso et al., 2022, "A Python
library for probabilistic analysis of single-cell omics data".
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro.distributions as dist
import scanpy
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.engine.products import processor
from pyro_vae.models.count_vae import CountVAE

NAMES = ("log_p", "accuracy", "rand", "seconds")
TITLES = ("log p(x), nats per cell", "kind by 15 neighbours, %", "k-means, adjusted Rand", "training, s")


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
}
GIVEN_TOTALS = "CountVAE, observed total"


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


def theirs(train: Any, test: Any, seed: int, epochs: int) -> dict[str, Any]:
    """scvi-tools' SCVI, zero-inflated, with latent totals.

    Raises:
        ImportError: it is not installed.
    """
    import scvi

    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    scvi.settings.seed = seed
    scvi.settings.verbosity = logging.ERROR
    train, test = train.copy(), test.copy()
    scvi.model.SCVI.setup_anndata(train)
    model = scvi.model.SCVI(train, use_observed_lib_size=False)
    began = time.process_time()
    model.train(epochs, accelerator="cpu", early_stopping=True, enable_progress_bar=False, logger=False)
    seconds = time.process_time() - began
    model.module.eval()
    log_p = model.get_marginal_ll(test, n_mc_samples=1000, return_mean=True)
    z = [model.get_latent_representation(cells) for cells in (train, test)]
    return {"log_p": float(log_p), "z": z, "seconds": seconds}


def measured(found: dict[str, Any], labels: tuple[Any, Any]) -> dict[str, float]:
    """With how well kinds are told apart by the latents."""
    (train, test), (y_train, y_test) = found.pop("z"), labels
    neighbours = KNeighborsClassifier(15).fit(train, y_train)
    clusters = KMeans(len(set(y_train)), n_init=10, random_state=0).fit_predict(np.concatenate([train, test]))
    rand = adjusted_rand_score(np.concatenate([y_train, y_test]), clusters)
    return found | {"accuracy": 100 * float(neighbours.score(test, y_test)), "rand": float(rand)}


def run(seeds: int, epochs: int) -> dict[str, list[dict[str, float]]]:
    """What was measured, by model and split."""
    adata, rows = load(), dict[str, list[dict[str, float]]]()
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(adata))
        train, test = adata[order[140:]].copy(), adata[order[:140]].copy()
        labels = tuple(cells.obs["bulk_labels"].to_numpy(str) for cells in (train, test))
        for name in (*MODELS, "scvi-tools, SCVI"):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    made = MODELS.get(name)
                    cells = (train, test, seed, epochs)
                    found = ours(made, *cells) if made else theirs(*cells)
            except ImportError:
                continue
            rows.setdefault(name, []).append(measured(found, labels))
            print(seed, name, rows[name][-1], flush=True)
    return rows


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    """In Markdown."""
    lines = [["", *TITLES], ["---", *["---:"] * len(TITLES)]]
    first = Tensor()
    for name, found in rows.items():
        values = torch.tensor([[row[key] for key in NAMES] for row in found])
        first = first if len(first) else values
        cells = [
            f"{v:.3f}" if n == "rand" else f"{v:.1f}" for n, v in zip(NAMES, values.mean(0), strict=True)
        ]
        if name != next(iter(rows)):
            more, error = values - first, (values - first).std(0) / len(found) ** 0.5
            for i in range(3):
                cells[i] += f" ({more.mean(0)[i]:+.2f} ± {error[i]:.2f})"
        if name == GIVEN_TOTALS:
            cells[0] = f"{values.mean(0)[0]:.1f}, given the total"
        lines.append([name, *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    """Prints what each split gives, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="splits")
    parser.add_argument("--epochs", type=int, default=400, help="at most")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = run(given.seeds, given.epochs)
    print(f"\n{processor()}, one thread, torch {torch.__version__}, {given.seeds} splits\n\n{table(rows)}")


if __name__ == "__main__":
    main()
