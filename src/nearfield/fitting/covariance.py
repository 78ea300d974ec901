"""Location, scale and local covariance blocks, formed and pooled without a d x d matrix.

A window is a vertex with some of its neighbours. Its block is the uncentred second moment of the standardised data on
the window, ``C_j = (1/N) sum_i y_i y_i'``; once the fitted mean is subtracted this is the centred 1/N matrix of (4.3)
of arXiv 2505.04417. Location and scale are parameters too, and are pooled before the blocks are formed, with the
strength and bandwidth of the correlations or with their own.

Where values are missing, the moments are expected ones: those of the conditional means plus the `spread` of the
samples (Little and Rubin, Statistical Analysis with Missing Data, section 8.2). Before there is a law to condition on,
they are those of the available cases: each entry over the samples that have both values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from nearfield.fitting.pooling import Pooling, Smoother, smoother
from nearfield.fitting.rarity import rarely_varying
from nearfield.graph import DependencyGraph
from nearfield.samples import Samples

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

__all__ = [
    "VertexMoments",
    "isolate",
    "local_blocks",
    "location_and_scale",
    "pooled_location",
    "sample_moments",
    "second_moments",
    "vertex_moments",
]

LOCATION_LIMIT = 9.0
"""Means are pooled if that moves them, in mean square over the vertices, by at most this many sampling variances."""
SMALLEST = 0.02
"""Eigenvalues of blocks of available cases are raised to this share of the largest."""
FEWEST_PAIRS = 5
"""Samples that an entry of such a block needs; with fewer it is 0."""
_CHUNK = 1 << 22
"""Floating-point numbers gathered at once while blocks are formed (32 MiB)."""


def location_and_scale(
    samples: Samples, pooling: Pooling, smooth: Smoother | None = None
) -> tuple[Float[np.ndarray, "vertex channel"], Float[np.ndarray, "vertex channel"]]:
    """Mean and standard deviation (1/N) of each vertex and channel, pooled.

    At strength 0 these are the vertex's own, at strength 1 with infinite bandwidth one of each per channel. The scale
    is about the pooled mean, so that location and scale are together the maximum likelihood fit of a stationary law.
    The means of a channel stay the vertex's own if pooling would move them by more than their sampling error
    (``LOCATION_LIMIT``), as it would for absolute temperatures from pole to equator; so do those of a vertex that
    varies rarely, which contributes neither mean nor scale. Standard channels have location 0 and scale 1.
    """
    shape = samples.values.shape[1:]
    if all(samples.standard):
        return np.zeros(shape), np.ones(shape)
    fitted = np.broadcast_to(np.logical_not(samples.standard), shape)
    return pooled_location(sample_moments(samples), samples.graph, pooling.of_location, fitted, smooth)


class VertexMoments(NamedTuple):
    """Mean and variance of each vertex and channel, whether it varies rarely, and the number of samples.

    Several sets of samples lie along an axis between vertices and channels.
    """

    mean: Float[np.ndarray, "vertex *set channel"]
    variance: Float[np.ndarray, "vertex *set channel"]
    rare: Bool[np.ndarray, "vertex *set channel"]
    n_samples: int | Int[np.ndarray, "set 1"] | Int[np.ndarray, "vertex channel"]


def vertex_moments(x: Float[np.ndarray, "sample vertex channel"]) -> VertexMoments:
    """Moments of samples."""
    variance, rare = x.var(axis=0), rarely_varying(x)
    rare &= (~rare & (variance > 0)).any(axis=0)  # if all are, they are comparable
    return VertexMoments(x.mean(axis=0), variance, rare, len(x))


def sample_moments(samples: Samples) -> VertexMoments:
    """Moments of samples: of the values that there are, or expected ones where the samples have a spread."""
    own = vertex_moments(samples.filled)
    if samples.observed is None:
        return own
    count = samples.n_observed
    if samples.spread is not None:
        variance = own.variance + samples.spread.diagonal().reshape(count.shape)
        return own._replace(variance=variance, n_samples=np.maximum(count, 1))
    variance = own.variance * (len(samples) / np.maximum(count, 1))  # values at the mean add nothing
    return own._replace(variance=variance, n_samples=np.maximum(count, 1))


def pooled_location(
    moments: VertexMoments,
    graph: DependencyGraph,
    pooling: Pooling,
    fitted: Bool[np.ndarray, "vertex *set channel"],
    smooth: Smoother | Callable[..., np.ndarray] | None = None,
) -> tuple[Float[np.ndarray, "vertex *set channel"], Float[np.ndarray, "vertex *set channel"]]:
    """Location and scale as `location_and_scale` pools them, where ``fitted``."""
    own, spread, rare, n_samples = moments
    if pooling.strength == 0.0:
        return np.where(fitted, own, 0.0), np.where(fitted, np.sqrt(spread), 1.0)
    average = _without(rare, smooth or smoother(graph, pooling.bandwidth))
    shift = pooling.strength * (average(own) - own)
    sampling = np.maximum(spread, 1e-12 * spread.mean(axis=0)) / n_samples
    pooled = (shift**2 / sampling).mean(axis=0) <= LOCATION_LIMIT
    center = own + np.where(pooled, shift, 0.0)
    spread = spread + (own - center) ** 2
    spread = (1 - pooling.strength) * spread + pooling.strength * average(spread)
    return np.where(fitted, center, 0.0), np.where(fitted, np.sqrt(spread), 1.0)


def _without(
    rare: Bool[np.ndarray, "vertex *set channel"], smooth: Smoother | Callable[..., np.ndarray]
) -> Callable[[np.ndarray], np.ndarray]:
    """Average over the other vertices alone; rare vertices keep their values."""

    def average(values: np.ndarray) -> np.ndarray:
        return smooth(values.reshape(len(values), -1)).reshape(values.shape)

    if not rare.any():
        return average
    share = np.where(rare, 1.0, average((~rare).astype(float)))
    return lambda values: np.where(rare, values, average(np.where(rare, 0.0, values)) / share)


def local_blocks(
    y: Float[np.ndarray, "sample vertex channel"], index: Int[np.ndarray, "row width"]
) -> Float[np.ndarray, "row entry entry"]:
    """Uncentred second moments of windows; entries run over (window column, channel), channel fastest.

    Absent entries point at the vertex itself; `isolate` removes them afterwards.
    """
    n_samples, _, channels = y.shape
    n_rows, width = index.shape
    size = width * channels
    blocks = np.empty((n_rows, size, size))
    by_vertex = np.ascontiguousarray(y.transpose(1, 0, 2))
    step = max(1, _CHUNK // (n_samples * size))
    for start in range(0, n_rows, step):
        part = torch.from_numpy(by_vertex[index[start : start + step]])  # (row, width, sample, channel)
        part = part.permute(0, 1, 3, 2).reshape(-1, size, n_samples)
        blocks[start : start + step] = (torch.bmm(part, part.mT) / n_samples).numpy()
    return blocks


def second_moments(samples: Samples, index: Int[np.ndarray, "row width"]) -> Float[np.ndarray, "row entry entry"]:
    """Second moments of windows; expected ones, or those of available cases, where values are missing."""
    if samples.incomplete:
        return _available_blocks(samples, index)
    blocks = local_blocks(samples.values, index)
    if samples.spread is not None:
        entries = _entries(index, samples.n_channels)
        row, column = (np.broadcast_to(part, blocks.shape).ravel() for part in (entries[:, :, None], entries[:, None]))
        blocks += np.asarray(samples.spread[row, column]).reshape(blocks.shape)
    return blocks


def _entries(index: Int[np.ndarray, "row width"], n_channels: int) -> Int[np.ndarray, "row entry"]:
    """Variables of windows, by vertex with channels fastest."""
    return (index[:, :, None] * n_channels + np.arange(n_channels)).reshape(len(index), -1)


def _available_blocks(samples: Samples, index: Int[np.ndarray, "row width"]) -> Float[np.ndarray, "row entry entry"]:
    """Second moments over the samples that have both values, made positive definite."""
    assert samples.observed is not None
    share = local_blocks(samples.observed.astype(np.float64), index)
    blocks = local_blocks(np.where(samples.observed, samples.values, 0.0), index)
    few = share * len(samples) < FEWEST_PAIRS
    own = np.arange(blocks.shape[1])
    few[:, own, own] = False
    blocks = np.where(few, 0.0, blocks / np.maximum(share, 1.0 / len(samples)))
    values, vectors = torch.linalg.eigh(torch.from_numpy(blocks))
    values = torch.maximum(values, SMALLEST * values[:, -1:])
    raised: np.ndarray = ((vectors * values[:, None]) @ vectors.mT).numpy()
    return raised


def isolate(
    blocks: Float[np.ndarray, "row entry entry"], present: Bool[np.ndarray, "row width"]
) -> Float[np.ndarray, "row entry entry"]:
    """Replace absent entries by independent standard ones: the present part then factorises as if alone."""
    size = blocks.shape[1]
    here = np.repeat(present, size // present.shape[1], axis=1)
    return np.where(here[:, :, None] & here[:, None, :], blocks, np.eye(size))
