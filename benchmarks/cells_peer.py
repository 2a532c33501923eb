"""scvi-tools' SCVI, in a process and an environment of its own, for ``cells.py``.

    PYTHON benchmarks/cells_peer.py FOLDER

reads ``FOLDER/cells.npz`` (counts of training and of held-out cells, seed, most epochs), and writes
``FOLDER/found.npz``: of each way of training log p(x) of the held-out cells by scvi-tools' own importance
sampling, the latents' means of all, and the processor's seconds of training.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

NAMES = {
    "scvi-tools": ("latent", True),
    "scvi-tools, observed total": ("observed", True),
    "scvi-tools, observed total, trained as it comes": ("observed", False),
}
"""Whether totals are latent, and whether it is trained as this package's models are: see ``trained``."""


def trained(counts: Any, epochs: int, library: str, alike: bool, folder: Path) -> Any:
    """SCVI at its defaults but for the totals.

    Trained as it comes are all epochs, over which the KL's weight rises from 0. Trained alike, that is 1 from
    the first, training stops as ours does, and the best weights are restored.
    """
    from scvi.model import SCVI
    from scvi.train import SaveCheckpoint

    SCVI.setup_anndata(counts)
    model = SCVI(counts, use_observed_lib_size=library == "observed")
    options: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}
    if alike:
        best = SaveCheckpoint(str(folder), monitor="elbo_validation", load_best_on_end=True)
        options |= {"early_stopping": True, "early_stopping_patience": 45, "callbacks": [best]}
        options |= {"plan_kwargs": {"n_epochs_kl_warmup": None}, "enable_checkpointing": True}
    model.train(epochs, **options)
    return model


def main() -> None:
    """Answers one split."""
    import scvi
    from anndata import AnnData

    folder = Path(sys.argv[1])
    given = np.load(folder / "cells.npz")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    scvi.settings.verbosity = logging.ERROR
    found: dict[str, Any] = {}
    for number, (name, (library, alike)) in enumerate(NAMES.items()):
        train, test = AnnData(given["train"]), AnnData(given["test"])
        scvi.settings.seed = int(given["seed"])
        began = time.process_time()
        at = folder / str(number)
        model = trained(train, int(given["epochs"]), library, alike, at)
        found[f"{name}/seconds"] = time.process_time() - began
        options = {"n_mc_samples": 1000, "n_mc_samples_per_pass": 50, "return_mean": False}
        found[f"{name}/log_p"] = np.asarray(model.get_marginal_ll(test, **options))
        found[f"{name}/train"], found[f"{name}/test"] = map(model.get_latent_representation, (train, test))
    np.savez(folder / "found.npz", **found)


if __name__ == "__main__":
    main()
