"""A Markov chain seen through noise: posterior means by forward-backward on a grid."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from nearfield.datasets.base import SolvedTarget
from nearfield.graph import DependencyGraph

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray
    from numpy.typing import ArrayLike

__all__ = ["ChainTarget", "HiddenChain"]

# Of the sum of a message: values that contradict the law then still have a posterior. Of a likelihood: smaller numbers,
# times others, would be subnormal, which costs twice the time.
_FLOOR = 1e-100
_BATCH_ENTRIES = 4_000_000  # entries of one array of messages: 32 MB
_COARSEST = 0.75  # spacing may be 1/.75 noise widths: the trapezoid rule errs by 2 exp(-2 pi^2 .75^2) = 3e-5 of a width


@final
@dataclass(frozen=True)
class HiddenChain:
    r"""A Markov chain on nodes of the line, to be recovered from noised values :math:`y_i = a z_i + s \xi_i`.

    The law of the path is proportional to ``initial[k_1] * kernel[k_1, k_2] * kernel[k_2, k_3] ...``; quadrature
    weights are part of both. With the trapezoid rule, and densities that are smooth and vanish at both ends of the
    grid, the quadrature converges exponentially in the number of nodes.

    Attributes
    ----------
    nodes : (node,)
        Values of the states, increasing.
    initial : (node,)
        Weight of the first state.
    kernel : (node, node)
        Weight of the next state (column) given this one (row).

    Examples
    --------
    A chain that stays where it is, at -1 or 1, seen twice at noise 1:

    >>> chain = HiddenChain(np.array([-1.0, 1.0]), np.ones(2), np.eye(2))
    >>> chain.posterior_mean(np.array([[0.5, 0.5]]), 1.0, 1.0).round(4).tolist()  # tanh(1)
    [[0.7616, 0.7616]]
    """

    nodes: Float[ndarray, " node"]
    initial: Float[ndarray, " node"]
    kernel: Float[ndarray, "node node"]

    @property
    def smallest_ratio(self) -> float:
        """Smallest noise-to-signal ratio s/a at which the grid resolves the likelihood of a value."""
        return _COARSEST * float(np.diff(self.nodes).max())

    def posterior_mean(
        self, y: Float[ndarray, "sample vertex"], signal: float, noise: float
    ) -> Float[ndarray, "sample vertex"]:
        """Return ``E[z | y]`` at every vertex, by forward-backward (Baum et al. 1970) with scaled messages.

        Parameters
        ----------
        y : ndarray, (sample, vertex)
            Noised chains.
        signal, noise : float
            Scales a and s, both positive.

        Returns
        -------
        ndarray, (sample, vertex)
            Posterior means, in the units of the nodes.
        """
        size = max(1, _BATCH_ENTRIES // (y.shape[1] * len(self.nodes)))
        parts = [self._forward_backward(y[k : k + size], signal, noise) for k in range(0, len(y), size)]
        return np.concatenate(parts) if parts else np.empty_like(y)

    def _forward_backward(
        self, y: Float[ndarray, "sample vertex"], signal: float, noise: float
    ) -> Float[ndarray, "sample vertex"]:
        likelihood = (y.T[..., None] - signal * self.nodes) / noise
        likelihood *= -0.5 * likelihood
        likelihood -= likelihood.max(axis=-1, keepdims=True)
        np.exp(np.maximum(likelihood, math.log(_FLOOR), out=likelihood), out=likelihood)

        length = len(likelihood)
        before = np.empty_like(likelihood)  # state i and all noised values before i
        before[0] = self.initial / self.initial.sum()
        for i in range(1, length):
            filtered = before[i - 1] * likelihood[i - 1]
            filtered /= filtered.sum(axis=-1, keepdims=True)
            np.maximum(filtered @ self.kernel, _FLOOR, out=before[i])

        mean = np.empty_like(y)
        after = np.ones_like(likelihood[0])  # all noised values after i, given state i
        for i in reversed(range(length)):
            seen = likelihood[i] * after
            posterior = before[i] * seen
            mean[:, i] = posterior @ self.nodes / posterior.sum(axis=-1)
            after = np.maximum((seen / seen.sum(axis=-1, keepdims=True)) @ self.kernel.T, _FLOOR)
        return mean


class ChainTarget(SolvedTarget):
    """A Markov chain of `length` vertices whose denoiser is computed on a grid.

    Examples
    --------
    >>> from nearfield.datasets import DoubleWellChain
    >>> isinstance(DoubleWellChain(h=2.0, J=3.0, length=8), ChainTarget)
    True
    """

    length: int

    @property
    def graph(self) -> DependencyGraph:
        """A chain of `length` vertices."""
        return DependencyGraph.chain(self.length)

    @abc.abstractmethod
    def hidden_chain(self, cells: int) -> HiddenChain:
        """Put the law, in standardised units, on a grid of `cells` nodes.

        Raises
        ------
        ValueError
            If so few nodes do not resolve the law.
        """

    @abc.abstractmethod
    def autocorrelation(self, lags: ArrayLike) -> Float[ndarray | np.float64, "*lag"]:
        """Correlation of states that many steps apart, far from the ends."""

    def denoise(
        self, x: Float[ndarray, "sample vertex channel"], t: ArrayLike, *, cells: int = 240
    ) -> Float[ndarray, "sample vertex channel"]:
        """Exact Bayes denoiser :math:`E[x_0 | x_t]`, up to the quadrature; see `SolvedTarget.denoise`.

        Parameters
        ----------
        x : ndarray, (sample, vertex, 1)
            Noised states :math:`x_t`, standardised.
        t : float or array of shape (sample,)
            OU time, at least 0. At 0 the answer is `x` itself.
        cells : int
            Nodes of the grid. The work grows as its square; twice as many tell the error.

        Returns
        -------
        ndarray, (sample, vertex, 1)
            Posterior means of the clean states, standardised.

        Raises
        ------
        ValueError
            If `x` has another shape, `t` is negative or not one time per sample, or the grid does not resolve the law
            or a noise so small.

        Examples
        --------
        >>> from nearfield.datasets import DoubleWellChain
        >>> law = DoubleWellChain(h=2.0, J=3.0, length=3)
        >>> law.denoise(np.array([[[0.5], [-0.2], [0.5]]]), 0.2).ravel().round(3).tolist()
        [0.73, 0.594, 0.73]
        """
        chain = self.hidden_chain(cells)

        def posterior(y: Float[ndarray, "k vertex"], a: float, variance: float) -> Float[ndarray, "k vertex"]:
            s = math.sqrt(variance)
            if s / a < chain.smallest_ratio:
                needed = math.ceil(cells * chain.smallest_ratio / (s / a)) + 1
                raise ValueError(
                    f"t must be 0 or have s/a of at least {chain.smallest_ratio:.3g} on a grid of {cells} cells, got "
                    f"s/a = {s / a:.3g}: give cells={needed} or more"
                )
            return chain.posterior_mean(y, a, s)

        return self._denoise_by_time(posterior, x, t)
