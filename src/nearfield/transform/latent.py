r"""Latent values of data at a bound, drawn given adjacent vertices.

Where it rains nowhere around, the latent value lies further below the threshold than beside a wet place. Latents are
drawn from regressions on the adjacent values, :math:`z_v \mid \text{others} \sim N(\sum_u \beta_{vu} z_u, s_v^2)`, cut
off at the threshold; these are fitted to the values drawn before (stochastic expectation-maximisation: Celeux and
Diebolt, 1985). Each vertex has its own, which leans on one slope for the mean of all adjacent values that vertices with
as many neighbours share. Below the threshold the law of the latents is known, the normal one, and draws are given it:
the regressions say their order only, and cannot run away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from scipy.special import ndtr, ndtri

from nearfield.graph import DependencyGraph
from nearfield.graph.coloring import greedy_coloring

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from numpy import ndarray

__all__ = ["with_latents"]

_SWEEPS = 30
_SMALLEST = 1e-300
_PRIOR = 10.0  # 1 / variance of a weight about the equal ones


def with_latents(
    z: Float[ndarray, "sample vertex channel"],
    below: Float[ndarray, "sample vertex channel"],
    above: Float[ndarray, "sample vertex channel"],
    graph: DependencyGraph,
    seed: int,
) -> Float[ndarray, "sample vertex channel"]:
    """Draw the values that are ``below`` or ``above`` a threshold, each NaN elsewhere."""
    colors = greedy_coloring(graph.adjacency)
    adjacent = sp.csr_array(graph.adjacency.astype(bool).astype(float))
    rng, filled = np.random.default_rng(seed), z.copy()
    for k in range(z.shape[2]):
        sign = np.where(np.isfinite(above[..., k]), -1.0, 1.0)
        limit = np.where(np.isfinite(above[..., k]), -above[..., k], below[..., k])
        if np.isfinite(limit).any():
            filled[..., k] = _drawn(z[..., k], sign, limit, adjacent, colors, rng)
    return filled


def _drawn(
    z: Float[ndarray, "sample vertex"],
    sign: Float[ndarray, "sample vertex"],
    limit: Float[ndarray, "sample vertex"],
    adjacent: sp.csr_array,
    colors: Int[ndarray, " vertex"],
    rng: np.random.Generator,
) -> Float[ndarray, "sample vertex"]:
    """Draw ``z`` such that ``sign * z < limit``, where the limit is no NaN; missing values too, which stay missing."""
    missing = np.isnan(z)
    hidden, limit = missing | np.isfinite(limit), np.where(missing, np.inf, limit)
    drawn, degree = np.where(missing, 0.0, z), np.diff(adjacent.indptr)
    average = sp.csr_array(sp.diags_array(1 / np.maximum(degree, 1)) @ adjacent)

    def draw(mean: Float[ndarray, "sample some"], spread: Any, vertices: Any) -> None:
        side, at = sign[:, vertices], hidden[:, vertices]
        chance = rng.random(mean.shape) * ndtr((limit[:, vertices] - side * mean) / spread)
        value = mean + side * spread * ndtri(np.maximum(chance, _SMALLEST))
        drawn[:, vertices] = np.where(at, value, drawn[:, vertices])

    def settle() -> None:
        """Keep the order of what is drawn, but give it the normal law below its limit, which is known."""
        at = hidden & ~missing
        side, bound = sign[at], limit[at]
        order = np.lexsort((side * drawn[at], bound, side))
        first = np.flatnonzero(np.diff(bound[order], prepend=np.nan) + np.diff(side[order], prepend=np.nan) != 0)
        count = np.diff(first, append=len(order))
        chance = (np.arange(len(order)) - np.repeat(first, count) + 0.5) / np.repeat(count, count)
        value = np.empty(len(order))
        value[order] = ndtri(chance * ndtr(bound[order]))
        drawn[at] = side * value

    draw(np.zeros_like(z), 1.0, slice(None))
    for _ in range(_SWEEPS):
        mean = (average @ drawn.T).T
        count = np.maximum(np.bincount(degree), 1)
        square, product = (np.bincount(degree, (mean * part).mean(axis=0)) / count for part in (mean, drawn))
        slope = (product / np.maximum(square, _SMALLEST))[degree]
        spread = np.sqrt(np.bincount(degree, ((drawn - slope * mean) ** 2).mean(axis=0)) / count)[degree]
        for color in range(colors.max() + 1):
            vertices = np.flatnonzero(colors == color)
            near = _padded(adjacent, vertices)
            x = np.where(near < 0, 0.0, drawn[:, near])
            weight, width = _regression(x, drawn[:, vertices], slope[vertices], spread[vertices], near >= 0)
            draw(np.einsum("svk,vk->sv", x, weight), width, vertices)
        settle()
    return np.where(missing, np.nan, drawn)


def _padded(adjacent: sp.csr_array, vertices: Int[ndarray, " some"]) -> Int[ndarray, "some neighbour"]:
    """Neighbours of some vertices, -1 where one has fewer than another."""
    start, count = adjacent.indptr[vertices], np.diff(adjacent.indptr)[vertices]
    place = np.arange(max(count.max(), 1))
    inside = place < count[:, None]
    found: ndarray = np.where(inside, adjacent.indices[np.where(inside, start[:, None] + place, 0)], -1)
    return found


def _regression(
    x: Float[ndarray, "sample some neighbour"],
    y: Float[ndarray, "sample some"],
    slope: Float[ndarray, " some"],
    spread: Float[ndarray, " some"],
    present: Bool[ndarray, "some neighbour"],
) -> tuple[Float[ndarray, "some neighbour"], Float[ndarray, " some"]]:
    """Weights of the neighbours, shrunk to equal ones, and the deviation of what they leave."""
    n = len(x)
    moment, product = np.einsum("svk,svl->vkl", x, x) / n, np.einsum("svk,sv->vk", x, y) / n
    equal = np.where(present, (slope / np.maximum(present.sum(axis=1), 1))[:, None], 0.0)
    penalty = np.maximum(_PRIOR * spread**2 / n, _SMALLEST**0.1)[:, None]
    inner = moment + penalty[..., None] * np.eye(x.shape[2])
    weight = np.linalg.solve(inner, (product + penalty * equal)[..., None])[..., 0]
    freedom = np.trace(np.linalg.solve(inner, moment), axis1=1, axis2=2)
    left = ((y - np.einsum("svk,vk->sv", x, weight)) ** 2).sum(axis=0)
    return weight, np.sqrt(left / np.maximum(n - freedom, 1.0))
