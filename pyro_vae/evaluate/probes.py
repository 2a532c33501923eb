"""What simple classifiers and regressions read from the latents' means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.evaluate.shown import standard_error

FOLDS, NEIGHBOURS = 5, 10


@dataclass(frozen=True)
class Probe:
    """How well labels are told from the means of a site's latents, over data that were held out.

    Attributes:
        linear: accuracy of a logistic regression; of numbers R^2 of a ridge regression.
        neighbours: likewise of the 10 nearest neighbours.
        chance: what the most frequent class alone has; of numbers 0, that of their mean.
        standard_errors: of the first two, by name, over the data.
        num_data: those whose labels are known, and of classes of 5 data or more.
        continuous: whether labels are numbers.
        num_left_out: data whose label is known, but is one of fewer than 5.
    """

    linear: float
    neighbours: float
    chance: float
    standard_errors: dict[str, float]
    num_data: int
    continuous: bool
    num_left_out: int = 0

    def __str__(self) -> str:
        what = "R^2 of the labels" if self.continuous else "accuracy of the labels"
        told = [
            f"{name} {value:.3f} ± {self.standard_errors[key]:.3f}"
            for name, key, value in (
                ("linear probe", "linear", self.linear),
                (f"{NEIGHBOURS} nearest neighbours", "neighbours", self.neighbours),
            )
        ]
        left = f"; {self.num_left_out} data left out, of classes of fewer than {FOLDS}" * bool(
            self.num_left_out
        )
        return f"{what}: {', '.join(told)} (chance {self.chance:.3f}, {FOLDS} folds{left})"


def continuous(labels: Tensor) -> bool:
    """Whether labels are numbers, and no classes: some are not whole."""
    known = labels[~labels.isnan()] if labels.is_floating_point() else labels
    return bool((known != known.round()).any())


def probe(codes: Tensor, labels: Tensor, seed: int) -> Probe | None:
    """A probe of latents ``[N, D]`` by cross-validation; None if there is nothing to tell apart."""
    from sklearn import linear_model, neighbors
    from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict

    numbers = continuous(labels)
    known = ~torch.as_tensor(labels).double().isnan()
    labelled = int(known.sum())
    if not numbers:
        _, inverse, counts = labels.unique(return_inverse=True, return_counts=True)
        known &= (counts >= FOLDS)[inverse]
    y = labels[known].numpy()
    codes = codes[known]
    if len(np.unique(y)) < 2 or len(y) < 2 * FOLDS:
        return None
    # One unit for all latents: in units of their own, those that carry nothing would count as much.
    unit = codes.var(0).mean().sqrt()
    z = ((codes - codes.mean(0)) / torch.where(unit > 0, unit, 1.0)).numpy()
    nearest = min(NEIGHBOURS, len(y) - len(y) // FOLDS - 1)
    if numbers:
        models: list[Any] = [linear_model.Ridge(), neighbors.KNeighborsRegressor(nearest)]
        folds: Any = KFold(FOLDS, shuffle=True, random_state=seed)
    else:
        models = [linear_model.LogisticRegression(max_iter=1000), neighbors.KNeighborsClassifier(nearest)]
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    scores = []
    for model in models:
        told = cross_val_predict(model, z, y, cv=folds)
        score = 1 - (y - told) ** 2 / y.var() if numbers else told == y
        scores.append(torch.as_tensor(score).double())
    chance = 0.0 if numbers else float(np.unique(y, return_counts=True)[1].max() / len(y))
    errors = dict(zip(("linear", "neighbours"), map(standard_error, scores), strict=True))
    return Probe(
        scores[0].mean().item(), scores[1].mean().item(), chance, errors, len(y), numbers, labelled - len(y)
    )
