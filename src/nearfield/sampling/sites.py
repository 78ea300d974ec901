"""Likelihoods of single entries: bounds, errors under a bent marginal, and values of a point mass."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from nearfield.score.evidence import Sites

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from nearfield.transform.marginal import Marginal

__all__ = ["Bounds", "sites_of"]

_NODES = 256
"""Nodes of a likelihood."""
_ERRORS = 6.0
"""Errors that the nodes reach."""
_FAR = 10.0
"""Standard deviations where the domain of a marginal ends before."""


class Bounds:
    """Bounds and noisy values of single entries, in the units of the data."""

    def __init__(self, n_entries: int) -> None:
        self.low, self.high = np.full(n_entries, -np.inf), np.full(n_entries, np.inf)
        # standardised thresholds, below and above which the data have one value
        self.below, self.above = np.full(n_entries, np.nan), np.full(n_entries, np.nan)
        self.noisy: list[tuple[int, float, float]] = []

    def add(self, entry: int, value: float, *, above: bool) -> None:
        """Bound an entry from below (``above`` is where the value is) or from above."""
        if above:
            self.low[entry] = max(self.low[entry], value)
        else:
            self.high[entry] = min(self.high[entry], value)

    def add_noisy(self, entry: int, value: float, error: float) -> None:
        """Keep a value whose error is not small against the bend of the marginal."""
        self.noisy.append((entry, value, error))

    def add_masses(self, x: Float[np.ndarray, "case vertex channel"], marginal: Marginal) -> Bool[np.ndarray, " entry"]:
        """Find exact values that are a point mass of the marginal, which stands for all beyond a threshold."""
        self.below, self.above = (marginal.censored(x, upper=up).reshape(len(x), -1)[0] for up in (False, True))
        found: np.ndarray = np.isfinite(self.below) | np.isfinite(self.above)
        return found

    def settle(
        self, exact: Float[np.ndarray, " entry"], name: Callable[[int], str]
    ) -> tuple[Float[np.ndarray, " entry"], Float[np.ndarray, " entry"]]:
        """Refuse bounds without a value between them, and drop those of exact values; return both."""
        for k in np.flatnonzero(self.low >= self.high):
            raise ValueError(
                f"observations contradict each other: above {self.low[k]:g} and below {self.high[k]:g} at "
                f"{name(int(k))}"
            )
        for k in np.flatnonzero((exact < self.low) | (exact > self.high)):
            side, bound = ("above", self.low[k]) if exact[k] < self.low[k] else ("below", self.high[k])
            raise ValueError(
                f"observations contradict each other: {exact[k]:g}, exact, and {side} {bound:g} at {name(int(k))}"
            )
        known = ~np.isnan(exact)
        self.low[known], self.high[known] = -np.inf, np.inf
        return self.low, self.high

    def errors(self, slope: Callable[[int, float], float]) -> list[float]:
        """Errors of the noisy values, standardised to first order."""
        found = [error * slope(entry, value) for entry, value, error in self.noisy]
        return [each for each in found if np.isfinite(each)]


def sites_of(marginal: Marginal, shape: tuple[int, ...], bounds: Bounds) -> Sites | None:
    """Standardise bounds and likelihoods; None if there are none."""
    noisy = np.zeros(len(bounds.low), dtype=bool)
    noisy[[entry for entry, _, _ in bounds.noisy]] = True
    known = (bounds.low, bounds.high, bounds.below, bounds.above)
    entry = np.flatnonzero(np.isfinite(known).any(axis=0) | noisy)
    if len(entry) == 0:
        return None
    low, high = _standardised(marginal, shape, bounds.low), _standardised(marginal, shape, bounds.high)
    impossible = np.isnan(high) & np.isfinite(bounds.high)
    if impossible.any():
        raise ValueError(
            f"below must be a bound in the domain of marginal={marginal.name!r}, got {bounds.high[impossible][0]:g}: "
            "no value is below"
        )
    low = np.fmax(np.fmax(low, bounds.above), -np.inf)
    high = np.fmin(np.fmin(high, bounds.below), np.inf)
    log_likelihood = np.zeros((len(bounds.low), _NODES))
    if noisy.any():
        ends = [np.full(len(bounds.low), np.nan) for _ in range(2)]
        for e, value, error in bounds.noisy:
            ends[0][e] = np.fmin(ends[0][e], value - _ERRORS * error)
            ends[1][e] = np.fmax(ends[1][e], value + _ERRORS * error)
        for side, end, given in ((-1, ends[0], low), (1, ends[1], high)):
            z = _standardised(marginal, shape, end)
            z = np.where(np.isnan(z), side * _FAR, z)
            given[noisy] = (np.fmax if side < 0 else np.fmin)(given, z)[noisy]
        nodes = np.zeros((_NODES, len(low)))
        nodes[:, noisy] = np.linspace(low[noisy], high[noisy], _NODES)
        x = marginal.inv(nodes.reshape(_NODES, *shape)).reshape(_NODES, -1)
        for e, value, error in bounds.noisy:
            log_likelihood[e] -= 0.5 * ((x[:, e] - value) / error) ** 2
    return Sites(entry, low[entry], high[entry], noisy[entry], log_likelihood[entry])


def _standardised(
    marginal: Marginal, shape: tuple[int, ...], x: Float[np.ndarray, " entry"]
) -> Float[np.ndarray, " entry"]:
    """Standardised values, NaN for those infinite or outside the domain."""
    values = np.where(np.isfinite(x), x, np.nan).reshape(1, *shape)
    for k, transform in enumerate(marginal.transforms):
        inside = transform.domain.check(torch.from_numpy(values[..., k].copy())).numpy()  # type: ignore[union-attr,operator]
        values[..., k] = np.where(inside, values[..., k], np.nan)
    z: np.ndarray = marginal(values).reshape(-1)
    return z
