"""Closed-form fit of a large field tile by tile: tasks that read a box of the samples each and keep the rows of a tile.

Four passes over the tiles: the moments of each vertex; where all vertices are pooled, the sums of the windows' moments;
the regressions; and their check. What passes between them is as large as the vertices, never as the samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from nearfield.fitting.closed_form import FieldFit, whitening_rows
from nearfield.fitting.covariance import (
    VertexMoments,
    pooled_location,
    sample_moments,
    second_moments,
)
from nearfield.fitting.elimination import predecessors
from nearfield.fitting.pooling import REACH, GlobalAverage, Pooling, Smoother, distinct_rows, smoother
from nearfield.fitting.regression import PART, cap_windows, regress_windows
from nearfield.graph import Neighborhood
from nearfield.graph.tiling import Box, Tiling
from nearfield.samples import Samples
from nearfield.score.field import GaussianField
from nearfield.score.tiled_factor import TiledFactor, TileReader, places_of
from nearfield.tiled_samples import TiledSamples, one_by_one

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

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


def build_tiled(samples: TiledSamples, radius: int, pooling: Pooling, keeper: Keeper, stage: str = "field") -> FieldFit:
    """Fit as `nearfield.fitting.closed_form.build_field` does, in the elimination order of the tiles.

    The rows of tiles that the keeper has are not fitted again.
    """
    tiling, reach = samples.tiling, radius
    require_wide(tiling, reach)
    moments = vertex_statistics(samples)
    fitted = np.broadcast_to(np.logical_not(samples.standard or False), moments.mean.shape)
    location = pooling.of_location
    smooth = None if math.isinf(location.bandwidth) else TiledSmoother(tiling, location.bandwidth)
    center, scale = pooled_location(moments, samples.graph, location, fitted, smooth)
    samples = samples.standardized(center, scale)
    tiles = range(len(tiling))
    shared = None
    if pooling.strength > 0.0 and math.isinf(pooling.bandwidth):
        shared = WindowSums.joined(samples.over_tiles(_window_sums, radius))
    left = sorted(set(tiles) - keeper.done(stage))
    (samples.run or one_by_one)(_fit_tile, left, samples, radius, pooling, shared, keeper, stage)
    factor = TiledFactor(tiling.graph, tiling.side, reach, samples.n_channels, stage, keeper)
    field = GaussianField(factor, tiling.order(), samples.n_channels, radius)
    variance, raised, widths = np.empty_like(center), 0, (0, 0)
    for tile in tiles:
        arrays = keeper.read(tile, stage)
        variance[tiling.vertices(tiling.box(tile))] = arrays["variance"]
        raised += int(arrays["raised"][0])
        widths = (max(widths[0], int(arrays["widths"][0])), max(widths[1], int(arrays["widths"][1])))
    return FieldFit(center, scale, field, variance, *widths, raised, samples.run or one_by_one)


def require_wide(tiling: Tiling, reach: int) -> None:
    """Refuse tiles so narrow that those of one colour would read each other."""
    narrow = [
        side
        for side, count, length in zip(tiling.side, tiling.counts, tiling.lattice.shape, strict=True)
        if count > 1 and min(side, length - (count - 1) * side) <= reach
    ]
    if narrow:
        raise ValueError(f"tiles must be wider than {reach} cells, which their windows reach, got {tiling.side}")


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


class WindowSums(NamedTuple):
    """Sums of the second moments of windows over the vertices whose windows hold the same entries of the lattice's.

    ``present`` (kind, entry) are the entries, ``vertices`` (kind,) how many they are, ``total`` (kind, entry, entry)
    the sums.
    """

    present: Bool[np.ndarray, "kind width"]
    vertices: Float[np.ndarray, " kind"]
    total: Float[np.ndarray, "kind entry entry"]

    @classmethod
    def joined(cls, parts: Sequence[WindowSums]) -> WindowSums:
        """Add sums over parts of a graph, in their order."""
        present = np.concatenate([part.present for part in parts])
        kinds, kind = distinct_rows(present)
        count, total = np.zeros(len(kinds)), np.zeros((len(kinds), *parts[0].total.shape[1:]))
        np.add.at(count, kind, np.concatenate([part.vertices for part in parts]))
        start = 0
        for part in parts:
            for own, k in enumerate(kind[start : start + len(part.present)]):
                total[k] += part.total[own]
            start += len(part.present)
        return cls(kinds, count, total)

    def average(self, table: Neighborhood, columns: np.ndarray, channels: int) -> _KnownAverage:
        """Mean moments for each set of entries in a table, whose columns are some of the lattice's."""
        target, target_of = distinct_rows(table.present)
        entries = (columns[:, None] * channels + np.arange(channels)).reshape(-1)
        total = self.total[:, entries[:, None], entries]
        inside = (target.astype(np.float32) @ (~self.present[:, columns]).astype(np.float32).T) == 0
        mean = np.tensordot(inside.astype(np.float64), total, axes=1) / (inside @ self.vertices)[:, None, None]
        return _KnownAverage(target, target_of, mean, None, inside @ self.vertices)  # type: ignore[arg-type]


class _KnownAverage(GlobalAverage):
    """Average over all vertices of a graph of which few are at hand: known already, in place of the sums."""

    def mean(self, parts: Sequence[slice], values: Callable[[slice], np.ndarray]) -> np.ndarray:  # noqa: ARG002
        """Return the average for each target."""
        return self.total  # type: ignore[return-value]


def _window_sums(tile: int, samples: TiledSamples, radius: int) -> WindowSums:
    """Sum the moments of the windows of a tile, earlier and later entries alike."""
    tiling = samples.tiling
    outer = tiling.around(tile, radius)
    part, own = samples.on(outer), np.flatnonzero(tiling.within(tiling.box(tile), outer))
    table = _whole_windows(part, tiling, radius)
    size = table.index.shape[1] * part.n_channels
    kinds, kind = distinct_rows(table.present[own])
    total = np.zeros((len(kinds), size, size))
    for k in range(len(kinds)):
        rows = own[kind == k]
        step = max(1, PART // size**2)
        for start in range(0, len(rows), step):
            total[k] += second_moments(part, table.index[rows[start : start + step]]).sum(axis=0)
    return WindowSums(kinds, np.bincount(kind, minlength=len(kinds)).astype(float), total)


def _whole_windows(part: Samples, tiling: Tiling, radius: int) -> Neighborhood:
    """Windows within a box, whose columns are those of the whole lattice."""
    table, offsets = part.graph.neighborhood(radius), tiling.lattice.stencil(radius)[0]
    if table.offsets is None or not np.array_equal(table.offsets, offsets):
        raise ValueError(f"tiles must be longer than the windows of radius {radius}, got {tiling.side}")
    return table


@dataclass(frozen=True)
class _Windows:
    """Windows of the rows of a tile in the box around it, among earlier vertices; ``own`` are these rows."""

    box: Box
    own: np.ndarray
    table: Neighborhood
    columns: np.ndarray


def _windows(part: Samples, tiling: Tiling, tile: int, outer: Box, radius: int) -> _Windows:
    own = np.flatnonzero(tiling.within(tiling.box(tile), outer))
    table = predecessors(part.graph, radius, np.argsort(tiling.ranks(outer)))
    whole = _whole_windows(part, tiling, radius)
    assert table.offsets is not None
    assert whole.offsets is not None
    columns = np.flatnonzero((whole.offsets[:, None] == table.offsets[None]).all(axis=2).any(axis=1))
    return _Windows(outer, own, table, columns)


def _fit_tile(
    tile: int,
    samples: TiledSamples,
    radius: int,
    pooling: Pooling,
    shared: WindowSums | None,
    keeper: Keeper,
    stage: str,
) -> None:
    """Regress the vertices of a tile on their windows, and keep their rows of the factor."""
    tiling, channels = samples.tiling, samples.n_channels
    nearby = pooling.strength > 0.0 and shared is None
    outer = tiling.around(tile, radius + (smoothing_reach(pooling.bandwidth) if nearby else 0))
    part = samples.on(outer)
    found = _windows(part, tiling, tile, outer, radius)
    wanted, own = found.table, found.own
    table = cap_windows(wanted, len(samples), channels, pooling)
    smooth: Smoother | None = None
    if not nearby:  # the windows of the tile are all that is needed
        table = _some(table, own)
    if shared is not None:
        smooth = shared.average(table, found.columns, channels)
    fit = regress_windows(part, table, pooling, None, smooth)
    rows = own if nearby else slice(None)
    regression = fit.regression._replace(coefficient=fit.regression.coefficient[rows], root=fit.regression.root[rows])
    kept, near = table.present[rows], tiling.vertices(tiling.around(tile, radius))
    number = np.maximum(places_of(tiling.vertices(outer), near, np.argsort(near)), 0)  # beyond them none is read
    factor = whitening_rows(regression, kept, np.arange(len(own)), number[table.index[rows]], len(near))
    arrays = {
        "data": factor.data,
        "indices": factor.indices.astype(np.int32),
        "indptr": factor.indptr.astype(np.int64),
        "variance": fit.variance[rows],
        "raised": np.array([np.count_nonzero(fit.raised[rows])]),
        "widths": np.array([wanted.present[own].sum(axis=1).max(initial=0), kept.sum(axis=1).max(initial=0)]),
    }
    keeper.write(tile, arrays, stage)


def _some(table: Neighborhood, rows: np.ndarray) -> Neighborhood:
    offsets = None if table.offsets is None else table.offsets.copy()
    return Neighborhood(table.index[rows], table.present[rows], table.hops[rows], offsets)
