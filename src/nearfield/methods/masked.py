"""The paper's masked score (4.5)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal, final

from nearfield.distribution import DiffusionModel
from nearfield.fitting.closed_form import fit_masked
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.radius import select_masked_radius
from nearfield.methods.base import (
    FitOptions,
    Fitted,
    Method,
    automatic,
    fixed,
    keep_pooling,
    keep_radius,
    locality_reason,
)
from nearfield.samples import Samples

__all__ = ["Masked"]


@final
@dataclass(frozen=True)
class Masked(Method):
    """Masked inverse of the covariance of noised data, (4.5).

    Parameters
    ----------
    radius : int or "auto"
        Hops beyond which entries are zero.
    pooling : float or "auto"
        0 or ``"auto"``: the score does not pool.
    """

    radius: int | Literal["auto"] = "auto"
    pooling: float | Pooling | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        keep_radius(self)
        keep_pooling(self)
        if not automatic(self.pooling) and self.pooling.strength > 0:  # type: ignore[union-attr]
            raise ValueError("pooling must be 0 or 'auto' with method='masked': the paper's score (4.5) does not pool")

    def _fit(self, samples: Samples, options: FitOptions) -> Fitted:
        """Choose the radius by the denoising loss summed over noise levels, and fit."""
        start = time.perf_counter()
        radius = select_masked_radius(samples, seed=options.seed) if automatic(self.radius) else fixed(self.radius)
        selected = time.perf_counter()
        center, scale, score = fit_masked(samples, radius)
        seconds = {"select": selected - start, "fit": time.perf_counter() - selected}
        law, pooling = DiffusionModel(score, samples.standardized(center, scale).largest_eigenvalue), Pooling(0.0)
        return Fitted(center, scale, law, radius, pooling, locality_reason(radius, pooling), seconds)
