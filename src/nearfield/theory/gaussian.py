r"""Gaussian laws, where every side of the theory is exact: the locality of their scores, the cost of a window.

For :math:`p_0 = N(0, P^{-1})` the score at time t is :math:`-P_t x` with :math:`P_t = (a^2 P^{-1} + s^2 I)^{-1}`. The
best score at vertex j that reads only its window :math:`N = N_j^r` is that of the window's marginal, (3.11) of arXiv
2505.04417, :math:`-e_j^\top [(P_t^{-1})_{NN}]^{-1} x_N`. What it misses is, with R the vertices beyond the window,

.. math:: E|s_j - s^*_j|^2 = (P_t)_{jR} \, [(P_t)_{RR}]^{-1} (P_t)_{Rj}.

Variables run over (vertex, channel), channels fastest, in the order of the graph's vertices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import scipy.linalg
from scipy.sparse import csgraph

from nearfield.process import noise_to_signal

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy.typing import ArrayLike

    from nearfield.graph import DependencyGraph

__all__ = [
    "Pythagoras",
    "diffused_precision",
    "localization_error",
    "marginal_score",
    "missed_variance",
    "pythagoras_check",
    "time_rule",
]

PANEL_NODES = 10
"""Nodes of `time_rule` on each unit of the logarithm of noise over signal."""


def diffused_precision(precision: Float[np.ndarray, "variable variable"], t: ArrayLike) -> Float[np.ndarray, "..."]:
    r"""Precision of the noised law, :math:`P_t = (a^2 P^{-1} + s^2 I)^{-1}` of (4.1), arXiv 2505.04417.

    Parameters
    ----------
    precision : ndarray, (variable, variable)
        P of the clean law, symmetric positive definite.
    t : array_like
        OU time, at least 0. One eigendecomposition gives all times.

    Returns
    -------
    ndarray, (*time, variable, variable)

    Examples
    --------
    >>> diffused_precision(np.array([[2.0, -1.0], [-1.0, 2.0]]), [0.0, 0.5]).round(3).tolist()
    [[[2.0, -1.0], [-1.0, 2.0]], [[1.162, -0.162], [-0.162, 1.162]]]
    """
    time = np.asarray(t, dtype=float)[..., None]
    values, vectors = np.linalg.eigh(precision)
    evolved: np.ndarray = (
        vectors * (values / (np.exp(-2 * time) - np.expm1(-2 * time) * values))[..., None, :]
    ) @ vectors.T
    return evolved


def missed_variance(
    precision: Float[np.ndarray, "variable variable"], hops: Float[np.ndarray, " vertex"], n_channels: int = 1
) -> Float[np.ndarray, " radius"]:
    r"""Variance of a vertex's score that no function of its window has, at every radius: (3.13) before the integral.

    The value is :math:`\mathrm{tr}\, P_{jR} P_{RR}^{-1} P_{Rj}` with R the vertices more than r hops away. One Cholesky
    factor of P with the furthest vertices first gives all radii, since these R are then leading blocks, and gives each
    as a sum of squares: however small, to full relative precision.

    Parameters
    ----------
    precision : ndarray, (variable, variable)
        Precision :math:`P_t` of the noised law, or any Fisher information matrix: then a lower bound, (N.7).
    hops : ndarray, (vertex,)
        Distance of each vertex from j, which is the one at 0; inf where there is no path.
    n_channels : int
        Channels of a vertex.

    Returns
    -------
    ndarray, (radius,)
        For r = 0, 1, ... to the largest finite distance, where it is 0.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the precision is not positive definite.

    Examples
    --------
    >>> chain = np.array([[2.0, -1.0, 0.0], [-1.0, 2.0, -1.0], [0.0, -1.0, 2.0]])
    >>> missed_variance(chain, np.array([0.0, 1.0, 2.0])).round(4)  # a Markov chain: the neighbour tells all
    array([0.6667, 0.    , 0.    ])
    """
    far = np.argsort(-hops, kind="stable")
    far = far[np.isfinite(hops[far]) & (hops[far] > 0)]
    own, rest = (
        (part[:, None] * n_channels + np.arange(n_channels)).ravel() for part in (np.flatnonzero(hops == 0), far)
    )
    pulled = scipy.linalg.solve_triangular(
        np.linalg.cholesky(precision[np.ix_(rest, rest)]), precision[np.ix_(rest, own)], lower=True
    )
    each = (pulled**2).sum(axis=1).reshape(-1, n_channels).sum(axis=1)
    largest = int(hops[far[0]]) if len(far) else 0
    at = np.bincount(hops[far].astype(int), weights=each, minlength=largest + 1)
    return np.append(np.cumsum(at[::-1])[::-1][1:], 0.0)


def time_rule(t_min: float, t_max: float) -> tuple[Float[np.ndarray, " time"], Float[np.ndarray, " time"]]:
    r"""Give times and weights that integrate over OU time, to rounding for functions of Gaussian laws.

    Gauss-Legendre on pieces of at most one unit of :math:`x = \ln(s/a)`, with :math:`dt = s^2 dx`. There, Gaussian
    integrands have their singularities at a distance of :math:`\pi/2` from the real axis, whatever the spectrum.

    Parameters
    ----------
    t_min, t_max : float
        OU times, 0 < t_min < t_max.

    Returns
    -------
    times, weights : ndarray, (time,)

    Raises
    ------
    ValueError
        If the times are not ordered so.

    Examples
    --------
    >>> times, weights = time_rule(0.01, 5.0)
    >>> round(float(weights @ np.exp(-times)), 12) == round(float(np.exp(-0.01) - np.exp(-5.0)), 12)
    True
    """
    if not 0 < t_min < t_max < math.inf:
        raise ValueError(f"t_min and t_max must be OU times with 0 < t_min < t_max, got {t_min} and {t_max}")
    low, high = (math.log(noise_to_signal(float(t))) for t in (t_min, t_max))
    edges = np.linspace(low, high, math.ceil(high - low) + 1)
    nodes, weights = np.polynomial.legendre.leggauss(PANEL_NODES)
    half = np.diff(edges)[:, None] / 2
    x = (edges[:-1, None] + half * (1 + nodes)).ravel()
    times = np.logaddexp(0.0, 2 * x) / 2
    return times, (half * weights).ravel() * -np.expm1(-2 * times)


def localization_error(
    precision: Float[np.ndarray, "variable variable"],
    graph: DependencyGraph,
    t_min: float,
    t_max: float,
    vertices: ArrayLike | None = None,
) -> Float[np.ndarray, "vertex radius"]:
    r"""Localization error :math:`\int E|s^*_j - s_j|^2 dt` of a Gaussian, the left side of (3.13), exactly.

    Parameters
    ----------
    precision : ndarray, (variable, variable)
        P of the clean law; a multiple of the graph's vertices, channels fastest.
    graph : DependencyGraph
        Gives the hops.
    t_min, t_max : float
        OU times, 0 < t_min < t_max; tiny and large give the integral over all times.
    vertices : array_like of int, optional
        The vertices j, by default all. Each costs some hundred Cholesky factors of P: up to some hundred variables
        take seconds, for more ask for a few vertices.

    Returns
    -------
    ndarray, (vertex, radius)
        For r = 0, 1, ... to the largest finite distance.

    Raises
    ------
    ValueError
        If the sizes do not fit, or the times are not ordered.

    Examples
    --------
    >>> from nearfield.datasets import AutoregressiveChain
    >>> law = AutoregressiveChain(0.5, 20)
    >>> error = localization_error(law.precision.toarray(), law.graph, 1e-3, 5.0, vertices=[10])
    >>> error[0, :3].round(6)
    array([0.143176, 0.006182, 0.000636])
    """
    n_channels, left = divmod(len(precision), len(graph))
    if left or n_channels < 1:
        raise ValueError(
            f"precision must have a multiple of {len(graph)} rows, the vertices of the graph, got {len(precision)}"
        )
    sources = np.arange(len(graph)) if vertices is None else np.atleast_1d(vertices)
    hops = csgraph.dijkstra(graph.adjacency, directed=False, indices=sources, unweighted=True)
    error = np.zeros((len(hops), int(hops[np.isfinite(hops)].max()) + 1))
    for t, weight in zip(*time_rule(t_min, t_max), strict=True):
        noised = diffused_precision(precision, t)
        for j, distance in enumerate(hops):
            missed = missed_variance(noised, distance, n_channels)
            error[j, : len(missed)] += weight * missed
    return error


def marginal_score(
    covariance: Float[np.ndarray, "variable variable"], graph: DependencyGraph, radius: int
) -> Float[np.ndarray, "variable variable"]:
    r"""Precision rows of the best local score of a Gaussian, :math:`e_j^\top [C_{NN}]^{-1}`, (3.11), arXiv 2505.04417.

    The score at vertex j is minus row j times the state. Not symmetric.

    Parameters
    ----------
    covariance : ndarray, (variable, variable)
        Covariance of the noised law, :math:`a^2 C + s^2 I`.
    graph : DependencyGraph
        Gives the windows.
    radius : int
        Hops.

    Returns
    -------
    ndarray, (variable, variable)
        Zero outside the windows.

    Examples
    --------
    >>> from nearfield.graph import DependencyGraph
    >>> marginal_score(np.array([[1.0, 0.5], [0.5, 1.0]]), DependencyGraph.chain(2), 0).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    c = len(covariance) // len(graph)
    rows = np.zeros_like(covariance)
    table = graph.neighborhood(radius)
    for j, (index, present) in enumerate(zip(table.index, table.present, strict=True)):
        window = (index[present][:, None] * c + np.arange(c)).ravel()  # the vertex itself comes first
        rows[j * c : (j + 1) * c, window] = np.linalg.inv(covariance[np.ix_(window, window)])[:c]
    return rows


@final
@dataclass(frozen=True)
class Pythagoras:
    """Error of a linear score at one time and its two parts, each per variable; the parts add up for local scores.

    Attributes
    ----------
    total : (variable,)
        :math:`E|u_j - s_j|^2`, from the true score.
    estimation : (variable,)
        :math:`E|u_j - s^*_j|^2`, from the best score of that radius.
    localization : (variable,)
        :math:`E|s^*_j - s_j|^2`, of the best one from the true one.
    """

    total: Float[np.ndarray, " variable"]
    estimation: Float[np.ndarray, " variable"]
    localization: Float[np.ndarray, " variable"]

    @property
    def gap(self) -> float:
        """Largest difference of the total and the sum of its parts, relative to the largest total: 0 by (3.14)."""
        difference = np.abs(self.total - self.estimation - self.localization)
        return float(difference.max() / max(self.total.max(), np.finfo(float).tiny))


def pythagoras_check(
    rows: Float[np.ndarray, "variable variable"],
    covariance: Float[np.ndarray, "variable variable"],
    graph: DependencyGraph,
    radius: int,
) -> Pythagoras:
    r"""Split the error of a linear score on a Gaussian into estimation and localization, (3.14), arXiv 2505.04417.

    .. math:: \|u_j - s_j\|^2 = \|u_j - s^*_j\|^2 + \|s^*_j - s_j\|^2 \quad\text{for every } u_j
        \text{ that reads only } N_j^r.

    A score that reads further than `radius` has a `gap` above 0.

    Parameters
    ----------
    rows : ndarray, (variable, variable)
        The score is :math:`u(x) = -\mathrm{rows}\; x`.
    covariance : ndarray, (variable, variable)
        True covariance of the noised law, :math:`a^2 C + s^2 I`.
    graph : DependencyGraph
    radius : int
        Hops.

    Returns
    -------
    Pythagoras

    Examples
    --------
    >>> from nearfield.graph import DependencyGraph
    >>> C = np.array([[1.0, 0.5], [0.5, 1.0]])
    >>> parts = pythagoras_check(np.diag([1.1, 1.0]), C, DependencyGraph.chain(2), 0)
    >>> parts.estimation.round(4), parts.localization.round(4), round(parts.gap, 12)
    (array([0.01, 0.  ]), array([0.3333, 0.3333]), 0.0)
    """
    best, true = marginal_score(covariance, graph, radius), np.linalg.inv(covariance)
    total, estimation, localization = (
        np.einsum("ij,jk,ik->i", difference, covariance, difference, optimize=True)
        for difference in (rows - true, rows - best, best - true)
    )
    return Pythagoras(total, estimation, localization)
