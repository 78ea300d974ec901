"""Curves with error bands, and the pairs of vertices that correlations are measured on.

A statistic drawn against distance, lag or wavenumber is a `Curve`: its value, and a band from the bootstrap over
samples. The bootstrap is applied to the statistic's linearisation: each sample's influence on the value is computed
once, and resampling the samples is then a weighted mean of influences. A band over vertices would be too narrow,
since the vertices of one field are not independent; resampling whole fields keeps their dependence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

import numpy as np
from scipy.sparse.csgraph import dijkstra

from nearfield.graph.coordinate import EARTH_RADIUS

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from nearfield.graph import DependencyGraph

__all__ = ["Curve", "VertexPairs"]

_REPLICATES = 500
_MAX_DISTANCES = 4_000_000  # distances held at a time: 32 MB


@final
@dataclass(frozen=True)
class Curve:
    """A statistic against distance, lag or wavenumber, with its bootstrap band.

    Attributes
    ----------
    axis : (point,)
        Where the statistic stands; unit in `label`.
    value, low, high : (point, channel)
        The statistic and its pointwise 95 % band over samples.
    error : (point, channel)
        Bootstrap standard error.
    count : (point,)
        How many pairs of vertices, or Fourier modes, each point averages.
    label : str
        Name and unit of the axis.
    n_samples : int
        How many samples the statistic was computed from.
    """

    axis: Float[np.ndarray, " point"]
    value: Float[np.ndarray, "point channel"]
    low: Float[np.ndarray, "point channel"]
    high: Float[np.ndarray, "point channel"]
    error: Float[np.ndarray, "point channel"]
    count: Int[np.ndarray, " point"]
    label: str
    n_samples: int

    @classmethod
    def bootstrap(
        cls,
        axis: Float[np.ndarray, " point"],
        value: Float[np.ndarray, "point channel"],
        influence: Float[np.ndarray, "sample point channel"],
        *,
        count: Int[np.ndarray, " point"],
        label: str,
        block: int = 1,
        seed: int = 0,
    ) -> Curve:
        """Band from resampling circular blocks of `block` consecutive samples; influences have mean zero.

        Examples
        --------
        >>> x = np.random.default_rng(0).normal(size=(400, 1, 1))
        >>> mean = x.mean(axis=0)
        >>> curve = Curve.bootstrap(np.zeros(1), mean, x - mean, count=np.ones(1, int), label="")
        >>> bool(np.isclose(curve.error[0, 0], x.std() / 20, rtol=0.1))
        True
        """
        n = len(influence)
        rng = np.random.default_rng(seed)
        starts = rng.integers(n, size=(_REPLICATES, -(-n // block)))
        drawn = ((starts[..., None] + np.arange(block)) % n).reshape(_REPLICATES, -1)[:, :n]
        times = np.bincount((drawn + n * np.arange(_REPLICATES)[:, None]).ravel(), minlength=_REPLICATES * n)
        # sqrt(n / (n - 1)): resampling n values understates their variance by that factor.
        weights = times.reshape(_REPLICATES, n) / n * np.sqrt(n / max(n - 1, 1))
        moved = np.tensordot(weights, influence, axes=1)
        low, high = np.quantile(moved, [0.025, 0.975], axis=0)
        return cls(axis, value, value + low, value + high, moved.std(axis=0), count, label, n)


@final
@dataclass(frozen=True)
class VertexPairs:
    """Pairs of vertices sorted into classes of distance: where correlations are measured.

    Attributes
    ----------
    first, second : (pair,)
        The two vertices.
    group : (pair,)
        Class of distance, 0 to `len(axis) - 1`; none is empty.
    axis : (group,)
        Mean distance of each class; unit in `label`.
    label : str
        Name and unit of the distance.
    """

    first: Int[np.ndarray, " pair"]
    second: Int[np.ndarray, " pair"]
    group: Int[np.ndarray, " pair"]
    axis: Float[np.ndarray, " group"]
    label: str

    @classmethod
    def lags(cls, n_vertices: int, max_lag: int) -> VertexPairs:
        """All pairs `(i, i + lag)` of a chain, for lags 0 to `max_lag`.

        Examples
        --------
        >>> VertexPairs.lags(5, 2).axis
        array([0., 1., 2.])
        """
        if not 0 <= max_lag < n_vertices:
            raise ValueError(f"max_lag must be from 0 to {n_vertices - 1} on {n_vertices} vertices, got {max_lag}")
        lags = np.arange(max_lag + 1)
        first = np.concatenate([np.arange(n_vertices - lag) for lag in lags])
        group = np.repeat(lags, n_vertices - lags)
        return cls(first, first + group, group, lags.astype(float), "lag, steps")

    @classmethod
    def draw(
        cls,
        graph: DependencyGraph,
        *,
        bins: int | Sequence[float] = 24,
        by: Literal["auto", "hops", "coordinates"] = "auto",
        max_pairs: int = 200_000,
        seed: int = 0,
    ) -> VertexPairs:
        """Draw pairs evenly over the classes of distance; all pairs when there are few.

        Examples
        --------
        >>> from nearfield.graph import DependencyGraph
        >>> pairs = VertexPairs.draw(DependencyGraph.chain(6), by="hops")
        >>> pairs.axis
        array([1., 2., 3., 4., 5.])
        """
        if by == "coordinates" and graph.coordinates is None:
            raise ValueError('by="coordinates" needs a graph with coordinates; this one has none: use by="hops"')
        hops = by == "hops" or graph.coordinates is None
        rng = np.random.default_rng(seed)
        n = graph.n_vertices
        sources = np.sort(rng.choice(n, size=min(n, max(16, _MAX_DISTANCES // n)), replace=False))
        distance, label = _distances(graph, sources, hops)
        is_source = np.isin(np.arange(n), sources)
        once = np.isfinite(distance) & ~(is_source & (np.arange(n) <= sources[:, None]))
        if not once.any():
            raise ValueError("correlation needs two connected vertices, this graph has none: skip it for such data")
        edges = _edges(bins, distance[once], hops)
        group = np.where(once, np.digitize(distance, edges) - 1, -1)
        group[group >= len(edges) - 1] = -1
        chosen = []
        for k in np.unique(group[group >= 0]):
            members = np.flatnonzero(group.ravel() == k)
            quota = max(1, max_pairs // (len(edges) - 1))
            chosen.append(members if members.size <= quota else rng.choice(members, size=quota, replace=False))
        flat = np.concatenate(chosen)
        axis = np.array([distance.ravel()[members].mean() for members in chosen])
        return cls(
            sources[flat // n], flat % n, np.repeat(np.arange(len(chosen)), [len(c) for c in chosen]), axis, label
        )


def _distances(
    graph: DependencyGraph, sources: Int[np.ndarray, " source"], hops: bool
) -> tuple[Float[np.ndarray, "source vertex"], str]:
    """Distance from each source to every vertex, and its name and unit; infinite where unreachable."""
    if hops:
        return dijkstra(graph.adjacency, directed=False, indices=sources, unweighted=True), "graph distance, hops"
    points = np.asarray(graph.coordinates, dtype=float)
    if graph.metric == "haversine":
        from sklearn.metrics.pairwise import haversine_distances  # half a second to import

        angles = np.deg2rad(points)
        return EARTH_RADIUS * haversine_distances(angles[sources], angles), "great-circle distance, km"
    square = sum((column[sources, None] - column) ** 2 for column in points.T)
    return np.sqrt(square), "distance, unit of the coordinates"


def _edges(bins: int | Sequence[float], distance: Float[np.ndarray, " pair"], hops: bool) -> Float[np.ndarray, " edge"]:
    """Edges of the classes of distance: the first as wide as the smallest distance, the others wider as a power.

    Correlation falls within a few spacings however large the graph, so classes of one width would not show it.
    """
    if not isinstance(bins, int):
        return np.asarray(bins, dtype=float)
    largest = distance.max() + (1 if hops else 0)  # edges in hops are whole, the last just past the largest distance
    smallest = distance[distance > 0].min(initial=largest)
    power = max(1.0, np.log(largest / smallest) / np.log(bins)) if bins > 1 and smallest > 0 else 1.0
    edges: np.ndarray = largest * np.linspace(0, 1, bins + 1) ** power
    if hops:
        return np.unique(np.maximum(np.rint(edges), 1))
    edges[-1] = np.nextafter(largest, np.inf)
    return edges
