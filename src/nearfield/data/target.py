r"""Laws whose truth is known, to measure a fitted model against.

A `Target` draws exact samples on a known graph; a `GaussianTarget` also knows its covariance, its log-density and the
exact denoiser of the forward process :math:`x_t = a x_0 + s \xi`, :math:`a = e^{-t}`, :math:`s^2 = 1 - e^{-2t}`.
Everything here is numpy in float64 and uses no other part of the library but the graph, so that it can serve as oracle.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import numpy as np
import scipy.fft
import scipy.linalg
import scipy.signal
import scipy.sparse
import scipy.sparse.linalg

from nearfield.graph import DependencyGraph

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from numpy import ndarray
    from numpy.typing import ArrayLike

__all__ = ["AutoregressiveChain", "GaussianMarkovField", "GaussianTarget", "Target", "chain_maximum_likelihood"]


class Target(abc.ABC):
    """A law on a graph that can be sampled exactly.

    To add one, derive from this class (or from `GaussianTarget`), give `graph` and `sample`, and whatever else is known
    in closed form.

    Examples
    --------
    >>> isinstance(AutoregressiveChain(0.8, 100), Target)
    True
    """

    @property
    @abc.abstractmethod
    def graph(self) -> DependencyGraph:
        """The dependency graph of the law (2.9)."""

    @property
    def n_vertices(self) -> int:
        """Number of vertices."""
        return self.graph.n_vertices

    @abc.abstractmethod
    def sample(
        self, n_samples: int, random_state: int | np.random.Generator | None = None
    ) -> Float[ndarray, "sample vertex channel"]:
        """Draw independent samples.

        Parameters
        ----------
        n_samples : int
            How many.
        random_state : int, numpy.random.Generator or None
            Handed to `numpy.random.default_rng`, so that a data set is named by one integer.

        Returns
        -------
        ndarray, (sample, vertex, channel)
            Exact draws, float64.
        """


class GaussianTarget(Target):
    """A centred Gaussian law of one channel, given by its sparse precision matrix.

    Examples
    --------
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

    def log_prob(self, x: Float[ndarray, "sample vertex channel"]) -> Float[ndarray, " sample"]:
        """Exact log-density, in nats.

        Parameters
        ----------
        x : ndarray, (sample, vertex, 1)
            States.

        Returns
        -------
        ndarray, (sample,)
            ``log p(x)``.

        Examples
        --------
        >>> AutoregressiveChain(0.8, 3).log_prob(np.zeros((1, 3, 1))).round(4).tolist()
        [-1.7352]
        """
        z = self._field(x)
        quadratic = np.sum(z * (self.precision @ z), axis=0)
        return 0.5 * (self.log_det_precision - quadratic - self.n_vertices * np.log(2 * np.pi))

    def denoise(
        self, x: Float[ndarray, "sample vertex channel"], t: ArrayLike
    ) -> Float[ndarray, "sample vertex channel"]:
        r"""Exact denoiser :math:`E[x_0 \mid x_t] = a (a^2 I + s^2 P)^{-1} x_t`, from the posterior of (2.5).

        Parameters
        ----------
        x : ndarray, (sample, vertex, 1)
            Noised states :math:`x_t`.
        t : float or array of shape (sample,)
            OU time, at least 0. At 0 the answer is `x` itself.

        Returns
        -------
        ndarray, (sample, vertex, 1)
            Posterior means of the clean states.

        Raises
        ------
        ValueError
            If `t` is negative or its length is not the number of samples.

        Examples
        --------
        >>> AutoregressiveChain(0.0, 1).denoise(np.ones((1, 1, 1)), np.log(2.0)).round(4).tolist()
        [[[0.5]]]
        """
        z = self._field(x)
        times = np.asarray(t, dtype=np.float64)
        if times.ndim > 1 or (times.ndim == 1 and times.size != z.shape[1]):
            raise ValueError(f"t must be a number or one time per sample ({z.shape[1]}), got shape {times.shape}")
        if not np.all(times >= 0):
            raise ValueError(f"t is an OU time and must be at least 0, got {times.min()}")
        clean = np.empty_like(z)
        each = np.broadcast_to(times, z.shape[1:])
        for time in np.unique(each):
            a, variance = np.exp(-time), -np.expm1(-2 * time)
            clean[:, each == time] = self._solve(a**2, variance, a * z[:, each == time])
        return clean.T[..., None]

    def _field(self, x: Float[ndarray, "sample vertex channel"]) -> Float[ndarray, "vertex sample"]:
        states = np.asarray(x, dtype=np.float64)
        if states.ndim != 3 or states.shape[1:] != (self.n_vertices, 1):
            raise ValueError(f"x must have shape (sample, {self.n_vertices}, 1), got {states.shape}")
        return np.ascontiguousarray(states[..., 0].T)


@final
@dataclass(frozen=True)
class AutoregressiveChain(GaussianTarget):
    r"""Stationary AR(1) chain of unit variance: :math:`x_{i+1} = \alpha x_i + \sqrt{1-\alpha^2}\, \xi_i`.

    Covariance :math:`\alpha^{|i-j|}`, tridiagonal precision; everything costs O(n) per sample. The paper's section 4.2
    has such chains.

    Parameters
    ----------
    alpha : float
        Correlation of neighbours, between -1 and 1, both excluded.
    n : int
        Number of vertices, at least 1.

    Raises
    ------
    ValueError
        If `alpha` or `n` is out of range.

    Examples
    --------
    >>> chain = AutoregressiveChain(0.8, 100)
    >>> chain.sample(3, random_state=0).shape
    (3, 100, 1)
    """

    alpha: float
    n: int

    def __post_init__(self) -> None:
        if not -1 < self.alpha < 1:
            raise ValueError(f"alpha must lie between -1 and 1 for a stationary chain, got {self.alpha}")
        if self.n < 1:
            raise ValueError(f"n must be at least 1 vertex, got {self.n}")

    @cached_property
    def graph(self) -> DependencyGraph:
        """A chain of `n` vertices."""
        return DependencyGraph.chain(self.n)

    @cached_property
    def precision(self) -> scipy.sparse.csc_array:
        """Tridiagonal inverse covariance, (vertex, vertex)."""
        diagonal, off = self._bands
        return scipy.sparse.diags_array([off, diagonal, off], offsets=[-1, 0, 1], format="csc")

    @property
    def log_det_precision(self) -> float:
        """``-(n - 1) log(1 - alpha^2)``: one innovation variance for each vertex but the first."""
        return -(self.n - 1) * float(np.log1p(-(self.alpha**2)))

    def covariance(self) -> Float[ndarray, "vertex vertex"]:
        """Covariance ``alpha ** |i - j|``, (vertex, vertex)."""
        return scipy.linalg.toeplitz(np.power(float(self.alpha), np.arange(self.n)))

    def sample(
        self, n_samples: int, random_state: int | np.random.Generator | None = None
    ) -> Float[ndarray, "sample vertex channel"]:
        """Draw independent chains by running the recursion; see `Target.sample`."""
        innovations = np.random.default_rng(random_state).standard_normal((n_samples, self.n))
        innovations[:, 1:] *= np.sqrt(1 - self.alpha**2)
        return scipy.signal.lfilter([1.0], [1.0, -self.alpha], innovations, axis=1)[..., None]

    @property
    def _bands(self) -> tuple[Float[ndarray, " vertex"], Float[ndarray, " edge"]]:
        """Diagonal and first off-diagonal of the precision; end vertices have one neighbour to be predicted from."""
        diagonal = np.full(self.n, 1 + self.alpha**2)
        diagonal[0] -= self.alpha**2
        diagonal[-1] -= self.alpha**2
        return diagonal / (1 - self.alpha**2) if self.n > 1 else np.ones(1), np.full(
            self.n - 1, -self.alpha / (1 - self.alpha**2)
        )

    def _solve(
        self, identity: float, precision: float, right: Float[ndarray, "vertex k"]
    ) -> Float[ndarray, "vertex k"]:
        diagonal, off = self._bands
        upper, lower = np.append(0.0, off), np.append(off, 0.0)
        bands = np.stack([precision * upper, identity + precision * diagonal, precision * lower])
        return scipy.linalg.solve_banded((1, 1), bands, right)


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
    One sparse Cholesky factor serves samples and log-density: 100,000 vertices of a grid take a few seconds.
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
            Length of each axis, at least 3 on a torus (1 to 3 axes).
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
            If `kappa` is not positive.

        Examples
        --------
        >>> GaussianMarkovField.stationary((8, 8)).covariance().diagonal().round(12).max().item()
        1.0
        """
        if not kappa > 0:
            raise ValueError(f"kappa must be positive for the field to have a variance, got {kappa}")
        graph = DependencyGraph.grid(tuple(shape), periodic=periodic)
        # The Laplacian of a lattice is diagonal in Fourier (torus) or cosine (free borders) modes, axis by axis, so the
        # variances are known exactly at any size.
        eigenvalues = np.full(tuple(shape), float(kappa))
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
        return 0.5 * (inverse + inverse.T)

    def sample(
        self, n_samples: int, random_state: int | np.random.Generator | None = None
    ) -> Float[ndarray, "sample vertex channel"]:
        """Draw independent fields with the Cholesky factor of the precision; see `Target.sample`."""
        xi = np.random.default_rng(random_state).standard_normal((n_samples, self.n_vertices))
        factor = self._factor
        # P[p][:, p] = L D L', so x[p] = L'^-1 D^-1/2 xi has the covariance P^-1
        upper = scipy.sparse.csr_array(factor.L.T)
        x = scipy.sparse.linalg.spsolve_triangular(upper, (xi / np.sqrt(factor.U.diagonal())).T, lower=False)
        return x[factor.perm_c].T[..., None]

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
        return _symmetric_lu(shifted).solve(right)


def chain_maximum_likelihood(x: Float[ndarray, "sample vertex channel"]) -> Float[ndarray, "vertex vertex"]:
    r"""Covariance of the most likely centred Gaussian chain: known graph, known zero mean, nothing else.

    The second moments of a vertex and of a pair of neighbours are those of the sample, :math:`S = \frac1N \sum x x'`;
    vertices further apart are independent given those between, so :math:`C_{i,j+1} = C_{ij} S_{j,j+1} / S_{jj}` (the
    closed form of a decomposable graphical model; Lauritzen 1996, section 5.3).

    Parameters
    ----------
    x : ndarray, (sample, vertex, 1)
        Centred samples, in the order of the chain.

    Returns
    -------
    ndarray, (vertex, vertex)
        The covariance; its inverse is tridiagonal.

    Raises
    ------
    ValueError
        If `x` has another shape, or fewer than two samples, where the likelihood of a pair is unbounded.

    Examples
    --------
    >>> x = AutoregressiveChain(0.8, 5).sample(1000, random_state=0)
    >>> abs(chain_maximum_likelihood(x)[0, 1] - 0.8).item() < 0.1
    True
    """
    states = np.asarray(x, dtype=np.float64)
    if states.ndim != 3 or states.shape[2] != 1 or states.shape[0] < 2:
        raise ValueError(f"x must have shape (sample, vertex, 1) with at least 2 samples, got {states.shape}")
    field = states[..., 0]
    second = np.mean(field**2, axis=0)
    slope = np.mean(field[:, :-1] * field[:, 1:], axis=0) / second[:-1]
    covariance = np.diag(second)
    for j, regression in enumerate(slope):
        covariance[: j + 1, j + 1] = covariance[: j + 1, j] * regression
    return np.triu(covariance) + np.triu(covariance, 1).T


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
