"""The Gaussian field of samples that are read tile by tile."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nearfield.data.patches import patches_of
from nearfield.distribution import GaussianModel
from nearfield.fitting.band import choose_band
from nearfield.fitting.closed_form import FieldFit, settled_field, warn_of
from nearfield.fitting.coarse import Scale, choose_correction, corrected
from nearfield.fitting.matern import Matern, fit_matern
from nearfield.fitting.missing import MissingReport
from nearfield.fitting.moments import Moment, MomentWarning, moment_warning
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.selection import SelectionReport, select_field
from nearfield.fitting.tiled import Keeper, build_tiled
from nearfield.fitting.tiled_expectation import TiledExpectation, completed_tiles, expectation_of_tiles
from nearfield.fitting.tiled_moments import tiled_moments
from nearfield.methods.base import FitOptions, Fitted, locality_reason
from nearfield.samples import Samples
from nearfield.score.field import GaussianField
from nearfield.tiled_samples import TiledSamples

if TYPE_CHECKING:
    from jaxtyping import Int

__all__ = ["fit_tiled", "patches"]

PRICE = 1e-3
"""Held-out loss, nats per dimension, that is given for draws with the moments of the data."""
MOST_WIDER = 3
"""Wider radii that are tried for it."""


def fit_tiled(
    samples: TiledSamples, radius: int | None, pooling: Pooling | None, keeper: Keeper, options: FitOptions
) -> tuple[Fitted, Samples]:
    """Choose the locality on patches, fit the tiles, check the second moments of draws, and correct larger scales.

    The patches come back, with draws of what is missing there.
    """
    start = time.perf_counter()
    tiles = _Tiles(samples, *patches(samples), keeper, options)
    selection: SelectionReport | None = None
    if radius is None or pooling is None:
        selection = select_field(tiles.patch, radius=radius, pooling=pooling, search=options.search)
        radius, pooling = selection.choice.radius, selection.choice.pooling
    reason = locality_reason(radius, pooling) if selection is None else selection.reason
    selected = time.perf_counter()
    found = tiles.checked(radius, pooling, settle=selection is not None)
    if selection is not None and found.off is not None:
        found, reason = tiles.wider(found, selection, reason)
    warn_of(found.fit, len(samples))
    if found.pooling.nugget > pooling.nugget:
        reason += f" White noise of {found.pooling.nugget:g} of the variance gives the draws the variance of the data."
    missing, stage = None, getattr(found.fit.field.factor, "stage", "")
    if found.gaps is None:
        keeper.forget_others(stage)
    else:
        missing = MissingReport.of(samples, len(found.gaps.gains))
        reason = f"{reason} {missing.describe()} {found.gaps.describe()}"
    fitted = time.perf_counter()
    field, correction, off = found.tiles.corrected(found)
    if correction is not None:
        reason = f"{reason} {correction.describe()}"
    if off is not None:
        warnings.warn(off, MomentWarning, stacklevel=2)
    made, fit = time.perf_counter(), found.fit
    near = tiles.patch.standardized(fit.center[tiles.at], fit.scale[tiles.at])
    band, widened = choose_band(near, found.radius, found.pooling, None, options.search)
    eigenvalue = _largest_eigenvalue(found.tiles.samples.standardized(fit.center, fit.scale))
    if missing is not None:
        keeper.forget_others(stage)
    law = Fitted(
        fit.center,
        fit.scale,
        GaussianModel(field, None, band, eigenvalue),
        found.radius,
        found.pooling,
        " ".join(filter(None, (reason, f"Fitted in {samples.tiling.describe()}.", widened))),
        {"select": selected - start, "fit": fitted - selected, "correct": made - fitted},
        selection,
        missing=missing,
    )
    return law, found.tiles.patch


class _Checked(NamedTuple):
    """A fit with the second moments of its draws, the tiles with draws of what is missing, and how they came about."""

    radius: int
    pooling: Pooling
    fit: FieldFit
    moments: tuple[Moment, ...]
    tiles: _Tiles
    gaps: TiledExpectation | None

    @property
    def off(self) -> str | None:
        """What is off, in words."""
        return moment_warning(self.moments)

    @property
    def worst(self) -> float:
        """Largest logarithm of a ratio that is off."""
        return max(
            (abs(math.log(m.ratio)) if 0 < m.ratio < math.inf else math.inf for m in self.moments if m.off), default=0.0
        )


@dataclass(frozen=True)
class _Tiles:
    """Fits of tiles, each in a stage of its own; ``patch`` are the samples on the vertices ``at``."""

    samples: TiledSamples
    patch: Samples
    at: Int[np.ndarray, " vertex"]
    keeper: Keeper
    options: FitOptions

    def checked(self, radius: int, pooling: Pooling, *, settle: bool, start: FieldFit | None = None) -> _Checked:
        """Fit, with a nugget where that may be chosen and draws ask for it, and compare the moments of draws.

        Where values are missing, expectation and maximisation start from a field.
        """
        samples, tiles, gaps = self.samples, self, None
        if samples.incomplete:
            gaps = expectation_of_tiles(samples, radius, pooling, self.keeper, self.options.seed, start)
            samples = gaps.samples
        fit = partial(self._fit, samples, radius)
        found, pooling = settled_field(fit, pooling) if settle else (fit(pooling), pooling)
        if gaps is not None:
            tiles = self._drawn(found)
        return _Checked(radius, pooling, found, tiles._moments(found, found.field), tiles, gaps)

    def _drawn(self, fit: FieldFit) -> _Tiles:
        """Draw what is missing."""
        stage = f"drawn-{getattr(fit.field.factor, 'stage', '')}"
        samples = completed_tiles(self.samples, fit, self.keeper, stage, self.options.seed)
        return replace(self, samples=samples, patch=patches(samples)[0])

    def wider(self, found: _Checked, selection: SelectionReport, reason: str) -> tuple[_Checked, str]:
        """Take a wider radius with hardly more loss, if the moments of its draws are nearer to those of the data.

        The choice prefers small radii, and patches do not show the scales beyond them, where draws may lack variance.
        """
        best, lowest = found, selection.table[selection.best].loss
        near = [c for c in selection.curve if c.radius > found.radius and c.loss <= lowest + PRICE]
        for candidate in sorted(near, key=lambda c: c.radius)[:MOST_WIDER]:
            other = self.checked(candidate.radius, candidate.pooling, settle=True, start=found.fit)
            if other.worst < best.worst:
                best = other
            if best.off is None:
                break
        if best is found:
            return found, reason
        more = f"Radius {best.radius} was taken, whose draws are nearer to the moments of the data at larger scales."
        return best, f"{reason} {more}"

    def corrected(self, found: _Checked) -> tuple[GaussianField, Scale | None, str | None]:
        """Correct the field at larger scales where that is better, and say which moments are still off."""
        fit, parts = found.fit, list[str]()
        y = self.samples.standardized(fit.center, fit.scale)
        correction = choose_correction(
            y,
            fit.field,
            partial(self._fit_part, found, parts),
            found.pooling,
            needed=found.off is not None,
            search=replace(self.options.search, n_jobs=None),
        )
        for stage in parts:
            self.keeper.forget(stage)
        if correction is None:
            return fit.field, None, found.off
        field = corrected(fit.field, y, correction)
        return field, correction, moment_warning(self._moments(fit, field))

    def _fit(self, samples: TiledSamples, radius: int, pooling: Pooling) -> FieldFit:
        stage = f"field-{radius}" + (f"-{pooling.nugget:g}" if pooling.nugget else "")
        return build_tiled(samples, radius, pooling, self.keeper, stage, self._law(pooling, self.patch))

    def _fit_part(self, found: _Checked, stages: list[str], part: TiledSamples) -> GaussianField:
        """Fit some of the samples, in a stage of their own that is added to the others."""
        stages.append(f"part-{len(stages)}")
        law = self._law(
            found.pooling, self.patch if part.numbers is None else self.patch.take(self._among(part.numbers))
        )
        return build_tiled(part, found.radius, found.pooling, self.keeper, stages[-1], law).field

    def _law(self, pooling: Pooling, patch: Samples) -> Matern | None:
        """Law that points in space are shrunk towards, by the patches; None for other graphs."""
        return fit_matern(patch) if pooling.strength > 0.0 else None

    def _among(self, numbers: Int[np.ndarray, " some"]) -> Int[np.ndarray, " some"]:
        """Places of samples among those in use."""
        return numbers if self.samples.numbers is None else np.searchsorted(self.samples.numbers, numbers)

    def _moments(self, fit: FieldFit, field: GaussianField) -> tuple[Moment, ...]:
        y = self.samples.standardized(fit.center, fit.scale)
        near = self.patch.standardized(fit.center[self.at], fit.scale[self.at])
        return tiled_moments(y, field, near, self.at, self.options.seed)


def patches(samples: TiledSamples) -> tuple[Samples, Int[np.ndarray, " vertex"]]:
    """Read some patches as ordinary samples, with the numbers of their vertices."""
    tiling = samples.tiling
    boxes = patches_of(tiling)
    parts, numbers = [samples.on(box) for box in boxes], [tiling.vertices(box) for box in boxes]
    at, first = np.unique(np.concatenate(numbers), return_index=True)
    keep = np.zeros(samples.n_vertices, dtype=bool)
    keep[at] = True
    values = np.concatenate([part.values for part in parts], axis=1)[:, first]
    return parts[0].with_values(values, samples.graph.subgraph(keep), observed=None), at


def _gram(tile: int, samples: TiledSamples) -> np.ndarray:
    values = samples.on(samples.tiling.box(tile)).values
    flat = values.reshape(len(values), -1)
    product: np.ndarray = flat @ flat.T
    return product


def _largest_eigenvalue(samples: TiledSamples) -> float:
    """Largest eigenvalue of the second moments of the values, by products of samples."""
    total = sum(samples.over_tiles(_gram))
    return float(np.linalg.eigvalsh(total)[-1] / len(samples))
