"""Plain JSON values, and the parts of what is stored by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

__all__ = ["part_of", "plain"]

_Value = TypeVar("_Value")


def plain(value: Any, *, finite: bool = False) -> Any:
    """Convert numpy values, tuples and dates to numbers, strings, lists and dictionaries; refuse other objects.

    With `finite`, NaN becomes null and an infinity the word "infinite", as strict JSON needs.

    Examples
    --------
    >>> plain({"range": np.array([0.0, np.nan]), 2: (np.float32(1.5), np.datetime64("2024-01-01"))}, finite=True)
    {'range': [0.0, None], '2': [1.5, '2024-01-01']}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item, finite=finite) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, finite=finite) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.astype(str).tolist() if value.dtype.kind in "mM" else value.tolist(), finite=finite)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if not isinstance(value, str | int | float | None):
        raise TypeError(f"{type(value).__name__} has no plain form")
    if finite and isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "infinite"
    return value


def part_of(named: Mapping[str, _Value], name: str) -> dict[str, _Value]:
    """Return the values called by a name, a dot and their own, by their own.

    Examples
    --------
    >>> part_of({"gaussian.law": 2, "quadratic": 3}, "gaussian")
    {'law': 2}
    """
    return {key.removeprefix(f"{name}."): value for key, value in named.items() if key.startswith(f"{name}.")}
