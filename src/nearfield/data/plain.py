"""Coordinates and attributes as files can hold them, and as they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from nearfield._plain import plain

if TYPE_CHECKING:
    from numpy import ndarray

__all__ = ["coordinate_from_state", "coordinate_state", "plain_attrs", "plain_coordinate"]

_PARTS = ("year", "month", "day", "hour", "minute", "second", "microsecond")


def plain_attrs(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the attributes that JSON holds, numpy numbers and arrays as Python's; drop the others.

    Examples
    --------
    >>> plain_attrs({"units": "K", "valid_range": np.array([0.0, 1.0]), "opener": open})
    {'units': 'K', 'valid_range': [0.0, 1.0]}
    """
    kept = {}
    for name, value in attrs.items():
        try:
            kept[str(name)] = plain(value)
        except TypeError:
            continue
    return kept


def plain_coordinate(variable: xr.Variable) -> xr.Variable | None:
    """Return a coordinate with plain values and attributes; None when a file could not hold its values.

    Examples
    --------
    >>> plain_coordinate(xr.Variable("x", [1, 2])).values.tolist()
    [1, 2]
    >>> plain_coordinate(xr.Variable("x", np.array([{}, []], dtype=object))) is None
    True
    """
    values = np.asarray(variable.values)
    if values.dtype.kind == "T" or (values.dtype.kind == "O" and all(isinstance(v, str) for v in values.flat)):
        values = values.astype(object)
    elif _calendar(values) is None and (
        values.dtype.kind not in "biufmMU" or (values.dtype.kind == "f" and values.dtype.itemsize > 8)
    ):
        return None
    return xr.Variable(variable.dims, np.array(values), plain_attrs(variable.attrs))


def coordinate_state(variable: xr.Variable) -> tuple[dict[str, Any], ndarray | None]:
    """Return a plain coordinate as JSON can say it, and the numbers that go beside it, for `coordinate_from_state`.

    Examples
    --------
    >>> coordinate_state(xr.Variable("x", ["a", "b"]))[0]["strings"]
    ['a', 'b']
    """
    values = variable.values
    entry = {"dims": list(variable.dims), "dtype": values.dtype.str, "attrs": dict(variable.attrs)}
    if calendar := _calendar(values):
        entry |= {"calendar": calendar, "shape": list(values.shape)}
        entry["dates"] = [[getattr(date, part) for part in _PARTS] for date in values.flat]
    elif values.dtype.kind in "UO":
        entry |= {"strings": values.ravel().tolist(), "shape": list(values.shape)}
    else:
        # the file format knows no dates; they are counts since 1970
        return entry, values.view(np.int64) if values.dtype.kind in "mM" else values
    return entry, None


def coordinate_from_state(entry: Mapping[str, Any], numbers: ndarray | None) -> xr.Variable:
    """Rebuild from `coordinate_state`.

    Examples
    --------
    >>> coordinate_from_state(*coordinate_state(xr.Variable("x", [1.5, 2.5]))).values.tolist()
    [1.5, 2.5]
    """
    dtype = np.dtype(entry["dtype"])
    if "dates" in entry:
        values = _dates(entry["dates"], entry["calendar"]).reshape(entry["shape"])
    elif "strings" in entry:
        values = np.array(entry["strings"], dtype=dtype).reshape(entry["shape"])
    else:
        if numbers is None:
            raise KeyError("a coordinate has lost its numbers")
        values = numbers.view(dtype) if dtype.kind in "mM" else numbers
    return xr.Variable(tuple(entry["dims"]), values, entry["attrs"])


def _calendar(values: ndarray) -> dict[str, Any] | None:
    """Identify the calendar of cftime dates; None for other values."""
    if values.dtype.kind != "O" or not values.size or not all(hasattr(v, "calendar") for v in values.flat):
        return None
    kinds = {(type(v).__name__, v.calendar, v.has_year_zero) for v in values.flat}
    if len(kinds) > 1:
        return None
    name, calendar, year_zero = kinds.pop()
    return {"class": name, "calendar": calendar, "has_year_zero": bool(year_zero)}


def _dates(dates: Sequence[Sequence[int]], calendar: Mapping[str, Any]) -> ndarray:
    try:
        import cftime
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            f"dates of the calendar {calendar['calendar']!r} need cftime, which is not installed; pip install cftime"
        ) from missing
    kind = getattr(cftime, calendar["class"], cftime.datetime)
    options: dict[str, Any] = {"has_year_zero": calendar["has_year_zero"]}
    if kind is cftime.datetime:
        options["calendar"] = calendar["calendar"]
    values = np.empty(len(dates), dtype=object)
    values[:] = [kind(*parts, **options) for parts in dates]
    return values
