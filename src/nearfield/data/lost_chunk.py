"""Chunks that a store lacks: they read as missing values, and would pass for land."""

from __future__ import annotations

import itertools
import warnings
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool
    from numpy import ndarray

    from nearfield.data.source import Source

__all__ = ["warn_of_lost_chunks"]


def warn_of_lost_chunks(source: Source, present: Bool[ndarray, " cell"]) -> None:
    """Warn of whole chunks without a value in any sample, up to whose borders all cells have one: no coast is so."""
    grid = present.reshape(source.shape)
    for variable, name in zip(source.variables, source.names, strict=True):
        if variable.chunks is None:
            continue
        ends = [
            np.cumsum([length] if dim is None else variable.chunksizes[dim])
            for dim, length in zip(source.axes, source.shape, strict=True)
        ]
        lost = _islands(grid, ends)
        if lost:
            where = ", ".join(
                f"{dim} {cells.start} to {cells.stop - 1}"
                for dim, cells in zip(source.axes, lost[0], strict=True)
                if dim is not None
            )
            left_out = sum(grid[cells].size for cells in lost)
            warnings.warn(
                f"{len(lost)} of the chunks of {name} hold no value in any sample, and all cells around them do, the "
                f"first {where}: as if their files were lost. Their {left_out} cells are left out, as land is; if they "
                "are no land, write these chunks again",
                stacklevel=4,
            )
            return


def _islands(grid: Bool[ndarray, "*cell"], ends: list[ndarray]) -> list[tuple[slice, ...]]:
    """Find the chunks without a value whose neighbours in other chunks, but for such chunks, all have one."""
    starts = [np.concatenate([[0], stop[:-1]]) for stop in ends]
    count = grid.astype(np.int64)
    for axis, first in enumerate(starts):
        count = np.add.reduceat(count, first, axis=axis)
    empty = count == 0
    if not empty.any() or empty.all():
        return []
    of_cell = [np.repeat(np.arange(len(stop)), np.diff(stop, prepend=0)) for stop in ends]
    awaited, found = ~empty[np.ix_(*of_cell)], []
    for place in itertools.product(*map(range, empty.shape)):
        if not empty[place]:
            continue
        bounds = [(first[k], stop[k]) for first, stop, k in zip(starts, ends, place, strict=True)]
        around = tuple(slice(max(0, low - 1), high + 1) for low, high in bounds)
        if awaited[around].any() and grid[around][awaited[around]].all():
            found.append(tuple(slice(int(low), int(high)) for low, high in bounds))
    return found
