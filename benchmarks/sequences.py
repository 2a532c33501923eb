"""Sequences: how well is the next step foretold, by a deep Markov model and by what is simpler?

    python benchmarks/sequences.py
    python benchmarks/sequences.py --operations

prints a table: of sequences that were not trained on, the mean of log p(x_t | x_1, ..., x_{t-1}) over the
steps after the fourth, in nats per step. The data are made: of a linear and Normal system of two states, of
which the Kalman filter with the true matrices has the exact value, which nothing can exceed but by chance; of
a system that switches between two such, at random; and of a pendulum, whose angle is seen as its sine, with
noise. Beside it stand an autoregressive model of the last four values, by least squares, and what knows only
mean and variance.

Of ``pv.SequentialVAE`` the value is the difference of log p(x_1, ..., x_T) and log p(x_1, ..., x_4), both by
importance sampling, which is on average too low, and more so for the first. ± is the standard error over
sequences.

With ``--operations`` it prints how many operations a step of training has, by the length of the sequences.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import pyro
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import pyro_vae as pv
from pyro_vae.objectives import log_weights
from pyro_vae.recurrent import Cell
from pyro_vae.seen import observing

STEPS, LAST, PROCESS, NOISE = 40, 4, 0.3, 0.3
TURN = 0.95 * torch.tensor([[math.cos(0.4), -math.sin(0.4)], [math.sin(0.4), math.cos(0.4)]])
BACK = 0.95 * torch.tensor([[math.cos(1.2), math.sin(1.2)], [-math.sin(1.2), math.cos(1.2)]])


def linear(number: int) -> Tensor:
    """Sequences ``[N, T, 1]`` of a state that turns and is pushed, of which one coordinate is seen."""
    return switching(number, 0.0)


def switching(number: int, probability: float = 0.05) -> Tensor:
    """Likewise, but at each step with a probability the turn changes its direction and speed."""
    z, back, seen = torch.randn(number, 2), torch.zeros(number, 1, dtype=torch.bool), []
    for t in range(STEPS):
        if t:
            back = back ^ (torch.rand(number, 1) < probability)
            z = torch.where(back, z @ BACK.T, z @ TURN.T) + PROCESS * torch.randn(number, 2)
        seen.append(z[:, :1] + NOISE * torch.randn(number, 1))
    return torch.stack(seen, 1)


def pendulum(number: int) -> Tensor:
    """The sine of an angle, with noise 0.1, of pendulums that swing, and some of which go round."""
    angle, speed, seen = 2.5 * (2 * torch.rand(number, 1) - 1), 1.5 * torch.randn(number, 1), []
    for _ in range(STEPS):
        for _ in range(6):
            speed = speed - 0.05 * (4 * angle.sin() + 0.1 * speed)
            angle = angle + 0.05 * speed
        seen.append(angle.sin() + 0.1 * torch.randn(number, 1))
    return torch.stack(seen, 1)


def kalman(x: Tensor) -> Tensor:
    """log p(x_t | x_1, ..., x_{t-1}) of the linear system, ``[N, T]``."""
    mean, cov, found = torch.zeros(len(x), 2), torch.eye(2), []
    for t in range(STEPS):
        if t:
            mean, cov = mean @ TURN.T, TURN @ cov @ TURN.T + PROCESS**2 * torch.eye(2)
        variance = cov[0, 0] + NOISE**2
        away = x[:, t, 0] - mean[:, 0]
        found.append(-0.5 * (away.square() / variance + (2 * math.pi * variance).log()))
        gain = cov[:, 0] / variance
        mean, cov = mean + away[:, None] * gain, cov - gain[:, None] * cov[0]
    return torch.stack(found, 1)


def regression(train: Tensor, x: Tensor, order: int) -> Tensor:
    """log p(x_t | the last values) by least squares, ``[N, T - LAST]``."""

    def rows(values: Tensor) -> tuple[Tensor, Tensor]:
        past = [values[:, LAST - k : STEPS - k, 0] for k in range(1, order + 1)]
        return torch.stack([*past, torch.ones_like(values[:, LAST:, 0])], -1), values[:, LAST:, 0]

    seen, target = rows(train)
    weights = torch.linalg.lstsq(seen.flatten(0, 1), target.flatten()[:, None]).solution[:, 0]
    scale = (seen @ weights - target).square().mean().sqrt()
    seen, target = rows(x)
    return torch.distributions.Normal(seen @ weights, scale).log_prob(target)


def markov(train: Tensor, x: Tensor, epochs: int, num_samples: int) -> Tensor:
    """That of a deep Markov model, each sequence's mean over its steps after the first ones, ``[N]``."""
    torch.manual_seed(0)
    vae = pv.SequentialVAE((STEPS, 1), latent_dim=3, transition=pv.nets.gated(32), decoder=pv.nets.mlp(32))
    data = pv.data.load(train)
    pv.fit(vae, data, epochs=epochs, batch_size=50, lr=3e-3, compile=False, progress=False)
    short = x.clone()
    short[:, LAST:] = math.nan
    whole, first = (
        pv.evaluate.log_likelihood(vae, part, num_samples=num_samples, compile=False).per_datum
        for part in (x, short)
    )
    return (whole - first) / (STEPS - LAST)


def operations(length: int, cell: Cell) -> int:
    """How many operations a step of training has."""
    vae = pv.SequentialVAE((length, 1), 3, encoder=pv.nets.recurrent(16, cell=cell))
    parameters = list(vae.parameters())

    def step(x: Tensor) -> object:
        with observing(frozenset()), pyro.validation_enabled(False):
            log_w = log_weights(vae, {"x": x}, 1)
        return torch.autograd.grad(log_w.sum(), parameters)

    return len(make_fx(step)(torch.randn(8, length, 1)).graph.nodes)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--number", type=int, default=1000, help="of sequences to train on")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--num_samples", type=int, default=200, help="importance samples of each sequence")
    parser.add_argument("--operations", action="store_true", help="count operations instead")
    args = parser.parse_args()
    if args.operations:
        for length in (10, 50, 200):
            own, other = operations(length, "minimal"), operations(length, "gru")
            print(f"T = {length:3}: {own:,} operations; with cell='gru' {other:,}", flush=True)
        return
    print(
        "| system | mean and variance | last four values | SequentialVAE | exact |\n|---|---:|---:|---:|---:|"
    )
    systems: dict[str, Callable[[int], Tensor]] = {
        "linear": linear,
        "switching": switching,
        "pendulum": pendulum,
    }
    for name, make in systems.items():
        torch.manual_seed(1)
        train, x = make(args.number), make(200)
        told = [regression(train, x, order).mean(1) for order in (0, LAST)]
        told.append(markov(train, x, args.epochs, args.num_samples))
        told += [kalman(x)[:, LAST:].mean(1)] * (name == "linear")
        cells = [f"{t.mean():.3f} ± {t.std() / len(t) ** 0.5:.3f}" for t in told] + [""] * (name != "linear")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
