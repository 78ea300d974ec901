r"""Transforms of the values of one variable to the real line, for bounded or skewed data.

They follow `torch.distributions.Transform`: strictly increasing, elementwise and differentiable both ways. A law of
transformed values is a law of the data, with the log-density

.. math:: \log p_x(x) = \log p_y(y(x)) + \sum \log y'(x).

A transform from the positive numbers to the whole real line keeps generated values positive, whatever the model does.
"""

from __future__ import annotations

import abc
import math
import warnings
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, final

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Transform, constraints

from nearfield.module import Module

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

__all__ = [
    "NOISE",
    "TIES_WARNED",
    "Identity",
    "Logarithm",
    "SquareRoot",
    "ValueTransform",
    "Values",
    "Zeros",
    "like",
    "namespace",
    "subject",
]

TIES_WARNED = 0.05
"""One value that is more than this share of a variable is warned of: no continuous law has it."""

_TAU = 0.2
"""Where the square root becomes a logarithm, as a fraction of the mean root. Of .02 to .5, .2 has the highest held-out
log-density for Cox-Ingersoll-Ross paths, and for Gamma (shape 4) and Rayleigh laws it is within .005 nats per dimension
of the best."""

_OUTLYING = 1e-3
"""Share of the first percentile of the positive values, below which the smallest is not typical of small ones."""

NOISE = 1e-3
"""Share of the median positive value by which a positive law may be negative."""

Values = TypeVar("Values", Tensor, np.ndarray)
"""A function returns the kind that it is given."""


class ValueTransform(Transform, Module, abc.ABC):
    """A strictly increasing, elementwise transform of float64 tensors or arrays (..., vertex); NaN stays NaN.

    Tensors have gradients. Arrays go through numpy, since the last bit of a logarithm by torch depends on the batch.
    A subclass writes `_call`, `_inverse` and `_log_slope`.

    Attributes
    ----------
    name : str
        The users' name of it.
    uniform : bool
        Whether it is the same for all vertices.
    domain : Constraint
        Values that it takes; `check` refuses others.
    requirement, remedy : str
        The domain and the way out, in the words of `check`.
    """

    name: str
    uniform: bool = True
    domain: constraints.Constraint = constraints.real
    codomain: constraints.Constraint = constraints.real
    bijective = True
    sign = 1
    requirement: ClassVar[str] = ""
    remedy: ClassVar[str] = ""
    __hash__ = Module.__hash__  # Transform defines equality, which leaves it none

    def check(self, x: Values, variable: str = "") -> None:
        """Refuse values outside the domain with a ValueError that says what to do."""
        wrong = ~(self.domain.check(x) | namespace(x).isnan(x))
        if wrong.any():
            raise ValueError(
                f"{subject(variable)} must be {self.requirement} for marginal={self.name!r}, got "
                f"{float(x[wrong].min()):g} ({int(wrong.sum())} of {math.prod(x.shape)} values are not); {self.remedy}"
            )

    def log_abs_det_jacobian(self, x: Values, y: Values | None = None) -> Values:  # noqa: ARG002
        """Logarithm of the derivative at each value x; the image y is not needed."""
        return self._log_slope(x)

    @abc.abstractmethod
    def _log_slope(self, x: Values) -> Values:
        """Logarithm of the derivative."""


@final
class Identity(ValueTransform):
    """Values as they are, named by whether their location and scale are fitted ("standardize") or not ("none").

    Examples
    --------
    >>> Identity()(torch.tensor([2.0]))
    tensor([2.])
    """

    settings = ("name",)

    def __init__(self, name: Literal["standardize", "none"] = "standardize") -> None:
        super().__init__()
        self.name = name

    def _call(self, x: Values) -> Values:
        return x

    def _inverse(self, y: Values) -> Values:
        return y

    def _log_slope(self, x: Values) -> Values:
        slope: Values = namespace(x).zeros_like(x)
        return slope


@final
class Logarithm(ValueTransform):
    """``y = ln x``: for positive data whose spread grows with their size.

    Examples
    --------
    >>> Logarithm().inv(Logarithm()(torch.tensor([0.5, 2.0])))
    tensor([0.5000, 2.0000])
    """

    name = "log"
    domain = constraints.positive
    requirement = "> 0"
    remedy = "take 'sqrt' or 'quantile' where there are zeros, 'quantile' or 'standardize' for signed data"

    def _call(self, x: Values) -> Values:
        y: Values = namespace(x).log(x)
        return y

    def _inverse(self, y: Values) -> Values:
        x: Values = namespace(y).exp(y)
        return x

    def _log_slope(self, x: Values) -> Values:
        slope: Values = -namespace(x).log(x)
        return slope


@final
class Zeros(Module):
    """Zeros of a positive law, taken as a value too small to be recorded: half the smallest one.

    A thousandth of the median positive value counts as noise of packing or of an interpolation, which spreads around
    zero: data may be negative by that much, and positive values as small are noise too.

    Parameters
    ----------
    zero : float
        The value in place of zeros, positive.
    noise, tolerance : float
        Values up to the one are taken as zeros, and data may be negative down to minus the other.

    Examples
    --------
    >>> zeros = Zeros.fit(np.array([[0.0, 0.2], [3.0, 1.0]]))
    >>> zeros(torch.tensor([0.0, 0.3])), zeros.tolerance
    (tensor([0.1000, 0.3000]), 0.001)
    """

    settings = ("zero", "noise", "tolerance")

    def __init__(self, zero: float, noise: float = 0.0, tolerance: float = 0.0) -> None:
        super().__init__()
        self.zero, self.noise, self.tolerance = zero, noise, tolerance

    @classmethod
    def fit(cls, x: Float[ndarray, "sample vertex"], variable: str = "") -> Zeros:
        """Fit to data and warn of noise; data that are negative by more than the tolerance have none."""
        positive = x[x > 0]
        tolerance = NOISE * float(np.median(positive)) if positive.size else 0.0
        noise = max(0.0, -float(np.nanmin(x)))
        if not 0.0 < noise <= tolerance:
            noise = 0.0
        else:
            warnings.warn(
                f"{np.count_nonzero(x < 0)} of {x.size} values of {subject(variable)} are negative by {noise:.3g} at "
                "most, less than a thousandth of the median positive value: they are taken for noise of a law that is "
                f"never negative, and for zeros like all up to {noise:.3g}; add a constant if the sign is meant",
                stacklevel=3,
            )
        above = x[x > noise]
        if not above.size:
            return cls(np.inf, noise, tolerance)
        # one value far below all others does not say how small the unrecorded are
        return cls(0.5 * max(float(above.min()), _OUTLYING * float(np.quantile(above, 0.01))), noise, tolerance)

    def forward(self, x: Values) -> Values:
        """Replace zeros and noise."""
        filled: Values = namespace(x).where(x <= self.noise, self.zero, x)
        return filled


@final
class SquareRoot(ValueTransform):
    r"""The square root, turned into a logarithm near zero: for positive data that come close to zero.

    The root itself is onto the positive numbers only, and a model of it would also generate negative roots. Therefore

    .. math:: y = \sqrt x + \tau \ln(1 - e^{-\sqrt x / \tau}), \qquad \sqrt x = \tau \ln(1 + e^{y / \tau}),

    which is :math:`\sqrt x` within a thousandth of :math:`\tau` where :math:`\sqrt x > 7 \tau`, and onto the whole real
    line. Generated values are positive, and the density is one on the positive numbers. The density at a zero is that
    at its replacement.

    Parameters
    ----------
    tau : float
        In roots of the unit of the data, positive.
    zeros : Zeros
        The value in place of zeros.

    Examples
    --------
    >>> root = SquareRoot.fit(np.array([[1.0], [4.0], [9.0]]))
    >>> root(np.array([400.0])).round(6).tolist(), root.inv(np.array([-1.0, 0.0, 1.0])).round(3).tolist()
    ([20.0], [0.001, 0.077, 1.064])
    """

    settings = ("tau",)
    name = "sqrt"
    requirement = ">= 0"
    remedy = "take 'quantile' or 'standardize'"

    def __init__(self, tau: float, zeros: Zeros) -> None:
        super().__init__()
        self.tau, self.zeros = tau, zeros
        self.domain = constraints.greater_than_eq(-zeros.tolerance)

    @classmethod
    def fit(cls, x: Float[ndarray, "sample vertex"], variable: str = "") -> SquareRoot:
        """Fit to data, and warn if more than ``TIES_WARNED`` of them are zero."""
        zeros = Zeros.fit(x, variable)
        share = np.count_nonzero(np.abs(x) <= zeros.noise) / np.count_nonzero(np.isfinite(x))
        if share > TIES_WARNED:
            warnings.warn(
                f"{share:.0%} of the values of {subject(variable)} are zero: marginal='sqrt' takes them as "
                f"{zeros.zero:g}, half the smallest positive one, and generates positive values only. Take 'quantile' "
                "or 'auto', which draw zeros as often.",
                stacklevel=2,
            )
        return cls(_TAU * float(np.nanmean(np.sqrt(np.maximum(x, 0.0)))), zeros)

    def _call(self, x: Values) -> Values:
        xp = namespace(x)
        root = xp.sqrt(self.zeros(x))
        y: Values = root + self.tau * xp.log(-xp.expm1(-root / self.tau))
        return y

    def _inverse(self, y: Values) -> Values:
        xp = namespace(y)
        x: Values = (self.tau * xp.logaddexp(xp.zeros_like(y), y / self.tau)) ** 2
        return x

    def _log_slope(self, x: Values) -> Values:
        xp = namespace(x)
        root = xp.sqrt(self.zeros(x))
        slope: Values = -xp.log(-2.0 * root * xp.expm1(-root / self.tau))
        return slope


def namespace(x: Values) -> Any:
    """Return numpy or torch, whichever the values belong to; only names that the two share are used."""
    return np if isinstance(x, np.ndarray) else torch


def like(x: Values, buffer: Tensor) -> Any:
    """Return a buffer as the kind of the values."""
    return buffer.cpu().numpy() if isinstance(x, np.ndarray) else buffer


def subject(variable: str) -> str:
    """How messages call a variable."""
    return f"variable {variable!r}" if variable else "the data"
