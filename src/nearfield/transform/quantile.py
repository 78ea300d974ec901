"""The quantile warp: whatever the law of the values, they become normal."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from scipy.special import ndtr, ndtri
from sklearn.preprocessing import QuantileTransformer

from nearfield.transform.value import TIES_WARNED, Warp, half_smallest, packing_noise, refuse, subject

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
_FEWEST_BOUNDED = 1000  # values from which on a bound can be told from a tail
_CROWDED = 1.05  # see bounded_above; in 150 trials normal values of correlated vertices had no less than 1.3
_ALIKE = 5.0  # see _location_and_scale


@final
@dataclass(frozen=True, eq=False)
class Quantile(Warp):
    r"""Quantiles of the data to quantiles of the normal law, by straight lines between knots and beyond them.

    scikit-learn's QuantileTransformer estimates the quantiles, one map for all vertices. It clips whatever lies beyond
    the data; here the map goes on in a straight line with the slope of the outermost standard deviation, from where ten
    values are left. The map is continuous and strictly increasing, and is inverted by the same lines. Equal values have
    one image, in the middle of those that they span. Where values crowd before the largest (for signed data, the
    smallest) that is a bound, as `bounded_above` tells, and what would be generated beyond is put on it.

    Where vertices differ in location or scale by more than sampling error, each is standardised by its own before. Data
    that are never negative are mapped through their logarithm, so that what is generated is positive: there the tails
    are straight in the logarithm. Zeros are then taken as half the smallest positive value, as in `SquareRoot`.

    Parameters
    ----------
    variable : str
        The variable, for messages.
    values, normals : ndarray, (knot,)
        Quantiles of the standardised data and of the normal law, both strictly increasing, at least two.
    center, scale : ndarray, (vertex,) or (1,)
        Location and scale before the map, of the logarithms where there is a `zero`.
    zero : float or None
        What zeros are taken as; None for signed data.
    noise, tolerance : float
        Of data that are never negative; see `packing_noise`.
    lower, upper : float or None
        Bounds of what is generated, in the units of the data.

    Examples
    --------
    >>> x = np.random.default_rng(0).exponential(size=(100, 8))
    >>> warp = Quantile.fit(x)
    >>> u = warp.transform(x)
    >>> abs(u.mean().round(1)), u.std().round(1), bool(np.allclose(warp.inverse(u), x, rtol=1e-12))
    (np.float64(0.0), np.float64(1.0), True)
    >>> bool(warp.inverse(np.array([-9.0])) > 0)
    True
    """

    variable: str
    values: Float[ndarray, " knot"]
    normals: Float[ndarray, " knot"]
    center: Float[ndarray, " vertex"]
    scale: Float[ndarray, " vertex"]
    zero: float | None
    noise: float = 0.0
    tolerance: float = 0.0
    lower: float | None = None
    upper: float | None = None

    @classmethod
    def fit(cls, x: Float[ndarray, "sample vertex"], variable: str = "") -> Quantile:
        """Fit the map to data.

        Raises
        ------
        ValueError
            If there are fewer than 20 values, or more than ``TIES_REFUSED`` of them are equal.

        Warns
        -----
        UserWarning
            If more than ``TIES_WARNED`` of them are equal, or some are negative by as little as packing does.
        """
        noise, tolerance = packing_noise(x, variable)
        x = np.where(x <= noise, 0.0, x) if noise else x
        rng = np.random.default_rng(0)
        chosen = np.arange(x.size) if x.size <= _MOST else rng.choice(x.size, _MOST, replace=False)
        _judge_ties(x.ravel()[chosen], variable)
        zero = None if x.min() < 0 else half_smallest(x, noise)
        y = x if zero is None else np.log(np.where(x == 0, zero, x))
        center, scale = _location_and_scale(y, chosen)
        vertex = chosen % x.shape[1] if len(center) > 1 else 0
        values, normals = _knots((y.ravel()[chosen] - center[vertex]) / scale[vertex])
        flat = x.ravel()[chosen]
        lower = float(x.min()) if zero is None and bounded_above(-flat) else None
        upper = float(x.max()) if bounded_above(flat) else None
        return cls(variable, values, normals, center, scale, zero, noise, tolerance, lower, upper)

    @property
    def name(self) -> str:
        """What users call it."""
        return "quantile"

    def check(self, x: Float[ndarray, "*sample vertex"]) -> None:
        """Accept everything; what is not negative only, if the training data were so."""
        if self.zero is not None:
            rule = f"{subject(self.variable)} must be >= 0, as all training data were, for marginal='quantile'"
            refuse(x < -self.tolerance, x, rule, "correct these data, or fit with such data among them")

    def transform(self, x: Float[ndarray, "*sample vertex"]) -> Float[ndarray, "*sample vertex"]:
        """Map data to values of a normal law."""
        y = self._standardized(x)
        line = np.searchsorted(self.values, y, side="right")
        knot = np.maximum(line - 1, 0)
        return self.normals[knot] + self._slopes[line] * (y - self.values[knot])

    def inverse(self, u: Float[ndarray, "*sample vertex"]) -> Float[ndarray, "*sample vertex"]:
        """Return any real values to data; positive where the training data were not negative."""
        line = np.searchsorted(self.normals, u, side="right")
        knot = np.maximum(line - 1, 0)
        y = self.center + self.scale * (self.values[knot] + (u - self.normals[knot]) / self._slopes[line])
        x = y if self.zero is None else np.exp(y)
        return x if self.lower is self.upper is None else np.clip(x, self.lower, self.upper)

    def log_slope(self, x: Float[ndarray, "*sample vertex"]) -> Float[ndarray, "*sample vertex"]:
        """Logarithm of the derivative; at a knot that of the line above it."""
        line = np.searchsorted(self.values, self._standardized(x), side="right")
        slope = np.log(self._slopes)[line] - np.log(self.scale)
        return slope if self.zero is None else slope - np.log(np.where(x <= self.noise, self.zero, x))

    @property
    def _slopes(self) -> Float[ndarray, " line"]:
        """Of the lines: the tail below, those between knots, the tail above."""
        values, normals = self.values, self.normals
        low = max(1, int(np.searchsorted(normals, normals[0] + _CHORD, side="right")) - 1)
        high = min(len(normals) - 2, int(np.searchsorted(normals, normals[-1] - _CHORD)))
        below = (normals[low] - normals[0]) / (values[low] - values[0])
        above = (normals[-1] - normals[high]) / (values[-1] - values[high])
        return np.concatenate([[below], np.diff(normals) / np.diff(values), [above]])

    def _standardized(self, x: Float[ndarray, "*sample vertex"]) -> Float[ndarray, "*sample vertex"]:
        y = x if self.zero is None else np.log(np.where(x <= self.noise, self.zero, x))
        return (y - self.center) / self.scale


def bounded_above(values: Float[ndarray, " value"]) -> bool:
    """Whether values crowd before the largest, as they do before a bound.

    Of the highest twentieth, the way from its least to its largest, over that to its least from the highest fifth. It
    is 1/3 for a uniform law, 1 where the density falls to 0 in a line, and above 2 for normal and heavier tails.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=2000)
    >>> bounded_above(x), bounded_above(ndtr(x)), bounded_above(np.minimum(x, 1.5))
    (False, True, True)
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
) -> tuple[Float[ndarray, " vertex"], Float[ndarray, " vertex"]]:
    """One location and scale where the vertices are alike, as a variance ratio tells, else one for each vertex.

    Each vertex's own costs about 2 / n_samples nats per dimension where the vertices are alike (Cox-Ingersoll-Ross
    paths, 50 and 200 samples), and one for all costs half of what the ratio exceeds 1 by, over n_samples: so five.
    Samples that follow each other in time count as independent, so that their vertices are told apart sooner.
    """
    own, spread = y.mean(axis=0), y.var(axis=0)
    spread = np.maximum(spread, 1e-12 * spread.mean())
    flat, vertex = y.ravel()[chosen], chosen % y.shape[1]
    kurtosis = np.mean(((flat - own[vertex]) ** 2 / spread[vertex]) ** 2)
    location = own.var() / (spread.mean() / len(y))
    scale = np.log(spread).var() / (max(kurtosis - 1, 0.1) / len(y))  # two values have a kurtosis of 1
    if max(location, scale) <= _ALIKE:
        return own.mean(keepdims=True), np.sqrt(np.array([spread.mean() + own.var()]))
    return own, np.sqrt(spread)


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
