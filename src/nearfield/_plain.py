"""Plain JSON values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["plain"]


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
