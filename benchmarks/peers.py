"""Ways of training the same VAE, each as fast as its authors would write it, for ``speed.py`` to time.

All have the cure of ``pyro_vae/sleef.py``, which importing the package applies.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.infer import JitTrace_ELBO, Trace_ELBO
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

import pyro_vae as pv
from pyro_vae.svi import SVI

LR = 1e-3
AT_ONCE = 32
"""Steps of an epoch that are one launch, where they are replayed."""


@dataclass
class Setting:
    """What all peers have in common."""

    data: pv.data.Data
    data_dir: str
    device: torch.device
    batch_size: int = 256
    latent_dim: int = 50
    hidden: Callable[[], pv.nets.Net] = field(default=lambda: pv.nets.mlp(400, activation=nn.Softplus))

    def nets(self) -> tuple[nn.Module, nn.Module]:
        """Encoder to location and raw scale, decoder to logits; the same weights at each call."""
        torch.manual_seed(0)
        shape = self.data.event_shape
        encoder = self.hidden()(shape, (2 * self.latent_dim,))
        return encoder.to(self.device), self.hidden()((self.latent_dim,), shape).to(self.device)

    def batches(self, epoch: int, at_once: int = 1) -> Iterator[Tensor]:
        """An epoch of binarised batches, so many in one: ours, which the hand-written peers are given too."""
        self.data.train.redraw(epoch)
        order = torch.randperm(len(self.data.train)).to(self.device)  # at once, not batch by batch
        batches = self.data.train.batches(self.batch_size * at_once, order)
        return (batch["x"] for batch in batches)

    def loader(self) -> DataLoader[Any]:
        """An epoch as tutorials feed it: images decoded one by one."""
        images = datasets.MNIST(self.data_dir, transform=transforms.ToTensor())
        subset = torch.utils.data.Subset(images, range(len(self.data.train)))
        return DataLoader(subset, self.batch_size, shuffle=True)


@dataclass
class Peer:
    """A way of training.

    Attributes:
        step: of a batch, as ``prepare`` has made it.
        epoch: a whole one, with its data; its number is given.
        nets: its encoder and decoder as they are now, to evaluate.
        prepare: of a batch ``[B, 1, 28, 28]``.
        scale: from the encoder's raw scale.
    """

    step: Callable[[Any], Any]
    epoch: Callable[[int], None]
    nets: Callable[[], tuple[nn.Module, nn.Module]]
    prepare: Callable[[Tensor], Any] = lambda x: x
    scale: Callable[[Tensor], Tensor] = F.softplus


def over_batches(setting: Setting, step: Callable[[Tensor], Any]) -> Callable[[int], None]:
    def epoch(number: int) -> None:
        for x in setting.batches(number):
            step(x)

    return epoch


def over_loader(setting: Setting, step: Callable[[Tensor], Any]) -> Callable[[int], None]:
    loader = setting.loader()

    def epoch(_: int) -> None:
        total = 0.0
        for images, _labels in loader:
            total += float(step(torch.bernoulli(images).to(setting.device)))

    return epoch


# Peers


def pyro_example(setting: Setting, loss: Any, fast: bool = False) -> Peer:
    """As examples/vae/vae.py of Pyro has it; ``fast``: data in one tensor and no validation."""
    encoder, decoder = setting.nets()
    names = f"encoder-{id(encoder)}", f"decoder-{id(decoder)}"

    def model(x: Tensor) -> None:
        pyro.module(names[1], decoder)
        with pyro.plate("data", x.shape[0]):
            zeros = x.new_zeros(torch.Size((x.shape[0], setting.latent_dim)))
            z = pyro.sample("latent", dist.Normal(zeros, torch.ones_like(zeros)).to_event(1))
            pyro.sample("obs", dist.Bernoulli(logits=decoder(z), validate_args=False).to_event(3), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module(names[0], encoder)
        with pyro.plate("data", x.shape[0]):
            loc, raw_scale = encoder(x).chunk(2, -1)
            pyro.sample("latent", dist.Normal(loc, F.softplus(raw_scale)).to_event(1))

    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": LR}), loss)

    def step(x: Tensor) -> float:
        with pyro.validation_enabled(not fast), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch.jit
            return svi.step(x) / len(x)

    return Peer(step, (over_batches if fast else over_loader)(setting, step), lambda: (encoder, decoder))


def elbo_loss(
    encoder: nn.Module, decoder: nn.Module, x: Tensor, to_scale: Callable[[Tensor], Tensor] = F.softplus
) -> Tensor:
    """The loss as one writes it by hand, with logits and the KL in closed form."""
    loc, raw_scale = encoder(x).chunk(2, -1)
    scale = to_scale(raw_scale)
    logits = decoder(loc + scale * torch.randn_like(scale))
    reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    kl = 0.5 * (loc.square() + scale.square() - 1).sum() - scale.log().sum()
    return (reconstruction + kl) / len(x)


def of_log_variance(raw: Tensor) -> Tensor:
    """Scale from the logarithm of the variance, as tutorials have it."""
    return torch.exp(0.5 * raw)


UNIT = math.log(math.e - 1)
"""In this package a raw scale of 0 is a scale of 1: softplus(0 + UNIT)."""


def of_ours(raw: Tensor) -> Tensor:
    return F.softplus(raw + UNIT)


def tutorial(setting: Setting) -> Peer:
    """PyTorch as tutorials write it: DataLoader, sigmoid and binary cross-entropy, plain Adam."""
    encoder, decoder = setting.nets()
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], LR)

    def step(x: Tensor) -> float:
        optimizer.zero_grad()
        loc, log_var = encoder(x).chunk(2, -1)
        z = loc + torch.exp(0.5 * log_var) * torch.randn_like(log_var)
        bce = F.binary_cross_entropy(torch.sigmoid(decoder(z)), x, reduction="sum")
        kl = -0.5 * torch.sum(1 + log_var - loc.pow(2) - log_var.exp())
        loss = (bce + kl) / len(x)
        loss.backward()
        optimizer.step()
        return loss.item()

    return Peer(step, over_loader(setting, step), lambda: (encoder, decoder), scale=of_log_variance)


def by_hand(setting: Setting, compiled: bool, precision: str = "float32") -> Peer:
    """PyTorch at its best: data in one tensor, logits, fused Adam, and torch.compile."""
    encoder, decoder = setting.nets()
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, LR, fused=True)

    def loss_of(x: Tensor) -> Tensor:
        with torch.autocast(setting.device.type, torch.bfloat16, enabled=precision == "bf16"):
            return elbo_loss(encoder, decoder, x)

    function = torch.compile(loss_of) if compiled else loss_of

    def step(x: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = function(x)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Peer(step, over_batches(setting, step), lambda: (encoder, decoder))


def by_hand_graphed(setting: Setting, at_once: int = 1) -> Peer:
    """The same, its whole step, or so many, recorded as a CUDA graph for each shape."""
    encoder, decoder = setting.nets()
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, LR, fused=True, capturable=True)
    function = torch.compile(lambda x: elbo_loss(encoder, decoder, x))
    graphs: dict[Any, Any] = {}

    def eager(x: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss: Tensor = function(x)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def step(x: Tensor) -> Tensor:
        if x.shape not in graphs:
            static = x.clone()
            graphs[x.shape] = (
                static,
                *graphed(lambda: [eager(part) for part in static.split(setting.batch_size)]),
            )
        static, replay, losses = graphs[x.shape]
        static.copy_(x)
        replay()
        return losses[-1]

    def epoch(number: int) -> None:
        for x in setting.batches(number, at_once):
            step(x)

    return Peer(step, epoch, lambda: (encoder, decoder))


def graphed(function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """What launches it again as one CUDA graph, and where its results then are."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function()
    return graph.replay, result


def numpyro_example(setting: Setting) -> Peer:
    """As NumPyro's example has it: the loop over an epoch is itself compiled."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # of a GPU that others are on
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as ndist
    from jax.example_libraries import stax

    jax.config.update("jax_default_matmul_precision", "float32")  # which on a GPU is fewer digits, as it is
    latent, pixels = setting.latent_dim, math.prod(setting.data.event_shape)
    pairs = [[layer for layer in net.modules() if isinstance(layer, nn.Linear)] for net in setting.nets()]
    stacks = [
        [part for layer in pair for part in (stax.Dense(layer.out_features), stax.Softplus)] for pair in pairs
    ]
    encoder, decoder = (stax.serial(*stack[:-1]) for stack in stacks)

    def model(x: Any) -> None:
        decode = numpyro.module("decoder", decoder, (len(x), latent))
        with numpyro.plate("batch", len(x)):
            z = numpyro.sample("z", ndist.Normal(0, 1).expand([latent]).to_event(1))
            numpyro.sample("obs", ndist.Bernoulli(logits=decode(z)).to_event(1), obs=x)

    def guide(x: Any) -> None:
        encode = numpyro.module("encoder", encoder, (len(x), pixels))
        loc, raw_scale = jnp.split(encode(x), 2, -1)
        with numpyro.plate("batch", len(x)):
            numpyro.sample("z", ndist.Normal(loc, jax.nn.softplus(raw_scale)).to_event(1))

    svi = numpyro.infer.SVI(model, guide, numpyro.optim.Adam(LR), numpyro.infer.Trace_ELBO())
    size, train = setting.batch_size, setting.data.train
    first = svi.init(jax.random.PRNGKey(0), jnp.zeros((size, pixels)))
    params = svi.get_params(first)
    for name, pair in zip(("encoder$params", "decoder$params"), pairs, strict=True):
        arrays = [
            tuple(jnp.asarray(p.detach().cpu().numpy().T) for p in layer.parameters()) for layer in pair
        ]
        params[name] = [part for array in arrays for part in (array, ())][:-1]
    carry = [first._replace(optim_state=svi.optim.init(params), rng_key=jax.random.PRNGKey(1))]
    update = jax.jit(svi.update)

    @jax.jit
    def run(carry: Any, values: Any, order: Any) -> Any:
        def body(i: Any, carry: Any) -> Any:
            rows = jax.lax.dynamic_slice_in_dim(order, i * size, size)
            return svi.update(carry, values[rows].astype(jnp.float32))[0]

        return jax.lax.fori_loop(0, len(order) // size, body, carry)

    def step(x: Any) -> None:
        carry[0], loss = update(carry[0], x)
        jax.block_until_ready(loss)

    def epoch(number: int) -> None:
        train.redraw(number)
        values = jnp.asarray(train.sources["x"].values.reshape(len(train), pixels).cpu().numpy())
        order = np.random.default_rng(number).permutation(len(train))
        carry[0] = jax.block_until_ready(run(carry[0], values, jnp.asarray(order)))
        rest = order[len(order) // size * size :]
        if len(rest):
            step(values[rest].astype(jnp.float32))

    def nets() -> tuple[nn.Module, nn.Module]:
        pair = setting.nets()
        for name, net in zip(("encoder$params", "decoder$params"), pair, strict=True):
            layers = [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
            trained = [value for value in svi.get_params(carry[0])[name] if value]
            for layer, (weight, bias) in zip(layers, trained, strict=True):
                layer.weight.data.copy_(torch.tensor(np.asarray(weight).T))
                layer.bias.data.copy_(torch.tensor(np.asarray(bias)))
        return pair

    return Peer(step, epoch, nets, lambda x: jnp.asarray(x.reshape(len(x), pixels).cpu().numpy()))


def pythae_trainer(setting: Setting) -> Peer:
    """pythae's own trainer and networks' interface, on binarised data in memory."""
    import logging

    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    logging.disable(logging.INFO)
    inner = setting.nets()

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = inner[0]

        def forward(self, x: Tensor) -> Any:
            loc, log_var = self.net(x).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=log_var)

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = inner[1]

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=torch.sigmoid(self.net(z)))

    shape, train = setting.data.event_shape, setting.data.train
    settings = VAEConfig(input_dim=shape, latent_dim=setting.latent_dim, reconstruction_loss="bce")
    model = VAE(settings, encoder=Encoder(), decoder=Decoder())
    values = BaseDataset(train.sources["x"].values.float(), torch.zeros(len(train)))
    options = BaseTrainerConfig(
        output_dir="pythae", per_device_train_batch_size=setting.batch_size, learning_rate=LR
    )
    trainer = BaseTrainer(model, values, None, options)
    trainer.set_optimizer()
    trainer._setup_callbacks()
    trainer.callback_handler.callbacks = []

    def step(x: Tensor) -> float:
        output = trainer.model({"data": x})
        trainer._optimizers_step(output)
        return float(output.loss)

    def epoch(number: int) -> None:
        train.redraw(number)
        values.data = train.sources["x"].values.float()
        trainer.train_step(number)

    return Peer(step, epoch, lambda: inner, scale=of_log_variance)


def ours(setting: Setting, precision: Any = "float32", compile: bool = True) -> Peer:
    """This package's VAE and step."""
    torch.manual_seed(0)
    vae = pv.VAE(
        setting.data.event_shape, setting.latent_dim, encoder=setting.hidden(), decoder=setting.hidden()
    ).to(setting.device)
    for own, given in zip((vae.q_z.net, vae.p_x.net), setting.nets(), strict=True):
        own.load_state_dict(given.state_dict())
    *_, last = (layer for layer in vae.q_z.net.modules() if isinstance(layer, nn.Linear))
    with torch.no_grad():
        last.bias[setting.latent_dim :] -= UNIT
    graphed = {"capturable": True} if setting.device.type == "cuda" else {}
    optimizer = torch.optim.Adam(
        vae.parameters(), torch.tensor(LR, device=setting.device), fused=True, **graphed
    )
    svi = SVI(
        vae.model, vae.guide, optimizer, Trace_ELBO(), compile=compile, precision=precision, reduction="mean"
    )

    def epoch(number: int) -> None:
        for x in setting.batches(number, AT_ONCE if svi.replays else 1):
            whole = len(x) - len(x) % setting.batch_size
            if len(x) > setting.batch_size:
                svi.steps(None, x[:whole].unflatten(0, (-1, setting.batch_size)))
                x = x[whole:]
            if len(x):
                svi.step(x)

    return Peer(svi.step, epoch, lambda: (vae.q_z.net, vae.p_x.net), scale=of_ours)


def matrix_products(setting: Setting, dtype: torch.dtype) -> Peer:
    """The floor: the products of the dense network's forward and backward passes, and nothing else.

    On a GPU they are one CUDA graph, since launching each would take longer than all of them.
    """
    layers = [layer for net in setting.nets() for layer in net.modules() if isinstance(layer, nn.Linear)]
    size, device = setting.batch_size, setting.device

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype, device=device)

    operands = [
        (random(size, layer.in_features), layer.weight.detach().to(dtype), random(size, layer.out_features))
        for layer in layers
    ]

    def products() -> None:
        for i, (x, weight, gradient) in enumerate(operands):
            x @ weight.t()
            gradient.t() @ x
            if i:  # nobody asks for the gradient of the images
                gradient @ weight

    run = graphed(products)[0] if device.type == "cuda" else products

    def epoch(_: int) -> None:
        for _ in range(-(-len(setting.data.train) // size)):
            run()

    return Peer(lambda _: run(), epoch, setting.nets)


Makers = dict[str, Callable[[Setting], Peer]]
SLOW: Makers = {
    "Pyro's example (SVI, pyro.optim, DataLoader)": lambda s: pyro_example(s, Trace_ELBO()),
    "the same with JitTrace_ELBO": lambda s: pyro_example(s, JitTrace_ELBO()),
    "PyTorch as in tutorials": tutorial,
    "pythae": pythae_trainer,
}
STEPS: Makers = {
    "Pyro, data in one tensor, no validation": lambda s: pyro_example(s, Trace_ELBO(), fast=True),
    "PyTorch by hand, fused Adam": lambda s: by_hand(s, compiled=False),
    "the same, torch.compile": lambda s: by_hand(s, compiled=True),
    "the same, torch.compile, bf16": lambda s: by_hand(s, compiled=True, precision="bf16"),
    "NumPyro": numpyro_example,
    "ours, eager": lambda s: ours(s, compile=False),
    "ours, float32": ours,
    "ours, bf16": lambda s: ours(s, "bf16"),
}
FLOORS: Makers = {
    "float32 products alone": lambda s: matrix_products(s, torch.float32),
    "bf16 products alone": lambda s: matrix_products(s, torch.bfloat16),
}
ON_CUDA: Makers = {
    "PyTorch by hand, compiled, one CUDA graph": by_hand_graphed,
    f"the same, {AT_ONCE} steps one CUDA graph": lambda s: by_hand_graphed(s, AT_ONCE),
}
PEERS = SLOW | STEPS | FLOORS | ON_CUDA
OURS = "ours, float32"
