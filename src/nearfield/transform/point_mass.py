r"""Values of which many lie exactly at a bound: no rain, no ice, full cloud cover.

A value at the bound stands for a latent normal value beyond a threshold. With a share p at the lower bound and q at the
upper one, and the distribution function G of the values between,

.. math:: z = \Phi^{-1}(p + (1 - p - q)\, G(x)), \qquad x = \text{lower} \iff z < \Phi^{-1}(p).

Draws lie at a bound as often as the data do, and the probability of a bound takes the place of a density there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from nearfield.transform.quantile import Quantile
from nearfield.transform.value import NOISE, Values, ValueTransform, like, namespace

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray

__all__ = ["PointMass"]

LEAST = 0.01
"""Least share of the values at a bound that counts as a mass there."""

_ALIKE = 5.0  # ratio of variances above which the shares of vertices differ
_FARTHEST = 37.0  # standard deviations, beyond which the normal law has probability 0 in float64
_SMALLEST = 1e-300
_LOG_ROOT = 0.5 * math.log(2 * math.pi)


@final
class PointMass(ValueTransform):
    """The quantile transform of the values between two bounds, with probabilities of the bounds themselves.

    Values at a bound have the median of their latent law for an image; `censored` tells which these are.

    Parameters
    ----------
    inner : Quantile
        Of the values that are not at a bound.
    low, high : Tensor, (vertex,) or (1,)
        Probability of the lower and of the upper bound, 0 where there is no mass.
    lower, upper : float or None
        Bounds with a mass.

    Examples
    --------
    >>> x = np.maximum(np.random.default_rng(0).normal(size=(100, 8)), 0.0)
    >>> mass = PointMass.fit(x)
    >>> float(mass.low.round(decimals=1)), mass.inv(np.array([-0.5, 1.0])).round().tolist()
    (0.5, [0.0, 1.0])
    """

    settings = ("lower", "upper")
    name = "quantile"
    requirement = Quantile.requirement
    remedy = Quantile.remedy
    low: Tensor
    high: Tensor

    def __init__(
        self,
        inner: Quantile,
        low: Float[ndarray | Tensor, " _"],
        high: Float[ndarray | Tensor, " _"],
        lower: float | None = None,
        upper: float | None = None,
    ) -> None:
        super().__init__()
        self.inner, self.lower, self.upper = inner, lower, upper
        self.register_buffer("low", torch.as_tensor(low, dtype=torch.float64))
        self.register_buffer("high", torch.as_tensor(high, dtype=torch.float64))
        self.uniform = inner.uniform and len(self.low) == len(self.high) == 1
        self.domain = inner.domain

    @classmethod
    def fit(cls, x: Float[ndarray, "sample vertex"], variable: str = "") -> Quantile | PointMass:
        """Fit to observed data: a `Quantile` where no bound has a mass."""
        bounds = masses(x)
        if bounds == (None, None):
            return Quantile.fit(x, variable)
        at_lower, at_upper = at_bounds(x, bounds)
        inner = Quantile.fit(np.where(at_lower | at_upper, np.nan, x), variable)
        count = np.isfinite(x).sum(axis=0)
        low, high = (_shares(each.sum(axis=0), count) for each in (at_lower, at_upper))
        return cls(inner, low, high, *bounds)

    def censored(self, x: Values, *, upper: bool = False) -> Values:
        """Threshold below which the latent values at the lower bound lie (above which, at the upper one); else NaN."""
        xp, (at, chance, sign) = namespace(x), self._sides(x)[1 if upper else 0]
        threshold: Values = xp.where(at, sign * _ndtri(chance), xp.full_like(x, math.nan))
        return threshold

    def _sides(self, x: Values) -> tuple[tuple[Any, Any, int], tuple[Any, Any, int]]:
        """Whether values are at each bound, the probability of it, and the sign of its thresholds."""
        at_lower, at_upper = at_bounds(x, (self.lower, self.upper))
        return (at_lower, like(x, self.low), 1), (at_upper, like(x, self.high), -1)

    def _between(self, x: Values) -> Values:
        """Image under the inner map, and 0 for values at a bound."""
        xp, sides = namespace(x), self._sides(x)
        at = sides[0][0] | sides[1][0]
        inside = xp.where(at, 0.0, self.inner(xp.where(at, self.inner.inv(xp.zeros_like(x)), x)))
        clipped: Values = xp.clip(inside, -_FARTHEST, _FARTHEST)
        return clipped

    def _squeezed(self, y: Values) -> Values:
        """Make room for the masses beside the normal law of the values between."""
        xp, low, high = namespace(y), like(y, self.low), like(y, self.high)
        below = y < 0
        chance = xp.where(below, low, high) + (1 - low - high) * _ndtr(-xp.abs(y))
        squeezed: Values = xp.where(below, 1.0, -1.0) * _ndtri(chance)
        return squeezed

    def _call(self, x: Values) -> Values:
        xp, z = namespace(x), self._squeezed(self._between(x))
        for at, chance, sign in self._sides(x):
            z = xp.where(at, sign * _ndtri(xp.where(at, 0.5 * chance, 0.5)), z)
        mapped: Values = z
        return mapped

    def _inverse(self, y: Values) -> Values:
        xp, low, high = namespace(y), like(y, self.low), like(y, self.high)
        below, above = _ndtr(y) - low, _ndtr(-y) - high
        chance = xp.clip(xp.minimum(below, above) / (1 - low - high), _SMALLEST, 0.5)
        x: Values = self.inner.inv(xp.where(below < above, 1.0, -1.0) * _ndtri(chance))
        for bound, left in ((self.lower, below), (self.upper, above)):
            if bound is not None:
                x = xp.where(left <= 0, bound, x)
        return x

    def _log_slope(self, x: Values) -> Values:
        xp, y = namespace(x), self._between(x)
        low, high, z = like(x, self.low), like(x, self.high), self._squeezed(y)
        sides = self._sides(x)
        median = xp.where(sides[0][0] | sides[1][0], self.inner.inv(xp.zeros_like(x)), x)
        slope = xp.log(1 - low - high) + (z**2 - y**2) / 2 + self.inner.log_abs_det_jacobian(median)
        for at, chance, _ in sides:  # the probability of the bound, over the normal density at its image
            chance = xp.where(at, chance, 0.5)
            slope = xp.where(at, xp.log(chance) + _ndtri(0.5 * chance) ** 2 / 2 + _LOG_ROOT, slope)
        logarithm: Values = slope
        return logarithm


def masses(x: Float[ndarray, "sample vertex"]) -> tuple[float | None, float | None]:
    """Lowest and highest value, where at least a hundredth of the values and more than of the next one have it."""
    values = x[np.isfinite(x)]
    positive = values[values > 0]
    if positive.size and 0 > values.min() >= -NOISE * np.median(positive):
        values = np.maximum(values, 0.0)
    distinct, count = np.unique(values, return_counts=True)
    if len(distinct) < 3:
        return None, None
    ends = ((distinct[0], count[0], count[1]), (distinct[-1], count[-1], count[-2]))
    lower, upper = (float(v) if first > max(next_, LEAST * values.size) else None for v, first, next_ in ends)
    return lower, upper


def at_bounds(x: Values, bounds: tuple[float | None, float | None]) -> tuple[Any, Any]:
    """Whether each value is at the lower bound, and at the upper one."""
    nowhere = namespace(x).zeros_like(x) > 0
    return nowhere if bounds[0] is None else x <= bounds[0], nowhere if bounds[1] is None else x >= bounds[1]


def _shares(hits: Int[ndarray, " vertex"], count: Int[ndarray, " vertex"]) -> Float[ndarray, " #vertex"]:
    """Probability of a bound: one for all vertices where they are alike, else shrunk towards it."""
    mean = hits.sum() / count.sum()
    if mean == 0.0:
        return np.zeros(1)
    between = float(np.var(hits / np.maximum(count, 1)))
    within = float(mean * (1 - mean) * np.mean(1 / np.maximum(count, 1)))
    if between <= _ALIKE * within:
        return np.array([mean])
    weight = max(mean * (1 - mean) / (between - within) - 1, 0.5)  # of the beta-binomial law, by its moments
    shares: np.ndarray = (hits + weight * mean) / (count + weight)
    return shares


def _ndtr(y: Any) -> Any:
    return ndtr(y) if isinstance(y, np.ndarray) else torch.special.ndtr(y)


def _ndtri(chance: Any) -> Any:
    return ndtri(chance) if isinstance(chance, np.ndarray) else torch.special.ndtri(chance)
