"""What the statistics of a field are measured with on one graph: boxes, pairs, edges and wavebands.

All of it follows from the graph and a seed, so that two sets of fields are measured alike and nothing of it is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from scipy.sparse import csr_array, triu
from scipy.sparse.csgraph import reverse_cuthill_mckee

from nearfield.evaluation.curve import VertexPairs
from nearfield.graph.coordinate import positions

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from nearfield.graph import DependencyGraph
    from nearfield.graph.lattice import Lattice

__all__ = ["Ruler", "windowed"]

BOX_SIDES = (3, 9, 27)
_CLUSTER_SIZES = (9, 81, 729)  # vertices, off lattices: as many as a box of two dimensions holds
_BANDS = 8  # of distance
_MOST_PAIRS, _MOST_EDGES = 40_000, 100_000


@final
@dataclass(frozen=True)
class Ruler:
    """Boxes, pairs, edges and wavebands of one graph.

    Attributes
    ----------
    n_vertices : int
        Of the graph.
    boxes : tuple of (str, sparse array (box, vertex))
        Name of each scale, and the matrix that averages over its boxes times the root of each box's share.
    pairs : VertexPairs or None
        In bands of distance; None where no two vertices have one.
    edges : (edge, 2)
        Neighbours.
    borders : (border, 2)
        Neighbours in different tiles, where the field was fitted in tiles.
    lattice : Lattice or None
        Where every cell is a vertex, so that there is a spectrum.
    """

    n_vertices: int
    boxes: tuple[tuple[str, csr_array], ...]
    pairs: VertexPairs | None
    edges: Int[np.ndarray, "edge 2"]
    borders: Int[np.ndarray, "border 2"]
    lattice: Lattice | None

    @classmethod
    def of(cls, graph: DependencyGraph, seed: int = 0, tile: Int[np.ndarray, " vertex"] | None = None) -> Ruler:
        """Lay boxes, draw pairs and edges; of a field in tiles also edges across their borders.

        Examples
        --------
        >>> from nearfield.graph import DependencyGraph
        >>> [name for name, _ in Ruler.of(DependencyGraph.grid((12, 12))).boxes]
        ['boxes of 3 cells', 'boxes of 9 cells', 'the whole domain']
        """
        n = graph.n_vertices
        upper = triu(graph.adjacency, k=1).tocoo()
        edges = np.stack([upper.row, upper.col], axis=1)
        borders = edges[:0] if tile is None else _some(edges[tile[edges[:, 0]] != tile[edges[:, 1]]], seed)
        edges = _some(edges, seed)
        placed = n > 1 and (graph.coordinates is not None or len(edges) > 0)
        pairs = VertexPairs.draw(graph, bins=_BANDS, max_pairs=_MOST_PAIRS, seed=seed) if placed else None
        boxes = tuple((name, _averages(labels)) for name, labels in _partitions(graph))
        whole = graph.lattice is not None and n == math.prod(graph.lattice.shape) and n >= 4
        return cls(n, boxes, pairs, edges, borders, graph.lattice if whole else None)

    def bands(self) -> tuple[Int[np.ndarray, " cell"], list[str]]:
        """Waveband of each Fourier mode, -1 for the mean; bands are a factor of two wide, the shortest waves first.

        Examples
        --------
        >>> from nearfield.graph import DependencyGraph
        >>> Ruler.of(DependencyGraph.ring(16)).bands()[1]
        ['waves of 2 to 4 cells', 'waves of 4 to 8 cells', 'waves of 8 to 16 cells']
        """
        assert self.lattice is not None
        shape = self.lattice.shape
        squares = sum(f**2 for f in np.meshgrid(*map(np.fft.fftfreq, shape), indexing="ij"))
        wavenumber = np.sqrt(np.asarray(squares)).ravel()
        # Half a cycle per cell is the shortest wave; along diagonals there are shorter ones, which join them.
        last = max(int(np.ceil(np.log2(max(shape)))) - 2, 0)
        with np.errstate(divide="ignore"):
            octave = np.ceil(-np.log2(wavenumber) - 1e-9) - 2
        band = np.where(wavenumber > 0, np.clip(octave, 0, last), -1).astype(int)
        found, band[band >= 0] = np.unique(band[band >= 0], return_inverse=True)
        return band, [f"waves of {2 ** (k + 1)} to {2 ** (k + 2)} cells" for k in found]


def _some(edges: Int[np.ndarray, "edge 2"], seed: int) -> Int[np.ndarray, "some 2"]:
    """Choose some of many edges."""
    if len(edges) <= _MOST_EDGES:
        return edges
    chosen = np.sort(np.random.default_rng(seed).choice(len(edges), _MOST_EDGES, replace=False))
    return np.take(edges, chosen, axis=0)


def _averages(labels: Int[np.ndarray, " vertex"]) -> csr_array:
    """Matrix of box means, each times the root of the share of vertices in the box."""
    _, box, count = np.unique(labels, return_inverse=True, return_counts=True)
    n = len(labels)
    return csr_array((1 / np.sqrt(count[box] * n), (box, np.arange(n))), shape=(len(count), n))


def _partitions(graph: DependencyGraph) -> Iterator[tuple[str, Int[np.ndarray, " vertex"]]]:
    n = graph.n_vertices
    if graph.lattice is not None:
        shape = graph.lattice.shape
        cells = np.stack(np.unravel_index(np.arange(math.prod(shape)), shape))
        if graph.keep is not None:
            cells = cells[:, np.asarray(graph.keep).ravel()]
        for side in BOX_SIDES:
            if side < max(shape):
                counts = [-(-length // side) for length in shape]
                yield f"boxes of {side} cells", np.ravel_multi_index(tuple(cells // side), counts)
    else:
        for size in _CLUSTER_SIZES:
            if size < n:
                yield f"clusters of {size} vertices", _clusters(graph, size)
    yield "the whole domain", np.zeros(n, dtype=int)


def _clusters(graph: DependencyGraph, size: int) -> Int[np.ndarray, " vertex"]:
    """Vertices near each other, at most `size` in a cluster: halved across the widest axis, or runs of neighbours."""
    n = graph.n_vertices
    labels = np.empty(n, dtype=int)
    if graph.coordinates is None:
        labels[reverse_cuthill_mckee(csr_array(graph.adjacency), symmetric_mode=True)] = np.arange(n) // size
        return labels
    points = positions(np.asarray(graph.coordinates, dtype=float), graph.metric)
    waiting, done = [np.arange(n)], 0
    while waiting:
        members = waiting.pop()
        if len(members) <= size:
            labels[members] = done
            done += 1
            continue
        axis = int(np.argmax(np.ptp(points[members], axis=0)))
        order = members[np.argsort(points[members, axis], kind="stable")]
        waiting += [order[: len(order) // 2], order[len(order) // 2 :]]
    return labels


def windowed(
    x: Float[np.ndarray, "sample vertex"], lattice: Lattice
) -> tuple[Float[np.ndarray, "sample *cell"], tuple[int, ...]]:
    """Fields on the lattice, tapered along axes that do not close, and the axes to transform."""
    field = x.reshape(len(x), *lattice.shape)
    for axis, (length, periodic) in enumerate(zip(lattice.shape, lattice.periodic, strict=True), start=1):
        if not periodic and length > 2:
            window = np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2
            window /= np.sqrt(np.mean(window**2))
            field = field * np.expand_dims(window, [k for k in range(field.ndim) if k != axis])
    return field, tuple(range(1, field.ndim))
