"""Values, samples or one number far beyond all the rest: warned of, since they may be real."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

__all__ = ["furthest", "warn_of_gaps", "warn_of_gaps_in_tiles"]

_GAP = 100.0  # the ratio of distances that is a gap; of Cauchy values one data set in a hundred has it
_FEWEST = 8  # samples from which on quartiles say something
_BLOCK = 1 << 20  # values at once
_ASIDE = 0.1  # share of the samples, or values, that may lie beyond a gap
_KEPT = 256  # values of a tile that may lie beyond a gap


def warn_of_gaps(x: Float[ndarray, "sample vertex channel"]) -> None:
    """Warn of values, of samples, or of one number, that lie beyond a gap far from all the rest.

    Deviations are from the median of a vertex, in its interquartile ranges. A gap is a ratio of 100 between one and the
    next in order, for values and for the median deviations of samples; whatever lies beyond may be a tenth of them. A
    number that occurs more than once, the lowest or highest of its variable, is found where it lies further from the
    rest than the rest is wide.
    """
    n, vertices, channels = x.shape
    kept = max(1, int(_ASIDE * n * vertices / math.ceil(vertices / _step(n))))
    for channel in range(channels):
        values = x[..., channel]
        _warn(_gap(*_blocks(values, kept), values.size) or _repeated(values))


def furthest(x: Float[ndarray, "sample vertex channel"]) -> dict[str, ndarray]:
    """Return what `warn_of_gaps_in_tiles` needs of a tile: its furthest values, and each sample's median deviation."""
    found = [_blocks(x[..., channel], _KEPT) for channel in range(x.shape[2])]
    rows = [np.column_stack([np.full(len(far), float(k)), far]) for k, (far, _) in enumerate(found)]
    return {"furthest": np.concatenate(rows), "members": np.stack([members for _, members in found])}


def warn_of_gaps_in_tiles(tiles: Sequence[Mapping[str, ndarray]], n_vertices: int) -> None:
    """Warn of values or samples beyond a gap, as `warn_of_gaps` does, of whose tiles `furthest` tells."""
    channels, _, n = tiles[0]["members"].shape
    for channel in range(channels):
        far = np.concatenate([tile["furthest"][tile["furthest"][:, 0] == channel, 1:] for tile in tiles])
        members = np.concatenate([tile["members"][channel] for tile in tiles])
        _warn(_gap(far, members, n * n_vertices))


def _step(n_samples: int) -> int:
    """Vertices at once."""
    return max(1, _BLOCK // n_samples)


def _blocks(
    x: Float[ndarray, "sample vertex"], kept: int
) -> tuple[Float[ndarray, "value 2"], Float[ndarray, "block sample"]]:
    """Return distances and values of the furthest values, and each sample's median distance in each block."""
    step = _step(len(x))
    found = [_furthest(x[:, start : start + step], kept) for start in range(0, x.shape[1], step)]
    return np.concatenate([far for far, _ in found]), np.stack([share for _, share in found])


def _warn(message: str) -> None:
    if message:
        warnings.warn(
            f"{message}: as if it were missing or wrong. Set it to NaN, drop those samples or mend the data; "
            "location and scale of the vertices follow it otherwise",
            stacklevel=3,
        )


def _furthest(
    x: Float[ndarray, "sample vertex"], kept: int
) -> tuple[Float[ndarray, "value 2"], Float[ndarray, " sample"]]:
    """Return distances and values of the furthest values, and each sample's median distance, NaN if none varies."""
    nothing = np.zeros((0, 2)), np.full(len(x), np.nan)
    if len(x) < _FEWEST:
        return nothing
    seen = ~np.isnan(x)
    filled = seen.any(axis=0)
    x, seen = (x, seen) if filled.all() else (x[:, filled], seen[:, filled])
    if not x.size:
        return nothing
    low, middle, high = (np.quantile if seen.all() else np.nanquantile)(x, (0.25, 0.5, 0.75), axis=0)
    usable = high > low
    if not usable.any():
        return nothing
    distance = np.where(seen, np.abs(x - middle), 0.0)[:, usable] / (high - low)[usable]
    flat, values = distance.ravel(), x[:, usable].ravel()
    top = np.argpartition(flat, -min(kept + 1, len(flat)))[-min(kept + 1, len(flat)) :]
    return np.column_stack([flat[top], values[top]]), np.median(distance, axis=1)


def _gap(far: Float[ndarray, "value 2"], members: Float[ndarray, "block sample"], size: int) -> str:
    """Name the value or the sample beyond a gap, from the furthest values and median distances of blocks."""
    members = members[~np.isnan(members).any(axis=1)]
    if not len(members):
        return ""
    sizes, values = far.T
    order = np.argsort(sizes)
    found = _beyond(sizes[order], max(1, int(_ASIDE * size)))
    if found:
        return (
            f"{found} of {size} values are far beyond all others, the furthest {values[order[-1]]:g}, an outlier "
            f"{sizes[order[-1]]:.3g} interquartile ranges from the median of its vertex"
        )
    middle = np.median(members, axis=0)
    n, order = len(middle), np.argsort(middle)
    found = _beyond(middle[order], max(1, int(_ASIDE * n)))
    if found:
        return (
            f"{found} of {n} samples are far beyond all others, the furthest number {order[-1]}, an outlier "
            f"{middle[order[-1]]:.3g} interquartile ranges from the median on most vertices"
        )
    return ""


def _beyond(ascending: Float[ndarray, " value"], most: int) -> int:
    """Count the values beyond the furthest gap, at most `most`."""
    top = np.maximum(ascending[-most - 1 :], 1.0)
    gaps = np.flatnonzero(top[1:] > _GAP * top[:-1])
    return len(top) - 1 - int(gaps[0]) if len(gaps) else 0


def _repeated(x: Float[ndarray, "*shape"]) -> str:
    """Name the lowest or highest value, if it occurs more than once and lies far from the rest."""
    x = x[~np.isnan(x)]
    low, high = float(x.min()), float(x.max())
    for number, others in ((low, x[x > low]), (high, x[x < high])):
        if others.size < max(_FEWEST, 0.5 * x.size) or x.size - others.size < 2:
            continue
        gap = float(np.abs(others - number).min())
        width = float(others.max() - others.min())
        if gap > width > 0 and len(np.unique(others[: 10 * _FEWEST])) > _FEWEST:
            return f"{number:g} occurs {x.size - others.size} times and lies {gap:.3g} beyond all other values"
    return ""
