"""Regression of each vertex on the other entries of its window, from pooled second moments.

Blocks of second moments are formed, pooled and regressed in parts of the graph, so that memory is a small multiple of
the coefficients. If all vertices have one law, each kind of window is regressed once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from nearfield.fitting.covariance import isolate, second_moments
from nearfield.fitting.matern import Matern, own_share, shrunk_blocks
from nearfield.fitting.pooling import GlobalAverage, LocalAverage, Pooling, Smoother, smoother
from nearfield.fitting.window_moments import whole
from nearfield.graph import DependencyGraph, Neighborhood
from nearfield.samples import Samples

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

__all__ = [
    "PART",
    "VARIANCE_FLOOR",
    "Regression",
    "Shrinkage",
    "WindowFit",
    "cap_windows",
    "regress",
    "regress_moments",
    "regress_windows",
    "with_nugget",
]

VARIANCE_FLOOR = 1e-10
"""Lower bound of a conditional variance, as a fraction of the marginal variance."""
PART = 1 << 22
"""Numbers in the blocks in memory at once (32 MiB)."""
HALVES = 1 << 19
"""Numbers in the blocks restored from their halves at once (4 MiB)."""


class Regression(NamedTuple):
    """Regressions of the vertices on the other entries of their windows.

    ``coefficient`` (row, entry, channel) are of the other entries, ``root`` (row, channel, channel) the lower Cholesky
    factor of the conditional covariance.
    """

    coefficient: Float[np.ndarray, "row entry channel"]
    root: Float[np.ndarray, "row channel channel"]


class WindowFit(NamedTuple):
    """Regression of every vertex, whether its conditional variance was raised, and its fitted variance."""

    regression: Regression
    raised: Bool[np.ndarray, " vertex"]
    variance: Float[np.ndarray, "vertex channel"]


def cap_windows(table: Neighborhood, n_samples: int, n_channels: int, pooling: Pooling) -> Neighborhood:
    """Keep only the nearest entries if unpooled samples cannot support the window.

    A block of ``k`` entries with ``c`` channels each is positive definite with more than ``k c`` samples once the mean
    is fitted; larger windows are cut to half the samples.
    """
    if pooling.strength > 0.0 or table.present.sum(axis=1).max() * n_channels < n_samples:
        return table
    allowed = 1 + max(0, (n_samples - 1) // 2 // n_channels - 1)
    return table.only(np.cumsum(table.present, axis=1) <= allowed)


def regress_windows(
    samples: Samples,
    table: Neighborhood,
    pooling: Pooling,
    law: Matern | None = None,
    smooth: Smoother | None = None,
) -> WindowFit:
    """Regress each vertex on the other entries of its window, for standardised samples.

    Blocks are shrunk towards a law, or the average over other vertices if there is none. ``smooth`` is the `smoother`
    of graph, bandwidth and table, if already known. The table may have the windows of some vertices only, unless the
    average is over those nearby.
    """
    channels = samples.n_channels
    shrinkage = Shrinkage(samples.graph, table, pooling, len(samples), law, _between(samples), smooth)
    average = shrinkage.average
    numbers = 4 * PART if isinstance(average, LocalAverage) else PART  # each part needs the blocks around it too
    step = max(1, numbers // (table.index.shape[1] * channels) ** 2)
    parts = [slice(start, start + step) for start in range(0, len(table.index), step)]

    def own(rows: slice | np.ndarray) -> np.ndarray:
        return second_moments(samples, table.index[rows])

    if isinstance(average, GlobalAverage) and pooling.strength == 1.0:
        blocks = with_nugget(isolate(average.mean(parts, own), average.target), pooling.nugget)
        return _joined([_regressed(blocks, channels)], average.target_of)
    found = [_regressed(with_nugget(b, pooling.nugget), channels) for b in shrinkage.blocks(own, parts)]
    return _joined(found, slice(None))


def _between(samples: Samples) -> Float[np.ndarray, "channel channel"]:
    """Mean over the vertices of the second moments of the channels."""
    if samples.observed is not None:
        means: np.ndarray = second_moments(samples, np.arange(samples.n_vertices)[:, None]).mean(axis=0)
        return means
    y = samples.values
    found: np.ndarray = np.einsum("svc,svd->cd", y, y) / (y.shape[0] * y.shape[1])
    return found


def regress_moments(
    moments: Float[np.ndarray, "vertex pair"],
    table: Neighborhood,
    graph: DependencyGraph,
    pooling: Pooling,
    n_samples: int,
    law: Matern | None = None,
    smooth: Smoother | None = None,
) -> Regression:
    """Regress as `regress_windows` does, from the lower halves of the blocks."""
    width, pairs = table.index.shape[1], moments.shape[1]
    size = (math.isqrt(8 * pairs + 1) - 1) // 2
    channels = size // width
    if law is not None:
        blocks = whole(moments, size)
        between = blocks[:, :channels, :channels].mean(axis=0)
        shrunk = Shrinkage(graph, table, pooling, n_samples, law, between).whole(blocks)
        return regress(with_nugget(shrunk, pooling.nugget), channels)[0]
    present = table.present
    target_of: np.ndarray | slice = slice(None)
    if isinstance(smooth, GlobalAverage):
        mean = smooth.share @ (smooth.total @ moments)
        if pooling.strength == 1.0:
            moments, present, target_of = mean, smooth.target, smooth.target_of
        else:
            moments = (1 - pooling.strength) * moments + pooling.strength * mean[smooth.target_of]
    elif smooth is not None:
        moments = (1 - pooling.strength) * moments + pooling.strength * smooth(moments)
    step = max(1, HALVES // size**2)
    found = []
    for start in range(0, len(moments), step):
        rows = slice(start, start + step)
        blocks, cut = whole(moments[rows], size), ~present[rows].all(axis=1)
        blocks[cut] = isolate(blocks[cut], present[rows][cut])
        found.append(_regressed(with_nugget(blocks, pooling.nugget), channels))
    return _joined(found, target_of).regression


class Shrinkage(NamedTuple):
    """Shrinkage of the blocks of windows towards a law, or the average over other vertices.

    ``between`` is the covariance of the channels for a law, ``smooth`` the `smoother` of graph, bandwidth and table, if
    already known.
    """

    graph: DependencyGraph
    table: Neighborhood
    pooling: Pooling
    n_samples: int
    law: Matern | None = None
    between: Float[np.ndarray, "channel channel"] | None = None
    smooth: Smoother | None = None

    @property
    def average(self) -> Smoother | None:
        """Average over other vertices, unless the target is a law."""
        if self.pooling.strength == 0.0 or self.law is not None:
            return None
        return self.smooth or smoother(self.graph, self.pooling.bandwidth, self.table)

    def whole(self, blocks: Float[np.ndarray, "vertex entry entry"]) -> Float[np.ndarray, "vertex entry entry"]:
        """Shrink the blocks of all vertices at once."""
        return next(self.blocks(lambda rows: blocks[rows], [slice(0, len(blocks))]))

    def blocks(
        self, own: Callable[[slice | np.ndarray], np.ndarray], parts: list[slice]
    ) -> Iterator[Float[np.ndarray, "row entry entry"]]:
        """Shrink the blocks of each part of the graph; ``own`` computes those of some windows."""
        strength, average = self.pooling.strength, self.average
        part_of = lru_cache(maxsize=1)(lambda part: own(parts[part]))
        shrink: Callable[[int], np.ndarray] = part_of
        if self.law is not None:
            share = own_share(self.table, self.graph, self.law, strength, self.n_samples)
            shrink = lambda k: self._towards_law(part_of(k), parts[k], share)  # noqa: E731
        elif isinstance(average, GlobalAverage):
            mean = average.mean(parts, lambda rows: part_of(parts.index(rows)))
            shrink = lambda k: (1 - strength) * part_of(k) + strength * mean[average.target_of[parts[k]]]  # noqa: E731
        elif average is not None:
            shrink = lambda k: _towards_near(own, strength, average, parts[k])  # noqa: E731
        for part, rows in enumerate(parts):
            yield isolate(shrink(part), self.table.present[rows])

    def _towards_law(self, blocks: np.ndarray, rows: slice, share: np.ndarray) -> np.ndarray:
        assert self.law is not None
        assert self.between is not None
        return shrunk_blocks(blocks, self.table.index[rows], self.graph, self.law, share[rows], self.between)


def _towards_near(
    own: Callable[[slice | np.ndarray], np.ndarray], strength: float, average: LocalAverage, rows: slice
) -> Float[np.ndarray, "row entry entry"]:
    """Blocks of a part of the graph, shrunk towards the average over nearby vertices."""
    near, weight = average.around(rows)
    blocks = own(near)
    mean = (weight @ blocks.reshape(len(near), -1)).reshape(-1, *blocks.shape[1:])
    start = int(np.searchsorted(near, rows.start))
    shrunk: np.ndarray = (1 - strength) * blocks[start : start + len(mean)] + strength * mean
    return shrunk


def with_nugget(blocks: Float[np.ndarray, "row entry entry"], nugget: float) -> Float[np.ndarray, "row entry entry"]:
    """Add white noise of a share of each variance."""
    if nugget > 0.0:
        own = np.arange(blocks.shape[1])
        blocks[:, own, own] *= 1.0 + nugget
    return blocks


def regress(
    blocks: Float[np.ndarray, "row entry entry"], n_channels: int
) -> tuple[Regression, Bool[np.ndarray, " row"]]:
    """Regress the first ``n_channels`` entries of each block on the others, and flag raised variances."""
    block = torch.from_numpy(blocks)
    own, cross, others = (
        block[:, :n_channels, :n_channels],
        block[:, n_channels:, :n_channels],
        block[:, n_channels:, n_channels:],
    )
    jitter = 1e-12 * others.diagonal(dim1=1, dim2=2).mean(dim=1) if others.shape[1] else torch.zeros(len(block))
    jittered = others.clone()
    jittered.diagonal(dim1=1, dim2=2).add_(jitter[:, None])
    factor, failed = torch.linalg.cholesky_ex(jittered)
    if failed.any():
        bad = failed > 0
        scale = others[bad].diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None].clamp_min(1e-50)
        factor[bad] = torch.linalg.cholesky(others[bad] + VARIANCE_FLOOR * scale * torch.eye(others.shape[1]))
    half = torch.linalg.solve_triangular(factor, cross, upper=False)
    coefficient = torch.linalg.solve_triangular(factor.mT, half, upper=True)
    values, vectors = torch.linalg.eigh(own - half.mT @ half)
    floor = (VARIANCE_FLOOR * own.diagonal(dim1=1, dim2=2).mean(dim=1, keepdim=True)).clamp_min(1e-60)  # constants
    raised = (values < floor).any(dim=1)
    conditional = (vectors * values.clamp_min(floor)[:, None]) @ vectors.mT
    return Regression(coefficient.numpy(), torch.linalg.cholesky(conditional).numpy()), raised.numpy()


def _regressed(blocks: Float[np.ndarray, "row entry entry"], channels: int) -> WindowFit:
    regression, raised = regress(blocks, channels)
    return WindowFit(regression, raised, np.diagonal(blocks[:, :channels, :channels], axis1=1, axis2=2).copy())


def _joined(parts: list[WindowFit], rows: Int[np.ndarray, " vertex"] | slice) -> WindowFit:
    """Join the parts of a graph, and give each vertex its row."""
    regressions, raised, variance = zip(*parts, strict=True)
    coefficient, root = (np.concatenate(arrays)[rows] for arrays in zip(*regressions, strict=True))
    return WindowFit(Regression(coefficient, root), np.concatenate(raised)[rows], np.concatenate(variance)[rows])
