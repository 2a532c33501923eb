"""How well is each column of a mixed table told by the others? Against marginals and a Normal copula.

    python benchmarks/tables.py

prints, for each table, log p(x_j | rest) of held-out rows by column, in nats, of a VAE (all by default, with
``likelihood="auto"``) and, as paired differences from it, of the columns' own marginals and of a Normal
copula; and how often held-out values lie within the central 90 % of what ``pv.predict`` draws for them, given
the rest. Several splits, all rows of their test data pooled; standard errors are over rows. The tables:
penguins of palmerpenguins (344 rows, some values missing; Horst, Hill and Gorman, 2020) and anes96 of
statsmodels (944 voters of the American National Election Studies, 1996).

The marginals are kernel density estimates (of logarithms where a column is positive; in unit intervals where
it holds whole numbers) and smoothed frequencies where there are few values. The copula joins them by normal
scores, of discrete columns randomised within the steps of their distribution function, 20 draws of which are
averaged; a category enters as an indicator for each level, whose conditional probabilities are normalised.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import gaussian_kde, norm

import pyro_vae as pv

FEW, DRAWS = 25, 20


def penguins() -> pd.DataFrame:
    from palmerpenguins import load_penguins

    return load_penguins()


def anes96() -> pd.DataFrame:
    """Answers on scales are categories with an order; logpopul, the logarithm of popul, is left out."""
    import statsmodels.api as sm

    frame = sm.datasets.anes96.load_pandas().data.drop(columns="logpopul").astype(int)
    scales = ["TVnews", "selfLR", "ClinLR", "DoleLR", "PID", "educ", "income"]
    return frame.astype(
        {name: pd.CategoricalDtype(sorted(set(frame[name])), ordered=True) for name in scales}
    )


TABLES = {"penguins": penguins, "anes96": anes96}


class Marginal:
    """One column's distribution: log-probabilities, and the distribution function below and up to a value."""

    def __init__(self, values: np.ndarray, column: Any):
        values = values[~np.isnan(values)]
        self.log, self.whole = column.kind in ("positive", "count"), column.whole
        self.levels = len(column.levels) or (
            len(set(values)) if len(set(values)) <= FEW and self.whole else 0
        )
        if self.levels:
            known = np.arange(self.levels) if column.levels else np.unique(values)
            counts = np.array([(values == k).sum() for k in known]) + 1.0  # and one for all others together
            self.known, self.p = known, counts / (counts.sum() + (not column.levels))
            self.other = 0.0 if column.levels else 1 - self.p.sum()
        else:
            self.density = gaussian_kde(self._map(values))

    def _map(self, x: np.ndarray) -> np.ndarray:
        return np.log(np.maximum(x, 0) + self.whole) if self.log else x

    def _cdf(self, x: np.ndarray) -> np.ndarray:
        spread = self.density.covariance[0, 0] ** 0.5
        return norm.cdf((x[..., None] - self.density.dataset[0]) / spread).mean(-1).clip(1e-9, 1 - 1e-9)

    def ends(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The distribution function just below x and at x."""
        if self.levels:
            below, same = (
                np.where(at(x[..., None], self.known), self.p, 0).sum(-1) for at in (np.greater, np.equal)
            )
            return below, below + np.where(same > 0, same, self.other)
        step = 0.5 * self.whole
        return self._cdf(self._map(x - step)), self._cdf(self._map(x + step))

    def log_p(self, x: np.ndarray) -> np.ndarray:
        low, high = self.ends(x)
        if self.levels or self.whole:
            return np.log(np.maximum(high - low, 1e-12))
        return np.log(self.density(self._map(x)) + 1e-12) - (np.log(x) if self.log else 0)


class Copula:
    """A Normal copula over the columns of rows ``[N, D]``, of which NaN are missing."""

    def __init__(self, rows: np.ndarray, columns: Any):
        self.columns = list(columns.of.values())
        self.marginals = [Marginal(rows[:, j], c) for j, c in enumerate(self.columns)]
        self.random = np.random.default_rng(0)
        self.place: list[tuple[int, int | None]] = []
        for j, column in enumerate(self.columns):
            nominal = column.kind == "category"
            self.place += [(j, k) for k in range(len(column.levels))] if nominal else [(j, None)]
        scores = np.concatenate([self.scores(rows) for _ in range(DRAWS)])
        self.correlation = pd.DataFrame(scores).corr(min_periods=10).fillna(0.0).to_numpy()
        value, vector = np.linalg.eigh(self.correlation)  # pairwise, so that it may not be positive
        whole = vector @ np.diag(value.clip(0.02)) @ vector.T
        self.correlation = whole / np.sqrt(np.outer(np.diag(whole), np.diag(whole)))

    def ends(self, rows: np.ndarray, at: int) -> tuple[np.ndarray, np.ndarray]:
        """Of one score: between which normal quantiles it lies."""
        j, level = self.place[at]
        x, p = rows[:, j], self.marginals[j]
        if level is None:
            low, high = p.ends(x)
        else:
            low, high = np.where(x == level, 1 - p.p[level], 0), np.where(x == level, 1, 1 - p.p[level])
        return norm.ppf(low.clip(1e-9, 1 - 1e-9)), norm.ppf(high.clip(1e-9, 1 - 1e-9))

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Normal scores ``[N, number of scores]``, drawn within the steps of discrete columns."""
        made = []
        for at, (j, _) in enumerate(self.place):
            low, high = (norm.cdf(end) for end in self.ends(rows, at))
            z = norm.ppf((low + self.random.random(len(rows)) * (high - low)).clip(1e-9, 1 - 1e-9))
            made.append(np.where(np.isnan(rows[:, j]), np.nan, z))
        return np.stack(made, 1)

    def _conditional(self, scores: np.ndarray, at: int, rest: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and scale of one score given those of the rest that are known, ``[N]``."""
        loc, scale = np.zeros(len(scores)), np.ones(len(scores))
        known = ~np.isnan(scores[:, rest])
        for pattern in np.unique(known, axis=0):
            own, of = (known == pattern).all(1), np.array(rest)[pattern]
            gain = np.linalg.solve(self.correlation[np.ix_(of, of)], self.correlation[of, at])
            loc[own] = scores[np.ix_(own, of)] @ gain
            scale[own] = np.sqrt(max(1 - gain @ self.correlation[of, at], 1e-4))
        return loc, scale

    def given_rest(self, rows: np.ndarray) -> np.ndarray:
        """log p(x_j | rest), ``[N, D]``, NaN where x_j is missing."""
        drawn = [self.scores(rows) for _ in range(DRAWS)]
        found = np.full(rows.shape, np.nan)
        for j, column in enumerate(self.columns):
            own = [at for at, (i, _) in enumerate(self.place) if i == j]
            rest = [at for at, (i, _) in enumerate(self.place) if i != j]
            x, p = rows[:, j], self.marginals[j]
            log_p = []
            for scores in drawn:
                if column.kind == "category":
                    odds = []
                    for at, level in zip(own, range(len(column.levels)), strict=True):
                        loc, scale = self._conditional(scores, at, rest)
                        odds.append(norm.sf((norm.ppf(1 - p.p[level]) - loc) / scale) + 1e-9)
                    odds = np.stack(odds, 1)
                    index = np.nan_to_num(x).astype(int)[:, None]
                    log_p.append(np.log(np.take_along_axis(odds, index, 1)[:, 0] / odds.sum(1)))
                    continue
                loc, scale = self._conditional(scores, own[0], rest)
                low, high = self.ends(rows, own[0])
                if column.whole:
                    mass = norm.cdf((high - loc) / scale) - norm.cdf((low - loc) / scale)
                    log_p.append(np.log(mass.clip(1e-12)))
                else:
                    log_p.append(norm.logpdf(low, loc, scale) - norm.logpdf(low) + p.log_p(x))
            found[:, j] = np.where(np.isnan(x), np.nan, np.logaddexp.reduce(log_p) - np.log(DRAWS))
        return found


def coverage(vae: pv.VAE, rows: torch.Tensor, columns: Any, level: float = 0.9) -> np.ndarray:
    """Whether values lie within the central share of draws given the rest, ``[N, D]``; ties are drawn."""
    found, random = np.full(rows.shape, np.nan), np.random.default_rng(0)
    for j, column in enumerate(columns.of.values()):
        if column.kind == "category":
            continue
        known = ~rows[:, j].isnan()
        x = rows[known].clone()
        x[:, j] = torch.nan
        draws = pv.predict(vae, x, 300)["x"][..., j].double().numpy()
        own = rows[known][:, j].double().numpy()
        u = (draws < own).mean(0) + random.random(len(own)) * (draws == own).mean(0)
        found[known.numpy(), j] = abs(u - 0.5) < level / 2
    return found


def measure(name: str, seeds: int, folder: Path, draws: bool = True, **settings: Any) -> dict[str, Any]:
    """Of each method log p(x_j | rest) of the held-out rows of all splits, ``[N, D]``; coverage; seconds."""
    found: dict[str, list[np.ndarray]] = {"VAE": [], "marginals": [], "copula": [], "covered": []}
    seconds = {"VAE": 0.0, "copula": 0.0, "evaluation": 0.0}
    parts = {n: settings.pop(n) for n in ("latent_dim", "encoder", "decoder", "likelihood") if n in settings}
    for seed in range(seeds):
        data = pv.data.load(TABLES[name](), test=0.2, validation=0.1, split_seed=seed)
        torch.manual_seed(seed)
        vae = pv.VAE(data.event_shapes, **{"likelihood": "auto"} | parts)
        start = time.perf_counter()
        pv.fit(
            vae, data, folder=folder / f"{name}-{seed}", resume="auto", seed=seed, progress=False, **settings
        )
        seconds["VAE"] += time.perf_counter() - start
        rows = data.test.batch(slice(None), torch.float64)["x"]
        start = time.perf_counter()
        found["VAE"].append(pv.evaluate.columns(vae, data.test).per_datum.numpy())
        seconds["evaluation"] += time.perf_counter() - start
        fitted = [part.batch(slice(None), torch.float64)["x"] for part in (data.train, data.validation)]
        start = time.perf_counter()
        copula = Copula(torch.cat(fitted).numpy(), data.columns)
        found["copula"].append(copula.given_rest(rows.numpy()))
        seconds["copula"] += time.perf_counter() - start
        marginals = [p.log_p(x) for p, x in zip(copula.marginals, rows.numpy().T, strict=True)]
        found["marginals"].append(np.where(rows.isnan(), np.nan, np.stack(marginals, 1)))
        if draws:
            found["covered"].append(coverage(vae, rows.float(), data.columns))
    return {n: np.concatenate(v) for n, v in found.items() if v} | {
        "columns": data.columns,
        "seconds": seconds,
    }


def table(found: dict[str, Any]) -> str:
    """In Markdown."""
    columns, covered = found["columns"], found.get("covered", np.full(found["VAE"].shape, np.nan))
    lines = [
        "| column | values | VAE | marginals less VAE | copula less VAE | within 90 % |",
        "|---|---|---|---|---|---|",
    ]

    def told(x: np.ndarray, sign: str = "") -> str:
        x = x[~np.isnan(x)]
        return f"{x.mean():{sign}.3f} ± {x.std() / len(x) ** 0.5:.3f}"

    every = {
        n: np.where(np.isnan(found["VAE"]).any(1), np.nan, found[n].sum(1))
        for n in ("VAE", "marginals", "copula")
    }
    for j, (name, column) in enumerate([*columns.of.items(), ("sum", None)]):
        vae, *others = (v[:, j] if column else every[n] for n, v in found.items() if n in every)
        share = covered[:, j] if column else covered[:, :0]
        inside = f"{np.nanmean(share):.2f}" if column and not np.isnan(share).all() else ""
        cells = [
            name,
            column.text if column else "",
            told(vae),
            *(told(other - vae, "+") for other in others),
            inside,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--folder", type=Path, default=Path("runs/tables"))
    options = parser.parse_args()
    for name in options.tables:
        found = measure(name, options.seeds, options.folder, epochs=options.epochs, patience=30)
        print(f"\n{name}\n\n{table(found)}\n")
        print(
            ", ".join(f"{what} {value / options.seeds:.1f} s" for what, value in found["seconds"].items()),
            "a split",
        )


if __name__ == "__main__":
    main()
