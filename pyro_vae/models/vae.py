"""The variational autoencoder."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor
from torch.distributions import Distribution

from pyro_vae import nets
from pyro_vae.conditional import Conditional
from pyro_vae.data import Split
from pyro_vae.data.columns import Columns
from pyro_vae.families import Family, Of, VampPrior
from pyro_vae.guides import Normal as NormalGuide
from pyro_vae.guides import as_guide
from pyro_vae.likelihoods import Bernoulli, ByName, Likelihood
from pyro_vae.models.parts import as_rows, check_shape, join_encoder, see, start_guide
from pyro_vae.priors import Normal as NormalPrior
from pyro_vae.priors import as_prior
from pyro_vae.program import Program, as_batch
from pyro_vae.seen import Latent


class VAE(Program):
    r"""A latent variable model p(z) p(x|z) and a guide q(z|x), amortised over the data.

    .. math::

        z_n \sim p(z), \qquad x_n \sim p(x \mid z = z_n), \qquad q(z_n \mid x_n)

    ``vae.model`` and ``vae.guide`` are ordinary Pyro programs, with sites ``"z"`` and ``"x"`` in the
    plate ``"data"``, to which all of Pyro's inference applies. What they sample from are the
    distributions that ``prior()``, ``decode(z)`` and ``encode(x)`` return.

    Parameters are this module's own: they are announced to Pyro under names unique to the
    instance, and never kept in the global parameter store. The parts given are copied, so that
    two VAEs built from the same parts share nothing.

    Args:
        event_shape: shape of one datum, such as (1, 28, 28); or the columns of a table, ``event_shapes`` of
            ``pv.data.load(frame)``.
        latent_dim: D, the number of latent variables per datum.
        prior: p(z), a ``pv.priors`` object or any continuous Pyro distribution.
        likelihood: p(x|z), a ``pv.likelihoods`` object or any univariate Pyro distribution class; of a table
            also ``"auto"``, one for each column by what it is, or some of them by name (the others are
            chosen): see ``pv.likelihoods.Auto``.
        guide: the family of q(z|x), a ``pv.guides`` object or a univariate Pyro distribution class;
            pushed onto the support of the prior where that is not the reals.
        encoder: factory of the network from x to the guide's parameters.
        decoder: factory of the network from z to the likelihood's parameters.

    Raises:
        ValueError: the shapes are empty, or the parts do not fit together.
        TypeError: a part is of another kind.

    Reference: Kingma and Welling, 2014, "Auto-encoding variational Bayes"; Rezende, Mohamed and
    Wierstra, 2014, "Stochastic backpropagation and approximate inference in deep generative models".

    >>> vae = VAE((1, 8, 8), latent_dim=2)
    >>> vae.decode(vae.prior().sample((5,))).mean.shape
    torch.Size([5, 1, 8, 8])
    """

    def __init__(
        self,
        event_shape: tuple[int, ...] | Columns,
        latent_dim: int = 10,
        *,
        prior: Family | Distribution = NormalPrior(),
        likelihood: Likelihood | ByName | Literal["auto"] = Bernoulli(),
        guide: Family | Of | type[Distribution] = NormalGuide(),
        encoder: nets.Net = nets.mlp(400, 400),
        decoder: nets.Net = nets.mlp(400, 400),
    ):
        super().__init__()
        event_shape, self.columns, family = as_rows(event_shape, likelihood)
        x, z = check_shape("VAE", event_shape, latent_dim)
        nets.check_factories(encoder=encoder, decoder=decoder)
        self.options = {
            "event_shape": self.columns or x,
            "latent_dim": z[0],
            "prior": prior,
            "likelihood": family,
            "guide": as_guide(guide),
            "encoder": encoder,
            "decoder": decoder,
        }
        self.event_shape, self.latent_dim, self.event_shapes = x, z[0], {"x": x}
        self.p_z = Conditional("z", as_prior(prior), z)
        saw = see(x, self.columns)
        self.q_z = Conditional("z", as_guide(guide), z, (saw,), encoder, support=self.p_z.support)
        self.p_x = Conditional("x", family, x, (Latent("z", z),), decoder)
        if isinstance(self.p_z.family, VampPrior):
            join_encoder(self.p_z.family, self.q_z, x)

    def model(self, batch: Any) -> Tensor:
        """The generative story: z ~ p(z), x ~ p(x|z), with x ``[B, *event_shape]`` observed.

        To draw x instead of observing it, use ``pyro.poutine.uncondition(vae.model)``.
        """
        with self.plate(batch):
            z = self.sample("z", self.p_z())
            return self.sample("x", self.p_x(z), batch)

    def guide(self, batch: Any) -> Tensor:
        """The inference story: z ~ q(z|x) for each datum of x ``[B, *event_shape]``."""
        with self.plate(batch):
            return self.sample("z", self.q_z(batch["x"]))

    def prior(self) -> Distribution:
        """p(z), batch shape ``()``, event shape ``(D,)``."""
        return self.p_z()

    def decode(self, z: Tensor) -> Distribution:
        """p(x|z), batch shape ``[...]``, event shape ``event_shape``, for z of shape ``[..., D]``."""
        return self.p_x(z)

    def encode(self, x: Tensor) -> Distribution:
        """q(z|x), batch shape ``[...]``, event shape ``(D,)``, for x of shape ``[..., *event_shape]``."""
        return self.inferred(self.q_z, self.read_batch(x)["x"] if self.columns else as_batch(x, "x")["x"])

    def initialize(self, data: Split) -> None:
        super().initialize(data)
        start_guide(self.q_z, self.p_z)
        if isinstance(self.p_z.family, VampPrior):
            self.p_z.family.start(self.place(data.examples)["x"])
