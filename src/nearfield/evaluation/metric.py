"""Numbers that compare generated fields with real ones.

Arrays are `(sample, vertex, channel)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import triu

from nearfield.evaluation.curve import Curve, VertexPairs

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearfield.graph import DependencyGraph
    from nearfield.graph.lattice import Lattice

__all__ = [
    "MarginalDistance",
    "autocorrelation",
    "correlation_by_distance",
    "covariance_error",
    "entrywise_error",
    "gaussian_kl",
    "nearest_distance",
    "radial_spectrum",
    "roughness",
    "wasserstein",
]

_BLOCK_ENTRIES = 4_000_000  # entries of one temporary array: 32 MB in float64


def covariance_error(generated: Float[np.ndarray, "d d"], truth: Float[np.ndarray, "d d"]) -> float:
    r"""Relative covariance error :math:`\|\hat C - C\|_\infty / \|C\|_\infty`, (4.6) of arXiv 2505.04417.

    The norm is the largest absolute row sum. 0 is exact.

    Examples
    --------
    >>> covariance_error(np.array([[2.0, 0.0], [0.0, 1.0]]), np.eye(2))
    1.0
    """
    return float(np.linalg.norm(generated - truth, np.inf) / np.linalg.norm(truth, np.inf))


def entrywise_error(generated: Float[np.ndarray, "d d"], truth: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    """Absolute difference of two matrices, entry by entry, in their own units: shows where (4.6) comes from.

    Examples
    --------
    >>> entrywise_error(np.array([[2.0, 0.0], [0.5, 1.0]]), np.eye(2))
    array([[1. , 0. ],
           [0.5, 0. ]])
    """
    distance: np.ndarray = np.abs(generated - truth)
    return distance


def gaussian_kl(
    cov_true: Float[np.ndarray, "d d"],
    cov_generated: Float[np.ndarray, "d d"],
    mean_true: Float[np.ndarray, " d"] | None = None,
    mean_generated: Float[np.ndarray, " d"] | None = None,
) -> float:
    """Kullback-Leibler divergence KL(true || generated) of two Gaussians, in nats.

    The expectation is under the truth: the mean loss where the generated law codes the data.
    Divide by d for nats per dimension. A mean left out is zero.

    Raises
    ------
    ValueError
        If either covariance is not positive definite: the divergence is then infinite or undefined.

    Examples
    --------
    >>> round(gaussian_kl(np.eye(2), 2 * np.eye(2)), 6)  # log(2) - 1/2
    0.193147
    """
    factors = {}
    for name, cov in (("cov_true", cov_true), ("cov_generated", cov_generated)):
        try:
            factors[name] = cho_factor(cov, lower=True)
        except np.linalg.LinAlgError:
            raise ValueError(f"{name} must be positive definite; shrink it or use more samples") from None
    d = cov_true.shape[0]
    shift = (np.zeros(d) if mean_generated is None else mean_generated) - (0.0 if mean_true is None else mean_true)
    generated = factors["cov_generated"]
    log_det = {name: 2 * np.log(np.diag(factor[0])).sum() for name, factor in factors.items()}
    trace = np.trace(cho_solve(generated, cov_true))
    squares = shift @ cho_solve(generated, shift)
    return float(0.5 * (trace - d + squares + log_det["cov_generated"] - log_det["cov_true"]))


def wasserstein(
    x: Float[np.ndarray, "a vertex channel"], y: Float[np.ndarray, "b vertex channel"]
) -> Float[np.ndarray, "vertex channel"]:
    """Wasserstein-1 distance of the two marginals at each vertex, in the unit of the data.

    The area between the two empirical distribution functions; the sets may differ in size.

    Examples
    --------
    >>> x = np.arange(6.0).reshape(3, 2, 1)
    >>> wasserstein(x, x + 0.5).ravel()
    array([0.5, 0.5])
    """
    both = np.concatenate([x, y])
    jump = np.concatenate([np.full(len(x), 1 / len(x)), np.full(len(y), -1 / len(y))])
    result = np.empty(both.shape[1:])
    for part in _slices(both.shape[1], len(both) * both.shape[2]):
        order = np.argsort(both[:, part], axis=0)
        gap = np.abs(np.cumsum(jump[order], axis=0))[:-1]
        result[part] = (gap * np.diff(np.take_along_axis(both[:, part], order, axis=0), axis=0)).sum(axis=0)
    return result


@final
@dataclass(frozen=True)
class MarginalDistance:
    """Wasserstein-1 distance of the marginals, averaged over vertices, and the same of equal laws.

    Attributes
    ----------
    distance : (channel,)
        Between generated and real sets of `size` samples, in the unit of the data.
    noise_floor : (channel,)
        The same distance between two disjoint real sets of that size.
    noise_high : (channel,)
        The largest such distance among the splits: the reach of chance alone.
    size : int
        Samples in each set.
    """

    distance: Float[np.ndarray, " channel"]
    noise_floor: Float[np.ndarray, " channel"]
    noise_high: Float[np.ndarray, " channel"]
    size: int

    @classmethod
    def measure(
        cls,
        real: Float[np.ndarray, "a vertex channel"],
        generated: Float[np.ndarray, "b vertex channel"],
        *,
        splits: int = 40,
        seed: int = 0,
    ) -> MarginalDistance:
        """Average over random splits of the real set into halves.

        Raises
        ------
        ValueError
            If there are fewer than 4 real or 2 generated samples.

        Examples
        --------
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.normal(size=(2, 100, 5, 1))
        >>> found = MarginalDistance.measure(x, y + 1)
        >>> bool(found.distance[0] > 2 * found.noise_high[0])
        True
        """
        if len(real) < 4 or len(generated) < 2:
            raise ValueError(f"needs 4 real and 2 generated samples at least, got {len(real)} and {len(generated)}")
        size = min(len(real) // 2, len(generated))
        rng = np.random.default_rng(seed)
        model, floor = [], []
        for _ in range(splits):
            order = rng.permutation(len(real))
            one, other = real[order[:size]], real[order[size : 2 * size]]
            drawn = generated[rng.choice(len(generated), size=size, replace=False)]
            model.append(wasserstein(drawn, one).mean(axis=0))
            floor.append(wasserstein(one, other).mean(axis=0))
        return cls(np.mean(model, axis=0), np.mean(floor, axis=0), np.max(floor, axis=0), size)


def correlation_by_distance(
    x: Float[np.ndarray, "sample vertex channel"],
    pairs: VertexPairs,
    *,
    squared: bool = False,
    block: int = 1,
    seed: int = 0,
) -> Curve:
    """Mean correlation of two vertices against their distance, each channel with itself.

    The correlation of each pair is over samples, about the sample mean of each vertex. A vertex that never changes
    counts as uncorrelated.

    Parameters
    ----------
    squared
        Average the squared correlation instead, less its bias `(1 - r^2) / (n - 2)`: positive and negative
        correlations that would cancel in the mean do not cancel here, and two data sets of different size can be
        compared. At least 3 samples.
    block
        Length of the blocks of consecutive samples that are resampled together; more than 1 where samples follow
        one another in time, or the band is too narrow.
    seed
        Of the bootstrap.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(500, 1, 1)) * np.ones((1, 8, 1))  # one number everywhere
    >>> correlation_by_distance(x, VertexPairs.lags(8, 2)).value.ravel().round(6)
    array([1., 1., 1.])
    """
    n_samples, _, n_channels = x.shape
    n_points = len(pairs.axis)
    scale = x.std(axis=0)
    z = np.where(scale > 0, (x - x.mean(axis=0)) / np.where(scale > 0, scale, 1), 0.0)
    value = np.zeros((n_points, n_channels))
    influence = np.zeros((n_samples, n_points, n_channels))
    count = np.bincount(pairs.group, minlength=n_points)
    for point in range(n_points):
        members = np.flatnonzero(pairs.group == point)
        for part in _slices(len(members), n_samples * n_channels):
            a, b = z[:, pairs.first[members[part]]], z[:, pairs.second[members[part]]]
            r = (a * b).mean(axis=0)
            # A sample moves the correlation through the product and, since each vertex is in units of
            # its own sample std, through the two variances.
            move = a * b - r * (a**2 + b**2) / 2
            value[point] += (r**2 - (1 - r**2) / (n_samples - 2) if squared else r).sum(axis=0)
            influence[:, point] += (2 * r * move if squared else move).sum(axis=1)
    value /= count[:, None]
    influence /= count[:, None]
    return Curve.bootstrap(pairs.axis, value, influence, count=count, label=pairs.label, block=block, seed=seed)


def autocorrelation(
    x: Float[np.ndarray, "sample vertex channel"], max_lag: int, *, block: int = 1, seed: int = 0
) -> Curve:
    """Autocorrelation along a chain: the mean correlation of vertices `lag` steps apart, lags 0 to `max_lag`.

    Parameters and conventions as in `correlation_by_distance`.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(50, 20, 1))
    >>> float(autocorrelation(x, 3).value[0, 0].round(12))
    1.0
    """
    return correlation_by_distance(x, VertexPairs.lags(x.shape[1], max_lag), block=block, seed=seed)


def radial_spectrum(
    x: Float[np.ndarray, "sample vertex channel"], lattice: Lattice, *, block: int = 1, seed: int = 0
) -> Curve:
    r"""Power spectrum of the departures from the mean field, averaged over directions of the wave vector.

    Power of a mode is :math:`|\hat x|^2 / n` for n vertices, so that power times `count`, summed over the points, is
    n times the mean sample variance (Parseval; exact on periodic axes). Axes that do not close get a Hann window of
    unit mean square, against leakage. The wavenumber is in cycles per grid cell whatever the cell's size.

    Raises
    ------
    ValueError
        If the lattice has holes (land removed): a Fourier transform needs every vertex.

    Examples
    --------
    >>> from nearfield.graph import DependencyGraph
    >>> x = np.random.default_rng(0).normal(size=(50, 64, 1))
    >>> curve = radial_spectrum(x, DependencyGraph.torus((8, 8)).lattice)
    >>> power = (curve.value[:, 0] * curve.count).sum() / 64
    >>> bool(np.isclose(power, x.var(axis=0, ddof=1).mean()))
    True
    """
    n_samples, n_vertices, n_channels = x.shape
    if n_vertices != np.prod(lattice.shape):
        raise ValueError(
            f"the spectrum needs a complete lattice: {lattice.shape} has {np.prod(lattice.shape)} vertices, the data "
            f"{n_vertices} (land removed?); use correlation_by_distance instead"
        )
    axes = tuple(range(1, 1 + len(lattice.shape)))
    field = (x - x.mean(axis=0)).reshape(n_samples, *lattice.shape, n_channels)
    for axis, (length, periodic) in enumerate(zip(lattice.shape, lattice.periodic, strict=True), start=1):
        if not periodic and length > 2:
            window = np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2
            window /= np.sqrt(np.mean(window**2))
            field = field * np.expand_dims(window, [k for k in range(field.ndim) if k != axis])
    squares = sum(f**2 for f in np.meshgrid(*map(np.fft.fftfreq, lattice.shape), indexing="ij"))
    width = 1 / min(length for length in lattice.shape if length > 1) if n_vertices > 1 else 1.0
    _, group, count = np.unique(np.rint(np.sqrt(squares) / width), return_inverse=True, return_counts=True)
    power = np.empty((n_samples, len(count), n_channels))
    for i in range(n_samples):
        modes = np.abs(np.fft.fftn(field[i], axes=[k - 1 for k in axes])) ** 2 / n_vertices
        for c in range(n_channels):
            power[i, :, c] = np.bincount(group.ravel(), weights=modes[..., c].ravel()) / count
    power *= n_samples / (n_samples - 1)
    value = power.mean(axis=0)
    mean_k = np.bincount(group.ravel(), weights=np.sqrt(squares).ravel()) / count
    label = "wavenumber, cycles per grid cell"
    return Curve.bootstrap(mean_k, value, power - value, count=count, label=label, block=block, seed=seed)


def roughness(
    x: Float[np.ndarray, "sample vertex channel"], graph: DependencyGraph
) -> Float[np.ndarray, "sample channel"]:
    """Mean squared difference across the edges of the graph, of each sample, in the unit of the data squared.

    Zero on a graph without edges.

    Examples
    --------
    >>> from nearfield.graph import DependencyGraph
    >>> roughness(np.array([0.0, 1.0, 3.0]).reshape(1, 3, 1), DependencyGraph.chain(3))
    array([[2.5]])
    """
    edges = triu(graph.adjacency, k=1).tocoo()
    total = np.zeros((x.shape[0], x.shape[2]))
    for part in _slices(edges.nnz, x.shape[0] * x.shape[2]):
        total += ((x[:, edges.row[part]] - x[:, edges.col[part]]) ** 2).sum(axis=1)
    squares: np.ndarray = total / max(edges.nnz, 1)
    return squares


def nearest_distance(
    x: Float[np.ndarray, "a vertex channel"], reference: Float[np.ndarray, "b vertex channel"] | None = None
) -> Float[np.ndarray, " a"]:
    """Distance from each sample to the nearest of the reference: root mean square over vertices and channels.

    Without a reference, to the nearest *other* sample of `x`. Scale the channels alike before.

    Examples
    --------
    >>> x = np.array([0.0, 1.0, 5.0]).reshape(3, 1, 1)
    >>> nearest_distance(x)
    array([1., 1., 4.])
    """
    from sklearn.neighbors import NearestNeighbors  # half a second to import

    points = x.reshape(len(x), -1)
    others = points if reference is None else reference.reshape(len(reference), -1)
    nearest = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(others)
    distance: np.ndarray = nearest.kneighbors(None if reference is None else points)[0][:, 0] / np.sqrt(points.shape[1])
    return distance


def _slices(length: int, entries_each: int) -> Iterator[slice]:
    """Cut `range(length)` so that no temporary array passes `_BLOCK_ENTRIES` entries."""
    step = max(1, _BLOCK_ENTRIES // max(entries_each, 1))
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))
