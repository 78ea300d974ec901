"""The quantile transform: whatever the law of the values, they become normal."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from sklearn.preprocessing import QuantileTransformer
from torch import Tensor
from torch.distributions import constraints

from nearfield.transform.value import TIES_WARNED, Values, ValueTransform, Zeros, like, namespace, subject

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray

__all__ = ["TIES_REFUSED", "Quantile"]

TIES_REFUSED = 0.25
"""One value that is more than this share of a variable is refused: its ranks say nothing."""

_LEAST = 20  # values: fewer have no quantiles to speak of
_MOST = 200_000  # values that quantiles are estimated from, drawn by a fixed seed: it bounds time and memory
_COARSEST = 1000  # probabilities that scikit-learn is asked for, where there are as many values
_BEYOND = 10  # values left beyond the outermost knot; 1 to 100 differ by less than .001 nats
_STEP = 0.25  # between knots, in standard deviations; .1 to .5 differ by less than .001 nats
_CHORD = 1.0  # standard deviations that the slope of a tail is taken over; .5 is worse by .003 nats for 50 samples
_FARTHEST = 8.0  # standard deviations that a curved tail is tabulated to
_CURVATURES = np.linspace(0.0, 0.5, 101)  # of a tail; at 1/2 the variance is infinite
_CURVATURE_ERROR = 1.7  # standard error of a curvature times the root of the number of values: correlated normal values
_FEWEST_BOUNDED = 1000  # values from which on a bound can be told from a tail
_CROWDED = 1.05  # see _bounded_above; in 150 trials normal values of correlated vertices had no less than 1.3
_ALIKE = 5.0  # see _location_and_scale


@final
class Quantile(ValueTransform):
    r"""Quantiles of the data to quantiles of the normal law, by straight lines between knots and beyond them.

    scikit-learn's QuantileTransformer estimates the quantiles, one map for all vertices. It clips whatever lies beyond
    the data; here the map goes on in a straight line with the slope of the outermost standard deviation, from where ten
    values are left. Signed data whose tails are longer than normal ones by more than a standard error go on along
    :math:`x = a + b\, y e^{h y^2 / 2}`, with the curvature :math:`h \ge 0` of the outer knots (Tukey's h-distribution;
    Hoaglin, 1985). The map is continuous and strictly increasing, and is inverted by the same lines. Equal values have
    one image, in the middle of those that they span. Where values crowd before the largest (for signed data, the
    smallest) that is a bound, and values generated beyond it are put on it.

    Where vertices differ in location or scale by more than sampling error, each is standardised by its own before. Data
    that are never negative are mapped through their logarithm, so that generated values are positive: there the tails
    are straight in the logarithm.

    Parameters
    ----------
    values, normals : Tensor, (knot,)
        Quantiles of the standardised data and of the normal law, both strictly increasing, at least two.
    center, scale : Tensor, (vertex,) or (1,)
        Location and scale before the map, of the logarithms where there are `zeros`.
    zeros : Zeros or None
        The value in place of zeros; None for signed data.
    lower, upper : float or None
        Bounds of generated values, in the units of the data.

    Examples
    --------
    >>> x = np.random.default_rng(0).exponential(size=(100, 8))
    >>> quantile = Quantile.fit(x)
    >>> y = quantile(x)
    >>> float(abs(y.mean().round(1))), float(y.std().round(1)), bool(quantile.inv(np.array([-9.0])) > 0)
    (0.0, 1.0, True)
    """

    settings = ("lower", "upper")
    name = "quantile"
    requirement = ">= 0, as all training data were,"
    remedy = "correct these data, or fit with such data among them"
    values: Tensor
    normals: Tensor
    center: Tensor
    scale: Tensor

    def __init__(
        self,
        values: Float[ndarray | Tensor, " knot"],
        normals: Float[ndarray | Tensor, " knot"],
        center: Float[ndarray | Tensor, " vertex"],
        scale: Float[ndarray | Tensor, " vertex"],
        zeros: Zeros | None = None,
        lower: float | None = None,
        upper: float | None = None,
    ) -> None:
        super().__init__()
        for name, array in (("values", values), ("normals", normals), ("center", center), ("scale", scale)):
            self.register_buffer(name, torch.as_tensor(array, dtype=torch.float64))
        self.zeros, self.lower, self.upper = zeros, lower, upper
        self.uniform = len(self.center) == 1
        if zeros is not None:
            self.domain = constraints.greater_than_eq(-zeros.tolerance)

    @classmethod
    def fit(cls, x: Float[ndarray, "sample vertex"], variable: str = "") -> Quantile:
        """Fit the map to data; refuse fewer than 20 values, and one that is more than ``TIES_REFUSED`` of them."""
        zeros = Zeros.fit(x, variable)
        signed = x.min() < -zeros.noise
        rng = np.random.default_rng(0)
        chosen = np.arange(x.size) if x.size <= _MOST else rng.choice(x.size, _MOST, replace=False)
        flat = x.ravel()[chosen]
        _judge_ties(flat if signed else np.where(flat <= zeros.noise, 0.0, flat), variable)
        y = x if signed else np.log(np.where(x <= zeros.noise, zeros.zero, x))
        center, scale = _location_and_scale(y, chosen)
        vertex = chosen % x.shape[1] if len(center) > 1 else 0
        values, normals = _knots((y.ravel()[chosen] - center[vertex]) / scale[vertex])
        if signed:  # in the logarithm a curved tail would have no moments
            error = _CURVATURE_ERROR / math.sqrt(len(chosen))
            high, low = _tail(values, normals, error), _tail(-values[::-1], -normals[::-1], error)
            values, normals = (
                np.concatenate([-b[::-1], k, a]) for a, b, k in zip(high, low, (values, normals), strict=True)
            )
        lower = float(x.min()) if signed and _bounded_above(-flat) else None
        upper = float(x.max()) if _bounded_above(flat) else None
        return cls(values, normals, center, scale, None if signed else zeros, lower, upper)

    @property
    def _slopes(self) -> Float[Tensor, " line"]:
        """Slopes of the tail below, the lines between knots, and the tail above."""
        values, normals = self.values, self.normals
        low = max(1, int(torch.searchsorted(normals, normals[0] + _CHORD, right=True)) - 1)
        high = min(len(normals) - 2, int(torch.searchsorted(normals, normals[-1] - _CHORD)))
        below = (normals[low] - normals[0]) / (values[low] - values[0])
        above = (normals[-1] - normals[high]) / (values[-1] - values[high])
        return torch.cat([below[None], normals.diff() / values.diff(), above[None]])

    def _call(self, x: Values) -> Values:
        values, normals, slopes = (like(x, array) for array in (self.values, self.normals, self._slopes))
        y = self._standardized(x)
        line, knot = _lines(values, y)
        normal: Values = normals[knot] + slopes[line] * (y - values[knot])
        return normal

    def _inverse(self, y: Values) -> Values:
        xp = namespace(y)
        values, normals, slopes = (like(y, array) for array in (self.values, self.normals, self._slopes))
        line, knot = _lines(normals, y)
        standardized = values[knot] + (y - normals[knot]) / slopes[line]
        x: Values = like(y, self.center) + like(y, self.scale) * standardized
        x = x if self.zeros is None else xp.exp(x)
        return x if self.lower is self.upper is None else xp.clip(x, self.lower, self.upper)

    def _log_slope(self, x: Values) -> Values:
        line, _ = _lines(like(x, self.values), self._standardized(x))
        slope: Values = like(x, self._slopes.log())[line] - like(x, self.scale.log())
        return slope if self.zeros is None else slope - namespace(x).log(self.zeros(x))

    def _standardized(self, x: Values) -> Values:
        y = x if self.zeros is None else namespace(x).log(self.zeros(x))
        standardized: Values = (y - like(x, self.center)) / like(x, self.scale)
        return standardized


def _lines(knots: Any, at: Values) -> tuple[Any, Any]:
    """Find the line over each value, 0 below all knots, and the knot it starts from; a knot is on the line above."""
    xp = namespace(at)
    line = xp.searchsorted(knots, at if isinstance(at, np.ndarray) else at.contiguous(), side="right")
    return line, xp.clip(line - 1, 0, None)


def _bounded_above(values: Float[ndarray, " value"]) -> bool:
    """Whether values crowd before the largest, as they do before a bound.

    Of the highest twentieth, the way from its least to its largest, over that to its least from the highest fifth. It
    is 1/3 for a uniform law, 1 where the density falls to 0 in a line, and above 2 for normal and heavier tails.
    """
    if len(values) < _FEWEST_BOUNDED:
        return False
    largest, near, far = np.quantile(values, (1.0, 0.95, 0.8))
    return bool(largest - near <= _CROWDED * (near - far))


def _judge_ties(values: Float[ndarray, " value"], variable: str) -> None:
    """Refuse or warn of a value that is too large a share of the data."""
    if len(values) < _LEAST:
        raise ValueError(
            f"{subject(variable)} must have at least {_LEAST} values for marginal='quantile', got {len(values)}; take "
            "'standardize', or 'log' or 'sqrt' for positive data"
        )
    distinct, count = np.unique(values, return_counts=True)
    most, share = distinct[count.argmax()], count.max() / len(values)
    if share > TIES_REFUSED:
        raise ValueError(
            f"{subject(variable)} must not be equal in more than {TIES_REFUSED:.0%} of the values for "
            f"marginal='quantile', got {most:g} in {share:.0%}: equal values have no order; take 'standardize', or "
            "spread them at random over what they stand for (no rain: between 0 and the least that is recorded)"
        )
    if share > TIES_WARNED:
        warnings.warn(
            f"{share:.0%} of the values of {subject(variable)} are {most:g}: marginal='quantile' maps equal values to "
            "one, and generates others around it instead. Spread them at random over what they stand for.",
            stacklevel=3,
        )


def _location_and_scale(
    y: Float[ndarray, "sample vertex"], chosen: Int[ndarray, " value"]
) -> tuple[Float[ndarray, " #vertex"], Float[ndarray, " #vertex"]]:
    """Location and scale: one for all where the vertices are alike in it, as a variance ratio tells, else their own.

    Each vertex's own costs about 1 / n_samples nats per dimension for either where the vertices are alike, and its
    error widens the tails of what is drawn; one for all costs half of what the ratio exceeds 1 by, over n_samples. With
    a ratio of five held-out losses are lowest (Cox-Ingersoll-Ross paths, 50 and 200 samples). Samples that follow each
    other in time count as independent, so that their vertices are told apart sooner.
    """
    own, spread = y.mean(axis=0), y.var(axis=0)
    spread = np.maximum(spread, 1e-12 * spread.mean())
    flat, vertex = y.ravel()[chosen], chosen % y.shape[1]
    kurtosis = np.mean(((flat - own[vertex]) ** 2 / spread[vertex]) ** 2)
    location_ratio = own.var() / (spread.mean() / len(y))
    scale_ratio = np.log(spread).var() / (max(kurtosis - 1, 0.1) / len(y))  # two values have a kurtosis of 1
    center = own if location_ratio > _ALIKE else np.full_like(own, own.mean())
    square = spread + (own - center) ** 2
    scale = np.sqrt(square if scale_ratio > _ALIKE else np.full_like(square, square.mean()))
    if max(location_ratio, scale_ratio) <= _ALIKE:
        return center[:1], scale[:1]  # of any number of vertices
    return center, scale


def _tail(
    values: Float[ndarray, " knot"], normals: Float[ndarray, " knot"], error: float
) -> tuple[Float[ndarray, " further"], Float[ndarray, " further"]]:
    """Further knots above the highest, where the curvature h of the outer ones is above its standard error.

    The slope of ``y exp(h y^2 / 2)`` is ``(1 + h y^2) exp(h y^2 / 2)``: h is that of least squares of its logarithm.
    """
    outer = normals >= 0.5
    slope = np.log(np.diff(values[outer]) / np.diff(normals[outer]))
    if len(slope) < 3:
        return values[:0], normals[:0]
    middle = (normals[outer][1:] + normals[outer][:-1]) / 2
    weight = np.sqrt(ndtr(-middle)) / np.sqrt(ndtr(-middle)).sum()
    square = _CURVATURES[:, None] * middle**2
    excess = slope - square / 2 - np.log1p(square)
    excess -= (excess @ weight)[:, None]
    curvature = max(0.0, _CURVATURES[np.argmin(excess**2 @ weight)] - error)
    if curvature == 0.0:
        return values[:0], normals[:0]
    further = np.arange(normals[-1] + _STEP, _FARTHEST, _STEP)
    inner = min(len(normals) - 2, int(np.searchsorted(normals, normals[-1] - _CHORD)))
    last, first, *beyond = (y * np.exp(curvature * y**2 / 2) for y in (normals[-1], normals[inner], *further))
    return values[-1] + (values[-1] - values[inner]) / (last - first) * (np.array(beyond) - last), further


def _knots(y: Float[ndarray, " value"]) -> tuple[Float[ndarray, " knot"], Float[ndarray, " knot"]]:
    """Quantiles of values and of the normal law at even steps of the latter, equal ones merged."""
    fine = min(len(y), max(_COARSEST, len(y) // _BEYOND) + 1)  # not more, since numpy then takes long
    quantiles = QuantileTransformer(n_quantiles=fine, subsample=None).fit(y[:, None])
    last = len(quantiles.references_) - 1
    end = -ndtri(max(min(_BEYOND / len(y), 0.1), 1 / last))
    wanted = ndtr(np.linspace(-end, end, 2 * round(end / _STEP) + 1))
    place = np.unique(np.rint(wanted * last).astype(int))
    value, normal = quantiles.quantiles_[place, 0], ndtri(quantiles.references_[place])
    # what differs by rounding only counts as equal: a slope between such knots would be noise
    group = np.concatenate([[0], np.cumsum(np.diff(value) > 1e-9 * (value[-1] - value[0]))])
    count = np.bincount(group)
    return np.bincount(group, value) / count, np.bincount(group, normal) / count
