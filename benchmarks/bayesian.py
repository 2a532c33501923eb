"""Are latent weights, and steps for each datum, worth it? On few of scikit-learn's digits, and on all.

    python benchmarks/bayesian.py

trains VAEs of the same networks (64-100-D and back) on ``--numbers`` of the digits: with ordinary weights,
with latent ones (independent Normals, and of low rank), and with a guide that takes steps for each datum; and
prints the ELBO and log p(x) of 400 other digits, in nats per datum, with the time that training took.

    python benchmarks/bayesian.py --curve

instead fits x = sin(2 t) + 0.1 noise, t in [-3, -1] and [1, 3], by a network of 12-12 units, whose mean ought
to be off by far less than the noise: with ordinary weights, and with latent ones by 1 and by 10 draws a step.
"""

from __future__ import annotations

import argparse
import time
import warnings

import torch
from pyro.infer import Trace_ELBO

import pyro_vae as pv

NET = pv.nets.mlp(100)
PARTS = {
    "ordinary": {},
    "bayesian": {"decoder": pv.nets.bayesian(NET)},
    "bayesian, low rank": {"decoder": pv.nets.bayesian(NET, guide=pv.guides.LowRankNormal(5))},
    "semi-amortised": {"guide": pv.guides.SemiAmortised()},
}


def curve(steps: int) -> None:
    """Prints what a curve of few and of more data is taken for."""
    net = pv.nets.mlp(12, 12)
    print("| training data | weights | draws a step | ELBO | error of the mean |\n|---|---|---|---|---|")
    for number in (250, 1000):
        torch.manual_seed(0)
        t = (1 + 2 * torch.rand(number, 1)) * torch.where(torch.arange(number) % 2 > 0, 1.0, -1.0)[:, None]
        x = torch.sin(2 * t) + 0.1 * torch.randn(number, 1)
        data = pv.data.load({"x": x, "t": t}, validation=0.0, test=0.0)
        batch = number // 5
        for name, decoder, draws in (
            ("ordinary", net, 1),
            ("latent", pv.nets.bayesian(net), 1),
            ("latent", pv.nets.bayesian(net), 10),
        ):
            torch.manual_seed(0)
            noise = pv.likelihoods.Normal(scale="shared")
            parts = {"likelihood": noise, "encoder": net, "decoder": decoder}
            vae = pv.ConditionalVAE((1,), given={"t": (1,)}, latent_dim=1, **parts)
            loss = Trace_ELBO(num_particles=draws, vectorize_particles=True)
            options = {"batch_size": batch, "lr": 1e-2, "schedule": "cosine", "loss": loss}
            run = pv.fit(vae, data, epochs=steps // 5, compile=False, progress=False, **options)
            drawn = [vae.generate(number, given={"t": t}, seed=seed)["x"] for seed in range(20)]
            error = (torch.stack(drawn).mean(0) - torch.sin(2 * t)).square().mean().sqrt()
            print(
                f"| {number} | {name} | {draws} | {run.history[-1]['elbo']:.2f} | {error:.2f} |", flush=True
            )


def main() -> None:
    """Prints one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--numbers", type=int, nargs="+", default=[100, 1000], help="of training data")
    parser.add_argument("--steps", type=int, default=2000, help="of training")
    parser.add_argument("--latent-dim", type=int, default=5)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--num-samples", type=int, default=200)
    parser.add_argument("--curve", action="store_true", help="fit a curve instead")
    given = parser.parse_args()
    if given.curve:
        curve(given.steps)
    else:
        digits(given)


def digits(given: argparse.Namespace) -> None:
    """Prints what digits of few and of more data give."""
    warnings.simplefilter("ignore", pv.program.DataWarning)
    loaded = pv.data.load("digits", binarize="threshold")
    x = torch.cat([split.batch(slice(0, len(split)))["x"] for split in (loaded.train, loaded.test)])
    others = x[-400:]
    print("| training data | parts | ELBO of others | log p(x) of others | seconds |\n|---|---|---|---|---|")
    for number in given.numbers:
        data = pv.data.load(x[:number], validation=0.0, test=0.0)
        epochs = max(1, given.steps * 50 // number)
        for name in given.parts:
            torch.manual_seed(0)
            parts = {"encoder": NET, "decoder": NET} | PARTS[name]
            vae = pv.VAE(data.event_shape, given.latent_dim, **parts)
            began = time.perf_counter()
            pv.fit(vae, data, epochs=epochs, batch_size=50, lr=2e-3, compile=False, progress=False)
            seconds = time.perf_counter() - began
            bound = pv.evaluate.elbo(vae, others)
            estimate = pv.evaluate.log_likelihood(vae, others, num_samples=given.num_samples)
            print(
                f"| {number} | {name} | {bound.elbo:.2f} ± {bound.standard_error:.2f} "
                f"| {estimate.log_likelihood:.2f} ± {estimate.standard_error:.2f} | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
