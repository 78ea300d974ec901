"""Neighbourhoods of all vertices at once, by products of sparse matrices: (2.10)-(2.12) of arXiv 2505.04417.

The pairs at exactly r hops are one sparse boolean matrix, and the next follows from the last two: no dense matrix of
distances is formed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
from scipy.sparse import csr_array, eye_array

from nearfield.graph.lattice import Lattice

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

__all__ = ["ABSENT", "Neighborhood", "ball_sizes", "growth", "layers", "narrowed", "on_lattice", "ranked"]

ABSENT = 1 << 40
"""Stands for the shift of an entry that is not there."""
GROWTH_PAIRS = 10_000_000  # pairs of vertices that `growth` counts before the graph's size stands for a ball's


@final
@dataclass(frozen=True, eq=False)
class Neighborhood:
    """Neighbours of every vertex within a radius, as a rectangular table; arrays are read-only.

    Attributes
    ----------
    index : int64 array (vertex, width)
        The neighbours; column 0 is the vertex itself. Absent entries point at the vertex itself.
    present : bool array (vertex, width)
        Which entries are neighbours; column 0 always is.
    hops : int16 array (vertex, width)
        Graph distance of each entry, 0 for the vertex itself; -1 where absent.
    offsets : int64 array (width, axis) or None
        On lattices, the offset that column stands for, the same at every vertex; else None.
    shift : int64 array (vertex, width) or None
        In parts of a graph off lattices whose windows recur, the difference of the vertex numbers of entry and vertex
        in the whole graph; `ABSENT` where there is none. Else None.

    Examples
    --------
    >>> import numpy as np
    >>> Neighborhood(np.array([[0]]), np.array([[True]]), np.array([[0]], dtype=np.int16), None).index.flags.writeable
    False
    """

    index: Int[np.ndarray, "vertex width"]
    present: Bool[np.ndarray, "vertex width"]
    hops: Int[np.ndarray, "vertex width"]
    offsets: Int[np.ndarray, "width axis"] | None
    shift: Int[np.ndarray, "vertex width"] | None = None

    def __post_init__(self) -> None:
        for array in self._arrays:
            if array is not None:
                array.setflags(write=False)

    @property
    def n_bytes(self) -> int:
        """Memory of the arrays."""
        return sum(array.nbytes for array in self._arrays if array is not None)

    @property
    def _arrays(self) -> tuple[np.ndarray | None, ...]:
        return self.index, self.present, self.hops, self.offsets, self.shift

    def of(self, rows: Any) -> Neighborhood:
        """Return the windows of some vertices."""
        shift = None if self.shift is None else self.shift[rows]
        offsets = None if self.offsets is None else self.offsets.copy()
        return Neighborhood(self.index[rows], self.present[rows], self.hops[rows], offsets, shift)

    def only(self, kept: Bool[np.ndarray, "vertex width"]) -> Neighborhood:
        """Return the windows without all other entries, and without columns that no window has."""
        present = self.present & kept
        columns = present.any(axis=0)
        offsets = None if self.offsets is None else self.offsets[columns]
        shift = None if self.shift is None else np.where(present, self.shift, ABSENT)[:, columns]
        return Neighborhood(self.index[:, columns], present[:, columns], self.hops[:, columns], offsets, shift)

    def __reduce__(self) -> tuple[Any, ...]:  # pickled arrays come back writeable, the constructor sees to it
        return Neighborhood, self._arrays


def layers(adjacency: csr_array, radius: int | None = None) -> Iterator[csr_array]:
    """Yield, for r = 0, 1, ..., the pairs at exactly r hops as a boolean pattern, until there are none.

    Examples
    --------
    >>> import numpy as np
    >>> [layer.nnz for layer in layers(csr_array(np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=bool)))]
    [3, 4, 2]
    """
    n = adjacency.shape[0]
    before: csr_array = csr_array((n, n), dtype=bool)
    layer: csr_array = eye_array(n, dtype=bool, format="csr")
    for hop in range(n if radius is None else min(radius + 1, n)):
        if hop:  # one more hop leads from a layer to itself, to the one before, or on
            before, layer = layer, csr_array((layer @ adjacency) > (layer + before))
        if not layer.nnz:
            return
        layer.sort_indices()
        yield layer


def ball_sizes(adjacency: csr_array, radius: int) -> Int[np.ndarray, " vertex"]:
    """Count the vertices within `radius` hops of each, itself included.

    Examples
    --------
    >>> import numpy as np
    >>> ball_sizes(csr_array(np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=bool)), 1).tolist()
    [2, 3, 2]
    """
    sizes: np.ndarray = np.sum([np.diff(layer.indptr) for layer in layers(adjacency, radius)], axis=0)
    return sizes


def ranked(
    adjacency: csr_array, radius: int, positions: Float[np.ndarray, "vertex axis"] | None = None
) -> Neighborhood:
    """Table of a graph off lattices: rows ordered by hops, then by distance of positions, then by vertex number.

    Examples
    --------
    >>> import numpy as np
    >>> ranked(csr_array(np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=bool)), 1).index.tolist()
    [[0, 1, 0], [1, 0, 2], [2, 1, 2]]
    """
    found = list(layers(adjacency, radius))
    filled = np.cumsum(
        [np.zeros(adjacency.shape[0], dtype=np.int64), *(np.diff(layer.indptr) for layer in found)], axis=0
    )
    index, hops = _empty(adjacency.shape[0], int(filled[-1].max()))
    distance = np.zeros(index.shape, dtype=np.float32)
    for hop, layer in enumerate(found):
        rows = np.repeat(np.arange(len(index)), np.diff(layer.indptr))
        place = np.arange(layer.nnz) + (filled[hop] - layer.indptr[:-1])[rows]
        index[rows, place], hops[rows, place] = layer.indices, hop
        if positions is not None:
            # single precision: distances that are equal but for rounding are ties, the same on every machine
            distance[rows, place] = np.linalg.norm(positions[rows] - positions[layer.indices], axis=1)
    if positions is not None:
        order = np.lexsort((distance, hops.view(np.uint16)), axis=1)  # unsigned, so that the absent -1 comes last
        index, hops = np.take_along_axis(index, order, axis=1), np.take_along_axis(hops, order, axis=1)
    return Neighborhood(index, hops >= 0, hops, None)


def on_lattice(lattice: Lattice, cells: Int[np.ndarray, " vertex"], adjacency: csr_array, radius: int) -> Neighborhood:
    """Table of a lattice with cells removed: columns are offsets, hops are counted among the rest.

    Examples
    --------
    >>> import numpy as np
    >>> pair = csr_array(np.array([[0, 1], [1, 0]], dtype=bool))
    >>> on_lattice(Lattice((4,), (False,)), np.array([1, 2]), pair, 1).hops.tolist()
    [[0, -1, 1], [0, 1, -1]]
    """
    offsets = lattice.stencil(radius)[0]
    index, hops = _empty(len(cells), len(offsets))
    for hop, layer in enumerate(layers(adjacency, radius)):
        rows = np.repeat(np.arange(len(cells)), np.diff(layer.indptr))
        place = lattice.columns(cells[rows], cells[layer.indices], offsets)
        index[rows, place], hops[rows, place] = layer.indices, hop
    return Neighborhood(index, hops >= 0, hops, offsets)


def narrowed(table: Neighborhood, lattice: Lattice, radius: int) -> Neighborhood:
    """Table of a smaller radius on the same lattice: its leading columns, if still within its hops.

    Examples
    --------
    >>> lattice = Lattice((3,), (False,))
    >>> narrowed(Neighborhood(*lattice.table(2)), lattice, 1).index.tolist()
    [[0, 0, 1], [1, 0, 2], [2, 1, 2]]
    """
    assert table.offsets is not None
    width = len(lattice.stencil(radius)[0])
    hops, present = table.hops[:, :width].copy(), table.present[:, :width] & (table.hops[:, :width] <= radius)
    hops[~present] = -1
    return Neighborhood(
        np.where(present, table.index[:, :width], table.index[:, :1]), present, hops, table.offsets[:width].copy()
    )


def growth(adjacency: csr_array, largest_component: int, radius: int | None = None) -> tuple[float, float]:
    r"""(S, nu) of (3.12): S the largest number of neighbours, which r = 1 asks for, nu the least that then holds.

    Examples
    --------
    >>> import numpy as np
    >>> growth(csr_array(np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=bool)), 3)
    (2.0, 0.0)
    """
    largest: list[int] = []
    sizes = np.full(adjacency.shape[0], -1)
    for layer in layers(adjacency, radius):
        sizes += np.diff(layer.indptr)
        largest.append(int(sizes.max()))
        if radius is None and len(largest) > 1 and sizes.sum() > GROWTH_PAIRS:
            largest.append(largest_component - 1)
            break
    if len(largest) < 2:
        return 0.0, 0.0
    ball, hops = np.array(largest[1:], dtype=float), np.arange(1, len(largest), dtype=float)
    nu = float(np.max(np.log(ball[1:] / ball[0]) / np.log(hops[1:]), initial=0.0))
    while np.any(ball[0] * hops**nu < ball):  # a few units in the last place
        nu = float(np.nextafter(nu, np.inf))
    return float(ball[0]), nu


def _empty(n: int, width: int) -> tuple[Int[np.ndarray, "vertex width"], Int[np.ndarray, "vertex width"]]:
    """Index and hops of a table without entries."""
    return np.repeat(np.arange(n)[:, None], width, axis=1), np.full((n, width), -1, dtype=np.int16)
