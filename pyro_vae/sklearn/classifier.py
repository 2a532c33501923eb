"""A classifier that learns from rows with labels and without, under scikit-learn's conventions."""

# scikit-learn's name for data:
# ruff: noqa: N803

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.neighbors import NearestNeighbors
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae import likelihoods, nets
from pyro_vae.checks import Count, NotNegative, check_all
from pyro_vae.data import load
from pyro_vae.families import Family, Of
from pyro_vae.models import SemiSupervisedVAE
from pyro_vae.running import seed_generators
from pyro_vae.sklearn.columns import Columns
from pyro_vae.sklearn.estimator import part, rows_of, seed_of
from pyro_vae.training import Interrupted, fit

REACH = 0.1, 0.25
"""Between which the radius lies, in standard deviations of the columns, root mean square over them."""
NUMBERED = (
    "make numbers of them: make_pipeline(make_column_transformer((OneHotEncoder(), {columns}), "
    "remainder='passthrough'), VAEClassifier())"
)
UNKNOWN = -1
"""The label of rows that have none, as in ``sklearn.semi_supervised``."""


class VAEClassifier(ClassifierMixin, BaseEstimator):
    r"""Classes of rows, learned from those with a label and those without: ``pv.SemiSupervisedVAE``.

    .. math:: p(y)\, p(z)\, p(x \mid z, y), \qquad q(y \mid x)\, q(z \mid x, y), \qquad
        \text{predict\_proba: } q(y \mid x)

    Rows whose label is -1 have none, as in ``sklearn.semi_supervised`` (in texts: an array of dtype object
    that holds the number -1); where but one class would be left, -1 is a class. Columns are standardised,
    those of one unit (most of them have the same least and greatest value, as pixels have) by one number; and
    what lies far outside of those seen is moved nearer. Columns of 0 and 1 alone are Bernoulli, others
    Normal. Values that are NaN are not observed. p(y) is learned, of all rows, as some classes may be rare.

    Args:
        latent_dim: D, the number of latent variables z per row.
        prior: p(z), as ``pv.SemiSupervisedVAE`` takes it, or its text as on the command line.
        likelihood: p(x|z, y) of columns as they are learned, likewise: ``"StudentT"``, ``dist.Laplace``;
            None: as told above.
        guide: the family of q(z|x, y), likewise: ``"FullRankNormal"``.
        hidden_dims: widths of the hidden layers of all networks.
        alpha: weight of the classifier's loss; None: three quarters of the number of columns that vary
            independently, (sum of l)^2 / (sum of l^2) of their covariance's eigenvalues l, so that classes
            which few columns show plainly are not drowned by it.
        radius: how far a row may be moved and is to keep its class, in standard deviations of the columns,
            root mean square over them; None: three eighths of the distance to its tenth nearest row, the
            median over rows, but not below 0.1 nor above 0.25, so that it does not reach past classes that
            lie close.
        epochs: passes over the rows.
        max_steps: gradient steps, though they be fewer passes.
        batch_size: rows per step.
        lr: learning rate at its highest.
        random_state: of the weights, the noise and the order of the data.
        verbose: whether to show progress.

    Attributes:
        vae_: the trained ``pv.SemiSupervisedVAE``, of columns as they are learned.
        classes_: the classes, in the order of their numbers.
        n_features_in_: number of columns of the training data.
        feature_names_in_: their names, where they have any.

    Raises:
        ValueError: as scikit-learn has it; or y has one class, or labels that are None or NA, or texts among
            which is "-1"; or no column of X varies.
        ConfigError: an argument will not do.

    Reference: Kingma, Mohamed, Rezende and Welling, 2014, "Semi-supervised learning with deep generative
    models"; Miyato, Maeda, Koyama and Ishii, 2018, "Virtual adversarial training".

    >>> from sklearn.datasets import load_iris
    >>> x, y = load_iris(return_X_y=True)
    >>> some = np.where(np.arange(150) % 10 == 0, y, -1)
    >>> VAEClassifier(epochs=5, random_state=0).fit(x, some).predict_proba(x).shape
    (150, 3)
    """

    vae_: SemiSupervisedVAE
    classes_: np.ndarray

    def __init__(
        self,
        latent_dim: Count = 5,
        *,
        prior: str | Family | Distribution | type[Family] = "Normal",
        likelihood: str | Family | Of | type[Distribution] | type[Family] | None = None,
        guide: str | Family | Of | type[Distribution] | type[Family] = "Normal",
        hidden_dims: Sequence[Count] = (64,),
        alpha: NotNegative | None = None,
        radius: NotNegative | None = None,
        epochs: Count = 1000,
        max_steps: Count = 1500,
        batch_size: Count = 128,
        lr: float = 3e-3,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool | int = False,
    ):
        self.latent_dim = latent_dim
        self.prior = prior
        self.likelihood = likelihood
        self.guide = guide
        self.hidden_dims = hidden_dims
        self.alpha = alpha
        self.radius = radius
        self.epochs = epochs
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.lr = lr
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> VAEClassifier:
        """Trains on the rows of X ``[N, n_features]`` and their classes y ``[N]``, -1 where not known."""
        fine = check_all(type(self).__init__, self.get_params(deep=False))
        _refuse_missing(y)
        x, y = rows_of(self, X, NUMBERED, y=y, ensure_min_samples=2)
        codes = self._codes(y)
        known = x[~np.isnan(x)]
        self._binary = bool(np.isin(known, (0, 1)).all())
        self._columns = Columns(x, powers=False)
        if not self._columns.varies.any():
            raise ValueError(
                "no column of X varies, so that there is nothing to learn of; give one that does"
            )
        self._one_unit = one_unit(x[:, self._columns.varies])
        self.vae_ = self._train(x, codes, seed_of(self.random_state), fine)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """q(y|x) of each row of X ``[N, n_features]``, ``[N, K]``."""
        check_is_fitted(self)
        x = torch.tensor(self._learned(rows_of(self, X, NUMBERED, reset=False)))
        probabilities: np.ndarray = self.vae_.classify(x).cpu().numpy()
        return probabilities

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each row of X ``[N, n_features]``, ``[N]``."""
        best = self.predict_proba(X).argmax(1)
        predicted: np.ndarray = self.classes_[best]
        return predicted

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy on the rows of X ``[N, n_features]`` whose label in y ``[N]`` is known.

        Raises:
            ValueError: no label is.
        """
        predicted, y = self.predict(X), np.asarray(y)
        known = _known(y) if UNKNOWN not in self.classes_.tolist() else np.ones(len(y), bool)
        if not known.any():
            raise ValueError(
                "no row has a label (all are -1), so that there is no accuracy; give some that have"
            )
        weights = None if sample_weight is None else np.asarray(sample_weight)[known]
        told = np.array(y[known].tolist()) if y.dtype == object else y[known]
        return float(accuracy_score(told, predicted[known], sample_weight=weights))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _codes(self, y: np.ndarray) -> Tensor:
        """The number of each row's class, NaN where it is not known, ``[N]``."""
        known = _known(y)
        plain = np.array(y[known].tolist()) if y.dtype == object and all(map(np.isscalar, y)) else y
        if plain.dtype.kind in "biu" and y.dtype == object:  # as which scikit-learn refuses them
            y = np.full(len(y), UNKNOWN if plain.dtype.kind == "i" else 0, plain.dtype)
            y[known] = plain
        kinds = {isinstance(label, str) for label in y[known].tolist()}
        if len(kinds) > 1:
            raise ValueError(
                "y has classes that are texts and others that are not; give texts alone, beside the number "
                "-1: np.where(known, y.astype(str).astype(object), -1)"
            )
        check_classification_targets(y[known] if known.any() else y)
        classes = np.unique(y[known])
        if len(classes) > 2 and str(UNKNOWN) in classes.tolist():
            raise ValueError(
                "y is of texts, and '-1' among them would be a class; where there is no label give the "
                "number: np.where(known, names.astype(object), -1)"
            )
        if len(classes) == 1 and not known.all() and y.dtype != object:
            known, classes = np.ones(len(y), bool), np.unique(y)
        if len(classes) < 2:
            raise ValueError(
                f"y has one class, or none ({classes.tolist()}), beside rows without a label (-1); give at "
                "least one row of each of two classes"
            )
        self.classes_ = classes
        codes = torch.full((len(y),), math.nan)
        codes[torch.from_numpy(known)] = torch.from_numpy(np.searchsorted(classes, y[known])).float()
        return codes

    def _learned(self, x: np.ndarray) -> np.ndarray:
        """Rows ``[N, n_features]`` as they are learned, ``[N, n_varying]``, as images if of one unit."""
        if self._binary:
            return x[:, self._columns.varies]
        learned = self._columns.learned(x)
        if not self._one_unit:
            return learned
        std = self._columns.unit.scale_
        return (learned * (std / np.sqrt(np.square(std).mean())))[:, None]

    def _likelihood(self) -> Any:
        """Of columns of one unit one scale, too: else those that hardly vary would count as the others."""
        if self.likelihood is not None:
            return part("likelihood", self.likelihood)
        if self._binary:
            return likelihoods.Bernoulli()
        return likelihoods.Normal(scale="shared" if self._one_unit else "per_element")

    def _train(self, x: np.ndarray, codes: Tensor, seed: int, fine: Mapping[str, Any]) -> SemiSupervisedVAE:
        values = torch.tensor(self._learned(x), dtype=torch.float32)
        data = load({"x": values, "y": codes}, validation=0.0, test=0.0)
        net = nets.mlp(*fine["hidden_dims"])
        rows = np.nan_to_num(values.flatten(1).double().numpy() - np.nanmean(values.flatten(1), 0))
        rows /= np.sqrt(np.square(rows).mean())
        with torch.random.fork_rng([]):
            seed_generators(seed, torch.device("cpu"))
            vae = SemiSupervisedVAE(
                tuple(values.shape[1:]),
                num_classes=len(self.classes_),
                latent_dim=fine["latent_dim"],
                alpha=0.75 * independent(rows) if fine["alpha"] is None else fine["alpha"],
                radius=reach(rows) if fine["radius"] is None else fine["radius"],
                balanced=False,
                features=0,
                prior=part("prior", fine["prior"]),
                likelihood=self._likelihood(),
                guide=part("guide", fine["guide"]),
                classifier=net,
                encoder=net,
                decoder=net,
            )
        batches = math.ceil((len(values) + len(vae.again(data.train))) / fine["batch_size"])
        try:
            fit(
                vae,
                data,
                epochs=min(fine["epochs"], math.ceil(fine["max_steps"] / batches)),
                batch_size=fine["batch_size"],
                lr=fine["lr"],
                compile=False,
                device="cpu",
                seed=seed,
                progress=bool(self.verbose),
            )
        except Interrupted:  # which tells how to keep a run
            raise KeyboardInterrupt from None
        return vae.double()


def _known(y: np.ndarray) -> np.ndarray:
    """Which labels are not the number -1, ``[N]``."""
    return np.array([label != UNKNOWN for label in y.tolist()])


def _refuse_missing(y: Any) -> None:
    """Refuses labels that are None, NaN or NA, where scikit-learn has -1.

    Raises:
        ValueError: telling what to give in their place.
    """
    labels = np.asarray(y, dtype=object)
    if labels.ndim == 1 and any(
        label is None or type(label).__name__ == "NAType" or label != label for label in labels
    ):
        raise ValueError(
            "Input y contains NaN, None or NA; a label that is not known is -1 here: "
            "np.where(pandas.isna(y), -1, y)"
        )


def one_unit(x: np.ndarray) -> bool:
    """Whether most columns of ``[N, n_features]`` have the same least value, and the same greatest one."""
    ends = np.nanmin(x, 0), np.nanmax(x, 0)
    return all((end == np.median(end)).mean() > 0.5 for end in ends)


def independent(rows: np.ndarray) -> float:
    """How many columns of ``[N, D]``, centred, vary independently: from 1 to D."""
    products = rows.T @ rows if rows.shape[1] < len(rows) else rows @ rows.T
    return float(np.trace(products) ** 2 / np.square(products).sum())


def reach(rows: np.ndarray) -> float:
    """How far rows ``[N, D]``, of variance 1, may be moved and be taken for the same, per column."""
    some = rows[:: math.ceil(len(rows) / 1000)]
    search = NearestNeighbors(n_neighbors=min(11, len(rows))).fit(rows)
    distance = np.median(search.kneighbors(some)[0][:, -1]) / math.sqrt(rows.shape[1])
    return float(np.clip(3 / 8 * distance, *REACH))
