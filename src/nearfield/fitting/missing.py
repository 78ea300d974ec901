"""What is missing of the samples of a fit, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from nearfield.samples import Samples
from nearfield.tiled_samples import TiledSamples

__all__ = ["MissingReport"]

_FEW_VALUES, _FEW_SHARE = 20, 0.1
"""Values, and share of the samples, below which a vertex is reported."""


@final
@dataclass(frozen=True)
class MissingReport:
    """Missing values of the samples of a fit.

    Parameters
    ----------
    share : float
        Of all values.
    n_observed : tuple of int
        Number of observed values of each vertex, of the variable that has fewest.
    few : tuple of int
        Numbers of the vertices with less than a tenth of the values, or fewer than 20.
    inflation : float
        Factor of the variance of the estimates over that of complete samples, at least: the mean over the vertices of
        the number of samples over that of the values. It is more where gaps part neighbours.
    iterations : int
        Of expectation and maximisation.
    """

    share: float
    n_observed: tuple[int, ...]
    few: tuple[int, ...]
    inflation: float
    iterations: int

    @classmethod
    def of(cls, samples: Samples | TiledSamples, iterations: int) -> MissingReport:
        """Report what is missing of samples."""
        observed, n = samples.n_observed, len(samples)
        assert observed is not None
        count = observed.min(axis=1)
        return cls(
            share=1 - float(observed.mean()) / n,
            n_observed=tuple(count.tolist()),
            few=tuple(np.flatnonzero((count < n) & (count < max(_FEW_VALUES, _FEW_SHARE * n))).tolist()),
            inflation=float((n / np.maximum(observed, 1)).mean()),
            iterations=iterations,
        )

    def describe(self) -> str:
        """Return the report in a sentence."""
        few = f" Vertices with little data: {len(self.few)}." if self.few else ""
        return (
            f"{self.share:.1%} of the values are missing; the field is fitted to the others by {self.iterations} "
            f"iterations of expectation and maximisation, with at least {self.inflation:.2f} times the variance of a "
            f"fit of complete samples.{few}"
        )
