"""A score of one law on a large lattice, evaluated tile by tile.

The score at a vertex reads the state within `radius` hops. On a box of cells that reaches so far beyond a tile, the
same law extended to the box alone gives the values of the tile exactly: where the box cuts the domain off, the cut is
out of reach of the tile, and where the box ends with the domain, it ends as the domain does. Boxes of one shape share
one score, and nearly all have one shape, so that a lattice of any size takes the memory of a box.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, final

import numpy as np
import torch
from torch import Tensor

from nearfield.graph import DependencyGraph, Lattice
from nearfield.graph.tiling import Box, BoxTiling, Tiling
from nearfield.score.base import Score

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Float

__all__ = ["LARGEST_WHOLE", "TiledScore", "extended_score", "is_tiled"]

LARGEST_WHOLE = 1 << 16
"""Most vertices of a lattice that scores are extended to whole: 256 x 256."""

_AnyScore = TypeVar("_AnyScore", bound=Score)


@final
class TiledScore(Score):
    """A score of one law on a whole lattice of any size.

    Samples are denoised one by one, tile by tile: the numbers of a tile are the same to the last bit in any batch and
    on any worker.

    Parameters
    ----------
    part : Score
        On a smaller whole lattice; of finite radius, with a method `extended`.
    graph : DependencyGraph
        The whole lattice that is tiled.
    shape, periodic : tuple
        Lengths of the lattice of `part`, and which of its axes are periodic: they are periodic on ``graph`` too. Axes
        with ends may become periodic ones, as for crops of a periodic field.
    side : tuple of int, optional
        Cells of a tile along each axis; by default tiles of one size have about 16,000.

    Attributes
    ----------
    tiling : BoxTiling

    Raises
    ------
    ValueError
        If the score reads the whole field, or the lattices differ in kind.

    Examples
    --------
    >>> from nearfield.score.hybrid import NetworkScore
    >>> from nearfield.score.stencil import StencilNetwork
    >>> chain = NetworkScore(StencilNetwork(DependencyGraph.chain(9), radius=2))
    >>> large = TiledScore(chain, DependencyGraph.chain(100_000), (9,), (False,))
    >>> len(large.tiling), large.tiling.box(1), large.box(1)
    (7, Box(start=(14286,), stop=(28572,)), Box(start=(14284,), stop=(28574,)))
    """

    settings = ("shape", "periodic", "side")

    def __init__(
        self,
        part: Score,
        graph: DependencyGraph,
        shape: tuple[int, ...],
        periodic: tuple[bool, ...],
        side: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self._fitted = self.graph_of_parts({"shape": shape, "periodic": periodic}, graph)
        lattice, fitted = graph.lattice, self._fitted.lattice
        if lattice is None or graph.keep is not None or len(shape) != len(lattice.shape):
            raise ValueError(f"graph must be a whole lattice of {len(shape)} axes, got {graph!r}")
        assert fitted is not None
        if any(one and not other for one, other in zip(fitted.periodic, lattice.periodic, strict=True)):
            raise ValueError(f"graph must be periodic where {self._fitted!r} is, got {graph!r}")
        if part.radius is None:
            raise ValueError(
                f"part must read a bounded window to be evaluated tile by tile, got a {type(part).__name__} that reads "
                "the whole field; fit method='hybrid' with a radius"
            )
        self.part, self.shape, self.periodic = part, fitted.shape, fitted.periodic
        self.radius: int = part.radius
        self.tiling = BoxTiling(graph, _even(graph) if side is None else tuple(side))
        self.side = self.tiling.side
        self.n_vertices, self.n_channels = len(graph), part.n_channels

    @classmethod
    def graph_of_parts(cls, settings: Mapping[str, Any], graph: Any) -> DependencyGraph:
        """Lattice of the smaller score."""
        diagonal = graph.lattice is not None and graph.lattice.diagonal
        return DependencyGraph(lattice=Lattice(tuple(settings["shape"]), tuple(settings["periodic"]), diagonal))

    def box(self, tile: int) -> Box:
        """Cells that the score on a tile is computed from: the tile, those within reach, and some more for one shape.

        Where axes with ends have become periodic ones, the box goes beyond the ends of the lattice.
        """
        own, start, stop = self.tiling.box(tile), [], []
        axes = zip(own.start, own.stop, self.side, self.tiling.lattice.shape, strict=True)
        for axis, (begin, end, side, length) in enumerate(axes):
            low, size = begin - self.radius, max(side, end - begin) + 2 * self.radius
            if not self.tiling.lattice.periodic[axis]:
                size = min(size, length)
                low = min(max(low, 0), length - size)
            elif self.periodic[axis] and size >= length:
                low, size = 0, length
            start.append(low)
            stop.append(low + size)
        return Box(tuple(start), tuple(stop))

    def on_box(self, box: Box) -> Score:
        """Return the score on a box."""
        if box.shape not in self._parts:
            onto = DependencyGraph(lattice=Lattice(box.shape, self.periodic, self.tiling.lattice.diagonal))
            with torch.inference_mode(mode=False):  # kept for any use
                self._parts[box.shape] = self.part.extended(self._fitted, onto)
        return self._parts[box.shape]

    @cached_property
    def _parts(self) -> dict[tuple[int, ...], Score]:
        """Scores on boxes in use, by shape."""
        return {}

    def denoise_tile(
        self, tile: int, values: Float[Tensor, "1 box_vertex channel"], t: float
    ) -> Float[Tensor, "1 vertex channel"]:
        """Denoise a tile, given the state of one sample on its box."""
        box = self.box(tile)
        inside = torch.from_numpy(np.flatnonzero(self.tiling.within(self.tiling.box(tile), box))).to(values.device)
        return self.on_box(box).denoise(values, t)[:, inside]

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Denoise tile by tile."""
        out = torch.empty_like(x)
        for k in range(len(x)):
            time = float(t[k]) if isinstance(t, Tensor) else t
            for tile in range(len(self.tiling)):
                own, read = (
                    torch.from_numpy(self.tiling.cells(box)).to(x.device)
                    for box in (self.tiling.box(tile), self.box(tile))
                )
                out[k : k + 1, own] = self.denoise_tile(tile, x[k : k + 1, read], time)
        return out

    @property
    def numbers_per_sample(self) -> int:
        """Those of the states, and of the score on a box."""
        return super().numbers_per_sample + self.on_box(self.box(0)).numbers_per_sample

    def extended(self, graph: DependencyGraph, onto: DependencyGraph) -> TiledScore:  # noqa: ARG002
        """Return the score on another lattice, with tiles of its own."""
        return TiledScore(self.part, onto, self.shape, self.periodic)


def is_tiled(score: Score, graph: DependencyGraph, onto: DependencyGraph) -> bool:
    """Whether a score is extended tile by tile: to large lattices, and where axes with ends become periodic ones."""
    if graph.lattice is None or onto.lattice is None or score.radius is None or isinstance(score, TiledScore):
        return False
    return len(onto) > LARGEST_WHOLE or graph.lattice.periodic != onto.lattice.periodic


def extended_score(score: _AnyScore, graph: DependencyGraph, onto: DependencyGraph) -> _AnyScore | TiledScore:
    """Extend a score, tile by tile or whole."""
    if not is_tiled(score, graph, onto):
        return score.extended(graph, onto)
    assert graph.lattice is not None
    return TiledScore(score, onto, graph.lattice.shape, graph.lattice.periodic)


def _even(graph: DependencyGraph) -> tuple[int, ...]:
    """Side of tiles that differ little in size."""
    most = Tiling.of(graph)
    assert isinstance(most, BoxTiling)
    return tuple(-(-length // -(-length // side)) for length, side in zip(most.lattice.shape, most.side, strict=True))
