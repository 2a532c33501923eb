"""AnnData: cells by genes, as biologists keep them, as counts whose genes are known."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.data.arrays import Sites, classes
from pyro_vae.data.columns import Column, Columns
from pyro_vae.data.source import DataError, memory, reason, shown

SUFFIXES = (".h5ad",)


def is_anndata(data: Any) -> bool:
    """Whether it is an AnnData, or a view of one."""
    return all(hasattr(data, name) for name in ("X", "layers", "obs", "obsm", "var_names"))


def read_cells(path: Path) -> Any:
    """The AnnData of a ``.h5ad`` file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        anndata = importlib.import_module("anndata")
    except ImportError as error:
        raise DataError(f"{path} needs anndata: pip install 'pyro_vae[cells]'") from error
    try:
        return anndata.read_h5ad(path)
    except Exception as error:  # whatever the readers of damaged files raise
        raise DataError(
            f"{path} cannot be read as an AnnData ({reason(error)}); write it anew: adata.write_h5ad(path)"
        ) from error


def cells(
    adata: Any, layer: str | None = None, batch_key: str | None = None, labels: Any = None
) -> tuple[Sites, Columns]:
    """The counts of each cell, site ``x`` ``[N, G]``, with the names of the genes.

    Args:
        adata: of N cells and G genes.
        layer: that holds counts; by default they are ``adata.X``.
        batch_key: column of ``adata.obs`` that says of which batch a cell is, site ``batch``: those that are
            no numbers are numbered from 0 in the order of their names.
        labels: column of ``adata.obs`` that is the class of each cell, or classes ``[N]``; site ``y``.

    Raises:
        DataError: there are no counts, or no such layer or column, or genes of one name; and what to do.
    """
    names = [str(name) for name in adata.var_names]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"two genes are called {shown(twice)}; rename them: adata.var_names_make_unique()")
    values: dict[str, Any] = {"x": _counts(adata, layer)}
    if batch_key is not None:
        values["batch"] = classes(_column(adata, "batch_key", batch_key))[0]
    if isinstance(labels, str):
        labels = _column(adata, "labels", labels)
    return Sites(values, labels), Columns({name: Column("count", "int64") for name in names})


def _counts(adata: Any, layer: str | None) -> np.ndarray:
    if layer is not None and layer not in adata.layers:
        raise DataError(f"layer={shown(layer)} is none of the layers of the AnnData, {_list(adata.layers)}")
    size = 4 * adata.n_obs * adata.n_vars
    if size > memory():
        raise DataError(
            f"{adata.n_obs} cells of {adata.n_vars} genes would take {size / 2**30:.3g} GiB, which is too "
            "much; take the genes that vary most: scanpy.pp.highly_variable_genes(adata, n_top_genes=2000, "
            'flavor="seurat_v3"), adata[:, adata.var.highly_variable]'
        )
    held = adata.to_memory() if getattr(adata, "isbacked", False) else adata
    x = held.X if layer is None else held.layers[layer]
    where = "adata.X" if layer is None else f"layer {shown(layer)}"
    if x is None or 0 in x.shape:
        raise DataError(f"{where} is empty; give one cell and one gene at least")
    sparse = hasattr(x, "toarray")
    found = np.asarray(x.data if sparse else x)
    with np.errstate(invalid="ignore"):
        wrong = ~np.isnan(found) & ((found < 0) | (found != np.round(found)) | np.isinf(found))
    if wrong.any():
        raise DataError(
            f"{where} holds {found[wrong].flat[0]:g} among its values, which is no count: it was normalised, "
            f"say, and a model of counts needs them as they were; {_elsewhere(held, layer)}"
        )
    counts = (x.astype(np.float32).toarray() if sparse else found).astype(np.float32)
    without = np.nansum(counts, 1) == 0
    if without.any():
        first = shown(str(adata.obs_names[int(without.argmax())]))
        raise DataError(
            f"{int(without.sum())} of {len(counts)} cells, first {first}, have no count at all; leave them "
            "out: scanpy.pp.filter_cells(adata, min_counts=1)"
        )
    return counts


def _elsewhere(adata: Any, layer: str | None) -> str:
    """Where counts may be."""
    others = [name for name in adata.layers if name != layer]
    places = [f"in a layer, layer={shown(others[0])} (there are {_list(others)})"] if others else []
    if getattr(adata, "raw", None) is not None:
        places.append("in adata.raw, pv.data.load(adata.raw.to_adata())")
    return f"they may be {' or '.join(places)}" if places else "load the file that the counts came in"


def _column(adata: Any, argument: str, name: str) -> np.ndarray:
    if name not in adata.obs:
        raise DataError(
            f"{argument}={shown(name)} is no column of adata.obs; it has {_list(adata.obs.columns)}"
        )
    return np.asarray(adata.obs[name].to_numpy(), object)


def _list(names: Any) -> str:
    names = list(map(str, names))
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "") or "none"
