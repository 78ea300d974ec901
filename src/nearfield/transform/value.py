r"""Maps of the values of one variable to the real line, point by point: what bounded or skewed data need before a fit.

A warp is strictly increasing and invertible, so a law of warped values is a law of the data, with the log-density

.. math:: \log p_x(x) = \log p_u(u(x)) + \sum \log u'(x).

A warp onto the whole real line from the positive numbers keeps what is generated positive, whatever the model does.
"""

from __future__ import annotations

import abc
import dataclasses
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray

__all__ = [
    "TIES_WARNED",
    "Identity",
    "Logarithm",
    "SquareRoot",
    "Warp",
    "half_smallest",
    "packing_noise",
    "refuse",
    "subject",
]

TIES_WARNED = 0.05
"""One value that is more than this share of a variable is warned of: no continuous law has it."""

_BEND = 0.2
"""Where the square root bends into a logarithm, as a fraction of the mean root. Of .02 to .5, .2 has the highest
held-out log-density for Cox-Ingersoll-Ross paths, and for Gamma (shape 4) and Rayleigh laws it is within .005 nats per
dimension of the best."""


_NOISE = 1e-3
"""Share of the median positive value by which a positive law may be negative."""


class Warp(abc.ABC):
    """A strictly increasing map of one variable; arrays are (..., vertex), and NaN stays NaN.

    Attributes
    ----------
    name : str
        What users call it.
    variable : str
        The variable, for messages; empty if it has no name.
    """

    variable: str

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """What users call it."""

    @abc.abstractmethod
    def check(self, x: Float[ndarray, "*sample vertex"]) -> None:
        """Raise a ValueError if a value is outside the domain."""

    @abc.abstractmethod
    def transform(self, x: Float[ndarray, "*sample vertex"]) -> Float[ndarray, "*sample vertex"]:
        """Map data of the domain to the real line."""

    @abc.abstractmethod
    def inverse(self, u: Float[ndarray, "*sample vertex"]) -> Float[ndarray, "*sample vertex"]:
        """Return any real values to data."""

    @abc.abstractmethod
    def log_slope(self, x: Float[ndarray, "*sample vertex"]) -> Float[ndarray, "*sample vertex"]:
        """Logarithm of the derivative of `transform` at data."""

    def state(self) -> tuple[dict[str, Any], dict[str, ndarray]]:
        """Return a JSON-able configuration and the arrays; together they are the arguments of the class.

        Examples
        --------
        >>> Logarithm("rain").state()
        ({'variable': 'rain'}, {})
        """
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        return {k: v for k, v in values.items() if k not in arrays}, arrays


@final
@dataclass(frozen=True)
class Identity(Warp):
    """Values as they are.

    Parameters
    ----------
    variable : str
        The variable, for messages.
    standardized : bool
        Whether location and scale are to be fitted: "standardize", and otherwise "none".

    Examples
    --------
    >>> Identity("sst").name
    'standardize'
    """

    variable: str = ""
    standardized: bool = True

    @property
    def name(self) -> str:
        """What users call it."""
        return "standardize" if self.standardized else "none"

    def check(self, x: Float[ndarray, "*sample vertex"]) -> None:
        """Accept everything."""

    def transform(self, x: Float[ndarray, "*sample vertex"]) -> Float[ndarray, "*sample vertex"]:
        """Return the values."""
        return x

    def inverse(self, u: Float[ndarray, "*sample vertex"]) -> Float[ndarray, "*sample vertex"]:
        """Return the values."""
        return u

    def log_slope(self, x: Float[ndarray, "*sample vertex"]) -> Float[ndarray, "*sample vertex"]:
        """Zero everywhere."""
        return np.zeros_like(x)


@final
@dataclass(frozen=True)
class Logarithm(Warp):
    """``u = ln x``: for positive data whose spread grows with their size.

    Parameters
    ----------
    variable : str
        The variable, for messages.

    Examples
    --------
    >>> Logarithm().inverse(Logarithm().transform(np.array([0.5, 2.0]))).tolist()
    [0.5, 2.0]
    """

    variable: str = ""

    @property
    def name(self) -> str:
        """What users call it."""
        return "log"

    def check(self, x: Float[ndarray, "*sample vertex"]) -> None:
        """Accept positive data."""
        remedy = "take 'sqrt' or 'quantile' where there are zeros, 'quantile' or 'standardize' for signed data"
        refuse(x <= 0, x, f"{subject(self.variable)} must be > 0 for marginal='log'", remedy)

    def transform(self, x: Float[ndarray, "*sample vertex"]) -> Float[ndarray, "*sample vertex"]:
        """Logarithm."""
        return np.log(x)

    def inverse(self, u: Float[ndarray, "*sample vertex"]) -> Float[ndarray, "*sample vertex"]:
        """Exponential."""
        return np.exp(u)

    def log_slope(self, x: Float[ndarray, "*sample vertex"]) -> Float[ndarray, "*sample vertex"]:
        """Minus the logarithm."""
        return -np.log(x)


@final
@dataclass(frozen=True)
class SquareRoot(Warp):
    r"""The square root, bent into a logarithm near zero: for positive data that come close to zero.

    The root itself is onto the positive numbers only, and a model of it would also generate negative roots. Therefore

    .. math:: u = \sqrt x + \tau \ln(1 - e^{-\sqrt x / \tau}), \qquad \sqrt x = \tau \ln(1 + e^{u / \tau}),

    which is :math:`\sqrt x` within a thousandth of :math:`\tau` where :math:`\sqrt x > 7 \tau`, and onto the whole real
    line. What is generated is positive, and the density is one on the positive numbers. A zero in the data is taken as
    a value too small to be recorded, half the smallest one: its density is the density there, and it comes back so.

    Parameters
    ----------
    variable : str
        The variable, for messages.
    bend : float
        tau, in roots of the unit of the data, positive.
    zero : float
        What zeros are taken as, positive.
    noise, tolerance : float
        Values up to the one are taken as zeros, and data may be negative down to minus the other; see `packing_noise`.

    Examples
    --------
    >>> warp = SquareRoot.fit(np.array([[1.0], [4.0], [9.0]]))
    >>> warp.transform(np.array([400.0])).round(6).tolist()
    [20.0]
    >>> warp.inverse(np.array([-1.0, 0.0, 1.0])).round(3).tolist()
    [0.001, 0.077, 1.064]
    """

    variable: str
    bend: float
    zero: float
    noise: float = 0.0
    tolerance: float = 0.0

    @classmethod
    def fit(cls, x: Float[ndarray, "sample vertex"], variable: str = "") -> SquareRoot:
        """Fit bend and zero to data.

        Raises
        ------
        ValueError
            If data are negative.

        Warns
        -----
        UserWarning
            If more than ``TIES_WARNED`` of the data are zero, or some are negative by as little as packing does.
        """
        noise, tolerance = packing_noise(x, variable)
        _refuse_negative(x, variable, tolerance)
        zero = half_smallest(x, noise)
        share = np.count_nonzero(x <= noise) / x.size
        if share > TIES_WARNED:
            warnings.warn(
                f"{share:.0%} of the values of {subject(variable)} are zero: marginal='sqrt' takes them as {zero:g}, "
                "half the smallest positive one, and generates positive values only. Model where it is zero apart.",
                stacklevel=2,
            )
        return cls(variable, _BEND * float(np.sqrt(np.maximum(x, 0.0)).mean()), zero, noise, tolerance)

    @property
    def name(self) -> str:
        """What users call it."""
        return "sqrt"

    def check(self, x: Float[ndarray, "*sample vertex"]) -> None:
        """Accept data that are not negative."""
        _refuse_negative(x, self.variable, self.tolerance)

    def transform(self, x: Float[ndarray, "*sample vertex"]) -> Float[ndarray, "*sample vertex"]:
        """Bent root."""
        root = self._root(x)
        return root + self.bend * np.log(-np.expm1(-root / self.bend))

    def inverse(self, u: Float[ndarray, "*sample vertex"]) -> Float[ndarray, "*sample vertex"]:
        """Positive values."""
        return (self.bend * np.logaddexp(0.0, u / self.bend)) ** 2

    def log_slope(self, x: Float[ndarray, "*sample vertex"]) -> Float[ndarray, "*sample vertex"]:
        """Logarithm of the derivative, at zero that of what zeros are taken as."""
        root = self._root(x)
        return -np.log(-2.0 * root * np.expm1(-root / self.bend))

    def _root(self, x: Float[ndarray, "*sample vertex"]) -> Float[ndarray, "*sample vertex"]:
        return np.sqrt(np.where(x <= self.noise, self.zero, x))


def _refuse_negative(x: Float[ndarray, "*sample vertex"], variable: str, tolerance: float) -> None:
    refuse(
        x < -tolerance, x, f"{subject(variable)} must be >= 0 for marginal='sqrt'", "take 'quantile' or 'standardize'"
    )


def packing_noise(x: Float[ndarray, "sample vertex"], variable: str) -> tuple[float, float]:
    """How far data of a positive law are negative by noise, and how far they may be.

    A thousandth of the median positive value counts as noise of packing or of an interpolation, which spreads around
    zero: positive values as small are noise too. Data that are negative by more are signed, and have no noise.

    Warns
    -----
    UserWarning
        If there is some.

    Examples
    --------
    >>> packing_noise(np.array([[0.0, 2.0, 4.0]]), ""), packing_noise(np.array([[-1.0, 2.0, 4.0]]), "")
    ((0.0, 0.003), (0.0, 0.003))
    """
    positive = x[x > 0]
    tolerance = _NOISE * float(np.median(positive)) if positive.size else 0.0
    noise = max(0.0, -float(x.min()))
    if not 0.0 < noise <= tolerance:
        return 0.0, tolerance
    warnings.warn(
        f"{np.count_nonzero(x < 0)} of {x.size} values of {subject(variable)} are negative by {noise:.3g} at most, "
        "less than a thousandth of the median positive value: they are taken for noise of a law that is never "
        f"negative, and for zeros like all up to {noise:.3g}; add a constant if the sign is meant",
        stacklevel=3,
    )
    return noise, tolerance


def half_smallest(x: Float[ndarray, "sample vertex"], noise: float = 0.0) -> float:
    """Half the smallest value above the noise, which zeros are taken as.

    Examples
    --------
    >>> half_smallest(np.array([[0.0, 0.2], [3.0, 1.0]]))
    0.1
    """
    return 0.5 * float(x.min(initial=np.inf, where=x > noise))


def subject(variable: str) -> str:
    """How messages call a variable.

    Examples
    --------
    >>> subject("rain"), subject("")
    ("variable 'rain'", 'the data')
    """
    return f"variable {variable!r}" if variable else "the data"


def refuse(wrong: Bool[ndarray, "*sample vertex"], x: Float[ndarray, "*sample vertex"], rule: str, remedy: str) -> None:
    """Refuse data of which some are wrong.

    Raises
    ------
    ValueError
        With the rule, the lowest value, how many are wrong, and the remedy.
    """
    if wrong.any():
        raise ValueError(
            f"{rule}, got {x.min(initial=np.inf, where=wrong):g} ({np.count_nonzero(wrong)} of {x.size} values are "
            f"not); {remedy}"
        )
