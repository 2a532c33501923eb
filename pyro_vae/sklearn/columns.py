"""Columns of reals as the imputer's VAEs learn them."""

from __future__ import annotations

import math
import warnings

import numpy as np
from sklearn.preprocessing import PowerTransformer, StandardScaler

POWERS = (0.0, 2.0)
"""Between which a column's power lies: outside, not every number has an inverse."""
BEYOND = 0.5
"""How far outside the observed range values may be drawn, in standard deviations of the column."""


class Columns:
    """Those that vary, standardised, perhaps brought near a Normal (Yeo and Johnson, 2000), and standardised.

    Args:
        x: rows ``[N, n_features]``, of which some values are NaN.
        powers: whether they are brought near a Normal.
    """

    def __init__(self, x: np.ndarray, powers: bool):
        known = ~np.isnan(x)
        low = np.where(known, x, np.inf).min(0, initial=np.inf)
        high = np.where(known, x, -np.inf).max(0, initial=-np.inf)
        self.constant = np.where(known.any(0), low, 0.0)
        size = np.maximum(np.abs(low), np.abs(high))
        self.varies = known.any(0) & (high - low > 1e-10 * size)
        if not self.varies.any():
            return
        own = x[:, self.varies]
        self.unit = StandardScaler().fit(own)
        standard = self.unit.transform(own)
        self.low, self.high = np.nanmin(standard, 0) - BEYOND, np.nanmax(standard, 0) + BEYOND
        self.power = PowerTransformer(standardize=False)
        if powers:
            with warnings.catch_warnings():  # of columns of a few values, whose powers are then bounded
                warnings.simplefilter("ignore", RuntimeWarning)
                self.power.fit(standard)
            self.power.lambdas_ = np.clip(np.nan_to_num(self.power.lambdas_, nan=1.0), *POWERS)
        else:
            self.power.fit(np.zeros((1, standard.shape[1])))
            self.power.lambdas_ = np.ones(standard.shape[1])
        self.near_normal = StandardScaler().fit(self.power.transform(standard))

    def learned(self, x: np.ndarray) -> np.ndarray:
        """Rows ``[N, n_features]`` as they are learned, ``[N, n_varying]``; those far outside nearer."""
        if not self.varies.any():
            return np.empty((len(x), 0))
        standard = np.clip(self.unit.transform(x[:, self.varies]), self.low - 3, self.high + 3)
        values: np.ndarray = self.near_normal.transform(self.power.transform(standard))
        return values

    def units(self, values: np.ndarray) -> np.ndarray:
        """Draws ``[..., n_varying]`` in the columns' own units, ``[..., n_features]``."""
        flat = values.reshape(math.prod(values.shape[:-1]), values.shape[-1])
        rows = np.tile(self.constant, (len(flat), 1))
        if self.varies.any():
            with np.errstate(over="ignore"):  # of draws far out, which are then clipped
                standard = self.power.inverse_transform(self.near_normal.inverse_transform(flat))
            standard = np.clip(standard, self.low, self.high)
            rows[:, self.varies] = self.unit.inverse_transform(standard)
        return rows.reshape(*values.shape[:-1], len(self.constant))
