r"""Delta-locality, and what an error of the score does to a marginal (Cui, Liu and Tong, arXiv 2410.11771).

A law is :math:`\delta`-local if, for every vertex j and 1-Lipschitz :math:`\varphi(x_j)`, the solution u of Stein's
equation :math:`\Delta u + \nabla \log p \cdot \nabla u = \mathrm E \varphi - \varphi(x_j)` has
:math:`\sum_i \sup |\nabla_i u| \le \delta`. Then marginals of any other law p' are close,

.. math:: \max_j W_1(p_j, p'_j) \le \delta\, \max_i \mathrm E_{p'} |\nabla_i \log p - \nabla_i \log p'|. \tag{C.2}

u is an integral over a Langevin path :math:`X_t` from x, and its gradient one over the derivative J of the path,
:math:`\dot J = \nabla^2 \log p(X_t)\, J`, so that

.. math:: \delta \le \max_j \sum_i \sup_x \int_0^\infty \mathrm E_x |J_{ji}(t)|\, dt. \tag{C.3}

For a Gaussian of precision P, :math:`J = e^{-tP}` whatever the path.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from scipy.special import gamma

from nearfield._checks import whole_number
from nearfield.graph import DependencyGraph
from nearfield.noise import Stream, normals, seed_of
from nearfield.posterior.density import LocalDensity
from nearfield.theory.concavity import concavity

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy.typing import ArrayLike
    from torch import Tensor

__all__ = ["DeltaLocality", "concave_delta", "delta_locality", "dominant_delta", "gaussian_delta", "marginal_bound"]

_NODES = 24  # of Gauss and Legendre, on each octave of time
_OCTAVES = 40  # the first time is below the shortest time of relaxation by 2 ** -8


def gaussian_delta(precision: Any) -> float:
    r""":math:`\delta` of a Gaussian law, :math:`\max_j \sum_i \int_0^\infty |e^{-tP}|_{ji}\, dt`, exactly.

    Where no entry off the diagonal of P is positive it is the largest row sum of the covariance.

    Parameters
    ----------
    precision : ndarray or sparse array (vertex, vertex)
        Symmetric positive definite; it is made dense.

    Raises
    ------
    ValueError
        If it is not positive definite.

    Examples
    --------
    >>> round(gaussian_delta(np.array([[2.0, -1.0], [-1.0, 2.0]])), 6), round(gaussian_delta(np.diag([2.0, 4.0])), 6)
    (1.0, 0.5)
    """
    P = precision.toarray() if hasattr(precision, "toarray") else np.asarray(precision, dtype=float)
    m, M = concavity(P)
    off = P - np.diag(np.diag(P))
    if off.max() <= 0:
        return float(np.abs(np.linalg.inv(P)).sum(1).max())
    values, vectors = np.linalg.eigh(P)
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    edges = np.concatenate([[0.0], np.geomspace(2.0**-8 / M, 40 / m, _OCTAVES)])
    total = np.zeros_like(P)
    for low, high in itertools.pairwise(edges):
        for node, weight in zip(nodes, weights, strict=True):
            t = low + (high - low) * (node + 1) / 2
            total += weight * (high - low) / 2 * np.abs((vectors * np.exp(-values * t)) @ vectors.T)
    return float(total.sum(1).max())


def concave_delta(m: float, M: float, graph: DependencyGraph) -> float:
    r"""Bound on :math:`\delta` of a log-concave law, :math:`\frac1m (1 + S\, \nu!\, \kappa^\nu)`, (S, nu) as in (3.12).

    Parameters
    ----------
    m, M : float
        Ends of the curvature of :math:`-\log p`, with 0 < m <= M.
    graph : DependencyGraph

    Raises
    ------
    ValueError
        If m or M is out of range.

    Examples
    --------
    >>> concave_delta(0.5, 2.0, DependencyGraph.chain(100))
    18.0
    """
    if not 0 < m <= M < float("inf"):
        raise ValueError(f"m and M must be 0 < m <= M, got {m} and {M}; they are the least and the largest curvature")
    S, nu = graph.growth()
    return float((1 + S * max(1.0, gamma(nu + 1)) * (M / m) ** nu) / m)


def dominant_delta(least: ArrayLike, coupling: Any) -> float:
    r"""Bound on :math:`\delta` of a law whose curvature has a dominant diagonal.

    .. math:: \delta \le 1/c, \qquad
        c = \min_j \big(\inf (-\partial_j^2 \log p) - \sum_{i \ne j} \sup |\partial_{ij} \log p|\big).

    Parameters
    ----------
    least : array_like (vertex,)
        Least curvature :math:`-\partial_j^2 \log p` of each vertex, over all states.
    coupling : ndarray or sparse array (vertex, vertex)
        Largest :math:`|\partial_{ij} \log p|`; the diagonal counts nowhere.

    Raises
    ------
    ValueError
        If the diagonal does not dominate.

    Examples
    --------
    >>> dominant_delta([2.0, 2.0], np.array([[0.0, -1.0], [-1.0, 0.0]]))
    1.0
    """
    B = np.abs(coupling.toarray() if hasattr(coupling, "toarray") else np.asarray(coupling, dtype=float))
    c = float((np.asarray(least, dtype=float) - B.sum(1) + np.diag(B)).min())
    if not c > 0:
        raise ValueError(f"least must exceed the sum of the couplings at each vertex, got a difference of {c:.3g}")
    return 1 / c


@final
@dataclass(frozen=True)
class DeltaLocality:
    r"""Estimate of :math:`\delta`.

    Attributes
    ----------
    value : float
    error : float
        Standard error of Monte Carlo; 0 where the value is exact.
    rest : float
        Share of :math:`|J|` that is left at the horizon.
    """

    value: float
    error: float = 0.0
    rest: float = 0.0


def delta_locality(
    law: LocalDensity | Any,
    start: Float[np.ndarray, "start vertex"] | None = None,
    *,
    vertices: ArrayLike | None = None,
    n_paths: int = 32,
    step_size: float = 0.02,
    horizon: float = 10.0,
    seed: int = 0,
) -> DeltaLocality:
    r"""Estimate :math:`\delta`: exactly of a Gaussian, by coupled Langevin paths (C.3) of any other law.

    The supremum over x is taken over the given starts, so that (C.3) is estimated from below. Paths from x and from
    its neighbours share their noise; J is their difference. A path takes steps of Euler, J those of Heun.

    Parameters
    ----------
    law : LocalDensity, or ndarray or sparse array (vertex, vertex)
        A density, or the precision of a Gaussian.
    start : float array (start, vertex)
        States x, for example a few samples of the law.
    vertices : array_like of int, optional
        The vertices j; by default all. The cost is quadratic in the number of vertices of the graph.
    n_paths : int
        Paths from each start, at least 2.
    step_size, horizon : float
        Of the paths, in units of time.
    seed : int
        In [0, 2**64).

    Raises
    ------
    ValueError
        If a number is out of range, or the paths still remember their start at the horizon.

    Examples
    --------
    >>> delta_locality(np.array([[2.0, -1.0], [-1.0, 2.0]])).value
    1.0
    """
    if not isinstance(law, LocalDensity):
        return DeltaLocality(gaussian_delta(law))
    if start is None or start.ndim != 2 or start.shape[1] != law.n_vertices:
        raise ValueError(
            f"start must have shape (start, {law.n_vertices}), got {None if start is None else start.shape}"
        )
    n_paths = whole_number("n_paths", n_paths, 2)
    if not 0 < step_size < horizon:
        raise ValueError(f"step_size must be positive and below the horizon {horizon}, got {step_size}")
    chosen = np.arange(law.n_vertices) if vertices is None else np.unique(np.asarray(vertices))
    total, last, first = _integrals(law, start, chosen, n_paths, step_size, round(horizon / step_size), seed_of(seed))
    rest = float(last.mean() / first.mean())
    if rest > 0.01:
        raise ValueError(f"horizon must be longer than {horizon:g}: {rest:.1%} of the derivative is left there")
    mean = total.mean(1)  # (start, chosen, vertex)
    largest, at = mean.max(0), mean.argmax(0)
    j = int(largest.sum(1).argmax())
    paths = np.stack([total[at[j, i], :, j, i] for i in range(law.n_vertices)], axis=1)
    error = float(paths.sum(1).std(ddof=1) / np.sqrt(n_paths))
    return DeltaLocality(float(largest[j].sum()), error, rest)


def _integrals(
    law: LocalDensity,
    start: Float[np.ndarray, "start vertex"],
    chosen: np.ndarray,
    n_paths: int,
    h: float,
    n_steps: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Integrals of |J_ji| (start, path, j, i), and |J| of the rows j at the end and at the beginning."""
    n, rows = law.n_vertices, torch.from_numpy(chosen)
    total = []
    for state in start:
        x = torch.from_numpy(np.repeat(np.asarray(state, dtype=np.float64)[None], n_paths, axis=0))
        J = torch.eye(n, dtype=torch.float64).expand(n_paths, n, n)  # (path, source i, vertex)
        first = J[:, :, rows].abs().sum((1, 2))
        integral = torch.zeros(n_paths, n, len(rows), dtype=torch.float64)
        pull = _hessian_product(law, x, J)
        for k in range(n_steps):
            xi = torch.from_numpy(normals(seed, Stream.STEP, range(n_paths), k, n, 1)[..., 0])
            integral += h / 2 * J[:, :, rows].abs()
            x = x + h * law.gradient(x) + (2 * h) ** 0.5 * xi
            ahead = _hessian_product(law, x, J + h * pull)
            J = J + h / 2 * (pull + ahead)
            pull = _hessian_product(law, x, J)
            integral += h / 2 * J[:, :, rows].abs()
        total.append((integral.transpose(1, 2).numpy(), J[:, :, rows].abs().sum((1, 2)).numpy(), first.numpy()))
    found, last, begin = (np.stack(parts) for parts in zip(*total, strict=True))
    return found, last, begin


def _hessian_product(
    law: LocalDensity, x: Float[Tensor, "path vertex"], J: Float[Tensor, "path source vertex"]
) -> Float[Tensor, "path source vertex"]:
    """Product of the Hessian at each path with all its tangents."""
    return law.hessian_product(x[:, None].expand_as(J).contiguous(), J)


def marginal_bound(delta: float, score_difference: Float[np.ndarray, "sample vertex *channel"]) -> float:
    r"""Bound on the largest :math:`W_1` distance of marginals, (C.2).

    Parameters
    ----------
    delta : float
        Of the law whose score is known.
    score_difference : float array (sample, vertex, ...)
        Difference of both scores at states **of the other law**, such as draws of a fitted model.

    Returns
    -------
    float
        In units of the field.

    Raises
    ------
    ValueError
        If `delta` is not positive.

    Examples
    --------
    A Gaussian of variance 1 and mean 0 or 1: the score differs by 1.

    >>> marginal_bound(gaussian_delta(np.eye(1)), np.ones((10, 1)))
    1.0
    """
    if not delta > 0:
        raise ValueError(f"delta must be positive, got {delta}")
    difference = np.abs(score_difference) if score_difference.ndim == 2 else np.linalg.norm(score_difference, axis=2)
    return delta * float(difference.mean(0).max())
