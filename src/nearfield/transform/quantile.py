"""The quantile transform: whatever the law of the values, they become normal."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from sklearn.preprocessing import QuantileTransformer
from torch import Tensor
from torch.distributions import constraints

from nearfield.transform.location import Location
from nearfield.transform.tail import HEAVIEST, with_tail
from nearfield.transform.value import TIES_WARNED, Values, ValueTransform, Zeros, like, namespace, subject

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

__all__ = ["TIES_REFUSED", "Quantile", "upper_bound"]

TIES_REFUSED = 0.25
"""One value that is more than this share of a variable is refused: its ranks say nothing."""

_LEAST = 20  # values: fewer have no quantiles to speak of
_MOST = 200_000  # values that quantiles are estimated from, drawn by a fixed seed: it bounds time and memory
_COARSEST = 1000  # probabilities that scikit-learn is asked for, where there are as many values
_BEYOND = 10  # values left beyond the outermost knot; 1 to 100 differ by less than .001 nats
_STEP = 0.25  # between knots, in standard deviations; .1 to .5 differ by less than .001 nats
_CHORD = 1.0  # standard deviations that the slope beyond all knots is taken over
_FEWEST_BOUNDED = 1000  # values from which on a bound can be told from a tail
_HIGH = 0.95  # of the values, from which the highest count
_CROWDED = 1.05  # see _crowded; in 150 trials normal values of correlated vertices had no less than 1.3


@final
class Quantile(ValueTransform):
    r"""Quantiles of the data to quantiles of the normal law, by straight lines between knots and beyond them.

    scikit-learn's QuantileTransformer estimates the quantiles, one map for all vertices. It clips whatever lies beyond
    the data; here the map follows a generalised Pareto law beyond the 95th percentile and below the 5th
    (`nearfield.transform.tail`), and a straight line beyond that: from 8 standard deviations on, or where the law has
    an end, from ten times the record. The map is continuous and strictly increasing, and is inverted by the same lines.
    Equal values have one image, in the middle of those that they span. Where values crowd before the largest (for
    signed data, the smallest) that is a bound: the map keeps its knots up to where ten values are left, and values
    generated beyond the bound are put on it.

    Where vertices differ in location or scale by more than sampling error, each is standardised by its own before. The
    knots are those of values standardised by the *others* of their vertex: a value that helped to make its own location
    and scale lies closer to it than fresh ones do. Data that are never negative are mapped through their logarithm, so
    that generated values are positive; the excesses above the 95th percentile are then those of the values themselves.

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
        """Fit to observed data; refuse fewer than 20 values, and one that is more than ``TIES_REFUSED`` of them."""
        zeros = Zeros.fit(x, variable)
        signed = np.nanmin(x) < -zeros.noise
        observed = np.flatnonzero(np.isfinite(x))
        chosen = observed
        if len(observed) > _MOST:
            chosen = observed[np.random.default_rng(0).choice(len(observed), _MOST, replace=False)]
        flat = x.ravel()[chosen]
        _judge_ties(flat if signed else np.where(flat <= zeros.noise, 0.0, flat), variable)
        y = x if signed else np.log(np.where(x <= zeros.noise, zeros.zero, x))
        location = Location.fit(y)
        standardized = location.left_out(y).ravel()[chosen]
        values, normals = _knots(standardized)
        upper, below = upper_bound(x), upper_bound(-x) if signed else None
        lower = None if below is None else -below
        if upper is None:
            unit, inverse = (_same, _same) if signed else _exponential(float(location.scale.mean()))
            values, normals = with_tail(values, normals, standardized, unit, inverse)
        if lower is None:
            # near a bound 0 the law is a power at most, which is a shape 0 in the logarithm
            heaviest = HEAVIEST if signed else 0.0
            low = with_tail(-values[::-1], -normals[::-1], -standardized, _same, _same, heaviest)
            values, normals = (-part[::-1] for part in low)
        return cls(values, normals, location.center, location.scale, None if signed else zeros, lower, upper)

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


def upper_bound(x: Float[ndarray, "sample vertex"]) -> float | None:
    """Largest value, if values crowd before it as they do before a bound.

    They do so in all data together and at the vertices that reach it, as far as these are alike: vertices of different
    levels crowd together at the highest level, which is no bound.
    """
    values = x[np.isfinite(x)]
    if not _crowded(values):
        return None
    high = (x >= np.quantile(values, _HIGH)).sum(axis=0) / np.maximum(np.isfinite(x).sum(axis=0), 1)
    reaching = x[:, high > 0.5 * (1 - _HIGH)]
    standardized = Location.fit(reaching).left_out(reaching)
    return float(values.max()) if _crowded(standardized[np.isfinite(standardized)]) else None


def _crowded(values: Float[ndarray, " value"]) -> bool:
    """Whether the highest twentieth of a thousand values at least is narrow.

    Its width over that of the values between the highest twentieth and fifth is 1/3 for a uniform law, 1 where the
    density falls to 0 in a line, and above 2 for normal and heavier tails.
    """
    if len(values) < _FEWEST_BOUNDED:
        return False
    largest, near, far = np.quantile(values, (1.0, _HIGH, 0.8))
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


def _same(y: Any) -> Any:
    return y


def _exponential(scale: float) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """From standardised logarithms to values over their typical size, and back."""
    return lambda y: np.exp(scale * y), lambda w: np.log(w) / scale


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
