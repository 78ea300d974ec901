"""The double-well lattice: a two-state field, by Markov chain Monte Carlo."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, final

import numpy as np

from nearfield._checks import whole_number
from nearfield.datasets.base import Target
from nearfield.graph import DependencyGraph

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

__all__ = ["DoubleWellLattice", "integrated_autocorrelation_time"]

_BATCH_ENTRIES = 200_000  # values that evolve together: they stay in a processor's cache
_WINDOW = 6  # autocorrelation times over which correlations are summed


@final
@dataclass(frozen=True)
class DoubleWellLattice(Target):
    r"""Ginzburg-Landau field :math:`p \propto \exp(-\sum_i h(x_i^2-1)^2 - \frac J2 \sum_{i \sim j} (x_i - x_j)^2)`.

    The energy is that of `DoubleWellChain`, each edge of the lattice counted once. At the default ``h = 1.5, J = 0.65``
    on a plane the field is disordered but close to order: patches of either sign some five vertices wide, and no
    magnetisation.

    Parameters
    ----------
    shape : tuple of int
        Vertices along each of one to three axes.
    h : float
        Height of the barrier between the wells at -1 and 1, positive.
    J : float
        Coupling of neighbours, positive.
    periodic : bool
        On a torus, of even lengths of at least 4. Otherwise with free borders.
    burn_in : int
        Sweeps from the start to the draw, at least 1.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Notes
    -----
    Each sample is the end of a Markov chain of its own, so samples are independent. A sweep visits the two colours of
    the checkerboard in turn: given its k neighbours, a vertex has the law :math:`N(\bar x, 1/kJ)` of the coupling, with
    :math:`\bar x` the neighbours' mean, times :math:`e^{-h(x^2-1)^2}`; the first factor proposes, the second decides
    (66 % accepted at the default).

    The start, independent standard normals, has the symmetry of the law, so odd moments are right at any time; only
    even ones have to relax. At the default parameters, on 32 x 32, the integrated autocorrelation time (1 + 2 sum of
    correlations; 40 chains of 5,400 sweeps) is 212 sweeps for the magnetisation, 90 for its square, the slowest even
    moment, and 9 for the mean square. So the start is forgotten by a factor e in some 50 sweeps, and the default
    burn-in leaves 1e-5 of it. Near the onset of order (larger J or h) take more: `trace` and
    `integrated_autocorrelation_time` tell how much.

    Examples
    --------
    >>> DoubleWellLattice((8, 8), burn_in=50).sample(3, random_state=0).shape
    (3, 64, 1)
    """

    shape: tuple[int, ...]
    h: float = 1.5
    J: float = 0.65
    periodic: bool = True
    burn_in: int = 600

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(whole_number("shape", n, 1, "give lengths") for n in self.shape))
        if not 0 < self.h < math.inf:
            raise ValueError(f"h must be positive and finite, got {self.h}")
        if not 0 < self.J < math.inf:
            raise ValueError(f"J must be positive and finite, got {self.J}")
        if self.periodic and any(n < 4 or n % 2 for n in self.shape):
            raise ValueError(
                f"shape must have even lengths of at least 4 on a torus, where a checkerboard has two colours, got "
                f"{self.shape}: give even lengths or periodic=False"
            )
        if math.prod(self.shape) < 2:
            raise ValueError(f"shape must hold at least 2 vertices, got {self.shape}")
        if self.burn_in < 1:
            raise ValueError(f"burn_in must be at least 1 sweep, got {self.burn_in}")

    @cached_property
    def graph(self) -> DependencyGraph:
        """The torus or the grid, vertices in C order."""
        return DependencyGraph.grid(self.shape, periodic=self.periodic)

    def sample(
        self, n_samples: int, random_state: int | np.random.Generator | None = None
    ) -> Float[ndarray, "sample vertex channel"]:
        """Draw independent fields, each by `burn_in` sweeps of its own; see `Target.sample`."""
        rng = np.random.default_rng(random_state)
        x = np.empty((n_samples, self.n_vertices, 1))
        size = max(1, _BATCH_ENTRIES // self.n_vertices)
        for first in range(0, n_samples, size):
            sweeps = self._sweeps(min(size, n_samples - first), rng)
            for _ in range(self.burn_in):
                state = next(sweeps)
            x[first : first + size, :, 0] = state.T
        return x

    def trace(
        self, n_chains: int, n_sweeps: int, random_state: int | np.random.Generator | None = None
    ) -> Float[ndarray, "sweep chain moment"]:
        """Record the mean and the mean square of a field after each sweep, from the start on.

        Parameters
        ----------
        n_chains : int
            Independent Markov chains.
        n_sweeps : int
            Sweeps of each.
        random_state : int, numpy.random.Generator or None
            Handed to `numpy.random.default_rng`.

        Returns
        -------
        ndarray, (sweep, chain, 2)
            Magnetisation and mean square.

        Examples
        --------
        >>> DoubleWellLattice((4, 4)).trace(2, 10, random_state=0).shape
        (10, 2, 2)
        """
        sweeps = self._sweeps(n_chains, np.random.default_rng(random_state))
        states = (next(sweeps) for _ in range(n_sweeps))
        return np.array([[x.mean(axis=0), np.square(x).mean(axis=0)] for x in states]).swapaxes(1, 2)

    def energy_gradient(self, x: Float[ndarray, "sample vertex channel"]) -> Float[ndarray, "sample vertex channel"]:
        r"""Gradient of the energy :math:`U = -\log p`, the score's negative at t = 0.

        Under the law :math:`E[x_i\,\partial_i U] = 1` at every vertex, by partial integration.

        Examples
        --------
        >>> DoubleWellLattice((2, 2), periodic=False).energy_gradient(np.ones((1, 4, 1))).ravel().tolist()
        [0.0, 0.0, 0.0, 0.0]
        """
        field = np.asarray(x, dtype=np.float64)[..., 0]
        neighbors = (self.graph.adjacency @ field.T).T
        coupling = self.J * (self._degree * field - neighbors)
        gradient: ndarray = (4 * self.h * field * (np.square(field) - 1) + coupling)[..., None]
        return gradient

    @cached_property
    def _degree(self) -> Float[ndarray, " vertex"]:
        return np.asarray(self.graph.adjacency.sum(axis=1), dtype=np.float64).ravel()

    def _sweeps(self, n_chains: int, rng: np.random.Generator) -> Iterator[Float[ndarray, "vertex chain"]]:
        """Yield the state of the chains after each sweep, without end; the array is reused."""
        colors = np.indices(self.shape).sum(axis=0).ravel() % 2
        halves = []
        for color in (0, 1):
            rows = np.flatnonzero(colors == color)
            degree = self._degree[rows, None]
            halves.append((rows, self.graph.adjacency[rows].astype(np.float64) / degree, 1 / np.sqrt(degree * self.J)))
        x = rng.standard_normal((self.n_vertices, n_chains))
        while True:
            for rows, average, width in halves:
                old = x[rows]
                new = average @ x + width * rng.standard_normal(old.shape)
                rise = self.h * ((np.square(new) - 1) ** 2 - (np.square(old) - 1) ** 2)
                x[rows] = np.where(rng.standard_exponential(old.shape) > rise, new, old)
            yield x


def integrated_autocorrelation_time(series: Float[ndarray, "time chain"]) -> float:
    r"""Integrated autocorrelation time :math:`1 + 2\sum_k \rho_k` of stationary chains of one law, in their own steps.

    The variance of a chain's mean is that many times that of independent draws. The sum ends at the first lag
    that is 6 times the sum up to it (Sokal 1997).

    Parameters
    ----------
    series : ndarray, (time, chain)
        Values along independent chains; their common mean is taken off.

    Returns
    -------
    float
        The time; infinite if the chains are too short to tell.

    Examples
    --------
    Of an AR(1) chain, (1 + alpha) / (1 - alpha):

    >>> from nearfield.datasets import AutoregressiveChain
    >>> x = AutoregressiveChain(0.8, 2000).sample(200, random_state=0)[..., 0].T
    >>> abs(integrated_autocorrelation_time(x) - 9) < 0.5
    True
    """
    length = len(series)
    spectrum = np.abs(np.fft.rfft(series - series.mean(), 2 * length, axis=0)) ** 2
    moments = np.fft.irfft(spectrum, axis=0)[:length].mean(axis=1) / np.arange(length, 0, -1)
    times = 2 * np.cumsum(moments / moments[0]) - 1
    enough = np.flatnonzero(np.arange(length) >= _WINDOW * times)
    return float(times[enough[0]]) if len(enough) else math.inf
