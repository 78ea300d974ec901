"""Samples that occur more than once: overlapping files, preliminary months, members listed twice.

Held out apart from each other they leak from one fold to the next, and the wider a window, the better it knows them.
"""

from __future__ import annotations

import hashlib
import warnings
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt64
    from numpy import ndarray

__all__ = ["duplicate_groups", "fingerprints", "warn_of_duplicates"]

_ALIKE = 1e-4  # standard deviations: packing to 16 bits and single precision differ by less
_LOOKED_AT = 32  # values of a sample that are compared first
_VARIED = 8  # different values among these, without which equality is chance: a dry day, counts on few vertices


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


def duplicate_groups(x: Float[ndarray, "sample vertex channel"]) -> Int[ndarray, " sample"]:
    """Give samples numbers, so that those share one that are the same to a ten thousandth of the standard deviation.

    Numbers count the first of each group in order. Samples with few different values, or of fewer than eight values,
    count as different: days without rain are equal, and no duplicates.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(4, 9, 1))
    >>> duplicate_groups(x[[0, 1, 0, 2, 1]]).tolist()
    [0, 1, 0, 2, 1]
    """
    n, flat = len(x), x.reshape(len(x), -1)
    columns = np.random.default_rng(0).permutation(flat.shape[1])[:_LOOKED_AT]
    looked = flat[:, columns].astype(np.float64)
    scale = looked.std(axis=0)
    looked = (looked / np.where(scale > 0, scale, 1.0))[:, scale > 0]
    if looked.shape[1] < _VARIED:
        return np.arange(n)
    ordered = np.sort(looked, axis=1)
    varied = np.flatnonzero((np.diff(ordered, axis=1) > _ALIKE).sum(axis=1) + 1 >= _VARIED)
    # of exact copies one goes into the tree, since pairs are as many as their square
    _, first, of = np.unique(looked[varied], axis=0, return_index=True, return_inverse=True)
    pairs = [np.column_stack([varied, varied[first][of.ravel()]])]
    pairs.append(varied[first][cKDTree(looked[varied][first]).query_pairs(_ALIKE, p=np.inf, output_type="ndarray")])
    i, j = np.concatenate(pairs).T
    keep = i != j
    i, j = i[keep], j[keep]
    if not len(i):
        return np.arange(n)
    spread = flat.std(axis=0)
    same = np.array([bool((np.abs(flat[a] - flat[b]) <= _ALIKE * spread).all()) for a, b in zip(i, j, strict=True)])
    links = sp.coo_array((np.ones(same.sum()), (i[same], j[same])), shape=(n, n))
    label = sp.csgraph.connected_components(links, directed=False)[1]
    _, first, of = np.unique(label, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[of.ravel()]


def warn_of_duplicates(x: Float[ndarray, "sample vertex channel"]) -> None:
    """Say how many samples repeat another."""
    groups = duplicate_groups(x)
    repeats = len(x) - int(groups.max()) - 1
    if repeats:
        counts = np.bincount(groups)
        numbers = np.flatnonzero(groups == counts.argmax())
        warnings.warn(
            f"{repeats} of {len(x)} samples are duplicates of others, e.g. numbers {numbers[0]} and {numbers[1]}: they "
            "are held out together, and count as often as they occur in the fit, so that its errors look smaller than "
            "they are; drop them if they are there by mistake",
            stacklevel=2,
        )
