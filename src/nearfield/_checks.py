"""Checks of numbers from the user, which are stored as plain int and float."""

from __future__ import annotations

import operator
from numbers import Real
from typing import Any, SupportsIndex

import numpy as np

from nearfield.noise import seed_of

__all__ = ["keep_counts", "keep_floats", "keep_seed", "whole_number"]


def whole_number(name: str, value: SupportsIndex, least: int, remedy: str = "") -> int:
    """Return `value` as an int of at least `least`, or refuse it by the `name` of the argument.

    Examples
    --------
    >>> whole_number("radius", 2, 0)
    2
    """
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, got {value!r}{remedy and '; ' + remedy}")
    number = operator.index(value)
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}{remedy and '; ' + remedy}")
    return number


def keep_floats(settings: object, *names: str) -> None:
    """Convert numbers of any kind to float."""
    for name in names:
        value = getattr(settings, name)
        if not isinstance(value, Real) or isinstance(value, bool):
            raise TypeError(f"{name} must be a number, got {value!r}")
        object.__setattr__(settings, name, float(value))


def keep_counts(settings: object, *names: str) -> None:
    """Convert whole numbers of at least 1 to int."""
    for name in names:
        number = whole_number(name, getattr(settings, name), 1)
        object.__setattr__(settings, name, number)


def keep_seed(settings: Any) -> None:
    """Convert a whole number in [0, 2**64) to int."""
    object.__setattr__(settings, "seed", seed_of(whole_number("seed", settings.seed, 0)))
