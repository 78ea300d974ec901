r"""What every law of known truth gives, and how the forward process :math:`x_t = a x_0 + s \xi` is written here."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray
    from numpy.typing import ArrayLike

    from nearfield.graph import DependencyGraph

__all__ = ["SolvedTarget", "Target"]


class Target(abc.ABC):
    """A law on a graph that can be sampled.

    To add one, derive from this class, or from `SolvedTarget` or `GaussianTarget` when more is known than draws.

    Examples
    --------
    >>> from nearfield.datasets import Lorenz96
    >>> isinstance(Lorenz96(40), Target)
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
        """Draw independent samples, in the law's own units.

        Parameters
        ----------
        n_samples : int
            How many.
        random_state : int, numpy.random.Generator or None
            Handed to `numpy.random.default_rng`, so that a data set is named by one integer.

        Returns
        -------
        ndarray, (sample, vertex, channel)
            The draws, float64. How exact they are, the class says.
        """


class SolvedTarget(Target):
    """A law of one channel whose log-density and denoiser are known too.

    Two units, and each method says which it takes. `sample` and `log_prob` speak the law's own. `denoise` speaks
    standardised units, ``z = (x - mean) / std``, those a model works in; `standardize` leads there.

    Examples
    --------
    >>> from nearfield.datasets import CoxIngersollRoss
    >>> law = CoxIngersollRoss(a=0.25, b=1.0, sigma=0.6, step=1.0, length=16)
    >>> z = law.standardize(law.sample(5, random_state=0))
    >>> law.denoise(z, 0.3).shape
    (5, 16, 1)
    """

    @property
    @abc.abstractmethod
    def mean(self) -> float:
        """What is subtracted to standardise, own units."""

    @property
    @abc.abstractmethod
    def std(self) -> float:
        """What is divided by to standardise, own units."""

    @abc.abstractmethod
    def log_prob(self, x: Float[ndarray, "sample vertex channel"]) -> Float[ndarray, " sample"]:
        """Exact log-density, in nats.

        Parameters
        ----------
        x : ndarray, (sample, vertex, 1)
            States, in the law's own units.

        Returns
        -------
        ndarray, (sample,)
            ``log p(x)``, a density in the law's own units.

        Raises
        ------
        ValueError
            If `x` has another shape.
        """

    @abc.abstractmethod
    def denoise(
        self, x: Float[ndarray, "sample vertex channel"], t: ArrayLike
    ) -> Float[ndarray, "sample vertex channel"]:
        """Exact denoiser :math:`E[x_0 | x_t]` of standardised states, from the posterior of (2.5).

        Parameters
        ----------
        x : ndarray, (sample, vertex, 1)
            Noised states :math:`x_t`, standardised.
        t : float or array of shape (sample,)
            OU time, at least 0. At 0 the answer is `x` itself.

        Returns
        -------
        ndarray, (sample, vertex, 1)
            Posterior means of the clean states, standardised.

        Raises
        ------
        ValueError
            If `x` has another shape, `t` is negative or its length is not the number of samples.
        """

    def standardize(self, x: Float[ndarray, "*shape"]) -> Float[ndarray, "*shape"]:
        """Take own units to standardised ones, ``(x - mean) / std``."""
        return (x - self.mean) / self.std

    def _single_channel(self, x: Float[ndarray, "sample vertex channel"]) -> Float[ndarray, "sample vertex"]:
        states = np.asarray(x, dtype=np.float64)
        if states.ndim != 3 or states.shape[1:] != (self.n_vertices, 1):
            raise ValueError(f"x must have shape (sample, {self.n_vertices}, 1), got {states.shape}")
        return states[..., 0]

    def _denoise_by_time(
        self,
        posterior: Callable[[Float[ndarray, "k vertex"], float, float], Float[ndarray, "k vertex"]],
        x: Float[ndarray, "sample vertex channel"],
        t: ArrayLike,
    ) -> Float[ndarray, "sample vertex channel"]:
        """Call ``posterior(x_t, a, s^2)`` once for each distinct time above 0."""
        z = self._single_channel(x)
        times = np.asarray(t, dtype=np.float64)
        if times.ndim > 1 or (times.ndim == 1 and times.size != len(z)):
            raise ValueError(f"t must be a number or one time per sample ({len(z)}), got shape {times.shape}")
        if not np.all(times >= 0):
            raise ValueError(f"t is an OU time and must be at least 0, got {times.min()}")
        clean = z.copy()
        each = np.broadcast_to(times, len(z))
        for time in np.unique(each[each > 0]):
            clean[each == time] = posterior(z[each == time], np.exp(-time), -np.expm1(-2 * time))
        return clean[..., None]
