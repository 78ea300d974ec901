"""What is tried and on what: candidate radii, folds, representative vertices, and the error of a mean loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from nearfield.fitting.covariance import Standardize, elimination_order
from nearfield.fitting.maximin import neighbour_count, scattered
from nearfield.fitting.rarity import compared
from nearfield.graph import DependencyGraph

if TYPE_CHECKING:
    from jaxtyping import Float, Int

PATCH = 2048
"""Larger graphs are represented by four compact patches of this many vertices in total while the locality is chosen."""
MEMBER_LIMIT = 160
"""Windows with more scalar members than this are not tried."""

WIDER = {0: (5, 6, 8, 12, 16), 1: (24, 32, 48, 64), 2: (8, 10, 12), 3: (4, 5, 6)}
"""Radii tried on lattices of so many axes, and on other graphs, where the loss is still falling at the widest."""

FEWEST_TO_CHOOSE = 4
"""Samples from which on there are two folds of two."""
BLOCKS = 20
"""Of samples in order of time, that count as independent; from twice as many samples on."""


def candidate_radii(graph: DependencyGraph, n_channels: int = 1) -> tuple[int, ...]:
    """Radii worth trying on a graph: denser at small radii, bounded by the size of the windows and by the diameter."""
    axes = len(graph.lattice.shape) if graph.lattice is not None else 0
    ladder = {1: (0, 1, 2, 3, 4, 6, 8, 12, 16), 2: (0, 1, 2, 3, 4, 5, 6), 3: (0, 1, 2, 3)}.get(axes, (0, 1, 2, 3, 4))
    if graph.lattice is not None:
        graph.neighborhood(ladder[-1])  # the others are part of it
    kept, pairs = [0], graph.n_vertices
    for radius in ladder[1:]:
        members = _members(graph, radius)
        if members.sum() == pairs or members.max() * n_channels > MEMBER_LIMIT:
            break
        kept.append(radius)
        pairs = members.sum()
    return tuple(kept)


def _members(graph: DependencyGraph, radius: int) -> Int[np.ndarray, " vertex"]:
    """Vertices around each one; for points in space twice the earlier ones, which elsewhere are half of them."""
    if scattered(graph):
        return np.full(graph.n_vertices, 2 * neighbour_count(graph, radius) + 1)
    return graph.neighborhood(radius).present.sum(axis=1)


def wider_radius(graph: DependencyGraph, radius: int, n_channels: int = 1) -> tuple[int | None, str]:
    """Return the radius to try after the last of `candidate_radii`, or None and what forbids one.

    Nothing forbids a wider one, and none is needed, where windows hold all that is connected.
    """
    axes = len(graph.lattice.shape) if graph.lattice is not None else 0
    wider = next((r for r in WIDER.get(axes, WIDER[0]) if r > radius), None)
    if wider is None:
        return None, "no wider windows are tried"
    now, then = (_members(graph, r) for r in (radius, wider))
    if now.sum() == then.sum():
        return None, ""
    if then.max() * n_channels > MEMBER_LIMIT:
        return None, f"windows of more than {MEMBER_LIMIT} values are not tried"
    return wider, ""


def split(
    n_samples: int, folds: int, contiguous: bool, seed: int = 0, groups: Int[np.ndarray, " sample"] | None = None
) -> list[np.ndarray]:
    """Held-out sample numbers of each fold: contiguous blocks, or a seeded shuffle, of `duplicate_groups` if given.

    A sample that repeats another is in its fold. There are fewer folds if there are fewer groups.
    """
    n_groups = n_samples if groups is None else int(groups.max()) + 1
    numbers = np.arange(n_groups) if contiguous else np.random.default_rng(seed).permutation(n_groups)
    parts = [np.sort(part) for part in np.array_split(numbers, min(folds, n_groups))]
    return parts if groups is None else [np.flatnonzero(np.isin(groups, part)) for part in parts]


def fewer_folds(folds: int, n_samples: int) -> int:
    """Return as many folds as leave two samples in each, of which there are to be two at least.

    Raises
    ------
    ValueError
        If there are too few: nothing can be held out.
    """
    if n_samples < FEWEST_TO_CHOOSE:
        raise ValueError(
            f"choosing the locality needs at least {FEWEST_TO_CHOOSE} samples, got {n_samples}; pass a radius, "
            "and a pooling where there is one"
        )
    return min(folds, n_samples // 2)


def standard_error(values: Float[np.ndarray, " sample"], contiguous: bool) -> float:
    """Return the standard error of a mean over samples; along a time axis over about twenty contiguous blocks."""
    if contiguous and len(values) >= 2 * BLOCKS:
        values = np.array([block.mean() for block in np.array_split(values, BLOCKS)])
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def patches(graph: DependencyGraph, limit: int = PATCH) -> np.ndarray:
    """Mask of the vertices that stand for a large graph: four compact patches spread over the elimination order.

    In the order of points in space the first are as far apart as can be.
    """
    n = graph.n_vertices
    keep = np.zeros(n, dtype=bool)
    if n <= limit:
        return ~keep
    order = elimination_order(graph)
    places = np.arange(4) if scattered(graph) else np.linspace(0, n - 1, 9).astype(int)[1::2]
    for seed in order[places]:
        hops = sp.csgraph.dijkstra(graph.adjacency, indices=np.array(seed), unweighted=True)
        near = np.argsort(hops, kind="stable")
        keep[near[~keep[near]][: limit // 4]] = True
    return keep


def representative(
    x: Float[np.ndarray, "sample vertex channel"],
    graph: DependencyGraph,
    parts: Sequence[np.ndarray],
    standardize: Standardize,
) -> tuple[DependencyGraph, Float[np.ndarray, "sample vertex channel"]]:
    """Return the graph and data on which the locality is chosen: of `patches`, those vertices that can be compared."""
    keep = patches(graph)
    keep[keep] = compared(x[:, keep], parts, standardize)
    return (graph, x) if keep.all() else (graph.subgraph(keep), x[:, keep])
