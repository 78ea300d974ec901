"""Elimination order of the vertices of a graph, and points in space, whose order goes from coarse to fine.

In the maximin order each point is the farthest from all before it. The points before a place therefore cover the domain
evenly, and the nearest of them surround it, a good set to condition on off lattices (Guinness, Technometrics 60, 2018;
Katzfuss and Guinness, Statistical Science 36, 2021). On the sphere distances are chords, which order as great circles
do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from nearfield.graph.adjacency import read_only
from nearfield.graph.coordinate import positions
from nearfield.graph.dependency import DependencyGraph

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["elimination_order", "halving_order", "maximin_order", "points_of", "scattered"]

LARGEST_EXACT = 20_000
"""Most points in the exact order, whose time grows with their square; for more, cells are halved."""
LEVELS = 30
"""Halvings of the cells; points that still share a cell follow at the end."""


def elimination_order(graph: DependencyGraph) -> Int[np.ndarray, " vertex"]:
    """Order in which vertices are conditioned on earlier ones.

    Lattices are in lexicographic order, points in space in `maximin_order`, other graphs breadth first (reverse
    Cuthill-McKee), so that a vertex has earlier neighbours close by. On a tree the last is a perfect elimination
    ordering.
    """
    return graph.memory.get("elimination order", lambda: _order(graph), size=lambda order: order.nbytes)


def _order(graph: DependencyGraph) -> Int[np.ndarray, " vertex"]:
    """Compute the order, read-only."""
    if graph.lattice is not None:
        return read_only(np.arange(graph.n_vertices))
    if scattered(graph):
        return read_only(maximin_order(points_of(graph)))
    found = sp.csgraph.reverse_cuthill_mckee(graph.adjacency.tocsr(), symmetric_mode=True)[::-1]
    return read_only(np.array(found, dtype=np.int64))


def scattered(graph: DependencyGraph) -> bool:
    """Whether vertices are points in space and not cells of a lattice."""
    return graph.lattice is None and graph.coordinates is not None


def points_of(graph: DependencyGraph) -> Float[np.ndarray, "vertex axis"]:
    """Positions of the vertices, with straight-line distances."""
    assert graph.coordinates is not None
    return positions(graph.coordinates, graph.metric)


def maximin_order(points: Float[np.ndarray, "vertex axis"]) -> Int[np.ndarray, " vertex"]:
    """Order that begins at the point nearest to the mean and continues with the farthest from all before.

    Distances equal in single precision are ties, and the lower number comes first. Above ``LARGEST_EXACT`` points it is
    `halving_order`.

    Examples
    --------
    >>> import numpy as np
    >>> maximin_order(np.array([[0.0], [1.0], [2.0], [3.0], [4.0]])).tolist()
    [2, 0, 4, 1, 3]
    """
    n = len(points)
    if n > LARGEST_EXACT:
        return halving_order(points)
    order = np.empty(n, dtype=np.int64)
    axes = np.ascontiguousarray(points.T)
    last = int(np.argmin(_squared(axes, axes.mean(axis=1))))
    reach = np.full(n, np.inf, dtype=np.float32)
    for place in range(n):
        order[place] = last
        np.minimum(reach, _squared(axes, axes[:, last]), out=reach)
        reach[last] = -1.0
        last = int(np.argmax(reach))
    return order


def _squared(axes: Float[np.ndarray, "axis vertex"], point: Float[np.ndarray, " axis"]) -> Float[np.ndarray, " vertex"]:
    """Squared distances to a point, in single precision."""
    squares: np.ndarray = np.sum((axes - point[:, None]) ** 2, axis=0).astype(np.float32)
    return squares


def halving_order(points: Float[np.ndarray, "vertex axis"]) -> Int[np.ndarray, " vertex"]:
    """Coarse maximin order by cells of space that are halved along every axis again and again.

    Each cell without an earlier point adds the point nearest to its middle.

    Examples
    --------
    >>> import numpy as np
    >>> halving_order(np.array([[0.0], [1.0], [2.0], [3.0], [4.0]])).tolist()
    [2, 1, 0, 3, 4]
    """
    spread = float(np.ptp(points, axis=0).max()) or 1.0
    unit = (points - points.min(axis=0)) / spread
    chosen, waiting = np.empty(0, dtype=np.int64), np.arange(len(points))
    for level in range(LEVELS):
        corner = np.minimum((unit * 2**level).astype(np.int64), 2**level - 1)
        cell = np.unique(corner, axis=0, return_inverse=True)[1].reshape(-1)
        free = waiting[~np.isin(cell[waiting], cell[chosen])]
        away = np.linalg.norm(unit[free] - (corner[free] + 0.5) / 2**level, axis=1).astype(np.float32)
        free = free[np.lexsort((free, away, cell[free]))]
        first = free[np.unique(cell[free], return_index=True)[1]]
        chosen, waiting = np.concatenate([chosen, first]), np.setdiff1d(waiting, first)
        if not len(waiting):
            break
    return np.concatenate([chosen, waiting])
