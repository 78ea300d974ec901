r"""Whitening factor of a large field, kept and used tile by tile.

With the tiles in elimination order, a row of blocks of the factor holds :math:`F_{TT}`, lower triangular, and
:math:`F_{TE}` for the earlier vertices near the tile T. A draw :math:`F x = z` is

.. math:: x_T = F_{TT}^{-1} (z_T - F_{TE} x_E),

one tile after the other; those of one colour do not read each other, and `nearfield.score.tile_sweep` solves them in
tasks of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, final

import numpy as np
import scipy.sparse as sp

from nearfield.graph import DependencyGraph
from nearfield.graph.pieces import PieceTiling
from nearfield.graph.tiling import Box, BoxTiling, Tiling
from nearfield.module import as_tensor
from nearfield.score.solver import triangle
from nearfield.score.sparse import Factor, touching
from nearfield.score.tile_sweep import Borders, borders_of, covariance_of
from nearfield.tiled_samples import Run, one_by_one

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

__all__ = ["RowsOnBox", "TileReader", "TileRows", "TiledFactor", "places_of"]

KEPT = 3 << 27
"""Bytes of tiles kept in memory (384 MiB, and as much for their solvers): the first, since all are read in turn."""


class TileReader(Protocol):
    """Arrays of tiles, which a fit wrote."""

    def read(self, tile: int, stage: str) -> Mapping[str, np.ndarray]:
        """Return those of a tile from one stage of the fit."""


class TileRows(NamedTuple):
    """Rows of the factor for the variables of a tile, which stand at ``own`` in the elimination order.

    ``inner`` and ``solver`` are F_TT, ``outer`` is F_TE of the variables at the places ``earlier``.
    """

    own: slice
    inner: sp.csr_array
    solver: Any
    outer: sp.csr_array
    earlier: Int[np.ndarray, " other"]

    def solve(
        self, z: Float[np.ndarray, "column own"], earlier: Float[np.ndarray, "other column"]
    ) -> Float[np.ndarray, "column own"]:
        """Solve for the variables of the tile, given those before; one by one, to the same bits in any batch."""
        if self.solver is None:
            return z
        right, near = np.array(z, order="C"), np.flatnonzero(np.diff(self.outer.indptr))
        right[:, near] -= (self.outer[near] @ earlier).T
        return np.stack([self.solver.solve(column) for column in right])

    def pull(self, x: Float[np.ndarray, "variable column"]) -> None:
        """Solve for the variables of the tile, given those after, and take their share from those before."""
        if self.solver is not None:
            x[self.own] = solved = self.solver.solve(np.ascontiguousarray(x[self.own]), trans="T")
            x[self.earlier] -= self.outer.T @ solved

    @property
    def n_bytes(self) -> int:
        """Memory, with that of the solver."""
        return 12 * (2 * self.inner.nnz + self.outer.nnz) + 8 * len(self.earlier)


class RowsOnBox(NamedTuple):
    """Rows F_RB of the factor that read a box B, its variables by vertex with channels fastest.

    ``outside`` are the sums of their other entries, ``vertex`` and ``channel`` tell whose rows they are.
    """

    matrix: sp.csr_array
    outside: Float[np.ndarray, " row"]
    vertex: Int[np.ndarray, " row"]
    channel: Int[np.ndarray, " row"]


def places_of(
    wanted: Int[np.ndarray, " wanted"], among: Int[np.ndarray, " some"], order: Int[np.ndarray, " some"]
) -> Int[np.ndarray, " wanted"]:
    """Places of numbers among others that ``order`` sorts; negative ones where they are not there."""
    if not len(among):
        return np.full(len(wanted), -(1 << 40))
    found = order[np.minimum(np.searchsorted(among, wanted, sorter=order), len(among) - 1)]
    return np.where(among[found] == wanted, found, -(1 << 40))


@final
class TiledFactor(Factor):
    """Whitening factor whose rows are read tile by tile.

    Parameters
    ----------
    graph : DependencyGraph
    side : sequence of int
        Cells of a tile along each axis; off lattices, vertices of each tile.
    reach : int
        Hops around a tile that its rows read.
    n_channels : int
        Channels of a vertex.
    stage : str
        Stage of the fit that wrote the tiles.
    stored : TileReader
        Has ``data``, ``indices`` and ``indptr``, the compressed rows of a tile over the variables in the region
        `Tiling.around` it, by vertex with channels fastest.
    eliminated : ndarray or Tensor of int, (vertex,), optional
        Off lattices, the vertex at each place of the elimination, as in `nearfield.graph.pieces.PieceTiling`.
    """

    settings = ("side", "reach", "n_channels", "stage")
    eliminated: Tensor | None

    def __init__(
        self,
        graph: DependencyGraph,
        side: Sequence[int],
        reach: int,
        n_channels: int,
        stage: str,
        stored: TileReader,
        eliminated: Int[np.ndarray, " vertex"] | Int[Tensor, " vertex"] | None = None,
    ) -> None:
        super().__init__()
        self.side, self.reach, self.n_channels, self.stage = tuple(side), reach, n_channels, stage
        self.register_buffer("eliminated", None if eliminated is None else as_tensor(eliminated).long())
        self.tiling: Tiling
        if self.eliminated is None:
            self.tiling = BoxTiling(graph, self.side)
        else:
            self.tiling = PieceTiling(graph, self.side, self.eliminated.numpy())
        self.stored = stored
        self._kept: dict[int, TileRows] = {}
        self._room = KEPT

    @classmethod
    def of(cls, tiling: Tiling, reach: int, n_channels: int, stage: str, stored: TileReader) -> TiledFactor:
        """Keep the rows of a tiling."""
        eliminated = tiling.eliminated if isinstance(tiling, PieceTiling) else None
        return cls(tiling.graph, tiling.side, reach, n_channels, stage, stored, eliminated)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_kept": {}, "_room": KEPT}

    @cached_property
    def sequence(self) -> list[int]:
        """Tiles in elimination order."""
        if isinstance(self.tiling, PieceTiling):
            return list(range(len(self.tiling)))
        return [tile for tiles in self.tiling.by_color() for tile in tiles]

    @cached_property
    def _position(self) -> Int[np.ndarray, " vertex"]:
        """Place of each vertex in the elimination order."""
        order = self.tiling.order()
        position = np.empty(len(order), dtype=np.int64)
        position[order] = np.arange(len(order))
        return position

    def rows(self, tile: int) -> TileRows:
        """Rows of the factor for a tile."""
        found = self._kept.get(tile)
        if found is None:
            outer = self.tiling.around(tile, self.reach)
            found = self._read(tile, self._position[self.tiling.vertices(outer)])
            if self._room >= found.n_bytes:
                self._room -= found.n_bytes
                self._kept[tile] = found
        return found

    def rows_alone(self, tile: int) -> TileRows:
        """Rows of the factor for a tile, where its variables stand after those earlier ones that are within reach."""
        before, own = self.around(tile)
        place = np.zeros(len(own), dtype=np.int64)
        place[before] = np.arange(before.sum())
        place[np.flatnonzero(own)[self._turn(tile)]] = before.sum() + np.arange(own.sum())
        return self._read(tile, place)

    def in_turn(self, tile: int) -> Int[np.ndarray, " vertex"]:
        """Vertices of a tile in elimination order."""
        found: np.ndarray = self.tiling.vertices(self.tiling.box(tile))[self._turn(tile)]
        return found

    def _turn(self, tile: int) -> Int[np.ndarray, " vertex"]:
        return np.argsort(self.tiling.ranks(self.tiling.box(tile)))

    def around(self, tile: int) -> tuple[Bool[np.ndarray, " vertex"], Bool[np.ndarray, " vertex"]]:
        """Which vertices of the box around a tile are of tiles before it, and which are its own."""
        box, outer = self.tiling.box(tile), self.tiling.around(tile, self.reach)
        own, ranks = self.tiling.within(box, outer), self.tiling.ranks(outer)
        before = ranks < ranks[own].min() if own.any() else own
        return before, own

    @cached_property
    def borders(self) -> Borders:
        """Vertices that later tiles read."""
        return borders_of(self)

    def _read(self, tile: int, place: Int[np.ndarray, " vertex"]) -> TileRows:
        """Rows for a tile, given the places of the vertices of the box around it."""
        box, outer = self.tiling.box(tile), self.tiling.around(tile, self.reach)
        places, inside = self._variables(place), np.repeat(self.tiling.within(box, outer), self.n_channels)
        arrays = self.stored.read(tile, self.stage)
        rows = sp.csc_array(
            sp.csr_array(
                (arrays["data"].astype(np.float64, copy=False), arrays["indices"], arrays["indptr"]),
                shape=(np.count_nonzero(inside), len(places)),
            )
        )
        own, turn = places[inside], np.flatnonzero(inside)
        if isinstance(self.tiling, PieceTiling):  # whose regions are not in the order of elimination
            in_order = np.argsort(own)
            rows, turn = sp.csc_array(rows[in_order]), turn[in_order]
        start = int(own.min()) if len(own) else 0
        used = np.flatnonzero(~inside & (np.diff(rows.indptr) > 0))
        inner = sp.csr_array(rows[:, turn])
        return TileRows(
            slice(start, start + len(own)),
            inner,
            triangle(inner) if len(own) else None,
            sp.csr_array(rows[:, used]),
            places[used],
        )

    def own_rows(self, tile: int) -> sp.csr_array:
        """Rows of F for a tile, by vertex, over the variables in the box around it, by vertex."""
        arrays = self.stored.read(tile, self.stage)
        n = self.n_channels * len(self.tiling.vertices(self.tiling.around(tile, self.reach)))
        parts = arrays["data"].astype(np.float64, copy=False), arrays["indices"], arrays["indptr"]
        return sp.csr_array(parts, shape=(len(arrays["indptr"]) - 1, n))

    def on(self, box: Box) -> RowsOnBox:
        """Rows of F that read a box, from the tiles nearby alone."""
        tiling, channel = self.tiling, np.arange(self.n_channels)
        assert isinstance(tiling, BoxTiling)
        inside = tiling.vertices(box)
        order, parts, outside, vertices, channels = np.argsort(inside), [], [], [], []
        for tile in tiling.tiles_in(tiling.grown(box, self.reach)):
            rows, read = self.own_rows(tile), tiling.vertices(tiling.around(tile, self.reach))
            own = tiling.vertices(tiling.box(tile))
            at = places_of(read, inside, order)
            column = (at[:, None] * self.n_channels + channel).reshape(-1)[rows.indices]
            within, row = column >= 0, np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
            used, row_of = np.unique(row[within], return_inverse=True)
            shape = (len(used), len(inside) * self.n_channels)
            parts.append(sp.csr_array((rows.data[within], (row_of.reshape(-1), column[within])), shape=shape))
            outside.append(np.bincount(row[~within], rows.data[~within], minlength=rows.shape[0])[used])
            vertices.append(np.repeat(own, self.n_channels)[used])
            channels.append(np.tile(channel, len(own))[used])
        joined = sp.csr_array(sp.vstack(parts))
        return RowsOnBox(joined, *(np.concatenate(each) for each in (outside, vertices, channels)))

    def _variables(self, places: Int[np.ndarray, " vertex"]) -> Int[np.ndarray, " variable"]:
        return (places[:, None] * self.n_channels + np.arange(self.n_channels)).reshape(-1)

    def diagonal(self) -> Float[np.ndarray, " variable"]:
        """Diagonal of F."""
        found = np.empty(self.n_variables)
        for rows in map(self.rows, self.sequence):
            found[rows.own] = rows.inner.diagonal()
        return found

    @property
    def n_variables(self) -> int:
        """Number of rows."""
        return self.tiling.graph.n_vertices * self.n_channels

    def times(self, x: Float[np.ndarray, "variable column"]) -> Float[np.ndarray, "variable column"]:
        """Multiply by F."""
        product = np.empty_like(x)
        for rows in map(self.rows, self.sequence):
            product[rows.own] = rows.inner @ x[rows.own] + rows.outer @ x[rows.earlier]
        return product

    def solve(
        self, z: Float[np.ndarray, "variable column"], *, transposed: bool = False
    ) -> Float[np.ndarray, "variable column"]:
        """Solve F x = z tile after tile, or F'x = z backwards."""
        if transposed:
            return self.solve_leading(z)
        x = np.empty_like(z, order="C")
        for rows in map(self.rows, self.sequence):
            x[rows.own] = rows.solve(z[rows.own].T, x[rows.earlier]).T
        return x

    def solve_leading(self, z: Float[np.ndarray, "some column"]) -> Float[np.ndarray, "more column"]:
        """Solve F'x = z with the tiles that begin before the end of z."""
        ends = np.cumsum([self.n_channels * len(self.tiling.vertices(self.tiling.box(t))) for t in self.sequence])
        last = int(np.searchsorted(ends, len(z)))
        x = np.zeros((int(ends[last]), z.shape[1]))
        x[: len(z)] = z
        for rows in map(self.rows, reversed(self.sequence[: last + 1])):
            rows.pull(x)
        return x

    def covariance(self, averages: sp.csr_array, run: Run = one_by_one) -> Float[np.ndarray, "average average"]:
        """Covariance of averages, tile by tile."""
        return covariance_of(self, averages, run)

    @cached_property
    def matrix(self) -> sp.csr_array:
        """The whole of F."""
        return self._joined(self.sequence)

    @property
    def widest_row(self) -> int:
        """Most entries of a row."""
        counts = (np.diff(rows.inner.indptr) + np.diff(rows.outer.indptr) for rows in map(self.rows, self.sequence))
        return max(int(count.max(initial=0)) for count in counts)

    def touching(self, columns: Int[np.ndarray, " some"]) -> sp.csr_array:
        """Rows of F that have an entry in some columns, from the tiles that may have one."""
        held = np.zeros(self.tiling.graph.n_vertices, dtype=bool)
        held[self.tiling.order()[np.asarray(columns) // self.n_channels]] = True
        near = [t for t in self.sequence if held[self.tiling.vertices(self.tiling.around(t, self.reach))].any()]
        return touching(self._joined(near), columns)

    def _joined(self, tiles: Sequence[int]) -> sp.csr_array:
        """Rows of some tiles, one tile below the other."""
        parts = [sp.csr_array((0, self.n_variables))]
        for rows in map(self.rows, tiles):
            inner, outer = sp.coo_array(rows.inner), sp.coo_array(rows.outer)
            row = np.concatenate([inner.coords[0], outer.coords[0]])
            column = np.concatenate([inner.coords[1] + rows.own.start, rows.earlier[outer.coords[1]]])
            data = np.concatenate([inner.data, outer.data])
            shape = (rows.inner.shape[0], self.n_variables)
            parts.append(sp.csr_array((data, (row, column)), shape=shape))
        joined = sp.csr_array(sp.vstack(parts))
        joined.sort_indices()
        return joined
