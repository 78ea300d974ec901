"""Second moments of windows for all folds: formed once at a radius, and recentred for each candidate.

Centred moments K of the training samples of a fold, about their means m, give the block of ``((x - c) / s)`` for any
location c and scale s: ``(K + d d') / (s s')`` with ``d = m - c``. Only differences of centres enter, so that values
far from zero lose no precision. Products of samples are computed once, within each held-out part, and summed over the
training parts.

Blocks are symmetric; only their lower halves are stored, row after row.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from nearfield.graph import Neighborhood
from nearfield.graph.memory import Memory

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["FoldMoments", "fold_moments", "recentred", "whole"]

BUDGET = 1 << 25
"""Most numbers in memory (256 MiB)."""
_CHUNK = 1 << 21
"""Numbers gathered, or in the blocks of all parts, at once (16 MiB)."""


class FoldMoments:
    """Second moments of the windows of the training samples of each fold, in memory for as many radii as fit.

    Parameters
    ----------
    x : ndarray, shape (sample, vertex, channel)
        Data in their own units.
    parts : sequence of ndarray
        Held-out sample numbers of each fold; together all samples.
    means : ndarray, shape (fold, vertex, channel)
        Of the training samples.
    """

    def __init__(
        self,
        x: Float[np.ndarray, "sample vertex channel"],
        parts: Sequence[np.ndarray],
        means: Float[np.ndarray, "fold vertex channel"],
    ) -> None:
        self.x, self.parts, self.means = x, parts, means
        self.memory = Memory(8 * BUDGET)

    def of(self, radius: int, table: Neighborhood) -> list[Float[np.ndarray, "vertex pair"]] | None:
        """Moments of each fold on the windows of a radius; None if they are too many to keep."""
        n_entries = table.index.shape[1] * self.x.shape[2]
        size = len(self.parts) * len(table.index) * n_entries * (n_entries + 1) // 2
        if size > BUDGET:
            return None
        make = partial(fold_moments, self.x, table.index, self.parts, self.means)
        return self.memory.get(radius, make, size=lambda _: 8 * size)


def fold_moments(
    x: Float[np.ndarray, "sample vertex channel"],
    index: Int[np.ndarray, "vertex width"],
    parts: Sequence[np.ndarray],
    means: Float[np.ndarray, "fold vertex channel"],
) -> list[Float[np.ndarray, "vertex pair"]]:
    """Centred second moments of windows, for the training samples of each fold about their means."""
    n_samples, n, channels = x.shape
    n_entries = index.shape[1] * channels
    reference = x.mean(axis=0)
    by_vertex = np.ascontiguousarray((x - reference)[np.concatenate(parts)].transpose(1, 0, 2))
    ends = np.cumsum([0, *map(len, parts)])
    lower = np.flatnonzero(np.tri(n_entries, dtype=bool))
    found = [np.empty((n, len(lower))) for _ in parts]
    away = [(mean - reference)[index].reshape(n, n_entries) for mean in means]
    step = max(1, _CHUNK // (n_entries * max(n_samples, n_entries * len(parts))))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        part = torch.from_numpy(by_vertex[index[rows]])  # (row, width, sample, channel)
        part = part.permute(0, 1, 3, 2).reshape(-1, n_entries, n_samples)
        pieces = [part[:, :, a:b] for a, b in pairwise(ends)]
        sums = [torch.bmm(piece, piece.mT).numpy().reshape(-1, n_entries**2)[:, lower] for piece in pieces]
        for fold, moments in enumerate(found):
            others = [own for k, own in enumerate(sums) if k != fold]
            moments[rows] = sum(others[1:], start=others[0]) / (n_samples - len(parts[fold]))
            _add_products(moments[rows], -away[fold][rows], away[fold][rows])
    return found


def recentred(
    moments: Float[np.ndarray, "vertex pair"],
    index: Int[np.ndarray, "vertex width"],
    away: Float[np.ndarray, "vertex channel"],
    scale: Float[np.ndarray, "vertex channel"],
) -> Float[np.ndarray, "vertex pair"]:
    """Moments about other centres, at a distance ``away`` from the means, in units of a scale."""
    n, n_entries = len(index), index.shape[1] * scale.shape[1]
    blocks = moments.copy()
    if away.any():
        windows = away[index].reshape(n, n_entries)
        _add_products(blocks, windows, windows)
    if (scale == scale[0]).all():  # one law
        row = np.tile(1.0 / scale[0], index.shape[1])
        blocks *= np.outer(row, row)[np.tri(n_entries, dtype=bool)]
        return blocks
    units = (1.0 / scale)[index].reshape(n, n_entries)
    for i in range(n_entries):
        part = blocks[:, i * (i + 1) // 2 : (i + 1) * (i + 2) // 2]
        part *= units[:, i : i + 1] * units[:, : i + 1]
    return blocks


def _add_products(
    blocks: Float[np.ndarray, "row pair"], one: Float[np.ndarray, "row entry"], other: Float[np.ndarray, "row entry"]
) -> None:
    """Add the outer product of two vectors to each block."""
    for i in range(one.shape[1]):
        blocks[:, i * (i + 1) // 2 : (i + 1) * (i + 2) // 2] += one[:, i : i + 1] * other[:, : i + 1]


def whole(halves: Float[np.ndarray, "row pair"], n_entries: int) -> Float[np.ndarray, "row entry entry"]:
    """Blocks from their lower halves."""
    return np.take(halves, _places(n_entries), axis=1)


@lru_cache(maxsize=32)
def _places(n_entries: int) -> Int[np.ndarray, "entry entry"]:
    """Place of each entry of a block in its lower half."""
    row, column = np.indices((n_entries, n_entries))
    low, high = np.minimum(row, column), np.maximum(row, column)
    place: np.ndarray = high * (high + 1) // 2 + low
    return place
