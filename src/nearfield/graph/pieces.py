"""Tiles of graphs off lattices: pieces of about the same number of vertices.

A graph is bisected again and again: across the axis along which its points extend most, or without coordinates where a
breadth-first order from one end (Cuthill-McKee) has its middle; products along their longest factor. A tile is
eliminated in the order of its own graph.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
import scipy.sparse as sp

from nearfield.graph.adjacency import links_of, pattern_of, pointers_of
from nearfield.graph.coloring import greedy_coloring
from nearfield.graph.dependency import DependencyGraph
from nearfield.graph.order import elimination_order, points_of, scattered
from nearfield.graph.tiling import TILE, Tiling

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

__all__ = ["Piece", "PieceTiling", "spread_pieces"]

THINNEST = 4
"""Vertices of a factor in a tile at least, for a product to be cut along this factor only."""
APART = 2
"""Tiles of one colour are farther apart than this part of the length of a tile."""


@final
@dataclass(frozen=True, eq=False)
class Piece:
    """Vertices of a graph, in increasing order.

    Examples
    --------
    >>> Piece(np.array([2, 3, 5])).shape
    (3,)
    """

    vertices: Int[np.ndarray, " vertex"]

    @property
    def shape(self) -> tuple[int]:
        """Number of vertices."""
        return (len(self.vertices),)

    @property
    def n_cells(self) -> int:
        """Number of vertices."""
        return len(self.vertices)


@final
@dataclass(frozen=True, eq=False)
class PieceTiling(Tiling):
    """Tiles of a graph off lattices, numbered in the order of elimination.

    Parameters
    ----------
    graph : DependencyGraph
    side : tuple of int
        Vertices of each tile.
    eliminated : ndarray of int, (vertex,)
        The vertex at each place of the elimination, tile after tile.

    Examples
    --------
    >>> chain = DependencyGraph.from_edges(12, [(k, k + 1) for k in range(11)])
    >>> tiling = PieceTiling.of(chain, 4)
    >>> [tiling.box(tile).vertices.tolist() for tile in range(3)], list(tiling.by_color())
    ([[4, 5, 6, 7], [0, 1, 2, 3], [8, 9, 10, 11]], [[0], [1, 2]])
    >>> tiling.around(1, 2).vertices.tolist()
    [0, 1, 2, 3, 4, 5]
    """

    graph: DependencyGraph
    side: tuple[int, ...]
    eliminated: Int[np.ndarray, " vertex"]

    def __post_init__(self) -> None:
        n = self.graph.n_vertices
        if self.graph.lattice is not None:
            raise ValueError(f"graph must be no lattice, got {self.graph!r}; lattices are cut into boxes")
        if sum(self.side) != n or not np.array_equal(np.sort(self.eliminated), np.arange(n)):
            raise ValueError(f"tiles must hold each of the {n} vertices once, got sizes {self.side}")

    @classmethod
    def of(cls, graph: DependencyGraph, n_cells: int = TILE) -> PieceTiling:
        """Cut a graph into tiles of about so many vertices, those that come first numbered first."""
        return graph.memory.get(("tiles", n_cells), lambda: _tiles(graph, n_cells), lambda t: t.eliminated.nbytes)

    def __len__(self) -> int:
        return len(self.side)

    @property
    def n_cells(self) -> int:
        """Number of vertices."""
        return self.graph.n_vertices

    @property
    def key(self) -> Any:
        """Sizes of the tiles and digest of their vertices."""
        return [list(self.side), hashlib.sha256(self.eliminated.astype("<i8").tobytes()).hexdigest()]

    def describe(self) -> str:
        """Return how many tiles of which size there are."""
        return f"{len(self)} tiles of about {round(np.mean(self.side))} vertices"

    @cached_property
    def _ends(self) -> Int[np.ndarray, " tile"]:
        return np.cumsum(self.side)

    @cached_property
    def _place(self) -> Int[np.ndarray, " vertex"]:
        """Place of each vertex in the elimination."""
        place = np.empty(len(self.eliminated), dtype=np.int64)
        place[self.eliminated] = np.arange(len(place))
        return place

    @cached_property
    def _adjacency(self) -> sp.csr_array:
        return self.graph.adjacency

    def box(self, tile: int) -> Piece:
        """Vertices of a tile."""
        stop = int(self._ends[tile])
        return Piece(np.sort(self.eliminated[stop - self.side[tile] : stop]))

    def around(self, tile: int, reach: int) -> Piece:
        """Vertices within so many hops of a tile."""
        return Piece(_within(self._adjacency, self.box(tile).vertices, reach))

    @cached_property
    def apart(self) -> int:
        """Hops within which no two tiles of one colour lie."""
        return _apart(self.graph, [self.box(tile).vertices for tile in range(len(self))])

    def require_apart(self, reach: int) -> None:
        """Refuse tiles so small that those of one colour may read each other within so many hops."""
        if reach <= self.apart:
            return
        alike = [set(tiles) for tiles in self.by_color()]
        if any(len(tiles.intersection(self._near(tile, reach))) > 1 for tiles in alike for tile in tiles):
            raise ValueError(
                f"tiles of one colour must be farther apart than the {reach} hops that their windows reach, got "
                f"{self.describe()}; use a smaller radius, or load the data first to fit them whole"
            )

    def by_color(self) -> Iterator[list[int]]:
        """Yield the tiles of each colour: those in sequence of which none is near another."""
        found, taken = list[int](), np.zeros(len(self), dtype=bool)
        for tile in range(len(self)):
            if taken[self._near(tile, self.apart)].any():
                yield found
                found, taken = [], np.zeros(len(self), dtype=bool)
            found.append(tile)
            taken[tile] = True
        yield found

    def _near(self, tile: int, reach: int) -> Int[np.ndarray, " other"]:
        """Tiles within so many hops of one, itself included."""
        return np.unique(np.searchsorted(self._ends, self._place[self.around(tile, reach).vertices], side="right"))

    def graph_of(self, box: Piece) -> DependencyGraph:
        """Graph of the vertices in a region, without paths that leave it."""
        return _induced(self.graph, self._adjacency, box.vertices)

    def cells(self, box: Piece) -> Int[np.ndarray, " cell"]:
        """Vertices in a region."""
        return box.vertices

    def vertices(self, box: Piece) -> Int[np.ndarray, " vertex"]:
        """Vertices in a region."""
        return box.vertices

    def within(self, box: Piece, outer: Piece) -> Bool[np.ndarray, " vertex"]:
        """Which vertices of a region lie in another."""
        return np.isin(outer.vertices, box.vertices, assume_unique=True)

    def ranks(self, box: Piece) -> Int[np.ndarray, " vertex"]:
        """Places of the vertices in the elimination."""
        found: np.ndarray = self._place[box.vertices]
        return found

    def order(self) -> Int[np.ndarray, " vertex"]:
        """Vertex at each place of the elimination."""
        return self.eliminated

    def __reduce__(self) -> tuple[type[PieceTiling], tuple[Any, ...]]:
        return PieceTiling, (self.graph, self.side, self.eliminated)


def spread_pieces(graph: DependencyGraph, n_vertices: int, number: int = 4) -> list[Piece]:
    """Return a few connected pieces of about so many vertices, far from each other; a small graph is one piece.

    Examples
    --------
    >>> chain = DependencyGraph.from_edges(100, [(k, k + 1) for k in range(99)])
    >>> [piece.vertices[[0, -1]].tolist() for piece in spread_pieces(chain, 10, 2)]
    [[20, 29], [70, 79]]
    """
    if graph.n_vertices <= n_vertices * number:
        return [Piece(np.arange(graph.n_vertices))]
    bisection, found = _Bisection.of(graph), []
    for part in bisection.parts(number):
        middle, near = bisection.along(part)[len(part) // 2], list[np.ndarray]()
        for layer in _layers(bisection.adjacency, middle[None]):
            near.append(layer)
            if sum(map(len, near)) >= n_vertices:
                break
        found.append(Piece(np.sort(np.concatenate(near)[:n_vertices])))
    return found


def _tiles(graph: DependencyGraph, n_cells: int) -> PieceTiling:
    """Bisect a graph, colour the pieces, and order the vertices of each."""
    bisection = _Bisection.of(graph)
    pieces = list(bisection.tiles(max(1, round(graph.n_vertices / n_cells))))
    owner = np.empty(graph.n_vertices, dtype=np.int64)
    for k, piece in enumerate(pieces):
        owner[piece] = k
    adjacency, apart = bisection.adjacency, _apart(graph, pieces)
    near = [np.unique(owner[_within(adjacency, piece, apart)]) for piece in pieces]
    rows = np.repeat(np.arange(len(pieces)), [len(others) for others in near])
    links = links_of(len(pieces), np.stack([rows, np.concatenate(near)], axis=1))
    color = greedy_coloring(pattern_of(*links).astype(np.int8))
    in_turn = [pieces[k] for k in np.argsort(color, kind="stable").tolist()]
    sequence = [piece[elimination_order(_induced(graph, adjacency, piece))] for piece in in_turn]
    return PieceTiling(graph, tuple(map(len, in_turn)), np.concatenate(sequence))


class _Bisection(NamedTuple):
    """A graph to be bisected, its adjacency, and the positions of points in space."""

    graph: DependencyGraph
    adjacency: sp.csr_array
    points: Float[np.ndarray, "vertex axis"] | None

    @classmethod
    def of(cls, graph: DependencyGraph) -> _Bisection:
        return cls(graph, graph.adjacency, points_of(graph) if scattered(graph) else None)

    def tiles(self, number: int) -> Iterator[Int[np.ndarray, " vertex"]]:
        """Yield so many pieces; products are cut along their longest factor if that is long enough.

        The windows at the borders of tiles are then alike all along the other factors.
        """
        lengths = self.graph.parts
        if self.points is not None or not lengths or max(lengths) < THINNEST * number:
            yield from self.parts(number)
            return
        axis = int(np.argmax(lengths))
        at = np.unravel_index(np.arange(self.graph.n_vertices), lengths)[axis]
        first = np.arange(lengths[axis]) * math.prod(lengths[axis + 1 :])
        for piece in _Bisection.of(_induced(self.graph, self.adjacency, first)).parts(number):
            yield np.flatnonzero(np.isin(at, piece))

    def parts(
        self, number: int, whole: Int[np.ndarray, " vertex"] | None = None
    ) -> Iterator[Int[np.ndarray, " vertex"]]:
        """Yield so many pieces, whose sizes differ by one vertex at most, each in increasing order."""
        whole = np.arange(self.graph.n_vertices) if whole is None else whole
        if number == 1:
            yield whole
            return
        order, first = self.along(whole), number // 2
        middle = len(whole) * first // number
        yield from self.parts(first, np.sort(order[:middle]))
        yield from self.parts(number - first, np.sort(order[middle:]))

    def along(self, part: Int[np.ndarray, " vertex"]) -> Int[np.ndarray, " vertex"]:
        """Order the vertices of a part from one end to the other."""
        if self.points is None:
            ends: np.ndarray = part[elimination_order(_induced(self.graph, self.adjacency, part))]
            return ends
        points = self.points[part]
        axis = points[:, np.argmax(np.ptp(points, axis=0))].astype(np.float32)
        ordered: np.ndarray = part[np.argsort(axis, kind="stable")]
        return ordered


def _induced(graph: DependencyGraph, adjacency: sp.csr_array, part: np.ndarray) -> DependencyGraph:
    """Graph of some vertices, in increasing order."""
    links = pointers_of(sp.csr_array(adjacency[part][:, part]))
    coordinates = None if graph.coordinates is None else graph.coordinates[part]
    return DependencyGraph(links=links, coordinates=coordinates, metric=graph.metric)


def _layers(adjacency: sp.csr_array, part: np.ndarray) -> Iterator[Int[np.ndarray, " vertex"]]:
    """Yield the vertices at 0, 1, ... hops from some, each in increasing order."""
    seen = np.zeros(adjacency.shape[0], dtype=bool)
    while len(part):
        seen[part] = True
        yield part
        near = np.unique(adjacency[part].indices)
        part = near[~seen[near]]


def _within(adjacency: sp.csr_array, part: np.ndarray, reach: int) -> Int[np.ndarray, " vertex"]:
    """Vertices within so many hops of some, in increasing order."""
    return np.sort(np.concatenate(list(islice(_layers(adjacency, part), reach + 1))))


def _apart(graph: DependencyGraph, pieces: list[np.ndarray]) -> int:
    """Return ``1 / APART`` of the median length of pieces, in hops from one end to the other."""
    lengths = []
    for piece in pieces:
        inside, first = _induced(graph, graph.adjacency, piece).adjacency, np.zeros(1, dtype=np.int64)
        for _ in range(2):
            layers = list(_layers(inside, first))
            first = layers[-1][:1]
        lengths.append(len(layers) - 1)
    return max(1, int(np.median(lengths)) // APART)
