r"""Draws and covariances of a large field, each tile a task of its own.

Tiles of one colour do not read each other, so that a sweep over the field takes as many rounds as there are colours. A
task reads the rows of its tile, and takes and returns the values at borders, the vertices that later tiles read: with
128 x 128 cells read within 4 a sixteenth of all. Neither a task nor what it is sent grows with the field.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from nearfield.noise import Stream, normals_at
from nearfield.tiled_samples import Run, one_by_one

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from nearfield.score.tiled_factor import TiledFactor

__all__ = ["Borders", "Take", "batches", "borders_of", "covariance_of", "draw_tiles"]

MOST, FEWEST = 128, 16
"""Members that are drawn together at most, and however large the field is."""
SENT, HELD = 1 << 19, 1 << 24
"""Numbers that a task is sent (4 MiB), and that are kept between tasks (128 MiB), unless those members have more."""

LEAST = 1e-10
"""Share of the weights of an average below which it is not followed any further."""

Take = Callable[[int, np.ndarray], Any]
"""Takes a tile of some draws, its number and the values (member, vertex, channel), on the worker that has drawn it."""


def batches(n_draws: int, factor: TiledFactor) -> list[range]:
    """Divide draws of a field into such as are drawn together."""
    borders, channels = factor.borders, factor.n_channels
    sent, held = max(1, *map(len, borders.before)) * channels, max(1, borders.n_vertices) * channels
    each = min(MOST, max(FEWEST, min(SENT // sent, HELD // held) // FEWEST * FEWEST))
    return [range(first, min(first + each, n_draws)) for first in range(0, n_draws, each)]


def draw_tiles(
    factor: TiledFactor, members: Sequence[int], take: Take, *, seed: int, stream: Stream, run: Run = one_by_one
) -> list[Any]:
    """Draw members of a field tile by tile, to the bits of `GaussianField.sample`.

    All members are drawn together, so that rows are read once; a task holds some five vectors of a tile for each.

    Parameters
    ----------
    factor : TiledFactor
        Of a field without correction of its block means.
    members : sequence of int
        Numbers of the members, as many as `batches` gives, or fewer.
    take : callable
        ``take(tile, values)``, called where the tile is drawn, with its values (member, vertex, channel), standardised.
        It must be importable, and may change them.
    seed : int
        In [0, 2**64).
    stream : Stream
        That of `GaussianField.sample` is ``Stream.EXACT``.
    run : callable
        Runs tasks, as `nearfield.tasks.run`; by default here, one after the other.

    Returns
    -------
    list
        What ``take`` returned for each tile.
    """
    borders = factor.borders
    x = np.empty((borders.n_vertices, factor.n_channels, len(members)))
    found: list[Any] = [None] * len(factor.tiling)
    for tiles in factor.tiling.by_color():
        items = [(tile, borders.own[tile], x[borders.before[tile]]) for tile in tiles]
        drawn = run(_draw_tile, items, factor, take, members, seed, stream)
        for tile, (taken, values) in zip(tiles, drawn, strict=True):
            found[tile], x[borders.number[tile]] = taken, values
    return found


def _draw_tile(
    item: tuple[int, np.ndarray, np.ndarray],
    factor: TiledFactor,
    take: Take,
    members: Sequence[int],
    seed: int,
    stream: Stream,
) -> tuple[Any, Float[np.ndarray, "border channel member"]]:
    """Solve F_TT x_T = z_T - F_TE x_E for a tile, given the borders before it."""
    tile, border, before = item
    vertices, n_channels = factor.in_turn(tile), factor.n_channels
    own = np.empty((len(members), len(vertices), n_channels))
    if len(vertices):
        z = normals_at(seed, stream, members, 0, vertices, n_channels).reshape(len(members), -1)
        rows = factor.rows_alone(tile)
        own = rows.solve(z, before.reshape(-1, len(members))[rows.earlier]).reshape(own.shape)
    read = np.moveaxis(own[:, border], 0, -1)  # the worker may change what it takes
    return take(tile, np.take(own, np.argsort(vertices), axis=1)), np.ascontiguousarray(read)


def covariance_of(
    factor: TiledFactor, averages: sp.csr_array, run: Run = one_by_one
) -> Float[np.ndarray, "variable variable"]:
    """Covariance A P_0^{-1} A' of averages, as the sum of B_T B_T' over the tiles, B = A F^{-1} solved backwards.

    An average is followed to the tiles where it still counts for more than `LEAST` of its largest weight.
    """
    borders, columns, n_averages = factor.borders, sp.csc_array(averages), averages.shape[0]
    least = LEAST * abs(columns).max(axis=1).toarray().reshape(-1)
    pulled = np.zeros((borders.n_vertices, factor.n_channels, n_averages))
    covariance = np.zeros((n_averages, n_averages))
    for tiles in reversed(list(factor.tiling.by_color())):
        items = []
        for tile in reversed(tiles):
            border = pulled[borders.number[tile]]
            reached = np.flatnonzero(np.abs(border).max(axis=(0, 1), initial=0.0) > least)
            items.append((tile, columns[:, borders.place[tile]], borders.own[tile], reached, border[:, :, reached]))
        for item, (used, product, pull) in zip(items, run(_pull_tile, items, factor), strict=True):
            covariance[np.ix_(used, used)] += product
            pulled[borders.before[item[0]][:, None], :, used] += np.moveaxis(pull, -1, 1)
    return covariance


def _pull_tile(
    item: tuple[int, sp.csc_array, np.ndarray, np.ndarray, np.ndarray], factor: TiledFactor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Averages that reach a tile, the products of the columns B_T, and what the solution takes from earlier tiles."""
    tile, averages, border, reached, pulled = item
    right = averages.T.toarray()
    by_vertex = right.reshape(-1, factor.n_channels, right.shape[1])
    by_vertex[border[:, None], :, reached] += np.moveaxis(pulled, -1, 1)
    used = np.flatnonzero(right.any(axis=0))
    rows = factor.rows_alone(tile)
    x = np.zeros((rows.own.stop, len(used)))
    x[rows.own] = right[:, used]
    if len(used):
        rows.pull(x)
    half = x[rows.own]
    taken = x[: rows.own.start].reshape(rows.own.start // factor.n_channels, factor.n_channels, len(used))
    return used, half.T @ half, taken


class Borders(NamedTuple):
    """Vertices that later tiles read, numbered.

    Of each tile: the numbers of those ``before`` it that it reads, which of its ``own`` vertices, in elimination order,
    have a number, this ``number``, and the ``place`` of its variables in that order.
    """

    n_vertices: int
    before: list[Int[np.ndarray, " other"]]
    own: list[Int[np.ndarray, " border"]]
    number: list[Int[np.ndarray, " border"]]
    place: list[slice]


def borders_of(factor: TiledFactor) -> Borders:
    """Find the vertices that later tiles read."""
    tiling, number = factor.tiling, np.full(factor.tiling.graph.n_vertices, -1, dtype=np.int64)
    before, place = [], [slice(0)] * len(tiling)
    for tile in range(len(tiling)):
        before.append(tiling.vertices(tiling.around(tile, factor.reach))[factor.around(tile)[0]])
        number[before[-1]] = 0
    border = np.flatnonzero(number == 0)
    number[border] = np.arange(len(border))
    of_tile = [number[factor.in_turn(tile)] for tile in range(len(tiling))]
    start = 0
    for tile in factor.sequence:
        place[tile] = slice(start, start + len(of_tile[tile]) * factor.n_channels)
        start = place[tile].stop
    own = [np.flatnonzero(found >= 0) for found in of_tile]
    numbers = [found[kept] for found, kept in zip(of_tile, own, strict=True)]
    return Borders(len(border), [number[vertices] for vertices in before], own, numbers, place)
