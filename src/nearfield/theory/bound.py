r"""The theorems of locality as functions: how fast scores and correlations decay, and bounds on the cost of a radius.

Throughout, :math:`m I \preceq -\nabla^2 \log p_0 \preceq M I` on a dependency graph, :math:`\kappa = M/m`,
:math:`q = 1 - 1/\kappa`, :math:`a = e^{-t}`, :math:`s^2 = 1 - e^{-2t}`; equations are those of arXiv 2505.04417.

These are conditions of the theorems, not of the library: many laws worth modelling are not log-concave (the paper's own
examples among them), and nothing here checks that data meet them. For a Gaussian, m and M are the ends of the spectrum
of its precision (`nearfield.theory.concavity.concavity`), in the units in which the model is diffused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from scipy.sparse import csgraph
from scipy.special import gamma, hyp2f1

from nearfield._checks import whole_number

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy.typing import ArrayLike

    from nearfield.graph import DependencyGraph

__all__ = [
    "LocalizationBound",
    "correlation_bound",
    "lemma_b1",
    "lemma_b1_bound",
    "localization_error_bound",
    "score_decay_bound",
]


def score_decay_bound(m: float, M: float, t: ArrayLike, distance: ArrayLike) -> Float[np.ndarray | np.float64, "..."]:
    r"""Bound on how strongly the score at one vertex reads another, Theorem 2.1, (2.15) of arXiv 2505.04417.

    .. math:: \|\nabla^2_{ij} \log p_t\| \le \frac{a^2}{s^2 (m s^2 + a^2)}
        \Big(\frac{(M - m) s^2}{M s^2 + a^2}\Big)^{\mathrm{dist}(i, j)}, \qquad i \ne j.

    It is computed with one factor :math:`s^2` cancelled, so that it is finite at t = 0: M - m for neighbours, else 0.

    Parameters
    ----------
    m, M : float
        Ends of the curvature of :math:`-\log p_0`, with 0 < m <= M.
    t : array_like
        OU time, at least 0.
    distance : array_like
        Hops, at least 1; inf where there is no path. Broadcast against `t`.

    Returns
    -------
    ndarray
        Of the shape of `t` and `distance` together.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> score_decay_bound(0.5, 2.0, [[0.0], [0.5], [3.0]], [1, 2]).round(4)
    array([[1.5   , 0.    ],
           [0.4943, 0.2872],
           [0.0037, 0.0028]])
    """
    _check_curvature(m, M)
    time, k = np.asarray(t, dtype=float), np.asarray(distance, dtype=float)
    if not (time >= 0).all():
        raise ValueError(f"t must be OU times, at least 0, got {time.min()}")
    if not (k >= 1).all():
        raise ValueError(f"distance must be at least 1 hop, got {k.min()}; (2.15) is for two different vertices")
    a2, s2 = np.exp(-2 * time), -np.expm1(-2 * time)
    bound: np.ndarray = a2 * (M - m) / ((m * s2 + a2) * (M * s2 + a2)) * ((M - m) * s2 / (M * s2 + a2)) ** (k - 1)
    return bound


def correlation_bound(
    m: float, M: float, distance: ArrayLike, lipschitz_f: float = 1.0, lipschitz_g: float = 1.0
) -> Float[np.ndarray | np.float64, "..."]:
    r"""Bound on a covariance at a distance, Proposition 2.2, (2.16) of arXiv 2505.04417.

    .. math:: |\mathrm{Cov}(f(X_i), g(X_j))| \le \tfrac1m\, q^{\mathrm{dist}(i, j)}\,
        |f|_{\mathrm{Lip}}\, |g|_{\mathrm{Lip}}.

    Parameters
    ----------
    m, M : float
        Ends of the curvature of :math:`-\log p_0`, with 0 < m <= M.
    distance : array_like
        Hops, at least 0; inf where there is no path.
    lipschitz_f, lipschitz_g : float
        Lipschitz constants; 1 for the components themselves.

    Returns
    -------
    ndarray
        Of the shape of `distance`.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> correlation_bound(0.5, 2.0, [0, 1, 2])
    array([2.   , 1.5  , 1.125])
    """
    _check_curvature(m, M)
    k = np.asarray(distance, dtype=float)
    if not (k >= 0).all():
        raise ValueError(f"distance must be at least 0 hops, got {k.min()}")
    return (1 - m / M) ** k / m * lipschitz_f * lipschitz_g


def lemma_b1(m: float, M: float, distance: ArrayLike) -> Float[np.ndarray | np.float64, "..."]:
    r"""Integral over all times that Lemma B.1 of arXiv 2505.04417 bounds, exactly.

    .. math:: \int_0^\infty \frac{a^4}{m s^4 (m s^2 + a^2)} \Big(\frac{(M-m) s^2}{M s^2 + a^2}\Big)^{2k} dt
        = \frac\kappa2\, \frac{q^{2k}}{2k(2k-1)}\, {}_2F_1(1, 2k - 1; 2k + 1; q).

    One vertex at distance k adds it to the localization error (N.3). As q tends to 1 the
    hypergeometric function tends to 2k and the value to `lemma_b1_bound`.

    Parameters
    ----------
    m, M : float
        Ends of the curvature of :math:`-\log p_0`, with 0 < m <= M.
    distance : array_like
        Hops k, at least 1.

    Returns
    -------
    ndarray
        Of the shape of `distance`.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> lemma_b1(0.5, 2.0, [1, 3]).round(6)
    array([0.806853, 0.027263])
    """
    kappa, q, k = _ratios(m, M, distance)
    bound: np.ndarray | np.float64 = (
        kappa / 2 * q ** (2 * k) / (2 * k * (2 * k - 1)) * hyp2f1(1, 2 * k - 1, 2 * k + 1, q)
    )
    return bound


def lemma_b1_bound(m: float, M: float, distance: ArrayLike) -> Float[np.ndarray | np.float64, "..."]:
    r"""Bound of Lemma B.1 of arXiv 2505.04417, :math:`\frac\kappa2\, q^{2k} / (2k - 1)`.

    Parameters and errors as in `lemma_b1`; an infinite distance gives 0.

    Examples
    --------
    >>> lemma_b1_bound(0.5, 2.0, [1, 3]).round(6)
    array([1.125   , 0.071191])
    """
    kappa, q, k = _ratios(m, M, distance)
    bound: np.ndarray | np.float64 = kappa / 2 * q ** (2 * k) / (2 * k - 1)
    return bound


@final
@dataclass(frozen=True)
class LocalizationBound:
    """What reading only a window costs, at most: both explicit forms of (3.13).

    Attributes
    ----------
    radius : (radius,)
        Hops.
    by_distance : (radius, vertex)
        Form (i): summed over the vertices beyond the radius, for each vertex.
    by_growth : (radius,)
        Form (ii): for any vertex of a graph that grows as this one does; free of the dimension.
    """

    radius: Int[np.ndarray, " radius"]
    by_distance: Float[np.ndarray, "radius vertex"]
    by_growth: Float[np.ndarray, " radius"]


def localization_error_bound(
    graph: DependencyGraph,
    m: float,
    M: float,
    radius: ArrayLike,
    n_channels: int = 1,
    vertices: ArrayLike | None = None,
) -> LocalizationBound:
    r"""Bound on the localization error of each vertex, Theorem 3.2, (3.13) of arXiv 2505.04417, explicit constants.

    With :math:`s^*_j` the best score that reads only :math:`N_j^r`, (3.11), and the graph (S, nu)-local, (3.12),

    .. math:: \int \|s^*_j - s_j\|^2 dt
        \;\le\; d_j \frac\kappa2 \sum_{k = \mathrm{dist}(i, j) > r} \frac{q^{2k}}{2k - 1}
        \;\le\; d_j \frac{S\, \Gamma(\nu + 1)}2 \kappa^{\nu + 2} (r + 1)^\nu \frac{q^{2(r + 1)}}{2r + 1}.

    The paper states the shape of the last; the constants are derived in (N.4) and (N.5).

    Parameters
    ----------
    graph : DependencyGraph
    m, M : float
        Ends of the curvature of :math:`-\log p_0`, with 0 < m <= M.
    radius : array_like of int
        Hops, at least 0.
    n_channels : int
        Components :math:`d_j` of a vertex.
    vertices : array_like of int, optional
        The vertices j of form (i); by default all, for graphs of some ten thousand vertices at most.

    Returns
    -------
    LocalizationBound

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> from nearfield.graph import DependencyGraph
    >>> bound = localization_error_bound(DependencyGraph.chain(100), 0.5, 2.0, [0, 5, 10])
    >>> bound.by_distance.max(axis=1).round(4).tolist(), bound.by_growth.round(4).tolist()
    ([2.9189, 0.0224, 0.0007], [36.0, 1.1058, 0.0598])
    """
    _check_curvature(m, M)
    radii = checked_radii(radius)
    S, nu = graph.growth()
    kappa, ahead = M / m, radii + 1.0
    # Gamma(nu + 1) is below 1 for nu in (0, 1), where the proof gives 1.
    constant = n_channels * S * max(1.0, gamma(nu + 1)) / 2 * kappa ** (nu + 2)
    by_growth = constant * ahead**nu * (1 - 1 / kappa) ** (2 * ahead) / (2 * ahead - 1)
    sources = np.arange(len(graph)) if vertices is None else np.atleast_1d(vertices)
    hops = csgraph.dijkstra(graph.adjacency, directed=False, indices=sources, unweighted=True)
    hops[~np.isfinite(hops)] = 0  # no path, no dependence; the vertex itself is never beyond a radius either
    each = np.where(hops > 0, lemma_b1_bound(m, M, np.maximum(hops, 1)), 0.0)
    by_distance = n_channels * np.stack([np.where(hops > r, each, 0.0).sum(axis=1) for r in radii])
    return LocalizationBound(radii, by_distance, by_growth)


def _check_curvature(m: float, M: float) -> None:
    if not 0 < m <= M < math.inf:
        raise ValueError(f"m and M must be 0 < m <= M, got {m} and {M}; they are the least and the largest curvature")


def _ratios(m: float, M: float, distance: ArrayLike) -> tuple[float, float, Float[np.ndarray, "..."]]:
    _check_curvature(m, M)
    k = np.asarray(distance, dtype=float)
    if not (k >= 1).all():
        raise ValueError(f"distance must be at least 1 hop, got {k.min()}; a vertex always reads itself")
    return M / m, 1 - m / M, k


def checked_radii(radius: ArrayLike) -> Int[np.ndarray, " radius"]:
    """Return radii in a row; refuse others than whole numbers."""
    remedy = "give hops; 0 is the vertex alone"
    return np.array([whole_number("radius", r, 0, remedy) for r in np.asarray(radius).ravel()], dtype=np.int64)
