"""Closed-form fit of a large field tile by tile: tasks that read a box of the samples each and keep the rows of a tile.

Four passes over the tiles: the moments of each vertex; where all vertices are pooled, the sums of the windows' moments;
the regressions; and their check. What passes between them is as large as the vertices, never as the samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from nearfield.fitting.closed_form import FieldFit, whitening_rows
from nearfield.fitting.covariance import VertexMoments, pooled_location, sample_moments
from nearfield.fitting.matern import Matern
from nearfield.fitting.pooling import REACH, Pooling, Smoother, smoother
from nearfield.fitting.regression import cap_windows, regress_windows
from nearfield.fitting.tiled_windows import EntrySums, Windows, WindowSums, average_of, supported
from nearfield.graph import Neighborhood
from nearfield.graph.tiling import Tiling
from nearfield.samples import Samples
from nearfield.score.field import GaussianField
from nearfield.score.tiled_factor import TiledFactor, TileReader, places_of
from nearfield.tiled_samples import TiledSamples, one_by_one

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["Keeper", "build_tiled", "vertex_statistics"]


class Keeper(TileReader, Protocol):
    """Keeps the arrays of tiles; `nearfield.data.tile_store.TileStore` keeps them in files."""

    def write(self, tile: int, arrays: Mapping[str, np.ndarray], stage: str) -> None:
        """Keep the arrays of a tile."""

    def done(self, stage: str) -> set[int]:
        """Return the tiles that are kept."""

    def forget(self, stage: str) -> None:
        """Remove all tiles of a stage."""

    def forget_others(self, stage: str) -> None:
        """Remove all tiles of other stages."""


def build_tiled(
    samples: TiledSamples,
    radius: int,
    pooling: Pooling,
    keeper: Keeper,
    stage: str = "field",
    law: Matern | None = None,
) -> FieldFit:
    """Fit as `nearfield.fitting.closed_form.build_field` does, in the elimination order of the tiles.

    The rows of tiles that the keeper has are not fitted again. Points in space that are pooled need the ``law`` that
    they are shrunk towards.
    """
    tiling = samples.tiling
    windows = Windows.of(tiling, radius, samples.run or one_by_one)
    tiling.require_apart(windows.reach)
    moments = vertex_statistics(samples)
    fitted = np.broadcast_to(np.logical_not(samples.standard or False), moments.mean.shape)
    location = pooling.of_location
    smooth = None if math.isinf(location.bandwidth) else TiledSmoother(tiling, location.bandwidth)
    center, scale = pooled_location(moments, samples.graph, location, fitted, smooth)
    samples = samples.standardized(center, scale)
    tiles = range(len(tiling))
    target: Matern | WindowSums | EntrySums | None = law if pooling.strength > 0.0 else None
    if pooling.strength > 0.0 and law is None and math.isinf(pooling.bandwidth):
        target = average_of(samples, windows)
    left = sorted(set(tiles) - keeper.done(stage))
    (samples.run or one_by_one)(_fit_tile, left, samples, windows, pooling, target, keeper, stage)
    factor = TiledFactor.of(tiling, windows.reach, samples.n_channels, stage, keeper)
    field = GaussianField(factor, tiling.order(), samples.n_channels, radius)
    variance, raised, widths = np.empty_like(center), 0, (0, 0)
    for tile in tiles:
        arrays = keeper.read(tile, stage)
        variance[tiling.vertices(tiling.box(tile))] = arrays["variance"]
        raised += int(arrays["raised"][0])
        widths = (max(widths[0], int(arrays["widths"][0])), max(widths[1], int(arrays["widths"][1])))
    return FieldFit(center, scale, field, variance, *widths, raised, samples.run or one_by_one)


def vertex_statistics(samples: TiledSamples) -> VertexMoments:
    """Moments of each vertex."""
    tiling = samples.tiling
    shape = samples.n_vertices, samples.n_channels
    mean, variance, rare = np.empty(shape), np.empty(shape), np.empty(shape, dtype=bool)
    count = None if samples.n_observed is None else np.maximum(samples.n_observed, 1)
    for tile, found in enumerate(samples.over_tiles(_vertex_moments, kept="moments")):
        own = tiling.vertices(tiling.box(tile))
        mean[own], variance[own], rare[own] = found.mean, found.variance, found.rare
    return VertexMoments(mean, variance, rare, len(samples) if count is None else count)


def _vertex_moments(tile: int, samples: TiledSamples) -> VertexMoments:
    return sample_moments(samples.on(samples.tiling.box(tile)))


class TiledSmoother:
    """Average over the vertices nearby, tile by tile."""

    def __init__(self, tiling: Tiling, bandwidth: float) -> None:
        self._tiling, self._bandwidth = tiling, bandwidth

    def __call__(self, values: Float[np.ndarray, "vertex value"]) -> Float[np.ndarray, "vertex value"]:
        """Replace the values of each vertex by the average."""
        average, tiling = np.empty_like(values), self._tiling
        for tile in range(len(tiling)):
            outer = tiling.around(tile, smoothing_reach(self._bandwidth))
            own = tiling.within(tiling.box(tile), outer)
            vertices = tiling.vertices(outer)
            average[vertices[own]] = smoother(tiling.graph_of(outer), self._bandwidth)(values[vertices])[own]
        return average


def smoothing_reach(bandwidth: float) -> int:
    """Cells at which an average over vertices nearby reads."""
    return 0 if math.isinf(bandwidth) else max(1, math.ceil(REACH * bandwidth))


def _contributors(
    part: Samples, target: Matern | WindowSums | EntrySums | None, pooling: Pooling, table: Neighborhood
) -> Int[np.ndarray, " row"]:
    """Count the vertices that windows are averaged over; a vertex on its own counts twice."""
    if isinstance(target, EntrySums):
        return target.contributors(table)
    if pooling.strength > 0.0:
        return smoother(part.graph, pooling.bandwidth, table).n_contributors
    return np.full(len(table.index), 2)


def _fit_tile(
    tile: int,
    samples: TiledSamples,
    windows: Windows,
    pooling: Pooling,
    target: Matern | WindowSums | EntrySums | None,
    keeper: Keeper,
    stage: str,
) -> None:
    """Regress the vertices of a tile on their windows, and keep their rows of the factor."""
    tiling, channels = samples.tiling, samples.n_channels
    if not len(tiling.vertices(tiling.box(tile))):
        keeper.write(tile, _no_rows(channels), stage)
        return
    nearby = pooling.strength > 0.0 and target is None
    outer = tiling.around(tile, windows.reach + (smoothing_reach(pooling.bandwidth) if nearby else 0))
    part = samples.on(outer)
    own, wanted = np.flatnonzero(tiling.within(tiling.box(tile), outer)), windows.table(part.graph, tiling, outer)
    table = cap_windows(wanted, len(samples), channels, pooling)
    widths = [each.present[own].sum(axis=1).max(initial=0) for each in (wanted, table)]
    if not nearby:  # the windows of the tile are all that is needed
        table = table.of(own)
    law = target if isinstance(target, Matern) else None
    smooth: Smoother | None = None
    if tiling.graph.lattice is None and law is None:
        table = supported(table, partial(_contributors, part, target, pooling), len(samples), channels)
    if isinstance(target, EntrySums | WindowSums):
        smooth = target.average(table, channels)
    fit = regress_windows(part, table, pooling, law, smooth)
    rows = own if nearby else slice(None)
    regression = fit.regression._replace(coefficient=fit.regression.coefficient[rows], root=fit.regression.root[rows])
    kept, near = table.present[rows], tiling.vertices(tiling.around(tile, windows.reach))
    number = np.maximum(places_of(tiling.vertices(outer), near, np.argsort(near)), 0)  # beyond them none is read
    factor = whitening_rows(regression, kept, np.arange(len(own)), number[table.index[rows]], len(near))
    arrays = {
        "data": factor.data,
        "indices": factor.indices.astype(np.int32),
        "indptr": factor.indptr.astype(np.int64),
        "variance": fit.variance[rows],
        "raised": np.array([np.count_nonzero(fit.raised[rows])]),
        "widths": np.array(widths),
    }
    keeper.write(tile, arrays, stage)


def _no_rows(channels: int) -> dict[str, np.ndarray]:
    """Return what is kept of a tile without vertices."""
    return {
        "data": np.empty(0),
        "indices": np.empty(0, np.int32),
        "indptr": np.zeros(1, np.int64),
        "variance": np.empty((0, channels)),
        "raised": np.zeros(1, int),
        "widths": np.zeros(2, int),
    }
