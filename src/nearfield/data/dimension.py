"""Which dimensions of data count samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import xarray as xr

__all__ = ["SAMPLE_NAMES", "TIME_NAMES", "find_sample_dims"]

SAMPLE_NAMES = ("sample", "realization", "member", "number", "ensemble")
"""Dimensions that are samples wherever they occur."""

TIME_NAMES = ("time", "year")
"""Dimensions that are samples when no other is."""


def find_sample_dims(variable: xr.DataArray, sample_dim: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the dimensions that are samples: those named, or the one that can be guessed.

    Parameters
    ----------
    variable : xarray.DataArray
        Data.
    sample_dim : str, sequence of str or None
        Names; None takes the one of `SAMPLE_NAMES` that occurs, or else the one of `TIME_NAMES`.

    Raises
    ------
    TypeError
        If `sample_dim` is not a name or names.
    ValueError
        If a name is not a dimension, or the guess is not unique.

    Examples
    --------
    >>> import numpy as np
    >>> find_sample_dims(xr.DataArray(np.zeros((2, 3, 4)), dims=("time", "member", "x")), None)
    ('member',)
    """
    if sample_dim is not None:
        if not isinstance(sample_dim, Iterable):
            raise TypeError(
                f"sample_dim must be a name or names, got {sample_dim!r}; give a string or a tuple of strings"
            )
        names = (sample_dim,) if isinstance(sample_dim, str) else tuple(sample_dim)
        wrong = [name for name in names if name not in variable.dims]
        if not names or wrong or len(set(names)) < len(names):
            raise ValueError(
                f"sample_dim must name dimensions of the data, {list(variable.dims)}, each once, got {sample_dim!r}"
            )
        return names
    for rank in (SAMPLE_NAMES, TIME_NAMES):
        found = tuple(name for name in rank if name in variable.dims)
        if len(found) > 1:
            raise ValueError(
                f"sample_dim must say which dimension counts the samples: both {found[0]!r} and {found[1]!r} may; pass "
                f"sample_dim={found[0]!r}, or sample_dim={list(found)} to take every combination as a sample"
            )
        if found:
            return found
    raise ValueError(
        f"sample_dim must say which dimension counts the samples: none of {list(variable.dims)} is called "
        f"{', '.join(SAMPLE_NAMES + TIME_NAMES)}"
    )
