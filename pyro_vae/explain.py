"""The generative story of a VAE in mathematics, as a teacher would write it on the board."""

from __future__ import annotations

import math
import re
from typing import Any, Literal, cast

import pyro
import torch
from torch.distributions import Distribution

from pyro_vae import distributions
from pyro_vae.likelihoods import Likelihood

Format = Literal["text", "latex", "graph"]


def explain(vae: Any, format: Format = "text") -> str:
    """What ``vae.explain`` returns: see there."""
    if format not in ("text", "latex", "graph"):
        raise ValueError(f"format={format!r} is none of 'text', 'latex', 'graph'")
    with vae.evaluating():
        x = vae.decode(vae.prior().sample((2,))).sample().to(vae.input_loc)
        if format == "graph":
            rendered: Any = pyro.render_model(vae.model, model_args=(x,), render_distributions=True)
            return str(rendered.source)
        p_z, q_z = vae.prior(), vae.encode(x)
        p_x = vae.decode(p_z.sample((2,)))
    story = [
        ("z_n", "p(z)", vae.p_z, p_z, "z"),
        ("x_n | z_n", "p(x|z)", vae.p_x, p_x, "x"),
        ("z_n | x_n", "q(z|x)", vae.q_z, q_z, "z"),
    ]
    if format == "latex":
        return _latex(story)
    return _text(vae, story)


def _text(vae: Any, story: list[Any]) -> str:
    lines = ['The model: for each datum n = 1, ..., N (plate "data")', ""]
    for left, name, part, distribution, site in story:
        if name == "q(z|x)":
            lines += ["", "The guide, with h(x) the encoder's output", ""]
        shape = " x ".join(map(str, distribution.event_shape))
        domain = distributions.domain(distributions.support(distribution))
        lines.append(f"  {left} ~ {name} = {part.name}({', '.join(part.describe())})")
        kind = "latent" if site == "z" else "observed"
        lines.append(f'      site "{site}", {kind}, shape {shape}, values in {domain}')
        lines += [f"      {parameter} = {how}" for parameter, how in part.describe().items()]
        if name == "q(z|x)" and vae.pushed:
            by = "softplus" if "inf]" in domain else "sigmoid"
            by = "stick-breaking" if domain == "the simplex" else by
            lines.append(f"      pushed onto the prior's support, {domain}, by {by}")
    lines += ["", "where f(z) is the decoder's output, and learned values are those of now.", ""]
    kl = "estimated from draws, as log q(z|x) - log p(z)"
    if distributions.has_closed_form(story[2][3], story[0][3]):
        kl = "reported in closed form; Trace_ELBO trains on draws, TraceMeanField_ELBO on the closed form"
    lines += [
        "The ELBO, in nats per datum: E_q[log p(x|z)] - beta KL(q(z|x) || p(z)) with beta = 1",
        f"  KL: {kl}",
        f"  log p(x|z) is w.r.t. {vae.p_x.measure}",
    ]
    lines += [f"  {line}" for line in _equivalent_loss(vae.p_x, math.prod(vae.event_shape))]
    lines += ["", "Parameters"]
    parts = {"encoder": vae.encoder, "decoder": vae.decoder, "prior": vae.p_z, "likelihood": vae.p_x}
    parts["guide"] = vae.q_z
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in parts.items()}
    lines += [f"  {name:<12}{count:>12,}" for name, count in counts.items() if count]
    lines.append(f"  {'total':<12}{sum(counts.values()):>12,}")
    return "\n".join(lines)


def _latex(story: list[Any]) -> str:
    rows = []
    for left, name, part, distribution, _ in story:
        domain = distributions.bounds(distributions.support(distribution))
        sides = left.replace("|", r"\mid")
        index = "d" if name != "p(x|z)" else "i"
        independent = isinstance(distribution, torch.distributions.Independent)
        letter = "x" if name == "p(x|z)" else "z"
        size = math.prod(distribution.event_shape)
        product = rf"\prod_{{{index}=1}}^{{{size}}} " if independent else ""
        value = f"{letter}_{{n{index}}}" if independent else f"{letter}_n"
        arguments = ", ".join(_tex(how) for how in part.describe().values())
        density = rf"{product}\mathrm{{{part.name}}}\!\left({value};\, {arguments}\right)"
        where = "" if domain is None else rf", \quad {value} \in {_set(distribution)}"
        rows.append(rf"{sides} &\sim {density}{where}")
    body = " \\\\\n".join(rows)
    return f"\\begin{{aligned}}\n{body} \\\\\n" + (
        r"\mathcal L &= \mathbb E_{q(z \mid x)}[\log p(x \mid z)] - \mathrm{KL}(q(z \mid x) \,\|\, p(z))"
        "\n\\end{aligned}"
    )


def _set(distribution: Distribution) -> str:
    text = distributions.domain(distributions.support(distribution))
    if text == "the reals":
        return r"\mathbb R"
    text = text.replace("inf", r"\infty").replace("{", r"\{").replace("}", r"\}")
    return re.sub(r"whole numbers in \[(.*), (.*)\]", r"\\{\1, \\dots, \2\\}", text)


def _tex(how: str) -> str:
    """An expression such as ``0.2 (0.001 + softplus(f_1(z) + b_1))`` in LaTeX."""
    if re.search(r"[a-z]{2,} [a-z]{2,}", how):
        return rf"\text{{{how.replace('_', chr(92) + '_')}}}"
    how = re.sub(r"\b(softplus|sigmoid)\b", r"\\mathrm{\1}", how)
    how = re.sub(r"([fhbc])_(\w+)", r"\1_{\2}", how)
    return re.sub(r"\b(\d(?:\.\d+)?)e([+-]?)0*(\d+)", r"\1 \\cdot 10^{\2\3}", how).replace("10^{+", "10^{")


def _equivalent_loss(likelihood: Likelihood, num_pixels: int) -> list[str]:
    """What the Normal's log-density is in terms of the squared error of tutorials."""
    scale = getattr(likelihood, "sources", {}).get("scale")
    if likelihood.name != "Normal" or scale in (None, "per_pixel"):
        return []
    if scale == "decoder":
        return ["sigma differs from pixel to pixel: no squared error with one beta is the same"]
    sigma = cast(Any, likelihood).value("scale").item() if scale == "shared" else float(scale)
    return [
        f"sigma = {sigma:.4g}: the same as the sum of squared errors + beta KL with beta = 2 sigma^2 = "
        f"{2 * sigma**2:.4g},",
        f"or as their mean over {num_pixels} pixels with beta = 2 sigma^2 / {num_pixels} = "
        f"{2 * sigma**2 / num_pixels:.4g}",
    ]
