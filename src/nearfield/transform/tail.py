r"""Tails of a law: the generalised Pareto law of what exceeds a threshold.

What exceeds a high threshold u follows, whatever the law, in the limit (Pickands, 1975; Coles, 2001, equation 4.2)

.. math:: P(x - u > e \mid x > u) = (1 + \xi e / \sigma)^{-1/\xi}.

The shape :math:`\xi` is one for all vertices, and is shrunk towards 0, the exponential tail.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import ndtr, ndtri
from scipy.stats import genpareto

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

__all__ = ["HEAVIEST", "SHARE", "pareto", "with_tail"]

SHARE = 0.05
"""Share of the values that make a tail; of fewer than 400 values it is 20 of them, a quarter at most."""

HEAVIEST = 0.5
"""Largest shape: above, the variance is infinite."""

_LIGHTEST = -0.5  # shape below which the likelihood has no maximum
_SHAPE_ERROR = 0.2  # standard deviation of the shapes of laws: normal -.1, gamma 0, Student's t3 .33, Pareto 2.5 .4
_MOST = 20_000  # values that a tail is fitted to
_STEP = 0.25  # between tabulated quantiles, in normal standard deviations
_FARTHEST = 8.0  # standard deviations that a tail is tabulated to
_BEYOND_RECORD = 10  # times the length of the record that a tail with an end is tabulated to


def pareto(excess: Float[ndarray, " value"], heaviest: float = HEAVIEST) -> tuple[float, float]:
    """Shape, up to the heaviest, and scale of largest posterior density, of positive values above their threshold.

    Examples
    --------
    >>> shape, scale = pareto(genpareto(0.3, scale=2.0).rvs(size=5000, random_state=0))
    >>> round(shape, 1), round(scale, 1)
    (0.3, 2.0)
    """
    mean = float(excess.mean())
    e = excess / mean
    most = float(e.max())

    def scaled(shape: float) -> tuple[float, float]:
        """Most likely scale at a shape, and minus the mean log-density there."""
        least = math.log(max(1e-3, -shape * most * (1 + 1e-9)))
        found = minimize_scalar(
            lambda log_scale: log_scale + (1 + 1 / shape) * np.log1p(shape * e / math.exp(log_scale)).mean(),
            bounds=(least, least + 10),
            options={"xatol": 1e-4},
        )
        return mean * math.exp(found.x), float(found.fun)

    found = minimize_scalar(
        lambda shape: len(e) * scaled(_off_zero(shape))[1] + (shape / _SHAPE_ERROR) ** 2 / 2,
        bounds=(_LIGHTEST, heaviest),
        options={"xatol": 1e-3},
    )
    shape = _off_zero(float(found.x))
    return shape, scaled(shape)[0]


def _off_zero(shape: float) -> float:
    """Keep a shape from 0, where the formulas need a limit."""
    return shape if abs(shape) > 1e-4 else 1e-4


def with_tail(
    values: Float[ndarray, " knot"],
    normals: Float[ndarray, " knot"],
    data: Float[ndarray, " value"],
    unit: Callable[[Any], Any],
    inverse: Callable[[Any], Any],
    heaviest: float = HEAVIEST,
) -> tuple[Float[ndarray, " all"], Float[ndarray, " all"]]:
    """Replace the knots in the upper tail of data by quantiles of the law of its excesses, in units of ``unit``."""
    share = max(SHARE, min(0.25, 20 / len(data)))
    threshold = float(np.quantile(data, 1 - share))
    above = data[data > threshold]
    start = -ndtri(share)
    inner = (values < threshold) & (normals < start)
    if len(above) < 5 or np.ptp(above) == 0 or inner.sum() < 2:
        return values, normals
    if len(above) > _MOST:
        above = np.sort(above)[:: math.ceil(len(above) / _MOST)]
    shape, scale = pareto(unit(above) - unit(threshold), heaviest)
    end = _FARTHEST if shape > 0 else float(-ndtri(1 / (_BEYOND_RECORD * len(data))))
    normal = np.append(np.arange(start, end, _STEP), end)
    tail = inverse(unit(threshold) + genpareto.isf(ndtr(-normal) / share, shape, scale=scale))
    tail[0] = threshold
    inner &= normals < start - 0.1
    return np.concatenate([values[inner], tail]), np.concatenate([normals[inner], normal])
