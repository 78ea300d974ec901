"""Numbers that mean missing: named by attributes, or customary.

A number that stands for "missing" and is taken for a value ruins a fit unseen: one -9999 among thousands of
temperatures makes every vertex tens of times too variable. What the attributes of labelled data declare missing becomes
NaN. Customary fill numbers that lie further from the other values than these lie from each other are refused, and so is
whatever is observed for `impute`. Any other gap far beyond the rest is warned of, in `nearfield.data.outlier`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from numpy import ndarray

    from nearfield.samples import Samples

__all__ = [
    "MISSING_NAMES", "Declaration", "customary", "declared", "fill_numbers", "refuse_fill", "refuse_observed",
    "valid_range", "warn_of_empty", "without_empty",
]  # fmt: skip

FILL_NAMES = ("_FillValue", "missing_value", "fill_value", "nodata", "_nodata", "nodatavals")
"""Attributes that name numbers that mean missing."""
RANGE_NAMES = ("valid_range", "valid_min", "valid_max")
"""Attributes beyond which values mean missing."""
MISSING_NAMES = FILL_NAMES + RANGE_NAMES

_SHORT = (
    -99.0,
    -99.9,
    -99.99,
    -999.0,
    -999.9,
    -999.99,
    -8888.0,
    -9999.0,
    -9999.9,
    -99999.0,
    -999999.0,
    9999.0,
    99999.0,
)
_BINARY = (-32767.0, -32768.0, 32767.0, 65535.0, -2147483647.0, -2147483648.0, 2147483647.0)
_LARGE = (1e15, 1e20, 1e30, 1e33, 1e34, 1e35, 1e36, 1e37, 9.969209968386869e36, 3.4028234663852886e38)
CUSTOMARY = np.unique([*_SHORT, *_BINARY, *_LARGE, *(-number for number in _LARGE)])
"""Fill numbers of netCDF, GRIB, ESRI grids and tables of observations."""
_EXACT = 1e-7  # relative: the rounding of float32
_FEWEST = 8  # samples from which on quartiles say something
_FILLS = 3  # numbers that may stand for missing at once
_UNLIKELY = 10.0  # standard deviations beyond which a customary fill number is no observation


def customary(x: ndarray) -> Bool[ndarray, "*shape"]:
    """Whether values are customary fill numbers, to the rounding of float32.

    Examples
    --------
    >>> customary(np.array([-9999.0, np.float32(1e20), 15.0, np.nan])).tolist()
    [True, True, False, False]
    """
    found: ndarray = np.abs(x) >= 99.0  # few are, so that the rest costs little
    values = np.asarray(x[found], dtype=np.float64)
    nearest = np.clip(np.searchsorted(CUSTOMARY, values), 1, len(CUSTOMARY) - 1)
    close = [np.abs(values - CUSTOMARY[k]) <= _EXACT * np.abs(CUSTOMARY[k]) for k in (nearest - 1, nearest)]
    found[found] = close[0] | close[1]
    return found


@final
@dataclass(frozen=True)
class Declaration:
    """Numbers that mean missing with the attributes that say so, and the lowest and highest valid value.

    Examples
    --------
    >>> Declaration.of({"_FillValue": -9999.0}, {}).missing(np.array([1.0, -9999.0])).tolist()
    [False, True]
    """

    numbers: tuple[tuple[str, float], ...]
    low: float
    high: float

    @classmethod
    def of(cls, attrs: Mapping[Any, Any], encoding: Mapping[Any, Any]) -> Declaration:
        """Read the attributes of a variable, and how it was stored."""
        packed = "scale_factor" in encoding or "add_offset" in encoding
        sources = (attrs, {} if packed else encoding)
        numbers = [(name, k) for source in sources for name in FILL_NAMES for k in _numbers(source.get(name))]
        return cls(tuple(numbers), *valid_range(attrs, encoding))

    def hits(self, values: ndarray, number: float) -> Bool[ndarray, "*shape"]:
        """Whether values are a number, to the rounding of float32."""
        with np.errstate(invalid="ignore"):
            found: ndarray = np.abs(values - number) <= _EXACT * abs(number)
        return found

    def beyond(self, values: ndarray) -> Bool[ndarray, "*shape"]:
        """Which values that no number names are outside the valid ones."""
        if (self.low, self.high) == (-math.inf, math.inf):
            return np.zeros(values.shape, dtype=bool)
        found: ndarray = (values < self.low) | (values > self.high)
        for _, number in self.numbers:
            found &= ~self.hits(values, number)
        return found

    def missing(self, values: ndarray) -> Bool[ndarray, "*shape"]:
        """Which values mean missing."""
        found = self.beyond(values)
        for _, number in self.numbers:
            found |= self.hits(values, number)
        return found

    def checked(self, values: ndarray) -> Declaration:
        """Ignore the valid ones, with a warning, where they leave out most values."""
        beyond = self.beyond(values)
        if np.count_nonzero(beyond) <= 0.5 * values.size or len(np.unique(values[beyond])) <= _FILLS:
            return self
        warnings.warn(
            f"the attribute valid_range or the like is ignored: {np.count_nonzero(beyond)} of {values.size} values are "
            "beyond it, as if it were of other units or of the values that anomalies were taken of; drop or mend it",
            stacklevel=5,
        )
        return replace(self, low=-math.inf, high=math.inf)


def declared(
    values: ndarray, attrs: Mapping[Any, Any], encoding: Mapping[Any, Any]
) -> tuple[Bool[ndarray, "*shape"], str]:
    """Which values the attributes declare missing, and which numbers in how many values, in words.

    Examples
    --------
    >>> declared(np.array([1.0, -9999.0]), {"_FillValue": -9999.0}, {})[1]
    '-9999 in 1 of 2 values (_FillValue)'
    """
    declaration = Declaration.of(attrs, encoding).checked(values)
    missing = np.zeros(values.shape, dtype=bool)
    found = []
    for name, number in declaration.numbers:
        hit = declaration.hits(values, number) & ~missing
        if hit.any():
            found.append(f"{number:g} in {np.count_nonzero(hit)} of {values.size} values ({name})")
            missing |= hit
    beyond = declaration.beyond(values)
    if beyond.any():
        first = float(values[beyond][0])
        found.append(f"{first:g} and the like in {np.count_nonzero(beyond)} of {values.size} values (valid_range)")
        missing |= beyond
    return missing, ", ".join(found)


def _numbers(given: Any) -> list[float]:
    """Finite numbers that an attribute holds, which may be one, several, or text."""
    try:
        numbers = np.atleast_1d(np.asarray(given if given is not None else [], dtype=np.float64)).ravel()
    except (TypeError, ValueError):
        return []
    return [float(number) for number in numbers if math.isfinite(number)]


def valid_range(attrs: Mapping[Any, Any], encoding: Mapping[Any, Any]) -> tuple[float, float]:
    """Lowest and highest valid value; whole numbers of data that were packed are packed ones.

    Examples
    --------
    >>> valid_range({"valid_min": 0}, {})
    (0.0, inf)
    """
    pair = _numbers(attrs.get("valid_range"))
    low = pair[0] if len(pair) == 2 else -math.inf
    high = pair[1] if len(pair) == 2 else math.inf
    low = next(iter(_numbers(attrs.get("valid_min"))), low)
    high = next(iter(_numbers(attrs.get("valid_max"))), high)
    kinds = {np.asarray(attrs[name]).dtype.kind for name in RANGE_NAMES if name in attrs}
    scale, offset = float(encoding.get("scale_factor", 1.0)), float(encoding.get("add_offset", 0.0))
    if (scale, offset) != (1.0, 0.0) and kinds <= {"i", "u"}:
        low, high = sorted((low * scale + offset, high * scale + offset))
        return low - 0.5 * abs(scale), high + 0.5 * abs(scale)
    return low - _rounding(low), high + _rounding(high)


def _rounding(number: float) -> float:
    return _EXACT * abs(number) if math.isfinite(number) else 0.0


def fill_numbers(
    x: Float[ndarray, "sample vertex"], allowed: tuple[float, float]
) -> tuple[Float[ndarray, " number"], Int[ndarray, " number"]]:
    """Find customary fill numbers that lie further from the other values of a vertex than these are wide, and count.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> x[4, 1] = -9999
    >>> [found.tolist() for found in fill_numbers(x, (-np.inf, np.inf))]
    [[-9999.0], [1]]
    """
    none = np.zeros(0), np.zeros(0, dtype=np.int64)
    likely = customary(x)
    if not likely.any():
        return none
    columns = np.flatnonzero(likely.any(axis=0))
    some, hit = x[:, columns], likely[:, columns]
    rest = np.where(hit, np.nan, some)
    enough = (np.isfinite(rest).sum(axis=0) >= 2) & hit.any(axis=0)
    if not enough.any():
        return none  # a constant variable is refused elsewhere
    some, hit, rest = some[:, enough], hit[:, enough], rest[:, enough]
    low, high = np.nanmin(rest, axis=0), np.nanmax(rest, axis=0)
    width = high - low
    sparse = (np.isfinite(rest).sum(axis=0) < _FEWEST) | (width == 0)
    if sparse.any():
        others = np.where(likely, np.nan, x)
        width = np.where(sparse, np.nanmax(others) - np.nanmin(others), width)
    wrong = hit & (np.maximum(low - some, some - high) > width)
    if all(math.isfinite(end) for end in allowed):
        wrong &= (some < allowed[0]) | (some > allowed[1])
    numbers, counts = np.unique(some[wrong].astype(np.float64), return_counts=True)
    return numbers, counts


def refuse_fill(numbers: Float[ndarray, " number"], counts: Int[ndarray, " number"], size: int, what: str) -> None:
    """Refuse fill numbers that occur so often among so many values.

    Examples
    --------
    >>> refuse_fill(np.array([-9999.0]), np.array([1]), 150, "data")
    Traceback (most recent call last):
    ...
    ValueError: data must not hold fill numbers, got -9999 in 1 of 150 values, far beyond the rest; ...
    """
    if len(numbers):
        listed = ", ".join(f"{number:g} in {count}" for number, count in zip(numbers, counts, strict=True))
        raise ValueError(
            f"{what} must not hold fill numbers, got {listed} of {size} values, far beyond the rest; set what means "
            "missing to NaN and fill it or drop those samples (if the numbers are meant, say so with the attribute "
            "valid_range of a DataArray)"
        )


def refuse_observed(
    x: Float[ndarray, "sample vertex channel"], z: Float[ndarray, "sample vertex channel"], n_samples: int
) -> None:
    """Refuse customary fill numbers among observations, and warn of values beyond all that were fitted.

    Examples
    --------
    >>> x = np.full((1, 2, 1), -9999.0)
    >>> refuse_observed(x, x / 5, 100)
    Traceback (most recent call last):
    ...
    ValueError: X must have NaN where nothing was observed, got -9999 in 2 of 2 values; ...
    """
    far = np.abs(z) > _UNLIKELY
    wrong = far & customary(np.where(far, x, np.nan))
    if wrong.any():
        number = x[wrong][0]
        count = np.count_nonzero(np.abs(x - number) <= _EXACT * abs(number))
        raise ValueError(
            f"X must have NaN where nothing was observed, got {number:g} in {count} of {x.size} values; replace that "
            f"number by NaN, e.g. X.where(X != {number:g})"
        )
    beyond = np.abs(z) > _UNLIKELY * math.sqrt(n_samples)
    if beyond.any():
        warnings.warn(
            f"{np.count_nonzero(beyond)} observed values are far beyond all that was fitted, first {x[beyond][0]:g}, "
            f"{np.abs(z[beyond][0]):.3g} standard deviations from the mean; set them to NaN if they mean missing, and "
            "look at the units",
            stacklevel=3,
        )


def without_empty(samples: Samples) -> Samples:
    """Leave out samples without any value, with a warning."""
    if samples.observed is None:
        return samples
    empty = np.asarray(~samples.observed.any(axis=(1, 2)))
    if not empty.any():
        return samples
    warn_of_empty(empty)
    return samples.take(np.flatnonzero(~empty))


def warn_of_empty(empty: Bool[ndarray, " sample"]) -> None:
    """Warn of samples without any value."""
    warnings.warn(
        f"{empty.sum()} of {len(empty)} samples have no value at all, first number {int(empty.argmax())}: they are "
        "left out of the fit",
        stacklevel=4,
    )
