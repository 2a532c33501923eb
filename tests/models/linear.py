"""Programs of linear networks and Normals, whose evidence and posterior are known.

x = L z + l + s e with z ~ N(m, C), so that p(x) = N(L m + l, L C L' + s^2 I), of any of its elements, and
p(z|x) is Normal (Bishop, 2006, section 2.3.3). z are the latents of all levels, side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence
from torch.nn.functional import one_hot

import pyro_vae as pv

SCALE, PIXELS, LATENTS, LEVEL_SCALE = 0.7, 5, 2, 0.8
KINDS = ("VAE", "ConditionalVAE", "conditional_prior", "bottom_up", "top_down")
EXACT = tuple(kind for kind in KINDS if kind != "conditional_prior")
"""Those whose posterior, for suitable weights, is one of their guides."""
PATTERN = torch.tensor([True, False, True, True, True])
"""Which elements are observed, where it is the same of each datum: the posterior is then linear in x."""


@dataclass
class System:
    """A program, data, and all that is known of them."""

    kind: str
    program: Any
    batch: dict[str, Tensor]
    log_p: Tensor  # [B]
    posterior: MultivariateNormal  # [B]
    q: MultivariateNormal  # [B], of the guide
    prior: MultivariateNormal  # [B]
    expected: dict[str, Tensor]  # by site, [B]: what it adds to the negative ELBO

    @property
    def gap(self) -> Tensor:
        return kl_divergence(self.q, self.posterior)


def system(
    kind: str, missing: bool = False, exact: bool = False, number: int = 6, wider: float = 1.0
) -> System:
    """A system of one of ``KINDS``; ``exact``: with the posterior as its guide, ``wider`` by a factor."""
    torch.manual_seed(3)
    program = _make(kind)
    observed = torch.ones(number, PIXELS, dtype=torch.bool)
    if missing:
        observed = PATTERN.expand(number, -1) if exact else torch.rand(number, PIXELS) < 0.6
        observed = torch.where(torch.arange(number)[:, None] == 0, observed & exact, observed)  # one wholly
    with torch.no_grad():
        _set_model(program, PATTERN if missing else observed[0])
        batch = {"x": torch.zeros(number, PIXELS)}
        if kind.startswith(("C", "c")):
            batch |= {"y": torch.arange(number) % 3, "age": torch.randn(number, 2)}
        prior, offset = _prior(program, batch), _offset(program, batch)
        batch["x"] = (
            offset + prior.sample()[:, :LATENTS] @ _decoder(program).T + SCALE * torch.randn(number, PIXELS)
        )
        batch["x"] = torch.where(observed, batch["x"], torch.nan)
        log_p, posterior = _condition(program, batch["x"], offset, prior)
        pattern = PATTERN if missing else torch.ones(PIXELS, dtype=torch.bool)
        _set_guide(program, pattern, exact, wider, as_prior=missing and not exact)
        q = _joint(program, batch)
        expected = _terms(program, batch["x"], offset, prior, q)
    return System(kind, program, batch, log_p, posterior, q, prior, expected)


def _make(kind: str) -> pv.Program:
    linear = {
        "encoder": pv.nets.mlp(),
        "decoder": pv.nets.mlp(),
        "likelihood": pv.likelihoods.Normal(scale=SCALE),
    }
    if kind == "VAE":
        return pv.VAE((PIXELS,), LATENTS, **linear)
    if kind in ("ConditionalVAE", "conditional_prior"):
        return pv.ConditionalVAE(
            (PIXELS,),
            given={"y": 3, "age": (2,)},
            latent_dim=LATENTS,
            conditional_prior=kind == "conditional_prior",
            **linear,
        )
    return pv.HierarchicalVAE((PIXELS,), (LATENTS,) * 2, inference=kind, between=pv.nets.mlp(), **linear)


def _layer(conditional: Any) -> torch.nn.Linear:
    return conditional.net.layers[0]


def _decoder(program: Any) -> Tensor:
    return _layer(program.p_x).weight[:, :LATENTS]


def _levels(program: Any) -> bool:
    return isinstance(program, pv.HierarchicalVAE)


def _raw_scale(conditional: Any, scale: Tensor) -> Tensor:
    """The raw reals that mean a scale."""
    p = conditional.family.parameters_["scale"]
    raw = torch.zeros_like(scale, requires_grad=False)
    for _ in range(200):  # Newton's method on the family's own map, whatever it is
        with torch.enable_grad():
            r = raw.clone().requires_grad_()
            value = p(r)
            (slope,) = torch.autograd.grad(value.sum(), r)
        raw = raw - 0.5 * (value - scale).detach() / slope
    return raw


def _fill(conditional: Any, weight: Tensor, bias: Tensor, scale: Tensor) -> None:
    """loc = weight inputs + bias, and a scale that does not depend on them."""
    layer = _layer(conditional)
    layer.weight.zero_()
    layer.weight[: len(bias), : weight.shape[1]] = weight
    layer.bias.copy_(torch.cat([bias, _raw_scale(conditional, scale)]))


def _set_model(program: Any, observed: Tensor) -> None:
    """Columns of W at right angles over what is observed, so that the posterior factorises."""
    layer = _layer(program.p_x)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    q, _ = torch.linalg.qr(layer.weight[observed][:, :LATENTS])
    layer.weight[observed, :LATENTS] = q * torch.tensor([1.5, 0.6])
    if _levels(program):
        between = torch.tensor([0.9, -0.5])
        _fill(program.p_z[0], between.diag(), torch.tensor([0.3, -0.2]), torch.full((LATENTS,), LEVEL_SCALE))


def _prior(program: Any, batch: dict[str, Tensor]) -> MultivariateNormal:
    number = len(batch["x"])
    if _levels(program):
        layer = _layer(program.p_z[0])
        a, loc = layer.weight[:LATENTS], layer.bias[:LATENTS]
        top = torch.eye(LATENTS)
        covariance = torch.cat([torch.cat([a @ a.T + LEVEL_SCALE**2 * top, a], 1), torch.cat([a.T, top], 1)])
        return MultivariateNormal(torch.cat([loc, torch.zeros(LATENTS)]).expand(number, -1), covariance)
    given = [batch[site] for site in ("y", "age") if site in batch]
    p = program.prior(*given) if getattr(program.p_z, "parents", None) else program.prior()
    p = p.expand((number,))
    return MultivariateNormal(p.mean, p.variance.diag_embed())


def _offset(program: Any, batch: dict[str, Tensor]) -> Tensor:
    layer = _layer(program.p_x)
    offset = layer.bias.expand(len(batch["x"]), -1)
    if "y" in batch:
        offset = (
            offset
            + torch.cat([one_hot(batch["y"], 3).double(), batch["age"]], 1) @ layer.weight[:, LATENTS:].T
        )
    return offset


def _condition(program: Any, x: Tensor, offset: Tensor, prior: MultivariateNormal):
    log_p, means, covariances = [], [], []
    w = torch.zeros(PIXELS, prior.mean.shape[-1])
    w[:, :LATENTS] = _decoder(program)
    for datum, start, m, c in zip(x, offset, prior.mean, prior.covariance_matrix, strict=True):
        known = ~datum.isnan()
        if not known.any():
            log_p, means, covariances = [*log_p, torch.zeros(())], [*means, m], [*covariances, c]
            continue
        own, mean = w[known], w[known] @ m + start[known]
        s = own @ c @ own.T + SCALE**2 * torch.eye(len(own))
        gain = c @ own.T @ torch.linalg.inv(s)
        log_p.append(MultivariateNormal(mean, s).log_prob(datum[known]))
        means.append(m + gain @ (datum[known] - mean))
        covariances.append(c - gain @ s @ gain.T)
    return torch.stack(log_p), MultivariateNormal(torch.stack(means), torch.stack(covariances))


def _set_guide(program: Any, observed: Tensor, exact: bool, wider: float, as_prior: bool) -> None:
    """The posterior where all data have these elements; or near it, off the mean and wider.

    ``as_prior``: as wide as the prior, which the posterior is where nothing is observed, so that weights do
    not run away.
    """
    w = _decoder(program) * observed[:, None]
    gain = torch.linalg.inv(w.T @ w) @ w.T  # of what x says of z1
    noise = SCALE**2 / w.square().sum(0)
    off, wide = (0.0, wider) if exact else (0.15, 1.25)
    layer = _layer(program.p_x)
    if not _levels(program):
        precision = 1 + 1 / noise
        weight = gain / (noise * precision)[:, None]
        bias = -weight @ layer.bias + off
        scale = torch.full((LATENTS,), 1.2) if as_prior else wide * precision.rsqrt()
        _fill(program.q_z, weight, bias, scale)
        if layer.weight.shape[1] > LATENTS:
            _layer(program.q_z).weight[:LATENTS, PIXELS:] = -weight @ layer.weight[:, LATENTS:]
        return
    between = _layer(program.p_z[0])
    a, loc = between.weight[:LATENTS].diagonal(), between.bias[:LATENTS]
    bottom, top = program.q_z
    if program.inference == "bottom_up":
        marginal = a.square() + LEVEL_SCALE**2
        precision = 1 / marginal + 1 / noise
        weight = gain / (noise * precision)[:, None]
        scale = 1.2 * marginal.sqrt() if as_prior else wide * precision.rsqrt()
        _fill(bottom, weight, loc / marginal / precision - weight @ layer.bias + off, scale)
        precision = 1 + a.square() / LEVEL_SCALE**2
        slope = a / LEVEL_SCALE**2 / precision
        _fill(top, slope.diag(), -slope * loc + off, wide * precision.rsqrt())
    else:
        scale = torch.full((LATENTS,), 1.6) if as_prior else wide * noise.sqrt()
        _fill(bottom, gain, -gain @ layer.bias + off, scale)
        total = LEVEL_SCALE**2 + noise
        precision = 1 + a.square() / total
        slope = a / total / precision
        scale = torch.full((LATENTS,), 1.2) if as_prior else wide * precision.rsqrt()
        _fill(top, slope.diag(), -slope * loc - off, scale)


def _joint(program: Any, batch: dict[str, Tensor]) -> MultivariateNormal:
    """The guide's Normal over all levels, by hand from its weights."""
    seen = batch["x"].nan_to_num(0.0)
    if not _levels(program):
        if "y" in batch:
            seen = torch.cat([seen, one_hot(batch["y"], 3).double(), batch["age"]], 1)
        loc, scale = _affine(program.q_z, seen)
        return MultivariateNormal(loc, scale.square().diag_embed())
    bottom, top = program.q_z
    loc, scale = _affine(bottom, seen)
    variance = scale.square().diag_embed()
    if program.inference == "bottom_up":
        slope = _layer(top).weight[:LATENTS]
        upper, upper_scale = _affine(top, loc)
        across = variance @ slope.T
        lower = torch.cat([across.mT, slope @ across + upper_scale.square().diag_embed()], -1)
        return MultivariateNormal(
            torch.cat([loc, upper], -1), torch.cat([torch.cat([variance, across], -1), lower], -2)
        )
    raw = seen @ _layer(bottom).weight.T + _layer(bottom).bias
    upper, upper_scale = _affine(top, raw)
    between = _layer(program.p_z[0])
    inner = 1 / (scale.square().reciprocal() + LEVEL_SCALE**-2)
    slope = (inner / LEVEL_SCALE**2)[..., None] * between.weight[:LATENTS]
    start = inner * (loc / scale.square() + between.bias[:LATENTS] / LEVEL_SCALE**2)
    own = upper_scale.square().diag_embed()
    across = slope @ own
    rows = torch.cat([across @ slope.mT + inner.diag_embed(), across], -1), torch.cat([across.mT, own], -1)
    return MultivariateNormal(
        torch.cat([start + (slope @ upper[..., None])[..., 0], upper], -1), torch.cat(rows, -2)
    )


def _affine(conditional: Any, seen: Tensor) -> tuple[Tensor, Tensor]:
    loc, raw = (seen @ _layer(conditional).weight.T + _layer(conditional).bias).chunk(2, -1)
    return loc, conditional.family.parameters_["scale"](raw)


def _terms(program: Any, x: Tensor, offset: Tensor, prior: Any, q: MultivariateNormal) -> dict[str, Tensor]:
    """-E_q[log p(x|z)], and E_q[log q - log p] of each latent site, from the first two moments of q."""
    mean, covariance = q.mean, q.covariance_matrix
    known, w = ~x.isnan(), _decoder(program)
    error = (x.nan_to_num(0.0) - offset - mean[:, :LATENTS] @ w.T).square()
    error = error + torch.einsum("pd,bde,pe->bp", w, covariance[:, :LATENTS, :LATENTS], w)
    log_p = -0.5 * error / SCALE**2 - torch.log(torch.tensor(SCALE * (2 * torch.pi) ** 0.5))
    terms = {"x": -(log_p * known).sum(-1)}
    if not _levels(program):
        return terms | {"z": kl_divergence(q, prior)}
    d = LATENTS
    one, two = covariance[:, :d, :d], covariance[:, d:, d:]
    across, between = covariance[:, :d, d:], _layer(program.p_z[0])
    if program.inference == "bottom_up":  # q(z1) q(z2|z1)
        given = {"z1": one, "z2": two - across.mT @ torch.linalg.inv(one) @ across}
    else:
        given = {"z1": one - across @ torch.linalg.inv(two) @ across.mT, "z2": two}
    minus = {
        site: 0.5 * (c.logdet() + d * (1 + torch.log(torch.tensor(2 * torch.pi))))
        for site, c in given.items()
    }
    square = {"z2": mean[:, d:].square().sum(-1) + two.diagonal(dim1=-2, dim2=-1).sum(-1)}
    both = torch.cat([torch.eye(d), -between.weight[:d]], 1)  # z1 - A z2
    off = mean @ both.T - between.bias[:d]
    spread = torch.einsum("pd,bde,pe->bp", both, covariance, both)
    square["z1"] = (off.square() + spread).sum(-1) / LEVEL_SCALE**2
    scale = {"z1": LEVEL_SCALE, "z2": 1.0}
    for site in ("z1", "z2"):
        log_p = -0.5 * square[site] - d * torch.log(torch.tensor(scale[site] * (2 * torch.pi) ** 0.5))
        terms[site] = -minus[site] - log_p
    return terms


DEPTH = 4


def deep(inference: str, exact: bool = False, number: int = 6) -> System:
    """Levels of one latent each with skips, so that every posterior q(z_l | x, those before) is in the guide.

    z_1, ..., z_L and x are one Normal: its regressions are the model's conditionals, and the guide's.
    """
    torch.manual_seed(3)
    parts = dict.fromkeys(("encoder", "decoder", "between"), pv.nets.mlp())
    likelihood = pv.likelihoods.Normal(scale=SCALE)
    shape, dims = (PIXELS,), (1,) * DEPTH
    program: Any = pv.HierarchicalVAE(
        shape, dims, inference=inference, skip=True, likelihood=likelihood, **parts
    )
    z, pixels = list(range(DEPTH)), list(range(DEPTH, DEPTH + PIXELS))
    with torch.no_grad():
        noise, mean = torch.eye(DEPTH + PIXELS), torch.zeros(DEPTH + PIXELS)  # all = mean + noise @ N(0, I)
        slopes = {DEPTH - 1: (torch.zeros(0), torch.zeros(()), torch.ones(()))}
        for i in z[-2::-1]:
            slopes[i] = w, b, s = torch.randn(DEPTH - 1 - i), torch.randn(()), torch.tensor(LEVEL_SCALE)
            _fill(program.p_z[i], w[None], b[None], s[None])
            noise[i], mean[i] = w @ noise[i + 1 : DEPTH], w @ mean[i + 1 : DEPTH] + b
            noise[i, i] = s
        layer = _layer(program.p_x)
        torch.nn.init.normal_(layer.weight)
        torch.nn.init.normal_(layer.bias)
        noise[DEPTH:, :DEPTH] = layer.weight @ noise[:DEPTH, :DEPTH]
        noise[pixels, pixels] = SCALE
        mean[DEPTH:] = layer.weight @ mean[:DEPTH] + layer.bias
        joint = MultivariateNormal(mean, noise @ noise.T)
        x = joint.sample((number,))[:, DEPTH:]
        log_p = MultivariateNormal(mean[DEPTH:], joint.covariance_matrix[DEPTH:, DEPTH:]).log_prob(x)
        w, b, covariance = _regression(joint, z, pixels)
        posterior = MultivariateNormal(x @ w.T + b, covariance)
        q_noise, q_mean, spread = torch.eye(DEPTH), torch.zeros(number, DEPTH), {}
        for i in z if inference == "bottom_up" else z[::-1]:
            before = z[:i] if inference == "bottom_up" else z[i + 1 :]
            w, b, v = (t.squeeze() for t in _regression(joint, [i], pixels + before))
            shared = inference == "top_down" and i < DEPTH - 1
            if shared:  # what is left of the posterior without the model's own factor
                p_w, p_b, p_s = slopes[i]
                p_w = torch.cat([torch.zeros(PIXELS), p_w])
                v = 1 / (1 / v - 1 / p_s**2)
                w, b = w + (w - p_w) * v / p_s**2, b + (b - p_b) * v / p_s**2
            if not exact:
                b, v = b + 0.15, 1.5 * v
            _fill(program.q_z[i], w[None], b[None], v.sqrt()[None])
            if shared:
                part = v / (v + p_s**2)
                w, b, v = w + part * (p_w - w), b + part * (p_b - b), v * (1 - part)
            q_mean[:, i] = x @ w[:PIXELS] + q_mean[:, before] @ w[PIXELS:] + b
            q_noise[i] = w[PIXELS:] @ q_noise[before]
            q_noise[i, i] = v.sqrt()
            spread[i] = v
        q = MultivariateNormal(q_mean, q_noise @ q_noise.T)
        terms = {"x": -_expected(q, x - layer.bias, -layer.weight, SCALE).sum(-1)}
        for i in z:
            w, b, s = slopes[i]
            row = torch.cat([torch.zeros(i), torch.ones(1), -w])
            entropy = 0.5 * (2 * torch.pi * torch.e * spread[i]).log()
            terms[f"z{i + 1}"] = -entropy - _expected(q, -b.expand(number, 1), row[None], s)[:, 0]
    prior = MultivariateNormal(mean[:DEPTH], joint.covariance_matrix[:DEPTH, :DEPTH])
    return System(inference, program, {"x": x}, log_p, posterior, q, prior, terms)


def _regression(joint: MultivariateNormal, of: list[int], on: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes, offsets and covariance of some elements of a Normal, given others."""
    c = joint.covariance_matrix
    slopes = c[of][:, on] @ torch.linalg.inv(c[on][:, on])
    return slopes, joint.mean[of] - slopes @ joint.mean[on], c[of][:, of] - slopes @ c[on][:, of]


def _expected(q: MultivariateNormal, offset: Tensor, slopes: Tensor, scale: Any) -> Tensor:
    """E_q of the log-density N(0, scale^2) of each element of offset + slopes z."""
    spread = torch.einsum("pd,bde,pe->bp", slopes, q.covariance_matrix, slopes)
    square = (offset + q.mean @ slopes.T).square() + spread
    return -0.5 * square / scale**2 - torch.log(torch.as_tensor(scale * (2 * torch.pi) ** 0.5))
