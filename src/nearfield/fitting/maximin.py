"""Points in space: the order from coarse to fine, and the nearest earlier points.

In the maximin order each point is the farthest from all before it. The points before a place therefore cover the domain
evenly, and the nearest of them surround it, a good set to condition on off lattices (Guinness, Technometrics 60, 2018;
Katzfuss and Guinness, Statistical Science 36, 2021). On the sphere distances are chords, which order as great circles
do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csgraph
from scipy.spatial import cKDTree

from nearfield.graph import DependencyGraph, Neighborhood
from nearfield.graph.coordinate import positions
from nearfield.graph.neighborhood import ball_sizes

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["halving_order", "maximin_order", "nearest_earlier", "neighbour_count", "points_of", "scattered"]

LARGEST_EXACT = 20_000
"""Most points in the exact order, whose time grows with their square; for more, cells are halved."""
LEVELS = 30
"""Halvings of the cells; points that still share a cell follow at the end."""


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


def neighbour_count(graph: DependencyGraph, radius: int) -> int:
    """Return the average number of other vertices within some hops, rounded."""
    return round(float(ball_sizes(graph.adjacency, radius).mean())) - 1


def nearest_earlier(
    graph: DependencyGraph, count: int, order: Int[np.ndarray, " vertex"], hops: int = 1
) -> Neighborhood:
    """Windows of a vertex (column 0) and its `count` nearest earlier vertices, ranked by distance.

    Only vertices joined by a path are neighbours, so that components of the graph stay independent. ``hops`` is the
    distance that the table gives all neighbours.
    """
    n, points = graph.n_vertices, points_of(graph)
    index = np.repeat(np.arange(n)[:, None], 1 + count, axis=1)
    present = np.zeros(index.shape, dtype=bool)
    present[:, 0] = True
    part = csgraph.connected_components(graph.adjacency, directed=False)[1][order]
    for component in np.split(order[np.argsort(part, kind="stable")], np.cumsum(np.bincount(part))[:-1]):
        for places, near in _nearest_before(points[component], count):
            index[component[places], 1 : 1 + near.shape[1]] = component[near]
            present[component[places], 1 : 1 + near.shape[1]] = True
    columns = present.any(axis=0)
    away = np.where(present, hops, -1).astype(np.int16)
    away[:, 0] = 0
    return Neighborhood(index[:, columns], present[:, columns], away[:, columns], None)


def _nearest_before(
    points: Float[np.ndarray, "place axis"], count: int
) -> Iterator[tuple[Int[np.ndarray, " row"], Int[np.ndarray, "row neighbour"]]]:
    """Yield places with their nearest earlier places: all for the first few, for the others `count` of them.

    The places from 2^k to 2^(k + 1) are looked up among all up to the last of them, about half of which are earlier in
    an even order; those that find too few look farther.
    """
    for place in range(1, min(count, len(points))):
        away = np.linalg.norm(points[:place] - points[place], axis=1)
        yield np.array([place]), np.argsort(away, kind="stable")[None]
    low = max(count, 1)
    while count and low < len(points):
        high = min(2 * low, len(points))
        tree, rows, asked = cKDTree(points[:high]), np.arange(low, high), 2 * count + 2
        while len(rows):
            near = np.asarray(tree.query(points[rows], np.arange(1, min(asked, high) + 1))[1])
            earlier = near < rows[:, None]
            found = earlier.sum(axis=1) >= count
            first = np.argsort(~earlier[found], axis=1, kind="stable")[:, :count]
            yield rows[found], np.take_along_axis(near[found], first, axis=1)
            rows, asked = rows[~found], 2 * asked
        low = high
