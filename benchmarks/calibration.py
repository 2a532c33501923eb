"""Does calibration find out a guide that is too narrow or too wide, and leave alone one that is exact?

    python benchmarks/calibration.py

prints a table: of linear Normal systems whose posterior is known, of every structure and with missing values,
how often ``pv.evaluate.calibration`` has p below 0.05 in repeated runs, at its default number of simulations:
with the posterior as the guide (5 % or less are wanted), and with one whose scale is 0.8 or 1.25 of the
posterior's (95 % or more). Each run has a seed of its own. The last column is of guides of which one latent
alone is too narrow, the hardest of these to see.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

import pyro_vae as pv

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "models"))
from linear import EXACT, SCALE, _fill, system

WIDER = (1.0, 0.8, 1.25)
Made = tuple[pv.Program, dict[str, torch.Tensor] | None]


def small(kind: str, missing: bool) -> Callable[[torch.Tensor], Made]:
    """A system of the tests, with the guide as many times as wide as it should be."""

    def make(wider: torch.Tensor) -> Made:
        s = system(kind, missing, exact=True, number=50, wider=wider)
        return s.program, s.batch if missing else None

    return make


def large(latents: int) -> Callable[[torch.Tensor], Made]:
    """A linear VAE of so many latents, of columns of W at right angles."""

    def make(wider: torch.Tensor) -> Made:
        torch.manual_seed(0)
        linear = {"encoder": pv.nets.mlp(), "decoder": pv.nets.mlp()}
        vae = pv.VAE((2 * latents,), latents, likelihood=pv.likelihoods.Normal(scale=SCALE), **linear)
        with torch.no_grad():
            decoder = vae.p_x.net.layers[0]
            q, _ = torch.linalg.qr(torch.randn(2 * latents, latents))
            length = torch.linspace(0.2, 2.0, latents)
            decoder.weight.copy_(q * length)
            decoder.bias.zero_()
            precision = 1 + length.square() / SCALE**2
            weight = decoder.weight.mT / SCALE**2 / precision[:, None]
            _fill(vae.q_z, weight, torch.zeros(latents), wider * precision.rsqrt())
        return vae, None

    return make


SYSTEMS = (
    {kind: small(kind, False) for kind in EXACT}
    | {f"{kind}, missing values": small(kind, True) for kind in EXACT}
    | {f"VAE, {latents} latents": large(latents) for latents in (20, 50)}
)


def alarms(make: Callable[[torch.Tensor], Made], wider: torch.Tensor, runs: int) -> int:
    """How many runs have p below 0.05."""
    program, data = make(wider)
    return sum(
        pv.evaluate.calibration(program, data, max_rows=20_000, seed=i).p_value < 0.05 for i in range(runs)
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--only", help="systems whose name holds this text")
    given = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    print(f"| system | {' | '.join(f'scale {wider:g}' for wider in WIDER)} | one latent 0.8 |")
    print("|---|---:|---:|---:|---:|")
    for name, make in SYSTEMS.items():
        if given.only and given.only not in name:
            continue
        counts = [alarms(make, torch.tensor(wider), given.runs) for wider in WIDER]
        one = torch.ones(int(name.split()[1]) if "latents" in name else 2)
        one[0] = 0.8
        counts.append(alarms(make, one, given.runs))
        print(f"| {name} | {' | '.join(f'{count} of {given.runs}' for count in counts)} |", flush=True)


if __name__ == "__main__":
    main()
