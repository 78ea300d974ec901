"""Data frames: tables whose columns are no vertices, or no chain, are refused with the remedy; draws become frames."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from nearfield.data.chronology import TIME_NAMES, is_dated, written_dates
from nearfield.data.dimension import SAMPLE_NAMES

if TYPE_CHECKING:
    from numpy import ndarray

    from nearfield.graph import DependencyGraph

__all__ = ["as_frame", "is_table", "refuse_columns", "refuse_table"]

_CLOCK_NAMES = (*TIME_NAMES, "timestamp", "yyyymmdd", "yyyymm", "month", "day", "hour", "decimal_year", "decimal_date")
_COUNTER_NAMES = ("index", "level_0", "row", "row_id", "")
_KEY_NAMES = ("site", "station", "id", "location", "cell", "gauge", "lat", "lon", "latitude", "longitude")
_SEQUENCES = (
    ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    ("mon", "tue", "wed", "thu", "fri", "sat", "sun"),
)
_FEWEST_ROWS = 8
"""So many independent values hardly ever increase, or come in blocks, by chance."""

_NUMBER = re.compile(r"(?:(?<![A-Za-z0-9])-)?\d+(?:\.\d+)?")


def is_table(data: object) -> TypeGuard[Any]:
    """Whether data are a data frame.

    Examples
    --------
    >>> is_table(np.eye(2))
    False
    """
    return hasattr(data, "columns") and hasattr(data, "dtypes")


def refuse_table(frame: Any, graph: DependencyGraph | None) -> None:
    """Refuse a data frame to be fitted whose columns are not vertices, or of which nothing says how they are ordered.

    Examples
    --------
    >>> import pandas as pd
    >>> refuse_table(pd.DataFrame(np.eye(3), columns=["d1", "d5", "d20"]), None)
    """
    if getattr(frame.columns, "nlevels", 1) > 1:
        if graph is None:
            _refuse_levels(frame)
        return
    columns = {name: np.asarray(frame[name]) for name in frame.columns}
    _refuse_long(frame, columns)
    refuse_columns(frame)
    _refuse_counters(columns)
    if graph is None and len(columns) > 1:
        _refuse_labels(list(columns))


def refuse_columns(frame: Any) -> None:
    """Refuse a data frame with a column that holds no numbers, or with two columns of one name.

    Examples
    --------
    >>> import pandas as pd
    >>> refuse_columns(pd.DataFrame({"a": ["Paris"]}))
    Traceback (most recent call last):
    ...
    TypeError: X must hold real numbers, got column 'a' of ...
    """
    names = list(frame.columns)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"X must have columns of different names, got {twice!r} more than once; rename them")
    for name, dtype in zip(names, frame.dtypes, strict=True):
        if getattr(dtype, "kind", "O") in "iufc":
            continue
        try:
            if np.asarray(column := frame[name]).dtype.kind in "mMb":
                raise TypeError(f"{dtype} is no kind of number")
            np.asarray(column, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"X must hold real numbers, got column {name!r} of {dtype}; drop it, X.drop(columns={name!r}), or make "
                f"dates the index, X.set_index({name!r})"
            ) from error


def as_frame(values: ndarray, columns: Any, index: Any = None, attrs: Mapping[str, Any] | None = None) -> Any:
    """Return draws as a data frame, its rows labelled by the member.

    Examples
    --------
    >>> as_frame(np.zeros((2, 3)), list("abc")).index.name
    'member'
    >>> as_frame(np.zeros((2, 1, 3)), list("abc"), index=["today"]).loc[1].index.tolist()
    ['today']
    """
    import pandas as pd

    members = pd.RangeIndex(len(values), name="member")
    rows: pd.Index = members
    if values.ndim == 3:
        index = pd.Index(index)
        levels = [index.get_level_values(k) for k in range(index.nlevels)]
        again = np.tile(np.arange(len(index)), len(values))
        parts = [np.repeat(members, len(index)), *(level.take(again) for level in levels)]
        rows = pd.MultiIndex.from_arrays(parts, names=["member", *index.names])
    frame = pd.DataFrame(values.reshape(-1, values.shape[-1]), columns=columns, index=rows)
    frame.attrs.update(attrs or {})
    return frame


def _refuse_levels(frame: Any) -> None:
    """Refuse columns with levels, which are dimensions."""
    given = list(frame.columns.names)
    names = [name or default for name, default in zip(given, ("z", "y", "x")[-len(given) :], strict=False)]
    rename = ""
    if None in given:
        rename += f".rename_axis(columns={names})"
    if frame.index.nlevels == 1 and frame.index.name is None:
        rename += '.rename_axis(index="sample")'
    raise ValueError(
        f"X must have one level of columns to be a chain, got the levels {given}, which are dimensions of the field; "
        f"fit labelled data, X{rename}.stack({names}).to_xarray(), or pass the graph"
    )


def _refuse_long(frame: Any, columns: Mapping[Any, ndarray]) -> None:
    """Refuse tables with a row for each value rather than for each sample."""
    rule = "X must have a row for each sample and a column for each vertex, got a long table"
    index: Any = getattr(frame, "index", None)
    if getattr(index, "nlevels", 1) > 1:
        levels = [np.asarray(index.get_level_values(k)) for k in range(index.nlevels)]
        known = (*SAMPLE_NAMES, *_CLOCK_NAMES)
        named = zip(index.names, levels, strict=True)
        places = [name for name, values in named if str(name).lower() not in known and not is_dated(values)]
        if places:
            one = f"[{next(iter(columns))!r}]" if len(columns) == 1 else ""
            raise ValueError(
                f"{rule} with rows labelled by {list(index.names)}; if each row is a sample all the same, number them, "
                f"X.reset_index(drop=True), else fit X{one}.to_xarray()"
            )
    keys = [name for name, values in columns.items() if _is_key(name, values)] if len(columns) <= 8 else []
    times = [name for name, values in columns.items() if name not in keys and _is_clock(name, values)]
    rest = [name for name in columns if name not in keys and name not in times]
    if keys and rest:
        value, key = rest[-1], keys[0]
        pivot = f"pivot(index='sample', columns={key!r}, values={value!r})"
        wide = f"X.assign(sample=X.groupby({key!r}).cumcount()).{pivot}"
        if len(times) == 1 and len(keys) == 1:
            wide = f"X.pivot(index={times[0]!r}, columns={key!r}, values={value!r})"
        elif len(keys) > 1:
            wide = f"X.set_index({[*times, *keys]})[{value!r}].to_xarray()"
        raise ValueError(f"{rule}: values of {value!r} told apart by {[*keys, *times]}; make it wide, {wide}")
    if len(columns) == 1 and len(frame) > 1:
        name = next(iter(columns))
        if index is not None and getattr(index, "has_duplicates", False):
            raise ValueError(
                f"{rule}: one column {name!r} under labels that come again; make it wide, X.assign(sample=X.groupby("
                f"level=0).cumcount()).set_index('sample', append=True)[{name!r}].unstack(0)"
            )
        warnings.warn(
            f"X has one column, {name!r}: a field of one vertex, without neighbours; make a long table wide first, "
            "with X.pivot(index=..., columns=..., values=...)",
            stacklevel=5,
        )


def _refuse_counters(columns: Mapping[Any, ndarray]) -> None:
    """Refuse columns that count or date the rows, and warn of those that always increase or decrease."""
    if len(columns) < 2:
        return
    clocks = [name for name, values in columns.items() if _is_clock(name, values) and not is_dated(values)]
    if clocks:
        first = columns[clocks[0]]
        index = clocks[0] if len(clocks) == 1 else clocks
        counter = str(clocks[0]).lower() in _COUNTER_NAMES or str(clocks[0]).lower().startswith("unnamed")
        remedy = f"X.drop(columns={index!r})" if counter else f"X.set_index({index!r}), or drop it"
        raise ValueError(
            f"X must have values of vertices in its columns, got column {clocks[0]!r} that counts or dates the rows "
            f"({first[0]}, {first[1]}, ...); {'take it out' if counter else 'make it the index'}, {remedy}"
        )
    for name, values in columns.items():
        steps = np.diff(values.astype(np.float64)) if values.dtype.kind in "iuf" else np.zeros(0)
        if len(values) >= _FEWEST_ROWS and (np.all(steps > 0) or np.all(steps < 0)) and steps.size:
            way = "increases" if steps[0] > 0 else "decreases"
            warnings.warn(
                f"column {name!r} of X always {way}, as a count or a date does; "
                f"it is fitted as a vertex; if it is none, make it the index, X.set_index({name!r})",
                stacklevel=5,
            )


def _refuse_labels(names: list[Any]) -> None:
    """Refuse names of columns that say nothing of distance, where a chain would be made of them."""
    if all(isinstance(name, str) for name in names):
        ordered = _in_sequence(names)
    elif all(isinstance(name, int | float | np.number) for name in names):
        ordered = _monotone(np.array(names, dtype=np.float64))
    else:
        return
    if not ordered:
        raise ValueError(
            f"X must say which of its columns are neighbours: their names ({names[0]!r}, {names[1]!r}, ...) say "
            "nothing of distance; pass the graph, e.g. graph=DependencyGraph.knn(places, 8) with places in the order "
            f"of the columns, or graph=DependencyGraph.chain({len(names)}) if that order is the one in space"
        )


def _in_sequence(names: list[str]) -> bool:
    """Whether names are numbered in order, or follow each other as letters, months, weekdays or dates do."""
    if len({_NUMBER.sub("#", name) for name in names}) == 1:
        numbers = np.array([[float(n) for n in _NUMBER.findall(name)] for name in names])
        varying = np.flatnonzero(np.ptp(numbers, axis=0) > 0)
        if varying.size == 1 and _monotone(numbers[:, varying[0]]):
            return True
    dates = written_dates(np.array(names))
    if dates.dtype.kind == "M":
        return _monotone(dates.astype(np.int64).astype(np.float64))
    lower = [name.lower() for name in names]
    if all(len(name) == 1 for name in lower):
        return bool(np.all(np.diff([ord(name) for name in lower]) == 1))
    for sequence in _SEQUENCES:
        places = [next((k for k, s in enumerate(sequence) if name.startswith(s)), -1) for name in lower]
        if min(places) >= 0 and _monotone(np.array(places)):
            return True
    return False


def _is_key(name: object, values: ndarray) -> bool:
    """Whether a column tells places of a long table apart: labels that come again, one after the other or in turn."""
    if str(name).lower() in _CLOCK_NAMES or is_dated(values) or values.dtype.kind not in "iufOUT":
        return False
    distinct, codes = np.unique(values.astype(str) if values.dtype.kind in "OT" else values, return_inverse=True)
    if len(values) < _FEWEST_ROWS or not 2 <= distinct.size <= len(values) // 2:
        return False
    if values.dtype.kind in "OUT":
        try:
            values.astype(np.float64)
        except (TypeError, ValueError):
            return True
        return False
    if str(name).lower() in _KEY_NAMES:
        return True
    runs = codes[np.flatnonzero(np.diff(codes, prepend=-1))]
    return bool(runs.size % distinct.size == 0 and np.array_equal(runs, np.resize(runs[: distinct.size], runs.size)))


def _is_clock(name: object, values: ndarray) -> bool:
    """Whether a column counts or dates the rows: by its name and whole numbers, or by its values."""
    if is_dated(values):
        return True
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        return False
    numbers = values.astype(np.float64)
    called = str(name).lower() in (*_CLOCK_NAMES, *_COUNTER_NAMES) or str(name).lower().startswith("unnamed")
    whole = bool((numbers % 1 == 0).all())
    if called and len(numbers) > 1 and (whole or _monotone(numbers)):
        return True
    if len(numbers) < _FEWEST_ROWS:
        return False
    steps = np.abs(np.diff(numbers))
    even = _monotone(numbers) and bool(np.ptp(steps) <= 0.15 * steps.mean())
    return even or (whole and np.unique(numbers).size > len(numbers) // 2 and _are_calendar_days(numbers))


def _are_calendar_days(numbers: ndarray) -> bool:
    """Whether whole numbers read as days, 20010130, or months, 200101."""
    words = [f"{int(n)}" for n in numbers]
    if len({len(word) for word in words}) > 1 or len(words[0]) not in (6, 8):
        return False
    if not all("1500" <= word[:4] <= "2500" for word in words):
        return False
    try:
        np.array(["-".join(filter(None, (word[:4], word[4:6], word[6:]))) for word in words], dtype="M8[D]")
    except ValueError:
        return False
    return True


def _monotone(numbers: Sequence[Any] | ndarray) -> bool:
    steps = np.diff(np.asarray(numbers))
    return bool(np.all(steps > 0) or np.all(steps < 0))
