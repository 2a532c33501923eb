"""Discrete latents: what vector quantisation gives for its nats, and how far to trust gradients of draws.

    python benchmarks/codes.py
    python benchmarks/codes.py --mnist DIR --epochs 20 --positions 8
    python benchmarks/codes.py --gradients

prints rows for a VAE with ``pv.priors.Codes(512, learned=True)``: the share of codes that no training datum
uses, their perplexity, the rate (nats of KL) and the reconstruction, beside those of a plain VAE of the same
networks, whose rate is set by the weight of its KL (``beta``); between two of these it is read off a line.
As no gradient of a prior reaches the encoder, one training tells what the codes cost under three of them:
all alike, log 512 nats for each code; learned shares of the codes at each position; and shares that a
network gives each code by those before it, as the autoregressive prior of the paper. With ``--gradients`` the
bias and the spread of relaxed and score-function gradients, against the gradient that is summed over all
values, in float64.
"""

from __future__ import annotations

import argparse
import math
import time
from typing import Any

import torch
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.objectives import RLOO


def networks(width: int) -> dict[str, Any]:
    return {"encoder": pv.nets.mlp(width, width), "decoder": pv.nets.mlp(width, width)}


def numbers(vae: pv.VAE, split: Any) -> Tensor:
    """The codes of data, ``[N, M]``."""
    with vae.evaluating():
        parts = [vae.encode(vae.place(batch)["x"]) for batch in split.batches(1000)]
        return torch.cat([q.codes for q in parts])  # type: ignore[attr-defined]


class Following(nn.Module):
    """Shares of each position's codes given those of the positions before it, from the learned shares on."""

    def __init__(self, log_shares: Tensor, width: int = 64):
        super().__init__()
        self.positions, self.number = log_shares.shape
        self.log_shares = log_shares
        self.seen = nn.ModuleList(nn.Embedding(self.number, width) for _ in range(self.positions))
        self.hidden = nn.Parameter(torch.zeros(self.positions, width))
        self.out = nn.Parameter(torch.zeros(self.positions, width, self.number))

    def forward(self, codes: Tensor) -> Tensor:
        """Nats of codes ``[B, M]``, ``[B]``."""
        each = torch.stack([seen(k) for seen, k in zip(self.seen, codes.T, strict=True)], 1)
        before = torch.cat([torch.zeros_like(each[:, :1]), each.cumsum(1)[:, :-1]], 1)
        logits = self.log_shares + torch.einsum("bmw,mwk->bmk", (before + self.hidden).tanh(), self.out)
        return nn.functional.cross_entropy(logits.mT, codes, reduction="none").sum(1)


def following(log_shares: Tensor, train: Tensor, validation: Tensor, test: Tensor, epochs: int = 30) -> float:
    """Nats of the test data's codes by ``Following``, as of the epoch that is best on validation data."""
    torch.manual_seed(0)
    network = Following(log_shares)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=0.03)

    @torch.no_grad()
    def mean(codes: Tensor) -> float:
        return torch.cat([network(part) for part in codes.split(2000)]).mean().item()

    found = [(mean(validation), mean(test))]
    for _ in range(epochs):
        for rows in torch.randperm(len(train)).split(500):
            optimizer.zero_grad()
            network(train[rows]).mean().backward()
            optimizer.step()
        found.append((mean(validation), mean(test)))
        if found[-1][0] > min(found)[0] + 0.5:
            break
    return min(found)[1]


def quantised(data: Any, given: argparse.Namespace) -> dict[str, float]:
    """A VAE of codes, and what its codes are used for."""
    torch.manual_seed(given.seed)
    prior = pv.priors.Codes(given.codes, given.dim, learned=True)
    vae = pv.VAE(data.event_shape, given.positions * given.dim, prior=prior, **networks(given.width))
    began = time.monotonic()
    pv.fit(vae, data, epochs=given.epochs, batch_size=given.batch_size, seed=given.seed, progress=False)
    train = numbers(vae, data.train)
    counts = train.flatten().bincount(minlength=given.codes).double()
    shares = counts / counts.sum()
    terms = pv.evaluate.elbo(vae, data.test)
    seconds = time.monotonic() - began
    log_shares = vae.prior().log_shares.detach()  # type: ignore[attr-defined]
    others = [numbers(vae, split) for split in (data.validation, data.test)]
    return {
        "seconds": seconds,
        "dead": (counts == 0).double().mean().item(),
        "perplexity": torch.special.entr(shares).sum().exp().item(),
        "alike": given.positions * math.log(given.codes),
        "shares": terms.kl,
        "following": following(log_shares, train, *others),
        "reconstruction": terms.reconstruction,
    }


def plain(data: Any, given: argparse.Namespace, beta: float) -> dict[str, float]:
    """A VAE with a Normal prior, whose KL has this weight in training."""
    torch.manual_seed(given.seed)
    vae = pv.VAE(data.event_shape, given.latent_dim, **networks(given.width))
    began = time.monotonic()
    ways: dict[str, Any] = {"epochs": given.epochs, "batch_size": given.batch_size, "seed": given.seed}
    pv.fit(vae, data, beta=beta, warmup_epochs=min(5, given.epochs // 2), progress=False, **ways)
    terms = pv.evaluate.elbo(vae, data.test, num_samples=8)
    seconds = time.monotonic() - began
    return {"seconds": seconds, "rate": terms.kl, "reconstruction": terms.reconstruction}


def told(name: str, row: dict[str, float]) -> str:
    cells = [
        f"{row['rate']:.2f}",
        f"{row['reconstruction']:.2f}",
        f"{row['rate'] + row['reconstruction']:.2f}",
    ]
    cells += [f"{row['dead']:.1%}", f"{row['perplexity']:.0f}"] if "dead" in row else ["", ""]
    return f"| {name} | {' | '.join(cells)} | {row['seconds']:.0f} |"


def rates(given: argparse.Namespace) -> None:
    """The table of rates and reconstructions, on test data."""
    if given.mnist:
        data = pv.data.load("mnist", data_dir=given.mnist, binarize="dynamic")
    else:
        data = pv.data.load("digits", binarize="dynamic")
    print("| | rate | reconstruction | sum | dead codes | perplexity | seconds |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    found = quantised(data, given)
    names = {"alike": "all alike", "shares": "learned shares", "following": "given those before"}
    for prior, name in names.items():
        row = found | {"rate": found[prior]}
        print(told(f"{given.positions} of {given.codes} codes, {name}", row), flush=True)
    points = {}
    for beta in given.betas:
        points[beta] = plain(data, given, beta)
        print(told(f"Normal prior, beta = {beta:g}", points[beta]), flush=True)
    line = sorted((row["rate"], row["reconstruction"]) for row in points.values())
    for prior, name in names.items():
        if line and line[0][0] <= found[prior] <= line[-1][0]:
            after = next(i for i, (rate, _) in enumerate(line) if rate >= found[prior]) or 1
            (low, first), (high, last) = line[after - 1], line[after]
            at = first + (last - first) * (found[prior] - low) / (high - low)
            own = found["reconstruction"]
            print(f"at a rate of {found[prior]:.2f} nats ({name}): codes {own:.2f}, Normal {at:.2f}")


PROBLEMS = {
    "4 bits": lambda: (4, pv.priors.Bernoulli()),
    "12 bits": lambda: (12, pv.priors.Bernoulli()),
    "one of 10": lambda: (10, pv.priors.OneHotCategorical(10)),
    "three of 10": lambda: (30, pv.priors.OneHotCategorical(10)),
}


def gradients(draws: int, seed: int = 0) -> None:
    """The table of biases and spreads, of the guide's logits, relative to the norm of the exact gradient.

    A spread is that of an estimate from four draws, what all of them cost.
    """
    torch.set_default_dtype(torch.float64)
    ways = {f"relaxed, temperature {t:g}": t for t in (1.0, 0.5, 0.1)}
    print("| latents | gradient | bias | spread |")
    print("|---|---|---:|---:|")
    for name, make in PROBLEMS.items():
        number, prior = make()
        torch.manual_seed(seed)
        parts = {"prior": prior, "likelihood": pv.likelihoods.Normal(scale=0.7)} | networks(16)
        vae = pv.VAE((6,), number, **parts).double()
        with torch.no_grad():
            for p in vae.p_x.parameters():
                p.mul_(2.0)  # so that x depends on z
            x = vae.decode(vae.prior().sample((1,))).sample()
        exact = _exact(vae, x)
        for way, temperature in [*ways.items(), ("score function", None), ("score function, RLOO", None)]:
            found = _drawn(vae, x.expand(draws, -1), way, temperature)
            off = (found.mean(0) - exact).norm() / exact.norm()
            spread = found.var(0).sum().sqrt() / exact.norm()
            error = spread / draws**0.5
            print(f"| {name} | {way} | {off:.3f} ± {error:.3f} | {spread:.2f} |", flush=True)


def _exact(vae: pv.VAE, x: Tensor) -> Tensor:
    """The gradient of the ELBO by the logits, over all values."""
    raw = vae.q_z.emit(x).detach().requires_grad_()
    q: Any = vae.q_z.distribution(raw)
    z = q.enumerate_support()[:, 0]
    log_q = q.log_prob(z)
    elbo = (log_q.exp() * (vae.decode(z).log_prob(x) + vae.prior().log_prob(z) - log_q)).sum()
    return torch.autograd.grad(elbo, raw)[0][0]


def _drawn(vae: pv.VAE, x: Tensor, way: str, temperature: float | None) -> Tensor:
    """Of each row, which are all alike, the mean of four gradients: ``[N, D]``."""
    raw = vae.q_z.emit(x).detach().requires_grad_()
    q = pv.distributions.Discrete(raw, vae.q_z.family.num_classes, temperature)  # type: ignore[arg-type]
    z = q.expand((4, len(x))).rsample()
    log_w = vae.decode(z).log_prob(x) + vae.prior().log_prob(z) - q.log_prob(z)
    surrogate = log_w
    if temperature is None:
        # As the class has it, where the others' mean is that of the same datum.
        others = (log_w.sum(0) - log_w) / 3 if way.endswith(RLOO.__name__) else torch.zeros_like(log_w)
        surrogate = (log_w - others).detach() * q.log_prob(z)
    return torch.autograd.grad(surrogate.mean(0).sum(), raw)[0]


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gradients", action="store_true", help="of draws, against the sum over all values")
    parser.add_argument("--draws", type=int, default=20_000, help="estimates of each gradient")
    parser.add_argument("--mnist", metavar="DIR", help="MNIST, in this folder, and not digits")
    parser.add_argument("--codes", type=int, default=512)
    parser.add_argument("--dim", type=int, default=16, help="numbers of a code")
    parser.add_argument("--positions", type=int, default=4, help="codes of a datum")
    parser.add_argument("--latent-dim", type=int, default=20, help="of the plain VAE")
    parser.add_argument("--width", type=int, default=256, help="of both hidden layers")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument(
        "--betas", type=float, nargs="*", default=[1.0, 0.5, 0.25], help="of the plain VAE; none: codes"
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.gradients:
        gradients(given.draws)
    else:
        rates(given)


if __name__ == "__main__":
    main()
