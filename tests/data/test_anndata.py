"""Cells by genes: counts, batches and labels from an AnnData, and what is written back."""

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.data import DataError
from pyro_vae.models.count_vae import CountVAE

anndata = pytest.importorskip("anndata")
pandas = pytest.importorskip("pandas")
sparse = pytest.importorskip("scipy.sparse")

N, G = 60, 5


def made(**changes):
    random = np.random.default_rng(0)
    counts = random.poisson(3.0, (N, G)) + np.eye(N, G, dtype=int)
    obs = {"donor": random.choice(["b", "a", "c"], N), "type": random.choice(["T", "B"], N)}
    adata = anndata.AnnData(
        np.log1p(counts).astype("f4"),
        obs=pandas.DataFrame(obs, index=[f"cell{i}" for i in range(N)]).astype("category"),
        var=pandas.DataFrame(index=[f"gene{j}" for j in range(G)]),
        layers={"counts": sparse.csr_matrix(counts.astype("f4"))} | changes,
    )
    return adata, counts


OPTIONS = {"layer": "counts", "batch_key": "donor", "labels": "type"}


def test_counts_batches_and_labels():
    adata, counts = made()
    data = pv.data.load(adata, **OPTIONS)
    assert [*data.columns] == [f"gene{j}" for j in range(G)]
    assert data.event_shape == (G,)
    assert data.class_names == ("B", "T")
    codes = {"a": 0, "b": 1, "c": 2}
    known = {
        (*row, codes[donor], "BT".index(kind))
        for row, donor, kind in zip(counts.tolist(), adata.obs["donor"], adata.obs["type"], strict=True)
    }
    assert len(data.train) + len(data.validation) + len(data.test) == N
    for split in (data.train, data.validation, data.test):
        batch = split.batch(slice(0, N))
        assert batch["batch"].dtype == torch.int64
        rows = torch.cat([batch["x"], batch["batch"][:, None], batch["y"][:, None]], 1).int().tolist()
        assert {tuple(row) for row in rows} <= known
    assert pv.data.load(adata[:, :3], layer="counts").event_shape == (3,)  # a view


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_matrix", "csr_array", "dense"])
def test_sparse_and_dense_are_one(kind, tmp_path):
    _, counts = made()
    x = counts.astype("f4") if kind == "dense" else getattr(sparse, kind)(counts.astype("f4"))
    adata = made()[0]
    adata.X = x
    direct = pv.data.load(adata)
    np.testing.assert_array_equal(direct.train[:], counts[_rows(direct.train)])
    adata.write_h5ad(tmp_path / "cells.h5ad")
    for again in (
        pv.data.load(tmp_path / "cells.h5ad"),
        pv.data.load(anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")),
    ):
        assert again.fingerprint == direct.fingerprint


def _rows(split):
    counts = made()[1].tolist()
    return [counts.index(row) for row in split[:].int().tolist()]


def test_a_file_is_found_again(tmp_path):
    adata, _ = made()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    data = pv.data.load(tmp_path / "cells.h5ad", **OPTIONS)
    assert data.name == "cells"
    assert pv.data.load(**data.config).fingerprint == data.fingerprint
    assert pv.data.load(adata, **OPTIONS).config["data"] is None


def test_other_models_take_them():
    data = pv.data.load(made()[0], **OPTIONS)
    nets = {"encoder": pv.nets.mlp(4), "decoder": pv.nets.mlp(4)}
    for program in (
        pv.VAE(data.event_shapes, 2, likelihood="auto", **nets),
        pv.ConditionalVAE(data.event_shapes, given={"batch": 3}, likelihood="auto", **nets),
    ):
        pv.fit(program, data, epochs=1, progress=False)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (None, {}, r"adata\.X holds 1\.\d+ .*no count.*layer='counts' \(there are counts\)"),
        (None, {"layer": "count"}, r"layer='count' is none of the layers.*counts"),
        (None, {"layer": "counts", "batch_key": "batch"}, r"batch_key='batch' is no column.*donor, type"),
        (None, {"layer": "counts", "labels": "kind"}, r"labels='kind' is no column.*donor, type"),
        ("negative", {"layer": "counts"}, r"layer 'counts' holds -1 "),
        ("raw", {}, r"adata\.raw\.to_adata"),
        ("twice", {"layer": "counts"}, r"two genes are called 'gene1'.*var_names_make_unique"),
        ("empty cell", {"layer": "counts"}, r"1 of 60 cells, first 'cell7'.*filter_cells"),
        ("infinite", {"layer": "counts"}, r"holds inf "),
        ("large", {"layer": "counts"}, r"GiB, which is too much.*highly_variable"),
    ],
)
def test_refused(monkeypatch, change, options, message):
    adata, counts = made()
    if change in ("negative", "infinite"):
        counts = counts.astype("f4")
        counts[3, 1] = -1 if change == "negative" else np.inf
        adata.layers["counts"] = counts
    elif change == "raw":
        adata.raw = adata
    elif change == "twice":
        adata.var_names = ["gene0", "gene1", "gene1", "gene2", "gene3"]
    elif change == "empty cell":
        counts[7] = 0
        adata.layers["counts"] = counts
    elif change == "large":
        monkeypatch.setattr("pyro_vae.data.anndata.memory", lambda: 1000)
    with pytest.raises(DataError, match=message):
        pv.data.load(adata, **options)


def test_layers_are_of_cells_alone():
    with pytest.raises(DataError, match="AnnData"):
        pv.data.load(torch.rand(10, 3), batch_key="donor")
    with pytest.raises(DataError, match="cannot be read as an AnnData"):
        pv.data.load("none.h5ad")


@pytest.mark.parametrize("library", ["observed", "latent"])
def test_annotate(library):
    """In the order of the cells, at each cell's total: means sum to it, whatever the split."""
    adata, counts = made()
    data = pv.data.load(adata, **OPTIONS)
    nets = {"encoder": pv.nets.mlp(4), "decoder": pv.nets.mlp(4)}
    vae = CountVAE(data.event_shapes, given={"batch": 3}, latent_dim=2, library=library, **nets)
    with pytest.raises(DataError, match="needs batch"):
        vae.annotate(adata, layer="counts")
    pv.fit(vae, data, epochs=1, progress=False)
    vae.annotate(adata, layer="counts", batch_key="donor")
    np.testing.assert_allclose(adata.layers["denoised"].sum(1), counts.sum(1), rtol=1e-5)
    with torch.no_grad():
        batch = torch.tensor(["abc".index(donor) for donor in adata.obs["donor"]])
        z = vae.encode(torch.tensor(counts, dtype=torch.float32), batch).mean
    np.testing.assert_allclose(adata.obsm["X_vae"], z, rtol=1e-5)
    with pytest.raises(DataError, match="4 genes"):
        vae.annotate(adata[:, :4].copy(), layer="counts", batch_key="donor")
    with pytest.raises(DataError, match="numbers may be others"):
        vae.annotate(adata[adata.obs["donor"] != "a"].copy(), layer="counts", batch_key="donor")
