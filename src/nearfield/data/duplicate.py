"""Samples that occur more than once: overlapping files, preliminary months, members listed twice."""

from __future__ import annotations

import hashlib
import warnings
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, UInt64
    from numpy import ndarray

    from nearfield.samples import Samples

__all__ = ["fingerprints", "warn_of_duplicates"]


def fingerprints(x: Float[ndarray, "sample vertex channel"]) -> UInt64[ndarray, " sample"]:
    """Tell samples apart, whatever order or company they come in: a hash of the bytes of each.

    Examples
    --------
    >>> x = np.arange(6.0).reshape(3, 2, 1)
    >>> np.isin(fingerprints(x[::-1]), fingerprints(x[1:])).tolist()
    [True, True, False]
    """
    hashes = (hashlib.blake2b(np.ascontiguousarray(sample).tobytes(), digest_size=8) for sample in x)
    return np.array([int.from_bytes(h.digest(), "little") for h in hashes], dtype=np.uint64)


def warn_of_duplicates(samples: Samples) -> None:
    """Say how many samples repeat another."""
    groups, n = samples.groups, len(samples)
    repeats = n - int(groups.max()) - 1
    if repeats:
        counts = np.bincount(groups)
        numbers = np.flatnonzero(groups == counts.argmax())
        warnings.warn(
            f"{repeats} of {n} samples are duplicates of others, e.g. numbers {numbers[0]} and {numbers[1]}: they are "
            "held out together, and count as often as they occur in the fit, so that its errors look smaller than they "
            "are; drop them if they are there by mistake",
            stacklevel=2,
        )
