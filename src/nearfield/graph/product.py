"""Products of graphs: space times time, and other pairs of vertices.

The vertices of a (Cartesian) product are the pairs (i, j), numbered in C order, ``i * n_right + j``. Two pairs are
neighbours when they agree in one factor and are neighbours in the other, so that hops add up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array, eye_array, kron

from nearfield.graph.adjacency import pointers_of
from nearfield.graph.lattice import Lattice

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from nearfield.graph.adjacency import Links

MOST_AXES = 3  # of a lattice


def product_lattice(left: Lattice | None, right: Lattice | None) -> Lattice | None:
    """Lattice of the axes of both, where the product is one; None where it takes a list of edges.

    It is none when a factor is none, when they have more than three axes together, or when cells of a factor touch by
    their corners: in the product they would still touch along that factor's axes only.

    Examples
    --------
    >>> product_lattice(Lattice((4, 6), (False, True)), Lattice((5,), (False,)))
    Lattice(shape=(4, 6, 5), periodic=(False, True, False), diagonal=False)
    """
    if left is None or right is None or len(left.shape) + len(right.shape) > MOST_AXES:
        return None
    if any(factor.diagonal and sum(length > 1 for length in factor.shape) > 1 for factor in (left, right)):
        return None
    return Lattice(left.shape + right.shape, left.periodic + right.periodic)


def product_mask(
    left: Bool[np.ndarray, ...] | None, right: Bool[np.ndarray, ...] | None, lattice: Lattice
) -> Bool[np.ndarray, ...] | None:
    """Cells of the product's lattice that are vertices: those whose parts are vertices in both; None when all are.

    Examples
    --------
    >>> product_mask(np.array([True, False]), None, Lattice((2, 3), (False, False))).astype(int).tolist()
    [[1, 1, 1], [0, 0, 0]]
    """
    if left is None and right is None:
        return None
    keep = np.ones(lattice.shape, dtype=bool)
    if left is not None:
        keep &= left.reshape(left.shape + (1,) * (keep.ndim - left.ndim))
    if right is not None:
        keep &= right
    return keep


def product_links(left: csr_array, right: csr_array) -> Links:
    """Row pointers and columns of the product of two adjacencies.

    Examples
    --------
    >>> edge = csr_array(np.array([[False, True], [True, False]]))
    >>> product_links(edge, edge)[1].reshape(4, 2).tolist()
    [[1, 2], [0, 3], [0, 3], [1, 2]]
    """
    along_left = kron(left, eye_array(right.shape[0], dtype=bool), format="csr")
    along_right = kron(eye_array(left.shape[0], dtype=bool), right, format="csr")
    return pointers_of(csr_array(along_left + along_right))


def product_points(
    left: Float[np.ndarray, "vertex axis"] | None, right: Float[np.ndarray, "vertex axis"] | None
) -> Float[np.ndarray, "vertex axis"] | None:
    """Coordinates of the pairs: those of the one, then those of the other; None when either has none.

    Examples
    --------
    >>> product_points(np.array([[0.0], [1.0]]), np.array([[5.0], [7.0]])).tolist()
    [[0.0, 5.0], [0.0, 7.0], [1.0, 5.0], [1.0, 7.0]]
    """
    if left is None or right is None:
        return None
    return np.hstack([np.repeat(left, len(right), axis=0), np.tile(right, (len(left), 1))])
