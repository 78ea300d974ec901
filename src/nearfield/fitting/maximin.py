"""Points in space: the nearest points that come earlier in the order from coarse to fine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csgraph
from scipy.spatial import cKDTree

from nearfield.graph import DependencyGraph, Neighborhood
from nearfield.graph.neighborhood import ball_sizes
from nearfield.graph.order import points_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["nearest_earlier", "neighbour_count"]


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
