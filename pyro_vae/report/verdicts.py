"""What figures say, each in one sentence that can be quoted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from pyro_vae.evaluate import (
    AIS,
    ELBO,
    Anatomy,
    Calibration,
    InferenceGap,
    LogLikelihood,
    PredictiveCheck,
    Sandwich,
)
from pyro_vae.evaluate.calibration import DISTANCE, FEW, JOINT, told
from pyro_vae.evaluate.pareto import HEAVY
from pyro_vae.evaluate.shown import standard_error
from pyro_vae.evaluate.two_sample import FEW as FEW_PAIRS
from pyro_vae.evaluate.two_sample import TwoSample

LEVEL = 0.05
"""Of p-values, up to which something is said to be off."""
SMALL = 0.05
"""Nats per datum that are said to be nothing."""


def training(history: Sequence[Mapping[str, float]]) -> str:
    """Whether it has settled, and whether it overfits."""
    held_out = "validation_elbo" in history[-1]
    what, key = ("validation ELBO", "validation_elbo") if held_out else ("ELBO of the training data", "elbo")
    values = [row[key] for row in history]
    number, last, best = len(values), values[-1], max(values)
    sentence = f"The {what} is {last:.2f} nats per datum after {number} epoch{'s' * (number > 1)}"
    if number > 3:
        tail = values[-max(4, number // 4) :]
        steps = [b - a for a, b in itertools.pairwise(tail)]
        middle = sum(steps) / len(steps)
        noise = math.sqrt(sum((step - middle) ** 2 for step in steps) / len(steps))
        least = max(0.01 * (best - values[0]), 2 * noise)
        share = max(1, number // 10)
        rise = last - values[-1 - share]
        over = f"in the last {share} epochs" if share > 1 else "in the last epoch"
        if best - last > least:
            sentence += (
                f", {best - last:.2f} below that of epoch {values.index(best) + 1}: it overfits since"
                if held_out
                else f", {best - last:.2f} below that of epoch {values.index(best) + 1}"
            )
        elif rise > least:
            sentence += f", and still rose by {rise:.2f} {over}: it is not done"
        else:
            sentence += f", and has settled ({rise:+.2f} {over})"
    if held_out and "elbo" in history[-1]:
        more = history[-1]["elbo"] - last
        sentence += f"; that of the training data lies {abs(more):.2f} {'above' if more > 0 else 'below'}"
    return f"{sentence}."


def draws(found: TwoSample, which: str = "held-out") -> str:
    """Whether they are like data."""
    with_ = f"accuracy {found.accuracy:.2f} ± {found.standard_error:.2f}, p {told(found.p_value)}"
    if found.p_value <= LEVEL:
        return f"A classifier tells draws of the model from {which} data ({with_}): they are not alike."
    few = f"; of {found.num_pairs} pairs it learns little" if found.num_pairs < FEW_PAIRS else ""
    return f"A classifier does not tell draws of the model from {which} data ({with_}{few})."


def kept(shares: Mapping[str, float], bound: ELBO) -> str:
    """What reconstructions have of the variance of data, and what it costs."""
    cost = f"for a KL of {bound.kl:.2f} nats"
    known = {name: max(0.0, share) for name, share in shares.items() if not math.isnan(share)}
    if not known:
        return f"A datum's latents say {bound.kl:.2f} nats (KL) beyond the prior."
    if len(known) == 1:
        ((name, share),) = known.items()
        return f"Reconstructions have {100 * share:.0f} % of the variance of {name}, {cost}."
    least, most = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    return (
        f"Reconstructions have from {100 * known[least]:.0f} % ({least}) to {100 * known[most]:.0f} % "
        f"({most}) of the variance, {cost}."
    )


def likelihood(
    estimate: LogLikelihood, annealed: AIS | None, certificate: Sandwich | None, which: str = "held-out"
) -> str:
    """How likely the data are, and whether that is to be trusted."""
    mean, error = estimate.log_likelihood, estimate.standard_error
    sentence = f"log p(x) of {which} data is {mean:.2f} ± {error:.2f} nats per datum"
    if annealed is None or certificate is None:
        return f"{sentence}, by importance samples alone."
    more = annealed.per_datum - estimate.per_datum[: len(annealed.per_datum)]
    mean, error = more.mean().item(), standard_error(more)
    noise = 3 * (0.0 if math.isnan(error) else error)
    if mean > max(SMALL, noise):
        return f"{sentence}, which is too low: annealing finds {mean:.2f} ± {error:.2f} more."
    if mean < -max(SMALL, noise):
        return f"{sentence}; annealing finds {-mean:.2f} ± {error:.2f} less, and certifies nothing."
    if certificate.width > max(SMALL, 3 * certificate.width_error):
        return (
            f"{sentence}; annealing finds the same, but on data that the model simulated its bounds are "
            f"{certificate.width:.2f} apart, and it is known no better."
        )
    heavy = int((estimate.pareto_k > HEAVY).sum())
    but = f" (but for {heavy} of {len(estimate.per_datum)} data, of few weights)" if heavy else ""
    width, width_error = certificate.width, certificate.width_error
    within = max(abs(mean) + 2 * error, width + 2 * width_error)
    return (
        f"{sentence}, and to be trusted within {within:.2f}{but}: annealing finds {mean:+.3f} ± {error:.3f} "
        f"more, and on data that the model simulated its bounds are {width:.3f} ± {width_error:.3f} apart."
    )


def gap(found: InferenceGap) -> str:
    """How far the bound is, and whose fault it is."""
    per_datum = found.per_datum["log_likelihood"] - found.per_datum["elbo"]
    whole, error = per_datum.mean().item(), standard_error(per_datum)
    if whole < max(0.01, 0 if math.isnan(error) else 2 * error):
        return f"The ELBO is log p(x), as far as can be told: the gap is {whole:.3f} ± {error:.3f} nats."
    share = found.amortisation / whole
    sentence = f"The ELBO lies {whole:.2f} ± {error:.2f} nats below log p(x), "
    parts = f"amortisation {found.amortisation:.2f}, approximation {found.approximation:.2f}"
    if share > 2 / 3:
        return f"{sentence}{_percent(share)} by the encoder ({parts}): a better one would close it."
    if share < 1 / 3:
        return (
            f"{sentence}{_percent(1 - share)} by the guide's family ({parts}): a richer one would close it."
        )
    return f"{sentence}of which encoder and guide's family have a part each ({parts})."


def calibration(found: Calibration) -> str:
    """Whether the guide is the posterior, and else in which direction it is off."""
    of = f"{found.num_simulations} simulations, {found.missing}"
    if found.p_value > LEVEL:
        return f"The encoder is calibrated, as far as {of}, tell (p {told(found.p_value)})."
    sentence = f"The encoder is not calibrated (p {told(found.p_value)}, {of})"
    off = [i for i, p in enumerate(found.adjusted.tolist()) if p <= LEVEL]
    latents = [i for i in off if found.names[i] not in (JOINT, DISTANCE)]
    if not latents:
        at = found.names.index(JOINT)
        above = found.ranks[:, at].double().mean().item() / found.num_samples > 0.5
        way = "more" if above else "less"
        together = f"the truth is {way} probable than its draws" if at in off else "it is so in the distance"
        return f"{sentence}: each latent by itself may be right, and together they are not, as {together}."
    if found.num_simulations < FEW:
        return f"{sentence}: {', '.join(found.names[i] for i in latents[:5])}."
    ways = []
    for sign, word in ((-1, "narrow"), (1, "wide")):
        own = [i for i in latents if sign * (found.scale[i] - 1) > 0.05]
        if own:
            most = max(own, key=lambda i: sign * found.scale[i].item())
            ways.append(
                f"{len(own)} of {len(found.names) - 2} latents are too {word} ({found.names[most]} "
                f"{found.scale[most]:.2f} times as wide as it should be)"
            )
    far = max(latents, key=lambda i: abs(found.shift[i].item()))
    if abs(found.shift[far]) > 0.1:
        ways.append(
            f"{found.names[far]} is off its place, the truth {found.shift[far]:+.2f} of its standard "
            "deviations away"
        )
    return f"{sentence}: {'; '.join(ways) or ', '.join(found.names[i] for i in latents[:5]) + ' are off'}."


def fit(found: PredictiveCheck) -> str:
    """Whether data look like draws, and else in what they do not."""
    wrong = []
    if off := found.off:
        first, what = off[0], "data" if off[0].values is None else "distance"
        others = f", and {len(off) - 1} more of {len(found.statistics)} statistics" if len(off) > 1 else ""
        wrong.append(
            f"{first.name} is off ({what} {first.observed:.3g}, draws {first.replicated.mean():.3g} ± "
            f"{first.replicated.std():.2g}){others}"
        )
    if found.two_sample.p_value <= LEVEL:
        wrong.append(
            f"a classifier tells data from draws (accuracy {found.two_sample.accuracy:.2f} ± "
            f"{found.two_sample.standard_error:.2f})"
        )
    held = found.intervals
    if held is not None and held.p_value <= LEVEL:
        worst = held.names[int(held.p_values.argmin())]
        wrong.append(f"predictive intervals of {worst} do not hold what they say (p {told(held.p_value)})")
    if wrong:
        return f"The model does not fit: {'; '.join(wrong)}."
    return (
        f"Nothing that was asked tells data from draws: {len(found.statistics)} statistics together have p "
        f"{told(found.p_value)}, and a classifier {told(found.two_sample.p_value)}."
    )


def anatomy(found: Anatomy) -> str:
    """How many latents are used, and what the KL is spent on."""
    used = ", ".join(
        f"{site.num_latents - site.collapsed} of {site.num_latents} latents of {name}"
        for name, site in found.sites.items()
    )
    sentence = f"{used} carry something"
    if not math.isnan(found.mutual_information):
        sentence += (
            f"; of a KL of {found.kl:.2f} nats {found.mutual_information:.2f} say which datum it is, and "
            f"{found.marginal_kl:.2f} go to codes that are not as the prior has them"
        )
    return f"{sentence}."


def worst(per_datum: Tensor, part: str, column: str = "") -> str:
    """Which datum is explained worst, how far from the others, and in which column."""
    at = int(per_datum.argmin())
    below = per_datum.median().item() - per_datum[at].item()
    why = f", most of it in {column}" if column else ""
    return (
        f"Datum {at} of the {part} data is explained worst: log p(x) {per_datum[at].item():.2f}, {below:.2f} "
        f"below the median{why}."
    )


def _percent(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.0f} %"
