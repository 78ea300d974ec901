"""Adjacencies as row pointers and sorted columns; checks of the user's edges and matrices.

Pointers and columns are those of a sparse array with compressed rows (CSR): entries ``pointers[j]`` up to
``pointers[j + 1]`` of the columns are the neighbours of vertex j.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array, issparse

if TYPE_CHECKING:
    from jaxtyping import Int
    from numpy.typing import ArrayLike

    from nearfield.graph.lattice import Lattice

    Links = tuple[Int[np.ndarray, " pointer"], Int[np.ndarray, " entry"]]


__all__ = [
    "checked_edges",
    "checked_pattern",
    "lattice_links",
    "links_of",
    "pattern_of",
    "pointers_of",
    "read_only",
]


def read_only(array: np.ndarray) -> np.ndarray:
    """Forbid writing to an array of our own."""
    array.setflags(write=False)
    return array


def pattern_of(pointers: Int[np.ndarray, " pointer"], columns: Int[np.ndarray, " entry"]) -> csr_array:
    """Sparse boolean array that shares its pointers and columns.

    Examples
    --------
    >>> pattern_of(*links_of(3, np.array([[0, 2]]))).toarray().astype(int).tolist()
    [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    """
    n = len(pointers) - 1
    return csr_array((read_only(np.ones(len(columns), dtype=bool)), columns, pointers), shape=(n, n))


def pointers_of(pattern: csr_array) -> Links:
    """Row pointers and sorted columns of a sparse array."""
    pattern.sort_indices()
    return pattern.indptr, pattern.indices


def links_of(n: int, edges: Int[np.ndarray, "edge 2"]) -> Links:
    """Row pointers and columns of the symmetric adjacency of n vertices, without loops or repeats.

    Examples
    --------
    >>> [part.tolist() for part in links_of(3, np.array([[0, 2], [2, 0], [1, 1]]))]
    [[0, 1, 1, 2], [2, 0]]
    """
    edges = edges[edges[:, 0] != edges[:, 1]]
    start, end = np.concatenate([edges, edges[:, ::-1]]).T
    return pointers_of(csr_array((np.ones(len(start), dtype=bool), (start, end)), shape=(n, n)))


def lattice_links(lattice: Lattice, cells: Int[np.ndarray, " vertex"] | None) -> Links:
    """Row pointers and columns of a lattice's adjacency, read-only; of some of its cells where they are named."""
    index, present, _, _ = lattice.table(1)
    pairs = np.stack([np.repeat(index[:, :1], index.shape[1], axis=1)[present], index[present]], axis=1)
    pointers, columns = links_of(len(index), pairs)
    if cells is not None:
        pointers, columns = pointers_of(pattern_of(pointers, columns)[cells][:, cells])
    return read_only(pointers), read_only(columns)


def checked_edges(n: int, edges: ArrayLike) -> Int[np.ndarray, "edge 2"]:
    """Return the edges of a graph of n vertices as an int64 array; refuse others than pairs of integers in range."""
    pairs = np.asarray(edges)
    if pairs.size == 0:
        return np.zeros((0, 2), dtype=np.int64)
    if pairs.dtype.kind not in "iu":
        raise TypeError(f"edges must be integers, got dtype {pairs.dtype}")
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"edges must have shape (edge, 2), got {pairs.shape}")
    outside = pairs[((pairs < 0) | (pairs >= n)).any(axis=1)]
    if len(outside):
        raise ValueError(f"edges must join vertices 0 to {n - 1}, got {tuple(outside[0].tolist())}")
    return pairs.astype(np.int64)


def checked_pattern(adjacency: Any) -> csr_array:
    """Return the non-zero pattern of a finite square matrix; refuse patterns that are not symmetric."""
    matrix: Any = adjacency if issparse(adjacency) else np.asarray(adjacency)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise ValueError(f"adjacency must be square and not empty, got shape {matrix.shape}")
    if matrix.dtype.kind not in "biuf":
        raise TypeError(f"adjacency must be booleans or real numbers, got dtype {matrix.dtype}")
    pattern = csr_array(matrix, copy=True)
    pattern.sum_duplicates()
    if not np.isfinite(pattern.data).all():
        raise ValueError("adjacency must be finite, got nan or inf among its entries")
    pattern.eliminate_zeros()
    pattern.data = np.ones(pattern.nnz, dtype=np.int8)
    one_way = (pattern - pattern.T).tocoo()
    one_way.eliminate_zeros()
    if one_way.nnz:
        i, j = int(one_way.row[0]), int(one_way.col[0])
        raise ValueError(
            f"adjacency must have a symmetric pattern, got just one of the entries ({i}, {j}) and ({j}, {i}); "
            "dependence has no direction: pass abs(adjacency) + abs(adjacency).T"
        )
    return pattern
