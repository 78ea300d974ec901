r"""Laws ready to be sampled: Gaussian Markov fields, the :math:`\varphi^4` model and posteriors under such priors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array, triu

from nearfield.graph import DependencyGraph
from nearfield.posterior.density import Factors, LocalDensity

if TYPE_CHECKING:
    from jaxtyping import Int
    from numpy.typing import ArrayLike
    from torch import Tensor

__all__ = [
    "gaussian_markov",
    "linear_inverse",
    "logistic_observations",
    "phi4",
    "poisson_observations",
    "total_variation",
]


def gaussian_markov(precision: Any, mean: ArrayLike = 0.0, blocks: int | ArrayLike = 1) -> LocalDensity:
    r"""Gaussian Markov field, :math:`\log p(x) = -\frac12 (x - \mu)^\top P (x - \mu)`.

    Parameters
    ----------
    precision : sparse or dense matrix (vertex, vertex)
        Symmetric positive definite.
    mean : float or float array (vertex,)
    blocks : int or int array (vertex,)
        As in `LocalDensity`.

    Examples
    --------
    >>> gaussian_markov(np.array([[2.0, -1.0], [-1.0, 2.0]]), mean=1.0).log_density(torch.zeros(2)).item()
    -1.0
    """
    factors = _gaussian_factors(precision, mean)
    return LocalDensity(DependencyGraph.from_adjacency(precision), factors, blocks)


def phi4(
    graph: DependencyGraph,
    beta: float = 1.0,
    boundary: Literal["free", "zero"] = "free",
    blocks: int | ArrayLike = 1,
) -> LocalDensity:
    r"""Lattice model with two wells, the lattice field theory of a real scalar.

    .. math:: \log p(x) = -\beta \sum_{i \sim j} \tfrac12 (x_i - x_j)^2 - \beta \sum_i \tfrac14 (1 - x_i^2)^2

    Parameters
    ----------
    graph : DependencyGraph
    beta : float
        Inverse temperature, positive.
    boundary : {"free", "zero"}
        "zero" joins the ends of a lattice to vertices of value 0.
    blocks : int or int array (vertex,)
        As in `LocalDensity`.

    Raises
    ------
    ValueError
        If `beta` is not positive, or the boundary is "zero" on a graph that is no whole lattice.

    Examples
    --------
    >>> phi4(DependencyGraph.chain(2), boundary="zero").log_density(torch.ones(2)).item()
    -1.0
    """
    if not 0 < beta < float("inf"):
        raise ValueError(f"beta must be positive and finite, got {beta}")
    ends = np.zeros(graph.n_vertices)
    if boundary == "zero":
        if graph.lattice is None or graph.keep is not None or graph.lattice.diagonal:
            raise ValueError(f"boundary must be 'free' unless the graph is a whole lattice, got 'zero' on {graph!r}")
        ends = 2 * len(graph.lattice.shape) - np.asarray(graph.adjacency.sum(axis=1), dtype=float).ravel()
    elif boundary != "free":
        raise ValueError(f"boundary must be 'free' or 'zero', got {boundary!r}")

    def site(x: Tensor, ends: Tensor) -> Tensor:
        return -beta * (0.25 * (1 - x[..., 0] ** 2) ** 2 + 0.5 * ends * x[..., 0] ** 2)

    def bond(x: Tensor) -> Tensor:
        return -0.5 * beta * (x[..., 0] - x[..., 1]) ** 2

    factors = [Factors(_sites(graph.n_vertices), site, [ends]), Factors(_bonds(graph), bond)]
    return LocalDensity(graph, factors, blocks)


def logistic_observations(
    precision: Any, vertices: ArrayLike, labels: ArrayLike, mean: ArrayLike = 0.0, blocks: int | ArrayLike = 1
) -> LocalDensity:
    r"""Gaussian Markov prior seen through labels, :math:`P(y_k = 1 \mid x) = 1 / (1 + e^{-x_{v_k}})`.

    Parameters
    ----------
    precision, mean, blocks
        As in `gaussian_markov`.
    vertices : int array (observation,)
        Vertex v of each label; it may repeat.
    labels : array (observation,)
        0 or 1.

    Raises
    ------
    ValueError
        If a label is neither 0 nor 1.

    Examples
    --------
    >>> round(logistic_observations(np.eye(2), [0], [1]).log_density(torch.zeros(2)).item(), 4)
    -0.6931
    """
    y = np.asarray(labels, dtype=np.float64)
    if not np.isin(y, (0, 1)).all():
        raise ValueError(f"labels must be 0 or 1, got {y[~np.isin(y, (0, 1))][0]}")

    def log_likelihood(x: Tensor, y: Tensor) -> Tensor:
        return y * x[..., 0] - torch.nn.functional.softplus(x[..., 0])

    seen = Factors(np.asarray(vertices)[:, None], log_likelihood, [y])
    factors = [*_gaussian_factors(precision, mean), seen]
    return LocalDensity(DependencyGraph.from_adjacency(precision), factors, blocks)


def poisson_observations(
    precision: Any, vertices: ArrayLike, counts: ArrayLike, mean: ArrayLike = 0.0, blocks: int | ArrayLike = 1
) -> LocalDensity:
    r"""Gaussian Markov prior of log-rates seen through counts, :math:`y_k \mid x \sim \mathrm{Poisson}(e^{x_{v_k}})`.

    Parameters
    ----------
    precision, mean, blocks
        As in `gaussian_markov`.
    vertices : int array (observation,)
        Vertex v of each count; it may repeat.
    counts : array (observation,)
        Non-negative whole numbers.

    Raises
    ------
    ValueError
        If a count is negative or no whole number.

    Examples
    --------
    >>> poisson_observations(np.eye(2), [0], [3]).log_density(torch.zeros(2)).item()
    -1.0
    """
    y = np.asarray(counts, dtype=np.float64)
    bad = (y < 0) | (y != np.floor(y))
    if bad.any():
        raise ValueError(f"counts must be non-negative whole numbers, got {y[bad][0]}")

    def log_likelihood(x: Tensor, y: Tensor) -> Tensor:
        return y * x[..., 0] - torch.exp(x[..., 0])

    seen = Factors(np.asarray(vertices)[:, None], log_likelihood, [y])
    factors = [*_gaussian_factors(precision, mean), seen]
    return LocalDensity(DependencyGraph.from_adjacency(precision), factors, blocks)


def linear_inverse(
    precision: Any,
    forward: Any,
    data: ArrayLike,
    noise_std: ArrayLike,
    mean: ArrayLike = 0.0,
    blocks: int | ArrayLike = 1,
) -> LocalDensity:
    r"""Gaussian Markov prior seen through a local forward map, :math:`y = A x + \sigma \xi`.

    Parameters
    ----------
    precision, mean, blocks
        As in `gaussian_markov`.
    forward : sparse or dense matrix (observation, vertex)
        A, with few entries in each row.
    data : float array (observation,)
        y.
    noise_std : float or float array (observation,)
        :math:`\sigma`, positive.

    Raises
    ------
    ValueError
        If `noise_std` is not positive, or shapes do not go together.

    Examples
    --------
    >>> law = linear_inverse(np.eye(2), np.array([[1.0, 1.0]]), [1.0], 0.5)
    >>> law.log_density(torch.zeros(2)).item(), law.graph
    (-2.0, DependencyGraph(2 vertices, 1 edges))
    """
    prior = _gaussian_factors(precision, mean)
    misfit = _misfit_factors(forward, data, noise_std)
    return LocalDensity.of_factors(precision.shape[0], [*prior, misfit], blocks)


def total_variation(
    graph: DependencyGraph,
    weight: float,
    smoothing: float,
    forward: Any,
    data: ArrayLike,
    noise_std: ArrayLike,
    blocks: int | ArrayLike = 1,
) -> LocalDensity:
    r"""Smoothed total-variation prior seen through a local forward map.

    .. math:: \log p(x) = -\lambda \sum_{i \sim j} \sqrt{(x_i - x_j)^2 + \epsilon^2} - \tfrac12 |(y - A x) / \sigma|^2

    Parameters
    ----------
    graph : DependencyGraph
        Whose edges carry the variation.
    weight, smoothing : float
        :math:`\lambda` and :math:`\epsilon`, positive.
    forward, data, noise_std
        As in `linear_inverse`.
    blocks : int or int array (vertex,)
        As in `LocalDensity`.

    Raises
    ------
    ValueError
        If a number is not positive, or shapes do not go together.

    Examples
    --------
    >>> law = total_variation(DependencyGraph.chain(2), 1.0, 0.5, np.eye(2), np.zeros(2), 1.0)
    >>> law.log_density(torch.zeros(2)).item()
    -0.5
    """
    for name, value in (("weight", weight), ("smoothing", smoothing)):
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")

    def variation(x: Tensor) -> Tensor:
        return -weight * torch.sqrt((x[..., 0] - x[..., 1]) ** 2 + smoothing**2)

    factors = [Factors(_bonds(graph), variation), _misfit_factors(forward, data, noise_std)]
    return LocalDensity.of_factors(graph.n_vertices, factors, blocks)


def _sites(n: int) -> Int[np.ndarray, "vertex 1"]:
    return np.arange(n)[:, None]


def _bonds(graph: DependencyGraph) -> Int[np.ndarray, "edge 2"]:
    return np.stack(triu(graph.adjacency, 1).nonzero(), axis=1)


def _gaussian_factors(precision: Any, mean: ArrayLike) -> list[Factors]:
    """Factors of the vertices and of the edges of a Gaussian Markov field."""
    P = csr_array(precision, dtype=np.float64)
    n = P.shape[0]
    if P.shape != (n, n) or abs(P - P.T).max() > 1e-12 * abs(P).max():
        raise ValueError(
            f"precision must be a symmetric matrix, got one of shape {P.shape} that differs from its transpose"
        )
    centre = np.broadcast_to(np.asarray(mean, dtype=np.float64), (n,))

    def site(x: Tensor, weight: Tensor, centre: Tensor) -> Tensor:
        return -0.5 * weight * (x[..., 0] - centre) ** 2

    def bond(x: Tensor, weight: Tensor, first: Tensor, second: Tensor) -> Tensor:
        return -weight * (x[..., 0] - first) * (x[..., 1] - second)

    upper = coo_array(triu(P, 1))
    i, j = upper.coords
    return [
        Factors(_sites(n), site, [P.diagonal(), centre]),
        Factors(np.stack([i, j], axis=1), bond, [upper.data, centre[i], centre[j]]),
    ]


def _misfit_factors(forward: Any, data: ArrayLike, noise_std: ArrayLike) -> Factors:
    """Gaussian log-likelihood of each row of a linear map; shorter rows repeat a vertex with weight 0."""
    A = csr_array(forward, dtype=np.float64)
    A.sum_duplicates()
    y = np.asarray(data, dtype=np.float64)
    std = np.broadcast_to(np.asarray(noise_std, dtype=np.float64), (A.shape[0],))
    if y.shape != (A.shape[0],):
        raise ValueError(f"data must have shape ({A.shape[0]},), a value for each row of forward, got {y.shape}")
    if not (std > 0).all():
        raise ValueError(f"noise_std must be positive, got {std.min()}")
    count = np.diff(A.indptr)
    if not count.all():
        raise ValueError(f"forward must have an entry in each row, got none in row {np.flatnonzero(count == 0)[0]}")
    column = np.arange(count.max())
    filled = column < count[:, None]
    entry = A.indptr[:-1, None] + np.where(filled, column, 0)
    weights = np.where(filled, A.data[entry], 0.0)

    def misfit(x: Tensor, weights: Tensor, y: Tensor, std: Tensor) -> Tensor:
        return -0.5 * (((x * weights).sum(-1) - y) / std) ** 2

    return Factors(A.indices[entry], misfit, [weights, y, std])
