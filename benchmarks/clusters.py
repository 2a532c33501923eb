"""No labels: are the clusters that are found the classes?

    python benchmarks/clusters.py
    python benchmarks/clusters.py --mnist DIR --number 10000 --epochs 30

prints a table, of digits or MNIST: accuracy (clusters and classes matched one to one) and NMI over seeds, of
a VAE whose prior is a learned mixture of ten Normals (``evaluate.clusters``), of the same whose networks were
trained under a Normal prior for half of the epochs, and whose components then start at k-means of its latents
(as in Jiang et al., 2017, "Variational deep embedding"), of one whose latent is a choice among ten, and of
k-means: of pixels, and of the latents' means of a VAE with a Normal prior. All are measured on the data they
were trained on, whose labels they do not see, as is usual for clusters; so is the ELBO.
"""

from __future__ import annotations

import argparse
import math
import time
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans

import pyro_vae as pv
from pyro_vae.evaluate.clusters import match

KINDS = ("mixture prior", "mixture from k-means", "one of ten", "k-means of latents", "k-means of pixels")


def measure(kind: str, data: Any, seed: int, latent_dim: int, width: int, epochs: int) -> dict[str, float]:
    """Accuracy, NMI, ELBO and seconds of one kind under one seed."""
    began, train = time.monotonic(), data.train
    torch.manual_seed(seed)
    elbo, settings = math.nan, {"batch_size": 100, "lr": 2e-3, "seed": seed, "progress": False}

    def make(number: int, prior: Any) -> pv.VAE:
        net = pv.nets.mlp(width)
        return pv.VAE(data.event_shape, number, prior=prior, encoder=net, decoder=net)

    codes, halves = train[:].flatten(1), kind == "mixture from k-means"
    if kind in ("k-means of latents", "mixture from k-means"):
        vae = make(latent_dim, pv.priors.Normal())
        elbo = pv.fit(vae, data, epochs=epochs // (1 + halves), **settings).history[-1]["elbo"]
        with torch.no_grad():
            codes = vae.encode(train[:]).mean
    if kind.startswith("k-means") or halves:
        nearest = KMeans(10, n_init=3, random_state=seed).fit(codes.numpy())
        labels = torch.from_numpy(nearest.labels_).long()
        accuracy, nmi, *_ = match(labels, train.labels.double(), 10)
    if not kind.startswith("k-means"):
        one = kind == "one of ten"
        mixture = pv.priors.OneHotCategorical(10) if one else pv.priors.MixtureOfNormals(10)
        new = make(10 if one else latent_dim, mixture)
        if halves:
            new.q_z.load_state_dict(vae.q_z.state_dict())
            new.p_x.load_state_dict(vae.p_x.state_dict())
            centres = torch.from_numpy(nearest.cluster_centers_)
            new.p_z.family.initialize(centres, codes.mean(0), (codes - centres[labels]).std(0))
            epochs -= epochs // 2
        elbo = pv.fit(new, data, epochs=epochs, **settings).history[-1]["elbo"]
        found = pv.evaluate.clusters(new, train, num_samples=20)
        accuracy, nmi = found.accuracy, found.nmi
    return {"accuracy": accuracy, "NMI": nmi, "ELBO": elbo, "seconds": time.monotonic() - began}


def main() -> None:
    """Prints what each seed gives, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mnist", metavar="DIR", help="MNIST, in this folder, in place of digits")
    parser.add_argument("--number", type=int, default=60_000, help="of training images")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(3)))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--latent-dim", type=int, default=6)
    parser.add_argument("--width", type=int, default=128, help="of the hidden layer of encoder and decoder")
    parser.add_argument("--epochs", type=int, default=60)
    given = parser.parse_args()
    whole = pv.data.load("mnist" if given.mnist else "digits", data_dir=given.mnist, validation=0.0).train
    x, y = whole[: given.number], whole.labels[: given.number]
    data = pv.data.load(x, labels=y, binarize="dynamic", validation=0.0, test=0.0)
    print("| | accuracy | NMI | ELBO | seconds |\n| --- | ---: | ---: | ---: | ---: |", flush=True)
    for kind in given.kinds:
        rows = [
            measure(kind, data, seed, given.latent_dim, given.width, given.epochs) for seed in given.seeds
        ]
        columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        told = [f"{columns[name].mean():.3f} ± {columns[name].std():.3f}" for name in ("accuracy", "NMI")]
        elbo, seconds = columns["ELBO"].mean(), columns["seconds"].mean()
        print(f"| {kind} | {' | '.join(told)} | {elbo:.2f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
