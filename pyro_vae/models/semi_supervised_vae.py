"""The VAE of data of which some have labels."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, Literal, cast

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import normalize

from pyro_vae import nets
from pyro_vae.checks import Levels, NotNegative, Whole, check
from pyro_vae.conditional import Conditional
from pyro_vae.data import Split
from pyro_vae.data.columns import Columns, few
from pyro_vae.families import Family, Fixed, Of
from pyro_vae.families.categorical import Label as LabelFamily
from pyro_vae.families.named import Normal
from pyro_vae.guides import as_guide
from pyro_vae.likelihoods import Bernoulli, ByName, Likelihood
from pyro_vae.models.parts import as_rows, check_shape, refuse_encoding, see, start_guide
from pyro_vae.models.vae import VAE
from pyro_vae.priors import Normal as StandardNormal
from pyro_vae.priors import as_prior
from pyro_vae.program import DataWarning, Program
from pyro_vae.seen import Label, Latent

FEATURES, MANY = 20, 400
"""Latents that the classifier sees by default, of data of so many numbers and more."""

LABELLED = 0.25
"""The share of an epoch's rows that have a label, where there are fewer among the data."""


class SemiSupervisedVAE(Program):
    r"""A VAE of data of which some have labels, and a classifier: Kingma's M2.

    .. math::

        y_n \sim p(y), \qquad z_n \sim p(z), \qquad x_n \sim p(x \mid z = z_n, y = y_n), \qquad
        q(y_n \mid x_n)\, q(z_n \mid x_n, y_n)

    p(y) is uniform, or learned. A label that is not known (NaN) is a latent, site ``"y_unobserved"``, over
    whose K values the ELBO is summed; of a datum with a label this latent is certain, in model and guide, so
    that its ELBO is that of log p(x, y). ``pv.fit`` therefore takes ``TraceEnum_ELBO``, if no other loss is
    given.

    Labels teach q(y|x), which the ELBO of labelled data does not contain, by a further term of training,

    .. math:: \alpha \Big( \frac{N}{N_y} \sum_{n:\, y_n \text{ known}} \log q(y_n \mid x_n) - \sum_n
        \Big[ \max_{\|r\| \le \epsilon} \mathrm{KL}\big(q(y \mid x_n) \,\|\, q(y \mid x_n + r)\big)
        + [\text{of features}]\, \mathrm{H}\big(q(y \mid x_n)\big) \Big] \Big)

    with N_y of the N training data labelled: ``alpha`` nats per datum for each nat of the classifier's mean
    loss, however few labels there are. It is a factor of the guide in training mode, and of no ELBO that is
    reported. Without it the classes that q(y|x) finds need not be those of the labels. Its second part asks
    that x may be moved a little, in the worst direction, and keep its class, and with ``features`` that each
    have one: of few labels a classifier would else learn the very data that have one, and the bounds between
    classes may go anywhere, where this moves them to where there are no data. (The direction is found by one
    step of the power method; the q that is held against has no gradient.)

    With ``features`` the classifier does not see x but so many latents of a VAE of x alone, the paper's M1
    below M2: r then goes along what varies in the data, not along pixels. ``pv.fit`` trains that VAE first,
    ``vae.features``, for as many epochs, unless it was trained, and then leaves it as it is; of a run with a
    folder it is the run in the folder ``features`` therein. Both are trained at a rate of 2e-3 unless ``lr``
    is given. Trained otherwise, by ``pyro.infer.SVI``, call ``pv.fit(vae.features, data)`` before
    ``vae.initialize(data.train)``.

    Where rows with a label are less than a quarter, ``pv.fit`` takes them several times in an epoch, until
    they are: few among many would be in few steps, each with a large weight, and their classes be learned
    last. A p(y) that is learned counts each of them once.

    Args:
        event_shape: shape of one datum, such as (1, 28, 28), or the columns of a table.
        num_classes: K; labels, site ``"y"``, are whole numbers from 0 on.
        latent_dim: D, the number of latents z per datum.
        alpha: weight of the classifier's loss; 0 for none. (The paper's 0.1 N is 0.1 here.)
        radius: epsilon, how far x is moved, in standard deviations as the classifier sees them, root mean
            square over its elements that are known; 0 for no such part, nor the entropy. By default 0.25 of
            x, and 0.15 of features, some of which tell nothing of x and do not count.
        balanced: whether p(y) is uniform; False: it is learned, of all rows, where some classes may be rare.
        features: number of latents of a VAE of x alone, with the likelihood, encoder and decoder given here,
            that the classifier sees in place of x; 0: it sees x. By default 20 of an x of at least 400
            numbers, such as images of 20 x 20 pixels, else 0.
        prior: p(z), as in ``pv.VAE``.
        likelihood: p(x|z, y), likewise.
        guide: the family of q(z|x, y), likewise.
        classifier: factory of the network from x to the logits of q(y|x).
        encoder: factory of the network from x and y to the guide's parameters; its ``in_shape`` is a tuple of
            shapes, the label's that of one of K numbers that is 1.
        decoder: factory of the network from z and y, likewise.

    Raises:
        ValueError: the shapes are empty, or the parts do not fit together.

    Reference: Kingma, Mohamed, Rezende and Welling, 2014, "Semi-supervised learning with deep generative
    models"; Miyato, Maeda, Koyama and Ishii, 2018, "Virtual adversarial training" (VAT+EntMin);
    Grandvalet and Bengio, 2005, "Semi-supervised learning by entropy minimization".

    >>> vae = SemiSupervisedVAE((64,), num_classes=10, latent_dim=2)
    >>> vae.classify(torch.rand(5, 64)).shape
    torch.Size([5, 10])
    """

    labelled: Tensor
    repeated: Tensor

    def __init__(
        self,
        event_shape: tuple[int, ...] | Columns,
        *,
        num_classes: Levels = 10,
        latent_dim: int = 10,
        alpha: NotNegative = 10.0,
        radius: NotNegative | None = None,
        balanced: bool = True,
        features: Whole | None = None,
        prior: Family | Distribution = StandardNormal(),
        likelihood: Likelihood | ByName | Literal["auto"] = Bernoulli(),
        guide: Family | Of | type[Distribution] = Normal(),
        classifier: nets.Net = nets.mlp(400, 400),
        encoder: nets.Net = nets.mlp(400, 400),
        decoder: nets.Net = nets.mlp(400, 400),
    ):
        super().__init__()
        event_shape, self.columns, family = as_rows(event_shape, likelihood)
        x, z = check_shape("SemiSupervisedVAE", event_shape, latent_dim)
        nets.check_factories(classifier=classifier, encoder=encoder, decoder=decoder)
        k = check("num_classes", num_classes, Levels)
        self.alpha = check("alpha", alpha, NotNegative)
        self.balanced = check("balanced", balanced, bool)
        default = FEATURES if math.prod(x) >= MANY else 0
        number = default if features is None else check("features", features, Whole)
        usual = 0.15 if number else 0.25
        self.radius = usual if radius is None else check("radius", radius, NotNegative)
        self.options = {
            "event_shape": self.columns or x,
            "num_classes": k,
            "latent_dim": z[0],
            "alpha": self.alpha,
            "radius": self.radius,
            "balanced": self.balanced,
            "features": number,
            "prior": prior,
            "likelihood": family,
            "guide": as_guide(guide),
            "classifier": classifier,
            "encoder": encoder,
            "decoder": decoder,
        }
        self.event_shape, self.latent_dim, self.num_classes = x, z[0], k
        self.event_shapes = {"x": x, "y": ()}
        self.register_buffer("labelled", torch.ones(()))
        self.register_buffer("repeated", torch.zeros(()))
        of_y = Fixed(dist.Categorical(logits=torch.zeros(k))) if balanced else LabelFamily(k)
        self.p_y = Conditional("y", of_y, ())
        self.p_z = Conditional("z", as_prior(prior), z)
        refuse_encoding("SemiSupervisedVAE", self.p_z.family)
        seen: Any = see(x, self.columns)
        if number:
            of_x = VAE(self.columns or x, number, likelihood=family, encoder=encoder, decoder=decoder)
            seen = Encoded(of_x)
        self.q_y = Conditional("y_unobserved", LabelFamily(k), (), (seen,), classifier)
        saw = see(x, self.columns)
        self.q_z = Conditional(
            "z", as_guide(guide), z, (saw, Label("y", k)), encoder, support=self.p_z.support
        )
        self.p_x = Conditional("x", family, x, (Latent("z", z), Label("y", k)), decoder)

    @property
    def features(self) -> VAE | None:
        """The VAE whose latents the classifier sees, which is trained first; None where it sees x."""
        (seen,) = self.q_y.seen
        return cast(Any, seen).vae if isinstance(seen, Encoded) else None

    def model(self, batch: Any) -> Tensor:
        """The generative story: y ~ p(y), z ~ p(z), x ~ p(x|z, y)."""
        label = self._labels(batch)
        with self.plate(batch):
            p_y = self.p_y()
            seen = torch.where(label.isnan(), torch.nan, self.sample("y", p_y, {"y": label}))
            y = torch.where(seen.isnan(), self.sample("y_unobserved", certain(p_y, seen)), seen)
            z = self.sample("z", self.p_z())
            return self.sample("x", self.p_x(z, y), batch)

    def guide(self, batch: Any) -> Tensor:
        """The inference story: y ~ q(y|x) where it is not known, z ~ q(z|x, y)."""
        label = self._labels(batch)
        q_y: Any = self.q_y(batch["x"])
        with self.plate(batch):
            if self.training and (self.alpha or not self.balanced):
                pyro.factor("classified", self._taught(batch["x"], label, q_y), has_rsample=True)
            q: Any = certain(q_y, label)
            y = pyro.sample("y_unobserved", q, infer={"enumerate": "parallel"})
            return self.sample("z", self.q_z(batch["x"], torch.where(label.isnan(), y, label)))

    def _taught(self, x: Tensor, label: Tensor, q_y: Any) -> Tensor:
        """What labels add to the loss, ``[B]``: a guide's log-density is taken off the ELBO."""

        def of_known(p: Any) -> Tensor:
            log_p: Tensor = p.log_prob(label.nan_to_num(0.0))
            return log_p.where(~label.isnan(), 0.0)

        more = torch.zeros_like(label)
        if self.alpha:
            loss = -of_known(q_y) / self.labelled
            if self.radius:
                loss = loss + self._roughness(x, q_y.logits)
                if self.features is not None:  # of scikit-learn's digits, pixels, it is no help
                    loss = loss + q_y.entropy()
            more = self.alpha * loss
        if not self.balanced:  # rows that an epoch takes several times count once
            more = more + of_known(self.p_y()) * self.repeated / (1 + self.repeated)
        return more

    def _roughness(self, x: Tensor, logits: Tensor) -> Tensor:
        """KL(q(y|x) || q(y|x + r)) at about the worst r of the radius, ``[B]``."""
        see: Any = self.q_y.seen[0]
        seen, log_p = see(x).detach(), logits.detach()
        known = see.known(x).flatten(1)  # what is not, and whether it is, stays as it is
        length = self.radius * known.sum(1, keepdim=True).sqrt()

        def divergence(r: Tensor) -> Tensor:
            log_q = self.q_y.net(seen + r).log_softmax(-1)
            return (log_p.exp() * (log_p - log_q)).sum(-1)

        def of_length(r: Tensor) -> Tensor:
            return (length * normalize(known * r.flatten(1), dim=1)).view_as(r)

        # Not near 0, where the gradient is 0, and but rounding where the classifier is sure.
        with torch.enable_grad():
            r = of_length(torch.randn_like(seen)).requires_grad_()
            (steepest,) = torch.autograd.grad(divergence(r).sum(), r)
        return divergence(of_length(steepest))

    def prior(self) -> Distribution:
        """p(z), event shape ``(D,)``."""
        return self.p_z()

    def decode(self, z: Tensor, y: Tensor) -> Distribution:
        """p(x|z, y), for z ``[..., D]`` and classes y ``[...]``."""
        return self.p_x(z, y)

    def encode(self, x: Tensor, y: Tensor) -> Distribution:
        """q(z|x, y), for x ``[..., *event_shape]`` and classes y ``[...]``."""
        return self.inferred(self.q_z, x, y)

    def classify(self, x: Any) -> Tensor:
        """q(y|x), the classes' probabilities ``[N, K]``, for x ``[N, *event_shape]`` or a DataFrame."""
        x = self.place(x)["x"]
        with self.evaluating():
            q_y: Any = self.q_y(x)
            probabilities: Tensor = q_y.probs
        return probabilities

    @property
    def before(self) -> Mapping[str, Program]:
        """The VAE whose latents the classifier sees."""
        return {} if self.features is None else {"features": self.features}

    def fit_settings(self, epochs: int) -> dict[str, Any]:
        """A rate at which features of images were found to tell classes better, both trainings alike."""
        return {} if self.features is None else {"lr": 2e-3}

    def again(self, data: Split) -> Tensor:
        """Rows with a label, so often that they are about a quarter of all."""
        labels = data.labels
        known = torch.empty(0, dtype=torch.long) if labels is None else (~labels.isnan()).nonzero()[:, 0]
        others = len(data) - len(known)
        times = round(LABELLED / (1 - LABELLED) * others / max(1, len(known))) - 1
        return known.repeat(max(0, times))

    def initialize(self, data: Split) -> None:
        super().initialize(data)
        start_guide(self.q_z, self.p_z)
        known, again = 1 - data.missing("y"), len(self.again(data))
        self.labelled.fill_(max(known * len(data) + again, 1) / (len(data) + again))
        self.repeated.fill_(again / max(1, round(known * len(data))))
        if not self.alpha and known:
            warnings.warn(
                f"alpha=0: the labels of {round(known * len(data))} of {len(data)} training data do not "
                "teach q(y|x), whose classes need then not be theirs; leave alpha out",
                DataWarning,
                stacklevel=2,
            )
        labels = torch.empty(0) if data.labels is None else data.labels
        taught = {int(y) for y in labels[~labels.isnan()].tolist()}
        if taught and (untaught := sorted({*range(self.num_classes)} - taught)):
            names = dict(enumerate(self.class_names or ()))
            told = few([names.get(k, k) for k in untaught])
            warnings.warn(
                f"no training datum has the label {told}, {len(untaught)} of {self.num_classes} classes, and "
                "nothing tells which data are of it; label some, or leave such classes out; where held-out "
                "rows have those labels, load the data with validation=0.0, test=0.0",
                DataWarning,
                stacklevel=2,
            )

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """What the labels add to training, which is none of the ELBO."""
        weight = f"{self.alpha:g}" + f" / {self.labelled.item():.3g}" * bool(self.labelled < 1)
        told = f"training adds {weight} log q(y|x) of each datum with a label"
        if self.alpha and self.radius:
            rough = "KL(q(y|x) || q(y|x + r))"
            rough = rough if self.features is None else f"({rough} + H(q(y|x)))"
            told += f" less {self.alpha:g} {rough} of each, |r| = {self.radius:g}"
        return (f"{told}, which no ELBO reports",)

    def _labels(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The labels of a batch, ``[B]``, as reals, of which those that are not known, or absent, are NaN."""
        if "y" in batch:
            return batch["y"].to(batch["x"].dtype)
        return batch["x"].new_full((len(batch["x"]),), torch.nan)


class Encoded(nn.Module):
    """How the classifier sees x: as latents of a VAE of x alone, drawn in training, else the mean of q(z|x).

    Args:
        vae: trained before, which learns nothing here.
    """

    def __init__(self, vae: VAE):
        super().__init__()
        self.vae, self.site, self.event_shape, self.shape = vae, "x", vae.event_shape, (vae.latent_dim,)

    def train(self, mode: bool = True) -> Encoded:
        super().train(mode)
        self.vae.eval()  # its normalisations, say, go on as they were trained
        return self

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            q = self.vae.encode(x)
            z: Tensor = q.sample() if self.training else q.mean
        return z

    def known(self, x: Tensor) -> Tensor:
        """Of what the network sees, 1 where it is a value that is known: everywhere."""
        return x.new_ones(len(x), *self.shape)


def certain(p: Any, label: Tensor) -> Distribution:
    """A distribution of labels, and of data whose label is known that which is certain of it.

    Args:
        p: a Categorical, of batch shape ``[]`` or ``[B]``.
        label: ``[B]``, of which NaN is not known.
    """
    classes = torch.arange(p.logits.shape[-1], device=label.device)
    sure = torch.where(label[..., None] == classes, 0.0, -torch.inf).to(p.logits)
    return dist.Categorical(logits=torch.where(label.isnan()[..., None], p.logits, sure))
