"""The windowed score: the minimiser of the local loss (3.8) over linear scores, with a radius at each noise level."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Literal, final

from nearfield.distribution import DiffusionModel
from nearfield.fitting.closed_form import fit_windowed
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.radius import select_radius_by_time
from nearfield.fitting.selection import select_field
from nearfield.methods.base import FitOptions, Fitted, Method, Radius, fixed, keep_pooling, keep_radius, locality_reason
from nearfield.samples import Samples

__all__ = ["Windowed"]


@final
@dataclass(frozen=True)
class Windowed(Method):
    """Minimiser of the local loss (3.8) over linear scores.

    Parameters
    ----------
    radius : int or "auto"
        Hops of the windows; ``"auto"`` chooses them at each noise level.
    pooling : float in [0, 1], Pooling, or "auto"
        As in `nearfield.LocalizedDiffusion`.
    """

    radius: int | Literal["auto"] = "auto"
    pooling: float | Pooling | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        keep_radius(self)
        keep_pooling(self)

    def _fit(self, samples: Samples, options: FitOptions) -> Fitted:
        """Choose the pooling by the loss of the field, the radii by the denoising loss, and fit."""
        start = time.perf_counter()
        pooling: Pooling | None = fixed(self.pooling)
        radius: int | None = fixed(self.radius)
        selection = None
        if pooling is None:
            selection = select_field(samples, search=options.search)  # its radius is the field's, not the windows'
            pooling = selection.choice.pooling
        used: Radius = select_radius_by_time(samples, pooling, seed=options.seed) if radius is None else radius
        if selection is not None and not isinstance(used, int):
            selection = replace(selection, radius_by_time=used)
        selected = time.perf_counter()
        center, scale, score = fit_windowed(samples, ((1.0, used),) if isinstance(used, int) else used, pooling)
        seconds = {"select": selected - start, "fit": time.perf_counter() - selected}
        law = DiffusionModel(score, samples.standardized(center, scale).largest_eigenvalue)
        return Fitted(center, scale, law, used, pooling, locality_reason(used, pooling), seconds, selection)
