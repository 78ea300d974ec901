r"""Latent values of data at a bound, drawn given adjacent vertices.

Where it rains nowhere around, the latent value lies further below the threshold than beside a wet place. Latents are
drawn from a Gaussian Markov field, :math:`z_v \mid \text{others} \sim N(b\, m_v, s^2)` with the mean :math:`m_v` of the
adjacent values, cut off at the threshold; b and s, one pair for all vertices with as many neighbours, are fitted to the
values drawn before (stochastic expectation-maximisation: Celeux and Diebolt, 1985).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
import scipy.sparse as sp
from scipy.special import ndtr, ndtri

from nearfield.graph import DependencyGraph

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray

__all__ = ["with_latents"]

_SWEEPS = 30
_SMALLEST = 1e-300


def with_latents(
    z: Float[ndarray, "sample vertex channel"],
    below: Float[ndarray, "sample vertex channel"],
    above: Float[ndarray, "sample vertex channel"],
    graph: DependencyGraph,
    seed: int,
) -> Float[ndarray, "sample vertex channel"]:
    """Draw the values that are ``below`` or ``above`` a threshold, each NaN elsewhere."""
    color = nx.greedy_color(nx.from_scipy_sparse_array(graph.adjacency))
    colors = np.array([color[vertex] for vertex in range(graph.n_vertices)])
    adjacent = graph.adjacency.astype(bool).astype(float)
    degree = adjacent.sum(axis=1).astype(int)
    average = sp.csr_array(sp.diags_array(1 / np.maximum(degree, 1)) @ adjacent)
    rng, filled = np.random.default_rng(seed), z.copy()
    for k in range(z.shape[2]):
        sign = np.where(np.isfinite(above[..., k]), -1.0, 1.0)
        limit = np.where(np.isfinite(above[..., k]), -above[..., k], below[..., k])
        if np.isfinite(limit).any():
            filled[..., k] = _drawn(z[..., k], sign, limit, average, np.stack([degree, colors]), rng)
    return filled


def _drawn(
    z: Float[ndarray, "sample vertex"],
    sign: Float[ndarray, "sample vertex"],
    limit: Float[ndarray, "sample vertex"],
    average: sp.csr_array,
    kinds: Int[ndarray, "2 vertex"],
    rng: np.random.Generator,
) -> Float[ndarray, "sample vertex"]:
    """Draw ``z`` such that ``sign * z < limit``, where the limit is no NaN; missing values too, which stay missing."""
    missing = np.isnan(z)
    hidden, limit = missing | np.isfinite(limit), np.where(missing, np.inf, limit)
    drawn, (degree, colors) = np.where(missing, 0.0, z), kinds

    def draw(mean: Float[ndarray, "sample some"], spread: Any, vertices: Any) -> None:
        side, at = sign[:, vertices], hidden[:, vertices]
        chance = rng.random(mean.shape) * ndtr((limit[:, vertices] - side * mean) / spread)
        value = mean + side * spread * ndtri(np.maximum(chance, _SMALLEST))
        drawn[:, vertices] = np.where(at, value, drawn[:, vertices])

    draw(np.zeros_like(z), 1.0, slice(None))
    for _ in range(_SWEEPS):
        mean = (average @ drawn.T).T
        count = np.maximum(np.bincount(degree), 1)
        square, product = (np.bincount(degree, (mean * part).mean(axis=0)) / count for part in (mean, drawn))
        slope = (product / np.maximum(square, _SMALLEST))[degree]
        spread = np.sqrt(np.bincount(degree, ((drawn - slope * mean) ** 2).mean(axis=0)) / count)[degree]
        for color in range(colors.max() + 1):
            vertices = np.flatnonzero(colors == color)
            draw(slope[vertices] * (average[vertices] @ drawn.T).T, spread[vertices], vertices)
    return np.where(missing, np.nan, drawn)
