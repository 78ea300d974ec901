"""The double-well chain: two states, neither of them the mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, final

import numpy as np
import scipy.linalg

from nearfield.datasets.hidden_chain import ChainTarget, HiddenChain

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray
    from numpy.typing import ArrayLike

__all__ = ["DoubleWellChain"]

_EXPONENT = 36.0  # energy of a well at the ends of the grid: density e^-36, below rounding
_MOMENT_CELLS = 480
_SAMPLE_CELLS = 512


@final
@dataclass(frozen=True)
class DoubleWellChain(ChainTarget):
    r"""Ginzburg-Landau chain :math:`p(x) \propto \exp(-\sum_i h(x_i^2-1)^2 - \frac J2 \sum_i (x_i - x_{i+1})^2)`.

    Free ends: the second sum runs over the ``length - 1`` edges. A Markov chain, so that its integrals are products of
    transfer matrices on a grid; the trapezoid rule on these smooth densities is exact to rounding. The law is symmetric
    and its mean is 0.

    Parameters
    ----------
    h : float
        Height of the barrier between the wells at -1 and 1, positive.
    J : float
        Coupling of neighbours, at least 0.
    length : int
        Number of vertices, at least 1.

    Raises
    ------
    ValueError
        If a parameter is out of range; on use, if `h` or `J` is so large that the width ``(8 h + 2 J) ** -0.5`` of a
        state in a well is below the spacing of the grid.

    Notes
    -----
    `sample` draws from the law on 512 nodes of spacing :math:`\Delta`, exactly, and moves each value uniformly within
    its cell. Means, and covariances of different vertices, stay exact; variances grow by :math:`\Delta^2/12`, which is
    7e-6 at h = 2.

    Examples
    --------
    >>> law = DoubleWellChain(h=2.0, J=3.0, length=128)
    >>> law.sample(3, random_state=0).shape, round(law.std, 4)
    ((3, 128, 1), 0.9084)
    """

    h: float
    J: float
    length: int

    def __post_init__(self) -> None:
        if not 0 < self.h < math.inf:
            raise ValueError(f"h must be positive and finite, got {self.h}")
        if not 0 <= self.J < math.inf:
            raise ValueError(f"J must be at least 0 and finite, got {self.J}")
        if self.length < 1:
            raise ValueError(f"length must be at least 1 vertex, got {self.length}")

    @property
    def mean(self) -> float:
        """0, by symmetry."""
        return 0.0

    @property
    def std(self) -> float:
        """Standard deviation of a vertex far from the ends: that of the endless chain.

        Raises
        ------
        ValueError
            If `h` or `J` is too large for 480 nodes.
        """
        return math.sqrt(self._endless(np.zeros(1))[0])

    def autocorrelation(self, lags: ArrayLike) -> Float[ndarray | np.float64, "*lag"]:
        """Correlation of states that many vertices apart in the endless chain, from the transfer matrix's spectrum.

        Raises
        ------
        ValueError
            If `h` or `J` is too large for 480 nodes.
        """
        lags = np.abs(np.asarray(lags, dtype=np.float64))
        return self._endless(lags.ravel()).reshape(lags.shape) / self.std**2

    def covariance(self) -> Float[ndarray, "vertex vertex"]:
        """Covariance of this chain, its free ends included; own units.

        Raises
        ------
        ValueError
            If `h` or `J` is too large for 480 nodes.
        """
        x, initial, kernel = self._transfer(_MOMENT_CELLS)
        after = self._after(kernel)
        before = initial
        paths = np.empty((0, len(x)))  # row i: sum over the states so far of x_i, by the present state
        covariance = np.empty((self.length, self.length))
        for j in range(self.length):
            paths = np.vstack([paths @ kernel if j else paths, before * x])
            normalizer = before @ after[j]
            covariance[j, : j + 1] = covariance[: j + 1, j] = paths @ (x * after[j]) / normalizer
            paths, before = paths / normalizer, (before / normalizer) @ kernel
        return covariance

    @cached_property
    def log_normalizer(self) -> float:
        """Logarithm of the integral of the unnormalised density of the class's formula.

        Raises
        ------
        ValueError
            If `h` or `J` is too large for 480 nodes.
        """
        _, message, kernel = self._transfer(_MOMENT_CELLS)
        total = 0.0
        for _ in range(self.length - 1):
            total += math.log(message.sum())
            message = (message / message.sum()) @ kernel
        return total + math.log(message.sum())

    def log_prob(self, x: Float[ndarray, "sample vertex channel"]) -> Float[ndarray, " sample"]:
        """Exact log-density, in nats, own units; see `SolvedTarget.log_prob`.

        Raises
        ------
        ValueError
            If `h` or `J` is too large for 480 nodes, or `x` has another shape.

        Examples
        --------
        >>> DoubleWellChain(h=2.0, J=3.0, length=2).log_prob(np.array([[[1.0], [1.0]]])).round(4).tolist()
        [0.1727]
        """
        states = self._single_channel(x)
        energy = self._well(states).sum(axis=1) + 0.5 * self.J * np.square(np.diff(states, axis=1)).sum(axis=1)
        log_density: ndarray = -energy - self.log_normalizer
        return log_density

    def sample(
        self, n_samples: int, random_state: int | np.random.Generator | None = None
    ) -> Float[ndarray, "sample vertex channel"]:
        """Draw independent chains vertex by vertex with the transfer matrix, own units; see `Target.sample`.

        Raises
        ------
        ValueError
            If `h` or `J` is too large for 512 nodes.
        """
        rng = np.random.default_rng(random_state)
        x, initial, kernel = self._transfer(_SAMPLE_CELLS)
        after = self._after(kernel)
        cells = np.empty((self.length, n_samples), dtype=np.int64)
        cells[0] = _draw((initial * after[0])[None], np.zeros(n_samples, dtype=np.int64), rng)
        for i in range(1, self.length):
            cells[i] = _draw(kernel * after[i], cells[i - 1], rng)
        jitter = (rng.random(cells.shape) - 0.5) * (x[1] - x[0])
        return np.ascontiguousarray((x[cells] + jitter).T)[..., None]

    def hidden_chain(self, cells: int) -> HiddenChain:
        """Put the law on equidistant nodes; standardised units.

        Raises
        ------
        ValueError
            If the spacing exceeds the width ``(8 h + 2 J) ** -0.5`` of a state in a well, or `h` or `J` is too large
            for the 480 nodes of the std.
        """
        std = self.std  # first: a law that it refuses no number of cells would help
        x, initial, kernel = self._transfer(cells, given=True)
        return HiddenChain(x / std, initial, kernel)

    def _well(self, x: Float[ndarray, "*shape"]) -> Float[ndarray, "*shape"]:
        energy: ndarray = self.h * (np.square(x) - 1) ** 2
        return energy

    def _transfer(
        self, cells: int, *, given: bool = False
    ) -> tuple[Float[ndarray, " node"], Float[ndarray, " node"], Float[ndarray, "node node"]]:
        """Nodes, weight of the first state, weight of the next state given this one: unnormalised densities.

        Raises
        ------
        ValueError
            If the grid does not resolve a state in a well given both neighbours. At fault is `cells` where it was
            given, else `J` where a smaller one helps, else `h`.
        """
        end = math.sqrt(1 + math.sqrt(_EXPONENT / self.h))
        x, spacing = np.linspace(-end, end, cells, retstep=True)
        width = 1 / math.sqrt(8 * self.h + 2 * self.J)
        if given and not spacing <= width:
            needed = math.ceil(2 * end / width) + 1
            raise ValueError(
                f"cells must resolve the wells, of width {width:.2g}, got spacing {spacing:.2g}: give {needed} cells"
            )
        if not spacing <= width:
            rule = f"must leave the wells a width (8 h + 2 J)^-1/2 of at least {spacing:.2g}, the spacing of the grid"
            largest = 0.5 / spacing**2 - 4 * self.h  # J
            if largest > 0:
                raise ValueError(f"J {rule}, got J = {self.J}: give J of at most {0.999 * largest:.4g}")
            raise ValueError(f"h {rule}, got h = {self.h}: give a smaller h")
        weight = spacing * np.exp(-self._well(x))
        return x, weight, np.exp(-0.5 * self.J * (x[:, None] - x) ** 2) * weight

    def _after(self, kernel: Float[ndarray, "node node"]) -> Float[ndarray, "vertex node"]:
        """Weight of all states after a vertex given its own, up to a factor per vertex."""
        after = np.ones((self.length, len(kernel)))
        for i in reversed(range(self.length - 1)):
            message = kernel @ after[i + 1]
            after[i] = message / message.max()
        return after

    def _endless(self, lags: Float[ndarray, " lag"]) -> Float[ndarray, " lag"]:
        """Covariance at each lag in the endless chain."""
        x, weight, kernel = self._transfer(_MOMENT_CELLS)
        root = np.sqrt(weight)
        eigenvalues, modes = scipy.linalg.eigh(root[:, None] * kernel / root)  # symmetric, as exp(-V/2) on both sides
        amplitude = modes.T @ (x * modes[:, -1])
        ratio = np.maximum(eigenvalues / eigenvalues[-1], 0)  # negative ones are rounding: the Gaussian is positive
        correlation: ndarray = np.square(amplitude) @ ratio[:, None] ** lags
        return correlation


def _draw(
    weights: Float[ndarray, "row cell"], rows: Int[ndarray, " draw"], rng: np.random.Generator
) -> Int[ndarray, " draw"]:
    """Draw a cell from each of the given rows of unnormalised weights."""
    cumulative = np.cumsum(weights, axis=1)
    cumulative /= cumulative[:, -1:]
    cumulative += np.arange(len(weights))[:, None]  # row k covers [k, k + 1): one search for all rows
    found = np.searchsorted(cumulative.ravel(), rows + rng.random(len(rows)), side="right")
    drawn: ndarray = np.minimum(found - rows * weights.shape[1], weights.shape[1] - 1)
    return drawn
