"""How far generated covariances are from the true one, over radii and data sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nearfield.evaluation.metric import covariance_error, gaussian_kl

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["Distances", "Ratio", "best_over_whole"]


class Distances(NamedTuple):
    """How far covariances are from the truth: ``error`` (4.6), and ``divergence`` KL(truth || them) in nats per vertex.

    Arrays over the radius, or over data sets and the radius; over the data sets alone for methods that have no radius.
    """

    error: Float[np.ndarray, "..."]
    divergence: Float[np.ndarray, "..."]

    @classmethod
    def of(cls, covariances: Sequence[Float[np.ndarray, "d d"]], truth: Float[np.ndarray, "d d"]) -> Distances:
        """Measure one covariance after the other."""
        return cls(
            np.array([covariance_error(c, truth) for c in covariances]),
            np.array([gaussian_kl(truth, c) / len(truth) for c in covariances]),
        )

    @classmethod
    def stacked(cls, repeats: Iterable[Distances]) -> Distances:
        """Put those of several data sets together."""
        return cls(*(np.array(values) for values in zip(*repeats, strict=True)))

    def summary(self) -> dict[str, dict[str, Float[np.ndarray, " radius"]]]:
        """Return mean and standard deviation over the data sets."""
        return {
            name: {"mean": values.mean(axis=0), "sd": values.std(axis=0, ddof=1)}
            for name, values in self._asdict().items()
        }


class Ratio(NamedTuple):
    """Error at the best radius over that without localization, ratio of means over ``data_sets`` data sets."""

    value: float
    standard_error: float
    data_sets: int

    @classmethod
    def of(cls, best: Float[np.ndarray, " set"], whole: Float[np.ndarray, " set"]) -> Ratio:
        """Divide the means; the standard error is by the delta method.

        Examples
        --------
        >>> Ratio.of(np.array([1.0, 2.0]), np.array([2.0, 4.0]))
        Ratio(value=0.5, standard_error=0.0, data_sets=2)
        """
        value = best.mean() / whole.mean()
        spread = (best - value * whole).std(ddof=1)
        return cls(float(value), float(spread / (whole.mean() * np.sqrt(len(best)))), len(best))

    def __str__(self) -> str:
        return f"{self.value:.3f} +- {self.standard_error:.3f}"


def best_over_whole(error: Float[np.ndarray, "set radius"]) -> Ratio:
    """Compare the radius that is best in the mean with the last."""
    return Ratio.of(error[:, error.mean(axis=0).argmin()], error[:, -1])
