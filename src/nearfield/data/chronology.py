"""Whether samples follow each other in time, and in which order: read from dates, years and their kin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

if TYPE_CHECKING:
    from jaxtyping import Int
    from numpy import ndarray

__all__ = [
    "TIME_NAMES",
    "follows_time",
    "is_dated",
    "is_time",
    "row_order",
    "sample_axis",
    "time_order",
    "written_dates",
]

TIME_NAMES = ("time", "datetime", "date", "year")
"""What times are called that do not come again."""

_RECURRING_NAMES = ("season", "month", "week", "day", "hour")
_COARSE_TO_FINE = TIME_NAMES + _RECURRING_NAMES


def is_time(variable: xr.DataArray, dim: str) -> bool:
    """Whether samples along a dimension follow each other in time, so that neighbours among them may be dependent.

    Its name says so, its coordinate, or another coordinate along it: a level of a stacked index, dates beside numbers.

    Examples
    --------
    >>> is_time(xr.DataArray(np.zeros(3), dims="year"), "year")
    True
    >>> is_time(xr.DataArray(np.zeros((3, 2)), dims=("time", "member")).stack(run=("time", "member")), "run")
    True
    """
    return dim.lower() in _COARSE_TO_FINE or bool(_clocks(dim, variable.sizes[dim], _along(variable, dim)))


def time_order(variable: xr.DataArray, sample_dims: Sequence[str]) -> Int[ndarray, " sample"]:
    """Return the numbers of the samples in the order of time; samples of one time, and undated ones, stay as they are.

    Examples
    --------
    >>> data = xr.DataArray(np.zeros((3, 2)), dims=("time", "x"), coords={"time": [2001, 1999, 2000]})
    >>> time_order(data, ("time",)).tolist()
    [1, 2, 0]
    """
    sizes = tuple(variable.sizes[dim] for dim in sample_dims)
    clocks = []
    for axis, dim in enumerate(sample_dims):
        for fineness, ranks in _clocks(dim, sizes[axis], _along(variable, dim)):
            along = ranks.reshape([-1 if k == axis else 1 for k in range(len(sizes))])
            clocks.append((fineness, np.broadcast_to(along, sizes).ravel()))
    return _sorted_by(clocks, int(np.prod(sizes)))


def row_order(data: Any) -> Int[ndarray, " sample"]:
    """Return the numbers of the rows in the order of time, which the index of a data frame says.

    Examples
    --------
    >>> import pandas as pd
    >>> row_order(pd.DataFrame(np.eye(3), index=pd.to_datetime(["2001", "1999", "2000"]))).tolist()
    [1, 2, 0]
    """
    return _sorted_by(_row_clocks(data), len(data))


def sample_axis(data: Any) -> str:
    """Name the first axis of an array: a time, if the rows of a data frame are dated.

    Examples
    --------
    >>> sample_axis(np.zeros((3, 2)))
    'sample'
    """
    return "time" if _row_clocks(data) else "sample"


def is_dated(values: ndarray) -> bool:
    """Whether values are dates: of numpy, of a calendar of cftime, or periods.

    Examples
    --------
    >>> is_dated(np.array(["2001-01-30"], dtype="M8[D]")), is_dated(np.array(["2001-01-30"]))
    (True, False)
    """
    return values.dtype.kind == "M" or (
        values.dtype.kind == "O" and values.size > 0 and all(hasattr(v, "strftime") for v in values.flat)
    )


def follows_time(name: object, attrs: Mapping[Any, Any]) -> bool:
    """Whether a coordinate is the time: by the CF conventions, or by its name.

    Examples
    --------
    >>> follows_time("t", {"standard_name": "time"}), follows_time("Time", {}), follows_time("t", {})
    (True, True, False)
    """
    standard = attrs.get("standard_name")
    named = str(name).lower() in TIME_NAMES or str(attrs.get("axis", "")).upper() == "T"
    return standard == "time" or (standard is None and named)


def _along(variable: xr.DataArray, dim: str) -> list[tuple[str, ndarray, Mapping[Any, Any]]]:
    """Return name, values and attributes of the coordinates along a dimension."""
    return [(str(k), np.asarray(c.values), c.attrs) for k, c in variable.coords.items() if c.dims == (dim,)]


def _row_clocks(data: Any) -> list[tuple[int, ndarray]]:
    index: Any = getattr(data, "index", None)
    if not hasattr(index, "get_level_values"):
        return []
    levels: list[tuple[str, ndarray, dict[Any, Any]]] = [
        (str(name), np.asarray(index.get_level_values(k)), {}) for k, name in enumerate(index.names)
    ]
    own = levels[0][0] if len(levels) == 1 else ""
    return _clocks(own if own.lower() in TIME_NAMES else "", len(data), levels)


def _clocks(
    dim: str, n: int, coordinates: Iterable[tuple[str, ndarray, Mapping[Any, Any]]]
) -> list[tuple[int, ndarray]]:
    """Return how fine each coordinate that orders the samples in time is, with the ranks of the samples by it.

    The dimension's own coordinate goes before others along it, and dates before years and months, which go together.
    """
    found: dict[str, ndarray] = {}
    dated: list[tuple[bool, str, ndarray]] = []
    for name, values, attrs in coordinates:
        times = written_dates(values) if values.dtype.kind in "UOT" else values
        if times.dtype.kind not in "iufMO" or (times.dtype.kind == "O" and not is_dated(times)):
            continue
        called = follows_time(name, attrs)
        if name == dim and (called or is_dated(times) or name.lower() in _RECURRING_NAMES):
            again = name.lower() in _RECURRING_NAMES and np.unique(times).size < n
            return [(_fineness(name), np.arange(n) if again else _ranks(times))]
        if is_dated(times) and (called or np.unique(times).size > 1):
            dated.append((not called, name, times))
        elif called or name.lower() in _COARSE_TO_FINE:
            found[name] = times
    if dim.lower() in _COARSE_TO_FINE:
        return [(_fineness(dim), np.arange(n))]
    if dated:
        _, name, times = min(dated, key=lambda entry: entry[0])
        return [(_fineness(name), _ranks(times))]
    if all(name.lower() in _RECURRING_NAMES for name in found):
        return []
    return [(_fineness(name), _ranks(times)) for name, times in found.items()]


def _fineness(name: str) -> int:
    return _COARSE_TO_FINE.index(name.lower()) if name.lower() in _COARSE_TO_FINE else 0


def _ranks(values: ndarray) -> ndarray:
    return np.unique(values, return_inverse=True)[1].reshape(-1)


def written_dates(values: ndarray) -> ndarray:
    """Return dates that are written out, as 2001-01-30, as dates; anything else as it is.

    Examples
    --------
    >>> written_dates(np.array(["2001-01-30"])).dtype.kind, written_dates(np.array(["Paris"])).dtype.kind
    ('M', 'U')
    """
    if not all(isinstance(v, str) and v[:4].isdigit() and v[4:5] in ("", "-") for v in values.flat):
        return values
    try:
        return values.astype(str).astype("M8[ns]")
    except ValueError:
        return values


def _sorted_by(clocks: Sequence[tuple[int, ndarray]], n: int) -> ndarray:
    """Return the order of samples by ranks, those of the coarsest clock first."""
    if not clocks:
        return np.arange(n)
    return np.lexsort([ranks for _, ranks in sorted(clocks, key=lambda clock: -clock[0])])
