"""Warnings of a fit: their texts are kept in its report, and they are issued when it is done."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from nearfield.fitting.moments import MomentWarning

__all__ = ["recorded_warnings"]


@contextmanager
def recorded_warnings(*, strict: bool) -> Iterator[list[str]]:
    """Collect the texts of warnings for users, and issue them at the end; ``strict`` refuses wrong moments."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
    for warning in caught:
        if strict and issubclass(warning.category, MomentWarning):
            raise ValueError(f"with strict=True draws must have the second moments of the data, but {warning.message}")
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    messages += [str(w.message) for w in caught if issubclass(w.category, UserWarning | RuntimeWarning)]
