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
    from nearfield.graph.adjacency import Links
    from nearfield.graph.dependency import DependencyGraph

__all__ = ["paired"]

_MOST_AXES = 3  # of a lattice


def paired(left: DependencyGraph, right: DependencyGraph) -> DependencyGraph:
    """Product of two graphs: a lattice where it is one, else a list of edges."""
    graph, points = type(left), None
    if left.coordinates is not None and right.coordinates is not None and left.metric == right.metric == "euclidean":
        points = np.hstack(
            [np.repeat(left.coordinates, len(right), axis=0), np.tile(right.coordinates, (len(left), 1))]
        )
    lattice = _product_lattice(left.lattice, right.lattice)
    if lattice is None:
        links = _product_links(left.adjacency, right.adjacency)
        return graph(
            links=links, coordinates=points, parts=(left.parts or (len(left),)) + (right.parts or (len(right),))
        )
    keep = None
    if left.keep is not None or right.keep is not None:
        cells = [np.ones(g.lattice.shape, bool) if g.keep is None else g.keep for g in (left, right) if g.lattice]
        keep = np.multiply.outer(*cells)
    return graph(lattice=lattice, keep=keep, coordinates=points)


def _product_lattice(left: Lattice | None, right: Lattice | None) -> Lattice | None:
    """Lattice of the axes of both; None beyond three axes, or where cells of a factor of several axes touch by corners.

    In the product such cells would still touch along that factor's axes only, which no lattice says.
    """
    if left is None or right is None or len(left.shape) + len(right.shape) > _MOST_AXES:
        return None
    if any(factor.diagonal and sum(length > 1 for length in factor.shape) > 1 for factor in (left, right)):
        return None
    return Lattice(left.shape + right.shape, left.periodic + right.periodic)


def _product_links(left: csr_array, right: csr_array) -> Links:
    """Row pointers and columns of the product of two adjacencies."""
    along_left = kron(left, eye_array(right.shape[0], dtype=bool), format="csr")
    along_right = kron(eye_array(left.shape[0], dtype=bool), right, format="csr")
    return pointers_of(csr_array(along_left + along_right))
