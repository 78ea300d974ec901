"""The Cox-Ingersoll-Ross process: positive, skewed, stationary."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import scipy.special
import scipy.stats

from nearfield.datasets.hidden_chain import ChainTarget, HiddenChain

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray
    from numpy.typing import ArrayLike

__all__ = ["CoxIngersollRoss"]

_RIGHT = 160.0  # of the grid's axis v, given to the values: with the exponential left tail, some 3/4 per node at 240
_LEFT_MASS = 1e-13  # left of the grid
_RIGHT_MASS = 1e-10  # right of it
_LOST = 1e-6  # of the stationary law in one step on the grid, in total variation: more is refused


@final
@dataclass(frozen=True)
class CoxIngersollRoss(ChainTarget):
    r"""Stationary :math:`dX = a(b - X)\,dt + \sigma\sqrt X\,dW` (4.7) of arXiv 2505.04417, seen at equal steps.

    Transitions are exact, (4.8): :math:`X_{t+h} | X_t = c\,\chi'^2_\nu(\lambda)`, a noncentral chi-square with
    :math:`c = \sigma^2(1 - e^{-ah})/4a`, :math:`\nu = 4ab/\sigma^2`, :math:`\lambda = X_t e^{-ah}/c`; the first state
    has the stationary law, Gamma of shape :math:`2ab/\sigma^2` and scale :math:`\sigma^2/2a`. The chain is reversible.

    Parameters
    ----------
    a : float
        Rate of return to the mean, per unit of time, positive.
    b : float
        Mean, positive.
    sigma : float
        Volatility, positive.
    step : float
        Time between vertices, positive.
    length : int
        Number of vertices, at least 1.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Examples
    --------
    >>> law = CoxIngersollRoss(a=0.25, b=1.0, sigma=0.6, step=1.0, length=128)
    >>> law.sample(3, random_state=0).shape, round(law.std, 4)
    ((3, 128, 1), 0.8485)
    """

    a: float
    b: float
    sigma: float
    step: float
    length: int

    def __post_init__(self) -> None:
        for name in ("a", "b", "sigma", "step"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if self.length < 1:
            raise ValueError(f"length must be at least 1 vertex, got {self.length}")

    @property
    def mean(self) -> float:
        """Stationary mean, `b`."""
        return self.b

    @property
    def std(self) -> float:
        r"""Stationary standard deviation, :math:`\sigma\sqrt{b/2a}`."""
        return self.sigma * math.sqrt(self.b / (2 * self.a))

    def autocorrelation(self, lags: ArrayLike) -> Float[ndarray | np.float64, "*lag"]:
        """Correlation ``exp(-a * step * lag)`` of states that many vertices apart."""
        return np.exp(-self.a * self.step * np.abs(np.asarray(lags, dtype=np.float64)))

    def sample(
        self, n_samples: int, random_state: int | np.random.Generator | None = None
    ) -> Float[ndarray, "sample vertex channel"]:
        """Draw independent paths by the exact transitions, own units; see `Target.sample`."""
        rng = np.random.default_rng(random_state)
        x = np.empty((n_samples, self.length))
        x[:, 0] = rng.gamma(self._shape, self._scale, n_samples)
        for i in range(1, self.length):
            x[:, i] = self._c * rng.noncentral_chisquare(2 * self._shape, x[:, i - 1] * self._decay / self._c)
        return x[..., None]

    def sample_euler(
        self, n_samples: int, random_state: int | np.random.Generator | None = None, *, substeps: int = 1
    ) -> Float[ndarray, "sample vertex channel"]:
        r"""Draw paths as the paper generates its data: Euler-Maruyama, with full truncation.

        :math:`\tilde X' = \tilde X + a(b - \tilde X^+)\delta + \sigma\sqrt{\tilde X^+ \delta}\,\xi`, and the path is
        :math:`X = \tilde X^+` (Lord, Koekkoek, van Dijk 2010). The first state is exact; the law of the others errs by
        O(`delta`).

        Parameters
        ----------
        n_samples : int
            How many.
        random_state : int, numpy.random.Generator or None
            Handed to `numpy.random.default_rng`.
        substeps : int
            Euler steps between vertices, at least 1: ``delta = step / substeps``.

        Returns
        -------
        ndarray, (sample, vertex, 1)
            Paths, own units, at least 0.

        Raises
        ------
        ValueError
            If `substeps` is below 1.

        Examples
        --------
        >>> law = CoxIngersollRoss(a=0.25, b=1.0, sigma=0.6, step=1.0, length=16)
        >>> law.sample_euler(5, random_state=0, substeps=10).shape
        (5, 16, 1)
        """
        if substeps < 1:
            raise ValueError(f"substeps must be at least 1, got {substeps}")
        rng = np.random.default_rng(random_state)
        delta = self.step / substeps
        x = np.empty((n_samples, self.length))
        state = rng.gamma(self._shape, self._scale, n_samples)
        for i in range(self.length):
            for _ in range(substeps if i else 0):
                positive = np.maximum(state, 0)
                noise = np.sqrt(positive * delta) * rng.standard_normal(n_samples)
                state = state + self.a * (self.b - positive) * delta + self.sigma * noise
            x[:, i] = np.maximum(state, 0)
        return x[..., None]

    def log_prob(self, x: Float[ndarray, "sample vertex channel"]) -> Float[ndarray, " sample"]:
        """Exact log-density, in nats, own units; minus infinity unless all of `x` is positive.

        Examples
        --------
        >>> law = CoxIngersollRoss(a=0.25, b=1.0, sigma=0.6, step=1.0, length=2)
        >>> law.log_prob(np.array([[[0.8], [1.1]], [[0.8], [-0.1]]])).round(4).tolist()
        [-1.1824, -inf]
        """
        states = self._single_channel(x)
        positive = np.all(states > 0, axis=1)
        path = states[positive]
        log_density = np.full(len(states), -np.inf)
        log_density[positive] = scipy.stats.gamma.logpdf(path[:, 0], self._shape, scale=self._scale) + np.sum(
            self._log_transition(path[:, :-1], path[:, 1:]), axis=1
        )
        return log_density

    def hidden_chain(self, cells: int) -> HiddenChain:
        r"""Put the law on the nodes :math:`x = w \ln(1 + e^v)`, v equidistant; standardised units.

        To the left the values fall exponentially, which makes the density smooth in v though it is a power of x at 0;
        to the right they are equidistant, as a likelihood of constant width asks for. Outside lies 1e-10 of the
        stationary law.

        Raises
        ------
        ValueError
            If one step on the grid changes the stationary law by more than 1e-6: too few cells for so short a step.
        """
        width = scipy.stats.gamma.isf(_RIGHT_MASS, self._shape, scale=self._scale) / _RIGHT
        v, spacing = np.linspace(math.log(_LEFT_MASS) / self._shape, _RIGHT, cells, retstep=True)
        x = width * np.logaddexp(0, v)
        weight = spacing * width * scipy.special.expit(v)
        initial = weight * scipy.stats.gamma.pdf(x, self._shape, scale=self._scale)
        kernel = weight * np.exp(self._log_transition(x[:, None], x))
        lost = np.abs(initial @ kernel - initial).sum()
        if not lost < _LOST:
            raise ValueError(
                f"cells must resolve a step of {self.step}, but on {cells} cells it changes the stationary law by "
                f"{lost:.1g}: give more cells"
            )
        return HiddenChain(self.standardize(x), initial, kernel)

    def _log_transition(
        self, x: Float[ndarray, "*#shape"], following: Float[ndarray, "*#shape"]
    ) -> Float[ndarray, "*#shape"]:
        """Log-density of the state that follows `x`; the noncentral chi-square by its scaled Bessel function."""
        order = self._shape - 1
        noncentrality, value = x * self._decay / self._c, following / self._c
        root = np.sqrt(noncentrality * value)
        square = (np.sqrt(value) - np.sqrt(noncentrality)) ** 2
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            bessel = np.log(scipy.special.ive(order, root))
            found = np.asarray(bessel - 0.5 * square + 0.5 * order * np.log(value / noncentrality))
        lost = ~np.isfinite(found)  # the function underflows where the ratio makes up for it, and ends at about 1e9
        if lost.any():
            noncentrality, value = (np.broadcast_to(part, found.shape)[lost] for part in (noncentrality, value))
            found[lost] = _log_far_bessel(order, noncentrality, value) - 0.5 * square[lost]
        return found - math.log(2 * self._c)

    @property
    def _shape(self) -> float:
        """Of the stationary Gamma law, nu / 2."""
        return 2 * self.a * self.b / self.sigma**2

    @property
    def _scale(self) -> float:
        """Of the stationary Gamma law."""
        return self.sigma**2 / (2 * self.a)

    @property
    def _decay(self) -> float:
        return math.exp(-self.a * self.step)

    @property
    def _c(self) -> float:
        """Scale of the noncentral chi-square (4.8)."""
        return -(self.sigma**2) * math.expm1(-self.a * self.step) / (4 * self.a)


def _log_far_bessel(
    order: float, noncentrality: Float[ndarray, " pair"], value: Float[ndarray, " pair"]
) -> Float[ndarray, " pair"]:
    r"""Logarithm of :math:`e^{-z} I_\nu(z) (y/\lambda)^{\nu/2}`, :math:`z = \sqrt{\lambda y}`, where doubles end.

    By the first term of the power series (DLMF 10.25.2) where the second is below rounding, else by the uniform
    expansion (DLMF 10.41.3, 10.41.10), its u_k / nu^k written by :math:`r = \sqrt{\nu^2 + z^2}`: the next is at most
    .12 / r^4, and 2.3e-4 / r^4 where :math:`z \ll \nu`. For r below 30 either the series or doubles suffice.
    """
    root = np.sqrt(noncentrality) * np.sqrt(value)  # the product may underflow
    near = root**2 < 4 * np.finfo(np.float64).eps * (order + 1)
    found: ndarray = np.empty_like(root)
    with np.errstate(divide="ignore"):  # a state of 0
        found[near] = order * np.log(value[near] / 2) - scipy.special.gammaln(order + 1) - root[near]
    z = root[~near]
    r = np.hypot(order, z)
    p = (order / r) ** 2
    terms = (
        (3 - 5 * p) / (24 * r)
        + (81 - 462 * p + 385 * p**2) / (1152 * r**2)
        + (30375 - 369603 * p + 765765 * p**2 - 425425 * p**3) / (414720 * r**3)
    )
    exponent = order**2 / (r + z) - order * np.arcsinh(order / z)  # r - z, without the loss of digits
    scaled = exponent - 0.5 * np.log(2 * math.pi * r) + np.log1p(terms)
    found[~near] = scaled + 0.5 * order * (np.log(value[~near]) - np.log(noncentrality[~near]))
    return found
