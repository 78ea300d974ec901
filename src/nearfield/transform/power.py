"""The power transform of Yeo and Johnson, for signed and skewed data."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from sklearn.preprocessing import PowerTransformer
from torch import Tensor

from nearfield.transform.location import Location
from nearfield.transform.value import Values, ValueTransform, like, namespace

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

__all__ = ["YeoJohnson"]

_MOST = 20_000  # values that the power is estimated from


@final
class YeoJohnson(ValueTransform):
    r"""A power of values above the centre and another of those below (Yeo and Johnson, 2000).

    Of :math:`u = (x - c) / s` it is :math:`((1 + u)^\lambda - 1) / \lambda` above 0 and
    :math:`-((1 - u)^{2 - \lambda} - 1) / (2 - \lambda)` below, with the logarithms in the limit. Powers in [0, 2] map
    the real line onto itself. Centre and scale are one for all vertices where these are alike.

    Parameters
    ----------
    power : float
        In [0, 2]; 1 leaves the shape as it is.
    center, scale : Tensor, (vertex,) or (1,)

    Examples
    --------
    >>> x = np.random.default_rng(0).gamma(4.0, size=(100, 8))
    >>> power = YeoJohnson.fit(x)
    >>> power.power < 1, bool(np.allclose(power.inv(power(x)), x))
    (True, True)
    """

    settings = ("power",)
    name = "yeo-johnson"
    center: Tensor
    scale: Tensor

    def __init__(
        self,
        power: float,
        center: Float[ndarray | Tensor, " vertex"],
        scale: Float[ndarray | Tensor, " vertex"],
    ) -> None:
        super().__init__()
        self.power = float(power)
        self.register_buffer("center", torch.as_tensor(center, dtype=torch.float64))
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.float64))
        self.uniform = len(self.center) == 1

    @classmethod
    def fit(cls, x: Float[ndarray, "sample vertex"], variable: str = "") -> YeoJohnson:  # noqa: ARG003
        """Fit the power by maximum likelihood (scikit-learn), the same for all vertices."""
        location = Location.fit(x)
        values = location.left_out(x)
        values = values[np.isfinite(values)]
        if len(values) > _MOST:
            values = np.random.default_rng(0).choice(values, _MOST, replace=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of powers far from [0, 2], which are cut off
            power = PowerTransformer(standardize=False).fit(values[:, None]).lambdas_[0]
        return cls(float(np.clip(power, 0.0, 2.0)), location.center, location.scale)

    def _call(self, x: Values) -> Values:
        xp = namespace(x)
        u = (x - like(x, self.center)) / like(x, self.scale)
        size = xp.log1p(xp.abs(u))
        y: Values = xp.where(u >= 0, _power(size, self.power), -_power(size, 2 - self.power))
        return y

    def _inverse(self, y: Values) -> Values:
        xp = namespace(y)
        size = xp.abs(y)
        above, below = _root(size, self.power), _root(size, 2 - self.power)
        x: Values = like(y, self.center) + like(y, self.scale) * xp.where(y >= 0, above, -below)
        return x

    def _log_slope(self, x: Values) -> Values:
        xp = namespace(x)
        u = (x - like(x, self.center)) / like(x, self.scale)
        slope: Values = (self.power - 1) * xp.sign(u) * xp.log1p(xp.abs(u)) - xp.log(like(x, self.scale))
        return slope


def _power(log: Values, power: float) -> Values:
    """Return ``(exp(power log) - 1) / power``."""
    raised: Values = log if abs(power) < 1e-9 else namespace(log).expm1(power * log) / power
    return raised


def _root(y: Values, power: float) -> Values:
    """Invert `_power`, less 1."""
    xp = namespace(y)
    root: Values = xp.expm1(y if abs(power) < 1e-9 else xp.log1p(power * y) / power)
    return root
