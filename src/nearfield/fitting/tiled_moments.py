"""Second moments of draws of a large field against those of the data, both read and drawn in parts.

As `nearfield.fitting.moments` compares them: the variance, means over boxes inside the tiles, means over the blocks of
the coarser graphs and their leading modes, and single vertices, of some patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from nearfield.fitting.coarse import block_means
from nearfield.fitting.moments import (
    FEWEST,
    SAMPLES,
    Moment,
    moments_of_blocks,
    moments_of_means,
    ratio_of,
    spread_of_vertices,
)
from nearfield.graph.coarsening import averages, box_step, coarsen
from nearfield.graph.tiling import BoxTiling, Tiling
from nearfield.noise import Stream
from nearfield.samples import Samples
from nearfield.score.field import GaussianField
from nearfield.tiled_samples import TiledSamples, one_by_one

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["tiled_moments"]

WIDTHS = (1, 3, 9, 27, 81)
"""Cells a side of the boxes whose means are compared, within tiles."""
TOGETHER = 8
"""Draws of a task."""


class _Summary(NamedTuple):
    """Of each sample: sums of squared means over boxes, by width; values on patches; means over blocks."""

    squares: Float[np.ndarray, "sample width"]
    patch: Float[np.ndarray, "sample vertex channel"]
    blocks: Float[np.ndarray, "sample block channel"]


def tiled_moments(
    samples: TiledSamples, field: GaussianField, patch: Samples, at: Int[np.ndarray, " vertex"], seed: int = 0
) -> tuple[Moment, ...]:
    """Compare draws with standardised samples, of which ``patch`` are the values on the vertices ``at``."""
    n = len(samples)
    if n < FEWEST:
        return ()
    tiling, coarse = samples.tiling, coarsen(samples.graph, box_step(samples.graph))
    data = sum(samples.over_tiles(_tile_squares))
    n_drawn = min(2 * n, SAMPLES)
    starts = range(0, n_drawn, TOGETHER)
    parts: Sequence[_Summary] = (samples.run or one_by_one)(
        _drawn, starts, n_drawn, field, tiling, averages(coarse.label), at, seed
    )
    drawn = _Summary(*(np.concatenate(each) for each in zip(*parts, strict=True)))
    widths = [k for k, squares in enumerate(data.T) if squares.any()]
    named = {1: "variance"}
    found = [
        ratio_of(
            named.get(WIDTHS[k], f"that of means over {WIDTHS[k]} cells a side"),
            data[:, k],
            drawn.squares[:, k],
            samples.ordered,
        )
        for k in widths
    ]
    found.append(spread_of_vertices(patch.values, drawn.patch, found[0].error, seed))
    if not isinstance(tiling, BoxTiling):
        found += moments_of_means(patch, drawn.patch)
    if coarse.graph.n_vertices > 1:
        means = block_means(coarse, samples)
        found += moments_of_blocks(means, drawn.blocks, f"{coarse.step} cells a side", seed)
    return tuple(found)


def _tile_squares(tile: int, samples: TiledSamples) -> Float[np.ndarray, "sample width"]:
    box = samples.tiling.box(tile)
    return _squares(samples.on(box).values, samples.tiling, box)


def _squares(
    values: Float[np.ndarray, "sample vertex channel"], tiling: Tiling, box: Any
) -> Float[np.ndarray, "sample width"]:
    """Sum over the boxes of each width in a tile that hold no other cells than vertices; off lattices only one wide."""
    if not isinstance(tiling, BoxTiling):
        squares: np.ndarray = (values**2).sum(axis=(1, 2))[:, None]
        return squares
    cells = np.full((len(values), box.n_cells, values.shape[2]), np.nan)
    keep = tiling.graph.keep
    cells[:, slice(None) if keep is None else keep.reshape(-1)[tiling.cells(box)]] = values
    grid, found = cells.reshape(len(values), *box.shape, values.shape[2]), np.zeros((len(values), len(WIDTHS)))
    width = 1
    for k, wanted in enumerate(WIDTHS):
        step = wanted // width
        if k and any(1 < length < step for length in grid.shape[1:-1]):
            break
        for axis in range(1, grid.ndim - 1):
            if grid.shape[axis] > 1:
                grid = _meaned(grid, axis, step)
        found[:, k] = np.nansum(grid**2, axis=tuple(range(1, grid.ndim)))
        width = wanted
    return found


def _meaned(grid: np.ndarray, axis: int, step: int) -> np.ndarray:
    """Means over so many cells along an axis; what is left over at its end is left out."""
    whole = grid.shape[axis] // step
    cut = np.take(grid, range(whole * step), axis=axis)
    means: np.ndarray = cut.reshape(*grid.shape[:axis], whole, step, *grid.shape[axis + 1 :]).mean(axis=axis + 1)
    return means


def _drawn(
    first: int,
    n_drawn: int,
    field: GaussianField,
    tiling: Tiling,
    rows: sp.csr_array,
    at: Int[np.ndarray, " vertex"],
    seed: int,
) -> _Summary:
    """Summarise some draws."""
    squares, patch, blocks = [], [], []
    for member in range(first, min(first + TOGETHER, n_drawn)):
        x = field.sample(1, seed=seed, first_member=member, stream=Stream.CHECK)
        boxes = [tiling.box(tile) for tile in range(len(tiling))]
        squares.append(sum(_squares(x[:, tiling.vertices(box)], tiling, box) for box in boxes))
        patch.append(x[:, at])
        blocks.append((rows @ x[0])[None])
    return _Summary(np.concatenate(squares), np.concatenate(patch), np.concatenate(blocks))
