"""Partition of a graph into tiles, coloured, with what lies around them: boxes of lattices, pieces of other graphs.

Tiles follow from the graph and their size alone, never from the number of workers. Two tiles of one colour never
touch, so that all of one colour can be worked on at once, given the colours before. The elimination order of a tiled
field is colour by colour, tile by tile, and inside a tile lexicographic on lattices.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import numpy as np

from nearfield.graph.dependency import DependencyGraph
from nearfield.graph.lattice import Lattice

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

__all__ = ["Box", "BoxTiling", "Tiling"]

TILE = 1 << 14
"""Cells of a tile, about: 128 x 128 on planes."""


class Tiling(abc.ABC):
    """Tiles of a graph, numbered from 0, and regions of it: a `Box` on lattices, else a `nearfield.graph.pieces.Piece`.

    Attributes
    ----------
    graph : DependencyGraph
    side : tuple of int
        What tells the sizes of the tiles.
    """

    graph: DependencyGraph
    side: tuple[int, ...]

    @classmethod
    def of(cls, graph: DependencyGraph, n_cells: int = TILE) -> Tiling:
        """Cut a graph into tiles of about so many cells."""
        if graph.lattice is not None:
            return BoxTiling.of(graph, n_cells)
        from nearfield.graph.pieces import PieceTiling  # which are tilings

        return PieceTiling.of(graph, n_cells)

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @property
    @abc.abstractmethod
    def n_cells(self) -> int:
        """Cells of the graph, vertices or not."""

    @property
    @abc.abstractmethod
    def key(self) -> Any:
        """Plain value that tells this tiling from others of the graph."""

    @abc.abstractmethod
    def describe(self) -> str:
        """Return how many tiles of which size there are."""

    @abc.abstractmethod
    def box(self, tile: int) -> Any:
        """Return the region of a tile."""

    @abc.abstractmethod
    def around(self, tile: int, reach: int) -> Any:
        """Return the region of all within so many hops of a tile, or more."""

    @abc.abstractmethod
    def by_color(self) -> Iterator[list[int]]:
        """Yield the tiles of each colour, in the order of elimination."""

    @abc.abstractmethod
    def require_apart(self, reach: int) -> None:
        """Refuse tiles so narrow that those of one colour read each other within so many hops."""

    @abc.abstractmethod
    def graph_of(self, box: Any) -> DependencyGraph:
        """Return the graph of the vertices in a region, without paths that leave it."""

    @abc.abstractmethod
    def cells(self, box: Any) -> Int[np.ndarray, " cell"]:
        """Return the cells in a region, in its order."""

    @abc.abstractmethod
    def vertices(self, box: Any) -> Int[np.ndarray, " vertex"]:
        """Return the vertices in a region, in its order: those of `graph_of`."""

    @abc.abstractmethod
    def within(self, box: Any, outer: Any) -> Bool[np.ndarray, " vertex"]:
        """Tell which vertices of a region lie in one inside it."""

    @abc.abstractmethod
    def ranks(self, box: Any) -> Int[np.ndarray, " vertex"]:
        """Return numbers of the vertices in a region that order them as the elimination does, a tile in sequence."""

    def order(self) -> Int[np.ndarray, " vertex"]:
        """Return the vertex at each place of the elimination."""
        return np.concatenate([self.vertices(self.box(tile)) for tiles in self.by_color() for tile in tiles])


@final
@dataclass(frozen=True)
class Box:
    """Cells ``start <= cell < stop`` along each axis; on periodic axes they may lie beyond the ends.

    Examples
    --------
    >>> Box((2, -1), (4, 2)).shape
    (2, 3)
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Cells along each axis."""
        return tuple(stop - start for start, stop in zip(self.start, self.stop, strict=True))

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return math.prod(self.shape)

    def inside(self, outer: Box) -> tuple[slice, ...]:
        """Slices of an array on a box around this one that cut this one out."""
        return tuple(
            slice(start - begin, stop - begin)
            for start, stop, begin in zip(self.start, self.stop, outer.start, strict=True)
        )


@final
@dataclass(frozen=True, eq=False)
class BoxTiling(Tiling):
    """Tiles of a graph on a lattice.

    Parameters
    ----------
    graph : DependencyGraph
        On a lattice; cells may be left out.
    side : tuple of int
        Cells of a tile along each axis; the last tile of an axis takes what is left, half to three halves of that.

    Examples
    --------
    >>> tiling = BoxTiling(DependencyGraph.grid((7, 4)), (2, 2))
    >>> len(tiling), tiling.box(7), tiling.color(7)
    (8, Box(start=(6, 2), stop=(7, 4)), 3)
    >>> tiling.around(0, 1)
    Box(start=(0, 0), stop=(3, 3))
    """

    graph: DependencyGraph
    side: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.graph.lattice is None:
            raise ValueError(f"boxes need a lattice, got {self.graph!r}; other graphs are cut by Tiling.of")
        shape = self.graph.lattice.shape
        if len(self.side) != len(shape) or min(self.side) < 1:
            raise ValueError(f"side must have a positive length for each axis of {shape}, got {self.side!r}")

    @classmethod
    def of(cls, graph: DependencyGraph, n_cells: int = TILE) -> BoxTiling:
        """Cut a lattice into tiles of about so many cells, as near to cubes as its lengths allow."""
        if graph.lattice is None:
            raise ValueError(f"boxes need a lattice, got {graph!r}; other graphs are cut by Tiling.of")
        side: dict[int, int] = {}
        left, axes = n_cells, len(graph.lattice.shape)
        for axis in np.argsort(graph.lattice.shape, kind="stable").tolist():  # a short axis leaves more to the others
            side[axis] = min(graph.lattice.shape[axis], max(1, round(left ** (1 / (axes - len(side))))))
            left = max(1, left // side[axis])
        return cls(graph, tuple(side[axis] for axis in range(axes)))

    @property
    def lattice(self) -> Lattice:
        """The lattice of the graph."""
        assert self.graph.lattice is not None
        return self.graph.lattice

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Tiles along each axis."""
        lengths = zip(self.lattice.shape, self.side, strict=True)
        return tuple(max(1, (length + side // 2) // side) for length, side in lengths)

    def __len__(self) -> int:
        return math.prod(self.counts)

    @property
    def n_cells(self) -> int:
        """Cells of the lattice."""
        return self.lattice.n_cells

    @property
    def key(self) -> Any:
        """The side of the tiles."""
        return self.side

    def describe(self) -> str:
        """Return how many tiles of which size there are."""
        return f"{len(self)} tiles of {' x '.join(map(str, self.side))} cells"

    def require_apart(self, reach: int) -> None:
        """Refuse tiles so narrow that those of one colour read each other within so many hops."""
        narrow = [
            side
            for side, count, length in zip(self.side, self.counts, self.lattice.shape, strict=True)
            if count > 1 and min(side, length - (count - 1) * side) <= reach
        ]
        if narrow:
            raise ValueError(f"tiles must be wider than {reach} cells, which their windows reach, got {self.side}")

    def _place(self, tile: int) -> tuple[int, ...]:
        return tuple(int(at) for at in np.unravel_index(tile, self.counts))

    def box(self, tile: int) -> Box:
        """Cells of a tile."""
        start, stop = [], []
        for at, side, count, length in zip(self._place(tile), self.side, self.counts, self.lattice.shape, strict=True):
            start.append(at * side)
            stop.append(length if at == count - 1 else (at + 1) * side)
        return Box(tuple(start), tuple(stop))

    def around(self, tile: int, reach: int) -> Box:
        """Cells within some cells of a tile along each axis: within open ends, and across periodic ones.

        A periodic axis that is no longer than this is there once, whole.
        """
        return self.grown(self.box(tile), reach)

    def grown(self, box: Box, reach: int) -> Box:
        """Cells within some cells of a box, as `around` a tile."""
        start, stop = [], []
        for begin, end, length, periodic in zip(
            box.start, box.stop, self.lattice.shape, self.lattice.periodic, strict=True
        ):
            low, high = begin - reach, end + reach
            if not periodic:
                low, high = max(low, 0), min(high, length)
            elif high - low >= length:
                low, high = 0, length
            start.append(low)
            stop.append(high)
        return Box(tuple(start), tuple(stop))

    def color(self, tile: int) -> int:
        """Colour of a tile, by its place along each axis: even, odd, or the last of an odd number around a circle."""
        color = 0
        for at, count, periodic in zip(self._place(tile), self.counts, self.lattice.periodic, strict=True):
            closing = periodic and count % 2 == 1 and count > 1 and at == count - 1
            color = 3 * color + (2 if closing else at % 2)
        return int(np.searchsorted(self._colors, color))

    @cached_property
    def _colors(self) -> Int[np.ndarray, " color"]:
        """Colours in use, each axis a digit to base 3."""
        digits = [
            [0, *([1] if count > 1 else []), *([2] if periodic and count % 2 == 1 and count > 1 else [])]
            for count, periodic in zip(self.counts, self.lattice.periodic, strict=True)
        ]
        codes = np.zeros(1, dtype=np.int64)
        for axis in digits:
            codes = (3 * codes[:, None] + np.array(axis)).reshape(-1)
        return np.sort(codes)

    @property
    def n_colors(self) -> int:
        """Number of colours."""
        return len(self._colors)

    def by_color(self) -> Iterator[list[int]]:
        """Yield the tiles of each colour, in the order of elimination."""
        colors = np.array([self.color(tile) for tile in range(len(self))])
        for color in range(self.n_colors):
            yield np.flatnonzero(colors == color).tolist()

    def graph_of(self, box: Box) -> DependencyGraph:
        """Graph of the vertices in a box, without paths that leave it."""
        whole = zip(box.shape, self.lattice.shape, self.lattice.periodic, strict=True)
        periodic = tuple(flag and length == full for length, full, flag in whole)
        keep = None
        if self.graph.keep is not None:
            keep = self.graph.keep.reshape(-1)[self.cells(box)].reshape(box.shape)
            keep = None if keep.all() else keep
        return DependencyGraph(lattice=Lattice(box.shape, periodic, self.lattice.diagonal), keep=keep)

    def cells(self, box: Box) -> Int[np.ndarray, " cell"]:
        """Cells of the lattice in a box, in the order of the box."""
        numbers = np.zeros(1, dtype=np.int64)
        for start, stop, length in zip(box.start, box.stop, self.lattice.shape, strict=True):
            numbers = (numbers[:, None] * length + np.arange(start, stop) % length).reshape(-1)
        return numbers

    def vertices(self, box: Box) -> Int[np.ndarray, " vertex"]:
        """Vertices of the graph in a box, in the order of the box: those of `graph_of`."""
        cells = self.cells(box)
        if self.graph.keep is None:
            return cells
        found: np.ndarray = self._number[cells[self.graph.keep.reshape(-1)[cells]]]
        return found

    @cached_property
    def _number(self) -> Int[np.ndarray, " cell"]:
        """Number of the vertex that each cell is."""
        assert self.graph.keep is not None
        number: np.ndarray = np.cumsum(self.graph.keep.reshape(-1)) - 1
        return number

    def within(self, box: Box, outer: Box) -> Bool[np.ndarray, " vertex"]:
        """Which vertices of `graph_of` of a box around it lie in a box."""
        mask = np.zeros(outer.shape, dtype=bool)
        mask[box.inside(outer)] = True
        flat = mask.reshape(-1)
        return flat if self.graph.keep is None else flat[self.graph.keep.reshape(-1)[self.cells(outer)]]

    def ranks(self, box: Box) -> Int[np.ndarray, " vertex"]:
        """Numbers of the vertices in a box that order them as the elimination does, those of one tile in sequence."""
        places = [
            np.arange(start, stop) % length
            for start, stop, length in zip(box.start, box.stop, self.lattice.shape, strict=True)
        ]
        tile = np.zeros(1, dtype=np.int64)
        for at, side, count in zip(places, self.side, self.counts, strict=True):
            tile = (tile[:, None] * count + np.minimum(at // side, count - 1)).reshape(-1)
        cells = self.cells(box)
        if self.graph.keep is not None:
            kept = self.graph.keep.reshape(-1)[cells]
            cells, tile = cells[kept], tile[kept]
        ranks: np.ndarray = self._sequence[tile] * self.lattice.n_cells + cells
        return ranks

    def tiles_in(self, box: Box) -> list[int]:
        """Tiles that a box cuts, in their order."""
        axes = zip(box.start, box.stop, self.lattice.shape, self.side, self.counts, strict=True)
        along = [
            np.unique(np.minimum(np.arange(start, stop) % length // side, count - 1))
            for start, stop, length, side, count in axes
        ]
        found: list[int] = np.ravel_multi_index(np.ix_(*along), self.counts).reshape(-1).tolist()
        return found

    @cached_property
    def _sequence(self) -> Int[np.ndarray, " tile"]:
        """Place of each tile in the elimination."""
        place = np.empty(len(self), dtype=np.int64)
        place[[tile for tiles in self.by_color() for tile in tiles]] = np.arange(len(self))
        return place

    def __reduce__(self) -> tuple[type[BoxTiling], tuple[DependencyGraph, tuple[int, ...]]]:
        return BoxTiling, (self.graph, self.side)
