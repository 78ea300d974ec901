"""Colours of blocks: blocks of one colour share no factor, so that they move at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from nearfield.graph import coloring

if TYPE_CHECKING:
    from jaxtyping import Int

__all__ = ["greedy_coloring", "require_proper"]


def greedy_coloring(blocks: Int[np.ndarray, " vertex"], members: Sequence[np.ndarray]) -> Int[np.ndarray, " block"]:
    """Colour the blocks greedily, those with the most conflicts first."""
    n = int(blocks.max()) + 1
    pairs = np.concatenate([np.zeros((0, 2), dtype=np.int64), *(pairs_of(blocks[vertices]) for vertices in members)])
    one_way = sp.coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return coloring.greedy_coloring(sp.csr_array(one_way + one_way.T))


def pairs_of(members: Int[np.ndarray, "factor member"]) -> Int[np.ndarray, "pair 2"]:
    """Different pairs of different members of a factor, each in increasing order."""
    first, second = np.triu_indices(members.shape[1], 1)
    one, other = members[:, first].ravel(), members[:, second].ravel()
    low, high = np.minimum(one, other), np.maximum(one, other)
    count = int(members.max(initial=0)) + 1
    keys = np.unique((low * count + high)[low < high])  # one number for each pair: rows sort 40 times slower
    return np.stack([keys // count, keys % count], axis=1)


def require_proper(
    colors: Int[np.ndarray, " block"], blocks: Int[np.ndarray, " vertex"], members: Sequence[np.ndarray]
) -> None:
    """Refuse a colouring in which two blocks of one colour share a factor."""
    for vertices in members:
        pairs = pairs_of(blocks[vertices])
        clash = np.flatnonzero(colors[pairs[:, 0]] == colors[pairs[:, 1]])
        if len(clash):
            first, second = pairs[clash[0]]
            raise ValueError(
                f"colors must differ between blocks that share a factor, got {colors[first]} for both blocks {first} "
                f"and {second}"
            )
