"""Coarser graphs: blocks of neighbouring vertices, and the graph that the blocks make.

Lattices are cut into boxes, which make a lattice again; other graphs into clusters by scikit-learn's k-means, of the
coordinates or, without them, of the hops to a few landmarks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from scipy.sparse import coo_array, csgraph, csr_array

from nearfield.graph import DependencyGraph
from nearfield.graph.adjacency import links_of
from nearfield.graph.coordinate import positions
from nearfield.graph.lattice import Lattice

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["IN_TILES", "MOST_NUMBERS", "Coarsening", "box_step", "coarsen"]

STEP = 3
"""Cells of a box along each axis."""
MOST_BLOCKS = 1200
"""Blocks of the coarser graph at most: their covariance is kept as a matrix."""
MOST_NUMBERS = 5e7
"""Covariances of blocks with vertices at most (400 MB)."""
IN_TILES = 3e8
"""The same of fields in tiles, which hold no more than those near a tile."""
FEWEST_BLOCKS = 30
"""Blocks that are made however many vertices there are."""
LANDMARKS = 16


@final
@dataclass(frozen=True)
class Coarsening:
    """Blocks of vertices.

    Attributes
    ----------
    graph : DependencyGraph
        Of the blocks; two are neighbours where a vertex of one is a neighbour of a vertex of the other.
    label : int64 array (vertex,)
        The block of each vertex.
    step : int
        Cells of a box along each axis.
    """

    graph: DependencyGraph
    label: Int[np.ndarray, " vertex"]
    step: int

    def averages(self) -> csr_array:
        """Sparse matrix (block, vertex) that takes the mean over each block."""
        return averages(self.label)

    def means(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, "sample block channel"]:
        """Take the mean of each block."""
        flat = np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)
        return np.moveaxis((self.averages() @ flat).reshape(-1, len(x), x.shape[2]), 0, 1)


def averages(label: Int[np.ndarray, " vertex"]) -> csr_array:
    """Sparse matrix (block, vertex) that takes the mean over the vertices of each label."""
    weight = 1.0 / np.bincount(label)
    entries = (weight[label], (label, np.arange(len(label))))
    return csr_array(coo_array(entries, shape=(len(weight), len(label))))


def box_step(graph: DependencyGraph, numbers: float = MOST_NUMBERS) -> int:
    """Cells of a box along each axis: 3, or as many as leave so many covariances with a graph of this size."""
    most = min(MOST_BLOCKS, max(FEWEST_BLOCKS, numbers / graph.n_vertices))
    axes = 2 if graph.lattice is None else sum(length > 1 for length in graph.lattice.shape)
    step: float = (graph.n_vertices / most) ** (1 / max(1, axes))
    return max(STEP, math.ceil(step))


def coarsen(graph: DependencyGraph, step: int = STEP) -> Coarsening:
    """Cut a graph into blocks.

    Examples
    --------
    >>> coarse = coarsen(DependencyGraph.chain(10))
    >>> coarse.label.tolist(), coarse.graph
    ([0, 0, 0, 1, 1, 1, 2, 2, 2, 2], DependencyGraph.grid((3,)))
    """
    if graph.lattice is None:
        return graph.memory.get(("clusters", step), lambda: _clusters(graph, step), lambda c: c.label.nbytes)
    lattice = graph.lattice
    shape = tuple(max(1, (length + step // 2) // step) for length in lattice.shape)
    cells = np.arange(lattice.n_cells) if graph.keep is None else np.flatnonzero(graph.keep)
    place = np.unravel_index(cells, lattice.shape)
    box = np.ravel_multi_index(
        tuple(np.minimum(at // step, most - 1) for at, most in zip(place, shape, strict=True)), shape
    )
    kept, label = np.unique(box, return_inverse=True)
    keep = None
    if len(kept) < math.prod(shape):
        keep = np.zeros(shape, dtype=bool)
        keep.flat[kept] = True
    whole = DependencyGraph(lattice=Lattice(shape, lattice.periodic, lattice.diagonal), keep=keep)
    return Coarsening(whole, label.reshape(-1), step)


def _clusters(graph: DependencyGraph, step: int) -> Coarsening:
    from sklearn.cluster import KMeans  # a second to import

    n = graph.n_vertices
    count = max(1, round(n / step**2))
    if graph.coordinates is not None:
        place = positions(graph.coordinates, graph.metric)
    else:
        landmarks = np.linspace(0, n - 1, min(n, LANDMARKS)).astype(int)
        hops = csgraph.dijkstra(graph.adjacency, indices=landmarks, unweighted=True).T
        place = np.where(np.isfinite(hops), hops, float(n))
    place = place - place.mean(axis=0)
    found = KMeans(count, n_init=1, random_state=0).fit(place).labels_
    _, label = np.unique(found, return_inverse=True)
    start, end = (label[part] for part in coo_array(graph.adjacency).coords)
    links = links_of(int(label.max()) + 1, np.stack([start, end], axis=1))
    centers = None
    if graph.coordinates is not None and graph.metric == "euclidean":
        centers = averages(label) @ graph.coordinates
    elif graph.coordinates is not None:
        centers = _degrees(averages(label) @ positions(graph.coordinates, graph.metric))
    return Coarsening(DependencyGraph(links=links, coordinates=centers, metric=graph.metric), label.reshape(-1), step)


def _degrees(vector: Float[np.ndarray, "block 3"]) -> Float[np.ndarray, "block 2"]:
    """Latitude and longitude of directions from the centre of the sphere."""
    x, y, z = vector.T
    degrees: np.ndarray = np.rad2deg(np.stack([np.arctan2(z, np.hypot(x, y)), np.arctan2(y, x)], axis=1))
    return degrees
