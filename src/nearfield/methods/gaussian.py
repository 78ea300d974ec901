"""The Gaussian field: a locality chosen by held-out loss, corrections at larger scales, and a predictive density."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple, final

import numpy as np

from nearfield.distribution import Distribution, GaussianModel
from nearfield.fitting.band import choose_band
from nearfield.fitting.closed_form import build_field, settled_field, warn_of
from nearfield.fitting.coarse import Scale, choose_correction, corrected
from nearfield.fitting.context import Locality
from nearfield.fitting.expectation import completed, expectation
from nearfield.fitting.missing import MissingReport
from nearfield.fitting.moments import MomentWarning, moment_warning, moments
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.predictive import choose_predictive
from nearfield.fitting.selection import SelectionReport, select_field
from nearfield.methods.base import FitOptions, Fitted, Method, fixed, keep_pooling, keep_radius, locality_reason
from nearfield.samples import Samples
from nearfield.score.field import GaussianField

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["Chosen", "FittedField", "Gaussian", "choose", "fit_chosen", "fitted_gaussian"]

_PLAIN = "Log-densities are those of the field: predictive laws are chosen for samples without gaps only."


@final
@dataclass(frozen=True)
class Gaussian(Method):
    """Sparse Cholesky field, exact in everything.

    Parameters
    ----------
    radius : int or "auto"
        Hops within which a vertex is conditioned on earlier ones (points in space: on as many of the nearest earlier
        ones as there are vertices within these hops on average).
    pooling : float in [0, 1], Pooling, or "auto"
        As in `nearfield.LocalizedDiffusion`.

    Examples
    --------
    >>> Gaussian(radius=2)
    Gaussian(radius=2, pooling='auto')
    """

    radius: int | Literal["auto"] = "auto"
    pooling: float | Pooling | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        keep_radius(self)
        keep_pooling(self)

    def _fit(self, samples: Samples, options: FitOptions) -> Fitted:
        """Choose, fit, correct; then choose the density and the width of conditional draws."""
        chosen = choose(samples, fixed(self.radius), fixed(self.pooling), options)
        return fitted_gaussian(samples, fit_chosen(samples, chosen, options), options)

    def require(self, samples: Samples) -> None:
        """Accept missing values."""


class Chosen(NamedTuple):
    """Hops and pooling of the field, the reason of the choice, and its seconds."""

    radius: int
    pooling: Pooling
    selection: SelectionReport | None
    reason: str
    seconds: float


class FittedField(NamedTuple):
    """A field of ``(x - center) / scale`` with its locality and correction, and the samples, drawn where missing."""

    center: Float[np.ndarray, "vertex channel"]
    scale: Float[np.ndarray, "vertex channel"]
    field: GaussianField
    radius: int
    pooling: Pooling
    correction: Scale | None
    selection: SelectionReport | None
    reason: str
    seconds: dict[str, float]
    samples: Samples
    missing: MissingReport | None = None

    @property
    def locality(self) -> Locality:
        """What it takes to fit the field to other samples."""
        return Locality(self.radius, self.pooling, self.correction)

    def fitted(self, law: Distribution) -> Fitted:
        """Return the result of a method with a law."""
        return Fitted(
            self.center,
            self.scale,
            law,
            self.radius,
            self.pooling,
            self.reason,
            self.seconds,
            self.selection,
            missing=self.missing,
        )


def choose(samples: Samples, radius: int | None, pooling: Pooling | None, options: FitOptions) -> Chosen:
    """Choose radius and pooling by cross-validation, where they are None."""
    start = time.perf_counter()
    if radius is not None and pooling is not None:
        return Chosen(radius, pooling, None, locality_reason(radius, pooling), 0.0)
    selection = select_field(samples, radius=radius, pooling=pooling, search=options.search)
    choice = selection.choice
    return Chosen(choice.radius, choice.pooling, selection, selection.reason, time.perf_counter() - start)


def fit_chosen(samples: Samples, chosen: Chosen, options: FitOptions, n_draws: int = 1) -> FittedField:
    """Fit the field, check the second moments of its draws, and correct it at larger scales if they are off.

    Missing values are drawn so many times.
    """
    start = time.perf_counter()
    radius, pooling, selection, reason, selected = chosen
    expected, missing = samples, None
    if samples.incomplete:
        expected, losses = expectation(samples, radius, pooling)
        missing = MissingReport.of(samples, len(losses))
        reason = f"{reason} {missing.describe()}"
    if selection is None:
        fit = build_field(expected, radius, pooling)
    else:
        fit, pooling = settled_field(partial(build_field, expected, radius), pooling)
    warn_of(fit, len(samples))
    if missing is not None:
        samples = completed(samples, fit, options.seed, n_draws)
    fitted, y = time.perf_counter(), samples.standardized(fit.center, fit.scale)
    off, checked = moment_warning(moments(y, fit.field, options.seed)), time.perf_counter()
    correction = choose_correction(
        y,
        fit.field,
        lambda part: build_field(part, radius, pooling).field,
        pooling,
        needed=off is not None,
        search=options.search,
    )
    field, made = corrected(fit.field, y, correction), time.perf_counter()
    if correction is not None:
        off = moment_warning(moments(y, field, options.seed))
        reason = f"{reason} {correction.describe()}"
    if off is not None:
        warnings.warn(off, MomentWarning, stacklevel=2)
    if pooling.nugget > chosen.pooling.nugget:
        reason += f" White noise of {pooling.nugget:g} of the variance gives the draws the variance of the data."
    checks = checked - fitted + time.perf_counter() - made
    seconds = {"select": selected, "fit": fitted - start, "correct": made - checked, "check": checks}
    return FittedField(
        fit.center, fit.scale, field, radius, pooling, correction, selection, reason, seconds, samples, missing
    )


def fitted_gaussian(samples: Samples, found: FittedField, options: FitOptions) -> Fitted:
    """Choose the density and the width of conditional draws of a field, and return what a method returns."""
    start = time.perf_counter()
    y, given = (s.standardized(found.center, found.scale) for s in (found.samples, samples))
    predictive, scored = None, _PLAIN
    if not samples.incomplete:
        predictive, scored = choose_predictive(y, found.field, found.radius, found.pooling, options.search)
    band, widened = choose_band(given, found.radius, found.pooling, found.correction, options.search)
    fitted = found.fitted(GaussianModel(found.field, predictive, band, y.largest_eigenvalue))
    return replace(
        fitted,
        reason=" ".join(filter(None, (fitted.reason, scored, widened))),
        seconds=fitted.seconds | {"score": time.perf_counter() - start},
    )
