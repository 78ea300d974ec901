"""Samples that occur more than once: overlapping files, preliminary months, members listed twice."""

from __future__ import annotations

import hashlib
import warnings
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt64
    from numpy import ndarray


__all__ = ["fingerprint_sums", "fingerprints", "known", "warn_of_duplicates"]


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


def fingerprint_sums(
    x: Float[ndarray, "sample cell channel"], cells: Int[ndarray, " cell"]
) -> UInt64[ndarray, " sample"]:
    """Tell samples apart by sums over their values, each hashed with its place: those of parts add up to the whole's.

    Missing values add nothing, so that cells without data make no difference.

    Examples
    --------
    >>> x = np.arange(6.0).reshape(1, 6, 1)
    >>> parts = [fingerprint_sums(x[:, part], part) for part in (np.array([0, 2, 5]), np.array([1, 3, 4]))]
    >>> bool(parts[0] + parts[1] == fingerprint_sums(x, np.arange(6)))
    True
    """
    n_channels = x.shape[2]
    places = _mixed((cells[:, None] * n_channels + np.arange(1, n_channels + 1)).astype(np.uint64))
    total = np.zeros(len(x), dtype=np.uint64)
    for number, sample in enumerate(x):
        values = sample.astype(np.float64) + 0.0  # one zero
        total[number] = np.where(np.isnan(values), np.uint64(0), _mixed(values.view(np.uint64) ^ places)).sum()
    return total


def known(
    x: Float[ndarray, "sample vertex channel"], cells: Int[ndarray, " vertex"], kept: UInt64[ndarray, " _"]
) -> Bool[ndarray, " sample"]:
    """Tell which samples, whose vertices are these cells, are among those of kept fingerprints or sums."""
    found: ndarray = np.isin(fingerprints(x), kept) | np.isin(fingerprint_sums(x, cells), kept)
    return found


def _mixed(bits: UInt64[ndarray, "..."]) -> UInt64[ndarray, "..."]:
    """Hash 64 bits: the finalizer of SplitMix64, each bit of whose result depends on all (Steele et al. 2014)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: ndarray = bits ^ (bits >> np.uint64(31))
    return mixed


def warn_of_duplicates(groups: Int[np.ndarray, " sample"]) -> None:
    """Say how many samples repeat another, by the numbers of the groups of equal ones."""
    n = len(groups)
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
