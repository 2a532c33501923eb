"""Cells by genes: counts from an AnnData, latents and denoised means back into it.

    pip install 'pyro_vae[cells]' scanpy
    python examples/cells.py

The 700 blood cells and 765 genes of 10x that scanpy ships. Their counts are taken back from its logarithms;
your own AnnData has them in ``adata.X`` or in a layer. A model of counts is trained in which each cell has a
total of its own, its latents are written to ``adata.obsm["X_vae"]`` and the means to
``adata.layers["denoised"]``, from where scanpy goes on: neighbours, clusters, maps. Printed is how well
clusters of latents and the published kinds of cells agree, and drawn the latents by kind.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import scanpy
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

import pyro_vae as pv

SIZE = float(os.environ.get("COURSE_SIZE", 1))

adata = scanpy.datasets.pbmc68k_reduced()
counts = np.expm1(adata.raw.X.toarray().astype(float)) * adata.obs["n_counts"].to_numpy()[:, None] / 1e4
adata.layers["counts"] = counts.round().astype(np.float32)

torch.manual_seed(0)
data = pv.data.load(adata, layer="counts", labels="bulk_labels")
totals = counts.sum(1)
print(
    f"{len(adata)} cells of {adata.n_vars} genes, with totals from {totals.min():.0f} to {totals.max():.0f}"
)
vae = pv.CountVAE(data.event_shapes, latent_dim=10, library="latent")
pv.fit(vae, data, epochs=max(1, int(200 * SIZE)), patience=30)

vae.annotate(adata, layer="counts")
clusters = KMeans(10, n_init=10, random_state=0).fit_predict(adata.obsm["X_vae"])
rand = adjusted_rand_score(adata.obs["bulk_labels"], clusters)
print(f"k-means of the latents and kinds of cells: adjusted Rand index {rand:.2f}")
print(pv.evaluate.log_likelihood(vae, data.test, num_samples=max(2, int(1000 * SIZE))))

Path("figures").mkdir(exist_ok=True)
pv.figures.latents(vae, data.train).savefig("figures/cells.png")
