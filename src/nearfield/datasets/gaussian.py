"""Gaussian laws: sparse precision, exact draws, log-density and denoiser."""

from __future__ import annotations

import abc
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import numpy as np
import scipy.fft
import scipy.sparse
import scipy.sparse.linalg

from nearfield.datasets.base import SolvedTarget
from nearfield.graph import DependencyGraph

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from numpy import ndarray
    from numpy.typing import ArrayLike

__all__ = ["GaussianMarkovField", "GaussianTarget"]


class GaussianTarget(SolvedTarget):
    """A centred Gaussian law of one channel, given by its sparse precision matrix.

    Examples
    --------
    >>> from nearfield.datasets import AutoregressiveChain
    >>> AutoregressiveChain(0.8, 4).covariance()[0].round(3).tolist()
    [1.0, 0.8, 0.64, 0.512]
    """

    @property
    @abc.abstractmethod
    def precision(self) -> scipy.sparse.csc_array:
        """Inverse covariance, (vertex, vertex), zero off the edges of the graph (2.9)."""

    @property
    @abc.abstractmethod
    def log_det_precision(self) -> float:
        """Logarithm of the determinant of the precision."""

    @abc.abstractmethod
    def covariance(self) -> Float[ndarray, "vertex vertex"]:
        """Covariance matrix, dense."""

    @abc.abstractmethod
    def _solve(
        self, identity: float, precision: float, right: Float[ndarray, "vertex k"]
    ) -> Float[ndarray, "vertex k"]:
        """Solve ``(identity * I + precision * P) z = right``."""

    @property
    def mean(self) -> float:
        """0: the law is centred."""
        return 0.0

    @property
    def std(self) -> float:
        """1: states are taken as they are."""
        return 1.0

    def log_prob(self, x: Float[ndarray, "sample vertex channel"]) -> Float[ndarray, " sample"]:
        """Exact log-density, in nats; see `SolvedTarget.log_prob`.

        Examples
        --------
        >>> from nearfield.datasets import AutoregressiveChain
        >>> AutoregressiveChain(0.8, 3).log_prob(np.zeros((1, 3, 1))).round(4).tolist()
        [-1.7352]
        """
        z = self._single_channel(x).T
        quadratic = np.sum(z * (self.precision @ z), axis=0)
        log_density: ndarray = 0.5 * (self.log_det_precision - quadratic - self.n_vertices * np.log(2 * np.pi))
        return log_density

    def denoise(
        self, x: Float[ndarray, "sample vertex channel"], t: ArrayLike
    ) -> Float[ndarray, "sample vertex channel"]:
        r"""Exact denoiser :math:`E[x_0 \mid x_t] = a (a^2 I + s^2 P)^{-1} x_t`; see `SolvedTarget.denoise`.

        Examples
        --------
        >>> from nearfield.datasets import AutoregressiveChain
        >>> AutoregressiveChain(0.0, 1).denoise(np.ones((1, 1, 1)), np.log(2.0)).round(4).tolist()
        [[[0.5]]]
        """
        return self._denoise_by_time(lambda z, a, variance: self._solve(a**2, variance, a * z.T).T, x, t)


@final
class GaussianMarkovField(GaussianTarget):
    """Centred Gaussian field with a given sparse precision.

    Parameters
    ----------
    precision : sparse array or ndarray, (vertex, vertex)
        Symmetric positive definite, zero between vertices that share no edge.
    graph : DependencyGraph
        The graph of the field.

    Raises
    ------
    ValueError
        If the precision has another size than the graph, couples vertices that share no edge, or is not symmetric
        positive definite.

    Notes
    -----
    One sparse Cholesky factor gives samples and log-density: 100,000 vertices of a grid take a few seconds.
    `covariance` is dense and for small fields.

    Examples
    --------
    >>> field = GaussianMarkovField.nonstationary((16, 16))
    >>> field.sample(50, random_state=0).shape
    (50, 256, 1)
    """

    def __init__(self, precision: Any, graph: DependencyGraph) -> None:
        matrix = scipy.sparse.csc_array(precision, dtype=np.float64)
        n = graph.n_vertices
        if matrix.shape != (n, n):
            raise ValueError(f"precision must be {n} x {n}, the size of the graph, got {matrix.shape}")
        if abs(matrix - matrix.T).max() > 1e-12 * abs(matrix).max():
            raise ValueError("precision must be symmetric, got a matrix that differs from its transpose")
        coupled = scipy.sparse.coo_array(matrix)
        allowed = graph.adjacency.astype(np.float64) + scipy.sparse.eye_array(n)
        if (abs(coupled) - abs(coupled).multiply(allowed > 0)).sum() > 0:
            raise ValueError("precision must be zero between vertices that share no edge of the graph (2.9)")
        self._precision, self._graph = matrix, graph
        _ = self._factor  # refuses a matrix that is not positive definite

    def __reduce__(self) -> tuple[Any, ...]:  # the factor is no Python object and cannot travel
        return type(self), (self._precision, self._graph)

    @property
    def graph(self) -> DependencyGraph:
        """The graph of the field."""
        return self._graph

    @property
    def precision(self) -> scipy.sparse.csc_array:
        """Inverse covariance, (vertex, vertex)."""
        return self._precision

    @classmethod
    def stationary(cls, shape: Sequence[int], kappa: float = 0.25, *, periodic: bool = True) -> GaussianMarkovField:
        r"""Field with precision proportional to graph Laplacian + `kappa`, scaled to unit variance.

        Parameters
        ----------
        shape : sequence of int
            Length of each axis, on a torus 1 or at least 3 (1 to 3 axes).
        kappa : float
            Positive; correlations fall as about :math:`e^{-\sqrt\kappa\,|i-j|}`.
        periodic : bool
            On a torus, where the field is stationary. Otherwise on a grid with free borders.

        Returns
        -------
        GaussianMarkovField
            Unit variance at every vertex.

        Raises
        ------
        ValueError
            If `kappa` is not positive, or an axis of a torus has two vertices, which touch twice.

        Examples
        --------
        >>> GaussianMarkovField.stationary((8, 8)).covariance().diagonal().round(12).max().item()
        1.0
        """
        if not kappa > 0:
            raise ValueError(f"kappa must be positive for the field to have a variance, got {kappa}")
        shape = tuple(shape)
        if periodic and 2 in shape:
            raise ValueError(f"shape must have at least 3 vertices along an axis of a torus, got {shape}; lengthen it")
        graph = DependencyGraph.grid(shape, periodic=periodic)
        # The Laplacian of a lattice is diagonal in Fourier (torus) or cosine (free borders) modes, axis by axis, so the
        # variances are known exactly at any size.
        eigenvalues = np.full(shape, float(kappa))
        for axis, n in enumerate(shape):
            angle = (2 if periodic else 1) * np.pi * np.arange(n) / n
            eigenvalues += np.expand_dims(2 - 2 * np.cos(angle), [k for k in range(len(shape)) if k != axis])
        variance = 1 / eigenvalues
        for axis, n in enumerate(shape):
            modes = scipy.fft.idct(np.eye(n), axis=0, norm="ortho") ** 2 if not periodic else np.full((n, n), 1 / n)
            variance = np.moveaxis(np.tensordot(modes, variance, axes=(1, axis)), 0, axis)
        return cls._unit_variance(
            _laplacian(graph) + kappa * scipy.sparse.eye_array(len(graph)), variance.ravel(), graph
        )

    @classmethod
    def nonstationary(
        cls, shape: Sequence[int] = (16, 16), kappa: tuple[float, float] = (0.15, 0.75)
    ) -> GaussianMarkovField:
        """Field whose correlation length falls along the first axis, scaled to unit variance.

        The precision is proportional to graph Laplacian + diag(kappa(x)), on a grid with free borders.

        Parameters
        ----------
        shape : sequence of int
            Length of each axis; the variances take a dense inverse, so up to a few thousand vertices.
        kappa : (float, float)
            Positive values at the first and the last line of the first axis, linear between.

        Returns
        -------
        GaussianMarkovField
            Unit variance at every vertex.

        Raises
        ------
        ValueError
            If a kappa is not positive.

        Examples
        --------
        >>> covariance = GaussianMarkovField.nonstationary((8, 8)).covariance()
        >>> bool(covariance[0, 1] > covariance[-2, -1])
        True
        """
        if not min(kappa) > 0:
            raise ValueError(f"kappa must be two positive numbers, got {kappa}")
        graph = DependencyGraph.grid(tuple(shape))
        along = np.repeat(np.linspace(*kappa, shape[0]), len(graph) // shape[0])
        precision = _laplacian(graph) + scipy.sparse.diags_array(along)
        return cls._unit_variance(precision, np.linalg.inv(precision.toarray()).diagonal(), graph)

    @classmethod
    def _unit_variance(
        cls, precision: Any, variance: Float[ndarray, " vertex"], graph: DependencyGraph
    ) -> GaussianMarkovField:
        scale = scipy.sparse.diags_array(np.sqrt(variance))
        return cls(scipy.sparse.csc_array(scale @ precision @ scale), graph)

    @property
    def log_det_precision(self) -> float:
        """Logarithm of the determinant of the precision, from its factor."""
        return float(np.sum(np.log(self._factor.U.diagonal())))

    def covariance(self) -> Float[ndarray, "vertex vertex"]:
        """Covariance matrix, dense: the inverse of the precision."""
        inverse = self._factor.solve(np.eye(self.n_vertices))
        covariance: ndarray = 0.5 * (inverse + inverse.T)
        return covariance

    def sample(
        self, n_samples: int, random_state: int | np.random.Generator | None = None
    ) -> Float[ndarray, "sample vertex channel"]:
        """Draw independent fields with the Cholesky factor of the precision; see `Target.sample`."""
        xi = np.random.default_rng(random_state).standard_normal((n_samples, self.n_vertices))
        factor = self._factor
        # P[p][:, p] = L D L', so x[p] = L'^-1 D^-1/2 xi has the covariance P^-1
        upper = scipy.sparse.csr_array(factor.L.T)
        x = scipy.sparse.linalg.spsolve_triangular(upper, (xi / np.sqrt(factor.U.diagonal())).T, lower=False)
        drawn: ndarray = x[factor.perm_c].T[..., None]
        return drawn

    @cached_property
    def _factor(self) -> Any:
        """SuperLU of the precision with symmetric ordering and no pivoting: L D L' where U = D L'."""
        try:
            factor = _symmetric_lu(self.precision)
        except RuntimeError as error:
            raise ValueError("precision must be positive definite, got a singular matrix") from error
        if not np.array_equal(factor.perm_r, factor.perm_c) or not np.all(factor.U.diagonal() > 0):
            raise ValueError("precision must be positive definite, got a matrix with a non-positive pivot")
        return factor

    def _solve(
        self, identity: float, precision: float, right: Float[ndarray, "vertex k"]
    ) -> Float[ndarray, "vertex k"]:
        shifted = identity * scipy.sparse.eye_array(self.n_vertices) + precision * self.precision
        solution: ndarray = _symmetric_lu(shifted).solve(right)
        return solution


def _laplacian(graph: DependencyGraph) -> Any:
    adjacency = graph.adjacency.astype(np.float64)
    return scipy.sparse.diags_array(adjacency.sum(axis=1), format="csr") - adjacency


def _symmetric_lu(matrix: Any) -> Any:
    return scipy.sparse.linalg.splu(
        scipy.sparse.csc_array(matrix),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True, "Equil": False},
    )
