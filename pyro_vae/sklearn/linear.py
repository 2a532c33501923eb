"""Linear VAEs of rows with missing values, fitted in closed form: where the imputer's VAEs start."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from pyro_vae import nets
from pyro_vae.families.univariate import Univariate
from pyro_vae.guides import FullRankNormal
from pyro_vae.likelihoods import Normal
from pyro_vae.models import VAE
from pyro_vae.running import seed_generators

STEPS = 100
"""Of expectation and maximisation."""
FLOOR = 1e-4
"""Smallest variance of the noise, in that of the column."""
USED = 0.1
"""Signal beside the noise, summed over columns, below which a latent is left out."""


@dataclass(frozen=True)
class Linear:
    r"""Factor analysis, which is the linear VAE: :math:`z \sim N(0, I), x \mid z \sim N(b + W z, \Psi)`.

    Args:
        weight: W, ``[n_features, D]``.
        bias: b, ``[n_features]``.
        variance: the diagonal of Psi, ``[n_features]``.
    """

    weight: np.ndarray
    bias: np.ndarray
    variance: np.ndarray

    @classmethod
    def flat(cls, n_features: int) -> Linear:
        """Standard columns that know nothing of each other."""
        return cls(np.zeros((n_features, 1)), np.zeros(n_features), np.ones(n_features))

    @classmethod
    def fit(cls, x: np.ndarray, latent_dim: int) -> Linear:
        r"""The most likely W, b and Psi of rows ``[N, n_features]`` by EM, what is NaN left out.

        A latent's weights have the prior :math:`w_{jd} \sim N(0, \psi_j / \alpha_d)`, whose precisions are
        learned too: what the rows do not need, dies out (and is left out).

        Reference: Rubin and Thayer, 1982, "EM algorithms for ML factor analysis"; Bishop, 1999, "Bayesian
        PCA".
        """
        known = ~np.isnan(x)
        y, m = np.where(known, x, 0.0), known.astype(float)
        n_features, number = x.shape[1], m.sum(0)
        _, size, directions = np.linalg.svd(y, full_matrices=False)
        d = max(1, min(latent_dim, n_features - 1, len(size)))
        w = directions[:d].T * size[:d] / len(x) ** 0.5
        b, psi, alpha = np.zeros(n_features), np.full(n_features, 0.5), np.ones(d)
        diagonal = np.arange(d)
        for _ in range(STEPS):
            outer = (w[:, :, None] * w[:, None, :]).reshape(n_features, -1)
            spread = np.linalg.inv(np.eye(d) + (m / psi @ outer).reshape(-1, d, d))
            z = np.einsum("nij,nj->ni", spread, (m * (y - b) / psi) @ w)
            z = np.concatenate([z, np.ones((len(x), 1))], 1)
            second = z[:, :, None] * z[:, None, :]
            second[:, :d, :d] += spread
            precision = (m.T @ second.reshape(len(x), -1)).reshape(n_features, d + 1, d + 1)
            precision[:, diagonal, diagonal] += alpha
            precision[:, d, d] += 1e-6
            cross = (m * y).T @ z
            solved = np.linalg.inv(precision)
            both = np.einsum("jkl,jl->jk", solved, cross)
            rest = np.maximum((m * y * y).sum(0) - (both * cross).sum(1), 0.0)
            psi = np.maximum((rest + 0.05) / (number + 1), FLOOR)
            w, b = both[:, :d], both[:, d]
            signal = (w**2 / psi[:, None] + solved[:, diagonal, diagonal]).sum(0)
            alpha = (n_features + 1) / (signal + 1)
        used = (w**2 / psi[:, None]).sum(0) > USED
        return cls(w[:, used], b, psi) if used.any() else cls.flat(n_features)

    def vae(self, hidden_dims: Sequence[int] = (), dropout: float = 0.0, seed: int = 0) -> VAE:
        """It as a VAE, exact posterior and all, beside whose networks curved ones stand, which are 0 yet."""
        weight = torch.tensor(self.weight, dtype=torch.float32)
        bias, variance = (torch.tensor(v, dtype=torch.float32) for v in (self.bias, self.variance))
        curved = partial(_curved, hidden_dims=hidden_dims, dropout=dropout)
        with torch.random.fork_rng([]):
            seed_generators(seed, torch.device("cpu"))
            vae = VAE(
                (len(bias),),
                weight.shape[1],
                likelihood=Normal(),
                guide=FullRankNormal(),
                encoder=partial(_Encoder, weight=weight, bias=bias, variance=variance, curved=curved),
                decoder=partial(_Decoder, weight=weight, curved=curved),
            )
            vae.see_gaps(frozenset({"x"}))
        family = cast(Univariate, vae.p_x.family)
        for name, value in (("loc", bias), ("scale", variance.sqrt())):
            family.parameters_[name].start(value, torch.ones_like(bias))
        vae.initialized.fill_(True)
        return vae


class _Decoder(nn.Module):
    """z ``[..., D]`` to W z and a curved function, and to another for the scale's raw values."""

    def __init__(self, in_shape: Any, out_shape: tuple[int, ...], weight: Tensor, curved: Any):
        super().__init__()
        self.weight = nn.Parameter(weight.clone())
        self.curved = curved(in_shape[0], out_shape[0])

    def forward(self, z: Tensor) -> Tensor:
        linear = z @ self.weight.mT
        return torch.cat([linear, torch.zeros_like(linear)], -1) + self.curved(z)


class _Encoder(nn.Module):
    r"""The exact posterior of a linear VAE, whatever is known of x, and a curved function beside it.

    .. math:: P = I + W_o^\top \Psi_o^{-1} W_o, \qquad
        q(z \mid x_o) = N(P^{-1} W_o^\top \Psi_o^{-1} (x_o - b_o), P^{-1})

    The curved function sees x filled in by the linear VAE, and moves the mean, in standard deviations, and
    the logarithms of these.
    """

    weight: Tensor
    bias: Tensor
    variance: Tensor

    def __init__(
        self,
        in_shape: Any,
        out_shape: tuple[int, ...],
        weight: Tensor,
        bias: Tensor,
        variance: Tensor,
        curved: Any,
    ):
        super().__init__()
        for name, value in (("weight", weight), ("bias", bias), ("variance", variance)):
            self.register_buffer(name, value.clone())
        self.curved = curved(*weight.shape[:1], 2 * weight.shape[1])

    def forward(self, seen: Tensor) -> Tensor:
        w, d = self.weight, self.weight.shape[1]
        if seen.shape[-1] > len(w):
            x, known = seen.chunk(2, -1)
        else:  # nets are built before they are told of gaps
            x, known = seen, torch.ones_like(seen)
        outer = (w[:, :, None] * w[:, None, :]).flatten(1)
        precision = torch.eye(d).to(w) + (known / self.variance @ outer).unflatten(-1, (d, d))
        # P = U U^T with U upper triangular, so that L = U^-T is lower triangular and L L^T = P^-1.
        upper = torch.linalg.cholesky(precision.flip(-2, -1)).flip(-2, -1)
        tril = torch.linalg.solve_triangular(upper.mT, torch.eye(d).to(w), upper=False)
        rest = (known * (x - self.bias) / self.variance) @ w
        mean = (tril @ (tril.mT @ rest[..., None]))[..., 0]
        move, grow = self.curved(torch.where(known > 0, x, self.bias + mean @ w.mT)).chunk(2, -1)
        loc = mean + (tril @ move[..., None])[..., 0]
        scale = tril.diagonal(dim1=-2, dim2=-1) * grow.exp()
        rows, columns = torch.tril_indices(d, d, -1)
        return torch.cat([loc, scale + (-(-scale).expm1()).log(), tril[..., rows, columns]], -1)


def _curved(in_dim: int, out_dim: int, hidden_dims: Sequence[int], dropout: float) -> nn.Module:
    """A dense network with dropout that is 0 at first."""
    dense = nets.MLP((in_dim,), (out_dim,), tuple(hidden_dims), nn.Tanh).layers
    last: Any = dense[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
    after = ((layer, nn.Dropout(dropout)) if isinstance(layer, nn.Tanh) else (layer,) for layer in dense)
    return nn.Sequential(*itertools.chain.from_iterable(after))
