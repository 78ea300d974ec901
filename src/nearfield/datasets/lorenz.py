"""The Lorenz 96 model: a chaotic ring."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, final

import numpy as np
from scipy.integrate import solve_ivp

from nearfield.datasets.base import Target
from nearfield.graph import DependencyGraph

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

__all__ = ["Lorenz96"]

_TOLERANCE = 1e-6  # of the integrator, relative and absolute
_BATCH_ENTRIES = 50_000  # values integrated together: they share the steps


@final
@dataclass(frozen=True)
class Lorenz96(Target):
    r"""States on the attractor of :math:`\dot x_i = (x_{i+1} - x_{i-2})\,x_{i-1} - x_i + F`, indices on a ring.

    E. N. Lorenz, "Predictability: a problem partly solved" (1996): 5 units of time are like a month of weather, minus
    the seasons, at F = 8. Not a Markov field: the ring is where its dependence decays, not where it ends.

    Parameters
    ----------
    n : int
        Number of vertices, at least 4.
    forcing : float
        F; chaotic from about 5 on, 8 by custom.
    spin_up : float
        Time from the start to the draw, positive. The start, F plus standard normals, is forgotten at the rate 1 of the
        friction; 20 units are also 34 e-foldings of the leading error at F = 8.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Notes
    -----
    Each sample is the end of a trajectory of its own, so samples are independent and there is no interval between them
    to choose. The integrator is scipy's eighth-order Runge-Kutta with tolerance 1e-6.

    Examples
    --------
    >>> Lorenz96(40).sample(3, random_state=0).shape
    (3, 40, 1)
    """

    n: int
    forcing: float = 8.0
    spin_up: float = 20.0

    def __post_init__(self) -> None:
        if self.n < 4:
            raise ValueError(f"n must be at least 4, the vertices that one equation reads, got {self.n}")
        if not math.isfinite(self.forcing):
            raise ValueError(f"forcing must be finite, got {self.forcing}")
        if not 0 < self.spin_up < math.inf:
            raise ValueError(f"spin_up must be positive and finite, got {self.spin_up}")

    @cached_property
    def graph(self) -> DependencyGraph:
        """A ring of `n` vertices."""
        return DependencyGraph.ring(self.n)

    def tendency(self, x: Float[ndarray, "... vertex"]) -> Float[ndarray, "... vertex"]:
        """Time derivative of states; the vertices are the last axis.

        Examples
        --------
        >>> Lorenz96(4).tendency(np.full(4, 8.0)).tolist()  # a fixed point, unstable
        [0.0, 0.0, 0.0, 0.0]
        """
        tendency: np.ndarray = (np.roll(x, -1, -1) - np.roll(x, 2, -1)) * np.roll(x, 1, -1) - x + self.forcing
        return tendency

    def sample(
        self, n_samples: int, random_state: int | np.random.Generator | None = None
    ) -> Float[ndarray, "sample vertex channel"]:
        """Integrate independent starts over `spin_up`; see `Target.sample`."""
        x = self.forcing + np.random.default_rng(random_state).standard_normal((n_samples, self.n))
        size = max(1, _BATCH_ENTRIES // self.n)
        for first in range(0, n_samples, size):
            part = x[first : first + size]
            part[:] = self._advance(part)
        return x[..., None]

    def _advance(self, x: Float[ndarray, "sample vertex"]) -> Float[ndarray, "sample vertex"]:
        flow = solve_ivp(
            lambda _, y: self.tendency(y.reshape(x.shape)).ravel(),
            (0.0, self.spin_up),
            x.ravel(),
            method="DOP853",
            t_eval=[self.spin_up],
            rtol=_TOLERANCE,
            atol=_TOLERANCE,
        )
        if not flow.success:
            raise ArithmeticError(f"the integration of {self!r} stopped at time {flow.t[-1:]}: {flow.message}")
        return flow.y[:, -1].reshape(x.shape)
