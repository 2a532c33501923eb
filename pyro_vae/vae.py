"""The variational autoencoder as a Pyro model and guide."""

from __future__ import annotations

import contextlib
import copy
import weakref
from collections.abc import Iterator
from typing import Any, cast

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.runtime import effectful
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_vae import guides, likelihoods, nets, priors
from pyro_vae.data import Split
from pyro_vae.distributions import onto
from pyro_vae.explain import Format, explain


class VAE(nn.Module):
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
        event_shape: shape of one datum, such as (1, 28, 28).
        latent_dim: D, the number of latent variables per datum.
        prior: p(z), a ``pv.priors`` object or any continuous Pyro distribution.
        likelihood: p(x|z), a ``pv.likelihoods`` object or any univariate Pyro distribution class.
        guide: the family of q(z|x), a ``pv.guides`` object or a univariate Pyro distribution class;
            pushed onto the support of the prior where that is not the reals.
        encoder: factory of the network from x to the guide's parameters.
        decoder: factory of the network from z to the likelihood's parameters.

    Raises:
        ValueError: the shapes are empty, or the parts do not fit together.

    Reference: Kingma and Welling, 2014, "Auto-encoding variational Bayes"; Rezende, Mohamed and
    Wierstra, 2014, "Stochastic backpropagation and approximate inference in deep generative models".

    >>> vae = VAE((1, 8, 8), latent_dim=2)
    >>> vae.decode(vae.prior().sample((5,))).mean.shape
    torch.Size([5, 1, 8, 8])
    """

    input_loc: Tensor
    input_scale: Tensor
    initialized: Tensor

    def __init__(
        self,
        event_shape: tuple[int, ...],
        latent_dim: int = 10,
        *,
        prior: priors.Prior | Distribution = priors.Normal(),
        likelihood: likelihoods.Likelihood | type[Distribution] = likelihoods.Bernoulli(),
        guide: guides.Guide | type[Distribution] = guides.Normal(),
        encoder: nets.Net = nets.mlp(400, 400),
        decoder: nets.Net = nets.mlp(400, 400),
    ):
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.latent_dim = latent_dim
        if not self.event_shape or min(*self.event_shape, latent_dim) < 1:
            raise ValueError(
                f"a VAE needs at least one pixel and one latent, but got event_shape={event_shape} "
                f"and latent_dim={latent_dim}; for example pv.VAE((1, 28, 28), latent_dim=20)"
            )
        self.p_z = priors.as_prior(prior)
        self.p_x = likelihoods.as_likelihood(likelihood)
        self.q_z = guides.as_guide(guide)
        self.parts = {
            "prior": prior,
            "likelihood": copy.deepcopy(self.p_x),
            "guide": copy.deepcopy(self.q_z),
            "encoder": encoder,
            "decoder": decoder,
        }
        """The parts as they were given, from which the same VAE can be built again."""
        self.p_z.setup(latent_dim, self.event_shape)
        self.p_x.setup(self.event_shape)
        self.pushed = guides.pushed(self.q_z, self.p_z.support)
        if self.p_z.encodes and not self.q_z.invertible:
            raise ValueError(
                f"the prior {self.p_z!r} needs the density of q(z|x) at any z, which the guide {self.q_z!r} "
                "does not have; take pv.guides.Flow('affine_autoregressive'), or any other guide"
            )
        self.guide_dim = latent_dim
        if self.pushed:
            (self.guide_dim,) = onto(self.p_z.support).inverse_shape(torch.Size((latent_dim,)))
        if self.guide_dim < 1:
            raise ValueError(f"a prior over {self.p_z.support} leaves nothing free with latent_dim=1; take 2")
        self.q_z.setup(self.guide_dim)
        self.encoder = encoder(self.event_shape, self.q_z.param_shape(self.guide_dim))
        self.decoder = decoder((latent_dim,), self.p_x.param_shape(self.event_shape))
        self.register_buffer("input_loc", torch.zeros(self.event_shape))
        self.register_buffer("input_scale", torch.ones(()))
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))

    def prior(self) -> Distribution:
        """p(z), batch shape ``()``, event shape ``(D,)``."""
        p_z: Distribution = self.p_z(self.encode)
        return p_z

    def decode(self, z: Tensor) -> Distribution:
        """p(x|z), batch shape ``[...]``, event shape ``event_shape``, for z of shape ``[..., D]``."""
        shape = self.p_x.param_shape(self.event_shape)
        params = _run("decoder", self.decoder, z, (self.latent_dim,), shape)
        with _full_precision(z):
            p_x: Distribution = self.p_x(params)
        return p_x

    def encode(self, x: Tensor) -> Distribution:
        """q(z|x), batch shape ``[...]``, event shape ``(D,)``, for x of shape ``[..., *event_shape]``."""
        x = (x - self.input_loc) / self.input_scale
        shape = self.q_z.param_shape(self.guide_dim)
        params = _run("encoder", self.encoder, x, self.event_shape, shape)
        with _full_precision(x):
            q_z: Distribution = self.q_z(params)
            if self.pushed:
                # Cached: the way back from a sample is not exact where the map is flat.
                q_z = dist.TransformedDistribution(q_z, [onto(self.p_z.support).with_cache(1)])
        return q_z

    def model(self, x: Tensor) -> Tensor:
        """The generative program: z ~ p(z), x ~ p(x|z), with x ``[B, *event_shape]`` observed.

        To draw x instead of observing it, use ``pyro.poutine.uncondition(vae.model)``.
        """
        self._announce("p_z", "decoder", "p_x")
        with pyro.plate("data", self._num_data(x)):
            z = _sample("z", self.prior(), x)
            return _sample("x", self.decode(z), x, obs=x)

    def guide(self, x: Tensor) -> Tensor:
        """The inference program: z ~ q(z|x) for each datum of x ``[B, *event_shape]``."""
        self._announce("encoder", "q_z")
        with pyro.plate("data", self._num_data(x)):
            return _sample("z", self.encode(x), x)

    def initialize(self, data: Split) -> None:
        """Starts p(x|z) and p(z) at the data's statistics, and standardises what the encoder sees.

        Called by ``pv.fit`` unless it was before. The encoder's input is centred pixel by pixel and
        divided by one number, so that pixels that hardly vary are not blown up.

        Args:
            data: the training data.
        """
        mean, std = (moment.to(self.input_loc) for moment in data.moments)
        with torch.no_grad():
            self.input_loc.copy_(mean)
            self.input_scale.copy_(std.square().mean().sqrt().clamp(min=1e-6))
            self.initialized.fill_(True)
        some = data.examples.to(self.input_loc)
        self.p_x.initialize(mean, std, some)
        self.p_z.initialize(some)

    def explain(self, format: Format = "text") -> str:
        """The generative story: p(z), p(x|z), q(z|x), sites, supports, parameters and where they come from.

        Args:
            format: ``"text"``, for a terminal; ``"latex"``, the formulas alone, an ``aligned`` environment;
                ``"graph"``, the graphical model in Graphviz's language, by ``pyro.render_model``.
        """
        return explain(self, format)

    @contextlib.contextmanager
    def evaluating(self, seed: int = 0) -> Iterator[None]:
        """Evaluation mode, without gradients or validation, under a seed.

        Afterwards modes and random generators are as they were.
        """
        modes = [(module, module.training) for module in self.modules()]
        devices = [self.input_loc.device] if self.input_loc.is_cuda else []
        with torch.no_grad(), torch.random.fork_rng(devices), pyro.validation_enabled(False):
            seed_generators(seed, self.input_loc.device)
            self.eval()
            try:
                yield
            finally:
                for module, training in modes:
                    module.training = training

    def _num_data(self, x: Tensor) -> int:
        if tuple(x.shape[1:]) != self.event_shape:
            raise ValueError(
                f"this VAE was built for data of shape [B, {', '.join(map(str, self.event_shape))}], "
                f"but x has shape {list(x.shape)}; for a single datum use x[None]"
            )
        return x.shape[0]

    def _announce(self, *parts: str) -> None:
        """Tells Pyro's handlers (SVI's parameter capture, say) of the parameters of these parts.

        ``pyro.module`` would do so through the global store, where another module of the same name
        takes precedence, and where parameters outlive their owner.
        """
        for part in parts:
            for name, parameter in getattr(self, part).named_parameters():
                if parameter.requires_grad:
                    _param(
                        parameter,
                        constraint=constraints.real,
                        name=f"{type(self).__name__}-{id(self):x}$$${part}.{name}",
                    )


def _run(name: str, net: nn.Module, x: Tensor, in_shape: nets.Shape, out_shape: nets.Shape) -> Tensor:
    """A network's output for ``[..., *in_shape]``, though it be made for a single batch dimension."""
    leading = x.shape[: x.dim() - len(in_shape)]
    y: Tensor = net(x.reshape(-1, *in_shape))
    if tuple(y.shape[1:]) != tuple(out_shape):
        raise ValueError(
            f"the {name} returned shape {list(y.shape)} for input {[leading.numel(), *in_shape]}; it must be "
            f"{[leading.numel(), *out_shape]}, the out_shape that the factory is called with"
        )
    return y.reshape(*leading, *out_shape).to(x.dtype)  # bfloat16 under autocast


def _sample(name: str, distribution: Distribution, x: Tensor, obs: Tensor | None = None) -> Tensor:
    with _full_precision(x):
        return pyro.sample(name, cast(Any, distribution), obs=obs)


def _full_precision(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Autocast is for networks: distributions keep the dtype of their data."""
    kind = x.device.type
    available = torch.amp.is_autocast_available(kind)
    return torch.autocast(kind, enabled=False) if available else contextlib.nullcontext()


@effectful(type="param")
def _param(parameter: nn.Parameter, **_: Any) -> Tensor:
    alias: Any = parameter.detach()  # carries the reference, which would make the parameter unpicklable
    alias.unconstrained = weakref.ref(parameter)
    return alias


def seed_generators(seed: int, device: torch.device) -> None:
    """Seeds the CPU's generator and that of the device, and no other."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
