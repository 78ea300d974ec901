r"""Isotropic law for points in space, towards which their blocks are shrunk.

Windows of nearest earlier points have no columns to average: the third nearest is elsewhere at every vertex. Vertices
share instead the covariance as a function of distance, here of Matern's family (Stein, Interpolation of Spatial Data,
1999, section 2.10) with a nugget,

.. math:: \rho(h) = (1 - \tau)\, p_\nu(z) e^{-z}, \quad z = \sqrt{2\nu}\, h / \ell, \qquad \rho(0) = 1,

with :math:`p = 1`, :math:`1 + z`, :math:`1 + z + z^2/3` for smoothness :math:`\nu = 1/2, 3/2, 5/2`. It is fitted by the
composite likelihood of vertices given their nearest earlier ones (Vecchia, JRSS B 50, 1988). Several channels share it,
coupled by their average covariance at a vertex.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize

from nearfield.fitting.covariance import isolate, local_blocks, sample_moments, second_moments
from nearfield.fitting.maximin import nearest_earlier
from nearfield.graph import DependencyGraph, Neighborhood
from nearfield.graph.order import elimination_order, points_of, scattered
from nearfield.samples import Samples

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

__all__ = ["Matern", "fit_matern", "own_share", "shrunk_blocks"]

SMOOTHNESS = (0.5, 1.5, 2.5)
"""Smoothness with a closed form; the rougher comes first among equals."""
ROWS, NEIGHBOURS = 128, 8
"""Vertices, spread over the order, and their nearest earlier ones, whose conditional laws the fit uses."""
LENGTHS = (-7.0, 3.0)
"""Range of the logarithm of the length over the extent of the points."""
NUGGETS = (-14.0, 2.0)
"""Range of the log-odds of the nugget."""
TWIN = 0.1
"""A vertex with less than this fraction of the median variance given its neighbours is nearly a copy."""
_CHUNK = 1 << 22
"""Correlations computed at once (32 MiB)."""


@dataclass(frozen=True)
class Matern:
    """Isotropic correlation.

    Parameters
    ----------
    smoothness : float
        1/2, 3/2 or 5/2.
    length : float
        Above 0, in the units of the distances (chords of the unit sphere for latitudes and longitudes).
    nugget : float
        Share of the variance particular to each point, in [0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> Matern(0.5, 2.0, 0.0)(np.array([0.0, 2.0])).round(4).tolist()
    [1.0, 0.3679]
    """

    smoothness: float
    length: float
    nugget: float

    def __call__(self, distance: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Correlation of different points at these distances; at 0 the limit 1 - nugget."""
        z = distance * (math.sqrt(2 * self.smoothness) / self.length)
        polynomial: float | np.ndarray = 1.0
        if self.smoothness > 0.5:
            polynomial = 1.0 + z if self.smoothness == 1.5 else 1.0 + z + z * z / 3.0
        return (1.0 - self.nugget) * polynomial * np.exp(-z)

    def blocks(self, points: Float[np.ndarray, "row entry axis"]) -> Float[np.ndarray, "row entry entry"]:
        """Correlation matrices of sets of different points."""
        found = self(_distances(points))
        found[:, range(found.shape[1]), range(found.shape[1])] = 1.0
        return found


def _distances(points: Float[np.ndarray, "row entry axis"]) -> Float[np.ndarray, "row entry entry"]:
    """Distances between the entries of each row."""
    squared = np.zeros((*points.shape[:2], points.shape[1]))
    for axis in np.moveaxis(points, -1, 0):
        squared += (axis[:, :, None] - axis[:, None, :]) ** 2
    return np.sqrt(squared)


def fit_matern(samples: Samples) -> Matern | None:
    """Fit smoothness, length and nugget to the correlations of points in space; None for other graphs."""
    graph = samples.graph
    if not scattered(graph):
        return None
    order, points = elimination_order(graph), points_of(graph)
    table = nearest_earlier(graph, min(NEIGHBOURS, graph.n_vertices - 1), order)
    rows = order[np.unique(np.linspace(0, graph.n_vertices - 1, ROWS).astype(int))]
    index, present = table.index[rows], table.present[rows]
    blocks = local_blocks(_whitened(samples), index) if samples.observed is None else _whitened_blocks(samples, index)
    moments = isolate(blocks, present)
    pairs = present[:, :, None] & present[:, None, :] & ~np.eye(index.shape[1], dtype=bool)
    distance = _distances(points[index])
    extent = float(np.linalg.norm(np.ptp(points, axis=0))) or 1.0
    fits = [_likeliest(smoothness, distance, pairs, moments, extent) for smoothness in SMOOTHNESS]
    return min(fits, key=lambda fit: fit[0])[1]


def _whitened(samples: Samples) -> Float[np.ndarray, "value vertex 1"]:
    """Standardise each vertex and decorrelate the channels, which become further samples."""
    y = samples.values - np.where(samples.standard, 0.0, samples.values.mean(axis=0))
    size = np.sqrt((y**2).mean(axis=0))
    y = y / np.where(size > 0, size, 1.0)
    between = np.einsum("svc,svd->cd", y, y) / (y.shape[0] * y.shape[1]) + 1e-6 * np.eye(y.shape[2])
    y = y @ np.linalg.inv(np.linalg.cholesky(between)).T
    return y.transpose(0, 2, 1).reshape(-1, y.shape[1], 1)


def _whitened_blocks(samples: Samples, index: Int[np.ndarray, "row width"]) -> Float[np.ndarray, "row entry entry"]:
    """Second moments as `_whitened` gives, where values are missing."""
    moments, c = sample_moments(samples), samples.n_channels
    size = np.sqrt(moments.variance)
    y = samples.standardized(np.where(samples.standard, 0.0, moments.mean), np.where(size > 0, size, 1.0))
    between = second_moments(y, np.arange(y.n_vertices)[:, None]).mean(axis=0) + 1e-6 * np.eye(c)
    inverse = np.linalg.inv(np.linalg.cholesky(between))
    blocks = second_moments(y, index).reshape(len(index), index.shape[1], c, index.shape[1], c)
    whitened: np.ndarray = np.einsum("kc,kd,ricjd->rij", inverse, inverse, blocks, optimize=True) / c
    return whitened


def _likeliest(
    smoothness: float,
    distance: Float[np.ndarray, "row entry entry"],
    pairs: Bool[np.ndarray, "row entry entry"],
    moments: Float[np.ndarray, "row entry entry"],
    extent: float,
) -> tuple[float, Matern]:
    """Composite negative log-likelihood and the law at its minimum, for one smoothness."""
    one = np.eye(distance.shape[1])

    def law(where: np.ndarray) -> Matern:
        return Matern(smoothness, extent * math.exp(where[0]), 1.0 / (1.0 + math.exp(-where[1])))

    def loss(where: np.ndarray) -> float:
        blocks = law(where)(distance) * pairs + one
        column = np.linalg.solve(blocks, one[:, :1])[..., 0]  # of the precision: the vertex's own
        square = np.einsum("rm,rmn,rn->r", column, moments, column, optimize=True)
        return float((square / column[:, 0] - np.log(column[:, 0])).mean() / 2)

    start = np.array([-1.0, -3.0])
    simplex = start + np.array([[0.0, 0.0], [-1.0, 0.0], [0.0, -2.0]])
    found = minimize(
        loss,
        start,
        method="Nelder-Mead",
        bounds=[LENGTHS, NUGGETS],
        options={"initial_simplex": simplex, "xatol": 0.03, "fatol": 1e-4},
    )
    return float(found.fun), law(found.x)


def own_share(
    table: Neighborhood, graph: DependencyGraph, law: Matern, strength: float, n_samples: int
) -> Float[np.ndarray, " row"]:
    r"""Weight of each block itself as it is shrunk towards a law.

    It is :math:`(1 - s) \min(1, v \max(N / 4, 1 / (c v_{med})))^{1/2}` with strength s, number of samples N, variance v
    of the vertex given its neighbours under the law, its median :math:`v_{med}` and c = ``TWIN``. Errors of the
    coefficients count in units of :math:`(v / N)^{1/2}`: those of a near twin would carry each disagreement of the two
    on to all their neighbours.
    """
    left = _left_over(law, points_of(graph), table)
    squared = np.minimum(1.0, left * max(n_samples / 4, 1.0 / (TWIN * np.median(left))))
    share: np.ndarray = (1.0 - strength) * np.sqrt(squared)
    return share


def shrunk_blocks(
    blocks: Float[np.ndarray, "row entry entry"],
    index: Int[np.ndarray, "row width"],
    graph: DependencyGraph,
    law: Matern,
    share: Float[np.ndarray, " row"],
    between: Float[np.ndarray, "channel channel"],
) -> Float[np.ndarray, "row entry entry"]:
    """Shrink blocks (row, entry, entry) of windows towards a law; ``between`` is the covariance of the channels."""
    rho = law.blocks(points_of(graph)[index])
    target = (rho[:, :, None, :, None] * between[:, None, :]).reshape(blocks.shape)
    shrunk: np.ndarray = target + share[:, None, None] * (blocks - target)
    return shrunk


def _left_over(law: Matern, points: Float[np.ndarray, "vertex axis"], table: Neighborhood) -> Float[np.ndarray, " row"]:
    """Variance of each vertex given its nearest neighbours, by the law."""
    index, present = table.index[:, : NEIGHBOURS + 1], table.present[:, : NEIGHBOURS + 1]
    blocks = isolate(law.blocks(points[index]), present)
    return 1.0 / np.linalg.solve(blocks, np.eye(index.shape[1])[:, :1])[:, 0, 0]
