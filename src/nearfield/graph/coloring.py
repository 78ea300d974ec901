r"""Colours of vertices such that those of one colour are far apart.

A linear map of an endless lattice, :math:`v \mapsto k \cdot v \bmod m`, gives vertices of one colour a distance above D
if it sends no offset within D to 0. On chains m = D + 1, and on planes the balls of even D = 2r tile with
:math:`m = 2r^2 + 2r + 1` colours (Golomb and Welch, SIAM J. Appl. Math. 18, 1970), the fewest that there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import networkx as nx
import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from jaxtyping import Int

    from nearfield.graph.dependency import DependencyGraph
    from nearfield.graph.lattice import Lattice

__all__ = ["distant_coloring", "greedy_coloring"]

_MOST = 200
"""Most colours that a linear map is sought for."""


def distant_coloring(graph: DependencyGraph, distance: int) -> Int[np.ndarray, " vertex"]:
    """Colour the vertices, numbered from 0, so that those of one colour are more than `distance` hops apart.

    Examples
    --------
    >>> from nearfield.graph import DependencyGraph
    >>> distant_coloring(DependencyGraph.chain(7), 2).tolist()
    [0, 1, 2, 0, 1, 2, 0]
    >>> [1 + int(distant_coloring(DependencyGraph.grid((40, 40)), 2 * r).max()) for r in (1, 2, 4)]
    [5, 13, 41]
    """
    linear = None if graph.lattice is None else _linear(graph.lattice, distance)
    if linear is None or (graph.lattice is not None and any(graph.lattice.periodic)):
        greedy = _greedy(graph, distance)
        if linear is None or len(np.unique(greedy)) < len(np.unique(linear)):
            return greedy
    color = linear if graph.keep is None else linear[np.flatnonzero(graph.keep)]
    return np.unique(color, return_inverse=True)[1].reshape(-1)


def greedy_coloring(near: sp.csr_array | sp.coo_array) -> Int[np.ndarray, " vertex"]:
    """Colour greedily, those with the most neighbours first, so that no entry off the diagonal joins one colour.

    Examples
    --------
    >>> greedy_coloring(sp.csr_array(np.array([[0, 1, 1], [1, 0, 0], [1, 0, 0]]))).tolist()
    [0, 1, 1]
    """
    color = nx.greedy_color(nx.from_scipy_sparse_array(near), strategy="largest_first")
    return np.array([color[vertex] for vertex in range(near.shape[0])], dtype=np.int64)


def _linear(lattice: Lattice, distance: int) -> Int[np.ndarray, " cell"] | None:
    """Colour the cells by a linear map, which goes around periodic axes; None if there is none of few colours."""
    shape = np.array(lattice.shape)
    offsets = lattice.stencil(distance)[0][1:]
    around = shape[list(lattice.periodic)], np.flatnonzero(lattice.periodic)
    cells = np.stack(np.unravel_index(np.arange(lattice.n_cells), lattice.shape), axis=1)
    for m in range(1, min(_MOST, lattice.n_cells) + 1):
        others = np.meshgrid(*[np.arange(m)] * (len(shape) - 1), indexing="ij")
        factors = np.stack([np.ones(m ** (len(shape) - 1), dtype=np.int64), *(each.ravel() for each in others)])
        fits = ((factors[around[1]] * around[0][:, None]) % m == 0).all(axis=0)
        factors = factors[:, fits]
        found = np.flatnonzero(((offsets @ factors) % m != 0).all(axis=0))
        if len(found):
            return np.asarray((cells @ factors[:, found[0]]) % m)
    return None


def _greedy(graph: DependencyGraph, distance: int) -> Int[np.ndarray, " vertex"]:
    """Colour greedily the graph of vertices within `distance`."""
    table = graph.neighborhood(distance)
    rows, columns = np.nonzero(table.present[:, 1:])
    others = table.index[:, 1:][rows, columns]
    return greedy_coloring(sp.csr_array((np.ones(len(rows)), (rows, others)), shape=(len(graph), len(graph))))
