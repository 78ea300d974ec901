"""The Gaussian field of samples that are read tile by tile."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from nearfield.data.patches import patches_of
from nearfield.distribution import GaussianModel
from nearfield.fitting.band import choose_band
from nearfield.fitting.closed_form import NUGGETS, FieldFit, settled_field, warn_of
from nearfield.fitting.coarse import choose_correction, corrected
from nearfield.fitting.moments import MomentWarning, moment_warning
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.selection import SelectionReport, select_field
from nearfield.fitting.tiled import Keeper, build_tiled
from nearfield.fitting.tiled_moments import tiled_moments
from nearfield.methods.base import FitOptions, Fitted, locality_reason
from nearfield.samples import Samples
from nearfield.score.field import GaussianField
from nearfield.tiled_samples import TiledSamples

if TYPE_CHECKING:
    from jaxtyping import Int

__all__ = ["fit_tiled", "patches"]


def fit_tiled(
    samples: TiledSamples, radius: int | None, pooling: Pooling | None, keeper: Keeper, options: FitOptions
) -> Fitted:
    """Choose the locality on patches, fit the tiles, check the second moments of draws, and correct larger scales."""
    start = time.perf_counter()
    patch, at = patches(samples)
    selection: SelectionReport | None = None
    if radius is None or pooling is None:
        selection = select_field(patch, radius=radius, pooling=pooling, search=options.search)
        radius, pooling = selection.choice.radius, selection.choice.pooling
    reason = locality_reason(radius, pooling) if selection is None else selection.reason
    selected = time.perf_counter()
    tiles = _Tiles(samples, radius, keeper)
    fit, settled = settled_field(tiles.fit, pooling) if selection is not None else (tiles.fit(pooling), pooling)
    warn_of(fit, len(samples))
    if settled.nugget > pooling.nugget:
        reason += f" White noise of {settled.nugget:g} of the variance gives the draws the variance of the data."
    tiles.forget_others(fit.field)
    fitted = time.perf_counter()
    y = samples.standardized(fit.center, fit.scale)
    near = patch.standardized(fit.center[at], fit.scale[at])
    off = moment_warning(tiled_moments(y, fit.field, near, at, options.seed))
    checked = time.perf_counter()
    parts: list[str] = []
    correction = choose_correction(
        y,
        fit.field,
        partial(tiles.fit_part, settled, parts),
        settled,
        needed=off is not None,
        search=replace(options.search, n_jobs=None),
    )
    for stage in parts:
        keeper.forget(stage)
    field, made = corrected(fit.field, y, correction), time.perf_counter()
    if correction is not None:
        off = moment_warning(tiled_moments(y, field, near, at, options.seed))
        reason = f"{reason} {correction.describe()}"
    if off is not None:
        warnings.warn(off, MomentWarning, stacklevel=2)
    band, widened = choose_band(near, radius, settled, None, options.search)
    seconds = {
        "select": selected - start,
        "fit": fitted - selected,
        "correct": made - checked,
        "check": checked - fitted + time.perf_counter() - made,
    }
    tiling = samples.tiling
    cut = " x ".join(map(str, tiling.side))
    return Fitted(
        fit.center,
        fit.scale,
        GaussianModel(field, None, band, _largest_eigenvalue(y)),
        radius,
        settled,
        " ".join(filter(None, (reason, f"Fitted in {len(tiling)} tiles of {cut} cells.", widened))),
        seconds,
        selection,
    )


def _stage(nugget: float) -> str:
    return "field" if nugget == 0 else f"field-{nugget:g}"


@dataclass(frozen=True)
class _Tiles:
    """Fits of one radius, the tiles of each nugget kept apart."""

    samples: TiledSamples
    radius: int
    keeper: Keeper

    def forget_others(self, field: GaussianField) -> None:
        """Remove the tiles of the nuggets that were tried in vain."""
        for nugget in (0.0, *NUGGETS):
            if _stage(nugget) != getattr(field.factor, "stage", None):
                self.keeper.forget(_stage(nugget))

    def fit(self, pooling: Pooling) -> FieldFit:
        """Fit with a pooling."""
        stage = _stage(pooling.nugget)
        return build_tiled(self.samples, self.radius, pooling, self.keeper, stage)

    def fit_part(self, pooling: Pooling, stages: list[str], part: TiledSamples) -> GaussianField:
        """Fit some of the samples, in a stage of their own that is added to the others."""
        stages.append(f"part-{len(stages)}")
        return build_tiled(part, self.radius, pooling, self.keeper, stages[-1]).field


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
