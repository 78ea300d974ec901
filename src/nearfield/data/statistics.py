"""What the values of each vertex say, without the values: counts, moments and extremes, in memory or tile by tile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from nearfield.data.duplicate import fingerprint_sums
from nearfield.data.missing import fill_numbers
from nearfield.data.outlier import furthest

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from numpy import ndarray

    from nearfield.data.source import Source
    from nearfield.graph.tiling import Tiling

__all__ = ["VertexStatistics", "statistics_of"]

_BLOCK = 1 << 20  # values at once
_OF_CELLS = ("count", "gaps", "infinite", "low", "high", "mean", "variance")


@final
@dataclass(frozen=True, eq=False)
class VertexStatistics:
    """Statistics over the samples at every cell, NaN left out.

    Parameters
    ----------
    n_samples : int
        Number of samples.
    count : ndarray of int, (cell, channel)
        Values that are not NaN.
    gaps : ndarray of int, (cell,)
        Samples that are NaN in some channel.
    infinite : ndarray of bool, (cell,)
        Whether a value is infinite.
    low, high : ndarray, (cell, channel)
        Smallest and largest value, in the type of the data; NaN where there is none.
    mean, variance : ndarray, (cell, channel)
        Mean, and mean square deviation from it, in double precision; NaN where there is no value.
    fills : ndarray, (fill number, 3)
        Channel, customary fill number far beyond the other values of its vertex, and how many values are it.

    Examples
    --------
    >>> found = VertexStatistics.of(np.array([[[1.0]], [[np.nan]], [[3.0]]]))
    >>> found.mean.item(), found.variance.item(), found.count.item()
    (2.0, 1.0, 2)
    """

    n_samples: int
    count: Int[ndarray, "cell channel"]
    gaps: Int[ndarray, " cell"]
    infinite: Bool[ndarray, " cell"]
    low: Float[ndarray, "cell channel"]
    high: Float[ndarray, "cell channel"]
    mean: Float[ndarray, "cell channel"]
    variance: Float[ndarray, "cell channel"]
    fills: Float[ndarray, "fill 3"]

    @classmethod
    def of(
        cls, values: Float[ndarray, "sample cell channel"], allowed: Sequence[tuple[float, float]] = ()
    ) -> VertexStatistics:
        """Take the statistics of values, whose channels have these lowest and highest valid ones."""
        step = max(1, _BLOCK // max(1, len(values) * values.shape[2]))
        blocks = [_moments(values[:, start : start + step]) for start in range(0, values.shape[1], step)]
        arrays = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
        limits = allowed or [(-np.inf, np.inf)] * values.shape[2]
        present = arrays["count"].any(axis=1) & ~arrays["infinite"]
        fills = []
        for channel, pair in enumerate(limits):
            numbers, counts = fill_numbers(values[:, present, channel], pair)
            fills.append(np.column_stack([np.full(len(numbers), float(channel)), numbers, counts]))
        return cls(len(values), **arrays, fills=np.concatenate(fills))

    @classmethod
    def gathered(cls, tiling: Tiling, n_samples: int, tiles: Sequence[Mapping[str, ndarray]]) -> VertexStatistics:
        """Put together the statistics of all tiles, from `statistics_of`, in their order."""
        arrays: dict[str, ndarray] = {}
        for tile, found in enumerate(tiles):
            cells = tiling.cells(tiling.box(tile))
            for name in _OF_CELLS:
                if name not in arrays:
                    shape = (tiling.n_cells, *found[name].shape[1:])
                    arrays[name] = np.empty(shape, dtype=found[name].dtype)
                arrays[name][cells] = found[name]
        rows = np.concatenate([found["fills"] for found in tiles])
        kinds, of = np.unique(rows[:, :2], axis=0, return_inverse=True)
        counts = np.bincount(of.reshape(-1), rows[:, 2], minlength=len(kinds))
        return cls(n_samples, **arrays, fills=np.column_stack([kinds, counts]))

    @property
    def present(self) -> Bool[ndarray, " cell"]:
        """Cells with a value."""
        found: ndarray = self.count.max(axis=1) > 0
        return found

    @property
    def largest(self) -> Float[ndarray, " cell"]:
        """Largest magnitude at each cell; NaN where there is no value."""
        found: ndarray = np.fmax.reduce(np.fmax(np.abs(self.low), np.abs(self.high)), axis=1)
        return found.astype(np.float64)


def statistics_of(source: Source, tiling: Tiling, tile: int) -> dict[str, ndarray]:
    """Return the statistics of the cells of a tile, as arrays, and what tells its samples apart and which are empty."""
    box = tiling.box(tile)
    values = source.read(box)
    found = VertexStatistics.of(values, source.allowed)
    empty = np.full(len(values), not found.present.any())
    if found.gaps.any():
        empty = np.isnan(values).all(axis=(1, 2))
    told = {name: value for name, value in vars(found).items() if name != "n_samples"} | furthest(values)
    return told | {"fingerprint": fingerprint_sums(values, tiling.cells(box)), "empty": empty}


def _moments(x: Float[ndarray, "sample cell channel"]) -> dict[str, ndarray]:
    """Take all but the fill numbers, in two passes."""
    seen = ~np.isnan(x)
    count = np.count_nonzero(seen, axis=0)
    complete = bool(seen.all())
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):  # infinite values are refused later
        mean = np.sum(x, axis=0, dtype=np.float64, where=True if complete else seen) / count
        deviation = x - mean
        variance = np.sum(deviation**2, axis=0, where=True if complete else seen) / count
    return {
        "count": count,
        "gaps": np.count_nonzero(~seen.all(axis=2), axis=0),
        "infinite": np.isinf(x).any(axis=(0, 2)),
        "low": np.fmin.reduce(x, axis=0),
        "high": np.fmax.reduce(x, axis=0),
        "mean": mean,
        "variance": variance,
    }
