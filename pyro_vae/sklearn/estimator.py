"""The VAE as a scikit-learn estimator: one object that is a transformer, a density and a generator."""

# scikit-learn's name for data:
# ruff: noqa: N803

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, DensityMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d, validate_data
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae import evaluate, nets, registry
from pyro_vae.checks import Count, check, check_all
from pyro_vae.data import DataError, Split, load
from pyro_vae.data.columns import Columns, few
from pyro_vae.data.source import shown
from pyro_vae.data.tables import as_pandas, is_frame, table
from pyro_vae.distributions import centre
from pyro_vae.families import Family, Of
from pyro_vae.models import VAE, ConditionalVAE
from pyro_vae.objectives import importance_weighted_bound, log_weights
from pyro_vae.running import seed_generators
from pyro_vae.training import Interrupted, Settings, fit

BATCH_SIZE = 1000
"""Rows that go through a network at once, after training."""


class VAEEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, BaseEstimator):
    r"""A VAE under scikit-learn's conventions, for pipelines and searches.

    .. math::

        \text{transform: } E_{q(z|x)}[z], \qquad \text{inverse\_transform: } E_{p(x|z)}[x], \qquad
        \text{score\_samples: } \log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k|x)}, \; z_k \sim q(z|x)

    Trained in single precision, and in double precision from then on. What comes of a datum does not depend
    on the data beside it. Where there is no mean, the median or mode stands for it. Values that are NaN are
    not observed: they are left out of the density, and ``reconstruct`` fills them in.

    ``likelihood="auto"``, or one for each column by name, takes a DataFrame as it is, with texts, categories
    and truth values: X is a table (``pv.data.load``), and what is drawn or reconstructed is a DataFrame with
    its columns and dtypes.

    Scores are nats per datum, with respect to the measure of ``vae_.p_x.family``. Those of likelihoods on
    different measures (a Bernoulli and a Normal, say), or of data on different scales, do not compare: search
    over priors, guides, networks and likelihoods of one measure.

    Args:
        latent_dim: D, the number of latent variables per datum.
        conditional: whether y, the class of each row, is given: a ``pv.ConditionalVAE``, p(x|z, y), whose
            methods then all take y. Else y is ignored.
        prior: p(z), as ``pv.VAE`` takes it, or its text as on the command line: ``"VampPrior(500)"``.
        likelihood: p(x|z), likewise: ``"Bernoulli"``, ``dist.Laplace``, ...; of a table ``"auto"``, or a
            mapping from columns to such.
        guide: the family of q(z|x), likewise: ``"FullRankNormal"``, ...
        hidden_dims: widths of the hidden layers of both networks, where none is given.
        encoder: factory ``(in_shape, out_shape) -> nn.Module``; by default ``pv.nets.mlp(*hidden_dims)``.
        decoder: likewise.
        event_shape: what each row is reshaped to, such as (1, 28, 28) for images, channels first; by default
            (n_features,).
        epochs, batch_size, lr, beta, warmup_epochs, clip_norm, device: settings of ``pv.fit``.
        num_samples: K, importance samples per datum of ``score_samples``.
        random_state: of the weights, the noise and the order of the data.
        verbose: whether to show progress.

    Attributes:
        vae_: the trained ``pv.VAE`` or ``pv.ConditionalVAE``, for all else that the package does.
        history_: one row per epoch, as in history.csv.
        classes_: the classes of y, in the order of their numbers, if conditional.
        n_features_in_: number of columns of the training data.
        feature_names_in_: their names, where they have any.

    Raises:
        DataError: data lie outside the likelihood's support, do not have ``event_shape``, or a column of a
            table cannot be modelled.
        ConfigError: a text names no part, or a setting will not do.
        NonFiniteLossError: the loss became NaN or infinite.

    Reference: Kingma and Welling, 2014, "Auto-encoding variational Bayes".

    >>> from sklearn.datasets import load_digits
    >>> x, y = load_digits(return_X_y=True)
    >>> x = x[:, x.std(0) > 0]
    >>> model = VAEEstimator(latent_dim=2, hidden_dims=(32,), epochs=2, random_state=0).fit(x)
    >>> model.transform(x).shape, model.sample(3).shape
    ((1797, 2), (3, 61))
    >>> model.set_params(conditional=True).fit(x, y).sample(3, given=7).shape
    (3, 61)
    """

    vae_: Any
    history_: list[dict[str, float]]
    classes_: np.ndarray

    def __init__(
        self,
        latent_dim: Count = 10,
        *,
        conditional: bool = False,
        prior: str | Family | Distribution | type[Family] = "Normal",
        likelihood: str | Family | Of | type[Distribution] | type[Family] | Mapping[str, Any] = (
            'Normal(scale="shared")'
        ),
        guide: str | Family | Of | type[Distribution] | type[Family] = "Normal",
        hidden_dims: Sequence[Count] = (400, 400),
        encoder: str | nets.Net | None = None,
        decoder: str | nets.Net | None = None,
        event_shape: Sequence[Count] | None = None,
        epochs: int = 100,
        batch_size: int = 128,
        lr: float = 1e-3,
        beta: float = 1.0,
        warmup_epochs: int = 0,
        clip_norm: float | None = None,
        num_samples: Count = 100,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool | int = False,
    ):
        self.latent_dim = latent_dim
        self.conditional = conditional
        self.prior = prior
        self.likelihood = likelihood
        self.guide = guide
        self.hidden_dims = hidden_dims
        self.encoder = encoder
        self.decoder = decoder
        self.event_shape = event_shape
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.beta = beta
        self.warmup_epochs = warmup_epochs
        self.clip_norm = clip_norm
        self.num_samples = num_samples
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> VAEEstimator:
        """Trains a VAE on the rows of X ``[N, n_features]``, and their classes y ``[N]`` if conditional."""
        own = {n: v for n, v in self.get_params(deep=False).items() if n not in Settings.documentation()}
        fine = check_all(type(self).__init__, own)
        is_table = fine["likelihood"] == "auto" or isinstance(fine["likelihood"], Mapping)
        frame: Any = _frame(X, fine["likelihood"]) if is_table else None
        columns = table(frame)[1] if is_table else None
        x = self._rows(X, columns, ensure_min_samples=2)
        shape = x.shape[1:] if self.event_shape is None else tuple(fine["event_shape"])
        if math.prod(shape) != x.shape[1] or (is_table and len(shape) != 1):
            raise DataError(
                f"rows of {x.shape[1]} features cannot take the shape event_shape={shape}; leave it out, or "
                "give one of as many elements"
            )
        sites = {"x": torch.tensor(x, dtype=torch.float32).reshape(-1, *shape)}
        # Searches give numpy's numbers, which a run's configuration cannot hold.
        kinds = ("prior", "likelihood", "guide", "encoder", "decoder")
        parts: dict[str, Any] = {kind: fine[kind] for kind in kinds}
        for kind, given in parts.items():
            if isinstance(given, Mapping):
                parts[kind] = {name: part(kind, one) for name, one in given.items()}
            else:
                parts[kind] = nets.mlp(*fine["hidden_dims"]) if given is None else part(kind, given)
        model: Callable[..., Any] = VAE
        if self.conditional:
            check_classification_targets(_given(y))
            self.classes_ = np.unique(_given(y))
            sites["y"] = self._codes(y, len(x))
            model, parts["given"] = ConditionalVAE, {"y": len(self.classes_)}
        seed = seed_of(self.random_state)
        with torch.random.fork_rng([]):
            seed_generators(seed, torch.device("cpu"))
            vae = model(columns or shape, latent_dim=fine["latent_dim"], **parts)
        settings = {name: getattr(self, name) for name in Settings.documentation() if hasattr(self, name)}
        data = load(
            frame if is_table else sites,
            labels=sites.get("y") if is_table else None,
            validation=0.0,
            test=0.0,
        )
        try:
            run = fit(vae, data, **settings, seed=seed, progress=bool(self.verbose))
        except Interrupted:  # which tells how to keep a run
            raise KeyboardInterrupt from None
        self.vae_, self.history_ = vae.double(), run.history
        return self

    def fit_transform(self, X: Any, y: Any = None) -> np.ndarray:
        """``fit(X, y)``, then ``transform(X, y)``."""
        return self.fit(X, y).transform(X, y)

    def transform(self, X: Any, y: Any = None) -> np.ndarray:
        """The mean of q(z|x), or q(z|x, y), of each row of X ``[N, n_features]``, ``[N, latent_dim]``."""
        sites = self._data(X, y)
        return self._centres(self.vae_.encode, *sites.values())

    def inverse_transform(self, Z: Any, y: Any = None) -> Any:
        """The mean of p(x|z), or p(x|z, y), of each row of Z ``[N, latent_dim]``, ``[N, n_features]``.

        Of a table a DataFrame, and of its categories the most probable.
        """
        check_is_fitted(self)
        z = check_array(Z, dtype=np.float64, order="C")
        if z.shape[1] != self.vae_.latent_dim:
            raise ValueError(f"Z has {z.shape[1]} columns, but there are {self.vae_.latent_dim} latents")
        return self._told(self._centres(self.vae_.decode, torch.tensor(z), *self._labels(y, len(z)).values()))

    def reconstruct(self, X: Any, y: Any = None) -> Any:
        """The mean of p(x|z) at the mean of q(z|x), ``[N, n_features]``, as X."""
        return self.inverse_transform(self.transform(X, y), y)

    def sample(
        self,
        n_samples: int = 1,
        random_state: int | np.random.RandomState | None = None,
        given: Any = None,
    ) -> Any:
        """Draws from the model, z ~ p(z) and x ~ p(x|z), ``[n_samples, n_features]``; of a table a DataFrame.

        Args:
            n_samples: how many.
            random_state: of the draws.
            given: if conditional, the class of all draws, or of each, ``[n_samples]``: x ~ p(x|z, y).
        """
        check_is_fitted(self)
        number = check("n_samples", n_samples, Count)
        if given is not None:
            if not isinstance(self.vae_, ConditionalVAE):
                raise ValueError(f"given={given!r} needs classes to learn: conditional=True, and fit(X, y)")
            given = np.full(number, given) if np.ndim(given) == 0 else given
        labels = self._labels(given, number)
        with self.vae_.evaluating(seed_of(random_state)):
            z = self.vae_.prior().sample((number,))
            drawn = [self.vae_.decode(*batch).sample() for batch in self._batches(z, *labels.values())]
        return self._told(_flat(drawn))

    def score_samples(self, X: Any, y: Any = None) -> np.ndarray:
        """Estimates log p(x), or log p(x|y), of each row of X in nats, ``[N]``; the same at each call."""
        sites = self._data(X, y)
        number = check("num_samples", self.num_samples, Count)
        scores = []
        with self.vae_.evaluating():
            for datum in self._batches(*sites.values(), size=1):
                seed_generators(0, self.vae_.device)
                log_w = log_weights(self.vae_, dict(zip(sites, datum, strict=True)), number)
                scores.append(importance_weighted_bound(log_w))
        values: np.ndarray = torch.cat(scores).cpu().numpy()
        return values

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of ``score_samples``."""
        return float(self.score_samples(X, y).mean())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.target_tags.required = bool(self.conditional)
        return tags

    @property
    def columns_(self) -> Columns | None:
        """What the columns of a table are; None of numbers alone."""
        columns: Columns | None = self.vae_.columns
        return columns

    @property
    def _n_features_out(self) -> int:
        return int(self.vae_.latent_dim)

    def _rows(self, X: Any, columns: Columns | None, **options: Any) -> np.ndarray:
        """X as numbers ``[N, n_features]``, of which some may be missing."""
        if columns is not None:
            frame = validate_data(self, _frame(X, self.likelihood), skip_check_array=True, **options)
            found: np.ndarray = columns.encode(frame).numpy()
            return found
        return rows_of(self, X, **options)

    def _told(self, rows: np.ndarray) -> Any:
        """Rows as X holds them."""
        columns = self.columns_
        return rows if columns is None else columns.decode(torch.from_numpy(rows))

    def _data(self, X: Any, y: Any) -> dict[str, Tensor]:
        """The values of each site of the data, ``[N, *event_shape]`` and perhaps ``[N]``."""
        check_is_fitted(self)
        x = torch.tensor(self._rows(X, self.columns_, reset=False)).reshape(-1, *self.vae_.event_shape)
        sites = {"x": x} | self._labels(y, len(x))
        evaluate.check(self.vae_, Split(sites))
        return sites

    def _labels(self, y: Any, number: int) -> dict[str, Tensor]:
        """What is given beside x and z: the number of each class ``[N]``, or nothing."""
        return {"y": self._codes(y, number)} if isinstance(self.vae_, ConditionalVAE) else {}

    def _codes(self, y: Any, number: int) -> Tensor:
        y = _given(y)
        check_consistent_length(y, np.empty(number))
        codes = {label: code for code, label in enumerate(self.classes_.tolist())}
        unknown = [label for label in y.tolist() if label not in codes]
        if unknown:
            raise ValueError(f"y has the class {unknown[0]!r}; those that were fitted are {[*codes]}")
        return torch.tensor([codes[label] for label in y.tolist()])

    def _batches(self, *tensors: Tensor, size: int = BATCH_SIZE) -> Any:
        """Batches of tensors ``[N, ...]`` side by side, as the VAE takes them."""
        placed = [self.vae_.place(tensor)["x"] for tensor in tensors]
        return zip(*(tensor.split(size) for tensor in placed), strict=True)

    def _centres(self, of: Callable[..., Distribution], *tensors: Tensor) -> np.ndarray:
        """The mean of each row's distribution, or its median or mode if it has none, ``[N, ...]``."""

        def centres(*batch: Tensor) -> Tensor:
            seed_generators(0, self.vae_.device)
            value, kind = centre(of(*batch))
            if kind == "mean" or len(value) == 1:
                return value
            # Which there is, and its draws, hang on all rows of the batch.
            return torch.cat([centres(*row) for row in self._batches(*batch, size=1)])

        with self.vae_.evaluating():
            return _flat([centres(*batch) for batch in self._batches(*tensors)])


def _frame(X: Any, likelihood: Any) -> Any:
    """A table as a DataFrame."""
    if not is_frame(X):
        raise DataError(
            f"likelihood={shown(likelihood)} is of a table, and X is of type {type(X).__name__}; give a "
            'DataFrame, or a likelihood of numbers: likelihood="StudentT"'
        )
    return as_pandas(X)


def part(kind: str, given: Any) -> Any:
    """A part of the model, which may be given as a text."""
    return registry.read(kind, given, trust="*") if isinstance(given, str) and given != "auto" else given


AS_THEY_ARE = 'VAEEstimator(likelihood="auto") learns them as what they are, and pv.predict fills them in'


def rows_of(estimator: BaseEstimator, X: Any, mend: str = AS_THEY_ARE, **options: Any) -> Any:
    """X as numbers ``[N, n_features]``, of which some may be missing, known to an estimator.

    Args:
        estimator: which is to know them.
        X: as it was given.
        mend: what to do about columns that are not numbers, which are ``{columns}`` in it.
        options: of ``validate_data``, which with y gives the two.

    Raises:
        DataError: a table holds texts, dates or the like.
        ValueError: as scikit-learn has it.
    """
    options = {"dtype": np.float64, "order": "C", "ensure_all_finite": "allow-nan"} | options
    try:
        return validate_data(estimator, X, **options)
    except (TypeError, ValueError) as error:
        if not is_frame(X) or not (isinstance(error, TypeError) or "could not convert" in str(error)):
            raise
        frame = as_pandas(X)
        others = [name for name in frame if getattr(frame[name].dtype, "kind", "O") not in "biuf"]
        raise DataError(
            f"X has columns that are not numbers: {few(others)}; {mend.format(columns=others[:20])}; or "
            "leave them out: X.select_dtypes('number')"
        ) from error


def _given(y: Any) -> np.ndarray:
    """The class of each row, ``[N]``."""
    if y is None:
        raise ValueError(
            "a conditional VAEEstimator requires y, the class of each row, but y is None: fit(X, y), "
            "transform(X, y), score(X, y), inverse_transform(Z, y), sample(n, given=y)"
        )
    labels: np.ndarray = column_or_1d(y, warn=True)
    unknown = [i for i, label in enumerate(labels.tolist()) if label is None or label != label]
    if unknown:
        raise ValueError(
            f"y has no class of {len(unknown)} rows (first {unknown[0]}); leave them out: "
            "X[y.notna()], y[y.notna()]"
        )
    return labels


def seed_of(random_state: int | np.random.RandomState | None) -> int:
    """A seed from what scikit-learn takes as one."""
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def _flat(batches: Sequence[Tensor]) -> np.ndarray:
    """Batches ``[B, ...]`` as one array ``[N, n]``."""
    rows: np.ndarray = torch.cat(list(batches)).flatten(1).double().cpu().numpy()
    return rows
