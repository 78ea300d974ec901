"""Second moments of draws of a large field against those of the data, both read and drawn in parts.

As `nearfield.fitting.moments` compares them: the variance, means over boxes inside the tiles, means over the blocks of
the coarser graphs and their leading modes, and single vertices, of some patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nearfield.fitting.coarse import block_means, block_sums, means_of_sums
from nearfield.fitting.moments import (
    FEWEST,
    SAMPLES,
    Moment,
    moments_of_blocks,
    moments_of_means,
    ratio_of,
    spread_of_vertices,
)
from nearfield.graph.coarsening import IN_TILES, box_step, coarsen
from nearfield.graph.tiling import BoxTiling, Tiling
from nearfield.noise import Stream
from nearfield.samples import Samples
from nearfield.score.field import GaussianField
from nearfield.score.tile_sweep import batches, draw_tiles
from nearfield.score.tiled_factor import TiledFactor
from nearfield.tiled_samples import Run, TiledSamples, one_by_one

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["tiled_moments"]

WIDTHS = (1, 3, 9, 27, 81)
"""Cells a side of the boxes whose means are compared, within tiles."""
TOGETHER = 8
"""Whole draws of a task."""


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
    coarse = coarsen(samples.graph, box_step(samples.graph, IN_TILES))
    data = sum(samples.over_tiles(_tile_squares, kept="squares"))
    drawn = _summary(field, min(2 * n, SAMPLES), _Taken(samples.tiling, coarse.label, at), seed, samples.run)
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
    if not isinstance(samples.tiling, BoxTiling):
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


@dataclass(frozen=True)
class _Taken:
    """What is kept of a tile of some draws: parts of a summary; ``at`` are the vertices of the patches, in order."""

    tiling: Tiling
    label: Int[np.ndarray, " vertex"]
    at: Int[np.ndarray, " some"]

    def __call__(
        self, tile: int, drawn: Float[np.ndarray, "draw vertex channel"]
    ) -> tuple[np.ndarray, np.ndarray, Any]:
        box = self.tiling.box(tile)
        vertices = self.tiling.vertices(box)
        patch = drawn[:, np.isin(vertices, self.at)]
        return _squares(drawn, self.tiling, box), patch, block_sums(drawn, self.label[vertices])

    def joined(self, parts: Sequence[tuple[np.ndarray, np.ndarray, Any]]) -> _Summary:
        """Summary of the whole field from the parts of all tiles."""
        squares, patches, sums = zip(*parts, strict=True)
        vertices = np.concatenate([self.tiling.vertices(self.tiling.box(tile)) for tile in range(len(self.tiling))])
        patch = np.concatenate(patches, axis=1)[:, np.argsort(vertices[np.isin(vertices, self.at)])]
        return _Summary(sum(squares), patch, means_of_sums(sums, self.label))


def _summary(field: GaussianField, n_draws: int, taken: _Taken, seed: int, run: Run | None) -> _Summary:
    """Summarise draws of a field: tile by tile, or whole where it is corrected."""
    run, parts = run or one_by_one, list[_Summary]()
    if field.coarse is None and isinstance(field.factor, TiledFactor):
        for members in batches(n_draws, field.factor):
            tiles = draw_tiles(field.factor, members, taken, seed=seed, stream=Stream.CHECK, run=run)
            parts.append(taken.joined(tiles))
    else:
        parts = run(_drawn_whole, range(0, n_draws, TOGETHER), n_draws, field, taken, seed)
    return _Summary(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _drawn_whole(first: int, n_draws: int, field: GaussianField, taken: _Taken, seed: int) -> _Summary:
    """Summarise some draws, one at a time."""
    found = []
    for member in range(first, min(first + TOGETHER, n_draws)):
        x = field.sample(1, seed=seed, first_member=member, stream=Stream.CHECK)
        boxes = map(taken.tiling.box, range(len(taken.tiling)))
        found.append(taken.joined([taken(tile, x[:, taken.tiling.vertices(box)]) for tile, box in enumerate(boxes)]))
    return _Summary(*(np.concatenate(each) for each in zip(*found, strict=True)))
