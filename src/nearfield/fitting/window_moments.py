"""Second moments of windows for all folds: formed once at a radius, and recentred for each candidate.

Centred moments K of what trains a fold, about its own means m, give the block of ``((x - c) / s)`` for any location c
and scale s: ``(K + d d') / (s s')`` with ``d = m - c``. Only differences of centres enter, so that values far from zero
lose nothing. Products of samples are taken once, within each held-out part, and summed over the parts that train.

Blocks are symmetric and kept by their lower halves, row after row.
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

BUDGET = 1 << 25
"""Numbers kept in all (256 MiB)."""
_CHUNK = 1 << 21
"""Numbers gathered, or in the blocks of all parts, at once (16 MiB)."""


class FoldMoments:
    """Second moments of the windows of what trains each fold, kept for as many radii as there is room for.

    Parameters
    ----------
    x : ndarray, shape (sample, vertex, channel)
        Data in their own units.
    parts : sequence of ndarray
        Held-out sample numbers of each fold; together all samples.
    means : ndarray, shape (fold, vertex, channel)
        Of what trains each fold.
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
        """Moments of each fold on the windows of a radius; None where they are too many to keep."""
        members = table.index.shape[1] * self.x.shape[2]
        size = len(self.parts) * len(table.index) * members * (members + 1) // 2
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
    """Centred second moments of windows, of what trains each fold about its means."""
    n_samples, n, channels = x.shape
    member = index.shape[1] * channels
    reference = x.mean(axis=0)
    by_vertex = np.ascontiguousarray((x - reference)[np.concatenate(parts)].transpose(1, 0, 2))
    ends = np.cumsum([0, *map(len, parts)])
    lower = np.flatnonzero(np.tri(member, dtype=bool))
    found = [np.empty((n, len(lower))) for _ in parts]
    away = [(mean - reference)[index].reshape(n, member) for mean in means]
    step = max(1, _CHUNK // (member * max(n_samples, member * len(parts))))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        part = torch.from_numpy(by_vertex[index[rows]])  # (row, width, sample, channel)
        part = part.permute(0, 1, 3, 2).reshape(-1, member, n_samples)
        pieces = [part[:, :, a:b] for a, b in pairwise(ends)]
        sums = [torch.bmm(piece, piece.mT).numpy().reshape(-1, member**2)[:, lower] for piece in pieces]
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
    """Moments about other centres, that lie ``away`` from the means, in units of a scale."""
    n, member = len(index), index.shape[1] * scale.shape[1]
    blocks = moments.copy()
    if away.any():
        windows = away[index].reshape(n, member)
        _add_products(blocks, windows, windows)
    if (scale == scale[0]).all():  # one law
        row = np.tile(1.0 / scale[0], index.shape[1])
        blocks *= np.outer(row, row)[np.tri(member, dtype=bool)]
        return blocks
    units = (1.0 / scale)[index].reshape(n, member)
    for i in range(member):
        part = blocks[:, i * (i + 1) // 2 : (i + 1) * (i + 2) // 2]
        part *= units[:, i : i + 1] * units[:, : i + 1]
    return blocks


def _add_products(
    blocks: Float[np.ndarray, "row pair"], one: Float[np.ndarray, "row member"], other: Float[np.ndarray, "row member"]
) -> None:
    """Add the outer product of two vectors to each block."""
    for i in range(one.shape[1]):
        blocks[:, i * (i + 1) // 2 : (i + 1) * (i + 2) // 2] += one[:, i : i + 1] * other[:, : i + 1]


def whole(halves: Float[np.ndarray, "row pair"], member: int) -> Float[np.ndarray, "row member member"]:
    """Blocks from their lower halves."""
    return np.take(halves, _places(member), axis=1)


@lru_cache(maxsize=32)
def _places(member: int) -> Int[np.ndarray, "member member"]:
    """Where each entry of a block is in its lower half."""
    row, column = np.indices((member, member))
    low, high = np.minimum(row, column), np.maximum(row, column)
    return high * (high + 1) // 2 + low
