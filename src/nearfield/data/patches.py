"""Small parts of large fields, read into memory: patches to choose a locality on, crops that networks learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from nearfield.graph.pieces import Piece, spread_pieces
from nearfield.graph.tiling import Box, BoxTiling, Tiling
from nearfield.samples import Samples

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from numpy import ndarray

    from nearfield.data.codec import Codec
    from nearfield.data.source import Source

__all__ = ["Crop", "crops_of", "patches_of", "samples_on"]

_PLACES = ((0, 2, 1), (1, 0, 3), (2, 3, 0), (3, 1, 2))  # eighths 1, 3, 5, 7 along each axis, each once
_LOOKED_AT = 4096  # candidates, of all over the lattice
_TRIES = 16  # places for a crop with enough vertices


@final
@dataclass(frozen=True, eq=False)
class Crop:
    """A window on a lattice, and numbers of the samples that are seen in it; `Source.read` takes both.

    Parameters
    ----------
    box : Box
    samples : ndarray of int, (some,)
    """

    box: Box
    samples: Int[ndarray, " some"]


def patches_of(tiling: Tiling, n_cells: int = 512) -> list[Box] | list[Piece]:
    """Return up to four regions of about so many cells, spread over the graph, with as few cells left out as can be.

    Examples
    --------
    >>> from nearfield.graph import DependencyGraph
    >>> patches_of(Tiling.of(DependencyGraph.chain(1000)), 50)[1]
    Box(start=(350,), stop=(400,))
    """
    if not isinstance(tiling, BoxTiling):
        return spread_pieces(tiling.graph, n_cells)
    fine = BoxTiling.of(tiling.graph, n_cells)
    candidates = np.unique(np.linspace(0, len(fine) - 1, min(len(fine), _LOOKED_AT)).round().astype(np.int64)).tolist()
    boxes = [fine.box(tile) for tile in candidates]
    filled = np.array([len(fine.vertices(box)) / box.n_cells for box in boxes])
    shape = np.array(fine.lattice.shape)
    middles = np.array([np.add(box.start, box.stop) / 2 for box in boxes]) / shape
    usable = filled >= 0.9 * filled.max()
    chosen: list[int] = []
    for place in _PLACES[: min(4, len(boxes))]:
        target = (2 * np.array(place[: len(shape)]) + 1) / 8
        away = np.abs(middles - target).max(axis=1) + np.where(usable, 0.0, 1.0)
        away[chosen] = np.inf
        chosen.append(int(away.argmin()))
    return [boxes[k] for k in sorted(chosen) if filled[k]]


def crops_of(tiling: BoxTiling, n_samples: int, side: tuple[int, ...], number: int, each: int, seed: int) -> list[Crop]:
    """Draw windows with samples, each by the seed and its own number: everywhere alike, within open ends.

    Parameters
    ----------
    tiling : BoxTiling
        Of the graph; windows more than half of whose cells are left out are drawn again.
    n_samples : int
        Samples to draw from.
    side : tuple of int
        Cells of a window along each axis, cut to the lattice.
    number, each : int
        Number of windows, and of different samples seen in each, all of which one reading takes.
    seed : int

    Examples
    --------
    >>> from nearfield.graph import DependencyGraph
    >>> tiling = BoxTiling.of(DependencyGraph.grid((60, 80)))
    >>> first, second = crops_of(tiling, 50, (16, 16), 2, 4, seed=0)
    >>> first.box.shape, first.samples.shape, crops_of(tiling, 50, (16, 16), 9, 4, seed=0)[1].box == second.box
    ((16, 16), (4,), True)
    """
    crops = []
    for k in range(number):
        generator = np.random.default_rng([seed, k])
        samples = np.sort(generator.permutation(n_samples)[:each])
        for _ in range(_TRIES):
            start, stop = [], []
            for width, length, periodic in zip(side, tiling.lattice.shape, tiling.lattice.periodic, strict=True):
                cut = min(width, length)
                turns = periodic and cut < length
                start.append(int(generator.integers(length if turns else length - cut + 1)))
                stop.append(start[-1] + cut)
            box = Box(tuple(start), tuple(stop))
            if 2 * np.count_nonzero(_kept(tiling, box)) >= box.n_cells:
                break
        crops.append(Crop(box, samples))
    return crops


def samples_on(source: Source, codec: Codec, tiling: Tiling, boxes: Sequence[Box]) -> Samples:
    """Read the samples of all vertices in boxes that do not overlap, in double precision.

    Of one box the graph is `Tiling.graph_of`; of several it is the part of the whole graph, its vertices in order.

    Examples
    --------
    >>> from nearfield.data.codec import Codec
    >>> from nearfield.data.lazy import LazyData
    >>> x = np.random.default_rng(0).normal(size=(9, 6, 5))
    >>> source, codec = LazyData.of(x).source, Codec.fit(x)
    >>> samples_on(source, codec, Tiling.of(codec.graph), [Box((0, 0), (2, 3))]).graph
    DependencyGraph.grid((2, 3))
    """
    found = [source.read(box)[:, _kept(tiling, box)] for box in boxes]
    values = np.concatenate(found, axis=1).astype(np.float64)
    graph = tiling.graph_of(boxes[0])
    if len(boxes) > 1:
        vertices = np.concatenate([tiling.vertices(box) for box in boxes])
        values = values[:, np.argsort(vertices)]
        mask = np.zeros(tiling.graph.n_vertices, dtype=bool)
        mask[vertices] = True
        graph = tiling.graph.subgraph(mask)
    names = tuple(str(k if channel.name is None else channel.name) for k, channel in enumerate(codec.channels))
    return Samples(values, graph, ordered=codec.ordered, channels=names)


def _kept(tiling: Tiling, box: Box) -> Bool[ndarray, " cell"]:
    """Which cells of a box are vertices."""
    keep = tiling.graph.keep
    return np.ones(box.n_cells, dtype=bool) if keep is None else keep.reshape(-1)[tiling.cells(box)]
