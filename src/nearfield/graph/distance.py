"""Hops between all pairs of vertices, and the largest of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csgraph

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from scipy.sparse import csr_array

__all__ = ["dense_hops", "largest_hops"]

_LARGEST_DENSE = 20_000  # vertices; a dense matrix of hops is 3.2 GB there
_EXACT_DIAMETER = 2_000  # vertices up to which all pairs are searched for the diameter


def dense_hops(adjacency: csr_array) -> Float[np.ndarray, "vertex vertex"]:
    """Hops between all pairs, inf where there is no path; refuse graphs that are too large for it."""
    n = adjacency.shape[0]
    if n > _LARGEST_DENSE:
        raise ValueError(
            f"n_vertices must be at most {_LARGEST_DENSE} for a dense matrix of hops, got {n}; use neighborhood(radius)"
        )
    return csgraph.shortest_path(adjacency, method="D", directed=False, unweighted=True)


def largest_hops(adjacency: csr_array, component: Int[np.ndarray, " vertex"]) -> int:
    """Largest finite hop distance; on large graphs a bound, in each component twice an eccentricity or its size - 1."""
    if adjacency.shape[0] <= _EXACT_DIAMETER:
        hops = dense_hops(adjacency)
        return int(hops[np.isfinite(hops)].max())
    sources = np.unique(component, return_index=True)[1]
    hops = csgraph.dijkstra(adjacency, directed=False, indices=sources, unweighted=True, min_only=True)
    eccentricity = np.zeros(len(sources))
    np.maximum.at(eccentricity, component, hops)
    return int(np.minimum(2 * eccentricity, np.bincount(component) - 1).max())
