"""Whether each latent stands for one factor of variation, where the factors are known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.checks import Seed, checked, found
from pyro_vae.data import DataError
from pyro_vae.evaluate.probes import continuous
from pyro_vae.evaluate.shown import table

BINS, TREES = 20, 50


@dataclass(frozen=True)
class Disentanglement:
    """Five scores from 0 to 1, of D latents and F factors.

    Attributes:
        mig: the mutual information gap.
        sap: the separated attribute predictability.
        disentanglement: of DCI: whether each latent is of use for one factor.
        completeness: of DCI: whether each factor is told by one latent.
        informativeness: of DCI: how well all latents tell a factor: held-out accuracy, or R^2 of numbers.
        mutual_information: of each latent and factor, ``[D, F]``, nats.
        scores: how well each latent tells each factor by itself, ``[D, F]``, those of SAP.
        importance: of each latent for each factor, ``[D, F]``, that of DCI; columns sum to 1.
        factors: their names.
    """

    mig: float
    sap: float
    disentanglement: float
    completeness: float
    informativeness: float
    mutual_information: Tensor = field(repr=False)
    scores: Tensor = field(repr=False)
    importance: Tensor = field(repr=False)
    factors: tuple[str, ...] = ()

    def __str__(self) -> str:
        return (
            f"MIG {self.mig:.3f}, SAP {self.sap:.3f}, DCI: disentanglement {self.disentanglement:.3f}, "
            f"completeness {self.completeness:.3f}, informativeness {self.informativeness:.3f} "
            f"({len(self.importance)} latents, {len(self.factors)} factors)"
        )

    def _repr_html_(self) -> str:
        names = ("mig", "sap", "disentanglement", "completeness", "informativeness")
        rows = {name.upper() if len(name) == 3 else name: getattr(self, name) for name in names}
        return table(f"{len(self.importance)} latents, {len(self.factors)} factors, from 0 to 1", rows, {})


@checked
def disentanglement(
    codes: Tensor | np.ndarray,
    factors: Tensor | np.ndarray | Mapping[str, Any],
    *,
    seed: Seed = 0,
) -> Disentanglement:
    r"""Holds latents against the factors that the data were made of.

    With I(d, f) the mutual information of a latent, in 20 bins of equal width, and a factor of entropy H(f),

    .. math:: \mathrm{MIG} = \frac1F \sum_f \frac{I(d_1, f) - I(d_2, f)}{H(f)}

    with d_1 and d_2 those of which it is largest. SAP is the same gap of how well a latent tells a factor by
    itself: the held-out accuracy of a linear classifier, for numbers the squared correlation. DCI asks
    trees, which predict a factor from all latents, for the share :math:`R_{df}` that each had:

    .. math:: \text{disentanglement} = \sum_d \rho_d \Bigl(1 - \frac{H(R_{d\cdot})}{\log F}\Bigr), \qquad
        \text{completeness} = \frac1F \sum_f \Bigl(1 - \frac{H(R_{\cdot f})}{\log D}\Bigr)

    with rows of R normalised in H, and :math:`\rho` their share of the whole. What is predicted is held out:
    one half of the data. MIG and SAP are 0 of a factor that two latents tell equally well; all of them are
    upset by a rotation of the latents.

    Args:
        codes: of N data ``[N, D]``, such as ``anatomy(...).sites["z"].codes``; two or more latents.
        factors: ``[N, F]``, or ``[N]`` each by name: classes, or numbers, of which some are not whole.
        seed: of the halves, and of the trees.

    Raises:
        DataError: shapes do not fit together, there are fewer than two latents, or a factor does not vary, or
            is not known of all data; or some are infinite.

    Reference: Chen, Li, Grosse and Duvenaud, 2018, "Isolating sources of disentanglement in variational
    autoencoders"; Kumar, Sattigeri and Balakrishnan, 2018, "Variational inference of disentangled latent
    concepts from unlabeled observations"; Eastwood and Williams, 2018, "A framework for the quantitative
    evaluation of disentangled representations".
    """
    z = torch.as_tensor(codes).detach().double().cpu().numpy()
    columns, names = _columns(factors)
    if z.ndim != 2 or z.shape[1] < 2 or any(len(y) != len(z) for y in columns) or len(z) < 4:
        raise DataError(
            f"codes of shape {list(z.shape)} and factors of shapes {[list(y.shape) for y in columns]} must "
            "be [N, D] and [N] each, with D of 2 or more"
        )
    if not np.isfinite(z).all():
        raise DataError(
            f"codes of {(~np.isfinite(z)).any(1).sum()} of {len(z)} data are not finite; leave these data out"
        )
    for name, y in zip(names, columns, strict=True):
        if not -math.inf < y.min() < y.max() < math.inf:
            raise DataError(
                f"factor {name} ranges over [{y.min():g}, {y.max():g}]; leave out factors that do not vary, "
                "and data of which one is not known (NaN), or infinite"
            )
    order = np.random.default_rng(seed).permutation(len(z))
    halves = order[: len(z) // 2], order[len(z) // 2 :]
    binned = np.stack([_bins(column) for column in z.T], 1)
    parts = [_of_factor(z, binned, y, halves, seed) for y in columns]
    information, scores, importance = (np.stack(rows, 1) for rows in list(zip(*parts, strict=True))[:3])
    entropies, told = (np.array(values) for values in list(zip(*parts, strict=True))[3:])
    by_latent, share = _focus(importance)
    by_factor, _ = _focus(importance.T)
    return Disentanglement(
        float((_gap(information) / entropies).mean()),
        float(_gap(scores).mean()),
        float(share @ by_latent),
        float(by_factor.mean()),
        float(told.mean()),
        torch.as_tensor(information),
        torch.as_tensor(scores),
        torch.as_tensor(importance),
        names,
    )


def _of_factor(
    z: np.ndarray, binned: np.ndarray, y: np.ndarray, halves: tuple[np.ndarray, np.ndarray], seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float]:
    """Mutual information, score and importance of each latent, ``[D]``; entropy; and how well all tell it."""
    from sklearn import ensemble, metrics, svm

    train, test = halves
    numbers = continuous(torch.as_tensor(y))
    classes = _bins(y) if numbers else y
    information = np.array([metrics.mutual_info_score(classes, column) for column in binned.T])
    if numbers:
        scores = np.array([np.corrcoef(column, y)[0, 1] ** 2 if column.std() else 0.0 for column in z.T])
    else:
        separate = svm.LinearSVC(C=0.01, class_weight="balanced", random_state=seed)
        known = len(np.unique(y[train])) > 1
        scores = np.array(
            [
                separate.fit(c[train], y[train]).score(c[test], y[test]) if known else 0.0
                for c in z.T[..., None]
            ]
        )
    kind = ensemble.RandomForestRegressor if numbers else ensemble.RandomForestClassifier
    # Every split may choose among all latents: those that tell nothing are then not chosen.
    forest = kind(TREES, max_features=None, random_state=seed).fit(z[train], y[train])
    told = forest.score(z[test], y[test])
    return information, scores, forest.feature_importances_, metrics.mutual_info_score(classes, classes), told


def _bins(values: np.ndarray) -> np.ndarray:
    """The number of the bin of each value, of bins of equal width."""
    return np.digitize(values, np.histogram(values, BINS)[1][:-1])


def _gap(matrix: np.ndarray) -> np.ndarray:
    """By column the largest less the second largest."""
    first, second = np.sort(matrix, 0)[:-3:-1]
    return first - second


def _focus(importance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each row 1 less its entropy, in units of that of equal shares; and its share of the whole."""
    from scipy.stats import entropy

    share = importance.sum(1) / (importance.sum() or 1.0)  # none has any if no tree could be split
    if importance.shape[1] < 2:
        return np.ones(len(importance)), share
    return 1 - entropy(importance.T + 1e-11) / math.log(importance.shape[1]), share


def _columns(factors: Any) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Each factor, and its name.

    Raises:
        DataError: there is none, or they are no numbers.
    """
    if not isinstance(factors, Mapping) and np.ndim(factors) == 2:
        factors = {str(i): factors[:, i] for i in range(factors.shape[1])}
    try:
        columns = [torch.as_tensor(column).detach().double().cpu().numpy() for column in factors.values()]
    except (AttributeError, TypeError, ValueError, RuntimeError):
        columns = []
    if not columns:
        raise DataError(
            f"factors={found(factors)} must be numbers [N, F], or a mapping from names to [N] each"
        )
    return columns, tuple(factors)
