"""The stationary Gaussian chain, and the estimate that knows it is one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, final

import numpy as np
import scipy.linalg
import scipy.signal
import scipy.sparse

from nearfield.datasets.gaussian import GaussianTarget
from nearfield.graph import DependencyGraph

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

__all__ = ["AutoregressiveChain", "chain_maximum_likelihood"]


@final
@dataclass(frozen=True)
class AutoregressiveChain(GaussianTarget):
    r"""Stationary AR(1) chain of unit variance: :math:`x_{i+1} = \alpha x_i + \sqrt{1-\alpha^2}\, \xi_i`.

    Covariance :math:`\alpha^{|i-j|}`, tridiagonal precision; everything costs O(n) per sample. The paper's section
    4.1.2 has such chains.

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
    symmetric: np.ndarray = np.triu(covariance) + np.triu(covariance, 1).T
    return symmetric
