"""Sequences: how well is the next step foretold, by a deep Markov model and by what is simpler?

    pip install statsmodels
    python benchmarks/sequences.py
    python benchmarks/sequences.py --operations
    python benchmarks/sequences.py --guides
    python benchmarks/sequences.py --gaps

prints a table: of sequences that were not trained on, the mean of log p(x_t | x_1, ..., x_{t-1}) over the
steps after the eighth, in nats per step. Three data sets are made, 40 steps each, and their truth is known: a
linear and Normal system of two states; one that switches between two such, at random; and a pendulum that is
pushed at random, whose angle is seen as its sine, with noise. Two are series that statsmodels brings, cut
into windows of 24: the square roots of the yearly numbers of sunspots, trained on 1700 to 1899, and the
monthly temperatures of the sea off Peru (elnino), trained on 1950 to 1989; both standardised.

Beside ``pv.SequentialVAE`` stand what knows mean and variance only; an autoregressive model of the last eight
values, by least squares; a Kalman filter of three states whose matrices are fitted to 200 of the sequences by
maximum likelihood, the best of two starts; and the truth: that filter with the true matrices, and of the
others a particle filter with the true system, which nothing exceeds but by chance.

Of ``pv.SequentialVAE`` it is also a particle filter, with the transition and the likelihood that it learned:
what its model foretells, whatever its guide. It is trained by ``pv.fit`` as it is, but for batches of 100, in
800 steps, which for made data are 100 epochs. ± is the standard error over sequences, of the training by one
seed; that of two columns' difference is smaller, as both are of the same sequences.

With ``--short`` the made data to train on are the windows of one series of 480 steps, as those of the others
are; ``--decay`` is that of the weights in training ``pv.SequentialVAE``.

With ``--guides`` it prints what linear system the first of them is learned as, of the ELBO alone: with an
encoder that can tell anything, and without end of data, so that all is in closed form.

With ``--gaps`` six steps in the midst of sequences of the linear system are filled by ``pv.predict``, with
an encoder that saw no gaps in training, and with one that did; of 50 sequences, 100 draws of each. "Off" is
the root mean square of what the draws' mean is away from the exact one (that of the Kalman smoother with the
true matrices), in its standard deviations, of which the 100 draws alone make 0.1.

With ``--operations`` it prints how many operations a step of training has, by the length of the sequences,
and with ``--compile`` also the processor's seconds of the second one, in which it is compiled.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.fx.experimental.proxy_tensor import make_fx

import pyro_vae as pv
from pyro_vae.objectives import log_weights
from pyro_vae.program import DataWarning
from pyro_vae.seen import observing
from pyro_vae.svi import SVI

STEPS, WINDOW, LAST, STATES, PARTICLES = 40, 24, 8, 3, 1000
TURN = 0.95 * torch.tensor([[math.cos(0.4), -math.sin(0.4)], [math.sin(0.4), math.cos(0.4)]])
BACK = 0.95 * torch.tensor([[math.cos(1.2), math.sin(1.2)], [-math.sin(1.2), math.cos(1.2)]])


@dataclass
class System:
    """States that follow each other, ``[..., S]``, and what is seen of them: one value, with noise."""

    start: Callable[..., Tensor]
    step: Callable[[Tensor], Tensor]
    seen: Callable[[Tensor], Tensor]
    noise: float

    def log_prob(self, z: Tensor, x: Tensor) -> Tensor:
        """log p(x_t | z_t)."""
        return Normal(self.seen(z), self.noise).log_prob(x[..., 0])

    def draw(self, number: int, steps: int = STEPS) -> Tensor:
        """Sequences ``[N, T, 1]``."""
        z, found = self.start(number), []
        for t in range(steps):
            z = self.step(z) if t else z
            found.append(self.seen(z) + self.noise * torch.randn(number))
        return torch.stack(found, 1)[..., None]


def filtered(
    start: Callable[..., Tensor], step: Callable[[Tensor], Tensor], log_prob: Callable[..., Tensor], x: Tensor
) -> Tensor:
    """log p(x_t | x_1, ..., x_{t-1}), ``[N, T]``, by a particle filter (Gordon, Salmond and Smith, 1993)."""
    z, found = start(len(x), PARTICLES), []
    for t in range(x.shape[1]):
        z = step(z) if t else z
        log_p = log_prob(z, x[:, t, None])
        found.append(log_p.logsumexp(1) - math.log(PARTICLES))
        # Systematic: one number for each sequence, and as many copies as the weight says, give or take one.
        ends = log_p.softmax(1).cumsum(1)
        places = (torch.arange(PARTICLES) + torch.rand(len(x), 1)) / PARTICLES
        chosen = torch.searchsorted(ends.contiguous(), places).clamp(max=PARTICLES - 1)
        z = z.gather(1, chosen[..., None].expand_as(z))
    return torch.stack(found, 1)


def _turned(z: Tensor, probability: float) -> Tensor:
    """Two coordinates, turned and pushed; the third tells in which of two ways, and changes at times."""
    change = torch.rand(z.shape[:-1]) < probability
    back = torch.where(change, 1 - z[..., 2], z[..., 2])
    turned = torch.where(back[..., None] > 0.5, z[..., :2] @ BACK.T, z[..., :2] @ TURN.T)
    return torch.cat([turned + 0.3 * torch.randn(turned.shape), back[..., None]], -1)


def _turning(probability: float) -> System:
    return System(
        lambda *shape: torch.cat([torch.randn(*shape, 2), torch.zeros(*shape, 1)], -1),
        lambda z: _turned(z, probability),
        lambda z: z[..., 0],
        0.3,
    )


def _swing(z: Tensor) -> Tensor:
    """Angle and speed after a while, and a push."""
    angle, speed = z.unbind(-1)
    for _ in range(6):
        speed = speed - 0.05 * (4 * angle.sin() + 0.1 * speed)
        angle = angle + 0.05 * speed
    return torch.stack([angle, speed + 0.2 * torch.randn(speed.shape)], -1)


MADE = {
    "linear (made)": _turning(0.0),
    "switching (made)": _turning(0.05),
    "pendulum (made)": System(
        lambda *shape: torch.stack([5 * torch.rand(shape) - 2.5, 1.5 * torch.randn(shape)], -1),
        _swing,
        lambda z: z[..., 0].sin(),
        0.1,
    ),
}


def series() -> dict[str, tuple[Tensor, Tensor]]:
    """Windows ``[N, T, 1]`` to train on and others, each after the end of the first ones."""
    from statsmodels.datasets import elnino, sunspots

    yearly = sunspots.load_pandas().data["SUNACTIVITY"].to_numpy() ** 0.5
    monthly = elnino.load_pandas().data.iloc[:, 1:].to_numpy().flatten()
    found = {}
    for name, values, end in (("sunspots", yearly, 200), ("elnino", monthly, 480)):
        x = torch.tensor(values, dtype=torch.float32)
        x = (x - x[:end].mean()) / x[:end].std()
        # Every window, and others of which each foretells what follows the one before.
        cut = x[:end].unfold(0, WINDOW, 1), x[end:].unfold(0, WINDOW, WINDOW - LAST)
        found[f"{name} (statsmodels)"] = (cut[0][..., None], cut[1][..., None])
    return found


def kalman(x: Tensor, a: Tensor, c: Tensor, q: Tensor, r: Tensor, p: Tensor, offset: Tensor) -> Tensor:
    """log p(x_t | x_1, ..., x_{t-1}), ``[N, T]``; covariances p of z_1, q, r."""
    mean, cov, found = x.new_zeros(len(x), len(a)), p, []
    for t in range(x.shape[1]):
        if t:
            mean, cov = mean @ a.T, a @ cov @ a.T + q
        along = cov @ c
        variance = along @ c + r
        away = x[:, t, 0] - mean @ c - offset
        found.append(-0.5 * (away.square() / variance + (2 * math.pi * variance).log()))
        mean, cov = mean + away[:, None] * (along / variance), cov - torch.outer(along, along) / variance
    return torch.stack(found, 1)


def fitted(train: Tensor, x: Tensor) -> Tensor:
    """That of a Kalman filter whose matrices are fitted to other sequences by maximum likelihood."""
    train, x, found = train[torch.randperm(len(train))[:200]].double(), x.double(), []
    for seed in range(8):
        if len(found) == 2:
            break
        torch.manual_seed(seed)
        parameters = [
            0.8 * torch.linalg.qr(torch.randn(STATES, STATES)).Q,
            torch.randn(STATES),
            torch.full((STATES,), -1.0),
            torch.tensor(-1.0),
            torch.zeros(STATES),
            train.mean(),
        ]
        parameters = [p.double().contiguous().requires_grad_() for p in parameters]
        optimizer = torch.optim.LBFGS(parameters, max_iter=50, line_search_fn="strong_wolfe")

        def told(
            values: Tensor, a: Tensor, c: Tensor, q: Tensor, r: Tensor, p: Tensor, offset: Tensor
        ) -> Tensor:
            return kalman(values, a, c, q.exp().diag(), r.exp(), p.exp().diag(), offset)

        def loss(optimizer=optimizer, parameters=parameters, told=told) -> Tensor:  # type: ignore[no-untyped-def]
            optimizer.zero_grad()
            value = -told(train, *parameters).mean()
            value.backward()
            return value

        optimizer.step(loss)
        with torch.no_grad():
            reached = float(told(train, *parameters).mean())
            if math.isfinite(reached):  # a start may run away
                found.append((reached, told(x, *parameters)))
    return max(found, key=lambda pair: pair[0])[1].float()


def regression(train: Tensor, x: Tensor, order: int) -> Tensor:
    """log p(x_t | the last values) by least squares, ``[N, T - LAST]``."""

    def rows(values: Tensor) -> tuple[Tensor, Tensor]:
        steps = values.shape[1]
        past = [values[:, LAST - k : steps - k, 0] for k in range(1, order + 1)]
        return torch.stack([*past, torch.ones_like(values[:, LAST:, 0])], -1), values[:, LAST:, 0]

    seen, target = rows(train)
    weights = torch.linalg.lstsq(seen.flatten(0, 1), target.flatten()[:, None]).solution[:, 0]
    scale = (seen @ weights - target).square().mean().sqrt()
    seen, target = rows(x)
    return Normal(seen @ weights, scale).log_prob(target)


def trained(train: Tensor, steps: int, guide: pv.families.Family, decay: float = 0.0) -> pv.SequentialVAE:
    """A deep Markov model."""
    torch.manual_seed(0)
    vae = pv.SequentialVAE(
        tuple(train.shape[1:]),
        latent_dim=STATES,
        transition=pv.nets.gated(32),
        decoder=pv.nets.mlp(32),
        likelihood=pv.likelihoods.Normal(scale="shared"),
        guide=guide,
        encoder=pv.nets.recurrent(32),
    )
    epochs = math.ceil(steps * 100 / (0.8 * len(train)))
    optimizer = functools.partial(torch.optim.AdamW, weight_decay=decay) if decay else torch.optim.Adam
    data = pv.data.load(train)
    pv.fit(vae, data, epochs=epochs, batch_size=100, optimizer=optimizer, compile=False, progress=False)
    return vae


def markov(train: Tensor, x: Tensor, steps: int, guide: pv.families.Family, decay: float = 0.0) -> Tensor:
    """log p(x_t | x_1, ..., x_{t-1}) of a deep Markov model, ``[N, T]``."""
    vae = trained(train, steps, guide, decay)
    with vae.evaluating():
        chain = vae.prior()
        return filtered(
            lambda *shape: chain.initial.sample(shape),
            lambda z: chain.transition(z).sample(),
            lambda z, v: vae.p_x.family.family(vae.p_x.net.net(z)).log_prob(v),
            x,
        )


def precision(a: Tensor, q: Tensor, p: Tensor) -> Tensor:
    """Of all states of a linear system in one vector, ``[STEPS L, STEPS L]``; variances p of z_1, q."""
    before = torch.ones(STEPS - 1, dtype=a.dtype).diag(-1)
    slope = torch.eye(STEPS * len(a), dtype=a.dtype) - torch.kron(before, a)
    return slope.T @ (slope / torch.cat([p, q.repeat(STEPS - 1)])[:, None])


def log_det(matrix: Tensor) -> Tensor:
    """Of a positive definite one; ``torch.logdet`` takes any."""
    return 2 * torch.linalg.cholesky(matrix).diagonal().log().sum()


def best_elbo(system: list[Tensor], guide: str, truth: Tensor) -> Tensor:
    r"""The mean ELBO of a linear system, nats per sequence, with the best guide of a kind.

    The posterior is Normal, of a precision :math:`\Lambda` that is the same for all x. Of guides that are
    products of parts the best has the precisions :math:`\Lambda_{ii}` (Bishop, 2006, section 10.1), and its
    KL from the posterior is half of :math:`\sum_i \log |\Lambda_{ii}| - \log |\Lambda|`: of the diagonal
    guide parts are a state's values at all steps, of independent steps all single values. Of the full one
    they are the values of a step, once later steps are integrated out.

    Args:
        system: a, c, and the logarithms of q, r, p, as in ``kalman``; variances.
        guide: "Markov()", "Markov('diagonal')", "Normal()", or else the posterior.
        truth: the covariance of x, ``[STEPS, STEPS]``.
    """
    a, c, q, r, p = *system[:2], *(part.exp() for part in system[2:])
    size, prior = len(a), precision(a, q, p)
    seen = torch.kron(torch.eye(STEPS, dtype=a.dtype), c[None])
    posterior = prior + seen.T @ seen / r
    cov = seen @ torch.linalg.solve(prior, seen.T) + r * torch.eye(STEPS, dtype=a.dtype)
    told = torch.linalg.solve(cov, truth).trace() + log_det(cov) + STEPS * math.log(2 * math.pi)
    whole = parts = log_det(posterior)
    if guide == "Markov('diagonal')":
        parts = torch.stack([log_det(posterior[i::size, i::size]) for i in range(size)]).sum()
    elif guide == "Normal()":
        parts = posterior.diagonal().log().sum()
    elif guide == "Markov()":
        steps = [range(t * size, (t + 1) * size) for t in range(STEPS)]
        own = posterior[steps[-1]][:, steps[-1]]
        parts = own.diagonal().log().sum()
        for before, step in zip(steps[-2::-1], steps[:0:-1], strict=True):
            cross = posterior[step][:, before]
            own = posterior[before][:, before] - cross.T @ torch.linalg.solve(own, cross)
            parts = parts + own.diagonal().log().sum()
    return -0.5 * (told + parts - whole)


def bent(guide: str) -> tuple[float, float, float]:
    """What the linear system is learned as: radians a step, what is left of a state, log p(x) per step."""
    eye = torch.eye(2, dtype=torch.float64)
    logs = [torch.full((2,), 0.09).double().log(), torch.tensor(0.09).double().log(), torch.zeros(2).double()]
    system = [TURN.double(), eye[0], *logs]
    seen = torch.kron(torch.eye(STEPS).double(), eye[:1])
    prior = precision(system[0], logs[0].exp(), logs[2].exp())
    truth = seen @ torch.linalg.solve(prior, seen.T) + logs[1].exp() * torch.eye(STEPS).double()
    system = [part.clone().requires_grad_() for part in system]
    optimizer = torch.optim.LBFGS(system, max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = -best_elbo(system, guide, truth) / STEPS
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        turn = torch.linalg.eigvals(system[0])
        log_p = best_elbo(system, "the posterior", truth) / STEPS
        return float(turn.angle().abs().max()), float(turn.abs().max()), float(log_p)


def hidden(x: Tensor, generator: torch.Generator) -> Tensor:
    """With a gap of one to ten steps, anywhere, in each second sequence."""
    x, (number, steps) = x.clone(), x.shape[:2]
    start = torch.randint(steps, (number, 1), generator=generator)
    end = start + torch.randint(1, 11, (number, 1), generator=generator)
    time = torch.arange(steps)
    gap = (start <= time) & (time < end)
    gap[::2] = False
    x[gap] = math.nan
    return x


def gaps(number: int, steps: int, guide: pv.families.Family) -> None:
    """Prints how well gaps are filled."""
    torch.manual_seed(1)
    train, x = (MADE["linear (made)"].draw(n) for n in (number, 50))
    one, gap = torch.eye(2)[:1], torch.zeros(STEPS, dtype=torch.bool)
    gap[17:23] = True
    seen = torch.kron(torch.eye(STEPS), one)
    cov = seen @ torch.linalg.solve(precision(TURN, torch.full((2,), 0.09), torch.ones(2)), seen.T)
    cov = cov + 0.09 * torch.eye(STEPS)
    gain = torch.linalg.solve(cov[~gap][:, ~gap], cov[~gap][:, gap]).T
    mean = x[:, ~gap, 0] @ gain.T
    scale = (cov[gap][:, gap] - gain @ cov[~gap][:, gap]).diagonal().sqrt()
    shown = x.clone()
    shown[:, gap] = math.nan
    print("| trained on | draws by | effective sample size | off | their scale | in 90 % |")
    print("|---|---|---:|---:|---:|---:|")
    for name, data in (
        ("whole sequences", train),
        ("half with gaps", hidden(train, torch.Generator().manual_seed(2))),
    ):
        vae = trained(data, steps, guide)
        for way in ({}, {"num_particles": 10_000}, {"hmc": 20}):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DataWarning)
                drawn = pv.predict(vae, shown, **way)
            draws = drawn["x"][:, :, gap, 0]
            off = ((draws.mean(0) - mean) / scale).square().mean().sqrt()
            low, high = drawn.quantile([0.05, 0.95])[:, :, gap, 0]
            inside = ((low < x[:, gap, 0]) & (x[:, gap, 0] < high)).float().mean()
            told = ", ".join(f"{key}={value}" for key, value in way.items()) or "predict as it is"
            print(
                f"| {name} | {told} | {drawn.effective_sample_size.median():.0f} | {off:.2f} | "
                f"{(draws.std(0) / scale).mean():.2f} | {inside:.2f} |",
                flush=True,
            )


def step_of(length: int, **parts: object) -> tuple[Callable[[Tensor], object], pv.SequentialVAE]:
    """A step of training but for the update, and its program."""
    vae = pv.SequentialVAE((length, 1), 3, **parts)  # type: ignore[arg-type]
    parameters = list(vae.parameters())

    def step(x: Tensor) -> object:
        with observing(frozenset()), pyro.validation_enabled(False):
            log_w = log_weights(vae, {"x": x}, 1)
        return torch.autograd.grad(log_w.sum(), parameters)

    return step, vae


WAYS: dict[str, dict[str, object]] = {
    "as it is": {"encoder": pv.nets.recurrent(16)},
    'cell="gru"': {"encoder": pv.nets.recurrent(16, cell="gru")},
    "guides.Structured": {"encoder": pv.nets.recurrent(16), "guide": pv.guides.Structured(features=16)},
}


def operations(lengths: list[int], ways: list[str], compiles: bool) -> None:
    """Prints how many operations a step has, and the time of processors that compiling it takes."""
    print(f"| steps of time | {' | '.join(ways)} |\n|---:|{'---:|' * len(ways)}")
    for length in lengths:
        cells = []
        for name in ways:
            torch.manual_seed(0)
            x = torch.randn(8, length, 1)
            step, vae = step_of(length, **WAYS[name])
            cell = f"{len(make_fx(step)(x).graph.nodes):,}"
            if compiles:
                optimizer = torch.optim.Adam(vae.parameters())
                svi = SVI(vae.model, vae.guide, optimizer, pyro.infer.Trace_ELBO(), compile=True)
                svi.step(x)
                began = sum(os.times()[:4])
                svi.step(x)  # which is compiled
                cell += f", {sum(os.times()[:4]) - began:.0f} s"
            cells.append(cell)
        print(f"| {length} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--number", type=int, default=1000, help="of made sequences to train on")
    parser.add_argument("--steps", type=int, default=800, help="of training")
    parser.add_argument(
        "--short", action="store_true", help="train on windows of one made series of 480 steps"
    )
    parser.add_argument("--decay", type=float, default=0.0, help="of the weights, by AdamW")
    parser.add_argument(
        "--guide", default="Markov()", help="another: Markov('diagonal'), Structured(features=32)"
    )
    parser.add_argument("--only", nargs="+", help="parts of the names of the data, or columns")
    parser.add_argument("--guides", action="store_true", help="what a linear system is learned as instead")
    parser.add_argument("--gaps", action="store_true", help="fill gaps instead")
    parser.add_argument("--operations", action="store_true", help="count operations instead")
    parser.add_argument("--compile", action="store_true", help="with --operations, and compile")
    parser.add_argument("--lengths", type=int, nargs="+", default=[8, 32, 128])
    args = parser.parse_args()
    if args.operations or args.compile:
        # Else a cache, and threads whose time is not ours, take what is to be measured.
        os.environ |= {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        ways = [name for name in WAYS if not args.only or any(part in name for part in args.only)]
        operations(args.lengths, ways, args.compile)
        return
    if args.guides:
        print("| guide | radians a step | left of a state | log p(x), nats per step |\n|---|---:|---:|---:|")
        for name in ("the posterior", "Markov()", "Markov('diagonal')", "Normal()"):
            turn, left, log_p = bent(name)
            print(f"| {name} | {turn:.3f} | {left:.3f} | {log_p:.3f} |", flush=True)
        return
    guide = pv.registry.read("guide", args.guide)
    if args.gaps:
        gaps(args.number, args.steps, guide)
        return
    print("| | mean and variance | last 8 values | Kalman, fitted | SequentialVAE | truth |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in [*MADE, "sunspots (statsmodels)", "elnino (statsmodels)"]:
        if args.only and not any(part in name for part in args.only):
            continue
        torch.manual_seed(1)
        truth = []
        if name in MADE:
            if args.short:
                train = MADE[name].draw(1, 480).unfold(1, WINDOW, 1)[0].mT
            else:
                train = MADE[name].draw(args.number)
            x = MADE[name].draw(200)
            if name.startswith("linear"):
                eye = torch.eye(2)
                one = [TURN, eye[0], 0.09 * eye, torch.tensor(0.09), eye, torch.tensor(0.0)]
                truth = [kalman(x, *one)]
            else:
                truth = [filtered(MADE[name].start, MADE[name].step, MADE[name].log_prob, x)]
        else:
            train, x = series()[name]
        told = [regression(train, x, order) for order in (0, LAST)]
        told.append(fitted(train, x))
        told.append(markov(train, x, args.steps, guide, args.decay))
        means = [t[:, LAST - x.shape[1] :].mean(1) for t in told + truth]
        cells = [f"{t.mean():.3f} ± {t.std() / len(t) ** 0.5:.3f}" for t in means]
        print(f"| {name} | {' | '.join(cells + [''] * (not truth))} |", flush=True)


if __name__ == "__main__":
    main()
