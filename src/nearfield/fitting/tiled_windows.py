"""Windows of earlier vertices in parts of a graph, and the average of their moments over all vertices, tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
import scipy.sparse as sp

from nearfield.fitting.covariance import second_moments
from nearfield.fitting.elimination import predecessors, recurrent
from nearfield.fitting.pooling import GlobalAverage, distinct_rows
from nearfield.fitting.regression import PART
from nearfield.graph import DependencyGraph, Neighborhood
from nearfield.graph.neighborhood import ABSENT, ball_sizes
from nearfield.graph.order import scattered
from nearfield.graph.tiling import BoxTiling, Tiling
from nearfield.samples import Samples
from nearfield.tiled_samples import Run, TiledSamples

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

__all__ = ["EntrySums", "WindowSums", "Windows", "average_of", "supported"]

NUMBERS = 1 << 27
"""Numbers in the sums of different windows at most (1 GiB)."""
SUPPORT = 4
"""Samples of vertices averaged over for each value of a window, at least."""
FARTHER = 2
"""Points in space are conditioned on the nearest earlier ones within so many times the radius around their tile."""


@final
@dataclass(frozen=True)
class Windows:
    """Windows of earlier vertices within some hops, found in parts of a graph as in the whole.

    Parameters
    ----------
    radius : int
    reach : int
        Hops around a tile within which its windows lie.
    count : int, optional
        Earlier points in a window, for points in space.
    recur : bool
        Whether entries are told apart by the difference of vertex numbers.
    """

    radius: int
    reach: int
    count: int | None = None
    recur: bool = False

    @classmethod
    def of(cls, tiling: Tiling, radius: int, run: Run) -> Windows:
        """Find the settings for a graph."""
        graph = tiling.graph
        if scattered(graph):
            sizes = run(_ball_sizes, range(len(tiling)), tiling, radius)
            return cls(radius, FARTHER * radius, round(sum(sizes) / graph.n_vertices) - 1)
        return cls(radius, radius, None, graph.lattice is None and recurrent(graph))

    def table(self, graph: DependencyGraph, tiling: Tiling, outer: Any) -> Neighborhood:
        """Windows of the vertices in a region, whose graph that is."""
        numbers = tiling.vertices(outer) if self.recur else None
        return predecessors(graph, self.radius, np.argsort(tiling.ranks(outer)), self.count, numbers)


def _ball_sizes(tile: int, tiling: Tiling, radius: int) -> int:
    """Vertices within some hops of those of a tile, summed over these."""
    outer = tiling.around(tile, radius)
    return int(ball_sizes(tiling.graph_of(outer).adjacency, radius)[tiling.within(tiling.box(tile), outer)].sum())


def average_of(samples: TiledSamples, windows: Windows) -> WindowSums | EntrySums:
    """Sum the second moments of windows over all tiles."""
    kind = WindowSums if isinstance(samples.tiling, BoxTiling) else EntrySums
    return kind.joined(samples.over_tiles(_window_sums, windows))


def _window_sums(tile: int, samples: TiledSamples, windows: Windows) -> WindowSums | EntrySums:
    kind = WindowSums if isinstance(samples.tiling, BoxTiling) else EntrySums
    return kind.of_tile(tile, samples, windows)


class WindowSums(NamedTuple):
    """Sums of the second moments of windows over the vertices whose windows hold the same entries of the lattice's.

    ``offsets`` (entry, axis) are those of the lattice, ``present`` (kind, entry) are the entries, ``vertices`` (kind,)
    how many they are, ``total`` (kind, entry, entry) the sums.
    """

    offsets: Int[np.ndarray, "entry axis"]
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
        return cls(parts[0].offsets, kinds, count, total)

    @classmethod
    def of_tile(cls, tile: int, samples: TiledSamples, windows: Windows) -> WindowSums:
        """Sum the moments of the windows of a tile, earlier and later entries alike."""
        tiling = samples.tiling
        assert isinstance(tiling, BoxTiling)
        outer = tiling.around(tile, windows.radius)
        part, own = samples.on(outer), np.flatnonzero(tiling.within(tiling.box(tile), outer))
        table = _whole_windows(part, tiling, windows.radius)
        size = table.index.shape[1] * part.n_channels
        kinds, kind = distinct_rows(table.present[own])
        total = np.zeros((len(kinds), size, size))
        for k in range(len(kinds)):
            total[k] = _sum(part, table.index[own[kind == k]])
        assert table.offsets is not None
        return cls(table.offsets, kinds, np.bincount(kind, minlength=len(kinds)).astype(float), total)

    def average(self, table: Neighborhood, channels: int) -> GlobalAverage:
        """Mean moments for each set of entries in a table of earlier vertices in a part."""
        assert table.offsets is not None
        columns = np.flatnonzero((self.offsets[:, None] == table.offsets[None]).all(axis=2).any(axis=1))
        target, target_of = distinct_rows(table.present)
        entries = (columns[:, None] * channels + np.arange(channels)).reshape(-1)
        total = self.total[:, entries[:, None], entries]
        inside = (target.astype(np.float32) @ (~self.present[:, columns]).astype(np.float32).T) == 0
        mean = np.tensordot(inside.astype(np.float64), total, axes=1) / (inside @ self.vertices)[:, None, None]
        return _KnownAverage(target, target_of, mean, None, inside @ self.vertices)  # type: ignore[arg-type]


class EntrySums(NamedTuple):
    """Sums of the second moments of windows off lattices over the vertices whose windows hold the same entries.

    ``entry`` (kind, width) names them in increasing order, then `ABSENT`: by the difference of vertex numbers where
    windows recur, else by rank. ``vertices`` (kind,) counts the vertices, ``total`` (kind, ...) has the sums.
    """

    entry: Int[np.ndarray, "kind width"]
    vertices: Int[np.ndarray, " kind"]
    total: Float[np.ndarray, "kind entry entry"]

    @classmethod
    def of_tile(cls, tile: int, samples: TiledSamples, windows: Windows) -> EntrySums:
        """Sum the moments of the windows of a tile."""
        tiling, channels = samples.tiling, samples.n_channels
        outer = tiling.around(tile, windows.reach)
        part = samples.on(outer)
        table = windows.table(part.graph, tiling, outer).of(np.flatnonzero(tiling.within(tiling.box(tile), outer)))
        entry = _entries(table)
        inward = np.argsort(entry, axis=1, kind="stable")
        index, entry = np.take_along_axis(table.index, inward, axis=1), np.take_along_axis(entry, inward, axis=1)
        kinds, kind = distinct_rows(entry)
        total = np.zeros((len(kinds), entry.shape[1] * channels, entry.shape[1] * channels))
        for k, width in enumerate((kinds < ABSENT).sum(axis=1).tolist()):
            total[k, : width * channels, : width * channels] = _sum(part, index[kind == k, :width])
        return cls(kinds, np.bincount(kind, minlength=len(kinds)), total)

    @classmethod
    def joined(cls, parts: Sequence[EntrySums]) -> EntrySums:
        """Add sums over parts of a graph, in their order."""
        width = max(part.entry.shape[1] for part in parts)
        padded = [np.pad(p.entry, [(0, 0), (0, width - p.entry.shape[1])], constant_values=ABSENT) for p in parts]
        kinds, kind = distinct_rows(np.concatenate(padded))
        size = max(part.total.shape[1] for part in parts)
        if len(kinds) * size**2 > NUMBERS:
            raise ValueError(
                f"pooling over all vertices needs windows that recur, got {len(kinds)} different ones of up to {size} "
                "values; use pooling=0, or a bandwidth"
            )
        count, total = np.zeros(len(kinds), dtype=np.int64), np.zeros((len(kinds), size, size))
        np.add.at(count, kind, np.concatenate([part.vertices for part in parts]))
        start = 0
        for part in parts:
            own = part.total.shape[1]
            np.add.at(total[:, :own, :own], kind[start : start + len(part.entry)], part.total)
            start += len(part.entry)
        return cls(kinds, count, total)

    def average(self, table: Neighborhood, channels: int) -> GlobalAverage:
        """Mean moments for each set of entries in a table of earlier vertices in a part."""
        target, target_of = distinct_rows(_entries(table))
        inside = self._inside(target)
        size = target.shape[1] * channels
        mean = np.zeros((len(target), size, size))
        for k, source in zip(*np.nonzero(inside), strict=True):
            used = np.flatnonzero(target[k] < ABSENT)
            place = np.searchsorted(self.entry[source], target[k, used])
            own, other = ((at[:, None] * channels + np.arange(channels)).reshape(-1) for at in (used, place))
            mean[k][np.ix_(own, own)] += self.total[source][np.ix_(other, other)]
        contributors = inside.astype(np.int64) @ self.vertices
        mean /= contributors[:, None, None]
        return _KnownAverage(target < ABSENT, target_of, mean, None, contributors)  # type: ignore[arg-type]

    def contributors(self, table: Neighborhood) -> Int[np.ndarray, " row"]:
        """Count the vertices whose windows hold all entries of one in a table."""
        target, target_of = distinct_rows(_entries(table))
        found: np.ndarray = (self._inside(target).astype(np.int64) @ self.vertices)[target_of]
        return found

    def _inside(self, target: Int[np.ndarray, "target width"]) -> Bool[np.ndarray, "target kind"]:
        """Whether all entries of a window are entries of those of a kind."""
        names, of = np.unique(np.concatenate([target.ravel(), self.entry.ravel()]), return_inverse=True)
        of, holds = of.reshape(-1), []
        for rows, name in ((target, of[: target.size]), (self.entry, of[target.size :])):
            used = rows.ravel() < ABSENT
            at = np.repeat(np.arange(len(rows)), rows.shape[1])[used]
            holds.append(sp.csr_array((np.ones(len(at)), (at, name[used])), shape=(len(rows), len(names))))
        width, step = (target < ABSENT).sum(axis=1), max(1, PART // len(self.entry))
        parts = [slice(start, start + step) for start in range(0, len(target), step)]
        return np.concatenate([(holds[0][rows] @ holds[1].T).toarray() == width[rows, None] for rows in parts])


def supported(
    table: Neighborhood,
    contributors: Callable[[Neighborhood], Int[np.ndarray, " row"]],
    n_samples: int,
    n_channels: int,
) -> Neighborhood:
    """Keep only the nearest entries of windows off lattices that hold more than the vertices averaged over support.

    Where a tile ends, windows hold neighbours on all sides, as few others do. A block of k entries with c channels is
    averaged over the N samples of m vertices, which are alike: k c is at most ``m N / SUPPORT``, and half of N where a
    vertex is on its own.
    """
    hops = np.where(table.present, table.hops, np.iinfo(np.int16).max)
    rank = np.argsort(np.argsort(hops, axis=1, kind="stable"), axis=1, kind="stable")
    while True:
        width = table.present.sum(axis=1)
        short = (width > 1) & (SUPPORT * width * n_channels > contributors(table) * n_samples)
        if not short.any():
            return table
        kept = rank < np.where(short, width * 3 // 4, width)[:, None]
        columns = (table.present & kept).any(axis=0)
        table, rank = table.only(kept), rank[:, columns]


def _entries(table: Neighborhood) -> Int[np.ndarray, "row width"]:
    """Names of the entries of windows: shift or rank; `ABSENT` for those that are not there."""
    if table.shift is not None:
        return table.shift
    return np.where(table.present, np.arange(table.present.shape[1]), ABSENT)


class _KnownAverage(GlobalAverage):
    """Average over all vertices of a graph of which few are at hand: known already, in place of the sums."""

    def mean(self, parts: Sequence[slice], values: Callable[[slice], np.ndarray]) -> np.ndarray:  # noqa: ARG002
        """Return the average for each target."""
        return self.total  # type: ignore[return-value]


def _whole_windows(part: Samples, tiling: BoxTiling, radius: int) -> Neighborhood:
    """Windows within a box, whose columns are those of the whole lattice."""
    table, offsets = part.graph.neighborhood(radius), tiling.lattice.stencil(radius)[0]
    if table.offsets is None or not np.array_equal(table.offsets, offsets):
        raise ValueError(f"tiles must be longer than the windows of radius {radius}, got {tiling.side}")
    return table


def _sum(part: Samples, index: Int[np.ndarray, "row width"]) -> Float[np.ndarray, "entry entry"]:
    """Sum the second moments of windows."""
    size = index.shape[1] * part.n_channels
    total = np.zeros((size, size))
    if not part.incomplete and part.spread is None:  # as one product of all rows and samples
        by_vertex = np.ascontiguousarray(part.values.transpose(1, 2, 0))
        step = max(1, PART // (size * len(part)))
        for start in range(0, len(index), step):
            values = by_vertex[index[start : start + step].T]  # (width, row, channel, sample)
            flat = values.transpose(0, 2, 1, 3).reshape(size, -1)
            total += flat @ flat.T
        total /= len(part)
        return total
    step = max(1, PART // size**2)
    for start in range(0, len(index), step):
        total += second_moments(part, index[start : start + step]).sum(axis=0)
    return total
