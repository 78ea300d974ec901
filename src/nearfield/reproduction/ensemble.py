"""What an ensemble of paths shows, against the law that they should have: a part of figure 3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.stats

from nearfield.evaluation.metric import autocorrelation

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearfield.datasets import CoxIngersollRoss
    from nearfield.evaluation.curve import Curve

__all__ = ["Ensemble", "histogram_distance", "stationary"]


class Ensemble(NamedTuple):
    """What fields show: all values, the `histogram_distance` of them, and the autocorrelation by lag with its error."""

    values: Float[np.ndarray, " value"]
    distance: float
    correlation: Curve
    correlation_error: float

    @classmethod
    def of(cls, x: Float[np.ndarray, "sample vertex channel"], law: CoxIngersollRoss, lags: int) -> Ensemble:
        """Measure fields; the error is the largest over the lags from 1 on."""
        curve = autocorrelation(x, lags)
        error = np.abs(curve.value[:, 0] - law.autocorrelation(curve.axis))[1:].max()
        return cls(np.ravel(x), histogram_distance(x, law), curve, float(error))

    def summary(self) -> dict[str, Any]:
        """Return the numbers to be kept."""
        return {
            "histogram_distance": self.distance,
            "correlation_error": self.correlation_error,
            "correlation": self.correlation.value[:, 0],
            "correlation_standard_error": self.correlation.error[:, 0],
            "mean": self.values.mean(),
            "deviation": self.values.std(),
            "share_below_0": (self.values < 0).mean(),
        }


def stationary(law: CoxIngersollRoss) -> Any:
    """Return the Gamma law of one value."""
    return scipy.stats.gamma(2 * law.a * law.b / law.sigma**2, scale=law.sigma**2 / (2 * law.a))


def histogram_distance(x: Float[np.ndarray, "sample vertex channel"], law: CoxIngersollRoss) -> float:
    """Wasserstein-1 distance of all values to the stationary law, in standard deviations of the law.

    Examples
    --------
    >>> from nearfield.datasets import CoxIngersollRoss
    >>> law = CoxIngersollRoss(0.2, 1.0, 0.4, 1.0, 5)
    >>> round(histogram_distance(law.sample(2000, random_state=0) + law.std, law), 1)
    1.0
    """
    values = np.sort(x, axis=None)
    quantiles = stationary(law).ppf((np.arange(len(values)) + 0.5) / len(values))
    return float(np.abs(values - quantiles).mean() / law.std)
