"""Kernels of windows: distances of states as each vertex sees them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, final

import torch

from nearfield.graph import DependencyGraph

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["Windows"]

_NUMBERS = 2**22  # entries of kernels that are held at once


@final
class Windows:
    """Windows of all vertices within some hops; None for the whole field.

    Examples
    --------
    >>> windows = Windows(DependencyGraph.chain(3), 1)
    >>> x, y = torch.zeros(1, 3, 1), torch.ones(1, 3, 1)
    >>> windows.distances(x, y, torch.arange(3)).flatten().tolist()
    [2.0, 3.0, 2.0]
    """

    def __init__(self, graph: DependencyGraph, radius: int | None) -> None:
        self._n, self._whole = len(graph), radius is None
        if radius is None:
            self.index, self.present = torch.arange(self._n)[None], torch.ones(1, self._n, dtype=torch.bool)
        else:
            table = graph.neighborhood(radius)
            self.index, self.present = torch.tensor(table.index), torch.tensor(table.present)

    def gather(
        self, x: Float[Tensor, "sample vertex channel"], vertices: Tensor
    ) -> Float[Tensor, "chunk sample entry"]:
        """Values of the windows of some vertices; absent ones are 0."""
        rows = vertices[:1] * 0 if self._whole else vertices
        return torch.where(self.present[rows, :, None], x[:, self.index[rows]], 0.0).flatten(2).transpose(0, 1)

    def distances(
        self, x: Float[Tensor, "a vertex channel"], y: Float[Tensor, "b vertex channel"], vertices: Tensor
    ) -> Float[Tensor, "chunk a b"]:
        """Squared distances of the windows of some vertices."""
        one, other = self.gather(x, vertices), self.gather(y, vertices)
        square = one.square().sum(-1)[:, :, None] + other.square().sum(-1)[:, None]
        distance = torch.baddbmm(square, one, other.mT, alpha=-2).clamp(min=0)
        return distance.expand(len(vertices), -1, -1)

    def chunks(self, pairs: int) -> Iterator[Tensor]:
        """Vertices whose distances of so many pairs of states are held at once."""
        yield from torch.arange(self._n).split(max(1, _NUMBERS // pairs))
