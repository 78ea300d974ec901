"""The Gaussian field of samples that are read tile by tile."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nearfield.distribution import GaussianModel
from nearfield.fitting.band import choose_band
from nearfield.fitting.closed_form import FieldFit, settled_field, warn_of
from nearfield.fitting.coarse import choose_correction, corrected
from nearfield.fitting.moments import MomentWarning, moment_warning
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.selection import SelectionReport, select_field
from nearfield.fitting.tiled import Keeper, build_tiled
from nearfield.fitting.tiled_moments import tiled_moments
from nearfield.graph.tiling import Box, Tiling
from nearfield.methods.base import FitOptions, Fitted, locality_reason
from nearfield.samples import Samples
from nearfield.tiled_samples import TiledSamples

if TYPE_CHECKING:
    from jaxtyping import Int

__all__ = ["fit_tiled", "patch_boxes", "patches"]

PATCHES, PATCH = 4, 512
"""Patches on which the locality is chosen, and their vertices, about."""


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
    fitted = time.perf_counter()
    y = samples.standardized(fit.center, fit.scale)
    near = patch.standardized(fit.center[at], fit.scale[at])
    off = moment_warning(tiled_moments(y, fit.field, near, at, options.seed))
    checked = time.perf_counter()
    halves = iter(range(1_000_000))
    correction = choose_correction(
        y,
        fit.field,
        lambda part: build_tiled(part, radius, settled, keeper, f"half-{next(halves)}").field,
        settled,
        needed=off is not None,
        search=options.search,
    )
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


@dataclass(frozen=True)
class _Tiles:
    """Fits of one radius, the tiles of each nugget kept apart."""

    samples: TiledSamples
    radius: int
    keeper: Keeper

    def fit(self, pooling: Pooling) -> FieldFit:
        """Fit with a pooling."""
        stage = "field" if pooling.nugget == 0 else f"field-{pooling.nugget:g}"
        return build_tiled(self.samples, self.radius, pooling, self.keeper, stage)


def patch_boxes(tiling: Tiling) -> Iterator[Box]:
    """Yield boxes spread over the lattice, that of most vertices of each row of places."""
    shape = tiling.lattice.shape
    lengths = _box_lengths(shape, PATCH)
    for part in range(PATCHES):
        best, most = None, -1
        for other in (part, *(k for k in range(PATCHES) if k != part)):
            start = []
            for axis, (length, side) in enumerate(zip(shape, lengths, strict=True)):
                share = ((part if axis == 0 else other) + 0.5) / PATCHES
                start.append(min(length - side, max(0, round(length * share - side / 2))))
            box = Box(tuple(start), tuple(s + side for s, side in zip(start, lengths, strict=True)))
            found = len(tiling.vertices(box))
            if found > most:
                best, most = box, found
            if most == box.n_cells:
                break
        assert best is not None
        yield best


def _box_lengths(shape: tuple[int, ...], n_cells: int) -> tuple[int, ...]:
    """Lengths of a box of about so many cells within a shape."""
    lengths, left, axes = [0] * len(shape), n_cells, len(shape)
    for k, axis in enumerate(np.argsort(shape, kind="stable").tolist()):
        lengths[axis] = min(shape[axis], max(1, round(left ** (1 / (axes - k)))))
        left = max(1, left // lengths[axis])
    return tuple(lengths)


def patches(samples: TiledSamples) -> tuple[Samples, Int[np.ndarray, " vertex"]]:
    """Read some patches as ordinary samples, with the numbers of their vertices."""
    tiling = samples.tiling
    values, numbers = [], []
    for box in patch_boxes(tiling):
        values.append(samples.on(box).values)
        numbers.append(tiling.vertices(box))
    at, first = np.unique(np.concatenate(numbers), return_index=True)
    keep = np.zeros(samples.n_vertices, dtype=bool)
    keep[at] = True
    first_box = samples.on(next(patch_boxes(tiling)))
    joined = np.concatenate(values, axis=1)[:, first]
    graph = samples.graph.subgraph(keep)
    return Samples(joined, graph, ordered=samples.ordered, standard=first_box.standard), at


def _gram(tile: int, samples: TiledSamples) -> np.ndarray:
    values = samples.on(samples.tiling.box(tile)).values
    flat = values.reshape(len(values), -1)
    product: np.ndarray = flat @ flat.T
    return product


def _largest_eigenvalue(samples: TiledSamples) -> float:
    """Largest eigenvalue of the second moments of the values, by products of samples."""
    total = sum(samples.over_tiles(_gram))
    return float(np.linalg.eigvalsh(total)[-1] / len(samples))
