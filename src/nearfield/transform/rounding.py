"""Rounded data: spread over the steps before a fit, and draws of it rounded again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import numpy as np

from nearfield.transform.point_mass import at_bounds, masses
from nearfield.transform.value import TIES_WARNED, Values, ValueTransform, namespace

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

__all__ = ["Rounded", "step_of"]

MANY = 0.1
"""Share of equal neighbours from which on rounding shows in a law of continuous values."""

_MOST_DISTINCT = 10_000  # values of a rounded variable
_REGULAR = 0.1  # of a step, by which distances between values may differ from whole steps: single precision


@final
class Rounded(ValueTransform):
    """A transform of values that were rounded to steps: its draws are rounded alike.

    Parameters
    ----------
    inner : ValueTransform
        Of the values as if they had not been rounded.
    step, origin : float
        Values are the origin plus whole steps.

    Examples
    --------
    >>> from nearfield.transform.value import Identity
    >>> Rounded(Identity(), 0.5, 0.0).inv(np.array([0.7, 1.2])).tolist()
    [0.5, 1.0]
    """

    settings = ("step", "origin")

    def __init__(self, inner: ValueTransform, step: float, origin: float) -> None:
        super().__init__()
        self.inner, self.step, self.origin = inner, step, origin
        self.name, self.uniform, self.domain = inner.name, inner.uniform, inner.domain

    def check(self, x: Values, variable: str = "") -> None:
        """Refuse what the inner transform does."""
        self.inner.check(x, variable)

    def _call(self, x: Values) -> Values:
        y: Values = self.inner(x)
        return y

    def _inverse(self, y: Values) -> Values:
        steps = namespace(y).round((self.inner.inv(y) - self.origin) / self.step)
        x = self.origin + self.step * steps
        allowed: Any = self.inner.domain.check(x)
        inside: Values = x + self.step * ~allowed  # a logarithm has no 0
        return inside

    def _log_slope(self, x: Values) -> Values:
        slope: Values = self.inner.log_abs_det_jacobian(x)
        return slope


def step_of(x: Float[ndarray, "sample vertex"]) -> float | None:
    """Step that values are rounded to, if more than a tenth of those beside each other are equal or one is common.

    Values at a bound with a mass do not count. Neighbours are those in the order of the vertices, or in that of the
    samples where there is one vertex.
    """
    at_lower, at_upper = at_bounds(x, masses(x))
    inside = np.where(at_lower | at_upper, np.nan, x)
    pairs = inside if inside.shape[1] > 1 else inside.T
    both = np.isfinite(pairs[:, 1:]) & np.isfinite(pairs[:, :-1])
    distinct, count = np.unique(inside[np.isfinite(inside)], return_counts=True)
    few = (pairs[:, 1:] == pairs[:, :-1]).sum() <= MANY * both.sum()
    if few and count.max(initial=0) <= TIES_WARNED * count.sum():
        return None
    if not 3 <= len(distinct) <= _MOST_DISTINCT:
        return None
    gaps: np.ndarray = np.diff(distinct)
    steps: np.ndarray = gaps / gaps.min()
    if np.abs(steps - np.rint(steps)).max() > _REGULAR:
        return None
    return float(np.ptp(distinct) / np.rint(steps).sum())


def spread(x: Float[ndarray, "sample vertex"], step: float, seed: int) -> Float[ndarray, "sample vertex"]:
    """Spread rounded values evenly over their steps, those at a bound with a mass excepted, none below a bound 0."""
    at_lower, at_upper = at_bounds(x, masses(x))
    moved = x + step * (np.random.default_rng(seed).random(x.shape) - 0.5)
    if np.nanmin(x) >= 0:
        moved = np.abs(moved)
    return np.where(at_lower | at_upper, x, moved)
